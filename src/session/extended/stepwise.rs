//! A batch that no single server can take: message by message. Writes of one batch happen together,
//! in a transaction of the proxy's own that the Sync commits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::batch::{Fresh, Place, ensure};
use super::{Portal, Prepared};
use crate::error::PgError;
use crate::exec::{Failure, relay};
use crate::plan::{Access, Action as PlanAction, Combine, Local};
use crate::session::cursors::Step;
use crate::session::portable::portable;
use crate::session::{Role, Session};
use crate::shard::ShardId;
use crate::wire::frontend::view::{Bind, Execute, Parse, Subject, Target};
use crate::wire::pipeline::Action;
use crate::wire::{backend, frontend};

impl Session {
    pub(super) async fn step_through(&mut self, batch: &[(u8, Bytes)]) -> Result<(), Failure> {
        self.join_pipeline().await?;
        for (tag, frame) in batch {
            match tag {
                b'P' => self.step_parse(frame).await?,
                b'B' => self.step_bind(frame).await?,
                b'D' => self.step_describe(frame).await?,
                b'E' => self.step_execute(frame).await?,
                _ => self.step_close(frame).await?,
            }
            if self.members.iter_mut().any(|it| it.server().has_failed()) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What the pipeline has done since its last Sync becomes a block of the proxy's own: each step ends
    /// with a Sync, which must not commit it.
    async fn join_pipeline(&mut self) -> Result<(), Failure> {
        let is_open = |it: &mut crate::exec::Member| it.server().is_in_batch();
        if self.tx.is_some() || !self.members.iter_mut().any(is_open) {
            return Ok(());
        }
        self.begin_implicit();
        for at in 0..self.members.len() {
            if is_open(&mut self.members[at]) {
                let (shard, is_primary) = (self.members[at].shard, self.members[at].is_primary);
                self.member(shard, Role::held(is_primary)).await?;
                self.members[at].wrote = true;
            }
        }
        Ok(())
    }

    async fn step_parse(&mut self, frame: &Bytes) -> Result<(), Failure> {
        let parse = Parse::read(frame)?;
        self.check_name(parse.name)?;
        let prepared = self.prepare(&parse, frame).await?;
        match &prepared.statement.plan.action {
            PlanAction::Refuse(error) => {
                self.check_not_failed()?;
                return Err(error.clone().into());
            }
            PlanAction::Run(_) => {
                self.check_not_failed()?;
                // A server judges the text, and tells the types for later.
                if prepared.text.valid.load(Ordering::Relaxed) != self.catalog_version() {
                    self.describe_at_server(&prepared, true).await?;
                }
                if self.members.iter_mut().any(|it| it.server().has_failed()) {
                    return Ok(());
                }
                prepared.text.valid.store(self.catalog_version(), Ordering::Relaxed);
            }
            PlanAction::Local(local) if !may_end_block(local) => self.check_not_failed()?,
            PlanAction::Local(_) => (),
        }
        self.put_statement(parse.name, prepared);
        self.parse_complete();
        Ok(())
    }

    async fn step_bind(&mut self, frame: &Bytes) -> Result<(), Failure> {
        let bind = Bind::read(frame)?;
        let known = self.statement_named(bind.statement)?;
        let prepared = self.fresh(known).await?;
        if prepared.needs_types() {
            self.check_not_failed()?;
            self.describe_at_server(&prepared, true).await?;
            if self.members.iter_mut().any(|it| it.server().has_failed()) {
                return Ok(());
            }
        }
        let name = Bytes::copy_from_slice(bind.portal);
        let outlives_batch =
            !name.is_empty() && self.tx.as_ref().is_some_and(|tx| tx.is_explicit && !tx.has_failed);
        let is_watched = prepared.statement.plan.unique.is_some();
        if outlives_batch
            && !is_watched
            && let Some((exact, routed)) = self.route_bound(&prepared, frame)?
        {
            if let Some(shard) = routed.shards.single() {
                return self.bind_at_server(name, exact, frame, (shard, routed.role)).await;
            }
            if let PlanAction::Run(run) = &exact.statement.plan.action
                && run.access == Access::Read
                && let Some(gather) = run.gathered()
            {
                // Rows may be fetched from it in parts.
                let place = Some((self.database.config.home_shard, routed.role));
                let mut portal = Portal {
                    prepared: Arc::clone(&exact),
                    bind: frame.clone(),
                    place,
                    max_rows: 0,
                    is_cut: false,
                };
                let (statement, of) = (&exact.statement, Some(&portal));
                Box::pin(self.gather_portal(&name, statement, gather, &routed, of)).await?;
                portal.prepared = prepared;
                self.portals.insert(name, portal);
                self.answer(backend::bind_complete);
                return Ok(());
            }
        }
        let portal =
            Portal { prepared, bind: frame.clone(), place: None, max_rows: 0, is_cut: false };
        self.portals.insert(name, portal);
        self.answer(backend::bind_complete);
        Ok(())
    }

    /// Binds a portal on the one server that it is for, where later batches of the transaction find
    /// it.
    async fn bind_at_server(
        &mut self,
        name: Bytes,
        prepared: Arc<Prepared>,
        frame: &Bytes,
        (shard, role): (ShardId, Role),
    ) -> Result<(), Failure> {
        let at = self.member(shard, role).await?;
        let server = self.members[at].lease.server();
        ensure(server, Place::Unnamed, &prepared, &mut Fresh::new());
        let bind = Bind::read(frame)?;
        server.push_with(b'B', Action::Forward, |out| {
            frontend::bind_renamed(out, frame, &bind, b"");
        });
        server.push_sync();
        relay::relay(server, &mut self.client).await?;
        let portal = Portal {
            prepared,
            bind: frame.clone(),
            place: Some((shard, role)),
            max_rows: 0,
            is_cut: false,
        };
        self.portals.insert(name, portal);
        Ok(())
    }

    async fn step_close(&mut self, frame: &Bytes) -> Result<(), Failure> {
        let subject = Subject::read(frame)?;
        match subject.target {
            Target::Statement => {
                self.drop_statement(subject.name);
            }
            Target::Portal => drop(self.portals.remove(subject.name)),
        }
        self.answer(backend::close_complete);
        Ok(())
    }

    async fn step_describe(&mut self, frame: &Bytes) -> Result<(), Failure> {
        let subject = Subject::read(frame)?;
        match subject.target {
            Target::Statement => {
                let prepared = self.statement_named(subject.name)?;
                match &prepared.statement.plan.action {
                    PlanAction::Run(_) => self.describe_at_server(&prepared, false).await,
                    PlanAction::Local(Local::Fetch(name)) => {
                        self.fetch_by_steps(name, &prepared, Step::DescribeStatement).await
                    }
                    PlanAction::Local(local) => {
                        let local = local.clone();
                        self.answer(|out| backend::parameter_description(out, &[]));
                        self.describe_local(&local);
                        Ok(())
                    }
                    PlanAction::Refuse(error) => Err(error.clone().into()),
                }
            }
            Target::Portal => {
                let portal = self.portal_named(subject.name)?;
                if let Some((shard, role)) = portal.place {
                    let at = self.member(shard, role).await?;
                    let server = self.members[at].lease.server();
                    server.push(b'D', frame, Action::Forward);
                    server.push_sync();
                    return relay::relay(server, &mut self.client).await;
                }
                match &portal.prepared.statement.plan.action {
                    PlanAction::Run(_) => self.describe_portal(&portal).await,
                    PlanAction::Local(Local::Fetch(name)) => {
                        let step = Step::DescribePortal(&portal.bind);
                        self.fetch_by_steps(name, &portal.prepared, step).await
                    }
                    PlanAction::Local(local) => {
                        let local = local.clone();
                        self.describe_local(&local);
                        Ok(())
                    }
                    PlanAction::Refuse(error) => Err(error.clone().into()),
                }
            }
        }
    }

    fn describe_local(&mut self, local: &Local) {
        match local {
            Local::ShowSluice(name) => {
                let name = format!("sluice.{name}");
                self.answer(|out| backend::row_description(out, &[&name]));
            }
            Local::ListeningChannels => {
                self.answer(|out| backend::row_description(out, &["pg_listening_channels"]));
            }
            Local::Explain(_) => {
                self.answer(|out| backend::row_description(out, &["QUERY PLAN"]));
            }
            _ => self.answer(backend::no_data),
        }
    }

    /// Parses and describes a statement on a server. Hidden, only its errors are told and its types
    /// kept; else the description goes to the client.
    pub(in crate::session) async fn describe_at_server(
        &mut self,
        prepared: &Arc<Prepared>,
        hidden: bool,
    ) -> Result<(), Failure> {
        let (shard, role) = self.parse_place(prepared);
        self.name_statements(&prepared.statement.plan).await?;
        let at = self.member(shard, role).await?;
        let server = self.members[at].lease.server();
        let text = &prepared.text;
        server.statements.unnamed = None;
        server.push_with(b'P', Action::Forward, |out| {
            frontend::parse(out, b"", text.sql(), text.types().iter().copied());
        });
        server.push_with(b'D', Action::Forward, |out| {
            frontend::describe(out, Target::Statement, b"");
        });
        server.push_sync();
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            if tag == b't'
                && let Ok(types) = backend::view::parameter_types(&frame)
            {
                let _ = text.inferred.set(types.iter().collect());
            }
            let is_shown = matches!(tag, b'E' | b'N') || (!hidden && tag != b'1');
            if is_shown {
                self.client.out.extend_from_slice(&frame);
            }
        }
        Ok(())
    }

    /// Describes a portal: on the server it would go to, or on the home shard's if it needs several.
    pub(in crate::session) async fn describe_portal(
        &mut self,
        portal: &Portal,
    ) -> Result<(), Failure> {
        self.check_not_failed()?;
        let Some((exact, routed)) = self.route_bound(&portal.prepared, &portal.bind)? else {
            return Err(PgError::refused("this statement cannot be described").into());
        };
        let PlanAction::Run(run) = &exact.statement.plan.action else { return Ok(()) };
        let shard = match &run.combine {
            // What one value of a key leads to is looked for when it runs.
            Combine::Refuse(error)
                if routed.shards.len() > 1 && exact.statement.plan.lookup.is_none() =>
            {
                return Err(error.clone().into());
            }
            // The types that users made are those of the home shard.
            Combine::Merge(_)
            | Combine::Gather(_)
            | Combine::Scatter(_)
            | Combine::Move(_)
            | Combine::CreateAs(_)
            | Combine::Lock(_)
            | Combine::Pick(_)
                if routed.shards.len() > 1 =>
            {
                self.database.config.home_shard
            }
            _ => match routed.shards.iter().next() {
                Some(shard) => shard,
                None => return Ok(()),
            },
        };
        self.name_statements(&exact.statement.plan).await?;
        let at = self.member(shard, routed.role).await?;
        let server = self.members[at].lease.server();
        let text = &exact.text;
        let bind = Bind::read(&portal.bind)?;
        server.statements.unnamed = None;
        server.push_with(b'P', Action::Forward, |out| {
            let sql = std::str::from_utf8(text.sql()).unwrap_or_default();
            let types = portable(text.told_types(), sql, |it| bind.formats.of(it));
            frontend::parse(out, b"", text.sql(), types.iter().copied());
        });
        server.push_with(b'B', Action::Forward, |out| {
            frontend::bind_unnamed(out, &portal.bind, &bind, 0);
        });
        server.push_with(b'D', Action::Forward, |out| frontend::describe(out, Target::Portal, b""));
        server.push_sync();
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            // Only errors of Parse and Bind are for the client.
            if !matches!(tag, b'1' | b'2') {
                self.client.out.extend_from_slice(&frame);
            }
        }
        Ok(())
    }

