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

impl Carried {
    /// How values of a type travel; `name` gives that of a type that is no built-in scalar.
    pub fn of(oid: u32, name: impl FnOnce() -> Option<String>) -> Self {
        const TEXT: u32 = 25;
        match Self::scalar(oid) {
            Some(element) => Self { element, oid, cast: None },
            None => Self { element: "text", oid: TEXT, cast: name() },
        }
    }

    /// The name of a built-in scalar type whose values are the same in binary on every server.
    pub fn scalar(oid: u32) -> Option<&'static str> {
        Some(match oid {
            16 => "bool",
            17 => "bytea",
            20 => "int8",
            21 => "int2",
            23 => "int4",
            25 => "text",
            700 => "float4",
            701 => "float8",
            1042 => "bpchar",
            1043 => "varchar",
            1082 => "date",
            1083 => "time",
            1114 => "timestamp",
            1184 => "timestamptz",
            1186 => "interval",
            1266 => "timetz",
            1700 => "numeric",
            2950 => "uuid",
            114 => "json",
            3802 => "jsonb",
            _ => return None,
        })
    }
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
