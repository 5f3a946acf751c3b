//! `pgsluice playground` without the proxy: in its place bytes are passed to the only shard.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::copy;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pgsluice::config::{Config, parse};
use pgsluice::playground::{Login, Options, Ready, run};

fn read(file: &Path) -> Config {
    let text = std::fs::read_to_string(file).unwrap();
    parse("pgsluice.toml", &text, &|_| None, &|_| unreachable!()).unwrap()
}

/// Passes every connection on to a port, until the process ends.
fn forward(listener: TcpListener, port: u16) {
    for client in listener.incoming() {
        let (mut one, mut other) =
            (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
        let (mut back, mut there) = (other.try_clone().unwrap(), one.try_clone().unwrap());
        thread::spawn(move || {
            (copy(&mut one, &mut other), other.shutdown(std::net::Shutdown::Write))
        });
        thread::spawn(move || copy(&mut back, &mut there));
    }
}

/// Stands for the proxy until `work` is done.
fn stand_in(file: &Path, ready: Ready, work: impl FnOnce(&Config)) -> Result<(), String> {
    let config = read(file);
    let listener = TcpListener::bind(config.listen.address).unwrap();
    let port = config.databases[0].shards[0].primary.port;
    thread::spawn(move || forward(listener, port));
    ready();
    work(&config);
    Ok(())
}

fn wait_for_state(dir: &Path, line: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let there =
        || std::fs::read_to_string(dir.join("playground.state")).is_ok_and(|it| it.contains(line));
    while !there() {
        assert!(Instant::now() < deadline, "no {line}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A folder that the servers' user may enter, and a free port.
fn place() -> (tempfile::TempDir, u16) {
    use std::os::unix::fs::PermissionsExt;
    let open = std::fs::Permissions::from_mode(0o755);
    let dir = tempfile::Builder::new().permissions(open).tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    (dir, port)
}

#[test]
fn a_folder_is_filled_once_and_used_again() {
    let (dir, port) = place();
    let options = Options {
        dir: Some(dir.path().to_owned()),
        port: Some(port),
        shards: Some(1),
        replicas: Some(1),
        empty: false,
    };
    let count = |config: &Config| {
        let port = config.databases[0].shards[0].primary.port;
        let login = Login::superuser("primary", port, "app");
        let sql = "SELECT (SELECT count(*) FROM tenants), (SELECT count(*) > 7000 FROM events)";
        login.run(sql).unwrap()[0].clone()
    };
    let filled = [Some("64".to_owned()), Some("t".to_owned())];
    let (sender, seen) = mpsc::channel();
    run(&options, |file, ready| {
        stand_in(file, ready, |config| {
            wait_for_state(dir.path(), "sample=loaded");
            sender.send((count(config), config.clone())).unwrap();
        })
    })
    .unwrap();
    let (rows, first) = seen.recv().unwrap();
    assert_eq!(rows, filled);
    assert_eq!(first.listen.address.port(), port);
    assert_eq!(first.databases[0].tenant_column.as_deref(), Some("tenant_id"));

    // Edits stay, a taken port is replaced, rows are not loaded twice.
    let file = dir.path().join("pgsluice.toml");
    let edited = std::fs::read_to_string(&file).unwrap().replace("size = 20", "size = 7 ");
    std::fs::write(&file, edited).unwrap();
    let primary = first.databases[0].shards[0].primary.port;
    let _taken = TcpListener::bind(("127.0.0.1", primary)).unwrap();
    let again = Options { dir: options.dir, ..Options::default() };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    run(&Options { port: Some(port), ..again.clone() }, |file, ready| {
        stand_in(file, ready, |config| {
            assert_eq!(config.pool.size, 7);
            assert_eq!(config.listen.address.port(), port);
            assert_ne!(config.databases[0].shards[0].primary.port, primary);
            assert_eq!(count(config), filled);
        })
    })
    .unwrap();

    let never = |_: &Path, _: Ready| -> Result<(), String> { panic!("the proxy was started") };
    let other = Options { shards: Some(3), ..again };
    let error = run(&other, never).unwrap_err().to_string();
    assert!(error.contains("1 shard with 1 replica each, not of 3 shards"), "{error}");
}

#[test]
fn a_taken_port_is_told_before_anything_is_made() {
    let (dir, port) = place();
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let options =
        Options { dir: Some(dir.path().join("new")), port: Some(port), ..Options::default() };
    let error = run(&options, |_, _| Err("not reached")).unwrap_err().to_string();
    assert!(error.contains(&format!("port {port} on 127.0.0.1 is in use")), "{error}");
    assert!(!dir.path().join("new").exists());
}

#[test]
fn a_failing_proxy_ends_the_playground() {
    let (_, port) = place();
    let options =
        Options { port: Some(port), shards: Some(1), replicas: Some(0), ..Options::default() };
    let mut place = None;
    let error = run(&options, |file, _| {
        place = Some(file.to_owned());
        Err("no such luck")
    });
    assert_eq!(error.unwrap_err().to_string(), "the proxy: no such luck");
    assert!(!place.unwrap().exists());
}
