//! INSERT whose rows one server computes, and which then go to the shards of their tenants.

use std::fmt::{self, Display, Formatter, Write};

use super::gather::{Gather, NOW};
use crate::shard::KeyType;

/// The rows, and the INSERT of each shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Scatter {
    /// Gives the rows: 0 (`int2`), the values in the order of the INSERT's columns, and last the tenant's
    /// key as `text`.
    pub source: Gather,
    pub insertion: Insertion,
}

/// The INSERT of rows that are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Insertion {
    /// How many values a row has.
    pub width: usize,
    pub key: KeyType,
    /// The INSERT up to its list of columns.
    pub before: String,
    /// What follows the rows: ON CONFLICT and RETURNING.
    pub after: String,
    /// Whether [`NOW`] occurs in [`Self::after`].
    pub asks_time: bool,
    /// Whether each row given is a row returned, so that these have an order.
    pub is_ordered: bool,
}

/// How values of a column travel: as `element`, and back as `cast` if that is another type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    pub element: &'static str,
    /// The OID of `element`.
    pub oid: u32,
    pub cast: Option<String>,
}

impl Insertion {
    /// A shard's statement. Parameters from `$first` on are arrays, one per value; that before is for [`NOW`].
    pub fn shard_sql(&self, first: usize, columns: &[Carried]) -> String {
        let (mut values, mut arrays, mut names) = (String::new(), String::new(), String::new());
        for (i, column) in columns.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let (name, n) = (format!("c{}", i + 1), first + i);
            let _ = write!(values, "{comma}r.{name}");
            if let Some(cast) = &column.cast {
                let _ = write!(values, "::{cast}");
            }
            let _ = write!(arrays, "{comma}pg_catalog.unnest(${n}::{}[])", column.element);
            let _ = write!(names, "{comma}{name}");
        }
        let after = match self.asks_time {
            true => self.after.replace(NOW, &format!("(${}::pg_catalog.timestamptz)", first - 1)),
            false => self.after.clone(),
        };
        format!("{} SELECT {values} FROM ROWS FROM ({arrays}) AS r({names}) {after}", self.before)
    }
}

impl Display for Insertion {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} … {}", self.before, self.after)
    }
}
