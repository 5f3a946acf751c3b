//! One server, one client: bytes are handed over in chunks, only headers are looked at.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Failure;
use crate::error::PgError;
use crate::net::Client;
use crate::server::{Front, Server};
use crate::wire::frame;

/// What may wait for a server before the client's COPY data is read further.
const HIGH_WATER: usize = 64 * 1024;

/// So many bytes are written without waiting for more.
const AT_ONCE: usize = 8 * 1024;

/// Sends what is queued for the server and hands its answers to the client until all are given. The
/// last chunk may stay in `client.out`: the server can go back before it is written.
///
/// Not cancel safe: dropped in the middle, the server is out of step and must be cleaned up.
///
/// # Errors
/// [`Failure::Gone`] if the client closed its connection; [`Failure::Error`] if the server's was lost.
pub async fn relay(server: &mut Server, client: &mut Client) -> Result<(), Failure> {
    poll_fn(|cx| poll_relay(server, client, cx)).await
}

/// As [`relay`], one step.
pub fn poll_relay(
    server: &mut Server,
    client: &mut Client,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Failure>> {
    loop {
        if let Poll::Ready(Err(error)) = server.poll_flush(cx) {
            return Poll::Ready(Err(error.into()));
        }
        if client.out.len() >= client.buffer_limit && client.poll_flush(cx).is_pending() {
            return watch(client, cx);
        }
        while let Some(fake) = server.next_fake() {
            client.out.extend_from_slice(&fake);
        }
        match server.front() {
            Err(error) => return Poll::Ready(Err(error.into())),
            Ok(Front::Forward(0)) => continue, // a fake is next
            Ok(Front::Forward(count)) => {
                if hand_over(server, client, count, cx).is_err() {
                    return Poll::Ready(Err(Failure::Gone));
                }
                if server.has_told_ready() && !server.is_owing() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            Ok(Front::Done) => return Poll::Ready(Ok(())),
            Ok(Front::More) => (),
        }
        match server.poll_fill(cx) {
            Poll::Ready(Ok(_)) => continue,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => (),
        }
        // What is made up ahead of an answer goes with it.
        if !client.out.is_empty()
            && server.has_answered()
            && let Poll::Ready(Err(_)) = client.poll_flush(cx)
        {
            return Poll::Ready(Err(Failure::Gone));
        }
        if server.is_copy_in() {
            match poll_copy(server, client, cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Pending => return Poll::Pending,
            }
        }
        return watch(client, cx);
    }
}

/// Hands bytes of the server on: at once where they are the end of the answer or many, without a copy if
/// nothing waits before them; else they are kept for what follows.
fn hand_over(
    server: &mut Server,
    client: &mut Client,
    count: usize,
    cx: &mut Context<'_>,
) -> std::io::Result<()> {
    let bytes = server.front_bytes(count);
    let is_due = count >= AT_ONCE || server.has_told_ready();
    if is_due && client.out.is_empty() {
        client.poll_send(cx, bytes)?;
    } else {
        client.out.extend_from_slice(bytes);
        if is_due && let Poll::Ready(Err(error)) = client.poll_flush(cx) {
            return Err(error);
        }
    }
    server.drop_front(count);
    Ok(())
}

fn watch(client: &mut Client, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
    client.poll_gone(cx).map(|()| Err(Failure::Gone))
}

/// Hands COPY data from the client to the server. Ready if something was handed over.
fn poll_copy(
    server: &mut Server,
    client: &mut Client,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Failure>> {
    if server.unsent() >= HIGH_WATER {
        return Poll::Pending; // woken when the server takes more
    }
    loop {
        match client.take_frame() {
            Err(error) => return Poll::Ready(Err(error.into())),
            Ok(Some((tag, frame))) => {
                copy_frame(server, tag, &frame)?;
                return Poll::Ready(Ok(()));
            }
            Ok(None) => match client.poll_more(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(true) => (),
                Poll::Ready(false) => return Poll::Ready(Err(Failure::Gone)),
            },
        }
    }
}

fn copy_frame(server: &mut Server, tag: u8, frame: &[u8]) -> Result<(), PgError> {
    match tag {
        b'd' => server.push_raw(frame),
        b'c' | b'f' => server.end_copy(frame),
        // Sync and Flush during COPY are ignored, as Postgres does.
        b'S' | b'H' => (),
        _ => {
            return Err(PgError::new(
                crate::error::sqlstate::PROTOCOL_VIOLATION,
                format!("unexpected message {:?} during COPY", char::from(tag)),
            ));
        }
    }
    Ok(())
}

/// The next frame for the client, whole, while output is written and the client is watched; `None`
/// when the server has answered everything.
///
/// # Errors
/// As [`relay`].
pub async fn next_frame(
    server: &mut Server,
    client: &mut Client,
) -> Result<Option<(u8, Bytes)>, Failure> {
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(Err(error)) = server.poll_flush(cx) {
                return Poll::Ready(Err(error.into()));
            }
            match server.take_frame() {
                Ok(Some(Some(frame))) => return Poll::Ready(Ok(Some(frame))),
                Ok(Some(None)) => return Poll::Ready(Ok(None)),
                Ok(None) => (),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            match server.poll_fill(cx) {
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => (),
            }
            if let Poll::Ready(Err(_)) = client.poll_flush(cx) {
                return Poll::Ready(Err(Failure::Gone));
            }
            return client.poll_gone(cx).map(|()| Err(Failure::Gone));
        }
    })
    .await
}

/// The next message of the client, whole.
///
/// # Errors
/// [`Failure::Gone`] at the end of the stream, 08P01 for an impossible length.
pub async fn next_message(client: &mut Client) -> Result<(u8, Bytes), Failure> {
    loop {
        if let Some(message) = client.take_frame()? {
            return Ok(message);
        }
        match client.fill().await {
            Ok(0) | Err(_) => return Err(Failure::Gone),
            Ok(_) => (),
        }
    }
}

/// Whether a frame header announces a message of this tag: for peeking.
pub fn peeks(input: &[u8], tag: u8) -> bool {
    matches!(frame::next_frame(input), Ok(Some(next)) if next.tag == tag)
}
