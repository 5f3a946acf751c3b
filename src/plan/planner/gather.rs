//! Gather: which rows shards must ship so that one Postgres can compute the answer, and the statement
//! over them. Every table with rows on several shards becomes a fragment, and so does a view that each
//! shard computes for its own tenants; the rest of the statement stays as its author wrote it.

use std::collections::HashSet;
use std::ops::Range;

use super::functions;
use super::graph::NodeId;
use super::names::{Found, Place, Rel};
use super::predicate::Mode;
use super::print::condition;
use super::refuse;
use super::types::{adds_exactly, is_whole_float};
use super::walk::Analyzer;
use crate::catalog::{Table, TableKind};
use crate::error::PgError;
use crate::plan::gather::{Fragment, FragmentColumn, Gather, NOW, OWNED, Reduction, Runs};
use crate::shard::KeyType;
use crate::sql::name::quoted;
use crate::sql::parse::parse;
use crate::sql::parse::tokens::{Token, TokenKind, tokens};
use crate::sql::parse::tree::{Call, Cte, Expr, Kind, Select, Statement, Stmt, TableName};

/// What fragments are called; a statement that says it itself is not gathered.
const NAME: &str = "sluice_gather_";

/// Parts of a text and what is to stand in their place.
pub(super) type Edits = Vec<(Range<usize>, String)>;

/// Where FROM names a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// The byte offset of the name in the current text.
    pub(super) at: usize,
    pub(super) is_only: bool,
    pub(super) has_alias: bool,
}

/// What has been found so far.
pub(super) struct Gathering {
    fragments: Vec<(Fragment, NodeId)>,
    reductions: Vec<Reduction>,
    /// The unique keys of each fragment, as column positions.
    keys: Vec<Vec<Vec<usize>>>,
    /// The texts around the current point: the statement, and views within.
    texts: Vec<Text>,
    refusal: Option<PgError>,
    runs: Runs,
    asks_time: bool,
    /// See [`Gather::with`].
    with: Option<String>,
    /// See [`Gather::owned`].
    owned: Option<String>,
    /// The offset of an item of the target list that has no alias and may ask for the time.
    pub(super) bare_target: Option<usize>,
}

/// A text and what is to stand in the place of its parts.
struct Text {
    sql: String,
    /// The part of it that counts.
    range: Range<usize>,
    tokens: Vec<Token>,
    edits: Edits,
    /// The edits that put the mark for the time.
    times: Edits,
}

/// What was known before a view was entered.
pub(super) struct Outside {
    fragments: usize,
    not_fanned: Option<PgError>,
    has_home: bool,
    needs_home: bool,
}

impl Text {
    fn new(sql: &str, range: Range<usize>) -> Self {
        let tokens = tokens(sql, &range);
        Self { sql: sql.to_owned(), range, tokens, edits: Vec::new(), times: Vec::new() }
    }

    fn token_at(&self, at: usize) -> Option<usize> {
        self.tokens.iter().position(|it| it.range.start == at)
    }

    /// The bytes of a name of `parts` parts at `at`.
    fn name_at(&self, at: usize, parts: usize) -> Option<Range<usize>> {
        let first = self.token_at(at)?;
        let last = first + 2 * (parts - 1);
        let dots = (first + 1..last).step_by(2);
        let is_dot = |i: usize| self.tokens.get(i).is_some_and(|it| it.kind == TokenKind::Dot);
        dots.into_iter().all(is_dot).then_some(at..self.tokens.get(last)?.range.end)
    }

    /// Puts `new` in the place of the table's name.
    fn replace(&mut self, spot: Spot, name: &TableName, new: &str) -> Option<()> {
        let mut range = self.name_at(spot.at, 1 + usize::from(name.schema.is_some()))?;
        let before = self.token_at(spot.at)?.checked_sub(1).and_then(|it| self.tokens.get(it));
        // The fragment has it, and a view's text takes none.
        if let Some(only) = before.filter(|it| it.is("only")) {
            range.start = only.range.start;
        }
        let is_table_command = before.is_some_and(|it| it.is("table"));
        let alias = match spot.has_alias || is_table_command {
            true => String::new(),
            false => format!(" AS {}", quoted(&name.name)),
        };
        self.edits.push((range, format!("{new}{alias}")));
        Some(())
    }

