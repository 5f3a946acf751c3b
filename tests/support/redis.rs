//! A Redis server of a test's own.

use std::fs;
use std::process::{Child, Command, Stdio};
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

    pub fn url(&self) -> String {
        format!("redis://:secret@127.0.0.1:{}", self.port)
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
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
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
