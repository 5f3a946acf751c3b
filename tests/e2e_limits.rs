//! Each limit with its own error, its counter and what it leaves intact.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgsluice::playground::Node;
use pgsluice::wire::frontend;
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::wire::{Arguments, Wire};

/// One shard, without replicas, in a database of its own; and the database's name.
fn one_shard(name: &str) -> (ProxySpec, String) {
    let name = support::database(name);
    let port = support::shared().primary_port(0);
    (ProxySpec::over(&[(port, Vec::new(), name.clone())]), name)
}

/// A column of SHOW LIMITS for one key.
fn shown(proxy: &Proxy, key: &str, column: &str) -> String {
    let keys = proxy.show("LIMITS", "limit");
    let at = keys.iter().position(|it| it == key).unwrap();
    proxy.show("LIMITS", column)[at].clone()
}

fn reached(proxy: &Proxy, key: &str) -> u64 {
    let count = shown(proxy, key, "reached").parse().unwrap();
    let line = format!("sluice_limit_reached_total{{limit=\"{key}\"}} {count}");
    assert!(proxy.page("/metrics").1.contains(&line), "{line}");
    count
}

#[test]
fn clients_are_counted_by_user_database_and_address() {
    let (mut spec, _) = one_shard("seats");
    spec.limits = "clients = 4\nclients_per_user = 3\n".into();
    spec.users = "clients = 2\n[[user]]\nname = \"other\"\npassword = \"other\"\n\
                  server_user = \"app\"\nserver_password = \"app\"\n"
        .into();
    let proxy = Proxy::start(spec);
    let login = |user: &str| Wire::login(proxy.port, user, user, "app");
    let (one, two) = (login("app").unwrap(), login("app").unwrap());
    let refused = login("app").err().unwrap();
    assert_eq!(refused.0, "53300");
    assert!(refused.1.contains("user \"app\""), "{refused:?}");
    let others = (login("other").unwrap(), login("other").unwrap());
    let refused = login("other").err().unwrap();
    assert_eq!(refused, ("53300".into(), "too many clients already".into()));
    // The console has seats of its own.
    wait_for("the counter", || reached(&proxy, "limits.clients") == 1);
    assert_eq!(reached(&proxy, "limits.clients_per_user"), 1);
    assert_eq!(shown(&proxy, "limits.clients", "used"), "5");
    drop(one);
    wait_for("a seat", || login("app").is_ok());
    drop((two, others));
    wait_for("all seats but the console's", || shown(&proxy, "limits.clients", "used") == "1");
}

#[test]
fn clients_of_a_database_and_of_an_address_are_bounded() {
    let (mut spec, _) = one_shard("addresses");
    spec.limits = "clients_per_address = 3\nclients_per_database = 5\n".into();
    let proxy = Proxy::start(spec);
    let from =
        |address: &str| Wire::login_from(address.parse().unwrap(), proxy.port, "app", "app", "app");
    let near: Vec<Wire> = (0..3).map(|_| from("127.0.0.2").unwrap()).collect();
    let refused = from("127.0.0.2").err().unwrap();
    assert_eq!(refused.0, "53300");
    assert!(refused.1.contains("127.0.0.2"), "{refused:?}");
    let far: Vec<Wire> = (0..2).map(|_| from("127.0.0.3").unwrap()).collect();
    let refused = from("127.0.0.3").err().unwrap();
    assert!(refused.1.contains("database \"app\""), "{refused:?}");
    assert_eq!(reached(&proxy, "limits.clients_per_address"), 1);
    assert_eq!(reached(&proxy, "limits.clients_per_database"), 1);
    drop((near, far));
    wait_for("a seat", || from("127.0.0.2").is_ok());
}

/// Runs what must end with an error of this code and with this text.
fn fails(client: &mut Wire, sql: &str, code: &str, text: &str) {
    let answer = client.query(sql);
    let (found, message) = answer.error.unwrap();
    assert_eq!(found, code, "{sql}: {message}");
    assert!(message.contains(text), "{sql}: {message}");
}

/// What the proxy says unasked before it closes the connection.
fn farewell(client: &mut Wire) -> (String, String) {
    client.answer(b"").error.unwrap()
}

