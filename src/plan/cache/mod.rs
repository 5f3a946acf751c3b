//! Plans by statement, shared by all threads.
//!
//! A plan that holds for every statement of a template is kept under the template; one that depends
//! on the values of literals under the full text, with a mark under the template that says so. Full
//! texts are only kept when they come a second time, since most never do. The cache is cut into
//! parts with a lock each; a part evicts by CLOCK: a hand goes round and removes the first entry that
//! was not used since it came by last.

mod part;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use part::{Bounds, Entry, Key, Part};

use super::{Plan, Preparable};
use crate::sql::fingerprint::{Fingerprint, Slot};

/// Locks, a power of two; more than threads, so that they seldom meet.
const PARTS: usize = 64;

/// A plan and the slots of the text it was made from, which its byte offsets refer to.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedPlan {
    pub plan: Arc<Plan>,
    pub slots: Box<[Slot]>,
    pub verb: Verb,
    /// How it runs as a prepared statement, if it may.
    pub preparable: Option<Preparable>,
}

/// What a statement begins with, where that matters beyond its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A NULL key is an error.
    Insert,
    /// Needs a transaction block.
    Lock,
    /// Tells of the server it runs on: clients mean the one that takes their writes.
    Show,
    /// Takes data from the client in the middle of its request.
    Copy,
    Other,
}

impl Verb {
    fn of(word: &str) -> Self {
        let verbs = [
            ("insert", Self::Insert),
            ("lock", Self::Lock),
            ("show", Self::Show),
            ("copy", Self::Copy),
        ];
        let found = verbs.iter().find(|(it, _)| it.eq_ignore_ascii_case(word));
        found.map_or(Self::Other, |(_, verb)| *verb)
    }
}

impl CachedPlan {
    /// The plan just made of a statement.
    pub fn new(plan: Arc<Plan>, sql: &str, fingerprint: &Fingerprint) -> Arc<Self> {
        let verb = Verb::of(fingerprint.leading_word(sql));
        let literals = plan.literals.as_ref().filter(|_| !fingerprint.is_whole());
        let preparable = literals.and_then(|it| Preparable::new(it, sql, fingerprint.slots()));
        Arc::new(Self { plan, slots: fingerprint.slots().into(), verb, preparable })
    }
}

/// What a plan depends on besides the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis<'a> {
    pub catalog_version: u64,
    /// Database, role, search_path and whatever else of the session changes a statement's meaning,
    /// hashed by the caller.
    pub session: u64,
    /// The parameter types declared in Parse.
    pub types: &'a [u32],
}

/// A statement that is looked up: its text and its fingerprint, which has just read it.
#[derive(Clone, Copy, Debug)]
pub struct Sought<'a> {
    pub sql: &'a str,
    pub fingerprint: &'a Fingerprint,
    pub basis: Basis<'a>,
}

/// Numbers since the start, and the present size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub hits: u64,
    pub misses: u64,
    pub evicted: u64,
    /// Those of the evicted that had to go for the memory they used, not for their number.
    pub evicted_for_bytes: u64,
    pub entries: usize,
    /// About the memory they use.
    pub bytes: usize,
}

/// A plan as the admin console shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// The template with `?` for numbers and `'?'` for strings, or the full text.
    pub text: String,
    pub hits: u64,
    pub plan: Arc<Plan>,
}

/// A bounded cache of plans.
#[derive(Debug)]
pub struct PlanCache {
    parts: Box<[RwLock<Part>]>,
    /// Per part.
    plans: AtomicUsize,
    bytes: AtomicUsize,
    /// Statements with a longer key are not kept.
    max_key_bytes: usize,
}

impl<'a> Sought<'a> {
    fn key(&self) -> Key<'a> {
        let (text, is_whole) = (self.fingerprint.key(self.sql), self.fingerprint.is_whole());
        Key::new(self.fingerprint.hash(), text, is_whole, self.basis)
    }

    fn whole_key(&self) -> Key<'a> {
        let text = self.sql.as_bytes();
        Key::new(self.fingerprint.hash_of(text), text, true, self.basis)
    }
}

