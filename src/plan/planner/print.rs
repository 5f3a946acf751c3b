//! Conditions as text, for those that shards may apply before rows are shipped: no subqueries, nothing
//! whose value depends on when or where it is computed. What is not known is not printed.

use super::functions;
use super::names::{Found, Place};
use super::walk::Analyzer;
use crate::catalog::{FunctionKind, Volatility};
use crate::sql::name::{quoted, quoted_text};
use crate::sql::parse::tree::{Call, Expr, Kind, Literal, Op, OpForm, TypeName};

/// A condition on the columns of one fragment.
pub(super) struct Condition {
    pub(super) fragment: usize,
    pub(super) text: String,
    /// The columns it looks at.
    pub(super) columns: usize,
}

/// The condition as text over the fragment's own column names, if it is about one fragment of the
/// current block.
pub(super) fn condition(analyzer: &Analyzer<'_>, expr: &Expr) -> Option<Condition> {
    let mut printer = Printer { analyzer, fragment: None, columns: 0 };
    let text = printer.expr(expr)?;
    Some(Condition { fragment: printer.fragment?, text, columns: printer.columns })
}

struct Printer<'a> {
    analyzer: &'a Analyzer<'a>,
    fragment: Option<usize>,
    columns: usize,
}

impl Printer<'_> {
    fn expr(&mut self, expr: &Expr) -> Option<String> {
        Some(match &expr.kind {
            Kind::Column(names) => self.column(names)?,
            Kind::Literal(it) => literal(it)?,
            Kind::Param(n) => format!("${n}"),
            Kind::Cast(inner, ty) => format!("({})::{}", self.expr(inner)?, type_name(ty)?),
            Kind::Collate(inner, names) => {
                let names: Vec<String> = names.iter().map(|it| quoted(it)).collect();
                format!("({} COLLATE {})", self.expr(inner)?, names.join("."))
            }
            Kind::Op(op) => self.operator(op)?,
            Kind::And(all) => format!("({})", self.list(all, " AND ")?),
            Kind::Or(all) => format!("({})", self.list(all, " OR ")?),
            Kind::Not(inner) => format!("(NOT {})", self.expr(inner)?),
            Kind::Call(call) if call.args.is_empty() && self.analyzer.is_builtin_now(call) => {
                self.analyzer.now_mark(&call.name, expr.at)?
            }
            Kind::Value(name) => self.analyzer.now_mark(name, expr.at)?,
            Kind::Call(call) => self.call(call)?,
            Kind::Array(all) => format!("ARRAY[{}]", self.list(all, ", ")?),
            Kind::Row(all) => format!("ROW({})", self.list(all, ", ")?),
            Kind::List(all) => format!("({})", self.list(all, ", ")?),
            Kind::Other { what, detail, children } => self.other(what, detail, children)?,
            _ => return None,
        })
    }

    fn list(&mut self, exprs: &[Expr], between: &str) -> Option<String> {
        let texts: Option<Vec<String>> = exprs.iter().map(|it| self.expr(it)).collect();
        Some(texts?.join(between))
    }

    fn column(&mut self, names: &[String]) -> Option<String> {
        let Found::Column { block, place: Some(Place { fragment, column }), .. } =
            self.analyzer.resolve(names)
        else {
            return None;
        };
        if block != self.analyzer.block() || *self.fragment.get_or_insert(fragment) != fragment {
            return None;
        }
        self.columns += 1;
        let gathering = self.analyzer.gathering.as_ref()?;
        Some(quoted(gathering.column_name(fragment, column)?))
    }

    fn operator(&mut self, op: &Op) -> Option<String> {
        if op.schema.as_deref().is_some_and(|it| it != "pg_catalog") {
            return None;
        }
        let left = op.left.as_ref();
        let right = self.expr(op.right.as_ref()?)?;
        let Some(left) = left else { return Some(format!("({} {right})", op.name)) };
        let left = self.expr(left)?;
        Some(match op.form {
            OpForm::Plain | OpForm::Like => format!("({left} {} {right})", op.name),
            OpForm::Any => format!("({left} {} ANY ({right}))", op.name),
            OpForm::All => format!("({left} {} ALL ({right}))", op.name),
            OpForm::In if op.name == "=" => format!("({left} IN {right})"),
            OpForm::In => format!("({left} NOT IN {right})"),
            OpForm::Distinct => format!("({left} IS DISTINCT FROM {right})"),
            OpForm::NotDistinct => format!("({left} IS NOT DISTINCT FROM {right})"),
            OpForm::NullIf => format!("nullif({left}, {right})"),
            OpForm::Between => {
                let Kind::List(bounds) = &op.right.as_ref()?.kind else { return None };
                format!("({left} {} {})", op.name, self.list(bounds, " AND ")?)
            }
        })
    }

    /// Built-in functions that are the same everywhere at any time.
    fn call(&mut self, call: &Call) -> Option<String> {
        let traits = functions::traits(self.analyzer.catalog, &self.analyzer.path, call)?;
        let is_plain = !(call.star || call.distinct || call.variadic || call.within_group)
            && call.order.is_empty()
            && call.filter.is_none()
            && call.over.is_none();
        let is_same = traits.is_builtin
            && traits.is_table_free
            && traits.kind == FunctionKind::Plain
            && (traits.volatility == Volatility::Immutable
                || functions::depends_on_settings_only(call));
        if !(is_plain && is_same) {
            return None;
        }
        let schema = call.schema.as_ref().map(|it| format!("{}.", quoted(it))).unwrap_or_default();
        Some(format!("{schema}{}({})", quoted(&call.name), self.list(&call.args, ", ")?))
    }

    fn other(&mut self, what: &str, detail: &str, children: &[Expr]) -> Option<String> {
        // The parser's numbers of NullTestType and BoolTestType.
        let test = match (what, detail) {
            ("coalesce" | "greatest" | "least", _) => {
                return Some(format!("{what}({})", self.list(children, ", ")?));
            }
            ("null test", "1") => "IS NULL",
            ("null test", "2") => "IS NOT NULL",
            ("boolean test", "1") => "IS TRUE",
            ("boolean test", "2") => "IS NOT TRUE",
            ("boolean test", "3") => "IS FALSE",
            ("boolean test", "4") => "IS NOT FALSE",
            ("boolean test", "5") => "IS UNKNOWN",
            ("boolean test", "6") => "IS NOT UNKNOWN",
            _ => return None,
        };
        Some(format!("({} {test})", self.expr(children.first()?)?))
    }
}

fn literal(it: &Literal) -> Option<String> {
    Some(match it {
        Literal::Null => "NULL".to_owned(),
        Literal::Bool(it) => it.to_string(),
        Literal::Int(it) => it.to_string(),
        Literal::Number(it) => it.clone(),
        Literal::Text(it) if !super::walk::is_time_word(it) => quoted_text(it),
        Literal::Text(_) | Literal::Bits(_) => return None,
    })
}

/// A type without modifiers.
fn type_name(ty: &TypeName) -> Option<String> {
    let is_plain = !ty.has_modifier && ty.detail.ends_with(" false false");
    let schema = ty.schema.as_ref().map(|it| format!("{}.", quoted(it))).unwrap_or_default();
    let array = if ty.is_array { "[]" } else { "" };
    is_plain.then(|| format!("{schema}{}{array}", quoted(&ty.name)))
}
