//! The folder as a whole: what survives a crash, what is noticed, what is refused.

mod life;
mod prepared;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorum::{ClusterId, Index, NodeId, Position, Term, Token};

use super::memory::MemoryDisk;
use super::segment::FIRST_BATCH;
use super::*;
use crate::dice::Dice;
use crate::metrics::Metrics;
use crate::options::Limits;

const DIR: &str = "/node";
/// Longer than any test needs; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn limits(segment_bytes: u64) -> Limits {
    Limits { segment_bytes, ..Limits::default() }
}

fn open_small(disk: &MemoryDisk) -> Opened {
    open(Path::new(DIR), Arc::new(disk.clone()), &limits(2 * FIRST_BATCH)).expect("opens")
}

fn file(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn frame(term: u64, index: u64, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    record::encode(&mut out, Term(term), Index(index), RecordKind::Command, payload);
    out.freeze()
}

/// Appends one batch of entries of one term, without syncing.
fn append(log: &mut Log, first: u64, term: u64, payloads: &[&[u8]]) -> Result<(), LogError> {
    let frames = frames(first, term, payloads);
    log.append(&batch(first, &frames))
}

/// The same, and it is durable.
fn append_durably(log: &mut Log, first: u64, term: u64, payloads: &[&[u8]]) -> Result<(), LogError> {
    let frames = frames(first, term, payloads);
    log.append_durably(&batch(first, &frames))
}

fn frames(first: u64, term: u64, payloads: &[&[u8]]) -> Vec<Bytes> {
    payloads.iter().zip(first..).map(|(p, index)| frame(term, index, p)).collect()
}

fn batch(first: u64, frames: &[Bytes]) -> Batch<'_> {
    Batch { first: Index(first), last: Index(first + frames.len() as u64 - 1), commit: Index(0), frames }
}

fn entries(log: &Log) -> Vec<(u64, u64, Vec<u8>)> {
    let (start, last) = (log.start(), log.last());
    let records = log.reader().read(start.index.next(), last.index, usize::MAX).expect("readable");
    let entries: Vec<_> = records.iter().map(|r| (r.index.0, r.term.0, r.payload().to_vec())).collect();
    assert_eq!(entries.len() as u64, last.index.0 - start.index.0, "every entry can be read");
    entries
}

fn count(opened: &Opened) -> usize {
    assert_eq!(entries(&opened.log).len(), opened.heads.len());
    opened.heads.len()
}

/// Three durable batches of one entry each; where each begins and ends in the file.
fn three_batches(disk: &MemoryDisk) -> Vec<(usize, usize)> {
    let mut opened = open_small(disk);
    opened.vote.save(Term(1), None).expect("saved");
    opened.meta.bind(ClusterId(77)).expect("bound");
    opened.meta.set_known_peers(vec!["b:7400".to_owned()]).expect("kept");
    let mut at = FIRST_BATCH as usize;
    (1..=3)
        .map(|index| {
            append(&mut opened.log, index, 1, &[b"payload"]).expect("written");
            opened.log.sync().expect("synced");
            let begin = at;
            at = FIRST_BATCH as usize + opened.log.bytes() as usize;
            (begin, at)
        })
        .collect()
}

const SEGMENT: &str = "wal-000000000001.log";

#[test]
fn a_torn_tail_is_cut_at_every_byte_and_what_was_durable_stays() {
    let disk = MemoryDisk::default();
    let (begin, end) = three_batches(&disk)[2];
    for torn in begin..end {
        let disk = disk.copy();
        disk.tamper(&file(SEGMENT), |bytes| bytes[torn..].fill(0));
        let mut opened = open_small(&disk);
        assert_eq!((opened.renewed.clone(), count(&opened)), (None, 2), "torn at {torn}");
        assert!(disk.bytes(&file(SEGMENT))[begin..].iter().all(|b| *b == 0), "nothing of the tail is left");
        append(&mut opened.log, 3, 2, &[b"another"]).expect("goes on");
    }
}