    /// Takes the schema off a column's name: the table goes by its alias now.
    fn unqualify(&mut self, at: usize, parts: usize) {
        let Some(kept) = self.token_at(at).and_then(|it| self.tokens.get(it + 2 * parts)) else {
            return;
        };
        self.edits.push((at..kept.range.start, String::new()));
    }

    /// The bytes of a common table expression's body, with its parentheses.
    fn body_of(&self, name: &str) -> Option<Range<usize>> {
        let tokens = &self.tokens;
        let is = |at: usize, word: &str| tokens.get(at).is_some_and(|it| it.is(word));
        let opens = |at: usize| tokens.get(at).is_some_and(|it| it.kind == TokenKind::Open);
        let closing = |at: usize| {
            let close = |it: &Token| it.depth == 0 && it.kind == TokenKind::Close;
            tokens.get(at..)?.iter().position(close).map(|it| at + it)
        };
        let is_name = |it: &Token| {
            it.depth == 0 && self.sql.get(it.range.clone()).is_some_and(|it| folded(it) == name)
        };
        for at in (0..tokens.len()).filter(|at| is_name(&tokens[*at])) {
            let mut next = at + 1;
            if opens(next) {
                next = closing(next)? + 1;
            }
            if !is(next, "as") {
                continue;
            }
            next += 1;
            next += usize::from(is(next, "not"));
            next += usize::from(is(next, "materialized"));
            if opens(next) {
                return Some(tokens[next].range.start..tokens[closing(next)?].range.end);
            }
        }
        None
    }

    /// The bytes of `now()` and the like, and what stands for it.
    fn now_at(&self, name: &str, at: usize) -> Option<(Range<usize>, String)> {
        let first = self.token_at(at)?;
        let is =
            |back: usize, kind| self.tokens.get(first + back).is_some_and(|it| it.kind == kind);
        let has_parenthesis = is(1, TokenKind::Open);
        let (last, mark) = match name {
            "now" | "transaction_timestamp" if has_parenthesis && is(2, TokenKind::Close) => {
                (first + 2, NOW.to_owned())
            }
            // CURRENT_TIMESTAMP (2) is rounded.
            _ if has_parenthesis => return None,
            "current_timestamp" => (first, NOW.to_owned()),
            "current_date" => (first, format!("({NOW}::pg_catalog.date)")),
            "localtimestamp" => (first, format!("({NOW}::pg_catalog.timestamp)")),
            _ => return None,
        };
        Some((at..self.tokens.get(last)?.range.end, mark))
    }

    fn applied(self) -> Option<String> {
        apply(&self.sql, &self.range, self.edits)
    }
}

/// A part of a text with other parts in the place of some of its own.
fn apply(sql: &str, range: &Range<usize>, mut edits: Edits) -> Option<String> {
    edits.retain(|(it, _)| it.start >= range.start && it.end <= range.end);
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    edits.dedup();
    let (mut text, mut at) = (String::new(), range.start);
    for (range, new) in &edits {
        text.push_str(sql.get(at..range.start)?);
        text.push_str(new);
        at = range.end;
    }
    text.push_str(sql.get(at..range.end)?);
    Some(text)
}

impl Gathering {
    /// The statement's tokens.
    pub(super) fn tokens(&self) -> &[Token] {
        self.texts.first().map_or(&[], |it| &it.tokens)
    }

    /// A part of the statement, with the mark for the time.
    pub(super) fn part(&self, range: Range<usize>) -> Option<String> {
        let text = self.texts.first()?;
        apply(&text.sql, &range, text.times.clone())
    }

    /// Ships rows of this one fragment instead, with these parts in the place of the statement's own.
    pub(super) fn replace_all(&mut self, mut fragment: Fragment, mut edits: Edits) {
        let Some(text) = self.texts.first_mut() else { return };
        fragment.name = format!("{NAME}1");
        let is_free = |it: &Range<usize>| {
            !edits.iter().any(|(own, _)| it.start < own.end && own.start < it.end)
        };
        let kept: Vec<_> = text.times.iter().filter(|(it, _)| is_free(it)).cloned().collect();
        edits.extend(kept);
        text.edits = edits;
        self.fragments = vec![(fragment, 0)];
        self.reductions.clear();
        self.keys = vec![Vec::new()];
    }

