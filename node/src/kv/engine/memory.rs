//! An engine without a disk, for tests and for the simulator.
//!
//! It keeps the batches since the last persist apart from what is durable, so that a power loss can be played: the state falls back to the
//! last persist or to any later batch, as on a disk that wrote some of its cache.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Change, Engine, EngineError, Graves, Home, Ingest, Items, Meta, Snapshot};
use crate::kv::Item;

/// Batches kept apart; one more and the oldest becomes durable by itself, which a real disk may do at any time.
const RUNS_MAX: usize = 16;

type Run = BTreeMap<Bytes, Option<Item>>;

/// The durable state and the batches after it, oldest first. Cheap to clone.
#[derive(Clone, Default)]
struct State {
    durable: Arc<Run>,
    durable_meta: Option<Meta>,
    durable_graves: Graves,
    runs: Vec<Batch>,
}

#[derive(Clone)]
struct Batch {
    run: Arc<Run>,
    /// All that there are after it.
    graves: Graves,
    meta: Meta,
}

impl State {
    fn graves(&self) -> &Graves {
        self.runs.last().map_or(&self.durable_graves, |batch| &batch.graves)
    }

    /// Newest first.
    fn layers(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.runs.iter().rev().map(|batch| &batch.run).chain([&self.durable])
    }

    fn make_durable(&mut self, batches: usize) {
        for Batch { run, graves, meta } in self.runs.drain(..batches) {
            let durable = Arc::make_mut(&mut self.durable);
            for (key, item) in run.iter() {
                match item {
                    Some(_) => durable.insert(key.clone(), item.clone()),
                    None => durable.remove(key),
                };
            }
            self.durable_meta = Some(meta);
            self.durable_graves = graves;
        }
    }
}

/// The engine.
#[derive(Default)]
pub(crate) struct MemoryEngine(RwLock<State>);

impl MemoryEngine {
    /// Batches that a power loss may take, newest first.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) fn at_risk(&self) -> usize {
        self.0.read().runs.len()
    }

    /// The engine as a power loss leaves it when `kept` of the batches at risk happened to reach the disk.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) fn after_power_loss(&self, kept: usize) -> MemoryEngine {
        let mut state = self.0.read().clone();
        state.runs.truncate(kept);
        let kept = state.runs.len();
        state.make_durable(kept);
        MemoryEngine(RwLock::new(state))
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Item>, EngineError> {
        let state = self.0.read();
        Ok(state.layers().find_map(|run| run.get(key)).cloned().flatten())
    }

    fn meta(&self) -> Result<Option<Meta>, EngineError> {
        let state = self.0.read();
        Ok(state.runs.last().map(|batch| &batch.meta).or(state.durable_meta.as_ref()).cloned())
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(self.0.read().clone())
    }

    fn graves(&self) -> Result<Graves, EngineError> {
        Ok(self.0.read().graves().clone())
    }

    fn commit(&self, changes: &[Change<'_>], meta: &Meta) -> Result<(), EngineError> {
        let run: Run = changes.iter().map(|change| (change.key.clone(), change.item.cloned())).collect();
        let mut state = self.0.write();
        let mut graves = Graves::new();
        if !meta.is_whole() {
            graves.clone_from(state.graves());
            let gone = changes.iter().filter(|change| change.item.is_none());
            graves.extend(gone.map(|change| (change.key.clone(), change.revision)));
        }
        if state.runs.len() >= RUNS_MAX {
            state.make_durable(1);
        }
        state.runs.push(Batch { run: Arc::new(run), graves, meta: meta.clone() });
        Ok(())
    }

    fn persist(&self) -> Result<(), EngineError> {
        let mut state = self.0.write();
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
        "memory"
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
            self.from = Bound::Excluded(key.clone());
            if let Some(item) = item {
                return Some(Ok((key, item)));
            }
        }
    }
}

/// Nothing outlives the process, so there is nothing to remember.
pub(crate) struct MemoryHome;

impl Home for MemoryHome {
    fn ingest(&self) -> Result<Box<dyn Ingest>, EngineError> {
        Ok(Box::new(MemoryIngest(Run::new())))
    }

    fn adopt(&self, _engine: &dyn Engine) -> Result<(), EngineError> {
        Ok(())
    }
}

struct MemoryIngest(Run);

impl Ingest for MemoryIngest {
    fn write(&mut self, items: Vec<(Bytes, Item)>) -> Result<(), EngineError> {
        self.0.extend(items.into_iter().map(|(key, item)| (key, Some(item))));
        Ok(())
    }

    fn finish(self: Box<Self>, meta: &Meta) -> Result<Arc<dyn Engine>, EngineError> {
        let state = State { durable: Arc::new(self.0), durable_meta: Some(meta.clone()), ..State::default() };
        Ok(Arc::new(MemoryEngine(RwLock::new(state))))
    }
}
