//! The proxy under the clients of every day: rows where they belong, replicas, pools, psql, pgbench.
#![allow(clippy::unwrap_used)]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use pgsluice::playground::Node;
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::wire::{Arguments, Wire};

fn sql(node: Node, database: &str, sql: &str) -> String {
    let rows = support::shared().sql(node, database, sql).unwrap();
    rows.first().and_then(|row| row[0].clone()).unwrap_or_default()
}

/// 2000 keys of a type by each of five ways, as SQL over a number.
fn place(kind: &str, oid: u32, key: fn(u64) -> (String, Vec<u8>)) {
    let (spec, names) = support::four_shards("place");
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    client.run(&format!("CREATE TABLE t (tenant_id {kind} NOT NULL, way int)"));
    let quoted = |number: u64| format!("'{}'", key(number).0.replace('\'', "''"));
    client.run("BEGIN");
    for number in 0..2000 {
        client.run(&format!("INSERT INTO t VALUES ({}, 1)", quoted(number)));
        let (text, binary) = key(2000 + number);
        let (_, other) = key(4000 + number);
        let arguments = [(0, Some(text.into_bytes())), (1, Some(other))];
        let _ = binary;
        for (format, value) in arguments {
            let sql = format!("INSERT INTO t VALUES ($1, {})", 2 + format);
            let arguments = Arguments { types: &[oid], values: &[value], format };
            assert_eq!(client.extended(&sql, &arguments).error, None);
        }
    }
    client.run("COMMIT");
    for start in (6000..8000).step_by(100) {
        let rows: Vec<String> =
            (start..start + 100).map(|it| format!("({}, 4)", quoted(it))).collect();
        client.run(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
    }
    let lines: String = (8000..10_000).map(|it| format!("{}\t5\n", key(it).0)).collect();
    assert_eq!(client.copy("COPY t FROM STDIN", lines.as_bytes()).tags, ["COPY 2000"]);
    let bucket = "get_byte(decode(md5(tenant_id::text), 'hex'), 0)";
    let (mut total, mut misplaced) = (0, 0);
    for shard in 0..4 {
        let (node, name) = (Node::Primary(shard / 2), &names[shard % 2]);
        total += sql(node, name, "SELECT count(*) FROM t").parse::<u32>().unwrap();
        let away = format!("SELECT count(*) FROM t WHERE {bucket} / 64 <> {shard}");
        misplaced += sql(node, name, &away).parse::<u32>().unwrap();
    }
    assert_eq!((total, misplaced), (10_000, 0));
    let ways = client.run("SELECT way, count(*) FROM t GROUP BY way");
    assert!(ways.rows.iter().all(|row| row[1].as_deref() == Some(b"2000")), "{ways:?}");
}

/// Splitmix64.
fn random(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[test]
fn int8_tenants_lie_where_they_should() {
    place("bigint", 20, |number| {
        let key = random(number) as i64;
        (key.to_string(), key.to_be_bytes().to_vec())
    });
}

#[test]
fn text_tenants_lie_where_they_should() {
    place("text", 25, |number| {
        let key = format!("Tenant é' {:x}", random(number));
        (key.clone(), key.into_bytes())
    });
}

#[test]
fn uuid_tenants_lie_where_they_should() {
    place("uuid", 2950, |number| {
        let key = (u128::from(random(number)) << 64) | u128::from(random(!number));
        // Upper case and without hyphens: the hash is of the canonical form.
        (format!("{key:032X}"), key.to_be_bytes().to_vec())
    });
}

#[test]
fn reads_follow_writes_and_else_go_to_replicas() {
    let name = support::database("reads");
    let cluster = support::shared();
    let mut spec = ProxySpec::of(cluster, &name);
    spec.database.push_str("consistency = \"time\"\npin_after_write = \"1s\"\n");
    let proxy = Proxy::start(spec);
    let mut writer = proxy.client();
    writer.run("CREATE TABLE t (tenant_id bigint PRIMARY KEY, a int)");
    for tenant in 1..=20 {
        writer.run(&format!("INSERT INTO t VALUES ({tenant}, 0)"));
    }
    cluster.wait_for_replicas().unwrap();
    let is_replica = "SELECT pg_is_in_recovery() FROM t WHERE tenant_id = ";
    let mut reader = proxy.client();
    for tenant in 1..=20 {
        let read = format!("{is_replica}{tenant}");
        wait_for("a read on a replica", || reader.run(&read).first() == "t");
    }
    let paused = [Node::Replica(0, 0), Node::Replica(1, 0)];
    paused.iter().for_each(|it| drop(sql(*it, "postgres", "SELECT pg_wal_replay_pause()")));
    for tenant in 1..=20 {
        writer.run(&format!("UPDATE t SET a = {tenant} WHERE tenant_id = {tenant}"));
        let read = format!("SELECT a FROM t WHERE tenant_id = {tenant}");
        assert_eq!(writer.run(&read).first(), tenant.to_string());
        let arguments = Arguments { types: &[], values: &[], format: 0 };
        assert_eq!(writer.extended(&read, &arguments).first(), tenant.to_string());
    }
    assert_eq!(writer.run("SELECT sum(a) FROM t").first(), "210");
    paused.iter().for_each(|it| drop(sql(*it, "postgres", "SELECT pg_wal_replay_resume()")));
    cluster.wait_for_replicas().unwrap();
    wait_for("reads on replicas again", || writer.run(&format!("{is_replica}1")).first() == "t");
    reader.run("SET sluice.role = 'primary'");
    assert_eq!(reader.run(&format!("{is_replica}1")).first(), "f");
    reader.run("RESET sluice.role");
    writer.run("INSERT INTO t VALUES (100, 1)");
    writer.run("BEGIN READ ONLY");
    writer.run("COMMIT");
    assert_eq!(
        reader
            .run("/* sluice.role=primary */ SELECT pg_is_in_recovery() FROM t WHERE tenant_id = 1")
            .first(),
        "f"
    );
}

/// A pooler over one server.
fn pooler(name: &str, pool: &str) -> (Proxy, String) {
    let name = support::database(name);
    let port = support::shared().primary_port(0);
    let mut spec = ProxySpec::over(&[(port, Vec::new(), name.clone())]);
    spec.pool = pool.to_owned();
    (Proxy::start(spec), name)
}

fn backends(name: &str) -> usize {
    let count = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND usename = 'app' \
         AND query NOT LIKE '%pg_is_in_recovery%'"
    );
    sql(Node::Primary(0), "postgres", &count).parse().unwrap()
}

#[test]
fn two_hundred_clients_share_twenty_servers() {
    let (proxy, name) = pooler("pool", "size = 20\nwait_timeout = \"30s\"\n");
    proxy.client().run("CREATE TABLE t (a int); INSERT INTO t VALUES (0)");
    let clients: Vec<Wire> = (0..200).map(|_| proxy.client()).collect();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || {
                for _ in 0..10 {
                    client.run("BEGIN");
                    client.run("UPDATE t SET a = a + 1");
                    client.run("COMMIT");
                }
            });
        }
        // 20 for clients; a few of the control plane.
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(20));
            assert!(backends(&name) <= 24, "{}", backends(&name));
        }
    });
    assert_eq!(proxy.client().run("SELECT a FROM t").first(), "2000");
}

