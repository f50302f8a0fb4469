//! Drains in pieces: what a crash after any of them leaves, and what views show meanwhile.

use std::sync::Mutex;
use std::time::Duration;

use super::super::engine::fjall::FjallHome;
use super::super::overlay::ON_FREE;
use super::watched::Watched;
use super::*;

fn on(engine: Arc<dyn Engine>, piece_bytes: usize) -> Store {
    Store::start(engine, Box::new(MemoryHome::default()), &limits(1 << 20), piece_bytes, None, Drains::AtOnce)
        .expect("start")
}

/// The log, and the state and outcome at each index (from 0: nothing).
struct History {
    log: Vec<Command>,
    states: Vec<Model>,
    outcomes: Vec<Option<Outcome>>,
}

impl History {
    fn of(log: Vec<Command>) -> History {
        let (mut model, mut states, mut outcomes) = (Model::default(), vec![Model::default()], vec![None]);
        for command in &log {
            outcomes.push(Some(model.apply(command)));
            states.push(model.clone());
        }
        History { log, states, outcomes }
    }

    /// Applies what the store lacks of the log, draining before each of the indexes, and checks it
    /// against the model all the way.
    fn repeat(&self, store: &Store, drains: &[usize]) {
        let whole_from = store.whole_from().index.0;
        for index in store.applied().index.0 as usize..=self.log.len() {
            let items = content(store);
            assert_eq!(store.count(), items.len() as u64, "the count at {index}, whole from {whole_from}");
            if index as u64 >= whole_from {
                assert_eq!(items, self.states[index].items, "at {index}, whole from {whole_from}");
                assert!(store.export().is_ok());
            } else {
                assert!(matches!(store.export(), Err(StoreError::Between { .. })));
            }
            if drains.contains(&index) {
                store.drain();
                assert_eq!(content(store), items, "after a drain at {index}");
            }
            if let Some(command) = self.log.get(index) {
                if index % 3 == 0 {
                    store.prefetch(command);
                }
                let outcome = run(store, command);
                // What is done once leads to the same also while the entry is repeated, for that is
                // what a retry will be told.
                if index as u64 >= whole_from || matches!(command, Command::Once { .. }) {
                    assert_eq!(
                        Some(outcome),
                        self.outcomes[index + 1],
                        "{command:?} at {index}, whole from {whole_from}"
                    );
                }
            }
        }
    }
}

/// Drains a memory engine as it goes along the log; returns the engine as a crash after each batch would leave it.
fn crashes(history: &History, engine: MemoryEngine, drains: &[usize], piece_bytes: usize) -> Vec<MemoryEngine> {
    let left = Arc::new(Mutex::new(Vec::new()));
    let engine = Watched::new(Recorded(engine, Arc::clone(&left)));
    let store = on(engine, piece_bytes);
    history.repeat(&store, drains);
    drop(store);
    std::mem::take(&mut *left.lock().expect("left"))
}

/// A memory engine that keeps a copy of itself after each batch.
struct Recorded(MemoryEngine, Arc<Mutex<Vec<MemoryEngine>>>);

