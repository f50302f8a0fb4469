//! An engine without a disk, for tests and for the simulator.
//!
//! It keeps the batches since the last persist apart from what is durable, so that a power loss can be played: the state falls back to the
//! last persist or to any later batch, as on a disk that wrote some of its cache.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{Change, Engine, EngineError, Graves, Home, Ingest, Items, Meta, Snapshot};
use crate::kv::Item;
use crate::kv::once::{Moving, Row};

/// Batches kept apart; one more and the oldest becomes durable by itself, which a real disk may do at any time.
const RUNS_MAX: usize = 16;

type Run = BTreeMap<Bytes, Option<Item>>;

type Rows = Arc<BTreeMap<u64, Arc<Row>>>;

/// The durable state and the batches after it, oldest first. Cheap to clone.
#[derive(Clone, Default)]
struct State {
    durable: Arc<Run>,
    durable_meta: Option<Meta>,
    durable_graves: Graves,
    durable_rows: Rows,
    runs: Vec<Batch>,
    /// From this key on a walk finds that the disk is damaged.
    damaged_from: Option<Bytes>,
}

#[derive(Clone)]
struct Batch {
    run: Arc<Run>,
    /// All that there are after it.
    graves: Graves,
    rows: Rows,
    meta: Meta,
}

impl State {
    fn graves(&self) -> &Graves {
        self.runs.last().map_or(&self.durable_graves, |batch| &batch.graves)
    }

    fn rows(&self) -> &Rows {
        self.runs.last().map_or(&self.durable_rows, |batch| &batch.rows)
    }

    /// Newest first.
    fn layers(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.runs.iter().rev().map(|batch| &batch.run).chain([&self.durable])
    }

    fn make_durable(&mut self, batches: usize) {
        for Batch { run, graves, rows, meta } in self.runs.drain(..batches) {
            let durable = Arc::make_mut(&mut self.durable);
            for (key, item) in run.iter() {
                match item {
                    Some(_) => durable.insert(key.clone(), item.clone()),
                    None => durable.remove(key),
                };
            }
            self.durable_meta = Some(meta);
            self.durable_graves = graves;
            self.durable_rows = rows;
        }
    }
}

/// The engine. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct MemoryEngine {
    state: Arc<RwLock<State>>,
    name: String,
    fuse: Fuse,
}

/// How many operations are still done before the disk fails; `None` for one that does not.
type Fuse = Arc<Mutex<Option<u64>>>;

impl MemoryEngine {
    /// Batches that a power loss may take, newest first.
    pub(crate) fn at_risk(&self) -> usize {
        self.state.read().runs.len()
    }

    /// The engine as a power loss leaves it when `kept` of the batches at risk happened to reach the disk.
    pub(crate) fn after_power_loss(&self, kept: usize) -> MemoryEngine {
        let mut state = self.state.read().clone();
        state.runs.truncate(kept);
        let kept = state.runs.len();
        state.make_durable(kept);
        MemoryEngine { state: Arc::new(RwLock::new(state)), ..MemoryEngine::default() }
    }
}

