//! A real Patroni with etcd decides who leads: the proxy follows it through a switchover, a lost leader and
//! the old one's return, and asks it for a switchover.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::patroni::Patroni;
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::wire::Wire;

/// Clients that write one number after the other until this is dropped.
struct Writers<'a> {
    port: u16,
    stop: &'a AtomicBool,
    written: &'a Mutex<Written>,
}

#[derive(Default)]
struct Written {
    acknowledged: BTreeSet<i64>,
    errors: Vec<String>,
    longest: Duration,
}

impl Writers<'_> {
    fn run(&self, number: i64) {
        let mut client = Wire::login(self.port, "app", "app", "app").unwrap();
        let mut next = number * 1_000_000;
        while !self.stop.load(Ordering::Relaxed) {
            next += 1;
            let begun = Instant::now();
            let answer = client.query(&format!("INSERT INTO t VALUES ({next})"));
            let mut written = self.written.lock().unwrap();
            written.longest = written.longest.max(begun.elapsed());
            match answer.error {
                None => drop(written.acknowledged.insert(next)),
                Some((code, message)) => written.errors.push(format!("{code} {message}")),
            }
            drop(written);
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What clients were told that write while something happens, and a little longer.
fn while_writing(proxy: &Proxy, from: i64, happens: impl FnOnce()) -> Written {
    let (stop, written) = (AtomicBool::new(false), Mutex::default());
    thread::scope(|scope| {
        for number in from..from + 4 {
            let writers = Writers { port: proxy.port, stop: &stop, written: &written };
            scope.spawn(move || writers.run(number));
        }
        thread::sleep(Duration::from_millis(300));
        happens();
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
    });
    let written = written.into_inner().unwrap();
    let (count, longest) = (written.acknowledged.len(), written.longest);
    println!("{count} acknowledged, the longest took {longest:?}; {:?}", written.errors);
    written
}

/// The configuration names the first member only.
fn spec(patroni: &Patroni) -> ProxySpec {
    let first = patroni.members[0].port;
    ProxySpec {
        database: "failover_wait = \"30s\"\n".to_owned(),
        patroni: patroni.urls(),
        ..ProxySpec::over(&[(first, Vec::new(), "app".to_owned())])
    }
}

/// With the first member alone, and with a password that is wrong.
fn narrow(patroni: &Patroni) -> Proxy {
    let spec = spec(patroni);
    Proxy::start(ProxySpec {
        database: "failover_wait = \"1s\"\n".to_owned(),
        patroni: spec.patroni.iter().map(|it| it.replace(":p%40ss@", ":guess@")).collect(),
        shard: "patroni_members = false\n".to_owned(),
        ..spec
    })
}

/// Whether `pgsluice check` finds nothing, and what it tells.
fn check(proxy: &Proxy) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
    let output = command.args(["check", "--config"]).arg(proxy.file()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn primary(proxy: &Proxy) -> String {
    let (roles, hosts) = (proxy.show("SHARDS", "role"), proxy.show("SHARDS", "host"));
    let found = roles.iter().zip(hosts).find(|it| it.0 == "primary");
    found.map(|it| it.1).unwrap_or_default()
}

#[test]
fn a_real_patroni_is_followed() {
    let mut patroni = Patroni::start(&["a", "b"]);
    let places: Vec<String> =
        patroni.members.iter().map(|it| format!("127.0.0.1:{}", it.port)).collect();
    let proxy = Proxy::start(spec(&patroni));
    let narrow = narrow(&patroni);
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a bigint)");
    // Who is not written is found, and serves.
    wait_for("the other member", || proxy.show("HOSTS", "state") == ["up", "up"]);
    assert_eq!(proxy.show("HOSTS", "host"), places);
    assert_eq!(proxy.show("HOSTS", "named_by"), ["configuration", "patroni"]);
    assert_eq!(primary(&proxy), places[0]);
    wait_for("a read of the replica", || {
        let is_there = "/* sluice.role=replica */ SELECT pg_is_in_recovery()";
        client.query(is_there).first() == "t"
    });
    assert!(!proxy.log().contains("p@ss") && !proxy.log().contains("p%40ss"), "{}", proxy.log());

    // A proxy that is not to use it says so.
    let problem = format!("not used, though Patroni lists it: {}", places[1]);
    wait_for("the problem", || narrow.show("SHARDS", "problem")[0].contains(&problem));
    assert!(narrow.log().contains("Patroni lists a member that is not in the configuration"));
    let refused = narrow.admin("SWITCHOVER app SHARD 0");
    let why = format!("https://admin@127.0.0.1:{} answered 401: ", patroni.members[0].api);
    assert_eq!(refused.code(), "55000", "{refused:?}");
    assert!(refused.detail.contains(&why), "{}", refused.detail);
    narrow.client().run("INSERT INTO t VALUES (-1)");

    // As patronictl does it: what runs in that moment is cut off, the rest waits.
    let mut all = BTreeSet::new();
    let mut written = while_writing(&proxy, 0, || {
        let (status, text) = patroni.switchover(0, 1);
        assert_eq!(status, 200, "{text}");
        wait_for("the new leader", || primary(&proxy) == places[1]);
    });
    assert!(written.errors.len() <= 4, "{:?}", written.errors);
    assert!(written.errors.iter().all(|it| it.starts_with("0800")), "{:?}", written.errors);
    all.append(&mut written.acknowledged);

    wait_for("the replica", || proxy.show("HOSTS", "state") == ["up", "up"]);
    let (is_well, told) = check(&proxy);
    assert!(is_well, "{told}");
    let (is_well, told) = check(&narrow);
    assert!(!is_well && told.contains("none of the configured hosts"), "{told}");
    let without = narrow.client().query("INSERT INTO t VALUES (-2)");
    assert_eq!(without.code(), "57P03", "{without:?}");
    assert!(without.detail.contains("none of the configured hosts"), "{}", without.detail);

    // Asked by the proxy nothing is cut off, though clients write.
    let mut written = while_writing(&proxy, 10, || {
        let answer = proxy.admin(&format!("SWITCHOVER app SHARD 0 TO '{}'", places[0]));
        assert_eq!(answer.error, None, "{}", answer.detail);
        assert_eq!(primary(&proxy), places[0]);
    });
    assert!(written.errors.is_empty(), "{:?}", written.errors);
    all.append(&mut written.acknowledged);

    // The leader's machine is lost.
    patroni.make_synchronous();
    let mut written = while_writing(&proxy, 20, || {
        patroni.members[0].kill9();
        thread::sleep(Duration::from_secs(1));
        patroni.expire_leader();
        wait_for("the next leader", || primary(&proxy) == places[1]);
    });
    assert!(written.errors.len() <= 4, "{:?}", written.errors);
    assert!(written.errors.iter().all(|it| it.starts_with("0800")), "{:?}", written.errors);
    all.append(&mut written.acknowledged);

    // It comes back without its Patroni, and takes writes.
    let count = "SELECT count(*) FROM t";
    patroni.members[0].run_alone();
    assert_eq!(patroni.members[0].sql("SELECT pg_is_in_recovery()").unwrap(), "f");
    let before = patroni.members[0].sql(count).unwrap();
    let mut written = while_writing(&proxy, 30, || {
        wait_for("the fence", || proxy.show("SHARDS", "role").contains(&"fenced".to_owned()));
    });
    assert!(written.errors.is_empty(), "{:?}", written.errors);
    all.append(&mut written.acknowledged);
    assert_eq!(patroni.members[0].sql(count).unwrap(), before);
    patroni.members[0].kill9();

    // And with it, as a replica.
    let mut written = while_writing(&proxy, 40, || {
        patroni.run(0);
        wait_for("the replica", || {
            proxy.show("SHARDS", "role") == ["primary", "replica"]
                && proxy.show("HOSTS", "state") == ["up", "up"]
        });
    });
    assert!(written.errors.is_empty(), "{:?}", written.errors);
    all.append(&mut written.acknowledged);
    assert_eq!((patroni.leader(), primary(&proxy)), (Some(1), places[1].clone()));

    let rows = client.run("SELECT a FROM t").rows;
    let number = |row: &Vec<Option<Vec<u8>>>| {
        String::from_utf8(row[0].clone().unwrap()).unwrap().parse::<i64>().unwrap()
    };
    let stored: BTreeSet<i64> = rows.iter().map(number).collect();
    assert_eq!(stored.len(), rows.len(), "written twice");
    let lost: Vec<_> = all.difference(&stored).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}
