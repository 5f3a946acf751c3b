//! What is known of a shard's hosts, from snapshot to snapshot: what they said of themselves, who is the
//! primary, whether it seems to be lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::patroni::Leader;
use crate::balance::roles::{self, Roles, Sight, Word};
use crate::config::Host as Address;
use crate::error::{PgError, sqlstate};
use crate::shard::ShardId;

/// How long hosts are looked at often after a primary was lost.
const URGENT: Duration = Duration::from_secs(60);

/// One shard's hosts as they were last seen.
pub struct ShardState {
    pub shard: ShardId,
    known: Mutex<Known>,
    /// How often the primary seemed to be lost, and the last of these that a look at it has answered.
    alarms: AtomicU64,
    answered: AtomicU64,
    /// Whether the shard has other hosts, one of which may be the primary now.
    has_others: AtomicBool,
    /// PAUSE of this shard: nothing new is begun on its primary.
    is_paused: AtomicBool,
    /// Hosts are to be looked at now.
    pub alarm: Notify,
    /// Told when the primary may be had again.
    pub settled: Notify,
}

#[derive(Default)]
struct Known {
    /// As configured: the primary first.
    hosts: Vec<Address>,
    /// And at which alarm.
    sights: BTreeMap<Address, (Sight, u64)>,
    roles: Roles,
    word: Word,
    /// Whether Patroni is asked.
    asks: bool,
    /// Who leads according to Patroni and is none of the hosts.
    stranger: Option<String>,
    since: Option<Instant>,
}

/// A shard's hosts by their roles.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arranged {
    /// Who takes writes, or last did.
    pub primary: Address,
    pub has_primary: bool,
    pub replicas: Vec<Address>,
    /// And why.
    pub fenced: Vec<(Address, String)>,
}

