//! UPDATE of the tenant column: rows that belong to another shard afterwards move there.

use super::gather::NOW;
use super::scatter::Insertion;
use crate::shard::{Map, ShardId};
use crate::sql::name::quoted_text;

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
        let stays = self.filter(&format!("coalesce({}, true)", self.owns(map, shard)));
        self.timed(format!("{} WHERE {stays} {}", self.head, self.tail), now)
    }

    /// A shard's DELETE of those that leave it; gives 0 (`int2`), the new values, the new key.
    pub fn delete_sql(&self, map: &Map, shard: ShardId, now: usize) -> String {
        let goes = self.filter(&format!("NOT coalesce({}, true)", self.owns(map, shard)));
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

    /// Whether the new key belongs to a shard, in SQL.
    fn owns(&self, map: &Map, shard: ShardId) -> String {
        let key = &self.key;
        let owned: Vec<String> = (0..=255_u8)
            .filter(|it| map.bucket_owner(*it) == shard)
            .map(|it| it.to_string())
            .collect();
        let owned = owned.join(",");
        let bucket = format!(
            "pg_catalog.get_byte(pg_catalog.decode(pg_catalog.md5(pg_catalog.convert_to({key}, 'UTF8')), 'hex'), 0)"
        );
        let by_bucket = format!("{bucket} = ANY ('{{{owned}}}'::int4[])");
        if map.overrides().is_empty() {
            return by_bucket;
        }
        let mut text = "CASE".to_owned();
        for (tenant, owner) in map.overrides() {
            let tenant = quoted_text(tenant);
            text.push_str(&format!(" WHEN {key} = {tenant} THEN {}", *owner == shard));
        }
        text.push_str(&format!(" ELSE {by_bucket} END"));
        text
    }
}
