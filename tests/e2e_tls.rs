//! TLS and Unix sockets, towards clients and towards servers.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;
use pgsluice::playground::Node;
use pgsluice::wire::frontend;
use support::certificates::{Authority, certificate, connect};
use support::proxy::{Proxy, ProxySpec, wait_for};

/// A proxy over one shard of the shared cluster, with these lines in `[listen]`.
fn proxy(name: &str, listen: &str) -> Proxy {
    let database = support::database(name);
    let mut spec = ProxySpec::over(&[(support::shared().primary_port(0), Vec::new(), database)]);
    spec.listen.push_str(listen);
    Proxy::start(spec)
}

/// Lines of `[listen]` for `NAME.crt` and `NAME.key`.
fn tls(ca: &Authority, name: &str, mode: &str) -> String {
    let (crt, key) = (ca.file(&format!("{name}.crt")), ca.file(&format!("{name}.key")));
    format!("tls = {mode:?}\ntls_certificate = {crt:?}\ntls_key = {key:?}\n")
}

/// What psql prints for a statement over a connection string.
fn psql(proxy: &Proxy, conninfo: &str, sql: &str) -> (String, String) {
    let conninfo = format!("user=app password=app dbname=app port={} {conninfo}", proxy.port);
    let (out, err) = proxy.psql(&["-Atd", &conninfo, "-c", sql], "");
    (out.trim().to_owned(), err.trim().to_owned())
}

fn startup(user: &str) -> bytes::BytesMut {
    let mut out = bytes::BytesMut::new();
    frontend::startup(&mut out, 0, [("user", user), ("database", "app")]).unwrap();
    out
}

#[test]
fn psql_verifies_the_proxy() {
    let ca = Authority::default();
    ca.issue("server", "proxy", &["localhost"]);
    let proxy = proxy("verify", &tls(&ca, "server", "require"));
    let root = ca.file("ca.crt");
    let full = format!("host=localhost sslmode=verify-full sslrootcert={root}");
    assert_eq!(psql(&proxy, &full, "SELECT 1"), ("1".into(), String::new()));
    let wrong = format!("host=127.0.0.1 sslmode=verify-full sslrootcert={root}");
    assert!(psql(&proxy, &wrong, "SELECT 1").1.contains("does not match host name"));
    let (out, err) = psql(&proxy, "host=localhost sslmode=disable", "SELECT 1");
    assert!(out.is_empty() && err.contains("connections without TLS are not allowed"), "{err}");
    assert!(err.contains("sslmode=require"), "{err}");
}

#[test]
fn much_goes_both_ways() {
    let ca = Authority::default();
    ca.issue("server", "proxy", &["localhost"]);
    let proxy = proxy("much", &tls(&ca, "server", "allow"));
    let wide = "SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 20000) i ORDER BY i";
    let clear = psql(&proxy, "host=localhost sslmode=disable", wide);
    assert!(clear.0.len() > 19_000_000 && clear.1.is_empty());
    assert!(psql(&proxy, "host=localhost sslmode=require", wide) == clear);
    let rows: String = (0..100_000).map(|it| format!("{it}\t{}\n", "x".repeat(100))).collect();
    let input = format!(
        "CREATE TABLE much (id int, text text);\nCOPY much FROM STDIN;\n{rows}\\.\n\
         SELECT count(*), sum(id), sum(length(text)) FROM much;\n"
    );
    let conninfo = format!("host=localhost port={} sslmode=require", proxy.port);
    let (out, err) = proxy.psql(&["-Atqd", &conninfo], &input);
    assert_eq!((out.trim(), err.as_str()), ("100000|4999950000|10000000", ""));
}

#[test]
fn tls_may_begin_at_once() {
    let ca = Authority::default();
    ca.issue("server", "proxy", &["localhost"]);
    let mut spec = proxy("direct", &tls(&ca, "server", "require")).spec.clone();
    spec.health.push_str("[[user]]\nname = \"trusted\"\nauth = \"trust\"\n");
    let proxy = Proxy::start(spec);
    let root = ca.path("ca.crt");
    for asks in [false, true] {
        let mut stream = connect(proxy.port, &root, &["postgresql"], asks).unwrap();
        assert_eq!(stream.conn.alpn_protocol(), Some(b"postgresql".as_slice()));
        stream.write_all(&startup("trusted")).unwrap();
        let mut answer = [0; 9];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"R\0\0\0\x08\0\0\0\0");
    }
    for asks in [false, true] {
        let error = connect(proxy.port, &root, &["http/1.1"], asks).unwrap_err().to_string();
        assert!(error.contains("NoApplicationProtocol"), "{error}");
    }
    let mut nameless = connect(proxy.port, &root, &[], false).unwrap();
    let _ = nameless.write_all(&startup("trusted"));
    assert_eq!(nameless.read(&mut [0; 100]).unwrap_or(0), 0);
    wait_for("the log", || proxy.log().contains("direct TLS without the protocol"));
    connect(proxy.port, &root, &[], true).unwrap();
}

