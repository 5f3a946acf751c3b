//! Where the lexer's longer tokens end: strings, comments, numbers.
//!
//! Functions take the text and a position inside the token and give the position after it, `None` if
//! the token does not end. The names in brackets are those of Postgres' `scan.l`.

use memchr::{memchr, memchr2, memmem};

use super::lexer::Kind;

/// White space [space]; `\v` since 16, an error before.
pub(super) const SPACE: u8 = 1;
/// The first byte of an identifier [ident_start].
pub(super) const WORD_START: u8 = 2;
/// A further byte of an identifier [ident_cont].
pub(super) const WORD: u8 = 4;
pub(super) const DIGIT: u8 = 8;
/// A byte of an operator [op_chars].
pub(super) const OPERATOR: u8 = 16;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = match i as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => WORD_START | WORD,
            b'0'..=b'9' => WORD | DIGIT,
            b'$' => WORD,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' => OPERATOR,
            b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' => OPERATOR,
            _ => 0,
        };
        i += 1;
    }
    table
}

/// The byte at a position; NUL, which is of no class, past the end.
#[inline]
pub(super) fn at(sql: &[u8], at: usize) -> u8 {
    sql.get(at).copied().unwrap_or(0)
}

/// Whether a byte is of the class.
#[inline]
pub(super) fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// The first position at or after `at` whose byte is not of the class.
#[inline]
pub(super) fn skip(sql: &[u8], mut at: usize, class: u8) -> usize {
    while let Some(byte) = sql.get(at)
        && is(*byte, class)
    {
        at += 1;
    }
    at
}

/// The end of a line comment, before the newline.
pub(super) fn line_end(sql: &[u8], at: usize) -> usize {
    let rest = sql.get(at..).unwrap_or_default();
    memchr2(b'\n', b'\r', rest).map_or(sql.len(), |length| at + length)
}

/// A block comment's end; comments nest.
pub(super) fn block_comment(sql: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 1_usize;
    loop {
        at += memchr2(b'*', b'/', sql.get(at..)?)?;
        match (sql[at], sql.get(at + 1)?) {
            (b'/', b'*') => (depth, at) = (depth + 1, at + 2),
            (b'*', b'/') if depth == 1 => return Some(at + 2),
            (b'*', b'/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
}

/// The end of what is closed by `quote`, a doubled `quote` standing for itself [xd].
pub(super) fn doubled(sql: &[u8], mut at: usize, quote: u8) -> Option<usize> {
    loop {
        at += memchr(quote, sql.get(at..)?)? + 1;
        if sql.get(at) != Some(&quote) {
            return Some(at);
        }
        at += 1;
    }
}

/// The end of a string without backslash escapes and of its continuations [xq, xus].
pub(super) fn string(sql: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = doubled(sql, at, b'\'')?;
        match continuation(sql, at) {
            Some(next) => at = next,
            None => return Some(at),
        }
    }
}

/// The same for bit strings, in which a quote cannot be doubled [xb, xh].
pub(super) fn bits(sql: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr(b'\'', sql.get(at..)?)? + 1;
        match continuation(sql, at) {
            Some(next) => at = next,
            None => return Some(at),
        }
    }
}

/// The same for strings with backslash escapes [xe].
pub(super) fn escaped(sql: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'\'', b'\\', sql.get(at..)?)?;
        if sql[at] == b'\\' || sql.get(at + 1) == Some(&b'\'') {
            at += 2;
            continue;
        }
        match continuation(sql, at + 1) {
            Some(next) => at = next,
            None => return Some(at + 1),
        }
    }
}

/// Where the next segment of a string begins: after white space with a newline in it and a quote
/// [quotecontinue]. Line comments count as white space.
pub(super) fn continuation(sql: &[u8], mut at: usize) -> Option<usize> {
    let mut newline = false;
    loop {
        match sql.get(at)? {
            b'\n' | b'\r' => (newline, at) = (true, at + 1),
            b'-' if sql.get(at + 1) == Some(&b'-') => at = line_end(sql, at + 2),
            b'\'' if newline => return Some(at + 1),
            byte if is(*byte, SPACE) => at += 1,
            _ => return None,
        }
    }
}

