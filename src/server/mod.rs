//! One Postgres connection of the data plane: what it owes, what was set and prepared on it.

mod answers;
mod cancel;
mod clean;
mod connect;
pub mod open;
mod own;
mod passed;
mod repeated;
mod settings;
mod statements;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::config::Host;
use crate::error::{PgError, sqlstate};
use crate::net::{Moment, Stream};
use crate::wire::pipeline::{Action, Pipeline, TxStatus};
use crate::wire::{backend, frame, frontend};
use bytes::{Buf, Bytes, BytesMut};

pub use answers::Front;
pub use cancel::{CancelKey, Cancellation};
pub use passed::PassedThrough;
use repeated::{AsQuery, Stale};
pub use repeated::{Loss, Unprepared};
pub use settings::{IDENTITY, Setting, Settings, SharedSettings, difference};
pub use statements::Statements;

/// Room for one read from a server.
const READ_BYTES: usize = 16 * 1024;
/// A read into less is not worth it.
const ROOM_BYTES: usize = 4 * 1024;

/// Why a connection is not used that still stands.
const FENCED: &str =
    "it does not answer health checks, or another host is the primary of its shard now";

/// Whom a connection is for and where it goes.
#[derive(Clone)]
pub struct Target {
    /// The client's user; the server's is `host.user`.
    pub client_user: String,
    /// The database as clients name it.
    pub database: String,
    /// Address and credentials.
    pub host: Host,
    /// In place of the password: what the client's user has proved.
    pub passed: Option<Arc<PassedThrough>>,
}

/// A connection to a Postgres server.
pub struct Server {
    stream: Option<Stream>,
    input: BytesMut,
    output: BytesMut,
    pipeline: Pipeline,
    /// Bytes of a large frame that are still to be forwarded.
    passing: usize,
    /// Bytes at the front of `input` that the client must not see.
    skipping: usize,
    is_broken: bool,
    /// Whether that is since the server has gone.
    is_lost: bool,
    /// Whether anything of this request was written.
    has_sent: bool,
    /// Raised when the server is not to be used any more, whatever it does now.
    pub fence: Arc<AtomicBool>,
    /// Whether it holds a session lock of the proxy's own: it must end with whoever works with it.
    pub holds_lock: bool,
    /// Whether an ErrorResponse was read since [`Server::begin_request`].
    has_failed: bool,
    parsed: usize,
    /// Whether a COPY of this request has read over the client's Sync.
    has_swallowed_sync: bool,
    /// Whether notifications are for whom it works for: not where a function has left a LISTEN behind.
    pub hears: bool,
    /// Whether what is read answers requests of our own only.
    is_private: bool,
    /// The first error of a request of our own.
    own_error: Option<PgError>,
    /// The data-plane thread whose reactor the socket is registered with.
    pub thread: usize,
    pub created: Instant,
    /// How often it was leased: whether anybody had it in between.
    pub leases: u64,
    /// From when its age is counted; see [`Server::draw_lifetime`].
    pub aged_from: Moment,
    /// A random number of its own.
    jitter: u8,
    pub used: Moment,
    /// Address, process id and secret for a cancel request.
    pub cancel: Arc<CancelKey>,
    /// The transaction status with which ReadyForQuery is handed on as it comes: what the session
    /// would tell its client itself.
    ready_if: Option<TxStatus>,
    /// Whether it was.
    has_told_ready: bool,
    /// What becomes of a statement's error that only says that it must be prepared anew.
    stale: Stale,
    loss: Loss,
    /// Whether errors of a replica's own are losses.
    is_replica: bool,
    /// Whether something of this request's answer was handed on.
    has_answered: bool,
    /// What it runs came as a Query, which is answered another way.
    as_query: AsQuery,
    unprepared: Option<Unprepared>,
    /// What the server last reported by ParameterStatus.
    pub status: BTreeMap<String, String>,
    /// The settings applied to it beyond its defaults.
    pub settings: Settings,
    pub statements: Statements,
}

/// One lease of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    process: i32,
    created: Instant,
    leases: u64,
}

impl Turn {
    /// The lease after this one.
    #[must_use]
    pub fn next(mut self) -> Self {
        self.leases += 1;
        self
    }
}

impl Server {
    /// Lets it end up to a fifth earlier than `limit` says, so that those made together do not end
    /// together.
    pub fn draw_lifetime(&mut self, limit: Duration) {
        let ahead = limit / 5 * u32::from(self.jitter) / 255;
        self.aged_from = Moment::of(self.created).before(ahead);
    }

    /// Whether the connection may go back to its pool as it is.
    pub fn is_reusable(&mut self) -> bool {
        !(self.is_broken || self.holds_lock)
            && self.pipeline.is_idle()
            && self.output.is_empty()
            && !self.cancel.was_used()
            && self.drop_asynchronous()
    }

    /// Whether the connection can no longer be used at all.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether the server has gone, or goes.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Marks the connection as unusable.
    pub fn set_broken(&mut self) {
        self.is_broken = true;
    }

