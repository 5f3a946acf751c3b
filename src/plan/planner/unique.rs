//! Keys that are unique over all shards: which of them a statement may change.

use super::from::find;
use super::write::plain_values;
use super::{Planner, refuse};
use crate::catalog::sequence::Name;
use crate::catalog::unique::GlobalKey;
use crate::catalog::{ColumnDefault, Table, TableKind};
use crate::error::PgError;
use crate::plan::unique::{Lookup, Taken, Unique};
use crate::plan::{Access, Action, Combine, Plan, Run, Scope};
use crate::sql::parse::tree::{
    Assign, Conflict, ConflictTarget, CopySource, Insert, Statement, Stmt, TableName, WhenAction,
    With,
};

/// A table that a statement writes, and how.
struct Written<'a> {
    table: &'a TableName,
    inserts: bool,
    deletes: bool,
    /// Columns that it sets.
    sets: Vec<&'a str>,
}

impl Planner<'_> {
    /// Notes which keys over shards the statement may change.
    pub(super) fn note_unique(&self, plan: &mut Plan, statement: &Statement) {
        if !self.sharded || self.catalog.global_unique.is_empty() {
            return;
        }
        let may_write = match &plan.action {
            Action::Run(run) => run.access == Access::Write,
            Action::Refuse(_) => plan.is_lifted_by_tenant,
            Action::Local(_) => false,
        };
        let in_force =
            || self.catalog.global_unique.iter().filter(|it| it.is_in_force(self.catalog));
        if !may_write || in_force().next().is_none() {
            return;
        }
        let mut keys: Vec<String> = match self.may_write_any(&statement.kind, statement) {
            true => in_force().map(ToString::to_string).collect(),
            false => in_force()
                .filter(|it| self.may_change(it, &statement.kind))
                .map(ToString::to_string)
                .collect(),
        };
        if keys.is_empty() {
            return;
        }
        keys.sort_unstable();
        let (taken, returns) = match inner(&statement.kind) {
            Stmt::Insert(it) => (self.taken(it), !it.returning.is_empty()),
            Stmt::Update(it) => (Taken::Fails, !it.returning.is_empty()),
            Stmt::Delete(it) => (Taken::Fails, !it.returning.is_empty()),
            Stmt::Merge(it) => (Taken::Fails, !it.returning.is_empty()),
            Stmt::Copy(_) | Stmt::Truncate(_) => (Taken::Fails, false),
            _ => (self.taken_within(&statement.kind), true),
        };
        let (arbiter, is_named) = match inner(&statement.kind) {
            Stmt::Insert(it) if taken != Taken::Fails => self.arbiter(it),
            _ => (None, true),
        };
        plan.unique = Some(Box::new(Unique { keys, taken, arbiter, is_named, returns }));
        // It does not go the short way.
        plan.literals = None;
    }

    /// Notes the value of a key over shards that tells the one tenant which the statement is about.
    pub(super) fn note_lookup(&self, plan: &mut Plan, statement: &Statement) {
        if !self.sharded || self.catalog.kept_keys.is_empty() {
            return;
        }
        let may_be_one = match &plan.action {
            Action::Run(run) => run.scope == Scope::All && is_of_tenants(&run.combine),
            Action::Refuse(_) => plan.is_lifted_by_tenant,
            Action::Local(_) => false,
        };
        let Some(found) = may_be_one.then(|| self.lookup(statement)).flatten() else { return };
        if let Action::Refuse(error) = &plan.action {
            let combine = Combine::Refuse(error.clone());
            plan.action = Self::run_everywhere(combine);
        }
        plan.lookup = Some(Box::new(found));
    }

    fn run_everywhere(combine: Combine) -> Action {
        let (access, scope) = (Access::Write, Scope::All);
        Action::Run(Run { access, scope, combine, fallback: None, explained: None })
    }

    fn lookup(&self, statement: &Statement) -> Option<Lookup> {
        let (kind, range) = match &statement.kind {
            Stmt::Explain(it) => (&it.inner.kind, &it.inner.range),
            kind => (kind, &statement.range),
        };
        let mut analyzer = self.analyzer(range);
        match kind {
            Stmt::Query(query) => drop(analyzer.query(query)),
            Stmt::Insert(_) | Stmt::Update(_) | Stmt::Delete(_) | Stmt::Merge(_) => {
                analyzer.modify(kind);
            }
            _ => return None,
        }
        let facts = &analyzer.facts;
        let elsewhere = facts.has_home || facts.needs_home || facts.writes_reference.is_some();
        let acts = facts.has_advisory || facts.set_configs > 0 || facts.pin.is_some();
        if facts.is_refused() || elsewhere || acts {
            return None;
        }
        analyzer.graph.lookup()
    }

    /// Whether the statement runs code that may write tables with such keys.
    fn may_write_any(&self, kind: &Stmt, statement: &Statement) -> bool {
        let facts = match inner(kind) {
            Stmt::Truncate(_) | Stmt::Call(_) | Stmt::Do | Stmt::Unknown(_) => return true,
            kind => self.tables_of(kind, &statement.range),
        };
        let writers = &self.catalog.unique_writers;
        let fires = |it: &Written<'_>| {
            let functions = self.found(it.table).map(|(_, it)| &it.trigger_functions);
            functions.into_iter().flatten().any(|it| writers.contains(it))
        };
        facts.is_some_and(|it| it.calls_writer) || written(kind).iter().any(fires)
    }

    fn may_change(&self, key: &GlobalKey, statement: &Stmt) -> bool {
        let Some(table) = self.catalog.table(Some(&key.schema), &key.table) else { return false };
        let name = (key.schema.clone(), key.table.clone());
        written(statement).iter().any(|it| {
            let Some((own, _)) = self.found(it.table) else { return false };
            let writes = own == name && (it.inserts || it.deletes || sets(it, key, table));
            writes || self.cascades(&own, it.deletes, &it.sets, &name, &mut Vec::new())
        })
    }

    /// Whether rows of a table change with rows that a statement deletes, or whose columns it sets.
    fn cascades(
        &self,
        from: &Name,
        deletes: bool,
        sets: &[&str],
        to: &Name,
        seen: &mut Vec<Name>,
    ) -> bool {
        let edges = self.catalog.cascades.get(from).into_iter().flatten();
        let reached = edges.filter(|it| {
            let updates = it.on_update && it.columns.iter().any(|it| sets.contains(&it.as_str()));
            deletes && it.on_delete || updates
        });
        for edge in reached {
            if edge.table == *to {
                return true;
            }
            if seen.contains(&edge.table) {
                continue;
            }
            seen.push(edge.table.clone());
            let columns = self.catalog.tables.get(&edge.table).map_or(&[][..], |it| &it.columns);
            let all: Vec<&str> = columns.iter().map(|it| it.name.as_str()).collect();
            if self.cascades(&edge.table, true, &all, to, seen) {
                return true;
            }
        }
        false
    }

    /// A table with its full name.
    fn found(&self, name: &TableName) -> Option<(Name, &Table)> {
        let path = self.path();
        let table = find(self.catalog, &path, name)?;
        let schema = match &name.schema {
            Some(schema) => schema.clone(),
            None => {
                path.iter().find(|it| self.catalog.table(Some(it), &name.name).is_some())?.clone()
            }
        };
        Some(((schema, name.name.clone()), table))
    }

    /// Whether the configuration declares a key of these columns of a table that is there or will be made.
    pub(super) fn is_global<'a>(
        &self,
        name: &TableName,
        columns: impl Iterator<Item = &'a str> + Clone,
    ) -> bool {
        let schema = match (&name.schema, self.found(name)) {
            (Some(schema), _) => schema.clone(),
            (None, Some(((schema, _), _))) => schema,
            (None, None) => {
                let path = self.path();
                let first = path.iter().find(|it| !it.starts_with("pg_"));
                first.cloned().unwrap_or_default()
            }
        };
        let of_table = |it: &&GlobalKey| it.schema == schema && it.table == name.name;
        self.catalog.global_unique.iter().filter(of_table).any(|it| it.is_of(columns.clone()))
    }

    /// A key over shards that a change of a table, or of its column, would take from the configuration.
    pub(super) fn check_global_kept(
        &self,
        name: &TableName,
        column: Option<&str>,
    ) -> Result<(), PgError> {
        let Some((own, _)) = self.found(name) else { return Ok(()) };
        let is_hit = |it: &&GlobalKey| {
            (&it.schema, &it.table) == (&own.0, &own.1)
                && column.is_none_or(|column| it.columns.iter().any(|it| it == column))
                && it.is_in_force(self.catalog)
        };
        match self.catalog.global_unique.iter().find(is_hit) {
            None => Ok(()),
            Some(key) => Err(PgError::refused(format!(
                "what the unique key {key} is made of cannot be renamed or given another type"
            ))
            .detail("The configuration knows it by its names, and shards know its values by their texts.")
            .hint("Drop the key first; afterwards change global_unique and make it again.")),
        }
    }

    /// The unique index would have to be made shard by shard, and the key with it.
    pub(super) fn not_concurrently(&self) -> PgError {
        refuse::over_shards(
            "CREATE UNIQUE INDEX CONCURRENTLY of a key of global_unique",
            "The key must come to be on all shards at once.",
        )
        .hint("Leave CONCURRENTLY out.")
    }

    /// What a value means to an INSERT that a row of another shard has.
    fn taken(&self, it: &Insert) -> Taken {
        let Some(conflict) = &it.conflict else { return Taken::Fails };
        let Some((name, table)) = self.found(&it.table) else { return Taken::Fails };
        if !looks_at(conflict, &name, table, &self.catalog.global_unique) {
            return Taken::Fails;
        }
        let rows = it.source.as_ref().and_then(plain_values).map_or(0, <[_]>::len);
        let is_alone = rows == 1 && it.with.is_none() && it.returning.is_empty();
        let is_known = !matches!(conflict.target, ConflictTarget::Constraint(_));
        match conflict.set.is_none() && is_alone && is_known {
            true => Taken::Skips,
            false => Taken::Refused,
        }
    }

    /// The key that ON CONFLICT is about, if that is one, and whether it names any.
    fn arbiter(&self, it: &Insert) -> (Option<String>, bool) {
        match it.conflict.as_ref().map(|it| &it.target) {
            Some(ConflictTarget::Columns(columns)) => {
                let names = || columns.iter().flatten().map(String::as_str);
                let own = self.found(&it.table).map(|(name, _)| name);
                let is_it = |it: &&GlobalKey| {
                    own == Some((it.schema.clone(), it.table.clone())) && it.is_of(names())
                };
                let key = self.catalog.global_unique.iter().find(is_it);
                (key.map(ToString::to_string), true)
            }
            Some(ConflictTarget::Constraint(_)) => (None, true),
            Some(ConflictTarget::None) | None => (None, false),
        }
    }

    /// The same of a statement around it.
    fn taken_within(&self, statement: &Stmt) -> Taken {
        let is_refused =
            |it: &&&Stmt| matches!(it, Stmt::Insert(it) if self.taken(it) != Taken::Fails);
        match parts(statement).iter().find(is_refused) {
            Some(_) => Taken::Refused,
            None => Taken::Fails,
        }
    }
}

