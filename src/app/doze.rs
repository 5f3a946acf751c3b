//! Puts databases to sleep in which nobody works: where that is wished (`idle = "sleep"`), and where so many proxies
//! share a server that their own connections are in the way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::exec::two_phase::recovery;
use crate::pool::cluster::Database;
use crate::pool::sleep::{Idleness, is_busy, leave};
use crate::proxy::Proxy;

/// How often databases are looked at.
const TICK: Duration = Duration::from_millis(250);
/// After so long without work a proxy leaves a crowded server. Its part of the connections it has given back before.
const IN_CROWD: Duration = Duration::from_secs(20);
/// How long it stays away at least, and twice that at most, before it looks whether others are still there.
const AWAY: Duration = Duration::from_secs(120);

pub(super) async fn doze(proxy: Arc<Proxy>) {
    let mut seen: HashMap<String, Idleness> = HashMap::new();
    let mut returns: HashMap<String, Instant> = HashMap::new();
    loop {
        let cluster = proxy.cluster.load_full();
        seen.retain(|name, _| cluster.databases.contains_key(name));
        returns.retain(|name, _| cluster.databases.contains_key(name));
        for (name, database) in &cluster.databases {
            let sleep = &database.state.sleep;
            let in_crowd = sleep.is_spare().then_some(IN_CROWD);
            let wished = database.config.sleeps_after.into_iter().chain(in_crowd).min();
            let Some(after) = wished else {
                sleep.end();
                continue;
            };
            if sleep.is_asleep() {
                seen.remove(name);
                if sleep.is_waking() {
                    continue;
                }
                // What a login, or a task that was under way, has opened.
                leave(database);
                let comes_back = || Instant::now() + AWAY.mul_f64(1.0 + chance());
                let at = *returns.entry(name.clone()).or_insert_with(comes_back);
                if database.config.sleeps_after.is_none() && at <= Instant::now() {
                    let (proxy, name) = (Arc::clone(&proxy), name.clone());
                    tokio::spawn(async move { proxy.wake_database(&name).await });
                }
                continue;
            }
            returns.remove(name);
            let statements = database.state.metrics.queries.get();
            let idleness = seen.entry(name.clone()).or_default();
            let idle = idleness.look(statements, is_busy(database), Instant::now());
            if idle >= after && has_nothing_prepared(database).await {
                fall_asleep(database, statements);
            }
        }
        drop(cluster);
        tokio::time::sleep(TICK).await;
    }
}

/// From 0 to 1: proxies that left together do not come back together.
fn chance() -> f64 {
    let mut byte = [0];
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / 256.0
}

fn fall_asleep(database: &Database, statements: u64) {
    let sleep = &database.state.sleep;
    sleep.begin();
    // Somebody may have come in the meantime.
    if database.state.metrics.queries.get() != statements || is_busy(database) {
        sleep.end();
        return;
    }
    leave(database);
    tracing::info!(database = database.config.name, "asleep until the next statement");
}

/// Whether no transaction over shards waits for its end; who sleeps does not recover any.
async fn has_nothing_prepared(database: &Database) -> bool {
    if database.shards.len() < 2 {
        return true;
    }
    for shard in database.shards.values() {
        if recovery::recover(database, shard, recovery::GRACE).await.is_err() {
            return false;
        }
    }
    database.state.in_doubt.all().is_empty()
}