#[test]
fn waiting_too_long_is_told() {
    let (proxy, _) = pooler("wait", "size = 1\nwait_timeout = \"200ms\"\n");
    let (mut one, mut other) = (proxy.client(), proxy.client());
    one.run("BEGIN; SELECT 1");
    let begin = Instant::now();
    let refused = other.query("SELECT 1");
    assert_eq!(refused.code(), "53300", "{refused:?}");
    assert!(begin.elapsed() < Duration::from_secs(2));
    one.run("COMMIT");
    other.run("SELECT 1");
}

#[test]
fn who_vanishes_leaves_nothing_behind() {
    let (proxy, name) = pooler("vanish", "size = 2\n");
    proxy.client().run("CREATE TABLE t (a int PRIMARY KEY)");
    for number in 0..20 {
        let mut client = proxy.client();
        client.run("BEGIN");
        client.run("LOCK TABLE t");
        client.run(&format!("INSERT INTO t VALUES ({number})"));
        client.run("SET LOCAL work_mem = '1MB'");
        drop(client);
    }
    let mut client = proxy.client();
    client.run("SET statement_timeout = '5s'");
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "0");
    client.run("INSERT INTO t VALUES (1)");
    let dirty = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND state LIKE 'idle in%'"
    );
    wait_for("no open transaction", || sql(Node::Primary(0), "postgres", &dirty) == "0");
}

