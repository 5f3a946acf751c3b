//! Lines of the text and CSV formats: where they end. As `CopyReadLineText` does it.

use std::borrow::Cow;

use memchr::memchr3;

use super::{CopyFormat, Cut, Part, bad_format, csv, text};
use crate::error::PgError;

/// The end of line that the data uses: that of its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eol {
    Unknown,
    Lf,
    Cr,
    CrLf,
}

/// A splitter of text or CSV.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    format: CopyFormat,
    key_column: usize,
    eol: Eol,
    /// The line the next row begins at, from 1, as Postgres counts in its messages.
    line: u64,
    is_first: bool,
    scan: Scan,
}

/// How far the row at hand has been looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    at: usize,
    in_quotes: bool,
    after_escape: bool,
    /// Ends of line inside quotes.
    lines: u64,
}

/// A line: its content is `..content`, with its end of line it is `..end`.
struct Line {
    content: usize,
    end: usize,
}

impl Lines {
    pub(super) fn new(format: CopyFormat, key_column: usize) -> Self {
        Self {
            format,
            key_column,
            eol: Eol::Unknown,
            line: 1,
            is_first: true,
            scan: Scan::default(),
        }
    }

    /// The row or marker at the beginning of `data`; `None` if it is not complete.
    pub(super) fn cut<'a>(
        &mut self,
        data: &'a [u8],
        is_done: bool,
    ) -> Result<Option<Cut<'a>>, PgError> {
        let found = match self.format {
            CopyFormat::Csv { quote, escape, .. } => self.csv_line(data, is_done, quote, escape)?,
            _ => self.text_line(data, is_done)?,
        };
        let line = match found {
            Some(line) => line,
            None if is_done && !data.is_empty() => Line { content: data.len(), end: data.len() },
            None => return Ok(None),
        };
        let content = &data[..line.content];
        let rest = &data[line.end..];
        if content == b"\\." && self.is_marker(rest, is_done)?.is_none_or(|it| !it) {
            self.scan = Scan::default();
            return Ok(None);
        }
        let part = self.part(content)?;
        self.line += 1 + self.scan.lines;
        (self.scan, self.is_first) = (Scan::default(), false);
        Ok(Some(Cut { length: line.end, part }))
    }

    /// Whether a line `\.` may be given out. In CSV servers before 18 take it for the end and 18 takes
    /// it for a row, so it is only let through where both are alike, as the last line: `None` until
    /// that is known.
    fn is_marker(&self, rest: &[u8], is_done: bool) -> Result<Option<bool>, PgError> {
        match (&self.format, rest) {
            (CopyFormat::Csv { .. }, []) => Ok(is_done.then_some(true)),
            (CopyFormat::Csv { .. }, _) => Err(PgError::refused(
                "data follows a line \\. in CSV data",
            )
            .detail(format!("COPY line {}", self.line))
            .hint("Servers before 18 take the line for the end of the data; quote it: \"\\.\"")),
            _ => Ok(Some(true)),
        }
    }

    fn part<'a>(&self, content: &'a [u8]) -> Result<Part<'a>, PgError> {
        let (has_header, is_csv) = match self.format {
            CopyFormat::Text { header, .. } => (header, false),
            CopyFormat::Csv { header, .. } => (header, true),
            CopyFormat::Binary => (false, false),
        };
        // A last line `\.` of CSV is a row of one column for 18.
        match content {
            b"\\." if !is_csv || self.key_column > 0 => Ok(Part::End),
            _ if has_header && self.is_first => Ok(Part::Header),
            _ => self.key(content).map(Part::Row),
        }
    }

    fn key<'a>(&self, content: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, PgError> {
        let field = match &self.format {
            CopyFormat::Csv { .. } => csv::field(content, self.key_column, &self.format),
            CopyFormat::Text { delimiter, null, .. } => {
                text::field(content, self.key_column, *delimiter, null.as_bytes())
            }
            CopyFormat::Binary => Err("not lines"),
        };
        field.map_err(|message| bad_format(message, self.line))
    }

    fn text_line(&mut self, data: &[u8], is_done: bool) -> Result<Option<Line>, PgError> {
        while let Some(ahead) = memchr3(b'\\', b'\n', b'\r', &data[self.scan.at..]) {
            let at = self.scan.at + ahead;
            self.scan.at = at;
            match (data[at], data.get(at + 1)) {
                (b'\\', Some(b'.')) => return self.end_marker(data, at, is_done),
                (b'\\', Some(_)) => self.scan.at = at + 2,
                (b'\\', None) => return Ok(None),
                _ => return self.line_end(data, at, is_done),
            }
        }
        self.scan.at = data.len();
        Ok(None)
    }

    /// A backslash and a point at `at`: only right alone on a line.
    fn end_marker(
        &mut self,
        data: &[u8],
        at: usize,
        is_done: bool,
    ) -> Result<Option<Line>, PgError> {
        let is_alone = match data.get(at + 2) {
            None if !is_done => return Ok(None),
            Some(b'\n' | b'\r') | None => at == 0,
            Some(_) => false,
        };
        if !is_alone {
            return Err(bad_format("end-of-copy marker is not alone on its line", self.line));
        }
        if data.get(2).is_none() { Ok(None) } else { self.line_end(data, 2, is_done) }
    }

    fn csv_line(
        &mut self,
        data: &[u8],
        is_done: bool,
        quote: u8,
        escape: u8,
    ) -> Result<Option<Line>, PgError> {
        let counted = if self.eol == Eol::Lf { b'\n' } else { b'\r' };
        while let Some(&byte) = data.get(self.scan.at) {
            let scan = &mut self.scan;
            if !scan.in_quotes && matches!(byte, b'\n' | b'\r') {
                return self.line_end(data, self.scan.at, is_done);
            }
            // Where both are the same the character simply toggles.
            let is_escape = escape != quote && byte == escape;
            scan.after_escape ^= scan.in_quotes && is_escape;
            scan.in_quotes ^= byte == quote && !scan.after_escape;
            scan.after_escape &= is_escape;
            scan.lines += u64::from(scan.in_quotes && byte == counted);
            scan.at += 1;
        }
        Ok(None)
    }

    /// A line that ends with the CR or LF at `at`; `None` if a LF may follow the CR.
    fn line_end(&mut self, data: &[u8], at: usize, is_done: bool) -> Result<Option<Line>, PgError> {
        let (eol, length) = match (data[at], data.get(at + 1)) {
            (b'\n', _) => (Eol::Lf, 1),
            (_, _) if self.eol == Eol::Cr => (Eol::Cr, 1),
            (_, None) if !is_done => return Ok(None),
            (_, Some(b'\n')) => (Eol::CrLf, 2),
            _ => (Eol::Cr, 1),
        };
        if self.eol != Eol::Unknown && self.eol != eol {
            return Err(self.mixed(eol));
        }
        self.eol = eol;
        Ok(Some(Line { content: at, end: at + length }))
    }

    fn mixed(&self, eol: Eol) -> PgError {
        let name = if eol == Eol::Lf { "newline" } else { "carriage return" };
        match self.format {
            CopyFormat::Csv { .. } => {
                bad_format(format!("unquoted {name} found in data"), self.line)
                    .hint(format!("Use quoted CSV field to represent {name}."))
            }
            _ => bad_format(format!("literal {name} found in data"), self.line).hint(format!(
                "Use \"\\{}\" to represent {name}.",
                if eol == Eol::Lf { 'n' } else { 'r' }
            )),
        }
    }
}
