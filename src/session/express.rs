//! The common case, without a detour: one statement whose plan is known, for one server that is free
//! now or held already. Whatever is not sure to be that goes the general way; nothing was done then.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::extended::batch::{self, Fresh, Place};
use super::extended::{Portal, bound};
use super::run::Routed;
use super::statement::names_user;
use super::transaction::SchemaOfBlock;
use super::{Role, Session};
use crate::exec::{Failure, relay};
use crate::plan::cache::{Basis, CachedPlan, Sought, Verb};
use crate::plan::route::{Arguments, Call};
use crate::plan::{Access, Action as PlanAction, Combine, Plan, Run};
use crate::pool::Lease;
use crate::proxy::{Parsed, Prepared};
use crate::server::{Server, Setting};
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
    since: Instant,
    /// The unnamed statement that it prepares for its client.
    parsed: Option<Arc<Prepared>>,
    /// What it prepares on the server.
    fresh: Fresh,
    /// The statement that it runs there under a name of ours.
    named: Option<u64>,
    /// Bytes of the request, which stays at the front of the input until it is answered.
    len: usize,
}

/// Where its server is.
enum Via {
    /// Leased for this statement only.
    Lease(Lease),
    /// Held by the session.
    Member(usize),
}

impl Session {
    /// Takes the request at the front of the input and queues it on a server; `None` if that is not
    /// the common case.
    pub(super) fn board(&mut self) -> Option<Express> {
        if self.skips_to_sync {
            return None;
        }
        match self.client.input.first()? {
            b'Q' if self.is_plain() => self.board_query(),
            b'P' | b'B' if self.is_plain() => self.board_batch(),
            _ => None,
        }
    }

    fn board_query(&mut self) -> Option<Express> {
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
        let (cached, routed) = self.route_plain(sql)?;
        let PlanAction::Run(run) = &cached.plan.action else { return None };
        let mut express = self.find_server(run, &routed)?;
        if !self.statements.is_empty() {
            self.statements.remove(&b""[..]);
        }
        self.take_off(&mut express, &routed);
        let server = express.via.server(&mut self.members);
        server.statements.unnamed = None;
        server.push(b'Q', &self.client.input[..next.len], Action::Forward);
        express.len = next.len;
        Some(express)
    }

    /// Bind, Describe, Execute, Sync of the unnamed portal, with or without a Parse before.
    fn board_batch(&mut self) -> Option<Express> {
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
        if self.may_unpin(prepared.statement.sql()) {
            return None;
        }
        if !is_known || !bind.portal.is_empty() || may_have_directives(&prepared.statement.text) {
            return None;
        }
        let place = self.place_of(bind.statement, &prepared);
        let after = parts.bind.start + bind.after_statement;
        let run = plain_run(&prepared.statement.plan, prepared.statement.verb())?;
        let routed = {
            let bound = bound(&bind, &input[parts.bind.clone()], &prepared.text);
            let call = prepared.statement.call(bound.as_route());
            let (verb, is_shared) = (prepared.statement.verb(), prepared.statement.is_shared);
            self.route_call(run, &call, verb, is_shared).ok()??
        };
        let mut express = self.find_server(run, &routed)?;
        if self.tx.is_some() {
            let bind = Bytes::copy_from_slice(&self.client.input[parts.bind.clone()]);
            let at = (express.shard, routed.role);
            self.portals.insert(Bytes::new(), Portal::placed(Arc::clone(&prepared), bind, at));
        }
        self.take_off(&mut express, &routed);
        let server = express.via.server(&mut self.members);
        let mut fresh = Fresh::new();
        match &parts.parse {
            Some(_) => batch::parse(server, place, &prepared, &mut fresh),
            None => batch::ensure(server, place, &prepared, &mut fresh),
        }
        let name = batch::server_name(place, &prepared);
        let rest = &self.client.input[after..parts.bind.end];
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
        express.len = parts.len;
        express.fresh = fresh;
        express.named = (place == Place::Named).then_some(prepared.text.id);
        if parts.parse.is_some() {
            self.statements.remove(&b""[..]);
            express.parsed = Some(prepared);
        }
        Some(express)
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
        let version = self.schema_version(self.database.state.catalog.load().as_ref()?);
        let database = &*self.database_name;
        self.proxy.prepared.find(&Parsed { sql: parse.sql, types, path, database, version })
    }

