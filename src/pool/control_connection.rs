//! How the control plane connects: tokio-postgres over a stream of our own, so that TLS and Unix sockets
//! are as for clients' statements.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::net::IpAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::{Buf, BytesMut};
use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config};

use crate::config::Host;
use crate::net::{Peer, Stream};
use crate::server::open::{self, Attempt, OpenError};

/// How long connecting may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Compiling the schema's queries, which are estimated high and are short, costs seconds of CPU.
const WITHOUT_JIT: &str =
    "SELECT set_config(name, 'off', false) FROM pg_catalog.pg_settings WHERE name = 'jit'";
/// Room for one read.
const READ_BYTES: usize = 8 * 1024;

/// Makes connections to one host.
pub struct Connections {
    host: Host,
    config: Config,
    on_loss: OnLoss,
    /// Those of the host's name, where it is looked up.
    addresses: ArcSwapOption<Arc<[IpAddr]>>,
}

/// What is done when a server ends a connection.
pub(super) type OnLoss = Arc<dyn Fn() + Send + Sync>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("error connecting to server: {0}")]
    Open(OpenError),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
}

impl ConnectError {
    /// Whether the server has no connection left.
    pub(super) fn is_full(&self) -> bool {
        let full = tokio_postgres::error::SqlState::TOO_MANY_CONNECTIONS;
        matches!(self, Self::Postgres(error) if error.code() == Some(&full))
    }

    fn may_retry(&self) -> bool {
        match self {
            Self::Open(error) => error.is_about_tls(),
            Self::Postgres(error) => {
                let refused = tokio_postgres::error::SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
                error.code() == Some(&refused)
            }
            Self::TimedOut(_) => false,
        }
    }

    /// Whether there is no server, or none that takes connections now.
    pub(super) fn is_down(&self) -> bool {
        match self {
            Self::Open(error) => !error.is_about_tls(),
            Self::Postgres(error) => error.code().is_none_or(|it| it.code().starts_with("57P")),
            Self::TimedOut(_) => true,
        }
    }
}

impl Connections {
    /// As the host's URL says.
    pub(super) fn new(host: &Host, on_loss: OnLoss) -> Self {
        let mut config = Config::new();
        config.user(&host.user).dbname(&host.database).application_name("pgsluice control");
        if let Some(password) = &host.password {
            config.password(password);
        }
        Self { host: host.clone(), config, on_loss, addresses: ArcSwapOption::empty() }
    }

    /// The addresses that the host's name means from now on.
    pub(super) fn move_to(&self, addresses: &Arc<[IpAddr]>) {
        self.addresses.store(Some(Arc::new(Arc::clone(addresses))));
    }

    async fn connect(&self) -> Result<Connection, ConnectError> {
        let mut attempts = open::attempts(&self.host).iter().peekable();
        loop {
            let attempt = attempts.next().copied().unwrap_or(Attempt::Clear);
            match self.connect_by(attempt).await {
                Err(error) if error.may_retry() && attempts.peek().is_some() => (),
                outcome => return outcome,
            }
        }
    }

    async fn connect_by(&self, attempt: Attempt) -> Result<Connection, ConnectError> {
        let stream = open::open(&self.host, attempt).await.map_err(ConnectError::Open)?;
        let peer = match stream.peer() {
            Ok(Peer::Tcp(address)) => Some(address.ip().to_canonical()),
            _ => None,
        };
        let mut config = self.config.clone();
        // The handshake is done; "direct" only hands the certificate's hash to SCRAM.
        config.ssl_negotiation(SslNegotiation::Direct);
        config.ssl_mode(match stream.tls() {
            Some(_) => SslMode::Require,
            None => SslMode::Disable,
        });
        let stream = Buffered { stream, input: BytesMut::new() };
        let (client, driver) = config.connect_raw(stream, Secured).await?;
        let on_loss = Arc::clone(&self.on_loss);
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a control connection ended");
            }
            on_loss();
        });
        let connection = Connection { client, driver, peer };
        connection.batch_execute(WITHOUT_JIT).await?;
        Ok(connection)
    }
}

impl Manager for Connections {
    type Type = Connection;
    type Error = ConnectError;

    async fn create(&self) -> Result<Connection, ConnectError> {
        // Large, and rare: in a box of its own it does not make the sessions' futures larger.
        let connecting = tokio::time::timeout(DEADLINE, Box::pin(self.connect()));
        connecting.await.unwrap_or(Err(ConnectError::TimedOut(DEADLINE)))
    }

    async fn recycle(&self, it: &mut Connection, _: &Metrics) -> RecycleResult<ConnectError> {
        let addresses = self.addresses.load();
        match addresses.as_ref() {
            _ if it.client.is_closed() => Err(RecycleError::message("the connection is closed")),
            Some(addresses) if !it.is_at(addresses) => {
                Err(RecycleError::message("the host has another address now"))
            }
            _ => Ok(()),
        }
    }
}

/// A connection; it is closed when this is dropped.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    driver: JoinHandle<()>,
    peer: Option<IpAddr>,
}

impl Connection {
    /// Whether it leads to one of these; a Unix socket has no address.
    pub(super) fn is_at(&self, addresses: &[IpAddr]) -> bool {
        self.peer.is_none_or(|it| addresses.contains(&it))
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A stream as tokio-postgres reads it.
struct Buffered {
    stream: Stream,
    input: BytesMut,
}

impl AsyncRead for Buffered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, input } = self.get_mut();
        if input.is_empty() {
            std::task::ready!(stream.poll_read(cx, input, |input| input.reserve(READ_BYTES)))?;
        }
        let count = input.len().min(room.remaining());
        room.put_slice(&input[..count]);
        input.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Closed when it is dropped.
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for Buffered {
    fn channel_binding(&self) -> ChannelBinding {
        match self.stream.tls().and_then(crate::net::tls::TlsStream::end_point) {
            Some(end_point) => ChannelBinding::tls_server_end_point(end_point.to_vec()),
            None => ChannelBinding::none(),
        }
    }
}

/// The handshake that was made before.
struct Secured;

impl TlsConnect<Buffered> for Secured {
    type Stream = Buffered;
    type Error = Infallible;
    type Future = Ready<Result<Buffered, Infallible>>;

    fn connect(self, stream: Buffered) -> Self::Future {
        ready(Ok(stream))
    }
}
