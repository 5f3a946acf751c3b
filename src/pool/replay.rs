//! Follows how far replicas have replayed: with each health check, and closely while somebody wants to
//! read what was just written.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::cluster::Host;
use super::control::ControlError;
use super::sleep::Sleep;
use super::writes::Writes;
use crate::balance::positions::{Lsn, Positions, Sample, Seen};

/// Where a server is: the end of its log on a primary, what it has replayed on a replica.
const POSITION: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
    ELSE pg_catalog.pg_current_wal_insert_lsn() END";
/// How soon a server is asked again at the earliest: while somebody waits, and while nobody does.
const PACE: Duration = Duration::from_millis(1);
const CALM_PACE: Duration = Duration::from_millis(10);
/// How soon at the latest, while somebody wants to know.
const SLOW_PACE: Duration = Duration::from_millis(50);
/// How long a server may take to say where it is.
const DEADLINE: Duration = Duration::from_secs(2);
/// After an error.
const REST: Duration = Duration::from_millis(200);
/// How often it is looked whether the host is still there.
const STILL_THERE: Duration = Duration::from_secs(5);

/// What is known of the log of one shard's primary.
pub struct Log {
    writes: Arc<Writes>,
    sleep: Arc<Sleep>,
    state: Mutex<State>,
    /// The highest ticket, and position, that a reader wants a replica to have seen.
    wanted: AtomicU64,
    wanted_lsn: AtomicU64,
    /// Readers that wait for it.
    waiting: AtomicUsize,
    /// Somebody wants more than before.
    demand: Notify,
    /// The primary has said more, or a replica has replayed more.
    progress: Notify,
}

#[derive(Default)]
struct State {
    /// The primary.
    source: Weak<Host>,
    /// The timeline that it writes, as far as it is known.
    line: u32,
    positions: Positions,
}

/// How far one replica is.
#[derive(Debug)]
pub struct Replayed {
    /// Writes up to this ticket can be read there.
    ticket: AtomicU64,
    lsn: AtomicU64,
    /// Below zero: not known, and that it is at least -1 - this.
    lag_ms: AtomicI64,
    lag_bytes: AtomicI64,
    /// How long a write takes from the primary to here, in milliseconds, smoothed.
    delay_ms: AtomicU64,
    /// The timeline that it has reached, as far as it is known.
    line: AtomicU32,
    is_followed: AtomicBool,
}

impl Default for Replayed {
    fn default() -> Self {
        Self {
            ticket: AtomicU64::new(0),
            lsn: AtomicU64::new(0),
            lag_ms: AtomicI64::new(-1),
            lag_bytes: AtomicI64::new(-1),
            delay_ms: AtomicU64::new(0),
            line: AtomicU32::new(0),
            is_followed: AtomicBool::new(false),
        }
    }
}

impl Replayed {
    /// Whether a write with this ticket, and everything below this position, can be read.
    pub fn has(&self, ticket: u64, lsn: Lsn) -> bool {
        self.ticket.load(Ordering::Acquire) >= ticket && self.lsn.load(Ordering::Acquire) >= lsn.0
    }

    /// How far behind it is at most, in time.
    pub fn lag(&self) -> Option<Duration> {
        u64::try_from(self.lag_ms.load(Ordering::Relaxed)).ok().map(Duration::from_millis)
    }

    /// How far behind it is at least, as far as is known.
    pub fn lag_at_least(&self) -> Duration {
        let lag = self.lag_ms.load(Ordering::Relaxed);
        Duration::from_millis(if lag < 0 { -1 - lag } else { lag } as u64)
    }

    /// Whether writes are mostly seen here within `limit`.
    pub fn is_near(&self, limit: Duration) -> bool {
        self.delay() <= limit
    }

    /// How far behind it is, in bytes of the log.
    pub fn lag_bytes(&self) -> Option<u64> {
        u64::try_from(self.lag_bytes.load(Ordering::Relaxed)).ok()
    }