/// Whether ON CONFLICT means rows with a key over shards.
fn looks_at(it: &Conflict, name: &Name, table: &Table, keys: &[GlobalKey]) -> bool {
    let own = keys.iter().filter(|it| (&it.schema, &it.table) == (&name.0, &name.1));
    let mut own = own.filter(|it| table.unique_keys.iter().any(|key| it.is_key(table, key)));
    match &it.target {
        ConflictTarget::Columns(columns) => {
            let names: Option<Vec<&str>> = columns.iter().map(Option::as_deref).collect();
            names.is_some_and(|names| own.any(|it| it.is_of(names.iter().copied())))
        }
        ConflictTarget::None | ConflictTarget::Constraint(_) => own.next().is_some(),
    }
}

/// Whether an UPDATE may change values of a key, or the tenants that have them.
fn sets(it: &Written<'_>, key: &GlobalKey, table: &Table) -> bool {
    let tenant = match table.kind {
        TableKind::Sharded { column, .. } => table.columns.get(column).map(|it| it.name.as_str()),
        _ => None,
    };
    let is_set = |name: &str| {
        let is_generated = table
            .column(name)
            .is_some_and(|at| table.columns[at].default == ColumnDefault::Generated);
        it.sets.contains(&name) || is_generated
    };
    let may_differ = !it.sets.is_empty() && !table.trigger_functions.is_empty();
    let is_touched = key.columns.iter().map(String::as_str).chain(tenant).any(is_set);
    !it.sets.is_empty() && (is_touched || may_differ)
}

