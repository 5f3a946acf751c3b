//! Statements that several shards run.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use super::extended::Portal;
use super::gather::ONE_SNAPSHOT;
use super::portable::portable;
use super::run::Routed;
use super::unique::{Ending, unsure};
use super::{Role, Session};
use crate::error::{PgError, sqlstate};
use crate::exec::broadcast::{self, Answers, Describe};
use crate::exec::{Failure, Member, copy, merge};
use crate::merge::{Bound, Limits, Merge, MergeSpec};
use crate::plan::cache::Verb;
use crate::plan::gather::NOW;
use crate::plan::route::{self, Arguments, Rows};
use crate::plan::unique::Unique;
use crate::plan::{Access, Combine, Dated, Filled, Run, Split, Statement};
use crate::shard::ShardId;
use crate::sql::name::quoted_text;
use crate::wire::frontend;
use crate::wire::frontend::view::{Bind, Target};
use crate::wire::pipeline::Action;

impl Session {
    /// Runs a statement on several shards and gives the client one answer. `portal` is that of the
    /// extended protocol.
    pub(super) async fn fan_out(
        &mut self,
        statement: &Statement,
        run: &Run,
        routed: &Routed,
        portal: Option<&Portal>,
    ) -> Result<(), Failure> {
        let unique = statement.plan.unique.as_deref();
        if let Combine::Refuse(error) = &run.combine
            && (unique.is_none() || routed.shards.len() > 1)
        {
            return Err(error.clone().into());
        }
        if let Combine::OneByOne = run.combine {
            if self.tx.is_some() && portal.is_none() && may_be_in_block(&statement.text) {
                let (text, answers) = (statement.text.clone(), Answers::Sum);
                let describe = Describe::Forward;
                let tag = self.same_text(&text, run, routed, None, answers, describe).await?;
                self.complete(&tag);
                return Ok(());
            }
            return self.one_by_one(statement, routed).await;
        }
        // Settings that hold shipped rows last to the end of a transaction.
        let needs_block =
            run.access == Access::Write || matches!(run.combine, Combine::CopyGather { .. });
        let opened = needs_block && self.tx.is_none();
        if opened {
            self.begin_implicit();
        }
        let has_barrier = self.database.config.has_barrier;
        // What a pipeline does later must not be of the same snapshot.
        let ships_twice = (portal.is_none() || self.executes_one)
            && matches!(&run.combine, Combine::Gather(it) if !it.reductions.is_empty());
        let reads_snapshot = !opened && self.tx.is_none() && (has_barrier || ships_twice);
        if reads_snapshot {
            let level = has_barrier.then_some(crate::plan::Isolation::RepeatableRead);
            self.begin(ONE_SNAPSHOT, false, None, level);
        }
        let opened = opened || reads_snapshot;
        let told = self.told_so_far();
        let done = match unique {
            None if self.may_repeat(opened) => {
                let done = self.combine(statement, run, routed, portal).await;
                match self.repeats(told) {
                    true => self.combine(statement, run, routed, portal).await,
                    false => done,
                }
            }
            None => self.combine(statement, run, routed, portal).await,
            Some(unique) => Box::pin(self.watched(statement, run, unique, routed, portal)).await,
        };
        let tag = match done {
            Ok(tag) => tag,
            Err(failure) => return Err(failure), // the caller rolls the implicit block back
        };
        // The client has the server's error; the caller rolls the implicit block back.
        if self.has_failed() {
            return Ok(());
        }
        // The client hears of it once it is safe.
        if opened && portal.is_none() && self.tx.as_ref().is_some_and(|tx| !tx.is_explicit) {
            self.commit().await?;
        }
        if let Some(tag) = tag {
            self.complete(&tag);
        }
        Ok(())
    }

