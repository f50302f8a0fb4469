//! The overlay: what is applied but not yet in the engine, ordered, in memory.
//!
//! A table maps each key to its newest version; a tombstone is a version without an item. Older versions stay behind
//! the newest only while a view that shows them is held, so hot keys are absorbed: overwritten in place as often as
//! they like before a drain.
//!
//! Before: `apply`, the only writer. After: the drain, which hands a frozen table to the engine, piece by piece.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::Item;
use super::engine::Engine;
use super::map::Map;

/// What a table's entry costs beyond its key and value, reckoned: 112 bytes of key handle and version, 40 in a node of the
/// order two thirds full, nine of its hash and place in a table as full, and the allocator's share of two allocations.
const ENTRY_BYTES: usize = 224;

/// Heads that wait for their command. More than the writes that may be under way
/// (`limits.in_flight_writes`) touch one key each.
const CACHED_HEADS_MAX: usize = 64 << 10;

/// One write of one key.
#[derive(Debug)]
pub(super) struct Version {
    /// The write's log index.
    pub(super) revision: u64,
    /// `None`: deleted.
    pub(super) item: Option<Item>,
    /// Whether the key existed in the layers below before its first write here: what draining it
    /// does to the engine's count.
    pub(super) existed: bool,
    /// The write before it that a view still shows.
    pub(super) older: Option<Box<Version>>,
}

impl Version {
    /// What a view of this revision sees: `None` if the key was written here only later.
    fn as_of(&self, revision: u64) -> Option<&Version> {
        let mut version = self;
        while version.revision > revision {
            version = version.older.as_deref()?;
        }
        Some(version)
    }
}

/// One ordered table.
#[derive(Default)]
pub(super) struct Table {
    pub(super) map: RwLock<Map<Version>>,
    /// Bytes in `map`; written under its lock.
    pub(super) bytes: AtomicUsize,
}

/// What a version of a key counts for in bytes.
pub(super) fn cost(key: &[u8], item: Option<&Item>) -> usize {
    ENTRY_BYTES + key.len() + item.map_or(0, |item| item.value.data.len())
}

#[cfg(test)]
thread_local! {
    /// Called for each table that this thread frees.
    pub(super) static ON_FREE: std::cell::RefCell<Option<Box<dyn FnMut()>>> = const { std::cell::RefCell::new(None) };
}

#[cfg(test)]
impl Drop for Table {
    fn drop(&mut self) {
        // A thread that ends has none any more.
        let _ = ON_FREE.try_with(|on_free| on_free.borrow_mut().as_mut().map(|on_free| on_free()));
    }
}

impl Table {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The newest version of a key here: `Some(None)` if it was deleted here.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Item>> {
        self.map.read().get(key).map(|version| version.item.clone())
    }

    /// Whether the key has a version here.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.map.read().find(key).is_some()
    }

    /// Up to `most` entries from a bound on, as a view of this revision sees them, and whether the
    /// table goes on behind them.
    pub(super) fn chunk(&self, from: Bound<&[u8]>, revision: u64, most: usize) -> Chunk {
        let map = self.map.read();
        let mut entries = Vec::with_capacity(most);
        let mut last: Option<&Bytes> = None;
        for (looked_at, (key, version)) in map.from(from).enumerate() {
            if looked_at == most {
                return Chunk { entries, resume: last.cloned() };
            }
            last = Some(key);
            if let Some(version) = version.as_of(revision) {
                entries.push((key.clone(), version.item.clone()));
            }
        }
        Chunk { entries, resume: None }
    }
}

/// A piece of a table.
pub(super) struct Chunk {
    pub(super) entries: Vec<(Bytes, Option<Item>)>,
    /// The last key looked at, if there are more behind it.
    pub(super) resume: Option<Bytes>,
}

/// The layers that make up the state, newest first. Replaced as a whole, so that nobody ever sees a key in neither of
/// two layers between which it moves.
pub(super) struct Tables {
    pub(super) active: Arc<Table>,
    pub(super) frozen: Option<Arc<Table>>,
    pub(super) engine: Arc<dyn Engine>,
}

