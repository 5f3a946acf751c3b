//! FROM: tables, views, common table expressions, subqueries, functions and joins.

use std::rc::Rc;

use super::block::{Dist, OutCol, Outcome};
use super::gather::Spot;
use super::graph::NodeId;
use super::names::{Col, Found, Names, Rel};
use super::predicate::Mode;
use super::refuse;
use super::types::elements_of;
use super::walk::Analyzer;
use crate::catalog::{Column, Table, TableKind};
use crate::error::PgError;
use crate::shard::KeyType;
use crate::sql::parse::parse;
use crate::sql::parse::tree::{Alias, From, Join, JoinKind, Query, Stmt, TableName};

/// The common table expressions of one WITH.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) ctes: Vec<CteEntry>,
}

/// A common table expression and its uses.
#[derive(Debug)]
pub(super) struct CteEntry {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    /// `None` while its own query is looked at.
    pub(super) outcome: Option<Outcome>,
    pub(super) uses: usize,
    pub(super) materialized: bool,
    /// Edges from the columns of a use into its query; they hold if it is the only use.
    pub(super) edges: Vec<(NodeId, NodeId)>,
}

/// Views within views.
const VIEW_DEPTH: usize = 8;

impl<'a> Analyzer<'a> {
    /// The items of FROM, each seeing those before it if it is LATERAL.
    pub(super) fn items_of_from(&mut self, items: &[From]) -> Names {
        let mut names = Names::new(self.block());
        for item in items {
            let found = self.item_of_from(item, &names);
            names = names.and(&found);
        }
        names
    }

    pub(super) fn item_of_from(&mut self, item: &From, left: &Names) -> Names {
        match item {
            From::Table { name, alias, at, is_only } => {
                let spot = Spot { at: at.0, is_only: *is_only, has_alias: alias.is_some() };
                self.table_at(name, alias.as_ref(), Some(spot))
            }
            From::Query { query, alias, lateral } => {
                self.derived(query, alias.as_ref(), lateral.then_some(left))
            }
            From::Function { calls, alias, name } => {
                self.levels.push(left.clone());
                self.exprs(calls);
                let elements = match calls.as_slice() {
                    [call] => elements_of(&self.levels, call),
                    _ => None,
                };
                self.levels.pop();
                let column = alias.as_ref().and_then(|it| it.columns.first().cloned());
                let alias = alias.as_ref().map(|it| it.name.clone()).or_else(|| name.clone());
                let mut rel = unknown_rel(alias.unwrap_or_default());
                if let Some(ty) = elements {
                    let name = column.unwrap_or_else(|| rel.alias.clone());
                    rel.cols.push(Col {
                        name,
                        node: None,
                        ty: Some(ty),
                        place: None,
                        sql_type: None,
                    });
                }
                self.one(rel)
            }
            From::Join(join) => self.join(join, left),
            From::Sample { table, args } => {
                self.exprs(args);
                let error =
                    refuse::over_shards("TABLESAMPLE", "Each shard would draw its own sample.");
                self.not_gathered(error.clone());
                self.not_fanned(error);
                self.item_of_from(table, left)
            }
        }
    }

    fn one(&self, rel: Rel) -> Names {
        Names::of(self.block(), rel)
    }

    /// A table, view or common table expression by name.
    pub(super) fn table(&mut self, name: &TableName, alias: Option<&Alias>) -> Names {
        self.table_at(name, alias, None)
    }

    fn table_at(&mut self, name: &TableName, alias: Option<&Alias>, spot: Option<Spot>) -> Names {
        if name.schema.is_none()
            && let Some(rel) = self.cte(&name.name, alias)
        {
            return self.one(rel);
        }
        self.facts.tables.push(name.name.clone());
        let (catalog, path) = (self.catalog, Rc::clone(&self.path));
        let Some(table) = find(catalog, &path, name) else {
            self.facts.has_home = true;
            self.facts.unknown_tables.push(name.name.clone());
            self.not_shipped(&name.name);
            let alias = alias.map_or(&name.name, |it| &it.name);
            return self.one(unknown_rel(alias.clone()));
        };
        if self.is_shared_sequence(name) {
            self.forbid(super::sequences::not_read(&name.name));
        }
        match &table.kind {
            TableKind::View(text) => self.view(text, table, name, alias, spot),
            _ => {
                let mut rel = self.base(table, name, alias);
                self.gather(&mut rel, table, name, spot);
                self.one(rel)
            }
        }
    }