    async fn step_execute(&mut self, frame: &Bytes) -> Result<(), Failure> {
        let execute = Execute::read(frame)?;
        let portal = self.portal_named(execute.portal)?;
        let statement = &portal.prepared.statement;
        self.database.state.metrics.queries.inc();
        match &statement.plan.action {
            PlanAction::Local(Local::Fetch(name)) => {
                let step = Step::Execute(&portal.bind, execute.max_rows);
                self.fetch_by_steps(name, &portal.prepared, step).await
            }
            PlanAction::Local(local) => {
                let has_rows = matches!(
                    local,
                    Local::ShowSluice(_) | Local::Explain(_) | Local::ListeningChannels
                );
                let before = self.client.out.len();
                Box::pin(self.local(local, statement)).await?;
                if has_rows {
                    self.drop_description(before);
                }
                Ok(())
            }
            PlanAction::Refuse(error) => Err(error.clone().into()),
            PlanAction::Run(_) => {
                let done = self.step_run(&portal, execute.max_rows, frame).await;
                if execute.max_rows > 0
                    && portal.place.is_none()
                    && let Some(portal) = self.portals.get_mut(execute.portal)
                {
                    portal.is_cut = true;
                }
                done
            }
        }
    }

    /// In the extended protocol rows come without a description of their own.
    fn drop_description(&mut self, before: usize) {
        let answer = self.client.out.split_off(before);
        let len = match crate::wire::frame::next_frame(&answer) {
            Ok(Some(next)) if next.tag == b'T' => next.len,
            _ => 0,
        };
        self.client.out.extend_from_slice(&answer[len.min(answer.len())..]);
    }

