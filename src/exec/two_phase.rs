//! Two-phase commit over several shards, where the decision is a row in Postgres.
//!
//! All participants but the last prepare; the last commits together with a row in
//! `sluice.decision`. That commit is the decision: whoever finds a prepared transaction of ours asks
//! its deciding shard, where a missing row means that it never committed and, once an abort row
//! stands in its place, never can.

pub mod recovery;

use std::fmt;
use std::str::FromStr;

use crate::error::{PgError, sqlstate};
use crate::exec::Member;
use crate::server::Server;
use crate::shard::ShardId;
use crate::wire::pipeline::{Action, TxStatus};

/// The table of decisions, on every shard; made by [`recovery::prepare_shard`].
pub const TABLE: &str = "sluice.decision";

/// The name of a transaction over shards: `sluice:1:<deciding shard>:<32 hex digits>`; a participant
/// prepares under that name with its own shard at the end, as two shards may share a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gid {
    pub deciding: ShardId,
    pub number: u128,
}

impl Gid {
    /// A participant's name.
    pub fn of(&self, shard: ShardId) -> String {
        format!("{self}:{shard}")
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sluice:1:{}:{:032x}", self.deciding, self.number)
    }
}

impl FromStr for Gid {
    type Err = ();

    /// Reads a participant's name.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.strip_prefix("sluice:1:").ok_or(())?.split(':');
        let deciding = parts.next().and_then(|it| it.parse().ok()).ok_or(())?;
        let number = parts.next().and_then(|it| u128::from_str_radix(it, 16).ok()).ok_or(())?;
        Ok(Self { deciding: ShardId(deciding), number })
    }
}

/// How a commit over shards ended.
#[derive(Debug)]
pub enum Outcome {
    /// On these shards it stands prepared still, unless it was only the answer that was lost.
    Committed { left: Vec<ShardId> },
    /// Rolled back everywhere, for this reason.
    Aborted(PgError),
    /// The deciding server was lost during its commit; recovery will find out.
    Unknown(PgError),
}

/// Commits members, all of which are in a transaction and wrote. On return none is in a transaction.
///
/// Not cancel safe, and it need not be: what is left prepared, recovery ends.
pub async fn commit(members: &mut [&mut Member], gid: &Gid) -> Outcome {
    let ready = make_ready(members).await;
    let Some((last, others)) = members.split_last_mut() else {
        return Outcome::Committed { left: Vec::new() };
    };
    let prepared = match ready {
        Ok(()) => prepare(others, gid).await,
        Err(error) => Err(error),
    };
    if let Err(error) = prepared {
        roll_back(others, gid).await;
        let _ = ended(last, "ROLLBACK").await;
        return Outcome::Aborted(error);
    }
    match decide(last.server(), gid).await {
        Decision::Committed => {
            last.in_tx = false;
            Outcome::Committed { left: commit_prepared(others, gid).await }
        }
        Decision::Aborted(error) => {
            let _ = ended(last, "ROLLBACK").await;
            roll_back(others, gid).await;
            Outcome::Aborted(error)
        }
        Decision::Unknown(error) => {
            others.iter_mut().for_each(|it| it.in_tx = false);
            Outcome::Unknown(unknown(&error, gid))
        }
    }
}

/// Checks that no member has failed, and lets the connection's own user own what will be prepared, as
/// only the owner may end it.
async fn make_ready(members: &mut [&mut Member]) -> Result<(), PgError> {
    for member in members.iter_mut() {
        let server = member.server();
        if server.is_broken() {
            return Err(server.loss());
        }
        if server.tx() == TxStatus::Failed {
            return Err(PgError::new(
                sqlstate::IN_FAILED_SQL_TRANSACTION,
                format!("the transaction has failed on shard {}", member.shard),
            ));
        }
        let is_other = |name| server.settings.contains_key(name);
        if is_other("role") || is_other("session_authorization") {
            server.run("RESET ROLE; RESET SESSION AUTHORIZATION").await?;
            let settings = std::sync::Arc::make_mut(&mut server.settings);
            settings.retain(|name, _| name != "role" && name != "session_authorization");
        }
    }
    Ok(())
}

enum Decision {
    Committed,
    Aborted(PgError),
    Unknown(PgError),
}

async fn prepare(members: &mut [&mut Member], gid: &Gid) -> Result<(), PgError> {
    for member in members.iter_mut() {
        let sql = format!("PREPARE TRANSACTION '{}'", gid.of(member.shard));
        member.server().push_query(&sql, Action::Skip);
        if let Err(error) = member.server().flush().await {
            tracing::debug!(%error, "PREPARE could not be sent");
        }
    }
    let mut failed = None;
    for member in members.iter_mut() {
        match member.server().finish().await {
            // PREPARE of a failed transaction answers ROLLBACK without an error.
            Ok(()) => member.in_tx = false,
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn decide(server: &mut Server, gid: &Gid) -> Decision {
    let insert = format!("INSERT INTO {TABLE} (gid, committed) VALUES ('{gid}', true)");
    if let Err(error) = server.run(&insert).await {
        // Whatever happened to the row, the transaction around it did not commit.
        return Decision::Aborted(error);
    }
    match server.run("COMMIT").await {
        Ok(()) => Decision::Committed,
        Err(error) if server.is_broken() => Decision::Unknown(error),
        Err(error) => Decision::Aborted(error),
    }
}

/// Gives the shards that did not say that they have done it.
async fn commit_prepared(members: &mut [&mut Member], gid: &Gid) -> Vec<ShardId> {
    for member in members.iter_mut() {
        let sql = format!("COMMIT PREPARED '{}'", gid.of(member.shard));
        member.server().push_query(&sql, Action::Skip);
        let _ = member.server().flush().await;
    }
    let mut left = Vec::new();
    for member in members.iter_mut() {
        if let Err(error) = member.server().finish().await {
            tracing::info!(%gid, shard = member.shard.0, %error, "COMMIT PREPARED was not answered");
            member.server().set_broken();
            left.push(member.shard);
        }
    }
    left
}

async fn roll_back(members: &mut [&mut Member], gid: &Gid) {
    for member in members.iter_mut() {
        let sql = match member.in_tx {
            true => "ROLLBACK".to_owned(),
            false => format!("ROLLBACK PREPARED '{}'", gid.of(member.shard)),
        };
        if let Err(error) = ended(member, &sql).await {
            tracing::debug!(%gid, %error, "a rollback is left to recovery");
        }
    }
}

/// Ends a member's transaction; a server that fails at it is not used again.
async fn ended(member: &mut Member, sql: &str) -> Result<(), PgError> {
    member.in_tx = false;
    let done = member.server().run(sql).await;
    if done.is_err() && member.server().tx() != TxStatus::Idle {
        member.server().set_broken();
    }
    done
}

fn unknown(error: &PgError, gid: &Gid) -> PgError {
    PgError::new(
        sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
        "the deciding server was lost during COMMIT: the transaction may or may not have happened",
    )
    .detail(error.message.clone())
    .hint(format!(
        "it is whole on all shards or on none; SELECT committed FROM {TABLE} WHERE gid = '{gid}' on \
         shard {} tells which",
        gid.deciding
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gids_round_trip() {
        let gid = Gid { deciding: ShardId(3), number: 0xabc };
        let name = gid.of(ShardId(1));
        assert_eq!(name, "sluice:1:3:00000000000000000000000000000abc:1");
        assert_eq!(name.parse::<Gid>().unwrap(), gid);
        assert!("other:1:3:abc".parse::<Gid>().is_err());
    }
}
