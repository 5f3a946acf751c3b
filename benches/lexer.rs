//! The lexer and the fingerprint over five statements: a point select, an IN list, an ORM's query, a
//! query of 40 lines, an INSERT of 50 rows.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgsluice::sql::fingerprint::Fingerprint;
use pgsluice::sql::lexer::Lexer;

fn statements() -> Vec<(&'static str, String)> {
    let columns: Vec<String> =
        (0..24).map(|i| format!("\"public\".\"Order\".\"column{i}\"")).collect();
    let orm = format!(
        "SELECT {} FROM \"public\".\"Order\" WHERE (\"public\".\"Order\".\"tenantId\" = $1 AND \
         \"public\".\"Order\".\"status\" IN ($2,$3)) ORDER BY \"public\".\"Order\".\"id\" ASC LIMIT $4 OFFSET $5",
        columns.join(", ")
    );
    let block = "  part AS (\n    SELECT o.id, o.total * 1.19 AS gross, 'new' AS state, \n           \
                 row_number() OVER (PARTITION BY o.tenant_id ORDER BY o.created_at DESC) AS n\n    FROM orders o \
                 JOIN items i ON i.order_id = o.id\n    WHERE o.created_at >= '2024-01-01' AND o.amount > 100\n  )";
    let long = format!("WITH\n{}\nSELECT * FROM part", [block; 8].join(",\n"));
    let row = "(12345, 'some name', 'it''s a text', 19.99, now(), NULL)";
    let insert = format!("INSERT INTO orders VALUES {}", [row; 50].join(", "));
    vec![
        ("point", "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;".into()),
        (
            "list",
            "SELECT id, name FROM orders WHERE tenant_id = 'acme' AND id IN (1, 2, 3, 4) \
             ORDER BY created_at DESC LIMIT 10"
                .into(),
        ),
        ("orm", orm),
        ("long", long),
        ("insert", insert),
    ]
}

fn bench(criterion: &mut Criterion) {
    for (name, sql) in statements() {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(sql.len() as u64));
        group.bench_function("lexer", |bencher| {
            bencher.iter(|| {
                Lexer::new(black_box(&sql)).fold(0_usize, |sum, token| {
                    sum.wrapping_add(token.end).wrapping_add(token.kind as usize)
                })
            });
        });
        let mut fingerprint = Fingerprint::new(7);
        group.bench_function("fingerprint", |bencher| {
            bencher.iter(|| {
                fingerprint.read(black_box(&sql));
                fingerprint.hash()
            });
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
