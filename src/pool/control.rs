//! The control plane's own connections: tokio-postgres behind a small pool, apart from clients'.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{Object, Pool, PoolError, QueueMode};

use super::control_connection::Connections;
use crate::config::Host as Address;

/// Control connections per host.
const SIZE: usize = 3;
/// How long a connection in use is waited for before another is made.
const PATIENCE: Duration = Duration::from_millis(100);
/// The same where many proxies share the server, or may.
const PATIENCE_IN_CROWD: Duration = Duration::from_millis(250);
/// How often is looked whether it is free.
const LOOK: Duration = Duration::from_millis(5);
/// How long a server is left alone that lets nobody in.
const RETRY: Duration = Duration::from_millis(200);
/// How long a control statement may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Runs the control plane's SQL on one host.
pub struct Control {
    pool: Option<Pool<Connections>>,
    timeout: Duration,
    /// Whether the server has just let no more connections in.
    is_turned_away: AtomicBool,
    /// Whether one connection must do.
    is_in_crowd: AtomicBool,
}

/// A control statement failed; the text says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ControlError(pub String);

/// Why a look at a server has failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// There is no server, or none that takes connections.
    #[error("{0}")]
    Down(String),
    /// It does not let this user see that, or does not have it.
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Other(String),
}

impl Control {
    /// Connections are made when needed; when the server ends one, `on_loss` hears of it.
    pub fn new(address: &Address, on_loss: impl Fn() + Send + Sync + 'static) -> Self {
        let built = Pool::builder(Connections::new(address, Arc::new(on_loss)))
            .max_size(SIZE)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(DEADLINE))
            .create_timeout(Some(DEADLINE))
            .queue_mode(QueueMode::Lifo)
            .build();
        Self {
            pool: built.ok(),
            timeout: DEADLINE,
            is_turned_away: AtomicBool::new(false),
            is_in_crowd: AtomicBool::new(true),
        }
    }

    /// Whether the server is there, but has no connection left.
    pub fn is_turned_away(&self) -> bool {
        self.is_turned_away.load(Ordering::Relaxed)
    }

    /// Whether so many proxies share the server that each has to do with one connection, if it can. That is so until
    /// it is known to be otherwise.
    pub fn set_in_crowd(&self, is_in_crowd: bool) {
        self.is_in_crowd.store(is_in_crowd, Ordering::Relaxed);
    }

    fn is_in_crowd(&self) -> bool {
        self.is_in_crowd.load(Ordering::Relaxed)
    }

    /// Closes the connections that nobody has used for so long.
    pub fn close_unused(&self, since: Duration) {
        if let Some(pool) = &self.pool {
            drop(pool.retain(|_, it| it.last_used() < since));
        }
    }

    /// Closes the connections that nobody uses.
    pub fn close_idle(&self) {
        if let Some(pool) = &self.pool {
            drop(pool.retain(|_, _| false));
        }
    }

    /// The addresses that the host's name means from now on: nothing more is said on connections to others.
    pub fn move_to(&self, addresses: &Arc<[IpAddr]>) {
        if let Some(pool) = &self.pool {
            pool.manager().move_to(addresses);
            drop(pool.retain(|it, _| it.is_at(addresses)));
        }
    }

    /// A connection. A server that has none left is asked again for a while.
    ///
    /// # Errors
    /// If none can be made in time.
    pub async fn client(&self) -> Result<Object<Connections>, ControlError> {
        let Some(pool) = &self.pool else {
            return Err(ControlError("the control pool could not be built".into()));
        };
        let end = Instant::now() + DEADLINE;
        self.until_free(pool).await;
        loop {
            let got = pool.get().await;
            let is_full = matches!(&got, Err(PoolError::Backend(error)) if error.is_full());
            self.is_turned_away.store(is_full, Ordering::Relaxed);
            if is_full && Instant::now() < end {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            return got.map_err(|error| match error {
                PoolError::Backend(error) => ControlError(describe(&error)),
                error => ControlError(describe(&error)),
            });
        }
    }

    /// Waits a moment for a connection in use: servers' connections are few where there are many proxies.
    async fn until_free(&self, pool: &Pool<Connections>) {
        let begun = Instant::now();
        let patience = if self.is_in_crowd() { PATIENCE_IN_CROWD } else { PATIENCE };
        while pool.status().size > 0 && pool.status().available == 0 && begun.elapsed() < patience {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The only row of a statement with one parameter of text; its columns are text, too.
    ///
    /// # Errors
    /// As the server says; also for several rows.
    pub async fn row(
        &self,
        sql: &str,
        parameter: &str,
    ) -> Result<Option<Vec<Option<String>>>, LookError> {
        let client = self.client().await.map_err(|error| LookError::Down(error.0))?;
        let client = InUse::of(self, client);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&parameter];
        let work = client.query_opt(sql, &parameters);
        let row = tokio::time::timeout(self.timeout, work).await;
        client.end(row.is_ok());
        let row = match row {
            Ok(done) => done.map_err(|error| failed(&error))?,
            Err(_) => return Err(LookError::Down(self.no_answer())),
        };
        row.map(|row| (0..row.len()).map(|at| text(&row, at)).collect()).transpose()
    }

    /// Runs statements without parameters; the rows of the last as text.
    ///
    /// # Errors
    /// If there is no connection, the statement fails or takes longer than ten seconds.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, ControlError> {
        let client = InUse::of(self, self.client().await?);
        let rows = tokio::time::timeout(self.timeout, client.simple_query(sql)).await;
        client.end(rows.is_ok());
        match rows {
            Ok(done) => Ok(rows_of(done.map_err(|error| ControlError(describe(&error)))?)),
            Err(_) => Err(ControlError(self.no_answer())),
        }
    }

    fn no_answer(&self) -> String {
        format!("no answer within {:?}", self.timeout)
    }

    /// As [`Self::rows`], for a look at the server: also tells what kind of failure it is.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn look(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, LookError> {
        let Some(pool) = &self.pool else {
            return Err(LookError::Other("the control pool could not be built".into()));
        };
        self.until_free(pool).await;
        let got = pool.get().await;
        let is_full = matches!(&got, Err(PoolError::Backend(error)) if error.is_full());
        self.is_turned_away.store(is_full, Ordering::Relaxed);
        let client = got.map_err(|error| match error {
            PoolError::Backend(it) if it.is_down() => LookError::Down(describe(&it)),
            PoolError::Backend(it) => LookError::Other(describe(&it)),
            error => LookError::Other(describe(&error)),
        })?;
        let client = InUse::of(self, client);
        let rows = client.simple_query(sql).await;
        client.end(true);
        rows.map(rows_of).map_err(|error| failed(&error))
    }

    /// Makes a table of the proxies' own in schema `sluice`, where it is missing; `sql` does it once the schema is
    /// there.
    ///
    /// # Errors
    /// If the server cannot be reached or the user may not.
    pub async fn make(&self, table: &str, sql: &str) -> Result<(), ControlError> {
        let there = self.rows(&format!("SELECT to_regclass('{table}') IS NOT NULL")).await?;
        if there.first().and_then(|row| row.first()?.as_deref()) == Some("t") {
            return Ok(());
        }
        // One string is one transaction: the lock, by which proxies do not get into each other's way, ends with it.
        let sql = format!(
            "SELECT pg_advisory_xact_lock(hashtext('sluice.decision')); \
             CREATE SCHEMA IF NOT EXISTS sluice; {sql}"
        );
        self.rows(&sql).await.map(drop)
    }

    /// A connection for several statements.
    ///
    /// # Errors
    /// If none can be made in time.
    pub async fn hold(&self) -> Result<Held, ControlError> {
        // Nobody else gets it: it may be in a transaction when it is dropped.
        Ok(Held { client: Object::take(self.client().await?), timeout: self.timeout })
    }
}

