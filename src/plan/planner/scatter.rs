//! INSERT whose rows' tenants are not told by its text: one server computes the rows, and each goes to the
//! shard of its tenant.

use std::ops::Range;

use super::gather::Gathering;
use super::walk::Analyzer;
use super::write::{column_list, plain_values};
use crate::catalog::{Table, TableKind};
use crate::plan::gather::NOW;
use crate::plan::scatter::{Insertion, Scatter};
use crate::shard::KeyType;
use crate::sql::name::quoted;
use crate::sql::parse::tokens::{Token, TokenKind, tokens};
use crate::sql::parse::tree::{Body, Conflict, Expr, Insert, Kind, Literal, Query, Target};

/// What is known of the rows after a look at them.
pub(super) struct Rows {
    columns: Vec<String>,
    /// Columns that are left out, and what they then get: the time.
    dated: Vec<(String, String)>,
    /// The position of the tenant column in `columns`, its name of the type, and its kind.
    key: (usize, String, KeyType),
    needs_home: bool,
}

/// The parts of the text.
struct Parts {
    /// WITH and what follows it.
    with: Range<usize>,
    /// Up to the list of columns, without it.
    before: Range<usize>,
    /// OVERRIDING … VALUE.
    overriding: Range<usize>,
    source: Range<usize>,
    after: Range<usize>,
}

impl Analyzer<'_> {
    /// Looks at an INSERT into a sharded table, its rows being computed apart. `None` if that cannot be.
    pub(super) fn scatter(&mut self, it: &Insert) -> Option<Rows> {
        let source = it.source.as_ref()?;
        self.enter();
        self.facts.modifies = true;
        let (rel, table) = self.write_target(&it.table, it.alias.as_ref());
        let table = table.cloned()?;
        let TableKind::Sharded { column, key } = table.kind else { return None };
        let type_name = table.columns[column].sql_type.scalar.clone()?;
        if let Some(conflict) = &it.conflict {
            self.check_conflict(conflict, &table, column, &it.table);
        }
        let before = (self.graph.sharded_len(), self.facts.has_home, self.facts.needs_home);
        self.insert_rest(it, rel);
        let after = (self.graph.sharded_len(), self.facts.has_home, self.facts.needs_home);
        if before != after {
            return None;
        }
        self.with(it.with.as_ref());
        let outcome = self.query(source);
        self.without(it.with.as_ref());
        self.leave();
        let width = match (plain_values(source), outcome.complete) {
            (Some(rows), _) => rows.first()?.len(),
            (None, true) => outcome.cols.len(),
            (None, false) if !it.columns.is_empty() => it.columns.len(),
            (None, false) => table.columns.len(),
        };
        let mut columns = column_list(it, &table);
        columns.truncate(width);
        let at = columns.iter().position(|it| *it == table.columns[column].name)?;
        // What the source varies in varies once; what shards fill in must be alike.
        self.facts.not_fanned = None;
        self.facts.dated.clear();
        let listed = Insert { columns: columns.clone(), ..it.clone() };
        self.check_left_out(&listed, &table, &columns, true);
        if self.facts.not_fanned.is_some() {
            return None;
        }
        self.type_literals(source, &columns, &table, width)?;
        let needs_home = self.facts.has_home || self.facts.needs_home;
        let dated = std::mem::take(&mut self.facts.dated);
        Some(Rows { columns, dated, key: (at, type_name, key), needs_home })
    }

    /// Literals and parameters without a type are of the columns' types.
    fn type_literals(
        &mut self,
        source: &Query,
        columns: &[String],
        table: &Table,
        width: usize,
    ) -> Option<()> {
        let items: Vec<(usize, &Expr)> = match (&source.body, plain_values(source)) {
            (_, Some(rows)) => rows.iter().flat_map(|row| row.iter().enumerate()).collect(),
            (Body::Select(select), _) => placed(&select.targets, width),
            _ => Vec::new(),
        };
        for (i, expr) in items {
            let is_untyped = match &expr.kind {
                Kind::Literal(Literal::Text(_) | Literal::Null) => true,
                Kind::Param(n) => self.param_types.get(n - 1).is_none_or(|it| *it == 0),
                Kind::Default => return None,
                _ => false,
            };
            if is_untyped {
                let column = &table.columns[table.column(columns.get(i)?)?];
                let ty = &column.sql_type;
                let name = ty.scalar.as_ref().unwrap_or(&ty.name);
                self.gathering.as_mut()?.append(expr.at, &format!("::{name}"))?;
            }
        }
        Some(())
    }
}

