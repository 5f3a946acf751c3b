//! INSERT, UPDATE, DELETE and MERGE, alone and in WITH.

use std::ops::Range;
use std::rc::Rc;

use super::block::Dist;
use super::from::find;
use super::graph::NodeId;
use super::names::{Col, Names, Rel};
use super::predicate::Mode;
use super::refuse;
use super::scatter::updates_all;
use super::walk::Analyzer;
use crate::catalog::sequence::Name;
use crate::catalog::unique::GlobalKey;
use crate::catalog::{ColumnDefault, Table, TableKind};
use crate::error::{PgError, sqlstate};
use crate::plan::{Dated, Filled, KeySource, Split};
use crate::sql::name::{quoted, quoted_text};
use crate::sql::parse::tokens::{Token, TokenKind, tokens};
use crate::sql::parse::tree::{
    Alias, Assign, Body, Conflict, ConflictTarget, Delete, Expr, Insert, Kind, Literal, Query,
    Stmt, TableName, Target, Update,
};

/// How a write runs if it reaches several shards.
#[derive(Debug)]
pub(super) enum Fan {
    /// The same text everywhere; counts add up.
    Sum,
    /// The same text everywhere; all answer alike.
    Same,
    Split(Split),
    /// The same rows everywhere, with columns that one shard computes.
    Filled(Filled),
    Refuse(PgError),
}

