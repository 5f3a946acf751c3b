//! Plans as text: what EXPLAIN (SLUICE) and the golden tests show.

use std::fmt::{self, Display, Formatter};

use super::gather::{Gather, Runs};
use super::scatter::Insertion;
use super::{
    Access, Action, Combine, CopyFormat, Dated, KeySource, Local, Plan, Run, Scope, SetConfig,
    SetValue, Split,
};
use crate::merge::{Aggregate, Bound, ColumnAt, Group, MergeSpec, SortKey};
use crate::shard::KeyType;

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        match &self.action {
            Action::Run(run) => {
                write!(f, "{run}")?;
                lines = combine(run);
            }
            Action::Local(local) => show_local(f, local)?,
            Action::Refuse(error) => write!(f, "Refuse {error}")?,
        }
        if let Action::Run(Run { explained: Some(it), .. }) = &self.action {
            let how = if it.runs { "run and explained" } else { "explained" };
            lines.push(format!("Each server's part is {how}"));
        }
        lines.extend(self.pin.map(|it| format!("Pin: {it}")));
        if self.changes_schema {
            lines.push("Changes the schema".to_owned());
        }
        lines.extend(self.bound.as_ref().map(|it| format!("{it} must be sharded at the commit")));
        if let Some(it) = &self.times {
            lines.push(format!("At one time: {}", it.sql));
            lines.extend(it.defaults.iter().map(|it| format!("Then: {it}")));
        }
        if let Some(it) = self.numbers.as_ref().filter(|it| it.spreads) {
            lines.push(format!("{} must be empty", it.of));
        }
        lines.extend(self.lookup.as_ref().map(ToString::to_string));
        lines.extend(self.unique.as_ref().map(ToString::to_string));
        if let Some(it) = &self.numbers {
            lines.push(format!("Sequences of {} are shared", it.of));
            let filled = it.filled.iter();
            lines.extend(filled.map(|it| format!("Column {it} is filled again where it must be")));
        }
        for SetConfig { name, value, is_local } in &self.sets {
            let local = if *is_local { " locally" } else { "" };
            let value = match value {
                SetValue::Literal(value) => value.as_deref().unwrap_or("NULL").to_owned(),
                SetValue::Param(n) => format!("${n}"),
            };
            lines.push(format!("Sets {name} = {value}{local}"));
        }
        if let Some(it) = &self.literals {
            let places: Vec<String> = it.at.iter().map(ToString::to_string).collect();
            lines.push(format!("Prepared with the literals at {}", places.join(", ")));
        }
        if self.is_shareable {
            lines.push("Shared".to_owned());
        }
        for (i, line) in lines.iter().enumerate() {
            let branch = if i + 1 == lines.len() { "└─" } else { "├─" };
            write!(f, "\n{branch} {line}")?;
        }
        Ok(())
    }
}

impl Display for Run {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "Read",
            Access::Write => "Write",
        };
        write!(f, "{access} {}", self.scope)
    }
}

impl Display for Scope {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any shard"),
            Self::Home => f.write_str("home shard"),
            Self::All => f.write_str("all shards"),
            Self::Keys { keys, with_home } => {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                write!(f, "shard of {}", keys.join(", "))?;
                if *with_home { f.write_str(" and home") } else { Ok(()) }
            }
        }
    }
}

fn kind(kind: KeyType) -> &'static str {
    match kind {
        KeyType::Text => "text",
        KeyType::Uuid => "uuid",
        KeyType::Int => "int",
    }
}

impl Display for KeySource {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal { offset, kind: it } => write!(f, "{} at {offset}", kind(*it)),
            Self::Param { index, kind: it } => write!(f, "{} ${index}", kind(*it)),
            Self::ParamArray { index, kind: it } => write!(f, "{}[] ${index}", kind(*it)),
        }
    }
}

