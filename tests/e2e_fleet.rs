//! Two proxies and a Redis: whoever wrote through one reads it through the other.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::playground::{Cluster, Node};
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::redis::{Cable, Redis};
use support::wire::{Arguments, Wire};

fn on_replicas(cluster: &Cluster, sql: &str) {
    cluster.sql(Node::Replica(0, 0), "postgres", sql).unwrap();
}

fn pause(cluster: &Cluster) {
    on_replicas(cluster, "SELECT pg_wal_replay_pause()");
}

fn resume(cluster: &Cluster) {
    on_replicas(cluster, "SELECT pg_wal_replay_resume()");
}

/// Two shards on one primary and its replica, twenty tenants, and two proxies that hear each other.
fn fleet(settings: &str) -> (Cluster, Redis, [Proxy; 2]) {
    let redis = Redis::start();
    let (cluster, proxies) = fleet_over([redis.port, redis.port], settings);
    (cluster, redis, proxies)
}

/// Each by its own way to Redis.
fn fleet_over(ports: [u16; 2], settings: &str) -> (Cluster, [Proxy; 2]) {
    let cluster = support::own(1, 1);
    let places = ["fleet_0", "fleet_1"].map(|name| {
        cluster.create_database(name).unwrap();
        (cluster.primary_port(0), vec![cluster.replica_port(0, 0)], name.to_owned())
    });
    let proxies = ports.map(|port| {
        let mut spec = ProxySpec::over(&places);
        let url = format!("redis://:secret@127.0.0.1:{port}");
        spec.health.push_str(&format!("[redis]\nurl = {url:?}\n{settings}"));
        Proxy::start(spec)
    });
    let mut client = proxies[0].client();
    client.run("CREATE TABLE t (tenant_id bigint PRIMARY KEY, a int)");
    client.run("INSERT INTO t SELECT it, 0 FROM generate_series(1, 20) it");
    cluster.wait_for_replicas().unwrap();
    proxies.iter().for_each(|it| it.wait_for_tables(1));
    for proxy in &proxies {
        wait_for("a fleet of two", || proxy.show("FLEET", "state") == ["this, connected", "heard"]);
        on_replicas_again(proxy);
    }
    (cluster, proxies)
}

/// Waits until replicas serve all tenants.
fn on_replicas_again(proxy: &Proxy) {
    let mut client = proxy.client();
    for tenant in 1..=20 {
        wait_for("a read on a replica", || serves(&mut client, tenant) == "t");
    }
}

/// Whether a replica serves the tenant: `t` or `f`.
fn serves(client: &mut Wire, tenant: u32) -> String {
    client.run(&format!("SELECT pg_is_in_recovery() FROM t WHERE tenant_id = {tenant}")).first()
}

fn value(client: &mut Wire, tenant: u32) -> String {
    client.run(&format!("SELECT a FROM t WHERE tenant_id = {tenant}")).first()
}

/// Both ways that a statement goes.
fn extended(client: &mut Wire, sql: &str, tenant: u32) -> String {
    let tenant = tenant.to_string().into_bytes();
    let arguments = Arguments { types: &[20], values: &[Some(tenant)], format: 0 };
    let answer = client.extended(sql, &arguments);
    if answer.rows.is_empty() { String::new() } else { answer.first() }
}

#[test]
fn what_one_proxy_wrote_the_other_reads() {
    let (cluster, _redis, [here, there]) = fleet("");
    let (mut writer, mut reader) = (here.client(), there.client());
    pause(&cluster);
    for (round, tenant) in (1..=10).chain(1..=3).enumerate() {
        let round = round + 1;
        writer.run(&format!("UPDATE t SET a = {round} WHERE tenant_id = {tenant}"));
        assert_eq!(value(&mut reader, tenant), round.to_string(), "tenant {tenant}");
        let read = "SELECT a FROM t WHERE tenant_id = $1";
        assert_eq!(extended(&mut reader, read, tenant), round.to_string());
        extended(&mut writer, "UPDATE t SET a = a + 100 WHERE tenant_id = $1", tenant);
        assert_eq!(value(&mut reader, tenant), (round + 100).to_string());
    }
    for tenant in 11..=20 {
        assert_eq!(serves(&mut reader, tenant), "t", "tenant {tenant}");
    }
    // A block, open for longer than an announcement holds; then of all tenants.
    writer.run("BEGIN");
    writer.run("UPDATE t SET a = 5 WHERE tenant_id = 11");
    assert_eq!(serves(&mut reader, 11), "f");
    thread::sleep(Duration::from_millis(5500));
    assert_eq!(serves(&mut reader, 11), "f");
    writer.run("COMMIT");
    assert_eq!(value(&mut reader, 11), "5");
    // The other way round, and long after: the replica has it not.
    reader.run("UPDATE t SET a = 6 WHERE tenant_id = 12");
    assert_eq!(value(&mut writer, 12), "6");
    writer.run("UPDATE t SET a = 7");
    assert_eq!(value(&mut reader, 20), "7");
    thread::sleep(Duration::from_millis(500));
    assert_eq!((value(&mut reader, 11), value(&mut reader, 20)), ("7".into(), "7".into()));
    resume(&cluster);
    on_replicas_again(&there);
    assert_eq!(value(&mut reader, 12), "7");
    // Who says goodbye is not missed.
    drop(writer);
    here.signal(Signal::SIGTERM);
    wait_for("one proxy", || there.show("FLEET", "state") == ["this, connected"]);
    assert_eq!(serves(&mut reader, 1), "t");
}

