//! Several shards' answers become one: concatenation, k-way merge by sort keys, DISTINCT,
//! re-aggregation, LIMIT and OFFSET, on wire frames. Pure: the driver of `exec` feeds frames in.
//!
//! * `machine`: the merge, stage by stage.
//! * `columns`: what a specification means for the types at hand.
//! * `stream`, `order`: rows that wait, sort keys, k-way merge.
//! * `group`, `aggregate`: groups and DISTINCT in memory.
//! * `value`, `numeric`, `time`: values as Postgres compares and adds them.
//! * `output`: LIMIT, OFFSET, hidden columns. `memory`: the bound.

mod aggregate;
pub mod arrays;
mod columns;
mod group;
mod machine;
mod memory;
mod numeric;
mod order;
mod output;
mod stream;
mod time;
mod value;

pub use columns::ColumnInfo;
pub use machine::{Merge, Step};
pub use memory::Limits;

/// How the rows of several shards are combined. Steps run in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MergeSpec {
    /// What every shard runs: the client's statement, rewritten. Uses the same parameters.
    pub shard_sql: String,
    /// Columns added at the end of the target list, removed from the answer.
    pub hidden: usize,
    /// Re-aggregation; groups are kept in memory, bounded.
    pub group: Option<Group>,
    /// Whether equal rows become one; in memory, bounded.
    pub distinct: bool,
    /// Sort keys. Without `group` or `distinct` the shards' streams come sorted by them.
    pub sort: Vec<SortKey>,
    pub limit: Option<Bound>,
    /// Whether shards change rows while they give theirs.
    pub modifies: bool,
    pub offset: Option<Bound>,
}

/// Partial aggregates of shards that become whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Columns that identify a group: all that are not in `aggregates`.
    pub keys: Vec<usize>,
    /// Aggregate columns: position in the answer, and how partial values combine.
    pub aggregates: Vec<(usize, Aggregate)>,
}

/// How the partial values of an aggregate combine. NULL is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// Counts are added; never NULL.
    Count,
    /// Sums are added exactly; int8 or numeric.
    Sum,
    Min,
    Max,
    /// `bool_and` / `every`.
    And,
    /// `bool_or`.
    Or,
}

/// One sort key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKey {
    pub column: ColumnAt,
    pub descending: bool,
    pub nulls_first: bool,
    /// Whether text in it is proven to be ordered by bytes.
    pub is_bytewise: bool,
}

/// A column of a shard's answer: counted from the start, or among the hidden ones at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnAt {
    Visible(usize),
    Hidden(usize),
}

/// The value of LIMIT or OFFSET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Literal(i64),
    /// `$index`, 1-based.
    Param(usize),
}
