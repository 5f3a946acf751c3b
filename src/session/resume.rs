//! Transactions that outlive their server (`resume_transactions`). What the client says in a block is
//! kept, with a digest of what it was told. If a server of the block is lost before COMMIT was sent, all
//! of it is said again on the primary that there is then. If the client was told nothing that would now
//! be otherwise, it goes on and does not notice; else the block fails as without this.
//!
//! A transaction that the lost server may have committed is never repeated: its error is 08007.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::failover::is_loss;
use super::{Prepared, Session, SqlStatements, transaction::Transaction};
use crate::exec::Failure;
use crate::net::Tape;
use crate::plan::{Action as PlanAction, Local};
use crate::sql::comment;
use crate::wire::frontend;
use crate::wire::frontend::view::{Bind, Parse};

/// How often one block may lose a server.
const LOSSES: u8 = 5;
/// Sync, which ends a batch.
const SYNC: &[u8] = b"S\0\0\0\x04";

/// The block at hand; the client's [`Tape`] has what was said.
pub(super) struct Resume {
    /// The request that opened it.
    opened_by: u64,
    /// Where the request at hand begins on the tape, and where the data begin that it has asked for.
    request: usize,
    data: usize,
    /// Bytes of answers up to that request.
    answered: u64,
    losses: u8,
    /// The block has committed: what its last request goes on with is none of it.
    is_committed: bool,
    /// As they were before the block, which does not take them back if it fails: the unnamed one, and
    /// the others from when the block changes them on.
    unnamed: Option<Arc<Prepared>>,
    named: Option<Named>,
}

/// A client's prepared statements.
struct Named {
    statements: HashMap<Bytes, Arc<Prepared>, foldhash::fast::RandomState>,
    sql: Option<Box<SqlStatements>>,
}

impl Session {
    /// A message was taken that may be the first of a request.
    pub(super) fn note_message(&mut self, len: usize) {
        if let (Some(resume), Some(tape)) = (&mut self.resume, &self.client.tape)
            && self.batch.is_empty()
            && !tape.is_replaying()
        {
            resume.request = tape.requests().len().saturating_sub(len);
            resume.answered = tape.answered(self.client.out.len());
        }
    }

    /// A Query is about to run.
    pub(super) fn tape_query(&mut self, frame: &Bytes) {
        if self.may_begin_tape()
            && let Ok(sql) = frontend::view::query(frame)
            && std::str::from_utf8(sql).is_ok_and(comment::opens_block)
        {
            self.begin_tape(&[frame]);
        }
        self.note_request();
    }

    /// A batch is about to run; `is_sync`: with the Sync that ends it.
    pub(super) fn tape_batch(&mut self, batch: &[(u8, Bytes)], is_sync: bool) {
        if is_sync && self.may_begin_tape() && batch.iter().any(|it| self.opens(it.0, &it.1)) {
            let sync = Bytes::from_static(SYNC);
            let frames: Vec<&Bytes> = batch.iter().map(|it| &it.1).chain([&sync]).collect();
            self.begin_tape(&frames);
        }
        self.note_request();
    }

    /// Whether a message of the extended protocol is about BEGIN.
    fn opens(&self, tag: u8, frame: &Bytes) -> bool {
        let text_opens =
            |it: Parse<'_>| std::str::from_utf8(it.sql).is_ok_and(comment::opens_block);
        match tag {
            b'P' => Parse::read(frame).is_ok_and(text_opens),
            b'B' => {
                let prepared =
                    Bind::read(frame).ok().and_then(|it| self.statements.get(it.statement));
                prepared.is_some_and(|it| {
                    matches!(it.statement.plan.action, PlanAction::Local(Local::Begin { .. }))
                })
            }
            _ => false,
        }
    }

    fn may_begin_tape(&mut self) -> bool {
        self.database.config.resumes
            && self.resume.is_none()
            && self.tx.is_none()
            && !self.keeps_servers()
            && self.members.is_empty()
    }

    fn begin_tape(&mut self, frames: &[&Bytes]) {
        let limit = self.cluster.config.limits.resume_bytes;
        let mut tape = Box::new(Tape::new(limit, self.client.out.len()));
        frames.iter().for_each(|it| tape.take(it));
        self.client.tape = Some(tape);
        self.resume = Some(Box::new(Resume {
            opened_by: self.queries,
            request: 0,
            data: 0,
            answered: 0,
            losses: 0,
            is_committed: false,
            unnamed: self.statements.get(&b""[..]).cloned(),
            named: None,
        }));
    }

    /// A request at the front of the input is about to run, which is taken once it is answered.
    pub(super) fn note_front(&mut self) {
        self.note_message(0);
        self.note_request();
    }

