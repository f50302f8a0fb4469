//! An engine that fails or hangs under the store.

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
