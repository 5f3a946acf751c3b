//! Snapshots take each other's place: with another configuration, or with other roles.

use std::sync::Arc;

use super::Proxy;
use crate::config::Config;
use crate::pool::cluster::{Cluster, Host, Shard};

impl Proxy {
    /// Puts a configuration in force, with the roles that are known now. Gives the old snapshot and the
    /// new one.
    pub fn install(&self, config: &Arc<Config>) -> (Arc<Cluster>, Arc<Cluster>) {
        self.replace(|_| Arc::clone(config))
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
                self.wake(&old, &new);
                self.changed.notify_one();
                return (old, new);
            }
        }
    }

    /// Lets sessions look up that wait for a server which is fenced now.
    fn wake(&self, old: &Cluster, new: &Cluster) {
        let is_kept = |host: &Arc<Host>| new.hosts().any(|it| Arc::ptr_eq(it, host));
        let gone: Vec<_> = old.hosts().filter(|it| it.is_primary && !is_kept(it)).collect();
        if gone.is_empty() {
            return;
        }
        for client in &self.clients {
            let waits = client.servers.lock().iter().any(|it| {
                gone.iter().any(|host| (&host.address.host, host.address.port) == it.place())
            });
            if waits {
                client.signals.wake();
            }
        }
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
