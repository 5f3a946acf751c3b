//! Looks after hosts: are they up in their role, how far behind is a replica.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cluster::{Host, Shard};
use super::replay::Log;
use crate::balance;
use crate::balance::positions::Lsn;
use crate::net::Moment;

const CHECK: &str = "SELECT pg_catalog.pg_is_in_recovery(), CASE WHEN pg_catalog.pg_is_in_recovery() \
    THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END";

/// Checks one host once.
pub async fn check(host: &Arc<Host>, log: &Log, timeout: Duration) {
    // A primary that can be reached anew is needed at once.
    let is_renewed = host.is_primary && host.standing.is_broken();
    if is_renewed {
        host.control.close_idle();
    }
    let before = log.before();
    let outcome = match tokio::time::timeout(timeout, host.control.rows(CHECK)).await {
        Ok(Ok(rows)) => {
            judge(host, log, before, rows.first().map(Vec::as_slice).unwrap_or_default())
        }
        // It answers, if only that it is full.
        Ok(Err(_)) | Err(_) if host.control.is_turned_away() => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    };
    let problem = outcome.as_ref().err().cloned();
    host.metrics.up.set(i64::from(outcome.is_ok()));
    let is_back = outcome.is_ok() && (is_renewed || !host.health.is_up());
    if is_back {
        host.standing.recovered(Moment::now());
    }
    if host.health.note(outcome) {
        let (database, shard, role) = (&host.database, host.shard.0, host.role());
        let address = host.address.to_string();
        match problem {
            None => tracing::info!(database, shard, role, address, "host is up"),
            Some(problem) => {
                tracing::warn!(database, shard, role, address, problem, "host is down");
            }
        }
    }
}

/// Compares the replicas of a shard by what they did since the last look: one that is far from the others
/// rests. `factor` says how far that is.
pub fn compare(shard: &Shard, factor: u32) {
    let now = Moment::now();
    let look = |it: &Arc<Host>| {
        let calls = it.pools().iter().map(|it| it.numbers.leases.load(Ordering::Relaxed)).sum();
        it.standing.look(now, calls, it.health.is_up())
    };
    look(&shard.primary);
    let samples: Vec<balance::Sample> = shard.replicas.iter().map(look).collect();
    let outlier = balance::outlier(&samples, factor);
    for (at, host) in shard.replicas.iter().enumerate() {
        let Some(rest) = host.standing.compare(now, outlier == Some(at)) else { continue };
        let (database, shard, address) = (&host.database, host.shard.0, host.address.to_string());
        let (latency, failures) = (samples[at].latency, samples[at].failures);
        tracing::warn!(
            database,
            shard,
            address,
            ?rest,
            latency,
            failures,
            "the replica rests: it is far from the others"
        );
    }
}

fn judge(host: &Host, log: &Log, before: u64, row: &[Option<String>]) -> Result<(), String> {
    let cell = |i: usize| row.get(i).and_then(Option::as_deref).unwrap_or("");
    match (cell(0), host.is_primary) {
        ("f", true) | ("t", false) => {
            if let Some(lsn) = Lsn::parse(cell(1)) {
                log.note(host, lsn, before);
            }
            Ok(())
        }
        ("t", true) => Err("configured as primary, but in recovery".into()),
        ("f", false) => Err("configured as replica, but not in recovery".into()),
        _ => Err("the health check had no answer".into()),
    }
}
