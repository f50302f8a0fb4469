//! The seam: what HTTP, TCP and the page may ask of a node.
//!
//! A [`Handle`] is cheap to clone and never waits without a bound. Writes go to the driver if this node leads and one hop to the leader if
//! not; reads come from the store once the wanted consistency is established. Nothing here touches the log or the disk.
//!
//! Before: `http`, `tcp`, `cli`. After: [`crate::driver`] (through a bounded queue), [`crate::peer`] (forwarding).

mod shared;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorum::{Change, ClusterId, Index, Member, NodeId, Refusal, Role, SharedConfig, Term};
use tokio::sync::{mpsc, oneshot, watch};

use crate::kv::{Command, Item, Outcome, REQUEST_KEY_BYTES_MAX, Store, View};
use crate::metrics::Metrics;
use crate::options::NodeOptions;
pub(crate) use shared::Shared;

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
    fn blank() -> NodeState {
        NodeState {
            role: Role::Follower,
            term: Term(0),
            leader: None,
            cluster: None,
            config: None,
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

/// How a write is to be done.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// Durable copies to wait for, if more than W.
    pub copies: Option<usize>,
    /// Whether a follower passes the write on to the leader.
    pub forward: bool,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { copies: None, forward: true }
    }
}

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Written {
    /// What the command led to.
    pub outcome: Outcome,
    /// The log index of the command: the revision of what it wrote.
    pub revision: u64,
    /// The term it was written in.
    pub term: u64,
    /// The copies, the leader's included, that held it durably when it was acknowledged.
    pub copies: usize,
    /// Whether it was done before, at that revision, under the same idempotency key. Told between nodes by `forward`, apart from the rest:
    /// a version without it reads the rest alike.
    #[serde(skip)]
    pub repeated: bool,
}

/// Why a write has no acknowledgement. All but [`WriteError::Unknown`] are certain: nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum WriteError {
    /// No leader is known (or it was lost before it took the write).
    #[error("no leader is known at the moment: try again")]
    NoLeader,
    /// This node does not lead and was asked not to forward.
    #[error("this node does not lead{}", .leader.as_ref().map(|m| format!(": ask {}", m.http)).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// The cluster's first configuration is not held by every node yet.
    #[error("the cluster is still forming: not every node has joined")]
    Forming,
    /// Fewer than W voters are in contact with the leader.
    #[error("{live} of the {needed} copies that a write needs are in contact with the leader")]
    NoQuorum {
        /// In contact, the leader included.
        live: usize,
        /// W, or the copies asked for.
        needed: usize,
    },
    /// The queue is full.
    #[error("too many writes are under way: try again in a moment")]
    Overloaded,
    /// The disk is nearly full.
    #[error("the disk is nearly full: deletes are still taken")]
    NoSpace,
    /// More copies were asked for than there are.
    #[error("{wanted} copies were asked for, there are {voters}")]
    TooManyCopies {
        /// As asked for.
        wanted: usize,
        /// N.
        voters: usize,
    },
    /// The node is stopping.
    #[error("this node is stopping")]
    Stopping,
    /// The leader does not take such a command: it cannot read it, or it is beyond its limits.
    #[error("the leader does not take this: {0}")]
    NotTaken(String),
    /// The write was appended, but W copies were not confirmed: it may or may not have happened.
    #[error("the write was appended but not confirmed ({0}): it may or may not take effect")]
    Unknown(String),
    /// This node belongs to no cluster yet.
    #[error("this node belongs to no cluster yet: it waits {}", match .waits_for {
        Some(1) => "for 1 more node".to_owned(),
        Some(n) => format!("for {n} more nodes"),
        None => "to be taken into one".to_owned(),
    })]
    NotFormed {
        /// How many nodes it waits for, if it is to found the cluster.
        waits_for: Option<usize>,
    },
    /// Some member may not know such a command yet.
    #[error(
        "idempotency keys can be used once every node of the cluster knows them: {behind} runs an earlier version, or has not been heard of since the leader started"
    )]
    MixedVersions {
        /// Its name.
        behind: String,
    },
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write acknowledged before the read began.
    #[default]
    Linearizable,
    /// Sees whatever this node has applied.
    Local,
}

