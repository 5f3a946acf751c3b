//! The server's side: client-first → server-first → client-final → server-final.

use base64::Engine;

use super::{
    Attributes, BASE64, BOUND_HEADER, Key, Keys, MECHANISM, MECHANISM_PLUS, NONCE_BYTES, Verifier,
    channel_binding, hmac, malformed, nonce, xor,
};
use crate::error::{PgError, sqlstate};

/// Waits for the client's first message.
#[derive(Debug)]
pub struct First {
    verifier: Verifier,
    nonce: String,
    /// `tls-server-end-point` of our certificate; with it -PLUS is offered, too.
    end_point: Option<Vec<u8>>,
    is_plus: bool,
}

/// Waits for the client's final message.
#[derive(Debug)]
pub struct Final {
    verifier: Verifier,
    /// What `c=` must be, and whether it binds.
    channel_binding: String,
    is_plus: bool,
    client_first_bare: String,
    server_first: String,
    nonce: String,
}

impl First {
    pub fn new(verifier: Verifier, random: &[u8; NONCE_BYTES], end_point: Option<Vec<u8>>) -> Self {
        Self { verifier, nonce: nonce(random), end_point, is_plus: false }
    }

    /// For a user that does not exist: an exchange like any other that fails in the end.
    pub fn mock(
        salt: &[u8],
        iterations: u32,
        random: &[u8; NONCE_BYTES],
        end_point: Option<Vec<u8>>,
    ) -> Self {
        Self::new(Verifier::mock(salt, iterations), random, end_point)
    }

    /// The mechanisms to offer, the better one first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.end_point {
            Some(_) => &[MECHANISM_PLUS, MECHANISM],
            None => &[MECHANISM],
        }
    }

    /// Takes the mechanism that the client has chosen.
    ///
    /// # Errors
    /// If it was not offered.
    pub fn choose(mut self, mechanism: &[u8]) -> Result<Self, PgError> {
        if !self.mechanisms().iter().any(|it| it.as_bytes() == mechanism) {
            let error = "client selected an invalid SASL authentication mechanism";
            let detail = format!("{} was offered.", self.mechanisms().join(", "));
            return Err(PgError::new(sqlstate::PROTOCOL_VIOLATION, error).detail(detail));
        }
        self.is_plus = mechanism == MECHANISM_PLUS.as_bytes();
        Ok(self)
    }

    /// Takes client-first, gives server-first.
    pub fn step(self, message: &[u8]) -> Result<(String, Final), PgError> {
        let text = std::str::from_utf8(message).map_err(|_| malformed("UTF-8"))?;
        let (header, bare) = self.gs2_header(text)?;
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
            channel_binding: channel_binding(header, self.end_point.as_deref()),
            is_plus: self.is_plus,
            client_first_bare: bare.to_owned(),
            server_first: server_first.clone(),
            nonce,
            verifier: self.verifier,
        };
        Ok((server_first, next))
    }

    /// The GS2 header, and the message after it.
    fn gs2_header<'a>(&self, text: &'a str) -> Result<(&'a str, &'a str), PgError> {
        let mut parts = text.splitn(3, ',');
        let (flag, identity) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let bare = parts.next().ok_or_else(|| malformed("a GS2 header"))?;
        self.check_flag(flag)?;
        if !identity.is_empty() {
            return Err(PgError::refused(
                "client uses authorization identity, but it is not supported",
            ));
        }
        if bare.starts_with("m=") {
            return Err(PgError::refused("client requires an unsupported SCRAM extension"));
        }
        Ok((&text[..text.len() - bare.len()], bare))
    }

    /// `n`: the client does no channel binding. `y`: it would, had it been offered. `p=`: it does.
    fn check_flag(&self, flag: &str) -> Result<(), PgError> {
        match (flag, self.is_plus) {
            ("n" | "y", true) => Err(malformed("channel binding data with SCRAM-SHA-256-PLUS")),
            ("n", false) => Ok(()),
            // Somebody between us has taken -PLUS off the offer.
            ("y", false) if self.end_point.is_some() => Err(PgError::new(
                sqlstate::INVALID_AUTHORIZATION,
                "SCRAM channel binding negotiation error",
            )
            .detail("The client supports SCRAM channel binding but thinks the server does not. However, this server does support channel binding.")),
            ("y", false) => Ok(()),
            _ if !flag.starts_with("p=") => Err(malformed("n, y or p= for channel binding")),
            (_, false) => Err(malformed("no channel binding data with SCRAM-SHA-256")),
            (kind, true) => match BOUND_HEADER.trim_end_matches(',') == kind {
                true => Ok(()),
                false => Err(malformed("channel binding by tls-server-end-point")),
            },
        }
    }
}

