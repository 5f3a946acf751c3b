//! Sockets: streams and TLS, clients' buffers, the listener and the Unix socket.

pub mod backlog;
pub mod client;
pub mod listener;
mod moment;
pub mod stream;
pub mod tape;
pub mod thread;
pub mod tls;
pub mod unix;

pub use backlog::Backlog;
pub use client::Client;
pub use moment::{Limit, Moment};
pub use stream::{Peer, Stream};
pub use tape::Tape;
pub use thread::Thread;
pub use tls::PeerCertificate;
