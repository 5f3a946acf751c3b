//! A primary is lost, another host is promoted: clients wait, and nothing that was acknowledged is lost.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use pgsluice::playground::{Cluster, Node};
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::wire::Wire;

/// One test after the other: a killed server's port is to be nobody else's.
static TURN: Mutex<()> = Mutex::new(());

const PRIMARY: Node = Node::Primary(0);
const REPLICA: Node = Node::Replica(0, 0);

fn sql(cluster: &Cluster, node: Node, sql: &str) -> String {
    let rows = cluster.sql(node, "app", sql).unwrap();
    rows.first().and_then(|row| row[0].clone()).unwrap_or_default()
}

/// One shard with a replica whose every commit the replica has, and a table `t (a bigint)`.
fn one_shard() -> Cluster {
    let cluster = support::own(1, 1);
    sql(&cluster, PRIMARY, "CREATE TABLE t (a bigint); ALTER TABLE t OWNER TO app");
    cluster.wait_for_replicas().unwrap();
    sql(&cluster, PRIMARY, "ALTER SYSTEM SET synchronous_standby_names = '*'");
    sql(&cluster, PRIMARY, "SELECT pg_reload_conf()");
    sql(&cluster, REPLICA, "ALTER SYSTEM SET synchronous_standby_names = ''");
    cluster
}

fn proxy(cluster: &Cluster) -> Proxy {
    let spec = ProxySpec::of(cluster, "app");
    Proxy::start(ProxySpec { database: "failover_wait = \"10s\"\n".to_owned(), ..spec })
}

fn promote(cluster: &Cluster) {
    assert_eq!(sql(cluster, REPLICA, "SELECT pg_promote()"), "t");
}

/// What clients have done that write one number after the other, each in a statement of its own or in a
/// block.
#[derive(Default)]
struct Written {
    acknowledged: BTreeSet<i64>,
    in_doubt: BTreeSet<i64>,
    failed: BTreeSet<i64>,
    errors: Vec<String>,
    /// When each was acknowledged.
    moments: Vec<Instant>,
}

fn write_on(port: u16, number: i64, stop: &AtomicBool, written: &Mutex<Written>) {
    let mut client = Wire::login(port, "app", "app", "app").unwrap();
    let mut next = number * 1_000_000;
    while !stop.load(Ordering::Relaxed) {
        next += 1;
        let insert = format!("INSERT INTO t VALUES ({next})");
        let is_block = next % 2 == 0;
        let steps = match is_block {
            true => vec!["BEGIN".to_owned(), insert, "COMMIT".to_owned()],
            false => vec![insert],
        };
        let mut outcome = None;
        for step in &steps {
            let answer = client.query(step);
            if let Some(error) = answer.error {
                outcome = Some(error);
                break;
            }
        }
        let mut written = written.lock().unwrap();
        match outcome {
            None => {
                written.acknowledged.insert(next);
                written.moments.push(Instant::now());
            }
            Some((code, message)) => {
                match code.as_str() {
                    "08006" => written.failed.insert(next),
                    _ => written.in_doubt.insert(next),
                };
                written.errors.push(format!("{next}: {code} {message}"));
                drop(written);
                client.query("ROLLBACK");
            }
        }
    }
}

