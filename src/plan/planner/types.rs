//! The types of expressions, as far as they can be told without asking Postgres.

use super::names::{Found, Names, resolve};
use crate::sql::parse::tree::{Expr, Kind, Literal, Op, OpForm, TypeName};

/// A type, and whether its values compare by bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) oid: u32,
    pub(super) is_bytewise: bool,
    pub(super) is_deterministic: bool,
}

impl Type {
    fn of(oid: u32) -> Self {
        Self { oid, is_bytewise: false, is_deterministic: true }
    }

    pub(super) fn is_text(self) -> bool {
        matches!(self.oid, 25 | 1042 | 1043)
    }
}

pub(super) const INT8: u32 = 20;
pub(super) const NUMERIC: u32 = 1700;
const INTERVAL: u32 = 1186;
const MONEY: u32 = 790;

/// The types the merge can sort; others are refused before anything is sent.
pub(super) fn is_sortable(oid: u32) -> bool {
    const SORTABLE: [u32; 16] =
        [16, 17, 18, 20, 21, 23, 25, 26, 700, 701, 1043, 1082, 1114, 1184, 1700, 2950];
    SORTABLE.contains(&oid)
}

/// The types whose equal values have equal text.
pub(super) fn is_groupable(oid: u32) -> bool {
    matches!(oid, 16 | 20 | 21 | 23 | 25 | 1043 | 2950 | 1082 | 1114 | 1184)
}

/// The types whose minimum and maximum the proxy can tell; text if it is bytewise.
pub(super) fn is_comparable(ty: Type) -> bool {
    matches!(ty.oid, 20 | 21 | 23 | 1700 | 1082 | 1114 | 1184) || ty.is_text() && ty.is_bytewise
}

/// The types that add up exactly.
pub(super) fn is_exact_number(oid: u32) -> bool {
    matches!(oid, 20 | 21 | 23 | NUMERIC)
}

/// The types whose sums do not depend on the order of addition.
pub(super) fn is_exact_sum(oid: u32) -> bool {
    is_exact_number(oid) || oid == MONEY || oid == INTERVAL
}

/// The OID of a built-in type's name.
pub(super) fn oid_of(ty: &TypeName) -> Option<u32> {
    if ty.is_array || ty.schema.as_deref().is_some_and(|it| it != "pg_catalog") {
        return None;
    }
    Some(match ty.name.as_str() {
        "bool" | "boolean" => 16,
        "bytea" => 17,
        "int8" => INT8,
        "int2" => 21,
        "int4" => 23,
        "text" => 25,
        "float4" => 700,
        "float8" => 701,
        "bpchar" => 1042,
        "varchar" => 1043,
        "date" => 1082,
        "timestamp" => 1114,
        "timestamptz" => 1184,
        "interval" => INTERVAL,
        "numeric" => NUMERIC,
        "uuid" => 2950,
        _ => return None,
    })
}

/// Whether equal text in the expression's value means equal values: no column or clause brings a
/// collation that takes different texts as equal.
pub(super) fn is_deterministic(levels: &[Names], expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Column(names) => resolve(levels, names).ty().is_some_and(|it| it.is_deterministic),
        Kind::Collate(..) => is_c(expr),
        _ => expr.children().into_iter().all(|it| is_deterministic(levels, it)),
    }
}

/// Whether text in the expression's value is ordered by bytes.
pub(super) fn is_bytewise(levels: &[Names], default_is_c: bool, expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Column(names) => resolve(levels, names).ty().is_some_and(|it| it.is_bytewise),
        Kind::Collate(..) => is_c(expr),
        Kind::Sub(_) | Kind::Opaque(_) => false,
        _ => {
            default_is_c
                && expr.children().into_iter().all(|it| is_bytewise(levels, default_is_c, it))
        }
    }
}

fn is_c(expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Collate(_, names) => {
            let schema = names.len() < 2 || names.first().is_some_and(|it| it == "pg_catalog");
            schema && names.last().is_some_and(|it| it == "C" || it == "POSIX")
        }
        _ => false,
    }
}

