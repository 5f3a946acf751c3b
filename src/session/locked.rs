//! SELECT … LIMIT … FOR UPDATE over several shards: rows are found without a lock, in order, and then as many of
//! the first ones are locked as are asked for; those that could not be had make room for the next ones.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::{Bytes, BytesMut};

use super::extended::Portal;
use super::fan_out::bound;
use super::gather::{Given, given};
use super::portable::portable;
use super::run::Routed;
use super::{Role, Session};
use crate::error::{PgError, sqlstate};
use crate::exec::{Failure, relay};
use crate::merge::{Limits, Merge, Step};
use crate::plan::locked::{BEFORE_KEY, Lock, Wait};
use crate::shard::ShardId;
use crate::wire::backend;
use crate::wire::backend::view::{DataRow, RowDescription};
use crate::wire::frame::next_frame;
use crate::wire::frontend;
use crate::wire::frontend::view::{Bind, Target};
use crate::wire::pipeline::Action;

/// How many rows are found beyond those that are asked for: so many may be locked by others before more are
/// looked for.
const SPARE: u64 = 64;

/// No more rows than so many are tried for each that is missing.
const CROWD: usize = 16;

/// What is undone if more rows could be locked than were asked for.
const MARK: &str = "SAVEPOINT sluice_pick";
const KEEP: &str = "RELEASE SAVEPOINT sluice_pick";
const UNDO: &str = "ROLLBACK TO SAVEPOINT sluice_pick; RELEASE SAVEPOINT sluice_pick";

/// A row that may be locked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    shard: ShardId,
    key: Vec<String>,
}

/// Rows in order.
struct Found {
    /// With each, whether another transaction seems to have it.
    rows: Vec<(Row, bool)>,
    /// Whether there are no more.
    is_all: bool,
}

/// What one server said.
#[derive(Default)]
pub(super) struct Said {
    /// The shard that describes its columns.
    pub(super) description: Option<(ShardId, Bytes)>,
    pub(super) rows: Vec<Bytes>,
}

/// How a statement is sent.
pub(super) struct Manner<'a> {
    pub(super) given: &'a Given<'a>,
    /// Types of its parameters.
    pub(super) types: &'a [u32],
    /// Formats of its results.
    pub(super) results: Vec<i16>,
}

/// The work on one statement.
struct Work<'a> {
    lock: &'a Lock,
    shards: Vec<ShardId>,
    given: &'a Given<'a>,
    types: &'a [u32],
    results: Vec<i16>,
    /// The first server's description of the answer.
    description: Option<(ShardId, Bytes)>,
}

impl Session {
    /// Locks rows and gives them to the client; the command tag, or none if there may be more rows than an
    /// Execute asks for.
    pub(super) async fn lock_rows(
        &mut self,
        lock: &Lock,
        routed: &Routed,
        portal: Option<&Portal>,
    ) -> Result<Option<String>, Failure> {
        let bind = portal.map(|it| Bind::read(&it.bind)).transpose()?;
        let given = given(portal, bind.as_ref());
        let results = given.results.clone();
        let said = self.locked(lock, routed, portal, &given, results).await?;
        let asked = portal.and_then(|it| usize::try_from(it.max_rows).ok()).filter(|it| *it > 0);
        if let (None, Some((_, row))) = (portal, &said.description) {
            self.client.out.extend_from_slice(row);
        }
        let count = said.rows.len();
        said.rows.iter().for_each(|it| self.client.out.extend_from_slice(it));
        if asked == Some(count) {
            backend::portal_suspended(&mut self.client.out);
            return Ok(None);
        }
        Ok(Some(format!("SELECT {count}")))
    }

