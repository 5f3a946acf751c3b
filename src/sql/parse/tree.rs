//! The statement tree: what the planner looks at, with byte offsets into the text. Everything else
//! of the grammar is left out, or kept as an opaque word that compares equal only to itself.

use std::ops::Range;

/// One statement of a text.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its bytes in the text, without surrounding white space and semicolon.
    pub range: Range<usize>,
    pub kind: Stmt,
}

/// The statements the planner tells apart.
#[derive(Clone, Debug)]
pub enum Stmt {
    Query(Box<Query>),
    Insert(Box<Insert>),
    Update(Box<Update>),
    Delete(Box<Delete>),
    Merge(Box<MergeInto>),
    Copy(Box<Copy>),
    Explain(Box<Explain>),
    CreateAs(Box<CreateAs>),
    Session(Session),
    Truncate(Vec<TableName>),
    Lock(Vec<TableName>),
    Maintain(Maintain),
    Ddl(Box<Ddl>),
    /// DO.
    Do,
    /// CALL.
    Call(Box<Expr>),
    /// A command that belongs to one fixed server, by its first word (NOTIFY, LOAD).
    Fixed(&'static str),
    /// Grammar the proxy does not know.
    Unknown(String),
}

/// Statements about the session.
#[derive(Clone, Debug)]
pub enum Session {
    Begin(Modes),
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    RollbackTo(String),
    Release(String),
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TwoPhase(&'static str),
    Set {
        name: String,
        value: Option<String>,
        is_local: bool,
    },
    SetTransaction(Modes),
    Reset(Option<String>),
    Show(String),
    /// DISCARD, by its object: `all`, `plans`, `sequences`, `temp`.
    Discard(&'static str),
    Prepare {
        name: String,
        types: Vec<TypeName>,
        inner: Box<Statement>,
    },
    Execute {
        name: String,
        args: Vec<Expr>,
        range: Option<Range<usize>>,
    },
    Deallocate(Option<String>),
    Declare {
        cursor: String,
        hold: bool,
        inner: Box<Statement>,
    },
    /// FETCH, MOVE; the cursor.
    Fetch(String),
    /// CLOSE; `None`: ALL.
    Close(Option<String>),
    /// SET CONSTRAINTS.
    SetConstraints,
    /// LISTEN; the channel as Postgres folds it.
    Listen(String),
    /// UNLISTEN; `None`: `*`.
    Unlisten(Option<String>),
}

/// Transaction modes as written; `unknown` if a mode is none of these.
#[derive(Clone, Debug, Default)]
pub struct Modes {
    pub read_only: Option<bool>,
    /// `read committed`, …
    pub isolation: Option<String>,
    pub deferrable: Option<bool>,
    pub unknown: bool,
}

/// EXPLAIN.
#[derive(Clone, Debug)]
pub struct Explain {
    pub analyze: bool,
    /// Whether the option SLUICE is given.
    pub sluice: bool,
    /// Whether the plan is asked for as text, not as JSON or the like.
    pub is_text: bool,
    pub inner: Statement,
}

/// CREATE TABLE AS, SELECT INTO, CREATE MATERIALIZED VIEW.
#[derive(Clone, Debug)]
pub struct CreateAs {
    pub table: TableName,
    pub is_temporary: bool,
    pub is_materialized_view: bool,
    /// The columns' own names, if any are given.
    pub columns: Vec<String>,
    /// Not WITH NO DATA.
    pub with_data: bool,
    pub if_not_exists: bool,
    pub is_select_into: bool,
    pub query: Stmt,
}

/// VACUUM, ANALYZE, REINDEX, CLUSTER, …
#[derive(Clone, Debug)]
pub struct Maintain {
    pub what: &'static str,
    pub tables: Vec<TableName>,
}

/// A schema change.
#[derive(Clone, Debug)]
pub struct Ddl {
    /// `CREATE TABLE`, …
    pub what: String,
    pub kind: DdlKind,
    /// The database to which nobody may be connected for this: DROP DATABASE and the like.
    pub leaves: Option<String>,
}

/// The schema changes whose content matters.
#[derive(Clone, Debug)]
pub enum DdlKind {
    CreateTable(CreateTable),
    AlterTable {
        table: TableName,
        changes: Vec<AlterTable>,
    },
    CreateIndex {
        table: TableName,
        /// Its name, if it is given.
        index: Option<String>,
        unique: bool,
        concurrently: bool,
        columns: Vec<Option<String>>,
    },
    RenameColumn {
        table: TableName,
        column: String,
        to: String,
    },
    RenameTable {
        table: TableName,
        to: String,
    },
    CreateView {
        is_temporary: bool,
        view: TableName,
        query: Stmt,
    },
    CreateSequence {
        is_temporary: bool,
        sequence: TableName,
    },
    AlterSequence {
        sequence: TableName,
    },
    /// DROP TABLE, VIEW, …
    Drop {
        tables: Vec<TableName>,
        concurrently: bool,
    },
    /// CREATE DATABASE, DROP DATABASE.
    Database,
    /// Cannot run in a transaction.
    OutsideTransaction,
    Other,
}

/// CREATE TABLE.
#[derive(Clone, Debug)]
pub struct CreateTable {
    pub table: TableName,
    pub is_temporary: bool,
    pub columns: Vec<ColumnDef>,
    pub constraints: Vec<Constraint>,
    /// LIKE, INHERITS, OF: columns that the text does not show.
    pub parents: Vec<TableName>,
    pub is_partition: bool,
}

/// A column definition.
#[derive(Clone, Debug)]
pub struct ColumnDef {
    pub name: String,
    pub ty: Option<TypeName>,
    pub default: Option<Expr>,
    pub is_identity: bool,
    pub constraints: Vec<Constraint>,
    /// ADD COLUMN IF NOT EXISTS.
    pub if_not_exists: bool,
}

/// A constraint that may reach over rows.
#[derive(Clone, Debug)]
pub enum Constraint {
    /// PRIMARY KEY or UNIQUE; no columns when written at a column or `USING INDEX`.
    Unique {
        columns: Vec<String>,
        using_index: bool,
    },
    Exclusion {
        columns: Vec<Option<String>>,
    },
    Foreign {
        columns: Vec<String>,
        table: TableName,
        referenced: Vec<String>,
    },
}

/// An ALTER TABLE command.
#[derive(Clone, Debug)]
pub enum AlterTable {
    AddColumn(ColumnDef),
    AddConstraint(Constraint),
    DropColumn(String),
    ColumnType(String),
    /// SET DEFAULT.
    Default {
        column: String,
        default: Option<Expr>,
    },
    Identity {
        column: String,
    },
    /// ATTACH PARTITION, INHERIT.
    Attach(TableName),
    Other,
}

/// A possibly qualified table name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// Of another database: refused by Postgres.
    pub catalog: Option<String>,
    pub schema: Option<String>,
    pub name: String,
}

/// A query: SELECT, VALUES, TABLE or a set operation, with its clauses.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub with: Option<With>,
    pub body: Body,
    pub order: Vec<SortBy>,
    pub limit: Option<Expr>,
    pub offset: Option<Expr>,
    pub with_ties: bool,
    /// FOR UPDATE, SHARE, ….
    pub has_locks: bool,
    /// What they do about rows that others have locked.
    pub wait: Wait,
}

/// What FOR UPDATE does about a row that another transaction has locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    #[default]
    Block,
    /// SKIP LOCKED.
    Skip,
    /// NOWAIT.
    Fail,
    /// Several clauses that differ in it.
    Mixed,
}

