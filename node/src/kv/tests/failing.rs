//! An engine that fails or hangs under the store.

use super::super::engine::fjall::FjallHome;
use super::watched::Watched;
use super::*;

impl Store {
    pub(super) fn on_shared(engine: Arc<dyn Engine>) -> Store {
        Store::start(engine, Box::new(MemoryHome::default()), &limits(1 << 20), 1 << 20, None, Drains::AtOnce)
            .expect("start")
    }
}

#[test]
fn a_failing_engine_is_told_once_kept_for_good_and_stops_all_change() {
    let engine = Watched::new(MemoryEngine::default());
    let store = Store::on_shared(engine.clone());
    let failures = store.failures();
    run(&store, &put("a", "1"));
    engine.broken.store(true, Ordering::Relaxed);
    assert!(matches!(store.persist(), Err(StoreError::Engine(_))));
    engine.broken.store(false, Ordering::Relaxed);
    assert!(failures.has_changed().expect("open"));
    assert!(store.failed().expect("failed").contains("on purpose"));
    assert!(matches!(store.persist(), Err(StoreError::Failed(_))), "never retried");
    run(&store, &put("a", "2"));
    assert_eq!(store.get(b"a").map(|item| item.version), Some(1), "still readable, not written any more");
    assert!(store.export().is_err() && store.begin_import().is_err());
}

#[test]
fn a_drain_that_hangs_takes_the_room_but_neither_reads_nor_writes() {
    let engine = Watched::new(MemoryEngine::default());
    let stuck = engine.gate.lock();
    let store =
        Store::start(engine.clone(), Box::new(MemoryHome::default()), &limits(1 << 20), 1 << 20, None, Drains::Thread)
            .expect("start");
    let value = "v".repeat(600 << 10);
    assert!(store.has_room());
    (0..4).for_each(|n| assert_eq!(run(&store, &put(&n.to_string(), &value)), Outcome::Put { version: 1 }));
    assert!(!store.has_room(), "{} bytes", store.overlay_bytes());
    assert_eq!(run(&store, &put("0", "again")), Outcome::Put { version: 2 });
    assert_eq!(store.get(b"0").map(|item| item.value), Some(Value::text("again")));
    assert_eq!((store.get(b"1").map(|item| item.revision), store.view().scan(b"", None).count()), (Some(2), 4));
    drop(stuck);
    assert_eq!(store.persist().expect("persist").index.0, 5);
    assert!(store.has_room() && store.overlay_bytes() == 0);
    assert_eq!(content(&store).len(), 4);
}

#[test]
fn an_engine_that_was_found_damaged_in_use_is_found_damaged_by_the_next_start() {
    let dir = tempfile::tempdir().expect("folder");
    let (home, engine) = FjallHome::open(dir.path(), 4 << 20).expect("opens");
    let engine = Watched::new(engine);
    let store =
        Store::start(engine.clone(), Box::new(home), &limits(1 << 20), 1 << 20, None, Drains::AtOnce).expect("starts");
    run(&store, &put("a", "1"));
    store.persist().expect("durable");
    engine.broken.store(true, Ordering::Relaxed);
    assert!(store.try_get(b"unknown").is_err_and(|error| error.is_damage()));
    drop((store, engine));
    let found = FjallHome::open(dir.path(), 4 << 20).err().expect("refused");
    assert!(found.is_damage() && found.to_string().contains("on purpose"), "{found}");
}

#[test]
fn what_may_pass_or_is_of_another_version_is_no_damage() {
    let open = |dir: &Path| FjallHome::open(dir, 4 << 20).map(drop);
    let dir = tempfile::tempdir().expect("folder");
    let held = FjallHome::open(dir.path(), 4 << 20).expect("opens");
    let error = open(dir.path()).expect_err("another process has it");
    assert!(!error.is_damage(), "{error}");
    drop(held);
    std::fs::write(dir.path().join("engine-00000001/version"), b"FJL\x09").expect("written");
    let error = open(dir.path()).expect_err("a later version");
    assert!(!error.is_damage(), "{error}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let error = open(&file).expect_err("no folder");
    assert!(!error.is_damage(), "{error}");
}
