//! The columns of the shards' answers, and what a [`MergeSpec`] means for them: types are known
//! here, so whatever cannot be merged exactly is refused here, before any row goes out.

use std::fmt;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::value::{Key, Kind, type_name};
use super::{Aggregate, ColumnAt, MergeSpec, SortKey};
use crate::error::{PgError, sqlstate};
use crate::wire::backend::{DataRow, Field, RowDescription};

/// What is known of a column that was not described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnInfo {
    pub type_oid: u32,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// A column of the shards' answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) info: ColumnInfo,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ColumnInfo { type_oid, format } = self.info;
        write!(f, "Column {} of type {} in format {format}", self.name, type_name(type_oid))
    }
}

/// Where the fields of a row lie in its frame.
pub(super) type Fields = SmallVec<[Field; 16]>;

/// The columns of a RowDescription.
pub(super) fn described(view: &RowDescription<'_>) -> Vec<Column> {
    let column = |column: &crate::wire::backend::Column<'_>| Column {
        name: format!("\"{}\"", String::from_utf8_lossy(column.name)),
        info: ColumnInfo { type_oid: column.type_oid, format: column.format },
    };
    view.columns.iter().map(column).collect()
}

/// Columns without a name: they are called by their number.
pub(super) fn assumed(columns: &[ColumnInfo]) -> Vec<Column> {
    let column =
        |(at, info): (usize, &ColumnInfo)| Column { name: (at + 1).to_string(), info: *info };
    columns.iter().enumerate().map(column).collect()
}

/// The client's RowDescription.
pub(super) fn visible(view: &RowDescription<'_>, hidden: usize) -> Bytes {
    let mut out = BytesMut::new();
    view.put_without_last(&mut out, hidden);
    out.freeze()
}

/// A column whose values are read, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Typed {
    pub(super) at: usize,
    pub(super) kind: Kind,
    pub(super) format: i16,
    pub(super) name: String,
    pub(super) type_oid: u32,
}

impl Typed {
    fn new(columns: &[Column], at: usize, why: &str) -> Result<Self, PgError> {
        let column = columns.get(at).ok_or_else(|| missing(at, columns.len()))?;
        let (type_oid, format) = (column.info.type_oid, column.info.format);
        let kind = Kind::of(type_oid).ok_or_else(|| unsupported(column, why))?;
        Ok(Self { at, kind, format, name: column.name.clone(), type_oid })
    }

    /// The field's value; `None` is NULL.
    pub(super) fn key(&self, frame: &Bytes, fields: &Fields) -> Result<Option<Key>, PgError> {
        let field = fields.get(self.at).ok_or_else(|| missing(self.at, fields.len()))?;
        let Some(range) = field else { return Ok(None) };
        let key = Key::read(self.kind, self.format, frame, range.clone());
        key.map(Some).ok_or_else(|| self.unreadable())
    }

    #[cold]
    fn unreadable(&self) -> PgError {
        let type_name = type_name(self.type_oid);
        PgError::refused(format!(
            "a value of column {} of type {type_name} cannot be compared over several shards",
            self.name
        ))
        .hint("SET datestyle = 'ISO' and bytea_output = 'hex', or read from one shard.")
    }
}

/// A sort key whose column is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) column: Typed,
    pub(super) is_descending: bool,
    pub(super) nulls_first: bool,
}

/// The sort keys of a specification.
pub(super) fn orders(columns: &[Column], spec: &MergeSpec) -> Result<Vec<Order>, PgError> {
    spec.sort.iter().map(|key| order(columns, spec.hidden, key)).collect()
}

fn order(columns: &[Column], hidden: usize, key: &SortKey) -> Result<Order, PgError> {
    let at = match key.column {
        ColumnAt::Visible(at) => at,
        ColumnAt::Hidden(at) => columns.len().saturating_sub(hidden) + at,
    };
    let column = Typed::new(columns, at, "be ordered")?;
    if column.kind == Kind::Text && !key.is_bytewise {
        return Err(unsupported(&columns[at], "be ordered by its collation"));
    }
    Ok(Order { column, is_descending: key.descending, nulls_first: key.nulls_first })
}

/// Refuses columns whose equal values may differ in their bytes.
pub(super) fn check_equality(
    columns: &[Column],
    positions: impl Iterator<Item = usize>,
    why: &str,
) -> Result<(), PgError> {
    for at in positions {
        let kind = Typed::new(columns, at, why)?.kind;
        if !kind.is_equal_by_bytes() {
            return Err(unsupported(&columns[at], why));
        }
    }
    Ok(())
}

/// The column of an aggregate; refused unless partial values of its type combine exactly.
pub(super) fn aggregate(
    columns: &[Column],
    at: usize,
    aggregate: Aggregate,
) -> Result<Typed, PgError> {
    let (verb, is_exact): (_, fn(Kind) -> bool) = match aggregate {
        Aggregate::Count => ("be counted", |kind| kind == Kind::Int8),
        Aggregate::Sum => ("be summed", |kind| matches!(kind, Kind::Int8 | Kind::Numeric)),
        Aggregate::Min | Aggregate::Max => ("be compared", |kind| kind != Kind::Text),
        Aggregate::And | Aggregate::Or => ("be combined", |kind| kind == Kind::Bool),
    };
    let typed = Typed::new(columns, at, verb)?;
    if is_exact(typed.kind) { Ok(typed) } else { Err(unsupported(&columns[at], verb)) }
}

/// Where the fields of a row lie; there must be as many as columns, if those are known.
pub(super) fn fields(frame: &[u8], columns: Option<&[Column]>) -> Result<Fields, PgError> {
    let row = DataRow::read(frame)?;
    match columns {
        Some(columns) if columns.len() != row.len() => Err(PgError::new(
            sqlstate::PROTOCOL_VIOLATION,
            format!("a server sent a row of {} columns, expected {}", row.len(), columns.len()),
        )),
        _ => row.collect(),
    }
}

#[cold]
pub(super) fn disagreement(shard: usize, first: &[Column], other: &[Column]) -> PgError {
    let differing = first.iter().zip(other).find(|(a, b)| a != b);
    let detail = match differing {
        Some((a, b)) => format!("{a} on the first shard, {b} on shard {shard}."),
        None => {
            format!("{} columns on the first shard, {} on shard {shard}.", first.len(), other.len())
        }
    };
    PgError::refused("the shards' answers have different columns")
        .detail(detail)
        .hint("Bring the schemas of all shards into line; types made by users may have other OIDs on each.")
}

#[cold]
fn unsupported(column: &Column, why: &str) -> PgError {
    let (name, type_name) = (&column.name, type_name(column.info.type_oid));
    PgError::refused(format!(
        "column {name} of type {type_name} cannot {why} exactly over several shards"
    ))
    .hint("Restrict the statement to one tenant, or cast the column to a type such as bigint or uuid.")
}

#[cold]
pub(super) fn missing(at: usize, columns: usize) -> PgError {
    PgError::new(
        sqlstate::INTERNAL_ERROR,
        format!("a merge needs column {}, but the shards' answer has {columns}", at + 1),
    )
}
