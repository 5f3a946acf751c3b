//! `nextval`, `setval` and `currval` of sequences that shards share.

use std::ops::Range;

use super::walk::Analyzer;
use super::{Planner, functions, refuse};
use crate::catalog::sequence::Name;
use crate::catalog::{Catalog, FunctionKind, Volatility};
use crate::error::PgError;
use crate::plan::{Access, Action, Combine, PlacedOver, Placing, Plan, Run, Scope};
use crate::sql::parse::parse;
use crate::sql::parse::tokens::{Token, TokenKind, tokens};
use crate::sql::parse::tree::{
    Body, Call, Distinct, Expr, Kind, Literal, Query, Statement, Stmt, TableName,
};

/// What is known of the sequence that an argument names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Every shard gives numbers of its own of it.
    Shared,
    /// The home shard's counts.
    Apart,
    /// Made in the session, or computed.
    Unknown,
}

/// The sequence that an argument of `nextval` and the like names.
pub(super) fn standing(catalog: &Catalog, path: &[String], arg: Option<&Expr>) -> Standing {
    let Some(name) = arg.and_then(named) else { return Standing::Unknown };
    let schemas: Vec<&String> = match &name.0 {
        Some(schema) => vec![schema],
        None => path.iter().collect(),
    };
    for schema in schemas {
        let full: Name = (schema.clone(), name.1.clone());
        if catalog.sequences.contains_key(&full) {
            return Standing::Shared;
        }
        if catalog.tables.contains_key(&full) {
            return Standing::Apart;
        }
    }
    Standing::Unknown
}

/// The schema and name in a literal, perhaps with a cast.
fn named(arg: &Expr) -> Option<(Option<String>, String)> {
    match &arg.kind {
        Kind::Cast(inner, _) => named(inner),
        Kind::Literal(Literal::Text(text)) => regclass(text),
        _ => None,
    }
}

/// Reads a name as `regclass` does.
fn regclass(text: &str) -> Option<(Option<String>, String)> {
    let mut parts = vec![String::new()];
    let mut letters = text.trim().chars().peekable();
    let mut is_quoted = false;
    while let Some(letter) = letters.next() {
        let part = parts.last_mut()?;
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => {
                letters.next();
                part.push('"');
            }
            '"' => is_quoted = !is_quoted,
            '.' if !is_quoted => parts.push(String::new()),
            _ if is_quoted => part.push(letter),
            _ => part.push(letter.to_ascii_lowercase()),
        }
    }
    let name = parts.pop().filter(|it| !it.is_empty() && !is_quoted)?;
    match parts.len() {
        0 | 1 => Some((parts.pop(), name)),
        _ => None,
    }
}

impl Analyzer<'_> {
    /// Notes a call of a function of sequences; whether it may run on any shard.
    pub(super) fn sequence_call(&mut self, call: &Call) -> bool {
        let standing = standing(self.catalog, &self.path, call.args.first());
        let some = !self.catalog.sequences.is_empty();
        match (call.name.as_str(), standing) {
            ("nextval", Standing::Shared) => return true,
            ("nextval", _) => self.facts.has_home_number = true,
            ("setval", Standing::Shared | Standing::Unknown) => self.forbid(not_alone()),
            ("currval", Standing::Shared) => self.forbid(untold("currval")),
            ("currval", Standing::Unknown) if some && !is_literal(call) => {
                self.forbid(untold("currval of a computed name"));
            }
            ("lastval", _) if some => self.forbid(untold("lastval")),
            _ => (),
        }
        false
    }

    /// Whether a relation is a sequence that shards share.
    pub(super) fn is_shared_sequence(&self, name: &TableName) -> bool {
        let has = |schema: &String| {
            self.catalog.sequences.contains_key(&(schema.clone(), name.name.clone()))
        };
        let shared = &self.catalog.sequences;
        !shared.is_empty() && name.schema.as_ref().map_or(self.path.iter().any(has), has)
    }

    /// Refuses the statement, also in a session that has named its tenant.
    pub(super) fn forbid(&mut self, error: PgError) {
        self.facts.forbidden.get_or_insert(error);
    }
}

