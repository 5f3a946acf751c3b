//! The words of [`pipeline`](super::pipeline): requests, what they owe, where replies go.

use std::fmt;

use bytes::Bytes;

use crate::error::{PgError, sqlstate};

/// What happens to the reply of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The client asked and gets the reply.
    Forward,
    /// We asked (an injected `Parse`); the client must not see the reply.
    Skip,
    /// The server was not asked; the client gets this frame in its turn.
    Fake(Bytes),
}

/// The transaction state a server reports with ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxStatus {
    Idle,
    Open,
    Failed,
}

impl TxStatus {
    /// From the wire's `I`, `T`, `E`.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Open),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    /// The wire's `I`, `T`, `E`.
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Where a server's frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Forward,
    Skip,
    /// An error that answers a request of ours whose ReadyForQuery is ours too: the client's own
    /// requests go on after it, so the caller decides what the client learns.
    OwnError,
}

/// A frame nobody asked for; the connection is of no more use. An `E` with nothing owed is the
/// server's farewell (an administrator's command, a timeout).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexpected {
    pub tag: u8,
    pub owed: Option<Reply>,
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = self.tag.escape_ascii();
        match self.owed {
            Some(reply) => write!(f, "server sent '{tag}', expected the reply to {reply:?}"),
            None => write!(f, "server sent '{tag}', expected nothing"),
        }
    }
}

impl std::error::Error for Unexpected {}

impl From<Unexpected> for PgError {
    fn from(unexpected: Unexpected) -> Self {
        Self::new(sqlstate::PROTOCOL_VIOLATION, unexpected.to_string())
    }
}

/// What kind of reply is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Sync,
    Query,
    FunctionCall,
    /// No reply at all: where in the stream the client ended its COPY data before the server said
    /// that it wants some.
    CopyEnd,
}

impl Reply {
    /// The reply to a request; `None` for Flush, CopyData, Terminate, which owe nothing.
    pub(super) fn to(request: u8) -> Option<Self> {
        Some(match request {
            b'P' => Self::Parse,
            b'B' => Self::Bind,
            b'D' => Self::Describe,
            b'E' => Self::Execute,
            b'C' => Self::Close,
            b'S' => Self::Sync,
            b'Q' => Self::Query,
            b'F' => Self::FunctionCall,
            b'c' | b'f' => Self::CopyEnd,
            _ => return None,
        })
    }

    /// Whether ReadyForQuery ends it, also after an error.
    pub(super) fn ends_with_ready(self) -> bool {
        matches!(self, Self::Sync | Self::Query | Self::FunctionCall)
    }
}
