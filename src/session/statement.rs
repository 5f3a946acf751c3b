//! The plan of a statement: from the cache, or made now.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::failover::RETRY;
use super::transaction::SchemaOfBlock;
use super::{Session, timeouts};
use crate::catalog::Catalog;
use crate::error::{PgError, sqlstate};
use crate::plan::cache::{Basis, CachedPlan, Sought, Verb};
use crate::plan::{Access, Action as PlanAction, Combine, Plan, Run, Scope, Statement, planner};
use crate::server::Setting;
use crate::sql::fingerprint::Fingerprint;
use crate::sql::search_path;

/// Between two attempts to read the schema.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

impl Session {
    /// The statements of a text with their plans. Relations that the catalog does not know are looked
    /// for once more before they are taken for home tables.
    pub(super) async fn analyse(
        &mut self,
        sql: &Bytes,
        types: &[u32],
    ) -> Result<SmallVec<[Statement; 1]>, PgError> {
        let mut statements = self.analyse_all(sql, types).await?;
        if self.routing.tenant.is_some() {
            statements.iter_mut().for_each(Statement::lift);
        }
        Ok(statements)
    }

    async fn analyse_all(
        &mut self,
        sql: &Bytes,
        types: &[u32],
    ) -> Result<SmallVec<[Statement; 1]>, PgError> {
        if !self.database.is_sharded() && std::str::from_utf8(sql).is_err() {
            return Ok(SmallVec::from_iter([unread(sql)]));
        }
        let text = utf8(sql)?;
        let catalog = self.catalog().await?;
        let found = {
            let mut fingerprint = self.client.thread.fingerprint();
            fingerprint.read(text);
            match fingerprint.has_semicolon_inside() {
                true => Err(()),
                false => Ok(self.cached(&fingerprint, sql, types, &catalog)),
            }
        };
        match found {
            Err(()) => return self.analyse_several(sql, types, &catalog).await,
            Ok(Some(found)) => return Ok(SmallVec::from_iter([found])),
            Ok(None) => (),
        }
        Ok(SmallVec::from_iter([self.plan_one(sql, types, catalog).await?]))
    }

    async fn analyse_several(
        &mut self,
        sql: &Bytes,
        types: &[u32],
        catalog: &Arc<Catalog>,
    ) -> Result<SmallVec<[Statement; 1]>, PgError> {
        let text = utf8(sql)?;
        let pieces = self.plan_text(text, types, catalog);
        if pieces.len() == 1 {
            return Ok(SmallVec::from_iter([self
                .plan_one(sql, types, Arc::clone(catalog))
                .await?]));
        }
        let mut statements = SmallVec::new();
        for (range, _) in pieces {
            let piece = sql.slice_ref(text[range].trim().as_bytes());
            let known = {
                let mut fingerprint = self.client.thread.fingerprint();
                fingerprint.read(utf8(&piece)?);
                self.cached(&fingerprint, &piece, types, catalog)
            };
            let statement = match known {
                Some(found) => found,
                None => self.plan_one(&piece, types, Arc::clone(catalog)).await?,
            };
            statements.push(statement);
        }
        Ok(statements)
    }

    /// The plan that a statement amid others has once those before it have run.
    pub(super) async fn plan_again(
        &mut self,
        statement: &Statement,
    ) -> Result<Option<Statement>, PgError> {
        if self.check_not_failed().is_err() || !self.database.is_sharded() {
            return Ok(None);
        }
        Ok(self.analyse(&statement.text, &[]).await?.pop())
    }

    /// The plan of exactly this text, whatever other texts share.
    pub(super) fn analyse_exactly(
        &mut self,
        sql: &Bytes,
        types: &[u32],
    ) -> Result<Statement, PgError> {
        let text = utf8(sql)?;
        let Some(catalog) = self.catalog_now() else { return Err(self.no_catalog()) };
        let mut fingerprint = self.client.thread.fingerprint();
        fingerprint.read(text);
        let session = self.path_hash(&fingerprint);
        let basis = Basis { catalog_version: catalog.version, session, types };
        let sought = Sought { sql: text, fingerprint: &fingerprint, basis };
        let plans = &self.database.state.plans;
        if let Some(cached) = plans.find_whole(&sought) {
            return Ok(Statement::exact(sql, cached));
        }
        let plan = Arc::new(self.first_plan(text, types, &catalog));
        let cached = CachedPlan::new(plan, text, &fingerprint);
        plans.insert_whole(&sought, &cached);
        Ok(Statement::exact(sql, cached))
    }

