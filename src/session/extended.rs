//! The extended protocol: Parse, Bind, Describe, Execute, Close up to a Sync or Flush.
//!
//! A batch that one server can take is handed to it in one write, with statements renamed and those it
//! lacks prepared before. Any other batch is carried out message by message.

pub(super) mod batch;
mod stepwise;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::run::Routed;
use super::statement::names_user;
use super::transaction::SchemaOfBlock;
use super::{Role, Session};
use crate::catalog::Catalog;
use crate::error::{PgError, sqlstate};
use crate::exec::Failure;
use crate::plan::route::Arguments;
use crate::plan::{Access, Action as PlanAction, Run, Statement};
pub(super) use crate::proxy::Prepared;
use crate::proxy::{Text, TextKey};
use crate::server::Setting;
use crate::shard::ShardId;
use crate::wire::backend;
use crate::wire::frontend::view::{Bind, Parse};

/// What a batch may hold before it is handed on without a Sync.
const BATCH_BYTES: usize = 256 << 10;

/// A client's portal.
#[derive(Clone)]
pub(super) struct Portal {
    pub(super) prepared: Arc<Prepared>,
    /// The Bind message.
    pub(super) bind: Bytes,
    /// The server that has it, if it was handed on.
    place: Option<(ShardId, Role)>,
    /// How many rows its Execute asks for; 0: all.
    pub(super) max_rows: i32,
    /// Whether several shards have given a part of its rows: no server has the rest.
    is_cut: bool,
}

/// The arguments of a Bind, taken apart.
#[derive(Default)]
pub(super) struct Bound<'a> {
    params: SmallVec<[Option<&'a [u8]>; 8]>,
    formats: SmallVec<[i16; 8]>,
    types: &'a [u32],
}

impl Bound<'_> {
    /// As routing takes them.
    pub(super) fn as_route(&self) -> Arguments<'_> {
        Arguments::Bind { params: &self.params, formats: &self.formats, types: self.types }
    }
}

impl Portal {
    /// Whether its Execute may write.
    pub(super) fn writes(&self) -> bool {
        let action = &self.prepared.statement.plan.action;
        matches!(action, PlanAction::Run(run) if run.access == Access::Write)
    }

    /// A portal that a server has.
    pub(super) fn placed(prepared: Arc<Prepared>, bind: Bytes, place: (ShardId, Role)) -> Self {
        Self { prepared, bind, place: Some(place), max_rows: 0, is_cut: false }
    }

    /// A portal that no server has.
    pub(super) fn unplaced(prepared: Arc<Prepared>, bind: Bytes) -> Self {
        Self { prepared, bind, place: None, max_rows: 0, is_cut: false }
    }

    /// The arguments.
    pub(super) fn arguments(&self) -> Result<Bound<'_>, PgError> {
        arguments(&self.bind, &self.prepared.text)
    }

    /// The value of parameter `$index` (1-based), which is text in either format; NULL is `None`.
    pub(super) fn text(&self, index: usize) -> Option<String> {
        let bound = self.arguments().ok()?;
        let value = bound.params.get(index - 1).copied().flatten()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// The value of parameter `$index` (1-based) as a whole number; NULL is `None`.
    pub(super) fn integer(&self, index: usize, what: &str) -> Result<Option<i64>, PgError> {
        let bound = self.arguments()?;
        let Some(value) = bound.params.get(index - 1).copied().flatten() else { return Ok(None) };
        let format = match bound.formats.as_slice() {
            [] => 0,
            [one] => *one,
            many => many.get(index - 1).copied().unwrap_or(0),
        };
        let number = match (format, value) {
            (1, [a, b]) => Some(i64::from(i16::from_be_bytes([*a, *b]))),
            (1, [a, b, c, d]) => Some(i64::from(i32::from_be_bytes([*a, *b, *c, *d]))),
            (1, _) => <[u8; 8]>::try_from(value).ok().map(i64::from_be_bytes),
            _ => std::str::from_utf8(value).ok().and_then(|it| it.trim().parse().ok()),
        };
        let error = || {
            PgError::refused(format!("the value of {what} is not a whole number"))
                .hint("pass it as int8")
        };
        number.map(Some).ok_or_else(error)
    }
}

