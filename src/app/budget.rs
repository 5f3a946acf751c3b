//! Proxies that share servers: each claims what its clients need and keeps to what it is granted.

mod ledger;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::{Ledger, periods};

use crate::balance::budget::{Claim, Foreign};
use crate::pool::Quota;
use crate::pool::budget::{self, Told};
use crate::pool::cluster::{Cluster, Database, Host};
use crate::pool::control::ControlError;
use crate::proxy::Proxy;

/// How often is looked at what clients need.
const SAMPLE: Duration = Duration::from_millis(100);
/// How often claims are renewed; less often where there are many proxies.
const RENEWAL: Duration = Duration::from_secs(1);
/// How soon they are renewed where somebody waits.
const HURRY: Duration = Duration::from_millis(250);
/// How long a table is left alone that cannot be used.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Where there are too few connections for all, how long one's turn lasts.
const TURN_SECONDS: u64 = 2;

/// Host and port, as the configuration says them.
type Place = (String, u16);

/// One database's servers.
struct Sharing {
    proxy: Arc<Proxy>,
    name: String,
    id: String,
    ledgers: HashMap<Place, Ledger>,
    renewed: Instant,
    /// Until when the table is left alone.
    rests: Option<Instant>,
    /// The problem that was told last.
    told: String,
}

/// Waits a little until it is known which servers others share.
pub(super) async fn first_look(proxy: &Proxy) {
    let cluster = proxy.cluster.load_full();
    let begun = Instant::now();
    let is_known = || cluster.quotas.values().all(|it| it.is_known());
    while cluster.config.pool.shares && !is_known() && begun.elapsed() < RENEWAL {
        tokio::time::sleep(SAMPLE / 10).await;
    }
}

/// Waits a little until what is no longer needed has been given back.
pub(super) async fn farewell(proxy: &Proxy) {
    let cluster = proxy.cluster.load_full();
    let begun = Instant::now();
    let has_claims = || cluster.quotas.values().any(|it| it.told().proxies > 0);
    while has_claims() && begun.elapsed() < RENEWAL {
        tokio::time::sleep(SAMPLE / 10).await;
    }
}

/// One task for each database; a reload's new ones get theirs.
pub(super) async fn share_servers(proxy: Arc<Proxy>) {
    let mut known = std::collections::HashSet::new();
    let mut random = [0; 8];
    if getrandom::fill(&mut random).is_err() {
        return;
    }
    let id = format!("{:016x}", u64::from_le_bytes(random));
    loop {
        for name in proxy.cluster.load().databases.keys() {
            if known.insert(name.clone()) {
                let (proxy, name, id) = (Arc::clone(&proxy), name.clone(), id.clone());
                tokio::spawn(Sharing::new(proxy, name, id).run());
            }
        }
        tokio::time::sleep(RENEWAL).await;
    }
}

impl Sharing {
    fn new(proxy: Arc<Proxy>, name: String, id: String) -> Self {
        Self {
            proxy,
            name,
            id,
            ledgers: HashMap::new(),
            renewed: Instant::now(),
            rests: None,
            told: String::new(),
        }
    }

    async fn run(mut self) {
        loop {
            let cluster = self.proxy.cluster.load_full();
            self.pass(&cluster).await;
            drop(cluster);
            tokio::time::sleep(SAMPLE).await;
        }
    }

    async fn pass(&mut self, cluster: &Cluster) {
        let database = cluster.databases.get(&self.name);
        if let Some(database) = database.filter(|it| it.state.sleep.is_asleep()) {
            self.give_back(cluster, database).await;
            return;
        }
        let places = if cluster.config.pool.shares { self.places(cluster) } else { Vec::new() };
        self.drop_gone(cluster, &places).await;
        let Some(database) = cluster.databases.get(&self.name) else { return };
        if !cluster.config.pool.shares {
            database.state.sleep.set_spare(false);
            database.hosts().for_each(|it| it.control.set_in_crowd(false));
            // What a database kept that slept, or was taken out.
            for (_, quota) in cluster.quotas.iter().filter(|(place, _)| uses(database, place)) {
                quota.set_budget(None);
                quota.tell(Told::default());
            }
            return;
        }
        let (mut is_hurried, mut is_new) = (self.proxy.is_draining(), false);
        for (place, quota) in &places {
            let member = self.member(place);
            let ledger = self.ledgers.entry(place.clone()).or_insert_with(Ledger::new);
            ledger.sample(quota.needed());
            is_hurried |= ledger.is_in_the_way(&member);
            is_hurried |= ledger.is_shared && quota.waiting() > 0;
            is_new |= ledger.look.is_none();
            is_hurried |= ledger.is_stale;
            if quota.needed() > 0 || clients(&self.proxy, cluster, place) > 0 {
                ledger.needed = Some(Instant::now());
            } else if self.proxy.is_draining() {
                ledger.needed = None;
            }
        }
        let most = self.ledgers.values().map(|it| it.claims.len()).max().unwrap_or(0);
        let every = match is_hurried {
            true => HURRY,
            false => RENEWAL,
        };
        let every = every * u32::try_from(periods(most)).unwrap_or(1);
        if !is_new && self.renewed.elapsed() < every {
            return;
        }
        self.renewed = Instant::now();
        for (place, quota) in &places {
            self.look(cluster, database, place, quota).await;
        }
        database.state.sleep.set_spare(self.ledgers.values().any(|it| it.may_leave));
        let is_resting = self.rests.is_some_and(|it| Instant::now() < it);
        if !is_resting && let Err(error) = self.renew(cluster, database, &places).await {
            self.fail(&places, &error);
        }
        places.iter().for_each(|(_, quota)| quota.note_known());
    }

