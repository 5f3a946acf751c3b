//! Data-modifying statements in WITH.

use super::block::{Dist, Outcome};
use super::gather::Gathering;
use super::names::Found;
use super::refuse;
use super::types::{output_name, type_of};
use super::walk::Analyzer;
use super::write::Fan;
use crate::catalog::{SqlType, Volatility};
use crate::error::PgError;
use crate::plan::gather::FragmentColumn;
use crate::plan::scatter::Carried;
use crate::sql::parse::tree::{Cte, Kind, Literal, Stmt, Target};

impl Analyzer<'_> {
    /// A data-modifying statement in WITH: its rows come from wherever it writes.
    pub(super) fn modifying_cte(&mut self, cte: &Cte, statement: &Stmt) -> Outcome {
        let error =
            refuse::over_shards("a data-modifying WITH", "Its parts must all run on one shard.");
        self.returned = None;
        self.shipped = None;
        // It runs on the shards as it is.
        let gathering = self.gathering.take();
        let before = self.facts.not_fanned.take();
        let fan = self.modify(statement);
        self.gathering = gathering;
        // The parts before it run there, too, and the text of all of them is as it was.
        let runs_apart = matches!(fan, Fan::Sum)
            && before.is_none()
            && self.facts.not_fanned.is_none()
            && !(self.facts.has_home || self.facts.needs_home)
            && !self.gathering.as_ref().is_some_and(Gathering::asks_time)
            && self.facts.volatility < Volatility::Volatile
            && !self.facts.has_unknown_function;
        self.facts.not_fanned = before.or(self.facts.not_fanned.take());
        let returned = self.returned.take().unwrap_or_default();
        if let Some(table) = &self.facts.writes_reference {
            self.facts.refusal.get_or_insert(
                PgError::refused(format!("reference table {table} cannot be written in WITH"))
                    .detail("The write must reach every shard.")
                    .hint("Write it in a statement of its own."),
            );
        }
        let shipped = self.shipped.take().filter(|_| runs_apart);
        let gathering = self.gathering.as_mut();
        if gathering.and_then(|it| it.add_modifying(cte, shipped?)).is_none() {
            self.not_gathered(error.clone());
        }
        if matches!(fan, Fan::Sum) {
            // Each shard changes rows of its own tenants and goes on with these.
            let (cols, complete) = returned;
            return Outcome { cols, complete, dist: Ok(Dist::Tenant), is_ordered: false };
        }
        self.not_fanned(error.clone());
        Outcome { cols: Vec::new(), complete: false, dist: Err(error), is_ordered: false }
    }

    /// The columns of RETURNING as they are shipped; `None` if their types are not known.
    pub(super) fn shipped_columns(&self, targets: &[Target]) -> Option<Vec<FragmentColumn>> {
        let column = |name: String, oid: u32, sql_type: SqlType| FragmentColumn {
            name,
            type_oid: oid,
            sql_type,
            is_needed: true,
        };
        let mut columns = Vec::new();
        for target in targets {
            let name = || target.alias.clone().unwrap_or_else(|| output_name(&target.expr));
            match &target.expr.kind {
                Kind::Star(names) => {
                    let (found, true) = self.star(names)? else { return None };
                    for col in found {
                        let sql_type = (*col.sql_type?).clone();
                        columns.push(column(col.name, col.ty?.oid, sql_type));
                    }
                }
                Kind::Column(names) => match self.resolve(names) {
                    Found::Column { ty: Some(ty), sql_type: Some(sql_type), .. } => {
                        columns.push(column(name(), ty.oid, (*sql_type).clone()));
                    }
                    _ => return None,
                },
                kind => {
                    let oid = match kind {
                        Kind::Literal(Literal::Text(_) | Literal::Null) => 25,
                        _ => type_of(&self.levels, &target.expr)?.oid,
                    };
                    let scalar = Carried::scalar(oid)?.to_owned();
                    let sql_type =
                        SqlType { name: scalar.clone(), scalar: Some(scalar), collation: None };
                    columns.push(column(name(), oid, sql_type));
                }
            }
        }
        Some(columns)
    }
}
