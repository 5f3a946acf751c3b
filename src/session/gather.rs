//! Reads that one server computes over rows of all shards.

use bytes::Bytes;

use super::extended::Portal;
use super::fan_out::pick;
use super::portable::portable;
use super::run::Routed;
use super::{Role, Session};
use crate::error::{PgError, sqlstate};
use crate::exec::broadcast::{self, Answers, Describe};
use crate::exec::{Failure, gather, relay};
use crate::merge::arrays::{Arrays, Bounds};
use crate::plan::gather::{Gather, Runs};
use crate::plan::{Access, Statement};
use crate::server::Server;
use crate::shard::ShardId;
use crate::wire::backend::view::{self, DataRow, RowDescription};
use crate::wire::frontend::view::{Bind, Target};
use crate::wire::frontend::{self, Parameter};
use crate::wire::pipeline::Action;

pub(super) const TIMESTAMPTZ: u32 = 1184;

/// What a server says of a statement before it runs.
pub(super) struct Described {
    /// The types of its parameters.
    pub(super) parameters: Vec<u32>,
    /// Its RowDescription, if it gives rows, and the OIDs of the columns' types.
    pub(super) row: Option<Bytes>,
    pub(super) columns: Vec<u32>,
}

/// The parameters of a portal; none for a Query.
pub(super) struct Given<'a> {
    pub(super) parameters: Vec<Parameter<'a>>,
    /// The start of the home shard's transaction, binary, if the statement asks for it: one more parameter.
    pub(super) now: Option<[u8; 8]>,
    /// The formats the client wants its columns in.
    pub(super) results: Vec<i16>,
    /// How many rows it asks for; 0: all.
    max_rows: i32,
}

impl<'a> Given<'a> {
    /// All parameters of a server's statement but the arrays.
    pub(super) fn all(&'a self) -> Vec<Parameter<'a>> {
        let now = self.now.as_ref().map(|it| (1, Some(&it[..])));
        self.parameters.iter().copied().chain(now).collect()
    }
}

impl Session {
    /// Ships the needed rows to where the statement runs and gives the answer; the tag of a write is
    /// told by the caller. One statement per shard, so that all rows of a shard are of one snapshot.
    pub(super) async fn gather(
        &mut self,
        statement: &Statement,
        gather: &Gather,
        access: Access,
        routed: &Routed,
        portal: Option<&Portal>,
    ) -> Result<Option<String>, Failure> {
        let bind = portal.map(|it| Bind::read(&it.bind)).transpose()?;
        let mut given = given(portal, bind.as_ref());
        let home = self.database.config.home_shard;
        let place = self.member(home, routed.role).await?;
        let (described, arrays) =
            self.gather_rows(place, &statement.text, gather, routed, (portal, &mut given)).await?;
        if access == Access::Write && gather.runs == Runs::Read {
            self.check_second_write(home)?;
            self.members[place].wrote = true;
        }
        if let (None, Some(row)) = (portal, &described.row) {
            self.client.out.extend_from_slice(row);
        }
        let done = match gather.runs {
            Runs::Read => {
                self.compute(place, gather, &described, &given, &arrays).await.map(|()| None)
            }
            _ => self.write_over(gather, routed, &described, &given, &arrays).await.map(Some),
        };
        self.members.iter_mut().for_each(|it| it.server().forget_output());
        done
    }

    /// COPY (query) TO STDOUT: a COPY takes no parameters, so that the rows are handed over in settings of
    /// the transaction.
    pub(super) async fn copy_gathered(
        &mut self,
        gather: &Gather,
        routed: &Routed,
        (before, after): (&str, &str),
    ) -> Result<(), Failure> {
        let mut given = given(None, None);
        let mut types = Vec::new();
        let place = self.member(self.database.config.home_shard, routed.role).await?;
        let limits = &self.cluster.config.limits;
        let bounds = Bounds { rows: limits.gather_max_rows, bytes: limits.gather_max_bytes };
        if gather.asks_time {
            // The same as now() of the COPY, which is of the same transaction.
            given.now = self.ask_time(place).await?;
            types.push(TIMESTAMPTZ);
        }
        let arrays = self.ship(gather, routed, &types, &given, bounds).await?;
        let server = self.members[place].lease.server();
        hand_over(server, gather, 0, &arrays);
        drop(arrays);
        let copy = format!("{before}{}{after}", gather.final_sql_of_settings(0));
        server.push_query(&copy, Action::Forward);
        relay::relay(server, &mut self.client).await
    }

