//! UPDATE of the tenant column: rows move to the shards of their new tenants.

use super::extended::Portal;
use super::fan_out::pick;
use super::gather::{TIMESTAMPTZ, given, push};
use super::portable::portable;
use super::run::Routed;
use super::scatter::Source;
use super::{Role, Session};
use crate::error::PgError;
use crate::exec::Failure;
use crate::exec::broadcast::{self, Answers, Describe};
use crate::plan::Statement;
use crate::plan::moved::Move;
use crate::shard::ShardId;
use crate::sql::name::quoted_text;
use crate::wire::frontend::view::Bind;

impl Session {
    /// Updates rows that stay on their shards and moves the others; the command tag.
    pub(super) async fn move_rows(
        &mut self,
        statement: &Statement,
        moved: &Move,
        routed: &Routed,
        portal: Option<&Portal>,
    ) -> Result<String, Failure> {
        let bind = portal.map(|it| Bind::read(&it.bind)).transpose()?;
        let mut given = given(portal, bind.as_ref());
        let place = self.member(self.database.config.home_shard, Role::Primary).await?;
        let sql = portal.map_or(&statement.text[..], |it| it.prepared.text.sql());
        let types = portal.map_or(&[][..], |it| it.prepared.text.types());
        let mut described = self.describe_at(place, sql, types).await?;
        self.check_move(place, &moved.table).await?;
        if moved.asks_time {
            given.now = self.ask_time(place).await?;
            described.parameters.push(TIMESTAMPTZ);
        }
        if let (None, Some(row)) = (portal, &described.row) {
            self.client.out.extend_from_slice(row);
        }
        let (map, now) = (self.database.map().clone(), described.parameters.len());
        let mut at = Vec::new();
        let shards: Vec<ShardId> = routed.shards.iter().collect();
        for shard in &shards {
            self.check_second_write(*shard)?;
            let i = self.member(*shard, Role::Primary).await?;
            self.members[i].wrote = true;
            at.push(i);
        }
        // Those that go first: those that stay may look like them afterwards.
        let sql = moved.delete_sql(&map, self.database.config.home_shard, now);
        let types = portable(&described.parameters, &sql, |it| given.format(it)).into_owned();
        let carried = self.carried(place, (&sql, &types), &moved.insertion).await?;
        let mut split = self.split_rows(&moved.insertion, &carried);
        for (i, shard) in at.iter().zip(&shards) {
            let sql = moved.delete_sql(&map, *shard, now);
            let source = Source { sql: &sql, types: &types, given: &given, arrays: &[] };
            self.take_rows(*i, &source, &carried, &mut split).await?;
        }
        for (i, shard) in at.iter().zip(&shards) {
            let sql = moved.update_sql(&map, *shard, now);
            let server = self.members[*i].lease.server();
            push(server, &sql, &described, &given, &[], false);
            server.flush().await?;
        }
        let mut members = pick(&mut self.members, &at);
        let (answers, describe) = (Answers::Sum, Describe::Hide);
        let stayed = broadcast::collect(&mut members, &mut self.client, answers, describe).await?;
        let insertion = &moved.insertion;
        let went = self.insert_rows(insertion, split, &described, &given, &carried).await?;
        Ok(format!("UPDATE {}", count_of(&stayed) + count_of(&went)))
    }

    /// A row that moves is deleted on its shard: what other tables do about that must not happen, policies
    /// for DELETE are others than those for UPDATE, and children of the table would come back as rows of its own.
    async fn check_move(&mut self, at: usize, table: &str) -> Result<(), Failure> {
        let table_oid = format!("{}::pg_catalog.regclass", quoted_text(table));
        let sql = format!(
            "SELECT 'a foreign key of ' || conrelid::pg_catalog.regclass || ' would delete or change its rows with them' \
               FROM pg_catalog.pg_constraint WHERE contype = 'f' AND confrelid = {table_oid} \
               AND (confdeltype NOT IN ('a', 'r') OR confupdtype NOT IN ('a', 'r')) \
             UNION ALL SELECT 'it has row-level security, which tells DELETE from UPDATE' \
               FROM pg_catalog.pg_class WHERE oid = {table_oid} AND relrowsecurity \
             UNION ALL SELECT inhrelid::pg_catalog.regclass || ' inherits from it, and its rows would become the parent''s' \
               FROM pg_catalog.pg_inherits JOIN pg_catalog.pg_class c ON c.oid = inhparent \
               WHERE inhparent = {table_oid} AND c.relkind = 'r' LIMIT 1"
        );
        let rows = self.members[at].lease.server().rows(&sql).await?;
        let Some(Some(why)) = rows.into_iter().flatten().next() else { return Ok(()) };
        Err(PgError::refused(format!("rows of {table} cannot move to another shard"))
            .detail(why)
            .hint("INSERT the rows under the new tenant, move what belongs to them, and DELETE the old ones.")
            .into())
    }
}

fn count_of(tag: &str) -> u64 {
    tag.rsplit(' ').next().and_then(|it| it.parse().ok()).unwrap_or_default()
}
