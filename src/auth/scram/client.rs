//! The client's side, from a password or from the keys of one.

use base64::Engine;
use sha2::{Digest, Sha256};

use super::{
    Attributes, BASE64, BOUND_HEADER, Key, Keys, MAX_ITERATIONS, MECHANISM, MECHANISM_PLUS,
    NONCE_BYTES, channel_binding, client_key, hmac, malformed, nonce, salted_password, xor,
};
use crate::auth::is_equal;
use crate::error::{PgError, sqlstate};

/// What the channel is bound by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// No TLS: we do no channel binding.
    Unsupported,
    /// TLS, but the server did not offer it. A server that did notices that its offer was lost.
    NotOffered,
    /// The `tls-server-end-point` of the server's certificate.
    Bound(Vec<u8>),
}

/// Client-first is sent; waits for server-first.
#[derive(Debug)]
pub struct First {
    nonce: String,
    bare: String,
    binding: Binding,
}

/// What proves that we know the password.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    Password(&'a str),
    Keys(&'a Keys),
}

impl Binding {
    /// What to do on a channel with this `tls-server-end-point` (`None`: no TLS) when the server
    /// offers -PLUS or not.
    pub fn choose(end_point: Option<Vec<u8>>, is_plus_offered: bool) -> Self {
        match end_point {
            None => Self::Unsupported,
            Some(_) if !is_plus_offered => Self::NotOffered,
            Some(end_point) => Self::Bound(end_point),
        }
    }

    fn header(&self) -> &'static str {
        match self {
            Self::Unsupported => "n,,",
            Self::NotOffered => "y,,",
            Self::Bound(_) => BOUND_HEADER,
        }
    }

    /// The mechanism's name.
    pub fn mechanism(&self) -> &'static str {
        if matches!(self, Self::Bound(_)) { MECHANISM_PLUS } else { MECHANISM }
    }
}

/// Client-final is sent; waits for server-final.
#[derive(Debug)]
pub struct Final {
    server_signature: Key,
}

impl First {
    /// The first message leaves the user's name empty: a server takes that of the start-up packet.
    pub fn new(random: &[u8; NONCE_BYTES], binding: Binding) -> Self {
        Self::with("", nonce(random), binding)
    }

    fn with(user: &str, nonce: String, binding: Binding) -> Self {
        Self { bare: format!("n={user},r={nonce}"), nonce, binding }
    }

    /// Client-first.
    pub fn message(&self) -> String {
        format!("{}{}", self.binding.header(), self.bare)
    }

    /// Takes server-first, gives client-final. With a password it costs as many hashes as the server
    /// asks for.
    ///
    /// # Errors
    /// 28P01 if keys are not of the server's verifier; 08P01 if the server breaks the protocol.
    pub fn step(self, proof: Proof<'_>, message: &[u8]) -> Result<(String, Final), PgError> {
        let mut attributes = Attributes::new(message)?;
        let nonce = attributes.take('r')?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(malformed("a nonce that begins with ours and goes on"));
        }
        let salt = attributes.take_bytes('s')?;
        let iterations = iterations(attributes.take('i')?)?;
        let (client_key, server_key) = keys(proof, &salt, iterations)?;
        let server_first = std::str::from_utf8(message).map_err(|_| malformed("UTF-8"))?;
        let bound = match &self.binding {
            Binding::Bound(end_point) => Some(end_point.as_slice()),
            Binding::Unsupported | Binding::NotOffered => None,
        };
        let repeated = channel_binding(self.binding.header(), bound);
        let without_proof = format!("c={repeated},r={nonce}");
        let auth_message = format!("{},{server_first},{without_proof}", self.bare);
        let proof = signed(&client_key, auth_message.as_bytes());
        let next = Final { server_signature: hmac(&server_key, auth_message.as_bytes()) };
        Ok((format!("{without_proof},p={}", BASE64.encode(proof)), next))
    }
}

