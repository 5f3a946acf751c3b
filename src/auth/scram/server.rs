//! The server's side: client-first → server-first → client-final → server-final.

use base64::Engine;

use super::{Attributes, BASE64, Key, NONCE_BYTES, Verifier, hmac, malformed, nonce, xor};
use crate::auth::is_equal;
use crate::error::{PgError, sqlstate};
use sha2::{Digest, Sha256};

/// Waits for the client's first message.
#[derive(Debug)]
pub struct First {
    verifier: Verifier,
    nonce: String,
}

/// Waits for the client's final message.
#[derive(Debug)]
pub struct Final {
    verifier: Verifier,
    /// `n,,` or `y,,`, as the client sent it.
    gs2_header: String,
    client_first_bare: String,
    server_first: String,
    nonce: String,
}

impl First {
    pub fn new(verifier: Verifier, random: &[u8; NONCE_BYTES]) -> Self {
        Self { verifier, nonce: nonce(random) }
    }

    /// For a user that does not exist: an exchange like any other that fails in the end.
    pub fn mock(salt: &[u8], random: &[u8; NONCE_BYTES]) -> Self {
        Self::new(Verifier::mock(salt), random)
    }

    /// Takes client-first, gives server-first.
    pub fn step(self, message: &[u8]) -> Result<(String, Final), PgError> {
        let text = std::str::from_utf8(message).map_err(|_| malformed("UTF-8"))?;
        let (header_len, bare) = gs2_header(text)?;
        let mut attributes = Attributes::new(bare.as_bytes())?;
        attributes.take('n')?;
        let client_nonce = attributes.take('r')?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(malformed("a printable nonce"));
        }
        let nonce = format!("{client_nonce}{}", self.nonce);
        let salt = BASE64.encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let next = Final {
            gs2_header: text[..header_len].to_owned(),
            client_first_bare: bare.to_owned(),
            server_first: server_first.clone(),
            nonce,
            verifier: self.verifier,
        };
        Ok((server_first, next))
    }
}

/// Length of the GS2 header, and the message after it.
fn gs2_header(text: &str) -> Result<(usize, &str), PgError> {
    let mut parts = text.splitn(3, ',');
    let (flag, identity) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let bare = parts.next().ok_or_else(|| malformed("a GS2 header"))?;
    match flag {
        "n" | "y" => {}
        flag if flag.starts_with("p=") => {
            return Err(malformed("no channel binding: it was not offered"));
        }
        _ => return Err(malformed("n or y for channel binding")),
    }
    if !identity.is_empty() {
        return Err(PgError::refused(
            "client uses authorization identity, but it is not supported",
        ));
    }
    if bare.starts_with("m=") {
        return Err(PgError::refused("client requires an unsupported SCRAM extension"));
    }
    Ok((text.len() - bare.len(), bare))
}

impl Final {
    /// Takes client-final, gives server-final; `None` if the password is wrong.
    pub fn step(self, message: &[u8]) -> Result<Option<String>, PgError> {
        let mut attributes = Attributes::new(message)?;
        let binding = attributes.take_bytes('c')?;
        if binding != self.gs2_header.as_bytes() {
            return Err(malformed("the same GS2 header as at first"));
        }
        if attributes.take('r')? != self.nonce {
            return Err(malformed("the nonce of this exchange"));
        }
        let proof = last_proof(&mut attributes)?;
        let text = std::str::from_utf8(message).map_err(|_| malformed("UTF-8"))?;
        let without_proof = text.rsplit_once(",p=").map_or("", |(before, _)| before);
        let auth_message =
            format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        Ok(self.verify(&proof, auth_message.as_bytes()))
    }

    fn verify(&self, proof: &Key, auth_message: &[u8]) -> Option<String> {
        let signature = hmac(&self.verifier.stored_key, auth_message);
        let client_key = xor(proof, &signature);
        let server_signature = hmac(&self.verifier.server_key, auth_message);
        is_equal(&Sha256::digest(client_key), &self.verifier.stored_key)
            .then(|| format!("v={}", BASE64.encode(server_signature)))
    }
}

/// The proof, the last attribute; extensions before it are skipped.
fn last_proof(attributes: &mut Attributes<'_>) -> Result<Key, PgError> {
    while attributes.0.is_some_and(|rest| !rest.starts_with("p=") && rest.contains(',')) {
        attributes.0 = attributes.0.and_then(|rest| rest.split_once(',')).map(|(_, rest)| rest);
    }
    let proof = attributes.take_bytes('p')?;
    let is_last = attributes.0.is_none();
    proof.try_into().ok().filter(|_| is_last).ok_or_else(|| {
        PgError::new(sqlstate::PROTOCOL_VIOLATION, "malformed SCRAM message")
            .detail("Expected a proof of 32 bytes at the end.")
    })
}
