//! `postgres://user:password@host:port/database?sslmode=require` → [`Host`].

use super::error::Wrong;
use super::suggest::nearest;
use super::{Host, HostTls, SYSTEM, SslMode};

/// What may stand behind the `?`, as libpq names it.
const PARAMETERS: &[&str] = &["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port"];
/// Where no port is written.
const PORT: u16 = 5432;
const FORM: &str = "write \"postgres://user:password@host:port/database\"";

/// What a URL's parameters say.
#[derive(Default)]
struct Parameters {
    tls: HostTls,
    host: Option<String>,
    port: Option<u16>,
}

/// Reads a server's URL. The port may be left out (5432) and so may the password. A host that is a path
/// is the folder of a Unix socket.
pub(super) fn host(url: &str) -> Result<Host, Wrong> {
    let wrong = |message: &str| Wrong::new(message, FORM);
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or_else(|| wrong("is not a URL of a Postgres server"))?;
    if rest.contains('#') {
        let hint = "leave out everything from `#` on (in a password write %23)";
        return Err(Wrong::new("has a `#`", hint));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !rest.contains('@') && query.contains('@') {
        return Err(Wrong::new("has a `?` before its `@`", "in a password write %3F"));
    }
    let (account, place) = rest.rsplit_once('@').ok_or_else(|| wrong("names no user"))?;
    let (address, database) = place.split_once('/').ok_or_else(|| wrong("names no database"))?;
    let (user, password) = match account.split_once(':') {
        Some((user, password)) => (user, Some(decode(password)?)),
        None => (account, None),
    };
    let (user, database) = (decode(user)?, decode(database)?);
    match (user.as_str(), database.as_str()) {
        ("", _) => return Err(wrong("names no user")),
        (_, "") => return Err(wrong("names no database")),
        (_, path) if path.contains('/') => return Err(wrong("has a `/` in its database's name")),
        _ => (),
    }
    let parameters = parameters(query)?;
    let (host, port) = address_of(address, Some(PORT))?;
    let host = match parameters.host {
        Some(named) if host.is_empty() => named,
        Some(_) => return Err(Wrong::new("names its host twice", "leave out one of them")),
        None => host,
    };
    if host.is_empty() || (host.contains(char::is_whitespace) && !host.starts_with('/')) {
        return Err(Wrong::new("names no host", FORM));
    }
    let port = parameters.port.unwrap_or(port);
    Ok(Host { host, port, user, password, database, tls: parameters.tls })
}

/// `sslmode=require&sslrootcert=/etc/ca.crt`
fn parameters(query: &str) -> Result<Parameters, Wrong> {
    let (mut read, mut names) = (Parameters::default(), Vec::new());
    for pair in query.split('&').filter(|it| !it.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        if value.is_empty() {
            let message = format!("has a parameter without a value: `{name}`");
            return Err(Wrong::new(message, "write name=value, or leave it out"));
        }
        match name.as_str() {
            "sslmode" => read.tls.mode = SslMode::parse(&value)?,
            "sslrootcert" => read.tls.root = Some(value),
            "sslcert" => read.tls.certificate = Some(value),
            "sslkey" => read.tls.key = Some(value),
            "host" => read.host = Some(value),
            "port" => read.port = Some(port_of(&format!(":{value}"), None)?),
            _ => return Err(unknown(&name)),
        }
        if names.contains(&name) {
            return Err(Wrong::new(format!("names `{name}` twice"), "leave one out"));
        }
        names.push(name);
    }
    if read.tls.root.as_deref() == Some(SYSTEM) && !names.iter().any(|it| it == "sslmode") {
        read.tls.mode = SslMode::VerifyFull;
    }
    Ok(read)
}

fn unknown(name: &str) -> Wrong {
    let hint = match nearest(name, PARAMETERS) {
        Some(near) => format!("write {near}"),
        None => format!("the parameters are {}", PARAMETERS.join(", ")),
    };
    Wrong::new(format!("has an unknown parameter: `{name}`"), hint)
}

/// What parameters say of TLS, where they may say nothing else.
pub(super) fn tls_of(query: &str) -> Result<HostTls, Wrong> {
    let read = parameters(query)?;
    let name = read.host.map(|_| "host").or(read.port.map(|_| "port"));
    name.map_or(Ok(read.tls), |name| {
        let hint = "the parameters are sslmode, sslrootcert, sslcert, sslkey";
        Err(Wrong::new(format!("has an unknown parameter: `{name}`"), hint))
    })
}

/// `host`, `host:port`, `[::1]`, `[::1]:port`, or nothing for what the parameters name. Without a default
/// the port has to be there.
pub(super) fn address_of(address: &str, default: Option<u16>) -> Result<(String, u16), Wrong> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or_else(|| Wrong::new("has a `[` without its `]`", "write [::1]:5432"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                let message = format!("has no IPv6 address between its brackets: `{host}`");
                return Err(Wrong::new(message, "write [::1]:5432"));
            }
            (host.to_owned(), port)
        }
        None if address.matches(':').count() > 1 => {
            let hint = "write an IPv6 address in brackets, as in [::1]:5432";
            return Err(Wrong::new("has several `:` in its address", hint));
        }
        None => {
            let end = address.find(':').unwrap_or(address.len());
            (decode(&address[..end])?, &address[end..])
        }
    };
    Ok((host, port_of(port, default)?))
}

