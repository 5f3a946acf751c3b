//! Snapshots over several shards: money that moves between shards is never seen twice or not at all.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::proxy::Proxy;
use support::wire::Wire;

const TENANTS: usize = 12;
const SUM: &str = "SELECT sum(balance) FROM accounts";

/// Two proxies over four shards with accounts of a hundred each.
fn bank(name: &str) -> ([Proxy; 2], String) {
    let (mut spec, [first, _]) = support::four_shards(name);
    spec.database.push_str("cross_shard_snapshot = \"barrier\"\n");
    let proxies = [Proxy::start(spec.clone()), Proxy::start(spec)];
    let mut client = proxies[0].client();
    client.run("CREATE TABLE accounts (tenant_id bigint PRIMARY KEY, balance bigint NOT NULL)");
    let rows = format!("SELECT n, 100 FROM generate_series(1, {TENANTS}) n");
    client.run(&format!("INSERT INTO accounts {rows}"));
    (proxies, first)
}

/// Moves money between two tenants; whether that was possible.
fn transfer(client: &mut Wire, from: usize, to: usize) -> bool {
    client.run("BEGIN");
    let change =
        |id, by| format!("UPDATE accounts SET balance = balance {by} WHERE tenant_id = {id}");
    let first = client.query(&change(from, "- 7"));
    let second = client.query(&change(to, "+ 7"));
    let done = first.error.is_none() && second.error.is_none();
    client.query(if done { "COMMIT" } else { "ROLLBACK" }).error.is_none() && done
}

#[test]
fn every_read_sees_transfers_whole_or_not_at_all() {
    let (proxies, _) = bank("snapshots");
    let is_over = AtomicBool::new(false);
    let (moved, read) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for n in 0..4 {
            let mut client = proxies[n % 2].client();
            let (is_over, moved) = (&is_over, &moved);
            scope.spawn(move || {
                let mut step = n;
                while !is_over.load(Ordering::Relaxed) {
                    step += 1;
                    let (from, to) = (1 + step * 5 % TENANTS, 1 + (step * 7 + n) % TENANTS);
                    moved
                        .fetch_add(usize::from(transfer(&mut client, from, to)), Ordering::Relaxed);
                }
            });
        }
        for proxy in &proxies {
            let mut client = proxy.client();
            let read = &read;
            scope.spawn(move || {
                let end = Instant::now() + Duration::from_secs(3);
                while Instant::now() < end {
                    assert_eq!(client.run(SUM).first(), (TENANTS * 100).to_string());
                    client.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
                    let one =
                        client.run("SELECT balance FROM accounts WHERE tenant_id = 1").first();
                    assert_eq!(client.run(SUM).first(), (TENANTS * 100).to_string());
                    let again =
                        "SELECT balance, count(*) OVER () FROM accounts WHERE tenant_id = 1";
                    assert_eq!(client.run(again).first(), one);
                    client.run("COMMIT");
                    read.fetch_add(1, Ordering::Relaxed);
                }
                // The other reader may go on: transfers last to its end, too.
            });
        }
        thread::sleep(Duration::from_secs(3));
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(moved.load(Ordering::Relaxed) > 20 && read.load(Ordering::Relaxed) > 5);
    let mut client = proxies[0].client();
    client.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    client.run("SELECT balance FROM accounts WHERE tenant_id = 1");
    assert_eq!(client.query(SUM).code(), "0A000");
}

#[test]
fn a_commit_that_is_half_done_is_waited_for() {
    let (proxies, name) = bank("half_done");
    let mut client = proxies[0].client();
    // As if a proxy had been lost between the decision on shard 0 and the commit on shard 2.
    let gid = "sluice:1:0:000000000000000000000000000000ab";
    let direct = |node| {
        let port = support::shared().primary_port(node);
        Wire::login(port, "app", "app", &name).unwrap()
    };
    direct(0).run(&format!("INSERT INTO sluice.decision (gid, committed) VALUES ('{gid}', true)"));
    let mut left = direct(1);
    left.run("BEGIN");
    left.run("UPDATE accounts SET balance = balance + 1");
    left.run(&format!("PREPARE TRANSACTION '{gid}:2'"));
    let start = Instant::now();
    // Recovery ends what has been prepared for three seconds.
    let sum: usize = client.run(SUM).first().parse().unwrap();
    assert!(sum > TENANTS * 100, "{sum}");
    assert!(start.elapsed() > Duration::from_millis(200));
}