    /// Locks rows; with these formats, without hidden columns.
    pub(super) async fn locked(
        &mut self,
        lock: &Lock,
        routed: &Routed,
        portal: Option<&Portal>,
        given: &Given<'_>,
        mut results: Vec<i16>,
    ) -> Result<Said, Failure> {
        let limit = bound(lock.limit, portal, sqlstate::INVALID_LIMIT, "LIMIT")?;
        let offset = bound(lock.offset, portal, sqlstate::INVALID_OFFSET, "OFFSET")?.unwrap_or(0);
        let unsigned = |it: i64| u64::try_from(it).unwrap_or_default();
        // Rows that nobody asks for are not locked.
        let asked = portal.map(|it| i64::from(it.max_rows)).filter(|it| *it > 0);
        let most = limit.into_iter().chain(asked).min();
        let wanted = most.map(|it| unsigned(it).saturating_add(unsigned(offset)));
        if results.len() > 1 {
            results.extend(std::iter::repeat_n(0, lock.hidden));
        }
        let types = portal.map_or(&[][..], |it| it.prepared.text.told_types());
        let shards = routed.shards.iter().collect();
        let mut work = Work { lock, shards, given, types, results, description: None };
        let rows = self.lock_wanted(&mut work, wanted).await?;
        if work.description.is_none() {
            // Nothing was locked: a server says what the rows would be like.
            let sql = lock.lock_sql(&lock.lock, &[]);
            let home = self.database.config.home_shard;
            self.ask_locks(&mut work, vec![(home, sql)], false).await?;
        }
        let shown = |(shard, it): (ShardId, Bytes)| Ok((shard, visible_columns(&it, lock.hidden)?));
        let description = work.description.take().map(shown);
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        let rows = rows.iter().skip(skipped).map(|it| visible(it, lock.hidden));
        let description = description.transpose().map_err(Failure::Error)?;
        Ok(Said { description, rows: rows.collect::<Result<_, _>>()? })
    }

    /// Locks the first rows, up to so many; `None`: all.
    async fn lock_wanted(
        &mut self,
        work: &mut Work<'_>,
        wanted: Option<u64>,
    ) -> Result<Vec<Bytes>, Failure> {
        let (mut got, mut tried) = (Vec::new(), HashSet::new());
        if wanted == Some(0) {
            return Ok(got);
        }
        let mut page = wanted.map(|it| it.saturating_add(SPARE));
        let wanted = wanted.and_then(|it| usize::try_from(it).ok()).unwrap_or(usize::MAX);
        // How many rows are tried for each that is missing: many, where others are at the same rows.
        let mut crowd = 1;
        loop {
            let found = self.find_rows(work, page).await?;
            // Rows before those that were tried were not there when they were.
            let start = found.rows.iter().rposition(|(it, _)| tried.contains(it));
            let mut rest = &found.rows[start.map_or(0, |it| it + 1)..];
            let (mut is_careful, mut is_stale) = (false, false);
            while got.len() < wanted && !rest.is_empty() && !is_stale {
                let missing = wanted - got.len();
                let next = match is_careful {
                    false => self.lock_next(work, rest, (missing, crowd)).await?,
                    true => Some(self.lock_carefully(work, rest, missing).await?),
                };
                let Some((count, rows)) = next else {
                    (is_careful, crowd) = (true, 1);
                    continue;
                };
                // Others are at these rows, too: what they have done by now is looked at anew.
                is_stale = rows.len() < count.min(missing);
                let free = rest[..count].iter().filter(|(_, is_held)| !is_held).count();
                crowd = (free / rows.len().max(1) / 2).clamp(1, CROWD);
                tried.extend(rest[..count].iter().map(|(it, _)| it.clone()));
                rest = &rest[count..];
                got.extend(rows);
            }
            if got.len() >= wanted || rest.is_empty() && found.is_all {
                return Ok(got);
            }
            if rest.is_empty() {
                page = page.map(|it| it.saturating_mul(8));
            }
        }
    }