#[test]
fn a_killed_primary_costs_waiting() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = one_shard();
    let proxy = proxy(&cluster);
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
    let (mut lost, mut can_read) = (Duration::ZERO, false);
    thread::scope(|scope| {
        for number in 0..8 {
            let (stop, written) = (&stop, &written);
            let port = proxy.port;
            scope.spawn(move || write_on(port, number, stop, written));
        }
        thread::sleep(Duration::from_millis(700));
        cluster.server(PRIMARY).kill9();
        thread::sleep(Duration::from_millis(500));
        // Reads go on that need not see what was just written.
        let mut reader = proxy.client();
        let read = reader.query("/* sluice.role=replica */ SELECT count(*) > 0 FROM t");
        can_read = read.error.is_none() && read.first() == "t";
        let begun = Instant::now();
        promote(&cluster);
        let promoted = Instant::now();
        println!("promotion took {:?}", promoted - begun);
        thread::sleep(Duration::from_millis(1500));
        stop.store(true, Ordering::Relaxed);
        let written: &Mutex<Written> = &written;
        let moments = &written.lock().unwrap().moments;
        let first = moments.iter().filter(|it| **it > begun).min().copied();
        lost = first.map_or(Duration::MAX, |it| it.saturating_duration_since(promoted));
    });
    assert!(can_read);
    let written = written.lock().unwrap();
    println!(
        "{} acknowledged, {} failed, {} in doubt; first write {lost:?} after the promotion",
        written.acknowledged.len(),
        written.failed.len(),
        written.in_doubt.len()
    );
    assert!(lost < Duration::from_secs(1), "{lost:?} without writes after the promotion");
    // One statement of each client was under way at most.
    assert!(written.errors.len() <= 8, "{:?}", written.errors);
    assert!(written.errors.iter().all(|it| it.contains(": 0800")), "{:?}", written.errors);
    let rows = cluster.sql(REPLICA, "app", "SELECT a FROM t").unwrap();
    let stored: Vec<i64> =
        rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
    let distinct: BTreeSet<i64> = stored.iter().copied().collect();
    assert_eq!(distinct.len(), stored.len(), "written twice");
    let missing: Vec<_> = written.acknowledged.difference(&distinct).collect();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    let undone: Vec<_> = written.failed.intersection(&distinct).collect();
    assert!(undone.is_empty(), "told that it did not happen: {undone:?}");
}

#[test]
fn a_returned_primary_is_fenced() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = one_shard();
    let proxy = proxy(&cluster);
    let mut client = proxy.client();
    client.run("INSERT INTO t VALUES (1)");
    cluster.server(PRIMARY).kill9();
    promote(&cluster);
    client.run("INSERT INTO t VALUES (2)");
    cluster.server(PRIMARY).start().unwrap();
    sql(&cluster, PRIMARY, "ALTER SYSTEM RESET synchronous_standby_names");
    sql(&cluster, PRIMARY, "SELECT pg_reload_conf()");
    wait_for("the fence", || {
        let problems = proxy.show("SHARDS", "problem").join("\n");
        problems.contains("timeline 1, the shard is on timeline 2")
    });
    // Each host's state is told in the one role that it has.
    let metrics = proxy.page("/metrics").1;
    for name in ["sluice_host_up{", "sluice_breaker_open{", "sluice_host_latency_seconds{"] {
        let lines: Vec<&str> = metrics.lines().filter(|it| it.starts_with(name)).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
    }
    for a in 3..20 {
        client.run(&format!("INSERT INTO t VALUES ({a})"));
        // Not even reads go there, whose rows are old.
        assert_eq!(proxy.client().run("SELECT count(*) FROM t").first(), a.to_string());
    }
    assert_eq!(sql(&cluster, PRIMARY, "SELECT count(*) FROM t"), "1");
    // Also a proxy that starts now, and after a reload.
    let late = Proxy::start(proxy.spec.clone());
    late.client().run("INSERT INTO t VALUES (20)");
    let pool = "size = 7\n".to_owned();
    late.rewrite(&ProxySpec { pool, ..late.spec.clone() });
    assert_eq!(late.admin("RELOAD").error, None);
    late.client().run("INSERT INTO t VALUES (21)");
    assert_eq!(sql(&cluster, PRIMARY, "SELECT count(*) FROM t"), "1");
    assert_eq!(sql(&cluster, REPLICA, "SELECT count(*) FROM t"), "21");
}