impl Analyzer<'_> {
    /// Looks at a data-modifying statement.
    pub(super) fn modify(&mut self, statement: &Stmt) -> Fan {
        self.facts.modifies = true;
        self.enter();
        let fan = match statement {
            Stmt::Insert(it) => {
                self.with(it.with.as_ref());
                let fan = self.insert(it);
                self.without(it.with.as_ref());
                fan
            }
            Stmt::Update(it) => {
                self.with(it.with.as_ref());
                let fan = self.update(it);
                self.without(it.with.as_ref());
                fan
            }
            Stmt::Delete(it) => {
                self.with(it.with.as_ref());
                let fan = self.delete(it);
                self.without(it.with.as_ref());
                fan
            }
            Stmt::Merge(it) => {
                self.with(it.with.as_ref());
                let fan = self.merge_into(it);
                self.without(it.with.as_ref());
                fan
            }
            other => {
                let what = match other {
                    Stmt::Unknown(what) => what.as_str(),
                    _ => "this statement in WITH",
                };
                self.refuse(super::walk::opaque(what));
                Fan::Refuse(super::walk::opaque(what))
            }
        };
        self.leave();
        fan
    }

    /// The table written to, under its alias; `None` in place of the table if it is not known.
    pub(super) fn write_target(
        &mut self,
        name: &TableName,
        alias: Option<&Alias>,
    ) -> (Rel, Option<&Table>) {
        self.facts.tables.push(name.name.clone());
        let (catalog, path) = (self.catalog, Rc::clone(&self.path));
        let Some(table) = find(catalog, &path, name) else {
            self.facts.has_home = true;
            self.facts.unknown_tables.push(name.name.clone());
            let alias = alias.map_or(&name.name, |it| &it.name).clone();
            return (Rel { alias, schema: None, cols: Vec::new(), complete: false }, None);
        };
        self.check_side_effects(table, &name.name);
        match table.kind {
            TableKind::Reference => self.facts.writes_reference = Some(name.name.clone()),
            TableKind::View(_) => self.write_view(name),
            _ => (),
        }
        (self.base(table, name, alias), Some(table))
    }

    /// A view over tables of the home shard alone may be written.
    fn write_view(&mut self, name: &TableName) {
        let (had_sharded, had_reference) = (self.graph.sharded_len(), self.facts.has_reference);
        self.table(name, None);
        if self.graph.sharded_len() > had_sharded || self.facts.has_reference && !had_reference {
            self.refuse(
                PgError::refused(format!("view {} cannot be written", name.name))
                    .detail("It stands for sharded or reference tables.")
                    .hint("Write to the table."),
            );
        }
    }

    /// Triggers and rules run SQL that the proxy does not see.
    pub(super) fn check_side_effects(&mut self, table: &Table, name: &str) {
        let is_known = |it: &&String| {
            ["tsvector_update_trigger", "suppress_redundant_updates_trigger"]
                .contains(&it.rsplit('.').next().unwrap_or_default())
                || self.catalog.trusted_functions.contains(*it)
        };
        if let Some(function) = table.trigger_functions.iter().find(|it| !is_known(it)) {
            let error = PgError::refused(format!("a trigger on {name} may write rows of other shards"))
                .detail(format!("It calls {function}, which the proxy does not know."))
                .hint(format!("List {function} in trusted_functions if it touches no rows of other tenants, or SET sluice.tenant."));
            self.refuse(error);
        } else if table.has_rules {
            self.refuse(
                PgError::refused(format!("table {name} has rewrite rules"))
                    .detail("They turn the statement into another one.")
                    .hint("Drop the rules, or SET sluice.tenant."),
            );
        }
    }

    pub(super) fn targets(&mut self, targets: &[Target]) {
        for target in targets {
            match &target.expr.kind {
                Kind::Star(names) => self.needs_star(names, target.expr.at),
                _ => self.expr(&target.expr),
            }
        }
        self.returned = Some(self.returned_columns(targets));
        self.shipped = self.shipped_columns(targets);
    }

    pub(super) fn assignments(&mut self, set: &[Assign], table: Option<&str>) {
        for assign in set {
            // Of each row, wherever that is; a subquery is computed once.
            self.facts.in_rows = table.is_some() && !has_query(&assign.expr);
            self.expr(&assign.expr);
            self.facts.in_rows = false;
            let is_same =
                matches!(&assign.expr.kind, Kind::Column(it) if *it == [assign.column.clone()]);
            if table == Some(&assign.column) && !is_same && !self.moves {
                self.refuse(
                    PgError::refused("the tenant column cannot be updated")
                        .detail(format!(
                            "A new value of {} may belong to another shard.",
                            assign.column
                        ))
                        .hint("INSERT the row under the new tenant and DELETE the old one."),
                );
            }
        }
    }

    fn update(&mut self, it: &Update) -> Fan {
        let (rel, table) = self.write_target(&it.table, it.alias.as_ref());
        let kind = table.map(|it| it.kind.clone());
        let (tenant, is_reference) = (tenant_column(table), is_reference(table));
        if let Some(table) = table.cloned() {
            self.check_set_to_default(&it.set, &table);
        }
        let names = self.target_names(rel);
        let from = self.items_of_from(&it.from);
        self.levels.push(names.and(&from));
        self.filter(it.filter.as_ref());
        self.assignments(&it.set, tenant.as_deref());
        if let (true, Some(TableKind::Sharded { key, .. })) = (self.moves, kind) {
            let new = it.set.iter().find(|it| Some(&it.column) == tenant.as_ref());
            self.new_key = new.and_then(|it| self.key(&it.expr, key));
        }
        self.targets(&it.returning);
        let fan = match is_reference && !it.from.is_empty() {
            true => Fan::Refuse(several_matches()),
            false => self.fan(is_reference),
        };
        self.levels.pop();
        fan
    }

    /// `SET column = DEFAULT`.
    fn check_set_to_default(&mut self, set: &[Assign], table: &Table) {
        let is_reference = table.kind == TableKind::Reference;
        let is_sharded = matches!(table.kind, TableKind::Sharded { .. });
        for assign in set.iter().filter(|it| it.expr.kind == Kind::Default) {
            let Some(at) = table.column(&assign.column) else { continue };
            let differs = match &table.columns[at].default {
                ColumnDefault::Sequence(sequence) if is_sharded && self.is_unshared(sequence) => {
                    self.forbid(unshared(&assign.column));
                    true
                }
                ColumnDefault::Computed(text) if text == UNIQUE_ID && !self.catalog.makes_ids => {
                    self.forbid(super::sequences::no_ids());
                    true
                }
                ColumnDefault::Sequence(_) => is_reference,
                ColumnDefault::Computed(text) => is_reference || !is_random_default(text),
                ColumnDefault::Constant | ColumnDefault::Generated => false,
            };
            if differs && (is_reference || is_sharded) {
                let what = format!("the default of column {}", assign.column);
                self.not_fanned(refuse::not_immutable(&what));
            }
        }
    }

    fn delete(&mut self, it: &Delete) -> Fan {
        let (rel, table) = self.write_target(&it.table, it.alias.as_ref());
        let is_reference = is_reference(table);
        let names = self.target_names(rel);
        let using = self.items_of_from(&it.using);
        self.levels.push(names.and(&using));
        self.filter(it.filter.as_ref());
        self.targets(&it.returning);
        let fan = self.fan(is_reference);
        self.levels.pop();
        fan
    }

    fn filter(&mut self, filter: Option<&Expr>) {
        if let Some(filter) = filter {
            self.predicate(filter, &Mode::Filter);
        }
    }

    pub(super) fn target_names(&self, rel: Rel) -> Names {
        Names::of(self.block(), rel)
    }

    /// How UPDATE and DELETE reach several shards.
    pub(super) fn fan(&self, is_reference: bool) -> Fan {
        match (self.by_tenant(), is_reference) {
            (Ok(Dist::Tenant), false) => Fan::Sum,
            (Ok(Dist::Free), true) => Fan::Same,
            (Err(error), _) => Fan::Refuse(error),
            (Ok(_), _) => Fan::Refuse(mixed()),
        }
    }

    fn insert(&mut self, it: &Insert) -> Fan {
        let (rel, table) = self.write_target(&it.table, it.alias.as_ref());
        let Some(table) = table.cloned() else {
            return self.insert_elsewhere(it, rel);
        };
        let TableKind::Sharded { column, .. } = table.kind else {
            return self.insert_unsharded(it, rel, &table);
        };
        let key = &table.columns[column];
        let node = self.state().members.first().copied();
        let columns = column_list(it, &table);
        let at = columns.iter().position(|it| *it == key.name);
        let (Some(at), Some(node)) = (at, node) else {
            self.refuse(no_key(&key.name, "It is not in the column list."));
            return self.insert_elsewhere(it, rel);
        };
        self.check_defaults(it, &table, &columns);
        if let Some(conflict) = &it.conflict {
            self.check_conflict(conflict, &table, column, &it.table);
            self.check_set_to_default(conflict.set.as_deref().unwrap_or_default(), &table);
        }
        let fan = match &it.source {
            Some(source) => match plain_values(source) {
                Some(rows) => self.insert_rows(it, &columns, (at, node), rows),
                None => self.insert_select(source, (at, node), &key.name),
            },
            None => {
                self.refuse(no_key(&key.name, "DEFAULT VALUES gives no tenant."));
                Fan::Refuse(mixed())
            }
        };
        let before = (self.graph.sharded_len(), self.facts.has_home, self.facts.has_reference);
        self.insert_rest(it, rel);
        let after = (self.graph.sharded_len(), self.facts.has_home, self.facts.has_reference);
        if before == after { fan } else { Fan::Refuse(mixed()) }
    }

    /// ON CONFLICT … DO UPDATE and RETURNING.
    pub(super) fn insert_rest(&mut self, it: &Insert, rel: Rel) {
        let plain = |col: &Col| Col { node: None, ..col.clone() };
        let excluded = Rel {
            alias: "excluded".to_owned(),
            schema: None,
            cols: rel.cols.iter().map(plain).collect(),
            complete: rel.complete,
        };
        let names = self.target_names(rel);
        let mut both = names.clone();
        both.add(excluded);
        if let Some(conflict) = &it.conflict {
            self.levels.push(both);
            self.exprs(conflict.filter.iter().chain(&conflict.others));
            self.assignments(conflict.set.as_deref().unwrap_or_default(), None);
            self.levels.pop();
        }
        self.levels.push(names);
        self.targets(&it.returning);
        self.levels.pop();
    }

    /// An INSERT whose rows' tenants need not be known.
    fn insert_elsewhere(&mut self, it: &Insert, rel: Rel) -> Fan {
        if let Some(source) = &it.source {
            self.query(source);
        }
        self.insert_rest(it, rel);
        Fan::Refuse(mixed())
    }

    fn insert_unsharded(&mut self, it: &Insert, rel: Rel, table: &Table) -> Fan {
        let is_reference = table.kind == TableKind::Reference;
        let mut filled = None;
        if is_reference {
            let set = it.conflict.as_ref().and_then(|it| it.set.as_deref());
            self.check_set_to_default(set.unwrap_or_default(), table);
            let columns = column_list(it, table);
            filled = self.filled(it, table, &columns);
            if filled.is_none() {
                self.check_same_defaults(it, table, &columns);
            }
        }
        let dist = it.source.as_ref().map(|it| self.query(it).dist);
        self.insert_rest(it, rel);
        let picks = it.conflict.is_some()
            && it.source.as_ref().is_some_and(|it| plain_values(it).is_none());
        match dist {
            _ if is_reference && picks => Fan::Refuse(several_matches()),
            Some(Err(error)) if is_reference => Fan::Refuse(error),
            Some(Ok(Dist::Free)) if filled.is_some() => filled.map_or(Fan::Same, Fan::Filled),
            None | Some(Ok(Dist::Free)) if is_reference => Fan::Same,
            _ => Fan::Refuse(mixed()),
        }
    }

    /// The columns of a reference table that rows leave out, if the home shard can compute all that would
    /// differ from shard to shard; `None` also if there are none.
    fn filled(&self, it: &Insert, table: &Table, columns: &[String]) -> Option<Filled> {
        let (mut names, mut defaults) = (Vec::new(), Vec::new());
        let is_given = |name: &String| columns.contains(name);
        for column in table.columns.iter().filter(|it| !is_given(&it.name)) {
            let default = match &column.default {
                ColumnDefault::Sequence(sequence) => {
                    let (schema, name) = sequence.as_ref()?;
                    let full = quoted_text(&format!("{}.{}", quoted(schema), quoted(name)));
                    format!("pg_catalog.nextval({full}::pg_catalog.regclass)")
                }
                ColumnDefault::Computed(text) => {
                    let is_alone = is_time_default(text) || ONE_EACH.contains(&text.as_str());
                    let is_ready = text != UNIQUE_ID || self.catalog.makes_ids;
                    is_alone.then_some(text).filter(|_| is_ready)?.clone()
                }
                ColumnDefault::Constant | ColumnDefault::Generated => continue,
            };
            names.push(quoted(&column.name));
            defaults.push(default);
        }
        // The value of an identity column is overridden, but only where the proxy gives it.
        let counts =
            |it: &&crate::catalog::Column| matches!(it.default, ColumnDefault::Sequence(_));
        let overrides = table.columns.iter().filter(counts).any(|it| !is_given(&it.name));
        let mut given = table.columns.iter().filter(|it| is_given(&it.name));
        let is_plain = given.all(|column| {
            !(is_left_out(it, columns, &column.name) || overrides && counts(&column))
        });
        if names.is_empty() || !is_plain || !is_listed(it) || it.with.is_some() {
            return None;
        }
        let tokens = tokens(self.sql, &self.range);
        if tokens.iter().any(|it| it.depth == 0 && it.is("overriding")) {
            return None;
        }
        let rows = row_ranges(self.sql, &self.range);
        let list_end = list_end(self.sql, &self.range, "values")?;
        let count = it.source.as_ref().and_then(plain_values).map(<[_]>::len);
        (count == Some(rows.len())).then_some(Filled {
            rows,
            columns: names,
            defaults,
            list_end,
            overrides,
        })
    }

    /// Columns that a reference table's rows would fill differently on each shard.
    pub(super) fn check_same_defaults(&mut self, it: &Insert, table: &Table, columns: &[String]) {
        for column in &table.columns {
            let differs =
                matches!(column.default, ColumnDefault::Computed(_) | ColumnDefault::Sequence(_));
            if differs && is_left_out(it, columns, &column.name) {
                self.not_fanned(refuse::not_immutable(&format!(
                    "the default of column {}",
                    column.name
                )));
            }
        }
    }

    fn check_defaults(&mut self, it: &Insert, table: &Table, columns: &[String]) {
        self.check_left_out(it, table, columns, is_listed(it));
    }

    /// The defaults of columns that rows leave out; `adds` if columns can be added to the list.
    pub(super) fn check_left_out(
        &mut self,
        it: &Insert,
        table: &Table,
        columns: &[String],
        adds: bool,
    ) {
        for column in &table.columns {
            if !is_left_out(it, columns, &column.name) {
                continue;
            }
            match &column.default {
                ColumnDefault::Sequence(sequence) if self.is_unshared(sequence) => {
                    self.forbid(unshared(&column.name));
                }
                ColumnDefault::Computed(text) if text == UNIQUE_ID && !self.catalog.makes_ids => {
                    self.forbid(super::sequences::no_ids());
                }
                ColumnDefault::Computed(text)
                    if is_time_default(text) && adds && !columns.contains(&column.name) =>
                {
                    self.facts.dated.push((quoted(&column.name), text.clone()));
                }
                ColumnDefault::Computed(text)
                    if is_time_default(text) && columns.contains(&column.name) =>
                {
                    let at = columns.iter().position(|it| *it == column.name);
                    let rows = it.source.as_ref().and_then(plain_values).unwrap_or_default();
                    let said = rows.iter().filter_map(|row| row.get(at?));
                    let said = said.filter(|it| it.kind == Kind::Default);
                    self.facts.told.extend(said.map(|it| (it.at, text.clone())));
                }
                ColumnDefault::Computed(text) if !is_random_default(text) => {
                    let what = format!("the default of column {}", column.name);
                    self.not_fanned(refuse::not_immutable(&what));
                }
                _ => (),
            }
        }
    }

    fn insert_rows(
        &mut self,
        it: &Insert,
        columns: &[String],
        (at, node): (usize, NodeId),
        rows: &[Vec<Expr>],
    ) -> Fan {
        let key_name = columns.get(at).cloned().unwrap_or_default();
        let kind = self.graph.kind(node);
        let before = (self.graph.sharded_len(), self.facts.has_home);
        self.levels.push(Names::new(self.block()));
        self.facts.in_rows = true;
        let mut keys = Vec::new();
        for row in rows {
            self.exprs(row);
            match row.get(at).map(|value| (value, self.key(value, kind))) {
                Some((_, Some(key))) => keys.push(key),
                Some((value, None)) => {
                    let error = unusable_key(value, &key_name, &it.table.name);
                    self.refuse(error);
                }
                None => self.refuse(no_key(&key_name, "A row has too few values.")),
            }
        }
        self.facts.in_rows = false;
        self.levels.pop();
        if self.facts.refusal.is_some() || keys.len() != rows.len() {
            return Fan::Refuse(mixed());
        }
        self.graph.fact(node, keys.clone());
        let reads = before != (self.graph.sharded_len(), self.facts.has_home);
        if reads || it.with.is_some() || self.blocks.len() > 1 {
            return Fan::Refuse(mixed());
        }
        self.split(it, keys)
    }

    fn split(&self, it: &Insert, keys: Vec<KeySource>) -> Fan {
        let rows = row_ranges(self.sql, &self.range);
        if rows.len() != keys.len() {
            return Fan::Refuse(mixed());
        }
        // Rows left out leave no trace of where they were: the others come shard by shard.
        let is_ordered = it.conflict.as_ref().is_none_or(updates_all);
        let dated = match self.facts.dated.is_empty() {
            true => None,
            false => match list_end(self.sql, &self.range, "values") {
                Some(list_end) => {
                    let (columns, defaults) = self.facts.dated.iter().cloned().unzip();
                    Some(Dated { columns, defaults, list_end })
                }
                None => return Fan::Refuse(mixed()),
            },
        };
        let mut told = self.facts.told.clone();
        told.sort();
        Fan::Split(Split {
            rows: rows.into_iter().zip(keys).collect(),
            returning: is_ordered,
            dated,
            told,
        })
    }

    /// INSERT … SELECT: the rows must come from the shard they go to.
    fn insert_select(&mut self, source: &Query, (at, node): (usize, NodeId), name: &str) -> Fan {
        let kind = self.graph.kind(node);
        let outcome = self.query(source);
        let constant = match &source.body {
            Body::Select(select) => {
                let has_star = select
                    .targets
                    .iter()
                    .take(at + 1)
                    .any(|it| matches!(it.expr.kind, Kind::Star(_)));
                select.targets.get(at).filter(|_| !has_star).and_then(|it| self.key(&it.expr, kind))
            }
            _ => None,
        };
        let col = outcome.cols.get(at).filter(|_| outcome.complete);
        // Each shard's own tenants' rows go to that shard.
        let is_local = matches!(outcome.dist, Ok(Dist::Tenant))
            && col.is_some_and(|it| {
                it.exact && it.nodes.iter().all(|it| self.graph.kind(*it) == kind)
            });
        match (constant, col.map(|it| it.nodes.as_slice())) {
            (Some(key), _) => self.graph.fact(node, vec![key]),
            (None, Some([from])) => self.graph.edge(*from, node),
            _ if is_local => (),
            _ => {
                self.refuse(no_key(
                    name,
                    "The SELECT computes it, so that its shard is not known.",
                ));
            }
        }
        if is_local {
            return Fan::Sum;
        }
        Fan::Refuse(refuse::over_shards(
            "INSERT … SELECT",
            "Rows may come from another shard than they go to.",
        ))
    }

    pub(super) fn check_conflict(
        &mut self,
        it: &Conflict,
        table: &Table,
        column: usize,
        name: &TableName,
    ) {
        let key = &table.columns[column].name;
        // A key over shards is looked at where its values are kept.
        let is_global =
            |it: &Vec<usize>| self.global_keys(name).any(|global| global.is_key(table, it));
        let holds_key = match &it.target {
            ConflictTarget::Columns(columns) => {
                let names: Option<Vec<&str>> = columns.iter().map(Option::as_deref).collect();
                let is_global = names.is_some_and(|names| {
                    let is_it = |it: &&GlobalKey| it.is_of(names.iter().copied());
                    self.global_keys(name)
                        .find(is_it)
                        .is_some_and(|it| it.is_in_force(self.catalog))
                });
                is_global || columns.iter().flatten().any(|it| it == key)
            }
            _ => table.unique_keys.iter().all(|it| it.contains(&column) || is_global(it)),
        };
        let name = &name.name;
        if !holds_key {
            self.refuse(
                PgError::refused("ON CONFLICT needs a unique key that holds the tenant column")
                    .detail(format!("A conflicting row of {name} may lie on another shard."))
                    .hint(format!("Name a unique key with {key} in ON CONFLICT.")),
            );
        }
        if it.set.iter().flatten().any(|it| it.column == *key) {
            self.refuse(
                PgError::refused("the tenant column cannot be updated")
                    .detail(format!("A new value of {key} may belong to another shard."))
                    .hint("Leave it out of DO UPDATE SET."),
            );
        }
    }

    /// The keys over shards that the configuration declares of a table.
    pub(super) fn global_keys(&self, name: &TableName) -> impl Iterator<Item = &GlobalKey> {
        let is_here = |it: &&String| self.catalog.table(Some(it), &name.name).is_some();
        let schema = name.schema.clone().or_else(|| self.path.iter().find(is_here).cloned());
        let table = name.name.clone();
        let is_own =
            move |it: &&GlobalKey| it.table == table && Some(&it.schema) == schema.as_ref();
        self.catalog.global_unique.iter().filter(is_own)
    }

    /// Whether two shards may give one number of it, and that is not allowed.
    pub(super) fn is_unshared(&self, sequence: &Option<Name>) -> bool {
        !self.catalog.allow_local_keys && !self.catalog.is_shared(sequence.as_ref())
    }
}

