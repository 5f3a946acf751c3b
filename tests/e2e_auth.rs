//! Who gets in, as whom its statements run, and what nobody learns: against real servers.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgsluice::auth::scram::Verifier;
use pgsluice::playground::{Cluster, Node};
use pgsluice::wire::frontend;
use support::certificates::Authority;
use support::proxy::{Proxy, ProxySpec, wait_for, wait_within};
use support::wire::Wire;

const PRIMARY: Node = Node::Primary(0);

/// One server with TLS; `…_md5` users log in to it by MD5, `…_clear` by a password in clear.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let mut spec = support::spec(1, 1);
        // Read at the start only.
        let ca = Authority::default();
        ca.issue("server", "postgres", &["localhost"]);
        for (name, value) in [
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", ca.file("server.crt")),
            ("ssl_key_file", ca.file("server.key")),
        ] {
            spec.settings.push((name.into(), value));
        }
        spec.hba = ["md5", "clear"]
            .iter()
            .flat_map(|kind| {
                let method = if *kind == "clear" { "password" } else { kind };
                ["one", "two"].map(|it| format!("host all {it}_{kind} 127.0.0.1/32 {method}"))
            })
            .collect();
        let cluster = support::start(spec);
        for (role, encryption) in [("one_md5", "md5"), ("one_clear", "scram-sha-256")] {
            create_role(&cluster, role, "right", encryption);
        }
        cluster
    })
}

fn create_role(cluster: &Cluster, role: &str, password: &str, encryption: &str) {
    let sql = format!(
        "SET password_encryption = '{encryption}'; CREATE ROLE {role} LOGIN PASSWORD '{password}'"
    );
    cluster.sql(PRIMARY, "postgres", &sql).unwrap();
}

/// A database with the function of docs/SECURITY.md, and a proxy's configuration over it.
fn with_lookup(name: &str, more: &str) -> ProxySpec {
    cluster().create_database(name).unwrap();
    let docs = std::fs::read_to_string("docs/SECURITY.md").unwrap();
    let (_, rest) = docs.split_once("```sql\n-- lookup\n").unwrap();
    let sql = rest.split_once("```").unwrap().0;
    cluster().sql(PRIMARY, name, sql).unwrap();
    cluster().wait_for_replicas().unwrap();
    let mut spec = ProxySpec::of(cluster(), name);
    let (_, rest) = docs.split_once("auth_query = ").unwrap();
    let query = rest.lines().next().unwrap();
    spec.database = format!("auth_query = {query}\nauth_cache = \"100ms\"\n{more}");
    spec.limits = "login_delay = \"0s\"\n".into();
    spec
}

fn failure(proxy: &Proxy, user: &str, password: &str) -> String {
    match Wire::login(proxy.port, user, password, "app") {
        Ok(_) => "logged in".into(),
        Err((code, message)) => format!("{code}: {message}"),
    }
}

fn logged_in(proxy: &Proxy, user: &str, password: &str) -> Wire {
    Wire::login(proxy.port, user, password, "app").unwrap_or_else(|it| panic!("{user}: {it:?}"))
}

fn who(wire: &mut Wire) -> String {
    wire.run("SELECT session_user || ' ' || current_user").first()
}

#[test]
fn users_of_the_servers_log_in_and_stay_themselves() {
    let spec = with_lookup("themselves", "server_auth = \"pass-through\"\n");
    create_role(cluster(), "alice", "wonder", "scram-sha-256");
    let proxy = Proxy::start(spec);
    assert_eq!(who(&mut logged_in(&proxy, "alice", "wonder")), "alice alice");
    assert_eq!(who(&mut logged_in(&proxy, "one_md5", "right")), "one_md5 one_md5");
    assert_eq!(who(&mut logged_in(&proxy, "app", "app")), "app app");
    // Each has connections of its own, on the replica, too.
    let mut alice = logged_in(&proxy, "alice", "wonder");
    alice.run("CREATE TEMPORARY TABLE mine (a int)");
    let users = proxy.show("POOLS", "user");
    for user in ["alice", "one_md5", "app"] {
        assert!(users.iter().any(|it| it == user), "{user}: {users:?}");
    }
    // What servers report is the user's own.
    let url = "user=alice password=wonder dbname=app host=127.0.0.1";
    let (out, err) =
        proxy.psql(&[url, "-tA", "-c", "SELECT current_user", "-c", "\\echo :USER"], "");
    assert_eq!((out.as_str(), err.as_str()), ("alice\nalice\n", ""));
    // The server asks for a password in clear, and nobody has it.
    let told = failure(&proxy, "one_clear", "right");
    assert!(told.starts_with("28P01: server 127.0.0.1:"), "{told}");
    assert!(told.ends_with("does not let user \"one_clear\" in"), "{told}");
}

