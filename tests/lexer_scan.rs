//! The lexer against Postgres' own scanner: the same tokens at the same bytes, over a corpus and
//! over random mutations of it.

use pg_query::protobuf::Token as Pg;
use pgsluice::sql::lexer::{Kind, Lexer};

const CORPUS: &str = include_str!("corpus/lexer.sql");
const SEED: u64 = 0x5eed_0001;
const MUTATIONS: usize = 50_000;
const FRAGMENTS: &[&str] = &[
    "'", "''", "\"", "$", "$$", "$a$", "/*", "*/", "--", "\n", "\r\n", " ", "E'", "B'", "x'", "N'",
    "U&'", "U&\"", "u&", "e", "1", "0x1", "_", ".", "..", "e+", "+", "-", "@", "*", "/", "\\",
    "\\'", ":", "::", ":=", ";", "(", ",", "é", "<=", "#", "?", "|", "a", "$1", "'\n'", "'--\n'",
];

#[derive(Debug, PartialEq)]
struct Lexed(usize, usize, &'static str);

fn ours(sql: &str) -> Vec<Lexed> {
    let mut tokens = Vec::new();
    for token in Lexer::new(sql) {
        let (start, end) = (token.start, token.end);
        if token.kind == Kind::NationalString {
            tokens.push(Lexed(start, start + 1, "word"));
            tokens.push(Lexed(start + 1, end, "string"));
            continue;
        }
        tokens.push(Lexed(start, end, class(token.kind)));
    }
    tokens
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Word | Kind::QuotedWord => "word",
        Kind::UnicodeWord => "unicode word",
        Kind::Param => "param",
        Kind::Integer => "integer",
        Kind::Bigint | Kind::Numeric => "number",
        Kind::String | Kind::EscapeString | Kind::DollarString | Kind::NationalString => "string",
        Kind::BitString => "bits",
        Kind::HexString => "hex",
        Kind::UnicodeString => "unicode string",
        Kind::Comment => "comment",
        Kind::Odd => "odd",
        Kind::Operator | Kind::Punctuation | Kind::Other => "other",
        Kind::Unterminated => "unterminated",
    }
}

fn theirs(sql: &str) -> Result<Vec<Lexed>, String> {
    let scanned = pg_query::scan(sql).map_err(|error| error.to_string())?;
    let lexed = |token: &pg_query::protobuf::ScanToken| {
        let (start, end) = (token.start as usize, token.end as usize);
        Lexed(start, end, pg_class(token.token(), &sql[start..end]))
    };
    Ok(scanned.tokens.iter().map(lexed).collect())
}

fn pg_class(token: Pg, text: &str) -> &'static str {
    let depends_on_version = |plain| match text.contains(['_', 'x', 'X', 'o', 'O', 'b', 'B']) {
        true => "odd",
        false => plain,
    };
    match token {
        Pg::Iconst => depends_on_version("integer"),
        Pg::Fconst => depends_on_version("number"),
        Pg::Sconst => "string",
        Pg::Bconst => "bits",
        Pg::Xconst => "hex",
        Pg::Usconst => "unicode string",
        Pg::Uident => "unicode word",
        Pg::Param => "param",
        Pg::CComment | Pg::SqlComment => "comment",
        _ if text.starts_with(|c: char| c.is_alphabetic() || "_\"".contains(c)) => "word",
        _ if !text.is_ascii() => "word",
        _ => "other",
    }
}

fn check(sql: &str) {
    let ours = ours(sql);
    // libpg_query lets a word follow a parameter (`$1AND`), which servers since 15 reject.
    if ours.iter().any(|token| token.2 == "odd" && sql[token.0..].starts_with('$')) {
        return;
    }
    match theirs(sql) {
        Ok(theirs) => assert_eq!(ours, theirs, "left ours, right Postgres': {sql:?}"),
        Err(error) => {
            let unterminated = ours.iter().any(|token| token.2 == "unterminated");
            assert!(unterminated || !error.contains(": unterminated"), "{error}: {sql:?}");
        }
    }
}

fn corpus() -> Vec<&'static str> {
    CORPUS.split("\n\\g\n").collect()
}

#[test]
fn corpus_is_lexed_as_postgres_does() {
    assert!(corpus().len() >= 200, "{}", corpus().len());
    for sql in corpus() {
        check(sql);
        sql.split(", ").for_each(check);
        for (end, _) in sql.char_indices() {
            check(&sql[..end]);
        }
    }
}

#[test]
fn mutations_are_lexed_as_postgres_does() {
    println!("seed {SEED:#x}");
    let (corpus, mut random) = (corpus(), SEED);
    for _ in 0..MUTATIONS {
        let mut sql = corpus[below(&mut random, corpus.len())].to_owned();
        for _ in 0..=below(&mut random, 4) {
            mutate(&mut sql, &corpus, &mut random);
        }
        check(&sql);
    }
}

fn mutate(sql: &mut String, corpus: &[&str], random: &mut u64) {
    let at = boundary(sql, below(random, sql.len() + 1));
    match below(random, 8) {
        0 => sql.truncate(at),
        1 => drop(sql.drain(..at)),
        2 => {
            let end = boundary(sql, (at + 1 + below(random, 4)).min(sql.len()));
            sql.replace_range(at..end.max(at), "");
        }
        3 => {
            let other = corpus[below(random, corpus.len())];
            sql.insert_str(at, &other[boundary(other, below(random, other.len() + 1))..]);
        }
        _ => sql.insert_str(at, FRAGMENTS[below(random, FRAGMENTS.len())]),
    }
}

fn boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A number below `limit`, by splitmix64.
fn below(state: &mut u64, limit: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % limit as u64) as usize
}
