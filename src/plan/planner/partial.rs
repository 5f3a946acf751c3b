//! Groups that reach over shards, gathered: shards aggregate in part, and one server puts the parts
//! together, so that groups are shipped instead of rows. For aggregates whose parts add up exactly: `count`,
//! `sum` and `avg` of exact numbers, `min`, `max`, `bool_and`, `bool_or`.

use std::ops::Range;

use super::block::Dist;
use super::functions;
use super::gather::Edits;
use super::names::Found;
use super::splice::Clauses;
use super::types::{INT8, NUMERIC, output_name, type_of};
use super::walk::Analyzer;
use crate::catalog::{FunctionKind, SqlType};
use crate::plan::gather::{Fragment, FragmentColumn};
use crate::sql::name::quoted;
use crate::sql::parse::tokens::TokenKind;
use crate::sql::parse::tree::{Call, Distinct, Expr, Kind, Literal, Query, Select};

/// A column that shards compute.
struct Part {
    sql: String,
    oid: u32,
    sql_type: SqlType,
}

/// What a group is told apart by.
struct Key<'e> {
    expr: &'e Expr,
    /// Its column among the parts.
    at: usize,
}

struct Partial<'a, 'e> {
    analyzer: &'a Analyzer<'a>,
    clauses: Clauses<'a>,
    parts: Vec<Part>,
    keys: Vec<Key<'e>>,
    edits: Edits,
}

impl Analyzer<'_> {
    /// Has shards aggregate in part, if the outermost query may be computed so.
    pub(super) fn gather_parts(&mut self, query: &Query, select: &Select, dist: &Dist) {
        let is_candidate = self.blocks.len() == 1
            && self.view_depth == 0
            && *dist == Dist::Tenant
            && self.facts.not_fanned.is_none()
            && !(self.facts.has_home || self.facts.needs_home)
            && !matches!(select.distinct, Distinct::On(_))
            && select.windows.is_empty()
            && self.is_grouped(select)
            && query.with.is_none();
        if self.gathering.is_none() || !is_candidate {
            return;
        }
        let found = partial(self, query, select);
        if let (Some((fragment, edits)), Some(gathering)) = (found, &mut self.gathering) {
            gathering.replace_all(fragment, edits);
        }
    }
}

/// The fragment of parts and the edits that put them in the place of what they are parts of.
fn partial(analyzer: &Analyzer<'_>, query: &Query, select: &Select) -> Option<(Fragment, Edits)> {
    let clauses = Clauses::of(analyzer.sql, &analyzer.range)?;
    let gathering = analyzer.gathering.as_ref()?;
    let from = clauses.bytes("from")?;
    let filter = clauses.bytes("where");
    let end = filter.as_ref().map_or(from.end, |it| it.end);
    let source = gathering.part(from.start..end)?;
    let mut it =
        Partial { analyzer, clauses, parts: Vec::new(), keys: Vec::new(), edits: Vec::new() };
    for (n, item) in select.group.iter().enumerate() {
        it.key(select, n, item)?;
    }
    for (n, target) in select.targets.iter().enumerate() {
        let bytes = it.clauses.target_bytes(n, target.alias.is_some())?;
        it.item(&target.expr, bytes.clone())?;
        if target.alias.is_none() {
            it.edits.push((
                bytes.end..bytes.end,
                format!(" AS {}", quoted(&output_name(&target.expr))),
            ));
        }
    }
    if let Some(having) = &select.having {
        it.visit(having)?;
    }
    for (n, item) in query.order.iter().enumerate() {
        if !is_output(select, &item.expr) {
            let bytes = it.clauses.order_bytes(n)?;
            it.item(&item.expr, bytes)?;
        }
    }
    it.edits.push((from.start..end, "FROM sluice_gather_1".to_owned()));
    let name = |(i, part): (usize, &Part)| format!("{} AS {}", part.sql, column(i));
    let parts: Vec<String> = it.parts.iter().enumerate().map(name).collect();
    let keys: Vec<&str> = it.keys.iter().map(|key| it.parts[key.at].sql.as_str()).collect();
    let group = match (keys.as_slice(), parts.as_slice()) {
        // One group, of which nothing is asked: one Postgres does not read the rows either.
        ([], []) => " LIMIT 0".to_owned(),
        ([], _) => String::new(),
        _ => format!(" GROUP BY {}", keys.join(", ")),
    };
    let columns = it.parts.iter().enumerate().map(|(i, part)| FragmentColumn {
        name: column(i),
        type_oid: part.oid,
        sql_type: part.sql_type.clone(),
        is_needed: true,
    });
    let fragment = Fragment {
        name: String::new(),
        from: format!("(SELECT {} {source}{group}) AS sluice_parts", parts.join(", ")),
        filters: Vec::new(),
        columns: columns.collect(),
    };
    Some((fragment, it.edits))
}

fn column(at: usize) -> String {
    format!("sluice_part_{}", at + 1)
}

fn reference(at: usize) -> String {
    format!("sluice_gather_1.{}", column(at))
}

