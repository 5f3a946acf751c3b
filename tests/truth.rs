//! Random statements on one Postgres and through the proxy over four shards: each is answered alike or
//! refused. A fixed list of seeds runs as a test; `./dev truth --minutes N --seed S` runs seed after
//! seed, and `./dev truth --minutes 0 --seed S` repeats one.
//!
//! Everything random is a list of choices (`truth/choices.rs`), so what differs is shrunk by making the
//! list smaller, and printed as SQL that repeats it.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "truth/aggregate.rs"]
mod aggregate;
#[path = "truth/choices.rs"]
mod choices;
#[path = "truth/expr.rs"]
mod expr;
#[path = "truth/from.rs"]
mod from;
#[path = "truth/predicate.rs"]
mod predicate;
#[path = "truth/query.rs"]
mod query;
#[path = "truth/report.rs"]
mod report;
#[path = "truth/schema.rs"]
mod schema;
#[path = "truth/select.rs"]
mod select;
#[path = "truth/shrink.rs"]
mod shrink;
#[path = "truth/sides.rs"]
mod sides;
#[path = "truth/statement.rs"]
mod statement;
mod support;
#[path = "truth/values.rs"]
mod values;
#[path = "truth/write.rs"]
mod write;

use std::time::{Duration, Instant};

use choices::Choices;
use pgsluice::playground::Cluster;
use query::Generator;
use report::Report;
use schema::{Schema, TableKind};
use sides::{Sides, Verdict};
use statement::{Mode, Statement};
use support::proxy::{Proxy, wait_for};
use support::wire::Wire;

/// Differences of one seed that are shrunk; others are only counted.
const SHRUNK: usize = 2;

/// The servers and the proxy of a run.
struct Run {
    proxy: Proxy,
    sides: Sides,
    report: Report,
    /// Statements that ran.
    runs: usize,
}

impl Run {
    fn start() -> Self {
        let cluster: &'static Cluster = support::shared();
        let single = support::database("truth_one");
        let (mut spec, names) = support::four_shards("truth");
        // Rows are written behind the proxy's back, which replicas would show late.
        spec.shards.iter_mut().for_each(|it| it.replicas.clear());
        spec.database = "tenant_column = \"tenant_id\"\nhome_shard = 0\n\
             reference_tables = [\"r1\", \"r2\"]\n"
            .to_owned();
        spec.health = "interval = \"200ms\"\ncatalog_refresh = \"400ms\"\n".to_owned();
        for name in names.iter().chain([&single]) {
            // Compiling a statement takes longer than running it here.
            let sql = format!("ALTER DATABASE {name} SET jit = off");
            cluster.sql_everywhere("postgres", &sql).unwrap();
        }
        let login = |shard: usize, name: &str| {
            Wire::login(cluster.primary_port(shard / 2), "app", "app", name).unwrap()
        };
        let mut shards: Vec<Wire> = (0..4).map(|it| login(it, &names[it % 2])).collect();
        for (number, wire) in shards.iter_mut().enumerate() {
            // OIDs of the types that a schema makes differ between shards.
            (0..number).for_each(|it| drop(wire.run(&format!("CREATE TYPE o{it} AS ENUM ('x')"))));
        }
        let one =
            Box::new(move || Wire::login(cluster.primary_port(0), "app", "app", &single).unwrap());
        let proxy = Proxy::start(spec);
        let sides = Sides::new(one, shards, &proxy);
        Self { proxy, sides, report: Report::default(), runs: 0 }
    }

