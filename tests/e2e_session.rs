//! What a session has set, prepared or made stays its own, in transaction mode over one shard.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Once;
use std::time::Duration;

use pgsluice::playground::Node;
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::wire::{Arguments, Wire};

/// A proxy over one shard with so many server connections.
fn one_shard(name: &str, size: usize, more: impl FnOnce(&mut ProxySpec)) -> Proxy {
    let name = support::database(name);
    static ROLE: Once = Once::new();
    ROLE.call_once(|| {
        let sql = "CREATE ROLE session_reader; GRANT session_reader TO app";
        support::shared().sql(Node::Primary(0), &name, sql).unwrap();
    });
    let mut spec = ProxySpec::over(&[(support::shared().primary_port(0), vec![], name)]);
    spec.pool = format!("size = {size}\nwait_timeout = \"2s\"\n");
    more(&mut spec);
    Proxy::start(spec)
}

/// Search path, tenant and user as the session has them.
fn state(client: &mut Wire) -> String {
    let sql = "SELECT current_setting('search_path') || ' ' || \
               coalesce(current_setting('app.tenant', true), '') || ' ' || current_user";
    client.run(sql).first()
}

const FRESH: &str = "\"$user\", public  app";

#[test]
fn settings_stay_with_their_session() {
    let proxy = one_shard("settings_stay", 1, |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    let cases: &[(&[&str], &str)] = &[
        (&["SET search_path TO one"], "one  app"),
        (&["BEGIN", "SET search_path TO one", "ROLLBACK"], FRESH),
        (&["BEGIN", "SET search_path TO one", "COMMIT"], "one  app"),
        (&["BEGIN", "SAVEPOINT s", "SET search_path TO one", "ROLLBACK TO s", "COMMIT"], FRESH),
        (
            &[
                "BEGIN",
                "SET search_path TO one",
                "SAVEPOINT s",
                "SET search_path TO two",
                "ROLLBACK TO s",
                "COMMIT",
            ],
            "one  app",
        ),
        (&["BEGIN", "SET search_path TO one", "SELECT 1/0", "COMMIT"], FRESH),
        (&["SET search_path TO one; SELECT 1/0"], FRESH),
        (&["SET search_path TO one; SELECT set_config('app.tenant', '7', false)"], "one 7 app"),
        (&["BEGIN; SET search_path TO one; COMMIT; SET app.tenant = '7'; SELECT 1/0"], "one  app"),
        (&["BEGIN; SET search_path TO one", "ROLLBACK"], FRESH),
        (
            &[
                "BEGIN; SET search_path TO one; SAVEPOINT s; SET search_path TO two",
                "ROLLBACK TO s; COMMIT",
            ],
            "one  app",
        ),
        (&["SET LOCAL search_path TO one"], FRESH),
        (&["BEGIN", "SET LOCAL search_path TO one", "COMMIT"], FRESH),
        (&["SELECT set_config('app.tenant', '7', true), 1"], FRESH),
        (&["SELECT set_config('app.tenant', '7', false), 1"], "\"$user\", public 7 app"),
        (&["BEGIN", "SELECT set_config('app.tenant', '7', false), 1", "ROLLBACK"], FRESH),
        (
            &["BEGIN", "SELECT set_config('app.tenant', '7', false), 1", "COMMIT"],
            "\"$user\", public 7 app",
        ),
        (&["SET app.tenant = '7'", "RESET app.tenant"], FRESH),
        (&["SET app.tenant = '7'; RESET ALL"], FRESH),
        (&["SET ROLE session_reader"], "\"$user\", public  session_reader"),
        (&["SET ROLE session_reader", "SET search_path TO one"], "one  session_reader"),
        (&["SET ROLE session_reader", "SET SESSION AUTHORIZATION app"], FRESH),
        (
            &["SET SESSION AUTHORIZATION app", "SET ROLE session_reader"],
            "\"$user\", public  session_reader",
        ),
        (&["SET search_path TO one", "SET app.tenant = '7'", "DISCARD ALL"], FRESH),
        (
            &["PREPARE p AS SELECT set_config('app.tenant', '7', false)", "EXECUTE p"],
            "\"$user\", public 7 app",
        ),
    ];
    for (script, expected) in cases {
        for sql in *script {
            a.query(sql);
        }
        assert_eq!(state(&mut b), FRESH, "the other client after {script:?}");
        assert_eq!(state(&mut a), *expected, "after {script:?}");
        assert_eq!(state(&mut b), FRESH, "the other client, again, after {script:?}");
        a.run("DISCARD ALL");
        assert_eq!(state(&mut a), FRESH, "DISCARD ALL after {script:?}");
    }
}

#[test]
fn parameters_of_set_config_are_kept() {
    let proxy = one_shard("set_config_parameter", 1, |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    let sql = "SELECT set_config('app.tenant', $1, false)";
    let arguments = Arguments { types: &[25], values: &[Some(b"7".to_vec())], format: 0 };
    assert_eq!(a.extended(sql, &arguments).error, None);
    assert_eq!(state(&mut b), FRESH);
    assert_eq!(state(&mut a), "\"$user\", public 7 app");
}

#[test]
fn dates_are_told_as_several_sets_say() {
    let proxy = one_shard("datestyle", 1, |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    a.run("SET datestyle TO german");
    a.run("SET datestyle TO ymd");
    b.run("SET datestyle TO sql");
    assert_eq!(a.run("SHOW datestyle").first(), "German, YMD");
    assert_eq!(b.run("SHOW datestyle").first(), "SQL, MDY");
}

#[test]
fn row_level_security_holds_by_setting() {
    let proxy = one_shard("rls", 1, |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    a.run("CREATE TABLE secret (tenant text, word text)");
    a.run("INSERT INTO secret VALUES ('7', 'seven'), ('8', 'eight')");
    a.run("ALTER TABLE secret ENABLE ROW LEVEL SECURITY");
    a.run("CREATE POLICY own ON secret USING (tenant = current_setting('app.tenant', true))");
    a.run("GRANT SELECT ON secret TO session_reader");
    for (client, tenant) in [(&mut a, "7"), (&mut b, "8")] {
        client.run("SET ROLE session_reader");
        client.run(&format!("SELECT set_config('app.tenant', '{tenant}', false)"));
    }
    for _ in 0..3 {
        assert_eq!(a.run("SELECT string_agg(word, ',') FROM secret").first(), "seven");
        assert_eq!(b.run("SELECT string_agg(word, ',') FROM secret").first(), "eight");
        b.query("BEGIN; SELECT set_config('app.tenant', '7', false); SELECT 1/0");
        b.query("ROLLBACK");
    }
    let mut fresh = proxy.client();
    assert_eq!(fresh.run("SELECT count(*) FROM secret").first(), "2", "as the owner");
}

#[test]
fn what_a_killed_client_has_set_is_gone() {
    let proxy = one_shard("killed_settings", 1, |_| ());
    let mut b = proxy.client();
    for script in [
        &["SET search_path TO one"][..],
        &["BEGIN", "SET search_path TO one", "SELECT 1"],
        &["BEGIN; SET search_path TO one; SET ROLE session_reader"],
        &["BEGIN", "SELECT set_config('app.tenant', '7', false), 1"],
        &["CREATE TEMP TABLE t ()", "SET search_path TO one"],
    ] {
        let mut a = proxy.client();
        for sql in script {
            a.run(sql);
        }
        drop(a);
        assert_eq!(state(&mut b), FRESH, "after {script:?}");
    }
}

#[test]
fn a_function_that_sets_keeps_its_server() {
    let proxy = one_shard("function_sets", 2, |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    a.run("CREATE FUNCTION tenant_is(t text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.tenant', t, false) $$");
    a.run("CREATE FUNCTION outer_one(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN tenant_is(t); END $$");
    a.run("CREATE FUNCTION harmless() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$");
    a.run("CREATE TABLE logged (a int)");
    a.run("CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM tenant_is('trigger'); RETURN NEW; END $$");
    a.run("CREATE TRIGGER logs BEFORE INSERT ON logged FOR EACH ROW EXECUTE FUNCTION logs()");
    a.run("SELECT harmless()");
    assert_eq!(proxy.show("CLIENTS", "pinned"), ["", "", ""]);
    for (sql, tenant) in [
        ("SELECT tenant_is('7')", "7"),
        ("SELECT outer_one('8')", "8"),
        ("DO $$ BEGIN PERFORM tenant_is('9'); END $$", "9"),
        ("INSERT INTO logged VALUES (1)", "trigger"),
    ] {
        a.run(sql);
        for _ in 0..3 {
            assert_eq!(state(&mut b), FRESH, "the other client after {sql}");
            assert_eq!(state(&mut a), format!("\"$user\", public {tenant} app"), "after {sql}");
        }
        a.run("DISCARD ALL");
        assert_eq!(state(&mut a), FRESH);
    }
}

#[test]
fn prepared_names_are_each_clients_own() {
    let proxy = one_shard("prepared_names", 1, |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    a.run("PREPARE q (int) AS SELECT $1 + 1");
    b.run("PREPARE q (int) AS SELECT $1 + 2");
    b.run("PREPARE only_b AS SELECT 1");
    for _ in 0..2 {
        assert_eq!(a.run("EXECUTE q(length('ab'))").first(), "3");
        assert_eq!(b.run("EXECUTE q(1 + 1)").first(), "4");
        assert_eq!(a.query("EXECUTE only_b").code(), "26000");
        assert!(a.run("EXPLAIN EXECUTE q(1)").first().contains("Result"));
        assert_eq!(a.run("EXECUTE q(1); EXECUTE q(2)").rows.len(), 2);
    }
    let names = "SELECT string_agg(name, ',' ORDER BY name) FROM pg_prepared_statements";
    assert_eq!(a.run(names).first(), "q");
    assert_eq!(b.run(names).first(), "only_b,q");
    assert_eq!(a.query("PREPARE q AS SELECT 1").code(), "42P05");
    a.run("CREATE TABLE made AS EXECUTE q(41)");
    assert_eq!(b.run("SELECT * FROM made").first(), "42");
    a.run("DEALLOCATE q");
    assert_eq!(a.query("EXECUTE q(1)").code(), "26000");
    assert_eq!(b.run("EXECUTE q(1)").first(), "3");
    a.run("DISCARD ALL");
    b.run("DEALLOCATE ALL");
    assert_eq!(b.query("EXECUTE q(1)").code(), "26000");
    let described = b.extended("EXECUTE q(1)", &Arguments { types: &[], values: &[], format: 0 });
    assert_eq!(described.code(), "26000");
    b.run("PREPARE q (int) AS SELECT $1 + 5");
    let again = b.extended("EXECUTE q(1)", &Arguments { types: &[], values: &[], format: 0 });
    assert_eq!(again.first(), "6");
}

#[test]
fn pins_are_told_counted_and_end() {
    let proxy = one_shard("pins_told", 3, |spec| spec.limits = "pinned = 2\n".to_owned());
    let (mut a, mut b, mut c) = (proxy.client(), proxy.client(), proxy.client());
    for (begin, end, reason) in [
        ("CREATE TEMP TABLE t (a int)", "DISCARD ALL", "temporary table"),
        ("SELECT pg_advisory_lock(1)", "DISCARD ALL", "session advisory lock"),
        ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock_all()", "session advisory lock"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c", "WITH HOLD cursor"),
        ("CREATE TEMP TABLE t (a int)", "DROP TABLE t", "temporary table"),
        ("CREATE TEMP TABLE t (a int)", "DISCARD TEMP", "temporary table"),
    ] {
        a.run(begin);
        assert!(proxy.show("CLIENTS", "pinned").contains(&reason.to_owned()), "{begin}");
        a.run(end);
        assert!(proxy.show("CLIENTS", "pinned").iter().all(String::is_empty), "{end}");
    }
    a.run("CREATE TEMP TABLE t (a int)");
    b.run("CREATE TEMP TABLE t (a int)");
    let refused = c.query("CREATE TEMP TABLE t (a int)");
    assert_eq!(refused.code(), "53400");
    c.run("SELECT 1");
    let (_, page) = proxy.page("/metrics");
    for line in [
        "sluice_pinned_sessions{database=\"app\"} 2",
        "sluice_pins_refused_total{database=\"app\"} 1",
        "sluice_pins_total{database=\"app\",reason=\"temporary table\"}",
    ] {
        assert!(page.contains(line), "{line} in {page}");
    }
    drop(b);
    wait_for("a pin to end with its client", || {
        c.query("CREATE TEMP TABLE t (a int)").error.is_none()
    });
}

#[test]
fn sequences_tell_only_their_own_session() {
    let proxy = one_shard("currval", 2, |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    a.run("CREATE SEQUENCE s");
    b.run("SELECT nextval('s')");
    assert_eq!(a.query("SELECT currval('s')").code(), "55000", "nobody's number but its own");
    a.run("DISCARD ALL");
    for number in 2..5 {
        a.run("SELECT nextval('s')");
        assert_eq!(a.run("SELECT currval('s')").first(), number.to_string());
        assert_eq!(a.run("SELECT lastval()").first(), number.to_string());
        a.run("DISCARD ALL");
        a.run("BEGIN");
        assert_eq!(a.query("SELECT currval('s')").code(), "55000");
        a.run("ROLLBACK");
        a.run("DISCARD ALL");
    }
}

#[test]
fn pins_can_be_refused() {
    let proxy = one_shard("pins_refused", 2, |spec| spec.pool.push_str("pin = \"refuse\"\n"));
    let mut a = proxy.client();
    for sql in ["CREATE TEMP TABLE t (a int)", "SELECT pg_advisory_lock(1)", "LOAD 'plpgsql'"] {
        assert_eq!(a.query(sql).code(), "0A000", "{sql}");
    }
    a.run("SELECT pg_advisory_unlock_all()");
    assert_eq!(a.query("SELECT 1; CREATE TEMP TABLE t (a int)").code(), "0A000");
}

#[test]
fn blocks_follow_the_server() {
    let proxy = one_shard("blocks_follow", 1, |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    a.run("CREATE TABLE t (a int PRIMARY KEY)");
    assert_eq!(a.run("BEGIN; INSERT INTO t VALUES (1)").status, 'T');
    assert_eq!(a.run("COMMIT; BEGIN; INSERT INTO t VALUES (2)").status, 'T');
    assert_eq!(a.query("INSERT INTO t VALUES (2); SELECT 1").status, 'E');
    assert_eq!(a.query("SELECT nonsense from").code(), "42601", "a server reads it first");
    assert_eq!(a.query("SELECT 1").code(), "25P02");
    assert_eq!(a.run("ROLLBACK AND CHAIN").status, 'T');
    assert_eq!(a.run("SAVEPOINT s; INSERT INTO t VALUES (3)").status, 'T');
    assert_eq!(a.run("ROLLBACK TO s; COMMIT").status, 'I');
    assert_eq!(b.run("SELECT string_agg(a::text, ',') FROM t").first(), "1");
    assert_eq!(a.query("INSERT INTO t VALUES (5); SELECT 1/0").status, 'I');
    assert_eq!(b.run("SELECT count(*) FROM t").first(), "1");
    assert_eq!(
        a.run(
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; SHOW transaction_deferrable"
        )
        .first(),
        "on"
    );
    assert_eq!(a.query("COMMIT AND CHAIN; SHOW transaction_isolation").first(), "serializable");
    a.run("ROLLBACK");
    assert_eq!(a.query("VACUUM t; SELECT 1").code(), "25001");
    a.run("VACUUM t");
}

#[test]
fn text_that_is_read_otherwise_stays_on_its_server() {
    let proxy = one_shard("read_otherwise", 2, |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    a.run("SET standard_conforming_strings TO off");
    a.run("SET escape_string_warning TO off");
    for _ in 0..3 {
        assert_eq!(a.run(r"SELECT 'a\'b; COMMIT; --'").first(), "a'b; COMMIT; --");
        assert_eq!(b.run(r"SELECT 'a\'").first(), r"a\");
    }
}

#[test]
fn a_session_whose_state_was_lost_ends() {
    let proxy = one_shard("state_lost", 2, |_| ());
    let (mut a, mut b) = (proxy.client(), proxy.client());
    a.run("CREATE TEMP TABLE t (a int)");
    let pid = a.run("SELECT pg_backend_pid()").first();
    b.run(&format!("SELECT pg_terminate_backend({pid})"));
    std::thread::sleep(Duration::from_millis(50));
    assert!(a.query("SELECT 1").error.is_some());
    assert!(a.frame().is_err() || a.frame().is_err(), "the connection is closed");
    b.run("SELECT 1");
}

/// `$user` is the user's name on servers: a table of that name is sharded for one and of the home shard
/// for another.
#[test]
fn a_path_with_the_user_is_planned_for_each_user() {
    let (mut spec, names) = support::four_shards("path_user");
    for shard in 0..4 {
        let (node, name) = (Node::Primary(shard / 2), &names[shard % 2]);
        let sql = format!(
            "DO $$ BEGIN CREATE ROLE path_other LOGIN PASSWORD 'other'; \
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$; \
             CREATE SCHEMA app AUTHORIZATION app; CREATE SCHEMA path_other AUTHORIZATION path_other; \
             CREATE TABLE app.mine (tenant_id int, v int); INSERT INTO app.mine VALUES ({shard}, 1); \
             CREATE TABLE path_other.mine (v int); \
             INSERT INTO path_other.mine SELECT 1 FROM generate_series(1, 10 + {shard}); \
             ALTER TABLE app.mine OWNER TO app; ALTER TABLE path_other.mine OWNER TO path_other"
        );
        support::shared().sql(node, name, &sql).unwrap();
    }
    support::shared().wait_for_replicas().unwrap();
    spec.users = "[[user]]\nname = \"other\"\npassword = \"other\"\n\
                  server_user = \"path_other\"\nserver_password = \"other\"\n"
        .to_owned();
    let proxy = Proxy::start(spec);
    proxy.wait_for_tables(2);
    let mut clients = [proxy.client(), Wire::login(proxy.port, "other", "other", "app").unwrap()];
    let sql = "SELECT count(*) FROM mine";
    for _ in 0..3 {
        for (client, count) in clients.iter_mut().zip(["4", "10"]) {
            client.run("SET search_path TO \"$user\"");
            assert_eq!(client.run(sql).first(), count);
            let arguments = Arguments { types: &[], values: &[], format: 0 };
            assert_eq!(client.extended(sql, &arguments).first(), count);
        }
    }
}
