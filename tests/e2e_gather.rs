//! Statements over several shards that one server, or one moment, decides.
#![allow(clippy::unwrap_used)]

mod support;

use support::proxy::Proxy;
use support::wire::{Arguments, Wire};

/// A proxy over four shards with a table whose rows are dated, under these lines of `[limits]`.
fn filled(name: &str, limits: &str) -> (Proxy, Wire) {
    let (mut spec, _) = support::four_shards(name);
    spec.limits.push_str(limits);
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    client.run("CREATE TABLE t (tenant_id bigint, id int, at timestamptz DEFAULT now(), day date DEFAULT CURRENT_DATE, note text, PRIMARY KEY (tenant_id, id))");
    (proxy, client)
}

#[test]
fn rows_of_one_statement_have_one_time() {
    let (_proxy, mut client) = filled("one_time", "");
    let rows: Vec<String> = (1..=40).map(|it| format!("({it}, 1, 'it''s')")).collect();
    let insert = format!("INSERT INTO t (tenant_id, id, note) VALUES {}", rows.join(", "));
    assert_eq!(client.run(&insert).tags, ["INSERT 0 40"]);
    let times = "SELECT count(DISTINCT at) || ' ' || count(day) || ' ' || count(*) FROM t WHERE at <= now() AND id = ";
    assert_eq!(client.run(&format!("{times}1")).first(), "1 40 40");
    let lines: String = (1..=40).map(|it| format!("{it}\t2\ta\\tb\n")).collect();
    let copied = client.copy("COPY t (tenant_id, id, note) FROM STDIN", lines.as_bytes());
    assert_eq!(copied.tags, ["COPY 40"]);
    assert_eq!(client.run(&format!("{times}2")).first(), "1 40 40");
    let lines: String = (1..=40).map(|it| format!("{it},3,\"a,b\"\r\n")).collect();
    let copy = "COPY t (tenant_id, id, note) FROM STDIN (FORMAT csv, HEADER)";
    let copied = client.copy(copy, format!("tenant_id,id,note\r\n{lines}").as_bytes());
    assert_eq!((copied.error, copied.tags), (None, vec!["COPY 40".to_owned()]));
    assert_eq!(client.run(&format!("{times}3")).first(), "1 40 40");
    let notes = client.run("SELECT count(*) FROM t WHERE note IN ('it''s', E'a\\tb', 'a,b')");
    assert_eq!(notes.first(), "120");
    client.run("UPDATE t SET at = now()");
    assert_eq!(client.run("SELECT count(DISTINCT at) FROM t").first(), "1");
}

#[test]
fn what_is_too_much_is_told_and_harms_nobody() {
    let more = "gather_max_rows = 50\ngather_max_bytes = \"64KiB\"\n";
    let (_proxy, mut client) = filled("too_much", more);
    let rows: Vec<String> = (1..=40).map(|it| format!("({it}, 1, repeat('x', 900))")).collect();
    client.run(&format!("INSERT INTO t (tenant_id, id, note) VALUES {}", rows.join(", ")));
    assert_eq!(client.run("SELECT count(DISTINCT note) FROM t").first(), "1");
    let copied = "INSERT INTO t SELECT tenant_id, 2, at, day, repeat('y', 900) FROM t";
    assert_eq!(client.run(copied).tags, ["INSERT 0 40"]);
    assert_eq!(client.query("SELECT count(DISTINCT id) FROM t").code(), "53400");
    assert_eq!(client.query("SELECT count(DISTINCT note) FROM t WHERE id = 2").code(), "");
    client.run("UPDATE t SET note = repeat(note, 3)");
    assert_eq!(client.query("SELECT count(DISTINCT note) FROM t WHERE id = 2").code(), "53400");
    client.run("BEGIN");
    assert_eq!(client.query("SELECT count(DISTINCT id) FROM t").code(), "53400");
    assert_eq!(client.query("SELECT 1").code(), "25P02");
    client.run("ROLLBACK");
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "80");
}

#[test]
fn statements_see_the_writes_of_their_transaction() {
    let (proxy, mut client) = filled("own_writes", "");
    client.run("BEGIN");
    client.run("INSERT INTO t (tenant_id, id) VALUES (1, 1), (2, 1), (3, 1), (4, 7)");
    assert_eq!(client.run("SELECT avg(id)::text FROM t").first(), "2.5000000000000000");
    let none = proxy.client().run("SELECT count(DISTINCT id) FROM t").first();
    assert_eq!(none, "0");
    client.run("UPDATE t SET note = 'most' WHERE id = (SELECT max(id) FROM t)");
    client.run("COMMIT");
    let most = "SELECT string_agg(tenant_id::text, ',' ORDER BY tenant_id) FROM t WHERE note = $1";
    let values = [Some(b"most".to_vec())];
    let arguments = Arguments { types: &[25], values: &values, format: 0 };
    assert_eq!(client.extended(most, &arguments).first(), "4");
}

#[test]
fn large_statements_leave_settings_as_they_were() {
    let (_proxy, mut client) = filled("large", "");
    client.run("INSERT INTO t (tenant_id, id) VALUES (1, 1), (2, 1), (3, 1)");
    client.run("INSERT INTO t SELECT tenant_id, n, at, day, repeat(n::text, 100) FROM t, generate_series(2, 6000) n");
    let settings = "SELECT current_setting('work_mem') || current_setting('enable_mergejoin')";
    let before = client.run(settings).first();
    for block in ["", "BEGIN"] {
        client.run(block);
        assert_eq!(client.run("SELECT count(DISTINCT note) FROM t").first(), "5999");
        assert_eq!(client.run(settings).first(), before);
    }
    let update = "UPDATE t SET day = NULL WHERE note = (SELECT max(note) FROM t)";
    assert_eq!(client.run(update).tags, ["UPDATE 3"]);
    assert_eq!(client.run(settings).first(), before);
    client.run("COMMIT");
}
