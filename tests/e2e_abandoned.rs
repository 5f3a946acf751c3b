//! Work that its client has left or cancelled: the server is cleaned up and serves the next client, and
//! no cancel request hits anybody else. And what stands in start-up packets.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgsluice::wire::frontend;
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::wire::Wire;

fn pooler(name: &str, pool: &str) -> Proxy {
    pooler_of(&support::database(name), pool)
}

/// As [`pooler`], of a database that is there.
fn pooler_of(name: &str, pool: &str) -> Proxy {
    let name = name.to_owned();
    let mut spec = ProxySpec::over(&[(support::shared().primary_port(0), Vec::new(), name)]);
    spec.pool = pool.to_owned();
    Proxy::start(spec)
}

fn backend(client: &mut Wire) -> String {
    client.run("SELECT pg_backend_pid()").first()
}

/// psql, running a statement.
fn psql(proxy: &Proxy, statement: &str) -> Child {
    Command::new("psql")
        .args(["-X", "-q", "-c", statement])
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", proxy.port.to_string())
        .env("PGUSER", "app")
        .env("PGPASSWORD", "app")
        .env("PGDATABASE", "app")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn cancel(port: u16, (pid, key): &(i32, Vec<u8>)) {
    let mut out = BytesMut::new();
    frontend::cancel_request(&mut out, *pid, key).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&out).unwrap();
    let _ = stream.read(&mut [0; 1]);
}

#[test]
fn a_killed_client_costs_no_connection() {
    let (name, port) = (support::database("killed"), support::shared().primary_port(0));
    let proxy = pooler_of(&name, "size = 1\n");
    let mut first = proxy.client();
    let process = backend(&mut first);
    first.run("CREATE TABLE t (a int PRIMARY KEY)");
    drop(first);
    let statements = [
        // In the middle of a large result.
        "SELECT repeat('x', 1000), pg_sleep(0.001) FROM generate_series(1, 1000000)",
        // Without a row.
        "SELECT pg_sleep(1000)",
        // In a transaction that has written.
        "BEGIN; INSERT INTO t VALUES (1); SELECT pg_sleep(1000)",
        "COPY t FROM STDIN",
        "COPY (SELECT pg_sleep(0.001) FROM generate_series(1, 1000000)) TO STDOUT",
    ];
    for statement in statements {
        let mut child = psql(&proxy, statement);
        child.stdin.as_mut().unwrap().write_all(b"2\n3\n").unwrap();
        wait_for("the statement to run", || proxy.show("POOLS", "in_use")[0] == "1");
        thread::sleep(Duration::from_millis(200));
        child.kill().unwrap();
        child.wait().unwrap();
        let begin = Instant::now();
        assert_eq!(backend(&mut proxy.client()), process, "{statement}");
        assert!(begin.elapsed() < Duration::from_secs(3), "{statement}: {:?}", begin.elapsed());
        assert_eq!(proxy.client().run("SELECT count(*) FROM t").first(), "0", "{statement}");
    }
    // A block that waits for its client, and one that has failed.
    for last in ["INSERT INTO t VALUES (1)", "SELECT 1 / 0"] {
        let mut client = proxy.client();
        client.run("BEGIN");
        client.query(last);
        drop(client);
        assert_eq!(backend(&mut proxy.client()), process, "{last}");
    }
    // Pipelines: with and without a Sync, while one runs and others wait, half a message.
    for (syncs, rest) in [(true, &b""[..]), (false, b""), (true, b"P\0\0\0\x50abc")] {
        let mut client = proxy.client();
        for sleep in ["0", "1000", "1000"] {
            let sql = format!("SELECT pg_sleep({sleep})");
            frontend::parse(&mut client.out, b"", sql.as_bytes(), []);
            frontend::bind(&mut client.out, b"", &[], 0);
            frontend::execute(&mut client.out, b"", 0);
            match syncs {
                true => frontend::sync(&mut client.out),
                false => frontend::flush(&mut client.out),
            }
        }
        client.out.extend_from_slice(rest);
        client.send().unwrap();
        wait_for("the pipeline to run", || proxy.show("POOLS", "in_use")[0] == "1");
        drop(client);
        assert_eq!(backend(&mut proxy.client()), process, "{syncs} {rest:?}");
    }
    wait_for("the pool to rest", || proxy.show("POOLS", "in_use")[0] == "0");
    // While a server is cleaned up nobody uses it, and it is not idle.
    let mut gate = Wire::login(port, "app", "app", &name).unwrap();
    gate.run("SELECT pg_advisory_lock(1)");
    let mut client = proxy.client();
    let stubborn = "DO $$ BEGIN PERFORM pg_sleep(1000); \
                    EXCEPTION WHEN query_canceled THEN PERFORM pg_advisory_lock(1); END $$";
    frontend::query(&mut client.out, stubborn.as_bytes());
    client.send().unwrap();
    wait_for("the block to run", || proxy.show("POOLS", "in_use")[0] == "1");
    drop(client);
    wait_for("the server to be cleaned up", || proxy.show("POOLS", "cleaning")[0] == "1");
    let of_pool = |column| proxy.show("POOLS", column)[0].clone();
    assert_eq!([of_pool("in_use"), of_pool("idle"), of_pool("open")], ["0", "0", "1"]);
    gate.run("SELECT pg_advisory_unlock(1)");
    wait_for("the server to be idle", || proxy.show("POOLS", "idle")[0] == "1");
    assert_eq!(proxy.show("POOLS", "cleaning"), ["0"]);
    assert_eq!(proxy.show("POOLS", "open"), ["1"]);
    assert_eq!(proxy.show("POOLS", "waiting"), ["0"]);
    assert_eq!(proxy.client().run("SELECT count(*) FROM t").first(), "0");
}

