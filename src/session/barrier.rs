//! Snapshots of several shards that see each commit over several shards whole or not at all.
//!
//! Such a commit holds a shared lock on the home shard from before its decision until it has happened
//! everywhere. Who takes snapshots holds the same lock alone, for the moment in which they are taken.
//! Commits that a lost proxy left half done are waited for: recovery ends them.

use std::time::Duration;

use super::{Role, Session};
use crate::error::{PgError, sqlstate};
use crate::exec::Failure;
use crate::exec::two_phase::{Gid, TABLE};
use crate::plan::Isolation;
use crate::shard::ShardId;

/// The lock, of two keys, on the home shard.
const LOCK: &str = "(1936487530, 0)";
/// How often snapshots are tried while a commit is half done, and how long it is waited in between.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(200);

impl Session {
    /// Whether the block is one of a snapshot over all shards that is still to be taken.
    pub(super) fn needs_snapshots(&self) -> bool {
        self.database.config.has_barrier
            && self.database.is_sharded()
            && self.tx.is_some()
            && self.isolation() == Some(Isolation::RepeatableRead)
            && !self.members.iter().any(|it| it.in_tx)
    }

    /// Enlists a server of every shard in the block, with snapshots of one moment.
    ///
    /// # Errors
    /// 40001 if a commit over several shards stays half done.
    pub(super) async fn take_snapshots(&mut self) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            // Servers first: nobody is to be waited for under the lock.
            let block = self.tx.take();
            let held = self.hold_all().await;
            self.tx = block;
            let at = held?;
            let is_whole = self.snapshots(&at).await;
            self.unlock("pg_advisory_unlock").await;
            if is_whole? {
                return Ok(());
            }
            for member in self.members.iter_mut().filter(|it| it.in_tx) {
                member.lease.server().run("ROLLBACK").await?;
                member.in_tx = false;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let error = PgError::new(
            sqlstate::SERIALIZATION_FAILURE,
            "a commit over several shards is half done, so that no snapshot can be taken",
        );
        let hint = "run it again; what is left prepared is in pg_prepared_xacts of the shards";
        Err(error.hint(hint).into())
    }

    /// Holds a primary of every shard, and the lock alone.
    async fn hold_all(&mut self) -> Result<Vec<usize>, Failure> {
        let shards: Vec<ShardId> = self.database.shards.keys().copied().collect();
        let mut at = Vec::new();
        for shard in shards {
            at.push(self.member(shard, Role::Primary).await?);
        }
        self.lock("pg_advisory_lock").await?;
        Ok(at)
    }

    /// Begins on all of them; whether no commit is half done.
    async fn snapshots(&mut self, at: &[usize]) -> Result<bool, Failure> {
        let block = self.tx.take();
        // Before the snapshots: what is ended in between, by recovery, counts as half done.
        let prepared = self.prepared_on(at).await;
        self.tx = block;
        let gids = prepared?;
        for i in at {
            self.bring_up(*i).await?;
            self.members[*i].lease.server().run("SELECT 1").await?;
        }
        for gid in gids {
            let sql = format!("SELECT 1 FROM {TABLE} WHERE gid = '{gid}' AND committed");
            let deciding = self.members.iter_mut().find(|it| it.shard == gid.deciding && it.in_tx);
            let Some(deciding) = deciding else { continue };
            if !deciding.lease.server().rows(&sql).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn prepared_on(&mut self, at: &[usize]) -> Result<Vec<Gid>, Failure> {
        let sql = "SELECT gid FROM pg_catalog.pg_prepared_xacts \
                   WHERE gid LIKE 'sluice:1:%' AND database = pg_catalog.current_database()";
        let mut gids = Vec::new();
        for i in at {
            let rows = self.members[*i].lease.server().rows(sql).await?;
            gids.extend(rows.into_iter().flatten().flatten().filter_map(|it| it.parse().ok()));
        }
        Ok(gids)
    }

    /// Takes part in a commit over several shards: snapshots are not taken in the meantime.
    pub(super) async fn lock_commit(&mut self) -> Result<(), Failure> {
        match self.database.config.has_barrier {
            true => self.lock("pg_advisory_lock_shared").await,
            false => Ok(()),
        }
    }

    /// The commit has happened on all shards, or on none.
    pub(super) async fn unlock_commit(&mut self) {
        if self.database.config.has_barrier {
            self.unlock("pg_advisory_unlock_shared").await;
        }
    }

    async fn lock(&mut self, function: &str) -> Result<(), Failure> {
        let at = self.member(self.database.config.home_shard, Role::Primary).await?;
        let server = self.members[at].lease.server();
        // Whoever is cut off from here on takes the connection, and the lock, with it.
        server.holds_lock = true;
        server.run(&format!("SELECT pg_catalog.{function}{LOCK}")).await?;
        Ok(())
    }

    async fn unlock(&mut self, function: &str) {
        for member in self.members.iter_mut() {
            let server = member.lease.server();
            if server.holds_lock && !server.is_broken() {
                let done = server.run(&format!("SELECT pg_catalog.{function}{LOCK}")).await;
                server.holds_lock = done.is_err();
            }
        }
    }
}
