//! Looks after hosts: are they up in their role, how far behind is a replica.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cluster::Host;

const CHECK: &str = "SELECT pg_is_in_recovery(), CASE WHEN pg_last_wal_receive_lsn() = \
    pg_last_wal_replay_lsn() THEN 0 ELSE coalesce((extract(epoch FROM clock_timestamp() - \
    pg_last_xact_replay_timestamp()) * 1000)::int8, -1) END";

/// Checks one host once.
pub async fn check(host: &Arc<Host>, timeout: Duration) {
    let outcome = match tokio::time::timeout(timeout, host.control.rows(CHECK)).await {
        Ok(Ok(rows)) => judge(host, rows.first().map(Vec::as_slice).unwrap_or_default()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    };
    let problem = outcome.as_ref().err().cloned();
    host.metrics.up.set(i64::from(outcome.is_ok()));
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

fn judge(host: &Host, row: &[Option<String>]) -> Result<(), String> {
    let cell = |i: usize| row.get(i).and_then(Option::as_deref).unwrap_or("");
    let lag = if host.is_primary { 0 } else { cell(1).parse().unwrap_or(-1) };
    host.health.lag_ms.store(lag, Ordering::Relaxed);
    match (cell(0), host.is_primary) {
        ("f", true) | ("t", false) => Ok(()),
        ("t", true) => Err("configured as primary, but in recovery".into()),
        ("f", false) => Err("configured as replica, but not in recovery".into()),
        _ => Err("the health check had no answer".into()),
    }
}
