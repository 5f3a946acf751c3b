//! A batch that one server can take: handed on in one write.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{Portal, Prepared};
use crate::error::PgError;
use crate::exec::{Failure, Member, relay};
use crate::plan::Action as PlanAction;
use crate::server::{Server, Statements};
use crate::session::run::Routed;
use crate::session::{Role, Session};
use crate::shard::ShardId;
use crate::wire::frontend::view::{Bind, Execute, Parse, Subject, Target};
use crate::wire::pipeline::Action;
use crate::wire::{backend, frontend};

/// ParseComplete.
const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";

/// What a message of the batch means, names looked up.
enum Op {
    Parse {
        name: Bytes,
        prepared: Arc<Prepared>,
        place: Place,
    },
    Bind {
        prepared: Arc<Prepared>,
        place: Place,
    },
    DescribeStatement {
        prepared: Arc<Prepared>,
        place: Place,
    },
    CloseStatement {
        name: Bytes,
    },
    /// Describe, Execute or Close of a portal: as it came.
    Portal,
}

/// Under which name a server has a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Place {
    /// The unnamed one: a text that no server has taken before may well come once only.
    Unnamed,
    /// A name of our own, under which it stays for the next client.
    Named,
}

/// Statements that a batch has prepared on its server.
pub(in crate::session) type Fresh = SmallVec<[u64; 2]>;

/// A batch and the server for it.
pub(super) struct OneServer {
    place: (ShardId, Role),
    ops: Vec<Op>,
    /// Statements and portals as they are after the batch.
    parsed: Vec<(Bytes, Arc<Prepared>)>,
    bound: Vec<(Bytes, Portal)>,
    routed: Vec<Routed>,
    writes: bool,
    /// Statements that are executed.
    executed: Vec<Arc<Prepared>>,
    /// Whether no server is needed: statements that one has taken before, and nothing run.
    is_known: bool,
}

impl Session {
    /// Whether one server can take the whole batch; `None` if it must be carried out message by
    /// message, errors included. Nothing is changed yet.
    pub(super) async fn one_server(
        &mut self,
        batch: &[(u8, Bytes)],
    ) -> Result<Option<OneServer>, Failure> {
        if self.tx.as_ref().is_some_and(|tx| tx.has_failed) {
            return Ok(None);
        }
        let mut plan = OneServer {
            place: (ShardId(0), Role::held(false)),
            ops: Vec::with_capacity(batch.len()),
            parsed: Vec::new(),
            bound: Vec::new(),
            routed: Vec::new(),
            writes: false,
            executed: Vec::new(),
            is_known: false,
        };
        let mut place = None;
        for (tag, frame) in batch {
            let Ok(Some(op)) = self.understand(*tag, frame, &mut plan, &mut place).await else {
                return Ok(None);
            };
            plan.ops.push(op);
        }
        let version = self.catalog_version();
        let is_known = |op: &Op| match op {
            Op::Parse { prepared, .. } => prepared.text.is_valid(version),
            Op::CloseStatement { .. } => true,
            _ => false,
        };
        // Clients that prepare what others have prepared need not wait for a free server.
        plan.is_known = place.is_none() && plan.ops.iter().all(is_known);
        if plan.is_known {
            return Ok(Some(plan));
        }
        plan.place = match place {
            Some(place) => place,
            None => match plan.parsed.first().map(|(_, it)| it).or_else(|| plan.described()) {
                Some(prepared) => self.parse_place(prepared),
                None => return Ok(None),
            },
        };
        let is_elsewhere = |it: &Member| it.shard != plan.place.0;
        // An implicit transaction of a pipeline without Sync holds another server.
        let held = self.members.iter_mut().any(|it| is_elsewhere(it) && it.server().is_in_batch());
        Ok((!held).then_some(plan))
    }