#[test]
fn a_paused_primary_is_not_listened_to_afterwards() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = one_shard();
    sql(&cluster, PRIMARY, "ALTER SYSTEM RESET synchronous_standby_names");
    sql(&cluster, PRIMARY, "SELECT pg_reload_conf()");
    let proxy = proxy(&cluster);
    let (mut open, mut busy) = (proxy.client(), proxy.client());
    open.run("BEGIN");
    open.run("INSERT INTO t VALUES (1)");
    busy.run("INSERT INTO t VALUES (2)");
    cluster.wait_for_replicas().unwrap();
    let backend = sql(
        &cluster,
        PRIMARY,
        "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE usename = 'app' OR backend_type = 'walsender'",
    );
    let mut pids: Vec<i32> = backend.split(' ').map(|it| it.parse().unwrap()).collect();
    pids.push(cluster.server(PRIMARY).pid().unwrap().as_raw());
    let signal = |to| pids.iter().for_each(|it| kill(nix::unistd::Pid::from_raw(*it), to).unwrap());
    signal(Signal::SIGSTOP);
    pgsluice::wire::frontend::query(&mut busy.out, b"INSERT INTO t VALUES (3)");
    busy.send().unwrap();
    promote(&cluster);
    // What hangs there is told as soon as the other is found.
    let begun = Instant::now();
    let answer = busy.answer(b"");
    assert_eq!(answer.code(), "08007", "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    busy.run("INSERT INTO t VALUES (4)");
    signal(Signal::SIGCONT);
    let commit = open.query("COMMIT");
    assert!(commit.error.is_some_and(|it| it.0.starts_with("0800")));
    open.query("ROLLBACK");
    open.run("INSERT INTO t VALUES (5)");
    assert_eq!(
        sql(&cluster, REPLICA, "SELECT string_agg(a::text, ',' ORDER BY a) FROM t"),
        "2,4,5"
    );
    assert_eq!(sql(&cluster, PRIMARY, "SELECT count(*) FROM t WHERE a IN (1, 4, 5)"), "0");
}

#[test]
fn without_a_primary_the_error_names_the_shard() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = support::own(2, 0);
    for shard in 0..2 {
        let make = "CREATE TABLE t (tenant_id bigint, a int); ALTER TABLE t OWNER TO app";
        cluster.sql(Node::Primary(shard), "app", make).unwrap();
    }
    cluster.server(Node::Primary(1)).kill9();
    let proxy = Proxy::start(ProxySpec::of(&cluster, "app"));
    let mut client = proxy.client();
    // Tenant 1 lives on shard 1: md5('1') begins with c4.
    let begun = Instant::now();
    let answer = client.query("INSERT INTO t VALUES (1, 1)");
    let (code, message) = answer.error.unwrap();
    assert_eq!((code.as_str(), message.contains("shard 1 ")), ("57P03", true), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(4));
    // And tenant 6 on shard 0: md5('6') begins with 16.
    client.run("INSERT INTO t VALUES (6, 1)");
    let started = thread::scope(|scope| {
        let waiting = scope.spawn(|| proxy.client().query("INSERT INTO t VALUES (1, 2)"));
        cluster.server(Node::Primary(1)).start().unwrap();
        waiting.join().unwrap()
    });
    assert!(started.error.is_none() || started.code() == "57P03");
    wait_for("shard 1", || client.query("INSERT INTO t VALUES (1, 3)").error.is_none());
}

#[test]
fn a_switchover_costs_nothing_but_waiting() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = one_shard();
    sql(&cluster, PRIMARY, "ALTER ROLE app SUPERUSER");
    cluster.wait_for_replicas().unwrap();
    let proxy = proxy(&cluster);
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
    let (answer, waiting) = thread::scope(|scope| {
        for number in 0..4 {
            let (stop, written, port) = (&stop, &written, proxy.port);
            scope.spawn(move || write_on(port, number, stop, written));
        }
        thread::sleep(Duration::from_millis(300));
        let paused = proxy.admin("PAUSE app SHARD 0");
        let count = || {
            let written: &Mutex<Written> = &written;
            written.lock().unwrap().acknowledged.len()
        };
        thread::sleep(Duration::from_millis(100));
        let before = count();
        thread::sleep(Duration::from_millis(200));
        let waiting = paused.error.is_none() && count() == before;
        proxy.admin("RESUME app SHARD 0");
        let answer = proxy.admin("SWITCHOVER app SHARD 0");
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        (answer, waiting)
    });
    assert_eq!(answer.error, None, "{}", answer.detail);
    assert!(waiting, "something was written on a paused shard");
    let written = written.lock().unwrap();
    assert!(written.errors.is_empty(), "{:?}", written.errors);
    let count = sql(&cluster, REPLICA, "SELECT count(*) FROM t");
    assert_eq!(count, written.acknowledged.len().to_string());
    assert!(
        sql(&cluster, PRIMARY, "SELECT count(*) FROM t").parse::<usize>().unwrap()
            < written.acknowledged.len()
    );
    let refused = proxy.admin("SWITCHOVER app SHARD 0");
    assert_eq!(refused.code(), "55000", "{refused:?}");
}

