//! TLS on both sides.
//!
//! * [`Acceptor`]: towards clients, the proxy's own certificate. * [`Connector`]: towards a server, as its
//!   URL says. * [`TlsStream`]: what both make of a TCP connection.
//! * [`certificate`]: what certificates say of themselves, and what channel binding takes of them.

mod accept;
pub mod certificate;
mod connect;
mod stream;
mod verify;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use accept::Acceptor;
pub use certificate::PeerCertificate;
pub use connect::Connector;
pub use stream::TlsStream;

/// The protocol's name in ALPN: <https://www.postgresql.org/docs/current/protocol-flow.html>.
const ALPN: &[u8] = b"postgresql";

/// A file of certificates or keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {file}: {why}")]
pub struct TlsError {
    /// The key or the parameter that names the file.
    pub key: &'static str,
    pub file: String,
    pub why: String,
}

impl TlsError {
    fn new(key: &'static str, file: &str, why: impl std::fmt::Display) -> Self {
        Self { key, file: file.to_owned(), why: why.to_string() }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
