//! What other tasks want of a session, told without a channel: bits it looks at whenever it is polled,
//! and its waker.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Poll, Waker};

use parking_lot::Mutex;

/// Bits that others raise and the session takes; raising one wakes the session's task.
#[derive(Debug, Default)]
pub struct Signals {
    bits: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Signals {
    /// The session is to end now, whatever it does.
    pub const KILL: u8 = 1;
    /// The session is to end as soon as nothing is under way.
    pub const DRAIN: u8 = 2;
    /// The session is to end now, for a reason that its [`super::Activity`] has.
    pub const TIMEOUT: u8 = 4;
    /// What waits for a server is to wait no longer, for a reason that [`super::Activity`] has.
    pub const OVERDUE: u8 = 8;
    /// There is something in the session's inbox.
    pub const INBOX: u8 = 16;
    /// Any of them.
    pub const ANY: u8 = u8::MAX;

    /// Raises bits.
    pub fn raise(&self, bits: u8) {
        self.bits.fetch_or(bits, Ordering::AcqRel);
        self.wake();
    }

    /// Lets the session look up: what it waits for may never come.
    pub fn wake(&self) {
        let waker = self.waker.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether one of these bits is raised. A relaxed load: cheap enough for every poll.
    pub fn is_raised(&self, bits: u8) -> bool {
        self.bits.load(Ordering::Relaxed) & bits != 0
    }

    /// Takes these bits back; whether one of them was raised.
    pub fn take(&self, bits: u8) -> bool {
        self.is_raised(bits) && self.bits.fetch_and(!bits, Ordering::AcqRel) & bits != 0
    }

    /// Tells which task to wake: the calling one. A task's waker stays the same, so once is enough.
    pub async fn attach(&self) {
        poll_fn(|cx| {
            *self.waker.lock() = Some(cx.waker().clone());
            Poll::Ready(())
        })
        .await;
    }

    /// Runs a future of the attached task to its end, or drops it (`None`) once one of the bits is
    /// raised.
    pub async fn unless<F: Future>(&self, bits: u8, mut future: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|cx| match self.is_raised(bits) {
            true => Poll::Ready(None),
            false => future.as_mut().poll(cx).map(Some),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_raised_bit_ends_what_runs() {
        let signals = std::sync::Arc::new(Signals::default());
        let raiser = std::sync::Arc::clone(&signals);
        signals.attach().await;
        tokio::spawn(async move { raiser.raise(Signals::KILL) });
        let never = std::pin::pin!(std::future::pending::<()>());
        assert_eq!(signals.unless(Signals::KILL, never).await, None);
        assert!(signals.take(Signals::KILL) && !signals.take(Signals::KILL));
        let now = std::pin::pin!(async { 1 });
        assert_eq!(signals.unless(Signals::KILL, now).await, Some(1));
    }
}