    /// As [`Self::combine`], of a statement that may change keys over shards.
    async fn watched(
        &mut self,
        statement: &Statement,
        run: &Run,
        unique: &Unique,
        routed: &Routed,
        portal: Option<&Portal>,
    ) -> Result<Option<String>, Failure> {
        self.watch(unique);
        let done = match &run.combine {
            Combine::CopyFrom(_) => self.combine(statement, run, routed, portal).await,
            _ if routed.shards.len() == 1 => match statement.verb() {
                Verb::Copy => Err(PgError::refused(
                    "COPY of the rows of a statement that changes a key over shards is not supported",
                )
                .hint("Use RETURNING.")
                .into()),
                _ => {
                    let describe = if portal.is_some() { Describe::Hide } else { Describe::Forward };
                    let (text, sum) = (statement.text.clone(), Answers::Sum);
                    self.same_text(&text, run, routed, portal, sum, describe).await.map(Some)
                }
            },
            _ => self.combine(statement, run, routed, portal).await,
        };
        if done.is_err() || self.has_failed() {
            self.watching = None;
            return done.map_err(|failure| unsure(failure, unique));
        }
        match self.settle_unique(unique).await? {
            Ending::Done => done,
            Ending::Skipped => Ok(Some("INSERT 0 0".to_owned())),
        }
    }

    pub(super) async fn combine(
        &mut self,
        statement: &Statement,
        run: &Run,
        routed: &Routed,
        portal: Option<&Portal>,
    ) -> Result<Option<String>, Failure> {
        if let Some(explained) = &run.explained {
            return self.explain_over((run, explained), routed, portal).await;
        }
        let describe = if portal.is_some() { Describe::Hide } else { Describe::Forward };
        match &run.combine {
            Combine::Merge(spec) => {
                let told = |client: &crate::net::Client| client.sent + client.out.len() as u64;
                let before = told(&self.client);
                let done = self.merge(spec, routed, portal, describe).await;
                match (done, &run.fallback) {
                    // The columns are of types that are not merged; nothing was told yet.
                    (Err(Failure::Error(error)), Some(gather))
                        if error.code == sqlstate::FEATURE_NOT_SUPPORTED
                            && told(&self.client) == before =>
                    {
                        self.gather(statement, gather, run.access, routed, portal).await
                    }
                    (done, _) => done,
                }
            }
            Combine::Gather(gather) => {
                self.gather(statement, gather, run.access, routed, portal).await
            }
            Combine::Sum => {
                let text = statement.text.clone();
                self.same_text(&text, run, routed, portal, Answers::Sum, describe).await.map(Some)
            }
            Combine::Same => {
                let text = self.timed_text(statement).await?;
                let tag =
                    self.same_text(&text, run, routed, portal, Answers::Same, describe).await?;
                for sql in statement.plan.times.iter().flat_map(|it| &it.defaults) {
                    let (sql, answers) = (Bytes::copy_from_slice(sql.as_bytes()), Answers::Same);
                    self.same_text(&sql, run, routed, None, answers, Describe::Hide).await?;
                }
                if let (Some(table), Some(tx)) = (&statement.plan.bound, &mut self.tx) {
                    tx.bound.push(table.to_string());
                }
                if let Some(numbers) =
                    statement.plan.numbers.as_ref().filter(|_| !self.has_failed())
                {
                    self.number(numbers).await?;
                }
                if statement.plan.changes_schema && !self.has_failed() {
                    self.keep_unique().await?;
                }
                Ok(Some(tag))
            }
            Combine::Materialized(it) => {
                let of = (statement, run, it.as_deref());
                self.materialize(of, routed, (portal, describe)).await.map(Some)
            }
            Combine::Filled(filled) => {
                let arguments = portal.map(Portal::arguments).transpose()?.unwrap_or_default();
                let is_bound = portal.is_some();
                let args = if is_bound { arguments.as_route() } else { Arguments::None };
                let values = self.values(filled).await?;
                let sql = route::filled_sql(filled, &statement.call(args), &values);
                let sql = Bytes::from(sql.ok_or_else(|| {
                    PgError::new(sqlstate::INTERNAL_ERROR, "a row was not found")
                })?);
                self.same_text(&sql, run, routed, portal, Answers::Same, describe).await.map(Some)
            }
            Combine::Split(split) => self.split(statement, split, portal, describe).await.map(Some),
            Combine::Scatter(it) => self.scatter(statement, it, routed, portal).await.map(Some),
            Combine::Lock(it) => self.lock_rows(it, routed, portal).await,
            Combine::Pick(it) => Box::pin(self.pick(it, portal)).await,
            Combine::Move(it) => self.move_rows(statement, it, routed, portal).await.map(Some),
            Combine::CreateAs(it) => {
                self.create_as(statement, (run, it), routed, portal).await.map(Some)
            }
            Combine::CopyFrom(spec) => {
                let dates = self.dates(spec.dated.as_ref()).await?;
                let sql = match &spec.dated {
                    Some(dated) => {
                        let call = statement.call(Arguments::None);
                        Bytes::from(route::copy_sql(dated, &call).ok_or_else(|| {
                            PgError::new(sqlstate::INTERNAL_ERROR, "the columns were not found")
                        })?)
                    }
                    None => statement.text.clone(),
                };
                let at = self.send_all(&sql, routed, Access::Write, None, (0, 0)).await?;
                let map = self.database.map().clone();
                let shards: Vec<ShardId> = routed.shards.iter().collect();
                let mut members = pick(&mut self.members, &at);
                let to = (&map, &shards[..]);
                copy::split(&mut members, &mut self.client, spec, to, &dates).await.map(Some)
            }
            Combine::Place(placing) => {
                self.place(statement, (run, placing), routed, portal, describe).await.map(Some)
            }
            Combine::CopyGather { gather, before, after } => {
                self.copy_gathered(gather, routed, (before, after)).await.map(|()| None)
            }
            Combine::CopyTo { header, is_binary } => {
                let at = self.send_all(&statement.text, routed, Access::Read, None, (0, 0)).await?;
                let mut members = pick(&mut self.members, &at);
                copy::concatenate(&mut members, &mut self.client, (*header, *is_binary))
                    .await
                    .map(Some)
            }
            Combine::OneByOne | Combine::Refuse(_) => {
                Err(PgError::refused("this statement cannot run on several shards").into())
            }
        }
    }

