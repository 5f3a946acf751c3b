//! The connections to one server (host and port), over the pools of all users and databases.
//!
//! As long as the server is not full every pool looks after itself. A full one is shared so: whoever
//! has no connection gets the place of the one that is idle for longest, whosesoever it is; if none is
//! idle, the place of the next that is given back goes to whoever has waited longest, unless that
//! user's pool has its fair part already.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::budget::Told;
use super::full::TurnedAway;
use super::pool::Pool;
use crate::net::Moment;

/// Stands for no limit.
pub(super) const UNLIMITED: usize = usize::MAX;

/// A connection that is idle for so long can be spared.
pub(super) const SPARE: Duration = Duration::from_millis(100);

/// One server's account.
#[derive(Default)]
pub struct Quota {
    /// The least of those below.
    limit: AtomicUsize,
    /// `pool.host_size`.
    configured: AtomicUsize,
    /// This proxy's part of what the server has for all.
    budget: AtomicUsize,
    /// While the server turns connections away.
    pub(super) cap: AtomicUsize,
    pub(super) turned_away: TurnedAway,
    /// Held while one of them changes.
    bounding: Mutex<()>,
    told: Mutex<Told>,
    /// Whether it is known if others share the server.
    is_known: AtomicBool,
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
        for it in [&quota.limit, &quota.configured, &quota.budget, &quota.cap] {
            it.store(UNLIMITED, Ordering::Relaxed);
        }
        Arc::new(quota)
    }

    /// Changes the limit; who may go on now does.
    pub fn set_limit(&self, limit: Option<usize>) {
        self.bound(&self.configured, limit);
    }

    /// Changes this proxy's part of the server; idle connections beyond it are closed.
    pub fn set_budget(&self, budget: Option<usize>) {
        self.bound(&self.budget, budget);
        while self.is_over() {
            let pools = self.pools();
            let idle = pools.iter().filter_map(|it| it.idle_since().map(|(since, _)| (since, it)));
            if !idle.min_by_key(|(since, _)| *since).is_some_and(|(_, it)| it.evict()) {
                return;
            }
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// This proxy's part of the server, if proxies share it.
    pub fn budget(&self) -> Option<usize> {
        Some(self.budget.load(Ordering::Relaxed)).filter(|it| *it != UNLIMITED)
    }

    pub(super) fn bound(&self, one: &AtomicUsize, limit: Option<usize>) {
        {
            let _one_at_a_time = self.bounding.lock();
            one.store(limit.unwrap_or(UNLIMITED), Ordering::Relaxed);
            let all = [&self.configured, &self.budget, &self.cap];
            let least = all.iter().map(|it| it.load(Ordering::Relaxed)).min();
            self.limit.store(least.unwrap_or(UNLIMITED), Ordering::Relaxed);
        }
        self.serve();
    }

    /// The key of the limit that is in force; none if that is the server's own.
    pub(super) fn what_bounds(&self) -> Option<&'static str> {
        let of = |it: &AtomicUsize| it.load(Ordering::Relaxed);
        let (configured, budget, cap) = (of(&self.configured), of(&self.budget), of(&self.cap));
        match () {
            () if cap < configured.min(budget) => None,
            () if budget < configured => Some("pool.budget"),
            () => Some("pool.host_size"),
        }
    }

    /// What bounds the number of connections, for whoever has waited in vain; and what the server said.
    pub(super) fn explain(&self) -> (String, Option<String>) {
        let of = |it: &AtomicUsize| Some(it.load(Ordering::Relaxed)).filter(|it| *it != UNLIMITED);
        let mut text = String::new();
        if let Some(limit) = of(&self.configured) {
            text.push_str(&format!(" and pool.host_size = {limit}"));
        }
        if let Some(part) = of(&self.budget) {
            text.push_str(&format!(" and {part} of the server's connections (pool.budget)"));
        }
        (text, self.turned_away.why())
    }

    /// Connections that sessions use, or wait for and could have.
    pub fn needed(&self) -> usize {
        self.pools().iter().map(|it| it.needed()).sum()
    }

    /// Sessions that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// What is known of how proxies share the server.
    pub fn told(&self) -> Told {
        self.told.lock().clone()
    }

    /// Whether somebody has asked, or tried to.
    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Notes that somebody has asked whether others share the server, or tried to.
    pub fn note_known(&self) {
        self.is_known.store(true, Ordering::Relaxed);
    }

    /// Notes what is known of how proxies share the server.
    pub fn tell(&self, told: Told) {
        *self.told.lock() = told;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_is_reached_is_the_least() {
        let quota = Quota::new();
        quota.set_limit(Some(9));
        assert_eq!(quota.what_bounds(), Some("pool.host_size"));
        quota.set_budget(Some(7));
        assert_eq!(quota.what_bounds(), Some("pool.budget"));
        quota.bound(&quota.cap, Some(3));
        assert_eq!(quota.what_bounds(), None);
    }
}
