//! What a server says, as far as it is for the client.

use bytes::{Buf, Bytes};

use super::repeated::{AsQuery, Loss, Stale, unprepared};
use super::{Server, error_of};
use crate::error::{PgError, sqlstate};
use crate::wire::pipeline::{TxStatus, Verdict};
use crate::wire::{backend, frame};

/// Frames above this are handed on in parts; smaller ones only when whole, so that an error can be
/// told between two frames when the server dies.
const WHOLE_BYTES: usize = 64 * 1024;

/// What is behind a frame that is held back.
enum Behind {
    /// It must be read.
    Nothing,
    /// All went well.
    Rest,
    /// The input is another now.
    Changed,
}

/// What stands at the front of a server's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// So many bytes are for the client.
    Forward(usize),
    /// More must be read.
    More,
    /// Everything owed has been answered.
    Done,
}

impl Server {
    /// Looks at the frames at the front of the input as far as they are there. ReadyForQuery is never
    /// forwarded: the session tells its client when it is ready.
    ///
    /// # Errors
    /// 08P01 if the server sends what nobody asked for; a server's FATAL as an ERROR.
    pub fn front(&mut self) -> Result<Front, PgError> {
        self.input.advance(std::mem::take(&mut self.skipping));
        let mut end = self.passing.min(self.input.len());
        self.passing -= end;
        while end < self.input.len() && self.pipeline.is_owing() {
            if self.as_query == AsQuery::No {
                end += self.pipeline.skim(&self.input[end..]);
            }
            if self.pipeline.is_fake_next() {
                break;
            }
            let Some(next) = frame::next_frame(&self.input[end..])? else { break };
            let part = next.len.min(self.input.len() - end);
            let is_whole = part == next.len;
            if !is_whole && (next.len <= WHOLE_BYTES || !matches!(next.tag, b'D' | b'd')) {
                break;
            }
            if next.tag == b'E' && self.explain_cancel(end, next.len) {
                continue;
            }
            if self.as_query.holds_back(next.tag) {
                match self.look_behind(next.tag, end, part)? {
                    Behind::Nothing => break,
                    Behind::Changed => continue,
                    Behind::Rest => (),
                }
            }
            match self.reply(next.tag, end..end + part)? {
                Verdict::Forward if next.tag != b'Z' => {
                    end += part;
                    self.passing = next.len - part;
                }
                Verdict::Forward if self.passes_ready(end + part) => end += part,
                // What came before the error is the beginning of an answer that another server gives.
                _ if matches!(self.loss, Loss::Found { .. }) && !self.has_answered => {
                    self.input.advance(end + part);
                    end = 0;
                }
                _ if end == 0 => self.input.advance(part),
                _ => {
                    self.skipping = part;
                    break;
                }
            }
            if self.pipeline.is_fake_next() {
                break;
            }
        }
        Ok(match end {
            0 if self.pipeline.is_fake_next() => Front::Forward(0),
            0 if !self.pipeline.is_owing() => Front::Done,
            0 => Front::More,
            end => Front::Forward(end),
        })
    }

    /// Looks behind a frame at `at` that a Query gets only after more has gone well: what that says is
    /// told before it, and an error in its place.
    fn look_behind(&mut self, tag: u8, at: usize, len: usize) -> Result<Behind, PgError> {
        let behind = &self.input[at + len..];
        let Some(next) = frame::next_frame(behind)?.filter(|it| it.len <= behind.len()) else {
            return Ok(Behind::Nothing);
        };
        match next.tag {
            b'N' | b'A' | b'S' => self.input[at..at + len + next.len].rotate_left(len),
            b'E' => {
                self.reply(tag, at..at + len)?;
                let rest = self.input.split_off(at + len);
                self.input.truncate(at);
                self.input.unsplit(rest);
            }
            _ => return Ok(Behind::Rest),
        }
        Ok(Behind::Changed)
    }

    /// Whether the ReadyForQuery that ends at `end` of the input is for the client.
    fn passes_ready(&mut self, end: usize) -> bool {
        let status = self.input.get(end - 1).and_then(|it| TxStatus::from_byte(*it));
        let passes = self.ready_if.is_some() && self.ready_if == status;
        if passes {
            (self.ready_if, self.has_told_ready) = (None, true);
        }
        passes
    }

    /// The first bytes of the input, which [`Self::front`] has said are for the client.
    pub fn front_bytes(&self, count: usize) -> &[u8] {
        &self.input[..count]
    }

    /// Drops bytes off the front of the input: they were handed on.
    pub fn drop_front(&mut self, count: usize) {
        self.has_answered = true;
        self.input.advance(count);
    }

    /// The next frame that is for the client, if it is there whole: `None` if more must be read,
    /// `Some(None)` if everything owed was answered. ReadyForQuery is kept back.
    ///
    /// # Errors
    /// As [`Self::front`].
    pub fn take_frame(&mut self) -> Result<Option<Option<(u8, Bytes)>>, PgError> {
        self.input.advance(std::mem::take(&mut self.skipping));
        while self.pipeline.is_owing() {
            if let Some(fake) = self.next_fake() {
                return Ok(Some(Some((fake[0], fake))));
            }
            let Some(next) = frame::next_frame(&self.input)? else { return Ok(None) };
            if self.input.len() < next.len {
                return Ok(None);
            }
            if next.tag == b'E' && self.explain_cancel(0, next.len) {
                continue;
            }
            let verdict = self.reply(next.tag, 0..next.len)?;
            let frame = self.input.split_to(next.len).freeze();
            if verdict == Verdict::Forward && next.tag != b'Z' {
                return Ok(Some(Some((next.tag, frame))));
            }
        }
        Ok(Some(None))
    }