    /// Leases a server of every shard and queues the statement on it; their members' positions, by
    /// rising shard. Everything is sent before anything is read.
    pub(super) async fn send_all(
        &mut self,
        sql: &Bytes,
        routed: &Routed,
        access: Access,
        portal: Option<&Portal>,
        (hidden, rows): (usize, i32),
    ) -> Result<Vec<usize>, Failure> {
        let may_repeat = self.may_repeat(access == Access::Write);
        let mut at = Vec::new();
        for shard in routed.shards.iter() {
            if access == Access::Write {
                self.check_second_write(shard)?;
            }
            let i = self.member(shard, routed.role).await?;
            self.members[i].wrote |= access == Access::Write;
            if may_repeat {
                self.watch_loss(i, false);
            }
            at.push(i);
        }
        for i in &at {
            send(&mut self.members[*i], sql, portal, (hidden, rows))?;
            self.members[*i].server().flush().await?;
        }
        Ok(at)
    }

    async fn merge(
        &mut self,
        spec: &MergeSpec,
        routed: &Routed,
        portal: Option<&Portal>,
        describe: Describe,
    ) -> Result<Option<String>, Failure> {
        let limit = bound(spec.limit, portal, sqlstate::INVALID_LIMIT, "LIMIT")?;
        let offset = bound(spec.offset, portal, sqlstate::INVALID_OFFSET, "OFFSET")?.unwrap_or(0);
        if limit.is_some_and(|limit| limit.checked_add(offset).is_none()) {
            return Err(PgError::refused("LIMIT plus OFFSET is beyond bigint").into());
        }
        // Of rows that are only put in order no shard gives more than are asked for of all.
        let asked = portal.map_or(0, |it| it.max_rows.max(0));
        let is_plain = asked > 0 && spec.group.is_none() && !spec.distinct;
        let rows = i64::from(asked).saturating_add(offset);
        let rows = i32::try_from(rows).ok().filter(|_| is_plain).unwrap_or(0);
        let access = if spec.modifies { Access::Write } else { Access::Read };
        let sql = Bytes::copy_from_slice(spec.shard_sql.as_bytes());
        let at = self.send_all(&sql, routed, access, portal, (spec.hidden, rows)).await?;
        let limits = Limits { bytes: self.cluster.config.limits.merge_bytes };
        let mut merge = Merge::new(spec, at.len(), limit, offset, limits);
        if asked > 0 {
            merge.pause_after(u64::from(asked.unsigned_abs()));
        }
        // The client hears of what has changed once it is safe.
        if spec.modifies {
            merge.withhold_tag();
        }
        let mut members = pick(&mut self.members, &at);
        let tag = merge::run(&mut members, &mut self.client, merge, describe).await?;
        Ok(spec.modifies.then_some(tag))
    }