/// Why a read cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum ReadError {
    /// No leader is known that could confirm the read.
    #[error("no leader is known at the moment: try again, or read with consistency=local")]
    NoLeader,
    /// This node does not lead and was asked not to go to the leader.
    #[error("this node does not lead{}", .leader.as_ref().map(|m| format!(": ask {}", m.http)).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// The leader could not confirm in time that it still leads, or this node did not catch up in time.
    #[error("the read could not be confirmed in time: try again, or read with consistency=local")]
    Timeout,
    /// Too many reads wait.
    #[error("too many reads are under way: try again in a moment")]
    Overloaded,
    /// The node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

/// Why a change of configuration or leadership was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum ChangeError {
    /// No leader is known.
    #[error("no leader is known at the moment: try again")]
    NoLeader,
    /// The version given is not the one in force.
    #[error("the configuration is at version {0} now: read it again and repeat the change")]
    VersionMismatch(u64),
    /// The change is not possible; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The outcome is not known: leadership or time was lost on the way.
    #[error("the outcome of the change is unknown ({0}): read the configuration again")]
    Unknown(String),
}

/// What the driver is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Append a command.
    Write(WriteAsk),
    /// Confirm leadership and name the index a read must see.
    Barrier(oneshot::Sender<Result<Index, ReadError>>),
    /// Change the configuration.
    Change(Box<Change>, oneshot::Sender<Result<u64, ChangeError>>),
    /// Hand leadership over.
    Transfer(Option<NodeId>, oneshot::Sender<Result<(), ChangeError>>),
    /// Campaign now.
    Campaign(oneshot::Sender<Result<(), ChangeError>>),
}

/// One write on its way to the driver.
#[derive(Debug)]
pub(crate) struct WriteAsk {
    /// The encoded command.
    pub payload: Bytes,
    /// Whether it frees space, and so is taken on a full disk.
    pub frees_space: bool,
    /// As in [`WriteOptions`].
    pub copies: Option<usize>,
    /// When the request arrived.
    pub arrived: Instant,
    /// Who waits.
    pub reply: oneshot::Sender<Result<Written, WriteError>>,
}

/// Asks the leader on behalf of this node: implemented over the peer connections.
pub(crate) trait Forward: Send + Sync {
    /// Passes an encoded command on. The answer is `Unknown` unless it is certain that nothing was appended.
    fn write(
        &self,
        to: NodeId,
        payload: Bytes,
        copies: Option<usize>,
    ) -> oneshot::Receiver<Result<Written, WriteError>>;
    /// Asks for the index a linearizable read must see.
    fn barrier(&self, to: NodeId) -> oneshot::Receiver<Result<Index, ReadError>>;
    /// Where a member's peer port is now, as far as this node knows better than the configuration.
    fn peer_address(&self, of: NodeId) -> Option<String>;
    /// From now on appends of entries are delayed by a time in this range.
    fn set_delay(&self, range: (Duration, Duration));
}

/// Between two attempts to have a read confirmed when the first was lost with its leader: a tick of the driver.
const BARRIER_AGAIN: Duration = Duration::from_millis(10);

/// What a command takes beyond its keys and values, for each of them: far more than kind, lengths and condition need.
const COMMAND_BYTES: usize = 64;

/// What an idempotency key takes at most, with its stamp.
const ONCE_BYTES: usize = COMMAND_BYTES + REQUEST_KEY_BYTES_MAX;

/// A node, as its faces see it.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

/// A write that was handed in; resolves to its result. Dropping it does not withdraw the write.
#[derive(Debug)]
pub struct PendingWrite(Pending);

#[derive(Debug)]
enum Pending {
    Known(Option<Result<Written, WriteError>>),
    Asked(oneshot::Receiver<Result<Written, WriteError>>),
}

