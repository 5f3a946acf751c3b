//! Keys that are unique over all shards. A statement that may change some is watched: at its end each of
//! its servers tells what has become of their values, and the shards that own the values are told, in the
//! same transaction and before the client hears of anything.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use super::causal::marks_of;
use super::run::Routed;
use super::{Role, Session};
use crate::catalog::unique::{GlobalKey, owner, parts};
use crate::error::{PgError, sqlstate};
use crate::exec::{Failure, relay};
use crate::plan::route::Arguments;
use crate::plan::unique::{Sought, Taken, Unique};
use crate::plan::{Isolation, Run, Statement};
use crate::pool::unique::{self, Claim, KeepError, State};
use crate::shard::{Key, Map, ShardId, ShardSet};
use crate::sql::name::quoted_text;
use crate::wire::backend;
use crate::wire::backend::view::DataRow;
use crate::wire::pipeline::Action;

/// SQL that tells what a statement has changed.
const TAKE: &str = "SELECT key, is_new, value, tenant FROM sluice.take_unique()";

/// So many values are sent at once.
const AT_ONCE: usize = 2000;

/// What goes back to before a statement whose row is not to be there.
const SAVEPOINT: &str = "SAVEPOINT sluice_unique";
const ROLLBACK: &str = "ROLLBACK TO SAVEPOINT sluice_unique; RELEASE SAVEPOINT sluice_unique";
const RELEASE: &str = "RELEASE SAVEPOINT sluice_unique";

/// A statement that is watched.
pub(super) struct Watching {
    /// What servers are told before it.
    sql: String,
    /// Whether it may have to be undone.
    has_savepoint: bool,
    told: Vec<ShardId>,
}

/// What a statement has changed.
#[derive(Default)]
struct Changes {
    /// How many rows more, or fewer, have a value now.
    net: BTreeMap<Claim, i64>,
    /// Keys of emptied tables, and where they were emptied.
    emptied: BTreeMap<String, BTreeSet<ShardId>>,
    bytes: usize,
}

/// How a watched statement has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Done,
    /// Its row is not there: another shard has its value.
    Skipped,
}

impl Session {
    /// From now on servers are told that a statement is watched.
    pub(super) fn watch(&mut self, unique: &Unique) {
        let keys: Vec<String> = unique.keys.iter().map(|it| format!("\"{it}\"")).collect();
        self.watching = Some(Box::new(Watching {
            sql: format!("SELECT sluice.watch_unique('{{{}}}')", keys.join(",")),
            has_savepoint: unique.taken == Taken::Skips,
            told: Vec::new(),
        }));
    }

    /// Tells a server, with what it is sent next.
    pub(super) fn tell_watched(&mut self, at: usize) {
        let Some(watching) = &mut self.watching else { return };
        let member = &mut self.members[at];
        if !member.in_tx || !member.is_primary || watching.told.contains(&member.shard) {
            return;
        }
        watching.told.push(member.shard);
        let server = member.lease.server();
        if watching.has_savepoint {
            server.push_query(SAVEPOINT, Action::Skip);
        }
        server.push_query(&watching.sql, Action::Skip);
    }

