//! Servers for tests. Each test binary starts one cluster, at its first use, and all its tests share
//! it; each test works in a database of its own.
//!
//! ```ignore
//! mod support;
//! let database = support::database("orders");           // on all shards, replicas too
//! support::shared().sql(Node::Primary(0), &database, "SELECT 1").unwrap();
//! ```
//!
//! A test that stops or kills servers starts its own: `support::own(1, 1)`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod certificates;
pub mod patroni;
pub mod proxy;
pub mod random;
pub mod redis;
pub mod relay;
pub mod wire;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgsluice::playground::{Account, Binaries, Cluster, ClusterSpec};

/// Two shards with a replica each. Ends with the test binary.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| start(spec(2, 1)))
}

/// A new database that belongs to `app`, on every shard of [`shared`]; its name begins with `name`.
pub fn database(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("{name}_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    shared().create_database(&name).unwrap();
    name
}

/// Four shards: two databases on each primary of [`shared`], with replicas; and the databases' names.
pub fn four_shards(name: &str) -> (proxy::ProxySpec, [String; 2]) {
    let names = [database(name), database(name)];
    let places = (0..4).map(|shard| {
        let node = shard / 2;
        let ports = (shared().primary_port(node), vec![shared().replica_port(node, 0)]);
        (ports.0, ports.1, names[shard % 2].clone())
    });
    (proxy::ProxySpec::over(&places.collect::<Vec<_>>()), names)
}

/// A cluster for one test alone.
pub fn own(shards: usize, replicas: usize) -> Cluster {
    start(spec(shards, replicas))
}

/// What [`own`] starts, to be changed and given to [`start`].
pub fn spec(shards: usize, replicas: usize) -> ClusterSpec {
    // Test binaries may run at the same time; each begins to look for ports elsewhere.
    let first_port = 16_000 + (std::process::id() % 1_000 * 15) as u16;
    let spec = ClusterSpec::temporary(shards, replicas).unwrap();
    ClusterSpec { template: Some(template()), first_port, ..spec }
}

/// Starts a cluster.
pub fn start(spec: ClusterSpec) -> Cluster {
    Cluster::start(spec).unwrap_or_else(|error| panic!("{error}"))
}

/// A data folder that is kept from run to run, one per version of Postgres.
fn template() -> PathBuf {
    let version = Binaries::find().unwrap().version().unwrap();
    let version = version.replace(|it: char| !it.is_ascii_alphanumeric(), "-");
    let name = format!("template-2-{version}");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    match Account::for_servers().unwrap() {
        Some(account) if !account.can_enter(&target.join(&name)) => {
            std::env::temp_dir().join(format!("pgsluice-{name}"))
        }
        _ => target.join(name),
    }
}
