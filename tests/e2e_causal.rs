//! Reads of replicas that never miss what was written: by tenant, by connection, by token, by age.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgsluice::playground::{Cluster, Node};
use pgsluice::wire::frontend;
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::wire::{Arguments, Wire};

const REPLICAS: [Node; 2] = [Node::Replica(0, 0), Node::Replica(1, 0)];

fn on_replicas(cluster: &Cluster, sql: &str) {
    REPLICAS.iter().for_each(|it| drop(cluster.sql(*it, "postgres", sql).unwrap()));
}

fn pause(cluster: &Cluster) {
    on_replicas(cluster, "SELECT pg_wal_replay_pause()");
}

fn resume(cluster: &Cluster) {
    on_replicas(cluster, "SELECT pg_wal_replay_resume()");
}

/// Two shards with a replica each and twenty tenants, whom replicas serve.
fn two_shards(change: impl Fn(&mut ProxySpec)) -> (Cluster, Proxy) {
    let cluster = support::own(2, 1);
    cluster.create_database("causal").unwrap();
    let mut spec = ProxySpec::of(&cluster, "causal");
    change(&mut spec);
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    client.run("CREATE TABLE t (tenant_id bigint PRIMARY KEY, a int)");
    client.run("CREATE TABLE plans (id int PRIMARY KEY, name text)");
    client.run("CREATE TABLE home (id int PRIMARY KEY)");
    client.run("INSERT INTO t SELECT it, 0 FROM generate_series(1, 20) it");
    cluster.wait_for_replicas().unwrap();
    let mut reader = proxy.client();
    for tenant in 1..=20 {
        wait_for("a read on a replica", || serves(&mut reader, tenant) == "t");
    }
    (cluster, proxy)
}

/// Whether a replica serves the tenant: `t` or `f`.
fn serves(client: &mut Wire, tenant: u32) -> String {
    client.run(&format!("SELECT pg_is_in_recovery() FROM t WHERE tenant_id = {tenant}")).first()
}

fn value(client: &mut Wire, tenant: u32) -> String {
    client.run(&format!("SELECT a FROM t WHERE tenant_id = {tenant}")).first()
}

#[test]
fn whoever_reads_a_tenant_sees_what_was_written_and_others_stay_on_replicas() {
    let (cluster, proxy) = two_shards(|_| ());
    let (mut writer, mut other) = (proxy.client(), proxy.client());
    pause(&cluster);
    for tenant in 1..=10 {
        writer.run(&format!("UPDATE t SET a = 1 WHERE tenant_id = {tenant}"));
        assert_eq!(value(&mut other, tenant), "1");
        assert_eq!(value(&mut writer, tenant), "1");
        let sql = "SELECT a FROM t WHERE tenant_id = $1";
        let tenant = tenant.to_string().into_bytes();
        let arguments = Arguments { types: &[20], values: &[Some(tenant)], format: 0 };
        assert_eq!(other.extended(sql, &arguments).first(), "1");
    }
    for tenant in 11..=20 {
        assert_eq!(serves(&mut other, tenant), "t", "tenant {tenant}");
        assert_eq!(serves(&mut writer, tenant), "t", "tenant {tenant}");
    }
    // Over all tenants: the scope is the connection.
    assert_eq!(writer.run("SELECT sum(a) FROM t").first(), "10");
    assert_eq!(other.run("SELECT sum(a) FROM t").first(), "0");
    // In a block, of several tenants, and of rows of nobody.
    writer.run("BEGIN");
    writer.run("UPDATE t SET a = 2 WHERE tenant_id = 11");
    writer.run("INSERT INTO t VALUES (21, 3)");
    writer.run("COMMIT");
    assert_eq!((value(&mut other, 11), value(&mut other, 21)), ("2".into(), "3".into()));
    writer.run("INSERT INTO home VALUES (1)");
    assert_eq!(other.run("SELECT count(*) FROM home").first(), "1");
    writer.run("INSERT INTO plans VALUES (1, 'gold')");
    let joined = "SELECT name FROM t JOIN plans ON id = 1 WHERE tenant_id = 12";
    assert_eq!(other.run(joined).first(), "gold");
    writer.run("UPDATE t SET a = 9");
    assert_eq!(value(&mut other, 20), "9");
    resume(&cluster);
    for tenant in 1..=20 {
        wait_for("replicas again", || serves(&mut other, tenant) == "t");
        assert_eq!(value(&mut other, tenant), "9");
    }
}

