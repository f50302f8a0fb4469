//! What replicas say to each other.
//!
//! A message carries no payload of commands: an [`Append`](Body::Append) lists the *heads* of its entries, and the host
//! sends their records along (the very bytes that its log holds). Whatever promises durability was held back by the
//! sender's core until its disk had it.

use crate::config::SharedConfig;
use crate::types::{Index, Position, Term};

/// What an entry is, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The term it was written in.
    pub term: Term,
    /// What it carries.
    pub kind: Kind,
    /// The bytes its record takes in the log and on the wire: what flow control counts.
    pub bytes: u32,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: a leader's first entry, through which the entries of earlier terms commit.
    Empty,
    /// A command of the host's, opaque here.
    Command,
    /// A configuration, in force as soon as it is in the log.
    Config(SharedConfig),
}

/// A message from one replica to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's term (of a pre-vote: the term it would campaign in).
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// "Would you vote for me?" Changes nothing at the receiver, so that a node that was cut off
    /// does not disturb the others.
    PreVote {
        /// The end of the sender's log.
        last: Position,
    },
    /// The answer to [`Body::PreVote`], in the term asked for if granted and in the voter's own if not.
    PreVoteReply {
        /// Whether the sender would vote so.
        granted: bool,
    },
    /// "Vote for me." The sender's own vote is durable.
    Vote {
        /// The end of the sender's log.
        last: Position,
        /// Whether the leader itself asked for this election, so that hearing from it is no reason to refuse.
        transfer: bool,
    },
    /// The answer to [`Body::Vote`]; a granted vote is durable.
    VoteReply {
        /// Whether the sender voted so.
        granted: bool,
    },
    /// Entries for the receiver's log, right behind `prev`.
    Append {
        /// What precedes the entries in the leader's log.
        prev: Position,
        /// The entries' heads, in order; their records travel beside the message.
        entries: Vec<Head>,
        /// The leader's commit index.
        commit: Index,
    },
    /// The receiver's log agrees with the leader's up to here, and its disk holds it.
    Appended {
        /// The last index that agrees and is durable.
        durable: Index,
    },
    /// The receiver's log does not have `prev`.
    Rejected {
        /// The index of the `prev` that did not fit.
        prev: Index,
        /// The latest place where the two logs may still agree.
        hint: Position,
    },
    /// "I lead." Never waits behind entries, disks or simulated delays.
    Heartbeat {
        /// Numbers the rounds of a term: what is answered confirms leadership as of the round's start.
        round: u64,
        /// The commit index, as far as the receiver is known to agree with the leader.
        commit: Index,
    },
    /// "You lead, as far as I know."
    HeartbeatReply {
        /// The round answered; 0 answers a leader of a past term, and confirms nothing.
        round: u64,
    },
    /// "Campaign at once": leadership is handed over.
    TransferNow {
        /// Whether a person asked for it: the new leader then does not hand leadership back to the preferred node.
        by_hand: bool,
    },
}
