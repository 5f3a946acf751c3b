//! Who a client is: the rule it falls under, the user it names, and the exchange that proves it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::PATIENCE;
use super::failover::RETRY;
use crate::auth::scram::ITERATIONS;
use crate::auth::{
    AuthMethod, Credential, Next, Random, Rule, RuleMethod, Secret, ServerExchange, Visitor,
};
use crate::config::User;
use crate::error::{PgError, sqlstate};
use crate::net::Client;
use crate::pool::cluster::Cluster;
use crate::pool::control::LookError;
use crate::pool::login::{Account, ServerLogin, passes_through};
use crate::proxy::Proxy;
use crate::proxy::failed_logins::Source;

/// The longest message of an exchange, as in Postgres (`PG_MAX_AUTH_TOKEN_LENGTH`).
const MESSAGE_BYTES: usize = 65_535;

/// Finds out whether the client is the user it says, for the database it names. A user that does not
/// exist goes the way of any other, to the same refusal.
pub(super) async fn authenticate(
    proxy: &Proxy,
    cluster: &Cluster,
    client: &mut Client,
    (name, database): (&str, &str),
) -> Result<Arc<Account>, PgError> {
    let (address, is_tls) = (client.address(), client.is_tls());
    let visitor = Visitor { user: name, database, address, is_tls };
    let rules = &cluster.config.rules;
    let rule = Rule::first(rules, &visitor);
    let is_rejected = rule.is_some_and(|it| it.method == RuleMethod::Reject);
    if is_rejected || (rule.is_none() && !rules.is_empty()) {
        proxy.failed_logins.count(Source::of(visitor.address));
        return Err(rejected(&visitor));
    }
    let user = find(proxy, cluster, name, database).await?;
    let method = match rule.map(|it| it.method) {
        Some(RuleMethod::Ask(method)) => method,
        Some(RuleMethod::Certificate | RuleMethod::Reject) => AuthMethod::Trust,
        None => user.as_ref().map_or(AuthMethod::ScramSha256, |it| it.auth),
    };
    let proven = match rule.filter(|it| it.method == RuleMethod::Certificate) {
        Some(rule) => certified(proxy, client, rule, user.as_ref(), &visitor).await?,
        None => {
            check_cleartext(method, rule, &visitor)?;
            exchange(proxy, cluster, client, &visitor, (method, user.as_ref())).await?
        }
    };
    let user = user.ok_or_else(gone)?;
    Ok(cluster.accounts.share(account(cluster, user, database, proven)))
}

/// The user, of the configuration or of `auth_query`.
/// While no server answers, this waits as a write does.
async fn find(
    proxy: &Proxy,
    cluster: &Cluster,
    name: &str,
    database: &str,
) -> Result<Option<User>, PgError> {
    if let Some(user) = cluster.config.users.iter().find(|it| it.name == name) {
        return Ok(Some(user.clone()));
    }
    let begun = Instant::now();
    loop {
        // Its hosts may have other roles by now.
        let cluster = proxy.cluster.load_full();
        let Some(database) = cluster.databases.get(database) else { return Ok(None) };
        let error = match database.state.lookup.find(database, name).await {
            Ok(user) => return Ok(user),
            Err(error) => error,
        };
        let may_pass = matches!(error, LookError::Down(_));
        if may_pass && begun.elapsed() < database.config.failover_wait {
            tokio::time::sleep(RETRY).await;
            continue;
        }
        tracing::warn!(database = database.config.name, %error, "auth_query failed");
        let home = database.config.home_shard;
        let message = format!("users cannot be looked up on shard {home} now");
        return Err(PgError::new(sqlstate::CANNOT_CONNECT_NOW, message)
            .hint("try again; the proxy's log says why"));
    }
}

fn account(cluster: &Cluster, user: User, database: &str, proven: Credential) -> Account {
    let state = cluster.databases.get(database).map(|it| &it.state);
    let passed = state.filter(|_| passes_through(&user)).map(|it| it.passed(&user.name));
    if let Some(passed) = &passed {
        // A password that is known in clear fits every verifier.
        passed.renew(match &user.secret {
            Secret::Plain(password) => Credential::Password(password.clone()),
            _ => proven,
        });
    }
    Account { login: ServerLogin::new(&user, passed), user }
}

fn rejected(visitor: &Visitor<'_>) -> PgError {
    let Visitor { user, database, address, is_tls } = visitor;
    let place = address.map_or("the Unix socket".to_owned(), |it| it.to_canonical().to_string());
    let tls = if *is_tls { "over TLS" } else { "without TLS" };
    PgError::new(
        sqlstate::INVALID_AUTHORIZATION,
        format!("no rule lets user {user:?} into database {database:?} from {place} {tls}"),
    )
    .hint("the proxy's configuration says in [[rule]] who may come from where")
}

