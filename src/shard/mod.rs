//! Tenant keys, the buckets they hash to, and the map from buckets to shards.

pub mod key;
pub mod map;

pub use key::{Key, KeyError, KeyType, SLOTS};
pub use map::{Map, MapError, ShardId, ShardSet};
