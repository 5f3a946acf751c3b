//! Messages of a server. Functions append a frame to a buffer; [`view`] reads frames of a server.

pub mod view;

use bytes::{BufMut, BytesMut};
use pgwire::messages::response::{ErrorResponse, NoticeResponse};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, SecretKey,
};

use super::frame::{put, put_cstr};
use super::{TxStatus, encode};
use crate::error::PgError;

pub use view::{
    AuthRequest, Column, CommandTag, DataRow, ErrorFields, Field, KeyData, Parameter,
    RowDescription,
};

/// Type OID of `text`, of the columns of our own answers.
const TEXT: u32 = 25;

/// ErrorResponse `E`.
pub fn error_response(out: &mut BytesMut, error: &PgError) {
    let fields = fields(error.severity.as_str(), error);
    encode(out, &ErrorResponse::new(fields)).unwrap_or_default();
}

/// ErrorResponse `E` of fields as a server wrote them.
pub fn error_fields<'a>(out: &mut BytesMut, fields: impl IntoIterator<Item = (u8, &'a [u8])>) {
    put(out, b'E', |out| {
        for (code, text) in fields {
            out.put_u8(code);
            put_cstr(out, text);
        }
        out.put_u8(0);
    });
}

/// NoticeResponse `N`; `severity` is one of `WARNING`, `NOTICE`, `INFO`, ….
pub fn notice_response(out: &mut BytesMut, severity: &str, notice: &PgError) {
    encode(out, &NoticeResponse::new(fields(severity, notice))).unwrap_or_default();
}

/// Fields S, V, C, M, D, H, P of an error; zero bytes would end them early and are left out.
fn fields(severity: &str, error: &PgError) -> Vec<(u8, String)> {
    let position = error.position.map(|position| position.to_string());
    [
        (b'S', Some(severity)),
        (b'V', Some(severity)),
        (b'C', Some(&*error.code)),
        (b'M', Some(error.message.as_str())),
        (b'D', error.detail.as_deref()),
        (b'H', error.hint.as_deref()),
        (b'P', position.as_deref()),
    ]
    .into_iter()
    .filter_map(|(code, text)| Some((code, text?.replace('\0', ""))))
    .collect()
}

/// ReadyForQuery `Z`.
pub fn ready_for_query(out: &mut BytesMut, status: TxStatus) {
    put(out, b'Z', |body| body.put_u8(status.as_byte()));
}

/// CommandComplete `C`, e.g. `SELECT 3`.
pub fn command_complete(out: &mut BytesMut, tag: &str) {
    put(out, b'C', |body| put_cstr(body, tag.as_bytes()));
}

/// ParameterStatus `S`.
pub fn parameter_status(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    put(out, b'S', |body| {
        put_cstr(body, name);
        put_cstr(body, value);
    });
}

/// BackendKeyData `K`: a cancel key of 4 bytes, or up to 256 from protocol 3.2 on.
pub fn backend_key_data(out: &mut BytesMut, pid: i32, key: &[u8]) -> Result<(), PgError> {
    let key = SecretKey::Bytes(bytes::Bytes::copy_from_slice(key));
    encode(out, &BackendKeyData::new(pid, key))
}

/// NegotiateProtocolVersion `v`: the newest minor version we speak (as the whole number, 3.2 is
/// `0x30002`), and the `_pq_.` options we do not know.
pub fn negotiate_protocol_version(
    out: &mut BytesMut,
    protocol: i32,
    unknown: Vec<String>,
) -> Result<(), PgError> {
    encode(out, &NegotiateProtocolVersion::new(protocol, unknown))
}

/// AuthenticationOk `R`.
pub fn authentication_ok(out: &mut BytesMut) {
    authentication(out, &Authentication::Ok);
}

/// AuthenticationCleartextPassword `R`.
pub fn authentication_cleartext(out: &mut BytesMut) {
    authentication(out, &Authentication::CleartextPassword);
}

/// AuthenticationMD5Password `R`.
pub fn authentication_md5(out: &mut BytesMut, salt: [u8; 4]) {
    authentication(out, &Authentication::MD5Password(salt.to_vec()));
}