fn arguments<'a>(frame: &'a [u8], text: &'a Text) -> Result<Bound<'a>, PgError> {
    Ok(bound(&Bind::read(frame)?, frame, text))
}

/// Whether a text has literals in quotes, of either kind.
pub(super) fn has_literal(sql: &[u8]) -> bool {
    let opens = |it: &[u8]| it[0] == b'$' && !it[1].is_ascii_digit();
    sql.contains(&b'\'') || sql.windows(2).any(opens)
}

/// Whether a literal may be read as a moment of the clock, which is that of its Parse.
fn reads_clock(sql: &[u8]) -> bool {
    const WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];
    let quotes = sql.iter().enumerate().filter(|(_, it)| matches!(**it, b'\'' | b'$'));
    let rest = |at: usize| sql[at + 1..].trim_ascii_start();
    let begins = |rest: &[u8], word: &[u8]| {
        rest.get(..word.len()).is_some_and(|it| it.eq_ignore_ascii_case(word))
    };
    quotes.map(|(at, _)| rest(at)).any(|rest| WORDS.iter().any(|it| begins(rest, it)))
}

/// As Postgres reports it.
fn stale_plan() -> PgError {
    PgError::new(sqlstate::FEATURE_NOT_SUPPORTED, "cached plan must not change result type")
        .hint("prepare the statement again")
}

/// The arguments of a Bind message.
pub(super) fn bound<'a>(bind: &Bind<'_>, frame: &'a [u8], text: &'a Text) -> Bound<'a> {
    Bound {
        params: bind.values.iter().map(|it| it.clone().map(|range| &frame[range])).collect(),
        formats: bind.formats.iter().collect(),
        types: text.told_types(),
    }
}

impl Session {
    /// Takes one message; at a Sync, a Flush or a full batch, carries out what has come together.
    pub(super) async fn extended(&mut self, tag: u8, frame: Bytes) -> Result<(), Failure> {
        if self.skips_to_sync && tag != b'S' {
            return Ok(());
        }
        if !matches!(tag, b'S' | b'H') {
            self.batch_bytes += frame.len();
            self.batch.push((tag, frame));
            // A portal is not parted from its Execute, unless they are very large.
            let limit = if tag == b'E' { BATCH_BYTES } else { 8 * BATCH_BYTES };
            if self.batch_bytes < limit {
                return Ok(());
            }
        }
        self.hand_batch_on(tag == b'S').await
    }

