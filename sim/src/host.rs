//! One machine: a disk, an engine, a clock, and at most one process with a node in it; and what that
//! process asks of the world.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate::handle::{ChangeError, ReadError, WriteError, Written};
use quorate::kv::{MemoryHome, Store};
use quorate::peer::{Records, Welcome};
use quorate::stepped::{Answer, Machine, SnapshotEnd, World};
use quorate::storage::memory::MemoryDisk;
use quorate::storage::{Disk, Preparation, WalEvent};
use quorum::{ClusterId, Index, Member, Message, NodeId, Term};
use tokio::sync::oneshot;

use crate::dice::Dice;
use crate::invariants::Durable;

/// What a process asked for in a turn, in order.
pub enum Out {
    /// Send this.
    Send(NodeId, Message, Records),
    /// Who belongs to the cluster.
    Members(Vec<Member>),
    /// Send a snapshot of the store.
    Snapshot(NodeId, Term, Store, SnapshotEnd),
    /// Do this when the disk has time.
    Work(Box<dyn FnOnce() + Send>),
}

#[derive(Default)]
struct Asked {
    outs: Vec<Out>,
    cluster: Option<ClusterId>,
    leading: Option<Term>,
}

/// The world of one process: it only takes note.
pub struct SimWorld {
    asked: Mutex<Asked>,
    disk: MemoryDisk,
}

impl SimWorld {
    /// A world for a process on this disk.
    #[must_use]
    pub fn new(disk: MemoryDisk) -> Arc<SimWorld> {
        Arc::new(SimWorld { asked: Mutex::default(), disk })
    }

    /// What was asked since last time.
    #[must_use]
    pub fn take(&self) -> Vec<Out> {
        std::mem::take(&mut self.asked.lock().outs)
    }

    /// The term the process says it leads.
    #[must_use]
    pub fn leading(&self) -> Option<Term> {
        self.asked.lock().leading
    }

    fn ask(&self, out: Out) {
        self.asked.lock().outs.push(out);
    }
}

impl World for SimWorld {
    fn send(&self, to: NodeId, message: Message, records: Records) {
        self.ask(Out::Send(to, message, records));
    }

    fn set_members(&self, members: &[Member]) {
        self.ask(Out::Members(members.to_vec()));
    }

    fn met(&self, member: &Member) {
        self.ask(Out::Members(vec![member.clone()]));
    }

    fn bind(&self, cluster: ClusterId) {
        self.asked.lock().cluster = Some(cluster);
    }

    fn set_leading(&self, term: Option<Term>) {
        self.asked.lock().leading = term;
    }

    fn send_snapshot(&self, to: NodeId, term: Term, store: &Store, done: SnapshotEnd) {
        self.ask(Out::Snapshot(to, term, store.clone(), done));
    }

    fn elsewhere(&self, work: Box<dyn FnOnce() + Send>) {
        self.ask(Out::Work(work));
    }

    fn free_space(&self, folder: &Path) -> io::Result<u64> {
        self.disk.free_space(folder)
    }

    fn draw_id(&self) -> u128 {
        self.disk.draw_id()
    }

    /// Nothing grows old: what a leader stamps is what the client sent, so that entries can be
    /// compared with what was asked.
    fn unix_millis(&self) -> u64 {
        0
    }

    fn behind(&self, _: u16, _: &[NodeId]) -> Option<NodeId> {
        None
    }

    fn require(&self, _: u16) {}
}

/// Something that a process owes an answer to.
pub enum Wait {
    /// A write of an operation; with the host the answer goes back to, if it was passed on.
    Write(u64, Option<usize>, Answer<Written, WriteError>),
    /// The index for a read.
    Barrier(u64, Option<usize>, Answer<Index, ReadError>),
    /// A read that waits for this much to be applied.
    Read(u64, u64),
    /// A change of the configuration.
    Change(Answer<u64, ChangeError>),
    /// A change of leadership.
    Leadership(Answer<(), ChangeError>),
    /// An introduction of the node at a host.
    Welcome(usize, oneshot::Receiver<Welcome>),
    /// A snapshot, from the host and under the number.
    Installed(usize, u64, oneshot::Receiver<bool>),
}

