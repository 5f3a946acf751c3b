//! Fills a [`Catalog`] from the home shard, and compares the other shards with it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cluster::{Database, Host};
use super::control::{Control, ControlError, Held};
use super::drift;
use super::ids;
use super::sequences;
use super::suspects::SUSPECTS;
use super::unique;
use crate::catalog::sequence::{self, Counters, Counting, Name};
use crate::catalog::unique::GlobalKey;
use crate::catalog::{
    Cascade, Catalog, Column, ColumnDefault, FIRST_USER_OID, Function, FunctionKind, SqlType,
    Suspects, Table, TableKind, Volatility,
};
use crate::config;
use crate::plan::planner;
use crate::server::Server;
use crate::shard::{KeyType, ShardId};
use crate::sql::name::quoted_text;

/// How long another shard may take to tell its schema.
const PATIENCE: Duration = Duration::from_secs(2);

/// Rows of text.
pub type Rows = Vec<Vec<Option<String>>>;

/// Where the schema is read: the control plane, or a transaction that has changed it.
pub trait Source {
    /// Runs one statement.
    ///
    /// # Errors
    /// What the server says, or that it cannot be reached.
    fn rows(&mut self, sql: &str) -> impl Future<Output = Result<Rows, ControlError>> + Send;
}

impl Source for &Control {
    fn rows(&mut self, sql: &str) -> impl Future<Output = Result<Rows, ControlError>> + Send {
        Control::rows(self, sql)
    }
}

impl Source for Held {
    async fn rows(&mut self, sql: &str) -> Result<Rows, ControlError> {
        self.run(sql).await
    }
}

impl Source for &mut Server {
    async fn rows(&mut self, sql: &str) -> Result<Rows, ControlError> {
        Server::rows(self, sql).await.map_err(|error| ControlError(error.to_string()))
    }
}

/// The schema as a source of the home shard sees it, with what is known of other shards' sequences.
///
/// # Errors
/// As the source.
pub async fn read(
    source: impl Source,
    config: &config::Database,
    others: Counters,
) -> Result<Catalog, ControlError> {
    load(source, config, others).await
}

const SETTINGS: &str = "SELECT current_setting('server_version_num'), \
    array_to_string(current_schemas(true), e'\\x1f'), datcollate, \
    pg_encoding_to_char(encoding) \
    FROM pg_database WHERE datname = current_database()";

/// One line per column of every relation outside pg_catalog and pg_toast.
const COLUMNS: &str = "SELECT n.nspname, c.relname, c.relkind, c.relhasrules, a.attname, a.atttypid::oid::int8, \
    coalesce(co.collname, ''), coalesce(co.collprovider, ''), coalesce(co.collisdeterministic, true), \
    a.attgenerated, a.attidentity, pg_get_expr(d.adbin, d.adrelid), \
    CASE WHEN c.relkind IN ('v', 'm') AND coalesce(a.attnum, 1) = 1 THEN pg_get_viewdef(c.oid) END, \
    coalesce(t.typtype, ''), t.typbasetype::int8, \
    CASE c.relpersistence WHEN 't' THEN 't' ELSE '' END, a.atttypmod, \
    coalesce(co.collcollate, ''), \
    CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN format_type(a.atttypid, a.atttypmod) \
    ELSE format('%I.%I', tn.nspname, t.typname) END, \
    CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype IN ('b', 'r', 'm') \
    AND t.typcategory <> 'A' AND t.typarray <> 0 AND t.typsend <> 0 AND t.typname NOT LIKE 'reg%' \
    THEN format_type(a.atttypid, -1) END, \
    CASE WHEN a.attcollation <> t.typcollation THEN format('%I.%I', cn.nspname, co.collname) END \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
    LEFT JOIN pg_type t ON t.oid = a.atttypid \
    LEFT JOIN pg_namespace tn ON tn.oid = t.typnamespace \
    LEFT JOIN pg_collation co ON co.oid = a.attcollation \
    LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace \
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND c.relpersistence <> 't' \
    AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%' \
    AND n.nspname NOT IN ('sluice', 'pg_catalog', 'information_schema') \
    ORDER BY 1, 2, a.attnum";

