//! What this proxy has announced in one database, and until when others go by it.

use std::collections::HashMap;

use super::{LEASE, QUIET, RENEWAL};

/// By marks. Times are microseconds of the fleet's clock.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<u16, Lease>);

#[derive(Debug, Default)]
struct Lease {
    /// Known by all up to then; 0: not yet.
    until: u64,
    /// When it was last sent.
    sent: u64,
    /// Sent, and the fence is not over.
    is_under_way: bool,
}

impl Leases {
    /// Which of these are to be sent now: those that are not under way.
    pub(super) fn send(&mut self, wanted: impl IntoIterator<Item = u16>, now: u64) -> Vec<u16> {
        let mut sent = Vec::new();
        for mark in wanted {
            let lease = self.0.entry(mark).or_default();
            if !lease.is_under_way {
                (lease.is_under_way, lease.sent) = (true, now);
                sent.push(mark);
            }
        }
        sent
    }

    /// All others know by now; until when they do.
    pub(super) fn arrived(&mut self, mark: u16) -> u64 {
        let Some(lease) = self.0.get_mut(&mark) else { return 0 };
        lease.is_under_way = false;
        lease.until = lease.until.max(lease.sent + LEASE);
        lease.until
    }

    /// What was under way may not have arrived.
    pub(super) fn cut_off(&mut self) {
        self.0.values_mut().for_each(|it| it.is_under_way = false);
    }

    /// Those that are in use and were sent some time ago.
    pub(super) fn to_renew(&self, now: u64, used: impl Fn(u16) -> u64) -> Vec<u16> {
        let is_due = |it: &Lease| !it.is_under_way && it.sent + RENEWAL <= now;
        let due = self.0.iter().filter(|(_, it)| is_due(it)).map(|it| *it.0);
        due.filter(|it| used(*it) + QUIET > now).collect()
    }

    /// Those that have not been in use for a while.
    pub(super) fn quiet(&self, now: u64, used: impl Fn(u16) -> u64) -> Vec<u16> {
        let settled = self.0.iter().filter(|(_, it)| !it.is_under_way).map(|it| *it.0);
        settled.filter(|it| used(*it) + QUIET <= now).collect()
    }

    /// What is announced.
    pub(super) fn marks(&self) -> Vec<u16> {
        self.0.keys().copied().collect()
    }

    /// It was withdrawn.
    pub(super) fn remove(&mut self, mark: u16) {
        self.0.remove(&mark);
    }
}
