//! The key under which a statement's plan is cached, found in one pass of the lexer.
//!
//! Statements that differ only in the values of literals share a key, the *template*: the exact text
//! with each literal replaced by a byte for its kind, each comment by another. What was replaced is
//! kept as *slots*, so that the i-th slot of the text a plan was made from is the i-th slot of any
//! other text with the same template, and [`locate`] carries a position over from one to the other.
//! A comment is not merged with white space, because positions could not be carried over then.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use foldhash::quality::FixedState;

use super::lexer::{Kind, Lexer, Token};
use super::memo::Memo;

/// A part of a statement that its template leaves out: a literal or a comment. In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub start: u32,
    pub end: u32,
    pub kind: Kind,
}

impl Slot {
    /// The slot's bytes in the statement.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The fingerprint of one statement at a time; its buffers are reused from statement to statement.
///
/// ```
/// use pgsluice::sql::fingerprint::Fingerprint;
/// let (mut one, mut other) = (Fingerprint::new(1), Fingerprint::new(1));
/// one.read("SELECT * FROM t WHERE id = 5 AND name = 'x'");
/// other.read("SELECT * FROM t WHERE id = 12345 AND name = 'it''s'");
/// assert_eq!((one.template(), one.hash()), (other.template(), other.hash()));
/// ```
#[derive(Clone, Debug)]
pub struct Fingerprint {
    hasher: FixedState,
    template: Vec<u8>,
    slots: Vec<Slot>,
    read: Read,
    memo: Memo,
}

/// What was found beside the template and the slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Read {
    hash: u64,
    leading: Range<usize>,
    form: Form,
}

/// What the whole text is like.
#[derive(Clone, Copy, Debug, Default)]
struct Form {
    is_terminated: bool,
    is_whole: bool,
    has_semicolon_inside: bool,
}

impl Fingerprint {
    /// No statement yet. Fingerprints that meet in one cache need the same `seed`; it should be
    /// random, so that clients cannot choose texts of equal hashes.
    pub fn new(seed: u64) -> Self {
        Self {
            hasher: FixedState::with_seed(seed),
            template: Vec::new(),
            slots: Vec::new(),
            read: Read::default(),
            memo: Memo::new(),
        }
    }

    /// Reads a statement in place of the one before; whether it is like one that was read before.
    pub fn read(&mut self, sql: &str) -> bool {
        self.template.clear();
        if let Some((template, read)) = self.memo.find(sql, &mut self.slots) {
            self.template.extend_from_slice(template);
            self.read.clone_from(read);
            return true;
        }
        self.read_in_full(sql);
        // A comment before the first word moves it.
        let word = self.read.leading.end;
        let is_fixed = self.slots.first().is_none_or(|it| it.start as usize >= word);
        if !self.read.form.is_whole && is_fixed {
            self.memo.keep(sql, &self.template, &self.slots, &self.read);
        }
        false
    }

    fn read_in_full(&mut self, sql: &str) {
        self.slots.clear();
        self.read =
            Read { form: Form { is_terminated: true, ..Form::default() }, ..Read::default() };
        let mut copied = 0;
        let mut lexer = Lexer::new(sql);
        let mut leading = self.read_leading(sql, &mut lexer, &mut copied);
        let mut after_semicolon = false;
        while let Some(token) = leading.take().or_else(|| lexer.next()) {
            if after_semicolon && token.kind != Kind::Comment {
                self.read.form.has_semicolon_inside = true;
            }
            match token.kind {
                Kind::Word | Kind::QuotedWord | Kind::Operator | Kind::Param | Kind::Odd => (),
                Kind::Punctuation => {
                    after_semicolon |= sql.as_bytes()[token.start] == b';';
                }
                Kind::Other | Kind::UnicodeWord => self.read.form.is_whole = true,
                Kind::Unterminated => self.read.form.is_terminated = false,
                _ => self.leave_out(sql, token, &mut copied),
            }
        }
        self.template.extend_from_slice(&sql.as_bytes()[copied..]);
        self.read.form.is_whole |=
            !self.read.form.is_terminated || self.read.form.has_semicolon_inside;
        self.read.form.is_whole |= !is_data_statement(self.leading_word(sql));
        self.read.hash = self.hash_of(self.key(sql));
    }

    /// Reads up to the first word, past comments and parentheses; gives back the first token that is
    /// neither.
    fn read_leading(&mut self, sql: &str, lexer: &mut Lexer, copied: &mut usize) -> Option<Token> {
        for token in lexer {
            match token.kind {
                Kind::Comment => self.leave_out(sql, token, copied),
                Kind::Punctuation if sql.as_bytes()[token.start] == b'(' => (),
                Kind::Word => {
                    self.read.leading = token.start..token.end;
                    return Some(token);
                }
                _ => return Some(token),
            }
        }
        None
    }

    fn leave_out(&mut self, sql: &str, token: Token, copied: &mut usize) {
        self.template.extend_from_slice(&sql.as_bytes()[*copied..token.start]);
        self.template.push(marker(token.kind));
        let (start, end) = (token.start as u32, token.end as u32);
        self.slots.push(Slot { start, end, kind: token.kind });
        *copied = token.end;
    }

    /// The text under which the plan of the statement `sql`, which was just read, is looked up
    /// first: the template, or `sql` itself if [`Self::is_whole`].
    pub fn key<'a>(&'a self, sql: &'a str) -> &'a [u8] {
        if self.read.form.is_whole { sql.as_bytes() } else { &self.template }
    }

    /// The text with literals and comments replaced by a byte each, see [`readable`].
    pub fn template(&self) -> &[u8] {
        &self.template
    }

