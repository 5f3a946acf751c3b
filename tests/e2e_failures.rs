//! What breaks: bytes that are no protocol, servers and proxies that die, reloads that would hide rows.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::playground::{Cluster, Node};
use pgsluice::wire::frontend;
use support::proxy::{Proxy, ProxySpec, wait_for, wait_within};
use support::wire::Wire;

fn sql(cluster: &Cluster, node: Node, database: &str, sql: &str) -> String {
    let rows = cluster.sql(node, database, sql).unwrap();
    rows.first().and_then(|row| row[0].clone()).unwrap_or_default()
}

/// A proxy over the two shared shards.
fn two_shards(name: &str) -> (Proxy, String) {
    let name = support::database(name);
    (Proxy::start(ProxySpec::of(support::shared(), &name)), name)
}

/// A connection that logged nothing in yet.
fn raw(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn send_raw(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let (mut stream, mut got) = (raw(proxy), Vec::new());
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut got);
    got
}

#[test]
fn bad_input_hurts_only_its_sender() {
    let (mut proxy, _) = two_shards("bad");
    let mut other = proxy.client();
    other.run("BEGIN");
    let mut seed = 7_u64;
    for length in [1, 3, 4, 7, 8, 9, 100, 5000] {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 40) as u8
            })
            .collect();
        send_raw(&proxy, &bytes);
        let mut client = proxy.client();
        client.out.extend_from_slice(&bytes);
        let _ = client.send();
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        client.answer(b"");
        other.run("SELECT 1");
    }
    send_raw(&proxy, &[0, 0, 0, 100, 0, 3, 0, 0, b'u', b's']);
    // As from a server: what is no start-up packet gets no answer.
    assert!(send_raw(&proxy, &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0]).is_empty());
    let before = proxy.memory_kib(false);
    let mut client = proxy.client();
    client.out.extend_from_slice(&[b'Q', 0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(client.answer(b"").code(), "08P01");
    // Deep SQL in every nesting there is.
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("-", "1", ""),
        ("ARRAY[", "1", "]"),
        ("NOT ", "true", ""),
        ("(SELECT ", "1", ")"),
    ] {
        let sql = format!("SELECT {}{middle}{}", open.repeat(100_000), close.repeat(100_000));
        let answer = proxy.client().query(&sql);
        assert!(answer.error.is_some() || open == "-", "{open}: {answer:?}");
        assert_ne!(answer.code(), "lost", "{open}");
    }
    let mut client = proxy.client();
    client.out.extend_from_slice(b"Q\0\0\0\x12SELECT 1\0more\0");
    assert_eq!(client.answer(b"").code(), "08P01");
    let login = |user, password, database| Wire::login(proxy.port, user, password, database);
    assert_eq!(login("app", "wrong", "app").err().unwrap().0, "28P01");
    assert_eq!(login("nobody", "app", "app").err().unwrap().0, "28P01");
    assert_eq!(login("app", "app", "nowhere").err().unwrap().0, "3D000");
    assert_eq!(other.run("SELECT 7").first(), "7");
    other.run("COMMIT");
    assert!(proxy.is_running());
    assert!(proxy.memory_kib(false) < before + 150 * 1024, "{} KiB", proxy.memory_kib(false));
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
}

#[test]
fn large_results_stream() {
    let (proxy, _) = two_shards("large");
    let mut client = proxy.client();
    client.run("CREATE TABLE t (tenant_id bigint, a int)");
    client.run("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)");
    let before = proxy.memory_kib(false);
    // 300 MB of one server, and 60 MB of two.
    for (sql, least) in [
        ("SELECT repeat('x', 1000) FROM generate_series(1, 300000)", 300_000_000),
        (
            "SELECT repeat('x', 1000000) FROM t, (VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9), (10)) v",
            60_000_000,
        ),
    ] {
        let mut client = proxy.client();
        frontend::query(&mut client.out, sql.as_bytes());
        client.send().unwrap();
        let mut total = 0;
        loop {
            let (tag, frame) = client.frame().unwrap();
            total += frame.len();
            if tag == b'Z' {
                break;
            }
        }
        assert!(total > least, "{total}");
    }
    let grown = proxy.memory_kib(true).saturating_sub(before);
    println!("grew by {grown} KiB");
    assert!(grown < 16 * 1024, "{grown} KiB");
}

#[test]
fn who_never_reads_costs_little() {
    let (proxy, _) = two_shards("slow");
    let before = proxy.memory_kib(false);
    let mut lazy: Vec<Wire> = (0..5).map(|_| proxy.client()).collect();
    for client in &mut lazy {
        let sql = b"SELECT repeat('x', 1000) FROM generate_series(1, 200000)";
        frontend::query(&mut client.out, sql);
        client.send().unwrap();
    }
    let mut other = proxy.client();
    for _ in 0..20 {
        other.run("SELECT 1");
        thread::sleep(Duration::from_millis(50));
    }
    let grown = proxy.memory_kib(true).saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB");
}

