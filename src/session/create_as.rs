//! CREATE TABLE AS over several shards.

use bytes::Bytes;

use super::extended::Portal;
use super::fan_out::pick;
use super::gather::{given, push};
use super::portable::portable;
use super::run::Routed;
use super::scatter::Source;
use super::{Role, Session};
use crate::error::{PgError, sqlstate};
use crate::exec::Failure;
use crate::exec::broadcast::{self, Answers, Describe};
use crate::plan::create_as::CreateAs;
use crate::plan::{Run, Statement};
use crate::shard::{KeyType, ShardId, ShardSet};
use crate::sql::name::quoted_text;
use crate::wire::frontend::view::Bind;

/// A column of the new table.
struct Column {
    name: String,
    type_oid: u32,
    type_name: String,
}

impl Session {
    /// Reads the rows, makes the table on every shard, and puts the rows where they belong; the command tag.
    pub(super) async fn create_as(
        &mut self,
        statement: &Statement,
        (run, making): (&Run, &CreateAs),
        routed: &Routed,
        portal: Option<&Portal>,
    ) -> Result<String, Failure> {
        let bind = portal.map(|it| Bind::read(&it.bind)).transpose()?;
        let mut given = given(portal, bind.as_ref());
        let home = self.database.config.home_shard;
        let place = self.member(home, Role::Primary).await?;
        let qualified;
        let making = match making.is_unqualified {
            true => {
                qualified = CreateAs {
                    table: self.qualified(place, &making.table).await?,
                    ..making.clone()
                };
                &qualified
            }
            false => making,
        };
        let made_on = match making.is_temporary {
            true => Routed { shards: ShardSet::one(home), ..routed.clone() },
            false => routed.clone(),
        };
        if making.if_not_exists && self.is_there(place, &making.table).await? {
            let (text, answers) = (statement.text.clone(), Answers::Same);
            return self.same_text(&text, run, &made_on, portal, answers, Describe::Hide).await;
        }
        let source = &making.source;
        let from = self.shards_of_tenant(routed)?;
        let (described, arrays) =
            self.gather_rows(place, &statement.text, source, &from, (portal, &mut given)).await?;
        let create = Bytes::copy_from_slice(making.create.as_bytes());
        self.same_text(&create, run, &made_on, portal, Answers::Same, Describe::Hide).await?;
        let columns = self.columns_made(place, &making.table).await?;
        let first = described.parameters.len() + 1;
        let tenant = self.database.config.tenant_column.as_deref();
        let key = columns.iter().position(|it| Some(it.name.as_str()) == tenant);
        let tag = match key.filter(|_| !making.is_temporary) {
            Some(at) => {
                let kind = key_type(&columns[at])?;
                let names: Vec<String> = columns.iter().map(|it| it.name.clone()).collect();
                let key = (at, kind, columns[at].type_name.as_str());
                let (sql, insertion) = making.scattered(&names, key, first);
                let types = portable(&described.parameters, &sql, |it| given.format(it));
                let carried = self.carried(place, (&sql, &types), &insertion).await?;
                let mut split = self.split_rows(&insertion, &carried);
                let source = Source { sql: &sql, types: &types, given: &given, arrays: &arrays };
                self.take_rows(place, &source, &carried, &mut split).await?;
                drop(arrays);
                self.insert_rows(&insertion, split, &described, &given, &carried).await?
            }
            None => {
                let server = self.members[place].lease.server();
                let joins = source.joins_fragments();
                push(server, &making.home_sql(first), &described, &given, &arrays, joins);
                server.flush().await?;
                let mut members = pick(&mut self.members, &[place]);
                let (answers, describe) = (Answers::Sum, Describe::Hide);
                broadcast::collect(&mut members, &mut self.client, answers, describe).await?
            }
        };
        self.members.iter_mut().for_each(|it| it.server().forget_output());
        Ok(format!("SELECT {}", tag.rsplit(' ').next().unwrap_or("0")))
    }

