//! The bound on what one merge holds.

use crate::error::{PgError, sqlstate};

/// Bytes a merge may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub bytes: usize,
}

/// Bytes held, and allowed.
#[derive(Debug)]
pub(super) struct Memory {
    used: usize,
    limits: Limits,
}

impl Memory {
    pub(super) fn new(limits: Limits) -> Self {
        Self { used: 0, limits }
    }

    /// Accounts for `bytes` more; 53400 above the limit.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), PgError> {
        self.used += bytes;
        if self.used <= self.limits.bytes { Ok(()) } else { Err(self.exceeded()) }
    }

    /// Accounts for `bytes` less.
    pub(super) fn give(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
    }

    #[cold]
    fn exceeded(&self) -> PgError {
        PgError::limit(
            sqlstate::CONFIGURATION_LIMIT_EXCEEDED,
            format!("merging the shards' rows needs more than {} bytes", self.limits.bytes),
            &"limits.merge_bytes",
            self.limits.bytes,
        )
        .hint("Narrow the statement, or raise limits.merge_bytes.")
    }
}
