//! How long a failed login is held, by how often its address has failed of late.

use std::time::Duration;

/// The first failure's; each further one doubles it.
const FIRST: Duration = Duration::from_millis(100);
/// An address that has not failed for so long is forgotten.
pub const MEMORY: Duration = Duration::from_secs(60);

/// The delay of the `nth` failure (from 1), at most `longest`.
pub fn of(nth: u32, longest: Duration) -> Duration {
    let doublings = nth.saturating_sub(1).min(20);
    FIRST.saturating_mul(1 << doublings).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound() {
        let delays = [1, 2, 3, 7, u32::MAX].map(|it| of(it, Duration::from_secs(5)).as_millis());
        assert_eq!(delays, [100, 200, 400, 5000, 5000]);
        assert_eq!(of(3, Duration::ZERO), Duration::ZERO);
    }
}
