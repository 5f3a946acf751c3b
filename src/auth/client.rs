//! Authentication of ourselves to a server.

use bytes::{Bytes, BytesMut};

use super::scram::client::{Binding, Proof};
use super::{Credential, md5, scram};
use crate::error::{PgError, sqlstate};
use crate::wire::backend::AuthRequest;
use crate::wire::frontend;

/// What comes next in an exchange.
#[derive(Debug)]
pub enum ClientNext {
    /// Send these bytes, then pass on the server's next `R` frame.
    Send(Bytes, ClientExchange),
    /// Nothing to send: pass on the server's next `R` frame.
    Wait(ClientExchange),
    /// The server said AuthenticationOk, and proved who it is if the method lets it.
    Done,
    /// What the server asked for and what is missing; the connection is to be closed.
    Failed(PgError),
}

/// An exchange with a server that waits for an Authentication frame `R`.
#[derive(Debug)]
pub struct ClientExchange {
    user: String,
    credential: Credential,
    /// `tls-server-end-point` of the server's certificate; `None` without TLS.
    end_point: Option<Vec<u8>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was asked yet; the nonce if SCRAM will be.
    Start([u8; scram::NONCE_BYTES]),
    ScramFirst(scram::client::First),
    ScramFinal(scram::client::Final),
    /// All is sent and verified: only AuthenticationOk is to come.
    Answered,
}

impl ClientExchange {
    /// For a connection whose start-up packet is sent. `nonce` is random.
    pub fn new(
        user: &str,
        credential: impl Into<Credential>,
        nonce: [u8; scram::NONCE_BYTES],
    ) -> Self {
        let (user, credential) = (user.to_owned(), credential.into());
        Self { user, credential, end_point: None, state: State::Start(nonce) }
    }

    /// Over TLS: binds SCRAM to the server's certificate if the server offers that.
    #[must_use]
    pub fn bound_to(mut self, end_point: Option<Vec<u8>>) -> Self {
        self.end_point = end_point;
        self
    }

    /// Takes the server's next `R` frame.
    pub fn step(self, frame: &[u8]) -> ClientNext {
        self.try_step(frame).unwrap_or_else(ClientNext::Failed)
    }

    fn try_step(mut self, frame: &[u8]) -> Result<ClientNext, PgError> {
        let request = AuthRequest::read(frame)?;
        let mut out = BytesMut::new();
        self.state = match (request, self.state) {
            (AuthRequest::Ok, State::Start(_) | State::Answered) => return Ok(ClientNext::Done),
            (AuthRequest::Cleartext, State::Start(_)) => {
                let asked = "a cleartext password";
                let Credential::Password(password) = &self.credential else {
                    return Err(missing(&self.user, &self.credential, asked));
                };
                frontend::password(&mut out, password.as_bytes());
                State::Answered
            }
            (AuthRequest::Md5(salt), State::Start(_)) => {
                let stored = match &self.credential {
                    Credential::Password(it) => md5::stored(it.as_bytes(), self.user.as_bytes()),
                    Credential::Md5(stored) => stored.clone(),
                    other => return Err(missing(&self.user, other, "an MD5 password")),
                };
                frontend::password(&mut out, md5::salted(&stored, salt).as_bytes());
                State::Answered
            }
            (AuthRequest::Sasl(mechanisms), State::Start(nonce)) => {
                proof(&self.user, &self.credential)?;
                let end_point = self.end_point.take();
                State::ScramFirst(begin_scram(&mut out, &mechanisms, &nonce, end_point)?)
            }
            (AuthRequest::SaslContinue(message), State::ScramFirst(first)) => {
                let (answer, last) = first.step(proof(&self.user, &self.credential)?, message)?;
                frontend::sasl_response(&mut out, answer.as_bytes())?;
                State::ScramFinal(last)
            }
            (AuthRequest::SaslFinal(message), State::ScramFinal(last)) => {
                last.step(message)?;
                return Ok(ClientNext::Wait(Self { state: State::Answered, ..self }));
            }
            (request, state) => return Err(unexpected(&request, &state)),
        };
        Ok(ClientNext::Send(out.freeze(), self))
    }
}

