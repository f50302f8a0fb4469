//! The driver: the one owner of a [`Replica`], and the only one to step it.
//!
//! It is a loop of turns. A turn waits until anything happened, takes everything that is queued (bounded), steps the
//! core with it, and carries out the effects: records to the WAL thread, messages to the network, committed commands to
//! the store, answers to those who wait. There are no locks: all state is the loop's own, and what others may see is
//! published at the end of a turn.
//!
//! Nothing here waits for a peer, and nothing for a disk but two things that are small and bounded: once in a node's
//! life the file with its identity is replaced before its first write ([`Meta::bind`]), and after a restart committed
//! entries are read back a mebibyte at a time.
//!
//! Before: [`crate::handle`] (asks) and [`crate::peer`] (messages). After: [`crate::storage`],
//! [`crate::peer`], [`crate::kv`].
//!
//! - `queues`: what wakes it. `asks`: what is asked of it. `effects`: carrying out what the core wants.
//! - `tail`: the end of the log in memory. `waiters`: who waits for what.
//! - `generation`: whether every member knows a command. `membership`: forming a cluster, newcomers,
//!   replacing a lost disk.
//! - `upkeep`: what is done now and then. `publish`: what others see. `world`: what a driver needs around it.

mod asks;
mod effects;
mod generation;
mod membership;
mod publish;
mod queues;
mod tail;
mod upkeep;
mod waiters;
pub(crate) mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorum::{ClusterId, Effect, Index, Input, Member, NodeId, Position, Refusal, Replica, Role, Time, Token};
use tokio::sync::{mpsc, oneshot, watch};

use crate::forward::Call;
use crate::handle::{Asked, ChangeError, ReadError, Shared};
use crate::kv::Imported;
use crate::node::Ended;
use crate::peer::{Network, PeerEvent};
use crate::stage::Stage;
use crate::storage::{Job, LogReader, Meta, Wal, WalEvent, record};

use membership::Membership;
use publish::RoundTrips;
use queues::{Queues, Turn};
use tail::Tail;
use upkeep::Upkeep;
use waiters::Waiters;
use world::World;

/// Time between ticks of the core: a tenth of the default heartbeat, so that timeouts are kept to within 10 %.
const TICK: Duration = Duration::from_millis(10);

/// Most asks and most peer events taken in one turn: enough for a full batch, few enough that a turn stays short.
const TURN_EVENTS: usize = 1_024;

/// Most bytes of commands appended in one step.
const BATCH_BYTES: usize = 1 << 20;

/// Most committed entries applied in one turn, so that a long backlog after a restart does not hold up heartbeats.
const APPLY_PER_TURN: u64 = 4_096;

/// And about the most bytes of them: what a disk reads in ten milliseconds, a tenth of a heartbeat, and a small part of
/// the overlay's bound, which is looked at once a turn.
const APPLY_BYTES_PER_TURN: usize = 1 << 20;

/// Most reads that wait for the confirmation of leadership; one more is refused as overload. They wait an election
/// timeout at most: by then the leader has been confirmed, or is none.
const BARRIERS_MAX: usize = 65_536;

/// Bytes of the log's end kept in memory for followers and for applying.
const TAIL_BYTES: usize = 32 << 20;

/// How long a node that is going down waits for the writes under way to be answered, and for its heir.
const FAREWELL: Duration = Duration::from_millis(1_500);

/// How long it then waits for work on the engine that it began, so that whoever starts it again finds the folder free.
const WORK_END: Duration = Duration::from_secs(10);

/// Reads that share a round of confirmation.
struct Barriers {
    asked: Instant,
    waiting: Vec<oneshot::Sender<Result<Index, ReadError>>>,
}

/// What comes back from work done elsewhere on the driver's behalf.
pub(crate) enum Done {
    /// Streaming a snapshot to a peer ended.
    SnapshotSent { to: NodeId, last: Option<Index> },
    /// The state is durable in the engine up to here.
    Persisted(Result<Position, String>),
    /// The engine holds the snapshot that was to be installed.
    Installed(Result<(), String>),
    /// Free bytes on the disk.
    Space { free: u64 },
}

