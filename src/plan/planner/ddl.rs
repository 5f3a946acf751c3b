//! Schema changes and maintenance: they reach all shards or none.

use std::ops::Range;

use super::from::find;
use super::gather::timed_parts;
use super::types::oid_of;
use super::{Planner, refuse};
use crate::catalog::{ColumnDefault, Table, TableKind};
use crate::error::PgError;
use crate::plan::{Access, AddedTimes, Combine, Indexes, Numbers, Plan, Scope};
use crate::shard::KeyType;
use crate::sql::name::{quoted, quoted_text};
use crate::sql::parse::tree::{
    AlterTable, ColumnDef, Constraint, CreateTable, Ddl, DdlKind, Expr, Kind, Literal, Maintain,
    Stmt, TableName,
};

const HINT_LOCAL: &str =
    "Add the tenant column to the key, or set allow_local_keys if shards may differ.";
const HINT_GLOBAL: &str = "Add the tenant column to the key, declare the key in global_unique, or \
    set allow_local_keys if shards may differ.";
const HINT_TRUST: &str = "Add the tenant column to the key, or set trust_generated_keys if its values \
    come from the column's default alone.";

/// The OID of the type.
const UUID: u32 = 2950;

/// Where a table's rows live, or will live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Sharded,
    Reference,
    Home,
    Unknown,
}

/// A table whose constraints are looked at, with the columns that the statement itself makes.
struct Own<'a> {
    table: &'a TableName,
    columns: &'a [ColumnDef],
}

