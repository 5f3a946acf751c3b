//! `postgres://user:password@host:port/database` → [`Host`].

use super::Host;
use super::error::Wrong;

const FORM: &str = "write \"postgres://user:password@host:port/database\"";

/// Reads a server's URL. The port may be left out (5432) and so may the password.
pub(super) fn host(url: &str) -> Result<Host, Wrong> {
    let wrong = |message: &str| Wrong::new(message, FORM);
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or_else(|| wrong("is not a URL of a Postgres server"))?;
    if rest.contains(['?', '#']) {
        let hint = "leave out everything from `?` or `#` on (in a password write %3F and %23)";
        return Err(Wrong::new("has parameters, which are not supported", hint));
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
    let (host, port) = address_of(address)?;
    Ok(Host { host, port, user, password, database })
}

/// `host`, `host:port`, `[::1]` or `[::1]:port`.
fn address_of(address: &str) -> Result<(String, u16), Wrong> {
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
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(Wrong::new("names no host", FORM));
    }
    Ok((host, port_of(port)?))
}

fn port_of(text: &str) -> Result<u16, Wrong> {
    let wrong = || {
        let message = format!("has a port that is none: `{}`", text.trim_start_matches(':'));
        Wrong::new(message, "write a number from 1 to 65535")
    };
    match text.strip_prefix(':') {
        None if text.is_empty() => Ok(5432),
        None => Err(wrong()),
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong),
    }
}

/// Decodes `%40` and the like.
fn decode(text: &str) -> Result<String, Wrong> {
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
            ("postgres://u@h/d?sslmode=require", "has parameters"),
        ] {
            let wrong = host(url).unwrap_err();
            assert!(wrong.message.starts_with(message), "{url}: {}", wrong.message);
        }
    }
}