#[test]
fn long_queries_are_cancelled() {
    let (mut spec, _) = one_shard("queries");
    spec.limits = "query_timeout = \"300ms\"\n".into();
    spec.pool = "size = 1\n".into();
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a int)");
    let timeout = |client: &mut Wire, sql: &str| fails(client, sql, "57014", "query timeout");
    timeout(&mut client, "SELECT pg_sleep(10)");
    assert_eq!(client.run("SELECT 1").first(), "1");
    let slow = Arguments { types: &[], values: &[], format: 0 };
    let answer = client.extended("SELECT pg_sleep(10)", &slow);
    assert_eq!((answer.code(), answer.status), ("57014", 'I'));
    // Half of a result is not lost.
    let answer = client.query("SELECT i, pg_sleep(i / 900 * 10) FROM generate_series(1, 1000) i");
    assert_eq!(answer.code(), "57014");
    // In a transaction nothing is left of it.
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1)");
    timeout(&mut client, "SELECT pg_sleep(10)");
    fails(&mut client, "SELECT 1", "25P02", "aborted");
    assert_eq!(client.query("COMMIT").tags, ["ROLLBACK"]);
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "0");
    // A savepoint and the server itself outlive it.
    client.run("BEGIN");
    let server = client.run("SELECT pg_backend_pid()").first();
    client.run("SAVEPOINT s");
    timeout(&mut client, "SELECT pg_sleep(10)");
    client.run("ROLLBACK TO s");
    client.run("INSERT INTO t VALUES (2)");
    client.run("COMMIT");
    assert_eq!(
        client.run("SELECT pg_backend_pid() || ' ' || a FROM t").first(),
        format!("{server} 2")
    );
    // Waiting for a server counts.
    client.run("BEGIN");
    client.run("SELECT 1");
    let mut other = proxy.client();
    timeout(&mut other, "SELECT 2");
    client.run("COMMIT");
    assert_eq!(other.run("SELECT 2").first(), "2");
    assert_eq!(reached(&proxy, "limits.query_timeout"), 6);
}

#[test]
fn a_database_has_timeouts_of_its_own() {
    let (mut spec, _) = one_shard("own_timeouts");
    spec.limits = "query_timeout = \"200ms\"\n".into();
    spec.database = "query_timeout = \"0s\"\nclient_idle_timeout = \"300ms\"\n".into();
    let proxy = Proxy::start(spec.clone());
    let mut client = proxy.client();
    client.run("SELECT pg_sleep(0.7)");
    let (code, message) = farewell(&mut client);
    assert_eq!(code, "57P05", "{message}");
    let mut pinned = proxy.client();
    pinned.run("BEGIN");
    spec.database = "client_idle_timeout = \"0s\"\n".into();
    proxy.rewrite(&spec);
    assert_eq!(proxy.admin("RELOAD").error, None);
    pinned.run("COMMIT");
    fails(&mut pinned, "SELECT pg_sleep(10)", "57014", "query timeout");
}

#[test]
fn idle_transactions_and_long_ones_end() {
    let (mut spec, name) = one_shard("transactions");
    spec.limits = "idle_transaction_timeout = \"300ms\"\ntransaction_timeout = \"1s\"\n".into();
    spec.pool = "size = 1\n".into();
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a int)");
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1)");
    let (code, message) = farewell(&mut client);
    assert_eq!(code, "25P03", "{message}");
    // Its server is free again, and nothing was committed.
    let mut client = proxy.client();
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "0");
    client.run("BEGIN");
    let busy = (0..20).map(|_| client.query("SELECT pg_sleep(0.1)")).find(|it| it.error.is_some());
    let (code, message) = busy.unwrap().error.unwrap();
    assert_eq!(code, "25P04", "{message}");
    // A statement of its own is a transaction too.
    let mut client = proxy.client();
    fails(&mut client, "SELECT pg_sleep(10)", "25P04", "transaction timeout");
    // Others are not concerned: one after the other, none of them long.
    let mut client = proxy.client();
    for _ in 0..6 {
        client.run("BEGIN");
        client.run("SELECT pg_sleep(0.2)");
        client.run("COMMIT");
    }
    let sleeping = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE '%pg_sleep(10)%' AND state = 'active' AND pid <> pg_backend_pid()"
    );
    let node = Node::Primary(0);
    wait_for("nothing sleeps", || {
        support::shared().sql(node, &name, &sleeping).unwrap()[0][0].as_deref() == Some("0")
    });
    assert_eq!(reached(&proxy, "limits.idle_transaction_timeout"), 1);
    assert_eq!(reached(&proxy, "limits.transaction_timeout"), 2);
}

