//! The TOML as written → [`Config`], valid by construction.

mod database;
mod error;
mod host;
pub mod keys;
mod parse;
mod patroni;
mod rule;
mod secret;
mod section;
mod show;
mod suggest;
mod tls;
mod units;
mod url;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

pub use crate::auth::{AuthMethod, Network, Rule, RuleMethod, Secret};
use crate::catalog::unique::GlobalKey;
use crate::shard::{Map, ShardId};

pub use database::ADMIN_DATABASE;
pub use error::ConfigError;
pub use keys::{KEYS, Key, LIMITS};
pub use parse::{WrittenHost, parse, parse_located};
pub use patroni::PatroniApi;
pub use show::show;
pub use tls::{HostTls, ListenTls, SYSTEM, SslMode};
pub use units::{show_bytes, show_duration};

/// A whole configuration. Past its constructor nothing is checked again.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub listen: Listen,
    pub pool: Pool,
    pub limits: Limits,
    pub health: Health,
    /// None: other proxies are not heard.
    pub redis: Option<Redis>,
    pub log: Log,
    pub users: Vec<User>,
    /// The first that fits a client counts; without any, [`User::auth`] does.
    pub rules: Vec<Rule>,
    pub databases: Vec<Database>,
}

/// `[listen]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    pub address: SocketAddr,
    /// /metrics, /live, /ready; none: not served.
    pub http: Option<SocketAddr>,
    /// None: clients are answered in clear only.
    pub tls: Option<ListenTls>,
    /// The folder of a Unix socket for clients.
    pub unix_socket_dir: Option<String>,
    /// The permissions of that socket.
    pub unix_socket_mode: u32,
    /// Where the proxy is; none: all hosts are as near.
    pub region: Option<String>,
    /// How long running transactions may go on after SIGTERM.
    pub shutdown_grace: Duration,
    /// Data-plane threads; default: half the number of cores.
    pub threads: usize,
}

/// `[pool]`
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub mode: PoolMode,
    /// Whether statements may tie a session to a server in transaction mode.
    pub may_pin: bool,
    /// Server connections per user, database and host.
    pub size: usize,
    /// Server connections to one server, over all users; none: no limit.
    pub host_size: Option<usize>,
    /// Whether proxies that find each other on a server share its connections.
    pub shares: bool,
    /// Connections of a server that proxies leave to others.
    pub budget_reserve: usize,
    pub wait_timeout: Duration,
    pub connect_timeout: Duration,
    /// Zero: names are not looked up but to connect.
    pub dns_ttl: Duration,
    /// Idle servers are closed after this; zero: never.
    pub idle_timeout: Duration,
    /// Servers are closed at this age; zero: never.
    pub max_lifetime: Duration,
    /// A server idle for longer than this is checked before use.
    pub check_after: Duration,
    /// Prepared statements kept per server connection.
    pub prepared_statements: usize,
    /// Whether repeated unnamed statements stay prepared on servers.
    pub reuse_unnamed: bool,
    /// Postgres' `plan_cache_mode` of server connections; none: as the server has it.
    pub plan_cache_mode: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    Transaction,
    Session,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub clients: usize,
    /// Sessions of one database that may be tied to a server.
    pub pinned: Option<usize>,
    pub clients_per_user: Option<usize>,
    pub clients_per_database: Option<usize>,
    pub clients_per_address: Option<usize>,
    pub login_timeout: Duration,
    pub timeouts: Timeouts<Duration>,
    /// How long a client may take nothing of what it is sent; zero: for ever.
    pub write_timeout: Duration,
    /// The longest time a failed login is held; zero: not at all.
    pub login_delay: Duration,
    /// Bytes of one message from a client.
    pub message_bytes: usize,
    /// Bytes of one statement's text; none: as long as a message.
    pub query_bytes: Option<usize>,
    /// Named prepared statements of one client.
    pub client_statements: usize,
    /// Bytes of the texts of all prepared statements.
    pub statement_bytes: usize,
    /// What one client's output may hold.
    pub buffer_bytes: usize,
    /// Plans kept in the cache.
    pub plans: usize,
    /// Bytes they may use.
    pub plan_bytes: usize,
    /// Bytes a grouping, a sort or a DISTINCT over shards may hold, per statement.
    pub merge_bytes: usize,
    /// Rows shipped for one statement that one server has to compute.
    pub gather_max_rows: usize,
    /// Bytes of them.
    pub gather_max_bytes: usize,
    /// Bytes of messages kept of a transaction that may have to be repeated.
    pub resume_bytes: usize,
    /// Notifications kept per client until it takes them.
    pub notifications: usize,
}

