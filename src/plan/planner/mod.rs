//! Statement text and catalog to [`Plan`]s.
//!
//! What cannot be proven is refused. Three proofs are tried: that every sharded table is confined to
//! tenant keys (`graph`), that the statement falls apart by tenant (`block`), and that the answers
//! of several shards can be put together (`merge`).

mod block;
mod classes;
mod code;
mod copy;
mod create_as;
mod ddl;
mod dml;
mod from;
mod functions;
mod gather;
mod graph;
mod literals;
mod locked;
mod merge;
mod merge_into;
mod modifying;
mod moved;
mod names;
mod partial;
mod picked;
mod predicate;
mod print;
mod refuse;
mod scatter;
mod sequences;
mod session;
mod set_config;
mod splice;
mod types;
mod unique;
mod walk;
mod write;

use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;

pub use self::create_as::{kind_of, stored};
use self::from::find;
use self::gather::Gathering;
use self::walk::{Analyzer, Facts};
use self::write::Fan;
use super::gather::Runs;
use super::{Access, Action, Combine, KeySource, Local, Plan, Run, Scope, Uses};
use crate::catalog::{Catalog, Volatility};
use crate::error::{PgError, sqlstate};
use crate::merge::MergeSpec;
use crate::sql::parse::tree::{DdlKind, Expr, Query, Statement, Stmt, TableName};
use crate::sql::parse::{ParseError, parse};

/// What of the session a plan depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Session<'a> {
    /// Parse's declared parameter types, 0 for unspecified.
    pub param_types: &'a [u32],
    /// The session's own search path, if it set one.
    pub search_path: Option<&'a [String]>,
}

/// One plan per statement of the text, with the statement's byte range. An empty text has one
/// [`Local::Empty`]. With `sharded` false there is one shard: everything goes there unchanged, and
/// only what the session must know is told.
pub fn plan(
    sql: &str,
    catalog: &Catalog,
    sharded: bool,
    session: &Session<'_>,
) -> Vec<(Range<usize>, Plan)> {
    let whole = 0..sql.len();
    let statements = match parse(sql) {
        Ok(statements) => statements,
        Err(ParseError::TooDeep) if sharded => return vec![(whole, Plan::refused(too_deep()))],
        // The server reports it.
        Err(_) => {
            let mut plan = Plan::run(Access::Write, Scope::Home);
            plan.is_shareable = false;
            return vec![(whole, plan)];
        }
    };
    if statements.is_empty() {
        return vec![(whole, Plan::local(Local::Empty))];
    }
    let planner = Planner { catalog, sharded, session, sql };
    let mut changed: Option<HashSet<String>> = None;
    let mut plans = Vec::with_capacity(statements.len());
    for statement in &statements {
        let mut plan = planner.statement(statement);
        if plan.is_shareable && statements.len() == 1 {
            plan.literals = planner.literals(&statement.kind, &statement.range);
        }
        planner.note_lookup(&mut plan, statement);
        planner.note_unique(&mut plan, statement);
        if let Some(error) = planner.stale(statement, changed.as_ref()) {
            plan = Plan::forbidden(error);
        }
        if plan.changes_schema {
            changed.get_or_insert_default().extend(changed_tables(&statement.kind));
        }
        plans.push((statement.range.clone(), plan));
    }
    plans
}

/// The tables that a schema change names.
fn changed_tables(statement: &Stmt) -> Vec<String> {
    let ddl = match statement {
        Stmt::Ddl(ddl) => ddl,
        Stmt::CreateAs(it) => return vec![it.table.name.clone()],
        _ => return Vec::new(),
    };
    match &ddl.kind {
        DdlKind::CreateTable(it) => vec![it.table.name.clone()],
        DdlKind::CreateView { view, .. } => vec![view.name.clone()],
        DdlKind::AlterTable { table, .. } | DdlKind::RenameColumn { table, .. } => {
            vec![table.name.clone()]
        }
        DdlKind::RenameTable { table, to } => vec![table.name.clone(), to.clone()],
        DdlKind::Drop { tables, .. } => tables.iter().map(|it| it.name.clone()).collect(),
        _ => Vec::new(),
    }
}