impl ShardState {
    /// Nobody has looked yet.
    pub(super) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            known: Mutex::default(),
            alarms: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            has_others: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            alarm: Notify::new(),
            settled: Notify::new(),
        }
    }

    /// The hosts of a configuration by the roles found so far. Where other servers altogether are named
    /// than before, nothing is known of them.
    pub(super) fn arrange(&self, hosts: &[Address], asks: bool) -> Arranged {
        let mut known = self.known.lock();
        known.name(hosts, asks);
        self.has_others.store(hosts.len() > 1, Ordering::Relaxed);
        known.arranged()
    }

    /// Takes note of a look at a host that was begun at this alarm ([`Self::alarms`]); whether the roles
    /// have changed with it.
    pub fn note(&self, host: &Address, sight: Sight, alarm: u64) -> bool {
        let mut known = self.known.lock();
        if !known.hosts.contains(host) {
            return false;
        }
        known.sights.insert(host.clone(), (sight, alarm));
        let Some(now) = roles::decide(&known.seen(), &known.roles, known.word) else {
            return false;
        };
        let primary = now.primary.map(|it| known.hosts[it].clone());
        let before = known.arranged();
        known.roles = now;
        let changed = known.arranged() != before;
        let answered = primary.and_then(|it| known.sights.get(&it));
        let answered = answered.filter(|it| it.0 != Sight::Silent { is_down: true }).map(|it| it.1);
        let was_answered =
            answered.is_some_and(|it| self.answered.fetch_max(it, Ordering::AcqRel) < it);
        known.since = match self.is_unanswered() || known.roles.primary.is_none() {
            true => known.since.or_else(|| Some(Instant::now())),
            false => None,
        };
        drop(known);
        // After a change a new snapshot has to be made first; whoever does that tells.
        if was_answered && !changed {
            self.settled.notify_waiters();
        }
        changed
    }

    /// Takes note of whom Patroni calls the leader; whether the roles have changed with it.
    pub fn note_leader(&self, leader: &Leader) -> bool {
        let mut known = self.known.lock();
        let place = |host: &Address| known.hosts.iter().position(|it| it == host);
        let (word, stranger) = match leader {
            Leader::Unknown => (Word::Silent, None),
            Leader::Nobody(stranger) => (Word::Nobody, stranger.clone()),
            Leader::Host(host) => (place(host).map_or(Word::Nobody, Word::Leader), None),
        };
        if word == known.word && stranger == known.stranger {
            return false;
        }
        let shard = self.shard.0;
        tracing::info!(shard, ?leader, "Patroni tells who leads");
        (known.word, known.stranger) = (word, stranger);
        let Some(now) = roles::decide(&known.seen(), &known.roles, word) else { return false };
        let before = known.arranged();
        known.roles = now;
        known.since = match self.is_unanswered() || known.roles.primary.is_none() {
            true => known.since.or_else(|| Some(Instant::now())),
            false => None,
        };
        known.arranged() != before
    }

    /// The primary seems to be lost: hosts are looked at now, and nothing new is begun on it before.
    pub fn raise(&self) {
        self.alarms.fetch_add(1, Ordering::AcqRel);
        self.known.lock().since.get_or_insert_with(Instant::now);
        self.alarm.notify_waiters();
    }

    /// How often the primary seemed to be lost.
    pub fn alarms(&self) -> u64 {
        self.alarms.load(Ordering::Acquire)
    }

    /// Whether the primary seems to be lost and another host may have taken over.
    pub fn is_lost(&self) -> bool {
        self.is_unanswered() && self.has_others.load(Ordering::Relaxed)
    }

    fn is_unanswered(&self) -> bool {
        self.alarms.load(Ordering::Relaxed) != self.answered.load(Ordering::Relaxed)
    }

    /// Whether hosts are to be looked at often.
    pub fn is_urgent(&self) -> bool {
        let known = self.known.lock();
        let is_open = self.is_unanswered() || known.roles.primary.is_none();
        is_open && known.since.is_none_or(|it| it.elapsed() < URGENT)
    }

    /// Whether all hosts were looked at once, so that the primary is known as far as it can be.
    pub fn is_settled(&self) -> bool {
        self.known.lock().roles.is_settled
    }

    /// Whether nothing new is to be begun on the primary.
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    /// PAUSE and RESUME of this shard.
    pub fn set_paused(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Relaxed);
        self.settled.notify_waiters();
    }

    /// All is to be found out anew: whoever was fenced may be used if its next look is well.
    pub fn forget(&self) {
        let mut known = self.known.lock();
        known.sights.clear();
        known.roles = Roles { last: known.roles.last, ..Roles::default() };
        drop(known);
        self.raise();
    }

    /// The timeline the shard is on, as far as it is known.
    pub fn timeline(&self) -> Option<u32> {
        self.known.lock().roles.timeline
    }

    /// The timeline that a host has said it writes, or else the highest.
    pub fn line_of(&self, host: &Address) -> Option<u32> {
        let known = self.known.lock();
        match known.sights.get(host) {
            Some((Sight::Said(said), _)) if !said.in_recovery => said.timeline,
            _ => known.roles.timeline,
        }
    }

    /// What a client is told that cannot have the primary.
    pub fn error(&self, database: &str) -> PgError {
        let why = {
            let known = self.known.lock();
            match () {
                () if self.is_paused() => {
                    "it is paused: RESUME on the admin console ends that".into()
                }
                () if !known.roles.is_settled => "its hosts were not looked at yet".to_owned(),
                () => {
                    let mut each = known.each();
                    each.extend(known.verdict());
                    each.join("; ")
                }
            }
        };
        let error = PgError::new(
            sqlstate::CANNOT_CONNECT_NOW,
            format!("shard {} of database {database:?} has no primary now", self.shard),
        );
        error.detail(why).hint(HINT).passing()
    }
}

/// What to do without a primary.
const HINT: &str = "try again; SHOW SHARDS on the admin console tells the state of every host, promote a replica or start the primary";

impl Known {
    fn name(&mut self, hosts: &[Address], asks: bool) {
        if asks != self.asks || self.hosts != hosts {
            self.word = if asks { Word::Unasked } else { Word::Silent };
        }
        self.asks = asks;
        if self.hosts == hosts {
            return;
        }
        if !hosts.iter().any(|it| self.hosts.contains(it)) {
            let (word, asks) = (self.word, self.asks);
            *self = Self { word, asks, ..Self::default() };
        }
        // Only one that was found, not one that was merely written, is kept before what is written now.
        let primary = self.roles.primary.and_then(|it| self.hosts.get(it).cloned());
        let place = |it: &Address| hosts.iter().position(|host| host == it);
        let fenced = std::mem::take(&mut self.roles.fenced).into_iter();
        self.roles.fenced =
            fenced.filter_map(|(at, why)| Some((place(self.hosts.get(at)?)?, why))).collect();
        self.roles.primary = primary.as_ref().and_then(place);
        self.roles.named = None;
        self.roles.last = self.roles.primary.unwrap_or(0);
        self.sights.retain(|host, _| hosts.contains(host));
        if self.roles.primary.is_none() {
            self.roles.is_settled = false;
        }
        self.hosts = hosts.to_vec();
    }

