//! A database of one shard: its server carries out what is said about transactions, cursors and
//! several statements at once, and the session follows what the server reports.

use bytes::{Bytes, BytesMut};

use super::failover::{in_doubt, is_loss};
use super::transaction::text_of;
use super::{Role, Session};
use crate::exec::{Failure, relay};
use crate::plan::{Action as PlanAction, Local, Plan, Statement};
use crate::wire::frontend;
use crate::wire::pipeline::{Action, TxStatus};

impl Session {
    /// Whether the one server should carry the statement out as it is.
    pub(super) fn passes(&mut self, local: &Local) -> bool {
        if self.database.is_sharded() || self.listens_at_commit() && ends_block(local) {
            return false;
        }
        let in_block = self.tx.as_ref().is_some_and(|tx| tx.is_explicit);
        let joined = self.members.iter_mut().find(|it| it.in_tx);
        let status = joined.map(|it| (it.lease.server().tx(), it.lease.server().is_broken()));
        let is_joined = matches!(status, Some((TxStatus::Open | TxStatus::Failed, false)));
        // An error of the proxy's own has failed the block, which the server does not know.
        let is_in_step = !self.tx.as_ref().is_some_and(|tx| tx.has_failed)
            || matches!(status, Some((TxStatus::Failed, _)));
        match local {
            Local::Begin { .. } => self.tx.is_some() && is_in_step,
            Local::Commit { .. } | Local::Rollback { .. } => in_block && is_joined && is_in_step,
            Local::RollbackTo(_) => in_block && (is_joined || status.is_none()),
            Local::Savepoint(_) | Local::Release(_) => in_block && is_in_step,
            Local::SetTransaction { .. } | Local::PrepareTransaction => is_in_step,
            _ => false,
        }
    }

    /// Whether the server itself refuses whatever is sent in the failed block.
    pub(super) fn server_has_failed(&self) -> bool {
        let failed = |it: &crate::exec::Member| it.in_tx && it.lease.tx() == TxStatus::Failed;
        !self.database.is_sharded() && self.members.iter().any(failed)
    }

    /// Hands a statement about the session to the server and notes what has become of it.
    pub(super) async fn pass(
        &mut self,
        local: &Local,
        statement: &Statement,
    ) -> Result<(), Failure> {
        let mut message = BytesMut::new();
        frontend::query(&mut message, &statement.text);
        let begin = text_of(&statement.text).to_owned();
        let commits = matches!(local, Local::Commit { .. } | Local::PrepareTransaction);
        if ends_block(local) {
            self.announce().await;
        }
        let at = self.send_whole(&message, false, commits).await?;
        let server = self.members[at].lease.server();
        let (failed, status) = (server.has_failed(), server.tx());
        if !failed {
            self.note_passed(local, begin);
        }
        match local {
            Local::Commit { chain } | Local::Rollback { chain } => {
                let commits = matches!(local, Local::Commit { .. });
                self.block_passed(commits && !failed, *chain, status).await;
            }
            Local::PrepareTransaction if status == TxStatus::Idle => {
                self.block_passed(!failed, false, status).await;
            }
            _ => (),
        }
        self.after(statement).await;
        Ok(())
    }

    fn note_passed(&mut self, local: &Local, sql: String) {
        match local {
            Local::Savepoint(name) => self.note_savepoint(name.clone(), sql),
            Local::RollbackTo(name) => self.note_rollback_to(name),
            Local::Release(name) => self.note_release(name, sql),
            Local::SetTransaction { read_only, isolation }
            | Local::Begin { read_only, isolation } => {
                if let Some(tx) = &mut self.tx {
                    tx.is_explicit = true;
                    tx.read_only = read_only.or(tx.read_only);
                    tx.isolation = isolation.or(tx.isolation);
                }
            }
            _ => (),
        }
    }

    /// COMMIT and the like were answered: `status` is the server's now.
    async fn block_passed(&mut self, commits: bool, chain: bool, status: TxStatus) {
        let Some(tx) = self.tx.take() else { return };
        if status != TxStatus::Idle && !chain {
            self.tx = Some(tx);
            return;
        }
        let modes = (tx.begin.clone(), tx.read_only, tx.isolation);
        // COMMIT of a failed block is a rollback.
        let committed = commits && !tx.has_failed;
        self.block_over(tx, committed).await;
        if status != TxStatus::Idle {
            self.begin(&modes.0, true, modes.1, modes.2);
            self.members.iter_mut().for_each(|it| it.in_tx |= it.lease.tx() != TxStatus::Idle);
        }
    }

