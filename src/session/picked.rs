//! A statement around a SELECT … FOR UPDATE: the SELECT runs first, on all shards, and its rows stand in its place.

use bytes::Bytes;

use super::extended::Portal;
use super::gather::given;
use super::locked::{Manner, Said, texts};
use super::{Role, Session};
use crate::error::PgError;
use crate::exec::Failure;
use crate::exec::broadcast::{Answers, Describe};
use crate::plan::locked::{Pick, rows_sql};
use crate::plan::route::Arguments;
use crate::plan::scatter::Carried;
use crate::plan::{Access, Action, Combine, Run};
use crate::shard::ShardId;
use crate::sql::name::quoted;
use crate::wire::backend::view::RowDescription;
use crate::wire::frontend::view::Bind;

impl Session {
    /// Locks the rows that the SELECT gives and runs the rest of the statement with them; the command tag, if
    /// the client has not got it.
    pub(super) async fn pick(
        &mut self,
        pick: &Pick,
        portal: Option<&Portal>,
    ) -> Result<Option<String>, Failure> {
        let said = self.pick_rows(pick, portal).await?;
        let columns = self.columns_of(&said).await?;
        let rows = said.rows.iter().map(|it| texts(it)).collect::<Result<Vec<_>, _>>()?;
        let rows = rows_sql(&columns, &rows);
        let sql = Bytes::from(format!("{}{rows}{}", pick.before, pick.after));
        let types = portal.map_or(&[][..], |it| it.prepared.text.told_types());
        let statement = self.analyse_once(&sql, types)?;
        let run = match &statement.plan.action {
            Action::Run(run) => run,
            Action::Refuse(error) => return Err(error.clone().into()),
            Action::Local(_) => return Err(unlike()),
        };
        let arguments = portal.map(Portal::arguments).transpose()?.unwrap_or_default();
        let args = if portal.is_some() { arguments.as_route() } else { Arguments::None };
        let Some(routed) = self.route(&statement, run, &args)? else { return Err(unlike()) };
        if run.access == Access::Write {
            self.open_writes(&routed).await;
        }
        match routed.shards.single() {
            Some(_) => {
                let describe = if portal.is_some() { Describe::Hide } else { Describe::Forward };
                let answers = Answers::Sum;
                self.same_text(&sql, run, &routed, portal, answers, describe).await.map(Some)
            }
            None if matches!(run.combine, Combine::Refuse(_) | Combine::OneByOne) => Err(unlike()),
            None => Box::pin(self.combine(&statement, run, &routed, portal)).await,
        }
    }

    /// The rows that the SELECT gives, as text.
    async fn pick_rows(&mut self, pick: &Pick, portal: Option<&Portal>) -> Result<Said, Failure> {
        let sql = Bytes::copy_from_slice(pick.select.as_bytes());
        let types = portal.map_or(&[][..], |it| it.prepared.text.told_types());
        let statement = self.analyse_exactly(&sql, types)?;
        let run = match &statement.plan.action {
            Action::Run(run) => run,
            Action::Refuse(error) => return Err(error.clone().into()),
            Action::Local(_) => return Err(unlike()),
        };
        let arguments = portal.map(Portal::arguments).transpose()?.unwrap_or_default();
        let args = if portal.is_some() { arguments.as_route() } else { Arguments::None };
        let Some(routed) = self.route(&statement, run, &args)? else { return Err(unlike()) };
        let bind = portal.map(|it| Bind::read(&it.bind)).transpose()?;
        let given = given(portal, bind.as_ref());
        if let (None, Run { combine: Combine::Lock(lock), .. }) = (routed.shards.single(), run) {
            return self.locked(lock, &routed, portal, &given, Vec::new()).await;
        }
        let is_whole =
            matches!(&run.combine, Combine::Merge(it) if it.limit.is_none() && it.offset.is_none());
        if routed.shards.single().is_none() && !is_whole {
            return Err(unlike());
        }
        let asked: Vec<(ShardId, String)> =
            routed.shards.iter().map(|it| (it, pick.select.clone())).collect();
        let manner = Manner { given: &given, types, results: Vec::new() };
        let mut said = self.ask_shards(&asked, &manner, false).await?.into_iter();
        let mut all = said.next().unwrap_or_default();
        all.rows.extend(said.flat_map(|it| it.rows));
        Ok(all)
    }

    /// The names and types of the columns, as SQL writes them.
    async fn columns_of(&mut self, said: &Said) -> Result<Vec<(String, String)>, Failure> {
        let Some((shard, frame)) = &said.description else { return Err(unlike()) };
        let row = RowDescription::read(frame)?;
        let unknown: Vec<u32> = row.columns.iter().map(|it| it.type_oid).collect();
        let names = self.type_names(*shard, &unknown).await?;
        let column = |(at, name): (usize, &String)| {
            let own = String::from_utf8_lossy(row.columns[at].name);
            (quoted(&own), name.clone())
        };
        Ok(names.iter().enumerate().map(column).collect())
    }

    /// The names of types, as the shard knows them that described the rows.
    async fn type_names(&mut self, shard: ShardId, oids: &[u32]) -> Result<Vec<String>, Failure> {
        let mut names = Vec::with_capacity(oids.len());
        for oid in oids {
            if let Some(name) = Carried::scalar(*oid) {
                names.push(name.to_owned());
                continue;
            }
            let sql = format!(
                "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname) \
                 FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = {oid}"
            );
            let at = self.member(shard, Role::Primary).await?;
            let rows = self.members[at].lease.server().rows(&sql).await?;
            names.extend(rows.into_iter().flatten().flatten());
        }
        match names.len() == oids.len() {
            true => Ok(names),
            false => Err(unlike()),
        }
    }
}

fn unlike() -> Failure {
    PgError::refused("FOR UPDATE or SHARE in a subquery over several shards is not supported")
        .detail("The statement around it cannot run over rows that are locked before.")
        .hint("Lock the rows in a SELECT of its own, or name one tenant in WHERE or SET sluice.tenant.")
        .into()
}
