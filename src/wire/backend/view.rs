//! Views of a server's frames: they borrow the frame and copy nothing.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::super::frame::{HEADER, put};
use super::super::pipeline::TxStatus;
use super::super::read::{Oids, Reader};
use crate::error::PgError;

/// Where a value lies in its frame; `None` is NULL.
pub type Field = Option<Range<usize>>;

/// One column of a RowDescription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a [u8],
    /// OID of the table it is a column of, or 0.
    pub table: u32,
    /// Its number in that table, or 0.
    pub attribute: i16,
    pub type_oid: u32,
    /// `pg_type.typlen`.
    pub size: i16,
    /// `pg_attribute.atttypmod`.
    pub modifier: i32,
    /// 0 text, 1 binary.
    pub format: i16,
    /// Its bytes in the frame.
    pub range: Range<usize>,
}

/// RowDescription `T`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDescription<'a> {
    frame: &'a [u8],
    pub columns: Vec<Column<'a>>,
}

impl<'a> RowDescription<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::new("RowDescription", b'T', frame)?;
        let count = reader.u16("the number of columns")?;
        let columns = (0..count).map(|_| column(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { frame, columns })
    }

    /// Appends the same frame without its last `hidden` columns.
    pub fn put_without_last(&self, out: &mut BytesMut, hidden: usize) {
        let visible = self.columns.len().saturating_sub(hidden);
        let end = match visible {
            0 => HEADER + 2,
            _ => self.columns[visible - 1].range.end,
        };
        put(out, b'T', |body| {
            body.put_u16(visible as u16);
            body.put_slice(&self.frame[HEADER + 2..end]);
        });
    }
}

fn column<'a>(reader: &mut Reader<'a>) -> Result<Column<'a>, PgError> {
    let start = reader.position();
    Ok(Column {
        name: reader.cstr("a column's name")?,
        table: reader.u32("a column's table")?,
        attribute: reader.i16("a column's number")?,
        type_oid: reader.u32("a column's type")?,
        size: reader.i16("a column's size")?,
        modifier: reader.i32("a column's type modifier")?,
        format: reader.i16("a column's format")?,
        range: start..reader.position(),
    })
}

/// DataRow `D`: an iterator over the fields. After an error it ends.
#[derive(Clone, Debug)]
pub struct DataRow<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> DataRow<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::new("DataRow", b'D', frame)?;
        let left = reader.u16("the number of columns")? as usize;
        Ok(Self { reader, left })
    }

    /// How many fields are left.
    pub fn len(&self) -> usize {
        self.left
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl Iterator for DataRow<'_> {
    type Item = Result<Field, PgError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let field = self.reader.value("a column's value");
        if field.is_err() {
            self.left = 0;
        }
        Some(field)
    }
}

/// The tag of a CommandComplete, such as `INSERT 0 5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandTag<'a> {
    /// `INSERT`, `SELECT`, `CREATE TABLE`, ….
    pub verb: &'a [u8],
    /// Rows, for the commands that count them.
    pub count: Option<u64>,
}

impl<'a> CommandTag<'a> {
    /// From a CommandComplete frame.
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::new("CommandComplete", b'C', frame)?;
        let tag = reader.cstr("a command tag")?;
        reader.finish()?;
        Ok(Self::of(tag))
    }

    /// From the tag alone.
    pub fn of(tag: &'a [u8]) -> Self {
        match split_number(tag) {
            Some((b"INSERT 0", count)) => Self { verb: b"INSERT", count: Some(count) },
            Some((verb, count)) => Self { verb, count: Some(count) },
            None => Self { verb: tag, count: None },
        }
    }

    /// The tag with another count, without the terminating zero.
    pub fn with_count(&self, count: u64) -> String {
        let verb = String::from_utf8_lossy(self.verb);
        match (self.count, self.verb) {
            (None, _) => verb.into_owned(),
            (Some(_), b"INSERT") => format!("INSERT 0 {count}"),
            (Some(_), _) => format!("{verb} {count}"),
        }
    }
}

/// Text before the last space and the number after it.
fn split_number(tag: &[u8]) -> Option<(&[u8], u64)> {
    let space = memchr::memrchr(b' ', tag)?;
    let number = std::str::from_utf8(&tag[space + 1..]).ok()?;
    let is_number = number.bytes().all(|digit| digit.is_ascii_digit());
    Some((&tag[..space], number.parse().ok().filter(|_| is_number)?))
}

/// ErrorResponse `E` or NoticeResponse `N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFields<'a>(pub Vec<(u8, &'a [u8])>);