#[test]
fn a_changed_password_is_renewed_by_the_next_login() {
    let spec = with_lookup("renewed", "server_auth = \"pass-through\"\n");
    create_role(cluster(), "bea", "old", "scram-sha-256");
    let proxy = Proxy::start(spec);
    let mut old = logged_in(&proxy, "bea", "old");
    assert_eq!(who(&mut old), "bea bea");
    let change = "ALTER ROLE bea PASSWORD 'new'; \
                  SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bea'";
    cluster().sql(PRIMARY, "renewed", change).unwrap();
    cluster().wait_for_replicas().unwrap();
    let mut told = old.query("BEGIN; SELECT 1");
    if told.code() == "08006" {
        told = old.query("BEGIN; SELECT 1");
    }
    assert_eq!(told.code(), "28P01", "{told:?}");
    old.query("ROLLBACK");
    // What was looked up is kept for a moment only.
    wait_for("the new password", || failure(&proxy, "bea", "new") == "logged in");
    assert_eq!(who(&mut old), "bea bea", "the newest keys are for all of the user's sessions");
    assert!(failure(&proxy, "bea", "old").starts_with("28P01: password authentication failed"));
}

/// Recovery must be able to end what is prepared: it works as the URL's user.
#[test]
fn writes_over_shards_need_a_superuser_to_recover_them() {
    create_role(cluster(), "frida", "secret", "scram-sha-256");
    let place = |name: &str| {
        cluster().create_database(name).unwrap();
        let sql = "CREATE TABLE things (tenant_id int, PRIMARY KEY (tenant_id)); \
                   GRANT ALL ON things TO PUBLIC";
        cluster().sql(PRIMARY, name, sql).unwrap();
        (cluster().primary_port(0), vec![], name.to_owned())
    };
    let mut spec = ProxySpec::over(&[place("frida_0"), place("frida_1")]);
    spec.database = spec.database.replace("\"plans\", \"countries\"", "");
    let user =
        "[[user]]\nname = \"frida\"\npassword = \"secret\"\nserver_auth = \"pass-through\"\n";
    spec.health.push_str(user);
    let proxy = Proxy::start(spec);
    proxy.wait_for_tables(1);
    let mut frida = logged_in(&proxy, "frida", "secret");
    let insert = "INSERT INTO things VALUES (1), (2), (3), (4), (5), (6), (7), (8)";
    let told = frida.query(insert);
    assert_eq!(told.code(), "0A000", "{told:?}");
    assert_eq!(frida.run("SELECT count(*) FROM things").first(), "0");
    frida.run("INSERT INTO things VALUES (100)");
    cluster().sql(PRIMARY, "postgres", "ALTER ROLE app SUPERUSER").unwrap();
    wait_for("a superuser", || frida.query(insert).error.is_none());
    cluster().sql(PRIMARY, "postgres", "ALTER ROLE app NOSUPERUSER").unwrap();
    assert_eq!(frida.run("SELECT count(*) FROM things").first(), "9");
}

#[test]
fn without_pass_through_they_share_the_account_of_the_url() {
    let mut spec = with_lookup("shared", "");
    spec.health.push_str("[[user]]\nname = \"cleo\"\npassword = \"own\"\n");
    create_role(cluster(), "cleo", "servers", "scram-sha-256");
    let proxy = Proxy::start(spec);
    assert_eq!(who(&mut logged_in(&proxy, "one_md5", "right")), "app app");
    assert_eq!(who(&mut logged_in(&proxy, "one_clear", "right")), "app app");
    // The configuration goes before the query.
    assert_eq!(failure(&proxy, "cleo", "own"), "logged in");
    assert!(failure(&proxy, "cleo", "servers").starts_with("28P01"));
    // Nobody who is only found may use the console, even if it names no admin.
    let denied = Wire::login(proxy.port, "one_md5", "right", "pgsluice").map(drop);
    assert_eq!(denied.unwrap_err().0, "28P01");
}

