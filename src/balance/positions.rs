//! Where a primary's log was when: what a replica that has replayed up to a position has seen.
//!
//! Writes are numbered by *tickets* as they end. A [`Sample`] says: whatever has a ticket up to this one
//! had committed before the primary was asked, and was below this position then.

use std::collections::VecDeque;

/// Samples kept; beyond it every second one goes, so that old ones become coarse.
const KEPT: usize = 512;
/// A page of the log, whose first bytes belong to no record.
const PAGE: u64 = 8192;
/// The header of a page, and of the first page of a file.
const HEADERS: [u64; 2] = [24, 40];

/// A position in the write-ahead log, in bytes (`pg_lsn`).
///
/// <https://www.postgresql.org/docs/current/datatype-pg-lsn.html>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Reads `16/B374D848`.
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let part = |it: &str| u32::from_str_radix(it, 16).ok().map(u64::from);
        Some(Self(part(high)? << 32 | part(low)?))
    }

    /// Where the last record before this insert position ends. A position just behind a page's header is
    /// the end of the page before, for whoever has replayed all there is.
    #[must_use]
    pub fn end_of_records(self) -> Self {
        match HEADERS.contains(&(self.0 % PAGE)) {
            true => Self(self.0 - self.0 % PAGE),
            false => self,
        }
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// What the primary said once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Every write with a ticket up to this one had ended before.
    pub ticket: u64,
    pub lsn: Lsn,
    /// In milliseconds, when it was asked.
    pub at: u64,
}

/// What a replica has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub ticket: u64,
    /// How far behind it was when the primary was last asked, at most; if it is not known, since it is more
    /// than is remembered, at least. In milliseconds.
    pub lag_ms: u64,
    pub is_known: bool,
    pub lag_bytes: u64,
    /// When the primary was asked that for the last sample it has seen, in milliseconds.
    pub at: u64,
}

/// The samples of one primary, the oldest first.
#[derive(Debug, Default)]
pub struct Positions {
    samples: VecDeque<Sample>,
}

impl Positions {
    /// Takes in what the primary said. Answers that overtook each other only raise what is known.
    pub fn note(&mut self, sample: Sample) {
        match self.samples.back_mut() {
            // A later look that saw nothing new.
            Some(last) if sample.lsn <= last.lsn => {
                last.ticket = last.ticket.max(sample.ticket);
                last.at = last.at.max(sample.at);
            }
            Some(last) if sample.ticket < last.ticket => (),
            _ => self.samples.push_back(sample),
        }
        if self.samples.len() > KEPT {
            let mut at = 0;
            let last = self.samples.len() - 1;
            self.samples.retain(|_| {
                at += 1;
                at % 2 == 1 || at > last
            });
        }
    }

    /// The last sample.
    pub fn last(&self) -> Option<Sample> {
        self.samples.back().copied()
    }

    /// The first sample that covers a ticket.
    pub fn of_ticket(&self, ticket: u64) -> Option<Sample> {
        let at = self.samples.partition_point(|it| it.ticket < ticket);
        self.samples.get(at).copied()
    }

    /// The first sample beyond a position: what a replica there waits for, or is behind by.
    pub fn after(&self, replayed: Lsn) -> Option<Sample> {
        let at = self.samples.partition_point(|it| it.lsn <= replayed);
        self.samples.get(at).copied()
    }

