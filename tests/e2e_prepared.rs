//! Prepared statements that clients share, in transaction mode over one shard.
#![allow(clippy::unwrap_used)]

mod support;

use pgsluice::playground::Node;
use pgsluice::wire::frontend;
use support::proxy::{Proxy, ProxySpec};
use support::wire::{Answer, Arguments, Wire};

/// A proxy with one server connection, and its database. The schema is read at the start only.
fn one_server(name: &str, more: &str) -> (Proxy, String) {
    let name = support::database(name);
    let mut spec = ProxySpec::over(&[(support::shared().primary_port(0), vec![], name.clone())]);
    spec.pool = format!("size = 1\n{more}");
    spec.health = "catalog_refresh = \"0s\"\n".to_owned();
    (Proxy::start(spec), name)
}

fn prepare(client: &mut Wire, name: &[u8], sql: &str) -> Answer {
    frontend::parse(&mut client.out, name, sql.as_bytes(), []);
    frontend::sync(&mut client.out);
    client.answer(b"")
}

/// Bind, Describe, Execute, Sync.
fn execute(client: &mut Wire, name: &[u8]) -> Answer {
    let mut bind = bytes::BytesMut::new();
    frontend::bind(&mut bind, b"", &[], 0);
    frontend::bind_rest(&mut client.out, b"", name, &bind[7..]);
    frontend::describe(&mut client.out, frontend::Target::Portal, b"");
    frontend::execute(&mut client.out, b"", 0);
    frontend::sync(&mut client.out);
    client.answer(b"")
}

fn unnamed(client: &mut Wire, sql: &str) -> Answer {
    client.extended(sql, &Arguments { types: &[], values: &[], format: 0 })
}

#[test]
fn a_changed_schema_is_not_noticed() {
    let (proxy, name) = one_server("prepared_changed", "");
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let direct = |sql: &str| {
        support::shared().sql(Node::Primary(0), &name, sql).unwrap();
    };
    let sql = "SELECT * FROM t";
    assert_eq!(prepare(&mut client, b"s", sql).error, None);
    assert_eq!(execute(&mut client, b"s").columns.len(), 1);
    for _ in 0..3 {
        assert_eq!(unnamed(&mut client, sql).columns.len(), 1);
    }

    direct("ALTER TABLE t ADD COLUMN b int DEFAULT 2");
    let answer = execute(&mut client, b"s");
    assert_eq!((answer.error, answer.columns.len()), (None, 2));
    direct("ALTER TABLE t ADD COLUMN c int DEFAULT 3");
    let answer = unnamed(&mut client, sql);
    assert_eq!((answer.error, answer.columns.len()), (None, 3));

    // In a block the client is told, as by a server; after it all is well.
    client.run("BEGIN");
    assert_eq!(execute(&mut client, b"s").columns.len(), 3);
    client.run("COMMIT");
    direct("ALTER TABLE t DROP COLUMN c");
    client.run("BEGIN");
    let answer = execute(&mut client, b"s");
    assert_eq!((answer.code(), answer.status), ("0A000", 'E'));
    client.run("ROLLBACK");
    let answer = execute(&mut client, b"s");
    assert_eq!((answer.error, answer.columns.len()), (None, 2));
}

#[test]
fn a_repeated_unnamed_statement_stays_prepared() {
    let (proxy, _) = one_server("prepared_unnamed", "");
    let (mut a, mut b) = (proxy.client(), proxy.client());
    let sql = "SELECT 41 + 1";
    for _ in 0..2 {
        assert_eq!(unnamed(&mut a, sql).first(), "42");
        assert_eq!(unnamed(&mut b, sql).first(), "42");
    }
    let statements = proxy.show("PREPARED", "statement");
    let at = statements.iter().position(|it| it == sql).unwrap();
    assert_eq!(proxy.show("PREPARED", "servers")[at], "1");
    assert_eq!(proxy.show("PREPARED", "clients")[at], "2");
    let held = || proxy.show("SERVERS", "prepared");
    assert_eq!(held(), ["1"]);

    // A text that comes once is handed on as it is.
    assert_eq!(unnamed(&mut a, "SELECT 43").first(), "43");
    assert_eq!(held(), ["1"]);
    // An error is the client's own, each time.
    for _ in 0..3 {
        assert_eq!(unnamed(&mut a, "SELECT no_such_column").code(), "42703");
        assert_eq!(unnamed(&mut b, "SELECT 1/0").code(), "22012");
    }
    assert_eq!(unnamed(&mut b, sql).first(), "42");
}

#[test]
fn unnamed_statements_are_handed_on_if_so_configured() {
    let (proxy, _) = one_server("prepared_handed_on", "reuse_unnamed = false\n");
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(unnamed(&mut client, "SELECT 41 + 1").first(), "42");
    }
    assert_eq!(proxy.show("SERVERS", "prepared"), ["0"]);
}

#[test]
fn an_unnamed_statement_lasts_until_the_next() {
    let (proxy, _) = one_server("prepared_lasts", "");
    let (mut a, mut b) = (proxy.client(), proxy.client());
    assert_eq!(prepare(&mut a, b"", "SELECT 'a'").error, None);
    assert_eq!(prepare(&mut b, b"", "SELECT 'b'").error, None);
    for _ in 0..2 {
        assert_eq!(execute(&mut a, b"").first(), "a");
        assert_eq!(execute(&mut b, b"").first(), "b");
    }
    assert_eq!(a.run("SELECT 1").first(), "1");
    assert_eq!(execute(&mut a, b"").code(), "26000");
}