/// The type of an expression, if it is plain.
pub(super) fn type_of(levels: &[Names], expr: &Expr) -> Option<Type> {
    match &expr.kind {
        Kind::Column(names) => match resolve(levels, names) {
            Found::Column { ty, .. } => ty,
            _ => None,
        },
        Kind::Literal(it) => literal(it),
        Kind::Value(name) => match *name {
            "current_date" => Some(Type::of(1082)),
            "current_timestamp" => Some(Type::of(1184)),
            "localtimestamp" => Some(Type::of(1114)),
            _ => None,
        },
        Kind::Cast(_, ty) => oid_of(ty).map(Type::of),
        Kind::Collate(inner, _) => type_of(levels, inner),
        Kind::Op(op) => operator(levels, op),
        Kind::And(_) | Kind::Or(_) | Kind::Not(_) => Some(Type::of(16)),
        Kind::Call(call) if matches!(call.schema.as_deref(), None | Some("pg_catalog")) => {
            function(levels, &call.name, &call.args)
        }
        Kind::Other { what, detail, children } => match *what {
            "null test" | "boolean test" => Some(Type::of(16)),
            "coalesce" | "greatest" | "least" => common(levels, children.iter()),
            "case" => common(levels, case_results(children, detail).into_iter()),
            _ => None,
        },
        _ => None,
    }
}

/// The type of the rows of `generate_series` and of `unnest` of a list, if they are exact numbers.
pub(super) fn elements_of(levels: &[Names], call: &Expr) -> Option<Type> {
    let Kind::Call(call) = &call.kind else { return None };
    if !matches!(call.schema.as_deref(), None | Some("pg_catalog")) {
        return None;
    }
    match (call.name.as_str(), call.args.as_slice()) {
        ("generate_series", args) => exact_number(levels, args.iter()),
        ("unnest", [Expr { kind: Kind::Array(items), .. }]) => exact_number(levels, items.iter()),
        _ => None,
    }
}

/// The exact number type that expressions have together, those aside that take on any type.
pub(super) fn exact_number<'e>(
    levels: &[Names],
    exprs: impl Iterator<Item = &'e Expr>,
) -> Option<Type> {
    const RANKS: [u32; 3] = [23, INT8, NUMERIC];
    let mut found = None;
    for expr in exprs {
        if matches!(expr.kind, Kind::Literal(Literal::Null | Literal::Text(_))) {
            continue;
        }
        let oid = type_of(levels, expr)?.oid;
        found = found.max(Some(RANKS.iter().position(|it| *it == oid)?));
    }
    found.map(|it| Type::of(RANKS[it]))
}