#[test]
fn a_verifier_in_the_configuration_passes_through() {
    create_role(cluster(), "dora", "secret", "scram-sha-256");
    let stored = "SELECT rolpassword FROM pg_authid WHERE rolname = 'dora'";
    let rows = cluster().sql(PRIMARY, "postgres", stored).unwrap();
    let verifier = rows[0][0].clone().unwrap();
    cluster().create_database("dora").unwrap();
    let mut spec = ProxySpec::of(cluster(), "dora");
    spec.limits = "login_delay = \"0s\"\n".into();
    let other = Verifier::derive("secret", b"another salt", 4096);
    spec.health.push_str(&format!(
        "[[user]]\nname = \"dora\"\npassword = \"{verifier}\"\nserver_auth = \"pass-through\"\n\
         [[user]]\nname = \"one_clear\"\npassword = \"right\"\nserver_auth = \"pass-through\"\n\
         [[user]]\nname = \"one_md5\"\npassword = \"{other}\"\nserver_auth = \"pass-through\"\n"
    ));
    let proxy = Proxy::start(spec);
    assert_eq!(who(&mut logged_in(&proxy, "dora", "secret")), "dora dora");
    // A password that the configuration has in clear is good for every method.
    assert_eq!(who(&mut logged_in(&proxy, "one_clear", "right")), "one_clear one_clear");
    let told = failure(&proxy, "one_md5", "secret");
    assert!(told.ends_with("does not let user \"one_md5\" in"), "{told}");
}

/// Lines of `[listen]` for TLS with client certificates of a CA.
fn tls(ca: &Authority) -> String {
    ca.issue("server", "proxy", &["localhost"]);
    format!(
        "tls_certificate = {:?}\ntls_key = {:?}\ntls_client_ca = {:?}\n",
        ca.file("server.crt"),
        ca.file("server.key"),
        ca.file("ca.crt")
    )
}

/// What psql prints for who it is, or its complaint.
fn psql(proxy: &Proxy, conninfo: &str) -> String {
    let conninfo = format!("dbname=app host=localhost port={} {conninfo}", proxy.port);
    let sql = "SELECT current_user";
    let (out, err) = proxy.psql(&["-wAtd", &conninfo, "-c", sql], "");
    format!("{}{}", out.trim(), err.trim())
}

#[test]
fn scram_is_bound_to_the_channel() {
    let ca = Authority::default();
    let mut spec = with_lookup("bound", "server_auth = \"pass-through\"\n");
    create_role(cluster(), "gina", "secret", "scram-sha-256");
    spec.listen.push_str(&tls(&ca));
    // The servers offer it, too.
    spec.host = "localhost".into();
    spec.parameters = "?sslmode=require".into();
    let proxy = Proxy::start(spec);
    let gina = "user=gina password=secret sslmode=require";
    for binding in ["require", "prefer", "disable"] {
        assert_eq!(psql(&proxy, &format!("{gina} channel_binding={binding}")), "gina");
    }
    let clear = "user=gina password=secret sslmode=disable channel_binding";
    assert_eq!(psql(&proxy, &format!("{clear}=prefer")), "gina");
    assert!(psql(&proxy, &format!("{clear}=require")).contains("channel binding"));
    let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(logged_in(&proxy, "gina", "secret").run(ssl).first(), "t");
}

#[test]
fn certificates_name_users() {
    let ca = Authority::default();
    let mut spec = with_lookup("certified", "");
    spec.listen.push_str(&tls(&ca));
    spec.health.push_str(
        "[[user]]\nname = \"ops\"\n\
         [[rule]]\nusers = [\"app\"]\nnetworks = [\"127.0.0.1\"]\nmethod = \"scram-sha-256\"\n\
         [[rule]]\ntls = true\nmethod = \"certificate\"\n\
         map = { \"ops.example\" = [\"one_clear\", \"nobody\"] }\n",
    );
    let proxy = Proxy::start(spec);
    for name in ["ops", "ops.example", "nobody"] {
        ca.issue(name, name, &[]);
    }
    let with = |name: &str, user: &str| {
        let (crt, key) = (ca.file(&format!("{name}.crt")), ca.file(&format!("{name}.key")));
        psql(&proxy, &format!("user={user} sslmode=require sslcert={crt} sslkey={key}"))
    };
    assert_eq!(with("ops", "ops"), "app");
    assert_eq!(with("ops.example", "one_clear"), "app");
    for (name, user) in
        [("ops", "one_clear"), ("ops.example", "ops"), ("nobody", "nobody"), ("none", "ops")]
    {
        let expected = format!("FATAL:  certificate authentication failed for user \"{user}\"");
        assert!(with(name, user).ends_with(&expected), "{name} {user}: {}", with(name, user));
    }
    let told = psql(&proxy, "user=ops sslmode=disable");
    assert!(told.contains("from 127.0.0.1 without TLS"), "{told}");
}

