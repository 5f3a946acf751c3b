//! The settings of one server: `pgsluice.conf`, `pg_hba.conf`, `standby.signal`.

use std::fs;
use std::path::Path;

use super::binaries::Binaries;
use super::error::Result;
use super::spec::ClusterSpec;
use super::template::{self, SETTINGS};

/// `postgres` may log in from this machine without a password, everybody else by SCRAM.
const HBA: &str = "\
local all         postgres              trust
host  all         postgres 127.0.0.1/32 trust
host  replication postgres 127.0.0.1/32 trust
host  all         all      127.0.0.1/32 scram-sha-256
";

/// Writes the settings; with the port of a primary the server is its replica.
pub(super) fn write(
    binaries: &Binaries,
    spec: &ClusterSpec,
    data: &Path,
    port: u16,
    primary: Option<u16>,
) -> Result<()> {
    template::write(binaries, data.join(SETTINGS), &conf(spec, data, port, primary))?;
    let hba = spec.hba.iter().map(|line| format!("{line}\n")).collect::<String>() + HBA;
    template::write(binaries, data.join("pg_hba.conf"), &hba)?;
    match primary {
        Some(_) => template::write(binaries, data.join("standby.signal"), ""),
        None => Ok(()),
    }
}

/// The port a server had, if it ever ran.
pub(super) fn port(data: &Path) -> Option<u16> {
    let text = fs::read_to_string(data.join(SETTINGS)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("port = "))?.parse().ok()
}

fn conf(spec: &ClusterSpec, data: &Path, port: u16, primary: Option<u16>) -> String {
    let mut conf = format!(
        "# Written anew at every start.\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = '.'\n\
         max_connections = {}\n\
         max_prepared_transactions = {}\n\
         shared_buffers = 32MB\n\
         max_wal_size = 256MB\n\
         wal_keep_size = 256MB\n\
         hot_standby = on\n\
         hot_standby_feedback = on\n\
         wal_receiver_status_interval = 1s\n\
         wal_retrieve_retry_interval = 100ms\n\
         password_encryption = scram-sha-256\n\
         timezone = UTC\n\
         log_timezone = UTC\n",
        spec.max_connections, spec.max_prepared_transactions,
    );
    if !spec.fsync {
        conf.push_str("fsync = off\nfull_page_writes = off\ndynamic_shared_memory_type = mmap\n");
    }
    if let Some(primary) = primary {
        let name = data.file_name().unwrap_or_default().to_string_lossy();
        conf.push_str(&format!(
            "primary_conninfo = 'host=127.0.0.1 port={primary} user=postgres \
             application_name={name}'\n"
        ));
    }
    for (name, value) in &spec.settings {
        conf.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
    conf
}
