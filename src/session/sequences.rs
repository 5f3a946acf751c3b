//! Sequences that shards share: set up with the schema change that makes them.

use std::collections::BTreeMap;

use super::{Role, Session};
use crate::catalog::sequence::{Counters, Name, Unshared};
use crate::error::{PgError, sqlstate};
use crate::exec::Failure;
use crate::plan::Numbers;
use crate::pool::control::ControlError;
use crate::pool::sequences::{self, Of, ShareError, Sharing, Use, shown};
use crate::server::Server;
use crate::shard::ShardId;

impl Session {
    /// After a schema change, in its transaction: sequences that it gave to sharded tables, or changed,
    /// give each number once over all shards.
    pub(super) async fn number(&mut self, numbers: &Numbers) -> Result<(), Failure> {
        let home = self.database.config.home_shard;
        let known = self.catalog_now();
        let at = self.member(home, Role::Primary).await?;
        let mut server = self.members[at].lease.server();
        let config = &self.database.config;
        let uses = sequences::uses(&mut server, config, Of::Named(&numbers.of)).await;
        let uses = uses.map_err(|error| failed(&numbers.of, &error))?;
        let mut names: Vec<Name> = uses.iter().map(|it| it.sequence.clone()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let known = known.as_ref().and_then(|it| it.sequences.get(&name)).copied();
            let filled: Vec<&Use> = uses
                .iter()
                .filter(|it| it.sequence == name && numbers.filled.contains(&it.column))
                .collect();
            let sharing = Sharing {
                known,
                stride: config_stride(self),
                // What a new column's own sequence has given is given again.
                is_fresh: known.is_none() && filled.iter().any(|it| it.is_owner),
            };
            let is_new = self.share(&name, sharing).await?;
            if is_new && known.is_none() {
                self.fill_again(&name, &filled).await?;
            }
        }
        Ok(())
    }

    async fn share(&mut self, name: &Name, sharing: Sharing) -> Result<bool, Failure> {
        let mut servers = self.servers().await?;
        let none_used = async |_: &mut &mut Server| Ok(Vec::new());
        match sequences::share(&mut servers, name, sharing, none_used).await {
            Ok(is_new) => Ok(is_new),
            Err(ShareError::Unshared(_)) if self.database.config.allow_local_keys => Ok(false),
            Err(ShareError::Unshared(why)) => Err(unshared(name, why).into()),
            Err(ShareError::Server(error)) => Err(failed(&shown(name), &error).into()),
        }
    }

    /// Rows that were there when their column was added have numbers of each shard's own.
    async fn fill_again(&mut self, name: &Name, filled: &[&Use]) -> Result<(), Failure> {
        let mut columns: Vec<_> =
            filled.iter().map(|it| (&it.table, &it.column, &it.column_type)).collect();
        columns.sort();
        columns.dedup();
        for (table, column, ty) in columns {
            let sql = format!(
                "ALTER TABLE {} ALTER COLUMN {column} SET DATA TYPE {ty} USING pg_catalog.nextval({}::pg_catalog.regclass)",
                shown(table),
                crate::sql::name::quoted_text(&shown(name)),
                column = crate::sql::name::quoted(column),
            );
            for server in self.servers().await?.values_mut() {
                server.run(&sql).await?;
            }
        }
        Ok(())
    }

    /// A server of every shard, in the open transaction.
    async fn servers(&mut self) -> Result<BTreeMap<ShardId, &mut Server>, Failure> {
        let shards: Vec<ShardId> = self.database.shards.keys().copied().collect();
        for shard in &shards {
            let at = self.member(*shard, Role::Primary).await?;
            self.members[at].wrote = true;
        }
        let members = self.members.iter_mut().filter(|it| it.in_tx && shards.contains(&it.shard));
        Ok(members.map(|it| (it.shard, it.lease.server())).collect())
    }

    /// The sequences of other shards than the home shard, as the open block sees them.
    pub(super) async fn counters_of_block(&mut self) -> Result<Counters, ControlError> {
        let home = self.database.config.home_shard;
        let mut counters = self.database.state.counters.lock().clone();
        for member in self.members.iter_mut().filter(|it| it.in_tx && it.shard != home) {
            let own = sequences::counters(&mut member.lease.server()).await?;
            counters.insert(member.shard, own);
        }
        Ok(counters)
    }
}

fn config_stride(session: &Session) -> i64 {
    session.database.config.sequence_stride
}

fn failed(of: &str, error: &ControlError) -> PgError {
    PgError::new(sqlstate::INTERNAL_ERROR, format!("sequences of {of} cannot be shared by shards"))
        .detail(error.to_string())
}

fn unshared(name: &Name, why: Unshared) -> PgError {
    let hint = match why {
        Unshared::Cycles => "Leave CYCLE out.",
        Unshared::Narrow => {
            "Give it a wider type or MAXVALUE, or a smaller sequence_stride in the configuration."
        }
        Unshared::Missing(_) | Unshared::Unlike => {
            "Give START and INCREMENT together, or run pgsluice sequences --repair."
        }
    };
    PgError::refused(format!("sequence {} cannot be shared by shards", shown(name)))
        .detail(format!("{why}: two rows could get one number."))
        .hint(hint)
}
