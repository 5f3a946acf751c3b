//! The servers a session holds: chosen, brought to its settings, enlisted in its transaction, given
//! back.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::causal::Need;
use super::express::Granted;
use super::{Role, Session, repeat, timeouts};
use crate::config::PoolMode;
use crate::error::PgError;
use crate::exec::{Failure, Member, deadlock};
use crate::net::{Client, Moment};
use crate::plan::Isolation;
use crate::pool::cluster::{Draw, Host, Shard};
use crate::pool::{Lease, Permit};
use crate::server::{Turn, difference};
use crate::shard::ShardId;
use crate::wire::pipeline::Action;

impl Session {
    /// Whether servers stay with the session between transactions.
    pub(super) fn keeps_servers(&self) -> bool {
        self.pin.is_some() || self.database.mode == PoolMode::Session
    }

    /// A server of the shard, ready for a statement: the position of its member. In a transaction it
    /// is enlisted; BEGIN goes out together with the statement.
    ///
    /// # Errors
    /// If no server can be had, or the transaction may not reach another shard.
    pub(super) async fn member(&mut self, shard: ShardId, role: Role) -> Result<usize, Failure> {
        if self.needs_snapshots() {
            Box::pin(self.take_snapshots()).await?;
        }
        let role = self.role_at(shard, role);
        let at = match self.held_for(shard, role).await? {
            Some(at) => at,
            None => {
                self.check_isolation(shard)?;
                let lease = self.lease(shard, role).await?;
                self.hold(shard, lease)
            }
        };
        self.bring_up(at).await?;
        if self.watching.is_some() {
            self.tell_watched(at);
        }
        Ok(at)
    }

    /// Without replicas the primary serves reads too: one that is held already, above all.
    pub(super) fn role_at(&self, shard: ShardId, role: Role) -> Role {
        let has_replicas =
            self.database.shards.get(&shard).is_some_and(|it| !it.replicas.is_empty());
        if has_replicas { role } else { Role::Primary }
    }

    /// A server that the session holds, if it has seen what the statement needs. One that serves a block
    /// is waited for, another is given back.
    async fn held_for(&mut self, shard: ShardId, role: Role) -> Result<Option<usize>, Failure> {
        let Some(at) = self.held(shard, role) else { return Ok(None) };
        let (Role::Replica(need), false) = (role, self.members[at].is_primary) else {
            return Ok(Some(at));
        };
        if self.has_seen(&self.members[at].lease.pool().replayed, shard, need) {
            return Ok(Some(at));
        }
        let member = &mut self.members[at];
        if member.in_tx || member.server().is_in_batch() {
            self.wait_for_own(at, need).await?;
            return Ok(Some(at));
        }
        drop(self.members.remove(at));
        Ok(None)
    }

    fn held(&mut self, shard: ShardId, role: Role) -> Option<usize> {
        let wants_primary = role == Role::Primary;
        let of_shard = |it: &Member| it.shard == shard;
        self.members
            .iter()
            .position(|it| of_shard(it) && it.in_tx)
            .or_else(|| {
                self.members.iter().position(|it| of_shard(it) && it.is_primary == wants_primary)
            })
            .or_else(|| {
                // A kept primary also serves reads where there is nothing else.
                let hosts = self.database.shards.get(&shard);
                let is_alone = hosts.is_some_and(|it| it.replicas.is_empty());
                let serves_all = self.pin.is_some() || is_alone;
                self.members.iter().position(|it| serves_all && of_shard(it) && it.is_primary)
            })
    }

    /// The lowest level that needs a snapshot which cannot be had.
    fn first_of_one_shard(&self) -> Isolation {
        match self.database.config.has_barrier {
            true => Isolation::Serializable,
            false => Isolation::RepeatableRead,
        }
    }

    /// A snapshot of several shards cannot be had, so strict isolation is for one shard only.
    fn check_isolation(&self, shard: ShardId) -> Result<(), PgError> {
        let is_strict = self
            .isolation()
            .is_some_and(|level| level >= self.first_of_one_shard() && self.tx.is_some());
        if is_strict && self.members.iter().any(|it| it.in_tx && it.shard != shard) {
            return Err(PgError::refused(
                "REPEATABLE READ and SERIALIZABLE transactions cannot reach a second shard",
            )
            .detail("shards take their snapshots apart, so that reads could see half a transaction")
            .hint("use READ COMMITTED, or keep the transaction to one tenant"));
        }
        Ok(())
    }

