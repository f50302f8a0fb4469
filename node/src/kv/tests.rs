//! The store as a whole: what it shows, against a model and under concurrent drains; what survives;
//! what a snapshot carries.

mod failing;
mod once;
mod pieces;
mod power;
mod reads;
mod transfer;
mod watched;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use quorum::{Config, Member, NodeId, Position};

use super::engine::journal::newest;
use super::engine::memory::{MemoryEngine, MemoryHome};
use super::engine::{Change, Engine, EngineError, Graves, Meta, Snapshot};
use super::once::{Moving, Row};
use super::store::Drains;
use super::*;
use crate::metrics::Metrics;
use crate::options::Limits;
pub(crate) use reads::slow_store;
use transfer::{chunks, import};

fn limits(overlay_bytes: usize) -> Limits {
    Limits { overlay_bytes, cache_bytes: 4 << 20, ..Limits::default() }
}

fn open(dir: &Path, overlay_bytes: usize) -> Store {
    Store::open(dir, &limits(overlay_bytes), Arc::new(Metrics::new().expect("metrics"))).expect("open")
}

fn put(key: &str, value: &str) -> Command {
    put_if(key, value, Condition::None)
}

fn put_if(key: &str, value: &str, condition: Condition) -> Command {
    Command::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Value::text(value), condition }
}

fn delete_if(key: &str, condition: Condition) -> Command {
    Command::Delete { key: Bytes::copy_from_slice(key.as_bytes()), condition }
}

fn increment(key: &str, by: i64) -> Command {
    Command::Increment { key: Bytes::copy_from_slice(key.as_bytes()), by }
}

fn run(store: &Store, command: &Command) -> Outcome {
    let index = store.applied().index.next();
    store.apply_command(Position::new(index.0, 1), &command.encode()).outcome
}

fn config(version: u64) -> Config {
    let member = |n: u16| Member {
        id: NodeId(u128::from(n)),
        name: format!("n{n}"),
        peer: String::new(),
        http: String::new(),
        tcp: String::new(),
    };
    Config { version, ..Config::first(vec![member(1), member(2), member(3)], 2, None).expect("config") }
}

fn content(store: &Store) -> BTreeMap<Bytes, Item> {
    store.view().scan(b"", None).collect()
}

/// The specification: apply as one would write it without overlay, engine, cache or views.
#[derive(Clone, Debug, Default)]
struct Model {
    items: BTreeMap<Bytes, Item>,
    index: u64,
    /// What was done once, and what it led to.
    once: BTreeMap<Bytes, (Command, Outcome)>,
}

impl Model {
    fn put(&mut self, key: &Bytes, value: &Value) -> u64 {
        let version = match self.items.get(key) {
            Some(item) if item.revision == self.index => item.version,
            Some(item) => item.version + 1,
            None => 1,
        };
        self.items.insert(key.clone(), Item { value: value.clone(), revision: self.index, version });
        version
    }

    fn check(&self, key: &Bytes, condition: Condition) -> Option<Outcome> {
        let current = self.items.get(key).map(|item| item.revision);
        let holds = match condition {
            Condition::None => true,
            Condition::Absent => current.is_none(),
            Condition::Present => current.is_some(),
            Condition::Revision(revision) => current == Some(revision),
        };
        (!holds).then_some(Outcome::ConditionFailed { current })
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        let Command::Once { key, command, .. } = command else { return self.plain(command) };
        match self.once.get(key) {
            Some((first, outcome)) if first == &**command => outcome.clone(),
            Some(_) => Outcome::KeyReused,
            None => {
                let outcome = self.plain(command);
                self.once.insert(key.clone(), ((**command).clone(), outcome.clone()));
                outcome
            }
        }
    }