/// Names of relations that replicas do not have the rows of.
const UNLOGGED: &str = "WITH RECURSIVE it AS ( \
    SELECT c.oid FROM pg_class c WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'p', 'm', 'S') \
    UNION SELECT coalesce(i.inhparent, w.ev_class) FROM it \
    LEFT JOIN pg_inherits i ON i.inhrelid = it.oid \
    LEFT JOIN pg_depend d ON d.refobjid = it.oid AND d.refclassid = 'pg_class'::regclass \
    AND d.classid = 'pg_rewrite'::regclass LEFT JOIN pg_rewrite w ON w.oid = d.objid \
    WHERE coalesce(i.inhparent, w.ev_class) IS NOT NULL) \
    SELECT DISTINCT c.relname FROM it JOIN pg_class c ON c.oid = it.oid ORDER BY 1";

const SYSTEM: &str = "SELECT n.nspname, c.relname FROM pg_class c \
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'v') \
    AND n.nspname IN ('sluice', 'pg_catalog', 'information_schema') ORDER BY 1, 2";

const KEYS: &str = "SELECT n.nspname, c.relname, \
    (SELECT string_agg(coalesce(a.attname, ''), e'\\x1f' ORDER BY k.ord) \
     FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(num, ord) \
     LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num \
     WHERE k.ord <= i.indnkeyatts), i.indisprimary \
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE (i.indisunique OR i.indisexclusion) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'sluice') \
    AND n.nspname NOT LIKE 'pg\\_toast%' ORDER BY 1, 2, 3";

const TRIGGERS: &str = "SELECT n.nspname, c.relname, p.proname FROM pg_trigger t \
    JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace \
    WHERE NOT t.tgisinternal AND pn.nspname <> 'sluice' ORDER BY 1, 2, 3";

/// Foreign keys that change rows with those that they refer to.
const CASCADES: &str = "SELECT fn.nspname, f.relname, n.nspname, c.relname, \
    (SELECT string_agg(a.attname, e'\\x1f' ORDER BY k.ord) FROM unnest(o.confkey) WITH ORDINALITY k(num, ord) \
     JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.num), \
    o.confdeltype NOT IN ('a', 'r'), o.confupdtype NOT IN ('a', 'r') \
    FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_class f ON f.oid = o.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace \
    WHERE o.contype = 'f' AND (o.confdeltype NOT IN ('a', 'r') OR o.confupdtype NOT IN ('a', 'r')) \
    ORDER BY 1, 2, 3, 4, o.conname";

const FUNCTIONS: &str = "SELECT n.nspname, p.proname, p.prokind, p.provolatile, \
    (p.provolatile = 'i' OR l.lanname IN ('internal', 'c')), p.proisstrict \
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang \
    ORDER BY 1, 2, p.oid";

const FOREIGN_KEYS: &str = "SELECT n.nspname || '.' || c.relname, fn.nspname || '.' || f.relname, \
    (SELECT string_agg(a.attname, ',' ORDER BY k.ord) FROM unnest(o.conkey) WITH ORDINALITY k(num, ord) \
     JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.num), o.conname \
    FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_class f ON f.oid = o.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace \
    WHERE o.contype = 'f' ORDER BY 1, 2, 4";

const TYPES: &str = "SELECT t.typname, t.oid::int8 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
    WHERE t.typtype IN ('b', 'd', 'e') AND pg_type_is_visible(t.oid) ORDER BY 1";

const OPERATORS: &str = "SELECT o.oprleft::int8, o.oprright::int8 FROM pg_operator o \
    JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE o.oprname = '=' AND n.nspname <> 'pg_catalog' \
    ORDER BY 1, 2";

