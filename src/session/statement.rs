//! A statement and its plan: from the cache, or made now.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Session;
use super::transaction::SchemaOfBlock;
use crate::catalog::Catalog;
use crate::error::{PgError, sqlstate};
use crate::plan::cache::{Basis, CachedPlan, Sought};
use crate::plan::planner;
use crate::plan::route::{Arguments, Call};
use crate::plan::{Access, Action as PlanAction, Combine, Plan, Run, Scope};
use crate::server::Setting;
use crate::sql::fingerprint::{Fingerprint, Slot};
use crate::sql::search_path;

/// A statement, its plan, and where its literals stand.
#[derive(Clone)]
pub(super) struct Statement {
    pub(super) text: Bytes,
    pub(super) plan: Arc<Plan>,
    /// Whether the plan may have been made from another text with other literals.
    pub(super) is_shared: bool,
    cached: Arc<CachedPlan>,
    /// The literals of this text, if it is not the planned one.
    slots: SmallVec<[Slot; 4]>,
}

/// Buffers that a session's statements share, one after the other.
pub(super) struct Buffers {
    fingerprint: Fingerprint,
}

impl Default for Buffers {
    fn default() -> Self {
        // One seed for all sessions, as they share a cache; it is drawn when the process starts.
        Self { fingerprint: Fingerprint::new(seed()) }
    }
}

/// A number that differs from process to process: the hash of nothing under std's random state.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *SEED.get_or_init(|| RandomState::new().hash_one(0_u8))
}

impl Statement {
    /// For routing.
    pub(super) fn call<'a>(&'a self, args: Arguments<'a>) -> Call<'a> {
        let planned = &*self.cached.slots;
        let slots = if self.is_shared { &self.slots } else { planned };
        Call { sql: self.sql(), slots, planned, args }
    }