#[test]
fn settings_and_statements_belong_to_their_client() {
    let (proxy, _) = pooler("own", "size = 2\n");
    let (mut one, mut other) = (proxy.client(), proxy.client());
    one.run("SET application_name = 'one'");
    one.run("SET search_path = pg_catalog");
    assert_eq!(other.run("SHOW search_path").first(), "\"$user\", public");
    assert_ne!(other.run("SHOW application_name").first(), "one");
    other.run("SET application_name = 'other'");
    assert_eq!(one.run("SHOW application_name").first(), "one");
    one.run("PREPARE p AS SELECT 1");
    other.run("PREPARE p AS SELECT 2");
    assert_eq!(one.run("EXECUTE p").first(), "1");
    assert_eq!(other.run("EXECUTE p").first(), "2");
    for (client, value) in [(&mut one, 10), (&mut other, 20)] {
        use pgsluice::wire::frontend;
        let sql = format!("SELECT {value}");
        frontend::parse(&mut client.out, b"s", sql.as_bytes(), []);
        frontend::sync(&mut client.out);
        assert_eq!(client.answer(b"").error, None);
    }
    for (client, value) in [(&mut one, "10"), (&mut other, "20")] {
        use pgsluice::wire::frontend;
        frontend::bind(&mut client.out, b"s", &[], 0);
        frontend::execute(&mut client.out, b"", 0);
        frontend::sync(&mut client.out);
        assert_eq!(client.answer(b"").first(), value);
    }
    one.run("DISCARD ALL");
    assert_ne!(one.run("SHOW application_name").first(), "one");
    assert_eq!(one.query("EXECUTE p").code(), "26000");
    assert_eq!(other.run("EXECUTE p").first(), "2");
}

#[test]
fn psql_feels_at_home() {
    let (spec, _) = support::four_shards("psql");
    let proxy = Proxy::start(spec);
    let run = |sql: &str| proxy.psql(&["-v", "ON_ERROR_STOP=1", "-At", "-c", sql], "");
    let (_, err) = run(
        "CREATE TABLE items (tenant_id bigint, id int, name text, PRIMARY KEY (tenant_id, id))",
    );
    assert_eq!(err, "");
    std::fs::write(proxy.dir.path().join("in.csv"), "1,1,a\n2,1,b\n3,1,\"c,d\"\n").unwrap();
    assert_eq!(run("\\copy items from 'in.csv' csv"), ("COPY 3\n".into(), String::new()));
    assert_eq!(run("\\copy items to 'out.csv' csv"), ("COPY 3\n".into(), String::new()));
    let out = std::fs::read_to_string(proxy.dir.path().join("out.csv")).unwrap();
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["1,1,a", "2,1,b", "3,1,\"c,d\""]);
    assert!(run("\\d").0.contains("items"));
    assert!(run("\\d items").0.contains("tenant_id|bigint"), "{:?}", run("\\d items"));
    for meta in [
        "\\dt+",
        "\\di",
        "\\dn",
        "\\df",
        "\\dT",
        "\\du",
        "\\l",
        "\\dx",
        "\\dp",
        "\\ds",
        "\\conninfo",
        "\\encoding",
    ] {
        let (_, err) = run(meta);
        assert!(!err.contains("ERROR"), "{meta}: {err}");
    }
    // What psql asks when one presses tab.
    let tab = "SELECT pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_class c WHERE c.relkind IN \
               ('r', 'S', 'v', 'm', 'f', 'p') AND substring(pg_catalog.quote_ident(c.relname),1,3)='ite' \
               AND pg_catalog.pg_table_is_visible(c.oid)\nLIMIT 1000";
    assert_eq!(run(tab).0, "items\n");
    assert!(run("SELECT nothing").1.contains("column \"nothing\" does not exist"));
    assert!(run("SELECT nothing FROM items").1.contains("column \"nothing\" does not exist"));
    assert!(run("EXPLAIN (SLUICE) SELECT * FROM items WHERE tenant_id = 1").1.is_empty());
    let (out, _) = proxy.psql(&["-At"], "BEGIN;\nSELECT 1/0;\nSELECT 1;\nROLLBACK;\nSELECT 7;\n");
    assert!(out.ends_with("7\n"), "{out}");
}