    /// CREATE MATERIALIZED VIEW, whose rows only the home shard has if there is a text for the others; the
    /// command tag.
    pub(super) async fn materialize(
        &mut self,
        (statement, run, elsewhere): (&Statement, &Run, Option<&str>),
        routed: &Routed,
        (portal, describe): (Option<&Portal>, Describe),
    ) -> Result<String, Failure> {
        let (text, sum) = (statement.text.clone(), Answers::Sum);
        let Some(elsewhere) = elsewhere else {
            return self.same_text(&text, run, routed, portal, sum, describe).await;
        };
        let home = self.database.config.home_shard;
        let on = |shards| Routed { shards, ..routed.clone() };
        let at_home = on(ShardSet::one(home));
        let tag = self.same_text(&text, run, &at_home, portal, sum, describe).await?;
        let others: ShardSet = routed.shards.iter().filter(|it| *it != home).collect();
        if !others.is_empty() && !self.has_failed() {
            let (text, hide) = (Bytes::copy_from_slice(elsewhere.as_bytes()), Describe::Hide);
            self.same_text(&text, run, &on(others), None, Answers::Same, hide).await?;
        }
        Ok(tag)
    }

    /// A session that has named its tenant reads that tenant's shard.
    fn shards_of_tenant(&self, routed: &Routed) -> Result<Routed, PgError> {
        let Some(tenant) = self.routing.tenant.as_ref() else { return Ok(routed.clone()) };
        let owner: ShardId = self.owner_of(tenant)?;
        Ok(Routed { shards: ShardSet::one(owner), ..routed.clone() })
    }

    /// The name of a table in the schema where it is made: a table of that name may be found before or after it.
    async fn qualified(&mut self, at: usize, table: &str) -> Result<String, Failure> {
        let sql = "SELECT pg_catalog.quote_ident(pg_catalog.current_schema())";
        let rows = self.members[at].lease.server().rows(sql).await?;
        match rows.into_iter().flatten().next().flatten() {
            Some(schema) if schema.starts_with("pg_temp") => {
                Err(PgError::refused("CREATE TABLE AS with temporary tables first in search_path")
                    .detail("The table would be a temporary one.")
                    .hint("Write CREATE TEMPORARY TABLE, or name the table's schema.")
                    .into())
            }
            Some(schema) => Ok(format!("{schema}.{table}")),
            None => Err(PgError::new(
                sqlstate::INVALID_SCHEMA_NAME,
                "no schema has been selected to create in",
            )
            .into()),
        }
    }

    async fn is_there(&mut self, at: usize, table: &str) -> Result<bool, Failure> {
        let sql = format!("SELECT pg_catalog.to_regclass({}) IS NOT NULL", quoted_text(table));
        let rows = self.members[at].lease.server().rows(&sql).await?;
        Ok(rows.into_iter().flatten().next().flatten().as_deref() == Some("t"))
    }

    async fn columns_made(&mut self, at: usize, table: &str) -> Result<Vec<Column>, Failure> {
        let sql = format!(
            "SELECT attname, atttypid::oid::int8, pg_catalog.format_type(atttypid, NULL) \
             FROM pg_catalog.pg_attribute WHERE attrelid = {}::pg_catalog.regclass \
             AND attnum > 0 ORDER BY attnum",
            quoted_text(table)
        );
        let rows = self.members[at].lease.server().rows(&sql).await?;
        let column = |row: Vec<Option<String>>| {
            let mut cells = row.into_iter().map(Option::unwrap_or_default);
            let mut next = || cells.next().unwrap_or_default();
            let (name, oid, type_name) = (next(), next(), next());
            Column { name, type_oid: oid.parse().unwrap_or_default(), type_name }
        };
        Ok(rows.into_iter().map(column).collect())
    }
}

fn key_type(column: &Column) -> Result<KeyType, PgError> {
    KeyType::of_oid(column.type_oid).ok_or_else(|| {
        PgError::refused(format!("the tenant column {} cannot be of this type", column.name))
            .hint("Cast it to text, varchar, uuid, smallint, integer or bigint.")
    })
}