/// Items of a target list with their positions among the columns.
fn placed(targets: &[Target], width: usize) -> Vec<(usize, &Expr)> {
    let is_star = |it: &&Target| matches!(it.expr.kind, Kind::Star(_));
    let exprs = || targets.iter().enumerate().map(|(i, it)| (i, &it.expr));
    let stars = targets.iter().filter(is_star).count();
    let first = targets.iter().position(|it| is_star(&it)).unwrap_or(targets.len());
    match stars {
        0 => exprs().collect(),
        // Those behind it are counted from the end.
        1 if width >= targets.len() - 1 => exprs()
            .filter(|(i, _)| *i != first)
            .map(|(i, it)| if i < first { (i, it) } else { (i + width - targets.len(), it) })
            .collect(),
        _ => exprs().take(first).collect(),
    }
}

/// The plan of the rows.
pub(super) fn scattered(
    gathering: Gathering,
    rows: Rows,
    it: &Insert,
    sql: &str,
    range: &Range<usize>,
) -> Option<Scatter> {
    let parts = parts(sql, range, it)?;
    let Rows { columns, dated, key: (at, type_name, key), needs_home } = rows;
    let names: Vec<String> = (1..=columns.len()).map(|n| format!("c{n}")).collect();
    let mut values = format!("0::int2, s.{}", names.join(", s."));
    let mut list: Vec<String> = columns.iter().map(|it| quoted(it)).collect();
    for (column, default) in dated {
        values.push_str(&format!(", ({default})"));
        list.push(column);
    }
    let select = format!("SELECT {values}, s.{}::{type_name}::text FROM (", names[at]);
    let text = |range: &Range<usize>| sql.get(range.clone());
    let before =
        format!("{}({}) {}", text(&parts.before)?, list.join(", "), text(&parts.overriding)?);
    let after = gathering.part(parts.after)?;
    let asks_time = after.contains(NOW);
    let source = [parts.with, parts.source];
    let end = format!("\n) AS s({})", names.join(", "));
    let source = gathering.computed(&source, (&select, &end), needs_home).ok()?;
    let insertion = Insertion {
        asks_time: source.asks_time && asks_time,
        width: list.len(),
        key,
        before,
        after,
        is_ordered: it.conflict.as_ref().is_none_or(updates_all),
    };
    Some(Scatter { source, insertion })
}

/// Whether every row that meets another one changes it, so that each row given is returned.
pub(super) fn updates_all(it: &Conflict) -> bool {
    it.set.is_some() && it.filter.is_none()
}

/// `INSERT INTO name [AS alias] [(columns)] [OVERRIDING … VALUE] query [ON CONFLICT …] [RETURNING …]`.
fn parts(sql: &str, range: &Range<usize>, it: &Insert) -> Option<Parts> {
    let tokens = tokens(sql, range);
    let outer = |it: &Token, word: &str| it.depth == 0 && it.is(word);
    let insert = tokens.iter().position(|it| outer(it, "insert"))?;
    let mut at = insert + 2;
    let is_dot = |at: usize| tokens.get(at).is_some_and(|it| it.kind == TokenKind::Dot);
    while is_dot(at + 1) {
        at += 2;
    }
    at += 1;
    if it.alias.is_some() {
        at += 2;
    }
    // A comment may follow the last token.
    let last = tokens.last()?.range.end;
    let start = |at: usize| tokens.get(at).map(|it| it.range.start);
    let before = start(insert)?..start(at)?;
    if !it.columns.is_empty() {
        let close = |it: &Token| it.depth == 0 && it.kind == TokenKind::Close;
        at += tokens.get(at..)?.iter().position(close)? + 1;
    }
    let mut overriding = start(at)?..start(at)?;
    if tokens.get(at)?.is("overriding") {
        at += 3;
        overriding.end = start(at)?;
    }
    let rest = tokens.get(at..)?;
    let conflict = it.conflict.as_ref().and_then(|_| {
        rest.windows(2).rposition(|two| outer(&two[0], "on") && two[1].is("conflict"))
    });
    let returning = match it.returning.is_empty() {
        true => None,
        false => rest.iter().rposition(|it| outer(it, "returning")),
    };
    let after = conflict.or(returning).and_then(|it| start(at + it)).unwrap_or(last);
    let source = start(at)?..after;
    Some(Parts {
        with: tokens.first()?.range.start..start(insert)?,
        before,
        overriding,
        source,
        after: after..last,
    })
}