#[test]
fn what_a_portal_writes_counts_although_it_was_bound_before() {
    let (cluster, proxy) = two_shards(|_| ());
    let (mut writer, mut other) = (proxy.client(), proxy.client());
    pause(&cluster);
    for tenant in 1..=4 {
        let sql = format!("UPDATE t SET a = 1 WHERE tenant_id = {tenant}");
        frontend::parse(&mut writer.out, b"", sql.as_bytes(), []);
        frontend::bind(&mut writer.out, b"", &[], 0);
        frontend::flush(&mut writer.out);
        writer.send().unwrap();
        assert_eq!([writer.frame().unwrap().0, writer.frame().unwrap().0], [b'1', b'2']);
        frontend::execute(&mut writer.out, b"", 0);
        frontend::sync(&mut writer.out);
        assert_eq!(writer.answer(b"").error, None);
        assert_eq!(value(&mut other, tenant), "1", "tenant {tenant}");
    }
    resume(&cluster);
}

#[test]
fn a_token_makes_another_proxy_wait_for_what_this_one_wrote() {
    let (cluster, proxy) = two_shards(|_| ());
    let second = Proxy::start(proxy.spec.clone());
    let (mut here, mut there) = (proxy.client(), second.client());
    wait_for("a read on a replica", || serves(&mut there, 1) == "t");
    assert_eq!(here.run("SHOW sluice.token").first(), "1");
    pause(&cluster);
    here.run("UPDATE t SET a = 1 WHERE tenant_id = 1");
    let token = here.run("SHOW sluice.token").first();
    assert_eq!(value(&mut there, 1), "0", "the other proxy cannot know");
    there.run(&format!("SET sluice.token = '{token}'"));
    assert_eq!(there.run("SHOW sluice.token").first(), token);
    assert_eq!(value(&mut there, 1), "1");
    there.run("RESET sluice.token");
    assert_eq!(value(&mut there, 1), "0");
    let read = "SELECT a FROM t WHERE tenant_id = 1";
    assert_eq!(there.run(&format!("/* sluice.token={token} */ {read}")).first(), "1");
    let mut started = Wire::login_with(
        second.port,
        &[("user", "app"), ("database", "app"), ("options", &format!("-c sluice.token={token}"))],
        "app",
    )
    .unwrap();
    assert_eq!(value(&mut started, 1), "1");
    assert_eq!(there.query("SET sluice.token = 'old'").code(), "22023");
    resume(&cluster);
    wait_for("a replica with a token", || serves(&mut started, 1) == "t");
    // The tenant's token, from a session that wrote nothing itself.
    let mut tenant = proxy.client();
    tenant.run("SET sluice.tenant = '1'");
    assert!(tenant.run("SHOW sluice.token").first().starts_with("1."));
    // And from a proxy that has no replicas itself, by connection and by tenant.
    let mut spec = proxy.spec.clone();
    spec.shards.iter_mut().for_each(|it| it.replicas.clear());
    let third = Proxy::start(spec);
    let (mut plain, mut tenant) = (third.client(), third.client());
    tenant.run("SET sluice.tenant = '2'");
    pause(&cluster);
    for (value_then, sql) in [
        ("5", "UPDATE t SET a = 5 WHERE tenant_id = 2"),
        ("6", "BEGIN; UPDATE t SET a = 6 WHERE tenant_id = 2; COMMIT"),
    ] {
        plain.run(sql);
        for from in [&mut plain, &mut tenant] {
            there.run("RESET sluice.token");
            assert_ne!(value(&mut there, 2), value_then);
            let token = from.run("SHOW sluice.token").first();
            there.run(&format!("SET sluice.token = '{token}'"));
            assert_eq!(value(&mut there, 2), value_then, "{token}");
        }
    }
    resume(&cluster);
}

