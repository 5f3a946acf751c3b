//! A sharding-aware Postgres proxy.

pub mod catalog;
pub mod config;
pub mod error;
pub mod merge;
pub mod plan;
pub mod shard;
pub mod sql;
