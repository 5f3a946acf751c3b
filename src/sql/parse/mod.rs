//! Text to [`tree`]: the one place that knows the SQL parser. The parser is Postgres' own grammar,
//! so what it refuses, Postgres refuses.

pub mod block;
mod ddl;
mod expr;
mod modify;
mod query;
mod statement;
pub mod tokens;
pub mod tree;

use std::ops::Range;

use pg_query::protobuf as pb;
use thiserror::Error;
use tree::{Session, Statement, Stmt};

/// Why a text gives no tree.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Not SQL: the server reports it.
    #[error("{0}")]
    Syntax(String),
    /// Nested deeper than the proxy looks.
    #[error("the statement is nested too deep")]
    TooDeep,
}

/// The statements of a text, in order.
///
/// # Errors
/// [`ParseError::Syntax`] where the server, too, reports a syntax error, [`ParseError::TooDeep`]
/// where an expression has more than about 45 levels.
pub fn parse(sql: &str) -> Result<Vec<Statement>, ParseError> {
    let tree = pg_query::parse(sql, 0).map_err(|error| match error {
        pg_query::Error::Parse(text) if text.contains("stack depth") => ParseError::TooDeep,
        pg_query::Error::Decode(_) => ParseError::TooDeep,
        other => ParseError::Syntax(other.to_string()),
    })?;
    Ok(tree.protobuf.stmts.iter().map(|it| raw_statement(sql, it)).collect())
}

fn raw_statement(sql: &str, raw: &pb::RawStmt) -> Statement {
    let start = offset(raw.stmt_location);
    let end = if raw.stmt_len == 0 { sql.len() } else { start + offset(raw.stmt_len) };
    let range = trim(sql, start..end.min(sql.len()));
    let kind = statement::statement(raw.stmt.as_deref());
    let mut found = Statement { range, kind };
    place_inner(sql, &mut found);
    found
}

/// Gives the inner statement of EXPLAIN, PREPARE and DECLARE its range.
fn place_inner(sql: &str, statement: &mut Statement) {
    let range = statement.range.clone();
    let place = |inner: &mut Statement, start: Option<usize>| {
        inner.range = trim(sql, start.unwrap_or(range.start)..range.end);
        place_inner(sql, inner);
    };
    match &mut statement.kind {
        Stmt::Explain(it) => place(&mut it.inner, tokens::after_explain(sql, &range)),
        Stmt::Session(Session::Prepare { inner, .. }) => {
            place(inner, tokens::after_word(sql, &range, "as"));
        }
        Stmt::Session(Session::Declare { inner, .. }) => {
            place(inner, tokens::after_word(sql, &range, "for"));
        }
        Stmt::Session(Session::Execute { range: args, .. }) => {
            *args = tokens::parenthesis(sql, &range);
        }
        _ => (),
    }
}

/// Without white space at the ends.
fn trim(sql: &str, range: Range<usize>) -> Range<usize> {
    let text = sql.get(range.clone()).unwrap_or_default();
    let start = range.start + (text.len() - text.trim_start().len());
    start..start + text.trim().len()
}

/// An offset of the parser; it has -1 for "unknown".
fn offset(location: i32) -> usize {
    usize::try_from(location).unwrap_or(0)
}

type Node = pb::node::Node;

fn kind(node: &pb::Node) -> Option<&Node> {
    node.node.as_ref()
}

/// The words of a list of strings; anything else is left out.
fn words(nodes: &[pb::Node]) -> Vec<String> {
    nodes.iter().filter_map(word).collect()
}

fn word(node: &pb::Node) -> Option<String> {
    match kind(node)? {
        Node::String(it) => Some(it.sval.clone()),
        _ => None,
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
