//! FROM: tables, views, subqueries, functions and joins.

use super::query::{Generator, Out, Wanted};
use super::schema::{Table, TableKind};
use super::values::{Ty, literal};

/// A column that can be named.
#[derive(Clone, Debug)]
pub struct Col {
    pub name: String,
    /// With its table.
    pub text: String,
    pub ty: Ty,
    pub is_tenant: bool,
}

/// A range variable.
#[derive(Clone, Debug)]
pub struct Rel {
    pub alias: String,
    pub cols: Vec<Col>,
    /// Columns that tell its rows apart, if known.
    pub key: Vec<String>,
}

impl Rel {
    /// A query's rows under names of their own.
    pub fn derived(alias: &str, outs: &[Out]) -> Self {
        let mut rel = Self { alias: alias.to_owned(), cols: Vec::new(), key: Vec::new() };
        for (i, out) in outs.iter().enumerate() {
            let name = if out.is_tenant { format!("tenant_{i}") } else { format!("c{i}") };
            rel.add(name, out.ty, out.is_tenant);
        }
        rel
    }

    /// A table's rows.
    pub fn of(table: &Table, alias: String) -> Self {
        let key = table.key.iter().map(|it| format!("{alias}.{it}")).collect();
        let mut rel = Self { alias, cols: Vec::new(), key };
        for column in &table.columns {
            rel.add(column.name.clone(), column.ty, column.is_tenant);
        }
        rel
    }

    fn add(&mut self, name: String, ty: Ty, is_tenant: bool) {
        let text = format!("{}.{name}", self.alias);
        self.cols.push(Col { name, text, ty, is_tenant });
    }

    /// The same under another name.
    fn renamed(&self, alias: String) -> Self {
        let mut rel = Self { alias, cols: Vec::new(), key: Vec::new() };
        for col in &self.cols {
            rel.add(col.name.clone(), col.ty, col.is_tenant);
        }
        rel
    }

    fn names(&self) -> String {
        self.cols.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub fn tenant(&self) -> Option<&Col> {
        self.cols.iter().find(|it| it.is_tenant)
    }
}

/// Whether `=` compares them.
fn is_comparable(a: Ty, b: Ty) -> bool {
    let is_number = |it| matches!(it, Ty::Int | Ty::Big);
    a == b || is_number(a) && is_number(b)
}

impl Generator<'_> {
    /// FROM of the current query; its names are added to the innermost scope.
    pub fn from(&mut self) -> String {
        let mut text = self.item_of_from(false);
        let most = if self.depth > 1 { 2 } else { 3 };
        for _ in 0..self.choices.weighted(&[50, 35, 15][..most]) {
            text = self.join(&text);
        }
        text
    }

    fn join(&mut self, left: &str) -> String {
        const KINDS: [&str; 9] = [
            "JOIN",
            "LEFT JOIN",
            "RIGHT JOIN",
            "FULL JOIN",
            "CROSS JOIN",
            ", ",
            "USING",
            "NATURAL",
            "LATERAL",
        ];
        let weights: [usize; 9] = match self.by_tenant {
            true => [45, 30, 10, 2, 1, 1, 15, 1, 8],
            false => [35, 20, 6, 6, 5, 6, 8, 4, 10],
        };
        let kind = KINDS[self.choices.weighted(&weights)];
        let before = self.scopes.last().map_or(0, Vec::len);
        let item = self.item_of_from(kind == "LATERAL");
        match kind {
            "CROSS JOIN" => format!("{left} CROSS JOIN {item}"),
            ", " => format!("{left}, {item}"),
            "NATURAL" => {
                let side = *self.choices.pick(&["", "LEFT ", "RIGHT ", "FULL "]);
                format!("{left} NATURAL {side}JOIN {item}")
            }
            "USING" => self.using(left, &item, before),
            "LATERAL" => {
                let side = *self.choices.pick(&["JOIN", "LEFT JOIN"]);
                let on =
                    if self.choices.chance(30) { self.on(before, false) } else { "true".into() };
                format!("{left} {side} {item} ON {on}")
            }
            _ => {
                let on = self.on(before, kind == "FULL JOIN");
                format!("{left} {kind} {item} ON {on}")
            }
        }
    }

    fn using(&mut self, left: &str, item: &str, before: usize) -> String {
        let scope = self.scopes.last().cloned().unwrap_or_default();
        let (l, r) = scope.split_at(before);
        let right: Vec<Col> = r.iter().flat_map(|it| it.cols.clone()).collect();
        let is_once =
            |name: &str| l.iter().flat_map(|it| &it.cols).filter(|it| it.name == name).count() == 1;
        let mut common: Vec<&str> =
            right.iter().map(|it| it.name.as_str()).filter(|it| is_once(it)).collect();
        common.retain(|it| ["tenant_id", "id", "qty", "parent", "flag", "day"].contains(it));
        if common.is_empty() {
            return format!("{left} CROSS JOIN {item}");
        }
        let count = 1 + self.choices.below(common.len());
        let names = common[..count].join(", ");
        let side = *self.choices.pick(&["", "LEFT ", "RIGHT ", "FULL "]);
        format!("{left} {side}JOIN {item} USING ({names})")
    }