    /// Where a statement was cancelled for a reason of the proxy's own, puts that in the place of the
    /// error at `at`; whether it did.
    fn explain_cancel(&mut self, at: usize, len: usize) -> bool {
        let fields = backend::ErrorFields::read(&self.input[at..at + len]);
        if !fields.is_ok_and(|it| it.code() == sqlstate::QUERY_CANCELED.as_bytes()) {
            return false;
        }
        let Some(reason) = self.cancel.take_reason() else { return false };
        let rest = self.input.split_off(at + len);
        self.input.truncate(at);
        backend::error_response(&mut self.input, &reason);
        self.input.unsplit(rest);
        true
    }

    /// Whether a whole frame is in memory already.
    pub fn has_frame(&self) -> bool {
        matches!(frame::next_frame(&self.input[self.skipping..]),
            Ok(Some(next)) if self.input.len() - self.skipping >= next.len)
    }

    /// The next frame that is for the client, whole; `None` when everything owed was answered.
    ///
    /// # Errors
    /// As [`Self::front`] and [`Self::fill`].
    pub async fn next_frame(&mut self) -> Result<Option<(u8, Bytes)>, PgError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Takes a fake reply whose turn has come.
    pub fn next_fake(&mut self) -> Option<Bytes> {
        let fake = self.pipeline.next_fake()?;
        self.parsed += usize::from(fake.first() == Some(&b'1'));
        Some(fake)
    }

    fn reply(&mut self, tag: u8, at: std::ops::Range<usize>) -> Result<Verdict, PgError> {
        let frame = &self.input[at];
        let (mut status, mut is_repeated) = (None, false);
        match tag {
            b'Z' => status = backend::view::ready_status(frame).ok(),
            b'E' => {
                self.has_failed = true;
                let fields = backend::ErrorFields::read(frame);
                if fields.as_ref().is_ok_and(backend::ErrorFields::is_fatal) {
                    let error = PgError { is_passing: !self.has_sent, ..error_of(frame) };
                    (self.is_broken, self.is_lost) = (true, error.is_of_going());
                    let is_conflict = self.is_replica && is_conflict(error.code.as_bytes());
                    if self.is_lost || is_conflict {
                        self.note_loss(is_conflict);
                    }
                    return Err(error);
                }
                let is_conflict =
                    self.is_replica && fields.as_ref().is_ok_and(|it| is_conflict(it.code()));
                // Who has cancelled it is told how it has ended.
                let may_hide =
                    self.loss == Loss::Hide && !self.has_answered && !self.cancel.was_used();
                if is_conflict && (may_hide || self.loss == Loss::Note) {
                    self.loss = Loss::Found { is_conflict: true, is_hidden: may_hide };
                    is_repeated = may_hide;
                }
                self.unprepared = match &fields {
                    Ok(fields) if self.as_query != AsQuery::No => {
                        unprepared(&self.pipeline, fields.code())
                    }
                    _ => None,
                };
                if fields.is_ok_and(|it| it.is_stale_plan()) {
                    self.stale = Stale::Found { is_hidden: self.stale == Stale::Hide };
                }
            }
            b'S' => {
                if let Ok(it) = backend::Parameter::read(frame) {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    self.status.insert(text(it.name), text(it.value));
                }
                if !self.pipeline.is_forwarding() {
                    return Ok(Verdict::Skip);
                }
            }
            b'A' if !self.hears => return Ok(Verdict::Skip),
            _ => (),
        }
        let verdict = self.pipeline.on_reply(tag, status).map_err(|unexpected| {
            self.is_broken = true;
            PgError::from(unexpected).hint(format!("server {} is out of step", self.cancel.host))
        })?;
        self.has_swallowed_sync |= tag == b'G' && self.pipeline.has_swallowed_sync();
        if tag == b'1' && verdict == Verdict::Forward {
            self.parsed += 1;
        }
        let is_hidden = self.stale == (Stale::Found { is_hidden: true })
            || self.unprepared.is_some()
            || is_repeated;
        if tag == b'E' && is_hidden {
            (self.has_failed, self.ready_if) = (false, None);
            return Ok(Verdict::Skip);
        }
        if verdict == Verdict::OwnError && !self.is_private {
            // Our own Bind of the client's values: the client must hear of it.
            return Ok(Verdict::Forward);
        }
        if verdict == Verdict::OwnError {
            let error = error_of(&self.input[..]);
            self.own_error.get_or_insert(error);
        }
        Ok(verdict)
    }
}

/// Whether a replica ends a statement since it has to replay what it reads from, or waits for that in
/// vain.
fn is_conflict(code: &[u8]) -> bool {
    code == sqlstate::SERIALIZATION_FAILURE.as_bytes()
        || code == sqlstate::DEADLOCK_DETECTED.as_bytes()
}
