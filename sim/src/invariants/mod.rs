//! What must always hold, one file each. They see the whole cluster at once, after every turn of every node.

pub mod configuration_safety;
pub mod durability;
pub mod identical_state;
pub mod leader_completeness;
pub mod leader_in_contact;
pub mod log_matching;
pub mod monotone_commit;
pub mod no_dirty_read;
pub mod no_forgetful_voter;
pub mod one_leader_per_term;

use std::collections::BTreeMap;

use quorum::{NodeId, Replica};

/// A node as the invariants see it.
pub struct Seen<'a> {
    /// Its name.
    pub name: &'a str,
    /// Which run of its process.
    pub process: u64,
    /// Its protocol state.
    pub replica: &'a Replica,
    /// What its disk holds for certain.
    pub durable: &'a Durable,
}

/// What a disk holds for certain of a log, as the term at each index, and of its node's vote.
#[derive(Clone, Debug, Default)]
pub struct Durable {
    /// What lies before the first entry.
    pub start: u64,
    /// The entries.
    pub terms: BTreeMap<u64, u64>,
    /// The node's term, and its vote in it.
    pub vote: (u64, Option<NodeId>),
}

impl Durable {
    /// Whether the very entry is held, or was and is in the state now.
    #[must_use]
    pub fn holds(&self, index: u64, term: u64) -> bool {
        index <= self.start || self.terms.get(&index) == Some(&term)
    }

    /// The last index.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.terms.last_key_value().map_or(self.start, |(i, _)| *i)
    }
}

/// All disks by the identity that is on them; `None` for one that was lost.
pub type Disks<'a> = BTreeMap<NodeId, Option<&'a Durable>>;