    /// Ends the watch over a statement that has gone well: the owners of what it has changed are told.
    ///
    /// # Errors
    /// 23505 if a row has a value that another has.
    pub(super) async fn settle_unique(&mut self, unique: &Unique) -> Result<Ending, Failure> {
        let Some(watching) = self.watching.take() else { return Ok(Ending::Done) };
        let changes = self.take_changes(&watching.told).await?;
        self.empty(&changes.emptied).await?;
        let map = self.database.map().clone();
        let (gone, come) = changes.by_owner(&map);
        let mut marked = if watching.has_savepoint { watching.told } else { Vec::new() };
        let owners: BTreeSet<ShardId> = gone.keys().chain(come.keys()).copied().collect();
        for shard in owners {
            self.check_second_write(shard)?;
            let at = self.member(shard, Role::Primary).await?;
            self.members[at].wrote = true;
            if watching.has_savepoint && !marked.contains(&shard) {
                self.members[at].lease.server().push_query(SAVEPOINT, Action::Skip);
                marked.push(shard);
            }
            for claims in gone.get(&shard).into_iter().flat_map(|it| it.chunks(AT_ONCE)) {
                self.ask_unique(at, &unique::free_sql(claims)).await?;
            }
        }
        // What ON CONFLICT looks at is looked at first.
        let is_first = |it: &Claim| unique.arbiter.as_ref() == Some(&it.key);
        let (first, rest) = split(come, is_first);
        for (shard, claims) in first.iter().chain(&rest) {
            let at = self.member(*shard, Role::Primary).await?;
            for claims in claims.chunks(AT_ONCE) {
                let rows = self.ask_unique(at, &unique::claim_sql(claims)).await?;
                let Some([Some(key), Some(value)]) = rows.first().map(Vec::as_slice) else {
                    continue;
                };
                let applies = unique.arbiter.as_ref().is_none_or(|it| it == key);
                match unique.taken {
                    Taken::Refused if applies => return Err(elsewhere(key).into()),
                    Taken::Skips if applies => {
                        self.on_marked(&marked, ROLLBACK).await?;
                        return Ok(Ending::Skipped);
                    }
                    _ => return Err(self.raise_taken(at, key, value).await),
                }
            }
        }
        self.on_marked(&marked, RELEASE).await?;
        Ok(Ending::Done)
    }

    async fn on_marked(&mut self, shards: &[ShardId], sql: &str) -> Result<(), PgError> {
        for member in &mut self.members {
            if member.in_tx && shards.contains(&member.shard) {
                member.lease.server().run(sql).await?;
            }
        }
        Ok(())
    }

