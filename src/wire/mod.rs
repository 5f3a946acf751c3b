//! Protocol v3 without IO: where frames end, what is in them, how they are built, and which replies
//! a server still owes.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>
//!
//! * [`frame`]: headers and size limits over chunks of bytes.
//! * [`backend`], [`frontend`]: builders that append to a buffer, views that borrow a frame.
//! * [`pipeline`]: replies owed by one server, its transaction state.
//!
//! A *frame* is a whole message: tag, length, body. Views take whole frames and give ranges relative
//! to the frame's start, so that the original bytes can be relayed. Nothing here panics on any bytes.

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod pipeline;
mod read;
mod reply;

use bytes::BytesMut;
use pgwire::messages::Message;

use crate::error::{PgError, sqlstate};

pub use frame::Frame;
pub use pipeline::{Pipeline, TxStatus};
pub use read::{Formats, Oids};

/// Appends a message of `pgwire`; on an error (a size limit) nothing is appended.
fn encode(out: &mut BytesMut, message: &impl Message) -> Result<(), PgError> {
    let start = out.len();
    message.encode(out).map_err(|error| {
        out.truncate(start);
        PgError::new(sqlstate::PROTOCOL_VIOLATION, format!("cannot build the message: {error}"))
    })
}
