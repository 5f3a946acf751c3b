//! Random tables, views and rows.

use std::fmt::Write as _;

use super::choices::Choices;
use super::query::Generator;
use super::values::{self, TYPES, Ty, quoted, tenants, value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    Sharded,
    Reference,
    Home,
    View,
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub ty: Ty,
    /// As it is declared.
    pub sql: String,
    pub is_tenant: bool,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub kind: TableKind,
    pub columns: Vec<Column>,
    /// Columns that tell rows apart.
    pub key: Vec<String>,
    /// Literals in parentheses.
    pub rows: Vec<String>,
    /// Of a view.
    pub query: String,
}

#[derive(Clone, Debug, Default)]
pub struct Schema {
    pub tables: Vec<Table>,
}

/// Types that a schema needs.
const TYPES_SQL: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');\n\
    CREATE DOMAIN amount AS int CHECK (value > -1000);\n";

/// Columns that tables choose from: one name is one type, so that NATURAL and USING join.
fn column(choices: &mut Choices, name: &str) -> (Ty, String) {
    let (ty, forms): (Ty, &[&str]) = match name {
        "qty" => (Ty::Int, &["int", "smallint", "amount"]),
        "total" => (Ty::Big, &["bigint"]),
        "parent" => (Ty::Int, &["int"]),
        "price" => (Ty::Numeric, &["numeric", "numeric(12,2)", "numeric(8,4)"]),
        "name" => {
            (Ty::Text, &["text", "varchar(12)", "text COLLATE \"C\"", "text COLLATE \"en-x-icu\""])
        }
        "note" => (Ty::Text, &["text"]),
        "code" => (Ty::Char, &["char(4)"]),
        "flag" => (Ty::Bool, &["boolean"]),
        "day" => (Ty::Date, &["date"]),
        "made" => (Ty::Timestamp, &["timestamp", "timestamp(0)"]),
        "at" => (Ty::Zoned, &["timestamptz"]),
        "span" => (Ty::Interval, &["interval"]),
        "score" => (Ty::Float, &["float8", "float4"]),
        "uid" => (Ty::Uuid, &["uuid"]),
        "doc" => (Ty::Json, &["jsonb"]),
        "raw" => (Ty::Bytes, &["bytea"]),
        "mood" => (Ty::Enum, &["mood"]),
        _ => (Ty::Ints, &["int[]"]),
    };
    (ty, (*choices.pick(forms)).to_owned())
}

const NAMES: [&str; 18] = [
    "qty", "name", "price", "flag", "parent", "total", "note", "day", "at", "code", "made", "span",
    "score", "uid", "doc", "raw", "mood", "nums",
];

impl Schema {
    /// A few tables of each kind with rows, and views over them.
    pub fn random(choices: &mut Choices) -> Self {
        let mut schema = Self::default();
        let main = *choices.pick(&[Ty::Big, Ty::Int, Ty::Text, Ty::Uuid]);
        for i in 0..3 + choices.below(2) {
            let other = *choices.pick(&[Ty::Big, Ty::Text, Ty::Uuid]);
            let ty = if i > 1 && choices.chance(40) { other } else { main };
            schema.tables.push(Table::sharded(choices, format!("t{}", i + 1), ty));
        }
        for i in 0..2 {
            schema.tables.push(Table::plain(choices, format!("r{}", i + 1), TableKind::Reference));
        }
        schema.tables.push(Table::plain(choices, "h1".to_owned(), TableKind::Home));
        for i in 0..3 {
            let view = Generator::view(choices, &schema, format!("v{}", i + 1));
            schema.tables.push(view);
        }
        schema
    }

    /// Statements that make it, or some tables of it, without rows.
    pub fn ddl(&self, is_wanted: impl Fn(&Table) -> bool) -> String {
        let mut text = TYPES_SQL.to_owned();
        for table in self.tables.iter().filter(|it| is_wanted(it)) {
            text.push_str(&table.ddl());
        }
        text
    }

    /// What repeats a statement: the tables it names and views among them, with rows.
    pub fn script(&self, sql: &str) -> String {
        let mut names = sql.to_owned();
        for table in self.tables.iter().rev().filter(|it| it.kind == TableKind::View) {
            if is_named(&names, &table.name) {
                names.push_str(&table.query);
            }
        }
        let mut text = TYPES_SQL.to_owned();
        for table in self.tables.iter().filter(|it| is_named(&names, &it.name)) {
            text.push_str(&table.ddl());
            text.push_str(&table.insert().unwrap_or_default());
        }
        text
    }

