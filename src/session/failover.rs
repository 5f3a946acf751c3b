//! A shard without a primary: what has not begun waits for one. And what became of what had begun.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Session, timeouts};
use crate::error::{PgError, sqlstate};
use crate::exec::Failure;
use crate::net::Moment;
use crate::pool::Lease;
use crate::pool::cluster::Host;
use crate::shard::ShardId;

/// How often a primary is tried that cannot be reached, where nobody else tells that it is back.
pub(super) const RETRY: Duration = Duration::from_millis(150);

/// The hint of whom it did not reach.
const NOTHING_HAPPENED: &str = "the transaction did not happen: repeat it";

impl Session {
    /// A connection to the shard's primary. While there is none, waits for one, up to
    /// `failover_wait`; nothing of the statement has begun.
    ///
    /// # Errors
    /// 57P03 after that, with the shard's name; what the server says that is not passing.
    pub(super) async fn lease_primary(&mut self, shard: ShardId) -> Result<Lease, Failure> {
        let (mut end, mut granted) = (None, self.granted.take());
        // What the server or the way to it has against us, which says more than that it is left alone.
        let mut cause = None;
        loop {
            let Some(hosts) = self.database.shards.get(&shard) else {
                return Err(PgError::refused(format!("shard {shard} is not configured")).into());
            };
            let (state, primary) = (Arc::clone(&hosts.state), Arc::clone(&hosts.primary));
            // Told from now on: what happens between the look and the wait is not missed.
            let mut settled = pin!(state.settled.notified());
            settled.as_mut().enable();
            let error = match hosts.is_open() {
                true if !primary.standing.admit(Moment::now()) => {
                    cause.clone().unwrap_or_else(|| primary.left_alone(Moment::now()))
                }
                true => match self.take(&primary, &mut granted).await {
                    Ok(lease) => return Ok(lease.of_primary(true)),
                    Err(error) if !error.is_passing => return Err(error.into()),
                    Err(error) => cause.insert(error).clone(),
                },
                false => state.error(&self.database.name),
            };
            let wait = self.database.config.failover_wait;
            let end = *end.get_or_insert_with(|| Instant::now() + wait);
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.without_primary(shard, &primary, error).into());
            }
            let pause = pin!(tokio::time::sleep(left.min(RETRY)));
            let waited = async {
                tokio::select! {
                    () = pause => (),
                    () = settled => (),
                }
                Ok(())
            };
            timeouts::in_time(&self.handle, pin!(waited)).await?;
            self.renew();
        }
    }

    /// Takes up the roles that hosts have now. The map of a running statement stays.
    pub(super) fn renew(&mut self) {
        let cluster = self.proxy.cluster.load_full();
        let Some(database) = cluster.databases.get(&*self.database.name) else { return };
        if !Arc::ptr_eq(database, &self.database) && database.config == self.database.config {
            (self.database, self.cluster) = (Arc::clone(database), Arc::clone(&cluster));
        }
    }

    /// The error of a wait in vain.
    fn without_primary(&self, shard: ShardId, host: &Host, error: PgError) -> PgError {
        if error.code == sqlstate::TOO_MANY_CONNECTIONS {
            return error;
        }
        let name = &self.database.name;
        let why = match &error.detail {
            Some(detail) => format!("{}: {detail}", error.message),
            None => error.message.clone(),
        };
        let wait = crate::config::show_duration(self.database.config.failover_wait);
        PgError {
            message: format!("shard {shard} of database {name:?} has no primary"),
            detail: Some(format!("none within failover_wait = {wait}; {}: {why}", host.address)),
            code: sqlstate::CANNOT_CONNECT_NOW.into(),
            ..error
        }
    }

    /// Whether the session has something on a server of the shard that another would not have.
    pub(super) fn is_tied(&self, shard: ShardId) -> bool {
        self.keeps_servers() || self.members.iter().any(|it| it.shard == shard && it.in_tx)
    }

    /// If the outcome is that a server was lost before it was sent anything, lets go of it: the same may
    /// be sent to another. Only for what began with that server.
    pub(super) fn forget_lost<T>(&mut self, done: &Result<T, Failure>) -> bool {
        let is_unsent =
            matches!(done, Err(Failure::Error(error)) if error.is_passing && is_loss(error));
        if is_unsent {
            self.drop_broken();
        }
        is_unsent
    }

    /// Lets go of servers that were lost.
    pub(super) fn drop_broken(&mut self) {
        // Before: a cancel request must not find them here any more.
        self.handle.servers.lock().clear();
        self.members.retain_mut(|it| !it.server().is_broken());
        let mut servers = self.handle.servers.lock();
        servers.extend(self.members.iter_mut().map(|it| Arc::clone(&it.server().cancel)));
    }

    /// The failure of a statement, with what is known of its transaction if the server was lost.
    /// `writes`: a statement of its own, without a block around it, may have written.
    pub(super) fn told_of_loss(&self, failure: Failure, writes: bool) -> Failure {
        match failure {
            Failure::Error(error) if !is_loss(&error) => error.into(),
            // The server's own last word, which ends a session that kept it.
            Failure::Error(error)
                if error.code != sqlstate::CONNECTION_FAILURE
                    && self.keeps_servers()
                    && (self.tx.is_some() || !writes) =>
            {
                error.into()
            }
            Failure::Error(error) if error.code != sqlstate::CONNECTION_FAILURE => {
                let lost = PgError::new(sqlstate::CONNECTION_FAILURE, "the server was lost");
                let lost = PgError { is_passing: error.is_passing, ..lost };
                self.told_of_loss(lost.detail(error.message).into(), writes)
            }
            Failure::Error(error) if self.tx.is_some() || error.is_passing => {
                error.hint(NOTHING_HAPPENED).into()
            }
            Failure::Error(error) if writes => in_doubt(error, "the statement").into(),
            other => other,
        }
    }
}

/// Whether a server was lost: its connection, or it said that it stops or has crashed.
pub(super) fn is_loss(error: &PgError) -> bool {
    [sqlstate::CONNECTION_FAILURE, sqlstate::ADMIN_SHUTDOWN, "57P02"]
        .iter()
        .any(|it| error.code == *it)
}

/// The error of a commit whose server was lost before it answered.
pub(super) fn in_doubt(error: PgError, what: &str) -> PgError {
    if error.is_passing {
        let code = sqlstate::CONNECTION_FAILURE.into();
        return PgError { code, ..error }.hint(NOTHING_HAPPENED);
    }
    let why = [Some(error.message), error.detail].into_iter().flatten().collect::<Vec<_>>();
    PgError::new(
        sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
        format!("{what} may or may not have happened: its server was lost before it answered"),
    )
    .detail(why.join(": "))
    .hint("look whether it has happened before repeating it")
}
