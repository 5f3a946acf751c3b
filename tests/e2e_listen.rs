//! LISTEN and NOTIFY through one shared connection per database.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgsluice::playground::Node;
use pgsluice::wire::frontend;
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::wire::{Arguments, Wire};

/// A proxy over one shard.
fn one_shard(name: &str, change: impl FnOnce(&mut ProxySpec)) -> Proxy {
    let name = support::database(name);
    let place = (support::shared().primary_port(0), vec![], name);
    let mut spec = ProxySpec::over(&[place]);
    change(&mut spec);
    Proxy::start(spec)
}

/// A proxy over two shards; shard 0 is home.
fn two_shards(name: &str) -> Proxy {
    Proxy::start(ProxySpec::of(support::shared(), &support::database(name)))
}

/// What one frame tells: `channel=payload`, `W message`, or the tag.
fn told(tag: u8, frame: &[u8]) -> String {
    match tag {
        b'A' => {
            let mut texts = frame[9..].split(|it| *it == 0);
            let mut text = || String::from_utf8_lossy(texts.next().unwrap()).into_owned();
            format!("{}={}", text(), text())
        }
        b'N' => {
            let fields = pgsluice::wire::backend::ErrorFields::read(frame).unwrap();
            format!("W {}", fields.message())
        }
        _ => char::from(tag).into(),
    }
}

/// Runs statements; everything said up to ReadyForQuery.
fn said(client: &mut Wire, sql: &str) -> Vec<String> {
    frontend::query(&mut client.out, sql.as_bytes());
    client.send().unwrap();
    let mut all = Vec::new();
    loop {
        let (tag, frame) = client.frame().unwrap();
        all.push(told(tag, &frame));
        if tag == b'Z' {
            return all;
        }
    }
}

/// The next message for an idle client.
fn next(client: &mut Wire) -> String {
    let (tag, frame) = client.frame().unwrap();
    told(tag, &frame)
}

/// That an idle client hears nothing.
fn hears_nothing(client: &mut Wire) {
    client.stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
    assert!(client.frame().is_err(), "something was said");
    client.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
}

#[test]
fn notifications_reach_those_who_listen() {
    let proxy = one_shard("listen", |_| ());
    let (mut a, mut b, mut c) = (proxy.client(), proxy.client(), proxy.client());
    assert_eq!(said(&mut a, "LISTEN news"), ["C", "Z"]);
    b.run("LISTEN News; LISTEN \"Odd \"\" name\"; LISTEN \"ü\"");
    c.run("NOTIFY news, 'one'; NOTIFY NEWS, 'two'");
    for client in [&mut a, &mut b] {
        assert_eq!([next(client), next(client)], ["news=one", "news=two"]);
    }
    c.run("NOTIFY \"News\"; NOTIFY \"Odd \"\" name\"; SELECT pg_notify('ü', 'ö')");
    assert_eq!([next(&mut b), next(&mut b)], ["Odd \" name=", "ü=ö"]);
    // What was notified before an answer comes with it.
    for round in 0..50 {
        c.run(&format!("NOTIFY news, '{round}'"));
        assert!(said(&mut a, "SELECT").contains(&format!("news={round}")), "{round}");
    }
    (0..50).for_each(|round| assert_eq!(next(&mut b), format!("news={round}")));
    assert_eq!(said(&mut a, "NOTIFY news, 'own'"), ["C", "news=own", "Z"]);
    // The proxy keeps no server for them.
    assert_eq!(proxy.show("CLIENTS", "pinned").concat(), "");
    assert_eq!(proxy.show("POOLS", "in_use"), ["0"]);
    let channels = proxy.show("LISTENERS", "channel");
    assert_eq!(channels, ["Odd \" name", "news", "news", "ü"]);
    assert_eq!(proxy.show("LISTENERS", "state")[0], "listening");
    // The end of a session and DISCARD ALL are UNLISTEN *.
    b.run("DISCARD ALL");
    c.run("NOTIFY news, 'late'");
    hears_nothing(&mut b);
    assert_eq!(next(&mut a), "news=late");
    drop(a);
    wait_for("the last listener to leave", || proxy.show("LISTENERS", "channel").is_empty());
    let metrics = proxy.page("/metrics").1;
    assert!(metrics.contains("sluice_listening_channels{database=\"app\"} 0"), "{metrics}");
    assert!(metrics.contains("sluice_notifications_missed_total{database=\"app\"} 0"), "{metrics}");
}

