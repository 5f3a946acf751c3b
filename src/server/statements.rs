//! Which prepared statements exist on a server: a bounded set, the least recently used goes first.

use std::collections::HashMap;
use std::sync::Arc;

/// The ids of statements prepared on one server under names of our own.
#[derive(Debug)]
pub struct Statements {
    limit: usize,
    clock: u64,
    used: HashMap<u64, u64, foldhash::fast::FixedState>,
    /// The statement that the unnamed one is now.
    pub unnamed: Option<u64>,
    /// Statements under names of clients, by SQL-level PREPARE: what they were made of.
    pub named: HashMap<String, Arc<str>>,
}

impl Statements {
    /// An empty set for at most `limit` statements (at least one).
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            clock: 0,
            used: HashMap::default(),
            unnamed: None,
            named: HashMap::new(),
        }
    }

    /// The name of a statement on servers.
    pub fn name(id: u64) -> String {
        format!("sluice_{id}")
    }

    /// Whether the statement is prepared; if so it counts as used now.
    pub fn touch(&mut self, id: u64) -> bool {
        self.clock += 1;
        match self.used.get_mut(&id) {
            Some(at) => {
                *at = self.clock;
                true
            }
            None => false,
        }
    }

    /// Notes a statement as prepared; returns one that must be closed to stay within the limit.
    pub fn insert(&mut self, id: u64) -> Option<u64> {
        self.clock += 1;
        let oldest = match self.used.len() >= self.limit && !self.used.contains_key(&id) {
            true => self.used.iter().min_by_key(|(_, at)| **at).map(|(id, _)| *id),
            false => None,
        };
        if let Some(oldest) = oldest {
            self.used.remove(&oldest);
        }
        self.used.insert(id, self.clock);
        oldest
    }

    /// Notes that a statement is not, or no longer, prepared.
    pub fn remove(&mut self, id: u64) {
        self.used.remove(&id);
    }

    /// Names that must be deallocated before a client's own can have `name`.
    pub fn take_name(&mut self, name: &str) -> Vec<String> {
        let mut taken: Vec<String> =
            self.named.remove_entry(name).into_iter().map(|it| it.0).collect();
        if self.named.len() >= self.limit {
            let other = self.named.keys().next().cloned();
            taken.extend(other.inspect(|it| drop(self.named.remove(it))));
        }
        taken
    }

    /// Takes out all but those that are a client's own; gives their names on the server.
    pub fn take_others(&mut self, is_own: impl Fn(&str, &Arc<str>) -> bool) -> Vec<String> {
        let mut names: Vec<String> = self.used.drain().map(|(id, _)| Self::name(id)).collect();
        let others = self.named.extract_if(|name, text| !is_own(name, text));
        names.extend(others.map(|(name, _)| name));
        names
    }

    /// Forgets all: after DISCARD ALL or DEALLOCATE ALL.
    pub fn clear(&mut self) {
        self.used.clear();
        self.named.clear();
        self.unnamed = None;
    }

    /// The prepared statements.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.used.keys().copied()
    }

    /// The number of prepared statements.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes() {
        let mut statements = Statements::new(2);
        assert_eq!(statements.insert(1), None);
        assert_eq!(statements.insert(2), None);
        assert!(statements.touch(1));
        assert_eq!(statements.insert(3), Some(2));
        assert!(!statements.touch(2));
        assert_eq!(statements.insert(3), None);
        assert_eq!(statements.len(), 2);
    }
}