/// The names of relations in the text that the catalog does not know: before "unknown, so it is of
/// the home shard" is trusted, the catalog should be loaded once more.
pub fn unknown_tables(sql: &str, catalog: &Catalog, session: &Session<'_>) -> Vec<String> {
    let planner = Planner { catalog, sharded: true, session, sql };
    let mut names = Vec::new();
    for statement in parse(sql).unwrap_or_default() {
        names.extend(planner.unknown(&statement.kind, &statement.range));
    }
    names
}

fn too_deep() -> PgError {
    PgError::new(sqlstate::STATEMENT_TOO_COMPLEX, "the statement is nested too deep to be analysed")
        .detail("Its expressions have more levels than the proxy looks into.")
        .hint("Break long chains like a || b || … into parts, or SET sluice.tenant.")
}

impl Plan {
    /// A statement that one shard runs.
    fn run(access: Access, scope: Scope) -> Self {
        let error = PgError::refused("the statement runs on one shard only");
        Self::combined(access, scope, Combine::Refuse(error))
    }

    fn combined(access: Access, scope: Scope, combine: Combine) -> Self {
        let is_shareable = scope != Scope::All;
        let mut plan =
            Self::of(Action::Run(Run { access, scope, combine, fallback: None, explained: None }));
        plan.is_shareable = is_shareable;
        plan
    }

    fn local(local: Local) -> Self {
        Self::of(Action::Local(local))
    }

    /// A refusal that naming one tenant lifts.
    fn refused(error: PgError) -> Self {
        Self { is_lifted_by_tenant: true, ..Self::of(Action::Refuse(error)) }
    }

    /// A refusal for good.
    fn forbidden(error: PgError) -> Self {
        Self::of(Action::Refuse(error))
    }

    fn of(action: Action) -> Self {
        Self {
            action,
            is_shareable: false,
            pin: None,
            changes_schema: false,
            alters: false,
            leaves: None,
            sets: Vec::new(),
            unsettled: Vec::new(),
            uses: None,
            is_lifted_by_tenant: false,
            literals: None,
            numbers: None,
            indexes: None,
            times: None,
            bound: None,
            unique: None,
            lookup: None,
        }
    }

    #[must_use]
    fn pinned(mut self, pin: &'static str) -> Self {
        self.pin = Some(pin);
        self
    }
}

/// The work on one text.
struct Planner<'a> {
    catalog: &'a Catalog,
    sharded: bool,
    session: &'a Session<'a>,
    sql: &'a str,
}

impl<'a> Planner<'a> {
    fn statement(&self, statement: &Statement) -> Plan {
        let range = &statement.range;
        match &statement.kind {
            Stmt::Query(query) if session::asks_channels(query) => {
                Plan::local(Local::ListeningChannels)
            }
            Stmt::Query(query) => self.query(query, range),
            Stmt::Insert(_) | Stmt::Update(_) | Stmt::Delete(_) | Stmt::Merge(_) => {
                self.modify(&statement.kind, range)
            }
            Stmt::Copy(copy) => self.copy(copy, range),
            Stmt::Explain(explain) => self.explain(explain, range),
            Stmt::Session(it) => self.session(it),
            Stmt::Fixed("LOAD") => Plan::run(Access::Write, Scope::Home).pinned("LOAD"),
            Stmt::Fixed(_) => Plan::run(Access::Write, Scope::Home),
            Stmt::CreateAs(it) => self.create_as(it, range),
            Stmt::Truncate(tables) | Stmt::Lock(tables) => self.on_tables(tables),
            Stmt::Maintain(it) => self.maintain(it),
            Stmt::Ddl(it) => self.ddl(it, range),
            Stmt::Do if !self.sharded => {
                let mut plan = Plan::run(Access::Write, Scope::Home);
                plan.pin = self.may_change_session(range).then_some(walk::SUSPECT);
                plan.is_shareable = false;
                plan
            }
            Stmt::Do => self.code(range),
            Stmt::Call(call) => self.call(call, range),
            Stmt::Unknown(_) if !self.sharded => Plan::run(Access::Write, Scope::Home),
            Stmt::Unknown(what) => Plan::refused(walk::opaque(what)),
        }
    }

