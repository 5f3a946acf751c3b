//! Fields of a line of the text format. As `CopyReadAttributesText` does it.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// The field `column` of a line: decoded, or `None` for NULL.
pub(super) fn field<'a>(
    line: &'a [u8],
    column: usize,
    delimiter: u8,
    null: &[u8],
) -> Result<Option<Cow<'a, [u8]>>, &'static str> {
    let mut rest = line;
    for _ in 0..column {
        let end = field_end(rest, delimiter);
        rest = rest.get(end + 1..).ok_or("missing data for the tenant column")?;
    }
    let raw = &rest[..field_end(rest, delimiter)];
    if raw == null {
        return Ok(None);
    }
    Ok(Some(match memchr(b'\\', raw) {
        None => raw.into(),
        Some(_) => decoded(raw).into(),
    }))
}

/// The length of the first field: up to a delimiter without a backslash before it.
fn field_end(line: &[u8], delimiter: u8) -> usize {
    let mut at = 0;
    while let Some(ahead) = line.get(at..).and_then(|rest| memchr2(delimiter, b'\\', rest)) {
        at += ahead;
        if line[at] == delimiter {
            return at;
        }
        at += 2;
    }
    line.len()
}

fn decoded(raw: &[u8]) -> Vec<u8> {
    let (mut value, mut at) = (Vec::with_capacity(raw.len()), 0);
    while let Some(&byte) = raw.get(at) {
        at += 1;
        match (byte, raw.get(at)) {
            (b'\\', Some(&letter)) => at = escape(raw, at, letter, &mut value),
            _ => value.push(byte),
        }
    }
    value
}

/// Decodes the escape whose letter is at `at`; gives the position after it.
fn escape(raw: &[u8], at: usize, letter: u8, value: &mut Vec<u8>) -> usize {
    let is_hex = letter == b'x' && raw.get(at + 1).is_some_and(u8::is_ascii_hexdigit);
    if !is_hex && !matches!(letter, b'0'..=b'7') {
        value.push(match letter {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            other => other,
        });
        return at + 1;
    }
    let (mut end, last, radix) = if is_hex { (at + 1, at + 3, 16) } else { (at, at + 3, 8) };
    let mut number = 0_u32;
    while end < last
        && let Some(digit) = raw.get(end).and_then(|it| char::from(*it).to_digit(radix))
    {
        (number, end) = (number * radix + digit, end + 1);
    }
    value.push(number as u8);
    end
}
