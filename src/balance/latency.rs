//! How long a host has taken of late: the peak-sensitive moving average of Finagle. What is slower than
//! before counts at once, what is faster by and by; without requests the memory fades, so that a host
//! which nobody asks is tried again.

/// The time after which an old value counts e⁻¹, in milliseconds.
const FADE_MS: f32 = 10_000.0;
/// How many times the average one request counts at most: a statement may be slow by itself.
const PEAK: f32 = 4.0;
/// The average that a peak is measured against counts so many seconds at least.
const LEAST: f32 = 0.000_5;

/// A latency and when it was last brought up to date. `now` is in milliseconds and may wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    seconds: f32,
    stamp: u32,
}

impl Latency {
    /// With one more request, which took `seconds`.
    #[must_use]
    pub fn observed(self, now: u32, seconds: f32) -> Self {
        let seconds = seconds.min(PEAK * self.seconds.max(LEAST));
        let age = self.age(now);
        if seconds > self.seconds {
            return Self { seconds, stamp: now };
        }
        // Within the same millisecond the first counts for all.
        if age == 0 {
            return self;
        }
        let kept = fade(age);
        Self { seconds: self.seconds * kept + seconds * (1.0 - kept), stamp: now }
    }

    /// In seconds.
    pub fn at(self, now: u32) -> f32 {
        match self.age(now) {
            0..16 => self.seconds,
            age => self.seconds * fade(age),
        }
    }

    /// Threads' clocks differ a little: what is not older than now has no age.
    fn age(self, now: u32) -> u32 {
        let age = now.wrapping_sub(self.stamp);
        if age > u32::MAX / 2 { 0 } else { age }
    }

    /// As one number, to be kept in an atomic.
    pub fn to_bits(self) -> u64 {
        u64::from(self.seconds.to_bits()) << 32 | u64::from(self.stamp)
    }

    /// Of [`Self::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        Self { seconds: f32::from_bits((bits >> 32) as u32), stamp: bits as u32 }
    }
}

fn fade(age: u32) -> f32 {
    (-(age as f32) / FADE_MS).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: &[(u32, f32)]) -> Latency {
        samples.iter().fold(Latency::default(), |it, (now, seconds)| it.observed(*now, *seconds))
    }

    #[test]
    fn slower_counts_at_once_and_faster_by_and_by() {
        let usual = after(&(0..100).map(|it| (it, 0.001)).collect::<Vec<_>>());
        assert_eq!(usual.at(100), 0.001);
        let one_slow = usual.observed(101, 5.0);
        assert_eq!(one_slow.at(101), 0.004);
        let slow = (102..106).fold(one_slow, |it, now| it.observed(now, 5.0));
        assert!(slow.at(106) > 1.0, "{slow:?}");
        let again = (0..60_000).fold(slow, |it, now| it.observed(200 + now, 0.001));
        assert!(again.at(60_200) < 0.02, "{again:?}");
    }

    #[test]
    fn it_fades_without_requests_and_between_clocks_it_does_not() {
        let slow = after(&[(1_000, 0.001), (1_001, 0.003)]);
        assert!(slow.at(61_001) < 0.000_02);
        assert_eq!(slow.at(990), slow.at(1_001));
        assert_eq!(Latency::from_bits(slow.to_bits()), slow);
    }

    #[test]
    fn it_stays_between_the_fastest_and_the_slowest() {
        let mut seed = 1_u32;
        let mut latency = Latency::default().observed(u32::MAX - 3_000, 0.001);
        for step in 0..10_000_u32 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let seconds = 0.001 + (seed >> 16) as f32 / 65_536.0 * 0.009;
            latency = latency.observed((u32::MAX - 3_000).wrapping_add(step), seconds);
            let now = latency.at((u32::MAX - 3_000).wrapping_add(step));
            assert!((0.000_99..=0.010_01).contains(&now), "{step}: {now}");
        }
    }
}
