//! The cost of looking at frames: headers of a result, a Bind, a pipeline's bookkeeping.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgsluice::wire::pipeline::Action;
use pgsluice::wire::{Pipeline, TxStatus, backend, frame, frontend};

const ROWS: u64 = 100;

fn result() -> BytesMut {
    let mut out = BytesMut::new();
    for _ in 0..ROWS {
        backend::data_row(&mut out, &[Some("12345"), Some("a name of some length"), None]);
    }
    backend::command_complete(&mut out, "SELECT 100");
    out
}

fn scan(chunk: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Ok(Some(header)) = frame::next_frame(&chunk[at..]) {
        at += header.len;
        count += 1;
    }
    count
}

fn frames(criterion: &mut Criterion) {
    let result = result();
    let mut bind = BytesMut::new();
    frontend::bind(&mut bind, b"s1", &[Some(b"12345"), Some(b"a name"), None], 0);
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("scan 100 rows", |b| b.iter(|| scan(black_box(&result))));
    group.throughput(Throughput::Elements(1));
    group.bench_function("read a Bind", |b| {
        b.iter(|| frontend::Bind::read(black_box(&bind)).map(|bind| bind.values.len()));
    });
    group.bench_function("read and rename a Bind", |b| {
        let mut out = BytesMut::with_capacity(1024);
        b.iter(|| {
            out.clear();
            let view = frontend::Bind::read(black_box(&bind)).expect("a Bind");
            frontend::bind_renamed(&mut out, &bind, &view, b"sluice_12");
        });
    });
    group.bench_function("pipeline of a prepared statement", |b| {
        let mut pipeline = Pipeline::new();
        b.iter(|| prepared(black_box(&mut pipeline)));
    });
    group.finish();
}

fn prepared(pipeline: &mut Pipeline) {
    for tag in *b"BES" {
        pipeline.on_request(tag, Action::Forward);
    }
    for tag in *b"2DCZ" {
        pipeline.on_reply(tag, Some(TxStatus::Idle)).expect("the replies in order");
    }
}

criterion_group!(benches, frames);
criterion_main!(benches);