/// A password is asked for in clear only where nobody else reads it, or where a rule says so.
fn check_cleartext(
    method: AuthMethod,
    rule: Option<&Rule>,
    visitor: &Visitor<'_>,
) -> Result<(), PgError> {
    let is_allowed = rule.is_some_and(|it| it.allow_cleartext) || visitor.is_private();
    match method {
        AuthMethod::Password if !is_allowed => Err(PgError::new(
            sqlstate::INVALID_AUTHORIZATION,
            "a password would cross the network in clear",
        )
        .hint("connect over TLS, or let a [[rule]] with allow_cleartext = true apply")),
        _ => Ok(()),
    }
}

async fn certified(
    proxy: &Proxy,
    client: &mut Client,
    rule: &Rule,
    user: Option<&User>,
    visitor: &Visitor<'_>,
) -> Result<Credential, PgError> {
    let shown = client.peer_certificate().and_then(|it| it.common_name);
    let is_right = shown.is_some_and(|it| rule.maps(&it, visitor.user));
    if is_right && user.is_some() {
        crate::wire::backend::authentication_ok(&mut client.out);
        return Ok(Credential::None);
    }
    proxy.failed_logins.count(Source::of(visitor.address));
    let error = format!("certificate authentication failed for user \"{}\"", visitor.user);
    Err(PgError::new(sqlstate::INVALID_AUTHORIZATION, error))
}

/// Asks for what the method wants. A failure is held back.
async fn exchange(
    proxy: &Proxy,
    cluster: &Cluster,
    client: &mut Client,
    visitor: &Visitor<'_>,
    (method, user): (AuthMethod, Option<&User>),
) -> Result<Credential, PgError> {
    let source = Source::of(visitor.address);
    let derived = cluster.verifiers.get(visitor.user).filter(|_| method == AuthMethod::ScramSha256);
    let secret = derived.or(user.map(|it| &it.secret));
    let random = random(proxy, iterations(cluster, visitor.database))?;
    let end_point = client.channel_binding();
    // Whoever has not proved anything yet gets little memory.
    let limit = std::mem::replace(&mut client.message_limit, MESSAGE_BYTES);
    let mut next = ServerExchange::start(method, visitor.user, secret, &random, end_point);
    loop {
        match next {
            Next::Failed(error) => return Err(error),
            Next::Done(frames, credential) => {
                client.out.extend_from_slice(&frames);
                client.message_limit = limit;
                return Ok(credential);
            }
            Next::Send(frames, exchange) => {
                client.out.extend_from_slice(&frames);
                client.flush(PATIENCE).await.map_err(|_| gone())?;
                let frame = password_frame(client).await?;
                let place = proxy.failed_logins.place(source).await;
                next = exchange.step(&frame);
                if matches!(next, Next::Failed(_)) {
                    forget(cluster, visitor);
                    let longest = cluster.config.limits.login_delay;
                    proxy.failed_logins.hold(source, place, longest).await;
                }
            }
        }
    }
}

/// What `auth_query` said of a user that fails may be out of date.
fn forget(cluster: &Cluster, visitor: &Visitor<'_>) {
    if let Some(database) = cluster.databases.get(visitor.database) {
        database.state.lookup.forget(visitor.user);
    }
}

/// SCRAM's rounds for users without a verifier: as many as those have who have one.
fn iterations(cluster: &Cluster, database: &str) -> u32 {
    match cluster.databases.get(database) {
        Some(it) if it.config.auth_query.is_some() => it.state.lookup.iterations(),
        _ => ITERATIONS,
    }
}

fn random(proxy: &Proxy, iterations: u32) -> Result<Random, PgError> {
    let key = proxy.salt_key;
    let mut random = Random { nonce: Default::default(), salt: [0; 4], key, iterations };
    let filled =
        getrandom::fill(&mut random.nonce).and_then(|()| getrandom::fill(&mut random.salt));
    filled.map_err(|error| PgError::new(sqlstate::INTERNAL_ERROR, error.to_string()))?;
    Ok(random)
}

async fn password_frame(client: &mut Client) -> Result<Bytes, PgError> {
    loop {
        match client.take_frame()? {
            Some((b'p', frame)) => return Ok(frame),
            Some((tag, _)) => {
                return Err(PgError::new(
                    sqlstate::PROTOCOL_VIOLATION,
                    format!("expected password response, got message type {tag}"),
                ));
            }
            None => match client.fill().await {
                Ok(0) | Err(_) => return Err(gone()),
                Ok(_) => (),
            },
        }
    }
}

fn gone() -> PgError {
    PgError::new(sqlstate::CONNECTION_FAILURE, "the client has gone")
}
