//! What writes, reads and changes may ask for, and how each may end: one enum of errors per operation, which the faces
//! turn into their own codes and `forward` takes across to another node.

use quorum::{Member, Refusal};

use crate::kv::Outcome;

/// How a write is to be done.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// Durable copies to wait for, if more than W.
    pub copies: Option<usize>,
    /// Whether a follower passes the write on to the leader.
    pub forward: bool,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { copies: None, forward: true }
    }
}

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Written {
    /// What the command led to.
    pub outcome: Outcome,
    /// The log index of the command: the revision of what it wrote.
    pub revision: u64,
    /// The term it was written in.
    pub term: u64,
    /// The voters that held it durably when it was acknowledged. The leader counts like any other: as
    /// soon as its own disk has it.
    pub copies: usize,
    /// How many of them were followers: all, or all but the leader. Of a write that was passed on only the copies are
    /// told, and this is at least how many.
    #[serde(skip)]
    pub followers: usize,
    /// Whether it was done before, at that revision, under the same idempotency key. Told between nodes by `forward`,
    /// apart from the rest: a version without it reads the rest alike.
    #[serde(skip)]
    pub repeated: bool,
}

/// Why a write has no acknowledgement. All but [`WriteError::Unknown`] are certain: nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum WriteError {
    /// No leader is known (or it was lost before it took the write).
    #[error("no leader is known at the moment: try again")]
    NoLeader,
    /// This node does not lead and was asked not to forward.
    #[error("this node does not lead{}", .leader.as_ref().map(|m| format!(": ask {}", m.http)).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// The cluster's first configuration is not held by every node yet.
    #[error("the cluster is still forming: not every node has joined")]
    Forming,
    /// Fewer than W voters are in contact with the leader.
    #[error("{live} of the {needed} copies that a write needs are in contact with the leader")]
    NoQuorum {
        /// In contact, the leader included.
        live: usize,
        /// W, or the copies asked for.
        needed: usize,
    },
    /// A queue is full, here or on the way to the leader.
    #[error("too many writes are under way: try again in a moment")]
    Overloaded,
    /// The disk is nearly full.
    #[error("the disk is nearly full: deletes are still taken")]
    NoSpace,
    /// More copies were asked for than there are.
    #[error("{wanted} copies were asked for, there are {voters}")]
    TooManyCopies {
        /// As asked for.
        wanted: usize,
        /// N.
        voters: usize,
    },
    /// The node is stopping.
    #[error("this node is stopping")]
    Stopping,
    /// The leader does not take such a command: it cannot read it, or it is beyond its limits.
    #[error("the leader does not take this: {0}")]
    NotTaken(String),
    /// W copies were not confirmed, and it may have been appended: whether it happened is not known.
    #[error("the write was not confirmed ({0}): it may or may not take effect")]
    Unknown(String),
    /// This node belongs to no cluster yet.
    #[error("this node belongs to no cluster yet: it waits {}", match .waits_for {
        Some(1) => "for 1 more node".to_owned(),
        Some(n) => format!("for {n} more nodes"),
        None => "to be taken into one".to_owned(),
    })]
    NotFormed {
        /// How many nodes it waits for, if it is to found the cluster.
        waits_for: Option<usize>,
    },
    /// Some member may not know such a command yet.
    #[error(
        "idempotency keys can be used once every node of the cluster knows them: {behind} runs an earlier version, \
         or has not been heard of since the leader started"
    )]
    MixedVersions {
        /// Its name.
        behind: String,
    },
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write acknowledged before the read began.
    #[default]
    Linearizable,
    /// Sees whatever this node has applied.
    Local,
}

/// Why a read cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum ReadError {
    /// No leader is known that could confirm the read.
    #[error("no leader is known at the moment: try again, or read with consistency=local")]
    NoLeader,
    /// This node does not lead and was asked not to go to the leader.
    #[error("this node does not lead{}", .leader.as_ref().map(|m| format!(": ask {}", m.http)).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// The leader could not confirm in time that it still leads, or this node did not catch up in time.
    #[error("the read could not be confirmed in time: try again, or read with consistency=local")]
    Timeout,
    /// Too many reads wait.
    #[error("too many reads are under way: try again in a moment")]
    Overloaded,
    /// The node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

/// Why a change of configuration or leadership was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum ChangeError {
    /// No leader is known.
    #[error("no leader is known at the moment: try again")]
    NoLeader,
    /// The version given is not the one in force.
    #[error("the configuration is at version {0} now: read it again and repeat the change")]
    VersionMismatch(u64),
    /// The change is not possible; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The outcome is not known: leadership or time was lost on the way.
    #[error("the outcome of the change is unknown ({0}): read the configuration again")]
    Unknown(String),
}

impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> WriteError {
        match refusal {
            Refusal::Forming => WriteError::Forming,
            Refusal::NoQuorum { live, needed } => WriteError::NoQuorum { live, needed },
            _ => WriteError::NoLeader,
        }
    }
}
