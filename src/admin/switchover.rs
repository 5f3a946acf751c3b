//! SWITCHOVER: another host of a shard becomes its primary, and clients only wait.
//!
//! The order is such that nothing acknowledged is lost: nothing new begins, the old primary takes no
//! writes any more, what runs ends, the new one has replayed all, then it is promoted. Until that last step
//! everything can be taken back. Where Patroni leads it does all of this but the waiting.

mod patroni;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::balance::positions::Lsn;
use crate::error::{PgError, sqlstate};
use crate::pool::ShardState;
use crate::pool::cluster::{Database, Host, Shard};
use crate::pool::control::ControlError;
use crate::proxy::Proxy;
use crate::shard::ShardId;

/// How long the promotion may take, and until the proxy has noticed it.
const PROMOTION: Duration = Duration::from_secs(8);
/// How often it is looked whether a step is done.
const LOOK: Duration = Duration::from_millis(20);
/// How long after one of its processes a server's others may hear of a new setting.
const TOLD: Duration = Duration::from_millis(100);

const READ_ONLY: &str = "ALTER SYSTEM SET default_transaction_read_only = on";
const WRITABLE: &str = "ALTER SYSTEM RESET default_transaction_read_only";
const RELOAD: &str = "SELECT pg_reload_conf()";
const IS_READ_ONLY: &str = "SHOW default_transaction_read_only";
const NOW: &str = "SELECT clock_timestamp()";
const POSITION: &str = "SELECT pg_current_wal_insert_lsn()";
const REPLAYED: &str = "SELECT pg_last_wal_replay_lsn()";

/// Nothing new begins on a shard's primary until this is dropped.
struct Paused<'a>(&'a ShardState);

impl<'a> Paused<'a> {
    fn new(state: &'a ShardState) -> Self {
        state.set_paused(true);
        Self(state)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.set_paused(false);
    }
}

/// Makes `to`, or the replica that is furthest, the primary. Gives what to tell.
pub(super) async fn switch(
    proxy: &Proxy,
    database: &Arc<Database>,
    id: ShardId,
    to: Option<&str>,
) -> Result<String, PgError> {
    let shard = super::command::shard(database, id)?;
    if !shard.is_open() {
        return Err(refused("the shard has no primary now, or is paused")
            .hint("SHOW SHARDS tells why; promote a replica by hand if the primary is lost"));
    }
    let written = database.config.shards.iter().find(|it| it.id == id);
    if let Some(written) = written.filter(|it| !it.patroni.is_empty()) {
        return patroni::switch(proxy, database, (shard, written), to).await;
    }
    let (old, new) = (&shard.primary, target(shard, to)?);
    // What is not allowed is found out before anything is done.
    may_promote(new).await?;
    let paused = Paused::new(&shard.state);
    let bound = database.config.failover_wait / 2;
    if let Err(error) = hand_over(old, new, bound).await {
        let undone = run(old, WRITABLE).await.is_ok() && run(old, RELOAD).await.is_ok();
        let what = match undone {
            true => "nothing has changed",
            false => {
                "the primary may still be read only: ALTER SYSTEM RESET default_transaction_read_only"
            }
        };
        return Err(refused(&format!("the primary was not changed, {what}")).detail(error));
    }
    promote(new).await?;
    shard.state.raise();
    until_noticed(proxy, database, new).await?;
    drop(paused);
    Ok(format!(
        "{} is the primary of shard {id}; {} is fenced and read only: stop it, or make it a replica",
        new.address, old.address
    ))
}