/// A number that another shard may have given, too.
pub(super) fn unshared(column: &str) -> PgError {
    PgError::refused(format!("column {column} takes its value from a sequence that shards do not share"))
        .detail("Each shard counts for itself, so that two rows could get one number, or a shard could not be asked.")
        .hint("Run pgsluice sequences --repair, or give the value in the statement.")
}

fn has_query(expr: &Expr) -> bool {
    matches!(expr.kind, Kind::Sub(_)) || expr.children().into_iter().any(has_query)
}

pub(super) fn tenant_column(table: Option<&Table>) -> Option<String> {
    match table?.kind {
        TableKind::Sharded { column, .. } => Some(table?.columns[column].name.clone()),
        _ => None,
    }
}

pub(super) fn is_reference(table: Option<&Table>) -> bool {
    table.is_some_and(|it| it.kind == TableKind::Reference)
}

/// The columns that values are given for.
pub(super) fn column_list(it: &Insert, table: &Table) -> Vec<String> {
    if it.columns.is_empty() && it.source.is_some() {
        let width = match it.source.as_ref().and_then(plain_values) {
            Some(rows) => rows.first().map_or(0, Vec::len),
            None => table.columns.len(),
        };
        return table.columns.iter().take(width).map(|it| it.name.clone()).collect();
    }
    it.columns.clone()
}

