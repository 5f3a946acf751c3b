//! One client, from its first byte to its last: frames become requests, requests become plans, plans
//! run on leased servers. One task owns it all.

mod authenticate;
mod barrier;
mod causal;
mod create_as;
mod cursors;
mod explain;
mod express;
mod extended;
mod failover;
mod fan_out;
mod gather;
mod limits;
mod listen;
mod local;
mod locked;
mod login;
mod members;
mod moved;
mod one_by_one;
mod one_shard;
mod open;
mod picked;
mod portable;
mod prepare;
mod repeat;
mod replication;
mod resume;
mod run;
mod scatter;
mod sequences;
mod settled;
mod spliced;
mod statement;
mod timeouts;
mod transaction;
mod unique;

use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use crate::balance::token::Token;
use crate::error::{PgError, sqlstate};
use crate::exec::{Failure, Member};
use crate::net::listener::Place;
use crate::net::{Client, Stream, Thread};
use crate::pool::cluster::{Cluster, Database};
use crate::pool::login::Account;
use crate::pool::writes::Open;
use crate::proxy::{Handle, Proxy, Seat, Signals};
use crate::server::Settings;
use crate::shard::ShardId;
use crate::wire::backend;
use crate::wire::pipeline::TxStatus;

use causal::Need;
use express::{Express, Granted, Standby};
use extended::{Portal, Prepared};
use transaction::Transaction;

/// How long a client may take nothing of what it is sent.
const PATIENCE: Duration = Duration::from_secs(600);

/// A client that has logged in. There are many, most of which wait: what few of them need is boxed.
struct Session {
    proxy: Arc<Proxy>,
    handle: Arc<Handle>,
    /// Given back at its end.
    seat: Option<Seat>,
    client: Client,
    thread: usize,
    account: Arc<Account>,
    cluster: Arc<Cluster>,
    database: Arc<Database>,
    /// As the session has them now, and as they were at the start.
    settings: Settings,
    defaults: Settings,
    routing: Routing,
    tx: Option<Box<Transaction>>,
    members: Vec<Member>,
    /// Why the session keeps its servers, and whether nothing but DISCARD ALL ends that.
    pin: Option<&'static str>,
    is_pinned_for_good: bool,
    /// Its last lease: that server may know the session's `currval`.
    last_server: Option<crate::server::Turn>,
    /// See [`Session::loses_state`].
    has_lost_state: bool,
    /// Settings to ask the server for before it is given back, since a statement may have made them.
    #[expect(clippy::box_collection, reason = "seldom there; the session is to be small")]
    doubt: Option<Box<Vec<String>>>,
    statements: HashMap<Bytes, Arc<Prepared>, foldhash::fast::RandomState>,
    /// Those of SQL-level PREPARE, as it was written; each is in `statements`, too.
    sql_statements: Option<Box<SqlStatements>>,
    portals: HashMap<Bytes, Portal, foldhash::fast::RandomState>,
    /// Where cursors WITH HOLD are whose transactions are over.
    held_cursors: HashMap<String, (ShardId, Role)>,
    /// Messages of the extended protocol since the last Sync or Flush.
    batch: Vec<(u8, Bytes)>,
    batch_bytes: usize,
    /// The batch executes one thing, and a Sync ends it.
    executes_one: bool,
    /// The statement at the front of the input did not run as a prepared one: it goes as it is.
    sends_as_is: bool,
    /// Messages of the extended protocol up to the next Sync are dropped.
    skips_to_sync: bool,
    /// What this client has written, by shard, and what it is writing.
    written: Vec<causal::Written>,
    writing: Open,
    /// Whether the block has changed the schema.
    reload_at_commit: bool,
    schema_of_block: transaction::SchemaOfBlock,
    /// Since the first LISTEN.
    listening: Option<Box<listen::Listening>>,
    queries: u64,
    /// The open block, where it may be repeated.
    resume: Option<Box<resume::Resume>>,
    /// Where the read at hand has failed.
    avoid: Option<repeat::Avoid>,
    /// The common request that waits for a server, and what such a wait has brought.
    standby: Option<Box<Standby>>,
    granted: Option<Box<Granted>>,
    /// Whether the client has got a part of a row of which the rest will not come.
    is_cut_off: bool,
    /// While a statement runs that may change keys over shards.
    watching: Option<Box<unique::Watching>>,
    /// Unknown relations that were looked for under a version of the catalog.
    asked: Option<Box<(u64, HashSet<String>)>>,
}

