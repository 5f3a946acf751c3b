//! Proxies, a Redis that loses nothing but is slow, and clients that write and read: nobody is served by
//! a replica that lacks what anybody could have seen. Time is a number, chance is seeded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::channel::{Channel, Ledger, Outgoing};
use super::{EVERYTHING, NOTICE, SECOND};

const MS: u64 = 1000;
const FENCE: u64 = 20 * MS;
const TRUST: u64 = FENCE - FENCE / 8;
const TENANTS: u16 = 4;
const DISTRUST: u64 = 600 * SECOND;

/// What a proxy knows of writes: who has them open, and the position that a reader needs.
#[derive(Default)]
struct Book {
    marks: Mutex<HashMap<u16, Entry>>,
    /// The position of the primary's log.
    log: Arc<Mutex<u64>>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    open: u32,
    held: u32,
    need: u64,
}

impl Book {
    fn change(&self, mark: u16, change: impl FnOnce(&mut Entry)) {
        change(self.marks.lock().entry(mark).or_default());
    }

    /// The position from which on a replica may serve; `None`: the primary must.
    fn need(&self, mark: u16) -> Option<u64> {
        let marks = self.marks.lock();
        let of = |mark: u16| marks.get(&mark).copied().unwrap_or_default();
        let (own, all) = (of(mark), of(EVERYTHING));
        let is_open = own.open + own.held + all.open + all.held > 0;
        (!is_open).then_some(own.need.max(all.need))
    }
}

impl Ledger for Book {
    fn hold(&self, mark: u16) {
        self.change(mark, |it| it.held += 1);
    }

    fn release(&self, mark: u16) {
        let log = *self.log.lock();
        self.change(mark, |it| (it.held, it.need) = (it.held - 1, it.need.max(log)));
    }

    fn is_open(&self, mark: u16) -> bool {
        self.marks.lock().get(&mark).is_some_and(|it| it.open > 0)
    }
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// What a client of a proxy is doing.
enum Write {
    /// Until then it thinks, the write in its block being open.
    Thinks(u64),
    /// It wants to commit, and waits for the announcement.
    Wants,
    /// The server commits then, and its answer is here then.
    Commits(u64, u64),
    Answered(u64),
}

struct Proxy {
    book: Arc<Book>,
    channel: Channel,
    writes: Vec<(u16, Write)>,
    /// Sent to Redis, and there then. Redis answers at once; the answer comes back as `Reply`.
    up: VecDeque<(u64, Said)>,
    down: VecDeque<(u64, Heard)>,
    flights: VecDeque<(u64, Outgoing)>,
    /// Announcements that needed no fence.
    confirmed: u64,
    is_connected: bool,
    is_dead: bool,
    known: u64,
    since: u64,
    free_from: u64,
    pinged: Option<u64>,
}

enum Said {
    Publish(Outgoing),
    Ping(u64),
    Subscribe,
}

enum Heard {
    Message(Arc<[u8]>),
    Published(Outgoing),
    Pong(u64),
    Subscribed,
}

struct World {
    now: u64,
    chance: Chance,
    log: Arc<Mutex<u64>>,
    /// The position of each tenant's last commit.
    commits: [u64; TENANTS as usize],
    proxies: Vec<Proxy>,
    on_replicas: u64,
    written: u64,
    started: u64,
    /// Whether proxies end and others are started.
    is_restless: bool,
    /// How rarely a connection is lost, and made again.
    cuts: Option<(u64, u64)>,
}

impl Proxy {
    fn new(id: u64, log: &Arc<Mutex<u64>>) -> Self {
        let book = Arc::new(Book { log: Arc::clone(log), ..Book::default() });
        let ledger: Weak<dyn Ledger> = Arc::downgrade(&book) as Weak<dyn Ledger>;
        Self {
            channel: Channel::new("app", id, DISTRUST, ledger),
            book,
            writes: Vec::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            flights: VecDeque::new(),
            confirmed: 0,
            is_connected: false,
            is_dead: false,
            known: 0,
            since: 0,
            free_from: u64::MAX,
            pinged: None,
        }
    }

    fn connect(&mut self, now: u64, chance: &mut Chance) {
        (self.is_connected, self.since, self.pinged) = (true, now, None);
        self.channel.subscribe();
        self.say(Said::Subscribe, now, chance);
    }

    fn cut_off(&mut self, now: u64) {
        (self.is_connected, self.known, self.pinged) = (false, 0, None);
        if self.free_from == u64::MAX {
            self.free_from = now + NOTICE;
        }
        self.channel.cut_off();
        self.flights.clear();
        self.down.clear();
    }

