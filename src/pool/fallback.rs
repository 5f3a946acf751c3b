//! Reads that use a primary since no replica can be used: a bounded number at once, so that what was the
//! work of all replicas does not drown it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts them, for one primary.
#[derive(Debug, Default)]
pub struct Fallback {
    in_use: AtomicUsize,
    freed: Notify,
}

impl Fallback {
    /// Waits until fewer than `limit` are there; the place lasts as long as the permit.
    pub async fn enter(self: &Arc<Self>, limit: usize) -> Permit {
        loop {
            // In the line before the look: of two that are freed at once both are told.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(permit) = self.try_enter(limit) {
                return permit;
            }
            freed.await;
        }
    }

    fn try_enter(self: &Arc<Self>, limit: usize) -> Option<Permit> {
        let more = |count: usize| (count < limit).then_some(count + 1);
        self.in_use.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Permit(Arc::clone(self)))
    }
}

/// A place; given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Fallback>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_at_once() {
        let fallback = Arc::<Fallback>::default();
        let (one, _two) = (fallback.enter(2).await, fallback.enter(2).await);
        assert!(fallback.try_enter(2).is_none());
        let waiting = tokio::spawn({
            let fallback = Arc::clone(&fallback);
            async move { fallback.enter(2).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(one);
        let _third = waiting.await;
        assert!(fallback.try_enter(2).is_none());
        assert!(fallback.try_enter(3).is_some());
    }
}
