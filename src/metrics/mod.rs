//! The numbers of /metrics; SHOW STATS reads the same counters. The only user of `prometheus`.

pub mod http;
mod limits;
mod standing;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub use limits::LimitMetrics;
pub use standing::StandingMetrics;

/// Buckets in seconds, from 50 µs to 30 s.
const SECONDS: &[f64] = &[
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0, 30.0,
];

/// Every metric of the proxy.
pub struct Metrics {
    registry: Registry,
    query: HistogramVec,
    wait: HistogramVec,
    connect_errors: IntCounterVec,
    queries: IntCounterVec,
    refused: IntCounterVec,
    errors: IntCounterVec,
    transactions: IntCounterVec,
    two_phase: IntCounterVec,
    in_doubt: IntGaugeVec,
    deadlocks: IntCounterVec,
    causal_waits: IntCounterVec,
    causal_misses: IntCounterVec,
    resumes: IntCounterVec,
    pins: IntCounterVec,
    pins_refused: IntCounterVec,
    pinned: IntGaugeVec,
    listening: IntGaugeVec,
    drift: IntGaugeVec,
    notifications: IntCounterVec,
    missed: IntCounterVec,
    host_up: IntGaugeVec,
    standings: standing::Standings,
    budget: IntGaugeVec,
    pub clients: IntGauge,
    pub fleet: FleetMetrics,
    pub limits: LimitMetrics,
    pub logins_failed: IntCounter,
    pub reloads: IntCounterVec,
    pub cancels: IntCounter,
    pub bytes_received: IntCounter,
    pub bytes_sent: IntCounter,
}

/// What other proxies are told and tell, through Redis.
#[derive(Clone)]
pub struct FleetMetrics {
    /// Whether there is a connection.
    pub up: IntGauge,
    /// Other proxies that are heard.
    pub peers: IntGauge,
    /// Tenants announced as being written, again and again while they are.
    pub announced: IntCounter,
    /// Writes that could not be announced.
    pub unannounced: IntCounter,
    /// Reads that primaries served since it was not known in time what others write.
    pub blind: IntCounter,
}

/// Handles for one host: no label is hashed per query.
#[derive(Clone)]
pub struct HostMetrics {
    /// Time from sending a statement to the end of its answer.
    pub query: Histogram,
    /// Time spent waiting for a server connection.
    pub wait: Histogram,
    pub connect_errors: IntCounter,
    pub limits: LimitMetrics,
    /// How often all connections that `pool.size` allows were in use.
    pub full: IntCounter,
    pub up: IntGauge,
}

/// Handles for one database.
#[derive(Clone)]
pub struct DatabaseMetrics {
    pub queries: IntCounter,
    /// Statements refused by name (0A000).
    pub refused: IntCounter,
    /// Errors of servers and of the proxy that clients were told.
    pub errors: IntCounter,
    pub transactions: IntCounter,
    /// Transactions committed in two phases.
    pub two_phase: IntCounter,
    /// Participants that stand prepared, as last seen.
    pub in_doubt: IntGauge,
    /// Transactions ended since they waited for each other over several shards.
    pub deadlocks: IntCounter,
    /// Reads that waited for a replica to have seen what was written.
    pub causal_waits: IntCounter,
    /// Reads that the primary served since no replica had seen enough.
    pub causal_misses: IntCounter,
    /// Transactions repeated after their server was lost, which went on.
    pub resumed: IntCounter,
    /// Those that could not go on.
    pub not_resumed: IntCounter,
    /// Differences of shards' schemas from the home shard's, as last seen.
    pub drift: IntGauge,
    /// Sessions tied to a server now.
    pub pinned: IntGauge,
    /// Statements refused since they would tie one.
    pub pins_refused: IntCounter,
    pins: IntCounterVec,
    name: String,
    pub listen: ListenMetrics,
}

impl DatabaseMetrics {
    /// Sessions tied to a server for this reason, since the start.
    pub fn pins(&self, reason: &str) -> IntCounter {
        self.pins.with_label_values(&[&self.name, reason])
    }
}

