//! `[[database]]`: shards, their ranges and the exceptions.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::catalog::unique::GlobalKey;
use crate::shard::{Map, MapError, ShardId};

use super::error::Wrong;
use super::parse::{WrittenHost, pool_mode, server_auth};
use super::secret::Outside;
use super::section::Section;
use super::{
    Consistency, Database, Host, HostTls, Preference, Shard, TenantOverrides, Timeouts, host,
    patroni, values,
};

/// The name of the admin console's database.
pub const ADMIN_DATABASE: &str = "pgsluice";

type Ranges = Vec<(RangeInclusive<u8>, ShardId)>;

/// The databases without those that have no name, and every server named in them.
pub(super) fn databases(
    root: &Section<'_>,
    outside: &Outside<'_>,
) -> (Vec<Database>, Vec<WrittenHost>) {
    let (mut databases, mut hosts): (Vec<Database>, _) = (Vec::new(), Vec::new());
    for section in root.sections("database") {
        let Some(database) = database(&section, outside, &mut hosts) else { continue };
        if databases.iter().any(|it| it.name == database.name) {
            let message = format!("`{}` is the name of two databases", database.name);
            section.wrong("name", Wrong::new(message, "rename or remove one"));
        }
        databases.push(database);
    }
    if root.written("database").is_none() {
        let hint = "write [[database]] with `name = \"app\"` and a [[database.shard]]";
        root.wrong("database", Wrong::new("there is no database", hint));
    }
    (databases, hosts)
}

fn database(
    section: &Section<'_>,
    outside: &Outside<'_>,
    hosts: &mut Vec<WrittenHost>,
) -> Option<Database> {
    let name = section.required("name", values::text);
    if name.as_deref() == Some(ADMIN_DATABASE) {
        let message = format!("`{ADMIN_DATABASE}` is the admin console's database");
        section.wrong("name", Wrong::new(message, "write another name"));
    }
    let mode = section.optional("pool_mode", values::choice);
    let (shards, map) = shards(section, outside, hosts);
    Some(Database {
        name: name?,
        tenant_column: section.optional("tenant_column", values::text),
        home_shard: home_shard(section, &shards),
        reference_tables: section.value("reference_tables", values::text_list),
        consistency: Consistency::parse(&section.value("consistency", values::choice)),
        pin_after_write: section.value("pin_after_write", values::duration),
        causal_wait: section.value("causal_wait", values::duration),
        max_replica_lag: section.value("max_replica_lag", values::duration),
        failover_wait: section.value("failover_wait", values::duration),
        resumes: section.value("resume_transactions", values::bool),
        trusted_functions: section.value("trusted_functions", values::text_list),
        has_barrier: section.value("cross_shard_snapshot", values::choice) == "barrier",
        allow_local_keys: section.value("allow_local_keys", values::bool),
        trust_generated_keys: section.value("trust_generated_keys", values::bool),
        global_unique: global_unique(section),
        sequence_stride: sequence_stride(section, &shards),
        sleeps_after: sleeps_after(section),
        auto_prepare: section.value("auto_prepare", values::bool),
        shards,
        map,
        pool_mode: mode.as_deref().map(pool_mode),
        pool_size: section.optional("pool_size", values::count),
        clients: section.optional("clients", values::count),
        timeouts: Timeouts {
            query: section.optional("query_timeout", values::duration),
            transaction: section.optional("transaction_timeout", values::duration),
            idle_transaction: section.optional("idle_transaction_timeout", values::duration),
            client_idle: section.optional("client_idle_timeout", values::duration),
        },
        auth_query: auth_query(section),
        auth_cache: section.value("auth_cache", values::duration),
        server_auth: server_auth(&section.value("server_auth", values::choice)),
    })
}

fn sleeps_after(section: &Section<'_>) -> Option<Duration> {
    let sleeps = section.value("idle", values::choice) == "sleep";
    let after = section.value("idle_after", values::duration);
    sleeps.then_some(after)
}