#[test]
fn listen_belongs_to_its_transaction() {
    let proxy = one_shard("listen_tx", |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    let channels = |client: &mut Wire| {
        let answer = client.run("SELECT * FROM pg_listening_channels()");
        let text = |row: &Vec<Option<Vec<u8>>>| String::from_utf8(row[0].clone().unwrap()).unwrap();
        answer.rows.iter().map(text).collect::<Vec<_>>().join(" ")
    };
    a.run("BEGIN; LISTEN one");
    b.run("NOTIFY one, 'early'");
    assert_eq!(channels(&mut a), "");
    assert_eq!(said(&mut a, "COMMIT"), ["C", "Z"]);
    b.run("NOTIFY one, 'late'");
    assert_eq!(next(&mut a), "one=late");
    a.run("BEGIN; LISTEN two; SAVEPOINT s; LISTEN three; UNLISTEN one; ROLLBACK TO s");
    // Nothing is told inside of a transaction.
    b.run("NOTIFY one, 'waits'");
    assert_eq!(said(&mut a, "SELECT"), ["T", "D", "C", "Z"]);
    hears_nothing(&mut a);
    assert_eq!(said(&mut a, "COMMIT"), ["C", "one=waits", "Z"]);
    assert_eq!(channels(&mut a), "one two");
    a.run("BEGIN; UNLISTEN *; LISTEN four");
    a.run("ROLLBACK");
    assert_eq!(channels(&mut a), "one two");
    a.run("BEGIN; LISTEN five; UNLISTEN one");
    assert_eq!(a.query("SELECT 1 / 0").code(), "22012");
    assert_eq!(a.query("LISTEN six").code(), "25P02");
    a.run("COMMIT");
    assert_eq!(channels(&mut a), "one two");
    assert_eq!(a.query("LISTEN seven; SELECT 1 / 0").code(), "22012");
    assert_eq!(channels(&mut a), "one two");
    a.run("UNLISTEN one; LISTEN eight; UNLISTEN nine; LISTEN eight");
    assert_eq!(channels(&mut a), "two eight");
    b.run("NOTIFY one; NOTIFY seven; NOTIFY eight");
    assert_eq!(next(&mut a), "eight=");
    hears_nothing(&mut a);
    // The extended protocol.
    let none = Arguments { types: &[], values: &[], format: 1 };
    assert_eq!(a.extended("UNLISTEN *", &none).tags, ["UNLISTEN"]);
    assert_eq!(a.extended("LISTEN ten", &none).tags, ["LISTEN"]);
    let answer = a.extended("SELECT pg_listening_channels()", &none);
    assert_eq!((answer.columns.len(), answer.first().as_str()), (1, "ten"));
    assert_eq!(a.query("SELECT count(*) FROM pg_listening_channels()").code(), "0A000");
    b.run("NOTIFY ten");
    assert_eq!(next(&mut a), "ten=");
}

#[test]
fn notify_goes_to_the_home_shard() {
    let proxy = two_shards("notify_home");
    let (mut a, mut b) = (proxy.client(), proxy.client());
    b.run("CREATE TABLE t (tenant_id bigint, a int)");
    a.run("LISTEN jobs");
    let tenant = |shard: usize| {
        let mut client = proxy.client();
        let plan = |it: &u64| format!("EXPLAIN (SLUICE) SELECT * FROM t WHERE tenant_id = {it}");
        let mut goes = |it: &u64| {
            let rows = client.run(&plan(it)).rows;
            let last = rows.last().unwrap()[0].clone().unwrap();
            String::from_utf8(last).unwrap().contains(&format!("shard {shard}"))
        };
        (1..100).find(|it| goes(it)).unwrap()
    };
    let (home, other) = (tenant(0), tenant(1));
    b.run(&format!(
        "SET sluice.tenant = '{other}'; NOTIFY jobs, 'a'; SELECT pg_notify('jobs', 'b')"
    ));
    assert_eq!([next(&mut a), next(&mut a)], ["jobs=a", "jobs=b"]);
    b.run("RESET sluice.tenant");
    // A commit on two shards with a notification, whichever shard came first.
    for (first, second) in [(home, other), (other, home)] {
        b.run("BEGIN");
        b.run(&format!("INSERT INTO t VALUES ({first}, 1)"));
        b.run("NOTIFY jobs, 'two'");
        b.run(&format!("INSERT INTO t VALUES ({second}, 1)"));
        hears_nothing(&mut a);
        b.run("COMMIT");
        assert_eq!(next(&mut a), "jobs=two");
    }
    assert_eq!(b.run("SELECT count(*) FROM t").first(), "4");
    b.run("BEGIN; NOTIFY jobs, 'never'");
    b.run("ROLLBACK");
    hears_nothing(&mut a);
}

/// The process that listens for a proxy on a server.
fn listening_process(cluster: &pgsluice::playground::Cluster, database: &str) -> Option<i32> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' \
         AND application_name = 'pgsluice listen'"
    );
    let rows = cluster.sql(Node::Primary(0), "postgres", &sql).ok()?;
    rows.first()?[0].as_ref()?.parse().ok()
}

