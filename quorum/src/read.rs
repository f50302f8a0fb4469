//! Linearizable reads: which of them wait for which proof that this leader still leads (Raft thesis, 6.4).
//!
//! A read notes the commit index of the moment it arrived and waits for a heartbeat round that *began later* to be
//! answered by C voters. Reads that come while a round is under way wait for the next one: however many there are, at
//! most one round at a time is sent for them.

use std::collections::VecDeque;

use crate::types::Index;

#[derive(Debug)]
struct Waiting {
    id: u64,
    index: Index,
    round: u64,
}

/// Most reads that wait at once. The host bounds its requests too, but gives up on them sooner than they are confirmed
/// here when followers' disks are slow; 64 Ki is more than any host has under way.
const WAITING_MAX: usize = 1 << 16;

/// The reads of a leader that are not confirmed yet, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: VecDeque<Waiting>,
}

impl Reads {
    /// Whether another read may wait.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A read that must see `index` once `round` is confirmed.
    pub(crate) fn wait(&mut self, id: u64, index: Index, round: u64) {
        self.waiting.push_back(Waiting { id, index, round });
    }

    /// The latest round that a read waits for.
    pub(crate) fn wants_round(&self) -> Option<u64> {
        self.waiting.back().map(|w| w.round)
    }

    /// The reads that `confirmed` covers and `commit` reaches, in order.
    pub(crate) fn ready(&mut self, confirmed: u64, commit: Index) -> Vec<(u64, Index)> {
        let mut ready = Vec::new();
        while let Some(front) = self.waiting.front() {
            if front.round > confirmed || front.index > commit {
                break;
            }
            ready.push((front.id, front.index));
            self.waiting.pop_front();
        }
        ready
    }

    /// Everything that waits, because it will not be confirmed here.
    pub(crate) fn abandon(&mut self) -> Vec<u64> {
        self.waiting.drain(..).map(|w| w.id).collect()
    }
}