    /// Locks the next rows without waiting, as many as are missing: how many were tried, and those that could be
    /// had. `None`: it must be done with more care.
    async fn lock_next(
        &mut self,
        work: &mut Work<'_>,
        rest: &[(Row, bool)],
        (missing, crowd): (usize, usize),
    ) -> Result<Option<(usize, Vec<Bytes>)>, Failure> {
        let lock = work.lock;
        let (count, text) = match &lock.wait {
            // Those that others seem to have are tried, too, but not counted.
            Wait::Skip => (guess(rest, missing.saturating_mul(crowd)), &lock.lock),
            Wait::Block { skip } => (missing.min(rest.len()), skip),
            Wait::Fail => (missing.min(rest.len()), &lock.lock),
        };
        let rows = self.try_rows(work, &rest[..count], text, missing).await?;
        Ok(rows.map(|it| (count, it)))
    }

    /// Locks the next rows so that none is too many, and none is locked while one before it is waited for.
    async fn lock_carefully(
        &mut self,
        work: &mut Work<'_>,
        rest: &[(Row, bool)],
        missing: usize,
    ) -> Result<(usize, Vec<Bytes>), Failure> {
        let lock = work.lock;
        let mut count = missing.min(rest.len());
        if let Wait::Block { .. } = lock.wait {
            let shard = rest.first().map(|(it, _)| it.shard);
            let is_there = |(it, _): &&(Row, bool)| Some(it.shard) == shard;
            count = rest[..count].iter().take_while(is_there).count();
        }
        let rows = self.lock_these(work, &rest[..count], &lock.lock, false).await?;
        Ok((count, rows))
    }

    /// Locks what can be locked without waiting, which must be no more than `most`, and in place of a wait all.
    /// `None`: nothing is locked.
    async fn try_rows(
        &mut self,
        work: &mut Work<'_>,
        rows: &[(Row, bool)],
        text: &str,
        most: usize,
    ) -> Result<Option<Vec<Bytes>>, Failure> {
        let waits = matches!(work.lock.wait, Wait::Block { .. });
        if rows.len() <= most && !waits {
            return self.lock_these(work, rows, text, false).await.map(Some);
        }
        let locked = self.lock_these(work, rows, text, true).await?;
        let is_right = locked.len() <= most && !(waits && locked.len() < rows.len());
        let shards: HashSet<ShardId> = rows.iter().map(|(it, _)| it.shard).collect();
        for member in self.members.iter_mut().filter(|it| it.in_tx && shards.contains(&it.shard)) {
            member.lease.server().run(if is_right { KEEP } else { UNDO }).await?;
        }
        Ok(is_right.then_some(locked))
    }

    /// Locks rows, on all shards at the same time; gives what could be had, in order.
    async fn lock_these(
        &mut self,
        work: &mut Work<'_>,
        rows: &[(Row, bool)],
        text: &str,
        marks: bool,
    ) -> Result<Vec<Bytes>, Failure> {
        let lock = work.lock;
        let mut keys: BTreeMap<ShardId, Vec<&[String]>> = BTreeMap::new();
        for (row, _) in rows {
            keys.entry(row.shard).or_default().push(&row.key);
        }
        let asked: Vec<(ShardId, String)> =
            keys.iter().map(|(shard, keys)| (*shard, lock.lock_sql(text, keys))).collect();
        let said = self.ask_locks(work, asked, marks).await?;
        let mut locked = HashMap::new();
        for (shard, said) in keys.keys().zip(said) {
            for frame in said.rows {
                let key = last_values(&frame, lock.key.len())?;
                if locked.insert(Row { shard: *shard, key }, frame).is_some() {
                    return Err(PgError::refused("rows of several shards cannot be told apart")
                        .detail("two rows of a table and those that inherit from it have one primary key")
                        .into());
                }
            }
        }
        Ok(rows.iter().filter_map(|(it, _)| locked.remove(it)).collect())
    }

    async fn ask_locks(
        &mut self,
        work: &mut Work<'_>,
        asked: Vec<(ShardId, String)>,
        marks: bool,
    ) -> Result<Vec<Said>, Failure> {
        let results = work.results.clone();
        let manner = Manner { given: work.given, types: work.types, results };
        let mut said = self.ask_shards(&asked, &manner, marks).await?;
        let description = said.iter_mut().find_map(|it| it.description.take());
        work.description = work.description.take().or(description);
        Ok(said)
    }