/// Whether a value is an exact number or the like, so that its sum does not depend on the order of addition.
/// `params`: the declared types of parameters, 0 for those that take on the type of what is around them.
pub(super) fn adds_exactly(levels: &[Names], params: &[u32], expr: &Expr) -> bool {
    let exact = |it: &Expr| adds_exactly(levels, params, it);
    let adapts = |it: &Expr| match &it.kind {
        Kind::Literal(Literal::Text(_) | Literal::Null) => true,
        Kind::Param(n) => params.get(n - 1).is_none_or(|it| *it == 0),
        _ => false,
    };
    let all = |exprs: &[&Expr]| {
        exprs.iter().all(|it| adapts(it) || exact(it)) && exprs.iter().any(|it| exact(it))
    };
    match &expr.kind {
        Kind::Param(n) => params.get(n - 1).is_some_and(|it| is_exact_sum(*it)),
        // Days or an interval.
        Kind::Op(op)
            if op.form == OpForm::Plain && op.name == "-" && is_time_difference(levels, op) =>
        {
            true
        }
        // Money divided by money is a float.
        Kind::Op(op) if op.form == OpForm::Plain && is_arithmetic(op) => {
            let is_money = |it: &Expr| type_of(levels, it).is_some_and(|it| it.oid == MONEY);
            !op.left.iter().chain(&op.right).any(is_money)
                && all(&op.left.iter().chain(&op.right).collect::<Vec<_>>())
        }
        // The first value is given as the type in which both are compared.
        Kind::Op(op) if op.form == OpForm::NullIf => {
            all(&op.left.iter().chain(&op.right).collect::<Vec<_>>())
        }
        Kind::Other { what: "coalesce" | "greatest" | "least", children, .. } => {
            all(&children.iter().collect::<Vec<_>>())
        }
        Kind::Other { what: "case", detail, children } => all(&case_results(children, detail)),
        Kind::Call(call) if matches!(call.schema.as_deref(), None | Some("pg_catalog")) => {
            const KEEP: [&str; 10] = [
                "abs",
                "min",
                "max",
                "sum",
                "avg",
                "lag",
                "lead",
                "first_value",
                "last_value",
                "nth_value",
            ];
            let is_kept = KEEP.contains(&call.name.as_str());
            EXACT_FUNCTIONS.contains(&call.name.as_str())
                || is_kept && call.args.first().is_some_and(exact)
                || type_of(levels, expr).is_some_and(|it| is_exact_sum(it.oid))
        }
        Kind::Sub(sub) if sub.form == crate::sql::parse::tree::SubForm::Scalar => {
            match &sub.query.body {
                // Nothing is known of its tables here.
                crate::sql::parse::tree::Body::Select(select) => {
                    select.targets.first().is_some_and(|it| adds_exactly(&[], params, &it.expr))
                }
                _ => false,
            }
        }
        _ => type_of(levels, expr).is_some_and(|it| is_exact_sum(it.oid)),
    }
}

/// Functions that give an integer, a numeric or an interval whatever their arguments are.
const EXACT_FUNCTIONS: [&str; 34] = [
    "age",
    "array_length",
    "array_lower",
    "array_ndims",
    "array_position",
    "array_upper",
    "ascii",
    "bit_count",
    "bit_length",
    "cardinality",
    "char_length",
    "character_length",
    "div",
    "extract",
    "factorial",
    "gcd",
    "json_array_length",
    "jsonb_array_length",
    "justify_days",
    "justify_hours",
    "justify_interval",
    "lcm",
    "make_interval",
    "mod",
    "num_nonnulls",
    "num_nulls",
    "octet_length",
    "position",
    "regexp_count",
    "scale",
    "strpos",
    "to_number",
    "trim_scale",
    "width_bucket",
];

/// Whether a function gives a float that is always a whole number below 2⁵³, so that sums of it are exact.
pub(super) fn is_whole_float(expr: &Expr) -> bool {
    const FIELDS: [&str; 14] = [
        "century",
        "day",
        "decade",
        "dow",
        "doy",
        "hour",
        "isodow",
        "isoyear",
        "millennium",
        "minute",
        "month",
        "quarter",
        "week",
        "year",
    ];
    let Kind::Call(call) = &expr.kind else { return false };
    let field = match call.args.first().map(|it| &it.kind) {
        Some(Kind::Literal(Literal::Text(it))) => it.to_ascii_lowercase(),
        _ => return false,
    };
    let is_own = matches!(call.schema.as_deref(), None | Some("pg_catalog"));
    is_own && call.name == "date_part" && FIELDS.contains(&field.as_str())
}

/// Whether both sides are dates or times, or one is a literal that becomes such.
fn is_time_difference(levels: &[Names], op: &Op) -> bool {
    let (Some(left), Some(right)) = (&op.left, &op.right) else { return false };
    let is_time = |it: &Expr| {
        type_of(levels, it).is_some_and(|it| matches!(it.oid, 1082 | 1083 | 1114 | 1184))
    };
    let adapts = |it: &Expr| matches!(it.kind, Kind::Literal(Literal::Text(_)));
    is_arithmetic(op) && is_time(left) && (is_time(right) || adapts(right))
        || is_arithmetic(op) && adapts(left) && is_time(right)
}