    /// In order, and slowly.
    fn say(&mut self, what: Said, now: u64, chance: &mut Chance) {
        let last = self.up.back().map_or(0, |it| it.0);
        self.up.push_back(((now + chance.below(8 * MS)).max(last), what));
    }

    fn hear(&mut self, what: Heard, now: u64, chance: &mut Chance) {
        let last = self.down.back().map_or(0, |it| it.0);
        let slow = if chance.below(60) == 0 { 300 * MS } else { 8 * MS };
        self.down.push_back(((now + chance.below(slow)).max(last), what));
    }

    /// What the thread that speaks with Redis does.
    fn follow(&mut self, now: u64, chance: &mut Chance) {
        while self.down.front().is_some_and(|it| it.0 <= now) {
            match self.down.pop_front().map(|it| it.1) {
                Some(Heard::Message(bytes)) => {
                    self.channel.receive(&bytes, now, self.since.max(self.known));
                }
                Some(Heard::Published(sent)) => self.flights.push_back((now + FENCE, sent)),
                Some(Heard::Pong(sent)) => {
                    self.channel.expire(now);
                    (self.known, self.pinged) = (sent, None);
                }
                Some(Heard::Subscribed) => {
                    self.channel.listens(now);
                    self.free_from = u64::MAX;
                    let hello = self.channel.hello(FENCE, now);
                    self.say(Said::Publish(hello), now, chance);
                }
                None => (),
            }
        }
        let channel = &self.channel;
        self.flights.retain(|(end, sent)| {
            let is_heard = channel.is_heard(sent);
            if is_heard || *end <= now {
                channel.arrived(sent);
            }
            self.confirmed += u64::from(is_heard && *end > now && !sent.hot.is_empty());
            !is_heard && *end > now
        });
        if !self.is_connected || self.free_from != u64::MAX {
            return;
        }
        if self.pinged.is_none() && self.known + FENCE / 4 <= now {
            self.pinged = Some(now);
            self.say(Said::Ping(now), now, chance);
        }
        if let Some(said) = self.channel.outgoing(FENCE, now) {
            self.say(Said::Publish(said), now, chance);
        }
    }
}

impl World {
    fn new(seed: u64, cuts: Option<(u64, u64)>) -> Self {
        let log = Arc::new(Mutex::new(0));
        let mut chance = Chance(seed);
        let mut proxies: Vec<_> = (1..=3).map(|id| Proxy::new(id, &log)).collect();
        proxies.iter_mut().for_each(|it| it.connect(1, &mut chance));
        let commits = [0; TENANTS as usize];
        Self {
            now: 1,
            chance,
            log,
            commits,
            proxies,
            on_replicas: 0,
            written: 0,
            started: 3,
            is_restless: false,
            cuts,
        }
    }

    fn step(&mut self) {
        self.now += MS / 2 + self.chance.below(MS);
        self.carry();
        for at in 0..self.proxies.len() {
            if self.proxies[at].is_dead {
                self.replace(at);
                continue;
            }
            self.proxies[at].follow(self.now, &mut self.chance);
            let is_connected = self.proxies[at].is_connected;
            if self.is_restless && self.chance.below(8000) == 0 {
                self.end(at);
            }
            let rate = self.cuts.map(|it| if is_connected { it.0 } else { it.1 });
            if rate.is_some_and(|it| self.chance.below(it) == 0) {
                self.fault(at);
            }
            self.write(at);
            self.read(at);
        }
    }

    /// Another one is started in a dead one's place.
    fn replace(&mut self, at: usize) {
        if self.is_restless && self.proxies[at].up.is_empty() && self.chance.below(2000) == 0 {
            self.started += 1;
            self.proxies[at] = Proxy::new(self.started, &self.log);
            self.proxies[at].connect(self.now, &mut self.chance);
        }
    }

    /// Redis.
    fn carry(&mut self) {
        let now = self.now;
        for at in 0..self.proxies.len() {
            while self.proxies[at].up.front().is_some_and(|it| it.0 <= now) {
                let Some((_, said)) = self.proxies[at].up.pop_front() else { break };
                let reply = match said {
                    Said::Ping(sent) => Heard::Pong(sent),
                    Said::Subscribe => Heard::Subscribed,
                    Said::Publish(sent) => {
                        let bytes: Arc<[u8]> = sent.bytes.as_slice().into();
                        for other in self.proxies.iter_mut().filter(|it| it.is_connected) {
                            let message = Heard::Message(Arc::clone(&bytes));
                            other.hear(message, now, &mut self.chance);
                        }
                        Heard::Published(sent)
                    }
                };
                if self.proxies[at].is_connected {
                    self.proxies[at].hear(reply, now, &mut self.chance);
                }
            }
        }
    }

