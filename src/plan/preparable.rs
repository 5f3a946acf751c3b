//! A statement of the simple protocol as a prepared one: its text with parameters, and which literal
//! fills which.

use std::borrow::Cow;
use std::sync::OnceLock;

use bytes::Bytes;

use super::{Columns, Literals};
use crate::sql::fingerprint::Slot;
use crate::sql::lexer::{Kind, Lexer};
use crate::sql::literal::literal_value;

/// Postgres' NAMEDATALEN.
const NAME_BYTES: usize = 64;

/// The prepared form of all statements of a template.
#[derive(Clone, Debug, PartialEq)]
pub struct Preparable {
    /// The text with `$1`, … in the place of literals.
    pub sql: Bytes,
    /// Their types; 0: as Postgres infers it, as it would of the literal.
    pub types: Box<[u32]>,
    pub columns: Columns,
    /// Per parameter, the slot of its literal.
    params: Box<[u16]>,
    /// Slots that stay in the text, and what must stand there.
    fixed: Box<[(u16, Box<str>)]>,
    /// Its number among the statements on servers, once it has one.
    number: OnceLock<u64>,
    is_refused: OnceLock<()>,
}

impl Preparable {
    /// The prepared form of a statement, if there is a slot for each of its literals.
    pub fn new(literals: &Literals, sql: &str, slots: &[Slot]) -> Option<Self> {
        let mut text = String::with_capacity(sql.len());
        let (mut types, mut params, mut fixed, mut copied) = (vec![], vec![], vec![], 0);
        let mut at = literals.at.iter().copied().peekable();
        for (i, slot) in slots.iter().enumerate() {
            let (i, range) = (u16::try_from(i).ok()?, slot.range());
            if at.next_if(|at| is_of(*at, sql, *slot)).is_none() {
                // A string may mean something else in another session, a comment is for others.
                if !slot.kind.is_number() {
                    return None;
                }
                fixed.push((i, sql.get(range)?.into()));
                continue;
            }
            types.push(type_of(slot.kind)?);
            params.push(i);
            text.push_str(sql.get(copied..range.start)?);
            text.push_str(&format!("${}", params.len()));
            copied = range.end;
        }
        text.push_str(sql.get(copied..)?);
        // Other characters are read by each session's own encoding; of a name that is too long a server
        // says so whenever it parses.
        let is_whole = at.next().is_none() && text.is_ascii() && !text.contains('\\');
        let is_whole = is_whole && Lexer::new(&text).all(|it| it.end - it.start < NAME_BYTES);
        is_whole.then(|| Self {
            sql: text.into(),
            types: types.into(),
            columns: literals.columns,
            params: params.into(),
            fixed: fixed.into(),
            number: OnceLock::new(),
            is_refused: OnceLock::new(),
        })
    }

    /// Whether a statement of the template, with these slots, is this one with other values.
    pub fn fits(&self, sql: &str, slots: &[Slot]) -> bool {
        let text =
            |i: u16| Some((slots.get(usize::from(i))?, sql.get(slots[usize::from(i)].range())?));
        self.is_refused.get().is_none()
            && self.fixed.iter().all(|(i, is)| text(*i).is_some_and(|it| it.1 == &**is))
            // What a backslash means is a setting.
            && self.params.iter().all(|i| text(*i).is_some_and(|(slot, it)| {
                slot.kind.is_number() || !it.contains('\\')
            }))
    }

    /// The values of the parameters, of a statement that [`Self::fits`].
    pub fn values<'a>(
        &'a self,
        sql: &'a str,
        slots: &'a [Slot],
    ) -> impl ExactSizeIterator<Item = Cow<'a, str>> {
        let value = |i: &u16| literal_value(sql, slots[usize::from(*i)]).unwrap_or_default();
        self.params.iter().map(value)
    }

    /// Its number among the statements on servers; `next` gives one that is free.
    pub fn number(&self, next: impl FnOnce() -> u64) -> u64 {
        *self.number.get_or_init(next)
    }

    /// A server does not take it: its statements go as they are from now on.
    pub fn refuse(&self) {
        let _ = self.is_refused.set(());
    }
}

/// The type of a number; strings have none until Postgres gives them one.
fn type_of(kind: Kind) -> Option<u32> {
    match kind {
        Kind::Integer => Some(23),
        Kind::Bigint => Some(20),
        Kind::Numeric => Some(1700),
        Kind::String => Some(0),
        _ => None,
    }
}

/// Whether the literal that the parser has found at `at` is this slot. The parser counts a sign as a
/// part of a number; of those with a sign only what is an `int4` with and without it can do without.
fn is_of(at: usize, sql: &str, slot: Slot) -> bool {
    let start = slot.range().start;
    if at == start {
        return true;
    }
    let between = sql.get(at..start).and_then(|it| it.strip_prefix('-'));
    slot.kind == Kind::Integer && between.is_some_and(|it| it.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::fingerprint::Fingerprint;

    fn slots(sql: &str) -> Vec<Slot> {
        let mut fingerprint = Fingerprint::new(1);
        fingerprint.read(sql);
        fingerprint.slots().to_vec()
    }

    fn of(sql: &str, literals: &[&str]) -> Option<Preparable> {
        let at = literals.iter().map(|it| sql.find(it).unwrap()).collect();
        Preparable::new(&Literals { at, columns: Columns::First }, sql, &slots(sql))
    }

    #[test]
    fn literals_become_parameters_of_their_own_types() {
        let sql = "SELECT a FROM t WHERE a = -5 AND b = 'it''s' AND c < 5000000000 LIMIT 10";
        let it = of(sql, &["-5", "'it", "5000000000"]).unwrap();
        let text = "SELECT a FROM t WHERE a = -$1 AND b = $2 AND c < $3 LIMIT 10";
        assert_eq!((&it.sql[..], &*it.types), (text.as_bytes(), &[23, 0, 20][..]));
        let other = "SELECT a FROM t WHERE a = -77 AND b = '' AND c < 6000000000 LIMIT 10";
        assert!(it.fits(other, &slots(other)));
        let given = slots(other);
        let values: Vec<_> = it.values(other, &given).collect();
        assert_eq!(values, ["77", "", "6000000000"]);
        let values = slots(sql);
        assert_eq!(it.values(sql, &values).nth(1).unwrap(), "it's");
        for unfit in ["LIMIT 11", "LIMIT 010"] {
            let other = other.replace("LIMIT 10", unfit);
            assert!(!it.fits(&other, &slots(&other)), "{unfit}");
        }
        let escaped = other.replace("''", r"'\'");
        assert!(!it.fits(&escaped, &slots(&escaped)));
        it.refuse();
        assert!(!it.fits(other, &slots(other)));
    }

    #[test]
    fn what_else_stands_in_a_text_must_be_plain() {
        assert!(of("SELECT 1 FROM t WHERE a = 5", &["5"]).is_some());
        assert!(of("SELECT 'x' FROM t WHERE a = 5", &["5"]).is_none());
        assert!(of("SELECT 1 FROM t WHERE a = 5 -- why", &["5"]).is_none());
        assert!(of("SELECT é FROM t WHERE a = 5", &["5"]).is_none());
        assert!(of("SELECT a FROM t WHERE a = E'5'", &["E'5'"]).is_none());
        // int4 only with its sign.
        assert!(of("SELECT a FROM t WHERE a = -2147483648", &["-2147483648"]).is_none());
    }
}