/// Everything the driver is started with.
pub(crate) struct Parts {
    pub replica: Replica,
    pub shared: Arc<Shared>,
    pub me: Member,
    pub cluster: Option<ClusterId>,
    /// Whether the binding to it is written down.
    pub bound: bool,
    /// Whether an empty disk may found a cluster.
    pub may_form: bool,
    pub data_dir: PathBuf,
    pub meta: Arc<Mutex<Meta>>,
    pub wal: Wal,
    pub log: LogReader,
    pub world: Arc<dyn World>,
    pub applied: watch::Sender<Index>,
    pub asked: Asked,
    pub peers: mpsc::Receiver<PeerEvent<Imported>>,
    pub wal_events: mpsc::UnboundedReceiver<WalEvent>,
    pub calls: mpsc::UnboundedSender<Call>,
}

/// A snapshot that the engine is taking over. Until it has, nothing is applied, and nothing reaches the WAL: a log
/// emptied before the engine holds what was in it would be a log with a hole after a crash.
struct Installing {
    token: Token,
    last: Position,
    /// What the core asked to be made durable since, in order. Few and small: the leader sends nothing more
    /// until it has its answer.
    held: Vec<Job>,
    /// The leader, which waits for that answer.
    done: Option<oneshot::Sender<bool>>,
}

/// A node on its way out.
struct Leaving {
    since: Instant,
    /// Whether an heir was asked for already.
    asked: bool,
}

/// A change of configuration or leadership that someone waits for.
enum Wish {
    /// The configuration of at least this version committed and final.
    Config { version: u64, reply: oneshot::Sender<Result<u64, ChangeError>> },
    /// Another node leads.
    Transfer { reply: oneshot::Sender<Result<(), ChangeError>> },
    /// This node leads.
    Campaign { reply: oneshot::Sender<Result<(), ChangeError>> },
}

/// The loop's state.
pub(crate) struct Driver {
    replica: Replica,
    origin: Instant,
    now: Instant,
    shared: Arc<Shared>,
    me: Member,
    cluster: Option<ClusterId>,
    /// Whether the binding is written down.
    bound: bool,
    meta: Arc<Mutex<Meta>>,
    wal: Wal,
    log: LogReader,
    world: Arc<dyn World>,
    calls: mpsc::UnboundedSender<Call>,
    tail: Tail,
    waiters: Waiters,
    queued_seconds: prometheus::Histogram,
    /// Reads that share a round, by the core's name for it.
    barriers: BTreeMap<u64, Barriers>,
    /// How many they are.
    barriers_waiting: usize,
    next_read: u64,
    wishes: Vec<(Instant, Wish)>,
    membership: Membership,
    /// When this reign began.
    elected: Option<Instant>,
    round_trips: RoundTrips,
    upkeep: Upkeep,
    applied: Index,
    applied_tx: watch::Sender<Index>,
    acknowledged: Index,
    /// The end of the log as last written.
    last_written: Index,
    /// A snapshot that was received and waits for the core's word.
    received: Option<Imported>,
    installing: Option<Installing>,
    disk_full: bool,
    ready: bool,
    /// Whether the log holds commands of the newest generation: see `generation`.
    newest_in_use: bool,
    data_dir: PathBuf,
    done_tx: mpsc::UnboundedSender<Done>,
    ended: Option<Ended>,
    /// Of the step under way: the payloads proposed or the records received.
    proposed: Vec<Bytes>,
    incoming: Vec<record::Record>,
    refused: Option<Refusal>,
    effects: Vec<Effect>,
    leaving: Option<Leaving>,
}

/// Runs the node's protocol until it is asked to stop or cannot go on.
pub(crate) async fn run(parts: Parts, network: Network) -> Ended {
    let (driver, queues) = Driver::new(parts, Instant::now());
    driver.turn_until_ended(queues, network).await
}

/// A driver whose turns someone else begins.
pub(crate) struct Stepped {
    driver: Driver,
    queues: Queues,
    turn: Turn,
}

impl Stepped {
    pub(crate) fn new(parts: Parts, now: Instant) -> Stepped {
        let (mut driver, queues) = Driver::new(parts, now);
        driver.begin();
        Stepped { driver, queues, turn: Turn::default() }
    }