    /// A condition that ties the last item to those before it.
    fn on(&mut self, before: usize, is_plain: bool) -> String {
        let scope = self.scopes.last().cloned().unwrap_or_default();
        let (l, r) = scope.split_at(before);
        let mut all = Vec::new();
        let right: Vec<&Col> = r.iter().flat_map(|it| &it.cols).collect();
        let left: Vec<&Col> = l.iter().flat_map(|it| &it.cols).collect();
        let mut tenants = Vec::new();
        for a in left.iter().filter(|it| it.is_tenant) {
            for b in right.iter().filter(|it| it.is_tenant && is_comparable(it.ty, a.ty)) {
                tenants.push(format!("{} = {}", a.text, b.text));
            }
        }
        let apart = if self.by_tenant { 4 } else { 25 };
        if !tenants.is_empty() && !self.choices.chance(apart) {
            all.push(self.choices.pick(&tenants).clone());
        }
        if all.is_empty() || self.choices.chance(50) {
            let mut pairs = Vec::new();
            for a in left.iter().filter(|it| !matches!(it.ty, Ty::Text | Ty::Bool)) {
                for b in right.iter().filter(|it| is_comparable(it.ty, a.ty)) {
                    pairs.push(format!("{} = {}", a.text, b.text));
                }
            }
            if !pairs.is_empty() {
                all.push(self.choices.pick(&pairs).clone());
            }
        }
        if !is_plain && self.choices.chance(25) {
            all.push(self.predicate(1));
        }
        if all.is_empty() { "true".to_owned() } else { all.join(" AND ") }
    }

    /// An item of FROM; its name is added to the innermost scope.
    fn item_of_from(&mut self, lateral: bool) -> String {
        let is_deep = self.depth > 2;
        let ctes = if self.ctes.is_empty() { 0 } else { 60 };
        let derived = if is_deep { 0 } else { 12 };
        let kind = if lateral { 2 } else { self.choices.weighted(&[80, ctes, derived, 3, 4]) };
        let alias = self.next_alias();
        let (text, rel) = match kind {
            1 => {
                let cte = self.choices.pick(&self.ctes).clone();
                (format!("{} AS {alias}", cte.alias), cte.renamed(alias))
            }
            2 if !is_deep => self.derived(alias, lateral),
            3 => self.rows(alias),
            4 => self.function(alias, lateral),
            _ => self.table(alias),
        };
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(rel);
        }
        text
    }

    fn table(&mut self, alias: String) -> (String, Rel) {
        let tables = &self.schema.tables;
        let weight = |it: &Table| match it.kind {
            TableKind::Sharded => 12,
            TableKind::Reference if self.by_tenant => 2,
            TableKind::View if self.by_tenant => 3,
            TableKind::Home if self.by_tenant => 0,
            TableKind::Reference | TableKind::View => 5,
            TableKind::Home => 2,
        };
        let weights: Vec<usize> = tables.iter().map(weight).collect();
        let table = &tables[self.choices.weighted(&weights)];
        let scope = self.scopes.last().map_or(&[][..], |it| it);
        let is_free = !scope.iter().any(|it| it.alias == table.name);
        if is_free && self.depth == 1 && self.choices.chance(40) {
            return (table.name.clone(), Rel::of(table, table.name.clone()));
        }
        let only = if self.choices.chance(3) { "ONLY " } else { "" };
        let schema = if self.choices.chance(8) { "public." } else { "" };
        let text = format!("{only}{schema}{} AS {alias}", table.name);
        (text, Rel::of(table, alias))
    }

    fn derived(&mut self, alias: String, lateral: bool) -> (String, Rel) {
        let scopes = if lateral { None } else { Some(std::mem::take(&mut self.scopes)) };
        let query = self.query(Wanted { is_canonical: true, ..Wanted::default() });
        if let Some(scopes) = scopes {
            self.scopes = scopes;
        }
        let rel = Rel::derived(&alias, &query.outs);
        let word = if lateral { "LATERAL " } else { "" };
        (format!("{word}({}) AS {alias} ({})", query.text, rel.names()), rel)
    }

    fn rows(&mut self, alias: String) -> (String, Rel) {
        let types = [Ty::Int, Ty::Text];
        let outs: Vec<Out> =
            types.iter().map(|ty| Out { name: String::new(), ty: *ty, is_tenant: false }).collect();
        let rel = Rel::derived(&alias, &outs);
        let mut rows = Vec::new();
        for _ in 0..1 + self.choices.below(3) {
            let row: Vec<String> = types.iter().map(|ty| literal(self.choices, *ty)).collect();
            rows.push(format!("({})", row.join(", ")));
        }
        (format!("(VALUES {}) AS {alias} ({})", rows.join(", "), rel.names()), rel)
    }

    fn function(&mut self, alias: String, _lateral: bool) -> (String, Rel) {
        let mut rel = Rel { alias: alias.clone(), cols: Vec::new(), key: Vec::new() };
        rel.add("n".to_owned(), Ty::Int, false);
        let last = 1 + self.choices.below(5);
        let nums = self.scopes.last().and_then(|scope| {
            scope.iter().flat_map(|it| &it.cols).find(|it| it.ty == Ty::Ints).cloned()
        });
        let call = match nums {
            Some(nums) if self.choices.chance(60) => format!("unnest({})", nums.text),
            _ => format!("generate_series(1, {last})"),
        };
        (format!("{call} AS {alias} (n)"), rel)
    }
}
