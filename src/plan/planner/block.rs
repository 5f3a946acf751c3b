//! Query blocks: what a SELECT gives to the block around it, and whether its rows fall apart by
//! tenant, so that each shard computes the part of its own tenants.

use std::collections::HashSet;

use super::classes::Classes;
use super::from::{CteEntry, Frame};
use super::graph::NodeId;
use super::names::{Found, Names, Place};
use super::predicate::Mode;
use super::refuse;
use super::types::{Type, exact_number, output_name, type_of};
use super::walk::Analyzer;
use crate::error::PgError;
use crate::sql::parse::tree::{
    Body, Distinct, Expr, From, Kind, Literal, Query, Select, SetOp, Stmt, Target, Window, With,
};

/// How a block's rows depend on the shard.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Dist {
    /// The same rows on every shard.
    Free,
    /// All rows are the union of what each tenant's rows give.
    Tenant,
    /// Depends on the tenant that these columns of blocks further out name, and on no other.
    Anchored(Vec<NodeId>),
}

/// A query's result columns, and how its rows depend on the shard.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) cols: Vec<OutCol>,
    /// Whether `cols` are all columns, in order.
    pub(super) complete: bool,
    pub(super) dist: Result<Dist, PgError>,
    /// Whether Postgres gives the rows in an order that the query asks for.
    pub(super) is_ordered: bool,
}

/// A result column.
#[derive(Clone, Debug)]
pub(super) struct OutCol {
    pub(super) name: String,
    pub(super) ty: Option<Type>,
    /// The columns it is copied from, one per arm of a set operation; none if it is computed.
    pub(super) nodes: Vec<NodeId>,
    /// Whether it is the tenant of the row, never NULL.
    pub(super) exact: bool,
    /// Whether confining the result column confines `nodes`.
    pub(super) passes_down: bool,
}

/// What is known of a block while it is looked at.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) id: usize,
    /// For each item of FROM whose rows belong to tenants, a column that tells which.
    pub(super) members: Vec<NodeId>,
    /// Columns that must name the tenant of the block's rows.
    pub(super) requirements: Vec<NodeId>,
    pub(super) classes: Classes,
    /// Columns that an outer join may set to NULL.
    pub(super) nullable: HashSet<NodeId>,
    /// The same, and columns of full joins.
    pub(super) outer: HashSet<NodeId>,
    /// Why the block does not fall apart by tenant.
    pub(super) error: Option<PgError>,
    pub(super) has_aggregate: bool,
    /// An aggregate's result depends on the order of its input.
    pub(super) is_ordered: bool,
    /// An item of FROM gives its rows in an order, which Postgres keeps where nothing changes it.
    pub(super) is_fed_in_order: bool,
    /// Subqueries in FROM that say in which order they give their rows.
    pub(super) ordered_inputs: usize,
    /// All rows come in an order that the statement tells, and are one group.
    pub(super) is_told_order: bool,
    pub(super) windows: Vec<Window>,
    pub(super) reads_reference: bool,
}

