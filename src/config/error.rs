//! What is wrong with a configuration, and where.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

/// One mistake. Displays as `file:line: key: what; what to write instead`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: String,
    /// 1-based.
    pub line: usize,
    /// The key's path such as `pool.size`; empty for a mistake in the TOML itself.
    pub key: String,
    pub message: String,
    /// What to write instead; empty where the message says it.
    pub hint: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong with a value, before it is known where the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) hint: String,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// Collects the mistakes of one file.
pub(super) struct Report<'a> {
    file: &'a str,
    text: &'a str,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, errors: RefCell::default() }
    }

    /// Notes a mistake at a span of the text.
    pub(super) fn add(&self, span: &Range<usize>, key: &str, wrong: Wrong) {
        self.add_at(self.line(span), key, wrong);
    }

    /// Notes a mistake on a line.
    pub(super) fn add_at(&self, line: usize, key: &str, wrong: Wrong) {
        let Wrong { message, hint } = wrong;
        let (file, key) = (self.file.to_owned(), key.to_owned());
        let error = ConfigError { file, line, key, message, hint };
        if !self.errors.borrow().contains(&error) {
            self.errors.borrow_mut().push(error);
        }
    }

    /// The 1-based line a span begins on.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// All mistakes by rising line.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| error.line);
        errors
    }
}
