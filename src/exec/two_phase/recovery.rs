//! Ends transactions that a proxy left prepared. Any proxy may do it, several at once, at any time.

use std::time::Duration;

use super::{Gid, TABLE};
use crate::pool::cluster::{Database, Shard};
use crate::pool::control::ControlError;

/// A transaction prepared for longer than this is taken for abandoned. If it is not, it is aborted,
/// never torn: its coordinator finds the abort row when it decides.
pub const GRACE: Duration = Duration::from_secs(3);

/// How long decisions are kept after their transactions have ended.
const KEEP: &str = "1 day";

/// Makes the table of decisions on a shard, where it is missing.
///
/// # Errors
/// If the shard cannot be reached or the user may not create a schema.
pub async fn prepare_shard(shard: &Shard) -> Result<(), ControlError> {
    let control = &shard.primary.control;
    let there = control.rows("SELECT to_regclass('sluice.decision') IS NOT NULL").await?;
    if there.first().and_then(|row| row[0].as_deref()) == Some("t") {
        return Ok(());
    }
    let sql = format!(
        "SELECT pg_advisory_xact_lock(hashtext('sluice.decision')); \
         CREATE SCHEMA IF NOT EXISTS sluice; \
         CREATE TABLE IF NOT EXISTS {TABLE} (gid text PRIMARY KEY, committed bool NOT NULL, \
         at timestamptz NOT NULL DEFAULT now()); \
         GRANT USAGE ON SCHEMA sluice TO PUBLIC; \
         GRANT SELECT, INSERT ON {TABLE} TO PUBLIC"
    );
    // One string is one transaction: the lock ends with it.
    control.rows(&sql).await.map(drop)
}

/// Ends every abandoned transaction of a database; how many were ended.
///
/// # Errors
/// The first failure; the rest is tried again at the next call.
pub async fn recover(database: &Database, grace: Duration) -> Result<usize, ControlError> {
    let mut ended = 0;
    for shard in database.shards.values() {
        let sql = format!(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() \
             AND gid LIKE 'sluice:1:%' AND prepared < now() - interval '{} milliseconds'",
            grace.as_millis()
        );
        let Ok(rows) = shard.primary.control.rows(&sql).await else { continue };
        for name in rows.into_iter().filter_map(|mut row| row.pop().flatten()) {
            let Ok(gid) = name.parse::<Gid>() else { continue };
            resolve(database, shard, &gid, &name).await?;
            ended += 1;
        }
    }
    Ok(ended)
}

async fn resolve(
    database: &Database,
    shard: &Shard,
    gid: &Gid,
    name: &str,
) -> Result<(), ControlError> {
    let deciding = database.shards.get(&gid.deciding).ok_or_else(|| {
        ControlError(format!("{name}: shard {} is not in the configuration", gid.deciding))
    })?;
    let committed = decision(deciding, gid).await?;
    let verb = if committed { "COMMIT" } else { "ROLLBACK" };
    tracing::info!(gid = name, shard = shard.id.0, verb, "ends an abandoned transaction");
    match shard.primary.control.rows(&format!("{verb} PREPARED '{name}'")).await {
        // Another proxy was faster.
        Err(error) if error.0.contains("does not exist") => Ok(()),
        done => done.map(drop),
    }
}

/// Whether the transaction was committed; if it was not, it never can be from now on.
async fn decision(deciding: &Shard, gid: &Gid) -> Result<bool, ControlError> {
    let sql = format!(
        "INSERT INTO {TABLE} (gid, committed) VALUES ('{gid}', false) ON CONFLICT DO NOTHING; \
         SELECT committed FROM {TABLE} WHERE gid = '{gid}'"
    );
    let rows = deciding.primary.control.rows(&sql).await?;
    match rows.first().and_then(|row| row[0].as_deref()) {
        Some("t") => Ok(true),
        Some("f") => Ok(false),
        _ => Err(ControlError(format!("{gid}: no decision could be read"))),
    }
}

/// Drops old decisions, if nothing of ours is prepared anywhere.
///
/// # Errors
/// If a shard cannot be reached: what is prepared there may still need them.
pub async fn forget(database: &Database) -> Result<(), ControlError> {
    let prepared = "SELECT 1 FROM pg_prepared_xacts WHERE gid LIKE 'sluice:1:%'";
    for shard in database.shards.values() {
        if !shard.primary.control.rows(prepared).await?.is_empty() {
            return Ok(());
        }
    }
    for shard in database.shards.values() {
        let sql = format!("DELETE FROM {TABLE} WHERE at < now() - interval '{KEEP}'");
        shard.primary.control.rows(&sql).await?;
    }
    Ok(())
}
