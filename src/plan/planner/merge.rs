//! How the answers of several shards to a SELECT become one: what each shard runs, and what is done
//! with the rows.

use super::block::windows;
use super::functions;
use super::refuse;
use super::splice::{Clauses, checked};
use super::types::{
    Type, is_bytewise, is_comparable, is_deterministic, is_exact_number, is_groupable, is_sortable,
    output_name, type_of,
};
use super::walk::Analyzer;
use crate::catalog::FunctionKind;
use crate::error::{PgError, sqlstate};
use crate::merge::{Aggregate, Bound, ColumnAt, Group, MergeSpec, SortKey};
use crate::sql::parse::parse;
use crate::sql::parse::tree::{
    Body, Call, Distinct, Expr, Kind, Literal, Query, Select, SortBy, Stmt, Target,
};

/// A column that shards add to their rows.
struct Hidden {
    expr: Expr,
    text: Option<String>,
}

/// The work on one statement.
struct Merge<'a> {
    analyzer: &'a Analyzer<'a>,
    query: &'a Query,
    select: &'a Select,
    clauses: Option<Clauses<'a>>,
    hidden: Vec<Hidden>,
}

/// How rows of several shards that may be equal, or belong to one group, become one.
enum Rows {
    /// They stay apart: each group, or each distinct row, lies on one shard.
    Apart,
    Distinct,
    Grouped,
}

/// The merge of a SELECT whose FROM and WHERE fall apart by tenant.
pub(super) fn plan(
    analyzer: &Analyzer<'_>,
    query: &Query,
    select: &Select,
) -> Result<MergeSpec, PgError> {
    let clauses = Clauses::of(analyzer.sql, &analyzer.range);
    let mut merge = Merge { analyzer, query, select, clauses, hidden: Vec::new() };
    let rows = merge.rows()?;
    let mut spec = match rows {
        Rows::Apart => MergeSpec { sort: merge.sort(true)?, ..MergeSpec::default() },
        Rows::Distinct => {
            merge.check_distinct()?;
            MergeSpec { distinct: true, sort: merge.sort(false)?, ..MergeSpec::default() }
        }
        Rows::Grouped => merge.regroup()?,
    };
    spec.limit = merge.bound(query.limit.as_ref(), "LIMIT")?;
    spec.offset = merge.bound(query.offset.as_ref(), "OFFSET")?;
    spec.hidden = merge.hidden.len();
    spec.shard_sql = merge.shard_sql(&spec)?;
    Ok(spec)
}

