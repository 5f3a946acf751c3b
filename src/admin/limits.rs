//! SHOW LIMITS: every limit with its value, how much of it is used, and how often it was reached.

use super::show::Table;
use crate::config::LIMITS;
use crate::proxy::Proxy;

/// One row per key of [`LIMITS`]. `used` is the fullest user, database, address, pool or cache (of buffers all that wait for
/// clients), and empty where that has no meaning.
pub(super) fn limits(proxy: &Proxy) -> Table {
    proxy.count_evictions();
    let mut table = Table::new(&["limit", "value", "used", "reached"]);
    let shown = crate::config::show(&proxy.cluster.load().config);
    for key in LIMITS {
        let value = shown.iter().find(|(it, ..)| it == key);
        let value = value.map_or("", |(_, value, default)| match value.as_str() {
            "" => default,
            written => written,
        });
        table.row([
            (*key).to_owned(),
            value.to_owned(),
            used(proxy, key).map(|it| it.to_string()).unwrap_or_default(),
            proxy.metrics.limits.of(key).get().to_string(),
        ]);
    }
    table
}

/// One row per server: what proxies that share it have for all, and what this one claims, may have and has.
/// `granted` is empty where the server is not shared.
pub(super) fn budget(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        "server", "proxies", "room", "foreign", "demand", "granted", "open", "waiting", "problem",
    ]);
    let cluster = proxy.cluster.load();
    let mut places: Vec<_> = cluster.quotas.iter().collect();
    places.sort_by_key(|(place, _)| (*place).clone());
    for ((host, port), quota) in places {
        let told = quota.told();
        table.row([
            format!("{host}:{port}"),
            told.proxies.to_string(),
            told.room.to_string(),
            told.foreign.to_string(),
            told.demand.to_string(),
            quota.budget().map(|it| it.to_string()).unwrap_or_default(),
            quota.open().to_string(),
            quota.waiting().to_string(),
            told.problem,
        ]);
    }
    table
}

fn used(proxy: &Proxy, key: &str) -> Option<usize> {
    let seats = proxy.seats.fullest();
    let cluster = proxy.cluster.load();
    let plans = || cluster.databases.values().map(|it| it.state.plans.counts());
    match key {
        "limits.clients" => Some(seats.all),
        "limits.clients_per_user" => Some(seats.user),
        "limits.clients_per_database" => Some(seats.database),
        "limits.clients_per_address" => Some(seats.address),
        "limits.pinned" => {
            let pinned = cluster.databases.values().map(|it| it.state.metrics.pinned.get());
            pinned.max().and_then(|it| usize::try_from(it).ok())
        }
        "pool.size" => {
            let pools = cluster.hosts().flat_map(|host| host.pools());
            pools.map(|pool| pool.state().open).max()
        }
        "pool.host_size" => cluster.quotas.values().map(|it| it.open()).max(),
        "pool.budget" => {
            let shared = cluster.quotas.values().filter(|it| it.budget().is_some());
            shared.map(|it| it.open()).max()
        }
        "limits.buffer_bytes" => {
            Some(proxy.clients.iter().map(|it| it.activity.backlog.waiting() as usize).sum())
        }
        "limits.statement_bytes" => Some(proxy.prepared.bytes()),
        "limits.plans" => plans().map(|it| it.entries).max(),
        "limits.plan_bytes" => plans().map(|it| it.bytes).max(),
        _ => None,
    }
}
