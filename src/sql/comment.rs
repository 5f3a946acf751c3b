//! Directives in the comments before a statement.
//!
//! ```text
//! /* sluice.tenant=acme, sluice.role=primary */ SELECT …
//! /*traceparent='00-…-01',sluice.tenant='it''s'*/ UPDATE …
//! -- sluice.tenant=7, sluice.max_staleness=10s
//! ```
//! A comment is a list of `key=value` separated by commas; what does not begin with `sluice.` is
//! somebody else's. A value in quotes may hold anything, a quote in it doubled.

use std::borrow::Cow;

use super::lexer::{Kind, Lexer};
use crate::error::{PgError, sqlstate};

/// What leading comments ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives<'a> {
    /// The tenant the statement belongs to, as written.
    pub tenant: Option<Cow<'a, str>>,
    /// Which server of a shard is to run it.
    pub role: Option<Role>,
    /// How old a replica may be, as written.
    pub max_staleness: Option<Cow<'a, str>>,
    /// What it is to have seen, as written.
    pub token: Option<Cow<'a, str>>,
}

/// A server's role as named in a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
}

/// Reads the comments before the first token of a statement.
///
/// # Errors
/// 22023 for an unknown or repeated key and for a value that cannot be read.
pub fn directives(sql: &str) -> Result<Directives<'_>, PgError> {
    let mut found = Directives::default();
    let first = sql.bytes().find(|it| !it.is_ascii_whitespace() && *it != 0x0b);
    if !matches!(first, Some(b'/' | b'-')) {
        return Ok(found);
    }
    for token in Lexer::new(sql).take_while(|token| token.kind == Kind::Comment) {
        read_list(body(token.text(sql)), &mut found)?;
    }
    Ok(found)
}

/// Whether a text begins with BEGIN or START TRANSACTION, after comments.
pub fn opens_block(sql: &str) -> bool {
    let first = Lexer::new(sql).find(|token| token.kind != Kind::Comment);
    let text = first.map_or("", |token| token.text(sql));
    text.eq_ignore_ascii_case("begin") || text.eq_ignore_ascii_case("start")
}

fn body(comment: &str) -> &str {
    let block = comment.strip_prefix("/*").and_then(|it| it.strip_suffix("*/"));
    block.unwrap_or_else(|| comment.strip_prefix("--").unwrap_or(comment))
}

fn read_list<'a>(mut rest: &'a str, found: &mut Directives<'a>) -> Result<(), PgError> {
    while rest.contains("sluice.") {
        let (item, after) = next_item(rest);
        if let Some(directive) = item.trim().strip_prefix("sluice.") {
            read_directive(directive, found)?;
        }
        rest = after;
    }
    Ok(())
}

/// Cuts a list at the first comma outside the quoted value of a key.
fn next_item(list: &str) -> (&str, &str) {
    let (mut in_quotes, mut last) = (false, None);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'\'' if in_quotes || matches!(last, Some(b'=' | b'\'')) => in_quotes = !in_quotes,
            b',' if !in_quotes => return (&list[..at], &list[at + 1..]),
            _ => (),
        }
        if !byte.is_ascii_whitespace() {
            last = Some(byte);
        }
    }
    (list, "")
}

/// Takes in `tenant=acme`.
fn read_directive<'a>(text: &'a str, found: &mut Directives<'a>) -> Result<(), PgError> {
    let (name, value) = text.split_once('=').ok_or_else(|| malformed(text, "it has no value"))?;
    let value = read_value(value.trim()).ok_or_else(|| malformed(text, "its value is unclear"))?;
    let repeated = match name.trim() {
        "tenant" => found.tenant.replace(value).is_some(),
        "role" => found.role.replace(read_role(&value)?).is_some(),
        "max_staleness" => found.max_staleness.replace(value).is_some(),
        "token" => found.token.replace(value).is_some(),
        _ => return Err(malformed(text, "there is no such directive")),
    };
    if repeated { Err(malformed(text, "it is given twice")) } else { Ok(()) }
}

fn read_role(value: &str) -> Result<Role, PgError> {
    match value {
        "primary" => Ok(Role::Primary),
        "replica" => Ok(Role::Replica),
        _ => Err(malformed(&format!("role={value}"), "a role is primary or replica")),
    }
}

/// A value's text: `acme` or `'it''s'`.
fn read_value(value: &str) -> Option<Cow<'_, str>> {
    let Some(opened) = value.strip_prefix('\'') else {
        let is_plain = !value.contains(|it: char| it.is_whitespace() || "'\"".contains(it));
        return (is_plain && !value.is_empty()).then_some(value.into());
    };
    let inner = opened.strip_suffix('\'')?;
    let unpaired = inner.split("''").any(|part| part.contains('\''));
    match (unpaired, inner.contains('\'')) {
        (true, _) => None,
        (_, true) => Some(inner.replace("''", "'").into()),
        _ => Some(inner.into()),
    }
}

fn malformed(directive: &str, why: &str) -> PgError {
    let directive = directive.trim();
    PgError::new(
        sqlstate::INVALID_PARAMETER_VALUE,
        format!("the comment directive \"sluice.{directive}\" cannot be read: {why}"),
    )
    .hint("Write /* sluice.tenant=acme, sluice.role=primary */ before the statement; a value with spaces or commas goes in single quotes.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> (Option<String>, Option<Role>) {
        let found = directives(sql).unwrap();
        (found.tenant.map(Into::into), found.role)
    }

    #[test]
    fn leading_comments_are_read() {
        let both = (Some("acme".into()), Some(Role::Primary));
        assert_eq!(read("/* sluice.tenant=acme, sluice.role=primary */ SELECT 1"), both);
        assert_eq!(read(" -- sluice.tenant=acme\n/*sluice.role = 'primary'*/SELECT 1"), both);
        assert_eq!(read("/*a='x,y',sluice.tenant='it''s, so'*/").0, Some("it's, so".into()));
        assert_eq!(read("/* don't, sluice.tenant=7 */").0, Some("7".into()));
        assert_eq!(read("/*sluice.tenant='a''b'*/").0, Some("a'b".into()));
        let both = directives("/* sluice.max_staleness=10s, sluice.token=1.0-16B3 */").unwrap();
        assert_eq!(
            (both.max_staleness.as_deref(), both.token.as_deref()),
            (Some("10s"), Some("1.0-16B3"))
        );
    }

    #[test]
    fn other_comments_are_not() {
        let none = (None, None);
        assert_eq!(read("SELECT 1 /* sluice.tenant=acme */"), none);
        assert_eq!(read("/*+ SeqScan(t) */ SELECT 1 -- sluice.tenant=acme"), none);
        assert_eq!(read("/* see sluice.tenant */ SELECT 1"), none);
        assert_eq!(read("/* sluice.tenant=acme"), none);
    }

    #[test]
    fn malformed_directives_are_refused() {
        for sql in [
            "/* sluice.tenant */",
            "/* sluice.tenant= */",
            "/* sluice.tenant=a b */",
            "/* sluice.tenant='a */",
            "/* sluice.tenant='a'b' */",
            "/* sluice.tenannt=a */",
            "/* sluice.role=leader */",
            "/* sluice.tenant=a, sluice.tenant=b */",
        ] {
            assert_eq!(directives(sql).unwrap_err().code, "22023", "{sql}");
        }
    }
}