impl Planner<'_> {
    fn table(&self, name: &TableName) -> Option<&Table> {
        find(self.catalog, &self.path(), name)
    }

    pub(super) fn class(&self, name: &TableName) -> Class {
        match self.table(name).map(|it| &it.kind) {
            Some(TableKind::Sharded { .. } | TableKind::Unusable(_)) => Class::Sharded,
            Some(TableKind::Reference) => Class::Reference,
            Some(_) => Class::Home,
            None => Class::Unknown,
        }
    }

    /// Whether all are on the home shard alone.
    fn is_home(&self, tables: &[TableName]) -> bool {
        tables.iter().all(|it| matches!(self.class(it), Class::Home | Class::Unknown))
    }

    fn tenant_of(&self, name: &TableName) -> Option<&str> {
        let table = self.table(name)?;
        match table.kind {
            TableKind::Sharded { column, .. } => Some(&table.columns.get(column)?.name),
            _ => None,
        }
    }

    /// A temporary table lives on the home shard, and the session keeps that server.
    fn temporary(&self, name: &TableName, pin: &'static str) -> Plan {
        if let Some(error) = self.hides(name) {
            return Plan::forbidden(error);
        }
        let mut plan = Plan::run(Access::Write, Scope::Home).pinned(pin);
        plan.is_shareable = false;
        plan
    }

    /// Why a temporary table cannot have this name.
    pub(super) fn hides(&self, name: &TableName) -> Option<PgError> {
        let bare = TableName { catalog: None, schema: None, name: name.name.clone() };
        let hides = matches!(self.class(&bare), Class::Sharded | Class::Reference);
        hides.then(|| {
            PgError::refused(format!("a temporary table cannot be called {}", name.name))
                .detail("It would hide a table with rows on several shards.")
                .hint("Choose another name.")
        })
    }

    /// The class that a table of this name would have, as far as its name tells.
    pub(super) fn class_by_name(&self, name: &TableName) -> Class {
        let full = name.schema.as_ref().map(|schema| format!("{schema}.{}", name.name));
        let listed = &self.catalog.reference_tables;
        match listed.contains(&name.name) || full.is_some_and(|it| listed.contains(&it)) {
            true => Class::Reference,
            false => Class::Unknown,
        }
    }

    /// TRUNCATE and LOCK TABLE. A table of the home shard has no rows on the others.
    pub(super) fn on_tables(&self, tables: &[TableName]) -> Plan {
        match !self.sharded || self.is_home(tables) {
            true => Plan::run(Access::Write, Scope::Home),
            false => Plan::combined(Access::Write, Scope::All, Combine::Same),
        }
    }

    pub(super) fn maintain(&self, it: &Maintain) -> Plan {
        let is_home = !it.tables.is_empty() && self.is_home(&it.tables);
        if !self.sharded || is_home {
            let mut plan = Plan::run(Access::Write, Scope::Home);
            plan.is_shareable = false;
            return plan;
        }
        let combine = match it.what {
            "REFRESH MATERIALIZED VIEW" => Combine::Same,
            _ => Combine::OneByOne,
        };
        Plan::combined(Access::Write, Scope::All, combine)
    }

    pub(super) fn ddl(&self, it: &Ddl, range: &Range<usize>) -> Plan {
        let is_temporary = match &it.kind {
            DdlKind::CreateTable(it) if it.is_temporary => Some((&it.table, "temporary table")),
            DdlKind::CreateView { is_temporary: true, view, .. } => Some((view, "temporary view")),
            _ => None,
        };
        if let Some((name, pin)) = is_temporary {
            return match self.check_temporary_view(&it.kind, range) {
                Ok(()) => self.temporary(name, pin),
                Err(error) => Plan::forbidden(error),
            };
        }
        if matches!(it.kind, DdlKind::CreateSequence { is_temporary: true, .. }) {
            return Plan::run(Access::Write, Scope::Home).pinned("temporary sequence");
        }
        if !self.sharded {
            let mut plan = Plan::run(Access::Write, Scope::Home);
            plan.is_shareable = false;
            plan.changes_schema = makes_code(it) && it.leaves.is_none();
            plan.alters = true;
            plan.leaves = it.leaves.as_deref().map(Into::into);
            return plan;
        }
        match self.check(&it.kind, range) {
            Err(error) => Plan::forbidden(error),
            Ok(()) if is_of_temporary(&it.kind) => Plan::run(Access::Write, Scope::Home),
            Ok(()) if runs_alone(&it.kind) => Plan {
                changes_schema: true,
                leaves: it.leaves.as_deref().map(Into::into),
                indexes: indexes(&it.kind).map(Box::new),
                ..Plan::combined(Access::Write, Scope::All, Combine::OneByOne)
            },
            Ok(()) if self.has_unlike_times(&it.kind, range) => {
                Plan::forbidden(unlike_default("a column"))
            }
            Ok(()) => Plan {
                numbers: self.numbers(&it.kind).map(Box::new),
                times: self.added_times(&it.kind, range).map(Box::new),
                bound: self.bound(&it.kind).map(|it| shown(it).into()),
                ..everywhere()
            },
        }
    }

    /// The sequences that a change makes, alters or lets a sharded table use.
    fn numbers(&self, kind: &DdlKind) -> Option<Numbers> {
        if let Some(of) = self.spread(kind) {
            return Some(Numbers { of: shown(&of), filled: Vec::new(), spreads: true });
        }
        let (of, filled) = match kind {
            DdlKind::CreateTable(it) => {
                let counts = it.columns.iter().any(counts) || !it.parents.is_empty();
                (counts.then_some(&it.table)?, Vec::new())
            }
            DdlKind::AlterTable { table, changes } => {
                let is_shared = matches!(self.class(table), Class::Sharded | Class::Unknown);
                let touches = changes.iter().any(touches_sequence);
                let added = changes.iter().filter_map(|it| match it {
                    AlterTable::AddColumn(it) if counts(it) => Some(it.name.clone()),
                    _ => None,
                });
                ((is_shared && touches).then_some(table)?, added.collect())
            }
            DdlKind::CreateSequence { sequence, .. } | DdlKind::AlterSequence { sequence } => {
                (sequence, Vec::new())
            }
            _ => return None,
        };
        Some(Numbers { of: shown(of), filled, spreads: false })
    }

    /// The table of the home shard that a change binds to rows of other shards by a foreign key.
    fn bound<'k>(&self, kind: &'k DdlKind) -> Option<&'k TableName> {
        let DdlKind::AlterTable { table, changes } = kind else { return None };
        let is_foreign = |it: &Constraint| match it {
            Constraint::Foreign { table, .. } => self.class(table) == Class::Sharded,
            _ => false,
        };
        let binds = |it: &AlterTable| match it {
            AlterTable::AddColumn(it) => it.constraints.iter().any(is_foreign),
            AlterTable::AddConstraint(it) => is_foreign(it),
            _ => false,
        };
        let waits = self.waits_for_tenant(table) && self.spread(kind).is_none();
        (waits && changes.iter().any(binds)).then_some(table)
    }

    /// Whether a table may be about to become sharded: tools add the tenant column after others.
    fn waits_for_tenant(&self, table: &TableName) -> bool {
        self.class(table) == Class::Home
            && self.catalog.trust_generated_keys
            && !self.catalog.allow_local_keys
    }

    /// The table of the home shard that the change makes a sharded or a reference table, or the sharded one that
    /// it makes one of the home shard.
    fn spread(&self, kind: &DdlKind) -> Option<TableName> {
        let tenant = self.catalog.tenant_column.as_deref()?;
        match kind {
            DdlKind::AlterTable { table, changes } if self.class(table) == Class::Home => {
                let is_it =
                    |it: &AlterTable| matches!(it, AlterTable::AddColumn(it) if it.name == tenant);
                changes.iter().any(is_it).then(|| table.clone())
            }
            DdlKind::AlterTable { table, changes } if self.tenant_of(table).is_some() => {
                let is_it =
                    |it: &AlterTable| matches!(it, AlterTable::DropColumn(it) if it == tenant);
                changes.iter().any(is_it).then(|| table.clone())
            }
            DdlKind::RenameColumn { table, to, .. } if self.class(table) == Class::Home => {
                (to == tenant).then(|| table.clone())
            }
            DdlKind::RenameTable { table, to } if self.class(table) == Class::Home => {
                let renamed = TableName { name: to.clone(), ..table.clone() };
                (self.class_by_name(&renamed) == Class::Reference).then_some(renamed)
            }
            _ => None,
        }
    }

    /// Whether a table of the home shard, which its rows must not keep from it, may become sharded by this
    /// column: the keys it has must be ones that a sharded table may have.
    fn check_spread(
        &self,
        table: &TableName,
        columns: &[ColumnDef],
        tenant: &str,
    ) -> Result<(), PgError> {
        let own = Own { table, columns };
        let Some(known) = self.table(table) else { return Ok(()) };
        known.unique_keys.iter().try_for_each(|key| {
            let names: Vec<&String> = key.iter().map(|at| &known.columns[*at].name).collect();
            match self.catalog.allow_local_keys {
                true => Ok(()),
                false => self.check_unique(&own, &names, tenant),
            }
        })
    }

    /// A temporary view is not in the catalog, so that its tables must be of the home shard, too.
    fn check_temporary_view(&self, kind: &DdlKind, range: &Range<usize>) -> Result<(), PgError> {
        let DdlKind::CreateView { view, query: Stmt::Query(query), .. } = kind else {
            return Ok(());
        };
        let mut analyzer = self.analyzer(range);
        analyzer.query(query);
        match analyzer.facts.refusal {
            Some(error) if self.sharded => Err(error),
            None if self.sharded && analyzer.graph.has_sharded() => Err(PgError::refused(format!(
                "temporary view {} cannot be over sharded tables",
                view.name
            ))
            .detail("The proxy does not know temporary views, which one server has.")
            .hint("Create a view that is not temporary.")),
            _ => Ok(()),
        }
    }

    /// Refuses what shards cannot guarantee together.
    fn check(&self, kind: &DdlKind, range: &Range<usize>) -> Result<(), PgError> {
        match kind {
            DdlKind::CreateTable(it) => self.check_create(it),
            DdlKind::Database => Err(PgError::refused(
                "CREATE and DROP DATABASE are not supported with several shards",
            )
            .detail("Clients reach the databases that the configuration names.")
            .hint("Create it on each shard's server, and add it to the configuration.")),
            DdlKind::AlterTable { table, changes } => {
                if changes.len() > 1 && self.spread(kind).is_some() {
                    return Err(PgError::refused(format!(
                        "table {} cannot become sharded, or cease to be, while it is changed otherwise",
                        table.name
                    ))
                    .hint("ADD or DROP the tenant column in a statement of its own."));
                }
                changes.iter().try_for_each(|it| self.check_alter(table, it, range))
            }
            DdlKind::CreateIndex { table, unique: true, columns, concurrently, .. } => {
                self.check_unique_index(table, columns, *concurrently)
            }
            DdlKind::RenameColumn { table, column, to } => {
                match self.catalog.tenant_column.as_deref() {
                    Some(tenant) if self.class(table) == Class::Home && to == tenant => {
                        self.check_spread(table, &[], column)
                    }
                    _ => {
                        self.check_tenant_kept(table, column)?;
                        self.check_global_kept(table, Some(column))
                    }
                }
            }
            DdlKind::RenameTable { table, .. } if self.class(table) == Class::Reference => {
                Err(PgError::refused(format!("reference table {} cannot be renamed", table.name))
                    .detail("The configuration knows it by its name.")
                    .hint("Change the configuration first."))
            }
            DdlKind::RenameTable { table, .. } => self.check_global_kept(table, None),
            _ => Ok(()),
        }
    }

    fn check_unique_index(
        &self,
        table: &TableName,
        columns: &[Option<String>],
        concurrently: bool,
    ) -> Result<(), PgError> {
        let Some(tenant) = self.tenant_of(table) else { return Ok(()) };
        let names: Option<Vec<&str>> = columns.iter().map(Option::as_deref).collect();
        let is_global = names.is_some_and(|it| self.is_global(table, it.iter().copied()));
        if is_global && concurrently {
            return Err(self.not_concurrently());
        }
        if is_global || self.catalog.allow_local_keys {
            return Ok(());
        }
        let columns: Vec<&String> = columns.iter().flatten().collect();
        self.check_unique(&Own { table, columns: &[] }, &columns, tenant)
    }

    fn check_tenant_kept(&self, table: &TableName, column: &str) -> Result<(), PgError> {
        if self.tenant_of(table) != Some(column) {
            return Ok(());
        }
        Err(PgError::refused(format!(
            "the tenant column {column} of {} cannot be changed",
            table.name
        ))
        .detail("It tells which shard a row belongs to.")
        .hint("Create a new table and copy the rows."))
    }

    fn check_create(&self, it: &CreateTable) -> Result<(), PgError> {
        if self.class_by_name(&it.table) == Class::Reference {
            return Ok(());
        }
        let tenant = self.catalog.tenant_column.as_deref();
        let own = it.columns.iter().find(|it| Some(it.name.as_str()) == tenant);
        let inherited = it.parents.iter().find_map(|it| self.tenant_of(it));
        match (own.and(tenant).or(inherited), own) {
            (Some(tenant), own) => {
                own.map_or(Ok(()), check_key_type)?;
                let of_columns = it.columns.iter().flat_map(|it| &it.constraints);
                let mut all = it.constraints.iter().chain(of_columns);
                let own = Own { table: &it.table, columns: &it.columns };
                all.try_for_each(|found| self.check_constraint(&own, found, tenant))
            }
            (None, _) => {
                let of_columns = it.columns.iter().flat_map(|it| &it.constraints);
                it.constraints.iter().chain(of_columns).try_for_each(|it| self.check_home_key(it))
            }
        }
    }

    fn check_constraint(
        &self,
        own: &Own<'_>,
        it: &Constraint,
        tenant: &str,
    ) -> Result<(), PgError> {
        if self.catalog.allow_local_keys {
            return Ok(());
        }
        let holds = |columns: &[String]| columns.iter().any(|it| it == tenant);
        match it {
            Constraint::Unique { using_index: true, .. } => Ok(()),
            Constraint::Unique { columns, .. }
                if self.is_global(own.table, columns.iter().map(String::as_str)) =>
            {
                Ok(())
            }
            Constraint::Unique { columns, .. } => {
                self.check_unique(own, &columns.iter().collect::<Vec<_>>(), tenant)
            }
            Constraint::Exclusion { columns }
                if columns.iter().flatten().any(|it| it == tenant) =>
            {
                Ok(())
            }
            Constraint::Exclusion { .. } => Err(not_unique(tenant, HINT_LOCAL)),
            Constraint::Foreign { columns, table, referenced } => {
                let is_own = table.name == own.table.name && table.schema == own.table.schema;
                let class = if is_own { Class::Sharded } else { self.class(table) };
                let their = if is_own { Some(tenant) } else { self.tenant_of(table) };
                let pairs = referenced.is_empty()
                    || columns
                        .iter()
                        .zip(referenced)
                        .any(|(mine, other)| mine == tenant && their.is_none_or(|it| it == other));
                let columns_of = if is_own { own.columns } else { &[] };
                let is_generated = class == Class::Sharded
                    && columns.len() == 1
                    && self.refers_generated(&Own { table, columns: columns_of }, referenced);
                match class {
                    Class::Reference => Ok(()),
                    Class::Sharded if holds(columns) && pairs => Ok(()),
                    // There is no such table: the servers say so.
                    Class::Unknown => Ok(()),
                    Class::Sharded if is_generated && self.catalog.trust_generated_keys => Ok(()),
                    Class::Home => {
                        Err(foreign(&table.name, "Its rows are on the home shard alone."))
                    }
                    _ => {
                        let detail = "The key does not hold the tenant column on both sides.";
                        let error = foreign(&table.name, detail);
                        Err(if is_generated { error.hint(HINT_TRUST) } else { error })
                    }
                }
            }
        }
    }

    /// A unique key holds the tenant column, or one that no two shards give a value of: by promise.
    fn check_unique(
        &self,
        own: &Own<'_>,
        columns: &[&String],
        tenant: &str,
    ) -> Result<(), PgError> {
        if columns.iter().any(|it| *it == tenant) {
            return Ok(());
        }
        let is_generated = columns.iter().any(|it| self.is_generated(own, it));
        match is_generated {
            true if self.catalog.trust_generated_keys => Ok(()),
            true => Err(not_unique(tenant, HINT_TRUST)),
            false => Err(not_unique(tenant, HINT_GLOBAL)),
        }
    }

    /// Whether a foreign key of one column refers to one whose values are generated.
    fn refers_generated(&self, own: &Own<'_>, referenced: &[String]) -> bool {
        if let [column] = referenced {
            return self.is_generated(own, column);
        }
        // The primary key, whichever of the keys that is.
        let mut keys: Vec<&str> = Vec::new();
        for column in own.columns {
            let is_key = |it: &Constraint| matches!(it, Constraint::Unique { .. });
            keys.extend(column.constraints.iter().any(is_key).then_some(column.name.as_str()));
        }
        if let Some(table) = self.table(own.table) {
            let single = table.unique_keys.iter().filter(|it| it.len() == 1).flatten();
            keys.extend(single.map(|it| table.columns[*it].name.as_str()));
        }
        referenced.is_empty()
            && !keys.is_empty()
            && keys.iter().all(|it| self.is_generated(own, it))
    }

    /// Whether a column's values come from a sequence that shards share, or are uuids.
    fn is_generated(&self, own: &Own<'_>, column: &str) -> bool {
        if let Some(it) = own.columns.iter().find(|it| it.name == column) {
            let is_uuid = it.ty.as_ref().is_some_and(|ty| ty.name == "uuid");
            return is_uuid || counts(it) || it.default.as_ref().is_some_and(is_id);
        }
        let Some(table) = self.table(own.table) else { return false };
        let Some(at) = table.column(column) else { return false };
        let column = &table.columns[at];
        match &column.default {
            ColumnDefault::Sequence(sequence) => sequence.is_some(),
            ColumnDefault::Computed(text) => {
                column.type_oid == UUID || text.trim_end_matches("()") == "sluice.unique_id"
            }
            ColumnDefault::Constant | ColumnDefault::Generated => column.type_oid == UUID,
        }
    }

    /// A foreign key that a table of the home shard is given, which may become sharded yet.
    fn check_bound(&self, own: &TableName, it: &Constraint) -> Result<(), PgError> {
        match it {
            Constraint::Foreign { columns, table, referenced }
                if self.waits_for_tenant(own)
                    && columns.len() == 1
                    && self.refers_generated(&Own { table, columns: &[] }, referenced) =>
            {
                Ok(())
            }
            _ => self.check_home_key(it),
        }
    }

    /// A foreign key of a table of the home shard.
    fn check_home_key(&self, it: &Constraint) -> Result<(), PgError> {
        match it {
            Constraint::Foreign { table, .. }
                if self.class(table) == Class::Sharded && !self.catalog.allow_local_keys =>
            {
                Err(foreign(&table.name, "Its rows are on other shards than the home shard's."))
            }
            _ => Ok(()),
        }
    }

    fn check_alter(
        &self,
        table: &TableName,
        change: &AlterTable,
        range: &Range<usize>,
    ) -> Result<(), PgError> {
        let class = self.class(table);
        let tenant = self.tenant_of(table);
        match (change, tenant) {
            (AlterTable::AddColumn(def), Some(tenant)) => {
                let own = Own { table, columns: std::slice::from_ref(def) };
                if counts(def) && def.if_not_exists {
                    return Err(not_again(&def.name));
                }
                self.check_default(def, range, class)?;
                let mut constraints = def.constraints.iter();
                constraints.try_for_each(|it| self.check_constraint(&own, it, tenant))
            }
            (AlterTable::AddColumn(def), None) => {
                let is_tenant = self.catalog.tenant_column.as_deref() == Some(&def.name);
                if class == Class::Home && is_tenant {
                    check_key_type(def)?;
                    let own = Own { table, columns: std::slice::from_ref(def) };
                    self.check_spread(table, own.columns, &def.name)?;
                    let mut constraints = def.constraints.iter();
                    return constraints
                        .try_for_each(|it| self.check_constraint(&own, it, &def.name));
                }
                if class == Class::Reference && counts(def) {
                    return Err(unlike_numbers(&def.name, &table.name));
                }
                def.constraints.iter().try_for_each(|it| self.check_bound(table, it))?;
                self.check_default(def, range, class)
            }
            (AlterTable::AddConstraint(it), Some(tenant)) => {
                self.check_constraint(&Own { table, columns: &[] }, it, tenant)
            }
            (AlterTable::AddConstraint(it), None) if class != Class::Reference => {
                self.check_bound(table, it)
            }
            // It must be empty then.
            (AlterTable::DropColumn(column), Some(tenant)) if column == tenant => {
                self.check_global_kept(table, None)
            }
            (AlterTable::DropColumn(column), Some(_)) => self.check_tenant_kept(table, column),
            (AlterTable::ColumnType(column), Some(_)) => {
                self.check_tenant_kept(table, column)?;
                self.check_global_kept(table, Some(column))
            }
            (AlterTable::Attach(other), _) => self.check_attach(table, other),
            _ => Ok(()),
        }
    }

    fn check_attach(&self, table: &TableName, other: &TableName) -> Result<(), PgError> {
        let (one, two) = (self.class(table), self.class(other));
        if one == two || one == Class::Unknown || two == Class::Unknown {
            return Ok(());
        }
        Err(PgError::refused(format!("{} and {} are not sharded alike", table.name, other.name))
            .hint("Give both the tenant column."))
    }

    /// A default that fills existing rows must be the same on every shard.
    fn check_default(
        &self,
        def: &ColumnDef,
        range: &Range<usize>,
        class: Class,
    ) -> Result<(), PgError> {
        let Some(default) = def.default.as_ref().filter(|_| class != Class::Home) else {
            return Ok(());
        };
        // Numbers that two shards gave are replaced afterwards, and all get one time.
        if is_nextval(default) && class == Class::Sharded || told_time(default).is_some() {
            return Ok(());
        }
        let mut analyzer = self.analyzer(range);
        analyzer.enter();
        analyzer.facts.in_rows = class == Class::Sharded;
        analyzer.expr(default);
        match analyzer.facts.not_fanned {
            Some(_) => Err(unlike_default(&format!("column {}", def.name))),
            None => Ok(()),
        }
    }

    /// Columns that a change adds to rows of several shards with the transaction's time, and their defaults.
    fn adds_times<'k>(
        &self,
        kind: &'k DdlKind,
    ) -> impl Iterator<Item = (&'k ColumnDef, String)> + use<'k> {
        let changes = match kind {
            DdlKind::AlterTable { table, changes } if self.class(table) != Class::Home => {
                changes.as_slice()
            }
            _ => &[],
        };
        changes.iter().filter_map(|it| match it {
            AlterTable::AddColumn(def) => Some((def, told_time(def.default.as_ref()?)?)),
            _ => None,
        })
    }

    fn has_unlike_times(&self, kind: &DdlKind, range: &Range<usize>) -> bool {
        self.adds_times(kind).next().is_some() && self.added_times(kind, range).is_none()
    }

    /// How they get one time; `None` if the text says it elsewhere, too, or a column may be there already.
    fn added_times(&self, kind: &DdlKind, range: &Range<usize>) -> Option<AddedTimes> {
        let DdlKind::AlterTable { table, .. } = kind else { return None };
        let (sql, count) = timed_parts(self.sql, range)?;
        let added: Vec<(&ColumnDef, String)> = self.adds_times(kind).collect();
        if added.is_empty()
            || count != added.len()
            || added.iter().any(|(def, _)| def.if_not_exists)
        {
            return None;
        }
        let default = |(def, text): (&ColumnDef, String)| {
            let (table, column) = (shown(table), quoted(&def.name));
            format!("ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {text}")
        };
        Some(AddedTimes { sql, defaults: added.into_iter().map(default).collect() })
    }
}

