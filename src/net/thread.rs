//! What the sessions of one data-plane thread share: buffers that a waiting client does not hold, the
//! fingerprint's memory, and the time.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};

use super::Moment;
use crate::sql::fingerprint::Fingerprint;

/// Room for one read from a client.
pub(super) const READ_BYTES: usize = 8 * 1024;
/// Buffers kept for the next readers.
const BUFFERS: usize = 64;
/// How often the time is asked for before the clock is.
const STALE: u32 = 8;

/// A data-plane thread's own memory. Its locks are never contended: only its sessions take them.
#[derive(Debug)]
pub struct Thread {
    pub number: usize,
    /// As of the last look at the clock.
    now: AtomicI64,
    /// How often it was given since.
    given: AtomicU32,
    buffers: Mutex<Vec<BytesMut>>,
    fingerprint: Mutex<Fingerprint>,
}

impl Thread {
    /// A thread's memory; `seed` is the plan cache's.
    pub fn new(number: usize, seed: u64) -> Self {
        Self {
            number,
            now: AtomicI64::new(Moment::now().nanos()),
            given: AtomicU32::new(0),
            buffers: Mutex::default(),
            fingerprint: Mutex::new(Fingerprint::new(seed)),
        }
    }

    /// The time, of a few requests ago at most: below a millisecond. For latencies and ages, where a
    /// look at the clock for each would cost more than it tells.
    pub fn now(&self) -> Moment {
        let given = self.given.load(Ordering::Relaxed);
        self.given.store(given + 1, Ordering::Relaxed);
        if given >= STALE {
            self.look_at_clock();
        }
        Moment::from_nanos(self.now.load(Ordering::Relaxed))
    }

    /// Notes the time: after every wait for events.
    pub fn look_at_clock(&self) {
        self.now.store(Moment::now().nanos(), Ordering::Relaxed);
        self.given.store(0, Ordering::Relaxed);
    }

    /// A buffer with room for one read.
    pub(super) fn take_buffer(&self) -> BytesMut {
        let pooled = self.buffers.lock().pop();
        pooled.unwrap_or_else(|| BytesMut::with_capacity(READ_BYTES))
    }

    /// Takes an empty buffer back, unless something still reads from its memory or it has grown.
    pub(super) fn give_buffer(&self, mut buffer: BytesMut) {
        buffer.clear();
        if !buffer.try_reclaim(READ_BYTES) || buffer.capacity() > 2 * READ_BYTES {
            return;
        }
        let mut buffers = self.buffers.lock();
        if buffers.len() < BUFFERS {
            buffers.push(buffer);
        }
    }

    /// The fingerprint's memory, for one statement at a time; not to be held across an await.
    pub fn fingerprint(&self) -> MutexGuard<'_, Fingerprint> {
        self.fingerprint.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn buffers_come_back_unless_shared() {
        let thread = Thread::new(0, 1);
        let mut buffer = thread.take_buffer();
        buffer.extend_from_slice(b"SELECT 1");
        thread.give_buffer(buffer);
        assert_eq!(thread.buffers.lock().len(), 1);
        let mut buffer = thread.take_buffer();
        buffer.extend_from_slice(b"SELECT 1");
        let kept = buffer.split_to(8).freeze();
        thread.give_buffer(buffer);
        assert_eq!(thread.buffers.lock().len(), 0);
        assert_eq!(&kept[..], b"SELECT 1");
    }

    #[test]
    fn the_time_goes_on_when_asked() {
        let thread = Thread::new(0, 1);
        let first = thread.now();
        std::thread::sleep(Duration::from_millis(2));
        for _ in 0..=STALE {
            thread.now();
        }
        assert!(thread.now().since(first) >= Duration::from_millis(2));
    }
}
