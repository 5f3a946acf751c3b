//! The common case, without a detour: one statement whose plan is known, for one server that is free
//! now or held already. Whatever is not sure to be that goes the general way; nothing was done then.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use smallvec::SmallVec;

use super::extended::batch::{self, Fresh, Place};
use super::extended::has_literal;
use super::extended::{Portal, bound};
use super::failover::is_loss;
use super::run::Routed;
use super::spliced::Spliced;
use super::statement::names_user;
use super::transaction::SchemaOfBlock;
use super::{Role, Session};
use crate::error::PgError;
use crate::exec::{Failure, relay};
use crate::net::Moment;
use crate::plan::cache::{Basis, Sought, Verb};
use crate::plan::route::{Arguments, Call};
use crate::plan::{Access, Action as PlanAction, Combine, Plan, Run};
use crate::pool::cluster::Host;
use crate::pool::{self, Grant, Lease, Pool};
use crate::proxy::{Parsed, Prepared, Signals};
use crate::server::{Loss, Server, Setting};
use crate::shard::ShardId;
use crate::wire::frame;
use crate::wire::frontend;
use crate::wire::frontend::view::{Bind, Parse};
use crate::wire::pipeline::{Action, TxStatus};

/// Describe of the unnamed portal.
const DESCRIBE: &[u8] = b"D\0\0\0\x06P\0";
/// Execute of the unnamed portal, all rows.
const EXECUTE: &[u8] = b"E\0\0\0\x09\0\0\0\0\0";
/// Sync.
const SYNC: &[u8] = b"S\0\0\0\x04";

/// A request that has been queued on its server.
pub(super) struct Express {
    via: Via,
    shard: ShardId,
    writes: bool,
    since: Moment,
    /// The unnamed statement that it prepares for its client.
    parsed: Option<Arc<Prepared>>,
    /// What it prepares on the server.
    fresh: Fresh,
    /// The statement that it runs there under a name of ours.
    named: Option<u64>,
    /// Instead of the Query that it came as.
    spliced: Option<Box<Spliced>>,
    /// Bytes of the request, which stays at the front of the input until it is answered.
    len: usize,
    /// Bytes that the client was sent before.
    sent: u64,
}

/// Where its server is.
enum Via {
    /// Leased for this statement only.
    Lease(Lease),
    /// Held by the session.
    Member(usize),
}

/// A request whose plan is known, and where it goes.
struct Trip {
    routed: Routed,
    shard: ShardId,
    writes: bool,
    /// Bytes of the request.
    len: usize,
    request: Request,
}

enum Request {
    /// As it is, or as a prepared statement.
    Query(Option<Box<Spliced>>),
    Batch {
        prepared: Arc<Prepared>,
        place: Place,
        parts: Parts,
        /// Where the Bind goes on after the names.
        rest: Range<usize>,
    },
}

/// A request that waits for a server.
pub(super) struct Standby {
    trip: Trip,
    is_primary: bool,
    place: pool::Place,
}

/// What a wait has brought to a request that needs more than the common case.
pub(super) struct Granted {
    pub(super) pool: Arc<Pool>,
    pub(super) outcome: Result<Grant, PgError>,
}

enum Found {
    Server(Via),
    Line(Box<(bool, pool::Place)>),
}

impl Session {
    /// Takes the request at the front of the input and queues it on a server, or gets into the line for
    /// one ([`Self::poll_standby`]); `None` and no place in a line if that is not the common case.
    pub(super) fn board(&mut self) -> Option<Express> {
        let is_asleep = self.database.state.sleep.is_asleep();
        if self.skips_to_sync || self.granted.is_some() || is_asleep || self.has_had_answer() {
            return None;
        }
        let trip = match self.client.input.first()? {
            b'Q' if self.is_plain() => self.plan_query()?,
            b'P' | b'B' if self.is_plain() => self.plan_batch()?,
            _ => return None,
        };
        let since = self.client.thread.now();
        match self.find_server(&trip, since)? {
            Found::Server(via) => match self.take_off(trip, via, since) {
                Ok(express) => Some(express),
                Err(via) => {
                    self.stay(via, since);
                    None
                }
            },
            Found::Line(found) => {
                let (is_primary, place) = *found;
                self.queries += 1;
                self.handle.activity.run(self.queries);
                self.standby = Some(Box::new(Standby { trip, is_primary, place }));
                None
            }
        }
    }

