//! Who waits for a server of a pool. First come, first served, as long as it is the same thread's: a
//! server that is given back goes to whoever waits on its own thread, unless another thread's first has
//! been passed over too often. To move a server between threads costs more than the wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::lease::{Lease, Slot};
use super::pool::Pool;
use crate::error::PgError;
use crate::net::Moment;

/// How often the first in the line may be passed over by those of another thread.
const PASSES: u32 = 16;

/// What somebody in the line is given; both give themselves back when dropped.
pub enum Grant {
    /// A connection.
    Server(Lease),
    /// The right to open one.
    Slot(Slot),
}

/// A place in the line of a pool; dropped, it is left.
pub struct Place {
    pool: Arc<Pool>,
    number: u64,
    thread: usize,
    grant: oneshot::Receiver<Grant>,
    since: Moment,
}

impl Place {
    pub(super) fn new(
        pool: &Arc<Pool>,
        (thread, number): (usize, u64),
        grant: oneshot::Receiver<Grant>,
        since: Moment,
    ) -> Self {
        Self { pool: Arc::clone(pool), number, thread, grant, since }
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Since when.
    pub fn since(&self) -> Moment {
        self.since
    }

    /// Waits for a grant.
    ///
    /// # Errors
    /// 53300 once [`Pool::expire`] has found that it took too long, 57P03 if the pool was closed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Grant, PgError>> {
        match std::pin::Pin::new(&mut self.grant).poll(cx) {
            Poll::Ready(Ok(grant)) => Poll::Ready(Ok(grant)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(self.pool.shut_out(self.since))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.leave(self.thread, self.number);
    }
}

/// One who waits, as the pool sees it.
pub(super) struct Waiter {
    pub(super) grant: oneshot::Sender<Grant>,
    /// Its place among all who wait for this host.
    pub(super) number: u64,
    since: Moment,
    passed_over: u32,
}

impl Waiter {
    pub(super) fn new(grant: oneshot::Sender<Grant>, number: u64, since: Moment) -> Self {
        Self { grant, number, since, passed_over: 0 }
    }
}

/// All who wait, by thread.
#[derive(Default)]
pub(super) struct Line {
    threads: Vec<VecDeque<Waiter>>,
    len: usize,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, thread: usize, waiter: Waiter) {
        if self.threads.len() <= thread {
            self.threads.resize_with(thread + 1, VecDeque::new);
        }
        self.threads[thread].push_back(waiter);
        self.len += 1;
    }

    /// The number of the first.
    pub(super) fn first(&self) -> Option<u64> {
        self.threads.iter().filter_map(|it| it.front()).map(|it| it.number).min()
    }

    /// Takes out who is served next with something of this thread's, or of no thread's.
    pub(super) fn next(&mut self, thread: Option<usize>) -> Option<Waiter> {
        if self.len == 0 {
            return None;
        }
        let fronts = self.threads.iter().enumerate();
        let fronts = fronts.filter_map(|(at, line)| Some((line.front()?.number, at)));
        let (_, oldest) = fronts.min()?;
        let own = thread.filter(|own| self.threads.get(*own).is_some_and(|it| !it.is_empty()));
        let at = match (own, self.threads[oldest].front_mut()) {
            (Some(own), Some(first)) if own != oldest && first.passed_over < PASSES => {
                first.passed_over += 1;
                own
            }
            _ => oldest,
        };
        self.len -= 1;
        self.threads[at].pop_front()
    }

    /// Takes out one; whether it was there still.
    pub(super) fn remove(&mut self, thread: usize, number: u64) -> bool {
        let Some(line) = self.threads.get_mut(thread) else { return false };
        // A line is in the order of its numbers.
        let Ok(at) = line.binary_search_by_key(&number, |it| it.number) else { return false };
        line.remove(at);
        self.len -= 1;
        true
    }

    /// Takes out everybody who came before `limit`.
    pub(super) fn expire(&mut self, limit: Moment) -> Vec<Waiter> {
        let mut late = Vec::new();
        for line in &mut self.threads {
            let count = line.iter().take_while(|it| it.since < limit).count();
            late.extend(line.drain(..count));
        }
        self.len -= late.len();
        late
    }

    /// Those whose sessions still wait.
    pub(super) fn waiting(&self) -> usize {
        self.threads.iter().flatten().filter(|it| !it.grant.is_closed()).count()
    }

    /// Empties it; how many were there.
    pub(super) fn clear(&mut self) -> Vec<Waiter> {
        self.len = 0;
        self.threads.iter_mut().flat_map(std::mem::take).collect()
    }
}

impl Pool {
    /// A place in the line, if that is all there is to do for this thread now: every server is in use,
    /// and none may be opened.
    pub fn stand(self: &Arc<Self>, thread: usize, now: Moment) -> Option<Place> {
        if self.quota.limit().is_some() {
            return None;
        }
        let mut state = self.state.lock();
        let is_free = state.line.is_empty()
            && (state.open < state.bounds.size || state.idle.iter().any(|it| !it.is_empty()));
        if state.is_closed || state.is_paused || is_free {
            return None;
        }
        Some(self.line_up(&mut state, thread, now))
    }