    async fn understand(
        &mut self,
        tag: u8,
        frame: &Bytes,
        plan: &mut OneServer,
        place: &mut Option<(ShardId, Role)>,
    ) -> Result<Option<Op>, PgError> {
        Ok(Some(match tag {
            b'P' => {
                let parse = Parse::read(frame)?;
                self.check_name(parse.name)?;
                if !parse.name.is_empty() && plan.statement(parse.name).is_some() {
                    return Ok(None);
                }
                let prepared = self.prepare(&parse, frame).await?;
                let plan_of = &prepared.statement.plan;
                if !matches!(plan_of.action, PlanAction::Run(_)) || plan_of.uses.is_some() {
                    return Ok(None);
                }
                let name = frame.slice_ref(parse.name);
                plan.parsed.push((name.clone(), Arc::clone(&prepared)));
                Op::Parse { place: self.place_of(&name, &prepared), name, prepared }
            }
            b'B' => {
                let bind = Bind::read(frame)?;
                let prepared = match plan.statement(bind.statement) {
                    Some(prepared) => prepared,
                    None => {
                        let known = self.statement_named(bind.statement)?;
                        self.fresh(known).await?
                    }
                };
                if prepared.needs_types() || prepared.statement.plan.uses.is_some() {
                    return Ok(None);
                }
                let Some((exact, routed)) = self.route_bound(&prepared, frame)? else {
                    return Ok(None);
                };
                let Some(shard) = routed.shards.single() else { return Ok(None) };
                if !join(place, (shard, routed.role)) {
                    return Ok(None);
                }
                let PlanAction::Run(run) = &exact.statement.plan.action else { return Ok(None) };
                let is_alone = matches!(run.combine, crate::plan::Combine::OneByOne);
                let plan_of = &exact.statement.plan;
                let has_sets = !plan_of.sets.is_empty() || plan_of.unique.is_some();
                if (is_alone || has_sets) && self.database.is_sharded() {
                    return Ok(None);
                }
                let name = frame.slice_ref(bind.portal);
                let place = Some((shard, routed.role));
                let portal = Portal {
                    prepared: exact,
                    bind: frame.clone(),
                    place,
                    max_rows: 0,
                    is_cut: false,
                };
                plan.bound.push((name, portal));
                plan.routed.push(routed);
                Op::Bind { place: self.place_of(bind.statement, &prepared), prepared }
            }
            b'D' => {
                let subject = Subject::read(frame)?;
                if subject.target == Target::Portal {
                    return self.portal_op(subject.name, plan, place);
                }
                let prepared = match plan.statement(subject.name) {
                    Some(prepared) => prepared,
                    None => self.statement_named(subject.name)?,
                };
                if !matches!(prepared.statement.plan.action, PlanAction::Run(_)) {
                    return Ok(None);
                }
                Op::DescribeStatement { place: self.place_of(subject.name, &prepared), prepared }
            }
            b'E' => {
                let execute = Execute::read(frame)?;
                let Some(portal) = self.portal_in(execute.portal, plan) else {
                    return self.portal_op(execute.portal, plan, place);
                };
                if portal.writes() {
                    plan.writes = true;
                    // Bound by an earlier batch: what it writes is not among those of this one.
                    if !plan.bound.iter().any(|(it, _)| it == execute.portal)
                        && let Some((_, routed)) =
                            self.route_bound(&portal.prepared, &portal.bind)?
                    {
                        plan.routed.push(routed);
                    }
                }
                plan.executed.push(Arc::clone(&portal.prepared));
                return self.portal_op(execute.portal, plan, place);
            }
            _ => {
                let subject = Subject::read(frame)?;
                if subject.target == Target::Portal {
                    return self.portal_op(subject.name, plan, place);
                }
                Op::CloseStatement { name: frame.slice_ref(subject.name) }
            }
        }))
    }

    /// Under which name a server is to have a client's statement.
    pub(in crate::session) fn place_of(&self, name: &[u8], prepared: &Prepared) -> Place {
        let is_known = || prepared.text.is_valid(self.catalog_version());
        match !name.is_empty() || (self.cluster.config.pool.reuse_unnamed && is_known()) {
            true => Place::Named,
            false => Place::Unnamed,
        }
    }

    fn portal_in(&self, name: &[u8], plan: &OneServer) -> Option<Portal> {
        let here = plan.bound.iter().rev().find(|(it, _)| it == name).map(|(_, it)| it.clone());
        here.or_else(|| self.portals.get(name).cloned())
    }

