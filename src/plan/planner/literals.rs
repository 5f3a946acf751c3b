//! Which literals of a statement may be parameters of a prepared statement with the very same meaning.
//!
//! A number becomes a parameter of the number's own type, a string one of no declared type, which
//! Postgres resolves as it does the string: so operators, results and columns are the same, provided
//! that nothing asks for a constant. That is only taken for granted where a literal stands against a column, or is what
//! a column is set to, and the catalog knows the column's type. All other numbers must be the same in
//! each statement, and any other string, which may mean another value from session to session and from
//! moment to moment, leaves the statement as it is.

use std::ops::Range;

use super::Planner;
use crate::catalog::{ColumnDefault, Table, TableKind};
use crate::plan::{Columns, Literals};
use crate::sql::parse::tree::{
    Alias, Assign, Body, Conflict, Delete, Expr, From, Insert, Kind, Literal, Op, OpForm, Query,
    Select, Stmt, TableName, Target, Update,
};

/// More parameters than this are not worth it.
const MOST: usize = 64;

/// Types of `pg_catalog` that read a string alike as a constant and as a parameter.
const READ_ALIKE: &[u32] =
    &[16, 17, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950, 3802];
const NUMBERS: &[u32] = &[20, 21, 23, 700, 701, 1700];

/// Functions whose result hangs neither on the statement's text nor on when its messages came.
const PLAIN_FUNCTIONS: &[&str] = &[
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "bool_and",
    "bool_or",
    "lower",
    "upper",
    "length",
    "abs",
    "round",
    "floor",
    "ceil",
    "now",
    "random",
    "gen_random_uuid",
    "array_agg",
    "row_number",
    "rank",
];

/// What a statement looks at.
struct Finder<'a> {
    /// The tables under the names they go by.
    tables: Vec<(&'a str, &'a Table)>,
    found: Vec<usize>,
}

