//! Many proxies on one server: how its connections are shared out.
//!
//! Every proxy claims what it needs and is granted a part; all do the same sum over the same claims, so that
//! nobody has to be asked. A grant only grows into what all others have confirmed to hold no more, so that
//! the grants of all never exceed the room, however old the claims are that a proxy looked at.

/// What one proxy has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which one; the same for all who look.
    pub member: String,
    /// Connections it could use.
    pub demand: usize,
    /// Connections it has.
    pub held: usize,
    /// Connections it may have.
    pub granted: usize,
}

impl Claim {
    /// What nobody else may have.
    pub fn taken(&self) -> usize {
        self.held.max(self.granted)
    }
}

/// A server's connections, as it tells itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seats {
    /// `max_connections` without those that are reserved for superusers and others.
    pub usable: usize,
    /// Connections of whomsoever.
    pub taken: usize,
}

/// Connections that are not pooled by any proxy: other programs', and the proxies' own for looking after the
/// server. What was seen of the proxies may be older than what the server says, so that the fewest of some looks
/// count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Foreign {
    seen: [Option<usize>; LOOKS],
    next: usize,
}

const LOOKS: usize = 3;

impl Foreign {
    /// Notes a look, in which the proxies held so many.
    pub fn note(&mut self, seats: Seats, held: usize) {
        self.seen[self.next % LOOKS] = Some(seats.taken.saturating_sub(held));
        self.next += 1;
    }

    /// Whether nobody has looked yet.
    pub fn is_unknown(&self) -> bool {
        self.next == 0
    }

    /// How many there were in most looks: neither the most nor the fewest.
    pub fn usual(&self) -> usize {
        let mut seen: Vec<usize> = self.seen.iter().flatten().copied().collect();
        seen.sort_unstable();
        seen.get(seen.len() / 2).copied().unwrap_or_default()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.seen.iter().flatten().copied().min().unwrap_or_default()
    }
}

/// More proxies than one for so many of a server's connections are a crowd.
const CROWD: usize = 4;
/// So many of a crowd stay at least, whether they have clients or not.
const STEADY: usize = 2;

/// Whether so many proxies' own connections take much of what a server has.
pub fn is_crowd(proxies: usize, usable: usize) -> bool {
    proxies > usable / CROWD
}

/// Whether one of a crowd may leave that has so many before it.
pub fn may_leave(before: usize, usable: usize) -> bool {
    before >= (usable / CROWD / 2).max(STEADY)
}

/// How many pooled connections a server has room for.
pub fn room(seats: Seats, reserve: usize, foreign: usize) -> usize {
    seats.usable.saturating_sub(reserve).saturating_sub(foreign)
}

/// The fair part of `member`: nobody gets more than it needs as long as another needs more and has less. Each gets
/// one at least while there are enough; where there are not, those who need one come before those who do not, and it
/// is the turn of others with each `turn`. Half of what nobody needs is spread, the rest is left for whoever needs
/// it next.
pub fn share(room: usize, claims: &[Claim], member: &str, turn: u64) -> usize {
    let mut order: Vec<&Claim> = claims.iter().collect();
    order.sort_by(|a, b| a.member.cmp(&b.member));
    let Some(own) = order.iter().position(|it| it.member == member) else { return 0 };
    let count = order.len();
    if room < count {
        return usize::from(is_in_turn(room, &order, own, turn));
    }
    let needs: Vec<usize> = order.iter().map(|it| it.demand.max(1)).collect();
    let all: usize = needs.iter().sum();
    if all <= room {
        return needs[own] + (room - all) / 2 / count;
    }
    let level = level(room, &needs);
    let given: usize = needs.iter().map(|it| (*it).min(level)).sum();
    let more = needs.iter().take(own).filter(|it| **it > level).count();
    let is_first = needs[own] > level && more < room - given;
    needs[own].min(level) + usize::from(is_first)
}

/// Whether one of too many gets a place.
fn is_in_turn(room: usize, order: &[&Claim], own: usize, turn: u64) -> bool {
    let needs = |it: &&Claim| it.demand > 0;
    let needy = order.iter().filter(|it| needs(it)).count();
    let same = |it: &&Claim| needs(it) == needs(&order[own]);
    let place = order[..own].iter().filter(|it| same(it)).count();
    let (of, room) = match needs(&order[own]) {
        true => (needy, room),
        // The rest is for whoever needs one next.
        false => (order.len() - needy, room.saturating_sub(needy) / 2),
    };
    if room >= of {
        return true;
    }
    // Each turn begins where the last has ended.
    let first = (turn as usize).wrapping_mul(room) % of;
    (place + of - first) % of < room
}

