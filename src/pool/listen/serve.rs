//! The listening connection of one database.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Hub, Order};
use crate::error::{PgError, sqlstate};
use crate::pool::cluster::{Database, Host};
use crate::server::{Server, Target};
use crate::sql::name::quoted;
use crate::wire::frame;
use crate::wire::pipeline::Action;

/// Tells the connection from others in `pg_stat_activity`.
const APPLICATION: &str = "pgsluice listen";
/// How often is looked whether the connection is still needed, and to the right host.
const TICK: Duration = Duration::from_secs(1);
/// A connection that was silent for longer than this is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(5);
/// How long the server may take for an answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Pauses between attempts to connect double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// How long the connection stays when nobody listens any more.
const LINGER: Duration = Duration::from_secs(30);

/// Listens for a database's clients as long as there are any; `current` gives the database as now
/// configured.
pub async fn serve(current: impl Fn() -> Option<Arc<Database>>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(database) = current() else {
            tokio::time::sleep(TICK).await;
            continue;
        };
        let hub = &database.state.listen;
        if !hub.is_wanted() {
            // A database that was taken out and put back has another hub.
            let _ = tokio::time::timeout(TICK, hub.work.notified()).await;
            continue;
        }
        let begun = Instant::now();
        let Err(error) = attend(&database, &current).await else {
            hub.set_down(String::new());
            continue;
        };
        let (name, host) = (&database.config.name, &database.home().primary.address);
        let problem = error.detail.unwrap_or(error.message);
        match hub.set_down(problem.clone()) {
            true => tracing::warn!(database = name, %host, problem, "LISTEN: connection lost"),
            false => tracing::debug!(database = name, %host, problem, "LISTEN: no connection"),
        }
        pause = if begun.elapsed() > LAST_PAUSE { FIRST_PAUSE } else { pause };
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// One connection from its start to its end; `Ok` if it is not needed any more.
async fn attend(
    database: &Database,
    current: &impl Fn() -> Option<Arc<Database>>,
) -> Result<(), PgError> {
    let host = &database.home().primary;
    let mut line = Line::open(database, host).await?;
    let known: Vec<Arc<str>> = line.hub.state.lock().channels.keys().cloned().collect();
    let mut parts = vec![format!("SET application_name TO '{APPLICATION}'")];
    parts.extend(known.iter().map(|it| format!("LISTEN {}", quoted(it))));
    line.run(&parts.join("; ")).await?;
    if line.hub.set_up() {
        tracing::info!(database = database.config.name, "LISTEN: connected again");
    }
    let mut wanted = Instant::now();
    loop {
        if line.carry_out().await? {
            continue;
        }
        tokio::select! {
            () = line.hub.work.notified() => (),
            filled = poll_fn(|cx| line.server.poll_fill(cx)) => {
                filled?;
                line.hear()?;
            }
            () = tokio::time::sleep(TICK) => {
                let is_same = |it: Arc<Database>| Arc::ptr_eq(&it.home().primary, host);
                if !current().is_some_and(is_same) {
                    return Ok(());
                }
                if line.heard.elapsed() > SILENCE {
                    line.run("").await?;
                }
            }
        }
        wanted = if line.hub.is_wanted() { Instant::now() } else { wanted };
        if wanted.elapsed() > LINGER {
            return Ok(());
        }
    }
}

/// The connection and whom it hands notifications to.
struct Line<'a> {
    server: Server,
    hub: &'a Hub,
    /// When the server last said something.
    heard: Instant,
}

impl<'a> Line<'a> {
    async fn open(database: &'a Database, host: &Host) -> Result<Self, PgError> {
        let target = Target {
            client_user: host.address.user.clone(),
            database: database.config.name.clone(),
            host: host.address.clone(),
            passed: None,
        };
        let mut server = Server::connect(&target, DEADLINE, 0).await?;
        server.hears = true;
        Ok(Self { server, hub: &database.state.listen, heard: Instant::now() })
    }

    /// Runs statements; what is notified meanwhile is handed on.
    async fn run(&mut self, sql: &str) -> Result<(), PgError> {
        match tokio::time::timeout(DEADLINE, self.converse(sql)).await {
            Ok(done) => done,
            Err(_) => Err(PgError::new(
                sqlstate::CONNECTION_FAILURE,
                format!("no answer within {DEADLINE:?}"),
            )),
        }
    }

    async fn converse(&mut self, sql: &str) -> Result<(), PgError> {
        self.server.push_query(sql, Action::Forward);
        self.server.flush().await?;
        while let Some((tag, frame)) = self.server.next_frame().await? {
            match tag {
                b'A' => self.hub.dispatch(&frame),
                b'E' => return Err(crate::server::error_of(&frame)),
                _ => (),
            }
        }
        self.heard = Instant::now();
        Ok(())
    }

    /// Carries out the orders that have come together; whether there were any.
    async fn carry_out(&mut self) -> Result<bool, PgError> {
        let orders = std::mem::take(&mut self.hub.state.lock().orders);
        if orders.is_empty() {
            return Ok(false);
        }
        let sql = self.statement(&orders);
        let done = self.run(&sql).await;
        let mut state = self.hub.state.lock();
        for order in orders {
            match order {
                // To be repeated on the next connection.
                Order::Listen { .. } if done.is_err() => state.orders.push(order),
                Order::Listen { channels, inbox, done } => {
                    // Who has given up waiting does not listen.
                    if done.send(()).is_ok() {
                        channels.iter().for_each(|it| state.join(it, &inbox));
                    }
                }
                // Who waits is woken by the sender's end, too.
                Order::Barrier(reached) => drop(reached.send(())),
                Order::Unlisten(_) => (),
            }
        }
        self.hub.metrics.channels.set(state.channels.len() as i64);
        drop(state);
        done.map(|()| true)
    }

    /// One statement for all orders. A channel that is left and joined at once must end up joined.
    fn statement(&self, orders: &[Order]) -> String {
        let state = self.hub.state.lock();
        let mut parts = Vec::new();
        for order in orders {
            match order {
                Order::Unlisten(channel) if !state.channels.contains_key(channel) => {
                    parts.push(format!("UNLISTEN {}", quoted(channel)));
                }
                Order::Unlisten(_) | Order::Listen { .. } | Order::Barrier(_) => (),
            }
        }
        for order in orders {
            if let Order::Listen { channels, done, .. } = order
                && !done.is_closed()
            {
                parts.extend(channels.iter().map(|it| format!("LISTEN {}", quoted(it))));
            }
        }
        parts.join("; ")
    }

    /// Hands on what the idle server has said.
    fn hear(&mut self) -> Result<(), PgError> {
        self.heard = Instant::now();
        let said = self.server.take_asynchronous();
        let mut rest = &said[..];
        while let Ok(Some(next)) = frame::next_frame(rest) {
            if next.tag == b'A' {
                self.hub.dispatch(&rest[..next.len]);
            }
            rest = &rest[next.len..];
        }
        match self.server.has_frame() {
            // Nothing else is said unasked but the reason of an end.
            true => Err(PgError::new(sqlstate::CONNECTION_FAILURE, "the server has ended it")),
            false => Ok(()),
        }
    }
}
