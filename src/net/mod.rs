//! Sockets: streams, clients' buffers and the listener.

pub mod backlog;
pub mod client;
pub mod listener;
pub mod stream;

pub use backlog::Backlog;
pub use client::Client;
pub use stream::{Peer, Stream};
