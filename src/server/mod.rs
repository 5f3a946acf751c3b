//! One Postgres connection of the data plane: what it owes, what was set and prepared on it.

mod cancel;
mod connect;
pub mod open;
mod passed;
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
use crate::wire::pipeline::{Action, Pipeline, Reply, TxStatus, Verdict};
use crate::wire::{backend, frame, frontend};
use bytes::{Buf, Bytes, BytesMut};

pub use cancel::{CancelKey, Cancellation};
pub use passed::PassedThrough;
pub use settings::{IDENTITY, Setting, Settings, SharedSettings, difference};
pub use statements::Statements;

/// Room for one read from a server.
const READ_BYTES: usize = 16 * 1024;
/// A read into less is not worth it.
const ROOM_BYTES: usize = 4 * 1024;
/// Frames above this are handed on in parts; smaller ones only when whole, so that an error can be
/// told between two frames when the server dies.
const WHOLE_BYTES: usize = 64 * 1024;

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

/// A prepared statement whose result has changed with the schema cannot run any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stale {
    /// The client is told.
    Tell,
    /// The client is not told, as its request can be repeated.
    Hide,
    /// It has happened; `is_hidden`: the client was not told.
    Found { is_hidden: bool },
}

/// What becomes of a request that its server, which goes away, does not finish, or must not since the
/// server replays what it reads from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loss {
    /// The client is told.
    #[default]
    Tell,
    /// It is noted.
    Note,
    /// It is noted, and the client is not told if it was told nothing before.
    Hide,
    /// It has happened; `is_conflict`: with what a replica has to replay, as may be on others, too.
    Found { is_conflict: bool },
}

/// What of a statement that was a Query a server did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unprepared {
    /// Its prepared form.
    Parse,
    /// A value; the statement itself is prepared.
    Value,
    /// What was prepared before: it no longer fits the schema, or is not there.
    Statement,
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

/// How a statement is answered that came as a Query and runs as a prepared one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AsQuery {
    /// It did not.
    No,
    /// `returns`: its columns are told once it has run.
    Yes { returns: bool },
}

impl AsQuery {
    /// Whether a frame waits for what comes behind it: CommandComplete for the commit.
    fn holds_back(self, tag: u8) -> bool {
        match self {
            Self::No => false,
            Self::Yes { returns } => tag == b'C' || tag == b'T' && returns,
        }
    }
}

/// What is behind a frame that is held back.
enum Behind {
    /// It must be read.
    Nothing,
    /// All went well.
    Rest,
    /// The input is another now.
    Changed,
}

