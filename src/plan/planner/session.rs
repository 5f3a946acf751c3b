//! Statements about the session, EXPLAIN, PREPARE and cursors.

use std::ops::Range;
use std::sync::Arc;

use super::types::oid_of;
use super::{Planner, refuse};
use crate::error::PgError;
use crate::plan::gather::Runs;
use crate::plan::{Access, Action, Combine, Explained, Isolation, Local, Plan, Run, Scope, Uses};
use crate::sql::parse::tree::{
    Body, Explain, Expr, From, Kind, Modes, Query, Session, Statement, Stmt, TypeName,
};

/// Encodings whose characters may contain a backslash or quote byte: their text cannot be cut.
const UNSAFE_ENCODINGS: [&str; 7] = ["sjis", "shiftjis", "big5", "gbk", "uhc", "gb18030", "johab"];

impl Planner<'_> {
    pub(super) fn session(&self, it: &Session) -> Plan {
        match it {
            Session::Begin(modes) => {
                self.with_modes(modes, |read_only, isolation| Local::Begin { read_only, isolation })
            }
            Session::SetTransaction(modes) => self.with_modes(modes, |read_only, isolation| {
                Local::SetTransaction { read_only, isolation }
            }),
            Session::Commit { chain } => Plan::local(Local::Commit { chain: *chain }),
            Session::Rollback { chain } => Plan::local(Local::Rollback { chain: *chain }),
            Session::Savepoint(name) => Plan::local(Local::Savepoint(name.clone())),
            Session::RollbackTo(name) => Plan::local(Local::RollbackTo(name.clone())),
            Session::Release(name) => Plan::local(Local::Release(name.clone())),
            Session::TwoPhase("PREPARE TRANSACTION") if !self.sharded => {
                Plan::local(Local::PrepareTransaction)
            }
            Session::TwoPhase(_) if !self.sharded => Plan::run(Access::Write, Scope::Home),
            Session::TwoPhase(what) => Plan::forbidden(
                PgError::refused(format!("{what} is not supported"))
                    .detail("The proxy uses prepared transactions itself.")
                    .hint("Connect to the server directly."),
            ),
            Session::Set { name, value, is_local } => self.set(name, value.as_ref(), *is_local),
            Session::Reset(name) => reset(name.as_ref()),
            Session::Show(name) => match name.strip_prefix("sluice.") {
                Some(name) => Plan::local(Local::ShowSluice(name.to_owned())),
                None => Plan::run(Access::Read, Scope::Home),
            },
            Session::Discard("all") => Plan::local(Local::DiscardAll),
            Session::Discard(_) => self.everywhere(),
            Session::Prepare { name, types, inner } => self.prepare(name, types, inner),
            Session::Execute { name, .. } if !self.sharded => {
                let mut plan = Plan::run(Access::Write, Scope::Home);
                plan.uses = Some(Uses::Statement(name.clone()));
                plan.is_shareable = false;
                plan
            }
            Session::Declare { hold, inner, .. } if !self.sharded => {
                let mut plan = self.statement(inner);
                if matches!(plan.action, Action::Run(_)) {
                    let pin = plan.pin.or(hold.then_some("WITH HOLD cursor"));
                    plan = Plan { pin, ..Plan::run(Access::Write, Scope::Home) };
                }
                plan.is_shareable = false;
                plan
            }
            Session::Fetch(_) | Session::Close(_) if !self.sharded => {
                let mut plan = Plan::run(Access::Write, Scope::Home);
                plan.is_shareable = false;
                plan
            }
            Session::Execute { name, args, range } => self.execute(name, args, range.clone()),
            Session::Deallocate(name) => Plan::local(Local::Deallocate(name.clone())),
            Session::Declare { cursor, hold, inner } => self.declare(cursor, *hold, inner),
            Session::Fetch(name) => Plan::local(Local::Fetch(name.clone())),
            Session::Close(name) => Plan::local(Local::Close(name.clone())),
            Session::SetConstraints => self.everywhere(),
            Session::Listen(channel) => Plan::local(Local::Listen(channel.clone())),
            Session::Unlisten(channel) => Plan::local(Local::Unlisten(channel.clone())),
        }
    }

    /// The same on every shard that the session uses.
    fn everywhere(&self) -> Plan {
        if self.sharded {
            Plan::combined(Access::Write, Scope::All, Combine::Same)
        } else {
            Plan::run(Access::Write, Scope::Home)
        }
    }

    fn prepare(&self, name: &str, types: &[TypeName], inner: &Statement) -> Plan {
        let oid = |ty: &TypeName| {
            let own = || self.catalog.types.get(&ty.name).copied().filter(|_| !ty.is_array);
            oid_of(ty).or_else(own).unwrap_or(0)
        };
        Plan::local(Local::Prepare {
            name: name.to_owned(),
            types: types.iter().map(oid).collect(),
            statement: inner.range.clone(),
        })
    }

    fn execute(&self, name: &str, args: &[Expr], range: Option<Range<usize>>) -> Plan {
        let args = range.filter(|_| !args.is_empty());
        Plan::local(Local::Execute { name: name.to_owned(), args })
    }

    fn declare(&self, cursor: &str, hold: bool, inner: &Statement) -> Plan {
        let query = self.statement(inner);
        match &query.action {
            Action::Refuse(_) => query,
            Action::Run(run)
                if self.sharded
                    && run.scope == Scope::All
                    && !(run.access == Access::Read && run.gathered().is_some()) =>
            {
                Plan::refused(refuse::over_shards(
                    "a cursor of what is no plain read",
                    "Its rows are read once, on every shard, when it is declared.",
                ))
            }
            _ => {
                let mut plan = Plan::local(Local::Declare {
                    cursor: cursor.to_owned(),
                    query: Arc::new(query),
                    range: inner.range.clone(),
                    is_holdable: hold,
                });
                plan.pin = hold.then_some("WITH HOLD cursor");
                plan
            }
        }
    }

    /// EXPLAIN goes where the statement would go.
    pub(super) fn explain(&self, it: &Explain, range: &Range<usize>) -> Plan {
        if it.sluice {
            return Plan::local(Local::Explain(it.inner.range.clone()));
        }
        let mut inner = self.statement(&it.inner);
        inner.changes_schema &= it.analyze;
        inner.alters &= it.analyze;
        inner.pin = inner.pin.filter(|_| it.analyze);
        inner.sets = Vec::new();
        inner.is_shareable = false;
        let access = |run: &Run| if it.analyze { run.access } else { Access::Read };
        match &mut inner.action {
            Action::Run(Run { combine: Combine::Place(_), .. }) => {
                Plan::forbidden(super::sequences::not_alone())
            }
            Action::Run(run) => {
                run.access = access(run);
                let is_shown = match &run.combine {
                    Combine::Merge(_) | Combine::Sum | Combine::Same => true,
                    Combine::Gather(gather) => !it.analyze || gather.runs == Runs::Read,
                    _ => false,
                };
                if is_shown && it.is_text {
                    let options = range.start..it.inner.range.start;
                    run.explained = Some(Box::new(Explained {
                        options: self.sql.get(options).unwrap_or_default().to_owned(),
                        inner: self.sql.get(it.inner.range.clone()).unwrap_or_default().to_owned(),
                        runs: it.analyze,
                    }));
                    return inner;
                }
                let error = refuse::over_shards("EXPLAIN of this kind", "Each shard has a plan of its own.")
                    .hint("Write EXPLAIN (SLUICE), take FORMAT TEXT, or name one tenant in WHERE or SET sluice.tenant.");
                if run.scope == Scope::All {
                    return Plan::refused(error);
                }
                run.combine = Combine::Refuse(error);
                inner
            }
            Action::Refuse(_) => inner,
            // EXPLAIN EXECUTE, EXPLAIN DECLARE.
            Action::Local(_) if !self.sharded => {
                let mut plan = Plan::run(Access::Write, Scope::Home);
                plan.uses = executed(&it.inner.kind);
                plan.is_shareable = false;
                plan
            }
            Action::Local(_) => Plan::forbidden(
                PgError::refused("EXPLAIN of a prepared statement or a cursor is not supported")
                    .hint("EXPLAIN the statement itself."),
            ),
        }
    }
}

