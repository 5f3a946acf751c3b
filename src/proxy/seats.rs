//! How many clients there are: in all, by user, database and address. Counted as they come and go, so
//! that a login looks at four numbers and not at every client.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Handle, Proxy};
use crate::config::{Database, Limits, User};
use crate::error::{PgError, sqlstate};
use crate::net::Peer;

/// The console takes so many clients beyond `limits.clients`, so that a full proxy can be looked at.
const CONSOLE: usize = 10;

/// The numbers.
#[derive(Debug, Default)]
pub struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    users: HashMap<Arc<str>, usize>,
    databases: HashMap<Arc<str>, usize>,
    addresses: HashMap<IpAddr, usize>,
}

/// The most of each kind: for SHOW LIMITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fullest {
    pub all: usize,
    pub user: usize,
    pub database: usize,
    pub address: usize,
}

/// A client's place from its start-up packet to its end; given back when dropped.
pub struct Seat {
    proxy: Arc<Proxy>,
    address: Option<IpAddr>,
    named: Option<(Arc<str>, Arc<str>)>,
    /// Under which it is registered.
    pid: Option<i32>,
}

impl Seats {
    /// The clients of one database.
    pub fn of_database(&self, name: &str) -> usize {
        self.0.lock().databases.get(name).copied().unwrap_or_default()
    }

    /// The present numbers.
    pub fn fullest(&self) -> Fullest {
        let taken = self.0.lock();
        Fullest {
            all: taken.all,
            user: taken.users.values().copied().max().unwrap_or_default(),
            database: taken.databases.values().copied().max().unwrap_or_default(),
            address: taken.addresses.values().copied().max().unwrap_or_default(),
        }
    }
}

impl Seat {
    /// A place for a client that has said what it wants and not yet proved who it is.
    ///
    /// # Errors
    /// 53300 at `limits.clients` or `limits.clients_per_address`.
    pub fn take(
        proxy: &Arc<Proxy>,
        peer: Peer,
        is_console: bool,
        limits: &Limits,
    ) -> Result<Self, PgError> {
        let address = match peer {
            Peer::Tcp(address) => Some(address.ip().to_canonical()),
            Peer::Unix { .. } => None,
        };
        let mut taken = proxy.seats.0.lock();
        let reserve = if is_console { CONSOLE } else { 0 };
        if taken.all >= limits.clients + reserve {
            return Err(full("too many clients already", &"limits.clients", limits.clients)
                .hint("close idle connections, or raise limits.clients"));
        }
        if let Some(address) = address {
            let limit = limits.clients_per_address.unwrap_or(usize::MAX);
            if !count(&mut taken.addresses, address, limit) {
                let message = format!("too many clients from {address} already");
                return Err(full(message, &"limits.clients_per_address", limit)
                    .hint("close idle connections there, or raise limits.clients_per_address"));
            }
        }
        taken.all += 1;
        drop(taken);
        Ok(Self { proxy: Arc::clone(proxy), address, named: None, pid: None })
    }

    /// The client has proved to be that user: its name and the database's, as all clients share them.
    /// The console's are not counted here.
    ///
    /// # Errors
    /// 53300 at `limits.clients_per_user` or `limits.clients_per_database`, or what the user or the
    /// database has in their place.
    pub fn name(
        &mut self,
        user: &User,
        database: &Database,
        limits: &Limits,
    ) -> Result<(Arc<str>, Arc<str>), PgError> {
        let of_user = user.clients.or(limits.clients_per_user).unwrap_or(usize::MAX);
        let of_database = database.clients.or(limits.clients_per_database).unwrap_or(usize::MAX);
        let mut taken = self.proxy.seats.0.lock();
        let names = (shared(&taken.users, &user.name), shared(&taken.databases, &database.name));
        if !count(&mut taken.users, Arc::clone(&names.0), of_user) {
            let message = format!("too many clients of user {:?} already", user.name);
            return Err(full(message, &"limits.clients_per_user", of_user).hint(
                "close idle connections, or raise limits.clients_per_user or the user's clients",
            ));
        }
        if !count(&mut taken.databases, Arc::clone(&names.1), of_database) {
            leave(&mut taken.users, &names.0);
            let message = format!("too many clients of database {:?} already", database.name);
            let hint = "close idle connections, or raise limits.clients_per_database or the \
                        database's clients";
            return Err(full(message, &"limits.clients_per_database", of_database).hint(hint));
        }
        drop(taken);
        self.named = Some(names.clone());
        Ok(names)
    }

    /// Shows the client to others, until the place is given back.
    pub fn register(&mut self, handle: &Arc<Handle>) {
        self.pid = Some(handle.pid);
        self.proxy.clients.insert(handle.pid, Arc::clone(handle));
        self.proxy.metrics.clients.inc();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            self.proxy.clients.remove(&pid);
            self.proxy.metrics.clients.dec();
        }
        let mut taken = self.proxy.seats.0.lock();
        taken.all -= 1;
        if let Some(address) = self.address {
            leave(&mut taken.addresses, &address);
        }
        if let Some((user, database)) = &self.named {
            leave(&mut taken.users, user);
            leave(&mut taken.databases, database);
        }
    }
}

/// The name as it is known already.
fn shared(taken: &HashMap<Arc<str>, usize>, name: &str) -> Arc<str> {
    taken.get_key_value(name).map_or_else(|| name.into(), |(known, _)| Arc::clone(known))
}

/// One more, unless there are `limit`.
fn count<K: Hash + Eq>(taken: &mut HashMap<K, usize>, who: K, limit: usize) -> bool {
    let number = taken.entry(who).or_default();
    let has_room = *number < limit;
    *number += usize::from(has_room);
    has_room
}

/// One less; whoever has none is forgotten.
fn leave<K: Hash + Eq + Clone>(taken: &mut HashMap<K, usize>, who: &K) {
    if let Entry::Occupied(mut number) = taken.entry(who.clone()) {
        *number.get_mut() -= 1;
        if *number.get() == 0 {
            number.remove();
        }
    }
}

fn full(message: impl Into<String>, key: &'static &'static str, limit: usize) -> PgError {
    PgError::limit(sqlstate::TOO_MANY_CONNECTIONS, message, key, limit)
}