    fn plain(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Once { .. } => Outcome::Unreadable,
            Command::Put { key, value, condition } => {
                self.check(key, *condition).unwrap_or_else(|| Outcome::Put { version: self.put(key, value) })
            }
            Command::Delete { key, condition } => self
                .check(key, *condition)
                .unwrap_or_else(|| Outcome::Deleted { count: u64::from(self.items.remove(key).is_some()) }),
            Command::PutMany { pairs } => {
                Outcome::Put { version: pairs.iter().fold(0, |_, (key, value)| self.put(key, value)) }
            }
            Command::DeleteMany { keys } => {
                Outcome::Deleted { count: keys.iter().filter(|key| self.items.remove(*key).is_some()).count() as u64 }
            }
            Command::Increment { key, by } => {
                let number = self.items.get(key).map_or(Some(0), |item| {
                    std::str::from_utf8(&item.value.data).ok().and_then(|text| text.parse::<i64>().ok())
                });
                match number.and_then(|number| number.checked_add(*by)) {
                    Some(value) => {
                        let version = self.put(key, &Value::bytes(value.to_string()));
                        Outcome::Incremented { value, version }
                    }
                    None => Outcome::NotANumber,
                }
            }
        }
    }
}

#[test]
fn every_command_leads_to_what_is_documented() {
    let store = Store::memory();
    let failed = |current| Outcome::ConditionFailed { current };
    let many = Command::PutMany {
        pairs: vec![
            ("m".into(), Value::text("first")),
            ("a".into(), Value::text("x")),
            ("m".into(), Value::text("last")),
        ],
    };
    let table = [
        (put("a", "1"), Outcome::Put { version: 1 }),
        (put("a", "2"), Outcome::Put { version: 2 }),
        (put_if("a", "3", Condition::Absent), failed(Some(2))),
        (put_if("b", "1", Condition::Absent), Outcome::Put { version: 1 }),
        (put_if("c", "1", Condition::Present), failed(None)),
        (put_if("a", "3", Condition::Present), Outcome::Put { version: 3 }),
        (put_if("a", "4", Condition::Revision(2)), failed(Some(6))),
        (put_if("a", "4", Condition::Revision(6)), Outcome::Put { version: 4 }),
        (put_if("c", "1", Condition::Revision(6)), failed(None)),
        (delete_if("a", Condition::Revision(1)), failed(Some(8))),
        (delete_if("a", Condition::Absent), failed(Some(8))),
        (delete_if("a", Condition::Revision(8)), Outcome::Deleted { count: 1 }),
        (delete_if("a", Condition::None), Outcome::Deleted { count: 0 }),
        (delete_if("a", Condition::Present), failed(None)),
        (put("a", "again"), Outcome::Put { version: 1 }),
        (many, Outcome::Put { version: 1 }),
        (Command::PutMany { pairs: vec![] }, Outcome::Put { version: 0 }),
        (Command::DeleteMany { keys: vec!["b".into(), "b".into(), "none".into()] }, Outcome::Deleted { count: 1 }),
        (increment("n", 5), Outcome::Incremented { value: 5, version: 1 }),
        (increment("n", -7), Outcome::Incremented { value: -2, version: 2 }),
        (increment("n", i64::MIN), Outcome::NotANumber),
        (increment("a", 1), Outcome::NotANumber),
        (put("n", "40"), Outcome::Put { version: 3 }),
        (increment("n", 2), Outcome::Incremented { value: 42, version: 4 }),
    ];
    for (line, (command, outcome)) in table.iter().enumerate() {
        assert_eq!(run(&store, command), *outcome, "line {}: {command:?}", line + 1);
    }
    let junk = Position::new(store.applied().index.0 + 1, 1);
    assert_eq!(store.apply_command(junk, &Bytes::from_static(b"\xffjunk")).outcome, Outcome::Unreadable);
    let m = store.get(b"m").expect("m");
    assert_eq!((m.value, m.revision, m.version), (Value::text("last"), 16, 1));
    assert_eq!(store.get(b"a").map(|a| a.version), Some(2));
    assert_eq!(store.get(b"n").map(|n| n.value), Some(Value::bytes("42")));
    assert_eq!(store.count(), 3);
    assert_eq!(content(&store).len(), 3);
}

