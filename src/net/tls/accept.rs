//! TLS towards clients.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio::net::TcpStream;

use super::{ALPN, TlsError, TlsStream, certificate, provider};
use crate::config::ListenTls;

/// The proxy's certificate, ready to shake hands.
#[derive(Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// The key and the file that cannot be used, and why.
    pub fn load(tls: &ListenTls) -> Result<Self, TlsError> {
        let provider = provider();
        let chain = certificate::chain("listen.tls_certificate", &tls.certificate)?;
        let key_error =
            |why: &dyn std::fmt::Display| TlsError::new("listen.tls_key", &tls.key, why);
        let key = certificate::private_key("listen.tls_key", &tls.key)?;
        let key = provider.key_provider.load_private_key(key).map_err(|error| key_error(&error))?;
        let end_entity = certificate::parse(&chain[0]).ok_or_else(|| {
            TlsError::new("listen.tls_certificate", &tls.certificate, "is no X.509 certificate")
        })?;
        if !certificate::has_key(&end_entity, key.public_key().as_deref()) {
            return Err(key_error(&format!("is not the key of {}", tls.certificate)));
        }
        let end_point = certificate::end_point(&chain[0]).map(Arc::from);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| key_error(&error))?;
        let builder = match &tls.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let roots = Arc::new(roots("listen.tls_client_ca", file)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| TlsError::new("listen.tls_client_ca", file, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let certified = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        let mut config = builder.with_cert_resolver(Arc::new(certified));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // As Postgres: no session is resumed, so that a certificate is always shown and checked.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), end_point })
    }

    /// Shakes hands with a client. `early` is what it sent already of that; what it sends after it goes
    /// to `input`.
    ///
    /// # Errors
    /// As the socket reports, or `InvalidData` if the client does not want what we can.
    pub async fn accept(
        &self,
        tcp: TcpStream,
        early: &[u8],
        input: &mut BytesMut,
    ) -> io::Result<TlsStream> {
        let session = ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        let stream = TlsStream::handshake(tcp, session.into(), early, input).await?;
        Ok(stream.with_end_point(self.end_point.clone()))
    }
}

/// The CAs of a file.
pub(super) fn roots(key: &'static str, file: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificate::chain(key, file)? {
        roots.add(root).map_err(|error| TlsError::new(key, file, error))?;
    }
    Ok(roots)
}