#[test]
fn an_abandoned_copy_does_not_keep_its_server() {
    let name = support::database("copy_left");
    let spec = ProxySpec::of(support::shared(), &name);
    let proxy = Proxy::start(ProxySpec { pool: "size = 1\n".to_owned(), ..spec });
    proxy.client().run("CREATE TABLE plans (id int)");
    let backend = || proxy.client().run("BEGIN; SELECT pg_backend_pid(); COMMIT").first();
    let before = backend();
    for _ in 0..10 {
        let mut client = proxy.client();
        frontend::query(&mut client.out, b"COPY plans FROM STDIN");
        client.send().unwrap();
        drop(client);
        // 53300 after five seconds if the server still waits for data.
        assert_eq!(backend(), before);
    }
}

#[test]
fn servers_may_be_down_and_come_back() {
    let cluster = support::own(1, 1);
    let primary = Node::Primary(0);
    sql(
        &cluster,
        primary,
        "app",
        "CREATE TABLE t (a int); ALTER TABLE t OWNER TO app; INSERT INTO t VALUES (1)",
    );
    cluster.wait_for_replicas().unwrap();
    let spec = ProxySpec::of(&cluster, "app");
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    let read = "SELECT pg_is_in_recovery() FROM t";
    wait_for("a replica", || client.run(read).first() == "t");
    cluster.server(Node::Replica(0, 0)).kill9();
    wait_for("the primary reads", || proxy.client().query(read).first() == "f");
    let mut long = proxy.client();
    frontend::query(
        &mut long.out,
        b"SELECT repeat('x', 1000), pg_sleep(0.001) FROM generate_series(1, 100000)",
    );
    long.send().unwrap();
    assert_eq!(long.frame().unwrap().0, b'T');
    cluster.server(primary).kill9();
    let end = long.answer(b"");
    assert!(end.error.is_some(), "{end:?}");
    wait_for("not ready", || proxy.page("/ready").0.contains("503"));
    let lost = client.query("UPDATE t SET a = 2");
    assert!(lost.error.is_some());
    cluster.server(primary).start().unwrap();
    wait_for("recovery", || {
        Wire::login(proxy.port, "app", "app", "app")
            .is_ok_and(|mut it| it.query("UPDATE t SET a = 3").error.is_none())
    });
    cluster.server(Node::Replica(0, 0)).start().unwrap();
    wait_for("the replica reads again", || proxy.client().query(read).first() == "t");
    // Another proxy starts while no server is there.
    cluster.server(primary).kill9();
    cluster.server(Node::Replica(0, 0)).kill9();
    let late = Proxy::start(proxy.spec.clone());
    assert!(late.page("/live").0.contains("200"));
    assert!(late.page("/ready").0.contains("503"));
    let error = Wire::login(late.port, "app", "app", "app").map(|mut it| it.query("SELECT 1"));
    assert!(error.is_err() || error.is_ok_and(|it| it.error.is_some()));
    cluster.server(primary).start().unwrap();
    wait_for("the late proxy", || {
        Wire::login(late.port, "app", "app", "app")
            .is_ok_and(|mut it| it.query("SELECT a FROM t").first() == "3")
    });
}

