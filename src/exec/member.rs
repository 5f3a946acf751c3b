//! A leased server as part of a session's transaction.

use std::time::Instant;

use crate::pool::Lease;
use crate::server::Server;
use crate::shard::ShardId;

/// A server that a session holds, for a statement or for a transaction.
pub struct Member {
    pub shard: ShardId,
    pub is_primary: bool,
    pub lease: Lease,
    /// Whether BEGIN was sent to it.
    pub in_tx: bool,
    /// Whether the transaction may have written here.
    pub wrote: bool,
    pub since: Instant,
}

impl Member {
    /// The server.
    pub fn server(&mut self) -> &mut Server {
        self.lease.server()
    }
}