    /// What a replica has seen that has replayed up to here; `None` before the first sample.
    pub fn seen(&self, replayed: Lsn) -> Option<Seen> {
        let last = self.last()?;
        let lag_bytes = last.lsn.0.saturating_sub(replayed.0);
        let at = self.samples.partition_point(|it| it.lsn <= replayed);
        let reached = at.checked_sub(1).and_then(|it| self.samples.get(it));
        Some(match reached {
            Some(it) => {
                let lag_ms = last.at.saturating_sub(it.at);
                Seen { ticket: it.ticket, lag_ms, is_known: true, lag_bytes, at: it.at }
            }
            None => {
                let first = self.samples.front().map_or(last.at, |it| it.at);
                let lag_ms = last.at.saturating_sub(first);
                Seen { ticket: 0, lag_ms, is_known: false, lag_bytes, at: 0 }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ticket: u64, lsn: u64, at: u64) -> Sample {
        Sample { ticket, lsn: Lsn(lsn), at }
    }

    #[test]
    fn positions_read_as_postgres_prints_them() {
        assert_eq!(Lsn::parse("16/B374D848"), Some(Lsn(0x16_b374_d848)));
        assert_eq!(Lsn(0x16_b374_d848).to_string(), "16/B374D848");
        assert_eq!(["", "16", "x/1", "1/100000000"].map(Lsn::parse), [None; 4]);
    }

    #[test]
    fn the_header_of_a_page_is_no_record() {
        let ends = |lsn| Lsn(lsn).end_of_records().0;
        assert_eq!([ends(0x200_0028), ends(0x200_2018)], [0x200_0000, 0x200_2000]);
        assert_eq!([ends(0x200_2020), ends(0x200_2000)], [0x200_2020, 0x200_2000]);
    }

    #[test]
    fn a_replica_has_seen_what_was_below_its_position() {
        let mut known = Positions::default();
        assert_eq!(known.seen(Lsn(5)), None);
        for it in [sample(1, 10, 100), sample(4, 20, 200), sample(9, 30, 300)] {
            known.note(it);
        }
        let seen = |lsn| {
            let it = known.seen(Lsn(lsn)).unwrap();
            (it.ticket, it.lag_ms, it.is_known, it.lag_bytes)
        };
        assert_eq!(seen(9), (0, 200, false, 21));
        assert_eq!(seen(10), (1, 200, true, 20));
        assert_eq!(seen(29), (4, 100, true, 1));
        assert_eq!(seen(31), (9, 0, true, 0));
        assert_eq!(known.of_ticket(4).map(|it| it.lsn), Some(Lsn(20)));
        assert_eq!(known.of_ticket(5).map(|it| it.lsn), Some(Lsn(30)));
        assert_eq!(known.of_ticket(10), None);
    }

    #[test]
    fn an_idle_primary_covers_later_tickets_at_the_same_position() {
        let mut known = Positions::default();
        known.note(sample(1, 10, 100));
        known.note(sample(3, 10, 500));
        assert_eq!(known.seen(Lsn(10)).map(|it| (it.ticket, it.lag_ms)), Some((3, 0)));
    }

    #[test]
    fn samples_that_overtook_each_other_are_no_lag() {
        let mut known = Positions::default();
        known.note(sample(1, 10, 500));
        known.note(sample(2, 20, 400));
        assert_eq!([5, 10].map(|it| known.seen(Lsn(it)).map(|it| it.lag_ms)), [Some(0); 2]);
    }

    /// Whatever is forgotten and however answers overtake each other: a replica is never said to have
    /// seen a write whose position it has not reached.
    #[test]
    fn no_write_is_covered_before_it_is_replayed() {
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let (mut known, mut commits, mut lsn, mut late) = (Positions::default(), vec![], 0, None);
        for now in 0..20_000 {
            match random(4) {
                0 | 1 => {
                    lsn += random(50);
                    commits.push(lsn); // ticket: its place, from one
                }
                2 => {
                    let it = sample(commits.len() as u64, lsn + random(5), now);
                    lsn = it.lsn.0;
                    known.note(it);
                    if let Some(late) = late.replace(it).filter(|_| random(3) == 0) {
                        known.note(late);
                    }
                }
                _ => {
                    let replayed = Lsn(random(lsn + 1));
                    let Some(seen) = known.seen(replayed) else { continue };
                    let covered = &commits[..seen.ticket as usize];
                    assert!(covered.iter().all(|it| *it <= replayed.0), "at {now}");
                }
            }
        }
        assert!(known.samples.len() <= KEPT && commits.len() > 5000);
    }
}
