//! The replies one server connection still owes.
//!
//! Every request sent to the server pushes an entry, every reply pops one. Replies come in the order
//! of requests, so this queue alone tells whether a frame goes to the client, which transaction state
//! the server is in and whether it may serve somebody else. It sees tags, never sockets.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html>

use std::collections::VecDeque;

use bytes::Bytes;

pub use super::reply::{Action, Reply, TxStatus, Unexpected, Verdict};

#[derive(Debug)]
struct Owed {
    reply: Reply,
    action: Action,
}

impl Owed {
    /// Whether the server got it and stays in an implicit transaction until a Sync.
    fn opens_batch(&self) -> bool {
        let is_sent = !matches!(self.action, Action::Fake(_));
        is_sent && !self.reply.ends_with_ready() && self.reply != Reply::CopyEnd
    }
}

/// Where the server stands within the extended protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batch {
    /// Nothing was sent since the last ReadyForQuery.
    None,
    /// Messages were sent that only a Sync ends: an implicit transaction is open.
    Open,
    /// It drops what comes up to the next Sync, which was not sent yet. `swallowed` Syncs were
    /// perhaps read as part of a COPY, or perhaps are still to be answered.
    Discarding { swallowed: usize },
}

/// COPY … FROM STDIN: whether the server waits for data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyIn {
    No,
    /// `swallowed` Syncs that came before the data are read and ignored by the server.
    Yes {
        swallowed: usize,
    },
}

