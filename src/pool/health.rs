//! Looks after hosts: are they up in their role, how far behind is a replica.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::Host;
use super::replay::Log;
use crate::balance::positions::Lsn;

const CHECK: &str = "SELECT pg_catalog.pg_is_in_recovery(), CASE WHEN pg_catalog.pg_is_in_recovery() \
    THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END";

/// Checks one host once.
pub async fn check(host: &Arc<Host>, log: &Log, timeout: Duration) {
    let before = log.before();
    let outcome = match tokio::time::timeout(timeout, host.control.rows(CHECK)).await {
        Ok(Ok(rows)) => {
            judge(host, log, before, rows.first().map(Vec::as_slice).unwrap_or_default())
        }
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