fn global_unique(section: &Section<'_>) -> Vec<GlobalKey> {
    let mut keys: Vec<GlobalKey> = Vec::new();
    for written in section.value("global_unique", values::text_list) {
        let wrong = match written.parse::<GlobalKey>() {
            Ok(key) => match keys.iter().find(|it| is_same(it, &key)) {
                Some(_) => Wrong::new(format!("names `{key}` twice"), "name each key once"),
                None => {
                    keys.push(key);
                    continue;
                }
            },
            Err(()) => Wrong::new(
                format!("is no key: `{written}`"),
                "write the table and its columns, as in \"users(email)\"",
            ),
        };
        section.wrong("global_unique", wrong);
    }
    if !keys.is_empty() && section.written("tenant_column").is_none() {
        let hint =
            "write `tenant_column = \"tenant_id\"`, or leave it out: one Postgres keeps its keys";
        section.wrong("global_unique", Wrong::new("needs a tenant_column", hint));
    }
    keys
}

fn is_same(one: &GlobalKey, other: &GlobalKey) -> bool {
    let columns = other.columns.iter().map(String::as_str);
    (&one.schema, &one.table) == (&other.schema, &other.table) && one.is_of(columns)
}

/// At least 32, so that shards can be added.
fn sequence_stride(section: &Section<'_>, shards: &[Shard]) -> i64 {
    let highest = shards.last().map_or(0, |it| usize::from(it.id.0));
    let written = section.optional("sequence_stride", values::count);
    if let Some(written) = written.filter(|it| *it <= highest) {
        let message = format!("{written} leaves no number for shard {highest}");
        let hint = format!("write {} or more", highest + 1);
        section.wrong("sequence_stride", Wrong::new(message, hint));
    }
    written.unwrap_or_else(|| (highest + 1).next_power_of_two().max(32)) as i64
}

fn auth_query(section: &Section<'_>) -> Option<String> {
    let query = section.optional("auth_query", values::text);
    if query.as_ref().is_some_and(|it| !it.contains("$1")) {
        let hint = "write $1 where the user's name belongs, as in \
                    \"SELECT usename, passwd FROM pg_shadow WHERE usename = $1\"";
        section.wrong("auth_query", Wrong::new("does not ask for a user", hint));
    }
    for key in ["auth_cache", "server_auth"] {
        if section.written(key).is_some() && section.written("auth_query").is_none() {
            let hint = "write auth_query, too, or leave it out";
            section.wrong(key, Wrong::new("is for the users of auth_query", hint));
        }
    }
    query
}

/// The shards by rising id, and the map. After a mistake the map is any.
fn shards(
    section: &Section<'_>,
    outside: &Outside<'_>,
    hosts: &mut Vec<WrittenHost>,
) -> (Vec<Shard>, Map) {
    let (mut shards, mut ranges, mut whole) = (Vec::new(), Vec::new(), true);
    let (sections, first_host) = (section.sections("shard"), hosts.len());
    for written in &sections {
        let id = shard_id(written, &shards);
        match written.optional("range", values::range) {
            Some(range) => ranges.push((range, id)),
            None => whole &= written.written("range").is_none(),
        }
        shards.push(shard(written, id, outside, hosts));
    }
    check_twins(section, &hosts[first_host..]);
    shards.sort_by_key(|shard| shard.id);
    if section.written("shard").is_none() {
        let hint = "write [[database.shard]] with `primary = \"postgres://…\"`";
        section.wrong("shard", Wrong::new("there is no shard", hint));
        return (shards, Map::single(ShardId(0)));
    }
    let overrides = overrides(section, &shards);
    let map = if whole { map(section, &sections, ranges, overrides) } else { None };
    (shards, map.unwrap_or_else(|| Map::single(ShardId(0))))
}