#[test]
fn rot_in_the_last_batch_is_cut_and_rot_before_it_makes_a_new_node() {
    let disk = MemoryDisk::default();
    let id = open_small(&disk).meta.id();
    let places = three_batches(&disk);
    for (batch, (begin, end)) in places.into_iter().enumerate() {
        for at in begin..end {
            let disk = disk.copy();
            disk.tamper(&file(SEGMENT), |bytes| bytes[at] ^= 0x10);
            let opened = open_small(&disk);
            assert_eq!(opened.renewed.is_some(), batch < 2, "byte {at}: {:?}", opened.renewed);
            assert_eq!(opened.meta.id() != id, batch < 2);
            assert_eq!(count(&opened), if batch < 2 { 0 } else { 2 });
            assert_eq!(opened.meta.cluster(), Some(ClusterId(77)), "the cluster is remembered");
            assert_eq!(opened.meta.known_peers(), ["b:7400"]);
        }
    }
}

#[test]
fn an_only_batch_that_rots_away_makes_a_new_node_of_one_that_knew_its_peers() {
    for knew_peers in [false, true] {
        let disk = MemoryDisk::default();
        let mut opened = open_small(&disk);
        let id = opened.meta.id();
        opened.vote.save(Term(1), None).expect("saved");
        opened.meta.bind(ClusterId(77)).expect("bound");
        append(&mut opened.log, 1, 1, &[b"the first configuration"]).expect("written");
        opened.log.sync().expect("synced");
        if knew_peers {
            opened.meta.set_known_peers(vec!["b:7400".to_owned()]).expect("kept");
        }
        drop(opened);
        disk.tamper(&file(SEGMENT), |bytes| bytes[FIRST_BATCH as usize..].fill(0));
        let opened = open_small(&disk);
        assert_eq!((opened.renewed.is_some(), opened.meta.id() != id, count(&opened)), (knew_peers, knew_peers, 0));
        drop(opened);
        // Only once: the new node has an empty log by right.
        let id = open_small(&disk).meta.id();
        assert_eq!(open_small(&disk).meta.id(), id);
    }
}

#[test]
fn a_damaged_segment_header_vote_or_identity_makes_a_new_node() {
    let disk = MemoryDisk::default();
    three_batches(&disk);
    let old = open_small(&disk).meta.id();
    type Harm = fn(&mut Vec<u8>);
    let damage: [(&str, Harm); 4] = [
        (SEGMENT, |bytes| bytes[20] ^= 1),
        ("vote", |bytes| bytes.fill(7)),
        ("vote", Vec::clear),
        ("meta", |bytes| bytes[20] ^= 1),
    ];
    for (name, change) in damage {
        let disk = disk.copy();
        disk.tamper(&file(name), change);
        let opened = open_small(&disk);
        assert!(opened.renewed.is_some(), "{name}");
        assert_ne!(opened.meta.id(), old, "{name}");
        assert_eq!((opened.term, opened.voted_for, count(&opened)), (Term(0), None, 0));
        assert_eq!(opened.meta.cluster().is_some(), name != "meta");
        let aside = file("damaged-1");
        assert!(disk.paths().contains(&aside.join(SEGMENT)), "the damaged data is kept for a person to look at");
        drop(opened);
        assert_eq!(open_small(&disk).renewed, None, "once");
    }
}

#[test]
fn rot_in_one_copy_of_the_vote_is_healed() {
    let disk = MemoryDisk::default();
    open_small(&disk).vote.save(Term(5), Some(NodeId(9))).expect("saved");
    for copy in [0, 4096] {
        let disk = disk.copy();
        disk.tamper(&file("vote"), |bytes| bytes[copy + 10] ^= 1);
        for _ in 0..2 {
            let opened = open_small(&disk);
            assert_eq!((opened.renewed, opened.term, opened.voted_for), (None, Term(5), Some(NodeId(9))));
        }
        assert_eq!(disk.bytes(&file("vote"))[..52], disk.bytes(&file("vote"))[4096..4148]);
    }
}

