//! A node without threads, sockets or a clock: whoever holds it says what time it is, what has arrived,
//! and when the disk is done.
//!
//! It is the node itself: its driver, its log and recovery, its store on an engine in memory. A simulator puts a disk,
//! a [`World`] and other nodes around it. The product does not use this.
//!
//! Before: the simulator. After: [`crate::driver`], [`crate::storage`], [`crate::kv`].

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorum::{Change, Index, Member, NodeId, Replica};
use tokio::sync::{mpsc, oneshot};

pub use crate::driver::world::{SnapshotEnd, World};
pub use crate::node::{Ended, StartError};
pub use crate::peer::stepped::{Arrival, decode_message, encode_message};

use crate::driver::{Parts, Stepped};
use crate::forward::Call;
use crate::handle::{ChangeError, Forward, Handle, NodeState, ReadError, Shared, WriteError, Written};
use crate::join::Rounds;
use crate::kv::{Command, Imported, MemoryHome, Store};
use crate::metrics::Metrics;
use crate::opening::{OnDisk, Recovery};
use crate::options::NodeOptions;
use crate::peer::PeerEvent;
use crate::storage::{Aside, Disk, LogReader, Turns, Wal, WalEvent};

/// Where an answer will be.
pub type Answer<T, E> = oneshot::Receiver<Result<T, E>>;

/// What a node is started on.
pub struct Grounds {
    /// Its disk.
    pub disk: Arc<dyn Disk>,
    /// Its engine.
    pub engine: MemoryHome,
    /// The size of the pieces in which the store is drained.
    pub piece_bytes: usize,
    /// Everything else around it.
    pub world: Arc<dyn World>,
    /// Shared by as many nodes as one likes.
    pub metrics: Arc<Metrics>,
}

/// See the module's description.
pub struct Machine {
    driver: Stepped,
    handle: Handle,
    turns: Turns,
    wal_events: mpsc::UnboundedSender<WalEvent>,
    peer_events: mpsc::Sender<PeerEvent<Imported>>,
    reader: LogReader,
    me: Member,
    rounds: Rounds,
    known_peers: Vec<String>,
    /// Kept open, or the driver would find its queue of calls closed.
    _calls: mpsc::UnboundedReceiver<Call>,
}

/// Nobody is forwarded to: a simulator carries requests to the leader itself.
struct Nowhere;

impl Forward for Nowhere {
    fn write(&self, _: NodeId, _: Bytes, _: Option<usize>) -> oneshot::Receiver<Result<Written, WriteError>> {
        oneshot::channel().1
    }

    fn barrier(&self, _: NodeId) -> oneshot::Receiver<Result<Index, ReadError>> {
        oneshot::channel().1
    }

    fn peer_address(&self, _: NodeId) -> Option<String> {
        None
    }

    fn set_delay(&self, _: (Duration, Duration)) {}
}

/// Room for more than a simulator ever puts in between two turns.
const QUEUE: usize = 4_096;

/// The file that says that the store's folder is this engine's: set aside with the folder, it leaves
/// a node without an engine.
const MARK: &str = "engine";

fn open_store(grounds: &Grounds, options: &NodeOptions, dir: &Path) -> Result<Store, crate::kv::StoreError> {
    let io = |doing: &'static str| {
        move |source| crate::kv::StoreError::from(crate::kv::EngineError::File { doing, path: MARK.into(), source })
    };
    if grounds.disk.open(&dir.join(MARK)).is_err() {
        grounds.engine.wipe();
        grounds.disk.create_folder(dir).map_err(io("make"))?;
        let mark = grounds.disk.create(&dir.join(MARK)).map_err(io("make"))?;
        mark.write_at(MARK.as_bytes(), 0).and_then(|()| mark.sync_data()).map_err(io("write"))?;
        grounds.disk.sync_folder(dir).map_err(io("sync"))?;
    }
    Ok(Store::stepped(&grounds.engine, &options.limits, grounds.piece_bytes))
}

