//! Schema changes as migration tools send them, over four shards and on one Postgres.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use pgsluice::playground::Node;
use support::proxy::{Proxy, wait_for};

/// A proxy over four shards that trusts generated keys, and its shards' databases.
fn proxy(name: &str) -> (Proxy, [String; 2]) {
    let (mut spec, names) = support::four_shards(name);
    spec.database =
        "tenant_column = \"tenant_id\"\nhome_shard = 0\nreference_tables = [\"plans\", \"tenants\"]\n\
         trust_generated_keys = true\n"
            .to_owned();
    (Proxy::start(spec), names)
}

/// Runs SQL on one shard, past the proxy; the first cell.
fn on_shard(names: &[String; 2], shard: usize, sql: &str) -> String {
    let rows = support::shared().sql(Node::Primary(shard / 2), &names[shard % 2], sql).unwrap();
    rows.first().and_then(|row| row[0].clone()).unwrap_or_default()
}

fn on_shards(names: &[String; 2], sql: &str) -> Vec<String> {
    (0..4).map(|shard| on_shard(names, shard, sql)).collect()
}

/// What psql says to a script on a server of its own.
fn on_one_postgres(database: &str, script: &str) -> String {
    let port = support::shared().primary_port(0).to_string();
    let done = Command::new("psql")
        .args(["-X", "-a", "-h", "127.0.0.1", "-p", &port, "-U", "app", "-f", script, database])
        .env("PGPASSWORD", "app")
        .output()
        .unwrap();
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn scripts_of_tools_give_the_same() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/migrations/scripts");
    for tool in ["flyway", "liquibase", "golang", "rails", "prisma", "sqlx"] {
        let script = format!("{folder}/{tool}.sql");
        let (proxy, _) = proxy(tool);
        let (out, _) = proxy.psql(&["-a", "-f", &script], "");
        let one = on_one_postgres(&support::database(&format!("{tool}_one")), &script);
        assert!(one.len() > 1000, "{tool}: {one}");
        assert_eq!(out, one, "{tool}");
    }
}

#[test]
fn statements_of_one_text_see_what_those_before_made() {
    let (proxy, names) = proxy("text");
    let mut client = proxy.client();
    let answer = client.query(
        "CREATE TABLE a (tenant_id bigint, id bigserial PRIMARY KEY); \
         INSERT INTO a (tenant_id) SELECT generate_series(1, 40); SELECT count(DISTINCT id) FROM a",
    );
    assert_eq!(answer.code(), "");
    assert!(
        on_shards(&names, "SELECT (count(*) BETWEEN 1 AND 39)::text FROM a")
            .iter()
            .all(|it| it == "true")
    );
    for (sql, code) in [
        ("CREATE TABLE b (tenant_id bigint, e text); CREATE UNIQUE INDEX ON b (e)", "0A000"),
        ("CREATE TABLE b (tenant_id bigint, e text); ALTER TABLE b ADD UNIQUE (e)", "0A000"),
        (
            "CREATE TABLE b (x bigint); INSERT INTO b VALUES (1); ALTER TABLE b ADD tenant_id int",
            "0A000",
        ),
        (
            "CREATE TABLE b (x bigint); INSERT INTO b VALUES (1); ALTER TABLE b RENAME x TO tenant_id",
            "0A000",
        ),
        (
            "CREATE TABLE b (x bigint); INSERT INTO b VALUES (1); ALTER TABLE b RENAME TO plans",
            "0A000",
        ),
    ] {
        assert_eq!(client.query(sql).code(), code, "{sql}");
        assert_eq!(on_shards(&names, "SELECT to_regclass('b')::text"), ["", "", "", ""], "{sql}");
    }
}

#[test]
fn a_table_becomes_sharded_while_it_is_empty() {
    let (proxy, names) = proxy("spreads");
    let mut client = proxy.client();
    client.run("CREATE TABLE users (tenant_id bigint, id bigserial PRIMARY KEY)");
    client.run("BEGIN");
    client.run("CREATE TABLE notes (id bigserial PRIMARY KEY, body text)");
    client.run("ALTER TABLE notes ADD COLUMN user_id bigint REFERENCES users (id)");
    client.run("ALTER TABLE notes ADD COLUMN tenant_id bigint NOT NULL");
    client.run("COMMIT");
    client.run("INSERT INTO users (tenant_id) SELECT generate_series(1, 40)");
    client.run("INSERT INTO notes (tenant_id, user_id) SELECT tenant_id, id FROM users");
    let spread = "SELECT (count(*) BETWEEN 1 AND 39)::text FROM notes";
    assert!(on_shards(&names, spread).iter().all(|it| it == "true"));
    assert_eq!(client.query("ALTER TABLE notes DROP COLUMN tenant_id").code(), "0A000");
    // One that stays on the home shard cannot be bound to rows elsewhere.
    client.run("BEGIN");
    client.run("CREATE TABLE bound (id bigserial PRIMARY KEY)");
    client.run("ALTER TABLE bound ADD COLUMN user_id bigint REFERENCES users (id)");
    assert_eq!(client.query("COMMIT").code(), "0A000");
    assert_eq!(on_shard(&names, 0, "SELECT to_regclass('bound')::text"), "");
    client.run("DELETE FROM notes");
    client.run("ALTER TABLE notes DROP COLUMN user_id");
    client.run("ALTER TABLE notes DROP COLUMN tenant_id");
    client.run("INSERT INTO notes (body) VALUES ('x'), ('y')");
    assert_eq!(on_shards(&names, "SELECT count(*)::text FROM notes"), ["2", "0", "0", "0"]);
}

