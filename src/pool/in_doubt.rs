//! Transactions over shards that stand prepared, as recovery last saw them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::shard::ShardId;

/// A transaction that stands prepared on a shard.
#[derive(Clone, Debug)]
pub struct InDoubt {
    /// Since when this proxy sees it: servers' clocks may jump.
    pub since: Instant,
    /// Why it could not be ended so far.
    pub problem: String,
}

/// Those of one database, by shard and name.
#[derive(Debug, Default)]
pub struct InDoubts(Mutex<BTreeMap<(ShardId, String), InDoubt>>);

impl InDoubts {
    /// Notes what stands prepared on a shard at `now`, and gives what has for at least `grace`.
    pub fn see(
        &self,
        shard: ShardId,
        names: Vec<String>,
        now: Instant,
        grace: Duration,
    ) -> Vec<String> {
        let mut known = self.0.lock();
        known.retain(|(at, name), _| *at != shard || names.contains(name));
        let fresh = || InDoubt { since: now, problem: String::new() };
        let mut is_due = |name: &String| {
            let seen = known.entry((shard, name.clone())).or_insert_with(fresh);
            now.duration_since(seen.since) >= grace
        };
        names.into_iter().filter(|it| is_due(it)).collect()
    }

    /// Notes why one could not be ended; whether that is news.
    pub fn failed(&self, shard: ShardId, name: &str, problem: String) -> bool {
        let mut known = self.0.lock();
        let found = known.get_mut(&(shard, name.to_owned()));
        found.is_some_and(|it| std::mem::replace(&mut it.problem, problem.clone()) != problem)
    }

    /// It is prepared no more.
    pub fn ended(&self, shard: ShardId, name: &str) {
        self.0.lock().remove(&(shard, name.to_owned()));
    }

    /// All of them.
    pub fn all(&self) -> Vec<((ShardId, String), InDoubt)> {
        self.0.lock().iter().map(|(name, it)| (name.clone(), it.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_prepared_is_due_after_a_while() {
        let (doubts, start) = (InDoubts::default(), Instant::now());
        let see = |names: &[&str], after: u64| {
            let names = names.iter().map(|it| (*it).to_owned()).collect();
            let now = start + Duration::from_secs(after);
            doubts.see(ShardId(1), names, now, Duration::from_secs(3))
        };
        assert!(see(&["a"], 0).is_empty());
        assert_eq!(see(&["a", "b"], 3), ["a"]);
        assert!(doubts.failed(ShardId(1), "b", "down".into()));
        assert!(!doubts.failed(ShardId(1), "b", "down".into()));
        doubts.ended(ShardId(1), "a");
        // Another transaction, though of the same name, has its own time.
        assert_eq!(see(&["a", "b"], 6), ["b"]);
        assert!(see(&[], 7).is_empty() && doubts.all().is_empty());
    }
}
