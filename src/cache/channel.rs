//! One database of this proxy in the fleet: what it has announced, and what others have.

use std::collections::HashSet;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::leases::Leases;
use super::message::Message;
use super::peers::{Change, PeerState, Peers};
use super::{EVERYTHING, HEARTBEAT, LEASE, MARKS};

/// The book of a database's writes.
pub trait Ledger: Send + Sync {
    /// Another proxy may be writing there, from now on.
    fn hold(&self, mark: u16);
    /// One has ended: what it wrote can be read on the primary.
    fn release(&self, mark: u16);
    /// Whether a write of this proxy is open.
    fn is_open(&self, mark: u16) -> bool;
}

/// A database as the proxies of a fleet speak of it. Times are microseconds of the fleet's clock.
pub struct Channel {
    pub(super) name: String,
    own: u64,
    ledger: Weak<dyn Ledger>,
    cells: Box<[Cell]>,
    state: Mutex<State>,
}

#[derive(Default)]
struct Cell {
    /// Announced up to then, to all.
    until: AtomicU64,
    /// When somebody last wanted to write there.
    used: AtomicU64,
}

struct State {
    wanted: HashSet<u16>,
    leases: Leases,
    peers: Peers,
    /// Of the last message.
    number: u64,
    /// When the next is due, if there is nothing else to say.
    heartbeat: u64,
    is_subscribed: bool,
}

/// A message that is to be published.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    pub(super) hot: Vec<u16>,
    number: u64,
    /// It is published then, or later.
    at: u64,
}

impl Channel {
    /// A database of the proxy `own`, whose book is held closed until others are heard.
    pub(super) fn new(name: &str, own: u64, distrust: u64, ledger: Weak<dyn Ledger>) -> Self {
        let (peers, first) = Peers::new(own, distrust);
        let state = State {
            wanted: HashSet::new(),
            leases: Leases::default(),
            peers,
            number: 0,
            heartbeat: 0,
            is_subscribed: false,
        };
        let cells = (0..MARKS).map(|_| Cell::default()).collect();
        let channel = Self { name: name.to_owned(), own, ledger, cells, state: Mutex::new(state) };
        channel.apply(&[first]);
        channel
    }

    /// Whether the database is still served.
    pub(super) fn is_alive(&self) -> bool {
        self.ledger.strong_count() > 0
    }

    /// Whether a write that its book has as open may be sent.
    pub(super) fn may_write(&self, mark: u16, now: u64) -> bool {
        let cell = &self.cells[usize::from(mark)];
        cell.used.store(now, Ordering::Relaxed);
        // After the book's entry was made: see `withdraw`.
        cell.until.load(Ordering::SeqCst) > now + LEASE / 2
    }

    /// These are to be announced.
    pub(super) fn want(&self, marks: &[u16]) {
        self.state.lock().wanted.extend(marks);
    }

