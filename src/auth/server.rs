//! Authentication of a client by us.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::scram::{self, Verifier};
use super::{AuthMethod, Credential, Secret, cleartext, is_equal, md5};
use crate::error::{PgError, sqlstate};
use crate::wire::backend;
use crate::wire::frontend::view::{self, SaslInitial};

/// Randomness of one exchange.
#[derive(Clone, Copy)]
pub struct Random {
    /// Fresh for every exchange.
    pub nonce: [u8; scram::NONCE_BYTES],
    /// Fresh for every exchange: the salt of MD5.
    pub salt: [u8; 4],
    /// The same for the life of the process: SCRAM salts of users are derived from it, so that one
    /// that does not exist shows the same salt every time, too.
    pub key: [u8; 32],
    /// Rounds of SCRAM for users without a verifier: as many as others have.
    pub iterations: u32,
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random(…)")
    }
}

/// What comes next in an exchange.
#[derive(Debug)]
pub enum Next {
    /// Send these frames, then pass on the client's next `p` frame.
    Send(Bytes, ServerExchange),
    /// The client is who it says: send these frames, AuthenticationOk the last. What it proved can
    /// log in to servers.
    Done(Bytes, Credential),
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
    Cleartext(Option<Secret>, Random),
    /// `None` never matches.
    Md5(Option<Md5>),
    /// Waits for SASLInitialResponse.
    SaslInitial(scram::server::First),
    /// As before, but the client sent no data with it.
    ScramFirst(scram::server::First),
    ScramFinal(scram::server::Final),
}

/// An MD5 response that is waited for. `Debug` never shows it.
struct Md5 {
    expected: String,
    stored: String,
}

impl std::fmt::Debug for Md5 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Md5(…)")
    }
}

impl ServerExchange {
    /// Begins with a client. `secret` is `None` for a user that does not exist: it goes through the
    /// exchange of `method` like any other, and fails; with trust, which is for users that exist,
    /// through SCRAM. As in Postgres, MD5 becomes SCRAM where a SCRAM verifier is stored.
    /// `end_point` is the `tls-server-end-point` of our certificate; `None` without TLS.
    /// SCRAM with a plain password costs 4096 hashes: better keep its [`Verifier`].
    pub fn start(
        method: AuthMethod,
        user: &str,
        secret: Option<&Secret>,
        random: &Random,
        end_point: Option<Vec<u8>>,
    ) -> Next {
        let mut out = BytesMut::new();
        let state = match (method, secret) {
            (AuthMethod::Trust, Some(_)) => return done(out, Credential::None),
            (AuthMethod::Password, secret) => {
                backend::authentication_cleartext(&mut out);
                State::Cleartext(secret.cloned(), *random)
            }
            (AuthMethod::Md5, secret) if !matches!(secret, Some(Secret::Verifier(_))) => {
                md5_state(&mut out, user, secret, random)
            }
            (AuthMethod::Trust | AuthMethod::ScramSha256 | AuthMethod::Md5, secret) => {
                let first = scram_first_state(user, secret, random, end_point);
                backend::authentication_sasl(&mut out, first.mechanisms());
                State::SaslInitial(first)
            }
        };
        Next::Send(out.freeze(), Self { user: user.to_owned(), state })
    }

    /// Takes the client's next `p` frame.
    pub fn step(self, frame: &[u8]) -> Next {
        let Self { user, state } = self;
        match state.step(&user, frame) {
            Ok(Progress::Send(out, state)) => Next::Send(out.freeze(), Self { user, state }),
            Ok(Progress::Done(out, credential)) => done(out, credential),
            Ok(Progress::Wrong) => Next::Failed(failed(&user)),
            Err(error) => Next::Failed(error.fatal()),
        }
    }
}

enum Progress {
    Send(BytesMut, State),
    Done(BytesMut, Credential),
    Wrong,
}

impl From<Option<Credential>> for Progress {
    fn from(proven: Option<Credential>) -> Self {
        proven.map_or(Self::Wrong, |credential| Self::Done(BytesMut::new(), credential))
    }
}

impl State {
    fn step(self, user: &str, frame: &[u8]) -> Result<Progress, PgError> {
        match self {
            Self::Cleartext(secret, random) => {
                let password = view::password(frame)?;
                Ok(cleartext::check(secret.as_ref(), user, &random, password).into())
            }
            Self::Md5(waited) => {
                let response = view::password(frame)?;
                let right = waited.filter(|it| is_equal(response, it.expected.as_bytes()));
                Ok(right.map(|it| Credential::Md5(it.stored)).into())
            }
            Self::SaslInitial(first) => sasl_initial(first, frame),
            Self::ScramFirst(first) => scram_first(first, view::sasl_response(frame)?),
            Self::ScramFinal(last) => Ok(match last.step(view::sasl_response(frame)?)? {
                Some((message, keys)) => {
                    let mut out = BytesMut::new();
                    backend::authentication_sasl_final(&mut out, message.as_bytes());
                    Progress::Done(out, Credential::Keys(Arc::new(keys)))
                }
                None => Progress::Wrong,
            }),
        }
    }
}

fn md5_state(out: &mut BytesMut, user: &str, secret: Option<&Secret>, random: &Random) -> State {
    backend::authentication_md5(out, random.salt);
    let stored = match secret {
        Some(Secret::Md5(stored)) => Some(stored.clone()),
        Some(Secret::Plain(it)) if !it.is_empty() => {
            Some(md5::stored(it.as_bytes(), user.as_bytes()))
        }
        _ => None,
    };
    State::Md5(stored.map(|stored| Md5 { expected: md5::salted(&stored, random.salt), stored }))
}

/// A secret that is no verifier, or a broken one, is like a user that does not exist.
fn scram_first_state(
    user: &str,
    secret: Option<&Secret>,
    random: &Random,
    end_point: Option<Vec<u8>>,
) -> scram::server::First {
    let salt = &scram::salt_of(&random.key, user);
    let verifier = match secret {
        Some(Secret::Plain(password)) if !password.is_empty() => {
            Some(Verifier::derive(password, salt, random.iterations))
        }
        Some(Secret::Verifier(text)) => text.parse().ok(),
        _ => None,
    };
    match verifier {
        Some(verifier) => scram::server::First::new(verifier, &random.nonce, end_point),
        None => scram::server::First::mock(salt, random.iterations, &random.nonce, end_point),
    }
}

fn sasl_initial(first: scram::server::First, frame: &[u8]) -> Result<Progress, PgError> {
    let initial = SaslInitial::read(frame)?;
    let first = first.choose(initial.mechanism)?;
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

fn done(mut out: BytesMut, credential: Credential) -> Next {
    backend::authentication_ok(&mut out);
    Next::Done(out.freeze(), credential)
}

/// The same for every reason, so that it tells nothing.
fn failed(user: &str) -> PgError {
    let message = format!("password authentication failed for user \"{user}\"");
    PgError::new(sqlstate::INVALID_PASSWORD, message).fatal()
}
