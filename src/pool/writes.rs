//! What was written lately, by tenants: who reads it needs a server that has seen it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::shard::SLOTS;

/// How long a write whose end is not known may still come to be seen.
const DOUBT: Duration = Duration::from_secs(10);

/// The writes of a database's clients. A write is *open* from before its server gets it until the server has
/// answered; then it gets a ticket, a number that rises.
pub struct Writes {
    start: Instant,
    issued: AtomicU64,
    /// [`SLOTS`] tenants, then what [`Mark::UNTENANTED`] and [`Mark::EVERYTHING`] stand for.
    cells: OnceLock<Box<[Cell]>>,
}

#[derive(Default)]
struct Cell {
    /// The last ticket.
    ticket: AtomicU64,
    /// When it was given, in milliseconds.
    at: AtomicU64,
    open: AtomicU32,
}

/// What a statement writes or reads: a tenant (one of few that share a slot), or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u16);

impl Mark {
    /// Rows of no tenant: home tables.
    pub const UNTENANTED: Self = Self(SLOTS);
    /// Rows of tenants that are not known, and reference tables.
    pub const EVERYTHING: Self = Self(SLOTS + 1);

    /// A tenant by the slot of its key.
    pub fn slot(slot: u16) -> Self {
        Self(slot % SLOTS)
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// When a write ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    pub ticket: u64,
    /// Milliseconds, see [`Writes::now`]; 0: never.
    pub at: u64,
}

impl Stamp {
    /// The later of both.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { ticket: self.ticket.max(other.ticket), at: self.at.max(other.at) }
    }
}

impl Default for Writes {
    /// What came before is not known: the first ticket stands for it.
    fn default() -> Self {
        Self { start: Instant::now(), issued: AtomicU64::new(1), cells: OnceLock::new() }
    }
}

impl Writes {
    fn cells(&self) -> &[Cell] {
        self.cells
            .get_or_init(|| (0..Mark::EVERYTHING.index() + 1).map(|_| Cell::default()).collect())
    }

    /// Milliseconds since some moment before all writes.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    /// The last ticket given: all writes up to it have ended.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Acquire)
    }

    /// A write that has ended now.
    pub fn issue(&self) -> Stamp {
        Stamp { ticket: self.issued.fetch_add(1, Ordering::AcqRel) + 1, at: self.now() }
    }

    /// The last write; `None` while one is open.
    pub fn last(&self, mark: Mark) -> Option<Stamp> {
        let first = Stamp { ticket: 1, at: 0 };
        let Some(cells) = self.cells.get() else { return Some(first) };
        let cell = &cells[mark.index()];
        if cell.open.load(Ordering::Acquire) != 0 {
            return None;
        }
        let (ticket, at) = (cell.ticket.load(Ordering::Acquire), cell.at.load(Ordering::Acquire));
        Some(Stamp { ticket, at }.max(first))
    }

    /// Whether anything was written within `window`, or is open.
    pub fn is_any_recent(&self, window: Duration) -> bool {
        let Some(cells) = self.cells.get() else { return false };
        (0..cells.len() as u16)
            .any(|it| self.last(Mark(it)).is_none_or(|it| self.is_recent(it, window)))
    }

    /// Whether any write is open.
    pub fn is_any_open(&self) -> bool {
        let cells = self.cells.get().map_or(&[][..], |it| it);
        cells.iter().any(|it| it.open.load(Ordering::Acquire) != 0)
    }

    /// Whether that was less than `window` ago.
    pub fn is_recent(&self, stamp: Stamp, window: Duration) -> bool {
        stamp.at != 0 && self.now().saturating_sub(stamp.at) < window.as_millis() as u64
    }

    /// Something was written that nobody has opened.
    pub fn note(&self, mark: Mark) {
        self.begin(mark);
        self.end(&[mark]);
    }

    fn begin(&self, mark: Mark) {
        self.cells()[mark.index()].open.fetch_add(1, Ordering::AcqRel);
    }

    fn end(&self, marks: &[Mark]) {
        let stamp = self.issue();
        for mark in marks {
            let cell = &self.cells()[mark.index()];
            cell.ticket.fetch_max(stamp.ticket, Ordering::AcqRel);
            cell.at.fetch_max(stamp.at, Ordering::AcqRel);
            cell.open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The writes that a session has open.
#[derive(Default)]
pub struct Open {
    writes: Option<Arc<Writes>>,
    marks: SmallVec<[Mark; 4]>,
}

impl Open {
    /// Before a server is sent what writes there.
    pub fn begin(&mut self, writes: &Arc<Writes>, mark: Mark) {
        if !self.marks.contains(&mark) {
            self.writes.get_or_insert_with(|| Arc::clone(writes)).begin(mark);
            self.marks.push(mark);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Whether what is written is not only rows of known tenants.
    pub fn is_loose(&self) -> bool {
        self.marks.iter().any(|it| it.0 >= SLOTS)
    }

    /// Servers have answered.
    pub fn end(&mut self) {
        if let Some(writes) = &self.writes {
            writes.end(&self.marks);
            self.marks.clear();
        }
    }

    /// A server was lost, or is left, in the middle of it: it may yet commit.
    pub fn doubt(&mut self) {
        let Some(writes) = self.writes.clone().filter(|_| !self.marks.is_empty()) else { return };
        let marks = std::mem::take(&mut self.marks);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(DOUBT).await;
                writes.end(&marks);
            })),
            // The proxy ends.
            Err(_) => writes.end(&marks),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.doubt();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_write_has_no_ticket_yet() {
        let writes = Arc::new(Writes::default());
        let (mine, other) = (Mark::slot(7), Mark::slot(8));
        assert_eq!(writes.last(mine).map(|it| it.ticket), Some(1));
        let mut open = Open::default();
        open.begin(&writes, mine);
        open.begin(&writes, mine);
        assert_eq!((writes.last(mine), writes.last(other).map(|it| it.ticket)), (None, Some(1)));
        open.end();
        assert_eq!(writes.last(mine).map(|it| it.ticket), Some(writes.issued()));
        assert!(open.is_empty() && writes.issued() == 2);
        assert!(writes.is_recent(writes.last(mine).unwrap(), Duration::from_secs(60)));
        assert!(!writes.is_recent(writes.last(other).unwrap(), Duration::from_secs(60)));
    }

    #[test]
    fn a_session_that_goes_leaves_nothing_open() {
        let writes = Arc::new(Writes::default());
        let mut open = Open::default();
        open.begin(&writes, Mark::EVERYTHING);
        drop(open);
        assert_eq!(writes.last(Mark::EVERYTHING).map(|it| it.ticket), Some(2));
    }
}