    /// Whether it has to be subscribed to; it counts as such from now on.
    pub(super) fn subscribe(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().is_subscribed, true)
    }

    /// Redis has confirmed the subscription.
    pub(super) fn listens(&self, now: u64) {
        let mut state = self.state.lock();
        self.apply(state.peers.listens(now).as_slice());
    }

    /// The connection is lost.
    pub(super) fn cut_off(&self) {
        let mut state = self.state.lock();
        state.is_subscribed = false;
        state.leases.cut_off();
    }

    /// The first message on a connection: all that this proxy may be writing.
    pub(super) fn hello(&self, fence: u64, now: u64) -> Outgoing {
        let mut state = self.state.lock();
        let announced = state.leases.marks();
        let ledger = self.ledger.upgrade();
        let open = (0..MARKS as u16)
            .filter(|it| ledger.as_ref().is_some_and(|ledger| ledger.is_open(*it)));
        let hot = state.leases.send(announced.into_iter().chain(open), now);
        self.message(&mut state, hot, Vec::new(), (fence, now))
    }

    /// What is to be said now, if anything is.
    pub(super) fn outgoing(&self, fence: u64, now: u64) -> Option<Outgoing> {
        let ledger = self.ledger.upgrade()?;
        let mut state = self.state.lock();
        if !state.is_subscribed {
            return None;
        }
        // What is open is in use.
        let used = |mark: u16| match ledger.is_open(mark) {
            true => now,
            false => self.cells[usize::from(mark)].used.load(Ordering::Relaxed),
        };
        let cool: Vec<u16> = state.leases.quiet(now, used);
        let cool: Vec<u16> = cool.into_iter().filter(|it| self.withdraw(*it, &*ledger)).collect();
        cool.iter().for_each(|it| state.leases.remove(*it));
        let wanted = std::mem::take(&mut state.wanted);
        let renewed = state.leases.to_renew(now, used);
        let hot = state.leases.send(wanted.into_iter().chain(renewed), now);
        let is_due = state.heartbeat <= now;
        (is_due || !hot.is_empty() || !cool.is_empty() || state.peers.must_confirm())
            .then(|| self.message(&mut state, hot, cool, (fence, now)))
    }

    /// The last message: nothing more will be written, but for what is open.
    pub(super) fn goodbye(&self, fence: u64) -> Outgoing {
        let mut state = self.state.lock();
        let ledger = self.ledger.upgrade();
        let is_open = |it: u16| ledger.as_ref().is_some_and(|ledger| ledger.is_open(it));
        let cool = state.leases.marks().into_iter().filter(|it| !is_open(*it)).collect();
        let mut last = Message { leaves: true, cool, ..self.blank(fence) };
        state.number += 1;
        last.number = state.number;
        Outgoing { bytes: last.encode(), hot: Vec::new(), number: last.number, at: 0 }
    }

    fn blank(&self, fence: u64) -> Message {
        Message {
            sender: self.own,
            lease_ms: (LEASE / 1000) as u32,
            fence_us: fence as u32,
            ..Message::default()
        }
    }

    fn message(
        &self,
        state: &mut State,
        hot: Vec<u16>,
        cool: Vec<u16>,
        (fence, now): (u64, u64),
    ) -> Outgoing {
        // A database that is taken out and comes back goes on above what it said before.
        state.number = (state.number + 1).max(now);
        state.heartbeat = now + HEARTBEAT;
        let heard = state.peers.confirm();
        let message = Message { number: state.number, hot, cool, heard, ..self.blank(fence) };
        Outgoing { bytes: message.encode(), hot: message.hot, number: message.number, at: now }
    }

    /// Takes an announcement back, unless a write is open. A write is entered in the book before its
    /// announcement is looked at, here it is the other way round: one of both sees the other.
    fn withdraw(&self, mark: u16, ledger: &dyn Ledger) -> bool {
        let until = &self.cells[usize::from(mark)].until;
        let before = until.swap(0, Ordering::SeqCst);
        if ledger.is_open(mark) {
            until.store(before, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Whether all others have said that they have heard a message, whose reply is here.
    pub(super) fn is_heard(&self, sent: &Outgoing) -> bool {
        self.state.lock().peers.have_heard(sent.number, sent.at)
    }

    /// Whether there is something to do at once, once.
    pub(super) fn is_in_a_hurry(&self) -> bool {
        self.state.lock().peers.is_in_a_hurry()
    }

    /// Whether others hear this proxy often enough to know that it is there.
    pub(super) fn is_in_time(&self, now: u64) -> bool {
        now < self.state.lock().heartbeat + HEARTBEAT
    }

    /// The fence after a message's reply is over, or all have heard it.
    pub(super) fn arrived(&self, sent: &Outgoing) {
        let mut state = self.state.lock();
        for mark in &sent.hot {
            let until = state.leases.arrived(*mark);
            self.cells[usize::from(*mark)].until.store(until, Ordering::SeqCst);
        }
    }

    /// Takes in what was published after `since`; the sender's fence if it is another proxy. What
    /// cannot be read counts as if everything were written.
    pub(super) fn receive(&self, bytes: &[u8], now: u64, since: u64) -> Option<u64> {
        let message = Message::decode(bytes).unwrap_or_else(|| Message {
            lease_ms: (LEASE / 1000) as u32,
            number: now,
            leaves: true,
            hot: vec![EVERYTHING],
            ..Message::default()
        });
        let mut state = self.state.lock();
        self.apply(&state.peers.receive(&message, now, since));
        let is_other = message.sender != self.own && message.fence_us > 0;
        is_other.then_some(u64::from(message.fence_us))
    }

    /// Ends what ends by now, and notes who has fallen silent.
    pub(super) fn expire(&self, now: u64) {
        let mut state = self.state.lock();
        self.apply(&state.peers.expire(now));
    }

    /// The other proxies.
    pub(super) fn peers(&self, now: u64) -> Vec<PeerState> {
        self.state.lock().peers.states(now)
    }

    fn apply(&self, changes: &[Change]) {
        let Some(ledger) = self.ledger.upgrade().filter(|_| !changes.is_empty()) else { return };
        for change in changes {
            match change {
                Change::Hold(mark) => ledger.hold(usable(*mark)),
                Change::Release(mark) => ledger.release(usable(*mark)),
            }
        }
    }
}

/// A mark that the book has.
fn usable(mark: u16) -> u16 {
    mark.min(EVERYTHING)
}