    /// A turn at `now` with whatever is queued, and those after it that a backlog makes necessary. Why the
    /// node is to end, if it is.
    pub(crate) fn turn(&mut self, now: Instant, mut ticks: bool) -> Option<Ended> {
        loop {
            self.queues.take(&mut self.turn, self.driver.gathers() && !ticks);
            let stop = *self.queues.stop.borrow_and_update();
            if let Some(ended) = self.driver.turn(now, &mut self.turn, ticks, stop) {
                self.queues.refuse_the_rest();
                self.driver.waiters.abandon("the node stopped");
                self.driver.refuse_barriers(&ReadError::Stopping);
                return Some(ended);
            }
            ticks = false;
            let gathered = !self.driver.gathers() && !self.queues.asked.writes.is_empty();
            if !self.driver.has_backlog() && !gathered {
                return None;
            }
        }
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.driver.replica
    }
}

impl Driver {
    fn new(parts: Parts, now: Instant) -> (Driver, Queues) {
        // Unbounded by type alone: under way are at most one of each kind, and one snapshot to each peer.
        let (done_tx, done) = mpsc::unbounded_channel();
        let metrics = parts.shared.metrics.clone();
        let stop = parts.shared.stop.subscribe();
        let queues = Queues { asked: parts.asked, peers: parts.peers, wal: parts.wal_events, done, stop };
        let last_written = parts.replica.last().index;
        let driver = Driver {
            replica: parts.replica,
            origin: now,
            now,
            membership: Membership::new(parts.may_form),
            elected: None,
            round_trips: RoundTrips::default(),
            upkeep: Upkeep::new(now),
            queued_seconds: metrics.stage(Stage::Queued),
            waiters: Waiters::new(&metrics),
            applied: parts.shared.store.applied().index,
            shared: parts.shared,
            me: parts.me,
            cluster: parts.cluster,
            bound: parts.bound,
            meta: parts.meta,
            wal: parts.wal,
            log: parts.log,
            world: parts.world,
            calls: parts.calls,
            tail: Tail::new(TAIL_BYTES),
            barriers: BTreeMap::new(),
            barriers_waiting: 0,
            next_read: 0,
            wishes: Vec::new(),
            applied_tx: parts.applied,
            acknowledged: Index(0),
            last_written,
            received: None,
            installing: None,
            disk_full: false,
            ready: false,
            newest_in_use: false,
            data_dir: parts.data_dir,
            done_tx,
            ended: None,
            proposed: Vec::new(),
            incoming: Vec::new(),
            refused: None,
            effects: Vec::new(),
            leaving: None,
        };
        (driver, queues)
    }

    /// Before the first turn.
    fn begin(&mut self) {
        if let Some(config) = self.replica.config().cloned() {
            self.take_members(&config);
        }
        self.note_generation_of_state();
        self.publish();
    }

    async fn turn_until_ended(mut self, mut queues: Queues, network: Network) -> Ended {
        self.begin();
        let mut tick = tokio::time::Instant::now();
        let mut turn = Turn::default();
        loop {
            let gathers = self.gathers();
            if !self.has_backlog() {
                queues.next(&mut turn, tick, gathers).await;
                if self.has_company(&turn) {
                    tokio::task::yield_now().await;
                    queues.take(&mut turn, gathers);
                }
            } else {
                // More to apply: look at the queues without sleeping, so that neither starves
                // the other, nor other tasks.
                tokio::task::yield_now().await;
                queues.take(&mut turn, gathers);
            }
            self.shared.pause.over().await;
            let ticks = tokio::time::Instant::now() >= tick;
            if ticks {
                // Whatever the writes under way wait for, nobody waits behind them for longer than this.
                queues.take(&mut turn, false);
            }
            let stop = *queues.stop.borrow_and_update();
            if let Some(ended) = self.turn(Instant::now(), &mut turn, ticks, stop) {
                return self.shut_down(ended, queues, network).await;
            }
            if ticks {
                tick = tokio::time::Instant::now() + TICK;
            }
        }
    }

