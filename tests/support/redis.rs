//! A Redis server of a test's own.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::proxy::free_port;

/// A running redis-server that keeps nothing. It is killed when this is dropped.
pub struct Redis {
    pub port: u16,
    dir: tempfile::TempDir,
    child: Child,
}

impl Redis {
    /// Starts it; fails where there is none, for a test that is skipped tests nothing.
    pub fn start() -> Self {
        let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
        let child = launch(port, dir.path());
        let redis = Self { port, dir, child };
        redis.wait();
        redis
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again at the same port.
    pub fn restart(&mut self) {
        self.child = launch(self.port, self.dir.path());
        self.wait();
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "redis-server does not answer\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(port: u16, dir: &std::path::Path) -> Child {
    let log = fs::File::create(dir.join("log")).unwrap();
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "no", "--requirepass", "secret", "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server (Debian's package redis-server): {error}"))
}

/// A way to a Redis on which nothing may pass for a while, and nobody is told. What was said meanwhile
/// arrives late.
pub struct Cable {
    pub port: u16,
    is_pulled: Arc<AtomicBool>,
}

impl Cable {
    /// To a port of this machine, for as long as the test runs.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_pulled = Arc::new(AtomicBool::new(false));
        let state = Arc::clone(&is_pulled);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                wait(&state);
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let (one, two) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                for (from, into) in [(near, far), (two, one)] {
                    let state = Arc::clone(&state);
                    std::thread::spawn(move || carry(from, into, &state));
                }
            }
        });
        Self { port, is_pulled }
    }

    pub fn pull(&self, is_pulled: bool) {
        self.is_pulled.store(is_pulled, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut into: TcpStream, is_pulled: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        wait(is_pulled);
        if into.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    wait(is_pulled);
    let _ = into.shutdown(std::net::Shutdown::Both);
}

fn wait(is_pulled: &AtomicBool) {
    while is_pulled.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
}