/// How long sessions may take for what; zero: for ever. Databases have those they override.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts<T> {
    /// One statement.
    pub query: T,
    pub transaction: T,
    /// Between two statements of a transaction.
    pub idle_transaction: T,
    /// Outside of a transaction.
    pub client_idle: T,
}

impl Timeouts<Option<Duration>> {
    /// These where they are written, else the general ones.
    pub fn or(&self, general: &Timeouts<Duration>) -> Timeouts<Duration> {
        Timeouts {
            query: self.query.unwrap_or(general.query),
            transaction: self.transaction.unwrap_or(general.transaction),
            idle_transaction: self.idle_transaction.unwrap_or(general.idle_transaction),
            client_idle: self.client_idle.unwrap_or(general.client_idle),
        }
    }
}

/// `[health]`
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub interval: Duration,
    pub timeout: Duration,
    /// How often the schema is loaded again; zero: only after DDL and on unknown names.
    pub catalog_refresh: Duration,
    /// Failures in a row after which a server is left alone.
    pub failure_threshold: u32,
    /// Percent of failures after which it is, too; zero: none.
    pub failure_rate: u32,
    /// How long.
    pub reset_timeout: Duration,
    /// How long a replica that has come back gets less; zero: not at all.
    pub slow_start: Duration,
    /// How many times the others' latency makes a replica rest; zero: none.
    pub outlier_factor: u32,
    /// Percent of a pool that reads may use at a primary in place of lost replicas.
    pub primary_fallback: u32,
}

/// `[redis]`. `Debug` never shows the URL, which may hold a password.
#[derive(Clone, PartialEq)]
pub struct Redis {
    pub url: String,
    /// What names in Redis begin with.
    pub prefix: String,
    /// How long the first write of a tenant waits for all proxies to know.
    pub fence: Duration,
    /// How long nothing is believed after a proxy fell silent; zero: not at all.
    pub distrust: Duration,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `pgsluice=debug`.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// `[[user]]`, or one that `auth_query` found. `Debug` never shows a password.
#[derive(Clone, PartialEq)]
pub struct User {
    pub name: String,
    pub secret: Secret,
    /// How the user proves who it is; default: SCRAM, whatever the stored secret allows.
    pub auth: AuthMethod,
    /// May use the admin console. If no user has it, every user may.
    pub admin: bool,
    /// Override of `limits.clients_per_user`.
    pub clients: Option<usize>,
    /// May open replication connections.
    pub replication: bool,
    /// Credentials towards servers, in place of those in the shard's URL.
    pub server_user: Option<String>,
    pub server_password: Option<String>,
    pub server_auth: ServerAuth,
}

/// As whom a user's statements run on servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerAuth {
    /// As the shard's URL, or the user's `server_user`, says.
    Url,
    /// As itself, with what it proved to the proxy.
    PassThrough,
}

/// What reads of replicas see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Whatever was written for their tenant, or without one on their connection.
    Causal,
    /// As that, and without a tenant what anybody wrote.
    Strict,
    /// Replicas rest for `pin_after_write` after a write.
    Time,
}

impl Consistency {
    /// As in the TOML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Causal => "causal",
            Self::Strict => "strict",
            Self::Time => "time",
        }
    }

    /// Reads a name.
    pub(crate) fn parse(name: &str) -> Self {
        let all = [Self::Causal, Self::Strict, Self::Time];
        all.into_iter().find(|it| it.name() == name).unwrap_or(Self::Causal)
    }
}