impl Tables {
    pub(super) fn over(engine: Arc<dyn Engine>) -> Tables {
        Tables { active: Arc::default(), frozen: None, engine }
    }

    pub(super) fn overlay_bytes(&self) -> usize {
        self.active.bytes() + self.frozen.as_ref().map_or(0, |table| table.bytes())
    }

    /// What the overlay knows of a key: `Some(None)` if it is deleted.
    pub(super) fn overlaid(&self, key: &[u8]) -> Option<Option<Item>> {
        self.active.get(key).or_else(|| self.frozen.as_ref()?.get(key))
    }

    pub(super) fn overlays(&self, key: &[u8]) -> bool {
        self.active.contains(key) || self.frozen.as_ref().is_some_and(|table| table.contains(key))
    }
}

/// What applying a command needs to know of a key that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyHead {
    pub(super) revision: u64,
    pub(super) version: u64,
    /// The value, if it is a number that can be added to.
    pub(super) number: Option<i64>,
}

impl KeyHead {
    pub(super) fn of(item: &Item) -> KeyHead {
        KeyHead { revision: item.revision, version: item.version, number: as_number(&item.value.data) }
    }
}

/// A number in the one way it is written: decimal, in 64 bits, without a plus, leading zeros or spaces.
fn as_number(data: &[u8]) -> Option<i64> {
    const LONGEST: usize = "-9223372036854775808".len();
    if data.len() > LONGEST {
        return None;
    }
    let number: i64 = std::str::from_utf8(data).ok()?.parse().ok()?;
    (itoa::Buffer::new().format(number).as_bytes() == data).then_some(number)
}

/// Heads read from the engine ahead of the commands that need them.
///
/// An entry is what the engine holds of a key that was in neither table. It turns stale only when a drain puts a newer
/// write of the key into the engine; so a drain empties the cache before it drops its table, and a head that was read
/// before that is not let in after it.
#[derive(Default)]
pub(super) struct HeadCache(Mutex<Cached>);

#[derive(Default)]
struct Cached {
    generation: u64,
    heads: HashMap<Bytes, Option<KeyHead>>,
}

impl HeadCache {
    /// To be read before the tables and the engine are, and handed to [`HeadCache::offer`].
    pub(super) fn generation(&self) -> u64 {
        self.0.lock().generation
    }

    pub(super) fn offer(&self, generation: u64, key: &[u8], head: Option<KeyHead>) {
        let mut cached = self.0.lock();
        if cached.generation != generation {
            return;
        }
        // Heads whose commands were refused pile up here; those that are still needed are read again.
        if cached.heads.len() >= CACHED_HEADS_MAX {
            cached.heads.clear();
        }
        cached.heads.insert(Bytes::copy_from_slice(key), head);
    }

    /// `None` if nothing is known here; `Some(None)` if the key is known to be absent.
    pub(super) fn take(&self, key: &[u8]) -> Option<Option<KeyHead>> {
        self.0.lock().heads.remove(key)
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.0.lock().heads.contains_key(key)
    }

    pub(super) fn invalidate(&self) {
        let mut cached = self.0.lock();
        cached.generation += 1;
        cached.heads.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_only_in_its_canonical_form() {
        for (text, number) in [("0", Some(0)), ("-7", Some(-7)), ("9223372036854775807", Some(i64::MAX))] {
            assert_eq!(as_number(text.as_bytes()), number);
        }
        for text in ["", "+1", "01", " 1", "1 ", "-0", "1.0", "9223372036854775808", "one", "\u{ff}"] {
            assert_eq!(as_number(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_head_read_before_a_drain_is_not_let_in_after_it() {
        let cache = HeadCache::default();
        let before = cache.generation();
        cache.invalidate();
        cache.offer(before, b"k", None);
        assert_eq!(cache.take(b"k"), None);
        cache.offer(cache.generation(), b"k", None);
        assert_eq!(cache.take(b"k"), Some(None));
    }
}
