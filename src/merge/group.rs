//! Groups whose partial aggregates become whole, and rows of which each is kept once.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::fast::RandomState;

use super::aggregate::State;
use super::columns::{self, Column, Fields, Typed};
use super::memory::Memory;
use super::{Aggregate, Group};
use crate::error::{PgError, sqlstate};
use crate::wire::backend::put_value;
use crate::wire::frame::put;

/// Bytes of bookkeeping per entry of a hash table, roughly.
const ENTRY: usize = 96;

/// The bytes of a row's fields at `positions`, unambiguously joined: equal exactly if all are.
fn identity(
    frame: &[u8],
    fields: &Fields,
    positions: impl Iterator<Item = usize>,
) -> Result<Vec<u8>, PgError> {
    let mut identity = Vec::with_capacity(64);
    for at in positions {
        match fields.get(at).ok_or_else(|| columns::missing(at, fields.len()))? {
            Some(range) => {
                identity.put_u32(range.len() as u32);
                identity.put_slice(&frame[range.clone()]);
            }
            None => identity.put_i32(-1),
        }
    }
    Ok(identity)
}

/// Rows seen, by their visible columns.
#[derive(Debug, Default)]
pub(super) struct Seen(std::collections::HashSet<Box<[u8]>, RandomState>);

impl Seen {
    /// Whether a row is the first of its kind.
    pub(super) fn is_new(
        &mut self,
        frame: &[u8],
        fields: &Fields,
        visible: usize,
        memory: &mut Memory,
    ) -> Result<bool, PgError> {
        let identity = identity(frame, fields, 0..visible)?;
        if self.0.contains(identity.as_slice()) {
            return Ok(false);
        }
        memory.take(identity.len() + ENTRY)?;
        Ok(self.0.insert(identity.into_boxed_slice()))
    }
}

/// Groups in memory. Without keys there is one group and always one row.
#[derive(Debug)]
pub(super) struct Table {
    keys: Vec<usize>,
    aggregates: Vec<(Typed, Aggregate)>,
    /// By the identity of their keys: where in `rows`.
    index: HashMap<Box<[u8]>, usize, RandomState>,
    rows: Vec<Row>,
}

/// One group: the first row seen of it, whose aggregates are replaced in the end.
#[derive(Debug)]
struct Row {
    frame: Bytes,
    fields: Fields,
    states: Vec<State>,
}

impl Table {
    /// Refuses types whose values the proxy cannot group or aggregate exactly.
    pub(super) fn new(group: &Group, columns: &[Column]) -> Result<Self, PgError> {
        columns::check_equality(columns, group.keys.iter().copied(), "be grouped")?;
        let typed = |&(at, aggregate): &(usize, Aggregate)| {
            Ok((columns::aggregate(columns, at, aggregate)?, aggregate))
        };
        Ok(Self {
            keys: group.keys.clone(),
            aggregates: group.aggregates.iter().map(typed).collect::<Result<_, PgError>>()?,
            index: HashMap::default(),
            rows: Vec::new(),
        })
    }

    /// Adds a shard's row to its group.
    pub(super) fn add(
        &mut self,
        frame: &Bytes,
        fields: Fields,
        memory: &mut Memory,
    ) -> Result<(), PgError> {
        let identity = identity(frame, &fields, self.keys.iter().copied())?;
        let at = match self.index.get(identity.as_slice()) {
            Some(&at) => at,
            None => self.insert(identity, frame, &fields, memory)?,
        };
        for ((column, _), state) in self.aggregates.iter().zip(&mut self.rows[at].states) {
            state.add(column, frame, &fields)?;
        }
        Ok(())
    }

    fn insert(
        &mut self,
        identity: Vec<u8>,
        frame: &Bytes,
        fields: &Fields,
        memory: &mut Memory,
    ) -> Result<usize, PgError> {
        let states: Vec<_> =
            self.aggregates.iter().map(|(column, of)| State::new(*of, column.kind)).collect();
        let held = identity.len() + frame.len() + ENTRY + states.len() * size_of::<State>();
        memory.take(held + fields.len() * size_of::<crate::wire::backend::Field>())?;
        let at = self.rows.len();
        self.index.insert(identity.into_boxed_slice(), at);
        // A copy: the frame is a slice of a read buffer that would be kept with it.
        let frame = Bytes::copy_from_slice(frame);
        self.rows.push(Row { frame, fields: fields.clone(), states });
        Ok(at)
    }

    /// The groups as DataRows, in the order in which they were first seen.
    pub(super) fn finish(self) -> Result<Vec<Bytes>, PgError> {
        if self.keys.is_empty() && self.rows.is_empty() {
            return Err(PgError::new(
                sqlstate::INTERNAL_ERROR,
                "no shard sent its part of an aggregate without groups",
            ));
        }
        let aggregates = self.aggregates;
        self.rows.into_iter().map(|row| row.finish(&aggregates)).collect()
    }
}

impl Row {
    fn finish(self, aggregates: &[(Typed, Aggregate)]) -> Result<Bytes, PgError> {
        let mut values: Vec<_> =
            self.fields.iter().map(|f| f.clone().map(|range| self.frame.slice(range))).collect();
        for ((column, _), state) in aggregates.iter().zip(self.states) {
            values[column.at] = state.finish(column.format)?;
        }
        let mut out = BytesMut::with_capacity(self.frame.len() + 16);
        put(&mut out, b'D', |body| {
            body.put_u16(values.len() as u16);
            values.iter().for_each(|value| put_value(body, value.as_deref()));
        });
        Ok(out.freeze())
    }
}
