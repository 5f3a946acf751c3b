//! COPY.

use std::ops::Range;

use super::write::{UNIQUE_ID, is_random_default, is_time_default, list_end};
use super::{Planner, refuse};
use crate::catalog::sequence::Name;
use crate::catalog::{ColumnDefault, FIRST_USER_OID, Table, TableKind};
use crate::error::PgError;
use crate::plan::{Access, Action, Combine, CopyFormat, CopyFrom, Dated, Plan, Scope};
use crate::sql::name::quoted;
use crate::sql::parse::tokens::parenthesis;
use crate::sql::parse::tree::{Copy, CopySource, Stmt, TableName};

/// COPY's options, read.
struct Options {
    format: CopyFormat,
    header: bool,
}

impl Planner<'_> {
    pub(super) fn copy(&self, it: &Copy, range: &Range<usize>) -> Plan {
        if it.is_server_side {
            let home = Plan::run(Access::Write, Scope::Home);
            return if self.sharded { Plan::forbidden(server_side()) } else { home };
        }
        match &it.source {
            CopySource::Query(query) => self.copy_query(query, it, range),
            CopySource::Table(name) => {
                let mut plan = self.copy_table(name, it, range);
                let is_suspect = self.catalog.suspects.relations.contains(&name.name);
                plan.pin = plan.pin.or(is_suspect.then_some(super::walk::SUSPECT));
                if let Action::Run(run) = &mut plan.action
                    && self.catalog.unlogged.contains(&name.name)
                {
                    // Replicas do not have its rows.
                    run.access = Access::Write;
                }
                plan
            }
        }
    }

    fn copy_query(&self, query: &Stmt, it: &Copy, range: &Range<usize>) -> Plan {
        let inner = parenthesis(self.sql, range).unwrap_or_else(|| range.clone());
        let mut plan = match query {
            Stmt::Query(query) => self.query(query, &inner),
            modifying => self.modify(modifying, &inner),
        };
        plan.is_shareable = false;
        let options = options(it);
        let Action::Run(run) = &mut plan.action else { return plan };
        let refusal = || {
            refuse::over_shards("COPY (query)", "Its rows would have to be merged.")
                .hint("COPY the table, or name one tenant in the query or SET sluice.tenant.")
        };
        let is_read = matches!(query, Stmt::Query(_)) && run.access == Access::Read;
        match (&run.combine, &options) {
            (Combine::Merge(merge), Ok(options))
                if is_concatenation(merge) && options.format != CopyFormat::Binary =>
            {
                run.combine = Combine::CopyTo { header: options.header, is_binary: false };
            }
            _ if is_read && run.gathered().is_some() => {
                let part = |range: Range<usize>| self.sql.get(range).unwrap_or_default().to_owned();
                let (before, after) = (part(range.start..inner.start), part(inner.end..range.end));
                if let Some(gather) = run.gathered().cloned().map(Box::new) {
                    run.combine = Combine::CopyGather { gather, before, after };
                }
            }
            _ if run.scope == Scope::All => return Plan::refused(refusal()),
            _ => run.combine = Combine::Refuse(refusal()),
        }
        plan
    }

    fn copy_table(&self, name: &TableName, it: &Copy, range: &Range<usize>) -> Plan {
        let access = if it.is_from { Access::Write } else { Access::Read };
        let table = super::from::find(self.catalog, &self.path(), name);
        let Some(table) = table.filter(|_| self.sharded) else {
            return Plan::run(access, Scope::Home);
        };
        let mut analyzer = self.analyzer(range);
        analyzer.enter();
        analyzer.exprs(&it.filter);
        if it.is_from {
            analyzer.check_side_effects(table, &name.name);
        }
        if let Some(error) = analyzer.facts.refusal {
            return Plan::refused(error);
        }
        match (&table.kind, it.is_from) {
            (TableKind::Sharded { column, key }, true) => {
                let kind = (*column, *key);
                if let Some(error) = self.unshared_column(table, it) {
                    return Plan::forbidden(error);
                }
                self.copy_in(table, kind, it, range).unwrap_or_else(Plan::refused)
            }
            (TableKind::Sharded { .. }, false) => match options(it) {
                Ok(Options { format: CopyFormat::Binary, .. }) if !is_portable(table, it) => {
                    Plan::refused(refuse::over_shards(
                        "COPY … TO in binary format of types that users made",
                        "Arrays and composites have OIDs in them, which differ from shard to shard.",
                    ))
                }
                Ok(options) => Plan::combined(
                    Access::Read,
                    Scope::All,
                    Combine::CopyTo {
                        header: options.header,
                        is_binary: options.format == CopyFormat::Binary,
                    },
                ),
                Err(error) => Plan::refused(error),
            },
            (TableKind::Reference, true) => reference_in(table, it, name),
            (TableKind::Reference, false) => Plan::run(Access::Read, Scope::Any),
            (TableKind::Unusable(reason), _) => Plan::forbidden(
                PgError::refused(format!("table {} cannot be used", name.name)).detail(reason),
            ),
            (TableKind::View(_), true) => Plan::refused(
                PgError::refused(format!("view {} cannot be written", name.name))
                    .hint("Write to the table."),
            ),
            _ => Plan::run(access, Scope::Home),
        }
    }

    /// Why rows without some column may get a value that a row of another shard has.
    fn unshared_column(&self, table: &Table, it: &Copy) -> Option<PgError> {
        let is_given = |name: &String| it.columns.is_empty() || it.columns.contains(name);
        let why = |it: &crate::catalog::Column| match &it.default {
            ColumnDefault::Computed(text) if text == UNIQUE_ID && !self.catalog.makes_ids => {
                Some(super::sequences::no_ids())
            }
            ColumnDefault::Sequence(sequence) => {
                self.is_unshared(sequence).then(|| super::write::unshared(&it.name))
            }
            _ => None,
        };
        table.columns.iter().filter(|it| !is_given(&it.name)).find_map(why)
    }

    /// Whether two shards may give one number of it, and that is not allowed.
    fn is_unshared(&self, sequence: &Option<Name>) -> bool {
        !self.catalog.allow_local_keys && !self.catalog.is_shared(sequence.as_ref())
    }

    fn copy_in(
        &self,
        table: &Table,
        (column, kind): (usize, crate::shard::KeyType),
        it: &Copy,
        range: &Range<usize>,
    ) -> Result<Plan, PgError> {
        let options = options(it)?;
        let mut dated = Vec::new();
        if let Some(filter) = &it.filter {
            let mut analyzer = self.analyzer(&(0..0));
            analyzer.enter();
            analyzer.expr(filter);
            if let Some(error) = analyzer.facts.not_fanned {
                return Err(error);
            }
        }
        let key = &table.columns[column].name;
        let at = match it.columns.as_slice() {
            [] => insertable(table).position(|it| it == key),
            columns => columns.iter().position(|it| it == key),
        };
        let key_column = at.ok_or_else(|| {
            PgError::refused(format!("the tenant column {key} is not in the column list"))
                .detail("The proxy reads each row's tenant from it.")
                .hint(format!("Add {key} to the column list, or SET sluice.tenant."))
        })?;
        for column in &table.columns {
            if it.columns.is_empty() || it.columns.contains(&column.name) {
                continue;
            }
            match &column.default {
                ColumnDefault::Computed(text)
                    if is_time_default(text) && options.format != CopyFormat::Binary =>
                {
                    dated.push((quoted(&column.name), text.clone()));
                }
                ColumnDefault::Computed(text) if !is_random_default(text) => {
                    return Err(refuse::not_immutable(&format!(
                        "the default of column {}",
                        column.name
                    )));
                }
                _ => (),
            }
        }
        let dated = match list_end(self.sql, range, "from") {
            Some(list_end) if !dated.is_empty() => {
                let (columns, defaults) = dated.into_iter().unzip();
                Some(Dated { columns, defaults, list_end })
            }
            _ => None,
        };
        let copy = CopyFrom { format: options.format, key_column, kind, dated };
        Ok(Plan::combined(Access::Write, Scope::All, Combine::CopyFrom(copy)))
    }
}