#[test]
fn a_vote_that_was_reported_survives_a_crash_at_any_point_of_the_next() {
    for crash in 0..5 {
        for seed in 0..20 {
            let disk = MemoryDisk::default();
            let mut opened = open_small(&disk);
            opened.vote.save(Term(5), Some(NodeId(1))).expect("saved");
            disk.fail_after(crash);
            let saved = opened.vote.save(Term(6), Some(NodeId(2))).is_ok();
            drop(opened);
            disk.lose_power(&mut Dice::new(seed));
            let opened = open_small(&disk);
            assert_eq!(opened.renewed, None);
            let vote = (opened.term.0, opened.voted_for);
            assert!(vote == (6, Some(NodeId(2))) || !saved && vote == (5, Some(NodeId(1))), "{vote:?}");
        }
    }
}

#[test]
fn a_term_older_than_the_log_is_a_forgotten_vote() {
    let disk = MemoryDisk::default();
    let mut opened = open_small(&disk);
    append(&mut opened.log, 1, 3, &[b"x"]).expect("written");
    opened.log.sync().expect("synced");
    drop(opened);
    assert!(open_small(&disk).renewed.is_some());
}

#[test]
fn what_a_new_leader_overwrote_stays_overwritten() {
    let disk = MemoryDisk::default();
    let mut opened = open_small(&disk);
    opened.vote.save(Term(3), None).expect("saved");
    append(&mut opened.log, 1, 1, &[b"a", b"b", b"c", b"d"]).expect("written");
    append(&mut opened.log, 3, 2, &[b"C"]).expect("written");
    append(&mut opened.log, 4, 3, &[b"D", b"E"]).expect("written");
    append(&mut opened.log, 5, 3, &[b"e"]).expect("written");
    opened.log.sync().expect("synced");
    let expected = entries(&opened.log);
    let values: Vec<_> = expected.iter().map(|(_, term, value)| (*term, value[0])).collect();
    assert_eq!(values, [(1, b'a'), (1, b'b'), (2, b'C'), (3, b'D'), (3, b'e')]);
    drop(opened);
    let opened = open_small(&disk);
    assert_eq!(entries(&opened.log), expected);
    assert_eq!(opened.heads.iter().map(|h| h.term.0).collect::<Vec<_>>(), [1, 1, 2, 3, 3]);
}

#[test]
fn entries_that_do_not_fit_the_log_are_refused_and_so_is_everything_after() {
    let mut opened = open_small(&MemoryDisk::default());
    assert!(matches!(append(&mut opened.log, 2, 1, &[b"gap"]), Err(LogError::Misfit(_))));
    assert!(matches!(append(&mut opened.log, 1, 1, &[b"fine"]), Err(LogError::Failed)));
    assert!(matches!(opened.log.sync(), Err(LogError::Failed)));
}

#[test]
fn a_cut_removes_whole_segments_and_recovery_starts_behind_them() {
    let disk = MemoryDisk::default();
    let mut opened = open_small(&disk);
    opened.vote.save(Term(9), None).expect("saved");
    for index in 1..=20 {
        append(&mut opened.log, index, index.div_ceil(3), &[&[index as u8; 900]]).expect("written");
    }
    opened.log.sync().expect("synced");
    let reader = opened.log.reader();
    let held = reader.read(Index(1), Index(1), 1).expect("there");
    assert_eq!(reader.cut_keeping(u64::MAX), Index(0));
    let upto = reader.cut_keeping(8_000);
    assert!(upto > Index(5) && upto < Index(15), "{upto}");
    opened.log.cut(upto).expect("cut");
    assert_eq!(opened.log.start().index, upto);
    assert!(opened.log.bytes() >= 8_000);
    assert!(matches!(reader.read(upto, Index(20), 1), Err(ReadLogError::Cut { .. })));
    assert_eq!(held[0].payload(), vec![1; 900], "what was read stays");
    let (start, expected) = (opened.log.start(), entries(&opened.log));
    assert_eq!(start.term, Term(start.index.0.div_ceil(3)));
    drop(opened);
    let mut opened = open_small(&disk);
    assert_eq!((opened.start, opened.renewed.clone()), (start, None));
    assert_eq!(entries(&opened.log), expected);
    // The spare is written over now, with the remains of old batches behind every new one.
    for index in 21..=40 {
        append(&mut opened.log, index, 9, &[&[index as u8; 700]]).expect("written");
        opened.log.sync().expect("synced");
        opened.log.cut(Index(index - 6)).expect("cut");
        let (opened, expected) = (open_small(&disk.copy()), entries(&opened.log));
        assert_eq!(opened.renewed, None);
        assert_eq!(entries(&opened.log), expected);
    }
}

