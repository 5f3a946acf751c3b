//! One execution of a plan: arguments in, shards out.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::{KeySource, Run, Scope, Split};
use crate::error::PgError;
use crate::shard::{Key, KeyType, Map, ShardId, ShardSet};
use crate::sql::fingerprint::{Slot, locate};
use crate::sql::lexer::{Kind, Lexer};
use crate::sql::literal::literal_value;

/// The statement at hand and the one its plan was made from: the same text up to literals.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    pub sql: &'a str,
    /// Slots of the planned text and of this one; `None`: it is the planned text itself.
    pub slots: Option<(&'a [Slot], &'a [Slot])>,
}

/// The values of parameters.
#[derive(Clone, Copy, Debug)]
pub enum Arguments<'a> {
    /// None: the simple protocol.
    None,
    /// Those of a Bind: raw values, format codes (none, one for all, or one each), type OIDs where
    /// known.
    Bind { params: &'a [Option<&'a [u8]>], formats: &'a [i16], types: &'a [u32] },
}

/// Where an execution goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any shard answers alike.
    Any,
    Home,
    /// At least one.
    Shards(ShardSet),
    /// Every key is NULL, which matches nothing: any shard answers rightly.
    NoRows,
    /// A literal does not read as the key it was taken for: this text needs a plan of its own.
    Replan,
}

/// A routed execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    pub target: Target,
    /// The keys that decided.
    pub keys: SmallVec<[Key; 2]>,
    /// Whether a key was NULL.
    pub has_null: bool,
}

enum Value {
    Keys(SmallVec<[Key; 2]>),
    Null,
    Replan,
    /// Postgres itself will report that the value cannot be read.
    Malformed,
}

/// Chooses the shards.
///
/// # Errors
/// 0A000 if an argument cannot be told to be a key, or keys and home tables lie apart.
pub fn route(
    run: &Run,
    map: &Map,
    home: ShardId,
    at: At<'_>,
    arguments: &Arguments<'_>,
) -> Result<Routed, PgError> {
    let mut routed = Routed { target: Target::Home, keys: SmallVec::new(), has_null: false };
    match &run.scope {
        Scope::Any => routed.target = Target::Any,
        Scope::Home => (),
        Scope::All => routed.target = Target::Shards(map.shards()),
        Scope::Keys { keys, with_home } => {
            for source in keys {
                match value(source, at, arguments)? {
                    Value::Keys(found) => routed.keys.extend(found),
                    Value::Null => routed.has_null = true,
                    Value::Replan => return Ok(Routed { target: Target::Replan, ..routed }),
                    Value::Malformed => return Ok(routed),
                }
            }
            let mut shards: ShardSet = routed.keys.iter().map(|key| map.owner(key)).collect();
            if *with_home {
                check_home(shards, home)?;
                shards.insert(home);
            }
            routed.target = match shards.is_empty() {
                true => Target::NoRows,
                false => Target::Shards(shards),
            };
        }
    }
    Ok(routed)
}

fn check_home(shards: ShardSet, home: ShardId) -> Result<(), PgError> {
    if shards.iter().all(|it| it == home) {
        return Ok(());
    }
    Err(PgError::refused("the statement joins home tables with a tenant of another shard")
        .detail(format!("home tables are on shard {home}, the tenant is on shard {shards}"))
        .hint("list the home table as a reference table, or query the two apart"))
}

fn value(source: &KeySource, at: At<'_>, arguments: &Arguments<'_>) -> Result<Value, PgError> {
    match *source {
        KeySource::Literal { offset, kind } => Ok(literal(offset, kind, at)),
        KeySource::Param { index, kind } => {
            let (value, format, oid) = param(arguments, index)?;
            let Some(value) = value else { return Ok(Value::Null) };
            check_type(index, kind, oid)?;
            let key = match format {
                1 => Key::from_binary(kind, value),
                _ => match std::str::from_utf8(value) {
                    Ok(text) => Key::from_text(kind, text),
                    Err(_) => return Ok(Value::Malformed),
                },
            };
            Ok(key.map_or(Value::Malformed, |key| Value::Keys(SmallVec::from_iter([key]))))
        }
        KeySource::ParamArray { index, kind } => {
            let (value, format, _) = param(arguments, index)?;
            let Some(value) = value else { return Ok(Value::Null) };
            let keys = match format {
                1 => array_from_binary(kind, value),
                _ => std::str::from_utf8(value).ok().and_then(|it| array_from_text(kind, it)),
            };
            match keys {
                Some(keys) => Ok(Value::Keys(keys)),
                None => Err(PgError::refused(format!(
                    "parameter ${index} is not read as a list of tenant keys"
                ))
                .hint("pass a one-dimensional array of the tenant column's type")),
            }
        }
    }
}