/// A default that is the transaction's time, as SQL writes it.
fn told_time(default: &Expr) -> Option<String> {
    match &default.kind {
        Kind::Call(call) if !matches!(call.schema.as_deref(), None | Some("pg_catalog")) => None,
        Kind::Call(call) => match (call.name.as_str(), call.args.as_slice()) {
            ("now" | "transaction_timestamp", []) => Some("now()".to_owned()),
            ("timezone", [Expr { kind: Kind::Literal(Literal::Text(zone)), .. }, time]) => {
                let (zone, time) = (quoted_text(zone), told_time(time)?);
                // Postgres tells the two apart where it shows them.
                Some(match call.schema {
                    Some(_) => format!("({time} AT TIME ZONE {zone})"),
                    None => format!("timezone({zone}, {time})"),
                })
            }
            _ => None,
        },
        Kind::Value("current_timestamp") => Some("CURRENT_TIMESTAMP".to_owned()),
        Kind::Value("current_date") => Some("CURRENT_DATE".to_owned()),
        Kind::Value("localtimestamp") => Some("LOCALTIMESTAMP".to_owned()),
        Kind::Cast(inner, ty) => {
            oid_of(ty).filter(|_| !ty.has_modifier)?;
            Some(format!("({})::{}", told_time(inner)?, ty.name))
        }
        _ => None,
    }
}

