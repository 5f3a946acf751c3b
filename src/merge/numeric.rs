//! Postgres' numeric: read from text and binary, compared, added exactly, written.
//!
//! Binary form (`numeric_send`): int16 number of digits, weight, sign, display scale, then digits
//! of base 10000; the first digit counts 10000^weight.

use std::cmp::Ordering;

use bytes::{BufMut, BytesMut};
use num_bigint::BigInt;
use smallvec::SmallVec;

use crate::error::{PgError, sqlstate};

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const POSITIVE_INFINITY: u16 = 0xd000;
const NEGATIVE_INFINITY: u16 = 0xf000;
/// The scale that `numeric_send` reads from an infinity's header, where none is.
const INFINITY_SCALE: u16 = 0x20;
/// Decimal digits in one digit of base 10000.
const GROUP: usize = 4;

/// A numeric; ordered as Postgres orders: infinities at the ends, NaN above all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Numeric {
    NegativeInfinity,
    Finite(Decimal),
    PositiveInfinity,
    NaN,
}

/// A finite value without leading or trailing zero digits; zero has none and weight 0.
#[derive(Clone, Debug)]
pub(super) struct Decimal {
    is_negative: bool,
    weight: i32,
    /// Base 10000.
    digits: SmallVec<[u16; 8]>,
    /// Decimal digits shown after the point; no part of the value.
    scale: u16,
}

impl Numeric {
    /// From Postgres' text form; `None` if it is not.
    pub(super) fn from_text(text: &[u8]) -> Option<Self> {
        match text {
            b"NaN" => Some(Self::NaN),
            b"Infinity" => Some(Self::PositiveInfinity),
            b"-Infinity" => Some(Self::NegativeInfinity),
            _ => Decimal::from_text(text).map(Self::Finite),
        }
    }

    /// From Postgres' binary form; `None` if it is not.
    pub(super) fn from_binary(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
        let (count, weight) = (words.next()?, words.next()?);
        let (sign, scale) = (words.next()?, words.next()?);
        let digits: SmallVec<[u16; 8]> = words.collect();
        if bytes.len() != 8 + 2 * count as usize || digits.iter().any(|&digit| digit > 9999) {
            return None;
        }
        match sign {
            NAN => Some(Self::NaN),
            POSITIVE_INFINITY => Some(Self::PositiveInfinity),
            NEGATIVE_INFINITY => Some(Self::NegativeInfinity),
            0 | NEGATIVE => {
                let weight = i32::from(weight as i16);
                Some(Self::Finite(Decimal::new(sign == NEGATIVE, weight, digits, scale)))
            }
            _ => None,
        }
    }

    /// Appends Postgres' text form.
    pub(super) fn put_text(&self, out: &mut BytesMut) {
        match self {
            Self::NaN => out.put_slice(b"NaN"),
            Self::PositiveInfinity => out.put_slice(b"Infinity"),
            Self::NegativeInfinity => out.put_slice(b"-Infinity"),
            Self::Finite(decimal) => decimal.put_text(out),
        }
    }

