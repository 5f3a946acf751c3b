//! What a client said in its transaction, and a digest of what it was told: enough to say it again to
//! another server and to know whether the answers are the same.

use bytes::{Buf, BytesMut};
use sha2::{Digest, Sha256};

/// Recorded from the request on that opened the transaction.
#[derive(Default)]
pub struct Tape {
    /// The client's messages, and bytes that they may have.
    requests: BytesMut,
    limit: usize,
    is_full: bool,
    /// Bytes at the front of the client's output that are older.
    older: usize,
    /// Of all bytes of the answers that the client was sent, and how many.
    digest: Sha256,
    sent: u64,
    /// While messages are handled again: bytes of them that were taken.
    replayed: Option<usize>,
    had: Option<Had>,
}

/// Answers that the client has had, and that come once more.
struct Had {
    /// Bytes still to come, and the digest of all.
    left: u64,
    digest: [u8; 32],
    differs: bool,
}

impl Tape {
    /// An empty one for `limit` bytes of messages, of a client whose output holds `waiting` bytes.
    pub fn new(limit: usize, waiting: usize) -> Self {
        Self { limit, older: waiting, ..Self::default() }
    }

    /// Whether messages had no room: nothing can be said again.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// The messages.
    pub fn requests(&self) -> &[u8] {
        &self.requests
    }

    /// Bytes at the front of the client's output that are older.
    pub fn older(&self) -> usize {
        self.older
    }

    /// Bytes of answers so far, with those that wait among the `waiting` bytes of the client's output.
    pub fn answered(&self, waiting: usize) -> u64 {
        self.sent + waiting.saturating_sub(self.older) as u64
    }

    /// A message was taken.
    pub fn take(&mut self, message: &[u8]) {
        match &mut self.replayed {
            Some(taken) => *taken += message.len(),
            None if self.is_full || self.requests.len() + message.len() > self.limit => {
                (self.is_full, self.requests) = (true, BytesMut::new());
            }
            None => self.requests.extend_from_slice(message),
        }
    }

    /// The last message was put back.
    pub fn take_back(&mut self, len: usize) {
        match &mut self.replayed {
            Some(taken) => *taken = taken.saturating_sub(len),
            None => self.requests.truncate(self.requests.len().saturating_sub(len)),
        }
    }

    /// The client was sent these bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        let older = self.older.min(bytes.len());
        self.older -= older;
        self.digest.update(&bytes[older..]);
        self.sent += (bytes.len() - older) as u64;
    }

    /// From now on messages are handled again, of which `len` bytes are kept; the client's output is empty.
    pub fn replay(&mut self, len: usize) {
        self.requests.truncate(len);
        let (left, digest) = match self.had.take() {
            // A replay was cut off before it came to where the client had got.
            Some(had) if had.left > 0 => (had.left + self.sent, had.digest),
            _ => (self.sent, self.digest.clone().finalize().into()),
        };
        self.digest.reset();
        (self.older, self.sent, self.replayed) = (0, 0, Some(0));
        self.had = Some(Had { left, digest, differs: false });
        self.compare();
    }

    /// Whether messages are handled again.
    pub fn is_replaying(&self) -> bool {
        self.replayed.is_some()
    }

    /// Bytes of messages that were taken again.
    pub fn taken(&self) -> usize {
        self.replayed.unwrap_or(0)
    }

    /// The messages were handled again: the next ones are new. Of the answer to the first of them the client
    /// may have had a part.
    pub fn end_replay(&mut self) {
        self.replayed = None;
    }

    /// Whether an answer is another than the client was sent.
    pub fn differs(&self) -> bool {
        self.had.as_ref().is_some_and(|it| it.differs)
    }

    /// Whether the client has had something that has not come once more.
    pub fn has_had(&self) -> bool {
        self.had.as_ref().is_some_and(|it| it.left > 0)
    }

    /// Takes from the client's output what it has had already.
    pub fn swallow(&mut self, out: &mut BytesMut) {
        let Some(had) = self.had.as_mut().filter(|it| it.left > 0 || it.differs) else { return };
        let count = usize::try_from(had.left).unwrap_or(usize::MAX).min(out.len());
        self.digest.update(&out[..count]);
        out.advance(count);
        self.sent += count as u64;
        had.left -= count as u64;
        self.compare();
        if self.differs() {
            out.clear();
        }
    }

    fn compare(&mut self) {
        let Some(had) = self.had.as_mut().filter(|it| it.left == 0) else { return };
        had.differs |= had.digest != <[u8; 32]>::from(self.digest.clone().finalize());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tape of one message whose answer, "answer", was sent but for its last bytes.
    fn recorded() -> Tape {
        let mut tape = Tape::new(100, 3);
        tape.take(b"message");
        tape.send(b"old");
        tape.send(b"ans");
        tape.send(b"we");
        tape
    }

    fn replayed(parts: &[&[u8]]) -> (Tape, BytesMut) {
        let (mut tape, mut out) = (recorded(), BytesMut::new());
        tape.replay(7);
        tape.take(b"message");
        for part in parts {
            out.extend_from_slice(part);
            tape.swallow(&mut out);
        }
        (tape, out)
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let mut tape = Tape::new(7, 0);
        tape.take(b"message");
        assert!(!tape.is_full());
        tape.take(b"!");
        tape.take_back(1);
        assert!(tape.is_full() && tape.requests().is_empty());
    }

    #[test]
    fn equal_answers_are_sent_from_where_they_were_cut_off() {
        for parts in [&[&b"answer"[..]][..], &[b"a", b"nswe", b"r"], &[b"answe", b"r"]] {
            let (mut tape, out) = replayed(parts);
            assert_eq!((&out[..], tape.taken(), tape.answered(1)), (&b"r"[..], 7, 6));
            tape.end_replay();
            assert!(!tape.has_had() && !tape.differs() && !tape.is_replaying());
        }
    }

    #[test]
    fn others_are_found() {
        for parts in [&[&b"Answer"[..]][..], &[b"answ", b"?r"]] {
            let (tape, out) = replayed(parts);
            assert!(out.is_empty() && tape.differs());
        }
        for parts in [&[&b"answ"[..]][..], &[]] {
            let (tape, out) = replayed(parts);
            assert!(out.is_empty() && tape.has_had() && !tape.differs());
        }
    }

    #[test]
    fn a_replay_may_begin_anew_and_a_tape_be_replayed_twice() {
        let (mut tape, _) = replayed(&[b"ans"]);
        tape.replay(7);
        let mut out = BytesMut::from(&b"answer"[..]);
        tape.swallow(&mut out);
        assert!(&out[..] == b"r" && !tape.has_had() && !tape.differs());
        tape.end_replay();
        tape.send(&out);
        tape.replay(7);
        let mut out = BytesMut::from(&b"answer"[..]);
        tape.swallow(&mut out);
        assert!(out.is_empty() && !tape.has_had() && !tape.differs());
    }
}
