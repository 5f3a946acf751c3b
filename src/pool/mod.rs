//! Pools of server connections, and the snapshot of shards, hosts and pools a transaction uses.

pub mod catalog;
pub mod cluster;
pub mod control;
mod control_connection;
pub mod health;
mod lease;
pub mod listen;
pub mod login;
pub mod lookup;
#[expect(clippy::module_inception, reason = "the folder's noun")]
mod pool;
mod quota;
mod suspects;

pub use lease::Lease;
pub use pool::{Pool, PoolLimits, PoolNumbers, PoolState};
pub use quota::Quota;