/// Whether one shard can do alone what is combined, if it has all rows.
fn is_of_tenants(combine: &Combine) -> bool {
    matches!(
        combine,
        Combine::Merge(_)
            | Combine::Gather(_)
            | Combine::Sum
            | Combine::Lock(_)
            | Combine::Refuse(_)
    )
}

/// The statement that is explained or whose rows are copied, or itself.
fn inner(statement: &Stmt) -> &Stmt {
    match statement {
        Stmt::Explain(it) if it.analyze => inner(&it.inner.kind),
        Stmt::Copy(it) => match &it.source {
            CopySource::Query(query) => inner(query),
            CopySource::Table(_) => statement,
        },
        _ => statement,
    }
}

/// The statement and those in its WITH.
fn parts(statement: &Stmt) -> Vec<&Stmt> {
    let statement = inner(statement);
    let with: Option<&With> = match statement {
        Stmt::Query(it) => it.with.as_ref(),
        Stmt::Insert(it) => it.with.as_ref(),
        Stmt::Update(it) => it.with.as_ref(),
        Stmt::Delete(it) => it.with.as_ref(),
        Stmt::Merge(it) => it.with.as_ref(),
        _ => None,
    };
    let mut all = vec![statement];
    all.extend(with.iter().flat_map(|it| &it.ctes).flat_map(|it| parts(&it.body)));
    all
}