    fn hold(&mut self, shard: ShardId, mut lease: Lease) -> usize {
        let server = lease.server();
        server.begin_request();
        let tells = self.database.state.uses_sequences.load(Ordering::Relaxed);
        if tells && self.last_server.map(Turn::next) != Some(server.turn()) {
            server.push_query("DISCARD SEQUENCES", Action::Skip);
        }
        server.hears = self.database.mode == PoolMode::Session;
        self.handle.servers.lock().push(Arc::clone(&server.cancel));
        let is_primary = lease.is_primary();
        let since = Instant::now();
        let member = Member { shard, is_primary, lease, in_tx: false, wrote: false, since };
        self.members.push(member);
        self.members.len() - 1
    }

    /// Brings a server to the session's settings and into its transaction.
    pub(super) async fn bring_up(&mut self, at: usize) -> Result<(), Failure> {
        if self.tx.is_none() && Arc::strong_count(&self.settings) == 1 {
            self.settings = self.proxy.settings.intern(std::mem::take(&mut self.settings));
        }
        let member = &mut self.members[at];
        let is_outside = !member.in_tx;
        let server = member.lease.server();
        // In a block: as they were at BEGIN; what was SET since is replayed inside of it.
        let settings = self.tx.as_ref().map_or(&self.settings, |tx| tx.settings_at_begin());
        if is_outside && let Some(sql) = difference(&server.settings, settings) {
            // Of its own and awaited: the client's statement must not run under other settings.
            if let Err(error) = server.run(&sql).await {
                server.set_broken();
                return Err(error.into());
            }
            server.settings = Arc::clone(settings);
        }
        let Some(tx) = self.tx.as_ref().filter(|_| !member.in_tx) else { return Ok(()) };
        server.push_query(&tx.begin, Action::Skip);
        member.in_tx = true;
        if !tx.replay.is_empty() {
            let sql = tx.replay.join("; ");
            member.lease.server().run(&sql).await?;
        }
        self.mark(at).await
    }

    /// Marks the servers of a block that has reached a second shard, so that a deadlock can be found.
    async fn mark(&mut self, at: usize) -> Result<(), Failure> {
        let is_read_only = self.tx.as_ref().is_some_and(|it| it.read_only == Some(true));
        let locks = |it: &Member| it.in_tx && it.is_primary;
        let others = self.members.iter().filter(|it| locks(it)).count();
        if is_read_only || !locks(&self.members[at]) || others < 2 {
            return Ok(());
        }
        let known = self.handle.state.lock().mark;
        let mark = known.unwrap_or_else(|| self.proxy.next_mark());
        let sql = deadlock::mark_sql(mark);
        self.handle.state.lock().mark = Some(mark);
        for (i, member) in self.members.iter_mut().enumerate() {
            if i == at || known.is_none() && locks(member) {
                member.server().push_query(&sql, Action::Skip);
            }
            if i != at && known.is_none() && locks(member) {
                member.server().flush().await?;
            }
        }
        Ok(())
    }

    async fn lease(&mut self, shard: ShardId, role: Role) -> Result<Lease, Failure> {
        let mut granted = self.granted.take();
        let draw = self.draw(Moment::now());
        let mut permit = None;
        if let Role::Replica(need) = role
            && let Some(hosts) = self.database.shards.get(&shard)
        {
            let may_serve = |it: &Host| self.may_serve(it, need);
            let is_there = self.avoid.is_some() || hosts.replicas.iter().any(|it| may_serve(it));
            let is_there = is_there
                || self.is_worth_waiting(hosts, need) && self.wait_for_replica(hosts, need).await;
            if !is_there {
                self.database.state.metrics.causal_misses.inc();
            }
            let mut have_failed = hosts.has_lost_replicas(draw.now) || self.avoid.is_some();
            for host in hosts.replicas_in_order(draw, may_serve) {
                if !host.standing.admit(draw.now) {
                    continue;
                }
                match self.take(host, &mut granted).await {
                    // It may have been started anew meanwhile.
                    Ok(lease) if self.may_serve(host, need) => return Ok(lease.of_primary(false)),
                    Ok(lease) => {
                        lease.give_back(Moment::now());
                        continue;
                    }
                    Err(error) => tracing::debug!(%error, "a replica was passed over"),
                }
                have_failed = true;
            }
            if have_failed {
                permit = self.fall_back(hosts).await?;
            }
        }
        self.granted = granted;
        Ok(self.lease_primary(shard).await?.with(permit))
    }

    /// Whether the request at hand may use a replica: it has seen enough, and the request has not just
    /// failed there.
    pub(super) fn may_serve(&self, replica: &Host, need: Need) -> bool {
        let is_avoided = self.avoid.as_ref().is_some_and(|it| it.is(replica));
        !is_avoided && self.has_seen(&replica.replayed, replica.shard, need)
    }