    /// The server of a cursor that SQL has declared: it is a portal too. Over one shard the server of
    /// the block judges the name; outside a block the session's own, where cursors WITH HOLD live.
    fn cursor_place(&self, name: &[u8]) -> Option<(ShardId, Role)> {
        let name = std::str::from_utf8(name).ok().filter(|it| !it.is_empty())?;
        self.cursor(name).or_else(|| {
            let judges = |it: &&Member| if self.tx.is_some() { it.in_tx } else { it.is_primary };
            let member =
                self.members.iter().filter(|_| !self.database.is_sharded()).find(judges)?;
            Some((member.shard, Role::held(member.is_primary)))
        })
    }

    fn portal_op(
        &self,
        name: &[u8],
        plan: &OneServer,
        place: &mut Option<(ShardId, Role)>,
    ) -> Result<Option<Op>, PgError> {
        let at = match self.portal_in(name, plan) {
            Some(portal) => portal.place,
            None => self.cursor_place(name),
        };
        Ok(at.filter(|at| join(place, *at)).map(|_| Op::Portal))
    }

    /// Hands the batch on and gives the answers. With `may_repeat`, `true` and no error for the client
    /// if the batch can be handed on again: a statement no longer fitted the schema and was closed, or
    /// the server was lost before it was sent anything.
    pub(super) async fn hand_on(
        &mut self,
        plan: OneServer,
        batch: &[(u8, Bytes)],
        is_sync: bool,
        may_repeat: bool,
    ) -> Result<bool, Failure> {
        if plan.is_known {
            self.take_known(plan);
            return Ok(false);
        }
        let (shard, role) = plan.place;
        if plan.writes {
            self.check_second_write(shard)?;
            for routed in &plan.routed {
                self.open_writes(routed).await;
            }
        }
        for prepared in &plan.executed {
            self.check_pin(&prepared.statement.plan)?;
        }
        self.database.state.metrics.queries.inc_by(plan.executed.len() as u64);
        let can_be_repeated = may_repeat && self.may_repeat(plan.writes);
        let sent = self.client.sent;
        let at = self.member(shard, role).await?;
        if can_be_repeated {
            self.watch_loss(at, true);
        }
        let member = &mut self.members[at];
        member.wrote |= plan.writes;
        let server = member.lease.server();
        // Where nothing is executed a Sync changes nothing, and leaves the server free for others.
        if may_repeat && plan.tells_columns(batch) {
            server.hide_stale();
        }
        let runs_nothing = plan.executed.is_empty() && plan.bound.is_empty();
        let ends = is_sync || (runs_nothing && !server.is_in_batch());
        let mut fresh = Fresh::new();
        for ((tag, frame), op) in batch.iter().zip(&plan.ops) {
            push(server, *tag, frame, op, &mut fresh);
        }
        if ends {
            server.push_sync();
        } else {
            server.push_raw(&super::super::fan_out::message(frontend::flush));
        }
        let describes = plan.ops.iter().any(|it| matches!(it, Op::DescribeStatement { .. }));
        let done = match describes {
            true => self.relay_learning(at, &plan).await,
            false => relay::relay(self.members[at].lease.server(), &mut self.client).await,
        };
        let server = self.members[at].lease.server();
        if server.found_loss() && self.client.sent == sent {
            if !server.is_broken() {
                forget(server, &fresh).await;
            }
            return done.map(|()| false);
        }
        if let Some(is_hidden) = server.found_stale() {
            let named: Fresh = plan.ops.iter().filter_map(Op::named).collect();
            forget(server, &named).await;
            if is_hidden {
                return done.map(|()| true);
            }
        }
        if may_repeat && self.forget_lost(&done) {
            return Ok(true);
        }
        // Also what was handed on before, of the same pipeline.
        let writes = self.members[at].wrote;
        self.note_batch(plan, at, &fresh).await;
        done.map(|()| false).map_err(|it| self.told_of_loss(it, writes))
    }

