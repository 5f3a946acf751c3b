//! Whether a client takes what it is sent: noted by whoever writes to it, read by others.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a client does not take now.
#[derive(Debug, Default)]
pub struct Backlog {
    /// The bytes it had taken when it took no more, plus one; 0: it takes everything.
    stopped_at: AtomicU64,
    /// Bytes that wait for it.
    waiting: AtomicU64,
}

impl Backlog {
    /// The client, which has taken `sent` bytes so far, does not take the next `waiting` ones.
    pub fn stop(&self, sent: u64, waiting: usize) {
        self.waiting.store(waiting as u64, Ordering::Relaxed);
        self.stopped_at.store(sent + 1, Ordering::Relaxed);
    }

    /// It has taken everything.
    pub fn clear(&self) {
        self.stopped_at.store(0, Ordering::Relaxed);
        self.waiting.store(0, Ordering::Relaxed);
    }

    /// Where it stopped: the same number as long as it takes nothing, 0 if it takes everything.
    pub fn stopped_at(&self) -> u64 {
        self.stopped_at.load(Ordering::Relaxed)
    }

    /// Bytes that wait for it.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}
