//! Values by type: which types the proxy understands, and how their values compare.

use std::ops::Range;

use bytes::Bytes;

use super::numeric::Numeric;
use super::time;

/// A type whose values the proxy understands as Postgres does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Bytea,
    Char,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    /// text and varchar: ordered by bytes if the collation is.
    Text,
    Date,
    Timestamp,
    TimestampTz,
    Uuid,
}

/// Types with a name in errors (`pg_type.dat`), and their kind if the proxy understands them.
const TYPES: &[(u32, &str, Option<Kind>)] = &[
    (16, "boolean", Some(Kind::Bool)),
    (17, "bytea", Some(Kind::Bytea)),
    (18, "\"char\"", Some(Kind::Char)),
    (19, "name", None),
    (20, "bigint", Some(Kind::Int8)),
    (21, "smallint", Some(Kind::Int2)),
    (23, "integer", Some(Kind::Int4)),
    (25, "text", Some(Kind::Text)),
    (26, "oid", Some(Kind::Oid)),
    (114, "json", None),
    (700, "real", Some(Kind::Float4)),
    (701, "double precision", Some(Kind::Float8)),
    (705, "unknown", None),
    (790, "money", None),
    (869, "inet", None),
    (1042, "character", None),
    (1043, "character varying", Some(Kind::Text)),
    (1082, "date", Some(Kind::Date)),
    (1083, "time without time zone", None),
    (1114, "timestamp without time zone", Some(Kind::Timestamp)),
    (1184, "timestamp with time zone", Some(Kind::TimestampTz)),
    (1186, "interval", None),
    (1266, "time with time zone", None),
    (1700, "numeric", Some(Kind::Numeric)),
    (2950, "uuid", Some(Kind::Uuid)),
    (3802, "jsonb", None),
];

impl Kind {
    /// Of a type OID.
    pub(super) fn of(oid: u32) -> Option<Self> {
        TYPES.iter().find(|(found, ..)| *found == oid).and_then(|(.., kind)| *kind)
    }

    /// Whether values are equal exactly if their bytes are: `1.0` and `1.00`, `0` and `-0` are not.
    pub(super) fn is_equal_by_bytes(self) -> bool {
        !matches!(self, Self::Float4 | Self::Float8 | Self::Numeric)
    }
}

/// The name of a type, or its OID.
pub(super) fn type_name(oid: u32) -> String {
    match TYPES.iter().find(|(found, ..)| *found == oid) {
        Some((_, name, _)) => (*name).to_owned(),
        None => format!("OID {oid}"),
    }
}

/// A value that compares as Postgres compares it; only values of one kind are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// Integers, booleans, dates, timestamps; floats by [`float_key`].
    Int(i64),
    Numeric(Box<Numeric>),
    Bytes(Bytes),
}

impl Key {
    /// Reads the value at `range` of a frame; `format` 0 is text, 1 binary. `None` if it does not
    /// read as its kind: another DateStyle or bytea_output.
    pub(super) fn read(
        kind: Kind,
        format: i16,
        frame: &Bytes,
        range: Range<usize>,
    ) -> Option<Self> {
        let bytes = frame.get(range.clone())?;
        let numeric = |numeric| Self::Numeric(Box::new(numeric));
        match (kind, format) {
            (Kind::Text | Kind::Uuid, _) | (Kind::Bytea, 1) => {
                Some(Self::Bytes(frame.slice(range)))
            }
            // Hexadecimal digits in lower case order as the bytes they stand for.
            (Kind::Bytea, _) => bytes.starts_with(b"\\x").then(|| Self::Bytes(frame.slice(range))),
            (Kind::Numeric, 1) => Numeric::from_binary(bytes).map(numeric),
            (Kind::Numeric, _) => Numeric::from_text(bytes).map(numeric),
            (_, 1) => int_from_binary(kind, bytes).map(Self::Int),
            _ => int_from_text(kind, bytes).map(Self::Int),
        }
    }