#[test]
fn a_client_that_takes_nothing_gives_its_server_back() {
    let (mut spec, _) = one_shard("slow_reader");
    spec.limits = "write_timeout = \"400ms\"\nbuffer_bytes = \"8KiB\"\n".into();
    spec.pool = "size = 1\n".into();
    let proxy = Proxy::start(spec);
    let (mut lazy, mut slow) = (proxy.client(), proxy.client());
    frontend::query(&mut lazy.out, b"SELECT repeat('x', 1000) FROM generate_series(1, 100000)");
    lazy.send().unwrap();
    wait_for("bytes that wait", || {
        !matches!(&*shown(&proxy, "limits.buffer_bytes", "used"), "" | "0")
    });
    // Who waits for the server gets it, and may read as slowly as it likes.
    frontend::query(&mut slow.out, b"SELECT repeat('y', 1000) FROM generate_series(1, 20000)");
    slow.send().unwrap();
    let mut rows = 0;
    loop {
        let (tag, _) = slow.frame().unwrap();
        rows += usize::from(tag == b'D');
        if rows % 4000 == 0 {
            std::thread::sleep(Duration::from_millis(150));
        }
        if tag == b'Z' {
            break;
        }
    }
    assert_eq!(rows, 20_000);
    assert_eq!(reached(&proxy, "limits.write_timeout"), 1);
    drop(slow);
    wait_for("the counter", || reached(&proxy, "limits.buffer_bytes") > 0);
    assert_eq!(proxy.client().run("SELECT 3").first(), "3");
}

/// `other`, who is `app` on the server.
const OTHER: &str = "[[user]]\nname = \"other\"\npassword = \"other\"\n\
                     server_user = \"app\"\nserver_password = \"app\"\n";

#[test]
fn users_share_a_full_server_fairly() {
    let (mut spec, name) = one_shard("host_size");
    spec.pool = "size = 4\nhost_size = 3\n".into();
    spec.users = OTHER.into();
    let proxy = Proxy::start(spec.clone());
    let port = proxy.port;
    let login = |user: &str| Wire::login(port, user, user, "app").unwrap();
    // Idle connections of one user make room for another.
    let mut idle: Vec<Wire> = (0..3).map(|_| login("app")).collect();
    idle.iter_mut().for_each(|it| drop(it.run("BEGIN")));
    idle.iter_mut().for_each(|it| drop(it.run("SELECT 1")));
    let mut waits = login("app");
    frontend::query(&mut waits.out, b"SELECT 4");
    waits.send().unwrap();
    idle.iter_mut().for_each(|it| drop(it.run("COMMIT")));
    assert_eq!(waits.answer(b"").first(), "4");
    assert_eq!(shown(&proxy, "pool.host_size", "used"), "3");
    assert_eq!(login("other").run("SELECT 5").first(), "5");
    let open = |proxy: &Proxy| (proxy.show("POOLS", "user"), proxy.show("POOLS", "open"));
    assert_eq!(open(&proxy).1.iter().map(|it| it.parse::<u32>().unwrap()).sum::<u32>(), 3);
    // A user under full load leaves another his part.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = login("app");
                while !stop.load(Ordering::Relaxed) {
                    client.run("SELECT pg_sleep(0.005)");
                }
            });
        }
        let mut few = login("other");
        let begin = Instant::now();
        for _ in 0..20 {
            few.run("SELECT pg_sleep(0.005)");
        }
        let took = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        assert!(took < Duration::from_secs(2), "{took:?}");
    });
    let busy = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' \
         AND application_name = 'pgsluice' AND backend_type = 'client backend'"
    );
    let backends = || {
        let rows = support::shared().sql(Node::Primary(0), &name, &busy).unwrap();
        rows[0][0].clone().unwrap().parse::<u32>().unwrap()
    };
    wait_for("closed connections", || backends() <= 4); // One may be the health check's.
    assert!(reached(&proxy, "pool.host_size") > 0);
    // With all in transactions who comes next waits, and is told for what.
    spec.pool = "size = 4\nhost_size = 3\nwait_timeout = \"300ms\"\n".into();
    proxy.rewrite(&spec);
    assert_eq!(proxy.admin("RELOAD").error, None);
    idle.iter_mut().for_each(|it| drop(it.run("BEGIN")));
    idle.iter_mut().for_each(|it| drop(it.run("SELECT 1")));
    let mut other = login("other");
    fails(&mut other, "SELECT 6", "53300", "pool.wait_timeout");
    // A raised limit serves who waits.
    frontend::query(&mut other.out, b"SELECT 7");
    spec.pool = "size = 4\nhost_size = 4\n".into();
    proxy.rewrite(&spec);
    other.send().unwrap();
    assert_eq!(proxy.admin("RELOAD").error, None);
    assert_eq!(other.answer(b"").first(), "7");
    idle.iter_mut().for_each(|it| drop(it.run("COMMIT")));
    assert_eq!(reached(&proxy, "pool.wait_timeout"), 1);
}

