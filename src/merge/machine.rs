//! The merge itself: rows of shards go in, the client's frames come out.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::columns::{self, Column, ColumnInfo, Fields, Order};
use super::group::{Seen, Table};
use super::memory::{Limits, Memory};
use super::order::{self, KWay, Merged, Parts};
use super::output::{Output, Row};
use super::stream::Streams;
use super::{Group, MergeSpec};
use crate::error::{PgError, sqlstate};
use crate::wire::backend::RowDescription;

/// Bytes in the caller's buffer from which on it is flushed first.
const FULL: usize = 64 * 1024;

/// What [`Merge::step`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A row, or the end, of this shard.
    Need(usize),
    /// The answer is complete, CommandComplete included. Shards may still be sending: what they
    /// send is accepted and dropped.
    Done,
    /// The buffer holds more than 64 KiB: flush it, then call again.
    Full,
}

/// Combines the answers of several shards to one statement.
///
/// Per shard, in the order in which the server sends: [`describe`](Self::describe) (or once
/// [`assume`](Self::assume)), [`row`](Self::row)s, [`end`](Self::end). Rows of any shard are taken
/// at any time; to bound memory feed the one that [`step`](Self::step) needs.
#[derive(Debug)]
pub struct Merge {
    hidden: usize,
    spec: MergeSpec,
    columns: Option<Vec<Column>>,
    orders: Vec<Order>,
    streams: Streams,
    stage: Stage,
    seen: Option<Seen>,
    memory: Memory,
    output: Output,
}

#[derive(Debug)]
enum Stage {
    /// Groups that are collected as soon as the columns are known.
    Grouped(Group),
    Grouping(Table),
    /// Rows are kept until all are there, then sorted.
    Sorting(Vec<(Parts, Row)>),
    /// One shard after the other, the first that is not drained.
    Concat(usize),
    Ordered(KWay<Row>),
    /// All rows are there, in order.
    Emit(VecDeque<(Parts, Row)>),
    Done,
}

impl Merge {
    /// `limit` and `offset` are resolved and not negative; no limit is `None`.
    pub fn new(
        spec: &MergeSpec,
        shards: usize,
        limit: Option<i64>,
        offset: i64,
        limits: Limits,
    ) -> Self {
        let stage = match (&spec.group, spec.sort.is_empty(), spec.distinct) {
            (Some(group), ..) => Stage::Grouped(group.clone()),
            (None, true, _) => Stage::Concat(0),
            (None, false, true) => Stage::Sorting(Vec::new()),
            (None, false, false) => Stage::Ordered(KWay::new(shards)),
        };
        Self {
            hidden: spec.hidden,
            spec: spec.clone(),
            columns: None,
            orders: Vec::new(),
            streams: Streams::new(shards),
            stage,
            seen: spec.distinct.then(Seen::default),
            memory: Memory::new(limits),
            output: Output::new(limit, offset),
        }
    }

    /// Ends after so many rows, as an Execute with a row limit does: with PortalSuspended.
    pub fn pause_after(&mut self, rows: u64) {
        self.output.pause_after(rows);
    }

    /// Leaves CommandComplete to the caller.
    pub fn withhold_tag(&mut self) {
        self.output.withhold_tag();
    }

    /// The command tag, at the end.
    pub fn tag(&self) -> String {
        self.output.tag()
    }

    /// Takes the whole RowDescription frame of a shard. The first one gives the client's frame,
    /// without hidden columns; the others must agree with it in names, types and formats. Refuses
    /// (0A000) what cannot be merged exactly.
    pub fn describe(&mut self, shard: usize, frame: &[u8]) -> Result<Option<Bytes>, PgError> {
        let view = RowDescription::read(frame)?;
        let described = columns::described(&view);
        match &self.columns {
            Some(columns) if *columns == described => Ok(None),
            Some(columns) => Err(columns::disagreement(shard, columns, &described)),
            None => {
                self.resolve(described)?;
                Ok(Some(columns::visible(&view, self.hidden)))
            }
        }
    }

    /// Instead of [`describe`](Self::describe), for an Execute without Describe: all columns of the
    /// shards' answers, hidden ones too.
    pub fn assume(&mut self, columns: &[ColumnInfo]) -> Result<(), PgError> {
        self.resolve(columns::assumed(columns))
    }

    fn resolve(&mut self, columns: Vec<Column>) -> Result<(), PgError> {
        if columns.len() < self.hidden {
            return Err(columns::missing(self.hidden - 1, columns.len()));
        }
        self.orders = columns::orders(&columns, &self.spec)?;
        if self.spec.distinct {
            columns::check_equality(&columns, 0..columns.len() - self.hidden, "be made distinct")?;
        }
        if let Stage::Grouped(group) = &self.stage {
            self.stage = Stage::Grouping(Table::new(group, &columns)?);
        }
        self.columns = Some(columns);
        Ok(())
    }

