//! One part of the plan cache: its entries, their keys, and who has to go.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Basis, CachedPlan, Counts, Shown};
use crate::sql::fingerprint::readable;

/// A key: of a template, or of a full text.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) hash: u64,
    pub(super) text: &'a [u8],
    is_whole: bool,
    basis: Basis<'a>,
}

#[derive(Debug, Default)]
pub(super) struct Part {
    /// By the hash of the whole key; on the rare collision the newer entry stays.
    entries: HashMap<u64, Entry, BuildHasherDefault<Hashed>>,
    ring: Vec<u64>,
    hand: usize,
    /// Hashes of full texts seen once, each at its place; a newer one takes the place.
    seen: Vec<u64>,
    /// Hits of entries that are gone.
    past_hits: u64,
    misses: AtomicU64,
    evicted: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    text: Box<[u8]>,
    is_whole: bool,
    catalog_version: u64,
    session: u64,
    types: Box<[u32]>,
    /// `None`: plans of this template depend on the values of literals.
    plan: Option<Arc<CachedPlan>>,
    is_used: AtomicBool,
    hits: AtomicU64,
}

impl<'a> Key<'a> {
    pub(super) fn new(text_hash: u64, text: &'a [u8], is_whole: bool, basis: Basis<'a>) -> Self {
        let mut hash = text_hash ^ u64::from(is_whole);
        let types = basis.types.iter().map(|it| u64::from(*it));
        for word in types.chain([basis.catalog_version, basis.session]) {
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        Self { hash, text, is_whole, basis }
    }

    fn is_of(&self, entry: &Entry) -> bool {
        entry.is_whole == self.is_whole
            && entry.catalog_version == self.basis.catalog_version
            && entry.session == self.basis.session
            && *entry.types == *self.basis.types
            && *entry.text == *self.text
    }
}

impl Entry {
    pub(super) fn new(key: &Key<'_>, plan: Option<Arc<CachedPlan>>) -> Self {
        Self {
            text: key.text.into(),
            is_whole: key.is_whole,
            catalog_version: key.basis.catalog_version,
            session: key.basis.session,
            types: key.basis.types.into(),
            plan,
            is_used: AtomicBool::new(false),
            hits: AtomicU64::new(0),
        }
    }

    fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    fn show(&self) -> Option<Shown> {
        let plan = Arc::clone(&self.plan.as_ref()?.plan);
        let text = match self.is_whole {
            true => String::from_utf8_lossy(&self.text).into(),
            false => readable(&self.text),
        };
        Some(Shown { text, hits: self.hits(), plan })
    }
}

impl Part {
    /// `None`: not known; `Some(None)`: known to depend on the values of literals.
    pub(super) fn look_up(&self, key: &Key<'_>) -> Option<Option<Arc<CachedPlan>>> {
        let Some(entry) = self.entries.get(&key.hash).filter(|entry| key.is_of(entry)) else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        if !entry.is_used.load(Ordering::Relaxed) {
            entry.is_used.store(true, Ordering::Relaxed);
        }
        if entry.plan.is_some() {
            entry.hits.fetch_add(1, Ordering::Relaxed);
        }
        Some(entry.plan.clone())
    }

    /// Whether the key is known, without counting.
    pub(super) fn holds(&self, key: &Key<'_>) -> bool {
        self.entries.get(&key.hash).is_some_and(|entry| key.is_of(entry))
    }

    /// The numbers of this part.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            hits: self.entries.values().map(Entry::hits).sum::<u64>() + self.past_hits,
            misses: self.misses.load(Ordering::Relaxed),
            evicted: self.evicted,
            entries: self.entries.len(),
        }
    }

    /// The plans of this part.
    pub(super) fn shown(&self) -> impl Iterator<Item = Shown> {
        self.entries.values().filter_map(Entry::show)
    }

    /// Takes in an entry, at the expense of another if there are `limit`.
    pub(super) fn put(&mut self, hash: u64, entry: Entry, limit: usize) {
        if let Some(replaced) = self.entries.insert(hash, entry) {
            self.past_hits += replaced.hits();
            return;
        }
        if self.ring.len() < limit {
            self.ring.push(hash);
            return;
        }
        // Ends: each step clears a mark, and the new entry is not in the ring yet.
        while let Some(entry) = self.entries.get(&self.ring[self.hand])
            && entry.is_used.swap(false, Ordering::Relaxed)
        {
            self.hand = (self.hand + 1) % self.ring.len();
        }
        let removed = self.entries.remove(&self.ring[self.hand]);
        self.past_hits += removed.map_or(0, |entry| entry.hits());
        self.evicted += 1;
        self.ring[self.hand] = hash;
        self.hand = (self.hand + 1) % self.ring.len();
    }

    /// Whether a full text was seen before; notes it.
    pub(super) fn note(&mut self, hash: u64, limit: usize) -> bool {
        self.seen.resize((limit * 2).max(16), 0);
        let place = hash as usize % self.seen.len();
        std::mem::replace(&mut self.seen[place], hash) == hash
    }
}

/// Passes a hash on as it is.
#[derive(Clone, Copy, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
