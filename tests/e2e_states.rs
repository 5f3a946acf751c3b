//! A proxy that is started in any state: with servers down, full, or under other addresses than before.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pgsluice::playground::{Cluster, Node, Stop};
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::relay::Relay;
use support::wire::Wire;

// Tenant 1 lives on shard 1, whose hash begins with c4; tenant 6 on shard 0: md5('6') begins with 16.
const TENANTS: [i64; 2] = [6, 1];

const REPLICA: &str = "/* sluice.role=replica */";

/// One test after the other: a stopped server's port is to be nobody else's.
static TURN: Mutex<()> = Mutex::new(());

/// A table by tenant, on every shard.
fn make_table(cluster: &Cluster) {
    let sql = "CREATE TABLE t (tenant_id bigint, a int); ALTER TABLE t OWNER TO app";
    cluster.sql_everywhere("app", sql).unwrap();
}

fn spec(cluster: &Cluster) -> ProxySpec {
    let mut spec = ProxySpec::of(cluster, "app");
    spec.database.push_str("failover_wait = \"15s\"\n");
    spec.limits = "login_timeout = \"60s\"\n".into();
    spec
}

fn start_all(cluster: &Cluster) {
    thread::scope(|scope| {
        cluster.all().for_each(|it| drop(scope.spawn(|| it.start().unwrap())));
    });
}

#[test]
fn everything_is_down_at_the_start() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = support::own(2, 1);
    make_table(&cluster);
    cluster.wait_for_replicas().unwrap();
    cluster.all().for_each(|it| it.stop(Stop::Immediate));
    let mut spec = spec(&cluster);
    let secret = "auth_query = \"SELECT 'found'::text, 'secret'::text WHERE $1 = 'found'\"\n";
    spec.database.push_str(secret);
    let proxy = Proxy::start(spec);
    assert!(proxy.show("SHARDS", "up").iter().all(|it| it == "false"));
    let port = proxy.port;
    let work = move |user: &str, password: &str, a: usize| {
        let mut client = Wire::login(port, user, password, "app").unwrap();
        for tenant in TENANTS {
            client.run(&format!("INSERT INTO t VALUES ({tenant}, {a})"));
        }
        client.run("SELECT count(*) FROM t").first().parse::<usize>().unwrap()
    };
    thread::scope(|scope| {
        let mut waiting: Vec<_> =
            (0..6).map(|a| scope.spawn(move || work("app", "app", a))).collect();
        waiting.push(scope.spawn(move || work("found", "secret", 6)));
        thread::sleep(Duration::from_millis(500));
        assert!(waiting.iter().all(|it| !it.is_finished()), "{}", proxy.log());
        start_all(&cluster);
        let counts: Vec<_> = waiting.into_iter().map(|it| it.join().unwrap()).collect();
        assert!(counts.contains(&(2 * 7)), "{counts:?}");
    });
    // Told in time if they do not come, with the shard's name.
    cluster.all().for_each(|it| it.stop(Stop::Immediate));
    let mut spec = ProxySpec::of(&cluster, "app");
    spec.database.push_str("failover_wait = \"1s\"\n");
    let proxy = Proxy::start(spec);
    let begun = Instant::now();
    let error = Wire::login(proxy.port, "app", "app", "app").err().unwrap();
    assert_eq!((error.0.as_str(), error.1.contains("shard 0 ")), ("57P03", true), "{error:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // Replicas alone: nobody knows what the primary had, so they are read only if that is asked for.
    cluster.server(Node::Replica(0, 0)).start().unwrap();
    cluster.server(Node::Replica(1, 0)).start().unwrap();
    wait_for("the replicas", || {
        Wire::login(proxy.port, "app", "app", "app").is_ok_and(|mut it| {
            it.query(&format!("{REPLICA} SELECT count(*) FROM t")).error.is_none()
        })
    });
    let mut client = proxy.client();
    assert_eq!(client.query("SELECT count(*) FROM t").code(), "57P03");
    client.run("SET sluice.role = 'replica'");
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "14");
    assert_eq!(client.run("SELECT count(*) FROM t WHERE tenant_id = 1").first(), "7");
    assert_eq!(client.query("INSERT INTO t VALUES (1, 1)").code(), "57P03");
    start_all(&cluster);
    wait_for("writes", || client.query("INSERT INTO t VALUES (1, 1)").error.is_none());
}

