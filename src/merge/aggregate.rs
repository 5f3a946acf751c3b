//! Partial values of an aggregate that become one. NULL is no value.

use bytes::{Bytes, BytesMut};

use super::Aggregate;
use super::columns::{Fields, Typed};
use super::numeric::{Numeric, Sum};
use super::value::{Key, Kind};
use crate::error::{PgError, sqlstate};

/// What an aggregate has seen of one group.
#[derive(Debug)]
pub(super) enum State {
    /// Counts and sums of type int8; `None` is NULL.
    Int(Option<i128>),
    Numeric(Option<Box<Sum>>),
    /// The smallest, or largest, value and its bytes.
    Extreme {
        is_max: bool,
        best: Option<(Key, Bytes)>,
    },
    Bool {
        is_or: bool,
        value: Option<bool>,
    },
}

impl State {
    /// Of nothing seen.
    pub(super) fn new(aggregate: Aggregate, kind: Kind) -> Self {
        match aggregate {
            Aggregate::Count => Self::Int(Some(0)),
            Aggregate::Sum if kind == Kind::Numeric => Self::Numeric(None),
            Aggregate::Sum => Self::Int(None),
            Aggregate::Min => Self::Extreme { is_max: false, best: None },
            Aggregate::Max => Self::Extreme { is_max: true, best: None },
            Aggregate::And => Self::Bool { is_or: false, value: None },
            Aggregate::Or => Self::Bool { is_or: true, value: None },
        }
    }

    /// Adds a shard's partial value.
    pub(super) fn add(
        &mut self,
        column: &Typed,
        frame: &Bytes,
        fields: &Fields,
    ) -> Result<(), PgError> {
        let Some(key) = column.key(frame, fields)? else { return Ok(()) };
        match (self, key) {
            (Self::Int(sum), Key::Int(value)) => {
                *sum = Some(sum.unwrap_or(0) + i128::from(value));
            }
            (Self::Numeric(sum), Key::Numeric(value)) => {
                sum.get_or_insert_with(|| Box::new(Sum::new())).add(*value);
            }
            (Self::Bool { is_or, value }, Key::Int(new)) => {
                let (new, is_or) = (new != 0, *is_or);
                *value = Some(value.map_or(new, |old| if is_or { old | new } else { old & new }));
            }
            (Self::Extreme { is_max, best }, key) => {
                let range = fields[column.at].clone().unwrap_or_default();
                better(*is_max, best, key, &frame[range]);
            }
            (Self::Int(_) | Self::Numeric(_) | Self::Bool { .. }, _) => return Err(mismatch()),
        }
        Ok(())
    }

    /// The value in the column's format (0 text, 1 binary); `None` is NULL.
    pub(super) fn finish(self, format: i16) -> Result<Option<Bytes>, PgError> {
        match self {
            Self::Int(sum) => sum.map(|sum| int8(sum, format)).transpose(),
            Self::Numeric(sum) => sum.map(|sum| numeric(&sum.finish()?, format)).transpose(),
            Self::Extreme { best, .. } => Ok(best.map(|(_, bytes)| bytes)),
            Self::Bool { value, .. } => Ok(value.map(|value| boolean(value, format))),
        }
    }
}

/// Copies what it keeps: a slice would keep the whole read buffer.
fn better(is_max: bool, best: &mut Option<(Key, Bytes)>, key: Key, bytes: &[u8]) {
    let is_better = match best {
        Some((old, _)) if is_max => key > *old,
        Some((old, _)) => key < *old,
        None => true,
    };
    if is_better {
        let bytes = Bytes::copy_from_slice(bytes);
        let key = if matches!(key, Key::Bytes(_)) { Key::Bytes(bytes.clone()) } else { key };
        *best = Some((key, bytes));
    }
}

fn int8(sum: i128, format: i16) -> Result<Bytes, PgError> {
    let sum = i64::try_from(sum)
        .map_err(|_| PgError::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "bigint out of range"))?;
    Ok(match format {
        1 => Bytes::copy_from_slice(&sum.to_be_bytes()),
        _ => Bytes::from(sum.to_string()),
    })
}

fn numeric(sum: &Numeric, format: i16) -> Result<Bytes, PgError> {
    let mut out = BytesMut::new();
    match format {
        1 => sum.put_binary(&mut out)?,
        _ => sum.put_text(&mut out),
    }
    Ok(out.freeze())
}

fn boolean(value: bool, format: i16) -> Bytes {
    Bytes::from_static(match (value, format) {
        (true, 1) => b"\x01",
        (false, 1) => b"\0",
        (true, _) => b"t",
        (false, _) => b"f",
    })
}

#[cold]
fn mismatch() -> PgError {
    PgError::new(sqlstate::INTERNAL_ERROR, "an aggregate got a value of another type")
}