fn is_literal(call: &Call) -> bool {
    call.args.first().and_then(named).is_some()
}

impl Planner<'_> {
    /// Whether a text that the proxy does not look into may set a sequence.
    pub(super) fn says_setval(&self, range: &Range<usize>) -> bool {
        let text = self.sql.get(range.clone()).unwrap_or_default();
        text.to_ascii_lowercase().contains("setval")
    }

    /// `SELECT setval(…)` alone: every shard's sequence is set to its first number after that.
    pub(super) fn setval(&self, query: &Query, range: &Range<usize>) -> Option<Plan> {
        let Query { with: None, body: Body::Select(select), limit: None, offset: None, .. } = query
        else {
            return None;
        };
        let [target] = select.targets.as_slice() else { return None };
        let Kind::Call(call) = &target.expr.kind else { return None };
        let is_it = call.name == "setval"
            && call.schema.as_deref().is_none_or(|it| it == "pg_catalog")
            && matches!(call.args.len(), 2 | 3);
        let is_alone = select.group.is_empty()
            && select.having.is_none()
            && select.windows.is_empty()
            && select.distinct == Distinct::No
            && !select.into
            && query.order.is_empty();
        if !(self.sharded && is_it && is_alone) {
            return None;
        }
        let column = target.alias.clone().unwrap_or_else(|| "setval".to_owned());
        let has_rows = !select.from.is_empty() || select.filter.is_some();
        if has_rows || call.args.iter().any(reads_rows) {
            let one_row = !has_rows || call.args.iter().any(|it| self.aggregates(it));
            let over = self.placed_over(range).filter(|_| one_row);
            let Some(over) = over else { return Some(Plan::forbidden(not_alone())) };
            let placing = Placing { args: Vec::new(), column, over: Some(over) };
            let combine = Combine::Place(Box::new(placing));
            return Some(Plan::combined(Access::Write, Scope::All, combine));
        }
        let mut analyzer = self.analyzer(range);
        analyzer.enter();
        analyzer.exprs(&call.args);
        let facts = &analyzer.facts;
        let error = facts.forbidden.clone().or_else(|| facts.refusal.clone());
        if let Some(error) = error {
            return Some(Plan::forbidden(error));
        }
        let is_known = !analyzer.graph.has_sharded()
            && facts.volatility < Volatility::Volatile
            && !facts.has_unknown_function;
        let args = arguments(self.sql, range).filter(|it| is_known && it.len() == call.args.len());
        let Some(args) = args else { return Some(Plan::forbidden(not_alone())) };
        let combine = Combine::Place(Box::new(Placing { args, column, over: None }));
        Some(Plan::combined(Access::Write, Scope::All, combine))
    }

    /// Whether an aggregate is computed in it, apart from subqueries.
    fn aggregates(&self, expr: &Expr) -> bool {
        let is_it = |call: &Call| {
            let traits = functions::traits(self.catalog, &self.path(), call);
            call.over.is_none() && traits.is_some_and(|it| it.kind == FunctionKind::Aggregate)
        };
        matches!(&expr.kind, Kind::Call(call) if is_it(call))
            || expr.children().into_iter().any(|it| self.aggregates(it))
    }

    /// The read that gives the arguments of `setval`, which look at rows.
    fn placed_over(&self, range: &Range<usize>) -> Option<PlacedOver> {
        let args = arguments(self.sql, range)?;
        let (sequence, number) = (args.first()?, args.get(1)?);
        let called = args.get(2).map_or("true", String::as_str);
        let rest = self.sql.get(after_call(self.sql, range)?..range.end)?;
        let asked = format!(
            "SELECT (({sequence})::pg_catalog.regclass)::pg_catalog.oid::pg_catalog.text, \
             (({number})::pg_catalog.int8)::pg_catalog.text, \
             CASE WHEN ({called}) THEN 't' WHEN NOT ({called}) THEN 'f' END {rest}"
        );
        let statements = parse(&asked).ok()?;
        let [Statement { kind: Stmt::Query(query), range }] = statements.as_slice() else {
            return None;
        };
        let inner =
            Planner { catalog: self.catalog, sharded: true, session: self.session, sql: &asked };
        let mut analyzer = inner.analyzer(range);
        analyzer.query(query);
        let facts = &analyzer.facts;
        let acts = facts.modifies || facts.has_locks || facts.has_advisory || facts.set_configs > 0;
        let is_known = facts.volatility < Volatility::Volatile && !facts.has_unknown_function;
        let has_parameters = asked.contains('$');
        if acts || has_parameters || !is_known || facts.pin.is_some() || facts.is_refused() {
            return None;
        }
        let gather = match analyzer.graph.has_sharded() {
            false => None,
            true => match inner.gathered(query, range)?.action {
                Action::Run(Run { combine: Combine::Gather(gather), .. }) => Some(gather),
                _ => return None,
            },
        };
        Some(PlacedOver { asked, gather })
    }
}

