//! The only shared object: the current snapshot, clients, limits and metrics. Passed down, no statics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::DashMap;
use parking_lot::Mutex;

use crate::config::{Config, User};
use crate::error::{PgError, sqlstate};
use crate::metrics::Metrics;
use crate::pool::cluster::Cluster;
use crate::server::CancelKey;

/// Statement texts kept for sharing over all clients; beyond it, those nobody uses are dropped.
const TEXTS: usize = 20_000;

/// The shared state of a running proxy.
pub struct Proxy {
    pub cluster: ArcSwap<Cluster>,
    pub metrics: Metrics,
    /// Connected clients by the process id they were told.
    pub clients: DashMap<i32, Arc<Handle>>,
    pub seats: Seats,
    /// Statement texts that clients have prepared.
    pub texts: DashMap<TextKey, Arc<Text>>,
    pub started: Instant,
    /// Whether no new clients are taken and running transactions are awaited.
    is_draining: AtomicBool,
    /// RELOAD's way to the task that reads the file: `true` is FORCE.
    pub reload: tokio::sync::mpsc::Sender<ReloadRequest>,
    /// What SCRAM salts of users without a stored one are made from.
    pub salt_key: [u8; 32],
    next_text: AtomicU64,
    next_client: AtomicU64,
}

/// A RELOAD of the admin console, and where to tell the outcome.
pub struct ReloadRequest {
    pub force: bool,
    pub done: tokio::sync::oneshot::Sender<Result<String, String>>,
}

/// What makes two Parse messages the same statement on a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TextKey {
    pub sql: Bytes,
    pub types: Vec<u32>,
    /// Settings that change what a name means.
    pub path: String,
    pub database: Arc<str>,
}

/// A statement text that servers know under one name.
#[derive(Debug)]
pub struct Text {
    pub id: u64,
    pub sql: Bytes,
    /// As declared by Parse; 0 or missing: inferred.
    pub types: Vec<u32>,
    /// The catalog version under which a server last took it; 0: never.
    pub valid: AtomicU64,
    /// As a server inferred them, once known.
    pub inferred: std::sync::OnceLock<Vec<u32>>,
}

mod activity;
mod overdue;
mod seats;
mod signals;

pub use activity::{Activity, Allowed, Overdue};
pub use seats::{Seat, Seats};
pub use signals::Signals;

/// A connected client, as others see it: for cancel, SHOW CLIENTS and KILL.
pub struct Handle {
    pub pid: i32,
    pub key: Vec<u8>,
    pub user: String,
    pub database: String,
    pub peer: crate::net::Peer,
    pub connected: Instant,
    pub thread: usize,
    /// Servers that work for it now.
    pub servers: Mutex<Vec<Arc<CancelKey>>>,
    pub state: Mutex<ClientState>,
    /// What others want of the session.
    pub signals: Signals,
    pub activity: Activity,
}

/// What SHOW CLIENTS tells of a client.
#[derive(Clone, Debug, Default)]
pub struct ClientState {
    pub application: String,
    pub tenant: Option<String>,
    pub pin: Option<&'static str>,
    pub in_transaction: bool,
    pub queries: u64,
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
        Ok(Arc::new(Self {
            salt_key,
            cluster: ArcSwap::from_pointee(Cluster::new(config, None, &metrics)),
            metrics,
            clients: DashMap::new(),
            seats: Seats::default(),
            texts: DashMap::new(),
            started: Instant::now(),
            is_draining: AtomicBool::new(false),
            reload,
            next_text: AtomicU64::new(1),
            next_client: AtomicU64::new(1),
        }))
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

    /// The user of that name.
    pub fn user(&self, name: &str) -> Option<User> {
        self.cluster.load().config.users.iter().find(|it| it.name == name).cloned()
    }

    /// Whether the user may use the admin console: named ones, or everybody if none is named.
    pub fn is_admin(&self, user: &User) -> bool {
        let cluster = self.cluster.load();
        user.admin || !cluster.config.users.iter().any(|it| it.admin)
    }

    /// A process id no other client has now.
    pub fn next_pid(&self) -> i32 {
        loop {
            let pid = (self.next_client.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff) as i32;
            if pid != 0 && !self.clients.contains_key(&pid) {
                return pid;
            }
        }
    }

    /// The shared statement of a Parse.
    pub fn text(&self, key: TextKey) -> Arc<Text> {
        if let Some(text) = self.texts.get(&key) {
            return Arc::clone(&text);
        }
        if self.texts.len() >= TEXTS {
            self.texts.retain(|_, text| Arc::strong_count(text) > 1);
        }
        let make = || {
            Arc::new(Text {
                id: self.next_text.fetch_add(1, Ordering::Relaxed),
                sql: key.sql.clone(),
                types: key.types.clone(),
                valid: AtomicU64::new(0),
                inferred: std::sync::OnceLock::new(),
            })
        };
        Arc::clone(&self.texts.entry(key.clone()).or_insert_with(make))
    }

    /// Sends cancel requests to the servers that work for a client; silently nothing for a wrong key.
    pub async fn cancel(&self, pid: i32, key: &[u8]) {
        self.metrics.cancels.inc();
        let Some(handle) = self.clients.get(&pid).map(|it| Arc::clone(&it)) else { return };
        if handle.key != key {
            return;
        }
        handle.cancel().await;
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
            for shard in database.shards.values().filter(|it| !it.primary.health.is_up()) {
                reasons.push(format!(
                    "{name}: shard {} has no primary: {}: {}",
                    shard.id,
                    shard.primary.address,
                    shard.primary.health.problem.lock()
                ));
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
        let servers: Vec<_> = {
            // Marked under the lock: a session takes a server off this list before it gives it
            // back, so that one that is still here is seen as marked then.
            let servers = self.servers.lock();
            servers.iter().for_each(|it| it.mark());
            servers.clone()
        };
        for server in servers {
            server.send().await;
        }
    }
}