impl Future for PendingWrite {
    type Output = Result<Written, WriteError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Pending::Known(result) => Poll::Ready(
                result.take().unwrap_or_else(|| Err(WriteError::Unknown("polled after it was answered".into()))),
            ),
            // The driver and the forwarder answer everything they took, within the request timeout; a dropped sender means the node stops.
            Pending::Asked(receiver) => Pin::new(receiver)
                .poll(cx)
                .map(|r| r.unwrap_or_else(|_| Err(WriteError::Unknown("the node stopped".into())))),
        }
    }
}

impl Handle {
    /// The settings the node runs with.
    #[must_use]
    pub fn options(&self) -> &NodeOptions {
        &self.shared.options
    }

    /// The identity of the node's disk.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.shared.me.id
    }

    /// How often the node was started on this disk.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.shared.incarnation
    }

    /// The node's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// The node's data, as far as it has been applied.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Role, term, leader and configuration as of the driver's last turn.
    #[must_use]
    pub fn state(&self) -> Arc<NodeState> {
        self.shared.state.load_full()
    }

    /// Whether this node leads, as of the driver's last turn.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.shared.state.load().role == Role::Leader
    }

    /// The highest index applied.
    #[must_use]
    pub fn applied(&self) -> Index {
        *self.shared.applied.borrow()
    }

    /// Asks the node to stop in good order; it transfers leadership first.
    pub fn request_stop(&self) {
        self.shared.stop.send_replace(true);
    }

    /// To be said before a stop in which every node of the cluster goes down: this one then looks for no heir, who would be going down too.
    pub fn expect_no_heir(&self) {
        self.shared.no_heir.store(true, Ordering::Relaxed);
    }

    /// Holds the node still, as SIGSTOP does with a process, or lets it go on. Its disk may finish what it was given before.
    pub(crate) fn pause(&self, pause: bool) {
        self.shared.pause.hold(pause);
    }

    /// Resolves when the node is not held still.
    pub(crate) async fn awake(&self) {
        self.shared.pause.over().await;
    }

    /// Another simulated delay of appends of entries, from now on.
    pub(crate) fn set_delay(&self, range: (Duration, Duration)) {
        self.shared.forward.set_delay(range);
    }

    /// Resolves when the node was asked to stop. Servers stop accepting then and end their connections.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.shared.stop.subscribe()
    }

    /// The item under a key, as far as this node has applied; after [`Handle::barrier`]. May wait for the disk, but holds up nobody else.
    ///
    /// # Errors
    /// When the engine cannot be read: the node ends then.
    pub async fn item(&self, key: &[u8]) -> Result<Option<Item>, ReadError> {
        self.shared.store.read(key).await.map_err(|_| ReadError::Stopping)
    }

    /// To be awaited before [`Handle::submit`] on a task: if finding what applying will need may take the disk, it is found now, elsewhere.
    pub async fn prepare(&self, command: &Command) {
        if self.leads() {
            self.shared.store.prepare(command).await;
        }
    }

    /// Hands a write in without waiting for it. Writes handed in one after the other by one task get their places in the log in that order.
    #[must_use]
    pub fn submit(&self, command: &Command, options: WriteOptions) -> PendingWrite {
        let state = self.shared.state.load();
        let refuse = |error| PendingWrite(Pending::Known(Some(Err(error))));
        if let Some(wanted) = options.copies {
            let voters = state.config.as_ref().map_or(0, |c| c.voters.len());
            if state.config.is_some() && wanted > voters {
                return refuse(WriteError::TooManyCopies { wanted, voters });
            }
        }
        let payload = command.encode();
        if state.role == Role::Leader {
            self.shared.store.prefetch(command);
            return PendingWrite(self.enqueue(payload, command.frees_space(), options.copies));
        }
        if !options.forward {
            return refuse(WriteError::NotLeader { leader: state.leader.clone() });
        }
        match &state.leader {
            Some(leader) => PendingWrite(Pending::Asked(self.shared.forward.write(leader.id, payload, options.copies))),
            None if state.config.is_none() => refuse(WriteError::NotFormed { waits_for: state.waits_for }),
            None => refuse(WriteError::NoLeader),
        }
    }

    /// Hands in a command that another node forwarded, already encoded. Never forwarded again: one hop. What applying it will need is found
    /// first, as by [`Handle::prepare`]: to keep their order, await one before the next.
    pub(crate) async fn submit_forwarded(&self, payload: Bytes, copies: Option<usize>) -> PendingWrite {
        let Some(command) = Command::decode(&payload) else {
            let why = "it runs another version of quorate than this node".to_owned();
            return PendingWrite(Pending::Known(Some(Err(WriteError::NotTaken(why)))));
        };
        // The node that passed it on has checked its own limits; these are the ones that hold.
        if let Err(why) = self.check_limits(&command, payload.len()) {
            return PendingWrite(Pending::Known(Some(Err(WriteError::NotTaken(why)))));
        }
        self.prepare(&command).await;
        self.shared.store.prefetch(&command);
        PendingWrite(self.enqueue(payload, command.frees_space(), copies))
    }

    fn check_limits(&self, command: &Command, bytes: usize) -> Result<(), String> {
        let limits = &self.shared.options.limits;
        let (mut keys, mut longest) = (0, 0);
        for key in command.keys() {
            keys += 1;
            longest = longest.max(key.len());
        }
        if longest == 0 || longest > limits.key_bytes {
            return Err(format!("a key has {longest} bytes, the limit is 1 to {}", limits.key_bytes));
        }
        if keys > limits.batch_keys {
            return Err(format!("it names {keys} keys, the limit is {}", limits.batch_keys));
        }
        // What a command of so many keys may take in all; more than one value of the largest size must have come in several.
        let most = keys.saturating_mul(limits.key_bytes + limits.value_bytes + COMMAND_BYTES) + ONCE_BYTES;
        if bytes > most { Err(format!("it has {bytes} bytes, the limit is {most}")) } else { Ok(()) }
    }

    /// Hands a write in at a time of the caller's clock: for whoever drives a node by hand.
    pub(crate) fn submit_at(
        &self,
        command: &Command,
        copies: Option<usize>,
        arrived: Instant,
    ) -> oneshot::Receiver<Result<Written, WriteError>> {
        self.shared.store.prefetch(command);
        match self.enqueue_at(command.encode(), command.frees_space(), copies, arrived) {
            Pending::Asked(receiver) => receiver,
            Pending::Known(known) => {
                let (reply, receiver) = oneshot::channel();
                let _ = known.map(|known| reply.send(known));
                receiver
            }
        }
    }

    /// As [`Handle::change_config`], without waiting.
    pub(crate) fn ask_change(&self, change: Change) -> oneshot::Receiver<Result<u64, ChangeError>> {
        self.put(|reply| Ask::Change(Box::new(change), reply))
    }

    /// As [`Handle::transfer`], without waiting.
    pub(crate) fn ask_transfer(&self, to: Option<NodeId>) -> oneshot::Receiver<Result<(), ChangeError>> {
        self.put(|reply| Ask::Transfer(to, reply))
    }

    /// As [`Handle::campaign`], without waiting.
    pub(crate) fn ask_campaign(&self) -> oneshot::Receiver<Result<(), ChangeError>> {
        self.put(Ask::Campaign)
    }

    /// Puts a question into the queue if there is room; if not, its answer never comes.
    fn put<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> oneshot::Receiver<T> {
        let (reply, receiver) = oneshot::channel();
        let _ = self.shared.asks.try_send(ask(reply));
        receiver
    }

    fn enqueue(&self, payload: Bytes, frees_space: bool, copies: Option<usize>) -> Pending {
        self.enqueue_at(payload, frees_space, copies, Instant::now())
    }

    fn enqueue_at(&self, payload: Bytes, frees_space: bool, copies: Option<usize>, arrived: Instant) -> Pending {
        let (reply, receiver) = oneshot::channel();
        let ask = Ask::Write(WriteAsk { payload, frees_space, copies, arrived, reply });
        match self.shared.asks.try_send(ask) {
            Ok(()) => Pending::Asked(receiver),
            Err(mpsc::error::TrySendError::Full(_)) => Pending::Known(Some(Err(WriteError::Overloaded))),
            Err(mpsc::error::TrySendError::Closed(_)) => Pending::Known(Some(Err(WriteError::Stopping))),
        }
    }

    /// Writes and waits for the acknowledgement, at most the request timeout.
    ///
    /// # Errors
    /// As [`WriteError`] says; only `Unknown` leaves the outcome open.
    pub async fn write(&self, command: &Command, options: WriteOptions) -> Result<Written, WriteError> {
        self.prepare(command).await;
        self.submit(command, options).await
    }

    /// Waits until a read from [`Handle::store`] has the wanted consistency and shows at least `min_revision`.
    ///
    /// # Errors
    /// When that cannot be established in time: at most a request timeout for the confirmation, and another for catching up with it.
    pub async fn barrier(
        &self,
        consistency: Consistency,
        forward: bool,
        min_revision: Option<u64>,
    ) -> Result<(), ReadError> {
        // After a crash in the middle of a drain, what is there before this is not the state of any one revision.
        let mut at_least = Index(min_revision.unwrap_or(0)).max(self.shared.store.readable_from());
        if consistency == Consistency::Linearizable {
            // Driver and forwarder answer within the request timeout: a timer for each read would cost more than the rest of this.
            at_least = at_least.max(self.confirmed(forward).await?);
        }
        if self.applied() >= at_least {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + self.shared.options.request_timeout;
        let mut applied = self.shared.applied.clone();
        match tokio::time::timeout_at(deadline, applied.wait_for(|a| *a >= at_least)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopping),
            Err(_) => Err(ReadError::Timeout),
        }
    }

    /// The index that a linearizable read must see. Asking has no effect: an answer that is lost with its leader, or with the connection to it, is asked
    /// for again, for as long as another leader may take to be elected.
    async fn confirmed(&self, forward: bool) -> Result<Index, ReadError> {
        let mut result = self.ask_barrier(forward)?.await.map_err(|_| ReadError::Stopping)?;
        if result != Err(ReadError::NoLeader) {
            return result;
        }
        let deadline = Instant::now() + self.shared.options.request_timeout.min(2 * self.shared.options.election.1);
        while result == Err(ReadError::NoLeader) && Instant::now() < deadline {
            // The driver publishes who leads about that often.
            tokio::time::sleep(BARRIER_AGAIN).await;
            result = match self.ask_barrier(forward) {
                Ok(asked) => asked.await.map_err(|_| ReadError::Stopping)?,
                Err(error) => Err(error),
            };
        }
        result
    }

    fn ask_barrier(&self, forward: bool) -> Result<oneshot::Receiver<Result<Index, ReadError>>, ReadError> {
        let state = self.shared.state.load();
        if state.role == Role::Leader {
            return self.enqueue_barrier();
        }
        if !forward {
            return Err(ReadError::NotLeader { leader: state.leader.clone() });
        }
        let leader = state.leader.as_ref().ok_or(ReadError::NoLeader)?;
        Ok(self.shared.forward.barrier(leader.id))
    }

    /// Asks this node's own driver, and no other, to confirm leadership.
    pub(crate) fn enqueue_barrier(&self) -> Result<oneshot::Receiver<Result<Index, ReadError>>, ReadError> {
        let (reply, receiver) = oneshot::channel();
        self.shared.asks.try_send(Ask::Barrier(reply)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopping,
        })?;
        Ok(receiver)
    }

    /// A view of the data that stays the same while it is held; for listings. Hold it briefly.
    #[must_use]
    pub fn view(&self) -> View {
        self.shared.store.view()
    }

    /// Changes the configuration (on the leader; admin requests are not forwarded) and waits until the change is committed. Returns the version then in
    /// force.
    ///
    /// # Errors
    /// As [`ChangeError`] says.
    pub async fn change_config(&self, change: Change) -> Result<u64, ChangeError> {
        self.ask(|reply| Ask::Change(Box::new(change), reply)).await
    }

    /// Hands leadership to a voter and waits until another node leads.
    ///
    /// # Errors
    /// As [`ChangeError`] says.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<(), ChangeError> {
        self.ask(|reply| Ask::Transfer(to, reply)).await
    }

    /// Makes this node campaign: a failover by hand. Returns when it leads.
    ///
    /// # Errors
    /// As [`ChangeError`] says.
    pub async fn campaign(&self) -> Result<(), ChangeError> {
        self.ask(Ask::Campaign).await
    }

    async fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, ChangeError>>) -> Ask,
    ) -> Result<T, ChangeError> {
        let (reply, receiver) = oneshot::channel();
        let sent = self.shared.asks.try_send(make(reply));
        sent.map_err(|_| ChangeError::Refused("too many requests are under way: try again in a moment".into()))?;
        match tokio::time::timeout(self.shared.options.request_timeout, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ChangeError::Unknown("the node stopped".into())),
            Err(_) => Err(ChangeError::Unknown("no answer in time".into())),
        }
    }
}

impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> WriteError {
        match refusal {
            Refusal::Forming => WriteError::Forming,
            Refusal::NoQuorum { live, needed } => WriteError::NoQuorum { live, needed },
            _ => WriteError::NoLeader,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::testing;

    /// The connection to the leader breaks so often, then the leader answers.
    struct Breaks(AtomicUsize);

    impl Forward for Breaks {
        fn write(&self, _: NodeId, _: Bytes, _: Option<usize>) -> oneshot::Receiver<Result<Written, WriteError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            oneshot::channel().1
        }

        fn barrier(&self, _: NodeId) -> oneshot::Receiver<Result<Index, ReadError>> {
            let (reply, receiver) = oneshot::channel();
            let left = self.0.load(Ordering::Relaxed);
            self.0.store(left.saturating_sub(1), Ordering::Relaxed);
            let _ = reply.send(if left > 0 { Err(ReadError::NoLeader) } else { Ok(Index(0)) });
            receiver
        }

        fn peer_address(&self, _: NodeId) -> Option<String> {
            Some("elsewhere:7400".to_owned())
        }

        fn set_delay(&self, _: (Duration, Duration)) {}
    }

    fn handle(breaks: usize) -> Handle {
        testing::handle_with(Role::Follower, |_| {}, Arc::new(Breaks(AtomicUsize::new(breaks))))
    }

    #[tokio::test]
    async fn a_read_whose_way_to_the_leader_breaks_is_asked_for_again() {
        let read = |breaks| async move { handle(breaks).barrier(Consistency::Linearizable, true, None).await };
        assert_eq!(read(3).await, Ok(()));
        assert_eq!(read(usize::MAX).await, Err(ReadError::NoLeader), "not for ever");
    }

    #[tokio::test]
    async fn a_node_that_is_held_still_goes_on_when_it_is_let_go() {
        let handle = handle(0);
        handle.awake().await;
        handle.pause(true);
        let waiting = tokio::spawn({
            let handle = handle.clone();
            async move { handle.awake().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "it is held");
        handle.pause(false);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it goes on").expect("without a panic");
    }

    #[tokio::test]
    async fn a_write_is_passed_on_once_whatever_becomes_of_it() {
        let handle = handle(0);
        let put = Command::Delete { key: "k".into(), condition: crate::kv::Condition::None };
        let result = handle.write(&put, WriteOptions::default()).await;
        assert!(matches!(result, Err(WriteError::Unknown(_))), "{result:?}");
    }

    #[tokio::test]
    async fn a_write_on_a_node_without_a_cluster_says_what_the_node_waits_for() {
        let handle = handle(0);
        for (waits_for, text) in
            [(Some(2), "for 2 more nodes"), (Some(1), "for 1 more node"), (None, "to be taken into one")]
        {
            let state = NodeState { config: None, leader: None, waits_for, ..(*handle.state()).clone() };
            handle.shared.state.store(Arc::new(state));
            let delete = Command::Delete { key: "k".into(), condition: crate::kv::Condition::None };
            let error = handle.write(&delete, WriteOptions::default()).await.expect_err("no cluster");
            assert_eq!(error, WriteError::NotFormed { waits_for });
            assert_eq!(error.to_string(), format!("this node belongs to no cluster yet: it waits {text}"));
        }
    }
}
