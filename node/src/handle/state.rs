//! What a node knows of itself and its cluster, for whoever looks: put together by `driver/publish.rs` at the end of a
//! turn, read by the faces.

use std::time::Duration;

use quorum::{ClusterId, Index, Member, NodeId, Role, SharedConfig, Term};

/// What a node knows of itself and its cluster, as of the driver's last turn.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// The role.
    pub role: Role,
    /// The term.
    pub term: Term,
    /// The leader, if known and a member.
    pub leader: Option<Member>,
    /// The cluster bound to, if any.
    pub cluster: Option<ClusterId>,
    /// The configuration in force; `None` on a blank node.
    pub config: Option<SharedConfig>,
    /// Whether it is on its way to another, and so takes no further change: joint or, as only a leader
    /// knows, not committed yet.
    pub changing: bool,
    /// Commit index.
    pub commit: Index,
    /// Last index of the log.
    pub last: Index,
    /// Of each other member: as the leader sees it. Empty elsewhere.
    pub peers: Vec<PeerState>,
    /// Whether the node has caught up once since it started.
    pub ready: bool,
    /// Whether it was removed from its cluster.
    pub removed: bool,
    /// Whether writes are refused for lack of disk space.
    pub disk_full: bool,
    /// How many nodes more have to introduce themselves before this one founds a cluster; `None` where it does not.
    pub waits_for: Option<usize>,
}

impl NodeState {
    /// What is known before the driver has said anything.
    pub(super) fn blank() -> NodeState {
        NodeState {
            role: Role::Follower,
            term: Term(0),
            leader: None,
            cluster: None,
            config: None,
            changing: false,
            commit: Index(0),
            last: Index(0),
            peers: Vec::new(),
            ready: false,
            removed: false,
            disk_full: false,
            waits_for: None,
        }
    }
}

/// One other member as the leader sees it.
#[derive(Clone, Debug)]
pub struct PeerState {
    /// Who.
    pub id: NodeId,
    /// The last index it holds durably.
    pub durable: Index,
    /// Since it was last heard from; `None` if never in this reign.
    pub silent_for: Option<Duration>,
    /// Whether that is within an election timeout.
    pub live: bool,
}
