//! Where one execution of a planned statement goes: the plan, the statement at hand and its
//! arguments give shards.

use std::collections::BTreeMap;
use std::ops::Range;

use super::key::{self, Found};
pub use super::key::{Arguments, Call, KeyValue, Keys};
use super::{Combine, CopyFrom, Dated, Filled, KeySource, Run, Scope, Split};
use crate::error::PgError;
use crate::shard::{Map, ShardId, ShardSet};
use crate::sql::copy::CopyFormat;
use crate::sql::fingerprint::locate;
use crate::sql::lexer::{Kind, Lexer};
use crate::sql::name::quoted_text;

/// Where a statement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any one shard: all answer alike, or Postgres is to report a value that does not read as its
    /// type.
    Any,
    /// The home shard.
    Home,
    /// These shards; at least one.
    Shards(ShardSet),
    /// Every key is NULL or the list of keys is empty, so that no row of a sharded table can be
    /// meant: any one shard answers a read, an UPDATE or a DELETE rightly.
    NoRows,
    /// A literal does not read as the key's type: plan again by full text, or refuse.
    Replan,
}

/// Where a statement goes, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    pub target: Target,
    /// The tenants, in the order of the plan's sources.
    pub keys: Keys,
    /// Whether some key is NULL; an INSERT of such a row is refused by the caller (23502).
    pub has_null: bool,
}

/// The shards of one execution.
///
/// # Errors
/// 0A000 for a parameter that cannot be read with certainty, and for tenants of other shards
/// in a statement that needs the home shard; 08P01 for an unknown parameter format.
pub fn route(run: &Run, map: &Map, home: ShardId, call: &Call<'_>) -> Result<Routed, PgError> {
    let plain = |target| Routed { target, keys: Keys::new(), has_null: false };
    match &run.scope {
        Scope::Any => Ok(plain(Target::Any)),
        Scope::Home => Ok(plain(Target::Home)),
        Scope::All => Ok(plain(Target::Shards(everywhere(run, map, home)))),
        Scope::Keys { keys: sources, with_home } => {
            let mut routed = plain(Target::NoRows);
            if let Some(target) = read_keys(sources, call, &mut routed)? {
                return Ok(Routed { target, ..routed });
            }
            let shards: ShardSet = routed.keys.iter().map(|key| map.owner(key)).collect();
            routed.target = match (with_home, shards.is_empty()) {
                (true, _) => at_home(shards, home)?,
                (false, true) if tables_of_home(run, home).is_empty() => Target::NoRows,
                (false, true) => Target::Home,
                (false, false) => Target::Shards(shards.union(tables_of_home(run, home))),
            };
            Ok(routed)
        }
    }
}

/// Rows of tenants are on the shards of the map; what every shard has is on the home shard too.
fn everywhere(run: &Run, map: &Map, home: ShardId) -> ShardSet {
    match run.combine {
        Combine::Same | Combine::OneByOne | Combine::Materialized(_) => {
            map.shards().union(ShardSet::one(home))
        }
        _ => map.shards().union(tables_of_home(run, home)),
    }
}

/// The home shard, if a statement over shipped rows reads its tables.
fn tables_of_home(run: &Run, home: ShardId) -> ShardSet {
    match &run.combine {
        Combine::Gather(it) | Combine::CopyGather { gather: it, .. } if it.needs_home => {
            ShardSet::one(home)
        }
        _ => ShardSet::default(),
    }
}

/// Reads all keys; a target that is certain without them ends it.
fn read_keys(
    sources: &[KeySource],
    call: &Call<'_>,
    routed: &mut Routed,
) -> Result<Option<Target>, PgError> {
    for source in sources {
        match key::read(source, call, &mut routed.keys)? {
            Found::Keys => (),
            Found::Null => routed.has_null = true,
            Found::Unreadable => return Ok(Some(Target::Any)),
            Found::Replan => return Ok(Some(Target::Replan)),
        }
    }
    Ok(None)
}

fn at_home(shards: ShardSet, home: ShardId) -> Result<Target, PgError> {
    if shards.is_empty() || shards == ShardSet::one(home) {
        return Ok(Target::Home);
    }
    Err(PgError::refused(format!(
        "the statement reads a table of the home shard ({home}) together with a tenant on shard {shards}"
    ))
    .hint("Make the table a reference table or give it the tenant column, or read the two apart."))
}

/// The rows of a multi-row INSERT by shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Indexes into the rows of the [`Split`], rising.
    Shards(BTreeMap<ShardId, Vec<usize>>),
    /// The key of this row is NULL.
    Null(usize),
    /// A key is not of the column's type: one shard gets the statement as it is and reports it.
    Unreadable,
    /// See [`Target::Replan`].
    Replan,
}

/// Assigns the rows of a multi-row INSERT to the shards of their keys.
///
/// # Errors
/// As for [`route`].
pub fn split_rows(split: &Split, map: &Map, call: &Call<'_>) -> Result<Rows, PgError> {
    let (mut shards, mut keys) = (BTreeMap::<_, Vec<usize>>::new(), Keys::new());
    for (row, (_, source)) in split.rows.iter().enumerate() {
        keys.clear();
        match (key::read(source, call, &mut keys)?, keys.as_slice()) {
            (Found::Keys, [key]) => shards.entry(map.owner(key)).or_default().push(row),
            (Found::Null, _) => return Ok(Rows::Null(row)),
            (Found::Unreadable, _) => return Ok(Rows::Unreadable),
            (Found::Keys | Found::Replan, _) => return Ok(Rows::Replan),
        }
    }
    Ok(Rows::Shards(shards))
}

