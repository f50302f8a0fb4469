//! Reads on a runtime whose only thread has other things to do.

use std::sync::Mutex;
use std::thread::ThreadId;
use std::time::Duration;

use super::watched::Watched;
use super::*;

fn on(engine: Arc<dyn Engine>) -> Store {
    Store::start(engine, Box::new(MemoryHome::default()), &limits(1 << 20), 1 << 20, None, Drains::AtOnce)
        .expect("start")
}

/// A store whose reads come from a disk that is not fast, and are done elsewhere therefore; each does this first.
pub(crate) async fn slow_store(reading: impl Fn() + Send + Sync + 'static) -> Store {
    let engine = Watched::new(MemoryEngine::default());
    let noticed = AtomicBool::new(false);
    engine.watch_reads(move || {
        std::thread::sleep(Duration::from_millis(2));
        if noticed.swap(true, Ordering::Relaxed) {
            reading();
        }
    });
    let store = on(engine);
    assert_eq!(store.read(b"a").await.expect("read"), None);
    store
}

#[tokio::test]
async fn once_a_read_was_slow_those_after_it_wait_elsewhere_until_enough_were_fast() {
    let takes = Arc::new(Mutex::new(Duration::from_millis(2)));
    let waited: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
    let engine = Watched::new(MemoryEngine::default());
    engine.watch_reads({
        let (takes, waited) = (takes.clone(), waited.clone());
        move || {
            waited.lock().expect("waited").push(std::thread::current().id());
            let takes = *takes.lock().expect("takes");
            std::thread::sleep(takes);
        }
    });
    let store = on(engine);
    let here = std::thread::current().id();
    let last = || waited.lock().expect("waited").last().copied().expect("a read");
    assert_eq!(store.read(b"a").await.expect("read"), None);
    assert_eq!(last(), here, "nobody could know");
    assert_eq!(store.read(b"a").await.expect("read"), None);
    assert_ne!(last(), here);
    store.prepare(&put("b", "x")).await;
    assert_ne!(last(), here);
    *takes.lock().expect("takes") = Duration::ZERO;
    let mut elsewhere = 0;
    eventually_here(|| elsewhere += 1, &store, &last, here).await;
    assert!(elsewhere >= 8, "{elsewhere} fast reads were enough");
    // If the thread lost its processor in the one read that was done here, the next one is done
    // elsewhere again: then anew.
    for _ in 0..ATTEMPTS {
        let reads = waited.lock().expect("waited").len();
        store.prepare(&put("c", "x")).await;
        if waited.lock().expect("waited").len() == reads {
            return;
        }
        eventually_here(|| {}, &store, &last, here).await;
    }
    panic!("it never was left to handing in");
}

/// A machine that is busy may make fast reads slow, for a while.
const ATTEMPTS: usize = 10_000;

/// Reads until a read is done on this thread.
async fn eventually_here(mut count: impl FnMut(), store: &Store, last: &impl Fn() -> ThreadId, here: ThreadId) {
    for _ in 0..ATTEMPTS {
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