/// The replies a server owes, and its transaction state.
#[derive(Debug)]
pub struct Pipeline {
    owed: VecDeque<Owed>,
    tx: TxStatus,
    batch: Batch,
    copy_in: CopyIn,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Pipeline {
    /// Of a server that has said ReadyForQuery.
    pub fn new() -> Self {
        Self { owed: VecDeque::new(), tx: TxStatus::Idle, batch: Batch::None, copy_in: CopyIn::No }
    }

    /// Records a request that was sent to the server (or, for [`Action::Fake`], was not).
    pub fn on_request(&mut self, tag: u8, action: Action) {
        let Some(reply) = Reply::to(tag) else { return };
        match (reply, self.batch, self.copy_in) {
            (Reply::CopyEnd, _, CopyIn::Yes { .. }) => self.copy_in = CopyIn::No,
            // A server that wants no data ignores its end.
            (Reply::CopyEnd, ..) if self.owed.is_empty() => {}
            // During COPY a server ignores Sync.
            (Reply::Sync, _, CopyIn::Yes { swallowed }) => {
                self.copy_in = CopyIn::Yes { swallowed: swallowed + 1 };
            }
            (Reply::Sync, Batch::Discarding { .. }, _) => {
                self.batch = Batch::Open;
                self.owed.push_back(Owed { reply, action });
            }
            (_, Batch::Discarding { .. }, _) => {}
            _ => self.push(reply, action),
        }
    }

    fn push(&mut self, reply: Reply, action: Action) {
        let owed = Owed { reply, action };
        if owed.opens_batch() {
            self.batch = Batch::Open;
        }
        self.owed.push_back(owed);
    }

    /// Decides where a frame of the server goes. `status` is that of ReadyForQuery. Call
    /// [`next_fake`](Self::next_fake) until it gives none before, and after requests.
    pub fn on_reply(&mut self, tag: u8, status: Option<TxStatus>) -> Result<Verdict, Unexpected> {
        if matches!(tag, b'N' | b'A' | b'S') {
            return Ok(Verdict::Forward); // asynchronous: owed by nobody
        }
        let Some(front) = self.owed.front() else { return self.on_unowed(tag, status) };
        let (reply, is_ours) = (front.reply, front.action == Action::Skip);
        let verdict = if is_ours { Verdict::Skip } else { Verdict::Forward };
        match (tag, reply) {
            (b'E', _) => {
                let verdict = self.verdict_on_error();
                self.fail(reply);
                return Ok(verdict);
            }
            (b'Z', Reply::Sync | Reply::Query | Reply::FunctionCall) => self.ready(status),
            (b'G', Reply::Query | Reply::Execute) => self.begin_copy_in(),
            (b'1', Reply::Parse) | (b'2', Reply::Bind) | (b'3', Reply::Close) => self.pop(),
            (b'T' | b'n', Reply::Describe) | (b'C' | b'I' | b's', Reply::Execute) => self.pop(),
            (b't', Reply::Describe) | (b'V', Reply::FunctionCall) => {}
            (b'T' | b'D' | b'C' | b'I' | b'H' | b'd' | b'c', Reply::Query) => {}
            (b'D' | b'H' | b'd' | b'c', Reply::Execute) => {}
            _ => return Err(Unexpected { tag, owed: Some(reply) }),
        }
        Ok(verdict)
    }

    /// Takes the whole frames at the front of `input` that are most of all answers: those of the client's
    /// own requests that change nothing but whose turn it is. Gives their bytes; the frame after them is
    /// for [`Self::on_reply`].
    pub fn skim(&mut self, input: &[u8]) -> usize {
        let mut rest = input;
        while let Some(&[tag, a, b, c, d]) = rest.first_chunk::<5>() {
            let len = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_add(1);
            let Some(front) = self.owed.front() else { break };
            if len < 5 || len > rest.len() || !matches!(front.action, Action::Forward) {
                break;
            }
            match (tag, front.reply) {
                (b'D' | b'T' | b'C', Reply::Query) | (b'D', Reply::Execute) => (),
                (b'2', Reply::Bind) | (b'T' | b'n', Reply::Describe) | (b'C', Reply::Execute) => {
                    self.pop();
                }
                _ => break,
            }
            rest = &rest[len..];
        }
        input.len() - rest.len()
    }

    /// ReadyForQuery for a Sync that was taken for part of a COPY which had failed before.
    fn on_unowed(&mut self, tag: u8, status: Option<TxStatus>) -> Result<Verdict, Unexpected> {
        match (tag, self.batch) {
            (b'Z', Batch::Discarding { swallowed: 1.. }) => {
                self.ready(status);
                Ok(Verdict::Forward)
            }
            _ => Err(Unexpected { tag, owed: None }),
        }
    }

    /// The next frame to make up for the client, if it is its turn.
    pub fn next_fake(&mut self) -> Option<Bytes> {
        let Action::Fake(frame) = &self.owed.front()?.action else { return None };
        let frame = frame.clone();
        self.pop();
        Some(frame)
    }

    /// Whether the server owes nothing and holds no transaction: it may serve somebody else.
    pub fn is_idle(&self) -> bool {
        self.is_settled() && self.tx == TxStatus::Idle
    }

    /// Whether the server owes nothing and waits for nothing; a transaction may be open.
    pub fn is_settled(&self) -> bool {
        self.owed.is_empty() && self.batch == Batch::None && self.copy_in == CopyIn::No
    }

    /// Whether replies are still to come.
    pub fn is_owing(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Whether the server waits for COPY data.
    pub fn is_copy_in(&self) -> bool {
        self.copy_in != CopyIn::No
    }

    /// Whether an extended-protocol batch was begun that only a Sync ends.
    pub fn is_in_batch(&self) -> bool {
        self.batch != Batch::None
    }

    /// Whether the server waits for COPY data and has read over a Sync: the client sends another.
    pub fn has_swallowed_sync(&self) -> bool {
        matches!(self.copy_in, CopyIn::Yes { swallowed: 1.. })
    }

    /// Whether the reply in turn is one that the server was not asked for.
    pub fn is_fake_next(&self) -> bool {
        self.owed.front().is_some_and(|owed| matches!(owed.action, Action::Fake(_)))
    }

    /// Whether the reply in turn is for the client.
    pub fn is_forwarding(&self) -> bool {
        self.owed.front().is_none_or(|owed| owed.action == Action::Forward)
    }

    /// The reply that is due.
    pub fn next_reply(&self) -> Option<Reply> {
        self.owed.front().map(|owed| owed.reply)
    }

    /// The state that the last ReadyForQuery reported.
    pub fn tx(&self) -> TxStatus {
        self.tx
    }

    fn pop(&mut self) {
        self.owed.pop_front();
        while self.owed.front().is_some_and(|owed| owed.reply == Reply::CopyEnd) {
            self.owed.pop_front();
        }
    }

    fn ready(&mut self, status: Option<TxStatus>) {
        self.tx = status.unwrap_or(self.tx);
        self.copy_in = CopyIn::No;
        self.pop();
        let is_extended = self.owed.iter().any(Owed::opens_batch);
        self.batch = if is_extended { Batch::Open } else { Batch::None };
    }

    /// The server wants data. Syncs sent before the data's end are ignored by it.
    fn begin_copy_in(&mut self) {
        let end = self.owed.iter().position(|owed| owed.reply == Reply::CopyEnd);
        let until = end.unwrap_or(self.owed.len());
        let is_before = |at: usize, owed: &Owed| at < until && owed.reply == Reply::Sync;
        let swallowed = self.owed.iter().enumerate().filter(|(at, o)| is_before(*at, o)).count();
        let mut at = 0;
        self.owed.retain(|owed| {
            let is_kept = !is_before(at, owed) && Some(at) != end;
            at += 1;
            is_kept
        });
        if end.is_none() {
            self.copy_in = CopyIn::Yes { swallowed };
        }
    }

    /// An error of our own request is news to the client if its own requests are dropped with it.
    fn verdict_on_error(&self) -> Verdict {
        let is_ours = |owed: &Owed| owed.action == Action::Skip;
        let end = self.owed.iter().find(|owed| owed.reply.ends_with_ready());
        match (self.owed.front(), end) {
            (Some(front), Some(end)) if is_ours(front) && is_ours(end) => Verdict::OwnError,
            _ => Verdict::Forward,
        }
    }

    /// After an error in the extended protocol a server drops messages up to the next Sync, ours
    /// too; a failed query, function call or Sync still owes its ReadyForQuery.
    fn fail(&mut self, failed: Reply) {
        let swallowed = match std::mem::replace(&mut self.copy_in, CopyIn::No) {
            CopyIn::Yes { swallowed } => swallowed,
            CopyIn::No => 0,
        };
        if failed.ends_with_ready() {
            return;
        }
        match self.owed.iter().position(|owed| owed.reply == Reply::Sync) {
            Some(sync) => drop(self.owed.drain(..sync)),
            None => {
                self.owed.clear();
                self.batch = Batch::Discarding { swallowed };
            }
        }
    }
}