    /// Refuses a statement about tables that an earlier statement of the same text changes: what is
    /// known of them is out of date when it runs.
    fn stale(&self, statement: &Statement, changed: Option<&HashSet<String>>) -> Option<PgError> {
        let changed = changed.filter(|_| self.sharded)?;
        let facts = self.tables_of(&statement.kind, &statement.range)?;
        let is_stale = |it: &&String| changed.contains(*it) || facts.unknown_tables.contains(it);
        let table = facts.tables.iter().find(is_stale)?;
        Some(
            PgError::refused(format!("{table} is created or changed in the same text"))
                .detail("The statement is planned before the change is made.")
                .hint("Send it as a text of its own."),
        )
    }

    /// The schemas names are looked up in.
    fn path(&self) -> Rc<[String]> {
        let Some(own) = self.session.search_path else {
            return self.catalog.search_path.as_slice().into();
        };
        let mut path = own.to_vec();
        if !path.iter().any(|it| it == "pg_catalog") {
            path.insert(0, "pg_catalog".to_owned());
        }
        path.into()
    }

    fn analyzer(&self, range: &Range<usize>) -> Analyzer<'a> {
        Analyzer::new(self.catalog, self.path(), self.session.param_types, self.sql, range.clone())
    }

    fn unknown(&self, statement: &Stmt, range: &Range<usize>) -> Vec<String> {
        match statement {
            Stmt::Ddl(_) => return self.unknown_to_ddl(statement),
            Stmt::Do => return self.unknown_in_code(range),
            _ => (),
        }
        self.tables_of(statement, range).map(|it| it.unknown_tables).unwrap_or_default()
    }

    /// Tables on whose kind a schema change leans and that the catalog does not know.
    fn unknown_to_ddl(&self, statement: &Stmt) -> Vec<String> {
        let leans = code::leans_on(statement);
        leans.into_iter().filter(|it| self.is_unknown(it)).map(|it| it.name).collect()
    }

    fn is_unknown(&self, table: &TableName) -> bool {
        find(self.catalog, &self.path(), table).is_none()
    }

    /// The tables that a query or a write names; `None` for other statements.
    fn tables_of(&self, statement: &Stmt, range: &Range<usize>) -> Option<Facts> {
        use crate::sql::parse::tree::{CopySource, Session};
        let mut analyzer = self.analyzer(range);
        match statement {
            Stmt::Query(query) => drop(analyzer.query(query)),
            Stmt::Insert(_) | Stmt::Update(_) | Stmt::Delete(_) | Stmt::Merge(_) => {
                analyzer.modify(statement);
            }
            Stmt::CreateAs(it) => return self.tables_of(&it.query, range),
            Stmt::Explain(it) => return self.tables_of(&it.inner.kind, &it.inner.range),
            Stmt::Session(Session::Prepare { inner, .. } | Session::Declare { inner, .. }) => {
                return self.tables_of(&inner.kind, &inner.range);
            }
            Stmt::Copy(copy) => match &copy.source {
                CopySource::Query(query) => return self.tables_of(query, range),
                CopySource::Table(table) => {
                    analyzer.enter();
                    analyzer.table(table, None);
                }
            },
            _ => return None,
        }
        Some(analyzer.facts)
    }

    /// SELECT, VALUES, TABLE, set operations.
    fn query(&self, query: &Query, range: &Range<usize>) -> Plan {
        if let Some(plan) = self.setval(query, range) {
            return plan;
        }
        let mut analyzer = self.analyzer(range);
        analyzer.query(query);
        let mut plan = self.decide(&analyzer, None);
        if needs_merge(&plan) {
            analyzer = self.analyzer(range);
            analyzer.wants_merge = true;
            analyzer.query(query);
            plan = self.decide(&analyzer, None);
        }
        self.add_fallback(&mut plan, query, range);
        if lacks_answer(&plan)
            && let Some(gathered) = self.gathered(query, range)
        {
            let is_refused = matches!(gathered.action, Action::Refuse(_));
            if !(is_refused && matches!(plan.action, Action::Run(_))) {
                return gathered;
            }
        }
        if lacks_answer(&plan)
            && analyzer.facts.has_locks
            && let Some(locked) = self.locking(query, range)
        {
            plan = better(plan, locked);
        }
        plan.is_lifted_by_tenant &= self.may_be_lifted(&analyzer.facts);
        let looks =
            !self.sharded && analyzer.facts.tables.iter().any(|it| it == "pg_prepared_statements");
        plan.uses = looks.then_some(Uses::Statements);
        self.set_config(plan, &analyzer, query)
    }

    /// What is done where servers tell types that the proxy cannot merge.
    fn add_fallback(&self, plan: &mut Plan, query: &Query, range: &Range<usize>) {
        let Action::Run(Run { combine: Combine::Merge(spec), fallback, .. }) = &mut plan.action
        else {
            return;
        };
        // It cannot be run again.
        if spec.modifies {
            return;
        }
        let gathered = self.gathered(query, range).map(|it| it.action);
        if let Some(Action::Run(Run { combine: Combine::Gather(gather), .. })) = gathered {
            *fallback = Some(gather);
        }
    }

    /// The plan that ships rows to one server, if there is no cheaper one.
    fn gathered(&self, query: &Query, range: &Range<usize>) -> Option<Plan> {
        let mut analyzer = self.analyzer(range);
        analyzer.gathering = Some(Gathering::new(self.sql, range.clone(), Runs::Read));
        analyzer.query(query);
        let facts = &analyzer.facts;
        let modifies = analyzer.gathering.as_ref().is_some_and(Gathering::modifies);
        let acts = facts.has_locks || facts.modifies && !modifies || facts.has_advisory;
        let is_read = !(acts || facts.set_configs > 0 || facts.pin.is_some());
        if !is_read || facts.is_refused() || !analyzer.graph.has_sharded() {
            return None;
        }
        let is_stable = facts.volatility < Volatility::Volatile && !facts.has_unknown_function;
        let reads = is_stable && !modifies && !self.reads_unlogged(facts);
        let access = if reads { Access::Read } else { Access::Write };
        let needs_home = facts.has_home || facts.needs_home;
        let scope = match analyzer.graph.confined() {
            Ok(keys) => Scope::Keys { keys, with_home: false },
            Err(_) => Scope::All,
        };
        let has_ordinals = facts.has_ordinals;
        // It may ask for the isolation level, which would be another one.
        let tells = facts.needs_home
            || facts.has_unknown_function
            || facts.has_unstable_value
            || facts.tables.iter().any(|it| it == "pg_settings");
        let mut gathering = analyzer.gathering?;
        if tells {
            gathering.ship_at_once();
        }
        let mut plan = match gathering.finish(needs_home) {
            Ok(gather) => Plan::combined(access, scope, Combine::Gather(Box::new(gather))),
            Err(error) => Plan::refused(error),
        };
        plan.is_shareable &= !has_ordinals;
        Some(plan)
    }

    /// Whether any shard may run it: no number is taken of a sequence that is the home shard's.
    fn may_be_lifted(&self, facts: &Facts) -> bool {
        !facts.has_home_number || self.catalog.allow_local_keys
    }

    /// Whether replicas do not have what is read.
    fn reads_unlogged(&self, facts: &Facts) -> bool {
        let unlogged = &self.catalog.unlogged;
        !unlogged.is_empty() && facts.tables.iter().any(|it| unlogged.contains(it))
    }

    /// The plan of what was found; `fan` of a write.
    fn decide(&self, found: &Analyzer<'_>, fan: Option<Fan>) -> Plan {
        let facts = &found.facts;
        if facts.asks_channels {
            return Plan::forbidden(session::channels_refused());
        }
        if let Some(error) = facts.forbidden.as_ref().filter(|_| self.sharded) {
            return Plan::forbidden(error.clone());
        }
        let reads = facts.volatility < Volatility::Volatile
            && !(facts.has_unknown_function || facts.has_locks)
            && !(facts.modifies || facts.has_advisory || self.reads_unlogged(facts));
        let access = if reads { Access::Read } else { Access::Write };
        let mut plan = if self.sharded {
            self.place(found, access, fan)
        } else {
            Plan::run(access, Scope::Home)
        };
        let suspects = &self.catalog.suspects.relations;
        let is_suspect = !self.sharded && facts.has_unknown_function
            || !suspects.is_empty() && facts.tables.iter().any(|it| suspects.contains(it));
        plan.pin = facts.pin.or(is_suspect.then_some(walk::SUSPECT));
        plan.pin = plan.pin.filter(|_| matches!(plan.action, Action::Run(_)));
        let has_rows =
            matches!(&plan.action, Action::Run(run) if matches!(run.combine, Combine::Split(_)));
        plan.is_shareable &= !(facts.has_ordinals || has_rows);
        plan
    }

    /// Where the statement goes.
    fn place(&self, found: &Analyzer<'_>, access: Access, fan: Option<Fan>) -> Plan {
        let facts = &found.facts;
        if let Some(error) = &facts.refusal {
            return Plan::refused(error.clone());
        }
        if facts.has_advisory && found.graph.has_sharded() {
            return Plan::refused(
                PgError::refused("advisory locks cannot be taken while sharded tables are read")
                    .detail("A lock must be in one fixed place to be the same for everybody.")
                    .hint("Take the lock in a statement of its own."),
            );
        }
        if facts.writes_reference.is_some() {
            return self.write_reference(found, access, fan);
        }
        if !found.graph.has_sharded() {
            return Plan::run(access, self.unsharded_scope(found));
        }
        let with_home = facts.has_home || facts.needs_home;
        match found.graph.confined() {
            Ok(keys) => {
                let combine = match combine(found, with_home, is_one(&keys), fan) {
                    Ok(combine) => combine,
                    Err(error) => Combine::Refuse(error),
                };
                Plan::combined(access, Scope::Keys { keys, with_home }, combine)
            }
            Err(table) => match combine(found, with_home, false, fan) {
                Ok(Combine::Split(_)) | Err(_) if with_home => Plan::refused(home_tables(table)),
                Ok(combine) => Plan::combined(access, Scope::All, combine),
                Err(error) => Plan::refused(error),
            },
        }
    }

    fn unsharded_scope(&self, found: &Analyzer<'_>) -> Scope {
        let facts = &found.facts;
        let is_fixed = facts.has_home || facts.needs_home || facts.modifies || facts.has_locks;
        let varies = facts.has_unknown_function
            || facts.has_unstable_value
            || facts.volatility == Volatility::Volatile;
        if is_fixed || varies { Scope::Home } else { Scope::Any }
    }

    /// CALL.
    fn call(&self, call: &Expr, range: &Range<usize>) -> Plan {
        let mut home = Plan::run(Access::Write, Scope::Home);
        let mut analyzer = self.analyzer(range);
        analyzer.enter();
        analyzer.expr(call);
        home.pin = analyzer.facts.pin;
        if !self.sharded {
            let is_unknown = analyzer.facts.has_unknown_function;
            home.pin = home.pin.or(is_unknown.then_some(walk::SUSPECT));
            return home;
        }
        match &analyzer.facts.refusal {
            Some(error) => Plan::refused(error.clone()),
            None if analyzer.graph.has_sharded() => {
                Plan::refused(refuse::over_shards("CALL", "An argument reads sharded tables."))
            }
            None => home,
        }
    }
}