impl Analyzer<'_> {
    /// Enters a block.
    pub(super) fn enter(&mut self) {
        self.next_block += 1;
        self.blocks.push(State { id: self.next_block, ..State::default() });
    }

    /// Leaves a block; its FROM's names must be gone.
    pub(super) fn leave(&mut self) {
        let inner = self.blocks.pop();
        let reads_reference = inner.is_some_and(|it| it.reads_reference);
        if let Some(outer) = self.blocks.last_mut() {
            outer.reads_reference |= reads_reference;
        }
    }

    /// Looks at a query and all levels in it.
    pub(super) fn query(&mut self, query: &Query) -> Outcome {
        self.enter();
        self.with(query.with.as_ref());
        self.facts.has_locks |= query.has_locks;
        // Rows that a level around it, or a limit, would leave out must not be locked.
        let is_whole = self.blocks.len() == 1
            && (self.finds_first || query.limit.is_none() && query.offset.is_none());
        if query.has_locks && !is_whole {
            self.not_fanned(refuse::over_shards(
                "FOR UPDATE or SHARE",
                "Rows would be locked in another order on each shard.",
            ));
        }
        let outcome = match &query.body {
            Body::Select(select) => self.select(query, select),
            Body::Values(rows) => {
                let outcome = self.values(query, rows);
                self.first_target = None;
                outcome
            }
            Body::SetOperation { op, all, left, right } => {
                let left = self.query(left);
                let right = self.query(right);
                self.first_target = None;
                self.set_operation(query, (*op, *all), left, right)
            }
        };
        self.without(query.with.as_ref());
        self.leave();
        outcome
    }

    /// Looks at the common table expressions, which stay visible until [`Self::without`].
    pub(super) fn with(&mut self, with: Option<&With>) {
        let Some(with) = with else { return };
        self.frames.push(Frame::default());
        let entry = |cte: &crate::sql::parse::tree::Cte| CteEntry {
            name: cte.name.clone(),
            columns: cte.columns.clone(),
            outcome: None,
            uses: 0,
            materialized: cte.materialized,
            edges: Vec::new(),
        };
        let at = self.frames.len() - 1;
        if with.recursive {
            self.frames[at].ctes.extend(with.ctes.iter().map(entry));
        }
        for (i, cte) in with.ctes.iter().enumerate() {
            let mut outcome = match &cte.body {
                Stmt::Query(query) => self.query(query),
                modifying => self.modifying_cte(cte, modifying),
            };
            if !with.recursive {
                self.frames[at].ctes.push(entry(cte));
            }
            let entry = &mut self.frames[at].ctes[i];
            if entry.uses > 0 {
                outcome.cols.iter_mut().for_each(|it| it.passes_down = false);
            }
            if cte.has_search {
                outcome.complete = false;
            }
            entry.outcome = Some(outcome);
        }
    }

    /// Forgets the common table expressions of [`Self::with`]. Only now is it known how often each
    /// was used.
    pub(super) fn without(&mut self, with: Option<&With>) {
        if with.is_none() {
            return;
        }
        let frame = self.frames.pop().unwrap_or_default();
        for entry in frame.ctes.into_iter().filter(|it| it.uses == 1 && !it.materialized) {
            for (from, to) in entry.edges {
                self.graph.edge(from, to);
            }
        }
    }

    fn values(&mut self, query: &Query, rows: &[Vec<Expr>]) -> Outcome {
        self.levels.push(Names::new(self.block()));
        self.exprs(rows.iter().flatten());
        self.tail(query);
        let ty = |i: usize| exact_number(&self.levels, rows.iter().filter_map(|it| it.get(i)));
        let types: Vec<Option<Type>> = (0..rows.first().map_or(0, Vec::len)).map(ty).collect();
        self.levels.pop();
        let width = rows.first().map_or(0, Vec::len);
        let col = |i| OutCol {
            name: format!("column{}", i + 1),
            ty: types[i],
            nodes: Vec::new(),
            exact: false,
            passes_down: false,
        };
        let cols = (0..width).map(col).collect();
        let is_ordered = !query.order.is_empty();
        Outcome { cols, complete: true, dist: self.by_tenant(), is_ordered }
    }

    /// ORDER BY, LIMIT and OFFSET.
    fn tail(&mut self, query: &Query) {
        self.exprs(query.order.iter().map(|it| &it.expr));
        self.exprs(query.limit.iter().chain(&query.offset));
    }

    fn select(&mut self, query: &Query, select: &Select) -> Outcome {
        let names = self.items_of_from(&select.from);
        self.levels.push(names);
        self.note_told_order(select);
        if let Some(filter) = &select.filter {
            self.predicate(filter, &Mode::Filter);
        }
        for target in &select.targets {
            match &target.expr.kind {
                Kind::Star(names) => self.needs_star(names, target.expr.at),
                _ => {
                    if let Some(gathering) = &mut self.gathering {
                        let is_bare = target.alias.is_none();
                        gathering.bare_target = is_bare.then_some(target.expr.at);
                    }
                    self.expr(&target.expr);
                }
            }
        }
        if let Some(gathering) = &mut self.gathering {
            gathering.bare_target = None;
        }
        self.exprs(select.group.iter().chain(&select.having));
        let is_position = |it: &Expr| matches!(it.kind, Kind::Literal(Literal::Int(_)));
        self.facts.has_ordinals |= select.group.iter().any(is_position);
        self.exprs(select.windows.iter().flat_map(Window::children));
        if let Distinct::On(on) = &select.distinct {
            self.exprs(on);
            self.facts.has_ordinals |= on.iter().any(is_position);
        }
        self.tail(query);
        self.group_dependent_columns(select);
        let dist = self.by_tenant();
        if let Ok(dist) = &dist {
            self.gather_parts(query, select, dist);
        }
        let (cols, complete) = self.columns(query, select);
        let is_ordered = !query.order.is_empty()
            || self.block_is_fed_in_order()
                && !self.is_grouped(select)
                && select.distinct == Distinct::No;
        if self.blocks.len() == 1 && self.wants_merge && dist != Ok(Dist::Free) {
            let merged = dist.clone().and_then(|_| match is_ordered && query.order.is_empty() {
                true => Err(ordered_inside()),
                false => super::merge::plan(self, query, select),
            });
            self.merged = Some(merged);
        }
        let dist = dist.and_then(|dist| self.whole(dist, query, select));
        self.first_target = self.sole_target(select);
        self.levels.pop();
        Outcome { cols, complete, dist, is_ordered }
    }

    fn sole_target(&self, select: &Select) -> Option<Place> {
        let [Target { expr: Expr { kind: Kind::Column(names), .. }, .. }] =
            select.targets.as_slice()
        else {
            return None;
        };
        match self.resolve(names) {
            Found::Column { place, .. } => place,
            _ => None,
        }
    }

    /// Notes whether an aggregate meets the rows in an order that is the same wherever it is computed: that of
    /// the one subquery or function in FROM.
    fn note_told_order(&mut self, select: &Select) {
        let is_one_group = select.group.is_empty() && !select.has_grouping_sets;
        if let Some(state) = self.blocks.last_mut() {
            let is_told = match select.from.as_slice() {
                [From::Function { calls, .. }] => calls.len() == 1,
                [From::Table { .. } | From::Query { .. }] => state.ordered_inputs == 1,
                _ => false,
            };
            state.is_told_order = is_told && is_one_group;
        }
    }

    fn block_is_fed_in_order(&self) -> bool {
        // A join has an order of its own.
        self.blocks.last().is_some_and(|it| it.is_fed_in_order && it.members.len() == 1)
    }

    /// Whether FROM and WHERE fall apart by tenant.
    pub(super) fn by_tenant(&self) -> Result<Dist, PgError> {
        let Some(state) = self.blocks.last() else { return Ok(Dist::Free) };
        if let Some(error) = &state.error {
            return Err(error.clone());
        }
        let is_own = |node: &NodeId| self.graph.block(*node) == state.id;
        let (own, mut outer): (Vec<NodeId>, Vec<NodeId>) =
            state.requirements.iter().partition(|it| is_own(it));
        let Some(first) = state.members.first() else {
            return match (own.is_empty(), outer.is_empty()) {
                (true, true) => Ok(Dist::Free),
                (true, false) => Ok(Dist::Anchored(outer)),
                _ => Err(correlated()),
            };
        };
        if !state.members.iter().all(|it| state.classes.same(*it, *first)) {
            return Err(refuse::over_shards(
                "a join that is not on the tenant column",
                "Rows of different tenants may lie on different shards.",
            ));
        }
        if !own.iter().all(|it| state.classes.same(*it, *first)) {
            return Err(correlated());
        }
        let anchors: Vec<NodeId> = state.classes.members(*first).filter(|it| !is_own(it)).collect();
        match (anchors.is_empty(), outer.is_empty()) {
            (true, true) => Ok(Dist::Tenant),
            (true, false) => Err(correlated()),
            _ => {
                outer.extend(anchors);
                Ok(Dist::Anchored(outer))
            }
        }
    }

    /// Whether a column is the tenant of the current block's rows, never NULL.
    pub(super) fn is_exact(&self, node: NodeId) -> bool {
        let Some(state) = self.blocks.last() else { return false };
        let Some(first) = state.members.first() else { return false };
        self.graph.block(node) == state.id
            && state.classes.same(node, *first)
            && !state.nullable.contains(&node)
    }

    fn is_exact_expr(&self, expr: &Expr) -> bool {
        self.node_of(expr).is_some_and(|it| self.is_exact(it))
    }

    /// Whether all other clauses, too, compute each tenant's rows apart.
    fn whole(&self, dist: Dist, query: &Query, select: &Select) -> Result<Dist, PgError> {
        let Some(state) = self.blocks.last() else { return Ok(dist) };
        let has_limit = query.limit.is_some() || query.offset.is_some();
        match dist {
            Dist::Anchored(_) => Ok(dist),
            Dist::Free => {
                let picks = has_limit
                    || matches!(select.distinct, Distinct::On(_))
                    || !state.windows.is_empty()
                    || state.is_ordered;
                match picks && state.reads_reference {
                    true => Err(refuse::over_shards(
                        "a subquery whose rows depend on their order",
                        "Shards may keep the rows of a reference table in another order.",
                    )),
                    false => Ok(dist),
                }
            }
            Dist::Tenant if has_limit => Err(refuse::over_shards(
                "LIMIT in a subquery",
                "Each shard would apply it to its own rows.",
            )),
            Dist::Tenant if !self.groups_are_whole(select) => Err(refuse::over_shards(
                "an aggregate in a subquery",
                "Each shard would compute it over its own rows.",
            )),
            Dist::Tenant if !self.windows_are_whole(select) => Err(windows()),
            Dist::Tenant if !self.distinct_is_whole(select) => Err(refuse::over_shards(
                "DISTINCT in a subquery",
                "Equal rows may lie on different shards.",
            )),
            Dist::Tenant => Ok(dist),
        }
    }

    pub(super) fn is_grouped(&self, select: &Select) -> bool {
        let has_aggregate = self.blocks.last().is_some_and(|it| it.has_aggregate);
        has_aggregate
            || !select.group.is_empty()
            || select.having.is_some()
            || select.has_grouping_sets
    }

    /// Whether there are no groups, or each belongs to one tenant.
    pub(super) fn groups_are_whole(&self, select: &Select) -> bool {
        !self.is_grouped(select)
            || !select.has_grouping_sets
                && select.group.iter().any(|it| self.is_exact_expr(self.grouped(select, it)))
    }

    /// Whether each window's partitions belong to one tenant.
    pub(super) fn windows_are_whole(&self, select: &Select) -> bool {
        let Some(state) = self.blocks.last() else { return true };
        state.windows.iter().all(|it| {
            let partition = partition(select, it, 0);
            partition.iter().any(|it| self.is_exact_expr(it))
        })
    }

    pub(super) fn distinct_is_whole(&self, select: &Select) -> bool {
        match &select.distinct {
            Distinct::No => true,
            Distinct::Rows => select.targets.iter().any(|it| match &it.expr.kind {
                Kind::Star(names) => self.star(names).is_some_and(|(cols, _)| {
                    cols.iter().any(|it| it.node.is_some_and(|it| self.is_exact(it)))
                }),
                _ => self.is_exact_expr(&it.expr),
            }),
            Distinct::On(on) => on.iter().any(|it| self.is_exact_expr(output(select, it))),
        }
    }

    /// The expression an item of GROUP BY means: an input column, an alias or a position.
    pub(super) fn grouped<'e>(&self, select: &'e Select, item: &'e Expr) -> &'e Expr {
        if let Kind::Column(names) = &item.kind
            && let [name] = names.as_slice()
            && self.levels.last().is_some_and(|it| it.unqualified(name).is_some())
        {
            return item;
        }
        output(select, item)
    }

    /// The columns of `*` or `name.*`, and whether they are all; `None` if there is no such name.
    pub(super) fn star(&self, names: &[String]) -> Option<(Vec<super::names::Col>, bool)> {
        let level = self.levels.last()?;
        match names {
            [] => Some((level.visible.clone(), level.is_complete())),
            [rel] => level.rel(None, rel).map(|it| (it.cols.clone(), it.complete)),
            [.., schema, rel] => {
                level.rel(Some(schema), rel).map(|it| (it.cols.clone(), it.complete))
            }
        }
    }

    /// The columns of RETURNING, and whether they are all. What is asked of them later does not say which
    /// rows are changed.
    pub(super) fn returned_columns(&self, targets: &[Target]) -> (Vec<OutCol>, bool) {
        let (mut cols, mut complete) = (Vec::new(), true);
        let col = |name: String, node: Option<NodeId>, ty: Option<Type>| OutCol {
            name,
            ty,
            nodes: node.into_iter().collect(),
            exact: node.is_some_and(|it| self.is_exact(it)),
            passes_down: false,
        };
        for target in targets {
            match &target.expr.kind {
                Kind::Star(names) => {
                    let (found, all) = self.star(names).unwrap_or_default();
                    complete &= all;
                    cols.extend(found.into_iter().map(|it| col(it.name, it.node, it.ty)));
                }
                kind => {
                    let name = target.alias.clone().unwrap_or_else(|| output_name(&target.expr));
                    let node = match kind {
                        Kind::Column(names) => self.resolve(names).node(),
                        _ => None,
                    };
                    cols.push(col(name, node, type_of(&self.levels, &target.expr)));
                }
            }
        }
        (cols, complete)
    }

    /// The result columns, and whether they are all.
    fn columns(&self, query: &Query, select: &Select) -> (Vec<OutCol>, bool) {
        let (mut cols, mut complete) = (Vec::new(), true);
        for target in &select.targets {
            match &target.expr.kind {
                Kind::Star(names) => {
                    let (found, all) = self.star(names).unwrap_or_default();
                    complete &= all;
                    for col in found {
                        cols.push(self.column_of(query, select, col.name, col.node, col.ty));
                    }
                }
                _ => cols.push(self.target_column(query, select, target)),
            }
        }
        (cols, complete)
    }

    fn target_column(&self, query: &Query, select: &Select, target: &Target) -> OutCol {
        let name = target.alias.clone().unwrap_or_else(|| output_name(&target.expr));
        let found = match &target.expr.kind {
            Kind::Column(names) => self.resolve(names),
            _ => Found::Unknown,
        };
        let ty = type_of(&self.levels, &target.expr);
        self.column_of(query, select, name, found.node(), ty)
    }

    fn column_of(
        &self,
        query: &Query,
        select: &Select,
        name: String,
        node: Option<NodeId>,
        ty: Option<Type>,
    ) -> OutCol {
        OutCol {
            name,
            ty,
            nodes: node.into_iter().collect(),
            exact: node.is_some_and(|it| self.is_exact(it)),
            passes_down: node.is_some_and(|it| self.passes_down(query, select, it)),
        }
    }

    /// Whether rows of the block with this value in the column come from rows with this value alone.
    fn passes_down(&self, query: &Query, select: &Select, node: NodeId) -> bool {
        let Some(state) = self.blocks.last() else { return false };
        let is_it = |expr: &Expr| self.node_of(expr) == Some(node);
        // A row that lost its partner has NULL there, which NOT IN would notice.
        let is_nullable = state.nullable.contains(&node);
        if is_nullable || query.limit.is_some() || query.offset.is_some() || query.has_locks {
            return false;
        }
        let groups = !self.is_grouped(select)
            || !select.has_grouping_sets
                && select.group.iter().any(|it| is_it(self.grouped(select, it)));
        let windows = state.windows.iter().all(|it| partition(select, it, 0).iter().any(is_it));
        let distinct = match &select.distinct {
            Distinct::On(on) => on.iter().any(|it| is_it(output(select, it))),
            _ => true,
        };
        groups && windows && distinct
    }

    fn set_operation(
        &mut self,
        query: &Query,
        (op, all): (SetOp, bool),
        left: Outcome,
        right: Outcome,
    ) -> Outcome {
        self.levels.push(Names::new(self.block()));
        self.tail(query);
        self.levels.pop();
        let has_limit = query.limit.is_some() || query.offset.is_some();
        let complete = left.complete && right.complete && left.cols.len() == right.cols.len();
        let mut cols = Vec::new();
        if complete {
            let pairs = left.cols.into_iter().zip(right.cols);
            cols.extend(pairs.map(|(left, right)| both(left, right, has_limit)));
        }
        let has_tenant = cols.iter().any(|it| it.exact);
        let bag = op == SetOp::Union && all;
        let dist = match (left.dist, right.dist) {
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(Dist::Free), Ok(Dist::Free)) => {
                let reads = self.blocks.last().is_some_and(|it| it.reads_reference);
                if has_limit && reads { Err(set_operations()) } else { Ok(Dist::Free) }
            }
            (Ok(Dist::Tenant), Ok(Dist::Tenant)) if !has_limit && (bag || has_tenant) => {
                Ok(Dist::Tenant)
            }
            (Ok(Dist::Anchored(a)), Ok(Dist::Free)) | (Ok(Dist::Free), Ok(Dist::Anchored(a))) => {
                Ok(Dist::Anchored(a))
            }
            (Ok(Dist::Anchored(mut a)), Ok(Dist::Anchored(b))) => {
                a.extend(b);
                Ok(Dist::Anchored(a))
            }
            _ => Err(set_operations()),
        };
        if self.blocks.len() == 1 && self.wants_merge {
            self.merged = Some(Err(set_operations()));
        }
        Outcome { cols, complete, dist, is_ordered: !query.order.is_empty() }
    }
}