fn port_of(text: &str, default: Option<u16>) -> Result<u16, Wrong> {
    let wrong = || {
        let message = format!("has a port that is none: `{}`", text.trim_start_matches(':'));
        Wrong::new(message, "write a number from 1 to 65535")
    };
    match text.strip_prefix(':') {
        None if text.is_empty() => {
            default.ok_or_else(|| Wrong::new("has no port", "write it, as in host:8008"))
        }
        None => Err(wrong()),
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong),
    }
}

/// Decodes `%40` and the like.
pub(super) fn decode(text: &str) -> Result<String, Wrong> {
    let wrong = || Wrong::new("has a broken % escape", "write % itself as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        if *byte != b'%' {
            bytes.push(*byte);
            rest = after;
            continue;
        }
        let digits = after.get(..2).and_then(|it| std::str::from_utf8(it).ok());
        let digits = digits.filter(|it| it.bytes().all(|b| b.is_ascii_hexdigit()));
        bytes.push(u8::from_str_radix(digits.ok_or_else(wrong)?, 16).map_err(|_| wrong())?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok().filter(|it| !it.contains('\0')).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_and_decoded() {
        let read = host("postgres://a%40b:p%3A%2Fw@db.example:6000/my%20db").unwrap();
        assert_eq!((read.user.as_str(), read.password.as_deref()), ("a@b", Some("p:/w")));
        assert_eq!((read.host.as_str(), read.port), ("db.example", 6000));
        assert_eq!(read.database, "my db");
        assert_eq!(host("postgresql://u@h/d").unwrap().port, 5432);
        let read = host("postgres://u:p@ss@[::1]:5433/d").unwrap();
        assert_eq!((read.host.as_str(), read.port), ("::1", 5433));
        assert_eq!(read.password.as_deref(), Some("p@ss"));
    }

    #[test]
    fn parameters_and_sockets_are_those_of_libpq() {
        let read =
            host("postgres://u@h/d?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.crt").unwrap();
        assert_eq!((read.tls.mode, read.unix_socket()), (SslMode::VerifyFull, None));
        assert_eq!(read.tls.root.as_deref(), Some("/etc/ca.crt"));
        assert_eq!(format!("{read:?}"), "u@h:5432/d?sslmode=verify-full&sslrootcert=/etc/ca.crt");
        let read = host("postgres://u@h/d?sslrootcert=system").unwrap();
        assert_eq!(read.tls.mode, SslMode::VerifyFull);
        for url in ["postgres://u@%2Frun%2Fpg:5433/d", "postgres://u@/d?host=/run/pg&port=5433"] {
            assert_eq!(host(url).unwrap().unix_socket().as_deref(), Some("/run/pg/.s.PGSQL.5433"));
        }
    }

    #[test]
    fn wrong_urls_are_told() {
        for (url, message) in [
            ("mysql://u@h/d", "is not a URL"),
            ("postgres://h/d", "names no user"),
            ("postgres://:p@h/d", "names no user"),
            ("postgres://u@h", "names no database"),
            ("postgres://u@h/", "names no database"),
            ("postgres://u@h/a/b", "has a `/`"),
            ("postgres://u@:1/d", "names no host"),
            ("postgres://u@h:0/d", "has a port that is none: `0`"),
            ("postgres://u@h:70000/d", "has a port that is none: `70000`"),
            ("postgres://u@::1:5/d", "has several `:`"),
            ("postgres://u@[::1/d", "has a `[` without"),
            ("postgres://u@[zz]/d", "has no IPv6 address"),
            ("postgres://u@[::1]x/d", "has a port that is none: `x`"),
            ("postgres://u:%zz@h/d", "has a broken % escape"),
            ("postgres://u:%4@h/d", "has a broken % escape"),
            ("postgres://u:%+1@h/d", "has a broken % escape"),
            ("postgres://u@h/d?sslmod=require", "has an unknown parameter: `sslmod`"),
            ("postgres://u@h/d?sslmode=on", "has an sslmode that is none: `on`"),
            ("postgres://u@h/d?sslmode", "has a parameter without a value"),
            ("postgres://u@h/d?port=1&port=2", "names `port` twice"),
            ("postgres://u@h/d?host=/run", "names its host twice"),
            ("postgres://u:p?w@h/d", "has a `?` before its `@`"),
            ("postgres://u@h/d#x", "has a `#`"),
        ] {
            let wrong = host(url).unwrap_err();
            assert!(wrong.message.starts_with(message), "{url}: {}", wrong.message);
        }
    }
}
