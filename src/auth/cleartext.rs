//! A password in clear against what is stored of it.

use std::sync::Arc;

use super::scram::{Keys, Verifier, salt_of};
use super::{Credential, Random, Secret, is_equal, md5};

/// Whether the password fits, and what then logs in to servers. Every secret, and none at all, costs
/// the same derivation, so that time tells nothing.
pub(super) fn check(
    secret: Option<&Secret>,
    user: &str,
    random: &Random,
    password: &[u8],
) -> Option<Credential> {
    let verifier = match secret {
        Some(Secret::Verifier(text)) => text.parse().ok(),
        _ => None,
    };
    let verifier =
        verifier.unwrap_or_else(|| Verifier::mock(&salt_of(&random.key, user), random.iterations));
    let keys = Keys::of_password(&verifier, &String::from_utf8_lossy(password));
    match secret? {
        Secret::Plain(right) => (!right.is_empty() && is_equal(password, right.as_bytes()))
            .then(|| Credential::Password(right.clone())),
        Secret::Md5(right) => {
            is_equal(md5::stored(password, user.as_bytes()).as_bytes(), right.as_bytes())
                .then(|| Credential::Md5(right.clone()))
        }
        Secret::Verifier(_) => keys.map(|keys| Credential::Keys(Arc::new(keys))),
        Secret::None => None,
    }
}