#[test]
fn cancelled_clients_keep_their_server() {
    for mode in ["transaction", "session"] {
        let proxy = pooler("cancelled", &format!("size = 1\nmode = \"{mode}\"\n"));
        let mut client = proxy.client();
        let process = backend(&mut client);
        let key = client.key.clone();
        let cancelled = |client: &mut Wire| {
            thread::scope(|scope| {
                let asked = scope.spawn(|| client.query("SELECT pg_sleep(1000)"));
                wait_for("the statement", || {
                    proxy.show("CLIENTS", "servers").contains(&"1".into())
                });
                thread::sleep(Duration::from_millis(50));
                cancel(proxy.port, &key);
                assert_eq!(asked.join().unwrap().code(), "57014");
            });
        };
        cancelled(&mut client);
        assert_eq!(backend(&mut client), process, "{mode}");
        client.run("BEGIN; CREATE TEMPORARY TABLE mine AS SELECT 1 AS a; SAVEPOINT s");
        cancelled(&mut client);
        client.run("ROLLBACK TO s");
        assert_eq!(client.run("SELECT a FROM mine").first(), "1");
        client.run("COMMIT");
        cancelled(&mut client);
        assert_eq!(client.run("SELECT a FROM mine").first(), "1", "{mode}");
        drop(client);
        let mut next = proxy.client();
        assert_eq!(backend(&mut next), process, "{mode}");
        assert_eq!(next.query("SELECT a FROM mine").code(), "42P01");
    }
}

