//! The store: the layers in order, and who may change them. How a table travels into the engine is `drain`'s.
//!
//! Locks, in the order they are taken: `drain` (whoever moves tables), `head` (whoever changes or pins the state), a table's own lock. Reads
//! of one key take only the last. A failure of the engine is final: it is kept, told to whoever watches, and nothing is changed after it.

mod drain;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use quorum::{Config, Index, Position, SharedConfig};
use tokio::sync::watch;

use self::drain::Drained;
pub(super) use self::drain::Drains;
use super::apply::Applying;
use super::engine::fjall::FjallHome;
use super::engine::memory::{MemoryEngine, MemoryHome};
use super::engine::{Engine, EngineError, Graves, Home, Meta};
use super::once::Rows;
use super::overlay::{HeadCache, KeyHead, Tables};
use super::reads::Slow;
use super::transfer::{Export, Import, Imported};
use super::view::{Page, View};
use super::{Command, Item, Outcome, StoreError};
use crate::metrics::Metrics;
use crate::options::Limits;

/// How many entries are applied between two updates of the overlay's gauge.
const GAUGE_EVERY: u64 = 256;

/// The data of one node. Cheap to clone; the last clone dropped ends the drain's thread.
#[derive(Clone)]
pub struct Store(Arc<Owner>);

/// What a command led to, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What it led to.
    pub outcome: Outcome,
    /// The entry at which it was done, if that was an earlier one with the same idempotency key.
    pub first: Option<Index>,
}

