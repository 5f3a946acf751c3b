//! What the sweeper makes of a session: a request that is dropped, a wait that ends, a session that
//! is told to go.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::Session;
use crate::error::PgError;
use crate::proxy::{Handle, Signals};

/// How long a client that is told to go may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a request was dropped.
pub(super) enum Dropped {
    Killed,
    Overdue(PgError),
}

/// Why the session is to end now, if it is.
pub(super) fn end(handle: &Handle) -> Option<Dropped> {
    match handle.signals.is_raised(Signals::KILL) {
        true => Some(Dropped::Killed),
        false => handle.timeout().map(Dropped::Overdue),
    }
}

/// Runs a request to its end, unless the session is to end before.
pub(super) async fn within<F: Future>(
    handle: &Handle,
    mut request: Pin<&mut F>,
) -> Result<F::Output, Dropped> {
    poll_fn(|cx| {
        if handle.signals.is_raised(Signals::KILL | Signals::TIMEOUT)
            && let Some(dropped) = end(handle)
        {
            return Poll::Ready(Err(dropped));
        }
        request.as_mut().poll(cx).map(Ok)
    })
    .await
}

/// Waits for a server as long as the statement's time lasts.
///
/// # Errors
/// That of the wait, or 57014.
pub(super) async fn in_time<T>(
    handle: &Handle,
    mut wait: Pin<&mut impl Future<Output = Result<T, PgError>>>,
) -> Result<T, PgError> {
    poll_fn(|cx| match handle.signals.is_raised(Signals::OVERDUE).then(|| handle.overdue()) {
        Some(Some(error)) => Poll::Ready(Err(error)),
        _ => wait.as_mut().poll(cx),
    })
    .await
}

impl Session {
    /// Tells others that the session waits for its client.
    pub(super) fn note_rest(&self) {
        let transaction = self.tx.as_ref().map_or(0, |tx| tx.number);
        // A pipeline without a Sync holds a server as a transaction does.
        let holds = transaction != 0 || (!self.members.is_empty() && !self.keeps_servers());
        self.handle.activity.rest(self.queries, transaction, holds);
    }

    /// Ends the session; true.
    pub(super) async fn end_by(&mut self, dropped: Dropped) -> bool {
        match dropped {
            Dropped::Killed => self.say_goodbye("an administrator ended this session").await,
            Dropped::Overdue(error) => self.leave(&error).await,
        }
        true
    }

    /// Tells the client why it has to go.
    pub(super) async fn leave(&mut self, error: &PgError) {
        self.stop_resuming();
        match self.is_cut_off || self.members.iter_mut().any(|it| it.server().is_passing()) {
            // In the middle of a row nothing can be told.
            true => self.proxy.metrics.limits.count(error),
            false => self.tell(error),
        }
        let _ = self.client.flush(FAREWELL).await;
    }
}
