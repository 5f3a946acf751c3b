//! What the proxy shows to a server in place of, or as, a password.

use std::fmt;
use std::sync::Arc;

use super::scram::Keys;

/// What we can prove to a server. `Debug` never shows it.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: only a server that trusts us lets us in.
    #[default]
    None,
    Password(String),
    /// `md5…` as in `pg_authid`, which is all that a server asks for by MD5.
    Md5(String),
    /// What a client's SCRAM proof gave away; good where the server has the same verifier.
    Keys(Arc<Keys>),
}

impl From<Option<&str>> for Credential {
    fn from(password: Option<&str>) -> Self {
        match password {
            Some(password) if !password.is_empty() => Self::Password(password.to_owned()),
            _ => Self::None,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password(_) => "Password(…)",
            Self::Md5(_) => "Md5(…)",
            Self::Keys(_) => "Keys(…)",
        })
    }
}