/// Whether some row takes the column's default.
fn is_left_out(it: &Insert, columns: &[String], name: &str) -> bool {
    let Some(at) = columns.iter().position(|it| it == name) else { return true };
    let rows = it.source.as_ref().and_then(plain_values).unwrap_or_default();
    rows.iter().any(|row| row.get(at).is_none_or(|it| it.kind == Kind::Default))
}

/// The rows of a query that is nothing but VALUES.
pub(super) fn plain_values(query: &Query) -> Option<&[Vec<Expr>]> {
    let is_plain = query.with.is_none()
        && query.order.is_empty()
        && query.limit.is_none()
        && query.offset.is_none();
    match &query.body {
        Body::Values(rows) if is_plain => Some(rows),
        _ => None,
    }
}

/// The rows of the first VALUES outside parentheses.
fn row_ranges(sql: &str, range: &Range<usize>) -> Vec<Range<usize>> {
    let tokens = tokens(sql, range);
    let Some(values) = tokens.iter().position(|it| it.depth == 0 && it.is("values")) else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    let mut open = None;
    for token in &tokens[values + 1..] {
        match (&token.kind, token.depth, open) {
            (TokenKind::Open, 0, None) => open = Some(token.range.start),
            (TokenKind::Close, 0, Some(start)) => {
                rows.push(start..token.range.end);
                open = None;
            }
            (TokenKind::Comma, 0, None) => (),
            (_, 0, None) => break,
            _ => (),
        }
    }
    rows
}