impl Engine for Recorded {
    fn get(&self, key: &[u8]) -> Result<Option<Item>, EngineError> {
        self.0.get(key)
    }
    fn meta(&self) -> Result<Option<Meta>, EngineError> {
        self.0.meta()
    }
    fn snapshot(&self) -> Box<dyn Snapshot> {
        self.0.snapshot()
    }
    fn graves(&self) -> Result<Graves, EngineError> {
        self.0.graves()
    }
    fn rows(&self) -> Result<Vec<Arc<Row>>, EngineError> {
        self.0.rows()
    }
    fn commit(&self, changes: &[Change<'_>], rows: &Moving, meta: &Meta) -> Result<(), EngineError> {
        self.0.commit(changes, rows, meta)?;
        self.1.lock().expect("copies").push(self.0.after_power_loss(usize::MAX));
        Ok(())
    }
    fn persist(&self) -> Result<(), EngineError> {
        self.0.persist()
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
    fn alarm(&self) -> Option<String> {
        None
    }
    fn name(&self) -> &str {
        "recorded"
    }
    fn doom(&self, _: bool) {}
}

/// Commands whose conditions on a revision hold every other time: only then does the very
/// revision of a deletion matter.
fn commands() -> impl Strategy<Value = Vec<Command>> {
    steps().prop_map(|steps| {
        let mut model = Model::default();
        let commands = steps.into_iter().filter_map(|step| match step {
            Step::Run(command) | Step::Prefetch(command) => Some(command),
            _ => None,
        });
        let aimed = commands.map(|mut command| {
            let plain = match &mut command {
                Command::Once { command, .. } => command,
                plain => plain,
            };
            if let Command::Put { key, condition, .. } | Command::Delete { key, condition } = plain
                && let Condition::Revision(wanted) = condition
                && let Some(item) = model.items.get(key)
                && *wanted % 2 == 0
            {
                *wanted = item.revision;
            }
            model.apply(&command);
            command
        });
        aimed.collect()
    })
}

#[test]
fn a_deletion_that_hung_on_a_revision_is_not_undone_by_repeating_what_came_before_it() {
    let history = History::of(vec![
        put("a", "old"),
        put_if("a", "refused", Condition::Absent),
        delete_if("a", Condition::Revision(1)),
        put("b", "in the second piece"),
        put("c", "in the third"),
    ]);
    let left = crashes(&history, MemoryEngine::default(), &[1, 5], 1);
    assert_eq!(left.len(), 4);
    for left in left {
        let store = on(Arc::new(left), 1);
        history.repeat(&store, &[]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn a_crash_after_any_piece_and_another_in_the_repetition_lead_to_the_state_of_the_log(
        log in commands(),
        drains in proptest::collection::vec(0..100usize, 1..4),
        again in proptest::collection::vec(0..100usize, 0..4),
        second in any::<prop::sample::Index>(),
        piece_bytes in prop_oneof![Just(1), Just(100)],
    ) {
        let history = History::of(log);
        for left in crashes(&history, MemoryEngine::default(), &drains, piece_bytes) {
            let mut twice = crashes(&history, left.after_power_loss(0), &again, piece_bytes);
            if !twice.is_empty() {
                let left = twice.swap_remove(second.index(twice.len()));
                let end = history.log.len();
                let store = on(Arc::new(left), piece_bytes);
                history.repeat(&store, &[end]);
                assert_eq!(store.whole_from(), store.applied());
            }
        }
    }
}

/// Puts, deletions, re-creations, conditions that hold and fail, and numbers, on a few keys.
fn mixed_log(length: u64) -> Vec<Command> {
    let command = |n: u64| match n % 9 {
        0 | 1 => increment(&format!("n{}", n % 5), 3),
        2 => delete_if(&format!("n{}", n % 7), Condition::None),
        3 => put_if(&format!("k{}", n * 31 % 41), "created", Condition::Absent),
        4 => delete_if(&format!("k{}", n * 31 % 41), Condition::Present),
        5 => put_if(&format!("k{}", n % 41), "seen", Condition::Revision(n / 2)),
        6 => Command::PutMany {
            pairs: vec![(format!("k{}", n % 41).into(), Value::text("many")), ("both".into(), Value::text("x"))],
        },
        7 => Command::DeleteMany { keys: vec![format!("k{}", n * 3 % 41).into(), "both".into()] },
        _ => put(&format!("k{}", n * 13 % 41), &format!("value {n}")),
    };
    // Every fourth is done once, and asked for again some time later.
    let once = |n: u64| command(n).once(format!("request {n}").into());
    let step = |n: u64| match n % 8 {
        1 | 5 => once(n),
        3 if n > 40 => once(n - 34),
        _ => command(n),
    };
    (0..length).map(step).collect()
}

#[test]
fn on_disk_a_crash_after_any_piece_or_in_its_middle_is_repeated_from_the_log() {
    let dir = tempfile::tempdir().expect("dir");
    let (live, history) = (dir.path().join("live"), History::of(mixed_log(300)));
    let (_home, engine) = FjallHome::open(&live, 4 << 20).expect("open");
    let engine = Watched::new(engine);
    let copies = Arc::new(AtomicU64::new(0));
    let (from, to, number) = (live.clone(), dir.path().to_owned(), Arc::clone(&copies));
    engine.watch(move |_| copy_folder(&from, &to.join(format!("piece-{}", number.fetch_add(1, Ordering::Relaxed)))));
    let store = on(engine, 200);
    history.repeat(&store, &[100, 220]);
    drop(store);
    let copies = copies.load(Ordering::Relaxed);
    assert!(copies >= 8, "{copies} pieces");
    let mut between = 0;
    let mut check = |copy: &Path| {
        let (_home, engine) = FjallHome::open(copy, 4 << 20).expect("open");
        let store = on(Arc::new(engine), 400);
        between += u64::from(store.applied() != store.whole_from());
        history.repeat(&store, &[90, 150, 300]);
        drop(store);
        let (_home, engine) = FjallHome::open(copy, 4 << 20).expect("open again");
        assert!(engine.graves().expect("graves").is_empty(), "forgotten once the state is whole");
        let store = on(Arc::new(engine), 400);
        assert_eq!((store.applied().index.0, content(&store)), (300, history.states[300].items.clone()));
    };
    for n in 0..copies {
        check(&dir.path().join(format!("piece-{n}")));
    }
    let (_, end) = journal(&live);
    for n in 1..8usize {
        let copy = dir.path().join(format!("torn-{n}"));
        copy_folder(&live, &copy);
        let (path, _) = journal(&copy);
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("journal");
        file.set_len((end * (n + 4) / 12) as u64).expect("cut");
        check(&copy);
    }
    assert!(between >= copies - 2, "{between} of {copies} were in the middle of a drain");
}

#[test]
fn views_and_exports_made_before_within_and_after_a_drain_each_show_one_revision() {
    let history = Arc::new(History::of(mixed_log(240)));
    let engine = Watched::new(MemoryEngine::default());
    let store = on(Arc::clone(&engine) as Arc<dyn Engine>, 200);
    let held = Arc::new(Mutex::new(Vec::<View>::new()));
    let right = |view: &View, history: &History| {
        let then = &history.states[view.revision() as usize];
        assert!(view.scan(b"", None).eq(then.items.clone()), "the view of {}", view.revision());
        assert_eq!(view.count(), then.items.len() as u64);
    };
    let (inner, views, known) = (store.clone(), Arc::clone(&held), Arc::clone(&history));
    engine.watch(move |_| {
        let view = inner.view();
        right(&view, &known);
        let there = chunks(&inner);
        assert!(there.len() >= 2);
        for (key, item) in &known.states[view.revision() as usize].items {
            assert_eq!(inner.get(key).as_ref(), Some(item));
        }
        views.lock().expect("views").push(view);
    });
    for (n, command) in history.log.iter().enumerate() {
        if n % 20 == 3 {
            held.lock().expect("views").push(store.view());
        }
        if n % 60 == 50 {
            store.drain();
        }
        run(&store, command);
    }
    let held = std::mem::take(&mut *held.lock().expect("views"));
    assert!(held.len() > 30, "{}", held.len());
    held.iter().for_each(|view| right(view, &history));
    engine.unwatch();
}

/// Writes come in while pieces go over, and the table that they fill is drained in turn.
#[test]
fn writes_between_two_pieces_are_kept_apart_from_the_table_that_goes_over() {
    let history = Arc::new(History::of(mixed_log(400)));
    let engine = Watched::new(MemoryEngine::default());
    let store = on(Arc::clone(&engine) as Arc<dyn Engine>, 200);
    let (inner, log) = (store.clone(), Arc::clone(&history));
    engine.watch(move |_| {
        let index = inner.applied().index.0 as usize;
        if let Some(command) = log.log.get(index) {
            inner.prefetch(command);
            assert_eq!(Some(run(&inner, command)), log.outcomes[index + 1]);
        }
    });
    while (store.applied().index.0 as usize) < history.log.len() {
        let index = store.applied().index.0 as usize;
        assert_eq!(Some(run(&store, &history.log[index])), history.outcomes[index + 1]);
        if index % 40 == 39 {
            store.drain();
        }
    }
    engine.unwatch();
    assert_eq!(content(&store), history.states[400].items);
    assert_eq!(store.persist().expect("persist").index.0, 400);
    let again = on(engine, 200);
    assert_eq!((content(&again), again.count()), (content(&store), store.count()));
}

/// A table of some hundred thousand keys takes tens of milliseconds to free; whoever applied
/// meanwhile once waited for that.
#[test]
fn a_drained_table_is_freed_while_nobody_waits_for_it() {
    let store = on(Arc::new(MemoryEngine::default()), 200);
    run(&store, &put("k", "v"));
    let (asked, answered) = (store.clone(), Arc::new(AtomicBool::new(false)));
    let freed = Arc::clone(&answered);
    ON_FREE.set(Some(Box::new(move || {
        let (tell, told) = std::sync::mpsc::channel();
        let store = asked.clone();
        std::thread::spawn(move || tell.send(store.count()));
        freed.store(told.recv_timeout(Duration::from_secs(10)).is_ok(), Ordering::Relaxed);
    })));
    store.drain();
    ON_FREE.set(None);
    assert!(answered.load(Ordering::Relaxed), "the store could not be asked while the table was freed");
}
