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
use crate::config::{Host, SYSTEM, SslMode};

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

impl Trusted {
    /// The CAs this machine trusts.
    fn system() -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (count, _) = roots.add_parsable_certificates(found.certs);
        match count {
            0 => {
                Err(TlsError::new("sslrootcert", SYSTEM, "this machine has no certificates of CAs"))
            }
            _ => Ok(Self { roots, certificates: Vec::new() }),
        }
    }
}

impl ServerVerifier {
    /// As the server's URL says. `require` with an `sslrootcert` verifies the CA, as in libpq.
    pub(super) fn load(host: &Host, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let trusted = match host.tls.root.as_deref() {
            Some(SYSTEM) => Some(Trusted::system()?),
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
    use std::time::Duration;

    use super::*;

    const DAYS: u64 = 25_000;

    fn shown(name: &str) -> CertificateDer<'static> {
        let file = format!("tests/certificates/{name}.crt");
        certificate::chain("test", &file).unwrap().remove(0)
    }

    fn verdict(name: &str, host: &str, root: &str, mode: SslMode, days: u64) -> Result<(), Error> {
        verdict_on(&shown(name), host, root, mode, days)
    }

    fn verdict_on(
        shown: &CertificateDer<'_>,
        host: &str,
        root: &str,
        mode: SslMode,
        days: u64,
    ) -> Result<(), Error> {
        let mut tls = crate::config::HostTls { mode, ..Default::default() };
        tls.root = Some(format!("tests/certificates/{root}.crt"));
        let (user, database) = (String::new(), String::new());
        let host = Host { host: host.into(), port: 1, user, password: None, database, tls };
        let verifier = ServerVerifier::load(&host, &super::super::provider()).unwrap();
        let any = ServerName::try_from("any").unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(days * 86_400));
        verifier.verify_server_cert(shown, &[], &any, &[], now).map(drop)
    }

    /// Certificates of the kinds that Postgres' own documentation tells to make.
    #[test]
    fn what_libpq_trusts_is_trusted() {
        use SslMode::{Prefer, Require, VerifyCa, VerifyFull};
        let verify = |name, host, root, mode| verdict(name, host, root, mode, DAYS);
        for name in ["version1", "own_ca"] {
            let root = if name == "own_ca" { name } else { "ca" };
            assert_eq!(verify(name, "db.example", root, VerifyFull), Ok(()));
            assert_eq!(verify(name, "other", root, VerifyCa), Ok(()));
            let wrong = CertificateError::NotValidForName;
            assert_eq!(verify(name, "other", root, VerifyFull), Err(wrong.into()));
            assert!(verify(name, "db.example", "ed25519", Require).is_err());
            assert_eq!(verify(name, "db.example", "ed25519", Prefer), Ok(()));
            for (days, error) in
                [(1, CertificateError::NotValidYet), (90_000, CertificateError::Expired)]
            {
                assert_eq!(verdict(name, "db.example", root, VerifyCa, days), Err(error.into()));
            }
        }
        // With alternative names the CN does not count.
        assert!(verify("pss", "db.example", "pss", VerifyFull).is_err());
        assert_eq!(verify("pss", "other.example", "pss", VerifyFull), Ok(()));
    }

    #[test]
    fn a_forged_signature_is_seen() {
        let mut forged = shown("version1").to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let verdict = verdict_on(&forged.into(), "db.example", "ca", SslMode::VerifyCa, DAYS);
        assert_eq!(verdict, Err(CertificateError::UnknownIssuer.into()));
    }

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
