//! What is done now and then: ticks of the core, timeouts of clients, cutting the log, watching the disk.

use std::time::{Duration, Instant};

use quorum::{Index, Input, Position, Role};

use super::{Done, Driver};
use crate::node::Ended;
use crate::storage::Job;

/// How often newcomers, replacements and wishes are looked at.
const MEMBERSHIP_EVERY: Duration = Duration::from_millis(100);

/// How often the disk's free space is read.
const SPACE_EVERY: Duration = Duration::from_secs(1);

/// How often the state is made durable in the engine if anything was applied, though the log is short.
/// Rarely: what a restart has to replay is bounded by the log's length, and the longer hot keys stay in the
/// overlay the less is written.
const PERSIST_EVERY: Duration = Duration::from_secs(600);

/// How long at least between two times that the state is made durable because of the log's length, so that a follower
/// that holds up the cut does not have every overwrite written through to the engine.
const PERSIST_REST: Duration = Duration::from_secs(3);

/// A log this many times its bound is cut even if a live follower still needs it: that one gets a snapshot.
const LOG_PATIENCE: u64 = 4;

/// When what was last done.
#[derive(Debug)]
pub(super) struct Upkeep {
    membership: Instant,
    space: Option<Instant>,
    persist: Instant,
    persisting: bool,
    persisted: Index,
}

impl Upkeep {
    pub(super) fn new(now: Instant) -> Upkeep {
        Upkeep { membership: now, space: None, persist: now, persisting: false, persisted: Index(0) }
    }

    pub(super) fn is_persisting(&self) -> bool {
        self.persisting
    }

    pub(super) fn note_persisted(&mut self) {
        self.persisting = false;
    }
}

impl Driver {
    pub(super) fn on_tick(&mut self) {
        self.step(Input::Tick);
        let limit = self.shared.options.request_timeout;
        self.waiters.expire(limit, self.now, "too few copies were confirmed in time");
        if self.now - self.upkeep.membership >= MEMBERSHIP_EVERY {
            self.upkeep.membership = self.now;
            self.maybe_form();
            self.maybe_readdress_itself();
            self.maybe_replace();
            self.expire_wishes();
            self.expire_barriers();
            self.write_down_peers();
            self.publish_metrics();
        }
        self.maybe_measure_space();
        self.maybe_persist();
        self.store_failed();
    }

    fn maybe_measure_space(&mut self) {
        if self.upkeep.space.is_some_and(|at| self.now - at < SPACE_EVERY) {
            return;
        }
        self.upkeep.space = Some(self.now);
        let (dir, world, done) = (self.data_dir.clone(), self.world.clone(), self.done_tx.clone());
        self.world.elsewhere(Box::new(move || {
            // A disk that does not tell its free space is not for that reason full.
            let free = world.free_space(&dir).unwrap_or(u64::MAX);
            let _ = done.send(Done::Space { free });
        }));
    }

    pub(super) fn on_space(&mut self, free: u64) {
        self.shared.metrics.disk_free_bytes.set(free as f64);
        let reserve = self.shared.options.limits.disk_reserve_bytes;
        self.shared.metrics.disk_reserve_bytes.set(reserve as f64);
        // A tenth above the reserve before writes are taken again, so that the state does not flap.
        let full = if self.disk_full { free < reserve + reserve / 10 } else { free < reserve };
        if full != self.disk_full {
            self.disk_full = full;
            match full {
                true => tracing::warn!(free, reserve, "the disk is nearly full: writes are refused, deletes are taken"),
                false => tracing::info!(free, reserve, "there is room on the disk again: writes are taken"),
            }
        }
    }

    /// The log's bound, a quarter more or less by the node's id: nodes with the same log would otherwise all
    /// drain at the same moment.
    fn log_bytes_max(&self) -> u64 {
        const STEPS: u64 = 64;
        let keep = self.shared.options.limits.log_keep_bytes;
        // Ids are random or hashes; folding takes every part of one into account.
        let folded = (self.me.id.0 ^ (self.me.id.0 >> 64)) as u64;
        keep - keep / 4 + keep / 2 / STEPS * (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
    }

    /// Has the engine make the state durable when the log has grown over its bound, or after a while.
    fn maybe_persist(&mut self) {
        let due = self.now - self.upkeep.persist >= PERSIST_EVERY && self.applied > self.upkeep.persisted;
        let grown = self.wal.bytes() > self.log_bytes_max() && self.applied > self.upkeep.persisted;
        let rested = self.now - self.upkeep.persist >= PERSIST_REST;
        if self.upkeep.persisting || !(due || grown && rested) {
            return;
        }
        self.upkeep.persisting = true;
        self.upkeep.persist = self.now;
        let (store, done) = (self.shared.store.clone(), self.done_tx.clone());
        self.world.elsewhere(Box::new(move || {
            let _ = done.send(Done::Persisted(store.persist().map_err(|e| e.to_string())));
        }));
    }

    pub(super) fn on_state_persisted(&mut self, result: Result<Position, String>) {
        self.upkeep.persisting = false;
        let durable = match result {
            Ok(position) => position.index,
            Err(error) => {
                self.end(Ended::Failed(format!("the state could not be made durable: {error}")));
                return;
            }
        };
        self.upkeep.persisted = durable;
        let keep = self.log_bytes_max();
        let bytes = self.wal.bytes();
        if bytes <= keep {
            return;
        }
        // What a live follower still lacks is kept a while longer.
        let lowest = self.replica.peers().filter(|p| p.live && !p.in_snapshot).map(|p| p.durable).min();
        let needed = if bytes > keep * LOG_PATIENCE { durable } else { lowest.unwrap_or(durable) };
        let upto = durable.min(needed).min(self.replica.durable());
        if upto > self.replica.start().index {
            tracing::debug!(%upto, bytes, "cutting the log");
            self.step(Input::Compacted { upto });
            self.wal.submit(Job::Cut { upto });
        }
    }

    /// Whether this node has caught up: it has applied an entry of the current term and all that is
    /// committed, as far as it knows.
    pub(super) fn note_readiness(&mut self) {
        let (commit, term) = (self.replica.commit(), self.replica.term());
        let settled = self.replica.role() == Role::Leader || self.replica.leader().is_some();
        let member = self.replica.config().is_some_and(|c| c.formed && c.member(self.me.id).is_some());
        if !self.ready && settled && member && self.applied == commit && self.replica.term_at(commit) == Some(term) {
            self.ready = true;
            tracing::info!(%commit, "caught up: ready");
        }
    }
}