    /// A cached plan for the text that the fingerprint was read from.
    fn cached(
        &self,
        read: &Fingerprint,
        sql: &Bytes,
        types: &[u32],
        catalog: &Catalog,
    ) -> Option<Statement> {
        let text = std::str::from_utf8(sql).ok()?;
        let session = self.path_hash(read);
        let basis = Basis { catalog_version: catalog.version, session, types };
        let sought = Sought { sql: text, fingerprint: read, basis };
        let cached = self.database.state.plans.find(&sought)?;
        if !cached.plan.is_shareable {
            return Some(Statement::exact(sql, cached));
        }
        Some(Statement::sharing(sql, cached, read.slots()))
    }

    /// The plan of a text that does not come again.
    pub(super) fn analyse_once(
        &mut self,
        sql: &Bytes,
        types: &[u32],
    ) -> Result<Statement, PgError> {
        let text = utf8(sql)?;
        let Some(catalog) = self.catalog_now() else { return Err(self.no_catalog()) };
        let plan = Arc::new(self.first_plan(text, types, &catalog));
        let mut fingerprint = self.client.thread.fingerprint();
        fingerprint.read(text);
        Ok(Statement::exact(sql, CachedPlan::new(plan, text, &fingerprint)))
    }

    async fn plan_one(
        &mut self,
        sql: &Bytes,
        types: &[u32],
        catalog: Arc<Catalog>,
    ) -> Result<Statement, PgError> {
        let text = utf8(sql)?;
        let mut catalog = catalog;
        if self.database.is_sharded() && !self.unknown(text, &catalog).is_empty() {
            // Not to be taken for a home table unless the schema says that there is no such table.
            if !self.reload_catalog().await {
                self.asked = None;
                return Err(self.no_catalog());
            }
            catalog = self.catalog().await?;
        }
        let plan = Arc::new(self.first_plan(text, types, &catalog));
        let mut fingerprint = self.client.thread.fingerprint();
        fingerprint.read(text);
        let session = self.path_hash(&fingerprint);
        let basis = Basis { catalog_version: catalog.version, session, types };
        let sought = Sought { sql: text, fingerprint: &fingerprint, basis };
        Ok(Statement::exact(sql, self.database.state.plans.insert(&sought, plan)))
    }

    /// Relations that neither the catalog nor, as it was asked before, the database knows.
    fn unknown(&mut self, text: &str, catalog: &Catalog) -> Vec<String> {
        let path = self.search_path();
        let session = planner::Session { param_types: &[], search_path: path.as_deref() };
        let mut names = planner::unknown_tables(text, catalog, &session);
        // Temporary tables and misspellings stay unknown: one look is enough until the schema changes.
        if !names.is_empty() {
            let (version, asked) = &mut **self.asked.get_or_insert_default();
            if *version != catalog.version {
                (*version, *asked) = (catalog.version, Default::default());
            }
            names.retain(|name| asked.len() < 1000 && asked.insert(name.clone()));
        }
        names
    }

    fn first_plan(&self, text: &str, types: &[u32], catalog: &Catalog) -> Plan {
        match self.plan_text(text, types, catalog).into_iter().next() {
            Some((_, plan)) => plan,
            None => {
                Plan::refuse(PgError::new(sqlstate::INTERNAL_ERROR, "the planner gave no plan"))
            }
        }
    }

    fn plan_text(
        &self,
        text: &str,
        types: &[u32],
        catalog: &Catalog,
    ) -> Vec<(std::ops::Range<usize>, Plan)> {
        let path = self.search_path();
        let session = planner::Session { param_types: types, search_path: path.as_deref() };
        planner::plan(text, catalog, self.database.is_sharded(), &session)
    }

    /// The catalog; right after the start it may still be on its way.
    async fn catalog(&mut self) -> Result<Arc<Catalog>, PgError> {
        if let Some(catalog) = self.catalog_of_block().await? {
            return Ok(catalog);
        }
        if let Some(catalog) = self.database.state.catalog.load_full() {
            return Ok(catalog);
        }
        let (begun, state) = (Instant::now(), Arc::clone(&self.database.state));
        let wait = async {
            while state.catalog.load().is_none()
                && begun.elapsed() < self.database.config.failover_wait
            {
                state.wanted.notify_one();
                let _ = tokio::time::timeout(RETRY, state.refresh.notified()).await;
                tokio::time::sleep(PAUSE).await;
            }
            Ok(())
        };
        timeouts::in_time(&self.handle, pin!(wait)).await?;
        self.renew();
        state.catalog.load_full().ok_or_else(|| self.no_catalog())
    }