    /// Takes a whole DataRow frame of a shard.
    pub fn row(&mut self, shard: usize, frame: Bytes) -> Result<(), PgError> {
        if matches!(self.stage, Stage::Done) {
            return Ok(());
        }
        if self.is_plain() {
            return self.enqueue(shard, Parts::new(), Row::whole(frame));
        }
        let fields = columns::fields(&frame, self.columns.as_deref())?;
        if let Stage::Grouping(table) = &mut self.stage {
            return table.add(&frame, fields, &mut self.memory);
        }
        if self.columns.is_none() && (self.seen.is_some() || !self.spec.sort.is_empty()) {
            return Err(too_early());
        }
        if self.is_repeated(&frame, &fields)? {
            return Ok(());
        }
        // A row that is kept is copied: a slice would keep the whole read buffer.
        let is_kept = matches!(self.stage, Stage::Sorting(_));
        let frame = if is_kept { Bytes::copy_from_slice(&frame) } else { frame };
        let parts = order::parts(&self.orders, &frame, &fields)?;
        let row = Row::new(frame, &fields, self.hidden);
        match &mut self.stage {
            Stage::Sorting(rows) => keep(rows, parts, row, &mut self.memory),
            Stage::Grouped(_) => Err(too_early()),
            _ => self.enqueue(shard, parts, row),
        }
    }

    /// Whether rows are passed on as they are.
    fn is_plain(&self) -> bool {
        self.hidden == 0 && self.seen.is_none() && matches!(self.stage, Stage::Concat(_))
    }

    fn is_repeated(&mut self, frame: &[u8], fields: &Fields) -> Result<bool, PgError> {
        let visible = fields.len().saturating_sub(self.hidden);
        match &mut self.seen {
            Some(seen) => Ok(!seen.is_new(frame, fields, visible, &mut self.memory)?),
            None => Ok(false),
        }
    }

    fn enqueue(&mut self, shard: usize, parts: Parts, row: Row) -> Result<(), PgError> {
        self.memory.take(row.held_bytes())?;
        self.streams.push(shard, parts, row)
    }

    /// A shard's CommandComplete, its tag without the terminating zero.
    pub fn end(&mut self, shard: usize, tag: &[u8]) -> Result<(), PgError> {
        self.streams.end(shard, tag)
    }

    /// Appends what can be sent to the client.
    pub fn step(&mut self, out: &mut BytesMut) -> Result<Step, PgError> {
        loop {
            if matches!(self.stage, Stage::Done) {
                return Ok(Step::Done);
            }
            if out.len() >= FULL {
                return Ok(Step::Full);
            }
            if self.output.is_satisfied() {
                self.complete(out);
                continue;
            }
            match self.advance()? {
                Merged::Row(_, row) => {
                    self.memory.give(row.held_bytes());
                    self.output.put(out, &row);
                }
                Merged::Need(shard) => return Ok(Step::Need(shard)),
                Merged::End => self.complete(out),
            }
        }
    }

    fn complete(&mut self, out: &mut BytesMut) {
        self.output.complete(out);
        self.stage = Stage::Done;
        self.streams.clear();
    }

    fn advance(&mut self) -> Result<Merged<Row>, PgError> {
        if matches!(self.stage, Stage::Grouped(_) | Stage::Grouping(_) | Stage::Sorting(_)) {
            match self.streams.first_open() {
                Some(shard) => return Ok(Merged::Need(shard)),
                None => self.collected()?,
            }
        }
        match &mut self.stage {
            Stage::Concat(at) => Ok(self.streams.concat(at)),
            Stage::Ordered(kway) => Ok(kway.pop(|shard| self.streams.next(shard))),
            Stage::Emit(rows) => {
                Ok(rows.pop_front().map_or(Merged::End, |(_, row)| Merged::Row(0, row)))
            }
            Stage::Done => Ok(Merged::End),
            Stage::Grouped(_) | Stage::Grouping(_) | Stage::Sorting(_) => Err(too_early()),
        }
    }

    /// All rows of all shards are there: they are put in order.
    fn collected(&mut self) -> Result<(), PgError> {
        let mut rows = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Grouping(table) => self.groups(table.finish()?)?,
            Stage::Sorting(rows) => rows,
            _ => return Err(too_early()),
        };
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.stage = Stage::Emit(rows.into());
        Ok(())
    }

    /// Whole groups as rows with sort keys, repeated ones left out.
    fn groups(&mut self, frames: Vec<Bytes>) -> Result<Vec<(Parts, Row)>, PgError> {
        let mut rows = Vec::with_capacity(frames.len());
        for frame in frames {
            let fields = columns::fields(&frame, None)?;
            if !self.is_repeated(&frame, &fields)? {
                let parts = order::parts(&self.orders, &frame, &fields)?;
                rows.push((parts, Row::new(frame, &fields, self.hidden)));
            }
        }
        Ok(rows)
    }
}

fn keep(
    rows: &mut Vec<(Parts, Row)>,
    parts: Parts,
    row: Row,
    memory: &mut Memory,
) -> Result<(), PgError> {
    memory.take(row.held_bytes() + order::heap_bytes(&parts))?;
    rows.push((parts, row));
    Ok(())
}

#[cold]
fn too_early() -> PgError {
    PgError::new(sqlstate::INTERNAL_ERROR, "a merge needs the columns before the rows")
}