    /// Who sleeps has no part in anything, and asks for one when it wakes. A login may need a connection before.
    async fn give_back(&mut self, cluster: &Cluster, database: &Database) {
        self.rests = None;
        for (place, ledger) in std::mem::take(&mut self.ledgers) {
            let is_awake = |it: &Arc<Database>| !it.state.sleep.is_asleep() && uses(it, &place);
            let is_used = cluster.databases.values().any(is_awake);
            let quota = cluster.quotas.get(&place).filter(|_| ledger.is_shared && !is_used);
            if let Some(quota) = quota {
                quota.set_budget(Some(1));
                quota.tell(Told::default());
            }
            if !ledger.claims.is_empty() {
                // If it cannot be said, the claim ends by itself.
                let member = self.member(&place);
                let leaving = budget::leave(&database.home().primary.control, &member);
                let _ = tokio::time::timeout(HURRY, leaving).await;
            }
        }
    }

    /// The servers that this database answers for: where others use them too, one of them does.
    fn places(&self, cluster: &Cluster) -> Vec<(Place, Arc<Quota>)> {
        let of = |place: &Place| {
            // Who sleeps renews nothing.
            let is_awake = |it: &Database| !it.state.sleep.is_asleep();
            let uses = cluster.databases.iter().filter(|(_, it)| is_awake(it) && uses(it, place));
            let home = |it: &Database| place_of(&it.home().primary) != *place;
            uses.min_by_key(|(name, it)| (home(it), (*name).clone())).map(|(name, _)| name)
        };
        let own = cluster.quotas.iter().filter(|(place, _)| of(place) == Some(&self.name));
        own.map(|(place, quota)| (place.clone(), Arc::clone(quota))).collect()
    }

    /// What the configuration no longer names is no longer shared.
    async fn drop_gone(&mut self, cluster: &Cluster, places: &[(Place, Arc<Quota>)]) {
        let is_gone = |it: &Place| !places.iter().any(|(place, _)| place == it);
        let gone: Vec<Place> = self.ledgers.keys().filter(|it| is_gone(it)).cloned().collect();
        for place in gone {
            if let Some(quota) = cluster.quotas.get(&place) {
                quota.set_budget(None);
                quota.tell(Told::default());
            }
            let was_shared = self.ledgers.remove(&place).is_some_and(|it| it.is_shared);
            if let (true, Some(database)) = (was_shared, cluster.databases.get(&self.name)) {
                let control = &database.home().primary.control;
                let _ = budget::leave(control, &self.member(&place)).await;
            }
        }
    }

    fn member(&self, place: &Place) -> String {
        format!("{} {}:{}", self.id, place.0, place.1)
    }

    /// Asks a server, unless it was asked just now or nobody needs it.
    async fn look(&mut self, cluster: &Cluster, database: &Database, place: &Place, quota: &Quota) {
        let member = self.member(place);
        let Some(ledger) = self.ledgers.get_mut(place) else { return };
        if !ledger.must_look() || ledger.is_asleep(quota) {
            return;
        }
        let mut hosts = database.hosts().filter(|it| place_of(it) == *place);
        let Some(host) = hosts.find(|it| it.health.is_up()) else { return };
        match budget::look(&host.control, &self.id).await {
            Ok(look) => {
                let is_crowded = look.is_crowded();
                hosts_at(cluster, place).for_each(|it| it.control.set_in_crowd(is_crowded));
                ledger.may_leave = look.may_leave(&self.id);
                ledger.note(look, quota.open(), &member);
            }
            Err(error) => {
                tracing::debug!(%error, "a server did not say what it has");
                if quota.budget() == Some(0) {
                    quota.set_budget(None);
                }
            }
        }
    }

