//! Looks after hosts: are they up in their role, how far behind is a replica.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cluster::{Cluster, Host, Shard};
use super::control::LookError;
use super::patroni::Asker;
use super::replay::Log;
use crate::balance;
use crate::balance::positions::Lsn;
use crate::balance::roles::{Said, Sight};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::net::Moment;

const CHECK: &str = "SELECT pg_catalog.pg_is_in_recovery(), CASE WHEN pg_catalog.pg_is_in_recovery() \
    THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END";

/// What a host is. Not every user may ask for all of it.
const IDENTITY: &str = "SELECT pg_is_in_recovery(), \
    (SELECT system_identifier FROM pg_control_system()), \
    CASE WHEN pg_is_in_recovery() THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()), \
    (SELECT min_recovery_end_timeline FROM pg_control_recovery())) \
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END, \
    (SELECT received_tli FROM pg_stat_wal_receiver)";
const RECOVERY: &str = "SELECT pg_is_in_recovery(), NULL, NULL, NULL";

/// Why a host says nothing.
struct Silence {
    is_down: bool,
    /// Whether nothing came at all, not even a refusal by the server.
    is_mute: bool,
    why: String,
}

/// What a host says of itself now.
async fn look(host: &Host, timeout: Duration) -> Result<Said, Silence> {
    let look = async {
        match host.control.look(IDENTITY).await {
            Err(LookError::Denied(_)) => host.control.look(RECOVERY).await,
            other => other,
        }
    };
    match tokio::time::timeout(timeout, look).await {
        Ok(Ok(rows)) => Ok(said(rows.first().map(Vec::as_slice).unwrap_or_default())),
        Ok(Err(LookError::Down(why))) => Err(Silence { is_down: true, is_mute: true, why }),
        Ok(Err(error)) => Err(Silence { is_down: false, is_mute: false, why: error.to_string() }),
        Err(_) => {
            let why = format!("no answer within {timeout:?}");
            Err(Silence { is_down: false, is_mute: true, why })
        }
    }
}

fn said(row: &[Option<String>]) -> Said {
    let cell = |at: usize| row.get(at).and_then(Option::as_deref);
    Said {
        in_recovery: cell(0) != Some("f"),
        system: cell(1).and_then(|it| it.parse().ok()),
        timeline: cell(2).and_then(|it| it.parse().ok()),
        follows: cell(3).and_then(|it| it.parse().ok()),
    }
}

/// Checks one host once. Gives what it says of itself.
pub async fn check(host: &Arc<Host>, log: &Log, timeout: Duration) -> Sight {
    // A primary that can be reached anew is needed at once.
    let is_renewed = host.is_primary && host.standing.is_broken();
    if is_renewed {
        host.control.close_idle();
    }
    let looked = look(host, timeout).await;
    match &looked {
        Ok(said) if said.in_recovery => host.replayed.reach(said.timeline.max(said.follows)),
        Ok(said) => log.write_line(host, said.timeline),
        Err(silence) if silence.is_down => host.replayed.forget(),
        Err(_) => (),
    }
    let outcome = match &looked {
        Ok(_) => measure(host, log, timeout).await,
        // It answers, if only that it is full.
        Err(_) if host.control.is_turned_away() => Ok(()),
        Err(silence) => Err(silence.why.clone()),
    };
    note(host, outcome, is_renewed);
    host.health.note_mute(matches!(looked, Err(Silence { is_mute: true, .. })));
    match looked {
        Ok(said) => Sight::Said(said),
        Err(Silence { is_down, .. }) => Sight::Silent { is_down },
    }
}

/// Whether a host is what it is configured as, and how far behind.
async fn measure(host: &Host, log: &Log, timeout: Duration) -> Result<(), String> {
    let before = log.before();
    match tokio::time::timeout(timeout, host.control.rows(CHECK)).await {
        Ok(Ok(rows)) => {
            judge(host, log, before, rows.first().map(Vec::as_slice).unwrap_or_default())
        }
        // It answers, if only that it is full.
        Ok(Err(_)) | Err(_) if host.control.is_turned_away() => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

fn note(host: &Host, outcome: Result<(), String>, is_renewed: bool) {
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
        ("t", true) => Err("in recovery, so that it takes no writes".into()),
        ("f", false) => Err("not in recovery, so that it is no replica".into()),
        _ => Err("the health check had no answer".into()),
    }
}

/// The snapshot of a configuration in whose shards every host was looked at once, and Patroni asked.
pub async fn settled(config: Arc<Config>, metrics: &Metrics, timeout: Duration) -> Cluster {
    let cluster = Cluster::new(Arc::clone(&config), None, metrics);
    for database in cluster.databases.values() {
        for written in database.config.shards.iter().filter(|it| !it.patroni.is_empty()) {
            let said = Asker::default().ask(written, timeout).await;
            if let Some(shard) = database.shards.get(&written.id) {
                shard.state.note_topology(&said, written.patroni_members);
            }
        }
    }
    // With the members that have joined.
    let cluster = Cluster::new(Arc::clone(&config), Some(&cluster), metrics);
    let shards = cluster.databases.values().flat_map(|it| it.shards.values());
    for shard in shards.filter(|it| !it.has_primary || it.hosts().nth(1).is_some()) {
        for host in shard.hosts() {
            let sight = check(host, &shard.log, timeout).await;
            shard.state.note(&host.address, sight, 0);
        }
    }
    Cluster::new(config, Some(&cluster), metrics)
}
