//! Sequences of sharded tables: what each shard says of them, and making shards share them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::catalog::{Rows, Source};
use super::control::ControlError;
use crate::catalog::sequence::{Counter, Name, Place, Series, Unshared, place_before};
use crate::shard::ShardId;
use crate::sql::name::{quoted, quoted_text};

/// A shard's sequences, but for those that only their session sees.
const COUNTERS: &str = "SELECT n.nspname, c.relname, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, \
    s.seqcycle, pg_catalog.has_sequence_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_sequence s \
    JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relpersistence <> 't' AND n.nspname <> 'sluice'";

/// The columns that use sequences: by identity, by default, by owning them.
pub(super) const USES: &str = "SELECT n.nspname, c.relname, a.attname, sn.nspname, s.relname, u.how, \
    pg_catalog.format_type(a.atttypid, a.atttypmod) FROM ( \
    SELECT objid AS seq, refobjid AS rel, refobjsubid AS num, deptype::text AS how \
    FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::regclass \
    AND refclassid = 'pg_catalog.pg_class'::regclass AND deptype IN ('i', 'a') AND refobjsubid > 0 \
    UNION ALL SELECT d.refobjid, f.adrelid, f.adnum, 'd' FROM pg_catalog.pg_depend d \
    JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid \
    WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass \
    ) u JOIN pg_catalog.pg_class s ON s.oid = u.seq AND s.relkind = 'S' \
    JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace \
    JOIN pg_catalog.pg_class c ON c.oid = u.rel JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_attribute a ON a.attrelid = u.rel AND a.attnum = u.num";

/// A column that takes numbers from a sequence, or owns it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    pub sequence: Name,
    pub table: Name,
    pub column: String,
    /// As SQL writes it.
    pub column_type: String,
    /// Whether the sequence goes with the column: serial and identity.
    pub is_owner: bool,
}

/// Which uses are asked for.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    All,
    /// Of a table or a sequence, as a statement names it.
    Named(&'a str),
}

/// A name as SQL writes it.
pub fn shown(name: &Name) -> String {
    format!("{}.{}", quoted(&name.0), quoted(&name.1))
}

/// A shard's sequences. Where they stand is told of those that may be shared.
///
/// # Errors
/// As the source.
pub async fn counters(source: &mut impl Source) -> Result<HashMap<Name, Counter>, ControlError> {
    let rows = source.rows(COUNTERS).await?;
    let mut found = HashMap::new();
    let mut asked = Vec::new();
    for row in &rows {
        let Some((name, counter)) = counter(row) else { continue };
        let is_readable = row.get(7).is_some_and(|it| it.as_deref() == Some("t"));
        if counter.increment.unsigned_abs() > 1 && is_readable {
            asked.push(name.clone());
        }
        found.insert(name, counter);
    }
    if !asked.is_empty() {
        for (name, place) in asked.iter().zip(places(source, &asked).await?) {
            found.entry(name.clone()).and_modify(|it| it.place = place);
        }
    }
    Ok(found)
}

fn counter(row: &[Option<String>]) -> Option<(Name, Counter)> {
    let text = |at: usize| row.get(at)?.clone();
    let number = |at: usize| text(at)?.parse().ok();
    let counter = Counter {
        start: number(2)?,
        increment: number(3)?,
        min: number(4)?,
        max: number(5)?,
        cycle: text(6)? != "f",
        place: None,
    };
    Some(((text(0)?, text(1)?), counter))
}

/// Where sequences stand, in their order.
async fn places(
    source: &mut impl Source,
    names: &[Name],
) -> Result<Vec<Option<Place>>, ControlError> {
    let one = |(at, name): (usize, &Name)| {
        format!("SELECT {at} AS at, last_value, is_called FROM {}", shown(name))
    };
    let all: Vec<String> = names.iter().enumerate().map(one).collect();
    let rows = source.rows(&format!("{} ORDER BY at", all.join(" UNION ALL "))).await?;
    let place = |row: &Vec<Option<String>>| {
        let last = row.get(1)?.as_ref()?.parse().ok()?;
        Some(Place { last, is_called: row.get(2)?.as_deref() == Some("t") })
    };
    match rows.len() == names.len() {
        true => Ok(rows.iter().map(place).collect()),
        false => Err(ControlError("sequences could not be read".into())),
    }
}

/// The columns of sharded tables that use sequences.
///
/// # Errors
/// As the source.
pub async fn uses(
    source: &mut impl Source,
    config: &crate::config::Database,
    of: Of<'_>,
) -> Result<Vec<Use>, ControlError> {
    let Some(tenant) = &config.tenant_column else { return Ok(Vec::new()) };
    let named = match of {
        Of::All => "true".to_owned(),
        Of::Named(name) => {
            format!("pg_catalog.to_regclass({}) IN (c.oid, s.oid)", quoted_text(name))
        }
    };
    let sql = format!(
        "{USES} WHERE {named} AND c.relkind IN ('r', 'p') AND EXISTS ( \
         SELECT FROM pg_catalog.pg_attribute t WHERE t.attrelid = c.oid AND t.attnum > 0 \
         AND NOT t.attisdropped AND t.attname = {})",
        quoted_text(tenant)
    );
    let rows = source.rows(&sql).await?;
    let is_reference = |table: &Name| {
        let full = format!("{}.{}", table.0, table.1);
        config.reference_tables.iter().any(|it| *it == table.1 || *it == full)
    };
    let mut found: Vec<Use> = rows.iter().filter_map(|row| read_use(row)).collect();
    found.retain(|it| !is_reference(&it.table));
    found.sort();
    found.dedup();
    Ok(found)
}

