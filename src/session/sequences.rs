//! Sequences that shards share: set up with the schema change that makes them.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::extended::Portal;
use super::gather::given;
use super::portable::portable;
use super::run::Routed;
use super::{Role, Session};
use crate::catalog::sequence::{Counter, Counters, Name, Series, Unshared, place_before};
use crate::catalog::{Catalog, TableKind};
use crate::error::{PgError, sqlstate};
use crate::exec::broadcast::{Answers, Describe};
use crate::exec::{Failure, relay};
use crate::plan::{Numbers, PlacedOver, Placing, Run, Statement};
use crate::pool::catalog;
use crate::pool::control::ControlError;
use crate::pool::sequences::{self, Of, ShareError, Sharing, Use, shown};
use crate::server::Server;
use crate::shard::{ShardId, ShardSet};
use crate::sql::name::{quoted, quoted_text};
use crate::wire::backend::view::DataRow;
use crate::wire::frontend;
use crate::wire::frontend::view::Bind;
use crate::wire::pipeline::Action;

impl Session {
    /// After a schema change, in its transaction: sequences that it gave to sharded tables, or changed,
    /// give each number once over all shards.
    pub(super) async fn number(&mut self, numbers: &Numbers) -> Result<(), Failure> {
        let home = self.database.config.home_shard;
        let known = self.catalog_now();
        if numbers.spreads {
            self.check_spread(&numbers.of, known.as_deref()).await?;
        }
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
                given: None,
            };
            let is_new = self.share(&name, sharing).await?;
            if is_new && known.is_none() {
                self.fill_again(&name, &filled).await?;
            }
        }
        Ok(())
    }

    /// Refuses the commit of a block that leaves a table of the home shard bound to rows of other shards.
    pub(super) async fn check_bound(&mut self) -> Result<(), Failure> {
        let Some(tx) = self.tx.as_ref().filter(|it| !it.has_failed && !it.bound.is_empty()) else {
            return Ok(());
        };
        let bound = tx.bound.clone();
        let at = self.member(self.database.config.home_shard, Role::Primary).await?;
        for table in bound {
            for key in foreign_keys(self.members[at].lease.server(), &table).await? {
                let Some(catalog) = self.catalog_of_block().await? else { continue };
                let kind = |it: &Name| catalog.tables.get(it).map(|it| &it.kind);
                let is_home = kind(&key.table) == Some(&TableKind::Home);
                if is_home && matches!(kind(&key.referenced), Some(TableKind::Sharded { .. })) {
                    return Err(binds(&key.referenced.1, "rows of other shards").into());
                }
            }
        }
        Ok(())
    }

    /// Whether a table of the home shard may have become one of all shards: it has no rows, and no keys
    /// bind it to rows there.
    async fn check_spread(&mut self, table: &str, known: Option<&Catalog>) -> Result<(), Failure> {
        let name = format!("{}::pg_catalog.regclass", quoted_text(table));
        let sql = format!(
            "SELECT 'It has rows on a shard, which would have to move.' FROM (SELECT FROM {table} LIMIT 1) AS t \
             UNION ALL SELECT 'It inherits, or is inherited from.' FROM pg_catalog.pg_inherits \
             WHERE {name} IN (inhrelid, inhparent)"
        );
        let home = self.database.config.home_shard;
        let trusts = self.database.config.trust_generated_keys;
        for (shard, server) in self.servers().await? {
            let why = server.rows(&sql).await?.pop();
            let mut why = why.map(|row| row.into_iter().next().flatten().unwrap_or_default());
            if shard == home && why.is_none() {
                let kind =
                    |it: &Name| known.and_then(|known| known.tables.get(it)).map(|it| &it.kind);
                let may_stay = |it: &ForeignKey| match kind(&it.referenced) {
                    _ if !it.is_out => false,
                    Some(TableKind::Reference) => true,
                    Some(TableKind::Sharded { .. }) => trusts && it.is_single,
                    _ => false,
                };
                let keys = foreign_keys(server, table).await?;
                let found = keys.iter().find(|it| !may_stay(it));
                why = found
                    .map(|it| format!("Foreign key {} binds it to rows of other shards.", it.name));
            }
            if let Some(why) = why {
                return Err(PgError::refused(format!(
                    "table {table} cannot change the shards it is on"
                ))
                .detail(why)
                .hint("Create a new table and copy the rows.")
                .into());
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
                quoted_text(&shown(name)),
                column = quoted(column),
            );
            for server in self.servers().await?.values_mut() {
                server.run(&sql).await?;
            }
        }
        Ok(())
    }

    /// A server of every shard, in the open transaction.
    pub(super) async fn servers(&mut self) -> Result<BTreeMap<ShardId, &mut Server>, Failure> {
        let shards: Vec<ShardId> = self.database.shards.keys().copied().collect();
        for shard in &shards {
            let at = self.member(*shard, Role::Primary).await?;
            self.members[at].wrote = true;
        }
        let members = self.members.iter_mut().filter(|it| it.in_tx && shards.contains(&it.shard));
        Ok(members.map(|it| (it.shard, it.lease.server())).collect())
    }

    /// `SELECT setval(…)`; its command tag. As on one Postgres it is not undone by a rollback, and it need
    /// not be: whatever a shard's sequence is set to is a number of that shard.
    pub(super) async fn place(
        &mut self,
        statement: &Statement,
        (run, placing): (&Run, &Placing),
        routed: &Routed,
        portal: Option<&Portal>,
        describe: Describe,
    ) -> Result<String, Failure> {
        let home = self.database.config.home_shard;
        let at_home = Routed { shards: ShardSet::one(home), ..routed.clone() };
        let at = self.member(home, Role::Primary).await?;
        let told = match &placing.over {
            Some(over) => self.ask_over(at, over, routed).await?,
            None => self.ask(at, &placing.asked(), portal).await?,
        };
        let [Some(schema), Some(name), Some(number), Some(is_called)] = told.as_slice() else {
            // Of NULL it does nothing, and of no sequence it fails.
            let text = placing.without(&statement.text, &told);
            return self.same_text(&text, run, &at_home, portal, Answers::Sum, describe).await;
        };
        let name: Name = (schema.clone(), name.clone());
        let mut counters = BTreeMap::new();
        for shard in self.database.shards.keys().copied().collect::<Vec<_>>() {
            let at = self.member(shard, Role::Primary).await?;
            let mut server = self.members[at].lease.server();
            let counter = sequences::one_counter(&mut server, &name).await;
            let counter = counter.map_err(|error| failed(&shown(&name), &error))?;
            counters.extend(counter.map(|it| (shard, (at, it))));
        }
        let all = counters.iter().map(|(shard, (_, it))| (*shard, *it)).collect();
        let series = Series::written(&all).filter(|_| all.len() == self.database.shards.len());
        let (Some(series), Ok(number)) = (series, number.parse::<i64>()) else {
            let text = match &placing.over {
                Some(_) => placing.at_home(&shown(&name), number, is_called == "t"),
                None => statement.text.clone(),
            };
            return self.same_text(&text, run, &at_home, portal, Answers::Sum, describe).await;
        };
        let next = i128::from(number);
        let next = if is_called == "t" { next + i128::from(series.step.signum()) } else { next };
        for (shard, (at, counter)) in &counters {
            let place = place_before(series.from(*shard, next), &series, counter);
            let place = place.filter(|_| (counter.min..=counter.max).contains(&number));
            let place = place.ok_or_else(|| out_of_bounds(number, &name.1, counter))?;
            self.members[*at].lease.server().run(&sequences::setval(&name, place)).await?;
        }
        let answer = Bytes::from(placing.answer(number));
        self.same_text(&answer, run, &at_home, portal, Answers::Sum, describe).await
    }

    /// The only row of a query, which may look at a portal's parameters, as text.
    async fn ask(
        &mut self,
        at: usize,
        sql: &str,
        portal: Option<&Portal>,
    ) -> Result<Vec<Option<String>>, Failure> {
        let server = self.members[at].lease.server();
        let Some(portal) = portal else {
            return Ok(server.rows(sql).await?.pop().unwrap_or_default());
        };
        let bind = Bind::read(&portal.bind)?;
        let given = given(Some(portal), Some(&bind));
        let told = portal.prepared.text.told_types();
        let types = portable(told, sql, |it| bind.formats.of(it));
        server.statements.unnamed = None;
        server.push_with(b'P', Action::Skip, |out| {
            frontend::parse(out, b"", sql.as_bytes(), types.iter().copied());
        });
        server.push_with(b'B', Action::Skip, |out| {
            frontend::bind_each(out, b"", &given.all(), &[]);
        });
        server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", 0));
        server.push_sync();
        self.row_of(at).await
    }

    /// The last row that a member sends, as text.
    async fn row_of(&mut self, at: usize) -> Result<Vec<Option<String>>, Failure> {
        let server = self.members[at].lease.server();
        let (mut row, mut failed) = (Vec::new(), None);
        while let Some((tag, frame)) = relay::next_frame(server, &mut self.client).await? {
            match tag {
                b'D' => {
                    let text = |it| String::from_utf8_lossy(&frame[it]).into_owned();
                    let cells = DataRow::read(&frame)?.map(|it| it.map(|it| it.map(text)));
                    row = cells.collect::<Result<_, _>>()?;
                }
                b'E' => failed = Some(frame),
                b'N' => self.client.out.extend_from_slice(&frame),
                _ => (),
            }
        }
        failed.map_or(Ok(row), |frame| Err(Failure::Server(frame)))
    }

    /// As [`Self::ask`], of arguments that look at rows, wherever these are.
    async fn ask_over(
        &mut self,
        at: usize,
        over: &PlacedOver,
        routed: &Routed,
    ) -> Result<Vec<Option<String>>, Failure> {
        let row = match &over.gather {
            Some(gather) => {
                let text = Bytes::copy_from_slice(over.asked.as_bytes());
                let mut given = given(None, None);
                let (described, arrays) =
                    self.gather_rows(at, &text, gather, routed, (None, &mut given)).await?;
                let sql = gather.final_sql(described.parameters.len() + 1);
                let mut parameters = given.all();
                parameters.extend(arrays.iter().map(|it| (1, Some(&it[..]))));
                let server = self.members[at].lease.server();
                server.statements.unnamed = None;
                server.push_with(b'P', Action::Skip, |out| {
                    let types = described.parameters.iter().copied();
                    frontend::parse(out, b"", sql.as_bytes(), types);
                });
                server.push_with(b'B', Action::Skip, |out| {
                    frontend::bind_each(out, b"", &parameters, &[]);
                });
                server.push_with(b'E', Action::Forward, |out| frontend::execute(out, b"", 0));
                server.push_sync();
                self.row_of(at).await?
            }
            None => {
                self.members[at].lease.server().rows(&over.asked).await?.pop().unwrap_or_default()
            }
        };
        let [sequence, number, is_called] = row.as_slice() else { return Ok(Vec::new()) };
        let Some(sequence) = sequence else { return Ok(vec![None; 4]) };
        let sql = format!(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
             ON n.oid = c.relnamespace WHERE c.oid = {sequence} AND c.relpersistence <> 't'"
        );
        let named = self.members[at].lease.server().rows(&sql).await?.pop();
        let mut told = named.unwrap_or_else(|| vec![None, Some(sequence.clone())]);
        told.extend([number.clone(), is_called.clone()]);
        Ok(told)
    }

    /// The sequences of other shards than the home shard, as the open block sees them.
    pub(super) async fn counters_of_block(&mut self) -> Result<Counters, ControlError> {
        let home = self.database.config.home_shard;
        let mut counters = self.database.state.counters.lock().clone();
        let config = &self.database.config;
        for member in self.members.iter_mut().filter(|it| it.in_tx && it.shard != home) {
            let shard = member.shard;
            counters
                .insert(shard, catalog::counting(&mut member.lease.server(), shard, config).await?);
        }
        Ok(counters)
    }
}

