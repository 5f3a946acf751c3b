//! Where frames end: headers are read over a chunk of bytes, bodies are not looked at.

use bytes::{BufMut, BytesMut};

use crate::error::{PgError, sqlstate};

/// Bytes of a frame before its body: the tag and the length.
pub const HEADER: usize = 5;
/// Bytes of a start-up packet; Postgres' `MAX_STARTUP_PACKET_LENGTH`.
pub const STARTUP_LIMIT: usize = 10_000;
/// Length field of a long message; Postgres' `PQ_LARGE_MESSAGE_LIMIT`.
pub const LARGE_LIMIT: usize = 0x3fff_fffe;
/// Length field of a frontend message without a payload; Postgres' `PQ_SMALL_MESSAGE_LIMIT`.
pub const SMALL_LIMIT: usize = 10_000;
/// Length field of a password or SASL message; Postgres' `PG_MAX_AUTH_TOKEN_LENGTH`.
pub const AUTH_LIMIT: usize = 65_535;
/// Length field of a short backend message, as libpq checks it.
pub const SMALL_BACKEND_LIMIT: usize = 30_000;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    /// Bytes of the whole frame, header included; may be more than the chunk holds.
    pub len: usize,
}

/// The header of the frame that begins at the start of `chunk`; `None` if fewer than [`HEADER`]
/// bytes are there. Limits are those of messages from a server.
pub fn next_frame(chunk: &[u8]) -> Result<Option<Frame>, PgError> {
    next_within(chunk, backend_limit)
}

/// As [`next_frame`], for messages from a client; those with a payload may have `limit` bytes
/// (`limits.message_bytes`) at most.
pub fn next_frontend(chunk: &[u8], limit: usize) -> Result<Option<Frame>, PgError> {
    next_within(chunk, |tag| frontend_limit(tag, limit))
}

/// Bytes of the packet without a tag that begins a connection; `None` if the length is not there yet.
pub fn next_startup(chunk: &[u8]) -> Result<Option<usize>, PgError> {
    let Some(length) = chunk.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if !(8..=STARTUP_LIMIT).contains(&length) {
        return Err(PgError::new(sqlstate::PROTOCOL_VIOLATION, "invalid length of startup packet")
            .detail(format!("The length is {length}; expected 8 to {STARTUP_LIMIT}."))
            .fatal());
    }
    Ok(Some(length))
}

fn next_within(chunk: &[u8], limit: impl Fn(u8) -> usize) -> Result<Option<Frame>, PgError> {
    let Some(&[tag, a, b, c, d]) = chunk.first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length < 4 || length > limit(tag) {
        return Err(invalid_length(tag, length, limit(tag)));
    }
    Ok(Some(Frame { tag, len: length + 1 }))
}

#[cold]
fn invalid_length(tag: u8, length: usize, limit: usize) -> PgError {
    let tag = tag.escape_ascii();
    let error = PgError::new(sqlstate::PROTOCOL_VIOLATION, "invalid message length")
        .detail(format!("Message '{tag}' has the length {length}; expected 4 to {limit}."))
        .fatal();
    if length > limit && limit > SMALL_BACKEND_LIMIT {
        let error = PgError { limit: Some(&"limits.message_bytes"), ..error };
        return error.hint("Longer messages from clients are allowed by limits.message_bytes.");
    }
    error
}

/// Long are rows, data, descriptions and what carries free text.
fn backend_limit(tag: u8) -> usize {
    match tag {
        b'D' | b'd' | b'T' | b't' | b'E' | b'N' | b'A' | b'V' | b'S' => LARGE_LIMIT,
        _ => SMALL_BACKEND_LIMIT,
    }
}

fn frontend_limit(tag: u8, limit: usize) -> usize {
    match tag {
        b'Q' | b'P' | b'B' | b'F' | b'd' => limit.min(LARGE_LIMIT),
        b'p' => AUTH_LIMIT,
        _ => SMALL_LIMIT,
    }
}

/// Appends a frame whose body `body` writes.
pub fn put(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a zero-terminated string, cut at a zero byte of its own: it must never end early.
pub fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.put_slice(&text[..end]);
    out.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(next_frame(b"Z\0\0\0"), Ok(None));
        assert_eq!(next_frame(b"Z\0\0\0\x05I"), Ok(Some(Frame { tag: b'Z', len: 6 })));
        assert_eq!(next_frame(b"D\0\0\x10\0"), Ok(Some(Frame { tag: b'D', len: 4097 })));
        assert!(next_frame(b"D\0\0\0\x03").is_err());
        assert!(next_frame(b"D\xff\xff\xff\xff").is_err());
        assert!(next_frame(b"C\0\x01\0\0").is_err(), "a command tag is short");
    }

    #[test]
    fn limits_of_clients() {
        assert!(next_frontend(b"Q\0\0\x04\0", 1024).is_ok());
        assert!(next_frontend(b"Q\0\0\x04\x01", 1024).is_err());
        assert!(next_frontend(b"Q\x7f\xff\xff\xff", usize::MAX).is_err());
        assert!(next_frontend(b"S\0\0\x27\x11", usize::MAX).is_err());
        assert!(next_frontend(b"p\0\x01\0\0", usize::MAX).is_err());
    }

    #[test]
    fn startup_packets() {
        assert_eq!(next_startup(b"\0\0\0"), Ok(None));
        assert_eq!(next_startup(b"\0\0\0\x08"), Ok(Some(8)));
        assert!(next_startup(b"\0\0\0\x07").is_err());
        assert!(next_startup(b"\0\0\x27\x11").is_err());
        assert!(next_startup(b"GET / HTTP/1.1").is_err());
    }

    #[test]
    fn strings_end_once() {
        let mut out = BytesMut::new();
        put(&mut out, b'Q', |body| put_cstr(body, b"a\0b"));
        assert_eq!(&out[..], b"Q\0\0\0\x06a\0");
    }
}