/// What stands at the front of a server's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// So many bytes are for the client.
    Forward(usize),
    /// More must be read.
    More,
    /// Everything owed has been answered.
    Done,
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

    /// Says what becomes of this request if the server is lost, for one that can be run again.
    pub fn watch_loss(&mut self, loss: Loss, is_replica: bool) {
        (self.loss, self.is_replica) = (loss, is_replica);
    }

    /// Whether the request can be run again on another server: this one was lost, nobody has cancelled it.
    pub fn found_loss(&self) -> bool {
        matches!(self.loss, Loss::Found { .. }) && !self.cancel.was_used()
    }

    /// Whether that was since a replica had to replay something.
    pub fn found_conflict(&self) -> bool {
        self.loss == Loss::Found { is_conflict: true }
    }

    /// Whether something of this request's answer was handed on.
    pub fn has_answered(&self) -> bool {
        self.has_answered
    }

    fn note_loss(&mut self, is_conflict: bool) {
        if self.loss != Loss::Tell {
            self.loss = Loss::Found { is_conflict };
        }
    }

    /// Keeps from the client that a prepared statement no longer fits the schema: its request will be
    /// repeated.
    pub fn hide_stale(&mut self) {
        self.stale = Stale::Hide;
    }

    /// What was queued came as a Query: the client is not told what the server does not take of its
    /// prepared form, CommandComplete follows the commit, and if `returns` the columns follow the work.
    pub fn answer_as_query(&mut self, returns: bool) {
        self.as_query = AsQuery::Yes { returns };
    }

    /// What the server did not take of the prepared form of a Query. The client was told nothing.
    pub fn unprepared(&self) -> Option<Unprepared> {
        self.unprepared
    }

    /// Whether a prepared statement no longer fitted the schema, and whether that was kept from the
    /// client.
    pub fn found_stale(&self) -> Option<bool> {
        match self.stale {
            Stale::Found { is_hidden } => Some(is_hidden),
            Stale::Tell | Stale::Hide => None,
        }
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

    /// Asks the server for a sign of life: one Sync, one ReadyForQuery.
    pub async fn ping(&mut self, deadline: Duration) -> bool {
        self.push_sync();
        matches!(tokio::time::timeout(deadline, self.finish()).await, Ok(Ok(())))
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

    fn lost(&mut self, why: &str) -> PgError {
        (self.is_broken, self.is_lost) = (true, true);
        self.note_loss(false);
        let error = PgError::new(
            sqlstate::CONNECTION_FAILURE,
            format!("the connection to server {} was lost", self.cancel.host),
        )
        .detail(why.to_owned())
        .hint("repeat the transaction; a write without a reported COMMIT may or may not have happened");
        PgError { is_passing: !self.has_sent, ..error }
    }

    /// Looks at the frames at the front of the input as far as they are there. ReadyForQuery is never
    /// forwarded: the session tells its client when it is ready.
    ///
    /// # Errors
    /// 08P01 if the server sends what nobody asked for; a server's FATAL as an ERROR.
    pub fn front(&mut self) -> Result<Front, PgError> {
        self.input.advance(std::mem::take(&mut self.skipping));
        let mut end = self.passing.min(self.input.len());
        self.passing -= end;
        while end < self.input.len() && self.pipeline.is_owing() {
            if self.as_query == AsQuery::No {
                end += self.pipeline.skim(&self.input[end..]);
            }
            if self.pipeline.is_fake_next() {
                break;
            }
            let Some(next) = frame::next_frame(&self.input[end..])? else { break };
            let part = next.len.min(self.input.len() - end);
            let is_whole = part == next.len;
            if !is_whole && (next.len <= WHOLE_BYTES || !matches!(next.tag, b'D' | b'd')) {
                break;
            }
            if next.tag == b'E' && self.explain_cancel(end, next.len) {
                continue;
            }
            if self.as_query.holds_back(next.tag) {
                match self.look_behind(next.tag, end, part)? {
                    Behind::Nothing => break,
                    Behind::Changed => continue,
                    Behind::Rest => (),
                }
            }
            match self.reply(next.tag, end..end + part)? {
                Verdict::Forward if next.tag != b'Z' => {
                    end += part;
                    self.passing = next.len - part;
                }
                Verdict::Forward if self.passes_ready(end + part) => end += part,
                // What came before the error is the beginning of an answer that another server gives.
                _ if matches!(self.loss, Loss::Found { .. }) && !self.has_answered => {
                    self.input.advance(end + part);
                    end = 0;
                }
                _ if end == 0 => self.input.advance(part),
                _ => {
                    self.skipping = part;
                    break;
                }
            }
            if self.pipeline.is_fake_next() {
                break;
            }
        }
        Ok(match end {
            0 if self.pipeline.is_fake_next() => Front::Forward(0),
            0 if !self.pipeline.is_owing() => Front::Done,
            0 => Front::More,
            end => Front::Forward(end),
        })
    }

    /// Looks behind a frame at `at` that a Query gets only after more has gone well: what that says is
    /// told before it, and an error in its place.
    fn look_behind(&mut self, tag: u8, at: usize, len: usize) -> Result<Behind, PgError> {
        let behind = &self.input[at + len..];
        let Some(next) = frame::next_frame(behind)?.filter(|it| it.len <= behind.len()) else {
            return Ok(Behind::Nothing);
        };
        match next.tag {
            b'N' | b'A' | b'S' => self.input[at..at + len + next.len].rotate_left(len),
            b'E' => {
                self.reply(tag, at..at + len)?;
                let rest = self.input.split_off(at + len);
                self.input.truncate(at);
                self.input.unsplit(rest);
            }
            _ => return Ok(Behind::Rest),
        }
        Ok(Behind::Changed)
    }

    /// Whether the ReadyForQuery that ends at `end` of the input is for the client.
    fn passes_ready(&mut self, end: usize) -> bool {
        let status = self.input.get(end - 1).and_then(|it| TxStatus::from_byte(*it));
        let passes = self.ready_if.is_some() && self.ready_if == status;
        if passes {
            (self.ready_if, self.has_told_ready) = (None, true);
        }
        passes
    }

    /// The first bytes of the input, which [`Self::front`] has said are for the client.
    pub fn front_bytes(&self, count: usize) -> &[u8] {
        &self.input[..count]
    }

    /// Drops bytes off the front of the input: they were handed on.
    pub fn drop_front(&mut self, count: usize) {
        self.has_answered = true;
        self.input.advance(count);
    }

    /// The next frame that is for the client, if it is there whole: `None` if more must be read,
    /// `Some(None)` if everything owed was answered. ReadyForQuery is kept back.
    ///
    /// # Errors
    /// As [`Self::front`].
    pub fn take_frame(&mut self) -> Result<Option<Option<(u8, Bytes)>>, PgError> {
        self.input.advance(std::mem::take(&mut self.skipping));
        while self.pipeline.is_owing() {
            if let Some(fake) = self.next_fake() {
                return Ok(Some(Some((fake[0], fake))));
            }
            let Some(next) = frame::next_frame(&self.input)? else { return Ok(None) };
            if self.input.len() < next.len {
                return Ok(None);
            }
            if next.tag == b'E' && self.explain_cancel(0, next.len) {
                continue;
            }
            let verdict = self.reply(next.tag, 0..next.len)?;
            let frame = self.input.split_to(next.len).freeze();
            if verdict == Verdict::Forward && next.tag != b'Z' {
                return Ok(Some(Some((next.tag, frame))));
            }
        }
        Ok(Some(None))
    }

    /// Where a statement was cancelled for a reason of the proxy's own, puts that in the place of the
    /// error at `at`; whether it did.
    fn explain_cancel(&mut self, at: usize, len: usize) -> bool {
        let fields = backend::ErrorFields::read(&self.input[at..at + len]);
        if !fields.is_ok_and(|it| it.code() == sqlstate::QUERY_CANCELED.as_bytes()) {
            return false;
        }
        let Some(reason) = self.cancel.take_reason() else { return false };
        let rest = self.input.split_off(at + len);
        self.input.truncate(at);
        backend::error_response(&mut self.input, &reason);
        self.input.unsplit(rest);
        true
    }

    /// Whether a whole frame is in memory already.
    pub fn has_frame(&self) -> bool {
        matches!(frame::next_frame(&self.input[self.skipping..]),
            Ok(Some(next)) if self.input.len() - self.skipping >= next.len)
    }

    /// The next frame that is for the client, whole; `None` when everything owed was answered.
    ///
    /// # Errors
    /// As [`Self::front`] and [`Self::fill`].
    pub async fn next_frame(&mut self) -> Result<Option<(u8, Bytes)>, PgError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Writes what is queued and reads the replies, all of which must be of our own asking.
    ///
    /// # Errors
    /// The server's error as a [`PgError`], or 08006.
    pub async fn finish(&mut self) -> Result<(), PgError> {
        self.own_error = None;
        self.is_private = true;
        let done = self.read_own().await;
        self.is_private = false;
        done?;
        self.own_error.take().map_or(Ok(()), Err)
    }

    async fn read_own(&mut self) -> Result<(), PgError> {
        self.flush().await?;
        while let Some((tag, frame)) = self.next_frame().await? {
            if tag == b'E' && self.own_error.is_none() {
                self.own_error = Some(error_of(&frame));
            }
        }
        Ok(())
    }

    /// Runs SQL of our own to its end.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn run(&mut self, sql: &str) -> Result<(), PgError> {
        self.push_query(sql, Action::Skip);
        self.finish().await
    }

    /// Runs a query of our own; its rows as text.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, PgError> {
        self.push_query(sql, Action::Forward);
        self.flush().await?;
        let (mut rows, mut failed) = (Vec::new(), None);
        while let Some((tag, frame)) = self.next_frame().await? {
            match tag {
                b'D' => {
                    let text = |range| String::from_utf8_lossy(&frame[range]).into_owned();
                    let cells = backend::DataRow::read(&frame)?;
                    let cells: Result<Vec<_>, _> =
                        cells.map(|cell| cell.map(|it| it.map(text))).collect();
                    rows.push(cells?);
                }
                b'E' => failed = Some(error_of(&frame)),
                _ => (),
            }
        }
        failed.map_or(Ok(rows), Err)
    }

    /// Takes a fake reply whose turn has come.
    pub fn next_fake(&mut self) -> Option<Bytes> {
        let fake = self.pipeline.next_fake()?;
        self.parsed += usize::from(fake.first() == Some(&b'1'));
        Some(fake)
    }

    fn reply(&mut self, tag: u8, at: std::ops::Range<usize>) -> Result<Verdict, PgError> {
        let frame = &self.input[at];
        let (mut status, mut is_repeated) = (None, false);
        match tag {
            b'Z' => status = backend::view::ready_status(frame).ok(),
            b'E' => {
                self.has_failed = true;
                let fields = backend::ErrorFields::read(frame);
                if fields.as_ref().is_ok_and(backend::ErrorFields::is_fatal) {
                    let error = error_of(frame);
                    (self.is_broken, self.is_lost) = (true, error.is_of_going());
                    let is_conflict = self.is_replica && is_conflict(error.code.as_bytes());
                    if self.is_lost || is_conflict {
                        self.note_loss(is_conflict);
                    }
                    return Err(error);
                }
                let is_conflict =
                    self.is_replica && fields.as_ref().is_ok_and(|it| is_conflict(it.code()));
                let may_hide = self.loss == Loss::Hide && !self.has_answered;
                if is_conflict && (may_hide || self.loss == Loss::Note) {
                    self.loss = Loss::Found { is_conflict: true };
                    is_repeated = may_hide;
                }
                self.unprepared = match &fields {
                    Ok(fields) if self.as_query != AsQuery::No => {
                        unprepared(&self.pipeline, fields.code())
                    }
                    _ => None,
                };
                if fields.is_ok_and(|it| it.is_stale_plan()) {
                    self.stale = Stale::Found { is_hidden: self.stale == Stale::Hide };
                }
            }
            b'S' => {
                if let Ok(it) = backend::Parameter::read(frame) {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    self.status.insert(text(it.name), text(it.value));
                }
                if !self.pipeline.is_forwarding() {
                    return Ok(Verdict::Skip);
                }
            }
            b'A' if !self.hears => return Ok(Verdict::Skip),
            _ => (),
        }
        let verdict = self.pipeline.on_reply(tag, status).map_err(|unexpected| {
            self.is_broken = true;
            PgError::from(unexpected).hint(format!("server {} is out of step", self.cancel.host))
        })?;
        self.has_swallowed_sync |= tag == b'G' && self.pipeline.has_swallowed_sync();
        if tag == b'1' && verdict == Verdict::Forward {
            self.parsed += 1;
        }
        let is_hidden = self.stale == (Stale::Found { is_hidden: true })
            || self.unprepared.is_some()
            || is_repeated;
        if tag == b'E' && is_hidden {
            (self.has_failed, self.ready_if) = (false, None);
            return Ok(Verdict::Skip);
        }
        if verdict == Verdict::OwnError && !self.is_private {
            // Our own Bind of the client's values: the client must hear of it.
            return Ok(Verdict::Forward);
        }
        if verdict == Verdict::OwnError {
            let error = error_of(&self.input[..]);
            self.own_error.get_or_insert(error);
        }
        Ok(verdict)
    }

    /// Ends what an abandoned session left: COPY, a running statement, a transaction.
    ///
    /// # Errors
    /// Any failure; the connection is then to be closed.
    pub async fn clean_up(&mut self) -> Result<(), PgError> {
        self.input.advance(std::mem::take(&mut self.skipping));
        self.end_requests();
        if self.pipeline.is_owing() {
            match tokio::time::timeout(Duration::from_millis(100), self.drain()).await {
                Ok(drained) => drained?,
                Err(_) => {
                    self.cancel.begin().send().await;
                    self.drain().await?;
                }
            }
        }
        self.outlive_cancels().await?;
        if self.tx() != TxStatus::Idle {
            self.run("ROLLBACK").await?;
        }
        Ok(())
    }

    /// Waits until no cancel request can hit what is sent from now on: the server has taken them all,
    /// and ignores those that it finds when it reads the next message.
    async fn outlive_cancels(&mut self) -> Result<(), PgError> {
        if !self.cancel.was_used() {
            return Ok(());
        }
        let Some(requests) = self.cancel.settled().await else {
            return Err(self.lost("a cancel request may still be on its way"));
        };
        self.push_sync();
        self.finish().await?;
        self.cancel.forget(requests);
        Ok(())
    }

    /// Ends a COPY whose data nobody will send, and a batch.
    fn end_requests(&mut self) {
        if self.is_copy_in() {
            self.push_with(b'f', Action::Skip, |out| {
                frontend::copy_fail(out, "the client has gone");
            });
        }
        if !self.pipeline.is_settled() {
            self.push_sync();
        }
    }

    /// Reads to the end of everything owed and drops it.
    ///
    /// # Errors
    /// 08006 if the connection is lost.
    pub async fn drain(&mut self) -> Result<(), PgError> {
        self.flush().await?;
        loop {
            while self.next_fake().is_some() {}
            match self.front()? {
                Front::Forward(count) => self.drop_front(count),
                Front::More => {
                    // A server that has just begun to wait for the data of a COPY takes no cancel.
                    if self.is_copy_in() {
                        self.end_requests();
                        self.flush().await?;
                    }
                    self.fill().await?;
                }
                Front::Done => return Ok(()),
            }
        }
    }
}

/// Whether a replica ends a statement since it has to replay what it reads from, or waits for that in
/// vain.
fn is_conflict(code: &[u8]) -> bool {
    code == sqlstate::SERIALIZATION_FAILURE.as_bytes()
        || code == sqlstate::DEADLOCK_DETECTED.as_bytes()
}

/// What a server did not take that reports this before anything ran. Where it is not for the text or a
/// value (a cancel, a timeout, a deadlock) that is the statement's own end.
fn unprepared(pipeline: &Pipeline, code: &[u8]) -> Option<Unprepared> {
    let class = code.get(..2)?;
    if ![b"0A", b"22", b"26", b"3F", b"42", b"54"].iter().any(|it| class == *it) {
        return None;
    }
    match pipeline.next_reply()? {
        Reply::Parse => Some(Unprepared::Parse),
        Reply::Bind if class == b"22" => Some(Unprepared::Value),
        Reply::Bind => Some(Unprepared::Statement),
        _ => None,
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