/// A connection with a statement under way. If that is given up before it was answered, the connection is closed:
/// on one that hangs the next would be in vain, too.
struct InUse<'a> {
    control: &'a Control,
    client: Option<Object<Connections>>,
}

impl<'a> InUse<'a> {
    fn of(control: &'a Control, client: Object<Connections>) -> Self {
        Self { control, client: Some(client) }
    }

    /// Gives it back, unless it is one too many.
    fn end(mut self, is_answered: bool) {
        let size = self.control.pool.as_ref().map_or(0, |it| it.status().size);
        if is_answered && (size < 2 || !self.control.is_in_crowd()) {
            drop(self.client.take());
        }
    }
}

impl Deref for InUse<'_> {
    type Target = Object<Connections>;

    #[expect(clippy::expect_used, reason = "there until it is dropped")]
    fn deref(&self) -> &Self::Target {
        self.client.as_ref().expect("a connection")
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

/// A connection of its own, which is closed when this is dropped.
pub struct Held {
    client: super::control_connection::Connection,
    timeout: Duration,
}

impl Held {
    /// Runs statements without parameters; the rows of the last as text.
    ///
    /// # Errors
    /// If the statement fails or takes longer than ten seconds.
    pub async fn run(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, ControlError> {
        let work = self.client.simple_query(sql);
        match tokio::time::timeout(self.timeout, work).await {
            Ok(done) => Ok(rows_of(done.map_err(|error| ControlError(describe(&error)))?)),
            Err(_) => Err(ControlError(format!("no answer within {:?}", self.timeout))),
        }
    }
}

fn failed(error: &tokio_postgres::Error) -> LookError {
    let text = describe(error);
    match error.code().map(tokio_postgres::error::SqlState::code) {
        None => LookError::Down(text),
        Some(it) if it.starts_with("57P") => LookError::Down(text),
        Some("42501" | "42883" | "0A000") => LookError::Denied(text),
        Some(_) => LookError::Other(text),
    }
}

fn rows_of(messages: Vec<tokio_postgres::SimpleQueryMessage>) -> Vec<Vec<Option<String>>> {
    let mut rows = Vec::new();
    for message in messages {
        match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                let cells = (0..row.len()).map(|i| row.get(i).map(str::to_owned));
                rows.push(cells.collect());
            }
            tokio_postgres::SimpleQueryMessage::RowDescription(_) => rows.clear(),
            _ => (),
        }
    }
    rows
}

/// A column as text; for types that are something else a mistake.
fn text(row: &tokio_postgres::Row, at: usize) -> Result<Option<String>, LookError> {
    row.try_get(at).map_err(|_| {
        let column = &row.columns()[at];
        LookError::Other(format!(
            "column {} is of type {}, not text",
            column.name(),
            column.type_()
        ))
    })
}

/// An error with its causes, as tokio-postgres hides the server's message in them.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
