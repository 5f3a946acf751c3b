//! Cancel requests to servers.

use std::future::poll_fn;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::open::{self, Attempt};
use crate::config::Host;
use crate::error::PgError;
use crate::wire::frontend;

/// How long a cancel request may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a cancel request to a server must name.
///
/// A cancel takes a way of its own to the server and may arrive late. So that it can never hit
/// another client's statement, a connection that one was sent for is not used by anybody else.
#[derive(Debug)]
pub struct CancelKey {
    pub host: Host,
    pub process: i32,
    pub secret: Vec<u8>,
    was_used: AtomicBool,
    /// What the client is told in place of the server's "canceling statement due to user request".
    reason: OnceLock<PgError>,
    /// The way that led to the server.
    attempt: Attempt,
}

impl CancelKey {
    /// The key that a server gave in BackendKeyData.
    pub fn new(host: Host, process: i32, secret: Vec<u8>, attempt: Attempt) -> Self {
        Self {
            host,
            process,
            secret,
            was_used: AtomicBool::new(false),
            reason: OnceLock::new(),
            attempt,
        }
    }

    /// The way that led to the server, which a cancel request goes too.
    pub(super) fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Whether a cancel request was sent, or is under way.
    pub fn was_used(&self) -> bool {
        self.was_used.load(Ordering::Acquire)
    }

    /// From now on the connection is for nobody else.
    pub fn mark(&self) {
        self.was_used.store(true, Ordering::Release);
    }

    /// As [`Self::mark`]; the statement that is cancelled ends with this error.
    pub fn mark_because(&self, error: &PgError) {
        self.mark();
        self.reason.get_or_init(|| error.clone());
    }

    /// Why a statement was cancelled, if it was for a reason of the proxy's own.
    pub fn reason(&self) -> Option<&PgError> {
        self.reason.get()
    }

    /// Sends a cancel request and waits until the server has taken it. Failure is silent, as the
    /// protocol has no answer: <https://www.postgresql.org/docs/current/protocol-flow.html>.
    pub async fn send(&self) {
        self.mark();
        let attempt = tokio::time::timeout(DEADLINE, self.deliver()).await;
        if let Ok(Err(error)) = attempt {
            tracing::debug!(host = %self.host, %error, "a cancel request failed");
        }
    }

    async fn deliver(&self) -> std::io::Result<()> {
        let mut stream =
            open::open(&self.host, self.attempt).await.map_err(std::io::Error::other)?;
        let mut request = bytes::BytesMut::new();
        frontend::cancel_request(&mut request, self.process, &self.secret)
            .map_err(|error| std::io::Error::other(error.to_string()))?;
        open::write_all(&mut stream, &request).await?;
        let mut end = bytes::BytesMut::new();
        poll_fn(|cx| stream.poll_read(cx, &mut end, |end| end.reserve(1))).await.map(drop)
    }
}
