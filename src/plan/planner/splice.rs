//! Rewriting by cutting the statement's own text: every change is checked by parsing the result.

use std::ops::Range;

use crate::error::PgError;
use crate::sql::parse::parse;
use crate::sql::parse::tokens::{Token, TokenKind, tokens};
use crate::sql::parse::tree::{Query, Stmt};

/// The clauses of a SELECT outside all parentheses.
#[derive(Debug)]
pub(super) struct Clauses<'a> {
    sql: &'a str,
    range: Range<usize>,
    tokens: Vec<Token>,
    /// First token of each clause, by keyword, in text order; the target list is `select`.
    starts: Vec<(&'static str, usize)>,
}

const CLAUSES: [&str; 14] = [
    "into",
    "from",
    "where",
    "group",
    "having",
    "window",
    "union",
    "intersect",
    "except",
    "order",
    "limit",
    "offset",
    "fetch",
    "for",
];

impl<'a> Clauses<'a> {
    /// Finds the clauses; `None` if the SELECT stands in parentheses.
    pub(super) fn of(sql: &'a str, range: &Range<usize>) -> Option<Self> {
        let tokens = tokens(sql, range);
        let select = (0..tokens.len()).find(|i| is_clause(&tokens, *i, "select"))?;
        let mut starts = vec![("select", select)];
        for i in select + 1..tokens.len() {
            let found = CLAUSES.iter().find(|it| is_clause(&tokens, i, it));
            if let Some(word) = found
                && !starts.iter().any(|(it, _)| it == word)
            {
                starts.push((word, i));
            }
        }
        Some(Self { sql, range: range.clone(), tokens, starts })
    }

    /// The tokens of a clause, with its keyword.
    fn clause(&self, word: &str) -> Option<Range<usize>> {
        let at = self.starts.iter().position(|(it, _)| *it == word)?;
        let end = self.starts.get(at + 1).map_or(self.tokens.len(), |(_, it)| *it);
        Some(self.starts[at].1..end)
    }

    fn text(&self, tokens: Range<usize>) -> Option<Range<usize>> {
        let (first, last) = (tokens.start, tokens.end.checked_sub(1)?);
        if first > last {
            return None;
        }
        Some(self.tokens.get(first)?.range.start..self.tokens.get(last)?.range.end)
    }

    /// The bytes of a clause, with its keyword.
    pub(super) fn bytes(&self, word: &str) -> Option<Range<usize>> {
        self.text(self.clause(word)?)
    }

    /// The token ranges of a list, cut at its commas.
    fn items(&self, list: Range<usize>) -> Vec<Range<usize>> {
        let mut items = Vec::new();
        let mut start = list.start;
        for i in list.clone() {
            if self.tokens[i].depth == 0 && self.tokens[i].kind == TokenKind::Comma {
                items.push(start..i);
                start = i + 1;
            }
        }
        items.push(start..list.end);
        items
    }