#[test]
fn equal_logs_make_equal_states_whenever_each_replica_drains() {
    let (a, b) = (Store::memory(), Store::on_memory(MemoryEngine::default(), &limits(2_000)));
    for n in 0..2_000u64 {
        let key = format!("k{}", n * 7919 % 101);
        let command = match n % 5 {
            0 => delete_if(&key, Condition::None),
            1 => increment(&key, 3),
            2 => put_if(&key, "v", Condition::Absent),
            _ => put(&key, &n.to_string()),
        };
        if n % 3 == 0 {
            b.prefetch(&command);
        }
        assert_eq!(run(&a, &command), run(&b, &command));
    }
    assert!(b.overlay_bytes() < 4_000, "it drains by itself");
    assert_eq!((a.digest(), a.count()), (b.digest(), b.count()));
    run(&a, &put("one", "more"));
    assert_ne!(a.digest(), b.digest());
}

#[test]
#[should_panic(expected = "applied after")]
fn an_entry_out_of_order_is_a_bug_and_stops_the_node() {
    let store = Store::memory();
    store.apply_empty(Position::new(1, 1));
    store.apply_empty(Position::new(3, 1));
}

#[test]
fn readers_see_neither_old_values_nor_gaps_while_tables_drain() {
    const KEYS: u64 = 40;
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path(), 6_000);
    // Both keys of a pair are written by one command, so a view shows both at one revision.
    let write = |n: u64| {
        let pair = n % KEYS;
        let value = Value::text(n.to_string());
        let pairs = vec![(format!("a{pair:03}").into(), value.clone()), (format!("b{pair:03}").into(), value)];
        let command = Command::PutMany { pairs };
        store.prefetch(&command);
        assert_eq!(run(&store, &command), Outcome::Put { version: n / KEYS + 1 });
    };
    (0..KEYS).for_each(write);
    let (stop, known) = (AtomicBool::new(false), AtomicU64::new(KEYS));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let floor = known.load(Ordering::Acquire);
                for pair in 0..KEYS {
                    let found = store.get(format!("a{pair:03}").as_bytes()).expect("a gap");
                    // The newest write of this pair that had been applied when the read began.
                    let least = (floor - 1 - pair) / KEYS * KEYS + pair + 1;
                    assert!(found.revision >= least, "revision {} of pair {pair} after {least}", found.revision);
                }
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let view = store.view();
                let items: Vec<Entry> = view.scan(b"", None).collect();
                assert_eq!(items.len() as u64, 2 * KEYS);
                let (a, b) = items.split_at(KEYS as usize);
                for ((_, a), (_, b)) in a.iter().zip(b) {
                    assert_eq!(a, b, "half of a command");
                    assert!(a.revision <= view.revision());
                    assert!(a.revision + KEYS > view.revision(), "an old value");
                }
            }
        });
        for n in KEYS..8_000 {
            write(n);
            known.store(n + 1, Ordering::Release);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(store.failed(), None);
    assert!(store.persist().expect("persist").index.0 == 8_000);
}

#[test]
fn heads_prefetched_by_other_threads_while_tables_drain_are_never_stale() {
    let store = Store::on_memory(MemoryEngine::default(), &limits(1_500));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                (0..20).for_each(|k| store.prefetch(&put(&format!("k{k}"), "")));
            }
        });
        for n in 0..20_000u64 {
            assert_eq!(run(&store, &put(&format!("k{}", n % 20), "v")), Outcome::Put { version: n / 20 + 1 });
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_view_does_not_change_while_writes_drains_and_other_views_go_on() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path(), 1 << 20);
    let mut model = Model::default();
    let mut held: Vec<(View, Model)> = Vec::new();
    for n in 0..600u64 {
        let command = match n % 7 {
            6 => delete_if(&format!("k{}", n % 23), Condition::None),
            _ => put(&format!("k{}", n * 31 % 37), &n.to_string()),
        };
        model.apply(&command);
        run(&store, &command);
        match n % 50 {
            10 => held.push((store.view(), model.clone())),
            20 | 30 => store.drain(),
            45 if n > 300 => drop(held.remove(0)),
            _ => {}
        }
        for (view, then) in &held {
            assert_eq!(view.revision(), then.index);
            assert_eq!(view.count(), then.items.len() as u64);
            if n % 10 == 0 {
                assert!(view.scan(b"", None).eq(then.items.clone()), "the view of {} at {n}", then.index);
            }
        }
    }
}

