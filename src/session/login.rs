//! From a start-up packet to the first ReadyForQuery.

use std::sync::Arc;
use std::time::Instant;

use super::authenticate::authenticate;
use super::causal::{staleness, token_of};
use super::{PATIENCE, Role, Routing, Session, open, replication};
use crate::config::{PoolMode, User};
use crate::error::{PgError, sqlstate};
use crate::exec::Failure;
use crate::net::{Client, Moment};
use crate::pool::Lease;
use crate::pool::cluster::{Cluster, Database};
use crate::pool::login::Account;
use crate::proxy::{ClientState, Handle, Proxy, Seat};
use crate::server::{Server, Setting, Settings, difference};
use crate::wire::backend;
use crate::wire::pipeline::TxStatus;

/// The admin console's database.
const ADMIN: &str = "pgsluice";
/// The newest minor version of protocol 3 that is spoken.
const MINOR: u16 = 2;
/// Settings that servers report and clients expect to be told at the start.
const REPORTED: &[&str] = &[
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "scram_iterations",
    "search_path",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
];

/// What a connection turned out to be.
pub(super) enum Outcome {
    Session(Box<Session>),
    /// A session and the server that all it says is handed to.
    Replication(Box<Session>, Box<Server>),
    Admin(Box<(Client, Arc<Handle>, Seat)>),
    /// It was told why it may not stay.
    Ended,
}

/// What a start-up packet asks for.
struct Wanted {
    minor: u16,
    user: String,
    database: String,
    settings: Settings,
    routing: Routing,
    application: String,
    replication: Option<replication::Mode>,
}

/// Speaks with a new connection; `None` if it ended, was a cancel request or was refused.
pub(super) async fn log_in(proxy: &Arc<Proxy>, client: Client, thread: usize) -> Option<Outcome> {
    let outcome = match open::start(proxy, client).await {
        Ok(Some((mut client, startup))) => match wanted(&mut client, startup) {
            Ok(wanted) => admit(proxy, client, thread, wanted).await,
            Err(error) => Err((client, error)),
        },
        Ok(None) => return None,
        Err(refused) => Err(refused),
    };
    match outcome {
        Ok(outcome) => Some(outcome),
        Err((mut client, error)) => {
            refuse(proxy, &mut client, error).await;
            None
        }
    }
}

async fn refuse(proxy: &Proxy, client: &mut Client, error: PgError) {
    tracing::info!(peer = %client.peer, code = %error.code, "login refused: {}", error.message);
    proxy.metrics.logins_failed.inc();
    proxy.metrics.limits.count(&error);
    backend::error_response(&mut client.out, &error.fatal());
    let _ = client.flush(std::time::Duration::from_secs(5)).await;
}

