//! Typed access to one table of the TOML. Every mistake goes to the [`Report`]; the reader then
//! goes on with the key's default, so that all mistakes are found at once.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Report, Wrong};
use super::keys::{self, Fallback, Key, Kind, LISTS};
use super::suggest::nearest;

/// A table of the TOML and where it stands.
pub(super) struct Section<'a> {
    /// Without positions in lists: `database.shard`.
    path: Cow<'static, str>,
    /// None: not written.
    table: Option<&'a DeTable<'a>>,
    pub(super) span: Range<usize>,
    pub(super) report: &'a Report<'a>,
}

/// Reads a value of one kind.
pub(super) type Reader<T> = fn(&DeValue<'_>, Kind) -> Result<T, Wrong>;

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a DeTable<'a>, report: &'a Report<'a>) -> Self {
        Self { path: "".into(), table: Some(table), span: 0..0, report }
    }

    /// A section below this one that is not written.
    pub(super) fn empty(&self, name: &str) -> Self {
        let path = self.path_of(name).into();
        Self { path, table: None, span: self.span.clone(), report: self.report }
    }

    /// The table or the list of tables of that name; none if it is not written.
    pub(super) fn sections(&self, name: &str) -> Vec<Self> {
        let written = self.written(name);
        let list = match written.map(|it| it.get_ref()) {
            Some(DeValue::Array(items)) => items.iter().collect(),
            _ => Vec::from_iter(written),
        };
        list.into_iter().filter_map(|it| self.section(name, it)).collect()
    }

    fn section(&self, name: &str, value: &'a Spanned<DeValue<'a>>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else { return None };
        let path = self.path_of(name).into();
        Some(Self { path, table: Some(table), span: value.span(), report: self.report })
    }

    /// Notes a mistake about a key, at its value if it is written and at the section if not.
    pub(super) fn wrong(&self, name: &str, wrong: Wrong) {
        let span = self.written(name).map_or(self.span.clone(), Spanned::span);
        self.report.add(&span, &self.path_of(name), wrong);
    }

    /// A key's value as written.
    pub(super) fn written(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(name)
    }

    /// The value, or its default; also the default after a mistake.
    pub(super) fn value<T>(&self, name: &str, read: Reader<T>) -> T {
        let key = self.key(name);
        self.optional(name, read).unwrap_or_else(|| fallback(key, read))
    }

    /// The value if it is written and right.
    pub(super) fn optional<T>(&self, name: &str, read: Reader<T>) -> Option<T> {
        let value = self.written(name)?;
        read(value.get_ref(), self.key(name).kind).map_err(|wrong| self.wrong(name, wrong)).ok()
    }

    /// The value, which must be written.
    pub(super) fn required<T>(&self, name: &str, read: Reader<T>) -> Option<T> {
        if self.written(name).is_none() {
            let hint = format!("write `{name} = {}`", example(self.key(name)));
            self.wrong(name, Wrong::new("is missing", hint));
        }
        self.optional(name, read)
    }

    /// Notes every name that is no key, here and below, and every section of the wrong form.
    pub(super) fn check_names(&self) {
        let allowed = keys::names_in(&self.path);
        for (name, value) in self.table.into_iter().flatten() {
            let path = self.path_of(name.get_ref());
            if Key::find(&path).is_some() {
                continue;
            }
            let list = LISTS.contains(&path.as_str());
            match value.get_ref() {
                _ if !allowed.contains(&name.get_ref().as_ref()) => self.unknown(name, &allowed),
                DeValue::Table(_) if !list => self.check_below(name.get_ref()),
                DeValue::Array(items) if list && items.iter().all(is_table) => {
                    self.check_below(name.get_ref());
                }
                _ => self.report.add(&value.span(), &path, form(&path, list)),
            }
        }
    }

    fn check_below(&self, name: &str) {
        self.sections(name).iter().for_each(Section::check_names);
    }

    fn unknown(&self, name: &Spanned<Cow<'_, str>>, allowed: &[&str]) {
        let hint = match (nearest(name.get_ref(), allowed), elsewhere(name.get_ref())) {
            (Some(near), _) => format!("write `{near}`"),
            (None, Some(section)) => format!("move it to [{section}]"),
            (None, None) => format!("the keys here are {}", allowed.join(", ")),
        };
        let path = self.path_of(name.get_ref());
        self.report.add(&name.span(), &path, Wrong::new("is no key", hint));
    }

    fn key(&self, name: &str) -> &'static Key {
        Key::find(&self.path_of(name)).expect("only keys of the table are read")
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

fn fallback<T>(key: &Key, read: Reader<T>) -> T {
    let Fallback::Value(text) = key.default else { panic!("{} has no default", key.path) };
    let value = DeValue::parse(text).expect("defaults are TOML");
    read(value.get_ref(), key.kind).expect("defaults are right")
}

fn is_table(value: &Spanned<DeValue<'_>>) -> bool {
    matches!(value.get_ref(), DeValue::Table(_))
}

/// Another section with a key of this name.
fn elsewhere(name: &str) -> Option<&'static str> {
    keys::KEYS.iter().find(|key| key.name() == name).map(Key::section)
}

fn form(path: &str, list: bool) -> Wrong {
    match list {
        true => Wrong::new("is a list of sections", format!("write [[{path}]]")),
        false => Wrong::new("is a section", format!("write [{path}]")),
    }
}

/// What a missing key could look like.
fn example(key: &Key) -> &'static str {
    match key.kind {
        Kind::Choice(_) => r#""scram-sha-256""#,
        Kind::Url => r#""postgres://user:password@host:5432/database""#,
        _ => r#""app""#,
    }
}