/// One shard's text of a multi-row INSERT: the statement at hand with only these rows, and the columns of
/// [`Split::dated`] with these values, and those of [`Split::told`]. `None` if the rows are not where the plan says.
pub fn split_sql(
    split: &Split,
    call: &Call<'_>,
    rows: &[usize],
    (dates, times): (&[String], &[String]),
) -> Option<String> {
    let place = |offset| Some(locate(call.planned, call.slots, offset)?.offset);
    let range = |row: &(Range<usize>, KeySource)| Some(place(row.0.start)?..place(row.0.end)?);
    let (first, last) = (range(split.rows.first()?)?, range(split.rows.last()?)?);
    let mut text = String::with_capacity(call.sql.len());
    let mut values = String::new();
    match &split.dated {
        Some(dated) => {
            let end = place(dated.list_end)?;
            text.push_str(call.sql.get(..end)?);
            dated.columns.iter().for_each(|it| text.push_str(&format!(", {it}")));
            text.push_str(call.sql.get(end..first.start)?);
            dates.iter().for_each(|it| values.push_str(&format!(", {}", quoted_text(it))));
        }
        None => text.push_str(call.sql.get(..first.start)?),
    }
    for (i, row) in rows.iter().enumerate() {
        text.push_str(if i == 0 { "" } else { ", " });
        let planned = split.rows.get(*row)?;
        let row = range(planned)?;
        let mut copied = row.start;
        let told = split.told.iter().zip(times);
        for ((at, _), time) in told.filter(|((at, _), _)| planned.0.contains(at)) {
            let start = place(*at)?;
            let end = start + "DEFAULT".len();
            if !call.sql.get(start..end)?.eq_ignore_ascii_case("default") {
                return None;
            }
            text.push_str(call.sql.get(copied..start)?);
            text.push_str(&quoted_text(time));
            copied = end;
        }
        text.push_str(call.sql.get(copied..row.end)?.strip_suffix(')')?);
        text.push_str(&values);
        text.push(')');
    }
    text.push_str(call.sql.get(last.end..)?);
    Some(text)
}

/// The text of an INSERT with the columns of [`Filled`] and their values, by rows. `None` if the rows are
/// not where the plan says.
pub fn filled_sql(
    filled: &Filled,
    call: &Call<'_>,
    values: &[Vec<Option<String>>],
) -> Option<String> {
    let place = |offset| Some(locate(call.planned, call.slots, offset)?.offset);
    let end = place(filled.list_end)?;
    let mut text = call.sql.get(..end)?.to_owned();
    filled.columns.iter().for_each(|it| text.push_str(&format!(", {it}")));
    text.push_str(if filled.overrides { ") OVERRIDING SYSTEM VALUE" } else { ")" });
    let mut copied = end + 1;
    for (row, values) in filled.rows.iter().zip(values) {
        let close = place(row.end)?.checked_sub(1)?;
        text.push_str(call.sql.get(copied..close)?);
        for value in values {
            text.push_str(", ");
            text.push_str(&value.as_deref().map_or_else(|| "NULL".to_owned(), quoted_text));
        }
        copied = close;
    }
    text.push_str(call.sql.get(copied..)?);
    (values.len() == filled.rows.len()).then_some(text)
}

/// The text of a COPY … FROM with the columns of [`Dated`] at the end of its list.
pub fn copy_sql(dated: &Dated, call: &Call<'_>) -> Option<String> {
    let end = locate(call.planned, call.slots, dated.list_end)?.offset;
    let (head, tail) = (call.sql.get(..end)?, call.sql.get(end..)?);
    Some(format!("{head}, {}{tail}", dated.columns.join(", ")))
}

/// Numbers the parameters of a text from `$1` on without gaps, since Postgres cannot tell the type
/// of one that does not occur. Gives the old number of each.
pub fn renumber_params(sql: &str) -> (String, Vec<usize>) {
    let (mut text, mut old, mut copied) = (String::with_capacity(sql.len()), Vec::new(), 0);
    for token in Lexer::new(sql).filter(|token| token.kind == Kind::Param) {
        let Ok(number) = sql[token.start + 1..token.end].parse::<usize>() else { continue };
        let index = old.iter().position(|it| *it == number).unwrap_or_else(|| {
            old.push(number);
            old.len() - 1
        });
        text.push_str(&sql[copied..token.start]);
        text.push_str(&format!("${}", index + 1));
        copied = token.end;
    }
    text.push_str(&sql[copied..]);
    (text, old)
}

/// The key of a row of COPY … FROM STDIN; [`KeyValue::Unreadable`] rows go to any shard, which
/// reports them.
///
/// # Errors
/// As for [`key::from_text`].
pub fn copy_key(copy: &CopyFrom, field: Option<&[u8]>) -> Result<KeyValue, PgError> {
    match (field, &copy.format) {
        (None, _) => Ok(KeyValue::Null),
        (Some(value), CopyFormat::Binary) => key::from_binary(copy.kind, value),
        (Some(value), _) => key::from_text(copy.kind, value),
    }
}

#[cfg(test)]
mod tests;