    /// The request at hand is on the tape; what follows there are the data that it asks for.
    pub(super) fn note_request(&mut self) {
        if let (Some(resume), Some(tape)) = (&mut self.resume, &self.client.tape)
            && !tape.is_replaying()
        {
            resume.data = tape.requests().len();
        }
    }

    /// Before named statements change, which the end of a block does not take back.
    pub(super) fn keep_statements(&mut self) {
        if let Some(resume) = &mut self.resume
            && resume.named.is_none()
        {
            let (statements, sql) = (self.statements.clone(), self.sql_statements.clone());
            resume.named = Some(Named { statements, sql });
        }
    }

    /// The client has a statement of this name.
    pub(super) fn put_statement(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        if !name.is_empty() {
            self.keep_statements();
        }
        self.statements.insert(Bytes::copy_from_slice(name), prepared);
    }

    /// The client has no statement of this name any more; whether it had.
    pub(super) fn drop_statement(&mut self, name: &[u8]) -> bool {
        if !name.is_empty() {
            self.keep_statements();
        }
        self.statements.remove(name).is_some()
    }

    /// A request has ended, and its answer was given.
    ///
    /// # Errors
    /// [`Failure::Gone`] if the client has had more of an answer than there is now.
    pub(super) fn end_taped(&mut self) -> Result<(), Failure> {
        let is_replaying = self.client.tape.as_ref().is_some_and(|it| it.is_replaying());
        if self.has_had_answer() && !is_replaying {
            return Err(Failure::Gone);
        }
        self.trim_tape();
        Ok(())
    }

    /// A request has ended: what is not to be repeated, or cannot be, is kept no longer.
    pub(super) fn trim_tape(&mut self) {
        let (Some(resume), Some(tape)) = (&self.resume, &self.client.tape) else { return };
        if tape.is_replaying() {
            return;
        }
        let is_same = |it: &Transaction| it.is_explicit && it.number == resume.opened_by;
        let is_over = resume.is_committed || !self.tx.as_deref().is_some_and(is_same);
        if tape.is_full() {
            self.proxy.metrics.limits.reached("limits.resume_bytes");
        } else if !is_over && !self.keeps_servers() {
            return;
        }
        self.drop_tape();
    }

    /// A block has committed, maybe amid a request.
    pub(super) fn note_committed(&mut self) {
        if let Some(resume) = &mut self.resume {
            resume.is_committed = true;
        }
    }

    /// From now on the block is not repeated.
    fn drop_tape(&mut self) {
        (self.client.tape, self.resume) = (None, None);
    }

    /// Whether the client has had a part of the answer at hand, which is given once more.
    pub(super) fn has_had_answer(&self) -> bool {
        self.client.tape.as_ref().is_some_and(|it| it.has_had())
    }

    /// The session is to end in the middle: the client gets nothing but what comes now.
    pub(super) fn stop_resuming(&mut self) {
        let is_amid = |it: &Tape| it.is_replaying() || it.has_had();
        if self.client.tape.as_deref().is_some_and(is_amid) {
            self.client.out.clear();
            self.drop_tape();
        }
    }

    /// Whether the request at hand, which has come to this end, is to run again: its server was lost, and
    /// all that the block did before was repeated on another.
    ///
    /// # Errors
    /// [`Failure::Gone`] if the client has gone.
    pub(super) async fn resumes(&mut self, done: &Result<(), Failure>) -> Result<bool, Failure> {
        let (Some(resume), Some(tape)) = (&self.resume, &self.client.tape) else {
            return Ok(false);
        };
        let is_kept = !resume.is_committed && !tape.is_replaying() && !tape.is_full();
        let is_left = resume.losses < LOSSES && is_kept;
        let is_lost = matches!(done, Err(Failure::Error(error)) if is_loss(error));
        if !(is_lost && is_left && self.has_lost_server()) || self.keeps_servers() {
            return Ok(false);
        }
        let metrics = self.database.state.metrics.clone();
        let pid = self.handle.pid;
        let goes_on = Box::pin(self.repeat_block()).await?;
        tracing::debug!(
            session = pid,
            goes_on,
            "a transaction was repeated after its server was lost"
        );
        match goes_on {
            true => metrics.resumed.inc(),
            false => metrics.not_resumed.inc(),
        }
        Ok(goes_on)
    }

    /// Whether a server of the session was lost, not only closed for what the client did.
    fn has_lost_server(&mut self) -> bool {
        self.members.iter_mut().any(|it| it.server().is_lost())
    }