impl PlanCache {
    /// An empty cache of about `plans` entries (at least one per part), which use about `bytes`.
    pub fn new(plans: usize, bytes: usize, max_key_bytes: usize) -> Self {
        let parts = (0..PARTS.min(plans.next_power_of_two()))
            .map(|_| RwLock::default())
            .collect::<Box<[_]>>();
        let (of_plans, of_bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let cache = Self { parts, plans: of_plans, bytes: of_bytes, max_key_bytes };
        cache.bound(plans, bytes);
        cache
    }

    /// Changes the bounds; what is too much goes when the next plans come.
    pub fn bound(&self, plans: usize, bytes: usize) {
        let parts = self.parts.len();
        self.plans.store(plans.div_ceil(parts).max(1), Ordering::Relaxed);
        self.bytes.store(bytes.div_ceil(parts), Ordering::Relaxed);
    }

    fn bounds(&self) -> Bounds {
        let load = |it: &AtomicUsize| it.load(Ordering::Relaxed);
        Bounds { plans: load(&self.plans), bytes: load(&self.bytes) }
    }

    /// The plan of a statement, if it is known. Does not allocate.
    pub fn find(&self, sought: &Sought<'_>) -> Option<Arc<CachedPlan>> {
        let key = sought.key();
        // The lock is given back before the next is taken.
        let known = self.part(&key).read().look_up(&key)?;
        known.or_else(|| self.find_whole(sought))
    }

    /// The plan of a statement by its full text: after [`super::route::Target::Replan`].
    pub fn find_whole(&self, sought: &Sought<'_>) -> Option<Arc<CachedPlan>> {
        let key = sought.whole_key();
        self.part(&key).read().look_up(&key).flatten()
    }

    /// Takes in the plan that was just made for a statement; gives it back with its slots.
    pub fn insert(&self, sought: &Sought<'_>, plan: Arc<Plan>) -> Arc<CachedPlan> {
        let is_shared = plan.is_shareable && !sought.fingerprint.is_whole();
        let plan = CachedPlan::new(plan, sought.sql, sought.fingerprint);
        if is_shared {
            self.put(&sought.key(), Some(Arc::clone(&plan)));
            return plan;
        }
        if !sought.fingerprint.is_whole() {
            self.mark(&sought.key());
        }
        self.insert_whole(sought, &plan);
        plan
    }

    /// Takes in a plan under the full text only: of a statement that a shared plan did not fit.
    pub fn insert_whole(&self, sought: &Sought<'_>, plan: &Arc<CachedPlan>) {
        let key = sought.whole_key();
        let seen_before = self.part(&key).write().note(key.hash, self.bounds().plans);
        if seen_before {
            self.put(&key, Some(Arc::clone(plan)));
        }
    }

    /// The numbers of all parts together.
    pub fn counts(&self) -> Counts {
        self.parts.iter().map(|part| part.read().counts()).fold(Counts::default(), |sum, part| {
            Counts {
                hits: sum.hits + part.hits,
                misses: sum.misses + part.misses,
                evicted: sum.evicted + part.evicted,
                evicted_for_bytes: sum.evicted_for_bytes + part.evicted_for_bytes,
                bytes: sum.bytes + part.bytes,
                entries: sum.entries + part.entries,
            }
        })
    }

    /// All plans, for SHOW PLANS; the most used first.
    pub fn entries(&self) -> Vec<Shown> {
        let mut shown: Vec<Shown> = Vec::new();
        for part in &self.parts {
            shown.extend(part.read().shown());
        }
        shown.sort_by(|a, b| b.hits.cmp(&a.hits).then_with(|| a.text.cmp(&b.text)));
        shown
    }

    fn part(&self, key: &Key<'_>) -> &RwLock<Part> {
        &self.parts[(key.hash >> 32) as usize & (self.parts.len() - 1)]
    }

    /// Notes that plans of a template depend on literals, unless it has a shared plan already.
    fn mark(&self, key: &Key<'_>) {
        let is_known = self.part(key).read().holds(key);
        if !is_known {
            self.put(key, None);
        }
    }

    fn put(&self, key: &Key<'_>, plan: Option<Arc<CachedPlan>>) {
        if key.text.len() <= self.max_key_bytes {
            self.part(key).write().put(key.hash, Entry::new(key, plan), self.bounds());
        }
    }
}

#[cfg(test)]
mod tests;
