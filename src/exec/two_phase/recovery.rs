//! Ends transactions that a proxy left prepared. Any proxy may do it, several at once, at any time.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{Gid, TABLE};
use crate::pool::cluster::{Database, Shard};
use crate::pool::control::ControlError;
use crate::pool::writes::{Mark, Open};
use crate::shard::ShardId;

/// A transaction that this proxy has seen prepared for longer is taken for abandoned, whatever the clocks
/// of servers say. If it is not, it is aborted, never torn: its coordinator finds the abort row when it
/// decides.
pub const GRACE: Duration = Duration::from_secs(3);

const PREPARED: &str = "SELECT gid FROM pg_prepared_xacts \
    WHERE database = current_database() AND gid LIKE 'sluice:1:%'";

/// How long decisions are kept after their transactions have ended.
const KEEP: &str = "1 day";

/// Makes the table of decisions on a shard, where it is missing.
///
/// # Errors
/// If the shard cannot be reached or the user may not create a schema.
pub async fn prepare_shard(shard: &Shard) -> Result<(), ControlError> {
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {TABLE} (gid text PRIMARY KEY, committed bool NOT NULL, \
         at timestamptz NOT NULL DEFAULT now()); \
         GRANT USAGE ON SCHEMA sluice TO PUBLIC; \
         GRANT SELECT, INSERT ON {TABLE} TO PUBLIC"
    );
    shard.primary.control.make(TABLE, &sql).await
}

/// Ends every abandoned transaction of a shard, as far as it can; how many were ended. What it cannot end
/// is noted in the database's `in_doubt`, and tried again at the next call.
///
/// # Errors
/// If the shard does not tell what is prepared there.
pub async fn recover(
    database: &Database,
    shard: &Shard,
    grace: Duration,
) -> Result<usize, ControlError> {
    let (doubts, metrics) = (&database.state.in_doubt, &database.state.metrics);
    let rows = shard.primary.control.rows(PREPARED).await?;
    let names: Vec<String> = rows.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
    let mut due = doubts.see(shard.id, names, Instant::now(), grace);
    // Those that can be ended are not to wait for a server that is lost.
    let decider = |name: &String| name.parse::<Gid>().ok().map(|it| it.deciding);
    let is_up = |id: &ShardId| database.shards.get(id).is_some_and(|it| it.primary.health.is_up());
    due.sort_by_key(|name| !decider(name).as_ref().is_some_and(is_up));
    let (mut ended, mut silent) = (0, HashSet::new());
    for name in &due {
        let Some(deciding) = decider(name).filter(|it| !silent.contains(it)) else { continue };
        match resolve(database, shard, deciding, name).await {
            Ok(()) => {
                doubts.ended(shard.id, name);
                ended += 1;
            }
            Err(Unresolved { error, is_decider }) => {
                silent.extend(is_decider.then_some(deciding));
                if doubts.failed(shard.id, name, error.0.clone()) {
                    tracing::warn!(gid = name, shard = shard.id.0, %error, "stays prepared");
                }
            }
        }
    }
    metrics.in_doubt.set(i64::try_from(doubts.all().len()).unwrap_or(i64::MAX));
    Ok(ended)
}

/// Why a transaction stays prepared; `is_decider`: the shard that knows what becomes of it does not tell.
struct Unresolved {
    error: ControlError,
    is_decider: bool,
}

async fn resolve(
    database: &Database,
    shard: &Shard,
    deciding: ShardId,
    name: &str,
) -> Result<(), Unresolved> {
    let unknown = |error| Unresolved { error, is_decider: true };
    let Ok(gid) = name.parse::<Gid>() else { return Ok(()) };
    let decider = database.shards.get(&deciding).ok_or_else(|| {
        unknown(ControlError(format!("shard {deciding} is not in the configuration")))
    })?;
    let committed = decision(decider, &gid).await.map_err(|error| {
        unknown(ControlError(format!("shard {deciding}, which decides, does not tell: {error}")))
    })?;
    let verb = if committed { "COMMIT" } else { "ROLLBACK" };
    tracing::info!(gid = name, shard = shard.id.0, verb, "ends an abandoned transaction");
    // Whose rows they are is not known: until it has ended, primaries serve all reads.
    let mut open = Open::default();
    if committed {
        open.begin(&database.state.writes, Mark::EVERYTHING);
    }
    let ended = end(shard, verb, name).await;
    open.end();
    ended.map_err(|error| Unresolved { error, is_decider: false })
}

/// Ends a participant, unless it has ended.
async fn end(shard: &Shard, verb: &str, name: &str) -> Result<(), ControlError> {
    match shard.primary.control.rows(&format!("{verb} PREPARED '{name}'")).await {
        // Another proxy was faster, or the answer of the first attempt was lost.
        Err(error) if error.0.contains("does not exist") => Ok(()),
        done => done.map(drop),
    }
}

/// Commits a transaction that was decided on these shards; gives those that did not do it.
pub async fn finish(database: &Database, gid: &Gid, shards: Vec<ShardId>) -> Vec<ShardId> {
    let mut left = Vec::new();
    for id in shards {
        let Some(shard) = database.shards.get(&id) else { continue };
        if let Err(error) = end(shard, "COMMIT", &gid.of(id)).await {
            tracing::debug!(%gid, shard = id.0, %error, "COMMIT PREPARED is tried again");
            left.push(id);
        }
    }
    left
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

/// By shard, the oldest transaction that was open when decisions were last forgotten.
pub type Horizon = HashMap<ShardId, u64>;

/// Drops decisions that nobody asks for any more: old by the server's clock, which may have jumped, made
/// before the last call, and of transactions that stand prepared nowhere.
///
/// # Errors
/// If a shard cannot be reached: what is prepared there may still need them.
pub async fn forget(database: &Database, horizon: &mut Horizon) -> Result<(), ControlError> {
    const OLDEST: &str = "SELECT txid_snapshot_xmin(txid_current_snapshot())";
    let (mut next, mut needed) = (Horizon::new(), HashSet::new());
    for shard in database.shards.values() {
        let rows = shard.primary.control.rows(OLDEST).await?;
        let oldest = rows.first().and_then(|row| row[0].as_deref()?.parse().ok());
        next.extend(oldest.map(|it| (shard.id, it)));
        let prepared = shard.primary.control.rows(PREPARED).await?;
        let names = prepared.into_iter().filter_map(|mut row| row.pop().flatten());
        needed.extend(names.filter_map(|it| Some(format!("'{}'", it.parse::<Gid>().ok()?))));
    }
    let needed: Vec<String> = needed.into_iter().collect();
    for (shard, before) in horizon.iter() {
        let Some(shard) = database.shards.get(shard) else { continue };
        let sql = format!(
            "DELETE FROM {TABLE} WHERE at < now() - interval '{KEEP}' \
             AND gid <> ALL (ARRAY[{}]::text[]) \
             AND txid_current() - ((txid_current() - xmin::text::bigint) & 4294967295) < {before}",
            needed.join(", ")
        );
        shard.primary.control.rows(&sql).await?;
    }
    *horizon = next;
    Ok(())
}
