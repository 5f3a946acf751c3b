//! A [`Config`] as key, value and default, for SHOW CONFIG.

use super::keys::{Fallback, Key};
use super::units::{show_bytes, show_duration};
use super::{
    AuthMethod, Config, Database, Host, ListenTls, LogFormat, PoolMode, Preference, Rule,
    RuleMethod, Secret, ServerAuth, User,
};

const MASK: &str = "********";

/// Every key with its value and its default, secrets masked. Keys of lists carry a name:
/// `user.app.auth`, `database.app.shard.0.range`.
pub fn show(config: &Config) -> Vec<(String, String, String)> {
    let mut rows = Rows::default();
    sections(config, &mut rows);
    config.users.iter().for_each(|it| user(it, &mut rows));
    config.rules.iter().enumerate().for_each(|(at, it)| rule(at, it, &mut rows));
    config.databases.iter().for_each(|it| database(it, &mut rows));
    rows.0
}

#[derive(Default)]
struct Rows(Vec<(String, String, String)>);

impl Rows {
    /// `path` is a key of the table, `name` what stands for its section.
    fn add(&mut self, path: &str, name: &str, value: impl ToString) {
        let key = Key::find(path).expect("only keys of the table are shown");
        let default = match key.default {
            Fallback::Value(text) => text.trim_matches('"').to_owned(),
            Fallback::Absent(meaning) => format!("({meaning})"),
            Fallback::Required => String::new(),
        };
        self.0.push((format!("{name}.{}", key.name()), value.to_string(), default));
    }

    fn section(&mut self, name: &str, values: &[(&str, String)]) {
        for (key, value) in values {
            self.add(&format!("{name}.{key}"), name, value);
        }
    }
}

fn sections(config: &Config, rows: &mut Rows) {
    let Config { listen, pool, limits, health, redis, log, .. } = config;
    let of_tls = |file: fn(&ListenTls) -> Option<&String>| {
        listen.tls.as_ref().and_then(file).cloned().unwrap_or_default()
    };
    rows.section(
        "listen",
        &[
            ("address", listen.address.to_string()),
            ("http", or_empty(&listen.http)),
            ("tls", listen.tls.as_ref().map_or("off", ListenTls::word).to_owned()),
            ("tls_certificate", of_tls(|it| Some(&it.certificate))),
            ("tls_key", of_tls(|it| Some(&it.key))),
            ("tls_client_ca", of_tls(|it| it.client_ca.as_ref())),
            ("unix_socket_dir", or_empty(&listen.unix_socket_dir)),
            ("unix_socket_mode", format!("{:04o}", listen.unix_socket_mode)),
            ("region", or_empty(&listen.region)),
            ("shutdown_grace", show_duration(listen.shutdown_grace)),
            ("threads", listen.threads.to_string()),
        ],
    );
    rows.section(
        "pool",
        &[
            ("mode", mode(pool.mode).to_owned()),
            ("pin", if pool.may_pin { "allow" } else { "refuse" }.to_owned()),
            ("size", pool.size.to_string()),
            ("host_size", or_empty(&pool.host_size)),
            ("budget", if pool.shares { "auto" } else { "off" }.to_owned()),
            ("budget_reserve", pool.budget_reserve.to_string()),
            ("wait_timeout", show_duration(pool.wait_timeout)),
            ("connect_timeout", show_duration(pool.connect_timeout)),
            ("dns_ttl", show_duration(pool.dns_ttl)),
            ("idle_timeout", show_duration(pool.idle_timeout)),
            ("max_lifetime", show_duration(pool.max_lifetime)),
            ("check_after", show_duration(pool.check_after)),
            ("prepared_statements", pool.prepared_statements.to_string()),
            ("reuse_unnamed", pool.reuse_unnamed.to_string()),
            ("plan_cache_mode", or_empty(&pool.plan_cache_mode)),
        ],
    );
    rows.section(
        "limits",
        &[
            ("clients", limits.clients.to_string()),
            ("pinned", limits.pinned.map(|it| it.to_string()).unwrap_or_default()),
            ("clients_per_user", or_empty(&limits.clients_per_user)),
            ("clients_per_database", or_empty(&limits.clients_per_database)),
            ("clients_per_address", or_empty(&limits.clients_per_address)),
            ("login_timeout", show_duration(limits.login_timeout)),
            ("query_timeout", show_duration(limits.timeouts.query)),
            ("transaction_timeout", show_duration(limits.timeouts.transaction)),
            ("idle_transaction_timeout", show_duration(limits.timeouts.idle_transaction)),
            ("client_idle_timeout", show_duration(limits.timeouts.client_idle)),
            ("write_timeout", show_duration(limits.write_timeout)),
            ("login_delay", show_duration(limits.login_delay)),
            ("message_bytes", show_bytes(limits.message_bytes as u64)),
            ("query_bytes", or_empty(&limits.query_bytes.map(|it| show_bytes(it as u64)))),
            ("client_statements", limits.client_statements.to_string()),
            ("statement_bytes", show_bytes(limits.statement_bytes as u64)),
            ("buffer_bytes", show_bytes(limits.buffer_bytes as u64)),
            ("plans", limits.plans.to_string()),
            ("plan_bytes", show_bytes(limits.plan_bytes as u64)),
            ("merge_bytes", show_bytes(limits.merge_bytes as u64)),
            ("gather_max_rows", limits.gather_max_rows.to_string()),
            ("gather_max_bytes", show_bytes(limits.gather_max_bytes as u64)),
            ("resume_bytes", show_bytes(limits.resume_bytes as u64)),
            ("notifications", limits.notifications.to_string()),
        ],
    );
    rows.section(
        "health",
        &[
            ("interval", show_duration(health.interval)),
            ("timeout", show_duration(health.timeout)),
            ("catalog_refresh", show_duration(health.catalog_refresh)),
            ("failure_threshold", health.failure_threshold.to_string()),
            ("failure_rate", health.failure_rate.to_string()),
            ("reset_timeout", show_duration(health.reset_timeout)),
            ("slow_start", show_duration(health.slow_start)),
            ("outlier_factor", health.outlier_factor.to_string()),
            ("primary_fallback", health.primary_fallback.to_string()),
        ],
    );
    if let Some(redis) = redis {
        rows.section(
            "redis",
            &[
                ("url", MASK.to_owned()),
                ("prefix", redis.prefix.clone()),
                ("fence", show_duration(redis.fence)),
                ("distrust", show_duration(redis.distrust)),
            ],
        );
    }
    let format = if log.format == LogFormat::Json { "json" } else { "text" };
    rows.section("log", &[("format", format.to_owned()), ("level", log.level.clone())]);
}

