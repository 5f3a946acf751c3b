//! The connections to one server (host and port), over the pools of all users and databases.
//!
//! As long as the server is not full every pool looks after itself. A full one is shared so: whoever
//! has no connection gets the place of the one that is idle for longest, whosesoever it is; if none is
//! idle, the place of the next that is given back goes to whoever has waited longest, unless that
//! user's pool has its fair part already.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::pool::Pool;
use crate::net::Moment;

/// Stands for no limit.
const UNLIMITED: usize = usize::MAX;

/// A connection that is idle for so long can be spared.
pub(super) const SPARE: Duration = Duration::from_millis(100);

/// One server's account.
#[derive(Default)]
pub struct Quota {
    limit: AtomicUsize,
    /// Connections that exist or are being made.
    open: AtomicUsize,
    /// Sessions that wait in any of the pools.
    waiting: AtomicUsize,
    /// The next one's place in the line.
    next: AtomicU64,
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl Quota {
    /// Of a server that nobody is connected to.
    pub fn new() -> Arc<Self> {
        let quota = Self::default();
        quota.limit.store(UNLIMITED, Ordering::Relaxed);
        Arc::new(quota)
    }

    /// Changes the limit; who may go on now does.
    pub fn set_limit(&self, limit: Option<usize>) {
        self.limit.store(limit.unwrap_or(UNLIMITED), Ordering::Relaxed);
        self.serve();
    }

    /// The limit, if there is one.
    pub fn limit(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|it| *it != UNLIMITED)
    }

    /// Connections that exist or are being made.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// A pool to this server, from now until it is dropped.
    pub(super) fn join(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.lock();
        pools.retain(|it| it.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    /// A place in the line.
    pub(super) fn queue(&self) -> u64 {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// So many have left the line.
    pub(super) fn unqueue(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
    }

    /// The right to open a connection, unless the server is full or others wait for one.
    pub(super) fn try_open(&self) -> bool {
        let is_free = self.limit().is_none() || self.waiting.load(Ordering::Relaxed) == 0;
        is_free && self.acquire()
    }

    fn acquire(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |open: usize| (open < limit).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// A connection has ended, or was not made: its place is for whoever waits.
    pub(super) fn close(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.serve();
    }

    /// Whether there are more connections than a lowered limit allows.
    pub(super) fn is_over(&self) -> bool {
        self.open() > self.limit.load(Ordering::Relaxed)
    }

    /// Whether somebody waits and the server is full.
    pub(super) fn is_pressed(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
            && self.open() >= self.limit.load(Ordering::Relaxed)
    }

    /// Whether another pool has more right to a connection than the one it is given back to, which
    /// has so many and whose own line begins there.
    pub(super) fn has_rival(&self, pool: &Pool, open: usize, line: Option<u64>) -> bool {
        let others = self.pools();
        others.iter().filter(|it| !std::ptr::eq(&***it, pool)).any(|other| {
            let Some((place, has)) = other.line() else { return false };
            match line {
                None => yields(open, has),
                // Not beyond an even share: who has one already does not take the other's last.
                Some(own) => place < own && (has == 0 || has + 1 < open),
            }
        })
    }

    /// Gives places to those who wait, the longest first, as far as there are any: free ones, then
    /// those of idle connections.
    pub(super) fn serve(&self) {
        while self.waiting.load(Ordering::Relaxed) > 0 {
            let pools = self.pools();
            let mut line: Vec<_> =
                pools.iter().filter_map(|it| it.line().map(|line| (line, it))).collect();
            line.sort_by_key(|((place, _), _)| *place);
            let served = line.iter().any(|((_, has), pool)| {
                (self.acquire() || self.evict(pool, *has, &pools)) && self.grant(pool)
            });
            if !served {
                return;
            }
        }
    }

    /// Gives a place that was taken to the first in a pool's line; or gives it back.
    fn grant(&self, pool: &Arc<Pool>) -> bool {
        let is_granted = pool.grant();
        if !is_granted {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        is_granted
    }

    /// Closes the connection that is idle for longest, of those that `pool`, which has so many, may
    /// take away; its place stays taken.
    fn evict(&self, pool: &Arc<Pool>, has: usize, pools: &[Arc<Pool>]) -> bool {
        if self.is_over() {
            return false;
        }
        let others = pools.iter().filter(|it| !Arc::ptr_eq(it, pool));
        let idle = others.filter_map(|it| it.idle_since().map(|(since, open)| (since, open, it)));
        let may_take = |since: Moment, open| yields(open, has) || since.elapsed() >= SPARE;
        let idle = idle.filter(|(since, open, _)| may_take(*since, *open));
        idle.min_by_key(|(since, ..)| *since).is_some_and(|(.., it)| it.evict())
    }

    fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// Whether a pool with `open` connections, which it does not need now, gives one to a pool that waits
/// and has `has`.
fn yields(open: usize, has: usize) -> bool {
    has == 0 || has < open
}
