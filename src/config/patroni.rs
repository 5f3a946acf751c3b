//! `patroni = ["https://user:password@host:8008"]` → [`PatroniApi`].

use std::fmt;

use toml::Spanned;
use toml::de::DeValue;

use super::error::Wrong;
use super::secret::Outside;
use super::section::Section;
use super::{Host, SYSTEM, SslMode, url, values};

const FORM: &str = "write \"http://host:8008\" or \"https://user:password@host:8008\"";

/// A URL of Patroni's REST API. Neither `Debug` nor `Display` shows the password; `Debug` shows what is to be
/// checked of its certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct PatroniApi {
    /// Where it is, user and password of its basic authentication (no user: none), and how its certificate
    /// is checked. It names no database.
    pub server: Host,
    pub is_https: bool,
}

impl PatroniApi {
    /// User and password, if the API wants them.
    pub fn login(&self) -> Option<(&str, &str)> {
        let password = self.server.password.as_deref().unwrap_or_default();
        (!self.server.user.is_empty()).then_some((&self.server.user, password))
    }
}

impl fmt::Display for PatroniApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        let at = if self.server.user.is_empty() { "" } else { "@" };
        write!(f, "{scheme}://{}{at}{}", self.server.user, self.server)
    }
}

impl fmt::Debug for PatroniApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if self.is_https { write!(f, "{}", self.server.tls) } else { Ok(()) }
    }
}

/// The URLs of a shard; each may be `env:NAME` or `file:PATH`.
pub(super) fn apis(section: &Section<'_>, outside: &Outside<'_>) -> Vec<PatroniApi> {
    let Some(DeValue::Array(items)) = section.written("patroni").map(Spanned::get_ref) else {
        section.optional("patroni", values::text_list);
        return Vec::new();
    };
    let mut found: Vec<PatroniApi> = Vec::new();
    for item in items {
        let wrong = match outside.resolve(item.get_ref()).and_then(|it| read(&it, outside)) {
            Ok(api) if found.contains(&api) => {
                Wrong::new(format!("names {api} twice"), "leave one out")
            }
            Ok(api) => {
                found.push(api);
                continue;
            }
            Err(wrong) => wrong,
        };
        section.report.add(&item.span(), "database.shard.patroni", wrong);
    }
    found
}

/// What is wrong with a URL is told without it: it may hold a password.
fn read(text: &str, outside: &Outside<'_>) -> Result<PatroniApi, Wrong> {
    let wrong = |message: &str| Wrong::new(message, FORM);
    let (is_https, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err(wrong("is no URL of Patroni's REST API")),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !rest.contains('@') && query.contains('@') {
        return Err(Wrong::new("has a `?` before its `@`", "in a password write %3F"));
    }
    let (account, place) = rest.rsplit_once('@').unwrap_or(("", rest));
    let place = place.strip_suffix('/').unwrap_or(place);
    if place.contains(['/', '#']) {
        return Err(wrong("has a path behind its port"));
    }
    let (user, password) = match account.split_once(':') {
        Some((user, password)) => (url::decode(user)?, Some(url::decode(password)?)),
        None => (url::decode(account)?, None),
    };
    if rest.contains('@') && (user.is_empty() || password.is_none()) {
        return Err(wrong("has an `@` without user and password before it"));
    }
    let (host, port) = url::address_of(place, None).map_err(|it| {
        let is_port = it.message.starts_with("has a port");
        if is_port { Wrong::new("has a port that is none", it.hint) } else { it }
    })?;
    if host.is_empty() || host.contains(char::is_whitespace) || host.starts_with('/') {
        return Err(wrong("names no host"));
    }
    if !is_https && !query.is_empty() {
        let hint = "write https://, or leave it out";
        return Err(Wrong::new("has parameters, which are for https://", hint));
    }
    let mut tls = url::tls_of(query)?;
    if is_https && !query.split('&').any(|it| it.starts_with("sslmode=")) {
        tls.mode = SslMode::VerifyFull;
    }
    if is_https && tls.mode < SslMode::Require {
        let hint = "write sslmode=require (whoever answers), or leave it out (verify-full)";
        return Err(Wrong::new(format!("has sslmode={} with https://", tls.mode), hint));
    }
    if tls.mode == SslMode::VerifyFull && tls.root.is_none() {
        tls.root = Some(SYSTEM.to_owned());
    }
    tls.check(outside)?;
    let server = Host { host, port, user, password, database: String::new(), tls };
    Ok(PatroniApi { server, is_https })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(text: &str) -> Result<PatroniApi, Wrong> {
        let read_file = |_: &str| Ok(String::new());
        read(text, &Outside { env: &|_| None, read_file: &read_file })
    }

    #[test]
    fn urls_name_place_login_and_certificates() {
        let plain = api("http://[::1]:8008/").unwrap();
        assert_eq!(
            (plain.server.host.as_str(), plain.server.port, plain.login()),
            ("::1", 8008, None)
        );
        assert_eq!(plain.to_string(), "http://[::1]:8008");
        let secured = api("https://admin:p%40ss@10.0.0.1:8008?sslrootcert=/etc/ca.crt").unwrap();
        assert_eq!(secured.login(), Some(("admin", "p@ss")));
        assert_eq!(secured.server.tls.mode, SslMode::VerifyFull);
        let shown = "https://admin@10.0.0.1:8008?sslmode=verify-full&sslrootcert=/etc/ca.crt";
        assert_eq!(format!("{secured:?}"), shown);
        let public = api("https://h:443").unwrap();
        assert_eq!(public.server.tls.root.as_deref(), Some(SYSTEM));
        let any = api("https://h:8008?sslmode=require").unwrap();
        assert_eq!((any.server.tls.mode, any.server.tls.root), (SslMode::Require, None));
    }

    #[test]
    fn wrong_urls_are_told_without_their_password() {
        for (url, message) in [
            ("h:8008", "is no URL"),
            ("postgres://u:secret@h/d", "is no URL"),
            ("http://h", "has no port"),
            ("http://h:0", "has a port that is none"),
            ("http://u:secret@h:8008/cluster", "has a path"),
            ("http://:secret@h:8008", "has an `@`"),
            ("http://u@h:8008", "has an `@`"),
            ("http://:8008", "names no host"),
            ("http://u:secret", "has a port that is none"),
            ("https://u:p?secret@h:8008", "has a `?` before"),
            ("http://u:secret@h:8008?sslmode=require", "has parameters"),
            ("https://h:8008?sslmode=prefer", "has sslmode=prefer with https"),
            ("https://h:8008?sslmode=verify-ca", "has sslmode=verify-ca without"),
            ("https://h:8008?host=x", "has an unknown parameter: `host`"),
        ] {
            let wrong = api(url).unwrap_err();
            assert!(wrong.message.starts_with(message), "{url}: {}", wrong.message);
            assert!(!wrong.message.contains("secret") && !wrong.hint.contains("secret"), "{url}");
        }
    }
}
