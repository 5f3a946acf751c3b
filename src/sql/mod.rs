//! SQL as text: tokens, names, the statement fingerprint, leading directives, COPY rows.

pub mod comment;
pub mod copy;
pub mod fingerprint;
pub mod lexer;
pub mod literal;
mod memo;
pub mod name;
pub mod parse;
mod scan;
pub mod search_path;
