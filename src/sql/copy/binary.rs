//! Tuples of the binary format, <https://www.postgresql.org/docs/current/sql-copy.html>.

use super::{Cut, Part, bad_format};
use crate::error::PgError;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// A splitter of the binary format.
#[derive(Clone, Debug)]
pub(super) struct Binary {
    key_column: usize,
    state: State,
    /// The tuple at hand, from 1.
    row: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Tuples,
    Ended,
}

/// Why a number or a field could not be read yet.
enum Stop {
    /// More data is needed.
    Incomplete,
    Broken(PgError),
}

impl Binary {
    pub(super) fn new(key_column: usize) -> Self {
        Self { key_column, state: State::Header, row: 0 }
    }

    /// The header, tuple or trailer at the beginning of `data`; `None` if it is not complete.
    pub(super) fn cut<'a>(
        &mut self,
        data: &'a [u8],
        is_done: bool,
    ) -> Result<Option<Cut<'a>>, PgError> {
        let found = match self.state {
            State::Header => self.header(data),
            State::Ended if data.is_empty() => return Ok(None),
            State::Ended => Err(Stop::Broken(self.bad("received copy data after EOF marker"))),
            State::Tuples => self.tuple(data),
        };
        match found {
            Ok(cut) => {
                self.row += 1;
                self.state = match cut.part {
                    Part::End => State::Ended,
                    _ => State::Tuples,
                };
                Ok(Some(cut))
            }
            Err(Stop::Broken(error)) => Err(error),
            Err(Stop::Incomplete) if is_done && !(data.is_empty() && self.row > 0) => {
                Err(self.bad("unexpected EOF in COPY data"))
            }
            Err(Stop::Incomplete) => Ok(None),
        }
    }

    fn header<'a>(&self, data: &'a [u8]) -> Result<Cut<'a>, Stop> {
        let known = data.len().min(SIGNATURE.len());
        if data[..known] != SIGNATURE[..known] {
            return Err(Stop::Broken(self.bad("COPY file signature not recognized")));
        }
        let flags = i32_at(data, SIGNATURE.len())?;
        if flags as u32 >> 16 != 0 {
            return Err(Stop::Broken(self.bad("unrecognized critical flags in COPY file header")));
        }
        let extension = i32_at(data, SIGNATURE.len() + 4)?;
        let extension = usize::try_from(extension)
            .map_err(|_| Stop::Broken(self.bad("invalid COPY file header (missing length)")))?;
        let length = SIGNATURE.len() + 8 + extension;
        data.get(..length).ok_or(Stop::Incomplete)?;
        Ok(Cut { length, part: Part::Header })
    }

    fn tuple<'a>(&self, data: &'a [u8]) -> Result<Cut<'a>, Stop> {
        let fields = match i16_at(data)? {
            -1 => return Ok(Cut { length: 2, part: Part::End }),
            fields => usize::try_from(fields).unwrap_or(0),
        };
        if fields <= self.key_column {
            let message = format!("row field count is {fields}, the tenant is missing");
            return Err(Stop::Broken(bad_format(message, self.row)));
        }
        let (mut at, mut key) = (2, None);
        for column in 0..fields {
            let length = i32_at(data, at)?;
            at += 4;
            if length == -1 {
                continue;
            }
            let length = usize::try_from(length)
                .map_err(|_| Stop::Broken(self.bad("invalid field size")))?;
            let field = data.get(at..at + length).ok_or(Stop::Incomplete)?;
            if column == self.key_column {
                key = Some(field.into());
            }
            at += length;
        }
        Ok(Cut { length: at, part: Part::Row(key) })
    }

    fn bad(&self, message: &str) -> PgError {
        bad_format(message, self.row)
    }
}

fn i16_at(data: &[u8]) -> Result<i16, Stop> {
    data.first_chunk().map(|it| i16::from_be_bytes(*it)).ok_or(Stop::Incomplete)
}

fn i32_at(data: &[u8], at: usize) -> Result<i32, Stop> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map(|it| i32::from_be_bytes(*it)).ok_or(Stop::Incomplete)
}
