//! One byte stream to a client or a server, whatever carries it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::tls::TlsStream;

/// Bytes that [`Stream::try_read`] takes at once.
const TRY_BYTES: usize = 128;

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A process of this machine, with its user if the system tells it.
    Unix {
        uid: Option<u32>,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { uid: Some(uid) } => write!(f, "[local]:{uid}"),
            Self::Unix { uid: None } => f.write_str("[local]"),
        }
    }
}

impl Stream {
    /// Who is at the other end.
    ///
    /// # Errors
    /// If a TCP peer has gone already.
    pub fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map(Peer::Tcp),
            Self::Tls(stream) => stream.peer_addr().map(Peer::Tcp),
            Self::Unix(stream) => {
                Ok(Peer::Unix { uid: stream.peer_cred().ok().map(|it| it.uid()) })
            }
        }
    }

    /// Sends small writes at once.
    pub fn set_nodelay(&self) {
        let set = match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Tls(stream) => stream.set_nodelay(),
            Self::Unix(_) => Ok(()),
        };
        if let Err(error) = set {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    }

    /// The same stream, registered with the current thread's reactor.
    ///
    /// # Errors
    /// If the reactor does not take it; the connection is closed then.
    pub fn register_here(self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.into_std().and_then(TcpStream::from_std).map(Self::Tcp),
            Self::Unix(stream) => stream.into_std().and_then(UnixStream::from_std).map(Self::Unix),
            Self::Tls(mut stream) => {
                stream.register(|tcp| tcp.into_std().and_then(TcpStream::from_std))?;
                Ok(Self::Tls(stream))
            }
        }
    }

    /// Reads once, into a buffer for which `room` is made only when there is something to read. A short
    /// read clears readiness, so that the next call asks the reactor and not the kernel.
    ///
    /// # Errors
    /// As the socket reports.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        room: impl FnOnce(&mut BytesMut),
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => {
                ready!(stream.poll_read_ready(cx))?;
                room(buffer);
                pin!(stream.read_buf(buffer)).poll(cx)
            }
            Self::Unix(stream) => {
                ready!(stream.poll_read_ready(cx))?;
                room(buffer);
                pin!(stream.read_buf(buffer)).poll(cx)
            }
            Self::Tls(stream) => stream.poll_read(cx, buffer, room),
        }
    }

    /// As [`Self::poll_read`], into a buffer that has room.
    ///
    /// # Errors
    /// As the socket reports.
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Self::Unix(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Self::Tls(stream) => stream.poll_read(cx, buffer, |_| ()),
        }
    }

    /// The TLS session, if there is one.
    pub fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Tls(stream) => Some(stream),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Writes the beginning of `bytes`; how much of it. While pending, the same bytes must be offered
    /// again.
    ///
    /// # Errors
    /// As the socket reports.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => match stream.try_write(bytes) {
                // Asks to be woken.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Pin::new(stream).poll_write(cx, bytes)
                }
                written => Poll::Ready(written),
            },
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => stream.poll_write(cx, bytes),
        }
    }

    /// Appends what is there already, without waiting and, if nothing came since the last read,
    /// without a system call.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing; else as the socket reports.
    pub fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut bytes = [0; TRY_BYTES];
        let count = match self {
            Self::Tcp(stream) => stream.try_read(&mut bytes)?,
            Self::Unix(stream) => stream.try_read(&mut bytes)?,
            Self::Tls(stream) => {
                let mut nobody = Context::from_waker(Waker::noop());
                return match stream.poll_read(&mut nobody, buffer, |_| ()) {
                    Poll::Ready(read) => read,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                };
            }
        };
        buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}
