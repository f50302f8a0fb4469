//! Who belongs to the cluster, and how many copies a write needs: the configuration.
//!
//! A configuration is an entry of the log like any other, and the newest one in a node's log is in force there,
//! committed or not (Raft, 4.1). A change of voters or of W passes through a *joint* configuration in which
//! every decision needs the quorum of the old half and that of the new one. E and C are derived from N and W at
//! every use and never stored.
//!
//! This module owns the data and its legality; [`crate::replica`] decides when a change may start and when it ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bugs::{self, Bug};
use crate::quorum::{Quorum, QuorumError, VOTERS_MAX, reached_by};
use crate::types::{Index, NodeId};

/// One node as the others know it. The addresses are the host's business; the protocol only carries them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The identity of its disk.
    pub id: NodeId,
    /// The name it was given (`ID`), which a replacement for a lost disk takes over.
    pub name: String,
    /// `host:port` for the other nodes.
    pub peer: String,
    /// URL of its HTTP interface.
    pub http: String,
    /// `host:port` of its line and Redis interface.
    pub tcp: String,
}

/// Who may start an election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failover {
    /// Any voter that has not heard from a leader for an election timeout.
    #[default]
    Automatic,
    /// Only a voter that was told to.
    Manual,
}

/// The half of a joint configuration that is being left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The voters before the change.
    pub voters: Vec<Member>,
    /// W before the change.
    pub write_quorum: usize,
}

/// Members, W and preferences: one version of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Grows by one with every configuration entry; the compare-and-set of changes is on it.
    pub version: u64,
    /// Whose copies and votes count, ordered by id.
    pub voters: Vec<Member>,
    /// Who receives the log but neither votes nor counts, ordered by id.
    pub learners: Vec<Member>,
    /// W.
    pub write_quorum: usize,
    /// Where leadership prefers to live.
    pub preferred: Option<NodeId>,
    /// Who may start an election.
    pub failover: Failover,
    /// Whether every voter was seen to hold the first configuration. Client writes are refused before that.
    pub formed: bool,
    /// The half being left, while a change is under way.
    pub outgoing: Option<Outgoing>,
}

/// What a change asks for: the state after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The version the change was derived from.
    pub base_version: u64,
    /// The voters to be.
    pub voters: Vec<Member>,
    /// The learners to be.
    pub learners: Vec<Member>,
    /// W to be.
    pub write_quorum: usize,
    /// The preferred leader to be.
    pub preferred: Option<NodeId>,
    /// The failover policy to be.
    pub failover: Failover,
}

impl Config {
    /// The first configuration of a cluster, not yet formed.
    ///
    /// # Errors
    /// When N and W are not possible.
    pub fn first(voters: Vec<Member>, write_quorum: usize, preferred: Option<NodeId>) -> Result<Config, QuorumError> {
        let voters = each_once(voters);
        Quorum::new(voters.len(), write_quorum)?;
        Ok(Config {
            version: 1,
            voters,
            learners: Vec::new(),
            write_quorum,
            preferred,
            failover: Failover::Automatic,
            formed: false,
            outgoing: None,
        })
    }

