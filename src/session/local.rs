//! Statements about the session itself: transactions, settings, cursors, EXPLAIN (SLUICE).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::causal::{staleness, token_of};
use super::extended::Portal;
use super::statement::PAUSE;
use super::transaction::{SchemaOfBlock, in_failed_block, text_of};
use super::{Role, Session};
use crate::error::{PgError, sqlstate};
use crate::exec::Failure;
use crate::plan::route::Arguments;
use crate::plan::{Action as PlanAction, Local, SetConfig, SetValue, Statement};
use crate::server::{IDENTITY, Setting, Settings, difference};
use crate::shard::{KeyType, ShardId};
use crate::sql::name::quoted_text;
use crate::wire::backend;

impl Session {
    /// Carries a local statement out and gives its answer.
    pub(super) async fn local(
        &mut self,
        local: &Local,
        statement: &Statement,
    ) -> Result<(), Failure> {
        let ends = matches!(
            local,
            Local::Commit { .. } | Local::Rollback { .. } | Local::RollbackTo(_) | Local::Empty
        );
        if self.passes(local) {
            return self.pass(local, statement).await;
        }
        if !ends {
            self.check_not_failed()?;
        }
        self.check_pin(&statement.plan)?;
        let is_answered_here = matches!(
            local,
            Local::SetSluice { .. }
                | Local::ShowSluice(_)
                | Local::Explain(_)
                | Local::Deallocate(_)
        );
        if is_answered_here && self.server_has_failed() {
            return Err(in_failed_block().into());
        }
        let sql = text_of(&statement.text).to_owned();
        match local {
            Local::Begin { read_only, isolation } => self.begin_block(&sql, *read_only, *isolation),
            Local::Commit { chain } => return self.commit_block(*chain).await,
            Local::Rollback { chain } => self.rollback_block(*chain).await?,
            Local::Savepoint(name) => {
                self.savepoint(name.clone(), &sql).await?;
                self.complete("SAVEPOINT");
            }
            Local::RollbackTo(name) => {
                self.rollback_to(name, &sql).await?;
                self.complete("ROLLBACK");
            }
            Local::Release(name) => {
                self.release_savepoint(name, &sql).await?;
                self.complete("RELEASE");
            }
            Local::Set { name, value, is_local } => {
                self.set(name, value.as_deref(), *is_local, &sql).await?;
            }
            Local::SetTransaction { read_only, isolation } => {
                self.set_transaction(*read_only, *isolation, &sql).await?;
            }
            Local::SetSluice { name, value, .. } => {
                self.set_sluice(name, value.as_deref())?;
                self.complete(if value.is_some() { "SET" } else { "RESET" });
            }
            Local::ShowSluice(name) => self.show_sluice(name).await?,
            Local::Reset(name) => self.reset(name.as_deref(), &sql).await?,
            Local::PrepareTransaction => self.everywhere(&sql).await?,
            Local::DiscardAll => self.discard_all().await?,
            Local::Deallocate(name) => self.deallocate(name.as_deref())?,
            Local::Explain(range) => self.explain(&sql[range.clone()]).await?,
            Local::Declare { cursor, query, range, is_holdable } => {
                self.declare((cursor, *is_holdable), query, range, statement).await?;
            }
            Local::Prepare { name, types, statement: range } => {
                let text = statement.text.slice(range.clone());
                match self.database.is_sharded() {
                    true => self.prepare_sql(name, types, &text).await?,
                    false => self.prepare_whole(name, types, &text, &sql).await?,
                }
            }
            Local::Execute { name, args } => {
                let args = args.as_ref().map_or("", |range| &sql[range.clone()]);
                self.execute_sql(name, args).await?;
            }
            Local::Fetch(name) => self.fetch(name, statement).await?,
            Local::Close(name) => self.close(name.as_deref(), statement).await?,
            Local::Listen(channel) => self.listen(channel, statement).await?,
            Local::Unlisten(channel) => self.unlisten(channel.as_deref(), statement).await?,
            Local::ListeningChannels => self.show_channels(statement).await?,
            Local::Empty => backend::empty_query_response(&mut self.client.out),
        }
        Ok(())
    }

