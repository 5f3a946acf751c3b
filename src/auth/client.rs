//! Authentication of ourselves to a server.

use bytes::{Bytes, BytesMut};

use super::{md5, scram};
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
    password: Option<String>,
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
    pub fn new(user: &str, password: Option<&str>, nonce: [u8; scram::NONCE_BYTES]) -> Self {
        let password = password.map(str::to_owned);
        Self { user: user.to_owned(), password, state: State::Start(nonce) }
    }

    /// Takes the server's next `R` frame.
    pub fn step(self, frame: &[u8]) -> ClientNext {
        self.try_step(frame).unwrap_or_else(ClientNext::Failed)
    }

    fn try_step(self, frame: &[u8]) -> Result<ClientNext, PgError> {
        let request = AuthRequest::read(frame)?;
        let Self { user, password, state } = self;
        let mut out = BytesMut::new();
        let state = match (request, state) {
            (AuthRequest::Ok, State::Start(_) | State::Answered) => return Ok(ClientNext::Done),
            (AuthRequest::Cleartext, State::Start(_)) => {
                let password = known(&user, password.as_deref(), "a cleartext password")?;
                frontend::password(&mut out, password.as_bytes());
                State::Answered
            }
            (AuthRequest::Md5(salt), State::Start(_)) => {
                let password = known(&user, password.as_deref(), "an MD5 password")?;
                let stored = md5::stored(password.as_bytes(), user.as_bytes());
                frontend::password(&mut out, md5::salted(&stored, salt).as_bytes());
                State::Answered
            }
            (AuthRequest::Sasl(mechanisms), State::Start(nonce)) => {
                known(&user, password.as_deref(), "a SCRAM-SHA-256 password")?;
                State::ScramFirst(begin_scram(&mut out, &mechanisms, &nonce)?)
            }
            (AuthRequest::SaslContinue(message), State::ScramFirst(first)) => {
                let password = known(&user, password.as_deref(), "a SCRAM-SHA-256 password")?;
                let (answer, last) = first.step(password, message)?;
                frontend::sasl_response(&mut out, answer.as_bytes())?;
                State::ScramFinal(last)
            }
            (AuthRequest::SaslFinal(message), State::ScramFinal(last)) => {
                last.step(message)?;
                let state = State::Answered;
                return Ok(ClientNext::Wait(Self { user, password, state }));
            }
            (request, state) => return Err(unexpected(&request, &state)),
        };
        Ok(ClientNext::Send(out.freeze(), Self { user, password, state }))
    }
}

fn known<'a>(user: &str, password: Option<&'a str>, asked: &str) -> Result<&'a str, PgError> {
    password.filter(|password| !password.is_empty()).ok_or_else(|| {
        let message = format!("server asked for {asked} for user \"{user}\", but none is known");
        PgError::new(sqlstate::INVALID_PASSWORD, message)
            .hint("Add the password to the shard's URL, or as server_password to the user.")
    })
}

fn begin_scram(
    out: &mut BytesMut,
    mechanisms: &[&[u8]],
    nonce: &[u8; scram::NONCE_BYTES],
) -> Result<scram::client::First, PgError> {
    if !mechanisms.contains(&scram::MECHANISM.as_bytes()) {
        let offered: Vec<_> = mechanisms.iter().map(|m| String::from_utf8_lossy(m)).collect();
        return Err(unsupported(&format!("SASL with {}", offered.join(", "))));
    }
    let first = scram::client::First::new(nonce);
    frontend::sasl_initial_response(out, scram::MECHANISM, first.message().as_bytes())?;
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