impl Machine {
    /// Brings a node up on what its disk holds. `place` makes the member of the identity found there.
    ///
    /// # Errors
    /// When the disk cannot be used.
    pub fn start(
        options: NodeOptions,
        grounds: &Grounds,
        place: impl FnOnce(NodeId) -> Member,
        now: Instant,
    ) -> Result<Machine, StartError> {
        let disk = OnDisk::open(&grounds.disk, &options, &|dir: &Path| open_store(grounds, &options, dir))?;
        let recovery = disk.recover(&*grounds.disk, &options);
        let Recovery { meta, vote, log, store, replica, cluster, bound, may_form, known_peers, id, incarnation } =
            recovery;
        let me = place(id);
        let (wal_tx, wal_events) = mpsc::unbounded_channel();
        let (wal, turns) = Wal::detached(log, vote, grounds.metrics.clone());
        let reader = wal.reader();
        let (peer_tx, peers) = mpsc::channel(QUEUE);
        let (shared, asked, applied) =
            Shared::begin(options, me.clone(), incarnation, store, grounds.metrics.clone(), Arc::new(Nowhere));
        let handle = Handle { shared: shared.clone() };
        let (calls_tx, calls) = mpsc::unbounded_channel();
        let parts = Parts {
            replica,
            me: me.clone(),
            cluster,
            bound,
            may_form,
            data_dir: shared.options.data_dir.clone(),
            meta: Arc::new(Mutex::new(meta)),
            wal,
            log: reader.clone(),
            world: grounds.world.clone(),
            applied,
            asked,
            peers,
            wal_events,
            calls: calls_tx,
            shared,
        };
        Ok(Machine {
            driver: Stepped::new(parts, now),
            handle,
            turns,
            wal_events: wal_tx,
            peer_events: peer_tx,
            reader,
            me,
            rounds: Rounds::default(),
            known_peers,
            _calls: calls,
        })
    }

    /// Something arrived from another node, to be looked at in the next turn. `false` if there was no room.
    pub fn arrive(&mut self, event: PeerEvent<Imported>) -> bool {
        self.peer_events.try_send(event).is_ok()
    }

    /// One turn of the driver. Why the node ended, if it did: it is not to be touched any more then, but dropped.
    pub fn turn(&mut self, now: Instant, ticks: bool) -> Option<Ended> {
        self.driver.turn(now, ticks)
    }

    /// Begins a turn of the log if anything is to be written, and says whether. It is done, at the earliest, with
    /// [`Machine::finish_wal`].
    pub fn begin_wal(&mut self) -> bool {
        self.turns.begin()
    }

    /// The turn of the log that was begun; for looking at what it writes.
    #[must_use]
    pub fn wal(&mut self) -> &mut Turns {
        &mut self.turns
    }

    /// Carries out the log's turn. The next one may begin before the driver hears of this one, by
    /// [`Machine::report_wal`].
    #[must_use]
    pub fn finish_wal(&mut self) -> Option<WalEvent> {
        self.turns.finish()
    }

    /// What the log reports, to be looked at in the driver's next turn.
    pub fn report_wal(&mut self, event: WalEvent) {
        drop(self.wal_events.send(event));
    }

    /// A client's write to this node as the leader, or one that another node passed on.
    #[must_use]
    pub fn write(&self, command: &Command, copies: Option<usize>, now: Instant) -> Answer<Written, WriteError> {
        self.handle.submit_at(command, copies, now)
    }

    /// A question of the leader: from which index on may a linearizable read be served?
    ///
    /// # Errors
    /// When it cannot even be asked.
    pub fn barrier(&self) -> Result<Answer<Index, ReadError>, ReadError> {
        self.handle.enqueue_barrier()
    }

    /// Asks for another configuration.
    #[must_use]
    pub fn change(&self, change: Change) -> Answer<u64, ChangeError> {
        self.handle.ask_change(change)
    }

    /// Asks for leadership to be handed over.
    #[must_use]
    pub fn transfer(&self, to: Option<NodeId>) -> Answer<(), ChangeError> {
        self.handle.ask_transfer(to)
    }

    /// Tells the node to campaign.
    #[must_use]
    pub fn campaign(&self) -> Answer<(), ChangeError> {
        self.handle.ask_campaign()
    }

    /// The node is to go down in good order.
    pub fn leave(&self) {
        self.handle.request_stop();
    }

    /// Its protocol state.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        self.driver.replica()
    }

    /// Its data.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.handle.store()
    }

    /// How far the state is applied, as readers see it.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.handle.applied()
    }

    /// What its faces would see.
    #[must_use]
    pub fn state(&self) -> Arc<NodeState> {
        self.handle.state()
    }

    /// Whether it has to introduce itself to its cluster now; to be asked twice a second.
    #[must_use]
    pub fn must_introduce(&mut self) -> bool {
        self.rounds.must_introduce(&self.handle.state(), &self.me)
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &LogReader {
        &self.reader
    }

    /// How the others know it.
    #[must_use]
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// How often it was started on this disk.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.handle.incarnation()
    }

    /// Where the others were when it last ran.
    #[must_use]
    pub fn known_peers(&self) -> &[String] {
        &self.known_peers
    }
}

/// What the process that runs a node does with the folder after the node has ended: see [`crate::node::Node::stop`].
pub fn tidy(disk: &dyn Disk, dir: &Path, why: &Ended) {
    // What fails here is tried again by whoever starts the node.
    match why {
        Ended::Removed { .. } => drop(crate::storage::set_aside(disk, dir, Aside::Removed)),
        Ended::Forgot { .. } => drop(crate::storage::renounce(disk, dir)),
        Ended::Asked | Ended::Failed(_) => {}
    }
}
