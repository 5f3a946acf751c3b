//! `pgsluice check` and `pgsluice explain`: the configuration and statements, without serving anybody.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::AppError;
use crate::catalog::Catalog;
use crate::metrics::Metrics;
use crate::plan::planner;
use crate::plan::{Action, Plan};
use crate::pool::cluster::{Cluster, Database};
use crate::pool::{catalog, health};

/// How long a server may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// For people, line by line.
    pub text: String,
    /// What makes the exit code 1.
    pub problems: usize,
}

impl Report {
    pub(super) fn line(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{text}");
    }

    pub(super) fn problem(&mut self, text: impl std::fmt::Display) {
        self.problems += 1;
        self.line(text);
    }
}

/// Checks a configuration: its text, whether every server answers in its role, whether schemas agree.
/// With SQL: what becomes of each statement.
///
/// # Errors
/// Every mistake in the file at once.
pub fn check(path: &Path, sql: Option<&str>) -> Result<Report, AppError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| AppError::Config(format!("{name}: cannot be read: {error}")))?;
    let config = super::parse(&name, &text)?;
    let env = |key: &str| std::env::var(key).ok();
    let read = |path: &str| std::fs::read_to_string(path);
    super::certificate::load(&config)
        .map_err(|error| AppError::Tls { file: name.clone(), error })?;
    let hosts = crate::config::parse_located(&name, &text, &env, &read)
        .map(|(_, hosts)| hosts)
        .unwrap_or_default();
    let metrics = Metrics::new().map_err(|error| AppError::Start(error.to_string()))?;
    runtime()?.block_on(async {
        let cluster = health::settled(Arc::new(config), &metrics, PATIENCE).await;
        let mut report = Report::default();
        report.line(format_args!("{name}: the configuration is valid"));
        let shards = cluster.databases.values().flat_map(|it| it.shards.values());
        for (shard, host) in shards.flat_map(|it| it.hosts().map(move |host| (it, host))) {
            health::check(host, &shard.log, PATIENCE).await;
            if host.health.is_up() {
                continue;
            }
            let problem = host.health.problem.lock().clone();
            let written = hosts.iter().find(|it| it.host == host.address);
            match written {
                Some(written) => report.problem(written.unreachable(&name, problem)),
                None => report.problem(format_args!("{}: {problem}", host.address)),
            }
        }
        for database in cluster.databases.values() {
            for shard in database.shards.values() {
                if let Some(problem) = shard.state.patroni_problem() {
                    let (name, id) = (&database.name, shard.id);
                    report.problem(format_args!("{name}: shard {id}: {problem}"));
                }
            }
            look_at(database, sql, &mut report).await;
        }
        Ok(report)
    })
}

async fn look_at(database: &Database, sql: Option<&str>, report: &mut Report) {
    let name = &database.config.name;
    // Twice: a difference counts if it is seen again.
    for _ in 0..2 {
        if let Err(error) = catalog::refresh(database).await {
            report.problem(format_args!("{name}: the schema cannot be read: {error}"));
            return;
        }
    }
    for line in database.state.drift.load().iter() {
        report.problem(format_args!("{name}: {line}"));
    }
    if database.is_sharded() {
        for (shard, problem) in database.state.no_two_phase.load().iter() {
            report.line(format_args!("{name}: warning: shard {shard}: {problem}: writes over several shards will be refused"));
        }
        for line in catalog::unkept_keys(database).await.unwrap_or_default() {
            report.line(format_args!("{name}: warning: {line}"));
        }
    }
    if let (Some(sql), Some(catalog)) = (sql, database.state.catalog.load_full()) {
        statements(name, sql, &catalog, database, report);
    }
}

fn statements(name: &str, sql: &str, catalog: &Catalog, database: &Database, report: &mut Report) {
    for (range, plan) in plans(sql, catalog, database) {
        let line = 1 + sql[..range.start].matches('\n').count();
        let text: Vec<&str> = sql[range].split_whitespace().collect();
        let (verdict, is_refused) = match &plan.action {
            Action::Refuse(_) => ("refused", true),
            _ => ("ok", false),
        };
        let shown = format!("{name}: line {line}: {verdict}: {}", text.join(" "));
        match is_refused {
            true => report.problem(shown),
            false => report.line(shown),
        }
        for line in plan.to_string().lines() {
            report.line(format_args!("    {line}"));
        }
    }
}

/// Each statement's own plan. The text is split first, as offsets are those of a statement alone.
fn plans(sql: &str, catalog: &Catalog, database: &Database) -> Vec<(std::ops::Range<usize>, Plan)> {
    let session = planner::Session { param_types: &[], search_path: None };
    planner::plan(sql, catalog, database.is_sharded(), &session)
        .into_iter()
        .filter(|(range, _)| !sql[range.clone()].trim().is_empty())
        .flat_map(|(range, _)| {
            let one = planner::plan(&sql[range.clone()], catalog, database.is_sharded(), &session);
            one.into_iter().map(move |(_, plan)| (range.clone(), plan))
        })
        .collect()
}

/// The plan of each statement of `sql`, as `EXPLAIN (SLUICE)` prints it, for every database.
///
/// # Errors
/// If the configuration is wrong or the home shard cannot be reached.
pub fn explain(path: &Path, database: Option<&str>, sql: &str) -> Result<Report, AppError> {
    let config = super::load(path)?;
    let metrics = Metrics::new().map_err(|error| AppError::Start(error.to_string()))?;
    let cluster = Cluster::new(Arc::new(config), None, &metrics);
    runtime()?.block_on(async {
        let mut report = Report::default();
        let wanted = |name: &str| database.is_none_or(|it| it == name);
        if !cluster.databases.keys().any(|it| wanted(it)) {
            report.problem("there is no such database in the configuration");
        }
        for database in cluster.databases.values().filter(|it| wanted(&it.config.name)) {
            let name = &database.config.name;
            if let Err(error) = catalog::refresh(database).await {
                report.problem(format_args!("{name}: the schema cannot be read: {error}"));
                continue;
            }
            let Some(catalog) = database.state.catalog.load_full() else { continue };
            if cluster.databases.len() > 1 {
                report.line(format_args!("{name}:"));
            }
            for (_, plan) in plans(sql, &catalog, database) {
                match plan.action {
                    Action::Refuse(_) => report.problem(&plan),
                    _ => report.line(&plan),
                }
            }
        }
        Ok(report)
    })
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, AppError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| AppError::Start(error.to_string()))
}