/// What shards do for a gathered statement.
fn shipped(it: &Gather) -> impl Iterator<Item = String> {
    let with = it.with.iter().map(|it| format!("On each shard: {it}"));
    let ships = it.fragments.iter().enumerate().map(|(i, fragment)| {
        let reductions = it.reductions.iter().filter(move |it| it.fragment == i);
        let only = reductions.map(|found| {
            let (by, column) = (&it.fragments[found.by.0], &fragment.columns[found.column]);
            format!(", only {} of {}.{}", column.name, by.name, by.columns[found.by.1].name)
        });
        format!("Ship {fragment}{}", only.collect::<String>())
    });
    with.chain(ships)
}

/// What happens after the shards have answered; nothing if there is always one.
fn combine(run: &Run) -> Vec<String> {
    match &run.combine {
        Combine::Merge(spec) => {
            vec![format!("Send: {}", spec.shard_sql), format!("Merge: {spec}")]
        }
        Combine::Gather(it) | Combine::CopyGather { gather: it, .. } => {
            let mut lines: Vec<String> = shipped(it).collect();
            let place = match it.runs {
                Runs::Read | Runs::Home => "the home shard",
                Runs::Shards => "each shard, counts added",
                Runs::Everywhere => "each shard alike",
            };
            lines.push(format!("Then on {place}: {it}"));
            lines
        }
        Combine::Scatter(it) => {
            let then = format!("Then on the home shard: {}", it.source);
            let rows = rows_of(&it.insertion);
            shipped(&it.source).chain([then, rows]).collect()
        }
        Combine::CreateAs(it) => {
            let then = format!("Then on the home shard: {}", it.source);
            let made = format!("On every shard: {}", it.create.replace('\n', " "));
            let rows = "Rows to their shards, without a tenant column to the home shard".to_owned();
            shipped(&it.source).chain([then, made, rows]).collect()
        }
        Combine::Lock(it) => {
            let bounds = MergeSpec { offset: it.offset, limit: it.limit, ..it.find.clone() };
            vec![
                format!("Find: {}", it.find.shard_sql),
                format!("Merge: {bounds}"),
                format!("Lock these: {}", it.lock),
            ]
        }
        Combine::Pick(it) => vec![
            format!("Lock first: {}", it.select),
            format!("Then with these rows: {}…{}", it.before, it.after),
        ],
        Combine::Move(it) => {
            vec!["Rows that stay are updated, others deleted".to_owned(), rows_of(&it.insertion)]
        }
        Combine::Sum => vec!["Sum of all shards".to_owned()],
        Combine::Materialized(None) => vec!["Sum of all shards".to_owned()],
        Combine::Materialized(Some(_)) => {
            vec!["Rows on the home shard, without data on the others".to_owned()]
        }
        Combine::Same => vec!["Same on all shards".to_owned()],
        Combine::Filled(it) => {
            let filled = it.columns.iter().zip(&it.defaults);
            let filled: Vec<String> = filled.map(|(name, it)| format!("{name} = {it}")).collect();
            vec![format!("Same on all shards, of the home shard: {}", filled.join(", "))]
        }
        Combine::OneByOne => vec!["One shard after the other".to_owned()],
        Combine::Split(split) => vec![format!("Split: {split}")],
        Combine::CopyFrom(it) => {
            let dated = it.dated.as_ref().map(ToString::to_string).unwrap_or_default();
            vec![format!(
                "Rows by {} in column {}, {}{dated}",
                kind(it.kind),
                it.key_column,
                it.format
            )]
        }
        Combine::Place(it) => {
            let args = it.over.as_ref().map_or_else(|| it.args.join(", "), |it| it.asked.clone());
            vec![format!("Set on each shard: {args}")]
        }
        Combine::CopyTo { is_binary: true, .. } => {
            vec!["Concatenate, one header, one trailer".to_owned()]
        }
        Combine::CopyTo { header: true, .. } => vec!["Concatenate, one header".to_owned()],
        Combine::CopyTo { header: false, .. } => vec!["Concatenate".to_owned()],
        Combine::Refuse(error) => match &run.scope {
            Scope::Keys { keys, .. } if !is_single(keys) => {
                vec![format!("Of several shards: refuse, {}", error.message)]
            }
            _ => Vec::new(),
        },
    }
}

