//! What a command does to the state: the replicated state machine.
//!
//! Deterministic: the outcome depends on the state and the command's bytes alone, on every replica. It writes
//! the active table and nothing else, and waits for nothing but, on a key that neither overlay nor prefetch
//! knows, one read of the engine.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::RwLockWriteGuard;
use quorum::bugs::{self, Bug};

use super::Item;
use super::command::{Condition, Outcome, Parsed, RawValue};
use super::engine::{EngineError, Graves};
use super::map::{Map, Place};
use super::once::Rows;
use super::overlay::{HeadCache, KeyHead, Tables, Version, cost};
use super::value::Value;

/// Values up to this size are copied out of the payload: a small value would otherwise keep a whole network frame alive
/// for as long as it sits in the overlay. Copying this much takes a few microseconds.
const COPIED_VALUE_BYTES_MAX: usize = 32 << 10;

/// One command being applied.
pub(super) struct Applying<'a> {
    tables: &'a Tables,
    heads: &'a HeadCache,
    views: &'a BTreeMap<u64, usize>,
    map: RwLockWriteGuard<'a, Map<Version>>,
    payload: &'a Bytes,
    revision: u64,
    /// Deletions that the engine has from beyond the position it was opened at: see [`Known`].
    graves: &'a Graves,
    /// By how much the table grew.
    grown: isize,
    /// By how much the number of keys grew.
    keys: i64,
}

/// What is known of a key before a write.
///
/// A drain that was interrupted leaves the engine with some keys ahead of its position: each at the state after its
/// last write up to [`Meta::ahead`](super::engine::Meta), with that write's revision, in the item or in a grave. When
/// the entries from the position on are applied again, every command acts on each of its keys by that key's state
/// alone, and at entry `i` a key is in one of two cases:
///
/// * The engine has it at a revision of `i` or later: the effect of `i` is in that state already, or was overwritten
///   since. It is skipped, which changes neither the key nor the count.
/// * The engine has it as it was after its last write before `i`, or as it was after an earlier write, and then what
///   wrote it since has been applied again, on the same state as the first time. So `i` finds the state it found then,
///   and does what it did then.
///
/// So with the entry `ahead` the state is exactly that of its revision, also if a drain in between was interrupted as
/// well. The count that an engine keeps is that of the keys in it at every batch, whole or not, and a skipped write
/// adds nothing; so it comes out exact too. Outcomes of skipped writes mean nothing: they were answered long ago, and
/// where one is remembered it is in a row that came before the effect ([`Rows::foretold`]). An engine may even be ahead
/// of the log (power was lost after the engine's sync and before the log's): what was applied is committed, so the same
/// entries come again from the leader and are found done.
#[derive(Clone, Copy)]
enum Known {
    /// Its state.
    Here(Here),
    /// Its state includes this entry's effect.
    Ahead,
}

/// A key's state before a write.
#[derive(Clone, Copy)]
struct Here {
    /// What is stored under it.
    head: Option<KeyHead>,
    /// Where the table that is written has it.
    place: Option<Place>,
}

/// What a command led to.
pub(super) struct Applied {
    pub(super) outcome: Outcome,
    /// Where it was done, if that was before this entry.
    pub(super) first: Option<u64>,
    /// By how much the number of keys grew.
    pub(super) keys: i64,
}

