//! Corners of the protocol that drivers lean on: raw frames against the proxy over one shard.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::thread;
use std::time::Duration;

use pgsluice::wire::frontend::{self, Target};
use support::proxy::{Proxy, ProxySpec};
use support::wire::Wire;
use support::{database, shared};

/// A plain pooler over one shard.
fn pooler(name: &str, mode: &str) -> Proxy {
    let place = (shared().primary_port(0), Vec::new(), database(name));
    let pool = format!("size = 4\nmode = \"{mode}\"\n");
    Proxy::start(ProxySpec { pool, ..ProxySpec::over(&[place]) })
}

/// Tags of the frames up to ReadyForQuery.
fn tags(client: &mut Wire) -> String {
    client.send().unwrap();
    let mut tags = String::new();
    while !tags.ends_with('Z') {
        tags.push(client.frame().unwrap().0 as char);
    }
    tags
}

fn bind_and_execute(client: &mut Wire, statement: &[u8]) {
    let mut message = bytes::BytesMut::new();
    frontend::bind(&mut message, b"", &[], 0);
    let frame = message.freeze();
    let bind = frontend::view::Bind::read(&frame).unwrap();
    frontend::bind_renamed(&mut client.out, &frame, &bind, statement);
    frontend::execute(&mut client.out, b"", 0);
}

#[test]
fn copy_of_the_extended_protocol_ends_wherever_the_sync_stands() {
    let proxy = pooler("copy_sync", "transaction");
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a int)");
    frontend::parse(&mut client.out, b"s", b"COPY t FROM STDIN", []);
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "1Z");

    // A Sync ahead of the data, and another one after it.
    bind_and_execute(&mut client, b"s");
    frontend::sync(&mut client.out);
    client.send().unwrap();
    assert_eq!((client.frame().unwrap().0, client.frame().unwrap().0), (b'2', b'G'));
    frontend::copy_data(&mut client.out, b"1\n");
    frontend::copy_done(&mut client.out);
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "CZ");

    // All in one write.
    bind_and_execute(&mut client, b"s");
    frontend::copy_data(&mut client.out, b"2\n");
    frontend::copy_done(&mut client.out);
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "2GCZ");

    // Data that the server refuses: the rest is dropped.
    bind_and_execute(&mut client, b"s");
    frontend::copy_data(&mut client.out, b"x\n");
    frontend::copy_data(&mut client.out, b"3\n");
    frontend::copy_done(&mut client.out);
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "2GEZ");
    assert_eq!(client.run("SELECT sum(a) FROM t").first(), "3");
}

#[test]
fn a_cancelled_statement_does_not_cost_the_session_its_server() {
    let proxy = pooler("cancel_keeps", "session");
    let mut client = proxy.client();
    client.run("CREATE TEMP TABLE t AS SELECT 1 AS a");
    let key = client.key.clone();
    thread::scope(|scope| {
        let long = scope.spawn(|| client.query("SELECT pg_sleep(20)"));
        thread::sleep(Duration::from_millis(300));
        let mut request = bytes::BytesMut::new();
        frontend::cancel_request(&mut request, key.0, &key.1).unwrap();
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        std::io::Write::write_all(&mut stream, &request).unwrap();
        assert_eq!(long.join().unwrap().code(), "57014");
    });
    assert_eq!(client.run("SELECT a FROM t").first(), "1");
}

#[test]
fn a_cancelled_statement_can_be_rolled_back_to_a_savepoint() {
    let proxy = pooler("cancel_savepoint", "transaction");
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a int)");
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1)");
    client.run("SAVEPOINT s");
    let key = client.key.clone();
    thread::scope(|scope| {
        let long = scope.spawn(|| client.query("SELECT pg_sleep(20)"));
        thread::sleep(Duration::from_millis(300));
        let mut request = bytes::BytesMut::new();
        frontend::cancel_request(&mut request, key.0, &key.1).unwrap();
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        std::io::Write::write_all(&mut stream, &request).unwrap();
        assert_eq!(long.join().unwrap().code(), "57014");
    });
    client.run("ROLLBACK TO s");
    client.run("COMMIT");
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "1");
}

#[test]
fn a_session_without_an_application_name_has_none() {
    let proxy = pooler("application", "transaction");
    assert_eq!(proxy.client().run("SHOW application_name").first(), "");
}

#[test]
fn who_leaves_before_the_start_up_packet_gets_no_answer() {
    use std::io::{Read, Write};
    let proxy = pooler("no_startup", "transaction");
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    stream.write_all(b"X\0\0\0\x04").unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"");
}

