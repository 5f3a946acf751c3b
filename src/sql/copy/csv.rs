//! Fields of a line of the CSV format. As `CopyReadAttributesCSV` does it.

use std::borrow::Cow;

use super::CopyFormat;

/// The special characters of the format.
#[derive(Clone, Copy)]
struct Marks {
    delimiter: u8,
    quote: u8,
    escape: u8,
}

/// The field `column` of a line: decoded, or `None` for NULL.
pub(super) fn field<'a>(
    line: &'a [u8],
    column: usize,
    format: &CopyFormat,
) -> Result<Option<Cow<'a, [u8]>>, &'static str> {
    let CopyFormat::Csv { delimiter, quote, escape, null, force_null, .. } = format else {
        return Err("not CSV");
    };
    let marks = Marks { delimiter: *delimiter, quote: *quote, escape: *escape };
    let mut at = 0;
    for _ in 0..column {
        let end = skip(line, at, marks)?.0;
        at = if end < line.len() {
            end + 1
        } else {
            return Err("missing data for the tenant column");
        };
    }
    let (end, has_quotes) = skip(line, at, marks)?;
    let raw = &line[at..end];
    let value: Cow<[u8]> = if has_quotes { decoded(raw, marks).into() } else { raw.into() };
    let is_null = *value == *null.as_bytes() && (!has_quotes || *force_null);
    Ok((!is_null).then_some(value))
}

/// The end of the field that begins at `at`, and whether it has quotes.
fn skip(line: &[u8], mut at: usize, marks: Marks) -> Result<(usize, bool), &'static str> {
    let mut has_quotes = false;
    loop {
        match line.get(at) {
            None => return Ok((at, has_quotes)),
            Some(byte) if *byte == marks.delimiter => return Ok((at, has_quotes)),
            Some(byte) if *byte == marks.quote => {
                has_quotes = true;
                at = quoted(line, at + 1, marks, &mut |_| ())
                    .ok_or("unterminated CSV quoted field")?;
            }
            Some(_) => at += 1,
        }
    }
}

/// Reads from after an opening quote; gives the position after the closing one.
fn quoted(line: &[u8], mut at: usize, marks: Marks, value: &mut impl FnMut(u8)) -> Option<usize> {
    loop {
        let byte = *line.get(at)?;
        let next = line.get(at + 1).filter(|it| **it == marks.escape || **it == marks.quote);
        match next {
            Some(next) if byte == marks.escape => {
                value(*next);
                at += 2;
            }
            _ if byte == marks.quote => return Some(at + 1),
            _ => {
                value(byte);
                at += 1;
            }
        }
    }
}

/// The value of a field with quotes; what stands outside them counts too.
fn decoded(raw: &[u8], marks: Marks) -> Vec<u8> {
    let (mut value, mut at) = (Vec::with_capacity(raw.len()), 0);
    while let Some(&byte) = raw.get(at) {
        at += 1;
        if byte == marks.quote {
            at = quoted(raw, at, marks, &mut |it| value.push(it)).unwrap_or(raw.len());
        } else {
            value.push(byte);
        }
    }
    value
}