    /// Waits in the line for a server. What it brings is the ride, or [`Self::granted`] for the general
    /// way.
    pub(super) fn poll_standby(&mut self, cx: &mut Context<'_>) -> Poll<Option<Express>> {
        let Some(standby) = &mut self.standby else { return Poll::Ready(None) };
        let outcome = match self.handle.signals.is_raised(Signals::OVERDUE) {
            true => self.handle.overdue().map(Err),
            false => None,
        };
        let outcome = match outcome {
            Some(overdue) => overdue,
            None => ready!(standby.place.poll(cx)),
        };
        let Some(standby) = self.standby.take() else { return Poll::Ready(None) };
        let Standby { trip, is_primary, place } = *standby;
        let now = self.client.thread.now();
        place.pool().note_wait(place.since(), now);
        let outcome = match outcome {
            Ok(Grant::Server(lease)) => match self.fit(lease.of_primary(is_primary)) {
                Ok(mut lease) => {
                    place.pool().numbers.leases.fetch_add(1, Ordering::Relaxed);
                    self.queries -= 1; // counted again at once
                    let cancel = Arc::clone(&lease.server().cancel);
                    self.handle.servers.lock().push(cancel);
                    match self.take_off(trip, Via::Lease(lease), now) {
                        Ok(express) => return Poll::Ready(Some(express)),
                        Err(via) => self.stay(via, now),
                    }
                    return Poll::Ready(None);
                }
                Err(lease) => Ok(Grant::Server(lease)),
            },
            other => other,
        };
        self.granted = Some(Box::new(Granted { pool: Arc::clone(place.pool()), outcome }));
        Poll::Ready(None)
    }

    /// The lease, if its server is this thread's, alive and as the session's settings want it; as it was
    /// if not.
    fn fit(&self, mut lease: Lease) -> Result<Lease, Lease> {
        let settings = self.tx.as_ref().map_or(&self.settings, |tx| tx.settings_at_begin());
        let server = lease.server();
        let is_usable = server.thread == self.thread && server.is_alive();
        if is_usable && !Arc::ptr_eq(&server.settings, settings) && server.settings == *settings {
            // Equal: the next look is at the pointers only.
            server.settings = Arc::clone(settings);
        }
        match is_usable && Arc::ptr_eq(&server.settings, settings) {
            true => Ok(lease),
            false => Err(lease),
        }
    }

    fn plan_query(&mut self) -> Option<Trip> {
        let input = &self.client.input[..];
        let next = frame::next_frontend(input, self.client.message_limit).ok()??;
        if next.len > self.client.text_limit {
            return None;
        }
        let message = input.get(..next.len)?;
        let sql = std::str::from_utf8(frontend::view::query(message).ok()?).ok()?;
        if may_have_directives(sql.as_bytes()) || self.may_unpin(sql) {
            return None;
        }
        let (writes, routed, spliced) = self.route_plain(sql)?;
        self.sends_as_is = false;
        let shard = routed.shards.single()?;
        let request = Request::Query(spliced);
        Some(Trip { routed, shard, writes, len: next.len, request })
    }

