//! What a client is told when something takes too long, and who carries it out.

use std::sync::Arc;
use std::time::Duration;

use super::activity::{Allowed, Overdue};
use super::{Handle, Signals};
use crate::config::{Database, show_duration};
use crate::error::{PgError, sqlstate};
use crate::metrics::LimitMetrics;

impl Handle {
    /// Looks at what the session does; cancels it, or tells the session to end it, if that takes too
    /// long. `at` is in milliseconds of the sweeper's clock.
    pub fn sweep(
        self: &Arc<Self>,
        at: u64,
        allowed: &Allowed,
        database: &Database,
        metrics: &LimitMetrics,
    ) {
        let Some(overdue) = self.activity.judge(at, allowed) else { return };
        let error = error(overdue, allowed, database);
        if overdue != Overdue::Query {
            self.activity.sentence(overdue, error);
            return self.signals.raise(Signals::TIMEOUT);
        }
        // Its servers tell the truth about how it ended; without any it waits for one.
        let requests: Vec<_> = {
            let servers = self.servers.lock();
            if !self.activity.is_same() {
                return;
            }
            servers.iter().map(|it| it.begin_because(&error)).collect()
        };
        if requests.is_empty() {
            self.activity.sentence(overdue, error);
            return self.signals.raise(Signals::OVERDUE);
        }
        // The error comes from a server: nobody counts it later.
        metrics.count(&error);
        self.activity.cancelled();
        for request in requests {
            tokio::spawn(request.send());
        }
    }

    /// Has its servers end what they do, with this error.
    pub fn cancel_because(&self, error: &PgError) {
        let servers = self.servers.lock();
        for request in servers.iter().map(|it| it.begin_because(error)) {
            tokio::spawn(request.send());
        }
    }

    /// The error that ends the session, if one was raised and still holds.
    pub fn timeout(&self) -> Option<PgError> {
        if self.signals.take(Signals::TIMEOUT) { self.activity.verdict() } else { None }
    }

    /// The error that ends a wait for a server, if one was raised and still holds.
    pub fn overdue(&self) -> Option<PgError> {
        if self.signals.take(Signals::OVERDUE) { self.activity.verdict() } else { None }
    }
}

fn error(overdue: Overdue, allowed: &Allowed, database: &Database) -> PgError {
    let (own, all) = (&database.timeouts, &allowed.timeouts);
    match overdue {
        Overdue::Query => limit(
            (sqlstate::QUERY_CANCELED, "canceling statement due to query timeout"),
            (&"limits.query_timeout", all.query, own.query.is_some()),
            database,
        )
        .hint("make the statement faster, or raise the timeout"),
        Overdue::Stuck => {
            let error = limit(
                (sqlstate::QUERY_CANCELED, "terminating connection due to query timeout"),
                (&"limits.query_timeout", all.query, own.query.is_some()),
                database,
            );
            let detail = error.detail.clone().unwrap_or_default();
            error
                .detail(format!("{detail}; the statement did not end after it was cancelled"))
                .hint("whether it took effect is not known: look before repeating it")
                .fatal()
        }
        Overdue::Transaction => limit(
            (sqlstate::TRANSACTION_TIMEOUT, "terminating connection due to transaction timeout"),
            (&"limits.transaction_timeout", all.transaction, own.transaction.is_some()),
            database,
        )
        .hint("make transactions shorter, or raise the timeout")
        .fatal(),
        Overdue::IdleTransaction => limit(
            (
                sqlstate::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle-in-transaction timeout",
            ),
            (
                &"limits.idle_transaction_timeout",
                all.idle_transaction,
                own.idle_transaction.is_some(),
            ),
            database,
        )
        .hint("end transactions before waiting for something else, or raise the timeout")
        .fatal(),
        Overdue::ClientIdle => limit(
            (sqlstate::IDLE_SESSION_TIMEOUT, "terminating connection due to idle-session timeout"),
            (&"limits.client_idle_timeout", all.client_idle, own.client_idle.is_some()),
            database,
        )
        .hint("connect again; close connections that are not used, or raise the timeout")
        .fatal(),
        Overdue::Write => limit(
            (sqlstate::CONNECTION_FAILURE, "terminating connection: the client takes no data"),
            (&"limits.write_timeout", allowed.write, false),
            database,
        )
        .hint("read results as they come, or raise limits.write_timeout")
        .fatal(),
    }
}

/// The DETAIL names the key that holds: the database's own or the general one.
fn limit(
    (code, message): (&'static str, &str),
    (key, value, is_own): (&'static &'static str, Duration, bool),
    database: &Database,
) -> PgError {
    let value = show_duration(value);
    let error = PgError::limit(code, message, key, &value);
    let name = key.trim_start_matches("limits.");
    match is_own {
        true => error.detail(format!("{name} = {value} of database {:?}", database.name)),
        false => error,
    }
}