/// Reads the home shard's schema, compares the others, and stores the result if it is new.
///
/// # Errors
/// If the home shard cannot be read; shards that cannot be read are noted as drift.
pub async fn refresh(database: &Database) -> Result<(), ControlError> {
    let state = &database.state;
    let _one_at_a_time = state.loading.lock().await;
    let number = state.begun.fetch_add(1, Ordering::AcqRel) + 1;
    read_counters(database).await;
    let read = load_home(database).await;
    if read.is_ok() {
        // The latest load that is in force; one that failed has shown nobody the new schema.
        state.ended.store(number, Ordering::Release);
    }
    state.refresh.notify_waiters();
    read?;
    look_at_others(database).await;
    Ok(())
}

/// Loads the home shard's schema and puts it in force.
async fn load_home(database: &Database) -> Result<(), ControlError> {
    let epoch = database.state.epoch.load(Ordering::Acquire);
    let home = &database.home().primary;
    if database.config.tenant_column.is_some() {
        ids::make(&home.control, home.shard).await;
    }
    if database.is_sharded() && !database.config.global_unique.is_empty() {
        unique::make(&home.control).await;
    }
    let others = database.state.counters.lock().clone();
    let mut read = load(&home.control, &database.config, others.clone()).await;
    let failed = read.as_ref().err().cloned();
    if failed.is_some() && database.state.catalog.load().is_none() {
        // Better than nothing, for reads: a replica's, until the primary tells more.
        for replica in &database.home().replicas {
            if read.is_err() && replica.health.is_up() {
                read = load(&replica.control, &database.config, others.clone()).await;
            }
        }
    }
    let catalog = read?;
    let old = database.state.catalog.load();
    let is_current = database.state.epoch.load(Ordering::Acquire) == epoch;
    if is_current && old.as_ref().is_none_or(|old| old.version != catalog.version) {
        database.state.catalog.store(Some(Arc::new(catalog)));
    }
    failed.map_or(Ok(()), Err)
}

/// Reads the sequences of all shards but the home shard. Of one that does not answer those of its last
/// answer count: none others have been there since.
async fn read_counters(database: &Database) {
    if !database.is_sharded() {
        return;
    }
    let epoch = database.state.epoch.load(Ordering::Acquire);
    let mut asked = tokio::task::JoinSet::new();
    for shard in database.shards.values().filter(|it| it.id != database.config.home_shard) {
        let (id, host) = (shard.id, Arc::clone(&shard.primary));
        let keys = database.config.global_unique.clone();
        let tenant = database.config.tenant_column.clone();
        asked.spawn(async move {
            let look = async {
                if !keys.is_empty() {
                    unique::make(&host.control).await;
                }
                counters_of(&host, (&keys, tenant.as_deref())).await
            };
            (id, tokio::time::timeout(PATIENCE, look).await)
        });
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok((shard, Ok(Ok(counters)))) = answer {
            let mut known = database.state.counters.lock();
            // Not of servers that a reload has just replaced.
            if database.state.epoch.load(Ordering::Acquire) == epoch {
                known.insert(shard, counters);
            }
        }
    }
}

async fn counters_of(
    host: &Host,
    (keys, tenant): (&[GlobalKey], Option<&str>),
) -> Result<Counting, ControlError> {
    let makes_ids = ids::make(&host.control, host.shard).await;
    let sequences = match sequences::counters(&mut &host.control).await {
        // One may have been dropped between two looks.
        Err(_) => sequences::counters(&mut &host.control).await,
        read => read,
    };
    let keys = unique::kept(&mut &host.control, keys, tenant).await?;
    Ok(Counting { sequences: sequences?, makes_ids, keys })
}

/// What a shard says of the numbers it gives and the keys it keeps.
///
/// # Errors
/// As the source.
pub async fn counting(
    source: &mut impl Source,
    shard: ShardId,
    config: &config::Database,
) -> Result<Counting, ControlError> {
    let makes_ids = ids::are_made(source, shard).await?;
    let tenant = config.tenant_column.as_deref();
    let keys = unique::kept(source, &config.global_unique, tenant).await?;
    Ok(Counting { sequences: sequences::counters(source).await?, makes_ids, keys })
}

