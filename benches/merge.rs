//! Rows per second through a merge of four shards: concatenated, ordered, grouped.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgsluice::merge::{
    Aggregate, ColumnAt, ColumnInfo, Group, Limits, Merge, MergeSpec, SortKey, Step,
};
use pgsluice::wire::backend;

const SHARDS: usize = 4;
const ROWS: usize = 5_000;
/// int8, text, timestamptz, int8.
const TYPES: [u32; 4] = [20, 25, 1184, 20];

/// Rows of one shard, rising in columns 0 and 2.
fn rows(shard: usize) -> Vec<Bytes> {
    let row = |at: usize| {
        let id = (at * SHARDS + shard).to_string();
        let time =
            format!("2026-11-21 {:02}:{:02}:{:02}.{shard}+00", at / 3600, at / 60 % 60, at % 60);
        let status = format!("status {}", at % 50);
        let mut out = BytesMut::new();
        backend::data_row(&mut out, &[Some(id.as_str()), Some(&status), Some(&time), Some("1")]);
        out.freeze()
    };
    (0..ROWS).map(row).collect()
}

fn run(spec: &MergeSpec, shards: &[Vec<Bytes>]) -> usize {
    let mut merge = Merge::new(spec, SHARDS, None, 0, Limits { bytes: 1 << 30 });
    let columns = TYPES.map(|type_oid| ColumnInfo { type_oid, format: 0 });
    merge.assume(&columns).expect("types that merge");
    let mut waiting: Vec<_> = shards.iter().map(|rows| rows.chunks(100)).collect();
    let (mut out, mut bytes) = (BytesMut::with_capacity(1 << 17), 0);
    loop {
        match merge.step(&mut out).expect("a step") {
            Step::Need(shard) => match waiting[shard].next() {
                Some(rows) => {
                    rows.iter().for_each(|row| merge.row(shard, row.clone()).expect("a row"));
                }
                None => merge.end(shard, b"SELECT 5000").expect("an end"),
            },
            Step::Full => {
                bytes += out.len();
                out.clear();
            }
            Step::Done => return bytes + out.len(),
        }
    }
}

fn sorted_by(column: usize) -> MergeSpec {
    let column = ColumnAt::Visible(column);
    let key = SortKey { column, descending: false, nulls_first: false, is_bytewise: false };
    MergeSpec { sort: vec![key], ..MergeSpec::default() }
}

fn merge(criterion: &mut Criterion) {
    let shards: Vec<_> = (0..SHARDS).map(rows).collect();
    let group =
        Group { keys: vec![1, 2], aggregates: vec![(0, Aggregate::Max), (3, Aggregate::Count)] };
    let few = Group {
        keys: vec![1],
        aggregates: vec![(0, Aggregate::Max), (2, Aggregate::Min), (3, Aggregate::Count)],
    };
    let cases = [
        ("concatenate", MergeSpec::default()),
        ("order by int8", sorted_by(0)),
        ("order by timestamptz", sorted_by(2)),
        (
            "hidden order by int8",
            MergeSpec {
                hidden: 1,
                sort: vec![SortKey {
                    column: ColumnAt::Visible(0),
                    ..sorted_by(0).sort[0].clone()
                }],
                ..MergeSpec::default()
            },
        ),
        ("group, 50 groups", MergeSpec { group: Some(few), ..MergeSpec::default() }),
        ("group, 20000 groups", MergeSpec { group: Some(group), ..MergeSpec::default() }),
    ];
    let mut benches = criterion.benchmark_group("merge");
    benches.throughput(Throughput::Elements((SHARDS * ROWS) as u64));
    for (name, spec) in cases {
        benches.bench_function(name, |bencher| bencher.iter(|| black_box(run(&spec, &shards))));
    }
    benches.finish();
}

criterion_group!(benches, merge);
criterion_main!(benches);