/// The most that everybody can have of what they need, before some get one more.
fn level(room: usize, needs: &[usize]) -> usize {
    let mut sorted = needs.to_vec();
    sorted.sort_unstable();
    let (mut left, mut level) = (room, 0);
    for (at, need) in sorted.iter().enumerate() {
        level = left / (sorted.len() - at);
        if *need > level {
            return level;
        }
        left -= need;
    }
    level
}

/// What a proxy that has `own` is granted of the `wanted`, where others have taken so many. A grant that does not
/// grow is always given.
pub fn granted(room: usize, taken_by_others: usize, own: usize, wanted: usize) -> usize {
    match wanted <= own {
        true => wanted,
        false => own.max(wanted.min(room.saturating_sub(taken_by_others))),
    }
}

/// How many connections a proxy could use: the most it needed of late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand(usize);

impl Demand {
    /// None are needed any more.
    pub fn forget(&mut self) -> usize {
        self.0 = 0;
        0
    }

    /// Notes the most of a while, and gives what to claim: peaks are forgotten by and by.
    pub fn note(&mut self, most: usize) -> usize {
        let less = self.0 - self.0.div_ceil(4);
        self.0 = most.max(less);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(demands: &[usize]) -> Vec<Claim> {
        let claim = |(at, demand): (usize, &usize)| Claim {
            member: format!("{at:03}"),
            demand: *demand,
            held: 0,
            granted: 0,
        };
        demands.iter().enumerate().map(claim).collect()
    }

    fn shares(room: usize, demands: &[usize]) -> Vec<usize> {
        let claims = claims(demands);
        claims.iter().map(|it| share(room, &claims, &it.member, 0)).collect()
    }

    #[test]
    fn nobody_gets_more_than_needed_while_others_lack() {
        assert_eq!(shares(10, &[20]), [10]);
        assert_eq!(shares(10, &[20, 20, 20]), [4, 3, 3]);
        assert_eq!(shares(10, &[1, 0, 20]), [1, 1, 8]);
        assert_eq!(shares(10, &[3, 20, 4]), [3, 4, 3]);
        assert_eq!(shares(12, &[3, 20, 4]), [3, 5, 4]);
    }

    #[test]
    fn of_a_crowd_an_eighth_stays_and_two_at_least() {
        assert_eq!([9, 10].map(|it| is_crowd(it, 37)), [false, true]);
        assert_eq!([3, 4].map(|it| may_leave(it, 37)), [false, true]);
        assert_eq!([1, 2].map(|it| may_leave(it, 5)), [false, true]);
    }

    #[test]
    fn half_of_what_nobody_needs_is_spread() {
        assert_eq!(shares(20, &[2, 0]), [6, 5]);
        assert_eq!(shares(3, &[1, 1]), [1, 1]);
    }

    #[test]
    fn too_many_take_turns() {
        assert_eq!(shares(2, &[0, 5, 5]), [0, 1, 1]);
        assert_eq!(shares(2, &[0, 0, 5]), [0, 0, 1]);
        assert_eq!(shares(5, &[0, 0, 0, 0, 5, 0]), [1, 1, 0, 0, 1, 0]);
        let claims = claims(&[5; 7]);
        let mut served = [0; 7];
        for turn in 0..7 {
            let got: Vec<usize> =
                claims.iter().map(|it| share(3, &claims, &it.member, turn)).collect();
            assert_eq!(got.iter().sum::<usize>(), 3);
            got.iter().zip(&mut served).for_each(|(got, served)| *served += got);
        }
        assert_eq!(served, [3; 7]);
    }

    #[test]
    fn a_grant_grows_into_what_is_free_only() {
        assert_eq!(granted(10, 8, 1, 5), 2);
        assert_eq!(granted(10, 12, 3, 5), 3);
        assert_eq!(granted(10, 12, 3, 2), 2);
    }

    #[test]
    fn peaks_are_forgotten_by_and_by() {
        let mut demand = Demand::default();
        assert_eq!(demand.note(8), 8);
        assert_eq!([0; 4].map(|it| demand.note(it)), [6, 4, 3, 2]);
        assert_eq!([0; 3].map(|it| demand.note(it)), [1, 0, 0]);
    }

    #[test]
    fn the_fewest_of_some_looks_are_foreign() {
        let mut foreign = Foreign::default();
        for (taken, held) in [(30, 20), (40, 20), (28, 20)] {
            foreign.note(Seats { usable: 97, taken }, held);
        }
        assert_eq!(foreign.count(), 8);
        foreign.note(Seats { usable: 97, taken: 50 }, 20);
        foreign.note(Seats { usable: 97, taken: 50 }, 20);
        assert_eq!(foreign.count(), 8);
        foreign.note(Seats { usable: 97, taken: 50 }, 20);
        assert_eq!((foreign.count(), room(Seats { usable: 97, taken: 50 }, 5, 30)), (30, 62));
    }
}
