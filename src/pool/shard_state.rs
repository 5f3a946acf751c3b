//! What is known of a shard's hosts, from snapshot to snapshot: what they said of themselves, who is the
//! primary, whether it seems to be lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::patroni::{Leader, Topology};
use crate::balance::roles::{self, Roles, Sight, Word};
use crate::config::Host as Address;
use crate::error::{PgError, sqlstate};
use crate::shard::ShardId;

/// How long hosts are looked at often after a primary was lost.
const URGENT: Duration = Duration::from_secs(60);
/// How long a member stays a host that Patroni does not list any more: it may only have been restarted, or
/// hang and take writes.
const UNLISTED: Duration = Duration::from_secs(60);

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
    /// Those of the hosts, behind the others, that only Patroni has named, and when it last did.
    joined: Vec<(Address, Instant)>,
    /// Members that are no hosts.
    strangers: Vec<Address>,
    /// Why Patroni says nothing.
    silence: String,
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
        self.has_others.store(asks || hosts.len() > 1, Ordering::Relaxed);
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

    /// Takes note of what Patroni says, or why it says nothing, and whether members that are not written join
    /// the shard; whether the hosts or their roles have changed with it.
    pub fn note_topology(&self, said: &Result<Topology, String>, joins: bool) -> bool {
        let mut known = self.known.lock();
        let before = known.arranged();
        if let Ok(said) = said {
            known.note_members(&said.strangers, joins, Instant::now(), self.shard);
        }
        known.silence = said.as_ref().err().cloned().unwrap_or_default();
        let place = |host: &Address| known.hosts.iter().position(|it| it == host);
        let word = match said.as_ref().map(|it| &it.leader) {
            Err(_) => Word::Silent,
            Ok(Leader::Nobody) => Word::Nobody,
            Ok(Leader::Host(host)) => place(host).map_or(Word::Nobody, Word::Leader),
        };
        if word != known.word {
            let shard = self.shard.0;
            match said {
                Ok(said) => tracing::info!(shard, leader = ?said.leader, "Patroni tells who leads"),
                Err(why) => tracing::warn!(shard, why, "Patroni does not answer: servers decide"),
            }
            known.word = word;
            if let Some(now) = roles::decide(&known.seen(), &known.roles, word) {
                known.roles = now;
                known.since = match self.is_unanswered() || known.roles.primary.is_none() {
                    true => known.since.or_else(|| Some(Instant::now())),
                    false => None,
                };
            }
        }
        known.arranged() != before
    }

    /// Whether only Patroni has named this host.
    pub fn has_joined(&self, host: &Address) -> bool {
        self.known.lock().joined.iter().any(|it| it.0 == *host)
    }

    /// What is wrong between Patroni and the configuration.
    pub fn patroni_problem(&self) -> Option<String> {
        let known = self.known.lock();
        match known.word {
            Word::Silent | Word::Nobody => known.verdict(),
            Word::Absent | Word::Unasked | Word::Leader(_) => {
                let members = known.strangers();
                let told = || format!("not used, though Patroni lists it: {members}");
                (!members.is_empty()).then(told)
            }
        }
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
    /// Takes the hosts that are written, and keeps those that have joined them.
    fn name(&mut self, written: &[Address], asks: bool) {
        if asks != self.asks {
            self.word = if asks { Word::Unasked } else { Word::Absent };
        }
        let is_other = !written.iter().any(|it| self.written().contains(it));
        if !asks || is_other {
            self.joined.clear();
            self.strangers.clear();
        }
        self.asks = asks;
        self.joined.retain(|it| !written.contains(&it.0));
        let joined = self.joined.iter().map(|it| it.0.clone());
        self.rename(&written.iter().cloned().chain(joined).collect::<Vec<_>>());
    }

    fn written(&self) -> &[Address] {
        &self.hosts[..self.hosts.len() - self.joined.len()]
    }

    /// Takes note of members that are not written.
    fn note_members(&mut self, listed: &[Address], joins: bool, now: Instant, shard: ShardId) {
        let strangers = if joins { &[] } else { listed };
        for member in strangers.iter().filter(|it| !self.strangers.contains(it)) {
            let (shard, member) = (shard.0, member.to_string());
            tracing::warn!(
                shard,
                member,
                "Patroni lists a member that is not in the configuration"
            );
        }
        self.strangers = strangers.to_vec();
        let written = self.written().to_vec();
        let last = self.hosts.get(self.roles.last).cloned();
        for member in listed.iter().filter(|it| joins && !written.contains(it)) {
            match self.joined.iter_mut().find(|it| it.0 == *member) {
                Some((_, listed)) => *listed = now,
                None => {
                    let (shard, member_name) = (shard.0, member.to_string());
                    tracing::info!(shard, member = member_name, "a member of Patroni's joins");
                    self.joined.push((member.clone(), now));
                }
            }
        }
        // Who was the primary stays: it is known for what it is when it comes back.
        self.joined.retain(|(host, listed)| {
            let stays = joins && (last.as_ref() == Some(host) || now - *listed < UNLISTED);
            if !stays {
                let (shard, member) = (shard.0, host.to_string());
                tracing::info!(shard, member, "a member is not listed by Patroni any more");
            }
            stays
        });
        let joined = self.joined.iter().map(|it| it.0.clone());
        self.rename(&written.into_iter().chain(joined).collect::<Vec<_>>());
    }

    /// The roles stay with the hosts that have them.
    fn rename(&mut self, hosts: &[Address]) {
        if self.hosts == hosts {
            return;
        }
        self.word = if self.asks { Word::Unasked } else { Word::Absent };
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
        let is_alone = self.hosts.len() == 1 && !self.asks;
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

    /// What Patroni says.
    fn verdict(&self) -> Option<String> {
        let what = match (&self.word, self.strangers()) {
            (Word::Silent, _) => format!("Patroni does not answer: {}", self.silence),
            (Word::Nobody, members) if members.is_empty() => "Patroni has no leader".to_owned(),
            (Word::Nobody, members) => {
                format!("Patroni's leader is none of the configured hosts, which lack {members}")
            }
            (Word::Leader(at), _) => format!("Patroni's leader is {}", self.hosts.get(*at)?),
            (Word::Absent | Word::Unasked, _) => return None,
        };
        Some(what)
    }

    fn strangers(&self) -> String {
        let members: Vec<String> = self.strangers.iter().map(ToString::to_string).collect();
        members.join(", ")
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

    fn leads(leader: Address) -> Result<Topology, String> {
        Ok(Topology { leader: Leader::Host(leader.clone()), strangers: vec![leader] })
    }

    #[test]
    fn members_join_and_may_lead() {
        let (state, hosts) = (ShardState::new(ShardId(0)), [host(1)]);
        // The only one that is written is no primary before Patroni says so, and none that it does not name.
        assert!(!state.arrange(&hosts, true).has_primary);
        assert!(!state.note(&hosts[0], says(false, 1), 0));
        assert!(state.note_topology(&leads(host(2)), true));
        let arranged = state.arrange(&hosts, true);
        assert_eq!((arranged.has_primary, arranged.replicas), (false, vec![host(2)]));
        assert!(state.has_joined(&host(2)) && !state.has_joined(&host(1)));
        assert!(state.note(&host(2), says(false, 2), 0));
        let arranged = state.arrange(&hosts, true);
        assert_eq!((&arranged.primary, arranged.has_primary), (&host(2), true));
        assert_eq!(arranged.fenced.len(), 1);
        // While Patroni is silent, and when it is written, it stays what it is.
        assert!(!state.note_topology(&Err("no answer".to_owned()), true));
        assert_eq!(state.arrange(&[host(1), host(2)], true), arranged);
        assert!(!state.has_joined(&host(2)) && state.is_settled());
        // Where they are not to join it is told who would.
        assert_eq!(state.patroni_problem().as_deref(), Some("Patroni does not answer: no answer"));
        assert!(state.note_topology(&leads(host(3)), false) && !state.has_joined(&host(3)));
        assert!(!state.arrange(&[host(1), host(2)], true).has_primary);
        let detail = state.error("app").detail.unwrap_or_default();
        assert!(
            detail.contains("none of the configured hosts, which lack 127.0.0.1:3"),
            "{detail}"
        );
    }

    #[test]
    fn a_member_that_is_not_listed_goes_unless_it_led() {
        let (mut known, start, id) = (Known::default(), Instant::now(), ShardId(0));
        known.name(&[host(1)], true);
        let listed = [host(2), host(3)];
        known.note_members(&listed, true, start, id);
        assert_eq!(known.hosts, [host(1), host(2), host(3)]);
        known.roles = Roles { primary: Some(2), last: 2, is_settled: true, ..Roles::default() };
        known.note_members(&[], true, start + UNLISTED / 2, id);
        assert_eq!(known.hosts.len(), 3);
        known.note_members(&[], true, start + UNLISTED, id);
        assert_eq!(known.hosts, [host(1), host(3)]);
        assert_eq!((known.roles.primary, known.roles.last), (Some(1), 1));
        known.note_members(&listed, false, start + UNLISTED, id);
        assert_eq!((known.hosts.as_slice(), known.roles.primary), ([host(1)].as_slice(), None));
    }
}