    /// One schema and statements over it.
    fn seed(&mut self, seed: u64, statements: u64) {
        let mut schema = Schema::random(&mut Choices::random(seed));
        let count = |wanted: usize| {
            wait_for("the schema", || {
                self.proxy.show("DATABASES", "tables")[0] == wanted.to_string()
            });
        };
        self.sides.clear();
        count(0);
        self.sides.create(&mut schema);
        count(schema.tables.iter().filter(|it| it.kind != TableKind::View).count());
        self.sides.fill(&schema);
        let mut left = SHRUNK;
        for n in 0..statements {
            let mut choices = Choices::random(seed.wrapping_mul(1_000_003).wrapping_add(n));
            let modes = [choices.below(8), choices.below(8)];
            choices.made.clear();
            let statement = random_statement(&mut choices, &schema);
            for mut mode in modes.map(Mode::nth) {
                mode.in_tx |= statement.first.is_some();
                let start = Instant::now();
                let verdict = self.compare(&schema, &statement, mode);
                if std::env::var_os("TRUTH_SHOW").is_some() {
                    println!(
                        "{:?} {mode:?} {verdict:?} {}",
                        start.elapsed(),
                        statement.text(mode.protocol)
                    );
                }
                self.report.count(&verdict, &statement.text(mode.protocol));
                if let Verdict::Wrong(told) = verdict {
                    if left == 0 {
                        continue;
                    }
                    left -= 1;
                    self.differs(seed, n, &schema, choices.made.clone(), mode, &told);
                    self.sides.renew(&self.proxy);
                    self.sides.fill(&schema);
                    break;
                }
            }
        }
    }

    /// Compares, and takes back what has changed.
    fn compare(&mut self, schema: &Schema, statement: &Statement, mode: Mode) -> Verdict {
        self.runs += 1;
        let comment = format!(" -- {}", self.runs);
        let statement = &Statement { comment, ..statement.clone() };
        let verdict = self.sides.compare(statement, mode);
        if matches!(verdict, Verdict::Wrong(_)) {
            self.sides.renew(&self.proxy);
        }
        if !statement.changes.is_empty() && !mode.in_tx {
            self.sides.fill(schema);
        }
        verdict
    }

    fn differs(
        &mut self,
        seed: u64,
        n: u64,
        schema: &Schema,
        made: Vec<u32>,
        mode: Mode,
        told: &str,
    ) {
        let made = shrink::choices(made, |tried| {
            let mut choices = shrink::replay(tried);
            let statement = random_statement(&mut choices, schema);
            let verdict = self.compare(schema, &statement, mode);
            matches!(verdict, Verdict::Wrong(_)).then_some(choices.made)
        });
        let statement = random_statement(&mut shrink::replay(&made), schema);
        let small = shrink::rows(schema, &statement, mode, &mut self.sides);
        let told = match self.compare(&small, &statement, mode) {
            Verdict::Wrong(told) => told,
            _ => told.to_owned(),
        };
        let text = statement.text(mode.protocol);
        let plan = self.sides.proxy.query(&format!("EXPLAIN (SLUICE) {text}"));
        self.report.differs(&report::Difference {
            seed,
            n,
            schema: &small,
            statement: &statement,
            mode,
            told: &told,
            plan: &plan,
        });
    }
}

/// A random statement over a schema.
fn random_statement(choices: &mut Choices, schema: &Schema) -> Statement {
    let mut generator = Generator::new(choices, schema);
    generator.by_tenant = generator.choices.chance(55);
    if generator.choices.chance(18) {
        let (sql, table) = generator.write();
        let params = generator.params;
        return Statement { sql, params, changes: vec![table], ..Statement::default() };
    }
    let first = generator.choices.chance(8).then(|| {
        let (sql, _) = generator.write();
        Box::new(Statement {
            sql,
            params: std::mem::take(&mut generator.params),
            ..Statement::default()
        })
    });
    let query = generator.read();
    Statement {
        first,
        sql: query.text,
        params: generator.params,
        is_ordered: query.is_ordered,
        ..Statement::default()
    }
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|it| it.parse().unwrap())
}

#[test]
fn random_statements_are_answered_as_by_one_postgres_or_refused() {
    let mut run = Run::start();
    let first = setting("TRUTH_SEED").unwrap_or(1);
    match setting("TRUTH_MINUTES") {
        None => (first..first + 3).for_each(|it| run.seed(it, 60)),
        Some(minutes) => {
            let end = Instant::now() + Duration::from_secs(minutes * 60);
            let mut seed = first;
            loop {
                run.seed(seed, 250);
                seed += 1;
                println!("seed {seed} is next; {}", run.report.short());
                if Instant::now() > end {
                    break;
                }
            }
        }
    }
    println!("{}", run.report);
    run.report.check();
}
