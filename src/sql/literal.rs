//! The values of literals.

use std::borrow::Cow;

use super::fingerprint::Slot;
use super::lexer::Kind;
use super::scan;

/// The value of a string, or a number as written. `None` for notations whose value depends on more
/// than the literal (`U&'…'`, `N'…'`), for bits, and for escapes that Postgres rejects.
pub fn literal_value(sql: &str, slot: Slot) -> Option<Cow<'_, str>> {
    let text = sql.get(slot.range())?;
    match slot.kind {
        Kind::Integer | Kind::Bigint | Kind::Numeric => Some(text.into()),
        Kind::String => plain(text),
        Kind::EscapeString => escaped(text.as_bytes().get(2..)?).map(Into::into),
        Kind::DollarString => {
            let tag = scan::dollar_tag(text.as_bytes(), 0)?;
            text.get(tag..text.len().checked_sub(tag)?).map(Into::into)
        }
        _ => None,
    }
}

fn plain(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
    if !inner.contains('\'') {
        return Some(inner.into());
    }
    let (bytes, mut value, mut at) = (text.as_bytes(), Vec::with_capacity(inner.len()), 1);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\'' => at = quote(bytes, at, &mut value),
            _ => at = push(*byte, at, &mut value),
        }
    }
    String::from_utf8(value).ok().map(Into::into)
}

/// A quote inside a string: a doubled one, the gap before the next segment, or the end.
fn quote(bytes: &[u8], at: usize, value: &mut Vec<u8>) -> usize {
    match bytes.get(at + 1) {
        Some(b'\'') => push(b'\'', at + 1, value),
        _ => scan::continuation(bytes, at + 1).unwrap_or(bytes.len()),
    }
}

fn push(byte: u8, at: usize, value: &mut Vec<u8>) -> usize {
    value.push(byte);
    at + 1
}

/// The value of what follows `E'`.
fn escaped(bytes: &[u8]) -> Option<String> {
    let (mut value, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\'' => at = quote(bytes, at, &mut value),
            b'\\' => at = escape(bytes, at + 1, *bytes.get(at + 1)?, &mut value)?,
            _ => at = push(*byte, at, &mut value),
        }
    }
    if value.contains(&0) {
        return None;
    }
    String::from_utf8(value).ok()
}

/// Reads the escape whose letter is at `at`; gives the position after it.
fn escape(bytes: &[u8], at: usize, letter: u8, value: &mut Vec<u8>) -> Option<usize> {
    let (digits, radix, most) = match letter {
        b'0'..=b'7' => (at, 8, 3),
        b'x' if scan::at(bytes, at + 1).is_ascii_hexdigit() => (at + 1, 16, 2),
        b'u' | b'U' => return unicode(bytes, at, letter, value),
        _ => {
            value.push(match letter {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                other => other,
            });
            return Some(at + 1);
        }
    };
    let (byte, end) = number(bytes, digits, radix, most);
    value.push(byte as u8);
    Some(end)
}

/// `\uXXXX` or `\UXXXXXXXX`, or two of them that are a surrogate pair.
fn unicode(bytes: &[u8], at: usize, letter: u8, value: &mut Vec<u8>) -> Option<usize> {
    let (mut code, mut end) = code_point(bytes, at, letter)?;
    if (0xd800..0xdc00).contains(&code) {
        let letter = scan::at(bytes, end + 1);
        if scan::at(bytes, end) != b'\\' || !matches!(letter, b'u' | b'U') {
            return None;
        }
        let (low, after) = code_point(bytes, end + 1, letter)?;
        if !(0xdc00..0xe000).contains(&low) {
            return None;
        }
        (code, end) = (0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00), after);
    }
    let character = char::from_u32(code)?;
    value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Some(end)
}

fn code_point(bytes: &[u8], at: usize, letter: u8) -> Option<(u32, usize)> {
    let length = if letter == b'u' { 4 } else { 8 };
    let (code, end) = number(bytes, at + 1, 16, length);
    (end == at + 1 + length).then_some((code, end))
}

/// Up to `most` digits, and the position after them.
fn number(bytes: &[u8], at: usize, radix: u32, most: usize) -> (u32, usize) {
    let (mut value, mut end) = (0_u32, at);
    while end < at + most
        && let Some(digit) = char::from(scan::at(bytes, end)).to_digit(radix)
    {
        (value, end) = (value.wrapping_mul(radix).wrapping_add(digit), end + 1);
    }
    (value, end)
}
