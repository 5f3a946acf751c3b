//! SELECT, VALUES, set operations, FROM, WITH.

use pg_query::protobuf as pb;

use super::expr::{boxed, expr, exprs, sort_list, window};
use super::tree::{
    Alias, At, Body, Cte, Distinct, Expr, From, Join, JoinKind, Kind, Query, Select, SetOp,
    TableName, Target, Wait, With,
};
use super::{Node, kind, offset, some, statement, word, words};

pub(super) fn of_node(node: &pb::Node) -> Option<Query> {
    match kind(node)? {
        Node::SelectStmt(it) => Some(query(it)),
        _ => None,
    }
}

pub(super) fn query(it: &pb::SelectStmt) -> Query {
    Query {
        with: it.with_clause.as_ref().map(with),
        body: body(it),
        order: sort_list(&it.sort_clause),
        limit: boxed(it.limit_count.as_deref()),
        offset: boxed(it.limit_offset.as_deref()),
        with_ties: it.limit_option() == pb::LimitOption::WithTies,
        has_locks: !it.locking_clause.is_empty(),
        wait: wait(&it.locking_clause),
    }
}

fn wait(clauses: &[pb::Node]) -> Wait {
    let mut found = clauses.iter().filter_map(|it| match kind(it) {
        Some(Node::LockingClause(it)) => Some(match it.wait_policy() {
            pb::LockWaitPolicy::LockWaitSkip => Wait::Skip,
            pb::LockWaitPolicy::LockWaitError => Wait::Fail,
            _ => Wait::Block,
        }),
        _ => None,
    });
    let first = found.next().unwrap_or_default();
    if found.all(|it| it == first) { first } else { Wait::Mixed }
}

fn body(it: &pb::SelectStmt) -> Body {
    let op = match it.op() {
        pb::SetOperation::SetopUnion => Some(SetOp::Union),
        pb::SetOperation::SetopIntersect => Some(SetOp::Intersect),
        pb::SetOperation::SetopExcept => Some(SetOp::Except),
        _ => None,
    };
    if let (Some(op), Some(left), Some(right)) = (op, &it.larg, &it.rarg) {
        let (left, right) = (Box::new(query(left)), Box::new(query(right)));
        return Body::SetOperation { op, all: it.all, left, right };
    }
    if !it.values_lists.is_empty() {
        return Body::Values(it.values_lists.iter().map(row).collect());
    }
    Body::Select(Box::new(select(it)))
}

fn row(node: &pb::Node) -> Vec<Expr> {
    match kind(node) {
        Some(Node::List(it)) => exprs(&it.items),
        _ => vec![expr(node)],
    }
}

fn select(it: &pb::SelectStmt) -> Select {
    let sets = it.group_clause.iter().any(|it| matches!(kind(it), Some(Node::GroupingSet(_))));
    Select {
        distinct: match it.distinct_clause.as_slice() {
            [] => Distinct::No,
            [one] if kind(one).is_none() => Distinct::Rows,
            on => Distinct::On(exprs(on)),
        },
        targets: targets(&it.target_list),
        into: it.into_clause.is_some(),
        from: it.from_clause.iter().map(from).collect(),
        filter: boxed(it.where_clause.as_deref()),
        group: it.group_clause.iter().flat_map(grouping).collect(),
        has_grouping_sets: sets || it.group_distinct,
        having: boxed(it.having_clause.as_deref()),
        windows: it
            .window_clause
            .iter()
            .filter_map(|it| match kind(it)? {
                Node::WindowDef(it) => Some(window(it)),
                _ => None,
            })
            .collect(),
    }
}

/// The expressions of a grouping item, those of grouping sets without their structure.
fn grouping(node: &pb::Node) -> Vec<Expr> {
    match kind(node) {
        Some(Node::GroupingSet(it)) => it.content.iter().flat_map(grouping).collect(),
        _ => vec![expr(node)],
    }
}

pub(super) fn targets(nodes: &[pb::Node]) -> Vec<Target> {
    let target = |node: &pb::Node| match kind(node)? {
        Node::ResTarget(it) => {
            Some(Target { alias: some(&it.name), expr: boxed(it.val.as_deref())? })
        }
        _ => Some(Target { alias: None, expr: expr(node) }),
    };
    nodes.iter().filter_map(target).collect()
}