/// With one shard down at the start: what needs it fails with its name, all else works.
#[test]
fn one_shard_is_missing_at_the_start() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = support::own(3, 0);
    make_table(&cluster);
    let mut spec = ProxySpec::of(&cluster, "app");
    spec.database.push_str("global_unique = [\"u(mail)\"]\n");
    let sql = "CREATE TABLE u (tenant_id bigint, mail text UNIQUE)";
    Proxy::start(spec.clone()).client().run(sql);
    // Of three shards: 0 has tenant 6, 2 has tenant 1.
    cluster.server(Node::Primary(2)).stop(Stop::Immediate);
    let proxy = Proxy::start(spec.clone());
    let mut client = proxy.client();
    client.run("INSERT INTO t VALUES (6, 1)");
    assert_eq!(client.run("SELECT a FROM t WHERE tenant_id = 6").first(), "1");
    client.run("CREATE TEMP TABLE mine (a int)");
    for sql in [
        "INSERT INTO t VALUES (1, 1)",
        "SELECT count(*) FROM t",
        "UPDATE t SET a = 2",
        "CREATE TABLE more (a int)",
        "INSERT INTO u VALUES (1, 'a@b')",
    ] {
        let (code, message) = client.query(sql).error.unwrap();
        assert_eq!((code.as_str(), message.contains("shard 2 ")), ("57P03", true), "{message}");
    }
    // A value that the missing shard keeps fails with its name; others do not need it.
    let mut kept = 0;
    for number in 0..6 {
        let answer = client.query(&format!("INSERT INTO u VALUES (6, 'u{number}')"));
        match answer.error {
            None => kept += 1,
            Some((code, message)) => {
                assert_eq!(
                    (code.as_str(), message.contains("shard 2 ")),
                    ("57P03", true),
                    "{message}"
                );
            }
        }
    }
    assert!((1..6).contains(&kept), "{kept}");
    cluster.server(Node::Primary(2)).start().unwrap();
    wait_for("shard 2", || client.query("INSERT INTO t VALUES (1, 1)").error.is_none());
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "2");
    wait_for("keys over all shards", || {
        client.query("INSERT INTO u VALUES (1, 'e@f')").error.is_none()
    });
    assert_eq!(client.query("INSERT INTO u VALUES (6, 'e@f')").code(), "23505");
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1, 2), (6, 2)");
    client.run("COMMIT");
    // The home shard: nothing is guessed of its schema, and all works once it is there.
    cluster.server(Node::Primary(0)).stop(Stop::Immediate);
    let proxy = Proxy::start(spec);
    let error = Wire::login(proxy.port, "app", "app", "app").err().unwrap();
    assert_eq!((error.0.as_str(), error.1.contains("shard 0 ")), ("57P03", true), "{error:?}");
    cluster.server(Node::Primary(0)).start().unwrap();
    wait_for("shard 0", || Wire::login(proxy.port, "app", "app", "app").is_ok());
    assert_eq!(proxy.client().run("SELECT count(*) FROM t").first(), "4");
    assert_eq!(proxy.client().query("INSERT INTO u VALUES (6, 'e@f')").code(), "23505");
}

/// All connections that a server has for whoever is no superuser.
fn take_all(cluster: &Cluster, shard: usize) -> Vec<Wire> {
    let mut taken = Vec::new();
    while let Ok(it) = Wire::login(cluster.primary_port(shard), "app", "app", "app") {
        taken.push(it);
    }
    taken
}

