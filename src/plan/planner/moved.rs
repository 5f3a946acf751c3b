//! UPDATE of the tenant column.

use std::ops::Range;

use super::gather::Gathering;
use super::walk::Analyzer;
use crate::catalog::{ColumnDefault, Table, TableKind};
use crate::plan::gather::NOW;
use crate::plan::moved::Move;
use crate::plan::scatter::Insertion;
use crate::sql::name::quoted;
use crate::sql::parse::tokens::{Token, TokenKind, tokens};
use crate::sql::parse::tree::{Assign, Kind, Literal, Update};

/// The parts of the text.
struct Parts {
    /// Up to WHERE.
    head: Range<usize>,
    /// The expressions of SET, in order.
    set: Vec<Range<usize>>,
    filter: Option<Range<usize>>,
    returning: Range<usize>,
}

/// The plan of an UPDATE that was looked at with [`Analyzer::moves`].
pub(super) fn moved(
    analyzer: &Analyzer<'_>,
    gathering: &Gathering,
    (it, table): (&Update, &Table),
    sql: &str,
    range: &Range<usize>,
) -> Option<Move> {
    let TableKind::Sharded { column, key } = table.kind else { return None };
    let parts = parts(sql, range, it)?;
    let alias = it.alias.as_ref().map_or(&it.table.name, |it| &it.name);
    let exprs: Option<Vec<String>> =
        parts.set.iter().map(|range| gathering.part(range.clone())).collect();
    let exprs = exprs?;
    let stored: Vec<usize> = (0..table.columns.len())
        .filter(|i| table.columns[*i].default != ColumnDefault::Generated)
        .collect();
    let value = |i: &usize| {
        let column = &table.columns[*i];
        match it.set.iter().position(|it| it.column == column.name) {
            Some(at) => typed(analyzer, &it.set[at], &exprs[at], table, *i),
            None => Some(format!("{}.{}", quoted(alias), quoted(&column.name))),
        }
    };
    let values: Option<Vec<String>> = stored.iter().map(value).collect();
    let scalar = table.columns[column].sql_type.scalar.as_ref()?;
    let key_text = format!("({})::{scalar}::text", value(&column)?);
    let names: Vec<String> = stored.iter().map(|i| quoted(&table.columns[*i].name)).collect();
    let schema = it.table.schema.as_ref().map(|it| format!("{}.", quoted(it))).unwrap_or_default();
    let name = format!("{schema}{}", quoted(&it.table.name));
    let target = format!("{name} AS {}", quoted(alias));
    let tail = gathering.part(parts.returning)?;
    let filter = match parts.filter {
        Some(range) => Some(gathering.part(range)?),
        None => None,
    };
    let insertion = Insertion {
        width: stored.len(),
        key,
        before: format!("INSERT INTO {target} ({}) OVERRIDING SYSTEM VALUE", names.join(", ")),
        asks_time: tail.contains(NOW),
        after: tail.clone(),
        is_ordered: false,
    };
    Some(Move {
        head: gathering.part(parts.head)?,
        filter,
        tail,
        target,
        values: values?,
        key: key_text,
        asks_time: gathering.asks_time(),
        table: name,
        insertion,
    })
}

/// The text of a new value: of the column's type if it has none of its own.
fn typed(
    analyzer: &Analyzer<'_>,
    assign: &Assign,
    text: &str,
    table: &Table,
    column: usize,
) -> Option<String> {
    let is_untyped = match &assign.expr.kind {
        Kind::Literal(Literal::Text(_) | Literal::Null) => true,
        Kind::Param(n) => analyzer.param_types.get(n - 1).is_none_or(|it| *it == 0),
        Kind::Default => return None,
        _ => false,
    };
    let ty = &table.columns[column].sql_type;
    let name = ty.scalar.as_ref().unwrap_or(&ty.name);
    Some(if is_untyped { format!("({text}\n)::{name}") } else { format!("({text}\n)") })
}

/// `UPDATE name [AS alias] SET column = expr, … [WHERE …] [RETURNING …]`.
fn parts(sql: &str, range: &Range<usize>, it: &Update) -> Option<Parts> {
    let tokens = tokens(sql, range);
    let outer = |word: &str| tokens.iter().position(|it| it.depth == 0 && it.is(word));
    // A comment may follow the last token.
    let last = tokens.last()?.range.end;
    let start = |at: usize| tokens.get(at).map_or(last, |it| it.range.start);
    let set = outer("set")?;
    // ONLY, and `*` after the name.
    if !tokens.first()?.is("update")
        || tokens.get(1)?.is("only")
        || sql[range.start..start(set)].contains('*')
    {
        return None;
    }
    let returning = match it.returning.is_empty() {
        true => tokens.len(),
        false => tokens.iter().rposition(|it| it.depth == 0 && it.is("returning"))?,
    };
    let filter = it.filter.as_ref().map(|_| outer("where").filter(|it| *it < returning));
    let filter = match filter {
        Some(at) => Some(at?),
        None => None,
    };
    let end = filter.unwrap_or(returning);
    let exprs = set_items(tokens.get(set + 1..end)?)?;
    if exprs.len() != it.set.len() {
        return None;
    }
    Some(Parts {
        head: range.start..start(end),
        set: exprs,
        filter: filter.map(|at| tokens[at].range.end..start(returning)),
        returning: start(returning)..last,
    })
}

/// The expressions of `column = expr, …`; `None` if a column is subscripted or there are several at once.
fn set_items(tokens: &[Token]) -> Option<Vec<Range<usize>>> {
    let items = tokens.split(|it| it.depth == 0 && it.kind == TokenKind::Comma);
    let item = |item: &[Token]| {
        let is_plain = item.get(1)?.kind == TokenKind::Other && item[1].range.len() == 1;
        let first = item.first()?;
        let expr = item.get(2)?.range.start..item.last()?.range.end;
        (is_plain && first.kind != TokenKind::Open).then_some(expr)
    };
    items.map(item).collect()
}
