//! This proxy in its fleet: the thread that speaks with Redis, and what sessions ask it.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::NOTICE;
use super::channel::{Channel, Ledger, Outgoing};
use super::peers::PeerState;
use super::redis::Connection;
use crate::config::Redis;
use crate::metrics::FleetMetrics;

/// How often it is looked whether there is something to say.
const TICK: Duration = Duration::from_millis(50);
/// Between two attempts to connect.
const REST: Duration = Duration::from_millis(250);
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_millis(500);
/// While Redis is there.
const NEVER: u64 = u64::MAX;

/// The proxy as a member of a fleet. Times are microseconds since its start.
pub struct Fleet {
    config: Redis,
    id: u64,
    start: Instant,
    /// How long is waited after Redis has published; how far back others' messages are surely known.
    fence: u64,
    trust: AtomicU64,
    /// All that Redis had published then is known; 0: nothing is.
    known: AtomicU64,
    /// What comes over the connection was published after that.
    since: AtomicU64,
    /// From then on writes need not be announced: nobody is there to hear it.
    free_from: AtomicU64,
    channels: RwLock<Vec<Arc<Channel>>>,
    /// There is something to say.
    wake: Notify,
    /// Something was said.
    said: Notify,
    leaves: AtomicBool,
    gone: Notify,
    problem: Mutex<String>,
    metrics: FleetMetrics,
}

/// A database of this proxy in the fleet.
pub struct Member {
    fleet: Arc<Fleet>,
    channel: Arc<Channel>,
}

impl Fleet {
    /// A member that knows nobody yet; see [`Self::start`]. `id` is a number that no other has.
    pub fn new(config: Redis, id: u64, metrics: FleetMetrics) -> Arc<Self> {
        let fence = config.fence.as_micros() as u64;
        Arc::new(Self {
            id,
            start: Instant::now(),
            fence,
            trust: AtomicU64::new(trust(fence)),
            known: AtomicU64::new(0),
            since: AtomicU64::new(0),
            free_from: AtomicU64::new(NEVER),
            channels: RwLock::default(),
            wake: Notify::new(),
            said: Notify::new(),
            leaves: AtomicBool::new(false),
            gone: Notify::new(),
            problem: Mutex::new("not connected yet".into()),
            metrics,
            config,
        })
    }

