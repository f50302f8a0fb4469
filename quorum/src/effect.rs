//! What a replica wants done: the only ways out.
//!
//! The host's duties:
//!
//! 1. Carry out the effects of a step in order, and before the next step.
//! 2. Make [`SaveVote`](Effect::SaveVote), [`Write`](Effect::Write) and [`InstallSnapshot`](Effect::InstallSnapshot)
//!    durable in the order given, and report it with [`Input::Persisted`](crate::Input::Persisted). It may go on
//!    stepping meanwhile: messages that promise durability are held back here, not by the host.
//! 3. Apply entries up to [`Commit`](Effect::Commit) in order; answer clients at [`Acknowledge`](Effect::Acknowledge).
//! 4. Stop the process when a write or fsync fails. Never retry it.

use crate::config::SharedConfig;
use crate::message::{Head, Message};
use crate::types::{Index, NodeId, Position, Role, Term, Token};

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make term and vote durable.
    SaveVote {
        /// What to report when it is.
        token: Token,
        /// The current term.
        term: Term,
        /// Who got this node's vote in it.
        voted_for: Option<NodeId>,
    },
    /// Write entries behind index `first − 1`, dropping whatever the log holds from `first` on. Their records come from
    /// the proposals or the message of this very step, in order; those of [`Kind::Empty`](crate::Kind) and
    /// [`Kind::Config`](crate::Kind) the host frames itself.
    Write {
        /// What to report when it is durable.
        token: Token,
        /// The index of the first entry.
        first: Index,
        /// What the entries are.
        entries: Vec<Head>,
    },
    /// Replace state and log by the snapshot last reported received.
    InstallSnapshot {
        /// What to report when it is durable.
        token: Token,
        /// The last entry it covers.
        last: Position,
    },
    /// Send a message; with an append, send the records of its entries along.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Stream a snapshot of the applied state to a node that needs entries the log no longer has.
    SendSnapshot {
        /// To whom.
        to: NodeId,
    },
    /// Entries up to here are committed: apply them.
    Commit {
        /// The commit index.
        index: Index,
    },
    /// W durable copies hold every entry up to here: clients may be told.
    Acknowledge {
        /// The acknowledged index, never above the commit index.
        index: Index,
    },
    /// The proposals of this step were not appended, for certain.
    Refuse(Refusal),
    /// A read may be served once this much is applied.
    ReadReady {
        /// The read.
        id: u64,
        /// The commit index it must see.
        index: Index,
    },
    /// A read cannot be confirmed here.
    ReadRefused {
        /// The read.
        id: u64,
        /// Why.
        why: Refusal,
    },
    /// Role, term or leader changed.
    Became {
        /// The role now.
        role: Role,
        /// The term now.
        term: Term,
        /// The leader now, as far as known.
        leader: Option<NodeId>,
    },
    /// Another configuration is in force in this log.
    Reconfigured {
        /// It.
        config: SharedConfig,
    },
    /// The disk has lost entries that this node had confirmed to be durable: it is to become a new node, and to
    /// be given no time to vote.
    Forgot {
        /// What it had confirmed, at least.
        confirmed: Index,
    },
    /// A committed configuration says that this node was removed: its data is to be set aside.
    SetAside,
}

/// Why something was refused before it had any effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This replica does not lead (or is handing leadership over).
    #[error("this node does not lead")]
    NotLeader,
    /// The cluster's first configuration is not yet held by every node.
    #[error("the cluster is still forming: not every node holds its first configuration")]
    Forming,
    /// Fewer than W voters are in contact.
    #[error("{live} of the {needed} copies needed are in contact")]
    NoQuorum {
        /// Voters in contact, this node included.
        live: usize,
        /// W.
        needed: usize,
    },
    /// A change was derived from another version than the one in force.
    #[error("the configuration is at version {0} now")]
    VersionMismatch(u64),
    /// A change is under way, or this leader has not yet committed an entry of its own.
    #[error("another change is under way")]
    ChangeInFlight,
    /// The change asks for impossible numbers.
    #[error(transparent)]
    Impossible(#[from] crate::quorum::QuorumError),
    /// A voter to be is not a caught-up learner yet.
    #[error("node {0} has not caught up yet")]
    NotCaughtUp(NodeId),
    /// The node named is not a voter (or is the leader already).
    #[error("node {0} cannot take over leadership")]
    NoSuchVoter(NodeId),
    /// The replica holds a log already.
    #[error("this node belongs to a cluster already")]
    NotBlank,
    /// As many reads wait to be confirmed as may.
    #[error("too many reads wait already")]
    TooManyReads,
}
