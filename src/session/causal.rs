//! Reads that see what was written: which hosts have seen enough.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::SmallVec;

use super::run::Routed;
use super::{Role, Session};
use crate::balance::positions::Lsn;
use crate::balance::token::Token;
use crate::config::Consistency;
use crate::error::{PgError, sqlstate};
use crate::plan::cache::Verb;
use crate::plan::{Access, Run};
use crate::pool::cluster::{Host, Shard};
use crate::pool::replay::Replayed;
use crate::pool::writes::{Mark, Stamp};
use crate::shard::{Key, KeyType, ShardId, ShardSet};

/// How long a read in a block on a replica waits for it to have seen what was written meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections that a primary has in use without being busy.
const SPARE: usize = 4;

/// The last write that a read must see, by its ticket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need(pub(super) u64);

/// What the session has written on a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    shard: ShardId,
    last: Stamp,
    /// The last that was not only rows of known tenants.
    loose: Stamp,
}

/// What a statement writes or reads: empty means rows of all tenants.
pub(super) type Marks = SmallVec<[Mark; 4]>;

/// What keys stand for; `None` is everything without a tenant.
pub(super) fn marks_of<'a>(keys: impl Iterator<Item = Option<&'a Key>>) -> Marks {
    keys.map(|key| key.map_or(Mark::UNTENANTED, |it| Mark::slot(it.slot()))).collect()
}

impl Session {
    /// Whether a statement may run on replicas, and what they must have seen.
    pub(super) fn role(&self, run: &Run, shards: ShardSet, marks: &[Mark], verb: Verb) -> Role {
        let may_read_replica = run.access == Access::Read
            && self.database.has_replicas
            && (self.tx.is_none() || self.is_read_only())
            && verb != Verb::Show
            && self.pin.is_none();
        if !may_read_replica {
            return Role::Primary;
        }
        if let Some(role) = self.routing.role {
            return role;
        }
        if self.routing.max_staleness.is_some() {
            return Role::Replica(Need::default());
        }
        let needed = match self.database.config.consistency {
            Consistency::Time => self.recent_need(shards, marks),
            _ => self.causal_need(shards, marks),
        };
        needed.map_or(Role::Primary, Role::Replica)
    }

    /// The last write that the read must see; `None` while one is open.
    fn causal_need(&self, shards: ShardSet, marks: &[Mark]) -> Option<Need> {
        let writes = &self.database.state.writes;
        if !writes.is_current() {
            return None;
        }
        let mut need = writes.last(Mark::EVERYTHING)?.ticket;
        let is_strict = self.database.config.consistency == Consistency::Strict;
        let own = self.tenant_mark();
        for mark in marks.iter().chain(&own) {
            // Without tenants the scope is the connection.
            if *mark != Mark::UNTENANTED || self.database.is_sharded() || is_strict {
                need = need.max(writes.last(*mark)?.ticket);
            }
        }
        let has_tenant = own.is_some() || marks.iter().any(|it| *it != Mark::UNTENANTED);
        for it in self.written.iter().filter(|it| shards.contains(it.shard)) {
            need = need.max(if has_tenant { it.loose.ticket } else { it.last.ticket });
        }
        if marks.is_empty() && is_strict {
            return match writes.is_any_open() {
                true => None,
                false => Some(Need(writes.issued())),
            };
        }
        Some(Need(need))
    }

    /// `None` if the client, or anybody for the same tenants, wrote within `pin_after_write`.
    fn recent_need(&self, shards: ShardSet, marks: &[Mark]) -> Option<Need> {
        let (writes, window) = (&self.database.state.writes, self.database.config.pin_after_write);
        if !writes.is_current() {
            return None;
        }
        let mine = self.written.iter().filter(|it| shards.contains(it.shard));
        let is_pinned = mine.into_iter().any(|it| writes.is_recent(it.last, window))
            || match marks.is_empty() {
                true => writes.is_any_recent(window),
                false => {
                    let own = self.tenant_mark();
                    let all = marks.iter().chain(&own).chain([&Mark::EVERYTHING]);
                    all.into_iter()
                        .any(|it| writes.last(*it).is_none_or(|it| writes.is_recent(it, window)))
                }
            };
        (!is_pinned).then_some(Need::default())
    }

    /// The session's own tenant.
    fn tenant_mark(&self) -> Option<Mark> {
        let tenant = self.routing.tenant.as_deref()?;
        let kinds = self.key_types();
        let read = |kind: &KeyType| Key::from_text(*kind, tenant).ok();
        let key = kinds.iter().find_map(read).or_else(|| read(&KeyType::Text))?;
        Some(Mark::slot(key.slot()))
    }

    /// Before a server is sent it: what a statement writes is open from now on, and other proxies know.
    pub(super) async fn open_writes(&mut self, routed: &Routed) {
        self.begin_writes(routed);
        self.announce().await;
    }

