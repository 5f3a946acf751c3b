//! Reads that shards cannot answer apart: each ships the rows that are needed, one Postgres computes
//! the answer over them.

use std::fmt::{self, Display, Formatter, Write};

use crate::catalog::SqlType;
use crate::shard::{Map, ShardId};
use crate::sql::name::{quoted, quoted_text};

/// Stands for the start of the transaction, wherever the statement asks for it: one moment for all servers.
pub const NOW: &str = "sluice_gather_now";

/// Stands for the condition that a row belongs to the shard that runs the statement.
pub const OWNED: &str = "sluice_gather_owned";

/// What is shipped, and the statement over it.
#[derive(Clone, Debug, PartialEq)]
pub struct Gather {
    pub fragments: Vec<Fragment>,
    /// Fragments that may be shipped after others, and less of them.
    pub reductions: Vec<Reduction>,
    /// The statement, with the fragments in the place of their tables.
    pub statement: String,
    /// Where in it the common table expressions of its own WITH begin, if it has one.
    pub with_at: Option<usize>,
    /// Whether it reads tables that the home shard alone has.
    pub needs_home: bool,
    /// Whether [`NOW`] occurs.
    pub asks_time: bool,
    /// WITH and the data-modifying parts, which shards run for rows that they then ship.
    pub with: Option<String>,
    /// The key, as `text`, of what [`OWNED`] is asked of.
    pub owned: Option<String>,
    pub runs: Runs,
}

/// A fragment of which only rows count that have in one column a value of another fragment's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduction {
    pub fragment: usize,
    pub column: usize,
    /// That other fragment and its column.
    pub by: (usize, usize),
}

/// Where the statement over the fragments runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// A read: on the home shard.
    Read,
    /// A write of a table of the home shard.
    Home,
    /// A write of a sharded table: on every shard, each over its own rows of that table.
    Shards,
    /// A write of a reference table: on every shard, each alike.
    Everywhere,
}

/// Rows of one table, or of a view that each shard computes for its own tenants.
#[derive(Clone, Debug, PartialEq)]
pub struct Fragment {
    /// Its name in [`Gather::statement`].
    pub name: String,
    /// What it is read from, as FROM has it.
    pub from: String,
    /// Conditions that rows must meet to matter.
    pub filters: Vec<String>,
    /// All columns of the table, in order.
    pub columns: Vec<FragmentColumn>,
}

/// A column of a fragment.
#[derive(Clone, Debug, PartialEq)]
pub struct FragmentColumn {
    pub name: String,
    pub type_oid: u32,
    pub sql_type: SqlType,
    /// Whether its values are shipped; NULL stands for them otherwise, where nobody looks.
    pub is_needed: bool,
}

/// How values of a column travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// The type they have on the way.
    pub name: &'a str,
    pub oid: u32,
}

const TEXT: Element<'_> = Element { name: "text", oid: 25 };

impl FragmentColumn {
    /// Built-in scalars travel as they are, everything else as text: OIDs of types that users made
    /// differ from server to server.
    pub fn element(&self) -> Element<'_> {
        match &self.sql_type.scalar {
            Some(name) => Element { name, oid: self.type_oid },
            None => TEXT,
        }
    }

    fn shipped(&self) -> String {
        let name = quoted(&self.name);
        match self.sql_type.scalar {
            Some(_) => name,
            None => format!("{name}::text"),
        }
    }

    /// The column again, from `value`.
    fn restored(&self, value: &str) -> String {
        let ty = &self.sql_type;
        let mut text = value.to_owned();
        if ty.scalar.as_ref() != Some(&ty.name) {
            text = format!("{text}::{}", ty.name);
        }
        if let Some(collation) = &ty.collation {
            text = format!("{text} COLLATE {collation}");
        }
        text
    }
}

impl Fragment {
    /// The columns that are shipped.
    pub fn needed(&self) -> impl Iterator<Item = &FragmentColumn> {
        self.columns.iter().filter(|it| it.is_needed)
    }
}