impl<'a> Applying<'a> {
    /// Applies the command in `payload` as the entry `revision`. On an error the state is of no use any more.
    pub(super) fn run(
        tables: &'a Tables,
        heads: &'a HeadCache,
        views: &'a BTreeMap<u64, usize>,
        graves: &'a Graves,
        rows: &mut Rows,
        revision: u64,
        payload: &'a Bytes,
    ) -> Result<Applied, EngineError> {
        let told = |outcome, first| Ok(Applied { outcome, first, keys: 0 });
        let once = match Parsed::read(payload) {
            Some(Parsed::Once(once)) => once,
            Some(command) => return Applying::plain(tables, heads, views, graves, revision, payload, command),
            None => return told(Outcome::Unreadable, None),
        };
        match rows.find(once.key) {
            Some(row) if row.request == once.request => return told(row.outcome.clone(), Some(row.revision)),
            Some(_) => return told(Outcome::KeyReused, None),
            None => {}
        }
        let Some(command) = Parsed::read(once.command) else { return told(Outcome::Unreadable, None) };
        let mut applied = Applying::plain(tables, heads, views, graves, revision, payload, command)?;
        if let Some(outcome) = rows.foretold(revision, once.key) {
            applied.outcome = outcome.clone();
        }
        let grown = rows.remember(revision, &once, applied.outcome.clone());
        tables.active.bytes.fetch_add(grown, Ordering::Relaxed);
        Ok(applied)
    }

    /// A command on its own.
    fn plain(
        tables: &'a Tables,
        heads: &'a HeadCache,
        views: &'a BTreeMap<u64, usize>,
        graves: &'a Graves,
        revision: u64,
        payload: &'a Bytes,
        command: Parsed<'_>,
    ) -> Result<Applied, EngineError> {
        let map = tables.active.map.write();
        let mut applying = Applying { tables, heads, views, map, payload, revision, graves, grown: 0, keys: 0 };
        let outcome = applying.command(command)?;
        let bytes = tables.active.bytes.load(Ordering::Relaxed).saturating_add_signed(applying.grown);
        tables.active.bytes.store(bytes, Ordering::Relaxed);
        Ok(Applied { outcome, first: None, keys: applying.keys })
    }

    fn command(&mut self, command: Parsed<'_>) -> Result<Outcome, EngineError> {
        match command {
            Parsed::Put { key, value, condition } => {
                let Known::Here(here) = self.known(key)? else { return Ok(Outcome::Put { version: 0 }) };
                if let Some(failed) = refused(condition, here.head) {
                    return Ok(failed);
                }
                Ok(Outcome::Put { version: self.put(key, here, self.owned(value)) })
            }
            Parsed::Delete { key, condition } => {
                let Known::Here(here) = self.known(key)? else { return Ok(Outcome::Deleted { count: 0 }) };
                if let Some(failed) = refused(condition, here.head) {
                    return Ok(failed);
                }
                Ok(Outcome::Deleted { count: self.delete(key, here) })
            }
            Parsed::PutMany(pairs) => {
                let mut version = 0;
                for (key, value) in pairs {
                    if let Known::Here(here) = self.known(key)? {
                        version = self.put(key, here, self.owned(value));
                    }
                }
                Ok(Outcome::Put { version })
            }
            Parsed::DeleteMany(keys) => {
                let mut count = 0;
                for key in keys {
                    if let Known::Here(here) = self.known(key)? {
                        count += self.delete(key, here);
                    }
                }
                Ok(Outcome::Deleted { count })
            }
            Parsed::Increment { key, by } => {
                let Known::Here(here) = self.known(key)? else { return Ok(Outcome::NotANumber) };
                let number = here.head.map_or(Some(0), |head| head.number);
                let Some(value) = number.and_then(|number| number.checked_add(by)) else {
                    return Ok(Outcome::NotANumber);
                };
                let text = Bytes::copy_from_slice(itoa::Buffer::new().format(value).as_bytes());
                Ok(Outcome::Incremented { value, version: self.put(key, here, Value::bytes(text)) })
            }
            // None is inside another: see `Parsed::read`.
            Parsed::Once(_) => Ok(Outcome::Unreadable),
        }
    }

