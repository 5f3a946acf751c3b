//! One bounded account of server connections per (user, database, host).
//!
//! Limits, waiters and numbers are global; idle servers lie with the data-plane thread that used
//! them last and move to another thread only when that one has none and the account is full.
//! Whoever waits is served first come, first served, up to a deadline.
#![expect(clippy::vec_box, reason = "servers are large and move often")]

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::lease::{Lease, Slot};
use super::line::{Grant, Line, Place, Waiter};
use super::quota::{Quota, SPARE};
use super::replay::Replayed;
use super::shard_state::ShardState;
use super::standing::Standing;
use crate::error::{PgError, sqlstate};
use crate::metrics::HostMetrics;
use crate::net::{Limit, Moment};
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
    /// Postgres' `plan_cache_mode` of new connections; none: as the server has it.
    pub plan_cache_mode: Option<String>,
}

/// Server connections of one user of one database to one host.
pub struct Pool {
    pub target: Target,
    pub limits: ArcSwap<PoolLimits>,
    pub metrics: HostMetrics,
    pub numbers: PoolNumbers,
    /// Shared with the other pools to this server.
    pub quota: Arc<Quota>,
    /// Of the host, shared with its other pools.
    pub standing: Arc<Standing>,
    /// Of a primary: whom to tell that it seems to be lost.
    shard: Option<Arc<ShardState>>,
    /// Whether its connections are not to be used any more, those in use included.
    fence: ArcSwap<AtomicBool>,
    /// How far the host is, if it is a replica.
    pub replayed: Arc<Replayed>,
    pub(super) state: Mutex<State>,
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
    /// Connections that are rolled back, or reset, before anybody gets them again.
    pub cleaning: AtomicUsize,
}

pub(super) struct State {
    /// Of the limits, what every lease needs.
    pub(super) bounds: Bounds,
    /// By thread; the most recently used last.
    pub(super) idle: Vec<Vec<Box<Server>>>,
    /// Connections that exist or are being made.
    pub(super) open: usize,
    pub(super) line: Line,
    /// Those of the host's name, where it is looked up.
    addresses: Option<Arc<[IpAddr]>>,
    pub(super) is_paused: bool,
    pub(super) is_closed: bool,
}

impl State {
    /// Whether the host's name does not mean the server any more that this one is connected to.
    fn has_moved(&self, server: &Server) -> bool {
        self.addresses.as_ref().is_some_and(|it| !is_one_of(it, server))
    }
}

fn is_one_of(addresses: &[IpAddr], server: &Server) -> bool {
    server.cancel.peer().is_none_or(|it| addresses.contains(&it.ip().to_canonical()))
}

/// See [`PoolLimits`].
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) size: usize,
    check_after: Limit,
    max_lifetime: Limit,
}

impl Bounds {
    fn of(limits: &PoolLimits) -> Self {
        Self {
            size: limits.size,
            check_after: Limit::new(limits.check_after),
            max_lifetime: Limit::new(limits.max_lifetime),
        }
    }
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
    Wait(Place),
}

impl Pool {
    /// An empty pool; connections are made when needed.
    pub fn new(
        target: Target,
        limits: PoolLimits,
        metrics: HostMetrics,
        (standing, replayed): (Arc<Standing>, Arc<Replayed>),
        quota: Arc<Quota>,
        shard: Option<Arc<ShardState>>,
    ) -> Arc<Self> {
        let state = State {
            bounds: Bounds::of(&limits),
            idle: Vec::new(),
            open: 0,
            line: Line::default(),
            addresses: None,
            is_paused: false,
            is_closed: false,
        };
        let pool = Arc::new(Self {
            target,
            limits: ArcSwap::from_pointee(limits),
            metrics,
            numbers: PoolNumbers::default(),
            quota,
            standing,
            shard,
            fence: ArcSwap::default(),
            replayed,
            state: Mutex::new(state),
        });
        pool.quota.join(&pool);
        pool
    }

