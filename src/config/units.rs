//! Durations and sizes as written in the TOML, both ways.

use std::time::Duration;

const DURATIONS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A year: longer waits are slips, and clocks overflow on very long ones.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Reads `5s`, `500ms`, `2m`, `1h`, `1d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    scaled(text, DURATIONS).map(Duration::from_millis).filter(|it| *it <= LONGEST)
}

/// Reads `64KiB`, `256MiB`, `1GiB`, `100B`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    scaled(text, SIZES)
}

/// Writes a duration as it would stand in the TOML.
pub fn show_duration(duration: Duration) -> String {
    match duration.as_millis() as u64 {
        0 => "0s".to_owned(),
        // Days are read but written as hours.
        ms => unscaled(ms, &DURATIONS[..4]),
    }
}

/// Writes a size as it would stand in the TOML.
pub fn show_bytes(bytes: u64) -> String {
    unscaled(bytes, SIZES)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|it: char| !it.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// With the largest unit that leaves a whole number.
fn unscaled(value: u64, units: &[(&str, u64)]) -> String {
    let fits = units.iter().rev().find(|(_, factor)| value.is_multiple_of(*factor) && value > 0);
    let (unit, factor) = fits.unwrap_or(&units[0]);
    format!("{}{unit}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_show() {
        for text in ["500ms", "5s", "2m", "1h", "1500ms", "0s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        for wrong in ["", "5", "s", "5 s", "5S", "-1s", "1.5s", "99999999999999999999s", "999d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_read_and_show() {
        for text in ["100B", "64KiB", "256MiB", "3GiB"] {
            assert_eq!(show_bytes(bytes(text).unwrap()), text);
        }
        assert_eq!(bytes("1MB"), None);
    }
}