/// The value of the literal at an offset of the planned text.
fn literal(offset: usize, kind: KeyType, at: At<'_>) -> Value {
    let slot = match at.slots {
        Some((planned, given)) => match locate(planned, given, offset) {
            Some(place) => {
                given.get(place.slot).copied().filter(|it| it.start as usize == place.offset)
            }
            None => None,
        },
        None => at.sql.get(offset..).and_then(|rest| Lexer::new(rest).next()).map(|token| Slot {
            start: (offset + token.start) as u32,
            end: (offset + token.end) as u32,
            kind: token.kind,
        }),
    };
    let Some(slot) = slot else { return Value::Replan };
    let fits = match slot.kind {
        Kind::Integer | Kind::Bigint => kind == KeyType::Int,
        Kind::Numeric => false,
        _ => true,
    };
    let Some(text) = literal_value(at.sql, slot).filter(|_| fits) else { return Value::Replan };
    match Key::from_text(kind, &text) {
        Ok(key) => Value::Keys(SmallVec::from_iter([key])),
        // `'abc'` for an integer: an error that Postgres reports.
        Err(_) if slot.kind.is_string() => Value::Malformed,
        Err(_) => Value::Replan,
    }
}

type Param<'a> = (Option<&'a [u8]>, i16, u32);

fn param<'a>(arguments: &Arguments<'a>, index: usize) -> Result<Param<'a>, PgError> {
    let missing = || {
        PgError::refused(format!("the tenant key is parameter ${index}, which has no value"))
            .hint("bind all parameters")
    };
    let Arguments::Bind { params, formats, types } = *arguments else { return Err(missing()) };
    let at = index.checked_sub(1).ok_or_else(missing)?;
    let value = params.get(at).ok_or_else(missing)?;
    let format = match formats {
        [] => 0,
        [one] => *one,
        many => many.get(at).copied().unwrap_or(0),
    };
    Ok((*value, format, types.get(at).copied().unwrap_or(0)))
}

/// A parameter of another type than the key's is compared by other rules.
fn check_type(index: usize, kind: KeyType, oid: u32) -> Result<(), PgError> {
    if oid == 0 || oid == 705 || KeyType::of_oid(oid) == Some(kind) {
        return Ok(());
    }
    Err(PgError::refused(format!("parameter ${index} is not of the tenant column's type"))
        .detail(format!("its type has the OID {oid}"))
        .hint("declare the parameter with the column's type, or leave its type open"))
}

/// A one-dimensional array without NULLs in text: `{1,2}`, `{a,"b c"}`. NULL items match nothing.
fn array_from_text(kind: KeyType, text: &str) -> Option<SmallVec<[Key; 2]>> {
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let mut keys = SmallVec::new();
    while !rest.is_empty() {
        let (item, is_quoted, after) = array_item(rest)?;
        if is_quoted || !item.eq_ignore_ascii_case("null") {
            keys.push(Key::from_text(kind, &item).ok()?);
        }
        rest = match after.trim_start() {
            "" => "",
            more => {
                let more = more.strip_prefix(',')?.trim_start();
                if more.is_empty() {
                    return None;
                }
                more
            }
        };
    }
    Some(keys)
}

/// The first item, whether it was quoted, and what follows it.
fn array_item(text: &str) -> Option<(String, bool, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        let item = text[..end].trim_end();
        let is_plain = !item.is_empty() && !item.contains(['{', '}', '"', '\\']);
        return is_plain.then(|| (item.to_owned(), false, &text[end..]));
    };
    let (mut item, mut chars) = (String::new(), quoted.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((item, true, &quoted[at + 1..])),
            '\\' => item.push(chars.next()?.1),
            c => item.push(c),
        }
    }
    None
}

/// <https://www.postgresql.org/docs/current/protocol-overview.html>: dimensions, flags, element type,
/// then length and lower bound of each dimension, then the elements with their lengths.
fn array_from_binary(kind: KeyType, bytes: &[u8]) -> Option<SmallVec<[Key; 2]>> {
    let word = |at: usize| {
        let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(i32::from_be_bytes(four))
    };
    let (dimensions, oid) = (word(0)?, word(8)? as u32);
    if KeyType::of_oid(oid) != Some(kind) {
        return None;
    }
    let count = match dimensions {
        0 => return Some(SmallVec::new()),
        1 => usize::try_from(word(12)?).ok()?,
        _ => return None,
    };
    let (mut keys, mut at) = (SmallVec::new(), 20);
    for _ in 0..count {
        let length = word(at)?;
        at += 4;
        if let Ok(length) = usize::try_from(length) {
            keys.push(Key::from_binary(kind, bytes.get(at..at.checked_add(length)?)?).ok()?);
            at += length;
        }
    }
    Some(keys)
}

