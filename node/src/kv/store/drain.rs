//! How a table travels into the engine: frozen, then handed over in pieces small enough that no other file's sync waits long behind them.
//!
//! Each piece is committed and synced before the next, with a rest in between, so that neither the disk nor the processors ever belong to
//! the drain. All pieces but the last leave the engine between two positions ([`Meta::ahead`]); the last moves the position. A crash in the
//! middle costs nothing but repeating entries that are known to be done: see `apply`. Readers see none of it: until the last piece is in,
//! the frozen table lies over all of them.
//!
//! Views: one that is made while pieces go over has the frozen table in its layers, and is no older than the table's end, since the table
//! was frozen before; so whatever the snapshot shows of a piece, the table covers. One made before the freeze has a snapshot from before
//! the first piece. Both happen under the lock of `head`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::StoreError;
use super::super::engine::{Change, Engine, Meta};
use super::super::once::Moving;
use super::super::overlay::{Table, Tables};
use super::Shared;

/// A piece of a table, in bytes of keys and values: what is synced at once. A disk that writes 100 MB/s is busy with it for 10 ms; smaller
/// ones would cost more syncs than they save waiting.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// What a change or a row costs in the engine beyond key and value, reckoned.
const CHANGE_BYTES: usize = 32;

/// The rest after a piece, as a multiple of the time it took: a drain in no hurry takes a fifth of what disk and processor can do.
const REST: u32 = 4;

/// The longest rest: a whole table of the default size, 64 pieces at most, is through in some 10 s even if nothing presses.
const REST_MAX: Duration = Duration::from_millis(150);

/// Up to this share of the bound (one in so many) a new table fills while drains rest in full; from there on they rest less and less.
const FULL_REST_SHARE: usize = 4;

impl Shared {
    /// Asks for a drain of the active table. Without a thread it is done before this returns.
    pub(super) fn request_drain(&self) {
        if self.background {
            self.signal(|wanted| wanted.drain = true);
        } else {
            // An error is kept as the failure.
            let _ = self.drain_now(&mut self.drain.lock());
        }
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
            while self.tables.load().active.bytes() >= self.overlay_bytes {
                let drained = self.drain_now(&mut self.drain.lock());
                if drained.is_err() || self.wanted.lock().stop {
                    break;
                }
            }
        }
    }

    /// Moves everything applied so far into the engine and syncs it: freezes the active table, hands it over, lets go of it.
    pub(super) fn drain_now(&self, drained: &mut Meta) -> Result<(), StoreError> {
        self.check()?;
        let mut head = self.head.lock();
        let goal = head.meta();
        if goal.position == drained.position {
            return Ok(());
        }
        assert!(head.tables.frozen.is_none(), "a frozen table was left behind by a drain that did not fail");
        let (table, engine) = (Arc::clone(&head.tables.active), Arc::clone(&head.tables.engine));
        let tables = Tables { frozen: Some(Arc::clone(&table)), ..Tables::over(Arc::clone(&engine)) };
        self.publish(&mut head, tables);
        let rows = head.rows.leave(drained.position.index.0);
        drop(head);

        // On an error the frozen table stays in place: reads remain right until the node has stopped.
        self.hand_over(&table, rows, &*engine, drained, goal)?;

        // Before the table goes: from then on heads of its keys are looked for in the cache and the engine.
        self.heads.invalidate();
        let mut head = self.head.lock();
        let active = Arc::clone(&head.tables.active);
        self.publish(&mut head, Tables { active, frozen: None, engine: Arc::clone(&engine) });
        drop(head);
        if let Some(alarm) = engine.alarm() {
            tracing::warn!(%alarm, "the engine falls behind");
        }
        self.show_gauges();
        Ok(())
    }

    /// Brings the engine from the state `drained` to `goal`, piece by piece: rows before keys, and what is forgotten with the last, as
    /// [`super::super::once`] has it. `drained` follows what is in it.
    fn hand_over(
        &self,
        table: &Table,
        rows: Moving,
        engine: &dyn Engine,
        drained: &mut Meta,
        goal: Meta,
    ) -> Result<(), StoreError> {
        // Nobody writes a frozen table, so holding its lock throughout holds nobody up.
        let map = table.map.read();
        let mut rest = map.iter().peekable();
        let mut added = rows.added.into_iter();
        loop {
            let begun = Instant::now();
            let (mut piece, mut bytes, mut count) = (Vec::new(), 0, drained.count);
            let mut moving = Moving::default();
            while bytes < self.piece_bytes
                && let Some(row) = added.next()
            {
                bytes += CHANGE_BYTES + row.key.len();
                moving.added.push(row);
            }
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
            let meta = if last {
                moving.forgotten.clone_from(&rows.forgotten);
                assert_eq!(count, goal.count, "keys in the engine at {}", goal.position);
                goal.clone()
            } else {
                Meta { count, ahead: goal.ahead, ..drained.clone() }
            };
            engine
                .commit(&piece, &moving, &meta)
                .and_then(|()| engine.persist())
                .map_err(|error| self.failing(error))?;
            *drained = meta;
            if last {
                return Ok(());
            }
            self.rest(begun.elapsed());
        }
    }

    /// Leaves disk and processors to others for a while after so much work; the shorter the fuller the new table is, and not at all if
    /// someone is in a hurry.
    fn rest(&self, worked: Duration) {
        if !self.background {
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
    pub(super) fn undrained(&self) -> parking_lot::MutexGuard<'_, Meta> {
        self.signal(|wanted| wanted.hurried += 1);
        let drained = self.drain.lock();
        self.signal(|wanted| wanted.hurried -= 1);
        drained
    }
}
