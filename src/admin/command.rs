//! The console's commands.

use std::sync::Arc;

use super::show::{SHOWS, Show};
use crate::error::{PgError, sqlstate};
use crate::pool::cluster::{Database, Shard};
use crate::proxy::Proxy;
use crate::shard::ShardId;

/// A command, read.
pub(super) enum Command {
    Show(&'static Show),
    Reload {
        force: bool,
    },
    Pause(Option<String>),
    Resume(Option<String>),
    /// Database, shard, and whether it is to be paused.
    PauseShard(String, ShardId, bool),
    /// Database, shard, and the new primary.
    Switchover(String, ShardId, Option<String>),
    Kill(i32),
}

impl Command {
    /// Reads a command without its semicolon.
    pub(super) fn parse(text: &str) -> Result<Self, PgError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let upper: Vec<String> = words.iter().map(|it| it.to_ascii_uppercase()).collect();
        let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
        let name = |at: usize| words.get(at).map(|it| it.trim_matches(['"', '\'']).to_owned());
        let number = |id: &str| {
            let detail = "SHARD takes the id of a shard: SHOW SHARDS";
            id.parse().map(ShardId).map_err(|_| unknown(text).detail(detail))
        };
        let named = |at: usize| name(at).unwrap_or_default();
        match upper.as_slice() {
            ["SHOW", what] => match SHOWS.iter().find(|it| it.name == *what) {
                Some(show) => Ok(Self::Show(show)),
                None => Err(unknown(text)),
            },
            ["RELOAD"] => Ok(Self::Reload { force: false }),
            ["RELOAD", "FORCE"] => Ok(Self::Reload { force: true }),
            ["PAUSE"] => Ok(Self::Pause(None)),
            ["PAUSE", _] => Ok(Self::Pause(name(1))),
            ["RESUME"] => Ok(Self::Resume(None)),
            ["RESUME", _] => Ok(Self::Resume(name(1))),
            ["PAUSE", _, "SHARD", id] => Ok(Self::PauseShard(named(1), number(id)?, true)),
            ["RESUME", _, "SHARD", id] => Ok(Self::PauseShard(named(1), number(id)?, false)),
            ["SWITCHOVER", _, "SHARD", id] => Ok(Self::Switchover(named(1), number(id)?, None)),
            ["SWITCHOVER", _, "SHARD", id, "TO", _] => {
                Ok(Self::Switchover(named(1), number(id)?, name(5)))
            }
            ["KILL", pid] => match pid.parse() {
                Ok(pid) => Ok(Self::Kill(pid)),
                Err(_) => Err(unknown(text).detail("KILL takes the pid of SHOW CLIENTS")),
            },
            _ => Err(unknown(text)),
        }
    }
}

fn unknown(text: &str) -> PgError {
    let shows: Vec<&str> = SHOWS.iter().map(|it| it.name).collect();
    PgError::new(sqlstate::SYNTAX_ERROR, format!("unknown admin command {text:?}")).hint(format!(
        "SHOW {}; RELOAD [FORCE]; PAUSE [database [SHARD id]]; RESUME [database [SHARD id]]; \
         SWITCHOVER database SHARD id [TO 'host:port']; KILL pid",
        shows.join("|")
    ))
}

/// The named database, or all.
pub(super) fn databases(proxy: &Proxy, name: Option<&str>) -> Result<Vec<Arc<Database>>, PgError> {
    let cluster = proxy.cluster.load();
    match name {
        None => Ok(cluster.databases.values().cloned().collect()),
        Some(name) => match cluster.databases.get(name) {
            Some(database) => Ok(vec![Arc::clone(database)]),
            None => Err(PgError::new(
                sqlstate::INVALID_CATALOG_NAME,
                format!("there is no database {name:?}"),
            )
            .hint("SHOW DATABASES lists them")),
        },
    }
}

/// A database's shard.
pub(super) fn shard(database: &Database, id: ShardId) -> Result<&Shard, PgError> {
    database.shards.get(&id).ok_or_else(|| {
        let what = format!("database {:?} has no shard {id}", database.name);
        PgError::new(sqlstate::UNDEFINED_OBJECT, what).hint("SHOW SHARDS lists them")
    })
}
