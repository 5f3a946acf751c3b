//! A read whose server goes away, or must not finish it, before the client was told anything is run once
//! more, on another host.
//!
//! That is for what is proven to read only, outside of a transaction, by a session that keeps nothing on
//! its servers: whoever runs it instead gives the same answer. What the failed server said is taken back;
//! a second failure is the client's to know.

use std::sync::Arc;

use super::Session;
use crate::error::{PgError, sqlstate};
use crate::pool::cluster::Host;
use crate::pool::{Pool, Standing};
use crate::server::Loss;
use crate::shard::ShardId;

/// How much a client was told: bytes sent to it, and those that wait for it.
#[derive(Clone, Copy)]
pub(super) struct Told {
    sent: u64,
    waiting: usize,
}

/// Where the read at hand has failed.
pub(super) enum Avoid {
    Host(Arc<Standing>),
    Replicas,
}

impl Told {
    /// How many of the bytes that waited still do, when so many are sent; none if something was said since.
    fn left(self, sent: u64) -> Option<usize> {
        (self.sent + self.waiting as u64).checked_sub(sent).map(|it| it as usize)
    }
}

impl Avoid {
    /// Whether it is not to run there.
    pub(super) fn is(&self, host: &Host) -> bool {
        match self {
            Self::Host(standing) => Arc::ptr_eq(standing, &host.standing),
            Self::Replicas => !host.is_primary,
        }
    }
}

impl Session {
    /// What the client was told up to now.
    pub(super) fn told_so_far(&self) -> Told {
        Told { sent: self.client.sent, waiting: self.client.out.len() }
    }

    /// Whether what comes next can be run again if it fails.
    pub(super) fn may_repeat(&self, writes: bool) -> bool {
        !writes && self.tx.is_none() && self.avoid.is_none() && !self.keeps_servers()
    }

    /// Notes of a member's server that its next request can be run again; `hides`: what the server says
    /// of it is kept from the client.
    pub(super) fn watch_loss(&mut self, at: usize, hides: bool) {
        let member = &mut self.members[at];
        let is_replica = !member.is_primary;
        member.server().watch_loss(if hides { Loss::Hide } else { Loss::Note }, is_replica);
    }

    /// Whether a read is to be run again: its server was lost, and nothing said since `told` has been sent.
    /// Then that is taken back, and the host avoided.
    pub(super) fn repeats(&mut self, told: Told) -> bool {
        let lost = self.members.iter_mut().position(|it| it.server().found_loss());
        let left = told.left(self.client.sent).filter(|_| self.tx.is_none());
        let (Some(at), Some(left)) = (lost, left) else { return false };
        self.client.out.truncate(left);
        let lease = &mut self.members[at].lease;
        let is_conflict = lease.server().found_conflict();
        let pool = Arc::clone(lease.pool());
        self.avoid(&pool, is_conflict);
        self.release();
        true
    }

    /// The request at hand goes elsewhere; after a conflict to the primary, since other replicas are about
    /// to replay the same.
    pub(super) fn avoid(&mut self, pool: &Pool, is_conflict: bool) {
        pool.standing.repeated();
        tracing::debug!(session = self.handle.pid, host = %pool.target.host, "a read is repeated");
        self.avoid = Some(match is_conflict {
            true => Avoid::Replicas,
            false => Avoid::Host(Arc::clone(&pool.standing)),
        });
    }
}

/// Neither a replica nor the primary in its place can take a read.
pub(super) fn unavailable(shard: ShardId, percent: u32, limit: usize) -> PgError {
    PgError::new(
        sqlstate::CANNOT_CONNECT_NOW,
        format!("no replica of shard {shard} can be used now"),
    )
    .detail(format!(
        "its primary runs as many of their reads as it may: {limit} (health.primary_fallback = {percent}% of pool.size)"
    ))
    .hint("try again; SHOW HOSTS on the admin console tells the state of every host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waited_before_may_be_sent_meanwhile() {
        let told = Told { sent: 100, waiting: 30 };
        assert_eq!(
            [100, 110, 130, 131].map(|it| told.left(it)),
            [Some(30), Some(20), Some(0), None]
        );
    }
}