    /// What it has replayed.
    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn.load(Ordering::Acquire))
    }

    /// How long writes take to be seen here.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))
    }

    /// Its connections were lost: a replica that is started anew may be where it was long before.
    pub fn forget(&self) {
        self.ticket.store(0, Ordering::Release);
        self.lsn.store(0, Ordering::Release);
        self.lag_ms.store(-1, Ordering::Relaxed);
    }

    /// The timeline that it says it has reached.
    pub fn reach(&self, line: Option<u32>) {
        self.line.store(line.unwrap_or(0), Ordering::Relaxed);
    }

    fn note(&self, lsn: Lsn, seen: Option<Seen>, now: u64) {
        if self.lsn.swap(lsn.0, Ordering::AcqRel) > lsn.0 {
            // It has gone back, or an older answer comes late.
            self.ticket.store(0, Ordering::Release);
        }
        let Some(seen) = seen else { return };
        self.lag_bytes.store(seen.lag_bytes as i64, Ordering::Relaxed);
        let lag = seen.lag_ms as i64;
        self.lag_ms.store(if seen.is_known { lag } else { -1 - lag }, Ordering::Relaxed);
        let before = self.ticket.fetch_max(seen.ticket, Ordering::AcqRel);
        if seen.ticket > before {
            let took = now.saturating_sub(seen.at);
            let old = self.delay_ms.load(Ordering::Relaxed);
            self.delay_ms.store((old * 3 + took) / 4, Ordering::Relaxed);
        }
    }

    /// A write of this age is not seen yet.
    fn note_late(&self, age: u64) {
        self.delay_ms.fetch_max(age, Ordering::Relaxed);
    }
}

impl Log {
    /// Of a shard; `writes` gives the tickets, `sleep` tells when nobody is asked.
    pub fn new(writes: &Arc<Writes>, sleep: &Arc<Sleep>) -> Arc<Self> {
        Arc::new(Self {
            writes: Arc::clone(writes),
            sleep: Arc::clone(sleep),
            state: Mutex::default(),
            wanted: AtomicU64::new(0),
            wanted_lsn: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            demand: Notify::new(),
            progress: Notify::new(),
        })
    }

    /// Whether the database's servers are left alone.
    pub fn is_asleep(&self) -> bool {
        self.sleep.is_asleep()
    }

    /// Before a server is asked where it is: the writes that have ended by then.
    pub fn before(&self) -> u64 {
        self.writes.issued()
    }

    /// The shard's primary from now on, and the timeline that it writes: what another one says tells nothing
    /// any more, also not to whoever still looks at an old snapshot.
    pub fn lead(&self, primary: &Arc<Host>, line: Option<u32>) {
        let mut state = self.state.lock();
        if !state.is_source(primary) {
            let (source, line) = (Arc::downgrade(primary), line.unwrap_or(0));
            *state = State { source, line, positions: Positions::default() };
        }
    }

    /// The primary says that it writes this timeline.
    pub fn write_line(&self, primary: &Host, line: Option<u32>) {
        let mut state = self.state.lock();
        if state.is_source(primary) {
            state.line = line.unwrap_or(0);
        }
    }

    /// A server has said where it is. `before` is [`Self::before`] of the time when it was not asked yet.
    pub fn note(&self, host: &Host, lsn: Lsn, before: u64) {
        let mut state = self.state.lock();
        let now = self.writes.now();
        if state.is_source(host) {
            state.positions.note(Sample { ticket: before, lsn: lsn.end_of_records(), at: now });
        } else if !host.is_primary {
            host.replayed.note(lsn, state.seen_by(&host.replayed, lsn), now);
        }
        drop(state);
        self.progress.notify_waiters();
    }

    /// Somebody would read from a replica that has seen this: closer looks from now on.
    pub fn want(&self, ticket: u64, lsn: Lsn) {
        let is_new = self.wanted.fetch_max(ticket, Ordering::AcqRel) < ticket;
        if self.wanted_lsn.fetch_max(lsn.0, Ordering::AcqRel) < lsn.0 || is_new {
            self.demand.notify_waiters();
        }
    }

