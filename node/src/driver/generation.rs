//! Which commands may be written: those that every member can apply.
//!
//! A replica that cannot read a committed command passes over it, and its state is another one from there on. So a
//! command of a newer generation ([`GENERATION`]) is taken only once every member has announced, in its greeting, that
//! it knows it. With the first one applied the matter is closed for good: the cluster's state holds what only that
//! generation understands, a leader need not have heard from a member that is down, and nodes of an earlier version
//! are refused at the door.
//!
//! So far one thing is of generation 1: commands with idempotency keys.

use bytes::Bytes;

use super::Driver;
use crate::handle::WriteError;
use crate::kv::{self, GENERATION};

impl Driver {
    /// Refuses a command that some member may not know.
    pub(super) fn admit_generation(&self, payload: &Bytes) -> Result<(), WriteError> {
        if self.newest_in_use || !kv::is_once(payload) {
            return Ok(());
        }
        let Some(config) = self.replica.config() else { return Err(WriteError::NoLeader) };
        let others: Vec<_> = config.members().map(|member| member.id).filter(|id| *id != self.me.id).collect();
        match self.world.behind(GENERATION, &others) {
            Some(behind) => Err(WriteError::MixedVersions { behind: self.name_of(behind) }),
            None => Ok(()),
        }
    }

    /// A command as the leader puts it into its log: with the time, where applying depends on it.
    pub(super) fn as_written(&self, payload: &Bytes) -> Bytes {
        if kv::is_once(payload) { kv::stamped(payload, self.world.unix_millis()) } else { payload.clone() }
    }

    /// A command is applied.
    pub(super) fn note_generation(&mut self, payload: &Bytes) {
        if !self.newest_in_use && kv::is_once(payload) {
            self.newest_in_use = true;
            self.world.require(GENERATION);
        }
    }

    /// A state was taken over, from the disk or from the leader.
    pub(super) fn note_generation_of_state(&mut self) {
        if !self.newest_in_use && self.shared.store.remembered() > 0 {
            self.newest_in_use = true;
            self.world.require(GENERATION);
        }
    }
}
