//! What certificates say of themselves, and reading them from files.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::{CertificateError, Error};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::TlsError;

/// Whom a verified certificate was issued for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The CN of the subject.
    pub common_name: Option<String>,
    /// The subject as RFC 4514 writes it, the most special part first: `CN=app,O=Example`.
    pub subject: String,
}

/// The certificates of a file in PEM.
pub(super) fn chain(
    key: &'static str,
    file: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(key, file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsError::new(key, file, "has no CERTIFICATE in PEM")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(TlsError::new(key, file, error)),
    }
}

/// The first private key of a file in PEM.
pub(super) fn private_key(
    key: &'static str,
    file: &str,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(key, file)?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| TlsError::new(key, file, "has no unencrypted PRIVATE KEY in PEM"))
}

fn read(key: &'static str, file: &str) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|error| TlsError::new(key, file, error))
}

/// The certificate's fields.
pub(super) fn parse(der: &[u8]) -> Option<Certificate> {
    Certificate::from_der(der).ok()
}

/// Whom a certificate was issued for.
pub(super) fn peer(der: &[u8]) -> Option<PeerCertificate> {
    let certificate = parse(der)?;
    let subject = certificate.tbs_certificate().subject();
    Some(PeerCertificate { common_name: common_name(&certificate), subject: subject.to_string() })
}

/// The CN of the subject.
pub(super) fn common_name(certificate: &Certificate) -> Option<String> {
    let name = certificate.tbs_certificate().subject().common_name().ok()??;
    // A NUL would end the name for some readers and not for others.
    Some(name.value().into_owned()).filter(|it| !it.contains('\0'))
}

/// Whether the certificate is for this public key (a SubjectPublicKeyInfo); so it seems for keys that
/// do not tell theirs.
pub(super) fn has_key(certificate: &Certificate, key: Option<&[u8]>) -> bool {
    let own = certificate.tbs_certificate().subject_public_key_info().to_der();
    key.is_none_or(|key| own.is_ok_and(|own| own == key))
}

/// Whether it holds now.
pub(super) fn check_dates(certificate: &Certificate, now: UnixTime) -> Result<(), Error> {
    let validity = certificate.tbs_certificate().validity();
    let now = now.as_secs();
    match () {
        () if now < validity.not_before.to_unix_duration().as_secs() => {
            Err(CertificateError::NotValidYet.into())
        }
        () if now > validity.not_after.to_unix_duration().as_secs() => {
            Err(CertificateError::Expired.into())
        }
        () => Ok(()),
    }
}

/// Whether `issuer` has signed the certificate.
pub(super) fn is_issued_by(
    certificate: &Certificate,
    issuer: &Certificate,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> bool {
    if certificate.tbs_certificate().issuer() != issuer.tbs_certificate().subject() {
        return false;
    }
    let Some(signed_by) = contents(certificate.signature_algorithm()) else { return false };
    let (Ok(signed), Some(signature)) =
        (certificate.tbs_certificate().to_der(), certificate.signature().as_bytes())
    else {
        return false;
    };
    let fitting = algorithms.iter().filter(|it| it.signature_alg_id().as_ref() == signed_by);
    has_signed(issuer, &fitting.copied().collect::<Vec<_>>(), &signed, signature)
}

/// Whether the certificate's key has signed a message by one of the algorithms.
pub(super) fn has_signed(
    certificate: &Certificate,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let key = certificate.tbs_certificate().subject_public_key_info();
    let (Some(kind), Some(bits)) = (contents(&key.algorithm), key.subject_public_key.as_bytes())
    else {
        return false;
    };
    algorithms
        .iter()
        .filter(|it| it.public_key_alg_id().as_ref() == kind)
        .any(|it| it.verify_signature(bits, message, signature).is_ok())
}

/// What stands in the SEQUENCE of an AlgorithmIdentifier.
fn contents(algorithm: &impl Encode) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    let (header, contents) = der.split_at_checked(2)?;
    (usize::from(header[1]) == contents.len()).then(|| contents.to_vec())
}

/// Whether the certificate names hosts or addresses apart from its CN.
pub(super) fn has_alternative_names(certificate: &Certificate) -> bool {
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    found.ok().flatten().is_some_and(|(_, names)| {
        names.0.iter().any(|it| matches!(it, GeneralName::DnsName(_) | GeneralName::IpAddress(_)))
    })
}