#[test]
fn strangers_have_all_connections() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut small = support::spec(2, 0);
    small.max_connections = 14;
    let cluster = support::start(small);
    make_table(&cluster);
    let mut taken = [take_all(&cluster, 0), take_all(&cluster, 1)];
    assert!(taken.iter().all(|it| it.len() >= 10));
    let proxy = Proxy::start(spec(&cluster));
    let port = proxy.port;
    // Logins, the schema and statements wait, here beyond what the server itself would take.
    thread::scope(|scope| {
        let work = |a: usize| {
            let mut client = Wire::login(port, "app", "app", "app").unwrap();
            for tenant in TENANTS {
                client.run(&format!("INSERT INTO t VALUES ({tenant}, {a})"));
            }
        };
        let waiting: Vec<_> = (0..8).map(|a| scope.spawn(move || work(a))).collect();
        thread::sleep(Duration::from_millis(1500));
        assert!(waiting.iter().all(|it| !it.is_finished()), "{}", proxy.log());
        // A control connection and two for clients.
        taken.iter_mut().for_each(|it| it.truncate(it.len() - 3));
        waiting.into_iter().for_each(|it| it.join().unwrap());
    });
    let mut client = proxy.client();
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "16");
    // They come again while it runs.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let work = |number: usize| {
            let mut client = Wire::login(port, "app", "app", "app").unwrap();
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                let tenant = TENANTS[(number + done) % 2];
                client.run(&format!("INSERT INTO t VALUES ({tenant}, 100)"));
                done += 1;
            }
            done
        };
        let working: Vec<_> = (0..12).map(|it| scope.spawn(move || work(it))).collect();
        for _ in 0..4 {
            taken = [take_all(&cluster, 0), take_all(&cluster, 1)];
            thread::sleep(Duration::from_millis(400));
            drop(proxy.client());
            taken.iter_mut().for_each(Vec::clear);
            thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
        let done: Vec<usize> = working.into_iter().map(|it| it.join().unwrap()).collect();
        assert!(done.iter().all(|it| *it > 0), "{done:?}");
    });
    assert!(!proxy.log().contains("left alone"), "{}", proxy.log());
}

/// A file of host names that only the proxy's process sees.
struct Names(std::path::PathBuf);

impl Names {
    /// In place: the proxy sees this very file.
    fn say(&self, address: &str) {
        let mut file =
            std::fs::OpenOptions::new().write(true).truncate(true).open(&self.0).unwrap();
        write!(file, "127.0.0.1 localhost\n{address}").unwrap();
    }
}

#[test]
fn a_name_means_another_address() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = support::own(2, 0);
    for shard in 0..2 {
        let sql =
            format!("CREATE TABLE who AS SELECT {shard} AS shard; ALTER TABLE who OWNER TO app");
        cluster.sql(Node::Primary(shard), "app", &sql).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let names = Names(dir.path().join("hosts"));
    std::fs::write(&names.0, "127.0.0.1 localhost\n").unwrap();
    // The same port at two addresses.
    let port = cluster.primary_port(0);
    let other = Relay::start_at("127.0.0.2", port, cluster.primary_port(1));
    let mut spec = ProxySpec::over(&[(port, Vec::new(), "app".to_owned())]);
    spec.host = "db.example".to_owned();
    spec.pool = "size = 4\ndns_ttl = \"1s\"\n".to_owned();
    spec.database = "failover_wait = \"15s\"\n".to_owned();
    spec.hosts = Some(names.0.clone());
    // A name that is not found holds nothing up.
    let proxy = Proxy::start(spec);
    assert_eq!(proxy.show("SHARDS", "up"), ["false"], "{}", proxy.log());
    let mut held = thread::scope(|scope| {
        let early = scope.spawn(|| proxy.client());
        thread::sleep(Duration::from_millis(300));
        names.say("127.0.0.1 db.example\n");
        early.join().unwrap()
    });
    let mut idle = proxy.client();
    let who = |client: &mut Wire| client.run("SELECT shard FROM who").first();
    assert_eq!((who(&mut held), who(&mut idle)), ("0".to_owned(), "0".to_owned()));
    held.run("BEGIN");
    assert_eq!((who(&mut held), who(&mut idle)), ("0".to_owned(), "0".to_owned()));
    // Names that cannot be looked up for a while change nothing.
    names.say("");
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(who(&mut idle), "0");
    names.say("127.0.0.2 db.example\n");
    let begun = Instant::now();
    wait_for("the other server", || who(&mut idle) == "1");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // What runs ends where it began.
    assert_eq!(who(&mut held), "0");
    held.run("COMMIT");
    assert_eq!(who(&mut held), "1");
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
    wait_for("no connection to the old address", || {
        cluster.sql(Node::Primary(0), "app", sql).unwrap()[0][0].as_deref() == Some("0")
    });
    drop(other);
}
