//! Two shards of three servers, two proxies, and a relay between every proxy and every server.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::playground::{Cluster, ClusterSpec, Node};
use pgsluice::shard::{Key, KeyType};

use super::history::{Item, Lists, Tenant};
use super::plan::{HOSTS, PROXIES, SHARDS, Way};
use super::support;
use super::support::proxy::{Proxy, ProxySpec};
use super::support::relay::{Mode, Relay};

/// Tenants that have money, and how much each.
pub const ACCOUNTS: Tenant = 16;
pub const CENTS: i64 = 1_000;
/// The sum of a tenant's two pots.
pub const POT: i64 = 100;

/// What is under test. Servers of a shard are numbered: 0 was its first primary.
pub struct Site {
    pub cluster: Cluster,
    proxies: Vec<Mutex<Proxy>>,
    pub ports: Vec<u16>,
    /// By proxy, shard and server.
    relays: Vec<Vec<Vec<Relay>>>,
    /// The number of each shard's primary.
    primaries: [AtomicUsize; SHARDS],
    clocks: Option<tempfile::TempDir>,
}

impl Site {
    /// Commits wait for a replica, so that a promotion loses none of them.
    pub fn start() -> Self {
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let settings = vec![
            own("synchronous_standby_names", "ANY 1 (*)"),
            own("wal_receiver_timeout", "5s"),
            own("wal_sender_timeout", "5s"),
        ];
        let hba = vec!["host all app 127.0.0.1/32 trust".to_owned()];
        let spec = support::spec(SHARDS, HOSTS - 1);
        let cluster = support::start(ClusterSpec { settings, hba, ..spec });
        make_tables(&cluster);
        let (mut proxies, mut relays) = (Vec::new(), Vec::new());
        let clocks = clock_library().map(|_| tempfile::tempdir().unwrap());
        for proxy in 0..PROXIES {
            let relay = |shard, host| Relay::start(cluster.server(node(shard, host)).port);
            let of_shard = |shard| (0..HOSTS).map(|host| relay(shard, host)).collect();
            let own: Vec<Vec<Relay>> = (0..SHARDS).map(of_shard).collect();
            let place = |it: &Vec<Relay>| {
                let replicas = it[1..].iter().map(|it| it.port).collect();
                (it[0].port, replicas, "app".to_owned())
            };
            let mut spec = ProxySpec::over(&own.iter().map(place).collect::<Vec<_>>());
            spec.parameters = "?sslmode=disable".to_owned();
            spec.pool = "size = 12\nwait_timeout = \"3s\"\nconnect_timeout = \"2s\"\n".to_owned();
            // One tells its clients of blocks that were cut off, the others repeat them.
            let resumes = proxy > 0;
            spec.database = format!(
                "tenant_column = \"tenant_id\"\nhome_shard = 0\nresume_transactions = {resumes}\n"
            );
            if let Some(dir) = &clocks {
                spec.environment = clock_environment(&dir.path().join(proxy.to_string()));
            }
            proxies.push(Mutex::new(Proxy::start(spec)));
            relays.push(own);
        }
        let ports = proxies.iter().map(|it| it.lock().unwrap().port).collect();
        Self { cluster, proxies, ports, relays, primaries: Default::default(), clocks }
    }

    /// Whether proxies' clocks can be moved: where libfaketime is installed.
    pub fn has_clocks(&self) -> bool {
        self.clocks.is_some()
    }

    /// Moves a proxy's clock by so many seconds from the true time.
    pub fn set_clock(&self, proxy: usize, seconds: i64) {
        if let Some(dir) = &self.clocks {
            fs::write(dir.path().join(proxy.to_string()), format!("{seconds:+}s\n")).unwrap();
        }
    }

    pub fn kill_proxy(&self, proxy: usize) {
        let mut proxy = self.proxies[proxy].lock().unwrap();
        let log = proxy.log();
        assert!(!log.contains("panicked"), "{log}");
        // Two faults of one moment may mean the same.
        if proxy.is_running() {
            proxy.kill9();
        }
    }

    pub fn restart_proxy(&self, proxy: usize) {
        let mut proxy = self.proxies[proxy].lock().unwrap();
        if !proxy.is_running() {
            proxy.restart();
        }
    }

    pub fn signal_proxy(&self, proxy: usize, signal: Signal) {
        let mut proxy = self.proxies[proxy].lock().unwrap();
        if proxy.is_running() {
            proxy.signal(signal);
        }
    }