    /// A place among the reads that a primary takes for its replicas; none is needed if it takes all.
    async fn fall_back(&self, hosts: &Shard) -> Result<Option<Permit>, PgError> {
        let percent = self.cluster.config.health.primary_fallback;
        let Some(limit) = self.database.fallback(percent) else { return Ok(None) };
        let deadline =
            if limit == 0 { Duration::ZERO } else { self.cluster.config.pool.wait_timeout };
        let enter = async {
            let entered = tokio::time::timeout(deadline, hosts.primary.fallback.enter(limit)).await;
            entered.map_err(|_| repeat::unavailable(hosts.id, percent, limit))
        };
        timeouts::in_time(&self.handle, pin!(enter)).await.map(Some)
    }

    /// What a host is chosen with.
    pub(super) fn draw(&self, now: Moment) -> Draw {
        Draw { now, number: (self.handle.pid as u64) << 32 ^ self.queries }
    }

    /// `currval` and the like are about to be asked for: what other sessions did is not told.
    pub(super) fn hide_sequences(&mut self) {
        self.database.state.uses_sequences.store(true, Ordering::Relaxed);
        let own = self.last_server.map(Turn::next);
        // What a block has written on a server may be what is asked for.
        for member in self.members.iter_mut().filter(|it| !it.wrote) {
            let server = member.lease.server();
            if own != Some(server.turn()) {
                server.push_query("DISCARD SEQUENCES", Action::Skip);
            }
        }
    }

    pub(super) async fn take(
        &self,
        host: &Host,
        granted: &mut Option<Box<Granted>>,
    ) -> Result<Lease, PgError> {
        let pool = self.database.pool(host, &self.account);
        if let Some(granted) = granted.take_if(|it| Arc::ptr_eq(&it.pool, &pool)) {
            let redeem = pool.redeem(granted.outcome?, self.thread);
            return timeouts::in_time(&self.handle, pin!(redeem)).await;
        }
        if self.database.state.uses_sequences.load(Ordering::Relaxed)
            && let Some(turn) = self.last_server
            && let Some(lease) = pool.take_again(self.thread, turn).await
        {
            return Ok(lease);
        }
        timeouts::in_time(&self.handle, pin!(pool.take(self.thread))).await
    }

    /// Gives servers back, as far as the session does not keep them.
    pub(super) fn release(&mut self) {
        self.granted = None;
        if self.tx.is_some() {
            return;
        }
        let is_open = |it: &mut Member| it.server().is_in_batch() && !it.server().is_broken();
        if !self.members.iter_mut().any(is_open) {
            self.close_writes();
        }
        self.loses_state();
        let keeps = self.keeps_servers();
        // Before they are given back: a cancel request must not find them here any more.
        self.handle.servers.lock().clear();
        self.members.retain_mut(|member| {
            let server = member.lease.server();
            // In the middle of a pipeline without a Sync the server holds an implicit transaction.
            let is_in_batch = server.is_in_batch();
            let is_held = (keeps || is_in_batch) && !server.is_broken();
            let is_lost = server.is_lost();
            member.wrote &= is_in_batch;
            if !is_held {
                if member.is_primary {
                    self.last_server = Some(server.turn());
                }
                let time = member.since.elapsed().as_secs_f64();
                let pool = member.lease.pool();
                pool.metrics.query.observe(time);
                if !is_lost {
                    pool.standing.answered(Moment::now(), time);
                }
            }
            is_held
        });
        if self.members.is_empty() {
            return;
        }
        let mut servers = self.handle.servers.lock();
        servers.extend(self.members.iter_mut().map(|it| Arc::clone(&it.lease.server().cancel)));
    }
}

/// Polls for the client's input while servers it keeps may send notifications or end.
pub(super) fn poll_idle(
    members: &mut [Member],
    client: &mut Client,
    cx: &mut Context<'_>,
) -> Poll<std::io::Result<usize>> {
    if let Poll::Ready(read) = client.poll_read(cx) {
        return Poll::Ready(read);
    }
    for member in members.iter_mut().filter(|it| !it.lease.is_owing()) {
        let server = member.lease.server();
        while !server.is_broken() && server.poll_fill(cx).is_ready() {
            let said = server.take_asynchronous();
            client.out.extend_from_slice(&said);
        }
        if server.is_broken() && !member.in_tx {
            // What the session had on it is gone, so the session goes too.
            client.out.extend_from_slice(&server.farewell());
            return Poll::Ready(Ok(0));
        }
    }
    if !client.out.is_empty() && client.poll_flush(cx)?.is_ready() {
        // Written; what follows wakes us again.
    }
    Poll::Pending
}