    /// Bind, Describe, Execute, Sync of the unnamed portal, with or without a Parse before.
    fn plan_batch(&mut self) -> Option<Trip> {
        let input = &self.client.input[..];
        let parts = Parts::read(input, self.client.message_limit)?;
        let bind = Bind::read(&input[parts.bind.clone()]).ok()?;
        let prepared = match &parts.parse {
            Some(range) if bind.statement.is_empty() => {
                let parse = Parse::read(&input[range.clone()]).ok()?;
                let types: SmallVec<[u32; 8]> = parse.types.iter().collect();
                self.known_parse(&parse, &types).filter(|_| parse.name.is_empty())?
            }
            Some(_) => return None,
            None => Arc::clone(self.statements.get(bind.statement)?),
        };
        let catalog = self.database.state.catalog.load();
        let is_fresh = prepared.version == self.schema_version(catalog.as_ref()?);
        let is_known = is_fresh && !prepared.needs_types();
        if self.pin.is_some() && self.may_unpin(prepared.statement.sql()) {
            return None;
        }
        if !is_known || !bind.portal.is_empty() || may_have_directives(&prepared.statement.text) {
            return None;
        }
        let place = self.place_of(bind.statement, &prepared);
        let rest = parts.bind.start + bind.after_statement..parts.bind.end;
        let run = plain_run(&prepared.statement.plan, prepared.statement.verb())?;
        let routed = {
            let bound = bound(&bind, &input[parts.bind.clone()], &prepared.text);
            let call = prepared.statement.call_for_route(bound.as_route());
            let (verb, is_shared) = (prepared.statement.verb(), prepared.statement.is_shared);
            self.route_call(run, &call, verb, is_shared).ok()??
        };
        let (shard, writes) = (routed.shards.single()?, run.access == Access::Write);
        let len = parts.len;
        let request = Request::Batch { prepared, place, parts, rest };
        Some(Trip { routed, shard, writes, len, request })
    }

    /// Gives a server back that nothing was sent to.
    fn stay(&self, via: Via, now: Moment) {
        if let Via::Lease(lease) = via {
            self.handle.servers.lock().clear();
            lease.give_back(now);
        }
    }

    /// Queues the request on its server; gives that back if other proxies must hear of it first.
    fn take_off(&mut self, trip: Trip, via: Via, since: Moment) -> Result<Express, Via> {
        let Trip { routed, shard, writes, len, request } = trip;
        if writes && !self.open_writes_now(&routed) {
            return Err(via);
        }
        self.queries += 1;
        self.handle.activity.run(self.queries);
        self.client.has_copied = false;
        self.note_front();
        self.database.state.metrics.queries.inc();
        let status = if self.tx.is_some() { TxStatus::Open } else { TxStatus::Idle };
        let mut express = Express::new(via, shard, writes, since);
        express.len = len;
        let (may_repeat, is_replica) = match &express.via {
            Via::Lease(lease) => (!writes && self.avoid.is_none(), !lease.is_primary()),
            Via::Member(_) => (false, false),
        };
        let server = express.via.server(&mut self.members);
        server.begin_request();
        server.pass_ready(status);
        if may_repeat {
            server.watch_loss(Loss::Hide, is_replica);
        }
        express.sent = self.client.sent;
        match request {
            Request::Query(spliced) => {
                if !self.statements.is_empty() {
                    self.statements.remove(&b""[..]);
                }
                let message = &self.client.input[..len];
                match &spliced {
                    Some(it) => it.push(server, message, &mut express.fresh),
                    None => {
                        server.statements.unnamed = None;
                        server.push(b'Q', message, Action::Forward);
                    }
                }
                express.spliced = spliced;
            }
            Request::Batch { prepared, place, parts, rest } => {
                self.queue_batch(&mut express, prepared, place, &parts, rest, routed.role);
            }
        }
        Ok(express)
    }

