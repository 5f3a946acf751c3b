//! Views of a client's frames: they borrow the frame and copy nothing.

use std::ops::Range;

use smallvec::SmallVec;

use super::super::read::{Formats, Oids, Reader};
use crate::error::{PgError, sqlstate};

/// Protocol number of SSLRequest.
pub const SSL_REQUEST: u32 = 80_877_103;
/// Protocol number of GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;
/// Protocol number of CancelRequest.
pub const CANCEL_REQUEST: u32 = 80_877_102;

/// The text of a Query `Q`.
pub fn query(frame: &[u8]) -> Result<&[u8], PgError> {
    let mut reader = Reader::new("Query", b'Q', frame)?;
    let sql = reader.cstr("a query string")?;
    reader.finish()?;
    Ok(sql)
}

/// Parse `P`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Empty: the unnamed statement.
    pub name: &'a [u8],
    pub sql: &'a [u8],
    /// Types of the first parameters; 0 is unspecified.
    pub types: Oids<'a>,
}

impl<'a> Parse<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::new("Parse", b'P', frame)?;
        let name = reader.cstr("a statement's name")?;
        let sql = reader.cstr("a query string")?;
        let types = Oids::read(&mut reader, "parameter types")?;
        reader.finish()?;
        Ok(Self { name, sql, types })
    }
}

/// Bind `B`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    /// Where in the frame the bytes after the statement's name (and its zero) begin.
    pub after_statement: usize,
    pub formats: Formats<'a>,
    /// Where each parameter's value lies in the frame; `None` is NULL.
    pub values: SmallVec<[Option<Range<usize>>; 8]>,
    pub result_formats: Formats<'a>,
}

impl<'a> Bind<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::new("Bind", b'B', frame)?;
        let portal = reader.cstr("a portal's name")?;
        let statement = reader.cstr("a statement's name")?;
        let after_statement = reader.position();
        let formats = Formats::read(&mut reader, "parameter formats")?;
        let count = reader.u16("the number of parameters")?;
        if formats.len() > 1 && formats.len() != count as usize {
            return Err(format_count(formats.len(), count));
        }
        let values =
            (0..count).map(|_| reader.value("a parameter's value")).collect::<Result<_, _>>()?;
        let result_formats = Formats::read(&mut reader, "result formats")?;
        reader.finish()?;
        Ok(Self { portal, statement, after_statement, formats, values, result_formats })
    }
}

fn format_count(formats: usize, parameters: u16) -> PgError {
    PgError::new(
        sqlstate::PROTOCOL_VIOLATION,
        format!("bind message has {formats} parameter formats but {parameters} parameters"),
    )
}

/// What a Describe or Close names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Statement,
    Portal,
}

impl Target {
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Statement => b'S',
            Self::Portal => b'P',
        }
    }
}

/// Describe `D` or Close `C`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    pub target: Target,
    pub name: &'a [u8],
}

impl<'a> Subject<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = match frame.first() {
            Some(b'C') => Reader::new("Close", b'C', frame)?,
            _ => Reader::new("Describe", b'D', frame)?,
        };
        let target = match reader.u8("S or P")? {
            b'S' => Target::Statement,
            b'P' => Target::Portal,
            _ => return Err(reader.expected("S or P before this")),
        };
        let name = reader.cstr("a name")?;
        reader.finish()?;
        Ok(Self { target, name })
    }
}

/// Execute `E`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    pub portal: &'a [u8],
    /// 0 (or less): no limit.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::new("Execute", b'E', frame)?;
        let portal = reader.cstr("a portal's name")?;
        let max_rows = reader.i32("the number of rows")?;
        reader.finish()?;
        Ok(Self { portal, max_rows })
    }
}

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initial<'a> {
    Startup(Startup<'a>),
    Cancel(CancelRequest<'a>),
    Ssl,
    GssEnc,
}

/// StartupMessage of protocol 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup<'a> {
    /// The minor version; 9999 is a client that tests negotiation.
    pub minor: u16,
    /// In the client's order.
    pub parameters: Vec<(&'a [u8], &'a [u8])>,
}

/// CancelRequest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelRequest<'a> {
    pub pid: i32,
    /// 4 to 256 bytes.
    pub key: &'a [u8],
}

impl<'a> Initial<'a> {
    /// Reads a whole packet; a protocol other than 3 is refused.
    pub fn read(packet: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::untagged("startup", packet).map_err(PgError::fatal)?;
        Self::body(&mut reader).map_err(PgError::fatal)
    }

    fn body(reader: &mut Reader<'a>) -> Result<Self, PgError> {
        match reader.u32("a protocol version")? {
            SSL_REQUEST => reader.finish().map(|()| Self::Ssl),
            GSSENC_REQUEST => reader.finish().map(|()| Self::GssEnc),
            CANCEL_REQUEST => cancel(reader).map(Self::Cancel),
            version if version >> 16 == 3 => startup(reader, version as u16).map(Self::Startup),
            version => Err(unsupported(version)),
        }
    }
}

fn cancel<'a>(reader: &mut Reader<'a>) -> Result<CancelRequest<'a>, PgError> {
    let pid = reader.i32("a process id")?;
    let key = reader.rest();
    if !(4..=256).contains(&key.len()) {
        return Err(reader.expected("a key of 4 to 256 bytes"));
    }
    Ok(CancelRequest { pid, key })
}

fn startup<'a>(reader: &mut Reader<'a>, minor: u16) -> Result<Startup<'a>, PgError> {
    let mut parameters = Vec::new();
    loop {
        let name = reader.cstr("a parameter's name or the terminator")?;
        if name.is_empty() {
            break;
        }
        parameters.push((name, reader.cstr("a parameter's value")?));
    }
    reader.finish()?;
    Ok(Startup { minor, parameters })
}

fn unsupported(version: u32) -> PgError {
    let (major, minor) = (version >> 16, version & 0xffff);
    PgError::refused(format!(
        "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2"
    ))
}

/// The text of a PasswordMessage `p`.
pub fn password(frame: &[u8]) -> Result<&[u8], PgError> {
    let mut reader = Reader::new("Password", b'p', frame)?;
    let password = reader.cstr("a password")?;
    reader.finish()?;
    Ok(password)
}

/// SASLInitialResponse `p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    pub mechanism: &'a [u8],
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitial<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, PgError> {
        let mut reader = Reader::new("SASLInitialResponse", b'p', frame)?;
        let mechanism = reader.cstr("a mechanism's name")?;
        let data = reader.value("the mechanism's data")?;
        reader.finish()?;
        Ok(Self { mechanism, data: data.map(|range| &frame[range]) })
    }
}

/// The data of a SASLResponse `p`.
pub fn sasl_response(frame: &[u8]) -> Result<&[u8], PgError> {
    Ok(Reader::new("SASLResponse", b'p', frame)?.rest())
}
