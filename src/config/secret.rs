//! Passwords and URLs that may lie outside the TOML, and what a password's text is.

use toml::de::DeValue;

use super::error::Wrong;
use super::{AuthMethod, Secret};

/// The world outside the text, as functions.
pub(super) struct Outside<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) read_file: &'a dyn Fn(&str) -> std::io::Result<String>,
}

impl Outside<'_> {
    /// The text, or what `env:NAME` or `file:PATH` stands for (without a final newline).
    pub(super) fn resolve(&self, value: &DeValue<'_>) -> Result<String, Wrong> {
        // What was written may be a password all the same: it is not repeated.
        let text = value.as_str().ok_or_else(|| Wrong::new("is not text", "write it in quotes"))?;
        let found = match text.split_once(':') {
            Some(("env", name)) => self.variable(name)?,
            Some(("file", path)) => self.file(path)?,
            _ => text.to_owned(),
        };
        match found.as_str() {
            "" if text.is_empty() => Err(Wrong::new("is empty", "write it, or leave the key out")),
            "" => Err(Wrong::new(format!("is empty: `{text}`"), "fill it")),
            it if it.contains('\0') => Err(Wrong::new("has a NUL in it", "leave it out")),
            _ => Ok(found),
        }
    }

    fn variable(&self, name: &str) -> Result<String, Wrong> {
        (self.env)(name).ok_or_else(|| {
            let message = format!("the environment has no variable `{name}`");
            Wrong::new(message, "set it, or write \"file:PATH\" or the value itself")
        })
    }

    fn file(&self, path: &str) -> Result<String, Wrong> {
        let text = (self.read_file)(path).map_err(|error| {
            let message = format!("cannot read `{path}`: {error}");
            Wrong::new(message, "make it readable, or write \"env:NAME\" or the value itself")
        })?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
    }
}

/// What a resolved password is: plain, or a verifier by its prefix.
pub(super) fn secret(text: String) -> Result<Secret, Wrong> {
    match Secret::of_text(text) {
        Secret::Verifier(text) if !is_verifier(&text) => Err(broken()),
        secret => Ok(secret),
    }
}

/// The method to use for a secret: the one written, if it is possible, else the secret's own.
pub(super) fn method(written: Option<&str>, secret: &Secret) -> Result<AuthMethod, Wrong> {
    let method = match (written, secret) {
        (Some("trust"), _) => AuthMethod::Trust,
        (Some("password"), _) => AuthMethod::Password,
        (Some("md5"), _) | (None, Secret::Md5(_)) => AuthMethod::Md5,
        (_, _) => AuthMethod::ScramSha256,
    };
    match (method, secret) {
        (AuthMethod::Md5, Secret::Verifier(_)) => Err(Wrong::new(
            "\"md5\" cannot be checked against a SCRAM verifier",
            "write \"scram-sha-256\" or \"password\"",
        )),
        (AuthMethod::ScramSha256, Secret::Md5(_)) => Err(Wrong::new(
            "\"scram-sha-256\" cannot be checked against an md5 verifier",
            "write \"md5\" or \"password\"",
        )),
        _ => Ok(method),
    }
}

fn broken() -> Wrong {
    let hint = "copy rolpassword from pg_authid: \
                SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>";
    Wrong::new("is a broken SCRAM verifier", hint)
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, all but the iterations base64.
fn is_verifier(text: &str) -> bool {
    let mut parts = text.split('$').skip(1);
    let (Some(salted), Some(keys), None) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Some((count, salt)), Some((stored, server))) =
        (salted.split_once(':'), keys.split_once(':'))
    else {
        return false;
    };
    count.parse::<u32>().is_ok_and(|it| it > 0)
        && decoded(salt).is_some_and(|it| it > 0)
        && [stored, server].into_iter().all(|key| decoded(key) == Some(32))
}

/// The number of bytes behind base64.
fn decoded(text: &str) -> Option<usize> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok().map(|it| it.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn verifiers_are_told_from_passwords() {
        assert_eq!(secret(VERIFIER.into()), Ok(Secret::Verifier(VERIFIER.into())));
        assert!(secret("SCRAM-SHA-256$4096:xx".into()).is_err());
        let md5 = "md5AABBCCDDEEFF00112233445566778899";
        assert_eq!(secret(md5.into()), Ok(Secret::Md5(md5.to_lowercase())));
        assert_eq!(secret("md5sum".into()), Ok(Secret::Plain("md5sum".into())));
    }

    #[test]
    fn methods_follow_the_secret() {
        let md5 = Secret::Md5(String::new());
        assert_eq!(method(None, &md5), Ok(AuthMethod::Md5));
        assert_eq!(method(Some("password"), &md5), Ok(AuthMethod::Password));
        assert!(method(Some("scram-sha-256"), &md5).is_err());
        let verifier = Secret::Verifier(String::new());
        assert_eq!(method(None, &verifier), Ok(AuthMethod::ScramSha256));
        assert!(method(Some("md5"), &verifier).is_err());
    }
}
