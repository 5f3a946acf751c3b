//! The only shared object: the current snapshot, clients, limits and metrics. Passed down, no statics.

pub mod failed_logins;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::cache::Fleet;
use crate::config::{Config, User};
use crate::error::{PgError, sqlstate};
use crate::metrics::Metrics;
use crate::net::tls::Acceptor;
use crate::pool::cluster::Cluster;
use crate::server::{CancelKey, SharedSettings};

/// Clients are numbered from here on: above every process id that servers have, so that none is taken
/// for one (`pg_cancel_backend`).
const FIRST_PID: i32 = 1_000_000_000;

/// The shared state of a running proxy.
pub struct Proxy {
    pub cluster: ArcSwap<Cluster>,
    /// None: TLS is off.
    pub tls: ArcSwapOption<Acceptor>,
    pub metrics: Metrics,
    /// Where other proxies are heard, if `[redis]` was there at the start.
    pub fleet: Option<Arc<Fleet>>,
    /// Connected clients by the process id they were told.
    pub clients: DashMap<i32, Arc<Handle>>,
    pub seats: Seats,
    /// What clients have prepared.
    pub prepared: PreparedStatements,
    /// Settings that sessions have in common.
    pub settings: SharedSettings,
    pub started: Instant,
    /// Told when there is another snapshot.
    pub changed: tokio::sync::Notify,
    /// Whether no new clients are taken and running transactions are awaited.
    is_draining: AtomicBool,
    /// RELOAD's way to the task that reads the file: `true` is FORCE.
    pub reload: tokio::sync::mpsc::Sender<ReloadRequest>,
    /// What SCRAM salts of users without a stored one are made from.
    pub salt_key: [u8; 32],
    /// Seeds the hashes of statements, which differ from process to process.
    pub plan_seed: u64,
    pub failed_logins: failed_logins::FailedLogins,
    next_client: AtomicU64,
    next_mark: AtomicU64,
}

/// A RELOAD of the admin console, and where to tell the outcome.
pub struct ReloadRequest {
    pub force: bool,
    pub done: tokio::sync::oneshot::Sender<Result<String, String>>,
}

mod activity;
mod overdue;
mod prepared;
mod roles;
mod seats;
mod signals;

pub use activity::{Activity, Allowed, Overdue};
pub use prepared::{Parsed, Prepared, PreparedStatements, Text, TextKey};
pub use seats::{Seat, Seats};
pub use signals::Signals;

/// A connected client, as others see it: for cancel, SHOW CLIENTS and KILL.
pub struct Handle {
    pub pid: i32,
    /// In session mode: the process of its server, which the client was told as its own.
    pub told_pid: std::sync::OnceLock<i32>,
    pub key: Box<[u8]>,
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub peer: crate::net::Peer,
    pub is_tls: bool,
    pub connected: Instant,
    pub thread: usize,
    /// Servers that work for it now.
    pub servers: Mutex<SmallVec<[Arc<CancelKey>; 1]>>,
    pub state: Mutex<ClientState>,
    /// What others want of the session.
    pub signals: Signals,
    pub activity: Activity,
}

/// What SHOW CLIENTS tells of a client.
#[derive(Clone, Debug, Default)]
pub struct ClientState {
    pub application: Box<str>,
    pub tenant: Option<String>,
    pub pin: Option<&'static str>,
    pub in_transaction: bool,
    /// What marks its transaction on the servers, once it has reached a second shard.
    pub mark: Option<i32>,
}

impl Proxy {
    /// A proxy for a configuration.
    ///
    /// # Errors
    /// If metrics cannot be registered, which is a bug.
    pub fn new(
        config: Arc<Config>,
        reload: tokio::sync::mpsc::Sender<ReloadRequest>,
    ) -> Result<Arc<Self>, PgError> {
        let metrics = Metrics::new()
            .map_err(|error| PgError::new(sqlstate::INTERNAL_ERROR, error.to_string()))?;
        let mut salt_key = [0; 32];
        getrandom::fill(&mut salt_key)
            .map_err(|error| PgError::new(sqlstate::INTERNAL_ERROR, error.to_string()))?;
        let mut seed = [0; 8];
        getrandom::fill(&mut seed)
            .map_err(|error| PgError::new(sqlstate::INTERNAL_ERROR, error.to_string()))?;
        let mut id = [0; 8];
        getrandom::fill(&mut id)
            .map_err(|error| PgError::new(sqlstate::INTERNAL_ERROR, error.to_string()))?;
        let redis = config.redis.clone();
        let fleet = redis.map(|it| Fleet::new(it, u64::from_le_bytes(id), metrics.fleet.clone()));
        let cluster = Cluster::new(config, None, &metrics);
        cluster.lead();
        let proxy = Arc::new(Self {
            fleet,
            salt_key,
            plan_seed: u64::from_le_bytes(seed),
            failed_logins: failed_logins::FailedLogins::default(),
            cluster: ArcSwap::from_pointee(cluster),
            tls: ArcSwapOption::empty(),
            metrics,
            clients: DashMap::new(),
            seats: Seats::default(),
            prepared: PreparedStatements::default(),
            settings: SharedSettings::default(),
            started: Instant::now(),
            changed: tokio::sync::Notify::new(),
            is_draining: AtomicBool::new(false),
            reload,
            next_client: AtomicU64::new(1),
            next_mark: AtomicU64::new(1),
        });
        proxy.join_fleet(&proxy.cluster.load());
        Ok(proxy)
    }

