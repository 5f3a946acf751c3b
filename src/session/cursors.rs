//! Cursors of SQL. One over several shards is a cursor of the home shard over shipped rows, so that its server
//! knows its position, its direction and what is wrong with a FETCH.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::extended::Prepared;
use super::gather::{TIMESTAMPTZ, given, hand_over, unlike};
use super::run::Routed;
use super::transaction::text_of;
use super::{Role, Session};
use crate::error::{PgError, sqlstate};
use crate::exec::{Failure, Member, relay};
use crate::merge::arrays::Bounds;
use crate::plan::route::Arguments;
use crate::plan::{Access, Action as PlanAction, Plan, Run, Statement};
use crate::shard::ShardId;
use crate::sql::name::quoted;
use crate::wire::frontend;
use crate::wire::frontend::view::{Bind, Target};
use crate::wire::pipeline::Action;

/// A cursor of an open block.
pub(super) struct Cursor {
    place: (ShardId, Role),
    /// Counted from 1 in its block.
    pub(super) number: usize,
    is_holdable: bool,
}

/// A message of the extended protocol about a FETCH, with its Bind.
pub(super) enum Step<'a> {
    DescribeStatement,
    DescribePortal(&'a Bytes),
    Execute(&'a Bytes, i32),
}

impl Session {
    /// Where a cursor is.
    pub(super) fn cursor(&self, name: &str) -> Option<(ShardId, Role)> {
        let own = self.tx.as_ref().and_then(|tx| tx.cursors.get(name)).map(|it| it.place);
        own.or_else(|| self.held_cursors.get(name).copied())
    }

    /// The block is over and those WITH HOLD are not.
    pub(super) fn hold_cursors(&mut self, cursors: &HashMap<String, Cursor>) {
        for (name, cursor) in cursors.iter().filter(|(_, it)| it.is_holdable) {
            self.held_cursors.insert(name.clone(), cursor.place);
        }
    }

    /// Ends the block first where it has done nothing but read for cursors WITH HOLD: the rest of their rows is
    /// computed then, which may fail.
    pub(super) async fn commit_held(
        &mut self,
        cursors: &HashMap<String, Cursor>,
    ) -> Result<(), Failure> {
        let is_alone = self.members.iter().filter(|it| it.in_tx).count() < 2;
        for member in self.members.iter_mut().filter(|it| it.in_tx && !it.wrote && !is_alone) {
            let is_here = |it: &Cursor| it.is_holdable && it.place.0 == member.shard;
            if cursors.values().any(is_here) {
                member.lease.server().run("COMMIT").await?;
                member.in_tx = false;
            }
        }
        Ok(())
    }

    /// The block has failed after that.
    pub(super) async fn drop_held(&mut self, cursors: &HashMap<String, Cursor>) {
        for (name, cursor) in cursors.iter().filter(|(_, it)| it.is_holdable) {
            let is_over = |it: &&mut Member| it.shard == cursor.place.0 && !it.in_tx;
            if let Some(member) = self.members.iter_mut().find(is_over) {
                let closed = member.lease.server().run(&format!("CLOSE {}", quoted(name))).await;
                tracing::debug!(?closed, "a cursor of a failed block");
            }
        }
    }

    /// What a block has declared WITH HOLD is gone with it, and need not keep the session's servers.
    pub(super) fn doubt_held(&mut self, cursors: &HashMap<String, Cursor>) {
        if cursors.values().any(|it| it.is_holdable) {
            self.doubt(std::iter::empty());
        }
    }

    fn note_cursor(&mut self, name: &str, place: (ShardId, Role), is_holdable: bool) {
        match &mut self.tx {
            Some(tx) => {
                tx.declared += 1;
                let cursor = Cursor { place, number: tx.declared, is_holdable };
                tx.cursors.insert(name.to_owned(), cursor);
            }
            None => drop(self.held_cursors.insert(name.to_owned(), place)),
        }
        if is_holdable {
            self.pin_for("WITH HOLD cursor");
        }
    }

    fn forget_cursor(&mut self, name: &str) {
        if let Some(tx) = &mut self.tx {
            tx.cursors.remove(name);
        }
        self.held_cursors.remove(name);
    }

    /// DECLARE: the cursor lives where its query runs.
    pub(super) async fn declare(
        &mut self,
        (cursor, is_holdable): (&str, bool),
        query: &Arc<Plan>,
        range: &Range<usize>,
        statement: &Statement,
    ) -> Result<(), Failure> {
        let run = match &query.action {
            PlanAction::Run(run) => run,
            PlanAction::Refuse(error) => return Err(error.clone().into()),
            PlanAction::Local(_) => {
                return Err(PgError::refused("a cursor over this statement").into());
            }
        };
        // Literals are looked for where the query alone has them.
        let text = statement.text.slice(range.clone());
        let exact = self.analyse_exactly(&text, &[])?;
        let run = match &exact.plan.action {
            PlanAction::Run(run) => run,
            _ => run,
        };
        let routed = self.route(&exact, run, &Arguments::None)?;
        let Some(routed) = routed else { return Err(super::run::unreadable_key().into()) };
        let home = self.database.config.home_shard;
        let place = (routed.shards.single().unwrap_or(home), routed.role);
        if self.cursor(cursor).is_some_and(|it| it.0 != place.0) {
            let message = format!("cursor \"{cursor}\" already exists");
            return Err(PgError::new(sqlstate::DUPLICATE_CURSOR, message).into());
        }
        let Some(shard) = routed.shards.single() else {
            let head = &text_of(&statement.text)[..range.start];
            return self
                .declare_over_shards((cursor, is_holdable), head, &exact, (run, &routed))
                .await;
        };
        let mut message = BytesMut::new();
        frontend::query(&mut message, &statement.text);
        let writes = run.access == Access::Write;
        self.relay_to(shard, routed.role, writes, &message).await?;
        if !self.has_failed() {
            self.note_cursor(cursor, place, is_holdable);
        }
        self.after(statement).await;
        Ok(())
    }

    /// A cursor over several shards: one of the home shard over shipped rows. `head` is what stands before the
    /// query.
    async fn declare_over_shards(
        &mut self,
        (cursor, is_holdable): (&str, bool),
        head: &str,
        query: &Statement,
        (run, routed): (&Run, &Routed),
    ) -> Result<(), Failure> {
        let gather = run.gathered().filter(|_| run.access == Access::Read);
        let Some(gather) = gather else {
            return Err(PgError::refused(format!(
                "cursor {cursor:?} over several shards is not supported"
            ))
            .detail("its query is no plain read")
            .hint("add the tenant to the query's WHERE")
            .into());
        };
        let is_alone = self.tx.is_none();
        if is_alone && !is_holdable {
            return Err(PgError::new(
                sqlstate::NO_ACTIVE_SQL_TRANSACTION,
                "DECLARE CURSOR can only be used in transaction blocks",
            )
            .into());
        }
        self.begin_implicit();
        let place = self.member(self.database.config.home_shard, routed.role).await?;
        let described = self.describe_at(place, &query.text, &[]).await?;
        let mut given = given(None, None);
        let mut types = Vec::new();
        if gather.asks_time {
            given.now = self.ask_time(place).await?;
            types.push(TIMESTAMPTZ);
        }
        let limits = &self.cluster.config.limits;
        let bounds = Bounds { rows: limits.gather_max_rows, bytes: limits.gather_max_bytes };
        let arrays = self.ship(gather, routed, &types, &given, bounds).await?;
        // Each cursor of a block has settings of its own.
        let of = self.tx.as_ref().map_or(0, |tx| tx.declared) + 1;
        hand_over(self.members[place].lease.server(), gather, of, &arrays);
        drop(arrays);
        let sql = gather.final_sql_of_settings(of);
        match self.describe_at(place, sql.as_bytes(), &[]).await {
            Ok(it) if it.columns == described.columns => (),
            Ok(_) => return Err(unlike("its columns would have other types").into()),
            Err(Failure::Server(frame)) => {
                return Err(unlike(&crate::server::error_of(&frame).message).into());
            }
            Err(failure) => return Err(failure),
        }
        let server = self.members[place].lease.server();
        server.push_query(&format!("{head}{sql}"), Action::Forward);
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            match tag {
                b'E' => return Err(Failure::Server(frame)),
                b'N' => self.client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
        let home = (self.database.config.home_shard, routed.role);
        self.note_cursor(cursor, home, is_holdable);
        // The rest of its rows is computed now, and may fail.
        if is_alone {
            self.commit().await?;
        }
        self.complete("DECLARE CURSOR");
        Ok(())
    }

    /// Who judges a cursor's name.
    fn cursor_or_home(&self, name: &str) -> (ShardId, Role) {
        let home = self.database.config.home_shard;
        self.cursor(name).unwrap_or_else(|| {
            // A function on a server that is kept may have made it.
            let kept = self.members.iter().find(|_| self.pin.is_some()).map(|it| it.shard);
            (kept.unwrap_or(home), Role::Primary)
        })
    }

    /// FETCH, MOVE: where the cursor was declared.
    pub(super) async fn fetch(&mut self, name: &str, statement: &Statement) -> Result<(), Failure> {
        let (shard, role) = self.cursor_or_home(name);
        let mut message = BytesMut::new();
        frontend::query(&mut message, &statement.text);
        self.relay_to(shard, role, false, &message).await
    }

    /// A message of the extended protocol about a FETCH or MOVE.
    pub(super) async fn fetch_by_steps(
        &mut self,
        name: &str,
        prepared: &Prepared,
        step: Step<'_>,
    ) -> Result<(), Failure> {
        self.check_not_failed()?;
        let (shard, role) = self.cursor_or_home(name);
        let at = self.member(shard, role).await?;
        let server = self.members[at].lease.server();
        let text = &prepared.text;
        server.statements.unnamed = None;
        server.push_with(b'P', Action::Skip, |out| {
            frontend::parse(out, b"", text.sql(), text.types().iter().copied());
        });
        if let Step::DescribePortal(bind) | Step::Execute(bind, _) = &step {
            let view = Bind::read(bind)?;
            server.push_with(b'B', Action::Skip, |out| {
                frontend::bind_unnamed(out, bind, &view, 0);
            });
        }
        server.push_with(
            if matches!(step, Step::Execute(..)) { b'E' } else { b'D' },
            Action::Forward,
            |out| match step {
                Step::DescribeStatement => frontend::describe(out, Target::Statement, b""),
                Step::DescribePortal(_) => frontend::describe(out, Target::Portal, b""),
                Step::Execute(_, rows) => frontend::execute(out, b"", rows),
            },
        );
        server.push_sync();
        relay::relay(server, &mut self.client).await
    }

    /// CLOSE; `None`: ALL.
    pub(super) async fn close(
        &mut self,
        name: Option<&str>,
        statement: &Statement,
    ) -> Result<(), Failure> {
        let Some(name) = name else { return self.close_all().await };
        let (shard, role) = self.cursor_or_home(name);
        let mut message = BytesMut::new();
        frontend::query(&mut message, &statement.text);
        self.relay_to(shard, role, false, &message).await?;
        if !self.has_failed() {
            self.forget_cursor(name);
            self.after(statement).await;
        }
        Ok(())
    }

    async fn close_all(&mut self) -> Result<(), Failure> {
        let keeps = self.keeps_servers();
        for member in self.members.iter_mut().filter(|it| it.in_tx || keeps) {
            member.lease.server().run("CLOSE ALL").await?;
        }
        if let Some(tx) = &mut self.tx {
            tx.cursors.clear();
        }
        self.held_cursors = HashMap::new();
        if self.pin.is_some() {
            self.doubt(std::iter::empty());
        }
        self.complete("CLOSE CURSOR ALL");
        Ok(())
    }
}
