//! Cuts COPY data into rows and finds the tenant's field in each, by the rules of Postgres'
//! `copyfromparse.c`. Bytes are fed as they come, in chunks of any size; rows come out as they were.

mod binary;
mod csv;
mod line;
mod text;

use std::borrow::Cow;

use crate::error::{PgError, sqlstate};
use binary::Binary;
use line::Lines;

/// How COPY data is cut into rows and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    Text { delimiter: u8, null: String, header: bool },
    Csv { delimiter: u8, quote: u8, escape: u8, null: String, header: bool, force_null: bool },
    Binary,
}

/// A part of COPY data. All parts together are the data as it was fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The header line, or the file header of the binary format: for every shard.
    Header(&'a [u8]),
    /// One row, with its end of line, and its tenant field: decoded text, the value's bytes in the
    /// binary format, or `None` for NULL.
    Row { bytes: &'a [u8], key: Option<Cow<'a, [u8]>> },
    /// The end marker `\.`, or the trailer of the binary format: for every shard.
    End(&'a [u8]),
}

/// A splitter of one COPY's data.
///
/// ```
/// use pgsluice::sql::copy::{CopyFormat, CopyRows, Piece};
/// let format = CopyFormat::Text { delimiter: b'\t', null: "\\N".into(), header: false };
/// let mut rows = CopyRows::new(&format, 1, 1 << 20);
/// rows.feed(b"1\tac");
/// assert_eq!(rows.next_piece()?, None);
/// rows.feed(b"me\n");
/// let key = Some(b"acme".into());
/// assert_eq!(rows.next_piece()?, Some(Piece::Row { bytes: b"1\tacme\n", key }));
/// # Ok::<(), pgsluice::error::PgError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CopyRows {
    splitter: Splitter,
    buffer: Vec<u8>,
    /// Where the next piece begins in the buffer.
    at: usize,
    is_done: bool,
    max_row_bytes: usize,
}

#[derive(Clone, Debug)]
enum Splitter {
    Lines(Lines),
    Binary(Binary),
    /// After the end marker of the text format: Postgres ignores what follows.
    Ended,
}

/// The next piece of the data at hand: its first `length` bytes.
struct Cut<'a> {
    length: usize,
    part: Part<'a>,
}

enum Part<'a> {
    Header,
    Row(Option<Cow<'a, [u8]>>),
    End,
}

impl CopyRows {
    /// A splitter that looks for the field `key_column` (0-based) of each row. A row of more than
    /// `max_row_bytes` is refused, so that the memory held is bounded by that and one chunk.
    pub fn new(format: &CopyFormat, key_column: usize, max_row_bytes: usize) -> Self {
        let splitter = match format {
            CopyFormat::Binary => Splitter::Binary(Binary::new(key_column)),
            _ => Splitter::Lines(Lines::new(format.clone(), key_column)),
        };
        Self { splitter, buffer: Vec::new(), at: 0, is_done: false, max_row_bytes }
    }

    /// Takes in a chunk (the body of a CopyData message). [`Self::next_piece`] is then to be called
    /// until it gives `None`.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(chunk);
    }

    /// No more data will come (CopyDone). [`Self::next_piece`] then gives the last row, which may lack
    /// its end of line.
    pub fn finish(&mut self) {
        self.is_done = true;
    }

    /// The next complete piece; `None` if more data is needed or all was given.
    ///
    /// # Errors
    /// 22P04, with the line number in the detail, where Postgres reports it; 54000 for a row that is
    /// too long; 0A000 for what supported servers read differently.
    pub fn next_piece(&mut self) -> Result<Option<Piece<'_>>, PgError> {
        let data = &self.buffer[self.at..];
        let cut = match &mut self.splitter {
            Splitter::Lines(lines) => lines.cut(data, self.is_done)?,
            Splitter::Binary(binary) => binary.cut(data, self.is_done)?,
            Splitter::Ended => {
                self.at = self.buffer.len();
                None
            }
        };
        let Some(Cut { length, part }) = cut else {
            return match self.buffer.len() - self.at > self.max_row_bytes {
                true => Err(too_long(self.max_row_bytes)),
                false => Ok(None),
            };
        };
        self.at += length;
        let bytes = &data[..length];
        Ok(Some(match part {
            Part::Header => Piece::Header(bytes),
            Part::Row(key) => Piece::Row { bytes, key },
            Part::End => {
                if matches!(self.splitter, Splitter::Lines(_)) {
                    self.splitter = Splitter::Ended;
                }
                Piece::End(bytes)
            }
        }))
    }
}

fn too_long(max_row_bytes: usize) -> PgError {
    PgError::limit(
        sqlstate::PROGRAM_LIMIT_EXCEEDED,
        format!("a row of the COPY data is longer than {max_row_bytes} bytes"),
        &"limits.message_bytes",
        max_row_bytes,
    )
    .hint("Check the quoting of the data, or raise limits.message_bytes.")
}

/// 22P04 at a line (text, CSV) or row (binary), counted from 1.
fn bad_format(message: impl Into<String>, line: u64) -> PgError {
    PgError::new(sqlstate::BAD_COPY_FILE_FORMAT, message).detail(format!("COPY line {line}"))
}

#[cfg(test)]
mod tests;