/// Owns the drain's thread, which itself holds only what is shared.
struct Owner {
    shared: Arc<Shared>,
    drainer: Option<JoinHandle<()>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.signal(|wanted| wanted.stop = true);
        if let Some(thread) = self.drainer.take() {
            // A drain under way is finished first; a panic in it has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// What store, views and drain share.
pub(super) struct Shared {
    head: Mutex<Head>,
    /// The same as `head.tables`, for readers.
    tables: ArcSwap<Tables>,
    heads: HeadCache,
    /// Whether reads wait for the disk, of late.
    slow: Slow,
    /// The index of `head.ahead`, for readers.
    ahead: AtomicU64,
    /// Held by whoever moves tables. What the engine holds.
    drain: Mutex<Drained>,
    wanted: Mutex<Wanted>,
    wake: Condvar,
    failure: watch::Sender<Option<String>>,
    home: Box<dyn Home>,
    /// The active table's size at which it is drained.
    overlay_bytes: usize,
    /// How much of a frozen table is handed over at once.
    piece_bytes: usize,
    metrics: Option<Arc<Metrics>>,
    drains: Drains,
}

/// What the drain's thread is asked to do.
#[derive(Default)]
struct Wanted {
    drain: bool,
    stop: bool,
    /// How many want a drain under way to take no more rests.
    hurried: usize,
}

/// The end of the state: changed by `apply` alone.
struct Head {
    applied: Position,
    config: Option<SharedConfig>,
    count: u64,
    /// How far single keys of the engine were when it was opened, and what it had deleted by then. Of no interest once it is applied.
    ahead: Position,
    graves: Graves,
    /// What is remembered of commands with idempotency keys.
    rows: Rows,
    /// Views held, by revision.
    views: BTreeMap<u64, usize>,
    tables: Arc<Tables>,
}

impl Head {
    fn meta(&self) -> Meta {
        let ahead = self.ahead.max(self.applied);
        Meta { position: self.applied, count: self.count, config: self.config.clone(), ahead }
    }

    fn advance(&mut self, position: Position) {
        assert!(
            position.index == self.applied.index.next() && position.term >= self.applied.term,
            "entry {position} applied after {}",
            self.applied
        );
        self.applied = position;
        if position.index >= self.ahead.index && !self.graves.is_empty() {
            self.graves = Graves::new();
        }
    }
}

impl Store {
    /// Opens the store in a folder of its own, which is created if need be.
    ///
    /// # Errors
    /// When the folder or the engine in it cannot be used.
    pub fn open(dir: &Path, limits: &Limits, metrics: Arc<Metrics>) -> Result<Store, StoreError> {
        let (home, engine) = FjallHome::open(dir, limits.cache_bytes)?;
        Store::start(Arc::new(engine), Box::new(home), limits, drain::PIECE_BYTES, Some(metrics), Drains::Thread)
    }

    /// A store without a disk.
    #[must_use]
    pub fn memory() -> Store {
        Store::on_memory(MemoryEngine::default(), &Limits::default())
    }

    /// A store on an engine without a disk. It has no thread: what drains, does so within the call that makes it necessary.
    pub(crate) fn on_memory(engine: MemoryEngine, limits: &Limits) -> Store {
        Store::in_memory(&MemoryHome::holding(engine), limits, drain::PIECE_BYTES, Drains::AtOnce)
    }

    /// A store on the engine that a [`MemoryHome`] has, which outlives it; drained by whoever holds it, in pieces of so many bytes, with
    /// [`Store::drain_piece`].
    #[must_use]
    pub fn stepped(home: &MemoryHome, limits: &Limits, piece_bytes: usize) -> Store {
        Store::in_memory(home, limits, piece_bytes, Drains::Stepped)
    }

    fn in_memory(home: &MemoryHome, limits: &Limits, piece_bytes: usize, drains: Drains) -> Store {
        match Store::start(Arc::new(home.current()), Box::new(home.clone()), limits, piece_bytes, None, drains) {
            Ok(store) => store,
            Err(error) => unreachable!("memory cannot fail to be read: {error}"),
        }
    }

    pub(super) fn start(
        engine: Arc<dyn Engine>,
        home: Box<dyn Home>,
        limits: &Limits,
        piece_bytes: usize,
        metrics: Option<Arc<Metrics>>,
        drains: Drains,
    ) -> Result<Store, StoreError> {
        let meta = engine.meta()?.unwrap_or_default();
        let graves = if meta.is_whole() { Graves::new() } else { engine.graves()? };
        let rows = Rows::of(engine.rows()?, meta.position.index.0);
        let tables = Arc::new(Tables::over(engine));
        let head = Head {
            applied: meta.position,
            config: meta.config.clone(),
            count: meta.count,
            ahead: meta.ahead,
            graves,
            rows,
            views: BTreeMap::new(),
            tables: Arc::clone(&tables),
        };
        let shared = Arc::new(Shared {
            head: Mutex::new(head),
            tables: ArcSwap::new(tables),
            heads: HeadCache::default(),
            slow: Slow::default(),
            ahead: AtomicU64::new(meta.ahead.index.0),
            drain: Mutex::new(Drained::at(meta)),
            wanted: Mutex::default(),
            wake: Condvar::new(),
            failure: watch::channel(None).0,
            home,
            overlay_bytes: limits.overlay_bytes,
            piece_bytes,
            metrics,
            drains,
        });
        shared.show_gauges();
        let drainer = (drains == Drains::Thread)
            .then(|| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name("kv-drain".into()).spawn(move || shared.run_drain())
            })
            .transpose()
            .map_err(|source| EngineError::File { doing: "start a thread for", path: "the drain".into(), source })?;
        Ok(Store(Arc::new(Owner { shared, drainer })))
    }

    /// The item under a key. An engine that cannot be read makes it look absent, and the store has failed then: whoever answers a client
    /// from this uses [`Store::try_get`] or looks at [`Store::failed`].
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Item> {
        self.try_get(key).ok().flatten()
    }

    /// The item under a key.
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub fn try_get(&self, key: &[u8]) -> Result<Option<Item>, StoreError> {
        // The order matters: a table leaves `tables` only after the engine has its content.
        let shared = &self.0.shared;
        let tables = shared.tables.load();
        if let Some(known) = tables.overlaid(key) {
            return Ok(known);
        }
        tables.engine.get(key).map_err(|error| shared.failing(error))
    }

    pub(super) fn slow(&self) -> &Slow {
        &self.0.shared.slow
    }

    /// Loads what applying the command will need, so that applying never waits for the disk. May wait for the disk itself: see
    /// [`Store::prepare`].
    pub fn prefetch(&self, command: &Command) {
        let shared = &self.0.shared;
        for key in command.keys() {
            let generation = shared.heads.generation();
            let tables = shared.tables.load();
            if tables.overlays(key) || shared.heads.contains(key) {
                continue;
            }
            let begun = Instant::now();
            match tables.engine.get(key) {
                Ok(item) => shared.heads.offer(generation, key, item.as_ref().map(KeyHead::of)),
                Err(error) => shared.broken(&error),
            }
            shared.slow.note(begun.elapsed());
        }
    }

    /// Keys that exist.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.shared.head.lock().count
    }

    /// The last log entry applied.
    #[must_use]
    pub fn applied(&self) -> Position {
        self.0.shared.head.lock().applied
    }

    /// The newest configuration applied.
    #[must_use]
    pub fn config(&self) -> Option<Config> {
        self.0.shared.head.lock().config.as_deref().cloned()
    }

