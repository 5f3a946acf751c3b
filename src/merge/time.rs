//! Dates and timestamps from the ISO text form of Postgres (`EncodeDateTime`, `EncodeDateOnly`), as
//! the numbers of the binary form.

use super::value::digits;

const DAY: i64 = 86_400_000_000;
const SECOND: i64 = 1_000_000;
/// Days from 1970-01-01 to 2000-01-01, Postgres' epoch.
const EPOCH: i64 = 10_957;

/// Days since 2000-01-01 of `2026-11-21`, `0044-03-15 BC`, `infinity`; `None` if it is not ISO.
pub(super) fn date(text: &[u8]) -> Option<i64> {
    match text {
        b"infinity" => Some(i64::from(i32::MAX)),
        b"-infinity" => Some(i64::from(i32::MIN)),
        _ => {
            let (text, is_bc) = era(text);
            let (days, rest) = day(text, is_bc)?;
            rest.is_empty().then_some(days)
        }
    }
}

/// Microseconds since 2000-01-01 of `2026-11-21 12:00:00.5`, `infinity`; `None` if it is not ISO.
/// With an offset (timestamptz) they are of UTC.
pub(super) fn timestamp(text: &[u8], has_offset: bool) -> Option<i64> {
    match text {
        b"infinity" => return Some(i64::MAX),
        b"-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (text, is_bc) = era(text);
    let (days, rest) = day(text, is_bc)?;
    let (micros, rest) = time_of_day(rest.strip_prefix(b" ")?)?;
    let offset = match (has_offset, rest) {
        (false, []) => 0,
        (true, rest) => offset(rest)?,
        _ => return None,
    };
    days.checked_mul(DAY)?.checked_add(micros)?.checked_sub(offset)
}

fn era(text: &[u8]) -> (&[u8], bool) {
    match text.strip_suffix(b" BC") {
        Some(text) => (text, true),
        None => (text, false),
    }
}

/// `YYYY-MM-DD`, the year of at least four digits; other styles begin with two digits or a name.
fn day(text: &[u8], is_bc: bool) -> Option<(i64, &[u8])> {
    let dash = memchr::memchr(b'-', text)?;
    let year = digits(text.get(..dash).filter(|year| (4..=7).contains(&year.len()))?)?;
    let month = two(text, dash + 1)?;
    let day = two(text, dash + 4)?;
    let is_date =
        text.get(dash + 3) == Some(&b'-') && (1..=12).contains(&month) && (1..=31).contains(&day);
    let year = if is_bc { 1 - year } else { year };
    is_date.then_some((days(year, month, day), &text[dash + 6..]))
}

/// `HH:MM:SS[.ffffff]` in microseconds.
fn time_of_day(text: &[u8]) -> Option<(i64, &[u8])> {
    let is_time = text.get(2) == Some(&b':') && text.get(5) == Some(&b':');
    let seconds = two(text, 0)? * 3600 + two(text, 3)? * 60 + two(text, 6)?;
    let rest = text.get(8..)?;
    let (fraction, rest) = match rest.strip_prefix(b".") {
        Some(rest) => fraction(rest)?,
        None => (0, rest),
    };
    is_time.then_some((seconds * SECOND + fraction, rest))
}

fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (fraction, rest) = text.split_at(len);
    let zeros = 6_usize.checked_sub(len).filter(|_| len > 0)?;
    Some((digits(fraction)? * 10_i64.pow(zeros as u32), rest))
}

/// `+HH[:MM[:SS]]` in microseconds.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, text) = match text.split_first()? {
        (b'+', rest) => (1, rest),
        (b'-', rest) => (-1, rest),
        _ => return None,
    };
    let seconds = match text.len() {
        2 => two(text, 0)? * 3600,
        5 if text[2] == b':' => two(text, 0)? * 3600 + two(text, 3)? * 60,
        8 if text[2] == b':' && text[5] == b':' => {
            two(text, 0)? * 3600 + two(text, 3)? * 60 + two(text, 6)?
        }
        _ => return None,
    };
    Some(sign * seconds * SECOND)
}

fn two(text: &[u8], at: usize) -> Option<i64> {
    digits(text.get(at..at + 2)?)
}

/// Days since 2000-01-01 of a proleptic Gregorian date; year 0 is 1 BC.
/// <https://howardhinnant.github.io/date_algorithms.html#days_from_civil>
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468 - EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right side is `extract(epoch from …)` of Postgres, less that of 2000-01-01.
    #[test]
    fn dates() {
        let cases = [
            ("2000-01-01", 0),
            ("1999-12-31", -1),
            ("2000-03-01", 60),
            ("2026-11-21", 9_821),
            ("0001-01-01", -730_119),
            ("0001-12-31 BC", -730_120),
            ("4714-11-24 BC", -2_451_545),
            ("5874897-12-31", 2_145_031_948),
        ];
        for (text, days) in cases {
            assert_eq!(date(text.as_bytes()), Some(days), "{text}");
        }
        assert!(date(b"-infinity") < date(b"4714-11-24 BC"));
        assert!(date(b"infinity") > date(b"5874897-12-31"));
    }

    #[test]
    fn timestamps() {
        let at = |text: &str| timestamp(text.as_bytes(), false);
        let tz = |text: &str| timestamp(text.as_bytes(), true);
        assert_eq!(at("2000-01-01 00:00:01.5"), Some(1_500_000));
        assert_eq!(at("2000-01-01 00:00:00.000001"), Some(1));
        assert_eq!(at("1999-12-31 23:59:59.999999"), Some(-1));
        assert_eq!(at("294276-12-31 23:59:59.999999"), Some(9_223_371_331_199_999_999));
        assert_eq!(at("4714-11-24 00:00:00 BC"), Some(-211_813_488_000_000_000));
        assert_eq!(tz("2000-01-01 02:00:00+02"), Some(0));
        assert_eq!(tz("1999-12-31 20:30:00-03:30"), Some(0));
        assert_eq!(tz("2000-01-01 00:53:28+00:53:28"), Some(0));
        assert_eq!(tz("4714-11-24 00:00:00+00 BC"), Some(-211_813_488_000_000_000));
        assert_eq!(tz("infinity"), Some(i64::MAX));
    }

    #[test]
    fn other_styles_are_no_iso() {
        let texts = [
            "11/21/2026 12:00:00",
            "Sat Nov 21 12:00:00 2026",
            "21.11.2026 12:00:00",
            "11-21-2026",
            "2026-11-21",
            "2026-11-21 12:00",
            "2026-11-21T12:00:00",
            "2026-11-21 12:00:00 UTC",
            "2026-13-21 12:00:00",
            "",
            "2026-11-21 12:00:00.",
            "2026-11-21 12:00:00.1234567",
            "2026-11-2",
            "2026-11-21 12:00:00+02",
        ];
        for text in texts {
            assert_eq!(timestamp(text.as_bytes(), false), None, "{text}");
        }
        for text in ["11-21-2026", "11/21/2026", "2026-11-21 ", "21.11.2026", "2026-1-1"] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
        assert_eq!(timestamp(b"2026-11-21 12:00:00", true), None);
    }
}