fn shard_id(section: &Section<'_>, others: &[Shard]) -> ShardId {
    let id = ShardId(section.value("id", values::count) as u8);
    if others.iter().any(|it| it.id == id) {
        let message = format!("{id} is the id of two shards");
        section.wrong("id", Wrong::new(message, "give each shard its own `id`"));
    }
    id
}

fn shard(
    section: &Section<'_>,
    id: ShardId,
    outside: &Outside<'_>,
    hosts: &mut Vec<WrittenHost>,
) -> Shard {
    let mut preferences = BTreeMap::new();
    let mut host = |key: &str, value: &Spanned<DeValue<'_>>| {
        let read = host::read(value.get_ref(), outside);
        let key = format!("database.shard.{key}");
        let read = read.map_err(|wrong| section.report.add(&value.span(), &key, wrong)).ok()?;
        let (host, preference) = read;
        if preference != Preference::default() {
            preferences.insert(host.clone(), preference);
        }
        let line = section.report.line(&value.span());
        hosts.push(WrittenHost { line, key, host: host.clone() });
        Some(host)
    };
    // `required` notes that it is missing; the URL itself is read here.
    let primary = section.required("primary", |_, _| Ok(()));
    let primary = primary.and_then(|()| host("primary", section.written("primary")?));
    let list = section.written("replicas");
    let replicas = match list.map(|it| it.get_ref()) {
        Some(DeValue::Array(items)) => {
            items.iter().filter_map(|item| host("replicas", item)).collect()
        }
        _ => {
            section.optional("replicas", values::text_list);
            Vec::new()
        }
    };
    let patroni = patroni::apis(section, outside);
    let patroni_members = section.value("patroni_members", values::bool);
    if section.written("patroni_members").is_some() && section.written("patroni").is_none() {
        let wrong = Wrong::new("is for a shard with patroni", "write patroni, or leave it out");
        section.wrong("patroni_members", wrong);
    }
    let primary = primary.unwrap_or_else(nowhere);
    Shard { id, primary, replicas, patroni, patroni_members, preferences }
}

/// Stands for a primary whose mistake was noted.
fn nowhere() -> Host {
    let nothing = String::new;
    let (host, user, database) = (nothing(), nothing(), nothing());
    Host { host, port: 0, user, password: None, database, tls: HostTls::default() }
}

/// No database on a server may be two shards, or primary and replica.
fn check_twins(section: &Section<'_>, hosts: &[WrittenHost]) {
    let place = |it: &WrittenHost| (it.host.host.clone(), it.host.port, it.host.database.clone());
    for (i, host) in hosts.iter().enumerate() {
        if let Some(twin) = hosts[..i].iter().find(|it| place(it) == place(host)) {
            let message =
                format!("{}/{} is on line {} already", host.host, host.host.database, twin.line);
            let wrong = Wrong::new(message, "name each server once");
            section.report.add_at(host.line, &host.key, wrong);
        }
    }
}

/// One shard: that one. Several: it must be written.
fn home_shard(section: &Section<'_>, shards: &[Shard]) -> ShardId {
    let written = section.optional("home_shard", values::count).map(|id| ShardId(id as u8));
    match (written, shards) {
        (None, [only]) => only.id,
        (None, [first, _, ..]) => {
            if section.written("home_shard").is_none() {
                let hint = format!(
                    "write `home_shard = {}`, or the shard that holds the tables without tenants",
                    first.id
                );
                section.wrong("home_shard", Wrong::new("is missing", hint));
            }
            first.id
        }
        (Some(id), _) => {
            if !shards.is_empty() && shards.iter().all(|it| it.id != id) {
                section.wrong("home_shard", no_shard(id, shards));
            }
            id
        }
        (None, []) => ShardId(0),
    }
}

fn no_shard(id: impl std::fmt::Display, shards: &[Shard]) -> Wrong {
    let mut ids: Vec<String> = shards.iter().map(|it| it.id.to_string()).collect();
    ids.dedup();
    Wrong::new(format!("there is no shard {id}"), format!("the shards are {}", ids.join(", ")))
}