    /// One turn: what was taken from the queues, a tick if it is due, and all that follows. Why the
    /// node is to end, if it is.
    fn turn(&mut self, now: Instant, turn: &mut Turn, ticks: bool, stop: bool) -> Option<Ended> {
        self.now = now;
        self.take(turn);
        if ticks {
            self.on_tick();
        }
        self.apply_committed();
        self.answer();
        if ticks {
            // Now, when all that is committed is applied: under load there is no other moment at which
            // this node has caught up.
            self.publish();
        }
        if stop {
            self.leave();
        }
        self.ended.take()
    }

    fn take(&mut self, turn: &mut Turn) {
        for event in turn.wal.drain(..) {
            self.on_wal_event(event);
        }
        for event in turn.done.drain(..) {
            self.on_done(event);
        }
        for event in turn.peers.drain(..) {
            self.on_peer_event(event);
        }
        self.on_writes(&mut turn.writes);
        self.on_asks(&mut turn.asks);
    }

    /// Whether writes that arrive now wait for those under way, and then become one group: as long as a group takes, the
    /// next one gathers. A group costs every node a turn, a write and a sync, and the leader a message to each, whatever
    /// its size; so few and large ones leave the machine more time for clients than many small ones, and a write hardly
    /// waits longer than it would for the line and the disk of the follower that counts, which are busy with the group
    /// before. Not over a long line, which must be kept full, nor behind so much that what a group costs no longer
    /// matters.
    fn gathers(&self) -> bool {
        self.replica.role() == Role::Leader
            && self.acknowledged < self.replica.last().index
            && self.waiters.bytes() < BATCH_BYTES
            && !self.replica.pipelines()
    }

    /// Whether clients have asked for something and others are likely to be about to: then these are let come along, since
    /// a turn for all of them costs little more than one for the first. Not where one client works alone.
    fn has_company(&self, turn: &Turn) -> bool {
        let asked = turn.writes.len() + turn.asks.len();
        let alone = asked == 1 && self.waiters.len() + self.barriers_waiting == 0;
        asked > 0 && !alone && turn.peers.is_empty() && turn.wal.is_empty()
    }

    fn time(&self) -> Time {
        Time((self.now - self.origin).as_micros() as u64)
    }

    /// Steps the core and carries out what it wants. A refusal is left in `self.refused`.
    fn step(&mut self, input: Input) {
        let mut effects = std::mem::take(&mut self.effects);
        self.refused = None;
        let time = self.time();
        self.replica.step(time, input, &mut effects);
        // Before anything of this step truncates the log: whoever reads it for a follower must notice
        // that this reign is over.
        let leading = (self.replica.role() == Role::Leader).then(|| self.replica.term());
        self.world.set_leading(leading);
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
        self.effects = effects;
        self.proposed.clear();
        self.incoming.clear();
    }

    fn on_wal_event(&mut self, event: WalEvent) {
        match event {
            WalEvent::Persisted { token } => {
                self.step(Input::Persisted { token });
                let durable = self.replica.durable();
                self.tell("synced", durable);
                self.waiters.pass(Stage::Persisted, durable, self.now);
                self.note_founded();
            }
            WalEvent::Failed { error } => self.end(Ended::Failed(format!(
                "writing the log failed: {error}. The node stops, since what the disk holds is not certain any more; nothing was acknowledged \
                 that is not on {} disks. Check the disk, then start the node again",
                self.replica.config().map_or(1, |c| c.write_quorum)
            ))),
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::SnapshotSent { to, last } => self.step(Input::SnapshotSent { to, last }),
            Done::Persisted(result) => self.on_state_persisted(result),
            Done::Installed(result) => self.on_installed(result),
            Done::Space { free } => self.on_space(free),
        }
    }