    /// What is known of a key, from the nearest place that knows it. What the overlay has was written by this
    /// run of the node, in order.
    fn known(&mut self, key: &[u8]) -> Result<Known, EngineError> {
        let state = |version: &Version| version.item.as_ref().map(KeyHead::of);
        if let Some(place) = self.map.find(key) {
            return Ok(Known::Here(Here { head: state(self.map.at(place)), place: Some(place) }));
        }
        if let Some(frozen) = &self.tables.frozen
            && let Some(version) = frozen.map.read().get(key)
        {
            return Ok(Known::Here(Here { head: state(version), place: None }));
        }
        let head = self.stored(key)?;
        let revision = match head {
            Some(head) => head.revision,
            None if self.graves.is_empty() => 0,
            None => self.graves.get(key).copied().unwrap_or(0),
        };
        let ahead = revision >= self.revision && !bugs::is_on(Bug::ReplayRepeatsEffects);
        Ok(if ahead { Known::Ahead } else { Known::Here(Here { head, place: None }) })
    }

    /// What the engine has.
    fn stored(&mut self, key: &[u8]) -> Result<Option<KeyHead>, EngineError> {
        if let Some(known) = self.heads.take(key) {
            return Ok(known);
        }
        // Nobody else writes the table, so it may be let go meanwhile: readers of other keys
        // need not wait for the disk.
        let engine = &self.tables.engine;
        let item = RwLockWriteGuard::unlocked(&mut self.map, || engine.get(key))?;
        Ok(item.as_ref().map(KeyHead::of))
    }

    fn put(&mut self, key: &[u8], here: Here, value: Value) -> u64 {
        let version = match here.head {
            // Named before in this very command: one write.
            Some(head) if head.revision == self.revision => head.version,
            Some(head) => head.version + 1,
            None => {
                self.keys += 1;
                1
            }
        };
        self.write(key, here, Some(Item { value, revision: self.revision, version }));
        version
    }

    fn delete(&mut self, key: &[u8], here: Here) -> u64 {
        if here.head.is_none() {
            return 0;
        }
        self.keys -= 1;
        self.write(key, here, None);
        1
    }

    fn owned(&self, value: RawValue<'_>) -> Value {
        let data = if value.data.len() <= COPIED_VALUE_BYTES_MAX {
            Bytes::copy_from_slice(value.data)
        } else {
            self.payload.slice_ref(value.data)
        };
        Value { kind: value.kind, data }
    }

    fn write(&mut self, key: &[u8], here: Here, item: Option<Item>) {
        let revision = self.revision;
        self.grown += signed(cost(key, item.as_ref()));
        let Some(place) = here.place else {
            // What the layers below have, if anything.
            let existed = here.head.is_some();
            self.map.insert(Bytes::copy_from_slice(key), Version { revision, item, existed, older: None });
            return;
        };
        let newest = self.map.at_mut(place);
        let existed = newest.existed;
        let mut old = std::mem::replace(newest, Version { revision, item, existed, older: None });
        self.grown -= prune(key, &mut old.older, old.revision, self.views);
        if self.views.range(old.revision..revision).next().is_some() {
            newest.older = Some(Box::new(old));
        } else {
            self.grown -= signed(cost(key, old.item.as_ref()));
            newest.older = old.older;
        }
    }
}

/// Drops from a chain the versions that no view shows any more; returns the bytes that frees. Each version is shown to
/// the views from its revision up to that of the write after it.
fn prune(key: &[u8], older: &mut Option<Box<Version>>, until: u64, views: &BTreeMap<u64, usize>) -> isize {
    let (mut place, mut until, mut freed) = (older, until, 0);
    while let Some(mut version) = place.take() {
        let revision = version.revision;
        if views.range(revision..until).next().is_some() {
            place = &mut place.insert(version).older;
        } else {
            freed += signed(cost(key, version.item.as_ref()));
            *place = version.older.take();
        }
        until = revision;
    }
    freed
}

fn refused(condition: Condition, head: Option<KeyHead>) -> Option<Outcome> {
    let holds = match condition {
        Condition::None => true,
        Condition::Absent => head.is_none(),
        Condition::Present => head.is_some(),
        Condition::Revision(revision) => head.is_some_and(|head| head.revision == revision),
    };
    (!holds).then(|| Outcome::ConditionFailed { current: head.map(|head| head.revision) })
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}