    /// Speaks with Redis in a thread of its own, so that nothing else delays it.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let fleet = Arc::clone(self);
        let run = move || runtime.block_on(fleet.run());
        std::thread::Builder::new().name("redis".into()).spawn(run).map(drop)
    }

    /// A database takes part, with the book of its writes. Its reads use primaries until others were heard.
    pub fn join(self: &Arc<Self>, database: &str, ledger: Weak<dyn Ledger>) -> Member {
        let distrust = self.config.distrust.as_micros() as u64;
        let channel = Arc::new(Channel::new(database, self.id, distrust, ledger));
        self.channels.write().push(Arc::clone(&channel));
        self.wake.notify_one();
        Member { fleet: Arc::clone(self), channel }
    }

    /// Why Redis cannot be reached; `None` if it can.
    pub fn problem(&self) -> Option<String> {
        Some(self.problem.lock().clone()).filter(|it| !it.is_empty())
    }

    /// How this proxy is named to the others.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The other proxies, by database.
    pub fn peers(&self) -> Vec<(String, Vec<PeerState>)> {
        let now = self.now();
        let states = |it: &Arc<Channel>| (it.name.clone(), it.peers(now));
        self.channels.read().iter().map(states).collect()
    }

    /// Says goodbye: no more is written. Others then do not miss this proxy.
    pub async fn leave(&self) {
        let mut gone = pin!(self.gone.notified());
        gone.as_mut().enable();
        self.leaves.store(true, Ordering::Release);
        self.wake.notify_one();
        if self.problem().is_none() {
            let _ = tokio::time::timeout(FAREWELL, gone).await;
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64 + 1
    }

    /// Whether writes need not be announced.
    fn is_free(&self) -> bool {
        match self.free_from.load(Ordering::SeqCst) {
            NEVER => false,
            from => self.now() >= from,
        }
    }

    async fn run(self: Arc<Self>) {
        let mut is_told = false;
        while !self.leaves.load(Ordering::Acquire) {
            let problem = match Connection::open(&self.config.url, self.listener()).await {
                Ok(connection) => self.serve(connection).await,
                Err(problem) => problem,
            };
            self.cut_off(problem, &mut is_told);
            tokio::time::sleep(REST).await;
        }
    }

    /// Takes in what others say.
    fn listener(self: &Arc<Self>) -> impl Fn(&[u8], &[u8]) + Send + Sync + 'static + use<> {
        let fleet = Arc::downgrade(self);
        move |channel, content| {
            let Some(fleet) = fleet.upgrade() else { return };
            let channels = fleet.channels.read();
            let is_it = |it: &&Arc<Channel>| fleet.name(it).as_bytes() == channel;
            let since =
                fleet.since.load(Ordering::Relaxed).max(fleet.known.load(Ordering::Relaxed));
            for channel in channels.iter().filter(is_it) {
                if let Some(fence) = channel.receive(content, fleet.now(), since) {
                    // Others may wait less than this proxy.
                    fleet.trust.fetch_min(trust(fence), Ordering::AcqRel);
                }
                if channel.is_in_a_hurry() {
                    fleet.wake.notify_one();
                }
            }
        }
    }

    /// A database's channel in Redis.
    fn name(&self, channel: &Channel) -> String {
        format!("{}:{}", self.config.prefix, channel.name)
    }

    /// There is no connection; `is_told`: the log says so.
    fn cut_off(&self, problem: String, is_told: &mut bool) {
        self.known.store(0, Ordering::Release);
        let was_up = self.problem().is_none();
        if self.free_from.load(Ordering::SeqCst) == NEVER {
            // Whom nobody has heard nobody will miss.
            let was_heard = self.since.load(Ordering::Relaxed) != 0;
            let notice = if was_heard { NOTICE } else { 0 };
            self.free_from.store(self.now() + notice, Ordering::SeqCst);
        }
        self.metrics.up.set(0);
        self.channels.read().iter().for_each(|it| it.cut_off());
        *is_told &= !was_up;
        if !std::mem::replace(is_told, true) && !self.leaves.load(Ordering::Acquire) {
            tracing::warn!(
                problem,
                "no connection to Redis: reads use primaries, writes are not announced"
            );
        }
        *self.problem.lock() = problem;
        self.said.notify_waiters();
    }

    /// Uses a connection until it is lost: why it is.
    async fn serve(&self, mut connection: Connection) -> String {
        self.since.store(self.now(), Ordering::Relaxed);
        if let Err(problem) = self.subscribe(&mut connection).await {
            return problem;
        }
        // From here on a write is announced, or open in the book when `hello` reads it.
        self.free_from.store(NEVER, Ordering::SeqCst);
        let now = self.now();
        let channels = self.channels.read().clone();
        let hello = channels.iter().map(|it| (Arc::clone(it), it.hello(self.fence, now))).collect();
        let mut flights = Flights::new();
        if let Err(problem) = self.publish(&mut connection, hello, &mut flights).await {
            return problem;
        }
        self.problem.lock().clear();
        self.metrics.up.set(1);
        tracing::info!("connected to Redis: reads of replicas see what other proxies write");
        let mut other = connection.clone();
        tokio::select! {
            problem = self.follow(&mut other) => problem,
            problem = self.speak(&mut connection, flights) => problem,
        }
    }

    /// Hears the channels that it does not yet.
    async fn subscribe(&self, connection: &mut Connection) -> Result<(), String> {
        let channels = self.channels.read().clone();
        for channel in channels.iter().filter(|it| it.subscribe()) {
            connection.subscribe(&self.name(channel)).await?;
            channel.listens(self.now());
        }
        Ok(())
    }

    /// Makes sure, again and again, that all has been heard.
    async fn follow(&self, connection: &mut Connection) -> String {
        let pace = Duration::from_micros(self.fence / 4);
        loop {
            let sent = self.now();
            // Whom others have not heard they do not wait for.
            let is_in_time = self.channels.read().iter().all(|it| it.is_in_time(sent));
            if let Err(problem) = connection.ping().await {
                return problem;
            }
            self.channels.read().iter().for_each(|it| it.expire(self.now()));
            if is_in_time {
                self.known.store(sent, Ordering::Release);
            }
            tokio::time::sleep(pace.saturating_sub(Duration::from_micros(self.now() - sent))).await;
        }
    }

    /// Says what is to be said.
    async fn speak(&self, connection: &mut Connection, mut flights: Flights) -> String {
        loop {
            if self.leaves.load(Ordering::Acquire) {
                return self.say_goodbye(connection).await;
            }
            if let Err(problem) = self.subscribe(connection).await {
                return problem;
            }
            let (now, channels) = (self.now(), self.channels.read().clone());
            let said = |it: &Arc<Channel>| Some((Arc::clone(it), it.outgoing(self.fence, now)?));
            let batch: Vec<_> = channels.iter().filter_map(said).collect();
            if let Err(problem) = self.publish(connection, batch, &mut flights).await {
                return problem;
            }
            if channels.iter().any(|it| !it.is_alive()) {
                self.channels.write().retain(|it| it.is_alive());
            }
            let peers = channels.iter().map(|it| it.peers(now).len()).max();
            self.metrics.peers.set(peers.unwrap_or(0) as i64);
            drop(channels);
            let end = flights.iter().map(|it| it.0.saturating_sub(self.now())).min();
            let wait = end.map_or(TICK, |it| Duration::from_micros(it).min(TICK));
            tokio::select! {
                () = self.wake.notified() => (),
                () = tokio::time::sleep(wait) => (),
            }
            self.land(&mut flights);
        }
    }

    /// Publishes; the fence begins with the reply.
    async fn publish(
        &self,
        connection: &mut Connection,
        batch: Vec<(Arc<Channel>, Outgoing)>,
        flights: &mut Flights,
    ) -> Result<(), String> {
        if batch.is_empty() {
            return Ok(());
        }
        let messages: Vec<_> =
            batch.iter().map(|(it, sent)| (self.name(it), sent.bytes.as_slice())).collect();
        connection.publish(&messages).await?;
        let hot: usize = batch.iter().map(|it| it.1.hot.len()).sum();
        self.metrics.announced.inc_by(hot as u64);
        let end = self.now() + self.fence;
        let announced = batch.into_iter().filter(|it| !it.1.hot.is_empty());
        flights.extend(announced.map(|(channel, sent)| (end, channel, sent)));
        self.land(flights);
        Ok(())
    }

    /// What all others know by now may be written.
    fn land(&self, flights: &mut Flights) {
        let (now, before) = (self.now(), flights.len());
        flights.retain(|(end, channel, sent)| {
            let is_known = *end <= now || channel.is_heard(sent);
            if is_known {
                channel.arrived(sent);
            }
            !is_known
        });
        if flights.len() < before {
            self.said.notify_waiters();
        }
    }

    async fn say_goodbye(&self, connection: &mut Connection) -> String {
        let channels = self.channels.read().clone();
        let last: Vec<_> =
            channels.iter().map(|it| (self.name(it), it.goodbye(self.fence))).collect();
        let messages: Vec<_> =
            last.iter().map(|(name, it)| (name.clone(), it.bytes.as_slice())).collect();
        let _ = connection.publish(&messages).await;
        self.gone.notify_waiters();
        "the proxy ends".into()
    }
}