    /// What the proxy logged since its last start.
    pub fn log(&self, proxy: usize) -> String {
        self.proxies[proxy].lock().unwrap().log()
    }

    pub fn primary(&self, shard: usize) -> Node {
        node(shard, self.primaries[shard].load(Ordering::SeqCst))
    }

    /// A replica by its place behind the primary.
    pub fn replica(&self, shard: usize, place: usize) -> Node {
        self.replicas(shard)[place]
    }

    fn replicas(&self, shard: usize) -> Vec<Node> {
        let primary = self.primaries[shard].load(Ordering::SeqCst);
        (0..HOSTS).filter(|it| *it != primary).map(|it| node(shard, it)).collect()
    }

    /// Cuts a proxy off from a server; `None` heals.
    pub fn cut(&self, proxy: usize, (shard, host): (usize, usize), way: Option<Way>) {
        let relay = &self.relays[proxy][shard][host];
        match way {
            None => relay.set(Mode::Open),
            Some(Way::Refused) => relay.set(Mode::Refused),
            Some(Way::Silent) => relay.set(Mode::Silent),
            Some(Way::Deaf) => relay.set(Mode::Deaf),
            Some(Way::Slow(ms)) => relay.set(Mode::Slow(Duration::from_millis(ms))),
            Some(Way::Once) => (),
        }
        if matches!(way, Some(Way::Refused | Way::Once)) {
            relay.cut();
        }
    }

