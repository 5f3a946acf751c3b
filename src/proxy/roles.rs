//! Snapshots take each other's place: with another configuration, or with other roles.

use std::sync::Arc;

use super::Proxy;
use crate::config::Config;
use crate::pool::Pool;
use crate::pool::cluster::{Cluster, Host, Shard};
use crate::pool::sleep;

impl Proxy {
    /// Puts a configuration in force, with the roles that are known now. Gives the old snapshot and the
    /// new one.
    pub fn install(&self, config: &Arc<Config>) -> (Arc<Cluster>, Arc<Cluster>) {
        self.replace(|_| Arc::clone(config))
    }

    /// Wakes a database that sleeps.
    pub async fn wake_database(&self, database: &str) {
        let cluster = self.cluster.load_full();
        if let Some(database) = cluster.databases.get(database)
            && sleep::wake(database, cluster.config.health.timeout).await
        {
            self.renew();
        }
    }

    /// Puts the roles in force that are known now.
    pub fn renew(&self) {
        let (old, new) = self.replace(|old| Arc::clone(&old.config));
        for (name, database) in &new.databases {
            for shard in database.shards.values() {
                let before = old.databases.get(name).and_then(|it| it.shards.get(&shard.id));
                if let Some(before) = before {
                    tell(name, before, shard);
                }
                shard.state.settled.notify_waiters();
            }
            // What is on the new primary counts.
            database.state.wanted.notify_one();
        }
    }

    fn replace(&self, config: impl Fn(&Cluster) -> Arc<Config>) -> (Arc<Cluster>, Arc<Cluster>) {
        loop {
            let old = self.cluster.load_full();
            let new = Arc::new(Cluster::new(config(&old), Some(&old), &self.metrics));
            // Before anybody writes there.
            self.join_fleet(&new);
            new.lead();
            let found = self.cluster.compare_and_swap(&old, Arc::clone(&new));
            if Arc::ptr_eq(&found, &old) {
                old.close_gone(&new);
                self.forget_gone(&old, &new);
                self.changed.notify_one();
                return (old, new);
            }
        }
    }

    /// Lets sessions look up that wait for a server which is fenced now, and ends the numbers of hosts that are
    /// not there any more, or not in that role.
    fn forget_gone(&self, old: &Cluster, new: &Cluster) {
        let is_kept = |host: &Arc<Host>| new.hosts().any(|it| Arc::ptr_eq(it, host));
        for host in old.hosts().filter(|it| !is_kept(it)) {
            if host.is_primary {
                self.wake(host);
            }
            if !new.hosts().any(|it| it.labels() == host.labels()) {
                let (database, shard, role, address) = host.labels();
                self.metrics.forget_host([database, &shard, role, &address]);
            }
        }
    }

    /// Lets sessions look up that wait for a host.
    fn wake(&self, host: &Host) {
        let place = (&host.address.host, host.address.port);
        for client in &self.clients {
            if client.servers.lock().iter().any(|it| it.place() == place) {
                client.signals.wake();
            }
        }
    }

    /// What runs on a host is lost, as if its connections were: it does not answer.
    pub fn cut(&self, host: &Host) {
        host.pools().iter().for_each(Pool::cut);
        self.wake(host);
    }
}

/// Tells the log what has changed.
fn tell(database: &str, before: &Shard, now: &Shard) {
    let (shard, timeline) = (now.id.0, now.state.timeline());
    if !Arc::ptr_eq(&before.primary, &now.primary) {
        let (primary, was) = (now.primary.address.to_string(), before.primary.address.to_string());
        tracing::warn!(database, shard, primary, was, timeline, "another host is the primary");
    }
    if before.has_primary && !now.has_primary {
        tracing::error!(database, shard, "no host is a primary");
    }
    for (host, why) in &now.fenced {
        if before.why_fenced(host) != Some(why) {
            let address = host.address.to_string();
            tracing::error!(database, shard, address, why, "a host is fenced: it is not used");
        }
    }
}
