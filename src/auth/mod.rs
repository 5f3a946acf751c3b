//! Who is there: exchanges with clients (we are the server) and with servers (we are the client), as
//! machines fed with frames. Randomness is an argument.
//!
//! * [`server`]: [`ServerExchange`], cleartext, MD5 and SCRAM towards a client.
//! * [`client`]: [`ClientExchange`], the same towards a server.
//! * [`scram`]: SCRAM-SHA-256 and -PLUS, both sides. * `md5`: Postgres' MD5 passwords.
//! * [`rule`]: who has to prove what, by user, database and network. * [`delay`]: what a failed login
//!   costs its address.

mod cleartext;
pub mod client;
mod credential;
pub mod delay;
mod md5;
pub mod rule;
pub mod scram;
pub mod server;

use std::fmt;

pub use client::{ClientExchange, ClientNext};
pub use credential::Credential;
pub use rule::{Network, Rule, RuleMethod, Visitor};
pub use server::{Next, Random, ServerExchange};

/// How a user proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    Trust,
    Password,
    Md5,
    ScramSha256,
}

/// What the proxy knows of a password. `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// No password (only with `auth = "trust"`).
    None,
    Plain(String),
    /// `SCRAM-SHA-256$…` as in `pg_authid`.
    Verifier(String),
    /// `md5…` as in `pg_authid`.
    Md5(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Plain(_) => "Plain(…)",
            Self::Verifier(_) => "Verifier(…)",
            Self::Md5(_) => "Md5(…)",
        })
    }
}

impl Secret {
    /// What `rolpassword` of `pg_authid` or the configuration holds: a verifier by its form, else
    /// the password itself. A broken verifier stays one: it is no password.
    pub fn of_text(text: String) -> Self {
        if text.starts_with("SCRAM-SHA-256$") {
            return Self::Verifier(text);
        }
        let md5 = text.strip_prefix("md5").filter(|it| it.len() == 32);
        match md5.is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            true => Self::Md5(text.to_ascii_lowercase()),
            false => Self::Plain(text),
        }
    }
}

/// Whether two secrets are equal, in a time that depends on their lengths only.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |bits, (a, b)| std::hint::black_box(bits | (a ^ b)));
    a.len() == b.len() && differing == 0
}
