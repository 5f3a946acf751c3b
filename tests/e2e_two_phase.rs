//! Two-phase commit while proxies, servers and the network between them are lost at every step: every
//! transaction is whole afterwards, what is left prepared is ended within ten seconds, and who was told
//! of a commit sees it.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pgsluice::exec::two_phase::recovery;
use pgsluice::metrics::Metrics;
use pgsluice::playground::{Cluster, ClusterSpec, Login, Node};
use pgsluice::pool::cluster;
use support::proxy::{Proxy, ProxySpec, wait_for, wait_within};
use support::relay::{At, Fate, Mode, Relay, Side, Trap, springs};
use support::wire::{Answer, Wire};

/// A tenant of shard 1, which prepares, and one of shard 0, which decides.
const TENANTS: [u32; 2] = [1, 6];
/// What is left prepared is ended after so many seconds at most.
const ORPHANS: u64 = 10;
/// How long the network or a server is lost before it is there again.
const LOST: Duration = Duration::from_millis(300);

fn servers() -> Cluster {
    let hba = vec!["host all app 127.0.0.1/32 trust".to_owned()];
    let cluster = support::start(ClusterSpec { hba, ..support::spec(2, 0) });
    let tables = "CREATE TABLE t (tenant_id bigint, k int); ALTER TABLE t OWNER TO app; \
                  GRANT CREATE ON DATABASE app TO app";
    cluster.sql_everywhere("app", tables).unwrap();
    cluster
}

/// A proxy whose way to each shard is a relay.
struct Site {
    proxy: Proxy,
    shards: [Relay; 2],
}

impl Site {
    fn new(cluster: &Cluster) -> Self {
        let shards = [0, 1].map(|it| Relay::start(cluster.primary_port(it)));
        let places: Vec<_> = shards.iter().map(|it| (it.port, vec![], "app".to_owned())).collect();
        let spec = ProxySpec::over(&places);
        let parameters = "?sslmode=disable".to_owned();
        Self { proxy: Proxy::start(ProxySpec { parameters, ..spec }), shards }
    }

    /// A transaction that wrote on both shards and is to be committed.
    fn written(&self, k: usize) -> Wire {
        let mut client = self.proxy.client();
        client.run("BEGIN");
        for tenant in TENANTS {
            client.run(&format!("INSERT INTO t VALUES ({tenant}, {k})"));
        }
        // Both servers are marked then, and what they say to that passes the relays before this.
        for tenant in TENANTS {
            client.run(&format!("SELECT k FROM t WHERE tenant_id = {tenant}"));
        }
        client
    }

    /// Lets a COMMIT go on until it is stopped; its answer comes when it can.
    fn stopped(&self, k: usize, (shard, of, number): Step) -> thread::JoinHandle<Answer> {
        let mut client = self.written(k);
        self.shards[shard].trap(Trap { of, at: At::Message(number), then: Fate::Hold });
        let commit = thread::spawn(move || client.query("COMMIT"));
        let what = format!("shard {shard}, {of:?}, message {number}");
        assert!(springs(&[&self.shards[shard]], Duration::from_secs(10)), "{what}");
        commit
    }
}

/// Shard, side and number of the message before which a COMMIT is stopped.
type Step = (usize, Side, usize);

/// PREPARE and COMMIT PREPARED on shard 1; the decision and its COMMIT on shard 0. Each is answered by a
/// tag and ReadyForQuery.
fn steps() -> impl Iterator<Item = (usize, Step)> {
    let sides = [(Side::Client, 2), (Side::Server, 4)];
    let of_shard = move |shard| {
        sides.into_iter().flat_map(move |(side, count)| (0..count).map(move |it| (shard, side, it)))
    };
    (0..2).flat_map(of_shard).enumerate().map(|(at, step)| (at + 1, step))
}

fn number(cluster: &Cluster, shard: usize, sql: &str) -> i64 {
    let rows = cluster.sql(Node::Primary(shard), "app", sql).unwrap();
    rows[0][0].as_deref().unwrap().parse().unwrap()
}

fn prepared(cluster: &Cluster) -> i64 {
    (0..2).map(|it| number(cluster, it, "SELECT count(*) FROM pg_prepared_xacts")).sum()
}

