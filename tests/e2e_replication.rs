//! Replication connections through the proxy: psql, pg_recvlogical, pg_basebackup.
#![allow(clippy::unwrap_used)]

mod support;

use pgsluice::playground::{ClusterSpec, Node};
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::wire::Wire;

const REPLICATOR: &str = "[[user]]\nname = \"repl\"\npassword = \"repl\"\nreplication = true\n";

#[test]
fn replication_is_handed_to_the_home_shard() {
    let mut spec: ClusterSpec = support::spec(1, 0);
    spec.settings.push(("wal_level".into(), "logical".into()));
    spec.hba.push("host replication app 127.0.0.1/32 scram-sha-256".into());
    let cluster = support::start(spec);
    cluster.create_database("repl").unwrap();
    cluster.sql(Node::Primary(0), "postgres", "ALTER ROLE app REPLICATION").unwrap();
    let system = cluster
        .sql(Node::Primary(0), "repl", "SELECT system_identifier FROM pg_control_system()")
        .unwrap();
    let system = system[0][0].clone().unwrap();
    let mut spec = ProxySpec::of(&cluster, "repl");
    spec.users = REPLICATOR.to_owned();
    let mut proxy = Proxy::start(spec);

    // Only who may.
    let at = |user: &str, mode: &str| {
        format!("host=127.0.0.1 user={user} password={user} dbname=app replication={mode}")
    };
    let (_, err) = proxy.psql(&["-d", &at("app", "database"), "-c", "IDENTIFY_SYSTEM"], "");
    assert!(err.contains("user \"app\" may not open replication connections"), "{err}");
    for mode in ["database", "true"] {
        let (out, err) = proxy.psql(&["-At", "-d", &at("repl", mode), "-c", "IDENTIFY_SYSTEM"], "");
        assert!(out.starts_with(&format!("{system}|")), "{out}{err}");
    }

    // Logical: a slot, a stream, and its end by the client.
    proxy.client().run("CREATE TABLE t (a int primary key)");
    let login = at("repl", "database").replace(" replication=database", "");
    let slot = |more: &[&str]| {
        let arguments = [&["-d", &login, "--slot", "s", "--no-loop"], more].concat();
        let (ok, out, err) = proxy.command("pg_recvlogical", &arguments, "");
        assert!(ok, "{err}");
        out
    };
    slot(&["--create-slot", "--plugin", "test_decoding"]);
    proxy.client().run("INSERT INTO t SELECT generate_series(1, 5000)");
    let end = proxy.client().run("SELECT pg_current_wal_lsn()").first();
    let out = slot(&["--start", "-f", "-", "--endpos", &end]);
    assert_eq!(out.matches("table public.t: INSERT").count(), 5000);
    slot(&["--drop-slot"]);

    // Physical: a whole server.
    let login = at("repl", "true").replace(" dbname=app replication=true", "");
    let copy = proxy.dir.path().join("copy");
    let arguments = ["-d", &login, "-D", copy.to_str().unwrap(), "-X", "stream", "-c", "fast"];
    let (ok, _, err) = proxy.command("pg_basebackup", &arguments, "");
    assert!(ok, "{err}");
    assert!(copy.join("PG_VERSION").exists());

    // It is seen, can be ended, and leaves nothing behind.
    let parameters = [("user", "repl"), ("database", "app"), ("replication", "database")];
    let mut client = Wire::login_with(proxy.port, &parameters, "repl").unwrap();
    assert!(client.run("SHOW server_version").first().starts_with("1"));
    assert_eq!(proxy.show("CLIENTS", "pinned").concat(), "replication");
    let pid = client.key.0;
    proxy.admin(&format!("KILL {pid}"));
    assert_eq!(client.query("SELECT 1").code(), "lost");
    let senders = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
    wait_for("the server to see the end", || {
        let rows = cluster.sql(Node::Primary(0), "postgres", senders).unwrap();
        rows[0][0].as_deref() == Some("0")
    });
    assert!(proxy.is_running());
}
