//! Which replica reads: the quick and the well; and what becomes of reads whose server is lost.
#![allow(clippy::unwrap_used)]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgsluice::playground::{Cluster, Node};
use support::proxy::{Proxy, ProxySpec, wait_for, wait_within};
use support::relay::Relay;
use support::wire::{Answer, Wire};

/// One shard with two replicas, a table `t` of 100 rows, and a function `nap` that takes its time and tells
/// where.
fn two_replicas() -> Cluster {
    let cluster = support::own(1, 2);
    let sql = "CREATE TABLE t (a int); ALTER TABLE t OWNER TO app; \
               INSERT INTO t SELECT generate_series(1, 100); \
               CREATE FUNCTION nap(float8) RETURNS text STABLE LANGUAGE plpgsql \
               AS 'BEGIN PERFORM pg_sleep($1); RETURN current_setting(''port''); END'";
    cluster.sql(Node::Primary(0), "app", sql).unwrap();
    cluster.wait_for_replicas().unwrap();
    cluster
}

fn proxy(cluster: &Cluster, health: &str) -> Proxy {
    let mut spec = ProxySpec::of(cluster, "app");
    spec.health.push_str(health);
    spec.pool.push_str("connect_timeout = \"1s\"\n");
    let proxy = Proxy::start(spec);
    proxy.wait_for_tables(1);
    let mut client = proxy.client();
    wait_for("reads on replicas", || port_of(&mut client) != cluster.primary_port(0));
    proxy
}

/// The server that a read runs on.
const WHERE: &str = "SELECT current_setting('port') FROM t LIMIT 1";

fn port_of(client: &mut Wire) -> u16 {
    client.run(WHERE).first().parse().unwrap()
}

/// How many of `count` reads run on each of these ports.
fn shares<const N: usize>(client: &mut Wire, ports: [u16; N], count: usize) -> [usize; N] {
    let found: Vec<u16> = (0..count).map(|_| port_of(client)).collect();
    ports.map(|port| found.iter().filter(|it| **it == port).count())
}

/// What SHOW HOSTS says of the host on a port.
fn host(proxy: &Proxy, port: u16, column: &str) -> String {
    let hosts = proxy.show("HOSTS", "host");
    let at = hosts.iter().position(|it| it.ends_with(&format!(":{port}"))).unwrap();
    proxy.show("HOSTS", column)[at].clone()
}

fn pid(cluster: &Cluster, node: Node) -> Pid {
    cluster.server(node).pid().unwrap()
}

/// A server and all its processes.
fn processes(cluster: &Cluster, node: Node) -> Vec<Pid> {
    let parent = pid(cluster, node);
    let children = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(children).unwrap();
    let children = children.split_whitespace().map(|it| Pid::from_raw(it.parse().unwrap()));
    std::iter::once(parent).chain(children).collect()
}

#[test]
fn weights_regions_and_latency() {
    let cluster = two_replicas();
    let ports = [cluster.replica_port(0, 0), cluster.replica_port(0, 1)];
    let mut spec = ProxySpec::of(&cluster, "app");
    spec.health.push_str("outlier_factor = 0\n");
    let place =
        |spec: &mut ProxySpec, said: [&str; 2]| spec.replicas_said = said.map(Into::into).to_vec();
    place(&mut spec, ["weight = 100", "weight = 1"]);
    let proxy = Proxy::start(spec.clone());
    proxy.wait_for_tables(1);
    let mut client = proxy.client();
    wait_for("both replicas", || shares(&mut client, ports, 10) != [0, 0]);
    let found = shares(&mut client, ports, 400);
    let hosts = proxy.admin("SHOW HOSTS").rows;
    assert!(found[0] > 300, "{found:?} {hosts:?}");
    assert_eq!(host(&proxy, ports[0], "weight"), "100");
    // A slow one gets less, and the more again the longer it is quick.
    let slow = "SELECT nap(0.05) FROM t LIMIT 1";
    place(&mut spec, ["", ""]);
    proxy.rewrite(&spec);
    proxy.admin("RELOAD");
    let mut directed = proxy.client();
    for _ in 0..20 {
        directed.run(slow);
    }
    let latency = |port| host(&proxy, port, "latency_ms").parse::<f32>().unwrap();
    assert!(latency(ports[0]).max(latency(ports[1])) > 20.0);
    // The region comes first.
    spec.listen.push_str("region = \"eu\"\n");
    place(&mut spec, ["region = \"us\"", "region = \"eu\""]);
    let proxy = Proxy::start(spec);
    proxy.wait_for_tables(1);
    let mut client = proxy.client();
    wait_for("the near replica", || port_of(&mut client) == ports[1]);
    assert_eq!(shares(&mut client, ports, 100), [0, 100]);
    assert_eq!(host(&proxy, ports[0], "region"), "us");
    cluster.server(Node::Replica(0, 1)).kill9();
    wait_for("the far replica", || port_of(&mut client) == ports[0]);
}

