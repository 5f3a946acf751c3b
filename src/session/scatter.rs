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
use crate::plan::scatter::{Carried, Scatter};
use crate::shard::{Key, ShardId};
use crate::wire::backend::view::DataRow;
use crate::wire::frontend;
use crate::wire::frontend::view::Bind;
use crate::wire::pipeline::Action;

/// The rows of an INSERT by their shards.
struct Rows {
    /// For each shard with rows its arrays, one per column.
    arrays: Vec<(ShardId, Vec<Bytes>)>,
    /// The index in `arrays` of each row, in the order in which they came.
    order: Vec<usize>,
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
            .gather_rows(place, statement, &scatter.source, routed, (portal, &mut given))
            .await?;
        let sql = scatter.source.final_sql(described.parameters.len() + 1);
        let types = portable(&described.parameters, &sql, |it| given.format(it));
        let columns = self.describe_at(place, sql.as_bytes(), &types).await;
        let columns = columns.map_err(as_unlike)?.columns;
        let values = columns.get(1..=scatter.width).unwrap_or_default();
        let carried = self.carried(place, values).await?;
        let rows =
            self.rows_of(place, scatter, (&sql, &types), (&given, &arrays), &carried).await?;
        drop(arrays);
        if let (None, Some(row)) = (portal, &described.row) {
            self.client.out.extend_from_slice(row);
        }
        let done = self.insert_rows(scatter, rows, &described, &given, &carried).await;
        self.members.iter_mut().for_each(|it| it.server().forget_output());
        done
    }

    /// How columns of these types travel.
    async fn carried(&mut self, at: usize, types: &[u32]) -> Result<Vec<Carried>, Failure> {
        let unknown: BTreeSet<u32> =
            types.iter().copied().filter(|it| scalar(*it).is_none()).collect();
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
        let carried = types.iter().map(|oid| match scalar(*oid) {
            Some(element) => Carried { element, oid: *oid, cast: None },
            None => Carried { element: "text", oid: TEXT, cast: name(*oid) },
        });
        Ok(carried.collect())
    }

    /// Runs the read that gives the rows.
    async fn rows_of(
        &mut self,
        place: usize,
        scatter: &Scatter,
        (sql, types): (&str, &[u32]),
        (given, arrays): (&Given<'_>, &[Bytes]),
        carried: &[Carried],
    ) -> Result<Rows, Failure> {
        let limits = &self.cluster.config.limits;
        let bounds = Bounds { rows: limits.gather_max_rows, bytes: limits.gather_max_bytes };
        let map = self.database.map().clone();
        let shards: Vec<ShardId> = map.shards().iter().collect();
        let oids: Vec<u32> = carried.iter().map(|it| it.oid).collect();
        let mut split = Arrays::new(&vec![oids; shards.len()], bounds);
        let values = carried.iter().map(|it| i16::from(it.cast.is_none()));
        let formats: Vec<i16> = std::iter::once(1).chain(values).chain([0]).collect();
        let server = self.members[place].lease.server();
        server.statements.unnamed = None;
        server.push_with(b'P', Action::Skip, |out| {
            frontend::parse(out, b"", sql.as_bytes(), types.iter().copied());
        });
        let mut parameters = given.all();
        parameters.extend(arrays.iter().map(|it| (1, Some(&it[..]))));
        server.push_with(b'B', Action::Skip, |out| {
            frontend::bind_each(out, b"", &parameters, &formats);
        });
        server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", 0));
        server.push_sync();
        let (mut order, mut counts, mut failed) = (Vec::new(), vec![0_usize; shards.len()], None);
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            match tag {
                b'D' if failed.is_none() => {
                    let taken = key_of(&frame, scatter).and_then(|key| {
                        let owner = map.owner(&key);
                        let at = shards.iter().position(|it| *it == owner).unwrap_or_default();
                        split.row_of(at, &frame)?;
                        Ok(at)
                    });
                    match taken {
                        Ok(at) => {
                            order.push(at);
                            counts[at] += 1;
                        }
                        Err(error) => {
                            failed = Some(Failure::Error(error));
                            server.cancel.begin().send().await;
                        }
                    }
                }
                b'E' => drop(failed.get_or_insert(Failure::Server(frame))),
                b'N' => self.client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
        if let Some(failure) = failed {
            return Err(failure);
        }
        Ok(Rows::new(shards, split.finish(), &counts, order))
    }

    /// Inserts every shard's rows.
    async fn insert_rows(
        &mut self,
        scatter: &Scatter,
        rows: Rows,
        described: &Described,
        given: &Given<'_>,
        carried: &[Carried],
    ) -> Result<String, Failure> {
        if rows.arrays.is_empty() {
            return Ok("INSERT 0 0".to_owned());
        }
        let sql = scatter.shard_sql(described.parameters.len() + 1, carried);
        let mut at = Vec::new();
        for (shard, arrays) in &rows.arrays {
            self.check_second_write(*shard)?;
            let i = self.member(*shard, Role::Primary).await?;
            self.members[i].wrote = true;
            push(self.members[i].lease.server(), &sql, described, given, arrays);
            at.push(i);
        }
        for i in &at {
            self.members[*i].server().flush().await?;
        }
        let mut members = pick(&mut self.members, &at);
        if !scatter.is_ordered {
            let (answers, describe) = (Answers::Sum, Describe::Hide);
            return broadcast::collect(&mut members, &mut self.client, answers, describe).await;
        }
        broadcast::in_order(&mut members, &mut self.client, &rows.order, Describe::Hide).await
    }
}

impl Rows {
    /// Of arrays of all shards in order, those of shards with rows.
    fn new(
        shards: Vec<ShardId>,
        arrays: Vec<Bytes>,
        counts: &[usize],
        mut order: Vec<usize>,
    ) -> Self {
        let width = arrays.len() / shards.len().max(1);
        let mut places = vec![0; shards.len()];
        let mut kept = Vec::new();
        let mut arrays = arrays.into_iter();
        for (i, shard) in shards.into_iter().enumerate() {
            let own: Vec<Bytes> = arrays.by_ref().take(width).collect();
            places[i] = kept.len();
            if counts[i] > 0 {
                kept.push((shard, own));
            }
        }
        order.iter_mut().for_each(|it| *it = places[*it]);
        Self { arrays: kept, order }
    }
}

/// The tenant's key, the last value of a row.
fn key_of(frame: &[u8], scatter: &Scatter) -> Result<Key, PgError> {
    let value = DataRow::read(frame)?.nth(scatter.width + 1).transpose()?.flatten();
    let Some(range) = value else {
        return Err(PgError::new(
            sqlstate::NOT_NULL_VIOLATION,
            "the tenant column of a sharded table cannot be NULL",
        )
        .hint("give the tenant's key"));
    };
    let text = String::from_utf8_lossy(&frame[range]);
    Key::from_text(scatter.key, &text).map_err(|error| {
        PgError::new(sqlstate::INTERNAL_ERROR, format!("a tenant's key cannot be read: {error}"))
    })
}

/// The statement itself was parsed: only this form of it is not to be had.
fn as_unlike(failure: Failure) -> Failure {
    match failure {
        Failure::Server(frame) => unlike(&crate::server::error_of(&frame).message).into(),
        other => other,
    }
}

const TEXT: u32 = 25;

/// The name of a built-in scalar type whose values are the same in binary on every server.
fn scalar(oid: u32) -> Option<&'static str> {
    Some(match oid {
        16 => "bool",
        17 => "bytea",
        20 => "int8",
        21 => "int2",
        23 => "int4",
        25 => "text",
        700 => "float4",
        701 => "float8",
        1042 => "bpchar",
        1043 => "varchar",
        1082 => "date",
        1083 => "time",
        1114 => "timestamp",
        1184 => "timestamptz",
        1186 => "interval",
        1266 => "timetz",
        1700 => "numeric",
        2950 => "uuid",
        114 => "json",
        3802 => "jsonb",
        _ => return None,
    })
}