fn is_arithmetic(op: &Op) -> bool {
    let is_own = op.schema.as_deref().is_none_or(|it| it == "pg_catalog");
    is_own && matches!(op.name.as_str(), "+" | "-" | "*" | "/" | "%")
}

fn literal(it: &Literal) -> Option<Type> {
    match it {
        Literal::Int(_) => Some(Type::of(23)),
        Literal::Bool(_) => Some(Type::of(16)),
        Literal::Number(it) if it.bytes().all(|it| it.is_ascii_digit()) => {
            Some(Type::of(if it.parse::<i64>().is_ok() { INT8 } else { NUMERIC }))
        }
        Literal::Number(_) => Some(Type::of(NUMERIC)),
        _ => None,
    }
}

/// The results of a CASE: its operands are the value tested, if any, then conditions and results in
/// turn, then that of ELSE, if any.
fn case_results<'e>(children: &'e [Expr], detail: &str) -> Vec<&'e Expr> {
    let whens = &children[usize::from(detail.starts_with("true")).min(children.len())..];
    let whole = whens.len() - whens.len() % 2;
    whens[..whole].iter().skip(1).step_by(2).chain(&whens[whole..]).collect()
}

/// The type all of them have, or the widest of their numbers; untyped NULLs aside.
fn common<'e>(levels: &[Names], exprs: impl Iterator<Item = &'e Expr>) -> Option<Type> {
    let mut types = exprs.filter(|it| it.kind != Kind::Literal(Literal::Null));
    let first = type_of(levels, types.next()?)?;
    types.try_fold(first, |common, it| match type_of(levels, it)? {
        it if it.oid == common.oid => Some(common),
        it => wider(common.oid, it.oid),
    })
}

/// The wider of two exact numbers' types.
fn wider(left: u32, right: u32) -> Option<Type> {
    let rank = |oid: u32| [21, 23, INT8, NUMERIC].iter().position(|it| *it == oid);
    Some(Type::of(if rank(left)? >= rank(right)? { left } else { right }))
}

fn operator(levels: &[Names], op: &Op) -> Option<Type> {
    if op.schema.as_deref().is_some_and(|it| it != "pg_catalog") {
        return None;
    }
    match (op.form, op.name.as_str()) {
        (OpForm::Plain, "+" | "-" | "*" | "/" | "%") => arithmetic(levels, op),
        (OpForm::Plain, "=" | "<>" | "<" | ">" | "<=" | ">=") => Some(Type::of(16)),
        (OpForm::In | OpForm::Distinct | OpForm::NotDistinct, _) => Some(Type::of(16)),
        (OpForm::NullIf, _) => {
            let left = type_of(levels, op.left.as_ref()?)?;
            let right = type_of(levels, op.right.as_ref()?)?;
            let is_integer = |it: Type| matches!(it.oid, 21 | 23 | INT8);
            let is_kept = left.oid == right.oid || is_integer(left) && is_integer(right);
            is_kept.then_some(left)
        }
        (OpForm::Like | OpForm::Between | OpForm::Any | OpForm::All, _) => Some(Type::of(16)),
        _ => None,
    }
}

/// Integers and numerics; the wider operand decides.
fn arithmetic(levels: &[Names], op: &Op) -> Option<Type> {
    let right = type_of(levels, op.right.as_ref()?)?;
    let left = match &op.left {
        Some(left) => type_of(levels, left)?,
        None => right,
    };
    wider(left.oid, right.oid)
}

