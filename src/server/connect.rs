//! Dials a server: start-up, authentication, until it is ready.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::open::{self, Attempt};
use super::{AsQuery, CancelKey, Server, Statements, Target, error_of};
use crate::auth::{ClientExchange, ClientNext, Credential};
use crate::error::{PgError, sqlstate};
use crate::net::{Moment, Peer};
use crate::wire::pipeline::Pipeline;
use crate::wire::{backend, frontend};

impl Server {
    /// A ready connection.
    ///
    /// # Errors
    /// 57P03 if the server cannot be reached in time, else what it answers.
    pub async fn connect(
        target: &Target,
        deadline: Duration,
        prepared_statements: usize,
    ) -> Result<Self, PgError> {
        Self::connect_with(target, deadline, prepared_statements, &[]).await
    }

    /// As [`Self::connect`], with more start-up parameters; they go before the usual ones.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_with(
        target: &Target,
        deadline: Duration,
        prepared_statements: usize,
        parameters: &[(&str, &str)],
    ) -> Result<Self, PgError> {
        match tokio::time::timeout(deadline, dial(target, prepared_statements, parameters)).await {
            Ok(connected) => connected,
            Err(_) => {
                let why = format!("no answer within pool.connect_timeout = {deadline:?}");
                let limit = Some(&"pool.connect_timeout");
                Err(PgError { limit, ..unreachable(target, &why) })
            }
        }
    }
}

fn unreachable(target: &Target, why: &str) -> PgError {
    PgError::new(
        sqlstate::CANNOT_CONNECT_NOW,
        format!("server {} of database {:?} cannot be reached", target.host, target.database),
    )
    .detail(why.to_owned())
    .hint("try again; SHOW SHARDS on the admin console tells the state of every host")
    .passing()
}

/// A connection that was refused, and whether another way could do.
struct Refused {
    error: PgError,
    may_retry: bool,
}

impl From<PgError> for Refused {
    fn from(error: PgError) -> Self {
        Self { error, may_retry: false }
    }
}

async fn dial(
    target: &Target,
    prepared_statements: usize,
    parameters: &[(&str, &str)],
) -> Result<Server, PgError> {
    let mut failed = None;
    for attempt in open::attempts(&target.host) {
        match dial_by(target, *attempt, prepared_statements, parameters).await {
            Ok(server) => return Ok(server),
            Err(Refused { error, may_retry }) => {
                failed = Some(joined(failed, error));
                if !may_retry {
                    break;
                }
            }
        }
    }
    Err(failed.unwrap_or_else(|| unreachable(target, "there is no way to it")))
}

/// The last error, with what became of the attempt before it.
fn joined(first: Option<PgError>, last: PgError) -> PgError {
    let before = first.and_then(|it| it.detail);
    let details: Vec<String> = before.into_iter().chain(last.detail.clone()).collect();
    PgError { detail: Some(details.join("; then: ")), ..last }
}

async fn dial_by(
    target: &Target,
    attempt: Attempt,
    prepared_statements: usize,
    parameters: &[(&str, &str)],
) -> Result<Server, Refused> {
    let stream = open::open(&target.host, attempt).await.map_err(|error| Refused {
        error: unreachable(target, &error.to_string()),
        may_retry: error.is_about_tls(),
    })?;
    let now = Instant::now();
    let peer = match stream.peer() {
        Ok(Peer::Tcp(address)) => Some(address),
        _ => None,
    };
    let mut server = Server {
        stream: Some(stream),
        input: BytesMut::new(),
        output: BytesMut::new(),
        pipeline: Pipeline::new(),
        passing: 0,
        skipping: 0,
        is_broken: false,
        is_lost: false,
        has_sent: false,
        fence: Default::default(),
        holds_lock: false,
        has_failed: false,
        parsed: 0,
        has_swallowed_sync: false,
        ready_if: None,
        has_told_ready: false,
        stale: super::Stale::Tell,
        loss: super::Loss::Tell,
        is_replica: false,
        has_answered: false,
        as_query: AsQuery::No,
        unprepared: None,
        hears: false,
        is_private: false,
        own_error: None,
        thread: 0,
        created: now,
        leases: 0,
        aged_from: Moment::of(now),
        jitter: 0,
        used: Moment::of(now),
        cancel: CancelKey::new(target.host.clone(), 0, Vec::new(), (attempt, peer)).into(),
        status: BTreeMap::new(),
        settings: super::Settings::default(),
        statements: Statements::new(prepared_statements),
    };
    log_in(&mut server, target, parameters).await?;
    Ok(server)
}