    fn on_peer_event(&mut self, event: PeerEvent<Imported>) {
        match event {
            PeerEvent::Message { from, cluster, message, records } => {
                if !self.listens_to(cluster) {
                    return;
                }
                self.membership.heard_cluster(cluster);
                self.note_round_trip(from, &message.body);
                self.incoming = records;
                self.step(Input::Receive { from, message });
            }
            PeerEvent::Unreachable { peer } => self.step(Input::Unreachable { peer }),
            // The server of calls may have ended with the node; the caller then learns that there is no answer.
            PeerEvent::Call { body, reply, .. } => drop(self.calls.send((body, reply))),
            PeerEvent::Introduced { member, blank, reply } => {
                let welcome = self.on_introduced(member, blank);
                let _ = reply.send(welcome);
            }
            PeerEvent::Snapshot { from, term, cluster, imported, done } => {
                let ours = cluster.is_some() && (self.cluster.is_none() || self.cluster == cluster);
                // One at a time: the leader tries again.
                if ours && self.installing.is_none() {
                    self.membership.heard_cluster(cluster);
                    self.on_snapshot(from, term, imported, done);
                }
            }
        }
    }

    /// Whether a message is of this node's cluster. The network refuses the connections of others; but two founders may
    /// court a blank node, and what the second sent can be in the queue already when the node binds to the first. A
    /// connection that was made before its node was bound still speaks for no cluster: what comes on it counts, since a
    /// node says nothing but answers until it is bound, and then to this cluster.
    fn listens_to(&self, cluster: Option<ClusterId>) -> bool {
        match (self.cluster, cluster) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, None) => false,
            (None, Some(_)) | (Some(_), None) => true,
        }
    }

    fn on_snapshot(&mut self, from: NodeId, term: quorum::Term, imported: Imported, done: oneshot::Sender<bool>) {
        let Some(config) = imported.config().map(Box::new) else {
            tracing::error!("a snapshot without a configuration was received and is not installed");
            return;
        };
        let last = imported.position();
        self.received = Some(imported);
        self.step(Input::SnapshotReceived { from, term, last, config });
        if let Some(installing) = &mut self.installing {
            installing.done = Some(done);
            return;
        }
        // Not wanted: it came too late to be of use, or from a leader of the past.
        self.received = None;
        let _ = done.send(self.replica.commit() >= last.index);
    }

    /// Goes down politely: takes no more writes, answers those under way, and hands leadership over. All
    /// that within a bounded time.
    fn leave(&mut self) {
        let no_heir = self.shared.no_heir.load(std::sync::atomic::Ordering::Relaxed);
        let others = !no_heir && self.replica.config().is_some_and(|c| c.voters.len() > 1);
        let now = self.now;
        let leaving = self.leaving.get_or_insert(Leaving { since: now, asked: false });
        let late = now - leaving.since >= FAREWELL;
        if self.replica.role() != Role::Leader || late {
            self.end(Ended::Asked);
        } else if self.waiters.len() > 0 && now - leaving.since < FAREWELL / 2 {
            // An heir would find these entries in its log, but their clients would never hear of it.
        } else if !others {
            self.end(Ended::Asked);
        } else if !leaving.asked {
            leaving.asked = true;
            self.step(Input::Transfer { to: None, by_hand: false });
            if self.refused.is_some() {
                // Nobody could be elected now: waiting would change nothing.
                self.end(Ended::Asked);
            }
        }
    }

    fn end(&mut self, ended: Ended) {
        self.ended.get_or_insert(ended);
    }

    async fn shut_down(mut self, ended: Ended, mut queues: Queues, network: Network) -> Ended {
        queues.refuse_the_rest();
        self.waiters.abandon("the node stopped");
        self.shared.store.hurry();
        self.refuse_barriers(&ReadError::Stopping);
        self.world.set_leading(None);
        network.stop().await;
        let work = async {
            while (self.upkeep.is_persisting() || self.installing.is_some())
                && let Some(done) = queues.done.recv().await
            {
                self.note_work_done(done);
            }
        };
        if tokio::time::timeout(WORK_END, work).await.is_err() {
            tracing::warn!("the storage engine is still at work: the data folder may be in use for a while");
        }
        let wal = self.wal;
        // The WAL thread finishes what is queued; that can take an fsync or two.
        let _ = tokio::task::spawn_blocking(move || wal.stop()).await;
        ended
    }

    /// Notes the end of work on the engine while the node goes down.
    fn note_work_done(&mut self, done: Done) {
        match done {
            Done::Persisted(_) => self.upkeep.note_persisted(),
            Done::Installed(result) => self.on_installed(result),
            Done::SnapshotSent { .. } | Done::Space { .. } => {}
        }
    }
}
