//! One bounded account of server connections per (user, database, host).
//!
//! Limits, waiters and numbers are global; idle servers lie with the data-plane thread that used
//! them last and move to another thread only when that one has none and the account is full.
//! Whoever waits is served first come, first served, up to a deadline.
#![expect(clippy::vec_box, reason = "servers are large and move often")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::lease::{Lease, Slot};
use super::quota::{Quota, SPARE};
use crate::error::{PgError, sqlstate};
use crate::metrics::HostMetrics;
use crate::server::{Server, Target, Turn};

/// The limits of a pool; replaced as a whole by a reload, connections stay.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolLimits {
    pub size: usize,
    pub wait_timeout: Duration,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_lifetime: Duration,
    pub check_after: Duration,
    pub prepared_statements: usize,
}

/// Server connections of one user of one database to one host.
pub struct Pool {
    pub target: Target,
    pub limits: ArcSwap<PoolLimits>,
    pub metrics: HostMetrics,
    pub numbers: PoolNumbers,
    /// Shared with the other pools to this server.
    pub quota: Arc<Quota>,
    /// Connections in use at the host, of all its pools.
    pub(super) host_outstanding: Arc<AtomicUsize>,
    state: Mutex<State>,
}

/// What SHOW POOLS tells beside the state.
#[derive(Debug, Default)]
pub struct PoolNumbers {
    /// Leases since the start.
    pub leases: AtomicU64,
    /// Leases that had to wait.
    pub waits: AtomicU64,
    /// Waits that ended in an error.
    pub timeouts: AtomicU64,
    /// Sum of the waits, in microseconds.
    pub wait_us: AtomicU64,
    /// Connections in use now.
    pub outstanding: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// By thread; the most recently used last.
    idle: Vec<Vec<Box<Server>>>,
    /// Connections that exist or are being made.
    open: usize,
    waiters: VecDeque<Waiter>,
    is_paused: bool,
    is_closed: bool,
}

struct Waiter {
    grant: oneshot::Sender<Grant>,
    /// Its place among all who wait for this server.
    place: u64,
}

/// Somebody in the line, who leaves it when dropped.
struct Queued<'a> {
    pool: &'a Pool,
    place: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        let before = state.waiters.len();
        state.waiters.retain(|it| it.place != self.place);
        self.pool.quota.unqueue(before - state.waiters.len());
    }
}

/// What a waiter is given; both give themselves back when dropped.
enum Grant {
    Server(Lease),
    Slot(Slot),
}

/// A moment's numbers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolState {
    pub open: usize,
    pub idle: usize,
    pub waiting: usize,
    pub is_paused: bool,
}

enum Next {
    Idle(Box<Server>),
    Dial,
    Wait(oneshot::Receiver<Grant>, u64),
}

impl Pool {
    /// An empty pool; connections are made when needed.
    pub fn new(
        target: Target,
        limits: PoolLimits,
        metrics: HostMetrics,
        host_outstanding: Arc<AtomicUsize>,
        quota: Arc<Quota>,
    ) -> Arc<Self> {
        let pool = Arc::new(Self {
            target,
            limits: ArcSwap::from_pointee(limits),
            metrics,
            numbers: PoolNumbers::default(),
            quota,
            host_outstanding,
            state: Mutex::new(State::default()),
        });
        pool.quota.join(&pool);
        pool
    }

    /// Takes a connection: an idle one of this thread, a new one, one of another thread, or, when
    /// all are in use, the next that becomes free.
    ///
    /// # Errors
    /// 53300 after `wait_timeout`, naming the limit; 57P03 or 28xxx if a new connection fails.
    pub async fn take(self: &Arc<Self>, thread: usize) -> Result<Lease, PgError> {
        self.numbers.leases.fetch_add(1, Ordering::Relaxed);
        loop {
            let lease = match self.next(thread)? {
                Next::Idle(server) => self.lease(server),
                Next::Dial => return self.dial(Slot::new(Arc::clone(self)), thread).await,
                Next::Wait(grant, place) => match self.wait(grant, place).await? {
                    Grant::Server(lease) => lease,
                    Grant::Slot(slot) => return self.dial(slot, thread).await,
                },
            };
            if let Some(lease) = self.checked(lease, thread).await {
                return Ok(lease);
            }
        }
    }

