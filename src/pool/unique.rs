//! Keys that are unique over all shards: what every shard has for them, setting them up and looking
//! whether they are kept.
//!
//! On each shard triggers note in `sluice.unique_change` what a statement does to values of a key. The
//! proxy takes that at the statement's end and brings `sluice.unique_row` up to date, on the shards that
//! own the values, in the same transaction: its primary key makes values unique. Rows that change while
//! nobody watches are refused by the trigger.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::Source;
use super::control::{Control, ControlError};
use crate::catalog::unique::{GlobalKey, owner};
use crate::shard::{Map, ShardId};
use crate::sql::name::{quoted, quoted_text};

/// Rises with every change of the functions.
const VERSION: u8 = 1;

/// Tables and functions that every shard has.
const FUNCTIONS: &str = include_str!("unique/functions.sql");

/// How a shard begins to say why a key cannot be kept.
const REFUSED: &str = "refused: ";

/// So many rows are moved at once.
const AT_ONCE: usize = 2000;

/// Makes tables and functions where they are missing; whether they are there.
pub async fn make(control: &Control) -> bool {
    let mark = format!("pgsluice {VERSION}");
    let known = control
        .rows(
            "SELECT pg_catalog.obj_description(\
             pg_catalog.to_regprocedure('sluice.find_unique(text, text)'), 'pg_proc')",
        )
        .await;
    let known = match known {
        Ok(rows) => rows.into_iter().next().and_then(|mut row| row.pop().flatten()),
        Err(error) => {
            tracing::debug!(%error, "keys over shards were not looked for");
            return false;
        }
    };
    if known.as_deref() == Some(&*mark) {
        return true;
    }
    // One string is one transaction: the lock ends with it.
    let sql = format!(
        "{FUNCTIONS}\nCOMMENT ON FUNCTION sluice.find_unique(text, text) IS {}",
        quoted_text(&mark)
    );
    match control.rows(&sql).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "what keeps unique keys over shards could not be made");
            false
        }
    }
}

/// The keys for which a shard has all that keeps them.
///
/// # Errors
/// As the source.
pub async fn kept(
    source: &mut impl Source,
    keys: &[GlobalKey],
    tenant: Option<&str>,
) -> Result<BTreeSet<String>, ControlError> {
    let Some(tenant) = tenant.filter(|_| !keys.is_empty()) else { return Ok(BTreeSet::new()) };
    // Asked first: in a transaction nothing may fail.
    let known = "SELECT pg_catalog.to_regprocedure('sluice.find_unique(text, text)') IS NOT NULL";
    if cell(&source.rows(known).await?, 0) != "t" {
        return Ok(BTreeSet::new());
    }
    let names: Vec<String> = keys.iter().map(|it| quoted_item(&it.to_string())).collect();
    let sql = format!(
        "SELECT key FROM pg_catalog.unnest('{{{}}}'::pg_catalog.text[]) AS key \
         WHERE sluice.unique_state(key, {}) = 'kept'",
        names.join(","),
        quoted_text(tenant)
    );
    let rows = source.rows(&sql).await?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

/// Whether shards keep a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no such key.
    None,
    /// All shards have its index and what keeps it together.
    Kept,
    /// All have the index, not all what keeps it.
    Unkept,
    /// It is no more; something is left of it.
    Stale,
}

/// Why a key is not kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeepError {
    /// Some shards have its index.
    #[error("shard {0} has a unique index for it, shard {1} has none")]
    Uneven(ShardId, ShardId),
    /// It is not of a kind that can be kept.
    #[error("{0}")]
    Refused(String),
    /// Two rows have the value.
    #[error("two rows have ({0})")]
    Taken(String),
    #[error("{0}")]
    Server(#[from] ControlError),
}

