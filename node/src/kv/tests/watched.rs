//! An engine around another one, for tests that look at it, break it, or make it hang.

use std::sync::OnceLock;

use parking_lot::Mutex;

use super::*;

type Hook = Box<dyn FnMut(&dyn Engine) + Send>;

/// Fails while it is `broken`, stands still while somebody holds the `gate`, tells of reads before they are done, and
/// of every batch once it is in and, as far as the drain goes, synced.
pub(super) struct Watched<E> {
    inner: E,
    hook: Mutex<Option<Hook>>,
    reading: OnceLock<Box<dyn Fn() + Send + Sync>>,
    pub(super) broken: AtomicBool,
    /// Whether it says that it has synced what it has not.
    pub(super) lying: AtomicBool,
    pub(super) gate: Mutex<()>,
}

impl<E: Engine> Watched<E> {
    pub(super) fn new(inner: E) -> Arc<Watched<E>> {
        Arc::new(Watched {
            inner,
            hook: Mutex::new(None),
            reading: OnceLock::new(),
            broken: AtomicBool::new(false),
            lying: AtomicBool::new(false),
            gate: Mutex::new(()),
        })
    }

    pub(super) fn watch(&self, hook: impl FnMut(&dyn Engine) + Send + 'static) {
        *self.hook.lock() = Some(Box::new(hook));
    }

    /// Whoever reads a key does this first.
    pub(super) fn watch_reads(&self, reading: impl Fn() + Send + Sync + 'static) {
        assert!(self.reading.set(Box::new(reading)).is_ok(), "its reads are watched already");
    }

    /// Drops the hook and what it holds.
    pub(super) fn unwatch(&self) {
        self.hook.lock().take();
    }

    fn sync(&self) -> Result<(), EngineError> {
        if self.lying.load(Ordering::Relaxed) { Ok(()) } else { self.inner.persist() }
    }

    fn works(&self) -> Result<(), EngineError> {
        if self.broken.load(Ordering::Relaxed) { Err(EngineError::Damaged("on purpose".into())) } else { Ok(()) }
    }
}

impl<E: Engine> Engine for Watched<E> {
    fn get(&self, key: &[u8]) -> Result<Option<Item>, EngineError> {
        if let Some(reading) = self.reading.get() {
            reading();
        }
        self.works().and_then(|()| self.inner.get(key))
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
        let _passed = self.gate.lock();
        self.works()?;
        self.inner.commit(changes, rows, meta)?;
        if let Some(hook) = self.hook.lock().as_mut() {
            self.sync()?;
            hook(&self.inner);
        }
        Ok(())
    }
    fn persist(&self) -> Result<(), EngineError> {
        self.works().and_then(|()| self.sync())
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
    fn alarm(&self) -> Option<String> {
        None
    }
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn doom(&self, _: bool) {}
}
