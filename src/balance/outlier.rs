//! Replicas that are far from the others rest: for longer each time, and never more than half of them.

use std::time::Duration;

/// So many requests must have been made in a while before they say something.
const ENOUGH: u64 = 10;
/// What a latency must be above that of the others in any case, in seconds.
const MARGIN: f32 = 0.002;
/// The share of failures that counts at least, in percent.
const FAILURES: u64 = 10;
/// How many looks in a row must find the same.
const LOOKS: u32 = 3;
/// The longest rest is so many times the first.
const LONGEST: u32 = 10;

/// A replica of a shard, as of the last while.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    pub calls: u64,
    pub failures: u64,
    /// In seconds.
    pub latency: f32,
    /// Is not used now, whyever.
    pub is_out: bool,
}

impl Sample {
    /// In percent.
    fn failure_rate(&self) -> u64 {
        self.failures * 100 / self.calls.max(self.failures).max(1)
    }

    fn tells(&self) -> bool {
        !self.is_out && self.calls.max(self.failures) >= ENOUGH
    }
}

/// The replica that is furthest from the others, if one is by `factor` and may rest.
pub fn outlier(samples: &[Sample], factor: u32) -> Option<usize> {
    let out = samples.iter().filter(|it| it.is_out).count();
    if factor == 0 || (out + 1) * 2 > samples.len() {
        return None;
    }
    let far = samples.iter().enumerate().filter(|(at, _)| is_far(samples, *at, factor));
    let worst = far.max_by(|(_, one), (_, other)| {
        let key = |it: &Sample| (it.failure_rate() >= FAILURES, it.latency);
        key(one).partial_cmp(&key(other)).unwrap_or(std::cmp::Ordering::Equal)
    });
    worst.map(|(at, _)| at)
}

fn is_far(samples: &[Sample], at: usize, factor: u32) -> bool {
    let sample = &samples[at];
    let is_other = |it: &(usize, &Sample)| it.0 != at && it.1.tells();
    let others: Vec<&Sample> = samples.iter().enumerate().filter(is_other).map(|it| it.1).collect();
    if others.is_empty() || !sample.tells() {
        return false;
    }
    let mut latencies: Vec<f32> = others.iter().map(|it| it.latency).collect();
    latencies.sort_by(f32::total_cmp);
    let usual = latencies[latencies.len() / 2];
    let failing = others.iter().map(|it| it.failure_rate()).max().unwrap_or(0);
    let is_slow = sample.latency > usual * factor as f32 && sample.latency > usual + MARGIN;
    let fails = sample.failure_rate() >= FAILURES.max(failing * u64::from(factor));
    is_slow || fails
}

/// A replica's rests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    until: Duration,
    /// How often it has rested of late.
    times: u32,
    /// How often in a row it was found to be far from the others.
    looks: u32,
}

impl Rest {
    /// Whether it rests.
    pub fn is_resting(&self, now: Duration) -> bool {
        now < self.until
    }

    /// Notes a look; gives how long it rests from now on, if it does: `first` at the first time, then
    /// twice, three times as long.
    pub fn look(&mut self, is_outlier: bool, now: Duration, first: Duration) -> Option<Duration> {
        if !is_outlier {
            self.looks = 0;
            // Well for as long as it has rested: one rest is forgotten.
            if self.times > 0 && now >= self.until + first * self.times {
                self.times -= 1;
                self.until = now;
            }
            return None;
        }
        self.looks += 1;
        if self.looks < LOOKS {
            return None;
        }
        self.looks = 0;
        self.times = (self.times + 1).min(LONGEST);
        let rest = first * self.times;
        self.until = now + rest;
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(milliseconds: f32, failures: u64) -> Sample {
        Sample { calls: 100, failures, latency: milliseconds / 1000.0, is_out: false }
    }

    #[test]
    fn who_is_far_from_the_others() {
        let out = |it| Sample { is_out: true, ..it };
        let few = |it| Sample { calls: 5, ..it };
        for (samples, expected) in [
            (vec![sample(1.0, 0), sample(6.0, 0)], Some(1)),
            (vec![sample(1.0, 0), sample(4.0, 0)], None),
            (vec![sample(0.1, 0), sample(1.9, 0)], None),
            (vec![sample(6.0, 0)], None),
            (vec![sample(1.0, 0), few(sample(60.0, 0))], None),
            (vec![few(sample(1.0, 0)), sample(60.0, 0)], None),
            (vec![sample(1.0, 0), sample(1.0, 10)], Some(1)),
            (vec![sample(1.0, 0), sample(1.0, 9)], None),
            (vec![sample(1.0, 20), sample(1.0, 30)], None),
            (vec![sample(1.0, 0), sample(60.0, 0), sample(90.0, 0)], None),
            (vec![sample(1.0, 0), sample(1.0, 0), sample(90.0, 0), sample(60.0, 0)], Some(2)),
            (vec![sample(1.0, 0), sample(90.0, 0), sample(1.0, 50), sample(1.0, 0)], Some(2)),
            // Half of them rest already.
            (vec![sample(1.0, 0), out(sample(1.0, 0)), sample(60.0, 0)], None),
            (vec![sample(1.0, 0), sample(1.0, 0), out(sample(9.0, 0)), sample(60.0, 0)], Some(3)),
        ] {
            assert_eq!(outlier(&samples, 5), expected, "{samples:?}");
            assert_eq!(outlier(&samples, 0), None);
        }
    }

    #[test]
    fn never_more_than_half_rest() {
        for seed in 0..2_000_u64 {
            let random =
                |at: u64| (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(at as u32 * 7);
            let of = |at| Sample {
                calls: random(at) % 40,
                failures: random(at + 1) % 10,
                latency: (random(at + 2) % 1000) as f32 / 1000.0,
                is_out: false,
            };
            let mut samples: Vec<Sample> = (0..seed % 8).map(of).collect();
            while let Some(at) = outlier(&samples, 2) {
                assert!(!samples[at].is_out);
                samples[at].is_out = true;
            }
            let out = samples.iter().filter(|it| it.is_out).count();
            assert!(out * 2 <= samples.len(), "{samples:?}");
        }
    }

    #[test]
    fn rests_grow_and_are_forgotten() {
        let (mut rest, mut now, first) = (Rest::default(), Duration::ZERO, Duration::from_secs(30));
        let mut rests = Vec::new();
        for _ in 0..12 {
            let found: Vec<_> = (0..3).map(|_| rest.look(true, now, first)).collect();
            assert_eq!(found[..2], [None, None]);
            rests.push(found[2].unwrap().as_secs() / 30);
            assert!(rest.is_resting(now));
            now += found[2].unwrap();
            assert!(!rest.is_resting(now));
        }
        assert_eq!(rests, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10]);
        // One look that finds nothing begins anew.
        assert_eq!(rest.look(true, now, first), None);
        assert_eq!(rest.look(false, now, first), None);
        assert_eq!(rest.look(true, now, first), None);
        assert_eq!(rest.look(true, now, first), None);
        for _ in 0..100 {
            now += Duration::from_secs(300);
            rest.look(false, now, first);
        }
        assert_eq!(rest.times, 0);
    }
}
