//! SELECT … LIMIT … FOR UPDATE over several shards: rows are found without a lock first, in order, then as many
//! of them are locked as are asked for. So no row is locked that is not in the answer.

use std::fmt::Write;

use crate::merge::{Bound, MergeSpec};
use crate::shard::ShardId;
use crate::sql::name::quoted_text;

/// Stands for the number of the shard, in [`Lock::find`].
pub const SHARD: &str = "sluice_shard";
/// Stands for the number of rows to find, in [`Lock::find`].
pub const PAGE: &str = "sluice_page";
/// Stands for [`Lock::held`], in [`Lock::find`].
pub const HELD: &str = "sluice_is_held";
/// Stands for the keys of the rows to lock, in [`Lock::lock`].
pub const KEYS: &str = "sluice_keys";

/// The columns of [`Lock::find`] before the key.
pub const BEFORE_KEY: usize = 2;

/// What it does about a row that another transaction has locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It waits; the same text with SKIP LOCKED, which does not.
    Block { skip: String },
    /// SKIP LOCKED.
    Skip,
    /// NOWAIT.
    Fail,
}

/// A SELECT … LIMIT … FOR UPDATE.
#[derive(Clone, Debug, PartialEq)]
pub struct Lock {
    /// Finds rows, and how they are put in order. Columns: the shard, whether the row seems to be locked, its
    /// key as text, sort keys.
    pub find: MergeSpec,
    /// Locks those of them that have these keys; gives the client's columns, and then [`Self::hidden`] others, of
    /// which the last are the key as text.
    pub lock: String,
    /// Whether a row seems to be locked by another transaction.
    pub held: String,
    /// The types of the key's columns.
    pub key: Vec<String>,
    pub hidden: usize,
    pub limit: Option<Bound>,
    pub offset: Option<Bound>,
    pub wait: Wait,
}

/// A statement around a SELECT … FOR UPDATE that does not depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    pub before: String,
    /// The SELECT … FOR UPDATE, without parentheses.
    pub select: String,
    pub after: String,
}

impl Lock {
    /// A shard's text of [`Self::find`] for so many rows; `None`: all.
    pub fn find_sql(&self, shard: ShardId, rows: Option<u64>) -> String {
        let rows = rows.map_or_else(|| "ALL".to_owned(), |it| it.to_string());
        let sql = self.find.shard_sql.replacen(SHARD, &shard.to_string(), 1);
        sql.replacen(HELD, &self.held, 1).replacen(PAGE, &rows, 1)
    }

    /// The text that locks rows with these keys.
    pub fn lock_sql(&self, text: &str, keys: &[&[String]]) -> String {
        let mut list = String::from("VALUES ");
        let nothing = self.key.iter().map(|ty| format!("NULL::{ty}")).collect::<Vec<_>>();
        for (n, key) in keys.iter().enumerate() {
            list.push_str(if n == 0 { "(" } else { ", (" });
            for (i, (value, ty)) in key.iter().zip(&self.key).enumerate() {
                let comma = if i == 0 { "" } else { ", " };
                let _ = write!(list, "{comma}{}::{ty}", quoted_text(value));
            }
            list.push(')');
        }
        if keys.is_empty() {
            let _ = write!(list, "({})", nothing.join(", "));
        }
        text.replacen(KEYS, &list, 1)
    }
}

/// Rows as a SELECT without tables. A column has its name and its type; values are text.
pub fn rows_sql(columns: &[(String, String)], rows: &[Vec<Option<String>>]) -> String {
    let mut names = Vec::with_capacity(columns.len());
    let mut targets = Vec::with_capacity(columns.len());
    for (i, (name, ty)) in columns.iter().enumerate() {
        names.push(format!("c{}", i + 1));
        targets.push(match rows.is_empty() {
            true => format!("NULL::{ty} AS {name}"),
            false => format!("sluice_row.c{} AS {name}", i + 1),
        });
    }
    let targets = targets.join(", ");
    if rows.is_empty() {
        return format!("SELECT {targets} WHERE false");
    }
    let mut text = format!("SELECT {targets} FROM (VALUES ");
    for (n, row) in rows.iter().enumerate() {
        text.push_str(if n == 0 { "(" } else { ", (" });
        for (i, (value, (_, ty))) in row.iter().zip(columns).enumerate() {
            text.push_str(if i == 0 { "" } else { ", " });
            let value = value.as_deref().map_or_else(|| "NULL".to_owned(), quoted_text);
            let _ = if n == 0 { write!(text, "{value}::{ty}") } else { write!(text, "{value}") };
        }
        text.push(')');
    }
    let _ = write!(text, ") AS sluice_row({})", names.join(", "));
    text
}
