//! Types of columns and expressions, and values of them.

use super::choices::Choices;

/// A type, as far as generators tell types apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ty {
    /// int2, int4 and a domain over int.
    Int,
    Big,
    Numeric,
    Text,
    Char,
    Bool,
    Date,
    Timestamp,
    Zoned,
    Interval,
    Float,
    Uuid,
    Json,
    Bytes,
    Enum,
    Ints,
}

pub const TYPES: [Ty; 16] = [
    Ty::Int,
    Ty::Big,
    Ty::Text,
    Ty::Numeric,
    Ty::Bool,
    Ty::Date,
    Ty::Zoned,
    Ty::Char,
    Ty::Timestamp,
    Ty::Interval,
    Ty::Float,
    Ty::Uuid,
    Ty::Json,
    Ty::Bytes,
    Ty::Enum,
    Ty::Ints,
];

impl Ty {
    /// The type's name in a cast.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Big => "bigint",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Char => "char(4)",
            Self::Bool => "boolean",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Zoned => "timestamptz",
            Self::Interval => "interval",
            Self::Float => "float8",
            Self::Uuid => "uuid",
            Self::Json => "jsonb",
            Self::Bytes => "bytea",
            Self::Enum => "mood",
            Self::Ints => "int[]",
        }
    }
}

/// Values without quotes. Equal ones are the same text: SQL does not say which of two different
/// texts of one value DISTINCT or max keeps.
fn pool(ty: Ty) -> &'static [&'static str] {
    match ty {
        Ty::Int => &["1", "2", "0", "3", "7", "-5", "10", "42", "100"],
        Ty::Big => &["1", "2", "3", "0", "-4", "5000000000", "9007199254740993", "17"],
        Ty::Numeric => &["1", "2.5", "0", "-3.25", "0.07", "12.34", "99.99", "NaN", "-0.5"],
        Ty::Text => &["a", "b", "B", "", "abc", "Zoo", "élan", "a b", "10", "9", "it's", "ä"],
        Ty::Char => &["a", "ab", "b", "C", "", "abcd"],
        Ty::Bool => &["true", "false"],
        Ty::Date => &["2024-02-29", "2025-01-01", "1999-12-31", "infinity", "-infinity"],
        Ty::Timestamp => {
            &["2025-01-01 00:00:00", "2024-06-30 23:59:59.5", "infinity", "0099-01-01 00:00:00"]
        }
        Ty::Zoned => &[
            "2025-01-01 00:00:00+00",
            "2025-03-30 01:30:00+00",
            "2024-06-30 12:00:00.123456+00",
            "infinity",
            "-infinity",
        ],
        Ty::Interval => &["1 day", "2 hours", "-3 days", "1 mon 2 days", "00:00:00.5"],
        Ty::Float => &["1.5", "0", "-2.25", "1e30", "NaN", "Infinity", "-Infinity", "0.1"],
        Ty::Uuid => &[
            "00000000-0000-4000-8000-000000000001",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "ffffffff-ffff-4fff-bfff-fffffffffff2",
            "12345678-1234-4234-9234-123456789abc",
            "0d000000-0000-4000-8000-00000000d003",
            "7e57d004-2b97-4e7a-b45f-5387367791cd",
        ],
        Ty::Json => &[
            r#"{"k": 1}"#,
            r#"{"k": 2, "s": "x"}"#,
            r#"{"s": "é"}"#,
            "[1, 2]",
            "null",
            r#""text""#,
            "{}",
        ],
        Ty::Bytes => &[r"\x", r"\x00ff", r"\x61", r"\x6162"],
        Ty::Enum => &["sad", "ok", "happy"],
        Ty::Ints => &["{}", "{1}", "{1,2}", "{2,NULL}", "{3,1,2}"],
    }
}

/// A value, not NULL.
pub fn value(choices: &mut Choices, ty: Ty) -> &'static str {
    choices.pick::<&str>(pool(ty))
}

/// A literal; bare where the type's literals are.
pub fn literal(choices: &mut Choices, ty: Ty) -> String {
    let value = value(choices, ty);
    match ty {
        Ty::Int | Ty::Big | Ty::Bool => value.to_owned(),
        Ty::Numeric if value != "NaN" => value.to_owned(),
        _ => cast(value, ty),
    }
}

/// A quoted literal of a type.
pub fn cast(value: &str, ty: Ty) -> String {
    format!("{}::{}", quoted(value), ty.sql())
}

pub fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Keys of tenants.
pub fn tenants(ty: Ty) -> &'static [&'static str] {
    match ty {
        Ty::Text => &["acme", "Bits", "c-corp", "07", "O'Neil", "ümlaut", "x y", "z"],
        Ty::Uuid => pool(Ty::Uuid),
        _ => &["1", "2", "3", "4", "5", "6", "7", "8", "9"],
    }
}

/// A key as a literal.
pub fn tenant(choices: &mut Choices, ty: Ty) -> String {
    let value = choices.pick(tenants(ty));
    if ty == Ty::Text || ty == Ty::Uuid { quoted(value) } else { (*value).to_owned() }
}
