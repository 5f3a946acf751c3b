//! LISTEN and UNLISTEN: as part of the transaction that says them, with the database's one listening
//! connection in place of a server of the session's own.

use std::sync::Arc;
use std::time::Duration;

use super::{Role, Session};
use crate::config::PoolMode;
use crate::error::PgError;
use crate::exec::Failure;
use crate::plan::Statement;
use crate::pool::listen::Inbox;
use crate::proxy::Signals;
use crate::server::Setting;
use crate::wire::{backend, frontend};

/// What may lie in a client's output before more notifications are taken for it.
const HIGH_WATER: usize = 64 * 1024;
/// How long an answer waits for what was notified before it.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What a session listens on.
pub(super) struct Listening {
    inbox: Arc<Inbox>,
    /// In force, in the order of LISTEN.
    channels: Vec<Arc<str>>,
    /// Of the transaction that is under way: the inbox has them already, the client not yet.
    prepared: Vec<Arc<str>>,
}

/// A LISTEN or UNLISTEN of an open transaction.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Listen(Arc<str>),
    /// `None`: all.
    Unlisten(Option<Arc<str>>),
}

impl Listening {
    fn knows(&self, channel: &Arc<str>) -> bool {
        self.channels.contains(channel) || self.prepared.contains(channel)
    }
}

impl Session {
    /// LISTEN. In session mode the session's own server listens.
    pub(super) async fn listen(
        &mut self,
        channel: &str,
        statement: &Statement,
    ) -> Result<(), Failure> {
        if self.database.mode == PoolMode::Session {
            self.on_own_server(statement).await?;
            self.pin.get_or_insert("LISTEN");
            self.handle.state.lock().pin = self.pin;
            return Ok(());
        }
        self.check_open()?;
        let change = Change::Listen(channel.into());
        // Alone it fails as a statement; in a block, COMMIT does.
        if self.tx.is_none() {
            self.prepare_listens(std::slice::from_ref(&change)).await?;
        }
        self.note_listen(change);
        self.complete("LISTEN");
        Ok(())
    }

    /// UNLISTEN; `None` is `*`.
    pub(super) async fn unlisten(
        &mut self,
        channel: Option<&str>,
        statement: &Statement,
    ) -> Result<(), Failure> {
        if self.database.mode == PoolMode::Session {
            self.on_own_server(statement).await?;
            if self.listening.is_some() {
                self.note_listen(Change::Unlisten(channel.map(Into::into)));
            }
            return Ok(());
        }
        self.check_open()?;
        self.note_listen(Change::Unlisten(channel.map(Into::into)));
        self.complete("UNLISTEN");
        Ok(())
    }

    /// `SELECT pg_listening_channels()`.
    pub(super) async fn show_channels(&mut self, statement: &Statement) -> Result<(), Failure> {
        if self.database.mode == PoolMode::Session {
            return self.on_own_server(statement).await;
        }
        self.check_open()?;
        backend::row_description(&mut self.client.out, &["pg_listening_channels"]);
        let channels = self.listening.as_ref().map_or(&[][..], |it| &it.channels);
        for channel in channels {
            backend::data_row(&mut self.client.out, &[Some(channel.as_bytes())]);
        }
        let tag = format!("SELECT {}", channels.len());
        self.complete(&tag);
        Ok(())
    }

    async fn on_own_server(&mut self, statement: &Statement) -> Result<(), Failure> {
        let home = self.database.config.home_shard;
        let mut message = bytes::BytesMut::new();
        frontend::query(&mut message, &statement.text);
        self.relay_to(home, Role::Primary, false, &message).await
    }

    /// What the proxy itself carries out it also refuses in a failed block.
    fn check_open(&self) -> Result<(), PgError> {
        match &self.tx {
            Some(tx) if tx.has_failed => Err(super::transaction::in_failed_block()),
            _ => Ok(()),
        }
    }

    /// Whether the open transaction has said LISTEN or UNLISTEN, so that its end is the proxy's.
    pub(super) fn listens_at_commit(&self) -> bool {
        self.tx.as_ref().is_some_and(|tx| !tx.listens.is_empty())
    }

    fn note_listen(&mut self, change: Change) {
        self.begin_implicit();
        if let Some(tx) = &mut self.tx {
            tx.listens.push(change);
        }
    }

