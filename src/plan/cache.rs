//! Plans by statement template: bounded, shared by all threads.
//!
//! The key is the template of the statement (or its full text, for plans that no other text shares),
//! with everything else a plan depends on. A hit takes a read lock of one of sixteen parts and
//! allocates nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::Plan;
use crate::sql::fingerprint::{Slot, readable};

const PARTS: usize = 16;

/// What a plan depends on beside the statement's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependencies<'a> {
    /// `Catalog::version`.
    pub catalog: u64,
    /// A hash of the settings that change what names mean.
    pub session: u64,
    /// Parse's type OIDs.
    pub types: &'a [u32],
}

/// A plan as it was made.
#[derive(Debug)]
pub struct Entry {
    key: Box<[u8]>,
    catalog: u64,
    session: u64,
    types: Box<[u32]>,
    pub plan: Arc<Plan>,
    /// Literals of the text the plan was made from.
    pub slots: Box<[Slot]>,
    hits: AtomicU64,
    used: AtomicU64,
}

/// Numbers of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub hits: u64,
    pub misses: u64,
    pub evicted: u64,
}

/// A cached plan, for people.
#[derive(Clone, Debug)]
pub struct Shown {
    pub text: String,
    pub hits: u64,
    pub plan: Arc<Plan>,
}

type Part = HashMap<u64, Vec<Arc<Entry>>, foldhash::fast::FixedState>;

/// Plans of one database.
pub struct PlanCache {
    parts: Box<[RwLock<Part>]>,
    limit: usize,
    /// Rises with every insertion: a coarse clock for what was used last.
    clock: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    evicted: AtomicU64,
}

impl PlanCache {
    /// An empty cache for about `limit` plans.
    pub fn new(limit: usize) -> Self {
        let parts = (0..PARTS).map(|_| RwLock::new(Part::default())).collect();
        Self {
            parts,
            limit: limit.div_ceil(PARTS).max(1),
            clock: AtomicU64::new(1),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    fn part(&self, hash: u64) -> &RwLock<Part> {
        &self.parts[(hash >> 60) as usize]
    }

    /// The plan of a key, compared byte by byte.
    pub fn find(&self, hash: u64, key: &[u8], on: Dependencies<'_>) -> Option<Arc<Entry>> {
        let part = self.part(hash).read();
        let found = part.get(&hash).and_then(|all| all.iter().find(|it| it.is_for(key, on)));
        let Some(entry) = found else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        entry.hits.fetch_add(1, Ordering::Relaxed);
        entry.used.store(self.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(entry))
    }

    /// Keeps a plan; the one used longest ago goes if there are too many.
    pub fn insert(
        &self,
        hash: u64,
        key: &[u8],
        on: Dependencies<'_>,
        plan: Arc<Plan>,
        slots: &[Slot],
    ) -> Arc<Entry> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry {
            key: key.into(),
            catalog: on.catalog,
            session: on.session,
            types: on.types.into(),
            plan,
            slots: slots.into(),
            hits: AtomicU64::new(0),
            used: AtomicU64::new(now),
        });
        let mut part = self.part(hash).write();
        if part.values().map(Vec::len).sum::<usize>() >= self.limit {
            self.evict(&mut part);
        }
        let all = part.entry(hash).or_default();
        // Those of an older schema are of no use any more.
        all.retain(|it| it.catalog == on.catalog && !it.is_for(key, on));
        all.push(Arc::clone(&entry));
        entry
    }

    fn evict(&self, part: &mut Part) {
        let oldest = part
            .iter()
            .flat_map(|(hash, all)| {
                all.iter().map(move |it| (it.used.load(Ordering::Relaxed), *hash))
            })
            .min();
        let Some((used, hash)) = oldest else { return };
        if let Some(all) = part.get_mut(&hash) {
            all.retain(|it| it.used.load(Ordering::Relaxed) != used);
            if all.is_empty() {
                part.remove(&hash);
            }
        }
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// Plans kept.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.read().values().map(Vec::len).sum::<usize>()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hits, misses and evictions so far.
    pub fn counters(&self) -> Counters {
        Counters {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }

    /// All plans, the most used first.
    pub fn entries(&self) -> Vec<Shown> {
        let mut shown: Vec<Shown> = Vec::new();
        for part in &self.parts {
            shown.extend(part.read().values().flatten().map(|entry| Shown {
                text: readable(&entry.key),
                hits: entry.hits.load(Ordering::Relaxed),
                plan: Arc::clone(&entry.plan),
            }));
        }
        shown.sort_by(|a, b| b.hits.cmp(&a.hits).then_with(|| a.text.cmp(&b.text)));
        shown
    }
}

impl Entry {
    fn is_for(&self, key: &[u8], on: Dependencies<'_>) -> bool {
        self.catalog == on.catalog
            && self.session == on.session
            && *self.types == *on.types
            && *self.key == *key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Action, Local};

    fn plan() -> Arc<Plan> {
        Arc::new(Plan {
            action: Action::Local(Local::Empty),
            is_shareable: true,
            pin: None,
            changes_schema: false,
            ..Plan::default()
        })
    }

    #[test]
    fn a_hit_needs_everything_alike() {
        let cache = PlanCache::new(100);
        let on = Dependencies { catalog: 1, session: 2, types: &[23] };
        cache.insert(7, b"SELECT \x01", on, plan(), &[]);
        assert!(cache.find(7, b"SELECT \x01", on).is_some());
        assert!(cache.find(7, b"SELECT \x02", on).is_none());
        assert!(cache.find(7, b"SELECT \x01", Dependencies { catalog: 2, ..on }).is_none());
        assert!(cache.find(7, b"SELECT \x01", Dependencies { session: 3, ..on }).is_none());
        assert!(cache.find(7, b"SELECT \x01", Dependencies { types: &[], ..on }).is_none());
        assert_eq!(cache.counters(), Counters { hits: 1, misses: 4, evicted: 0 });
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let cache = PlanCache::new(32);
        let on = Dependencies { catalog: 1, session: 0, types: &[] };
        for number in 0..1000_u64 {
            cache.insert(number, &number.to_be_bytes(), on, plan(), &[]);
            assert!(number == 0 || cache.find(0, &0_u64.to_be_bytes(), on).is_some());
        }
        assert!(cache.len() <= 32);
    }
}
