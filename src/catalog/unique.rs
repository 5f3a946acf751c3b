//! Keys that are unique over all shards although they do not hold the tenant column: which they are,
//! and what their values are called.
//!
//! A value is known by its text: that of the column, or of several columns each with its length before
//! it (`2:de4:acme`). The shard that owns the text's bucket keeps it with its tenant.

use std::fmt;
use std::str::FromStr;

use super::{Catalog, Table, TableKind};
use crate::shard::{Key, KeyType, Map, ShardId};

/// A key as the configuration declares it: `users(email)`, `crm.orgs(country, slug)`. Names are as in
/// `pg_catalog`: folded, unquoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GlobalKey {
    /// `public` if the text names none.
    pub schema: String,
    pub table: String,
    pub columns: Vec<String>,
}

impl FromStr for GlobalKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (table, rest) = text.trim().split_once('(').ok_or(())?;
        let columns = rest.strip_suffix(')').ok_or(())?;
        let (schema, table) = table.split_once('.').unwrap_or(("public", table));
        let columns: Vec<&str> = columns.split(',').collect();
        let name = |text: &str| {
            let text = text.trim();
            let is_part = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'$');
            let is_name = (1..=63).contains(&text.len()) && text.bytes().all(is_part);
            is_name.then(|| text.to_owned()).ok_or(())
        };
        let columns: Vec<String> = columns.into_iter().map(name).collect::<Result<_, _>>()?;
        let mut distinct = columns.clone();
        distinct.sort_unstable();
        distinct.dedup();
        match distinct.len() == columns.len() {
            true => Ok(Self { schema: name(schema)?, table: name(table)?, columns }),
            false => Err(()),
        }
    }
}

/// The name that shards know it by: `public.orgs(country,slug)`.
impl fmt::Display for GlobalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}({})", self.schema, self.table, self.columns.join(","))
    }
}

impl GlobalKey {
    /// Whether these columns are its own, in whatever order.
    pub fn is_of<'a>(&self, columns: impl IntoIterator<Item = &'a str>) -> bool {
        let mut given: Vec<&str> = columns.into_iter().collect();
        let mut own: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        given.sort_unstable();
        own.sort_unstable();
        given == own
    }

    /// Whether a sharded table has a unique key of just these columns, so that shards must keep it
    /// together.
    pub fn is_in_force(&self, catalog: &Catalog) -> bool {
        let name = (self.schema.clone(), self.table.clone());
        catalog.tables.get(&name).is_some_and(|it| {
            matches!(it.kind, TableKind::Sharded { .. })
                && it.unique_keys.iter().any(|key| self.is_key(it, key))
        })
    }

    /// Whether a table's unique key is this one.
    pub fn is_key(&self, table: &Table, key: &[usize]) -> bool {
        self.is_of(key.iter().map(|at| table.columns[*at].name.as_str()))
    }
}

/// The types that columns of such keys may have: those whose equal values have equal texts.
pub fn key_type(oid: u32) -> Option<KeyType> {
    KeyType::of_oid(oid)
}

/// The name of a value, of its columns' texts.
pub fn value_of(columns: &[&str]) -> String {
    match columns {
        [one] => (*one).to_owned(),
        all => all.iter().map(|it| format!("{}:{it}", it.chars().count())).collect(),
    }
}

/// The columns' texts of a value's name.
pub fn parts(value: &str, columns: usize) -> Vec<String> {
    if columns == 1 {
        return vec![value.to_owned()];
    }
    let (mut parts, mut rest) = (Vec::new(), value);
    while let Some((digits, after)) = rest.split_once(':') {
        let count = digits.parse().unwrap_or(0);
        let end = after.char_indices().nth(count).map_or(after.len(), |(at, _)| at);
        parts.push(after[..end].to_owned());
        rest = &after[end..];
    }
    parts
}

/// The shard that keeps a value.
pub fn owner(map: &Map, value: &str) -> ShardId {
    let bucket = Key::from_text(KeyType::Text, value).map_or(0, |it| it.bucket());
    map.bucket_owner(bucket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_is_written() {
        let shown = |text: &str| text.parse::<GlobalKey>().map(|it| it.to_string());
        assert_eq!(shown("users(email)").unwrap(), "public.users(email)");
        assert_eq!(shown(" crm.orgs ( country, slug )").unwrap(), "crm.orgs(country,slug)");
        for wrong in ["users", "users()", "users(a,a)", "users(lower(a))", "a.b.c(d)", "(a)"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_two_values_of_several_columns_are_alike() {
        assert_eq!(value_of(&["a@b"]), "a@b");
        assert_eq!(value_of(&["de", "acmé"]), "2:de4:acmé");
        assert_eq!(parts("2:de4:acmé", 2), ["de", "acmé"]);
        assert_eq!(parts("a:b", 1), ["a:b"]);
        assert_ne!(value_of(&["a1:b", ""]), value_of(&["a", "b0:"]));
    }
}
