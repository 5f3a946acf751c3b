//! Postgres' MD5 passwords: `md5` + hex(md5(password + user)), sent hashed again with a salt.

use md5::{Digest, Md5};

/// What `pg_authid` stores.
pub(super) fn stored(password: &[u8], user: &[u8]) -> String {
    format!("md5{}", hex(&[password, user]))
}

/// What a client sends for a stored `md5…` and the server's salt.
pub(super) fn salted(stored: &str, salt: [u8; 4]) -> String {
    let inner = stored.strip_prefix("md5").unwrap_or(stored);
    format!("md5{}", hex(&[inner.as_bytes(), &salt]))
}

fn hex(parts: &[&[u8]]) -> String {
    let mut hash = Md5::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SELECT 'md5' || md5('secret' || 'app')`, and md5 of its digits and the salt.
    #[test]
    fn is_that_of_postgres() {
        let stored = stored(b"secret", b"app");
        assert_eq!(stored, "md56a422f785c9e20873908ce25d1736ae2");
        assert_eq!(salted(&stored, *b"salt"), "md57f097e06031b34893c20e25a0e68242c");
    }
}