#[test]
fn a_lost_server_is_told_and_listened_on_again() {
    let cluster = support::own(1, 0);
    cluster.create_database("lost").unwrap();
    let mut spec = ProxySpec::of(&cluster, "lost");
    spec.pool.push_str("connect_timeout = \"500ms\"\n");
    let proxy = Proxy::start(spec);
    let mut clients: Vec<Wire> = (0..3).map(|_| proxy.client()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.run(&format!("LISTEN news; LISTEN only_{at}"));
    }
    // The backend alone.
    let process = listening_process(&cluster, "lost").unwrap();
    kill(Pid::from_raw(process), Signal::SIGTERM).unwrap();
    for client in &mut clients {
        assert_eq!(next(client), "W notifications may have been missed");
    }
    let mut other = proxy.client();
    other.run("NOTIFY news; NOTIFY only_1");
    assert_eq!([next(&mut clients[1]), next(&mut clients[1])], ["news=", "only_1="]);
    [0, 2].iter().for_each(|it| assert_eq!(next(&mut clients[*it]), "news="));
    // The whole server, for a while.
    cluster.server(Node::Primary(0)).kill9();
    wait_for("the loss", || proxy.show("LISTENERS", "state")[0] == "reconnecting");
    assert_eq!(clients[0].query("LISTEN more").code(), "57P03");
    cluster.server(Node::Primary(0)).start().unwrap();
    assert_eq!(next(&mut clients[0]), "W notifications may have been missed");
    wait_for("the proxy's servers", || proxy.client().query("NOTIFY only_2, 'x'").error.is_none());
    assert_eq!(next(&mut clients[2]), "W notifications may have been missed");
    assert_eq!(next(&mut clients[2]), "only_2=x");
    let missed = proxy.show("LISTENERS", "missed");
    assert!(missed.iter().all(|it| it == "2"), "{missed:?}");
    clients[0].run("LISTEN more; NOTIFY more");
}

#[test]
fn who_does_not_read_is_told_what_is_missing() {
    let proxy = one_shard("overflow", |spec| spec.limits = "notifications = 10\n".to_owned());
    let (mut lazy, mut eager, mut b) = (proxy.client(), proxy.client(), proxy.client());
    lazy.run("LISTEN many");
    eager.run("LISTEN many");
    lazy.run("BEGIN");
    let payload = "x".repeat(7000);
    for round in 0..30 {
        b.run(&format!("NOTIFY many, '{round} {payload}'"));
        assert!(next(&mut eager).starts_with(&format!("many={round} x")));
    }
    let all = said(&mut lazy, "COMMIT");
    let heard: Vec<&str> = all.iter().map(|it| it.split(' ').next().unwrap()).collect();
    let expected: Vec<String> = (0..10).map(|it| format!("many={it}")).collect();
    assert_eq!(heard[1..11], expected);
    assert_eq!(all[11..], ["W 20 notifications were missed", "Z"]);
    // A client that takes nothing at all holds nobody up and costs a bounded memory.
    let before = proxy.memory_kib(false);
    for round in 0..3000 {
        b.run(&format!("NOTIFY many, '{round} {payload}'"));
        assert!(next(&mut eager).starts_with(&format!("many={round} x")));
    }
    assert!(proxy.memory_kib(false) < before + 8 * 1024, "{} KiB", proxy.memory_kib(false));
    let missed: u64 = proxy.show("LISTENERS", "missed")[0].parse().unwrap();
    assert!(missed > 20, "{missed}");
    lazy.run("SELECT 1");
}