/// A result column of a set operation.
fn both(left: OutCol, right: OutCol, has_limit: bool) -> OutCol {
    let is_copied = !left.nodes.is_empty() && !right.nodes.is_empty();
    OutCol {
        name: left.name,
        ty: left.ty.filter(|it| Some(*it) == right.ty),
        exact: left.exact && right.exact,
        passes_down: left.passes_down && right.passes_down && !has_limit,
        nodes: if is_copied { [left.nodes, right.nodes].concat() } else { Vec::new() },
    }
}

/// The expression an item of ORDER BY or DISTINCT ON means: an alias, a position, or itself.
pub(super) fn output<'e>(select: &'e Select, item: &'e Expr) -> &'e Expr {
    match &item.kind {
        Kind::Literal(Literal::Int(n)) => {
            let has_star = select.targets.iter().any(|it| matches!(it.expr.kind, Kind::Star(_)));
            let at = usize::try_from(*n).ok().and_then(|it| it.checked_sub(1));
            at.filter(|_| !has_star)
                .and_then(|it| select.targets.get(it))
                .map_or(item, |it| &it.expr)
        }
        Kind::Column(names) => match names.as_slice() {
            [name] => {
                let is_it = |it: &&Target| it.alias.as_ref() == Some(name);
                select.targets.iter().find(is_it).map_or(item, |it| &it.expr)
            }
            _ => item,
        },
        _ => item,
    }
}

