//! SQL that means to break the planner: it must end in a plan or an error, on a small stack.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::thread;

use pgsluice::catalog::{Catalog, Column, ColumnDefault, SqlType, Table, TableKind};
use pgsluice::plan::planner::{Session, plan, unknown_tables};
use pgsluice::shard::KeyType;

fn catalog() -> Catalog {
    let column = |name: &str, type_oid| Column {
        name: name.into(),
        type_oid,
        collation_is_c: false,
        collation_is_deterministic: true,
        default: ColumnDefault::Constant,
        sql_type: SqlType::default(),
    };
    let table = |kind, columns| Table {
        kind,
        columns,
        unique_keys: Vec::new(),
        primary_key: Vec::new(),
        trigger_functions: Vec::new(),
        has_rules: false,
    };
    let orders = table(
        TableKind::Sharded { column: 0, key: KeyType::Int },
        vec![column("tenant_id", 23), column("a", 25)],
    );
    let looped = table(TableKind::View("SELECT * FROM looped".into()), vec![column("a", 23)]);
    let broken = table(TableKind::View("SELEC".into()), vec![column("a", 23)]);
    let name = |name: &str| ("public".to_owned(), name.to_owned());
    Catalog {
        tables: [(name("orders"), orders), (name("looped"), looped), (name("broken"), broken)]
            .into(),
        search_path: vec!["pg_catalog".into(), "public".into()],
        ..Catalog::default()
    }
}

fn plans(sql: &str) {
    let (catalog, session) = (catalog(), Session::default());
    // Long texts take the parser long: once is enough.
    let modes = if sql.len() > 100_000 { &[true][..] } else { &[true, false] };
    for sharded in modes.iter().copied() {
        for (range, plan) in plan(sql, &catalog, sharded, &session) {
            assert!(sql.get(range.clone()).is_some(), "{range:?} of {sql:.80}");
            let _ = plan.to_string();
        }
    }
    if modes.len() > 1 {
        let _ = unknown_tables(sql, &catalog, &session);
    }
}

fn on_small_stack(run: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

/// `before`, then the parts so often, then `middle`, then the ends so often.
fn nested(before: &str, open: &str, middle: &str, close: &str, depth: usize) -> String {
    format!("{before}{}{middle}{}", open.repeat(depth), close.repeat(depth))
}

#[test]
fn deep_nesting() {
    on_small_stack(|| {
        for depth in [10, 45, 100, 1000, 100_000] {
            plans(&nested("SELECT ", "(", "1", ")", depth));
            plans(&nested("SELECT * FROM orders WHERE tenant_id = ", "(", "1", ")", depth));
            plans(&nested("SELECT * FROM orders WHERE true", " AND a = 'x'", "", "", depth));
            plans(&nested("SELECT a", " || a", " FROM orders", "", depth));
            plans(&nested("SELECT ", "NOT ", "true", "", depth));
            plans(&nested("SELECT ", "- ", "1", "", depth));
            plans(&nested("SELECT ", "f(", "1", ")", depth));
            plans(&nested("SELECT ", "ARRAY[", "1", "]", depth));
            plans(&nested("SELECT ", "(SELECT ", "1", ")", depth));
            plans(&nested("SELECT * FROM ", "(SELECT * FROM ", "orders", ") x", depth));
            plans(&nested("SELECT 1", " UNION ALL SELECT 1", "", "", depth));
            plans(&nested("SELECT ", "CASE WHEN true THEN ", "1", " END", depth));
            plans(&nested("SELECT * FROM orders", " JOIN orders o ON true", "", "", depth));
            plans(&nested("SELECT 1", "::int", "", "", depth));
            plans(&nested("", "EXPLAIN ", "SELECT 1", "", depth));
            plans(&nested("", "WITH x AS (", "SELECT 1", ") SELECT 1", depth));
            plans(&nested("SELECT 1", ";", "", "", depth));
        }
    });
}

#[test]
fn long_lists() {
    on_small_stack(|| {
        let list = vec!["5"; 50_000].join(", ");
        plans(&format!("SELECT * FROM orders WHERE tenant_id IN ({list})"));
        let rows = vec!["(5, 'x')"; 20_000].join(", ");
        plans(&format!("INSERT INTO orders (tenant_id, a) VALUES {rows}"));
        let from = (0..200).map(|i| format!("orders o{i}")).collect::<Vec<_>>().join(", ");
        plans(&format!("SELECT * FROM {from}"));
    });
}

#[test]
fn odd_texts() {
    let texts = [
        "",
        " ",
        ";",
        ";;",
        "\0",
        "SELECT 1\0; SELECT 2",
        "'",
        "\"",
        "$$",
        "$a$",
        "/*",
        "--",
        "(",
        ")",
        "SELECT",
        "SELECT 'é', \"ü\" FROM orders ORDER BY 'ß' -- ☃",
        "\u{feff}SELECT 1",
        "SELECT * FROM looped",
        "SELECT * FROM broken WHERE a = 1",
        "INSERT INTO looped VALUES (1)",
        "SELECT * FROM orders ORDER BY 0",
        "SELECT * FROM orders ORDER BY -1",
        "SELECT a FROM orders ORDER BY 99999999",
        "SELECT $0",
        "SELECT $99999999999",
        "SELECT * FROM orders WHERE tenant_id = $2147483648",
        "SELECT * FROM orders LIMIT $2147483647",
        "SELECT FROM orders",
        "VALUES ()",
        "SELECT DISTINCT FROM orders",
        "TABLE orders ORDER BY a",
        "SELECT a AS \"x\"\"y\" FROM orders ORDER BY a",
        "INSERT INTO orders VALUES",
        "INSERT INTO orders (tenant_id) VALUES (1), (2, 3)",
        "UPDATE orders SET (a) = (1, 2)",
        "COPY orders FROM STDIN (DELIMITER '')",
        "EXPLAIN (",
        "EXPLAIN (ANALYZE",
        "PREPARE a AS SELECT 1; EXECUTE a(); DEALLOCATE a",
        "SELECT * FROM orders GROUP BY 1, -1, 99",
        "SELECT * FROM a.b.c.d.e",
        "SELECT a.b.c.d.e.f",
        "SELECT * FROM orders WINDOW w AS (w)",
        "SELECT sum(1) OVER w FROM orders WINDOW w AS (v), v AS (w)",
    ];
    for text in texts {
        plans(text);
    }
}

/// Every prefix and every text with a part left out must be survived.
#[test]
fn mutilated_statements() {
    let texts = [
        "WITH x AS MATERIALIZED (SELECT DISTINCT ON (a) a, 'é' AS é FROM orders o LEFT JOIN LATERAL (SELECT 1) l ON true WHERE o.tenant_id = ANY ($1)) SELECT count(*) FILTER (WHERE a > 'b'), a AS c FROM x GROUP BY 2 ORDER BY c COLLATE \"C\" DESC NULLS LAST LIMIT 5 OFFSET $2",
        "INSERT INTO orders AS o (tenant_id, a) VALUES (1, $$x$$), (E'2', 'y') ON CONFLICT (tenant_id) DO UPDATE SET a = excluded.a RETURNING *",
    ];
    for text in texts {
        let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        for cut in &cuts {
            plans(&text[..*cut]);
            plans(&text[*cut..]);
        }
        for pair in cuts.windows(8).step_by(3) {
            plans(&format!("{}{}", &text[..pair[0]], &text[pair[7]..]));
        }
    }
}
