//! `pgsluice unique`: whether shards keep the keys of `global_unique` together, and setting them up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::AppError;
use super::check::{PATIENCE, Report, runtime};
use crate::catalog::unique::GlobalKey;
use crate::metrics::Metrics;
use crate::pool::cluster::Database;
use crate::pool::control::{ControlError, Held};
use crate::pool::health;
use crate::pool::unique::{self, Found, KeepError, State};
use crate::shard::ShardId;

/// What a transaction begins with: whoever writes a table and is still in a transaction holds it up.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '5s'";

/// Tells of each key whether shards keep it; with `repair` makes them. Those that are not kept in the end
/// are problems.
///
/// # Errors
/// Every mistake in the file at once.
pub fn unique(path: &Path, only: Option<&str>, repair: bool) -> Result<Report, AppError> {
    let config = super::load(path)?;
    let metrics = Metrics::new().map_err(|error| AppError::Start(error.to_string()))?;
    runtime()?.block_on(async {
        let cluster = health::settled(Arc::new(config), &metrics, PATIENCE).await;
        let mut report = Report::default();
        for database in cluster.databases.values() {
            let name = &database.config.name;
            if only.is_some_and(|it| it != name) || !database.is_sharded() {
                continue;
            }
            for key in &database.config.global_unique {
                match of_key(database, key, repair).await {
                    Ok(Told::Well(line)) => report.line(format_args!("{name}: {key}: {line}")),
                    Ok(Told::Badly(line)) => report.problem(format_args!("{name}: {key}: {line}")),
                    Err(error) => report.problem(format_args!("{name}: {key}: not kept: {error}")),
                }
            }
        }
        Ok(report)
    })
}

/// What is said of a key.
enum Told {
    Well(String),
    Badly(String),
}

async fn of_key(database: &Database, key: &GlobalKey, repair: bool) -> Result<Told, KeepError> {
    let Some(tenant) = &database.config.tenant_column else {
        return Ok(Told::Badly("there is no tenant_column".to_owned()));
    };
    let map = database.map();
    let mut servers = hold(database).await?;
    let state = unique::state(&mut servers, key, tenant).await?;
    let found = match state {
        State::Kept => Some(unique::verify(&mut servers, map, key, tenant).await?),
        _ => None,
    };
    let is_well = match (state, found) {
        (State::None, _) => return Ok(Told::Well("no table has such a unique key".to_owned())),
        (_, Some(found)) => found.missing == 0 && found.extra == 0,
        _ => false,
    };
    if is_well {
        return Ok(Told::Well(format!("kept, of {} rows", found.unwrap_or_default().rows)));
    }
    if !repair {
        return Ok(Told::Badly(match (state, found) {
            (State::Stale, _) => {
                "no table has such a unique key, but something is left of it".to_owned()
            }
            (_, Some(found)) => format!("not kept: {}", differences(&found)),
            _ => "not kept: a shard lacks what keeps it".to_owned(),
        }));
    }
    unique::keep(&mut servers, map, key, tenant, true).await?;
    for server in servers.values_mut() {
        server.run("COMMIT").await?;
    }
    Ok(Told::Well(match state {
        State::Stale => "what was left of it is gone".to_owned(),
        _ => "set up".to_owned(),
    }))
}

fn differences(found: &Found) -> String {
    format!(
        "of {} rows {} values are not noted for their tenants, {} values are noted that no row has",
        found.rows, found.missing, found.extra
    )
}

/// A connection to every shard, in a transaction.
async fn hold(database: &Database) -> Result<BTreeMap<ShardId, Held>, ControlError> {
    let mut servers = BTreeMap::new();
    for shard in database.shards.values() {
        if !unique::make(&shard.primary.control).await {
            let why = "what keeps keys could not be made there";
            return Err(ControlError(format!("shard {}: {why}", shard.id)));
        }
        let mut held = shard.primary.control.hold().await?;
        held.run(BEGIN).await?;
        servers.insert(shard.id, held);
    }
    Ok(servers)
}
