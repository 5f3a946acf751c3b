//! Asks Patroni's REST API who leads a shard.

use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;

use crate::config::Host as Address;

/// No answer is longer.
const LONGEST: u64 = 1 << 20;

/// Who leads, as Patroni says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    /// It does not answer, or was not asked.
    Unknown,
    /// None of the shard's hosts; the member that leads, if there is one.
    Nobody(Option<String>),
    Host(Address),
}

/// Asks all URLs at once; the first that answers counts.
pub async fn ask(urls: &[String], hosts: &[Address], timeout: Duration) -> Leader {
    let mut asked = JoinSet::new();
    for url in urls {
        let url = url.clone();
        asked.spawn(async move { tokio::time::timeout(timeout, cluster(&url)).await });
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(Some(None))) => return Leader::Nobody(None),
            Ok(Ok(Some(Some(member)))) => return find(member, hosts).await,
            _ => (),
        }
    }
    Leader::Unknown
}

/// The host that the leader is, by its name or by its address.
async fn find((name, port): (String, u16), hosts: &[Address]) -> Leader {
    let by_port = || hosts.iter().filter(|it| it.port == port);
    if let Some(host) = by_port().find(|it| it.host == name) {
        return Leader::Host(host.clone());
    }
    let wanted: Vec<_> = resolve(&name, port).await;
    for host in by_port() {
        if resolve(&host.host, port).await.iter().any(|it| wanted.contains(it)) {
            return Leader::Host(host.clone());
        }
    }
    Leader::Nobody(Some(format!("{name}:{port}")))
}

async fn resolve(name: &str, port: u16) -> Vec<std::net::SocketAddr> {
    let found = tokio::time::timeout(Duration::from_secs(1), lookup_host((name, port))).await;
    found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default()
}

/// GET /cluster: host and port of the leader. `None`: no answer.
async fn cluster(url: &str) -> Option<Option<(String, u16)>> {
    let place = place(url)?;
    let mut stream = TcpStream::connect(&place).await.ok()?;
    // An answer to HTTP/1.0 is whole and ends with the connection.
    let request = format!("GET /cluster HTTP/1.0\r\nHost: {place}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await.ok()?;
    leader(&answer)
}

/// `host:port` of `http://host:port`.
pub fn place(url: &str) -> Option<String> {
    let place = url.strip_prefix("http://")?.trim_end_matches('/');
    let (host, port) = place.rsplit_once(':')?;
    let is_place = !host.is_empty() && port.parse::<u16>().is_ok() && !place.contains(['/', '@']);
    is_place.then(|| place.to_owned())
}

fn leader(answer: &[u8]) -> Option<Option<(String, u16)>> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    if head.split(' ').nth(1) != Some("200") {
        return None;
    }
    let json: Json = serde_json::from_str(body).ok()?;
    let leads = |it: &&Json| matches!(it["role"].as_str(), Some("leader" | "master" | "primary"));
    let Some(member) = json["members"].as_array()?.iter().find(leads) else { return Some(None) };
    let port = u16::try_from(member["port"].as_u64()?).ok()?;
    Some(Some((member["host"].as_str()?.to_owned(), port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_the_leader() {
        let answer = |body: &str| leader(format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes());
        let members = r#"{"members": [{"name": "a", "role": "replica", "host": "10.0.0.1", "port": 5432},
            {"name": "b", "role": "leader", "state": "running", "host": "10.0.0.2", "port": 5433}]}"#;
        assert_eq!(answer(members), Some(Some(("10.0.0.2".to_owned(), 5433))));
        assert_eq!(answer(&members.replace("leader", "sync_standby")), Some(None));
        assert_eq!(answer("{}"), None);
        assert_eq!(answer(&members[..40]), None);
        assert_eq!(leader(b"HTTP/1.0 503 Service Unavailable\r\n\r\n{\"members\": []}"), None);
    }

    #[test]
    fn urls_name_a_place() {
        assert_eq!(place("http://[::1]:8008/").as_deref(), Some("[::1]:8008"));
        for wrong in ["https://h:8008", "http://h", "http://h:8008/cluster", "h:8008"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }
}