fn home_tables(table: &str) -> PgError {
    refuse::over_shards(
        "a statement with tables of the home shard",
        format!("{table} has rows on every shard, the other tables on the home shard alone."),
    )
}

/// Whether keys are one at run time, too.
fn is_one(keys: &[KeySource]) -> bool {
    matches!(keys, [KeySource::Literal { .. } | KeySource::Param { .. }])
}

/// How the answers of several shards become one.
fn combine(
    found: &Analyzer<'_>,
    with_home: bool,
    is_one: bool,
    fan: Option<Fan>,
) -> Result<Combine, PgError> {
    if is_one {
        return Err(PgError::refused("the statement runs on one shard only"));
    }
    if let Some(error) = &found.facts.not_fanned {
        return Err(error.clone());
    }
    if with_home {
        return Err(home_tables(found.graph.any_sharded().unwrap_or_default()));
    }
    match fan {
        Some(Fan::Sum) => Ok(Combine::Sum),
        Some(Fan::Same) => Ok(Combine::Same),
        Some(Fan::Filled(filled)) => Ok(Combine::Filled(Box::new(filled))),
        Some(Fan::Split(split)) => Ok(Combine::Split(split)),
        Some(Fan::Refuse(error)) => Err(error),
        None => match &found.merged {
            // It would end before all shards have done their part.
            Some(Ok(spec)) if found.facts.modifies && spec.limit.is_some() => Err(
                refuse::over_shards("LIMIT over a data-modifying WITH", "Every row is changed."),
            ),
            Some(Ok(spec)) if found.facts.modifies && copy::is_concatenation(spec) => {
                Ok(Combine::Sum)
            }
            Some(Ok(spec)) => {
                let modifies = found.facts.modifies;
                Ok(Combine::Merge(MergeSpec { modifies, ..spec.clone() }))
            }
            Some(Err(error)) => Err(error.clone()),
            None => Err(unmerged(found.wants_merge)),
        },
    }
}

