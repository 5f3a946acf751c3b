//! The keys of a password, won from a client's proof: they authenticate like the password, but only
//! where the same verifier is stored.

use std::fmt;

use sha2::{Digest, Sha256};

use super::{Key, Verifier, client_key, salted_password};
use crate::auth::is_equal;

/// ClientKey and ServerKey with the salt and rounds they belong to. `Debug` never shows them.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) client_key: Key,
    pub(super) server_key: Key,
}

impl Keys {
    /// Of a ClientKey that hashes to the verifier's StoredKey; `None` if it does not.
    pub(super) fn proven(verifier: &Verifier, client_key: Key) -> Option<Self> {
        is_equal(&Sha256::digest(client_key), &verifier.stored_key).then(|| Self {
            iterations: verifier.iterations,
            salt: verifier.salt.clone(),
            client_key,
            server_key: verifier.server_key,
        })
    }

    /// Of a password that fits the verifier; `None` if it does not. Costs the verifier's rounds.
    pub fn of_password(verifier: &Verifier, password: &str) -> Option<Self> {
        let salted = salted_password(password, &verifier.salt, verifier.iterations);
        Self::proven(verifier, client_key(&salted))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}