#[test]
fn a_killed_proxy_leaves_no_half_transactions() {
    let (mut proxy, name) = two_shards("twophase");
    let cluster = support::shared();
    let mut client = proxy.client();
    client.run("CREATE TABLE accounts (tenant_id bigint PRIMARY KEY, cents bigint)");
    for tenant in 1..=8 {
        client.run(&format!("INSERT INTO accounts VALUES ({tenant}, 1000)"));
    }
    let counts: Vec<String> = (0..2)
        .map(|it| sql(cluster, Node::Primary(it), &name, "SELECT count(*) FROM accounts"))
        .collect();
    assert!(counts.iter().all(|it| it != "0"), "{counts:?}");
    let total = || {
        let of = |it| {
            sql(cluster, Node::Primary(it), &name, "SELECT coalesce(sum(cents), 0) FROM accounts")
        };
        (0..2).map(|it| of(it).parse::<i64>().unwrap()).sum::<i64>()
    };
    let prepared = || {
        let count = format!("SELECT count(*) FROM pg_prepared_xacts WHERE database = '{name}'");
        (0..2).map(|it| sql(cluster, Node::Primary(it), &name, &count)).collect::<String>()
    };
    for round in 0..4 {
        let (port, stop) = (proxy.port, AtomicBool::new(false));
        thread::scope(|scope| {
            for number in 0..6_u32 {
                let stop = &stop;
                scope.spawn(move || {
                    let Ok(mut client) = Wire::login(port, "app", "app", "app") else { return };
                    let mut step = number;
                    while !stop.load(Ordering::Relaxed) {
                        step += 1;
                        let (from, to) = (1 + step % 8, 1 + (step * 3 + 1) % 8);
                        let (from, to) = (from.min(to), from.max(to));
                        for sql in [
                            "BEGIN".to_owned(),
                            format!(
                                "UPDATE accounts SET cents = cents - 7 WHERE tenant_id = {from}"
                            ),
                            format!("UPDATE accounts SET cents = cents + 7 WHERE tenant_id = {to}"),
                            "COMMIT".to_owned(),
                        ] {
                            if client.query(&sql).code() == "lost" {
                                return;
                            }
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(300 + round * 70));
            proxy.kill9();
            stop.store(true, Ordering::Relaxed);
        });
        proxy.restart();
        wait_within(15, "no prepared transaction", || prepared() == "00");
        assert_eq!(total(), 8000, "round {round}");
    }
}

#[test]
fn orphans_are_ended_by_their_decision() {
    let (proxy, name) = two_shards("orphans");
    let cluster = support::shared();
    proxy.client().run("CREATE TABLE t (tenant_id bigint, a int)");
    for (number, is_committed) in [(0xa, true), (0xb, false)] {
        let gid = format!("sluice:1:0:{number:032x}");
        if is_committed {
            let decide =
                format!("INSERT INTO sluice.decision (gid, committed) VALUES ('{gid}', true)");
            sql(cluster, Node::Primary(0), &name, &decide);
        }
        let orphan = format!(
            "SET ROLE app; BEGIN; INSERT INTO t VALUES (2, {number}); PREPARE TRANSACTION '{gid}:1'"
        );
        let app = pgsluice::playground::Login {
            user: "app".into(),
            password: Some("app".into()),
            ..pgsluice::playground::Login::superuser("shard", cluster.primary_port(1), &name)
        };
        app.run(orphan.trim_start_matches("SET ROLE app; ")).unwrap();
    }
    let left = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
    wait_within(15, "no orphan", || sql(cluster, Node::Primary(1), &name, left) == "0");
    let rows = sql(cluster, Node::Primary(1), &name, "SELECT string_agg(a::text, ',') FROM t");
    assert_eq!(rows, "10");
    let aborted =
        format!("SELECT committed FROM sluice.decision WHERE gid = 'sluice:1:0:{:032x}'", 0xb);
    assert_eq!(sql(cluster, Node::Primary(0), &name, &aborted), "f");
}

#[test]
fn reloads_never_hide_rows() {
    let (proxy, _) = two_shards("reload");
    let mut client = proxy.client();
    client.run("CREATE TABLE t (tenant_id bigint PRIMARY KEY)");
    for tenant in 1..=40 {
        client.run(&format!("INSERT INTO t VALUES ({tenant})"));
    }
    let mut moved = proxy.spec.clone();
    moved.shards[0].range = Some((0, 63));
    moved.shards[1].range = Some((64, 255));
    let ranges = || proxy.show("SHARDS", "ranges");
    assert!(ranges().contains(&"0-127".to_owned()), "{:?}", ranges());
    wait_for("the table in the catalog", || proxy.show("DATABASES", "sharded")[0] == "1");
    proxy.rewrite(&moved);
    let refused = proxy.admin("RELOAD");
    assert!(refused.error.is_some_and(|it| it.1.contains("rows") || !it.1.is_empty()));
    assert!(ranges().contains(&"0-127".to_owned()));
    assert_eq!(proxy.admin("RELOAD FORCE").error, None);
    assert!(ranges().contains(&"0-63".to_owned()));
    proxy.rewrite(&proxy.spec);
    assert_eq!(proxy.admin("RELOAD FORCE").error, None);
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "40");
    // Mistakes change nothing.
    std::fs::write(proxy.file(), "[listen]\nadress = 1\n").unwrap();
    proxy.signal(Signal::SIGHUP);
    wait_for("the mistake in the log", || proxy.log().contains("not reloaded"));
    assert!(ranges().contains(&"0-127".to_owned()));
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "40");
    // As Kubernetes does it: a symlink that is swapped.
    let dir = proxy.dir.path();
    for (folder, size) in [("one", 7), ("two", 9)] {
        std::fs::create_dir(dir.join(folder)).unwrap();
        let spec = ProxySpec { pool: format!("size = {size}\n"), ..proxy.spec.clone() };
        let text = spec.toml(proxy.port, proxy.http);
        std::fs::write(dir.join(folder).join("pgsluice.toml"), text).unwrap();
        let _ = std::fs::remove_file(dir.join("next"));
        std::os::unix::fs::symlink(dir.join(folder).join("pgsluice.toml"), dir.join("next"))
            .unwrap();
        std::fs::rename(dir.join("next"), proxy.file()).unwrap();
        wait_for("the swap", || {
            let shown = proxy.admin("SHOW CONFIG").rows;
            shown.iter().any(|row| {
                row[0].as_deref() == Some(b"pool.size")
                    && row[1].as_deref() == Some(size.to_string().as_bytes())
            })
        });
    }
}

#[test]
fn sigterm_lets_transactions_end() {
    let (mut proxy, _) = two_shards("drain");
    let (mut busy, mut idle) = (proxy.client(), proxy.client());
    busy.run("BEGIN");
    busy.run("SELECT 1");
    proxy.signal(Signal::SIGTERM);
    wait_for("idle clients are told to go", || idle.query("SELECT 1").error.is_some());
    wait_for("no new clients", || Wire::login(proxy.port, "app", "app", "app").is_err());
    assert_eq!(busy.run("SELECT 7").first(), "7");
    assert_eq!(busy.run("COMMIT").tags, ["COMMIT"]);
    let begin = Instant::now();
    assert!(proxy.wait().success());
    assert!(begin.elapsed() < Duration::from_secs(4));
}

/// Ends the servers' processes whose session runs, or ran last, this.
fn terminate(name: &str, query: &str) {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '{query}%'"
    );
    let count = |shard| self::sql(support::shared(), Node::Primary(shard), name, &sql);
    wait_for("the processes", || [0, 1].map(count).iter().any(|it| it != "0"));
}

#[test]
fn who_only_read_may_be_lost_when_the_others_commit() {
    let (proxy, name) = two_shards("reader_lost");
    let mut client = proxy.client();
    client.run("CREATE TABLE t (tenant_id bigint, a int)");
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (6, 1)");
    client.run("SELECT a FROM t WHERE tenant_id = 1");
    terminate(&name, "SELECT a FROM t WHERE tenant_id = 1");
    // It has happened: an error would have it repeated.
    assert_eq!(client.query("COMMIT").tags, ["COMMIT"]);
    assert_eq!(client.run("SELECT count(*) FROM t WHERE tenant_id = 6").first(), "1");
    assert_eq!(client.run("SELECT count(*) FROM t WHERE tenant_id = 1").first(), "0");
}

#[test]
fn a_pipeline_lost_after_its_sync_may_have_happened() {
    let (proxy, name) = two_shards("pipeline_lost");
    let mut client = proxy.client();
    client.run("CREATE TABLE t (tenant_id bigint, a int)");
    let step = |client: &mut Wire, sql: &str| {
        frontend::parse(&mut client.out, b"", sql.as_bytes(), []);
        frontend::bind(&mut client.out, b"", &[], 0);
        frontend::execute(&mut client.out, b"", 0);
    };
    for ends_with_read in [true, false] {
        if !ends_with_read {
            let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql \
                        AS 'BEGIN PERFORM pg_sleep(20); RETURN NULL; END'; \
                        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE \
                        INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";
            sql(support::shared(), Node::Primary(0), &name, slow);
        }
        step(&mut client, "INSERT INTO t VALUES (6, 1)");
        frontend::flush(&mut client.out);
        client.send().unwrap();
        assert_eq!([(); 3].map(|()| client.frame().unwrap().0), [b'1', b'2', b'C']);
        if ends_with_read {
            step(&mut client, "SELECT pg_sleep(20) FROM t WHERE tenant_id = 6");
        }
        frontend::sync(&mut client.out);
        client.send().unwrap();
        terminate(&name, if ends_with_read { "SELECT pg_sleep(20)" } else { "INSERT INTO t" });
        let answer = client.answer(b"");
        assert_eq!((answer.code(), answer.status), ("08007", 'I'), "{ends_with_read}: {answer:?}");
    }
    assert_eq!(client.run("SELECT 1").first(), "1");
}

#[test]
fn what_runs_shard_by_shard_may_have_happened_where_its_server_was_lost() {
    let (proxy, name) = two_shards("one_by_one");
    let mut client = proxy.client();
    client.run("CREATE TABLE t (tenant_id bigint, a int)");
    client.run("CREATE INDEX i ON t (a)");
    let mut lock = proxy.client();
    lock.run("BEGIN");
    lock.run("LOCK TABLE t IN ACCESS SHARE MODE");
    let answer = thread::scope(|scope| {
        let dropped = scope.spawn(|| client.query("DROP INDEX CONCURRENTLY i"));
        terminate(&name, "DROP INDEX CONCURRENTLY i");
        dropped.join().unwrap()
    });
    assert_eq!(answer.code(), "08007", "{answer:?}");
    lock.run("ROLLBACK");
}