/// What shards have of a key.
///
/// # Errors
/// If they differ, if the key cannot be kept, or as a server says.
pub async fn state<S: Source>(
    servers: &mut BTreeMap<ShardId, S>,
    key: &GlobalKey,
    tenant: &str,
) -> Result<State, KeepError> {
    let sql = format!("SELECT sluice.unique_state({}, {})", name(key), quoted_text(tenant));
    let (mut with, mut without) = (None, None);
    let (mut is_kept, mut is_stale) = (true, false);
    for (shard, server) in servers {
        let rows = server.rows(&sql).await?;
        match cell(&rows, 0) {
            "kept" => with = Some(*shard),
            "index" => (with, is_kept) = (Some(*shard), false),
            told if told.starts_with(REFUSED) => {
                return Err(KeepError::Refused(told[REFUSED.len()..].to_owned()));
            }
            told => (without, is_stale) = (Some(*shard), is_stale || told == "stale"),
        }
    }
    match (with, without) {
        (Some(with), Some(without)) => Err(KeepError::Uneven(with, without)),
        (Some(_), None) if is_kept => Ok(State::Kept),
        (Some(_), None) => Ok(State::Unkept),
        (None, _) if is_stale => Ok(State::Stale),
        (None, _) => Ok(State::None),
    }
}

/// Makes shards keep a key, or forget it if it is no more; what it was before. Every server must be in a
/// transaction. With `anew` values are noted once more also if all seems well.
///
/// # Errors
/// As [`state`]; or the value that two rows have.
pub async fn keep<S: Source>(
    servers: &mut BTreeMap<ShardId, S>,
    map: &Map,
    key: &GlobalKey,
    tenant: &str,
    anew: bool,
) -> Result<State, KeepError> {
    let state = state(servers, key, tenant).await?;
    match state {
        State::Unkept => fill(servers, map, key, tenant).await?,
        State::Kept if anew => fill(servers, map, key, tenant).await?,
        State::Stale => {
            for server in servers.values_mut() {
                let name = name(key);
                let sql = format!("SELECT sluice.drop_unique_triggers({name})");
                server.rows(&sql).await?;
                server.rows(&format!("SELECT sluice.clear_unique({name})")).await?;
            }
        }
        State::Kept | State::None => (),
    }
    Ok(state)
}

/// Notes the values of all rows.
async fn fill<S: Source>(
    servers: &mut BTreeMap<ShardId, S>,
    map: &Map,
    key: &GlobalKey,
    tenant: &str,
) -> Result<(), KeepError> {
    let name = name(key);
    for server in servers.values_mut() {
        server.rows(&format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table(key))).await?;
        let tenant = quoted_text(tenant);
        server.rows(&format!("SELECT sluice.make_unique_triggers({name}, {tenant})")).await?;
        server.rows(&format!("SELECT sluice.clear_unique({name})")).await?;
    }
    let shards: Vec<ShardId> = servers.keys().copied().collect();
    for shard in shards {
        let mut held = Cursor::open(servers, shard, &rows_of(key, tenant)).await?;
        while let Some(rows) = held.fetch(servers).await? {
            for (owner, noted) in by_owner(map, rows) {
                let Some(server) = servers.get_mut(&owner) else { continue };
                let taken = server.rows(&claim_sql(&noted.claims(key))).await?;
                if let Some(value) = taken.first().and_then(|it| it.get(1)?.as_deref()) {
                    return Err(KeepError::Taken(plain(value)));
                }
            }
        }
    }
    Ok(())
}

/// What looking at a key's values has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub rows: u64,
    /// Rows whose value is not noted, or noted for another tenant.
    pub missing: u64,
    /// Values that are noted and no row has.
    pub extra: u64,
}

