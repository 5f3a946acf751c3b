//! CREATE TABLE AS, SELECT INTO, CREATE MATERIALIZED VIEW.

use std::ops::Range;

use super::block::{Dist, Outcome};
use super::ddl::{Class, everywhere, shown};
use super::gather::Gathering;
use super::walk::{Analyzer, opaque};
use super::{Planner, Runs, refuse, session};
use crate::catalog::{Catalog, TableKind};
use crate::error::PgError;
use crate::plan::create_as::CreateAs as Making;
use crate::plan::gather::Gather;
use crate::plan::{Access, Combine, Plan, Scope};
use crate::shard::KeyType;
use crate::sql::parse::parse;
use crate::sql::parse::tokens::{Token, TokenKind, tokens};
use crate::sql::parse::tree::{CreateAs, Query, Statement, Stmt, TableName};

/// Where the rows of a materialized view are.
pub enum Stored {
    /// On the home shard.
    Home,
    /// On every shard those of its tenants; this column (0-based) tells which.
    Tenants(usize),
    /// Every shard has computed some, and nobody can tell which.
    Unclear(PgError),
}

/// Where the rows of a materialized view with this query are, its columns being called `columns` if there are any.
pub fn stored(text: &str, columns: &[String], catalog: &Catalog) -> Stored {
    let session = super::Session::default();
    let range = 0..text.trim_end().trim_end_matches(';').len();
    let planner = Planner { catalog, sharded: true, session: &session, sql: text };
    let unclear = || Stored::Unclear(opaque("the query of a materialized view"));
    let Ok(statements) = parse(text) else { return unclear() };
    let [Statement { kind: Stmt::Query(query), .. }] = statements.as_slice() else {
        return unclear();
    };
    planner.stored(query, columns, &range)
}

