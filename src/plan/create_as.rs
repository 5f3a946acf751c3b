//! CREATE TABLE AS over several shards: the table is made on every shard, its rows are computed once and
//! then go where they belong.

use std::fmt::{self, Display, Formatter};

use super::gather::Gather;
use super::scatter::Insertion;
use crate::shard::KeyType;
use crate::sql::name::quoted;

/// A table that is made of a query's rows.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateAs {
    /// The CREATE TABLE … AS … WITH NO DATA, without IF NOT EXISTS.
    pub create: String,
    /// The table, as SQL writes it.
    pub table: String,
    /// Whether it is made in the first schema of `search_path`.
    pub is_unqualified: bool,
    /// Whether a table of that name is left as it is.
    pub if_not_exists: bool,
    /// Whether it is the session's own, on the home shard alone.
    pub is_temporary: bool,
    /// The rows.
    pub source: Gather,
}

impl CreateAs {
    /// The rows with their tenants' keys, as [`super::scatter::Scatter::source`] gives them, and their INSERT: the
    /// key is the column at `key` (0-based) of the table's `columns`, which is of that type.
    pub fn scattered(
        &self,
        columns: &[String],
        (key, kind, type_name): (usize, KeyType, &str),
        first: usize,
    ) -> (String, Insertion) {
        let names: Vec<String> = (1..=columns.len()).map(|n| format!("c{n}")).collect();
        let names = names.join(", ");
        let sql = format!(
            "SELECT 0::int2, s.*, s.c{}::{type_name}::text FROM (\n{}\n) AS s({names})",
            key + 1,
            self.source.final_sql(first)
        );
        let list: Vec<String> = columns.iter().map(|it| quoted(it)).collect();
        let insertion = Insertion {
            width: columns.len(),
            key: kind,
            before: format!("INSERT INTO {} ({})", self.table, list.join(", ")),
            after: String::new(),
            asks_time: false,
            is_ordered: false,
        };
        (sql, insertion)
    }

    /// The INSERT of the rows into a table of the home shard.
    pub fn home_sql(&self, first: usize) -> String {
        format!("INSERT INTO {} {}", self.table, self.source.final_sql(first))
    }
}

impl Display for CreateAs {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.create)
    }
}