    /// The state of the transaction, as of the last ReadyForQuery.
    pub fn tx(&self) -> TxStatus {
        self.pipeline.tx()
    }

    /// Whether the server waits for COPY data.
    pub fn is_copy_in(&self) -> bool {
        self.pipeline.is_copy_in()
    }

    /// Whether the client was given only a part of a frame so far.
    pub fn is_passing(&self) -> bool {
        self.passing != 0
    }

    /// Whether replies are still to come.
    pub fn is_owing(&self) -> bool {
        self.pipeline.is_owing()
    }

    /// Marks this request as failed, after replies of our own were read.
    pub fn mark_failed(&mut self) {
        self.has_failed = true;
    }

    /// Whether a COPY of this request has read over the client's Sync, so that another will come.
    pub fn has_swallowed_sync(&self) -> bool {
        self.has_swallowed_sync
    }

    /// ParseComplete messages that the client was given in this request.
    pub fn parsed(&self) -> usize {
        self.parsed
    }

    /// Whether an extended-protocol batch was begun that only a Sync ends.
    pub fn is_in_batch(&self) -> bool {
        self.pipeline.is_in_batch()
    }

    /// The COPY data ends with this message of the client.
    pub fn end_copy(&mut self, message: &[u8]) {
        self.output.extend_from_slice(message);
        self.pipeline.on_request(message[0], Action::Forward);
        if self.pipeline.is_in_batch() {
            // A server tells its result with the next Sync only, which the client may have sent
            // ahead of the data.
            frontend::flush(&mut self.output);
        }
    }

    /// What a server says that owes nothing: notifications, notices, changed settings.
    pub fn take_asynchronous(&mut self) -> BytesMut {
        let mut end = 0;
        while let Ok(Some(next)) = frame::next_frame(&self.input[end..]) {
            let is_whole = next.len <= self.input.len() - end;
            if !is_whole || !matches!(next.tag, b'S' | b'N' | b'A') {
                break;
            }
            end += next.len;
        }
        self.input.split_to(end)
    }

    /// Which connection it is, and as whose it is used now: to know it again if nobody else had it.
    pub fn turn(&self) -> Turn {
        Turn { process: self.cancel.process, created: self.created, leases: self.leases }
    }

    /// Why a server that owed nothing has closed the connection: its own word, or what is known.
    pub fn farewell(&mut self) -> BytesMut {
        match frame::next_frame(&self.input) {
            Ok(Some(next)) if next.tag == b'E' && next.len <= self.input.len() => {
                self.input.split_to(next.len)
            }
            _ => {
                let error = self.lost("the server closed it").fatal();
                let mut out = BytesMut::new();
                backend::error_response(&mut out, &error);
                out
            }
        }
    }

    /// A new request begins: [`Self::has_failed`] tells of its errors only.
    pub fn begin_request(&mut self) {
        self.has_failed = false;
        self.parsed = 0;
        self.has_swallowed_sync = false;
        (self.ready_if, self.has_told_ready, self.has_sent) = (None, false, false);
        self.stale = Stale::Tell;
        (self.as_query, self.unprepared) = (AsQuery::No, None);
        (self.loss, self.has_answered) = (Loss::Tell, false);
    }

    /// Whether something of this request's answer was handed on.
    pub fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Lets a ReadyForQuery with this status through to the client, once.
    pub fn pass_ready(&mut self, status: TxStatus) {
        self.ready_if = Some(status);
    }

    /// Whether the client was told that it may go on.
    pub fn has_told_ready(&self) -> bool {
        self.has_told_ready
    }

    /// Whether the server has reported an error in this request.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Moves the socket to the current thread's reactor if it belongs to another's.
    pub fn adopt(&mut self, thread: usize) -> bool {
        if self.thread == thread {
            return true;
        }
        self.thread = thread;
        let moved = self.stream.take().map(Stream::register_here);
        match moved {
            Some(Ok(stream)) => {
                self.stream = Some(stream);
                true
            }
            _ => false,
        }
    }

