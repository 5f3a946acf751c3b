//! SHOW: tables of text, from the same numbers as /metrics.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;

use crate::auth::delay;
use crate::exec::two_phase::Gid;
use crate::pool::cluster::{Database, Host};
use crate::proxy::Proxy;
use crate::wire::backend;

/// A SHOW command.
pub(super) struct Show {
    pub(super) name: &'static str,
    pub(super) make: fn(&Proxy) -> Table,
}

/// Every SHOW command.
pub(super) const SHOWS: &[Show] = &[
    Show { name: "POOLS", make: pools },
    Show { name: "CLIENTS", make: clients },
    Show { name: "SERVERS", make: servers },
    Show { name: "SHARDS", make: shards },
    Show { name: "HOSTS", make: super::hosts::hosts },
    Show { name: "DATABASES", make: databases },
    Show { name: "LISTENERS", make: listeners },
    Show { name: "TRANSACTIONS", make: transactions },
    Show { name: "STATS", make: stats },
    Show { name: "LIMITS", make: super::limits::limits },
    Show { name: "BUDGET", make: super::limits::budget },
    Show { name: "LOGINS", make: logins },
    Show { name: "FLEET", make: super::fleet::fleet },
    Show { name: "CONFIG", make: config },
    Show { name: "PLANS", make: plans },
    Show { name: "PREPARED", make: super::prepared::prepared },
    Show { name: "VERSION", make: version },
    Show { name: "HELP", make: help },
];

/// Columns and rows of text; `None` is NULL.
pub(super) struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<Option<String>>>,
}

impl Table {
    pub(super) fn new(columns: &'static [&'static str]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(Some).collect());
    }

    /// Appends RowDescription and rows.
    pub(super) fn write(&self, out: &mut BytesMut) {
        backend::row_description(out, self.columns);
        for row in &self.rows {
            backend::data_row(out, row);
        }
    }
}

fn each_database(proxy: &Proxy, mut visit: impl FnMut(&Database)) {
    let cluster = proxy.cluster.load();
    let mut names: Vec<_> = cluster.databases.keys().collect();
    names.sort();
    names.into_iter().for_each(|name| visit(&cluster.databases[name]));
}

pub(super) fn each_host(proxy: &Proxy, mut visit: impl FnMut(&Database, &Host)) {
    each_database(proxy, |database| database.hosts().for_each(|host| visit(database, host)));
}

fn pools(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        "database",
        "user",
        "shard",
        "role",
        "host",
        "size",
        "open",
        "idle",
        "in_use",
        "cleaning",
        "waiting",
        "leases",
        "waits",
        "timeouts",
        "wait_ms_avg",
        "paused",
    ]);
    each_host(proxy, |database, host| {
        for pool in host.pools() {
            let (state, numbers) = (pool.state(), &pool.numbers);
            let waits = numbers.waits.load(Relaxed);
            let average = numbers.wait_us.load(Relaxed) as f64 / 1000.0 / waits.max(1) as f64;
            table.row([
                database.config.name.clone(),
                pool.target.client_user.clone(),
                host.shard.to_string(),
                host.role().into(),
                host.address.to_string(),
                pool.limits.load().size.to_string(),
                state.open.to_string(),
                state.idle.to_string(),
                numbers.outstanding.load(Relaxed).to_string(),
                numbers.cleaning.load(Relaxed).to_string(),
                state.waiting.to_string(),
                numbers.leases.load(Relaxed).to_string(),
                waits.to_string(),
                numbers.timeouts.load(Relaxed).to_string(),
                format!("{average:.3}"),
                state.is_paused.to_string(),
            ]);
        }
    });
    table
}

fn clients(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        "pid",
        "database",
        "user",
        "address",
        "tls",
        "application",
        "tenant",
        "in_transaction",
        "servers",
        "pinned",
        "connected_s",
        "thread",
    ]);
    let mut handles: Vec<_> = proxy.clients.iter().map(|it| std::sync::Arc::clone(&it)).collect();
    handles.sort_by_key(|it| it.pid);
    for handle in handles {
        let state = handle.state.lock().clone();
        table.rows.push(vec![
            Some(handle.pid.to_string()),
            Some(handle.database.to_string()),
            Some(handle.user.to_string()),
            Some(handle.peer.to_string()),
            Some(handle.is_tls.to_string()),
            Some(state.application.into()),
            state.tenant,
            Some(state.in_transaction.to_string()),
            Some(handle.servers.lock().len().to_string()),
            state.pin.map(str::to_owned),
            Some(handle.connected.elapsed().as_secs().to_string()),
            Some(handle.thread.to_string()),
        ]);
    }
    table
}