impl Gather {
    /// Whether shipped rows are joined, and with no table of the home shard, which may be a large one.
    pub fn joins_fragments(&self) -> bool {
        self.fragments.len() > 1 && !self.needs_home && self.runs == Runs::Read
    }

    /// What every shard runs: the rows of all fragments, read in one snapshot. The first column is the
    /// fragment's index (`int2`), then follow the needed columns of all fragments, NULL in the rows of
    /// others. `now` is the number of the parameter for [`NOW`], a `timestamptz`.
    pub fn shard_sql(&self, now: usize) -> String {
        self.shard_sql_of(now, |_| true, &[])
    }

    /// As [`Self::shard_sql`], of the fragments that are `chosen`. Parameters after `$now` are arrays with
    /// what the reductions given leave over.
    pub fn shard_sql_of(
        &self,
        now: usize,
        chosen: impl Fn(usize) -> bool,
        reductions: &[Reduction],
    ) -> String {
        self.timed(self.untimed_shard_sql(now, chosen, reductions), &format!("${now}"))
    }

    /// Whether a fragment waits for another one.
    pub fn is_reduced(&self, fragment: usize) -> bool {
        self.reductions.iter().any(|it| it.fragment == fragment)
    }

    fn timed(&self, sql: String, now: &str) -> String {
        match self.asks_time {
            true => sql.replace(NOW, &format!("({now}::pg_catalog.timestamptz)")),
            false => sql,
        }
    }

    fn untimed_shard_sql(
        &self,
        now: usize,
        chosen: impl Fn(usize) -> bool,
        reductions: &[Reduction],
    ) -> String {
        let mut text = self.with.as_ref().map(|it| format!("{it} ")).unwrap_or_default();
        let is_chosen = |it: &(usize, &Fragment)| chosen(it.0);
        for (nth, (i, fragment)) in self.fragments.iter().enumerate().filter(is_chosen).enumerate()
        {
            text.push_str(if nth == 0 { "SELECT " } else { " UNION ALL SELECT " });
            let _ = write!(text, "{i}::int2");
            for (j, other) in self.fragments.iter().enumerate() {
                for column in other.needed() {
                    let value = if i == j {
                        column.shipped()
                    } else {
                        format!("NULL::{}", column.element().name)
                    };
                    let _ = write!(text, ", {value}");
                }
            }
            let _ = write!(text, " FROM {}", fragment.from);
            let mut filters = fragment.filters.clone();
            for (n, it) in reductions.iter().enumerate().filter(|(_, it)| it.fragment == i) {
                let column = &fragment.columns[it.column];
                let (name, element) = (quoted(&column.name), column.element().name);
                filters.push(format!("{name} = ANY (${}::{element}[])", now + 1 + n));
            }
            if !filters.is_empty() {
                let _ = write!(text, " WHERE {}", filters.join(" AND "));
            }
        }
        text
    }

    /// The statement of the one server that computes the answer. Parameters from `$first` on are, for
    /// each fragment, an array per needed column, or the number of its rows (`int8`) if there is none.
    /// That before `$first` is for [`NOW`].
    pub fn final_sql(&self, first: usize) -> String {
        self.timed(self.over(|n| format!("${}", first + n)), &format!("${}", first - 1))
    }

    /// As [`Self::final_sql`], for one of the shards that run it. Rows without a key are the home shard's.
    pub fn final_sql_of(&self, first: usize, map: &Map, shard: ShardId, home: ShardId) -> String {
        let sql = self.final_sql(first);
        let Some(key) = &self.owned else { return sql };
        let owned = format!("coalesce({}, {})", owned(map, shard, key), shard == home);
        sql.replace(OWNED, &owned)
    }

    /// As [`Self::final_sql`], with the text of the n-th array (0-based) in a setting of that number, where
    /// a statement cannot have parameters. `of` tells apart the settings of statements whose rows are in use at
    /// the same time.
    pub fn final_sql_of_settings(&self, of: usize) -> String {
        let text = self.over(|n| format!("pg_catalog.current_setting('{}')", setting(of, n)));
        self.timed(text, "pg_catalog.now()")
    }

