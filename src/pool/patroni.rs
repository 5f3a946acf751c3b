//! Patroni's REST API: who leads a shard, who its members are, and a switchover.

mod http;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::net::lookup_host;
use tokio::task::JoinSet;

use crate::config::{self, Host as Address, PatroniApi};

/// How long a name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(1);

/// What Patroni says of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    pub leader: Leader,
    /// Members that the configuration does not name, as the hosts they would be.
    pub strangers: Vec<Address>,
}

/// Who leads, as Patroni says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    Nobody,
    /// A host that the configuration names, or one of the strangers.
    Host(Address),
}

/// One line of `GET /cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    place: (String, u16),
    leads: bool,
    /// Whether it is for reads of applications, too.
    serves: bool,
    /// Host and port of its own API.
    api: Option<(String, u16)>,
}

/// Asks about one shard, again and again.
#[derive(Default)]
pub struct Asker {
    /// As they were last resolved: a name server that is away for a moment makes nobody a stranger.
    names: HashMap<String, Vec<IpAddr>>,
}

impl Asker {
    /// Asks all URLs at once; the first that answers counts.
    ///
    /// # Errors
    /// No one does: each with what is wrong.
    pub async fn ask(
        &mut self,
        shard: &config::Shard,
        timeout: Duration,
    ) -> Result<Topology, String> {
        let (mut asked, mut problems) = (JoinSet::new(), Vec::new());
        for api in &shard.patroni {
            let api = api.clone();
            asked.spawn(async move { members_within(&api, timeout).await });
        }
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(members)) => return Ok(self.topology(shard, &members).await),
                Ok(Err(problem)) => problems.push(problem),
                Err(error) => problems.push(error.to_string()),
            }
        }
        problems.sort();
        Err(problems.join("; "))
    }

    async fn topology(&mut self, shard: &config::Shard, members: &[Member]) -> Topology {
        let mut topology = Topology { leader: Leader::Nobody, strangers: Vec::new() };
        for member in members.iter().filter(|it| it.leads || it.serves) {
            let (host, is_stranger) = match self.find(shard.hosts(), &member.place).await {
                Some(host) => (host.clone(), false),
                None => (stranger(shard, &member.place), true),
            };
            if member.leads {
                topology.leader = Leader::Host(host.clone());
            }
            if is_stranger {
                topology.strangers.push(host);
            }
        }
        topology
    }

    /// The host that a member is, by its name or by its address.
    async fn find<'a>(
        &mut self,
        hosts: impl Iterator<Item = &'a Address>,
        (name, port): &(String, u16),
    ) -> Option<&'a Address> {
        let hosts: Vec<&Address> = hosts.filter(|it| it.port == *port).collect();
        if let Some(host) = hosts.iter().find(|it| it.host == *name) {
            return Some(host);
        }
        let wanted = self.resolve(name).await;
        for host in hosts {
            if self.resolve(&host.host).await.iter().any(|it| wanted.contains(it)) {
                return Some(host);
            }
        }
        None
    }

    async fn resolve(&mut self, name: &str) -> Vec<IpAddr> {
        if let Ok(address) = name.parse() {
            return vec![address];
        }
        if let Ok(Ok(found)) = tokio::time::timeout(RESOLVE, lookup_host((name, 0))).await {
            self.names.insert(name.to_owned(), found.map(|it| it.ip()).collect());
        }
        self.names.get(name).cloned().unwrap_or_default()
    }
}

/// A member that is not written, as a host: it is reached as the shard's primary is.
fn stranger(shard: &config::Shard, (host, port): &(String, u16)) -> Address {
    Address { host: host.clone(), port: *port, ..shard.primary.clone() }
}

/// Why there was no switchover, and what Patroni said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Surely nothing was done.
    Nothing(String),
    /// It was asked for, and what became of it is not known.
    Unsure(String),
}

/// POST /switchover from the host that leads to the one that is named, or to whom Patroni chooses. Gives
/// what Patroni says of it.
///
/// # Errors
/// As [`Refusal`] says.
pub async fn switchover(
    shard: &config::Shard,
    (leader, to): (&Address, Option<&Address>),
    (timeout, patience): (Duration, Duration),
) -> Result<String, Refusal> {
    let (members, mut apis) = who_answers(&shard.patroni, timeout).await?;
    let mut asker = Asker::default();
    let mut name = async |host: &Address| {
        for member in &members {
            if asker.find([host].into_iter(), &member.place).await.is_some() {
                return Some(member.clone());
            }
        }
        None
    };
    let nobody = |host: &Address| Refusal::Nothing(format!("{host} is none of Patroni's members"));
    let old = name(leader).await.ok_or_else(|| nobody(leader))?;
    let mut request = json!({ "leader": old.name });
    if let Some(to) = to {
        request["candidate"] = name(to).await.ok_or_else(|| nobody(to))?.name.into();
    }
    // The leader does it; another one hands the wish on to it.
    let place = |api: &PatroniApi| Some((api.server.host.clone(), api.server.port));
    apis.sort_by_key(|it| place(it) != old.api);
    let api = apis[0];
    let body = request.to_string();
    let asked = http::request(api, "/switchover", Some(&body));
    let said = match tokio::time::timeout(patience, asked).await {
        Err(_) => Err(Refusal::Unsure(format!("{api} has not answered within {patience:?}"))),
        Ok(Err(error)) => Err(Refusal::Unsure(format!("{api}: {error}"))),
        Ok(Ok(it)) if it.status == 200 => Ok(it.body),
        Ok(Ok(it)) if it.body.contains("unknown") => Err(Refusal::Unsure(it.body)),
        Ok(Ok(it)) => Err(Refusal::Nothing(format!("{api} answered {}: {}", it.status, it.body))),
    };
    said.map(|it| it.trim().to_owned())
}