    /// A seeded hash of the key.
    pub fn hash(&self) -> u64 {
        self.read.hash
    }

    /// The same hash of another text.
    pub fn hash_of(&self, text: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text);
        hasher.finish()
    }

    /// Literals and comments, in the order of the text; those read so far if it is not terminated.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Whether the key is the whole text: a utility statement, more than one statement, or a text
    /// in which a literal may change more than a value.
    pub fn is_whole(&self) -> bool {
        self.read.form.is_whole
    }

    /// Whether all strings, quoted identifiers and comments end. If not, the statement is passed on
    /// unchanged and Postgres reports the error.
    pub fn is_terminated(&self) -> bool {
        self.read.form.is_terminated
    }

    /// Whether something follows a semicolon, so that it may be more than one statement.
    pub fn has_semicolon_inside(&self) -> bool {
        self.read.form.has_semicolon_inside
    }

    /// The first word past comments and opening parentheses, as written; empty if there is none.
    pub fn leading_word<'a>(&self, sql: &'a str) -> &'a str {
        sql.get(self.read.leading.clone()).unwrap_or_default()
    }
}

/// Whether a statement that begins with this word is one whose literals are values.
fn is_data_statement(word: &str) -> bool {
    let is = |it: &str| word.eq_ignore_ascii_case(it);
    match word.len() {
        4 => is("with"),
        5 => is("table") || is("merge"),
        6 => is("select") || is("insert") || is("update") || is("delete") || is("values"),
        _ => false,
    }
}

/// The byte that stands for a kind in a template: a control character that is not white space. In
/// the statement itself one would be [`Kind::Other`], whose key is the whole text.
pub(super) fn marker(kind: Kind) -> u8 {
    match kind {
        Kind::Integer => 1,
        Kind::Bigint => 2,
        Kind::Numeric => 3,
        Kind::String => 4,
        Kind::EscapeString => 5,
        Kind::BitString => 6,
        Kind::HexString => 7,
        Kind::UnicodeString => 14,
        Kind::NationalString => 15,
        Kind::DollarString => 16,
        _ => 17,
    }
}

/// A template for people: `?` for a number, `'?'` for a string, nothing for a comment.
pub fn readable(template: &[u8]) -> String {
    let mut text = Vec::with_capacity(template.len() + 16);
    for byte in template {
        match byte {
            1..=3 => text.push(b'?'),
            4..=7 | 14..=16 => text.extend_from_slice(b"'?'"),
            17 => (),
            byte => text.push(*byte),
        }
    }
    String::from_utf8_lossy(&text).trim().into()
}

/// A position of a planned text, carried over to the statement at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The byte offset in the statement at hand.
    pub offset: usize,
    /// The number of slots before it.
    pub slot: usize,
}

/// Carries a byte offset of a planned text over to a text with the same template, by the slots of
/// both. `None` inside a slot, or if the slots do not correspond.
pub fn locate(planned: &[Slot], given: &[Slot], offset: usize) -> Option<Place> {
    if planned.len() != given.len() {
        return None;
    }
    let slot = planned.partition_point(|it| (it.start as usize) < offset);
    let Some(before) = slot.checked_sub(1) else { return Some(Place { offset, slot }) };
    let past = offset.checked_sub(planned[before].end as usize)?;
    Some(Place { offset: given[before].end as usize + past, slot })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Fingerprint {
        let mut fingerprint = Fingerprint::new(7);
        fingerprint.read(sql);
        fingerprint
    }

    #[test]
    fn kinds_of_literals_and_words_stay_apart() {
        let texts = ["5", "5000000000", "5.0", "'5'", "E'5'", "$$5$$", "X'5'", "-5", "NULL", "$1"];
        let keys = texts.map(|it| read(&format!("SELECT {it}")).template().to_vec());
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(keys.iter().position(|it| it == key), Some(i), "{}", texts[i]);
        }
    }

    #[test]
    fn whole_texts() {
        let whole = |sql| read(sql).is_whole();
        assert!(!whole("/* c */ ((select 1) UNION SELECT 2);"));
        assert!(whole("SET x = 1") && whole("") && whole("EXPLAIN SELECT 1"));
        assert!(whole("SELECT 1; SELECT 2") && whole("SELECT \u{1}") && whole("SELECT 'a"));
        assert!(whole("SELECT * FROM U&\"d!0061t\" UESCAPE '!'"));
        assert!(!read("SELECT 1 ; -- end").has_semicolon_inside());
        assert!(read(";SELECT 1").has_semicolon_inside());
        assert_eq!(read("-- x\n( Select 1)").leading_word("-- x\n( Select 1)"), "Select");
    }

    #[test]
    fn places_are_carried_over() {
        let planned = "SELECT /* a */ 'x' FROM t WHERE id = 5 AND b";
        let given = "SELECT /* longer */ '' FROM t WHERE id = 123 AND b";
        let (one, other) = (read(planned), read(given));
        assert_eq!(one.template(), other.template());
        let carry = |word: &str| {
            let at = planned.find(word).unwrap();
            locate(one.slots(), other.slots(), at).map(|place| (place.offset, place.slot))
        };
        assert_eq!(carry("FROM"), Some((given.find("FROM").unwrap(), 2)));
        assert_eq!(carry("5"), Some((given.find("123").unwrap(), 2)));
        assert_eq!(carry("AND"), Some((given.find("AND").unwrap(), 3)));
        assert_eq!(carry("x'"), None);
        assert_eq!(locate(one.slots(), &[], 0), None);
    }
}