#[test]
fn a_reset_happens_whole_or_not_at_all_wherever_the_power_goes() {
    for crash in 0..16 {
        for seed in 0..8 {
            let disk = MemoryDisk::default();
            let mut opened = open_small(&disk);
            opened.vote.save(Term(7), None).expect("saved");
            for index in 1..=9 {
                append(&mut opened.log, index, 1, &[&[1; 1000]]).expect("written");
            }
            opened.log.sync().expect("synced");
            let id = opened.meta.id();
            disk.fail_after(crash);
            let done = opened.log.reset(Position::new(50, 7)).is_ok();
            drop(opened);
            disk.lose_power(&mut Dice::new(seed));
            let mut opened = open_small(&disk);
            assert_eq!((opened.meta.id(), opened.renewed.clone()), (id, None));
            if opened.start.index == Index(0) {
                assert!(!done && count(&opened) == 9);
            } else {
                assert_eq!((opened.start, opened.commit, count(&opened)), (Position::new(50, 7), Index(50), 0));
                append(&mut opened.log, 51, 7, &[b"behind the snapshot"]).expect("goes on");
                opened.log.sync().expect("synced");
                drop(opened);
                assert_eq!(count(&open_small(&disk)), 1);
            }
        }
    }
}

#[test]
fn on_a_real_disk_batches_written_past_the_cache_and_through_it_follow_each_other() {
    let dir = tempfile::tempdir().expect("folder");
    let limits = Limits { segment_bytes: 64 << 10, ..Limits::default() };
    let start = || open(dir.path(), Arc::new(RealDisk), &limits).expect("opens");
    let mut opened = start();
    opened.vote.save(Term(1), None).expect("saved");
    let mut expected = Vec::new();
    for index in 1..=300 {
        let payload = vec![index as u8; index as usize * 37 % 5000];
        let write = if index % 7 == 0 { append } else { append_durably };
        write(&mut opened.log, index, 1, &[&payload]).expect("written");
        expected.push((index, 1, payload));
        if index % 50 == 0 {
            // A reader sees it at once, and a restart goes on in the middle of a block.
            assert_eq!(entries(&opened.log), expected);
            opened.log.sync().expect("synced");
            drop(opened);
            opened = start();
        }
    }
    assert_eq!(entries(&opened.log), expected);
}

#[test]
fn one_batch_larger_than_a_segment_gets_a_segment_of_its_size() {
    let disk = MemoryDisk::default();
    let mut opened = open_small(&disk);
    opened.vote.save(Term(1), None).expect("saved");
    let large = vec![5; 3 << 20];
    append(&mut opened.log, 1, 1, &[b"small", &large, b"small"]).expect("written");
    opened.log.sync().expect("synced");
    let expected = entries(&opened.log);
    drop(opened);
    let opened = open_small(&disk);
    assert_eq!(entries(&opened.log), expected);
    let reader = opened.log.reader();
    assert_eq!(reader.read(Index(2), Index(3), 1).expect("there").len(), 1, "one at least, however large");
    assert_eq!(reader.read(Index(1), Index(3), 100).expect("there").len(), 1);
    assert!(reader.read(Index(4), Index(9), 100).expect("nothing yet").is_empty());
}

#[test]
fn setting_aside_leaves_a_blank_folder_and_keeps_a_few_old_ones() {
    let disk = MemoryDisk::default();
    let mut ids = Vec::new();
    for _ in 0..5 {
        three_batches(&disk);
        ids.push(open_small(&disk).meta.id());
        set_aside(&disk, Path::new(DIR), Aside::Removed).expect("set aside");
        let opened = open_small(&disk);
        assert_eq!((opened.renewed.clone(), opened.meta.cluster(), count(&opened)), (None, None, 0));
        assert!(!ids.contains(&opened.meta.id()));
    }
    let names = disk.list(Path::new(DIR)).expect("listed");
    assert_eq!(names.iter().filter(|n| n.starts_with("removed-")).count(), 3, "{names:?}");
}

