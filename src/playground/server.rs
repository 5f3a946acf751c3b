//! One Postgres server: started, stopped, killed.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::binaries::Binaries;
use super::error::{PlaygroundError, Result, at};

/// How long a server may take to start, also while another one's memory is still held.
const START: Duration = Duration::from_secs(60);
/// How long a server may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(30);
/// How long the predecessor of a server may take to end.
const RETRY: Duration = Duration::from_secs(10);
/// What a server says whose predecessor has not ended yet.
const HELD: &[&str] = &["pre-existing shared memory", "\"postmaster.pid\" already exists"];
const POLL: Duration = Duration::from_millis(5);

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT: transactions are rolled back, a checkpoint is written.
    Fast,
    /// SIGQUIT: as a crash, but without leftovers.
    Immediate,
}

/// A server and its data folder.
#[derive(Debug)]
pub struct Server {
    /// Such as `shard 0 primary`.
    pub name: String,
    pub port: u16,
    pub data: PathBuf,
    log: PathBuf,
    binaries: Binaries,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// A server that does not run yet.
    pub(super) fn new(binaries: &Binaries, name: String, port: u16, data: PathBuf) -> Self {
        let log = data.with_extension("log");
        Self { name, port, data, log, binaries: binaries.clone(), child: Mutex::new(None) }
    }

    /// Starts the server unless it runs, and waits until it lets clients in.
    ///
    /// # Errors
    /// It ended or was not ready in time; with the end of its log.
    pub fn start(&self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts the server without waiting.
    pub(super) fn spawn(&self) -> Result<()> {
        let mut child = self.child();
        if child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(at("cannot open", &self.log))?;
        let errors = log.try_clone().map_err(at("cannot open", &self.log))?;
        let mut command = self.binaries.command("postgres");
        command.arg("-D").arg(&self.data);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        *child = Some(command.spawn().map_err(at("cannot run postgres on", &self.data))?);
        Ok(())
    }

    /// Waits until the server lets clients in. A server whose predecessor was just killed may end
    /// because that one's memory is still held, and is started again.
    pub(super) fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let ended = match &mut *self.child() {
                Some(child) if is_ready(&self.data, child.id()) => return Ok(()),
                Some(child) => child.try_wait().ok().flatten(),
                None => return Err(self.not_started("it was stopped".to_owned())),
            };
            if let Some(status) = ended {
                *self.child() = None;
                let tail = self.tail();
                let still_held = HELD.iter().any(|it| tail.contains(it));
                if !still_held || Instant::now() > deadline - START + RETRY {
                    return Err(self.not_started(status.to_string()));
                }
                std::thread::sleep(20 * POLL);
                self.spawn()?;
            }
            if Instant::now() > deadline {
                return Err(self.not_started(format!("not ready after {} s", START.as_secs())));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Stops the server if it runs, and waits for its end.
    pub fn stop(&self, how: Stop) {
        self.signal(if how == Stop::Fast { Signal::SIGINT } else { Signal::SIGQUIT });
        self.wait_end();
    }

    /// Sends the signal to stop without waiting.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, signal);
        }
    }

    /// Waits for the end of a server that was told to stop; kills it when that takes too long.
    pub(super) fn wait_end(&self) {
        let Some(mut child) = self.child().take() else { return };
        let deadline = Instant::now() + STOP;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = child.kill();
            }
            std::thread::sleep(POLL);
        }
    }

    /// SIGKILL to the server and to all its processes, as when the machine is lost.
    pub fn kill9(&self) {
        let Some(mut child) = self.child().take() else { return };
        let backends = children_of(child.id());
        let _ = child.kill();
        for pid in backends {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = child.wait();
    }

    /// SIGSTOP to the server and to all its processes: it holds what it has and says nothing.
    pub fn pause(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Ends [`Self::pause`].
    pub fn resume(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// The server first: while it is stopped it starts no process.
    fn signal_all(&self, signal: Signal) {
        let Some(pid) = self.pid() else { return };
        let _ = kill(pid, signal);
        for child in children_of(pid.as_raw().unsigned_abs()) {
            let _ = kill(child, signal);
        }
    }

    /// Whether we started it and it did not end since.
    pub fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The server's process.
    pub fn pid(&self) -> Option<Pid> {
        self.child().as_ref().map(|child| Pid::from_raw(child.id() as i32))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_started(&self, why: String) -> PlaygroundError {
        let (server, log) = (self.name.clone(), self.log.clone());
        PlaygroundError::NotStarted { server, why, log, tail: self.tail() }
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
    }
}

/// Line 1 of `postmaster.pid` is the process, line 8 its state.
fn is_ready(data: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let mut lines = text.lines();
    lines.next() == Some(&pid.to_string()) && lines.nth(6).is_some_and(|it| it.trim() == "ready")
}

/// The direct children of a process; none where there is no `/proc`.
pub fn children_of(parent: u32) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // "pid (name) state parent …", where the name may hold anything.
        let after = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        after.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    names.filter(is_child).map(Pid::from_raw).collect()
}