    /// As [`Self::open_writes`], if that needs no waiting.
    pub(super) fn open_writes_now(&mut self, routed: &Routed) -> bool {
        self.begin_writes(routed);
        self.is_announced()
    }

    /// What a statement writes is open from now on; [`Self::announce`] comes before it is sent.
    pub(super) fn begin_writes(&mut self, routed: &Routed) {
        if !self.notes_writes() {
            return;
        }
        let writes = &self.database.state.writes;
        let own = self.tenant_mark();
        for mark in routed.marks.iter().chain(&own) {
            self.writing.begin(writes, *mark);
        }
        if routed.marks.is_empty() && own.is_none() {
            self.writing.begin(writes, Mark::EVERYTHING);
        }
    }

    /// As [`Self::open_writes`], of a statement nothing is known of.
    pub(super) async fn open_any_writes(&mut self) {
        if self.notes_writes() {
            let is_sharded = self.database.is_sharded();
            let mark = if is_sharded { Mark::EVERYTHING } else { Mark::UNTENANTED };
            for mark in std::iter::once(mark).chain(self.tenant_mark()) {
                self.writing.begin(&self.database.state.writes, mark);
            }
            self.announce().await;
        }
    }

    /// Whether somebody may read replicas here, or through another proxy.
    fn notes_writes(&self) -> bool {
        self.database.has_replicas || self.database.state.writes.fleet().is_some()
    }

    /// Waits until other proxies know of what is open, before it is written or committed.
    pub(super) async fn announce(&self) {
        if let Some(fleet) = self.database.state.writes.fleet().filter(|_| !self.is_announced()) {
            fleet.announce(&self.told_marks()).await;
        }
    }

    fn is_announced(&self) -> bool {
        let fleet = self.database.state.writes.fleet();
        fleet.is_none_or(|it| it.may_write(&self.told_marks()))
    }

    /// What is open and read by others than this connection.
    fn told_marks(&self) -> SmallVec<[u16; 4]> {
        let is_own =
            !self.database.is_sharded() && self.database.config.consistency == Consistency::Causal;
        let marks = self.writing.marks().iter();
        marks.filter(|it| !(is_own && **it == Mark::UNTENANTED)).map(|it| it.number()).collect()
    }

    /// Servers have answered, and no block is open: whatever was written can be seen.
    pub(super) fn close_writes(&mut self) {
        if self.writing.is_empty() {
            return;
        }
        if self.members.iter_mut().any(|it| it.server().is_broken()) {
            return self.writing.doubt();
        }
        self.writing.end();
    }

    /// From now on this client's reads of the shard see what was written.
    pub(super) fn note_written_on(&mut self, shard: ShardId) {
        // A reload may have brought some meanwhile, and nothing was opened for them.
        if !self.database.has_replicas && !self.proxy.is_current(&self.cluster) {
            self.database.state.writes.note(Mark::EVERYTHING);
        }
        let last = self.database.state.writes.issue();
        // Without replicas nobody notes what tenants write.
        let is_loose = self.writing.is_loose() || !self.database.has_replicas;
        let loose = if is_loose { last } else { Stamp::default() };
        match self.written.iter_mut().find(|it| it.shard == shard) {
            Some(it) => *it = Written { shard, last, loose: it.loose.max(loose) },
            None => self.written.push(Written { shard, last, loose }),
        }
    }

    /// Whether a replica has seen what a read needs, and is not too far behind.
    pub(super) fn has_seen(&self, replayed: &Replayed, shard: ShardId, need: Need) -> bool {
        let limit = self.database.config.max_replica_lag;
        if !limit.is_zero() && replayed.lag_at_least() > limit {
            return false;
        }
        match self.routing.max_staleness {
            Some(limit) => replayed.lag().is_some_and(|it| it <= limit),
            None => replayed.has(need.0, self.token_at(shard)),
        }
    }

    /// The position of the session's token.
    fn token_at(&self, shard: ShardId) -> Lsn {
        self.routing.token.as_ref().map_or(Lsn::default(), |it| it.of(shard))
    }

    /// No replica has seen enough: whether to wait for one, as it is expected to within `causal_wait` and the
    /// primary is busy. From now on replicas are looked at.
    pub(super) fn is_worth_waiting(&self, hosts: &Shard, need: Need) -> bool {
        if self.routing.max_staleness.is_some() {
            return false;
        }
        hosts.log.want(need.0, self.token_at(hosts.id));
        let limit = self.database.config.causal_wait;
        // The primary answers at once: it is spared where it has more to do than replicas have.
        let busy = hosts.primary.outstanding();
        let is_near = |it: &Arc<Host>| {
            it.health.is_up() && it.replayed.is_near(limit) && 2 * it.outstanding() + SPARE < busy
        };
        !limit.is_zero() && hosts.replicas.iter().any(is_near)
    }

