//! Hot reload: on SIGHUP, when the file changes (also through a symlink), and by RELOAD.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::certificate::Seen;
use crate::catalog::TableKind;
use crate::catalog::sequence::Counters;
use crate::pool::catalog;
use crate::pool::cluster::{Cluster, Database};
use crate::proxy::{Proxy, ReloadRequest};
use crate::shard::{Key, KeyType, Map, ShardId};
use crate::sql::name::quoted_text;

/// How often the file is looked at. Its content counts, so that symlinks and copies are seen alike.
const LOOK: Duration = Duration::from_secs(1);

/// Reloads whenever there is reason to, until the task is dropped.
pub(super) async fn watch(
    proxy: Arc<Proxy>,
    path: PathBuf,
    force: bool,
    mut requests: mpsc::Receiver<ReloadRequest>,
) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut seen = read(&path).await.ok();
    let mut certificate = Seen::now(&proxy).await;
    loop {
        let hangups = async {
            match &mut hangup {
                Some(signal) => drop(signal.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {
                let now = read(&path).await.ok();
                // A file that is missing for a moment is being replaced.
                if now.is_none() || now == seen {
                    certificate.follow(&proxy).await;
                    continue;
                }
                seen = now;
                certificate = Seen::now(&proxy).await;
                tell(reload(&proxy, &path, force).await);
            }
            () = hangups => {
                seen = read(&path).await.ok();
                certificate = Seen::now(&proxy).await;
                tell(reload(&proxy, &path, force).await);
            }
            Some(request) = requests.recv() => {
                seen = read(&path).await.ok();
                certificate = Seen::now(&proxy).await;
                if request.force {
                    forget_roles(&proxy);
                }
                let outcome = reload(&proxy, &path, force || request.force).await;
                let _ = request.done.send(outcome.clone());
                tell(outcome);
            }
        }
    }
}

/// RELOAD FORCE: who was fenced may be used again, if it may as seen now.
fn forget_roles(proxy: &Proxy) {
    let cluster = proxy.cluster.load();
    let shards = cluster.databases.values().flat_map(|it| it.shards.values());
    shards.for_each(|it| it.state.forget());
}

async fn read(path: &PathBuf) -> std::io::Result<String> {
    tokio::fs::read_to_string(path).await
}

fn tell(outcome: Result<String, String>) {
    match outcome {
        Ok(summary) => tracing::info!("configuration reloaded: {summary}"),
        Err(problems) => {
            tracing::error!("configuration not reloaded, nothing has changed:\n{problems}");
        }
    }
}

/// Puts the file's configuration in force; a summary, or why nothing was changed.
async fn reload(proxy: &Arc<Proxy>, path: &PathBuf, force: bool) -> Result<String, String> {
    let done = try_reload(proxy, path, force).await;
    let outcome = if done.is_ok() { "ok" } else { "failed" };
    proxy.metrics.reloads.with_label_values(&[outcome]).inc();
    done
}

async fn try_reload(proxy: &Arc<Proxy>, path: &PathBuf, force: bool) -> Result<String, String> {
    let text = read(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
    let config =
        super::parse(&path.display().to_string(), &text).map_err(|error| error.to_string())?;
    let acceptor = super::certificate::load(&config)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let old = proxy.cluster.load_full();
    if config == *old.config {
        proxy.tls.store(acceptor);
        return Ok("no difference".into());
    }
    let mut notes = Vec::new();
    if config.listen.address != old.config.listen.address
        || config.listen.http != old.config.listen.http
        || config.listen.threads != old.config.listen.threads
        || config.listen.unix_socket_dir != old.config.listen.unix_socket_dir
        || config.listen.unix_socket_mode != old.config.listen.unix_socket_mode
    {
        notes.push("[listen] takes effect at the next start, but for TLS".to_owned());
    }
    if config.redis != old.config.redis {
        notes.push("[redis] takes effect at the next start".to_owned());
    }
    let config = Arc::new(config);
    let new = Cluster::new(Arc::clone(&config), Some(&old), &proxy.metrics);
    if !force {
        let hidden = hidden_rows(&old, &new).await;
        let hidden = hidden.and_then(|it| if it.is_empty() { Ok(()) } else { Err(it.join("\n")) });
        if let Err(why) = hidden {
            // Hosts go by the configuration in force again.
            proxy.renew();
            return Err(why);
        }
    }
    proxy.tls.store(acceptor);
    let (old, new) = proxy.install(&config);
    for (name, database) in &new.databases {
        // Sequences are shared by certain shards: what was found of others does not hold for these.
        if old.databases.get(name).is_some_and(|it| primaries(it) != primaries(database)) {
            database.state.forget_catalog();
            database.state.counters.lock().clear();
        }
        database.state.wanted.notify_one();
    }
    notes.insert(0, format!("{} databases", new.databases.len()));
    Ok(notes.join("; "))
}

/// Every shard's id and primary.
fn primaries(database: &Database) -> Vec<(ShardId, &crate::config::Host)> {
    database.config.shards.iter().map(|it| (it.id, &it.primary)).collect()
}

/// Rows that a new map would hide: those of buckets and tenants that change hands and are still where
/// they were. A line per table.
async fn hidden_rows(old: &Cluster, new: &Cluster) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for (name, after) in &new.databases {
        let Some(before) = old.databases.get(name) else { continue };
        if before.map() != after.map() && after.is_sharded() {
            lines.extend(of_database(before, after).await?);
        }
    }
    Ok(lines)
}

async fn of_database(before: &Database, after: &Database) -> Result<Vec<String>, String> {
    let (name, map) = (&before.config.name, after.map());
    // By the new configuration, which may be the first to name a tenant column.
    let control = &before.home().primary.control;
    let catalog =
        catalog::read(control, &after.config, Counters::new()).await.map_err(|error| {
            format!("{name}: the schema cannot be read, so that rows cannot be looked for: {error}")
        })?;
    let mut tables: Vec<_> = catalog.tables.iter().collect();
    tables.sort_by_key(|(name, _)| *name);
    let mut lines = Vec::new();
    for ((schema, table), it) in tables {
        let TableKind::Sharded { column, key } = it.kind else { continue };
        let column = &it.columns[column].name;
        for shard in before.shards.values() {
            let Some(condition) = leaving(before.map(), map, shard.id, column, key) else {
                continue;
            };
            let sql = format!(
                "SELECT count(*) FROM {}.{} WHERE {condition}",
                quote_name(schema),
                quote_name(table)
            );
            let rows = shard.primary.control.rows(&sql).await.map_err(|error| {
                format!("{name}: rows of {table} on shard {} cannot be counted: {error}", shard.id)
            })?;
            let count = rows.first().and_then(|row| row[0].clone()).unwrap_or_default();
            if count != "0" {
                lines.push(format!(
                    "{name}: shard {} still holds {count} rows of {schema}.{table} that the new map \
                     gives to other shards and would hide; move them first, or reload with FORCE",
                    shard.id
                ));
            }
        }
    }
    lines.extend(hidden_values(before, map).await?);
    Ok(lines)
}

/// Values of keys over shards that are kept where the new map does not look for them.
async fn hidden_values(before: &Database, map: &Map) -> Result<Vec<String>, String> {
    let (name, mut lines) = (&before.config.name, Vec::new());
    if before.config.global_unique.is_empty() {
        return Ok(lines);
    }
    for shard in before.shards.values() {
        let buckets = leaving_buckets(before.map(), map, shard.id);
        if buckets.is_empty() {
            continue;
        }
        let sql = format!(
            "SELECT count(*) FROM sluice.unique_row \
             WHERE get_byte(decode(md5(value), 'hex'), 0) IN ({})",
            buckets.join(", ")
        );
        let rows = shard.primary.control.rows(&sql).await.map_err(|error| {
            format!("{name}: unique keys on shard {} cannot be counted: {error}", shard.id)
        })?;
        let count = rows.first().and_then(|row| row[0].clone()).unwrap_or_default();
        if count != "0" {
            lines.push(format!(
                "{name}: shard {} still keeps {count} values of global_unique that the new map gives \
                 to other shards; reload with FORCE and run pgsluice unique --repair at once",
                shard.id
            ));
        }
    }
    Ok(lines)
}

/// The buckets that leave a shard.
fn leaving_buckets(old: &Map, new: &Map, shard: ShardId) -> Vec<String> {
    let goes =
        |bucket: &u8| old.bucket_owner(*bucket) == shard && new.bucket_owner(*bucket) != shard;
    (0..=255).filter(goes).map(|it: u8| it.to_string()).collect()
}

/// The condition for rows of tenants that leave a shard; `None` if none does.
fn leaving(old: &Map, new: &Map, shard: ShardId, column: &str, kind: KeyType) -> Option<String> {
    let buckets = leaving_buckets(old, new, shard);
    let column = quote_name(column);
    let named = old.overrides().keys().chain(new.overrides().keys());
    let keys: std::collections::BTreeSet<&str> = named.map(|it| &**it).collect();
    let (mut leave, mut exempt) = (Vec::new(), Vec::new());
    for text in keys {
        exempt.push(quoted_text(text));
        let Ok(key) = Key::from_text(kind, text) else { continue };
        if old.owner(&key) == shard && new.owner(&key) != shard {
            leave.push(quoted_text(text));
        }
    }
    let mut conditions = Vec::new();
    if !buckets.is_empty() {
        let bucket = format!("get_byte(decode(md5({column}::text), 'hex'), 0)");
        let mut condition = format!("{bucket} IN ({})", buckets.join(", "));
        if !exempt.is_empty() {
            condition = format!("({condition} AND {column}::text NOT IN ({}))", exempt.join(", "));
        }
        conditions.push(condition);
    }
    if !leave.is_empty() {
        conditions.push(format!("{column}::text IN ({})", leave.join(", ")));
    }
    (!conditions.is_empty()).then(|| conditions.join(" OR "))
}

fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn only_what_changes_hands_is_looked_for() {
        let map = |end: u8, overrides: &[(&str, u8)]| {
            let ranges = [(0..=end, ShardId(0)), (end + 1..=255, ShardId(1))];
            let overrides = overrides.iter().map(|(k, v)| ((*k).into(), ShardId(*v)));
            Map::new(&ranges, overrides.collect::<BTreeMap<_, _>>()).unwrap()
        };
        let of = |old: &Map, new: &Map, shard| {
            leaving(old, new, ShardId(shard), "tenant_id", KeyType::Text)
        };
        assert_eq!(of(&map(127, &[]), &map(127, &[]), 0), None);
        assert_eq!(of(&map(127, &[]), &map(128, &[]), 0), None);
        assert_eq!(
            of(&map(127, &[]), &map(125, &[]), 0).unwrap(),
            "get_byte(decode(md5(\"tenant_id\"::text), 'hex'), 0) IN (126, 127)"
        );
        // md5('acme') begins with 0x53: shard 0.
        assert_eq!(
            of(&map(127, &[]), &map(127, &[("acme", 1)]), 0).unwrap(),
            "\"tenant_id\"::text IN ('acme')"
        );
    }
}
