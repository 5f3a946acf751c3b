//! The control plane's tasks: health, schemas, recovery, pools, signals.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::exec::deadlock;
use crate::exec::two_phase::recovery;
use crate::metrics::http::Page;
use crate::pool::cluster::{Cluster, Database, Host};
use crate::pool::replay::{self, Log};
use crate::pool::{self, ShardState, catalog, health, patroni};
use crate::proxy::{Handle, Proxy};
use crate::shard::ShardId;

/// How often prepared transactions that nobody ends are looked for.
const RECOVERY: Duration = Duration::from_secs(1);
/// How often old decisions are dropped.
const FORGET: Duration = Duration::from_secs(3600);
/// How often deadlocks over several shards are looked for, while a client waits that may be in one.
const DEADLOCKS: Duration = Duration::from_millis(500);
/// The control plane's connections beyond those that are used all the time are closed after this.
const UNUSED: Duration = Duration::from_secs(5);
/// How often a database is looked for that a reload has brought.
const NEWCOMERS: Duration = Duration::from_millis(500);
/// How often hosts are looked at while their shard has no primary.
const URGENT: Duration = Duration::from_millis(150);
/// Between two looks at a host, however often it seems to be lost.
const SHORTEST: Duration = Duration::from_millis(50);

/// After so many checks without an answer, what runs on a replica is run elsewhere.
const MUTE: u32 = 2;

/// Signals that end the proxy.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Handlers are in place from now on.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for SIGTERM or Ctrl-C.
    pub(super) async fn until_end(&mut self, _: &Proxy) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT"),
        }
    }
}

/// The HTTP pages.
pub(super) fn page(proxy: &Proxy, path: &str) -> Option<Page> {
    match path {
        "/metrics" => {
            proxy.count_evictions();
            Some(Ok(proxy.metrics.text()))
        }
        "/live" => Some(Ok("live\n".into())),
        "/ready" => Some(proxy.ready()),
        _ => None,
    }
}