/// Who is heard by all does not wait for the fence; who is not, does.
#[test]
fn a_write_waits_for_those_who_hear_it() {
    let (_cluster, _redis, [one, mut other]) = fleet("fence = \"1s\"\n");
    let mut writer = one.client();
    let mut write_all = |value: u32| {
        let begun = Instant::now();
        for tenant in 1..=8 {
            writer.run(&format!("UPDATE t SET a = {value} WHERE tenant_id = {tenant}"));
        }
        begun.elapsed()
    };
    let fences = Duration::from_secs(8);
    let confirmed = write_all(1);
    assert!(confirmed < fences / 2, "{confirmed:?}");
    // One that is dead confirms nothing. Tenants that cool down are announced anew.
    other.kill9();
    thread::sleep(Duration::from_secs(1));
    let fenced = write_all(2);
    assert!(fenced >= fences, "{fenced:?}");
}

#[test]
fn a_killed_proxy_leaves_nothing_unseen() {
    let (cluster, _redis, [mut here, there]) = fleet("distrust = \"1s\"\n");
    let (mut writer, mut reader) = (here.client(), there.client());
    pause(&cluster);
    writer.run("UPDATE t SET a = 1 WHERE tenant_id = 1");
    writer.run("BEGIN");
    writer.run("UPDATE t SET a = 2 WHERE tenant_id = 2");
    here.kill9();
    let end = Instant::now() + Duration::from_millis(5500);
    while Instant::now() < end {
        assert_eq!((value(&mut reader, 1), value(&mut reader, 2)), ("1".into(), "0".into()));
        thread::sleep(Duration::from_millis(50));
    }
    wait_for("one proxy", || there.show("FLEET", "state") == ["this, connected"]);
    assert_eq!(value(&mut reader, 1), "1");
    assert_eq!(serves(&mut reader, 1), "f", "the replica has not got it");
    resume(&cluster);
    on_replicas_again(&there);
    assert_eq!((value(&mut reader, 1), value(&mut reader, 2)), ("1".into(), "0".into()));
    // It is back.
    here.restart();
    wait_for("two", || there.show("FLEET", "state") == ["this, connected", "heard"]);
    on_replicas_again(&here);
}

#[test]
fn without_redis_reads_use_primaries_and_writes_go_on() {
    let (cluster, mut redis, [here, there]) = fleet("");
    let (mut writer, mut reader) = (here.client(), there.client());
    pause(&cluster);
    redis.kill();
    let begin = Instant::now();
    writer.run("UPDATE t SET a = 1 WHERE tenant_id = 1");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    for tenant in 1..=20 {
        assert_eq!(serves(&mut reader, tenant), "f");
    }
    assert_eq!(value(&mut reader, 1), "1");
    writer.run("UPDATE t SET a = 2 WHERE tenant_id = 1");
    assert_eq!(value(&mut reader, 1), "2");
    assert!(here.page("/metrics").1.contains("\nsluice_redis_up 0\n"));
    assert!(here.log().contains("no connection to Redis"));
    redis.restart();
    wait_for("Redis", || there.show("FLEET", "state").iter().any(|it| it == "heard"));
    assert_eq!(value(&mut reader, 1), "2");
    writer.run("UPDATE t SET a = 3 WHERE tenant_id = 2");
    assert_eq!(value(&mut reader, 2), "3");
    resume(&cluster);
    on_replicas_again(&there);
    assert_eq!((value(&mut reader, 1), value(&mut reader, 2)), ("2".into(), "3".into()));
    assert!(there.page("/metrics").1.contains("\nsluice_redis_up 1\n"));
}