    /// A table with rows of its own.
    pub(super) fn base(&mut self, table: &Table, name: &TableName, alias: Option<&Alias>) -> Rel {
        let mut cols: Vec<Col> = table.columns.iter().map(|it| self.base_column(it)).collect();
        self.facts.beyond_system |= table.kind != TableKind::System;
        match &table.kind {
            TableKind::Sharded { column, key } => {
                let own = self.graph.add(*key, self.block());
                self.graph.sharded(own, name.name.clone());
                self.state().members.push(own);
                if let Some(col) = cols.get_mut(*column) {
                    let oid = table.columns[*column].type_oid;
                    col.node = (!self.catalog.operators_on.contains(&oid)).then_some(own);
                }
                self.note_global(own, table, name, &cols);
            }
            TableKind::Reference => {
                self.facts.has_reference = true;
                self.state().reads_reference = true;
            }
            TableKind::Home | TableKind::System | TableKind::View(_) => self.facts.has_home = true,
            TableKind::Unusable(reason) => {
                self.refuse(
                    PgError::refused(format!("table {} cannot be used", name.name)).detail(reason),
                );
            }
        }
        let mut rel = Rel {
            alias: name.name.clone(),
            schema: Some(name.schema.clone().unwrap_or_else(|| self.schema_of(name))),
            complete: !cols.is_empty(),
            cols,
        };
        rename(&mut rel, alias);
        rel
    }

    /// Keys over shards that tell the tenant of a row.
    fn note_global(&mut self, own: NodeId, table: &Table, name: &TableName, cols: &[Col]) {
        for key in self.global_keys(name).cloned().collect::<Vec<_>>() {
            let node = |it: &String| cols.get(table.column(it)?)?.node;
            let nodes: Option<Vec<NodeId>> = key.columns.iter().map(node).collect();
            if let Some(nodes) = nodes.filter(|_| self.catalog.kept_keys.contains(&key)) {
                self.graph.global(own, key, nodes);
            }
        }
    }

    /// The schema an unqualified name was found in.
    fn schema_of(&self, name: &TableName) -> String {
        let has =
            |it: &&String| self.catalog.tables.contains_key(&((*it).clone(), name.name.clone()));
        self.path.iter().find(has).cloned().unwrap_or_default()
    }

    fn base_column(&mut self, column: &Column) -> Col {
        let kind = KeyType::of_oid(column.type_oid)
            .filter(|_| column.collation_is_deterministic)
            .filter(|_| !self.catalog.operators_on.contains(&column.type_oid));
        Col {
            name: column.name.clone(),
            node: kind.map(|it| self.graph.add(it, self.block())),
            ty: Some(Self::column_type(column)),
            place: None,
            sql_type: Some(Rc::new(column.sql_type.clone())),
        }
    }

    /// A view is the subquery it stands for, in names of its own.
    fn view(
        &mut self,
        text: &str,
        table: &Table,
        name: &TableName,
        alias: Option<&Alias>,
        spot: Option<Spot>,
    ) -> Names {
        let statements = parse(text);
        let query = match statements.as_deref() {
            Ok([statement]) if self.view_depth < VIEW_DEPTH => match &statement.kind {
                Stmt::Query(query) => query.as_ref(),
                _ => return self.unclear_view(name),
            },
            _ => return self.unclear_view(name),
        };
        let outside = self.enter_view(text);
        let outcome = self.view_query(query);
        // What is shipped comes in no order.
        let is_apart = matches!(outcome.dist, Ok(Dist::Tenant)) && !outcome.is_ordered;
        let mut rel = self.derive(outcome, name.name.clone());
        rel.schema = Some(name.schema.clone().unwrap_or_else(|| self.schema_of(name)));
        if rel.complete && rel.cols.len() == table.columns.len() {
            for (col, column) in rel.cols.iter_mut().zip(&table.columns) {
                col.name.clone_from(&column.name);
                col.ty = Some(Self::column_type(column));
            }
        } else {
            rel.cols.clear();
            rel.complete = false;
        }
        self.leave_view(outside, is_apart, &mut rel, (table, name), spot);
        rename(&mut rel, alias);
        self.one(rel)
    }

    fn view_query(&mut self, query: &Query) -> Outcome {
        let levels = std::mem::take(&mut self.levels);
        let frames = std::mem::take(&mut self.frames);
        let path = std::mem::replace(&mut self.path, self.catalog.search_path.as_slice().into());
        self.view_depth += 1;
        let outcome = self.query(query);
        self.view_depth -= 1;
        (self.levels, self.frames, self.path) = (levels, frames, path);
        outcome
    }

    fn unclear_view(&mut self, name: &TableName) -> Names {
        self.refuse(
            PgError::refused(format!("view {} cannot be analysed", name.name))
                .detail("Its definition does not parse, or views are nested too deep.")
                .hint("Query the tables instead, or SET sluice.tenant."),
        );
        self.one(unknown_rel(name.name.clone()))
    }