/// Which rows of a multi-row INSERT go to which shard: positions, by rising shard.
///
/// # Errors
/// If a row's key is NULL or cannot be read.
pub fn split_rows(
    split: &Split,
    map: &Map,
    at: At<'_>,
    arguments: &Arguments<'_>,
) -> Result<Vec<(ShardId, Vec<usize>)>, PgError> {
    let mut shards: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
    for (row, (_, source)) in split.rows.iter().enumerate() {
        match value(source, at, arguments)? {
            Value::Keys(keys) if keys.len() == 1 => {
                shards.entry(map.owner(&keys[0])).or_default().push(row);
            }
            Value::Null => {
                return Err(PgError::new(
                    crate::error::sqlstate::NOT_NULL_VIOLATION,
                    format!("the tenant column of row {} is NULL", row + 1),
                )
                .hint("give the tenant's key"));
            }
            _ => {
                return Err(PgError::new(
                    crate::error::sqlstate::INVALID_TEXT_REPRESENTATION,
                    format!("the tenant key of row {} cannot be read", row + 1),
                )
                .hint("write a plain literal of the tenant column's type"));
            }
        }
    }
    Ok(shards.into_iter().collect())
}

/// The INSERT with only these of its rows; `sql` is the planned text.
pub fn split_sql(sql: &str, split: &Split, rows: &[usize]) -> String {
    let (Some((first, _)), Some((last, _))) = (split.rows.first(), split.rows.last()) else {
        return sql.to_owned();
    };
    let texts: Vec<&str> = rows.iter().map(|row| &sql[split.rows[*row].0.clone()]).collect();
    format!("{}{}{}", &sql[..first.start], texts.join(", "), &sql[last.end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Access, Combine};

    fn run(keys: Vec<KeySource>) -> Run {
        Run {
            access: Access::Read,
            scope: Scope::Keys { keys, with_home: false },
            combine: Combine::Sum,
        }
    }

    fn map() -> Map {
        Map::new(&[(0..=127, ShardId(0)), (128..=255, ShardId(1))], BTreeMap::new()).unwrap()
    }

    fn target(sql: &str, offset: usize, kind: KeyType) -> Target {
        let run = run(vec![KeySource::Literal { offset, kind }]);
        let at = At { sql, slots: None };
        route(&run, &map(), ShardId(0), at, &Arguments::None).unwrap().target
    }

    #[test]
    fn literals_are_read_as_the_column_would() {
        let one = Target::Shards(ShardSet::one(ShardId(1))); // md5('1') begins with c4
        assert_eq!(target("t = 1", 4, KeyType::Int), one);
        assert_eq!(target("t = '01'", 4, KeyType::Int), one);
        assert_eq!(target("t = '1'", 4, KeyType::Text), one);
        assert_eq!(target("t = 1.0", 4, KeyType::Int), Target::Replan);
        assert_eq!(target("t = 1", 4, KeyType::Text), Target::Replan);
        assert_eq!(target("t = 'x'", 4, KeyType::Int), Target::Home);
    }

    #[test]
    fn arrays_in_text_and_binary() {
        let text = |it| {
            array_from_text(KeyType::Text, it)
                .map(|keys| keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("|"))
        };
        assert_eq!(text("{}").unwrap(), "");
        assert_eq!(text(r#"{a, "b,\"c", NULL,"null"}"#).unwrap(), r#"a|b,"c|null"#);
        assert_eq!(text("{{a}}"), None);
        assert_eq!(text("{a,}"), None);
        let mut bytes = Vec::new();
        for word in [1_i32, 0, 23, 2, 1, 4, 7, -1] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        let keys = array_from_binary(KeyType::Int, &bytes).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].as_str(), "7");
        assert!(array_from_binary(KeyType::Uuid, &bytes).is_none());
    }

    #[test]
    fn rows_go_to_their_shards() {
        let sql = "INSERT INTO t VALUES (1), (2), (1) RETURNING *";
        let rows = [(21..24, 22), (26..29, 27), (31..34, 32)];
        let rows =
            rows.map(|(range, offset)| (range, KeySource::Literal { offset, kind: KeyType::Int }));
        let split = Split { rows: rows.into(), returning: true };
        let at = At { sql, slots: None };
        let found = split_rows(&split, &map(), at, &Arguments::None).unwrap();
        assert_eq!(found, [(ShardId(1), vec![0, 1, 2])]); // md5('2') begins with c8
        assert_eq!(split_sql(sql, &split, &[0, 2]), "INSERT INTO t VALUES (1), (1) RETURNING *");
    }
}