impl<'a> ErrorFields<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let tag = if frame.first() == Some(&b'N') { b'N' } else { b'E' };
        let mut reader = Reader::new("ErrorResponse", tag, frame)?;
        let mut fields = Vec::new();
        loop {
            match reader.u8("a field's code or zero")? {
                0 => break,
                code => fields.push((code, reader.cstr("a field's text")?)),
            }
        }
        reader.finish()?;
        Ok(Self(fields))
    }

    /// The field with a code such as `M`.
    pub fn field(&self, code: u8) -> Option<&'a [u8]> {
        self.0.iter().find(|(found, _)| *found == code).map(|(_, text)| *text)
    }

    /// SQLSTATE; empty if missing.
    pub fn code(&self) -> &'a [u8] {
        self.field(b'C').unwrap_or_default()
    }

    /// The message, for people.
    pub fn message(&self) -> String {
        String::from_utf8_lossy(self.field(b'M').unwrap_or_default()).into_owned()
    }

    /// Whether it says that a prepared statement's result has changed with the schema: "cached plan
    /// must not change result type". The routine tells, whatever the language of messages.
    pub fn is_stale_plan(&self) -> bool {
        self.code() == b"0A000" && self.field(b'R') == Some(b"RevalidateCachedQuery")
    }

    /// Whether the server closes the connection after it.
    pub fn is_fatal(&self) -> bool {
        matches!(self.field(b'V').or(self.field(b'S')), Some(b"FATAL" | b"PANIC"))
    }
}

/// The status of a ReadyForQuery frame `Z`.
pub fn ready_status(frame: &[u8]) -> Result<TxStatus, PgError> {
    let mut reader = Reader::new("ReadyForQuery", b'Z', frame)?;
    let status = reader.u8("a transaction status")?;
    reader.finish()?;
    TxStatus::from_byte(status).ok_or_else(|| reader.expected("I, T or E"))
}

/// ParameterStatus `S`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Parameter<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::new("ParameterStatus", b'S', frame)?;
        let name = reader.cstr("a parameter's name")?;
        let value = reader.cstr("a parameter's value")?;
        reader.finish()?;
        Ok(Self { name, value })
    }
}

/// BackendKeyData `K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyData<'a> {
    pub pid: i32,
    /// 4 to 256 bytes.
    pub key: &'a [u8],
}

impl<'a> KeyData<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::new("BackendKeyData", b'K', frame)?;
        let pid = reader.i32("a process id")?;
        let key = reader.rest();
        if !(4..=256).contains(&key.len()) {
            return Err(reader.expected("a key of 4 to 256 bytes"));
        }
        Ok(Self { pid, key })
    }
}

/// What an Authentication frame `R` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthRequest<'a> {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    /// Mechanisms offered.
    Sasl(Vec<&'a [u8]>),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI, …, by its code.
    Other(i32),
}

impl<'a> AuthRequest<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::new("Authentication", b'R', frame)?;
        let request = match reader.i32("a kind of authentication")? {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => Self::Md5(reader.array("a salt of 4 bytes")?),
            10 => Self::Sasl(mechanisms(&mut reader)?),
            11 => Self::SaslContinue(reader.rest()),
            12 => Self::SaslFinal(reader.rest()),
            code => {
                reader.rest();
                Self::Other(code)
            }
        };
        reader.finish()?;
        Ok(request)
    }
}

fn mechanisms<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, PgError> {
    let mut names = Vec::new();
    loop {
        match reader.cstr("a mechanism or the terminator")? {
            [] => return Ok(names),
            name => names.push(name),
        }
    }
}

/// The types of a ParameterDescription frame `t`.
pub fn parameter_types(frame: &[u8]) -> Result<Oids<'_>, PgError> {
    let mut reader = Reader::new("ParameterDescription", b't', frame)?;
    let types = Oids::read(&mut reader, "parameter types")?;
    reader.finish()?;
    Ok(types)
}

/// The overall and the columns' formats of a CopyInResponse `G` or CopyOutResponse `H`.
pub fn copy_formats(frame: &[u8]) -> Result<(u8, super::super::Formats<'_>), PgError> {
    let tag = if frame.first() == Some(&b'G') { b'G' } else { b'H' };
    let mut reader = Reader::new("CopyResponse", tag, frame)?;
    let format = reader.u8("the overall format")?;
    let columns = super::super::Formats::read(&mut reader, "the columns' formats")?;
    reader.finish()?;
    Ok((format, columns))
}
