//! Random queries. Whatever they ask, SQL determines the answer.

use super::choices::Choices;
use super::from::Rel;
use super::schema::{Column, Schema, Table, TableKind, some_type};
use super::values::Ty;

/// A parameter and the literal that can stand in its place.
#[derive(Clone, Debug)]
pub struct Param {
    pub oid: u32,
    pub text: String,
    pub literal: String,
}

/// Stands before and after a parameter's number in texts.
pub const MARK: char = '\u{1}';

/// A column of a query's result.
#[derive(Clone, Debug)]
pub struct Out {
    pub name: String,
    pub ty: Ty,
    pub is_tenant: bool,
}

/// A query.
#[derive(Clone, Debug)]
pub struct Query {
    pub text: String,
    pub outs: Vec<Out>,
    pub is_ordered: bool,
}

/// What makes queries.
pub struct Generator<'a> {
    pub choices: &'a mut Choices,
    pub schema: &'a Schema,
    pub params: Vec<Param>,
    /// What names mean, outermost level first.
    pub scopes: Vec<Vec<Rel>>,
    pub ctes: Vec<Rel>,
    pub aliases: usize,
    /// Levels of queries around the current point.
    pub depth: usize,
    pub has_params: bool,
    /// Whether joins, subqueries, groups and windows mostly hold the tenant, so that shards answer apart.
    pub by_tenant: bool,
}

/// What a query must give.
#[derive(Clone, Copy, Default)]
pub struct Wanted<'a> {
    pub types: Option<&'a [Ty]>,
    /// Its rows are of the answer: names need not be given.
    pub is_top: bool,
    /// Equal values must be equal texts, as somebody compares them.
    pub is_canonical: bool,
}

impl<'a> Generator<'a> {
    pub fn new(choices: &'a mut Choices, schema: &'a Schema) -> Self {
        Self {
            choices,
            schema,
            params: Vec::new(),
            scopes: Vec::new(),
            ctes: Vec::new(),
            aliases: 0,
            depth: 0,
            has_params: true,
            by_tenant: false,
        }
    }

    /// A view over the tables so far.
    pub fn view(choices: &mut Choices, schema: &Schema, name: String) -> Table {
        let mut generator = Generator::new(choices, schema);
        generator.has_params = false;
        let query = generator.query(Wanted { is_canonical: true, ..Wanted::default() });
        let column = |(i, it): (usize, &Out)| Column {
            name: if it.is_tenant { format!("tenant_{i}") } else { format!("c{i}") },
            ty: it.ty,
            sql: String::new(),
            is_tenant: it.is_tenant,
        };
        let columns = query.outs.iter().enumerate().map(column).collect();
        let query = query.text;
        Table { name, kind: TableKind::View, columns, key: Vec::new(), rows: Vec::new(), query }
    }

    pub fn next_alias(&mut self) -> String {
        self.aliases += 1;
        format!("x{}", self.aliases)
    }

    /// A query of any kind.
    pub fn query(&mut self, wanted: Wanted<'_>) -> Query {
        self.depth += 1;
        let ctes = self.ctes.len();
        let with = if self.depth < 3 && self.choices.chance(if self.by_tenant { 5 } else { 12 }) {
            self.with()
        } else {
            String::new()
        };
        let is_deep = self.depth > 2;
        let is_set = !is_deep && self.choices.chance(12);
        let limits = self.choices.chance(if wanted.is_top { 20 } else { 10 });
        let orders = limits || wanted.is_top && self.choices.chance(35);
        let is_canonical = wanted.is_canonical || orders;
        let wanted = Wanted { is_canonical, ..wanted };
        let mut query = match is_set {
            true => self.set_operation(wanted),
            false => self.select(wanted, orders),
        };
        if orders && is_set {
            query.text.push_str(&self.order_by(&query.outs, Vec::new()));
            query.is_ordered = true;
        }
        if limits {
            query.text.push_str(&self.limit());
        }
        query.text.insert_str(0, &with);
        self.ctes.truncate(ctes);
        self.depth -= 1;
        query
    }

    /// ORDER BY these and then all columns, so that only equal rows change places.
    pub fn order_by(&mut self, outs: &[Out], first: Vec<String>) -> String {
        let mut items = first;
        let skipped = self.choices.below(outs.len().max(1));
        for i in 0..outs.len() {
            let at = (i + skipped) % outs.len();
            items.push(format!("{}{}", at + 1, self.direction()));
        }
        format!(" ORDER BY {}", items.join(", "))
    }