/// WITH.
#[derive(Clone, Debug, PartialEq)]
pub struct With {
    pub recursive: bool,
    pub ctes: Vec<Cte>,
}

/// A common table expression.
#[derive(Clone, Debug)]
pub struct Cte {
    pub name: String,
    pub columns: Vec<String>,
    pub materialized: bool,
    /// SEARCH or CYCLE is given.
    pub has_search: bool,
    pub body: Stmt,
}

impl PartialEq for Cte {
    /// MERGE is never equal.
    fn eq(&self, other: &Self) -> bool {
        let bodies = match (&self.body, &other.body) {
            (Stmt::Query(a), Stmt::Query(b)) => a == b,
            (Stmt::Insert(a), Stmt::Insert(b)) => a == b,
            (Stmt::Update(a), Stmt::Update(b)) => a == b,
            (Stmt::Delete(a), Stmt::Delete(b)) => a == b,
            _ => false,
        };
        bodies
            && (&self.name, &self.columns, self.materialized, self.has_search)
                == (&other.name, &other.columns, other.materialized, other.has_search)
    }
}

/// What gives a query its rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Select(Box<Select>),
    Values(Vec<Vec<Expr>>),
    SetOperation { op: SetOp, all: bool, left: Box<Query>, right: Box<Query> },
}

/// A set operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOp {
    Union,
    Intersect,
    Except,
}

/// SELECT … FROM … WHERE … GROUP BY … HAVING … WINDOW.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    pub distinct: Distinct,
    pub targets: Vec<Target>,
    /// SELECT INTO.
    pub into: bool,
    pub from: Vec<From>,
    pub filter: Option<Expr>,
    pub group: Vec<Expr>,
    /// ROLLUP, CUBE, GROUPING SETS, or GROUP BY DISTINCT.
    pub has_grouping_sets: bool,
    pub having: Option<Expr>,
    pub windows: Vec<Window>,
}

