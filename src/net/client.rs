//! A client's socket with what was read and not yet understood, and what is to be written.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::backlog::Backlog;
use super::tape::Tape;
use super::thread::READ_BYTES;
use super::tls::{Acceptor, PeerCertificate};
use super::{Peer, Stream, Thread};
use crate::error::PgError;
use crate::wire::frame;

/// What a client may send ahead while its statement runs.
const AHEAD_BYTES: usize = 64 * 1024;
/// What a client's output may hold, unless told otherwise.
const BUFFER_BYTES: usize = 64 * 1024;

/// A connected client.
pub struct Client {
    stream: Stream,
    pub peer: Peer,
    /// The thread that serves it.
    pub thread: Arc<Thread>,
    /// Read and not yet handled.
    pub input: BytesMut,
    /// To be written.
    pub out: BytesMut,
    /// Bytes one message may have.
    pub message_limit: usize,
    /// Bytes a statement's text may have.
    pub text_limit: usize,
    /// Whether the client was asked for COPY data by the proxy itself in this request.
    pub has_copied: bool,
    /// Bytes received and sent so far.
    pub received: u64,
    pub sent: u64,
    /// What `out` may hold before it must be written.
    pub buffer_limit: usize,
    /// What it does not take, for others to see.
    pub backlog: Arc<Backlog>,
    is_blocked: bool,
    /// How often its output was full and it took no more.
    pub stalls: u32,
    /// Its transaction, where that may have to be repeated.
    pub tape: Option<Box<Tape>>,
}

impl Client {
    /// A client that has just connected.
    pub fn new(stream: Stream, peer: Peer, thread: Arc<Thread>, message_limit: usize) -> Self {
        Self {
            stream,
            peer,
            thread,
            input: BytesMut::new(),
            out: BytesMut::new(),
            message_limit,
            text_limit: message_limit,
            has_copied: false,
            received: 0,
            sent: 0,
            buffer_limit: BUFFER_BYTES,
            backlog: Arc::default(),
            is_blocked: false,
            stalls: 0,
            tape: None,
        }
    }

    /// The same client after a TLS handshake, whose first bytes may lie in `input`.
    ///
    /// # Errors
    /// As [`Acceptor::accept`]; the connection is closed then.
    pub async fn into_tls(mut self, acceptor: &Acceptor) -> io::Result<Self> {
        let Stream::Tcp(tcp) = self.stream else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let early = std::mem::take(&mut self.input);
        let tls = acceptor.accept(tcp, &early, &mut self.input).await?;
        Ok(Self { stream: Stream::Tls(Box::new(tls)), ..self })
    }

    /// Whether nobody between can read along.
    pub fn is_tls(&self) -> bool {
        self.stream.tls().is_some()
    }

