//! Sockets of clients: buffers and the listener.

pub mod client;
pub mod listener;

pub use client::Client;
