//! Connections that end at every single byte of an answer, and at every third of a request, at the server's
//! end and at the client's: a client gets its whole answer or an error, nothing runs twice, and the next client is well.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use pgsluice::playground::{Cluster, ClusterSpec, Node};
use pgsluice::wire::frontend;
use support::proxy::{Proxy, ProxySpec, wait_within};
use support::relay::{At, Fate, Relay, Side, Trap};
use support::wire::{Answer, Wire};

/// A tenant of each shard.
const TENANTS: [u32; 2] = [1, 6];

/// A proxy whose way to each shard, and whose clients' way to it, are relays.
struct Site {
    cluster: &'static Cluster,
    database: String,
    proxy: Proxy,
    shards: [Relay; 2],
    front: Relay,
    /// Of the shards that own [`TENANTS`].
    owners: [usize; 2],
}

impl Site {
    fn new(name: &str) -> Self {
        let cluster = servers();
        let database = name.to_owned();
        cluster.create_database(name).unwrap();
        let shards = [0, 1].map(|it| Relay::start(cluster.primary_port(it)));
        let place = |it: &Relay| (it.port, Vec::new(), database.clone());
        let spec = ProxySpec::over(&shards.iter().map(place).collect::<Vec<_>>());
        let spec = ProxySpec {
            pool: "size = 2\n".to_owned(),
            parameters: "?sslmode=disable".to_owned(),
            ..spec
        };
        let proxy = Proxy::start(spec);
        let front = Relay::start(proxy.port);
        let mut client = proxy.client();
        client.run("CREATE TABLE t (tenant_id bigint, k int, n int)");
        for tenant in TENANTS {
            client.run(&format!("INSERT INTO t VALUES ({tenant}, -1, 0)"));
        }
        let has = |shard, tenant| {
            let sql = format!("SELECT count(*) FROM t WHERE tenant_id = {tenant}");
            number(&cluster.sql(Node::Primary(shard), &database, &sql).unwrap()) > 0
        };
        let owner = |tenant| (0..2).find(|it| has(*it, tenant)).unwrap();
        let owners = TENANTS.map(owner);
        assert_ne!(owners[0], owners[1]);
        Self { cluster, database, proxy, shards, front, owners }
    }

    /// A client by way of the relay in front.
    fn client(&self) -> Wire {
        let client = Wire::login(self.front.port, "app", "app", "app").unwrap();
        client.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    }

    /// Rows that attempts have left, by `k` and tenant.
    fn rows(&self) -> HashMap<usize, [i64; 2]> {
        let mut found: HashMap<usize, [i64; 2]> = HashMap::new();
        for (at, owner) in self.owners.into_iter().enumerate() {
            let sql = "SELECT k, count(*) FROM t WHERE k >= 0 GROUP BY k";
            for row in self.cluster.sql(Node::Primary(owner), &self.database, sql).unwrap() {
                let [k, count] = [0, 1].map(|it: usize| row[it].as_deref().unwrap());
                found.entry(k.parse().unwrap()).or_default()[at] = count.parse().unwrap();
            }
        }
        found
    }

    /// Prepared transactions that nobody has ended yet.
    fn prepared(&self) -> i64 {
        let sql =
            format!("SELECT count(*) FROM pg_prepared_xacts WHERE database = '{}'", self.database);
        let count = |it| number(&self.cluster.sql(Node::Primary(it), "postgres", &sql).unwrap());
        count(0) + count(1)
    }

    /// The next client of the pool gets the answer to its own question, from every shard.
    fn is_well(next: &mut Wire, k: usize) {
        for tenant in TENANTS {
            let sql = format!("SELECT {k} FROM t WHERE tenant_id = {tenant} AND k = -1");
            assert_eq!(next.run(&sql).first(), k.to_string());
        }
    }
}

