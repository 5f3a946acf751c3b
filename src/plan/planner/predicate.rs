//! Conjuncts of WHERE and ON: which columns equal which, and which equal a key.

use std::ops::Range;

use super::graph::NodeId;
use super::walk::Analyzer;
use crate::plan::KeySource;
use crate::shard::KeyType;
use crate::sql::parse::tree::{Expr, Kind, Literal, Op, OpForm, SubForm, TypeName};

/// Where a conjunct stands.
#[derive(Debug)]
pub(super) enum Mode {
    /// In WHERE, or ON of an inner join: rows that fail it are gone.
    Filter,
    /// In ON of an outer join: rows of these columns' tables that fail it have no partner; the other
    /// side's rows stay. The columns are those that came into being with the nullable side.
    Nullable(Range<NodeId>),
    /// In ON of a full join.
    Nothing,
}

impl Mode {
    /// Whether rows of the column's table that fail the conjunct cannot matter.
    pub(super) fn may_confine(&self, node: NodeId, analyzer: &Analyzer<'_>) -> bool {
        let is_own = analyzer.graph.block(node) == analyzer.block();
        match self {
            Self::Filter => is_own,
            Self::Nullable(nodes) => is_own && nodes.contains(&node),
            Self::Nothing => false,
        }
    }
}

