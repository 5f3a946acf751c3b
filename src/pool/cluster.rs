//! An immutable snapshot: databases → shards → hosts → pools. A transaction loads one and uses it to
//! its end, so that a reload never changes the map under it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;
use parking_lot::Mutex;

use super::addresses::Addresses;
use super::control::Control;
use super::fallback::Fallback;
use super::in_doubt::InDoubts;
use super::listen::Hub;
use super::login::{Account, Accounts};
use super::lookup::Lookup;
use super::pool::{Pool, PoolLimits};
use super::quota::Quota;
use super::replay::{Log, Replayed};
use super::shard_state::{Arranged, ShardState};
use super::sleep::Sleep;
use super::standing::Standing;
use super::writes::Writes;
use crate::auth::scram::{ITERATIONS, Verifier};
use crate::auth::{AuthMethod, Secret};
use crate::balance;
use crate::catalog::Catalog;
use crate::catalog::sequence::Counters;
use crate::config::{self, Config, Host as Address, PoolMode, User};
use crate::error::{PgError, sqlstate};
use crate::metrics::{DatabaseMetrics, HostMetrics, Metrics};
use crate::net::Moment;
use crate::plan::cache::PlanCache;
use crate::server::PassedThrough;
use crate::shard::{Map, ShardId};

/// Statements longer than this are planned each time; their plans are not kept.
const PLAN_KEY_BYTES: usize = 64 * 1024;

/// How long Postgres waits for the last sessions of a database that is to be dropped.
const LEAVING: Duration = Duration::from_secs(5);

/// Everything a transaction needs to know of the configuration.
pub struct Cluster {
    pub config: Arc<Config>,
    /// By user: plain passwords as SCRAM verifiers, whose derivation takes thousands of hashes.
    pub verifiers: HashMap<String, Secret>,
    pub databases: HashMap<String, Arc<Database>>,
    /// Of the users who have logged in.
    pub accounts: Accounts,
    /// By host and port.
    pub quotas: Quotas,
}

/// The accounts of servers, which databases share.
type Quotas = HashMap<(String, u16), Arc<Quota>>;

/// A database as clients name it.
pub struct Database {
    pub name: Arc<str>,
    pub config: config::Database,
    pub shards: BTreeMap<ShardId, Shard>,
    pub state: Arc<DatabaseState>,
    limits: PoolLimits,
    pub mode: PoolMode,
    /// Whether any shard has replicas, or may come to have some.
    pub has_replicas: bool,
}

/// One shard's hosts, in the roles they were found in.
pub struct Shard {
    pub id: ShardId,
    /// Who takes writes, or last did.
    pub primary: Arc<Host>,
    /// Whether it does.
    pub has_primary: bool,
    pub replicas: Vec<Arc<Host>>,
    /// Where the primary's log was when.
    pub log: Arc<Log>,
    /// Hosts that are not used, and why.
    pub fenced: Vec<(Arc<Host>, String)>,
    pub state: Arc<ShardState>,
}

/// What outlives a reload of a database of the same name.
pub struct DatabaseState {
    /// `None` until the home shard's schema was read.
    pub catalog: ArcSwapOption<Catalog>,
    pub plans: PlanCache,
    pub metrics: DatabaseMetrics,
    /// Whether clients ask for `currval` and `lastval`, which another session's server must not tell.
    pub uses_sequences: AtomicBool,
    /// ParameterStatus values as a server of the home shard reports them, by user on the server.
    pub parameters: DashMap<String, Arc<BTreeMap<String, String>>>,
    /// Users that `auth_query` found.
    pub lookup: Lookup,
    /// What users have proved who log in to servers by it.
    passed: DashMap<String, Arc<PassedThrough>>,
    /// Where schemas of shards differ from the home shard's: a line each.
    pub drift: ArcSwap<Vec<String>>,
    /// The sequences of all shards but the home shard, as they last said.
    pub counters: Mutex<Counters>,
    /// Differences that the last load found, before they are told.
    pub drift_seen: Mutex<Vec<String>>,
    /// Why two-phase commit is impossible, by shard; empty if all can do it.
    pub no_two_phase: ArcSwap<BTreeMap<ShardId, String>>,
    /// Shards whose URL names a superuser, who may end what others have prepared.
    pub ends_all: ArcSwap<BTreeSet<ShardId>>,
    /// Transactions over shards that stand prepared.
    pub in_doubt: InDoubts,
    /// Whether its servers are left alone.
    pub sleep: Arc<Sleep>,
    /// Told when a load of the catalog has ended, so that a statement can wait for the next.
    pub refresh: tokio::sync::Notify,
    /// Wakes the task that loads it.
    pub wanted: tokio::sync::Notify,
    /// Loads begun and ended so far; they follow one another.
    pub loading: tokio::sync::Mutex<()>,
    pub begun: AtomicU64,
    /// Rises when the catalog is forgotten: a load that was under way then does not count.
    pub epoch: AtomicU64,
    /// Rises with DDL of a database of one shard, which does not need the catalog for it.
    pub altered: AtomicU64,
    pub ended: AtomicU64,
    /// What clients have written, for whoever reads it.
    pub writes: Arc<Writes>,
    /// What is known of each shard's hosts.
    shards: DashMap<ShardId, Arc<ShardState>>,
    pub is_paused: AtomicBool,
    /// LISTEN of all clients.
    pub listen: Hub,
}

