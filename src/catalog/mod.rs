//! What the planner knows of one database's schema: a snapshot without IO. `pool::catalog` fills it
//! from the home shard; golden tests fill it from a line of text.

pub mod sequence;
pub mod unique;

use std::collections::{HashMap, HashSet};

use crate::shard::KeyType;
use sequence::{Name, Series};

/// A schema snapshot. Names are as in `pg_catalog`: folded, unquoted.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Tables and views by (schema, name).
    pub tables: HashMap<(String, String), Table>,
    /// Functions by name; several schemas and overloads share an entry.
    pub functions: HashMap<String, Vec<Function>>,
    /// Type OIDs by name, of `pg_catalog` and the search path's schemas.
    pub types: HashMap<String, u32>,
    /// The schemas that unqualified names are looked up in, `pg_catalog` first.
    pub search_path: Vec<String>,
    /// Sequences of which no two shards give one number; of others each shard counts for itself.
    pub sequences: HashMap<Name, Series>,
    /// Whether every shard makes ids of its own by `sluice.unique_id()`.
    pub makes_ids: bool,
    /// Whether the database's default collation compares bytes (`C`, `POSIX`).
    /// What may change its session unseen.
    pub suspects: Suspects,
    /// Relations that only a primary can read: unlogged tables, what they are part of and views of them.
    pub unlogged: HashSet<String>,
    pub default_collation_is_c: bool,
    /// `server_version_num`, e.g. 150018.
    pub server_version: u32,
    /// Whether user-defined operators or casts exist that could change the meaning of `=`.
    pub operators_on: HashSet<u32>,
    /// Functions the configuration declares to touch only the rows of the statement's tenant.
    pub trusted_functions: HashSet<String>,
    /// The name of the tenant column, where the configuration gives one: a new table with it will be
    /// sharded.
    pub tenant_column: Option<String>,
    /// Tables, by name or `schema.name`, that the configuration lists as reference tables, whether
    /// or not they exist yet.
    pub reference_tables: HashSet<String>,
    /// Whether keys that cannot be guaranteed over shards (sequences, unique and foreign keys
    /// without the tenant column) are allowed.
    pub allow_local_keys: bool,
    /// Whether keys of generated ids may do without the tenant column.
    pub trust_generated_keys: bool,
    /// Keys that are unique over all shards, whether or not they exist yet.
    pub global_unique: Vec<unique::GlobalKey>,
    /// Those of them that every shard keeps.
    pub kept_keys: Vec<unique::GlobalKey>,
    /// Functions whose text names a table with such a key.
    pub unique_writers: HashSet<String>,
    /// Which tables' rows change with rows of a table: those whose foreign keys say so.
    pub cascades: HashMap<Name, Vec<Cascade>>,
    /// Whether literals of the simple protocol may become parameters.
    pub auto_prepare: bool,
    /// Changes whenever anything above does; part of the plan cache's key.
    pub version: u64,
}

/// What may leave settings, temporary tables or locks in its session although the statement does not
/// show it; by bare names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    pub functions: HashSet<String>,
    /// Relations that call such functions: triggers, rules, defaults.
    pub relations: HashSet<String>,
}

/// A foreign key that changes rows of its own table with those that they refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cascade {
    /// The table whose rows change.
    pub table: Name,
    /// The columns they refer to.
    pub columns: Vec<String>,
    /// Whether a DELETE, and whether an UPDATE of these columns, changes them.
    pub on_delete: bool,
    pub on_update: bool,
}

/// A table, partitioned table, foreign table, view or sequence.
#[derive(Clone, Debug)]
pub struct Table {
    pub kind: TableKind,
    pub columns: Vec<Column>,
    /// Unique keys and the primary key, each as column positions.
    pub unique_keys: Vec<Vec<usize>>,
    /// The primary key; empty if there is none.
    pub primary_key: Vec<usize>,
    /// Names of functions called by user triggers.
    pub trigger_functions: Vec<String>,
    /// Whether rewrite rules other than a view's own exist.
    pub has_rules: bool,
}

/// Where a table's rows live.
#[derive(Clone, Debug, PartialEq)]
pub enum TableKind {
    /// Rows live on the shard of their tenant; `column` is the tenant column's position.
    Sharded { column: usize, key: KeyType },
    /// The same rows on every shard.
    Reference,
    /// Rows live on the home shard alone.
    Home,
    /// A view, with its query as `pg_get_viewdef` prints it.
    View(String),
    /// Of `pg_catalog` or `information_schema`; answered by the home shard.
    System,
    /// A sharded table whose tenant column cannot be a key (type, collation); every use is refused
    /// with this text.
    Unusable(String),
}

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    /// Whether values compare by bytes: the column's own collation, or the default's.
    pub collation_is_c: bool,
    /// Whether its collation takes only identical texts as equal; true for types without collation.
    pub collation_is_deterministic: bool,
    pub default: ColumnDefault,
    pub sql_type: SqlType,
}

/// Types from this OID on are made by users: it means something on one server only (`FirstNormalObjectId`).
pub const FIRST_USER_OID: u32 = 16_384;

/// How SQL writes a column's type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SqlType {
    /// As a cast writes it, with modifiers: `numeric(10,2)`, `public.mood`.
    pub name: String,
    /// A built-in scalar's name without modifiers: values are the same in binary on every server.
    /// `None`: only their text is.
    pub scalar: Option<String>,
    /// The collation, if it is not the type's own: `pg_catalog."C"`.
    pub collation: Option<String>,
}

/// What an INSERT that leaves the column out stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnDefault {
    /// NULL or a constant: the same everywhere.
    Constant,
    /// Computed per statement or row; the expression. Differs from shard to shard.
    Computed(String),
    /// Takes numbers from a sequence of its own shard; which one, if that is sure.
    Sequence(Option<Name>),
    /// `GENERATED … STORED` from columns of the row: immutable.
    Generated,
}

/// A function, aggregate or window function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub schema: String,
    pub kind: FunctionKind,
    pub volatility: Volatility,
    /// Whether the function is known not to read or write tables: immutable, or written in C.
    pub is_table_free: bool,
    pub is_strict: bool,
}

/// `pg_proc.prokind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    Plain,
    Aggregate,
    Window,
    Procedure,
}

/// `pg_proc.provolatile`; ordered, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

impl Catalog {
    /// The table a possibly qualified name means, or `None` if it is not (or not yet) known.
    pub fn table(&self, schema: Option<&str>, name: &str) -> Option<&Table> {
        let find = |schema: &str| self.tables.get(&(schema.to_owned(), name.to_owned()));
        match schema {
            Some(schema) => find(schema),
            None => self.search_path.iter().find_map(|it| find(it)),
        }
    }
}

impl Catalog {
    /// Whether a column's sequence gives each number once over all shards.
    pub fn is_shared(&self, sequence: Option<&Name>) -> bool {
        sequence.is_some_and(|it| self.sequences.contains_key(it))
    }
}

impl Table {
    /// The position of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|it| it.name == name)
    }
}