    fn queue_batch(
        &mut self,
        express: &mut Express,
        prepared: Arc<Prepared>,
        place: Place,
        parts: &Parts,
        rest: Range<usize>,
        role: Role,
    ) {
        if self.tx.is_some() {
            let bind = Bytes::copy_from_slice(&self.client.input[parts.bind.clone()]);
            let at = (express.shard, role);
            self.portals.insert(Bytes::new(), Portal::placed(Arc::clone(&prepared), bind, at));
        }
        let server = express.via.server(&mut self.members);
        match &parts.parse {
            Some(_) => batch::parse(server, place, &prepared, &mut express.fresh),
            None => batch::ensure(server, place, &prepared, &mut express.fresh),
        }
        let name = batch::server_name(place, &prepared);
        let rest = &self.client.input[rest];
        server.push_with(b'B', Action::Forward, |out| {
            frontend::bind_rest(out, b"", name.as_bytes(), rest);
        });
        if parts.describes {
            server.push(b'D', DESCRIBE, Action::Forward);
        }
        server.push(b'E', EXECUTE, Action::Forward);
        server.push(b'S', SYNC, Action::Forward);
        // A client that does not ask for the columns goes by those it was told before.
        if self.tx.is_none() && (parts.describes || parts.parse.is_some()) {
            server.hide_stale();
        }
        express.named = (place == Place::Named).then_some(prepared.text.id);
        if parts.parse.is_some() {
            self.statements.remove(&b""[..]);
            express.parsed = Some(prepared);
        }
    }

    /// The statement of a Parse that came before, from whichever client, if it is nothing special.
    pub(super) fn known_parse(&self, parse: &Parse<'_>, types: &[u32]) -> Option<Arc<Prepared>> {
        let is_common = self.pin.is_none()
            && self.routing.tenant.is_none()
            && matches!(self.schema_of_block, SchemaOfBlock::Unchanged);
        if !is_common || may_have_directives(parse.sql) {
            return None;
        }
        let path = match self.settings.get("search_path") {
            Some(Setting::Statement(it) | Setting::Value(it)) if names_user(it) => return None,
            Some(Setting::Statement(it) | Setting::Value(it)) => it,
            None => "",
        };
        if self.has_local_settings() && has_literal(parse.sql) {
            return None;
        }
        let with_settings = self.literal_settings(parse.sql).map(|it| format!("{path}{it}"));
        let path = with_settings.as_deref().unwrap_or(path);
        let version = self.schema_version(self.database.state.catalog.load().as_ref()?);
        let database = &*self.database.name;
        self.proxy.prepared.find(&Parsed { sql: parse.sql, types, path, database, version })
    }

    /// Whether nothing about the session asks for more than a look at the statement.
    fn is_plain(&self) -> bool {
        let may_run = match &self.tx {
            Some(tx) => !tx.has_failed && self.members.len() == 1 && self.members[0].in_tx,
            None => self.members.len() <= 1 && self.members.is_empty() != self.keeps_servers(),
        };
        may_run
            && self.routing.tenant.is_none()
            && matches!(self.schema_of_block, SchemaOfBlock::Unchanged)
            && self.batch.is_empty()
            && self.listening.is_none()
            && self.proxy.is_current(&self.cluster)
    }

    /// Whether a statement whose plan is known writes, and where it goes, if the session only has to
    /// send it; as what it is sent.
    fn route_plain(&self, sql: &str) -> Option<(bool, Routed, Option<Box<Spliced>>)> {
        let catalog = self.database.state.catalog.load();
        let mut fingerprint = self.client.thread.fingerprint();
        fingerprint.read(sql);
        if fingerprint.has_semicolon_inside() {
            return None;
        }
        let session = self.path_hash(&fingerprint);
        let basis = Basis { catalog_version: catalog.as_ref()?.version, session, types: &[] };
        let sought = Sought { sql, fingerprint: &fingerprint, basis };
        let cached = self.database.state.plans.find(&sought)?;
        let run = plain_run(&cached.plan, cached.verb)?;
        let is_shared = cached.plan.is_shareable;
        let planned = &*cached.slots;
        let slots = if is_shared { fingerprint.slots() } else { planned };
        let call = Call { sql, slots, planned, args: Arguments::None };
        let routed = self.route_call(run, &call, cached.verb, is_shared).ok()??;
        let spliced = self.splice(&cached, sql, fingerprint.slots());
        Some((run.access == Access::Write, routed, spliced))
    }

