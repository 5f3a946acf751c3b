//! Messages of a client. Functions append a frame to a buffer; [`view`] reads frames of a client.

pub mod view;

use bytes::{BufMut, Bytes, BytesMut};
use pgwire::messages::cancel;
use pgwire::messages::startup::{self, SecretKey};

use super::encode;
use super::frame::{put, put_cstr};
use crate::error::PgError;

pub use view::{
    Bind, CancelRequest, Execute, Initial, Parse, SaslInitial, Startup, Subject, Target,
};

/// Query `Q`.
pub fn query(out: &mut BytesMut, sql: &[u8]) {
    put(out, b'Q', |body| put_cstr(body, sql));
}

/// Parse `P`.
pub fn parse(
    out: &mut BytesMut,
    name: &[u8],
    sql: &[u8],
    types: impl IntoIterator<Item = u32, IntoIter: Clone>,
) {
    let types = types.into_iter();
    put(out, b'P', |body| {
        put_cstr(body, name);
        put_cstr(body, sql);
        body.put_u16(types.clone().count() as u16);
        types.for_each(|oid| body.put_u32(oid));
    });
}

/// Bind `B` of a client's frame for another statement: its other bytes are kept.
pub fn bind_renamed(out: &mut BytesMut, frame: &[u8], bind: &Bind<'_>, statement: &[u8]) {
    bind_rest(out, bind.portal, statement, &frame[bind.after_statement..]);
}

/// Bind `B`: the names and all that follows them in a client's frame.
pub fn bind_rest(out: &mut BytesMut, portal: &[u8], statement: &[u8], rest: &[u8]) {
    put(out, b'B', |body| {
        put_cstr(body, portal);
        put_cstr(body, statement);
        body.put_slice(rest);
    });
}

/// Bind `B` of a client's frame for the unnamed statement and portal, with `hidden` more result
/// columns, in text, than the client knows of.
pub fn bind_unnamed(out: &mut BytesMut, frame: &[u8], bind: &Bind<'_>, hidden: usize) {
    let formats = bind.result_formats;
    let before_formats = frame.len() - 2 - 2 * formats.len();
    // None or one code stand for all columns, hidden ones too.
    let more = if formats.len() > 1 { hidden } else { 0 };
    put(out, b'B', |body| {
        put_cstr(body, b"");
        put_cstr(body, b"");
        body.put_slice(&frame[bind.after_statement..before_formats]);
        body.put_u16((formats.len() + more) as u16);
        body.put_slice(&frame[before_formats + 2..]);
        body.put_bytes(0, 2 * more);
    });
}

/// Bind `B` of the unnamed portal with values in one format for all (0 text, 1 binary), results too.
pub fn bind(out: &mut BytesMut, statement: &[u8], values: &[Option<&[u8]>], format: i16) {
    put(out, b'B', |body| {
        put_cstr(body, b"");
        put_cstr(body, statement);
        body.put_u16(1);
        body.put_i16(format);
        body.put_u16(values.len() as u16);
        for value in values {
            super::backend::put_value(body, *value);
        }
        body.put_u16(1);
        body.put_i16(format);
    });
}

/// A parameter's format (0 text, 1 binary) and value.
pub type Parameter<'a> = (i16, Option<&'a [u8]>);