    /// Before COMMIT: from now on the inbox gets what is notified on the channels that the
    /// transaction listens on, so that nobody who sees its commit notifies in vain.
    pub(super) async fn prepare_listens(&mut self, changes: &[Change]) -> Result<(), PgError> {
        let said = changes.iter().filter_map(|it| match it {
            Change::Listen(channel) => Some(channel),
            Change::Unlisten(_) => None,
        });
        let is_new = |it: &&Arc<str>| self.listening.as_ref().is_none_or(|has| !has.knows(it));
        let mut new: Vec<Arc<str>> = said.filter(is_new).cloned().collect();
        new.sort();
        new.dedup();
        if new.is_empty() {
            return Ok(());
        }
        let patience = self.cluster.config.pool.connect_timeout;
        let database = Arc::clone(&self.database);
        let inbox = Arc::clone(&self.inbox().inbox);
        database.state.listen.listen(new.clone(), &inbox, patience).await?;
        self.inbox().prepared.append(&mut new);
        Ok(())
    }

    fn inbox(&mut self) -> &mut Listening {
        let (handle, limits) = (&self.handle, &self.cluster.config.limits);
        let hub = &self.database.state.listen;
        self.listening.get_or_insert_with(|| {
            let (pid, waked) = (handle.pid, Arc::clone(handle));
            let wake = move || waked.signals.raise(Signals::INBOX);
            let inbox = Inbox::new(pid, limits.notifications, hub.metrics.clone(), wake);
            let inbox = Arc::new(inbox);
            Box::new(Listening { inbox, channels: Vec::new(), prepared: Vec::new() })
        })
    }

    /// After COMMIT.
    pub(super) fn apply_listens(&mut self, changes: &[Change]) {
        let Some(listening) = self.listening.as_mut().filter(|_| !changes.is_empty()) else {
            return;
        };
        let prepared = std::mem::take(&mut listening.prepared);
        let before = listening.channels.clone();
        for change in changes {
            match change {
                Change::Listen(channel) if listening.channels.contains(channel) => (),
                Change::Listen(channel) => listening.channels.push(Arc::clone(channel)),
                Change::Unlisten(None) => listening.channels.clear(),
                Change::Unlisten(Some(channel)) => listening.channels.retain(|it| it != channel),
            }
        }
        let left = before.iter().chain(&prepared).filter(|it| !listening.channels.contains(it));
        left.for_each(|it| self.database.state.listen.unlisten(it, &listening.inbox));
    }

    /// After ROLLBACK, or a COMMIT that failed.
    pub(super) fn drop_listens(&mut self) {
        let Some(listening) = &mut self.listening else { return };
        for channel in std::mem::take(&mut listening.prepared) {
            self.database.state.listen.unlisten(&channel, &listening.inbox);
        }
    }

    /// UNLISTEN * at once: DISCARD ALL, the end of the session.
    pub(super) fn stop_listening(&mut self) {
        if let Some(listening) = self.listening.take() {
            self.database.state.listen.forget(&listening.inbox);
        }
    }

    /// Gives an idle client its notifications. In a block they wait for its end; those that the client
    /// does not take wait in the inbox, which has a bound.
    pub(super) async fn deliver(&mut self) -> Result<(), Failure> {
        let in_utf8 = self.speaks_utf8();
        while let Some(listening) = self.listening.as_ref().filter(|_| self.tx.is_none()) {
            listening.inbox.hand_on(&mut self.client.out, HIGH_WATER, in_utf8);
            if self.client.out.is_empty() {
                break;
            }
            self.flush().await?;
        }
        Ok(())
    }

    /// Before ReadyForQuery: outside of a transaction the client gets what was notified so far, its
    /// own notifications among it, as from a server of its own.
    pub(super) async fn hear(&mut self) {
        let listens = self.listening.as_ref().is_some_and(|it| !it.channels.is_empty());
        if !listens || self.tx.is_some() {
            return;
        }
        // Servers need not wait.
        self.release();
        self.database.state.listen.catch_up(CATCH_UP).await;
        let in_utf8 = self.speaks_utf8();
        if let Some(listening) = &self.listening {
            listening.inbox.hand_on(&mut self.client.out, usize::MAX, in_utf8);
        }
    }

    /// Whether the client reads UTF8, as far as the session knows.
    pub(super) fn speaks_utf8(&self) -> bool {
        let Some(Setting::Value(it) | Setting::Statement(it)) =
            self.settings.get("client_encoding")
        else {
            return true;
        };
        let name: String = it.chars().filter(char::is_ascii_alphanumeric).collect();
        ["utf8", "unicode", "sqlascii"].contains(&name.to_ascii_lowercase().as_str())
    }
}
