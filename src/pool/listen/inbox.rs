//! What a listening client was sent and has not taken yet.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::error::{PgError, sqlstate};
use crate::metrics::ListenMetrics;
use crate::wire::backend;

/// A client's notifications, in order, within a bound.
pub struct Inbox {
    /// The client's process id, as SHOW CLIENTS has it.
    pub pid: i32,
    items: Mutex<VecDeque<Item>>,
    limit: usize,
    delivered: AtomicU64,
    missed: AtomicU64,
    metrics: ListenMetrics,
    wake: Box<dyn Fn() + Send + Sync>,
}

enum Item {
    /// A NotificationResponse as the server sent it.
    Notification(Bytes),
    /// Here something is missing: so many that found no room, and perhaps others.
    Gap { dropped: u64, was_lost: bool },
}

impl Inbox {
    /// An empty one; `wake` tells the client's task that there is something in it.
    pub fn new(
        pid: i32,
        limit: usize,
        metrics: ListenMetrics,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (delivered, missed) = Default::default();
        let items = Mutex::default();
        Self { pid, items, limit, delivered, missed, metrics, wake: Box::new(wake) }
    }

    /// Adds a notification, or the note that there was no room for it.
    pub(super) fn push(&self, frame: &Bytes) {
        let mut items = self.items.lock();
        if items.len() < self.limit {
            items.push_back(Item::Notification(frame.clone()));
        } else {
            self.count_missed();
            gap(&mut items, 1, false);
        }
        drop(items);
        (self.wake)();
    }

    /// Notes that the listening connection was lost and is back: nobody knows what was missed.
    pub(super) fn note_loss(&self) {
        self.count_missed();
        gap(&mut self.items.lock(), 0, true);
        (self.wake)();
    }

    fn count_missed(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
        self.metrics.missed.inc();
    }

    /// Forgets what was sent on a channel that the client does not listen on after all.
    pub(super) fn discard(&self, channel: &str) {
        self.items.lock().retain(|it| match it {
            Item::Notification(frame) => super::channel_of(frame) != channel.as_bytes(),
            Item::Gap { .. } => true,
        });
    }

    /// Messages waiting for the client.
    pub fn waiting(&self) -> usize {
        self.items.lock().len()
    }

    /// Notifications given to the client, and times it was told that some are missing.
    pub fn counts(&self) -> (u64, u64) {
        (self.delivered.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }

    /// Appends messages to the client's output while that is shorter than `high_water`. A client that
    /// is not `in_utf8` gets no text beyond ASCII, which it could not read.
    pub fn hand_on(&self, out: &mut BytesMut, high_water: usize, in_utf8: bool) {
        let mut items = self.items.lock();
        while out.len() < high_water {
            match items.pop_front() {
                None => return,
                Some(Item::Notification(frame)) if in_utf8 || frame.is_ascii() => {
                    self.delivered.fetch_add(1, Ordering::Relaxed);
                    self.metrics.delivered.inc();
                    out.extend_from_slice(&frame);
                }
                Some(Item::Notification(_)) => {
                    self.count_missed();
                    backend::notice_response(out, "WARNING", &unreadable());
                }
                Some(Item::Gap { dropped, was_lost }) => {
                    if dropped > 0 {
                        backend::notice_response(out, "WARNING", &overflow(dropped, self.limit));
                    }
                    if was_lost {
                        backend::notice_response(out, "WARNING", &lost());
                    }
                }
            }
        }
    }
}

/// One note of a gap stands for all that follow one another.
fn gap(items: &mut VecDeque<Item>, more: u64, is_lost: bool) {
    match items.back_mut() {
        Some(Item::Gap { dropped, was_lost }) => {
            *dropped += more;
            *was_lost |= is_lost;
        }
        _ => items.push_back(Item::Gap { dropped: more, was_lost: is_lost }),
    }
}

fn lost() -> PgError {
    PgError::new(sqlstate::WARNING, "notifications may have been missed")
        .detail("The connection that listens on the home shard was lost; it listens again now.")
        .hint("Look at what the notifications would have told of.")
}

fn overflow(dropped: u64, limit: usize) -> PgError {
    PgError::new(sqlstate::WARNING, format!("{dropped} notifications were missed"))
        .detail(format!("The client did not take them: limits.notifications = {limit}."))
        .hint("Look at what the notifications would have told of.")
}

fn unreadable() -> PgError {
    PgError::new(sqlstate::WARNING, "a notification was missed: it is not ASCII")
        .hint("SET client_encoding TO 'UTF8'.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(limit: usize) -> Inbox {
        let metrics = crate::metrics::Metrics::new().unwrap().database("app").listen;
        Inbox::new(1, limit, metrics, || ())
    }

    fn frame(channel: &str) -> Bytes {
        let mut frame = vec![b'A', 0, 0, 0, 0, 0, 0, 0, 1];
        frame.extend_from_slice(channel.as_bytes());
        frame.extend_from_slice(b"\0\0");
        frame[4] = (frame.len() - 1) as u8;
        frame.into()
    }

    fn taken(inbox: &Inbox) -> String {
        let mut out = BytesMut::new();
        inbox.hand_on(&mut out, usize::MAX, true);
        let mut tags = String::new();
        while let Ok(Some(next)) = crate::wire::frame::next_frame(&out) {
            tags.push(char::from(next.tag));
            let _ = out.split_to(next.len);
        }
        tags
    }

    #[test]
    fn gaps_stand_where_something_is_missing() {
        let inbox = inbox(2);
        for _ in 0..4 {
            inbox.push(&frame("a"));
        }
        inbox.note_loss();
        inbox.note_loss();
        assert_eq!(inbox.waiting(), 3);
        assert_eq!(taken(&inbox), "AANN");
        inbox.push(&frame("a"));
        assert_eq!(taken(&inbox), "A");
        assert_eq!(inbox.counts(), (3, 4));
    }

    #[test]
    fn a_channel_can_be_forgotten() {
        let inbox = inbox(9);
        for channel in ["a", "b", "a", "aa"] {
            inbox.push(&frame(channel));
        }
        inbox.discard("a");
        assert_eq!(taken(&inbox), "AA");
    }
}