/// Patroni's REST API: says that the member on this port leads, 0: answers nothing. It does no switchover.
fn fake_patroni(leader: &Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let leader = Arc::clone(leader);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let port = leader.load(Ordering::Relaxed);
            if port == 0 {
                continue;
            }
            if request.starts_with(b"POST /switchover ") {
                let _ = stream.write_all(b"HTTP/1.0 412 x\r\n\r\nno good candidates");
                continue;
            }
            let _ = write!(
                stream,
                "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{{\"members\": [{{\"name\": \"a\", \
                 \"role\": \"leader\", \"state\": \"running\", \"host\": \"localhost\", \"port\": {port}}}]}}"
            );
        }
    });
    port
}

#[test]
fn patroni_decides_a_split_brain() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = one_shard();
    sql(&cluster, PRIMARY, "ALTER SYSTEM RESET synchronous_standby_names");
    sql(&cluster, PRIMARY, "SELECT pg_reload_conf()");
    let (old, new) = (cluster.primary_port(0), cluster.replica_port(0, 0));
    let leader = Arc::new(AtomicU16::new(old));
    let api = fake_patroni(&leader);
    let mut spec = ProxySpec::of(&cluster, "app");
    spec.database = "failover_wait = \"10s\"\n".to_owned();
    spec.patroni = vec!["http://127.0.0.1:1".to_owned(), format!("http://127.0.0.1:{api}")];
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    let mut write = |from: i32| {
        (from..from + 10).for_each(|a| {
            client.run(&format!("INSERT INTO t VALUES ({a})"));
            thread::sleep(Duration::from_millis(50));
        });
    };
    write(10);
    // Both take writes now, and the newer one does not lead.
    promote(&cluster);
    write(20);
    assert_eq!(sql(&cluster, REPLICA, "SELECT count(*) FROM t WHERE a >= 20"), "0");
    // Patroni is away: it goes on.
    leader.store(0, Ordering::Relaxed);
    thread::sleep(Duration::from_millis(500));
    write(30);
    assert_eq!(sql(&cluster, PRIMARY, "SELECT count(*) FROM t"), "30");
    // It changes its mind.
    leader.store(new, Ordering::Relaxed);
    wait_for("the new leader", || proxy.show("SHARDS", "problem").join("").contains("old primary"));
    write(40);
    assert_eq!(sql(&cluster, PRIMARY, "SELECT count(*) FROM t"), "30");
    assert_eq!(sql(&cluster, REPLICA, "SELECT count(*) FROM t WHERE a >= 40"), "10");
    let refused = proxy.admin("SWITCHOVER app SHARD 0");
    assert_eq!(refused.code(), "55000");
    let why = format!("http://127.0.0.1:{api} answered 412: no good candidates");
    assert_eq!(refused.detail, why);
    write(50);
}

/// Lets a replica receive from another server.
fn receive_from(cluster: &Cluster, node: Node, port: u16) {
    let info = sql(cluster, node, "SHOW primary_conninfo");
    let words: Vec<&str> = info.split(' ').filter(|it| !it.starts_with("port=")).collect();
    let info = format!("{} port={port}", words.join(" "));
    sql(
        cluster,
        node,
        &format!("ALTER SYSTEM SET primary_conninfo = '{}'", info.replace('\'', "''")),
    );
    sql(cluster, node, "SELECT pg_reload_conf()");
}

