//! SQL text: what the proxy reads of it.

pub mod parse;