/// Notes where other shards differ from the home shard, and which cannot commit in two phases.
async fn look_at_others(database: &Database) {
    let mut drift = Vec::new();
    let home = &database.home().primary;
    let ours = match database.is_sharded() {
        true => match drift::schema(&home.control).await {
            Ok(ours) => Some(ours),
            Err(error) => {
                drift.push(format!("shard {}: not read: {error}", home.shard));
                None
            }
        },
        false => None,
    };
    let (mut no_two_phase, mut ends_all) = (BTreeMap::new(), BTreeSet::new());
    for shard in database.shards.values() {
        let is_other = database.is_sharded() && shard.id != database.config.home_shard;
        let look = async {
            let control = &shard.primary.control;
            let two_phase = two_phase_problem(control).await?;
            let theirs = if is_other { Some(drift::schema(control).await?) } else { None };
            Ok::<_, ControlError>((two_phase, theirs))
        };
        // A shard that does not answer holds nobody up for long.
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(Ok(((problem, is_superuser), theirs))) => {
                ends_all.extend(is_superuser.then_some(shard.id));
                no_two_phase.extend(problem.map(|it| (shard.id, it)));
                let both = ours.as_ref().zip(theirs);
                drift.extend(
                    both.into_iter()
                        .flat_map(|(ours, theirs)| drift::compare(shard.id.0, ours, &theirs)),
                );
            }
            Ok(Err(error)) => drift.push(format!("shard {}: not read: {error}", shard.id)),
            Err(_) => drift.push(format!("shard {}: not read in {PATIENCE:?}", shard.id)),
        }
    }
    // What one shard has and another not yet may be DDL that is just being committed.
    let before = std::mem::replace(&mut *database.state.drift_seen.lock(), drift.clone());
    drift.retain(|it| before.contains(it));
    if **database.state.drift.load() != drift {
        drift.iter().for_each(|it| tracing::warn!(database = database.config.name, "{it}"));
        database.state.metrics.drift.set(drift.len().try_into().unwrap_or(i64::MAX));
        database.state.drift.store(Arc::new(drift));
    }
    database.state.no_two_phase.store(Arc::new(no_two_phase));
    database.state.ends_all.store(Arc::new(ends_all));
}

/// Why nobody can commit in two phases, and whether the URL's user is a superuser.
async fn two_phase_problem(control: &Control) -> Result<(Option<String>, bool), ControlError> {
    let rows = control
        .rows(
            "SELECT current_setting('max_prepared_transactions'), \
             to_regclass('sluice.decision') IS NOT NULL, \
             (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
        )
        .await?;
    let cell = |i: usize| rows.first().and_then(|row| row.get(i).cloned().flatten());
    let problem = match (cell(0).as_deref(), cell(1).as_deref()) {
        (Some("0"), _) => Some("max_prepared_transactions is 0".into()),
        (_, Some("t")) => None,
        _ => Some("the table sluice.decision is missing and could not be created".into()),
    };
    Ok((problem, cell(2).as_deref() == Some("t")))
}

