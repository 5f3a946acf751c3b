//! Tenant keys of one execution: from literals, parameters and COPY fields.
//!
//! The rule: a value that every supported server rejects may go to any shard, whose Postgres then
//! reports it; a value that a server might accept although the proxy does not read it is refused.

use smallvec::SmallVec;

use super::KeySource;
use super::array;
use crate::error::{PgError, sqlstate};
use crate::shard::{Key, KeyType};
use crate::sql::fingerprint::{Slot, locate};
use crate::sql::lexer::Kind;
use crate::sql::literal::literal_value;

/// The keys of one execution.
pub type Keys = SmallVec<[Key; 2]>;

/// One execution of a planned statement.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The statement at hand.
    pub sql: &'a str,
    /// Its slots, from its fingerprint.
    pub slots: &'a [Slot],
    /// The slots of the text that was planned; of the same template.
    pub planned: &'a [Slot],
    pub args: Arguments<'a>,
}

/// The parameters of a Bind message.
#[derive(Clone, Copy, Debug)]
pub enum Arguments<'a> {
    /// The simple protocol.
    None,
    Bind {
        /// Raw values, `None` for NULL.
        params: &'a [Option<&'a [u8]>],
        /// 0 text, 1 binary: none (all text), one for all, or one each.
        formats: &'a [i16],
        /// Type OIDs as declared in Parse; 0 or missing: what Postgres infers, which the planner
        /// promises to be the key column's type.
        types: &'a [u32],
    },
}

/// One value read as a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyValue {
    Key(Key),
    Null,
    /// Not of the type: any Postgres reports 22P02, 22P03 or the like.
    Unreadable,
}

/// What a key source gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Keys were added, none for an array without values.
    Keys,
    /// The value was NULL.
    Null,
    Unreadable,
    /// A literal does not read as the type in the plain way.
    Replan,
}

/// Reads a source's keys and adds them to `keys`.
///
/// # Errors
/// 0A000 for a parameter whose meaning as a key is not certain.
pub(super) fn read(source: &KeySource, call: &Call<'_>, keys: &mut Keys) -> Result<Found, PgError> {
    match *source {
        KeySource::Literal { offset, kind } => Ok(match literal(offset, kind, call) {
            Some(key) => push(key, keys),
            None => Found::Replan,
        }),
        KeySource::Param { index, kind } => param(index, kind, &call.args, keys),
        KeySource::ParamArray { index, kind } => array_param(index, kind, &call.args, keys),
    }
}

fn push(key: Key, keys: &mut Keys) -> Found {
    keys.push(key);
    Found::Keys
}

/// The literal that stood at `offset` of the planned text; a minus sign before a number belongs to
/// it where the parser says that the constant begins there.
fn literal(offset: usize, kind: KeyType, call: &Call<'_>) -> Option<Key> {
    let place = locate(call.planned, call.slots, offset)?;
    let slot = *call.slots.get(place.slot)?;
    let sign = call.sql.get(place.offset..slot.start as usize)?;
    let value = literal_value(call.sql, slot)?;
    let is_negative = match sign.strip_prefix('-') {
        None if sign.is_empty() => false,
        Some(gap) if gap.trim().is_empty() && slot.kind.is_number() => true,
        _ => return None,
    };
    let is_integer = matches!(slot.kind, Kind::Integer | Kind::Bigint);
    match kind {
        KeyType::Int if is_negative => Key::from_text(kind, &format!("-{value}")).ok(),
        _ if is_negative => None,
        KeyType::Int if is_integer || slot.kind.is_string() => Key::from_text(kind, &value).ok(),
        // A number becomes text only when it is assigned, as in INSERT.
        KeyType::Text if is_integer => {
            let number = Key::from_text(KeyType::Int, &value).ok()?;
            Key::from_text(kind, number.as_str()).ok()
        }
        KeyType::Text | KeyType::Uuid if slot.kind.is_string() => Key::from_text(kind, &value).ok(),
        _ => None,
    }
}

/// A parameter's raw value and whether it is binary; `None` if Bind does not have it, which
/// Postgres reports.
type Value<'a> = Option<(Option<&'a [u8]>, bool)>;

fn value<'a>(index: usize, args: &Arguments<'a>) -> Result<Value<'a>, PgError> {
    let Arguments::Bind { params, formats, .. } = *args else { return Ok(None) };
    let Some(at) = index.checked_sub(1).filter(|at| *at < params.len()) else { return Ok(None) };
    let format = match formats {
        [] => 0,
        [all] => *all,
        each => each.get(at).copied().unwrap_or(0),
    };
    match format {
        0 | 1 => Ok(Some((params[at], format == 1))),
        other => Err(PgError::new(
            sqlstate::PROTOCOL_VIOLATION,
            format!("parameter ${index} has the unknown format {other}"),
        )),
    }
}