    /// Ends the waits that have taken longer than `pool.wait_timeout`.
    pub fn expire(&self) {
        let limit = Moment::now().before(self.limits.load().wait_timeout);
        let late = {
            let mut state = self.state.lock();
            if state.line.is_empty() {
                return;
            }
            state.line.expire(limit)
        };
        self.quota.unqueue(late.len());
    }

    /// Notes the end of a wait.
    pub fn note_wait(&self, since: Moment, now: Moment) {
        let seconds = now.seconds_since(since);
        self.numbers.wait_us.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
        self.metrics.wait.observe(seconds);
    }

    fn leave(&self, thread: usize, number: u64) {
        if self.state.lock().line.remove(thread, number) {
            self.quota.unqueue(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(threads: &[usize]) -> Line {
        let mut line = Line::default();
        for (number, thread) in threads.iter().enumerate() {
            let (grant, _) = oneshot::channel();
            line.push(*thread, Waiter::new(grant, number as u64, Moment::now()));
        }
        line
    }

    fn order(line: &mut Line, threads: &[Option<usize>]) -> Vec<u64> {
        threads.iter().filter_map(|it| line.next(*it)).map(|it| it.number).collect()
    }

    #[test]
    fn a_server_stays_on_its_thread_while_somebody_waits_there() {
        let mut line = line(&[0, 0, 1, 1]);
        assert_eq!(order(&mut line, &[Some(1), Some(0), Some(1), Some(1), Some(1)]), [2, 0, 3, 1]);
        assert!(line.is_empty() && line.first().is_none());
    }

    #[test]
    fn a_place_of_no_thread_goes_to_the_first() {
        let mut line = line(&[1, 0, 1]);
        assert_eq!(order(&mut line, &[None, None, None]), [0, 1, 2]);
    }

    #[test]
    fn nobody_is_passed_over_for_ever() {
        let threads: Vec<_> = std::iter::once(0).chain([1; 40]).collect();
        let mut line = line(&threads);
        let served = order(&mut line, &[Some(1); 20]);
        assert_eq!(served.iter().position(|it| *it == 0), Some(PASSES as usize));
    }

    #[test]
    fn who_leaves_or_is_late_is_not_served() {
        let mut line = line(&[0, 1, 0]);
        assert!(line.remove(0, 2) && !line.remove(0, 2) && !line.remove(5, 0));
        assert_eq!(line.waiting(), 0, "nobody listens");
        let later = Moment::from_nanos(i64::MAX);
        assert_eq!(line.expire(later).len(), 2);
        assert!(line.is_empty());
    }
}