#[test]
fn versions_that_no_view_shows_any_more_do_not_pile_up() {
    let store = Store::memory();
    let first = store.view();
    run(&store, &put("hot", "0"));
    let kept = store.view();
    let one = store.overlay_bytes();
    for n in 0..1_000 {
        run(&store, &put("hot", "1"));
        let page = store.page(b"", None, 10).expect("page");
        assert_eq!(page.revision, n + 2);
    }
    assert!(store.overlay_bytes() <= 3 * one, "{} bytes after {one}", store.overlay_bytes());
    assert_eq!(kept.scan(b"", None).map(|(_, item)| item.revision).collect::<Vec<_>>(), [1]);
    assert_eq!(first.scan(b"", None).count(), 0);
}

#[test]
fn pages_follow_one_another_by_prefix_and_say_whether_there_is_more() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path(), 1 << 20);
    for n in 0..1_000 {
        run(&store, &put(&format!("user:{n:04}"), "v"));
        if n == 500 {
            store.drain();
        }
    }
    for key in ["user", "user;", "z", "user:0001:x"] {
        run(&store, &put(key, "v"));
    }
    for n in 100..900 {
        run(&store, &delete_if(&format!("user:{n:04}"), Condition::None));
    }
    let (mut after, mut keys) = (None::<Bytes>, Vec::new());
    loop {
        let page = store.page(b"user:", after.as_deref(), 67).expect("page");
        keys.extend(page.entries.iter().map(|(key, _)| key.clone()));
        after = keys.last().cloned();
        if !page.more {
            break;
        }
        assert_eq!(page.entries.len(), 67);
    }
    assert_eq!(keys.len(), 201);
    assert!(keys.is_sorted() && keys.iter().all(|key| key.starts_with(b"user:")));
    assert_eq!(store.page(b"user:", Some(b"zzz"), 5).expect("page").entries, []);
    assert_eq!(store.page(b"user:", Some(b"a"), 5).expect("page").entries.len(), 5);
    assert!(store.page(b"", None, 0).expect("page").more);
}

#[test]
fn versions_count_position_and_configuration_survive_drains_and_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path(), 1 << 20);
    for _ in 0..10 {
        run(&store, &put("a", "x"));
    }
    store.drain();
    run(&store, &put("b", "x"));
    store.apply_config(Position::new(12, 1), &config(3));
    store.apply_empty(Position::new(13, 2));
    assert_eq!(store.persist().expect("persist"), Position::new(13, 2));
    drop(store);

    let store = open(dir.path(), 1 << 20);
    assert_eq!((store.applied(), store.count(), store.config()), (Position::new(13, 2), 2, Some(config(3))));
    let applied = store.apply_command(Position::new(14, 2), &put("a", "y").encode());
    assert_eq!(applied.outcome, Outcome::Put { version: 11 });
    store.apply_command(Position::new(15, 2), &delete_if("b", Condition::None).encode());
    assert_eq!(store.count(), 1);
    store.apply_empty(Position::new(16, 2));
    assert_eq!(store.persist().expect("nothing but a position"), Position::new(16, 2));
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create");
    for entry in std::fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copy");
        }
    }
}

/// The newest journal in a copied folder, and the end of what was written to it (the rest is preallocated zeros).
fn journal(dir: &Path) -> (std::path::PathBuf, usize) {
    let engine = std::fs::read_dir(dir).expect("list").find_map(|e| {
        let path = e.expect("entry").path();
        path.is_dir().then_some(path)
    });
    let (_, path) = newest(&engine.expect("engine")).expect("listed").expect("a journal");
    let bytes = std::fs::read(&path).expect("journal");
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    (path, end)
}

