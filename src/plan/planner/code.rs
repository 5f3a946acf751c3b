//! DO blocks: one that only changes the schema runs on every shard, one that only touches tables of
//! the home shard there. A condition may look into the system catalogs, which are alike.

use std::collections::HashSet;
use std::ops::Range;

use super::walk::Analyzer;
use super::{Planner, changed_tables, sequences};
use crate::catalog::Volatility;
use crate::error::PgError;
use crate::plan::{Access, Action, Combine, Numbers, Plan, Scope};
use crate::sql::parse::block::{Part, parts};
use crate::sql::parse::parse;
use crate::sql::parse::tree::{Ddl, Statement, Stmt, TableName};

/// System tables that say the same on every shard, as the schemas are alike.
const SCHEMA: &[&str] = &[
    "pg_am",
    "pg_attrdef",
    "pg_attribute",
    "pg_available_extensions",
    "pg_class",
    "pg_collation",
    "pg_constraint",
    "pg_depend",
    "pg_description",
    "pg_enum",
    "pg_extension",
    "pg_index",
    "pg_indexes",
    "pg_inherits",
    "pg_language",
    "pg_matviews",
    "pg_namespace",
    "pg_operator",
    "pg_policies",
    "pg_policy",
    "pg_proc",
    "pg_publication",
    "pg_publication_tables",
    "pg_rewrite",
    "pg_roles",
    "pg_rules",
    "pg_sequence",
    "pg_tables",
    "pg_trigger",
    "pg_type",
    "pg_user",
    "pg_views",
    // Of information_schema.
    "columns",
    "constraint_column_usage",
    "constraint_table_usage",
    "domains",
    "enabled_roles",
    "key_column_usage",
    "referential_constraints",
    "routines",
    "schemata",
    "sequences",
    "table_constraints",
    "tables",
    "triggers",
    "views",
];

/// What the parts of a block do together.
#[derive(Default)]
struct Effects {
    changes_schema: bool,
    touches_home: bool,
    numbers: Option<Numbers>,
    /// Tables that the block makes or changes.
    changed: HashSet<String>,
}

impl Planner<'_> {
    pub(super) fn code(&self, range: &Range<usize>) -> Plan {
        if self.says_setval(range) {
            return Plan::forbidden(sequences::not_alone());
        }
        let Some(parts) = parts(&self.sql[range.clone()]) else {
            return Plan::refused(refused(
                "a DO block that the proxy cannot read",
                "It cannot tell which tables the block reads and writes.",
            ));
        };
        let mut all = Effects::default();
        if let Err(error) = parts.iter().try_for_each(|part| self.part(part, &mut all)) {
            return Plan::refused(error);
        }
        if all.changes_schema && all.touches_home {
            return Plan::refused(refused(
                "DO of schema changes together with rows of the home shard",
                "The schema changes on every shard, the rows are on one.",
            ));
        }
        let mut plan = match all.changes_schema {
            true => Plan::combined(Access::Write, Scope::All, Combine::Same),
            false => Plan::run(Access::Write, Scope::Home),
        };
        plan.is_shareable = false;
        plan.changes_schema = all.changes_schema;
        plan.numbers = all.numbers.map(Box::new);
        plan
    }

    /// Tables that the block's schema changes lean on and that the catalog does not know.
    pub(super) fn unknown_in_code(&self, range: &Range<usize>) -> Vec<String> {
        let texts = parts(&self.sql[range.clone()]).unwrap_or_default();
        let texts = texts.into_iter().filter_map(|it| match it {
            Part::Sql(text) => Some(text),
            Part::Expr(_) | Part::Opaque(_) => None,
        });
        let statements = texts.flat_map(|it| parse(&it).unwrap_or_default());
        statements.flat_map(|it| self.unknown_to_ddl(&it.kind)).collect()
    }

    fn part(&self, part: &Part, all: &mut Effects) -> Result<(), PgError> {
        match part {
            Part::Opaque(what) => Err(refused(
                &format!("DO with {what}"),
                "The proxy cannot tell which tables it reads and writes.",
            )),
            Part::Expr(text) => self.text(&format!("SELECT {text}"), all),
            Part::Sql(text) => self.text(text, all),
        }
    }

    fn text(&self, sql: &str, all: &mut Effects) -> Result<(), PgError> {
        let inner = Planner { catalog: self.catalog, sharded: true, session: self.session, sql };
        let Ok(statements) = parse(sql) else {
            return Err(refused(
                "a DO block that the proxy cannot read",
                format!("This part of it is no SQL: {sql}"),
            ));
        };
        statements.iter().try_for_each(|it| inner.effect(it, all))
    }

    fn effect(&self, statement: &Statement, all: &mut Effects) -> Result<(), PgError> {
        match &statement.kind {
            Stmt::Ddl(ddl) => self.changes(ddl, statement, all),
            Stmt::Query(query) => {
                let mut analyzer = self.analyzer(&statement.range);
                analyzer.query(query);
                if !looks_at_schema_only(&analyzer) {
                    self.at_home(statement)?;
                    all.touches_home = true;
                }
                Ok(())
            }
            _ => {
                all.touches_home = true;
                self.at_home(statement)
            }
        }
    }

    fn changes(&self, ddl: &Ddl, statement: &Statement, all: &mut Effects) -> Result<(), PgError> {
        let plan = self.ddl(ddl, &statement.range);
        let run = match plan.action {
            Action::Refuse(error) => return Err(error),
            Action::Run(run) => run,
            Action::Local(_) => return Err(not_in_code(ddl.what.as_str())),
        };
        if !matches!(run.combine, Combine::Same) {
            return Err(not_in_code(ddl.what.as_str()));
        }
        let leans: Vec<TableName> = leans_on(&statement.kind);
        if let Some(table) = leans.iter().find(|it| all.changed.contains(&it.name)) {
            return Err(PgError::refused(format!(
                "{} is created or changed in the same block",
                table.name
            ))
            .detail("The block is planned before the change is made.")
            .hint("Send the second change as a statement of its own."));
        }
        if plan.bound.is_some() {
            return Err(not_in_code("a foreign key that waits for its tenant column"));
        }
        if plan.times.is_some() {
            return Err(refused(
                "DO of ADD COLUMN with the transaction's time as its default",
                "Each shard would fill it with a time of its own.",
            ));
        }
        if let Some(numbers) = plan.numbers {
            if all.numbers.is_some() || !numbers.filled.is_empty() || numbers.spreads {
                return Err(refused(
                    "DO with columns that count",
                    "Their sequences must be shared by the shards, which is done after a statement.",
                ));
            }
            all.numbers = Some(*numbers);
        }
        all.changes_schema = true;
        all.changed.extend(changed_tables(&statement.kind));
        Ok(())
    }

    /// Whether one statement may run on the home shard as a part of a block.
    fn at_home(&self, statement: &Statement) -> Result<(), PgError> {
        let plan = self.statement(statement);
        let leaves_nothing = plan.pin.is_none() && plan.sets.is_empty() && plan.uses.is_none();
        match plan.action {
            Action::Refuse(error) => Err(error),
            Action::Run(run)
                if matches!(run.scope, Scope::Home | Scope::Any)
                    && leaves_nothing
                    && !plan.changes_schema =>
            {
                Ok(())
            }
            _ => Err(refused(
                "DO with rows of other shards, or with settings",
                "A block runs on one server as a whole.",
            )),
        }
    }
}

