//! Carries out a plan.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::playground::Server;

use super::plan::{Fault, HOSTS, Step};
use super::site::{Promotion, Site};

/// How long an old primary runs beside the new one before it is made its replica.
const BESIDE: Duration = Duration::from_secs(1);

/// Does to the site what the plan says, and heals it; gives the promotions.
pub fn run(site: &Site, plan: &[Step], begun: Instant) -> Vec<Promotion> {
    let mut promotions = Vec::new();
    for step in plan {
        std::thread::sleep(step.after);
        println!("{:6.1} s  {step}", begun.elapsed().as_secs_f64());
        let done: Vec<Done> = step.faults.iter().map(|it| strike(site, *it)).collect();
        std::thread::sleep(step.lasts);
        for it in done.into_iter().rev() {
            promotions.extend(heal(site, it));
        }
    }
    site.heal();
    promotions
}

/// What is to be healed: who was struck, as roles may change.
enum Done {
    Fault(Fault),
    Server(pgsluice::playground::Node, Fault),
    Promoted(Promotion),
    Nothing,
}

fn strike(site: &Site, fault: Fault) -> Done {
    let of_server = |node| Done::Server(node, fault);
    let hurt = |node, how: fn(&Server)| {
        how(site.cluster.server(node));
        of_server(node)
    };
    match fault {
        Fault::KillProxy(it) => site.kill_proxy(it),
        Fault::PauseProxy(it) => site.signal_proxy(it, Signal::SIGSTOP),
        Fault::Clock(it, seconds) => site.set_clock(it, seconds),
        Fault::KillPrimary(shard) => return hurt(site.primary(shard), Server::kill9),
        Fault::KillReplica(shard, place) => return hurt(site.replica(shard, place), Server::kill9),
        Fault::PausePrimary(shard) => return hurt(site.primary(shard), Server::pause),
        Fault::PauseReplica(shard, place) => {
            return hurt(site.replica(shard, place), Server::pause);
        }
        Fault::Lag(shard, place) => {
            let node = site.replica(shard, place);
            let paused = site.cluster.sql(node, "postgres", "SELECT pg_wal_replay_pause()");
            return if paused.is_ok() { of_server(node) } else { Done::Nothing };
        }
        Fault::Cut(proxy, link, way) => site.cut(proxy, link, Some(way)),
        Fault::CutShard(proxy, shard, way) => {
            (0..HOSTS).for_each(|host| site.cut(proxy, (shard, host), Some(way)));
        }
        Fault::Promote(shard) => {
            return site.promote(shard).map_or(Done::Nothing, |it| {
                std::thread::sleep(BESIDE);
                // As it was: it takes itself for the primary.
                site.cluster.server(it.old).start().unwrap();
                Done::Promoted(it)
            });
        }
    }
    Done::Fault(fault)
}

fn heal(site: &Site, done: Done) -> Option<Promotion> {
    match done {
        Done::Fault(Fault::KillProxy(it)) => site.restart_proxy(it),
        Done::Fault(Fault::PauseProxy(it)) => site.signal_proxy(it, Signal::SIGCONT),
        Done::Fault(Fault::Clock(it, _)) => site.set_clock(it, 0),
        Done::Fault(Fault::Cut(proxy, link, _)) => site.cut(proxy, link, None),
        Done::Fault(Fault::CutShard(proxy, shard, _)) => {
            (0..HOSTS).for_each(|host| site.cut(proxy, (shard, host), None));
        }
        Done::Fault(_) | Done::Nothing => (),
        Done::Server(node, Fault::KillPrimary(_) | Fault::KillReplica(..)) => {
            site.cluster.server(node).start().unwrap();
        }
        Done::Server(node, Fault::Lag(..)) => {
            let _ = site.cluster.sql(node, "postgres", "SELECT pg_wal_replay_resume()");
        }
        Done::Server(node, _) => site.cluster.server(node).resume(),
        Done::Promoted(it) => {
            site.rebuild(&it);
            return Some(it);
        }
    }
    None
}