#[test]
fn cancels_never_hit_other_clients() {
    let proxy = pooler("cancels", "size = 3\nwait_timeout = \"30s\"\n");
    let begun = Instant::now();
    let (is_over, cancelled) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (is_over, cancelled) = (&is_over, &cancelled);
    let processes = thread::scope(|scope| {
        let victims: Vec<_> = (0..4)
            .map(|number| {
                let mut client = proxy.client();
                scope.spawn(move || {
                    let mut processes = HashSet::new();
                    while !is_over.load(Ordering::Relaxed) {
                        let answer = match number % 2 {
                            0 => client.query("SELECT pg_backend_pid(), pg_sleep(0.003)"),
                            _ => client.query("BEGIN; SELECT pg_backend_pid(); COMMIT"),
                        };
                        assert_eq!(answer.error, None);
                        processes.insert(answer.first());
                    }
                    processes
                })
            })
            .collect();
        for number in 0..4_u64 {
            let mut client = proxy.client();
            let (key, port) = (client.key.clone(), proxy.port);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let answer = client.query("SELECT pg_sleep(0.004)");
                    assert!(["", "57014"].contains(&answer.code()), "{answer:?}");
                    cancelled.fetch_add(usize::from(answer.error.is_some()), Ordering::Relaxed);
                }
            });
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    cancel(port, &key);
                    thread::sleep(Duration::from_millis(1 + number * 2));
                }
            });
        }
        // On a machine that is busy it takes its time.
        let least = Duration::from_secs(3);
        let enough = || begun.elapsed() > least && cancelled.load(Ordering::Relaxed) > 20;
        while !enough() && begun.elapsed() < 10 * least {
            thread::sleep(Duration::from_millis(20));
        }
        is_over.store(true, Ordering::Relaxed);
        victims.into_iter().flat_map(|it| it.join().unwrap()).collect::<HashSet<String>>()
    });
    assert!(cancelled.load(Ordering::Relaxed) > 20, "{cancelled:?}");
    // Cancelling costs no connections.
    assert!(processes.len() <= 3, "{processes:?}");
    wait_for("the pool to rest", || proxy.show("POOLS", "in_use")[0] == "0");
}

#[test]
fn start_up_packets() {
    let proxy = pooler("startup", "size = 2\n");
    let who = [("user", "app"), ("database", "app")];
    let with = |more: &[(&'static str, &'static str)]| [&who[..], more].concat();
    // Settings by any name are the server's to judge; they hold for the session.
    let parameters = with(&[
        ("work_mem", "1234kB"),
        ("App.Tenant", "seven"),
        ("options", r"-c lock_timeout=1s --statement-timeout=2s -c app.text=a\ b"),
    ]);
    let mut client = Wire::login_with(proxy.port, &parameters, "app").unwrap();
    for (name, value) in [
        ("work_mem", "1234kB"),
        ("app.tenant", "seven"),
        ("lock_timeout", "1s"),
        ("statement_timeout", "2s"),
        ("app.text", "a b"),
    ] {
        assert_eq!(client.run(&format!("SHOW {name}")).first(), value);
    }
    assert_ne!(proxy.client().run("SHOW work_mem").first(), "1234kB");
    let refused = |more| Wire::login_with(proxy.port, &with(more), "app").err().unwrap().0;
    assert_eq!(refused(&[("no_such_setting", "1")]), "42704");
    assert_eq!(refused(&[("work_mem", "much")]), "22023");
    assert_eq!(refused(&[("replication", "perhaps")]), "22023");
    // Long keys by protocol 3.2.
    let mut client = Wire::login_by(2, proxy.port, &who, "app").unwrap();
    let key = client.key.clone();
    assert_eq!((key.1.len(), proxy.client().key.1.len()), (32, 4));
    thread::scope(|scope| {
        let asked = scope.spawn(|| client.query("SELECT pg_sleep(1000)"));
        wait_for("the statement", || proxy.show("CLIENTS", "servers").contains(&"1".into()));
        thread::sleep(Duration::from_millis(50));
        for wrong in [&key.1[..4], &key.1[..31], &[0; 32]] {
            cancel(proxy.port, &(key.0, wrong.to_vec()));
        }
        assert!(!asked.is_finished());
        cancel(proxy.port, &key);
        assert_eq!(asked.join().unwrap().code(), "57014");
    });
    // Encryption by GSS is declined, and the connection goes on; newer protocols and unknown
    // extensions are negotiated.
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    stream.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30]).unwrap();
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    let mut out = BytesMut::new();
    frontend::startup(&mut out, 9, with(&[("_pq_.new", "1"), ("_pq_.other", "x")])).unwrap();
    stream.write_all(&out).unwrap();
    let mut answer = [0; 34];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[..], b"v\0\0\0\x20\0\x03\0\x02\0\0\0\x02_pq_.new\0_pq_.other\0R");
}
