//! A sharding-aware Postgres proxy.

pub mod admin;
pub mod app;
pub mod auth;
pub mod balance;
pub mod catalog;
pub mod config;
pub mod error;
pub mod exec;
pub mod merge;
pub mod metrics;
pub mod net;
pub mod plan;
pub mod playground;
pub mod pool;
pub mod proxy;
pub mod server;
pub mod session;
pub mod shard;
pub mod sql;
pub mod wire;