async fn load(
    mut control: impl Source,
    config: &config::Database,
    mut counters: Counters,
) -> Result<Catalog, ControlError> {
    // With one server to ask it is never the tables that matter.
    let is_alone =
        config.tenant_column.is_none() && !config.shards.iter().any(|it| it.may_have_replicas());
    let is_alone = is_alone && config.shards.len() == 1 && !config.auto_prepare;
    let settings = control.rows(SETTINGS).await?;
    let setting = |i: usize| settings.first().and_then(|row| row[i].clone()).unwrap_or_default();
    let (mut columns, mut keys, mut triggers) = (Rows::new(), Rows::new(), Rows::new());
    let (mut types, mut operators, mut system) = (Rows::new(), Rows::new(), Rows::new());
    if !is_alone {
        columns = control.rows(COLUMNS).await?;
        (keys, triggers) = (control.rows(KEYS).await?, control.rows(TRIGGERS).await?);
        (types, operators) = (control.rows(TYPES).await?, control.rows(OPERATORS).await?);
        system = control.rows(SYSTEM).await?;
    }
    let (mut cascades, mut writers) = (Rows::new(), Rows::new());
    if !config.global_unique.is_empty() && config.shards.len() > 1 {
        cascades = control.rows(CASCADES).await?;
        writers = control.rows(&writers_sql(&config.global_unique)).await?;
    }
    let functions = control.rows(FUNCTIONS).await?;
    let suspects = control.rows(SUSPECTS).await?;
    let unlogged = control.rows(UNLOGGED).await?;
    let default_collation_is_c = matches!(setting(2).as_str(), "C" | "POSIX");
    let mut uses = Rows::new();
    if config.tenant_column.is_some() && config.shards.len() > 1 {
        uses = control.rows(sequences::USES).await?;
        counters
            .insert(config.home_shard, counting(&mut control, config.home_shard, config).await?);
    }
    let makes_ids =
        config.shards.iter().all(|it| counters.get(&it.id).is_some_and(|it| it.makes_ids));
    let kept_keys: Vec<GlobalKey> = config
        .global_unique
        .iter()
        .filter(|key| {
            let name = key.to_string();
            let has =
                |it: &config::Shard| counters.get(&it.id).is_some_and(|it| it.keys.contains(&name));
            config.shards.iter().all(has)
        })
        .cloned()
        .collect();
    uses.sort();
    let shared = sequence::shared(&counters, config.shards.iter().map(|it| it.id));
    let mut told: Vec<_> = shared.iter().collect();
    told.sort_by_key(|(name, _)| *name);
    let uses_by_column = sequences::by_column(&uses);
    let mut tables = tables(&columns, config, default_collation_is_c, &uses_by_column);
    add_system(&mut tables, &system);
    add_keys(&mut tables, &keys);
    add_triggers(&mut tables, &triggers);
    let mut version = std::hash::DefaultHasher::new();
    (&settings, &columns, &keys, &triggers, &functions, &types, &operators).hash(&mut version);
    (&suspects, &unlogged, &uses, &told, makes_ids).hash(&mut version);
    (&config.tenant_column, &config.reference_tables, &config.trusted_functions).hash(&mut version);
    (config.allow_local_keys, config.trust_generated_keys, config.auto_prepare).hash(&mut version);
    (&config.global_unique, &kept_keys, &cascades, &writers).hash(&mut version);
    let mut catalog = Catalog {
        tables,
        sequences: shared,
        makes_ids,
        functions: read_functions(&functions),
        suspects: read_suspects(&suspects),
        unlogged: unlogged.iter().filter_map(|row| row[0].clone()).collect(),
        types: types.iter().filter_map(|row| Some((row[0].clone()?, number(row, 1)))).collect(),
        search_path: setting(1).split('\x1f').map(str::to_owned).collect(),
        default_collation_is_c,
        server_version: setting(0).parse().unwrap_or(0),
        operators_on: operators.iter().flat_map(|row| [number(row, 0), number(row, 1)]).collect(),
        trusted_functions: config.trusted_functions.iter().cloned().collect(),
        tenant_column: config.tenant_column.clone(),
        reference_tables: config.reference_tables.iter().cloned().collect(),
        allow_local_keys: config.allow_local_keys,
        trust_generated_keys: config.trust_generated_keys,
        global_unique: config.global_unique.clone(),
        kept_keys,
        cascades: read_cascades(&cascades),
        unique_writers: writers.iter().filter_map(|row| row[0].clone()).collect(),
        auto_prepare: config.auto_prepare,
        version: version.finish(),
    };
    place_materialized_views(&mut catalog, &columns);
    Ok(catalog)
}