impl Planner<'_> {
    /// The literals of a statement that may be parameters; `None`: it must go as it is.
    pub(super) fn literals(&self, statement: &Stmt, range: &Range<usize>) -> Option<Literals> {
        if !self.catalog.auto_prepare {
            return None;
        }
        let mut finder = Finder { tables: Vec::new(), found: Vec::new() };
        let columns = match statement {
            Stmt::Query(query) => {
                self.select(query, &mut finder)?;
                Columns::First
            }
            Stmt::Insert(insert) => self.insert_literals(insert, &mut finder)?,
            Stmt::Update(update) => self.update_literals(update, &mut finder)?,
            Stmt::Delete(delete) => self.delete_literals(delete, &mut finder)?,
            _ => return None,
        };
        let mut at = finder.found;
        at.sort_unstable();
        let is_within = at.iter().all(|it| range.contains(it));
        (is_within && (1..=MOST).contains(&at.len())).then_some(Literals { at, columns })
    }

    fn select<'a>(&'a self, query: &'a Query, finder: &mut Finder<'a>) -> Option<()> {
        let Query { with: None, body: Body::Select(select), order, limit, offset, .. } = query
        else {
            return None;
        };
        let Select { targets, into: false, from, filter, group, having, windows, .. } = &**select
        else {
            return None;
        };
        if targets.is_empty() || from.is_empty() {
            return None;
        }
        for item in from {
            self.source_literals(item, finder)?;
        }
        finder.targets(targets)?;
        finder.condition_if(filter.as_ref())?;
        let windows = windows.iter().flat_map(|it| it.children());
        let distinct = match &select.distinct {
            crate::sql::parse::tree::Distinct::On(on) => on.as_slice(),
            _ => &[],
        };
        let order = order.iter().map(|it| &it.expr);
        let others = group.iter().chain(having).chain(windows).chain(distinct).chain(order);
        finder.all(others.chain(limit).chain(offset))
    }

    fn source_literals<'a>(&'a self, item: &'a From, finder: &mut Finder<'a>) -> Option<()> {
        match item {
            From::Table { name, alias, .. } => self.table_literals(name, alias.as_ref(), finder),
            From::Join(join) if join.alias.is_none() && !join.using_alias => {
                self.source_literals(&join.left, finder)?;
                self.source_literals(&join.right, finder)?;
                finder.all(&join.on)
            }
            _ => None,
        }
    }

    /// Takes in a table whose columns are known.
    fn table_literals<'a>(
        &'a self,
        name: &'a TableName,
        alias: Option<&'a Alias>,
        finder: &mut Finder<'a>,
    ) -> Option<()> {
        if name.catalog.is_some() || alias.is_some_and(|it| !it.columns.is_empty()) {
            return None;
        }
        let table = self.known_table(name)?;
        finder.tables.push((alias.map_or(&name.name, |it| &it.name), table));
        Some(())
    }

    fn known_table(&self, name: &TableName) -> Option<&Table> {
        let find = |schema: &String| self.catalog.tables.get(&(schema.clone(), name.name.clone()));
        let table = match &name.schema {
            Some(schema) => find(schema),
            None => self.path().iter().find_map(find),
        }?;
        let is_plain = matches!(
            table.kind,
            TableKind::Sharded { .. } | TableKind::Reference | TableKind::Home
        );
        (is_plain && !table.has_rules).then_some(table)
    }

    /// Takes in the table of a write, if nothing of the statement's text can be seen in it.
    fn written<'a>(
        &'a self,
        name: &'a TableName,
        alias: Option<&'a Alias>,
        finder: &mut Finder<'a>,
    ) -> Option<&'a Table> {
        self.table_literals(name, alias, finder)?;
        let (_, table) = finder.tables.last()?;
        table.trigger_functions.is_empty().then_some(*table)
    }

    fn insert_literals<'a>(
        &'a self,
        insert: &'a Insert,
        finder: &mut Finder<'a>,
    ) -> Option<Columns> {
        let Insert { with: None, table, alias, columns, source: Some(source), .. } = insert else {
            return None;
        };
        let Query {
            with: None, body: Body::Values(rows), order, limit: None, offset: None, ..
        } = source
        else {
            return None;
        };
        let ([row], true, false) = (rows.as_slice(), order.is_empty(), insert.overriding) else {
            return None;
        };
        let table = self.written(table, alias.as_ref(), finder)?;
        if !table.columns.iter().all(|it| is_plain_default(&it.default)) {
            return None;
        }
        for (i, value) in row.iter().enumerate() {
            let column = match columns.get(i) {
                Some(name) => table.column(name)?,
                None if columns.is_empty() => i,
                None => return None,
            };
            finder.value(table.columns.get(column)?.type_oid, value)?;
        }
        if let Some(Conflict { set, filter, others, .. }) = &insert.conflict {
            if !others.is_empty() {
                return None;
            }
            finder.assigns(table, set.as_deref().unwrap_or_default())?;
            finder.all(filter)?;
        }
        finder.targets(&insert.returning)?;
        Some(columns_of(&insert.returning))
    }

    fn update_literals<'a>(
        &'a self,
        update: &'a Update,
        finder: &mut Finder<'a>,
    ) -> Option<Columns> {
        if update.with.is_some() || !update.from.is_empty() {
            return None;
        }
        let table = self.written(&update.table, update.alias.as_ref(), finder)?;
        finder.assigns(table, &update.set)?;
        finder.condition_if(update.filter.as_ref())?;
        finder.targets(&update.returning)?;
        Some(columns_of(&update.returning))
    }

    fn delete_literals<'a>(
        &'a self,
        delete: &'a Delete,
        finder: &mut Finder<'a>,
    ) -> Option<Columns> {
        if delete.with.is_some() || !delete.using.is_empty() {
            return None;
        }
        self.written(&delete.table, delete.alias.as_ref(), finder)?;
        finder.condition_if(delete.filter.as_ref())?;
        finder.targets(&delete.returning)?;
        Some(columns_of(&delete.returning))
    }
}

