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
    evicted_for_bytes: u64,
    bytes: usize,
}

/// What a part may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) plans: usize,
    pub(super) bytes: usize,
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
    /// About the memory it uses.
    bytes: usize,
    is_used: AtomicBool,
    hits: AtomicU64,
}

/// Counts what is written.
struct Length(usize);

impl std::fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// About the memory of an entry. A plan's is taken from its printed form, whose names, numbers and
/// words come from what it holds.
fn footprint(key: &Key<'_>, plan: Option<&CachedPlan>) -> usize {
    let mut printed = Length(0);
    if let Some(plan) = plan {
        // Counting cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut printed, format_args!("{:?}", plan.plan));
        printed.0 += size_of_val(&*plan.slots);
        printed.0 += plan.preparable.as_ref().map_or(0, |it| it.sql.len() + 256);
    }
    key.text.len() + size_of_val(key.basis.types) + size_of::<Entry>() + printed.0
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
            bytes: footprint(key, plan.as_deref()),
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
            evicted_for_bytes: self.evicted_for_bytes,
            bytes: self.bytes,
            entries: self.entries.len(),
        }
    }

    /// The plans of this part.
    pub(super) fn shown(&self) -> impl Iterator<Item = Shown> {
        self.entries.values().filter_map(Entry::show)
    }

    /// Takes in an entry, at the expense of others if there is no room for it.
    pub(super) fn put(&mut self, hash: u64, entry: Entry, bounds: Bounds) {
        if entry.bytes > bounds.bytes {
            self.evicted_for_bytes += 1;
            return;
        }
        if let Some(replaced) = self.entries.remove(&hash) {
            self.past_hits += replaced.hits();
            self.bytes -= replaced.bytes;
            self.ring.retain(|it| *it != hash);
        }
        while self.ring.len() >= bounds.plans || self.bytes + entry.bytes > bounds.bytes {
            self.evicted_for_bytes += u64::from(self.ring.len() < bounds.plans);
            self.evict();
        }
        self.bytes += entry.bytes;
        self.entries.insert(hash, entry);
        // Behind the hand: it comes here last.
        self.hand = self.hand.min(self.ring.len());
        self.ring.insert(self.hand, hash);
        self.hand = (self.hand + 1) % self.ring.len();
    }

    /// Removes the first entry that was not used since the hand came by last. There is one.
    fn evict(&mut self) {
        self.hand %= self.ring.len();
        // Ends: each step clears a mark.
        while let Some(entry) = self.entries.get(&self.ring[self.hand])
            && entry.is_used.swap(false, Ordering::Relaxed)
        {
            self.hand = (self.hand + 1) % self.ring.len();
        }
        let hash = self.ring.remove(self.hand);
        if let Some(entry) = self.entries.remove(&hash) {
            self.past_hits += entry.hits();
            self.bytes -= entry.bytes;
        }
        self.evicted += 1;
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
