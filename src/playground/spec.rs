//! What a cluster consists of.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Result, at};

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// Where the servers live. Its folders of servers are made or, if they are there, reused.
    pub dir: PathBuf,
    /// Whether the folder is removed at the end.
    pub temporary: bool,
    pub shards: usize,
    /// Per shard.
    pub replicas: usize,
    /// Whether servers wait for the disk. Without it they are faster, and lose data when the
    /// machine (not only a server) goes down.
    pub fsync: bool,
    pub max_connections: usize,
    pub max_prepared_transactions: usize,
    /// More settings of postgresql.conf; they win.
    pub settings: Vec<(String, String)>,
    /// More lines of pg_hba.conf; they come first.
    pub hba: Vec<String>,
    /// A stopped data folder to copy, made if it is not there; none: made anew.
    pub template: Option<PathBuf>,
    /// Ports are looked for from here on.
    pub first_port: u16,
}

impl ClusterSpec {
    /// In a new temporary folder that ends with the cluster; servers do not wait for the disk.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn temporary(shards: usize, replicas: usize) -> Result<Self> {
        let dir = temporary_dir(&memory())?;
        Ok(Self { temporary: true, fsync: false, shards, replicas, ..Self::new(dir) })
    }

    /// As [`Self::temporary`], but durable while it lasts.
    pub(super) fn temporary_on_disk(shards: usize, replicas: usize) -> Result<Self> {
        let dir = temporary_dir(&std::env::temp_dir())?;
        Ok(Self { temporary: true, shards, replicas, ..Self::new(dir) })
    }

    /// One durable shard without replicas.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            temporary: false,
            shards: 1,
            replicas: 0,
            fsync: true,
            max_connections: 200,
            max_prepared_transactions: 100,
            settings: Vec::new(),
            hba: Vec::new(),
            template: None,
            first_port: 15_400,
        }
    }
}

/// One server of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    Primary(usize),
    /// Shard, replica.
    Replica(usize, usize),
}

impl Node {
    pub(super) fn data(self, dir: &Path) -> PathBuf {
        match self {
            Self::Primary(shard) => dir.join(format!("shard{shard}/primary")),
            Self::Replica(shard, replica) => dir.join(format!("shard{shard}/replica{replica}")),
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Primary(shard) => format!("shard {shard} primary"),
            Self::Replica(shard, replica) => format!("shard {shard} replica {replica}"),
        }
    }
}

/// A folder that others may enter, as the servers may run as another user.
fn temporary_dir(parent: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let open = fs::Permissions::from_mode(0o755);
    let dir = tempfile::Builder::new().prefix("pgsluice-").permissions(open).tempdir_in(parent);
    Ok(dir.map_err(at("cannot create a folder in", parent))?.keep())
}

/// Where files live in memory, if there is plenty, else the usual folder.
pub fn memory() -> PathBuf {
    const PLENTY_BYTES: u128 = 4 << 30;
    let memory = Path::new("/dev/shm");
    let free = nix::sys::statvfs::statvfs(memory);
    let free = free.map_or(0, |it| it.blocks_available() as u128 * it.fragment_size() as u128);
    if free >= PLENTY_BYTES { memory.to_owned() } else { std::env::temp_dir() }
}
