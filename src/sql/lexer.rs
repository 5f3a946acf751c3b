//! A one-pass lexer of Postgres' SQL (15 to 18), by the rules of the server's `scan.l`.
//!
//! Tokens are byte ranges; nothing is decoded or allocated. It reads what every supported server
//! reads alike and marks the rest as [`Kind::Odd`] or [`Kind::Unterminated`], so that such a
//! statement can be passed on as it is for Postgres to judge. `standard_conforming_strings` is taken
//! to be on and the text to be UTF-8.

use super::scan;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An identifier or keyword, `a$1` included.
    Word,
    /// `"…"`.
    QuotedWord,
    /// `U&"…"`: its name may depend on a UESCAPE that follows.
    UnicodeWord,
    /// `$1`.
    Param,
    /// Decimal digits that fit `int4`.
    Integer,
    /// Decimal digits that fit `int8` but not `int4`.
    Bigint,
    /// Any other number: with a point or exponent, or larger than `int8`.
    Numeric,
    /// `'…'`.
    String,
    /// `E'…'`.
    EscapeString,
    /// `B'…'`.
    BitString,
    /// `X'…'`.
    HexString,
    /// `U&'…'`: its value may depend on a UESCAPE that follows.
    UnicodeString,
    /// `N'…'`.
    NationalString,
    /// `$$…$$` or `$tag$…$tag$`.
    DollarString,
    /// One operator, such as `<=` or `->>`.
    Operator,
    /// One of `( ) [ ] , ; . .. : :: :=`.
    Punctuation,
    /// `-- …` up to the end of the line, or `/* … */`, nested.
    Comment,
    /// Numbers and parameters that are malformed or whose meaning depends on the server's version:
    /// `1a`, `1_000`, `0x1F`, `1e+`, `$1a`.
    Odd,
    /// A byte that begins no token, such as a control character or `{`.
    Other,
    /// A string, quoted identifier or comment that does not end: the rest of the text.
    Unterminated,
}

impl Kind {
    /// Whether the token is a constant whose value a shared plan does not look at.
    pub fn is_literal(self) -> bool {
        self.is_number() || self.is_string()
    }

    /// Whether the token is a number that every server reads alike.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Bigint | Self::Numeric)
    }

    /// Whether the token is a string of any notation.
    pub fn is_string(self) -> bool {
        matches!(
            self,
            Self::String
                | Self::EscapeString
                | Self::BitString
                | Self::HexString
                | Self::UnicodeString
                | Self::NationalString
                | Self::DollarString
        )
    }
}

/// A token: its kind and the bytes `start..end` of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    /// The token's text in the statement it was read from.
    pub fn text(self, sql: &str) -> &str {
        sql.get(self.start..self.end).unwrap_or_default()
    }
}

/// The tokens of a text, comments included, white space not.
///
/// ```
/// use pgsluice::sql::lexer::{Kind, Lexer};
/// let kinds: Vec<Kind> = Lexer::new("id=5--3").map(|token| token.kind).collect();
/// assert_eq!(kinds, [Kind::Word, Kind::Operator, Kind::Integer, Kind::Comment]);
/// ```
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    /// Reads `sql` from its beginning.
    pub fn new(sql: &'a str) -> Self {
        Self { sql: sql.as_bytes(), at: 0 }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    #[inline]
    fn next(&mut self) -> Option<Token> {
        let start = scan::skip(self.sql, self.at, scan::SPACE);
        let first = *self.sql.get(start)?;
        let (kind, end) = token(self.sql, start, first);
        self.at = end;
        Some(Token { kind, start, end })
    }
}

/// The token that begins at `start` with the byte `first`, and where it ends.
#[inline]
pub(super) fn token(sql: &[u8], start: usize, first: u8) -> (Kind, usize) {
    match first {
        b'e' | b'E' | b'b' | b'B' | b'x' | b'X' | b'n' | b'N' | b'u' | b'U' => {
            prefixed(sql, start, first)
        }
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => (Kind::Word, word_end(sql, start)),
        b'0'..=b'9' => scan::number(sql, start),
        b'\'' => found(Kind::String, scan::string(sql, start + 1)),
        b'"' => found(Kind::QuotedWord, scan::doubled(sql, start + 1, b'"')),
        b'$' => dollar(sql, start),
        b'.' if scan::is(scan::at(sql, start + 1), scan::DIGIT) => scan::number(sql, start),
        b'.' if scan::at(sql, start + 1) == b'.' => (Kind::Punctuation, start + 2),
        b':' if matches!(scan::at(sql, start + 1), b':' | b'=') => (Kind::Punctuation, start + 2),
        b'(' | b')' | b'[' | b']' | b',' | b';' | b'.' | b':' => (Kind::Punctuation, start + 1),
        _ if scan::is(first, scan::OPERATOR) => operator(sql, start),
        _ => (Kind::Other, start + 1),
    }
    .or_rest(sql)
}