/// Whether an INSERT gives rows of VALUES under a list of columns.
fn is_listed(it: &Insert) -> bool {
    !it.columns.is_empty() && it.source.as_ref().is_some_and(|it| plain_values(it).is_some())
}

/// Defaults that are the time of the transaction, as `pg_get_expr` prints them.
pub(super) fn is_time_default(text: &str) -> bool {
    const TIMES: [&str; 6] = [
        "now()",
        "CURRENT_TIMESTAMP",
        "transaction_timestamp()",
        "CURRENT_DATE",
        "LOCALTIMESTAMP",
        "timezone('utc'::text, now())",
    ];
    TIMES.contains(&text)
}

/// Where the list of columns before a word ends: at its closing parenthesis.
pub(super) fn list_end(sql: &str, range: &Range<usize>, word: &str) -> Option<usize> {
    let tokens = tokens(sql, range);
    let word = tokens.iter().position(|it| it.depth == 0 && it.is(word))?;
    let is_close = |it: &&Token| it.depth == 0 && it.kind == TokenKind::Close;
    tokens[..word].iter().rfind(is_close).map(|it| it.range.start)
}

/// Defaults that give another value for each row, wherever it is computed.
pub(super) fn is_random_default(text: &str) -> bool {
    const OWN: [&str; 4] = [UNIQUE_ID, "sluice.uuid_v7()", "uuidv7()", "uuidv4()"];
    text.contains("gen_random_uuid") || text.contains("uuid_generate") || OWN.contains(&text)
}

