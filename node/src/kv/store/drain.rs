//! How a table travels into the engine: frozen, then handed over in pieces small enough that no other file's
//! sync waits long behind them.
//!
//! Each piece is committed and synced before the next, with a rest in between, so that neither the disk nor
//! the processors ever belong to the drain. All pieces but the last leave the engine between two positions
//! ([`Meta::ahead`]); the last moves the position. A crash in the middle costs nothing but repeating entries
//! that are known to be done: see `apply`. Readers see none of it: until the last piece is in, the frozen
//! table lies over all of them.
//!
//! Views: one that is made while pieces go over has the frozen table in its layers, and is no older than the table's
//! end, since the table was frozen before; so whatever the snapshot shows of a piece, the table covers. One made before
//! the freeze has a snapshot from before the first piece. Both happen under the lock of `head`.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::super::StoreError;
use super::super::engine::{Change, Meta};
use super::super::once::{Moving, Row};
use super::super::overlay::{Table, Tables};
use super::{Shared, Store};

/// A piece of a table, in bytes of keys and values: what is synced at once. A disk that writes 100 MB/s is busy with it
/// for 10 ms; smaller ones would cost more syncs than they save waiting.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// What a change or a row costs in the engine beyond key and value, reckoned.
const CHANGE_BYTES: usize = 32;

/// The rest after a piece, as a multiple of the time it took: a drain in no hurry takes a fifth of what
/// disk and processor can do.
const REST: u32 = 4;

/// The longest rest: a whole table of the default size, 64 pieces at most, is through in some 10 s
/// even if nothing presses.
const REST_MAX: Duration = Duration::from_millis(150);

/// Up to this share of the bound (one in so many) a new table fills while drains rest in full; from there on
/// they rest less and less.
const FULL_REST_SHARE: usize = 4;

/// Who drains a table that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Drains {
    /// A thread of the store's own.
    Thread,
    /// Whoever applies, before that returns.
    AtOnce,
    /// Whoever holds the store, piece by piece: see [`Store::drain_piece`].
    Stepped,
}

/// What the engine holds, and what is on its way into it.
pub(super) struct Drained {
    pub(super) meta: Meta,
    /// A drain between two pieces. Only a failure, or whoever drains step by step, leaves one here.
    under_way: Option<UnderWay>,
}

impl Drained {
    pub(super) fn at(meta: Meta) -> Drained {
        Drained { meta, under_way: None }
    }
}

/// A frozen table, and how much of it is in the engine.
struct UnderWay {
    table: Arc<Table>,
    /// Where the next piece begins.
    from: Bound<Bytes>,
    /// Rows that go in before any key.
    added: std::vec::IntoIter<Arc<Row>>,
    /// Rows that go out with the last piece.
    forgotten: Vec<u64>,
    goal: Meta,
}

impl Store {
    /// Whether [`Store::drain_piece`] has something to do: for a store that is drained step by step.
    #[must_use]
    pub fn must_drain(&self) -> bool {
        let shared = &self.0.shared;
        shared.wanted.lock().drain || shared.drain.lock().under_way.is_some()
    }

    /// Hands one piece over, as the drain's thread does between two rests.
    ///
    /// # Errors
    /// When the engine cannot take it; the store has failed then.
    pub fn drain_piece(&self) -> Result<(), StoreError> {
        let shared = &self.0.shared;
        let mut drained = shared.drain.lock();
        shared.check()?;
        if drained.under_way.is_none() {
            shared.signal(|wanted| wanted.drain = false);
            if shared.is_full() {
                shared.begin(&mut drained);
            }
        }
        let more = shared.piece(&mut drained)?;
        // Nobody asks twice for a table that has filled up meanwhile.
        if !more && shared.is_full() {
            shared.signal(|wanted| wanted.drain = true);
        }
        Ok(())
    }
}

impl Shared {
    /// Asks for a drain of the active table. Where whoever applies drains it is done before this returns.
    pub(super) fn request_drain(&self) {
        if self.drains == Drains::AtOnce {
            // An error is kept as the failure.
            let _ = self.drain_now(&mut self.drain.lock());
        } else {
            self.signal(|wanted| wanted.drain = true);
        }
    }

    /// Whether the active table is to be drained.
    fn is_full(&self) -> bool {
        self.tables.load().active.bytes() >= self.overlay_bytes
    }

    /// The drain's thread.
    pub(super) fn run_drain(&self) {
        loop {
            let mut wanted = self.wanted.lock();
            self.wake.wait_while(&mut wanted, |wanted| !wanted.drain && !wanted.stop);
            if wanted.stop {
                return;
            }
            wanted.drain = false;
            drop(wanted);
            // Again at once if the table that took its place has filled up meanwhile: nobody asks twice.
            while self.is_full() {
                let drained = self.drain_now(&mut self.drain.lock());
                if drained.is_err() || self.wanted.lock().stop {
                    break;
                }
            }
        }
    }

    /// Moves everything applied so far into the engine and syncs it.
    pub(super) fn drain_now(&self, drained: &mut Drained) -> Result<(), StoreError> {
        self.check()?;
        self.finish(drained)?;
        self.begin(drained);
        self.finish(drained)
    }