    /// The statement that puts an array (its `$1`) into the n-th setting until the transaction's end.
    pub fn settings_sql(&self, of: usize) -> Vec<String> {
        let fragments = self.fragments.iter();
        let types = fragments.flat_map(|fragment| {
            let mut types: Vec<String> =
                fragment.needed().map(|it| format!("{}[]", it.element().name)).collect();
            if types.is_empty() {
                types.push("int8".to_owned());
            }
            types
        });
        let set = |(n, ty): (usize, String)| {
            format!("SELECT pg_catalog.set_config('{}', $1::{ty}::text, true)", setting(of, n))
        };
        types.enumerate().map(set).collect()
    }

    fn over(&self, value: impl Fn(usize) -> String) -> String {
        if self.fragments.is_empty() {
            return self.statement.clone();
        }
        let (mut text, rest) = match self.with_at {
            Some(at) => (self.statement[..at].to_owned(), &self.statement[at..]),
            None => ("WITH ".to_owned(), &self.statement[..]),
        };
        let mut next = 0;
        for (i, fragment) in self.fragments.iter().enumerate() {
            text.push_str(if i == 0 { "" } else { ", " });
            let (mut columns, mut arrays, mut names) = (Vec::new(), Vec::new(), Vec::new());
            for column in &fragment.columns {
                let name = quoted(&column.name);
                if column.is_needed {
                    let local = format!("c{}", names.len() + 1);
                    columns.push(format!("{} AS {name}", column.restored(&format!("g.{local}"))));
                    let element = column.element().name;
                    let value = value(next);
                    arrays.push(format!("pg_catalog.unnest({value}::{element}[])"));
                    names.push(local);
                    next += 1;
                } else {
                    columns.push(format!("NULL::{} AS {name}", column.sql_type.name));
                }
            }
            let _ = write!(text, "{} AS (SELECT {} FROM ", fragment.name, columns.join(", "));
            if arrays.is_empty() {
                let value = value(next);
                let _ = write!(text, "pg_catalog.generate_series(1, {value}::int8))");
                next += 1;
            } else {
                let (arrays, names) = (arrays.join(", "), names.join(", "));
                let _ = write!(text, "ROWS FROM ({arrays}) AS g({names}))");
            }
        }
        let _ = match self.with_at {
            Some(_) => write!(text, ", {rest}"),
            None if self.runs != Runs::Read => write!(text, " {rest}"),
            // A comment may end it.
            None => write!(text, " ({rest}\n)"),
        };
        text
    }
}

/// Whether a key, an expression of type `text`, belongs to a shard, in SQL; that of NULL is NULL.
pub fn owned(map: &Map, shard: ShardId, key: &str) -> String {
    let owned: Vec<String> =
        (0..=255_u8).filter(|it| map.bucket_owner(*it) == shard).map(|it| it.to_string()).collect();
    let owned = owned.join(",");
    let bucket = format!(
        "pg_catalog.get_byte(pg_catalog.decode(pg_catalog.md5(pg_catalog.convert_to({key}, 'UTF8')), 'hex'), 0)"
    );
    let by_bucket = format!("{bucket} = ANY ('{{{owned}}}'::int4[])");
    if map.overrides().is_empty() {
        return by_bucket;
    }
    let mut text = "CASE".to_owned();
    for (tenant, owner) in map.overrides() {
        let tenant = quoted_text(tenant);
        text.push_str(&format!(" WHEN {key} = {tenant} THEN {}", *owner == shard));
    }
    text.push_str(&format!(" ELSE {by_bucket} END"));
    text
}

fn setting(of: usize, n: usize) -> String {
    format!("sluice_gather.p{of}_{}", n + 1)
}

impl Display for Gather {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.statement)
    }
}

impl Display for Fragment {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let columns: Vec<String> = self.needed().map(FragmentColumn::shipped).collect();
        let columns = columns.join(", ");
        let space = if columns.is_empty() { "" } else { " " };
        write!(f, "{}: SELECT {columns}{space}FROM {}", self.name, self.from)?;
        if !self.filters.is_empty() {
            write!(f, " WHERE {}", self.filters.join(" AND "))?;
        }
        Ok(())
    }
}