    /// The protocol that the client asked for by ALPN.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.stream.tls()?.protocol()
    }

    /// What SCRAM's channel binding binds to: `tls-server-end-point` of our certificate. None without
    /// TLS, and where a certificate's signature knows no hash.
    pub fn channel_binding(&self) -> Option<Vec<u8>> {
        self.stream.tls()?.end_point().map(<[u8]>::to_vec)
    }

    /// The certificate that the client has shown and that one of the CAs has signed.
    pub fn peer_certificate(&self) -> Option<PeerCertificate> {
        self.stream.tls()?.peer_certificate()
    }

    /// Its address; `None` by a Unix socket.
    pub fn address(&self) -> Option<std::net::IpAddr> {
        match self.peer {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix { .. } => None,
        }
    }

    /// The next whole frame of the input, if it is there.
    ///
    /// # Errors
    /// 08P01 for a length that no message may have.
    pub fn take_frame(&mut self) -> Result<Option<(u8, Bytes)>, PgError> {
        let Some(next) = frame::next_frontend(&self.input, self.message_limit)? else {
            return Ok(None);
        };
        if self.input.len() < next.len {
            return Ok(None);
        }
        if let Some(tape) = &mut self.tape {
            tape.take(&self.input[..next.len]);
        }
        Ok(Some((next.tag, self.input.split_to(next.len).freeze())))
    }

    /// Drops a request at the front of the input that was handled there.
    pub fn drop_front(&mut self, len: usize) {
        if let Some(tape) = &mut self.tape {
            tape.take(&self.input[..len]);
        }
        self.input.advance(len);
    }

    /// Puts a frame back to the front of the input.
    pub fn take_back(&mut self, frame: &[u8]) {
        if let Some(tape) = &mut self.tape {
            tape.take_back(frame.len());
        }
        self.put_before(frame);
    }

    /// Puts bytes before the input.
    pub fn put_before(&mut self, frame: &[u8]) {
        let mut input = BytesMut::with_capacity(frame.len() + self.input.len());
        input.extend_from_slice(frame);
        input.extend_from_slice(&self.input);
        self.input = input;
    }

    /// Waits for more input, holding no buffer meanwhile. 0 bytes: the client has gone.
    ///
    /// # Errors
    /// As the socket reports.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.rest();
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Gives buffers back before a wait.
    pub fn rest(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.thread.give_buffer(std::mem::take(&mut self.input));
        }
        if self.out.is_empty() && self.out.capacity() > 0 {
            self.thread.give_buffer(std::mem::take(&mut self.out));
        }
    }

    /// Reads once, into a buffer taken only when there is something to read.
    ///
    /// # Errors
    /// As the socket reports.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let thread = &self.thread;
        let make_room = |input: &mut BytesMut| match input.capacity() {
            0 => *input = thread.take_buffer(),
            _ => input.reserve(READ_BYTES),
        };
        let read = ready!(self.stream.poll_read(cx, &mut self.input, make_room))?;
        self.received += read as u64;
        Poll::Ready(Ok(read))
    }

    /// While a statement runs: takes what the client sends ahead, within bounds. Ready only if the
    /// client has gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < AHEAD_BYTES || self.input.len() < self.ahead_limit() {
            match ready!(self.poll_read(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => (),
            }
        }
        Poll::Pending
    }

    /// Takes more input for COPY; ready with `false` if the client has gone.
    pub fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.input.len() >= AHEAD_BYTES && self.input.len() >= self.ahead_limit() {
            return Poll::Ready(true);
        }
        Poll::Ready(matches!(ready!(self.poll_read(cx)), Ok(count) if count > 0))
    }

    /// One whole message may always be read, however large within its limit.
    fn ahead_limit(&self) -> usize {
        match frame::next_frontend(&self.input, self.message_limit) {
            Ok(Some(next)) => next.len.max(AHEAD_BYTES),
            _ => AHEAD_BYTES,
        }
    }

    /// Writes as much of `out` as the socket takes now; ready when all is written.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tape) = &mut self.tape {
            tape.swallow(&mut self.out);
            if tape.differs() && !tape.is_replaying() {
                // It has a part of an answer that would now go on otherwise.
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        while !self.out.is_empty() {
            let Poll::Ready(written) = self.stream.poll_write(cx, &self.out) else {
                let is_full = self.out.len() >= self.buffer_limit;
                self.stalls += u32::from(is_full && !self.is_blocked);
                self.is_blocked = true;
                self.backlog.stop(self.sent, self.out.len());
                return Poll::Pending;
            };
            let written = written?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written as u64;
            if let Some(tape) = &mut self.tape {
                tape.send(&self.out[..written]);
            }
            self.out.advance(written);
        }
        if std::mem::take(&mut self.is_blocked) {
            self.backlog.clear();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes bytes while `out` is empty; what the socket does not take now is left there.
    ///
    /// # Errors
    /// As the socket reports.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        if self.tape.is_some() {
            self.out.extend_from_slice(bytes);
            return match self.poll_flush(cx) {
                Poll::Ready(Err(error)) => Err(error),
                _ => Ok(()),
            };
        }
        let written = match self.stream.poll_write(cx, bytes) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        self.sent += written as u64;
        self.out.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    /// Writes `out`.
    ///
    /// # Errors
    /// As the socket reports, or `TimedOut` if the client takes nothing for so long.
    pub async fn flush(&mut self, patience: Duration) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        match tokio::time::timeout(patience, poll_fn(|cx| self.poll_flush(cx))).await {
            Ok(written) => written,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
