//! Tokens, where the tree has no offsets: the extent of a clause, the start of an inner statement.

use std::ops::Range;

use pg_query::protobuf::{KeywordKind, Token as Pg};

/// A token's bytes and what it is. Comments are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub range: Range<usize>,
    pub kind: TokenKind,
    /// Parentheses and brackets around it.
    pub depth: usize,
}

/// The kinds of tokens that matter for cutting a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword, in lower case; identifiers that look like one are [`TokenKind::Other`].
    Keyword(String),
    Open,
    Close,
    Comma,
    Dot,
    Other,
}

impl Token {
    /// Whether it is this keyword.
    pub fn is(&self, keyword: &str) -> bool {
        matches!(&self.kind, TokenKind::Keyword(it) if it == keyword)
    }
}

/// The tokens of a part of the text; none if it cannot be cut into tokens.
pub fn tokens(sql: &str, range: &Range<usize>) -> Vec<Token> {
    let Some(text) = sql.get(range.clone()) else { return Vec::new() };
    let Ok(scan) = pg_query::scan(text) else { return Vec::new() };
    let mut depth = 0_usize;
    let mut found = Vec::with_capacity(scan.tokens.len());
    for token in &scan.tokens {
        let (start, end) = (super::offset(token.start), super::offset(token.end));
        if matches!(token.token(), Pg::SqlComment | Pg::CComment) {
            continue;
        }
        let kind = match text.get(start..end) {
            Some("(" | "[") => TokenKind::Open,
            Some(")" | "]") => TokenKind::Close,
            Some(",") => TokenKind::Comma,
            Some(".") => TokenKind::Dot,
            Some(word) if token.keyword_kind() != KeywordKind::NoKeyword => {
                TokenKind::Keyword(word.to_ascii_lowercase())
            }
            _ => TokenKind::Other,
        };
        if kind == TokenKind::Close {
            depth = depth.saturating_sub(1);
        }
        let at = depth;
        if kind == TokenKind::Open {
            depth += 1;
        }
        found.push(Token { range: range.start + start..range.start + end, kind, depth: at });
    }
    found
}

/// Where the text after the first such keyword outside parentheses starts.
pub(super) fn after_word(sql: &str, range: &Range<usize>, keyword: &str) -> Option<usize> {
    let tokens = tokens(sql, range);
    tokens.iter().find(|it| it.depth == 0 && it.is(keyword)).map(|it| it.range.end)
}

/// Where the statement of an EXPLAIN starts.
pub(super) fn after_explain(sql: &str, range: &Range<usize>) -> Option<usize> {
    let tokens = tokens(sql, range);
    let mut rest = tokens.get(1..)?;
    match rest.first() {
        // `EXPLAIN (option, …) …`, not `EXPLAIN (SELECT …)`.
        Some(open) if open.kind == TokenKind::Open && !starts_query(rest.get(1)?) => {
            let close = rest.iter().position(|it| it.depth == 0 && it.kind == TokenKind::Close)?;
            rest = rest.get(close + 1..)?;
        }
        _ => {
            while rest
                .first()
                .is_some_and(|it| it.is("analyze") || it.is("analyse") || it.is("verbose"))
            {
                rest = rest.get(1..)?;
            }
        }
    }
    rest.first().map(|it| it.range.start)
}

fn starts_query(token: &Token) -> bool {
    token.kind == TokenKind::Open
        || ["select", "with", "values", "table"].iter().any(|it| token.is(it))
}

/// The text between the first parenthesis and its partner.
pub fn parenthesis(sql: &str, range: &Range<usize>) -> Option<Range<usize>> {
    let tokens = tokens(sql, range);
    let open = tokens.iter().find(|it| it.kind == TokenKind::Open)?;
    let close = tokens.iter().find(|it| it.depth == 0 && it.kind == TokenKind::Close)?;
    Some(open.range.end..close.range.start)
}
