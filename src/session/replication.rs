//! Replication connections: bytes handed both ways between the client and the home shard's primary.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Session;
use crate::error::{PgError, sqlstate};
use crate::net::Client;
use crate::pool::cluster::Cluster;
use crate::proxy::Signals;
use crate::server::{Server, Setting};

/// How long the last bytes may take when one side has closed.
const FAREWELL: Duration = Duration::from_secs(1);

/// The start-up parameter `replication`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Physical,
    /// Of one database: logical replication.
    Database,
}

impl Mode {
    /// As Postgres reads it; `None` is an ordinary connection.
    pub(super) fn parse(value: &str) -> Result<Option<Self>, PgError> {
        match value.to_ascii_lowercase().as_str() {
            "database" => Ok(Some(Self::Database)),
            "true" | "on" | "yes" | "1" | "t" | "y" => Ok(Some(Self::Physical)),
            "false" | "off" | "no" | "0" | "f" | "n" => Ok(None),
            _ => Err(PgError::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("invalid value for parameter \"replication\": \"{value}\""),
            )
            .hint("valid values are: \"false\", 0, \"true\", 1, \"database\"")),
        }
    }

    /// Physical replication is of a whole server, and clients name no database of ours: with a single
    /// one it is clear which server is meant.
    pub(super) fn choose_database(self, cluster: &Cluster, name: &mut String) {
        let mut names = cluster.databases.keys();
        if self == Self::Physical
            && !cluster.databases.contains_key(name)
            && let (Some(only), None) = (names.next(), names.next())
        {
            name.clone_from(only);
        }
    }

    fn value(self) -> &'static str {
        match self {
            Self::Physical => "true",
            Self::Database => "database",
        }
    }
}

impl Session {
    /// A connection of its own to the home shard's primary, outside of any pool.
    ///
    /// # Errors
    /// 28000 if the user may not; else as the server says.
    pub(super) async fn dial_for_replication(&self, mode: Mode) -> Result<Server, PgError> {
        if !self.account.user.replication {
            return Err(PgError::new(
                sqlstate::INVALID_AUTHORIZATION,
                format!("user {:?} may not open replication connections", self.account.user.name),
            )
            .hint("set replication = true for the user"));
        }
        let said = self.settings.iter().filter_map(|(name, setting)| match setting {
            Setting::Value(value) => Some((name.as_str(), value.as_str())),
            Setting::Statement(_) => None,
        });
        let parameters: Vec<_> = said.chain([("replication", mode.value())]).collect();
        let home = &self.database.home().primary;
        let pool = self.database.pool(home, &self.account);
        let patience = self.cluster.config.pool.connect_timeout;
        Server::connect_with(&pool.target, patience, 0, &parameters).await
    }

    /// Hands on what both sides say until one closes, KILL, or the proxy goes down.
    pub(super) async fn replicate(mut self: Box<Self>, mut server: Box<Server>) {
        let handle = Arc::clone(&self.handle);
        handle.servers.lock().push(Arc::clone(&server.cancel));
        handle.state.lock().pin = Some("replication");
        handle.signals.attach().await;
        server.push_raw(&self.client.input.split());
        let client = &mut self.client;
        let copy = std::pin::pin!(poll_fn(|cx| poll_copy(&mut server, client, cx)));
        let ended = handle.signals.unless(Signals::KILL | Signals::DRAIN, copy).await;
        if ended.is_some() {
            let _ = self.client.flush(FAREWELL).await;
            let _ = tokio::time::timeout(FAREWELL, server.flush()).await;
        }
        self.end();
    }
}

/// Ready when one side has closed its connection. Each side is read only when the other has taken
/// what was read before.
fn poll_copy(server: &mut Server, client: &mut Client, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        let mut has_moved = false;
        if client.out.is_empty()
            && let Poll::Ready(filled) = server.poll_fill(cx)
        {
            client.out = server.take_raw();
            if filled.is_err() {
                return Poll::Ready(());
            }
        }
        if !client.out.is_empty()
            && let Poll::Ready(written) = client.poll_flush(cx)
        {
            if written.is_err() {
                return Poll::Ready(());
            }
            has_moved = true;
        }
        if server.unsent() == 0
            && let Poll::Ready(read) = client.poll_read(cx)
        {
            if !matches!(read, Ok(count) if count > 0) {
                return Poll::Ready(());
            }
            server.push_raw(&client.input.split());
        }
        if server.unsent() > 0
            && let Poll::Ready(written) = server.poll_flush(cx)
        {
            if written.is_err() {
                return Poll::Ready(());
            }
            has_moved = true;
        }
        if !has_moved {
            return Poll::Pending;
        }
    }
}
