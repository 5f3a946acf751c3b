//! What users have proved to the proxy, to log in to servers with.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::auth::Credential;

/// The newest thing a user has proved; in memory only. All pools of the user look here when they
/// connect, so that one login after a change of password renews them all.
#[derive(Default)]
pub struct PassedThrough(ArcSwap<Credential>);

impl PassedThrough {
    /// Keeps what a login has proved. One that proved nothing (trust, a certificate) leaves what is
    /// there.
    pub fn renew(&self, credential: Credential) {
        if credential != Credential::None {
            self.0.store(Arc::new(credential));
        }
    }

    /// What to log in with.
    pub fn newest(&self) -> Credential {
        Credential::clone(&self.0.load())
    }
}
