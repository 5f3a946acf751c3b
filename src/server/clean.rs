//! What somebody has left on a connection is ended before the next gets it.

use std::time::Duration;

use bytes::Buf;

use super::{Front, Server};
use crate::error::PgError;
use crate::wire::frontend;
use crate::wire::pipeline::{Action, TxStatus};

impl Server {
    /// Ends what an abandoned session left: COPY, a running statement, a transaction.
    ///
    /// # Errors
    /// Any failure; the connection is then to be closed.
    pub async fn clean_up(&mut self) -> Result<(), PgError> {
        self.input.advance(std::mem::take(&mut self.skipping));
        self.end_requests();
        if self.pipeline.is_owing() {
            match tokio::time::timeout(Duration::from_millis(100), self.drain()).await {
                Ok(drained) => drained?,
                Err(_) => {
                    self.cancel.begin().send().await;
                    self.drain().await?;
                }
            }
        }
        self.outlive_cancels().await?;
        if self.tx() != TxStatus::Idle {
            self.run("ROLLBACK").await?;
        }
        Ok(())
    }

    /// Waits until no cancel request can hit what is sent from now on: the server has taken them all,
    /// and ignores those that it finds when it reads the next message.
    async fn outlive_cancels(&mut self) -> Result<(), PgError> {
        if !self.cancel.was_used() {
            return Ok(());
        }
        let Some(requests) = self.cancel.settled().await else {
            return Err(self.lost("a cancel request may still be on its way"));
        };
        self.push_sync();
        self.finish().await?;
        self.cancel.forget(requests);
        Ok(())
    }

    /// Ends a COPY whose data nobody will send, and a batch.
    fn end_requests(&mut self) {
        if self.is_copy_in() {
            self.push_with(b'f', Action::Skip, |out| {
                frontend::copy_fail(out, "the client has gone");
            });
        }
        if !self.pipeline.is_settled() {
            self.push_sync();
        }
    }

    /// Reads to the end of everything owed and drops it.
    ///
    /// # Errors
    /// 08006 if the connection is lost.
    pub async fn drain(&mut self) -> Result<(), PgError> {
        self.flush().await?;
        loop {
            while self.next_fake().is_some() {}
            match self.front()? {
                Front::Forward(count) => self.drop_front(count),
                Front::More => {
                    // A server that has just begun to wait for the data of a COPY takes no cancel.
                    if self.is_copy_in() {
                        self.end_requests();
                        self.flush().await?;
                    }
                    self.fill().await?;
                }
                Front::Done => return Ok(()),
            }
        }
    }
}
