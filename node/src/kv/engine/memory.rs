//! An engine without a disk, for tests and for the simulator.
//!
//! It keeps the batches since the last persist apart from what is durable, so that a power loss can be played: the state falls back to the
//! last persist or to any later batch, as on a disk that wrote some of its cache.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Changes, Engine, EngineError, Home, Ingest, Items, Meta, Snapshot};
use crate::kv::Item;

/// Batches kept apart; one more and the oldest becomes durable by itself, which a real disk may do at any time.
const RUNS_MAX: usize = 16;

type Run = BTreeMap<Bytes, Option<Item>>;

/// The durable state and the batches after it, oldest first. Cheap to clone.
#[derive(Clone, Default)]
struct State {
    durable: Arc<Run>,
    durable_meta: Option<Meta>,
    runs: Vec<(Arc<Run>, Meta)>,
}

impl State {
    /// Newest first.
    fn layers(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.runs.iter().rev().map(|(run, _)| run).chain([&self.durable])
    }

    fn make_durable(&mut self, batches: usize) {
        for (run, meta) in self.runs.drain(..batches) {
            let durable = Arc::make_mut(&mut self.durable);
            for (key, item) in run.iter() {
                match item {
                    Some(_) => durable.insert(key.clone(), item.clone()),
                    None => durable.remove(key),
                };
            }
            self.durable_meta = Some(meta);
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
        Ok(state.runs.last().map(|(_, meta)| meta).or(state.durable_meta.as_ref()).cloned())
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(self.0.read().clone())
    }

    fn commit(&self, changes: &mut Changes<'_>, meta: &Meta) -> Result<(), EngineError> {
        let run: Run = changes.map(|(key, item)| (key.clone(), item.cloned())).collect();
        let mut state = self.0.write();
        if state.runs.len() >= RUNS_MAX {
            state.make_durable(1);
        }
        state.runs.push((Arc::new(run), meta.clone()));
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
        let state = State { durable: Arc::new(self.0), durable_meta: Some(meta.clone()), runs: Vec::new() };
        Ok(Arc::new(MemoryEngine(RwLock::new(state))))
    }
}
