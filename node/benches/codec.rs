//! What turning things into bytes and back costs: records, commands, requests of Redis clients, frames between nodes.

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};
use quorate::kv::{Command, Condition, Value};
use quorate::storage::record::{self, RecordKind};
use quorum::{Body, Head, Index, Kind, Message, Position, Term};

/// Bytes of a value.
const VALUE: usize = 256;
/// Entries of an append, and requests in a pipeline.
const MANY: u64 = 64;
/// Longer than anything measured here.
const BYTES_MAX: usize = 1 << 20;

fn put(n: u64) -> Command {
    Command::Put {
        key: Bytes::from(format!("key:{n:012}")),
        value: Value::bytes(Bytes::from(vec![b'v'; VALUE])),
        condition: Condition::None,
    }
}

fn framed(n: u64, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    record::encode(&mut out, Term(7), Index(n), RecordKind::Command, payload);
    out.freeze()
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("record of a PUT of 256 B");
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(2));
    let payload = put(1).encode();
    let mut out = BytesMut::with_capacity(BYTES_MAX);
    group.bench_function("encode", |b| {
        b.iter(|| {
            out.clear();
            record::encode(&mut out, Term(7), Index(1), RecordKind::Command, black_box(&payload));
        });
    });
    let frame = framed(1, &payload);
    group.bench_function("decode", |b| b.iter(|| record::decode(&mut black_box(&frame).clone(), BYTES_MAX)));
    group.finish();

    let mut group = c.benchmark_group("command PUT of 256 B");
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(2));
    let command = put(1);
    group.bench_function("encode", |b| b.iter(|| black_box(&command).encode()));
    group.bench_function("decode", |b| b.iter(|| Command::decode(black_box(&payload))));
    group.finish();
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("Redis protocol");
    group.throughput(Throughput::Elements(MANY)).measurement_time(Duration::from_secs(2));
    let mut pipeline = BytesMut::new();
    for n in 0..MANY {
        let value = "v".repeat(VALUE);
        pipeline
            .extend_from_slice(format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{n:012}\r\n${VALUE}\r\n{value}\r\n").as_bytes());
    }
    assert_eq!(quorate::tcp::bench::requests(&mut pipeline.clone()), MANY as usize);
    group.bench_function("parse a pipeline of 64 SETs of 256 B", |b| {
        b.iter_batched_ref(|| pipeline.clone(), quorate::tcp::bench::requests, BatchSize::SmallInput);
    });
    group.finish();
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("append of 64 PUTs of 256 B");
    group.throughput(Throughput::Elements(MANY)).measurement_time(Duration::from_secs(2));
    let records: Vec<Bytes> = (1..=MANY).map(|n| framed(n, &put(n).encode())).collect();
    let head = |r: &Bytes| Head { term: Term(7), kind: Kind::Command, bytes: r.len() as u32 };
    let entries = records.iter().map(head).collect();
    let body = Body::Append { prev: Position::default(), entries, commit: Index(0) };
    let message = Message { term: Term(7), body };
    let frame = quorate::peer::bench::encode(&message, &records);
    assert_eq!(quorate::peer::bench::decode(frame.clone(), BYTES_MAX), Some(MANY as usize));
    group.bench_function("encode", |b| b.iter(|| quorate::peer::bench::encode(black_box(&message), &records)));
    group.bench_function("decode", |b| {
        let decode = |bytes| quorate::peer::bench::decode(bytes, BYTES_MAX);
        b.iter_batched(|| frame.clone(), decode, BatchSize::SmallInput);
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().warm_up_time(Duration::from_secs(1)).configure_from_args();
    records(&mut criterion);
    requests(&mut criterion);
    frames(&mut criterion);
    criterion.final_summary();
}