    fn take_known(&mut self, plan: OneServer) {
        for op in plan.ops {
            match op {
                Op::Parse { name, prepared, .. } => {
                    self.put_statement(&name, prepared);
                    self.parse_complete();
                }
                Op::CloseStatement { name } => {
                    self.drop_statement(&name);
                    self.answer(backend::close_complete);
                }
                Op::Bind { .. } | Op::DescribeStatement { .. } | Op::Portal => (),
            }
        }
    }

    /// Relays frame by frame, to learn the parameter types that the server tells.
    async fn relay_learning(&mut self, at: usize, plan: &OneServer) -> Result<(), Failure> {
        let mut described = plan.ops.iter().filter_map(|op| match op {
            Op::DescribeStatement { prepared, .. } => Some(prepared),
            _ => None,
        });
        let server = self.members[at].lease.server();
        loop {
            let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? else {
                return Ok(());
            };
            if tag == b't'
                && let Some(prepared) = described.next()
                && let Ok(types) = backend::view::parameter_types(&frame)
            {
                let _ = prepared.text.inferred.set(types.iter().collect());
            }
            self.client.out.extend_from_slice(&frame);
        }
    }

    /// Notes what the batch has left: statements, portals, writes.
    async fn note_batch(&mut self, plan: OneServer, at: usize, fresh: &[u64]) {
        let server = self.members[at].lease.server();
        let failed = server.has_failed() || server.is_broken();
        let parsed = server.parsed();
        if failed && !server.is_broken() {
            forget(server, fresh).await;
            server.mark_failed();
        }
        let version = self.catalog_version();
        let kept = if failed { parsed } else { usize::MAX };
        let mut seen = 0;
        for op in &plan.ops {
            match op {
                Op::Parse { name, prepared, .. } if seen < kept => {
                    seen += 1;
                    prepared.text.valid.store(version, Ordering::Relaxed);
                    self.put_statement(name, Arc::clone(prepared));
                }
                Op::CloseStatement { name } if !failed => {
                    self.drop_statement(name);
                }
                _ => (),
            }
        }
        if failed {
            return;
        }
        for (name, portal) in plan.bound {
            self.portals.insert(Bytes::copy_from_slice(&name), portal);
        }
        if self.tx.is_none() {
            self.note_written();
        }
        for prepared in &plan.executed {
            self.after(&prepared.statement).await;
            if let Some(set) = prepared.statement.plan.sets.first() {
                // Over several shards it is not done here.
                self.keep_set_config(set, None);
            }
        }
    }
}

impl Op {
    /// The statement that it uses under a name of ours.
    fn named(&self) -> Option<u64> {
        match self {
            Self::Parse { place: Place::Named, prepared, .. }
            | Self::Bind { place: Place::Named, prepared }
            | Self::DescribeStatement { place: Place::Named, prepared } => Some(prepared.text.id),
            _ => None,
        }
    }
}

impl OneServer {
    /// The statement of that name that this batch has prepared.
    fn statement(&self, name: &[u8]) -> Option<Arc<Prepared>> {
        self.parsed.iter().rev().find(|(it, _)| it == name).map(|(_, it)| Arc::clone(it))
    }

    /// Whether the batch asks for the columns of all it executes. A client that does not goes by those
    /// it was told before, and must hear that they have changed.
    fn tells_columns(&self, batch: &[(u8, Bytes)]) -> bool {
        let describes = |portal: &[u8]| {
            let subject = |frame| Subject::read(frame).ok();
            let mut asked = batch.iter().filter(|it| it.0 == b'D').filter_map(|it| subject(&it.1));
            asked.any(|it| it.target == Target::Portal && it.name == portal)
        };
        let mut binds = batch.iter().filter(|it| it.0 == b'B').map(|it| Bind::read(&it.1));
        binds.all(|bind| {
            let is_parsed = |it: &Bind<'_>| self.statement(it.statement).is_some();
            bind.is_ok_and(|it| is_parsed(&it) || describes(it.portal))
        })
    }

    fn described(&self) -> Option<&Arc<Prepared>> {
        self.ops.iter().find_map(|op| match op {
            Op::DescribeStatement { prepared, .. } => Some(prepared),
            _ => None,
        })
    }
}