    fn no_catalog(&self) -> PgError {
        let home = self.database.config.home_shard;
        let message = format!("the schema of shard {home}, the home shard, was not read yet");
        PgError::new(sqlstate::CANNOT_CONNECT_NOW, message)
            .detail("its primary has not answered since the proxy started")
            .hint("try again; SHOW SHARDS on the admin console tells the state of every host")
    }

    /// The catalog in force for this session, if it was read.
    pub(super) fn catalog_now(&self) -> Option<Arc<Catalog>> {
        match &self.schema_of_block {
            SchemaOfBlock::Read(catalog) => Some(Arc::clone(catalog)),
            _ => self.database.state.catalog.load_full(),
        }
    }

    /// In a block that has changed the schema: the schema as the block's own server sees it, so that
    /// a table just made is known for what it is.
    pub(super) async fn catalog_of_block(&mut self) -> Result<Option<Arc<Catalog>>, PgError> {
        match &self.schema_of_block {
            // One shard has it all: no table has to be known.
            _ if !self.database.is_sharded() => return Ok(None),
            SchemaOfBlock::Unchanged => return Ok(None),
            SchemaOfBlock::Read(catalog) => return Ok(Some(Arc::clone(catalog))),
            SchemaOfBlock::Changed => (),
        }
        let home = self.database.config.home_shard;
        let unread = |error: crate::pool::control::ControlError| {
            PgError::new(sqlstate::INTERNAL_ERROR, "the changed schema cannot be read")
                .detail(error.to_string())
        };
        let is_whole = self.tx.as_ref().is_some_and(|tx| !tx.has_failed);
        let others = match is_whole && !self.server_has_failed() {
            true => self.counters_of_block().await.map_err(unread)?,
            false => Default::default(),
        };
        let member = self.members.iter_mut().find(|it| it.in_tx && it.shard == home);
        let Some(member) = member.filter(|_| self.tx.as_ref().is_some_and(|tx| !tx.has_failed))
        else {
            return Ok(None);
        };
        let config = &self.database.config;
        let read = crate::pool::catalog::read(member.lease.server(), config, others).await;
        let catalog = Arc::new(read.map_err(unread)?);
        self.schema_of_block = SchemaOfBlock::Read(Arc::clone(&catalog));
        Ok(Some(catalog))
    }

    /// The session's own search_path, as far as it can be told from what was SET.
    fn search_path(&self) -> Option<Vec<String>> {
        match self.settings.get("search_path")? {
            Setting::Value(value) => Some(search_path::schemas(value, self.server_user())),
            Setting::Statement(sql) => search_path::of_set(sql, self.server_user()),
        }
    }

    pub(super) fn path_hash(&self, fingerprint: &Fingerprint) -> u64 {
        match self.settings.get("search_path") {
            None => 0,
            Some(Setting::Value(it) | Setting::Statement(it)) => {
                let hash = fingerprint.hash_of(it.as_bytes());
                match names_user(it) {
                    true => {
                        hash.rotate_left(1) ^ fingerprint.hash_of(self.server_user().as_bytes())
                    }
                    false => hash,
                }
            }
        }
    }

    /// Who the session is on servers: what `$user` of a search_path means there.
    pub(super) fn server_user(&self) -> &str {
        let address = &self.database.home().primary.address;
        self.account.login.name(&self.account.user, address)
    }
}

/// Whether a search_path means other schemas for each user.
pub(super) fn names_user(path: &str) -> bool {
    path.contains("$user")
}

/// A statement in another encoding than UTF8: for the one server, whatever it is.
fn unread(sql: &Bytes) -> Statement {
    let error = PgError::refused("the statement runs on one shard only");
    let run = Run {
        access: Access::Write,
        scope: Scope::Home,
        combine: Combine::Refuse(error),
        fallback: None,
        explained: None,
    };
    let plan = Plan {
        action: PlanAction::Run(run),
        pin: Some("text that is read otherwise"),
        ..Plan::default()
    };
    let plan = Arc::new(plan);
    // It may be a COPY as well as anything else.
    Statement::exact(
        sql,
        Arc::new(CachedPlan { plan, slots: Box::default(), verb: Verb::Copy, preparable: None }),
    )
}

fn utf8(sql: &Bytes) -> Result<&str, PgError> {
    std::str::from_utf8(sql).map_err(|error| {
        PgError::new("22021", "invalid byte sequence for encoding \"UTF8\" in the statement")
            .detail(format!("at byte {}", error.valid_up_to()))
            .hint("send statements in UTF8, or pass such text as a parameter")
    })
}
