//! LIMIT, OFFSET and hidden columns: what of the merged rows the client gets.

use bytes::{BufMut, Bytes, BytesMut};

use super::columns::Fields;
use crate::wire::backend;
use crate::wire::frame::{HEADER, put};

/// Bytes of bookkeeping per row that waits, roughly.
const ROW: usize = 96;

/// A row that waits to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    frame: Bytes,
    /// Columns the client sees and where they end; `None` is all.
    visible: Option<(u16, usize)>,
}

impl Row {
    /// Without hidden columns.
    pub(super) fn whole(frame: Bytes) -> Self {
        Self { frame, visible: None }
    }

    /// Whose last `hidden` columns the client does not see.
    pub(super) fn new(frame: Bytes, fields: &Fields, hidden: usize) -> Self {
        let visible = (hidden > 0).then(|| {
            let count = fields.len().saturating_sub(hidden);
            (count as u16, end_of(&fields[..count]))
        });
        Self { frame, visible }
    }

    /// Bytes it holds.
    pub(super) fn held_bytes(&self) -> usize {
        self.frame.len() + ROW
    }

    fn put(&self, out: &mut BytesMut) {
        match self.visible {
            None => out.extend_from_slice(&self.frame),
            Some((count, end)) => put(out, b'D', |body| {
                body.put_u16(count);
                body.put_slice(&self.frame[HEADER + 2..end]);
            }),
        }
    }
}

/// Where the bytes of fields at the start of a frame end. NULL has a length and no bytes.
fn end_of(fields: &[backend::Field]) -> usize {
    fields.iter().fold(HEADER + 2, |end, field| match field {
        Some(range) => range.end,
        None => end + 4,
    })
}

/// Counts what goes out.
#[derive(Debug)]
pub(super) struct Output {
    skip: u64,
    left: Option<u64>,
    sent: u64,
    /// Rows after which an Execute pauses.
    pause: Option<u64>,
    /// Whether CommandComplete is left to whoever commits what the statement has changed.
    withholds_tag: bool,
}

impl Output {
    pub(super) fn new(limit: Option<i64>, offset: i64) -> Self {
        let positive = |bound: i64| u64::try_from(bound).unwrap_or(0);
        Self {
            skip: positive(offset),
            left: limit.map(positive),
            sent: 0,
            pause: None,
            withholds_tag: false,
        }
    }

    pub(super) fn pause_after(&mut self, rows: u64) {
        self.pause = Some(rows);
    }

    pub(super) fn withhold_tag(&mut self) {
        self.withholds_tag = true;
    }

    /// The command tag.
    pub(super) fn tag(&self) -> String {
        format!("SELECT {}", self.sent)
    }

    fn is_paused(&self) -> bool {
        self.pause == Some(self.sent)
    }

    /// Whether LIMIT is reached, or what an Execute asked for.
    pub(super) fn is_satisfied(&self) -> bool {
        self.left == Some(0) || self.is_paused()
    }

    /// Appends a row, unless OFFSET leaves it out.
    pub(super) fn put(&mut self, out: &mut BytesMut, row: &Row) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        row.put(out);
        self.sent += 1;
        self.left = self.left.map(|left| left - 1);
    }

    /// Appends CommandComplete, or PortalSuspended where there were as many rows as were asked for.
    pub(super) fn complete(&self, out: &mut BytesMut) {
        if self.is_paused() {
            return backend::portal_suspended(out);
        }
        if !self.withholds_tag {
            backend::command_complete(out, &self.tag());
        }
    }
}
