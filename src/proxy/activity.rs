//! What a session does, in words that it stores and never reads: no clock on its way. A sweeper of the
//! control plane looks at them now and then, remembers since when they have been what they are, and
//! judges.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::Timeouts;
use crate::error::PgError;
use crate::net::Backlog;

/// What a session does: the low bits of its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It logs in, or is the console.
    Other = 0,
    Idle = 1,
    Running = 2,
    /// Between two statements, with a server.
    IdleInTransaction = 3,
}

/// What a session tells, and what was seen of it.
#[derive(Debug)]
pub struct Activity {
    /// `4 * request + state`: differs whenever something has happened.
    now: AtomicU64,
    /// The request that opened the transaction; 0: there is none.
    transaction: AtomicU64,
    /// What the client does not take.
    pub backlog: Arc<Backlog>,
    seen: Mutex<Seen>,
    /// Boxed: there is none, as a rule.
    verdict: Mutex<Option<Box<Verdict>>>,
}

/// What the sweeper saw, and since when (in milliseconds of its clock).
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    look: Look,
    since: u64,
    transaction_since: u64,
    blocked_since: u64,
    was_cancelled: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    now: u64,
    transaction: u64,
    blocked: u64,
}

/// What a session may do for how long; zero: for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    pub timeouts: Timeouts<Duration>,
    pub write: Duration,
}

/// What has taken too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    Query,
    /// A query that was cancelled and does not end.
    Stuck,
    Transaction,
    IdleTransaction,
    ClientIdle,
    Write,
}

/// What is to happen to a session, as long as it does what it did.
#[derive(Debug)]
struct Verdict {
    now: u64,
    blocked: u64,
    error: PgError,
}

/// How long a cancelled query may take to end.
fn grace(timeout: Duration) -> Duration {
    timeout.clamp(Duration::from_secs(1), Duration::from_secs(5))
}

impl Activity {
    /// Of a client that logs in.
    pub fn new(backlog: Arc<Backlog>) -> Self {
        Self {
            now: AtomicU64::new(State::Other as u64),
            transaction: AtomicU64::new(0),
            backlog,
            seen: Mutex::default(),
            verdict: Mutex::default(),
        }
    }

    /// Request number `request` runs.
    pub fn run(&self, request: u64) {
        self.now.store(request << 2 | State::Running as u64, Ordering::Relaxed);
    }

    /// Request number `request` has ended. `transaction` is the request that opened the one that is
    /// open, or 0.
    pub fn rest(&self, request: u64, transaction: u64, holds_server: bool) {
        let state = if holds_server { State::IdleInTransaction } else { State::Idle };
        self.transaction.store(transaction, Ordering::Relaxed);
        self.now.store(request << 2 | state as u64, Ordering::Relaxed);
    }

    /// Whether a request is under way.
    pub fn is_running(&self) -> bool {
        self.now.load(Ordering::Relaxed) & 3 == State::Running as u64
    }

    /// What takes too long, if anything does, at `at` milliseconds of the sweeper's clock.
    pub fn judge(&self, at: u64, allowed: &Allowed) -> Option<Overdue> {
        self.seen.lock().judge(self.look(), at, allowed)
    }

    /// The query's servers were asked to cancel it.
    pub fn cancelled(&self) {
        self.seen.lock().was_cancelled = true;
    }

    /// Whether the session still does what was judged.
    pub fn is_same(&self) -> bool {
        self.seen.lock().look.now == self.now.load(Ordering::Relaxed)
    }

    /// Leaves a verdict for the session; it holds for what was judged.
    pub fn sentence(&self, overdue: Overdue, error: PgError) {
        let Look { now, blocked, .. } = self.seen.lock().look;
        let blocked = if overdue == Overdue::Write { blocked } else { 0 };
        *self.verdict.lock() = Some(Box::new(Verdict { now, blocked, error }));
    }

    /// The verdict, unless the session has gone on since.
    pub fn verdict(&self) -> Option<PgError> {
        let verdict = self.verdict.lock().take()?;
        let look = self.look();
        let holds = match verdict.blocked {
            0 => verdict.now == look.now,
            blocked => blocked == look.blocked,
        };
        holds.then_some(verdict.error)
    }

    fn look(&self) -> Look {
        Look {
            now: self.now.load(Ordering::Relaxed),
            transaction: self.transaction.load(Ordering::Relaxed),
            blocked: self.backlog.stopped_at(),
        }
    }
}

