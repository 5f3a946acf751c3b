//! `DIR/pgsluice.toml`: written once, then only its ports are kept up to date, so that edits stay.

use std::net::SocketAddr;

use super::cluster::Cluster;

/// What is put in front of a cluster.
#[derive(Clone, Debug)]
pub struct Front<'a> {
    pub listen: SocketAddr,
    pub http: Option<SocketAddr>,
    /// Of the servers and of the proxy.
    pub database: &'a str,
    /// None: one shard, a plain pooler.
    pub tenant_column: Option<&'a str>,
    pub reference_tables: &'a [&'a str],
}

/// A configuration for the cluster: user `app` with password `app`, buckets shared evenly.
pub fn toml(cluster: &Cluster, front: &Front<'_>) -> String {
    let Front { listen, database, .. } = front;
    let mut text = format!("[listen]\naddress = \"{listen}\"\n");
    if let Some(http) = front.http {
        text.push_str(&format!("http = \"{http}\"            # /metrics /live /ready\n"));
    }
    text.push_str(
        "shutdown_grace = \"2s\"              # Ctrl-C waits this long for transactions\n",
    );
    text.push_str(&format!(
        "\n[pool]\nmode = \"transaction\"               # or \"session\"\n\
         size = 20                          # server connections per user, database and host\n\
         \n[[user]]\nname = \"app\"\npassword = \"app\"\nadmin = true\n\
         \n[[database]]\nname = \"{database}\"\n",
    ));
    if let Some(column) = front.tenant_column {
        text.push_str(&format!("tenant_column = \"{column}\"\nhome_shard = 0\n"));
        text.push_str(&format!("reference_tables = {:?}\n", front.reference_tables));
    }
    let count = cluster.spec().shards;
    for shard in 0..count {
        let (first, next) = (shard * 256 / count, (shard + 1) * 256 / count);
        text.push_str(&format!("\n[[database.shard]]\nid = {shard}\n"));
        if front.tenant_column.is_some() {
            text.push_str(&format!("range = [{first}, {}]\n", next - 1));
        }
        text.push_str(&servers(cluster, shard, database));
    }
    text
}

fn servers(cluster: &Cluster, shard: usize, database: &str) -> String {
    let url = |port| format!("postgres://app:app@127.0.0.1:{port}/{database}");
    let replicas = 0..cluster.spec().replicas;
    let replicas: Vec<String> = replicas.map(|it| url(cluster.replica_port(shard, it))).collect();
    format!("primary = {:?}\nreplicas = {replicas:?}\n", url(cluster.primary_port(shard)))
}

/// The text with every `127.0.0.1:OLD` followed by no digit turned into `127.0.0.1:NEW`.
pub(super) fn with_ports(text: &str, moved: &[(u16, u16)]) -> String {
    const HOST: &str = "127.0.0.1:";
    let mut parts = text.split(HOST);
    let mut new = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|it: char| !it.is_ascii_digit()).unwrap_or(part.len());
        let (port, rest) = part.split_at(digits);
        let to = moved.iter().find(|(from, _)| from.to_string() == port).map(|it| it.1.to_string());
        new.push_str(HOST);
        new.push_str(to.as_deref().unwrap_or(port));
        new.push_str(rest);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_moved_ports_change() {
        let text = "a = \"127.0.0.1:100/x\" # 127.0.0.1:1000\nb = \"127.0.0.1:200\"\nc = 100";
        assert_eq!(
            with_ports(text, &[(100, 200), (200, 100)]),
            "a = \"127.0.0.1:200/x\" # 127.0.0.1:1000\nb = \"127.0.0.1:100\"\nc = 100"
        );
    }
}