    /// The databases of a snapshot take part in what proxies tell each other.
    pub fn join_fleet(&self, cluster: &Cluster) {
        let Some(fleet) = &self.fleet else { return };
        for (name, database) in &cluster.databases {
            database.state.writes.join(fleet, name);
        }
    }

    /// Whether this is the snapshot in force.
    pub fn is_current(&self, cluster: &Arc<Cluster>) -> bool {
        Arc::ptr_eq(&self.cluster.load(), cluster)
    }

    /// A number that no other transaction has, as far as chance goes: also none of another proxy.
    pub fn next_mark(&self) -> i32 {
        // SplitMix64 (Steele, Lea, Flood 2014) of a counter that starts anywhere.
        let count = self.next_mark.fetch_add(1, Ordering::Relaxed);
        let mut z = self.plan_seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as i32
    }

    /// Whether the proxy is going down.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// No new clients from now on; those that have nothing under way go at once, the others when
    /// their transaction ends.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
        self.clients.iter().for_each(|it| it.signals.raise(Signals::DRAIN));
    }

    /// Whether the user may use the admin console: named ones, or everybody if none is named.
    pub fn is_admin(&self, user: &User) -> bool {
        let cluster = self.cluster.load();
        user.admin || !cluster.config.users.iter().any(|it| it.admin)
    }

    /// A process id no other client has now.
    pub fn next_pid(&self) -> i32 {
        loop {
            let number = self.next_client.fetch_add(1, Ordering::Relaxed) % FIRST_PID as u64;
            let pid = FIRST_PID + number as i32;
            if !self.clients.contains_key(&pid) {
                return pid;
            }
        }
    }

    /// Sends cancel requests to the servers that work for a client; silently nothing for a wrong key.
    pub async fn cancel(&self, pid: i32, key: &[u8]) {
        self.metrics.cancels.inc();
        let known = self.clients.get(&pid).map(|it| Arc::clone(&it));
        let told = || {
            let mut clients = self.clients.iter();
            let told = clients.find(|it| it.told_pid.get() == Some(&pid) && *it.key == *key);
            told.map(|it| Arc::clone(&it))
        };
        if let Some(handle) = known.filter(|it| *it.key == *key).or_else(told) {
            handle.cancel().await;
        }
    }

    /// Brings the counters of the plan caches' limits up to date: the caches count for themselves.
    pub fn count_evictions(&self) {
        let cluster = self.cluster.load();
        let (mut plans, mut bytes) = (0, 0);
        for database in cluster.databases.values() {
            let counts = database.state.plans.counts();
            plans += counts.evicted.saturating_sub(counts.evicted_for_bytes);
            bytes += counts.evicted_for_bytes;
        }
        for (key, count) in [("limits.plans", plans), ("limits.plan_bytes", bytes)] {
            let counter = self.metrics.limits.of(key);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// What /ready says: reasons why statements cannot be served now.
    pub fn ready(&self) -> Result<String, String> {
        let cluster = self.cluster.load();
        let mut reasons = Vec::new();
        if self.is_draining() {
            reasons.push("the proxy is going down".to_owned());
        }
        for (name, database) in &cluster.databases {
            if database.state.catalog.load().is_none() {
                reasons.push(format!("{name}: the schema was not read yet"));
            }
            for shard in database.shards.values() {
                let primary = &shard.primary;
                if shard.has_primary && primary.health.is_up() {
                    continue;
                }
                let (id, address) = (shard.id, &primary.address);
                let problem = primary.health.problem.lock();
                reasons.push(format!("{name}: shard {id} has no primary: {address}: {problem}"));
            }
        }
        reasons.sort();
        match reasons.is_empty() {
            true => Ok("ready\n".into()),
            false => Err(reasons.join("\n") + "\n"),
        }
    }
}

impl Handle {
    /// Cancels what runs for this client.
    pub async fn cancel(&self) {
        // Begun under the lock: a session takes a server off this list before it gives it back, so
        // that one that is still here is seen as cancelled then.
        let begun: Vec<_> = self.servers.lock().iter().map(CancelKey::begin).collect();
        for cancellation in begun {
            cancellation.send().await;
        }
    }
}
