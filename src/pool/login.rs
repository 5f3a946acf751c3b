//! As whom a client's statements run on servers, which is whose pools it uses.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::{Host as Address, Secret, ServerAuth, User};
use crate::server::{PassedThrough, Target};

/// Accounts that are kept for sharing; beyond it, those nobody uses are dropped.
const ACCOUNTS: usize = 10_000;

/// A client that has proved who it is, and its account on servers.
#[derive(PartialEq)]
pub struct Account {
    pub user: User,
    pub login: ServerLogin,
}

/// Accounts by user: one object for all clients of a user.
#[derive(Default)]
pub struct Accounts(Mutex<HashMap<String, Arc<Account>>>);

impl Accounts {
    /// The one object that is like this account.
    pub fn share(&self, account: Account) -> Arc<Account> {
        let mut known = self.0.lock();
        if let Some(same) = known.get(&account.user.name).filter(|it| ***it == account) {
            return Arc::clone(same);
        }
        if known.len() >= ACCOUNTS {
            known.retain(|_, it| Arc::strong_count(it) > 1);
        }
        let account = Arc::new(account);
        known.insert(account.user.name.clone(), Arc::clone(&account));
        account
    }
}

impl PartialEq for ServerLogin {
    fn eq(&self, other: &Self) -> bool {
        let same_passed = match (&self.passed, &other.passed) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        same_passed && self.key == other.key
    }
}

/// A client's account on servers. Clients of one name share connections only if all of it is equal.
#[derive(Clone)]
pub struct ServerLogin {
    /// The pools' key.
    pub(super) key: Arc<str>,
    passed: Option<Arc<PassedThrough>>,
}

impl ServerLogin {
    /// Of a user; `passed` is where what it proves is kept, if that logs in to servers.
    pub fn new(user: &User, passed: Option<Arc<PassedThrough>>) -> Self {
        let key = match (&passed, &user.server_user) {
            (Some(_), _) => format!("{}\0", user.name),
            (None, None) => user.name.clone(),
            (None, Some(server_user)) => {
                // A password that a reload has changed means other connections.
                let mut hash = DefaultHasher::new();
                user.server_password.hash(&mut hash);
                format!("{}\0{server_user}\0{:x}", user.name, hash.finish())
            }
        };
        Self { key: key.into(), passed }
    }

    /// The user's name on a server.
    pub fn name<'a>(&self, user: &'a User, address: &'a Address) -> &'a str {
        match (&self.passed, &user.server_user) {
            (Some(_), _) => &user.name,
            (None, Some(server_user)) => server_user,
            (None, None) => &address.user,
        }
    }

    /// Where and as whom connections of `database` to a server are made.
    pub(super) fn target(&self, user: &User, database: &str, address: &Address) -> Target {
        let mut host = address.clone();
        host.user = self.name(user, address).to_owned();
        match (&self.passed, &user.server_user) {
            (Some(_), _) => host.password = None,
            (None, Some(_)) => host.password.clone_from(&user.server_password),
            (None, None) => (),
        }
        let passed = self.passed.clone();
        Target { client_user: user.name.clone(), database: database.to_owned(), host, passed }
    }
}

/// Whether what the user proves logs in to servers.
pub fn passes_through(user: &User) -> bool {
    user.server_auth == ServerAuth::PassThrough
}

/// A user that `auth_query` found.
pub(super) fn found(name: &str, secret: Secret, server_auth: ServerAuth) -> User {
    let auth = match secret {
        Secret::Md5(_) => crate::auth::AuthMethod::Md5,
        _ => crate::auth::AuthMethod::ScramSha256,
    };
    let name = name.to_owned();
    User {
        name,
        secret,
        auth,
        admin: false,
        clients: None,
        replication: false,
        server_user: None,
        server_password: None,
        server_auth,
    }
}
