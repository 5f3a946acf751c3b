//! EXPLAIN of a statement over several shards: what each shard runs, and what happens after.

use bytes::Bytes;

use super::Session;
use super::extended::Portal;
use super::gather::{Given, given};
use super::portable::portable;
use super::run::Routed;
use crate::error::PgError;
use crate::exec::{Failure, relay};
use crate::merge::arrays::{Arrays, Bounds};
use crate::plan::gather::{Gather, Runs};
use crate::plan::{Access, Combine, Explained, Run};
use crate::shard::ShardId;
use crate::wire::backend;
use crate::wire::backend::view::DataRow;
use crate::wire::frontend;
use crate::wire::frontend::view::Bind;
use crate::wire::pipeline::Action;

/// A statement for one server, and its arguments.
struct Asked<'a> {
    sql: &'a str,
    types: &'a [u32],
    given: &'a Given<'a>,
    arrays: &'a [Bytes],
    writes: bool,
}

impl Session {
    /// Gives the plans of all servers that take part; the command tag.
    pub(super) async fn explain_over(
        &mut self,
        (run, explained): (&Run, &Explained),
        routed: &Routed,
        portal: Option<&Portal>,
    ) -> Result<Option<String>, Failure> {
        let bind = portal.map(|it| Bind::read(&it.bind)).transpose()?;
        let mut given = given(portal, bind.as_ref());
        let home = self.database.config.home_shard;
        let place = self.member(home, routed.role).await?;
        let types = portal.map_or(&[][..], |it| it.prepared.text.types());
        let described = self.describe_at(place, explained.inner.as_bytes(), types).await?;
        let mut types = described.parameters;
        let prefix = &explained.options;
        let writes = run.access == Access::Write;
        let mut lines = Vec::new();
        match &run.combine {
            Combine::Gather(gather) if gather.owned.is_some() || gather.with.is_some() => {
                return Err(PgError::refused(
                    "EXPLAIN of a MERGE or a data-modifying WITH whose rows several shards ship",
                )
                .hint("EXPLAIN (SLUICE) shows how it runs.")
                .into());
            }
            Combine::Gather(gather) => {
                given.now = self.time_for(place, gather, &mut types).await?;
                let arrays = self.arrays_for(explained, gather, routed, &types, &given).await?;
                let then = format!("{prefix} {}", gather.final_sql(types.len() + 1));
                let asked =
                    Asked { sql: &then, types: &types, given: &given, arrays: &arrays, writes };
                match gather.runs {
                    Runs::Read | Runs::Home => {
                        lines.push("Home shard over the rows that shards ship".to_owned());
                        lines.extend(indented("  ", self.plan_at(place, &asked).await?));
                    }
                    Runs::Shards | Runs::Everywhere => {
                        lines.push("Each shard over the rows that shards ship".to_owned());
                        self.plans(&mut lines, routed, &asked).await?;
                    }
                }
                if !gather.fragments.is_empty() {
                    lines.push("Rows that each shard ships".to_owned());
                    let ships = format!("{prefix} {}", gather.shard_sql(types.len()));
                    let asked =
                        Asked { sql: &ships, types: &types, given: &given, arrays: &[], writes };
                    self.plans(&mut lines, routed, &asked).await?;
                }
            }
            combine => {
                let sql = match combine {
                    Combine::Merge(spec) => {
                        lines.push(format!("Merge: {spec}"));
                        &spec.shard_sql
                    }
                    _ => {
                        lines.push("Each shard over its own rows".to_owned());
                        &explained.inner
                    }
                };
                let sql = format!("{prefix} {sql}");
                let asked = Asked { sql: &sql, types: &types, given: &given, arrays: &[], writes };
                self.plans(&mut lines, routed, &asked).await?;
            }
        }
        if portal.is_none() {
            backend::row_description(&mut self.client.out, &["QUERY PLAN"]);
        }
        for line in &lines {
            backend::data_row(&mut self.client.out, &[Some(line)]);
        }
        Ok(Some("EXPLAIN".to_owned()))
    }

    async fn time_for(
        &mut self,
        place: usize,
        gather: &Gather,
        types: &mut Vec<u32>,
    ) -> Result<Option<[u8; 8]>, Failure> {
        if !gather.asks_time {
            return Ok(None);
        }
        types.push(super::gather::TIMESTAMPTZ);
        self.ask_time(place).await
    }

    /// The shipped rows if the statement is run, none if it is not.
    async fn arrays_for(
        &mut self,
        explained: &Explained,
        gather: &Gather,
        routed: &Routed,
        types: &[u32],
        given: &Given<'_>,
    ) -> Result<Vec<Bytes>, Failure> {
        let limits = &self.cluster.config.limits;
        let bounds = Bounds { rows: limits.gather_max_rows, bytes: limits.gather_max_bytes };
        if explained.runs {
            return self.ship(gather, routed, types, given, bounds).await;
        }
        let fragments: Vec<Vec<u32>> = gather
            .fragments
            .iter()
            .map(|it| it.needed().map(|it| it.element().oid).collect())
            .collect();
        Ok(Arrays::new(&fragments, bounds).finish())
    }

    /// The plan of every shard.
    async fn plans(
        &mut self,
        lines: &mut Vec<String>,
        routed: &Routed,
        asked: &Asked<'_>,
    ) -> Result<(), Failure> {
        let shards: Vec<ShardId> = routed.shards.iter().collect();
        for shard in shards {
            if asked.writes {
                self.check_second_write(shard)?;
            }
            let at = self.member(shard, routed.role).await?;
            self.members[at].wrote |= asked.writes;
            lines.push(format!("  ->  Shard {shard}"));
            lines.extend(indented("        ", self.plan_at(at, asked).await?));
        }
        Ok(())
    }

    /// The plan of one server.
    async fn plan_at(&mut self, at: usize, asked: &Asked<'_>) -> Result<Vec<String>, Failure> {
        let server = self.members[at].lease.server();
        let types = portable(asked.types, asked.sql, |it| asked.given.format(it));
        let mut parameters = asked.given.all();
        parameters.extend(asked.arrays.iter().map(|it| (1, Some(&it[..]))));
        server.statements.unnamed = None;
        server.push_with(b'P', Action::Skip, |out| {
            frontend::parse(out, b"", asked.sql.as_bytes(), types.iter().copied());
        });
        server.push_with(b'B', Action::Skip, |out| {
            frontend::bind_each(out, b"", &parameters, &[]);
        });
        server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", 0));
        server.push_sync();
        let (mut lines, mut error) = (Vec::new(), None);
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            match tag {
                b'D' => {
                    let value = DataRow::read(&frame)?.next().transpose()?.flatten();
                    let line = value.map(|it| String::from_utf8_lossy(&frame[it]).into_owned());
                    lines.extend(line);
                }
                b'E' => error = Some(frame),
                b'N' => self.client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
        error.map_or(Ok(lines), |frame| Err(Failure::Server(frame)))
    }
}

fn indented(by: &str, lines: Vec<String>) -> impl Iterator<Item = String> {
    lines.into_iter().map(move |it| format!("{by}{it}"))
}