#[test]
fn age_is_bounded_as_asked() {
    let (cluster, proxy) = two_shards(|spec| spec.database.push_str("max_replica_lag = \"3s\"\n"));
    let mut client = proxy.client();
    pause(&cluster);
    client.run("UPDATE t SET a = 1 WHERE tenant_id = 1");
    client.run("SET sluice.max_staleness = '1h'");
    assert_eq!(value(&mut client, 1), "0");
    client.run("SET sluice.max_staleness = '1s'");
    wait_for("a replica that is too old", || value(&mut client, 1) == "1");
    assert_eq!(client.run("SHOW sluice.max_staleness").first(), "1000ms");
    let read = "SELECT a FROM t WHERE tenant_id = 1";
    assert_eq!(client.run(&format!("/* sluice.max_staleness=1h */ {read}")).first(), "0");
    client.run("RESET sluice.max_staleness");
    assert_eq!(value(&mut client, 1), "1");
    // Whom nobody wrote is served by a replica, until it is too far behind.
    for shard in 0..2 {
        cluster.sql(Node::Primary(shard), "causal", "CREATE TABLE past_the_proxy ()").unwrap();
    }
    let mut other = proxy.client();
    let mut untouched = (2..=20).collect::<Vec<_>>();
    wait_for("a replica that rests", || {
        untouched.retain(|it| serves(&mut other, *it) == "t");
        untouched.is_empty()
    });
    resume(&cluster);
    wait_for("the replica again", || (2..=20).all(|it| serves(&mut other, it) == "t"));
    assert_eq!(client.query("SET sluice.max_staleness = 'old'").code(), "22023");
}

#[test]
fn a_block_on_a_replica_waits_or_ends() {
    let (cluster, proxy) = two_shards(|_| ());
    let (mut reader, mut writer) = (proxy.client(), proxy.client());
    reader.run("BEGIN READ ONLY");
    assert_eq!(serves(&mut reader, 1), "t");
    writer.run("UPDATE t SET a = 1 WHERE tenant_id = 1");
    assert_eq!(value(&mut reader, 1), "1", "it has waited");
    pause(&cluster);
    writer.run("UPDATE t SET a = 2 WHERE tenant_id = 1");
    let read = "SELECT a FROM t WHERE tenant_id = 1";
    assert_eq!(reader.query(read).code(), "40001");
    reader.run("ROLLBACK");
    assert_eq!(value(&mut reader, 1), "2");
    resume(&cluster);
}

#[test]
fn without_tenants_the_scope_is_the_connection_unless_it_is_strict() {
    let cluster = support::own(1, 1);
    cluster.create_database("plain").unwrap();
    let spec = ProxySpec::of(&cluster, "plain");
    let mut strict = spec.clone();
    strict.database.push_str("consistency = \"strict\"\n");
    let (proxy, strict) = (Proxy::start(spec), Proxy::start(strict));
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a int)");
    client.run("INSERT INTO t VALUES (0)");
    cluster.wait_for_replicas().unwrap();
    let is_replica = "SELECT pg_is_in_recovery() FROM t";
    let mut others = [proxy.client(), strict.client()];
    for it in &mut others {
        wait_for("a read on a replica", || it.run(is_replica).first() == "t");
    }
    let node = Node::Replica(0, 0);
    cluster.sql(node, "postgres", "SELECT pg_wal_replay_pause()").unwrap();
    let read = "SELECT a FROM t";
    let [mut other, mut strictly] = others;
    client.run("UPDATE t SET a = 1");
    assert_eq!((client.run(read).first(), other.run(read).first()), ("1".into(), "0".into()));
    let mut writer = strict.client();
    writer.run("UPDATE t SET a = 2");
    assert_eq!(strictly.run(read).first(), "2");
    // A named tenant is a scope here, too.
    client.run("SET sluice.tenant = 'acme'");
    other.run("SET sluice.tenant = 'acme'");
    client.run("UPDATE t SET a = 3");
    assert_eq!(other.run(read).first(), "3");
    other.run("SET sluice.tenant = 'bolt'");
    assert_eq!(other.run(is_replica).first(), "t");
    cluster.sql(node, "postgres", "SELECT pg_wal_replay_resume()").unwrap();
}