/// Lets the old primary come to rest and the new one catch up.
async fn hand_over(old: &Host, new: &Host, bound: Duration) -> Result<(), String> {
    run(old, READ_ONLY).await.map_err(told("the primary cannot be made read only"))?;
    run(old, RELOAD).await.map_err(told("the primary cannot be made read only"))?;
    until_read_only(old, bound).await?;
    come_to_rest(old, bound).await?;
    let last = run(old, POSITION).await.map_err(told("the primary does not answer"))?;
    let last = Lsn::parse(&last).ok_or("the primary does not say its position")?.end_of_records();
    let end = Instant::now() + bound;
    loop {
        let replayed = run(new, REPLAYED).await.map_err(told("the replica does not answer"))?;
        if Lsn::parse(&replayed).is_some_and(|it| it >= last) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("the replica has not replayed everything within {bound:?}"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the server's processes have been told: transactions that begin then do not write.
async fn until_read_only(old: &Host, bound: Duration) -> Result<(), String> {
    let end = Instant::now() + bound;
    while run(old, IS_READ_ONLY).await.map_err(told("the primary does not answer"))? != "on" {
        if Instant::now() > end {
            return Err("the primary does not take its new settings up".to_owned());
        }
        tokio::time::sleep(LOOK).await;
    }
    // All are told in one go, one after the other.
    tokio::time::sleep(TOLD).await;
    Ok(())
}

/// Waits for the end of all transactions that run there now.
async fn come_to_rest(old: &Host, bound: Duration) -> Result<(), String> {
    let since = run(old, NOW).await.map_err(told("the primary does not answer"))?;
    let older = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
         AND pid <> pg_backend_pid() AND xact_start < '{since}'"
    );
    let end = Instant::now() + bound;
    loop {
        let count = run(old, &older).await.map_err(told("the primary does not answer"))?;
        if count == "0" {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("{count} transactions did not end within {bound:?}"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn told(what: &'static str) -> impl FnOnce(ControlError) -> String {
    move |error| format!("{what}: {error}")
}

/// Whether the user may do there what is needed; a mark of an earlier switchover is taken away.
async fn may_promote(new: &Host) -> Result<(), PgError> {
    let sql = "SELECT has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE')";
    let denied = |why: String| {
        refused("the user of the shard's URL may not do what it takes").detail(why).hint(
            "let it be a superuser, or GRANT EXECUTE ON FUNCTION pg_promote, pg_reload_conf, \
             GRANT ALTER SYSTEM ON PARAMETER default_transaction_read_only and pg_read_all_stats to it; \
             or stop the primary and promote a replica by hand: clients wait up to failover_wait",
        )
    };
    match run(new, sql).await {
        Ok(may) if may == "t" => (),
        Ok(_) => return Err(denied("pg_promote() is not allowed".to_owned())),
        Err(error) => return Err(denied(error.to_string())),
    }
    run(new, WRITABLE).await.map_err(|error| denied(error.to_string()))?;
    run(new, RELOAD).await.map_err(|error| denied(error.to_string())).map(drop)
}

async fn promote(new: &Host) -> Result<(), PgError> {
    let done = run(new, &format!("SELECT pg_promote(true, {})", PROMOTION.as_secs())).await;
    match done {
        Ok(done) if done == "t" => Ok(()),
        Ok(_) => Err(unsure("it did not end in time".to_owned())),
        Err(error) => Err(unsure(error.to_string())),
    }
}

/// A promotion that was begun may yet come to its end: the old primary stays read only.
fn unsure(why: String) -> PgError {
    refused("the promotion has begun and its outcome is not known").detail(why).hint(
        "the old primary is read only: look at the new one's log; if it is no primary, \
         ALTER SYSTEM RESET default_transaction_read_only and pg_reload_conf() on the old one",
    )
}

/// Waits until the proxy's snapshot has the new primary.
async fn until_noticed(proxy: &Proxy, database: &Database, new: &Host) -> Result<(), PgError> {
    let end = Instant::now() + PROMOTION;
    loop {
        let now = primary_now(proxy, database, new.shard);
        if now.is_some_and(|it| it.address == new.address) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(unsure("the proxy does not see it as the primary yet".to_owned()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Who takes writes, by the newest snapshot.
fn primary_now(proxy: &Proxy, database: &Database, id: ShardId) -> Option<Arc<Host>> {
    let cluster = proxy.cluster.load();
    let shard = cluster.databases.get(&*database.name)?.shards.get(&id)?;
    shard.has_primary.then(|| Arc::clone(&shard.primary))
}

/// The replica that is named, or the one that is furthest.
fn target<'a>(shard: &'a Shard, to: Option<&str>) -> Result<&'a Arc<Host>, PgError> {
    let up = || shard.replicas.iter().filter(|it| it.health.is_up());
    let found = match to {
        Some(name) => up().find(|it| it.address.to_string() == name),
        None => up().max_by_key(|it| it.replayed.lsn()),
    };
    found.ok_or_else(|| {
        let names: Vec<String> = up().map(|it| it.address.to_string()).collect();
        let what =
            to.map_or("no replica is up".to_owned(), |it| format!("{it} is no replica that is up"));
        refused(&what).hint(format!("replicas that are up: {}", names.join(", ")))
    })
}

/// The only value that a statement gives.
async fn run(host: &Host, sql: &str) -> Result<String, ControlError> {
    let rows = host.control.rows(sql).await?;
    let value = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
    Ok(value.unwrap_or_default())
}

fn refused(message: &str) -> PgError {
    PgError::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("SWITCHOVER: {message}"))
}
