//! What a driver needs of the world around it, besides the log and the store: other nodes, work that waits for a disk,
//! and ids nobody else has.
//!
//! In a node that is the network and the runtime's threads ([`Real`]); a simulator has a world of its own, in which
//! nothing happens by itself.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use quorum::{ClusterId, Index, Member, Message, NodeId, Term};

use crate::kv::Store;
use crate::peer::{Network, Records};
use crate::storage::{Disk, RealDisk};

/// Told how sending a snapshot ended: its last index, if it was received in full.
pub type SnapshotEnd = Box<dyn FnOnce(Option<Index>) + Send>;

/// See the module's description. Nothing here may block.
pub trait World: Send + Sync {
    /// Sends a message of the protocol, or loses it.
    fn send(&self, to: NodeId, message: Message, records: Records);
    /// Who the other members are.
    fn set_members(&self, members: &[Member]);
    /// A node says where it is: a member that moved, or one that is no member and is to hear why.
    fn met(&self, member: &Member);
    /// From now on only this cluster.
    fn bind(&self, cluster: ClusterId);
    /// The term this node leads: said before anything is truncated.
    fn set_leading(&self, term: Option<Term>);
    /// Streams the store's state to another node.
    fn send_snapshot(&self, to: NodeId, term: Term, store: &Store, done: SnapshotEnd);
    /// Has work done that waits for a disk.
    fn elsewhere(&self, work: Box<dyn FnOnce() + Send>);
    /// Bytes free where the folder lives.
    ///
    /// # Errors
    /// The system's.
    fn free_space(&self, folder: &Path) -> io::Result<u64>;
    /// An id nobody else has.
    fn draw_id(&self) -> u128;
    /// The clock on the wall, in milliseconds since 1970: put into entries, and never believed to go forward.
    fn unix_millis(&self) -> u64;
    /// The first of these nodes that has not said that it understands commands of this generation.
    fn behind(&self, generation: u16, nodes: &[NodeId]) -> Option<NodeId>;
    /// From now on no node that does not understand them.
    fn require(&self, generation: u16);
}

/// The world of a node in a process of its own.
pub(crate) struct Real(pub(crate) Network);

impl World for Real {
    fn send(&self, to: NodeId, message: Message, records: Records) {
        self.0.send(to, message, records);
    }

    fn set_members(&self, members: &[Member]) {
        self.0.set_members(members);
    }

    fn met(&self, member: &Member) {
        self.0.met(member);
    }

    fn bind(&self, cluster: ClusterId) {
        self.0.bind(cluster);
    }

    fn set_leading(&self, term: Option<Term>) {
        self.0.set_leading(term);
    }

    fn send_snapshot(&self, to: NodeId, term: Term, store: &Store, done: SnapshotEnd) {
        let (network, store) = (self.0.clone(), store.clone());
        tokio::spawn(async move {
            let exported = tokio::task::spawn_blocking(move || store.export()).await;
            let last = match exported {
                Ok(Ok(export)) => match network.send_snapshot(to, term, export).await {
                    Ok(Ok(last)) => Some(last),
                    Ok(Err(error)) => {
                        tracing::warn!(peer = %to, error, "sending a snapshot failed; it will be tried again");
                        None
                    }
                    Err(_) => None,
                },
                Ok(Err(error)) => {
                    tracing::warn!(peer = %to, %error, "exporting a snapshot failed; it will be tried again");
                    None
                }
                Err(_) => None,
            };
            done(last);
        });
    }

    fn elsewhere(&self, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }

    fn free_space(&self, folder: &Path) -> io::Result<u64> {
        RealDisk.free_space(folder)
    }

    fn draw_id(&self) -> u128 {
        RealDisk.draw_id()
    }

    fn unix_millis(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn behind(&self, generation: u16, nodes: &[NodeId]) -> Option<NodeId> {
        self.0.behind(generation, nodes)
    }

    fn require(&self, generation: u16) {
        self.0.require(generation);
    }
}