/// The end of the `$tag$` that begins at `start` [dolqdelim].
pub(super) fn dollar_tag(sql: &[u8], start: usize) -> Option<usize> {
    let mut end = start + 1;
    if is(at(sql, end), WORD_START) {
        while at(sql, end) != b'$' && is(at(sql, end), WORD) {
            end += 1;
        }
    }
    (at(sql, end) == b'$').then_some(end + 1)
}

/// The end of a dollar-quoted string whose tag is `start..tag_end`.
pub(super) fn dollar_string(sql: &[u8], start: usize, tag_end: usize) -> Option<usize> {
    let tag = &sql[start..tag_end];
    memmem::find(&sql[tag_end..], tag).map(|length| tag_end + length + tag.len())
}

/// A number that begins with a digit or with a point and a digit.
pub(super) fn number(sql: &[u8], start: usize) -> (Kind, usize) {
    if at(sql, start) == b'0' && at(sql, start + 1).is_ascii_alphabetic() {
        return prefixed_number(sql, start);
    }
    let (mut end, mut kind) = (skip(sql, start, DIGIT), Kind::Integer);
    let mut odd = underscored(sql, &mut end);
    if at(sql, end) == b'.' && (at(sql, end + 1) != b'.' || end == start) {
        (end, kind) = (skip(sql, end + 1, DIGIT), Kind::Numeric);
        odd |= at(sql, end - 1) != b'.' && underscored(sql, &mut end);
    }
    if matches!(at(sql, end), b'e' | b'E') {
        kind = Kind::Numeric;
        match exponent(sql, end + 1) {
            Some(after) => end = after,
            None => return (Kind::Odd, odd_end(sql, end)),
        }
        odd |= underscored(sql, &mut end);
    }
    if is(at(sql, end), WORD_START) {
        return (Kind::Odd, skip(sql, end, WORD));
    }
    match kind {
        _ if odd => (Kind::Odd, end),
        Kind::Integer => (integer_kind(&sql[start..end]), end),
        _ => (kind, end),
    }
}

/// Takes further groups of digits after underscores, which only 16 and later read as one number.
#[inline]
fn underscored(sql: &[u8], end: &mut usize) -> bool {
    let before = *end;
    while at(sql, *end) == b'_' && is(at(sql, *end + 1), DIGIT) {
        *end = skip(sql, *end + 1, DIGIT);
    }
    *end != before
}

/// The end of an exponent's sign and digits; `None` if there is no digit.
fn exponent(sql: &[u8], after_e: usize) -> Option<usize> {
    let digits = after_e + usize::from(matches!(at(sql, after_e), b'+' | b'-'));
    is(at(sql, digits), DIGIT).then(|| skip(sql, digits, DIGIT))
}

/// The end of `1e+` or `1exyz`, whose `e` is at `at_e`.
fn odd_end(sql: &[u8], at_e: usize) -> usize {
    match at(sql, at_e + 1) {
        b'+' | b'-' => at_e + 2,
        _ => skip(sql, at_e, WORD),
    }
}

/// `0x1F`, `0o17`, `0b11`, `0e1` or a zero with letters after it.
fn prefixed_number(sql: &[u8], start: usize) -> (Kind, usize) {
    if !matches!(at(sql, start + 1), b'e' | b'E') {
        return (Kind::Odd, skip(sql, start, WORD));
    }
    match exponent(sql, start + 2) {
        Some(end) if is(at(sql, end), WORD_START) => (Kind::Odd, skip(sql, end, WORD)),
        Some(end) => (Kind::Numeric, end),
        None => (Kind::Odd, odd_end(sql, start + 1)),
    }
}

fn integer_kind(digits: &[u8]) -> Kind {
    if digits.len() < 10 {
        return Kind::Integer;
    }
    match std::str::from_utf8(digits).ok().and_then(|it| it.parse::<i64>().ok()) {
        Some(value) if value <= i64::from(i32::MAX) => Kind::Integer,
        Some(_) => Kind::Bigint,
        None => Kind::Numeric,
    }
}