pub(super) fn with(it: &pb::WithClause) -> With {
    let cte = |node: &pb::Node| match kind(node)? {
        Node::CommonTableExpr(it) => Some(Cte {
            name: it.ctename.clone(),
            columns: words(&it.aliascolnames),
            materialized: it.ctematerialized() == pb::CteMaterialize::Always,
            has_search: it.search_clause.is_some() || it.cycle_clause.is_some(),
            body: statement::statement(it.ctequery.as_deref()),
        }),
        _ => None,
    };
    With { recursive: it.recursive, ctes: it.ctes.iter().filter_map(cte).collect() }
}

pub(super) fn table_name(it: &pb::RangeVar) -> TableName {
    TableName {
        catalog: some(&it.catalogname),
        schema: some(&it.schemaname),
        name: it.relname.clone(),
    }
}

pub(super) fn alias(it: Option<&pb::Alias>) -> Option<Alias> {
    it.map(|it| Alias { name: it.aliasname.clone(), columns: words(&it.colnames) })
}

pub(super) fn from(node: &pb::Node) -> From {
    match kind(node) {
        Some(Node::RangeVar(it)) => {
            let (name, alias) = (table_name(it), alias(it.alias.as_ref()));
            From::Table { name, alias, at: At(offset(it.location)), is_only: !it.inh }
        }
        Some(Node::RangeSubselect(it)) => match it.subquery.as_deref().and_then(of_node) {
            Some(query) => From::Query {
                query: Box::new(query),
                alias: alias(it.alias.as_ref()),
                lateral: it.lateral,
            },
            None => unknown("a subquery"),
        },
        Some(Node::RangeFunction(it)) => function(it),
        Some(Node::JoinExpr(it)) => join(it),
        Some(Node::RangeTableSample(it)) => {
            let mut args = exprs(&it.args);
            args.extend(boxed(it.repeatable.as_deref()));
            let table = it.relation.as_deref().map_or_else(|| unknown("TABLESAMPLE"), from);
            From::Sample { table: Box::new(table), args }
        }
        Some(Node::RangeTableFunc(it)) => table_function(it),
        Some(other) => unknown(&super::expr::node_name(other)),
        None => unknown("an empty node"),
    }
}

fn unknown(what: &str) -> From {
    let call = Expr { at: 0, kind: Kind::Opaque(what.to_owned()) };
    From::Function { calls: vec![call], alias: None, name: None }
}

fn function(it: &pb::RangeFunction) -> From {
    let mut calls = Vec::new();
    for item in &it.functions {
        match kind(item) {
            // (function, column definitions)
            Some(Node::List(list)) => calls.extend(list.items.first().map(expr)),
            _ => calls.push(expr(item)),
        }
    }
    let name = match calls.as_slice() {
        [Expr { kind: Kind::Call(call), .. }] => Some(call.name.clone()),
        _ => None,
    };
    From::Function { calls, alias: alias(it.alias.as_ref()), name }
}

/// XMLTABLE.
fn table_function(it: &pb::RangeTableFunc) -> From {
    let mut calls: Vec<Expr> =
        [it.docexpr.as_deref(), it.rowexpr.as_deref()].into_iter().flatten().map(expr).collect();
    calls.extend(exprs(&it.namespaces));
    for column in &it.columns {
        if let Some(Node::RangeTableFuncCol(it)) = kind(column) {
            calls.extend(boxed(it.colexpr.as_deref()));
            calls.extend(boxed(it.coldefexpr.as_deref()));
        }
    }
    From::Function { calls, alias: alias(it.alias.as_ref()), name: Some("xmltable".to_owned()) }
}

fn join(it: &pb::JoinExpr) -> From {
    let side = |node: Option<&pb::Node>| node.map_or_else(|| unknown("a join"), from);
    From::Join(Box::new(Join {
        kind: match it.jointype() {
            pb::JoinType::JoinInner => JoinKind::Inner,
            pb::JoinType::JoinLeft => JoinKind::Left,
            pb::JoinType::JoinRight => JoinKind::Right,
            _ => JoinKind::Full,
        },
        left: side(it.larg.as_deref()),
        right: side(it.rarg.as_deref()),
        natural: it.is_natural,
        using: it.using_clause.iter().filter_map(word).collect(),
        on: boxed(it.quals.as_deref()),
        alias: alias(it.alias.as_ref()),
        using_alias: it.join_using_alias.is_some(),
    }))
}
