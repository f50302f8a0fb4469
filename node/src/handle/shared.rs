//! What a node's driver, its faces and whoever else has a [`super::Handle`] see alike: made once, at the start.
//!
//! Before: `node` and `stepped`, which begin it. After: `handle`, which asks through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use quorum::{Index, Member};
use tokio::sync::{Notify, mpsc, watch};

use super::intake::Intake;
use super::{Ask, Forward, NodeState, WriteAsk};
use crate::kv::Store;
use crate::metrics::Metrics;
use crate::options::NodeOptions;

/// What is shared by every clone of a [`super::Handle`].
pub(crate) struct Shared {
    pub options: NodeOptions,
    pub incarnation: u64,
    /// This node as it is now; the configuration may know it elsewhere for a moment.
    pub me: Member,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub state: ArcSwap<NodeState>,
    pub applied: watch::Receiver<Index>,
    pub asks: mpsc::Sender<Ask>,
    pub writes: mpsc::Sender<WriteAsk>,
    pub forward: Arc<dyn Forward>,
    pub intake: Arc<Intake>,
    pub stop: watch::Sender<bool>,
    /// Whether the whole cluster is going down.
    pub no_heir: AtomicBool,
    pub pause: Pause,
}

/// The driver's ends of what it is asked. Writes have a queue of their own: they may have to wait for those before them,
/// while a read or a change need not.
pub(crate) struct Asked {
    pub asks: mpsc::Receiver<Ask>,
    pub writes: mpsc::Receiver<WriteAsk>,
}

impl Shared {
    /// The cluster's id, for the log; empty on a node that belongs to none.
    pub(crate) fn cluster(&self) -> String {
        self.state.load().cluster.map(|id| id.to_string()).unwrap_or_default()
    }

    /// What a node shares from its start on, and the driver's ends of it: what it is asked, and where
    /// it tells what is applied.
    pub(crate) fn begin(
        options: NodeOptions,
        me: Member,
        incarnation: u64,
        store: Store,
        metrics: Arc<Metrics>,
        forward: Arc<dyn Forward>,
    ) -> (Arc<Shared>, Asked, watch::Sender<Index>) {
        let (asks, asked) = mpsc::channel(options.limits.in_flight_writes);
        let (writes, written) = mpsc::channel(options.limits.in_flight_writes);
        let (applied_tx, applied) = watch::channel(store.applied().index);
        let shared = Shared {
            intake: Intake::new(&options.limits),
            options,
            incarnation,
            me,
            store,
            metrics,
            state: ArcSwap::from_pointee(NodeState::blank()),
            applied,
            asks,
            writes,
            forward,
            stop: watch::channel(false).0,
            no_heir: AtomicBool::new(false),
            pause: Pause::default(),
        };
        (Arc::new(shared), Asked { asks: asked, writes: written }, applied_tx)
    }
}

/// Whether the node is held still. Its driver takes no further turn and its faces answer nothing, while connections
/// stay open and what arrives waits in the sockets: to the others it looks like a process that was stopped with
/// SIGSTOP, though it shares its own with them (`quorate local`).
#[derive(Debug, Default)]
pub(crate) struct Pause {
    on: AtomicBool,
    changed: Notify,
}

impl Pause {
    pub(super) fn hold(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Resolves when the node may go on: at once, if it is not held.
    pub(crate) async fn over(&self) {
        // An atomic alone in the ordinary course: every turn and every request passes here.
        while self.on.load(Ordering::Relaxed) {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.on.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }
}