/// Refuses a declared type that is not the key's: it may compare equal to a key that is written
/// differently.
fn check_type(
    index: usize,
    args: &Arguments<'_>,
    is_fitting: impl Fn(u32) -> bool,
) -> Result<(), PgError> {
    let Arguments::Bind { types, .. } = *args else { return Ok(()) };
    let declared = index.checked_sub(1).and_then(|at| types.get(at)).copied().unwrap_or(0);
    if matches!(declared, 0 | array::UNKNOWN) || is_fitting(declared) {
        return Ok(());
    }
    Err(PgError::refused(format!(
        "parameter ${index} is compared with the tenant column, but its type (OID {declared}) is not the column's"
    ))
    .hint("Declare the parameter with the tenant column's type, or leave its type unspecified."))
}

fn param(
    index: usize,
    kind: KeyType,
    args: &Arguments<'_>,
    keys: &mut Keys,
) -> Result<Found, PgError> {
    check_type(index, args, |oid| KeyType::of_oid(oid) == Some(kind))?;
    let (value, is_binary) = match value(index, args)? {
        None => return Ok(Found::Unreadable),
        Some((None, _)) => return Ok(Found::Null),
        Some((Some(value), is_binary)) => (value, is_binary),
    };
    let read = if is_binary { from_binary(kind, value)? } else { from_text(kind, value)? };
    Ok(match read {
        KeyValue::Key(key) => push(key, keys),
        KeyValue::Null => Found::Null,
        KeyValue::Unreadable => Found::Unreadable,
    })
}

fn array_param(
    index: usize,
    kind: KeyType,
    args: &Arguments<'_>,
    keys: &mut Keys,
) -> Result<Found, PgError> {
    check_type(index, args, |oid| array::element_type(oid) == Some(kind))?;
    let values = match value(index, args)? {
        None => return Ok(Found::Unreadable),
        Some((None, _)) => return Ok(Found::Null),
        Some((Some(value), true)) => array::binary(kind, value),
        Some((Some(value), false)) => array::text(kind, value),
    };
    let values = values?.ok_or_else(|| {
        PgError::refused(format!("the array in parameter ${index} cannot be read for its tenants"))
            .hint("Send a one-dimensional array of the tenant column's type.")
    })?;
    for value in values {
        match value {
            KeyValue::Key(key) => keys.push(key),
            KeyValue::Null => (),
            KeyValue::Unreadable => return Ok(Found::Unreadable),
        }
    }
    Ok(Found::Keys)
}

/// Reads a key from a text-format parameter or a field of text or CSV.
///
/// # Errors
/// 0A000 for what is not UTF-8 and for integers that only newer servers read (`0x1F`, `1_000`).
pub fn from_text(kind: KeyType, value: &[u8]) -> Result<KeyValue, PgError> {
    let text = std::str::from_utf8(value).map_err(|_| not_utf8())?;
    match Key::from_text(kind, text) {
        Ok(key) => Ok(KeyValue::Key(key)),
        Err(_) if kind == KeyType::Int && depends_on_version(text) => {
            Err(PgError::refused(format!("the tenant {text:?} is not a plain decimal integer"))
                .hint("Servers before 16 read such integers differently; write decimal digits."))
        }
        Err(_) => Ok(KeyValue::Unreadable),
    }
}

/// Reads a key from a binary-format parameter or field.
///
/// # Errors
/// 0A000 for text that is not UTF-8.
pub fn from_binary(kind: KeyType, value: &[u8]) -> Result<KeyValue, PgError> {
    match Key::from_binary(kind, value) {
        Ok(key) => Ok(KeyValue::Key(key)),
        Err(_) if kind == KeyType::Text => Err(not_utf8()),
        Err(_) => Ok(KeyValue::Unreadable),
    }
}

fn depends_on_version(text: &str) -> bool {
    let digits = text.trim().trim_start_matches(['+', '-']);
    let has_radix = digits.starts_with('0') && digits.contains(|it: char| it.is_alphabetic());
    has_radix || digits.contains('_')
}

fn not_utf8() -> PgError {
    PgError::refused("the value of a tenant key is not UTF-8")
        .hint("Tenant keys outside ASCII need client_encoding = UTF8.")
}