fn overrides(section: &Section<'_>, shards: &[Shard]) -> TenantOverrides {
    let Some(written) = section.written("tenants") else { return TenantOverrides::new() };
    let DeValue::Table(table) = written.get_ref() else {
        let hint = "write [database.tenants] with lines such as `\"big-customer\" = 3`";
        section.wrong("tenants", Wrong::new("is a section", hint));
        return TenantOverrides::new();
    };
    let mut overrides = TenantOverrides::new();
    for (tenant, value) in table {
        let key = format!("database.tenants.{:?}", tenant.get_ref());
        let wrong = match (value.get_ref(), values::integer(value.get_ref())) {
            (_, Some(id)) => match shards.iter().find(|it| i128::from(it.id.0) == id) {
                Some(shard) => {
                    overrides.insert(tenant.get_ref().as_ref().into(), shard.id);
                    continue;
                }
                None => no_shard(id, shards),
            },
            (other, None) => values::mistyped(other, "the id of a shard", "write the id, bare"),
        };
        section.report.add(&value.span(), &key, wrong);
    }
    if section.written("tenant_column").is_none() && !table.is_empty() {
        let hint = "write `tenant_column = \"tenant_id\"` in [[database]], or leave it out";
        section.wrong("tenants", Wrong::new("needs a tenant_column", hint));
    }
    overrides
}

/// The map, where nothing is wrong with it.
fn map(
    section: &Section<'_>,
    shards: &[Section<'_>],
    mut ranges: Ranges,
    overrides: TenantOverrides,
) -> Option<Map> {
    match shards {
        [only] if ranges.is_empty() => {
            let id = ShardId(only.value("id", values::count) as u8);
            ranges.push((0..=255, id));
        }
        [_, _, ..] if section.written("tenant_column").is_none() => {
            let hint = "write `tenant_column = \"tenant_id\"`, \
                        or leave one [[database.shard]] for a plain pooler";
            section.wrong("tenant_column", Wrong::new("is missing with several shards", hint));
            return None;
        }
        _ => (),
    }
    let errors = match Map::new(&ranges, overrides) {
        Ok(map) => return Some(map),
        Err(errors) => errors,
    };
    for error in errors {
        report_map(section, shards, &ranges, &error);
    }
    None
}

/// Notes a gap at the shard whose range ends before it, an overlap at the later of its shards.
fn report_map(section: &Section<'_>, shards: &[Section<'_>], ranges: &Ranges, error: &MapError) {
    let (place, hint) = match error {
        MapError::Gap { first, last } => {
            let before = ranges.iter().filter(|(range, _)| range.end() < first);
            let before = before.max_by_key(|(range, _)| *range.end()).map(|(_, shard)| *shard);
            let hint = match (before, ranges.is_empty()) {
                (_, true) => {
                    format!("write {} in their order, one each", even(shards.len()).join(", "))
                }
                (Some(shard), _) => {
                    format!("write a range up to {last} for shard {shard}, or give them to another")
                }
                (None, _) => format!("let a range begin at {first}"),
            };
            (before, hint)
        }
        MapError::Overlap { one, other, .. } => {
            (Some(*other), format!("take it from shard {one} or from shard {other}"))
        }
    };
    let wrong = Wrong::new(error.to_string(), hint);
    let has_id = |it: &&Section<'_>| place == Some(ShardId(it.value("id", values::count) as u8));
    match shards.iter().find(has_id) {
        Some(shard) => shard.wrong("range", wrong),
        None => section.report.add(&section.span, "database.shard.range", wrong),
    }
}

/// Ranges that share the buckets evenly.
fn even(shards: usize) -> Vec<String> {
    let edge = |shard: usize| shard * 256 / shards;
    (0..shards).map(|it| format!("`range = [{}, {}]`", edge(it), edge(it + 1) - 1)).collect()
}