    pub(super) async fn same_text(
        &mut self,
        sql: &Bytes,
        run: &Run,
        routed: &Routed,
        portal: Option<&Portal>,
        answers: Answers,
        describe: Describe,
    ) -> Result<String, Failure> {
        let at = self.send_all(sql, routed, run.access, portal, (0, 0)).await?;
        let mut members = pick(&mut self.members, &at);
        if matches!(answers, Answers::Same) && copy::is_copy(sql) {
            return copy::broadcast(&mut members, &mut self.client).await;
        }
        broadcast::collect(&mut members, &mut self.client, answers, describe).await
    }

    /// A multi-row INSERT: each shard gets the rows of its tenants.
    async fn split(
        &mut self,
        statement: &Statement,
        split: &Split,
        portal: Option<&Portal>,
        describe: Describe,
    ) -> Result<String, Failure> {
        let arguments = portal.map(Portal::arguments).transpose()?.unwrap_or_default();
        let args = if portal.is_some() { arguments.as_route() } else { Arguments::None };
        let call = statement.call(args);
        let rows = match route::split_rows(split, self.database.map(), &call)? {
            Rows::Shards(shards) => shards,
            Rows::Null(row) => {
                return Err(PgError::new(
                    sqlstate::NOT_NULL_VIOLATION,
                    format!("the tenant column of row {} is NULL", row + 1),
                )
                .hint("give the tenant's key")
                .into());
            }
            Rows::Unreadable | Rows::Replan => return Err(super::run::unreadable_key().into()),
        };
        let dates = self.dates(split.dated.as_ref()).await?;
        let defaults: Vec<String> = split.told.iter().map(|it| it.1.clone()).collect();
        let times = self.times(&defaults).await?;
        let mut texts = Vec::new();
        for (shard, indexes) in &rows {
            let sql = route::split_sql(split, &call, indexes, (&dates, &times))
                .ok_or_else(|| PgError::new(sqlstate::INTERNAL_ERROR, "a row was not found"))?;
            texts.push((*shard, Bytes::from(sql)));
        }
        let mut at = Vec::new();
        for (shard, sql) in &texts {
            self.check_second_write(*shard)?;
            let i = self.member(*shard, Role::Primary).await?;
            self.members[i].wrote = true;
            send(&mut self.members[i], sql, portal, (0, 0))?;
            at.push(i);
        }
        for i in &at {
            self.members[*i].server().flush().await?;
        }
        if !split.returning {
            let mut members = pick(&mut self.members, &at);
            let answers = Answers::Sum;
            return broadcast::collect(&mut members, &mut self.client, answers, describe).await;
        }
        let mut order = vec![0; rows.values().map(Vec::len).sum()];
        for (member, indexes) in rows.values().enumerate() {
            indexes.iter().for_each(|row| order[*row] = member);
        }
        let mut members = pick(&mut self.members, &at);
        broadcast::in_order(&mut members, &mut self.client, &order, describe).await
    }

    /// The values of columns that the home shard computes, by rows, as text.
    async fn values(&mut self, filled: &Filled) -> Result<Vec<Vec<Option<String>>>, Failure> {
        let home = self.database.config.home_shard;
        let at = self.member(home, Role::Primary).await?;
        self.members[at].wrote = true;
        let asked: Vec<String> =
            filled.defaults.iter().map(|it| format!("({it})::pg_catalog.text")).collect();
        let sql = format!(
            "SELECT {} FROM pg_catalog.generate_series(1, {})",
            asked.join(", "),
            filled.rows.len()
        );
        Ok(self.members[at].lease.server().rows(&sql).await?)
    }

    /// The text of a statement that is the same on all shards, with one time for all.
    async fn timed_text(&mut self, statement: &Statement) -> Result<Bytes, Failure> {
        let Some(times) = &statement.plan.times else { return Ok(statement.text.clone()) };
        let now = self.times(&["pg_catalog.now()".to_owned()]).await?;
        let now = format!("{}::pg_catalog.timestamptz", quoted_text(&now.concat()));
        Ok(Bytes::from(times.sql.replace(NOW, &format!("({now})"))))
    }

