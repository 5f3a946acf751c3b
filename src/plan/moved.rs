//! UPDATE of the tenant column: rows that belong to another shard afterwards move there.

use super::gather::{NOW, owned};
use super::scatter::Insertion;
use crate::shard::{Map, ShardId};

/// Each shard updates the rows that stay and deletes those that go, which are then inserted where they
/// belong.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// The UPDATE up to its WHERE.
    pub head: String,
    /// The condition of its WHERE.
    pub filter: Option<String>,
    /// RETURNING.
    pub tail: String,
    /// The table as DELETE names it, with its alias.
    pub target: String,
    /// The new row's values, by columns.
    pub values: Vec<String>,
    /// The new key as `text`.
    pub key: String,
    /// Whether [`NOW`] occurs.
    pub asks_time: bool,
    /// The table's name for a look-up (`regclass`).
    pub table: String,
    pub insertion: Insertion,
}

impl Move {
    /// A shard's UPDATE of the rows that stay on it. `now` is the number of the parameter for [`NOW`].
    pub fn update_sql(&self, map: &Map, shard: ShardId, now: usize) -> String {
        let stays = self.filter(&format!("coalesce({}, true)", owned(map, shard, &self.key)));
        self.timed(format!("{} WHERE {stays} {}", self.head, self.tail), now)
    }

    /// A shard's DELETE of those that leave it; gives 0 (`int2`), the new values, the new key.
    pub fn delete_sql(&self, map: &Map, shard: ShardId, now: usize) -> String {
        let goes = self.filter(&format!("NOT coalesce({}, true)", owned(map, shard, &self.key)));
        let (target, values, key) = (&self.target, self.values.join(", "), &self.key);
        let sql = format!("DELETE FROM {target} WHERE {goes} RETURNING 0::int2, {values}, {key}");
        self.timed(sql, now)
    }

    fn filter(&self, own: &str) -> String {
        match &self.filter {
            Some(filter) => format!("({filter}\n) AND {own}"),
            None => own.to_owned(),
        }
    }

    fn timed(&self, sql: String, now: usize) -> String {
        match self.asks_time {
            true => sql.replace(NOW, &format!("(${now}::pg_catalog.timestamptz)")),
            false => sql,
        }
    }
}