/// Two shards that let clients in without a password, as thousands log in.
fn servers() -> &'static Cluster {
    static SERVERS: OnceLock<Cluster> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let hba = vec!["host all app 127.0.0.1/32 trust".to_owned()];
        support::start(ClusterSpec { hba, ..support::spec(2, 0) })
    })
}

fn number(rows: &pgsluice::playground::Rows) -> i64 {
    rows[0][0].as_deref().unwrap().parse().unwrap()
}

/// What a client says, in full; `k` marks its rows.
struct Conversation {
    name: &'static str,
    say: fn(&mut Wire, usize) -> Vec<Answer>,
    /// Its server's connection is a new one.
    dials: bool,
    /// Rows that it leaves, by tenant.
    leaves: [i64; 2],
}

const CONVERSATIONS: &[Conversation] = &[
    Conversation {
        name: "log in",
        say: |client, k| {
            let [tenant, _] = TENANTS;
            vec![client.query(&format!("INSERT INTO t VALUES ({tenant}, {k}, 1)"))]
        },
        dials: true,
        leaves: [1, 0],
    },
    Conversation {
        name: "simple query",
        say: |client, k| {
            let [tenant, _] = TENANTS;
            vec![client.query(&format!("INSERT INTO t VALUES ({tenant}, {k}, 1) RETURNING k, n"))]
        },
        dials: false,
        leaves: [1, 0],
    },
    Conversation {
        name: "extended batch",
        say: |client, k| {
            let sql = b"INSERT INTO t VALUES ($1, $2, 1) RETURNING k";
            frontend::parse(&mut client.out, b"", sql, [20, 23]);
            let tenant = TENANTS[0].to_string().into_bytes();
            for _ in 0..2 {
                let values = [Some(&tenant[..]), Some(&k.to_string().into_bytes()[..])];
                frontend::bind(&mut client.out, b"", &values, 0);
                frontend::execute(&mut client.out, b"", 0);
            }
            frontend::sync(&mut client.out);
            vec![client.answer(b"")]
        },
        dials: false,
        leaves: [2, 0],
    },
    Conversation {
        name: "COPY in",
        say: |client, k| {
            let data = format!("{0}\t{k}\t1\n{0}\t{k}\t2\n", TENANTS[0]);
            vec![client.copy("COPY t FROM STDIN", data.as_bytes())]
        },
        dials: false,
        leaves: [2, 0],
    },
    Conversation {
        name: "COPY out",
        say: |client, _| {
            let sql = "COPY (SELECT * FROM t WHERE tenant_id = 1 AND k = -1) TO STDOUT";
            vec![client.query(sql)]
        },
        dials: false,
        leaves: [0, 0],
    },
    Conversation {
        name: "two phases",
        say: |client, k| {
            let [one, two] = TENANTS;
            let sql = [
                "BEGIN".to_owned(),
                format!("INSERT INTO t VALUES ({one}, {k}, 1)"),
                format!("INSERT INTO t VALUES ({two}, {k}, 1)"),
                "COMMIT".to_owned(),
            ];
            sql.iter().map(|it| client.query(it)).collect()
        },
        dials: false,
        leaves: [1, 1],
    },
];

/// Whether the answers say that it has happened. Any other must be an error that tells what.
fn is_done(answers: &[Answer], whole: &[Answer], may_vanish: bool, what: &str) -> bool {
    if answers == whole {
        return true;
    }
    let failed = answers.iter().find(|it| it.error.is_some());
    let failed = failed.unwrap_or_else(|| panic!("{what}: neither whole nor failed: {answers:?}"));
    let code = failed.code();
    assert!(may_vanish || code != "lost", "{what}: the client was dropped without a word");
    assert!(code == "lost" || code.len() == 5, "{what}: {failed:?}");
    false
}

/// Answers without what differs from attempt to attempt.
fn plain(answers: Vec<Answer>) -> Vec<Answer> {
    let mut answers = answers;
    answers.iter_mut().filter(|it| it.error.is_none()).for_each(|it| it.rows.clear());
    answers
}

