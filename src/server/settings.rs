//! The settings a session has made, and the statements that bring a server to them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

/// Different settings that are kept for sharing.
const SHARED: usize = 1000;

/// How a setting is made on a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Setting {
    /// By a client's own `SET …` statement.
    Statement(String),
    /// By its value, as a start-up packet gives it.
    Value(String),
}

/// Settings by lower-case name; shared between a session and the servers it has used.
pub type Settings = Arc<BTreeMap<String, Setting>>;

/// Settings that several sessions have are one object, so that a server is seen to have them by a look
/// at the pointers.
#[derive(Debug, Default)]
pub struct SharedSettings(Mutex<HashSet<Settings>>);

impl SharedSettings {
    /// The one object with these settings.
    pub fn intern(&self, settings: Settings) -> Settings {
        let mut known = self.0.lock();
        if let Some(known) = known.get(&settings) {
            return Arc::clone(known);
        }
        if known.len() >= SHARED {
            known.retain(|it| Arc::strong_count(it) > 1);
        }
        if known.len() < SHARED {
            known.insert(Arc::clone(&settings));
        }
        settings
    }
}

/// The SQL that brings a server with the settings `from` to `to`; `None` if there is no difference.
/// Role and session authorization come last, so that the other settings are made with the
/// connection's own rights.
pub fn difference(from: &Settings, to: &Settings) -> Option<String> {
    if Arc::ptr_eq(from, to) || from == to {
        return None;
    }
    let is_identity = |name: &str| matches!(name, "role" | "session_authorization");
    let mut sql = Vec::new();
    for identity in [true, false] {
        let gone = from.keys().filter(|it| !to.contains_key(*it) && is_identity(it) == identity);
        sql.extend(gone.map(|name| reset(name)));
    }
    for identity in [false, true] {
        let new = to.iter().filter(|(name, it)| from.get(*name) != Some(*it));
        let new = new.filter(|(name, _)| is_identity(name) == identity);
        sql.extend(new.map(|(name, setting)| set(name, setting)));
    }
    Some(sql.join("; "))
}

fn reset(name: &str) -> String {
    match name {
        "session characteristics" => {
            "RESET default_transaction_isolation; RESET default_transaction_read_only; \
             RESET default_transaction_deferrable"
                .into()
        }
        name => format!("RESET {}", quote_name(name)),
    }
}

fn set(name: &str, setting: &Setting) -> String {
    match setting {
        Setting::Statement(sql) => sql.clone(),
        Setting::Value(value) => {
            format!("SELECT pg_catalog.set_config({}, {}, false)", quote(name), quote(value))
        }
    }
}

/// A string literal that reads alike under any `standard_conforming_strings`.
pub fn quote(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// Each part of a dotted name, quoted.
fn quote_name(name: &str) -> String {
    let quoted: Vec<String> =
        name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    quoted.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, Setting)]) -> Settings {
        Arc::new(pairs.iter().map(|(name, it)| ((*name).to_owned(), it.clone())).collect())
    }

    #[test]
    fn only_differences_are_sent() {
        let none = settings(&[]);
        let some = settings(&[
            ("role", Setting::Statement("SET ROLE bob".into())),
            ("search_path", Setting::Value("a,b".into())),
        ]);
        assert_eq!(difference(&none, &none), None);
        assert_eq!(difference(&some, &settings(&some_pairs(&some))), None);
        assert_eq!(
            difference(&none, &some).unwrap(),
            "SELECT pg_catalog.set_config('search_path', 'a,b', false); SET ROLE bob"
        );
        assert_eq!(difference(&some, &none).unwrap(), "RESET \"role\"; RESET \"search_path\"");
    }

    fn some_pairs(settings: &Settings) -> Vec<(&str, Setting)> {
        settings.iter().map(|(name, it)| (name.as_str(), it.clone())).collect()
    }

    #[test]
    fn quoting() {
        assert_eq!(quote("it's"), "'it''s'");
        assert_eq!(quote(r"a\'b"), r"E'a\\''b'");
        assert_eq!(reset("app.tenant"), "RESET \"app\".\"tenant\"");
    }
}