    /// Finds rows without locking them, no more than `page` on each shard.
    async fn find_rows(&mut self, work: &Work<'_>, page: Option<u64>) -> Result<Found, Failure> {
        let lock = work.lock;
        let asked: Vec<(ShardId, String)> =
            work.shards.iter().map(|it| (*it, lock.find_sql(*it, page))).collect();
        let manner = Manner { given: work.given, types: work.types, results: Vec::new() };
        let said = self.ask_shards(&asked, &manner, false).await?;
        let limits = Limits { bytes: self.cluster.config.limits.merge_bytes };
        let mut merge = Merge::new(&lock.find, said.len(), None, 0, limits);
        // Shards that may have more, by the last row of theirs that is known.
        let mut open = HashSet::new();
        for (i, said) in said.into_iter().enumerate() {
            let (_, description) = said.description.ok_or_else(undescribed)?;
            merge.describe(i, &description)?;
            if page.is_some_and(|it| said.rows.len() as u64 >= it) {
                open.extend(said.rows.last().map(|it| row_of(it, lock)).transpose()?);
            }
            for row in said.rows {
                merge.row(i, row)?;
            }
            merge.end(i, b"SELECT 0")?;
        }
        let (mut rows, mut out) = (Vec::new(), BytesMut::new());
        loop {
            let step = merge.step(&mut out)?;
            take_rows(&mut out, lock, &mut rows)?;
            if step == Step::Done {
                break;
            }
        }
        // Behind it a row that is not known may come first.
        let is_last = |(it, _): &(Row, bool)| open.iter().any(|(last, _)| last == it);
        let end = rows.iter().position(is_last);
        rows.truncate(end.map_or(rows.len(), |it| it + 1));
        Ok(Found { rows, is_all: end.is_none() })
    }

    /// Runs a statement on each of these shards at the same time. With `marks` there is a savepoint before.
    pub(super) async fn ask_shards(
        &mut self,
        asked: &[(ShardId, String)],
        manner: &Manner<'_>,
        marks: bool,
    ) -> Result<Vec<Said>, Failure> {
        let mut at = Vec::with_capacity(asked.len());
        for (shard, _) in asked {
            at.push(self.member(*shard, Role::Primary).await?);
        }
        for (i, (_, sql)) in at.iter().zip(asked) {
            let server = self.members[*i].lease.server();
            if marks {
                server.push_query(MARK, Action::Skip);
            }
            let types = portable(manner.types, sql, |it| manner.given.format(it));
            server.statements.unnamed = None;
            server.push_with(b'P', Action::Skip, |out| {
                frontend::parse(out, b"", sql.as_bytes(), types.iter().copied());
            });
            server.push_with(b'B', Action::Skip, |out| {
                frontend::bind_each(out, b"", &manner.given.parameters, &manner.results);
            });
            server.push_with(b'D', Action::Forward, |out| {
                frontend::describe(out, Target::Portal, b"");
            });
            server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", 0));
            server.push_sync();
            server.flush().await?;
        }
        let limits = &self.cluster.config.limits;
        let bounds = (limits.gather_max_rows, limits.gather_max_bytes);
        let (mut said, mut held, mut failed) = (Vec::with_capacity(at.len()), (0, 0), None);
        for (i, (shard, _)) in at.iter().zip(asked) {
            let mut one = Said::default();
            let server = self.members[*i].lease.server();
            while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
                match tag {
                    b'T' => one.description = Some((*shard, frame)),
                    b'D' if failed.is_none() => {
                        held = (held.0 + 1, held.1 + frame.len());
                        if let Err(error) = within(held, bounds) {
                            failed = Some(Failure::Error(error));
                        }
                        one.rows.push(Bytes::copy_from_slice(&frame));
                    }
                    b'E' => drop(failed.get_or_insert(Failure::Server(frame))),
                    b'N' => self.client.out.extend_from_slice(&frame),
                    _ => (),
                }
            }
            said.push(one);
        }
        failed.map_or(Ok(said), Err)
    }
}