    /// Says again what the client said before the request at hand; whether the answers are the same.
    /// If not, the block is there without a server, to be failed by the request at hand.
    async fn repeat_block(&mut self) -> Result<bool, Failure> {
        let Some((said, data)) = self.said() else { return Ok(false) };
        // COMMIT has left it already.
        let is_open = self.tx.is_some();
        let is_cut_off = self.members.iter_mut().any(|it| it.server().is_passing());
        let (statements, sql) = (self.statements.clone(), self.sql_statements.clone());
        let goes_on = loop {
            self.undo_block().await?;
            if !self.rewind_tape() {
                break false;
            }
            self.client.put_before(&said);
            let done = self.say_again(said.len()).await;
            // What was not taken of it is not the client's to say.
            let taken = self.client.tape.as_ref().map_or(0, |it| it.taken());
            let left = said.len().saturating_sub(taken).min(self.client.input.len());
            drop(self.client.input.split_to(left));
            match done {
                Some(done) => break done? && self.end_replay(),
                None => continue,
            }
        };
        if !goes_on && is_cut_off {
            return Err(Failure::Gone);
        }
        if !goes_on {
            self.undo_block().await?;
            self.drop_tape();
            (self.statements, self.sql_statements) = (statements, sql);
            if is_open {
                self.begin("BEGIN", true, None, None);
            }
        }
        self.client.put_before(&data);
        self.handle.activity.run(self.queries);
        Ok(goes_on)
    }

    /// What the client has said before the request at hand, and the data which that has taken.
    fn said(&self) -> Option<(Bytes, Bytes)> {
        let (resume, tape) = (self.resume.as_ref()?, self.client.tape.as_ref()?);
        let said = tape.requests().get(..resume.request)?;
        let data = tape.requests().get(resume.data..)?;
        Some((Bytes::copy_from_slice(said), Bytes::copy_from_slice(data)))
    }

    /// Leaves the block and its servers as if it had never been; answers that wait are dropped.
    async fn undo_block(&mut self) -> Result<(), Failure> {
        let older = self.client.tape.as_ref().map_or(0, |it| it.older());
        self.client.out.truncate(older);
        self.flush().await?;
        self.rollback().await;
        self.drop_broken();
        self.release();
        self.client.out.clear();
        self.batch.clear();
        self.batch_bytes = 0;
        self.skips_to_sync = false;
        self.portals.clear();
        (self.watching, self.avoid) = (None, None);
        Ok(())
    }

    /// The tape goes back to its beginning, and the client's statements to what they were then; `false`
    /// if that was tried too often.
    fn rewind_tape(&mut self) -> bool {
        let (Some(resume), Some(tape)) = (&mut self.resume, &mut self.client.tape) else {
            return false;
        };
        if resume.losses >= LOSSES {
            return false;
        }
        resume.losses += 1;
        tape.replay(resume.data);
        if let Some(named) = &resume.named {
            self.statements = named.statements.clone();
            self.sql_statements = named.sql.clone();
        }
        match &resume.unnamed {
            Some(it) => drop(self.statements.insert(Bytes::new(), Arc::clone(it))),
            None => drop(self.statements.remove(&b""[..])),
        }
        true
    }

    /// Handles the first `len` bytes of the input, which were handled before. Whether the answers were the
    /// same as far as the client has had them; `None`: a server was lost again.
    async fn say_again(&mut self, len: usize) -> Option<Result<bool, Failure>> {
        loop {
            match &self.client.tape {
                Some(tape) if tape.taken() < len => (),
                tape => return Some(Ok(tape.is_some())),
            }
            let Ok(Some((tag, frame))) = self.client.take_frame() else { return Some(Ok(false)) };
            let done = Box::pin(self.handle(tag, frame)).await;
            if self.has_lost_server() {
                return None;
            }
            let differs = self.client.tape.as_ref().is_none_or(|it| it.differs());
            let is_open = self.tx.as_ref().is_some_and(|it| it.is_explicit);
            if differs || (!is_open && self.batch.is_empty()) {
                return Some(Ok(false));
            }
            if let Err(failure) = done {
                return Some(Err(failure));
            }
        }
    }

    /// Whether all was said again and has been answered as before.
    fn end_replay(&mut self) -> bool {
        let (Some(resume), Some(tape)) = (&mut self.resume, &mut self.client.tape) else {
            return false;
        };
        self.members.iter_mut().for_each(|it| it.server().begin_request());
        resume.opened_by = self.tx.as_ref().map_or(resume.opened_by, |tx| tx.number);
        tape.end_replay();
        tape.answered(self.client.out.len()) == resume.answered && !tape.differs()
    }
}
