//! The handle on everything of this module: who is dialed, what is sent to whom, and the tasks that do it.
//!
//! Nothing here waits but [`Network::introduce`] and [`Network::stop`]: the driver calls the rest between two steps.
//! Every task is owned by this handle and ends with [`Network::stop`].
//!
//! Before: [`crate::driver`]. After: [`super::connection`], [`super::accept`], [`super::snapshot`].

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quorum::{Body, ClusterId, Index, Member, Message, NodeId, Term};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::connection::{self, Lane, Outgoing, Peer, Put, QueuedCall};
use super::delay::DelayLine;
use super::handshake::{self, HandshakeError, LaneKind, Registry};
use super::snapshot::{self, SnapshotSource, SnapshotStore};
use super::wire::{self, INTRODUCE, WELCOME};
use super::{CallError, Identity, IntroduceError, Introduction, NetworkOptions, PeerEvent, Records, Welcome, accept};
use crate::metrics::Metrics;

/// Nodes that are dialed although they are no members (they asked for a vote, or were members): more than any
/// change of members involves.
const GUESTS_MAX: usize = 16;

/// A complaint is not repeated sooner, and only so many different ones are remembered.
const COMPLAINT_EVERY: Duration = Duration::from_secs(60);
const COMPLAINTS_MAX: usize = 256;

/// How long tasks may take to end by themselves when the network stops.
const STOP: Duration = Duration::from_millis(500);

/// Longest answer to an introduction.
const WELCOME_MAX: usize = 4 << 10;

/// Where records are read that the driver does not hold in memory any more.
pub trait LogSource: Send + Sync + 'static {
    /// The framed records that [`Records::FromLog`] names, in order, one a piece. May block.
    ///
    /// # Errors
    /// When they cannot be read; the text says why.
    fn read(&self, from: Index, to: Index, bytes_max: usize) -> Result<Vec<Bytes>, String>;
}

/// What every task here needs.
pub(super) struct Shared {
    pub registry: Registry,
    pub options: NetworkOptions,
    pub metrics: Arc<Metrics>,
    pub log: Arc<dyn LogSource>,
    pub stop: watch::Sender<bool>,
    peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
    /// There from the first time that a delay is asked for.
    delay: OnceLock<DelayLine<Lane>>,
    /// The term this node leads, zero for none.
    leading: AtomicU64,
    calls: AtomicU64,
    unreachable: Mutex<BTreeSet<NodeId>>,
    unreachable_wake: Notify,
    complaints: Mutex<HashMap<String, Instant>>,
    tasks: Mutex<JoinSet<()>>,
    runtime: tokio::runtime::Handle,
}

