//! The engine on disk, beside the log, when the power goes: a process works on a folder, is frozen at some moment, and
//! its folder is copied as a disk could then be found.
//!
//! What is certain after a loss of power is what was synced. So each time a sync of the engine has returned, and before
//! the drain goes on, the process notes the journal's end in a file of promises; likewise what it holds durable in its
//! log, and what it may cut. At a moment of chance all its threads are stopped (fjall's own too), and folder and
//! promises are copied. fjall keeps the journal in its own memory until the sync, so a copy rarely shows one that is
//! half written. Therefore the journal is torn back behind a sync from some time *before* the copy, from its end or out
//! of its middle, as if the disk had been that late; unless a cut of the log was promised since. Tables and manifests
//! are taken as they are: fjall syncs them itself before it relies on them, which this does not test. The log's files
//! are taken as they are, too: their losses are played byte by byte on the disk in memory, in `storage/tests.rs`.
//!
//! The copy is opened as a node does it. What the process said was durable must be there, the engine must fit the log,
//! and repeating the log must lead to the state of the model. The next process goes on from such a copy.

use std::os::unix::fs::FileExt;
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quorum::{Index, Term};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::super::engine::fjall::FjallHome;
use super::watched::Watched;
use super::*;
use crate::storage::{Batch, Opened, RealDisk, RecordKind, open as open_folder, record};

const FOLDER: &str = "QUORATE_POWER_FOLDER";
/// Set for a process whose engine does not sync: a deliberate bug.
const LYING: &str = "QUORATE_POWER_LYING";
/// Copies in an ordinary run; `POWER_LOSSES` asks for more, as a night has time for.
const LOSSES: u64 = 20;
/// Copies of one process's folder; then the next one begins from the last.
const LOSSES_OF_A_PROCESS: u64 = 4;
/// Small, so that drains in pieces, cuts and new segments happen all the time.
const OVERLAY_BYTES: usize = 48 << 10;
const PIECE_BYTES: usize = 6 << 10;
const SEGMENT_BYTES: u64 = 128 << 10;
const KEYS: u64 = 700;
const ENTRIES_AT_ONCE: u64 = 8;
/// Entries between two cuts of the log.
const CUT_EVERY: u64 = 900;
/// For a hundred syncs in a row, each a second late.
const PATIENCE: Duration = Duration::from_secs(120);

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    n ^ (n >> 29)
}

/// The command at an index: the same in every process.
fn command_at(index: u64) -> Command {
    let dice = mix(index);
    let key = format!("k{:04}", (dice >> 8) % KEYS);
    match dice % 10 {
        0 | 1 => delete_if(&key, Condition::None),
        2 => put_if(&key, "created", Condition::Absent),
        3 => increment(&format!("n{}", dice % 7), 3),
        4 => delete_if(&key, Condition::Revision(index.saturating_sub((dice >> 40) % 900))),
        5 => Command::DeleteMany { keys: vec![key.into(), format!("k{:04}", (dice >> 20) % KEYS).into()] },
        6 => put(&key, &noise(dice, (dice >> 32) as usize % 9000)),
        _ => put(&key, &"v".repeat((dice >> 32) as usize % 200)),
    }
}

/// A text that does not compress, so that a page that is lost lies within a value.
fn noise(seed: u64, bytes: usize) -> String {
    (0..bytes as u64).map(|n| char::from(b'0' + (mix(seed ^ n) >> 20) as u8 % 64)).collect()
}

fn folder_limits() -> Limits {
    Limits { segment_bytes: SEGMENT_BYTES, ..limits(OVERLAY_BYTES) }
}

/// The folder as a node opens it: the log, and the store over what the engine has.
fn opened(dir: &Path, hook: Option<impl FnMut(&dyn Engine) + Send + 'static>) -> (Opened, Store) {
    let opened = open_folder(dir, Arc::new(RealDisk), &folder_limits()).expect("opens");
    assert_eq!(opened.renewed, None, "nothing that was durable is missing");
    let (home, engine) = FjallHome::open(&opened.store_dir, 4 << 20).expect("the engine opens");
    let engine = Watched::new(engine);
    if let Some(hook) = hook {
        engine.watch(hook);
        engine.lying.store(std::env::var_os(LYING).is_some(), Ordering::Relaxed);
    }
    let store =
        Store::start(engine, Box::new(home), &folder_limits(), PIECE_BYTES, None, Drains::Thread).expect("starts");
    (opened, store)
}

