//! What can go wrong around the servers of a playground.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Says what happened and what to do.
#[derive(Debug, Error)]
pub enum PlaygroundError {
    #[error(
        "found no Postgres server (initdb and postgres) in PG_BIN, PATH or \
         /usr/lib/postgresql/*/bin; install it (Debian and Ubuntu: apt install postgresql; \
         Fedora: dnf install postgresql-server; macOS: brew install postgresql) or name its folder \
         in PG_BIN"
    )]
    NoPostgres,
    #[error("PG_BIN is {0}, which holds no initdb and postgres; name the folder that does")]
    WrongPgBin(PathBuf),
    #[error("Postgres servers refuse to run as root, and there is no user postgres or nobody")]
    NoAccount,
    #[error(
        "the servers run as user {user}, who cannot enter {dir}; choose another --dir, such as \
         /var/tmp/pgsluice, or run as an ordinary user"
    )]
    CannotEnter { user: String, dir: PathBuf },
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{program} failed: {output}")]
    Program { program: String, output: String },
    #[error("{server} did not start ({why}); its log, {log}, ends with:\n{tail}")]
    NotStarted { server: String, why: String, log: PathBuf, tail: String },
    #[error("no {0} free ports on 127.0.0.1")]
    NoPorts(usize),
    #[error("port {0} on 127.0.0.1 is in use; end what listens there or choose another --port")]
    PortInUse(u16),
    #[error(
        "{dir} holds a playground of {there}, not of {wanted}; leave out --shards and --replicas \
         or name another --dir"
    )]
    Mismatch { dir: PathBuf, there: String, wanted: String },
    #[error("{0} is missing, while other servers of the playground have data; name another --dir")]
    Incomplete(PathBuf),
    #[error("{0} is no playground and not empty; name another --dir")]
    NotEmpty(PathBuf),
    #[error("{dir} is in use by the process {pid}; end it or name another --dir")]
    InUse { dir: PathBuf, pid: u32 },
    #[error("{server}: {what}: {message}")]
    Sql { server: String, what: String, message: String },
    #[error("{0} does not replicate within {1} s")]
    NoReplication(String, u64),
    #[error("the proxy: {0}")]
    Proxy(String),
}

pub(super) type Result<T> = std::result::Result<T, PlaygroundError>;

/// Names the file an IO error is about.
pub(super) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaygroundError {
    let path = path.to_owned();
    move |source| PlaygroundError::Io { what, path, source }
}
