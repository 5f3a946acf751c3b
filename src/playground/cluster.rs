//! Shards of real Postgres servers with streaming replicas, for the playground, tests and benches.
//!
//! ```text
//! DIR/shard0/primary        data folder; primary.log beside it
//! DIR/shard0/replica0
//! DIR/shard1/primary …
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::binaries::{Binaries, run};
use super::error::{PlaygroundError, Result, at};
use super::server::Server;
use super::spec::{ClusterSpec, Node};
use super::sql::{Login, Rows};
use super::template;
use super::watchdog::Watchdog;
use super::{ports, settings};

/// Running servers. They end when this is dropped, and also when this process ends in any way.
#[derive(Debug)]
pub struct Cluster {
    spec: ClusterSpec,
    /// Per shard: the primary, then its replicas.
    servers: Vec<Vec<Server>>,
    /// Servers of an earlier run whose port was taken: old and new port.
    moved: Vec<(u16, u16)>,
    /// Last, so that it ends after the servers.
    _watchdog: Watchdog,
}

impl Cluster {
    /// Makes what is not there, starts all servers and waits until they let clients in.
    ///
    /// # Errors
    /// No Postgres, a folder that cannot be used, a server that does not start.
    pub fn start(mut spec: ClusterSpec) -> Result<Self> {
        let binaries = Binaries::find()?;
        fs::create_dir_all(&spec.dir).map_err(at("cannot create", &spec.dir))?;
        spec.dir = spec.dir.canonicalize().map_err(at("cannot open", &spec.dir))?;
        check_enterable(&binaries, &spec.dir)?;
        let nodes = nodes(&spec);
        let data: Vec<PathBuf> = nodes.iter().map(|node| node.data(&spec.dir)).collect();
        let had: Option<Vec<u16>> = data.iter().map(|data| settings::port(data)).collect();
        let watchdog = Watchdog::start(spec.temporary.then_some(&*spec.dir), &data)?;
        prepare(&binaries, &spec, &data)?;
        let servers = launch(&binaries, &spec, &nodes, had.as_deref())?;
        let now = servers.iter().flatten().map(|server| server.port);
        let moved = had.into_iter().flatten().zip(now).filter(|(old, new)| old != new).collect();
        Ok(Self { spec, servers, moved, _watchdog: watchdog })
    }

    /// What was started.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// The ports that changed since the folder was last used, old and new.
    pub fn moved(&self) -> &[(u16, u16)] {
        &self.moved
    }

    /// One of the servers; panics if there is none.
    pub fn server(&self, node: Node) -> &Server {
        match node {
            Node::Primary(shard) => &self.servers[shard][0],
            Node::Replica(shard, replica) => &self.servers[shard][replica + 1],
        }
    }

    /// All servers, per shard the primary first.
    pub fn all(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().flatten()
    }

    /// The port of a shard's primary.
    pub fn primary_port(&self, shard: usize) -> u16 {
        self.server(Node::Primary(shard)).port
    }

    /// The port of a shard's replica.
    pub fn replica_port(&self, shard: usize, replica: usize) -> u16 {
        self.server(Node::Replica(shard, replica)).port
    }

    /// Runs statements on one server as `postgres`.
    ///
    /// # Errors
    /// No connection, or what the server says.
    pub fn sql(&self, node: Node, database: &str, sql: &str) -> Result<Rows> {
        let server = self.server(node);
        Login::superuser(&server.name, server.port, database).run(sql)
    }