/// The columns COPY reads without a list: all but generated ones.
fn insertable(table: &Table) -> impl Iterator<Item = &String> {
    let stored = table.columns.iter().filter(|it| it.default != ColumnDefault::Generated);
    stored.map(|it| &it.name)
}

/// Whether the binary values of the copied columns are the same on every server.
fn is_portable(table: &Table, it: &Copy) -> bool {
    let copied = |name: &String| it.columns.is_empty() || it.columns.contains(name);
    let mut columns = table.columns.iter().filter(|it| copied(&it.name));
    columns.all(|it| it.type_oid < FIRST_USER_OID)
}

fn reference_in(table: &Table, it: &Copy, name: &TableName) -> Plan {
    let is_given = |column: &str| it.columns.is_empty() || it.columns.iter().any(|it| it == column);
    let differs = table.columns.iter().find(|it| {
        matches!(it.default, ColumnDefault::Computed(_) | ColumnDefault::Sequence(_))
            && !is_given(&it.name)
    });
    match differs {
        Some(column) => Plan::forbidden(
            PgError::refused(format!(
                "the write of reference table {} would differ from shard to shard",
                name.name
            ))
            .detail(format!(
                "Each shard would compute the default of column {} for itself.",
                column.name
            ))
            .hint("Give the values in the data."),
        ),
        None => Plan::combined(Access::Write, Scope::All, Combine::Same),
    }
}