    /// A server that can take a statement at once, as the session's settings want it, or a place in the
    /// line for one.
    fn find_server(&mut self, trip: &Trip, since: Moment) -> Option<Found> {
        let shard = trip.shard;
        let role = self.role_at(shard, trip.routed.role);
        if let [member] = &self.members[..] {
            let settings = self.tx.as_ref().map_or(&self.settings, |tx| tx.settings_at_begin());
            let fits = match role {
                Role::Primary => member.in_tx || member.is_primary,
                Role::Replica(_) if member.is_primary => member.in_tx,
                Role::Replica(need) => self.has_seen(&member.lease.pool().replayed, shard, need),
            };
            let member = &mut self.members[0];
            let server = member.lease.server();
            let is_free = !server.is_owing() && !server.is_in_batch() && !server.is_broken();
            let is_set = member.in_tx || Arc::ptr_eq(&server.settings, settings);
            if member.shard != shard || !fits || !is_free || !is_set {
                return None;
            }
            member.wrote |= trip.writes && member.in_tx;
            return Some(Found::Server(Via::Member(0)));
        }
        // A server of another session knows that session's `currval`.
        if self.database.state.uses_sequences.load(Ordering::Relaxed) {
            return None;
        }
        let hosts = self.database.shards.get(&shard)?;
        let replica = match role {
            Role::Primary => None,
            Role::Replica(need) => {
                let may_serve = |it: &Host| self.may_serve(it, need);
                let found = hosts.idlest_replica(self.draw(since), may_serve);
                if found.is_none() {
                    // Not all may go to the primary at once.
                    if hosts.has_lost_replicas(since) || self.is_worth_waiting(hosts, need) {
                        return None;
                    }
                    self.database.state.metrics.causal_misses.inc();
                }
                found
            }
        };
        if replica.is_none() && !hosts.is_open() {
            return None; // waits for a primary
        }
        let host = replica.unwrap_or(&hosts.primary);
        if host.standing.is_broken() {
            return None;
        }
        let pool = self.database.pool(host, &self.account);
        let is_primary = replica.is_none();
        let Some(lease) = pool.take_now(self.thread, since) else {
            let place = pool.stand(self.thread, since)?;
            return Some(Found::Line(Box::new((is_primary, place))));
        };
        match self.fit(lease.of_primary(is_primary)) {
            Ok(mut lease) => {
                let cancel = Arc::clone(&lease.server().cancel);
                self.handle.servers.lock().push(cancel);
                Some(Found::Server(Via::Lease(lease)))
            }
            Err(lease) => {
                lease.give_back(since);
                None
            }
        }
    }

    /// Hands the answer on.
    pub(super) fn poll_ride(
        &mut self,
        express: &mut Express,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        let server = express.via.server(&mut self.members);
        relay::poll_relay(server, &mut self.client, cx)
    }

    /// Gives the server back after an answer. `false`, and nothing was done, if it was an error or
    /// left the client to be told that it may go on: see [`Self::land`].
    pub(super) fn alight(
        &mut self,
        express: &mut Option<Express>,
        done: &Result<(), Failure>,
    ) -> bool {
        let Some(arrived) = express else { return true };
        let server = arrived.via.server(&mut self.members);
        if done.is_err() || server.has_failed() || !server.has_told_ready() {
            return false;
        }
        if let Some(arrived) = express.take() {
            self.part(arrived);
        }
        true
    }