    /// Kills the primary and promotes the replica that has got furthest; how long that took. `None`: the
    /// replicas have not got everything that anybody may have seen, so that this is no time for it.
    pub fn promote(&self, shard: usize) -> Option<Promotion> {
        let old = self.primary(shard);
        // What was read so far must be on a replica, also what a crash has left unconfirmed.
        let sql = "SELECT pg_current_wal_insert_lsn()";
        let end = one(&self.cluster.sql(old, "postgres", sql).ok()?);
        let sql = format!("SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= '{end}'");
        let have = || self.cluster.sql(old, "postgres", &sql).is_ok_and(|it| one(&it) == "2");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !have() {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let killed = Instant::now();
        self.cluster.server(old).kill9();
        let replicas = self.replicas(shard);
        let received = |it: &Node| {
            let sql = "SELECT (pg_last_wal_receive_lsn() - '0/0')::text";
            one(&self.cluster.sql(*it, "postgres", sql).unwrap()).parse::<u64>().unwrap()
        };
        let new = *replicas.iter().max_by_key(|it| received(it)).unwrap();
        let promoted = self.cluster.sql(new, "postgres", "SELECT pg_promote(true, 30)").unwrap();
        assert_eq!(one(&promoted), "t");
        let took = killed.elapsed();
        let number = (0..HOSTS).find(|it| node(shard, *it) == new).unwrap();
        self.primaries[shard].store(number, Ordering::SeqCst);
        let port = self.cluster.server(new).port;
        for other in replicas.into_iter().filter(|it| *it != new) {
            self.cluster.follow(other, port).unwrap();
        }
        Some(Promotion { shard, old, new, killed, took })
    }

    /// Servers that follow one.
    fn followers(&self, node: Node) -> usize {
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        let rows = self.cluster.sql(node, "postgres", sql);
        rows.ok().and_then(|it| one(&it).parse().ok()).unwrap_or_default()
    }

    /// Makes the old primary a replica of the new one.
    pub fn rebuild(&self, it: &Promotion) {
        self.cluster.rebuild(it.old, self.cluster.server(it.new).port).unwrap();
    }

    /// Everything is up and connected, and replicas have what their primaries have.
    pub fn heal(&self) {
        for (proxy, shard, host) in all_links() {
            self.cut(proxy, (shard, host), None);
        }
        (0..PROXIES).for_each(|it| self.set_clock(it, 0));
        for shard in 0..SHARDS {
            let primary = self.primary(shard);
            self.cluster.server(primary).start().unwrap();
            for replica in self.replicas(shard) {
                self.cluster.server(replica).start().unwrap();
            }
            support::proxy::wait_for("replication", || self.followers(primary) == HOSTS - 1);
        }
    }

    /// Waits until nothing stands prepared; how long it took.
    pub fn wait_for_orphans(&self) -> Duration {
        let begun = Instant::now();
        let sql = "SELECT count(*) FROM pg_prepared_xacts";
        let count = |it| one(&self.cluster.sql(self.primary(it), "app", sql).unwrap());
        support::proxy::wait_within(10, "orphans to be ended", || {
            (0..SHARDS).all(|it| count(it) == "0")
        });
        begun.elapsed()
    }

    /// Every list, from the primaries. Replicas must have the same.
    pub fn lists(&self) -> Lists {
        let mut lists = Lists::new();
        for shard in 0..SHARDS {
            let sql = "SELECT tenant_id, items FROM lists ORDER BY tenant_id";
            let read = |it| self.cluster.sql(it, "app", sql).unwrap();
            let rows = read(self.primary(shard));
            for replica in self.replicas(shard) {
                support::proxy::wait_for("the same on replicas", || read(replica) == rows);
            }
            for row in rows {
                let tenant = row[0].as_deref().unwrap().parse().unwrap();
                let before = lists.insert(tenant, items_of(row[1].as_deref().unwrap()));
                assert_eq!(before, None, "tenant {tenant} is on two shards");
            }
        }
        lists
    }

    /// Where lists are.
    pub fn shards_of(&self, lists: &Lists) -> BTreeMap<Tenant, usize> {
        let key = |it: &Tenant| Key::from_text(KeyType::Int, &it.to_string()).unwrap();
        let shard = |it: &Tenant| usize::from(key(it).bucket()) * SHARDS / 256;
        lists.keys().map(|it| (*it, shard(it))).collect()
    }

    /// All accounts' money.
    pub fn money(&self) -> i64 {
        let sql = "SELECT coalesce(sum(cents), 0) FROM accounts";
        let of = |it| one(&self.cluster.sql(self.primary(it), "app", sql).unwrap());
        (0..SHARDS).map(|it| of(it).parse::<i64>().unwrap()).sum()
    }
}

/// A primary that was replaced.
pub struct Promotion {
    pub shard: usize,
    pub old: Node,
    pub new: Node,
    pub killed: Instant,
    pub took: Duration,
}

/// A list as its row has it.
pub fn items_of(text: &str) -> Vec<Item> {
    text.split_whitespace().map(|it| it.parse().unwrap()).collect()
}

/// Proxy, shard, server.
pub fn all_links() -> impl Iterator<Item = (usize, usize, usize)> {
    let shards = |proxy| (0..SHARDS).map(move |shard| (proxy, shard));
    let hosts = |(proxy, shard)| (0..HOSTS).map(move |host| (proxy, shard, host));
    (0..PROXIES).flat_map(shards).flat_map(hosts)
}

fn node(shard: usize, host: usize) -> Node {
    match host {
        0 => Node::Primary(shard),
        replica => Node::Replica(shard, replica - 1),
    }
}

fn one(rows: &pgsluice::playground::Rows) -> String {
    rows.first().and_then(|row| row[0].clone()).unwrap_or_default()
}

fn make_tables(cluster: &Cluster) {
    let sql = "GRANT CREATE ON DATABASE app TO app; SET ROLE app; \
        CREATE TABLE lists (tenant_id bigint PRIMARY KEY, items text NOT NULL); \
        CREATE TABLE accounts (tenant_id bigint PRIMARY KEY, cents bigint NOT NULL); \
        CREATE TABLE pots (tenant_id bigint, id int, cents bigint NOT NULL, \
        PRIMARY KEY (tenant_id, id))";
    cluster.sql_everywhere("app", sql).unwrap();
    // Each on its shard: by a proxy that is there for this only.
    let proxy = Proxy::start(ProxySpec::of(cluster, "app"));
    let mut client = proxy.client();
    for tenant in 1..=ACCOUNTS {
        client.run(&format!("INSERT INTO accounts VALUES ({tenant}, {CENTS})"));
        client.run(&format!("INSERT INTO pots VALUES ({tenant}, 0, {POT}), ({tenant}, 1, 0)"));
    }
    cluster.wait_for_replicas().unwrap();
}

/// A library that shows a process another time.
fn clock_library() -> Option<PathBuf> {
    ["x86_64", "aarch64"]
        .map(|it| PathBuf::from(format!("/usr/lib/{it}-linux-gnu/faketime/libfaketimeMT.so.1")))
        .into_iter()
        .find(|it| it.exists())
}

fn clock_environment(file: &std::path::Path) -> Vec<(String, String)> {
    fs::write(file, "+0s\n").unwrap();
    let library = clock_library().unwrap_or_default();
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
