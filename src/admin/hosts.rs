//! SHOW HOSTS: how each server does, by what reads are shared among replicas.

use super::show::{Table, each_host};
use crate::net::Moment;
use crate::pool::cluster::{Database, Host};
use crate::proxy::Proxy;

pub(super) fn hosts(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        "database",
        "shard",
        "role",
        "host",
        "state",
        "breaker",
        "latency_ms",
        "weight",
        "share",
        "region",
        "in_use",
        "failures",
        "named_by",
    ]);
    let now = Moment::now();
    each_host(proxy, |database, host| {
        let shown = host.standing.show(now);
        table.row([
            database.config.name.clone(),
            host.shard.to_string(),
            host.role().into(),
            host.address.to_string(),
            match (database.state.sleep.is_asleep(), host.health.is_up()) {
                (true, _) => "asleep",
                (false, true) => "up",
                (false, false) => "down",
            }
            .into(),
            shown.breaker.into(),
            format!("{:.3}", shown.latency_ms),
            shown.weight.to_string(),
            format!("{}%", shown.share),
            region(database, host),
            host.outstanding().to_string(),
            shown.failures.to_string(),
            if has_joined(database, host) { "patroni" } else { "configuration" }.into(),
        ]);
    });
    table
}

fn has_joined(database: &Database, host: &Host) -> bool {
    database.shards.get(&host.shard).is_some_and(|it| it.state.has_joined(&host.address))
}

fn region(database: &Database, host: &Host) -> String {
    let shard = database.config.shards.iter().find(|it| it.id == host.shard);
    shard.and_then(|it| it.preference(&host.address).region).unwrap_or_default()
}