    /// Carries out what has come together; a Sync ends it.
    pub(super) async fn hand_batch_on(&mut self, is_sync: bool) -> Result<(), Failure> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.begin_request();
        if !self.skips_to_sync {
            self.tape_batch(&batch, is_sync);
            let mut done = self.run_batch(&batch, is_sync).await;
            while self.resumes(&done).await? {
                done = self.run_batch(&batch, is_sync).await;
            }
            let failed =
                done.is_err() || self.members.iter_mut().any(|it| it.server().has_failed());
            self.settle(done)?;
            self.skips_to_sync = failed;
        }
        // COPY reads over a Sync that was sent ahead of its data: the client sends another.
        let is_swallowed = self.client.has_copied
            || self.members.iter_mut().any(|it| it.server().has_swallowed_sync());
        if is_sync && !is_swallowed {
            self.sync().await?;
        }
        self.end_request().await
    }

    /// Sync: what was implicit ends, and the client hears that it may go on.
    async fn sync(&mut self) -> Result<(), Failure> {
        self.skips_to_sync = false;
        let ended = self.end_pipeline().await;
        self.settle(ended)?;
        self.end_implicit().await?;
        if self.tx.is_none() {
            self.portals.clear();
        }
        if self.listening.is_some() {
            self.hear().await;
        }
        self.ready();
        Ok(())
    }

    /// Ends what servers hold of a pipeline that was handed on without a Sync.
    async fn end_pipeline(&mut self) -> Result<(), Failure> {
        for at in 0..self.members.len() {
            let server = self.members[at].lease.server();
            if !server.is_broken() && server.is_in_batch() {
                server.push_sync();
                let drained = server.drain().await;
                let wrote = self.members[at].wrote;
                drained.map_err(|error| self.told_of_loss(error.into(), wrote))?;
            }
        }
        if self.tx.is_none() {
            self.note_written();
        }
        Ok(())
    }

    async fn run_batch(&mut self, batch: &[(u8, Bytes)], is_sync: bool) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        let Some(plan) = self.one_server(batch).await? else {
            let executed = batch.iter().filter(|it| it.0 == b'E').count();
            self.executes_one = is_sync && executed == 1;
            return Box::pin(self.step_through(batch)).await;
        };
        let is_alone =
            self.tx.is_none() && !self.members.iter_mut().any(|it| it.server().is_in_batch());
        let (told, sent, before) = (self.client.out.len(), self.client.sent, self.told_so_far());
        let done = self.hand_on(plan, batch, is_sync, is_sync && is_alone).await;
        if !self.repeats(before) {
            if !done? {
                return Ok(());
            }
            // A statement no longer fitted the schema and was closed: once more, as if nothing had been.
            if self.client.sent != sent {
                return Err(stale_plan().into());
            }
            self.client.out.truncate(told);
        }
        match self.one_server(batch).await? {
            Some(plan) => self.hand_on(plan, batch, is_sync, false).await.map(drop),
            None => Err(stale_plan().into()),
        }
    }

    /// Whether the block may have settings that end with it.
    pub(super) fn has_local_settings(&self) -> bool {
        self.tx.as_ref().is_some_and(|tx| !tx.replay.is_empty())
    }

    /// The session's settings that tell what literals of a text mean, if it has some of either: literals are
    /// read when a statement is parsed.
    pub(super) fn literal_settings(&self, sql: &[u8]) -> Option<String> {
        const NAMES: [&str; 4] = ["timezone", "datestyle", "intervalstyle", "array_nulls"];
        if self.settings.is_empty() || !has_literal(sql) {
            return None;
        }
        let mut text = String::new();
        for name in NAMES {
            if let Some(Setting::Statement(it) | Setting::Value(it)) = self.settings.get(name) {
                text.push_str(&format!("\0{name}={it}"));
            }
        }
        (!text.is_empty()).then_some(text)
    }

    /// The statement of a Parse, planned and shared.
    pub(super) async fn prepare(
        &mut self,
        parse: &Parse<'_>,
        frame: &Bytes,
    ) -> Result<Arc<Prepared>, PgError> {
        let sql = frame.slice_ref(parse.sql);
        self.check_text(&sql)?;
        let types: Vec<u32> = parse.types.iter().collect();
        if let Some(known) = self.known_parse(parse, &types) {
            return Ok(known);
        }
        let restored = self.directives(&sql)?;
        let statements = self.analyse(&sql, &types).await;
        if let Some(routing) = &restored {
            self.routing = routing.clone();
        }
        let mut statements = statements?;
        if statements.len() > 1 {
            return Err(PgError::new(
                sqlstate::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            ));
        }
        let Some(statement) = statements.pop() else {
            return Err(PgError::new(sqlstate::INTERNAL_ERROR, "a statement without a plan"));
        };
        let path = match self.settings.get("search_path") {
            Some(Setting::Statement(it) | Setting::Value(it)) if names_user(it) => {
                format!("{it}\0{}", self.server_user())
            }
            Some(Setting::Statement(it) | Setting::Value(it)) => it.clone(),
            None => String::new(),
        };
        let path = match self.literal_settings(&sql) {
            Some(settings) => format!("{path}{settings}"),
            None => path,
        };
        let database = Arc::clone(&self.database.name);
        // The texts outlive this message: they must not keep its whole read buffer alive.
        let sql = Bytes::copy_from_slice(&sql);
        // Temporary tables, and a schema that only this transaction sees, are nobody else's.
        let is_own = self.pin.is_some()
            || !matches!(self.schema_of_block, SchemaOfBlock::Unchanged)
            || reads_clock(&sql)
            || self.has_local_settings() && has_literal(&sql);
        let schema = match is_own {
            true => self.proxy.prepared.own_schema(),
            false => self.catalog_version(),
        };
        let text = {
            let limit = self.cluster.config.limits.statement_bytes;
            let key = TextKey { sql, types, path, database, schema };
            self.proxy.prepared.text(key, limit)?
        };
        let is_common = restored.is_none() && self.routing.tenant.is_none();
        let prepared = Arc::new(Prepared::new(text, statement, self.catalog_version()));
        if is_common && !is_own {
            self.proxy.prepared.insert(&prepared);
        }
        Ok(prepared)
    }

    /// The statement, planned again if the schema has changed since.
    pub(super) async fn fresh(
        &mut self,
        prepared: Arc<Prepared>,
    ) -> Result<Arc<Prepared>, PgError> {
        if prepared.version == self.catalog_version() {
            return Ok(prepared);
        }
        let mut statements = self.analyse(prepared.text.sql(), prepared.text.types()).await?;
        let Some(statement) = statements.pop() else { return Ok(prepared) };
        let text = Arc::clone(&prepared.text);
        Ok(Arc::new(Prepared::new(text, statement, self.catalog_version())))
    }

    pub(super) fn catalog_version(&self) -> u64 {
        self.catalog_now().map_or(0, |it| self.schema_version(&it))
    }

    /// The version of what a statement was planned and parsed under.
    pub(super) fn schema_version(&self, catalog: &Catalog) -> u64 {
        let altered = self.database.state.altered.load(Ordering::Acquire);
        catalog.version.wrapping_add(altered)
    }

    /// A client's statement by name.
    pub(super) fn statement_named(&self, name: &[u8]) -> Result<Arc<Prepared>, PgError> {
        self.statements.get(name).cloned().ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            let message = match name.is_empty() {
                true => "unnamed prepared statement does not exist".to_owned(),
                false => format!("prepared statement \"{name}\" does not exist"),
            };
            PgError::new(sqlstate::UNDEFINED_STATEMENT, message)
        })
    }

    /// A client's portal by name.
    pub(super) fn portal_named(&self, name: &[u8]) -> Result<Portal, PgError> {
        self.portals.get(name).cloned().ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            PgError::new(sqlstate::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
        })
    }

    /// Whether a name is free for a Parse; the unnamed one always is.
    pub(super) fn check_name(&self, name: &[u8]) -> Result<(), PgError> {
        if name.is_empty() {
            return Ok(());
        }
        if !self.statements.contains_key(name) {
            return self.check_count();
        }
        Err(PgError::new(
            sqlstate::DUPLICATE_STATEMENT,
            format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name)),
        ))
    }

    /// Where one execution of a bound statement goes, if servers run it; the plan may be another one
    /// than the shared.
    pub(super) fn route_bound(
        &mut self,
        prepared: &Arc<Prepared>,
        bind: &Bytes,
    ) -> Result<Option<(Arc<Prepared>, Routed)>, PgError> {
        let PlanAction::Run(run) = &prepared.statement.plan.action else { return Ok(None) };
        let bound = arguments(bind, &prepared.text)?;
        if let Some(routed) = self.route_with_comment(&prepared.statement, run, &bound)? {
            return Ok(Some((Arc::clone(prepared), routed)));
        }
        let statement = self.analyse_exactly(prepared.text.sql(), prepared.text.types())?;
        let version = prepared.version;
        let exact = Prepared::new(Arc::clone(&prepared.text), statement, version);
        let PlanAction::Run(run) = &exact.statement.plan.action else {
            return Ok(None);
        };
        match self.route_with_comment(&exact.statement, run, &bound)? {
            Some(routed) => Ok(Some((Arc::new(exact), routed))),
            None => Err(super::run::unreadable_key()),
        }
    }

    fn route_with_comment(
        &mut self,
        statement: &Statement,
        run: &Run,
        bound: &Bound<'_>,
    ) -> Result<Option<Routed>, PgError> {
        let restore = self.directives(&statement.text)?;
        let routed = self.route(statement, run, &bound.as_route());
        if let Some(routing) = restore {
            self.routing = routing;
        }
        routed
    }

    /// Where a statement is parsed and described when no execution tells.
    pub(super) fn parse_place(&self, prepared: &Prepared) -> (ShardId, Role) {
        let held = self.members.iter().find(|it| it.in_tx);
        if let Some(member) = held {
            return (member.shard, Role::held(member.is_primary));
        }
        let is_read = matches!(&prepared.statement.plan.action,
            PlanAction::Run(run) if run.access == Access::Read);
        let role = Role::held(!(is_read && self.is_read_only()));
        (self.database.config.home_shard, role)
    }

    fn answer(&mut self, build: impl FnOnce(&mut BytesMut)) {
        build(&mut self.client.out);
    }

    fn parse_complete(&mut self) {
        self.answer(backend::parse_complete);
    }
}
