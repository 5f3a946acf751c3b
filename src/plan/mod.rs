//! What is known of a statement from its text and the catalog alone: where it goes, how the answers
//! of several shards become one, or why it is refused. Cached; see `plan::route` for one execution.

mod array;
pub mod cache;
pub mod create_as;
pub mod gather;
pub mod key;
pub mod locked;
pub mod moved;
pub mod planner;
mod preparable;
pub mod route;
pub mod scatter;
mod show;
mod statement;
pub mod unique;

use std::ops::Range;
use std::sync::Arc;

use crate::error::PgError;
use crate::merge::MergeSpec;
use crate::shard::KeyType;
pub use crate::sql::copy::CopyFormat;
use create_as::CreateAs;
use gather::Gather;
use locked::{Lock, Pick};
use moved::Move;
pub use preparable::Preparable;
use scatter::Scatter;
pub use statement::Statement;
use unique::{Lookup, Unique};

/// The plan of one statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub action: Action,
    /// Whether another statement with the same fingerprint has the same plan: no literal's value was
    /// looked at, except those that `Scope::Keys` names, and no rewritten text is kept.
    pub is_shareable: bool,
    /// Why the session must keep its server from this statement on (temporary table, session
    /// advisory lock, …).
    pub pin: Option<&'static str>,
    /// Whether schemas may have changed after this statement, so that the catalog is loaded again.
    pub changes_schema: bool,
    /// Over one shard: whether types and columns of statements may be others after it, although the
    /// catalog need not be loaded again.
    pub alters: bool,
    /// The database that the server wants free of sessions for it: DROP DATABASE and the like.
    pub leaves: Option<Box<str>>,
    /// The settings that `set_config(name, value, is_local)` makes, in order.
    pub sets: Vec<SetConfig>,
    /// Settings whose values must be asked of the server afterwards: `set_config` amid other things.
    pub unsettled: Vec<String>,
    /// The SQL-level prepared statements it looks at, apart from EXECUTE itself.
    pub uses: Option<Uses>,
    /// Whether a refusal only says that the statement needs one shard: a session that named its
    /// tenant (`SET sluice.tenant`) may run it there, unchanged.
    pub is_lifted_by_tenant: bool,
    /// What may be parameters, if it can run as a prepared statement with the same outcome.
    pub literals: Option<Literals>,
    /// Whose sequences shards must share after it.
    pub numbers: Option<Box<Numbers>>,
    /// Which columns it fills with the time.
    pub times: Option<Box<AddedTimes>>,
    /// The indexes that it makes or drops shard by shard, so that it can go on where it has failed.
    pub indexes: Option<Box<Indexes>>,
    /// A table of the home shard that it binds to rows of others: once the transaction commits, the table
    /// must have become sharded.
    pub bound: Option<Box<str>>,
    /// The keys over shards that it may change.
    pub unique: Option<Box<Unique>>,
    /// Which tenant's shard alone has what it is about.
    pub lookup: Option<Box<Lookup>>,
}

/// What CREATE and DROP INDEX CONCURRENTLY are about, as SQL writes the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Indexes {
    /// An index of a table, by its bare name.
    Made {
        index: String,
        table: String,
    },
    Dropped {
        index: String,
    },
}

/// Columns that are added with the transaction's time: one for the rows of all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedTimes {
    /// The change with [`gather::NOW`] in the place of `now()` and the like.
    pub sql: String,
    /// What then sets the columns' defaults as they were said.
    pub defaults: Vec<String>,
}

/// A schema change after which sequences must give each number once over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The table or sequence that is made or changed, as SQL writes it.
    pub of: String,
    /// Columns that the change adds and fills: each shard has begun with the same numbers.
    pub filled: Vec<String>,
    /// Whether it was a table of the home shard so far: it must have no rows, and no keys that bind it to
    /// other tables there.
    pub spreads: bool,
}

/// A call of `set_config(name, value, is_local)` whose outcome the session can repeat elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetConfig {
    /// In lower case.
    pub name: String,
    pub value: SetValue,
    /// Whether it ends with the transaction.
    pub is_local: bool,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetValue {
    /// `None` for NULL, which is the default value.
    Literal(Option<String>),
    /// Parameter `$n`.
    Param(usize),
}

/// Literals that may be parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literals {
    /// The byte offsets in the planned text at which they start, rising.
    pub at: Vec<usize>,
    pub columns: Columns,
}

/// When a server tells the columns of a statement that came as a Query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// There are none.
    None,
    /// Before it runs.
    First,
    /// Once all of it has run without an error: RETURNING.
    Last,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            action: Action::Local(Local::Empty),
            is_shareable: false,
            pin: None,
            changes_schema: false,
            alters: false,
            leaves: None,
            sets: Vec::new(),
            unsettled: Vec::new(),
            uses: None,
            is_lifted_by_tenant: false,
            literals: None,
            numbers: None,
            indexes: None,
            times: None,
            bound: None,
            unique: None,
            lookup: None,
        }
    }
}