#[test]
fn nothing_in_clear_goes_ahead_of_tls() {
    let ca = Authority::default();
    ca.issue("server", "proxy", &["localhost"]);
    let proxy = proxy("ahead", &tls(&ca, "server", "allow"));
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    let mut request = vec![0, 0, 0, 8, 4, 210, 22, 47];
    request.extend_from_slice(&startup("app"));
    stream.write_all(&request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with('E') && answer.contains("received unencrypted data"), "{answer:?}");
    // GSS is declined, and the client may ask for TLS after it.
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 48]).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
    let mut second = [0];
    stream.read_exact(&mut second).unwrap();
    assert_eq!((answer, second), (*b"N", *b"S"));
}

#[test]
fn certificates_are_replaced_while_clients_stay() {
    let ca = Authority::default();
    ca.issue("server", "proxy", &["localhost"]);
    let proxy = proxy("renew", &tls(&ca, "server", "allow"));
    let (root, file) = (ca.path("ca.crt"), ca.path("server.crt"));
    let shown = || {
        let stream = connect(proxy.port, &root, &[], true).unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone()
    };
    let first = certificate(&file);
    assert_eq!(shown(), first);
    let mut old = connect(proxy.port, &root, &[], true).unwrap();
    ca.issue("server", "proxy", &["localhost"]);
    wait_for("the new certificate", || shown() == certificate(&file));
    assert_ne!(shown(), first);
    old.write_all(&startup("app")).unwrap();
    old.read_exact(&mut [0; 9]).unwrap();

    // A bad one changes nothing, and it is told which and why.
    let good = certificate(&file);
    ca.replace("server.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    wait_for("the complaint", || proxy.log().contains("the old one is used on: listen.tls_key: /"));
    assert_eq!(shown(), good);
    let refused = proxy.admin("RELOAD").error.unwrap();
    assert!(refused.1.contains("server.key") || proxy.log().contains("server.key"), "{refused:?}");
    ca.issue("server", "proxy", &["localhost"]);
    proxy.signal(Signal::SIGHUP);
    wait_for("the newest certificate", || shown() == certificate(&file));
}

#[test]
fn client_certificates_are_of_our_ca() {
    let (ca, stranger) = (Authority::default(), Authority::default());
    ca.issue("server", "proxy", &["localhost"]);
    ca.issue("app", "app", &[]);
    stranger.issue("app", "app", &[]);
    let listen =
        format!("{}tls_client_ca = {:?}\n", tls(&ca, "server", "require"), ca.file("ca.crt"));
    let proxy = proxy("clients", &listen);
    let with = |ca: &Authority| {
        let (crt, key) = (ca.file("app.crt"), ca.file("app.key"));
        format!("host=localhost sslmode=require sslcert={crt} sslkey={key}")
    };
    assert_eq!(psql(&proxy, &with(&ca), "SELECT 1").0, "1");
    assert_eq!(psql(&proxy, "host=localhost sslmode=require", "SELECT 1").0, "1");
    assert_eq!(psql(&proxy, &with(&stranger), "SELECT 1").0, "");
    wait_for("the log", || proxy.log().contains("TLS handshake failed"));
}

#[test]
fn servers_are_verified() {
    let (ca, stranger) = (Authority::default(), Authority::default());
    ca.issue("server", "postgres", &["localhost"]);
    ca.issue("app", "app", &[]);
    let mut spec = support::spec(1, 0);
    let sockets = tempfile::tempdir_in("/tmp").unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(sockets.path(), everybody).unwrap();
    let folder = sockets.path().display().to_string();
    for (name, value) in [
        ("ssl", "on".to_owned()),
        ("ssl_cert_file", ca.file("server.crt")),
        ("ssl_key_file", ca.file("server.key")),
        ("ssl_ca_file", ca.file("ca.crt")),
        ("unix_socket_directories", folder.clone()),
    ] {
        spec.settings.push((name.into(), value));
    }
    spec.hba.push("hostnossl all app 127.0.0.1/32 reject".into());
    spec.hba.push("hostssl secret app 127.0.0.1/32 cert".into());
    spec.hba.push("local all app scram-sha-256".into());
    let cluster = support::start(spec);
    ["plain", "secret"].iter().for_each(|name| cluster.create_database(name).unwrap());

    let over = |host: &str, database: &str, parameters: &str| {
        let place = (cluster.primary_port(0), Vec::new(), database.to_owned());
        let mut spec = ProxySpec::over(&[place]);
        (spec.host, spec.parameters) = (host.to_owned(), parameters.to_owned());
        Proxy::start(spec)
    };
    let used = "SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)";
    let root = format!("sslrootcert={}", ca.file("ca.crt"));
    for parameters in [
        String::new(),
        "?sslmode=allow".to_owned(),
        "?sslmode=require".to_owned(),
        format!("?sslmode=verify-full&{root}"),
    ] {
        let proxy = over("localhost", "plain", &parameters);
        let answer = proxy.client().query(used);
        assert_eq!(answer.first(), "t", "{parameters}: {:?}", answer.error);
        // The control plane too.
        assert_eq!(proxy.page("/ready").1, "ready\n", "{parameters}");
    }
    let own = format!("sslcert={}&sslkey={}", ca.file("app.crt"), ca.file("app.key"));
    let proxy = over("localhost", "secret", &format!("?sslmode=verify-full&{root}&{own}"));
    assert_eq!(proxy.client().query(used).first(), "t");
    // Over a Unix socket there is no TLS.
    let encoded = folder.replace('/', "%2F");
    for (host, parameters) in [(encoded, String::new()), (String::new(), format!("?host={folder}"))]
    {
        let proxy = over(&host, "plain", &parameters);
        let answer = proxy.client().query(used);
        assert_eq!(answer.first(), "f", "{:?}", answer.error);
    }

    for (host, parameters, why) in [
        ("127.0.0.1", format!("?sslmode=verify-full&{root}"), "not valid for"),
        (
            "localhost",
            format!("?sslmode=verify-ca&sslrootcert={}", stranger.file("ca.crt")),
            "invalid peer certificate",
        ),
        ("localhost", "?sslmode=disable".to_owned(), "pg_hba.conf"),
    ] {
        let proxy = over(host, "plain", &parameters);
        let (_, err) = psql(&proxy, "host=localhost", "SELECT 1");
        assert!(err.contains(why), "{parameters}: {err}");
        let page = proxy.page("/ready").1;
        assert!(page.contains(why), "{parameters}: {page}");
    }
}

#[test]
fn many_clients_share_few_tls_servers() {
    let ca = Authority::default();
    ca.issue("server", "postgres", &["localhost"]);
    let mut spec = support::spec(1, 0);
    for (name, value) in [
        ("ssl", "on".to_owned()),
        ("ssl_cert_file", ca.file("server.crt")),
        ("ssl_key_file", ca.file("server.key")),
    ] {
        spec.settings.push((name.into(), value));
    }
    let cluster = support::start(spec);
    cluster.create_database("shared").unwrap();
    let mut spec = ProxySpec::of(&cluster, "shared");
    spec.parameters = "?sslmode=require".to_owned();
    spec.pool = "size = 3\n".to_owned();
    spec.listen.push_str(&format!("threads = 2\n{}", tls(&ca, "server", "allow")));
    let proxy = Proxy::start(spec);
    let script = "SELECT pg_backend_pid(), repeat('x', 5000);\n";
    std::fs::write(proxy.dir.path().join("script"), script).unwrap();
    let load = ["-n", "-f", "script", "-c", "12", "-j", "2", "-t", "100"];
    let (ok, out, err) = proxy.command("pgbench", &load, "");
    assert!(ok && out.contains("1200/1200"), "{out}{err}");
    assert!(out.contains("number of failed transactions: 0"), "{out}");
    // A cancel takes the same way as the connection.
    let mut client = proxy.client();
    let (pid, key) = client.key.clone();
    let waiting = std::thread::spawn(move || client.query("SELECT pg_sleep(60)"));
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'";
    let cluster_runs = || cluster.sql(Node::Primary(0), "shared", running).unwrap();
    wait_for("the statement", || cluster_runs()[0][0].as_deref() == Some("1"));
    let mut request = bytes::BytesMut::new();
    frontend::cancel_request(&mut request, pid, &key).unwrap();
    TcpStream::connect(("127.0.0.1", proxy.port)).unwrap().write_all(&request).unwrap();
    assert_eq!(waiting.join().unwrap().code(), "57014");
}

#[test]
fn clients_come_by_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let ca = Authority::default();
    ca.issue("server", "proxy", &["localhost"]);
    let listen = format!(
        "unix_socket_dir = {path:?}\nunix_socket_mode = \"0700\"\n{}",
        tls(&ca, "server", "require")
    );
    let mut proxy = proxy("unix", &listen);
    let socket = folder.path().join(format!(".s.PGSQL.{}", proxy.port));
    // TLS is not for it, even where it is required.
    let here = format!("host={path}");
    assert_eq!(psql(&proxy, &here, "SELECT 1"), ("1".into(), String::new()));
    let uid = nix::unistd::getuid();
    let (out, _) = psql(&proxy, &format!("{here} dbname=pgsluice"), "SHOW CLIENTS");
    assert!(out.contains(&format!("[local]:{uid}")), "{out}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    // What a killed one leaves is replaced, what lives is not, and the end removes it.
    proxy.kill9();
    assert!(socket.exists());
    proxy.restart();
    assert_eq!(psql(&proxy, &here, "SELECT 1").0, "1");
    let twin = std::fs::read_to_string(proxy.file()).unwrap();
    let twin = twin
        .replace(&format!("127.0.0.1:{}\"", proxy.port), &format!("127.0.0.2:{}\"", proxy.port));
    let twin = twin.replace(&format!("127.0.0.1:{}\"", proxy.http), "127.0.0.1:0\"");
    std::fs::write(proxy.dir.path().join("twin.toml"), twin).unwrap();
    let program = env!("CARGO_BIN_EXE_pgsluice");
    let (ok, _, err) = proxy.command(program, &["run", "--config", "twin.toml"], "");
    assert!(!ok && err.contains("listen.unix_socket_dir"), "{err}");
    assert_eq!(psql(&proxy, &here, "SELECT 1").0, "1");
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.wait().success());
    assert!(!socket.exists());
}