impl Planner<'_> {
    pub(super) fn create_as(&self, it: &CreateAs, range: &Range<usize>) -> Plan {
        let mut home = Plan::run(Access::Write, Scope::Home);
        home.is_shareable = false;
        home.changes_schema = self.sharded && !it.is_temporary;
        home.pin = it.is_temporary.then_some("temporary table");
        if !self.sharded {
            home.alters = !it.is_temporary;
            home.uses = session::executed(&it.query);
            return home;
        }
        let Stmt::Query(query) = &it.query else {
            return Plan::forbidden(opaque("CREATE TABLE AS EXECUTE"));
        };
        if it.is_materialized_view {
            return match self.stored(query, &it.columns, range) {
                Stored::Home if it.with_data && self.reads_home(query, range) => {
                    match without_data(self.sql, range) {
                        Some(text) => materialized(Some(text)),
                        None => Plan::forbidden(opaque("CREATE MATERIALIZED VIEW")),
                    }
                }
                Stored::Home => everywhere(),
                Stored::Tenants(_) => materialized(None),
                Stored::Unclear(error) => Plan::forbidden(error),
            };
        }
        if it.is_temporary
            && let Some(error) = self.hides(&it.table)
        {
            return Plan::forbidden(error);
        }
        let made = Parts::of(self.sql, range, it).map(|parts| self.made(it, &parts));
        let made = made.unwrap_or_else(|| Err(opaque("CREATE TABLE AS")));
        let plan = match made {
            Err(error) => return Plan::forbidden(error),
            Ok(_) if !it.with_data && !it.is_temporary => everywhere(),
            // The session's own server does it all.
            Ok(made) if it.is_temporary && (!it.with_data || made.source.fragments.is_empty()) => {
                home.clone()
            }
            Ok(made) => {
                let combine = Combine::CreateAs(Box::new(made));
                Plan { changes_schema: true, ..Plan::combined(Access::Write, Scope::All, combine) }
            }
        };
        Plan { changes_schema: home.changes_schema, pin: home.pin, ..plan }
    }

    /// How the table is made, and where its rows come from.
    fn made(&self, it: &CreateAs, parts: &Parts) -> Result<Making, PgError> {
        if [self.class_by_name(&it.table), self.class(&it.table)].contains(&Class::Reference) {
            return Err(refuse::over_shards(
                &format!("CREATE TABLE AS for reference table {}", it.table.name),
                "Its rows must be the same on every shard.",
            )
            .hint("CREATE TABLE first, then INSERT … SELECT."));
        }
        let statements = parse(&parts.query).map_err(|_| opaque("CREATE TABLE AS"))?;
        let [Statement { kind: Stmt::Query(query), range }] = statements.as_slice() else {
            return Err(opaque("CREATE TABLE AS"));
        };
        let planner = Planner { sql: &parts.query, ..*self };
        let bare = TableName { catalog: None, schema: None, name: it.table.name.clone() };
        Ok(Making {
            create: format!("{} {}\nWITH NO DATA", parts.head, parts.query),
            table: match it.is_temporary {
                true => format!("pg_temp.{}", shown(&bare)),
                false => shown(&it.table),
            },
            is_unqualified: !it.is_temporary && it.table.schema.is_none(),
            if_not_exists: it.if_not_exists,
            is_temporary: it.is_temporary,
            source: planner.rows_of(query, range)?,
        })
    }

    /// The rows of a query, computed on the home shard.
    fn rows_of(&self, query: &Query, range: &Range<usize>) -> Result<Gather, PgError> {
        let mut analyzer = self.analyzer(range);
        analyzer.gathering = Some(Gathering::new(self.sql, range.clone(), Runs::Read));
        analyzer.query(query);
        let facts = &mut analyzer.facts;
        if let Some(error) = facts.refusal.take().or(facts.forbidden.take()) {
            return Err(error);
        }
        let acts = facts.has_locks || facts.modifies || facts.has_advisory;
        if acts || facts.set_configs > 0 || facts.pin.is_some() {
            return Err(refuse::over_shards(
                "CREATE TABLE AS of a query with locks or settings",
                "Its rows are read first, and written then.",
            )
            .hint("CREATE TABLE first, then INSERT … SELECT."));
        }
        let is_apart = !analyzer.graph.has_sharded();
        let gathering = analyzer.gathering.take().ok_or_else(|| opaque("CREATE TABLE AS"))?;
        match is_apart {
            true => gathering.computed(std::slice::from_ref(range), ("", ""), true),
            false => gathering.finish(true),
        }
    }

    fn reads_home(&self, query: &Query, range: &Range<usize>) -> bool {
        let mut analyzer = self.analyzer(range);
        analyzer.query(query);
        analyzer.facts.has_home
    }

    fn stored(&self, query: &Query, columns: &[String], range: &Range<usize>) -> Stored {
        let mut analyzer = self.analyzer(range);
        let outcome = analyzer.query(query);
        if let Some(error) = &analyzer.facts.refusal {
            return Stored::Unclear(error.clone());
        }
        if !analyzer.graph.has_sharded() {
            return Stored::Home;
        }
        match self.tenant_at(&analyzer, &outcome, columns) {
            Some(at) => Stored::Tenants(at),
            None => Stored::Unclear(
                refuse::over_shards(
                    "a materialized view",
                    "Each shard computes the rows of its own tenants, and those must have the tenant column.",
                )
                .hint("Select the tenant column and group by it, or CREATE TABLE AS and fill it anew."),
            ),
        }
    }

    /// The column that tells the tenant of each row, if every shard can compute its own tenants' rows.
    fn tenant_at(
        &self,
        found: &Analyzer<'_>,
        outcome: &Outcome,
        columns: &[String],
    ) -> Option<usize> {
        let tenant = self.catalog.tenant_column.as_deref()?;
        let facts = &found.facts;
        let is_apart = outcome.dist == Ok(Dist::Tenant)
            && outcome.complete
            && facts.not_fanned.is_none()
            && !(facts.has_home || facts.needs_home);
        let name = |at: usize| columns.get(at).unwrap_or(&outcome.cols[at].name).as_str();
        let at = (0..outcome.cols.len()).find(|at| name(*at) == tenant)?;
        (is_apart && outcome.cols[at].exact).then_some(at)
    }
}

