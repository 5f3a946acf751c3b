//! Pools of server connections, and the snapshot of shards, hosts and pools a transaction uses.

pub mod addresses;
pub mod budget;
pub mod catalog;
pub mod cluster;
pub mod control;
mod control_connection;
mod drift;
mod fallback;
mod full;
pub mod health;
mod ids;
pub mod in_doubt;
mod lease;
mod line;
pub mod listen;
pub mod login;
pub mod lookup;
pub mod patroni;
#[expect(clippy::module_inception, reason = "the folder's noun")]
mod pool;
mod quota;
pub mod replay;
pub mod sequences;
mod shard_state;
pub mod sleep;
mod standing;
mod suspects;
pub mod unique;
pub mod writes;

pub use fallback::{Fallback, Permit};
pub use lease::{Lease, Slot};
pub use line::{Grant, Place};
pub use pool::{Pool, PoolLimits, PoolNumbers, PoolState};
pub use quota::Quota;
pub use shard_state::ShardState;
pub use standing::{Shown, Standing};
