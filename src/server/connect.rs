//! Dials a server: start-up, authentication, until it is ready.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::{CancelKey, Server, Statements, Target, error_of};
use crate::auth::{ClientExchange, ClientNext};
use crate::error::{PgError, sqlstate};
use crate::net::Stream;
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
        match tokio::time::timeout(deadline, dial(target, prepared_statements)).await {
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
}

async fn dial(target: &Target, prepared_statements: usize) -> Result<Server, PgError> {
    let address = (target.host.host.as_str(), target.host.port);
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| unreachable(target, &error.to_string()))?;
    let stream = Stream::Tcp(stream);
    stream.set_nodelay();
    let now = Instant::now();
    let mut server = Server {
        stream: Some(stream),
        input: BytesMut::new(),
        output: BytesMut::new(),
        pipeline: Pipeline::new(),
        passing: 0,
        skipping: 0,
        is_broken: false,
        has_failed: false,
        parsed: 0,
        has_swallowed_sync: false,
        is_private: false,
        own_error: None,
        thread: 0,
        created: now,
        jitter: 0,
        used: now,
        cancel: CancelKey::new(target.host.clone(), 0, Vec::new()).into(),
        status: BTreeMap::new(),
        settings: super::Settings::default(),
        statements: Statements::new(prepared_statements),
    };
    log_in(&mut server, target).await?;
    Ok(server)
}

async fn log_in(server: &mut Server, target: &Target) -> Result<(), PgError> {
    let host = &target.host;
    let parameters = [
        ("user", host.user.as_str()),
        ("database", host.database.as_str()),
        ("client_encoding", "UTF8"),
        ("application_name", "pgsluice"),
    ];
    frontend::startup(&mut server.output, 0, parameters)?;
    let mut nonce = [0; crate::auth::scram::NONCE_BYTES];
    getrandom::fill(&mut nonce)
        .map_err(|error| PgError::new(sqlstate::INTERNAL_ERROR, error.to_string()))?;
    server.jitter = nonce[0];
    let mut exchange = Some(ClientExchange::new(&host.user, host.password.as_deref(), nonce));
    loop {
        server.flush().await?;
        let (tag, frame) = raw_frame(server).await?;
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
                    ClientNext::Failed(error) => return Err(refused(target, &error)),
                }
            }
            b'E' => return Err(refused(target, &error_of(&frame))),
            b'S' => {
                let it = backend::Parameter::read(&frame)?;
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                server.status.insert(text(it.name), text(it.value));
            }
            b'K' => {
                let it = backend::KeyData::read(&frame)?;
                server.cancel = CancelKey::new(host.clone(), it.pid, it.key.to_vec()).into();
            }
            b'N' => (),
            b'Z' => return Ok(()),
            _ => {
                return Err(PgError::new(
                    sqlstate::PROTOCOL_VIOLATION,
                    format!("server {host} sent {:?} during start-up", char::from(tag)),
                ));
            }
        }
    }
}

/// A server's refusal, with the address it came from; the user's own password is not at fault.
fn refused(target: &Target, error: &PgError) -> PgError {
    let code = match error.code.as_ref() {
        // Not the client's password, but the one in the configuration.
        "28P01" | "28000" => sqlstate::CANNOT_CONNECT_NOW.into(),
        _ => error.code.clone(),
    };
    PgError { code, ..unreachable(target, &error.message) }
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