    async fn take_changes(&mut self, shards: &[ShardId]) -> Result<Changes, Failure> {
        let limit = self.cluster.config.limits.merge_bytes;
        let is_told = |it: &&mut crate::exec::Member| it.in_tx && shards.contains(&it.shard);
        for member in self.members.iter_mut().filter(is_told) {
            let server = member.lease.server();
            server.push_query(TAKE, Action::Forward);
            server.flush().await?;
        }
        let (mut changes, mut failed) = (Changes::default(), None);
        for member in self.members.iter_mut().filter(is_told) {
            let (shard, server) = (member.shard, member.lease.server());
            while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
                match tag {
                    b'D' if changes.bytes <= limit => changes.note(shard, &frame)?,
                    b'E' => drop(failed.get_or_insert(frame)),
                    _ => (),
                }
            }
        }
        match failed {
            Some(frame) => Err(Failure::Server(frame)),
            None if changes.bytes > limit => Err(PgError::limit(
                sqlstate::CONFIGURATION_LIMIT_EXCEEDED,
                "the statement changes too many values of a key that is unique over all shards",
                &"limits.merge_bytes",
                limit,
            )
            .hint("Change fewer rows at a time, or raise limits.merge_bytes.")
            .into()),
            None => Ok(changes),
        }
    }

    /// TRUNCATE: nobody has values any more.
    async fn empty(
        &mut self,
        emptied: &BTreeMap<String, BTreeSet<ShardId>>,
    ) -> Result<(), Failure> {
        for (key, shards) in emptied {
            let all: Vec<ShardId> = self.database.shards.keys().copied().collect();
            if shards.len() < all.len() {
                return Err(PgError::refused(format!(
                    "TRUNCATE on some shards of a table with the unique key {key}"
                ))
                .hint("TRUNCATE it by a statement of its own, or DELETE the rows.")
                .into());
            }
            for shard in all {
                let at = self.member(shard, Role::Primary).await?;
                let sql = format!("SELECT sluice.clear_unique({})", quoted_text(key));
                self.ask_unique(at, &sql).await?;
            }
        }
        Ok(())
    }

    /// The error of one Postgres for a value that is taken.
    async fn raise_taken(&mut self, at: usize, key: &str, value: &str) -> Failure {
        let sql = format!("SELECT sluice.raise_unique({}, '{value}')", quoted_text(key));
        match self.ask_unique(at, &sql).await {
            Err(failure) => failure,
            Ok(_) => {
                PgError::new("23505", format!("duplicate key value violates the unique key {key}"))
                    .into()
            }
        }
    }

    /// Rows of a query of the proxy's own, which may have to wait for others' locks.
    async fn ask_unique(
        &mut self,
        at: usize,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, Failure> {
        let server = self.members[at].lease.server();
        server.push_query(sql, Action::Forward);
        let (mut rows, mut failed) = (Vec::new(), None);
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            match tag {
                b'D' => {
                    let text = |it| String::from_utf8_lossy(&frame[it]).into_owned();
                    let cells = DataRow::read(&frame)?.map(|it| it.map(|it| it.map(text)));
                    rows.push(cells.collect::<Result<_, _>>()?);
                }
                b'E' => failed = Some(without_context(&frame)),
                _ => (),
            }
        }
        failed.map_or(Ok(rows), |frame| Err(Failure::Server(frame)))
    }

    /// The shard of the tenant that has the value which a statement asks for; `None` if that cannot be
    /// told, so that all shards are asked.
    pub(super) async fn look_up(
        &mut self,
        statement: &Statement,
        run: &Run,
        args: Arguments<'_>,
        routed: &Routed,
    ) -> Result<Option<Routed>, Failure> {
        let Some(lookup) = statement.plan.lookup.as_deref() else { return Ok(None) };
        // One look after the other: they would have to be of one snapshot.
        let wants_snapshot = match self.tx {
            None => self.database.config.has_barrier,
            Some(_) => self.isolation().is_some_and(|it| it >= Isolation::RepeatableRead),
        };
        if routed.shards.len() < 2 || wants_snapshot {
            return Ok(None);
        }
        let sought = lookup.sought(&statement.call(args));
        let tenant = match sought {
            Sought::Unknown => return Ok(None),
            Sought::Nothing => None,
            Sought::Value(keys, value) => {
                if self.check_encoding(run, &keys).is_err() {
                    return Ok(None);
                }
                let shard = owner(self.database.map(), &value);
                let at = self.member(shard, Role::Primary).await?;
                let rows = self.ask_unique(at, &unique::find_sql(&lookup.key, &value)).await?;
                rows.into_iter().flatten().next().flatten()
            }
        };
        let key = tenant.and_then(|it| Key::from_text(lookup.tenant, &unique::plain(&it)).ok());
        let shard = match &key {
            Some(key) => self.database.map().owner(key),
            // No row is meant: whichever shard is asked.
            None => self.any_shard(),
        };
        let shards = ShardSet::one(shard);
        let marks = marks_of(std::iter::once(key.as_ref()));
        let role = self.role(run, shards, &marks, statement.verb());
        Ok(Some(Routed { shards, role, marks }))
    }

    /// After a schema change, in its transaction: shards keep the keys that it made and forget those that
    /// are no more.
    pub(super) async fn keep_unique(&mut self) -> Result<(), Failure> {
        let database = std::sync::Arc::clone(&self.database);
        let config = &database.config;
        let Some(tenant) = &config.tenant_column else { return Ok(()) };
        if config.global_unique.is_empty() {
            return Ok(());
        }
        // A shard may have been out of reach when the proxy looked last.
        for shard in database.shards.values() {
            if !unique::make(&shard.primary.control).await {
                return Err(unready(shard.id).into());
            }
        }
        let map = database.map().clone();
        for key in config.global_unique.iter().filter(|it| !is_reference(config, it)) {
            let mut servers = self.servers().await?;
            match unique::keep(&mut servers, &map, key, tenant, false).await {
                Ok(State::None | State::Kept | State::Unkept | State::Stale) => (),
                Err(error) => return Err(unkept(key, &error).into()),
            }
        }
        Ok(())
    }
}

/// Whether a key is of a table that every shard has alike.
fn is_reference(config: &crate::config::Database, key: &GlobalKey) -> bool {
    let full = format!("{}.{}", key.schema, key.table);
    config.reference_tables.iter().any(|it| *it == key.table || *it == full)
}

impl Changes {
    /// Takes a row of [`TAKE`].
    fn note(&mut self, shard: ShardId, frame: &[u8]) -> Result<(), PgError> {
        let text = |it| String::from_utf8_lossy(&frame[it]).into_owned();
        let cells: Result<Vec<Option<String>>, PgError> =
            DataRow::read(frame)?.map(|it| it.map(|it| it.map(text))).collect();
        let mut cells = cells?.into_iter();
        let mut next = || cells.next().flatten();
        let (Some(key), is_new) = (next(), next()) else { return Ok(()) };
        let (value, tenant) = (next(), next());
        let (Some(is_new), Some(value), Some(tenant)) = (is_new, value, tenant) else {
            self.emptied.entry(key).or_default().insert(shard);
            return Ok(());
        };
        self.bytes += frame.len();
        let count = self.net.entry(Claim { key, value, tenant }).or_default();
        *count += if is_new == "t" { 1 } else { -1 };
        Ok(())
    }