/// How many rows are to be tried so that `missing` of them are not held by others, as it seems.
fn guess(rows: &[(Row, bool)], missing: usize) -> usize {
    let mut free = 0;
    let is_enough = |(_, is_held): &(Row, bool)| {
        free += usize::from(!is_held);
        free == missing
    };
    rows.iter().position(is_enough).map_or(rows.len(), |it| it + 1)
}

fn within(held: (usize, usize), (rows, bytes): (usize, usize)) -> Result<(), PgError> {
    let code = sqlstate::CONFIGURATION_LIMIT_EXCEEDED;
    if held.0 > rows {
        let what = format!("locking rows of several shards needs more than {rows} rows");
        return Err(PgError::limit(code, what, &"limits.gather_max_rows", rows));
    }
    if held.1 > bytes {
        let what = format!("locking rows of several shards needs more than {bytes} bytes");
        return Err(PgError::limit(code, what, &"limits.gather_max_bytes", bytes));
    }
    Ok(())
}

/// Takes whole rows off the buffer.
fn take_rows(out: &mut BytesMut, lock: &Lock, rows: &mut Vec<(Row, bool)>) -> Result<(), PgError> {
    while let Ok(Some(next)) = next_frame(out) {
        let frame = out.split_to(next.len);
        if next.tag == b'D' {
            rows.push(row_of(&frame, lock)?);
        }
    }
    Ok(())
}

/// A row as it was found.
fn row_of(frame: &[u8], lock: &Lock) -> Result<(Row, bool), PgError> {
    let values = texts(frame)?;
    let text = |at: usize| values.get(at).cloned().flatten().unwrap_or_default();
    let shard = text(0).parse().map(ShardId).map_err(|_| undescribed())?;
    let key = (0..lock.key.len()).map(|it| text(BEFORE_KEY + it)).collect();
    Ok((Row { shard, key }, text(1) == "t"))
}

/// The values of a row as text.
pub(super) fn texts(frame: &[u8]) -> Result<Vec<Option<String>>, PgError> {
    let text = |it: std::ops::Range<usize>| String::from_utf8_lossy(&frame[it]).into_owned();
    DataRow::read(frame)?.map(|it| Ok(it?.map(text))).collect()
}

fn last_values(frame: &[u8], count: usize) -> Result<Vec<String>, PgError> {
    let row = DataRow::read(frame)?;
    let before = row.len().saturating_sub(count);
    let text = |it: Option<std::ops::Range<usize>>| {
        it.map(|it| String::from_utf8_lossy(&frame[it]).into_owned()).unwrap_or_default()
    };
    row.skip(before).map(|it| it.map(text)).collect()
}

/// A row without its last columns.
fn visible(frame: &[u8], hidden: usize) -> Result<Bytes, PgError> {
    let row = DataRow::read(frame)?;
    let count = row.len().saturating_sub(hidden);
    let values: Vec<Option<&[u8]>> =
        row.take(count).map(|it| Ok(it?.map(|it| &frame[it]))).collect::<Result<_, PgError>>()?;
    let mut out = BytesMut::new();
    backend::data_row(&mut out, &values);
    Ok(out.freeze())
}

fn visible_columns(frame: &[u8], hidden: usize) -> Result<Bytes, PgError> {
    let mut out = BytesMut::new();
    RowDescription::read(frame)?.put_without_last(&mut out, hidden);
    Ok(out.freeze())
}

fn undescribed() -> PgError {
    PgError::new(sqlstate::PROTOCOL_VIOLATION, "rows to lock were not described")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_others_hold_do_not_count() {
        let row = |held: bool| (Row { shard: ShardId(0), key: Vec::new() }, held);
        let rows = [row(true), row(false), row(true), row(false), row(false)];
        let counts: Vec<usize> = (1..5).map(|it| guess(&rows, it)).collect();
        assert_eq!(counts, [2, 4, 5, 5]);
        assert_eq!(guess(&rows[..1], 1), 1);
    }
}
