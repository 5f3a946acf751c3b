//! SELECT … LIMIT … FOR UPDATE: what finds its rows, and what locks them.

use std::ops::Range;

use super::from::find;
use super::splice::Clauses;
use super::{Plan, Planner, is_one, refuse};
use crate::catalog::{Table, TableKind};
use crate::error::PgError;
use crate::merge::{ColumnAt, MergeSpec, SortKey};
use crate::plan::locked::{BEFORE_KEY, HELD, KEYS, Lock, PAGE, SHARD, Wait};
use crate::plan::{Access, Combine, Scope};
use crate::sql::name::quoted;
use crate::sql::parse::parse;
use crate::sql::parse::tree::{
    Body, Expr, From, JoinKind, Kind, Query, Select, Stmt, SubForm, Wait as Written,
};

/// A table of FROM: how columns name it, and what it is.
type Named<'a> = (String, &'a Table);

/// The parts of a rewrite.
struct Rewrite<'a> {
    spec: &'a MergeSpec,
    /// The statement that each shard would run, taken apart.
    query: Query,
    /// The key's columns.
    key: Vec<String>,
}

impl Planner<'_> {
    /// The plan of a SELECT with LIMIT that locks its rows, or of one around such a SELECT.
    pub(super) fn locking(&self, query: &Query, range: &Range<usize>) -> Option<Plan> {
        match query.has_locks {
            true => self.locked(query, range),
            false => self.picked(range),
        }
    }

    fn locked(&self, query: &Query, range: &Range<usize>) -> Option<Plan> {
        let Body::Select(select) = &query.body else { return None };
        let mut analyzer = self.analyzer(range);
        analyzer.wants_merge = true;
        analyzer.finds_first = true;
        analyzer.query(query);
        let facts = &analyzer.facts;
        let acts = facts.modifies || facts.has_advisory || facts.set_configs > 0;
        let elsewhere = facts.has_home || facts.needs_home || facts.not_fanned.is_some();
        if facts.is_refused() || acts || elsewhere || facts.pin.is_some() {
            return None;
        }
        let spec = match analyzer.merged.take()? {
            Ok(spec) if spec.group.is_none() && !spec.distinct => spec,
            Ok(_) => return None,
            Err(error) => return Some(Plan::refused(error)),
        };
        let lock = match self.lock_of(query, select, &spec) {
            Ok(lock) => Combine::Lock(Box::new(lock)),
            Err(error) => return Some(Plan::refused(error)),
        };
        Some(match analyzer.graph.confined() {
            Ok(keys) if is_one(&keys) => return None,
            Ok(keys) => Plan::combined(Access::Write, Scope::Keys { keys, with_home: false }, lock),
            Err(_) => Plan::combined(Access::Write, Scope::All, lock),
        })
    }

    fn lock_of(&self, query: &Query, select: &Select, spec: &MergeSpec) -> Result<Lock, PgError> {
        if self.sql.contains("sluice_") {
            return Err(unclear("It uses names of the proxy's own."));
        }
        let mut tables = Vec::new();
        for item in &select.from {
            self.tables_of_from(item, &mut tables)?;
        }
        let (mut key, mut types, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (alias, table) in &tables {
            if table.primary_key.is_empty() {
                return Err(locks(&format!("{alias} has no primary key to find its rows by."))
                    .hint("Add a primary key, or name one tenant in WHERE or SET sluice.tenant."));
            }
            for at in &table.primary_key {
                let column = &table.columns[*at];
                key.push(format!("{}.{}", quoted(alias), quoted(&column.name)));
                types.push(column.sql_type.name.clone());
            }
            held.push(is_held(&quoted(alias)));
        }
        let wait = match query.wait {
            Written::Block => Wait::Block { skip: String::new() },
            Written::Skip => Wait::Skip,
            Written::Fail => Wait::Fail,
            Written::Mixed => {
                return Err(locks("Its clauses differ in whether they wait for locks."));
            }
        };
        let sent = parse(&spec.shard_sql).ok().and_then(|it| it.into_iter().next());
        let Some(Stmt::Query(sent)) = sent.map(|it| it.kind) else { return Err(unclear(PARTS)) };
        let rewrite = Rewrite { spec, query: *sent, key };
        let find = rewrite.find()?;
        let lock = rewrite.lock(false)?;
        let wait = match wait {
            Wait::Block { .. } => Wait::Block { skip: rewrite.lock(true)? },
            other => other,
        };
        let hidden = spec.hidden + types.len();
        let (limit, offset) = (spec.limit, spec.offset);
        let held = held.join(" OR ");
        Ok(Lock { find, lock, held, key: types, hidden, limit, offset, wait })
    }

    /// The tables of FROM, each of which has a row of its own in every row of the answer.
    fn tables_of_from<'b>(
        &'b self,
        item: &From,
        found: &mut Vec<Named<'b>>,
    ) -> Result<(), PgError> {
        match item {
            From::Table { name, alias, .. } => {
                let table = find(self.catalog, &self.path(), name).filter(|it| {
                    matches!(it.kind, TableKind::Sharded { .. } | TableKind::Reference)
                });
                let renamed = alias.as_ref().is_some_and(|it| !it.columns.is_empty());
                let Some(table) = table.filter(|_| !renamed) else {
                    return Err(locks(&format!("{} is not a table of its own.", name.name)));
                };
                let alias = alias.as_ref().map_or(&name.name, |it| &it.name);
                found.push((alias.clone(), table));
                Ok(())
            }
            From::Join(join) if join.kind == JoinKind::Inner && join.alias.is_none() => {
                self.tables_of_from(&join.left, found)?;
                self.tables_of_from(&join.right, found)
            }
            _ => Err(locks("It reads from more than tables and inner joins of them.")),
        }
    }
}