fn function(levels: &[Names], name: &str, args: &[Expr]) -> Option<Type> {
    let first = || type_of(levels, args.first()?);
    Some(match (name, args.len()) {
        ("count", _) => Type::of(INT8),
        ("lower" | "upper" | "btrim" | "ltrim" | "rtrim" | "left" | "right" | "substring", _)
            if first()?.is_text() =>
        {
            Type::of(25)
        }
        ("concat" | "md5" | "to_char" | "replace" | "initcap", _) => Type::of(25),
        ("length" | "char_length" | "octet_length" | "bit_length" | "ascii" | "strpos", _)
        | ("cardinality" | "array_length" | "array_upper" | "array_lower", _) => Type::of(23),
        ("round" | "trunc" | "ceil" | "ceiling" | "floor", 1) if first()?.oid == NUMERIC => {
            Type::of(NUMERIC)
        }
        ("round" | "trunc", 2) if is_exact_number(first()?.oid) => Type::of(NUMERIC),
        ("extract", 2) => Type::of(NUMERIC),
        ("date", 1) => Type::of(1082),
        ("now" | "transaction_timestamp", 0) => Type::of(1184),
        ("date_trunc", 2) => match type_of(levels, args.get(1)?)?.oid {
            1082 | 1184 => Type::of(1184),
            1114 => Type::of(1114),
            _ => return None,
        },
        ("min" | "max" | "abs", 1) => first()?,
        ("sum", 1) => match first()?.oid {
            21 | 23 => Type::of(INT8),
            INT8 | NUMERIC => Type::of(NUMERIC),
            other => Type::of(other),
        },
        ("avg", 1) if is_exact_number(first()?.oid) => Type::of(NUMERIC),
        ("bool_and" | "bool_or" | "every", 1) => Type::of(16),
        ("row_number" | "rank" | "dense_rank", 0) => Type::of(INT8),
        _ => return None,
    })
}

/// What a target list item is called if it has no alias, as Postgres' `FigureColname` tells.
pub(super) fn output_name(expr: &Expr) -> String {
    name_and_strength(expr).map_or_else(|| "?column?".to_owned(), |(name, _)| name)
}

fn name_and_strength(expr: &Expr) -> Option<(String, u8)> {
    let strong = |name: &str| Some((name.to_owned(), 2));
    match &expr.kind {
        Kind::Column(names) => strong(names.last()?),
        Kind::Call(call) => strong(&call.name),
        Kind::Value(name) => strong(name),
        Kind::Cast(inner, ty) => match name_and_strength(inner) {
            Some((name, 2)) => strong(&name),
            _ => Some((ty.name.clone(), 1)),
        },
        Kind::Collate(inner, _) => name_and_strength(inner),
        Kind::Op(op) if op.form == OpForm::NullIf => strong("nullif"),
        Kind::Array(_) => strong("array"),
        Kind::Row(_) => strong("row"),
        Kind::Sub(sub) => sub_name(sub),
        Kind::Other { what, detail, children } => other_name(what, detail, children),
        _ => None,
    }
}

fn sub_name(sub: &crate::sql::parse::tree::SubQuery) -> Option<(String, u8)> {
    use crate::sql::parse::tree::{Body, SubForm};
    match sub.form {
        SubForm::Exists => Some(("exists".to_owned(), 2)),
        SubForm::Array => Some(("array".to_owned(), 2)),
        SubForm::Scalar => match &sub.query.body {
            Body::Select(select) => {
                let target = select.targets.first()?;
                match &target.alias {
                    Some(alias) => Some((alias.clone(), 2)),
                    None => name_and_strength(&target.expr),
                }
            }
            _ => None,
        },
        _ => None,
    }
}

fn other_name(what: &str, detail: &str, children: &[Expr]) -> Option<(String, u8)> {
    match what {
        "coalesce" | "greatest" | "least" | "grouping" => Some((what.to_owned(), 2)),
        "case" => {
            let has_else = detail.ends_with("true");
            match children.last().filter(|_| has_else).and_then(name_and_strength) {
                Some((name, 2)) => Some((name, 2)),
                _ => Some(("case".to_owned(), 1)),
            }
        }
        "indirection" => match detail.rsplit_once('.') {
            Some((_, field)) if !field.contains(['[', '*']) => Some((field.to_owned(), 2)),
            _ => name_and_strength(children.first()?),
        },
        "xmlserialize" => Some((what.to_owned(), 2)),
        _ => None,
    }
}