    /// The text of the n-th item of GROUP BY.
    pub(super) fn group_item(&self, n: usize) -> Option<&'a str> {
        self.sql.get(self.group_bytes(n)?)
    }

    /// The bytes of the n-th item of GROUP BY.
    pub(super) fn group_bytes(&self, n: usize) -> Option<Range<usize>> {
        let mut clause = self.clause("group")?;
        clause.start += 2;
        self.text(self.items(clause).get(n)?.clone())
    }

    /// The text of the n-th item of ORDER BY, without direction.
    pub(super) fn order_item(&self, n: usize) -> Option<&'a str> {
        self.sql.get(self.order_bytes(n)?)
    }

    /// The bytes of the n-th item of ORDER BY, without direction.
    pub(super) fn order_bytes(&self, n: usize) -> Option<Range<usize>> {
        let mut clause = self.clause("order")?;
        clause.start += 2;
        let mut item = self.items(clause).get(n)?.clone();
        let ends = |item: &Range<usize>, back: usize, words: &[&str]| {
            item.len() > back && words.iter().any(|it| self.tokens[item.end - back].is(it))
        };
        if ends(&item, 1, &["first", "last"]) && ends(&item, 2, &["nulls"]) {
            item.end -= 2;
        }
        if ends(&item, 1, &["asc", "desc"]) {
            item.end -= 1;
        }
        self.text(item)
    }

    /// The text of the n-th item of the target list, without its alias.
    pub(super) fn target(&self, n: usize, has_alias: bool) -> Option<&'a str> {
        self.sql.get(self.target_bytes(n, has_alias)?)
    }

    /// The bytes of the n-th item of the target list, without its alias.
    pub(super) fn target_bytes(&self, n: usize, has_alias: bool) -> Option<Range<usize>> {
        let list = self.target_list()?;
        let mut item = self.items(list).get(n)?.clone();
        if has_alias {
            item.end -= 1;
            if item.len() > 1 && self.tokens[item.end - 1].is("as") {
                item.end -= 1;
            }
        }
        self.text(item)
    }

    fn target_list(&self) -> Option<Range<usize>> {
        let mut list = self.clause("select")?;
        list.start += 1;
        let at = |i: usize, word: &str| self.tokens.get(i).is_some_and(|it| it.is(word));
        if at(list.start, "all") {
            list.start += 1;
        } else if at(list.start, "distinct") {
            list.start += 1;
            if at(list.start, "on") {
                let is_close = |i: &usize| {
                    self.tokens[*i].depth == 0 && self.tokens[*i].kind == TokenKind::Close
                };
                list.start = list.clone().find(is_close)? + 1;
            }
        }
        Some(list)
    }

    /// Where the target list ends.
    pub(super) fn end_of_targets(&self) -> Option<usize> {
        self.bytes("select").map(|it| it.end)
    }

    /// The statement's text with changes made: cuts and insertions.
    pub(super) fn apply(&self, mut edits: Vec<(Range<usize>, String)>) -> Option<String> {
        edits.sort_by_key(|(range, _)| (range.start, range.end));
        let (mut text, mut at) = (String::new(), self.range.start);
        for (range, new) in edits {
            text.push_str(self.sql.get(at..range.start)?);
            text.push_str(&new);
            at = range.end;
        }
        text.push_str(self.sql.get(at..self.range.end)?);
        Some(text)
    }

    /// Where the statement's last token ends; a comment may follow.
    pub(super) fn end(&self) -> usize {
        self.tokens.last().map_or(self.range.end, |it| it.range.end)
    }
}

fn is_clause(tokens: &[Token], i: usize, word: &str) -> bool {
    let token = &tokens[i];
    if token.depth != 0 || !token.is(word) {
        return false;
    }
    let before = |back: usize| i.checked_sub(back).and_then(|it| tokens.get(it));
    let is_before = |back: usize, word: &str| before(back).is_some_and(|it| it.is(word));
    let is_name = is_before(1, "as") || before(1).is_some_and(|it| it.kind == TokenKind::Dot);
    let is_operator =
        word == "from" && is_before(1, "distinct") && (is_before(2, "is") || is_before(2, "not"));
    let is_within = word == "group" && is_before(1, "within");
    !(is_name || is_operator || is_within)
}

/// The text, if it parses to this query.
pub(super) fn checked(text: Option<String>, expected: &Query) -> Result<String, PgError> {
    let refusal = || {
        PgError::refused("the statement cannot be rewritten for several shards")
            .detail("The proxy cannot find the parts to change in its text.")
            .hint("Write it as a plain SELECT without parentheses around it.")
    };
    let text = text.ok_or_else(refusal)?;
    let Ok(statements) = parse(&text) else { return Err(refusal()) };
    match statements.as_slice() {
        [one] if matches!(&one.kind, Stmt::Query(it) if **it == *expected) => Ok(text),
        _ => Err(refusal()),
    }
}