impl Seen {
    fn judge(&mut self, look: Look, at: u64, allowed: &Allowed) -> Option<Overdue> {
        self.note(look, at);
        let is_past = |limit: Duration, since: u64| {
            !limit.is_zero() && at - since >= limit.as_millis() as u64
        };
        if look.blocked != 0 && is_past(allowed.write, self.blocked_since) {
            return Some(Overdue::Write);
        }
        let Timeouts { query, transaction, idle_transaction, client_idle } = allowed.timeouts;
        // A statement outside of a block is a transaction too.
        let begun = if look.transaction == 0 { self.since } else { self.transaction_since };
        match look.now & 3 {
            state if state == State::Running as u64 => match () {
                () if is_past(transaction, begun) => Some(Overdue::Transaction),
                () if !is_past(query, self.since) => None,
                () if !self.was_cancelled => Some(Overdue::Query),
                () => is_past(query + grace(query), self.since).then_some(Overdue::Stuck),
            },
            state if state == State::IdleInTransaction as u64 => match () {
                () if is_past(transaction, begun) => Some(Overdue::Transaction),
                () => is_past(idle_transaction, self.since).then_some(Overdue::IdleTransaction),
            },
            state if state == State::Idle as u64 => {
                is_past(client_idle, self.since).then_some(Overdue::ClientIdle)
            }
            _ => None,
        }
    }

    /// What has changed began now.
    fn note(&mut self, look: Look, at: u64) {
        if self.look.now != look.now {
            (self.since, self.was_cancelled) = (at, false);
        }
        if self.look.transaction != look.transaction {
            self.transaction_since = at;
        }
        if self.look.blocked != look.blocked {
            self.blocked_since = at;
        }
        self.look = look;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn allowed() -> Allowed {
        let timeouts = Timeouts {
            query: ms(100),
            transaction: ms(1000),
            idle_transaction: ms(50),
            client_idle: ms(500),
        };
        Allowed { timeouts, write: ms(300) }
    }

    #[test]
    fn a_query_is_cancelled_and_then_given_up() {
        let (activity, allowed) = (Activity::new(Arc::default()), allowed());
        activity.run(1);
        assert_eq!(activity.judge(10, &allowed), None);
        assert_eq!(activity.judge(109, &allowed), None);
        assert_eq!(activity.judge(110, &allowed), Some(Overdue::Query));
        activity.cancelled();
        assert_eq!(activity.judge(200, &allowed), None);
        let allowed =
            Allowed { timeouts: Timeouts { transaction: ms(0), ..allowed.timeouts }, ..allowed };
        assert_eq!(activity.judge(1110, &allowed), Some(Overdue::Stuck));
        activity.run(2);
        assert_eq!(activity.judge(1120, &allowed), None);
        assert_eq!(activity.judge(1220, &allowed), Some(Overdue::Query));
    }

    #[test]
    fn waiting_clients_are_judged_by_what_they_hold() {
        let (activity, allowed) = (Activity::new(Arc::default()), allowed());
        assert_eq!(activity.judge(0, &allowed), None);
        assert_eq!(activity.judge(9000, &allowed), None, "the console may stay");
        activity.rest(1, 0, false);
        assert_eq!(activity.judge(10_000, &allowed), None);
        assert_eq!(activity.judge(10_499, &allowed), None);
        assert_eq!(activity.judge(10_500, &allowed), Some(Overdue::ClientIdle));
        activity.rest(2, 2, true);
        assert_eq!(activity.judge(10_510, &allowed), None);
        assert_eq!(activity.judge(10_560, &allowed), Some(Overdue::IdleTransaction));
        for step in 0..22 {
            activity.rest(3 + step, 2, true);
            assert_eq!(activity.judge(10_570 + step * 40, &allowed), None, "{step}");
        }
        activity.rest(30, 2, true);
        assert_eq!(activity.judge(11_510, &allowed), Some(Overdue::Transaction));
        activity.rest(31, 31, true);
        assert_eq!(activity.judge(11_520, &allowed), None, "another transaction");
    }

    #[test]
    fn a_verdict_holds_for_what_was_judged() {
        let (activity, allowed) = (Activity::new(Arc::default()), allowed());
        let error = || PgError::new("57014", "x");
        activity.run(1);
        activity.judge(0, &allowed);
        activity.sentence(Overdue::Query, error());
        activity.run(2);
        assert_eq!(activity.verdict(), None);
        activity.judge(0, &allowed);
        activity.sentence(Overdue::Query, error());
        assert_eq!(activity.verdict(), Some(error()));
        assert_eq!(activity.verdict(), None);
    }

    #[test]
    fn only_a_client_that_takes_nothing_is_slow() {
        let (activity, allowed) = (Activity::new(Arc::default()), allowed());
        activity.backlog.stop(0, 10);
        assert_eq!(activity.judge(0, &allowed), None);
        assert_eq!(activity.judge(299, &allowed), None);
        activity.backlog.stop(1, 9);
        assert_eq!(activity.judge(300, &allowed), None);
        assert_eq!(activity.judge(600, &allowed), Some(Overdue::Write));
        activity.backlog.clear();
        assert_eq!(activity.judge(900, &allowed), None);
    }
}