    pub(super) fn new(sql: &str, range: Range<usize>, runs: Runs) -> Self {
        let mut refusal = None;
        if sql.contains(NAME) {
            refusal = Some(unclear("It uses names of the proxy's own."));
        }
        Self {
            fragments: Vec::new(),
            reductions: Vec::new(),
            keys: Vec::new(),
            texts: vec![Text::new(sql, range)],
            refusal,
            runs,
            asks_time: false,
            with: None,
            owned: None,
            bare_target: None,
        }
    }

    /// Rows are not left out by what others have shipped.
    pub(super) fn ship_at_once(&mut self) {
        self.reductions.clear();
    }

    /// A column of a fragment.
    pub(super) fn column_name(&self, fragment: usize, column: usize) -> Option<&str> {
        Some(&self.fragments.get(fragment)?.0.columns.get(column)?.name)
    }

    fn need(&mut self, place: Place) {
        let fragment = self.fragments.get_mut(place.fragment);
        if let Some(column) = fragment.and_then(|(it, _)| it.columns.get_mut(place.column)) {
            column.is_needed = true;
        }
    }

    /// A reference may mean anything.
    fn need_all(&mut self) {
        self.fragments
            .iter_mut()
            .flat_map(|(it, _)| &mut it.columns)
            .for_each(|it| it.is_needed = true);
    }

    /// A new fragment in the place of a table or view.
    fn add(&mut self, rel: &mut Rel, table: &Table, name: &TableName, spot: Spot, node: NodeId) {
        let index = self.fragments.len();
        let new = format!("{NAME}{}", index + 1);
        let is_done = self.texts.last_mut().and_then(|it| it.replace(spot, name, &new)).is_some();
        if !is_done || rel.cols.len() != table.columns.len() {
            self.refusal
                .get_or_insert_with(|| unclear("The proxy cannot find the parts to change."));
            return;
        }
        for (column, col) in rel.cols.iter_mut().enumerate() {
            col.place = Some(Place { fragment: index, column });
        }
        let schema = name.schema.as_ref().map(|it| format!("{}.", quoted(it))).unwrap_or_default();
        let only = if spot.is_only { "ONLY " } else { "" };
        let columns = table.columns.iter().map(|it| FragmentColumn {
            name: it.name.clone(),
            type_oid: it.type_oid,
            sql_type: it.sql_type.clone(),
            is_needed: false,
        });
        let fragment = Fragment {
            name: new,
            from: format!("{only}{schema}{}", quoted(&name.name)),
            filters: Vec::new(),
            columns: columns.collect(),
        };
        self.fragments.push((fragment, node));
        self.keys.push(table.unique_keys.clone());
    }

    /// The rows of a data-modifying part of WITH, which shards run, are shipped.
    pub(super) fn add_modifying(
        &mut self,
        cte: &Cte,
        mut columns: Vec<FragmentColumn>,
    ) -> Option<()> {
        // Elsewhere the rest would see what has been changed.
        if !matches!(self.runs, Runs::Read | Runs::Home) || self.texts.len() > 1 {
            return None;
        }
        let text = self.texts.first_mut()?;
        let body = text.body_of(&cte.name)?;
        for (column, name) in columns.iter_mut().zip(&cte.columns) {
            column.name.clone_from(name);
        }
        let names: HashSet<&String> = columns.iter().map(|it| &it.name).collect();
        if names.len() < columns.len() {
            return None;
        }
        let with = text.tokens.first()?.range.start;
        self.with = Some(text.sql.get(with..body.end)?.to_owned());
        if columns.is_empty() {
            text.edits.push((body, "(SELECT)".to_owned()));
            return Some(());
        }
        let name = format!("{NAME}{}", self.fragments.len() + 1);
        text.edits.push((body, format!("(SELECT * FROM {name})")));
        let from = quoted(&cte.name);
        let fragment = Fragment { name, from, filters: Vec::new(), columns };
        self.fragments.push((fragment, NodeId::default()));
        self.keys.push(Vec::new());
        Some(())
    }

