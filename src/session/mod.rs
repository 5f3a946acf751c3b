//! One client, from its first byte to its last: frames become requests, requests become plans, plans
//! run on leased servers. One task owns it all.

mod extended;
mod fan_out;
mod local;
mod login;
mod members;
mod prepare;
mod run;
mod statement;
mod timeouts;
mod transaction;

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::User;
use crate::error::{PgError, sqlstate};
use crate::exec::{Failure, Member};
use crate::net::{Client, Stream};
use crate::pool::cluster::{Cluster, Database};
use crate::proxy::{Handle, Proxy, Seat, Signals};
use crate::server::Settings;
use crate::shard::ShardId;
use crate::wire::backend;
use crate::wire::pipeline::TxStatus;

use extended::{Portal, Prepared};
use timeouts::Dropped;
use transaction::Transaction;

/// How long a client may take nothing of what it is sent.
const PATIENCE: Duration = Duration::from_secs(600);

/// A client that has logged in.
struct Session {
    proxy: Arc<Proxy>,
    handle: Arc<Handle>,
    /// Given back at its end.
    seat: Option<Seat>,
    client: Client,
    thread: usize,
    user: User,
    user_name: Arc<str>,
    database_name: Arc<str>,
    cluster: Arc<Cluster>,
    database: Arc<Database>,
    /// As the session has them now, and as they were at the start.
    settings: Settings,
    defaults: Settings,
    routing: Routing,
    tx: Option<Transaction>,
    members: Vec<Member>,
    /// Why the session keeps its servers.
    pin: Option<&'static str>,
    statements: HashMap<Bytes, Arc<Prepared>>,
    portals: HashMap<Bytes, Portal>,
    /// Messages of the extended protocol since the last Sync or Flush.
    batch: Vec<(u8, Bytes)>,
    batch_bytes: usize,
    /// Messages of the extended protocol up to the next Sync are dropped.
    skips_to_sync: bool,
    /// When this client last wrote on a shard.
    written: Vec<(ShardId, Instant)>,
    /// Whether the block has changed the schema.
    reload_at_commit: bool,
    schema_of_block: transaction::SchemaOfBlock,
    queries: u64,
    buffers: statement::Buffers,
    /// Unknown relations that were looked for under a version of the catalog.
    asked: (u64, std::collections::HashSet<String>),
}

/// What a client has said about routing: `SET sluice.…`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Routing {
    tenant: Option<String>,
    role: Option<Role>,
}

/// Which kind of host serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
}

impl Role {
    /// From `primary` or `replica`.
    fn parse(text: &str) -> Result<Option<Self>, PgError> {
        match text {
            "primary" => Ok(Some(Self::Primary)),
            "replica" => Ok(Some(Self::Replica)),
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
pub async fn serve(proxy: Arc<Proxy>, stream: Stream, thread: usize) {
    let Ok(peer) = stream.peer() else { return };
    stream.set_nodelay();
    let (message_bytes, buffer_bytes, login_timeout) = {
        let cluster = proxy.cluster.load();
        let limits = &cluster.config.limits;
        (limits.message_bytes, limits.buffer_bytes, limits.login_timeout)
    };
    let mut client = Client::new(stream, peer, message_bytes);
    client.buffer_limit = buffer_bytes;
    let login = Box::pin(login::log_in(&proxy, client, thread));
    match tokio::time::timeout(login_timeout, login).await {
        Ok(Some(login::Outcome::Session(session))) => session.live().await,
        Ok(Some(login::Outcome::Admin(console))) => {
            let (client, handle, seat) = *console;
            Box::pin(crate::admin::serve(Arc::clone(&proxy), client, handle)).await;
            drop(seat);
        }
        Ok(None | Some(login::Outcome::Ended)) => (),
        Err(_) => {
            proxy.metrics.limits.reached("limits.login_timeout");
            tracing::debug!(%peer, "a client did not log in in time");
        }
    }
}

impl Session {
    /// Serves the client to its end.
    async fn live(mut self: Box<Self>) {
        let handle = Arc::clone(&self.handle);
        handle.signals.attach().await;
        self.note_rest();
        while !self.step(&handle).await {}
        self.end();
    }

    /// Handles one message, or waits for the client; whether the session is over.
    async fn step(&mut self, handle: &Handle) -> bool {
        match self.client.take_frame() {
            Ok(Some((b'X', _))) => true,
            Ok(Some((tag, frame))) => {
                let done = {
                    let mut request = Box::pin(self.handle(tag, frame));
                    // If killed, what runs is dropped: its servers are cleaned up.
                    timeouts::within(handle, request.as_mut()).await
                };
                match done {
                    Ok(done) => done.is_err(),
                    Err(Dropped::Killed) => self.end_by_kill().await,
                    Err(Dropped::Overdue(error)) => self.end_by_timeout(&error).await,
                }
            }
            Ok(None) if self.may_drain() => {
                self.say_goodbye("the proxy is going down").await;
                true
            }
            Ok(None) => match self.wait(&handle.signals).await {
                Some(read) => !matches!(read, Ok(count) if count > 0),
                None if handle.signals.is_raised(Signals::KILL) => self.end_by_kill().await,
                None => match handle.timeout() {
                    Some(error) => self.end_by_timeout(&error).await,
                    None => false,
                },
            },
            Err(error) => {
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

    async fn end_by_kill(&mut self) -> bool {
        self.say_goodbye("an administrator ended this session").await;
        true
    }

    /// Waits for the client; a server it keeps may meanwhile have something to say. `None` if others
    /// want something of the session; for KILL the bit stays raised.
    async fn wait(&mut self, signals: &Signals) -> Option<std::io::Result<usize>> {
        self.client.rest();
        let (members, client) = (&mut self.members, &mut self.client);
        std::future::poll_fn(|cx| {
            if signals.is_raised(Signals::KILL | Signals::TIMEOUT) || signals.take(Signals::DRAIN) {
                return Poll::Ready(None);
            }
            members::poll_idle(members, client, cx).map(Some)
        })
        .await
    }

    async fn handle(&mut self, tag: u8, frame: Bytes) -> Result<(), Failure> {
        match tag {
            b'Q' => {
                self.skips_to_sync = false;
                self.begin_request();
                self.query(frame).await?;
                self.end_request().await
            }
            b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' => self.extended(tag, frame).await,
            b'F' => {
                self.begin_request();
                let called = self.function_call(&frame).await;
                self.settle(called)?;
                self.ready();
                self.end_request().await
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
            if let Some(database) = cluster.databases.get(&*self.database_name) {
                self.database = Arc::clone(database);
            }
        }
    }

    /// A request has ended: servers go back, then the client gets the rest of its answer.
    async fn end_request(&mut self) -> Result<(), Failure> {
        self.release();
        self.note_rest();
        self.client.flush(PATIENCE).await.map_err(|_| Failure::Gone)
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
            Err(Failure::Error(error)) => self.tell(&error),
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
        // In the middle of a row nothing can be told.
        if !self.members.iter_mut().any(|it| it.server().is_passing()) {
            self.tell(&error.hint("connect again"));
        }
        let _ = self.client.flush(Duration::from_secs(1)).await;
    }

    fn end(&mut self) {
        self.proxy.metrics.bytes_received.inc_by(self.client.received);
        self.proxy.metrics.bytes_sent.inc_by(self.client.sent);
        self.handle.servers.lock().clear();
        let keeps = self.keeps_servers();
        for member in self.members.drain(..) {
            if keeps {
                member.lease.reset();
            }
        }
        tracing::debug!(session = self.handle.pid, queries = self.queries, "session ended");
    }
}
