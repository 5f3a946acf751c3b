//! Transactions: opened by the proxy, joined by shards at their first statement, ended on all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::cursors::Cursor;
use super::failover::{in_doubt, is_loss};
use super::{Routing, Session};
use crate::catalog::Catalog;
use crate::error::{PgError, sqlstate};
use crate::exec::two_phase::{self, Gid, Outcome, recovery};
use crate::exec::{Failure, relay};
use crate::plan::Isolation;
use crate::server::{Setting, Settings};
use crate::shard::ShardId;
use crate::wire::backend;
use crate::wire::pipeline::Action;

/// How long a decided commit waits for a shard that was lost on the way, and between two attempts.
const FINISH: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// The schema as an open block sees it.
#[derive(Clone, Default)]
pub(super) enum SchemaOfBlock {
    /// As everybody sees it.
    #[default]
    Unchanged,
    /// The block has changed it and has not looked yet.
    Changed,
    /// As the block sees it.
    Read(Arc<Catalog>),
}

/// An open transaction block.
pub(super) struct Transaction {
    /// The request that opened it.
    pub(super) number: u64,
    /// What a shard is sent when it joins.
    pub(super) begin: String,
    /// Opened by the client's BEGIN, not by a string of several statements or a split write.
    pub(super) is_explicit: bool,
    pub(super) read_only: Option<bool>,
    pub(super) isolation: Option<Isolation>,
    pub(super) has_failed: bool,
    /// SET LOCAL, SET TRANSACTION and SAVEPOINT so far, for shards that join later.
    pub(super) replay: Vec<String>,
    savepoints: Vec<Savepoint>,
    /// LISTEN and UNLISTEN so far, which take effect with COMMIT.
    pub(super) listens: Vec<super::listen::Change>,
    /// As they were at BEGIN.
    settings: Settings,
    routing: Routing,
    pub(super) cursors: HashMap<String, Cursor>,
    /// How many cursors were declared.
    pub(super) declared: usize,
    /// Tables of the home shard that are bound to rows of others unless they become sharded.
    pub(super) bound: Vec<String>,
}

impl Transaction {
    /// The session's settings when the block was opened.
    pub(super) fn settings_at_begin(&self) -> &Settings {
        &self.settings
    }
}

struct Savepoint {
    name: String,
    /// How many cursors were declared before it.
    declared: usize,
    /// Length of `replay` after it.
    replay: usize,
    /// Length of `listens`.
    listens: usize,
    settings: Settings,
    routing: Routing,
}

impl Session {
    /// Opens a block. Nothing is sent yet.
    pub(super) fn begin(
        &mut self,
        begin: &str,
        is_explicit: bool,
        read_only: Option<bool>,
        isolation: Option<Isolation>,
    ) {
        {
            let mut state = self.handle.state.lock();
            state.in_transaction = true;
            state.mark = None;
        }
        self.tx = Some(Box::new(Transaction {
            number: self.queries,
            begin: begin.to_owned(),
            is_explicit,
            read_only,
            isolation,
            has_failed: false,
            replay: Vec::new(),
            savepoints: Vec::new(),
            listens: Vec::new(),
            settings: Arc::clone(&self.settings),
            routing: self.routing.clone(),
            cursors: HashMap::new(),
            declared: 0,
            bound: Vec::new(),
        }));
    }

    /// Opens a block of the proxy's own, around statements that must happen together.
    pub(super) fn begin_implicit(&mut self) {
        if self.tx.is_none() {
            self.begin("BEGIN", false, None, None);
        }
    }

    /// The isolation level in force, as far as the session has said one.
    pub(super) fn isolation(&self) -> Option<Isolation> {
        if let Some(level) = self.tx.as_ref().and_then(|tx| tx.isolation) {
            return Some(level);
        }
        let text = |name| match self.settings.get(name) {
            Some(Setting::Statement(text) | Setting::Value(text)) => Some(text.to_lowercase()),
            None => None,
        };
        let said =
            text("default_transaction_isolation").or_else(|| text("session characteristics"))?;
        match said {
            it if it.contains("serializable") => Some(Isolation::Serializable),
            it if it.contains("repeatable") => Some(Isolation::RepeatableRead),
            _ => None,
        }
    }