    fn cte(&mut self, name: &str, alias: Option<&Alias>) -> Option<Rel> {
        let (f, c) = self.frames.iter().enumerate().rev().find_map(|(f, frame)| {
            frame.ctes.iter().rposition(|it| it.name == name).map(|c| (f, c))
        })?;
        let entry = &mut self.frames[f].ctes[c];
        entry.uses += 1;
        let (columns, outcome) = (entry.columns.clone(), entry.outcome.clone());
        let mut rel = match outcome {
            None => {
                self.not_by_tenant(refuse::over_shards(
                    "a recursive query",
                    format!("WITH RECURSIVE {name} reads its own rows."),
                ));
                unknown_rel(name.to_owned())
            }
            Some(outcome) => {
                let inner: Vec<OutCol> = outcome.cols.clone();
                let rel = self.derive_without_edges(outcome, name.to_owned());
                let entry = &mut self.frames[f].ctes[c];
                entry.edges.extend(downward(&rel, &inner));
                rel
            }
        };
        rename(&mut rel, Some(&Alias { name: name.to_owned(), columns }));
        rename(&mut rel, alias);
        Some(rel)
    }

    fn derived(&mut self, query: &Query, alias: Option<&Alias>, lateral: Option<&Names>) -> Names {
        if let Some(left) = lateral {
            self.levels.push(left.clone());
        }
        let outcome = self.query(query);
        if lateral.is_some() {
            self.levels.pop();
        }
        let mut rel = self.derive(outcome, String::new());
        rename(&mut rel, alias);
        self.one(rel)
    }

    /// A range variable over a query's rows.
    fn derive(&mut self, outcome: Outcome, alias: String) -> Rel {
        let inner = outcome.cols.clone();
        let rel = self.derive_without_edges(outcome, alias);
        for (from, to) in downward(&rel, &inner) {
            self.graph.edge(from, to);
        }
        rel
    }

    /// The same without edges into the query.
    fn derive_without_edges(&mut self, outcome: Outcome, alias: String) -> Rel {
        let mut exact = Vec::new();
        let mut cols = Vec::new();
        for col in &outcome.cols {
            let node = self.derived_node(&col.nodes);
            exact.extend(node.filter(|_| col.exact));
            cols.push(Col {
                name: col.name.clone(),
                node,
                ty: col.ty,
                place: None,
                sql_type: None,
            });
        }
        if let Some(block) = self.blocks.last_mut() {
            block.ordered_inputs += usize::from(outcome.is_ordered);
            block.is_fed_in_order |= outcome.is_ordered && outcome.dist == Ok(Dist::Tenant);
        }
        match outcome.dist {
            Ok(Dist::Tenant) => self.add_member(&exact),
            other => self.inner_result(other),
        }
        Rel { alias, schema: None, cols, complete: outcome.complete }
    }

    fn derived_node(&mut self, inner: &[NodeId]) -> Option<NodeId> {
        let kind = self.graph.kind(*inner.first()?);
        if inner.iter().any(|it| self.graph.kind(*it) != kind) {
            return None;
        }
        let node = self.graph.add(kind, self.block());
        if let [only] = inner {
            self.graph.edge(*only, node);
        }
        Some(node)
    }

    /// A range variable whose rows belong to tenants; `exact` are its columns that tell which.
    fn add_member(&mut self, exact: &[NodeId]) {
        let block = self.block();
        let Some(first) = exact.first() else {
            let hidden = self.graph.add(KeyType::Text, block);
            self.state().members.push(hidden);
            return;
        };
        for other in exact {
            self.state().classes.union(*first, *other);
        }
        self.state().members.push(*first);
    }

    fn join(&mut self, join: &Join, left: &Names) -> Names {
        let start = self.state().members.len();
        let first = self.graph.len();
        let l = self.item_of_from(&join.left, left);
        let (middle, second) = (self.state().members.len(), self.graph.len());
        let r = self.item_of_from(&join.right, &left.and(&l));
        let (end, last) = (self.state().members.len(), self.graph.len());
        let mode = match join.kind {
            JoinKind::Inner => Mode::Filter,
            JoinKind::Left => Mode::Nullable(second..last),
            JoinKind::Right => Mode::Nullable(first..second),
            JoinKind::Full => Mode::Nothing,
        };
        let mut both = l.and(&r);
        self.merge_columns(join, &l, &r, &mode, &mut both);
        if let Some(on) = &join.on {
            self.levels.push(both.clone());
            self.predicate(on, &mode);
            self.levels.pop();
        }
        match join.kind {
            JoinKind::Inner => (),
            JoinKind::Left => self.outer_join(start..middle, middle..end, &mode),
            JoinKind::Right => self.outer_join(middle..end, start..middle, &mode),
            JoinKind::Full => {
                self.state().outer.extend(first..last);
                self.full_join(start..end);
            }
        }
        self.join_alias(join, both)
    }

