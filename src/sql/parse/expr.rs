//! Expressions.

use pg_query::protobuf as pb;

use super::tree::{
    Call, Expr, Kind, Literal, Op, OpForm, SortBy, SubForm, SubQuery, TypeName, Window,
};
use super::{Node, kind, offset, query, some, word, words};

/// An expression of a node that must be there.
pub(super) fn expr(node: &pb::Node) -> Expr {
    match kind(node) {
        Some(it) => convert(it),
        None => opaque(0, "an empty node"),
    }
}

pub(super) fn boxed(node: Option<&pb::Node>) -> Option<Expr> {
    node.map(expr)
}

pub(super) fn exprs(nodes: &[pb::Node]) -> Vec<Expr> {
    nodes.iter().map(expr).collect()
}

fn opaque(at: usize, what: impl Into<String>) -> Expr {
    Expr { at, kind: Kind::Opaque(what.into()) }
}

fn other(at: i32, what: &'static str, detail: String, children: Vec<Expr>) -> Expr {
    Expr { at: offset(at), kind: Kind::Other { what, detail, children } }
}

fn at(location: i32, kind: Kind) -> Expr {
    Expr { at: offset(location), kind }
}

fn convert(node: &Node) -> Expr {
    match node {
        Node::ColumnRef(it) => column(it),
        Node::AConst(it) => at(it.location, Kind::Literal(literal(it))),
        Node::ParamRef(it) => at(it.location, Kind::Param(offset(it.number))),
        Node::TypeCast(it) => match (&it.arg, &it.type_name) {
            (Some(arg), Some(ty)) => {
                at(it.location, Kind::Cast(Box::new(expr(arg)), type_name(ty)))
            }
            _ => opaque(0, "a cast"),
        },
        Node::CollateClause(it) => collate(it),
        Node::AExpr(it) => at(it.location, Kind::Op(Box::new(operator(it)))),
        Node::BoolExpr(it) => bool_expr(it),
        Node::FuncCall(it) => at(it.location, Kind::Call(Box::new(call(it)))),
        Node::SubLink(it) => sub_link(it),
        Node::AArrayExpr(it) => at(it.location, Kind::Array(exprs(&it.elements))),
        Node::RowExpr(it) => at(it.location, Kind::Row(exprs(&it.args))),
        Node::List(it) => at(0, Kind::List(exprs(&it.items))),
        Node::SqlvalueFunction(it) => at(it.location, Kind::Value(value_function(it.op()))),
        Node::SetToDefault(it) => at(it.location, Kind::Default),
        Node::CurrentOfExpr(it) => at(0, Kind::CurrentOf(it.cursor_name.clone())),
        _ => rare(node),
    }
}

fn rare(node: &Node) -> Expr {
    match node {
        Node::CaseExpr(it) => case(it),
        Node::CoalesceExpr(it) => other(it.location, "coalesce", String::new(), exprs(&it.args)),
        Node::MinMaxExpr(it) => {
            let is_greatest = it.op == pb::MinMaxOp::IsGreatest as i32;
            let what = if is_greatest { "greatest" } else { "least" };
            other(it.location, what, String::new(), exprs(&it.args))
        }
        Node::NullTest(it) => {
            other(it.location, "null test", it.nulltesttype.to_string(), one(it.arg.as_deref()))
        }
        Node::BooleanTest(it) => {
            other(it.location, "boolean test", it.booltesttype.to_string(), one(it.arg.as_deref()))
        }
        Node::AIndirection(it) => indirection(it),
        Node::NamedArgExpr(it) => {
            other(it.location, "named argument", it.name.clone(), one(it.arg.as_deref()))
        }
        Node::MultiAssignRef(it) => {
            other(0, "multiple assignment", it.colno.to_string(), one(it.source.as_deref()))
        }
        Node::GroupingFunc(it) => other(it.location, "grouping", String::new(), exprs(&it.args)),
        Node::XmlExpr(it) => xml(it),
        Node::XmlSerialize(it) => other(
            it.location,
            "xmlserialize",
            format!("{:?}", it.type_name),
            one(it.expr.as_deref()),
        ),
        Node::ResTarget(it) => {
            other(it.location, "named value", it.name.clone(), one(it.val.as_deref()))
        }
        other => opaque(0, node_name(other)),
    }
}