/// `[[database]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Database {
    pub name: String,
    /// None: no table is sharded (plain pooler).
    pub tenant_column: Option<String>,
    pub home_shard: ShardId,
    pub reference_tables: Vec<String>,
    pub consistency: Consistency,
    pub pin_after_write: Duration,
    /// How long a read waits for a replica that has not seen enough.
    pub causal_wait: Duration,
    /// Replicas further behind rest; zero: none does.
    pub max_replica_lag: Duration,
    /// How long what has not begun waits for a primary.
    pub failover_wait: Duration,
    /// Whether transactions that were cut off are repeated.
    pub resumes: bool,
    /// Functions declared to touch only the rows of the statement's tenant.
    pub trusted_functions: Vec<String>,
    /// Whether reads over several shards see each commit over several shards whole or not at all.
    pub has_barrier: bool,
    /// Whether DDL may create unique and foreign keys on sharded tables that shards can only keep each
    /// for itself, and sequences that shards do not share may be used.
    pub allow_local_keys: bool,
    /// Whether ids from sequences and uuids may be keys of sharded tables without the tenant column.
    pub trust_generated_keys: bool,
    /// Unique keys without the tenant column that shards keep together.
    pub global_unique: Vec<GlobalKey>,
    /// Of how many numbers of a shared sequence a shard gives one; above every shard's id.
    pub sequence_stride: i64,
    /// After how long without work its servers are left alone; none: never.
    pub sleeps_after: Option<Duration>,
    /// Whether literals of the simple protocol may become parameters.
    pub auto_prepare: bool,
    /// By rising id.
    pub shards: Vec<Shard>,
    pub map: Map,
    /// Per-database overrides of `[pool]`.
    pub pool_mode: Option<PoolMode>,
    pub pool_size: Option<usize>,
    /// Overrides of `[limits]`.
    pub clients: Option<usize>,
    pub timeouts: Timeouts<Option<Duration>>,
    /// Finds users who are no `[[user]]`: name → name, password.
    pub auth_query: Option<String>,
    /// How long its answers are kept.
    pub auth_cache: Duration,
    /// For the users it finds.
    pub server_auth: ServerAuth,
}

/// `[[database.shard]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    pub id: ShardId,
    pub primary: Host,
    pub replicas: Vec<Host>,
    /// Who says who leads; none: the servers themselves.
    pub patroni: Vec<PatroniApi>,
    /// Whether members that Patroni lists and nobody has written are hosts, too.
    pub patroni_members: bool,
    /// Of hosts for which something is written.
    pub preferences: BTreeMap<Host, Preference>,
}

/// How much a host is preferred among the replicas of its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// Its share of reads.
    pub weight: u16,
    pub region: Option<String>,
}

impl Default for Preference {
    fn default() -> Self {
        Self { weight: 1, region: None }
    }
}

impl Shard {
    /// How much a host of it is preferred.
    pub fn preference(&self, host: &Host) -> Preference {
        self.preferences.get(host).cloned().unwrap_or_default()
    }

    /// The hosts that are written, the primary first.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }

    /// Whether it has, or may come to have, another host than its primary.
    pub fn may_have_replicas(&self) -> bool {
        !self.replicas.is_empty() || !self.patroni.is_empty()
    }
}

/// A server, from `postgres://user:password@host:port/database?sslmode=require`. `Debug` never shows
/// the password.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
    pub tls: HostTls,
}

impl Host {
    /// Whether its host is a name, which may mean another server tomorrow.
    pub fn has_name(&self) -> bool {
        !self.host.starts_with('/') && self.host.parse::<std::net::IpAddr>().is_err()
    }

    /// The path of its Unix socket, if its host is a folder.
    pub fn unix_socket(&self) -> Option<String> {
        self.host.starts_with('/').then(|| format!("{}/.s.PGSQL.{}", self.host, self.port))
    }
}

/// Tenant overrides as written, before the key type is known.
pub type TenantOverrides = BTreeMap<Box<str>, ShardId>;

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("auth", &self.auth).finish()
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{self}/{}{}", self.user, self.database, self.tls)
    }
}