fn user(user: &User, rows: &mut Rows) {
    let name = format!("user.{}", user.name);
    let masked = |there: bool| if there { MASK } else { "" };
    rows.add("user.name", &name, &user.name);
    rows.add("user.password", &name, masked(user.secret != Secret::None));
    rows.add("user.auth", &name, auth(user.auth));
    rows.add("user.admin", &name, user.admin);
    rows.add("user.clients", &name, or_empty(&user.clients));
    rows.add("user.replication", &name, user.replication);
    rows.add("user.server_user", &name, or_empty(&user.server_user));
    rows.add("user.server_password", &name, masked(user.server_password.is_some()));
    rows.add("user.server_auth", &name, server_auth(user.server_auth));
}

/// Rules have no names: they are numbered from 1.
fn rule(at: usize, rule: &Rule, rows: &mut Rows) {
    let name = format!("rule.{}", at + 1);
    let networks: Vec<String> = rule.networks.iter().map(ToString::to_string).collect();
    let map = rule.map.iter().map(|(name, users)| format!("{name} = {}", users.join(", ")));
    rows.add("rule.users", &name, rule.users.join(", "));
    rows.add("rule.databases", &name, rule.databases.join(", "));
    rows.add("rule.networks", &name, networks.join(", "));
    rows.add("rule.tls", &name, rule.tls);
    rows.add("rule.method", &name, method(rule.method));
    rows.add("rule.map", &name, map.collect::<Vec<_>>().join("; "));
    rows.add("rule.allow_cleartext", &name, rule.allow_cleartext);
}