    /// What the home shard says of the statement, and the rows it needs.
    pub(super) async fn gather_rows(
        &mut self,
        place: usize,
        text: &Bytes,
        gather: &Gather,
        routed: &Routed,
        (portal, given): (Option<&Portal>, &mut Given<'_>),
    ) -> Result<(Described, Vec<Bytes>), Failure> {
        // As one Postgres sees the statement: its types, its columns, and what is wrong with it.
        let sql = portal.map_or(&text[..], |it| it.prepared.text.sql());
        let types = portal.map_or(&[][..], |it| it.prepared.text.types());
        let mut described = self.describe_at(place, sql, types).await?;
        if gather.asks_time {
            given.now = self.ask_time(place).await?;
            described.parameters.push(TIMESTAMPTZ);
        }
        let limits = &self.cluster.config.limits;
        let bounds = Bounds { rows: limits.gather_max_rows, bytes: limits.gather_max_bytes };
        let arrays = self.ship(gather, routed, &described.parameters, given, bounds).await?;
        Ok((described, arrays))
    }

    /// As [`Self::gather`], but for a portal of this name on the home shard, from which rows are fetched
    /// later.
    pub(super) async fn gather_portal(
        &mut self,
        name: &[u8],
        statement: &Statement,
        gather: &Gather,
        routed: &Routed,
        portal: Option<&Portal>,
    ) -> Result<(), Failure> {
        let read = portal.map(|it| Bind::read(&it.bind)).transpose()?;
        let mut given = given(portal, read.as_ref());
        let place = self.member(self.database.config.home_shard, routed.role).await?;
        let (described, arrays) =
            self.gather_rows(place, &statement.text, gather, routed, (portal, &mut given)).await?;
        let sql = gather.final_sql(described.parameters.len() + 1);
        let server = self.members[place].lease.server();
        parse(server, &sql, &described, &given);
        bind(server, name, &given, &arrays);
        server.push_sync();
        let (mut is_parsed, mut columns, mut error) = (false, Vec::new(), None);
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            match tag {
                b'1' => is_parsed = true,
                b'T' => columns = types_of(&frame)?,
                b'E' => error = Some(frame),
                b'N' => self.client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
        match error {
            Some(frame) if !is_parsed => {
                Err(unlike(&crate::server::error_of(&frame).message).into())
            }
            Some(frame) => Err(Failure::Server(frame)),
            None if columns != described.columns => {
                Err(unlike("its columns would have other types").into())
            }
            None => Ok(()),
        }
    }

    /// Parses a statement on a member and has it described.
    pub(super) async fn describe_at(
        &mut self,
        at: usize,
        sql: &[u8],
        types: &[u32],
    ) -> Result<Described, Failure> {
        let server = self.members[at].lease.server();
        server.statements.unnamed = None;
        server.push_with(b'P', Action::Forward, |out| {
            frontend::parse(out, b"", sql, types.iter().copied());
        });
        server.push_with(b'D', Action::Forward, |out| {
            frontend::describe(out, Target::Statement, b"");
        });
        server.push_sync();
        let (mut parameters, mut row, mut error) = (Vec::new(), None, None);
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            match tag {
                b't' => parameters = view::parameter_types(&frame)?.iter().collect(),
                b'T' => row = Some(frame),
                b'E' => error = Some(frame),
                b'N' => self.client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
        if let Some(frame) = error {
            return Err(Failure::Server(frame));
        }
        let columns = row.as_deref().map(types_of).transpose()?.unwrap_or_default();
        Ok(Described { parameters, row, columns })
    }

    /// The start of a member's transaction, binary.
    pub(super) async fn ask_time(&mut self, at: usize) -> Result<Option<[u8; 8]>, Failure> {
        let server = self.members[at].lease.server();
        server.statements.unnamed = None;
        server.push_with(b'P', Action::Skip, |out| {
            frontend::parse(out, b"", b"SELECT pg_catalog.now()", std::iter::empty());
        });
        server.push_with(b'B', Action::Skip, |out| frontend::bind_each(out, b"", &[], &[1]));
        server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", 0));
        server.push_sync();
        let mut now = None;
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            match tag {
                b'D' => {
                    let value = DataRow::read(&frame)?.next().transpose()?.flatten();
                    now = value.and_then(|it| frame[it].try_into().ok());
                }
                b'E' => return Err(Failure::Server(frame)),
                _ => (),
            }
        }
        Ok(now)
    }

    /// Has every shard ship its rows.
    pub(super) async fn ship(
        &mut self,
        gather: &Gather,
        routed: &Routed,
        types: &[u32],
        given: &Given<'_>,
        bounds: Bounds,
    ) -> Result<Vec<Bytes>, Failure> {
        if gather.fragments.is_empty() {
            return Ok(Vec::new());
        }
        let mut at = Vec::new();
        for shard in routed.shards.iter() {
            if gather.with.is_some() {
                self.check_second_write(shard)?;
            }
            let i = self.member(shard, routed.role).await?;
            self.members[i].wrote |= gather.with.is_some();
            at.push(i);
        }
        let fragments: Vec<Vec<u32>> = gather
            .fragments
            .iter()
            .map(|it| it.needed().map(|it| it.element().oid).collect())
            .collect();
        let mut arrays = Arrays::new(&fragments, bounds);
        if gather.reductions.is_empty() || !self.has_one_snapshot() {
            let sql = gather.shard_sql(types.len());
            self.ship_part(&at, &sql, (types, given, &[]), &mut arrays).await?;
            return Ok(arrays.finish());
        }
        let sql = gather.shard_sql_of(types.len(), |it| !gather.is_reduced(it), &[]);
        self.ship_part(&at, &sql, (types, given, &[]), &mut arrays).await?;
        let (mut reductions, mut values) = (Vec::new(), Vec::new());
        for it in &gather.reductions {
            let of = &gather.fragments[it.by.0].columns[..it.by.1];
            let column = of.iter().filter(|it| it.is_needed).count();
            if let Some((array, count)) = arrays.column(it.by.0, column)
                && count <= REDUCING
            {
                reductions.push(*it);
                values.push(array);
            }
        }
        let sql = gather.shard_sql_of(types.len(), |it| gather.is_reduced(it), &reductions);
        self.ship_part(&at, &sql, (types, given, &values), &mut arrays).await?;
        Ok(arrays.finish())
    }

    /// Whether all statements of the transaction see the same rows.
    fn has_one_snapshot(&self) -> bool {
        let Some(tx) = &self.tx else { return false };
        !tx.is_explicit && tx.begin == ONE_SNAPSHOT
    }

    async fn ship_part(
        &mut self,
        at: &[usize],
        sql: &str,
        (types, given, values): (&[u32], &Given<'_>, &[Bytes]),
        arrays: &mut Arrays,
    ) -> Result<(), Failure> {
        let types = portable(types, sql, |it| given.format(it));
        let mut parameters = given.all();
        parameters.extend(values.iter().map(|it| (1, Some(&it[..]))));
        for i in at {
            let server = self.members[*i].lease.server();
            server.statements.unnamed = None;
            server.push_with(b'P', Action::Skip, |out| {
                frontend::parse(out, b"", sql.as_bytes(), types.iter().copied());
            });
            server.push_with(b'B', Action::Skip, |out| {
                frontend::bind_each(out, b"", &parameters, &[1]);
            });
            server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", 0));
            server.push_sync();
            server.flush().await?;
        }
        let mut members = pick(&mut self.members, at);
        gather::rows(&mut members, &mut self.client, arrays).await
    }

    /// Runs a write over the shipped rows wherever its own rows are; its command tag.
    async fn write_over(
        &mut self,
        gather: &Gather,
        routed: &Routed,
        described: &Described,
        given: &Given<'_>,
        arrays: &[Bytes],
    ) -> Result<String, Failure> {
        let home = self.database.config.home_shard;
        if gather.owned.is_some() && self.routing.tenant.is_some() {
            return Err(PgError::refused("MERGE of rows of several tenants under sluice.tenant")
                .hint("RESET sluice.tenant, or compare the tenant column with one key in ON.")
                .into());
        }
        let shards: Vec<ShardId> = match gather.runs {
            Runs::Shards => routed.shards.iter().collect(),
            Runs::Everywhere => self.database.shards.keys().copied().collect(),
            Runs::Home | Runs::Read => vec![home],
        };
        let mut at = Vec::new();
        for shard in shards.iter().copied() {
            self.check_second_write(shard)?;
            let i = self.member(shard, Role::Primary).await?;
            self.members[i].wrote = true;
            at.push(i);
        }
        for (i, shard) in at.iter().zip(shards) {
            let map = self.database.map();
            let sql = gather.final_sql_of(described.parameters.len() + 1, map, shard, home);
            let server = self.members[*i].lease.server();
            push(server, &sql, described, given, arrays, gather.joins_fragments());
            server.flush().await?;
        }
        let answers = match gather.runs {
            Runs::Everywhere => Answers::Same,
            _ => Answers::Sum,
        };
        let mut members = pick(&mut self.members, &at);
        broadcast::collect(&mut members, &mut self.client, answers, Describe::Hide).await
    }

    /// Has one server compute the answer over the shipped rows, and hands it on.
    async fn compute(
        &mut self,
        at: usize,
        gather: &Gather,
        described: &Described,
        given: &Given<'_>,
        arrays: &[Bytes],
    ) -> Result<(), Failure> {
        let sql = gather.final_sql(described.parameters.len() + 1);
        let server = self.members[at].lease.server();
        push(server, &sql, described, given, arrays, gather.joins_fragments());
        let mut is_parsed = false;
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            match tag {
                b'1' => is_parsed = true,
                b'T' => {
                    if types_of(&frame)? == described.columns {
                        return relay::relay(server, &mut self.client).await;
                    }
                    server.cancel.begin().send().await;
                    server.drain().await?;
                    return Err(unlike("its columns would have other types").into());
                }
                // The statement itself was parsed: only its form over shipped rows is not to be had.
                b'E' if !is_parsed => {
                    let error = crate::server::error_of(&frame);
                    server.drain().await?;
                    return Err(unlike(&error.message).into());
                }
                b'E' => return Err(Failure::Server(frame)),
                b'N' => self.client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
        Err(PgError::new(sqlstate::PROTOCOL_VIOLATION, "a statement without columns").into())
    }
}

/// Queues what puts shipped rows into settings, see [`Gather::final_sql_of_settings`].
pub(super) fn hand_over(server: &mut Server, gather: &Gather, of: usize, arrays: &[Bytes]) {
    server.statements.unnamed = None;
    for (sql, array) in gather.settings_sql(of).iter().zip(arrays) {
        server.push_with(b'P', Action::Skip, |out| {
            frontend::parse(out, b"", sql.as_bytes(), std::iter::empty());
        });
        server.push_with(b'B', Action::Skip, |out| {
            frontend::bind_each(out, b"", &[(1, Some(&array[..]))], &[]);
        });
        server.push_with(b'E', Action::Skip, |out| frontend::execute(out, b"", 0));
    }
    server.push_sync();
}

/// Queues the statement over shipped rows; `joins` if what it joins was all shipped.
pub(super) fn push(
    server: &mut Server,
    sql: &str,
    described: &Described,
    given: &Given<'_>,
    arrays: &[Bytes],
    joins: bool,
) {
    let bytes: usize = arrays.iter().map(Bytes::len).sum();
    let is_large = bytes > LARGE_BYTES;
    if is_large {
        hide(server, &planned_for(bytes, joins));
    }
    parse(server, sql, described, given);
    bind(server, b"", given, arrays);
    server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", given.max_rows));
    if is_large {
        hide(server, &planned_as_before());
    }
    server.push_sync();
}

/// A transaction in which several statements see the same rows.
pub(super) const ONE_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";

/// Up to so many values are sent to shards so that they ship less.
const REDUCING: i64 = 50_000;

/// Above this, rows are given memory to be sorted and joined in, and the planner is told what it cannot know.
const LARGE_BYTES: usize = 64 << 10;

/// What is set for a statement over many rows, and set back after it.
const PLANNING: [&str; 4] = ["work_mem", "enable_mergejoin", "enable_nestloop", "jit"];

/// The settings for a statement over so many bytes. Shipped rows have no order and no statistics: joins by
/// sorting are never the better ones, and of a join by several columns the planner expects a single row, so
/// that it takes loops, which have no index to use. What it switches off counts as so expensive that it
/// would also compile the statement.
fn planned_for(bytes: usize, joins: bool) -> String {
    let off = |is_off: bool, name: &str| match is_off {
        true => "'off'".to_owned(),
        false => format!("pg_catalog.current_setting('{name}')"),
    };
    let memory = format!(
        "greatest({}, pg_catalog.pg_size_bytes(pg_catalog.current_setting('work_mem')) / 1024) || 'kB'",
        3 * bytes / 1024
    );
    let values = [memory, off(true, PLANNING[1]), off(joins, PLANNING[2]), off(joins, PLANNING[3])];
    let saved = PLANNING.map(|it| (saved(it), format!("pg_catalog.current_setting('{it}')")));
    let set = PLANNING.map(str::to_owned).into_iter().zip(values);
    set_all(saved.into_iter().chain(set))
}

fn planned_as_before() -> String {
    let back = |it: &str| (it.to_owned(), format!("pg_catalog.current_setting('{}')", saved(it)));
    set_all(PLANNING.map(back).into_iter())
}

fn saved(name: &str) -> String {
    format!("sluice_gather.{name}")
}

fn set_all(settings: impl Iterator<Item = (String, String)>) -> String {
    let calls: Vec<String> = settings
        .map(|(name, value)| format!("pg_catalog.set_config('{name}', {value}, true)"))
        .collect();
    format!("SELECT {}", calls.join(", "))
}

/// Queues a statement without parameters whose answer nobody sees.
fn hide(server: &mut Server, sql: &str) {
    server.statements.unnamed = None;
    server.push_with(b'P', Action::Skip, |out| {
        frontend::parse(out, b"", sql.as_bytes(), std::iter::empty());
    });
    server.push_with(b'B', Action::Skip, |out| frontend::bind_each(out, b"", &[], &[]));
    server.push_with(b'E', Action::Skip, |out| frontend::execute(out, b"", 0));
}

fn parse(server: &mut Server, sql: &str, described: &Described, given: &Given<'_>) {
    let types = portable(&described.parameters, sql, |it| given.format(it));
    server.statements.unnamed = None;
    server.push_with(b'P', Action::Forward, |out| {
        frontend::parse(out, b"", sql.as_bytes(), types.iter().copied());
    });
    server.push_with(b'D', Action::Forward, |out| {
        frontend::describe(out, Target::Statement, b"");
    });
}

fn bind(server: &mut Server, portal: &[u8], given: &Given<'_>, arrays: &[Bytes]) {
    let mut parameters = given.all();
    parameters.extend(arrays.iter().map(|it| (1, Some(&it[..]))));
    server.push_with(b'B', Action::Skip, |out| {
        frontend::bind_each(out, portal, &parameters, &given.results);
    });
}

impl Given<'_> {
    /// The format of a parameter (0-based).
    pub(super) fn format(&self, index: usize) -> i16 {
        self.parameters.get(index).map_or(0, |it| it.0)
    }
}

fn types_of(row: &[u8]) -> Result<Vec<u32>, PgError> {
    Ok(RowDescription::read(row)?.columns.iter().map(|it| it.type_oid).collect())
}

pub(super) fn given<'a>(portal: Option<&'a Portal>, bind: Option<&Bind<'a>>) -> Given<'a> {
    let (Some(portal), Some(bind)) = (portal, bind) else {
        return Given { parameters: Vec::new(), now: None, results: Vec::new(), max_rows: 0 };
    };
    let values = bind.values.iter().enumerate();
    let parameter = |(i, range): (usize, &Option<std::ops::Range<usize>>)| {
        (bind.formats.of(i), range.clone().map(|it| &portal.bind[it]))
    };
    Given {
        parameters: values.map(parameter).collect(),
        now: None,
        results: bind.result_formats.iter().collect(),
        max_rows: portal.max_rows,
    }
}

pub(super) fn unlike(why: &str) -> PgError {
    PgError::refused("the statement cannot be computed over rows of several shards")
        .detail(why.to_owned())
        .hint("Write it another way, name one tenant in WHERE, or SET sluice.tenant.")
}