    /// The text.
    pub(super) fn sql(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// Whether replicas may run it.
    pub(super) fn is_read(&self) -> bool {
        matches!(&self.plan.action, PlanAction::Run(run) if run.access == Access::Read)
    }

    fn starts_with(&self, word: &str) -> bool {
        let text = self.sql().trim_start();
        text.get(..word.len()).is_some_and(|it| it.eq_ignore_ascii_case(word))
    }

    /// Whether it is an INSERT, so that a NULL key is an error.
    pub(super) fn is_insert(&self) -> bool {
        self.starts_with("insert")
    }

    /// Whether it is LOCK TABLE.
    pub(super) fn is_lock(&self) -> bool {
        self.starts_with("lock ")
    }

    /// SHOW tells of the server it runs on: clients mean the one that takes their writes.
    pub(super) fn needs_primary(&self) -> bool {
        self.starts_with("show")
    }
}

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
            statements.iter_mut().for_each(lift);
        }
        Ok(statements)
    }

    async fn analyse_all(
        &mut self,
        sql: &Bytes,
        types: &[u32],
    ) -> Result<SmallVec<[Statement; 1]>, PgError> {
        let text = utf8(sql)?;
        let catalog = self.catalog().await?;
        self.buffers.fingerprint.read(text);
        if self.buffers.fingerprint.has_semicolon_inside() {
            return self.analyse_several(sql, types, &catalog).await;
        }
        if let Some(found) = self.cached(sql, types, &catalog) {
            return Ok(SmallVec::from_iter([found]));
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
            self.buffers.fingerprint.read(utf8(&piece)?);
            let statement = match self.cached(&piece, types, catalog) {
                Some(found) => found,
                None => self.plan_one(&piece, types, Arc::clone(catalog)).await?,
            };
            statements.push(statement);
        }
        Ok(statements)
    }

    /// The plan of exactly this text, whatever other texts share.
    pub(super) fn analyse_exactly(
        &mut self,
        sql: &Bytes,
        types: &[u32],
    ) -> Result<Statement, PgError> {
        let text = utf8(sql)?;
        let Some(catalog) = self.catalog_now() else { return Err(no_catalog()) };
        self.buffers.fingerprint.read(text);
        let basis = Basis { catalog_version: catalog.version, session: self.path_hash(), types };
        let sought = Sought { sql: text, fingerprint: &self.buffers.fingerprint, basis };
        let plans = &self.database.state.plans;
        if let Some(cached) = plans.find_whole(&sought) {
            return Ok(exact(sql, cached));
        }
        let plan = Arc::new(self.first_plan(text, types, &catalog));
        let slots = self.buffers.fingerprint.slots().into();
        let cached = Arc::new(CachedPlan { plan, slots });
        plans.insert_whole(&sought, &cached);
        Ok(exact(sql, cached))
    }

    /// A cached plan for the text that the fingerprint was read from.
    fn cached(&self, sql: &Bytes, types: &[u32], catalog: &Catalog) -> Option<Statement> {
        let text = std::str::from_utf8(sql).ok()?;
        let read = &self.buffers.fingerprint;
        let basis = Basis { catalog_version: catalog.version, session: self.path_hash(), types };
        let sought = Sought { sql: text, fingerprint: read, basis };
        let cached = self.database.state.plans.find(&sought)?;
        if !cached.plan.is_shareable {
            return Some(exact(sql, cached));
        }
        Some(Statement {
            text: sql.clone(),
            plan: Arc::clone(&cached.plan),
            is_shared: true,
            slots: read.slots().into(),
            cached,
        })
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
                self.asked.1.clear();
                return Err(no_catalog());
            }
            catalog = self.catalog().await?;
        }
        let plan = Arc::new(self.first_plan(text, types, &catalog));
        self.buffers.fingerprint.read(text);
        let basis = Basis { catalog_version: catalog.version, session: self.path_hash(), types };
        let sought = Sought { sql: text, fingerprint: &self.buffers.fingerprint, basis };
        Ok(exact(sql, self.database.state.plans.insert(&sought, plan)))
    }

    /// Relations that neither the catalog nor, as it was asked before, the database knows.
    fn unknown(&mut self, text: &str, catalog: &Catalog) -> Vec<String> {
        let path = self.search_path();
        let session = planner::Session { param_types: &[], search_path: path.as_deref() };
        let mut names = planner::unknown_tables(text, catalog, &session);
        if self.asked.0 != catalog.version {
            self.asked = (catalog.version, Default::default());
        }
        // Temporary tables and misspellings stay unknown: one look is enough until the schema changes.
        names.retain(|name| self.asked.1.len() < 1000 && self.asked.1.insert(name.clone()));
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
        self.reload_catalog().await;
        self.database.state.catalog.load_full().ok_or_else(no_catalog)
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
    async fn catalog_of_block(&mut self) -> Result<Option<Arc<Catalog>>, PgError> {
        match &self.schema_of_block {
            SchemaOfBlock::Unchanged => return Ok(None),
            SchemaOfBlock::Read(catalog) => return Ok(Some(Arc::clone(catalog))),
            SchemaOfBlock::Changed => (),
        }
        let home = self.database.config.home_shard;
        let member = self.members.iter_mut().find(|it| it.in_tx && it.shard == home);
        let Some(member) = member.filter(|_| self.tx.as_ref().is_some_and(|tx| !tx.has_failed))
        else {
            return Ok(None);
        };
        let config = &self.database.config;
        let read = crate::pool::catalog::read(member.lease.server(), config).await;
        let catalog = read.map_err(|error| {
            PgError::new(sqlstate::INTERNAL_ERROR, "the changed schema cannot be read")
                .detail(error.to_string())
        })?;
        let catalog = Arc::new(catalog);
        self.schema_of_block = SchemaOfBlock::Read(Arc::clone(&catalog));
        Ok(Some(catalog))
    }

    /// The session's own search_path, as far as it can be told from what was SET.
    fn search_path(&self) -> Option<Vec<String>> {
        match self.settings.get("search_path")? {
            Setting::Value(value) => Some(search_path::schemas(value, &self.user.name)),
            Setting::Statement(sql) => search_path::of_set(sql, &self.user.name),
        }
    }

    fn path_hash(&self) -> u64 {
        match self.settings.get("search_path") {
            None => 0,
            Some(Setting::Value(it) | Setting::Statement(it)) => {
                self.buffers.fingerprint.hash_of(it.as_bytes())
            }
        }
    }
}

/// A statement that was refused only since it may need several shards runs on its tenant's.
fn lift(statement: &mut Statement) {
    let PlanAction::Refuse(error) = &statement.plan.action else { return };
    if !statement.plan.is_lifted_by_tenant {
        return;
    }
    let combine = Combine::Refuse(error.clone());
    let run = Run { access: Access::Write, scope: Scope::All, combine };
    let plan = Plan { action: PlanAction::Run(run), ..Plan::clone(&statement.plan) };
    statement.plan = Arc::new(plan);
    statement.is_shared = false;
}

fn exact(sql: &Bytes, cached: Arc<CachedPlan>) -> Statement {
    Statement {
        text: sql.clone(),
        plan: Arc::clone(&cached.plan),
        is_shared: false,
        slots: SmallVec::new(),
        cached,
    }
}

fn utf8(sql: &Bytes) -> Result<&str, PgError> {
    std::str::from_utf8(sql).map_err(|error| {
        PgError::new("22021", "invalid byte sequence for encoding \"UTF8\" in the statement")
            .detail(format!("at byte {}", error.valid_up_to()))
            .hint("send statements in UTF8, or pass such text as a parameter")
    })
}

fn no_catalog() -> PgError {
    PgError::new(sqlstate::CANNOT_CONNECT_NOW, "the schema of this database was not read yet")
        .detail("the home shard's primary has not answered since the proxy started")
        .hint("try again; SHOW SHARDS on the admin console tells the state of every host")
}
