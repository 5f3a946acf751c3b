//! Random conditions.

use super::from::Col;
use super::query::Generator;
use super::schema::some_type;
use super::values::{self, Ty, quoted};

impl Generator<'_> {
    /// WHERE of a query.
    pub fn filter(&mut self) -> String {
        let mut all = Vec::new();
        if self.choices.chance(35)
            && let Some(tenant) = self.tenant()
        {
            all.push(self.tenant_test(&tenant));
        }
        if self.choices.chance(12)
            && let Some(text) = self.partner_test()
        {
            all.push(text);
        }
        for _ in 0..self.choices.weighted(&[45, 40, 15]) {
            all.push(self.predicate(2));
        }
        if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
    }

    /// Whether a joined row has, or lacks, a partner or a value.
    fn partner_test(&mut self) -> Option<String> {
        let rel = self.scopes.last().filter(|it| it.len() > 1)?.last()?.clone();
        let col = self.choices.pick(&rel.cols);
        let literal = values::literal(self.choices, col.ty);
        let text = &col.text;
        Some(match self.choices.below(4) {
            0 | 1 => format!("{text} IS NULL"),
            2 => format!("{text} IS DISTINCT FROM {literal}"),
            _ => format!("coalesce({text} = {literal}, true)"),
        })
    }

    /// A column that is the tenant.
    pub fn tenant(&mut self) -> Option<Col> {
        let rels = self.scopes.last()?;
        let all: Vec<Col> = rels.iter().filter_map(|it| it.tenant()).cloned().collect();
        if all.is_empty() { None } else { Some(self.choices.pick(&all).clone()) }
    }

    /// A condition on the tenant.
    fn tenant_test(&mut self, tenant: &Col) -> String {
        let (col, ty) = (&tenant.text, tenant.ty);
        match self.choices.below(9) {
            0 | 1 => format!("{col} = {}", self.key(ty)),
            2 => format!("{} = {col}", self.key(ty)),
            3 | 4 => {
                let keys: Vec<String> =
                    (0..2 + self.choices.below(3)).map(|_| self.key(ty)).collect();
                format!("{col} IN ({})", keys.join(", "))
            }
            5 | 6 => self.any_key(tenant),
            7 => {
                let (a, b) = (self.key(ty), self.key(ty));
                format!("({col} = {a} OR {col} = {b})")
            }
            _ => format!("{col} <> {}", self.key(ty)),
        }
    }

    /// `= ANY (array)`.
    fn any_key(&mut self, tenant: &Col) -> String {
        let (oid, name) = match tenant.ty {
            Ty::Text => (1009, "text[]"),
            Ty::Uuid => (2951, "uuid[]"),
            Ty::Int => (1007, "int[]"),
            _ => (1016, "bigint[]"),
        };
        let count = 1 + self.choices.below(3);
        let keys = values::tenants(tenant.ty);
        let keys: Vec<&str> = (0..count).map(|_| *self.choices.pick(keys)).collect();
        let items: Vec<String> = keys.iter().map(|it| format!("{it:?}")).collect();
        let text = format!("{{{}}}", items.join(","));
        let literal = format!("{}::{name}", quoted(&text));
        format!("{} = ANY ({})", tenant.text, self.param(oid, &text, literal))
    }

    /// A condition.
    pub fn predicate(&mut self, depth: usize) -> String {
        let deep = if depth == 0 { 0 } else { 10 };
        let sub = if depth == 0 || self.depth > 2 { 0 } else { 8 };
        let weights = [30, 10, 8, 8, 5, 6, deep, deep / 2, 6, 3, sub, sub, sub / 2, sub / 2, 3, 3];
        match self.choices.weighted(&weights) {
            1 => {
                let Some(col) = self.any_column() else { return "true".to_owned() };
                let not = *self.choices.pick(&["", " NOT"]);
                format!("{} IS{not} NULL", col.text)
            }
            2 => self.list(),
            3 => self.columns_compared(),
            4 => {
                let ty = *self.choices.pick(&[Ty::Int, Ty::Big, Ty::Date, Ty::Numeric]);
                let (a, b) = (self.operand(ty), self.operand(ty));
                let word = *self.choices.pick(&["BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC"]);
                format!("{} {word} {a} AND {b}", self.expr(ty, depth.min(1)))
            }
            5 => match self.column(Ty::Bool) {
                Some(col) => {
                    let end = *self.choices.pick(&["", " IS TRUE", " IS NOT FALSE", " IS UNKNOWN"]);
                    format!("{}{end}", col.text)
                }
                None => self.compared(0),
            },
            6 => {
                let word = *self.choices.pick(&["AND", "OR"]);
                format!("({} {word} {})", self.predicate(depth - 1), self.predicate(depth - 1))
            }
            7 => format!("NOT ({})", self.predicate(depth - 1)),
            8 => {
                let ty = some_type(self.choices);
                let (a, b) = (self.expr(ty, 0), self.operand(ty));
                let not = *self.choices.pick(&["", " NOT"]);
                format!("{a} IS{not} DISTINCT FROM {b}")
            }
            9 => {
                let pattern = *self.choices.pick(&["'a%'", "'%b'", "'_'", "'%'"]);
                let word = *self.choices.pick(&["LIKE", "ILIKE", "NOT LIKE", "SIMILAR TO"]);
                format!("{} {word} {pattern}", self.expr(Ty::Text, 0))
            }
            10 => {
                let not = *self.choices.pick(&["", "NOT "]);
                format!("{not}EXISTS ({})", self.subquery(&[Ty::Int]))
            }
            11 => self.membership(),
            12 => {
                let ty = *self.choices.pick(&[Ty::Int, Ty::Date, Ty::Numeric]);
                let op = *self.choices.pick(&["=", "<", ">=", "<>"]);
                let word = *self.choices.pick(&["ANY", "ALL"]);
                format!("{} {op} {word} ({})", self.expr(ty, 0), self.subquery(&[ty]))
            }
            13 => {
                let ty = *self.choices.pick(&[Ty::Int, Ty::Big, Ty::Numeric, Ty::Date]);
                let op = *self.choices.pick(&["=", "<", ">"]);
                format!("{} {op} {}", self.expr(ty, 0), self.scalar(ty))
            }
            14 => {
                let op = *self.choices.pick(&["@>", "&&", "<@", "="]);
                let (a, b) = (self.expr(Ty::Ints, 0), self.operand(Ty::Ints));
                format!("{a} {op} {b}")
            }
            15 => {
                let op = *self.choices.pick(&["=", "<", "<>"]);
                let (a, b) = (self.expr(Ty::Int, 0), self.expr(Ty::Date, 0));
                let (c, d) = (self.operand(Ty::Int), self.operand(Ty::Date));
                format!("({a}, {b}) {op} ({c}, {d})")
            }
            _ => self.compared(depth),
        }
    }

    fn compared(&mut self, depth: usize) -> String {
        const OPS: [&str; 6] = ["=", ">", "<", "<>", ">=", "<="];
        let ty = match self.any_column() {
            Some(col) if !col.is_tenant => col.ty,
            _ => Ty::Int,
        };
        let op = *self.choices.pick(&OPS);
        format!("{} {op} {}", self.expr(ty, depth.min(1)), self.operand(ty))
    }

    fn columns_compared(&mut self) -> String {
        let ty = some_type(self.choices);
        let (a, b) = (self.expr(ty, 0), self.expr(ty, 0));
        let op = *self.choices.pick(&["=", "<", "<=", "<>"]);
        let end = if ty == Ty::Text { " COLLATE \"C\"" } else { "" };
        format!("{a} {op} {b}{end}")
    }

    fn list(&mut self) -> String {
        let ty = *self.choices.pick(&[Ty::Int, Ty::Text, Ty::Big, Ty::Enum, Ty::Char]);
        let count = 1 + self.choices.below(3);
        let mut items: Vec<String> = (0..count).map(|_| self.operand(ty)).collect();
        if self.choices.chance(10) {
            items.push("NULL".to_owned());
        }
        let word = *self.choices.pick(&["IN", "NOT IN"]);
        format!("{} {word} ({})", self.expr(ty, 0), items.join(", "))
    }

    /// IN (SELECT …), of the tenant too.
    fn membership(&mut self) -> String {
        let word = *self.choices.pick(&["IN", "NOT IN"]);
        let tenant = self.tenant().filter(|_| self.choices.chance(60));
        if let Some(tenant) = tenant {
            let has = |it: &&super::schema::Table| {
                it.columns.iter().any(|it| it.is_tenant && it.ty == tenant.ty)
            };
            let tables: Vec<_> = self.schema.tables.iter().filter(has).collect();
            if !tables.is_empty() {
                let table = *self.choices.pick(&tables);
                let column = table.columns.iter().find(|it| it.is_tenant && it.ty == tenant.ty);
                let column = column.map_or("", |it| &it.name);
                let filter = *self.choices.pick(&["", " WHERE true", " WHERE z.id > 1"]);
                let filter = if table.key.is_empty() { "" } else { filter };
                let name = &table.name;
                return format!("{} {word} (SELECT z.{column} FROM {name} z{filter})", tenant.text);
            }
        }
        if self.choices.chance(25) {
            let (a, b) = (self.expr(Ty::Int, 0), self.expr(Ty::Date, 0));
            return format!("({a}, {b}) {word} ({})", self.subquery(&[Ty::Int, Ty::Date]));
        }
        let ty = *self.choices.pick(&[Ty::Int, Ty::Big, Ty::Date, Ty::Uuid]);
        format!("{} {word} ({})", self.expr(ty, 1), self.subquery(&[ty]))
    }
}