/// Whether the query is `SELECT pg_listening_channels()` or `SELECT * FROM` it and nothing more, which
/// the proxy answers itself: it is the proxy that listens.
pub(super) fn asks_channels(query: &Query) -> bool {
    let Query { with: None, body: Body::Select(select), order, limit: None, offset: None, .. } =
        query
    else {
        return false;
    };
    let [target] = select.targets.as_slice() else { return false };
    let is_bare = select.filter.is_none()
        && select.group.is_empty()
        && select.having.is_none()
        && order.is_empty();
    let call = match select.from.as_slice() {
        [] => &target.expr,
        [From::Function { calls, .. }] if matches!(target.expr.kind, Kind::Star(_)) => {
            match calls.as_slice() {
                [call] => call,
                _ => return false,
            }
        }
        _ => return false,
    };
    let is_asked = matches!(&call.kind, Kind::Call(it) if it.name == "pg_listening_channels"
        && it.schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
        && it.args.is_empty());
    is_bare && is_asked
}

/// Any other use of the function would be answered by a server, which does not listen.
pub(super) fn channels_refused() -> PgError {
    PgError::refused("pg_listening_channels() is supported as the only item of a SELECT alone")
        .detail("The proxy listens for its clients; a server does not know their channels.")
        .hint("Write SELECT pg_listening_channels().")
}

