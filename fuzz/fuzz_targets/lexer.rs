//! Tokens are in order, do not overlap and leave out only white space; the fingerprint's slots are
//! literals and comments; whatever reads a statement does not panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice::sql::comment::directives;
use pgsluice::sql::fingerprint::{Fingerprint, locate};
use pgsluice::sql::lexer::{Kind, Lexer};
use pgsluice::sql::literal::literal_value;

fuzz_target!(|sql: &str| {
    let mut end = 0;
    for token in Lexer::new(sql) {
        assert!(end <= token.start && token.start < token.end && token.end <= sql.len());
        assert!(sql[end..token.start].bytes().all(|it| it.is_ascii_whitespace() || it == 0x0b));
        assert!(token.kind != Kind::Unterminated || token.end == sql.len());
        end = token.end;
    }
    let mut fingerprint = Fingerprint::new(7);
    fingerprint.read(sql);
    for slot in fingerprint.slots() {
        assert!(slot.kind.is_literal() || slot.kind == Kind::Comment);
        let _ = literal_value(sql, *slot);
    }
    for offset in 0..=sql.len() {
        let place = locate(fingerprint.slots(), fingerprint.slots(), offset);
        assert!(place.is_none_or(|it| it.offset == offset));
    }
    let _ = directives(sql);
});