impl Plan {
    /// A refusal.
    pub fn refuse(error: PgError) -> Self {
        Self { action: Action::Refuse(error), ..Self::default() }
    }
}

/// Which of the client's prepared statements the server must have under the client's own names.
#[derive(Clone, Debug, PartialEq)]
pub enum Uses {
    /// EXPLAIN EXECUTE, CREATE TABLE AS EXECUTE.
    Statement(String),
    /// A look at `pg_prepared_statements`.
    Statements,
}

/// What the session does with a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Servers run it.
    Run(Run),
    /// The proxy carries it out itself.
    Local(Local),
    /// Refused by name before anything ran: 0A000 unless the error says otherwise.
    Refuse(PgError),
}

/// A statement for servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub access: Access,
    pub scope: Scope,
    /// How it runs if the scope turns out to be more than one shard.
    pub combine: Combine,
    /// What does instead of a [`Combine::Merge`] whose columns turn out to be of types that the proxy
    /// does not merge: only servers know all types.
    pub fallback: Option<Box<Gather>>,
    /// What EXPLAIN asks of the statement; the rest of the plan is the statement's own.
    pub explained: Option<Box<Explained>>,
}

/// EXPLAIN of a statement over several shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// EXPLAIN and its options.
    pub options: String,
    /// The statement.
    pub inner: String,
    /// Whether the statement is run: ANALYZE.
    pub runs: bool,
}

impl Run {
    /// How one server computes a read's answer, whatever is cheaper.
    pub fn gathered(&self) -> Option<&Gather> {
        match &self.combine {
            Combine::Gather(it) => Some(it),
            _ => self.fallback.as_deref(),
        }
    }
}

/// Whether a replica may serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Proven free of writes, locks and volatile functions.
    Read,
    Write,
}

/// How the shards will be chosen once the arguments are known.
#[derive(Clone, Debug, PartialEq)]
pub enum Scope {
    /// No table or only reference tables: any shard answers alike.
    Any,
    /// The home shard: home tables, system catalogs, whatever must run in one fixed place.
    Home,
    /// Confined to these keys; if `with_home`, home tables are read too, so that the keys must
    /// belong to the home shard.
    Keys { keys: Vec<KeySource>, with_home: bool },
    /// Every shard.
    All,
}

/// Where a tenant key is found at run time.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// The literal whose token starts at this byte offset of the planned text.
    Literal { offset: usize, kind: KeyType },
    /// Parameter `$index` (1-based): a scalar of the key's type.
    Param { index: usize, kind: KeyType },
    /// Parameter `$index` (1-based): a one-dimensional array, of `= ANY ($1)`.
    ParamArray { index: usize, kind: KeyType },
}

/// How the answers of several shards become one.
#[derive(Clone, Debug, PartialEq)]
pub enum Combine {
    /// A read: streams are merged.
    Merge(MergeSpec),
    /// A read: needed rows are shipped to one server, which computes the answer.
    Gather(Box<Gather>),
    /// A write whose effects add up (UPDATE and DELETE over tenants): the same text everywhere,
    /// counts are added, RETURNING rows concatenated.
    Sum,
    /// A write of a reference table, or DDL: the same text everywhere; every shard must report the
    /// same command tag, one answer is forwarded.
    Same,
    /// Rows of a reference table that leave columns out: the home shard computes these.
    Filled(Box<Filled>),
    /// DDL that cannot run in a transaction: one shard after the other.
    OneByOne,
    /// A multi-row INSERT: each row to the shard of its key.
    Split(Split),
    /// An INSERT whose rows are computed first: each to the shard of its key.
    Scatter(Box<Scatter>),
    /// SELECT … LIMIT … FOR UPDATE: rows are found first, then locked in order.
    Lock(Box<Lock>),
    /// A statement with such a SELECT in it, which runs first.
    Pick(Box<Pick>),
    /// An UPDATE of the tenant column: rows move to the shards of their new keys.
    Move(Box<Move>),
    /// CREATE TABLE AS: the table everywhere, each row where it belongs.
    CreateAs(Box<CreateAs>),
    /// CREATE MATERIALIZED VIEW: each shard has the rows of its tenants; or the home shard has them, and this
    /// makes the view on the others.
    Materialized(Option<String>),
    /// COPY … FROM STDIN: each row to the shard of its key.
    CopyFrom(CopyFrom),
    /// COPY … TO STDOUT: streams are concatenated (text and CSV).
    CopyTo { header: bool, is_binary: bool },
    /// COPY (query) TO STDOUT of a query that is gathered, and what stands before and after the query.
    CopyGather { gather: Box<Gather>, before: String, after: String },
    /// `SELECT setval(…)`: each shard's sequence is set to a number of its own.
    Place(Box<Placing>),
    /// Only one shard can run it; refused with this if there are several.
    Refuse(PgError),
}