/// Clients that read at the same time, by either protocol.
fn readers(proxy: &Proxy, count: usize, sql: &'static str) -> Vec<thread::JoinHandle<Answer>> {
    let reader = |number| {
        let mut client = proxy.client();
        thread::spawn(move || match number % 2 {
            0 => client.query(sql),
            _ => client.extended(sql, &Default::default()),
        })
    };
    (0..count).map(reader).collect()
}

#[test]
fn a_read_survives_the_kill_of_its_replica() {
    let cluster = two_replicas();
    let proxy = proxy(&cluster, "");
    let ports = [cluster.replica_port(0, 0), cluster.replica_port(0, 1)];
    let mut blocks: Vec<Wire> = (0..6).map(|_| proxy.client()).collect();
    let held: Vec<u16> = blocks
        .iter_mut()
        .map(|it| {
            it.run("BEGIN READ ONLY");
            port_of(it)
        })
        .collect();
    let slow = "SELECT nap(2) FROM t LIMIT 1";
    let readers = readers(&proxy, 8, slow);
    let naps = |at| {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%nap(%' \
                   AND pid <> pg_backend_pid()";
        let rows = cluster.sql(Node::Replica(0, at), "app", sql).unwrap();
        rows[0][0].clone().unwrap().parse::<u32>().unwrap()
    };
    wait_for("reads on both", || naps(0) > 0 && naps(1) > 0);
    cluster.server(Node::Replica(0, 0)).kill9();
    for reader in readers {
        let answer = reader.join().unwrap();
        assert!(answer.error.is_none(), "{answer:?}");
        assert_eq!(answer.rows.len(), 1);
    }
    // Blocks are not.
    for (mut block, port) in blocks.into_iter().zip(held) {
        assert_eq!(block.query(WHERE).error.is_some(), port == ports[0]);
    }
    let text = proxy.page("/metrics").1;
    let repeated = text.lines().filter(|it| it.starts_with("sluice_reads_repeated_total"));
    let repeated: f32 =
        repeated.map(|it| it.rsplit(' ').next().unwrap().parse::<f32>().unwrap()).sum();
    assert!(repeated >= 1.0, "{repeated}");
    assert_eq!(proxy.client().run("SELECT count(*) FROM t").first(), "100");
}

#[test]
fn what_was_told_is_not_taken_back() {
    let cluster = two_replicas();
    let proxy = proxy(&cluster, "");
    let mut client = proxy.client();
    let sql = "SELECT repeat('x', 1000), nap(0.001) FROM t, generate_series(1, 100)";
    pgsluice::wire::frontend::query(&mut client.out, sql.as_bytes());
    client.send().unwrap();
    assert_eq!(client.frame().unwrap().0, b'T');
    cluster.server(Node::Replica(0, 0)).kill9();
    cluster.server(Node::Replica(0, 1)).kill9();
    let end = client.answer(b"");
    assert!(["08006", "57P01", "57P02"].contains(&end.code()), "{:?}", end.error);
    // The primary reads in their place, and writes are never run twice.
    assert_eq!(port_of(&mut client), cluster.primary_port(0));
    let write = "UPDATE t SET a = a + 1 WHERE a = 1000 OR pg_sleep(0.5) IS NULL RETURNING 1";
    let mut writer = proxy.client();
    let writer = thread::spawn(move || writer.query(write));
    thread::sleep(Duration::from_millis(300));
    cluster.server(Node::Primary(0)).kill9();
    assert!(writer.join().unwrap().error.is_some());
}

#[test]
fn conflicts_with_recovery_are_not_seen() {
    let cluster = two_replicas();
    for at in [0, 1] {
        let node = Node::Replica(0, at);
        cluster.sql(node, "app", "ALTER SYSTEM SET max_standby_streaming_delay = 0").unwrap();
        cluster.sql(node, "app", "ALTER SYSTEM SET hot_standby_feedback = off").unwrap();
        cluster.sql(node, "app", "SELECT pg_reload_conf()").unwrap();
    }
    let proxy = proxy(&cluster, "");
    let sql = "SELECT count(*), max(nap(0.01)) FROM t";
    let readers = readers(&proxy, 6, sql);
    thread::sleep(Duration::from_millis(400));
    // Replay needs a lock that readers of the table have in their way.
    cluster.sql(Node::Primary(0), "app", "DELETE FROM t WHERE a > 50").unwrap();
    cluster.sql(Node::Primary(0), "app", "VACUUM FULL t").unwrap();
    for reader in readers {
        let answer = reader.join().unwrap();
        assert!(answer.error.is_none(), "{answer:?}");
        assert!(["50", "100"].contains(&&*answer.first()), "{answer:?}");
    }
    let conflicts = |at| {
        let sql = "SELECT sum(confl_lock + confl_snapshot) FROM pg_stat_database_conflicts";
        let rows = cluster.sql(Node::Replica(0, at), "app", sql).unwrap();
        rows[0][0].clone().unwrap().parse::<u32>().unwrap()
    };
    wait_for("conflicts", || conflicts(0) + conflicts(1) > 0);
}

#[test]
fn a_stopped_replica_is_passed_over_and_comes_back() {
    let cluster = two_replicas();
    let health =
        "timeout = \"60s\"\nfailure_threshold = 3\nreset_timeout = \"1s\"\nslow_start = \"0s\"\n";
    let proxy = proxy(&cluster, health);
    let (node, port) = (Node::Replica(0, 0), cluster.replica_port(0, 0));
    // What new connections meet: it takes them and never answers. Health checks wait.
    proxy.admin("RELOAD");
    let stopped = processes(&cluster, node);
    stopped.iter().for_each(|it| kill(*it, Signal::SIGSTOP).unwrap());
    let begun = Instant::now();
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let port = proxy.port;
            thread::spawn(move || {
                let mut client = Wire::login(port, "app", "app", "app").unwrap();
                client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                (0..30).filter(|_| client.query(WHERE).error.is_none()).count()
            })
        })
        .collect();
    wait_within(20, "the breaker opens", || host(&proxy, port, "breaker") != "closed");
    let mut client = proxy.client();
    assert_ne!(port_of(&mut client), port);
    stopped.iter().for_each(|it| kill(*it, Signal::SIGCONT).unwrap());
    drop(clients);
    wait_for("it reads again", || (0..10).any(|_| port_of(&mut client) == port));
    wait_for("the breaker closes", || host(&proxy, port, "breaker") == "closed");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_hangs_on_a_stopped_replica_is_run_elsewhere() {
    let cluster = two_replicas();
    let proxy = proxy(&cluster, "timeout = \"400ms\"\n");
    let ports = [cluster.replica_port(0, 0), cluster.replica_port(0, 1)];
    let mut clients: Vec<Wire> = (0..12).map(|_| proxy.client()).collect();
    let mut told = proxy.client();
    // Simple and extended, quick ones and those that have sent a part of the answer.
    told.run("BEGIN READ ONLY");
    let held = port_of(&mut told);
    let at = ports.iter().position(|it| *it == held).unwrap();
    let stopped: Vec<Pid> = {
        for (number, client) in clients.iter_mut().enumerate() {
            let sql = format!("SELECT nap(1.{}) FROM t LIMIT 1", number % 2);
            pgsluice::wire::frontend::query(&mut client.out, sql.as_bytes());
            client.send().unwrap();
        }
        let on_it = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'SELECT nap%'";
        wait_for("reads there", || {
            cluster.sql(Node::Replica(0, at), "app", on_it).unwrap()[0][0].as_deref() == Some("t")
        });
        processes(&cluster, Node::Replica(0, at))
    };
    stopped.iter().for_each(|it| kill(*it, Signal::SIGSTOP).unwrap());
    let begun = Instant::now();
    for client in &mut clients {
        let answer = client.answer(b"");
        assert_eq!(answer.error, None);
        assert_ne!(answer.first(), held.to_string());
    }
    // In a block nothing is repeated: the client is told.
    let answer = told.query(WHERE);
    assert_eq!(answer.code(), "08006", "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    told.run("ROLLBACK");
    assert_ne!(port_of(&mut told), held);
    // One that was about to end is gone as soon as its parent goes on.
    for process in &stopped {
        assert!(matches!(kill(*process, Signal::SIGCONT), Ok(()) | Err(Errno::ESRCH)));
    }
    wait_for("it reads again", || (0..20).any(|_| port_of(&mut told) == held));
}

#[test]
fn lost_replicas_do_not_drown_the_primary() {
    let cluster = two_replicas();
    let mut spec = ProxySpec::of(&cluster, "app");
    spec.pool = "size = 4\nwait_timeout = \"1s\"\n".to_owned();
    spec.health.push_str("primary_fallback = 50\n");
    let proxy = Proxy::start(spec);
    proxy.wait_for_tables(1);
    cluster.server(Node::Replica(0, 0)).kill9();
    cluster.server(Node::Replica(0, 1)).kill9();
    let mut client = proxy.client();
    wait_for("the primary", || port_of(&mut client) == cluster.primary_port(0));
    wait_for("no replica", || proxy.show("HOSTS", "state") == ["up", "down", "down"]);
    let readers: Vec<_> = (0..6)
        .map(|_| {
            let mut client = proxy.client();
            thread::spawn(move || client.query("SELECT nap(4) FROM t LIMIT 1"))
        })
        .collect();
    thread::sleep(Duration::from_millis(200));
    // Two connections are left to those who write: 53300 if they had to wait.
    client.run("INSERT INTO t VALUES (1)");
    let codes: Vec<String> =
        readers.into_iter().map(|it| it.join().unwrap().code().to_owned()).collect();
    assert_eq!(codes.iter().filter(|it| it.is_empty()).count(), 2, "{codes:?}");
    assert_eq!(codes.iter().filter(|it| *it == "57P03").count(), 4, "{codes:?}");
}

#[test]
fn an_idle_database_sleeps() {
    let cluster = support::own(2, 1);
    let setup = "CREATE TABLE t (tenant_id int, a int); ALTER TABLE t OWNER TO app";
    for shard in [0, 1] {
        cluster.sql(Node::Primary(shard), "app", setup).unwrap();
    }
    let mut spec = ProxySpec::of(&cluster, "app");
    spec.database.push_str("idle = \"sleep\"\nidle_after = \"1s\"\n");
    let proxy = Proxy::start(spec);
    proxy.wait_for_tables(1);
    let mut client = proxy.client();
    client.run("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4)");
    let mut held = proxy.client();
    held.run("BEGIN");
    held.run("SELECT * FROM t WHERE tenant_id = 1");
    thread::sleep(Duration::from_millis(2500));
    let states = || proxy.show("HOSTS", "state");
    assert!(!states().contains(&"asleep".to_owned()));
    held.run("COMMIT");
    wait_for("sleep", || states().iter().all(|it| it == "asleep"));
    // Looked at from another database: nobody is there, and nothing is done.
    let nodes = [Node::Primary(0), Node::Primary(1), Node::Replica(0, 0), Node::Replica(1, 0)];
    let activity = |node| {
        let sql = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = 'app'), \
                   (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'app')";
        let row = cluster.sql(node, "postgres", sql).unwrap().remove(0);
        (row[0].clone().unwrap(), row[1].clone().unwrap())
    };
    wait_for("no connection", || nodes.iter().all(|it| activity(*it).0 == "0"));
    thread::sleep(Duration::from_millis(600));
    let before = nodes.map(activity);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(nodes.map(activity), before);
    assert_eq!(before.map(|it| it.0), ["0", "0", "0", "0"]);
    // Stopped and started in between, with another schema; clients stay.
    for node in nodes {
        cluster.server(node).kill9();
    }
    for node in nodes {
        cluster.server(node).start().unwrap();
    }
    for shard in [0, 1] {
        cluster
            .sql(Node::Primary(shard), "app", "ALTER TABLE t ADD COLUMN b int DEFAULT 7")
            .unwrap();
    }
    assert!(states().iter().all(|it| it == "asleep"));
    assert_eq!(client.run("SELECT sum(b) FROM t").first(), "28");
    assert_eq!(held.run("SELECT b FROM t WHERE tenant_id = 2").first(), "7");
    assert!(proxy.log().contains("awake again"), "{}", proxy.log());
}

#[test]
fn a_host_whose_connections_hang_is_found_by_new_ones() {
    let name = support::database("hang");
    let relay = Relay::start(support::shared().primary_port(0));
    let mut spec = ProxySpec::over(&[(relay.port, vec![], name)]);
    spec.parameters = "?sslmode=disable".to_owned();
    spec.health = "interval = \"200ms\"\ntimeout = \"500ms\"\n".to_owned();
    let proxy = Proxy::start(spec);
    let state = || proxy.show("HOSTS", "state");
    wait_for("the host", || state() == ["up"]);
    relay.freeze();
    wait_for("a check in vain", || proxy.log().contains("host is down"));
    wait_within(5, "the host again", || state() == ["up"]);
}