/// The end of a construct, or "it does not end" as `usize::MAX`.
fn found(kind: Kind, end: Option<usize>) -> (Kind, usize) {
    end.map_or((Kind::Unterminated, usize::MAX), |end| (kind, end))
}

/// Cuts "it does not end" to the rest of the text.
trait OrRest {
    fn or_rest(self, sql: &[u8]) -> Self;
}

impl OrRest for (Kind, usize) {
    #[inline]
    fn or_rest(self, sql: &[u8]) -> Self {
        (self.0, self.1.min(sql.len()))
    }
}

#[inline]
fn word_end(sql: &[u8], start: usize) -> usize {
    scan::skip(sql, start + 1, scan::WORD)
}

/// A word that begins with a letter which may introduce a string: `e'…'`, `u&"…"`.
fn prefixed(sql: &[u8], start: usize, first: u8) -> (Kind, usize) {
    match (first, scan::at(sql, start + 1), scan::at(sql, start + 2)) {
        (b'e' | b'E', b'\'', _) => found(Kind::EscapeString, scan::escaped(sql, start + 2)),
        (b'b' | b'B', b'\'', _) => found(Kind::BitString, scan::bits(sql, start + 2)),
        (b'x' | b'X', b'\'', _) => found(Kind::HexString, scan::bits(sql, start + 2)),
        (b'n' | b'N', b'\'', _) => found(Kind::NationalString, scan::string(sql, start + 2)),
        (b'u' | b'U', b'&', b'\'') => found(Kind::UnicodeString, scan::string(sql, start + 3)),
        (b'u' | b'U', b'&', b'"') => found(Kind::UnicodeWord, scan::doubled(sql, start + 3, b'"')),
        _ => (Kind::Word, word_end(sql, start)),
    }
}

/// `$1`, `$tag$…$tag$`, or a lone dollar sign.
fn dollar(sql: &[u8], start: usize) -> (Kind, usize) {
    let next = scan::at(sql, start + 1);
    if scan::is(next, scan::DIGIT) {
        let end = scan::skip(sql, start + 1, scan::DIGIT);
        return match scan::is(scan::at(sql, end), scan::WORD_START) {
            true => (Kind::Odd, word_end(sql, end)),
            false => (Kind::Param, end),
        };
    }
    match scan::dollar_tag(sql, start) {
        Some(tag_end) => found(Kind::DollarString, scan::dollar_string(sql, start, tag_end)),
        None => (Kind::Other, start + 1),
    }
}

/// A comment or an operator. An operator ends before a comment, and gives up trailing signs unless
/// it holds a character that standard SQL's operators lack: `=-5` is `=` and `-5`, `@-5` is `@-`.
fn operator(sql: &[u8], start: usize) -> (Kind, usize) {
    match (scan::at(sql, start), scan::at(sql, start + 1)) {
        (b'-', b'-') => return (Kind::Comment, scan::line_end(sql, start + 2)),
        (b'/', b'*') => return found(Kind::Comment, scan::block_comment(sql, start + 2)),
        (_, next) if !scan::is(next, scan::OPERATOR) => return (Kind::Operator, start + 1),
        _ => (),
    }
    let mut end = start + 1;
    while scan::is(scan::at(sql, end), scan::OPERATOR)
        && !matches!((scan::at(sql, end), scan::at(sql, end + 1)), (b'-', b'-') | (b'/', b'*'))
    {
        end += 1;
    }
    if !sql[start..end].iter().any(|byte| b"~!@#^&|`?%".contains(byte)) {
        while end > start + 1 && matches!(sql[end - 1], b'+' | b'-') {
            end -= 1;
        }
    }
    (Kind::Operator, end)
}
