//! What was written lately, by tenants: who reads it needs a server that has seen it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::cache::{self, Ledger, Member};
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
    /// Where other proxies hear of them.
    fleet: OnceLock<Member>,
}

#[derive(Default)]
struct Cell {
    /// The last ticket.
    ticket: AtomicU64,
    /// When it was given, in milliseconds.
    at: AtomicU64,
    open: AtomicU32,
    /// Other proxies that may be writing there.
    held: AtomicU32,
}

/// What a statement writes or reads: a tenant (one of few that share a slot), or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u16);

impl Mark {
    /// Rows of no tenant: home tables.
    pub const UNTENANTED: Self = Self(cache::UNTENANTED);
    /// Rows of tenants that are not known, and reference tables.
    pub const EVERYTHING: Self = Self(cache::EVERYTHING);

    /// A tenant by the slot of its key.
    pub fn slot(slot: u16) -> Self {
        Self(slot % SLOTS)
    }

    /// As the proxies of a fleet name it.
    pub fn number(self) -> u16 {
        self.0
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
        let (cells, fleet) = (OnceLock::new(), OnceLock::new());
        Self { start: Instant::now(), issued: AtomicU64::new(1), cells, fleet }
    }
}

impl Writes {
    /// From now on other proxies hear of what is written here, and this one of what they write.
    pub fn join(self: &Arc<Self>, fleet: &Arc<cache::Fleet>, database: &str) {
        self.fleet.get_or_init(|| {
            let book: Arc<dyn Ledger> = Arc::<Self>::clone(self);
            fleet.join(database, Arc::downgrade(&book))
        });
    }

    /// The proxy's place among others, if there are any.
    pub fn fleet(&self) -> Option<&Member> {
        self.fleet.get()
    }

    /// Whether all that was written elsewhere is known.
    pub fn is_current(&self) -> bool {
        self.fleet().is_none_or(Member::is_current)
    }

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
        if cell.is_open() {
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
        cells.iter().any(Cell::is_open)
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
        // Before its announcement is looked at: see `cache`.
        self.cells()[mark.index()].open.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self, marks: &[Mark]) {
        let stamp = self.issue();
        for mark in marks {
            let cell = &self.cells()[mark.index()];
            cell.stamp(stamp);
            cell.open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Cell {
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) != 0 || self.held.load(Ordering::Acquire) != 0
    }

    fn stamp(&self, stamp: Stamp) {
        self.ticket.fetch_max(stamp.ticket, Ordering::AcqRel);
        self.at.fetch_max(stamp.at, Ordering::AcqRel);
    }
}

impl Ledger for Writes {
    fn hold(&self, mark: u16) {
        self.cells()[usize::from(mark)].held.fetch_add(1, Ordering::AcqRel);
    }

    fn release(&self, mark: u16) {
        let cell = &self.cells()[usize::from(mark)];
        cell.stamp(self.issue());
        cell.held.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_open(&self, mark: u16) -> bool {
        let cells = self.cells.get();
        cells.is_some_and(|it| it[usize::from(mark)].open.load(Ordering::SeqCst) != 0)
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
            if !self.writes.as_ref().is_some_and(|it| Arc::ptr_eq(it, writes)) {
                // The database was taken out, and has come back with a book of its own.
                self.end();
                self.writes = Some(Arc::clone(writes));
            }
            writes.begin(mark);
            self.marks.push(mark);
        }
    }

    /// What they write.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
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
        if let Some(writes) = self.writes.as_ref().filter(|_| !self.marks.is_empty()) {
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
    fn what_others_write_has_no_ticket_until_they_have_ended() {
        let (writes, mark) = (Writes::default(), Mark::slot(7));
        writes.hold(7);
        writes.hold(7);
        writes.release(7);
        assert!(writes.last(mark).is_none() && writes.is_any_open());
        assert!(!Ledger::is_open(&writes, 7), "only its own are announced");
        writes.release(7);
        assert_eq!(writes.last(mark).map(|it| it.ticket), Some(writes.issued()));
    }

    #[test]
    fn a_session_writes_into_the_book_that_its_database_has_now() {
        let (old, new) = (Arc::new(Writes::default()), Arc::new(Writes::default()));
        let (mut open, mark) = (Open::default(), Mark::slot(7));
        open.begin(&old, mark);
        open.end();
        open.begin(&new, mark);
        assert_eq!((old.last(mark).map(|it| it.ticket), new.last(mark)), (Some(2), None));
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