/// `tls-server-end-point` of RFC 5929: the certificate's hash, by the hash of its signature, but never
/// a weaker one than SHA-256. None for signatures without one, as Ed25519.
pub(super) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    const RSA_PSS: &str = "1.2.840.113549.1.1.10";
    let certificate = parse(der)?;
    let algorithm = certificate.signature_algorithm();
    let hash = match algorithm.oid.to_string().as_str() {
        RSA_PSS => {
            let parameters = algorithm.parameters.as_ref().and_then(|it| it.to_der().ok());
            pss_hash(&parameters.unwrap_or_default())
        }
        oid => signature_hash(oid)?,
    };
    Some(match hash {
        Hash::Sha224 => Sha224::digest(der).to_vec(),
        Hash::Sha256 => Sha256::digest(der).to_vec(),
        Hash::Sha384 => Sha384::digest(der).to_vec(),
        Hash::Sha512 => Sha512::digest(der).to_vec(),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// The hash to use for a signature algorithm: that of RSA (PKCS #1) and ECDSA.
fn signature_hash(oid: &str) -> Option<Hash> {
    Some(match oid {
        // MD5, SHA-1, SHA-256
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => Hash::Sha256,
        "1.2.840.113549.1.1.12" => Hash::Sha384,
        "1.2.840.113549.1.1.13" => Hash::Sha512,
        "1.2.840.113549.1.1.14" => Hash::Sha224,
        // SHA-1, SHA-256
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => Hash::Sha256,
        "1.2.840.10045.4.3.1" => Hash::Sha224,
        "1.2.840.10045.4.3.3" => Hash::Sha384,
        "1.2.840.10045.4.3.4" => Hash::Sha512,
        _ => return None,
    })
}

/// The hash of RSASSA-PSS, named in its parameters (for the hash and for its mask, which are the same).
fn pss_hash(parameters: &[u8]) -> Hash {
    let hashes = [
        ("2.16.840.1.101.3.4.2.2", Hash::Sha384),
        ("2.16.840.1.101.3.4.2.3", Hash::Sha512),
        ("2.16.840.1.101.3.4.2.4", Hash::Sha224),
    ];
    let is_named = |oid: &str| {
        let oid = ObjectIdentifier::new_unwrap(oid);
        parameters.windows(oid.as_bytes().len()).any(|it| it == oid.as_bytes())
    };
    hashes.iter().find(|(oid, _)| is_named(oid)).map_or(Hash::Sha256, |(_, hash)| *hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> CertificateDer<'static> {
        chain("test", &format!("tests/certificates/{name}.crt")).unwrap().remove(0)
    }

    /// `openssl x509 -outform DER | openssl dgst`
    #[test]
    fn channel_binding_takes_the_hash_of_the_signature() {
        let hex = |name: &str| {
            let bytes = end_point(&read(name))?;
            Some(bytes.iter().map(|it| format!("{it:02x}")).collect::<String>())
        };
        for (name, hash) in [
            ("version1", "94e05ade4e21c2ae5661cc0e903b97621ce77ece7b0c6a312ee2adc7f0e62ba7"),
            (
                "own_ca",
                "483e52e2f79168d1f0e1125cf4935f345d1055919807554d9511e83483ce7b76\
                 7d62911154518e550a66505fb929c4e2",
            ),
            (
                "pss",
                "d58bb7345a93c81c131f76a012ef13ae3da73e2457efedc0f2d13644a89434ec\
                 a8feaec5c25c345793f349efd6af289dc6d7afc5e93c41de79a75fd848ea78ef",
            ),
        ] {
            assert_eq!(hex(name).as_deref(), Some(hash), "{name}");
        }
        assert_eq!(hex("ed25519"), None);
    }

    #[test]
    fn names_are_as_rfc_4514_writes_them() {
        let peer = peer(&read("version1")).unwrap();
        assert_eq!(peer.common_name.as_deref(), Some("db.example"));
        assert_eq!(peer.subject, "CN=db.example,O=Example");
    }

    #[test]
    fn broken_files_are_told() {
        let error = chain("sslrootcert", "tests/layers.rs").unwrap_err();
        assert_eq!(error.to_string(), "sslrootcert: tests/layers.rs: has no CERTIFICATE in PEM");
        let error = private_key("sslkey", "tests/certificates/ca.crt").unwrap_err();
        assert!(error.to_string().contains("has no unencrypted PRIVATE KEY"));
    }
}