/// Compares rows with what is noted of them. Every server must be in a transaction; nobody else writes
/// the table until its end.
///
/// # Errors
/// As a server says.
pub async fn verify<S: Source>(
    servers: &mut BTreeMap<ShardId, S>,
    map: &Map,
    key: &GlobalKey,
    tenant: &str,
) -> Result<Found, ControlError> {
    let mut found = Found::default();
    let mut noted = 0;
    for server in servers.values_mut() {
        server.rows(&format!("LOCK TABLE {} IN SHARE MODE", table(key))).await?;
    }
    let shards: Vec<ShardId> = servers.keys().copied().collect();
    for shard in shards {
        let count = format!("SELECT count(*) FROM sluice.unique_row WHERE key = {}", name(key));
        if let Some(server) = servers.get_mut(&shard) {
            let rows = server.rows(&count).await?;
            noted += cell(&rows, 0).parse::<u64>().unwrap_or_default();
        }
        let mut held = Cursor::open(servers, shard, &rows_of(key, tenant)).await?;
        while let Some(rows) = held.fetch(servers).await? {
            found.rows += rows.len() as u64;
            for (owner, given) in by_owner(map, rows) {
                let Some(server) = servers.get_mut(&owner) else { continue };
                let lacks = server.rows(&given.lacks_sql(key)).await?;
                found.missing += cell(&lacks, 0).parse::<u64>().unwrap_or_default();
            }
        }
    }
    found.extra = noted.saturating_sub(found.rows - found.missing);
    Ok(found)
}

/// Rows of a shard, a part at a time.
struct Cursor(ShardId);

impl Cursor {
    async fn open<S: Source>(
        servers: &mut BTreeMap<ShardId, S>,
        shard: ShardId,
        query: &str,
    ) -> Result<Self, ControlError> {
        if let Some(server) = servers.get_mut(&shard) {
            let sql = format!("DECLARE sluice_unique NO SCROLL CURSOR FOR {query}");
            server.rows(&sql).await?;
        }
        Ok(Self(shard))
    }

    /// The next rows; `None` at the end.
    async fn fetch<S: Source>(
        &mut self,
        servers: &mut BTreeMap<ShardId, S>,
    ) -> Result<Option<super::catalog::Rows>, ControlError> {
        let Some(server) = servers.get_mut(&self.0) else { return Ok(None) };
        let rows = server.rows(&format!("FETCH {AT_ONCE} FROM sluice_unique")).await?;
        if rows.is_empty() {
            server.rows("CLOSE sluice_unique").await?;
            return Ok(None);
        }
        Ok(Some(rows))
    }
}

/// Values and their tenants, both as hexadecimal UTF-8.
#[derive(Clone, Debug, Default)]
struct Noted {
    values: Vec<String>,
    tenants: Vec<String>,
}

impl Noted {
    fn claims(&self, key: &GlobalKey) -> Vec<Claim> {
        let key = key.to_string();
        let pairs = self.values.iter().zip(&self.tenants);
        pairs
            .map(|(value, tenant)| Claim {
                key: key.clone(),
                value: value.clone(),
                tenant: tenant.clone(),
            })
            .collect()
    }

    fn lacks_sql(&self, key: &GlobalKey) -> String {
        let list = |all: &[String]| {
            format!(
                "'{{{}}}'::text[]",
                all.iter().map(|it| quoted_item(it)).collect::<Vec<_>>().join(",")
            )
        };
        format!(
            "SELECT count(*) FROM unnest({}, {}) AS g(v, t) WHERE NOT EXISTS (SELECT FROM sluice.unique_row r \
             WHERE r.key = {} AND r.value = convert_from(decode(g.v, 'hex'), 'UTF8') \
             AND r.tenant = convert_from(decode(g.t, 'hex'), 'UTF8'))",
            list(&self.values),
            list(&self.tenants),
            name(key)
        )
    }
}

fn by_owner(map: &Map, rows: super::catalog::Rows) -> BTreeMap<ShardId, Noted> {
    let mut found: BTreeMap<ShardId, Noted> = BTreeMap::new();
    for row in rows {
        let mut cells = row.into_iter();
        let (Some(Some(value)), Some(Some(tenant))) = (cells.next(), cells.next()) else {
            continue;
        };
        let noted = found.entry(owner(map, &plain(&value))).or_default();
        noted.values.push(value);
        noted.tenants.push(tenant);
    }
    found
}