/// After an error: which of the statements exist now is not known, so none shall.
pub(in crate::session) async fn forget(server: &mut Server, fresh: &[u64]) {
    for id in fresh {
        server.statements.remove(*id);
        let name = Statements::name(*id);
        server.push_with(b'C', Action::Skip, |out| {
            frontend::close(out, Target::Statement, name.as_bytes());
        });
    }
    if !fresh.is_empty() {
        server.push_sync();
        if server.drain().await.is_err() {
            server.set_broken();
        }
    }
}

/// Whether `place` can be the batch's; a primary serves reads too.
fn join(batch: &mut Option<(ShardId, Role)>, place: (ShardId, Role)) -> bool {
    match batch {
        None => *batch = Some(place),
        Some((shard, _)) if *shard != place.0 => return false,
        Some((_, role)) => *role = role.join(place.1),
    }
    true
}

/// Queues one message on the server, with what it needs before. `fresh` collects what is prepared.
fn push(server: &mut Server, tag: u8, frame: &Bytes, op: &Op, fresh: &mut Fresh) {
    match op {
        Op::Parse { place, prepared, .. } => parse(server, *place, prepared, fresh),
        Op::Bind { place, prepared } => {
            ensure(server, *place, prepared, fresh);
            if let Ok(bind) = Bind::read(frame) {
                let name = server_name(*place, prepared);
                server.push_with(b'B', Action::Forward, |out| {
                    frontend::bind_renamed(out, frame, &bind, name.as_bytes());
                });
            }
        }
        Op::DescribeStatement { place, prepared } => {
            ensure(server, *place, prepared, fresh);
            let own = server_name(*place, prepared);
            server.push_with(b'D', Action::Forward, |out| {
                frontend::describe(out, Target::Statement, own.as_bytes());
            });
        }
        Op::CloseStatement { .. } => server.push_fake(b'C', fake(backend::close_complete)),
        Op::Portal => server.push(tag, frame, Action::Forward),
    }
}

fn fake(build: impl FnOnce(&mut BytesMut)) -> Bytes {
    crate::session::fan_out::message(build).freeze()
}

/// The name that a server knows a statement by.
pub(in crate::session) fn server_name(place: Place, prepared: &Prepared) -> &str {
    match place {
        Place::Unnamed => "",
        Place::Named => &prepared.text.name,
    }
}

/// Prepares a statement for the client, or only says so if the server has it.
pub(in crate::session) fn parse(
    server: &mut Server,
    place: Place,
    prepared: &Prepared,
    fresh: &mut Fresh,
) {
    match place {
        Place::Unnamed => prepare_unnamed(server, prepared, Action::Forward),
        Place::Named if server.statements.touch(prepared.text.id) => {
            server.push_fake(b'P', Bytes::from_static(PARSE_COMPLETE));
        }
        Place::Named => prepare_named(server, prepared, Action::Forward, fresh),
    }
}

fn prepare_unnamed(server: &mut Server, prepared: &Prepared, action: Action) {
    let text = &prepared.text;
    server.statements.unnamed = Some(text.id);
    server.push_with(b'P', action, |out| {
        frontend::parse(out, b"", text.sql(), text.types().iter().copied());
    });
}

fn prepare_named(server: &mut Server, prepared: &Prepared, action: Action, fresh: &mut Fresh) {
    let text = &prepared.text;
    if let Some(old) = server.statements.insert(text.id) {
        let name = Statements::name(old);
        server.push_with(b'C', Action::Skip, |out| {
            frontend::close(out, Target::Statement, name.as_bytes());
        });
    }
    fresh.push(text.id);
    server.push_with(b'P', action, |out| {
        frontend::parse(out, text.name.as_bytes(), text.sql(), text.types().iter().copied());
    });
}

/// Sees to it that the server has the statement that a message names.
pub(in crate::session) fn ensure(
    server: &mut Server,
    place: Place,
    prepared: &Prepared,
    fresh: &mut Fresh,
) {
    match place {
        Place::Unnamed if server.statements.unnamed == Some(prepared.text.id) => (),
        Place::Unnamed => prepare_unnamed(server, prepared, Action::Skip),
        Place::Named if server.statements.touch(prepared.text.id) => (),
        Place::Named => prepare_named(server, prepared, Action::Skip, fresh),
    }
}
