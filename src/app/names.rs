//! Looks up servers' names again and again: one may mean another server than before.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::net::Moment;
use crate::pool::cluster::{Cluster, Host};
use crate::proxy::Proxy;

/// How often names are looked up of servers that are down, and at most.
const URGENT: Duration = Duration::from_secs(1);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks for ever.
pub(super) async fn look_up(proxy: Arc<Proxy>) {
    let mut looked: HashMap<String, Instant> = HashMap::new();
    loop {
        let cluster = proxy.cluster.load_full();
        let every = cluster.config.pool.dns_ttl;
        let due = due(&cluster, &mut looked, every);
        drop(cluster);
        let mut looks = JoinSet::new();
        for (name, hosts) in due {
            looks.spawn(async move {
                let found = resolve(&name).await;
                hosts.iter().for_each(|host| note(host, &found));
            });
        }
        tokio::time::sleep(URGENT).await;
        while looks.join_next().await.is_some() {}
    }
}

/// The names that are to be looked up now, with their hosts.
fn due(
    cluster: &Cluster,
    looked: &mut HashMap<String, Instant>,
    every: Duration,
) -> BTreeMap<String, Vec<Arc<Host>>> {
    let mut due: BTreeMap<String, Vec<Arc<Host>>> = BTreeMap::new();
    if every.is_zero() {
        return due;
    }
    let awake = cluster.databases.values().filter(|it| !it.state.sleep.is_asleep());
    for host in awake.flat_map(|it| it.hosts()).filter(|it| it.address.has_name()) {
        due.entry(host.address.host.clone()).or_default().push(Arc::clone(host));
    }
    looked.retain(|name, _| due.contains_key(name));
    let now = Instant::now();
    due.retain(|name, hosts| {
        let is_new = hosts.iter().any(|it| it.addresses.now().is_none());
        let pause = match is_new || hosts.iter().any(|it| is_troubled(it)) {
            true => Duration::ZERO,
            false => every,
        };
        let is_due = looked.get(name).is_none_or(|it| now.duration_since(*it) >= pause);
        if is_due {
            looked.insert(name.clone(), now);
        }
        is_due
    });
    due
}

fn is_troubled(host: &Host) -> bool {
    !host.load(Moment::now()).is_up
}

/// Nothing where names cannot be looked up now: all stays as it was.
async fn resolve(name: &str) -> Vec<IpAddr> {
    let looking = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name, 0)));
    let mut found: Vec<IpAddr> = match looking.await {
        Ok(Ok(found)) => found.map(|it| it.ip().to_canonical()).collect(),
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "the name was not found");
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    found.sort();
    found.dedup();
    found
}

fn note(host: &Host, found: &[IpAddr]) {
    if found.is_empty() {
        return;
    }
    let is_first = host.addresses.now().is_none();
    if let Some(addresses) = host.note_addresses(found)
        && !is_first
    {
        let (database, shard) = (&host.database, host.shard.0);
        let address = host.address.to_string();
        tracing::info!(database, shard, address, ?addresses, "the name has other addresses now");
    }
}
