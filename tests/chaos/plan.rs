//! What is done to the servers, the proxies and the network, and when: from a seed.

use std::fmt;
use std::time::Duration;

use super::random::Random;

pub const PROXIES: usize = 2;
pub const SHARDS: usize = 2;
/// Servers of a shard.
pub const HOSTS: usize = 3;

/// One fault; it is healed after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; started again.
    KillProxy(usize),
    /// SIGSTOP; SIGCONT.
    PauseProxy(usize),
    /// The system's clock as the proxy sees it jumps by so many seconds.
    Clock(usize, i64),
    /// The shard's primary is killed and started again.
    KillPrimary(usize),
    /// A replica, by its place behind the primary.
    KillReplica(usize, usize),
    PausePrimary(usize),
    PauseReplica(usize, usize),
    /// A replica gets the log and does not replay it.
    Lag(usize, usize),
    /// Between a proxy and a host (shard, number of the server).
    Cut(usize, (usize, usize), Way),
    /// Between a proxy and a whole shard.
    CutShard(usize, usize, Way),
    /// The primary is killed and a replica promoted; the old one comes back as it was, later as a replica.
    Promote(usize),
}

/// How a network fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Connections end and new ones are refused.
    Refused,
    /// Nothing arrives, and nobody is told.
    Silent,
    /// What servers say does not arrive.
    Deaf,
    /// Connections end once.
    Once,
    /// Everything takes so many milliseconds longer.
    Slow(u64),
}

/// Faults of one moment.
#[derive(Clone, Debug)]
pub struct Step {
    pub after: Duration,
    pub faults: Vec<Fault>,
    pub lasts: Duration,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} for {:.1} s", self.faults, self.lasts.as_secs_f64())
    }
}

/// Steps for so long; `has_clocks`: whether a proxy's clock can be moved.
pub fn random(seed: u64, length: Duration, has_clocks: bool) -> Vec<Step> {
    let mut random = Random(seed);
    let (mut steps, mut time, mut kinds) = (Vec::new(), Duration::ZERO, Vec::new());
    while time < length {
        if kinds.is_empty() {
            // Each comes as often as any other.
            kinds = (0..KINDS).collect();
            random.shuffle(&mut kinds);
        }
        let Some(kind) = kinds.pop() else { break };
        let mut faults = vec![fault(kind, &mut random)];
        let is_alone = matches!(faults[0], Fault::Promote(_));
        if !is_alone && random.once_in(3) {
            let more = random.below(KINDS - 1);
            faults.push(fault(more, &mut random));
        }
        faults.retain(|it| has_clocks || !matches!(it, Fault::Clock(..)));
        let after = Duration::from_millis(random.between(300, 1_500));
        let lasts = Duration::from_millis(random.between(200, 3_000));
        time += after + lasts;
        steps.push(Step { after, faults, lasts });
    }
    steps
}

const KINDS: u64 = 11;

fn fault(kind: u64, random: &mut Random) -> Fault {
    let proxy = random.below(PROXIES as u64) as usize;
    let shard = random.below(SHARDS as u64) as usize;
    let replica = random.below(HOSTS as u64 - 1) as usize;
    let host = (shard, random.below(HOSTS as u64) as usize);
    match kind {
        0 => Fault::KillProxy(proxy),
        1 => Fault::PauseProxy(proxy),
        2 => Fault::Clock(proxy, [-86_400, -3_600, 3_600, 172_800][random.below(4) as usize]),
        3 => Fault::KillPrimary(shard),
        4 => Fault::KillReplica(shard, replica),
        5 => Fault::PausePrimary(shard),
        6 => Fault::PauseReplica(shard, replica),
        7 => Fault::Lag(shard, replica),
        8 => Fault::Cut(proxy, host, way(random)),
        9 => Fault::CutShard(proxy, shard, way(random)),
        _ => Fault::Promote(shard),
    }
}

fn way(random: &mut Random) -> Way {
    match random.below(5) {
        0 => Way::Refused,
        1 => Way::Silent,
        2 => Way::Deaf,
        3 => Way::Once,
        _ => Way::Slow(random.between(5, 200)),
    }
}

/// The plan that runs as a test: each kind of fault once.
pub fn short() -> Vec<Step> {
    let step = |after, faults: &[Fault], lasts| Step {
        after: Duration::from_millis(after),
        faults: faults.to_vec(),
        lasts: Duration::from_millis(lasts),
    };
    vec![
        step(500, &[Fault::Lag(0, 0), Fault::Lag(1, 1)], 1_000),
        step(200, &[Fault::KillProxy(0)], 300),
        step(600, &[Fault::CutShard(1, 0, Way::Silent)], 800),
        step(300, &[Fault::KillPrimary(1)], 200),
        step(700, &[Fault::PauseProxy(1), Fault::KillReplica(0, 1)], 600),
        step(300, &[Fault::Promote(0)], 1_000),
        step(500, &[Fault::PausePrimary(0), Fault::Cut(0, (1, 0), Way::Deaf)], 700),
        step(300, &[Fault::Cut(1, (0, 0), Way::Once), Fault::Clock(0, 172_800)], 300),
    ]
}
