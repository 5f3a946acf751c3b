//! The proxy over scripted servers: in-memory shards whose replicas lag as they are told, whose connections
//! end at any byte, and which count what they run. Seeded, but in real time: clients live on threads and
//! clocks of their own, so that the clock cannot be paused.
//!
//! Checked are the promises of `chaos/history.rs`, that no statement runs twice, and that every Sync has one
//! ReadyForQuery.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "chaos/history.rs"]
mod history;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "chaos/random.rs"]
mod random;
#[path = "simulation/server.rs"]
mod server;
#[path = "simulation/shard.rs"]
mod shard;
#[path = "simulation/statement.rs"]
mod statement;
mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use history::{Anomaly, Item, Lists, Op, Outcome, Tenant, What};
use pgsluice::wire::frontend;
use random::Random;
use server::Host;
use shard::Shard;
use support::proxy::{Proxy, ProxySpec, wait_within};
use support::wire::{Answer, Wire};

const SHARDS: usize = 2;
const REPLICAS: usize = 2;
const CLIENTS: u64 = 6;
const TENANTS: u64 = 32;
/// Operations that a run takes at least.
const ENOUGH: usize = 300;

/// Servers, on a thread and runtime of their own.
struct Servers {
    hosts: Vec<Vec<Arc<Host>>>,
    end: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Servers {
    fn start(seed: u64) -> Self {
        let (started, hosts) = std::sync::mpsc::channel();
        let (end, ended) = tokio::sync::oneshot::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let of_shard = |number: usize| {
                    let shard = Arc::new(Mutex::new(Shard::default()));
                    let seed = |host: usize| seed * 100 + (number * 10 + host) as u64;
                    let host = |it| Host::start(&shard, it > 0, seed(it));
                    (0..=REPLICAS).map(host).collect::<Vec<_>>()
                };
                started.send((0..SHARDS).map(of_shard).collect::<Vec<_>>()).unwrap();
                let _ = ended.await;
            });
        });
        Self { hosts: hosts.recv().unwrap(), end: Some(end) }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts.iter().flatten()
    }

    fn spec(&self) -> ProxySpec {
        let place = |it: &Vec<Arc<Host>>| {
            (it[0].port, it[1..].iter().map(|it| it.port).collect(), "app".to_owned())
        };
        let mut spec = ProxySpec::over(&self.hosts.iter().map(place).collect::<Vec<_>>());
        spec.parameters = "?sslmode=disable".to_owned();
        spec.database = "tenant_column = \"tenant_id\"\nhome_shard = 0\n".to_owned();
        spec.pool = "size = 4\nwait_timeout = \"3s\"\n".to_owned();
        spec
    }

    fn heal(&self) {
        for host in self.all() {
            host.is_frail.store(false, Ordering::SeqCst);
            host.is_down.store(false, Ordering::SeqCst);
            host.lag_ms.store(0, Ordering::SeqCst);
        }
    }

    fn lists(&self) -> Lists {
        let mut lists = Lists::new();
        for shard in &self.hosts {
            for row in &shard[0].shard().log {
                lists.entry(row.tenant).or_default().push(row.n);
            }
        }
        lists
    }
}

impl Servers {
    /// Each item was inserted once for each list, whatever became of it.
    fn check_inserted(&self, ops: &[Op]) {
        let mut wanted: HashMap<Item, usize> = HashMap::new();
        for op in ops {
            if let What::Append(writes) = &op.what {
                writes.iter().for_each(|it| *wanted.entry(it.1).or_default() += 1);
            }
        }
        let mut ran: HashMap<Item, usize> = HashMap::new();
        for shard in &self.hosts {
            let shard = shard[0].shard();
            shard.inserted.iter().for_each(|(it, count)| *ran.entry(*it).or_default() += count);
        }
        let twice = ran.iter().filter(|(it, count)| wanted.get(*it).is_none_or(|max| *count > max));
        assert_eq!(twice.collect::<Vec<_>>(), [], "ran more often than they were sent");
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.end.take());
    }
}

/// What clients share.
struct Run {
    port: u16,
    begun: Instant,
    is_over: AtomicBool,
    ops: Mutex<Vec<Op>>,
    next: AtomicU64,
    on_replicas: AtomicU64,
}

