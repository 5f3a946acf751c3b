//! A sharding-aware Postgres proxy.

pub mod auth;
pub mod catalog;
pub mod config;
pub mod error;
pub mod merge;
pub mod plan;
pub mod playground;
pub mod shard;
pub mod wire;