fn servers(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        "database",
        "user",
        "shard",
        "role",
        "host",
        "server_pid",
        "state",
        "client_pid",
        "age_s",
        "idle_s",
        "prepared",
    ]);
    let seconds = |it: Duration| it.as_secs().to_string();
    each_host(proxy, |database, host| {
        for pool in host.pools() {
            let idle = pool.idle_servers(|server| {
                [
                    server.cancel.process.to_string(),
                    seconds(server.created.elapsed()),
                    seconds(server.used.elapsed()),
                    server.statements.len().to_string(),
                ]
            });
            for [process, age, idle, prepared] in idle {
                table.row([
                    database.config.name.clone(),
                    pool.target.client_user.clone(),
                    host.shard.to_string(),
                    host.role().into(),
                    host.address.to_string(),
                    process,
                    "idle".into(),
                    String::new(),
                    age,
                    idle,
                    prepared,
                ]);
            }
        }
        for client in proxy.clients.iter().filter(|it| *it.database == *database.config.name) {
            let here = |it: &&std::sync::Arc<crate::server::CancelKey>| {
                it.host.host == host.address.host && it.host.port == host.address.port
            };
            for server in client.servers.lock().iter().filter(here) {
                table.row([
                    database.config.name.clone(),
                    client.user.to_string(),
                    host.shard.to_string(),
                    host.role().into(),
                    host.address.to_string(),
                    server.process.to_string(),
                    "in use".into(),
                    client.pid.to_string(),
                    String::new(),
                    String::new(),
                    String::new(),
                ]);
            }
        }
    });
    table
}

fn shards(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        "database",
        "shard",
        "ranges",
        "role",
        "host",
        "up",
        "lag_ms",
        "lag_bytes",
        "in_use",
        "problem",
    ]);
    each_host(proxy, |database, host| {
        let replayed = Some(&host.replayed).filter(|_| !host.is_primary);
        let lag = replayed.and_then(|it| it.lag()).map(|it| it.as_millis().to_string());
        let lag_bytes = replayed.and_then(|it| it.lag_bytes()).map(|it| it.to_string());
        let shard = database.shards.get(&host.shard);
        let fenced = shard.and_then(|it| it.why_fenced(host));
        let is_paused = host.is_primary && shard.is_some_and(|it| it.state.is_paused());
        let mut problems: Vec<String> = fenced.iter().map(ToString::to_string).collect();
        problems.extend(is_paused.then(|| "paused".to_owned()));
        problems.push(host.health.problem.lock().clone());
        if host.is_primary {
            problems.extend(shard.and_then(|it| it.state.patroni_problem()));
            problems.extend(database.state.no_two_phase.load().get(&host.shard).cloned());
            let prefix = format!("shard {}: ", host.shard);
            let drift = database.state.drift.load();
            problems.extend(drift.iter().filter_map(|it| it.strip_prefix(&prefix)).map(Into::into));
        }
        problems.retain(|it| !it.is_empty());
        table.row([
            database.config.name.clone(),
            host.shard.to_string(),
            ranges(database, host),
            if fenced.is_some() { "fenced" } else { host.role() }.into(),
            host.address.to_string(),
            host.health.is_up().to_string(),
            lag.unwrap_or_default(),
            lag_bytes.unwrap_or_default(),
            host.outstanding().to_string(),
            problems.join("; "),
        ]);
    });
    table
}

/// The bucket ranges of a host's shard, such as `0-63`.
fn ranges(database: &Database, host: &Host) -> String {
    let mut found: Vec<(u8, u8)> = Vec::new();
    for bucket in 0..=255 {
        if database.map().bucket_owner(bucket) != host.shard {
            continue;
        }
        match found.last_mut() {
            Some((_, last)) if *last + 1 == bucket => *last = bucket,
            _ => found.push((bucket, bucket)),
        }
    }
    found.iter().map(|(a, b)| format!("{a}-{b}")).collect::<Vec<_>>().join(", ")
}

fn databases(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        "database",
        "mode",
        "shards",
        "home_shard",
        "tenant_column",
        "tables",
        "sharded",
        "reference",
        "plans",
        "paused",
    ]);
    each_database(proxy, |database| {
        let catalog = database.state.catalog.load();
        let kinds = |wanted: fn(&TableKind) -> bool| {
            let count = catalog
                .as_ref()
                .map_or(0, |it| it.tables.values().filter(|table| wanted(&table.kind)).count());
            count.to_string()
        };
        use crate::catalog::TableKind;
        table.row([
            database.config.name.clone(),
            format!("{:?}", database.mode).to_lowercase(),
            database.shards.len().to_string(),
            database.config.home_shard.to_string(),
            database.config.tenant_column.clone().unwrap_or_default(),
            kinds(|it| !matches!(it, TableKind::System | TableKind::View(_))),
            kinds(|it| matches!(it, TableKind::Sharded { .. })),
            kinds(|it| matches!(it, TableKind::Reference)),
            database.state.plans.counts().entries.to_string(),
            database.state.is_paused.load(Relaxed).to_string(),
        ]);
    });
    table
}