#[test]
fn a_crash_while_becoming_a_new_node_never_leads_back_to_the_old_name() {
    let damaged = MemoryDisk::default();
    let places = three_batches(&damaged);
    damaged.tamper(&file(SEGMENT), |bytes| bytes[places[0].0] ^= 1);
    let body = damaged.bytes(&file("meta"));
    for crash in 0..40 {
        let disk = damaged.copy();
        disk.fail_after(crash);
        let first = open(Path::new(DIR), Arc::new(disk.clone()), &limits(2 * FIRST_BATCH));
        drop(first);
        disk.lose_power(&mut Dice::new(crash));
        let opened = open_small(&disk);
        assert_eq!(count(&opened), 0);
        assert_eq!(opened.meta.cluster(), Some(ClusterId(77)));
        assert_ne!(disk.bytes(&file("meta"))[16..32], body[16..32], "another id");
    }
}

#[test]
fn a_folder_in_use_is_refused_in_one_sentence() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("deep").join("node1");
    let opened = open(&path, Arc::new(RealDisk), &limits(1 << 20)).expect("opens");
    let error = open(&path, Arc::new(RealDisk), &limits(1 << 20)).expect_err("locked").to_string();
    assert!(error.contains("another process uses") && error.contains("node1"), "{error}");
    let Opened { meta, log, .. } = opened;
    drop(meta);
    assert!(open(&path, Arc::new(RealDisk), &limits(1 << 20)).is_err(), "whoever may write keeps the lock");
    drop(log);
    let again = open(&path, Arc::new(RealDisk), &limits(1 << 20)).expect("free");
    assert_eq!(again.meta.incarnation(), 2);
}

fn start(opened: Opened) -> (Wal, mpsc::Receiver<WalEvent>) {
    let (events, received) = mpsc::channel();
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    (Wal::start(opened.log, opened.vote, metrics, move |event| drop(events.send(event))), received)
}

fn write(index: u64, term: u64) -> Job {
    let frames = vec![frame(term, index, b"value")];
    Job::Write { token: Token(index), first: Index(index), last: Index(index), frames, commit: Index(index - 1) }
}

#[test]
fn the_thread_reports_what_is_durable_and_a_restart_finds_it() {
    let dir = tempfile::tempdir().expect("folder");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let opened = open(dir.path(), disk.clone(), &limits(1 << 20)).expect("opens");
    let (wal, events) = start(opened);
    wal.submit(Job::SaveVote { token: Token(0), term: Term(2), voted_for: Some(NodeId(8)) });
    for index in 1..=1000 {
        wal.submit(write(index, 2));
    }
    let mut highest = None;
    while highest < Some(Token(1000)) {
        match events.recv_timeout(PATIENCE).expect("reported") {
            WalEvent::Persisted { token } => {
                assert!(highest < Some(token), "tokens grow");
                highest = Some(token);
            }
            failed => panic!("{failed:?}"),
        }
    }
    assert_eq!(wal.reader().read(Index(500), Index(510), usize::MAX).expect("there").len(), 11);
    wal.submit(write(900, 2));
    wal.stop();
    assert_eq!(events.recv_timeout(PATIENCE), Ok(WalEvent::Persisted { token: Token(900) }), "stopping drains");
    drop(wal);
    let opened = open(dir.path(), disk, &limits(1 << 20)).expect("opens");
    assert_eq!((opened.term, opened.voted_for, opened.heads.len()), (Term(2), Some(NodeId(8)), 900));
    assert_eq!(opened.commit, Index(900).min(Index(999)));
}

#[test]
fn a_failed_fsync_is_reported_once_and_nothing_after_it() {
    let disk = MemoryDisk::default();
    let (wal, events) = start(open_small(&disk));
    wal.submit(write(1, 1));
    assert_eq!(events.recv_timeout(PATIENCE), Ok(WalEvent::Persisted { token: Token(1) }));
    disk.fail_syncs(true);
    wal.submit(write(2, 1));
    assert!(matches!(events.recv_timeout(PATIENCE), Ok(WalEvent::Failed { .. })));
    disk.fail_syncs(false);
    wal.submit(write(3, 1));
    wal.stop();
    assert_eq!(events.iter().count(), 0);
}
