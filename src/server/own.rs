//! Requests of the proxy's own.

use std::time::Duration;

use super::{Server, error_of};
use crate::error::PgError;
use crate::wire::backend;
use crate::wire::pipeline::Action;

impl Server {
    /// Asks the server for a sign of life: one Sync, one ReadyForQuery.
    pub async fn ping(&mut self, deadline: Duration) -> bool {
        self.push_sync();
        matches!(tokio::time::timeout(deadline, self.finish()).await, Ok(Ok(())))
    }

    /// Writes what is queued and reads the replies, all of which must be of our own asking.
    ///
    /// # Errors
    /// The server's error as a [`PgError`], or 08006.
    pub async fn finish(&mut self) -> Result<(), PgError> {
        self.own_error = None;
        self.is_private = true;
        let done = self.read_own().await;
        self.is_private = false;
        done?;
        self.own_error.take().map_or(Ok(()), Err)
    }

    async fn read_own(&mut self) -> Result<(), PgError> {
        self.flush().await?;
        while let Some((tag, frame)) = self.next_frame().await? {
            if tag == b'E' && self.own_error.is_none() {
                self.own_error = Some(error_of(&frame));
            }
        }
        Ok(())
    }

    /// Runs SQL of our own to its end.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn run(&mut self, sql: &str) -> Result<(), PgError> {
        self.push_query(sql, Action::Skip);
        self.finish().await
    }

    /// Runs a query of our own; its rows as text.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, PgError> {
        self.push_query(sql, Action::Forward);
        self.flush().await?;
        let (mut rows, mut failed) = (Vec::new(), None);
        while let Some((tag, frame)) = self.next_frame().await? {
            match tag {
                b'D' => {
                    let text = |range| String::from_utf8_lossy(&frame[range]).into_owned();
                    let cells = backend::DataRow::read(&frame)?;
                    let cells: Result<Vec<_>, _> =
                        cells.map(|cell| cell.map(|it| it.map(text))).collect();
                    rows.push(cells?);
                }
                b'E' => failed = Some(error_of(&frame)),
                _ => (),
            }
        }
        failed.map_or(Ok(rows), Err)
    }
}
