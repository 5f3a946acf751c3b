//! What statements leave behind in a session: pins, and settings that only the server knows.
//!
//! A statement that was not understood in full leaves a *doubt*. Before its server is given back the
//! server is asked once for everything that makes a session's state; settings are adopted, anything
//! else ties the session to the server.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Session;
use crate::config::PoolMode;
use crate::error::{PgError, sqlstate};
use crate::plan::Plan;
use crate::pool::cluster::Host;
use crate::server::{Server, Setting};
use crate::sql::name::quoted_text;

/// Why a session that asks for `currval` keeps its server.
const SEQUENCE: &str = "sequence state";

/// Reasons that the server can be asked about, so that a pin ends with them.
pub(super) const TEMPORARY: [&str; 5] = [
    "temporary table",
    "temporary view",
    "temporary sequence",
    "session advisory lock",
    "WITH HOLD cursor",
];

/// What ties a session to its server, as the server tells it.
const KEPT: &str = "SELECT 'k', 'WITH HOLD cursor', '' FROM pg_catalog.pg_cursors WHERE is_holdable \
    UNION ALL SELECT 'k', 'session advisory lock', '' FROM pg_catalog.pg_locks \
    WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() \
    UNION ALL SELECT 'k', 'temporary table', '' FROM pg_catalog.pg_class \
    WHERE relnamespace = pg_catalog.pg_my_temp_schema() \
    UNION ALL SELECT 'k', 'temporary function', '' FROM pg_catalog.pg_proc \
    WHERE pronamespace = pg_catalog.pg_my_temp_schema() \
    UNION ALL SELECT 'k', 'LISTEN', '' FROM pg_catalog.pg_listening_channels()";

/// Settings made in the session; those of names that nobody has defined are not listed.
const SET: &str = "SELECT 's', pg_catalog.lower(name), setting FROM pg_catalog.pg_settings \
    WHERE source = 'session' AND name NOT LIKE 'transaction\\_%' \
    UNION ALL SELECT 's', 'role', pg_catalog.current_setting('role') \
    WHERE pg_catalog.current_setting('role') <> 'none'";

/// A session's state on a server.
struct State {
    settings: BTreeMap<String, Setting>,
    keeps: Option<String>,
}

impl Session {
    /// The server is to be asked before it is given back; for these settings, too.
    pub(super) fn doubt(&mut self, names: impl IntoIterator<Item = String>) {
        self.doubt.get_or_insert_default().extend(names);
    }

    /// Ties the session to its server.
    pub(super) fn pin_for(&mut self, reason: &'static str) {
        self.is_pinned_for_good |= !TEMPORARY.contains(&reason);
        if self.pin.is_none() {
            self.pin = Some(reason);
            self.handle.state.lock().pin = Some(reason);
            let metrics = &self.database.state.metrics;
            metrics.pins(reason).inc();
            metrics.pinned.inc();
        }
    }

    /// Whether what ties the session to its server may end with the statement.
    pub(super) fn may_unpin(&self, sql: &str) -> bool {
        if self.pin.is_none() || self.is_pinned_for_good {
            return false;
        }
        let begins = |word: &str| {
            sql.trim_start().get(..word.len()).is_some_and(|it| it.eq_ignore_ascii_case(word))
        };
        ["drop", "discard", "close"].into_iter().any(begins) || sql.contains("advisory_unlock")
    }

    /// The session may have any server again.
    pub(super) fn unpin(&mut self) {
        self.is_pinned_for_good = false;
        if self.pin.take().is_some() {
            self.handle.state.lock().pin = None;
            self.database.state.metrics.pinned.dec();
        }
    }