/// A server, with what the health checks found and the pools to it.
pub struct Host {
    pub address: Address,
    pub database: String,
    pub shard: ShardId,
    pub is_primary: bool,
    pub metrics: HostMetrics,
    /// Of the server, which other databases may use too.
    quota: Arc<Quota>,
    pub control: Control,
    /// Of its name.
    pub addresses: Addresses,
    pub health: Health,
    /// Of a replica: how far it is.
    pub replayed: Arc<Replayed>,
    pub standing: Arc<Standing>,
    /// Reads of lost replicas, if it is a primary.
    pub fallback: Arc<Fallback>,
    pools: DashMap<Arc<str>, Arc<Pool>, foldhash::fast::RandomState>,
    is_gone: AtomicBool,
}

/// What is known of a host's state. Until the first check a host counts as well.
#[derive(Debug)]
pub struct Health {
    is_up: AtomicBool,
    /// Checks, one after the other, in which it said nothing at all.
    mute: AtomicU32,
    /// Why it is not up.
    pub problem: Mutex<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self { is_up: AtomicBool::new(true), mute: AtomicU32::new(0), problem: Mutex::default() }
    }
}

impl Health {
    /// Whether the host answers in its role.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Notes whether the host said anything in a check.
    pub fn note_mute(&self, is_mute: bool) {
        let checks = if is_mute { self.mute.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.mute.store(checks, Ordering::Relaxed);
    }

    /// In how many checks up to now it said nothing.
    pub fn mute_checks(&self) -> u32 {
        self.mute.load(Ordering::Relaxed)
    }

    /// Notes a check's outcome; whether it changed something.
    pub fn note(&self, outcome: Result<(), String>) -> bool {
        let is_up = outcome.is_ok();
        *self.problem.lock() = outcome.err().unwrap_or_default();
        self.is_up.swap(is_up, Ordering::Relaxed) != is_up
    }
}

impl DatabaseState {
    fn new(name: &str, config: &Config, metrics: &Metrics) -> Self {
        let metrics = metrics.database(name);
        Self {
            listen: Hub::new(metrics.listen.clone()),
            catalog: ArcSwapOption::empty(),
            plans: PlanCache::new(config.limits.plans, config.limits.plan_bytes, PLAN_KEY_BYTES),
            metrics,
            parameters: DashMap::new(),
            lookup: Lookup::default(),
            passed: DashMap::new(),
            drift: ArcSwap::default(),
            drift_seen: Mutex::default(),
            counters: Mutex::default(),
            uses_sequences: AtomicBool::new(false),
            no_two_phase: ArcSwap::default(),
            ends_all: ArcSwap::default(),
            in_doubt: InDoubts::default(),
            sleep: Arc::default(),
            refresh: tokio::sync::Notify::new(),
            wanted: tokio::sync::Notify::new(),
            loading: tokio::sync::Mutex::new(()),
            begun: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            altered: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            writes: Arc::default(),
            shards: DashMap::new(),
            is_paused: AtomicBool::new(false),
        }
    }
}

impl DatabaseState {
    /// What is known of a shard's hosts.
    fn shard(&self, id: ShardId) -> Arc<ShardState> {
        let make = || Arc::new(ShardState::new(id));
        Arc::clone(&self.shards.entry(id).or_insert_with(make))
    }

    /// Where what the user proves is kept.
    pub fn passed(&self, user: &str) -> Arc<PassedThrough> {
        Arc::clone(&self.passed.entry(user.to_owned()).or_default())
    }

    /// The schema has changed and cannot be read: nobody plans by the old one.
    pub fn forget_catalog(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.catalog.store(None);
        self.wanted.notify_one();
    }
}

/// When a host is chosen, and a number that is another for each request.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    pub now: Moment,
    pub number: u64,
}

