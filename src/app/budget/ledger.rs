//! What is known of one server that proxies may share, and what is claimed of it.

use std::time::{Duration, Instant};

use crate::balance::budget::{Claim, Demand, Foreign, Seats, room, share};
use crate::pool::Quota;
use crate::pool::budget::{Look, Lost, Wish};

/// How often servers are asked what they have.
const LOOK: Duration = Duration::from_secs(2);
/// Without clients for so long, everything is given back.
const LINGER: Duration = Duration::from_secs(10);

/// How long a server may take to say what it has, before this proxy goes without.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where there are too few connections, they are given back after so many looks at which nobody needed one.
const IDLE: u32 = 2;

/// So many proxies may renew their claims in each second.
const RENEWALS: usize = 50;

/// How many times longer than usual it takes until each of so many proxies renews its claim.
pub(super) fn periods(proxies: usize) -> usize {
    proxies / RENEWALS + 1
}

/// What is known of one server.
pub(super) struct Ledger {
    pub(super) look: Option<(Instant, Look)>,
    /// The next look cannot wait.
    pub(super) is_stale: bool,
    pub(super) foreign: Foreign,
    lost: Lost,
    pub(super) demand: Demand,
    /// The most that was needed since the last renewal.
    peak: usize,
    /// For how many looks at the clients in a row none of them has needed anything.
    idle: u32,
    pub(super) claims: Vec<Claim>,
    /// Whether there are more proxies than connections.
    is_scarce: bool,
    pub(super) turn: u64,
    pub(super) is_shared: bool,
    /// Whether others look after the database on it while nobody here needs it.
    pub(super) may_leave: bool,
    begun: Instant,
    /// When it was needed last, unless the proxy goes down.
    pub(super) needed: Option<Instant>,
}

impl Ledger {
    /// Of a server that was not asked yet.
    pub(super) fn new() -> Self {
        Self {
            look: None,
            is_stale: false,
            foreign: Foreign::default(),
            lost: Lost::default(),
            demand: Demand::default(),
            peak: 0,
            idle: 0,
            claims: Vec::new(),
            is_scarce: false,
            turn: 0,
            is_shared: false,
            may_leave: false,
            begun: Instant::now(),
            needed: Some(Instant::now()),
        }
    }

    /// What the server has, as it said last.
    fn seats(&self) -> Seats {
        self.look.as_ref().map(|(_, it)| it.seats).unwrap_or_default()
    }

    /// Whether the server is to be asked again.
    pub(super) fn must_look(&self) -> bool {
        self.is_stale || self.look.as_ref().is_none_or(|(at, _)| at.elapsed() >= LOOK)
    }

    /// Notes what the server has said, while this proxy has `own` connections.
    pub(super) fn note(&mut self, look: Look, own: usize, member: &str) {
        if self.look.as_ref().is_some_and(|(_, it)| it.server != look.server) {
            // It was started anew: nobody has a connection any more.
            (self.claims, self.foreign) = (Vec::new(), Foreign::default());
        }
        self.count(&look, own, member);
        self.is_shared = look.has_others || self.claims.len() > 1;
        (self.look, self.is_stale) = (Some((Instant::now(), look)), false);
    }

    /// Counts the connections that no living proxy has pooled. Those of a lost proxy may end at any moment, or
    /// last as long as a statement: what is more than before it was lost is taken for theirs.
    fn count(&mut self, look: &Look, own: usize, member: &str) {
        let lives = |it: &Claim| {
            let id = it.member.split(' ').next().unwrap_or_default();
            it.member == member || look.present.iter().any(|present| present == id)
        };
        let others = self.claims.iter().filter(|it| it.member != member && lives(it));
        let held = own + others.map(|it| it.held).sum::<usize>();
        let lost = self.claims.iter().filter(|it| !lives(it));
        self.lost = Lost {
            members: lost.map(|it| it.member.clone()).collect(),
            left: look.seats.taken.saturating_sub(held + self.foreign.usual()),
            grace_seconds: 2 * periods(self.claims.len()) + 1,
        };
        if self.lost.members.is_empty() || self.foreign.is_unknown() {
            self.foreign.note(look.seats, held);
        }
    }

    /// Whether the server should have said by now what it has.
    pub(super) fn is_overdue(&self) -> bool {
        self.begun.elapsed() >= PATIENCE
    }

    /// Looks at what clients need now.
    pub(super) fn sample(&mut self, needed: usize) {
        self.peak = self.peak.max(needed);
        self.idle = if needed == 0 { self.idle.saturating_add(1) } else { 0 };
    }

    /// Whether others lack what this proxy has claimed, and does not need any more.
    pub(super) fn is_in_the_way(&self, member: &str) -> bool {
        let has_claimed = || self.claims.iter().any(|it| it.member == member && it.demand > 0);
        self.is_scarce && self.idle >= IDLE && has_claimed()
    }

    /// What is claimed now. A smaller part is kept to before others hear of it.
    pub(super) fn wish(
        &mut self,
        quota: &Quota,
        member: &str,
        (server, reserve): (String, usize),
    ) -> Wish {
        let room = room(self.seats(), reserve, self.foreign.count());
        self.is_scarce = room < self.claims.len();
        let peak = std::mem::take(&mut self.peak);
        let demand = match self.is_scarce && self.idle >= IDLE {
            // Whoever comes again waits a moment.
            true => self.demand.forget(),
            false => self.demand.note(peak),
        };
        let mut claims = self.claims.clone();
        claims.retain(|it| it.member != member);
        let mut claim = Claim { member: member.to_owned(), demand, held: 0, granted: 0 };
        claims.push(claim.clone());
        // Who has had no limit keeps what there is, until all have said what they have.
        let is_first = self.claims.is_empty();
        let wanted = match is_first {
            true => quota.open().max(1),
            false => share(room, &claims, member, self.turn),
        };
        let before = quota.budget().unwrap_or_else(|| quota.open());
        claim.granted = before.min(wanted);
        quota.set_budget(Some(claim.granted));
        claim.held = quota.open();
        Wish { server, claim, wanted, room, lost: self.lost.clone() }
    }

    /// Whether nobody has needed it for a while.
    pub(super) fn is_asleep(&self, quota: &Quota) -> bool {
        self.needed.is_none_or(|it| it.elapsed() >= LINGER) && quota.needed() == 0
    }
}
