//! The analysis of a statement: one walk over every level, which fills the graph of keys and notes
//! whatever decides where the statement may run.

use std::rc::Rc;

use super::block::{Dist, Outcome, State};
use super::from::Frame;
use super::functions::{self, Traits};
use super::graph::{Graph, NodeId};
use super::names::{Found, Names, resolve};
use super::predicate::Mode;
use super::refuse;
use super::types::{Type, is_exact_number, type_of};
use crate::catalog::{Catalog, FunctionKind, Volatility};
use crate::error::PgError;
use crate::sql::parse::tree::{Call, Expr, Kind, Literal, SubForm, SubQuery, TypeName};

/// Why a session keeps its server after a function that may have changed it.
pub(super) const SUSPECT: &str = "function that may change the session";

/// What the walk found, apart from keys.
#[derive(Debug)]
pub(super) struct Facts {
    /// Tables of the home shard are read or written.
    pub(super) has_home: bool,
    pub(super) has_reference: bool,
    /// Whether a table or view is read or written that is not of the system's.
    pub(super) beyond_system: bool,
    /// Whether it depends on the time.
    pub(super) tells_time: bool,
    /// Why the statement is refused wherever there is more than one shard.
    pub(super) refusal: Option<PgError>,
    /// Why it is refused, even in a session that has named its tenant.
    pub(super) forbidden: Option<PgError>,
    /// A number is taken of a sequence that only the home shard may count.
    pub(super) has_home_number: bool,
    /// Why several shards cannot run the statement.
    pub(super) not_fanned: Option<PgError>,
    pub(super) volatility: Volatility,
    /// A function whose volatility is not known.
    pub(super) has_unknown_function: bool,
    /// A function or value that is not the same on every shard or at every time.
    pub(super) has_unstable_value: bool,
    pub(super) has_locks: bool,
    /// An INSERT, UPDATE, DELETE or MERGE is inside.
    pub(super) modifies: bool,
    /// A function that belongs to the home shard.
    pub(super) needs_home: bool,
    pub(super) pin: Option<&'static str>,
    /// An advisory lock is taken.
    pub(super) has_advisory: bool,
    pub(super) set_configs: usize,
    /// Settings made by set_config that outlive the transaction; `None` for a name that is no literal.
    pub(super) set_for_session: Vec<Option<String>>,
    /// Whether it asks for the channels that the session listens on.
    pub(super) asks_channels: bool,
    /// Name of a reference table that is written.
    pub(super) writes_reference: Option<String>,
    /// A position in GROUP BY or DISTINCT ON was read: its literal's value matters.
    pub(super) has_ordinals: bool,
    /// Inside the rows of VALUES that go to one shard each: random values need not agree.
    pub(super) in_rows: bool,
    /// Columns that an INSERT leaves out and whose default is the transaction's time, with that default.
    pub(super) dated: Vec<(String, String)>,
    /// Where rows of VALUES say DEFAULT for such a column, and the default.
    pub(super) told: Vec<(usize, String)>,
    /// A function is called that may write tables with keys over shards.
    pub(super) calls_writer: bool,
    /// Names of tables and views that are not in the catalog.
    pub(super) unknown_tables: Vec<String>,
    /// Names of all tables and views.
    pub(super) tables: Vec<String>,
}

impl Facts {
    /// Whether there is a reason not to run it over several shards at all.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal.is_some() || self.forbidden.is_some()
    }
}

/// The state of the walk.
pub(super) struct Analyzer<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) path: Rc<[String]>,
    pub(super) param_types: &'a [u32],
    pub(super) sql: &'a str,
    /// The statement's bytes in `sql`.
    pub(super) range: std::ops::Range<usize>,
    /// Whether the outermost query is to be merged, and how.
    pub(super) wants_merge: bool,
    pub(super) merged: Option<Result<crate::merge::MergeSpec, PgError>>,
    pub(super) graph: Graph,
    /// What names mean, outermost level first.
    pub(super) levels: Vec<Names>,
    /// The query blocks around the current point.
    pub(super) blocks: Vec<State>,
    pub(super) next_block: usize,
    pub(super) frames: Vec<Frame>,
    /// Views around the current point; offsets there are not of the statement.
    pub(super) view_depth: usize,
    pub(super) facts: Facts,
    /// What would have to be gathered, if that is asked.
    pub(super) gathering: Option<super::gather::Gathering>,
    /// The columns of the RETURNING looked at last, and whether they are all.
    pub(super) returned: Option<(Vec<super::block::OutCol>, bool)>,
    /// The same as they are shipped.
    pub(super) shipped: Option<Vec<crate::plan::gather::FragmentColumn>>,
    /// What the only column of the SELECT looked at last stands for, if it is a fragment's.
    pub(super) first_target: Option<super::names::Place>,
    /// Whether an UPDATE may move rows to other shards.
    pub(super) moves: bool,
    /// The key that it gives them, if its text or parameters tell.
    pub(super) new_key: Option<crate::plan::KeySource>,
    /// Whether the rows that the outermost query locks are found first, so that LIMIT may choose among them.
    pub(super) finds_first: bool,
    /// Names of columns that mean nothing here.
    pub(super) unresolved: Vec<Vec<String>>,
}

