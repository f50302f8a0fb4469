//! Node to node: a framed protocol over TCP between nodes that know each other by the identity of their disks.
//!
//! This module moves bytes between identified nodes. It never looks into the payload of a call, never steps the core,
//! never touches the log, and never blocks the driver: a queue that is full drops its newest message and says so with
//! [`PeerEvent::Unreachable`], which the protocol is made for.
//!
//! Every node dials every member, so a connection carries messages one way only. Two connections ("lanes") lead to each
//! peer: *control* (heartbeats, votes, every reply) and *bulk* (appends, calls and, coming back, the calls' answers).
//! So a heartbeat never waits behind entries, disks or the simulated delay, which all belong to the bulk lane. A
//! snapshot and an introduction have a connection of their own for as long as they take.
//!
//! Before: [`crate::driver`] and [`crate::handle::Forward`], through [`Network`]. After: the driver of another
//! node, through [`PeerEvent`].
//!
//! - [`frame`]: where a message begins and ends; [`wire`]: what it says.
//! - [`handshake`]: who is at the other end, and who is refused.
//! - [`connection`]: a lane from the dialing side: queue, writer, redialing. [`accept`]: the other side.
//! - [`delay`]: the simulated delay. [`snapshot`]: transfers. [`network`]: the handle that ties them together.

mod accept;
#[doc(hidden)]
pub mod bench;
mod connection;
mod delay;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handshake;
mod network;
mod snapshot;
pub(crate) mod stepped;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use quorum::{ClusterId, Index, Member, Message, NodeId, Term};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::storage::Record;

pub use network::{LogSource, Network};
pub use snapshot::{SnapshotSink, SnapshotSource, SnapshotStore};

/// Who this node is to the others.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The identity of its disk.
    pub id: NodeId,
    /// How often the node was started on this disk: of two processes with one id the newer one counts.
    pub incarnation: u64,
    /// The cluster it is bound to, or configured to belong to.
    pub cluster: Option<ClusterId>,
    /// How others reach it.
    pub member: Member,
}

/// Settings and bounds.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// The longest election timeout: a connection on which nothing gets through for twice as long is given up.
    pub election_max: Duration,
    /// Simulated delay of each append with entries: uniform in this range.
    pub delay: (Duration, Duration),
    /// Longest frame taken or sent. Must hold the largest append, call and snapshot chunk.
    pub max_frame_bytes: usize,
    /// Largest payload of one record.
    pub max_record_bytes: usize,
    /// Most bytes that wait for one lane to one peer.
    pub queue_bytes: usize,
    /// Most messages that wait for one lane to one peer.
    pub queue_messages: usize,
    /// Most calls of one peer that are under way here.
    pub calls: usize,
    /// How long a call may take before its outcome is reported as unknown.
    pub call_timeout: Duration,
    /// How long connecting and the exchange of identities may take, together.
    pub handshake_timeout: Duration,
    /// How long a snapshot transfer may go without progress.
    pub snapshot_stall: Duration,
    /// Most connections accepted at once.
    pub connections: usize,
}

impl Default for NetworkOptions {
    fn default() -> NetworkOptions {
        NetworkOptions {
            election_max: Duration::from_secs(1),
            delay: (Duration::ZERO, Duration::ZERO),
            // A value of 1 MiB a thousand times in one command would not fit, and is refused long before.
            max_frame_bytes: 32 << 20,
            max_record_bytes: 31 << 20,
            // Twice the writes that may be under way at once: more than that waiting for one follower is
            // a follower that is gone.
            queue_bytes: 128 << 20,
            queue_messages: 65_536,
            calls: 16_384,
            call_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(2),
            snapshot_stall: Duration::from_secs(10),
            // Three lanes from each of a few nodes, their predecessors that are not yet noticed
            // to be gone, and newcomers.
            connections: 256,
        }
    }
}

/// The records that go with a message.
#[derive(Clone, Debug)]
pub enum Records {
    /// None: anything but an append with entries.
    None,
    /// Framed records in order; each piece may hold several.
    Cached(Vec<Bytes>),
    /// To be read from the log when their turn has come. The bounds are handed to [`LogSource::read`] as they are.
    FromLog {
        /// The first.
        from: Index,
        /// The last.
        to: Index,
        /// Their size together.
        bytes: usize,
    },
}

/// What arrives. `I` is what a received snapshot becomes: see [`SnapshotSink::finish`].
#[derive(Debug)]
pub enum PeerEvent<I> {
    /// A message of the protocol, with the records of its entries.
    Message {
        /// The sender, as the handshake established it.
        from: NodeId,
        /// The cluster it belongs to; the one to bind to, for a node that stores its first configuration.
        cluster: Option<ClusterId>,
        /// What it says.
        message: Message,
        /// One for each entry of an append.
        records: Vec<Record>,
    },
    /// A connection to it broke or overflowed: what was under way may be lost.
    Unreachable {
        /// The peer.
        peer: NodeId,
    },
    /// It asks for something that this module does not look into.
    Call {
        /// Who asks.
        from: NodeId,
        /// What.
        body: Bytes,
        /// Where the answer goes; dropping it tells the caller that the outcome is unknown.
        reply: oneshot::Sender<Bytes>,
    },
    /// A node that is no member yet says that it is there.
    Introduced {
        /// It.
        member: Member,
        /// Whether its disk is empty.
        blank: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Welcome>,
    },
    /// A snapshot was received in full and is durable.
    Snapshot {
        /// The leader that sent it.
        from: NodeId,
        /// That leader's term.
        term: Term,
        /// The cluster it belongs to.
        cluster: Option<ClusterId>,
        /// What was received.
        imported: I,
        /// To be told whether it was installed.
        done: oneshot::Sender<bool>,
    },
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It never left this node, for lack of a connection, or since no frame may be as large: certain.
    #[error("there is no connection to the other node")]
    NotSent,
    /// Too many requests are under way, here or at the other node, which did not take it: certain.
    #[error("too many requests to the other node are under way")]
    Refused,
    /// The connection broke, or the other node dropped the request: the outcome is unknown.
    #[error("the connection was lost while the request was under way")]
    Lost,
    /// No answer in time: the outcome is unknown.
    #[error("the other node did not answer in time")]
    Timeout,
}

/// What a node says of itself to a cluster it would join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The node.
    pub member: Member,
    /// Whether its disk is empty.
    pub blank: bool,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The cluster of the node that answers.
    pub cluster: Option<ClusterId>,
    /// Whether the newcomer was taken note of.
    pub accepted: bool,
    /// `host:port` of the leader's peer address, if another node leads: introduce yourself there.
    pub leader_peer: Option<String>,
    /// For a person.
    pub message: String,
}

/// Why an introduction failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntroduceError {
    /// Nobody answers there, or not in time.
    #[error("no node could be reached at {address}: {why}")]
    Unreachable {
        /// As given.
        address: String,
        /// What went wrong.
        why: String,
    },
    /// The node there does not want to talk to this one.
    #[error("the node at {address} refused: {why}")]
    Refused {
        /// As given.
        address: String,
        /// Its reason.
        why: String,
    },
}