#[test]
fn one_place_is_shared_by_two_users() {
    let (mut spec, _) = one_shard("one_place");
    spec.pool = "host_size = 1\n".into();
    spec.users = OTHER.into();
    let proxy = Proxy::start(spec);
    std::thread::scope(|scope| {
        for user in ["app", "other", "app", "other"] {
            let port = proxy.port;
            scope.spawn(move || {
                let mut client = Wire::login(port, user, user, "app").unwrap();
                for number in 0..15 {
                    assert_eq!(client.run(&format!("SELECT {number}")).first(), number.to_string());
                }
            });
        }
    });
    assert_eq!(shown(&proxy, "pool.host_size", "used"), "1");
}

#[test]
fn sizes_are_bounded() {
    let (mut spec, _) = one_shard("sizes");
    spec.limits = "query_bytes = \"2KiB\"\nclient_statements = 3\nstatement_bytes = \"64KiB\"\n\
                   message_bytes = \"64KiB\"\nplan_bytes = \"1MiB\"\n"
        .into();
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    let long = |length: usize| format!("SELECT length('{}')", "x".repeat(length));
    assert_eq!(client.run(&long(1000)).first(), "1000");
    // Also where the plan is known.
    fails(&mut client, &long(3000), "54000", "too long");
    let arguments = Arguments { types: &[], values: &[], format: 0 };
    assert_eq!(client.extended(&long(3000), &arguments).code(), "54000");
    assert_eq!(reached(&proxy, "limits.query_bytes"), 2);
    for number in 0..3 {
        client.run(&format!("PREPARE p{number} AS SELECT {number}"));
    }
    fails(&mut client, "PREPARE p3 AS SELECT 3", "53400", "too many prepared statements");
    client.run("DEALLOCATE p0");
    client.run("PREPARE p3 AS SELECT 3");
    assert_eq!(reached(&proxy, "limits.client_statements"), 1);
    // Many clients with few statements each.
    let mut others: Vec<Wire> = Vec::new();
    let refused = (0..100).find_map(|number| {
        let mut other = proxy.client();
        let padding = "y".repeat(1500);
        let answer = other.query(&format!("PREPARE q AS SELECT '{padding}', {number}"));
        others.push(other);
        answer.error
    });
    let (code, message) = refused.unwrap();
    assert_eq!(code, "53400", "{message}");
    assert!(others.len() > 10, "{}", others.len());
    assert_eq!(reached(&proxy, "limits.statement_bytes"), 1);
    drop(others);
    client.run("DEALLOCATE p1");
    wait_for("room", || client.query("PREPARE p0 AS SELECT 99").error.is_none());
    for number in 0..700 {
        client.run(&format!("SELECT 1 AS a{number}, 2 AS {}", "b".repeat(1000)));
    }
    assert!(reached(&proxy, "limits.plan_bytes") > 0);
    assert!(shown(&proxy, "limits.plan_bytes", "used").parse::<usize>().unwrap() <= 1 << 20);
    let (code, message) = client.query(&long(70_000)).error.unwrap();
    assert_eq!(code, "08P01", "{message}");
    assert_eq!(reached(&proxy, "limits.message_bytes"), 1);
}