    /// Appends Postgres' binary form; 22003 beyond 10^131072.
    pub(super) fn put_binary(&self, out: &mut BytesMut) -> Result<(), PgError> {
        let (sign, scale) = match self {
            Self::NaN => (NAN, 0),
            Self::PositiveInfinity => (POSITIVE_INFINITY, INFINITY_SCALE),
            Self::NegativeInfinity => (NEGATIVE_INFINITY, INFINITY_SCALE),
            Self::Finite(decimal) => return decimal.put_binary(out),
        };
        [0, 0, sign, scale].into_iter().for_each(|word| out.put_u16(word));
        Ok(())
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NegativeInfinity => 0,
            Self::Finite(_) => 1,
            Self::PositiveInfinity => 2,
            Self::NaN => 3,
        }
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Decimal {
    /// Leading and trailing zero digits are removed.
    fn new(is_negative: bool, weight: i32, digits: SmallVec<[u16; 8]>, scale: u16) -> Self {
        let end = digits.iter().rposition(|&digit| digit != 0).map_or(0, |last| last + 1);
        let start = digits.iter().position(|&digit| digit != 0).unwrap_or(end);
        if start == end {
            return Self { is_negative: false, weight: 0, digits: SmallVec::new(), scale };
        }
        let weight = weight - start as i32;
        Self { is_negative, weight, digits: digits[start..end].into(), scale }
    }

    fn from_text(text: &[u8]) -> Option<Self> {
        let (is_negative, text) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let point = memchr::memchr(b'.', text).unwrap_or(text.len());
        let (whole, fraction) = (&text[..point], text.get(point + 1..).unwrap_or_default());
        let is_number = whole.iter().chain(fraction).all(u8::is_ascii_digit);
        if !is_number || whole.len() + fraction.len() == 0 {
            return None;
        }
        let mut digits: SmallVec<[u16; 8]> = whole.rchunks(GROUP).rev().map(value).collect();
        let weight = digits.len() as i32 - 1;
        digits.extend(fraction.chunks(GROUP).map(padded));
        let scale = u16::try_from(fraction.len()).ok()?;
        Some(Self::new(is_negative, weight, digits, scale))
    }

    /// The digit of 10000^power.
    fn digit(&self, power: i32) -> u16 {
        let at = usize::try_from(self.weight - power);
        at.ok().and_then(|at| self.digits.get(at)).copied().unwrap_or(0)
    }

    fn put_text(&self, out: &mut BytesMut) {
        if self.is_negative {
            out.put_u8(b'-');
        }
        let whole: String = (0..=self.weight.max(0))
            .rev()
            .map(|power| format!("{:04}", self.digit(power)))
            .collect();
        let whole = whole.trim_start_matches('0');
        out.put_slice(if whole.is_empty() { b"0" } else { whole.as_bytes() });
        let scale = self.scale as usize;
        if scale > 0 {
            let groups = scale.div_ceil(GROUP) as i32;
            let fraction: String =
                (1..=groups).map(|power| format!("{:04}", self.digit(-power))).collect();
            out.put_u8(b'.');
            out.put_slice(&fraction.as_bytes()[..scale]);
        }
    }

    fn put_binary(&self, out: &mut BytesMut) -> Result<(), PgError> {
        let weight = i16::try_from(self.weight).map_err(|_| overflow())?;
        let count = i16::try_from(self.digits.len()).map_err(|_| overflow())?;
        out.put_i16(count);
        out.put_i16(weight);
        out.put_u16(if self.is_negative { NEGATIVE } else { 0 });
        out.put_u16(self.scale);
        self.digits.iter().for_each(|&digit| out.put_u16(digit));
        Ok(())
    }

    /// Digits of base 10000 after the point.
    fn fraction_groups(&self) -> usize {
        usize::try_from(self.digits.len() as i32 - 1 - self.weight).unwrap_or(0)
    }

    /// The value times 10000^`groups`, where `groups` is at least [`Self::fraction_groups`].
    fn scaled(&self, groups: usize) -> BigInt {
        let mut text = String::with_capacity(GROUP * (self.digits.len() + groups) + 1);
        text.push(if self.is_negative { '-' } else { '+' });
        text.push('0');
        self.digits.iter().for_each(|digit| text.push_str(&format!("{digit:04}")));
        let zeros = groups - self.fraction_groups();
        let before_point = usize::try_from(self.weight + 1 - self.digits.len() as i32).unwrap_or(0);
        text.extend(std::iter::repeat_n('0', GROUP * (zeros + before_point)));
        text.parse().expect("a sign and digits")
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |d: &Self| match (d.digits.is_empty(), d.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let magnitude =
            || self.weight.cmp(&other.weight).then_with(|| self.digits.cmp(&other.digits));
        sign(self).cmp(&sign(other)).then_with(|| match self.is_negative {
            true => magnitude().reverse(),
            false => magnitude(),
        })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn value(digits: &[u8]) -> u16 {
    digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'))
}

fn padded(digits: &[u8]) -> u16 {
    value(digits) * 10_u16.pow((GROUP - digits.len()) as u32)
}

#[cold]
fn overflow() -> PgError {
    PgError::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "value overflows numeric format")
}

/// A sum of numerics. Its scale is the largest of the addends'; infinities of both signs give NaN.
#[derive(Clone, Debug)]
pub(super) struct Sum {
    /// The finite addends' sum times 10000^groups.
    scaled: BigInt,
    groups: usize,
    scale: u16,
    /// What the addends that are not finite sum up to.
    special: Option<Numeric>,
}

impl Sum {
    pub(super) fn new() -> Self {
        Self { scaled: BigInt::ZERO, groups: 0, scale: 0, special: None }
    }

    pub(super) fn add(&mut self, numeric: Numeric) {
        match numeric {
            Numeric::Finite(decimal) => self.add_finite(&decimal),
            special => {
                self.special = Some(match self.special.take() {
                    Some(before) if before != special => Numeric::NaN,
                    _ => special,
                });
            }
        }
    }

    fn add_finite(&mut self, decimal: &Decimal) {
        let groups = decimal.fraction_groups();
        if groups > self.groups {
            self.scaled *= BigInt::from(10_000).pow((groups - self.groups) as u32);
            self.groups = groups;
        }
        self.scaled += decimal.scaled(self.groups);
        self.scale = self.scale.max(decimal.scale);
    }

    pub(super) fn finish(self) -> Result<Numeric, PgError> {
        if let Some(special) = self.special {
            return Ok(special);
        }
        let is_negative = self.scaled.sign() == num_bigint::Sign::Minus;
        let text = self.scaled.magnitude().to_string();
        let digits: SmallVec<[u16; 8]> = text.as_bytes().rchunks(GROUP).rev().map(value).collect();
        let weight = digits.len() as i32 - 1 - self.groups as i32;
        let decimal = Decimal::new(is_negative, weight, digits, self.scale);
        if decimal.weight > i32::from(i16::MAX) {
            Err(overflow())
        } else {
            Ok(Numeric::Finite(decimal))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(text: &str) -> Numeric {
        Numeric::from_text(text.as_bytes()).unwrap()
    }

    fn text(numeric: &Numeric) -> String {
        let mut out = BytesMut::new();
        numeric.put_text(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn text_and_binary_round_trip() {
        let values = [
            "0",
            "0.00",
            "1",
            "-1",
            "10000",
            "9999",
            "0.0001",
            "0.00001",
            "-0.5",
            "12345.678",
            "100000000",
            "1000000000000000000000000000000.000000000000000000001",
            "0.10",
            "NaN",
            "Infinity",
            "-Infinity",
            "0.0000000000000001",
            "99999999",
        ];
        for value in values {
            let mut out = BytesMut::new();
            numeric(value).put_binary(&mut out).unwrap();
            let back = Numeric::from_binary(&out).unwrap();
            assert_eq!((text(&numeric(value)), text(&back)), (value.into(), value.into()));
        }
    }

    /// What is written is what PostgreSQL 15 wrote.
    #[test]
    fn text_becomes_binary_as_in_postgres() {
        let lines = include_str!("../../tests/data/values.txt").lines();
        for line in lines.filter_map(|line| line.strip_prefix("numeric|")) {
            let (value, expected) = line.split_once('|').unwrap();
            let mut out = BytesMut::new();
            numeric(value).put_binary(&mut out).unwrap();
            let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((hex.as_str(), text(&numeric(value)).as_str()), (expected, value));
        }
    }

    /// `SELECT encode(numeric_send('-12345.678'), 'hex')`.
    #[test]
    fn binary_is_that_of_postgres() {
        let mut out = BytesMut::new();
        numeric("-12345.678").put_binary(&mut out).unwrap();
        assert_eq!(&out[..], b"\0\x03\0\x01\x40\0\0\x03\0\x01\x09\x29\x1a\x7c");
    }

    #[test]
    fn malformed() {
        for text in ["", "-", ".", "1e5", "1.2.3", " 1", "+1", "0x1", "١"] {
            assert_eq!(Numeric::from_text(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Numeric::from_binary(b"\0\x01\0\0\0\0\0\0"), None);
        assert_eq!(Numeric::from_binary(b"\0\x01\0\0\0\0\0\0\x27\x10"), None);
        assert_eq!(Numeric::from_binary(b"\0\0\0\0\x12\0\0\0"), None);
        assert_eq!(Numeric::from_binary(b"\0\0\0\0\0\0\0"), None);
    }

    #[test]
    fn order() {
        let rising = [
            "-Infinity",
            "-10001",
            "-10000",
            "-9999.5",
            "-1",
            "-0.0002",
            "-0.0001",
            "0",
            "0.00001",
            "0.0001",
            "0.001",
            "0.1",
            "1",
            "1.00001",
            "9999",
            "10000",
            "123456789012345678901",
            "Infinity",
            "NaN",
        ];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                assert_eq!(numeric(a).cmp(&numeric(b)), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(numeric("1.0"), numeric("1.000"));
        assert_eq!(numeric("0.0"), numeric("-0"));
    }

    #[test]
    fn sums() {
        let sum = |values: &[&str]| {
            let mut sum = Sum::new();
            values.iter().for_each(|value| sum.add(numeric(value)));
            text(&sum.finish().unwrap())
        };
        assert_eq!(sum(&["0.1", "0.2"]), "0.3");
        assert_eq!(sum(&["1.50", "-1.5"]), "0.00");
        assert_eq!(sum(&["99999999999999999999", "1", "0.001"]), "100000000000000000000.001");
        assert_eq!(sum(&["10000", "0.00005", "-1"]), "9999.00005");
        assert_eq!(sum(&["10000000000", "10000000000"]), "20000000000");
        assert_eq!(sum(&["-0.0001", "-0.9999"]), "-1.0000");
        assert_eq!(sum(&["1", "Infinity", "2"]), "Infinity");
        assert_eq!(sum(&["Infinity", "-Infinity"]), "NaN");
        assert_eq!(sum(&["NaN", "-Infinity"]), "NaN");
    }
}