    /// The values of columns whose default is the transaction's time, as text: those of the home shard.
    async fn dates(&mut self, dated: Option<&Dated>) -> Result<Vec<String>, Failure> {
        self.times(dated.map_or(&[], |it| &it.defaults)).await
    }

    /// The values of defaults that are the transaction's time, as text: those of the home shard.
    async fn times(&mut self, defaults: &[String]) -> Result<Vec<String>, Failure> {
        if defaults.is_empty() {
            return Ok(Vec::new());
        }
        let distinct: BTreeSet<&String> = defaults.iter().collect();
        let at = self.member(self.database.config.home_shard, Role::Primary).await?;
        let asked: Vec<String> = distinct.iter().map(|it| format!("({it})::text")).collect();
        let sql = format!("SELECT {}", asked.join(", "));
        let rows = self.members[at].lease.server().rows(&sql).await?;
        let values = rows.into_iter().flatten().map(Option::unwrap_or_default);
        let of: BTreeMap<&String, String> = distinct.into_iter().zip(values).collect();
        Ok(defaults.iter().map(|it| of.get(it).cloned().unwrap_or_default()).collect())
    }
}

/// Whether it may run in a transaction, unlike VACUUM: ANALYZE, REINDEX of a table or index, CLUSTER of a table.
fn may_be_in_block(sql: &[u8]) -> bool {
    let text = String::from_utf8_lossy(sql.trim_ascii_start()).to_ascii_lowercase();
    let mut words = text.split(|it: char| !it.is_ascii_alphanumeric()).filter(|it| !it.is_empty());
    match (words.next(), words.next()) {
        (Some("analyze" | "analyse"), _) => true,
        (Some("cluster"), table) => table.is_some(),
        (Some("reindex"), Some("table" | "index")) => words.next() != Some("concurrently"),
        _ => false,
    }
}

/// The members at these positions.
pub(super) fn pick<'a>(members: &'a mut [Member], at: &[usize]) -> Vec<&'a mut Member> {
    let mut found: Vec<(usize, &mut Member)> = members
        .iter_mut()
        .enumerate()
        .filter_map(|(i, member)| at.iter().position(|it| *it == i).map(|rank| (rank, member)))
        .collect();
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, member)| member).collect()
}

/// Queues a statement on a server: as a simple query, or bound to a portal's arguments. `hidden` columns are
/// not the client's; no more than `rows` rows are asked for, unless that is 0.
pub(super) fn send(
    member: &mut Member,
    sql: &Bytes,
    portal: Option<&Portal>,
    (hidden, rows): (usize, i32),
) -> Result<(), PgError> {
    let server = member.lease.server();
    let Some(portal) = portal else {
        server.statements.unnamed = None;
        server.push_with(b'Q', Action::Forward, |out| frontend::query(out, sql));
        return Ok(());
    };
    let bind = Bind::read(&portal.bind)?;
    let text = std::str::from_utf8(sql).unwrap_or_default();
    let types = portable(portal.prepared.text.told_types(), text, |it| bind.formats.of(it));
    server.statements.unnamed = None;
    server.push_with(b'P', Action::Skip, |out| {
        frontend::parse(out, b"", sql, types.iter().copied());
    });
    server.push_with(b'B', Action::Skip, |out| {
        frontend::bind_unnamed(out, &portal.bind, &bind, hidden);
    });
    server.push_with(b'D', Action::Forward, |out| frontend::describe(out, Target::Portal, b""));
    server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", rows));
    server.push_sync();
    Ok(())
}

/// The value of LIMIT or OFFSET; `None` is no bound.
pub(super) fn bound(
    bound: Option<Bound>,
    portal: Option<&Portal>,
    code: &'static str,
    what: &str,
) -> Result<Option<i64>, PgError> {
    let value = match (bound, portal) {
        (None, _) => None,
        (Some(Bound::Literal(value)), _) => Some(value),
        (Some(Bound::Param(index)), Some(portal)) => portal.integer(index, what)?,
        (Some(Bound::Param(_)), None) => {
            return Err(PgError::refused(format!("{what} has a parameter without a value")));
        }
    };
    match value {
        Some(value) if value < 0 => Err(PgError::new(code, format!("{what} must not be negative"))),
        value => Ok(value),
    }
}

/// A buffer for one message.
pub(super) fn message(build: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut message = BytesMut::new();
    build(&mut message);
    message
}