/// A mark while the merge has not been tried yet; afterwards the reason there is none.
fn unmerged(tried: bool) -> PgError {
    let mut error =
        refuse::over_shards("this query", "Its rows do not come from the tenants' tables.");
    if !tried {
        error.code = UNTRIED.into();
    }
    error
}

const UNTRIED: &str = "00000";

/// Whether a plan is missing its merge.
fn needs_merge(plan: &Plan) -> bool {
    match &plan.action {
        Action::Refuse(error) => error.code == UNTRIED,
        Action::Run(run) => matches!(&run.combine, Combine::Refuse(error) if error.code == UNTRIED),
        Action::Local(_) => false,
    }
}

/// Another plan in the place of one without an answer, unless it has none either.
fn better(plan: Plan, other: Plan) -> Plan {
    let is_refused = matches!(other.action, Action::Refuse(_));
    match is_refused && matches!(plan.action, Action::Run(_)) {
        true => plan,
        false => other,
    }
}

/// Whether several shards, or a shard beside the home shard, would have to answer and cannot.
fn lacks_answer(plan: &Plan) -> bool {
    match &plan.action {
        Action::Refuse(_) => plan.is_lifted_by_tenant,
        Action::Run(Run { scope: Scope::Keys { keys, with_home }, combine, .. }) => {
            matches!(combine, Combine::Refuse(_)) && (*with_home || !is_one(keys))
        }
        _ => false,
    }
}
