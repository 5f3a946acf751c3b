//! TLS towards a server, as its URL says.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::BytesMut;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection};
use tokio::net::TcpStream;

use super::verify::ServerVerifier;
use super::{ALPN, TlsError, TlsStream, certificate, provider};
use crate::config::Host;

/// Ready to shake hands with one server.
#[derive(Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// Reads the files that the URL names; they count as they are at each connection.
    ///
    /// # Errors
    /// The parameter and the file that cannot be used, and why.
    pub fn load(host: &Host) -> Result<Self, TlsError> {
        Self::speaking(ALPN, host)
    }

    /// As [`Self::load`], for a server of HTTP.
    ///
    /// # Errors
    /// As there.
    pub fn load_https(host: &Host) -> Result<Self, TlsError> {
        Self::speaking(b"http/1.1", host)
    }

    fn speaking(protocol: &[u8], host: &Host) -> Result<Self, TlsError> {
        let provider = provider();
        let verifier = ServerVerifier::load(host, &provider)?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new("sslmode", &host.host, error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &host.tls.certificate {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let chain = certificate::chain("sslcert", file)?;
                let key_file = host.tls.key.as_ref().unwrap_or(file);
                let key = certificate::private_key("sslkey", key_file)?;
                let key = provider
                    .key_provider
                    .load_private_key(key)
                    .map_err(|error| TlsError::new("sslkey", key_file, error))?;
                let certified = SingleCertAndKey::from(CertifiedKey::new(chain, key));
                builder.with_client_cert_resolver(Arc::new(certified))
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name: name_of(&host.host) })
    }

    /// Shakes hands with the server.
    ///
    /// # Errors
    /// As the socket reports, or `InvalidData` if the server is not the one wanted.
    pub async fn connect(&self, tcp: TcpStream, input: &mut BytesMut) -> io::Result<TlsStream> {
        let session = ClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map_err(io::Error::other)?;
        let stream = TlsStream::handshake(tcp, session.into(), &[], input).await?;
        let end_point = stream.certificate().and_then(certificate::end_point).map(Arc::from);
        Ok(stream.with_end_point(end_point))
    }
}

/// The name to ask for; an address that stands for none where DNS has no such names.
fn name_of(host: &str) -> ServerName<'static> {
    let nameless = || ServerName::IpAddress(IpAddr::from(Ipv4Addr::UNSPECIFIED).into());
    ServerName::try_from(host.to_owned()).unwrap_or_else(|_| nameless())
}
