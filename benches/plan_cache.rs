//! The plan cache: a hit by one thread and by several, and a whole decision from text to shard.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use pgsluice::plan::cache::{Basis, PlanCache, Sought};
use pgsluice::plan::route::{Arguments, Call, route};
use pgsluice::plan::{Access, Action, Combine, KeySource, Plan, Run, Scope};
use pgsluice::shard::{KeyType, Map, ShardId};
use pgsluice::sql::fingerprint::Fingerprint;

const SQL: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;";
const BASIS: Basis<'static> = Basis { catalog_version: 1, session: 2, types: &[] };

fn plan() -> Plan {
    let key = KeySource::Literal { offset: SQL.find("12345").unwrap_or(0), kind: KeyType::Int };
    Plan {
        action: Action::Run(Run {
            fallback: None,
            explained: None,
            access: Access::Read,
            scope: Scope::Keys { keys: vec![key], with_home: false },
            combine: Combine::Sum,
        }),
        is_shareable: true,
        ..Plan::default()
    }
}

fn filled() -> PlanCache {
    let (cache, mut fingerprint) = (PlanCache::new(4096, 64 << 20, 1 << 16), Fingerprint::new(7));
    for i in 0..1000 {
        let sql = format!("SELECT column{i} FROM orders WHERE tenant_id = 5");
        fingerprint.read(&sql);
        let sought = Sought { sql: &sql, fingerprint: &fingerprint, basis: BASIS };
        cache.insert(&sought, Arc::new(plan()));
    }
    fingerprint.read(SQL);
    let sought = Sought { sql: SQL, fingerprint: &fingerprint, basis: BASIS };
    cache.insert(&sought, Arc::new(plan()));
    cache
}

/// Looks the statement up `times` times on each of `threads`.
fn hammer(cache: &PlanCache, threads: usize, times: u64) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut fingerprint = Fingerprint::new(7);
                fingerprint.read(SQL);
                let sought = Sought { sql: SQL, fingerprint: &fingerprint, basis: BASIS };
                for _ in 0..times {
                    black_box(cache.find(black_box(&sought)));
                }
            });
        }
    });
}

fn bench(criterion: &mut Criterion) {
    let (cache, map, mut fingerprint) = (filled(), Map::single(ShardId(0)), Fingerprint::new(7));
    fingerprint.read(SQL);
    criterion.bench_function("hit", |bencher| {
        let sought = Sought { sql: SQL, fingerprint: &fingerprint, basis: BASIS };
        bencher.iter(|| cache.find(black_box(&sought)));
    });
    for threads in [1, 2] {
        criterion.bench_function(&format!("hit of one plan, {threads} threads"), |bencher| {
            bencher.iter_custom(|times| {
                let start = Instant::now();
                hammer(&cache, threads, times);
                start.elapsed()
            });
        });
    }
    criterion.bench_function("text to shard", |bencher| {
        bencher.iter(|| {
            let sql = black_box(SQL);
            fingerprint.read(sql);
            let sought = Sought { sql, fingerprint: &fingerprint, basis: BASIS };
            let cached = cache.find(&sought)?;
            let Action::Run(run) = &cached.plan.action else { return None };
            let (slots, planned) = (fingerprint.slots(), &*cached.slots);
            let call = Call { sql, slots, planned, args: Arguments::None };
            route(run, &map, ShardId(0), &call).ok()
        });
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
