//! The replicated data: commands, the state they lead to, and the engine that keeps it.
//!
//! Before: the driver, which applies committed commands in log order. After: the engine's disk, off the acknowledgement path.

mod command;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use quorum::Index;

pub use command::{Command, Condition, Outcome};
pub use value::{Value, ValueKind};

/// A stored value with its history's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Value,
    /// Log index of the last write.
    pub revision: u64,
    /// Writes since the key was created, from 1.
    pub version: u64,
}

/// The data of one node. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<RwLock<(Index, BTreeMap<Bytes, Item>)>>);

/// The data as of one revision, unchanged while it is held.
pub struct View(Index, BTreeMap<Bytes, Item>);

impl Store {
    /// A store without a disk.
    #[must_use]
    pub fn memory() -> Store {
        Store(Arc::default())
    }

    /// The item under a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Item> {
        self.0.read().1.get(key).cloned()
    }

    /// Loads what applying the command will need, so that applying never waits for the disk.
    pub fn prefetch(&self, _command: &Command) {}

    /// Keys that exist.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.read().1.len() as u64
    }

    /// Applies the command in `payload` as the entry at `index`. Driver only, in log order.
    pub fn apply(&self, index: Index, payload: &Bytes) -> Outcome {
        let mut guard = self.0.write();
        guard.0 = index;
        let data = &mut guard.1;
        match Command::decode(payload) {
            Some(Command::Put { key, condition, .. } | Command::Delete { key, condition })
                if !holds(condition, data.get(&key)) =>
            {
                Outcome::ConditionFailed { current: data.get(&key).map(|i| i.revision) }
            }
            Some(Command::Put { key, value, .. }) => {
                let version = data.get(&key).map_or(1, |i| i.version + 1);
                data.insert(key, Item { value, revision: index.0, version });
                Outcome::Put { version }
            }
            Some(Command::Delete { key, .. }) => Outcome::Deleted { count: u64::from(data.remove(&key).is_some()) },
            _ => Outcome::Unreadable,
        }
    }

    /// A view that does not change.
    #[must_use]
    pub fn view(&self) -> View {
        let guard = self.0.read();
        View(guard.0, guard.1.clone())
    }
}

fn holds(condition: Condition, item: Option<&Item>) -> bool {
    match condition {
        Condition::None => true,
        Condition::Absent => item.is_none(),
        Condition::Present => item.is_some(),
        Condition::Revision(revision) => item.is_some_and(|i| i.revision == revision),
    }
}

impl View {
    /// The revision it shows.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.0
    }

    /// Items in key order: those that start with `prefix` and come after `after`, lazily.
    pub fn scan<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
    ) -> Box<dyn Iterator<Item = (Bytes, Item)> + Send + 'a> {
        Box::new(
            self.1
                .iter()
                .filter(move |(k, _)| k.starts_with(prefix) && after.is_none_or(|a| k.as_ref() > a))
                .map(|(k, i)| (k.clone(), i.clone())),
        )
    }
}

impl Command {
    /// The bytes that go into the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).map(Bytes::from).unwrap_or_default()
    }

    /// The command in these bytes, if they are one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Command> {
        postcard::from_bytes(bytes).ok()
    }

    /// Whether it only removes data, and so is taken on a nearly full disk.
    #[must_use]
    pub fn frees_space(&self) -> bool {
        matches!(self, Command::Delete { .. } | Command::DeleteMany { .. })
    }
}
