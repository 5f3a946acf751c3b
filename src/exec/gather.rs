//! Reads the rows that shards ship, all shards at the same time.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::merge::settle;
use super::{Failure, Member};
use crate::merge::arrays::Arrays;
use crate::net::Client;
use crate::server::Server;

/// Puts the rows of members, to which the statement was sent, into `arrays`.
///
/// # Errors
/// The first error of a shard, or that of a bound; the rest of every stream is then dropped.
pub async fn rows(
    members: &mut [&mut Member],
    client: &mut Client,
    arrays: &mut Arrays,
) -> Result<(), Failure> {
    let mut is_done = vec![false; members.len()];
    let read = poll_fn(|cx| poll_all(members, &mut is_done, client, arrays, cx)).await;
    if matches!(read, Err(Failure::Gone)) {
        return read;
    }
    for member in members {
        settle(member, read.is_err()).await?;
    }
    read
}

fn poll_all(
    members: &mut [&mut Member],
    is_done: &mut [bool],
    client: &mut Client,
    arrays: &mut Arrays,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Failure>> {
    for (member, is_done) in members.iter_mut().zip(is_done.iter_mut()).filter(|(_, it)| !**it) {
        match poll_one(member.server(), client, arrays, cx) {
            Poll::Ready(Ok(())) => *is_done = true,
            Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
            Poll::Pending => (),
        }
    }
    match is_done.iter().all(|it| *it) {
        true => Poll::Ready(Ok(())),
        false => client.poll_gone(cx).map(|()| Err(Failure::Gone)),
    }
}

fn poll_one(
    server: &mut Server,
    client: &mut Client,
    arrays: &mut Arrays,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Failure>> {
    loop {
        if let Poll::Ready(Err(error)) = server.poll_flush(cx) {
            return Poll::Ready(Err(error.into()));
        }
        loop {
            match server.take_frame() {
                Ok(Some(Some((tag, frame)))) => take(tag, frame, client, arrays)?,
                Ok(Some(None)) => return Poll::Ready(Ok(())),
                Ok(None) => break,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        match server.poll_fill(cx) {
            Poll::Ready(Ok(_)) => (),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => return Poll::Pending,
        }
    }
}

fn take(tag: u8, frame: Bytes, client: &mut Client, arrays: &mut Arrays) -> Result<(), Failure> {
    match tag {
        b'D' => arrays.row(&frame)?,
        b'E' => return Err(Failure::Server(frame)),
        b'N' => client.out.extend_from_slice(&frame),
        _ => (),
    }
    Ok(())
}