/// The texts of SQL-level PREPARE by name.
type SqlStatements = HashMap<String, Arc<str>, foldhash::fast::RandomState>;

/// What a client has said about routing: `SET sluice.…`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Routing {
    tenant: Option<String>,
    role: Option<Role>,
    /// Reads are content with replicas that are not older.
    max_staleness: Option<Duration>,
    /// What reads are to have seen beside what was written here.
    token: Option<Arc<Token>>,
}

/// Which kind of host serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Primary,
    /// One that has seen this; the primary if there is none.
    Replica(Need),
}

impl Role {
    /// Of a server that is held.
    fn held(is_primary: bool) -> Self {
        if is_primary { Self::Primary } else { Self::Replica(Need::default()) }
    }

    /// What serves both.
    #[must_use]
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Replica(one), Self::Replica(two)) => Self::Replica(one.max(two)),
            _ => Self::Primary,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica(_) => "replica",
        }
    }

    /// From `primary` or `replica`.
    fn parse(text: &str) -> Result<Option<Self>, PgError> {
        match text {
            "primary" => Ok(Some(Self::Primary)),
            "replica" => Ok(Some(Self::Replica(Need::default()))),
            "" | "auto" => Ok(None),
            _ => Err(PgError::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("invalid value for sluice.role: {text:?}"),
            )
            .hint("write 'primary', 'replica' or 'auto'")),
        }
    }
}

/// Serves a connection that was accepted: a client, a cancel request, the admin console.
///
/// Not an `async fn`: that would keep room for its arguments as long as the client stays.
pub fn serve(
    proxy: Arc<Proxy>,
    stream: Stream,
    thread: Arc<Thread>,
    place: Place,
) -> impl Future<Output = ()> + Send + 'static {
    // On the heap, and dropped before the session begins.
    let beginning = Box::pin(begin(proxy, stream, thread));
    async move {
        let _place = place;
        match beginning.await {
            Some(Begun::Session(session)) => session.live().await,
            Some(Begun::Other(service)) => service.await,
            None => (),
        }
    }
}

