//! Errors that the client need not hear of, since its request can be carried out in another way.

use super::Server;
use crate::wire::pipeline::{Pipeline, Reply};

/// A prepared statement whose result has changed with the schema cannot run any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// The client is told.
    Tell,
    /// The client is not told, as its request can be repeated.
    Hide,
    /// It has happened; `is_hidden`: the client was not told.
    Found { is_hidden: bool },
}

/// What becomes of a request that its server, which goes away, does not finish, or must not since the
/// server replays what it reads from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loss {
    /// The client is told.
    #[default]
    Tell,
    /// It is noted.
    Note,
    /// It is noted, and the client is not told if it was told nothing before.
    Hide,
    /// It has happened; `is_conflict`: with what a replica has to replay, as may be on others, too;
    /// `is_hidden`: the client was not told.
    Found { is_conflict: bool, is_hidden: bool },
}

/// What of a statement that was a Query a server did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unprepared {
    /// Its prepared form.
    Parse,
    /// A value; the statement itself is prepared.
    Value,
    /// What was prepared before: it no longer fits the schema, or is not there.
    Statement,
}

/// How a statement is answered that came as a Query and runs as a prepared one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AsQuery {
    /// It did not.
    No,
    /// `returns`: its columns are told once it has run.
    Yes { returns: bool },
}

impl AsQuery {
    /// Whether a frame waits for what comes behind it: CommandComplete for the commit.
    pub(super) fn holds_back(self, tag: u8) -> bool {
        match self {
            Self::No => false,
            Self::Yes { returns } => tag == b'C' || tag == b'T' && returns,
        }
    }
}

impl Server {
    /// Says what becomes of this request if the server is lost, for one that can be run again.
    pub fn watch_loss(&mut self, loss: Loss, is_replica: bool) {
        (self.loss, self.is_replica) = (loss, is_replica);
    }

    /// Whether the request can be run again on another server: this one was lost, nobody has cancelled it. It
    /// must be if the client was not told.
    pub fn found_loss(&self) -> bool {
        match self.loss {
            Loss::Found { is_hidden, .. } => is_hidden || !self.cancel.was_used(),
            _ => false,
        }
    }

    /// Whether that was since a replica had to replay something.
    pub fn found_conflict(&self) -> bool {
        matches!(self.loss, Loss::Found { is_conflict: true, .. })
    }

    pub(super) fn note_loss(&mut self, is_conflict: bool) {
        if self.loss != Loss::Tell {
            self.loss = Loss::Found { is_conflict, is_hidden: false };
        }
    }

    /// Keeps from the client that a prepared statement no longer fits the schema: its request will be
    /// repeated.
    pub fn hide_stale(&mut self) {
        self.stale = Stale::Hide;
    }

    /// What was queued came as a Query: the client is not told what the server does not take of its
    /// prepared form, CommandComplete follows the commit, and if `returns` the columns follow the work.
    pub fn answer_as_query(&mut self, returns: bool) {
        self.as_query = AsQuery::Yes { returns };
    }

    /// What the server did not take of the prepared form of a Query. The client was told nothing.
    pub fn unprepared(&self) -> Option<Unprepared> {
        self.unprepared
    }

    /// Whether a prepared statement no longer fitted the schema, and whether that was kept from the
    /// client.
    pub fn found_stale(&self) -> Option<bool> {
        match self.stale {
            Stale::Found { is_hidden } => Some(is_hidden),
            Stale::Tell | Stale::Hide => None,
        }
    }
}

/// What a server did not take that reports this before anything ran. Where it is not for the text or a
/// value (a cancel, a timeout, a deadlock) that is the statement's own end.
pub(super) fn unprepared(pipeline: &Pipeline, code: &[u8]) -> Option<Unprepared> {
    let class = code.get(..2)?;
    if ![b"0A", b"22", b"26", b"3F", b"42", b"54"].iter().any(|it| class == *it) {
        return None;
    }
    match pipeline.next_reply()? {
        Reply::Parse => Some(Unprepared::Parse),
        Reply::Bind if class == b"22" => Some(Unprepared::Value),
        Reply::Bind => Some(Unprepared::Statement),
        _ => None,
    }
}