fn listeners(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        "database",
        "channel",
        "client_pid",
        "state",
        "waiting",
        "delivered",
        "missed",
    ]);
    each_database(proxy, |database| {
        for listener in database.state.listen.listeners() {
            let (delivered, missed) = listener.inbox.counts();
            table.row([
                database.config.name.clone(),
                listener.channel.to_string(),
                listener.inbox.pid.to_string(),
                if listener.is_up { "listening".into() } else { "reconnecting".into() },
                listener.inbox.waiting().to_string(),
                delivered.to_string(),
                missed.to_string(),
            ]);
        }
    });
    table
}

/// Those over several shards that stand prepared: their coordinator is about to end them, or recovery.
fn transactions(proxy: &Proxy) -> Table {
    let mut table =
        Table::new(&["database", "gid", "shard", "deciding_shard", "seen_s", "problem"]);
    each_database(proxy, |database| {
        for ((shard, name), it) in database.state.in_doubt.all() {
            let deciding = name.parse::<Gid>().map(|it| it.deciding.to_string());
            table.row([
                database.config.name.clone(),
                name,
                shard.to_string(),
                deciding.unwrap_or_default(),
                it.since.elapsed().as_secs().to_string(),
                it.problem,
            ]);
        }
    });
    table
}

fn stats(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        "database",
        "queries",
        "transactions",
        "two_phase_commits",
        "refused",
        "errors",
        "plan_hits",
        "plan_misses",
        "clients",
        "uptime_s",
    ]);
    each_database(proxy, |database| {
        let (metrics, plans) = (&database.state.metrics, database.state.plans.counts());
        let clients = proxy.clients.iter().filter(|it| *it.database == *database.config.name);
        table.row([
            database.config.name.clone(),
            metrics.queries.get().to_string(),
            metrics.transactions.get().to_string(),
            metrics.two_phase.get().to_string(),
            metrics.refused.get().to_string(),
            metrics.errors.get().to_string(),
            plans.hits.to_string(),
            plans.misses.to_string(),
            clients.count().to_string(),
            proxy.started.elapsed().as_secs().to_string(),
        ]);
    });
    table
}

/// Addresses that failed to log in, the worst first.
fn logins(proxy: &Proxy) -> Table {
    let columns = &["address", "failed", "failed_lately", "held", "delay_ms", "last_s"];
    let mut table = Table::new(columns);
    let longest = proxy.cluster.load().config.limits.login_delay;
    for (source, count) in proxy.failed_logins.worst() {
        let since = count.last.elapsed();
        let lately = if since < delay::MEMORY { count.recent } else { 0 };
        table.row([
            source.to_string(),
            count.total.to_string(),
            lately.to_string(),
            count.held.to_string(),
            delay::of(lately + 1, longest).as_millis().to_string(),
            since.as_secs().to_string(),
        ]);
    }
    table
}

fn config(proxy: &Proxy) -> Table {
    let mut table = Table::new(&["key", "value", "default"]);
    for (key, value, default) in crate::config::show(&proxy.cluster.load().config) {
        table.row([key, value, default]);
    }
    table
}

fn plans(proxy: &Proxy) -> Table {
    let mut table = Table::new(&["database", "hits", "statement", "plan"]);
    each_database(proxy, |database| {
        for entry in database.state.plans.entries() {
            table.row([
                database.config.name.clone(),
                entry.hits.to_string(),
                entry.text,
                entry.plan.to_string(),
            ]);
        }
    });
    table
}

fn version(_: &Proxy) -> Table {
    let mut table = Table::new(&["version"]);
    table.row([concat!("pgsluice ", env!("CARGO_PKG_VERSION")).into()]);
    table
}

fn help(_: &Proxy) -> Table {
    let mut table = Table::new(&["command"]);
    for show in SHOWS {
        table.row([format!("SHOW {}", show.name)]);
    }
    for other in ["RELOAD [FORCE]", "PAUSE [database]", "RESUME [database]", "KILL pid"] {
        table.row([other.into()]);
    }
    table
}