impl Placing {
    /// SQL that tells the sequence's schema and name, the number, and whether it counts as given.
    fn asked(&self) -> String {
        let arg = |at: usize| self.args.get(at).map_or("true", String::as_str);
        format!(
            "SELECT n.nspname, c.relname, sluice.n::pg_catalog.text, \
             CASE WHEN sluice.b THEN 't' WHEN NOT sluice.b THEN 'f' END FROM (SELECT \
             ({})::pg_catalog.regclass AS s, ({})::pg_catalog.int8 AS n, ({})::pg_catalog.bool AS b \
             OFFSET 0) AS sluice LEFT JOIN pg_catalog.pg_class c ON c.oid = sluice.s \
             AND c.relpersistence <> 't' LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace",
            arg(0),
            arg(1),
            arg(2)
        )
    }

    /// SQL for the home shard where there is no shared sequence or no number.
    fn without(&self, text: &Bytes, told: &[Option<String>]) -> Bytes {
        match (&self.over, told) {
            // A temporary one.
            (Some(_), [None, Some(oid), Some(number), Some(is_called)]) => {
                self.at_home(oid, number, is_called == "t")
            }
            (Some(_), [_, _, _, _]) => {
                Bytes::from(format!("SELECT NULL::pg_catalog.int8 AS {}", quoted(&self.column)))
            }
            _ => text.clone(),
        }
    }