/// What a connection turned out to be.
enum Begun {
    Session(Box<Session>),
    /// What is rare, on the heap, so that a client's task is small.
    Other(Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// Up to the client's first ReadyForQuery. `None`: there is nothing to serve.
async fn begin(proxy: Arc<Proxy>, stream: Stream, thread: Arc<Thread>) -> Option<Begun> {
    let peer = stream.peer().ok()?;
    stream.set_nodelay();
    let number = thread.number;
    let (client, limit) = {
        let limits = &proxy.cluster.load().config.limits;
        let mut client = Client::new(stream, peer, thread, limits.message_bytes);
        client.text_limit = limits.query_bytes.unwrap_or(limits.message_bytes);
        client.buffer_limit = limits.buffer_bytes;
        (client, limits.login_timeout)
    };
    let login = login::log_in(&proxy, client, number);
    match tokio::time::timeout(limit, login).await {
        Ok(Some(login::Outcome::Session(session))) => Some(Begun::Session(session)),
        Ok(Some(login::Outcome::Replication(session, server))) => {
            Some(Begun::Other(Box::pin(session.replicate(server))))
        }
        Ok(Some(login::Outcome::Admin(console))) => Some(Begun::Other(Box::pin(async move {
            let (client, handle, _seat) = *console;
            crate::admin::serve(proxy, client, handle).await;
        }))),
        Ok(None | Some(login::Outcome::Ended)) => None,
        Err(_) => {
            proxy.metrics.limits.reached("limits.login_timeout");
            tracing::debug!(%peer, "a client did not log in in time");
            None
        }
    }
}

/// What [`Session::poll_common`] leaves to others.
enum Event {
    /// The client has said goodbye or its connection is lost.
    Gone,
    /// A message that needs more than the common case.
    Message(u8, Bytes),
    /// A common request has ended in an error.
    Trouble(Result<(), Failure>),
    /// The client does not take what it is sent.
    Backlog,
    /// Others want something of the session.
    Signal,
    /// Bytes that are no message.
    Malformed(PgError),
}

impl Session {
    /// Serves the client to its end.
    async fn live(mut self: Box<Self>) {
        let handle = Arc::clone(&self.handle);
        handle.signals.attach().await;
        self.note_rest();
        let mut express = None;
        loop {
            // All that happens often is done in here; what comes out of it is rare, so that its futures
            // lie on the heap and the task stays small.
            let event = poll_fn(|cx| self.poll_common(&mut express, &handle.signals, cx)).await;
            if Box::pin(self.attend(event, &mut express, &handle)).await {
                break;
            }
        }
        self.cut_off(&mut express);
        if !self.client.out.is_empty() {
            // The last word to a client whose own server has gone.
            let _ = Box::pin(self.client.flush(Duration::from_secs(1))).await;
        }
        self.end();
    }

    /// Serves common requests, one after the other, and waits for them.
    fn poll_common(
        &mut self,
        express: &mut Option<Express>,
        signals: &Signals,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        loop {
            let heeded = match self.is_under_way(express) {
                true => Signals::KILL | Signals::TIMEOUT,
                false => Signals::ANY,
            };
            if signals.is_raised(heeded) {
                return Poll::Ready(Event::Signal);
            }
            if let Some(under_way) = express {
                let done = ready!(self.poll_ride(under_way, cx));
                if !self.alight(express, &done) {
                    return Poll::Ready(Event::Trouble(done));
                }
            }
            if !self.client.out.is_empty() {
                match self.client.poll_flush(cx) {
                    Poll::Ready(Ok(())) => (),
                    Poll::Ready(Err(_)) => return Poll::Ready(Event::Gone),
                    Poll::Pending => return Poll::Ready(Event::Backlog),
                }
            }
            *express = match self.standby {
                Some(_) => ready!(self.poll_standby(cx)),
                None => self.board(),
            };
            if self.is_under_way(express) {
                continue;
            }
            match self.client.take_frame() {
                Ok(Some((b'X', _))) => return Poll::Ready(Event::Gone),
                Ok(Some((tag, frame))) => return Poll::Ready(Event::Message(tag, frame)),
                Ok(None) => (),
                Err(error) => return Poll::Ready(Event::Malformed(error)),
            }
            self.client.rest();
            match ready!(members::poll_idle(&mut self.members, &mut self.client, cx)) {
                Ok(count) if count > 0 => (),
                _ => return Poll::Ready(Event::Gone),
            }
        }
    }

    /// Whether a common request runs or waits for a server.
    fn is_under_way(&self, express: &Option<Express>) -> bool {
        express.is_some() || self.standby.is_some()
    }

    /// Deals with what is not common; whether the session is over.
    async fn attend(
        &mut self,
        event: Event,
        express: &mut Option<Express>,
        handle: &Handle,
    ) -> bool {
        match event {
            Event::Gone => true,
            Event::Message(tag, frame) => {
                let done = {
                    let mut request = Box::pin(self.handle(tag, frame));
                    // If it is to end, what runs is dropped: its servers are cleaned up.
                    timeouts::within(handle, request.as_mut()).await
                };
                match done {
                    Ok(Ok(())) if self.may_drain() => {
                        self.say_goodbye("the proxy is going down").await;
                        true
                    }
                    Ok(done) => done.is_err(),
                    Err(dropped) => self.end_by(dropped).await,
                }
            }
            Event::Trouble(done) => {
                let Some(express) = express.take() else { return false };
                let done = timeouts::within(handle, pin!(self.land(express, done))).await;
                match done {
                    Ok(done) => done.is_err(),
                    Err(dropped) => self.end_by(dropped).await,
                }
            }
            Event::Backlog => {
                let done = timeouts::within(handle, pin!(self.flush())).await;
                match done {
                    Ok(done) => done.is_err(),
                    Err(dropped) => self.end_by(dropped).await,
                }
            }
            Event::Signal => {
                if let Some(dropped) = timeouts::end(handle) {
                    self.cut_off(express);
                    return self.end_by(dropped).await;
                }
                let is_at_rest = !self.is_under_way(express);
                if is_at_rest && handle.signals.take(Signals::INBOX) {
                    let done = timeouts::within(handle, pin!(self.deliver())).await;
                    return match done {
                        Ok(done) => done.is_err(),
                        Err(dropped) => self.end_by(dropped).await,
                    };
                }
                handle.signals.take(Signals::DRAIN);
                if is_at_rest {
                    // Nothing waits any more.
                    handle.signals.take(Signals::OVERDUE);
                }
                let is_over = is_at_rest && self.may_drain();
                if is_over {
                    self.say_goodbye("the proxy is going down").await;
                }
                is_over
            }
            Event::Malformed(error) => {
                self.tell(&error.fatal());
                let _ = self.client.flush(PATIENCE).await;
                true
            }
        }
    }

    /// Whether the proxy goes down and this client has nothing under way.
    fn may_drain(&self) -> bool {
        self.tx.is_none() && self.client.input.is_empty() && self.proxy.is_draining()
    }

    async fn handle(&mut self, tag: u8, frame: Bytes) -> Result<(), Failure> {
        if self.database.state.sleep.is_asleep() {
            Box::pin(self.proxy.wake_database(&self.database.name)).await;
        }
        self.note_message(frame.len());
        match tag {
            // After an error in the extended protocol everything up to the Sync is dropped.
            b'Q' | b'F' if self.skips_to_sync => Ok(()),
            // What was sent before without a Sync comes first, in the same implicit transaction.
            b'Q' | b'F' if !self.batch.is_empty() => {
                self.client.take_back(&frame);
                self.hand_batch_on(false).await
            }
            b'Q' => {
                self.begin_request();
                self.query(frame).await?;
                self.end_request().await
            }
            b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' => self.extended(tag, frame).await,
            b'F' => {
                self.begin_request();
                self.note_request();
                let mut called = self.function_call(&frame).await;
                while self.resumes(&called).await? {
                    called = self.function_call(&frame).await;
                }
                self.settle(called)?;
                self.ready();
                self.end_request().await
            }
            // Data sent together with the COPY that wants it.
            b'd' | b'c' | b'f' if !self.batch.is_empty() => {
                self.client.take_back(&frame);
                self.hand_batch_on(false).await
            }
            // What is left of a COPY that has failed.
            b'd' | b'c' | b'f' => Ok(()),
            _ => {
                let error = PgError::new(
                    sqlstate::PROTOCOL_VIOLATION,
                    format!("invalid frontend message type {tag}"),
                );
                self.tell(&error.fatal());
                let _ = self.client.flush(PATIENCE).await;
                Err(Failure::Gone)
            }
        }
    }

    /// A request begins: outside a transaction it gets the newest snapshot.
    fn begin_request(&mut self) {
        self.queries += 1;
        self.handle.activity.run(self.queries);
        self.client.has_copied = false;
        self.members.iter_mut().for_each(|it| it.server().begin_request());
        if self.tx.is_some() {
            return;
        }
        let cluster = self.proxy.cluster.load();
        if !Arc::ptr_eq(&cluster, &self.cluster) {
            self.cluster = Arc::clone(&cluster);
            // A database taken out of the configuration serves its last sessions to their end.
            if let Some(database) = cluster.databases.get(&*self.database.name) {
                self.database = Arc::clone(database);
            }
        }
    }

    /// A request has ended: servers go back, then the client gets the rest of its answer.
    async fn end_request(&mut self) -> Result<(), Failure> {
        if self.doubt.is_some() && self.tx.is_none() {
            Box::pin(self.settle_doubt()).await;
        }
        self.release();
        self.avoid = None;
        if self.loses_state() {
            self.say_goodbye("the server that kept this session's state was lost").await;
            return Err(Failure::Gone);
        }
        self.note_rest();
        self.flush().await?;
        self.end_taped()
    }

    /// Writes what the client is to get; the sweeper ends it for one that takes nothing.
    async fn flush(&mut self) -> Result<(), Failure> {
        poll_fn(|cx| self.client.poll_flush(cx)).await.map_err(|_| Failure::Gone)
    }

    /// Tells the client an error.
    fn tell(&mut self, error: &PgError) {
        let metrics = &self.database.state.metrics;
        self.proxy.metrics.limits.count(error);
        if error.code == sqlstate::FEATURE_NOT_SUPPORTED {
            metrics.refused.inc();
        } else {
            metrics.errors.inc();
        }
        tracing::debug!(
            session = self.handle.pid,
            tenant = self.routing.tenant.as_deref(),
            code = %error.code,
            "{}", error.message
        );
        backend::error_response(&mut self.client.out, error);
    }

    /// Whether a server that the session keeps was lost: what the session had on it (temporary tables,
    /// locks) is gone, and another server would answer as if it had never been.
    fn loses_state(&mut self) -> bool {
        let is_broken = |it: &mut Member| it.server().is_broken();
        self.has_lost_state |= self.keeps_servers() && self.members.iter_mut().any(is_broken);
        self.has_lost_state
    }

    /// Turns a failed statement into an answer and a failed transaction.
    fn settle(&mut self, done: Result<(), Failure>) -> Result<(), Failure> {
        match done {
            Ok(()) => {
                if self.members.iter_mut().any(|it| it.server().has_failed()) {
                    self.database.state.metrics.errors.inc();
                    self.fail_transaction();
                }
                return Ok(());
            }
            Err(Failure::Gone) => return Err(Failure::Gone),
            // What is told now would be read as the rest of a row.
            Err(_) if self.members.iter_mut().any(|it| it.server().is_passing()) => {
                return Err(Failure::Gone);
            }
            Err(Failure::Error(error)) if self.loses_state() => {
                self.tell(&error.fatal());
                return Err(Failure::Gone);
            }
            Err(failure @ Failure::Error(_)) => {
                if let Failure::Error(error) = self.told_of_loss(failure, false) {
                    self.tell(&error);
                }
            }
            Err(Failure::Server(frame)) => {
                self.database.state.metrics.errors.inc();
                self.client.out.extend_from_slice(&frame);
            }
        }
        self.fail_transaction();
        Ok(())
    }

    /// ReadyForQuery.
    fn ready(&mut self) {
        let status = match &self.tx {
            None => TxStatus::Idle,
            Some(tx) if tx.has_failed => TxStatus::Failed,
            Some(_) => TxStatus::Open,
        };
        backend::ready_for_query(&mut self.client.out, status);
    }

    async fn say_goodbye(&mut self, why: &str) {
        let error = PgError::new(sqlstate::ADMIN_SHUTDOWN, why).fatal();
        self.leave(&error.hint("connect again")).await;
    }

    fn end(&mut self) {
        self.stop_listening();
        self.proxy.metrics.bytes_received.inc_by(self.client.received);
        self.proxy.metrics.limits.of("limits.buffer_bytes").inc_by(self.client.stalls.into());
        self.proxy.metrics.bytes_sent.inc_by(self.client.sent);
        self.handle.servers.lock().clear();
        let keeps = self.keeps_servers();
        self.unpin();
        for member in self.members.drain(..) {
            if keeps {
                member.lease.reset();
            }
        }
        tracing::debug!(session = self.handle.pid, queries = self.queries, "session ended");
    }
}
