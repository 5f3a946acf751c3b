//! What other proxies have announced in one database.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::message::Message;
use super::{CONFIRMING, EVERYTHING, LEASE, SILENCE};

/// What is held because of others. Times are microseconds of the fleet's clock.
#[derive(Debug)]
pub(super) struct Peers {
    own: u64,
    /// For how long nothing is believed after a proxy fell silent; 0: no longer than its marks are hot.
    distrust: u64,
    known: HashMap<u64, Peer>,
    blind: Blind,
    /// Since when all that is said is heard.
    listens: u64,
    /// Somebody waits to be told that it was heard.
    must_confirm: bool,
    /// This proxy was told that it was heard.
    is_confirmed: bool,
    /// Before that moment nothing ends.
    due: u64,
}

/// Whether all that others have announced is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blind {
    /// Nothing is heard yet.
    Deaf,
    /// What was announced before ends by then.
    Until(u64),
    No,
}

/// Another proxy.
#[derive(Debug, Default)]
struct Peer {
    /// It was there at that time, or later.
    heard: u64,
    number: u64,
    /// Up to which message of this proxy it has heard all.
    confirmed: u64,
    /// It waits to be told that it was heard.
    waits: bool,
    /// What it may be writing, and until when.
    marks: HashMap<u16, u64>,
    /// It has fallen silent, and nothing is believed until then.
    distrusted: Option<u64>,
    has_left: bool,
}

/// What becomes of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Somebody may write it.
    Hold(u16),
    /// One of those who did has ended: what it wrote can be read on the primary.
    Release(u16),
}

/// What SHOW FLEET tells of another proxy.
#[derive(Clone, Copy, Debug)]
pub struct PeerState {
    pub id: u64,
    /// Microseconds since it was heard.
    pub silent_for: u64,
    pub marks: usize,
    pub is_distrusted: bool,
}

impl Peers {
    /// Of a database of the proxy `own`; everything is held until [`Self::listens`].
    pub(super) fn new(own: u64, distrust: u64) -> (Self, Change) {
        let known = HashMap::new();
        let blind = Blind::Deaf;
        let peers = Self {
            own,
            distrust,
            known,
            blind,
            listens: 0,
            must_confirm: false,
            is_confirmed: false,
            due: 0,
        };
        (peers, Change::Hold(EVERYTHING))
    }

    /// From now on everything is heard, but not what was said before.
    pub(super) fn listens(&mut self, now: u64) -> Option<Change> {
        let was_blind = self.blind != Blind::No;
        self.blind = Blind::Until(now + LEASE);
        (self.listens, self.due) = (now, 0);
        (!was_blind).then_some(Change::Hold(EVERYTHING))
    }

    /// A message has come now, which was sent after `since`.
    pub(super) fn receive(&mut self, message: &Message, now: u64, since: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        if message.sender == self.own {
            return changes;
        }
        let peer = self.known.entry(message.sender).or_default();
        if message.number <= peer.number {
            // From a connection that it has given up.
            return changes;
        }
        (peer.number, peer.heard, peer.has_left) = (message.number, since, message.leaves);
        // What could not be read was said by somebody who would not read an answer.
        peer.waits |= !message.hot.is_empty() && message.fence_us > 0;
        self.must_confirm |= peer.waits;
        let own = message.heard.iter().filter(|it| it.0 == self.own).map(|it| it.1).max();
        peer.confirmed = peer.confirmed.max(own.unwrap_or(0));
        self.is_confirmed |= own.is_some();
        let until = now + u64::from(message.lease_ms) * 1000;
        for mark in &message.hot {
            match peer.marks.entry(*mark) {
                Entry::Occupied(mut it) => *it.get_mut() = until.max(*it.get()),
                Entry::Vacant(it) => {
                    it.insert(until);
                    changes.push(Change::Hold(*mark));
                }
            }
        }
        let cool = message.cool.iter().filter(|it| peer.marks.remove(it).is_some());
        changes.extend(cool.map(|it| Change::Release(*it)));
        if peer.distrusted.take().is_some() {
            changes.push(Change::Release(EVERYTHING));
        }
        self.due = 0;
        changes
    }

