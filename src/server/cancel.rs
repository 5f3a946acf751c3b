//! Cancel requests to servers.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::open::{self, Attempt};
use crate::config::Host;
use crate::error::PgError;
use crate::wire::frontend;

/// How long a cancel request may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a cancel request to a server must name.
///
/// A cancel takes a way of its own to the server and may arrive late. So that it can never hit
/// another client's statement, a connection that one was sent for is used by nobody else before the
/// server has taken the request, which it tells by closing that connection, and has answered one
/// exchange since; where that is not known to have happened the connection is closed.
#[derive(Debug)]
pub struct CancelKey {
    pub host: Host,
    pub process: i32,
    pub secret: Vec<u8>,
    /// Requests begun, ended, and those of them that can do nothing any more.
    begun: AtomicUsize,
    over: AtomicUsize,
    harmless: AtomicUsize,
    /// Whether the fate of a request is not known.
    has_failed: AtomicBool,
    ended: Notify,
    /// What the client is told in place of the server's "canceling statement due to user request".
    reason: Mutex<Option<PgError>>,
    /// The way that led to the server, and where it was: its name may mean another one by now.
    attempt: Attempt,
    peer: Option<SocketAddr>,
}

/// A cancel request that is to be sent.
#[must_use]
#[derive(Debug)]
pub struct Cancellation {
    key: Arc<CancelKey>,
    is_taken: bool,
}

impl CancelKey {
    /// The key that a server gave in BackendKeyData.
    pub fn new(
        host: Host,
        process: i32,
        secret: Vec<u8>,
        (attempt, peer): (Attempt, Option<SocketAddr>),
    ) -> Self {
        let (begun, over, harmless) = Default::default();
        let (has_failed, ended) = Default::default();
        Self {
            host,
            process,
            secret,
            begun,
            over,
            harmless,
            has_failed,
            ended,
            reason: Mutex::default(),
            attempt,
            peer,
        }
    }

    /// The way that led to the server, which a cancel request goes too.
    pub(super) fn way(&self) -> (Attempt, Option<SocketAddr>) {
        (self.attempt, self.peer)
    }

    /// The server's address, unless it is on a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Host and port.
    pub fn place(&self) -> (&String, u16) {
        (&self.host.host, self.host.port)
    }

    /// Whether a cancel request is under way, or was sent and may still hit something.
    pub fn was_used(&self) -> bool {
        self.begun.load(Ordering::Acquire) != self.harmless.load(Ordering::Acquire)
    }

    /// Begins a cancel: from now on the connection is for nobody else.
    pub fn begin(self: &Arc<Self>) -> Cancellation {
        self.begun.fetch_add(1, Ordering::AcqRel);
        Cancellation { key: Arc::clone(self), is_taken: false }
    }

    /// As [`Self::begin`]; the statement that is cancelled ends with this error.
    pub fn begin_because(self: &Arc<Self>, error: &PgError) -> Cancellation {
        self.reason.lock().get_or_insert_with(|| error.clone());
        self.begin()
    }

    /// Why a statement was cancelled, if it was for a reason of the proxy's own and nobody has asked
    /// before.
    pub(super) fn take_reason(&self) -> Option<PgError> {
        self.reason.lock().take()
    }

    /// Waits until no request is under way; how many there were, if the server has taken them all.
    pub(super) async fn settled(&self) -> Option<usize> {
        loop {
            let ended = self.ended.notified();
            let begun = self.begun.load(Ordering::Acquire);
            if self.over.load(Ordering::Acquire) == begun {
                return (!self.has_failed.load(Ordering::Acquire)).then_some(begun);
            }
            ended.await;
        }
    }

    /// So many requests can do nothing any more.
    pub(super) fn forget(&self, requests: usize) {
        *self.reason.lock() = None;
        self.harmless.store(requests, Ordering::Release);
    }

    async fn deliver(&self) -> std::io::Result<()> {
        let stream = open::open_at(&self.host, self.attempt, self.peer).await;
        let mut stream = stream.map_err(std::io::Error::other)?;
        let mut request = bytes::BytesMut::new();
        frontend::cancel_request(&mut request, self.process, &self.secret)
            .map_err(|error| std::io::Error::other(error.to_string()))?;
        open::write_all(&mut stream, &request).await?;
        let mut end = bytes::BytesMut::new();
        poll_fn(|cx| stream.poll_read(cx, &mut end, |end| end.reserve(1))).await.map(drop)
    }
}

impl Cancellation {
    /// Sends the request and waits until the server has taken it. Failure is silent, as the
    /// protocol has no answer: <https://www.postgresql.org/docs/current/protocol-flow.html>.
    pub async fn send(mut self) {
        // Boxed, as it is rare and part of all that may be cut off.
        match tokio::time::timeout(DEADLINE, Box::pin(self.key.deliver())).await {
            Ok(Ok(())) => self.is_taken = true,
            Ok(Err(error)) => {
                tracing::debug!(host = %self.key.host, %error, "a cancel request failed");
            }
            Err(_) => tracing::debug!(host = %self.key.host, "a cancel request took too long"),
        }
    }
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        let key = &self.key;
        key.has_failed.fetch_or(!self.is_taken, Ordering::AcqRel);
        key.over.fetch_add(1, Ordering::AcqRel);
        key.ended.notify_waiters();
    }
}