/// The grammar's name of a node, e.g. `JsonObjectConstructor`.
pub(super) fn node_name(node: &Node) -> String {
    let text = format!("{node:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

fn one(node: Option<&pb::Node>) -> Vec<Expr> {
    boxed(node).into_iter().collect()
}

fn column(it: &pb::ColumnRef) -> Expr {
    let names = words(&it.fields);
    let is_star = it.fields.last().is_some_and(|it| matches!(kind(it), Some(Node::AStar(_))));
    at(it.location, if is_star { Kind::Star(names) } else { Kind::Column(names) })
}

fn literal(it: &pb::AConst) -> Literal {
    use pb::a_const::Val;
    match &it.val {
        _ if it.isnull => Literal::Null,
        Some(Val::Ival(it)) => Literal::Int(it.ival),
        Some(Val::Fval(it)) => Literal::Number(it.fval.clone()),
        Some(Val::Boolval(it)) => Literal::Bool(it.boolval),
        Some(Val::Sval(it)) => Literal::Text(it.sval.clone()),
        Some(Val::Bsval(it)) => Literal::Bits(it.bsval.clone()),
        None => Literal::Int(0),
    }
}

fn collate(it: &pb::CollateClause) -> Expr {
    match &it.arg {
        Some(arg) => at(it.location, Kind::Collate(Box::new(expr(arg)), words(&it.collname))),
        None => opaque(0, "a collation"),
    }
}

fn operator(it: &pb::AExpr) -> Op {
    use pb::AExprKind as K;
    let mut names = words(&it.name);
    let name = names.pop().unwrap_or_default();
    let form = match it.kind() {
        K::AexprOpAny => OpForm::Any,
        K::AexprOpAll => OpForm::All,
        K::AexprIn => OpForm::In,
        K::AexprDistinct => OpForm::Distinct,
        K::AexprNotDistinct => OpForm::NotDistinct,
        K::AexprNullif => OpForm::NullIf,
        K::AexprLike | K::AexprIlike | K::AexprSimilar => OpForm::Like,
        K::AexprBetween | K::AexprNotBetween | K::AexprBetweenSym | K::AexprNotBetweenSym => {
            OpForm::Between
        }
        K::AexprOp | K::Undefined => OpForm::Plain,
    };
    Op {
        form,
        schema: names.pop(),
        name,
        left: boxed(it.lexpr.as_deref()),
        right: boxed(it.rexpr.as_deref()),
    }
}

fn bool_expr(it: &pb::BoolExpr) -> Expr {
    let mut args = exprs(&it.args);
    let kind = match (it.boolop(), args.len()) {
        (pb::BoolExprType::AndExpr, _) => Kind::And(args),
        (pb::BoolExprType::OrExpr, _) => Kind::Or(args),
        (_, 1) => Kind::Not(Box::new(args.remove(0))),
        _ => Kind::Opaque("a boolean expression".to_owned()),
    };
    at(it.location, kind)
}

fn call(it: &pb::FuncCall) -> Call {
    let mut names = words(&it.funcname);
    let name = names.pop().unwrap_or_default();
    Call {
        schema: names.pop(),
        name,
        args: exprs(&it.args),
        star: it.agg_star,
        distinct: it.agg_distinct,
        variadic: it.func_variadic,
        order: sort_list(&it.agg_order),
        within_group: it.agg_within_group,
        filter: boxed(it.agg_filter.as_deref()),
        over: it.over.as_deref().map(window),
    }
}

pub(super) fn window(it: &pb::WindowDef) -> Window {
    let frame = [it.start_offset.as_deref(), it.end_offset.as_deref()];
    Window {
        name: some(&it.name),
        base: some(&it.refname),
        partition: exprs(&it.partition_clause),
        order: sort_list(&it.order_clause),
        frame: (it.frame_options, frame.into_iter().flatten().map(expr).collect()),
    }
}

pub(super) fn sort_list(nodes: &[pb::Node]) -> Vec<SortBy> {
    nodes.iter().filter_map(sort_by).collect()
}

fn sort_by(node: &pb::Node) -> Option<SortBy> {
    let Node::SortBy(it) = kind(node)? else {
        return Some(SortBy {
            expr: expr(node),
            descending: false,
            nulls_first: None,
            using: true,
        });
    };
    Some(SortBy {
        expr: boxed(it.node.as_deref())?,
        descending: it.sortby_dir() == pb::SortByDir::SortbyDesc,
        nulls_first: match it.sortby_nulls() {
            pb::SortByNulls::SortbyNullsFirst => Some(true),
            pb::SortByNulls::SortbyNullsLast => Some(false),
            _ => None,
        },
        using: it.sortby_dir() == pb::SortByDir::SortbyUsing,
    })
}

fn sub_link(it: &pb::SubLink) -> Expr {
    use pb::SubLinkType as T;
    let form = match it.sub_link_type() {
        T::ExistsSublink => SubForm::Exists,
        T::AllSublink => SubForm::All,
        T::AnySublink => SubForm::Any,
        T::ExprSublink | T::MultiexprSublink => SubForm::Scalar,
        T::ArraySublink => SubForm::Array,
        _ => return opaque(offset(it.location), "a subquery"),
    };
    let Some(query) = it.subselect.as_deref().and_then(query::of_node) else {
        return opaque(offset(it.location), "a subquery");
    };
    let mut names = words(&it.oper_name);
    let op = match names.pop() {
        Some(name) => Some((names.pop(), name)),
        None => (form == SubForm::Any).then(|| (None, "=".to_owned())),
    };
    let test = boxed(it.testexpr.as_deref());
    at(it.location, Kind::Sub(Box::new(SubQuery { form, test, op, query })))
}

fn case(it: &pb::CaseExpr) -> Expr {
    let mut children = one(it.arg.as_deref());
    let has_arg = it.arg.is_some();
    for when in &it.args {
        match kind(when) {
            Some(Node::CaseWhen(when)) => {
                children.extend(one(when.expr.as_deref()));
                children.extend(one(when.result.as_deref()));
            }
            _ => return opaque(offset(it.location), "CASE"),
        }
    }
    children.extend(one(it.defresult.as_deref()));
    let detail = format!("{has_arg} {}", it.defresult.is_some());
    other(it.location, "case", detail, children)
}

fn indirection(it: &pb::AIndirection) -> Expr {
    let (mut children, mut detail) = (one(it.arg.as_deref()), String::new());
    for step in &it.indirection {
        match kind(step) {
            Some(Node::String(name)) => detail.push_str(&format!(".{}", name.sval)),
            Some(Node::AStar(_)) => detail.push_str(".*"),
            Some(Node::AIndices(index)) => {
                let bounds = (index.lidx.is_some(), index.uidx.is_some());
                detail.push_str(&format!("[{} {bounds:?}]", index.is_slice));
                children.extend(one(index.lidx.as_deref()));
                children.extend(one(index.uidx.as_deref()));
            }
            _ => return opaque(0, "an indirection"),
        }
    }
    other(0, "indirection", detail, children)
}

fn xml(it: &pb::XmlExpr) -> Expr {
    let mut children = exprs(&it.named_args);
    children.extend(exprs(&it.args));
    other(it.location, "xml", format!("{} {} {}", it.op, it.name, it.xmloption), children)
}

/// A type's name with its modifiers.
pub(super) fn type_name(it: &pb::TypeName) -> TypeName {
    let mut names = words(&it.names);
    let name = names.pop().unwrap_or_default();
    let modifiers = exprs(&it.typmods).into_iter().map(|it| it.kind).collect::<Vec<_>>();
    TypeName {
        schema: names.pop(),
        name,
        has_modifier: !it.typmods.is_empty(),
        is_array: !it.array_bounds.is_empty(),
        detail: format!("{modifiers:?} {} {}", it.setof, it.pct_type),
    }
}

fn value_function(op: pb::SqlValueFunctionOp) -> &'static str {
    use pb::SqlValueFunctionOp as O;
    match op {
        O::SvfopCurrentDate => "current_date",
        O::SvfopCurrentTime | O::SvfopCurrentTimeN => "current_time",
        O::SvfopCurrentTimestamp | O::SvfopCurrentTimestampN => "current_timestamp",
        O::SvfopLocaltime | O::SvfopLocaltimeN => "localtime",
        O::SvfopLocaltimestamp | O::SvfopLocaltimestampN => "localtimestamp",
        O::SvfopCurrentRole => "current_role",
        O::SvfopCurrentUser => "current_user",
        O::SvfopUser => "user",
        O::SvfopSessionUser => "session_user",
        O::SvfopCurrentCatalog => "current_catalog",
        O::SvfopCurrentSchema => "current_schema",
        O::SqlvalueFunctionOpUndefined => "value function",
    }
}

/// A constant's text: of a word, a number or a string; `on` and `off` for booleans.
pub(super) fn constant(node: &pb::Node) -> Option<String> {
    match kind(node)? {
        Node::AConst(it) => match literal(it) {
            Literal::Int(it) => Some(it.to_string()),
            Literal::Number(it) | Literal::Text(it) => Some(it),
            Literal::Bool(it) => Some(if it { "on" } else { "off" }.to_owned()),
            _ => None,
        },
        Node::Integer(it) => Some(it.ival.to_string()),
        Node::Float(it) => Some(it.fval.clone()),
        Node::Boolean(it) => Some(if it.boolval { "on" } else { "off" }.to_owned()),
        _ => word(node),
    }
}