/// ClientKey and ServerKey.
fn keys(proof: Proof<'_>, salt: &[u8], iterations: u32) -> Result<(Key, Key), PgError> {
    match proof {
        Proof::Password(password) => {
            let salted = salted_password(password, salt, iterations);
            Ok((client_key(&salted), hmac(&salted, b"Server Key")))
        }
        Proof::Keys(keys) if keys.salt == salt && keys.iterations == iterations => {
            Ok((keys.client_key, keys.server_key))
        }
        Proof::Keys(_) => Err(rejected("server has another verifier than the one logged in by")
            .detail(
                "Salt or iterations differ: the password was changed, or set on each by itself.",
            )
            .hint("Log in again; give every server the same rolpassword.")),
    }
}

fn signed(client_key: &Key, auth_message: &[u8]) -> Key {
    let stored_key: Key = Sha256::digest(client_key).into();
    xor(client_key, &hmac(&stored_key, auth_message))
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
    use super::*;

    const PENCIL: Proof<'_> = Proof::Password("pencil");
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    /// Worked out from the example with another implementation of HMAC and PBKDF2.
    const PLUS_FINAL: &str = "c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxc=,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=9pzgfacwlOeeEgsSiAWA2drYM+cWA994mo8J8E80F6Y=";
    const PLUS_END: &[u8] = b"v=VMDJJVzfaczvHFRP9L3j49sq0CR6268LgFbDTpcKkjk=";
    const UNUSED_FINAL: &str = "c=eSws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=FoqiHTtQEDE8lz1CdaEe3tK4mS+iMDTl77SPyDS53DY=";

    /// The example of RFC 7677, section 3.
    #[test]
    fn rfc_7677() {
        let first = First::with("user", "rOprNGfwEbeRWgbNEkqO".into(), Binding::Unsupported);
        assert_eq!(first.message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (client_final, last) = first.step(PENCIL, SERVER_FIRST.as_bytes()).unwrap();
        assert_eq!(
            client_final,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(last.step(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
    }

    /// That exchange over a channel with an end point of 32 bytes `0x17`.
    #[test]
    fn rfc_7677_plus() {
        let first =
            First::with("user", "rOprNGfwEbeRWgbNEkqO".into(), Binding::Bound(vec![23; 32]));
        assert_eq!(first.message(), "p=tls-server-end-point,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (client_final, last) = first.step(PENCIL, SERVER_FIRST.as_bytes()).unwrap();
        assert_eq!(client_final, PLUS_FINAL);
        assert_eq!(last.step(PLUS_END), Ok(()));
        let first = First::with("user", "rOprNGfwEbeRWgbNEkqO".into(), Binding::NotOffered);
        assert_eq!(first.message(), "y,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (client_final, _) = first.step(PENCIL, SERVER_FIRST.as_bytes()).unwrap();
        assert_eq!(client_final, UNUSED_FINAL);
    }

    /// Keys prove what the password proves, and only for the verifier they are of.
    #[test]
    fn keys_in_place_of_a_password() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::derive("pencil", &salt, 4096);
        assert_eq!(Keys::of_password(&verifier, "pencils"), None);
        let keys = Keys::of_password(&verifier, "pencil").unwrap();
        let first = || First::with("user", "rOprNGfwEbeRWgbNEkqO".into(), Binding::Unsupported);
        let by = |proof| first().step(proof, SERVER_FIRST.as_bytes()).unwrap();
        let (ours, last) = by(Proof::Keys(&keys));
        assert_eq!(ours, by(PENCIL).0);
        assert_eq!(last.step(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        for (from, to) in [("i=4096", "i=4095"), ("s=W22Z", "s=W22z")] {
            let other = SERVER_FIRST.replace(from, to);
            let error = first().step(Proof::Keys(&keys), other.as_bytes()).unwrap_err();
            assert!(error.message.contains("another verifier"), "{error}");
        }
        assert_eq!(format!("{keys:?}"), "Keys(…)");
    }

    #[test]
    fn servers_that_are_refused() {
        let first = || First::with("", "abc".into(), Binding::Unsupported);
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
            assert!(first().step(Proof::Password("x"), message.as_bytes()).is_err(), "{message}");
        }
        let last = || first().step(Proof::Password("x"), b"r=abcd,s=AAAA,i=1").unwrap().1;
        for message in ["v=AAAA", "e=other-error", "", "v="] {
            assert!(last().step(message.as_bytes()).is_err(), "{message}");
        }
    }
}