/// An attempt that was cut off.
struct Attempt {
    k: usize,
    is_done: bool,
    leaves: [i64; 2],
    what: String,
}

/// Cuts one conversation at every byte of one side, on one relay.
fn cut_everywhere(
    site: &Site,
    it: &Conversation,
    (relay, of): (&Relay, Side),
    attempts: &mut Vec<Attempt>,
) {
    let is_front = std::ptr::eq(relay, &site.front);
    let (mut client, mut next) = (site.client(), site.proxy.client());
    next.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut attempt = |at: Option<usize>, k: usize| {
        if it.dials && !is_front {
            relay.cut();
            std::thread::sleep(Duration::from_millis(2));
        }
        match at {
            None => relay.disarm(),
            Some(at) => {
                let then = if at % 2 == 0 { Fate::Close } else { Fate::Reset };
                relay.trap(Trap { of, at: At::Byte(at), then });
            }
        }
        let answers = plain((it.say)(&mut client, k));
        let total = relay.bytes(of);
        relay.disarm();
        if answers.last().is_none_or(|it| it.code() == "lost") {
            client = site.client();
        } else if answers.last().is_some_and(|it| it.status != 'I') {
            client.run("ROLLBACK");
        }
        Site::is_well(&mut next, k);
        (answers, total)
    };
    // Statements are known and servers there, so that every attempt says the same bytes.
    let (whole, total) = (0..3).map(|_| attempt(None, 1_000_000)).last().unwrap();
    assert!(whole.iter().all(|it| it.error.is_none()), "{whole:?}");
    // A login is long, repeats itself, and is tried again after a while. Of a request all that counts is
    // whether it is whole. `CUTS=all` leaves none out.
    let step = match (it.dials, of) {
        _ if std::env::var("CUTS").is_ok() => 1,
        (true, Side::Server) => 7,
        (false, Side::Server) => 1,
        (_, Side::Client) => 3,
    };
    for at in (0..total).step_by(step) {
        let k = 1_000_001 + attempts.len();
        let (answers, _) = attempt(Some(at), k);
        let what = format!("{}, {of:?} cut after {at} of {total} bytes", it.name);
        let is_done = is_done(&answers, &whole, is_front, &what);
        attempts.push(Attempt { k, is_done, leaves: it.leaves, what });
    }
}

fn cut_all(name: &str, relays: fn(&Site, &Conversation) -> Vec<usize>) {
    let (site, mut attempts) = (Site::new(name), Vec::new());
    for it in CONVERSATIONS {
        for at in relays(&site, it) {
            let relay = if at == 2 { &site.front } else { &site.shards[at] };
            for of in [Side::Server, Side::Client] {
                cut_everywhere(&site, it, (relay, of), &mut attempts);
            }
        }
    }
    wait_within(10, "everything prepared to be ended", || site.prepared() == 0);
    let left = site.rows();
    for Attempt { k, is_done, leaves, what } in attempts {
        let rows = left.get(&k).copied().unwrap_or_default();
        assert!([leaves, [0, 0]].contains(&rows), "{what}: {rows:?}");
        assert!(!is_done || rows == leaves, "{what}: acknowledged, but {rows:?}");
    }
    wait_within(10, "the pools to rest", || {
        let all = |column| site.proxy.show("POOLS", column).iter().all(|it| it == "0");
        all("in_use") && all("cleaning") && all("waiting")
    });
    assert!(!site.proxy.log().contains("panicked"), "{}", site.proxy.log());
}

#[test]
fn servers_lost_at_every_byte() {
    cut_all("cuts_servers", |site, it| {
        (0..2).filter(|at| it.leaves[1] == 1 || site.owners[0] == *at).collect()
    });
}

#[test]
fn clients_lost_at_every_byte() {
    cut_all("cuts_clients", |_, _| vec![2]);
}