    /// Several statements in one string go to the server as they are.
    pub(super) async fn whole(
        &mut self,
        statements: &[Statement],
        frame: &Bytes,
    ) -> Result<(), Failure> {
        self.database.state.metrics.queries.inc_by(statements.len() as u64);
        for statement in statements {
            self.check_pin(&statement.plan)?;
            self.name_statements(&statement.plan).await?;
        }
        let writes = statements.iter().any(|it| !it.is_read());
        let sets = statements.iter().any(|it| is_about_session(&it.plan, false));
        let has_settings = sets || self.settings != self.defaults;
        let ends =
            |it: &Statement| matches!(&it.plan.action, PlanAction::Local(it) if ends_block(it));
        let commits = self.tx.is_none() || statements.iter().any(ends);
        let at = self.send_whole(frame, writes, commits).await?;
        self.follow(at).await;
        if self.tx.is_none() {
            self.end_of_alteration();
        }
        if statements.iter().any(|it| is_about_session(&it.plan, has_settings)) {
            self.doubt(statements.iter().flat_map(|it| names_of(&it.plan)));
        }
        for statement in statements {
            self.after(statement).await;
            self.after_set_config(statement, None).await?;
        }
        Ok(())
    }

    /// `commits`: once it is sent, what was written may be committed.
    async fn send_whole(
        &mut self,
        message: &[u8],
        writes: bool,
        commits: bool,
    ) -> Result<usize, Failure> {
        self.check_not_failed()?;
        let home = self.database.config.home_shard;
        let at = self.member(home, Role::Primary).await?;
        let member = &mut self.members[at];
        member.wrote |= writes;
        if writes {
            self.open_any_writes().await;
        }
        let server = self.members[at].lease.server();
        server.statements.unnamed = None;
        server.push(b'Q', message, Action::Forward);
        let done = relay::relay(server, &mut self.client).await;
        let is_in_doubt = commits && self.members[at].wrote;
        done.map(|()| at).map_err(|failure| match failure {
            Failure::Error(error) if is_in_doubt && is_loss(&error) => {
                in_doubt(error, "the transaction").into()
            }
            other => self.told_of_loss(other, false),
        })
    }

    /// A string may have opened and ended blocks.
    async fn follow(&mut self, at: usize) {
        let status = self.members[at].lease.tx();
        match (self.tx.take(), status) {
            (None, TxStatus::Idle) => self.note_written(),
            (None, _) => {
                self.begin("BEGIN", true, None, None);
                self.members[at].in_tx = true;
            }
            (Some(tx), TxStatus::Idle) => {
                if *tx.settings_at_begin() != self.settings {
                    self.doubt(std::iter::empty());
                }
                self.block_over(tx, true).await;
            }
            (Some(tx), _) => self.tx = Some(tx),
        }
        if let Some(tx) = &mut self.tx {
            tx.is_explicit = true;
            tx.has_failed = status == TxStatus::Failed;
        }
    }
}

fn ends_block(local: &Local) -> bool {
    matches!(local, Local::Commit { .. } | Local::Rollback { .. } | Local::PrepareTransaction)
}

/// Whether a statement amid others may leave the session with other settings or statements.
fn is_about_session(plan: &Plan, has_settings: bool) -> bool {
    let PlanAction::Local(local) = &plan.action else {
        return plan.sets.iter().any(|it| !it.is_local) || !plan.unsettled.is_empty();
    };
    match local {
        Local::Set { is_local, .. } => !is_local,
        Local::Reset(_) => has_settings,
        Local::Commit { .. } | Local::Rollback { .. } | Local::RollbackTo(_) => has_settings,
        _ => false,
    }
}

/// Settings that a statement names, apart from those the server lists itself.
fn names_of(plan: &Plan) -> Vec<String> {
    let mut names = plan.unsettled.clone();
    match &plan.action {
        PlanAction::Local(Local::Set { name, is_local: false, .. }) => names.push(name.clone()),
        _ => names.extend(plan.sets.iter().map(|it| it.name.clone())),
    }
    names
}
