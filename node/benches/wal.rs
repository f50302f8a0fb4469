//! The log on the disk that temporary files are on: how long a group takes from being handed in until it is reported
//! durable, how long a million entries take to recover, and how fast they are read back.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput};
use quorate::metrics::Metrics;
use quorate::options::Limits;
use quorate::storage::record::{self, RecordKind};
use quorate::storage::{self, Batch, Job, LogReader, Opened, RealDisk, Wal, WalEvent};
use quorum::{Index, Term, Token};

/// Bytes of a payload.
const PAYLOAD: usize = 256;
/// Entries to recover.
const MANY: u64 = 1_000_000;
/// The log is cut to this now and then, so that a long run does not fill the disk.
const KEEP_BYTES: u64 = 128 << 20;

fn open(dir: &Path) -> Result<Opened, Box<dyn Error>> {
    Ok(storage::open(dir, Arc::new(RealDisk), &Limits::default())?)
}

/// The records of `count` entries, as the leader frames them: in one buffer.
fn frames(first: u64, count: u64) -> Bytes {
    let mut out = BytesMut::new();
    for index in first..first + count {
        record::encode(&mut out, Term(1), Index(index), RecordKind::Command, &[b'v'; PAYLOAD]);
    }
    out.freeze()
}

/// Hands one group of entries in after the other and waits for each report.
struct Writing {
    wal: Wal,
    events: Receiver<WalEvent>,
    next: u64,
}

impl Writing {
    fn groups(&mut self, records: u64, groups: u64) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..groups {
            let (first, last) = (Index(self.next), Index(self.next + records - 1));
            let token = Token(last.0);
            let frames = vec![frames(first.0, records)];
            let begun = Instant::now();
            self.wal.submit(Job::Write { token, first, last, frames, commit: first.prev() });
            let event = self.events.recv();
            spent += begun.elapsed();
            assert_eq!(event, Ok(WalEvent::Persisted { token }), "the disk failed");
            self.next += records;
            let upto =
                if self.wal.bytes() > 2 * KEEP_BYTES { self.wal.reader().cut_keeping(KEEP_BYTES) } else { Index(0) };
            if upto > Index(0) {
                self.wal.submit(Job::Cut { upto });
            }
        }
        spent
    }
}

fn appends(c: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut opened = open(dir.path())?;
    opened.vote.save(Term(1), None)?;
    let (notify, events) = channel();
    let metrics = Arc::new(Metrics::new()?);
    let wal = Wal::start(opened.log, opened.vote, metrics, move |event| drop(notify.send(event)));
    let mut writing = Writing { wal, events, next: 1 };
    let mut group = c.benchmark_group("append and sync, 256 B each");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    for records in [1, 16, 64, 256] {
        group.throughput(Throughput::Elements(records));
        group.bench_function(format!("{records} records"), |b| {
            b.iter_custom(|groups| writing.groups(records, groups));
        });
    }
    group.finish();
    writing.wal.stop();
    Ok(())
}

fn recovery(c: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut opened = open(dir.path())?;
    opened.vote.save(Term(1), None)?;
    for first in (1..=MANY).step_by(50) {
        let frames = [frames(first, 50)];
        opened.log.append(&Batch {
            first: Index(first),
            last: Index(first + 49),
            commit: Index(0),
            frames: &frames,
        })?;
    }
    opened.log.sync()?;
    let reader = opened.log.reader();
    let mut group = c.benchmark_group("read back");
    group.throughput(Throughput::Elements(MANY)).sample_size(10).measurement_time(Duration::from_secs(6));
    group.bench_function("1 million records of 256 B, 1 MiB at a time", |b| b.iter(|| read_all(&reader)));
    group.finish();
    drop((opened, reader));
    let mut group = c.benchmark_group("recovery");
    group.throughput(Throughput::Elements(MANY)).sample_size(10).measurement_time(Duration::from_secs(8));
    group.bench_function("1 million records of 256 B", |b| {
        b.iter_custom(|times| {
            let begun = Instant::now();
            for _ in 0..times {
                let recovered = open(dir.path()).map_or(0, |opened| opened.heads.len() as u64);
                assert_eq!(recovered, MANY, "everything is there");
            }
            begun.elapsed()
        });
    });
    group.finish();
    Ok(())
}

fn read_all(reader: &LogReader) -> usize {
    let (mut next, mut bytes) = (Index(1), 0);
    while next.0 <= MANY {
        let records = reader.read(next, Index(MANY), 1 << 20).unwrap_or_default();
        assert!(!records.is_empty(), "everything can be read");
        next = Index(next.0 + records.len() as u64);
        bytes += records.iter().map(|r| r.frame().len()).sum::<usize>();
    }
    bytes
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().warm_up_time(Duration::from_secs(1)).configure_from_args();
    appends(&mut criterion)?;
    recovery(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}
