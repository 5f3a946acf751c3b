//! Databases that sleep: after a while without work of clients nothing of the proxy touches their servers,
//! until the next statement. They do so where that is wished, and where very many proxies share a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::cluster::Database;
use super::{Pool, catalog, health};

/// Whether one database's servers are left alone.
#[derive(Debug, Default)]
pub struct Sleep {
    is_asleep: AtomicBool,
    /// Whether it may be, as there are too many proxies.
    is_spare: AtomicBool,
    /// One wakes it, others wait for that.
    waking: tokio::sync::Mutex<()>,
}

impl Sleep {
    /// Whether nothing but a client's statement may touch its servers.
    pub fn is_asleep(&self) -> bool {
        self.is_asleep.load(Ordering::Acquire)
    }

    /// Whether a statement wakes it just now.
    pub fn is_waking(&self) -> bool {
        self.waking.try_lock().is_err()
    }

    /// Whether this proxy had better leave the servers to others while it has no clients for them.
    pub fn is_spare(&self) -> bool {
        self.is_spare.load(Ordering::Relaxed)
    }

    pub fn set_spare(&self, is_spare: bool) {
        self.is_spare.store(is_spare, Ordering::Relaxed);
    }

    /// From now on nothing may.
    pub fn begin(&self) {
        self.is_asleep.store(true, Ordering::Release);
    }

    /// From now on all may.
    pub fn end(&self) {
        self.is_asleep.store(false, Ordering::Release);
    }
}

/// Since when nobody works in a database.
#[derive(Debug, Default)]
pub struct Idleness {
    /// The statements so far, and since when there are no more.
    seen: Option<(u64, Instant)>,
}

impl Idleness {
    /// For how long nothing has been done, as of `now`: `statements` are those since the start, `is_busy` is
    /// whether one runs or a server is held.
    pub fn look(&mut self, statements: u64, is_busy: bool, now: Instant) -> Duration {
        match self.seen {
            Some((before, since)) if before == statements && !is_busy => now - since,
            _ => {
                self.seen = Some((statements, now));
                Duration::ZERO
            }
        }
    }
}

/// Whether clients hold servers of a database, listen in it, or have left something prepared.
pub fn is_busy(database: &Database) -> bool {
    database.hosts().any(|it| it.outstanding() > 0)
        || database.state.listen.is_wanted()
        || !database.state.in_doubt.all().is_empty()
}

/// Closes all connections to a database's servers that nobody holds, the control plane's too. Nobody sees then what
/// becomes of a replica: it counts anew.
pub fn leave(database: &Database) {
    for host in database.hosts() {
        host.replayed.forget();
        host.control.close_idle();
        host.pools().iter().for_each(Pool::close_idle);
    }
}

/// Wakes a database for a statement: its hosts are checked and its schema is read again. What cannot be
/// reached is for the statement to find out. Gives whether hosts have other roles than before.
pub async fn wake(database: &Database, timeout: Duration) -> bool {
    let sleep = &database.state.sleep;
    let _one = sleep.waking.lock().await;
    if !sleep.is_asleep() {
        return false;
    }
    let begun = Instant::now();
    let mut checks = JoinSet::new();
    for shard in database.shards.values() {
        for host in shard.hosts() {
            let (host, log) = (Arc::clone(host), Arc::clone(&shard.log));
            let state = Arc::clone(&shard.state);
            checks.spawn(async move {
                let alarm = state.alarms();
                let sight = health::check(&host, &log, timeout).await;
                state.note(&host.address, sight, alarm)
            });
        }
    }
    let checked = async {
        let mut has_changed = false;
        while let Some(noted) = checks.join_next().await {
            has_changed |= noted.unwrap_or_default();
        }
        has_changed
    };
    let (loaded, has_changed) = tokio::join!(catalog::refresh(database), checked);
    sleep.end();
    let name = &database.config.name;
    match loaded {
        Ok(()) => tracing::info!(database = name, took = ?begun.elapsed(), "awake again"),
        Err(error) => {
            tracing::warn!(database = name, %error, "awake again, but without its schema");
        }
    }
    has_changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_begins_the_time_anew() {
        let (start, mut idleness) = (Instant::now(), Idleness::default());
        for (second, statements, is_busy, expected) in [
            (0, 7, false, 0),
            (5, 7, false, 5),
            (6, 7, true, 0),
            (9, 7, false, 3),
            (10, 8, false, 0),
            (20, 8, false, 10),
        ] {
            let now = start + Duration::from_secs(second);
            let idle = idleness.look(statements, is_busy, now);
            assert_eq!(idle, Duration::from_secs(expected), "at {second} s");
        }
    }
}