    /// Applies the command in `payload` as the entry at `position`. Driver only, in log order.
    ///
    /// After a failure nothing is applied any more and the outcome means nothing: the driver looks at [`Store::failed`] before it answers
    /// anyone.
    pub fn apply_command(&self, position: Position, payload: &Bytes) -> Applied {
        const NOTHING: Applied = Applied { outcome: Outcome::Unreadable, first: None };
        let shared = &self.0.shared;
        let mut guard = shared.head.lock();
        if shared.has_failed() {
            return NOTHING;
        }
        guard.advance(position);
        let head = &mut *guard;
        let before = head.tables.active.bytes();
        let Head { tables, views, graves, rows, .. } = head;
        let applied = match Applying::run(tables, &shared.heads, views, graves, rows, position.index.0, payload) {
            Ok(applied) => applied,
            Err(error) => {
                shared.broken(&error);
                return NOTHING;
            }
        };
        head.count = head.count.strict_add_signed(applied.keys);
        let after = head.tables.active.bytes();
        if let Some(metrics) = &shared.metrics
            && position.index.0.is_multiple_of(GAUGE_EVERY)
        {
            metrics.overlay_bytes.set(i64::try_from(head.tables.overlay_bytes()).unwrap_or(i64::MAX));
        }
        drop(guard);
        if after >= shared.overlay_bytes && (before < shared.overlay_bytes || shared.drains == Drains::AtOnce) {
            shared.request_drain();
        }
        Applied { outcome: applied.outcome, first: applied.first.map(Index) }
    }

    /// Passes over an entry without content. Driver only, in log order.
    pub fn apply_empty(&self, position: Position) {
        let shared = &self.0.shared;
        let mut head = shared.head.lock();
        if !shared.has_failed() {
            head.advance(position);
        }
    }

    /// Applies a configuration. Driver only, in log order.
    pub fn apply_config(&self, position: Position, config: &Config) {
        let shared = &self.0.shared;
        let mut head = shared.head.lock();
        if !shared.has_failed() {
            head.advance(position);
            head.config = Some(Arc::new(config.clone()));
        }
    }

    /// The entry from which on the state is that of one revision again. Beyond [`Store::applied`] only after a crash in the middle of a
    /// drain, until the entries up to it have been applied again: before, single keys are ahead of the others, though none is older than
    /// `applied` says. All of these entries are committed, as is whatever was ever applied.
    #[must_use]
    pub fn whole_from(&self) -> Position {
        self.0.shared.head.lock().meta().ahead
    }

    /// The index that reads wait for at least: no later than [`Store::whole_from`], and without a lock.
    #[must_use]
    pub fn readable_from(&self) -> Index {
        Index(self.0.shared.ahead.load(Ordering::Acquire))
    }

