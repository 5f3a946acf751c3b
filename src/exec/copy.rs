//! COPY over several shards.

use bytes::{BufMut, BytesMut};

use super::relay::{next_frame, next_message};
use super::{Failure, Member};
use crate::error::{PgError, sqlstate};
use crate::net::Client;
use crate::plan::{CopyFormat, CopyFrom};
use crate::shard::{Key, Map, ShardId};
use crate::sql::copy::{CopyRows, Piece};
use crate::wire::backend::CommandTag;
use crate::wire::frontend;

/// What may wait for one shard before the client is read further.
const HIGH_WATER: usize = 256 * 1024;

/// Whether a text is a COPY: such a statement is sent the client's data.
pub fn is_copy(sql: &[u8]) -> bool {
    sql.trim_ascii_start().get(..4).is_some_and(|it| it.eq_ignore_ascii_case(b"copy"))
}

/// Reads each member's CopyInResponse; the first is forwarded.
async fn begin(members: &mut [&mut Member], client: &mut Client) -> Result<(), Failure> {
    let mut failed = None;
    for (i, member) in members.iter_mut().enumerate() {
        loop {
            match next_frame(member.server(), client).await? {
                Some((b'G', frame)) => {
                    if i == 0 {
                        client.out.extend_from_slice(&frame);
                    }
                    break;
                }
                Some((b'E', frame)) => {
                    failed.get_or_insert(Failure::Server(frame));
                }
                Some(_) => (),
                None => break,
            }
        }
    }
    match failed {
        None => {
            client.has_copied = true;
            Ok(())
        }
        Some(failure) => {
            abort(members, "another shard refused the COPY").await?;
            Err(failure)
        }
    }
}

/// Ends the COPY on all members as failed and reads them to their end.
async fn abort(members: &mut [&mut Member], why: &str) -> Result<(), Failure> {
    for member in members.iter_mut() {
        let server = member.server();
        if server.is_copy_in() {
            let mut message = BytesMut::new();
            frontend::copy_fail(&mut message, why);
            server.end_copy(&message);
        }
        if !server.is_broken() {
            server.drain().await?;
        }
    }
    Ok(())
}

