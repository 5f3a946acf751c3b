//! Drives a [`Merge`]: reads the shard it needs next, writes what it gives.

use bytes::Bytes;

use super::broadcast::Describe;
use super::relay::next_frame;
use super::{Failure, Member};
use crate::merge::{Merge, Step};
use crate::net::Client;

/// Merges the answers of members, to which the statement was sent, into the client's output. Every
/// member's stream is read only as far as the merge needs it, so that memory stays bounded. Gives the
/// command tag.
///
/// # Errors
/// The first error of a shard or of the merge; the rest of every stream is then dropped.
pub async fn run(
    members: &mut [&mut Member],
    client: &mut Client,
    mut merge: Merge,
    describe: Describe,
) -> Result<String, Failure> {
    let merged = steps(members, client, &mut merge, describe).await;
    if matches!(merged, Err(Failure::Gone)) {
        return Err(Failure::Gone);
    }
    for member in members {
        settle(member, merged.is_err()).await?;
    }
    merged.map(|()| merge.tag())
}

async fn steps(
    members: &mut [&mut Member],
    client: &mut Client,
    merge: &mut Merge,
    describe: Describe,
) -> Result<(), Failure> {
    // All descriptions first: types that cannot be merged are refused before anything goes out.
    let mut described = None;
    for (shard, member) in members.iter_mut().enumerate() {
        let visible = description(shard, member, client, merge).await?;
        described = described.or(visible);
    }
    if let (Some(frame), Describe::Forward) = (described, describe) {
        client.out.extend_from_slice(&frame);
    }
    loop {
        match merge.step(&mut client.out)? {
            Step::Done => return Ok(()),
            Step::Full => {
                let flushed = std::future::poll_fn(|cx| client.poll_flush(cx)).await;
                flushed.map_err(|_| Failure::Gone)?;
            }
            Step::Need(shard) => feed(shard, members[shard], client, merge).await?,
        }
    }
}

/// Reads a shard's RowDescription; that for the client, if it is the first.
async fn description(
    shard: usize,
    member: &mut Member,
    client: &mut Client,
    merge: &mut Merge,
) -> Result<Option<Bytes>, Failure> {
    while let Some((tag, frame)) = next_frame(member.server(), client).await? {
        match tag {
            b'T' => return Ok(merge.describe(shard, &frame)?),
            b'E' => return Err(Failure::Server(frame)),
            _ => (),
        }
    }
    Err(crate::error::PgError::refused("a statement without rows cannot be merged").into())
}

async fn feed(
    shard: usize,
    member: &mut Member,
    client: &mut Client,
    merge: &mut Merge,
) -> Result<(), Failure> {
    // What is in memory already is handed over at once.
    let mut fed = false;
    while !fed || member.server().has_frame() {
        let Some((tag, frame)) = next_frame(member.server(), client).await? else {
            return Ok(());
        };
        match tag {
            b'D' => merge.row(shard, frame)?,
            b'C' => return Ok(merge.end(shard, tag_of(&frame))?),
            // As many rows as were asked for.
            b's' => return Ok(merge.end(shard, b"SELECT 0")?),
            b'E' => return Err(Failure::Server(frame)),
            b'N' => client.out.extend_from_slice(&frame),
            _ => continue,
        }
        fed = true;
    }
    Ok(())
}

/// The text of a CommandComplete.
fn tag_of(frame: &[u8]) -> &[u8] {
    frame.get(5..frame.len().saturating_sub(1)).unwrap_or_default()
}

/// Reads a member to its end; one that still has much to say after a failure is cancelled.
pub(super) async fn settle(member: &mut Member, failed: bool) -> Result<(), Failure> {
    let server = member.server();
    if server.is_broken() || !server.is_owing() {
        return Ok(());
    }
    if failed {
        let patience = std::time::Duration::from_millis(50);
        if tokio::time::timeout(patience, server.drain()).await.is_ok() {
            return Ok(());
        }
        server.cancel.begin().send().await;
    }
    if let Err(error) = server.drain().await {
        server.set_broken();
        tracing::debug!(%error, "a merged stream ended badly");
    }
    Ok(())
}
