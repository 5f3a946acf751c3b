//! Time as one number: what is asked for with every request is to cost an addition.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// When the process began to count.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// A point of the monotonic clock: nanoseconds since the process began to count, or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// Now, by a look at the clock.
    pub fn now() -> Self {
        Self::of(Instant::now())
    }

    /// The same moment.
    pub fn of(instant: Instant) -> Self {
        let origin = *ORIGIN.get_or_init(|| instant);
        match instant.checked_duration_since(origin) {
            Some(after) => Self(after.as_nanos() as i64),
            None => Self(-((origin - instant).as_nanos() as i64)),
        }
    }

    /// As nanoseconds.
    pub fn nanos(self) -> i64 {
        self.0
    }

    /// From nanoseconds.
    pub fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The moment so long before.
    #[must_use]
    pub fn before(self, ahead: Duration) -> Self {
        Self(self.0 - ahead.as_nanos() as i64)
    }

    /// How long ago `earlier` is; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos((self.0 - earlier.0).max(0) as u64)
    }

    /// The seconds from `earlier` to this moment; zero if it is not earlier.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0).max(0) as f64 * 1e-9
    }

    /// How long ago it is, by a look at the clock.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// Whether it is at least `limit` ago at `now`.
    pub fn is_past(self, limit: Limit, now: Self) -> bool {
        now.0 - self.0 >= limit.0
    }
}

/// How long something may take or last, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(i64);

impl Limit {
    /// Zero means that there is no limit.
    pub fn new(limit: Duration) -> Self {
        match limit.is_zero() {
            true => Self(i64::MAX),
            false => Self(i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_before_the_first_are_told_apart() {
        let now = Moment::now();
        let earlier = now.before(Duration::from_secs(3600));
        assert_eq!(now.since(earlier), Duration::from_secs(3600));
        assert_eq!(earlier.since(now), Duration::ZERO);
        assert!(earlier.is_past(Limit::new(Duration::from_secs(3600)), now));
        assert!(!earlier.is_past(Limit::new(Duration::from_secs(3601)), now));
        assert!(!earlier.is_past(Limit::new(Duration::ZERO), now));
        assert_eq!(now.seconds_since(earlier), 3600.0);
    }
}