async fn log_in(
    server: &mut Server,
    target: &Target,
    more: &[(&str, &str)],
) -> Result<(), Refused> {
    let host = &target.host;
    let usual = [
        ("user", host.user.as_str()),
        ("database", host.database.as_str()),
        ("client_encoding", "UTF8"),
    ];
    let is_usual = |it: &&(&str, &str)| !more.iter().any(|other| other.0 == it.0);
    let parameters = usual.iter().filter(is_usual).chain(more).copied();
    frontend::startup(&mut server.output, 0, parameters)?;
    let mut nonce = [0; crate::auth::scram::NONCE_BYTES];
    getrandom::fill(&mut nonce)
        .map_err(|error| PgError::new(sqlstate::INTERNAL_ERROR, error.to_string()))?;
    server.jitter = nonce[0];
    let tls = server.stream.as_ref().and_then(crate::net::Stream::tls);
    let end_point = tls.and_then(|it| it.end_point()).map(<[u8]>::to_vec);
    let exchange = ClientExchange::new(&host.user, credential(target), nonce);
    let mut exchange = Some(exchange.bound_to(end_point));
    loop {
        let lost = |error: PgError| unreachable(target, &error.message);
        server.flush().await.map_err(lost)?;
        let (tag, frame) = raw_frame(server).await.map_err(lost)?;
        match tag {
            b'R' => {
                let Some(waiting) = exchange.take() else { continue };
                match waiting.step(&frame) {
                    ClientNext::Send(bytes, next) => {
                        server.output.extend_from_slice(&bytes);
                        exchange = Some(next);
                    }
                    ClientNext::Wait(next) => exchange = Some(next),
                    ClientNext::Done => (),
                    ClientNext::Failed(error) => return Err(refused(target, &error).into()),
                }
            }
            b'E' => {
                let error = error_of(&frame);
                // As "no pg_hba.conf entry for host …, no encryption".
                let may_retry = error.code == sqlstate::INVALID_AUTHORIZATION;
                return Err(Refused { error: refused(target, &error), may_retry });
            }
            b'S' => {
                let it = backend::Parameter::read(&frame)?;
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                server.status.insert(text(it.name), text(it.value));
            }
            b'K' => {
                let it = backend::KeyData::read(&frame)?;
                let way = server.cancel.way();
                server.cancel = CancelKey::new(host.clone(), it.pid, it.key.to_vec(), way).into();
            }
            b'N' => (),
            b'Z' => return Ok(()),
            _ => {
                return Err(PgError::new(
                    sqlstate::PROTOCOL_VIOLATION,
                    format!("server {host} sent {:?} during start-up", char::from(tag)),
                )
                .into());
            }
        }
    }
}

fn credential(target: &Target) -> Credential {
    match &target.passed {
        Some(passed) => passed.newest(),
        None => target.host.password.as_deref().into(),
    }
}

/// A server does not take what the client has proved to us.
fn not_passed(target: &Target, error: &PgError) -> PgError {
    let Target { host, database, .. } = target;
    let why = [Some(error.message.as_str()), error.detail.as_deref()];
    PgError::new(
        sqlstate::INVALID_PASSWORD,
        format!("server {host} of database {database:?} does not let user {:?} in", host.user),
    )
    .detail(why.into_iter().flatten().collect::<Vec<_>>().join(": "))
    .hint("connect again: pass-through needs a login by SCRAM or MD5 with the verifier that the server has")
}

/// A server's refusal, with the address it came from; the user's own password is not at fault.
fn refused(target: &Target, error: &PgError) -> PgError {
    if target.passed.is_some() && matches!(error.code.as_ref(), "28P01" | "28000") {
        return not_passed(target, error);
    }
    let code = match error.code.as_ref() {
        // Not the client's password, but the one in the configuration.
        "28P01" | "28000" => sqlstate::CANNOT_CONNECT_NOW.into(),
        _ => error.code.clone(),
    };
    let is_passing = is_passing(&error.code);
    PgError { code, is_passing, ..unreachable(target, &error.message) }
}

/// Whether a server that refuses with this code may take connections in a moment: it starts, stops or
/// has none left.
fn is_passing(code: &str) -> bool {
    code.starts_with("57P") || code.starts_with("08") || code == sqlstate::TOO_MANY_CONNECTIONS
}

async fn raw_frame(server: &mut Server) -> Result<(u8, bytes::Bytes), PgError> {
    loop {
        if let Some(next) = crate::wire::frame::next_frame(&server.input)?
            && server.input.len() >= next.len
        {
            return Ok((next.tag, server.input.split_to(next.len).freeze()));
        }
        server.fill().await?;
    }
}
