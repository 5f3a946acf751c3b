//! What servers of one shard hold: a log of rows, replicas that have replayed a part of it, prepared
//! transactions and decisions. One per shard, behind a lock.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// A row of `log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub tenant: u32,
    pub n: u64,
}

/// A transaction's work that is not committed yet.
#[derive(Clone, Debug, Default)]
pub struct Work {
    pub rows: Vec<Row>,
    /// A decision, and what it says.
    pub decision: Option<(String, bool)>,
}

/// The shard's state.
#[derive(Default)]
pub struct Shard {
    /// In the order of commits.
    pub log: Vec<Row>,
    /// When each row was committed.
    at: Vec<Instant>,
    pub prepared: BTreeMap<String, Work>,
    pub decisions: HashMap<String, bool>,
    /// Decisions of transactions that are open: others that want to make the same one wait.
    pub claimed: HashMap<String, u64>,
    /// How often each item was inserted, whatever became of it.
    pub inserted: HashMap<u64, usize>,
}

/// Where the log begins, and how long a row is in it.
const START: u64 = 0x0300_0100;
const STEP: u64 = 64;

impl Shard {
    /// Makes work everybody's. A decision that stands already is an error.
    pub fn commit(&mut self, work: &Work) -> Result<(), ()> {
        if let Some((gid, committed)) = &work.decision {
            if self.decisions.contains_key(gid) {
                return Err(());
            }
            self.decisions.insert(gid.clone(), *committed);
        }
        self.log.extend(&work.rows);
        self.at.resize(self.log.len(), Instant::now());
        Ok(())
    }

    /// Rows that were committed before a moment.
    pub fn before(&self, moment: Instant) -> usize {
        self.at.partition_point(|it| *it <= moment)
    }

    /// The position behind so many rows.
    pub fn lsn(count: usize) -> String {
        format!("0/{:X}", START + STEP * count as u64)
    }

    /// A tenant's items among the first so many rows.
    pub fn items(&self, tenant: u32, count: usize) -> Vec<u64> {
        let own = self.log[..count].iter().filter(|it| it.tenant == tenant);
        own.map(|it| it.n).collect()
    }
}
