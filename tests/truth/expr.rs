//! Random values: columns, literals, parameters, functions, subqueries. None fails while it runs, as SQL
//! does not say which rows a value is computed for.

use super::from::Col;
use super::query::{Generator, Wanted};
use super::schema::nullable;
use super::values::{self, Ty, quoted};

impl Generator<'_> {
    /// Columns of a type that can be named, mostly of the innermost level.
    fn columns(&mut self, ty: Ty) -> Vec<Col> {
        let levels = self.scopes.len();
        let outer = levels > 1 && self.choices.chance(20);
        let at = if outer { levels - 2 } else { levels.wrapping_sub(1) };
        let rels = self.scopes.get(at).map_or(&[][..], |it| it);
        rels.iter().flat_map(|it| &it.cols).filter(|it| it.ty == ty).cloned().collect()
    }

    /// A column of a type, if there is one.
    pub fn column(&mut self, ty: Ty) -> Option<Col> {
        let all = self.columns(ty);
        if all.is_empty() { None } else { Some(self.choices.pick(&all).clone()) }
    }

    /// Any column of the innermost level.
    pub fn any_column(&mut self) -> Option<Col> {
        let rels = self.scopes.last()?;
        let all: Vec<Col> = rels.iter().flat_map(|it| &it.cols).cloned().collect();
        if all.is_empty() { None } else { Some(self.choices.pick(&all).clone()) }
    }

    /// A value of a type.
    pub fn expr(&mut self, ty: Ty, depth: usize) -> String {
        let computed = if depth == 0 { 0 } else { 30 };
        match self.choices.weighted(&[65, 12, computed, computed / 4]) {
            1 => self.operand(ty),
            2 => self.computed(ty, depth - 1),
            3 => self.chosen(ty, depth - 1),
            _ => match self.column(ty) {
                Some(col) => col.text,
                None => nullable(self.choices, ty),
            },
        }
    }

    /// A literal or a parameter.
    pub fn operand(&mut self, ty: Ty) -> String {
        let oid = match ty {
            Ty::Int => 23,
            Ty::Big => 20,
            Ty::Text => 25,
            Ty::Bool => 16,
            Ty::Uuid => 2950,
            // Left to the server, as the type has another OID on each.
            Ty::Enum => 0,
            _ => return values::literal(self.choices, ty),
        };
        if !self.choices.chance(35) {
            return values::literal(self.choices, ty);
        }
        let value = values::value(self.choices, ty);
        self.param(oid, value, values::cast(value, ty))
    }

    /// COALESCE, CASE, a scalar subquery.
    fn chosen(&mut self, ty: Ty, depth: usize) -> String {
        match self.choices.below(5) {
            0 => {
                let all = format!("coalesce({}, {})", self.expr(ty, depth), self.operand(ty));
                collated(ty, all)
            }
            1 => {
                let test = self.predicate(depth);
                let (yes, no) = (self.expr(ty, depth), self.expr(ty, depth));
                collated(ty, format!("(CASE WHEN {test} THEN {yes} ELSE {no} END)"))
            }
            2 => {
                let test = self.predicate(depth);
                format!("(CASE WHEN {test} THEN {} END)", self.expr(ty, depth))
            }
            3 if !matches!(ty, Ty::Json | Ty::Text) => {
                let (a, b) = (self.expr(ty, depth), self.operand(ty));
                format!("nullif({a}, {b})")
            }
            _ => self.scalar(ty),
        }
    }

    /// A subquery of one row.
    pub fn scalar(&mut self, ty: Ty) -> String {
        if self.depth > 2 {
            return self.operand(ty);
        }
        self.depth += 1;
        self.scopes.push(Vec::new());
        let from = self.from();
        let filter = self.correlated();
        let (what, end) = match self.choices.below(3) {
            0 | 1 => (self.aggregate(ty), String::new()),
            _ => {
                let expr = self.expr(ty, 1);
                (self.canonical(ty, expr), format!(" ORDER BY 1{} LIMIT 1", self.direction()))
            }
        };
        self.scopes.pop();
        self.depth -= 1;
        format!("(SELECT {what} FROM {from}{filter}{end})")
    }

    /// Equal values as equal texts.
    pub fn canonical(&mut self, ty: Ty, expr: String) -> String {
        match ty {
            Ty::Numeric => format!("round({expr}, 2)"),
            Ty::Interval => format!("justify_interval({expr})"),
            _ => expr,
        }
    }

    /// A value made of others.
    fn computed(&mut self, ty: Ty, depth: usize) -> String {
        let way = self.choices.below(5);
        let own = self.expr(ty, depth);
        match (ty, way) {
            (Ty::Int, 0) => format!("({own} + {})", self.expr(Ty::Int, depth)),
            (Ty::Int, 1) => format!("({own} % 3)"),
            (Ty::Int, 2) => format!("length({})", self.expr(Ty::Text, depth)),
            (Ty::Int, 3) => format!("cardinality({})", self.expr(Ty::Ints, depth)),
            (Ty::Int, _) => format!("({} ->> 'k')::int", self.expr(Ty::Json, 0)),
            (Ty::Big, 0) => format!("({own} + {})", self.expr(Ty::Int, depth)),
            (Ty::Big, 1) => format!("abs({own})"),
            (Ty::Big, 2) => format!("({own} / 2)"),
            (Ty::Big, _) => format!("({})::bigint", self.expr(Ty::Int, depth)),
            (Ty::Numeric, 0) => format!("({own} * {})", self.expr(Ty::Int, depth)),
            (Ty::Numeric, 1) => format!("round({own}, 1)"),
            (Ty::Numeric, 2) => format!("({own} / 4)"),
            (Ty::Numeric, 3) => format!("(-{own})"),
            (Ty::Numeric, _) => format!("({})::numeric", self.expr(Ty::Big, depth)),
            (Ty::Text, 0) => format!("upper({own})"),
            (Ty::Text, 1) => format!("({own} || {})", values::literal(self.choices, Ty::Text)),
            (Ty::Text, 2) => format!("substr({own}, 1, 2)"),
            (Ty::Text, 3) => format!("({})::text", self.expr(Ty::Big, depth)),
            (Ty::Text, _) => format!("({})::text", self.expr(Ty::Date, depth)),
            (Ty::Bool, _) => format!("({})", self.predicate(depth)),
            (Ty::Date, 0) => format!("({own} + {})", self.expr(Ty::Int, depth)),
            (Ty::Date, _) => format!("({})::date", self.expr(Ty::Timestamp, depth)),
            (Ty::Timestamp, 0) => format!("({own} + {})", self.expr(Ty::Interval, depth)),
            (Ty::Timestamp, 1) => format!("date_trunc('month', {own})"),
            (Ty::Timestamp, _) => format!("({})::timestamp", self.expr(Ty::Date, depth)),
            (Ty::Zoned, 0) => format!("({own} - {})", self.expr(Ty::Interval, depth)),
            (Ty::Zoned, _) => format!("date_trunc('day', {own})"),
            (Ty::Interval, 0) => format!("({own} + {})", self.expr(Ty::Interval, depth)),
            (Ty::Interval, _) => format!("({own} * 2)"),
            (Ty::Float, _) => format!("({})::float8", self.expr(Ty::Int, depth)),
            (Ty::Json, 0) => format!("({own} -> 's')"),
            (Ty::Json, _) => {
                format!("jsonb_build_object('a', {}, 'b', {own})", self.expr(Ty::Int, depth))
            }
            (Ty::Uuid, _) => format!("md5({})::uuid", self.expr(Ty::Text, depth)),
            (Ty::Bytes, _) => format!("substr({own}, 1, 1)"),
            (Ty::Ints, 0) => format!("({own} || {})", self.expr(Ty::Int, depth)),
            (Ty::Ints, _) => {
                format!("ARRAY[{}, {}]", self.expr(Ty::Int, depth), self.expr(Ty::Int, depth))
            }
            (Ty::Char | Ty::Enum, _) => own,
        }
    }

    /// WHERE of a subquery, mostly tied to a row of the query around it.
    pub fn correlated(&mut self) -> String {
        let mut all = Vec::new();
        let levels = self.scopes.len();
        let apart = if self.by_tenant { 5 } else { 30 };
        if levels > 1 && !self.choices.chance(apart) {
            let inner: Vec<Col> =
                self.scopes[levels - 1].iter().flat_map(|it| it.cols.clone()).collect();
            let outer: Vec<Col> =
                self.scopes[levels - 2].iter().flat_map(|it| it.cols.clone()).collect();
            let by_tenant = !self.choices.chance(apart);
            let mut pairs = Vec::new();
            for a in inner.iter().filter(|it| it.ty != Ty::Text || it.is_tenant) {
                let is_partner = |b: &&Col| a.ty == b.ty && a.is_tenant == b.is_tenant;
                for b in outer.iter().filter(is_partner).filter(|it| it.is_tenant == by_tenant) {
                    pairs.push(format!("{} = {}", a.text, b.text));
                }
            }
            if !pairs.is_empty() {
                all.push(self.choices.pick(&pairs).clone());
            }
        }
        if self.choices.chance(35) {
            all.push(self.predicate(1));
        }
        if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
    }

    /// A subquery in an expression.
    pub fn subquery(&mut self, types: &[Ty]) -> String {
        if self.depth < 3 && self.choices.chance(25) {
            let wanted = Wanted { types: Some(types), is_canonical: true, is_top: false };
            return self.query(wanted).text;
        }
        self.depth += 1;
        self.scopes.push(Vec::new());
        let from = self.from();
        let filter = self.correlated();
        let outs: Vec<String> = types.iter().map(|it| self.expr(*it, 0)).collect();
        self.scopes.pop();
        self.depth -= 1;
        format!("SELECT {} FROM {from}{filter}", outs.join(", "))
    }

    /// A key to compare a tenant with.
    pub fn key(&mut self, ty: Ty) -> String {
        let all = values::tenants(ty);
        if !self.choices.chance(40) {
            return values::tenant(self.choices, ty);
        }
        let value = *self.choices.pick(all);
        match ty {
            Ty::Text => self.param(25, value, quoted(value)),
            Ty::Uuid => self.param(2950, value, quoted(value)),
            Ty::Int => self.param(23, value, value.to_owned()),
            _ => self.param(20, value, value.to_owned()),
        }
    }
}

/// Texts of two collations compare by none: one is named.
fn collated(ty: Ty, expr: String) -> String {
    if ty == Ty::Text { format!("{expr} COLLATE \"C\"") } else { expr }
}