/// PARTITION BY of a window, which may come from the window it is based on.
fn partition<'e>(select: &'e Select, window: &'e Window, depth: usize) -> &'e [Expr] {
    let Some(base) = window.base.as_ref().filter(|_| window.partition.is_empty()) else {
        return &window.partition;
    };
    let named = select.windows.iter().find(|it| it.name.as_ref() == Some(base));
    match named.filter(|_| depth < 16) {
        Some(named) => partition(select, named, depth + 1),
        None => &[],
    }
}

fn correlated() -> PgError {
    refuse::over_shards(
        "a subquery that is not correlated by the tenant column",
        "Its rows may lie on another shard than the row it is computed for.",
    )
}

fn ordered_inside() -> PgError {
    refuse::over_shards(
        "ORDER BY in a subquery of FROM",
        "Its order is that of the answer, but each shard would sort its own rows.",
    )
    .hint("Order the outermost query.")
}

pub(super) fn windows() -> PgError {
    refuse::over_shards(
        "a window function whose partitions do not contain the tenant column",
        "Each shard would compute it over its own rows.",
    )
    .hint(
        "Add the tenant column to PARTITION BY, or name one tenant in WHERE or SET sluice.tenant.",
    )
}

fn set_operations() -> PgError {
    refuse::over_shards("a set operation", "Rows of both sides may lie on different shards.")
}
