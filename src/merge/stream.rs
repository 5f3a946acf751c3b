//! Rows of each shard that are not sent yet.

use std::collections::VecDeque;

use super::order::{Merged, Next, Parts};
use super::output::Row;
use crate::error::{PgError, sqlstate};
use crate::wire::backend::CommandTag;

/// One stream per shard.
#[derive(Debug)]
pub(super) struct Streams(Vec<Stream>);

/// Rows with their sort keys, and whether more may come.
#[derive(Debug, Default)]
struct Stream {
    queue: VecDeque<(Parts, Row)>,
    is_ended: bool,
}

impl Streams {
    pub(super) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Stream::default()).collect())
    }

    pub(super) fn push(&mut self, shard: usize, parts: Parts, row: Row) -> Result<(), PgError> {
        self.open(shard)?.queue.push_back((parts, row));
        Ok(())
    }

    /// No more rows come; `tag` is that of the shard's CommandComplete.
    pub(super) fn end(&mut self, shard: usize, tag: &[u8]) -> Result<(), PgError> {
        if CommandTag::of(tag).verb != b"SELECT" {
            let tag = tag.escape_ascii();
            return Err(unexpected(format!("shard {shard} answered {tag}, expected SELECT")));
        }
        self.open(shard)?.is_ended = true;
        Ok(())
    }

    fn open(&mut self, shard: usize) -> Result<&mut Stream, PgError> {
        let stream = self.0.get_mut(shard).filter(|stream| !stream.is_ended);
        stream.ok_or_else(|| unexpected(format!("shard {shard} sent more after its end")))
    }

    /// The first shard from which more may come.
    pub(super) fn first_open(&self) -> Option<usize> {
        self.0.iter().position(|stream| !stream.is_ended)
    }

    /// The next row of a shard.
    pub(super) fn next(&mut self, shard: usize) -> Next<Row> {
        let Some(stream) = self.0.get_mut(shard) else { return Next::End };
        match stream.queue.pop_front() {
            Some((parts, row)) => Next::Row(parts, row),
            None if stream.is_ended => Next::End,
            None => Next::Wait,
        }
    }

    /// The next row of shard `at`, then of the shards after it.
    pub(super) fn concat(&mut self, at: &mut usize) -> Merged<Row> {
        while *at < self.0.len() {
            match self.next(*at) {
                Next::Row(_, row) => return Merged::Row(*at, row),
                Next::Wait => return Merged::Need(*at),
                Next::End => *at += 1,
            }
        }
        Merged::End
    }

    /// Forgets all rows.
    pub(super) fn clear(&mut self) {
        self.0.iter_mut().for_each(|stream| stream.queue = VecDeque::new());
    }
}

#[cold]
fn unexpected(message: String) -> PgError {
    PgError::new(sqlstate::PROTOCOL_VIOLATION, message)
}