/// Handles for one database's LISTEN.
#[derive(Clone)]
pub struct ListenMetrics {
    /// Channels that somebody listens on.
    pub channels: IntGauge,
    /// Notifications given to clients.
    pub delivered: IntCounter,
    /// Notifications that found no room, and losses of the connection that a client was told of.
    pub missed: IntCounter,
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Errors
    /// Never in practice: the names are constants and each is registered once.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let host = &["database", "shard", "role"];
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let made = HistogramVec::new(options, host)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let counter = |name: &str, help: &str| {
            let made = IntCounter::new(name, help)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let host_up = IntGaugeVec::new(
            Opts::new("sluice_host_up", "1 if the host answers health checks in its role."),
            &["database", "shard", "role", "host"],
        )?;
        registry.register(Box::new(host_up.clone()))?;
        let budget = IntGaugeVec::new(
            Opts::new("sluice_budget", "How proxies share a server, in connections and proxies."),
            &["server", "what"],
        )?;
        registry.register(Box::new(budget.clone()))?;
        let pinned = IntGaugeVec::new(
            Opts::new("sluice_pinned_sessions", "Sessions that keep a server in transaction mode."),
            &["database"],
        )?;
        registry.register(Box::new(pinned.clone()))?;
        let drift = IntGaugeVec::new(
            Opts::new(
                "sluice_schema_drift",
                "Differences of shards' schemas from the home shard's.",
            ),
            &["database"],
        )?;
        registry.register(Box::new(drift.clone()))?;
        let in_doubt = IntGaugeVec::new(
            Opts::new(
                "sluice_transactions_in_doubt",
                "Parts of transactions over shards that stand prepared.",
            ),
            &["database"],
        )?;
        registry.register(Box::new(in_doubt.clone()))?;
        let listening = IntGaugeVec::new(
            Opts::new("sluice_listening_channels", "Channels that clients listen on."),
            &["database"],
        )?;
        registry.register(Box::new(listening.clone()))?;
        let clients = IntGauge::new("sluice_clients", "Connected clients.")?;
        registry.register(Box::new(clients.clone()))?;
        let gauge = |name: &str, help: &str| {
            let made = IntGauge::new(name, help)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let fleet = FleetMetrics {
            up: gauge("sluice_redis_up", "1 if there is a connection to Redis.")?,
            peers: gauge("sluice_fleet_peers", "Other proxies that are heard through Redis.")?,
            announced: counter(
                "sluice_fleet_announcements_total",
                "Tenants announced to other proxies as being written.",
            )?,
            unannounced: counter(
                "sluice_fleet_unannounced_writes_total",
                "Writes that other proxies could not be told of, as there was no Redis.",
            )?,
            blind: counter(
                "sluice_fleet_blind_reads_total",
                "Reads served by primaries as it was not known in time what other proxies write.",
            )?,
        };
        Ok(Self {
            fleet,
            query: histogram("sluice_query_seconds", "Time of a statement on a server.")?,
            wait: histogram("sluice_wait_seconds", "Time waited for a server connection.")?,
            connect_errors: counters(
                "sluice_server_connect_errors_total",
                "Connections to servers that failed.",
                host,
            )?,
            queries: counters("sluice_queries_total", "Statements.", &["database"])?,
            refused: counters("sluice_refused_total", "Statements refused.", &["database"])?,
            errors: counters("sluice_errors_total", "Errors told to clients.", &["database"])?,
            transactions: counters(
                "sluice_transactions_total",
                "Transactions ended.",
                &["database"],
            )?,
            two_phase: counters(
                "sluice_two_phase_commits_total",
                "Transactions committed on several shards.",
                &["database"],
            )?,
            deadlocks: counters(
                "sluice_deadlocks_total",
                "Transactions ended because they waited for each other over several shards.",
                &["database"],
            )?,
            causal_waits: counters(
                "sluice_causal_waits_total",
                "Reads that waited for a replica to have seen what was written.",
                &["database"],
            )?,
            causal_misses: counters(
                "sluice_causal_misses_total",
                "Reads that the primary served since no replica had seen enough.",
                &["database"],
            )?,
            resumes: counters(
                "sluice_resumes_total",
                "Transactions repeated after their server was lost, by whether they went on.",
                &["database", "outcome"],
            )?,
            pins: counters(
                "sluice_pins_total",
                "Sessions tied to a server, by reason.",
                &["database", "reason"],
            )?,
            pins_refused: counters(
                "sluice_pins_refused_total",
                "Statements refused by pool.pin or limits.pinned.",
                &["database"],
            )?,
            in_doubt,
            pinned,
            listening,
            drift,
            notifications: counters(
                "sluice_notifications_total",
                "Notifications given to clients.",
                &["database"],
            )?,
            missed: counters(
                "sluice_notifications_missed_total",
                "Notifications that clients missed, or were told they may have missed.",
                &["database"],
            )?,
            host_up,
            standings: standing::Standings::new(&registry)?,
            budget,
            clients,
            limits: LimitMetrics::new(&registry)?,
            logins_failed: counter("sluice_logins_failed_total", "Logins that failed.")?,
            reloads: counters("sluice_reloads_total", "Reloads by outcome.", &["outcome"])?,
            cancels: counter("sluice_cancels_total", "Cancel requests of clients.")?,
            bytes_received: counter("sluice_client_received_bytes_total", "From clients.")?,
            bytes_sent: counter("sluice_client_sent_bytes_total", "To clients.")?,
            registry,
        })
    }

    /// The handles of one host; `role` is `primary` or `replica`.
    pub fn host(&self, database: &str, shard: &str, role: &str, host: &str) -> HostMetrics {
        let labels = &[database, shard, role];
        HostMetrics {
            query: self.query.with_label_values(labels),
            wait: self.wait.with_label_values(labels),
            connect_errors: self.connect_errors.with_label_values(labels),
            limits: self.limits.clone(),
            full: self.limits.of("pool.size"),
            up: self.host_up.with_label_values(&[database, shard, role, host]),
        }
    }

    /// The handles of how one host does; `role` is `primary` or `replica`.
    pub fn standing(&self, labels: [&str; 4]) -> StandingMetrics {
        self.standings.of(&labels)
    }

    /// Takes out what tells a host's state of this moment, as it is none any more in this role; what was counted
    /// stays.
    pub fn forget_host(&self, labels: [&str; 4]) {
        // An error only says that there is none.
        let _ = self.host_up.remove_label_values(&labels);
        self.standings.forget(&labels);
    }

    /// Notes how proxies share a server.
    pub fn budget(&self, server: &str, numbers: &[(&'static str, usize)]) {
        for (what, count) in numbers {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.budget.with_label_values(&[server, what]).set(count);
        }
    }

    /// The handles of one database.
    pub fn database(&self, name: &str) -> DatabaseMetrics {
        let of = |vec: &IntCounterVec| vec.with_label_values(&[name]);
        DatabaseMetrics {
            queries: of(&self.queries),
            refused: of(&self.refused),
            errors: of(&self.errors),
            transactions: of(&self.transactions),
            two_phase: of(&self.two_phase),
            in_doubt: self.in_doubt.with_label_values(&[name]),
            deadlocks: of(&self.deadlocks),
            causal_waits: of(&self.causal_waits),
            causal_misses: of(&self.causal_misses),
            resumed: self.resumes.with_label_values(&[name, "resumed"]),
            not_resumed: self.resumes.with_label_values(&[name, "failed"]),
            drift: self.drift.with_label_values(&[name]),
            pinned: self.pinned.with_label_values(&[name]),
            pins_refused: of(&self.pins_refused),
            pins: self.pins.clone(),
            name: name.to_owned(),
            listen: ListenMetrics {
                channels: self.listening.with_label_values(&[name]),
                delivered: of(&self.notifications),
                missed: of(&self.missed),
            },
        }
    }

    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}