fn isolation(name: &str) -> Option<Isolation> {
    Some(match name.to_ascii_lowercase().as_str() {
        "read uncommitted" => Isolation::ReadUncommitted,
        "read committed" => Isolation::ReadCommitted,
        "repeatable read" => Isolation::RepeatableRead,
        "serializable" => Isolation::Serializable,
        _ => return None,
    })
}

impl Planner<'_> {
    fn with_modes(
        &self,
        modes: &Modes,
        local: impl FnOnce(Option<bool>, Option<Isolation>) -> Local,
    ) -> Plan {
        let level = modes.isolation.as_deref().map(isolation);
        let is_known = !modes.unknown && modes.deferrable != Some(true) && level != Some(None);
        if self.sharded && !is_known {
            return Plan::forbidden(
                PgError::refused("this transaction mode is not supported")
                    .detail("A snapshot or a deferrable transaction belongs to one server.")
                    .hint("Use READ ONLY, READ WRITE and ISOLATION LEVEL."),
            );
        }
        Plan::local(local(modes.read_only, level.flatten()))
    }

    fn set(&self, name: &str, value: Option<&String>, is_local: bool) -> Plan {
        if let Some(own) = name.strip_prefix("sluice.") {
            return Plan::local(Local::SetSluice {
                name: own.to_owned(),
                value: value.cloned(),
                is_local,
            });
        }
        let mut plan =
            Plan::local(Local::Set { name: name.to_owned(), value: value.cloned(), is_local });
        match forbidden(name, value) {
            Some(error) if self.sharded => Plan::forbidden(error),
            // The one server reads the text in any case; what is read of it here may be wrong.
            Some(_) => {
                plan.pin = Some("text that is read otherwise");
                plan
            }
            None => plan,
        }
    }
}

/// The prepared statement that EXPLAIN EXECUTE or CREATE TABLE AS EXECUTE runs.
pub(super) fn executed(statement: &Stmt) -> Option<Uses> {
    match statement {
        Stmt::Session(Session::Execute { name, .. }) => Some(Uses::Statement(name.clone())),
        Stmt::Explain(it) => executed(&it.inner.kind),
        Stmt::CreateAs(it) => executed(&it.query),
        _ => None,
    }
}

fn reset(name: Option<&String>) -> Plan {
    match name.and_then(|it| it.strip_prefix("sluice.")) {
        Some(own) => {
            Plan::local(Local::SetSluice { name: own.to_owned(), value: None, is_local: false })
        }
        None => Plan::local(Local::Reset(name.cloned())),
    }
}

/// Settings under which the proxy would read another text than the server.
fn forbidden(name: &str, value: Option<&String>) -> Option<PgError> {
    let value = value.map(|it| it.to_ascii_lowercase()).unwrap_or_default();
    let is_off =
        ["off", "false", "no", "0", "f", "n", "of", "fal", "fals"].contains(&value.as_str());
    if name == "standard_conforming_strings" && is_off {
        return Some(
            PgError::refused("standard_conforming_strings = off is not supported")
                .detail("Backslashes in string literals would be read differently.")
                .hint("Write E'…' where a backslash escapes."),
        );
    }
    let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
    (name == "client_encoding" && UNSAFE_ENCODINGS.contains(&plain.as_str())).then(|| {
        PgError::refused(format!("client_encoding {value} is not supported"))
            .detail("Bytes of its characters look like quotes and backslashes.")
            .hint("Use UTF8.")
    })
}