/// Waits a little for the first health checks, the schemas and recovery, so that the first clients
/// find everything in place. Servers that are down do not hold it up for long.
pub(super) async fn first_look(proxy: &Arc<Proxy>) {
    let look = async {
        until_settled(proxy).await;
        for database in proxy.cluster.load_full().databases.values() {
            prepare(database).await;
            if let Err(error) = catalog::refresh(database).await {
                tracing::warn!(database = database.config.name, %error, "the schema was not read");
            }
            warn_of_keys(database).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(3), look).await.is_err() {
        tracing::warn!("not every server has answered: starting all the same");
    }
}

/// Waits until the roles of all hosts are known.
async fn until_settled(proxy: &Proxy) {
    let cluster = proxy.cluster.load_full();
    for shard in cluster.databases.values().flat_map(|it| it.shards.values()) {
        while !shard.state.is_settled() {
            let _ = tokio::time::timeout(SHORTEST, shard.state.settled.notified()).await;
        }
    }
}

async fn warn_of_keys(database: &Database) {
    if !database.is_sharded() {
        return;
    }
    match catalog::unkept_keys(database).await {
        Ok(lines) => {
            lines.iter().for_each(|it| tracing::warn!(database = database.config.name, "{it}"));
        }
        Err(error) => tracing::debug!(%error, "keys were not looked at"),
    }
}

/// Makes what the proxy needs on each shard; a database with one shard needs nothing.
async fn prepare(database: &Database) {
    if database.shards.len() < 2 {
        return;
    }
    for shard in database.shards.values() {
        if let Err(error) = recovery::prepare_shard(shard).await {
            let (name, shard) = (&database.config.name, shard.id.0);
            tracing::warn!(database = name, shard, %error, "schema sluice could not be made");
        }
    }
}

/// Keeps every task running for whatever databases and hosts the configuration names.
pub(super) fn supervise(proxy: &Arc<Proxy>) {
    tokio::spawn(check_hosts(Arc::clone(proxy)));
    tokio::spawn(compare_hosts(Arc::clone(proxy)));
    tokio::spawn(ask_patroni(Arc::clone(proxy)));
    tokio::spawn(follow_logs(Arc::clone(proxy)));
    tokio::spawn(load_schemas(Arc::clone(proxy)));
    tokio::spawn(recover(Arc::clone(proxy)));
    tokio::spawn(forget(Arc::clone(proxy)));
    tokio::spawn(super::sweep::sweep(Arc::clone(proxy)));
    tokio::spawn(listen(Arc::clone(proxy)));
    tokio::spawn(end_deadlocks(Arc::clone(proxy)));
    tokio::spawn(super::budget::share_servers(Arc::clone(proxy)));
    tokio::spawn(super::doze::doze(Arc::clone(proxy)));
    tokio::spawn(super::names::look_up(Arc::clone(proxy)));
}

/// The databases whose servers may be touched.
fn awake(cluster: &Cluster) -> impl Iterator<Item = &Arc<Database>> {
    cluster.databases.values().filter(|it| !it.state.sleep.is_asleep())
}

/// Looks after every host, each at its own pace: one that hangs does not hold up the others.
async fn check_hosts(proxy: Arc<Proxy>) {
    let mut known: Vec<Weak<Host>> = Vec::new();
    loop {
        let cluster = proxy.cluster.load_full();
        known.retain(|it| it.strong_count() > 0);
        for shard in cluster.databases.values().flat_map(|it| it.shards.values()) {
            for host in shard.hosts() {
                if !known.iter().any(|it| it.as_ptr() == Arc::as_ptr(host)) {
                    known.push(Arc::downgrade(host));
                    let known = (Arc::clone(&shard.state), Arc::clone(&shard.log));
                    tokio::spawn(check_host(Arc::clone(&proxy), known, Arc::downgrade(host)));
                }
            }
        }
        drop(cluster);
        let _ = tokio::time::timeout(NEWCOMERS, proxy.changed.notified()).await;
    }
}

/// Finds the replicas that are far from the others of their shard.
async fn compare_hosts(proxy: Arc<Proxy>) {
    loop {
        let cluster = proxy.cluster.load_full();
        let health = &cluster.config.health;
        let shards = cluster.databases.values().flat_map(|it| it.shards.values());
        shards.for_each(|it| health::compare(it, health.outlier_factor));
        tokio::time::sleep(health.interval).await;
    }
}

/// Health checks of one host, and the upkeep of its pools, for as long as it is in the configuration.
async fn check_host(
    proxy: Arc<Proxy>,
    (shard, log): (Arc<ShardState>, Arc<Log>),
    host: Weak<Host>,
) {
    loop {
        let cluster = proxy.cluster.load_full();
        let Some(host) = host.upgrade().filter(|it| cluster.hosts().any(|at| Arc::ptr_eq(at, it)))
        else {
            return;
        };
        let (interval, timeout) = (cluster.config.health.interval, cluster.config.health.timeout);
        drop(cluster);
        if log.is_asleep() {
            tokio::time::sleep(NEWCOMERS).await;
            continue;
        }
        let begun = Instant::now();
        let mut woken = pin!(shard.alarm.notified());
        woken.as_mut().enable();
        let alarm = shard.alarms();
        let sight = health::check(&host, &log, timeout).await;
        if shard.note(&host.address, sight, alarm) {
            proxy.renew();
        }
        if host.health.mute_checks() == MUTE && !host.is_primary {
            proxy.cut(&host);
        }
        host.pools().iter().for_each(|pool| pool.reap());
        host.control.close_unused(UNUSED.max(3 * interval));
        drop(host);
        let pause = if shard.is_urgent() { interval.min(URGENT) } else { interval };
        let _ = tokio::time::timeout(pause, woken).await;
        tokio::time::sleep_until(begun + SHORTEST).await;
    }
}

/// One task per shard for which Patroni is configured; a reload's new ones get theirs.
async fn ask_patroni(proxy: Arc<Proxy>) {
    let mut running: HashMap<(String, ShardId), JoinHandle<()>> = HashMap::new();
    loop {
        let cluster = proxy.cluster.load_full();
        running.retain(|_, it| !it.is_finished());
        for database in &cluster.config.databases {
            for shard in database.shards.iter().filter(|it| !it.patroni.is_empty()) {
                let key = (database.name.clone(), shard.id);
                let start = || tokio::spawn(ask_leader(Arc::clone(&proxy), key.clone()));
                running.entry(key.clone()).or_insert_with(start);
            }
        }
        drop(cluster);
        tokio::time::sleep(NEWCOMERS).await;
    }
}

/// Asks who leads a shard, for as long as Patroni is configured there.
async fn ask_leader(proxy: Arc<Proxy>, (name, id): (String, ShardId)) {
    let mut asker = patroni::Asker::default();
    loop {
        let cluster = proxy.cluster.load_full();
        let (interval, timeout) = (cluster.config.health.interval, cluster.config.health.timeout);
        let Some(database) = cluster.databases.get(&name) else { return };
        let written = database.config.shards.iter().find(|it| it.id == id);
        let Some(written) = written.filter(|it| !it.patroni.is_empty()).cloned() else { return };
        let Some(shard) = database.shards.get(&id).map(|it| Arc::clone(&it.state)) else { return };
        drop(cluster);
        let begun = Instant::now();
        let mut woken = pin!(shard.alarm.notified());
        woken.as_mut().enable();
        let said = asker.ask(&written, timeout).await;
        if shard.note_topology(&said, written.patroni_members) {
            proxy.renew();
        }
        let pause = if shard.is_urgent() { interval.min(URGENT) } else { interval };
        let _ = tokio::time::timeout(pause, woken).await;
        tokio::time::sleep_until(begun + SHORTEST).await;
    }
}

/// Ends transactions that wait for each other over several shards. A circle counts once it is seen twice:
/// shards are not looked at in one moment.
async fn end_deadlocks(proxy: Arc<Proxy>) {
    let mut suspects: HashMap<String, BTreeMap<i32, BTreeSet<ShardId>>> = HashMap::new();
    loop {
        tokio::time::sleep(DEADLOCKS).await;
        let cluster = proxy.cluster.load_full();
        for (name, database) in cluster.databases.iter().filter(|(_, it)| it.is_sharded()) {
            let before = suspects.remove(name).unwrap_or_default();
            let spreads = |it: &Handle| {
                *it.database == **name && it.state.lock().mark.is_some() && it.activity.is_running()
            };
            if !proxy.clients.iter().any(|it| spreads(&it)) {
                continue;
            }
            let Ok(waits) = deadlock::waits(database).await else { continue };
            let found = deadlock::victims(&waits);
            for (mark, shards) in found.iter().filter(|it| before.get(it.0) == Some(it.1)) {
                let is_it = |it: &Handle| it.state.lock().mark == Some(*mark);
                let Some(victim) = proxy.clients.iter().find(|it| is_it(it)) else { continue };
                tracing::info!(database = name, client = victim.pid, "ends a deadlock over shards");
                database.state.metrics.deadlocks.inc();
                victim.cancel_because(&deadlock::error(shards));
            }
            suspects.insert(name.clone(), found);
        }
    }
}

/// One listener per database; a reload's new databases get theirs.
async fn listen(proxy: Arc<Proxy>) {
    let mut known = std::collections::HashSet::new();
    loop {
        for name in proxy.cluster.load().databases.keys() {
            if known.insert(name.clone()) {
                let (proxy, name) = (Arc::clone(&proxy), name.clone());
                let current = move || proxy.cluster.load().databases.get(&name).cloned();
                tokio::spawn(pool::listen::serve(current));
            }
        }
        tokio::time::sleep(NEWCOMERS).await;
    }
}

/// Follows the hosts of shards with replicas; a reload's new hosts, too.
async fn follow_logs(proxy: Arc<Proxy>) {
    loop {
        let cluster = proxy.cluster.load_full();
        let shards = cluster.databases.values().flat_map(|it| it.shards.values());
        for shard in shards.filter(|it| !it.replicas.is_empty()) {
            for host in shard.hosts() {
                if let Some(following) = replay::follow(host, &shard.log) {
                    tokio::spawn(following);
                }
            }
        }
        drop(cluster);
        tokio::time::sleep(NEWCOMERS).await;
    }
}

/// One loader per database; a reload's new databases get theirs.
async fn load_schemas(proxy: Arc<Proxy>) {
    let mut known = std::collections::HashSet::new();
    loop {
        let cluster = proxy.cluster.load_full();
        for name in cluster.databases.keys() {
            if known.insert(name.clone()) {
                tokio::spawn(load_schema(Arc::clone(&proxy), name.clone()));
            }
        }
        drop(cluster);
        tokio::time::sleep(NEWCOMERS).await;
    }
}

async fn load_schema(proxy: Arc<Proxy>, name: String) {
    loop {
        let cluster: Arc<Cluster> = proxy.cluster.load_full();
        let Some(database) = cluster.databases.get(&name).cloned() else {
            tokio::time::sleep(NEWCOMERS).await;
            continue;
        };
        let every = cluster.config.health.catalog_refresh;
        drop(cluster);
        if database.state.sleep.is_asleep() {
            tokio::time::sleep(NEWCOMERS).await;
            continue;
        }
        let loaded = catalog::refresh(&database).await;
        let again = match loaded {
            Ok(()) if every.is_zero() => Duration::from_secs(86_400),
            Ok(()) => every,
            Err(error) => {
                tracing::debug!(database = name, %error, "the schema was not read");
                Duration::from_secs(1)
            }
        };
        let _ = tokio::time::timeout(again, database.state.wanted.notified()).await;
    }
}

/// Ends what proxies have left prepared, at the start and from then on. A shard that does not answer
/// holds up nobody but itself.
async fn recover(proxy: Arc<Proxy>) {
    let mut running: HashMap<(String, ShardId), JoinHandle<()>> = HashMap::new();
    loop {
        let cluster = proxy.cluster.load_full();
        running.retain(|_, it| !it.is_finished());
        for database in awake(&cluster).filter(|it| it.shards.len() > 1) {
            for shard in database.shards.keys() {
                let start = || tokio::spawn(recover_shard(Arc::clone(database), *shard));
                running.entry((database.config.name.clone(), *shard)).or_insert_with(start);
            }
        }
        drop(cluster);
        tokio::time::sleep(RECOVERY).await;
    }
}

async fn recover_shard(database: Arc<Database>, shard: ShardId) {
    let (name, shard) = (&database.config.name, &database.shards[&shard]);
    if let Err(error) = recovery::prepare_shard(shard).await {
        tracing::debug!(database = name, shard = shard.id.0, %error, "no schema sluice");
    }
    match recovery::recover(&database, shard, recovery::GRACE).await {
        Ok(0) => (),
        Ok(count) => {
            tracing::info!(database = name, shard = shard.id.0, count, "recovered");
        }
        Err(error) => {
            tracing::debug!(database = name, shard = shard.id.0, %error, "recovery failed");
        }
    }
}

/// Drops old decisions, now and then.
async fn forget(proxy: Arc<Proxy>) {
    let mut horizons: HashMap<String, recovery::Horizon> = HashMap::new();
    loop {
        let cluster = proxy.cluster.load_full();
        for database in awake(&cluster).filter(|it| it.shards.len() > 1) {
            let name = &database.config.name;
            let horizon = horizons.entry(name.clone()).or_default();
            if let Err(error) = recovery::forget(database, horizon).await {
                tracing::debug!(database = name, %error, "old decisions were kept");
            }
        }
        drop(cluster);
        tokio::time::sleep(FORGET).await;
    }
}