    /// As [`Self::alight`], whatever the answer was.
    pub(super) async fn land(
        &mut self,
        mut express: Express,
        done: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let server = express.via.server(&mut self.members);
        let (has_failed, told) = (server.has_failed(), server.has_told_ready());
        if server.found_loss() && self.client.sent == express.sent {
            if !server.is_broken() {
                batch::forget(server, &express.fresh).await;
            }
            self.board_again(express);
            return Ok(());
        }
        if let (Some(spliced), Some(why)) = (&express.spliced, server.unprepared()) {
            spliced.leave(server, why).await;
            // Nothing was told: it is still there and goes as it is.
            self.sends_as_is = true;
            self.client.out.clear();
            express.len = 0;
            self.part(express);
            return Ok(());
        }
        if let Some(is_hidden) = server.found_stale() {
            batch::forget(server, express.named.as_slice()).await;
            if is_hidden {
                // It is repeated: nothing of the answer was told, the request is still there.
                self.client.out.clear();
                express.len = 0;
                express.parsed = None;
                self.part(express);
                return Ok(());
            }
        } else if has_failed && !express.fresh.is_empty() && !server.is_broken() {
            batch::forget(server, &express.fresh).await;
        }
        let is_alone = self.tx.is_none() && !self.keeps_servers();
        if is_alone && matches!(&done, Err(Failure::Error(it)) if it.is_passing && is_loss(it)) {
            // As nothing has reached the server it goes to another.
            express.len = 0;
            express.parsed = None;
            self.part(express);
            return Ok(());
        }
        let (writes, len) = (express.writes, express.len);
        let is_cut_off = express.via.server(&mut self.members).is_passing();
        if self.resume.is_some() && done.is_err() {
            express.len = 0;
            self.part(express);
            if self.resumes(&done).await? {
                return Ok(());
            }
            self.client.drop_front(len);
        } else {
            self.part(express);
        }
        match done.map_err(|it| self.told_of_loss(it, writes)) {
            Err(_) if is_cut_off => return Err(Failure::Gone),
            Err(failure) => {
                self.settle(Err(failure))?;
                self.release();
            }
            Ok(()) if has_failed => {
                self.database.state.metrics.errors.inc();
                self.fail_transaction();
            }
            Ok(()) => (),
        }
        if !told {
            self.ready();
        }
        self.flush().await
    }

    /// Parts with a server that was lost: the request goes to another host.
    fn board_again(&mut self, mut express: Express) {
        self.client.out.clear();
        (express.len, express.parsed) = (0, None);
        if let Via::Lease(lease) = &mut express.via {
            let (pool, is_conflict) = (Arc::clone(lease.pool()), lease.server().found_conflict());
            self.avoid(&pool, is_conflict);
        }
        self.part(express);
    }

    /// Drops a request in the middle of its answer.
    pub(super) fn cut_off(&mut self, express: &mut Option<Express>) {
        let Some(mut dropped) = express.take() else { return };
        // Before: a cancel request must not find the server here any more.
        self.handle.servers.lock().clear();
        self.is_cut_off = dropped.via.server(&mut self.members).is_passing();
    }

    /// Notes what a request has left and parts with its server.
    fn part(&mut self, mut express: Express) {
        self.client.drop_front(express.len);
        if express.len > 0 && self.avoid.is_some() {
            self.avoid = None;
        }
        let server = express.via.server(&mut self.members);
        let server_is_lost = server.is_broken();
        if let Some(parsed) = express.parsed.take().filter(|_| server.parsed() > 0) {
            parsed.text.valid.store(parsed.version, Ordering::Relaxed);
            self.statements.insert(Bytes::new(), parsed);
        }
        if express.writes && self.tx.is_none() {
            self.note_written_on(express.shard);
            match server_is_lost {
                true => self.writing.doubt(),
                false => self.writing.end(),
            }
        }
        if let Via::Lease(mut lease) = express.via {
            self.last_server = Some(lease.server().turn());
            let now = self.client.thread.now();
            let seconds = now.seconds_since(express.since);
            let is_lost = lease.server().is_lost();
            let pool = lease.pool();
            pool.metrics.query.observe(seconds);
            if !is_lost {
                pool.standing.answered(now, seconds);
            }
            // Before it is given back: a cancel request must not find it here any more.
            self.handle.servers.lock().clear();
            lease.give_back(now);
        }
        if self.resume.is_some() {
            self.trim_tape();
        }
        self.note_rest();
    }
}

