//! Templates read before, so that a statement that differs from one of them in literals only is known
//! without being taken apart into words: the texts between the slots are compared, and only what stands
//! in the slots is lexed.
//!
//! A fit is what the lexer would find: the text before a slot has the same tokens in both statements as
//! long as none of them could go on into the slot, and a slot is read by the lexer's own function.

use smallvec::SmallVec;

use super::fingerprint::{Read, Slot, marker};
use super::lexer::{self, Kind};
use super::scan;

/// Statements that begin alike share a set.
const SETS: usize = 64;
/// Templates in a set.
const WAYS: usize = 4;
/// Bytes of the beginning that choose the set.
const BEGINNING: usize = 16;
/// Longer templates, and those with more slots, are not kept.
const TEMPLATE_BYTES: usize = 2048;
const SLOTS: usize = 64;

/// Some hundred templates: of each set the latest.
#[derive(Clone, Debug)]
pub(super) struct Memo {
    sets: Vec<Set>,
}

#[derive(Clone, Debug, Default)]
struct Set {
    known: Vec<Known>,
    /// Which is replaced next.
    oldest: usize,
}

#[derive(Clone, Debug)]
struct Known {
    read: Read,
    template: Box<[u8]>,
    /// Where the markers are in the template.
    markers: SmallVec<[u32; 4]>,
}

impl Memo {
    pub(super) fn new() -> Self {
        Self { sets: vec![Set::default(); SETS] }
    }

    /// The template that the statement has, if it is known, and what was read of it; `slots` are then
    /// the statement's.
    pub(super) fn find(&self, sql: &str, slots: &mut Vec<Slot>) -> Option<(&[u8], &Read)> {
        let known = self.sets[set(sql)].known.iter();
        let found = known.into_iter().find(|it| it.fits(sql.as_bytes(), slots))?;
        Some((&found.template, &found.read))
    }

    /// Keeps the template of a statement that was read in full.
    pub(super) fn keep(&mut self, sql: &str, template: &[u8], slots: &[Slot], read: &Read) {
        if template.len() > TEMPLATE_BYTES || slots.len() > SLOTS {
            return;
        }
        let mut removed = 0;
        let markers = slots.iter().map(|slot| {
            let at = slot.start - removed;
            removed += slot.end - slot.start - 1;
            at
        });
        let known =
            Known { read: read.clone(), markers: markers.collect(), template: template.into() };
        let set = &mut self.sets[set(sql)];
        if set.known.len() < WAYS {
            return set.known.push(known);
        }
        set.known[set.oldest] = known;
        set.oldest = (set.oldest + 1) % WAYS;
    }
}

/// The set of a statement.
fn set(sql: &str) -> usize {
    let bytes = sql.as_bytes();
    let beginning = match bytes.first_chunk::<BEGINNING>() {
        Some(bytes) => u128::from_le_bytes(*bytes),
        None => bytes.iter().fold(0, |all, byte| all << 8 | u128::from(*byte)),
    };
    let folded = (beginning as u64) ^ (beginning >> 64) as u64;
    (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize % SETS
}

impl Known {
    fn fits(&self, sql: &[u8], slots: &mut Vec<Slot>) -> bool {
        slots.clear();
        let (mut at, mut from) = (0, 0);
        for marked in &self.markers {
            let marked = *marked as usize;
            let before = &self.template[from..marked];
            let Some(rest) = sql[at..].strip_prefix(before) else { return false };
            at = sql.len() - rest.len();
            let Some(first) = rest.first() else { return false };
            if goes_on(before.last(), *first) {
                return false;
            }
            let (kind, end) = lexer::token(sql, at, *first);
            if !is_slot(kind) || marker(kind) != self.template[marked] {
                return false;
            }
            slots.push(Slot { start: at as u32, end: end as u32, kind });
            (at, from) = (end, marked + 1);
        }
        sql[at..] == self.template[from..]
    }
}

fn is_slot(kind: Kind) -> bool {
    kind.is_literal() || kind == Kind::Comment
}

/// Whether the token before a slot could go on into it: a word into digits, an operator into a comment.
fn goes_on(before: Option<&u8>, first: u8) -> bool {
    before.is_some_and(|before| {
        (scan::is(*before, scan::WORD) && scan::is(first, scan::WORD))
            || (scan::is(*before, scan::OPERATOR) && scan::is(first, scan::OPERATOR))
    })
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint::Fingerprint;

    /// Texts made of pieces that lex differently side by side.
    fn texts() -> impl Iterator<Item = String> {
        const PIECES: [&str; 32] = [
            "SELECT ",
            "select",
            " a",
            "a1",
            "$1",
            "1",
            "23",
            "5000000000",
            ".5",
            "1.5",
            "..",
            ".",
            "1e5",
            "1e",
            "1a",
            "'x'",
            "'y''z'",
            "E'q'",
            "e",
            "b'1'",
            "$$d$$",
            "$t$",
            "-",
            "--c\n",
            "/*c*/",
            "/",
            "+",
            " ",
            "\n",
            "u&",
            "\"q\"",
            ",",
        ];
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        (0..20_000).map(move |_| {
            let count = 1 + random() % 6;
            let rest: String = (0..count).map(|_| PIECES[random() % PIECES.len()]).collect();
            format!("SELECT {rest}")
        })
    }

    #[test]
    fn what_fits_is_what_the_lexer_reads() {
        let mut with_memo = Fingerprint::new(1);
        let mut hits = 0;
        for text in texts() {
            let mut fresh = Fingerprint::new(1);
            fresh.read(&text);
            hits += usize::from(with_memo.read(&text));
            assert_eq!(with_memo.template(), fresh.template(), "{text:?}");
            assert_eq!(with_memo.slots(), fresh.slots(), "{text:?}");
            assert_eq!(with_memo.hash(), fresh.hash(), "{text:?}");
            assert_eq!(with_memo.is_whole(), fresh.is_whole(), "{text:?}");
            assert_eq!(with_memo.leading_word(&text), fresh.leading_word(&text), "{text:?}");
        }
        assert!(hits > 100, "{hits}");
    }
}
