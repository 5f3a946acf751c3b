//! Sockets: streams, clients' buffers and the listener.

pub mod client;
pub mod listener;
pub mod stream;
pub mod thread;

pub use client::Client;
pub use stream::{Peer, Stream};
pub use thread::Thread;