#[test]
fn a_hundred_listeners_hear_all_in_order() {
    let proxy = one_shard("hundred", |spec| spec.pool = "size = 3\n".to_owned());
    let mut clients: Vec<Wire> = (0..100).map(|_| proxy.client()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.run(&format!("LISTEN everybody; LISTEN group_{}", at % 10));
    }
    let mut b = proxy.client();
    for round in 0..20 {
        b.run(&format!("NOTIFY everybody, '{round}'; NOTIFY group_{}, '{round}'", round % 10));
    }
    for (at, client) in clients.iter_mut().enumerate() {
        for round in 0..20 {
            assert_eq!(next(client), format!("everybody={round}"));
            if round % 10 == at % 10 {
                assert_eq!(next(client), format!("group_{}={round}", at % 10));
            }
        }
    }
    let delivered = "sluice_notifications_total{database=\"app\"} 2200";
    assert!(proxy.page("/metrics").1.contains(delivered));
}

#[test]
fn a_listen_left_behind_reaches_nobody_else() {
    let proxy = one_shard("stray", |spec| spec.pool = "size = 1\n".to_owned());
    let mut b = proxy.client();
    b.run("DO $$ BEGIN EXECUTE 'LISTEN stray'; END $$");
    assert_eq!(said(&mut b, "NOTIFY stray"), ["C", "Z"]);
    // What the block has run is not known: it keeps its server until then.
    b.run("DISCARD ALL");
    assert_eq!(said(&mut proxy.client(), "NOTIFY stray; SELECT"), ["C", "T", "D", "C", "Z"]);
}

#[test]
fn session_mode_listens_on_the_own_server() {
    let proxy = one_shard("listen_session", |spec| spec.pool.push_str("mode = \"session\"\n"));
    let (mut a, mut b) = (proxy.client(), proxy.client());
    a.run("LISTEN news");
    assert_eq!(a.run("SELECT pg_listening_channels()").first(), "news");
    b.run("NOTIFY news, 'one'");
    assert_eq!(next(&mut a), "news=one");
    assert_eq!(proxy.show("LISTENERS", "channel").len(), 0);
}

#[test]
fn psql_and_tokio_postgres_listen() {
    let proxy = two_shards("listen_clients");
    let script = "LISTEN a;\nNOTIFY a, 'x y';\n";
    let (out, err) = proxy.psql(&["-q"], script);
    assert_eq!(err, "");
    let begin = "Asynchronous notification \"a\" with payload \"x y\" received from server process";
    assert!(out.starts_with(begin), "{out}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = format!("host=127.0.0.1 port={} user=app password=app dbname=app", proxy.port);
        let (client, mut connection) =
            tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
        let (sender, mut messages) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) =
                std::future::poll_fn(|cx| connection.poll_message(cx)).await
            {
                let _ = sender.send(message);
            }
        });
        client.execute("LISTEN jobs", &[]).await.unwrap();
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        client.execute("SELECT pg_notify('jobs', $1)", &[&"42"]).await.unwrap();
        match messages.recv().await.unwrap() {
            tokio_postgres::AsyncMessage::Notification(it) => {
                assert_eq!((it.channel(), it.payload()), ("jobs", "42"));
                // The backend that sent it.
                assert_eq!(it.process_id(), pid);
            }
            other => panic!("{other:?}"),
        }
    });
}
