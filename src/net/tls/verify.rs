//! Whether a server's certificate is good enough for its `sslmode`, as libpq decides it. Beyond what
//! webpki takes, that means: a certificate that `sslrootcert` itself holds, one of X.509 version 1, and
//! one that names its host by its CN only.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;

use super::{TlsError, accept, certificate};
use crate::config::{Host, SslMode};

/// Checks the certificate of one server.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    /// None: whoever it is.
    trusted: Option<Trusted>,
    /// The host it must be issued for; none: any.
    name: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What `sslrootcert` holds.
#[derive(Debug)]
struct Trusted {
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl ServerVerifier {
    /// As the server's URL says. `require` with an `sslrootcert` verifies the CA, as in libpq.
    pub(super) fn load(host: &Host, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let trusted = match &host.tls.root {
            Some(file) if host.tls.mode >= SslMode::Require => Some(Trusted {
                roots: accept::roots("sslrootcert", file)?,
                certificates: certificate::chain("sslrootcert", file)?,
            }),
            _ => None,
        };
        let name = (host.tls.mode == SslMode::VerifyFull).then(|| host.host.clone());
        Ok(Self { trusted, name, algorithms: provider.signature_verification_algorithms })
    }

    fn verify_chain(
        &self,
        trusted: &Trusted,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if trusted.certificates.iter().any(|it| it.as_ref() == end_entity.as_ref()) {
            return certificate::check_dates(&parsed(end_entity)?, now);
        }
        let Ok(read) = ParsedCertificate::try_from(end_entity) else {
            return self.verify_plain(trusted, &parsed(end_entity)?, now);
        };
        let (roots, all) = (&trusted.roots, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&read, roots, intermediates, now, all)
    }

    /// A certificate without extensions, which a root must have signed itself.
    fn verify_plain(
        &self,
        trusted: &Trusted,
        end_entity: &Certificate,
        now: UnixTime,
    ) -> Result<(), Error> {
        certificate::check_dates(end_entity, now)?;
        let roots = trusted.certificates.iter().filter_map(|it| certificate::parse(it));
        let all = self.algorithms.all;
        match roots.into_iter().any(|root| certificate::is_issued_by(end_entity, &root, all)) {
            true => Ok(()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    /// By its alternative names; by its CN only if it has none.
    fn verify_name(&self, wanted: &str, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        let fields = parsed(end_entity)?;
        if !certificate::has_alternative_names(&fields) {
            let common_name = certificate::common_name(&fields);
            return match common_name.is_some_and(|it| is_name_of(&it, wanted)) {
                true => Ok(()),
                false => Err(CertificateError::NotValidForName.into()),
            };
        }
        let name = ServerName::try_from(wanted)
            .map_err(|_| Error::from(CertificateError::NotValidForName))?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &name)
    }
}

fn parsed(der: &CertificateDer<'_>) -> Result<Certificate, Error> {
    certificate::parse(der).ok_or_else(|| CertificateError::BadEncoding.into())
}

/// Whether a name in a certificate means a host: `*.` stands for one label.
fn is_name_of(written: &str, host: &str) -> bool {
    match written.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && rest.eq_ignore_ascii_case(domain) && domain.contains('.')
        }),
        None => written.eq_ignore_ascii_case(host),
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(trusted) = &self.trusted {
            self.verify_chain(trusted, end_entity, intermediates, now)?;
        }
        if let Some(name) = &self.name {
            self.verify_name(name, end_entity)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        end_entity: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match ParsedCertificate::try_from(end_entity) {
            Ok(_) => verify_tls12_signature(message, end_entity, signed, &self.algorithms),
            Err(_) => self.verify_by_key(message, end_entity, signed),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end_entity: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match ParsedCertificate::try_from(end_entity) {
            Ok(_) => verify_tls13_signature(message, end_entity, signed, &self.algorithms),
            Err(_) => self.verify_by_key(message, end_entity, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerVerifier {
    /// The handshake's signature by the key of a certificate that webpki does not read.
    fn verify_by_key(
        &self,
        message: &[u8],
        end_entity: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let fields = parsed(end_entity)?;
        let mapping = self.algorithms.mapping.iter().find(|(it, _)| *it == signed.scheme);
        let algorithms = mapping.map(|(_, algorithms)| *algorithms).unwrap_or_default();
        match certificate::has_signed(&fields, algorithms, message, signed.signature()) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_label() {
        assert!(is_name_of("DB.example.com", "db.example.com"));
        assert!(is_name_of("*.example.com", "db.example.com"));
        assert!(!is_name_of("*.example.com", "a.db.example.com"));
        assert!(!is_name_of("*.example.com", "example.com"));
        assert!(!is_name_of("*.com", "example.com"));
        assert!(!is_name_of("db.example.com", "db.example.com.evil"));
    }
}