/// Repeats what the store lacks of the log.
fn repeat(opened: &Opened, store: &Store) {
    let (from, last) = (store.applied().index.next(), opened.log.last().index);
    if from > last {
        return;
    }
    for record in opened.log.reader().read(from, last, usize::MAX).expect("the log can be read") {
        store.apply_command(record.position(), &record.payload());
    }
}

/// What the process has promised: a file of numbers, each written once it is true.
const PROMISES: &str = "promises";
/// The places of the numbers: the last entry durable in the log; the engine's position that the log may be cut up to;
/// the engine's position at its last sync, and the journal's number and end then.
const DURABLE: usize = 0;
const PERSISTED: usize = 1;
const SYNCED: usize = 2;
const JOURNAL: usize = 3;
const JOURNAL_END: usize = 4;

/// A number for each place.
type Promised = [u64; 5];

struct Promises(std::fs::File);

impl Promises {
    fn open(root: &Path) -> Promises {
        let mut options = std::fs::OpenOptions::new();
        Promises(options.read(true).write(true).create(true).truncate(false).open(root.join(PROMISES)).expect("opens"))
    }

    fn make(&self, place: usize, numbers: &[u64]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.0.write_all_at(&bytes, place as u64 * 8).expect("written");
    }

    fn read(&self) -> Promised {
        let mut bytes = [0; 40];
        let length = self.0.read_at(&mut bytes, 0).expect("read");
        assert!(length % 8 == 0, "half a promise");
        [0, 1, 2, 3, 4].map(|n| u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().expect("eight bytes")))
    }
}

/// The newest journal, and its end, if this end of a journal was seen before.
fn journal_end(engine: &Path, seen: (u64, u64)) -> (u64, u64) {
    let (number, path) = newest(engine).expect("listed").expect("a journal");
    let from = if number == seen.0 { seen.1 } else { 0 };
    let file = std::fs::File::open(path).expect("the journal");
    let (mut buffer, mut at, mut end) = (vec![0; 64 << 10], from, from);
    loop {
        let read = file.read_at(&mut buffer, at).expect("the journal can be read");
        match buffer[..read].iter().rposition(|byte| *byte != 0) {
            Some(last) => end = at + last as u64 + 1,
            // What was not written yet is zeros, to the end.
            None => return (number, end),
        }
        at += read as u64;
    }
}

/// The process that works until it is killed. Without a folder it is no test of anything.
#[test]
fn a_process_whose_power_goes() {
    let Some(dir) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&dir).join("node");
    let promises = Arc::new(Promises::open(Path::new(&dir)));
    let (promising, store_folder, mut end) = (Arc::clone(&promises), folder.join("store"), (0, 0));
    // Nobody but the drain writes to the journal, and the drain waits for this.
    let hook = move |engine: &dyn Engine| {
        end = journal_end(&store_folder.join(engine.name()), end);
        let position = engine.meta().expect("readable").expect("there").position;
        promising.make(SYNCED, &[position.index.0, end.0, end.1]);
    };
    let (mut node, store) = opened(&folder, Some(hook));
    // What is there at the beginning was synced by whoever left it, or by the making of a new engine.
    let current = std::fs::read_to_string(folder.join("store/current")).expect("a pointer");
    let end = journal_end(&folder.join("store").join(current.trim_end()), (0, 0));
    promises.make(SYNCED, &[store.applied().index.0, end.0, end.1]);
    node.vote.save(Term(1), None).expect("saved");
    repeat(&node, &store);
    // Another thread waits for the engine, as in a node.
    let (persist, wanted) = std::sync::mpsc::sync_channel::<()>(1);
    let (persisted, cuts) = channel();
    let (persisting, promising) = (store.clone(), Arc::clone(&promises));
    std::thread::spawn(move || {
        while wanted.recv().is_ok() {
            let position = persisting.persist().expect("persists");
            promising.make(PERSISTED, &[position.index.0]);
            persisted.send(position.index).expect("the log's owner");
        }
    });
    loop {
        let first = node.log.last().index.next();
        let frames: Vec<Bytes> = (first.0..first.0 + ENTRIES_AT_ONCE)
            .map(|index| {
                let mut out = BytesMut::new();
                record::encode(&mut out, Term(1), Index(index), RecordKind::Command, &command_at(index).encode());
                out.freeze()
            })
            .collect();
        let last = Index(first.0 + ENTRIES_AT_ONCE - 1);
        node.log.append(&Batch { first, last, commit: first.prev(), frames: &frames }).expect("appends");
        node.log.sync().expect("syncs");
        promises.make(DURABLE, &[last.0]);
        repeat(&node, &store);
        if last.0 % CUT_EVERY < ENTRIES_AT_ONCE {
            let _busy = persist.try_send(());
        }
        while let Ok(upto) = cuts.try_recv() {
            node.log.cut(upto).expect("cuts");
        }
        while !store.has_room() {
            std::thread::yield_now();
        }
    }
}