    /// Before a statement runs: refuses what would tie the session to its server where the
    /// configuration does not allow it, and leaves the database that the statement wants left.
    pub(super) fn check_pin(&mut self, plan: &Plan) -> Result<(), PgError> {
        if let Some(name) = &plan.leaves {
            self.leave_database(name);
        }
        let is_free = self.pin.is_none() && self.database.mode == PoolMode::Transaction;
        let Some(reason) = plan.pin.filter(|_| is_free) else { return Ok(()) };
        if reason == SEQUENCE {
            self.hide_sequences();
        }
        let config = &self.cluster.config;
        let metrics = &self.database.state.metrics;
        if !config.pool.may_pin {
            metrics.pins_refused.inc();
            return Err(PgError::refused(format!(
                "the statement would tie the session to its server: {reason}"
            ))
            .detail("pool.pin = \"refuse\"")
            .hint(
                "do without session state, or connect to a database with pool_mode = \"session\"",
            ));
        }
        let limit = config.limits.pinned.unwrap_or(usize::MAX);
        if usize::try_from(metrics.pinned.get()).is_ok_and(|it| it >= limit) {
            metrics.pins_refused.inc();
            return Err(PgError::limit(
                sqlstate::CONFIGURATION_LIMIT_EXCEEDED,
                format!("too many sessions are tied to a server already; this one would be for: {reason}"),
                &"limits.pinned",
                limit,
            )
            .hint("end such sessions with DISCARD ALL when they are done, or raise limits.pinned"));
        }
        Ok(())
    }

    /// Idle connections to a database on this session's servers are not in the way of who drops it.
    fn leave_database(&self, name: &str) {
        let place = |it: &Host| (it.address.host.clone(), it.address.port);
        let places: Vec<_> = self.database.hosts().map(|it| place(it)).collect();
        let hosts = self.cluster.hosts().filter(|it| it.address.database == name);
        hosts.filter(|it| places.contains(&place(it))).for_each(Host::leave);
    }

    /// Asks the server what the session has made of it.
    pub(super) async fn settle_doubt(&mut self) {
        let Some(mut names) = self.doubt.take().map(|it| *it) else { return };
        if self.database.mode == PoolMode::Session || self.is_pinned_for_good {
            return;
        }
        let home = self.database.config.home_shard;
        let mut members = self.members.iter_mut();
        let Some(member) = members.find(|it| it.shard == home && it.is_primary) else { return };
        let server = member.lease.server();
        names.extend(self.settings.keys().chain(server.settings.keys()).cloned());
        match ask(server, names).await {
            Ok(state) => {
                let mut settings = state.settings;
                // Who the session is cannot be asked for: it is as SET has told.
                if let Some(it) = self.settings.get("session_authorization") {
                    settings.insert("session_authorization".to_owned(), it.clone());
                }
                self.settings = Arc::new(settings);
                server.settings = Arc::clone(&self.settings);
                match state.keeps {
                    Some(reason) => self.pin_for(known(&reason)),
                    // Another shard's server may have one.
                    None if !self.held_cursors.is_empty() => (),
                    None => self.unpin(),
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a session's state could not be read");
                self.pin_for("a state that could not be read");
            }
        }
    }
}

fn known(reason: &str) -> &'static str {
    TEMPORARY.iter().find(|it| **it == reason).copied().unwrap_or("state made by a function")
}

async fn ask(server: &mut Server, mut names: Vec<String>) -> Result<State, PgError> {
    names.retain(|it| it.contains('.'));
    names.sort_unstable();
    names.dedup();
    let mut sql = format!("{SET} UNION ALL {KEPT}");
    for name in names {
        let name = quoted_text(&name);
        sql.push_str(&format!(
            " UNION ALL SELECT 's', {name}, pg_catalog.current_setting({name}, true)"
        ));
    }
    let failed = server.has_failed();
    let rows = server.rows(&sql).await?;
    server.begin_request();
    if failed {
        server.mark_failed();
    }
    let mut state = State { settings: BTreeMap::new(), keeps: None };
    for row in rows {
        let [Some(kind), Some(name), Some(value)] = row.as_slice() else { continue };
        if kind == "k" {
            state.keeps.get_or_insert_with(|| name.clone());
        } else {
            state.settings.insert(name.clone(), Setting::Value(value.clone()));
        }
    }
    Ok(state)
}