/// The rows of a transaction, on both shards.
fn rows(cluster: &Cluster, k: usize) -> [i64; 2] {
    [0, 1].map(|it| number(cluster, it, &format!("SELECT count(*) FROM t WHERE k = {k}")))
}

#[test]
fn proxies_killed_at_every_step() {
    let cluster = servers();
    let survivor = Proxy::start(ProxySpec::of(&cluster, "app"));
    let mut outcomes = Vec::new();
    for (k, step) in steps() {
        let mut site = Site::new(&cluster);
        let commit = site.stopped(k, step);
        site.proxy.kill9();
        outcomes.push((k, step, commit.join().unwrap()));
    }
    wait_within(ORPHANS, "the orphans' end", || prepared(&cluster) == 0);
    for (k, step, answer) in outcomes {
        assert_eq!(answer.code(), "lost");
        let rows = rows(&cluster, k);
        assert!([[0, 0], [1, 1]].contains(&rows), "{step:?}: {rows:?}");
        // Once shard 1 is to commit what it has prepared, it is decided.
        if step.0 == 1 && (step.1 == Side::Client && step.2 == 1 || step.2 >= 2) {
            assert_eq!(rows, [1, 1], "{step:?}");
        }
    }
    assert!(!survivor.log().contains("panicked"));
}

/// An answer to a COMMIT: what was told is seen at once.
fn check_told(site: &Site, (k, step): (usize, Step), answer: &Answer) {
    if answer.tags.contains(&"COMMIT".to_owned()) {
        for tenant in TENANTS {
            let sql = format!("SELECT count(*) FROM t WHERE tenant_id = {tenant} AND k = {k}");
            let seen = site.proxy.client().query(&sql);
            assert_eq!(seen.first(), "1", "{step:?}: told, but {seen:?}");
        }
    }
}

/// What the loss of a server, or of the way to it, means to a COMMIT that is stopped there.
fn expected((shard, of, number): Step) -> &'static str {
    match (shard, of, number) {
        // Shard 1 is to commit what it has prepared: the decision stands, its loss costs waiting only.
        (1, Side::Client, 1) | (1, Side::Server, 2 | 3) => "",
        // Shard 0 may have committed the decision.
        (0, Side::Client, 1) | (0, Side::Server, 2 | 3) => "08007",
        _ => "08006",
    }
}

/// Everything is whole, and its client was told as much as can be known.
fn check_whole(cluster: &Cluster, outcomes: &[(usize, Step, Answer)]) {
    wait_within(ORPHANS, "the orphans' end", || prepared(cluster) == 0);
    for (k, step, answer) in outcomes {
        let allowed: &[[i64; 2]] = match answer.code() {
            "" => &[[1, 1]],
            "08007" => &[[0, 0], [1, 1]],
            _ => &[[0, 0]],
        };
        let rows = rows(cluster, *k);
        assert_eq!(answer.code(), expected(*step), "{step:?}: {answer:?}");
        assert!(allowed.contains(&rows), "{step:?}: {rows:?}, {answer:?}");
    }
}

/// Stops a COMMIT at every step, lets `lose` do something to the shard that is spoken with there, and looks
/// what has become of it.
fn lose_at_every_step(lose: impl Fn(&Cluster, &Site, usize)) {
    let cluster = servers();
    let site = Site::new(&cluster);
    let outcome = |(k, step): (usize, Step)| {
        let commit = site.stopped(k, step);
        lose(&cluster, &site, step.0);
        let answer = commit.join().unwrap();
        let count = || site.proxy.client().query("SELECT count(*) FROM t");
        wait_for("the servers", || count().error.is_none());
        check_told(&site, (k, step), &answer);
        (k, step, answer)
    };
    check_whole(&cluster, &steps().map(outcome).collect::<Vec<_>>());
    assert!(!site.proxy.log().contains("panicked"));
}

#[test]
fn networks_lost_at_every_step() {
    lose_at_every_step(|_, site, shard| {
        thread::sleep(LOST);
        site.shards[shard].cut();
        site.shards[shard].set(Mode::Open);
    });
}