    /// What is no more and what is new, by the shards that keep it.
    fn by_owner(self, map: &Map) -> (ByOwner, ByOwner) {
        let (mut gone, mut come) = (ByOwner::new(), ByOwner::new());
        for (claim, count) in self.net {
            let side = if count < 0 { &mut gone } else { &mut come };
            for _ in 0..count.unsigned_abs() {
                side.entry(claim.owner(map)).or_default().push(claim.clone());
            }
        }
        (gone, come)
    }
}

/// Those of one kind, and the others.
fn split(all: ByOwner, is_first: impl Fn(&Claim) -> bool) -> (ByOwner, ByOwner) {
    let (mut first, mut rest) = (ByOwner::new(), ByOwner::new());
    for (shard, claims) in all {
        let (own, others): (Vec<_>, Vec<_>) = claims.into_iter().partition(&is_first);
        for (side, claims) in [(&mut first, own), (&mut rest, others)] {
            if !claims.is_empty() {
                side.insert(shard, claims);
            }
        }
    }
    (first, rest)
}

type ByOwner = BTreeMap<ShardId, Vec<Claim>>;

/// An ErrorResponse that does not tell of functions of the proxy's own.
fn without_context(frame: &[u8]) -> Bytes {
    let Ok(fields) = backend::ErrorFields::read(frame) else {
        return Bytes::copy_from_slice(frame);
    };
    let mut out = BytesMut::new();
    let kept = fields.0.into_iter().filter(|(code, _)| !b"WFLRqpP".contains(code));
    backend::error_fields(&mut out, kept);
    out.freeze()
}

fn elsewhere(key: &str) -> PgError {
    PgError::refused(format!("ON CONFLICT of the unique key {key} meets a row of another shard"))
        .detail("The row that has the value is of a tenant of another shard, or came in the same statement.")
        .hint("INSERT without ON CONFLICT and handle 23505, or insert one row at a time with DO NOTHING and without RETURNING.")
}

/// A row that violates another key of its own shard, where ON CONFLICT names one that a row of another
/// shard may have: one Postgres would have looked at that first.
pub(super) fn unsure(failure: Failure, unique: &Unique) -> Failure {
    let Failure::Server(frame) = &failure else { return failure };
    let is_duplicate = backend::ErrorFields::read(frame).is_ok_and(|it| it.code() == b"23505");
    if !is_duplicate || unique.taken == Taken::Fails || !unique.is_named {
        return failure;
    }
    let error = crate::server::error_of(frame);
    PgError::refused("ON CONFLICT of a key over shards, of a row that violates another key")
        .detail(format!("{} {}", error.message, error.detail.unwrap_or_default()))
        .hint("INSERT without ON CONFLICT and handle 23505.")
        .into()
}

fn unready(shard: ShardId) -> PgError {
    PgError::new(
        sqlstate::CANNOT_CONNECT_NOW,
        format!("what keeps the keys of global_unique could not be made on shard {shard}"),
    )
    .hint("Try again; the user of the shard's URL must be able to create schema sluice.")
}

fn unkept(key: &GlobalKey, error: &KeepError) -> PgError {
    match error {
        KeepError::Taken(value) => PgError::new(
            "23505",
            format!("could not create a unique key over all shards of table \"{}\"", key.table),
        )
        .detail(format!(
            "Key ({})=({}) is duplicated.",
            key.columns.join(", "),
            parts(value, key.columns.len()).join(", ")
        )),
        KeepError::Server(it) => PgError::new(
            sqlstate::INTERNAL_ERROR,
            format!("the unique key {key} could not be set up on all shards"),
        )
        .detail(it.to_string()),
        KeepError::Refused(_) | KeepError::Uneven(..) => {
            PgError::refused(format!("the unique key {key} cannot be kept over all shards"))
                .detail(error.to_string())
        }
    }
}