impl<'a> Analyzer<'a> {
    pub(super) fn new(
        catalog: &'a Catalog,
        path: Rc<[String]>,
        param_types: &'a [u32],
        sql: &'a str,
        range: std::ops::Range<usize>,
    ) -> Self {
        let facts = Facts {
            has_home: false,
            has_reference: false,
            refusal: None,
            forbidden: None,
            has_home_number: false,
            not_fanned: None,
            beyond_system: false,
            tells_time: false,
            volatility: Volatility::Immutable,
            has_unknown_function: false,
            has_unstable_value: false,
            has_locks: false,
            modifies: false,
            needs_home: false,
            pin: None,
            has_advisory: false,
            set_configs: 0,
            set_for_session: Vec::new(),
            asks_channels: false,
            writes_reference: None,
            has_ordinals: false,
            in_rows: false,
            dated: Vec::new(),
            told: Vec::new(),
            calls_writer: false,
            unknown_tables: Vec::new(),
            tables: Vec::new(),
        };
        Self {
            catalog,
            path,
            param_types,
            sql,
            range,
            wants_merge: false,
            merged: None,
            graph: Graph::default(),
            levels: Vec::new(),
            blocks: Vec::new(),
            next_block: 0,
            frames: Vec::new(),
            view_depth: 0,
            facts,
            gathering: None,
            returned: None,
            shipped: None,
            first_target: None,
            moves: false,
            new_key: None,
            finds_first: false,
            unresolved: Vec::new(),
        }
    }

    /// The innermost query block.
    pub(super) fn state(&mut self) -> &mut State {
        self.blocks.last_mut().expect("a block is entered before anything in it is looked at")
    }

    pub(super) fn block(&self) -> usize {
        self.blocks.last().map_or(0, |it| it.id)
    }

    /// Refuses the statement wherever there are several shards; the first reason is told.
    pub(super) fn refuse(&mut self, error: PgError) {
        self.facts.refusal.get_or_insert(error);
    }

    /// Notes that several shards cannot run the statement.
    pub(super) fn not_fanned(&mut self, error: PgError) {
        self.facts.not_fanned.get_or_insert(error);
    }

    /// Notes that the current block does not fall apart by tenant.
    pub(super) fn not_by_tenant(&mut self, error: PgError) {
        self.state().error.get_or_insert(error);
    }

    pub(super) fn resolve(&self, names: &[String]) -> Found {
        resolve(&self.levels, names)
    }

    /// The key column an expression is, if it is nothing but a column.
    pub(super) fn node_of(&self, expr: &Expr) -> Option<NodeId> {
        match &expr.kind {
            Kind::Column(names) => self.resolve(names).node(),
            _ => None,
        }
    }

