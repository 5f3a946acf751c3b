//! Real processes under faults: two proxies, two shards of three servers, clients that append to lists and
//! move money, while servers, proxies and clients are killed, paused, cut off and promoted. What clients
//! were told is checked against what one Postgres could have done. A short fixed plan runs as a test;
//! `./dev chaos --minutes N --seed S` runs a random one.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "chaos/history.rs"]
mod history;
#[path = "chaos/nemesis.rs"]
mod nemesis;
#[path = "chaos/plan.rs"]
mod plan;
#[path = "chaos/random.rs"]
mod random;
#[path = "chaos/report.rs"]
mod report;
#[path = "chaos/site.rs"]
mod site;
mod support;
#[path = "chaos/workload.rs"]
mod workload;

use std::sync::atomic::Ordering;
use std::time::Duration;

use plan::Step;
use report::Report;
use site::Site;
use workload::Workload;

/// Clients of the workload.
const CLIENTS: usize = 16;

fn run(seed: u64, plan: impl FnOnce(&Site) -> Vec<Step>) -> Report {
    let site = Site::start();
    let plan = plan(&site);
    let workload = Workload::new(site.ports.clone());
    let promotions = std::thread::scope(|scope| {
        scope.spawn(|| workload.run(CLIENTS, seed));
        let promotions = nemesis::run(&site, &plan, workload.begun);
        // Everybody finds that all is well again.
        std::thread::sleep(Duration::from_secs(2));
        workload.is_over.store(true, Ordering::Relaxed);
        promotions
    });
    let report = Report::of(&site, workload, &promotions, seed);
    println!("{report}");
    report
}

#[test]
fn nothing_is_lost_or_stale() {
    let number = |name| std::env::var(name).ok().map(|it| it.parse::<u64>().unwrap());
    let report = match number("CHAOS_MINUTES") {
        None => run(1, |_| plan::short()),
        Some(minutes) => {
            let seed = number("CHAOS_SEED").unwrap_or(1);
            let length = Duration::from_secs(minutes * 60);
            run(seed, |site| plan::random(seed, length, site.has_clocks()))
        }
    };
    report.check();
}