    pub(super) fn runs_on_home(&self) -> bool {
        matches!(self.runs, Runs::Read | Runs::Home)
    }

    pub(super) fn modifies(&self) -> bool {
        self.with.is_some()
    }

    /// Whether nothing is to be shipped.
    pub(super) fn is_empty(&self) -> bool {
        self.fragments.is_empty() && self.refusal.is_none()
    }

    pub(super) fn asks_time(&self) -> bool {
        self.asks_time
    }

    /// Puts `new` behind the token at `at` of the statement.
    pub(super) fn append(&mut self, at: usize, new: &str) -> Option<()> {
        let text = self.texts.first_mut()?;
        let end = text.tokens.get(text.token_at(at)?)?.range.end;
        text.edits.push((end..end, new.to_owned()));
        Some(())
    }

    /// Has a MERGE insert only rows whose key, an expression of type `text`, belongs to the shard.
    pub(super) fn own_inserts(&mut self, key: String) -> Option<()> {
        let text = self.texts.first_mut()?;
        let is = |at: usize, word: &str| text.tokens.get(at).is_some_and(|it| it.is(word));
        for at in 0..text.tokens.len() {
            let begins = is(at, "when") && is(at + 1, "not") && is(at + 2, "matched");
            if !begins || is(at + 3, "by") && is(at + 4, "source") {
                continue;
            }
            let condition = if is(at + 3, "by") { at + 5 } else { at + 3 };
            let (mut end, mut cases) = (condition, 0);
            while !(cases == 0 && is(end, "then")) {
                cases += usize::from(is(end, "case"));
                cases -= usize::from(is(end, "end")).min(cases);
                end += 1;
                text.tokens.get(end)?;
            }
            let then = text.tokens[end].range.start;
            let close = if is(condition, "and") {
                let begin = text.tokens[condition].range.end;
                text.edits.push((begin..begin, " (".to_owned()));
                ") "
            } else {
                ""
            };
            text.edits.push((then..then, format!("{close}AND {OWNED} ")));
        }
        self.owned = Some(key);
        Some(())
    }

    /// Adds columns to the n-th INSERT of a MERGE, each with its value; `listed` are those it has without a list.
    pub(super) fn extend_insert(
        &mut self,
        nth: usize,
        listed: &[String],
        added: &[(String, String)],
    ) -> Option<()> {
        let text = self.texts.first_mut()?;
        let tokens = &text.tokens;
        let is = |at: usize, word: &str| tokens.get(at).is_some_and(|it| it.is(word));
        let opens = |at: usize| tokens.get(at).is_some_and(|it| it.kind == TokenKind::Open);
        let closing = |at: usize| {
            let close = |it: &Token| it.depth == 0 && it.kind == TokenKind::Close;
            tokens.get(at..)?.iter().position(close).map(|it| at + it)
        };
        let inserts = (0..tokens.len()).filter(|it| is(*it, "then") && is(it + 1, "insert"));
        let at = inserts.filter(|it| tokens[*it].depth == 0).nth(nth)? + 2;
        let names: Vec<&str> = added.iter().map(|it| it.0.as_str()).collect();
        let values: Vec<String> = added.iter().map(|it| format!("({})", it.1)).collect();
        let mut edits = Vec::new();
        if opens(at) {
            let close = tokens[closing(at)?].range.start;
            edits.push((close..close, format!(", {}", names.join(", "))));
        } else {
            let start = tokens.get(at)?.range.start;
            let listed: Vec<String> = listed.iter().map(|it| quoted(it)).collect();
            let list = format!("({}, {}) ", listed.join(", "), names.join(", "));
            edits.push((start..start, list));
        }
        let rest = tokens.get(at..)?.iter();
        let word = rest.take_while(|it| !it.is("when")).position(|it| it.is("values"))?;
        let close = tokens[closing(at + word)?].range.start;
        edits.push((close..close, format!(", {}", values.join(", "))));
        self.asks_time = true;
        text.edits.extend(edits);
        Some(())
    }