    /// Waits until `is_there` says so, looking whenever a server has said more; `false` after `limit`.
    pub async fn wait(&self, limit: Duration, is_there: impl Fn() -> bool) -> bool {
        let _waiter = Waiter::new(&self.waiting);
        self.demand.notify_waiters();
        let waiting = async {
            loop {
                let mut progress = pin!(self.progress.notified());
                progress.as_mut().enable();
                if is_there() {
                    return;
                }
                progress.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.is_ok()
    }

    /// A position that holds every write up to a ticket; asks the primary if none is known.
    ///
    /// # Errors
    /// If the primary does not say.
    pub async fn position(&self, primary: &Host, ticket: u64) -> Result<Lsn, ControlError> {
        if let Some(known) = self.state.lock().positions.of_ticket(ticket) {
            return Ok(known.lsn);
        }
        let before = self.before();
        let lsn = ask(primary).await?;
        self.note(primary, lsn, before);
        Ok(lsn.end_of_records())
    }

    /// Whether this host should be asked again: a primary by what was not asked of it yet, a replica by
    /// what it can have replayed since.
    fn needs(&self, host: &Host) -> bool {
        if self.sleep.is_asleep() {
            return false;
        }
        let wanted = self.wanted.load(Ordering::Acquire);
        let state = self.state.lock();
        if host.is_primary {
            return wanted > 0 && state.positions.last().is_none_or(|it| it.ticket < wanted);
        }
        let replayed = &host.replayed;
        if replayed.lsn().0 < self.wanted_lsn.load(Ordering::Acquire) {
            return true;
        }
        if replayed.has(wanted, Lsn::default()) {
            return false;
        }
        let next = state.positions.after(replayed.lsn());
        if let Some(next) = next {
            replayed.note_late(self.writes.now().saturating_sub(next.at));
        }
        // Or the position is known and was reached, but not noted yet.
        next.is_some()
            || state.seen_by(replayed, replayed.lsn()).is_some_and(|it| it.ticket >= wanted)
    }
}

impl State {
    fn is_source(&self, host: &Host) -> bool {
        std::ptr::eq(self.source.as_ptr(), host)
    }

    /// What a replica has seen that has replayed up to here. On an older timeline than the primary's a position
    /// says nothing: another log leads there.
    fn seen_by(&self, replayed: &Replayed, lsn: Lsn) -> Option<Seen> {
        let line = replayed.line.load(Ordering::Relaxed);
        if line != 0 && line < self.line {
            replayed.lag_ms.store(-1, Ordering::Relaxed);
            return None;
        }
        self.positions.seen(lsn)
    }
}

/// Counts a reader that waits.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn ask(host: &Host) -> Result<Lsn, ControlError> {
    let asked = tokio::time::timeout(DEADLINE, host.control.rows(POSITION)).await;
    let rows = asked.map_err(|_| ControlError(format!("no answer within {DEADLINE:?}")))??;
    let said = rows.first().and_then(|row| row.first()?.as_deref());
    said.and_then(Lsn::parse).ok_or_else(|| ControlError("no position in its answer".into()))
}

/// Asks a host where it is for as long as somebody wants to know. To be spawned once; `None` if it was.
pub fn follow(host: &Arc<Host>, log: &Arc<Log>) -> Option<impl Future<Output = ()> + Send + use<>> {
    if host.replayed.is_followed.swap(true, Ordering::AcqRel) {
        return None;
    }
    let (host, log) = (Arc::downgrade(host), Arc::clone(log));
    Some(async move { while chase(&host, &log).await.is_some() {} })
}

/// One look when it is wanted; `None` once the host is gone.
async fn chase(host: &Weak<Host>, log: &Log) -> Option<()> {
    let waiting = log.wait_for_demand(|| host.upgrade().is_none_or(|it| log.needs(&it)));
    if tokio::time::timeout(STILL_THERE, waiting).await.is_err() {
        return host.upgrade().map(drop);
    }
    let mut pace = Duration::ZERO;
    loop {
        let host = host.upgrade()?;
        if !log.needs(&host) {
            return Some(());
        }
        let before = log.before();
        match ask(&host).await {
            Ok(lsn) => log.note(&host, lsn, before),
            Err(error) => {
                tracing::debug!(host = %host.address, %error, "a server does not say where it is");
                drop(host);
                tokio::time::sleep(REST).await;
                continue;
            }
        }
        // What takes long need not be looked at often.
        pace = (pace * 2).min(host.replayed.delay() / 4).clamp(PACE, SLOW_PACE);
        drop(host);
        log.pause(pace).await;
    }
}

impl Log {
    /// A pause between two looks; longer while nobody waits.
    async fn pause(&self, pace: Duration) {
        tokio::time::sleep(pace).await;
        let rest = tokio::time::sleep(CALM_PACE.saturating_sub(pace));
        let mut rest = pin!(rest);
        while self.waiting.load(Ordering::Acquire) == 0 {
            tokio::select! {
                () = &mut rest => return,
                () = self.demand.notified() => (),
            }
        }
    }

    /// Waits until `is_needed`, looking whenever somebody wants more or a server has said more.
    async fn wait_for_demand(&self, is_needed: impl Fn() -> bool) {
        loop {
            let mut demand = pin!(self.demand.notified());
            let mut progress = pin!(self.progress.notified());
            demand.as_mut().enable();
            progress.as_mut().enable();
            if is_needed() {
                return;
            }
            tokio::select! {
                () = demand => (),
                () = progress => (),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ticket: u64) -> Option<Seen> {
        Some(Seen { ticket, lag_ms: 0, is_known: true, lag_bytes: 0, at: 0 })
    }

    #[test]
    fn a_replica_that_goes_back_has_seen_less() {
        let replayed = Replayed::default();
        replayed.note(Lsn(30), seen(9), 0);
        assert!(replayed.has(9, Lsn(30)));
        replayed.note(Lsn(10), seen(4), 0);
        assert!(replayed.has(4, Lsn(10)) && !replayed.has(5, Lsn(0)));
        replayed.forget();
        assert!(!replayed.has(1, Lsn(0)) && replayed.lag().is_none());
    }
}
