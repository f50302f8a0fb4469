//! Commands that are done once: what is remembered of those that came with an idempotency key.
//!
//! A client that was told nothing, or "unknown", hands its request in again under the same key. The first time the
//! command is done, and a [`Row`] keeps what it led to; the second time nothing is done and the row is the answer. Rows
//! are part of the replicated state: what is remembered depends on the log alone, so every replica answers a retry
//! alike, whoever leads then.
//!
//! *Bounds.* A row is forgotten only when another is added: once [`ROWS_MAX`] are newer, or one that was stamped
//! [`REMEMBERED_FOR`] later. Time is what the leader stamped on the entry, and never goes back: a row's stamp is at
//! least that of the row before. So the rows in force at an index are the newest of those up to it, and which these are
//! can be told from the rows themselves; to change a bound is to change the state machine.
//!
//! *On the disk.* Rows go into the engine by revision, those of a drain before any of its keys, and what is
//! forgotten leaves with or after the last piece. So after a crash in the middle of a drain the engine has every row
//! that was in force at its position, and of each command whose effect may be there already the row that says what
//! it led to: see [`Rows::foretold`].
//!
//! Before: `apply`. After: `store::drain`, `transfer`.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorum::bugs::{self, Bug};
use serde::{Deserialize, Serialize};

use super::command::{Once, Outcome, REQUEST_KEY_BYTES_MAX};

/// Most rows in force. At ten thousand such writes a second a client has ten seconds to ask again, twice the time after
/// which it is told "unknown"; with keys of 36 bytes they take some 25 MB of memory.
pub const ROWS_MAX: usize = 100_000;

/// How long a row is in force at least, if no more than [`ROWS_MAX`] come after it: longer than any
/// failover, or a person who looks.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(60 * 60);

/// Most rows taken out of the engine in one batch: with 9 bytes of key each, a small part of a piece. The
/// others go with later drains.
const FORGOTTEN_PER_BATCH: usize = 8_192;

/// What a row costs in the overlay and in memory beyond its key, reckoned: two handles, a slot of the
/// set, the allocator's share.
const ROW_BYTES: usize = 200;

/// The version of a row's bytes.
const FORMAT: u8 = 1;

/// What is remembered of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    /// The log index at which it was done.
    pub(super) revision: u64,
    /// The leader's clock then, in milliseconds since 1970; not before that of the row before.
    pub(super) stamped: u64,
    /// The client's name for the request.
    pub(super) key: Bytes,
    /// Tells requests apart: [`Once::request`].
    pub(super) request: u64,
    /// What it led to.
    pub(super) outcome: Outcome,
}

impl Row {
    /// The bytes in an engine and in a snapshot.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        postcard::to_extend(self, vec![FORMAT]).map_err(|error| format!("a row cannot be encoded: {error}"))
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Row> {
        let (&FORMAT, rest) = bytes.split_first()? else { return None };
        let (row, rest) = postcard::take_from_bytes::<Row>(rest).ok()?;
        (rest.is_empty() && (1..=REQUEST_KEY_BYTES_MAX).contains(&row.key.len())).then_some(row)
    }
}

/// A row, found by its key.
struct ByKey(Arc<Row>);

impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key[..].hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &ByKey) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

/// The rows in force, and what the engine does not know of them yet. Empty, it costs nothing, and no command
/// without a key looks at it.
#[derive(Default)]
pub(super) struct Rows {
    /// By revision.
    in_force: VecDeque<Arc<Row>>,
    by_key: HashSet<ByKey>,
    /// Of entries beyond the position the engine was opened at, by revision.
    foretold: BTreeMap<u64, Arc<Row>>,
    /// Added since the last drain began.
    fresh: Vec<Arc<Row>>,
    /// The revisions of rows that are in the engine, or on their way into it, and not in force any more; ascending.
    forgotten: VecDeque<u64>,
}

/// What a drain does to the rows in the engine.
#[derive(Debug, Default)]
pub(super) struct Moving {
    /// Goes in before any key.
    pub(super) added: Vec<Arc<Row>>,
    /// Goes out with the last piece.
    pub(super) forgotten: Vec<u64>,
}

impl Rows {
    /// The rows of a state at `applied`, as an engine has them: ascending.
    pub(super) fn of(rows: Vec<Arc<Row>>, applied: u64) -> Rows {
        let mut loaded = Rows::default();
        if bugs::is_on(Bug::IdempotencyKeyForgotten) {
            return loaded;
        }
        for row in rows {
            if row.revision > applied {
                loaded.foretold.insert(row.revision, row);
            } else {
                loaded.put_in_force(row);
            }
        }
        loaded
    }

    /// What is remembered under a key.
    pub(super) fn find(&self, key: &[u8]) -> Option<&Row> {
        self.by_key.get(key).map(|row| &*row.0)
    }

    /// How many rows are in force. Never none again once there was one.
    pub(super) fn len(&self) -> usize {
        self.in_force.len()
    }

    /// What the command at this entry led to, if its effect may be in the engine already. Applying it again tells no
    /// outcome then: the keys it looks at may be beyond it.
    pub(super) fn foretold(&self, revision: u64, key: &[u8]) -> Option<&Outcome> {
        self.foretold.get(&revision).filter(|row| row.key == key).map(|row| &row.outcome)
    }