/// Tells where the rows of materialized views are. One may be over another.
fn place_materialized_views(catalog: &mut Catalog, rows: &Rows) {
    let views: Vec<(String, String, &str)> = rows
        .iter()
        .filter(|row| row[2].as_deref() == Some("m"))
        .filter_map(|row| Some((row[0].clone()?, row[1].clone()?, row[12].as_deref()?)))
        .collect();
    let mut is_settled = views.is_empty();
    while !is_settled {
        is_settled = true;
        for (schema, name, text) in &views {
            let stored = planner::stored(text, &[], catalog);
            let place = (schema.clone(), name.clone());
            let Some(table) = catalog.tables.get_mut(&place) else { continue };
            if table.kind != TableKind::Home {
                continue;
            }
            let columns = &table.columns;
            table.kind = planner::kind_of(stored, |at| columns.get(at).map_or(0, |it| it.type_oid));
            is_settled &= table.kind == TableKind::Home;
        }
    }
}

fn number(row: &[Option<String>], i: usize) -> u32 {
    row[i].as_deref().and_then(|it| it.parse().ok()).unwrap_or(0)
}

fn tables(
    rows: &Rows,
    config: &config::Database,
    default_is_c: bool,
    sequences: &HashMap<[String; 3], Name>,
) -> HashMap<(String, String), Table> {
    let mut tables: HashMap<(String, String), Table> = HashMap::new();
    let reference: HashSet<&str> = config.reference_tables.iter().map(String::as_str).collect();
    for row in rows {
        let cell = |i: usize| row[i].as_deref().unwrap_or("");
        let (schema, name) = (cell(0).to_owned(), cell(1).to_owned());
        let kind = match cell(2) {
            "v" => TableKind::View(cell(12).to_owned()),
            _ if reference.contains(name.as_str())
                || reference.contains(format!("{schema}.{name}").as_str()) =>
            {
                TableKind::Reference
            }
            _ => TableKind::Home,
        };
        let table = tables.entry((schema, name)).or_insert_with(|| Table {
            kind,
            columns: Vec::new(),
            unique_keys: Vec::new(),
            primary_key: Vec::new(),
            trigger_functions: Vec::new(),
            has_rules: cell(2) != "v" && cell(3) == "t",
        });
        if row[4].is_none() {
            continue;
        }
        let place = [cell(0).to_owned(), cell(1).to_owned(), cell(4).to_owned()];
        let column = column(row, default_is_c, sequences.get(&place));
        let is_tenant = config.tenant_column.as_deref() == Some(column.name.as_str());
        if is_tenant && matches!(cell(2), "r" | "p") && table.kind == TableKind::Home {
            table.kind = tenant_kind(row, table.columns.len());
        }
        table.columns.push(column);
    }
    tables
}

fn tenant_kind(row: &[Option<String>], column: usize) -> TableKind {
    let cell = |i: usize| row[i].as_deref().unwrap_or("");
    if cell(8) == "f" {
        return TableKind::Unusable(format!(
            "the tenant column of {} has a non-deterministic collation",
            cell(1)
        ));
    }
    match KeyType::of_oid(number(row, 5)) {
        Some(key) => TableKind::Sharded { column, key },
        None => TableKind::Unusable(format!(
            "the tenant column of {} is not of type text, varchar, uuid, int2, int4 or int8",
            cell(1)
        )),
    }
}

fn column(row: &[Option<String>], default_is_c: bool, sequence: Option<&Name>) -> Column {
    let cell = |i: usize| row[i].as_deref().unwrap_or("");
    let collation_is_c = match (cell(6), cell(17)) {
        ("", _) => false,
        ("default", _) => default_is_c,
        (_, "C" | "POSIX") => true,
        (name, _) => matches!(name, "C" | "POSIX" | "ucs_basic"),
    };
    let default = match (cell(9), cell(10), row[11].as_deref()) {
        ("s", _, _) => ColumnDefault::Generated,
        (_, "a" | "d", _) => ColumnDefault::Sequence(sequence.cloned()),
        (_, _, Some(text)) if text.contains("nextval(") => {
            ColumnDefault::Sequence(sequence.filter(|_| is_nextval(text)).cloned())
        }
        (_, _, Some(text)) if !is_constant(text) => ColumnDefault::Computed(text.to_owned()),
        _ => ColumnDefault::Constant,
    };
    Column {
        name: cell(4).to_owned(),
        type_oid: number(row, 5),
        collation_is_c,
        collation_is_deterministic: cell(8) != "f",
        default,
        sql_type: SqlType {
            name: cell(18).to_owned(),
            scalar: row[19].clone(),
            collation: row[20].clone(),
        },
    }
}

