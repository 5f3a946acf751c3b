//! Looks now and then at what sessions do, and ends what takes too long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::pool::cluster::Cluster;
use crate::proxy::{Allowed, Proxy};

/// How often sessions are looked at: a tenth of the shortest timeout, within these bounds.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(2);

/// Sweeps for ever; sleeps as long as nothing is limited.
pub(super) async fn sweep(proxy: Arc<Proxy>) {
    let start = Instant::now();
    loop {
        let cluster = proxy.cluster.load_full();
        let tick = tick(&cluster.config);
        if tick.is_some() {
            look(&proxy, &cluster, start.elapsed().as_millis() as u64);
            end_waits(&cluster);
        }
        drop(cluster);
        tokio::time::sleep(tick.unwrap_or(LONGEST)).await;
    }
}

/// Ends waits for servers that take too long.
fn end_waits(cluster: &Cluster) {
    cluster.hosts().flat_map(|it| it.pools()).for_each(|it| it.expire());
}

fn look(proxy: &Proxy, cluster: &Cluster, at: u64) {
    for handle in &proxy.clients {
        // The console has no database.
        let Some(database) = cluster.databases.get(&*handle.database) else { continue };
        let limits = &cluster.config.limits;
        let timeouts = database.config.timeouts.or(&limits.timeouts);
        let allowed = Allowed { timeouts, write: limits.write_timeout };
        handle.sweep(at, &allowed, &database.config, &proxy.metrics.limits);
    }
}

fn tick(config: &Config) -> Option<Duration> {
    let limits = &config.limits;
    let own = config.databases.iter().map(|it| it.timeouts.or(&limits.timeouts));
    let each = own.flat_map(|it| [it.query, it.transaction, it.idle_transaction, it.client_idle]);
    let shortest = each
        .chain([limits.write_timeout, config.pool.wait_timeout])
        .filter(|it| !it.is_zero())
        .min()?;
    Some((shortest / 10).clamp(SHORTEST, LONGEST))
}
