//! `pgsluice sequences`: what sharded tables' sequences are like on the shards, and setting them up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::AppError;
use super::check::{PATIENCE, Report, runtime};
use crate::catalog::sequence::{Counter, Name, Series};
use crate::metrics::Metrics;
use crate::pool::cluster::Database;
use crate::pool::control::{ControlError, Held};
use crate::pool::health;
use crate::pool::sequences::{self, Of, ShareError, Sharing, Use, shown};
use crate::shard::ShardId;
use crate::sql::name::quoted;

/// What a transaction of the repair begins with: whoever took a number and is still in a transaction
/// holds it up.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '5s'";

/// Tells of each sequence that a sharded table uses whether shards share it; with `repair` makes them.
/// Those that are not shared in the end are problems.
///
/// # Errors
/// Every mistake in the file at once.
pub fn sequences(path: &Path, only: Option<&str>, repair: bool) -> Result<Report, AppError> {
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
            if let Err(error) = of_database(database, repair, &mut report).await {
                report.problem(format_args!("{name}: {error}"));
            }
        }
        Ok(report)
    })
}

async fn of_database(
    database: &Database,
    repair: bool,
    report: &mut Report,
) -> Result<(), ControlError> {
    let mut home = &database.home().primary.control;
    let uses = sequences::uses(&mut home, &database.config, Of::All).await?;
    let names: BTreeSet<&Name> = uses.iter().map(|it| &it.sequence).collect();
    for name in names {
        let of = format!("{}: {}", database.config.name, shown(name));
        let (mut series, shards) = look(database, name).await?;
        let mut done = "";
        if series.is_none() && repair {
            let own: Vec<&Use> = uses.iter().filter(|it| it.sequence == *name).collect();
            let guessed = Series::guessed(&shards);
            match set_up(database, name, guessed, &own).await {
                Ok(()) => (series, done) = (look(database, name).await?.0, "set up, "),
                Err(error) => {
                    report.problem(format_args!("{of}: not set up: {error}"));
                    continue;
                }
            }
        }
        match series {
            Some(it) => report.line(format_args!(
                "{of}: {done}shared: from {} in steps of {}, of {} numbers each shard gives one",
                it.first, it.step, it.stride
            )),
            None => report.problem(format_args!("{of}: not shared: {}", told(&shards))),
        }
    }
    Ok(())
}

fn told(shards: &BTreeMap<ShardId, Counter>) -> String {
    let one = |(shard, it): (&ShardId, &Counter)| {
        let place = it.place.map_or_else(|| "?".to_owned(), |it| it.last.to_string());
        format!("shard {shard} START {} INCREMENT {} stands at {place}", it.start, it.increment)
    };
    shards.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The sequence as every shard has it, and the series it is a part of.
async fn look(
    database: &Database,
    name: &Name,
) -> Result<(Option<Series>, BTreeMap<ShardId, Counter>), ControlError> {
    let mut found = BTreeMap::new();
    for shard in database.shards.values() {
        let counter = sequences::one_counter(&mut &shard.primary.control, name).await?;
        found.extend(counter.map(|it| (shard.id, it)));
    }
    let is_whole = found.len() == database.shards.len();
    Ok((Series::of(&found).filter(|_| is_whole), found))
}

/// Sets a sequence up on all shards, beyond what any shard has given and any row holds. No two-phase
/// commit: what is half done is not shared, and done again by the next run.
async fn set_up(
    database: &Database,
    name: &Name,
    guessed: Option<Series>,
    uses: &[&Use],
) -> Result<(), ShareError> {
    let stride = database.config.sequence_stride;
    let mut servers = BTreeMap::new();
    for shard in database.shards.values() {
        let mut held = shard.primary.control.hold().await?;
        held.run(BEGIN).await?;
        servers.insert(shard.id, held);
    }
    let given = guessed.map(|it| Series { stride, ..it });
    let sharing = Sharing { known: None, stride, is_fresh: false, given };
    sequences::share(&mut servers, name, sharing, async |held: &mut Held| used(held, uses).await)
        .await?;
    for held in servers.values_mut() {
        held.run("COMMIT").await?;
    }
    Ok(())
}

/// The lowest and the highest number in the columns of a shard.
async fn used(held: &mut Held, uses: &[&Use]) -> Result<Vec<i64>, ControlError> {
    let mut found = Vec::new();
    for it in uses {
        if !["smallint", "integer", "bigint"].contains(&it.column_type.as_str()) {
            continue;
        }
        let column = quoted(&it.column);
        let sql =
            format!("SELECT min({column})::int8, max({column})::int8 FROM {}", shown(&it.table));
        let cells = held.run(&sql).await?.into_iter().flatten().flatten();
        found.extend(cells.filter_map(|it| it.parse::<i64>().ok()));
    }
    Ok(found)
}