    /// The plan of a read of these parts of the statement, between two texts.
    pub(super) fn computed(
        self,
        parts: &[Range<usize>],
        (before, after): (&str, &str),
        needs_home: bool,
    ) -> Result<Gather, PgError> {
        if let Some(error) = self.refusal {
            return Err(error);
        }
        let text = self.texts.first();
        let part = |range: &Range<usize>| apply(&text?.sql, range, text?.edits.clone());
        let parts: Option<Vec<String>> = parts.iter().map(part).collect();
        let parts = parts.ok_or_else(|| unclear("The proxy cannot find the parts to change."))?;
        Ok(Gather {
            fragments: self.fragments.into_iter().map(|(it, _)| it).collect(),
            reductions: self.reductions,
            statement: format!("{before}{}{after}", parts.join(" ")),
            with_at: None,
            needs_home,
            asks_time: self.asks_time,
            with: self.with,
            owned: self.owned,
            runs: Runs::Read,
        })
    }

    /// The plan of what was found.
    pub(super) fn finish(self, needs_home: bool) -> Result<Gather, PgError> {
        if let Some(error) = self.refusal {
            return Err(error);
        }
        let text = self.texts.into_iter().next().and_then(Text::applied);
        let statement =
            text.ok_or_else(|| unclear("The proxy cannot find the parts to change."))?;
        // A write may need no more than one time for all shards.
        let is_enough = self.owned.is_some() || self.asks_time && self.runs != Runs::Read;
        if self.fragments.is_empty() && !is_enough {
            return Err(unclear("It reads no rows of several shards."));
        }
        let has_with = match parse(&statement).as_deref() {
            Ok([Statement { kind, .. }]) => match kind {
                Stmt::Query(it) => it.with.is_some(),
                Stmt::Insert(it) => it.with.is_some(),
                Stmt::Update(it) => it.with.is_some(),
                Stmt::Delete(it) => it.with.is_some(),
                Stmt::Merge(it) => it.with.is_some(),
                _ => return Err(unclear("The proxy cannot find the parts to change.")),
            },
            _ => return Err(unclear("The proxy cannot find the parts to change.")),
        };
        let with_at = if has_with { Some(after_with(&statement)?) } else { None };
        let fragments = self.fragments.into_iter().map(|(it, _)| it).collect();
        Ok(Gather {
            fragments,
            reductions: self.reductions,
            statement,
            with_at,
            needs_home,
            asks_time: self.asks_time,
            with: self.with,
            owned: self.owned,
            runs: self.runs,
        })
    }
}