#[test]
fn a_cursor_of_sql_can_be_described() {
    let proxy = pooler("cursor", "transaction");
    let mut client = proxy.client();
    client.run("BEGIN");
    client.run("DECLARE c CURSOR FOR SELECT 1 AS a");
    frontend::describe(&mut client.out, Target::Portal, b"c");
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "TZ");
    frontend::execute(&mut client.out, b"c", 0);
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "DCZ");
    client.run("COMMIT");
}

#[test]
fn a_cursor_with_hold_can_be_described_after_its_transaction() {
    for mode in ["session", "transaction"] {
        let proxy = pooler(&format!("held_cursor_{mode}"), mode);
        let mut client = proxy.client();
        client.run("DECLARE c CURSOR WITH HOLD FOR SELECT 1 AS a");
        frontend::describe(&mut client.out, Target::Portal, b"c");
        frontend::sync(&mut client.out);
        assert_eq!(tags(&mut client), "TZ");
        frontend::execute(&mut client.out, b"c", 0);
        frontend::sync(&mut client.out);
        assert_eq!(tags(&mut client), "DCZ");
        frontend::close(&mut client.out, Target::Portal, b"c");
        frontend::sync(&mut client.out);
        assert_eq!(tags(&mut client), "3Z");
        frontend::describe(&mut client.out, Target::Portal, b"c");
        frontend::sync(&mut client.out);
        assert_eq!(tags(&mut client), "EZ");
    }
}

/// As test runners do it: the proxy's own connections are not in the way.
#[test]
fn a_database_that_the_proxy_serves_can_be_made_copied_and_dropped() {
    let port = shared().primary_port(0);
    let name = database("maker");
    shared().sql(pgsluice::playground::Node::Primary(0), &name, "ALTER ROLE app CREATEDB").unwrap();
    let mut spec = ProxySpec::over(&[(port, Vec::new(), name)]);
    spec.pool = "size = 4\n".to_owned();
    spec.users = format!(
        "[[database]]\nname = \"made\"\n[[database.shard]]\nid = 0\n\
         primary = \"postgres://app:app@127.0.0.1:{port}/made\"\n"
    );
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.run("CREATE DATABASE made");
        let mut made = Wire::login(proxy.port, "app", "app", "made").unwrap();
        made.run("CREATE TABLE t (a int)");
        client.run("CREATE DATABASE made_copy TEMPLATE made");
        assert_eq!(made.run("INSERT INTO t VALUES (1) RETURNING a").first(), "1");
        drop(made);
        client.run("ALTER DATABASE made RENAME TO made_other");
        client.run("ALTER DATABASE made_other RENAME TO made");
        client.run("DROP DATABASE made");
        client.run("DROP DATABASE made_copy");
    }
}

#[test]
fn a_kept_server_takes_its_session_along() {
    let proxy = pooler("lost_session", "session");
    let mut client = proxy.client();
    client.run("CREATE TEMP TABLE t AS SELECT 1 AS a");
    let pid = client.run("SELECT pg_backend_pid()").first();
    let killed = proxy.client().run(&format!("SELECT pg_terminate_backend({pid})")).first();
    assert_eq!(killed, "t");
    // The table is gone: another server would answer as if it had never been.
    let answer = client.query("SELECT 1");
    assert_eq!(answer.code(), "57P01");
    assert_eq!(client.query("SELECT 1").code(), "lost");
}

#[test]
fn changed_columns_are_told_to_who_does_not_ask_for_them() {
    let proxy = pooler("columns", "transaction");
    let mut client = proxy.client();
    client.run("CREATE TABLE t AS SELECT 1 AS a");
    frontend::parse(&mut client.out, b"s", b"SELECT * FROM t", []);
    frontend::describe(&mut client.out, Target::Statement, b"s");
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "1tTZ");
    bind_and_execute(&mut client, b"s");
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "2DCZ");
    client.run("ALTER TABLE t ADD COLUMN b int");
    // It would take a row of two columns for one of the column it knows.
    bind_and_execute(&mut client, b"s");
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "EZ");
    frontend::parse(&mut client.out, b"s2", b"SELECT * FROM t", []);
    frontend::describe(&mut client.out, Target::Statement, b"s2");
    bind_and_execute(&mut client, b"s2");
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "1tT2DCZ");
}

#[test]
fn a_rollback_reports_the_settings_it_takes_back() {
    let proxy = pooler("reported", "transaction");
    let mut client = proxy.client();
    client.run("SET timezone TO 'UTC'");
    client.run("BEGIN");
    client.run("SET timezone TO 'Asia/Tokyo'");
    frontend::query(&mut client.out, b"ROLLBACK");
    let (mut reported, mut tag) = (Vec::new(), 0);
    client.send().unwrap();
    while tag != b'Z' {
        let (next, frame) = client.frame().unwrap();
        tag = next;
        if tag == b'S' {
            reported.push(String::from_utf8_lossy(&frame[5..]).into_owned());
        }
    }
    assert_eq!(reported, ["TimeZone\0UTC\0"]);
    assert_eq!(client.run("SHOW timezone").first(), "UTC");
}