/// DISTINCT.
#[derive(Clone, Debug, PartialEq)]
pub enum Distinct {
    No,
    Rows,
    On(Vec<Expr>),
}

/// An item of a target list.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub alias: Option<String>,
    pub expr: Expr,
}

/// A byte offset in the text. Equality leaves it out.
#[derive(Clone, Copy, Debug, Default)]
pub struct At(pub usize);

impl PartialEq for At {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// An item of FROM.
#[derive(Clone, Debug, PartialEq)]
pub enum From {
    Table {
        name: TableName,
        alias: Option<Alias>,
        /// Where the name starts.
        at: At,
        /// ONLY: without the tables that inherit from it.
        is_only: bool,
    },
    Query {
        query: Box<Query>,
        alias: Option<Alias>,
        lateral: bool,
    },
    /// Functions, XMLTABLE; `named_columns` if a column definition list is given.
    Function {
        calls: Vec<Expr>,
        alias: Option<Alias>,
        name: Option<String>,
    },
    Join(Box<Join>),
    /// TABLESAMPLE.
    Sample {
        table: Box<Self>,
        args: Vec<Expr>,
    },
}

/// A join.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    pub kind: JoinKind,
    pub left: From,
    pub right: From,
    pub natural: bool,
    pub using: Vec<String>,
    pub on: Option<Expr>,
    pub alias: Option<Alias>,
    /// Alias of USING's columns.
    pub using_alias: bool,
}

/// How a join treats rows without a partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

/// `AS name (columns)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    pub name: String,
    pub columns: Vec<String>,
}

/// An item of ORDER BY.
#[derive(Clone, Debug, PartialEq)]
pub struct SortBy {
    pub expr: Expr,
    pub descending: bool,
    pub nulls_first: Option<bool>,
    /// `USING operator`.
    pub using: bool,
}

/// A window definition, named or of OVER.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    pub name: Option<String>,
    /// `OVER name`, or the window it extends.
    pub base: Option<String>,
    pub partition: Vec<Expr>,
    pub order: Vec<SortBy>,
    pub frame: (i32, Vec<Expr>),
}

/// An expression and the offset the parser reports for it (for literals and parameters: of their
/// token). Equality leaves offsets out.
#[derive(Clone, Debug)]
pub struct Expr {
    pub at: usize,
    pub kind: Kind,
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Expr {
    /// The operands, without subqueries.
    pub fn children(&self) -> Vec<&Self> {
        match &self.kind {
            Kind::Cast(inner, _) | Kind::Collate(inner, _) | Kind::Not(inner) => vec![inner],
            Kind::Op(op) => op.left.iter().chain(&op.right).collect(),
            Kind::And(all) | Kind::Or(all) | Kind::Array(all) | Kind::Row(all) => {
                all.iter().collect()
            }
            Kind::List(all) | Kind::Other { children: all, .. } => all.iter().collect(),
            Kind::Call(call) => call.children(),
            Kind::Sub(sub) => sub.test.iter().collect(),
            Kind::Column(_) | Kind::Star(_) | Kind::Literal(_) | Kind::Param(_) => Vec::new(),
            Kind::Value(_) | Kind::Default | Kind::CurrentOf(_) | Kind::Opaque(_) => Vec::new(),
        }
    }
}

impl Call {
    fn children(&self) -> Vec<&Expr> {
        let mut all: Vec<&Expr> = self.args.iter().chain(&self.filter).collect();
        all.extend(self.order.iter().map(|it| &it.expr));
        if let Some(window) = &self.over {
            all.extend(window.children());
        }
        all
    }
}

impl Window {
    /// The expressions of its clauses.
    pub fn children(&self) -> Vec<&Expr> {
        let order = self.order.iter().map(|it| &it.expr);
        self.partition.iter().chain(order).chain(&self.frame.1).collect()
    }
}

/// The kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A column reference, one to four names.
    Column(Vec<String>),
    /// `*` or `name.*`.
    Star(Vec<String>),
    Literal(Literal),
    /// `$n`, 1-based.
    Param(usize),
    Cast(Box<Expr>, TypeName),
    Collate(Box<Expr>, Vec<String>),
    Op(Box<Op>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Call(Box<Call>),
    Sub(Box<SubQuery>),
    Array(Vec<Expr>),
    Row(Vec<Expr>),
    /// The right side of IN, of a multiple assignment, ….
    List(Vec<Expr>),
    /// CURRENT_DATE, CURRENT_USER, …, in lower case.
    Value(&'static str),
    /// DEFAULT.
    Default,
    /// WHERE CURRENT OF cursor.
    CurrentOf(String),
    /// Anything else: what it is, the details that make it differ, its operands.
    Other {
        what: &'static str,
        detail: String,
        children: Vec<Expr>,
    },
    /// A construct the proxy cannot look into.
    Opaque(String),
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i32),
    /// A number that is no `int4`, as written.
    Number(String),
    Text(String),
    Bits(String),
}

/// An operator and its operands.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    pub form: OpForm,
    pub schema: Option<String>,
    pub name: String,
    pub left: Option<Expr>,
    pub right: Option<Expr>,
}

