//! `auth_query`: users that only the servers know, asked for on the home shard and kept for a moment.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::Semaphore;

use super::cluster::Database;
use super::control::LookError;
use super::login::found;
use crate::auth::Secret;
use crate::auth::scram::{ITERATIONS, Verifier};
use crate::config::User;

/// Names that are kept, found or not.
const NAMES: usize = 10_000;
/// Names on a server are shorter.
const NAME_BYTES: usize = 64;
/// A user that fails is asked for again, but not within this.
const FRESH: Duration = Duration::from_secs(1);

/// What `auth_query` has answered of late.
pub struct Lookup {
    /// `None`: there is no such user.
    known: DashMap<String, (Option<Secret>, Instant)>,
    /// One query at a time: the control plane has other work.
    turn: Semaphore,
    /// Rounds of the verifier seen last: users that do not exist show as many.
    iterations: AtomicU32,
}

impl Default for Lookup {
    fn default() -> Self {
        let iterations = AtomicU32::new(ITERATIONS);
        Self { known: DashMap::new(), turn: Semaphore::new(1), iterations }
    }
}

impl Lookup {
    /// The user of a name, if the database's `auth_query` knows one; without a query nobody.
    ///
    /// # Errors
    /// If the query cannot be run, or gives something else than a name and a password.
    pub async fn find(&self, database: &Database, name: &str) -> Result<Option<User>, LookError> {
        let config = &database.config;
        let Some(sql) = &config.auth_query else { return Ok(None) };
        if name.len() >= NAME_BYTES {
            return Ok(None);
        }
        let user = |secret: Option<Secret>| Some(found(name, secret?, config.server_auth));
        if let Some(secret) = self.kept(name, config.auth_cache) {
            return Ok(user(secret));
        }
        let _turn = self.turn.acquire().await;
        // Whoever was first may have asked for the same name.
        if let Some(secret) = self.kept(name, config.auth_cache) {
            return Ok(user(secret));
        }
        let secret = ask(database, sql, name).await?;
        self.keep(name, secret.clone(), config.auth_cache);
        Ok(user(secret))
    }

    /// The user has failed to log in: its password may be a new one.
    pub fn forget(&self, name: &str) {
        self.known.remove_if(name, |_, (_, at)| at.elapsed() > FRESH);
    }

    /// Rounds that a user without a verifier shows.
    pub fn iterations(&self) -> u32 {
        self.iterations.load(Ordering::Relaxed)
    }

    fn kept(&self, name: &str, time: Duration) -> Option<Option<Secret>> {
        let entry = self.known.get(name)?;
        (entry.1.elapsed() < time).then(|| entry.0.clone())
    }

    fn keep(&self, name: &str, secret: Option<Secret>, time: Duration) {
        if let Some(Secret::Verifier(text)) = &secret
            && let Ok(verifier) = text.parse::<Verifier>()
        {
            self.iterations.store(verifier.iterations(), Ordering::Relaxed);
        }
        if self.known.len() >= NAMES {
            self.known.retain(|_, (_, at)| at.elapsed() < time);
        }
        if self.known.len() < NAMES && !time.is_zero() {
            self.known.insert(name.to_owned(), (secret, Instant::now()));
        }
    }
}

/// Replicas know the same, for when the primary is away.
async fn ask(database: &Database, sql: &str, name: &str) -> Result<Option<Secret>, LookError> {
    let home = database.home();
    let mut answer = home.primary.control.row(sql, name).await;
    for replica in &home.replicas {
        if !matches!(answer, Err(LookError::Down(_))) {
            break;
        }
        answer = replica.control.row(sql, name).await;
    }
    let Some(row) = answer? else { return Ok(None) };
    let [found, password] = row.as_slice() else {
        return Err(LookError::Other(format!("{} columns, not name and password", row.len())));
    };
    if found.as_deref() != Some(name) {
        let why = "the first column is not the name that was asked for";
        return Err(LookError::Other(why.into()));
    }
    Ok(Some(match password {
        Some(text) if !text.is_empty() => Secret::of_text(text.clone()),
        _ => Secret::None,
    }))
}
