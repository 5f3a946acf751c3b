//! A server that takes no more connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::quota::{Quota, UNLIMITED};
use crate::net::Moment;

/// How long a server that turns connections away is left alone.
const RETRY: Duration = Duration::from_millis(200);

/// After so long without it, connections are opened as before.
const CALM: Duration = Duration::from_secs(5);

/// When and why a server last turned somebody away.
#[derive(Debug, Default)]
pub(super) struct TurnedAway {
    last: Mutex<Option<(Moment, String)>>,
    /// Whether a task looks after the cap.
    is_lifting: AtomicBool,
}

impl TurnedAway {
    /// What the server said, if it was of late.
    pub(super) fn why(&self) -> Option<String> {
        self.last.lock().as_ref().map(|it| it.1.clone())
    }
}

impl Quota {
    /// The server has not let a connection in (53300), whose place is still taken: for a while there are those
    /// that are there, and then one more is tried at a time.
    pub(super) fn note_turned_away(self: &Arc<Self>, why: &str) {
        *self.turned_away.last.lock() = Some((Moment::now(), why.to_owned()));
        self.bound(&self.cap, Some(self.open().saturating_sub(1)));
        if self.turned_away.is_lifting.swap(true, Ordering::AcqRel) {
            return;
        }
        let quota = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RETRY).await;
                let since = quota.turned_away.last.lock().as_ref().map(|it| it.0.elapsed());
                if since.is_none_or(|it| it >= CALM) {
                    break;
                }
                quota.bound(&quota.cap, Some(quota.open() + 1));
            }
            quota.turned_away.is_lifting.store(false, Ordering::Release);
            *quota.turned_away.last.lock() = None;
            quota.bound(&quota.cap, None);
        });
    }

    /// A connection was made: while the server was turning them away, the next is tried.
    pub(super) fn note_let_in(&self) {
        if self.cap.load(Ordering::Relaxed) != UNLIMITED {
            self.bound(&self.cap, Some(self.open() + 1));
        }
    }
}
