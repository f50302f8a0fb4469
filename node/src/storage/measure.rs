//! Measurements that need to see inside: run them by name with `--ignored --nocapture`, on a quiet machine.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quorum::{Index, Term, Token};

use super::prepare::Helper;
use super::*;
use crate::metrics::Metrics;
use crate::options::Limits;

const SECONDS: u64 = 16;
/// One group a millisecond: 30,000 records a second.
const RECORDS: u64 = 30;
const SEGMENT_BYTES: u64 = 16 << 20;

/// Microseconds of every group, and of those that were the first in a segment.
fn paced(helper: Option<Helper>) -> (Vec<u64>, Vec<u64>) {
    let dir = tempfile::tempdir().expect("folder");
    let limits = Limits { segment_bytes: SEGMENT_BYTES, ..Limits::default() };
    let opened = open(dir.path(), Arc::new(RealDisk), &limits).expect("opens");
    let (events, reports) = channel();
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let reader = opened.log.reader();
    let map = opened.log.reader().map;
    let wal = Wal::start_with(opened.log, opened.vote, metrics, helper, move |event| {
        let WalEvent::Persisted { token } = event else { panic!("{event:?}") };
        let ordinal = map.read().segments.back().map(|s| s.ordinal);
        let _ = events.send((token, Instant::now(), ordinal));
    });
    let begun = Instant::now();
    let collector = std::thread::spawn(move || {
        let (mut all, mut changes, mut done, mut segment) = (Vec::new(), Vec::new(), 0, Some(1));
        for (token, at, ordinal) in reports {
            // Every group behind the one reported before.
            for group in done..token.0 {
                let due = begun + Duration::from_millis(group);
                let micros = at.saturating_duration_since(due).as_micros() as u64;
                all.push(micros);
                if ordinal != segment {
                    changes.push(micros);
                }
                segment = ordinal;
            }
            done = token.0;
        }
        (all, changes)
    });
    for group in 0..SECONDS * 1000 {
        let first = group * RECORDS + 1;
        let mut frames = BytesMut::new();
        for index in first..first + RECORDS {
            record::encode(&mut frames, Term(0), Index(index), RecordKind::Command, &[b'v'; 300]);
        }
        let frames: Vec<Bytes> = vec![frames.freeze()];
        let last = Index(first + RECORDS - 1);
        // Open loop: a late group does not move the ones behind it.
        std::thread::sleep((begun + Duration::from_millis(group)).saturating_duration_since(Instant::now()));
        wal.submit(Job::Write { token: Token(group + 1), first: Index(first), last, frames, commit: Index(0) });
        if group % 1000 == 0 {
            wal.submit(Job::Cut { upto: reader.cut_keeping(3 * SEGMENT_BYTES) });
        }
    }
    wal.stop();
    drop(wal);
    let (mut all, mut changes) = collector.join().expect("collected");
    all.sort_unstable();
    changes.sort_unstable();
    (all, changes)
}

#[test]
#[ignore = "a measurement"]
fn what_a_segment_change_costs_under_load() {
    for (what, prepared) in
        [("made when needed", false), ("prepared", true), ("made when needed", false), ("prepared", true)]
    {
        let (all, changes) = paced(prepared.then(|| Helper::start().expect("thread")));
        let at = |part: f64| all[(all.len() as f64 * part) as usize];
        let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), at(0.999_999));
        eprintln!("{what}: p50 {p50} p99 {p99} p99.9 {p999} max {max} us; at the changes {changes:?}");
    }
}