    /// Leases this very server, if nobody has had it since.
    pub async fn take_again(self: &Arc<Self>, thread: usize, turn: Turn) -> Option<Lease> {
        let server = {
            let mut state = self.state.lock();
            let idle = state.idle.get_mut(thread)?;
            let at = idle.iter().position(|it| it.turn() == turn)?;
            idle.swap_remove(at)
        };
        self.numbers.leases.fetch_add(1, Ordering::Relaxed);
        self.checked(self.lease(server), thread).await
    }

    fn next(&self, thread: usize) -> Result<Next, PgError> {
        let size = self.limits.load().size;
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(self.closed());
        }
        if !state.is_paused && state.waiters.is_empty() {
            if let Some(server) = state.idle.get_mut(thread).and_then(Vec::pop) {
                return Ok(Next::Idle(server));
            }
            if state.open < size {
                if self.quota.try_open() {
                    state.open += 1;
                    return Ok(Next::Dial);
                }
                self.metrics.limits.reached("pool.host_size");
            }
            if let Some(server) = state.idle.iter_mut().find_map(Vec::pop) {
                return Ok(Next::Idle(server));
            }
        }
        let (grant, wait) = oneshot::channel();
        if state.open >= size {
            self.metrics.limits.reached("pool.size");
        }
        self.numbers.waits.fetch_add(1, Ordering::Relaxed);
        let place = self.quota.queue();
        state.waiters.push_back(Waiter { grant, place });
        Ok(Next::Wait(wait, place))
    }

    async fn wait(
        self: &Arc<Self>,
        grant: oneshot::Receiver<Grant>,
        place: u64,
    ) -> Result<Grant, PgError> {
        let queued = Queued { pool: self, place };
        let (begin, deadline) = (Instant::now(), self.limits.load().wait_timeout);
        let granted = tokio::time::timeout(deadline, self.in_line(grant)).await;
        let waited = begin.elapsed();
        self.numbers.wait_us.fetch_add(waited.as_micros() as u64, Ordering::Relaxed);
        self.metrics.wait.observe(waited.as_secs_f64());
        drop(queued);
        match granted {
            Ok(Ok(grant)) => Ok(grant),
            Ok(Err(_)) => Err(self.closed()),
            Err(_) => {
                self.numbers.timeouts.fetch_add(1, Ordering::Relaxed);
                Err(self.timed_out(deadline))
            }
        }
    }

    /// Waits for a grant. A server with a limit may have room all the same, or somebody's idle
    /// connection, at once or in a moment.
    async fn in_line(
        &self,
        mut grant: oneshot::Receiver<Grant>,
    ) -> Result<Grant, oneshot::error::RecvError> {
        while self.quota.limit().is_some() {
            self.quota.serve();
            if let Ok(granted) = tokio::time::timeout(SPARE, &mut grant).await {
                return granted;
            }
        }
        grant.await
    }

    fn timed_out(&self, deadline: Duration) -> PgError {
        let state = self.state();
        let what = if state.is_paused { "the pool is paused" } else { "all are in use" };
        let host_size = match self.quota.limit() {
            Some(limit) => format!(" and pool.host_size = {limit}"),
            None => String::new(),
        };
        PgError::limit(
            sqlstate::TOO_MANY_CONNECTIONS,
            format!("no server connection became free within pool.wait_timeout = {deadline:?}"),
            &"pool.wait_timeout",
            crate::config::show_duration(deadline),
        )
        .detail(format!(
            "{what}: pool.size = {}{host_size} for user {:?} of database {:?} on {}, {} sessions are waiting",
            self.limits.load().size,
            self.target.client_user,
            self.target.database,
            self.target.host,
            state.waiting,
        ))
        .hint("shorten transactions, or raise pool.size or pool.wait_timeout")
    }

    fn closed(&self) -> PgError {
        PgError::new(
            sqlstate::CANNOT_CONNECT_NOW,
            format!("server {} was taken out of the configuration", self.target.host),
        )
        .hint("repeat the transaction")
    }

    /// An idle connection of this thread, if nobody waits for one and it needs no check that takes
    /// time.
    pub fn take_now(self: &Arc<Self>, thread: usize, now: Instant) -> Option<Lease> {
        let limits = self.limits.load();
        let mut server = {
            let mut state = self.state.lock();
            if state.is_closed || state.is_paused || !state.waiters.is_empty() {
                return None;
            }
            let idle = state.idle.get_mut(thread)?;
            let rest = now.saturating_duration_since(idle.last()?.used);
            if is_past(limits.check_after, rest) {
                return None;
            }
            idle.pop()?
        };
        // Its age was looked at when it was given back, and is by `reap`.
        if !server.is_alive() {
            drop(server);
            self.free_slot();
            return None;
        }
        self.numbers.leases.fetch_add(1, Ordering::Relaxed);
        Some(self.lease(server))
    }

    fn lease(self: &Arc<Self>, server: Box<Server>) -> Lease {
        Lease::new(server, Arc::clone(self))
    }

    async fn dial(self: &Arc<Self>, slot: Slot, thread: usize) -> Result<Lease, PgError> {
        let limits = self.limits.load_full();
        match Server::connect(&self.target, limits.connect_timeout, limits.prepared_statements)
            .await
        {
            Ok(mut server) => {
                server.thread = thread;
                server.draw_lifetime(limits.max_lifetime);
                slot.fill();
                Ok(self.lease(Box::new(server)))
            }
            Err(error) => {
                self.metrics.connect_errors.inc();
                Err(error)
            }
        }
    }

    /// The lease, ready for this thread, or `None` if its server has gone or is too old.
    async fn checked(&self, mut lease: Lease, thread: usize) -> Option<Lease> {
        let limits = self.limits.load_full();
        let server = lease.server();
        if is_past(limits.max_lifetime, server.aged_from.elapsed()) || !server.adopt(thread) {
            lease.discard();
            return None;
        }
        let stale = is_past(limits.check_after, server.used.elapsed());
        if !server.is_alive() || (stale && !server.ping(limits.connect_timeout).await) {
            lease.discard();
            return None;
        }
        Some(lease)
    }

    /// Takes a clean server back: to the first waiter, else to its thread's idle ones.
    pub(super) fn give_back(self: &Arc<Self>, mut server: Box<Server>, now: Instant) {
        let limits = self.limits.load();
        server.used = now;
        let age = now.saturating_duration_since(server.aged_from);
        let expired = is_past(limits.max_lifetime, age);
        if expired {
            self.metrics.limits.reached("pool.max_lifetime");
        }
        if expired || self.quota.is_over() || (self.quota.is_pressed() && self.has_rival()) {
            drop(server);
            return self.free_slot();
        }
        loop {
            let mut state = self.state.lock();
            if state.is_closed || state.open > limits.size {
                drop(state);
                drop(server);
                return self.free_slot();
            }
            let waiter = if state.is_paused { None } else { self.first(&mut state) };
            let Some(waiter) = waiter else {
                let thread = server.thread;
                if state.idle.len() <= thread {
                    state.idle.resize_with(thread + 1, Vec::new);
                }
                state.idle[thread].push(server);
                drop(state);
                // Somebody may have begun to wait just before.
                if self.quota.is_pressed() {
                    self.quota.serve();
                }
                return;
            };
            drop(state);
            match waiter.grant.send(Grant::Server(self.lease(server))) {
                Ok(()) => return,
                Err(Grant::Server(lease)) => server = lease.into_server(),
                Err(Grant::Slot(_)) => unreachable!("a server was sent"),
            }
        }
    }

    /// A connection has ended: its place goes to whoever waits, or stays free.
    pub(super) fn free_slot(&self) {
        self.state.lock().open -= 1;
        self.quota.close();
    }

    /// The first in the line, taken out of it.
    fn first(&self, state: &mut State) -> Option<Waiter> {
        let waiter = state.waiters.pop_front()?;
        self.quota.unqueue(1);
        Some(waiter)
    }

    fn has_rival(&self) -> bool {
        let (open, line) = {
            let state = self.state.lock();
            (state.open, state.waiters.front().map(|it| it.place))
        };
        self.quota.has_rival(self, open, line)
    }

    /// Who could open a connection now: where the first stands in the line for this server, and how
    /// many connections the pool has.
    pub(super) fn line(&self) -> Option<(u64, usize)> {
        let state = self.state.lock();
        let may_open = !state.is_paused && !state.is_closed && state.open < self.limits.load().size;
        let first = state.waiters.front().filter(|_| may_open)?;
        Some((first.place, state.open))
    }

    /// Gives a place that was taken on the server's account to the first in the line; `false` if there
    /// is nobody who could use it.
    pub(super) fn grant(self: &Arc<Self>) -> bool {
        loop {
            let mut state = self.state.lock();
            if state.is_paused || state.is_closed || state.open >= self.limits.load().size {
                return false;
            }
            let Some(waiter) = self.first(&mut state) else { return false };
            state.open += 1;
            drop(state);
            match waiter.grant.send(Grant::Slot(Slot::new(Arc::clone(self)))) {
                Ok(()) => return true,
                Err(Grant::Slot(slot)) => slot.fill(),
                Err(Grant::Server(_)) => unreachable!("a slot was sent"),
            }
            self.state.lock().open -= 1;
        }
    }

    /// Since when the pool's longest idle server is, and how many connections there are.
    pub(super) fn idle_since(&self) -> Option<(Instant, usize)> {
        let state = self.state.lock();
        let since = state.idle.iter().filter_map(|it| it.first()).map(|it| it.used).min()?;
        Some((since, state.open))
    }

    /// Closes the longest idle server, whose place on the server's account stays taken.
    pub(super) fn evict(&self) -> bool {
        let mut state = self.state.lock();
        let oldest = state.idle.iter_mut().filter(|it| !it.is_empty()).min_by_key(|it| it[0].used);
        let Some(oldest) = oldest else { return false };
        let server = oldest.remove(0);
        state.open -= 1;
        drop(state);
        drop(server);
        true
    }

    /// Closes servers that are idle or alive for too long.
    pub fn reap(self: &Arc<Self>) {
        let limits = self.limits.load();
        let (mut gone, mut old, mut unused) = (Vec::new(), 0, 0);
        for idle in &mut self.state.lock().idle {
            gone.extend(idle.extract_if(.., |server| {
                let is_old = is_past(limits.max_lifetime, server.aged_from.elapsed());
                let is_unused = is_past(limits.idle_timeout, server.used.elapsed());
                old += u64::from(is_old);
                unused += u64::from(is_unused && !is_old);
                is_old || is_unused || !server.is_alive()
            }));
        }
        if !gone.is_empty() {
            self.metrics.limits.of("pool.max_lifetime").inc_by(old);
            self.metrics.limits.of("pool.idle_timeout").inc_by(unused);
        }
        self.drop_servers(gone);
    }

    /// Closes every idle server: after PAUSE, or when the host's name means another server.
    pub fn close_idle(self: &Arc<Self>) {
        let gone = self.state.lock().idle.iter_mut().flat_map(std::mem::take).collect();
        self.drop_servers(gone);
    }

    fn drop_servers(self: &Arc<Self>, gone: Vec<Box<Server>>) {
        for server in gone {
            drop(server);
            self.free_slot();
        }
    }

    /// Takes the pool out of use: idle servers close, leased ones when given back, waiters fail.
    pub fn close(self: &Arc<Self>) {
        let waiters = {
            let mut state = self.state.lock();
            state.is_closed = true;
            std::mem::take(&mut state.waiters)
        };
        self.quota.unqueue(waiters.len());
        drop(waiters);
        self.close_idle();
    }

    /// PAUSE: nobody is given a server until [`Self::resume`].
    pub fn pause(self: &Arc<Self>) {
        self.state.lock().is_paused = true;
        self.close_idle();
    }

    /// RESUME: those who waited are served.
    pub fn resume(self: &Arc<Self>) {
        self.state.lock().is_paused = false;
        self.serve_waiters();
    }

    /// Gives free places to waiters: after RESUME and after a raised limit.
    pub fn serve_waiters(self: &Arc<Self>) {
        self.quota.serve();
    }

    /// The numbers of this moment.
    pub fn state(&self) -> PoolState {
        let state = self.state.lock();
        PoolState {
            open: state.open,
            idle: state.idle.iter().map(Vec::len).sum(),
            waiting: state.waiters.iter().filter(|it| !it.grant.is_closed()).count(),
            is_paused: state.is_paused,
        }
    }

    /// Describes each idle server: for SHOW SERVERS.
    pub fn idle_servers<T>(&self, describe: impl Fn(&Server) -> T) -> Vec<T> {
        self.state.lock().idle.iter().flatten().map(|server| describe(server)).collect()
    }
}

/// Whether a limit (zero: none) has passed.
fn is_past(limit: Duration, age: Duration) -> bool {
    !limit.is_zero() && age >= limit
}
