//! Parameter types for other servers than the one that told them.

use std::borrow::Cow;

use crate::catalog::FIRST_USER_OID;
use crate::sql::lexer::{Kind, Lexer};

const TEXT: u32 = 25;
const BYTEA: u32 = 17;

/// The types to declare for a statement that may run on any server: each infers types made by users
/// itself. What the text does not use cannot be inferred, and may be anything that takes the bytes.
pub(super) fn portable<'a>(
    told: &'a [u32],
    sql: &str,
    format: impl Fn(usize) -> i16,
) -> Cow<'a, [u32]> {
    if told.iter().all(|it| *it < FIRST_USER_OID) {
        return Cow::Borrowed(told);
    }
    let mut types: Vec<u32> = told.to_vec();
    for (i, ty) in types.iter_mut().enumerate().filter(|(_, ty)| **ty >= FIRST_USER_OID) {
        let name = format!("${}", i + 1);
        let is_it = |it: &crate::sql::lexer::Token| it.kind == Kind::Param && it.text(sql) == name;
        *ty = match (Lexer::new(sql).any(|it| is_it(&it)), format(i)) {
            (true, _) => 0,
            (false, 0) => TEXT,
            (false, _) => BYTEA,
        };
    }
    Cow::Owned(types)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_made_by_users_are_inferred_where_they_are_used() {
        let told = [23, 20_000, 20_001, 20_002];
        let sql = "SELECT $2 -- $3";
        assert_eq!(portable(&told, sql, |i| i16::from(i == 3))[..], [23, 0, TEXT, BYTEA]);
        assert!(matches!(portable(&told[..1], sql, |_| 0), Cow::Borrowed([23])));
    }
}
