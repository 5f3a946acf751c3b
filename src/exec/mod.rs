//! Carries a plan out on leased servers.

pub mod broadcast;
pub mod copy;
pub mod deadlock;
pub mod gather;
pub mod member;
pub mod merge;
pub mod relay;
pub mod two_phase;

pub use member::Member;

use bytes::Bytes;

use crate::error::PgError;

/// Why a statement could not be carried to its end.
#[derive(Debug)]
pub enum Failure {
    /// The client has gone: nobody is left to be told.
    Gone,
    /// An error of our own.
    Error(PgError),
    /// A server's ErrorResponse, to be forwarded as it came.
    Server(Bytes),
}

impl From<PgError> for Failure {
    fn from(error: PgError) -> Self {
        Self::Error(error)
    }
}
