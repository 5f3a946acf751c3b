//! Statements that clients have prepared: texts that servers know under one name of ours, and what is
//! known of each under the schema in force. Shared by all clients.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::config::show_bytes;
use crate::error::{PgError, sqlstate};
use crate::plan::{Action as PlanAction, KeySource, Scope, Statement};

/// Statement texts kept for sharing over all clients; beyond it, those nobody uses are dropped.
const TEXTS: usize = 20_000;
/// What a text takes besides its bytes, about.
const OVERHEAD: usize = 512;
/// A look for texts that nobody uses is not worth its while sooner than after this.
const LOOK: Duration = Duration::from_millis(100);

/// What makes two Parse messages the same statement on a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TextKey {
    pub sql: Bytes,
    pub types: Vec<u32>,
    /// Settings that change what a name means.
    pub path: String,
    pub database: Arc<str>,
    /// The schema it was parsed under: types and columns of a statement do not follow a change.
    pub schema: u64,
}

/// A statement text that servers know under one name.
#[derive(Debug)]
pub struct Text {
    pub id: u64,
    /// Its name on servers.
    pub name: Box<str>,
    pub key: TextKey,
    /// The catalog version under which a server last took it; 0: never.
    pub valid: AtomicU64,
    /// As a server inferred them, once known.
    pub inferred: OnceLock<Vec<u32>>,
}

impl Text {
    /// The statement.
    pub fn sql(&self) -> &Bytes {
        &self.key.sql
    }

    /// Parameter types as declared by Parse; 0 or missing: inferred.
    pub fn types(&self) -> &[u32] {
        &self.key.types
    }

    /// Parameter types as a server inferred them, else as declared.
    pub fn told_types(&self) -> &[u32] {
        self.inferred.get().map_or(self.types(), |it| &it[..])
    }

    /// Whether a server has taken it under this version of the catalog.
    pub fn is_valid(&self, version: u64) -> bool {
        version != 0 && self.valid.load(Ordering::Relaxed) == version
    }
}

/// A prepared statement: its text and its plan.
#[derive(Debug)]
pub struct Prepared {
    pub text: Arc<Text>,
    pub statement: Statement,
    /// The catalog the plan was made from.
    pub version: u64,
}

impl Prepared {
    /// A statement of that text. It is kept for long: what it has of the text must not be a piece of a
    /// client's read buffer, which would be kept with it.
    pub fn new(text: Arc<Text>, mut statement: Statement, version: u64) -> Self {
        statement.text = match statement.text == text.sql() {
            true => text.sql().clone(),
            // Without semicolons around it.
            false => Bytes::copy_from_slice(&statement.text),
        };
        Self { text, statement, version }
    }

    /// Whether a key is a parameter whose type nobody has told yet: what Postgres infers need not be
    /// the key column's type, and a value must not be read as another type than it is.
    pub fn needs_types(&self) -> bool {
        let PlanAction::Run(run) = &self.statement.plan.action else { return false };
        let Scope::Keys { keys, .. } = &run.scope else { return false };
        let types = self.text.types();
        let is_open = |index: usize| types.get(index - 1).is_none_or(|it| *it == 0);
        self.text.inferred.get().is_none()
            && keys.iter().any(|key| match key {
                KeySource::Param { index, .. } | KeySource::ParamArray { index, .. } => {
                    is_open(*index)
                }
                KeySource::Literal { .. } => false,
            })
    }
}

/// A Parse message as it is looked up.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<'a> {
    pub sql: &'a [u8],
    pub types: &'a [u32],
    pub path: &'a str,
    pub database: &'a str,
    pub version: u64,
}

impl Parsed<'_> {
    fn is_of(&self, prepared: &Prepared) -> bool {
        let key = &prepared.text.key;
        prepared.version == self.version
            && *key.sql == *self.sql
            && key.types == self.types
            && key.path == self.path
            && *key.database == *self.database
    }
}

/// Texts and prepared statements, by what their Parse messages say.
#[derive(Debug, Default)]
pub struct PreparedStatements {
    texts: DashMap<TextKey, Arc<Text>, RandomState>,
    /// By hash; on a collision the newer stays.
    known: DashMap<u64, Arc<Prepared>, RandomState>,
    hasher: RandomState,
    /// Of all texts, about.
    bytes: AtomicUsize,
    /// When unused texts were looked for in vain.
    in_vain: Mutex<Option<Instant>>,
    last_id: AtomicU64,
}

impl PreparedStatements {
    /// The shared text of a Parse. All of them take about `limit` bytes at most.
    ///
    /// # Errors
    /// 53400 if all that are there are in use and there is no room.
    pub fn text(&self, key: TextKey, limit: usize) -> Result<Arc<Text>, PgError> {
        if let Some(text) = self.texts.get(&key) {
            return Ok(Arc::clone(&text));
        }
        let size = footprint(&key);
        self.check_room(size, limit)?;
        let make = || {
            self.bytes.fetch_add(size, Ordering::Relaxed);
            let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
            let name = format!("sluice_{id}").into();
            let (valid, inferred) = (AtomicU64::new(0), OnceLock::new());
            Arc::new(Text { id, name, key: key.clone(), valid, inferred })
        };
        Ok(Arc::clone(&self.texts.entry(key.clone()).or_insert_with(make)))
    }

