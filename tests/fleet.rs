//! Many proxies as processes of their own on one server with few connections, each with a client that works now
//! and then. A small fleet runs as a test; `./dev fleet --proxies N --connections M` starts a large one.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::proxy::{Proxy, ProxySpec};
use support::wire::Wire;

/// What one client has seen.
#[derive(Default)]
struct Seen {
    longest: Duration,
    answers: usize,
    errors: Vec<String>,
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |it| it.parse().unwrap())
}

/// Server processes that work for clients, this one's own not counted, and those of control planes among
/// them.
fn backends(observer: &mut Wire) -> (usize, usize) {
    let sql = "SELECT count(*) - 1, count(*) FILTER (WHERE application_name LIKE 'pgsluice control%') \
               FROM pg_stat_activity WHERE backend_type = 'client backend'";
    let answer = observer.run(sql);
    let number = |at: usize| {
        let text = answer.rows[0][at].clone().unwrap();
        String::from_utf8(text).unwrap().parse().unwrap()
    };
    (number(0), number(1))
}

/// Four statements each two seconds, until `stop`.
fn work(port: u16, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut client = match Wire::login(port, "app", "app", "app") {
        Ok(it) => it,
        Err(error) => {
            seen.errors.push(format!("login: {error:?}"));
            return seen;
        }
    };
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..4 {
            let begun = Instant::now();
            match client.query("SELECT pg_sleep(0.005)").error {
                None => seen.answers += 1,
                Some(error) => seen.errors.push(format!("{error:?}")),
            }
            seen.longest = seen.longest.max(begun.elapsed());
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    seen
}

#[test]
fn every_client_of_a_fleet_is_served() {
    let count = number("FLEET_PROXIES", 6);
    let connections = number("FLEET_CONNECTIONS", 40);
    let seconds = number("FLEET_SECONDS", 8) as u64;
    let mut spec = support::spec(1, 0);
    spec.max_connections = connections;
    let cluster = support::start(spec);
    let mut spec = ProxySpec::of(&cluster, "app");
    spec.pool = "size = 20\nwait_timeout = \"30s\"\n".into();
    spec.limits = "login_timeout = \"60s\"\n".into();
    spec.health = "interval = \"5s\"\ncatalog_refresh = \"60s\"\n".into();
    let mut observer = Wire::login(cluster.primary_port(0), "postgres", "", "app").unwrap();
    let begun = Instant::now();
    let proxies: Vec<Proxy> = (0..count).map(|_| Proxy::start(spec.clone())).collect();
    let started = begun.elapsed();
    let (stop, mut most) = (AtomicBool::new(false), (0, 0));
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let working: Vec<_> =
            proxies.iter().map(|it| scope.spawn(|| work(it.port, &stop))).collect();
        let begun = Instant::now();
        let mut settled = None;
        while begun.elapsed() < Duration::from_secs(seconds) {
            most = most.max(backends(&mut observer));
            let proxies = || proxies[0].show("BUDGET", "proxies")[0].parse::<usize>().unwrap_or(0);
            if settled.is_none() && proxies() == count {
                settled = Some(begun.elapsed());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        println!("started in {started:?}, all known after {settled:?}");
        working.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let memory: u64 = proxies.iter().map(|it| it.memory_kib(false)).sum();
    let longest = seen.iter().map(|it| it.longest).max().unwrap();
    let answers: Vec<usize> = seen.iter().map(|it| it.answers).collect();
    let (most, control) = most;
    println!(
        "{count} proxies, {connections} connections: at most {most} in use, {control} of them for control planes; {} answers, the longest took {longest:?}; \
         {} KiB a proxy",
        answers.iter().sum::<usize>(),
        memory / count as u64
    );
    let errors: Vec<&String> = seen.iter().flat_map(|it| &it.errors).collect();
    assert!(errors.is_empty(), "{} errors: {:?}", errors.len(), &errors[..errors.len().min(5)]);
    assert!(answers.iter().all(|it| *it > 0), "{answers:?}");
    // Three are superusers'.
    assert!(most <= connections - 3, "{most} connections");
}