    /// Notes that a statement is on its way.
    fn take_off(&mut self, express: &mut Express, routed: &Routed) {
        if express.writes {
            self.note_buckets(routed);
        }
        self.queries += 1;
        self.handle.activity.run(self.queries);
        self.client.has_copied = false;
        self.database.state.metrics.queries.inc();
        let status = if self.tx.is_some() { TxStatus::Open } else { TxStatus::Idle };
        let server = express.via.server(&mut self.members);
        server.begin_request();
        server.pass_ready(status);
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

    /// The known plan of a statement and where it goes, if the session only has to send it.
    fn route_plain(&self, sql: &str) -> Option<(Arc<CachedPlan>, Routed)> {
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
        Some((cached, routed))
    }

    /// A server that can take a statement at once, as the session's settings want it.
    fn find_server(&mut self, run: &Run, routed: &Routed) -> Option<Express> {
        let shard = routed.shards.single()?;
        let role = self.role_at(shard, routed.role);
        let writes = run.access == Access::Write;
        let since = self.client.thread.now();
        let settings = self.tx.as_ref().map_or(&self.settings, |tx| tx.settings_at_begin());
        if let [member] = &mut self.members[..] {
            let fits = member.in_tx || member.is_primary == (role == Role::Primary);
            let server = member.lease.server();
            let is_free = !server.is_owing() && !server.is_in_batch() && !server.is_broken();
            let is_set = member.in_tx || Arc::ptr_eq(&server.settings, settings);
            if member.shard != shard || !fits || !is_free || !is_set {
                return None;
            }
            member.wrote |= writes && member.in_tx;
            return Some(Express::new(Via::Member(0), shard, writes, since));
        }
        // A server of another session knows that session's `currval`.
        if self.database.state.uses_sequences.load(Ordering::Relaxed) {
            return None;
        }
        let hosts = self.database.shards.get(&shard)?;
        let replica = (role == Role::Replica).then(|| hosts.idlest_replica()).flatten();
        let host = replica.unwrap_or(&hosts.primary);
        let pool = self.database.pool(host, &self.account);
        let mut lease = pool.take_now(self.thread, since)?.of_primary(replica.is_none());
        let server = lease.server();
        if !Arc::ptr_eq(&server.settings, settings) {
            if server.settings != *settings {
                lease.give_back(since);
                return None;
            }
            // Equal: the next look is at the pointers only.
            server.settings = Arc::clone(settings);
        }
        self.handle.servers.lock().push(Arc::clone(&server.cancel));
        Some(Express::new(Via::Lease(lease), shard, writes, since))
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
        self.part(express);
        match done {
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

    /// Drops a request in the middle of its answer.
    pub(super) fn cut_off(&mut self, express: &mut Option<Express>) {
        let Some(mut dropped) = express.take() else { return };
        // Before: a cancel request must not find the server here any more.
        self.handle.servers.lock().clear();
        self.is_cut_off = dropped.via.server(&mut self.members).is_passing();
    }

    /// Notes what a request has left and parts with its server.
    fn part(&mut self, mut express: Express) {
        self.client.input.advance(express.len);
        let server = express.via.server(&mut self.members);
        if let Some(parsed) = express.parsed.take().filter(|_| server.parsed() > 0) {
            parsed.text.valid.store(parsed.version, Ordering::Relaxed);
            self.statements.insert(Bytes::new(), parsed);
        }
        if express.writes && self.tx.is_none() {
            self.note_written_on(express.shard);
        }
        if let Via::Lease(mut lease) = express.via {
            self.last_server = Some(lease.server().turn());
            let now = self.client.thread.now();
            let time = now.saturating_duration_since(express.since);
            lease.pool().metrics.query.observe(time.as_secs_f64());
            // Before it is given back: a cancel request must not find it here any more.
            self.handle.servers.lock().clear();
            lease.give_back(now);
        }
        self.note_rest();
    }
}

impl Express {
    fn new(via: Via, shard: ShardId, writes: bool, since: Instant) -> Self {
        let (parsed, fresh, named, len) = (None, Fresh::new(), None, 0);
        Self { via, shard, writes, since, parsed, fresh, named, len }
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
        && plan.sets.is_none()
        && plan.unsettled.is_empty()
        && plan.uses.is_none()
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