impl Shard {
    /// Every host.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        let fenced = self.fenced.iter().map(|(host, _)| host);
        std::iter::once(&self.primary).chain(&self.replicas).chain(fenced)
    }

    /// Why a host is not used.
    pub fn why_fenced(&self, host: &Host) -> Option<&str> {
        let is_it = |it: &&(Arc<Host>, String)| std::ptr::eq(&*it.0, host);
        self.fenced.iter().find(is_it).map(|it| it.1.as_str())
    }

    /// Whether something new may be begun on the primary.
    pub fn is_open(&self) -> bool {
        self.has_primary && !self.state.is_paused() && !self.state.is_lost()
    }

    /// The first of [`Self::replicas_in_order`].
    pub fn idlest_replica(
        &self,
        Draw { now, number }: Draw,
        may_serve: impl Fn(&Host) -> bool,
    ) -> Option<&Arc<Host>> {
        balance::first(&self.replicas, number, |it| it.load(now), |it| may_serve(it))
    }

    /// The replicas that may serve and are up, the one to be preferred first.
    pub fn replicas_in_order(
        &self,
        Draw { now, number }: Draw,
        may_serve: impl Fn(&Host) -> bool,
    ) -> Vec<&Arc<Host>> {
        balance::order(&self.replicas, number, |it| it.load(now), |it| may_serve(it))
    }

    /// Whether there are replicas and none of them can be used.
    pub fn has_lost_replicas(&self, now: Moment) -> bool {
        !self.replicas.is_empty() && !self.replicas.iter().any(|it| it.load(now).is_up)
    }
}

impl Cluster {
    /// The snapshot of a configuration. Hosts and states of `old` that are still named stay as they
    /// are, with their connections.
    pub fn new(config: Arc<Config>, old: Option<&Self>, metrics: &Metrics) -> Self {
        let mut databases = HashMap::new();
        let quotas = QuotasInUse { old, quotas: RefCell::default() };
        for it in &config.databases {
            let previous = old.and_then(|old| old.databases.get(&it.name));
            let state = previous.map_or_else(
                || Arc::new(DatabaseState::new(&it.name, &config, metrics)),
                |old| Arc::clone(&old.state),
            );
            state.plans.bound(config.limits.plans, config.limits.plan_bytes);
            let database = Database::new(it, &config, state, previous, (&quotas, metrics));
            databases.insert(it.name.clone(), Arc::new(database));
        }
        let verifiers = verifiers(&config, old);
        let quotas = quotas.quotas.into_inner();
        // Pools have their new sizes by now.
        quotas.values().for_each(|it| it.set_limit(config.pool.host_size));
        Self { config, verifiers, databases, accounts: Accounts::default(), quotas }
    }

    /// Every host of every database.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.databases.values().flat_map(|it| it.hosts())
    }

    /// Before it is in force: from now on only its primaries tell where logs are.
    pub fn lead(&self) {
        for shard in self.databases.values().flat_map(|it| it.shards.values()) {
            shard.log.lead(&shard.primary, shard.state.line_of(&shard.primary.address));
        }
    }

    /// Closes the pools of hosts that `new` no longer has.
    pub fn close_gone(&self, new: &Self) {
        for host in self.hosts() {
            if new.hosts().any(|it| Arc::ptr_eq(it, host)) {
                continue;
            }
            // Still there and not the primary any more: what runs on it must not be told as done.
            let is_same = |it: &&Arc<Host>| {
                (&it.address, it.shard, &it.database) == (&host.address, host.shard, &host.database)
            };
            host.retire(host.is_primary && new.hosts().any(|it| is_same(&it)));
        }
    }
}

/// An account per server that is in use; those of `old` are kept.
struct QuotasInUse<'a> {
    old: Option<&'a Cluster>,
    quotas: RefCell<Quotas>,
}

impl QuotasInUse<'_> {
    fn of(&self, host: &Address) -> Arc<Quota> {
        let place = (host.host.clone(), host.port);
        let known = self.old.and_then(|it| it.quotas.get(&place));
        let make = || known.map_or_else(Quota::new, Arc::clone);
        Arc::clone(self.quotas.borrow_mut().entry(place).or_insert_with(make))
    }
}

/// Users who may log in by SCRAM with a password that is known in clear; those of `old` are kept.
fn verifiers(config: &Config, old: Option<&Cluster>) -> HashMap<String, Secret> {
    let mut found = HashMap::new();
    let by_scram = |it: &&User| it.auth == AuthMethod::ScramSha256 || !config.rules.is_empty();
    for user in config.users.iter().filter(by_scram) {
        let Secret::Plain(password) = &user.secret else { continue };
        let same = old.filter(|old| old.config.users.iter().any(|it| it == user));
        let known = same.and_then(|old| old.verifiers.get(&user.name)).cloned();
        let mut salt = [0; 16];
        if known.is_none() && getrandom::fill(&mut salt).is_err() {
            continue;
        }
        let derive = || Secret::Verifier(Verifier::derive(password, &salt, ITERATIONS).to_string());
        found.insert(user.name.clone(), known.unwrap_or_else(derive));
    }
    found
}