fn looks_at_schema_only(found: &Analyzer<'_>) -> bool {
    let facts = &found.facts;
    let acts = facts.modifies || facts.has_locks || facts.has_advisory || facts.set_configs > 0;
    let is_known = |it: &String| SCHEMA.contains(&it.as_str());
    !(acts || facts.is_refused() || facts.has_unknown_function || facts.pin.is_some())
        && facts.volatility < Volatility::Volatile
        && !(facts.tells_time || facts.beyond_system || found.graph.has_sharded())
        && facts.unknown_tables.is_empty()
        && facts.tables.iter().all(is_known)
}

/// The tables whose kind decides whether a schema change can be guaranteed.
pub(super) fn leans_on(statement: &Stmt) -> Vec<TableName> {
    use crate::sql::parse::tree::{AlterTable, Constraint, DdlKind};
    let Stmt::Ddl(ddl) = statement else { return Vec::new() };
    let referenced = |it: &Constraint| match it {
        Constraint::Foreign { table, .. } => Some(table.clone()),
        _ => None,
    };
    match &ddl.kind {
        DdlKind::CreateTable(it) => {
            let of_columns = it.columns.iter().flat_map(|it| &it.constraints);
            let is_other = |table: &TableName| table.name != it.table.name;
            let others = it.constraints.iter().chain(of_columns).filter_map(referenced);
            others.chain(it.parents.iter().cloned()).filter(is_other).collect()
        }
        DdlKind::AlterTable { table, changes } => {
            let mut found = vec![table.clone()];
            for change in changes {
                match change {
                    AlterTable::AddColumn(it) => {
                        found.extend(it.constraints.iter().filter_map(referenced));
                    }
                    AlterTable::AddConstraint(it) => found.extend(referenced(it)),
                    AlterTable::Attach(it) => found.push(it.clone()),
                    _ => (),
                }
            }
            found
        }
        DdlKind::CreateIndex { table, .. }
        | DdlKind::RenameColumn { table, .. }
        | DdlKind::RenameTable { table, .. } => vec![table.clone()],
        _ => Vec::new(),
    }
}

fn not_in_code(what: &str) -> PgError {
    refused(&format!("DO with {what}"), "It does not run in one transaction on all shards.")
}

fn refused(what: &str, detail: impl Into<String>) -> PgError {
    PgError::refused(format!("{what} is not supported with several shards")).detail(detail).hint(
        "Send its statements one by one, or SET sluice.tenant to run it on one tenant's shard.",
    )
}