impl Analyzer<'_> {
    /// Notes why one server cannot compute the statement over shipped rows.
    pub(super) fn not_gathered(&mut self, error: PgError) {
        if let Some(gathering) = &mut self.gathering {
            gathering.refusal.get_or_insert(error);
        }
    }

    /// A table whose columns are not known is on the home shard: it is read there or not at all.
    pub(super) fn not_shipped(&mut self, table: &str) {
        let runs = self.gathering.as_ref().map(|it| it.runs);
        if matches!(runs, Some(Runs::Shards | Runs::Everywhere)) {
            self.not_gathered(unclear(&format!("The columns of {table} are not known.")));
        }
    }

    /// A table whose rows are not where the statement will run becomes a fragment.
    pub(super) fn gather(
        &mut self,
        rel: &mut Rel,
        table: &Table,
        name: &TableName,
        spot: Option<Spot>,
    ) {
        let Some(gathering) = &self.gathering else { return };
        let is_everywhere = matches!(gathering.runs, Runs::Shards | Runs::Everywhere);
        let node = match &table.kind {
            TableKind::Sharded { .. } => self.state().members.last().copied(),
            TableKind::Home if is_everywhere => Some(self.graph.add(KeyType::Text, self.block())),
            TableKind::System if is_everywhere => {
                return self.not_gathered(unclear("Every shard has system catalogs of its own."));
            }
            _ => None,
        };
        let (Some(node), Some(gathering)) = (node, &mut self.gathering) else { return };
        match spot {
            Some(spot) => gathering.add(rel, table, name, spot, node),
            None => self.not_gathered(unclear("A table is named where no rows are read.")),
        }
    }

    /// The text of a view is looked at next.
    pub(super) fn enter_view(&mut self, text: &str) -> Option<Outside> {
        let gathering = self.gathering.as_mut()?;
        let start = text.len() - text.trim_start().len();
        let end = text.trim_end().trim_end_matches(';').len();
        gathering.texts.push(Text::new(text, start..end));
        Some(Outside {
            fragments: gathering.fragments.len(),
            not_fanned: self.facts.not_fanned.take(),
            has_home: std::mem::take(&mut self.facts.has_home),
            needs_home: std::mem::take(&mut self.facts.needs_home),
        })
    }

    /// A view has been looked at. If its rows are those of each tenant together, it is a fragment
    /// itself; else its text takes its place, with fragments in it.
    pub(super) fn leave_view(
        &mut self,
        outside: Option<Outside>,
        is_apart: bool,
        rel: &mut Rel,
        (table, name): (&Table, &TableName),
        spot: Option<Spot>,
    ) {
        let Some(outside) = outside else { return };
        let facts = &mut self.facts;
        let is_fanned = facts.not_fanned.is_none() && !facts.has_home && !facts.needs_home;
        facts.not_fanned = outside.not_fanned.or(facts.not_fanned.take());
        facts.has_home |= outside.has_home;
        facts.needs_home |= outside.needs_home;
        let is_same_path = self.view_depth > 0 || *self.path == *self.catalog.search_path;
        let node = self.state().members.last().copied();
        let Some(gathering) = &mut self.gathering else { return };
        let Some(text) = gathering.texts.pop() else { return };
        if gathering.fragments.len() == outside.fragments {
            return;
        }
        let Some(spot) = spot else { return };
        if is_apart && is_fanned && rel.complete && !spot.is_only {
            gathering.fragments.truncate(outside.fragments);
            let is_left = |it: usize| it < outside.fragments;
            gathering.reductions.retain(|it| is_left(it.fragment) && is_left(it.by.0));
            gathering.keys.truncate(outside.fragments);
            if let Some(node) = node {
                gathering.add(rel, table, name, spot, node);
            }
            return;
        }
        let expanded = text.applied().map(|it| format!("({it})"));
        let text = gathering.texts.last_mut();
        let is_done = match (expanded, text) {
            (Some(new), Some(text)) if is_same_path => text.replace(spot, name, &new).is_some(),
            _ => false,
        };
        if !is_done {
            self.not_gathered(
                unclear("A view is read under a search_path that is not the default one.")
                    .hint("RESET search_path, and name tables with their schemas."),
            );
        }
    }

    /// Puts the mark for the transaction's start in the place of `now()` or `CURRENT_TIMESTAMP` at `at`; `false`
    /// if that is something else.
    pub(super) fn replace_now(&mut self, name: &str, at: usize) -> bool {
        let Some(gathering) = &mut self.gathering else { return false };
        let is_bare = gathering.bare_target == Some(at);
        let Some(text) = gathering.texts.last_mut() else { return false };
        let Some((range, mark)) = text.now_at(name, at) else { return false };
        let alias = if is_bare { format!(" AS {}", quoted(name)) } else { String::new() };
        text.times.push((range.clone(), mark.clone()));
        text.edits.push((range, format!("{mark}{alias}")));
        gathering.asks_time = true;
        true
    }

    /// The mark for `now()` and the like at `at`, for a condition.
    pub(super) fn now_mark(&self, name: &str, at: usize) -> Option<String> {
        let text = self.gathering.as_ref()?.texts.last()?;
        text.now_at(name, at).map(|(_, mark)| mark)
    }

    /// `column IN (SELECT column …)`: rows of the one table count only with values of the other. `inner` is what
    /// the subquery's only column stands for.
    pub(super) fn reduce(&mut self, test: &Expr, inner: Option<Place>, mode: Option<&Mode>) {
        let (Kind::Column(names), Some(inner), Some(mode)) = (&test.kind, inner, mode) else {
            return;
        };
        let Found::Column { place: Some(outer), block, .. } = self.resolve(names) else { return };
        // Rows of a level further out may matter all the same.
        if block != self.block() {
            return;
        }
        let outside = self.blocks.last();
        let Some(gathering) = &mut self.gathering else { return };
        let Some((fragment, node)) = gathering.fragments.get(outer.fragment) else { return };
        let Some((by, _)) = gathering.fragments.get(inner.fragment) else { return };
        let is_nullable = outside.is_some_and(|it| it.outer.contains(node));
        let may_drop = match mode {
            Mode::Filter => true,
            Mode::Nullable(nodes) => nodes.contains(node),
            Mode::Nothing => false,
        };
        let (Some(column), Some(other)) =
            (fragment.columns.get(outer.column), by.columns.get(inner.column))
        else {
            return;
        };
        let is_alike = column.sql_type.scalar.is_some()
            && column.type_oid == other.type_oid
            && column.sql_type.collation == other.sql_type.collation;
        // Each waits for one that waits for none.
        let is_free = outer.fragment != inner.fragment
            && !gathering
                .reductions
                .iter()
                .any(|it| it.fragment == inner.fragment || it.by.0 == outer.fragment);
        if may_drop && !is_nullable && is_alike && is_free {
            let by = (inner.fragment, inner.column);
            gathering.reductions.push(Reduction {
                fragment: outer.fragment,
                column: outer.column,
                by,
            });
        }
    }

    /// Notes that what a reference means is looked at.
    pub(super) fn needs(&mut self, found: &Found) {
        let Some(gathering) = &mut self.gathering else { return };
        match found {
            Found::Column { place: Some(place), .. } => gathering.need(*place),
            Found::Column { .. } => (),
            Found::Row | Found::Unknown => gathering.need_all(),
        }
    }

    /// The same of a column's name at `at`.
    pub(super) fn needs_column(&mut self, names: &[String], at: usize) {
        if self.gathering.is_none() {
            return;
        }
        let found = self.resolve(names);
        self.needs(&found);
        self.unqualify(names.len(), 2, at);
    }

    /// The same of `*` or `name.*`.
    pub(super) fn needs_star(&mut self, names: &[String], at: usize) {
        if self.gathering.is_none() {
            return;
        }
        let cols = self.star(names);
        let Some(gathering) = &mut self.gathering else { return };
        match cols {
            Some((cols, true)) => {
                cols.iter().filter_map(|it| it.place).for_each(|it| gathering.need(it));
            }
            _ => gathering.need_all(),
        }
        self.unqualify(names.len(), 1, at);
    }

    /// Of a name that has more than `kept` parts only these are kept.
    fn unqualify(&mut self, parts: usize, kept: usize, at: usize) {
        let text = self.gathering.as_mut().and_then(|it| it.texts.last_mut());
        if let Some(text) = text.filter(|_| parts > kept) {
            text.unqualify(at, parts - kept);
        }
    }

    /// Grouping by a table's primary key lets its other columns stand ungrouped; shipped rows have no
    /// key, so those columns become grouped, too.
    pub(super) fn group_dependent_columns(&mut self, select: &Select) {
        let (Some(gathering), Some(level)) = (&self.gathering, self.levels.last()) else { return };
        let place = |it: &Expr| match &it.kind {
            Kind::Column(names) => match self.resolve(names) {
                Found::Column { place, .. } => place,
                _ => None,
            },
            _ => None,
        };
        let grouped: Vec<Place> = select.group.iter().filter_map(place).collect();
        let mut added = String::new();
        for rel in &level.rels {
            let Some(fragment) = rel.cols.first().and_then(|it| it.place).map(|it| it.fragment)
            else {
                continue;
            };
            let is_grouped = |column| grouped.contains(&Place { fragment, column });
            let mut keys = gathering.keys[fragment].iter();
            if !keys.any(|key| !key.is_empty() && key.iter().all(|it| is_grouped(*it))) {
                continue;
            }
            let columns = gathering.fragments[fragment].0.columns.iter().enumerate();
            for (i, _) in columns.filter(|(i, it)| it.is_needed && !is_grouped(*i)) {
                let column = format!(", {}.{}", quoted(&rel.alias), quoted(&rel.cols[i].name));
                added.push_str(&column);
            }
        }
        let first = select.group.iter().find(|it| matches!(it.kind, Kind::Column(_)));
        let text = self.gathering.as_mut().and_then(|it| it.texts.last_mut());
        if let (Some(Expr { at, kind: Kind::Column(names) }), Some(text), false) =
            (first, text, added.is_empty() || select.has_grouping_sets)
            && let Some(name) = text.name_at(*at, names.len())
        {
            text.edits.push((name.end..name.end, added));
        }
    }

    /// Lets shards apply a condition of WHERE or ON before they ship rows, if rows that fail it cannot
    /// matter.
    pub(super) fn push_down(&mut self, expr: &Expr, mode: &Mode) {
        if self.gathering.is_none() {
            return;
        }
        let Some(found) = condition(self, expr).filter(|it| it.columns > 0) else { return };
        let Some(gathering) = &mut self.gathering else { return };
        let Some((fragment, node)) = gathering.fragments.get_mut(found.fragment) else { return };
        // A row without a partner has NULL there, which the condition may ask for.
        let is_nullable = self.blocks.last().is_some_and(|it| it.outer.contains(node));
        let may_drop = match mode {
            Mode::Filter => true,
            Mode::Nullable(nodes) => nodes.contains(node),
            Mode::Nothing => false,
        };
        if may_drop && !is_nullable {
            fragment.filters.push(found.text);
        }
    }

    /// Aggregates whose result depends on the order in which rows come: shipped rows come in another
    /// one than those of one table.
    pub(super) fn check_input_order(&mut self, call: &Call, is_builtin: bool) {
        if self.gathering.is_none() || !call.order.is_empty() {
            return;
        }
        let name = call.name.as_str();
        let is_exact = || {
            let arg = call.args.first();
            arg.is_some_and(|it| {
                adds_exactly(&self.levels, self.param_types, it)
                    || matches!(name, "sum" | "avg") && is_whole_float(it)
            })
        };
        if is_builtin && (functions::ignores_any_order(name) || call.distinct && !is_sum(name)) {
            return;
        }
        if is_builtin && is_sum(name) && is_exact() {
            return;
        }
        // Sums of equal keys would still differ by the order among them.
        if !is_sum(name) && call.over.is_none() && self.state().is_told_order {
            return;
        }
        let detail = match is_builtin && is_sum(name) {
            true => {
                "Sums of floating-point numbers depend on the order of rows; the type of the argument is not known to be exact."
            }
            false => "Its result depends on the order of rows, which no table has.",
        };
        let hint = match is_builtin && is_sum(name) {
            true => format!("Cast the argument, e.g. {name}(x::numeric), or name one tenant."),
            false => format!("Give it an order: {name}(… ORDER BY …)."),
        };
        self.not_gathered(
            refuse::over_shards(&format!("{name} without an order"), detail).hint(hint),
        );
    }
}