#[test]
fn an_old_primary_tells_nothing_of_where_the_log_is() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = support::own(1, 2);
    let make = "CREATE TABLE t (a bigint); ALTER TABLE t OWNER TO app; ALTER ROLE app SUPERUSER";
    sql(&cluster, PRIMARY, make);
    cluster.wait_for_replicas().unwrap();
    let proxy = proxy(&cluster);
    let (mut client, mut idle) = (proxy.client(), proxy.client());
    // Whoever does nothing keeps the hosts in their old roles.
    idle.run("SELECT 1");
    client.run("INSERT INTO t VALUES (0)");
    let new = format!("127.0.0.1:{}", cluster.replica_port(0, 0));
    let switched = proxy.admin(&format!("SWITCHOVER app SHARD 0 TO '{new}'"));
    assert_eq!(switched.error, None, "{}", switched.detail);
    let other = Node::Replica(0, 1);
    receive_from(&cluster, other, cluster.replica_port(0, 0));
    client.run("INSERT INTO t SELECT generate_series(1, 1000)");
    let count = |client: &mut Wire| client.run("SELECT count(*) FROM t").first();
    let on_replica = "SELECT pg_is_in_recovery() FROM t LIMIT 1";
    wait_for("the other replica", || client.run(on_replica).first() == "t");
    cluster.sql(other, "postgres", "SELECT pg_wal_replay_pause()").unwrap();
    for number in 1002..1052 {
        client.run("INSERT INTO t VALUES (0)");
        assert_eq!(count(&mut client), number.to_string());
        thread::sleep(Duration::from_millis(20));
        assert_eq!(count(&mut client), number.to_string());
    }
    drop(idle);
}

#[test]
fn a_replica_ahead_of_the_promoted_one_has_not_seen_what_follows() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = support::own(1, 2);
    sql(&cluster, PRIMARY, "CREATE TABLE t (a bigint); ALTER TABLE t OWNER TO app");
    cluster.wait_for_replicas().unwrap();
    let proxy = proxy(&cluster);
    let mut client = proxy.client();
    client.run("INSERT INTO t VALUES (0)");
    cluster.wait_for_replicas().unwrap();
    sql(&cluster, REPLICA, "ALTER SYSTEM SET primary_conninfo = ''");
    sql(&cluster, REPLICA, "SELECT pg_reload_conf()");
    wait_for("the replica to stay behind", || {
        sql(&cluster, REPLICA, "SELECT count(*) FROM pg_stat_wal_receiver") == "0"
    });
    let ahead = Node::Replica(0, 1);
    client.run("INSERT INTO t SELECT generate_series(1, 100000)");
    wait_for("the other replica", || sql(&cluster, ahead, "SELECT count(*) FROM t") == "100001");
    cluster.server(PRIMARY).kill9();
    promote(&cluster);
    client.query("SELECT 1");
    for number in 2..30 {
        client.run("INSERT INTO t VALUES (0)");
        for _ in 0..3 {
            assert_eq!(client.run("SELECT count(*) FROM t").first(), number.to_string());
            thread::sleep(Duration::from_millis(15));
        }
    }
}

#[test]
fn a_block_reaches_the_new_primary_of_a_shard() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = support::own(2, 1);
    for shard in 0..2 {
        let make = "CREATE TABLE t (tenant_id bigint, a int); ALTER TABLE t OWNER TO app; \
                    GRANT CREATE ON DATABASE app TO app";
        cluster.sql(Node::Primary(shard), "app", make).unwrap();
    }
    cluster.wait_for_replicas().unwrap();
    let proxy = Proxy::start(ProxySpec {
        database: format!("{}failover_wait = \"10s\"\n", ProxySpec::of(&cluster, "app").database),
        ..ProxySpec::of(&cluster, "app")
    });
    let mut client = proxy.client();
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (6, 1)");
    let new = Node::Replica(1, 0);
    assert_eq!(sql(&cluster, new, "SELECT pg_promote()"), "t");
    let fenced = || proxy.show("SHARDS", "role").contains(&"fenced".to_owned());
    wait_for("the old primary to be fenced", fenced);
    client.run("INSERT INTO t VALUES (1, 1)");
    client.run("COMMIT");
    assert_eq!(sql(&cluster, Node::Primary(1), "SELECT count(*) FROM t"), "0");
    assert_eq!(sql(&cluster, new, "SELECT count(*) FROM t"), "1");
}