    /// What ends by now, and who has fallen silent.
    pub(super) fn expire(&mut self, now: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        if now < self.due {
            return changes;
        }
        self.due = u64::MAX;
        if let Blind::Until(end) = self.blind {
            match end <= now {
                true => {
                    self.blind = Blind::No;
                    changes.push(Change::Release(EVERYTHING));
                }
                false => self.due = end,
            }
        }
        let (distrust, due) = (self.distrust, &mut self.due);
        let mut has_forgotten = false;
        self.known.retain(|_, peer| {
            peer.marks.retain(|mark, until| {
                let holds = *until > now;
                match holds {
                    true => *due = (*due).min(*until),
                    false => changes.push(Change::Release(*mark)),
                }
                holds
            });
            let was_there = !peer.has_left;
            let stays = peer.look(now, distrust, &mut changes);
            has_forgotten |= was_there && !stays;
            *due = (*due).min(peer.due());
            stays
        });
        if has_forgotten {
            // It may be there all the same, and is to be heard again before all are known.
            self.listens = now;
        }
        changes
    }

    /// Whether it is to be said who was heard.
    pub(super) fn must_confirm(&self) -> bool {
        self.must_confirm && self.is_small()
    }

    /// Whether there is something to do at once: to confirm, or to go on, once.
    pub(super) fn is_in_a_hurry(&mut self) -> bool {
        std::mem::take(&mut self.is_confirmed) || self.must_confirm()
    }

    /// Who waits to be told that it was heard, and up to which message it was.
    pub(super) fn confirm(&mut self) -> Vec<(u64, u64)> {
        if !std::mem::take(&mut self.must_confirm) || !self.is_small() {
            return Vec::new();
        }
        let waiting = self
            .known
            .iter_mut()
            .filter_map(|(id, it)| std::mem::take(&mut it.waits).then_some((*id, it.number)));
        waiting.collect()
    }

    /// Whether so few others are there that all are told who was heard.
    fn is_small(&self) -> bool {
        self.known.values().filter(|it| !it.has_left).count() <= CONFIRMING
    }

    /// Whether everybody who could go by what it knows has heard a message of this proxy, which was published at
    /// `published` or later: all who are there are known by then, and each has said so.
    pub(super) fn have_heard(&self, number: u64, published: u64) -> bool {
        let is_known = self.listens != 0 && self.listens + SILENCE <= published;
        is_known && self.known.values().all(|it| it.has_left || it.confirmed >= number)
    }

    /// The others.
    pub(super) fn states(&self, now: u64) -> Vec<PeerState> {
        let state = |(id, it): (&u64, &Peer)| PeerState {
            id: *id,
            silent_for: now.saturating_sub(it.heard),
            marks: it.marks.len(),
            is_distrusted: it.distrusted.is_some(),
        };
        self.known.iter().map(state).collect()
    }
}

impl Peer {
    /// Whether it is still to be remembered.
    fn look(&mut self, now: u64, distrust: u64, changes: &mut Vec<Change>) -> bool {
        match self.distrusted {
            _ if self.has_left => !self.marks.is_empty(),
            Some(until) if until <= now => {
                changes.push(Change::Release(EVERYTHING));
                self.distrusted = None;
                self.has_left = true;
                !self.marks.is_empty()
            }
            Some(_) => true,
            None if self.heard + SILENCE > now => true,
            None if distrust == 0 => !self.marks.is_empty(),
            None => {
                changes.push(Change::Hold(EVERYTHING));
                self.distrusted = Some(now + distrust);
                true
            }
        }
    }