    /// Looks, without a system call in the common case, whether an idle server has closed the
    /// connection or said something that ends it.
    pub fn is_alive(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        loop {
            match stream.try_read(&mut self.input) {
                Ok(0) => return false,
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        self.drop_asynchronous()
    }

    /// Drops what an idle server says unasked; `false` if it is more than that.
    fn drop_asynchronous(&mut self) -> bool {
        self.input.advance(std::mem::take(&mut self.skipping));
        while !self.input.is_empty() {
            match frame::next_frame(&self.input) {
                Ok(Some(next))
                    if matches!(next.tag, b'S' | b'N' | b'A') && next.len <= self.input.len() =>
                {
                    self.input.advance(next.len);
                }
                _ => return false,
            }
        }
        true
    }

    /// Queues a message for the server; `action` says what becomes of its reply.
    pub fn push(&mut self, tag: u8, message: &[u8], action: Action) {
        self.output.extend_from_slice(message);
        self.pipeline.on_request(tag, action);
    }

    /// Queues a message built in place.
    pub fn push_with(&mut self, tag: u8, action: Action, build: impl FnOnce(&mut BytesMut)) {
        build(&mut self.output);
        self.pipeline.on_request(tag, action);
    }

    /// Queues a simple query of our own.
    pub fn push_query(&mut self, sql: &str, action: Action) {
        // A simple query ends the unnamed statement.
        self.statements.unnamed = None;
        self.push_with(b'Q', action, |out| frontend::query(out, sql.as_bytes()));
    }

    /// Queues a Sync whose ReadyForQuery the client does not see.
    pub fn push_sync(&mut self) {
        self.push_with(b'S', Action::Skip, frontend::sync);
    }

    /// Records a reply that the client gets in its turn although the server was not asked.
    pub fn push_fake(&mut self, tag: u8, reply: Bytes) {
        self.pipeline.on_request(tag, Action::Fake(reply));
    }

    /// Everything read and not taken yet, whatever it is: the connection is somebody else's to read.
    pub fn take_raw(&mut self) -> BytesMut {
        self.input.split()
    }

    /// Queues bytes that owe no reply: COPY data, Flush.
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Bytes queued and not yet written.
    pub fn unsent(&self) -> usize {
        self.output.len()
    }

    /// Gives the memory of a long request back, once it is written.
    pub fn forget_output(&mut self) {
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }

    /// Writes as much of what is queued as the socket takes now; ready when all is written.
    ///
    /// # Errors
    /// 08006 if the connection is lost.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PgError>> {
        if self.is_lost {
            // Known since before: nothing is sent, so that nothing of it can have happened.
            self.output.clear();
        }
        while !self.output.is_empty() {
            if self.fence.load(Ordering::Relaxed) {
                return Poll::Ready(Err(self.lost(FENCED)));
            }
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(Err(self.lost("it was closed")));
            };
            match ready!(stream.poll_write(cx, &self.output)) {
                Ok(0) => return Poll::Ready(Err(self.lost("nothing could be written"))),
                Ok(count) => {
                    self.output.advance(count);
                    self.has_sent = true;
                }
                // What the server said before it closed the connection is still to be read.
                Err(_) if self.pipeline.is_owing() => self.output.clear(),
                Err(error) => return Poll::Ready(Err(self.lost(&error.to_string()))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is queued.
    ///
    /// # Errors
    /// 08006 if the connection is lost.
    pub async fn flush(&mut self) -> Result<(), PgError> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Reads once. Ready with the number of bytes, never 0.
    ///
    /// # Errors
    /// 08006 if the server closed the connection.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, PgError>> {
        if self.fence.load(Ordering::Relaxed) {
            return Poll::Ready(Err(self.lost(FENCED)));
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(self.lost("it was closed")));
        };
        if self.input.capacity() - self.input.len() < ROOM_BYTES {
            self.input.reserve(READ_BYTES);
        }
        match ready!(stream.poll_read_into(cx, &mut self.input)) {
            Ok(0) => Poll::Ready(Err(self.lost("the server closed it"))),
            Ok(count) => Poll::Ready(Ok(count)),
            Err(error) => Poll::Ready(Err(self.lost(&error.to_string()))),
        }
    }

    /// Reads once.
    ///
    /// # Errors
    /// As [`Self::poll_fill`].
    pub async fn fill(&mut self) -> Result<usize, PgError> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// What is said of a connection that is lost.
    pub fn loss(&self) -> PgError {
        let host = &self.cancel.host;
        let text = format!("the connection to server {host} was lost");
        PgError::new(sqlstate::CONNECTION_FAILURE, text)
    }

    fn lost(&mut self, why: &str) -> PgError {
        (self.is_broken, self.is_lost) = (true, true);
        self.note_loss(false);
        let error = self.loss()
        .detail(why.to_owned())
        .hint("repeat the transaction; a write without a reported COMMIT may or may not have happened");
        PgError { is_passing: !self.has_sent, ..error }
    }
}

/// The error of an ErrorResponse, as an ERROR of our own.
pub fn error_of(frame: &[u8]) -> PgError {
    let len = frame::next_frame(frame).ok().flatten().map_or(frame.len(), |it| it.len);
    let frame = &frame[..len.min(frame.len())];
    let Ok(fields) = backend::ErrorFields::read(frame) else {
        return PgError::new(sqlstate::PROTOCOL_VIOLATION, "a server's error could not be read");
    };
    let text = |code| fields.field(code).map(|it| String::from_utf8_lossy(it).into_owned());
    PgError {
        severity: crate::error::Severity::Error,
        code: String::from_utf8_lossy(fields.code()).into_owned().into(),
        message: fields.message(),
        detail: text(b'D'),
        hint: text(b'H'),
        position: None,
        limit: None,
        is_passing: false,
    }
}