impl Database {
    fn new(
        it: &config::Database,
        config: &Config,
        state: Arc<DatabaseState>,
        previous: Option<&Arc<Self>>,
        (quotas, metrics): (&QuotasInUse<'_>, &Metrics),
    ) -> Self {
        let known: Vec<_> = previous.iter().flat_map(|it| it.hosts()).collect();
        let logs: HashMap<_, _> =
            previous.iter().flat_map(|it| it.shards.values()).map(|it| (it.id, &it.log)).collect();
        let host = |address: &Address, shard: ShardId, is_primary: bool| {
            let same = |old: &&Arc<Host>| {
                old.address == *address && old.shard == shard && old.is_primary == is_primary
            };
            let quota = quotas.of(address);
            let make =
                || Arc::new(Host::new(address, &it.name, (shard, is_primary), quota, metrics));
            known.iter().copied().find(same).map_or_else(make, Arc::clone)
        };
        let host = |shard: &config::Shard, address: &Address, is_primary: bool| {
            let is_new = !known.iter().any(|it| it.address == *address && it.shard == shard.id);
            let host = host(address, shard.id, is_primary);
            if is_new && state.shard(shard.id).has_joined(address) {
                // Written hosts are taken at their word until they were looked at.
                host.health.note(Err("not looked at yet".to_owned()));
            }
            host.standing.configure(config, &shard.preference(address));
            host
        };
        let shards = it.shards.iter().map(|shard| {
            let log = logs
                .get(&shard.id)
                .map_or_else(|| Log::new(&state.writes, &state.sleep), |it| Arc::clone(it));
            let known = state.shard(shard.id);
            let written: Vec<Address> = shard.hosts().cloned().collect();
            let Arranged { primary, has_primary, replicas, fenced } =
                known.arrange(&written, !shard.patroni.is_empty());
            let replica = |address: &Address| host(shard, address, false);
            let shard = Shard {
                id: shard.id,
                primary: host(shard, &primary, true),
                has_primary,
                replicas: replicas.iter().map(replica).collect(),
                fenced: fenced.iter().map(|(it, why)| (replica(it), why.clone())).collect(),
                log,
                state: known,
            };
            (shard.id, shard)
        });
        let database = Self {
            name: it.name.as_str().into(),
            config: it.clone(),
            shards: shards.collect(),
            state: Arc::clone(&state),
            limits: PoolLimits {
                size: it.pool_size.unwrap_or(config.pool.size),
                wait_timeout: config.pool.wait_timeout,
                connect_timeout: config.pool.connect_timeout,
                idle_timeout: config.pool.idle_timeout,
                max_lifetime: config.pool.max_lifetime,
                check_after: config.pool.check_after,
                prepared_statements: config.pool.prepared_statements,
                plan_cache_mode: config.pool.plan_cache_mode.clone(),
            },
            mode: it.pool_mode.unwrap_or(config.pool.mode),
            has_replicas: it.shards.iter().any(config::Shard::may_have_replicas),
        };
        for pool in database.hosts().flat_map(|it| it.pools()) {
            pool.set_limits(database.limits.clone());
            pool.serve_waiters();
        }
        database
    }

    /// How many reads of lost replicas a primary takes at once; none: as many as come.
    pub fn fallback(&self, percent: u32) -> Option<usize> {
        let share = (self.limits.size * percent as usize).div_ceil(100);
        (percent < 100).then_some(share)
    }

    /// Whether rows lie on several shards; if not, every statement goes to the home shard as it is.
    pub fn is_sharded(&self) -> bool {
        self.config.tenant_column.is_some() && self.shards.len() > 1
    }

    /// Which shard owns which tenant.
    pub fn map(&self) -> &Map {
        &self.config.map
    }

    /// The shard of home tables.
    pub fn home(&self) -> &Shard {
        &self.shards[&self.config.home_shard]
    }

    /// Every host.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.shards.values().flat_map(Shard::hosts)
    }