/// The forms of operator expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpForm {
    Plain,
    /// `op ANY (array)`.
    Any,
    /// `op ALL (array)`.
    All,
    /// `IN (list)`; `name` is `=` or `<>` for NOT IN.
    In,
    Distinct,
    NotDistinct,
    NullIf,
    Like,
    Between,
}

/// A function call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub schema: Option<String>,
    pub name: String,
    pub args: Vec<Expr>,
    /// `f(*)`.
    pub star: bool,
    pub distinct: bool,
    pub variadic: bool,
    /// ORDER BY inside, or WITHIN GROUP.
    pub order: Vec<SortBy>,
    pub within_group: bool,
    pub filter: Option<Expr>,
    pub over: Option<Window>,
}

/// A subquery in an expression.
#[derive(Clone, Debug, PartialEq)]
pub struct SubQuery {
    pub form: SubForm,
    /// The left side of IN, ANY, ALL.
    pub test: Option<Expr>,
    /// The operator of ANY and ALL; `=` for IN.
    pub op: Option<(Option<String>, String)>,
    pub query: Query,
}

/// The forms of subqueries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubForm {
    Exists,
    Any,
    All,
    Scalar,
    Array,
}

/// A type's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeName {
    pub schema: Option<String>,
    pub name: String,
    pub has_modifier: bool,
    pub is_array: bool,
    /// What else makes types differ: modifiers, SETOF, %TYPE.
    pub detail: String,
}

/// INSERT.
#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    pub with: Option<With>,
    pub table: TableName,
    pub alias: Option<Alias>,
    /// Empty: all columns in order. `None`: the column is subscripted.
    pub columns: Vec<String>,
    /// `None`: DEFAULT VALUES.
    pub source: Option<Query>,
    pub overriding: bool,
    pub conflict: Option<Conflict>,
    pub returning: Vec<Target>,
}

/// ON CONFLICT.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    pub target: ConflictTarget,
    pub set: Option<Vec<Assign>>,
    /// WHERE of the update.
    pub filter: Option<Expr>,
    /// Expressions and predicate of the target.
    pub others: Vec<Expr>,
}

/// What ON CONFLICT names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConflictTarget {
    None,
    Columns(Vec<Option<String>>),
    Constraint(String),
}

/// `column = expr` of SET; `expr` of a multiple assignment appears once per column.
#[derive(Clone, Debug, PartialEq)]
pub struct Assign {
    pub column: String,
    pub expr: Expr,
}

/// UPDATE.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub with: Option<With>,
    pub table: TableName,
    pub alias: Option<Alias>,
    pub set: Vec<Assign>,
    pub from: Vec<From>,
    pub filter: Option<Expr>,
    pub returning: Vec<Target>,
}

/// DELETE.
#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    pub with: Option<With>,
    pub table: TableName,
    pub alias: Option<Alias>,
    pub using: Vec<From>,
    pub filter: Option<Expr>,
    pub returning: Vec<Target>,
}

/// MERGE.
#[derive(Clone, Debug)]
pub struct MergeInto {
    pub with: Option<With>,
    pub table: TableName,
    pub alias: Option<Alias>,
    pub source: From,
    pub on: Expr,
    pub whens: Vec<When>,
    pub returning: Vec<Target>,
}

/// WHEN … THEN of MERGE.
#[derive(Clone, Debug)]
pub struct When {
    pub condition: Option<Expr>,
    pub action: WhenAction,
    /// NOT MATCHED BY SOURCE: rows of the target that no join restricts.
    pub by_source: bool,
}

/// What MERGE does with a row.
#[derive(Clone, Debug)]
pub enum WhenAction {
    Nothing,
    Delete,
    Update(Vec<Assign>),
    Insert { columns: Vec<String>, values: Vec<Expr> },
}

/// COPY.
#[derive(Clone, Debug)]
pub struct Copy {
    pub source: CopySource,
    pub columns: Vec<String>,
    pub is_from: bool,
    /// A file or a program of the server, instead of the client.
    pub is_server_side: bool,
    /// Lower-case names; the value if it is a word, number or string.
    pub options: Vec<(String, Option<String>)>,
    pub filter: Option<Expr>,
}

/// What COPY copies.
#[derive(Clone, Debug)]
pub enum CopySource {
    Table(TableName),
    Query(Stmt),
}