#[test]
fn nobody_reads_the_past_while_replicas_are_slow() {
    let (cluster, proxy) = two_shards(|_| ());
    on_replicas(&cluster, "ALTER SYSTEM SET recovery_min_apply_delay = '300ms'");
    on_replicas(&cluster, "SELECT pg_reload_conf()");
    let (stale, idle, on_replica) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let end = Instant::now() + Duration::from_secs(4);
    thread::scope(|scope| {
        for client in 0..8_u32 {
            let (proxy, stale, idle, on_replica) = (&proxy, &stale, &idle, &on_replica);
            scope.spawn(move || {
                let (mut one, mut two) = (proxy.client(), proxy.client());
                let tenant = client + 1;
                for round in 1.. {
                    if Instant::now() > end {
                        break;
                    }
                    one.run(&format!("UPDATE t SET a = {round} WHERE tenant_id = {tenant}"));
                    if value(&mut two, tenant) != round.to_string() {
                        stale.fetch_add(1, Ordering::Relaxed);
                    }
                    let quiet = 9 + (client + round) % 12;
                    idle.fetch_add(1, Ordering::Relaxed);
                    let is_replica = serves(&mut two, quiet) == "t";
                    on_replica.fetch_add(usize::from(is_replica), Ordering::Relaxed);
                }
            });
        }
    });
    let (stale, idle, on_replica) =
        (stale.into_inner(), idle.into_inner(), on_replica.into_inner());
    assert_eq!(stale, 0, "of {idle}");
    assert!(idle > 100 && on_replica * 10 > idle * 9, "{on_replica} of {idle} on replicas");
}

/// A table `t (a int)` on one shard whose replica serves whoever has not written.
fn one_shard(name: &str, replicas: usize) -> (Cluster, ProxySpec) {
    let cluster = support::own(1, replicas);
    cluster.create_database(name).unwrap();
    let make = "CREATE TABLE t (a int); ALTER TABLE t OWNER TO app; INSERT INTO t VALUES (0)";
    cluster.sql(Node::Primary(0), name, make).unwrap();
    cluster.wait_for_replicas().unwrap();
    let spec = ProxySpec::of(&cluster, name);
    (cluster, spec)
}

const IS_REPLICA: &str = "SELECT pg_is_in_recovery() FROM t";

#[test]
fn a_pipeline_is_written_when_its_sync_has_been_answered() {
    let (cluster, proxy) = two_shards(|_| ());
    let (mut writer, mut other) = (proxy.client(), proxy.client());
    let update = |writer: &mut Wire, tenant: u32| {
        let sql = format!("UPDATE t SET a = 1 WHERE tenant_id = {tenant}");
        frontend::parse(&mut writer.out, b"", sql.as_bytes(), []);
        frontend::bind(&mut writer.out, b"", &[], 0);
        frontend::execute(&mut writer.out, b"", 0);
        frontend::flush(&mut writer.out);
        writer.send().unwrap();
        assert_eq!([(); 3].map(|()| writer.frame().unwrap().0), [b'1', b'2', b'C']);
    };
    for (tenant, ends_with_read) in [(1, false), (2, true)] {
        update(&mut writer, tenant);
        // Whatever is asked about the log now tells nothing of what is not committed.
        for _ in 0..20 {
            assert_eq!(value(&mut other, tenant), "0");
            thread::sleep(Duration::from_millis(10));
        }
        pause(&cluster);
        if ends_with_read {
            let sql = format!("SELECT 1 FROM t WHERE tenant_id = {tenant}");
            frontend::parse(&mut writer.out, b"", sql.as_bytes(), []);
            frontend::bind(&mut writer.out, b"", &[], 0);
            frontend::execute(&mut writer.out, b"", 0);
        }
        frontend::sync(&mut writer.out);
        assert_eq!(writer.answer(b"").error, None);
        assert_eq!(value(&mut other, tenant), "1", "tenant {tenant}");
        assert_eq!(value(&mut writer, tenant), "1", "tenant {tenant}");
        resume(&cluster);
    }
}