fn rows_of(it: &Insertion) -> String {
    format!("Rows by {} to their shards: {it}", kind(it.key))
}

fn is_single(keys: &[KeySource]) -> bool {
    matches!(keys, [KeySource::Literal { .. } | KeySource::Param { .. }])
}

impl Display for Split {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows: Vec<String> =
            self.rows.iter().map(|(range, key)| format!("{range:?} {key}")).collect();
        write!(f, "{}", rows.join(", "))?;
        f.write_str(if self.returning { ", a row each" } else { "" })?;
        self.dated.iter().try_for_each(|it| write!(f, "{it}"))
    }
}

impl Display for Dated {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (column, default) in self.columns.iter().zip(&self.defaults) {
            write!(f, ", {column} = {default}")?;
        }
        Ok(())
    }
}

impl Display for CopyFormat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let byte = |it: &u8| char::from(*it).escape_default().to_string();
        match self {
            Self::Text { delimiter, null, header } => {
                write!(f, "text delimiter {} null {null:?}", byte(delimiter))?;
                if *header { f.write_str(" header") } else { Ok(()) }
            }
            Self::Csv { delimiter, quote, escape, null, header, force_null } => {
                let (delimiter, quote, escape) = (byte(delimiter), byte(quote), byte(escape));
                write!(f, "csv delimiter {delimiter} quote {quote} escape {escape} null {null:?}")?;
                f.write_str(if *header { " header" } else { "" })?;
                f.write_str(if *force_null { " force_null" } else { "" })
            }
            Self::Binary => f.write_str("binary"),
        }
    }
}

impl Display for MergeSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        steps.extend(self.group.as_ref().map(ToString::to_string));
        if self.distinct {
            steps.push("distinct".to_owned());
        }
        if !self.sort.is_empty() {
            let keys: Vec<String> = self.sort.iter().map(ToString::to_string).collect();
            steps.push(format!("sort [{}]", keys.join(", ")));
        }
        steps.extend(self.offset.map(|it| format!("offset {it}")));
        steps.extend(self.limit.map(|it| format!("limit {it}")));
        if self.hidden > 0 {
            steps.push(format!("drop {}", self.hidden));
        }
        let steps = if steps.is_empty() { "concatenate".to_owned() } else { steps.join(", ") };
        f.write_str(&steps)
    }
}

impl Display for Group {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        write!(f, "group [{}]", keys.join(", "))?;
        for (at, aggregate) in &self.aggregates {
            let name = match aggregate {
                Aggregate::Count => "count",
                Aggregate::Sum => "sum",
                Aggregate::Min => "min",
                Aggregate::Max => "max",
                Aggregate::And => "and",
                Aggregate::Or => "or",
            };
            write!(f, " {name}({at})")?;
        }
        Ok(())
    }
}

impl Display for SortKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.column {
            ColumnAt::Visible(at) => write!(f, "{at}")?,
            ColumnAt::Hidden(at) => write!(f, "hidden {at}")?,
        }
        f.write_str(if self.descending { " desc" } else { "" })?;
        if self.nulls_first != self.descending {
            f.write_str(if self.nulls_first { " nulls first" } else { " nulls last" })?;
        }
        f.write_str(if self.is_bytewise { " bytewise" } else { "" })
    }
}

impl Display for Bound {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(n) => write!(f, "{n}"),
            Self::Param(n) => write!(f, "${n}"),
        }
    }
}

fn show_local(f: &mut Formatter<'_>, local: &Local) -> fmt::Result {
    match local {
        Local::Declare { cursor, query, range, is_holdable, .. } => {
            let hold = if *is_holdable { " with hold" } else { "" };
            write!(f, "Local Declare {cursor}{hold} for {range:?}")?;
            for line in query.to_string().lines() {
                write!(f, "\n   {line}")?;
            }
            Ok(())
        }
        other => write!(f, "Local {other:?}"),
    }
}