impl MemoryEngine {
    /// Fails if the fuse has burnt down.
    fn burn(&self, doing: &'static str) -> Result<(), EngineError> {
        match &mut *self.fuse.lock() {
            None => Ok(()),
            Some(0) => {
                let source = std::io::Error::other("the disk failed");
                Err(EngineError::File { doing, path: "memory".into(), source })
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Item>, EngineError> {
        let state = self.state.read();
        Ok(state.layers().find_map(|run| run.get(key)).cloned().flatten())
    }

    fn meta(&self) -> Result<Option<Meta>, EngineError> {
        let state = self.state.read();
        Ok(state.runs.last().map(|batch| &batch.meta).or(state.durable_meta.as_ref()).cloned())
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(self.state.read().clone())
    }

    fn graves(&self) -> Result<Graves, EngineError> {
        Ok(self.state.read().graves().clone())
    }

    fn rows(&self) -> Result<Vec<Arc<Row>>, EngineError> {
        Ok(self.state.read().rows().values().cloned().collect())
    }

    fn commit(&self, changes: &[Change<'_>], moving: &Moving, meta: &Meta) -> Result<(), EngineError> {
        self.burn("write")?;
        let run: Run = changes.iter().map(|change| (change.key.clone(), change.item.cloned())).collect();
        let mut state = self.state.write();
        let mut graves = Graves::new();
        if !meta.is_whole() {
            graves.clone_from(state.graves());
            let gone = changes.iter().filter(|change| change.item.is_none());
            graves.extend(gone.map(|change| (change.key.clone(), change.revision)));
        }
        let mut rows = Arc::clone(state.rows());
        if !moving.added.is_empty() || !moving.forgotten.is_empty() {
            let rows = Arc::make_mut(&mut rows);
            rows.extend(moving.added.iter().map(|row| (row.revision, Arc::clone(row))));
            moving.forgotten.iter().for_each(|revision| drop(rows.remove(revision)));
        }
        if state.runs.len() >= RUNS_MAX {
            state.make_durable(1);
        }
        state.runs.push(Batch { run: Arc::new(run), graves, rows, meta: meta.clone() });
        Ok(())
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.burn("sync")?;
        let mut state = self.state.write();
        let all = state.runs.len();
        state.make_durable(all);
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    fn alarm(&self) -> Option<String> {
        None
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn doom(&self, _doomed: bool) {}
}

impl Snapshot for State {
    fn range(&self, from: Bound<&[u8]>) -> Items {
        Box::new(Walk { state: self.clone(), from: from.map(Bytes::copy_from_slice) })
    }
}

/// A merge of the layers that keeps only its place, since it may borrow nothing.
struct Walk {
    state: State,
    from: Bound<Bytes>,
}

impl Iterator for Walk {
    type Item = Result<(Bytes, Item), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let from = self.from.as_ref().map(Bytes::as_ref);
            let mut least: Option<(&Bytes, &Option<Item>)> = None;
            for run in self.state.layers() {
                let first = run.range::<[u8], _>((from, Bound::Unbounded)).next();
                if let Some((key, item)) = first
                    && least.is_none_or(|(k, _)| key < k)
                {
                    least = Some((key, item));
                }
            }
            let (key, item) = least.map(|(key, item)| (key.clone(), item.clone()))?;
            if self.state.damaged_from.as_ref().is_some_and(|from| key >= *from) {
                return Some(Err(EngineError::Damaged("on purpose".into())));
            }
            self.from = Bound::Excluded(key.clone());
            if let Some(item) = item {
                return Some(Ok((key, item)));
            }
        }
    }
}

/// Where the engines of one node live: what is left of them when the process is gone. Clones are the same place.
#[derive(Clone, Default)]
pub struct MemoryHome(Arc<Mutex<Places>>);

#[derive(Default)]
struct Places {
    current: MemoryEngine,
    /// Engines filled and not adopted (yet).
    filled: Vec<MemoryEngine>,
    names: u64,
    fuse: Fuse,
}

impl MemoryHome {
    pub(crate) fn holding(current: MemoryEngine) -> MemoryHome {
        let fuse = current.fuse.clone();
        MemoryHome(Arc::new(Mutex::new(Places { current, fuse, ..Places::default() })))
    }

    /// The engine in use.
    pub(crate) fn current(&self) -> MemoryEngine {
        let mut places = self.0.lock();
        places.current.fuse = places.fuse.clone();
        places.current.clone()
    }

    /// After so many more operations every one fails, until [`MemoryHome::restart`].
    pub fn fail_after(&self, operations: u64) {
        *self.0.lock().fuse.lock() = Some(operations);
    }

    /// From now on whoever walks through the engine to this key finds damage.
    #[cfg(test)]
    pub(crate) fn damage_from(&self, key: &'static str) {
        self.0.lock().current.state.write().damaged_from = Some(Bytes::from_static(key.as_bytes()));
    }

    /// The process has ended: the next one finds what this one wrote.
    pub fn restart(&self) {
        let mut places = self.0.lock();
        places.filled.clear();
        *places.fuse.lock() = None;
    }

    /// The power has gone: of the batches since the last sync the oldest `kept` survive.
    pub fn lose_power(&self, kept: usize) {
        self.restart();
        let mut places = self.0.lock();
        places.current = places.current.after_power_loss(kept);
    }

    /// Batches that a power loss may take, newest first.
    #[must_use]
    pub fn at_risk(&self) -> usize {
        self.0.lock().current.at_risk()
    }

    /// All of it is gone.
    pub fn wipe(&self) {
        self.restart();
        self.0.lock().current = MemoryEngine::default();
    }

    /// A copy of its own of the engine as it is, everything in it durable.
    #[must_use]
    pub fn copy(&self) -> MemoryHome {
        let current = self.0.lock().current.clone();
        MemoryHome::holding(current.after_power_loss(current.at_risk()))
    }
}

impl std::fmt::Debug for MemoryHome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryHome")
    }
}

impl Home for MemoryHome {
    fn ingest(&self) -> Result<Box<dyn Ingest>, EngineError> {
        Ok(Box::new(MemoryIngest { home: self.clone(), run: Run::new(), rows: Rows::default() }))
    }

    fn adopt(&self, engine: &dyn Engine) -> Result<(), EngineError> {
        let mut places = self.0.lock();
        if let Some(adopted) = places.filled.iter().find(|e| e.name == engine.name()).cloned() {
            adopted.burn("adopt")?;
            places.current = adopted;
        }
        places.filled.clear();
        Ok(())
    }

    fn condemn(&self, _: &EngineError) -> Result<(), EngineError> {
        Ok(())
    }
}

struct MemoryIngest {
    home: MemoryHome,
    run: Run,
    rows: Rows,
}

impl Ingest for MemoryIngest {
    fn remember(&mut self, rows: Vec<Arc<Row>>) -> Result<(), EngineError> {
        Arc::make_mut(&mut self.rows).extend(rows.into_iter().map(|row| (row.revision, row)));
        Ok(())
    }

    fn write(&mut self, items: Vec<(Bytes, Item)>) -> Result<(), EngineError> {
        self.run.extend(items.into_iter().map(|(key, item)| (key, Some(item))));
        Ok(())
    }

    fn finish(self: Box<Self>, meta: &Meta) -> Result<Arc<dyn Engine>, EngineError> {
        let state = State {
            durable: Arc::new(self.run),
            durable_rows: self.rows,
            durable_meta: Some(meta.clone()),
            ..State::default()
        };
        let mut places = self.home.0.lock();
        places.names += 1;
        let (name, fuse) = (places.names.to_string(), places.fuse.clone());
        let engine = MemoryEngine { state: Arc::new(RwLock::new(state)), name, fuse };
        places.filled.push(engine.clone());
        Ok(Arc::new(engine))
    }
}