/// Whether a subquery is in it.
fn reads_rows(expr: &Expr) -> bool {
    matches!(expr.kind, Kind::Sub(_)) || expr.children().into_iter().any(reads_rows)
}

/// Where FROM or WHERE of `SELECT setval(…) AS name FROM …` begins, or the text ends.
fn after_call(sql: &str, range: &Range<usize>) -> Option<usize> {
    let tokens = tokens(sql, range);
    let open = tokens.iter().position(|it| it.kind == TokenKind::Open)?;
    let clause = |it: &Token| (it.is("from") || it.is("where")) && it.depth == tokens[open].depth;
    let found = tokens[open + 1..].iter().find(|it| clause(it));
    Some(found.map_or(range.end, |it| it.range.start))
}

/// The texts of the arguments of `setval`.
fn arguments(sql: &str, range: &Range<usize>) -> Option<Vec<String>> {
    let tokens = tokens(sql, range);
    let open = tokens.iter().position(|it| it.kind == TokenKind::Open)?;
    let depth = tokens[open].depth;
    let (mut args, mut start) = (Vec::new(), tokens[open].range.end);
    for token in &tokens[open + 1..] {
        let is_end = token.kind == TokenKind::Close && token.depth == depth;
        if is_end || token.kind == TokenKind::Comma && token.depth == depth + 1 {
            args.push(sql.get(start..token.range.start)?.trim().to_owned());
            start = token.range.end;
        }
        if is_end {
            return Some(args);
        }
    }
    None
}

pub(super) fn not_alone() -> PgError {
    PgError::refused(
        "setval of a sequence of several shards is supported as SELECT setval(…) alone",
    )
    .detail("Each shard's sequence is set to a number of its own.")
    .hint("Read the number first, then SELECT setval('name', number).")
}

fn untold(what: &str) -> PgError {
    refuse::over_shards(what, "The number was given by the shard of the row.")
        .hint("Use INSERT … RETURNING, or take the number by SELECT nextval first.")
}

/// Not every shard is known to make ids of its own.
pub(super) fn no_ids() -> PgError {
    PgError::refused("sluice.unique_id() is not ready on every shard")
        .detail("A shard could not be asked, or the function could not be made there.")
        .hint("Let the user of the shards' URLs create schema sluice, and own what is in it.")
}

/// A sequence read as a table.
pub(super) fn not_read(name: &str) -> PgError {
    PgError::refused(format!("sequence {name} cannot be read as a table"))
        .detail("Every shard has its own, which stands at another number.")
        .hint("SELECT nextval takes a number; max() over the column tells the last one used.")
}

#[cfg(test)]
mod tests {
    use super::regclass;

    #[test]
    fn names_are_read_as_postgres_does() {
        let read = |text| regclass(text).map(|(schema, name)| (schema.unwrap_or_default(), name));
        let some = |schema: &str, name: &str| Some((schema.to_owned(), name.to_owned()));
        assert_eq!(read("Orders_Id_seq"), some("", "orders_id_seq"));
        assert_eq!(read("public.\"Or\"\"d.ers\""), some("public", "Or\"d.ers"));
        assert_eq!(read("a.b.c"), None);
        assert_eq!(read("\"open"), None);
        assert_eq!(read(""), None);
    }
}
