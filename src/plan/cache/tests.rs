use super::*;
use crate::plan::{Action, Local};

const BASIS: Basis<'static> = Basis { catalog_version: 1, session: 2, types: &[23] };

fn read(sql: &str) -> Fingerprint {
    let mut fingerprint = Fingerprint::new(7);
    fingerprint.read(sql);
    fingerprint
}

fn plan(name: &str, is_shareable: bool) -> Arc<Plan> {
    Arc::new(Plan {
        action: Action::Local(Local::Savepoint(name.into())),
        is_shareable,

        ..Plan::default()
    })
}

fn insert(cache: &PlanCache, sql: &str, is_shareable: bool) {
    let fingerprint = read(sql);
    cache.insert(&Sought { sql, fingerprint: &fingerprint, basis: BASIS }, plan(sql, is_shareable));
}

fn find(cache: &PlanCache, sql: &str, basis: Basis<'_>) -> Option<Arc<CachedPlan>> {
    cache.find(&Sought { sql, fingerprint: &read(sql), basis })
}

#[test]
fn statements_of_a_template_share_a_plan() {
    let cache = PlanCache::new(100, usize::MAX / 2, 1000);
    insert(&cache, "SELECT 1", true);
    assert_eq!(find(&cache, "SELECT 22", BASIS).unwrap().plan, plan("SELECT 1", true));
    assert_eq!(find(&cache, "SELECT '1'", BASIS), None);
    for other in [
        Basis { catalog_version: 2, ..BASIS },
        Basis { session: 3, ..BASIS },
        Basis { types: &[], ..BASIS },
    ] {
        assert_eq!(find(&cache, "SELECT 1", other), None);
    }
    let counts = cache.counts();
    assert_eq!((counts.hits, counts.misses, counts.entries), (1, 4, 1));
    assert_eq!(cache.entries()[0].text, "SELECT ?");
}

#[test]
fn full_texts_are_kept_at_the_second_sight() {
    let cache = PlanCache::new(100, usize::MAX / 2, 1000);
    for (sql, is_shareable) in [("SELECT 1", false), ("SET a = 1", true), ("SET a = 2", false)] {
        insert(&cache, sql, is_shareable);
        assert_eq!(find(&cache, sql, BASIS), None, "{sql}");
        insert(&cache, sql, is_shareable);
        assert_eq!(find(&cache, sql, BASIS).unwrap().plan, plan(sql, is_shareable));
    }
    assert_eq!(find(&cache, "SELECT 2", BASIS), None);
    assert_eq!(cache.entries().len(), 3);
}

#[test]
fn a_text_that_a_shared_plan_does_not_fit_has_its_own() {
    let cache = PlanCache::new(100, usize::MAX / 2, 1000);
    let sql = "SELECT 2";
    insert(&cache, "SELECT 1", true);
    insert(&cache, sql, false);
    insert(&cache, sql, false);
    assert_eq!(find(&cache, sql, BASIS).unwrap().plan, plan("SELECT 1", true));
    let fingerprint = read(sql);
    let own = cache.find_whole(&Sought { sql, fingerprint: &fingerprint, basis: BASIS });
    assert_eq!(own.unwrap().plan, plan(sql, false));
}

#[test]
fn the_size_is_bounded_and_used_plans_stay() {
    let cache = PlanCache::new(640, usize::MAX / 2, 100);
    insert(&cache, "SELECT used", true);
    for i in 0..10_000 {
        find(&cache, "SELECT used", BASIS).unwrap();
        insert(&cache, &format!("SELECT a{i}"), true);
    }
    let counts = cache.counts();
    assert_eq!(counts.entries as u64 + counts.evicted, 10_001);
    assert!(counts.entries <= 640);
    insert(&cache, &format!("SELECT {}", "a".repeat(100)), true);
    assert_eq!(cache.counts().entries, counts.entries);
    assert_eq!(PlanCache::new(0, usize::MAX / 2, 100).counts(), Counts::default());
}

#[test]
fn memory_is_bounded() {
    let cache = PlanCache::new(10_000, 1 << 20, 100_000);
    for i in 0..3000 {
        insert(&cache, &format!("SELECT a{i}, {}", "b".repeat(1000)), true);
    }
    let counts = cache.counts();
    assert!(counts.bytes <= 1 << 20 && counts.bytes > 1 << 19, "{counts:?}");
    assert_eq!(counts.evicted, counts.evicted_for_bytes);
    assert_eq!(counts.entries as u64, 3000 - counts.evicted);
    // What is larger than a part is not kept.
    insert(&cache, &format!("SELECT {}", "c".repeat(20_000)), true);
    assert_eq!(cache.counts().entries, counts.entries);
    cache.bound(64, 1 << 20);
    for i in 0..3000 {
        insert(&cache, &format!("SELECT d{i}"), true);
    }
    assert!(cache.counts().entries <= 64);
}

#[test]
fn threads_share_it() {
    let cache = PlanCache::new(50, usize::MAX / 2, 1000);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for i in 0..2000 {
                    let sql = format!("SELECT c{} + {i}", (i * (thread + 1)) % 90);
                    if find(cache, &sql, BASIS).is_none() {
                        insert(cache, &sql, i % 3 != 0);
                    }
                }
            });
        }
    });
    assert!(cache.counts().entries <= 64);
}
