//! A stream to a server, by whatever way its URL wants.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::config::{Host, SslMode};
use crate::net::Stream;
use crate::net::tls::{Connector, TlsError};
use crate::wire::frontend;

/// One way to connect. A host may have a second one, for when the first does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Clear,
    /// TLS if the server has it.
    Offered,
    Tls,
}

/// Why there is no stream; the text is the whole reason.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Socket(io::Error),
    #[error("TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the server does not support TLS, but the URL wants sslmode={0}")]
    NoTls(SslMode),
    #[error("{0}")]
    File(TlsError),
}

impl OpenError {
    /// Whether the next attempt may succeed where this one has failed.
    pub fn is_about_tls(&self) -> bool {
        !matches!(self, Self::Socket(_))
    }
}

/// The ways to connect to a host, as libpq tries them for its `sslmode`.
pub fn attempts(host: &Host) -> &'static [Attempt] {
    if host.unix_socket().is_some() {
        return &[Attempt::Clear];
    }
    match host.tls.mode {
        SslMode::Disable => &[Attempt::Clear],
        SslMode::Allow => &[Attempt::Clear, Attempt::Tls],
        SslMode::Prefer => &[Attempt::Offered, Attempt::Clear],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Attempt::Tls],
    }
}

/// A stream on which the start-up packet, or a cancel request, is the next to be sent.
///
/// # Errors
/// As [`OpenError`] says.
pub async fn open(host: &Host, attempt: Attempt) -> Result<Stream, OpenError> {
    open_at(host, attempt, None).await
}

/// As [`open`]; `peer` is one of the addresses that the host's name has, or had.
///
/// # Errors
/// As [`open`].
pub(super) async fn open_at(
    host: &Host,
    attempt: Attempt,
    peer: Option<SocketAddr>,
) -> Result<Stream, OpenError> {
    if let Some(path) = host.unix_socket() {
        return UnixStream::connect(path).await.map(Stream::Unix).map_err(OpenError::Socket);
    }
    let connected = match peer {
        Some(peer) => TcpStream::connect(peer).await,
        None => TcpStream::connect((host.host.as_str(), host.port)).await,
    };
    let tcp = connected.map_err(OpenError::Socket)?;
    let stream = match attempt {
        Attempt::Clear => Stream::Tcp(tcp),
        Attempt::Offered | Attempt::Tls => secured(host, attempt, tcp).await?,
    };
    stream.set_nodelay();
    Ok(stream)
}

async fn secured(host: &Host, attempt: Attempt, mut tcp: TcpStream) -> Result<Stream, OpenError> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(OpenError::Socket)?;
    // Not a byte more: what follows in clear must not pass for what comes after the handshake.
    match (tcp.read_u8().await.map_err(OpenError::Socket)?, attempt) {
        (b'S', _) => {
            let mut input = BytesMut::new();
            let connector = Connector::load(host).map_err(OpenError::File)?;
            let tls = connector.connect(tcp, &mut input).await.map_err(OpenError::Handshake)?;
            match input.is_empty() {
                true => Ok(Stream::Tls(Box::new(tls))),
                false => Err(OpenError::Handshake(io::ErrorKind::InvalidData.into())),
            }
        }
        (b'N', Attempt::Offered) => Ok(Stream::Tcp(tcp)),
        _ => Err(OpenError::NoTls(host.tls.mode)),
    }
}

/// Writes all of it.
///
/// # Errors
/// As the socket reports.
pub(super) async fn write_all(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match poll_fn(|cx| stream.poll_write(cx, rest)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => rest = &rest[count..],
        }
    }
    Ok(())
}