#[test]
fn who_is_cut_off_from_redis_is_missed_before_it_writes_on() {
    let redis = Redis::start();
    let cable = Cable::start(redis.port);
    let (cluster, [here, there]) = fleet_over([cable.port, redis.port], "");
    let (mut writer, mut reader) = (here.client(), there.client());
    pause(&cluster);
    writer.run("UPDATE t SET a = 1 WHERE tenant_id = 1");
    cable.pull(true);
    let begin = Instant::now();
    for round in 2.. {
        if begin.elapsed() > Duration::from_secs(7) {
            break;
        }
        thread::sleep(Duration::from_millis(5));
        // The first is announced already, others are not.
        let tenant = if round < 10 { 1 } else { round % 8 + 1 };
        writer.run(&format!("UPDATE t SET a = {round} WHERE tenant_id = {tenant}"));
        assert_eq!(value(&mut reader, tenant), round.to_string(), "{:?}", begin.elapsed());
    }
    assert_eq!(serves(&mut reader, 20), "f", "the other proxy is missed");
    assert_eq!(there.show("FLEET", "state"), ["this, connected", "silent"]);
    let metrics = here.page("/metrics").1;
    assert!(!metrics.contains("\nsluice_fleet_unannounced_writes_total 0\n"));
    writer.run("BEGIN");
    writer.run("UPDATE t SET a = 0 WHERE tenant_id = 9");
    // Written by nobody's leave, and open still when the others trust again.
    cable.pull(false);
    wait_for("both", || there.show("FLEET", "state") == ["this, connected", "heard"]);
    assert_eq!(serves(&mut reader, 9), "f");
    writer.run("COMMIT");
    assert_eq!(value(&mut reader, 9), "0");
    resume(&cluster);
    on_replicas_again(&there);
    on_replicas_again(&here);
}

#[test]
fn nobody_reads_the_past_through_any_proxy_while_replicas_are_slow() {
    let (cluster, _redis, proxies) = fleet("");
    on_replicas(&cluster, "ALTER SYSTEM SET recovery_min_apply_delay = '300ms'");
    on_replicas(&cluster, "SELECT pg_reload_conf()");
    let (stale, reads, on_replica) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let end = Instant::now() + Duration::from_secs(4);
    thread::scope(|scope| {
        for client in 0..16_u32 {
            let (proxies, stale, reads, on_replica) = (&proxies, &stale, &reads, &on_replica);
            scope.spawn(move || {
                let mut clients = [proxies[0].client(), proxies[1].client()];
                // Eight tenants: each is written by one client and read by two.
                let tenant = client % 8 + 1;
                for round in 1_u32.. {
                    if Instant::now() > end {
                        break;
                    }
                    let [one, two] = &mut clients;
                    let (one, two) = if round % 3 == 0 { (two, one) } else { (one, two) };
                    if client < 8 {
                        one.run(&format!("UPDATE t SET a = {round} WHERE tenant_id = {tenant}"));
                        let is_stale = value(two, tenant) != round.to_string();
                        stale.fetch_add(usize::from(is_stale), Ordering::Relaxed);
                        if round % 5 == 0 {
                            // Long enough to be taken back, too short for the replica.
                            thread::sleep(Duration::from_millis(260));
                            let is_stale = value(two, tenant) != round.to_string();
                            stale.fetch_add(usize::from(is_stale), Ordering::Relaxed);
                        }
                    } else {
                        // What one connection has seen the other sees.
                        let seen: u32 = value(one, tenant).parse().unwrap();
                        let is_stale = value(two, tenant).parse::<u32>().unwrap() < seen;
                        stale.fetch_add(usize::from(is_stale), Ordering::Relaxed);
                    }
                    let quiet = 9 + (client + round) % 12;
                    reads.fetch_add(1, Ordering::Relaxed);
                    let is_replica = serves(two, quiet) == "t";
                    on_replica.fetch_add(usize::from(is_replica), Ordering::Relaxed);
                }
            });
        }
    });
    let (stale, reads) = (stale.into_inner(), reads.into_inner());
    assert_eq!(stale, 0, "of {reads}");
    let on_replica = on_replica.into_inner();
    assert!(reads > 100 && on_replica * 2 > reads, "{on_replica} of {reads} on replicas");
    eprintln!("{reads} rounds, {on_replica} of their quiet reads on replicas");
}
