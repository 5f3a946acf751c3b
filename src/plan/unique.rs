//! Keys that are unique over all shards: what a statement may do to them.

use std::fmt;

use super::KeySource;
use super::key::{self, Call, Found, Keys};
use crate::catalog::unique::{GlobalKey, value_of};
use crate::shard::{Key, KeyType};

/// Keys that a statement may change, so that their shards must hear of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique {
    /// Their names, in order.
    pub keys: Vec<String>,
    pub taken: Taken,
    /// The key to which that applies, of others 23505 is told; `None`: to all.
    pub arbiter: Option<String>,
    /// Whether ON CONFLICT names its key, so that rows are checked for others only after it.
    pub is_named: bool,
    /// Whether it has RETURNING.
    pub returns: bool,
}

/// What happens if a row of another shard has the value that a row is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The statement fails: 23505.
    Fails,
    /// ON CONFLICT would look at that row: refused.
    Refused,
    /// ON CONFLICT DO NOTHING of one row: it is not inserted.
    Skips,
}

impl fmt::Display for Unique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unique over all shards: {}", self.keys.join(", "))?;
        f.write_str(match self.taken {
            Taken::Fails => "",
            Taken::Refused => "; refused if taken elsewhere",
            Taken::Skips => "; nothing if taken elsewhere",
        })
    }
}

/// A statement about rows of the tenant that has one value of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    pub key: GlobalKey,
    /// The value, by the key's columns.
    pub values: Vec<KeySource>,
    /// The tenant column's type.
    pub tenant: KeyType,
}

/// The value that one execution asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// Its columns' values, and what it is called.
    Value(Keys, String),
    /// A column is compared with NULL: no row is meant.
    Nothing,
    /// It cannot be told.
    Unknown,
}

impl Lookup {
    /// The value that a call asks for.
    pub fn sought(&self, call: &Call<'_>) -> Sought {
        let mut keys = Keys::new();
        for source in &self.values {
            match key::read(source, call, &mut keys) {
                Ok(Found::Keys) => (),
                Ok(Found::Null) => return Sought::Nothing,
                Ok(Found::Unreadable | Found::Replan) | Err(_) => return Sought::Unknown,
            }
        }
        if keys.len() != self.key.columns.len() {
            return Sought::Unknown;
        }
        let texts: Vec<&str> = keys.iter().map(Key::as_str).collect();
        let name = value_of(&texts);
        Sought::Value(keys, name)
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.values.iter().map(ToString::to_string).collect();
        write!(f, "Or the shard of the tenant that has {} = {}", self.key, values.join(", "))
    }
}