    /// Remembers what a command led to, which was in no row; returns the bytes that takes.
    pub(super) fn remember(&mut self, revision: u64, once: &Once<'_>, outcome: Outcome) -> usize {
        assert!(self.find(once.key).is_none(), "the command at {revision} was done before");
        let before = self.in_force.back().map_or(0, |row| row.stamped);
        let row = Arc::new(Row {
            revision,
            stamped: once.stamped.max(before),
            key: Bytes::copy_from_slice(once.key),
            request: once.request,
            outcome,
        });
        self.fresh.push(Arc::clone(&row));
        self.put_in_force(row);
        self.foretold.remove(&revision);
        ROW_BYTES + once.key.len()
    }

    fn put_in_force(&mut self, row: Arc<Row>) {
        let outdated = row.stamped.saturating_sub(u64::try_from(REMEMBERED_FOR.as_millis()).unwrap_or(u64::MAX));
        while let Some(oldest) = self.in_force.front()
            && (self.in_force.len() >= ROWS_MAX || oldest.stamped < outdated)
        {
            self.forgotten.push_back(oldest.revision);
            self.by_key.remove(&oldest.key[..]);
            self.in_force.pop_front();
        }
        assert!(self.in_force.back().is_none_or(|last| last.revision < row.revision), "rows come in the log's order");
        self.by_key.insert(ByKey(Arc::clone(&row)));
        self.in_force.push_back(row);
    }

    /// What a drain that begins now takes with it. `engine` is the engine's position: what came in after it is not
    /// taken out by this drain but by a later one, so that no batch both adds a row and removes it.
    pub(super) fn leave(&mut self, engine: u64) -> Moving {
        let gone = self.forgotten.partition_point(|revision| *revision <= engine).min(FORGOTTEN_PER_BATCH);
        Moving { added: std::mem::take(&mut self.fresh), forgotten: self.forgotten.drain(..gone).collect() }
    }

    /// Whether no two rows in force have the same key: so it is unless they come from elsewhere.
    pub(super) fn are_distinct(&self) -> bool {
        self.by_key.len() == self.in_force.len()
    }

    /// All of them, ascending, for a snapshot.
    pub(super) fn all(&self) -> Vec<Arc<Row>> {
        self.in_force.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(rows: &mut Rows, revision: u64, stamped: u64) {
        let key = format!("key{revision}");
        let once = Once { key: key.as_bytes(), stamped, request: 1, command: &[] };
        rows.remember(revision, &once, Outcome::Put { version: 1 });
    }

    fn in_force(rows: &Rows) -> Vec<(u64, u64)> {
        rows.in_force.iter().map(|row| (row.revision, row.stamped)).collect()
    }

    #[test]
    fn a_row_is_forgotten_when_one_that_is_an_hour_younger_is_added() {
        let (mut rows, hour) = (Rows::default(), REMEMBERED_FOR.as_millis() as u64);
        for (revision, stamped) in [(1, 1_000), (2, 5_000), (3, hour + 1_000)] {
            add(&mut rows, revision, stamped);
        }
        assert_eq!(rows.len(), 3, "an hour is not over yet");
        add(&mut rows, 4, hour + 1_001);
        assert!(rows.find(b"key1").is_none() && rows.find(b"key2").is_some());
    }

    #[test]
    fn a_leader_whose_clock_is_behind_does_not_turn_time_back() {
        let mut rows = Rows::default();
        add(&mut rows, 1, 9_000);
        add(&mut rows, 2, 3_000);
        assert_eq!(in_force(&rows), [(1, 9_000), (2, 9_000)]);
    }

    #[test]
    fn of_too_many_rows_the_oldest_is_forgotten_and_leaves_the_engine_with_a_later_drain() {
        let mut rows = Rows::default();
        for revision in 1..=ROWS_MAX as u64 + 2 {
            add(&mut rows, revision, 7);
        }
        assert_eq!(rows.len(), ROWS_MAX);
        assert!(rows.find(b"key2").is_none() && rows.find(b"key3").is_some());
        let first = rows.leave(0);
        assert_eq!((first.added.len(), first.forgotten.len()), (ROWS_MAX + 2, 0), "none is added and removed at once");
        assert_eq!(rows.leave(ROWS_MAX as u64 + 2).forgotten, [1, 2]);
        // An engine that still has them all leads to the same rows in force.
        let loaded = Rows::of(first.added, u64::MAX);
        assert_eq!((in_force(&loaded), &loaded.forgotten), (in_force(&rows), &VecDeque::from([1, 2])));
    }

    #[test]
    fn a_row_beyond_the_position_is_not_in_force_but_tells_the_outcome_of_its_entry() {
        let mut rows = Rows::default();
        (1..=3).for_each(|revision| add(&mut rows, revision, 7));
        let mut loaded = Rows::of(rows.leave(0).added, 2);
        assert!(loaded.find(b"key3").is_none());
        assert_eq!(loaded.foretold(3, b"key3"), Some(&Outcome::Put { version: 1 }));
        assert_eq!(loaded.foretold(3, b"another"), None);
        add(&mut loaded, 3, 7);
        assert_eq!((in_force(&loaded), loaded.foretold.len()), (in_force(&rows), 0));
    }

    #[test]
    fn a_row_comes_back_as_it_was_written_and_anything_else_is_none() {
        let outcome = Outcome::ConditionFailed { current: Some(7) };
        let row = Row { revision: 9, stamped: 5, key: Bytes::from_static(b"a key"), request: 3, outcome };
        let bytes = row.encode().expect("written");
        assert_eq!(Row::decode(&bytes), Some(row));
        assert_eq!(Row::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Row::decode(&[&bytes[..], &[0]].concat()), None);
    }
}