fn written(statement: &Stmt) -> Vec<Written<'_>> {
    parts(statement).into_iter().flat_map(writes_of).collect()
}

fn writes_of(statement: &Stmt) -> Vec<Written<'_>> {
    fn names(set: &[Assign]) -> Vec<&str> {
        set.iter().map(|it| it.column.as_str()).collect()
    }
    let written = |table, inserts, deletes, sets| Written { table, inserts, deletes, sets };
    match statement {
        Stmt::Insert(it) => {
            let set = it.conflict.as_ref().and_then(|it| it.set.as_deref());
            vec![written(&it.table, true, false, names(set.unwrap_or_default()))]
        }
        Stmt::Update(it) => vec![written(&it.table, false, false, names(&it.set))],
        Stmt::Delete(it) => vec![written(&it.table, false, true, Vec::new())],
        Stmt::Merge(it) => {
            let (mut inserts, mut deletes, mut sets) = (false, false, Vec::new());
            for when in &it.whens {
                match &when.action {
                    WhenAction::Nothing => (),
                    WhenAction::Delete => deletes = true,
                    WhenAction::Insert { .. } => inserts = true,
                    WhenAction::Update(set) => sets.extend(names(set)),
                }
            }
            vec![written(&it.table, inserts, deletes, sets)]
        }
        Stmt::Copy(it) if it.is_from => match &it.source {
            CopySource::Table(table) => vec![written(table, true, false, Vec::new())],
            CopySource::Query(_) => Vec::new(),
        },
        _ => Vec::new(),
    }
}