    pub(super) fn exprs<'e>(&mut self, exprs: impl IntoIterator<Item = &'e Expr>) {
        for expr in exprs {
            self.expr(expr);
        }
    }

    /// Looks at an expression that is no predicate.
    pub(super) fn expr(&mut self, expr: &Expr) {
        match &expr.kind {
            Kind::Column(names) => self.column(names, expr.at),
            Kind::Star(names) => {
                self.needs_star(names, expr.at);
                self.not_fanned(refuse::over_shards(
                    "a whole-row reference",
                    "The type of a row has another OID on each shard.",
                ));
            }
            Kind::Literal(Literal::Text(text)) if is_time_word(text) => {
                self.not_fanned(refuse::not_immutable(&format!("the value '{text}'")));
            }
            Kind::Cast(inner, ty) => {
                self.cast(ty);
                self.expr(inner);
            }
            Kind::Sub(sub) => self.sub(sub, None),
            Kind::Call(call) => {
                let is_now = call.args.is_empty() && self.is_builtin_now(call);
                if !(is_now && self.replace_now(&call.name, expr.at)) {
                    self.call(call);
                } else {
                    self.facts.volatility = self.facts.volatility.max(Volatility::Stable);
                }
            }
            Kind::Value(name) => {
                if !self.replace_now(name, expr.at) {
                    self.value(name);
                }
            }
            Kind::Op(op) => {
                if op.schema.as_deref().is_some_and(|it| it != "pg_catalog") {
                    self.refuse(refuse::function(&op.name));
                }
                self.exprs(expr.children());
            }
            Kind::Opaque(what) => self.refuse(opaque(what)),
            Kind::CurrentOf(_) => self.refuse(
                PgError::refused("WHERE CURRENT OF is not supported")
                    .detail("The row of a cursor lies on the shard the cursor was declared on.")
                    .hint("Name the row by its key, or SET sluice.tenant."),
            ),
            _ => self.exprs(expr.children()),
        }
    }

    fn cast(&mut self, ty: &TypeName) {
        if ty.name.starts_with("reg") {
            self.not_fanned(refuse::over_shards(
                &format!("a cast to {}", ty.name),
                "OIDs of user-defined objects differ from shard to shard.",
            ));
        }
    }

    fn column(&mut self, names: &[String], at: usize) {
        const SYSTEM: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];
        let last = names.last().map_or("", String::as_str);
        if SYSTEM.contains(&last) {
            self.facts.has_unstable_value = true;
            let error = refuse::over_shards(
                &format!("the system column {last}"),
                "Its values mean something on one shard only.",
            );
            self.not_gathered(error.clone());
            self.not_fanned(error);
        }
        self.needs_column(names, at);
        let found = self.resolve(names);
        if matches!(found, Found::Unknown) {
            self.unresolved.push(names.to_vec());
        }
        if matches!(found, Found::Row) {
            self.not_fanned(refuse::over_shards(
                &format!("the whole-row reference {last}"),
                "The type of a row has another OID on each shard.",
            ));
        }
    }

    /// CURRENT_TIMESTAMP and the like.
    fn value(&mut self, name: &'static str) {
        self.facts.volatility = self.facts.volatility.max(Volatility::Stable);
        if name.contains("time") || name.contains("date") {
            self.facts.has_unstable_value = true;
            self.facts.tells_time = true;
            self.not_fanned(refuse::not_immutable(&name.to_uppercase()));
        }
    }

    /// Whether it is Postgres' own `now()`.
    pub(super) fn is_builtin_now(&self, call: &Call) -> bool {
        call.schema.is_none()
            && matches!(call.name.as_str(), "now" | "transaction_timestamp")
            && functions::traits(self.catalog, &self.path, call).is_some_and(|it| it.is_builtin)
    }

    fn call(&mut self, call: &Call) {
        let traits = functions::traits(self.catalog, &self.path, call);
        match traits {
            // Its argument names a sequence that is on every shard.
            Some(traits) if self.known_call(call, traits) => return,
            Some(_) => (),
            None => {
                self.facts.has_unknown_function = true;
                self.facts.calls_writer = true;
                self.refuse(refuse::function(&call.name));
            }
        }
        if traits.is_some_and(|it| it.kind == FunctionKind::Aggregate) {
            self.check_input_order(call, traits.is_some_and(|it| it.is_builtin));
        }
        if let Some(over) = &call.over {
            self.exprs(over.children());
            let mut window = over.clone();
            // `OVER name` uses the window; `OVER (name …)` extends it.
            window.base = window.base.or(window.name.take());
            self.state().windows.push(window);
        } else if traits.is_some_and(|it| it.kind == FunctionKind::Aggregate) {
            self.aggregate(call);
        }
        self.arguments(call);
        self.exprs(&call.filter);
        self.exprs(call.order.iter().map(|it| &it.expr));
    }

    /// A whole row as the argument of `to_jsonb` and the like has no OID in its result.
    fn arguments(&mut self, call: &Call) {
        let takes_rows = ["row_to_json", "to_json", "to_jsonb", "count", "json_agg", "jsonb_agg"];
        for arg in &call.args {
            let is_row = match &arg.kind {
                Kind::Column(names) => matches!(self.resolve(names), Found::Row),
                Kind::Star(_) => true,
                _ => false,
            };
            if !(is_row && call.schema.is_none() && takes_rows.contains(&call.name.as_str())) {
                self.expr(arg);
                continue;
            }
            match &arg.kind {
                Kind::Column(names) => self.needs_column(names, arg.at),
                Kind::Star(names) => self.needs_star(names, arg.at),
                _ => (),
            }
        }
    }

    /// Whether it takes a number of a sequence that shards share.
    fn known_call(&mut self, call: &Call, traits: Traits) -> bool {
        if !traits.is_table_free {
            self.refuse(refuse::function(&call.name));
        }
        self.facts.calls_writer |= self.catalog.unique_writers.contains(&call.name);
        if traits.is_trusted {
            self.not_gathered(
                PgError::refused(format!("function {} over several shards is not supported", call.name))
                    .detail("It is trusted to stay with its tenant's rows, which lie on that tenant's shard.")
                    .hint(refuse::ONE_TENANT),
            );
        }
        let tells = traits.is_builtin && functions::tells_of_server(&call.name);
        let volatility = if tells { Volatility::Stable } else { traits.volatility };
        self.facts.volatility = self.facts.volatility.max(volatility);
        if traits.is_builtin && call.name == "set_config" {
            let is_local = Kind::Literal(Literal::Bool(true));
            let is_local = call.args.get(2).is_some_and(|it| it.kind == is_local);
            self.facts.set_configs += 1;
            if !is_local {
                let name = call.args.first().map(|it| &it.kind);
                self.facts.set_for_session.push(match name {
                    Some(Kind::Literal(Literal::Text(name))) => Some(name.to_lowercase()),
                    _ => None,
                });
            }
        }
        if !traits.is_builtin && self.catalog.suspects.functions.contains(&call.name) {
            self.facts.pin = self.facts.pin.or(Some(SUSPECT));
        }
        const TIMES: [&str; 4] = ["now", "transaction_timestamp", "statement_timestamp", "age"];
        self.facts.tells_time |= TIMES.contains(&call.name.as_str());
        self.facts.asks_channels |= traits.is_builtin && call.name == "pg_listening_channels";
        if traits.is_builtin && functions::is_advisory(&call.name) {
            self.facts.has_advisory = true;
        }
        if traits.is_builtin && call.name == "unique_id" && !self.catalog.makes_ids {
            self.forbid(super::sequences::no_ids());
        }
        let is_shared = traits.is_builtin && self.sequence_call(call);
        let home = functions::belongs_home(&call.name);
        let home = home.filter(|_| traits.is_builtin && !tells && !is_shared);
        if let Some(pin) = home {
            self.facts.needs_home = true;
            self.facts.pin = self.facts.pin.or(pin);
        }
        let is_fixed = traits.is_builtin && functions::depends_on_settings_only(call);
        let is_random = is_shared || traits.is_builtin && functions::is_random(&call.name);
        let is_random = is_random && self.facts.in_rows;
        if traits.volatility > Volatility::Immutable && !is_fixed && !is_random {
            self.facts.has_unstable_value = true;
            self.not_fanned(refuse::not_immutable(&format!("function {}", call.name)));
        }
        is_shared
    }

    fn aggregate(&mut self, call: &Call) {
        if self.is_of_outer_block(call) {
            self.not_fanned(refuse::over_shards(
                "an aggregate of an outer query",
                format!("{} in a subquery is computed by the query around it.", call.name),
            ));
        }
        let is_exact =
            |it: &Expr| type_of(&self.levels, it).is_some_and(|it| is_exact_number(it.oid));
        let is_rounded = ["sum", "avg"].contains(&call.name.as_str())
            && !call.args.first().is_some_and(is_exact);
        let ignores_order = functions::ignores_order(&call.name) && !is_rounded;
        let state = self.state();
        state.has_aggregate = true;
        state.is_ordered |= !ignores_order;
    }

    /// Whether the aggregate's arguments name no column of this block, so that Postgres computes it
    /// in a block further out.
    fn is_of_outer_block(&self, call: &Call) -> bool {
        if self.blocks.len() < 2 {
            return false;
        }
        let (mut own, mut outer) = (false, false);
        let mut queue: Vec<&Expr> = call.args.iter().chain(&call.filter).collect();
        while let Some(expr) = queue.pop() {
            if let Kind::Column(names) = &expr.kind {
                match self.resolve(names) {
                    Found::Column { block, .. } if block == self.block() => own = true,
                    _ => outer = true,
                }
            }
            queue.extend(expr.children());
        }
        outer && !own
    }

    /// A subquery; `mode` if it is a conjunct of a predicate.
    pub(super) fn sub(&mut self, sub: &SubQuery, mode: Option<&Mode>) {
        self.exprs(&sub.test);
        self.first_target = None;
        let outcome = self.query(&sub.query);
        let first_target = self.first_target.take();
        let is_in = sub.form == SubForm::Any
            && sub.op.as_ref().is_some_and(|(schema, name)| {
                name == "=" && schema.as_deref().is_none_or(|it| it == "pg_catalog")
            });
        if is_in {
            if let Some(test) = &sub.test {
                self.reduce(test, first_target, mode);
            }
            let tests = self.tests(sub);
            self.membership(&tests, &outcome, mode);
            if self.is_semi_join(&tests, &outcome) {
                return;
            }
        }
        self.inner_result(outcome.dist);
    }

    /// The columns on the left side of IN.
    fn tests(&self, sub: &SubQuery) -> Vec<Option<NodeId>> {
        match &sub.test {
            Some(Expr { kind: Kind::Row(items), .. }) => {
                items.iter().map(|it| self.node_of(it)).collect()
            }
            Some(test) => vec![self.node_of(test)],
            None => Vec::new(),
        }
    }

    /// `column IN (SELECT column …)`: what confines one side confines the other.
    fn membership(&mut self, tests: &[Option<NodeId>], outcome: &Outcome, mode: Option<&Mode>) {
        if !outcome.complete || outcome.cols.len() != tests.len() {
            return;
        }
        for (test, col) in tests.iter().zip(&outcome.cols) {
            let Some(test) = *test else { continue };
            for inner in &col.nodes {
                if col.passes_down {
                    self.graph.edge(test, *inner);
                }
                let confines = mode.is_some_and(|it| it.may_confine(test, self));
                if col.nodes.len() == 1 && confines {
                    self.graph.edge(*inner, test);
                }
            }
        }
    }

    /// Whether the subquery's rows of one tenant are all that a row of that tenant is compared with.
    fn is_semi_join(&mut self, tests: &[Option<NodeId>], outcome: &Outcome) -> bool {
        if !matches!(outcome.dist, Ok(Dist::Tenant))
            || !outcome.complete
            || outcome.cols.len() != tests.len()
        {
            return false;
        }
        let block = self.block();
        for (test, col) in tests.iter().zip(&outcome.cols) {
            let Some(test) = *test else { continue };
            let is_own = self.graph.block(test) == block;
            let same_kind =
                col.nodes.iter().all(|it| self.graph.kind(*it) == self.graph.kind(test));
            if col.exact && same_kind && is_own && !self.state().nullable.contains(&test) {
                self.state().requirements.push(test);
                return true;
            }
        }
        false
    }

    /// What a subquery in an expression or a LATERAL one means for the block around it.
    pub(super) fn inner_result(&mut self, dist: Result<Dist, PgError>) {
        match dist {
            Ok(Dist::Free) => (),
            Ok(Dist::Anchored(anchors)) => self.state().requirements.extend(anchors),
            Ok(Dist::Tenant) => self.not_by_tenant(refuse::over_shards(
                "a subquery over all tenants",
                "The subquery's rows lie on several shards.",
            )),
            Err(error) => self.not_by_tenant(error),
        }
    }

    /// The type of a catalog column.
    pub(super) fn column_type(column: &crate::catalog::Column) -> Type {
        Type {
            oid: column.type_oid,
            is_bytewise: column.collation_is_c,
            is_deterministic: column.collation_is_deterministic,
        }
    }
}

pub(super) fn opaque(what: &str) -> PgError {
    PgError::refused(format!("{what} is not supported"))
        .detail("The proxy cannot tell which tables it reads.")
        .hint("Write it another way, or SET sluice.tenant.")
}

/// `now`, `today`, …: date and time input that means another moment each time.
pub(super) fn is_time_word(text: &str) -> bool {
    let text = text.trim_start().to_ascii_lowercase();
    ["now", "today", "tomorrow", "yesterday"].iter().any(|it| {
        text.strip_prefix(it).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    })
}
