//! MERGE.

use super::gather::{Gathering, timed};
use super::graph::NodeId;
use super::names::Names;
use super::predicate::Mode;
use super::refuse;
use super::walk::Analyzer;
use super::write::{Fan, is_reference, mixed, no_key, tenant_column};
use crate::catalog::{Table, TableKind};
use crate::sql::name::quoted;
use crate::sql::parse::tree::{Expr, From, Insert, Kind, MergeInto, OpForm, When, WhenAction};

impl Analyzer<'_> {
    pub(super) fn merge_into(&mut self, it: &MergeInto) -> Fan {
        let start = self.graph.len();
        let (rel, table) = self.write_target(&it.table, it.alias.as_ref());
        let table = table.cloned();
        let tenant_node = match table.as_ref().map(|it| &it.kind) {
            Some(TableKind::Sharded { column, .. }) => rel.cols.get(*column).and_then(|it| it.node),
            _ => None,
        };
        let end = self.graph.len();
        let names = self.target_names(rel);
        let source = self.item_of_from(&it.source, &Names::new(self.block()));
        self.levels.push(names.and(&source));
        let by_source = it.whens.iter().any(|it| it.by_source);
        let inserts = it.whens.iter().any(|it| matches!(it.action, WhenAction::Insert { .. }));
        let mode = match (by_source, inserts) {
            (true, _) => Mode::Nothing,
            (false, true) => Mode::Nullable(start..end),
            // Only pairs matter.
            (false, false) => Mode::Filter,
        };
        self.predicate(&it.on, &mode);
        for when in &it.whens {
            self.merge_when(when, table.as_ref(), it);
        }
        self.targets(&it.returning);
        if let (Some(table), true) = (&table, inserts) {
            self.date_inserts(it, table);
            if let Some(node) = tenant_node {
                self.own_inserts(it, table, node);
            }
        }
        let is_reference = is_reference(table.as_ref());
        let stays = match (by_source, inserts) {
            _ if is_reference => true,
            (true, _) => false,
            (false, false) => true,
            // Rows without a match are inserted where they are: only if that is where they belong.
            (false, true) => self.inserts_stay(it, table.as_ref()),
        };
        let fan = if stays { self.fan(is_reference) } else { Fan::Refuse(mixed()) };
        self.levels.pop();
        match fan {
            Fan::Sum | Fan::Same => fan,
            _ => Fan::Refuse(refuse::over_shards(
                "MERGE",
                "A row and its match may lie on different shards.",
            )),
        }
    }

    /// Whether the source's rows are tenants' own and each is inserted under its own tenant.
    fn inserts_stay(&self, it: &MergeInto, table: Option<&Table>) -> bool {
        let (Some(table), Some(state)) = (table, self.blocks.last()) else { return false };
        let (Some(tenant), Some(first)) = (tenant_column(Some(table)), state.members.first())
        else {
            return false;
        };
        let stays = |when: &When| match &when.action {
            WhenAction::Insert { columns, values } => key_of(columns, values, table, &tenant)
                .and_then(|it| self.node_of(it))
                .is_some_and(|node| state.classes.same(node, *first)),
            _ => true,
        };
        state.members.len() > 1 && it.whens.iter().all(stays)
    }

    /// Where every shard sees all rows of the source: each inserts those of its own tenants. All that a row of
    /// the source can match is then on the shard that inserts it.
    fn own_inserts(&mut self, it: &MergeInto, table: &Table, tenant_node: NodeId) {
        if self.gathering.is_none() {
            return;
        }
        let key = self.inserted_key(it, table, tenant_node);
        let done = key.and_then(|key| self.gathering.as_mut()?.own_inserts(key));
        if done.is_none() {
            self.not_gathered(refuse::over_shards(
                "MERGE",
                "The tenant of rows that it inserts is not the source's column that ON compares with the target's.",
            ));
        }
    }

    /// Columns that are left out and take the transaction's time: one for all shards.
    fn date_inserts(&mut self, it: &MergeInto, table: &Table) {
        if self.gathering.as_ref().is_none_or(Gathering::runs_on_home) {
            return;
        }
        let inserts = it.whens.iter().filter_map(|it| match &it.action {
            WhenAction::Insert { columns, values } => Some((columns, values)),
            _ => None,
        });
        for (nth, (columns, values)) in inserts.enumerate() {
            let given = given(columns, values, table);
            self.facts.dated.clear();
            self.check_left_out(&as_insert(it, &given), table, &given, true);
            let dated = std::mem::take(&mut self.facts.dated);
            if dated.is_empty() {
                continue;
            }
            let timed = dated.into_iter().map(|(name, text)| Some((name, timed(&text)?)));
            let timed: Option<Vec<(String, String)>> = timed.collect();
            let has_defaults = given.len() < values.len();
            let gathering = self.gathering.as_mut().filter(|_| !has_defaults);
            let done = gathering.and_then(|it| it.extend_insert(nth, &given, &timed?));
            if done.is_none() {
                self.not_fanned(refuse::not_immutable("the default of a column"));
            }
        }
    }

    /// The column of the source that is the tenant of all rows inserted and of all that a row can match, as
    /// `text`.
    fn inserted_key(&self, it: &MergeInto, table: &Table, tenant_node: NodeId) -> Option<String> {
        if matches!(it.source, From::Join(_)) {
            return None;
        }
        let TableKind::Sharded { column, .. } = table.kind else { return None };
        let tenant = &table.columns[column];
        let mut inserted: Option<&Vec<String>> = None;
        for when in &it.whens {
            let WhenAction::Insert { columns, values } = &when.action else { continue };
            let Kind::Column(names) = &key_of(columns, values, table, &tenant.name)?.kind else {
                return None;
            };
            if inserted.is_some_and(|it| it != names) || names.len() > 2 {
                return None;
            }
            inserted = Some(names);
        }
        let inserted = inserted?;
        let mut conditions = vec![&it.on];
        let mut is_compared = false;
        while let Some(condition) = conditions.pop() {
            match &condition.kind {
                Kind::And(parts) => conditions.extend(parts),
                Kind::Op(op) if op.form == OpForm::Plain && op.name == "=" => {
                    let (Some(left), Some(right)) = (&op.left, &op.right) else { continue };
                    let is_pair = |target: &Expr, source: &Expr| {
                        // Where rows are inserted the name can only be the source's.
                        let is_inserted =
                            matches!(&source.kind, Kind::Column(it) if it == inserted);
                        let node = self.node_of(target);
                        node == Some(tenant_node)
                            && is_inserted
                            && self.node_of(source) != Some(tenant_node)
                    };
                    is_compared |= is_pair(left, right) || is_pair(right, left);
                }
                _ => (),
            }
        }
        let names: Vec<String> = inserted.iter().map(|it| quoted(it)).collect();
        let type_name = tenant.sql_type.scalar.as_ref()?;
        is_compared.then(|| format!("({})::{type_name}::text", names.join(".")))
    }

    fn merge_when(&mut self, when: &When, table: Option<&Table>, it: &MergeInto) {
        let tenant = tenant_column(table);
        self.exprs(&when.condition);
        match &when.action {
            WhenAction::Nothing | WhenAction::Delete => (),
            WhenAction::Update(set) => self.assignments(set, tenant.as_deref()),
            WhenAction::Insert { columns, values } => {
                self.exprs(values);
                if let Some(table) = table {
                    self.merge_insert((columns, values), table, tenant.as_deref(), it);
                }
            }
        }
    }

    /// The tenant of rows that MERGE inserts, a key or a confined column of the source; and what the columns get
    /// that it leaves out.
    fn merge_insert(
        &mut self,
        (columns, values): (&[String], &[Expr]),
        table: &Table,
        tenant: Option<&str>,
        it: &MergeInto,
    ) {
        if let (TableKind::Sharded { key, .. }, Some(tenant)) = (&table.kind, tenant) {
            let Some(value) = key_of(columns, values, table, tenant) else {
                return self.refuse(no_key(tenant, "MERGE inserts rows without it."));
            };
            let block = self.block();
            let inserted = self.graph.add(*key, block);
            self.graph.sharded(inserted, it.table.name.clone());
            match (self.key(value, *key), self.node_of(value)) {
                (Some(key), _) => self.graph.fact(inserted, vec![key]),
                (None, Some(from)) => self.graph.edge(from, inserted),
                // The shards tell, which see the whole source.
                _ if self.gathering.is_some() => (),
                _ => self.refuse(no_key(tenant, "MERGE computes it.")),
            }
        }
        if !matches!(table.kind, TableKind::Sharded { .. } | TableKind::Reference) {
            return;
        }
        let given = given(columns, values, table);
        let adds = self.gathering.as_ref().is_some_and(|it| !it.runs_on_home());
        self.check_left_out(&as_insert(it, &given), table, &given, adds);
        self.facts.dated.clear();
    }
}

/// The columns that a row inserted has values for.
fn given(columns: &[String], values: &[Expr], table: &Table) -> Vec<String> {
    let listed: Vec<&String> = match columns {
        [] => table.columns.iter().take(values.len()).map(|it| &it.name).collect(),
        columns => columns.iter().collect(),
    };
    let given = listed.into_iter().zip(values).filter(|(_, it)| it.kind != Kind::Default);
    given.map(|(name, _)| name.clone()).collect()
}

/// The INSERT of a row of these columns.
fn as_insert(it: &MergeInto, columns: &[String]) -> Insert {
    Insert {
        with: None,
        table: it.table.clone(),
        alias: None,
        columns: columns.to_vec(),
        source: None,
        overriding: false,
        conflict: None,
        returning: Vec::new(),
    }
}

/// The tenant's key among the values of an INSERT.
fn key_of<'a>(
    columns: &[String],
    values: &'a [Expr],
    table: &Table,
    tenant: &str,
) -> Option<&'a Expr> {
    let at = match columns {
        [] => table.column(tenant),
        columns => columns.iter().position(|it| it == tenant),
    };
    values.get(at?)
}
