//! Reads on a runtime whose only thread has other things to do.

use std::sync::Mutex;
use std::thread::ThreadId;
use std::time::Duration;

use super::watched::Watched;
use super::*;

/// An engine whose reads take a while, and which remembers who waited for them.
struct Disk {
    inner: MemoryEngine,
    takes: Mutex<Duration>,
    waited: Mutex<Vec<ThreadId>>,
}

impl Engine for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Item>, EngineError> {
        self.waited.lock().expect("waited").push(std::thread::current().id());
        let takes = *self.takes.lock().expect("takes");
        std::thread::sleep(takes);
        self.inner.get(key)
    }
    fn meta(&self) -> Result<Option<Meta>, EngineError> {
        self.inner.meta()
    }
    fn snapshot(&self) -> Box<dyn Snapshot> {
        self.inner.snapshot()
    }
    fn graves(&self) -> Result<Graves, EngineError> {
        self.inner.graves()
    }
    fn rows(&self) -> Result<Vec<Arc<Row>>, EngineError> {
        self.inner.rows()
    }
    fn commit(&self, changes: &[Change<'_>], rows: &Moving, meta: &Meta) -> Result<(), EngineError> {
        self.inner.commit(changes, rows, meta)
    }
    fn persist(&self) -> Result<(), EngineError> {
        self.inner.persist()
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
    fn alarm(&self) -> Option<String> {
        None
    }
    fn name(&self) -> &str {
        "disk"
    }
    fn doom(&self, _: bool) {}
}

fn on(engine: Arc<dyn Engine>) -> Store {
    Store::start(engine, Box::new(MemoryHome::default()), &limits(1 << 20), 1 << 20, None, false).expect("start")
}

#[tokio::test]
async fn once_a_read_was_slow_those_after_it_wait_elsewhere_until_enough_were_fast() {
    let (takes, waited) = (Mutex::new(Duration::from_millis(2)), Mutex::default());
    let disk = Arc::new(Disk { inner: MemoryEngine::default(), takes, waited });
    let store = on(Arc::clone(&disk) as Arc<dyn Engine>);
    let here = std::thread::current().id();
    let last = || disk.waited.lock().expect("waited").last().copied().expect("a read");
    assert_eq!(store.read(b"a").await.expect("read"), None);
    assert_eq!(last(), here, "nobody could know");
    assert_eq!(store.read(b"a").await.expect("read"), None);
    assert_ne!(last(), here);
    store.prepare(&put("b", "x")).await;
    assert_ne!(last(), here);
    *disk.takes.lock().expect("takes") = Duration::ZERO;
    let mut elsewhere = 0;
    eventually_here(|| elsewhere += 1, &store, &last, here).await;
    assert!(elsewhere >= 8, "{elsewhere} fast reads were enough");
    let reads = disk.waited.lock().expect("waited").len();
    store.prepare(&put("c", "x")).await;
    assert_eq!(disk.waited.lock().expect("waited").len(), reads, "handing in does it");
}

/// Reads until a read is done on this thread.
async fn eventually_here(mut count: impl FnMut(), store: &Store, last: &impl Fn() -> ThreadId, here: ThreadId) {
    // A machine that is busy may make fast reads slow, for a while.
    for _ in 0..10_000 {
        store.read(b"a").await.expect("read");
        if last() == here {
            return;
        }
        count();
    }
    panic!("reads never came back");
}

#[tokio::test]
async fn an_engine_that_cannot_be_read_is_an_error_and_not_an_absent_key() {
    let engine = Watched::new(MemoryEngine::default());
    let store = on(Arc::clone(&engine) as Arc<dyn Engine>);
    run(&store, &put("a", "x"));
    store.drain();
    engine.broken.store(true, Ordering::Relaxed);
    assert!(matches!(store.read(b"a").await, Err(StoreError::Engine(_))));
    assert!(store.failed().is_some());
}