/// The members, and the URLs that have told them.
async fn who_answers(
    apis: &[PatroniApi],
    timeout: Duration,
) -> Result<(Vec<Member>, Vec<&PatroniApi>), Refusal> {
    let (mut found, mut answering, mut problems) = (None, Vec::new(), Vec::new());
    for api in apis {
        match members_within(api, timeout).await {
            Ok(members) => {
                found.get_or_insert(members);
                answering.push(api);
            }
            Err(problem) => problems.push(problem),
        }
    }
    let nobody = || Refusal::Nothing(format!("Patroni does not answer: {}", problems.join("; ")));
    found.map(|it| (it, answering)).ok_or_else(nobody)
}

/// The members, or which URL has what problem.
async fn members_within(api: &PatroniApi, timeout: Duration) -> Result<Vec<Member>, String> {
    let answer = tokio::time::timeout(timeout, members(api)).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")));
    answer.map_err(|problem| format!("{api}: {problem}"))
}

/// GET /cluster, or what is wrong with its answer.
async fn members(api: &PatroniApi) -> Result<Vec<Member>, String> {
    let answer = http::request(api, "/cluster", None).await.map_err(|it| it.to_string())?;
    if answer.status != 200 {
        return Err(format!("it answered {}: {}", answer.status, answer.body.trim()));
    }
    read(&answer.body).ok_or_else(|| "its answer to GET /cluster is none of Patroni's".to_owned())
}

fn read(body: &str) -> Option<Vec<Member>> {
    let json: Json = serde_json::from_str(body).ok()?;
    // A member that is only about to be has no address yet.
    Some(json["members"].as_array()?.iter().filter_map(member).collect())
}

fn member(json: &Json) -> Option<Member> {
    let port = u16::try_from(json["port"].as_u64()?).ok()?;
    let api = json["api_url"].as_str().and_then(|it| {
        let place = it.split_once("://")?.1.split('/').next()?;
        let (host, port) = place.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
    });
    Some(Member {
        name: json["name"].as_str().unwrap_or_default().to_owned(),
        place: (json["host"].as_str()?.to_owned(), port),
        leads: matches!(json["role"].as_str(), Some("leader" | "master" | "primary")),
        serves: json["tags"]["noloadbalance"] != Json::Bool(true),
        api,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostTls;
    use crate::shard::ShardId;

    const CLUSTER: &str = r#"{"members": [
        {"name": "a", "role": "replica", "state": "streaming", "api_url": "https://10.0.0.1:8008/patroni",
         "host": "10.0.0.1", "port": 5432, "timeline": 2, "lag": 0},
        {"name": "b", "role": "leader", "state": "running", "api_url": "http://[::1]:8009/patroni",
         "host": "10.0.0.2", "port": 5433, "timeline": 2, "tags": {"noloadbalance": true}},
        {"name": "c", "role": "replica", "host": "10.0.0.3", "port": 5432, "tags": {"noloadbalance": true}},
        {"name": "d", "role": "sync_standby", "host": "10.0.0.4", "port": 5432},
        {"name": "e", "role": "uninitialized"}], "scope": "demo"}"#;

    fn host(host: &str, port: u16) -> Address {
        let (host, user, database) = (host.to_owned(), "app".into(), "app".into());
        Address { host, port, user, password: None, database, tls: HostTls::default() }
    }

    fn shard(primary: Address, replicas: Vec<Address>) -> config::Shard {
        config::Shard {
            id: ShardId(0),
            primary,
            replicas,
            patroni: Vec::new(),
            patroni_members: true,
            preferences: std::collections::BTreeMap::new(),
        }
    }

    fn topology(shard: &config::Shard, body: &str) -> Topology {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Asker::default().topology(shard, &read(body).unwrap()))
    }

    #[test]
    fn members_are_read() {
        let members = read(CLUSTER).unwrap();
        let names: Vec<&str> = members.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(members[0].api, Some(("10.0.0.1".to_owned(), 8008)));
        assert_eq!(members[1].api, Some(("::1".to_owned(), 8009)));
        assert_eq!(read("{}"), None);
        assert_eq!(read(&CLUSTER[..90]), None);
        assert_eq!(read(r#"{"members": []}"#), Some(Vec::new()));
    }

    #[test]
    fn who_is_not_written_is_a_stranger() {
        let two = shard(host("10.0.0.1", 5432), vec![host("10.0.0.2", 5433)]);
        let it = topology(&two, CLUSTER);
        assert_eq!(it.leader, Leader::Host(host("10.0.0.2", 5433)));
        assert_eq!(it.strangers, [host("10.0.0.4", 5432)]);
        // A leader counts, whatever its tags are.
        let it = topology(&shard(host("10.0.0.1", 5432), Vec::new()), CLUSTER);
        assert_eq!(it.leader, Leader::Host(host("10.0.0.2", 5433)));
        assert_eq!(it.strangers, [host("10.0.0.2", 5433), host("10.0.0.4", 5432)]);
        let it = topology(&two, &CLUSTER.replace("leader", "standby_leader"));
        assert_eq!(it.leader, Leader::Nobody);
    }
}