fn database(database: &Database, rows: &mut Rows) {
    let name = format!("database.{}", database.name);
    let lists = (database.reference_tables.join(", "), database.trusted_functions.join(", "));
    let global_unique: Vec<String> =
        database.global_unique.iter().map(ToString::to_string).collect();
    let timeouts = &database.timeouts;
    for (key, value) in [
        ("name", database.name.clone()),
        ("tenant_column", or_empty(&database.tenant_column)),
        ("home_shard", database.home_shard.to_string()),
        ("reference_tables", lists.0),
        ("consistency", database.consistency.name().to_owned()),
        ("pin_after_write", show_duration(database.pin_after_write)),
        ("causal_wait", show_duration(database.causal_wait)),
        ("max_replica_lag", show_duration(database.max_replica_lag)),
        ("trusted_functions", lists.1),
        ("cross_shard_snapshot", if database.has_barrier { "barrier" } else { "none" }.to_owned()),
        ("allow_local_keys", database.allow_local_keys.to_string()),
        ("trust_generated_keys", database.trust_generated_keys.to_string()),
        ("global_unique", global_unique.join(", ")),
        ("sequence_stride", database.sequence_stride.to_string()),
        ("idle", if database.sleeps_after.is_some() { "sleep" } else { "awake" }.to_owned()),
        ("idle_after", or_empty(&database.sleeps_after.map(show_duration))),
        ("auto_prepare", database.auto_prepare.to_string()),
        ("pool_mode", database.pool_mode.map(mode).unwrap_or_default().to_owned()),
        ("pool_size", or_empty(&database.pool_size)),
        ("clients", or_empty(&database.clients)),
        ("query_timeout", or_empty(&timeouts.query.map(show_duration))),
        ("transaction_timeout", or_empty(&timeouts.transaction.map(show_duration))),
        ("idle_transaction_timeout", or_empty(&timeouts.idle_transaction.map(show_duration))),
        ("client_idle_timeout", or_empty(&timeouts.client_idle.map(show_duration))),
        ("auth_query", or_empty(&database.auth_query)),
        ("auth_cache", show_duration(database.auth_cache)),
        ("server_auth", server_auth(database.server_auth).to_owned()),
        ("tenants", tenants(database)),
    ] {
        rows.add(&format!("database.{key}"), &name, value);
    }
    for shard in &database.shards {
        let name = format!("{name}.shard.{}", shard.id);
        let host = |it: &Host| format!("{it:?}{}", preference(&shard.preference(it)));
        let replicas: Vec<String> = shard.replicas.iter().map(host).collect();
        rows.add("database.shard.id", &name, shard.id);
        rows.add("database.shard.range", &name, range(database, shard.id));
        rows.add("database.shard.primary", &name, host(&shard.primary));
        rows.add("database.shard.replicas", &name, replicas.join(", "));
        let apis: Vec<String> = shard.patroni.iter().map(|it| format!("{it:?}")).collect();
        rows.add("database.shard.patroni", &name, apis.join(", "));
        rows.add("database.shard.patroni_members", &name, shard.patroni_members);
    }
}

/// ` (weight 2, region eu)`; empty if nothing is written.
fn preference(it: &Preference) -> String {
    let region = it.region.as_ref().map(|it| format!("region {it}"));
    let weight = (it.weight != 1).then(|| format!("weight {}", it.weight));
    let said: Vec<String> = weight.into_iter().chain(region).collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}

/// `[0, 63]`; empty for a shard without buckets.
fn range(database: &Database, shard: crate::shard::ShardId) -> String {
    let mut buckets = (0..=255).filter(|it| database.map.bucket_owner(*it) == shard);
    let Some(first) = buckets.next() else { return String::new() };
    format!("[{first}, {}]", buckets.next_back().unwrap_or(first))
}

fn tenants(database: &Database) -> String {
    let list = database.map.overrides().iter().map(|(tenant, shard)| format!("{tenant} = {shard}"));
    list.collect::<Vec<_>>().join(", ")
}

fn or_empty<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
    }
}

fn method(method: RuleMethod) -> &'static str {
    match method {
        RuleMethod::Ask(method) => auth(method),
        RuleMethod::Certificate => "certificate",
        RuleMethod::Reject => "reject",
    }
}

fn server_auth(it: ServerAuth) -> &'static str {
    match it {
        ServerAuth::Url => "url",
        ServerAuth::PassThrough => "pass-through",
    }
}

fn auth(method: AuthMethod) -> &'static str {
    match method {
        AuthMethod::Trust => "trust",
        AuthMethod::Password => "password",
        AuthMethod::Md5 => "md5",
        AuthMethod::ScramSha256 => "scram-sha-256",
    }
}
