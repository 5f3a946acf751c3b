//! SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677) as Postgres speaks it: channel binding by
//! `tls-server-end-point` (RFC 5929), the user's name taken from the start-up packet.

pub mod client;
mod keys;
pub mod server;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::error::{PgError, sqlstate};

pub use keys::Keys;

/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The GS2 header of the only channel binding there is.
const BOUND_HEADER: &str = "p=tls-server-end-point,,";
/// Random bytes of a nonce; Postgres' `SCRAM_RAW_NONCE_LEN`.
pub const NONCE_BYTES: usize = 18;
/// Rounds of a verifier of our own; Postgres' default.
pub const ITERATIONS: u32 = 4096;
/// Rounds we do for a server: 0.1 s or so.
const MAX_ITERATIONS: u32 = 1_000_000;

type Key = [u8; 32];

/// What a server stores of a password: `SCRAM-SHA-256$4096:salt$StoredKey:ServerKey`.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl Verifier {
    /// Of a password; costs `iterations` hashes.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(password, salt, iterations);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(client_key(&salted)).into(),
            server_key: hmac(&salted, b"Server Key"),
        }
    }

    /// How many rounds it takes.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// That no password fits, for users that do not exist.
    pub(super) fn mock(salt: &[u8], iterations: u32) -> Self {
        let salt = salt.to_vec();
        Self { iterations, salt, stored_key: [0; 32], server_key: [0; 32] }
    }
}

impl FromStr for Verifier {
    type Err = PgError;

    fn from_str(text: &str) -> Result<Self, PgError> {
        parse(text).ok_or_else(|| {
            PgError::new(sqlstate::INVALID_PARAMETER_VALUE, "invalid SCRAM-SHA-256 verifier").hint(
                "Expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey, as in pg_authid.",
            )
        })
    }
}

fn parse(text: &str) -> Option<Verifier> {
    let (parameters, keys) = text.strip_prefix(MECHANISM)?.strip_prefix('$')?.split_once('$')?;
    let (iterations, salt) = parameters.split_once(':')?;
    let (stored_key, server_key) = keys.split_once(':')?;
    Some(Verifier {
        iterations: iterations.parse().ok().filter(|&rounds| rounds > 0)?,
        salt: BASE64.decode(salt).ok()?,
        stored_key: BASE64.decode(stored_key).ok()?.try_into().ok()?,
        server_key: BASE64.decode(server_key).ok()?.try_into().ok()?,
    })
}

/// As in `pg_authid`.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored) = (BASE64.encode(&self.salt), BASE64.encode(self.stored_key));
        let server = BASE64.encode(self.server_key);
        write!(f, "{MECHANISM}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(…)")
    }
}

fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(prepared(password).as_bytes(), salt, iterations)
}

/// SASLprep; what it does not allow is taken as it is, as Postgres does.
fn prepared(password: &str) -> Cow<'_, str> {
    match stringprep::saslprep(password) {
        Ok(prepared) if !prepared.is_empty() => prepared,
        _ => Cow::Borrowed(password),
    }
}

fn client_key(salted: &Key) -> Key {
    hmac(salted, b"Client Key")
}

fn hmac(key: &[u8], message: &[u8]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// ClientProof from ClientKey and back: the other one XOR ClientSignature.
fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|at| a[at] ^ b[at])
}

/// `c=`: the GS2 header, and after that of [`BOUND_HEADER`] what binds to the channel; in base64.
fn channel_binding(header: &str, binding: Option<&[u8]>) -> String {
    let bound = binding.filter(|_| header == BOUND_HEADER).unwrap_or_default();
    BASE64.encode([header.as_bytes(), bound].concat())
}

/// The salt a user's verifier has for the life of `key`, whether or not the user exists.
pub fn salt_of(key: &[u8; 32], user: &str) -> [u8; 16] {
    let hash = hmac(key, user.as_bytes());
    std::array::from_fn(|at| hash[at])
}

/// `a=value` attributes separated by commas, taken one by one.
struct Attributes<'a>(Option<&'a str>);

impl<'a> Attributes<'a> {
    fn new(message: &'a [u8]) -> Result<Self, PgError> {
        std::str::from_utf8(message).map(|text| Self(Some(text))).map_err(|_| malformed("UTF-8"))
    }

    /// The value of the next attribute, which must have this name.
    fn take(&mut self, name: char) -> Result<&'a str, PgError> {
        let (attribute, rest) = match self.0 {
            Some(text) => match text.split_once(',') {
                Some((attribute, rest)) => (attribute, Some(rest)),
                None => (text, None),
            },
            None => return Err(malformed(&format!("attribute {name}"))),
        };
        let value = attribute.strip_prefix(name).and_then(|value| value.strip_prefix('='));
        self.0 = rest;
        value.ok_or_else(|| malformed(&format!("attribute {name}")))
    }

    /// The base64 value of the next attribute.
    fn take_bytes(&mut self, name: char) -> Result<Vec<u8>, PgError> {
        let value = self.take(name)?;
        BASE64.decode(value).map_err(|_| malformed(&format!("base64 in attribute {name}")))
    }
}

#[cold]
fn malformed(expected: &str) -> PgError {
    PgError::new(sqlstate::PROTOCOL_VIOLATION, "malformed SCRAM message")
        .detail(format!("Expected {expected}."))
}

/// The printable nonce of random bytes.
fn nonce(random: &[u8; NONCE_BYTES]) -> String {
    BASE64.encode(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifiers() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::derive("pencil", &salt, 4096);
        assert_eq!(
            verifier.to_string(),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
        assert_eq!(verifier.to_string().parse(), Ok(verifier));
        for text in [
            "",
            "md5abc",
            "SCRAM-SHA-256",
            "SCRAM-SHA-256$0:AA==$AA==:AA==",
            "SCRAM-SHA-256$4096:AA==$AA==:AA==",
            "SCRAM-SHA-256$4096:!$AA==:AA==",
        ] {
            assert!(text.parse::<Verifier>().is_err(), "{text}");
        }
    }

    /// RFC 4013, section 3, and what Postgres falls back to.
    #[test]
    fn passwords_are_prepared() {
        assert_eq!(prepared("I\u{ad}X"), "IX");
        assert_eq!(prepared("\u{aa}"), "a");
        assert_eq!(prepared("\u{2168}"), "IX");
        assert_eq!(prepared("\u{7}"), "\u{7}", "prohibited: as it is");
        assert_eq!(prepared("\u{627}1"), "\u{627}1", "bidirectional rules broken: as it is");
        assert_eq!(prepared("\u{ad}"), "\u{ad}", "empty: as it is");
    }
}
