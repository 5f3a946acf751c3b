//! One reader per kind of value.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::error::Wrong;
use super::keys::Kind;
use super::suggest::nearest;
use super::units;

/// `"ip:port"`
pub(super) fn address(value: &DeValue<'_>, _: Kind) -> Result<SocketAddr, Wrong> {
    let text = string(value, "write \"ip:port\", such as \"127.0.0.1:6432\"")?;
    text.parse().map_err(|_| {
        let hint = match text.rsplit_once(':') {
            Some(("localhost", port)) => format!("write \"127.0.0.1:{port}\""),
            Some(("" | "*", port)) => format!("write \"0.0.0.0:{port}\""),
            _ => "write \"ip:port\", such as \"127.0.0.1:6432\"".to_owned(),
        };
        Wrong::new(format!("is no address: `{text}`"), hint)
    })
}

/// `"5s"`
pub(super) fn duration(value: &DeValue<'_>, kind: Kind) -> Result<Duration, Wrong> {
    let hint = || match value {
        DeValue::Integer(it) => format!("write \"{it}s\" or \"{it}ms\""),
        _ => "write \"5s\", \"500ms\", \"2m\" or \"1h\"".to_owned(),
    };
    let text = string(value, &hint())?;
    let read = units::duration(text)
        .ok_or_else(|| Wrong::new(format!("is no duration: `{text}`"), hint()))?;
    match kind {
        Kind::Duration { zero: false } if read.is_zero() => {
            Err(Wrong::new("must be longer than zero", "write \"5s\" or the like"))
        }
        _ => Ok(read),
    }
}

/// An integer within the bounds of its kind.
pub(super) fn count(value: &DeValue<'_>, kind: Kind) -> Result<usize, Wrong> {
    let Kind::Count { min, max } = kind else { panic!("{kind:?} is no count") };
    let hint = format!("write a number from {min} to {max}");
    within(integer(value).ok_or_else(|| mistyped(value, "a whole number", &hint))?, min, max, &hint)
}

/// An integer, or a number with a unit.
pub(super) fn bytes(value: &DeValue<'_>, kind: Kind) -> Result<usize, Wrong> {
    let Kind::Bytes { min, max } = kind else { panic!("{kind:?} is no size") };
    let shown = (units::show_bytes(min), units::show_bytes(max));
    let hint = format!("write \"64MiB\" or the like, from \"{}\" to \"{}\"", shown.0, shown.1);
    let read = match value {
        DeValue::String(text) => units::bytes(text).map(i128::from),
        _ => integer(value),
    };
    within(read.ok_or_else(|| mistyped(value, "a size", &hint))?, min, max, &hint)
}

/// One of the words of its kind.
pub(super) fn choice(value: &DeValue<'_>, kind: Kind) -> Result<String, Wrong> {
    let Kind::Choice(words) = kind else { panic!("{kind:?} is no choice") };
    let all = words.iter().map(|it| format!("\"{it}\"")).collect::<Vec<_>>().join(" or ");
    let hint = format!("write {all}");
    let text = string(value, &hint)?;
    if words.contains(&text) {
        return Ok(text.to_owned());
    }
    let hint = nearest(text, words).map_or(hint, |word| format!("write \"{word}\""));
    Err(Wrong::new(format!("is no choice: `{text}`"), hint))
}

/// Text that is not empty.
pub(super) fn text(value: &DeValue<'_>, _: Kind) -> Result<String, Wrong> {
    match string(value, "write it in quotes")? {
        "" => Err(Wrong::new("is empty", "write a name, or leave the key out")),
        text if text.contains('\0') => Err(Wrong::new("has a NUL in it", "leave it out")),
        text => Ok(text.to_owned()),
    }
}

/// The path of a folder from the root on.
pub(super) fn folder(value: &DeValue<'_>, kind: Kind) -> Result<String, Wrong> {
    match text(value, kind)? {
        path if path.starts_with('/') => Ok(path),
        path => Err(Wrong::new(
            format!("is no path from the root on: `{path}`"),
            "write \"/run/pgsluice\" or the like",
        )),
    }
}

/// `"0770"`, the permissions of a file in octal.
pub(super) fn mode(value: &DeValue<'_>, _: Kind) -> Result<u32, Wrong> {
    let hint = "write \"0777\", \"0770\" or \"0700\", in quotes";
    let text = string(value, hint)?;
    let read = u32::from_str_radix(text, 8).ok().filter(|it| *it <= 0o777);
    read.filter(|_| text.bytes().all(|it| it.is_ascii_digit()))
        .ok_or_else(|| Wrong::new(format!("are no permissions: `{text}`"), hint))
}

/// `["one", "two"]`, each once.
pub(super) fn text_list(value: &DeValue<'_>, kind: Kind) -> Result<Vec<String>, Wrong> {
    let hint = "write [\"one\", \"two\"]";
    let DeValue::Array(items) = value else { return Err(mistyped(value, "a list", hint)) };
    let mut list: Vec<String> = Vec::new();
    for item in items {
        let item = text(item.get_ref(), kind)?;
        if list.contains(&item) {
            return Err(Wrong::new(format!("names `{item}` twice"), "leave one out"));
        }
        list.push(item);
    }
    Ok(list)
}

/// `true` or `false`
pub(super) fn bool(value: &DeValue<'_>, _: Kind) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| mistyped(value, "true or false", "write true or false, bare"))
}

/// `[first, last]`
pub(super) fn range(value: &DeValue<'_>, _: Kind) -> Result<RangeInclusive<u8>, Wrong> {
    let hint = "write [first, last], such as [0, 63], both from 0 to 255";
    let wrong = || mistyped(value, "a range of buckets", hint);
    let DeValue::Array(items) = value else { return Err(wrong()) };
    let ends: Option<Vec<i128>> = items.iter().map(|it| integer(it.get_ref())).collect();
    let ends = ends.ok_or_else(wrong)?;
    let [first, last] = ends[..] else { return Err(wrong()) };
    match (u8::try_from(first), u8::try_from(last)) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        (Ok(first), Ok(last)) => {
            Err(Wrong::new("ends before it begins", format!("write [{last}, {first}]")))
        }
        _ => Err(Wrong::new(format!("[{first}, {last}] has more than the 256 buckets"), hint)),
    }
}

/// The text of a string.
pub(super) fn string<'a>(value: &'a DeValue<'_>, hint: &str) -> Result<&'a str, Wrong> {
    value.as_str().ok_or_else(|| mistyped(value, "text", hint))
}

/// The value of an integer; none if it is something else.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn within(value: i128, min: u64, max: u64, hint: &str) -> Result<usize, Wrong> {
    let wrong = |what| Wrong::new(format!("{value} is too {what}"), hint);
    match value {
        _ if value < i128::from(min) => Err(wrong("small")),
        _ if value > i128::from(max) => Err(wrong("large")),
        _ => usize::try_from(value).map_err(|_| wrong("large")),
    }
}

/// "is X where Y belongs".
pub(super) fn mistyped(value: &DeValue<'_>, wanted: &str, hint: &str) -> Wrong {
    let found = match value {
        DeValue::String(text) => format!("the text `{text}`"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(it) => it.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list of another form".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
    };
    Wrong::new(format!("is {found}, not {wanted}"), hint)
}