/// The kind of a materialized view whose rows are `stored`.
pub fn kind_of(stored: Stored, type_oid: impl Fn(usize) -> u32) -> TableKind {
    match stored {
        Stored::Home => TableKind::Home,
        Stored::Tenants(column) => match KeyType::of_oid(type_oid(column)) {
            Some(key) => TableKind::Sharded { column, key },
            None => TableKind::Unusable("its tenant column cannot be of this type".to_owned()),
        },
        Stored::Unclear(error) => TableKind::Unusable(error.message),
    }
}

fn materialized(elsewhere: Option<String>) -> Plan {
    let combine = Combine::Materialized(elsewhere);
    Plan { changes_schema: true, ..Plan::combined(Access::Write, Scope::All, combine) }
}

/// The same CREATE MATERIALIZED VIEW, but WITH NO DATA.
fn without_data(sql: &str, range: &Range<usize>) -> Option<String> {
    let tokens = tokens(sql, range);
    let kept = up_to_data(&tokens);
    let text = sql.get(kept.first()?.range.start..kept.last()?.range.end)?;
    Some(format!("{text}\nWITH NO DATA"))
}

/// What stands before WITH [NO] DATA.
fn up_to_data(mut tokens: &[Token]) -> &[Token] {
    for words in [&["with", "data"][..], &["with", "no", "data"]] {
        let from = tokens.len().saturating_sub(words.len());
        let ends = tokens.len() > words.len();
        if ends && tokens[from..].iter().zip(words).all(|(it, word)| it.is(word)) {
            tokens = &tokens[..from];
        }
    }
    tokens
}

/// A CREATE TABLE AS or SELECT INTO in two.
struct Parts {
    /// Up to AS, with it, and without IF NOT EXISTS.
    head: String,
    query: String,
}

impl Parts {
    fn of(sql: &str, range: &Range<usize>, it: &CreateAs) -> Option<Self> {
        let tokens = tokens(sql, range);
        if it.is_select_into {
            Self::of_select(sql, &tokens)
        } else {
            Self::of_create(sql, &tokens)
        }
    }

    fn of_create(sql: &str, tokens: &[Token]) -> Option<Self> {
        let word = |word: &str| tokens.iter().position(|it| it.depth == 0 && it.is(word));
        let (first, at) = (tokens.first()?, word("as")?);
        let mut head = sql.get(first.range.start..tokens[at].range.end)?.to_owned();
        if let Some(exists) = word("exists").filter(|it| *it < at && *it >= 2) {
            let cut = tokens[exists - 2].range.start..tokens[exists].range.end;
            head.replace_range(cut.start - first.range.start..cut.end - first.range.start, "");
        }
        let rest = up_to_data(&tokens[at + 1..]);
        let query = sql.get(rest.first()?.range.start..rest.last()?.range.end)?.to_owned();
        Some(Self { head, query })
    }

    /// `SELECT … INTO [TEMP | UNLOGGED] [TABLE] name …`.
    fn of_select(sql: &str, tokens: &[Token]) -> Option<Self> {
        const WORDS: [&str; 6] = ["temp", "temporary", "local", "global", "unlogged", "table"];
        let at = tokens.iter().position(|it| it.depth == 0 && it.is("into"))?;
        let mut end = at + 1;
        let is_dot = |at: usize| tokens.get(at).is_some_and(|it| it.kind == TokenKind::Dot);
        while WORDS.iter().any(|word| tokens.get(end).is_some_and(|it| it.is(word)))
            && !is_dot(end + 1)
        {
            end += 1;
        }
        let words = tokens.get(at + 1..end)?.iter().filter(|it| !it.is("table"));
        let words: Vec<&str> = words.filter_map(|it| sql.get(it.range.clone())).collect();
        let name = end;
        while is_dot(end + 1) {
            end += 2;
        }
        let name = tokens.get(name)?.range.start..tokens.get(end)?.range.end;
        let before = sql.get(tokens.first()?.range.start..tokens[at].range.start)?;
        let after = sql.get(name.end..tokens.last()?.range.end)?;
        Some(Self {
            head: format!("CREATE {} TABLE {} AS", words.join(" "), sql.get(name)?),
            query: format!("{before}{after}"),
        })
    }
}