/// An INSERT … VALUES into a reference table that leaves columns out whose defaults differ each time.
/// Byte ranges are of the planned text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Each row's text including its parentheses.
    pub rows: Vec<Range<usize>>,
    /// The columns, quoted.
    pub columns: Vec<String>,
    /// Their defaults.
    pub defaults: Vec<String>,
    /// Where in the text the list of columns ends.
    pub list_end: usize,
    /// Whether one may be GENERATED ALWAYS AS IDENTITY.
    pub overrides: bool,
}

/// A `SELECT setval(…)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Placing {
    /// The texts of its arguments.
    pub args: Vec<String>,
    /// The name of its column.
    pub column: String,
    pub over: Option<PlacedOver>,
}

/// Where the number is computed of rows, as by `SELECT setval(…, max(id)) FROM …`.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedOver {
    /// SQL that gives the sequence's OID, the number, and whether it counts as given.
    pub asked: String,
    /// If the rows are of several shards.
    pub gather: Option<Box<Gather>>,
}

/// A multi-row INSERT … VALUES. Byte ranges are of the planned text.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Each row's text including its parentheses, and its key.
    pub rows: Vec<(Range<usize>, KeySource)>,
    /// Whether RETURNING gives exactly one row per row inserted, so that the order can be restored.
    pub returning: bool,
    pub dated: Option<Dated>,
    /// Where DEFAULT stands for the time of the transaction, rising, and the default.
    pub told: Vec<(usize, String)>,
}

/// Columns whose default is the time of the transaction: one value for all shards, which the proxy
/// adds to the statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    /// Their names, quoted.
    pub columns: Vec<String>,
    /// Their defaults.
    pub defaults: Vec<String>,
    /// Where in the text the list of columns ends.
    pub list_end: usize,
}

/// A COPY … FROM STDIN of a sharded table.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyFrom {
    pub format: CopyFormat,
    /// Position of the tenant column in the data's columns.
    pub key_column: usize,
    pub kind: KeyType,
    /// Text and CSV only.
    pub dated: Option<Dated>,
}

/// Statements about the session that the proxy carries out itself. Byte-exact text is at hand where
/// a server must see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Local {
    /// BEGIN / START TRANSACTION.
    Begin {
        read_only: Option<bool>,
        isolation: Option<Isolation>,
    },
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    RollbackTo(String),
    Release(String),
    /// `SET name TO …` of a server's setting, `is_local` for SET LOCAL; `value` if it is one constant.
    /// `name` is lower case. SET TIME ZONE, SET NAMES, SET ROLE come under their settings' names;
    /// SET SESSION CHARACTERISTICS as `session characteristics`.
    Set {
        name: String,
        value: Option<String>,
        is_local: bool,
    },
    /// SET TRANSACTION ….
    SetTransaction {
        read_only: Option<bool>,
        isolation: Option<Isolation>,
    },
    /// `SET sluice.name = 'value'`; `None` resets.
    SetSluice {
        name: String,
        value: Option<String>,
        is_local: bool,
    },
    /// `SHOW sluice.name`.
    ShowSluice(String),
    /// `RESET name`; `None` is RESET ALL.
    Reset(Option<String>),
    DiscardAll,
    /// PREPARE TRANSACTION on the one shard: ends the block.
    PrepareTransaction,
    /// SQL-level DEALLOCATE; `None` is ALL.
    Deallocate(Option<String>),
    /// `EXPLAIN (SLUICE) statement`: the explained statement's byte range.
    Explain(Range<usize>),
    /// DECLARE of a cursor, with the plan of its query.
    Declare {
        /// Its name as Postgres folds it.
        cursor: String,
        query: Arc<Plan>,
        /// The query's byte range.
        range: Range<usize>,
        /// WITH HOLD: outlives the transaction, so that the session must keep its server.
        is_holdable: bool,
    },
    /// SQL-level PREPARE: parameter types as written (OIDs, 0 if unknown) and the statement's byte
    /// range.
    Prepare {
        name: String,
        types: Vec<u32>,
        statement: Range<usize>,
    },
    /// SQL-level EXECUTE: the arguments' byte range, without the parentheses.
    Execute {
        name: String,
        args: Option<Range<usize>>,
    },
    /// FETCH or MOVE: goes where the cursor was declared.
    Fetch(String),
    /// CLOSE of a cursor (`None`: CLOSE ALL).
    Close(Option<String>),
    /// LISTEN; the channel as Postgres folds it.
    Listen(String),
    /// UNLISTEN; `None`: `*`.
    Unlisten(Option<String>),
    /// `SELECT pg_listening_channels()`, or `SELECT * FROM` it.
    ListeningChannels,
    /// An empty statement.
    Empty,
}

/// A transaction isolation level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}
