//! Many proxies that share a server's connections, each looking at claims that may be old.
//! `SEED=… cargo test` repeats a run.
#![allow(clippy::unwrap_used)]

#[path = "support/random.rs"]
mod random;

use pgsluice::balance::budget::{Claim, Demand, granted, share};
use random::Random;

/// A proxy: what it has written down, what it saw last, and what its clients want.
struct Member {
    seen: Vec<Claim>,
    limit: usize,
    open: usize,
    wants: usize,
    demand: Demand,
}

struct Fleet {
    room: usize,
    table: Vec<Claim>,
    members: Vec<Member>,
    turn: u64,
}

impl Fleet {
    fn new(room: usize, count: usize) -> Self {
        let member =
            |_| Member { seen: Vec::new(), limit: 0, open: 0, wants: 0, demand: Demand::default() };
        Self { room, table: Vec::new(), members: (0..count).map(member).collect(), turn: 0 }
    }

    /// Clients come and go; connections are opened up to the limit, and closed above it as they come free.
    fn work(&mut self, at: usize, random: &mut Random) {
        let member = &mut self.members[at];
        if member.open < member.wants.min(member.limit) {
            member.open += 1 + random.below(member.wants.min(member.limit) - member.open);
        }
        let least = member.wants.min(member.limit);
        if member.open > least {
            member.open -= random.below(member.open - least + 1);
        }
    }

    fn renew(&mut self, at: usize) {
        let name = format!("{at:03}");
        let member = &mut self.members[at];
        let demand = member.demand.note(member.wants);
        let wanted = share(self.room, &member.seen, &name, self.turn);
        member.limit = member.limit.min(wanted);
        let others = self.table.iter().filter(|it| it.member != name).map(Claim::taken).sum();
        let granted = granted(self.room, others, member.limit, wanted);
        self.table.retain(|it| it.member != name);
        self.table.push(Claim { member: name, demand, held: member.open, granted });
        member.limit = granted;
        member.seen.clone_from(&self.table);
    }

    fn die(&mut self, at: usize) {
        let name = format!("{at:03}");
        self.table.retain(|it| it.member != name);
        let member = &mut self.members[at];
        (member.limit, member.open, member.wants) = (0, 0, 0);
        member.seen.clear();
    }

    fn open(&self) -> usize {
        self.members.iter().map(|it| it.open).sum()
    }
}

fn seed() -> u64 {
    std::env::var("SEED").ok().and_then(|it| it.parse().ok()).unwrap_or(7)
}

#[test]
fn there_are_never_more_than_the_server_takes() {
    let mut random = Random::new(seed());
    for round in 0..60 {
        let count = 1 + random.below(220);
        let mut fleet = Fleet::new(1 + random.below(300), count);
        for step in 0..4_000 {
            let at = random.below(count);
            match random.below(12) {
                0 => fleet.members[at].wants = random.below(40),
                1 => fleet.members[at].wants = 0,
                2 if random.below(8) == 0 => fleet.die(at),
                3 if random.below(count) == 0 => fleet.turn += 1,
                2..=6 => fleet.work(at, &mut random),
                _ => fleet.renew(at),
            }
            let (open, room) = (fleet.open(), fleet.room);
            assert!(open <= room, "round {round}, step {step}: {open} of {room}");
        }
    }
}

#[test]
fn shares_follow_what_is_needed() {
    let mut random = Random::new(seed());
    for _ in 0..60 {
        let count = 1 + random.below(60);
        let room = count + random.below(200);
        let mut fleet = Fleet::new(room, count);
        for at in 0..count {
            fleet.members[at].wants = random.below(30);
        }
        // Some that were full are idle later.
        for phase in 0..2 {
            for at in 0..count {
                if phase == 1 && at % 3 == 0 {
                    fleet.members[at].wants = 0;
                }
            }
            for _ in 0..30 {
                for at in 0..count {
                    for _ in 0..20 {
                        fleet.work(at, &mut random);
                    }
                    fleet.renew(at);
                }
            }
            let wants = |it: &Member| it.wants.max(1);
            let all: usize = fleet.members.iter().map(wants).sum();
            let limits: usize = fleet.members.iter().map(|it| it.limit).sum();
            if all <= room {
                assert!(fleet.members.iter().all(|it| it.limit >= wants(it)));
            } else {
                assert_eq!(limits, room);
                let lacks = fleet.members.iter().filter(|it| it.limit < wants(it));
                let least = lacks.map(|it| it.limit).min().unwrap();
                assert!(fleet.members.iter().all(|it| it.limit <= least + 1));
                assert!(fleet.members.iter().all(|it| it.limit >= 1));
            }
        }
    }
}