    /// Changes the limits; who may go on now does.
    pub fn set_limits(self: &Arc<Self>, limits: PoolLimits) {
        self.state.lock().bounds = Bounds::of(&limits);
        self.limits.store(Arc::new(limits));
        self.serve_waiters();
    }

    /// Takes a connection: an idle one of this thread, a new one, one of another thread, or, when
    /// all are in use, the next that becomes free.
    ///
    /// # Errors
    /// 53300 after `wait_timeout`, naming the limit; 57P03 or 28xxx if a new connection fails.
    pub async fn take(self: &Arc<Self>, thread: usize) -> Result<Lease, PgError> {
        self.numbers.leases.fetch_add(1, Ordering::Relaxed);
        // Since when the server has turned us away.
        let mut turned_away = None;
        loop {
            let slot = match self.next(thread)? {
                Next::Idle(server) => Err(self.lease(server)),
                Next::Dial => Ok(Slot::new(Arc::clone(self))),
                Next::Wait(place) => match self.wait(place, turned_away).await? {
                    Grant::Server(lease) => Err(lease),
                    Grant::Slot(slot) => Ok(slot),
                },
            };
            let lease = match slot {
                Err(lease) => lease,
                Ok(slot) => match Box::pin(self.dial(slot, thread)).await {
                    Err(error) if error.code == sqlstate::TOO_MANY_CONNECTIONS => {
                        turned_away.get_or_insert_with(Moment::now);
                        continue;
                    }
                    done => return done,
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

    /// As [`Self::take`], with what a place in the line has brought.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn redeem(self: &Arc<Self>, grant: Grant, thread: usize) -> Result<Lease, PgError> {
        let lease = match grant {
            Grant::Slot(slot) => match Box::pin(self.dial(slot, thread)).await {
                Err(error) if error.code == sqlstate::TOO_MANY_CONNECTIONS => {
                    return self.take(thread).await;
                }
                done => done?,
            },
            Grant::Server(lease) => match self.checked(lease, thread).await {
                Some(lease) => lease,
                None => return self.take(thread).await,
            },
        };
        self.numbers.leases.fetch_add(1, Ordering::Relaxed);
        Ok(lease)
    }

    fn next(self: &Arc<Self>, thread: usize) -> Result<Next, PgError> {
        let mut state = self.state.lock();
        let size = state.bounds.size;
        if state.is_closed {
            return Err(self.closed());
        }
        if !state.is_paused && state.line.is_empty() {
            if let Some(server) = state.idle.get_mut(thread).and_then(Vec::pop) {
                return Ok(Next::Idle(server));
            }
            if state.open < size {
                if self.quota.try_open() {
                    state.open += 1;
                    return Ok(Next::Dial);
                }
                if let Some(key) = self.quota.what_bounds() {
                    self.metrics.limits.reached(key);
                }
            }
            if let Some(server) = state.idle.iter_mut().find_map(Vec::pop) {
                return Ok(Next::Idle(server));
            }
        }
        Ok(Next::Wait(self.line_up(&mut state, thread, Moment::now())))
    }

    /// A new place at the end of the line.
    pub(super) fn line_up(
        self: &Arc<Self>,
        state: &mut State,
        thread: usize,
        now: Moment,
    ) -> Place {
        let (grant, wait) = oneshot::channel();
        if state.open >= state.bounds.size {
            self.metrics.full.inc();
        }
        self.numbers.waits.fetch_add(1, Ordering::Relaxed);
        let number = self.quota.queue();
        state.line.push(thread, Waiter::new(grant, number, now));
        Place::new(self, (thread, number), wait, now)
    }

    async fn wait(
        self: &Arc<Self>,
        mut place: Place,
        since: Option<Moment>,
    ) -> Result<Grant, PgError> {
        let gone = since.map(|it| it.elapsed()).unwrap_or_default();
        let deadline = self.limits.load().wait_timeout.saturating_sub(gone);
        let granted = tokio::time::timeout(deadline, self.in_line(&mut place)).await;
        self.note_wait(place.since(), Moment::now());
        granted.unwrap_or_else(|_| Err(self.shut_out(since.unwrap_or_else(|| place.since()))))
    }

    /// Waits for a grant. A server with a limit may have room all the same, or somebody's idle
    /// connection, at once or in a moment.
    async fn in_line(&self, place: &mut Place) -> Result<Grant, PgError> {
        while self.quota.limit().is_some() {
            self.quota.serve();
            let granted = poll_fn(|cx| place.poll(cx));
            if let Ok(granted) = tokio::time::timeout(SPARE, granted).await {
                return granted;
            }
        }
        poll_fn(|cx| place.poll(cx)).await
    }

    /// Why a wait has ended without a grant.
    pub(super) fn shut_out(&self, since: Moment) -> PgError {
        let deadline = self.limits.load().wait_timeout;
        if since.elapsed() < deadline {
            return self.closed();
        }
        self.numbers.timeouts.fetch_add(1, Ordering::Relaxed);
        self.timed_out(deadline)
    }

    fn timed_out(&self, deadline: Duration) -> PgError {
        let state = self.state();
        let what = if state.is_paused { "the pool is paused" } else { "all are in use" };
        let (host_size, refusal) = self.quota.explain();
        let refusal = refusal.map(|it| format!("; the server says: {it}")).unwrap_or_default();
        PgError::limit(
            sqlstate::TOO_MANY_CONNECTIONS,
            format!("no server connection became free within pool.wait_timeout = {deadline:?}"),
            &"pool.wait_timeout",
            crate::config::show_duration(deadline),
        )
        .detail(format!(
            "{what}: pool.size = {}{host_size} for user {:?} of database {:?} on {}, {} sessions are waiting{refusal}",
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
        .passing()
    }

    /// An idle connection of this thread, if nobody waits for one and it needs no check that takes
    /// time.
    pub fn take_now(self: &Arc<Self>, thread: usize, now: Moment) -> Option<Lease> {
        let mut server = {
            let mut state = self.state.lock();
            if state.is_closed || state.is_paused || !state.line.is_empty() {
                return None;
            }
            let check_after = state.bounds.check_after;
            let idle = state.idle.get_mut(thread)?;
            if idle.last()?.used.is_past(check_after, now) {
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
        let mode = limits.plan_cache_mode.as_deref().map(|it| ("plan_cache_mode", it));
        let (deadline, statements) = (limits.connect_timeout, limits.prepared_statements);
        match Server::connect_with(&self.target, deadline, statements, mode.as_slice()).await {
            Ok(mut server) => {
                server.thread = thread;
                server.fence = self.fence.load_full();
                server.draw_lifetime(limits.max_lifetime);
                slot.fill();
                self.quota.note_let_in();
                Ok(self.lease(Box::new(server)))
            }
            Err(error) => {
                self.metrics.connect_errors.inc();
                // Who is turned away has reached it.
                if error.code == sqlstate::CANNOT_CONNECT_NOW || error.code.starts_with("08") {
                    self.note_failure();
                }
                // Before its place is free for the next.
                if error.code == sqlstate::TOO_MANY_CONNECTIONS {
                    self.quota.note_turned_away(&error.message);
                }
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
        let answers = !stale || server.is_alive() && server.ping(limits.connect_timeout).await;
        if !answers {
            self.note_failure();
        }
        if !answers || !lease.server().is_alive() {
            self.replayed.forget();
            lease.discard();
            return None;
        }
        Some(lease)
    }

    /// The host could not be reached, or was lost in the middle of a request.
    pub(super) fn note_failure(&self) {
        self.replayed.forget();
        if self.standing.failed(Moment::now()) {
            let (database, host) = (&self.target.database, self.target.host.to_string());
            tracing::warn!(database, host, "the host is left alone: it has failed too often");
        }
        let is_used = !self.fence.load().load(Ordering::Relaxed);
        if let Some(shard) = self.shard.as_ref().filter(|_| is_used) {
            shard.raise();
        }
    }

    /// Takes a clean server back: to the first waiter, else to its thread's idle ones.
    pub(super) fn give_back(self: &Arc<Self>, mut server: Box<Server>, now: Moment) {
        server.used = now;
        if self.quota.is_over() || (self.quota.is_pressed() && self.has_rival()) {
            drop(server);
            return self.free_slot();
        }
        loop {
            let mut state = self.state.lock();
            let is_old = server.aged_from.is_past(state.bounds.max_lifetime, now);
            let is_left = state.is_closed || state.has_moved(&server);
            if is_old || is_left || state.open > state.bounds.size {
                if is_old {
                    self.metrics.limits.reached("pool.max_lifetime");
                }
                drop(state);
                drop(server);
                return self.free_slot();
            }
            let waiter =
                if state.is_paused { None } else { self.first(&mut state, Some(server.thread)) };
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

    /// Who is next in the line, taken out of it.
    fn first(&self, state: &mut State, thread: Option<usize>) -> Option<Waiter> {
        let waiter = state.line.next(thread)?;
        self.quota.unqueue(1);
        Some(waiter)
    }

    fn has_rival(&self) -> bool {
        let (open, line) = {
            let state = self.state.lock();
            (state.open, state.line.first())
        };
        self.quota.has_rival(self, open, line)
    }

    /// Who could open a connection now: where the first stands in the line for this server, and how
    /// many connections the pool has.
    pub(super) fn line(&self) -> Option<(u64, usize)> {
        let state = self.state.lock();
        let may_open = !state.is_paused && !state.is_closed && state.open < state.bounds.size;
        let first = state.line.first().filter(|_| may_open)?;
        Some((first, state.open))
    }

    /// Gives a place that was taken on the server's account to the first in the line; `false` if there
    /// is nobody who could use it.
    pub(super) fn grant(self: &Arc<Self>) -> bool {
        loop {
            let mut state = self.state.lock();
            if state.is_paused || state.is_closed || state.open >= state.bounds.size {
                return false;
            }
            let Some(waiter) = self.first(&mut state, None) else { return false };
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
    pub(super) fn idle_since(&self) -> Option<(Moment, usize)> {
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

    /// The addresses that the host's name means from now on: connections to others are closed, those in use
    /// when they are given back.
    pub fn move_to(self: &Arc<Self>, addresses: &Arc<[IpAddr]>) {
        let mut gone = Vec::new();
        {
            let mut state = self.state.lock();
            state.addresses = Some(Arc::clone(addresses));
            for idle in &mut state.idle {
                gone.extend(idle.extract_if(.., |server| !is_one_of(addresses, server)));
            }
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

    /// From now on nothing is written to its connections, and nothing they say is told as an answer.
    /// Whoever waits for one has to be woken (`Proxy::wake`).
    pub fn fence(&self) {
        self.fence.load().store(true, Ordering::Release);
    }

    /// The connections there are now are lost, with what runs on them: the host is mute. Whoever waits for one
    /// has to be woken.
    pub fn cut(self: &Arc<Self>) {
        self.fence.swap(Arc::default()).store(true, Ordering::Release);
        self.close_idle();
    }

    /// Takes the pool out of use: idle servers close, leased ones when given back, waiters fail.
    pub fn close(self: &Arc<Self>) {
        let waiters = {
            let mut state = self.state.lock();
            state.is_closed = true;
            state.line.clear()
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

    /// Connections that are in use, or waited for, as far as `pool.size` allows.
    pub(super) fn needed(&self) -> usize {
        let used = self.numbers.outstanding.load(Ordering::Relaxed);
        let state = self.state.lock();
        (used + state.line.len()).min(state.bounds.size)
    }

    /// The numbers of this moment.
    pub fn state(&self) -> PoolState {
        let state = self.state.lock();
        PoolState {
            open: state.open,
            idle: state.idle.iter().map(Vec::len).sum(),
            waiting: state.line.waiting(),
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
