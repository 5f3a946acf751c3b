//! The settings a session has made, and the statements that bring a server to them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::sql::name::{quoted, quoted_text};

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

/// Who the session is, in the order in which it is said.
pub const IDENTITY: [&str; 2] = ["session_authorization", "role"];

/// The SQL that brings a server with the settings `from` to `to`; `None` if there is no difference.
/// Session authorization and role, which it resets, come last, so that the other settings are made
/// with the connection's own rights.
pub fn difference(from: &Settings, to: &Settings) -> Option<String> {
    if Arc::ptr_eq(from, to) || from == to {
        return None;
    }
    let own = |name: &&String| !IDENTITY.contains(&name.as_str());
    let mut sql = Vec::new();
    sql.extend(IDENTITY.iter().rev().filter(|it| from.contains_key(**it)).map(|it| reset(it)));
    sql.extend(from.keys().filter(own).filter(|it| !to.contains_key(*it)).map(|it| reset(it)));
    let new = to.iter().filter(|(name, it)| own(name) && from.get(*name) != Some(*it));
    sql.extend(new.map(|(name, setting)| set(name, setting)));
    sql.extend(IDENTITY.iter().filter_map(|name| Some(set(name, to.get(*name)?))));
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
            format!(
                "SELECT pg_catalog.set_config({}, {}, false)",
                quoted_text(name),
                quoted_text(value)
            )
        }
    }
}

/// Each part of a dotted name, quoted.
fn quote_name(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(quoted).collect();
    parts.join(".")
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
        assert_eq!(quoted_text("it's"), "'it''s'");
        assert_eq!(quoted_text(r"a\'b"), r"E'a\\''b'");
        assert_eq!(reset("app.tenant"), "RESET \"app\".\"tenant\"");
    }
}
