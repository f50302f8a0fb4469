//! What must hold after every step, in release builds too. A violation stops the process: better no
//! answer than a wrong one.

use crate::log::Log;
use crate::replica::Replica;
use crate::types::{Index, Term};

/// The parts of a replica that the invariants are about.
pub(crate) struct Checked<'a> {
    pub log: &'a Log,
    pub term: Term,
    pub commit: Index,
    /// A leader's first own entry and acknowledged index.
    pub leads: Option<(Index, Index)>,
    pub leader_is_self: bool,
}

pub(crate) fn after_step(replica: &Replica) {
    let c = replica.checked();
    let last = c.log.last();
    assert!(c.log.start().index <= c.commit, "compacted {} beyond commit {}", c.log.start(), c.commit);
    assert!(c.commit <= last.index, "committed {} beyond the end of the log {last}", c.commit);
    assert!(c.log.durable() <= last.index, "durable {} beyond the end of the log {last}", c.log.durable());
    assert!(last.term <= c.term, "the log ends in term {} but the node is in {}", last.term, c.term);
    assert_eq!(c.leads.is_some(), c.leader_is_self, "a node that leads, and only that, takes itself for the leader");
    if let Some((first_own, acknowledged)) = c.leads {
        assert!(acknowledged <= c.commit, "acknowledged {acknowledged} before commit {}", c.commit);
        assert_eq!(c.log.term_at(first_own.max(c.log.start().index)).map(|t| t <= c.term), Some(true));
        assert_eq!(last.term, c.term, "a leader's log ends in its own term");
    }
}