    /// Bytes kept for it beside its own size.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Int(_) => 0,
            Self::Numeric(_) => size_of::<Numeric>(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

fn int_from_binary(kind: Kind, bytes: &[u8]) -> Option<i64> {
    Some(match kind {
        Kind::Bool | Kind::Char => i64::from(u8::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Int2 => i64::from(i16::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Int4 | Kind::Date => i64::from(i32::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Oid => i64::from(u32::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Int8 | Kind::Timestamp | Kind::TimestampTz => {
            i64::from_be_bytes(bytes.try_into().ok()?)
        }
        Kind::Float4 => float_key(f64::from(f32::from_be_bytes(bytes.try_into().ok()?))),
        Kind::Float8 => float_key(f64::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Bytea | Kind::Numeric | Kind::Text | Kind::Uuid => return None,
    })
}

fn int_from_text(kind: Kind, text: &[u8]) -> Option<i64> {
    match kind {
        Kind::Bool => match text {
            b"t" => Some(1),
            b"f" => Some(0),
            _ => None,
        },
        Kind::Char => char_from_text(text),
        Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Oid => int(text),
        Kind::Float4 => float::<f32>(text).map(f64::from).map(float_key),
        Kind::Float8 => float(text).map(float_key),
        Kind::Date => time::date(text),
        Kind::Timestamp => time::timestamp(text, false),
        Kind::TimestampTz => time::timestamp(text, true),
        Kind::Bytea | Kind::Numeric | Kind::Text | Kind::Uuid => None,
    }
}

/// `"char"` is an unsigned byte: nothing for zero, `\ooo` above 127.
fn char_from_text(text: &[u8]) -> Option<i64> {
    match *text {
        [] => Some(0),
        [byte] => Some(i64::from(byte)),
        [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7'] => {
            Some([a, b, c].iter().fold(0, |value, digit| value * 8 + i64::from(digit - b'0')))
        }
        _ => None,
    }
}

fn int(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn float<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    let is_float = text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    std::str::from_utf8(text).ok().filter(|_| is_float)?.parse().ok()
}

/// An integer that orders as Postgres orders floats: NaN above all, -0 equal to 0.
fn float_key(value: f64) -> i64 {
    if value.is_nan() {
        return i64::MAX;
    }
    let bits = if value == 0.0 { 0 } else { value.to_bits() as i64 };
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

/// The value of decimal digits; `None` if there is anything else, or nothing.
pub(super) fn digits(text: &[u8]) -> Option<i64> {
    let is_number = !text.is_empty() && text.len() < 19 && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, format: i16, bytes: &Bytes) -> Option<Key> {
        Key::read(kind, format, bytes, 0..bytes.len())
    }

    fn key(kind: Kind, text: &'static str) -> Option<Key> {
        read(kind, 0, &Bytes::from_static(text.as_bytes()))
    }

    fn rises(kind: Kind, values: &[&'static str]) {
        for pair in values.windows(2) {
            let (a, b) = (key(kind, pair[0]), key(kind, pair[1]));
            assert!(a.is_some() && a < b, "{kind:?} {pair:?}");
        }
    }

    #[test]
    fn text_orders() {
        rises(Kind::Bool, &["f", "t"]);
        rises(Kind::Int2, &["-32768", "-1", "0", "9", "10"]);
        rises(Kind::Oid, &["0", "2147483648", "4294967295"]);
        rises(Kind::Char, &["", "A", "a", "\\200", "\\377"]);
        rises(Kind::Bytea, &["\\x", "\\x00", "\\x0a", "\\xa0", "\\xff", "\\xff00"]);
        rises(Kind::Uuid, &["00000000-0000-0000-0000-00000000000a", "a0000000-0000-0000-0000-0"]);
        rises(Kind::Float8, &["-Infinity", "-1e+300", "-1", "0", "5e-324", "1", "Infinity", "NaN"]);
        rises(Kind::Float4, &["-3.4e+38", "-0.5", "1e-45", "0.1", "NaN"]);
        rises(Kind::Numeric, &["-Infinity", "-2", "0.1", "10", "NaN"]);
        rises(Kind::Date, &["-infinity", "0044-03-15 BC", "2026-01-01", "infinity"]);
        rises(Kind::Text, &["", "A", "B", "a", "ä"]);
    }

    #[test]
    fn equal_values() {
        assert_eq!(key(Kind::Float8, "-0"), key(Kind::Float8, "0"));
        assert_eq!(key(Kind::Numeric, "1.0"), key(Kind::Numeric, "1"));
        assert_eq!(
            key(Kind::TimestampTz, "2026-01-01 01:00:00+01"),
            key(Kind::TimestampTz, "2025-12-31 19:00:00-05")
        );
    }

    #[test]
    fn binary_equals_text() {
        let cases: [(Kind, &'static str, &'static [u8]); 9] = [
            (Kind::Bool, "t", b"\x01"),
            (Kind::Char, "\\200", b"\x80"),
            (Kind::Int2, "-2", b"\xff\xfe"),
            (Kind::Int4, "-2", b"\xff\xff\xff\xfe"),
            (Kind::Oid, "4294967295", b"\xff\xff\xff\xff"),
            (Kind::Int8, "258", b"\0\0\0\0\0\0\x01\x02"),
            (Kind::Float4, "0.1", b"\x3d\xcc\xcc\xcd"),
            (Kind::Date, "-infinity", b"\x80\0\0\0"),
            (Kind::Timestamp, "2000-01-01 00:00:00.000258", b"\0\0\0\0\0\0\x01\x02"),
        ];
        for (kind, text, binary) in cases {
            let binary = read(kind, 1, &Bytes::from_static(binary));
            assert!(binary.is_some(), "{kind:?}");
            assert_eq!(binary, key(kind, text), "{kind:?}");
        }
    }

    /// Text and binary of values as PostgreSQL 15 wrote them, in the order it gave them:
    /// `SELECT 'date', v, encode(date_send(v), 'hex') FROM … ORDER BY v`.
    #[test]
    fn values_of_postgres() {
        let mut before: Option<(Kind, Key)> = None;
        for line in include_str!("../../tests/data/values.txt").lines() {
            let fields: Vec<_> = line.split('|').collect();
            let [name, text, hex] = fields[..] else { panic!("bad line {line}") };
            let kind = kind_of(name);
            let key = read(kind, 0, &Bytes::from_static(text.as_bytes())).expect(line);
            let binary = read(kind, 1, &unhex(hex)).expect(line);
            assert_eq!(key, binary, "{line}");
            let is_in_order = before.is_none_or(|(last, old)| last != kind || old <= key);
            assert!(is_in_order, "{line}");
            before = Some((kind, key));
        }
    }

    fn kind_of(name: &str) -> Kind {
        match name {
            "numeric" => Kind::Numeric,
            "date" => Kind::Date,
            "timestamp" => Kind::Timestamp,
            "timestamptz" => Kind::TimestampTz,
            "float4" => Kind::Float4,
            "float8" => Kind::Float8,
            "char" => Kind::Char,
            "bool" => Kind::Bool,
            "int2" => Kind::Int2,
            "int4" => Kind::Int4,
            "int8" => Kind::Int8,
            "oid" => Kind::Oid,
            _ => panic!("unknown type {name}"),
        }
    }

    fn unhex(hex: &str) -> Bytes {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    #[test]
    fn what_does_not_read_is_no_value() {
        assert_eq!(key(Kind::Bytea, "abc"), None);
        assert_eq!(key(Kind::Date, "11/21/2026"), None);
        assert_eq!(key(Kind::Int4, "x"), None);
        assert_eq!(read(Kind::Int4, 1, &Bytes::from_static(b"\0")), None);
    }
}
