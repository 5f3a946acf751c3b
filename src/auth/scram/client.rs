//! The client's side, from a password.

use base64::Engine;
use sha2::{Digest, Sha256};

use super::{
    Attributes, BASE64, Key, MAX_ITERATIONS, NONCE_BYTES, client_key, hmac, malformed, nonce,
    salted_password, xor,
};
use crate::auth::is_equal;
use crate::error::{PgError, sqlstate};

/// `n,,`: we do no channel binding; in base64 what client-final repeats.
const GS2_HEADER: &str = "n,,";
const GS2_HEADER_BASE64: &str = "biws";

/// Client-first is sent; waits for server-first.
#[derive(Debug)]
pub struct First {
    nonce: String,
    bare: String,
}

/// Client-final is sent; waits for server-final.
#[derive(Debug)]
pub struct Final {
    server_signature: Key,
}

impl First {
    /// The first message leaves the user's name empty: a server takes that of the start-up packet.
    pub fn new(random: &[u8; NONCE_BYTES]) -> Self {
        Self::with("", nonce(random))
    }

    fn with(user: &str, nonce: String) -> Self {
        Self { bare: format!("n={user},r={nonce}"), nonce }
    }

    /// Client-first.
    pub fn message(&self) -> String {
        format!("{GS2_HEADER}{}", self.bare)
    }

    /// Takes server-first, gives client-final. Costs as many hashes as the server asks for.
    pub fn step(self, password: &str, message: &[u8]) -> Result<(String, Final), PgError> {
        let mut attributes = Attributes::new(message)?;
        let nonce = attributes.take('r')?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(malformed("a nonce that begins with ours and goes on"));
        }
        let salt = attributes.take_bytes('s')?;
        let iterations = iterations(attributes.take('i')?)?;
        let salted = salted_password(password, &salt, iterations);
        let server_first = std::str::from_utf8(message).map_err(|_| malformed("UTF-8"))?;
        let without_proof = format!("c={GS2_HEADER_BASE64},r={nonce}");
        let auth_message = format!("{},{server_first},{without_proof}", self.bare);
        let proof = proof(&salted, auth_message.as_bytes());
        let server_key = hmac(&salted, b"Server Key");
        let next = Final { server_signature: hmac(&server_key, auth_message.as_bytes()) };
        Ok((format!("{without_proof},p={}", BASE64.encode(proof)), next))
    }
}

fn proof(salted: &Key, auth_message: &[u8]) -> Key {
    let client_key = client_key(salted);
    let stored_key: Key = Sha256::digest(client_key).into();
    xor(&client_key, &hmac(&stored_key, auth_message))
}

fn iterations(text: &str) -> Result<u32, PgError> {
    let iterations = text.parse().ok().filter(|rounds| (1..=MAX_ITERATIONS).contains(rounds));
    iterations.ok_or_else(|| malformed(&format!("1 to {MAX_ITERATIONS} iterations")))
}

impl Final {
    /// Takes server-final; an error if the server does not know the password either.
    pub fn step(self, message: &[u8]) -> Result<(), PgError> {
        if let Some(error) = message.strip_prefix(b"e=") {
            let error = error.escape_ascii();
            return Err(rejected(&format!("server refused SCRAM authentication: {error}")));
        }
        let signature = Attributes::new(message)?.take_bytes('v')?;
        if is_equal(&signature, &self.server_signature) {
            return Ok(());
        }
        Err(rejected("server did not prove that it knows the password (wrong SCRAM signature)"))
    }
}

#[cold]
fn rejected(message: &str) -> PgError {
    PgError::new(sqlstate::INVALID_PASSWORD, message)
}

#[cfg(test)]
mod tests {
    use super::super::Verifier;
    use super::super::server;
    use super::*;

    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    /// The example of RFC 7677, section 3.
    #[test]
    fn rfc_7677() {
        let first = First::with("user", "rOprNGfwEbeRWgbNEkqO".into());
        assert_eq!(first.message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (client_final, last) = first.step("pencil", SERVER_FIRST.as_bytes()).unwrap();
        assert_eq!(
            client_final,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(last.step(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
    }

    #[test]
    fn servers_that_are_refused() {
        let first = || First::with("", "abc".into());
        for message in [
            "r=abc,s=AAAA,i=4096",
            "r=xyzw,s=AAAA,i=4096",
            "r=abcd,s=!,i=4096",
            "r=abcd,s=AAAA,i=0",
            "r=abcd,s=AAAA,i=4000000000",
            "r=abcd,s=AAAA",
            "s=AAAA,r=abcd,i=1",
            "",
            "\u{e9}",
        ] {
            assert!(first().step("x", message.as_bytes()).is_err(), "{message}");
        }
        let last = || first().step("x", b"r=abcd,s=AAAA,i=1").unwrap().1;
        for message in ["v=AAAA", "e=other-error", "", "v="] {
            assert!(last().step(message.as_bytes()).is_err(), "{message}");
        }
    }

    #[test]
    fn clients_that_are_refused() {
        let verifier = Verifier::derive("pencil", b"salt", 1);
        let first = || server::First::new(verifier.clone(), &[7; NONCE_BYTES]);
        for message in [
            "",
            "n",
            "n,,",
            "p=tls-server-end-point,,n=,r=a",
            "x,,n=,r=a",
            "n,a=other,n=,r=a",
            "n,,m=x,n=,r=a",
            "n,,r=a,n=",
            "n,,n=,r=",
            "n,,n=,r=\u{e9}",
        ] {
            assert!(first().step(message.as_bytes()).is_err(), "{message}");
        }
        let server_nonce = nonce(&[7; NONCE_BYTES]);
        let last = || first().step(b"y,,n=,r=a").unwrap().1;
        let finals = [
            format!("c=biws,r=a{server_nonce},p=AAAA"),
            format!("c=eSws,r=a{server_nonce},p=AAAA"),
            format!("c=eSws,r=a{server_nonce}"),
            format!("c=eSws,r=b{server_nonce},p={}", BASE64.encode([0; 32])),
            format!("c=eSws,r=a{server_nonce},p={},x=1", BASE64.encode([0; 32])),
        ];
        for message in finals {
            assert!(last().step(message.as_bytes()).is_err(), "{message}");
        }
        let wrong = format!("c=eSws,r=a{server_nonce},x=1,p={}", BASE64.encode([0; 32]));
        assert_eq!(last().step(wrong.as_bytes()), Ok(None));
    }
}
