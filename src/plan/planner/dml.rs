//! INSERT, UPDATE, DELETE and MERGE: in which of the possible ways they run.

use std::ops::Range;

use super::from::find;
use super::gather::Gathering;
use super::walk::Analyzer;
use super::write::Fan;
use super::{Planner, better, lacks_answer, moved, scatter};
use crate::catalog::{TableKind, Volatility};
use crate::error::{PgError, sqlstate};
use crate::plan::gather::Runs;
use crate::plan::{Access, Action, Combine, Plan, Run, Scope};
use crate::sql::parse::tree::Stmt;

impl Planner<'_> {
    pub(super) fn modify(&self, statement: &Stmt, range: &Range<usize>) -> Plan {
        let mut analyzer = self.analyzer(range);
        let fan = analyzer.modify(statement);
        let mut plan = self.decide(&analyzer, Some(fan));
        let is_refused = matches!(plan.action, Action::Refuse(_)) || lacks_answer(&plan);
        plan.is_lifted_by_tenant &= self.may_be_lifted(&analyzer.facts);
        if analyzer.facts.forbidden.is_some() {
            return plan;
        }
        match self.sharded && is_refused {
            true => self
                .gathered_write(statement, range)
                .or_else(|| self.scattered(&plan, statement, range))
                .or_else(|| self.moved(statement, range))
                .or_else(|| {
                    let picked = self.picked(range).filter(|_| analyzer.facts.has_locks)?;
                    Some(better(plan.clone(), picked))
                })
                .unwrap_or(plan),
            false => plan,
        }
    }

    /// An UPDATE of the tenant column.
    fn moved(&self, statement: &Stmt, range: &Range<usize>) -> Option<Plan> {
        let Stmt::Update(it) = statement else { return None };
        let path = self.path();
        let table = find(self.catalog, &path, &it.table)?;
        if it.with.is_some() || !it.from.is_empty() || !table.trigger_functions.is_empty() {
            return None;
        }
        let mut analyzer = self.analyzer(range);
        analyzer.moves = true;
        analyzer.gathering = Some(Gathering::new(self.sql, range.clone(), Runs::Shards));
        let fan = analyzer.modify(statement);
        let facts = &analyzer.facts;
        let acts = facts.has_locks || facts.has_advisory || facts.set_configs > 0;
        let elsewhere = facts.has_home || facts.needs_home || facts.not_fanned.is_some();
        let varies = facts.has_unknown_function || facts.volatility == Volatility::Volatile;
        let gathering = analyzer.gathering.take()?;
        if !matches!(fan, Fan::Sum)
            || facts.pin.is_some()
            || facts.refusal.is_some()
            || acts | elsewhere | varies
            || !gathering.is_empty()
        {
            return None;
        }
        let moved = moved::moved(&analyzer, &gathering, (it, table), self.sql, range)?;
        let combine = Combine::Move(Box::new(moved));
        // Rows that stay on their shard are updated as usual.
        let new_key = analyzer.new_key.take();
        Some(match (analyzer.graph.confined(), new_key) {
            (Ok(mut keys), Some(key)) => {
                keys.push(key);
                Plan::combined(Access::Write, Scope::Keys { keys, with_home: false }, combine)
            }
            _ => Plan::combined(Access::Write, Scope::All, combine),
        })
    }

    /// An INSERT whose rows are computed first, where that alone is what it lacks.
    fn scattered(&self, plan: &Plan, statement: &Stmt, range: &Range<usize>) -> Option<Plan> {
        let Stmt::Insert(it) = statement else { return None };
        if matches!(&plan.action, Action::Refuse(it) if it.code != sqlstate::FEATURE_NOT_SUPPORTED)
        {
            return None;
        }
        let mut analyzer = self.analyzer(range);
        analyzer.gathering = Some(Gathering::new(self.sql, range.clone(), Runs::Read));
        let rows = analyzer.scatter(it)?;
        let facts = &analyzer.facts;
        let acts = facts.has_locks || facts.has_advisory || facts.set_configs > 0;
        if acts || facts.pin.is_some() || facts.is_refused() {
            return None;
        }
        let scatter = scatter::scattered(analyzer.gathering?, rows, it, self.sql, range)?;
        let combine = Combine::Scatter(Box::new(scatter));
        // Keys of one shard are found when it runs; it is then sent as it is.
        if let Action::Run(Run { scope: Scope::Keys { with_home: false, .. }, .. }) = &plan.action {
            let mut plan = plan.clone();
            if let Action::Run(run) = &mut plan.action {
                run.combine = combine;
            }
            return Some(plan);
        }
        Some(Plan::combined(Access::Write, Scope::All, combine))
    }

    /// A write that depends on rows of several shards: these are shipped, and the statement runs over
    /// them where the rows are that it writes.
    fn gathered_write(&self, statement: &Stmt, range: &Range<usize>) -> Option<Plan> {
        let name = match statement {
            Stmt::Insert(it) => &it.table,
            Stmt::Update(it) => &it.table,
            Stmt::Delete(it) => &it.table,
            Stmt::Merge(it) => &it.table,
            _ => return None,
        };
        let runs = match find(self.catalog, &self.path(), name).map(|it| &it.kind) {
            Some(TableKind::Sharded { .. }) if !matches!(statement, Stmt::Insert(_)) => {
                Runs::Shards
            }
            Some(TableKind::Reference) if !matches_several(statement) => Runs::Everywhere,
            Some(TableKind::Home) | None => Runs::Home,
            _ => return None,
        };
        let mut analyzer = self.analyzer(range);
        analyzer.gathering = Some(Gathering::new(self.sql, range.clone(), runs));
        analyzer.modify(statement);
        let facts = &analyzer.facts;
        let acts = facts.has_locks || facts.has_advisory || facts.set_configs > 0;
        let gathering = analyzer.gathering?;
        // What several servers compute must be the same for each.
        let varies = facts.not_fanned.is_some()
            || facts.has_unknown_function
            || facts.volatility == Volatility::Volatile;
        if acts || facts.pin.is_some() || facts.is_refused() || runs != Runs::Home && varies {
            return None;
        }
        let needs_home = runs == Runs::Home || facts.has_home || facts.needs_home;
        let gather = gathering.finish(needs_home).ok()?;
        let combine = Combine::Gather(Box::new(gather));
        Some(Plan::combined(Access::Write, Scope::All, combine))
    }

    /// A write of a reference table: the same everywhere.
    pub(super) fn write_reference(
        &self,
        found: &Analyzer<'_>,
        access: Access,
        fan: Option<Fan>,
    ) -> Plan {
        let facts = &found.facts;
        let table = facts.writes_reference.as_deref().unwrap_or_default();
        let refusal = |detail: &str, hint: &str| {
            let error = PgError::refused(format!(
                "the write of reference table {table} would differ from shard to shard"
            ));
            Plan::forbidden(error.detail(detail).hint(hint))
        };
        if let Some(error) = &facts.not_fanned {
            let detail = format!(
                "It uses {}.",
                error.message.replace(" over several shards is not supported", "")
            );
            return refusal(&detail, "Pass the values as literals or parameters.");
        }
        if found.graph.has_sharded() || facts.has_home || facts.needs_home {
            return refusal(
                "It reads tables that are not on every shard alike.",
                "Read the values first and pass them as parameters.",
            );
        }
        match fan {
            Some(Fan::Same) => Plan::combined(access, Scope::All, Combine::Same),
            Some(Fan::Filled(filled)) => {
                Plan::combined(access, Scope::All, Combine::Filled(Box::new(filled)))
            }
            Some(Fan::Refuse(error)) => refusal(
                &error.message,
                "Write it without LIMIT, windows and joins, or with literals.",
            ),
            _ => refusal("Its rows cannot be told.", "Pass the values as literals or parameters."),
        }
    }
}

/// Whether a row may meet several others, of which any may count.
fn matches_several(statement: &Stmt) -> bool {
    match statement {
        Stmt::Update(it) => !it.from.is_empty(),
        Stmt::Insert(it) => it.conflict.is_some(),
        _ => false,
    }
}