#[test]
fn what_was_persisted_survives_the_loss_of_every_later_byte() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(&dir.path().join("live"), 1 << 20);
    let (mut model, mut states) = (Model::default(), BTreeMap::new());
    let mut write = |n: u64| {
        let command = if n % 5 == 4 {
            delete_if(&format!("k{}", n % 13), Condition::None)
        } else {
            put(&format!("k{}", n * 31 % 41), &format!("value {n}"))
        };
        model.apply(&command);
        run(&store, &command);
        model.clone()
    };
    let mut last = Model::default();
    (0..200).for_each(|n| last = write(n));
    let durable = store.persist().expect("persist").index.0;
    assert_eq!(durable, 200);
    let at_persist = dir.path().join("at-persist");
    copy_folder(&dir.path().join("live"), &at_persist);
    states.insert(durable, last);
    for round in 0..5 {
        let mut last = Model::default();
        (0..20).for_each(|n| last = write(1_000 * round + n));
        store.drain();
        states.insert(last.index, last);
    }
    // Dropping writes out what fjall still buffers; every cut of it below is a power loss at another moment.
    drop(store);

    let (_, synced) = journal(&at_persist);
    let (_, written) = journal(&dir.path().join("live"));
    assert!(written > synced, "{written} {synced}");
    let mut positions = std::collections::BTreeSet::new();
    for (n, cut) in (synced..=written).step_by((written - synced) / 12).enumerate() {
        let copy = dir.path().join(format!("cut-{n}"));
        copy_folder(&dir.path().join("live"), &copy);
        let (path, _) = journal(&copy);
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("journal");
        file.set_len(cut as u64).expect("cut");
        let reopened = open(&copy, 1 << 20);
        let position = reopened.applied().index.0;
        let expected = states.get(&position).expect("a position between two drains");
        assert_eq!(content(&reopened), expected.items, "cut at {cut}");
        assert_eq!(reopened.count(), expected.items.len() as u64);
        positions.insert(position);
    }
    let reopened = open(&at_persist, 1 << 20);
    assert_eq!(reopened.applied().index.0, durable);
    assert_eq!(content(&reopened), states[&durable].items);
    assert!(positions.contains(&durable) && positions.len() > 2, "{positions:?}");
}

#[test]
fn the_memory_engine_falls_back_to_its_last_persist_or_to_any_later_batch() {
    let engine = MemoryEngine::default();
    let (key, meta) =
        (Bytes::from("a"), |index| Meta { position: Position::new(index, 1), count: 1, ..Meta::default() });
    for n in 1..=4u64 {
        let item = Item { value: Value::text("x"), revision: n, version: n };
        let changes = [Change { key: &key, revision: n, item: Some(&item) }];
        engine.commit(&changes, &Moving::default(), &meta(n)).expect("commit");
        if n == 1 {
            engine.persist().expect("persist");
        }
    }
    assert_eq!(engine.at_risk(), 3);
    for kept in 0..=3 {
        let reopened = Store::on_memory(engine.after_power_loss(kept), &Limits::default());
        assert_eq!(reopened.applied().index.0, 1 + kept as u64);
        assert_eq!(reopened.get(b"a").expect("a").version, 1 + kept as u64);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Run(Command),
    /// A request that was run before.
    Again(prop::sample::Index),
    Prefetch(Command),
    Empty,
    Configure,
    Drain,
    Persist,
    Reopen,
    Transfer,
    View,
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || (0..12u8).prop_map(|n| Bytes::from(format!("k{}{n}", n % 3)));
    let value = || {
        prop_oneof![(0..50i64).prop_map(|n| Value::bytes(n.to_string())), "[a-z]{0,8}".prop_map(Value::text)].boxed()
    };
    let condition = prop_oneof![
        4 => Just(Condition::None),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Present),
        1 => (1..60u64).prop_map(Condition::Revision),
    ]
    .boxed();
    let many = proptest::collection::vec((key(), value()), 0..4);
    let command = prop_oneof![
        5 => (key(), value(), condition.clone()).prop_map(|(key, value, condition)| Command::Put { key, value, condition }),
        2 => (key(), condition).prop_map(|(key, condition)| Command::Delete { key, condition }),
        1 => many.prop_map(|pairs| Command::PutMany { pairs }),
        1 => proptest::collection::vec(key(), 0..4).prop_map(|keys| Command::DeleteMany { keys }),
        2 => (key(), -3..3i64).prop_map(|(key, by)| Command::Increment { key, by }),
    ]
    .boxed();
    // Few keys, so that some are used for two requests.
    let once = (0..12u8, command.clone()).prop_map(|(n, command)| command.once(format!("request {n}").into()));
    let step = prop_oneof![
        20 => command.clone().prop_map(Step::Run),
        6 => once.prop_map(Step::Run),
        3 => any::<prop::sample::Index>().prop_map(Step::Again),
        5 => command.prop_map(Step::Prefetch),
        1 => Just(Step::Empty),
        1 => Just(Step::Configure),
        3 => Just(Step::Drain),
        1 => Just(Step::Persist),
        1 => Just(Step::Reopen),
        1 => Just(Step::Transfer),
        2 => Just(Step::View),
        1 => Just(Step::Release),
    ];
    proptest::collection::vec(step, 1..120).prop_map(with_retries)
}

