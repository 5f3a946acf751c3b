//! The same statement on several shards, whose counts add up or must agree.

use bytes::Bytes;

use super::relay::next_frame;
use super::{Failure, Member};
use crate::error::{PgError, sqlstate};
use crate::net::Client;
use crate::wire::backend::CommandTag;

/// How the shards' answers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Rows are concatenated, counts added.
    Sum,
    /// All shards must report the same; the first one's rows are forwarded.
    Same,
}

/// What a shard's row description is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Describe {
    /// The client gets one.
    Forward,
    /// The client has it already, or did not ask.
    Hide,
}

/// Reads the answers of all members, to which the statement was sent. Gives the command tag, which
/// the caller forwards once the transaction is safe.
///
/// # Errors
/// The first error of a shard; the others are read to their end.
pub async fn collect(
    members: &mut [&mut Member],
    client: &mut Client,
    answers: Answers,
    describe: Describe,
) -> Result<String, Failure> {
    let mut total = Total::default();
    let mut failed = None;
    for (i, member) in members.iter_mut().enumerate() {
        let forwards = failed.is_none() && (i == 0 || answers == Answers::Sum);
        match one(member, client, forwards, i == 0 && describe == Describe::Forward).await {
            Ok(tag) => total.add(&tag, answers),
            Err(Failure::Gone) => return Err(Failure::Gone),
            Err(failure) => drop(failed.get_or_insert(failure)),
        }
    }
    match failed {
        Some(failure) => Err(failure),
        None => total.tag(),
    }
}

/// As [`collect`] for an INSERT split by rows, whose RETURNING rows come in the order of the rows
/// given: `order` names the member of each.
///
/// # Errors
/// As [`collect`].
pub async fn in_order(
    members: &mut [&mut Member],
    client: &mut Client,
    order: &[usize],
    describe: Describe,
) -> Result<String, Failure> {
    let mut rows: Vec<std::collections::VecDeque<Bytes>> = vec![Default::default(); members.len()];
    let (mut total, mut failed, mut description) = (Total::default(), None, None);
    for (i, member) in members.iter_mut().enumerate() {
        while let Some((kind, frame)) = next_frame(member.server(), client).await? {
            match kind {
                b'C' => total.add(&frame, Answers::Sum),
                b'E' => drop(failed.get_or_insert(Failure::Server(frame))),
                b'T' if i == 0 => description = Some(frame),
                b'D' => rows[i].push_back(frame),
                b'N' => client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
    }
    if let Some(failure) = failed {
        return Err(failure);
    }
    if let (Some(frame), Describe::Forward) = (&description, describe) {
        client.out.extend_from_slice(frame);
    }
    for member in order {
        if let Some(row) = rows[*member].pop_front() {
            client.out.extend_from_slice(&row);
        }
    }
    total.tag()
}

/// Reads one member's answer to its end; its command tag.
async fn one(
    member: &mut Member,
    client: &mut Client,
    forwards: bool,
    describes: bool,
) -> Result<Bytes, Failure> {
    let (mut tag, mut failed) = (Bytes::new(), None);
    while let Some((kind, frame)) = next_frame(member.server(), client).await? {
        match kind {
            b'C' => tag = frame,
            b'E' => drop(failed.get_or_insert(Failure::Server(frame))),
            b'T' if describes => client.out.extend_from_slice(&frame),
            b'D' | b'N' if forwards => client.out.extend_from_slice(&frame),
            b'G' | b'W' => {
                let error = PgError::refused("COPY cannot be sent to several shards in this form");
                return Err(error.into());
            }
            // Row descriptions and rows of other shards, NoData, EmptyQueryResponse.
            _ => (),
        }
    }
    failed.map_or(Ok(tag), Err)
}

#[derive(Default)]
struct Total {
    verb: Option<Vec<u8>>,
    count: Option<u64>,
    differs: bool,
}

impl Total {
    fn add(&mut self, frame: &[u8], answers: Answers) {
        let Ok(tag) = CommandTag::read(frame) else { return };
        if self.verb.is_none() {
            self.verb = Some(tag.verb.to_vec());
            self.count = tag.count;
            return;
        }
        match answers {
            Answers::Same => {
                self.differs |= self.count != tag.count || self.verb.as_deref() != Some(tag.verb);
            }
            Answers::Sum => {
                self.count = self.count.zip(tag.count).map(|(sum, count)| sum + count);
            }
        }
    }

    fn tag(self) -> Result<String, Failure> {
        if self.differs {
            let error = PgError::new(sqlstate::INTERNAL_ERROR, "shards gave different answers")
                .detail("the statement reports another number of rows on one shard than on others")
                .hint("compare the shards' contents of this table; nothing was changed");
            return Err(error.into());
        }
        let verb = self.verb.unwrap_or_default();
        let text = String::from_utf8_lossy(&verb).into_owned();
        Ok(match self.count {
            Some(count) => CommandTag { verb: &verb, count: Some(count) }.with_count(count),
            None => text,
        })
    }
}