/// Messages published, and when their fence is over.
type Flights = Vec<(u64, Arc<Channel>, Outgoing)>;

/// See the module's argument, 2.
fn trust(fence: u64) -> u64 {
    fence - fence / 8
}

impl Member {
    /// Whether all is known that others have announced before their writes were seen by anybody.
    pub fn is_current(&self) -> bool {
        let fleet = &self.fleet;
        let known = fleet.known.load(Ordering::Acquire);
        // Who has said goodbye is not waited for any more.
        let is_there = known != 0 && !fleet.leaves.load(Ordering::Acquire);
        let is_current =
            is_there && fleet.now().saturating_sub(known) <= fleet.trust.load(Ordering::Acquire);
        if !is_current {
            fleet.metrics.blind.inc();
        }
        is_current
    }

    /// Whether writes of these marks, which their book has as open, may be sent.
    pub fn may_write(&self, marks: &[u16]) -> bool {
        let now = self.fleet.now();
        let mut is_announced = true;
        for mark in marks {
            is_announced &= self.channel.may_write(*mark, now);
        }
        if !is_announced && self.fleet.is_free() {
            self.fleet.metrics.unannounced.inc();
            return true;
        }
        is_announced
    }

    /// Waits until [`Self::may_write`].
    pub async fn announce(&self, marks: &[u16]) {
        loop {
            let mut said = pin!(self.fleet.said.notified());
            said.as_mut().enable();
            if self.may_write(marks) {
                return;
            }
            self.channel.want(marks);
            self.fleet.wake.notify_one();
            let _ = tokio::time::timeout(TICK, said).await;
        }
    }
}