    /// Runs statements on every primary, at the same time, as `postgres`.
    ///
    /// # Errors
    /// The first that failed.
    pub fn sql_everywhere(&self, database: &str, sql: &str) -> Result<Vec<Rows>> {
        std::thread::scope(|scope| {
            let run = |shard| scope.spawn(move || self.sql(Node::Primary(shard), database, sql));
            let threads: Vec<_> = (0..self.spec.shards).map(run).collect();
            let joined = threads.into_iter().map(|it| it.join());
            joined.map(|it| it.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// Makes a database that belongs to `app` on every shard and waits until the replicas have it.
    ///
    /// # Errors
    /// It is there already, or a server cannot be reached.
    pub fn create_database(&self, name: &str) -> Result<()> {
        self.sql_everywhere("postgres", &format!("CREATE DATABASE \"{name}\" OWNER app"))?;
        self.wait_for_replicas()
    }

    /// Lets a server follow another one from its next start on; one that runs does at once.
    ///
    /// # Errors
    /// Its settings cannot be written.
    pub fn follow(&self, node: Node, primary: u16) -> Result<()> {
        let server = self.server(node);
        let binaries = Binaries::find()?;
        settings::write(&binaries, &self.spec, &server.data, server.port, Some(primary))?;
        server.signal(Signal::SIGHUP);
        Ok(())
    }

    /// Makes a server anew as a replica of another one, such as one whose log went another way.
    ///
    /// # Errors
    /// The copy cannot be made, or does not start.
    pub fn rebuild(&self, node: Node, primary: u16) -> Result<()> {
        let server = self.server(node);
        server.kill9();
        fs::remove_dir_all(&server.data).map_err(at("cannot remove", &server.data))?;
        let mut command = Binaries::find()?.command("pg_basebackup");
        command.arg("--pgdata").arg(&server.data).args(["--host=127.0.0.1", "--username=postgres"]);
        command.arg(format!("--port={primary}")).args(["--checkpoint=fast", "--no-sync"]);
        run(&mut command)?;
        self.follow(node, primary)?;
        server.start()
    }

    /// Waits until every running replica has replayed what its primary has written by now.
    ///
    /// # Errors
    /// A replica did not within 30 seconds.
    pub fn wait_for_replicas(&self) -> Result<()> {
        for shard in 0..self.spec.shards {
            let sql = "SELECT pg_current_wal_lsn()";
            let lsn = first(&self.sql(Node::Primary(shard), "postgres", sql)?);
            for replica in (0..self.spec.replicas).map(|it| Node::Replica(shard, it)) {
                if self.server(replica).is_running() {
                    self.wait_for_lsn(replica, &lsn)?;
                }
            }
        }
        Ok(())
    }

    fn wait_for_lsn(&self, replica: Node, lsn: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let sql = format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{lsn}', false)");
        while first(&self.sql(replica, "postgres", &sql)?) != "t" {
            if Instant::now() > deadline {
                return Err(PlaygroundError::NoReplication(replica.name(), 30));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    /// Primaries are stopped before replicas are waited for, all at the same time.
    fn drop(&mut self) {
        let signal = if self.spec.temporary { Signal::SIGQUIT } else { Signal::SIGINT };
        self.all().for_each(|server| server.signal(signal));
        self.all().for_each(Server::wait_end);
    }
}

fn first(rows: &Rows) -> String {
    rows.first().and_then(|row| row.first()?.clone()).unwrap_or_default()
}

fn nodes(spec: &ClusterSpec) -> Vec<Node> {
    let replicas = |shard| (0..spec.replicas).map(move |it| Node::Replica(shard, it));
    (0..spec.shards).flat_map(|it| std::iter::once(Node::Primary(it)).chain(replicas(it))).collect()
}

fn check_enterable(binaries: &Binaries, dir: &Path) -> Result<()> {
    match &binaries.account {
        Some(account) if !account.can_enter(&dir.join("shard0")) => {
            Err(PlaygroundError::CannotEnter { user: account.name.clone(), dir: dir.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Starts all servers, again on other ports if another process took one meanwhile.
fn launch(
    binaries: &Binaries,
    spec: &ClusterSpec,
    nodes: &[Node],
    had: Option<&[u16]>,
) -> Result<Vec<Vec<Server>>> {
    let mut ports = match had {
        Some(had) if had.iter().all(|port| ports::is_free(*port)) => had.to_vec(),
        _ => ports::free(spec.first_port, nodes.len())?,
    };
    // Two processes that look for ports at the same time go different ways after a clash.
    let step = 20 + (std::process::id() % 100) as u16;
    for attempt in 1..=ATTEMPTS {
        match try_launch(binaries, spec, nodes, &ports) {
            Err(PlaygroundError::NotStarted { tail, .. })
                if tail.contains("Address already in use") && attempt < ATTEMPTS =>
            {
                ports = ports::free(spec.first_port + attempt * step, nodes.len())?;
            }
            result => return result,
        }
    }
    Err(PlaygroundError::NoPorts(nodes.len()))
}

const ATTEMPTS: u16 = 5;

fn try_launch(
    binaries: &Binaries,
    spec: &ClusterSpec,
    nodes: &[Node],
    ports: &[u16],
) -> Result<Vec<Vec<Server>>> {
    let mut servers: Vec<Vec<Server>> = (0..spec.shards).map(|_| Vec::new()).collect();
    for (node, port) in nodes.iter().zip(ports) {
        let (Node::Primary(shard) | Node::Replica(shard, _)) = *node;
        let (data, primary) = (node.data(&spec.dir), servers[shard].first().map(|it| it.port));
        settings::write(binaries, spec, &data, *port, primary)?;
        servers[shard].push(Server::new(binaries, node.name(), *port, data));
    }
    servers.iter().flatten().try_for_each(Server::spawn)?;
    servers.iter().flatten().try_for_each(Server::wait_ready)?;
    Ok(servers)
}

/// Makes the data folders that are not there, as copies of one that was never started.
fn prepare(binaries: &Binaries, spec: &ClusterSpec, data: &[PathBuf]) -> Result<()> {
    let Some(missing) = data.iter().find(|it| !it.is_dir()) else { return Ok(()) };
    // A server writes this file when it starts for the first time.
    if data.iter().any(|it| it.join("postmaster.opts").exists()) {
        return Err(PlaygroundError::Incomplete(missing.clone()));
    }
    let own = spec.dir.join("template");
    let source = spec.template.as_ref().unwrap_or(&own);
    if !source.is_dir() {
        template::make(binaries, source)?;
    }
    for data in data {
        let parent = data.parent().unwrap_or(&spec.dir);
        fs::create_dir_all(parent).map_err(at("cannot create", parent))?;
        binaries.own(parent)?;
        let _ = fs::remove_dir_all(data);
        template::copy(source, data)?;
    }
    let _ = fs::remove_dir_all(own);
    Ok(())
}
