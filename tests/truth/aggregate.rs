//! Aggregates and window functions whose results do not depend on the order of rows.

use super::query::Generator;
use super::values::Ty;

impl Generator<'_> {
    /// An aggregate of a type over the current rows.
    pub fn aggregate(&mut self, ty: Ty) -> String {
        let way = self.choices.below(4);
        let filter = if self.choices.chance(12) {
            format!(" FILTER (WHERE {})", self.predicate(0))
        } else {
            String::new()
        };
        let distinct = if self.choices.chance(20) { "DISTINCT " } else { "" };
        let text = match (ty, way) {
            (Ty::Big, 0) => "count(*)".to_owned(),
            (Ty::Big, 1) => {
                let some = super::schema::some_type(self.choices);
                format!("count({distinct}{})", self.expr(some, 1))
            }
            (Ty::Big, 2) => format!("sum({distinct}{})", self.expr(Ty::Int, 1)),
            (Ty::Numeric, 0) => format!("sum({distinct}{})", self.summand()),
            (Ty::Numeric, 1) => {
                let what = *self.choices.pick(&[Ty::Int, Ty::Numeric, Ty::Big]);
                format!("avg({distinct}{})", self.expr(what, 1))
            }
            (Ty::Numeric, 2) => {
                const ALL: [&str; 6] =
                    ["stddev", "variance", "var_pop", "stddev_pop", "var_samp", "stddev_samp"];
                let name = *self.choices.pick(&ALL);
                format!("{name}({distinct}{})", self.expr(Ty::Int, 1))
            }
            (Ty::Interval, 0) => format!("sum({})", self.expr(Ty::Interval, 0)),
            (Ty::Interval, 1) => format!("avg({})", self.expr(Ty::Interval, 0)),
            (Ty::Bool, _) => {
                let name = *self.choices.pick(&["bool_or", "bool_and", "every"]);
                format!("{name}({})", self.predicate(0))
            }
            (Ty::Text, 0) => self.joined(),
            (Ty::Int, 0) if distinct.is_empty() => {
                let name = *self.choices.pick(&["bit_and", "bit_or", "bit_xor"]);
                format!("{name}({})", self.expr(Ty::Int, 0))
            }
            (Ty::Float, 0) => {
                let fraction = *self.choices.pick(&["0.5", "0.25", "1"]);
                let what = self.expr(Ty::Int, 0);
                format!("percentile_cont({fraction}) WITHIN GROUP (ORDER BY {what})")
            }
            (Ty::Ints, 0) => self.array(Ty::Int),
            (Ty::Json, 0 | 1) => {
                let some = *self.choices.pick(&[Ty::Int, Ty::Text, Ty::Date, Ty::Bool]);
                let value = self.expr(some, 0);
                format!("jsonb_agg({value} ORDER BY {value}{})", self.direction())
            }
            (Ty::Uuid | Ty::Json | Ty::Bytes, _) => format!("({}{filter})[1]", self.array(ty)),
            (_, 3) => {
                let value = self.expr(ty, 0);
                format!("percentile_disc(0.5) WITHIN GROUP (ORDER BY {value})")
            }
            _ => {
                let name = *self.choices.pick(&["max", "min"]);
                let value = self.expr(ty, 1);
                let value = self.canonical(ty, value);
                format!("{name}({value})")
            }
        };
        if text.ends_with(")[1]") { text } else { format!("{text}{filter}") }
    }

    fn summand(&mut self) -> String {
        let what = *self.choices.pick(&[Ty::Numeric, Ty::Big]);
        self.expr(what, 1)
    }

    /// string_agg in an order.
    fn joined(&mut self) -> String {
        let value = self.expr(Ty::Text, 1);
        let distinct = if self.choices.chance(25) { "DISTINCT " } else { "" };
        format!("string_agg({distinct}{value}, ',' ORDER BY {value}{})", self.order_end(distinct))
    }

    /// With DISTINCT the values themselves must be sorted as they are compared.
    fn order_end(&mut self, distinct: &str) -> &'static str {
        if distinct.is_empty() { self.direction() } else { "" }
    }

    fn array(&mut self, ty: Ty) -> String {
        let value = self.expr(ty, 0);
        let distinct = if self.choices.chance(25) { "DISTINCT " } else { "" };
        format!("array_agg({distinct}{value} ORDER BY {value}{})", self.order_end(distinct))
    }

    /// A window function and its type; of the wanted type, if there is one.
    pub fn window(&mut self, wanted: Option<Ty>) -> Option<(String, Ty)> {
        let mut parts = Vec::new();
        let is_whole = self.by_tenant && self.choices.chance(70);
        parts.extend(self.tenant().filter(|_| is_whole).map(|it| it.text));
        for _ in 0..self.choices.below(3) {
            parts.extend(self.any_column().map(|it| it.text));
        }
        let partition = match parts.is_empty() {
            true => String::new(),
            false => format!("PARTITION BY {} ", parts.join(", ")),
        };
        let mut order: Vec<String> = Vec::new();
        for _ in 0..1 + self.choices.below(2) {
            if let Some(col) = self.any_column() {
                order.push(format!("{}{}", col.text, self.direction()));
            }
        }
        let keys = self.row_keys().filter(|_| self.choices.chance(60));
        let is_unique = keys.is_some();
        order.extend(keys.unwrap_or_default());
        let order =
            if order.is_empty() { String::new() } else { format!("ORDER BY {}", order.join(", ")) };
        let (call, ty) = self.window_call(is_unique, wanted)?;
        let frame = if is_unique && self.choices.chance(20) && call.starts_with("sum(") {
            " ROWS BETWEEN 1 PRECEDING AND CURRENT ROW"
        } else {
            ""
        };
        Some((format!("{call} OVER ({partition}{order}{frame})"), ty))
    }

    fn window_call(&mut self, is_unique: bool, wanted: Option<Ty>) -> Option<(String, Ty)> {
        let way = self.choices.below(if is_unique { 8 } else { 4 });
        let found = match way {
            0 => ("rank()".to_owned(), Ty::Big),
            1 => ("count(*)".to_owned(), Ty::Big),
            2 => (format!("sum({})", self.expr(Ty::Int, 0)), Ty::Big),
            3 => ("dense_rank()".to_owned(), Ty::Big),
            4 => ("row_number()".to_owned(), Ty::Big),
            _ => {
                let ty = wanted.or_else(|| self.any_column().map(|it| it.ty))?;
                let name = *self.choices.pick(&["lag", "lead", "first_value", "last_value"]);
                (format!("{name}({})", self.expr(ty, 0)), ty)
            }
        };
        (wanted.is_none_or(|it| it == found.1)).then_some(found)
    }
}