    /// N and W of the (new) voters.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        derive(self.voters.len(), self.write_quorum)
    }

    /// The halves whose quorums every decision needs: one, or two while a change is under way.
    pub fn halves(&self) -> impl Iterator<Item = (&[Member], Quorum)> {
        let outgoing = self.outgoing.as_ref().map(|o| (o.voters.as_slice(), derive(o.voters.len(), o.write_quorum)));
        std::iter::once((self.voters.as_slice(), self.quorum())).chain(outgoing)
    }

    /// Whether a change is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.outgoing.is_some()
    }

    /// Whether the node's vote and copies count, in either half.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.halves().any(|(voters, _)| voters.iter().any(|m| m.id == id))
    }

    /// Whether the node receives the log without counting.
    #[must_use]
    pub fn is_learner(&self, id: NodeId) -> bool {
        !self.is_voter(id) && self.learners.iter().any(|m| m.id == id)
    }

    /// Everyone who receives the log, each once: voters of both halves, then learners.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        let outgoing =
            self.outgoing.iter().flat_map(|o| &o.voters).filter(|m| !self.voters.iter().any(|v| v.id == m.id));
        let learners = self.learners.iter().filter(|m| !self.is_voter(m.id));
        self.voters.iter().chain(outgoing).chain(learners)
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members().find(|m| m.id == id)
    }

    /// Whether the nodes for which `granted` holds may elect a leader: E of each half.
    #[must_use]
    pub fn elects(&self, granted: impl Fn(NodeId) -> bool) -> bool {
        let needed = |q: Quorum| if bugs::is_on(Bug::MajorityElects) { q.voters() / 2 + 1 } else { q.election() };
        self.halves().all(|(voters, q)| voters.iter().filter(|m| granted(m.id)).count() >= needed(q))
    }

    /// Whether the nodes for which `in_contact` holds keep a leader in office and confirm its reads: C of each half.
    #[must_use]
    pub fn confirms(&self, in_contact: impl Fn(NodeId) -> bool) -> bool {
        self.halves().all(|(voters, q)| voters.iter().filter(|m| in_contact(m.id)).count() >= q.commit())
    }

    /// The highest of `durable` that C of each half have reached: what may commit.
    #[must_use]
    pub fn committed<T: Ord + Copy>(&self, durable: impl Fn(NodeId) -> T) -> Option<T> {
        self.reached(durable, |q| q.commit())
    }

    /// The highest of `durable` that W of each half have reached: what may be acknowledged.
    #[must_use]
    pub fn acknowledged<T: Ord + Copy>(&self, durable: impl Fn(NodeId) -> T) -> Option<T> {
        self.reached(durable, |q| q.write())
    }

    /// The highest index that `copies` voters (and at least W of each half) hold durably.
    #[must_use]
    pub fn held_by(&self, copies: usize, durable: impl Fn(NodeId) -> Index) -> Option<Index> {
        self.reached(durable, |q| q.write().max(copies))
    }

    fn reached<T: Ord + Copy>(&self, value: impl Fn(NodeId) -> T, count: impl Fn(Quorum) -> usize) -> Option<T> {
        let mut lowest: Option<T> = None;
        for (voters, q) in self.halves() {
            // On the stack: this runs several times for every acknowledgement. `derive` has checked that
            // there are not more voters.
            let mut values = [None; VOTERS_MAX];
            for (slot, member) in values.iter_mut().zip(voters) {
                *slot = Some(value(member.id));
            }
            let reached = reached_by(&mut values[..voters.len()], count(q))??;
            lowest = Some(lowest.map_or(reached, |l| l.min(reached)));
        }
        lowest
    }

    /// The change that changes nothing, to start from.
    #[must_use]
    pub fn unchanged(&self) -> Change {
        Change {
            base_version: self.version,
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            write_quorum: self.write_quorum,
            preferred: self.preferred,
            failover: self.failover,
        }
    }

    /// The configuration that a change leads to first: joint if it touches voters or W, final at once otherwise.
    #[must_use]
    pub fn changed(&self, change: Change) -> Config {
        let voters = each_once(change.voters);
        let mut learners = each_once(change.learners);
        learners.retain(|m| !voters.iter().any(|v| v.id == m.id));
        let same_quorums = voters.iter().map(|m| m.id).eq(self.voters.iter().map(|m| m.id))
            && change.write_quorum == self.write_quorum
            || bugs::is_on(Bug::ChangeWithoutJoint);
        let outgoing =
            (!same_quorums).then(|| Outgoing { voters: self.voters.clone(), write_quorum: self.write_quorum });
        Config {
            version: self.version + 1,
            voters,
            learners,
            write_quorum: change.write_quorum,
            preferred: change.preferred,
            failover: change.failover,
            formed: self.formed,
            outgoing,
        }
    }

    /// The configuration that ends a joint one.
    #[must_use]
    pub fn finished(&self) -> Config {
        Config { version: self.version + 1, outgoing: None, ..self.clone() }
    }
}

impl Change {
    /// N of the change: how many different voters it names.
    #[must_use]
    pub fn voters_count(&self) -> usize {
        self.voters.iter().map(|m| m.id).collect::<BTreeSet<_>>().len()
    }
}

/// Ordered by id, each node once: a voter named twice would count twice.
fn each_once(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by_key(|m| m.id);
    members.dedup_by_key(|m| m.id);
    members
}

/// The quorum of numbers that were checked when the configuration was made.
fn derive(voters: usize, write: usize) -> Quorum {
    match Quorum::new(voters, write) {
        Ok(quorum) => quorum,
        Err(error) => {
            panic!("a configuration with impossible numbers was let into the log: {error}")
        }
    }
}

/// A configuration shared between log, messages and status.
pub type SharedConfig = Arc<Config>;