fn unlike_default(of: &str) -> PgError {
    refuse::not_immutable(&format!("the default of {of}"))
        .hint("Add the column without a default, then UPDATE it.")
}

pub(super) fn everywhere() -> Plan {
    Plan { changes_schema: true, ..Plan::combined(Access::Write, Scope::All, Combine::Same) }
}

/// Whether it makes or renames what statements run unseen: functions, views, rules, triggers.
fn makes_code(it: &Ddl) -> bool {
    let begins = ["CREATE FUNCTION", "CREATE TRIG", "CREATE EXTENSION", "RULE", "RENAME", "DEFINE"];
    let moves = it.what.contains("SCHEMA") || it.what.starts_with("ALTER FUNCTION");
    match &it.kind {
        DdlKind::CreateView { .. } => true,
        DdlKind::Other => moves || begins.iter().any(|word| it.what.starts_with(word)),
        _ => false,
    }
}

/// The index that a change makes or drops apart from a transaction.
fn indexes(kind: &DdlKind) -> Option<Indexes> {
    match kind {
        DdlKind::CreateIndex { table, index: Some(index), concurrently: true, .. } => {
            Some(Indexes::Made { index: index.clone(), table: shown(table) })
        }
        DdlKind::Drop { tables, concurrently: true } => match tables.as_slice() {
            [one] => Some(Indexes::Dropped { index: shown(one) }),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the change cannot run in a transaction.
fn runs_alone(kind: &DdlKind) -> bool {
    matches!(
        kind,
        DdlKind::OutsideTransaction
            | DdlKind::Database
            | DdlKind::CreateIndex { concurrently: true, .. }
            | DdlKind::Drop { concurrently: true, .. }
    )
}

/// Whether it names a temporary table by its schema.
fn is_of_temporary(kind: &DdlKind) -> bool {
    let is_temporary = |it: &TableName| it.schema.as_deref() == Some("pg_temp");
    match kind {
        DdlKind::AlterTable { table, .. }
        | DdlKind::CreateIndex { table, .. }
        | DdlKind::RenameColumn { table, .. }
        | DdlKind::RenameTable { table, .. } => is_temporary(table),
        DdlKind::Drop { tables, .. } => !tables.is_empty() && tables.iter().all(is_temporary),
        _ => false,
    }
}

fn calls_nextval(expr: &Expr) -> bool {
    let own = matches!(&expr.kind, Kind::Call(call) if call.name == "nextval");
    own || expr.children().into_iter().any(calls_nextval)
}

/// Whether it is a number of a sequence and nothing else.
fn is_nextval(expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Cast(inner, _) => is_nextval(inner),
        Kind::Call(call) => {
            call.name == "nextval" && !call.args.iter().any(|it| matches!(it.kind, Kind::Call(_)))
        }
        _ => false,
    }
}

/// Whether a column takes numbers from a sequence.
fn counts(it: &ColumnDef) -> bool {
    const SERIALS: [&str; 6] =
        ["serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"];
    let is_serial = it.ty.as_ref().is_some_and(|ty| SERIALS.contains(&ty.name.as_str()));
    is_serial || it.is_identity || it.default.as_ref().is_some_and(calls_nextval)
}

/// Whether it is a call that gives each id once whatever the shard.
fn is_id(expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Cast(inner, _) => is_id(inner),
        Kind::Call(call) => call.schema.as_deref() == Some("sluice") && call.name == "unique_id",
        _ => false,
    }
}

fn touches_sequence(change: &AlterTable) -> bool {
    match change {
        AlterTable::AddColumn(it) => counts(it),
        AlterTable::Default { default, .. } => default.as_ref().is_some_and(calls_nextval),
        AlterTable::Identity { .. } | AlterTable::Attach(_) | AlterTable::Other => true,
        _ => false,
    }
}

pub(super) fn shown(name: &TableName) -> String {
    let schema = name.schema.as_ref().map(|it| format!("{}.", quoted(it)));
    schema.unwrap_or_default() + &quoted(&name.name)
}

fn check_key_type(it: &ColumnDef) -> Result<(), PgError> {
    let kind = it.ty.as_ref().and_then(oid_of).and_then(KeyType::of_oid);
    match kind {
        Some(_) => Ok(()),
        None => {
            Err(PgError::refused(format!("the tenant column {} cannot be of this type", it.name))
                .hint("Use text, varchar, uuid, smallint, integer or bigint."))
        }
    }
}

fn not_unique(tenant: &str, hint: &str) -> PgError {
    PgError::refused(format!(
        "a unique key without the tenant column {tenant} cannot be guaranteed"
    ))
    .detail("Each shard checks its own rows.")
    .hint(hint)
}

fn foreign(table: &str, detail: &str) -> PgError {
    PgError::refused(format!("a foreign key to {table} cannot be guaranteed"))
        .detail(detail)
        .hint(HINT_LOCAL)
}

fn not_again(column: &str) -> PgError {
    PgError::refused(format!("column {column} cannot be added with IF NOT EXISTS"))
        .detail("If it existed, its numbers would be given anew.")
        .hint("Leave IF NOT EXISTS out.")
}

/// Rows have another order on each shard.
fn unlike_numbers(column: &str, table: &str) -> PgError {
    PgError::refused(format!(
        "column {column} would number the rows of reference table {table} differently on each shard"
    ))
    .hint("Add the column without numbers, UPDATE it by the table's key, then SET DEFAULT.")
}