/// Ends the COPY on all members and adds up what they report.
async fn finish(
    members: &mut [&mut Member],
    client: &mut Client,
    message: &[u8],
) -> Result<Vec<u64>, Failure> {
    for member in members.iter_mut() {
        member.server().end_copy(message);
        member.server().flush().await?;
    }
    let (mut counts, mut failed) = (Vec::new(), None);
    for member in members.iter_mut() {
        while let Some((tag, frame)) = next_frame(member.server(), client).await? {
            match tag {
                b'C' => counts.extend(CommandTag::read(&frame).ok().and_then(|it| it.count)),
                b'E' => drop(failed.get_or_insert(Failure::Server(frame))),
                b'N' => client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
    }
    failed.map_or(Ok(counts), Err)
}

/// Where rows of COPY data go.
trait Sink: Send {
    /// Takes data; queues what is complete on members.
    fn data(&mut self, data: &[u8], members: &mut [&mut Member]) -> Result<(), PgError>;
    /// The data has ended.
    fn end(&mut self, members: &mut [&mut Member]) -> Result<(), PgError>;
}

async fn pump(
    members: &mut [&mut Member],
    client: &mut Client,
    sink: &mut dyn Sink,
) -> Result<Vec<u64>, Failure> {
    begin(members, client).await?;
    std::future::poll_fn(|cx| client.poll_flush(cx)).await.map_err(|_| Failure::Gone)?;
    loop {
        let (tag, frame) = next_message(client).await?;
        let done = match tag {
            b'd' => sink.data(&frame[5..], members),
            b'c' => match sink.end(members) {
                Ok(()) => return finish(members, client, &frame).await,
                Err(error) => {
                    abort(members, "the data could not be split").await?;
                    return Err(error.into());
                }
            },
            b'f' => {
                return finish(members, client, &frame).await.and_then(|_| Err(failed().into()));
            }
            b'S' | b'H' => Ok(()),
            _ => Err(PgError::new(
                sqlstate::PROTOCOL_VIOLATION,
                format!("unexpected message {:?} during COPY", char::from(tag)),
            )),
        };
        if let Err(error) = done {
            abort(members, "the data could not be split").await?;
            skip_rest(client).await?;
            return Err(error.into());
        }
        for member in members.iter_mut() {
            if member.server().unsent() > HIGH_WATER {
                member.server().flush().await?;
            }
        }
        // A shard that gives up in the middle says so: the rest is not sent to anybody.
        if let Some(i) = members.iter_mut().position(|it| it.server().has_frame())
            && let Some((b'E', frame)) = next_frame(members[i].server(), client).await?
        {
            abort(members, "another shard refused the data").await?;
            skip_rest(client).await?;
            return Err(Failure::Server(frame));
        }
    }
}

/// Drops what the client still sends of a COPY that has failed.
async fn skip_rest(client: &mut Client) -> Result<(), Failure> {
    while !matches!(next_message(client).await?.0, b'c' | b'f') {}
    Ok(())
}

fn failed() -> PgError {
    PgError::new(sqlstate::QUERY_CANCELED, "COPY from stdin failed")
}

/// The same data to every member: a reference table. All must take the same number of rows.
///
/// # Errors
/// The first error of a shard.
pub async fn broadcast(
    members: &mut [&mut Member],
    client: &mut Client,
) -> Result<String, Failure> {
    let counts = pump(members, client, &mut Everywhere).await?;
    match counts.windows(2).all(|it| it[0] == it[1]) {
        true => Ok(format!("COPY {}", counts.first().copied().unwrap_or_default())),
        false => {
            Err(PgError::new(sqlstate::INTERNAL_ERROR, "shards took different numbers of rows")
                .hint("compare the shards' contents of this table; nothing was changed")
                .into())
        }
    }
}

struct Everywhere;

impl Sink for Everywhere {
    fn data(&mut self, data: &[u8], members: &mut [&mut Member]) -> Result<(), PgError> {
        for member in members.iter_mut() {
            let mut message = BytesMut::with_capacity(data.len() + 5);
            frontend::copy_data(&mut message, data);
            member.server().push_raw(&message);
        }
        Ok(())
    }

    fn end(&mut self, _: &mut [&mut Member]) -> Result<(), PgError> {
        Ok(())
    }
}

/// Each row to the shard of its tenant; `shards` are those of the members. `dates` are added to each row, as
/// [`CopyFrom::dated`] says.
///
/// # Errors
/// The first error of a shard; 22P04 or 22P02 if the data cannot be read.
pub async fn split(
    members: &mut [&mut Member],
    client: &mut Client,
    spec: &CopyFrom,
    (map, shards): (&Map, &[ShardId]),
    dates: &[String],
) -> Result<String, Failure> {
    let mut sink = ByTenant {
        rows: CopyRows::new(&spec.format, spec.key_column, client.message_limit),
        spec,
        map,
        shards,
        queued: vec![Vec::new(); members.len()],
        row: 0,
        added: added(spec, dates),
    };
    let counts = pump(members, client, &mut sink).await?;
    Ok(format!("COPY {}", counts.iter().sum::<u64>()))
}

struct ByTenant<'a> {
    rows: CopyRows,
    spec: &'a CopyFrom,
    map: &'a Map,
    shards: &'a [ShardId],
    /// Data for each member that is not in a message yet.
    queued: Vec<Vec<u8>>,
    row: u64,
    /// What stands at the end of each row, and of a header line.
    added: (Vec<u8>, Vec<u8>),
}

/// Fields behind those of the data: values, and names for a header.
fn added(spec: &CopyFrom, dates: &[String]) -> (Vec<u8>, Vec<u8>) {
    let (CopyFormat::Text { delimiter, .. } | CopyFormat::Csv { delimiter, .. }) = &spec.format
    else {
        return (Vec::new(), Vec::new());
    };
    let line = |fields: &mut dyn Iterator<Item = &String>, is_quoted: bool| {
        let mut line = Vec::new();
        for field in fields {
            line.push(*delimiter);
            match &spec.format {
                CopyFormat::Csv { quote, .. } => {
                    line.push(*quote);
                    line.extend_from_slice(field.trim_matches('"').as_bytes());
                    line.push(*quote);
                }
                _ if is_quoted => line.extend_from_slice(field.trim_matches('"').as_bytes()),
                _ => line.extend_from_slice(field.as_bytes()),
            }
        }
        line
    };
    let names = spec.dated.iter().flat_map(|it| &it.columns);
    (line(&mut dates.iter(), false), line(&mut names.into_iter(), true))
}

/// A line with more fields before its end.
fn extended(queued: &mut Vec<u8>, line: &[u8], added: &[u8]) {
    let end = line.iter().rposition(|it| !matches!(it, b'\r' | b'\n')).map_or(0, |it| it + 1);
    queued.extend_from_slice(&line[..end]);
    queued.extend_from_slice(added);
    queued.extend_from_slice(&line[end..]);
}

impl ByTenant<'_> {
    fn cut(&mut self) -> Result<(), PgError> {
        while let Some(piece) = self.rows.next_piece()? {
            match piece {
                Piece::Row { bytes, key } => {
                    self.row += 1;
                    let shard = owner(self.spec, self.map, key.as_deref(), self.row)?;
                    let at = self.shards.iter().position(|it| *it == shard).ok_or_else(|| {
                        PgError::refused(format!("shard {shard} takes no part in this COPY"))
                    })?;
                    extended(&mut self.queued[at], bytes, &self.added.0);
                }
                Piece::Header(bytes) => {
                    let added = &self.added.1;
                    self.queued.iter_mut().for_each(|it| extended(it, bytes, added));
                }
                Piece::End(bytes) => {
                    self.queued.iter_mut().for_each(|it| it.extend_from_slice(bytes));
                }
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, members: &mut [&mut Member]) {
        for (queued, member) in self.queued.iter_mut().zip(members) {
            if !queued.is_empty() {
                let mut message = BytesMut::with_capacity(queued.len() + 5);
                frontend::copy_data(&mut message, queued);
                member.server().push_raw(&message);
                queued.clear();
            }
        }
    }
}

impl Sink for ByTenant<'_> {
    fn data(&mut self, data: &[u8], members: &mut [&mut Member]) -> Result<(), PgError> {
        self.rows.feed(data);
        self.cut()?;
        self.hand_over(members);
        Ok(())
    }

    fn end(&mut self, members: &mut [&mut Member]) -> Result<(), PgError> {
        self.rows.finish();
        self.cut()?;
        self.hand_over(members);
        Ok(())
    }
}

/// The shard of a row by its tenant field.
fn owner(spec: &CopyFrom, map: &Map, key: Option<&[u8]>, row: u64) -> Result<ShardId, PgError> {
    let Some(key) = key else {
        return Err(PgError::new(
            sqlstate::NOT_NULL_VIOLATION,
            "the tenant column of a sharded table cannot be NULL",
        )
        .detail(format!("COPY row {row}")));
    };
    let read = match (&spec.format, std::str::from_utf8(key)) {
        (CopyFormat::Binary, _) => Key::from_binary(spec.kind, key).map_err(|it| it.to_string()),
        (_, Ok(text)) => Key::from_text(spec.kind, text).map_err(|it| it.to_string()),
        (_, Err(_)) => Err("it is not UTF-8".to_owned()),
    };
    match read {
        Ok(key) => Ok(map.owner(&key)),
        Err(why) => Err(PgError::new(
            sqlstate::INVALID_TEXT_REPRESENTATION,
            "the tenant column cannot be read",
        )
        .detail(format!("COPY row {row}: {why}"))),
    }
}

/// The rows of all members, one after the other. The first header is kept, and the last trailer.
///
/// # Errors
/// The first error of a shard.
pub async fn concatenate(
    members: &mut [&mut Member],
    client: &mut Client,
    (header, is_binary): (bool, bool),
) -> Result<String, Failure> {
    let (mut count, mut failed) = (0, None);
    for (i, member) in members.iter_mut().enumerate() {
        let mut is_header = header && i > 0;
        let mut is_first = true;
        while let Some((tag, frame)) = next_frame(member.server(), client).await? {
            match tag {
                b'H' if i == 0 => client.out.extend_from_slice(&frame),
                // Postgres sends each row, and the header, in a message of its own.
                b'd' if is_header => is_header = false,
                b'd' if failed.is_none() => {
                    if is_binary {
                        let (head, row) = binary_parts(&frame[5..], is_first);
                        is_first = false;
                        let head = if i == 0 { head } else { &[] };
                        copy_data(&mut client.out, head, row);
                    } else {
                        client.out.extend_from_slice(&frame);
                    }
                    if client.out.len() >= client.buffer_limit {
                        let flushed = std::future::poll_fn(|cx| client.poll_flush(cx)).await;
                        flushed.map_err(|_| Failure::Gone)?;
                    }
                }
                b'C' => count += CommandTag::read(&frame).ok().and_then(|it| it.count).unwrap_or(0),
                b'E' => drop(failed.get_or_insert(Failure::Server(frame))),
                b'N' => client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
    }
    match failed {
        Some(failure) => Err(failure),
        None => {
            if is_binary {
                copy_data(&mut client.out, &[], TRAILER);
            }
            client.out.extend_from_slice(b"c\0\0\0\x04");
            Ok(format!("COPY {count}"))
        }
    }
}

/// What ends a binary stream, in the place of a row.
const TRAILER: &[u8] = &[0xff, 0xff];

/// The header of a binary stream, which comes with the first row (signature, flags, the length of an
/// extension and that; `COPY`, Binary Format), and the row; both may be empty.
fn binary_parts(data: &[u8], is_first: bool) -> (&[u8], &[u8]) {
    const FIXED: usize = 19;
    let extension = data.get(FIXED - 4..FIXED).and_then(|it| it.try_into().ok());
    let (head, row) = match extension.filter(|_| is_first).map(u32::from_be_bytes) {
        Some(len) => data.split_at((FIXED + len as usize).min(data.len())),
        None => data.split_at(0),
    };
    (head, if row == TRAILER { &[] } else { row })
}

/// CopyData, unless there is none.
fn copy_data(out: &mut BytesMut, head: &[u8], row: &[u8]) {
    let len = head.len() + row.len();
    if len > 0 {
        out.put_u8(b'd');
        out.put_u32(len as u32 + 4);
        out.put_slice(head);
        out.put_slice(row);
    }
}
