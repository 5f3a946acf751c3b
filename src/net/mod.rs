//! Sockets: streams, clients' buffers and the listener.

pub mod client;
pub mod listener;
pub mod stream;

pub use client::Client;
pub use stream::{Peer, Stream};