/// Aggregates that add up.
fn is_sum(name: &str) -> bool {
    const SUMS: [&str; 8] =
        ["sum", "avg", "stddev", "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp"];
    SUMS.contains(&name)
}

/// Where the first common table expression of a statement begins.
fn after_with(statement: &str) -> Result<usize, PgError> {
    let tokens = tokens(statement, &(0..statement.len()));
    let mut rest = tokens.iter().skip_while(|it| !it.is("with")).skip(1).peekable();
    rest.next_if(|it| it.is("recursive"));
    let first = rest.next().map(|it| it.range.start);
    first.ok_or_else(|| unclear("The proxy cannot find the parts to change."))
}

/// A default with the mark for the transaction's start in the place of `now()` and the like; `None` if it has none.
pub(super) fn timed(default: &str) -> Option<String> {
    let (text, count) = timed_parts(default, &(0..default.len()))?;
    (count > 0).then_some(text)
}

/// A part of a text with the mark in the place of `now()` and the like, and how often that was.
pub(super) fn timed_parts(sql: &str, range: &Range<usize>) -> Option<(String, usize)> {
    let text = Text::new(sql, range.clone());
    let word = |it: &Token| sql.get(it.range.clone()).unwrap_or_default().to_lowercase();
    let edits = text.tokens.iter().filter_map(|it| text.now_at(&word(it), it.range.start));
    let edits: Edits = edits.collect();
    let count = edits.len();
    Some((apply(sql, range, edits)?, count))
}

/// A name as Postgres folds it.
fn folded(name: &str) -> String {
    match name.strip_prefix('"').and_then(|it| it.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => name.to_lowercase(),
    }
}

fn unclear(detail: &str) -> PgError {
    PgError::refused("the statement cannot be rewritten for several shards").detail(detail)
}