#[test]
fn servers_killed_at_every_step() {
    lose_at_every_step(|cluster, site, shard| {
        let server = cluster.server(Node::Primary(shard));
        server.kill9();
        site.shards[shard].cut();
        site.shards[shard].set(Mode::Open);
        server.start().unwrap();
    });
}

#[test]
fn what_is_in_doubt_is_shown_and_holds_nobody_up() {
    let cluster = servers();
    let site = Site::new(&cluster);
    // Who decides about one of them does not answer.
    site.shards[1].set(Mode::Silent);
    let app =
        Login { user: "app".into(), ..Login::superuser("shard", cluster.primary_port(0), "app") };
    let gid = |deciding, number| format!("sluice:1:{deciding}:{number:032x}:0");
    for (k, deciding) in [(1, 1), (2, 0), (3, 1)] {
        let gid = gid(deciding, k);
        app.run(&format!("BEGIN; INSERT INTO t VALUES (6, {k}); PREPARE TRANSACTION '{gid}'"))
            .unwrap();
    }
    let shown = |column| site.proxy.show("TRANSACTIONS", column);
    wait_for("all to be seen", || shown("gid") == [gid(0, 2), gid(1, 1), gid(1, 3)]);
    assert_eq!(shown("deciding_shard"), ["0", "1", "1"]);
    assert_eq!(shown("shard"), ["0", "0", "0"]);
    wait_within(ORPHANS, "the end of what can be ended", || shown("gid") == [gid(1, 1), gid(1, 3)]);
    site.shards[1].set(Mode::Refused);
    site.shards[1].cut();
    wait_within(30, "the reason", || {
        shown("problem").iter().any(|it| it.contains("shard 1, which decides"))
    });
    let page = site.proxy.page("/metrics").1;
    assert!(page.contains("sluice_transactions_in_doubt{database=\"app\"} 2"), "{page}");
    site.shards[1].set(Mode::Open);
    wait_within(ORPHANS, "the orphans' end", || prepared(&cluster) == 0);
    wait_for("nothing in doubt", || shown("gid").is_empty());
    assert_eq!([1, 2, 3].map(|it| rows(&cluster, it)), [[0, 0]; 3]);
}

#[test]
fn decisions_are_forgotten_once_nobody_can_ask() {
    let servers = servers();
    let gid = |number| format!("sluice:1:0:{number:032x}");
    let on = |shard, sql: &str| servers.sql(Node::Primary(shard), "app", sql).unwrap();
    let decide = |number, age| {
        let row = format!("'{}', true, now() - interval '{age}'", gid(number));
        on(0, &format!("INSERT INTO sluice.decision VALUES ({row})"));
    };
    let left = || {
        let sql = "SELECT string_agg(right(gid, 1), '' ORDER BY gid) FROM sluice.decision";
        on(0, sql)[0][0].clone().unwrap_or_default()
    };
    let text = ProxySpec::of(&servers, "app").toml(1, 2);
    let nothing = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let config = pgsluice::config::parse("pgsluice.toml", &text, &|_| None, &nothing).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let snapshot = cluster::Cluster::new(Arc::new(config), None, &Metrics::new().unwrap());
        let database = &snapshot.databases["app"];
        for shard in database.shards.values() {
            recovery::prepare_shard(shard).await.unwrap();
        }
        decide(1, "2 days");
        decide(2, "1 hour");
        decide(3, "2 days");
        let orphan = format!("INSERT INTO t VALUES (1, 1); PREPARE TRANSACTION '{}:1'", gid(3));
        on(1, &format!("BEGIN; {orphan}"));
        let mut horizon = recovery::Horizon::new();
        // The first look only notes what there is.
        recovery::forget(database, &mut horizon).await.unwrap();
        assert_eq!(left(), "123");
        // As if the clock had jumped: it was made after the last look.
        decide(4, "2 days");
        recovery::forget(database, &mut horizon).await.unwrap();
        assert_eq!(left(), "234");
        recovery::forget(database, &mut horizon).await.unwrap();
        assert_eq!(left(), "23");
        on(1, &format!("ROLLBACK PREPARED '{}:1'", gid(3)));
        recovery::forget(database, &mut horizon).await.unwrap();
        assert_eq!(left(), "2");
    });
}
