//! The order of hosts: by region, then by cost.
//!
//! cost = latency × (requests that run there + a draw) / weight. The draw is exponentially distributed
//! with mean 1, as many as the request itself: idle hosts share requests by weight and latency, busy ones
//! by what they have to do. A draw decides nothing by itself: the same one gives the same order.

/// What a host's latency counts at least, in seconds: below it differences say nothing.
const LEAST_LATENCY: f32 = 0.000_2;

/// What picking needs to know of a host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Whether it may be used now.
    pub is_up: bool,
    /// Whether it is a reserve for when no other is up.
    pub is_far: bool,
    /// Connections in use.
    pub outstanding: usize,
    /// As of late, in seconds; 0: not known.
    pub latency: f32,
    /// Above zero.
    pub weight: f32,
}

impl Load {
    /// What a request costs there. A host that was never asked is taken for one of `typical` latency, or
    /// all would go there at once.
    fn cost(&self, typical: f32, draw: f32) -> f32 {
        let latency = if self.latency == 0.0 { typical } else { self.latency };
        latency.max(LEAST_LATENCY) * (self.outstanding as f32 + draw) / self.weight
    }
}

/// The eligible hosts that are up, in the order in which they are to be tried.
pub fn order<T>(
    hosts: &[T],
    draw: u64,
    load: impl Fn(&T) -> Load,
    is_eligible: impl Fn(&T) -> bool,
) -> Vec<&T> {
    let mut up: Vec<(bool, f32, &T)> = keyed(hosts, draw, load, is_eligible).collect();
    up.sort_by(|one, other| (one.0, one.1).partial_cmp(&(other.0, other.1)).unwrap_or(EQUAL));
    up.into_iter().map(|(.., host)| host).collect()
}

const EQUAL: std::cmp::Ordering = std::cmp::Ordering::Equal;

/// The first of [`order`].
pub fn first<T>(
    hosts: &[T],
    draw: u64,
    load: impl Fn(&T) -> Load,
    is_eligible: impl Fn(&T) -> bool,
) -> Option<&T> {
    let best = keyed(hosts, draw, load, is_eligible)
        .reduce(|best, it| if (it.0, it.1) < (best.0, best.1) { it } else { best });
    best.map(|(.., host)| host)
}

fn keyed<T>(
    hosts: &[T],
    draw: u64,
    load: impl Fn(&T) -> Load,
    is_eligible: impl Fn(&T) -> bool,
) -> impl Iterator<Item = (bool, f32, &T)> {
    let known = hosts.iter().map(|it| load(it).latency).filter(|it| *it > 0.0);
    let typical = known.reduce(f32::min).unwrap_or_default();
    let keyed = hosts.iter().enumerate().filter(move |(_, it)| is_eligible(it));
    keyed.filter_map(move |(at, host)| {
        let load = load(host);
        load.is_up.then(|| (load.is_far, load.cost(typical, exponential(draw, at)), host))
    })
}

/// A number with an exponential distribution of mean 1, of a draw and a host's position.
fn exponential(draw: u64, at: usize) -> f32 {
    // splitmix64
    let mut bits = draw.wrapping_add((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let uniform = (bits >> 40) | 1;
    // The exponent and fraction of a float are nearly its logarithm.
    let log2 = (uniform as f32).to_bits() as f32 / (1 << 23) as f32 - 127.0 + 0.043;
    ((24.0 - log2) * std::f32::consts::LN_2).max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Load =
        Load { is_up: true, is_far: false, outstanding: 0, latency: 0.001, weight: 1.0 };

    /// How many of 10,000 requests each host gets.
    fn shares(hosts: &[Load]) -> Vec<usize> {
        let mut counts = vec![0; hosts.len()];
        for draw in 0..10_000 {
            let found = first(hosts, draw * 7919, |it| *it, |_| true).unwrap();
            let at = hosts.iter().position(|it| std::ptr::eq(it, found)).unwrap();
            counts[at] += 1;
        }
        counts
    }

    #[test]
    fn idle_hosts_share_by_weight_and_latency() {
        for (hosts, expected) in [
            (vec![IDLE, IDLE], [5000, 5000]),
            (vec![IDLE, Load { weight: 2.0, ..IDLE }], [3333, 6667]),
            (vec![IDLE, Load { latency: 0.009, ..IDLE }], [9000, 1000]),
            (vec![IDLE, Load { latency: 0.0, ..IDLE }], [5000, 5000]),
            (vec![IDLE, Load { is_up: false, ..IDLE }], [10_000, 0]),
            (vec![Load { is_far: true, ..IDLE }, Load { latency: 1.0, ..IDLE }], [0, 10_000]),
            (vec![Load { latency: 0.0, ..IDLE }, Load { latency: 0.000_1, ..IDLE }], [5000, 5000]),
        ] {
            let found = shares(&hosts);
            let is_near = found.iter().zip(expected).all(|(it, want)| it.abs_diff(want) < 400);
            assert!(is_near, "{hosts:?}: {found:?}, not {expected:?}");
        }
    }

    #[test]
    fn busy_hosts_are_taken_by_what_they_have_to_do() {
        let busy = |outstanding, weight| Load { outstanding, weight, ..IDLE };
        let shares = shares(&[busy(40, 1.0), busy(20, 1.0), busy(60, 2.0)]);
        assert!(shares[1] > 9_900, "{shares:?}");
    }

    #[test]
    fn what_is_eligible_and_up_is_ordered_and_begins_with_the_first() {
        for draw in 0..2_000_u64 {
            let random = |at: u64| exponential(draw * 31, at as usize);
            let hosts: Vec<Load> = (0..draw % 6)
                .map(|at| Load {
                    is_up: random(at) > 0.3,
                    is_far: random(at + 10) > 1.0,
                    outstanding: (random(at + 20) * 3.0) as usize,
                    latency: random(at + 30) / 100.0,
                    weight: random(at + 40) + 0.1,
                })
                .collect();
            let is_eligible = |it: &Load| it.outstanding % 4 != 1;
            let ordered = order(&hosts, draw, |it| *it, is_eligible);
            assert_eq!(first(&hosts, draw, |it| *it, is_eligible), ordered.first().copied());
            assert!(ordered.iter().all(|it| it.is_up && is_eligible(it)));
            assert!(ordered.is_sorted_by_key(|it| it.is_far));
            let wanted = hosts.iter().filter(|it| it.is_up && is_eligible(it)).count();
            assert_eq!(ordered.len(), wanted);
        }
    }

    #[test]
    fn draws_have_the_mean_of_one_request() {
        let sum: f32 = (0..100_000).map(|it| exponential(it, 3)).sum();
        assert!((sum / 100_000.0 - 1.0).abs() < 0.03, "{sum}");
    }

    /// Requests come and go as servers answer: a host ten times as slow gets about a tenth.
    #[test]
    fn the_slow_get_less_under_load() {
        let mut hosts = [Load { latency: 0.001, ..IDLE }, Load { latency: 0.010, ..IDLE }];
        let (mut ends, mut counts) = (Vec::<(u64, usize)>::new(), [0, 0]);
        for now in 0..20_000_u64 {
            ends.retain(|(end, at)| {
                let is_over = *end <= now;
                hosts[*at].outstanding -= usize::from(is_over);
                !is_over
            });
            // One request each 100 µs.
            let at = usize::from(hosts[0] != *first(&hosts, now, |it| *it, |_| true).unwrap());
            hosts[at].outstanding += 1;
            counts[at] += 1;
            ends.push((now + (hosts[at].latency * 10_000.0) as u64, at));
        }
        assert!(counts[1] * 4 < counts[0], "{counts:?}");
    }
}
