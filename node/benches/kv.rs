//! How fast committed commands are applied to the overlay. The aim is a million a second: apply
//! runs on the driver's thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use quorate::kv::{Command, Condition, Store, Value};
use quorate::metrics::Metrics;
use quorate::options::Limits;
use quorum::Position;

/// Commands encoded ahead; applied round and round.
const COMMANDS: u64 = 100_000;

fn payloads(keys: u64) -> Vec<Bytes> {
    let value = Bytes::from(vec![b'v'; 256]);
    let put = |n: u64| Command::Put {
        // Multiplied by an odd number, so that keys come in no order.
        key: Bytes::from(format!("key:{:012}", (n % keys).wrapping_mul(0x9e37_79b9) % (1 << 32))),
        value: Value::bytes(value.clone()),
        condition: Condition::None,
    };
    (0..COMMANDS).map(|n| put(n).encode()).collect()
}

fn apply(store: &Store, payloads: &[Bytes], iterations: u64) -> Duration {
    let first = store.applied().index.0 + 1;
    let start = Instant::now();
    for (index, payload) in (first..first + iterations).zip(payloads.iter().cycle()) {
        std::hint::black_box(store.apply_command(Position::new(index, 1), payload));
    }
    start.elapsed()
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply_command");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(3));
    for keys in [1_000, 100_000] {
        let payloads = payloads(keys);
        let store = Store::memory();
        group.bench_function(format!("overwrite one of {keys} keys, 256 B"), |b| {
            b.iter_custom(|iterations| apply(&store, &payloads, iterations));
        });
    }
    let payloads = payloads(100_000);
    group.bench_function("new keys, 256 B", |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for begun in (0..iterations).step_by(COMMANDS as usize) {
                spent += apply(&Store::memory(), &payloads, (iterations - begun).min(COMMANDS));
            }
            spent
        });
    });
    group.finish();

    let dir = match tempfile::tempdir() {
        Ok(dir) => dir,
        Err(error) => return eprintln!("no folder to measure in: {error}"),
    };
    let metrics = Metrics::new().map(Arc::new).map_err(|error| error.to_string());
    let store = metrics.and_then(|m| Store::open(dir.path(), &Limits::default(), m).map_err(|error| error.to_string()));
    match store {
        Ok(store) => {
            let mut group = c.benchmark_group("on disk, drains included");
            group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(5));
            group.bench_function("overwrite one of 100000 keys, 256 B", |b| {
                b.iter_custom(|iterations| apply(&store, &payloads, iterations));
            });
            group.finish();
        }
        Err(error) => eprintln!("no store to measure: {error}"),
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}
