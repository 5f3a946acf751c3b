//! 64 clients over two proxies write and at once read back on another connection, while every replica is
//! three seconds behind: no read may be stale, and replicas still serve those who have not just written.
//! `CAUSAL_READS=100000 CAUSAL_BY=token` asks for more of them, and reads back through the other proxy with
//! the write's token instead of through the same one.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use pgsluice::playground::{ClusterSpec, Node};
use support::proxy::{Proxy, ProxySpec};
use support::wire::Wire;

const CLIENTS: usize = 64;
/// Tenants that nobody writes any more.
const RESTING: usize = 128;
const DELAY: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Counts {
    back: AtomicUsize,
    stale: AtomicUsize,
    resting: AtomicUsize,
    on_replicas: AtomicUsize,
}

/// The number that a tenant has, and whether a replica told it.
fn read(client: &mut Wire, tenant: usize) -> (usize, bool) {
    let sql = format!("SELECT n, pg_is_in_recovery() FROM notes WHERE tenant_id = {tenant}");
    let answer = client.run(&sql);
    let text = |at: usize| String::from_utf8(answer.rows[0][at].clone().unwrap()).unwrap();
    (text(0).parse().unwrap(), text(1) == "t")
}

fn work(number: usize, proxies: &[Proxy; 2], by_token: bool, wanted: usize, counts: &Counts) {
    let (own, other) = (&proxies[number % 2], &proxies[(number + 1) % 2]);
    let (mut writer, mut rested) = (own.client(), own.client());
    let mut reader = if by_token { other.client() } else { own.client() };
    let tenant = number + 1;
    for n in 1.. {
        if counts.back.fetch_add(1, Ordering::Relaxed) >= wanted {
            return;
        }
        writer.run(&format!("UPDATE notes SET n = {n} WHERE tenant_id = {tenant}"));
        if by_token {
            let token = writer.run("SHOW sluice.token").first();
            reader.run(&format!("SET sluice.token = '{token}'"));
        }
        let (seen, _) = read(&mut reader, tenant);
        counts.stale.fetch_add(usize::from(seen != n), Ordering::Relaxed);
        let (_, is_replica) = read(&mut rested, 1_000 + (number * 31 + n * 17) % RESTING);
        counts.resting.fetch_add(1, Ordering::Relaxed);
        counts.on_replicas.fetch_add(usize::from(is_replica), Ordering::Relaxed);
    }
}

#[test]
fn no_read_is_stale_though_replicas_are_late() {
    let variable = |name| std::env::var(name).ok();
    let wanted = variable("CAUSAL_READS").map_or(1_000, |it| it.parse().unwrap());
    let by = match variable("CAUSAL_BY").as_deref() {
        None => vec![false, true],
        Some(it) => vec![it == "token"],
    };
    let delay = ("recovery_min_apply_delay".to_owned(), format!("{}s", DELAY.as_secs()));
    let hba = vec!["host all app 127.0.0.1/32 trust".to_owned()];
    let spec = ClusterSpec { settings: vec![delay], hba, ..support::spec(2, 2) };
    let cluster = support::start(spec);
    let table = "CREATE TABLE notes (tenant_id bigint PRIMARY KEY, n bigint NOT NULL); \
                 ALTER TABLE notes OWNER TO app; GRANT CREATE ON DATABASE app TO app";
    cluster.sql_everywhere("app", table).unwrap();
    let start = || {
        let spec = ProxySpec::of(&cluster, "app");
        let database = "tenant_column = \"tenant_id\"\nhome_shard = 0\n".to_owned();
        Proxy::start(ProxySpec { database, ..spec })
    };
    let proxies = [start(), start()];
    let mut client = proxies[0].client();
    for tenant in (1..=CLIENTS).chain(1_000..1_000 + RESTING) {
        client.run(&format!("INSERT INTO notes VALUES ({tenant}, 0)"));
    }
    thread::sleep(DELAY);
    cluster.wait_for_replicas().unwrap();
    for by_token in by {
        let counts = Counts::default();
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (proxies, counts) = (&proxies, &counts);
                scope.spawn(move || work(number, proxies, by_token, wanted, counts));
            }
        });
        let [resting, on_replicas, stale] = [&counts.resting, &counts.on_replicas, &counts.stale]
            .map(|it| it.load(Ordering::Relaxed));
        let share = 100.0 * on_replicas as f64 / resting as f64;
        let how = if by_token { "another proxy, with the token" } else { "the same proxy" };
        println!("read back through {how}: {stale} stale of {wanted}");
        println!(
            "reads of tenants that had not just written: {share:.1}% of {resting} by replicas"
        );
        assert_eq!(stale, 0, "read back through {how}");
        assert!(share >= 60.0, "{share:.1}%");
    }
    // The replicas were late indeed.
    let sum = |node| cluster.sql(node, "app", "SELECT sum(n) FROM notes").unwrap();
    assert_ne!(sum(Node::Primary(0)), sum(Node::Replica(0, 0)));
}
