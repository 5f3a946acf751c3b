//! A server as a shard names it: its URL, or a table with that and how much it is preferred.

use toml::de::{DeTable, DeValue};

use super::error::Wrong;
use super::keys::Kind;
use super::secret::Outside;
use super::suggest::nearest;
use super::{Host, Preference, url, values};

const NAMES: &[&str] = &["url", "weight", "region"];
const FORM: &str = "write { url = \"postgres://…\", weight = 2, region = \"eu\" }";
const WEIGHT: Kind = Kind::Count { min: 1, max: 1000 };

/// `"postgres://…"`, `"env:NAME"`, `"file:PATH"`, or `{ url = "…", weight = 2, region = "eu" }`.
pub(super) fn read(
    value: &DeValue<'_>,
    outside: &Outside<'_>,
) -> Result<(Host, Preference), Wrong> {
    match value {
        DeValue::Table(table) => of_table(table, outside),
        url => Ok((host(url, outside)?, Preference::default())),
    }
}

fn host(value: &DeValue<'_>, outside: &Outside<'_>) -> Result<Host, Wrong> {
    let host = url::host(&outside.resolve(value)?)?;
    host.tls.check(outside).map(|()| host)
}

fn of_table(table: &DeTable<'_>, outside: &Outside<'_>) -> Result<(Host, Preference), Wrong> {
    let (mut found, mut preference) = (None, Preference::default());
    for (name, value) in table {
        let (name, value) = (name.get_ref().as_ref(), value.get_ref());
        let read = match name {
            "url" => host(value, outside).map(|it| found = Some(it)),
            "weight" => values::count(value, WEIGHT).map(|it| preference.weight = it as u16),
            "region" => values::text(value, Kind::Text).map(|it| preference.region = Some(it)),
            other => return Err(unknown(other)),
        };
        read.map_err(|wrong| match name {
            "url" => wrong,
            _ => Wrong::new(format!("its {name}: {}", wrong.message), wrong.hint),
        })?;
    }
    found.map(|host| (host, preference)).ok_or_else(|| Wrong::new("names no url", FORM))
}

fn unknown(name: &str) -> Wrong {
    let hint = nearest(name, NAMES).map_or(FORM.to_owned(), |near| format!("write {near}"));
    Wrong::new(format!("has an unknown key: `{name}`"), hint)
}