/// Whether a default as `pg_get_expr` prints it is a number of a sequence and nothing else.
fn is_nextval(text: &str) -> bool {
    let bare = text.trim_start_matches('(');
    let is_alone = text.matches('(').count() == text.len() - bare.len() + 1;
    is_alone && bare.starts_with("nextval('") && text.contains("'::regclass)")
}

/// Whether a default as `pg_get_expr` prints it is one constant, perhaps with a cast.
fn is_constant(text: &str) -> bool {
    let bare = text.split("::").next().unwrap_or(text).trim_matches(['(', ')']);
    let is_number = bare.parse::<f64>().is_ok();
    let is_string = bare.len() >= 2 && bare.starts_with('\'') && bare.ends_with('\'');
    // A string that reads as a time differs from moment to moment: 'now', 'today', …
    let is_timely = is_string
        && ["now", "today", "tomorrow", "yesterday"]
            .iter()
            .any(|word| bare.to_ascii_lowercase().contains(word))
        && text.contains("::");
    (is_number || (is_string && !is_timely) || matches!(bare, "true" | "false" | "NULL"))
        && !text.contains("::regclass")
}

fn add_system(tables: &mut HashMap<(String, String), Table>, rows: &Rows) {
    for row in rows {
        let cell = |i: usize| row[i].clone().unwrap_or_default();
        let table = Table {
            kind: TableKind::System,
            columns: Vec::new(),
            unique_keys: Vec::new(),
            primary_key: Vec::new(),
            trigger_functions: Vec::new(),
            has_rules: false,
        };
        tables.insert((cell(0), cell(1)), table);
    }
}

fn add_keys(tables: &mut HashMap<(String, String), Table>, rows: &Rows) {
    for row in rows {
        let cell = |i: usize| row[i].clone().unwrap_or_default();
        if let Some(table) = tables.get_mut(&(cell(0), cell(1))) {
            let key: Vec<usize> = cell(2).split('\x1f').filter_map(|it| table.column(it)).collect();
            if cell(3) == "t" {
                table.primary_key.clone_from(&key);
            }
            table.unique_keys.push(key);
        }
    }
}

fn add_triggers(tables: &mut HashMap<(String, String), Table>, rows: &Rows) {
    for row in rows {
        let cell = |i: usize| row[i].clone().unwrap_or_default();
        if let Some(table) = tables.get_mut(&(cell(0), cell(1))) {
            table.trigger_functions.push(cell(2));
        }
    }
}

/// Functions whose text names a table with a key over shards, or such a function.
fn writers_sql(keys: &[GlobalKey]) -> String {
    let mut names: Vec<String> =
        keys.iter().map(|it| it.table.to_lowercase().replace('$', "\\$")).collect();
    names.sort_unstable();
    names.dedup();
    format!(
        "WITH RECURSIVE own AS MATERIALIZED ( \
         SELECT p.oid, p.proname, lower(p.prosrc || coalesce(to_jsonb(p) ->> 'prosqlbody', '')) AS body \
         FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace \
         WHERE l.lanname NOT IN ('internal', 'c') AND p.oid >= {FIRST_USER_OID} AND n.nspname <> 'sluice' \
         ), writers AS (SELECT oid, proname FROM own WHERE body ~ {} \
         UNION SELECT own.oid, own.proname FROM writers JOIN own ON strpos(own.body, lower(writers.proname)) > 0) \
         SELECT DISTINCT proname FROM writers ORDER BY 1",
        quoted_text(&format!("(^|[^a-z0-9_$])({})($|[^a-z0-9_$])", names.join("|")))
    )
}