    /// Waits up to `causal_wait` for a replica that has seen enough.
    pub(super) async fn wait_for_replica(&self, hosts: &Shard, need: Need) -> bool {
        self.database.state.metrics.causal_waits.inc();
        let may_serve =
            |it: &Host| it.health.is_up() && self.has_seen(&it.replayed, hosts.id, need);
        let is_there = || hosts.replicas.iter().any(|it| may_serve(it));
        hosts.log.wait(self.database.config.causal_wait, is_there).await
    }

    /// A block's own replica must have seen what was written since the block began. One that is lost, which the
    /// statement will be told, is not waited for.
    ///
    /// # Errors
    /// If it does not within some seconds.
    pub(super) async fn wait_for_own(&mut self, at: usize, need: Need) -> Result<(), PgError> {
        let is_cut = Arc::clone(&self.members[at].server().fence);
        let is_lost = self.members[at].server().is_broken();
        let is_lost = || is_lost || is_cut.load(Ordering::Relaxed);
        let member = &self.members[at];
        let replayed = &member.lease.pool().replayed;
        let Some(hosts) = self.database.shards.get(&member.shard) else { return Ok(()) };
        let lsn = self.token_at(member.shard);
        hosts.log.want(need.0, lsn);
        let is_over = || replayed.has(need.0, lsn) || is_lost();
        if hosts.log.wait(PATIENCE, is_over).await || is_lost() {
            return Ok(());
        }
        Err(PgError::new(
            sqlstate::SERIALIZATION_FAILURE,
            format!("the replica of shard {} that serves this transaction is behind", member.shard),
        )
        .detail("what was written meanwhile cannot be read there yet")
        .hint("repeat the transaction, or SET sluice.role = 'primary' before it"))
    }

    /// `SHOW sluice.token`: the positions of what this session, and its tenant, has written.
    ///
    /// # Errors
    /// If a primary does not say where it is.
    pub(super) async fn token(&self) -> Result<Token, PgError> {
        let mut token = self.routing.token.as_deref().cloned().unwrap_or_default();
        let mut tickets: SmallVec<[(ShardId, u64); 4]> =
            self.written.iter().map(|it| (it.shard, it.last.ticket)).collect();
        if let (Some(tenant), Some(mark)) = (&self.routing.tenant, self.tenant_mark()) {
            let shard = self.owner_of(tenant)?;
            let writes = &self.database.state.writes;
            // Without replicas nobody notes what tenants write.
            let last = writes.last(mark).filter(|_| self.database.has_replicas);
            // A ticket of its own: the primary is asked anew.
            let last = last.unwrap_or_else(|| writes.issue()).ticket;
            tickets.push((shard, last));
        }
        for (shard, ticket) in tickets {
            let Some(hosts) = self.database.shards.get(&shard) else { continue };
            let lsn = hosts.log.position(&hosts.primary, ticket).await.map_err(|error| {
                PgError::new(
                    sqlstate::CANNOT_CONNECT_NOW,
                    format!("the primary of shard {shard} does not say where its log ends"),
                )
                .detail(error.0)
            })?;
            token.raise(shard, lsn);
        }
        Ok(token)
    }
}

/// Reads a token; none for the empty text.
///
/// # Errors
/// 22023 for what no proxy has told.
pub(super) fn token_of(text: &str) -> Result<Option<Arc<Token>>, PgError> {
    match text {
        "" => Ok(None),
        text => Token::parse(text).map(|it| Some(Arc::new(it))),
    }
}

/// Reads `10s`, `500ms`, `2min` or a number of milliseconds, as Postgres reads settings with a unit.
///
/// # Errors
/// 22023 for anything else.
pub(super) fn staleness(text: &str) -> Result<Option<Duration>, PgError> {
    let text = text.trim();
    if text.is_empty() || text == "off" {
        return Ok(None);
    }
    let digits = text.len() - text.trim_start_matches(|it: char| it.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "" | "ms" => Some(1),
        "s" => Some(1000),
        "m" | "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = number.parse::<u32>().ok();
    match (number, scale) {
        (Some(number), Some(scale)) => Ok(Some(Duration::from_millis(u64::from(number) * scale))),
        _ => Err(PgError::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            format!("invalid value for sluice.max_staleness: {text:?}"),
        )
        .hint("write a time such as '10s', '500ms' or '2min', or 'off'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_settings_do() {
        let read = |it| staleness(it).map(|it| it.map(|it| it.as_millis())).map_err(|it| it.code);
        assert_eq!(read("10s"), Ok(Some(10_000)));
        assert_eq!((read("500"), read("2 min")), (Ok(Some(500)), Ok(Some(120_000))));
        assert_eq!((read(""), read("off")), (Ok(None), Ok(None)));
        for wrong in ["s", "-1s", "1.5s", "10 parsecs", "99999999999s"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
