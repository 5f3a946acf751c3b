//! A sharded, replicated Postgres on this machine, with the proxy in front of it.

mod account;
mod binaries;
pub mod cluster;
mod error;
mod file;
mod hints;
mod load;
mod ports;
mod run;
mod seed;
mod server;
mod settings;
mod spec;
mod sql;
mod state;
mod template;
mod watchdog;

pub use account::Account;
pub use binaries::Binaries;
pub use cluster::Cluster;
pub use error::PlaygroundError;
pub use file::{Front, toml};
pub use ports::is_free;
pub use run::{Options, Ready, run};
pub use server::{Server, Stop, children_of};
pub use spec::{ClusterSpec, Node, memory};
pub use sql::{Login, Rows};
