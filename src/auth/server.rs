//! Authentication of a client by us.

use bytes::{Bytes, BytesMut};

use super::scram::{self, ITERATIONS, Verifier};
use super::{AuthMethod, Secret, is_equal, md5};
use crate::error::{PgError, sqlstate};
use crate::wire::backend;
use crate::wire::frontend::view::{self, SaslInitial};

/// Randomness of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    /// Fresh for every exchange.
    pub nonce: [u8; scram::NONCE_BYTES],
    /// Fresh for every exchange: the salt of MD5.
    pub salt: [u8; 4],
    /// The same for the life of the process: SCRAM salts of users are derived from it, so that one
    /// that does not exist shows the same salt every time, too.
    pub key: [u8; 32],
}

/// What comes next in an exchange.
#[derive(Debug)]
pub enum Next {
    /// Send these frames, then pass on the client's next `p` frame.
    Send(Bytes, ServerExchange),
    /// The client is who it says: send these frames, AuthenticationOk the last.
    Done(Bytes),
    /// 28P01, or 08P01 if the client broke the protocol; FATAL.
    Failed(PgError),
}

/// An exchange with a client that waits for a `p` frame.
#[derive(Debug)]
pub struct ServerExchange {
    user: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// `None` never matches.
    Cleartext(Option<Secret>),
    Md5 {
        expected: Option<String>,
    },
    /// Waits for SASLInitialResponse.
    SaslInitial(scram::server::First),
    /// As before, but the client sent no data with it.
    ScramFirst(scram::server::First),
    ScramFinal(scram::server::Final),
}

impl ServerExchange {
    /// Begins with a client. `secret` is `None` for a user that does not exist: it goes through the
    /// exchange of `method` like any other, and fails. A verifier is asked for by SCRAM and an MD5
    /// secret by MD5 whatever `method` is; a plain password by `method`. SCRAM with a plain
    /// password costs 4096 hashes: better keep its [`Verifier`].
    pub fn start(method: AuthMethod, user: &str, secret: Option<&Secret>, random: &Random) -> Next {
        let mut out = BytesMut::new();
        let state = match (method, secret) {
            (AuthMethod::Trust, Some(_)) => return done(out),
            (_, Some(Secret::Md5(stored))) => md5_state(&mut out, Some(stored), random),
            (_, Some(secret @ Secret::Verifier(_))) => {
                scram_state(&mut out, user, Some(secret), random)
            }
            (AuthMethod::Password, secret) => {
                backend::authentication_cleartext(&mut out);
                State::Cleartext(secret.cloned())
            }
            (AuthMethod::Md5, Some(Secret::Plain(password))) => {
                let stored = md5::stored(password.as_bytes(), user.as_bytes());
                md5_state(&mut out, Some(&stored), random)
            }
            (AuthMethod::Md5, _) => md5_state(&mut out, None, random),
            (AuthMethod::Trust | AuthMethod::ScramSha256, secret) => {
                scram_state(&mut out, user, secret, random)
            }
        };
        Next::Send(out.freeze(), Self { user: user.to_owned(), state })
    }

    /// Takes the client's next `p` frame.
    pub fn step(self, frame: &[u8]) -> Next {
        let Self { user, state } = self;
        match state.step(frame) {
            Ok(Progress::Send(out, state)) => Next::Send(out.freeze(), Self { user, state }),
            Ok(Progress::Done(out)) => done(out),
            Ok(Progress::Wrong) => Next::Failed(failed(&user)),
            Err(error) => Next::Failed(error.fatal()),
        }
    }
}

enum Progress {
    Send(BytesMut, State),
    Done(BytesMut),
    Wrong,
}

impl State {
    fn step(self, frame: &[u8]) -> Result<Progress, PgError> {
        match self {
            Self::Cleartext(secret) => {
                let password = view::password(frame)?;
                let is_right = matches!(&secret, Some(Secret::Plain(right))
                    if !right.is_empty() && is_equal(password, right.as_bytes()));
                Ok(if is_right { Progress::Done(BytesMut::new()) } else { Progress::Wrong })
            }
            Self::Md5 { expected } => {
                let response = view::password(frame)?;
                let is_right = expected.is_some_and(|right| is_equal(response, right.as_bytes()));
                Ok(if is_right { Progress::Done(BytesMut::new()) } else { Progress::Wrong })
            }
            Self::SaslInitial(first) => sasl_initial(first, frame),
            Self::ScramFirst(first) => scram_first(first, view::sasl_response(frame)?),
            Self::ScramFinal(last) => Ok(match last.step(view::sasl_response(frame)?)? {
                Some(message) => {
                    let mut out = BytesMut::new();
                    backend::authentication_sasl_final(&mut out, message.as_bytes());
                    Progress::Done(out)
                }
                None => Progress::Wrong,
            }),
        }
    }
}

fn md5_state(out: &mut BytesMut, stored: Option<&str>, random: &Random) -> State {
    backend::authentication_md5(out, random.salt);
    State::Md5 { expected: stored.map(|stored| md5::salted(stored, random.salt)) }
}

/// A verifier that does not read is like a user that does not exist.
fn scram_state(out: &mut BytesMut, user: &str, secret: Option<&Secret>, random: &Random) -> State {
    backend::authentication_sasl(out, &[scram::MECHANISM]);
    let salt = &scram::salt_of(&random.key, user);
    let verifier = match secret {
        Some(Secret::Plain(password)) if !password.is_empty() => {
            Some(Verifier::derive(password, salt, ITERATIONS))
        }
        Some(Secret::Verifier(text)) => text.parse().ok(),
        _ => None,
    };
    State::SaslInitial(match verifier {
        Some(verifier) => scram::server::First::new(verifier, &random.nonce),
        None => scram::server::First::mock(salt, &random.nonce),
    })
}

fn sasl_initial(first: scram::server::First, frame: &[u8]) -> Result<Progress, PgError> {
    let initial = SaslInitial::read(frame)?;
    if initial.mechanism != scram::MECHANISM.as_bytes() {
        let error = "client selected an invalid SASL authentication mechanism";
        let detail = format!("{} was offered.", scram::MECHANISM);
        return Err(PgError::new(sqlstate::PROTOCOL_VIOLATION, error).detail(detail));
    }
    match initial.data {
        Some(message) => scram_first(first, message),
        None => {
            let mut out = BytesMut::new();
            backend::authentication_sasl_continue(&mut out, b"");
            Ok(Progress::Send(out, State::ScramFirst(first)))
        }
    }
}

fn scram_first(first: scram::server::First, message: &[u8]) -> Result<Progress, PgError> {
    let (answer, last) = first.step(message)?;
    let mut out = BytesMut::new();
    backend::authentication_sasl_continue(&mut out, answer.as_bytes());
    Ok(Progress::Send(out, State::ScramFinal(last)))
}

fn done(mut out: BytesMut) -> Next {
    backend::authentication_ok(&mut out);
    Next::Done(out.freeze())
}

fn failed(user: &str) -> PgError {
    let message = format!("password authentication failed for user \"{user}\"");
    PgError::new(sqlstate::INVALID_PASSWORD, message).fatal()
}