impl Finder<'_> {
    fn condition_if(&mut self, filter: Option<&Expr>) -> Option<()> {
        filter.map_or(Some(()), |it| self.condition(it))
    }

    /// A condition: literals against columns become parameters.
    fn condition(&mut self, expr: &Expr) -> Option<()> {
        match &expr.kind {
            Kind::And(all) | Kind::Or(all) => all.iter().try_for_each(|it| self.condition(it)),
            Kind::Not(inner) => self.condition(inner),
            Kind::Op(op) => self.comparison(op),
            _ => self.expr(expr),
        }
    }

    fn comparison(&mut self, op: &Op) -> Option<()> {
        let (Some(left), Some(right)) = (&op.left, &op.right) else { return self.op(op) };
        let (ty, other) = match (self.type_of(left), self.type_of(right)) {
            (Some(ty), None) => (ty, right),
            (None, Some(ty)) if op.form == OpForm::Plain => (ty, left),
            _ => return self.op(op),
        };
        let name = op.name.as_str();
        let is_known = match op.form {
            OpForm::Plain => ["=", "<>", "<", "<=", ">", ">="].contains(&name),
            OpForm::In => true,
            OpForm::Between => ["BETWEEN", "NOT BETWEEN"].contains(&name),
            _ => false,
        };
        // json has no `=`.
        if !is_known || op.schema.is_some() || ty == 114 {
            return self.op(op);
        }
        match &other.kind {
            Kind::List(all) if op.form != OpForm::Plain => {
                all.iter().try_for_each(|it| self.operand(ty, it))
            }
            _ if op.form == OpForm::Plain => self.operand(ty, other),
            _ => self.op(op),
        }
    }

    /// What a column is compared with.
    fn operand(&mut self, ty: u32, expr: &Expr) -> Option<()> {
        match &expr.kind {
            // `= NULL` is what a setting makes of it.
            Kind::Literal(Literal::Null) => None,
            _ => self.value(ty, expr),
        }
    }

    /// What a column is set to or compared with.
    fn value(&mut self, ty: u32, expr: &Expr) -> Option<()> {
        let fits = match &expr.kind {
            Kind::Literal(Literal::Int(_) | Literal::Number(_)) => NUMBERS.contains(&ty),
            Kind::Literal(Literal::Text(_)) => READ_ALIKE.contains(&ty),
            _ => return self.expr(expr),
        };
        if fits {
            self.found.push(expr.at);
            return Some(());
        }
        self.expr(expr)
    }

    fn assigns(&mut self, table: &Table, set: &[Assign]) -> Option<()> {
        for assign in set {
            let ty = table.columns.get(table.column(&assign.column)?)?.type_oid;
            match &assign.expr.kind {
                Kind::Op(op) => self.sum(op)?,
                _ => self.value(ty, &assign.expr)?,
            }
        }
        Some(())
    }

    /// `column + 1` and the like.
    fn sum(&mut self, op: &Op) -> Option<()> {
        let is_sum = op.form == OpForm::Plain && ["+", "-", "*"].contains(&op.name.as_str());
        let (Some(left), Some(right)) = (&op.left, &op.right) else { return self.op(op) };
        match self.type_of(left) {
            Some(ty) if is_sum && op.schema.is_none() && NUMBERS.contains(&ty) => {
                self.operand(ty, right)
            }
            _ => self.op(op),
        }
    }

    fn op(&mut self, op: &Op) -> Option<()> {
        let is_null = |it: &Expr| matches!(it.kind, Kind::Literal(Literal::Null));
        let mut operands = op.left.iter().chain(&op.right);
        if operands.any(is_null) {
            return None;
        }
        self.all(op.left.iter().chain(&op.right))
    }

    fn targets(&mut self, targets: &[Target]) -> Option<()> {
        self.all(targets.iter().map(|it| &it.expr))
    }

    fn all<'b>(&mut self, exprs: impl IntoIterator<Item = &'b Expr>) -> Option<()> {
        exprs.into_iter().try_for_each(|it| self.expr(it))
    }

    /// Looks for what must not be there.
    fn expr(&mut self, expr: &Expr) -> Option<()> {
        let is_plain = match &expr.kind {
            Kind::Column(_) | Kind::Star(_) | Kind::Default | Kind::Value(_) => true,
            Kind::Literal(it) => !matches!(it, Literal::Text(_) | Literal::Bits(_)),
            Kind::Op(op) => return self.op(op),
            Kind::And(_) | Kind::Or(_) | Kind::Not(_) | Kind::Row(_) | Kind::List(_) => true,
            Kind::Array(_) | Kind::Collate(..) => true,
            Kind::Cast(_, ty) => ty.schema.is_none() || ty.schema.as_deref() == Some("pg_catalog"),
            Kind::Call(call) => {
                let is_own = call.schema.as_deref().is_none_or(|it| it == "pg_catalog");
                is_own && PLAIN_FUNCTIONS.contains(&call.name.as_str())
            }
            Kind::Other { what, .. } => {
                ["coalesce", "greatest", "least", "case", "null test", "boolean test"]
                    .contains(what)
            }
            Kind::Param(_) | Kind::Sub(_) | Kind::CurrentOf(_) | Kind::Opaque(_) => false,
        };
        if is_plain { self.all(expr.children()) } else { None }
    }

    /// The type of a column that is known.
    fn type_of(&self, expr: &Expr) -> Option<u32> {
        let Kind::Column(names) = &expr.kind else { return None };
        let column = |table: &Table, name: &str| Some(table.columns[table.column(name)?].type_oid);
        match names.as_slice() {
            [name] => {
                let mut all = self.tables.iter().filter_map(|(_, table)| column(table, name));
                all.next().filter(|_| all.next().is_none())
            }
            [table, name] => {
                let mut all = self.tables.iter().filter(|(alias, _)| alias == table);
                let found = all.next().filter(|_| all.next().is_none())?;
                column(found.1, name)
            }
            _ => None,
        }
    }
}

fn columns_of(returning: &[Target]) -> Columns {
    if returning.is_empty() { Columns::None } else { Columns::Last }
}

/// Whether a default gives the same whatever the statement's text and messages are.
fn is_plain_default(default: &ColumnDefault) -> bool {
    match default {
        ColumnDefault::Constant | ColumnDefault::Sequence(_) | ColumnDefault::Generated => true,
        ColumnDefault::Computed(text) => {
            ["now()", "CURRENT_TIMESTAMP", "gen_random_uuid()", "CURRENT_DATE"]
                .contains(&text.as_str())
        }
    }
}