/// AuthenticationSASL `R`: the mechanisms offered.
pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    let mechanisms = mechanisms.iter().map(|&name| name.to_owned()).collect();
    authentication(out, &Authentication::SASL(mechanisms));
}

/// AuthenticationSASLContinue `R`.
pub fn authentication_sasl_continue(out: &mut BytesMut, data: &[u8]) {
    authentication(out, &Authentication::SASLContinue(data.to_vec().into()));
}

/// AuthenticationSASLFinal `R`.
pub fn authentication_sasl_final(out: &mut BytesMut, data: &[u8]) {
    authentication(out, &Authentication::SASLFinal(data.to_vec().into()));
}

/// What we send is far below the message's limit of 30000 bytes.
fn authentication(out: &mut BytesMut, message: &Authentication) {
    encode(out, message).unwrap_or_default();
}

/// ParseComplete `1`.
pub fn parse_complete(out: &mut BytesMut) {
    put(out, b'1', |_| ());
}

/// BindComplete `2`.
pub fn bind_complete(out: &mut BytesMut) {
    put(out, b'2', |_| ());
}

/// CloseComplete `3`.
pub fn close_complete(out: &mut BytesMut) {
    put(out, b'3', |_| ());
}

/// NoData `n`.
pub fn no_data(out: &mut BytesMut) {
    put(out, b'n', |_| ());
}

/// EmptyQueryResponse `I`.
pub fn empty_query_response(out: &mut BytesMut) {
    put(out, b'I', |_| ());
}

/// PortalSuspended `s`.
pub fn portal_suspended(out: &mut BytesMut) {
    put(out, b's', |_| ());
}

/// RowDescription `T` of columns of type text in text format, as of SHOW.
pub fn row_description(out: &mut BytesMut, names: &[&str]) {
    put(out, b'T', |body| {
        body.put_u16(names.len() as u16);
        for name in names {
            put_cstr(body, name.as_bytes());
            body.put_u32(0);
            body.put_i16(0);
            body.put_u32(TEXT);
            body.put_i16(-1);
            body.put_i32(-1);
            body.put_i16(0);
        }
    });
}

/// DataRow `D`.
pub fn data_row<T: AsRef<[u8]>>(out: &mut BytesMut, values: &[Option<T>]) {
    put(out, b'D', |body| {
        body.put_u16(values.len() as u16);
        for value in values {
            put_value(body, value.as_ref().map(AsRef::as_ref));
        }
    });
}

/// A length and as many bytes; NULL is -1.
pub fn put_value(body: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        Some(value) => {
            body.put_u32(value.len() as u32);
            body.put_slice(value);
        }
        None => body.put_i32(-1),
    }
}

/// ParameterDescription `t`.
pub fn parameter_description(out: &mut BytesMut, types: &[u32]) {
    put(out, b't', |body| {
        body.put_u16(types.len() as u16);
        types.iter().for_each(|&oid| body.put_u32(oid));
    });
}

/// CopyInResponse `G`; formats are 0 text, 1 binary.
pub fn copy_in_response(out: &mut BytesMut, format: u8, columns: &[i16]) {
    copy_response(out, b'G', format, columns);
}

/// CopyOutResponse `H`; formats are 0 text, 1 binary.
pub fn copy_out_response(out: &mut BytesMut, format: u8, columns: &[i16]) {
    copy_response(out, b'H', format, columns);
}

fn copy_response(out: &mut BytesMut, tag: u8, format: u8, columns: &[i16]) {
    put(out, tag, |body| {
        body.put_u8(format);
        body.put_u16(columns.len() as u16);
        columns.iter().for_each(|&format| body.put_i16(format));
    });
}

/// NotificationResponse `A`.
pub fn notification_response(out: &mut BytesMut, pid: i32, channel: &[u8], payload: &[u8]) {
    put(out, b'A', |body| {
        body.put_i32(pid);
        put_cstr(body, channel);
        put_cstr(body, payload);
    });
}