#[test]
fn several_statements_of_a_named_tenant_count_for_it() {
    let (cluster, spec) = one_shard("several", 1);
    let proxy = Proxy::start(spec);
    let (mut writer, mut other) = (proxy.client(), proxy.client());
    for it in [&mut writer, &mut other] {
        it.run("SET sluice.tenant = 'acme'");
        wait_for("a read on a replica", || it.run(IS_REPLICA).first() == "t");
    }
    cluster.sql(Node::Replica(0, 0), "postgres", "SELECT pg_wal_replay_pause()").unwrap();
    writer.run("UPDATE t SET a = 1; SELECT 1");
    assert_eq!(other.run("SELECT a FROM t").first(), "1");
    writer.run("PREPARE p AS UPDATE t SET a = 2");
    writer.run("EXECUTE p");
    assert_eq!(other.run("SELECT a FROM t").first(), "2");
}

#[test]
fn what_is_written_while_a_reload_brings_replicas_counts() {
    let (cluster, spec) = one_shard("brought", 1);
    let mut alone = spec.clone();
    alone.shards[0].replicas.clear();
    let proxy = Proxy::start(alone);
    let (mut writer, mut other) = (proxy.client(), proxy.client());
    writer.run("SET sluice.tenant = 'acme'");
    other.run("SET sluice.tenant = 'acme'");
    writer.run("BEGIN");
    writer.run("UPDATE t SET a = 1");
    proxy.rewrite(&spec);
    assert_eq!(proxy.admin("RELOAD").error, None);
    wait_for("a read on a replica", || other.run(IS_REPLICA).first() == "t");
    cluster.sql(Node::Replica(0, 0), "postgres", "SELECT pg_wal_replay_pause()").unwrap();
    writer.run("COMMIT");
    assert_eq!(other.run("SELECT a FROM t").first(), "1");
    assert_eq!(writer.run("SELECT a FROM t").first(), "1");
}

#[test]
fn a_replica_that_was_started_anew_may_have_gone_back() {
    let (cluster, mut spec) = one_shard("anew", 1);
    // No check of the host falls into its absence.
    spec.health = "interval = \"30s\"\n".to_owned();
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    cluster.sql(Node::Replica(0, 0), "postgres", "CHECKPOINT").unwrap();
    client.run("UPDATE t SET a = 1");
    wait_for("a read on a replica", || client.run(IS_REPLICA).first() == "t");
    let replica = cluster.server(Node::Replica(0, 0));
    replica.kill9();
    // What it had received is replayed late, as it is where there is much of it.
    let path = replica.data.join("postgresql.auto.conf");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("recovery_min_apply_delay = '1h'\n");
    std::fs::write(&path, text).unwrap();
    replica.start().unwrap();
    let there = cluster.sql(Node::Replica(0, 0), "anew", "SELECT a FROM t").unwrap();
    assert_eq!(there[0][0].as_deref(), Some("0"), "it has gone back");
    for _ in 0..50 {
        assert_eq!(client.run("SELECT a FROM t").first(), "1");
    }
}