    fn seen(&self) -> Vec<Sight> {
        let sight = |host| self.sights.get(host).map_or(Sight::Unseen, |it| it.0.clone());
        self.hosts.iter().map(sight).collect()
    }

    fn arranged(&self) -> Arranged {
        let roles = &self.roles;
        let is_alone = self.hosts.len() == 1;
        let other = |at: usize| at != roles.last && !roles.fenced.contains_key(&at);
        let replicas = (0..self.hosts.len()).filter(|at| other(*at));
        let fenced = roles.fenced.iter().filter(|(at, _)| **at != roles.last);
        Arranged {
            primary: self.hosts[roles.last].clone(),
            has_primary: roles.primary.is_some() || is_alone,
            replicas: replicas.map(|at| self.hosts[at].clone()).collect(),
            fenced: fenced.map(|(at, why)| (self.hosts[*at].clone(), why.clone())).collect(),
        }
    }

    /// What Patroni says, where that is no host.
    fn verdict(&self) -> Option<String> {
        let what = match (&self.word, &self.stranger) {
            (Word::Nobody, None) => "Patroni has no leader".to_owned(),
            (Word::Nobody, Some(it)) => {
                format!("Patroni's leader {it} is none of the configured hosts")
            }
            (Word::Leader(at), _) => format!("Patroni's leader is {}", self.hosts.get(*at)?),
            _ => return None,
        };
        Some(what)
    }

    /// What is known of each host.
    fn each(&self) -> Vec<String> {
        let tell = |(at, host): (usize, &Address)| {
            let what = match (self.roles.fenced.get(&at), self.sights.get(host)) {
                (Some(why), _) => why.as_str(),
                (None, Some((Sight::Said(it), _))) if it.in_recovery => "a replica",
                (None, Some((Sight::Said(_), _))) => "takes writes",
                (None, Some((Sight::Silent { .. }, _))) => "does not answer",
                (None, Some((Sight::Unseen, _)) | None) => "not looked at yet",
            };
            format!("{host}: {what}")
        };
        self.hosts.iter().enumerate().map(tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::roles::Said;
    use crate::config::HostTls;

    fn host(port: u16) -> Address {
        let (host, user, database) = ("127.0.0.1".into(), "app".into(), "app".into());
        Address { host, port, user, password: None, database, tls: HostTls::default() }
    }

    fn says(in_recovery: bool, timeline: u32) -> Sight {
        Sight::Said(Said { in_recovery, timeline: Some(timeline), ..Said::default() })
    }

    #[test]
    fn a_primary_that_seems_lost_takes_nothing_before_it_was_looked_at() {
        let (state, hosts) = (ShardState::new(ShardId(0)), [host(1), host(2)]);
        assert!(!state.arrange(&hosts, false).has_primary);
        assert!(!state.note(&hosts[0], says(false, 1), 0));
        assert!(
            state.note(&hosts[1], says(true, 1), 0) && state.arrange(&hosts, false).has_primary
        );
        state.raise();
        assert!(state.is_lost() && state.is_urgent());
        // A look that was begun before the alarm says nothing about it.
        assert!(!state.note(&hosts[0], says(false, 1), 0) && state.is_lost());
        assert!(!state.note(&hosts[0], Sight::Silent { is_down: true }, 1) && state.is_lost());
        assert!(state.note(&hosts[1], says(false, 2), 1) && !state.is_lost());
        let arranged = state.arrange(&hosts, false);
        assert_eq!((&arranged.primary, arranged.fenced.len()), (&hosts[1], 1));
    }

    #[test]
    fn roles_outlast_a_reload_that_names_the_hosts_again() {
        let (state, hosts) = (ShardState::new(ShardId(0)), [host(1), host(2)]);
        state.arrange(&hosts, false);
        state.note(&hosts[0], Sight::Silent { is_down: true }, 0);
        state.note(&hosts[1], says(false, 2), 0);
        let arranged = state.arrange(&[host(3), host(1), host(2)], false);
        assert_eq!((arranged.primary, arranged.has_primary), (host(2), true));
        assert_eq!((arranged.replicas, arranged.fenced.len()), (vec![host(3)], 1));
        let others = state.arrange(&[host(4), host(5)], false);
        assert_eq!((others.primary, others.has_primary), (host(4), false));
    }
}