/// Bind `B` of a portal to the unnamed statement with each value in its own format, and the results' formats
/// (none: text; one: of all columns).
pub fn bind_each(out: &mut BytesMut, portal: &[u8], parameters: &[Parameter<'_>], results: &[i16]) {
    put(out, b'B', |body| {
        put_cstr(body, portal);
        put_cstr(body, b"");
        body.put_u16(parameters.len() as u16);
        parameters.iter().for_each(|(format, _)| body.put_i16(*format));
        body.put_u16(parameters.len() as u16);
        for (_, value) in parameters {
            super::backend::put_value(body, *value);
        }
        body.put_u16(results.len() as u16);
        results.iter().for_each(|it| body.put_i16(*it));
    });
}

/// Bind `B` of the unnamed portal with values in text; results too.
pub fn bind_texts(
    out: &mut BytesMut,
    statement: &[u8],
    values: impl ExactSizeIterator<Item = impl AsRef<str>>,
) {
    put(out, b'B', |body| {
        put_cstr(body, b"");
        put_cstr(body, statement);
        body.put_u16(0);
        body.put_u16(values.len() as u16);
        for value in values {
            super::backend::put_value(body, Some(value.as_ref().as_bytes()));
        }
        body.put_u16(0);
    });
}

/// Describe `D`.
pub fn describe(out: &mut BytesMut, target: Target, name: &[u8]) {
    named(out, b'D', target, name);
}

/// Close `C`.
pub fn close(out: &mut BytesMut, target: Target, name: &[u8]) {
    named(out, b'C', target, name);
}

fn named(out: &mut BytesMut, tag: u8, target: Target, name: &[u8]) {
    put(out, tag, |body| {
        body.put_u8(target.as_byte());
        put_cstr(body, name);
    });
}

/// Execute `E`; `max_rows` 0 is no limit.
pub fn execute(out: &mut BytesMut, portal: &[u8], max_rows: i32) {
    put(out, b'E', |body| {
        put_cstr(body, portal);
        body.put_i32(max_rows);
    });
}

/// Sync `S`.
pub fn sync(out: &mut BytesMut) {
    put(out, b'S', |_| ());
}

/// Flush `H`.
pub fn flush(out: &mut BytesMut) {
    put(out, b'H', |_| ());
}

/// Terminate `X`.
pub fn terminate(out: &mut BytesMut) {
    put(out, b'X', |_| ());
}

/// CopyData `d`; also what a server sends.
pub fn copy_data(out: &mut BytesMut, data: &[u8]) {
    put(out, b'd', |body| body.put_slice(data));
}

/// CopyDone `c`; also what a server sends.
pub fn copy_done(out: &mut BytesMut) {
    put(out, b'c', |_| ());
}

/// CopyFail `f`.
pub fn copy_fail(out: &mut BytesMut, reason: &str) {
    put(out, b'f', |body| put_cstr(body, reason.as_bytes()));
}

/// The start-up packet of protocol 3.`minor`; an error above 10000 bytes.
pub fn startup<'a>(
    out: &mut BytesMut,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), PgError> {
    let clean = |text: &str| text.replace('\0', "");
    let mut message = startup::Startup::new();
    message.protocol_number_minor = minor;
    message.parameters =
        parameters.into_iter().map(|(name, value)| (clean(name), clean(value))).collect();
    encode(out, &message)
}

/// SSLRequest, without a tag.
pub fn ssl_request(out: &mut BytesMut) {
    out.put_u32(8);
    out.put_u32(view::SSL_REQUEST);
}

/// CancelRequest, without a tag; `key` as the server sent it, 4 to 256 bytes.
pub fn cancel_request(out: &mut BytesMut, pid: i32, key: &[u8]) -> Result<(), PgError> {
    let key = SecretKey::Bytes(Bytes::copy_from_slice(key));
    encode(out, &cancel::CancelRequest::new(pid, key))
}

/// PasswordMessage `p`: a cleartext password or the text of an MD5 one.
pub fn password(out: &mut BytesMut, password: &[u8]) {
    put(out, b'p', |body| put_cstr(body, password));
}

/// SASLInitialResponse `p`.
pub fn sasl_initial_response(
    out: &mut BytesMut,
    mechanism: &str,
    data: &[u8],
) -> Result<(), PgError> {
    let data = Some(Bytes::copy_from_slice(data));
    encode(out, &startup::SASLInitialResponse::new(mechanism.to_owned(), data))
}

/// SASLResponse `p`.
pub fn sasl_response(out: &mut BytesMut, data: &[u8]) -> Result<(), PgError> {
    encode(out, &startup::SASLResponse::new(Bytes::copy_from_slice(data)))
}