#[test]
fn pgbench_runs_while_the_pool_changes() {
    let (proxy, _) = pooler("bench", "size = 20\n");
    let (ok, _, err) = proxy.command("pgbench", &["-i", "-q", "-s", "1"], "");
    assert!(ok, "{err}");
    for mode in ["simple", "extended", "prepared"] {
        thread::scope(|scope| {
            let bench = scope.spawn(|| {
                proxy.command("pgbench", &["-n", "-M", mode, "-c", "50", "-j", "2", "-T", "3"], "")
            });
            for size in [5, 12, 3, 20] {
                thread::sleep(Duration::from_millis(600));
                let pool = format!("size = {size}\nwait_timeout = \"20s\"\n");
                proxy.rewrite(&ProxySpec { pool, ..proxy.spec.clone() });
                assert_eq!(proxy.admin("RELOAD").error, None);
            }
            let (ok, out, err) = bench.join().unwrap();
            assert!(ok && out.contains("number of failed transactions: 0 "), "{mode}: {out}{err}");
            assert!(!err.contains("aborted"), "{mode}: {err}");
        });
    }
}

#[test]
fn cancel_reaches_the_own_query_and_no_other() {
    let (proxy, _) = pooler("cancel", "size = 4\n");
    let (mut one, mut other) = (proxy.client(), proxy.client());
    let (key, begin) = (one.key.clone(), Instant::now());
    let cancel = |pid: i32, key: &[u8]| {
        use std::io::Write;
        let mut out = bytes::BytesMut::new();
        pgsluice::wire::frontend::cancel_request(&mut out, pid, key).unwrap();
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        stream.write_all(&out).unwrap();
    };
    thread::scope(|scope| {
        let long = scope.spawn(|| one.query("SELECT pg_sleep(20)"));
        let slept = scope.spawn(|| other.query("SELECT pg_sleep(1.5)"));
        thread::sleep(Duration::from_millis(500));
        let wrong = vec![1; key.1.len()];
        cancel(key.0, &wrong);
        thread::sleep(Duration::from_millis(200));
        assert!(!long.is_finished());
        cancel(key.0, &key.1);
        assert_eq!(long.join().unwrap().code(), "57014");
        assert_eq!(slept.join().unwrap().error, None);
    });
    assert!(begin.elapsed() < Duration::from_secs(10));
    // Idle: nothing happens to whoever has the server next.
    cancel(key.0, &key.1);
    other.run("SELECT pg_sleep(0.3)");
    one.run("SELECT 1");
}

#[test]
fn the_console_and_the_pages_answer() {
    let (spec, _) = support::four_shards("console");
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    client.run("SELECT 1");
    for what in [
        "POOLS",
        "CLIENTS",
        "SERVERS",
        "SHARDS",
        "DATABASES",
        "STATS",
        "CONFIG",
        "PLANS",
        "VERSION",
        "HELP",
    ] {
        let answer = proxy.admin(&format!("SHOW {what}"));
        assert_eq!(answer.error, None, "{what}");
        assert!(!answer.rows.is_empty(), "{what}");
    }
    assert_eq!(proxy.show("SHARDS", "shard").len(), 8);
    assert_eq!(proxy.admin("SHOW NONSENSE").code(), "42601");
    proxy.admin("PAUSE app");
    thread::scope(|scope| {
        let waits = scope.spawn(|| client.query("SELECT 2"));
        thread::sleep(Duration::from_millis(400));
        assert!(!waits.is_finished());
        proxy.admin("RESUME app");
        assert_eq!(waits.join().unwrap().first(), "2");
    });
    assert_eq!(proxy.admin(&format!("KILL {}", client.key.0)).error, None);
    assert!(client.query("SELECT 1").error.is_some());
    assert!(proxy.page("/live").0.contains("200"));
    wait_for("ready", || proxy.page("/ready").0.contains("200"));
    let (_, text) = proxy.page("/metrics");
    for name in ["sluice_query_seconds_bucket", "sluice_wait_seconds_count", "sluice_queries_total"]
    {
        assert!(text.contains(name), "{name}");
    }
    assert!(proxy.page("/other").0.contains("404"));
}