impl Run {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    fn note(&self, begun: u64, what: What, outcome: Outcome) {
        let op = Op { proxy: 0, begun, ended: self.now(), what, outcome };
        self.ops.lock().unwrap().push(op);
    }

    fn work(&self, mut random: Random) {
        let open = || {
            let client = Wire::login(self.port, "app", "app", "app").ok()?;
            client.stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
            Some(client)
        };
        let (mut one, mut two) = (None, None);
        while !self.is_over.load(Ordering::Relaxed) {
            let (Some(writer), Some(reader)) = (&mut one, &mut two) else {
                (one, two) = (open(), open());
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            let tenant = 1 + random.below(TENANTS) as Tenant;
            let is_well = match random.below(10) {
                0..=1 => self.append(writer, tenant, &mut random) && self.read(reader, tenant),
                2 => self.append_both(writer, tenant, 1 + (tenant + 2) % TENANTS as Tenant),
                3 => self.pipeline(writer, tenant),
                _ => self.read(reader, tenant),
            };
            if !is_well {
                (one, two) = (None, None);
            }
        }
    }

    fn item(&self) -> Item {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn append(&self, client: &mut Wire, tenant: Tenant, random: &mut Random) -> bool {
        let (item, begun) = (self.item(), self.now());
        let answer = match random.once_in(2) {
            true => {
                client.query(&format!("INSERT INTO log (tenant_id, n) VALUES ({tenant}, {item})"))
            }
            false => {
                push_insert(client, tenant, item);
                client.answer(b"")
            }
        };
        self.note(begun, What::Append(vec![(tenant, item)]), outcome(&answer));
        answer.error.is_none()
    }

    /// Three batches at once: three answers, each ended by one ReadyForQuery.
    fn pipeline(&self, client: &mut Wire, tenant: Tenant) -> bool {
        let begun = self.now();
        let items = [self.item(), self.item(), self.item()];
        items.iter().for_each(|it| push_insert(client, tenant, *it));
        for item in items {
            let answer = client.answer(b"");
            self.note(begun, What::Append(vec![(tenant, item)]), outcome(&answer));
            if answer.code() == "lost" {
                // Nobody knows of the others either.
                for rest in items.iter().skip_while(|it| **it != item).skip(1) {
                    self.note(begun, What::Append(vec![(tenant, *rest)]), Outcome::Unknown);
                }
                return false;
            }
        }
        true
    }

    fn append_both(&self, client: &mut Wire, one: Tenant, two: Tenant) -> bool {
        let (item, begun) = (self.item(), self.now());
        let insert = |it| format!("INSERT INTO log (tenant_id, n) VALUES ({it}, {item})");
        let mut known = Outcome::Failed;
        let steps = ["BEGIN".to_owned(), insert(one), insert(two), "COMMIT".to_owned()];
        for step in &steps {
            let answer = client.query(step);
            if step == "COMMIT" {
                known = outcome(&answer);
            }
            if answer.error.is_some() {
                break;
            }
        }
        self.note(begun, What::Append(vec![(one, item), (two, item)]), known);
        known == Outcome::Done
    }

    fn read(&self, client: &mut Wire, tenant: Tenant) -> bool {
        let begun = self.now();
        let sql = format!("SELECT n, pg_is_in_recovery() FROM log WHERE tenant_id = {tenant}");
        let answer = client.query(&sql);
        check_in_step(&answer);
        if answer.error.is_some() {
            return false;
        }
        let text = |it: &Option<Vec<u8>>| String::from_utf8(it.clone().unwrap()).unwrap();
        let items = answer.rows.iter().map(|row| text(&row[0]).parse().unwrap()).collect();
        let is_replica = answer.rows.first().is_some_and(|row| text(&row[1]) == "t");
        self.on_replicas.fetch_add(u64::from(is_replica), Ordering::Relaxed);
        self.note(begun, What::Read { tenant, items, token: None }, Outcome::Done);
        true
    }
}

fn push_insert(client: &mut Wire, tenant: Tenant, item: Item) {
    let sql = b"INSERT INTO log (tenant_id, n) VALUES ($1, $2)";
    frontend::parse(&mut client.out, b"", sql, [20, 20]);
    let values = [tenant.to_string().into_bytes(), item.to_string().into_bytes()];
    frontend::bind(&mut client.out, b"", &values.each_ref().map(|it| Some(&it[..])), 0);
    frontend::execute(&mut client.out, b"", 0);
    frontend::sync(&mut client.out);
}

/// A ReadyForQuery too many would stand for an answer of its own.
fn check_in_step(answer: &Answer) {
    assert!(answer.error.is_some() || answer.tags.len() == 1, "out of step: {answer:?}");
}

fn outcome(answer: &Answer) -> Outcome {
    check_in_step(answer);
    match answer.code() {
        "" => Outcome::Done,
        "lost" | "57P01" | "57P02" | "XX000" | "40003" => Outcome::Unknown,
        code if code.starts_with("08") => Outcome::Unknown,
        _ => Outcome::Failed,
    }
}

/// Things that befall servers and the proxy, until the time is over.
fn befall(
    servers: &Servers,
    proxy: &mut Proxy,
    mut random: Random,
    is_over: impl Fn(Duration) -> bool,
) {
    let begun = Instant::now();
    servers.all().for_each(|it| it.is_frail.store(true, Ordering::SeqCst));
    while !is_over(begun.elapsed()) {
        thread::sleep(Duration::from_millis(random.between(20, 120)));
        let shard = random.below(SHARDS as u64) as usize;
        let replica = 1 + random.below(REPLICAS as u64) as usize;
        match random.below(8) {
            0..=3 => {
                let lag = [0, 5, 40, 150, 600][random.below(5) as usize];
                servers.hosts[shard][replica].lag_ms.store(lag, Ordering::SeqCst);
            }
            4 | 5 => {
                let host = &servers.hosts[shard][random.below(REPLICAS as u64 + 1) as usize];
                host.crash();
                thread::sleep(Duration::from_millis(random.below(200)));
                host.is_down.store(false, Ordering::SeqCst);
            }
            6 if random.once_in(3) => {
                assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
                proxy.kill9();
                proxy.restart();
            }
            _ => (),
        }
    }
    servers.heal();
}

/// What is wrong; `lies`: replicas say that they have replayed all there is.
fn simulate(seed: u64, length: Duration, lies: bool) -> Vec<Anomaly> {
    let servers = Servers::start(seed);
    let mut proxy = Proxy::start(servers.spec());
    servers.all().for_each(|it| it.lies.store(lies, Ordering::SeqCst));
    let run = Run {
        port: proxy.port,
        begun: Instant::now(),
        is_over: AtomicBool::new(false),
        ops: Mutex::default(),
        next: AtomicU64::new(1),
        on_replicas: AtomicU64::new(0),
    };
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let run = &run;
            scope.spawn(move || run.work(Random(seed << 8 | client)));
        }
        // On a machine that is busy it takes its time.
        let is_over = |time: Duration| {
            time > 8 * length || time > length && run.ops.lock().unwrap().len() > ENOUGH
        };
        befall(&servers, &mut proxy, Random(seed), is_over);
        thread::sleep(Duration::from_millis(200));
        run.is_over.store(true, Ordering::Relaxed);
    });
    wait_within(10, "orphans to be ended", || {
        servers.hosts.iter().all(|it| it[0].shard().prepared.is_empty())
    });
    let ops = run.ops.into_inner().unwrap();
    let found = history::check(&ops, &servers.lists());
    let count = |of: Outcome| ops.iter().filter(|it| it.outcome == of).count();
    println!(
        "seed {seed}: {} done, {} failed, {} in doubt, {} reads by replicas",
        count(Outcome::Done),
        count(Outcome::Failed),
        count(Outcome::Unknown),
        run.on_replicas.load(Ordering::Relaxed)
    );
    servers.check_inserted(&ops);
    assert!(count(Outcome::Done) > ENOUGH / 2, "seed {seed}");
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    found
}

#[test]
fn promises_hold_over_scripted_servers() {
    let number = |name| std::env::var(name).ok().map(|it| it.parse::<u64>().unwrap());
    let (first, count) = (number("SIMULATION_SEED").unwrap_or(1), number("SIMULATION_RUNS"));
    for seed in first..first + count.unwrap_or(2) {
        let found = simulate(seed, Duration::from_secs(3), false);
        assert!(found.is_empty(), "seed {seed}: {found:#?}");
    }
}

#[test]
fn replicas_that_lie_are_found_out() {
    let found = simulate(1, Duration::from_secs(2), true);
    assert!(found.iter().any(|it| it.kind() == "stale read"), "{found:?}");
}