/// Defaults of nothing but a built-in function, apart from the time of the transaction.
const ONE_EACH: [&str; 9] = [
    UNIQUE_ID,
    "sluice.uuid_v7()",
    "gen_random_uuid()",
    "uuidv7()",
    "uuidv4()",
    "random()",
    "clock_timestamp()",
    "statement_timestamp()",
    "CURRENT_TIME",
];

/// The default whose values shards make apart.
pub(super) const UNIQUE_ID: &str = "sluice.unique_id()";

pub(super) fn no_key(column: &str, detail: &str) -> PgError {
    PgError::refused(format!("the tenant column {column} has no value the proxy can read"))
        .detail(detail)
        .hint(format!("Give {column} as a literal or a parameter, or SET sluice.tenant."))
}

fn unusable_key(value: &Expr, column: &str, table: &str) -> PgError {
    match value.kind {
        Kind::Literal(Literal::Null) => PgError::new(
            sqlstate::NOT_NULL_VIOLATION,
            format!("null value in column \"{column}\" of relation \"{table}\" violates not-null constraint"),
        )
        .detail("The tenant column of a sharded table may not be NULL."),
        Kind::Default => no_key(column, "DEFAULT is no key."),
        _ => no_key(column, "An expression is no key."),
    }
}

/// Which of several rows wins depends on their order, which differs from shard to shard.
fn several_matches() -> PgError {
    refuse::over_shards(
        "a choice among several matching rows",
        "Shards may keep the rows of a reference table in another order.",
    )
}

pub(super) fn mixed() -> PgError {
    refuse::over_shards(
        "a statement that joins tables of different shards",
        "It must run on one shard.",
    )
}