/// Has every request that is to be asked again be one that was asked before, if there is one.
fn with_retries(steps: Vec<Step>) -> Vec<Step> {
    let mut asked = Vec::new();
    let retried = steps.into_iter().filter_map(|step| match step {
        Step::Run(command @ Command::Once { .. }) => {
            asked.push(command.clone());
            Some(Step::Run(command))
        }
        Step::Again(_) if asked.is_empty() => None,
        Step::Again(which) => Some(Step::Run(which.get(&asked).clone())),
        other => Some(other),
    });
    retried.collect()
}

/// Runs the steps on a store; `reopen` makes another one of the same data.
fn follow_model(steps: &[Step], mut store: Store, reopen: &dyn Fn(Store) -> Store) {
    let (mut model, mut configured, mut held) = (Model::default(), None, Vec::<(View, Model)>::new());
    for step in steps {
        match step {
            Step::Run(command) => {
                let outcome = model.apply(command);
                assert_eq!(run(&store, command), outcome, "{command:?}");
            }
            Step::Again(_) => unreachable!("replaced by what is run again"),
            Step::Prefetch(command) => store.prefetch(command),
            Step::Empty => {
                model.index += 1;
                store.apply_empty(Position::new(model.index, 1));
            }
            Step::Configure => {
                model.index += 1;
                configured = Some(config(model.index));
                store.apply_config(Position::new(model.index, 1), &config(model.index));
            }
            Step::Drain => store.drain(),
            Step::Persist => assert_eq!(store.persist().expect("persist").index.0, model.index),
            Step::Reopen => {
                held.clear();
                store.persist().expect("persist");
                store = reopen(store);
            }
            Step::Transfer => {
                let imported = import(&store, &chunks(&store)).expect("import");
                store.install(imported).expect("install");
            }
            Step::View => held.push((store.view(), model.clone())),
            Step::Release => held.truncate(held.len() / 2),
        }
        assert_eq!((store.count(), store.applied().index.0), (model.items.len() as u64, model.index));
        assert_eq!(store.config(), configured);
        assert_eq!(store.remembered(), model.once.len());
    }
    held.push((store.view(), model.clone()));
    for (view, then) in held {
        assert!(view.scan(b"", None).eq(then.items.clone()), "the view of {}", then.index);
        let some: Vec<Entry> = view.scan(b"k1", Some(b"k14")).collect();
        let expected = then.items.iter().filter(|(k, _)| k.starts_with(b"k1") && k.as_ref() > &b"k14"[..]);
        assert!(some.iter().map(|(k, i)| (k, i)).eq(expected));
    }
    for key in model.items.keys() {
        assert_eq!(store.get(key).as_ref(), model.items.get(key));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_store_in_memory_shows_what_the_model_shows(steps in steps()) {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
        // An installed state lives in an engine of its own, so this one cannot be reopened after
        // it: reopen only persists.
        follow_model(&steps, Store::on_shared(engine), &|store| store);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn a_store_on_disk_shows_what_the_model_shows(steps in steps()) {
        let dir = tempfile::tempdir().expect("dir");
        follow_model(&steps, open(dir.path(), 1 << 20), &|store| {
            drop(store);
            open(dir.path(), 1 << 20)
        });
    }
}
