//! Text → [`Config`], or all its mistakes.

use std::time::Duration;

use toml::de::DeTable;

use super::database::databases;
use super::error::{ConfigError, Report, Wrong};
use super::rule::rules;
use super::secret::{self, Outside};
use super::section::Section;
use super::tls;
use super::values;
use super::{
    AuthMethod, Config, Health, Host, Limits, Listen, Log, LogFormat, Pool, PoolMode, Redis, Rule,
    RuleMethod, Secret, ServerAuth, Timeouts, User,
};

/// Below it a proxy could not follow, above it writes would wait for nothing.
const FENCES: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(4)..=Duration::from_secs(1);

/// A server and where the file names it.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenHost {
    pub line: usize,
    /// Such as `database.shard.primary`.
    pub key: String,
    pub host: Host,
}

impl WrittenHost {
    /// The mistake that this server cannot be reached, as `check` reports it.
    pub fn unreachable(&self, file: &str, why: impl std::fmt::Display) -> ConfigError {
        ConfigError {
            file: file.to_owned(),
            line: self.line,
            key: self.key.clone(),
            message: format!("cannot reach {} as {}: {why}", self.host, self.host.user),
            hint: "write the URL of a server that runs and lets this user in".to_owned(),
        }
    }
}

/// Reads a configuration. `env` and `read_file` are asked for what `env:NAME` and `file:PATH` name.
///
/// # Errors
/// Every mistake, by rising line. Where the text is no TOML, only those of the TOML.
pub fn parse(
    file_name: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    read_file: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<Config, Vec<ConfigError>> {
    parse_located(file_name, text, env, read_file).map(|(config, _)| config)
}

/// As [`parse`], with the place of every server that the file names.
///
/// # Errors
/// As [`parse`].
pub fn parse_located(
    file_name: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    read_file: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<(Config, Vec<WrittenHost>), Vec<ConfigError>> {
    let (table, broken) = DeTable::parse_recoverable(text);
    let report = Report::new(file_name, text);
    for error in &broken {
        let span = error.span().unwrap_or_default();
        report.add(&span, "", Wrong::new(error.message(), ""));
    }
    if !broken.is_empty() {
        return Err(report.into_errors());
    }
    let root = Section::root(table.get_ref(), &report);
    root.check_names();
    let (config, hosts) = config(&root, &Outside { env, read_file });
    match report.into_errors() {
        errors if errors.is_empty() => Ok((config, hosts)),
        errors => Err(errors),
    }
}

/// What is wrong is in the report and replaced by something harmless.
fn config(root: &Section<'_>, outside: &Outside<'_>) -> (Config, Vec<WrittenHost>) {
    let (databases, hosts) = databases(root, outside);
    let rules = rules(root, &databases);
    let config = Config {
        listen: listen(&only(root, "listen"), outside),
        pool: pool(&only(root, "pool")),
        limits: limits(&only(root, "limits")),
        health: health(&only(root, "health")),
        redis: redis(&only(root, "redis"), outside),
        log: log(&only(root, "log")),
        users: users(root, outside, &rules),
        rules,
        databases,
    };
    (config, hosts)
}

/// A section that stands at most once; an empty one where it is not written.
fn only<'a>(root: &Section<'a>, name: &'static str) -> Section<'a> {
    root.sections(name).into_iter().next().unwrap_or_else(|| root.empty(name))
}

fn listen(section: &Section<'_>, outside: &Outside<'_>) -> Listen {
    // The other half is for the kernel's part of the work, and for servers on the same machine.
    let half = || std::thread::available_parallelism().map_or(1, |it| it.get().div_ceil(2));
    let listen = Listen {
        address: section.value("address", values::address),
        http: section.optional("http", values::address),
        tls: tls::listen(section, outside),
        unix_socket_dir: section.optional("unix_socket_dir", values::folder),
        unix_socket_mode: section.value("unix_socket_mode", values::mode),
        region: section.optional("region", values::text),
        shutdown_grace: section.value("shutdown_grace", values::duration),
        threads: section.optional("threads", values::count).unwrap_or_else(half),
    };
    if listen.http == Some(listen.address) && listen.address.port() != 0 {
        section.wrong("http", Wrong::new("is listen.address too", "write another port"));
    }
    listen
}

fn pool(section: &Section<'_>) -> Pool {
    Pool {
        mode: pool_mode(&section.value("mode", values::choice)),
        may_pin: section.value("pin", values::choice) == "allow",
        size: section.value("size", values::count),
        host_size: section.optional("host_size", values::count),
        shares: section.value("budget", values::choice) == "auto",
        budget_reserve: section.value("budget_reserve", values::count),
        wait_timeout: section.value("wait_timeout", values::duration),
        connect_timeout: section.value("connect_timeout", values::duration),
        dns_ttl: section.value("dns_ttl", values::duration),
        idle_timeout: section.value("idle_timeout", values::duration),
        max_lifetime: section.value("max_lifetime", values::duration),
        check_after: section.value("check_after", values::duration),
        prepared_statements: section.value("prepared_statements", values::count),
        reuse_unnamed: section.value("reuse_unnamed", values::bool),
        plan_cache_mode: section.optional("plan_cache_mode", values::choice),
    }
}

/// The mode of a word that was checked.
pub(super) fn pool_mode(word: &str) -> PoolMode {
    if word == "session" { PoolMode::Session } else { PoolMode::Transaction }
}

fn limits(section: &Section<'_>) -> Limits {
    let limits = Limits {
        clients: section.value("clients", values::count),
        pinned: section.optional("pinned", values::count),
        clients_per_user: section.optional("clients_per_user", values::count),
        clients_per_database: section.optional("clients_per_database", values::count),
        clients_per_address: section.optional("clients_per_address", values::count),
        login_timeout: section.value("login_timeout", values::duration),
        timeouts: Timeouts {
            query: section.value("query_timeout", values::duration),
            transaction: section.value("transaction_timeout", values::duration),
            idle_transaction: section.value("idle_transaction_timeout", values::duration),
            client_idle: section.value("client_idle_timeout", values::duration),
        },
        write_timeout: section.value("write_timeout", values::duration),
        login_delay: section.value("login_delay", values::duration),
        message_bytes: section.value("message_bytes", values::bytes),
        query_bytes: section.optional("query_bytes", values::bytes),
        client_statements: section.value("client_statements", values::count),
        statement_bytes: section.value("statement_bytes", values::bytes),
        buffer_bytes: section.value("buffer_bytes", values::bytes),
        plans: section.value("plans", values::count),
        plan_bytes: section.value("plan_bytes", values::bytes),
        merge_bytes: section.value("merge_bytes", values::bytes),
        gather_max_rows: section.value("gather_max_rows", values::count),
        gather_max_bytes: section.value("gather_max_bytes", values::bytes),
        resume_bytes: section.value("resume_bytes", values::bytes),
        notifications: section.value("notifications", values::count),
    };
    if limits.login_delay >= limits.login_timeout {
        let hint = "write a shorter time, or a longer login_timeout";
        section.wrong("login_delay", Wrong::new("is not shorter than limits.login_timeout", hint));
    }
    limits
}

fn health(section: &Section<'_>) -> Health {
    Health {
        interval: section.value("interval", values::duration),
        timeout: section.value("timeout", values::duration),
        catalog_refresh: section.value("catalog_refresh", values::duration),
        failure_threshold: section.value("failure_threshold", values::count) as u32,
        failure_rate: section.value("failure_rate", values::count) as u32,
        reset_timeout: section.value("reset_timeout", values::duration),
        slow_start: section.value("slow_start", values::duration),
        outlier_factor: section.value("outlier_factor", values::count) as u32,
        primary_fallback: section.value("primary_fallback", values::count) as u32,
    }
}

fn redis(section: &Section<'_>, outside: &Outside<'_>) -> Option<Redis> {
    let redis = Redis {
        url: String::new(),
        prefix: section.value("prefix", values::text),
        fence: section.value("fence", values::duration),
        distrust: section.value("distrust", values::duration),
    };
    if !FENCES.contains(&redis.fence) {
        let hint = "write a time from 4ms to 1s";
        section.wrong("fence", Wrong::new("is too short or too long", hint));
    }
    let written = section.written("url")?;
    let url =
        outside.resolve(written.get_ref()).map_err(|wrong| section.wrong("url", wrong)).ok()?;
    let schemes = ["redis://", "rediss://", "redis+unix://"];
    if !schemes.iter().any(|it| url.strip_prefix(it).is_some_and(|rest| !rest.is_empty())) {
        // It may hold a password: it is not repeated.
        let hint = "write \"redis://host:6379\", \"rediss://…\" for TLS, or \"redis+unix:///path\"";
        section.wrong("url", Wrong::new("is no URL of a Redis", hint));
    }
    Some(Redis { url, ..redis })
}

fn log(section: &Section<'_>) -> Log {
    let json = section.value("format", values::choice) == "json";
    Log {
        format: if json { LogFormat::Json } else { LogFormat::Text },
        level: section.value("level", values::text),
    }
}

fn users(root: &Section<'_>, outside: &Outside<'_>, rules: &[Rule]) -> Vec<User> {
    let mut users: Vec<User> = Vec::new();
    let needs_none = [RuleMethod::Ask(AuthMethod::Trust), RuleMethod::Certificate];
    let may_lack = rules.iter().any(|it| needs_none.contains(&it.method));
    for section in root.sections("user") {
        let Some(user) = user(&section, outside, may_lack) else { continue };
        if users.iter().any(|it| it.name == user.name) {
            let message = format!("`{}` is the name of two users", user.name);
            section.wrong("name", Wrong::new(message, "rename or remove one"));
        }
        users.push(user);
    }
    let mut databases = root.sections("database").into_iter();
    if root.written("user").is_none() && !databases.any(|it| it.written("auth_query").is_some()) {
        let hint = "write [[user]] with `name = \"app\"` and `password = \"…\"`";
        root.wrong("user", Wrong::new("there is no user, so nobody could log in", hint));
    }
    users
}

/// `may_lack`: whether rules let users in without a password.
fn user(section: &Section<'_>, outside: &Outside<'_>, may_lack: bool) -> Option<User> {
    let name = section.required("name", values::text);
    let auth = section.optional("auth", values::choice);
    let may_lack = may_lack || auth.as_deref() == Some("trust");
    let secret = password(section, outside, may_lack);
    let method = secret.as_ref().and_then(|secret| {
        let method = secret::method(auth.as_deref(), secret);
        method.map_err(|wrong| section.wrong("auth", wrong)).ok()
    });
    let user = User {
        name: name?,
        secret: secret.unwrap_or(Secret::None),
        auth: method.unwrap_or(AuthMethod::ScramSha256),
        admin: section.value("admin", values::bool),
        clients: section.optional("clients", values::count),
        replication: section.value("replication", values::bool),
        server_user: section.optional("server_user", values::text),
        server_password: resolved(section, "server_password", outside),
        server_auth: server_auth(&section.value("server_auth", values::choice)),
    };
    if user.server_auth == ServerAuth::PassThrough && user.server_user.is_some() {
        let hint = "leave out server_user and server_password, or write \"url\"";
        let message = "logs in to servers under the user's own name, not as server_user";
        section.wrong("server_auth", Wrong::new(message, hint));
    }
    if user.server_password.is_some() && user.server_user.is_none() {
        let hint = "write server_user too, or leave it out";
        section.wrong("server_password", Wrong::new("has no server_user", hint));
    }
    Some(user)
}

/// The meaning of a word that was checked.
pub(super) fn server_auth(word: &str) -> ServerAuth {
    if word == "pass-through" { ServerAuth::PassThrough } else { ServerAuth::Url }
}

/// The secret as far as it is written; none after a mistake.
fn password(section: &Section<'_>, outside: &Outside<'_>, may_lack: bool) -> Option<Secret> {
    if section.written("password").is_none() {
        if !may_lack {
            let hint = "write `password = \"…\"`, \"env:NAME\" or \"file:PATH\", \
                        or `auth = \"trust\"` to let the user in without one";
            section.wrong("password", Wrong::new("is missing", hint));
        }
        return Some(Secret::None);
    }
    let text = resolved(section, "password", outside)?;
    secret::secret(text).map_err(|wrong| section.wrong("password", wrong)).ok()
}

/// The text of a key that may stand for a variable or a file.
fn resolved(section: &Section<'_>, name: &str, outside: &Outside<'_>) -> Option<String> {
    let value = section.written(name)?;
    outside.resolve(value.get_ref()).map_err(|wrong| section.wrong(name, wrong)).ok()
}
