//! A read whose server goes away, or must not finish it, before the client was told anything is run once
//! more, on another host.
//!
//! That is for what is proven to read only, outside of a transaction, by a session that keeps nothing on
//! its servers: whoever runs it instead gives the same answer. What the failed server said is taken back;
//! a second failure is the client's to know.

use super::Session;
use crate::error::PgError;
use crate::server::Loss;

/// How much a client was told: bytes sent to it, and those that wait for it.
#[derive(Clone, Copy)]
pub(super) struct Told {
    sent: u64,
    waiting: usize,
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

    /// Whether a read is to be run again: its server was lost, and nothing since `told` has been sent.
    /// Then that is taken back, and the host avoided.
    pub(super) fn repeats(&mut self, told: Told) -> bool {
        let lost = self.members.iter_mut().position(|it| it.server().found_loss());
        let Some(at) = lost.filter(|_| self.client.sent == told.sent) else { return false };
        self.client.out.truncate(told.waiting);
        let pool = std::sync::Arc::clone(self.members[at].lease.pool());
        self.avoid(&pool);
        self.release();
        true
    }

    /// The request at hand goes elsewhere.
    pub(super) fn avoid(&mut self, pool: &crate::pool::Pool) {
        pool.standing.repeated();
        tracing::debug!(session = self.handle.pid, host = %pool.target.host, "a read is repeated");
        self.avoid = Some(std::sync::Arc::clone(&pool.standing));
    }
}

/// Neither a replica nor the primary in its place can take a read.
pub(super) fn unavailable(shard: crate::shard::ShardId, percent: u32, limit: usize) -> PgError {
    PgError::new(
        crate::error::sqlstate::CANNOT_CONNECT_NOW,
        format!("no replica of shard {shard} can be used now"),
    )
    .detail(format!(
        "its primary runs as many of their reads as it may: {limit} (health.primary_fallback = {percent}% of pool.size)"
    ))
    .hint("try again; SHOW HOSTS on the admin console tells the state of every host")
}