fn read_cascades(rows: &Rows) -> HashMap<Name, Vec<Cascade>> {
    let mut cascades: HashMap<Name, Vec<Cascade>> = HashMap::new();
    for row in rows {
        let cell = |i: usize| row[i].clone().unwrap_or_default();
        let cascade = Cascade {
            table: (cell(2), cell(3)),
            columns: cell(4).split('\x1f').map(str::to_owned).collect(),
            on_delete: cell(5) == "t",
            on_update: cell(6) == "t",
        };
        cascades.entry((cell(0), cell(1))).or_default().push(cascade);
    }
    cascades
}

fn read_suspects(rows: &Rows) -> Suspects {
    let of = |kind| {
        let rows = rows.iter().filter(move |row| row[0].as_deref() == Some(kind));
        rows.filter_map(|row| row[1].clone()).collect()
    };
    Suspects { functions: of("f"), relations: of("r") }
}

fn read_functions(rows: &Rows) -> HashMap<String, Vec<Function>> {
    let mut functions: HashMap<String, Vec<Function>> = HashMap::new();
    for row in rows {
        let cell = |i: usize| row[i].as_deref().unwrap_or("");
        let function = Function {
            schema: cell(0).to_owned(),
            kind: match cell(2) {
                "a" => FunctionKind::Aggregate,
                "w" => FunctionKind::Window,
                "p" => FunctionKind::Procedure,
                _ => FunctionKind::Plain,
            },
            volatility: match cell(3) {
                "i" => Volatility::Immutable,
                "s" => Volatility::Stable,
                _ => Volatility::Volatile,
            },
            is_table_free: cell(4) == "t",
            is_strict: cell(5) == "t",
        };
        functions.entry(cell(1).to_owned()).or_default().push(function);
    }
    functions
}

/// Keys that shards can only keep each for itself, a line each: told at start-up and by `check`.
pub async fn unkept_keys(database: &Database) -> Result<Vec<String>, ControlError> {
    let mut lines = Vec::new();
    let Some(catalog) = database.state.catalog.load_full() else { return Ok(lines) };
    let mut sharded: Vec<_> = catalog
        .tables
        .iter()
        .filter_map(|(name, table)| match table.kind {
            TableKind::Sharded { column, .. } => Some((name, table, column)),
            _ => None,
        })
        .collect();
    sharded.sort_by_key(|(name, ..)| *name);
    for ((schema, name), table, tenant) in &sharded {
        let is_global = |key: &Vec<usize>| {
            let own = catalog.global_unique.iter();
            let mut own = own.filter(|it| (&it.schema, &it.table) == (schema, name));
            own.any(|it| it.is_key(table, key))
        };
        let is_local = |key: &&Vec<usize>| !key.contains(tenant) && !is_global(key);
        for key in table.unique_keys.iter().filter(is_local) {
            let names: Vec<&str> = key.iter().map(|i| table.columns[*i].name.as_str()).collect();
            lines.push(format!(
                "{schema}.{name}: unique key ({}) lacks the tenant column: kept per shard only",
                names.join(", ")
            ));
        }
        for column in &table.columns {
            let ColumnDefault::Sequence(sequence) = &column.default else { continue };
            if !catalog.is_shared(sequence.as_ref()) {
                lines.push(format!(
                    "{schema}.{name}.{}: every shard's sequence counts for itself; \
                     pgsluice sequences --repair lets shards share it",
                    column.name
                ));
            }
        }
    }
    let is_sharded = |name: &str| sharded.iter().any(|((s, t), ..)| format!("{s}.{t}") == name);
    let tenant = database.config.tenant_column.as_deref().unwrap_or("");
    for row in database.home().primary.control.rows(FOREIGN_KEYS).await? {
        let cell = |i: usize| row[i].as_deref().unwrap_or("");
        let has_tenant = cell(2).split(',').any(|it| it == tenant);
        if is_sharded(cell(1)) && !(is_sharded(cell(0)) && has_tenant) {
            lines.push(format!(
                "{}: foreign key {} to {} is kept per shard only",
                cell(0),
                cell(3),
                cell(1)
            ));
        }
    }
    Ok(lines)
}