impl Final {
    /// Takes client-final, gives server-final and the keys it proved to have; `None` if the password
    /// is wrong.
    pub fn step(self, message: &[u8]) -> Result<Option<(String, Keys)>, PgError> {
        let mut attributes = Attributes::new(message)?;
        if attributes.take('c')? != self.channel_binding {
            return Err(match self.is_plus {
                true => {
                    let error = "SCRAM channel binding check failed";
                    PgError::new(sqlstate::INVALID_AUTHORIZATION, error)
                }
                false => malformed("the same GS2 header as at first"),
            });
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

    fn verify(&self, proof: &Key, auth_message: &[u8]) -> Option<(String, Keys)> {
        let client_key = xor(proof, &hmac(&self.verifier.stored_key, auth_message));
        let signature = hmac(&self.verifier.server_key, auth_message);
        let keys = Keys::proven(&self.verifier, client_key)?;
        Some((format!("v={}", BASE64.encode(signature)), keys))
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

#[cfg(test)]
mod tests {
    use super::super::client::{Binding, First as Client, Proof};
    use super::*;

    fn first(end_point: Option<&[u8]>, mechanism: &str) -> First {
        let verifier = Verifier::derive("pencil", b"salt", 1);
        let first = First::new(verifier, &[7; NONCE_BYTES], end_point.map(<[u8]>::to_vec));
        first.choose(mechanism.as_bytes()).unwrap()
    }

    /// What a client with this password and binding gets.
    fn run(ours: Option<&[u8]>, password: &str, binding: Binding) -> Result<bool, String> {
        let mechanism = binding.mechanism();
        let client = Client::new(&[3; NONCE_BYTES], binding);
        let told = |error: PgError| format!("{}: {}", error.code, error.message);
        let server = first(ours, mechanism);
        let (answer, last) = server.step(client.message().as_bytes()).map_err(told)?;
        let proof = Proof::Password(password);
        let (answer, end) = client.step(proof, answer.as_bytes()).unwrap();
        let Some((message, keys)) = last.step(answer.as_bytes()).map_err(told)? else {
            return Ok(false);
        };
        let verifier = Verifier::derive("pencil", b"salt", 1);
        assert_eq!(Keys::of_password(&verifier, password), Some(keys));
        Ok(end.step(message.as_bytes()).is_ok())
    }

    #[test]
    fn channel_binding_is_checked() {
        let ours: Option<&[u8]> = Some(b"our certificate");
        let bound = |end_point: &[u8]| Binding::Bound(end_point.to_vec());
        assert_eq!(run(None, "pencil", Binding::Unsupported), Ok(true));
        assert_eq!(run(None, "pencil", Binding::NotOffered), Ok(true));
        assert_eq!(run(ours, "pencil", Binding::Unsupported), Ok(true));
        assert_eq!(run(ours, "pencil", bound(b"our certificate")), Ok(true));
        assert_eq!(run(ours, "wrong", bound(b"our certificate")), Ok(false));
        let failed = "28000: SCRAM channel binding check failed";
        assert_eq!(run(ours, "pencil", bound(b"another's")), Err(failed.into()));
        let lost = "28000: SCRAM channel binding negotiation error";
        assert_eq!(run(ours, "pencil", Binding::NotOffered), Err(lost.into()));
    }

    #[test]
    fn mechanisms_and_headers_must_agree() {
        let detail = |end_point, mechanism, header: &str| {
            let message = format!("{header}n=,r=a");
            first(end_point, mechanism).step(message.as_bytes()).unwrap_err().detail.unwrap()
        };
        let ours: Option<&[u8]> = Some(b"x");
        for (header, expected) in [
            ("n,,", "Expected channel binding data with SCRAM-SHA-256-PLUS."),
            ("y,,", "Expected channel binding data with SCRAM-SHA-256-PLUS."),
            ("p=tls-unique,,", "Expected channel binding by tls-server-end-point."),
            ("p=,,", "Expected channel binding by tls-server-end-point."),
        ] {
            assert_eq!(detail(ours, MECHANISM_PLUS, header), expected, "{header}");
        }
        let expected = "Expected no channel binding data with SCRAM-SHA-256.";
        assert_eq!(detail(ours, MECHANISM, BOUND_HEADER), expected);
        assert_eq!(detail(None, MECHANISM, BOUND_HEADER), expected);
        let plain = First::mock(b"salt", 1, &[7; NONCE_BYTES], None);
        assert_eq!(plain.mechanisms(), [MECHANISM]);
        assert!(plain.choose(MECHANISM_PLUS.as_bytes()).is_err());
    }

    #[test]
    fn clients_that_are_refused() {
        let first = || first(None, MECHANISM);
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