    fn begin_block(
        &mut self,
        sql: &str,
        read_only: Option<bool>,
        isolation: Option<crate::plan::Isolation>,
    ) {
        match &mut self.tx {
            Some(tx) if tx.is_explicit => {
                self.warn(
                    sqlstate::ACTIVE_SQL_TRANSACTION,
                    "there is already a transaction in progress",
                );
            }
            // What the string did so far belongs to the block.
            Some(tx) => tx.is_explicit = true,
            None => self.begin(sql, true, read_only, isolation),
        }
        self.complete("BEGIN");
    }

    async fn commit_block(&mut self, chain: bool) -> Result<(), Failure> {
        let begin = self.chained("COMMIT", chain)?;
        if self.tx.as_ref().is_none_or(|tx| !tx.is_explicit) {
            self.warn(sqlstate::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress");
        }
        let tag = self.commit().await?;
        self.complete(tag);
        self.chain(begin);
        Ok(())
    }

    /// What a pipeline has done since its last Sync is one transaction, which ROLLBACK undoes, too.
    async fn undo_batch(&mut self) -> Result<(), PgError> {
        for member in &mut self.members {
            let server = member.lease.server();
            if server.is_in_batch() && !server.is_broken() {
                server.run("ROLLBACK").await?;
            }
        }
        Ok(())
    }

    async fn rollback_block(&mut self, chain: bool) -> Result<(), PgError> {
        let begin = self.chained("ROLLBACK", chain)?;
        if self.tx.as_ref().is_none_or(|tx| !tx.is_explicit) {
            self.warn(sqlstate::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress");
        }
        if self.tx.is_none() {
            self.undo_batch().await?;
        }
        self.rollback().await;
        self.complete("ROLLBACK");
        self.chain(begin);
        Ok(())
    }

    /// The BEGIN of the transaction that AND CHAIN opens.
    #[expect(clippy::type_complexity, reason = "the parts of a BEGIN")]
    fn chained(
        &self,
        what: &str,
        chain: bool,
    ) -> Result<Option<(String, Option<bool>, Option<crate::plan::Isolation>)>, PgError> {
        match &self.tx {
            _ if !chain => Ok(None),
            Some(tx) if tx.is_explicit => Ok(Some((tx.begin.clone(), tx.read_only, tx.isolation))),
            _ => Err(PgError::new(
                sqlstate::NO_ACTIVE_SQL_TRANSACTION,
                format!("{what} AND CHAIN can only be used in transaction blocks"),
            )),
        }
    }

    fn chain(&mut self, begin: Option<(String, Option<bool>, Option<crate::plan::Isolation>)>) {
        if let Some((begin, read_only, isolation)) = begin {
            self.begin(&begin, true, read_only, isolation);
        }
    }

    /// SET of a server's setting: a server judges the value, the session keeps it.
    async fn set(
        &mut self,
        name: &str,
        value: Option<&str>,
        is_local: bool,
        sql: &str,
    ) -> Result<(), Failure> {
        self.everywhere(sql).await?;
        if self.has_failed() {
            return Ok(());
        }
        if let Some(tx) = &mut self.tx {
            tx.replay.push(sql.trim().trim_end_matches(';').to_owned());
        }
        if is_local {
            return Ok(());
        }
        let setting = match value {
            _ if let Some(told) = self.told(name) => told,
            Some(value) if is_plain(name) => Setting::Value(value.to_owned()),
            _ => Setting::Statement(sql.trim().trim_end_matches(';').to_owned()),
        };
        if name == "application_name" {
            self.handle.state.lock().application = value.unwrap_or_default().into();
        }
        self.keep(name, Some(setting));
        Ok(())
    }

    /// The value that the server has just reported, where it reports that setting: DateStyle is made
    /// of what several SETs say.
    fn told(&mut self, name: &str) -> Option<Setting> {
        if IDENTITY.contains(&name) {
            return None;
        }
        let home = self.database.config.home_shard;
        let member = self.members.iter_mut().find(|it| it.shard == home)?;
        let status = &member.lease.server().status;
        let told = status.iter().find(|(it, _)| it.eq_ignore_ascii_case(name))?;
        Some(Setting::Value(told.1.clone()))
    }

    /// Keeps a setting, or takes it back to the session's start.
    fn keep(&mut self, name: &str, setting: Option<Setting>) {
        let settings = Arc::make_mut(&mut self.settings);
        if name == "session_authorization" {
            settings.remove("role");
        }
        match setting.or_else(|| self.defaults.get(name).cloned()) {
            Some(setting) => settings.insert(name.to_owned(), setting),
            None => settings.remove(name),
        };
        self.mark_members();
    }

    /// Servers outside of a block have the session's settings at once, those inside at its COMMIT.
    fn mark_members(&mut self) {
        for member in self.members.iter_mut().filter(|it| !it.in_tx) {
            member.lease.server().settings = Arc::clone(&self.settings);
        }
    }

    /// Keeps the settings that a statement has made by set_config, and makes them on the other servers
    /// of its block.
    pub(super) async fn after_set_config(
        &mut self,
        statement: &Statement,
        portal: Option<&Portal>,
    ) -> Result<(), Failure> {
        if statement.plan.sets.is_empty() || self.has_failed() {
            return Ok(());
        }
        for set in &statement.plan.sets {
            let Some(sql) = self.keep_set_config(set, portal) else { continue };
            if self.database.is_sharded() {
                let home = self.database.config.home_shard;
                for member in self.members.iter_mut().filter(|it| it.in_tx && it.shard != home) {
                    member.lease.server().run(&sql).await?;
                }
            }
        }
        Ok(())
    }

    /// Notes what `set_config('name', 'value', is_local)` did; what repeats it on another server of the block.
    pub(super) fn keep_set_config(
        &mut self,
        set: &SetConfig,
        portal: Option<&Portal>,
    ) -> Option<String> {
        let value = match &set.value {
            SetValue::Literal(it) => it.clone(),
            SetValue::Param(n) => portal.and_then(|it| it.text(*n)),
        };
        let repeated = self.tx.as_mut().map(|tx| {
            let given = value.as_deref().map_or("NULL".to_owned(), quoted_text);
            let name = quoted_text(&set.name);
            let sql = format!("SELECT pg_catalog.set_config({name}, {given}, {})", set.is_local);
            tx.replay.push(sql.clone());
            sql
        });
        if !set.is_local {
            let value = value.unwrap_or_default();
            let setting = self.told(&set.name).unwrap_or(Setting::Value(value));
            self.keep(&set.name, Some(setting));
        }
        repeated
    }

    /// Runs a statement on every server of the block, or on one of the home shard; the first one's
    /// answer is the client's.
    async fn everywhere(&mut self, sql: &str) -> Result<(), Failure> {
        let held: Vec<(ShardId, Role)> = self
            .members
            .iter()
            .filter(|it| it.in_tx || self.tx.is_none())
            .map(|it| (it.shard, Role::held(it.is_primary)))
            .collect();
        let mut message = bytes::BytesMut::new();
        crate::wire::frontend::query(&mut message, sql.as_bytes());
        let home = self.database.config.home_shard;
        let role = Role::held(!self.is_read_only());
        let (first, rest) = match held.split_first() {
            Some((first, rest)) => (*first, rest),
            None => ((home, role), &[][..]),
        };
        self.relay_to(first.0, first.1, false, &message).await?;
        if !self.has_failed() {
            for (shard, role) in rest {
                let at = self.member(*shard, *role).await?;
                self.members[at].lease.server().run(sql).await?;
            }
        }
        Ok(())
    }

    pub(super) fn has_failed(&mut self) -> bool {
        self.members.iter_mut().any(|it| it.server().has_failed())
    }

    async fn set_transaction(
        &mut self,
        read_only: Option<bool>,
        isolation: Option<crate::plan::Isolation>,
        sql: &str,
    ) -> Result<(), Failure> {
        if self.tx.is_some() && !self.members.iter().any(|it| it.in_tx) {
            // Nobody has joined yet: those who will are told then.
            if let Some(tx) = &mut self.tx {
                tx.read_only = read_only.or(tx.read_only);
                tx.isolation = isolation.or(tx.isolation);
                tx.replay.push(sql.to_owned());
            }
            self.complete("SET");
            return Ok(());
        }
        self.everywhere(sql).await?;
        if let Some(tx) = self.tx.as_mut().filter(|tx| !tx.has_failed) {
            tx.read_only = read_only.or(tx.read_only);
            tx.isolation = isolation.or(tx.isolation);
        }
        Ok(())
    }

    /// `SET sluice.name`: what a client says about routing.
    pub(super) fn set_sluice(&mut self, name: &str, value: Option<&str>) -> Result<(), PgError> {
        match name {
            "tenant" => {
                if let Some(tenant) = value {
                    self.owner_of(tenant)?;
                }
                let tenant = value.filter(|it| !it.is_empty()).map(str::to_owned);
                self.handle.state.lock().tenant.clone_from(&tenant);
                self.routing.tenant = tenant;
            }
            "role" => self.routing.role = Role::parse(value.unwrap_or_default())?,
            "max_staleness" => {
                self.routing.max_staleness = staleness(value.unwrap_or_default())?;
            }
            "token" => self.routing.token = token_of(value.unwrap_or_default())?,
            _ => return Err(unknown_sluice(name)),
        }
        Ok(())
    }

    async fn show_sluice(&mut self, name: &str) -> Result<(), PgError> {
        let value = match name {
            "tenant" => self.routing.tenant.clone().unwrap_or_default(),
            "role" => match self.routing.role {
                None => "auto".into(),
                Some(role) => role.name().into(),
            },
            "max_staleness" => match self.routing.max_staleness {
                None => "off".into(),
                Some(limit) => format!("{}ms", limit.as_millis()),
            },
            "token" => Box::pin(self.token()).await?.to_string(),
            _ => return Err(unknown_sluice(name)),
        };
        backend::row_description(&mut self.client.out, &[&format!("sluice.{name}")]);
        backend::data_row(&mut self.client.out, &[Some(value)]);
        self.complete("SHOW");
        Ok(())
    }

    async fn reset(&mut self, name: Option<&str>, sql: &str) -> Result<(), Failure> {
        self.everywhere(sql).await?;
        if self.has_failed() {
            return Ok(());
        }
        self.repeat_defaults(name).await?;
        if let Some(tx) = &mut self.tx {
            tx.replay.push(sql.trim().trim_end_matches(';').to_owned());
        }
        match name {
            Some(name) => {
                self.keep(name, None);
            }
            None => {
                self.settings = Arc::clone(&self.defaults);
                self.routing = super::Routing::default();
                self.mark_members();
            }
        }
        Ok(())
    }

    /// Servers were reset to their own defaults, which are not the session's where its start-up
    /// packet gave some.
    async fn repeat_defaults(&mut self, name: Option<&str>) -> Result<(), Failure> {
        let is_meant = |it: &String| name.is_none_or(|name| name == it);
        let mut wanted = Arc::clone(&self.defaults);
        Arc::make_mut(&mut wanted).retain(|it, _| is_meant(it));
        let Some(sql) = difference(&Settings::default(), &wanted) else { return Ok(()) };
        for member in self.members.iter_mut().filter(|it| it.in_tx || self.tx.is_none()) {
            member.lease.server().run(&sql).await?;
        }
        if let Some(tx) = &mut self.tx {
            tx.replay.push(sql);
        }
        Ok(())
    }

    async fn discard_all(&mut self) -> Result<(), Failure> {
        if self.tx.is_some() {
            return Err(PgError::new(
                sqlstate::ACTIVE_SQL_TRANSACTION,
                "DISCARD ALL cannot run inside a transaction block",
            )
            .into());
        }
        for member in &mut self.members {
            let server = member.lease.server();
            server.run("DISCARD ALL").await?;
            server.statements.clear();
            server.settings = Arc::default();
        }
        self.statements.clear();
        self.portals.clear();
        self.settings = Arc::clone(&self.defaults);
        self.routing = super::Routing::default();
        self.sql_statements = None;
        self.held_cursors = Default::default();
        self.doubt = None;
        self.unpin();
        self.stop_listening();
        self.complete("DISCARD ALL");
        Ok(())
    }

    /// DEALLOCATE: this client's statement; servers keep theirs for others.
    fn deallocate(&mut self, name: Option<&str>) -> Result<(), PgError> {
        self.keep_statements();
        match name {
            None => {
                self.statements.retain(|name, _| name.is_empty());
                self.sql_statements = None;
                self.complete("DEALLOCATE ALL");
            }
            Some(name) => {
                if let Some(own) = &mut self.sql_statements {
                    own.remove(name);
                }
                if !self.drop_statement(name.as_bytes()) {
                    return Err(PgError::new(
                        sqlstate::UNDEFINED_STATEMENT,
                        format!("prepared statement \"{name}\" does not exist"),
                    ));
                }
                self.complete("DEALLOCATE");
            }
        }
        Ok(())
    }

    /// `EXPLAIN (SLUICE) statement`: the plan, and where it would go now.
    async fn explain(&mut self, sql: &str) -> Result<(), Failure> {
        let text = bytes::Bytes::copy_from_slice(sql.as_bytes());
        let exact = self.analyse_exactly(&text, &[])?;
        let mut lines: Vec<String> = exact.plan.to_string().lines().map(str::to_owned).collect();
        if let PlanAction::Run(run) = &exact.plan.action
            && let Ok(Some(routed)) = self.route(&exact, run, &Arguments::None)
        {
            lines.push(format!("Route: shard {} ({})", routed.shards, routed.role.name()));
        }
        backend::row_description(&mut self.client.out, &["QUERY PLAN"]);
        for line in &lines {
            backend::data_row(&mut self.client.out, &[Some(line)]);
        }
        self.complete("EXPLAIN");
        Ok(())
    }

    /// After DDL: waits, within reason, until the new schema was read.
    pub(super) async fn schema_changed(&mut self) {
        if self.tx.is_some() {
            self.reload_at_commit = true;
            self.schema_of_block = SchemaOfBlock::Changed;
            return;
        }
        self.reload_at_commit = false;
        self.reload_after_ddl().await;
    }

    /// Reads the schema again after it was changed. Where that fails nobody may plan by the old one,
    /// which would take a new sharded table for a home table.
    pub(super) async fn reload_after_ddl(&self) {
        if !self.reload_catalog().await {
            self.database.state.forget_catalog();
        }
    }

    /// Asks for the schema to be read again and waits for it; whether it was.
    pub(super) async fn reload_catalog(&self) -> bool {
        let state = &self.database.state;
        // One that is under way may have read the schema as it was before.
        let needed = state.begun.load(Ordering::Acquire) + 1;
        state.wanted.notify_one();
        let wait = async {
            loop {
                let notified = state.refresh.notified();
                if state.ended.load(Ordering::Acquire) >= needed {
                    return;
                }
                notified.await;
                state.wanted.notify_one();
                // A server that is down fails at once.
                tokio::time::sleep(PAUSE).await;
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(5), wait).await.is_ok();
        if !done {
            tracing::warn!(database = %self.database.name, "the schema could not be read again");
        }
        done
    }

    /// The types that tenant keys have in sharded tables.
    pub(super) fn key_types(&self) -> Vec<KeyType> {
        let catalog = self.database.state.catalog.load();
        let mut kinds = Vec::new();
        for table in catalog.iter().flat_map(|it| it.tables.values()) {
            if let crate::catalog::TableKind::Sharded { key, .. } = table.kind
                && !kinds.contains(&key)
            {
                kinds.push(key);
            }
        }
        kinds
    }
}

/// Settings that are kept by value, since the session itself looks at them; all others are kept as
/// the client's own statement.
fn is_plain(name: &str) -> bool {
    matches!(
        name,
        "application_name"
            | "client_encoding"
            | "default_transaction_isolation"
            | "default_transaction_read_only"
    )
}

fn unknown_sluice(name: &str) -> PgError {
    PgError::new(
        sqlstate::UNDEFINED_OBJECT,
        format!("unrecognized configuration parameter \"sluice.{name}\""),
    )
    .hint("known are sluice.tenant, sluice.role, sluice.max_staleness and sluice.token")
}