    fn fault(&mut self, at: usize) {
        let living = self.proxies.iter().filter(|it| !it.is_dead).count();
        let proxy = &mut self.proxies[at];
        match (proxy.is_connected, self.chance.below(8)) {
            (true, 0) if living > 2 => self.end(at),
            (true, _) => proxy.cut_off(self.now),
            (false, _) => {
                proxy.up.clear();
                proxy.connect(self.now, &mut self.chance);
            }
        }
    }

    /// A proxy says goodbye and goes down, or is killed; after that others would believe nobody for long.
    fn end(&mut self, at: usize) {
        let proxy = &mut self.proxies[at];
        if self.is_restless || self.chance.below(2) == 0 {
            let goodbye = proxy.channel.goodbye(FENCE);
            proxy.say(Said::Publish(goodbye), self.now, &mut self.chance);
        }
        proxy.is_dead = true;
        proxy.is_connected = false;
        proxy.writes.clear();
    }

    fn write(&mut self, at: usize) {
        let (now, chance) = (self.now, &mut self.chance);
        let proxy = &mut self.proxies[at];
        // Seldom enough for most to be the first after a pause.
        if proxy.writes.len() < 3 && chance.below(300) == 0 {
            let mark = chance.below(u64::from(TENANTS)) as u16;
            proxy.book.change(mark, |it| it.open += 1);
            let is_block = chance.below(10) == 0;
            let thinks = if is_block { chance.below(9 * SECOND) } else { 0 };
            proxy.writes.push((mark, Write::Thinks(now + thinks)));
        }
        for (mark, write) in &mut proxy.writes {
            match write {
                Write::Thinks(until) if *until <= now => *write = Write::Wants,
                Write::Thinks(_) => {
                    // Its first statement waits for the announcement, too; then it is renewed.
                    if !proxy.channel.may_write(*mark, now) {
                        proxy.channel.want(&[*mark]);
                    }
                }
                Write::Wants => {
                    if proxy.channel.may_write(*mark, now) || proxy.free_from <= now {
                        let slow =
                            [1, 1, 1, 60 * MS, 60 * MS, 7 * SECOND][chance.below(6) as usize];
                        let commits = now + chance.below(slow);
                        *write = Write::Commits(commits, commits + chance.below(10 * MS));
                    } else {
                        proxy.channel.want(&[*mark]);
                    }
                }
                Write::Commits(then, answer) if *then <= now => {
                    let mut log = self.log.lock();
                    *log += 1;
                    self.commits[usize::from(*mark)] = *log;
                    self.written += 1;
                    *write = Write::Answered(*answer);
                }
                Write::Commits(..) | Write::Answered(_) => (),
            }
        }
        let book = &proxy.book;
        let log = *self.log.lock();
        proxy.writes.retain(|(mark, write)| {
            let is_over = matches!(write, Write::Answered(at) if *at <= now);
            if is_over {
                book.change(*mark, |it| (it.open, it.need) = (it.open - 1, it.need.max(log)));
            }
            !is_over
        });
    }

    /// Whoever reads now sees what anybody can have seen.
    fn read(&mut self, at: usize) {
        let proxy = &self.proxies[at];
        if proxy.known == 0 || self.now - proxy.known > TRUST {
            return;
        }
        for mark in 0..TENANTS {
            let Some(need) = proxy.book.need(mark) else { continue };
            self.on_replicas += 1;
            let last = self.commits[usize::from(mark)];
            assert!(
                last <= need,
                "proxy {at}, tenant {mark}: {last} is not in {need} at {}",
                self.now
            );
        }
    }
}

#[test]
fn nobody_reads_the_past_while_messages_are_slow() {
    for seed in 0..2 {
        let mut world = World::new(seed, None);
        while world.now < 30 * SECOND {
            world.step();
        }
        assert!(world.written > 100 && world.on_replicas > 500, "seed {seed}");
        let confirmed: u64 = world.proxies.iter().map(|it| it.confirmed).sum();
        assert!(
            confirmed > 20,
            "seed {seed}: {confirmed} announcements were confirmed before their fence"
        );
    }
}

#[test]
fn nobody_reads_the_past_while_proxies_are_cut_off_and_killed() {
    for seed in 0..6 {
        let mut world =
            World::new(seed, Some(if seed % 2 == 0 { (6000, 6000) } else { (3000, 500) }));
        while world.now < 60 * SECOND {
            world.step();
        }
        assert!(world.written > 100, "seed {seed}");
    }
}

#[test]
fn nobody_reads_the_past_while_proxies_come_and_go() {
    for seed in 0..8 {
        let mut world = World::new(seed, None);
        world.is_restless = true;
        while world.now < 60 * SECOND {
            world.step();
        }
        assert!(world.written > 100 && world.started > 6, "seed {seed}");
    }
}