impl Merge<'_> {
    fn rows(&self) -> Result<Rows, PgError> {
        let (a, select) = (self.analyzer, self.select);
        if self.query.with_ties {
            return Err(refuse::over_shards("WITH TIES", "Ties may lie on different shards."));
        }
        if !a.windows_are_whole(select) {
            return Err(windows());
        }
        match (a.groups_are_whole(select), a.distinct_is_whole(select)) {
            (true, true) => Ok(Rows::Apart),
            (true, false) if matches!(select.distinct, Distinct::On(_)) => {
                Err(refuse::over_shards(
                    "DISTINCT ON",
                    "Rows that are equal in it may lie on different shards.",
                ))
            }
            (true, false) => Ok(Rows::Distinct),
            (false, _) if select.distinct != Distinct::No => Err(refuse::over_shards(
                "DISTINCT over groups",
                "Groups reach over shards unless GROUP BY contains the tenant column.",
            )),
            (false, _) => Ok(Rows::Grouped),
        }
    }

    fn first_star(&self) -> usize {
        let is_star = |it: &Target| matches!(it.expr.kind, Kind::Star(_));
        self.select.targets.iter().position(is_star).unwrap_or(usize::MAX)
    }

    /// Whether two expressions are the same, however their columns are qualified.
    fn same(&self, a: &Expr, b: &Expr) -> bool {
        if a == b {
            return true;
        }
        let (Kind::Column(x), Kind::Column(y)) = (&a.kind, &b.kind) else { return false };
        let (Some(level), true) = (self.analyzer.levels.last(), x.last() == y.last()) else {
            return false;
        };
        let one_is_bare = x.len() == 1 || y.len() == 1;
        let is_merged = level.merged.iter().any(|it| Some(it) == x.last());
        let is_known = |names: &[String]| {
            matches!(self.analyzer.resolve(names), super::names::Found::Column { .. })
        };
        one_is_bare && !is_merged && is_known(x) && is_known(y)
    }

    /// The position of a target with this expression, before any star.
    fn target_with(&self, expr: &Expr) -> Option<usize> {
        let found = self.select.targets.iter().position(|it| self.same(&it.expr, expr))?;
        (found < self.first_star()).then_some(found)
    }

    /// The same for an item of ORDER BY: COLLATE changes the order, not the value.
    fn target_ordered(&self, expr: &Expr) -> Option<usize> {
        self.target_with(expr).or_else(|| self.target_with(without_collation(expr)?))
    }

    /// The target an item of ORDER BY names by position or by output name.
    fn named(&self, item: &Expr) -> Result<Option<usize>, PgError> {
        let targets = &self.select.targets;
        match &item.kind {
            Kind::Literal(Literal::Int(n)) => {
                let at = usize::try_from(*n).ok().and_then(|it| it.checked_sub(1));
                match at.filter(|it| *it < targets.len().min(self.first_star())) {
                    Some(at) => Ok(Some(at)),
                    None => Err(refuse::over_shards(
                        &format!("ORDER BY {n}"),
                        "The position cannot be told when * stands before it.",
                    )
                    .hint("Name the column.")),
                }
            }
            Kind::Literal(_) => Err(refuse::over_shards(
                "ORDER BY a constant",
                "It is no position and orders nothing.",
            )),
            Kind::Column(names) if names.len() == 1 => {
                let is_it = |it: &Target| {
                    let name = it.alias.clone().unwrap_or_else(|| output_name(&it.expr));
                    !matches!(it.expr.kind, Kind::Star(_)) && name == names[0]
                };
                Ok(targets.iter().position(is_it))
            }
            _ => Ok(None),
        }
    }

    /// Adds a hidden column, or finds it.
    fn hide(&mut self, expr: &Expr, text: Option<String>) -> ColumnAt {
        let found = self.hidden.iter().position(|it| it.expr == *expr);
        ColumnAt::Hidden(found.unwrap_or_else(|| {
            self.hidden.push(Hidden { expr: expr.clone(), text });
            self.hidden.len() - 1
        }))
    }

    /// The sort keys; without `may_hide` all must be in the target list.
    fn sort(&mut self, may_hide: bool) -> Result<Vec<SortKey>, PgError> {
        let (query, select) = (self.query, self.select);
        let may_hide = may_hide && select.distinct != Distinct::Rows;
        let mut keys = Vec::new();
        for (n, item) in query.order.iter().enumerate() {
            let (column, expr) = match self.named(&item.expr)? {
                Some(at) if at < self.first_star() => {
                    (Some(ColumnAt::Visible(at)), &select.targets[at].expr)
                }
                Some(at) => {
                    let target = &select.targets[at];
                    let text = self.clauses.as_ref();
                    let text = text.and_then(|it| it.target(at, target.alias.is_some()));
                    let text = text.map(str::to_owned);
                    (may_hide.then(|| self.hide(&target.expr, text)), &target.expr)
                }
                None => match self.target_ordered(&item.expr) {
                    Some(at) => (Some(ColumnAt::Visible(at)), &item.expr),
                    None => {
                        let text = self.clauses.as_ref().and_then(|it| it.order_item(n));
                        let text = text.map(str::to_owned);
                        (may_hide.then(|| self.hide(&item.expr, text)), &item.expr)
                    }
                },
            };
            let column = column.ok_or_else(|| {
                refuse::over_shards(
                    "ORDER BY what is not in the target list of SELECT DISTINCT",
                    "The proxy must see the values to order the rows.",
                )
            })?;
            keys.push(self.key(item, column, expr)?);
        }
        Ok(keys)
    }

    /// A sort key over a column that holds this expression.
    fn key(&self, item: &SortBy, column: ColumnAt, expr: &Expr) -> Result<SortKey, PgError> {
        if item.using {
            return Err(refuse::over_shards(
                "ORDER BY … USING",
                "The order is the operator's own.",
            ));
        }
        let a = self.analyzer;
        let is_bytewise = is_bytewise(&a.levels, a.catalog.default_collation_is_c, expr);
        match type_of(&a.levels, expr) {
            Some(ty) if !(is_sortable(ty.oid) || ty.oid == 1042) => Err(refuse::over_shards(
                "ORDER BY a value of this type",
                format!("The proxy does not know the order of type {}.", ty.oid),
            )),
            Some(ty) if ty.oid == 1042 || ty.is_text() && !is_bytewise => Err(collated()),
            _ => Ok(SortKey {
                column,
                descending: item.descending,
                nulls_first: item.nulls_first.unwrap_or(item.descending),
                is_bytewise,
            }),
        }
    }

    fn check_distinct(&self) -> Result<(), PgError> {
        for target in &self.select.targets {
            if let Kind::Star(names) = &target.expr.kind {
                let (cols, complete) = self.analyzer.star(names).unwrap_or_default();
                if !complete || cols.is_empty() {
                    return Err(unequal("DISTINCT", "*"));
                }
                for col in cols {
                    let is_plain = |ty: Type| is_groupable(ty.oid) && ty.is_deterministic;
                    if !col.ty.is_some_and(is_plain) {
                        return Err(unequal("DISTINCT", &col.name));
                    }
                }
            } else {
                self.check_equal("DISTINCT", &target.expr)?;
            }
        }
        Ok(())
    }

    /// Whether equal values of the expression have equal text.
    fn check_equal(&self, what: &str, expr: &Expr) -> Result<(), PgError> {
        let levels = &self.analyzer.levels;
        let is_plain =
            |ty: Type| is_groupable(ty.oid) && (!ty.is_text() || is_deterministic(levels, expr));
        match type_of(levels, expr) {
            Some(ty) if is_plain(ty) => Ok(()),
            _ => Err(unequal(what, &output_name(expr))),
        }
    }

    /// Groups that reach over shards: shards aggregate in part, the proxy puts the parts together.
    fn regroup(&mut self) -> Result<MergeSpec, PgError> {
        let (a, select, query) = (self.analyzer, self.select, self.query);
        self.check_groups()?;
        let mut group = Group { keys: Vec::new(), aggregates: Vec::new() };
        let keys: Vec<&Expr> = select.group.iter().map(|it| a.grouped(select, it)).collect();
        for (at, target) in select.targets.iter().enumerate() {
            self.add_target(&mut group, &keys, at, &target.expr)?;
        }
        for (n, key) in keys.iter().enumerate() {
            self.check_equal("GROUP BY", key)?;
            if self.target_with(key).is_none() {
                let text = self.clauses.as_ref().and_then(|it| it.group_item(n));
                let text = text.map(str::to_owned);
                if let ColumnAt::Hidden(at) = self.hide(key, text) {
                    group.keys.push(select.targets.len() + at);
                }
            }
        }
        let mut sort = Vec::new();
        for (n, item) in query.order.iter().enumerate() {
            sort.push(self.group_order(&mut group, n, item)?);
        }
        group.keys.sort_unstable();
        group.keys.dedup();
        Ok(MergeSpec { group: Some(group), sort, ..MergeSpec::default() })
    }

    fn check_groups(&self) -> Result<(), PgError> {
        let (state, select) = (self.analyzer.blocks.last(), self.select);
        let whole = "Groups reach over shards unless GROUP BY contains the tenant column.";
        if select.has_grouping_sets {
            return Err(refuse::over_shards("ROLLUP, CUBE or GROUPING SETS", whole));
        }
        if select.having.is_some() {
            return Err(refuse::over_shards("HAVING", whole));
        }
        if state.is_some_and(|it| !it.windows.is_empty()) {
            return Err(refuse::over_shards("a window function over groups", whole));
        }
        if self.first_star() != usize::MAX {
            return Err(refuse::over_shards("* with GROUP BY", whole));
        }
        Ok(())
    }

    fn add_target(
        &self,
        group: &mut Group,
        keys: &[&Expr],
        at: usize,
        expr: &Expr,
    ) -> Result<(), PgError> {
        let is_constant = keys.is_empty()
            && matches!(expr.kind, Kind::Literal(Literal::Int(_) | Literal::Text(_)));
        if keys.iter().any(|it| self.same(it, expr)) || is_constant {
            group.keys.push(at);
            return Ok(());
        }
        group.aggregates.push((at, self.aggregate(expr)?));
        Ok(())
    }

    fn group_order(
        &mut self,
        group: &mut Group,
        n: usize,
        item: &SortBy,
    ) -> Result<SortKey, PgError> {
        let select = self.select;
        if let Some(at) = self.named(&item.expr)? {
            return self.key(item, ColumnAt::Visible(at), &select.targets[at].expr);
        }
        if let Some(at) = self.target_ordered(&item.expr) {
            return self.key(item, ColumnAt::Visible(at), &item.expr);
        }
        let bare = without_collation(&item.expr).unwrap_or(&item.expr);
        if let Some(at) = self.hidden.iter().position(|it| self.same(&it.expr, bare)) {
            return self.key(item, ColumnAt::Hidden(at), &item.expr);
        }
        let aggregate = self.aggregate(&item.expr)?;
        let text = self.clauses.as_ref().and_then(|it| it.order_item(n)).map(str::to_owned);
        let column = self.hide(&item.expr, text);
        if let ColumnAt::Hidden(at) = column {
            group.aggregates.push((select.targets.len() + at, aggregate));
        }
        self.key(item, column, &item.expr)
    }

    /// How the parts of an aggregate combine; anything but a plain aggregate is refused.
    fn aggregate(&self, expr: &Expr) -> Result<Aggregate, PgError> {
        let a = self.analyzer;
        let Kind::Call(call) = &expr.kind else { return Err(no_aggregate()) };
        let traits = functions::traits(a.catalog, &a.path, call);
        if traits.is_none_or(|it| it.kind != FunctionKind::Aggregate) {
            return Err(no_aggregate());
        }
        let is_builtin = traits.is_some_and(|it| it.is_builtin);
        let partial = match call.name.as_str() {
            _ if !is_builtin || call.variadic || call.over.is_some() || call.within_group => None,
            _ if !call.order.is_empty() => None,
            "count" if call.distinct => match call.args.as_slice() {
                // Each tenant is on one shard.
                [arg] if a.node_of(arg).is_some_and(|it| a.is_exact(it)) => Some(Aggregate::Count),
                _ => None,
            },
            _ if call.distinct => None,
            "count" => Some(Aggregate::Count),
            "bool_and" | "every" => Some(Aggregate::And),
            "bool_or" => Some(Aggregate::Or),
            "sum" => return self.sum(call),
            "min" => return self.extreme(call, Aggregate::Min),
            "max" => return self.extreme(call, Aggregate::Max),
            _ => None,
        };
        partial.ok_or_else(|| {
            let distinct = if call.distinct { "(DISTINCT …)" } else { "" };
            refuse::over_shards(
                &format!("the aggregate {}{distinct}", call.name),
                "Its parts cannot be put together, or its groups reach over shards.",
            )
            .hint("Add the tenant column to GROUP BY, or name one tenant in WHERE or SET sluice.tenant.")
        })
    }

    fn sum(&self, call: &Call) -> Result<Aggregate, PgError> {
        let ty = call.args.first().and_then(|it| type_of(&self.analyzer.levels, it));
        match ty {
            Some(ty) if is_exact_number(ty.oid) => Ok(Aggregate::Sum),
            _ => Err(refuse::over_shards(
                "sum of anything but integers and numerics",
                "Sums of floating-point numbers depend on their order; the type of other expressions is not known.",
            )
            .hint("Cast the argument, e.g. sum(x::numeric), or name one tenant.")),
        }
    }

    fn extreme(&self, call: &Call, aggregate: Aggregate) -> Result<Aggregate, PgError> {
        let a = self.analyzer;
        let Some(arg) = call.args.first() else { return Err(collated()) };
        let bytewise = is_bytewise(&a.levels, a.catalog.default_collation_is_c, arg);
        match type_of(&a.levels, arg) {
            Some(ty) if ty.is_text() && ty.oid != 1042 && !bytewise => Err(collated()),
            Some(ty) if ty.oid != 1042 && is_comparable(Type { is_bytewise: bytewise, ..ty }) => {
                Ok(aggregate)
            }
            _ => Err(refuse::over_shards(
                &format!("{} of this type", call.name),
                "The proxy does not know the type's order.",
            )),
        }
    }

    fn bound(&self, expr: Option<&Expr>, what: &str) -> Result<Option<Bound>, PgError> {
        let Some(expr) = expr else { return Ok(None) };
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = match &expr.kind {
            Kind::Literal(Literal::Null) => return Ok(None),
            Kind::Literal(Literal::Int(n)) => Some(Bound::Literal(i64::from(*n))),
            Kind::Literal(Literal::Number(text)) => number(text).map(Bound::Literal),
            Kind::Param(n) => Some(Bound::Param(*n)),
            _ => None,
        };
        match bound {
            Some(Bound::Literal(n)) if n < 0 => {
                let is_limit = what == "LIMIT";
                let code =
                    if is_limit { sqlstate::INVALID_LIMIT } else { sqlstate::INVALID_OFFSET };
                Err(PgError::new(code, format!("{what} must not be negative")))
            }
            Some(bound) => Ok(Some(bound)),
            None => Err(refuse::over_shards(
                &format!("an expression in {what}"),
                "The proxy applies it and reads a number or a parameter.",
            )
            .hint(format!("Write {what} with a number or a plain parameter."))),
        }
    }

    /// What each shard runs, checked against the query it must mean.
    fn shard_sql(&self, spec: &MergeSpec) -> Result<String, PgError> {
        let together = spec.group.is_some() || spec.distinct;
        let mut expected = self.query.clone();
        let mut edits = Vec::new();
        let clauses = self.clauses.as_ref();
        let mut cut = |word: &str| {
            let range = clauses.and_then(|it| it.bytes(word));
            edits.extend(range.map(|it| (it, String::new())));
        };
        let moves_limit = spec.offset.is_some() || together;
        if together {
            cut("order");
            expected.order.clear();
        }
        if moves_limit {
            ["limit", "offset", "fetch"].into_iter().for_each(&mut cut);
            (expected.limit, expected.offset) = (None, None);
        }
        if moves_limit && !together {
            let limit = shard_limit(spec)?;
            if let Some(limit) = limit {
                expected.limit = limit_expr(&limit);
                let end = clauses.map_or(0, Clauses::end);
                edits.push((end..end, format!(" LIMIT {limit}")));
            }
        }
        if !self.hidden.is_empty() {
            let at = clauses.and_then(Clauses::end_of_targets).unwrap_or(0);
            edits.push((at..at, self.hidden_list(&mut expected)));
        }
        let text = match (edits.is_empty(), clauses) {
            (true, _) => self.analyzer.sql.get(self.analyzer.range.clone()).map(str::to_owned),
            (false, Some(clauses)) => clauses.apply(edits),
            (false, None) => None,
        };
        checked(text.map(|it| it.trim_end().to_owned()), &expected)
    }

    /// `, (expr) AS sluice_1, …`, also added to the query that shards must run.
    fn hidden_list(&self, expected: &mut Query) -> String {
        let mut list = String::new();
        for (i, hidden) in self.hidden.iter().enumerate() {
            let name = format!("sluice_{}", i + 1);
            list.push_str(&format!(", ({}) AS {name}", hidden.text.as_deref().unwrap_or_default()));
            if let Body::Select(select) = &mut expected.body {
                select.targets.push(Target { alias: Some(name), expr: hidden.expr.clone() });
            }
        }
        list
    }
}