fn wanted(client: &mut Client, startup: open::Startup) -> Result<Wanted, PgError> {
    let open::Startup { minor, parameters } = startup;
    let mut wanted = Wanted {
        minor: minor.min(MINOR),
        user: String::new(),
        database: String::new(),
        settings: Settings::default(),
        routing: Routing::default(),
        application: String::new(),
        replication: None,
    };
    let mut unknown = Vec::new();
    for (name, value) in parameters {
        match name.as_str() {
            "user" => wanted.user = value,
            "database" => wanted.database = value,
            "options" => options(&mut wanted, &value)?,
            "replication" => wanted.replication = replication::Mode::parse(&value)?,
            _ if name.starts_with("_pq_.") => unknown.push(name),
            _ => set(&mut wanted, &name, value)?,
        }
    }
    if wanted.user.is_empty() {
        return Err(PgError::new(
            sqlstate::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    if wanted.database.is_empty() {
        wanted.database.clone_from(&wanted.user);
    }
    if minor > MINOR || !unknown.is_empty() {
        backend::negotiate_protocol_version(
            &mut client.out,
            0x3_0000 | i32::from(wanted.minor),
            unknown,
        )?;
    }
    Ok(wanted)
}

fn set(wanted: &mut Wanted, name: &str, value: String) -> Result<(), PgError> {
    match name.to_ascii_lowercase().as_str() {
        "sluice.tenant" => wanted.routing.tenant = Some(value),
        "sluice.role" => wanted.routing.role = Role::parse(&value)?,
        "sluice.max_staleness" => wanted.routing.max_staleness = staleness(&value)?,
        "sluice.token" => wanted.routing.token = token_of(&value)?,
        lower => {
            if lower == "application_name" {
                wanted.application.clone_from(&value);
            }
            // Servers are in UTF8 unless told otherwise.
            let is_default = lower == "client_encoding"
                && matches!(
                    value.to_ascii_lowercase().trim_matches('\''),
                    "utf8" | "utf-8" | "unicode"
                );
            if lower == "client_encoding" {
                check_encoding(&value)?;
            }
            if !is_default {
                let settings = Arc::make_mut(&mut wanted.settings);
                settings.insert(lower.to_owned(), Setting::Value(value));
            }
        }
    }
    Ok(())
}

/// Encodings in which the second byte of a character may be a backslash or a quote are not lexed.
pub(super) fn check_encoding(name: &str) -> Result<(), PgError> {
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let is_unsafe = ["sjis", "shiftjis", "mskanji", "big5", "gbk", "uhc", "gb18030", "johab"]
        .iter()
        .any(|it| plain.starts_with(it));
    match is_unsafe {
        true => {
            Err(PgError::refused(format!("client_encoding {name} is not supported"))
                .hint("use UTF8"))
        }
        false => Ok(()),
    }
}

/// `-c name=value`, `-cname=value` and `--name=value`, with backslashes before blanks.
fn options(wanted: &mut Wanted, text: &str) -> Result<(), PgError> {
    let mut words = split_options(text).into_iter();
    while let Some(word) = words.next() {
        let pair = match word.as_str() {
            "-c" => words.next().unwrap_or_default(),
            _ => match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
                Some(pair) => pair.to_owned(),
                None => {
                    return Err(PgError::refused(format!("start-up option {word:?}"))
                        .hint("write settings as -c name=value"));
                }
            },
        };
        let Some((name, value)) = pair.split_once('=') else {
            return Err(PgError::new(
                sqlstate::SYNTAX_ERROR,
                format!("start-up option {pair:?} has no value"),
            ));
        };
        set(wanted, &name.replace('-', "_"), value.to_owned())?;
    }
    Ok(())
}

fn split_options(text: &str) -> Vec<String> {
    let (mut words, mut word, mut chars) = (Vec::new(), String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Checks who it is and that it may come in, and tells it what a server would.
async fn admit(
    proxy: &Arc<Proxy>,
    mut client: Client,
    thread: usize,
    mut wanted: Wanted,
) -> Result<Outcome, (Client, PgError)> {
    let cluster = proxy.cluster.load_full();
    if let Some(mode) = wanted.replication {
        mode.choose_database(&cluster, &mut wanted.database);
    }
    let limits = &cluster.config.limits;
    let mut seat = match Seat::take(proxy, client.peer, wanted.database == ADMIN, limits) {
        Ok(seat) => seat,
        Err(error) => return Err((client, error)),
    };
    let who = (wanted.user.as_str(), wanted.database.as_str());
    let account = match authenticate(proxy, &cluster, &mut client, who).await {
        Ok(account) => account,
        Err(error) => return Err((client, error)),
    };
    let database = cluster.databases.get(&wanted.database).cloned();
    if let Err(error) = may_enter(proxy, &wanted, &account.user, database.is_some()) {
        return Err((client, error));
    }
    let names = match &database {
        Some(it) => seat.name(&account.user, &it.config, limits),
        None => Ok((wanted.user.as_str().into(), wanted.database.as_str().into())),
    };
    let handle = match names.and_then(|it| register(proxy, &client, &wanted, thread, it)) {
        Ok(handle) => handle,
        Err(error) => return Err((client, error)),
    };
    seat.register(&handle);
    let Some(database) = database else {
        greet(&mut client, &handle, &crate::admin::parameters(), &wanted);
        return Ok(Outcome::Admin(Box::new((client, handle, seat))));
    };
    let mut session =
        Box::new(new_session(proxy, client, handle, account, cluster, database, &wanted, thread));
    session.seat = Some(seat);
    let begun = match wanted.replication {
        None => session.begin_with_server().await.map(|it| (it, None)),
        Some(mode) => session
            .dial_for_replication(mode)
            .await
            .map(|server| (reported(&server.status), Some(Box::new(server)))),
    };
    match begun {
        Ok((parameters, server)) => {
            let handle = Arc::clone(&session.handle);
            greet(&mut session.client, &handle, &parameters, &wanted);
            if session.client.flush(PATIENCE).await.is_err() {
                session.client.input.clear();
            }
            Ok(match server {
                None => Outcome::Session(session),
                Some(server) => Outcome::Replication(session, server),
            })
        }
        Err(error) => {
            session.tell(&error.fatal());
            let _ = session.client.flush(PATIENCE).await;
            proxy.metrics.logins_failed.inc();
            session.end();
            Ok(Outcome::Ended)
        }
    }
}

fn may_enter(proxy: &Proxy, wanted: &Wanted, user: &User, is_known: bool) -> Result<(), PgError> {
    if proxy.is_draining() {
        return Err(PgError::new(sqlstate::CANNOT_CONNECT_NOW, "the proxy is going down")
            .hint("connect again"));
    }
    if wanted.database == ADMIN && !is_known {
        return match proxy.is_admin(user) {
            true => Ok(()),
            false => Err(PgError::new(
                sqlstate::INVALID_AUTHORIZATION,
                format!("user {:?} may not use the admin console", user.name),
            )
            .hint("set admin = true for the user")),
        };
    }
    match is_known {
        true => Ok(()),
        false => Err(PgError::new(
            sqlstate::INVALID_CATALOG_NAME,
            format!("database \"{}\" does not exist", wanted.database),
        )
        .hint("clients name a [[database]] of the proxy's configuration")),
    }
}

fn register(
    proxy: &Proxy,
    client: &Client,
    wanted: &Wanted,
    thread: usize,
    (user, database): (Arc<str>, Arc<str>),
) -> Result<Arc<Handle>, PgError> {
    let mut key = vec![0; if wanted.minor >= 2 { 32 } else { 4 }];
    getrandom::fill(&mut key)
        .map_err(|error| PgError::new(sqlstate::INTERNAL_ERROR, error.to_string()))?;
    let handle = Arc::new(Handle {
        pid: proxy.next_pid(),
        told_pid: std::sync::OnceLock::new(),
        key: key.into(),
        user,
        database,
        peer: client.peer,
        is_tls: client.is_tls(),
        connected: Instant::now(),
        thread,
        servers: parking_lot::Mutex::default(),
        state: parking_lot::Mutex::new(ClientState {
            application: wanted.application.as_str().into(),
            tenant: wanted.routing.tenant.clone(),
            ..ClientState::default()
        }),
        signals: crate::proxy::Signals::default(),
        activity: crate::proxy::Activity::new(Arc::clone(&client.backlog)),
    });
    Ok(handle)
}

#[expect(clippy::too_many_arguments, reason = "the parts of a session")]
fn new_session(
    proxy: &Arc<Proxy>,
    client: Client,
    handle: Arc<Handle>,
    account: Arc<Account>,
    cluster: Arc<Cluster>,
    database: Arc<Database>,
    wanted: &Wanted,
    thread: usize,
) -> Session {
    Session {
        proxy: Arc::clone(proxy),
        handle,
        seat: None,
        client,
        thread,
        account,
        cluster,
        database,
        settings: proxy.settings.intern(Arc::clone(&wanted.settings)),
        defaults: proxy.settings.intern(Arc::clone(&wanted.settings)),
        routing: wanted.routing.clone(),
        tx: None,
        members: Vec::new(),
        pin: None,
        is_pinned_for_good: false,
        has_lost_state: false,
        last_server: None,
        doubt: None,
        sql_statements: None,
        statements: Default::default(),
        portals: Default::default(),
        held_cursors: Default::default(),
        batch: Vec::new(),
        batch_bytes: 0,
        executes_one: false,
        sends_as_is: false,
        skips_to_sync: false,
        written: Vec::new(),
        writing: Default::default(),
        reload_at_commit: false,
        schema_of_block: Default::default(),
        listening: None,
        queries: 0,
        resume: None,
        avoid: None,
        standby: None,
        granted: None,
        is_cut_off: false,
        asked: None,
        watching: None,
    }
}

fn greet(client: &mut Client, handle: &Handle, parameters: &[(String, String)], wanted: &Wanted) {
    for (name, value) in parameters {
        let said = wanted.settings.get(&name.to_ascii_lowercase());
        let value = match said {
            Some(Setting::Value(said)) if name == "application_name" => said,
            _ if name == "application_name" => &wanted.application,
            _ => value,
        };
        backend::parameter_status(&mut client.out, name.as_bytes(), value.as_bytes());
    }
    let pid = handle.told_pid.get().copied().unwrap_or(handle.pid);
    if let Err(error) = backend::backend_key_data(&mut client.out, pid, &handle.key) {
        tracing::debug!(%error, "a cancel key could not be told");
    }
    backend::ready_for_query(&mut client.out, TxStatus::Idle);
}

impl Session {
    /// What the client is told at its start; in session mode it has its server then.
    async fn begin_with_server(&mut self) -> Result<Vec<(String, String)>, PgError> {
        let parameters = self.learn_parameters().await?;
        self.take_own_server().await?;
        Ok(parameters)
    }

    /// In session mode over one shard the client gets its server now, and its process id: what asks
    /// about one's own backend, or compares it with a notification's, is right.
    async fn take_own_server(&mut self) -> Result<(), PgError> {
        if self.database.mode != PoolMode::Session || self.database.is_sharded() {
            return Ok(());
        }
        let home = self.database.config.home_shard;
        match self.member(home, Role::Primary).await {
            Ok(at) => {
                let _ = self.handle.told_pid.set(self.members[at].server().cancel.process);
                Ok(())
            }
            // Without the primary, replicas still serve reads.
            Err(_) if !self.database.home().replicas.is_empty() => Ok(()),
            Err(Failure::Error(error)) => Err(error),
            Err(_) => Err(PgError::new(sqlstate::CONNECTION_FAILURE, "the server was lost")),
        }
    }

    /// What servers report at the start of a session with these settings. A server is asked only if
    /// nobody was before, or if the session brings settings that the server must judge.
    async fn learn_parameters(&mut self) -> Result<Vec<(String, String)>, PgError> {
        if let Some(tenant) = self.routing.tenant.clone() {
            self.owner_of(&tenant)?;
        }
        let home = Arc::clone(&self.database.home().primary);
        let name = self.account.login.name(&self.account.user, &home.address).to_owned();
        let parameters = &self.database.state.parameters;
        let known = parameters.get(&name).map(|it| Arc::clone(&it));
        let is_harmless = |name: &String| name == "application_name";
        if let Some(known) = &known
            && self.settings.keys().all(is_harmless)
        {
            return Ok(reported(known));
        }
        let mut lease = self.any_server().await?;
        let server = lease.server();
        if known.is_none() && server.settings.is_empty() {
            let parameters = &self.database.state.parameters;
            parameters.insert(name, Arc::new(server.status.clone()));
        }
        if let Some(sql) = difference(&server.settings, &self.settings) {
            if let Err(error) = server.run(&sql).await {
                server.set_broken();
                return Err(error);
            }
            server.settings = Arc::clone(&self.settings);
        }
        Ok(reported(&server.status))
    }

    /// A server of the home shard: the primary, else a replica, which knows the same. Without any this waits
    /// as a write does.
    async fn any_server(&mut self) -> Result<Lease, PgError> {
        let home = self.database.home();
        let may_ask = home.is_open() && home.primary.standing.admit(Moment::now());
        if !home.replicas.is_empty() {
            let pool = self.database.pool(&home.primary, &self.account);
            let asked = if may_ask { Some(pool.take(self.thread).await) } else { None };
            match asked {
                Some(Ok(lease)) => return Ok(settled(lease)),
                Some(Err(error)) if !error.is_passing => {
                    return self.any_replica().await.ok_or(error);
                }
                _ => {
                    if let Some(lease) = self.any_replica().await {
                        return Ok(lease);
                    }
                }
            }
        }
        match self.lease_primary(self.database.config.home_shard).await {
            Ok(lease) => Ok(settled(lease)),
            Err(Failure::Error(error)) => Err(error),
            Err(_) => Err(PgError::new(sqlstate::CONNECTION_FAILURE, "the server was lost")),
        }
    }

    async fn any_replica(&self) -> Option<Lease> {
        for host in &self.database.home().replicas {
            let pool = self.database.pool(host, &self.account);
            if let Ok(lease) = pool.take(self.thread).await {
                return Some(lease);
            }
        }
        None
    }
}

/// The host that let a probe through has answered it.
fn settled(lease: Lease) -> Lease {
    let standing = &lease.pool().standing;
    if standing.is_broken() {
        standing.answered(Moment::now(), 0.0);
    }
    lease
}

fn reported(status: &std::collections::BTreeMap<String, String>) -> Vec<(String, String)> {
    let known = REPORTED.iter().filter_map(|name| status.get_key_value(*name));
    known.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_at_blanks() {
        assert_eq!(split_options(r"-c a=b  -cc=d\ e --f-g=h"), ["-c", "a=b", "-cc=d e", "--f-g=h"]);
    }

    #[test]
    fn unsafe_encodings_are_refused() {
        assert!(check_encoding("UTF8").is_ok());
        assert!(check_encoding("LATIN1").is_ok());
        for name in ["SJIS", "Big5", "gbk", "'GB18030'", "shift_jis_2004"] {
            assert!(check_encoding(name).is_err(), "{name}");
        }
    }
}
