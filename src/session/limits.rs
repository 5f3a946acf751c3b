//! Sizes that a client may not exceed.

use super::Session;
use crate::config::show_bytes;
use crate::error::{PgError, sqlstate};

impl Session {
    /// An error for a statement that is too long.
    pub(super) fn check_text(&self, sql: &[u8]) -> Result<(), PgError> {
        let limit = self.client.text_limit;
        if sql.len() <= limit {
            return Ok(());
        }
        Err(PgError::limit(
            sqlstate::PROGRAM_LIMIT_EXCEEDED,
            format!("a statement of {} bytes is too long", sql.len()),
            &"limits.query_bytes",
            show_bytes(limit as u64),
        )
        .hint("pass values as parameters or by COPY, or raise limits.query_bytes"))
    }

    /// An error for one named prepared statement too many.
    pub(super) fn check_count(&self) -> Result<(), PgError> {
        let limit = self.cluster.config.limits.client_statements;
        if self.statements.len() < limit {
            return Ok(());
        }
        Err(PgError::limit(
            sqlstate::CONFIGURATION_LIMIT_EXCEEDED,
            "this session has too many prepared statements",
            &"limits.client_statements",
            limit,
        )
        .hint("DEALLOCATE those that are not used, or raise limits.client_statements"))
    }
}
