//! Free ports on 127.0.0.1.

use std::net::{Ipv4Addr, TcpListener};

use super::error::{PlaygroundError, Result};

/// Where the system begins to hand out ports by itself.
const END: u16 = 32_000;

/// Whether nothing listens on the port.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The first `count` ports from `first` on that are free now. Another process may take one before
/// it is used.
pub(super) fn free(first: u16, count: usize) -> Result<Vec<u16>> {
    let ports: Vec<u16> = (first..END).filter(|port| is_free(*port)).take(count).collect();
    if ports.len() == count { Ok(ports) } else { Err(PlaygroundError::NoPorts(count)) }
}