/// A snapshot on its way out.
pub struct Sending {
    /// Its last index.
    pub last: Index,
    /// Whom to tell.
    pub done: SnapshotEnd,
}

/// A process.
pub struct Process {
    /// The node in it.
    pub machine: Machine,
    /// Its world.
    pub world: Arc<SimWorld>,
    /// Which process it is, of all in the run.
    pub number: u64,
    /// Where others are, by id.
    pub addresses: BTreeMap<NodeId, usize>,
    /// The newest process of each other node that was heard from: incarnation, number, cluster.
    pub heard: BTreeMap<NodeId, (u64, u64, Option<ClusterId>)>,
    /// When the last message of each of them arrived.
    pub heard_at: BTreeMap<NodeId, u64>,
    /// When its last reign began.
    pub leads_since: u64,
    /// What it owes.
    pub waits: Vec<Wait>,
    /// Work for the disk, by number.
    pub work: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
    /// Snapshots being sent, by number.
    pub sending: BTreeMap<u64, Sending>,
    /// Whether a turn of the log is under way.
    pub wal_busy: bool,
    /// What its log has reported and its driver has not looked at, oldest first.
    pub reports: VecDeque<WalEvent>,
    /// The newest configuration in its log of whose new voters it was seen, as the leader, how far behind they are.
    pub taken_in: u64,
    /// Whether a piece of the store's table is on its way into the engine.
    pub draining: bool,
    /// The next segment being made.
    pub preparation: Option<Preparation>,
    /// The commit index last seen.
    pub commit: u64,
    /// Whether it was asked to stop.
    pub leaving: bool,
    /// Where it looks for its cluster.
    pub targets: Vec<usize>,
}

/// A machine.
pub struct Host {
    /// Its name, and its node's.
    pub name: String,
    /// What is on it.
    pub disk: MemoryDisk,
    /// Its engine.
    pub engine: MemoryHome,
    /// The process, if one runs.
    pub process: Option<Process>,
    /// When the process goes on, if it is paused.
    pub paused_until: u64,
    /// How the clock runs: millionths of the true rate, and what it leapt.
    pub rate: u64,
    /// Microseconds.
    pub leapt: u64,
    /// How many times slower than planned the disk is, and until when it stands still.
    pub slow: u64,
    /// Microseconds.
    pub stalled_until: u64,
    /// Whose disk it was last, and what it held for certain.
    pub identity: Option<NodeId>,
    /// What the disk holds for certain.
    pub durable: Durable,
    /// The size of the last turn of the log.
    pub last_turn_bytes: u64,
    /// Whether the disk was hurt since the last start, so that it may have lost what it promised.
    pub hurt: bool,
    /// Whether its disk was ever replaced: whoever does that says to which cluster the node belongs,
    /// and founds none with it.
    pub replaced: bool,
    /// Chance of its own.
    pub dice: Dice,
    /// Whether it is to be running.
    pub wanted: bool,
}

/// The folder of every node.
#[must_use]
pub fn folder() -> PathBuf {
    PathBuf::from("data")
}

impl Host {
    /// A machine with an empty disk.
    #[must_use]
    pub fn new(number: usize, rate: u64, mut dice: Dice) -> Host {
        Host {
            name: format!("h{number}"),
            disk: MemoryDisk::new(dice.fork()),
            engine: MemoryHome::default(),
            process: None,
            paused_until: 0,
            rate,
            leapt: 0,
            slow: 1,
            stalled_until: 0,
            identity: None,
            durable: Durable::default(),
            last_turn_bytes: 0,
            hurt: false,
            replaced: false,
            dice,
            wanted: true,
        }
    }

    /// What this machine's clock shows.
    #[must_use]
    pub fn clock(&self, origin: Instant, now: u64) -> Instant {
        origin + Duration::from_micros(now / 1_000 * self.rate / 1_000 + now % 1_000 + self.leapt)
    }

    /// The address of the host with this number, and back.
    #[must_use]
    pub fn address(number: usize) -> String {
        format!("h{number}:7400")
    }

    /// The host at an address.
    #[must_use]
    pub fn at(address: &str) -> Option<usize> {
        address.strip_prefix('h')?.split(':').next()?.parse().ok()
    }
}
