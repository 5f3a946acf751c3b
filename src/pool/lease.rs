//! Guards: a leased server and a reserved place, which give themselves back when dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fallback::Permit;
use super::pool::Pool;
use crate::net::Moment;
use crate::server::Server;
use crate::wire::pipeline::TxStatus;

/// How long an abandoned server may take to end its statement and roll back.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// A server on loan. Dropped clean, it goes back to its pool; dropped in a transaction or in the
/// middle of a result, it is cancelled, rolled back and resynchronised first, in the background.
pub struct Lease {
    server: Option<Box<Server>>,
    pool: Arc<Pool>,
    is_primary: bool,
    /// For a read that takes the place of one on a replica.
    _permit: Option<Permit>,
}

impl Lease {
    pub(super) fn new(mut server: Box<Server>, pool: Arc<Pool>) -> Self {
        server.leases += 1;
        pool.numbers.outstanding.fetch_add(1, Ordering::Relaxed);
        pool.standing.begin();
        Self { server: Some(server), pool, is_primary: true, _permit: None }
    }

    /// The server.
    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("taken out only at the end")
    }

    /// Whether the server still owes replies.
    pub fn is_owing(&self) -> bool {
        self.server.as_ref().is_some_and(|it| it.is_owing())
    }

    /// The state of the server's transaction.
    pub fn tx(&self) -> TxStatus {
        self.server.as_ref().map_or(TxStatus::Idle, |it| it.tx())
    }

    /// The pool it belongs to.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The same lease, noted as of a primary or a replica.
    #[must_use]
    pub fn of_primary(mut self, is_primary: bool) -> Self {
        self.is_primary = is_primary;
        self
    }

    /// The same lease, with a place among the reads of lost replicas.
    #[must_use]
    pub fn with(mut self, permit: Option<Permit>) -> Self {
        self._permit = permit;
        self
    }

    /// Whether the server is its shard's primary.
    pub fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// Gives a server back that a session had kept, with all it had made on it forgotten.
    pub fn reset(mut self) {
        let Some(mut server) = self.take() else { return };
        let pool = Arc::clone(&self.pool);
        if server.is_lost() {
            pool.note_failure();
        }
        if server.is_broken() || tokio::runtime::Handle::try_current().is_err() {
            drop(server);
            return pool.free_slot();
        }
        let cleaning = Cleaning::of(&pool);
        tokio::spawn(async move {
            let reset = async {
                server.clean_up().await?;
                server.run("DISCARD ALL").await
            };
            let done = tokio::time::timeout(CLEAN_UP, reset).await;
            server.statements.clear();
            server.settings = Default::default();
            drop(cleaning);
            if matches!(done, Ok(Ok(()))) && server.is_reusable() {
                pool.give_back(server, Moment::now());
            } else {
                drop(server);
                pool.free_slot();
            }
        });
    }

    /// Gives the server back as of `now`: as dropping the lease does, without a look at the clock.
    pub fn give_back(mut self, now: Moment) {
        if !self.server().is_reusable() {
            return; // cleaned up by `drop`
        }
        if let Some(server) = self.take() {
            self.pool.give_back(server, now);
        }
    }

    /// Closes the connection instead of giving it back.
    pub fn discard(mut self) {
        if self.take().is_some() {
            self.pool.free_slot();
        }
    }

    pub(super) fn into_server(mut self) -> Box<Server> {
        self.take().expect("taken out only at the end")
    }

    fn take(&mut self) -> Option<Box<Server>> {
        let server = self.server.take()?;
        self.pool.numbers.outstanding.fetch_sub(1, Ordering::Relaxed);
        self.pool.standing.end();
        Some(server)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut server) = self.take() else { return };
        let pool = Arc::clone(&self.pool);
        if server.is_reusable() {
            return pool.give_back(server, Moment::now());
        }
        if server.is_lost() {
            pool.note_failure();
        }
        let is_lost = server.is_broken() || server.holds_lock;
        if is_lost || tokio::runtime::Handle::try_current().is_err() {
            drop(server);
            return pool.free_slot();
        }
        let cleaning = Cleaning::of(&pool);
        tokio::spawn(async move {
            let cleaned = tokio::time::timeout(CLEAN_UP, server.clean_up()).await;
            drop(cleaning);
            // It does not even take a cancel request, or was lost meanwhile.
            if cleaned.is_err() || server.is_lost() {
                pool.note_failure();
            }
            if matches!(cleaned, Ok(Ok(()))) && server.is_reusable() {
                pool.give_back(server, Moment::now());
            } else {
                drop(server);
                pool.free_slot();
            }
        });
    }
}

/// Counts a server that is cleaned up, as long as it is.
struct Cleaning(Arc<Pool>);

impl Cleaning {
    fn of(pool: &Arc<Pool>) -> Self {
        pool.numbers.cleaning.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(pool))
    }
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        self.0.numbers.cleaning.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to open one connection. Dropped unfilled, the place is free again.
pub struct Slot {
    pool: Option<Arc<Pool>>,
}

impl Slot {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool: Some(pool) }
    }

    /// The connection stands: its place is given back when it ends.
    pub(super) fn fill(mut self) {
        self.pool = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.free_slot();
        }
    }
}