    pub(in crate::session) async fn step_run(
        &mut self,
        portal: &Portal,
        max_rows: i32,
        frame: &Bytes,
    ) -> Result<(), Failure> {
        self.check_not_failed()?;
        self.check_lock(&portal.prepared.statement)?;
        self.check_pin(&portal.prepared.statement.plan)?;
        if let Some((shard, role)) = portal.place.filter(|_| !frame.is_empty()) {
            // Handed on by an earlier batch of this transaction: the server has it.
            if portal.writes()
                && let Some((_, routed)) = self.route_bound(&portal.prepared, &portal.bind)?
            {
                self.open_writes(&routed).await;
            }
            let at = self.member(shard, role).await?;
            self.members[at].wrote |= portal.writes();
            let server = self.members[at].lease.server();
            server.push(b'E', frame, Action::Forward);
            server.push_sync();
            let done = relay::relay(server, &mut self.client).await;
            if portal.writes() && self.tx.is_none() {
                self.note_written();
            }
            return done;
        }
        let Some((exact, routed)) = self.route_bound(&portal.prepared, &portal.bind)? else {
            return Err(PgError::refused("this statement cannot be executed").into());
        };
        let PlanAction::Run(run) = &exact.statement.plan.action else { return Ok(()) };
        let writes = run.access == Access::Write;
        let is_alone = matches!(run.combine, Combine::OneByOne);
        if writes && self.tx.is_none() && !is_alone {
            self.begin_implicit();
        }
        let found = match &exact.statement.plan.lookup {
            None => None,
            Some(_) => {
                let arguments = portal.arguments()?;
                let args = arguments.as_route();
                Box::pin(self.look_up(&exact.statement, run, args, &routed)).await?
            }
        };
        let routed = found.unwrap_or(routed);
        if writes {
            self.open_writes(&routed).await;
        }
        let unique = exact.statement.plan.unique.as_deref();
        // Without rows no part of them can be asked for.
        let max_rows = if unique.is_some_and(|it| !it.returns) { 0 } else { max_rows };
        let done = match routed.shards.single().filter(|_| !is_alone && unique.is_none()) {
            Some(shard) => {
                let (told, at) = (self.told_so_far(), (shard, routed.role));
                let done = self.step_single(portal, &exact, at, writes, max_rows).await;
                match self.repeats(told) {
                    true => self.step_single(portal, &exact, at, writes, max_rows).await,
                    false => done,
                }
            }
            None if max_rows > 0 && !may_be_cut(run, portal) => Err(PgError::refused(
                "an Execute with a row limit over several shards is not supported",
            )
            .detail("the portal would have to stay open on every shard")
            .hint("give the portal a name and a transaction, fetch all rows, or add LIMIT")
            .into()),
            None if portal.is_cut => {
                Err(PgError::refused("the rest of a portal over several shards cannot be fetched")
                    .hint("give the portal a name and a transaction")
                    .into())
            }
            None => {
                if exact.text.inferred.get().is_none() {
                    // A part of the rows may not use every parameter: their types must be told.
                    self.describe_at_server(&exact, true).await?;
                }
                let portal = Portal { prepared: Arc::clone(&exact), max_rows, ..portal.clone() };
                let bound = (!is_alone && !is_copy(run)).then_some(&portal);
                Box::pin(self.fan_out(&exact.statement, run, &routed, bound)).await
            }
        };
        self.after(&exact.statement).await;
        done.and(self.after_set_config(&exact.statement, Some(portal)).await)
    }

