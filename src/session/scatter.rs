//! INSERT whose rows one server computes: each goes to the shard of its tenant.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::extended::Portal;
use super::fan_out::pick;
use super::gather::{Described, Given, given, push, unlike};
use super::portable::portable;
use super::run::Routed;
use super::{Role, Session};
use crate::error::{PgError, sqlstate};
use crate::exec::broadcast::{self, Answers, Describe};
use crate::exec::{Failure, relay};
use crate::merge::arrays::{Arrays, Bounds};
use crate::plan::Statement;
use crate::plan::scatter::{Carried, Insertion, Scatter};
use crate::shard::{Key, KeyType, Map, ShardId};
use crate::wire::backend::view::DataRow;
use crate::wire::frontend;
use crate::wire::frontend::view::Bind;
use crate::wire::pipeline::Action;

/// Rows on their way to the shards of their tenants.
pub(super) struct Split {
    map: Map,
    key: KeyType,
    /// Where a row has its key.
    key_at: usize,
    shards: Vec<ShardId>,
    arrays: Arrays,
    /// How many rows each shard gets.
    counts: Vec<usize>,
    /// The position in `shards` of each row, in the order in which they came.
    order: Vec<usize>,
}

/// A read that gives rows with their keys, and its arguments.
pub(super) struct Source<'a> {
    pub(super) sql: &'a str,
    pub(super) types: &'a [u32],
    pub(super) given: &'a Given<'a>,
    pub(super) arrays: &'a [Bytes],
}

impl Session {
    /// Computes the rows on the home shard and inserts them where their tenants are; the command tag.
    pub(super) async fn scatter(
        &mut self,
        statement: &Statement,
        scatter: &Scatter,
        routed: &Routed,
        portal: Option<&Portal>,
    ) -> Result<String, Failure> {
        let bind = portal.map(|it| Bind::read(&it.bind)).transpose()?;
        let mut given = given(portal, bind.as_ref());
        let place = self.member(self.database.config.home_shard, Role::Primary).await?;
        let (described, arrays) = self
            .gather_rows(place, &statement.text, &scatter.source, routed, (portal, &mut given))
            .await?;
        let sql = scatter.source.final_sql(described.parameters.len() + 1);
        let types = portable(&described.parameters, &sql, |it| given.format(it));
        let carried = self.carried(place, (&sql, &types), &scatter.insertion).await?;
        let mut split = self.split_rows(&scatter.insertion, &carried);
        let source = Source { sql: &sql, types: &types, given: &given, arrays: &arrays };
        self.take_rows(place, &source, &carried, &mut split).await?;
        drop(arrays);
        if let (None, Some(row)) = (portal, &described.row) {
            self.client.out.extend_from_slice(row);
        }
        let insertion = &scatter.insertion;
        let done = self.insert_rows(insertion, split, &described, &given, &carried).await;
        self.members.iter_mut().for_each(|it| it.server().forget_output());
        done
    }

    /// How the values that a read gives travel.
    pub(super) async fn carried(
        &mut self,
        at: usize,
        (sql, types): (&str, &[u32]),
        insertion: &Insertion,
    ) -> Result<Vec<Carried>, Failure> {
        let columns = self.describe_at(at, sql.as_bytes(), types).await;
        let columns = columns.map_err(as_unlike)?.columns;
        let types = columns.get(1..=insertion.width).unwrap_or_default();
        let unknown: BTreeSet<u32> =
            types.iter().copied().filter(|it| Carried::scalar(*it).is_none()).collect();
        let mut names = Vec::new();
        if !unknown.is_empty() {
            let list: Vec<String> = unknown.iter().map(ToString::to_string).collect();
            let sql = format!(
                "SELECT t.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname) \
                 FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
                 WHERE t.oid IN ({})",
                list.join(", ")
            );
            names = self.members[at].lease.server().rows(&sql).await?;
        }
        let name = |oid: u32| {
            let is_it = |row: &&Vec<Option<String>>| row[0].as_deref() == Some(&oid.to_string());
            names.iter().find(is_it).and_then(|row| row[1].clone())
        };
        Ok(types.iter().map(|oid| Carried::of(*oid, || name(*oid))).collect())
    }

    /// No rows yet.
    pub(super) fn split_rows(&self, insertion: &Insertion, carried: &[Carried]) -> Split {
        let limits = &self.cluster.config.limits;
        let bounds = Bounds { rows: limits.gather_max_rows, bytes: limits.gather_max_bytes };
        let map = self.database.map().clone();
        let shards: Vec<ShardId> = map.shards().iter().collect();
        let oids: Vec<u32> = carried.iter().map(|it| it.oid).collect();
        Split {
            arrays: Arrays::new(&vec![oids; shards.len()], bounds),
            counts: vec![0; shards.len()],
            order: Vec::new(),
            key: insertion.key,
            key_at: insertion.width + 1,
            map,
            shards,
        }
    }