/// Whether an item of ORDER BY names a result column, by position or name.
fn is_output(select: &Select, item: &Expr) -> bool {
    match &item.kind {
        Kind::Literal(Literal::Int(_)) => true,
        Kind::Column(names) if names.len() == 1 => {
            select.targets.iter().any(|it| it.alias.as_ref() == names.first())
        }
        _ => false,
    }
}

/// A built-in type that is no text, as SQL writes it.
fn builtin(oid: u32) -> Option<SqlType> {
    let name = match oid {
        16 => "bool",
        INT8 => "int8",
        21 => "int2",
        23 => "int4",
        1082 => "date",
        1114 => "timestamp",
        1184 => "timestamptz",
        NUMERIC => "numeric",
        2950 => "uuid",
        _ => return None,
    };
    Some(SqlType { name: name.to_owned(), scalar: Some(name.to_owned()), collation: None })
}

impl<'e> Partial<'_, 'e> {
    fn part(&mut self, sql: String, oid: u32, sql_type: SqlType) -> usize {
        let known = self.parts.iter().position(|it| it.sql == sql && it.oid == oid);
        known.unwrap_or_else(|| {
            self.parts.push(Part { sql, oid, sql_type });
            self.parts.len() - 1
        })
    }

    /// An item of GROUP BY.
    fn key(&mut self, select: &'e Select, n: usize, item: &'e Expr) -> Option<()> {
        let expr = self.analyzer.grouped(select, item);
        let is_own = std::ptr::eq(expr, item);
        let bytes = match (&item.kind, select.has_grouping_sets) {
            // Items of ROLLUP and the like are no items of the list.
            (Kind::Column(names), true) if is_own => {
                Some(item.at..self.end_of_name(item.at, names.len())?)
            }
            (_, true) => return None,
            (_, false) => is_own.then(|| self.clauses.group_bytes(n)).flatten(),
        };
        if is_own && bytes.is_none() {
            return None;
        }
        let (sql, oid, sql_type) = match &expr.kind {
            Kind::Column(names) => {
                let (oid, ty) = self.column_type(names)?;
                let names: Vec<String> = names.iter().map(|it| quoted(it)).collect();
                (names.join("."), oid, ty)
            }
            Kind::Literal(_) | Kind::Param(_) => return None,
            _ => {
                let bytes = match &bytes {
                    Some(bytes) => bytes.clone(),
                    None => {
                        let at =
                            select.targets.iter().position(|it| std::ptr::eq(&it.expr, expr))?;
                        self.clauses.target_bytes(at, select.targets[at].alias.is_some())?
                    }
                };
                let ty = type_of(&self.analyzer.levels, expr)?;
                let text = self.analyzer.gathering.as_ref()?.part(bytes)?;
                (format!("({text})"), ty.oid, builtin(ty.oid)?)
            }
        };
        let at = self.part(sql, oid, sql_type);
        self.keys.push(Key { expr, at });
        // What a position or a name means in GROUP BY is the target's, which is changed itself.
        if let Some(bytes) = bytes {
            self.edits.push((bytes, reference(at)));
        }
        Some(())
    }

    fn column_type(&self, names: &[String]) -> Option<(u32, SqlType)> {
        match self.analyzer.resolve(names) {
            Found::Column { block, ty: Some(ty), sql_type: Some(sql_type), .. }
                if block == self.analyzer.block() =>
            {
                Some((ty.oid, (*sql_type).clone()))
            }
            _ => None,
        }
    }

    fn key_of(&self, expr: &Expr) -> Option<usize> {
        let known = self.keys.iter().find(|it| it.expr == expr);
        let place = |expr: &Expr| match &expr.kind {
            Kind::Column(names) => match self.analyzer.resolve(names) {
                Found::Column { place, .. } => place,
                _ => None,
            },
            _ => None,
        };
        let same = || {
            let own = place(expr)?;
            self.keys.iter().find(|it| place(it.expr) == Some(own))
        };
        known.or_else(same).map(|it| it.at)
    }

    /// A whole item of a list.
    fn item(&mut self, expr: &Expr, bytes: Range<usize>) -> Option<()> {
        match self.key_of(expr) {
            Some(at) => {
                self.edits.push((bytes, reference(at)));
                Some(())
            }
            None => self.visit(expr),
        }
    }

    fn visit(&mut self, expr: &Expr) -> Option<()> {
        match &expr.kind {
            Kind::Column(names) => {
                let at = self.key_of(expr)?;
                let end = self.end_of_name(expr.at, names.len())?;
                self.edits.push((expr.at..end, reference(at)));
                Some(())
            }
            Kind::Literal(_) | Kind::Param(_) | Kind::Value(_) => Some(()),
            Kind::Call(call) => {
                let kind =
                    functions::traits(self.analyzer.catalog, &self.analyzer.path, call)?.kind;
                match kind {
                    FunctionKind::Plain if call.over.is_none() => self.visit_all(expr),
                    FunctionKind::Aggregate => self.aggregate(call, expr.at),
                    _ => None,
                }
            }
            Kind::Cast(..) | Kind::Collate(..) | Kind::Op(_) | Kind::And(_) | Kind::Or(_) => {
                self.visit_all(expr)
            }
            Kind::Not(_) | Kind::Array(_) | Kind::Row(_) | Kind::List(_) => self.visit_all(expr),
            Kind::Other { what, .. }
                if [
                    "coalesce",
                    "greatest",
                    "least",
                    "null test",
                    "boolean test",
                    "case",
                    "grouping",
                ]
                .contains(what) =>
            {
                self.visit_all(expr)
            }
            _ => None,
        }
    }

    fn visit_all(&mut self, expr: &Expr) -> Option<()> {
        expr.children().into_iter().try_for_each(|it| self.visit(it))
    }

    fn end_of_name(&self, at: usize, parts: usize) -> Option<usize> {
        let tokens = self.analyzer.gathering.as_ref()?.tokens();
        let first = tokens.iter().position(|it| it.range.start == at)?;
        Some(tokens.get(first + 2 * (parts - 1))?.range.end)
    }

    /// An aggregate: what shards compute of it, and what puts that together.
    fn aggregate(&mut self, call: &Call, at: usize) -> Option<()> {
        let analyzer = self.analyzer;
        let traits = functions::traits(analyzer.catalog, &analyzer.path, call)?;
        let is_plain = traits.is_builtin
            && !(call.distinct || call.variadic || call.within_group)
            && call.order.is_empty()
            && call.over.is_none();
        if !is_plain || call.args.iter().any(has_subquery) || call.filter.iter().any(has_subquery) {
            return None;
        }
        let (open, end) = self.extent(at)?;
        let arguments = analyzer.gathering.as_ref()?.part(open..end)?;
        let ty = call.args.first().and_then(|it| type_of(&analyzer.levels, it)).map(|it| it.oid);
        let of = |name: &str| format!("{name}{arguments}");
        let whole = match (call.name.as_str(), ty) {
            ("count", _) => {
                let count = reference(self.part(of("count"), INT8, builtin(INT8)?));
                format!("coalesce(sum({count}), 0)::int8")
            }
            ("sum", Some(21 | 23)) => {
                let sum = reference(self.part(of("sum"), INT8, builtin(INT8)?));
                format!("sum({sum})::int8")
            }
            ("sum", Some(INT8 | NUMERIC)) => {
                let sum = reference(self.part(of("sum"), NUMERIC, builtin(NUMERIC)?));
                format!("sum({sum})")
            }
            ("avg", Some(21 | 23 | INT8 | NUMERIC)) => {
                let sum = format!("({})::numeric", of("sum"));
                let sum = reference(self.part(sum, NUMERIC, builtin(NUMERIC)?));
                let count = reference(self.part(of("count"), INT8, builtin(INT8)?));
                format!("(sum({sum}) / nullif(sum({count}), 0))")
            }
            ("min" | "max", _) => {
                let (oid, ty) = self.extreme_type(call.args.first()?)?;
                let part = reference(self.part(of(&call.name), oid, ty));
                format!("{}({part})", call.name)
            }
            ("bool_and" | "bool_or" | "every", _) => {
                let part = reference(self.part(of(&call.name), 16, builtin(16)?));
                format!("{}({part})", call.name)
            }
            _ => return None,
        };
        self.edits.push((at..end, whole));
        Some(())
    }

    /// The type of min and max: that of their argument, without modifiers.
    fn extreme_type(&self, arg: &Expr) -> Option<(u32, SqlType)> {
        let Kind::Column(names) = &arg.kind else {
            let oid = type_of(&self.analyzer.levels, arg)?.oid;
            return Some((oid, builtin(oid)?));
        };
        let (oid, mut ty) = self.column_type(names)?;
        if let Some(scalar) = &ty.scalar {
            ty.name.clone_from(scalar);
        }
        Some((oid, ty))
    }

    /// Where a call's parenthesis opens, and where the call with its FILTER ends.
    fn extent(&self, at: usize) -> Option<(usize, usize)> {
        let tokens = self.analyzer.gathering.as_ref()?.tokens();
        let first = tokens.iter().position(|it| it.range.start == at)?;
        let open = (first..tokens.len()).find(|i| tokens[*i].kind == TokenKind::Open)?;
        let close = |open: usize| {
            let is_it = |i: &usize| {
                tokens[*i].kind == TokenKind::Close && tokens[*i].depth == tokens[open].depth
            };
            (open + 1..tokens.len()).find(is_it)
        };
        let mut last = close(open)?;
        if tokens.get(last + 1).is_some_and(|it| it.is("filter")) {
            last = close(last + 2)?;
        }
        Some((tokens[open].range.start, tokens[last].range.end))
    }
}

fn has_subquery(expr: &Expr) -> bool {
    matches!(expr.kind, Kind::Sub(_)) || expr.children().into_iter().any(has_subquery)
}