    /// Whether the transaction is read only, so that replicas may serve it.
    pub(super) fn is_read_only(&self) -> bool {
        let by_default = || {
            matches!(self.settings.get("default_transaction_read_only"),
                Some(Setting::Value(it)) if matches!(it.as_str(), "on" | "true" | "1" | "yes"))
        };
        self.tx.as_ref().is_some_and(|tx| tx.read_only.unwrap_or_else(by_default))
    }

    /// Marks the block as failed, if there is one.
    pub(super) fn fail_transaction(&mut self) {
        if let Some(tx) = &mut self.tx {
            tx.has_failed = true;
        }
    }

    /// An error unless the session may run statements.
    pub(super) fn check_not_failed(&self) -> Result<(), PgError> {
        match &self.tx {
            Some(tx) if tx.has_failed && !self.server_has_failed() => Err(in_failed_block()),
            _ => Ok(()),
        }
    }

    /// Ends the block with COMMIT; in a failed one that is a rollback. Gives the command tag.
    ///
    /// # Errors
    /// If it could not be committed; it is rolled back then, except for 08007.
    pub(super) async fn commit(&mut self) -> Result<&'static str, Failure> {
        let checked = self.check_bound().await;
        let Some(tx) = self.tx.take() else { return Ok("COMMIT") };
        self.handle.state.lock().in_transaction = false;
        self.database.state.metrics.transactions.inc();
        self.end_portals();
        if tx.has_failed {
            self.undo(tx).await;
            return Ok("ROLLBACK");
        }
        if let Err(failure) = checked {
            self.undo(tx).await;
            return Err(failure);
        }
        if let Err(error) = self.prepare_listens(&tx.listens).await {
            self.undo(tx).await;
            return Err(error.into());
        }
        self.announce().await;
        let committed = match self.commit_held(&tx.cursors).await {
            Ok(()) => {
                let writers = self.members.iter().filter(|it| it.in_tx && it.wrote).count();
                match writers {
                    0 | 1 => self.commit_one().await,
                    _ => self.commit_many().await,
                }
            }
            Err(failure) => Err(failure),
        };
        match committed {
            Ok(()) => {
                self.apply_listens(&tx.listens);
                self.committed(&tx).await;
                Ok("COMMIT")
            }
            Err(Failure::Gone) => Err(Failure::Gone),
            Err(failure) => {
                self.note_written();
                self.drop_held(&tx.cursors).await;
                self.undo(tx).await;
                Err(failure)
            }
        }
    }

    /// What holds once every member has committed.
    async fn committed(&mut self, tx: &Transaction) {
        self.note_committed();
        self.note_written();
        for member in self.members.iter_mut().filter(|it| it.in_tx) {
            member.in_tx = false;
        }
        self.hold_cursors(&tx.cursors);
        // What was set inside is in force on every server that took part.
        self.mark_settings();
        self.end_of_alteration();
        if std::mem::take(&mut self.reload_at_commit) {
            self.reload_after_ddl().await;
        }
    }

    /// What holds once every member has rolled back.
    fn rolled_back(&mut self, tx: Box<Transaction>) {
        self.schema_of_block = SchemaOfBlock::Unchanged;
        self.reload_at_commit = false;
        // A server that joined late was given the settings of that moment, outside of the block.
        self.settings = tx.settings;
        self.routing = tx.routing;
        self.doubt_held(&tx.cursors);
    }

    /// The one server has ended the block.
    pub(super) async fn block_over(&mut self, tx: Box<Transaction>, committed: bool) {
        self.handle.state.lock().in_transaction = false;
        self.database.state.metrics.transactions.inc();
        self.end_portals();
        if committed {
            self.committed(&tx).await;
        } else {
            self.members.iter_mut().for_each(|it| it.in_tx = false);
            self.rolled_back(tx);
        }
    }

    /// One shard wrote, or none: the writer commits first, as the readers cannot fail.
    async fn commit_one(&mut self) -> Result<(), Failure> {
        let mut order: Vec<usize> =
            (0..self.members.len()).filter(|at| self.members[*at].in_tx).collect();
        order.sort_by_key(|at| !self.members[*at].wrote);
        let mut first = true;
        for at in order {
            let member = &mut self.members[at];
            let server = member.lease.server();
            let is_failed = server.tx() == crate::wire::pipeline::TxStatus::Failed;
            server.push_query("COMMIT", Action::Forward);
            let mut failed = None;
            loop {
                let (tag, frame) = match relay::next_frame(server, &mut self.client).await {
                    Ok(Some(next)) => next,
                    Ok(None) => break,
                    Err(Failure::Error(error)) if first && member.wrote && is_loss(&error) => {
                        return Err(in_doubt(error, "the transaction").into());
                    }
                    // It has happened: who only read adds nothing to it.
                    Err(Failure::Error(_)) if !first => {
                        server.set_broken();
                        break;
                    }
                    Err(failure) => return Err(failure),
                };
                match tag {
                    b'E' => failed = Some(Failure::Server(frame)),
                    b'N' | b'A' | b'S' => self.client.out.extend_from_slice(&frame),
                    _ => (),
                }
            }
            member.in_tx = false;
            if is_failed && failed.is_none() && first {
                failed = Some(
                    PgError::new(
                        sqlstate::IN_FAILED_SQL_TRANSACTION,
                        "the transaction had failed and was rolled back",
                    )
                    .into(),
                );
            }
            if let Some(failed) = failed.filter(|_| first) {
                return Err(failed);
            }
            first = false;
        }
        Ok(())
    }

    async fn commit_many(&mut self) -> Result<(), Failure> {
        self.check_two_phase()?;
        let mut number = [0; 16];
        getrandom::fill(&mut number)
            .map_err(|error| PgError::new(sqlstate::INTERNAL_ERROR, error.to_string()))?;
        let home = self.database.config.home_shard;
        self.lock_commit().await?;
        let mut writers: Vec<_> =
            self.members.iter_mut().filter(|it| it.in_tx && it.wrote).collect();
        // The last one decides and is not prepared, which a transaction with NOTIFY cannot be.
        writers.sort_by_key(|it| it.shard == home);
        let Some(deciding) = writers.last().map(|it| it.shard) else { return Ok(()) };
        let gid = Gid { deciding, number: u128::from_be_bytes(number) };
        let outcome = two_phase::commit(&mut writers, &gid).await;
        if let Outcome::Committed { left } = &outcome {
            self.finish_commit(&gid, left.clone()).await;
        }
        self.unlock_commit().await;
        self.database.state.metrics.two_phase.inc();
        match outcome {
            Outcome::Committed { .. } => {
                for member in self.members.iter_mut().filter(|it| it.in_tx) {
                    if member.lease.server().run("COMMIT").await.is_err() {
                        member.lease.server().set_broken();
                    }
                    member.in_tx = false;
                }
                Ok(())
            }
            Outcome::Aborted(error) => Err(error.into()),
            Outcome::Unknown(error) => Err(error.into()),
        }
    }

    /// Commits what was decided on shards that did not answer: who is told of a commit sees it. One that
    /// stays away is left to recovery.
    async fn finish_commit(&mut self, gid: &Gid, mut left: Vec<ShardId>) {
        let begun = Instant::now();
        while !left.is_empty() && begun.elapsed() < FINISH {
            let cluster = self.proxy.cluster.load_full();
            if let Some(database) = cluster.databases.get(&*self.database.name) {
                left = recovery::finish(database, gid, left).await;
            }
            if !left.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        for shard in left {
            tracing::warn!(%gid, shard = shard.0, "COMMIT PREPARED is left to recovery");
            self.warn(
                "01000",
                &format!(
                    "committed, but shard {shard} does not answer: what was written there is seen \
                     once it does"
                ),
            );
        }
    }

    /// Two-phase commit must be possible on every shard that wrote.
    fn check_two_phase(&self) -> Result<(), PgError> {
        let mut wrote = self.members.iter().filter(|it| it.in_tx && it.wrote);
        wrote.try_for_each(|it| self.check_two_phase_on(it.shard))
    }

    fn check_two_phase_on(&self, shard: ShardId) -> Result<(), PgError> {
        let state = &self.database.state;
        if let Some(problem) = state.no_two_phase.load().get(&shard) {
            return Err(no_two_phase(shard, problem));
        }
        // Recovery, which works as the URL's user, could not end what another user has prepared.
        let Some(address) = self.database.shards.get(&shard).map(|it| &it.primary.address) else {
            return Ok(());
        };
        let name = self.account.login.name(&self.account.user, address);
        match name == address.user || state.ends_all.load().contains(&shard) {
            true => Ok(()),
            false => Err(no_two_phase(
                shard,
                &format!("what user {name:?} prepares only {name:?} or a superuser could end"),
            )
            .hint("let the user of the shards' URLs be a superuser, or the client's statements run as that user (server_auth = \"url\")")),
        }
    }

    /// Refuses the second shard's write where two-phase commit is impossible.
    pub(super) fn check_second_write(&self, shard: ShardId) -> Result<(), PgError> {
        let writes_elsewhere =
            self.members.iter().any(|it| it.in_tx && it.wrote && it.shard != shard);
        if !writes_elsewhere {
            return Ok(());
        }
        self.check_two_phase_on(shard)?;
        self.check_two_phase()
    }

    /// Ends the block with ROLLBACK.
    pub(super) async fn rollback(&mut self) {
        if let Some(tx) = self.tx.take() {
            self.handle.state.lock().in_transaction = false;
            self.database.state.metrics.transactions.inc();
            self.end_portals();
            self.undo(tx).await;
        }
    }

    /// Rolls every member back and takes the settings back to BEGIN.
    async fn undo(&mut self, tx: Box<Transaction>) {
        for member in self.members.iter_mut().filter(|it| it.in_tx) {
            let server = member.lease.server();
            // What was SET inside is as before, and servers report that.
            let told = (!tx.replay.is_empty()).then(|| server.status.clone());
            if server.is_broken() || server.run("ROLLBACK").await.is_err() {
                server.set_broken();
            }
            for (name, value) in told.iter().flat_map(|_| &server.status) {
                if told.as_ref().and_then(|it| it.get(name)) != Some(value) {
                    let out = &mut self.client.out;
                    backend::parameter_status(out, name.as_bytes(), value.as_bytes());
                }
            }
            member.in_tx = false;
        }
        self.drop_listens();
        self.rolled_back(tx);
    }

    /// After a commit, servers of the block have what was SET in it.
    fn mark_settings(&mut self) {
        for member in &mut self.members {
            let server = member.lease.server();
            if !server.is_broken() && !Arc::ptr_eq(&server.settings, &self.settings) {
                server.settings = Arc::clone(&self.settings);
            }
        }
    }

    /// From now on this client's reads see what was written.
    pub(super) fn note_written(&mut self) {
        let shards = self.members.iter().filter(|it| it.wrote).map(|it| it.shard);
        for shard in shards.collect::<SmallVec<[ShardId; 4]>>() {
            self.note_written_on(shard);
        }
    }

    /// SAVEPOINT: on every member, and on those that join later.
    pub(super) async fn savepoint(&mut self, name: String, sql: &str) -> Result<(), Failure> {
        self.need_block("SAVEPOINT")?;
        self.on_all(sql).await?;
        self.note_savepoint(name, sql.to_owned());
        Ok(())
    }

    /// The state to which ROLLBACK TO goes back.
    pub(super) fn note_savepoint(&mut self, name: String, sql: String) {
        let (settings, routing) = (Arc::clone(&self.settings), self.routing.clone());
        let Some(tx) = &mut self.tx else { return };
        tx.replay.push(sql);
        let (replay, listens) = (tx.replay.len(), tx.listens.len());
        let declared = tx.declared;
        tx.savepoints.push(Savepoint { name, declared, replay, listens, settings, routing });
    }

    /// ROLLBACK TO SAVEPOINT: the block is whole again.
    pub(super) async fn rollback_to(&mut self, name: &str, sql: &str) -> Result<(), Failure> {
        self.need_block("ROLLBACK TO SAVEPOINT")?;
        self.savepoint_at(name)?;
        if self.members.iter_mut().any(|it| it.in_tx && it.lease.server().is_broken()) {
            return Err(PgError::new(
                sqlstate::CONNECTION_FAILURE,
                "a server of this transaction was lost: only ROLLBACK is possible",
            )
            .into());
        }
        self.on_all(sql).await?;
        self.note_rollback_to(name);
        Ok(())
    }

    /// The block is as it was at the savepoint.
    pub(super) fn note_rollback_to(&mut self, name: &str) {
        let at = self.savepoint_at(name).ok();
        let Some(tx) = &mut self.tx else { return };
        tx.has_failed = false;
        let Some(at) = at else { return };
        tx.savepoints.truncate(at + 1);
        let savepoint = &tx.savepoints[at];
        tx.replay.truncate(savepoint.replay);
        tx.listens.truncate(savepoint.listens);
        let declared = savepoint.declared;
        tx.cursors.retain(|_, it| it.number <= declared);
        self.settings = Arc::clone(&savepoint.settings);
        self.routing = savepoint.routing.clone();
    }

    /// RELEASE SAVEPOINT.
    pub(super) async fn release_savepoint(&mut self, name: &str, sql: &str) -> Result<(), Failure> {
        self.need_block("RELEASE SAVEPOINT")?;
        self.savepoint_at(name)?;
        self.on_all(sql).await?;
        self.note_release(name, sql.to_owned());
        Ok(())
    }

    /// The savepoint is no more.
    pub(super) fn note_release(&mut self, name: &str, sql: String) {
        let at = self.savepoint_at(name).ok();
        let (Some(tx), Some(at)) = (&mut self.tx, at) else { return };
        tx.savepoints.truncate(at);
        tx.replay.push(sql);
    }

    fn need_block(&self, what: &str) -> Result<(), PgError> {
        match &self.tx {
            Some(tx) if tx.is_explicit => Ok(()),
            _ => Err(PgError::new(
                sqlstate::NO_ACTIVE_SQL_TRANSACTION,
                format!("{what} can only be used in transaction blocks"),
            )),
        }
    }

    fn savepoint_at(&self, name: &str) -> Result<usize, PgError> {
        let tx = self.tx.as_ref();
        tx.and_then(|tx| tx.savepoints.iter().rposition(|it| it.name == name)).ok_or_else(|| {
            PgError::new(
                sqlstate::INVALID_SAVEPOINT,
                format!("savepoint \"{name}\" does not exist"),
            )
        })
    }

    /// Runs a statement on every member of the block.
    pub(super) async fn on_all(&mut self, sql: &str) -> Result<(), Failure> {
        for member in self.members.iter_mut().filter(|it| it.in_tx) {
            member.lease.server().run(sql).await?;
        }
        Ok(())
    }

    fn end_portals(&mut self) {
        self.portals.clear();
    }

    /// A command tag for the client.
    pub(super) fn complete(&mut self, tag: &str) {
        backend::command_complete(&mut self.client.out, tag);
    }

    /// A warning for the client.
    pub(super) fn warn(&mut self, code: &'static str, message: &str) {
        let notice = PgError::new(code, message);
        backend::notice_response(&mut self.client.out, "WARNING", &notice);
    }
}

/// Nothing but the end of the block is possible.
pub(super) fn in_failed_block() -> PgError {
    PgError::new(
        sqlstate::IN_FAILED_SQL_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

fn no_two_phase(shard: ShardId, problem: &str) -> PgError {
    PgError::refused("a transaction that writes on several shards needs two-phase commit")
        .detail(format!("shard {shard}: {problem}"))
        .hint("set max_prepared_transactions on every server and let the user create schema sluice")
}

/// Bytes of a statement as text of our own; SQL that is not UTF-8 never gets here.
pub(super) fn text_of(sql: &Bytes) -> &str {
    std::str::from_utf8(sql).unwrap_or_default()
}
