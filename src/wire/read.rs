//! Bounds-checked reading of a frame's body.

use std::ops::Range;

use super::frame::HEADER;
use crate::error::{PgError, sqlstate};

/// A cursor over a frame; positions are relative to the frame's start. Every error is 08P01 and
/// names the message and what was expected.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    message: &'static str,
    frame: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the body of a whole frame with `tag`.
    pub(super) fn new(message: &'static str, tag: u8, frame: &'a [u8]) -> Result<Self, PgError> {
        let reader = Self { message, frame, at: HEADER };
        match frame.first_chunk::<HEADER>() {
            Some(&[found, a, b, c, d]) if found == tag => {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length + 1 == frame.len() {
                    Ok(reader)
                } else {
                    Err(reader.expected("a whole frame"))
                }
            }
            _ => Err(Self { at: 0, ..reader }.expected("its tag and length")),
        }
    }

    /// After the length of a packet without a tag.
    pub(super) fn untagged(message: &'static str, packet: &'a [u8]) -> Result<Self, PgError> {
        let reader = Self { message, frame: packet, at: 4 };
        match packet.first_chunk::<4>() {
            Some(length) if u32::from_be_bytes(*length) as usize == packet.len() => Ok(reader),
            _ => Err(Self { at: 0, ..reader }.expected("a whole packet")),
        }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.frame.len()
    }

    /// The next `len` bytes.
    pub(super) fn bytes(&mut self, len: usize, what: &str) -> Result<&'a [u8], PgError> {
        match self.frame[self.at..].get(..len) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => Err(self.expected(what)),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], PgError> {
        match self.frame[self.at..].first_chunk::<N>() {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => Err(self.expected(what)),
        }
    }

    pub(super) fn u8(&mut self, what: &str) -> Result<u8, PgError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(super) fn i16(&mut self, what: &str) -> Result<i16, PgError> {
        self.array(what).map(i16::from_be_bytes)
    }

    /// A count: sent as Int16, used without a sign (65535 parameters).
    pub(super) fn u16(&mut self, what: &str) -> Result<u16, PgError> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(super) fn i32(&mut self, what: &str) -> Result<i32, PgError> {
        self.array(what).map(i32::from_be_bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, PgError> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// A zero-terminated string, without the zero.
    pub(super) fn cstr(&mut self, what: &str) -> Result<&'a [u8], PgError> {
        let rest = &self.frame[self.at..];
        match memchr::memchr(0, rest) {
            Some(end) => {
                self.at += end + 1;
                Ok(&rest[..end])
            }
            None => Err(self.expected(what)),
        }
    }

    /// A length and as many bytes; -1 is NULL.
    pub(super) fn value(&mut self, what: &str) -> Result<Option<Range<usize>>, PgError> {
        let len = self.i32(what)?;
        if len == -1 {
            return Ok(None);
        }
        let len = usize::try_from(len).map_err(|_| self.expected(what))?;
        let start = self.at;
        self.bytes(len, what)?;
        Ok(Some(start..self.at))
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.frame[self.at..];
        self.at = self.frame.len();
        rest
    }

    /// An error if anything is left.
    pub(super) fn finish(&self) -> Result<(), PgError> {
        if self.is_at_end() { Ok(()) } else { Err(self.expected("the end of the message")) }
    }

    #[cold]
    pub(super) fn expected(&self, what: &str) -> PgError {
        let (message, at) = (self.message, self.at);
        PgError::new(sqlstate::PROTOCOL_VIOLATION, format!("invalid {message} message"))
            .detail(format!("Expected {what} at byte {at} of {}.", self.frame.len()))
    }
}

/// Format codes of columns or parameters: none (all text), one for all, or one each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats<'a>(&'a [u8]);

impl<'a> Formats<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, what: &str) -> Result<Self, PgError> {
        let count = reader.u16(what)? as usize;
        reader.bytes(count * 2, what).map(Self)
    }

    /// How many codes were sent.
    pub fn len(&self) -> usize {
        self.0.len() / 2
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The codes as sent: 0 text, 1 binary.
    pub fn iter(&self) -> impl Iterator<Item = i16> + use<'a> {
        self.0.chunks_exact(2).map(|code| i16::from_be_bytes([code[0], code[1]]))
    }

    /// The code of an item, 0-based; text if there is none.
    pub fn of(&self, index: usize) -> i16 {
        let index = if self.len() == 1 { 0 } else { index };
        self.iter().nth(index).unwrap_or(0)
    }
}

/// Type OIDs as sent in Parse and ParameterDescription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oids<'a>(&'a [u8]);

impl<'a> Oids<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, what: &str) -> Result<Self, PgError> {
        let count = reader.u16(what)? as usize;
        reader.bytes(count * 4, what).map(Self)
    }

    pub fn len(&self) -> usize {
        self.0.len() / 4
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.0.chunks_exact(4).map(|oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]))
    }
}