    async fn step_single(
        &mut self,
        portal: &Portal,
        exact: &Arc<Prepared>,
        (shard, role): (ShardId, Role),
        writes: bool,
        max_rows: i32,
    ) -> Result<(), Failure> {
        if writes {
            self.check_second_write(shard)?;
        }
        self.name_statements(&exact.statement.plan).await?;
        let may_repeat = self.may_repeat(writes);
        let at = self.member(shard, role).await?;
        if may_repeat {
            self.watch_loss(at, true);
        }
        let member = &mut self.members[at];
        member.wrote |= writes;
        let server = member.lease.server();
        ensure(server, Place::Unnamed, exact, &mut Fresh::new());
        let bind = Bind::read(&portal.bind)?;
        server.push_with(b'B', Action::Skip, |out| {
            frontend::bind_unnamed(out, &portal.bind, &bind, 0);
        });
        server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", max_rows));
        server.push_sync();
        relay::relay(server, &mut self.client).await
    }
}

/// Whether the statement may be run in a failed block.
fn may_end_block(local: &Local) -> bool {
    matches!(local, Local::Commit { .. } | Local::Rollback { .. } | Local::RollbackTo(_))
}

/// Whether some of a statement's rows can be given without the others.
fn may_be_cut(run: &crate::plan::Run, portal: &Portal) -> bool {
    let is_read = run.access == Access::Read && run.gathered().is_some();
    let is_locked = matches!(run.combine, Combine::Lock(_));
    (is_read || is_locked) && run.explained.is_none() && !portal.is_cut
}

fn is_copy(run: &crate::plan::Run) -> bool {
    matches!(
        run.combine,
        Combine::CopyFrom(_) | Combine::CopyTo { .. } | Combine::CopyGather { .. }
    )
}