fn read_use(row: &[Option<String>]) -> Option<Use> {
    let text = |at: usize| row.get(at)?.clone();
    Some(Use {
        table: (text(0)?, text(1)?),
        column: text(2)?,
        sequence: (text(3)?, text(4)?),
        is_owner: text(5)? != "d",
        column_type: text(6)?,
    })
}

/// The one sequence of each column whose default or identity names exactly one, by schema, table and
/// column.
pub(super) fn by_column(rows: &Rows) -> HashMap<[String; 3], Name> {
    let mut all: HashMap<[String; 3], BTreeSet<Name>> = HashMap::new();
    for row in rows {
        let cell = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        if cell(5) != "a" {
            let names = all.entry([cell(0), cell(1), cell(2)]).or_default();
            names.insert((cell(3), cell(4)));
        }
    }
    let one = |(column, names): (_, BTreeSet<Name>)| {
        let mut names = names.into_iter();
        Some((column, names.next().filter(|_| names.len() == 0)?))
    };
    all.into_iter().filter_map(one).collect()
}

/// Why shards cannot share a sequence.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ShareError {
    #[error("{0}")]
    Unshared(Unshared),
    #[error("{0}")]
    Server(#[from] ControlError),
}

impl std::fmt::Display for Unshared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(shard) => write!(f, "shard {shard} does not have it"),
            Self::Unlike => f.write_str("shards have it with other starts and increments"),
            Self::Cycles => f.write_str("with CYCLE numbers come again"),
            Self::Narrow => f.write_str("its bounds leave no room for every shard's numbers"),
        }
    }
}

/// How a sequence is to be shared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sharing {
    /// What it was before a change.
    pub known: Option<Series>,
    pub stride: i64,
    /// Whether what it has given does not count.
    pub is_fresh: bool,
    /// What it must become, whatever it is.
    pub given: Option<Series>,
}

/// Makes shards share a sequence, if they do not yet: each is set to its first number beyond all that
/// were given, `used` tells those that rows hold. Every server must be in a transaction; nobody else
/// takes numbers until its end. Whether anything was to be done.
///
/// # Errors
/// What stands against it, or a server's error.
pub async fn share<S: Source>(
    servers: &mut BTreeMap<ShardId, S>,
    name: &Name,
    sharing: Sharing,
    used: impl AsyncFn(&mut S) -> Result<Vec<i64>, ControlError>,
) -> Result<bool, ShareError> {
    let mut counters = BTreeMap::new();
    for (shard, server) in servers.iter_mut() {
        let counter = one_counter(server, name).await?;
        counters.insert(*shard, counter.ok_or(ShareError::Unshared(Unshared::Missing(*shard)))?);
    }
    let is_in_order = Series::of(&counters).is_some_and(|it| it.goes_on(sharing.known));
    if !sharing.is_fresh && is_in_order {
        return Ok(false);
    }
    let meant = match sharing.given {
        Some(_) if counters.values().any(|it| it.cycle) => Err(Unshared::Cycles),
        Some(series) => Ok(series),
        None => Series::meant(&counters, sharing.known, sharing.stride),
    };
    let series = meant.map_err(ShareError::Unshared)?;
    counters
        .iter()
        .try_for_each(|(shard, it)| series.check(*shard, it))
        .map_err(ShareError::Unshared)?;
    for (shard, server) in servers.iter_mut() {
        // This locks the sequence, and what follows ends with the transaction, setval too.
        let sql = format!(
            "ALTER SEQUENCE {} INCREMENT BY {} START WITH {}",
            shown(name),
            series.increment(),
            series.start(*shard)
        );
        server.rows(&sql).await?;
    }
    let mut bound = None;
    for (shard, server) in servers.iter_mut() {
        let place = places(server, std::slice::from_ref(name)).await?.pop().flatten();
        if let Some(counter) = counters.get_mut(shard) {
            counter.place = place;
        }
        for number in used(server).await? {
            let next = i128::from(number) + i128::from(series.step.signum());
            bound = later(bound, Some(next), &series);
        }
    }
    bound = later(bound, series.unused(counters.values()), &series);
    for (shard, server) in servers.iter_mut() {
        let next = match bound.filter(|_| !sharing.is_fresh) {
            Some(bound) => series.from(*shard, bound),
            None => i128::from(series.start(*shard)),
        };
        let place = counters.get(shard).and_then(|it| place_before(next, &series, it));
        let place = place.ok_or(ShareError::Unshared(Unshared::Narrow))?;
        server.rows(&setval(name, place)).await?;
    }
    Ok(true)
}

fn later(a: Option<i128>, b: Option<i128>, series: &Series) -> Option<i128> {
    let sign = i128::from(series.step.signum());
    a.into_iter().chain(b).max_by_key(|it| it * sign)
}

/// SQL that sets a sequence.
pub fn setval(name: &Name, place: Place) -> String {
    let name = quoted_text(&shown(name));
    format!("SELECT pg_catalog.setval({name}, {}, {})", place.last, place.is_called)
}

/// A shard's sequence of this name.
///
/// # Errors
/// As the source.
pub async fn one_counter(
    source: &mut impl Source,
    name: &Name,
) -> Result<Option<Counter>, ControlError> {
    let name_is =
        format!("n.nspname = {} AND c.relname = {}", quoted_text(&name.0), quoted_text(&name.1));
    let rows = source.rows(&format!("{COUNTERS} AND {name_is}")).await?;
    let Some((_, mut found)) = rows.first().and_then(|row| counter(row)) else { return Ok(None) };
    found.place = places(source, std::slice::from_ref(name)).await?.pop().flatten();
    Ok(Some(found))
}