    /// Hands over what is left of a drain.
    pub(super) fn finish(&self, drained: &mut Drained) -> Result<(), StoreError> {
        loop {
            let begun = Instant::now();
            if !self.piece(drained)? {
                return Ok(());
            }
            self.rest(begun.elapsed());
        }
    }

    /// Freezes the active table, if anything was applied since the last drain.
    fn begin(&self, drained: &mut Drained) {
        let mut head = self.head.lock();
        let goal = head.meta();
        if goal.position == drained.meta.position {
            return;
        }
        assert!(head.tables.frozen.is_none(), "a frozen table was left behind by a drain that did not fail");
        let (table, engine) = (Arc::clone(&head.tables.active), Arc::clone(&head.tables.engine));
        // Frees nothing: the table lives on.
        drop(self.publish(&mut head, Tables { frozen: Some(Arc::clone(&table)), ..Tables::over(engine) }));
        let Moving { added, forgotten } = head.rows.leave(drained.meta.position.index.0);
        let (from, added) = (Bound::Unbounded, added.into_iter());
        drained.under_way = Some(UnderWay { table, from, added, forgotten, goal });
    }

    /// Brings the engine one piece further, and says whether there are more: rows before keys, and what is forgotten
    /// with the last, as [`super::super::once`] has it. Lets go of the table with the last. On an error the frozen
    /// table stays in place: reads remain right until the node has stopped.
    fn piece(&self, drained: &mut Drained) -> Result<bool, StoreError> {
        let Drained { meta, under_way: Some(under_way) } = &mut *drained else { return Ok(false) };
        let UnderWay { table, from, added, forgotten, goal } = under_way;
        let engine = Arc::clone(&self.tables.load().engine);
        let (mut piece, mut bytes, mut count) = (Vec::new(), 0, meta.count);
        let mut moving = Moving::default();
        while bytes < self.piece_bytes
            && let Some(row) = added.next()
        {
            bytes += CHANGE_BYTES + row.key.len();
            moving.added.push(row);
        }
        // Nobody writes a frozen table, so holding its lock holds nobody up.
        let map = table.map.read();
        let mut rest = map.from(from.as_ref().map(Bytes::as_ref)).peekable();
        while bytes < self.piece_bytes
            && let Some((key, version)) = rest.next()
        {
            let item = version.item.as_ref();
            bytes += CHANGE_BYTES + key.len() + item.map_or(0, |item| item.value.data.len());
            match (version.existed, item.is_some()) {
                (false, true) => count = count.strict_add(1),
                (true, false) => count = count.strict_sub(1),
                _ => {}
            }
            piece.push(Change { key, revision: version.revision, item });
        }
        let last = rest.peek().is_none() && added.as_slice().is_empty();
        drop(rest);
        let next = if last {
            moving.forgotten.clone_from(forgotten);
            assert_eq!(count, goal.count, "keys in the engine at {}", goal.position);
            goal.clone()
        } else {
            Meta { count, ahead: goal.ahead, ..meta.clone() }
        };
        engine.commit(&piece, &moving, &next).and_then(|()| engine.persist()).map_err(|error| self.failing(error))?;
        *meta = next;
        if let Some(Change { key, .. }) = piece.last() {
            *from = Bound::Excluded((*key).clone());
        }
        drop(map);
        if last {
            drained.under_way = None;
            self.let_go();
        }
        Ok(!last)
    }

    /// The engine has all of the frozen table.
    fn let_go(&self) {
        // Before the table goes: from then on heads of its keys are looked for in the cache and the engine.
        self.heads.invalidate();
        let mut head = self.head.lock();
        let (active, engine) = (Arc::clone(&head.tables.active), Arc::clone(&head.tables.engine));
        let before = self.publish(&mut head, Tables { active, frozen: None, engine: Arc::clone(&engine) });
        drop(head);
        drop(before);
        if let Some(alarm) = engine.alarm() {
            tracing::warn!(%alarm, "the engine falls behind");
        }
        self.show_gauges();
    }

    /// Leaves disk and processors to others for a while after so much work; the shorter the fuller the new table is,
    /// and not at all if someone is in a hurry.
    fn rest(&self, worked: Duration) {
        if self.drains != Drains::Thread {
            return;
        }
        let filled = self.tables.load().active.bytes();
        let relaxed = self.overlay_bytes / FULL_REST_SHARE;
        let left = self.overlay_bytes.saturating_sub(filled.max(relaxed));
        let share = left as f64 / (self.overlay_bytes - relaxed).max(1) as f64;
        let pause = (worked * REST).min(REST_MAX).mul_f64(share);
        let mut wanted = self.wanted.lock();
        self.wake.wait_while_for(&mut wanted, |wanted| !wanted.stop && wanted.hurried == 0, pause);
    }

    /// The state that the engine holds, once no drain is under way; one that is hurries up.
    pub(super) fn undrained(&self) -> MutexGuard<'_, Drained> {
        self.signal(|wanted| wanted.hurried += 1);
        let drained = self.drain.lock();
        self.signal(|wanted| wanted.hurried -= 1);
        drained
    }
}
