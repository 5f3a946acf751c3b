//! TLS as the configuration asks for it, towards clients and towards servers. The files themselves are
//! read by `net::tls`.

use std::fmt;

use super::error::Wrong;
use super::secret::Outside;
use super::section::Section;
use super::values;

/// TLS towards clients: `[listen] tls…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// Whether clients over TCP must use it.
    pub is_required: bool,
    /// Files in PEM.
    pub certificate: String,
    pub key: String,
    /// The CAs of clients' certificates; none: clients are not asked.
    pub client_ca: Option<String>,
}

impl ListenTls {
    /// `allow` or `require`.
    pub fn word(&self) -> &'static str {
        if self.is_required { "require" } else { "allow" }
    }
}

/// The `sslrootcert` that stands for the CAs this machine trusts.
pub const SYSTEM: &str = "system";

/// TLS towards a server, as libpq's parameters of these names say it:
/// <https://www.postgresql.org/docs/current/libpq-ssl.html>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostTls {
    pub mode: SslMode,
    /// `sslrootcert`: the CAs, a file in PEM or [`SYSTEM`].
    pub root: Option<String>,
    /// `sslcert`, `sslkey`: our own certificate, files in PEM.
    pub certificate: Option<String>,
    pub key: Option<String>,
}

/// `sslmode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    /// In clear; with TLS if the server refuses that.
    Allow,
    /// With TLS if the server can; else in clear.
    #[default]
    Prefer,
    Require,
    /// The certificate must be of a CA of `sslrootcert`.
    VerifyCa,
    /// And be issued for the host that the URL names.
    VerifyFull,
}

impl SslMode {
    const WORDS: [(&'static str, Self); 6] = [
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    /// The mode of libpq's word for it.
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, mode)| *mode).ok_or_else(|| {
            let words: Vec<&str> = Self::WORDS.iter().map(|(word, _)| *word).collect();
            let hint = format!("write {}", words.join(", "));
            Wrong::new(format!("has an sslmode that is none: `{text}`"), hint)
        })
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, mode)| mode == self).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}

/// As the end of a URL; nothing for what holds where nothing is written.
impl fmt::Display for HostTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = (self.mode != SslMode::default()).then(|| self.mode.to_string());
        let fields = [
            ("sslmode", &mode),
            ("sslrootcert", &self.root),
            ("sslcert", &self.certificate),
            ("sslkey", &self.key),
        ];
        let written = fields.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (i, (name, value)) in written.enumerate() {
            write!(f, "{}{name}={value}", if i == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl HostTls {
    /// Whether the parts fit together and the files are there.
    pub(super) fn check(&self, outside: &Outside<'_>) -> Result<(), Wrong> {
        if self.mode >= SslMode::VerifyCa && self.root.is_none() {
            let hint = "add sslrootcert=FILE with the CA's certificate, or sslrootcert=system";
            return Err(Wrong::new(format!("has sslmode={} without sslrootcert", self.mode), hint));
        }
        if self.key.is_some() && self.certificate.is_none() {
            return Err(Wrong::new("has sslkey without sslcert", "add sslcert=FILE"));
        }
        let is_system = self.root.as_deref() == Some(SYSTEM);
        if is_system && self.mode != SslMode::VerifyFull {
            let message = format!("has sslmode={} with sslrootcert=system", self.mode);
            let hint = "write sslmode=verify-full: anybody can get a certificate of those CAs";
            return Err(Wrong::new(message, hint));
        }
        let files =
            [("sslrootcert", &self.root), ("sslcert", &self.certificate), ("sslkey", &self.key)];
        for (name, path) in files {
            let Some(path) = path.as_ref().filter(|it| *it != SYSTEM) else { continue };
            (outside.read_file)(path).map_err(|error| {
                let message = format!("has {name}={path}, which cannot be read: {error}");
                Wrong::new(message, "name a file in PEM that this process may read")
            })?;
        }
        Ok(())
    }
}

/// `[listen] tls…`; none after a mistake.
pub(super) fn listen(section: &Section<'_>, outside: &Outside<'_>) -> Option<ListenTls> {
    let word = section.optional("tls", values::choice);
    let file = |name: &str| {
        let path = section.optional(name, values::text)?;
        if let Err(error) = (outside.read_file)(&path) {
            let message = format!("`{path}` cannot be read: {error}");
            let hint = "name a file in PEM that this process may read";
            section.wrong(name, Wrong::new(message, hint));
        }
        Some(path)
    };
    let certificate = file("tls_certificate");
    let (key, client_ca) = (file("tls_key"), file("tls_client_ca"));
    if word.as_deref() == Some("off") {
        return None;
    }
    let Some(certificate) = certificate else {
        let needs = [("tls", word.is_some()), ("tls_key", key.is_some())];
        let needs = needs.into_iter().chain([("tls_client_ca", client_ca.is_some())]);
        if section.written("tls_certificate").is_none()
            && let Some((name, _)) = needs.into_iter().find(|(_, is_written)| *is_written)
        {
            let hint = "write `tls_certificate = \"/etc/pgsluice/server.crt\"`";
            section.wrong(name, Wrong::new("needs a tls_certificate", hint));
        }
        return None;
    };
    Some(ListenTls {
        is_required: word.as_deref() == Some("require"),
        key: key.unwrap_or_else(|| certificate.clone()),
        certificate,
        client_ca,
    })
}