fn without_collation(expr: &Expr) -> Option<&Expr> {
    match &expr.kind {
        Kind::Collate(inner, _) => Some(inner),
        _ => None,
    }
}

/// How many rows a shard must give so that OFFSET can be applied after the merge; `None`: all.
fn shard_limit(spec: &MergeSpec) -> Result<Option<String>, PgError> {
    Ok(match (spec.limit, spec.offset) {
        (None, _) => None,
        (Some(Bound::Literal(limit)), None) => Some(limit.to_string()),
        (Some(Bound::Literal(limit)), Some(Bound::Literal(offset))) => {
            let sum = limit.checked_add(offset).ok_or_else(|| {
                refuse::over_shards("LIMIT and OFFSET of this size", "Their sum leaves bigint.")
            })?;
            Some(sum.to_string())
        }
        (Some(limit), offset) => {
            let offset = offset.map_or_else(|| "0".to_owned(), bound_text);
            // A NULL limit is no limit; least() leaves NULL out.
            Some(format!(
                "least(({})::bigint::numeric + coalesce(({offset})::bigint, 0), \
                 9223372036854775807)::bigint",
                bound_text(limit)
            ))
        }
    })
}

fn bound_text(bound: Bound) -> String {
    match bound {
        Bound::Literal(n) => n.to_string(),
        Bound::Param(n) => format!("${n}"),
    }
}

fn limit_expr(text: &str) -> Option<Expr> {
    let statements = parse(&format!("SELECT 1 LIMIT {text}")).ok()?;
    match statements.into_iter().next()?.kind {
        Stmt::Query(query) => query.limit,
        _ => None,
    }
}

fn no_aggregate() -> PgError {
    refuse::over_shards(
        "an expression that is neither an aggregate nor in GROUP BY",
        "The proxy puts plain count, sum, min, max, bool_and and bool_or together.",
    )
    .hint(
        "Select the aggregates alone and compute with them in the application, or name one tenant.",
    )
}

fn collated() -> PgError {
    refuse::over_shards(
        "the order of text in a collation other than C",
        "The proxy compares text by bytes, the server by language.",
    )
    .hint("Write ORDER BY … COLLATE \"C\", or name one tenant.")
}

fn unequal(what: &str, name: &str) -> PgError {
    refuse::over_shards(
        &format!("{what} {name}"),
        "Equal values of its type may be written differently, or its type is not known.",
    )
    .hint("Cast it to a type like int, text, uuid, date or timestamp, or name one tenant.")
}