    async fn renew(
        &mut self,
        cluster: &Cluster,
        database: &Database,
        places: &[(Place, Arc<Quota>)],
    ) -> Result<(), ControlError> {
        let control = &database.home().primary.control;
        let reserve = cluster.config.pool.budget_reserve;
        let (mut wishes, mut asking) = (Vec::new(), Vec::new());
        for (place, quota) in places {
            let member = self.member(place);
            let Some(ledger) = self.ledgers.get_mut(place) else { continue };
            if ledger.is_shared && ledger.is_asleep(quota) {
                quota.set_budget(Some(0));
                if quota.open() == 0 && !ledger.claims.is_empty() {
                    budget::leave(control, &member).await?;
                    ledger.claims.clear();
                    ledger.look = None;
                    quota.tell(Told::default());
                }
                continue;
            }
            if !ledger.is_shared && ledger.look.is_none() && !ledger.is_overdue() {
                continue;
            }
            if !ledger.is_shared {
                quota.set_budget(None);
                quota.tell(Told::default());
                if !std::mem::take(&mut ledger.claims).is_empty() {
                    budget::leave(control, &member).await?;
                }
                continue;
            }
            let Some((_, look)) = &ledger.look else { continue };
            wishes.push(ledger.wish(quota, &member, (look.server.clone(), reserve)));
            asking.push((place, quota));
        }
        if wishes.is_empty() {
            return Ok(());
        }
        if self.ledgers.values().all(|it| it.claims.is_empty()) {
            budget::prepare(control).await?;
        }
        let (seconds, claims) = budget::renew(control, &wishes).await?;
        self.rests = None;
        self.told.clear();
        for (wish, (place, quota)) in wishes.iter().zip(asking) {
            let Some(ledger) = self.ledgers.get_mut(place) else { continue };
            let of = claims.iter().filter(|(server, _)| *server == wish.server);
            let claims: Vec<Claim> = of.map(|(_, it)| it.clone()).collect();
            if claims.len() != ledger.claims.len() {
                // What seemed to be others' was theirs, or the other way round.
                (ledger.foreign, ledger.is_stale) = (Foreign::default(), true);
            }
            ledger.claims = claims;
            ledger.turn = seconds / (TURN_SECONDS * periods(ledger.claims.len()) as u64);
            let own = ledger.claims.iter().find(|it| it.member == wish.claim.member);
            quota.set_budget(own.map(|it| it.granted));
            let told = Told {
                proxies: ledger.claims.len(),
                room: wish.room,
                foreign: ledger.foreign.count(),
                demand: wish.claim.demand,
                problem: String::new(),
            };
            let metrics = &self.proxy.metrics;
            metrics.budget(&format!("{}:{}", place.0, place.1), &told.numbers(quota.budget()));
            quota.tell(told);
        }
        Ok(())
    }

    /// Goes without: servers that are full still make clients wait.
    fn fail(&mut self, places: &[(Place, Arc<Quota>)], error: &ControlError) {
        let text = error.to_string();
        if self.told != text {
            let database = &self.name;
            tracing::warn!(database, %error, "proxies cannot agree on the servers' connections");
            self.told.clone_from(&text);
        }
        for (place, quota) in places {
            let has_claims = self.ledgers.get(place).is_some_and(|it| !it.claims.is_empty());
            // What was granted holds on. Nobody else takes it while its lease lasts, nor what is in use after.
            if !has_claims || quota.budget() == Some(0) {
                quota.set_budget(None);
            }
            quota.tell(Told { problem: text.clone(), ..quota.told() });
        }
        if self.ledgers.values().all(|it| it.claims.is_empty()) {
            self.rests = Some(Instant::now() + GIVE_UP);
        }
    }
}

fn place_of(host: &Host) -> Place {
    (host.address.host.clone(), host.address.port)
}

fn hosts_at<'a>(cluster: &'a Cluster, place: &'a Place) -> impl Iterator<Item = &'a Arc<Host>> {
    cluster.hosts().filter(|it| place_of(it) == *place)
}

fn uses(database: &Database, place: &Place) -> bool {
    database.hosts().any(|it| place_of(it) == *place)
}

/// Clients of the databases that use a server.
fn clients(proxy: &Proxy, cluster: &Cluster, place: &Place) -> usize {
    let of = cluster.databases.iter().filter(|(_, it)| uses(it, place));
    of.map(|(name, _)| proxy.seats.of_database(name)).sum()
}