    fn join_alias(&self, join: &Join, mut both: Names) -> Names {
        if join.using_alias {
            both.add(unknown_rel(String::new()));
        }
        match &join.alias {
            Some(alias) => self.one(unknown_rel(alias.name.clone())),
            None => both,
        }
    }

    /// USING and NATURAL.
    fn merge_columns(&mut self, join: &Join, l: &Names, r: &Names, mode: &Mode, both: &mut Names) {
        let using = if join.natural {
            both.is_unclear |= !(l.is_complete() && r.is_complete());
            common_columns(l, r)
        } else {
            join.using.clone()
        };
        let mut merged: Vec<Col> = Vec::new();
        for name in using {
            let (left, right) = (l.unqualified(&name), r.unqualified(&name));
            let left = left.unwrap_or(Found::Unknown);
            let right = right.unwrap_or(Found::Unknown);
            self.needs(&left);
            self.needs(&right);
            if let (Some(left), Some(right)) = (left.node(), right.node()) {
                self.equal(left, right, mode);
            }
            merged.push(match join.kind {
                JoinKind::Full => Col { name, node: None, ty: None, place: None, sql_type: None },
                JoinKind::Right => {
                    Col { name, node: right.node(), ty: right.ty(), place: None, sql_type: None }
                }
                _ => Col { name, node: left.node(), ty: left.ty(), place: None, sql_type: None },
            });
        }
        both.merge(merged);
    }

    /// Checks that each row of the kept side meets its partners, and only them, on its own shard.
    fn outer_join(
        &mut self,
        kept: std::ops::Range<usize>,
        nullable: std::ops::Range<usize>,
        mode: &Mode,
    ) {
        let Mode::Nullable(nodes) = mode else { return };
        self.state().nullable.extend(nodes.clone());
        self.state().outer.extend(nodes.clone());
        if nullable.is_empty() {
            return;
        }
        if kept.is_empty() {
            self.not_by_tenant(refuse::over_shards(
                "an outer join that keeps the rows of an unsharded table",
                "Each shard would keep them all.",
            ));
            return;
        }
        let state = self.state();
        let members = &state.members[nullable];
        let is_attached = members.iter().all(|it| {
            state.classes.members(*it).any(|other| !nodes.contains(&other))
                && state.classes.same(*it, members[0])
        });
        if !is_attached {
            self.not_by_tenant(refuse::over_shards(
                "an outer join without equality of the tenant columns in ON",
                "A row and its partners may lie on different shards.",
            ));
        }
    }

    fn full_join(&mut self, members: std::ops::Range<usize>) {
        if !members.is_empty() {
            self.not_by_tenant(refuse::over_shards(
                "FULL JOIN",
                "A row and its partners may lie on different shards.",
            ));
        }
    }
}

/// The table an unqualified or qualified name means.
pub(super) fn find<'c>(
    catalog: &'c crate::catalog::Catalog,
    path: &[String],
    name: &TableName,
) -> Option<&'c Table> {
    match &name.schema {
        Some(schema) => catalog.table(Some(schema), &name.name),
        None => path.iter().find_map(|it| catalog.table(Some(it), &name.name)),
    }
}

fn downward(rel: &Rel, inner: &[OutCol]) -> Vec<(NodeId, NodeId)> {
    let mut edges = Vec::new();
    for (col, inner) in rel.cols.iter().zip(inner) {
        let Some(node) = col.node.filter(|_| inner.passes_down) else { continue };
        edges.extend(inner.nodes.iter().map(|it| (node, *it)));
    }
    edges
}

fn unknown_rel(alias: String) -> Rel {
    Rel { alias, schema: None, cols: Vec::new(), complete: false }
}

/// Gives a range variable its alias.
fn rename(rel: &mut Rel, alias: Option<&Alias>) {
    let Some(alias) = alias else { return };
    rel.schema = None;
    rel.alias.clone_from(&alias.name);
    if alias.columns.is_empty() {
        return;
    }
    if !rel.complete {
        rel.cols.clear();
    }
    for (col, name) in rel.cols.iter_mut().zip(&alias.columns) {
        col.name.clone_from(name);
    }
}

/// The columns of both sides, in the order of the left one.
fn common_columns(l: &Names, r: &Names) -> Vec<String> {
    let has = |names: &Names, name: &str| names.unqualified(name).is_some();
    let mut common: Vec<String> = Vec::new();
    for col in &l.visible {
        if has(r, &col.name) && !common.contains(&col.name) {
            common.push(col.name.clone());
        }
    }
    common
}