#[test]
fn setval_of_what_all_shards_have() {
    let (proxy, _) = proxy("setval");
    let mut client = proxy.client();
    client.run("CREATE TABLE a (tenant_id bigint, id bigserial PRIMARY KEY)");
    client.run("INSERT INTO a (tenant_id, id) SELECT x, 1000 + x FROM generate_series(1, 40) x");
    for sql in [
        "SELECT setval(pg_get_serial_sequence('\"a\"','id'), coalesce(max(\"id\"), 1), max(\"id\") IS NOT null) FROM \"a\"",
        "SELECT setval('a_id_seq', (SELECT max(id) FROM a))",
    ] {
        assert_eq!(client.run(sql).rows[0][0].as_deref(), Some(&b"1040"[..]), "{sql}");
        let answer = client
            .run("INSERT INTO a (tenant_id) SELECT generate_series(1, 20) RETURNING id > 1040");
        assert!(answer.rows.iter().all(|it| it[0].as_deref() == Some(b"t")), "{sql}");
        client.run("DELETE FROM a WHERE id > 1040");
    }
    client.run("CREATE TABLE s (id serial PRIMARY KEY, x int)");
    client.run("INSERT INTO s VALUES (7, 1)");
    client.run("SELECT setval(pg_get_serial_sequence('s', 'id'), coalesce(max(id), 1), max(id) IS NOT null) FROM s");
    assert_eq!(
        client.run("INSERT INTO s (x) VALUES (1) RETURNING id").rows[0][0].as_deref(),
        Some(&b"8"[..])
    );
    client.run("DELETE FROM a");
    let none = client.run("SELECT setval('a_id_seq', max(id)) FROM a");
    assert_eq!(none.rows[0][0], None);
}

#[test]
fn an_index_that_failed_on_a_shard_is_finished() {
    let (proxy, names) = proxy("resume");
    let mut client = proxy.client();
    client.run("CREATE TABLE a (tenant_id bigint, x int)");
    client.run("INSERT INTO a SELECT x, x FROM generate_series(1, 40) x");
    // A shard where the build fails and leaves an invalid index.
    let twice = "INSERT INTO a SELECT tenant_id, x FROM a";
    on_shard(&names, 2, twice);
    let create = "CREATE UNIQUE INDEX CONCURRENTLY again ON a (tenant_id, x)";
    let failed = client.query(create);
    assert_eq!(failed.code(), "23505");
    let valid = "SELECT indisvalid::text FROM pg_index WHERE indexrelid = to_regclass('again')";
    assert_eq!(on_shards(&names, valid), ["true", "true", "false", ""]);
    wait_for("the drift", || {
        proxy.show("SHARDS", "problem").iter().any(|it| {
            it.contains("indexes of public.a differ from the home shard: again is invalid")
        })
    });
    assert!(proxy.page("/metrics").1.contains("sluice_schema_drift{database=\"app\"} 2"));
    on_shard(&names, 2, "DELETE FROM a o WHERE ctid > (SELECT min(ctid) FROM a i WHERE i.x = o.x)");
    client.run(create);
    assert_eq!(on_shards(&names, valid), ["true"; 4]);
    assert!(
        proxy.log().contains("CREATE UNIQUE INDEX CONCURRENTLY again: shard 3 is done, 4 of 4")
    );
    // Once all have it, it is there.
    assert_eq!(client.query(create).code(), "42P07");
    on_shard(&names, 1, "DROP INDEX again");
    client.run("DROP INDEX CONCURRENTLY again");
    assert_eq!(on_shards(&names, valid), [""; 4]);
    assert_eq!(client.query("DROP INDEX CONCURRENTLY again").code(), "42704");
    // Another index of that name on a shard is told.
    on_shard(&names, 3, "CREATE INDEX again ON a (x)");
    assert_eq!(client.query("CREATE INDEX CONCURRENTLY again ON a (tenant_id)").code(), "XX000");
}