impl Analyzer<'_> {
    /// Looks at a predicate.
    pub(super) fn predicate(&mut self, expr: &Expr, mode: &Mode) {
        if !matches!(expr.kind, Kind::And(_)) {
            self.push_down(expr, mode);
        }
        match &expr.kind {
            Kind::And(all) => {
                for conjunct in all {
                    self.predicate(conjunct, mode);
                }
            }
            Kind::Sub(sub) if sub.form == SubForm::Any => self.sub(sub, Some(mode)),
            Kind::Op(op) => {
                self.expr(expr);
                self.comparison(op, mode);
            }
            _ => self.expr(expr),
        }
    }

    fn comparison(&mut self, op: &Op, mode: &Mode) {
        let is_equal = op.name == "=" && op.schema.as_deref().is_none_or(|it| it == "pg_catalog");
        let (Some(left), Some(right)) = (&op.left, &op.right) else { return };
        match (is_equal, op.form) {
            (true, OpForm::Plain) => self.equality(left, right, mode),
            (true, OpForm::In) => self.list(left, right, mode),
            (true, OpForm::Any) => self.any(left, right, mode),
            _ => (),
        }
    }

    fn equality(&mut self, left: &Expr, right: &Expr, mode: &Mode) {
        if let (Kind::Row(left), Kind::Row(right)) = (&left.kind, &right.kind) {
            if left.len() == right.len() {
                for (left, right) in left.iter().zip(right) {
                    self.equality(left, right, mode);
                }
            }
            return;
        }
        match (self.node_of(left), self.node_of(right)) {
            (Some(left), Some(right)) => self.equal(left, right, mode),
            (Some(node), None) => self.one_key(node, right, mode),
            (None, Some(node)) => self.one_key(node, left, mode),
            (None, None) => (),
        }
    }

    fn one_key(&mut self, node: NodeId, value: &Expr, mode: &Mode) {
        if mode.may_confine(node, self)
            && let Some(key) = self.key(value, self.graph.kind(node))
        {
            self.graph.fact(node, vec![key]);
        }
    }

    /// `column IN (…)` and `(column, …) IN ((…), …)`.
    fn list(&mut self, left: &Expr, right: &Expr, mode: &Mode) {
        let Kind::List(items) = &right.kind else { return };
        let Kind::Row(columns) = &left.kind else {
            return self.keys(left, items.iter().map(Some), mode);
        };
        for (i, column) in columns.iter().enumerate() {
            let values = items.iter().map(|item| match &item.kind {
                Kind::Row(values) if values.len() == columns.len() => values.get(i),
                _ => None,
            });
            self.keys(column, values, mode);
        }
    }

    /// Confines a column to values if each of them is a key.
    fn keys<'e>(
        &mut self,
        column: &Expr,
        values: impl Iterator<Item = Option<&'e Expr>>,
        mode: &Mode,
    ) {
        let Some(node) = self.node_of(column).filter(|it| mode.may_confine(*it, self)) else {
            return;
        };
        let kind = self.graph.kind(node);
        let keys: Option<Vec<KeySource>> = values.map(|it| self.key(it?, kind)).collect();
        if let Some(keys) = keys.filter(|it| !it.is_empty()) {
            self.graph.fact(node, keys);
        }
    }

    /// `column = ANY ($1)`, `= ANY (ARRAY[…])`.
    fn any(&mut self, left: &Expr, right: &Expr, mode: &Mode) {
        let Some(node) = self.node_of(left).filter(|it| mode.may_confine(*it, self)) else {
            return;
        };
        let kind = self.graph.kind(node);
        let (inner, cast) = match &right.kind {
            Kind::Cast(inner, ty) => (inner.as_ref(), Some(ty)),
            _ => (right, None),
        };
        if cast.is_some_and(|ty| !ty.is_array || !is_family(kind, ty)) {
            return;
        }
        match &inner.kind {
            Kind::Param(index) if self.declares_array(*index, kind) && self.view_depth == 0 => {
                self.graph.fact(node, vec![KeySource::ParamArray { index: *index, kind }]);
            }
            Kind::Array(items) => self.keys(left, items.iter().map(Some), mode),
            _ => (),
        }
    }

    /// Two columns are equal.
    pub(super) fn equal(&mut self, left: NodeId, right: NodeId, mode: &Mode) {
        if self.graph.kind(left) != self.graph.kind(right) {
            return;
        }
        let block = self.block();
        let is_own = |node| self.graph.block(node) == block;
        match mode {
            Mode::Nothing => (),
            Mode::Filter => match (is_own(left), is_own(right)) {
                (true, true) => {
                    self.graph.edge(left, right);
                    self.graph.edge(right, left);
                    self.state().classes.union(left, right);
                }
                (true, false) => self.correlate(right, left),
                (false, true) => self.correlate(left, right),
                (false, false) => (),
            },
            Mode::Nullable(nodes) => match (nodes.contains(&left), nodes.contains(&right)) {
                (true, true) => self.equal(left, right, &Mode::Filter),
                (true, false) => self.attach(right, left, nodes),
                (false, true) => self.attach(left, right, nodes),
                (false, false) => (),
            },
        }
    }

    /// A column of this block equals one of a block around it.
    fn correlate(&mut self, outer: NodeId, own: NodeId) {
        self.graph.edge(outer, own);
        self.state().classes.union(outer, own);
    }

    /// A column of the nullable side equals one of the other side. The nullable side belongs to one
    /// class of the other side: a second one would make two classes equal that the join does not
    /// make equal.
    fn attach(&mut self, other: NodeId, nullable: NodeId, nodes: &Range<NodeId>) {
        self.graph.edge(other, nullable);
        let classes = &mut self.state().classes;
        if classes.members(nullable).all(|it| nodes.contains(&it)) {
            classes.union(other, nullable);
        }
    }

    /// Where a value is found, if it is a key of this type.
    pub(super) fn key(&self, value: &Expr, kind: KeyType) -> Option<KeySource> {
        if self.view_depth > 0 {
            return None;
        }
        let (inner, cast) = match &value.kind {
            Kind::Cast(inner, ty) => (inner.as_ref(), Some(ty)),
            _ => (value, None),
        };
        if cast.is_some_and(|ty| ty.is_array || ty.has_modifier || !is_family(kind, ty)) {
            return None;
        }
        match &inner.kind {
            Kind::Param(index) if self.declares(*index, kind) => {
                Some(KeySource::Param { index: *index, kind })
            }
            Kind::Literal(literal) if self.reads_as(literal, inner.at, kind) => {
                Some(KeySource::Literal { offset: inner.at, kind })
            }
            _ => None,
        }
    }

    /// Whether the literal at this offset is a plain one of the key's type.
    fn reads_as(&self, literal: &Literal, at: usize, kind: KeyType) -> bool {
        let text = self.sql.get(at..).unwrap_or_default();
        match literal {
            Literal::Text(_) => text.starts_with(['\'', '$', 'e', 'E']),
            Literal::Int(_) | Literal::Number(_) if kind == KeyType::Int => {
                let token: &str = text
                    .split(|it: char| !it.is_ascii_alphanumeric() && it != '_' && it != '.')
                    .next()
                    .unwrap_or_default();
                token.bytes().all(|it| it.is_ascii_digit()) && token.parse::<i64>().is_ok()
            }
            _ => false,
        }
    }

    fn declared(&self, index: usize) -> u32 {
        index.checked_sub(1).and_then(|it| self.param_types.get(it)).copied().unwrap_or(0)
    }

    fn declares(&self, index: usize, kind: KeyType) -> bool {
        let oid = self.declared(index);
        oid == 0 || KeyType::of_oid(oid) == Some(kind)
    }

    fn declares_array(&self, index: usize, kind: KeyType) -> bool {
        match self.declared(index) {
            0 => true,
            1005 | 1007 | 1016 => kind == KeyType::Int,
            1009 | 1015 => kind == KeyType::Text,
            2951 => kind == KeyType::Uuid,
            _ => false,
        }
    }
}

/// Whether a type's values are keys of this kind, as they stand.
fn is_family(kind: KeyType, ty: &TypeName) -> bool {
    if ty.schema.as_deref().is_some_and(|it| it != "pg_catalog") {
        return false;
    }
    match kind {
        KeyType::Int => ["int2", "int4", "int8"].contains(&ty.name.as_str()),
        KeyType::Text => ["text", "varchar"].contains(&ty.name.as_str()),
        KeyType::Uuid => ty.name == "uuid",
    }
}