    /// Makes room for a text of so many bytes.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn check_room(&self, size: usize, limit: usize) -> Result<(), PgError> {
        let is_full = || self.bytes() + size > limit;
        if is_full() || self.texts.len() >= TEXTS {
            self.drop_unused();
        }
        if is_full() { Err(no_room(limit)) } else { Ok(()) }
    }

    /// A number that no other statement on servers has.
    pub fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A [`TextKey::schema`] that no other Parse has.
    pub fn own_schema(&self) -> u64 {
        (1 << 63) | self.last_id.fetch_add(1, Ordering::Relaxed)
    }

    /// About the memory that the texts take.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn drop_unused(&self) {
        let mut in_vain = self.in_vain.lock();
        if in_vain.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        let before = self.bytes();
        self.known.retain(|_, it| Arc::strong_count(it) > 1);
        self.texts.retain(|key, text| {
            let is_used = Arc::strong_count(text) > 1;
            if !is_used {
                self.bytes.fetch_sub(footprint(key), Ordering::Relaxed);
            }
            is_used
        });
        *in_vain = (self.bytes() >= before).then(Instant::now);
    }

    /// The statement of a Parse that was planned before.
    pub fn find(&self, parsed: &Parsed<'_>) -> Option<Arc<Prepared>> {
        let known = self.known.get(&self.hash(parsed))?;
        parsed.is_of(&known).then(|| Arc::clone(&known))
    }

    /// Takes in a statement that holds for every session which says the same.
    pub fn insert(&self, prepared: &Arc<Prepared>) {
        let key = &prepared.text.key;
        let parsed = Parsed {
            sql: &key.sql,
            types: &key.types,
            path: &key.path,
            database: &key.database,
            version: prepared.version,
        };
        if self.known.len() >= 2 * TEXTS {
            // Of older versions of the schema, most of them.
            self.known.retain(|_, it| Arc::strong_count(it) > 1);
        }
        self.known.insert(self.hash(&parsed), Arc::clone(prepared));
    }

    /// By statement: how often sessions have it under a name of theirs, or in a portal.
    pub fn uses(&self) -> HashMap<u64, usize> {
        let mut uses = HashMap::new();
        for prepared in &self.known {
            *uses.entry(prepared.text.id).or_default() += Arc::strong_count(prepared.value()) - 1;
        }
        uses
    }

    /// All texts, by id.
    pub fn texts(&self) -> Vec<Arc<Text>> {
        let mut texts: Vec<_> = self.texts.iter().map(|it| Arc::clone(it.value())).collect();
        texts.sort_by_key(|it| it.id);
        texts
    }

    fn hash(&self, parsed: &Parsed<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(parsed.sql);
        parsed.types.hash(&mut hasher);
        hasher.write(parsed.path.as_bytes());
        hasher.write(parsed.database.as_bytes());
        hasher.write_u64(parsed.version);
        hasher.finish()
    }
}

fn footprint(key: &TextKey) -> usize {
    key.sql.len() + key.path.len() + size_of_val(&*key.types) + OVERHEAD
}

fn no_room(limit: usize) -> PgError {
    PgError::limit(
        sqlstate::CONFIGURATION_LIMIT_EXCEEDED,
        "the prepared statements of all clients take too much memory",
        &"limits.statement_bytes",
        show_bytes(limit as u64),
    )
    .hint("DEALLOCATE statements that are not used, pass values as parameters, or raise limits.statement_bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cache::{CachedPlan, Verb};

    fn key(number: usize) -> TextKey {
        let sql = format!("SELECT {number:01000}").into();
        TextKey { sql, types: Vec::new(), path: String::new(), database: "app".into(), schema: 0 }
    }

    #[test]
    fn a_read_buffer_is_not_kept_alive() {
        let text = PreparedStatements::default().text(key(1), 1 << 20).unwrap();
        let buffer = Bytes::from([text.sql(), &[b'x'; 8192][..]].concat());
        for start in [0, 7] {
            let sql = buffer.slice(start..text.sql().len());
            let (plan, slots) = (Arc::default(), Box::default());
            let cached = CachedPlan { plan, slots, verb: Verb::Other, preparable: None };
            let statement = Statement::exact(&sql, Arc::new(cached));
            let prepared = Prepared::new(Arc::clone(&text), statement, 1);
            assert_eq!(prepared.statement.text, sql);
            drop(sql);
            assert!(buffer.is_unique());
        }
    }

    #[test]
    fn texts_in_use_are_bounded_and_others_make_room() {
        let statements = PreparedStatements::default();
        let limit = 64 * 1024;
        for number in 0..1000 {
            drop(statements.text(key(number), limit).unwrap());
            assert!(statements.bytes() <= limit);
        }
        let mut used = Vec::new();
        let error = loop {
            match statements.text(key(2000 + used.len()), limit) {
                Ok(text) => used.push(text),
                Err(error) => break error,
            }
        };
        assert!(used.len() > 20, "{}", used.len());
        assert_eq!(error.code, sqlstate::CONFIGURATION_LIMIT_EXCEEDED);
        assert!(Arc::ptr_eq(&statements.text(key(2000), limit).unwrap(), &used[0]));
        used.clear();
        std::thread::sleep(LOOK);
        statements.text(key(5000), limit).unwrap();
    }
}
