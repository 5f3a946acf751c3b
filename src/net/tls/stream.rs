//! A TLS session over a TCP connection, driven by hand: it costs one `recv` and one `send` like TCP, holds
//! no buffer for plaintext while idle, and can move to another thread's reactor.

use std::future::poll_fn;
use std::io::{self, BufRead, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{PeerCertificate, certificate};

/// Ciphertext read at once: a whole record and its header.
const READ_BYTES: usize = 17 * 1024;

/// A TLS session and the connection it runs over.
#[derive(Debug)]
pub struct TlsStream {
    /// Away only while it moves to another reactor.
    tcp: Option<TcpStream>,
    session: Connection,
    /// Bytes of the caller's that are encrypted, while the socket has not taken all of them.
    accepted: usize,
    has_ended: bool,
    end_point: Option<Arc<[u8]>>,
}

impl TlsStream {
    /// Shakes hands. `early` is what was read of the peer's first flight already; plaintext that comes
    /// with its last one goes to `input`.
    ///
    /// # Errors
    /// As the socket reports, or `InvalidData` with the reason why the peers do not agree.
    pub(super) async fn handshake(
        tcp: TcpStream,
        session: Connection,
        early: &[u8],
        input: &mut BytesMut,
    ) -> io::Result<Self> {
        let tcp = Some(tcp);
        let mut stream = Self { tcp, session, accepted: 0, has_ended: false, end_point: None };
        if !early.is_empty() {
            stream.decrypt(early, input)?;
        }
        poll_fn(|cx| stream.poll_handshake(cx, input)).await?;
        Ok(stream)
    }

    fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if self.has_ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(self.poll_receive(cx, input))?;
        }
    }

    /// The protocol that was agreed on by ALPN.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    /// The peer's certificate, as it was sent; none if it showed none.
    pub(super) fn certificate(&self) -> Option<&[u8]> {
        Some(self.session.peer_certificates()?.first()?.as_ref())
    }

    /// Whom the peer's certificate was issued for.
    pub fn peer_certificate(&self) -> Option<PeerCertificate> {
        self.certificate().and_then(certificate::peer)
    }

    /// What channel binding binds to: `tls-server-end-point` of the server's certificate, whichever side
    /// that is.
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    pub(super) fn with_end_point(self, end_point: Option<Arc<[u8]>>) -> Self {
        let mut stream = self;
        stream.end_point = end_point;
        stream
    }

    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        self.tcp.as_ref().ok_or(io::ErrorKind::NotConnected)?.set_nodelay(true)
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.as_ref().ok_or(io::ErrorKind::NotConnected)?.peer_addr()
    }

    /// Moves the connection below as `register` does.
    ///
    /// # Errors
    /// As `register`; the connection is closed then.
    pub(crate) fn register(
        &mut self,
        register: impl FnOnce(TcpStream) -> io::Result<TcpStream>,
    ) -> io::Result<()> {
        let tcp = self.tcp.take().ok_or(io::ErrorKind::NotConnected)?;
        self.tcp = Some(register(tcp)?);
        Ok(())
    }

    /// Appends what one read of the socket brings, decrypted; 0 bytes at the end. `room` is made only
    /// when there is something to read.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        room: impl FnOnce(&mut BytesMut),
    ) -> Poll<io::Result<usize>> {
        if !self.has_ended {
            let tcp = self.tcp.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            ready!(tcp.poll_read_ready(cx))?;
        }
        room(buffer);
        let before = buffer.len();
        while buffer.len() == before && !self.has_ended {
            ready!(self.poll_receive(cx, buffer))?;
        }
        Poll::Ready(Ok(buffer.len() - before))
    }

    /// Ready once all of what it says was written is with the socket; until then it must be called with
    /// the same bytes.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.accepted == 0 {
            self.accepted = self.session.writer().write(bytes)?;
        }
        let sent = ready!(self.poll_send(cx));
        let accepted = std::mem::take(&mut self.accepted);
        Poll::Ready(sent.map(|()| accepted))
    }

    /// One read of the socket.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        let tcp = self.tcp.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut room = [MaybeUninit::<u8>::uninit(); READ_BYTES];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(tcp).poll_read(cx, &mut read))?;
        let outcome = self.decrypt(read.filled(), buffer);
        if self.session.wants_write() {
            // An alert or new keys: what the socket does not take now goes ahead of the next write.
            let _ = self.poll_send(cx)?;
        }
        Poll::Ready(outcome)
    }

    fn decrypt(&mut self, mut cipher: &[u8], buffer: &mut BytesMut) -> io::Result<()> {
        self.has_ended |= cipher.is_empty();
        while !cipher.is_empty() && !self.has_ended {
            self.session.read_tls(&mut cipher)?;
            self.session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.take_plain(buffer)?;
        }
        Ok(())
    }

    fn take_plain(&mut self, buffer: &mut BytesMut) -> io::Result<()> {
        let mut reader = self.session.reader();
        loop {
            let count = match reader.fill_buf() {
                Ok(plain) => {
                    buffer.extend_from_slice(plain);
                    plain.len()
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if count == 0 {
                self.has_ended = true;
                return Ok(());
            }
            reader.consume(count);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tcp = self.tcp.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        while self.session.wants_write() {
            match self.session.write_tls(&mut Socket { tcp, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Tells the peer that nothing was cut off, or what was wrong with its handshake, if the socket takes
/// that now.
impl Drop for TlsStream {
    fn drop(&mut self) {
        let Some(tcp) = &self.tcp else { return };
        if self.accepted == 0 && !self.session.is_handshaking() {
            self.session.send_close_notify();
        }
        while self.session.wants_write() {
            if !matches!(self.session.write_tls(&mut Parting(tcp)), Ok(count) if count > 0) {
                break;
            }
        }
    }
}

/// The socket as the session wants it: pending is `WouldBlock`.
struct Socket<'a, 'b, 'c> {
    tcp: &'a mut TcpStream,
    cx: &'b mut Context<'c>,
}

impl Write for Socket<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        now(Pin::new(&mut *self.tcp).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        now(Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, parts))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn now<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// The socket of a session that ends.
struct Parting<'a>(&'a TcpStream);

impl Write for Parting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
