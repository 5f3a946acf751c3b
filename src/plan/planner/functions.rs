//! What the planner knows of functions.

use crate::catalog::{Catalog, Function, FunctionKind, Volatility};
use crate::sql::parse::tree::Call;

/// What a call may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub(super) kind: FunctionKind,
    pub(super) volatility: Volatility,
    pub(super) is_table_free: bool,
    /// Whether it is so only because the configuration says that it stays with the statement's tenant.
    pub(super) is_trusted: bool,
    /// Whether every candidate is Postgres' own.
    pub(super) is_builtin: bool,
}

/// The worst of the functions a call may mean; `None` if there is none.
pub(super) fn traits(catalog: &Catalog, path: &[String], call: &Call) -> Option<Traits> {
    let is_candidate = |it: &&Function| match &call.schema {
        Some(schema) => it.schema == *schema,
        None => path.contains(&it.schema),
    };
    let candidates: Vec<&Function> =
        catalog.functions.get(&call.name)?.iter().filter(is_candidate).collect();
    let first = candidates.first()?;
    let kind = |kind| candidates.iter().any(|it| it.kind == kind).then_some(kind);
    let trusted = catalog.trusted_functions.contains(&call.name)
        || catalog.trusted_functions.contains(&format!("{}.{}", first.schema, call.name));
    let is_own = |it: &&Function| it.schema == "pg_catalog" || makes_ids(&it.schema, &call.name);
    let is_free = |it: &&Function| is_own(it) || it.is_table_free;
    let is_free = candidates.iter().all(is_free) && !runs_text(&call.name);
    Some(Traits {
        kind: kind(FunctionKind::Aggregate)
            .or_else(|| kind(FunctionKind::Window))
            .unwrap_or(first.kind),
        volatility: candidates.iter().map(|it| it.volatility).max().unwrap_or(Volatility::Volatile),
        is_table_free: trusted || is_free,
        is_trusted: trusted && !is_free,
        is_builtin: candidates.iter().all(is_own),
    })
}

/// The proxy's functions, which it makes on every shard.
fn makes_ids(schema: &str, name: &str) -> bool {
    schema == "sluice" && matches!(name, "unique_id" | "uuid_v7")
}

/// Functions that run SQL given as text, or read a table given by name.
fn runs_text(name: &str) -> bool {
    const BEGINS: [&str; 6] = [
        "query_to_xml",
        "table_to_xml",
        "schema_to_xml",
        "database_to_xml",
        "cursor_to_xml",
        "dblink",
    ];
    BEGINS.iter().any(|it| name.starts_with(it)) || name == "ts_stat" || name == "ts_rewrite"
}

/// Built-in functions that Postgres calls stable only because they depend on settings, which are the
/// same on every shard.
pub(super) fn depends_on_settings_only(call: &Call) -> bool {
    match call.name.as_str() {
        "date_trunc"
        | "date_part"
        | "extract"
        | "to_char"
        | "to_date"
        | "to_timestamp"
        | "to_number"
        | "timezone"
        | "date"
        | "concat"
        | "concat_ws"
        | "format"
        | "array_to_string"
        | "string_to_array"
        | "to_json"
        | "to_jsonb"
        | "row_to_json"
        | "json_build_object"
        | "json_build_array"
        | "jsonb_build_object"
        | "jsonb_build_array"
        | "json_agg"
        | "jsonb_agg"
        | "json_object_agg"
        | "jsonb_object_agg"
        | "quote_literal"
        | "to_tsvector"
        | "to_tsquery"
        | "plainto_tsquery"
        | "websearch_to_tsquery"
        | "phraseto_tsquery"
        | "ts_headline"
        | "generate_series"
        | "make_timestamptz"
        | "time"
        | "timetz"
        | "timestamptz"
        | "timestamp"
        | "overlaps"
        | "array_agg"
        // Of bytes in an encoding, it is stable.
        | "length" => true,
        // age(x) subtracts from the current date.
        "age" => call.args.len() == 2,
        _ => false,
    }
}

/// Aggregates whose result does not depend on the order of their input.
pub(super) fn ignores_order(name: &str) -> bool {
    ["count", "min", "max", "sum", "avg", "bool_and", "bool_or", "every", "bit_and", "bit_or"]
        .contains(&name)
}

/// Aggregates that give the same whatever the order of their input, for every type.
pub(super) fn ignores_any_order(name: &str) -> bool {
    const IGNORING: [&str; 21] = [
        "count",
        "min",
        "max",
        "bool_and",
        "bool_or",
        "every",
        "bit_and",
        "bit_or",
        "bit_xor",
        "percentile_cont",
        "percentile_disc",
        "mode",
        "rank",
        "dense_rank",
        "percent_rank",
        "cume_dist",
        "range_agg",
        "range_intersect_agg",
        "regr_count",
        "row_number",
        "ntile",
    ];
    IGNORING.contains(&name)
}

/// Built-in functions that only tell which server answers and in what state it is: they may run on
/// whichever serves the statement, a replica too, whatever `pg_proc` says of their volatility.
pub(super) fn tells_of_server(name: &str) -> bool {
    const TELLING: [&str; 9] = [
        "pg_is_in_recovery",
        "pg_backend_pid",
        "pg_last_wal_receive_lsn",
        "pg_last_wal_replay_lsn",
        "pg_last_xact_replay_timestamp",
        "pg_postmaster_start_time",
        "inet_server_addr",
        "inet_server_port",
        "version",
    ];
    TELLING.contains(&name)
}

/// A built-in function about one server or one session: it runs on the home shard, and the session
/// may have to keep that server.
pub(super) fn belongs_home(name: &str) -> Option<Option<&'static str>> {
    match name {
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared" => Some(Some("session advisory lock")),
        "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all" => Some(None),
        "currval" | "lastval" => Some(Some("sequence state")),
        "nextval"
        | "setval"
        | "txid_current"
        | "txid_current_if_assigned"
        | "inet_server_addr"
        | "inet_server_port"
        | "inet_client_addr"
        | "version" => Some(None),
        _ if name.starts_with("pg_advisory_xact") || name.starts_with("pg_try_advisory_xact") => {
            Some(None)
        }
        _ if is_of_server(name) => Some(None),
        _ => None,
    }
}

/// Looks at files, processes or sizes of a server; `pg_typeof` and the like look at values only.
fn is_of_server(name: &str) -> bool {
    const VALUES: [&str; 6] = [
        "pg_typeof",
        "pg_column_size",
        "pg_size_pretty",
        "pg_size_bytes",
        "pg_column_compression",
        "pg_client_encoding",
    ];
    name.starts_with("pg_") && !VALUES.contains(&name)
        || name.starts_with("lo_")
        || name.starts_with("has_")
        || name.ends_with("_description")
}

/// Locks that other sessions must meet in one place.
pub(super) fn is_advisory(name: &str) -> bool {
    name.contains("advisory") && (name.starts_with("pg_advisory") || name.starts_with("pg_try_adv"))
}

/// Functions that give another value for each row, wherever it is computed.
pub(super) fn is_random(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["gen_random_uuid", "random", "uuidv4", "uuidv7", "unique_id", "uuid_v7"];
    NAMES.contains(&name) || name.starts_with("uuid_generate_v")
}