#[test]
fn who_has_a_server_of_its_own_is_told_its_process() {
    let session = pooler("own_pid", "session");
    let mut client = session.client();
    assert_eq!(client.run("SELECT pg_backend_pid()").first(), client.key.0.to_string());
    // Else it is no process id at all.
    assert!(pooler("no_pid", "transaction").client().key.0 > 1 << 22);
}

/// Types that a server tells for the parameters of a statement.
fn parameter_types(client: &mut Wire, name: &[u8], sql: &[u8]) -> Vec<u32> {
    frontend::parse(&mut client.out, name, sql, []);
    frontend::describe(&mut client.out, Target::Statement, name);
    frontend::sync(&mut client.out);
    client.send().unwrap();
    let (mut types, mut tag) = (Vec::new(), 0);
    while tag != b'Z' {
        let (next, frame) = client.frame().unwrap();
        tag = next;
        if tag == b't' {
            types =
                pgsluice::wire::backend::view::parameter_types(&frame).unwrap().iter().collect();
        }
    }
    types
}

#[test]
fn a_statement_parsed_after_a_change_of_the_schema_has_the_new_types() {
    const INSERT: &[u8] = b"INSERT INTO t VALUES ($1)";
    let proxy = pooler("new_types", "transaction");
    for create in ["CREATE TABLE", "CREATE TEMP TABLE"] {
        let (mut client, mut other) = (proxy.client(), proxy.client());
        client.run(&format!("{create} t (a int)"));
        assert_eq!(parameter_types(&mut client, b"one", INSERT), [23]);
        let ddl = if create.contains("TEMP") { &mut client } else { &mut other };
        ddl.run("DROP TABLE t");
        ddl.run(&format!("{create} t (a text)"));
        assert_eq!(parameter_types(&mut client, b"two", INSERT), [25]);
        client.run("BEGIN");
        client.run("DROP TABLE t");
        client.run(&format!("{create} t (a date)"));
        assert_eq!(parameter_types(&mut client, b"three", INSERT), [1082]);
        client.run("ROLLBACK");
        assert_eq!(parameter_types(&mut client, b"four", INSERT), [25]);
        client.run("DROP TABLE t");
    }
}

#[test]
fn a_pipeline_without_a_sync_is_one_transaction() {
    let proxy = pooler("one_transaction", "transaction");
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a int)");
    let insert = |client: &mut Wire| {
        frontend::parse(&mut client.out, b"", b"INSERT INTO t VALUES (1)", []);
        bind_and_execute(client, b"");
    };
    let count = |client: &mut Wire| client.run("SELECT count(*) FROM t").first();

    // Handed on by a Flush, and undone by a ROLLBACK of the same pipeline.
    insert(&mut client);
    frontend::flush(&mut client.out);
    client.send().unwrap();
    for tag in [b'1', b'2', b'C'] {
        assert_eq!(client.frame().unwrap().0, tag);
    }
    frontend::parse(&mut client.out, b"", b"ROLLBACK", []);
    bind_and_execute(&mut client, b"");
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client).replace('N', ""), "12CZ");
    assert_eq!(count(&mut client), "0");

    // So large that it is handed on in parts.
    let large = format!("INSERT INTO t SELECT length('{}')", "x".repeat(100_000));
    frontend::parse(&mut client.out, b"large", large.as_bytes(), []);
    for _ in 0..3 {
        frontend::parse(&mut client.out, b"", large.as_bytes(), []);
        bind_and_execute(&mut client, b"");
    }
    frontend::parse(&mut client.out, b"", b"ROLLBACK", []);
    bind_and_execute(&mut client, b"");
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client).replace('N', ""), "112C12C12C12CZ");
    assert_eq!(count(&mut client), "0");

    // A query comes after what was sent before it, and ends its transaction.
    insert(&mut client);
    frontend::query(&mut client.out, b"SELECT a FROM t");
    assert_eq!(tags(&mut client), "12CTDCZ");
    assert_eq!(count(&mut client), "1");

    // After an error everything up to the Sync is dropped, queries too.
    frontend::parse(&mut client.out, b"", b"SELECT nope", []);
    frontend::flush(&mut client.out);
    frontend::query(&mut client.out, b"DELETE FROM t");
    frontend::sync(&mut client.out);
    assert_eq!(tags(&mut client), "EZ");
    assert_eq!(count(&mut client), "1");
}
