//! A statement of the simple protocol that runs as a prepared one: its literals become parameters of a
//! statement that all clients share (`database.auto_prepare`).
//!
//! The client sees what it would of its Query. Until the server has taken the values nothing has run
//! and nothing was told: an error up to there is kept from the client, and the Query goes as it is.
//! This is for statements outside of a transaction only, since an error would end that.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::Session;
use super::extended::batch::{self, Fresh};
use crate::plan::cache::CachedPlan;
use crate::plan::{Columns, Preparable};
use crate::server::{IDENTITY, Server, Statements, Unprepared};
use crate::sql::fingerprint::Slot;
use crate::wire::frontend;
use crate::wire::frontend::Target;
use crate::wire::pipeline::Action;

/// A statement that runs as a prepared one.
pub(super) struct Spliced {
    cached: Arc<CachedPlan>,
    slots: SmallVec<[Slot; 8]>,
    /// Its number among the statements on servers.
    pub(super) number: u64,
}

impl Session {
    /// The prepared form of a statement, if it has one for this session.
    pub(super) fn splice(
        &self,
        cached: &Arc<CachedPlan>,
        sql: &str,
        slots: &[Slot],
    ) -> Option<Box<Spliced>> {
        let preparable = cached.preparable.as_ref()?;
        if !self.may_splice() || !preparable.fits(sql, slots) {
            return None;
        }
        let first = preparable.number(|| self.proxy.prepared.next_id());
        // A statement prepared before DDL need not mean the same after it.
        let altered = self.database.state.altered.load(Ordering::Acquire);
        let number = (1 << 63) | (first << 20) | (altered & 0xf_ffff);
        Some(Box::new(Spliced { cached: Arc::clone(cached), slots: slots.into(), number }))
    }

    fn may_splice(&self) -> bool {
        !self.sends_as_is
            && self.tx.is_none()
            && self.pin.is_none()
            && self.cluster.config.pool.prepared_statements > 0
            && IDENTITY.iter().all(|it| !self.settings.contains_key(*it))
    }
}

impl Spliced {
    /// Queues the statement of a Query message on a server. `fresh` gets its number if the server
    /// lacked it.
    pub(super) fn push(&self, server: &mut Server, message: &[u8], fresh: &mut Fresh) {
        let sql = frontend::view::query(message).ok().and_then(|it| std::str::from_utf8(it).ok());
        let (Some(preparable), Some(sql)) = (&self.cached.preparable, sql) else { return };
        let name = Statements::name(self.number);
        if !server.statements.touch(self.number) {
            self.prepare(preparable, server, name.as_bytes());
            fresh.push(self.number);
        }
        let values = preparable.values(sql, &self.slots);
        server.push_with(b'B', Action::Skip, |out| {
            frontend::bind_texts(out, name.as_bytes(), values);
        });
        if preparable.columns != Columns::None {
            server.push_with(b'D', Action::Forward, |out| {
                frontend::describe(out, Target::Portal, b"");
            });
        }
        server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", 0));
        server.push_with(b'S', Action::Forward, frontend::sync);
        server.answer_as_query(preparable.columns == Columns::Last);
    }

    fn prepare(&self, preparable: &Preparable, server: &mut Server, name: &[u8]) {
        if let Some(old) = server.statements.insert(self.number) {
            let name = Statements::name(old);
            server.push_with(b'C', Action::Skip, |out| {
                frontend::close(out, Target::Statement, name.as_bytes());
            });
        }
        server.push_with(b'P', Action::Skip, |out| {
            frontend::parse(out, name, &preparable.sql, preparable.types.iter().copied());
        });
    }

    /// The server did not take it: it must not think that it has what it may not have.
    pub(super) async fn leave(&self, server: &mut Server, why: Unprepared) {
        match (why, &self.cached.preparable) {
            (Unprepared::Value, _) | (_, None) => return,
            (Unprepared::Parse, Some(preparable)) => preparable.refuse(),
            (Unprepared::Statement, Some(_)) => (),
        }
        batch::forget(server, &[self.number]).await;
    }
}