/// Rules decide by user and address; the first that fits counts.
#[test]
fn rules_decide_how() {
    let ca = Authority::default();
    let mut spec = with_lookup("rules", "");
    spec.listen.push_str(&tls(&ca));
    spec.health.push_str(
        "[[user]]\nname = \"free\"\n[[user]]\nname = \"card\"\n\
         [[user]]\nname = \"out\"\npassword = \"out\"\n\
         [[user]]\nname = \"clear\"\npassword = \"clear\"\n\
         [[user]]\nname = \"hash\"\npassword = \"hash\"\n\
         [[user]]\nname = \"tls\"\npassword = \"tls\"\n\
         [[rule]]\nusers = [\"out\"]\nmethod = \"reject\"\n\
         [[rule]]\nusers = [\"free\"]\nnetworks = [\"127.0.0.0/8\"]\nmethod = \"trust\"\n\
         [[rule]]\nusers = [\"card\", \"nobody_card\"]\nmethod = \"certificate\"\n\
         [[rule]]\nusers = [\"clear\", \"nobody_clear\"]\nnetworks = [\"127.0.0.1\"]\nmethod = \"password\"\n\
         [[rule]]\nusers = [\"hash\", \"nobody_hash\"]\nmethod = \"md5\"\n\
         [[rule]]\nusers = [\"tls\"]\ntls = true\nmethod = \"scram-sha-256\"\n\
         [[rule]]\nusers = [\"app\", \"one_clear\", \"nobody\"]\nmethod = \"scram-sha-256\"\n",
    );
    let proxy = Proxy::start(spec);
    for (user, password) in
        [("free", "anything"), ("clear", "clear"), ("hash", "hash"), ("app", "app")]
    {
        assert_eq!(failure(&proxy, user, password), "logged in", "{user}");
    }
    assert_eq!(failure(&proxy, "one_clear", "right"), "logged in");
    for user in ["out", "tls", "one_md5", "anybody"] {
        let expected = format!(
            "28000: no rule lets user {user:?} into database \"app\" from 127.0.0.1 without TLS"
        );
        assert_eq!(failure(&proxy, user, user), expected);
    }
    // A wrong password, no such user: the same frames and the same words, whatever the method.
    for (there, not_there) in [
        ("app", "nobody"),
        ("clear", "nobody_clear"),
        ("hash", "nobody_hash"),
        ("card", "nobody_card"),
    ] {
        let (one, other) = (failure(&proxy, there, "wrong"), failure(&proxy, not_there, "wrong"));
        assert_eq!(one.replace(there, "X"), other.replace(not_there, "X"));
        assert!(one.contains("authentication failed for user"), "{one}");
        assert_eq!(first_frame(&proxy, there), first_frame(&proxy, not_there), "{there}");
    }
}

/// Tag and code of the first answer to a start-up packet.
fn first_frame(proxy: &Proxy, user: &str) -> Vec<u8> {
    let mut stream = begin(proxy, user);
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    [&answer[..1], &answer[5..9]].concat()
}

fn begin(proxy: &Proxy, user: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut out = BytesMut::new();
    frontend::startup(&mut out, 0, [("user", user), ("database", "app")]).unwrap();
    stream.write_all(&out).unwrap();
    stream
}

#[test]
fn failures_are_slowed_down_and_counted() {
    let mut spec = with_lookup("slow", "");
    spec.limits = "login_delay = \"1s\"\n".into();
    let proxy = Proxy::start(spec);
    let took = |user: &str, password: &str| {
        let begin = Instant::now();
        let told = failure(&proxy, user, password);
        (told == "logged in", begin.elapsed())
    };
    let times: Vec<Duration> = (0..4).map(|_| took("app", "wrong").1).collect();
    for (time, least) in times.iter().zip([100, 200, 400, 800]) {
        assert!(*time >= Duration::from_millis(least), "{times:?}");
    }
    // Who is right is not made to wait.
    let (is_in, time) = took("app", "app");
    assert!(is_in && time < Duration::from_millis(900), "{time:?}");
    assert_eq!(proxy.show("LOGINS", "address"), ["127.0.0.1"]);
    assert_eq!(proxy.show("LOGINS", "failed"), ["4"]);
    assert_eq!(proxy.show("LOGINS", "delay_ms"), ["1000"]);
    // Hanging up does not help: the failure is held all the same.
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| failure(&proxy, "app", "wrong"));
        }
    });
    assert!(begin.elapsed() >= Duration::from_secs(2), "20 at a time");
    wait_for("all to be told", || proxy.show("LOGINS", "held") == ["0"]);
    assert_eq!(proxy.show("LOGINS", "failed"), ["34"]);
    let metrics = proxy.page("/metrics").1;
    assert!(metrics.contains("sluice_logins_failed_total 34\n"), "{metrics}");
}

