//! Range variables and what column references mean.

use std::rc::Rc;

use super::graph::NodeId;
use super::types::Type;
use crate::catalog::SqlType;

/// A column of a range variable.
#[derive(Clone, Debug)]
pub(super) struct Col {
    pub(super) name: String,
    pub(super) node: Option<NodeId>,
    pub(super) ty: Option<Type>,
    /// The fragment and its column, if it is one's.
    pub(super) place: Option<Place>,
    /// How SQL writes its type, if it is a table's.
    pub(super) sql_type: Option<Rc<SqlType>>,
}

/// A column of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) fragment: usize,
    pub(super) column: usize,
}

/// A range variable: an item of FROM under its alias.
#[derive(Clone, Debug)]
pub(super) struct Rel {
    pub(super) alias: String,
    /// The schema, while the table goes by its own name.
    pub(super) schema: Option<String>,
    pub(super) cols: Vec<Col>,
    /// Whether `cols` are all columns, in order.
    pub(super) complete: bool,
}

/// The range variables one query block, or one join, sees.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) block: usize,
    pub(super) rels: Vec<Rc<Rel>>,
    /// What `*` stands for, in order; columns that USING or NATURAL have merged are one.
    pub(super) visible: Vec<Col>,
    /// Names of merged columns, which have no range variable.
    pub(super) merged: Vec<String>,
    /// Whether names of a NATURAL join could not be told.
    pub(super) is_unclear: bool,
}

/// What a reference means.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Column {
        block: usize,
        node: Option<NodeId>,
        ty: Option<Type>,
        place: Option<Place>,
        sql_type: Option<Rc<SqlType>>,
    },
    /// A range variable's name alone: the whole row.
    Row,
    /// Not known, or ambiguous.
    Unknown,
}

impl Found {
    pub(super) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Column { node, .. } => *node,
            _ => None,
        }
    }

    pub(super) fn ty(&self) -> Option<Type> {
        match self {
            Self::Column { ty, .. } => *ty,
            _ => None,
        }
    }
}

impl Names {
    pub(super) fn new(block: usize) -> Self {
        Self { block, ..Self::default() }
    }

    /// One range variable.
    pub(super) fn of(block: usize, rel: Rel) -> Self {
        let mut names = Self::new(block);
        names.add(rel);
        names
    }

    /// Adds a range variable.
    pub(super) fn add(&mut self, rel: Rel) {
        self.visible.extend(rel.cols.iter().cloned());
        self.rels.push(Rc::new(rel));
    }

    /// Columns of both sides become one, which stands before all others.
    pub(super) fn merge(&mut self, columns: Vec<Col>) {
        self.visible.retain(|it| columns.iter().all(|merged| merged.name != it.name));
        self.merged.extend(columns.iter().map(|it| it.name.clone()));
        self.visible.splice(0..0, columns);
    }

    /// The names of both sides.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.rels.extend(other.rels.iter().cloned());
        both.visible.extend(other.visible.iter().cloned());
        both.merged.extend(other.merged.iter().cloned());
        both.is_unclear |= other.is_unclear;
        both
    }

    fn column(&self, col: &Col) -> Found {
        Found::Column {
            block: self.block,
            node: col.node,
            ty: col.ty,
            place: col.place,
            sql_type: col.sql_type.clone(),
        }
    }

    /// What an unqualified name means here; `None` if it is not of this level.
    pub(super) fn unqualified(&self, name: &str) -> Option<Found> {
        let mut cols = self.visible.iter().filter(|it| it.name == name);
        match (cols.next(), cols.next()) {
            (Some(col), None) if !self.is_unclear => Some(self.column(col)),
            (Some(_), _) => Some(Found::Unknown),
            (None, _) if self.is_complete() => None,
            (None, _) => Some(Found::Unknown),
        }
    }

    /// Whether all columns are known.
    pub(super) fn is_complete(&self) -> bool {
        !self.is_unclear && self.rels.iter().all(|it| it.complete)
    }

    /// The range variable of a name; `None` if it is not of this level.
    pub(super) fn rel(&self, schema: Option<&str>, alias: &str) -> Option<&Rc<Rel>> {
        self.rels
            .iter()
            .find(|it| it.alias == alias && (schema.is_none() || it.schema.as_deref() == schema))
    }

    fn qualified(&self, rel: &Rel, name: &str) -> Found {
        let mut cols = rel.cols.iter().filter(|it| it.name == name);
        match (cols.next(), cols.next()) {
            (Some(col), None) => self.column(col),
            _ => Found::Unknown,
        }
    }
}

/// What a column reference means, innermost level first.
pub(super) fn resolve(levels: &[Names], names: &[String]) -> Found {
    match names {
        [name] => resolve_name(levels, name),
        [rel, name] => resolve_qualified(levels, None, rel, name),
        [schema, rel, name] | [_, schema, rel, name] => {
            resolve_qualified(levels, Some(schema), rel, name)
        }
        _ => Found::Unknown,
    }
}

fn resolve_name(levels: &[Names], name: &str) -> Found {
    if let Some(found) = levels.iter().rev().find_map(|it| it.unqualified(name)) {
        return found;
    }
    let is_row = levels.iter().any(|it| it.rel(None, name).is_some());
    if is_row { Found::Row } else { Found::Unknown }
}

fn resolve_qualified(levels: &[Names], schema: Option<&str>, rel: &str, name: &str) -> Found {
    for level in levels.iter().rev() {
        if let Some(rel) = level.rel(schema, rel) {
            return level.qualified(rel, name);
        }
    }
    Found::Unknown
}