/// A value of a key that a tenant has, or had: the key's name, the others as hexadecimal UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    pub key: String,
    pub value: String,
    pub tenant: String,
}

impl Claim {
    /// The shard that keeps it.
    pub fn owner(&self, map: &Map) -> ShardId {
        owner(map, &plain(&self.value))
    }
}

/// SQL that notes claims; it gives the key and the value of one that others have.
pub fn claim_sql(claims: &[Claim]) -> String {
    format!("SELECT key, value FROM sluice.claim_unique({})", lists(claims))
}

/// SQL that forgets claims.
pub fn free_sql(claims: &[Claim]) -> String {
    format!("SELECT sluice.free_unique({})", lists(claims))
}

/// SQL that tells the tenant that has a value.
pub fn find_sql(key: &GlobalKey, value: &str) -> String {
    format!("SELECT sluice.find_unique({}, '{}')", name(key), hex(value))
}

fn lists(claims: &[Claim]) -> String {
    let list = |of: fn(&Claim) -> &String| {
        let items: Vec<String> = claims.iter().map(|it| quoted_item(of(it))).collect();
        format!("'{{{}}}'", items.join(","))
    };
    format!("{}, {}, {}", list(|it| &it.key), list(|it| &it.value), list(|it| &it.tenant))
}

/// Names and hexadecimal digits have nothing in them that needs more.
fn quoted_item(text: &str) -> String {
    format!("\"{text}\"")
}

/// Text of hexadecimal UTF-8.
pub fn plain(hex: &str) -> String {
    let digit = |it: u8| (it as char).to_digit(16).unwrap_or_default() as u8;
    let bytes: Vec<u8> =
        hex.as_bytes().chunks_exact(2).map(|it| digit(it[0]) << 4 | digit(it[1])).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Hexadecimal UTF-8 of a text.
pub fn hex(text: &str) -> String {
    text.bytes().map(|it| format!("{it:02x}")).collect()
}

fn name(key: &GlobalKey) -> String {
    quoted_text(&key.to_string())
}

fn table(key: &GlobalKey) -> String {
    format!("{}.{}", quoted(&key.schema), quoted(&key.table))
}

/// SQL that gives the value and the tenant of each row, as hexadecimal UTF-8.
fn rows_of(key: &GlobalKey, tenant: &str) -> String {
    let names: Vec<String> = key.columns.iter().map(|it| quoted(it)).collect();
    let text = |it: &String| format!("{it}::pg_catalog.text");
    let value = match names.as_slice() {
        [one] => text(one),
        all => {
            let parts =
                all.iter().map(|it| format!("pg_catalog.length({0}) || ':' || {0}", text(it)));
            parts.collect::<Vec<_>>().join(" || ")
        }
    };
    let is_there: Vec<String> = names.iter().map(|it| format!("{it} IS NOT NULL")).collect();
    let hex = |it: &str| format!("pg_catalog.encode(pg_catalog.convert_to({it}, 'UTF8'), 'hex')");
    format!(
        "SELECT {}, {} FROM ONLY {} WHERE {}",
        hex(&value),
        hex(&text(&quoted(tenant))),
        table(key),
        is_there.join(" AND ")
    )
}

fn cell(rows: &super::catalog::Rows, at: usize) -> &str {
    rows.first().and_then(|row| row.get(at)?.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_there_and_back() {
        assert_eq!(hex("aé"), "61c3a9");
        assert_eq!(plain(&hex("aé'\"\\")), "aé'\"\\");
    }

    #[test]
    fn values_are_named_as_triggers_name_them() {
        let key: GlobalKey = "orgs(country,slug)".parse().unwrap();
        let sql = rows_of(&key, "tenant_id");
        assert!(sql.contains(
            "pg_catalog.length(\"country\"::pg_catalog.text) || ':' || \"country\"::pg_catalog.text || "
        ), "{sql}");
    }
}
