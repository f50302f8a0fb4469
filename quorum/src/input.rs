//! What can happen to a replica: the only ways in.
//!
//! The host calls [`Replica::step`](crate::Replica::step) with one of these and the time, and carries out the
//! [effects](crate::Effect) in order. Same inputs, same effects: a simulator drives the very same core.

use crate::config::{Change, Config};
use crate::message::Message;
use crate::types::{Index, NodeId, Position, Term, Token};

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Time passed. Due every few milliseconds: deadlines are checked here and nowhere else.
    Tick,
    /// A message arrived. The records of an append's entries stay with the host until the write that follows from it.
    Receive {
        /// Who sent it, as the transport authenticated it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Clients want commands appended: one per element, in this order, each with the bytes its record will take.
    Propose {
        /// Sizes of the records.
        sizes: Vec<u32>,
    },
    /// Someone wants another configuration.
    ChangeConfig(Box<Change>),
    /// Everything asked to be made durable up to and including this token is durable.
    Persisted {
        /// The highest token done.
        token: Token,
    },
    /// A linearizable read wants to know from which commit index on it may be served.
    Read {
        /// The host's name for it.
        id: u64,
    },
    /// Leadership is to be handed to another voter.
    Transfer {
        /// The leader to be; `None` leaves the choice to the core (the most caught-up voter).
        to: Option<NodeId>,
        /// Whether a person asked for it: leadership is then not handed back to the preferred node by itself. A node
        /// that is going down says no.
        by_hand: bool,
    },
    /// Campaign now: how a failover is done by hand.
    Campaign,
    /// Found a cluster: only on a blank replica that was told to.
    Form(Box<Config>),
    /// A snapshot was received in full and is durable, ready to replace the state.
    SnapshotReceived {
        /// The leader that sent it.
        from: NodeId,
        /// That leader's term.
        term: Term,
        /// The last entry the snapshot covers.
        last: Position,
        /// The configuration in force there.
        config: Box<Config>,
    },
    /// Sending a snapshot ended.
    SnapshotSent {
        /// Its receiver.
        to: NodeId,
        /// Its last index, if it was received in full.
        last: Option<Index>,
    },
    /// The state up to here is durable without the log: the core may forget the entries.
    Compacted {
        /// The last index that is no longer needed.
        upto: Index,
    },
    /// A node that is no member says that it is here, and has a log of this cluster: it may not know
    /// yet that it was removed.
    Stray {
        /// The node.
        peer: NodeId,
    },
    /// The connection to a peer broke: what was under way to it may be lost.
    Unreachable {
        /// The peer.
        peer: NodeId,
    },
}