fn proof<'a>(user: &str, credential: &'a Credential) -> Result<Proof<'a>, PgError> {
    match credential {
        Credential::Password(password) => Ok(Proof::Password(password)),
        Credential::Keys(keys) => Ok(Proof::Keys(keys)),
        Credential::None | Credential::Md5(_) => {
            Err(missing(user, credential, "a SCRAM-SHA-256 password"))
        }
    }
}

fn missing(user: &str, credential: &Credential, asked: &str) -> PgError {
    let known = match credential {
        Credential::None => "none is known",
        Credential::Password(_) => "it does not fit",
        Credential::Md5(_) => "only its MD5 hash is known",
        Credential::Keys(_) => "only its SCRAM keys are known",
    };
    let message = format!("server asked for {asked} for user \"{user}\", but {known}");
    let hint = match credential {
        Credential::None | Credential::Password(_) => {
            "Add the password to the shard's URL, or as server_password to the user."
        }
        Credential::Md5(_) | Credential::Keys(_) => {
            "Let the server's pg_hba.conf ask for what its rolpassword is made for: md5 or scram-sha-256."
        }
    };
    PgError::new(sqlstate::INVALID_PASSWORD, message).hint(hint)
}

fn begin_scram(
    out: &mut BytesMut,
    mechanisms: &[&[u8]],
    nonce: &[u8; scram::NONCE_BYTES],
    end_point: Option<Vec<u8>>,
) -> Result<scram::client::First, PgError> {
    let is_offered = |name: &str| mechanisms.contains(&name.as_bytes());
    let binding = Binding::choose(end_point, is_offered(scram::MECHANISM_PLUS));
    if !is_offered(binding.mechanism()) {
        let offered: Vec<_> = mechanisms.iter().map(|m| String::from_utf8_lossy(m)).collect();
        return Err(unsupported(&format!("SASL with {}", offered.join(", "))));
    }
    let mechanism = binding.mechanism();
    let first = scram::client::First::new(nonce, binding);
    frontend::sasl_initial_response(out, mechanism, first.message().as_bytes())?;
    Ok(first)
}

fn unexpected(request: &AuthRequest<'_>, state: &State) -> PgError {
    let expected = match state {
        State::Start(_) => match request {
            AuthRequest::Other(2) => return unsupported("Kerberos V5"),
            AuthRequest::Other(7 | 8) => return unsupported("GSSAPI"),
            AuthRequest::Other(9) => return unsupported("SSPI"),
            AuthRequest::Other(code) => return unsupported(&format!("method {code}")),
            _ => "a request for a password",
        },
        State::ScramFirst(_) => "AuthenticationSASLContinue",
        State::ScramFinal(_) => {
            "AuthenticationSASLFinal, the proof that the server knows the password"
        }
        State::Answered => "AuthenticationOk",
    };
    let got = match request {
        AuthRequest::Ok => "AuthenticationOk",
        AuthRequest::Cleartext => "AuthenticationCleartextPassword",
        AuthRequest::Md5(_) => "AuthenticationMD5Password",
        AuthRequest::Sasl(_) => "AuthenticationSASL",
        AuthRequest::SaslContinue(_) => "AuthenticationSASLContinue",
        AuthRequest::SaslFinal(_) => "AuthenticationSASLFinal",
        AuthRequest::Other(_) => "another authentication request",
    };
    PgError::new(sqlstate::PROTOCOL_VIOLATION, format!("server sent {got}, expected {expected}"))
}

fn unsupported(method: &str) -> PgError {
    let message = format!("server asked for authentication by {method}, which is not supported");
    PgError::new(sqlstate::INVALID_AUTHORIZATION, message)
        .hint("Allow scram-sha-256, md5, password or trust in the server's pg_hba.conf.")
}