    /// SQL that sets the home shard's sequence alone.
    fn at_home(&self, sequence: &str, number: &str, is_called: bool) -> Bytes {
        let sequence = quoted_text(sequence);
        Bytes::from(format!(
            "SELECT pg_catalog.setval({sequence}::pg_catalog.regclass, {number}, {is_called}) AS {}",
            quoted(&self.column)
        ))
    }

    /// SQL with the answer, which looks at all parameters that there are.
    fn answer(&self, number: i64) -> String {
        if self.over.is_some() {
            return format!("SELECT '{number}'::pg_catalog.int8 AS {}", quoted(&self.column));
        }
        let types = ["regclass", "int8", "bool"];
        let looks = self.args.iter().zip(types);
        let looks: Vec<String> =
            looks.map(|(arg, ty)| format!("({arg})::pg_catalog.{ty} IS NOT NULL")).collect();
        let column = quoted(&self.column);
        format!("SELECT '{number}'::pg_catalog.int8 AS {column} WHERE {}", looks.join(" AND "))
    }
}

/// A foreign key between two tables.
struct ForeignKey {
    name: String,
    table: Name,
    referenced: Name,
    /// Whether it is of one column.
    is_single: bool,
    /// Whether it is the asked table's own.
    is_out: bool,
}

/// The foreign keys that bind a table to others, or others to it.
async fn foreign_keys(server: &mut Server, table: &str) -> Result<Vec<ForeignKey>, Failure> {
    let name = quoted_text(table);
    let sql = format!(
        "SELECT o.conname, cn.nspname, c.relname, fn.nspname, f.relname, \
         pg_catalog.cardinality(o.conkey) = 1, o.conrelid = pg_catalog.to_regclass({name}) \
         FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_class c ON c.oid = o.conrelid \
         JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace \
         JOIN pg_catalog.pg_class f ON f.oid = o.confrelid \
         JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace WHERE o.contype = 'f' \
         AND o.conrelid <> o.confrelid \
         AND pg_catalog.to_regclass({name}) IN (o.conrelid, o.confrelid)"
    );
    let read = |row: Vec<Option<String>>| {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        ForeignKey {
            name: text(0),
            table: (text(1), text(2)),
            referenced: (text(3), text(4)),
            is_single: text(5) == "t",
            is_out: text(6) == "t",
        }
    };
    Ok(server.rows(&sql).await?.into_iter().map(read).collect())
}

fn binds(table: &str, what: &str) -> PgError {
    PgError::refused(format!("a foreign key to {table} cannot be guaranteed"))
        .detail(format!("It binds a table of the home shard to {what}."))
        .hint("Give the table the tenant column in the same transaction.")
}

fn out_of_bounds(number: i64, name: &str, it: &Counter) -> PgError {
    PgError::new(
        sqlstate::NUMERIC_VALUE_OUT_OF_RANGE,
        format!(
            "setval: value {number} is out of bounds for sequence \"{name}\" ({}..{})",
            it.min, it.max
        ),
    )
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