/// Clients that begin and do not go on hold no server and no place, and are cut off.
#[test]
fn half_a_login_holds_nothing() {
    let mut spec = with_lookup("half", "server_auth = \"pass-through\"\n");
    spec.limits = "login_timeout = \"2s\"\nlogin_delay = \"1s\"\n".into();
    spec.pool = "size = 1\n".into();
    let proxy = Proxy::start(spec);
    let begun: Vec<TcpStream> =
        (0..50).map(|it| begin(&proxy, if it % 2 == 0 { "app" } else { "one_md5" })).collect();
    let held = proxy.show("LOGINS", "held");
    assert!(held.is_empty(), "{held:?}");
    assert_eq!(proxy.show("POOLS", "in_use").iter().filter(|it| *it != "0").count(), 0);
    assert_eq!(proxy.show("CLIENTS", "user"), ["app"], "the console's own");
    assert_eq!(failure(&proxy, "one_md5", "right"), "logged in");
    for mut it in begun {
        let mut rest = Vec::new();
        it.read_to_end(&mut rest).unwrap();
        assert_eq!(rest[0], b'R');
    }
    // One that sends too much before it has proved anything is told so.
    let mut stream = begin(&proxy, "app");
    stream.write_all(b"p\x01\0\0\0xxxx").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("C08P01"), "{rest:?}");
}

/// Everything that can be read of a proxy under trace, against everything that is secret.
#[test]
fn secrets_are_never_told() {
    let mut spec = with_lookup("told", "server_auth = \"pass-through\"\n");
    create_role(cluster(), "erna", "ernas-secret", "scram-sha-256");
    let stored = "SELECT rolpassword FROM pg_authid WHERE rolname IN ('erna', 'one_md5', 'app')";
    let rows = cluster().sql(PRIMARY, "postgres", stored).unwrap();
    spec.health.push_str(
        "[log]\nlevel = \"trace\"\n\
         [[user]]\nname = \"plain\"\npassword = \"plains-secret\"\nserver_user = \"erna\"\nserver_password = \"ernas-secret\"\n",
    );
    let proxy = Proxy::start(spec);
    assert_eq!(who(&mut logged_in(&proxy, "erna", "ernas-secret")), "erna erna");
    assert_eq!(who(&mut logged_in(&proxy, "plain", "plains-secret")), "erna erna");
    assert_eq!(who(&mut logged_in(&proxy, "one_md5", "right")), "one_md5 one_md5");
    let mut seen = String::new();
    for (user, password) in [("erna", "a-wrong-secret"), ("plain", "a-wrong-secret")] {
        seen += &failure(&proxy, user, password);
    }
    for what in ["POOLS", "CLIENTS", "SERVERS", "SHARDS", "STATS", "CONFIG", "LOGINS", "PLANS"] {
        for row in proxy.admin(&format!("SHOW {what}")).rows {
            for field in row.into_iter().flatten() {
                seen += &String::from_utf8_lossy(&field);
            }
        }
    }
    seen += &proxy.page("/metrics").1;
    wait_within(5, "the log", || proxy.log().contains("login refused"));
    seen += &proxy.log();
    let mut secrets = vec!["-secret".to_owned()];
    for row in rows {
        let stored = row[0].clone().unwrap();
        let parts = stored.split(['$', ':']).skip(1).filter(|it| it.len() > 20);
        secrets.extend(parts.map(str::to_owned));
        secrets.push(stored);
    }
    assert!(secrets.len() > 5);
    for secret in secrets {
        if let Some(at) = seen.find(&secret) {
            let line = seen[..at].rfind('\n').map_or(0, |it| it + 1);
            panic!("{secret} is told: {}", seen[line..].lines().next().unwrap());
        }
    }
}