impl Shared {
    /// Starts a task that ends with the network.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        if !*self.stop.borrow() {
            tasks.spawn_on(task, &self.runtime);
        }
    }

    /// Whether this node leads that term, as the driver last said.
    pub(super) fn leads(&self, term: Term) -> bool {
        self.leading.load(Ordering::SeqCst) == term.0
    }

    /// Says once that something under way to this peer may be lost.
    pub(super) fn report_unreachable(&self, peer: NodeId) {
        if self.unreachable.lock().insert(peer) {
            self.unreachable_wake.notify_one();
        }
    }

    /// Logs a line, but not again and again.
    pub(super) fn complain(&self, line: &str) {
        let mut complaints = self.complaints.lock();
        let now = Instant::now();
        if complaints.get(line).is_some_and(|last| now.duration_since(*last) < COMPLAINT_EVERY) {
            return;
        }
        if complaints.len() >= COMPLAINTS_MAX {
            complaints.retain(|_, last| now.duration_since(*last) < COMPLAINT_EVERY);
        }
        if complaints.len() < COMPLAINTS_MAX {
            complaints.insert(line.to_owned(), now);
            tracing::warn!("{line}");
        }
    }

    fn peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().get(&id).cloned()
    }

    fn add_peer(self: &Arc<Self>, peers: &mut HashMap<NodeId, Arc<Peer>>, id: NodeId, address: &str, member: bool) {
        let queue = (self.options.queue_bytes, self.options.queue_messages);
        let peer = Arc::new(Peer::new(id, address.to_owned(), member, queue));
        for lane in peer.lanes() {
            self.spawn(connection::keep(self.clone(), peer.clone(), lane.clone()));
        }
        peers.insert(id, peer);
    }

    /// A node connected to this one: it is there, and wants to be answered even if it is no member (yet, or any more).
    pub(super) fn greeted_by(self: &Arc<Self>, member: &Member) {
        let mut peers = self.peers.write();
        if let Some(peer) = peers.get(&member.id) {
            peer.move_to(&member.peer);
            peer.lanes().iter().for_each(|lane| lane.nudge.notify_one());
        } else if peers.values().filter(|p| !*p.member.borrow()).count() < GUESTS_MAX {
            self.add_peer(&mut peers, member.id, &member.peer, false);
        }
    }

    /// A node could not be reached again and again. Whether it is dialed no more: no member is given up, nor
    /// a guest that is connected here. That one waits to be answered, and said where it is when it connected:
    /// it will not say so again.
    pub(super) fn forget_guest(&self, guest: &Arc<Peer>) -> bool {
        let mut peers = self.peers.write();
        let dialed = peers.get(&guest.id).is_some_and(|peer| Arc::ptr_eq(peer, guest));
        if dialed && (*guest.member.borrow() || self.registry.is_connected(guest.id)) {
            return false;
        }
        if dialed {
            peers.remove(&guest.id);
        }
        drop(peers);
        guest.lanes().iter().for_each(|lane| lane.close());
        true
    }

    fn set_members(self: &Arc<Self>, members: &[Member]) {
        let mut peers = self.peers.write();
        for peer in peers.values() {
            let stays = members.iter().any(|m| m.id == peer.id);
            // Who was removed is still told so, as a guest: it goes when it cannot be reached any more.
            peer.member.send_if_modified(|member| std::mem::replace(member, stays) != stays);
        }
        for member in members.iter().filter(|m| m.id != self.registry.me.id) {
            match peers.get(&member.id) {
                Some(peer) => {
                    peer.move_to(&member.peer);
                }
                None => self.add_peer(&mut peers, member.id, &member.peer, true),
            }
        }
    }

    fn put(&self, peer: &Peer, lane: &Arc<Lane>, item: Outgoing, delay: Option<Duration>) {
        let (put, due) = lane.put(item, delay);
        if put == Put::Overflow {
            self.complain(&format!("the queue to node {} is full: messages are dropped", peer.id));
            self.report_unreachable(peer.id);
        }
        if let (Some(at), Some(line)) = (due, self.delay.get()) {
            line.at(at, lane.clone());
        }
    }

    /// Ends calls whose time is up, of every peer.
    async fn watch_calls(self: Arc<Self>) {
        let every = (self.options.call_timeout / 20).clamp(Duration::from_millis(5), Duration::from_millis(250));
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stop = self.stop.subscribe();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let now = Instant::now();
            let peers: Vec<_> = self.peers.read().values().cloned().collect();
            peers.iter().for_each(|peer| peer.bulk.expire(now));
        }
    }

    /// Hands on what [`Shared::report_unreachable`] collected: here is who may wait for the driver.
    async fn report<I>(self: Arc<Self>, events: mpsc::Sender<PeerEvent<I>>) {
        let mut stop = self.stop.subscribe();
        loop {
            tokio::select! {
                () = self.unreachable_wake.notified() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let lost = std::mem::take(&mut *self.unreachable.lock());
            for peer in lost {
                tokio::select! {
                    sent = events.send(PeerEvent::Unreachable { peer }) => if sent.is_err() { return },
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        }
    }
}

/// The node's connections to the others. Clones are handles on the same ones.
pub struct Network {
    shared: Arc<Shared>,
}

impl Clone for Network {
    fn clone(&self) -> Network {
        Network { shared: self.shared.clone() }
    }
}

impl Network {
    /// Starts to accept connections on `listener`; dials nobody yet. Must be called within a tokio runtime,
    /// on which everything runs.
    ///
    /// Events go into `events`; a connection whose events find no room there is not read until there is.
    pub fn start<S: SnapshotStore>(
        identity: Identity,
        listener: TcpListener,
        options: NetworkOptions,
        metrics: Arc<Metrics>,
        events: mpsc::Sender<PeerEvent<S::Imported>>,
        log: Arc<dyn LogSource>,
        snapshots: S,
    ) -> Network {
        let shared = Arc::new(Shared {
            registry: Registry::new(identity),
            delay: DelayLine::start(options.delay).map_or_else(OnceLock::new, OnceLock::from),
            options,
            metrics,
            log,
            stop: watch::Sender::new(false),
            peers: RwLock::default(),
            leading: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            unreachable: Mutex::default(),
            unreachable_wake: Notify::new(),
            complaints: Mutex::default(),
            tasks: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        });
        shared.spawn(shared.clone().watch_calls());
        shared.spawn(shared.clone().report(events.clone()));
        shared.spawn(accept::listen(shared.clone(), listener, events, Arc::new(snapshots)));
        Network { shared }
    }

    /// Whom to dial and stay connected to. This node itself is skipped; an address that changed is dialed at once.
    pub fn set_members(&self, members: &[Member]) {
        self.shared.set_members(members);
    }

    /// A node says where it is: dialed there from now on, until a configuration says more. One that
    /// is no member is a guest.
    pub fn met(&self, member: &Member) {
        self.shared.greeted_by(member);
    }

    /// From now on only this cluster: connections to and from nodes of another, or of none, end.
    pub fn bind(&self, cluster: ClusterId) {
        self.shared.registry.bind(cluster);
    }

    /// The first of these nodes that has not said that it understands commands of this generation.
    #[must_use]
    pub fn behind(&self, generation: u16, nodes: &[NodeId]) -> Option<NodeId> {
        self.shared.registry.behind(generation, nodes)
    }

    /// From now on no node that does not understand commands of this generation is let in.
    pub fn require(&self, generation: u16) {
        self.shared.registry.require(generation);
    }

    /// The term this node leads, if it does. To be called before anything is truncated: appends of another term whose
    /// records are yet to be read from the log are dropped.
    pub fn set_leading(&self, term: Option<Term>) {
        self.shared.leading.store(term.map_or(0, |t| t.0), Ordering::SeqCst);
    }

    /// Delays appends with entries by times in this range, from now on.
    pub fn set_delay(&self, range: (Duration, Duration)) {
        if let Some(line) = self.shared.delay.get() {
            line.set_range(range);
        } else if let Some(line) = DelayLine::start(range)
            && let Err(line) = self.shared.delay.set(line)
        {
            // Someone else was first.
            line.stop();
            self.set_delay(range);
        }
    }

    /// Sends a message. Never waits; what cannot be sent is dropped, see [`PeerEvent::Unreachable`].
    pub fn send(&self, to: NodeId, message: Message, records: Records) {
        let Some(peer) = self.shared.peer(to) else { return };
        let Body::Append { entries, .. } = &message.body else {
            return self.shared.put(&peer, &peer.control, Outgoing::Message { message, records }, None);
        };
        // An append without entries is not delayed itself, but stays behind those that were sent before it.
        let delay = self.shared.delay.get().map(|d| if entries.is_empty() { Duration::ZERO } else { d.draw() });
        self.shared.put(&peer, &peer.bulk, Outgoing::Message { message, records }, delay);
    }

    /// Asks a peer something. Never waits; the receiver gets the answer, or an error that tells whether the
    /// peer can have acted on it.
    #[must_use]
    pub fn call(&self, to: NodeId, body: Bytes) -> oneshot::Receiver<Result<Bytes, CallError>> {
        let (reply, receiver) = oneshot::channel();
        match self.shared.peer(to) {
            Some(peer) if body.len() + wire::MESSAGE_HEAD_MAX <= self.shared.options.max_frame_bytes => {
                let id = self.shared.calls.fetch_add(1, Ordering::Relaxed);
                let deadline = Instant::now() + self.shared.options.call_timeout;
                let call = QueuedCall { id, body, deadline, reply };
                self.shared.put(&peer, &peer.bulk, Outgoing::Call(call), None);
            }
            _ => {
                let _ = reply.send(Err(CallError::NotSent));
            }
        }
        receiver
    }

    /// Streams a snapshot to a peer, one at a time each. Resolves to its last index when the peer has installed it.
    #[must_use]
    pub fn send_snapshot(
        &self,
        to: NodeId,
        term: Term,
        source: impl SnapshotSource,
    ) -> oneshot::Receiver<Result<Index, String>> {
        let (reply, receiver) = oneshot::channel();
        match self.shared.peer(to) {
            None => {
                let _ = reply.send(Err(format!("node {to} is not known")));
            }
            Some(peer) if peer.snapshot.swap(true, Ordering::SeqCst) => {
                let _ = reply.send(Err(format!("a snapshot is on its way to node {to} already")));
            }
            Some(peer) => self.shared.spawn(snapshot::send(self.shared.clone(), peer, term, Box::new(source), reply)),
        }
        receiver
    }

    /// Introduces this node to the one at `address` (`host:port`), which need not know it.
    ///
    /// # Errors
    /// When nobody answers there in time, or the node there refuses the connection.
    pub async fn introduce(&self, address: &str, introduction: Introduction) -> Result<Welcome, IntroduceError> {
        let shared = &self.shared;
        let timeout = shared.options.handshake_timeout;
        let unreachable = |why: String| IntroduceError::Unreachable { address: address.to_owned(), why };
        let dead_after = shared.options.election_max * 2;
        let dialed = handshake::dial(&shared.registry, address, LaneKind::Introduce, None, timeout, dead_after).await;
        let (mut framed, _) = match dialed {
            Ok(dialed) => dialed,
            Err(HandshakeError::Refused(why)) => {
                return Err(IntroduceError::Refused { address: address.to_owned(), why });
            }
            Err(other) => return Err(unreachable(other.to_string())),
        };
        let exchange = async {
            let frame = wire::value(INTRODUCE, &introduction).map_err(|e| e.to_string())?;
            framed.send(&frame).await.map_err(|e| e.to_string())?;
            let frame = framed.next(WELCOME_MAX).await.map_err(|e| e.to_string())?;
            wire::get_value(&frame, WELCOME).map_err(|e| e.to_string())
        };
        match tokio::time::timeout(shared.options.call_timeout, exchange).await {
            Ok(welcome) => welcome.map_err(unreachable),
            Err(_) => Err(unreachable("no answer in time".into())),
        }
    }

    /// Where a peer is dialed.
    #[must_use]
    pub fn address(&self, peer: NodeId) -> Option<String> {
        self.shared.peer(peer).map(|p| p.address.borrow().clone())
    }

    /// Why a peer cannot be reached, in words, if it cannot.
    #[must_use]
    pub fn trouble(&self, peer: NodeId) -> Option<String> {
        self.shared.peer(peer)?.trouble.lock().clone()
    }

    /// Sends what is queued (for a moment), ends every connection and task, answers every call. The
    /// listener is closed afterwards.
    pub async fn stop(&self) {
        self.shared.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.shared.tasks.lock());
        let ended = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP, ended).await;
        tasks.shutdown().await;
        let peers = std::mem::take(&mut *self.shared.peers.write());
        peers.values().flat_map(|p| p.lanes()).for_each(|lane| lane.close());
        if let Some(delay) = self.shared.delay.get() {
            delay.stop();
        }
    }
}
