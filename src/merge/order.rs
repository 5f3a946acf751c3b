//! Sort keys of rows, and the streaming merge of sorted streams.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use bytes::Bytes;
use smallvec::SmallVec;

use super::columns::{Fields, Order};
use super::value::Key;
use crate::error::PgError;

/// One sort key of one row, ordered as the answer is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    NullFirst,
    Rising(Key),
    Falling(Reverse<Key>),
    NullLast,
}

impl Part {
    fn rank(&self) -> u8 {
        match self {
            Self::NullFirst => 0,
            Self::Rising(_) | Self::Falling(_) => 1,
            Self::NullLast => 2,
        }
    }
}

impl Ord for Part {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Rising(a), Self::Rising(b)) => a.cmp(b),
            (Self::Falling(a), Self::Falling(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Part {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The sort keys of one row.
pub(super) type Parts = SmallVec<[Part; 2]>;

/// Reads the sort keys of a row.
pub(super) fn parts(orders: &[Order], frame: &Bytes, fields: &Fields) -> Result<Parts, PgError> {
    let part = |order: &Order| {
        Ok(match order.column.key(frame, fields)? {
            None if order.nulls_first => Part::NullFirst,
            None => Part::NullLast,
            Some(key) if order.is_descending => Part::Falling(Reverse(key)),
            Some(key) => Part::Rising(key),
        })
    };
    orders.iter().map(part).collect()
}

/// Bytes the keys hold.
pub(super) fn heap_bytes(parts: &Parts) -> usize {
    let heap = |part: &Part| match part {
        Part::Rising(key) | Part::Falling(Reverse(key)) => key.heap_bytes(),
        Part::NullFirst | Part::NullLast => 0,
    };
    parts.len() * size_of::<Part>() + parts.iter().map(heap).sum::<usize>()
}

/// The first row of a shard's stream that is not sent yet.
#[derive(Debug)]
struct Head<R> {
    parts: Parts,
    shard: usize,
    row: R,
}

impl<R> Ord for Head<R> {
    /// The heap's top is the row to send: smallest keys, then smallest shard.
    fn cmp(&self, other: &Self) -> Ordering {
        other.parts.cmp(&self.parts).then(other.shard.cmp(&self.shard))
    }
}

impl<R> PartialOrd for Head<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> PartialEq for Head<R> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<R> Eq for Head<R> {}

/// What a shard's stream has to offer.
pub(super) enum Next<R> {
    Row(Parts, R),
    /// Nothing yet.
    Wait,
    /// Nothing more.
    End,
}

/// What the merged stream has to offer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Merged<R> {
    /// Of a shard.
    Row(usize, R),
    /// A row of this shard is needed first.
    Need(usize),
    End,
}

/// Merges sorted streams; rows with equal keys come in the order of their shards.
#[derive(Debug)]
pub(super) struct KWay<R> {
    heap: BinaryHeap<Head<R>>,
    /// Shards without a row in the heap that are not known to have ended.
    missing: Vec<usize>,
}

impl<R> KWay<R> {
    pub(super) fn new(shards: usize) -> Self {
        Self { heap: BinaryHeap::with_capacity(shards), missing: (0..shards).rev().collect() }
    }

    /// The next row in order. `next` takes the next row of a shard.
    pub(super) fn pop(&mut self, mut next: impl FnMut(usize) -> Next<R>) -> Merged<R> {
        while let Some(&shard) = self.missing.last() {
            match next(shard) {
                Next::Row(parts, row) => self.heap.push(Head { parts, shard, row }),
                Next::End => {}
                Next::Wait => return Merged::Need(shard),
            }
            self.missing.pop();
        }
        let Some(mut top) = self.heap.peek_mut() else { return Merged::End };
        let shard = top.shard;
        match next(shard) {
            Next::Row(parts, row) => {
                let head = std::mem::replace(&mut *top, Head { parts, shard, row });
                Merged::Row(shard, head.row)
            }
            Next::Wait => {
                self.missing.push(shard);
                Merged::Row(shard, PeekMut::pop(top).row)
            }
            Next::End => Merged::Row(shard, PeekMut::pop(top).row),
        }
    }
}