pub(super) fn is_concatenation(it: &crate::merge::MergeSpec) -> bool {
    it.hidden == 0
        && it.group.is_none()
        && !it.distinct
        && it.sort.is_empty()
        && it.limit.is_none()
        && it.offset.is_none()
}

fn server_side() -> PgError {
    PgError::refused(
        "COPY with a file or a program of the server is not supported with several shards",
    )
    .detail("It would read or write the file on one server.")
    .hint("Use COPY … FROM STDIN or TO STDOUT, or psql's \\copy.")
}

fn options(it: &Copy) -> Result<Options, PgError> {
    let option = |name: &str| it.options.iter().rev().find(|(it, _)| it == name).map(|(_, it)| it);
    let value = |name: &str| option(name).and_then(Option::as_deref);
    let is_on = |name: &str| match option(name) {
        Some(value) => !matches!(
            value.as_deref().map(str::to_ascii_lowercase).as_deref(),
            Some("off" | "false" | "0")
        ),
        None => false,
    };
    if value("encoding").is_some_and(|it| !["utf8", "utf-8"].contains(&it.to_lowercase().as_str()))
    {
        return Err(unsupported("ENCODING"));
    }
    for name in ["default", "on_error", "log_verbosity", "reject_limit"] {
        if it.is_from && option(name).is_some() {
            return Err(unsupported(&name.to_uppercase()));
        }
    }
    let byte = |name: &str, default: u8| match value(name).map(str::as_bytes) {
        None => Ok(default),
        Some([byte]) => Ok(*byte),
        Some(_) => Err(unsupported(&name.to_uppercase())),
    };
    let header = is_on("header");
    let null = |default: &str| value("null").unwrap_or(default).to_owned();
    let format = match value("format").unwrap_or("text").to_ascii_lowercase().as_str() {
        "text" => {
            CopyFormat::Text { delimiter: byte("delimiter", b'\t')?, null: null("\\N"), header }
        }
        "csv" => {
            let quote = byte("quote", b'"')?;
            CopyFormat::Csv {
                delimiter: byte("delimiter", b',')?,
                quote,
                escape: byte("escape", quote)?,
                null: null(""),
                header,
                force_null: option("force_null").is_some() || option("force_not_null").is_some(),
            }
        }
        "binary" => CopyFormat::Binary,
        _ => return Err(unsupported("FORMAT")),
    };
    Ok(Options { format, header })
}

fn unsupported(option: &str) -> PgError {
    PgError::refused(format!("COPY with this {option} is not supported over several shards"))
        .detail("The proxy reads the rows to send each to its shard.")
        .hint("Use text, CSV or binary format in UTF8, or SET sluice.tenant.")
}