    /// Runs a statement that gives rows.
    pub(super) async fn take_rows(
        &mut self,
        place: usize,
        source: &Source<'_>,
        carried: &[Carried],
        split: &mut Split,
    ) -> Result<(), Failure> {
        let values = carried.iter().map(|it| i16::from(it.cast.is_none()));
        let formats: Vec<i16> = std::iter::once(1).chain(values).chain([0]).collect();
        let server = self.members[place].lease.server();
        server.statements.unnamed = None;
        server.push_with(b'P', Action::Skip, |out| {
            frontend::parse(out, b"", source.sql.as_bytes(), source.types.iter().copied());
        });
        let mut parameters = source.given.all();
        parameters.extend(source.arrays.iter().map(|it| (1, Some(&it[..]))));
        server.push_with(b'B', Action::Skip, |out| {
            frontend::bind_each(out, b"", &parameters, &formats);
        });
        server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", 0));
        server.push_sync();
        let mut failed = None;
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            match tag {
                b'D' if failed.is_none() => {
                    if let Err(error) = split.take(&frame) {
                        failed = Some(Failure::Error(error));
                        server.cancel.begin().send().await;
                    }
                }
                b'E' => drop(failed.get_or_insert(Failure::Server(frame))),
                b'N' => self.client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Inserts every shard's rows.
    pub(super) async fn insert_rows(
        &mut self,
        insertion: &Insertion,
        split: Split,
        described: &Described,
        given: &Given<'_>,
        carried: &[Carried],
    ) -> Result<String, Failure> {
        let (rows, order) = split.finish();
        if rows.is_empty() {
            return Ok("INSERT 0 0".to_owned());
        }
        let sql = insertion.shard_sql(described.parameters.len() + 1, carried);
        let mut at = Vec::new();
        for (shard, arrays) in &rows {
            self.check_second_write(*shard)?;
            let i = self.member(*shard, Role::Primary).await?;
            self.members[i].wrote = true;
            push(self.members[i].lease.server(), &sql, described, given, arrays, false);
            at.push(i);
        }
        for i in &at {
            self.members[*i].server().flush().await?;
        }
        let mut members = pick(&mut self.members, &at);
        if !insertion.is_ordered {
            let (answers, describe) = (Answers::Sum, Describe::Hide);
            return broadcast::collect(&mut members, &mut self.client, answers, describe).await;
        }
        broadcast::in_order(&mut members, &mut self.client, &order, Describe::Hide).await
    }
}

impl Split {
    /// Takes a DataRow: 0, the values, the key.
    fn take(&mut self, frame: &[u8]) -> Result<(), PgError> {
        let owner = self.map.owner(&self.key_of(frame)?);
        let at = self.shards.iter().position(|it| *it == owner).unwrap_or_default();
        self.arrays.row_of(at, frame)?;
        self.order.push(at);
        self.counts[at] += 1;
        Ok(())
    }

    fn key_of(&self, frame: &[u8]) -> Result<Key, PgError> {
        let value = DataRow::read(frame)?.nth(self.key_at).transpose()?.flatten();
        let Some(range) = value else {
            return Err(PgError::new(
                sqlstate::NOT_NULL_VIOLATION,
                "the tenant column of a sharded table cannot be NULL",
            )
            .hint("give the tenant's key"));
        };
        let text = String::from_utf8_lossy(&frame[range]);
        Key::from_text(self.key, &text).map_err(|error| {
            let message = format!("a tenant's key cannot be read: {error}");
            PgError::new(sqlstate::INTERNAL_ERROR, message)
        })
    }

    /// For each shard with rows its arrays, one per column; and the position among them of each row.
    fn finish(self) -> (Vec<(ShardId, Vec<Bytes>)>, Vec<usize>) {
        let arrays = self.arrays.finish();
        let width = arrays.len() / self.shards.len().max(1);
        let (mut places, mut kept) = (vec![0; self.shards.len()], Vec::new());
        let mut arrays = arrays.into_iter();
        for (i, shard) in self.shards.into_iter().enumerate() {
            let own: Vec<Bytes> = arrays.by_ref().take(width).collect();
            places[i] = kept.len();
            if self.counts[i] > 0 {
                kept.push((shard, own));
            }
        }
        (kept, self.order.into_iter().map(|it| places[it]).collect())
    }
}

/// The statement itself was parsed: only this form of it is not to be had.
fn as_unlike(failure: Failure) -> Failure {
    match failure {
        Failure::Server(frame) => unlike(&crate::server::error_of(&frame).message).into(),
        other => other,
    }
}
