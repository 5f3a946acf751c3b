//! SELECT: plain, grouped, with windows, DISTINCT.

use super::query::{Generator, Out, Query, Wanted};
use super::schema::some_type;
use super::values::Ty;

/// What SELECT gives.
struct Item {
    text: String,
    out: Out,
    has_alias: bool,
}

impl Generator<'_> {
    /// A SELECT, with ORDER BY if it must be ordered.
    pub fn select(&mut self, wanted: Wanted<'_>, orders: bool) -> Query {
        if self.depth < 3 && self.choices.chance(4) {
            return self.without_from(wanted, orders);
        }
        self.scopes.push(Vec::new());
        let from = self.from();
        let filter = self.filter();
        let query = match self.choices.weighted(&[50, 25, 12, 10]) {
            1 => self.grouped(wanted, orders, &format!("{from}{filter}")),
            2 => self.plain(wanted, orders, &format!("{from}{filter}"), true),
            3 => self.distinct(wanted, orders, &format!("{from}{filter}")),
            _ => self.plain(wanted, orders, &format!("{from}{filter}"), false),
        };
        self.scopes.pop();
        query
    }

    /// A SELECT of subqueries alone.
    fn without_from(&mut self, wanted: Wanted<'_>, orders: bool) -> Query {
        self.scopes.push(Vec::new());
        let mut items = Vec::new();
        for ty in self.types(wanted) {
            let ty = ty.unwrap_or_else(|| some_type(self.choices));
            let text = match (ty, self.choices.below(3)) {
                (Ty::Bool, 0) => format!("EXISTS ({})", self.subquery(&[Ty::Int])),
                _ => self.scalar(ty),
            };
            let text = if wanted.is_canonical { self.canonical(ty, text) } else { text };
            items.push(self.named(text, ty, false, wanted));
        }
        let filter = if self.choices.chance(20) {
            format!(" WHERE EXISTS ({})", self.subquery(&[Ty::Int]))
        } else {
            String::new()
        };
        self.scopes.pop();
        let mut query = self.finish("SELECT", items, "\u{2}", orders.then(Vec::new));
        query.text = query.text.replace(" FROM \u{2}", &filter);
        query
    }

    fn types(&mut self, wanted: Wanted<'_>) -> Vec<Option<Ty>> {
        match wanted.types {
            Some(types) => types.iter().copied().map(Some).collect(),
            None => (0..1 + self.choices.below(4)).map(|_| None).collect(),
        }
    }

    /// A value of the current rows, of a type if one is wanted.
    fn item(&mut self, ty: Option<Ty>, wanted: Wanted<'_>) -> Item {
        let column = match ty {
            Some(ty) => self.column(ty),
            None => self.any_column(),
        };
        let is_column = !self.choices.chance(35);
        if let Some(col) = column.filter(|_| is_column) {
            let is_set = ty.is_some() && wanted.is_canonical;
            let text =
                if is_set { self.canonical(col.ty, col.text.clone()) } else { col.text.clone() };
            let is_tenant = col.is_tenant && text == col.text;
            return self.named(text, col.ty, is_tenant, wanted);
        }
        let ty = ty.unwrap_or_else(|| some_type(self.choices));
        let mut text = self.expr(ty, 2);
        if wanted.is_canonical {
            text = self.canonical(ty, text);
        }
        self.named(text, ty, false, wanted)
    }

    fn named(&mut self, text: String, ty: Ty, is_tenant: bool, wanted: Wanted<'_>) -> Item {
        // A literal as the only thing of its column has no type of its own.
        let is_column = text.bytes().all(|it| it.is_ascii_alphanumeric() || b"._".contains(&it));
        let is_vague = text.contains(super::query::MARK) || wanted.types.is_some();
        let text = if is_vague && !is_column { format!("({text})::{}", ty.sql()) } else { text };
        let is_tenant = is_tenant && !text.contains("::");
        let name = format!("o{}", self.choices.below(9));
        let has_alias = wanted.is_top && self.choices.chance(35);
        Item { text, out: Out { name, ty, is_tenant }, has_alias }
    }

    fn plain(&mut self, wanted: Wanted<'_>, orders: bool, rest: &str, windows: bool) -> Query {
        if wanted.is_top && wanted.types.is_none() && !orders && self.choices.chance(12) {
            let star = match self.scopes.last().and_then(|it| it.first()) {
                Some(rel) if self.choices.chance(40) => format!("{}.*", rel.alias),
                _ => "*".to_owned(),
            };
            return Query {
                text: format!("SELECT {star} FROM {rest}"),
                outs: Vec::new(),
                is_ordered: false,
            };
        }
        let mut items = Vec::new();
        for (i, ty) in self.types(wanted).into_iter().enumerate() {
            let window = (windows && i == 0).then(|| self.window(ty)).flatten();
            items.push(match window {
                Some((mut text, ty)) => {
                    if wanted.is_canonical {
                        text = self.canonical(ty, text);
                    }
                    self.named(text, ty, false, wanted)
                }
                None => self.item(ty, wanted),
            });
        }
        let mut first = Vec::new();
        if orders {
            for _ in 0..self.choices.below(3) {
                let ty = self.any_column().map_or(Ty::Int, |it| it.ty);
                if let Some(col) = self.column(ty) {
                    let how = if ty == Ty::Text && self.choices.chance(30) {
                        " COLLATE \"C\""
                    } else {
                        ""
                    };
                    first.push(format!("{}{how}{}", col.text, self.direction()));
                }
            }
        }
        let keys = self.row_keys().filter(|_| orders && self.choices.chance(40));
        if let Some(keys) = keys {
            first.extend(keys);
            let mut query = self.finish("SELECT", items, rest, None);
            query.text.push_str(&format!(" ORDER BY {}", first.join(", ")));
            query.is_ordered = true;
            return query;
        }
        self.finish("SELECT", items, rest, orders.then_some(first))
    }

    /// Columns that tell the joined rows apart, if all items of FROM have some.
    pub fn row_keys(&self) -> Option<Vec<String>> {
        let rels = self.scopes.last()?;
        let known = !rels.is_empty() && rels.iter().all(|it| !it.key.is_empty());
        known.then(|| rels.iter().flat_map(|it| it.key.clone()).collect())
    }

    fn finish(
        &mut self,
        word: &str,
        items: Vec<Item>,
        rest: &str,
        order: Option<Vec<String>>,
    ) -> Query {
        let text = |it: &Item| {
            if it.has_alias { format!("{} AS {}", it.text, it.out.name) } else { it.text.clone() }
        };
        let list: Vec<String> = items.iter().map(text).collect();
        let outs: Vec<Out> = items.into_iter().map(|it| it.out).collect();
        let mut text = format!("{word} {} FROM {rest}", list.join(", "));
        let is_ordered = order.is_some();
        if let Some(first) = order {
            text.push_str(&self.order_by(&outs, first));
        }
        Query { text, outs, is_ordered }
    }

    fn distinct(&mut self, wanted: Wanted<'_>, orders: bool, rest: &str) -> Query {
        let wanted = Wanted { is_canonical: true, ..wanted };
        let types = self.types(wanted);
        let items: Vec<Item> = types.into_iter().map(|ty| self.item(ty, wanted)).collect();
        if orders && self.choices.chance(50) {
            let columns: Vec<_> = (0..1 + self.choices.below(2))
                .filter_map(|_| self.any_column())
                .map(|it| it.text)
                .collect();
            let on = columns.join(", ");
            if !on.is_empty() {
                let first = columns.iter().map(|it| format!("{it}{}", self.direction())).collect();
                return self.finish(
                    &format!("SELECT DISTINCT ON ({on})"),
                    items,
                    rest,
                    Some(first),
                );
            }
        }
        self.finish("SELECT DISTINCT", items, rest, orders.then(Vec::new))
    }

    fn grouped(&mut self, wanted: Wanted<'_>, orders: bool, rest: &str) -> Query {
        let mut keys: Vec<(String, Ty, bool)> = Vec::new();
        let is_whole = self.by_tenant && self.choices.chance(50);
        if let Some(col) = self.tenant().filter(|_| is_whole) {
            keys.push((col.text, col.ty, true));
        }
        for _ in 0..self.choices.below(3) {
            if let Some(col) = self.any_column() {
                keys.push((col.text, col.ty, col.is_tenant));
            }
        }
        if let Some(key) = keys.first_mut()
            && self.choices.chance(20)
        {
            *key = match key.1 {
                Ty::Text => (format!("upper({})", key.0), Ty::Text, false),
                Ty::Int => (format!("({} % 3)", key.0), Ty::Int, false),
                Ty::Zoned => (format!("date_trunc('month', {})", key.0), Ty::Zoned, false),
                _ => key.clone(),
            };
        }
        let mut items = Vec::new();
        for ty in self.types(wanted) {
            let fits = |it: &&(String, Ty, bool)| ty.is_none_or(|ty| ty == it.1);
            let fitting: Vec<_> = keys.iter().filter(fits).cloned().collect();
            if !fitting.is_empty() && !self.choices.chance(50) {
                let (text, ty, is_tenant) = self.choices.pick(&fitting).clone();
                let is_set = wanted.types.is_some();
                let text = if is_set { self.canonical(ty, text) } else { text };
                items.push(self.named(text, ty, is_tenant, wanted));
                continue;
            }
            let ty = ty.unwrap_or_else(|| match self.choices.below(3) {
                0 => Ty::Big,
                1 => Ty::Numeric,
                _ => some_type(self.choices),
            });
            let mut text = self.aggregate(ty);
            if self.choices.chance(15) {
                text = self.around(ty, text);
            }
            if wanted.is_canonical {
                text = self.canonical(ty, text);
            }
            items.push(self.named(text, ty, false, wanted));
        }
        let mut rest = rest.to_owned();
        if !keys.is_empty() {
            let by_position = self.choices.chance(15);
            let position = |key: &str| items.iter().position(|it| it.text == key);
            let name = |it: &(String, Ty, bool)| match position(&it.0).filter(|_| by_position) {
                Some(at) => (at + 1).to_string(),
                None => it.0.clone(),
            };
            let names: Vec<String> = keys.iter().map(name).collect();
            let names = names.join(", ");
            let form = self.choices.weighted(&[80, 7, 4, 5]);
            rest.push_str(&match form {
                1 => format!(" GROUP BY ROLLUP ({names})"),
                2 => format!(" GROUP BY CUBE ({names})"),
                3 => format!(" GROUP BY GROUPING SETS (({names}), ())"),
                _ => format!(" GROUP BY {names}"),
            });
        }
        if self.choices.chance(20) {
            rest.push_str(&format!(" HAVING {}", self.having()));
        }
        self.finish("SELECT", items, &rest, orders.then(Vec::new))
    }

    fn having(&mut self) -> String {
        let ty = *self.choices.pick(&[Ty::Big, Ty::Numeric, Ty::Int]);
        let op = *self.choices.pick(&[">", "=", "<=", "<>"]);
        let literal = super::values::literal(self.choices, ty);
        match self.choices.below(3) {
            0 => "count(*) > 1".to_owned(),
            _ => format!("{} {op} {literal}", self.aggregate(ty)),
        }
    }

    /// An expression around an aggregate.
    fn around(&mut self, ty: Ty, text: String) -> String {
        match ty {
            Ty::Big => format!("coalesce({text}, 0) + 1"),
            Ty::Numeric => format!("round({text} * 2, 2)"),
            Ty::Int => format!("abs({text})"),
            Ty::Text => format!("upper({text})"),
            Ty::Bool => format!("NOT {text}"),
            _ => format!("coalesce({text}, {text})"),
        }
    }
}