    /// How many commands with idempotency keys are remembered: never none again once there was one.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.0.shared.head.lock().rows.len()
    }

    /// A view that does not change. It shows one revision, but for the time before [`Store::whole_from`].
    #[must_use]
    pub fn view(&self) -> View {
        self.pin(&mut self.0.shared.head.lock())
    }

    fn pin(&self, head: &mut Head) -> View {
        let shared = &self.0.shared;
        let revision = head.applied.index.0;
        *head.views.entry(revision).or_default() += 1;
        let (tables, meta) = (Arc::clone(&head.tables), head.meta());
        // Under the lock: what the engine holds now is no newer than the revision, and whatever it lacks is in the tables.
        let snapshot = tables.engine.snapshot();
        View::new(Arc::clone(shared), tables, meta, snapshot)
    }

    /// A page of the data as it is now: as [`View::page`].
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub fn page(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        self.view().page(prefix, after, limit)
    }

    /// Bytes applied but not yet in the engine.
    #[must_use]
    pub fn overlay_bytes(&self) -> usize {
        self.0.shared.tables.load().overlay_bytes()
    }

    /// Whether the overlay may grow. Without room a leader admits no writes, and a follower puts off applying.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.overlay_bytes() < self.0.shared.overlay_bytes.saturating_mul(2)
    }

    /// Drains everything applied so far and makes it durable: the log may be cut up to the position returned. Blocks for the disk, for
    /// seconds if much is to be drained: it leaves the disk to others in between, unless [`Store::hurry`] was called.
    ///
    /// # Errors
    /// When the engine cannot take it; the store has failed then.
    pub fn persist(&self) -> Result<Position, StoreError> {
        let shared = &self.0.shared;
        let mut drained = shared.drain.lock();
        shared.drain_now(&mut drained)?;
        let engine = Arc::clone(&shared.tables.load().engine);
        engine.persist().map_err(|error| shared.failing(error))?;
        Ok(drained.meta.position)
    }

    /// The whole state as of now, in chunks. Reading it blocks for the disk.
    ///
    /// # Errors
    /// When the store has failed; or before [`Store::whole_from`], when there is no one state to export.
    pub fn export(&self) -> Result<Export, StoreError> {
        self.0.shared.check()?;
        let mut head = self.0.shared.head.lock();
        let (view, rows) = (self.pin(&mut head), head.rows.all());
        // A view that is dropped takes the lock.
        drop(head);
        Export::new(view, rows)
    }

    /// Begins to receive the state of another node, beside the one here. Blocks for the disk.
    ///
    /// # Errors
    /// When no engine can be made for it.
    pub fn begin_import(&self) -> Result<Import, StoreError> {
        self.0.shared.check()?;
        Ok(Import::new(self.0.shared.home.ingest()?))
    }

    /// Replaces the state by an imported one, atomically and durably. Driver only, between two entries. Blocks for the disk.
    ///
    /// # Errors
    /// When it is older than the state here, which stays; or when the disk fails, and the store with it.
    pub fn install(&self, imported: Imported) -> Result<(), StoreError> {
        let shared = &self.0.shared;
        let mut drained = shared.undrained();
        shared.check()?;
        shared.finish(&mut drained)?;
        let Imported { engine, meta, rows } = imported;
        let applied = self.applied();
        if meta.position.index < applied.index {
            return Err(StoreError::Foreign(format!("it ends at {}, the state here at {applied}", meta.position)));
        }
        shared.home.adopt(&*engine).map_err(|error| shared.failing(error))?;
        let mut head = shared.head.lock();
        head.applied = meta.position;
        head.count = meta.count;
        head.config = meta.config.clone();
        head.ahead = meta.ahead;
        shared.ahead.store(meta.ahead.index.0, Ordering::Release);
        head.graves = Graves::new();
        head.rows = rows;
        let before = shared.publish(&mut head, Tables::over(engine));
        drop(head);
        shared.heads.invalidate();
        before.engine.doom(true);
        drained.meta = meta;
        shared.show_gauges();
        Ok(())
    }

    /// From now on drains take no rests: the node is about to end.
    pub fn hurry(&self) {
        self.0.shared.signal(|wanted| wanted.hurried += 1);
    }

    /// Why the store has failed, if it has: the node must stop.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        self.0.shared.failure.borrow().clone()
    }

    /// Changes when the store fails.
    #[must_use]
    pub fn failures(&self) -> watch::Receiver<Option<String>> {
        self.0.shared.failure.subscribe()
    }

    /// Drains everything applied so far.
    #[cfg(test)]
    pub(super) fn drain(&self) {
        let shared = &self.0.shared;
        shared.drain_now(&mut shared.drain.lock()).expect("drain");
    }
}

impl Shared {
    pub(super) fn release_view(&self, revision: u64) {
        let mut head = self.head.lock();
        if let Some(held) = head.views.get_mut(&revision) {
            *held -= 1;
            if *held == 0 {
                head.views.remove(&revision);
            }
        }
    }

    /// Records a failure. Only the first counts: what follows is its consequence.
    pub(super) fn fail(&self, why: &dyn Display) {
        self.failure.send_if_modified(|failure| {
            if failure.is_none() {
                tracing::error!(%why, "the store has failed: this node must stop");
                *failure = Some(why.to_string());
                return true;
            }
            false
        });
    }

    fn failing(&self, error: EngineError) -> StoreError {
        self.broken(&error);
        error.into()
    }

    /// The engine failed. If it lost what it held, the next start must not find it as if nothing were.
    pub(super) fn broken(&self, error: &EngineError) {
        if error.is_damage()
            && let Err(more) = self.home.condemn(error)
        {
            tracing::error!(%more, "cannot note that the engine is damaged: the next start may trust it");
        }
        self.fail(error);
    }

    fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.failure.borrow().as_ref().map_or(Ok(()), |why| Err(StoreError::Failed(why.clone())))
    }

    fn signal(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.wanted.lock());
        self.wake.notify_all();
    }

    /// Puts other layers in place of those there are, which are returned: to be dropped once the lock is not held any more. Freeing a table of
    /// some hundred thousand keys takes tens of milliseconds, in which nothing could be applied.
    #[must_use]
    fn publish(&self, head: &mut Head, tables: Tables) -> Arc<Tables> {
        let before = std::mem::replace(&mut head.tables, Arc::new(tables));
        self.tables.store(Arc::clone(&head.tables));
        before
    }

    fn show_gauges(&self) {
        if let Some(metrics) = &self.metrics {
            let tables = self.tables.load();
            metrics.overlay_bytes.set(i64::try_from(tables.overlay_bytes()).unwrap_or(i64::MAX));
            metrics.engine_bytes.set(i64::try_from(tables.engine.disk_bytes()).unwrap_or(i64::MAX));
        }
    }
}