    pub fn base(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(|it| it.kind != TableKind::View)
    }
}

impl Table {
    fn sharded(choices: &mut Choices, name: String, ty: Ty) -> Self {
        let sql = match ty {
            Ty::Text => *choices.pick(&["text", "varchar(20)"]),
            Ty::Int => *choices.pick(&["int", "smallint"]),
            _ => ty.sql(),
        };
        let tenant = ("tenant_id".to_owned(), ty, sql.to_owned());
        let mut table = Self::with(choices, name, TableKind::Sharded, Some(tenant));
        for tenant in tenants(ty) {
            for id in 1..=choices.below(5) {
                let row = table.row(choices, Some(tenant), id);
                table.rows.push(row);
            }
        }
        table
    }

    fn plain(choices: &mut Choices, name: String, kind: TableKind) -> Self {
        let mut table = Self::with(choices, name, kind, None);
        for id in 1..=choices.below(8) {
            let row = table.row(choices, None, id);
            table.rows.push(row);
        }
        table
    }

    fn with(
        choices: &mut Choices,
        name: String,
        kind: TableKind,
        tenant: Option<(String, Ty, String)>,
    ) -> Self {
        let mut columns = Vec::new();
        let mut key = Vec::new();
        if let Some((name, ty, sql)) = tenant {
            key.push(name.clone());
            columns.push(Column { name, ty, sql, is_tenant: true });
        }
        key.push("id".to_owned());
        columns.push(Column {
            name: "id".to_owned(),
            ty: Ty::Int,
            sql: "int".to_owned(),
            is_tenant: false,
        });
        let share = 25 + choices.below(40);
        for name in NAMES {
            if choices.chance(share) {
                let (ty, sql) = column(choices, name);
                columns.push(Column { name: name.to_owned(), ty, sql, is_tenant: false });
            }
        }
        Self { name, kind, columns, key, rows: Vec::new(), query: String::new() }
    }

    /// A row for INSERT … VALUES.
    pub fn row(&self, choices: &mut Choices, tenant: Option<&str>, id: usize) -> String {
        let mut row = Vec::new();
        for column in &self.columns {
            row.push(match (column.name.as_str(), tenant) {
                ("tenant_id", Some(tenant)) => quoted(tenant),
                ("id", _) => id.to_string(),
                ("parent", _) => {
                    let parent = choices.below(id);
                    if parent == 0 { "NULL".to_owned() } else { parent.to_string() }
                }
                _ if choices.chance(20) => "NULL".to_owned(),
                _ => quoted(value(choices, column.ty)),
            });
        }
        format!("({})", row.join(", "))
    }

    /// The statement that makes it.
    pub fn ddl(&self) -> String {
        if self.kind == TableKind::View {
            let names: Vec<&str> = self.columns.iter().map(|it| it.name.as_str()).collect();
            return format!(
                "CREATE VIEW {} ({}) AS {};\n",
                self.name,
                names.join(", "),
                self.query
            );
        }
        let mut text = format!("CREATE TABLE {} (", self.name);
        for column in &self.columns {
            let _ = write!(text, "{} {}, ", column.name, column.sql);
        }
        let _ = writeln!(text, "PRIMARY KEY ({}));", self.key.join(", "));
        text
    }

    /// The statement that fills it.
    pub fn insert(&self) -> Option<String> {
        let rows = self.rows.join(",\n  ");
        (!self.rows.is_empty()).then(|| format!("INSERT INTO {} VALUES\n  {rows};\n", self.name))
    }
}

/// Some type, mostly a plain one.
pub fn some_type(choices: &mut Choices) -> Ty {
    let many = choices.chance(40);
    let all: &[Ty] = if many { &TYPES } else { &TYPES[..5] };
    *choices.pick(all)
}

/// A literal or a NULL of the type.
pub fn nullable(choices: &mut Choices, ty: Ty) -> String {
    if choices.chance(8) { format!("NULL::{}", ty.sql()) } else { values::literal(choices, ty) }
}

fn is_named(text: &str, name: &str) -> bool {
    text.split(|it: char| !it.is_ascii_alphanumeric()).any(|it| it == name)
}