    /// When it has to be looked at again, apart from its marks.
    fn due(&self) -> u64 {
        match self.distrusted {
            _ if self.has_left => u64::MAX,
            Some(until) => until,
            None => self.heard + SILENCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn message(number: u64, hot: &[u16], cool: &[u16]) -> Message {
        let (hot, cool) = (hot.to_vec(), cool.to_vec());
        Message { sender: 1, number, lease_ms: 5000, hot, cool, ..Message::default() }
    }

    fn heard(distrust: u64) -> Peers {
        let (mut peers, first) = Peers::new(2, distrust);
        assert_eq!(first, Change::Hold(EVERYTHING));
        assert_eq!(peers.listens(0), None);
        assert_eq!(peers.expire(LEASE - 1), []);
        assert_eq!(peers.expire(LEASE), [Change::Release(EVERYTHING)]);
        peers
    }

    #[test]
    fn marks_are_held_until_they_cool_or_their_time_is_over() {
        let (mut peers, now) = (heard(0), 10 * SECOND);
        let hot = peers.receive(&message(1, &[3, 4], &[]), now, now);
        assert_eq!(hot, [Change::Hold(3), Change::Hold(4)]);
        assert_eq!(peers.receive(&message(2, &[3], &[4]), now + SECOND, now), [Change::Release(4)]);
        // What is older, and what is one's own, does not count.
        assert_eq!(peers.receive(&message(1, &[5], &[3]), now + SECOND, now), []);
        let own = Message { sender: 2, ..message(9, &[6], &[]) };
        assert_eq!(peers.receive(&own, now, now), []);
        assert_eq!(peers.expire(now + 5 * SECOND), []);
        assert_eq!(peers.expire(now + 6 * SECOND), [Change::Release(3)]);
    }

    #[test]
    fn who_falls_silent_is_distrusted_until_it_is_heard_again() {
        let (mut peers, now) = (heard(60 * SECOND), 10 * SECOND);
        assert_eq!(peers.receive(&message(1, &[], &[]), now, now), []);
        assert_eq!(peers.expire(now + SILENCE - 1), []);
        assert_eq!(peers.expire(now + SILENCE), [Change::Hold(EVERYTHING)]);
        assert!(peers.states(now + SILENCE)[0].is_distrusted);
        let back = peers.receive(&message(2, &[3], &[]), now + 9 * SECOND, now + 9 * SECOND);
        assert_eq!(back, [Change::Hold(3), Change::Release(EVERYTHING)]);
        let silent = peers.expire(now + 20 * SECOND);
        assert_eq!(silent, [Change::Release(3), Change::Hold(EVERYTHING)]);
        assert_eq!(peers.expire(now + 80 * SECOND), [Change::Release(EVERYTHING)]);
        assert!(peers.states(now).is_empty());
        // Who has said goodbye may be silent.
        let leaves = Message { leaves: true, ..message(3, &[], &[]) };
        assert_eq!(peers.receive(&leaves, now + 90 * SECOND, now + 90 * SECOND), []);
        assert_eq!(peers.expire(now + 99 * SECOND), []);
    }

    #[test]
    fn all_have_heard_once_each_has_said_so() {
        let (mut peers, now) = (heard(0), 20 * SECOND);
        assert!(!peers.have_heard(5, now), "it has not listened");
        peers.listens(10 * SECOND);
        assert!(peers.have_heard(5, now), "nobody is there");
        assert!(!peers.have_heard(5, 10 * SECOND + SILENCE - 1), "somebody may be there");
        let from = |sender, number, heard: &[(u64, u64)]| Message {
            sender,
            fence_us: 1,
            heard: heard.to_vec(),
            ..message(number, &[], &[])
        };
        peers.receive(&from(1, 1, &[(2, 4)]), now, now);
        assert!(peers.have_heard(4, now) && !peers.have_heard(5, now));
        peers.receive(&from(3, 1, &[]), now, now);
        peers.receive(&from(1, 2, &[(7, 9), (2, 5)]), now, now);
        assert!(!peers.have_heard(5, now), "3 has not");
        peers.receive(&Message { leaves: true, ..from(3, 2, &[]) }, now, now);
        assert!(peers.have_heard(5, now));
        // Forgotten, and perhaps still there.
        peers.expire(now + SILENCE);
        assert!(peers.states(now).is_empty());
        assert!(!peers.have_heard(5, now + SILENCE) && peers.have_heard(5, now + 2 * SILENCE));
    }

    #[test]
    fn who_announces_is_told_that_it_was_heard_once() {
        let (mut peers, now) = (heard(0), 10 * SECOND);
        let announces = Message { fence_us: 1, ..message(7, &[3], &[]) };
        peers.receive(&announces, now, now);
        assert!(peers.is_in_a_hurry() && peers.must_confirm());
        assert_eq!(peers.confirm(), [(1, 7)]);
        assert!(!peers.must_confirm() && peers.confirm().is_empty());
        // Nobody would read an answer to what cannot be read.
        peers.receive(&Message { sender: 0, ..message(8, &[EVERYTHING], &[]) }, now, now);
        assert!(!peers.must_confirm());
        for sender in 3..=2 + CONFIRMING as u64 {
            peers.receive(&Message { sender, ..announces.clone() }, now, now);
        }
        assert!(!peers.must_confirm(), "too many others");
    }

    #[test]
    fn after_a_gap_everything_counts_as_open() {
        let mut peers = heard(0);
        assert_eq!(peers.listens(10 * SECOND), Some(Change::Hold(EVERYTHING)));
        assert_eq!(peers.listens(11 * SECOND), None);
        assert_eq!(peers.expire(15 * SECOND), []);
        assert_eq!(peers.expire(16 * SECOND), [Change::Release(EVERYTHING)]);
    }
}