#[test]
fn plans_are_made_as_configured_unless_the_client_says_otherwise() {
    let (proxy, _) = one_server("prepared_mode", "plan_cache_mode = \"force_custom_plan\"\n");
    let (mut a, mut b) = (proxy.client(), proxy.client());
    let mode = |client: &mut Wire| client.run("SHOW plan_cache_mode").first();
    assert_eq!(mode(&mut a), "force_custom_plan");
    a.run("SET plan_cache_mode = force_generic_plan");
    assert_eq!(
        (mode(&mut a), mode(&mut b)),
        ("force_generic_plan".into(), "force_custom_plan".into())
    );
    a.run("RESET plan_cache_mode");
    assert_eq!(mode(&mut a), "force_custom_plan");
    a.run("SET plan_cache_mode = auto");
    a.run("DISCARD ALL");
    assert_eq!(
        (mode(&mut a), mode(&mut b)),
        ("force_custom_plan".into(), "force_custom_plan".into())
    );
}

#[test]
fn pg_prepared_statements_shows_the_clients_own() {
    let (proxy, _) = one_server("prepared_shown", "");
    let (mut a, mut b) = (proxy.client(), proxy.client());
    let shown = "SELECT string_agg(format('%s %s', name, from_sql), ',' ORDER BY name) FROM pg_prepared_statements";
    a.run("CREATE TABLE dropped (a int)");
    for (name, sql) in [("s", "SELECT 1"), ("t", "SELECT 2"), ("gone", "SELECT * FROM dropped")] {
        assert_eq!(prepare(&mut a, name.as_bytes(), sql).error, None);
    }
    assert_eq!(execute(&mut a, b"s").first(), "1");
    a.run("PREPARE q AS SELECT 3");
    prepare(&mut b, b"s", "SELECT 4");
    b.run("DROP TABLE dropped");
    for begin in ["", "BEGIN"] {
        a.run(begin);
        assert_eq!(unnamed(&mut a, shown).first(), "q t,s f,t f", "{begin}");
        assert_eq!(a.run(shown).first(), "q t,s f,t f", "{begin}");
        a.run("COMMIT");
        assert_eq!(b.run(shown).first(), "s f", "{begin}");
        assert_eq!(execute(&mut b, b"s").first(), "4");
    }

    frontend::close(&mut a.out, frontend::Target::Statement, b"s");
    frontend::sync(&mut a.out);
    assert_eq!(a.answer(b"").error, None);
    a.run("DEALLOCATE t");
    assert_eq!(a.run(shown).first(), "q t");
    assert_eq!(execute(&mut b, b"s").first(), "4");
}

#[test]
fn a_type_made_again_by_prepared_statements_is_the_new_one() {
    let (proxy, _) = one_server("prepared_types", "");
    let mut client = proxy.client();
    for (begin, end) in [("", ""), ("BEGIN", "ROLLBACK"), ("BEGIN", "ROLLBACK")] {
        client.run(begin);
        for round in 0..4 {
            let (make, drop) = (format!("make{round}"), format!("drop{round}"));
            prepare(&mut client, make.as_bytes(), "CREATE TYPE kind AS ENUM ('a', 'b')");
            assert_eq!(execute(&mut client, make.as_bytes()).error, None);
            let values = [Some(b"{a,b}".to_vec())];
            for _ in 0..3 {
                let arguments = Arguments { types: &[], values: &values, format: 0 };
                let answer = client.extended("SELECT $1::kind[]", &arguments);
                assert_eq!((answer.error.as_ref(), answer.first()), (None, "{a,b}".into()));
            }
            prepare(&mut client, drop.as_bytes(), "DROP TYPE kind");
            assert_eq!(execute(&mut client, drop.as_bytes()).error, None);
        }
        client.run(end);
        client.run("DEALLOCATE ALL");
    }
}

/// What a literal means is told by the settings of the client that has it parsed.
#[test]
fn unnamed_statements_read_literals_by_their_own_settings() {
    let (proxy, _) = one_server("literals", "");
    let sql = "SELECT extract(epoch FROM timestamptz '2020-01-01 00:00:07')::bigint::text";
    let mut client = proxy.client();
    for (zone, expected) in [("UTC", "1577836807"), ("Asia/Tokyo", "1577804407")] {
        client.run(&format!("SET timezone = '{zone}'"));
        for _ in 0..3 {
            assert_eq!(unnamed(&mut client, sql).first(), expected, "{zone}");
        }
    }
    client.run("BEGIN");
    client.run("SET LOCAL timezone = 'UTC'");
    assert_eq!(unnamed(&mut client, sql).first(), "1577836807");
    client.run("COMMIT");
    assert_eq!(unnamed(&mut client, sql).first(), "1577804407");
    for _ in 0..3 {
        client.run("BEGIN");
        assert_eq!(unnamed(&mut client, "SELECT timestamptz ' Now' = now()").first(), "t");
        client.run("COMMIT");
    }
}

#[test]
fn named_statements_read_literals_by_their_own_settings() {
    let (proxy, _) = one_server("own_literals", "");
    let sql = "SELECT extract(epoch FROM timestamptz '2020-01-01 00:00')::int8";
    let mut epochs = Vec::new();
    for zone in ["UTC", "Asia/Tokyo", "UTC"] {
        let mut client = proxy.client();
        client.run(&format!("SET TimeZone = '{zone}'"));
        prepare(&mut client, b"s", sql);
        epochs.push(execute(&mut client, b"s").first());
    }
    assert_eq!(epochs, ["1577836800", "1577804400", "1577836800"]);
    let now = "SELECT timestamptz 'now' = now()";
    for _ in 0..3 {
        let mut client = proxy.client();
        client.run("BEGIN");
        prepare(&mut client, b"n", now);
        assert_eq!(execute(&mut client, b"n").first(), "t");
        client.run("COMMIT");
    }
}