    pub fn direction(&mut self) -> &'static str {
        const ALL: [&str; 5] = ["", " DESC", " NULLS FIRST", " DESC NULLS LAST", " ASC"];
        self.choices.pick::<&str>(&ALL)
    }

    fn limit(&mut self) -> String {
        let count = self.number(12);
        let offset = self.number(4);
        match self.choices.below(6) {
            0 => format!(" LIMIT {count}"),
            1 => format!(" LIMIT {count} OFFSET {offset}"),
            2 => format!(" OFFSET {offset}"),
            3 => format!(" FETCH FIRST {count} ROWS ONLY"),
            4 => format!(" OFFSET {offset} ROWS FETCH NEXT {count} ROWS ONLY"),
            _ => format!(" LIMIT ({count} + 1)::bigint"),
        }
    }

    /// A small number, perhaps as a parameter.
    fn number(&mut self, bound: usize) -> String {
        let number = self.choices.below(bound).to_string();
        if self.choices.chance(20) { self.param(20, &number, number.clone()) } else { number }
    }

    /// A parameter, where there may be some.
    pub fn param(&mut self, oid: u32, text: &str, literal: String) -> String {
        if !self.has_params {
            return literal;
        }
        self.params.push(Param { oid, text: text.to_owned(), literal });
        format!("{MARK}{}{MARK}", self.params.len())
    }

    fn set_operation(&mut self, wanted: Wanted<'_>) -> Query {
        const OPS: [&str; 6] =
            ["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"];
        let count = 1 + self.choices.below(3);
        let types = match wanted.types {
            Some(types) => types.to_vec(),
            None => (0..count).map(|_| some_type(self.choices)).collect(),
        };
        let wanted = Wanted { types: Some(&types), is_canonical: true, is_top: wanted.is_top };
        let left = self.select(wanted, false);
        let mut text = left.text;
        let mut outs = left.outs;
        for _ in 0..1 + self.choices.below(2) {
            let op = *self.choices.pick(&OPS);
            let right = self.select(wanted, false);
            text = match self.choices.below(8) {
                1 => format!("({text}) {op} ({})", right.text),
                2 => format!("{text} {op} ({} LIMIT 0)", right.text),
                3 => format!("({text}) {op} (VALUES {})", self.values(&types)),
                _ => format!("{text} {op} {}", right.text),
            };
            for (out, other) in outs.iter_mut().zip(right.outs) {
                out.is_tenant &= other.is_tenant;
            }
        }
        Query { text, outs, is_ordered: false }
    }

    /// A row of literals.
    fn values(&mut self, types: &[Ty]) -> String {
        let all: Vec<String> =
            types.iter().map(|it| super::schema::nullable(self.choices, *it)).collect();
        let all = types.iter().zip(all).map(|(ty, it)| match ty {
            Ty::Numeric => format!("round({it}, 2)"),
            _ => it,
        });
        format!("({})", all.collect::<Vec<_>>().join(", "))
    }

    /// Common table expressions; they stay known until the query ends.
    fn with(&mut self) -> String {
        let mut items = Vec::new();
        let is_recursive = self.choices.chance(20);
        for _ in 0..1 + self.choices.below(2) {
            let name = format!("w{}", self.ctes.len() + 1);
            let how = *self.choices.pick(&["", "", "MATERIALIZED ", "NOT MATERIALIZED "]);
            let scopes = std::mem::take(&mut self.scopes);
            let query = self.query(Wanted { is_canonical: true, ..Wanted::default() });
            self.scopes = scopes;
            let rel = Rel::derived(&name, &query.outs);
            let names: Vec<&str> = rel.cols.iter().map(|it| it.name.as_str()).collect();
            items.push(format!("{name} ({}) AS {how}({})", names.join(", "), query.text));
            self.ctes.push(rel);
        }
        if is_recursive && let Some((text, rel)) = self.recursive() {
            items.push(text);
            self.ctes.push(rel);
            return format!("WITH RECURSIVE {} ", items.join(", "));
        }
        format!("WITH {} ", items.join(", "))
    }

    /// Rows and what hangs below them.
    fn recursive(&mut self) -> Option<(String, Rel)> {
        let has_parent = |it: &&Table| it.columns.iter().any(|it| it.name == "parent");
        let tables: Vec<&Table> = self.schema.base().filter(has_parent).collect();
        if tables.is_empty() {
            return None;
        }
        let table = *self.choices.pick(&tables);
        let name = format!("w{}", self.ctes.len() + 1);
        let union = *self.choices.pick(&["UNION ALL", "UNION"]);
        let tenant = table.columns.iter().find(|it| it.is_tenant);
        let mut outs = Vec::new();
        let (mut cols, mut names, mut on) = (Vec::new(), Vec::new(), String::new());
        if let Some(tenant) = tenant {
            cols.push("a.tenant_id".to_owned());
            names.push("c0");
            outs.push(Out { name: "c0".to_owned(), ty: tenant.ty, is_tenant: true });
            if self.choices.chance(80) {
                on = " AND a.tenant_id = w.c0".to_owned();
            }
        }
        cols.push("a.id".to_owned());
        names.extend(["c1", "c2"]);
        outs.push(Out { name: "c1".to_owned(), ty: Ty::Int, is_tenant: false });
        outs.push(Out { name: "c2".to_owned(), ty: Ty::Int, is_tenant: false });
        let mut rel = Rel::derived(&name, &outs);
        for (col, name) in rel.cols.iter_mut().zip(&names) {
            (col.name, col.text) = ((*name).to_owned(), format!("{}.{name}", rel.alias));
        }
        let (cols, names, table) = (cols.join(", "), names.join(", "), &table.name);
        let text = format!(
            "{name} ({names}) AS (SELECT {cols}, 1 FROM {table} a WHERE a.parent IS NULL {union} \
             SELECT {cols}, w.c2 + 1 FROM {table} a JOIN {name} w ON a.parent = w.c1{on} WHERE w.c2 < 4)"
        );
        Some((text, rel))
    }
}