/// Whether a row of the table was locked or changed by a transaction that is not over. Row locks are in `xmax`, which
/// has the lower half of a transaction's number; nobody relies on the answer.
fn is_held(table: &str) -> String {
    format!(
        "CASE WHEN {table}.xmax::text = '0' THEN false ELSE (SELECT CASE WHEN d = 0 OR d > 2147483647 THEN true \
         ELSE coalesce(pg_catalog.txid_status(greatest(n - d, 3)) = 'in progress', false) END \
         FROM (SELECT n, (n - {table}.xmax::text::int8) & 4294967295 AS d \
         FROM (SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()) AS n) a) b) END"
    )
}

impl Rewrite<'_> {
    fn clauses(&self) -> Result<Clauses<'_>, PgError> {
        let sql = &self.spec.shard_sql;
        Clauses::of(sql, &(0..sql.len())).ok_or_else(|| unclear(PARTS))
    }

    /// The key as text, at the end of a target list.
    fn keys(&self) -> String {
        let key = |(i, it): (usize, &String)| format!(", {it}::text AS sluice_k{}", i + 1);
        self.key.iter().enumerate().map(key).collect()
    }

    /// What finds rows.
    fn find(&self) -> Result<MergeSpec, PgError> {
        let clauses = self.clauses()?;
        let mut edits = Vec::new();
        for word in ["limit", "offset", "fetch", "for"] {
            edits.extend(clauses.bytes(word).map(|it| (it, String::new())));
        }
        let at = clauses.end_of_targets().ok_or_else(|| unclear(PARTS))?;
        edits.push((at..at, format!("{}, {HELD} AS sluice_held", self.keys())));
        let inner = clauses.apply(edits).ok_or_else(|| unclear(PARTS))?;
        let mut expected = self.query.clone();
        (expected.limit, expected.offset, expected.has_locks) = (None, None, false);
        expected.wait = Written::default();
        self.check(&inner, &expected)?;
        let mut columns = vec![format!("{SHARD}::int4"), "s.sluice_held".to_owned()];
        columns.extend((1..=self.key.len()).map(|i| format!("s.sluice_k{i}")));
        debug_assert_eq!(columns.len(), BEFORE_KEY + self.key.len());
        let (mut sort, mut visible) = (Vec::new(), 0);
        for key in &self.spec.sort {
            let name = match key.column {
                ColumnAt::Visible(at) => {
                    visible = visible.max(at + 1);
                    format!("s.sluice_v{}", at + 1)
                }
                ColumnAt::Hidden(at) => format!("s.sluice_{}", at + 1),
            };
            sort.push(SortKey { column: ColumnAt::Visible(columns.len()), ..key.clone() });
            columns.push(name);
        }
        let names: Vec<String> = (1..=visible).map(|i| format!("sluice_v{i}")).collect();
        let names = if visible == 0 { String::new() } else { format!("({})", names.join(", ")) };
        let shard_sql =
            format!("SELECT {} FROM ({inner}\nLIMIT {PAGE}) AS s{names}", columns.join(", "));
        Ok(MergeSpec { shard_sql, sort, ..MergeSpec::default() })
    }

    /// What locks rows with certain keys.
    fn lock(&self, skips: bool) -> Result<String, PgError> {
        let clauses = self.clauses()?;
        let mut edits = Vec::new();
        for word in ["limit", "offset", "fetch"] {
            edits.extend(clauses.bytes(word).map(|it| (it, String::new())));
        }
        let at = clauses.end_of_targets().ok_or_else(|| unclear(PARTS))?;
        edits.push((at..at, self.keys()));
        let condition = format!("({}) IN ({KEYS})", self.key.join(", "));
        let Body::Select(select) = &self.query.body else { return Err(unclear(PARTS)) };
        match (clauses.bytes("where"), &select.filter) {
            (Some(bytes), Some(_)) => {
                let start = bytes.start + "where".len();
                edits.push((start..start, " (".to_owned()));
                edits.push((bytes.end..bytes.end, format!("\n) AND {condition}")));
            }
            _ => {
                let from = clauses.bytes("from").ok_or_else(|| unclear(PARTS))?;
                edits.push((from.end..from.end, format!(" WHERE {condition}")));
            }
        }
        let mut expected = self.query.clone();
        (expected.limit, expected.offset) = (None, None);
        if skips {
            let end = clauses.bytes("for").ok_or_else(|| unclear(PARTS))?.end;
            edits.push((end..end, " SKIP LOCKED".to_owned()));
            expected.wait = Written::Skip;
        }
        let text = clauses.apply(edits).ok_or_else(|| unclear(PARTS))?;
        // As a list of values it can be parsed.
        self.check(&text.replacen(KEYS, "VALUES (1)", 1), &expected)?;
        Ok(text)
    }

    /// Checks a text against the query that it must mean, but for the key's columns and the condition on it.
    fn check(&self, text: &str, expected: &Query) -> Result<(), PgError> {
        let parsed = parse(text).ok().and_then(|it| it.into_iter().next());
        let Some(Stmt::Query(mut found)) = parsed.map(|it| it.kind) else {
            return Err(unclear(PARTS));
        };
        let Body::Select(own) = &self.query.body else { return Err(unclear(PARTS)) };
        if let Body::Select(select) = &mut found.body {
            select.targets.truncate(own.targets.len());
            if let Some(filter) = select.filter.take() {
                select.filter = without_key(filter, own.filter.as_ref());
            }
        }
        match *found == *expected {
            true => Ok(()),
            false => Err(unclear(PARTS)),
        }
    }
}

/// A filter without its last conjunct, if that is the one on the key.
fn without_key(filter: Expr, own: Option<&Expr>) -> Option<Expr> {
    let is_key = |it: &Expr| matches!(&it.kind, Kind::Sub(sub) if sub.form == SubForm::Any);
    match filter.kind {
        _ if own == Some(&filter) => Some(filter),
        Kind::Sub(_) if is_key(&filter) => None,
        Kind::And(mut all) if all.last().is_some_and(is_key) => {
            all.pop();
            let first = all.first().cloned()?;
            if all.len() == 1 {
                Some(first)
            } else {
                Some(Expr { kind: Kind::And(all), at: filter.at })
            }
        }
        kind => Some(Expr { kind, at: filter.at }),
    }
}

const PARTS: &str = "The proxy cannot find the parts to change in its text.";

pub(super) fn locks(detail: &str) -> PgError {
    refuse::over_shards("FOR UPDATE or SHARE with LIMIT, or in a subquery,", detail)
}

fn unclear(detail: &str) -> PgError {
    PgError::refused("the statement cannot be rewritten for several shards")
        .detail(detail)
        .hint("Write it as a plain SELECT without parentheses around it.")
}