#[test]
fn drift_is_found_whatever_differs() {
    let (proxy, names) = proxy("drift");
    let mut client = proxy.client();
    client.run(
        "CREATE TABLE a (tenant_id bigint, x int DEFAULT 1, CONSTRAINT positive CHECK (x > 0))",
    );
    client.run("CREATE TYPE mood AS ENUM ('good')");
    client.run("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'");
    client.run("CREATE VIEW v AS SELECT x FROM a");
    for (sql, told) in [
        (
            "ALTER TABLE a ALTER x SET DEFAULT 2",
            "columns of public.a differ from the home shard: x is another",
        ),
        ("ALTER TABLE a ALTER tenant_id SET NOT NULL", "columns of public.a"),
        (
            "ALTER TABLE a DROP CONSTRAINT positive",
            "constraints of public.a differ from the home shard: positive is missing",
        ),
        (
            "CREATE INDEX i ON a (x)",
            "indexes of public.a differ from the home shard: i is there alone",
        ),
        (
            "CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f()",
            "triggers of public.a",
        ),
        ("ALTER TYPE mood ADD VALUE 'bad'", "definition of type public.mood"),
        (
            "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
            "source of function public.f()",
        ),
        ("CREATE OR REPLACE VIEW v AS SELECT x FROM a WHERE x > 5", "rules of public.v"),
        ("CREATE TABLE more (x int)", "public.more is not on the home shard"),
    ] {
        on_shard(&names, 3, sql);
        wait_for(told, || proxy.show("SHARDS", "problem").iter().any(|it| it.contains(told)));
    }
    let done = Command::new(env!("CARGO_BIN_EXE_pgsluice"))
        .args(["check", "--config"])
        .arg(proxy.file())
        .output()
        .unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(!done.status.success() && said.contains("source of function public.f()"), "{said}");
    assert!(proxy.log().contains("source of function public.f()"));
}

#[test]
fn keys_of_generated_ids_are_trusted() {
    let (proxy, _) = proxy("trust");
    let mut client = proxy.client();
    client.run("CREATE TABLE users (id bigserial PRIMARY KEY, tenant_id bigint NOT NULL)");
    client.run("CREATE TABLE notes (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, tenant_id bigint, user_id bigint REFERENCES users (id) ON DELETE CASCADE)");
    client.run("INSERT INTO users (tenant_id) SELECT generate_series(1, 40)");
    client.run("INSERT INTO notes (tenant_id, user_id) SELECT tenant_id, id FROM users");
    client.run("DELETE FROM users WHERE id IN (SELECT user_id FROM notes WHERE tenant_id <= 10)");
    assert_eq!(client.run("SELECT count(*) FROM notes").rows[0][0].as_deref(), Some(&b"30"[..]));
    // A row that refers to another shard's is refused, where one Postgres would take it.
    let codes: Vec<String> = (11..=20)
        .map(|tenant| {
            let sql = format!("INSERT INTO notes (tenant_id, user_id) SELECT {tenant}, id FROM users WHERE tenant_id = 30");
            client.query(&sql).code().to_owned()
        })
        .collect();
    assert!(
        codes.iter().any(|it| it == "23503")
            && codes.iter().all(|it| it.is_empty() || it == "23503"),
        "{codes:?}"
    );
    for sql in [
        "CREATE TABLE a (id int PRIMARY KEY, tenant_id int)",
        "CREATE TABLE a (id serial PRIMARY KEY, tenant_id int, email text UNIQUE)",
        "CREATE TABLE a (id serial PRIMARY KEY, user_id bigint REFERENCES users (id))",
        "DO $$ BEGIN CREATE UNIQUE INDEX ON notes (user_id); END $$",
    ] {
        assert_eq!(client.query(sql).code(), "0A000", "{sql}");
    }
}

#[test]
fn blocks_of_schema_changes_run_everywhere() {
    let (proxy, names) = proxy("blocks");
    let mut client = proxy.client();
    let create = "DO $$ BEGIN CREATE TYPE mood AS ENUM ('good'); EXCEPTION WHEN duplicate_object THEN null; END $$";
    client.run(create);
    client.run(create);
    // A shard that lacks it gets it.
    on_shard(&names, 2, "DROP TYPE mood");
    client.run("DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_type WHERE typname = 'mood') THEN CREATE TYPE mood AS ENUM ('good'); END IF; END $$");
    assert_eq!(
        on_shards(&names, "SELECT count(*)::text FROM pg_type WHERE typname = 'mood'"),
        ["1"; 4]
    );
    client.run("BEGIN");
    client.run("DO $$ BEGIN CREATE TABLE a (tenant_id int, id serial, m mood); END $$");
    client.run("INSERT INTO a (tenant_id) SELECT generate_series(1, 40)");
    client.run("ROLLBACK");
    assert_eq!(on_shards(&names, "SELECT to_regclass('a')::text"), [""; 4]);
    client.run("DO $$ BEGIN CREATE TABLE a (tenant_id int, id serial, m mood); END $$");
    client.run("INSERT INTO a (tenant_id) SELECT generate_series(1, 40)");
    assert_eq!(
        client.run("SELECT count(DISTINCT id) FROM a").rows[0][0].as_deref(),
        Some(&b"40"[..])
    );
    assert_eq!(client.query("DO $$ BEGIN DELETE FROM a; END $$").code(), "0A000");
}