/// A working process, seen from outside.
struct Working {
    child: Child,
    promises: Promises,
}

impl Working {
    fn start(root: &Path, lying: bool) -> Working {
        let child = Process::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "kv::tests::power::a_process_whose_power_goes"])
            .env(FOLDER, root)
            .envs(lying.then_some((LYING, "1")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        Working { child: child.expect("starts"), promises: Promises::open(root) }
    }

    /// Lets it work until so many entries more are durable.
    fn work(&mut self, entries: u64) {
        let (until, begun) = (self.promises.read()[DURABLE] + entries, Instant::now());
        while self.promises.read()[DURABLE] < until {
            assert_eq!(self.child.try_wait().expect("asked"), None, "it works until it is killed");
            assert!(begun.elapsed() < PATIENCE, "it makes no progress");
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Everything in it stands still while the folder is copied; returns what was promised then.
    fn copy(&mut self, from: &Path, to: &Path) -> Promised {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).expect("stops");
        waitpid(Some(pid), WaitOptions::UNTRACED).expect("stopped");
        copy_folder(from, to);
        let promised = self.promises.read();
        kill_process(pid, Signal::CONT).expect("goes on");
        promised
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes away some of what the journal got after a sync, as a disk may that lost its power.
/// Returns whether there was any.
fn lose(copy: &Path, promised: Promised, dice: u64) -> bool {
    let (path, end) = journal(&copy.join("store"));
    // fjall syncs a journal before it begins another, of which nothing is synced then.
    let same = path.file_stem().is_some_and(|stem| stem.to_string_lossy() == promised[JOURNAL].to_string());
    let synced = if same { promised[JOURNAL_END] as usize } else { 0 };
    if end <= synced {
        return false;
    }
    let mut bytes = std::fs::read(&path).expect("journal");
    let at = synced + (dice >> 8) as usize % (end - synced);
    match dice % 4 {
        0 => bytes.truncate(at),
        1 => bytes[at..].fill(0),
        // A page in the middle never arrived, those behind it did.
        2 => bytes[synced.max(at / 4096 * 4096)..end.min(at / 4096 * 4096 + 4096)].fill(0),
        _ => bytes[synced..].fill(0),
    }
    std::fs::write(path, bytes).expect("journal");
    true
}

/// Opens a copy, checks it, repeats the log and checks the state it comes to. Returns whether the engine
/// was between two positions.
fn check(copy: &Path, promised: Promised, model: &mut Model) -> bool {
    let none: Option<fn(&dyn Engine)> = None;
    let (node, store) = opened(copy, none);
    let (applied, whole, last) = (store.applied().index.0, store.whole_from().index.0, node.log.last().index.0);
    assert!(last >= promised[DURABLE], "entries up to {} were durable, {last} are there", promised[DURABLE]);
    assert!(applied >= promised[PERSISTED].max(promised[SYNCED]), "{applied} of {promised:?}");
    assert!(applied >= node.start.index.0, "the log begins behind {}, the engine ends at {applied}", node.start);
    assert!(applied <= whole && whole <= last, "applied {applied}, whole from {whole}, the log ends at {last}");
    assert_eq!(store.count(), content(&store).len() as u64, "the count at {applied}");
    assert_eq!(store.export().is_ok(), whole == applied);
    // Models only go forward: a copy is never older than the one before.
    let forward = |model: &mut Model, to: u64| {
        while model.index < to {
            model.apply(&command_at(model.index + 1));
        }
    };
    let mut then = model.clone();
    if whole == applied && then.index <= applied {
        forward(&mut then, applied);
        assert_eq!(content(&store), then.items, "the state at {applied}");
    }
    repeat(&node, &store);
    forward(model, last);
    assert_eq!(model.index, last, "the log only grows");
    assert_eq!(content(&store), model.items, "the state at {last}, repeated from {applied}");
    store.persist().expect("persists");
    assert_eq!(store.whole_from(), store.applied());
    drop(store);
    let (_home, engine) = FjallHome::open(&node.store_dir, 4 << 20).expect("opens again");
    assert!(engine.graves().expect("graves").is_empty(), "forgotten once the state is whole");
    assert_eq!(engine.meta().expect("readable").map(|meta| meta.position.index.0), Some(last));
    whole > applied
}

#[test]
fn after_any_loss_of_power_what_was_durable_is_there_and_the_log_leads_to_the_state() {
    let losses = std::env::var("POWER_LOSSES").ok().and_then(|n| n.parse().ok()).unwrap_or(LOSSES);
    let seed =
        std::env::var("POWER_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("POWER_SEED={seed}");
    lose_power(seed, losses, false);
}

#[test]
fn an_engine_that_does_not_sync_is_noticed() {
    let noticed = std::panic::catch_unwind(|| lose_power(1, LOSSES, true));
    let words = noticed.expect_err("what was promised is gone, and nothing noticed");
    let words = words.downcast_ref::<String>().map_or("", String::as_str);
    // The engine's position against the promised ones.
    assert!(words.contains(" of ["), "noticed, but otherwise: {words}");
}

/// Copies the folder of a working process so many times, as a disk that lost its power, and checks each.
fn lose_power(seed: u64, losses: u64, lying: bool) {
    let folder = tempfile::tempdir().expect("folder");
    let live = folder.path().join("node");
    let (mut model, mut between, mut torn, mut cut, mut done) = (Model::default(), 0, 0, 0, 0);
    while done < losses {
        let mut working = Working::start(folder.path(), lying);
        let mut last_copy = live.clone();
        for _ in 0..LOSSES_OF_A_PROCESS.min(losses - done) {
            done += 1;
            let (dice, copy) = (mix(seed ^ mix(done)), folder.path().join(done.to_string()));
            working.work(1 + dice % 700);
            let before = working.promises.read();
            working.work((dice >> 20) % 400);
            let mut promised = working.copy(&live, &copy);
            if promised[PERSISTED] == before[PERSISTED] {
                promised[SYNCED] = before[SYNCED];
                torn += u64::from(lose(&copy, before, dice >> 32));
            }
            between += u64::from(check(&copy, promised, &mut model));
            cut += u64::from(promised[PERSISTED] > 0);
            if last_copy != live {
                std::fs::remove_dir_all(&last_copy).expect("removed");
            }
            last_copy = copy;
        }
        drop(working);
        // The next process finds what the last loss of power left, and has promised nothing yet.
        std::fs::remove_dir_all(&live).expect("removed");
        std::fs::rename(&last_copy, &live).expect("renamed");
        std::fs::remove_file(folder.path().join(PROMISES)).expect("removed");
    }
    println!(
        "{done} losses of power: {torn} took some of the journal, {between} came within a drain, {cut} after the log was cut; {} entries",
        model.index
    );
    assert!(losses < LOSSES || between.min(cut).min(torn) > 0, "of every sort");
}