    /// The user's pool to a host; made on first use.
    pub fn pool(&self, host: &Host, account: &Account) -> Arc<Pool> {
        let Account { user, login } = account;
        if let Some(pool) = host.pools.get(&login.key) {
            return Arc::clone(&pool);
        }
        let make = || {
            let target = login.target(user, &self.config.name, &host.address);
            let shared = (Arc::clone(&host.standing), Arc::clone(&host.replayed));
            let state = self.shards.get(&host.shard).filter(|_| host.is_primary);
            let pool = Pool::new(
                target,
                self.limits.clone(),
                host.metrics.clone(),
                shared,
                Arc::clone(&host.quota),
                state.map(|it| Arc::clone(&it.state)),
            );
            if self.state.is_paused.load(Ordering::Relaxed) {
                pool.pause();
            }
            if let Some(addresses) = host.addresses.now() {
                pool.move_to(&addresses);
            }
            pool
        };
        let pool = Arc::clone(&host.pools.entry(Arc::clone(&login.key)).or_insert_with(make));
        // After it can be found: see `Host::retire`.
        if host.is_gone.load(Ordering::SeqCst) {
            pool.close();
        }
        pool
    }
}

impl Host {
    fn new(
        address: &Address,
        database: &str,
        (shard, is_primary): (ShardId, bool),
        quota: Arc<Quota>,
        metrics: &Metrics,
    ) -> Self {
        let role = if is_primary { "primary" } else { "replica" };
        let labels = (shard.to_string(), address.to_string());
        let standing = metrics.standing([database, &labels.0, role, &labels.1]);
        let replayed = Arc::<Replayed>::default();
        let forgotten = Arc::clone(&replayed);
        Self {
            metrics: metrics.host(database, &labels.0, role, &labels.1),
            quota,
            control: Control::new(address, move || forgotten.forget()),
            addresses: Addresses::default(),
            address: address.clone(),
            database: database.to_owned(),
            shard,
            is_primary,
            health: Health::default(),
            replayed,
            standing: Arc::new(Standing::new(standing)),
            fallback: Arc::default(),
            pools: DashMap::default(),
            is_gone: AtomicBool::new(false),
        }
    }

    /// It is in no snapshot any more, in this role: its pools are closed, also those that whoever looks at an
    /// old one would make. `fences`: what runs there must not be told as done.
    fn retire(&self, fences: bool) {
        self.is_gone.store(true, Ordering::SeqCst);
        for pool in self.pools() {
            if fences {
                pool.fence();
            }
            pool.close();
        }
    }

    /// `primary` or `replica`.
    pub fn role(&self) -> &'static str {
        if self.is_primary { "primary" } else { "replica" }
    }

    /// What its numbers are told by: database, shard, role, address.
    pub fn labels(&self) -> (&str, String, &'static str, String) {
        (&self.database, self.shard.to_string(), self.role(), self.address.to_string())
    }

    /// The pools of all users.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.iter().map(|it| Arc::clone(&it)).collect()
    }

    /// Takes note of what its name means now; connections to what it does not mean any more are closed as
    /// soon as nobody uses them. Gives all its addresses if they have changed.
    pub fn note_addresses(&self, found: &[IpAddr]) -> Option<Arc<[IpAddr]>> {
        let addresses = self.addresses.note(found)?;
        self.control.move_to(&addresses);
        self.pools().iter().for_each(|it| it.move_to(&addresses));
        Some(addresses)
    }

    /// Closes idle connections, the control plane's too, for as long as a server that is to drop the
    /// database waits for its sessions to end.
    pub fn leave(self: &Arc<Self>) {
        let host = Arc::clone(self);
        tokio::spawn(async move {
            let end = Instant::now() + LEAVING;
            while Instant::now() < end {
                host.control.close_idle();
                host.pools().iter().for_each(Pool::close_idle);
                tokio::time::sleep(LEAVING / 50).await;
            }
        });
    }

    /// What picking a host needs to know.
    pub fn load(&self, now: Moment) -> balance::Load {
        let load = self.standing.load(now);
        balance::Load { is_up: load.is_up && self.health.is_up(), ..load }
    }

    /// Why nobody is let through to it now.
    pub fn left_alone(&self, now: Moment) -> PgError {
        let wait = self.standing.wait(now);
        PgError::new(
            sqlstate::CANNOT_CONNECT_NOW,
            format!(
                "the {} of shard {}, {}, is left alone for now",
                self.role(),
                self.shard,
                self.address
            ),
        )
        .passing()
        .detail(format!(
            "it has failed again and again; it is tried again in {} s",
            wait.as_secs() + 1
        ))
        .hint("try again; SHOW HOSTS on the admin console tells the state of every host")
    }

    /// Connections in use, of all users.
    pub fn outstanding(&self) -> usize {
        self.standing.outstanding()
    }
}