impl Express {
    fn new(via: Via, shard: ShardId, writes: bool, since: Moment) -> Self {
        let (parsed, fresh, named) = (None, Fresh::new(), None);
        let (len, sent) = (0, 0);
        Self { via, shard, writes, since, parsed, fresh, named, spliced: None, len, sent }
    }
}

impl Via {
    fn server<'a>(&'a mut self, members: &'a mut [crate::exec::Member]) -> &'a mut Server {
        match self {
            Self::Lease(lease) => lease.server(),
            Self::Member(at) => members[*at].lease.server(),
        }
    }
}

/// What servers are to run, if nothing but its answer comes of it.
fn plain_run(plan: &Plan, verb: Verb) -> Option<&Run> {
    let PlanAction::Run(run) = &plan.action else { return None };
    let is_plain = plan.pin.is_none()
        && !plan.changes_schema
        && !plan.alters
        && plan.sets.is_empty()
        && plan.unsettled.is_empty()
        && plan.uses.is_none()
        && plan.unique.is_none()
        && !matches!(verb, Verb::Lock | Verb::Copy)
        && !matches!(run.combine, Combine::OneByOne);
    is_plain.then_some(run)
}

/// Whether a comment before the statement may say something to the proxy.
fn may_have_directives(sql: &[u8]) -> bool {
    matches!(sql.first(), None | Some(b'/' | b'-' | b' ' | b'\t'..=b'\r'))
}

/// The messages of a common batch, as places in the input.
struct Parts {
    parse: Option<Range<usize>>,
    bind: Range<usize>,
    describes: bool,
    len: usize,
}

impl Parts {
    fn read(input: &[u8], limit: usize) -> Option<Self> {
        let mut at = 0;
        let parse = take(input, &mut at, b'P', limit);
        let bind = take(input, &mut at, b'B', limit)?;
        let mut rest = &input[at..];
        let describes = rest.starts_with(DESCRIBE);
        if describes {
            rest = &rest[DESCRIBE.len()..];
        }
        let rest = rest.strip_prefix(EXECUTE)?.strip_prefix(SYNC)?;
        Some(Self { parse, bind, describes, len: input.len() - rest.len() })
    }
}

/// The whole frame at `at`, if it has this tag.
fn take(input: &[u8], at: &mut usize, tag: u8, limit: usize) -> Option<Range<usize>> {
    let next = frame::next_frontend(&input[*at..], limit).ok()??;
    if next.tag != tag || input.len() - *at < next.len {
        return None;
    }
    let start = *at;
    *at += next.len;
    Some(start..*at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_common_batch_is_taken() {
        let mut bind = bytes::BytesMut::new();
        frontend::bind(&mut bind, b"", &[Some(b"1")], 0);
        let batch = |parts: &[&[u8]]| Parts::read(&parts.concat(), 1 << 20);
        assert_eq!(batch(&[&bind, EXECUTE, SYNC]).map(|it| it.len), Some(bind.len() + 15));
        let long = batch(&[&bind, DESCRIBE, EXECUTE, SYNC, &bind]).unwrap();
        assert!(long.describes && long.len == bind.len() + 22 && long.parse.is_none());
        assert!(batch(&[&bind, EXECUTE]).is_none());
        assert!(batch(&[&bind, b"E\0\0\0\x09\0\0\0\0\x05", SYNC]).is_none());
        assert!(batch(&[&bind, &bind, EXECUTE, SYNC]).is_none());
        assert!(batch(&[&bind[..bind.len() - 1]]).is_none());
    }
}
