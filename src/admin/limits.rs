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
        "limits.buffer_bytes" => {
            Some(proxy.clients.iter().map(|it| it.activity.backlog.waiting() as usize).sum())
        }
        "limits.statement_bytes" => Some(proxy.prepared.bytes()),
        "limits.plans" => plans().map(|it| it.entries).max(),
        "limits.plan_bytes" => plans().map(|it| it.bytes).max(),
        _ => None,
    }
}
