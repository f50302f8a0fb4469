//! The seam: what HTTP, TCP and the page may ask of a node.
//!
//! A [`Handle`] is cheap to clone and never waits without a bound. Writes go to the driver if this node leads and one
//! hop to the leader if not; reads come from the store once the wanted consistency is established. Nothing here
//! touches the log or the disk.
//!
//! Before: `http`, `tcp`, `cli`. After: [`crate::driver`] (through a bounded queue), [`crate::peer`] (forwarding).

mod answers;
mod intake;
mod shared;
mod state;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorum::{Change, Index, NodeId, Role};
use tokio::sync::{mpsc, oneshot, watch};

use crate::kv::{Command, Item, REQUEST_KEY_BYTES_MAX, Store, View};
use crate::metrics::Metrics;
use crate::options::NodeOptions;

pub use answers::{ChangeError, Consistency, ReadError, WriteError, WriteOptions, Written};
pub(crate) use intake::Held;
pub(crate) use shared::{Asked, Shared};
pub use state::{NodeState, PeerState};

/// What the driver is asked beside writes.
#[derive(Debug)]
pub(crate) enum Ask {
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
            // The driver and the forwarder answer everything they took, within the request timeout; a dropped
            // sender means the node stops.
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

    /// What a connection may hold of a request that is still arriving: nothing yet.
    pub(crate) fn intake(&self) -> Held {
        Held::of(&self.shared.intake)
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

    /// To be said before a stop in which every node of the cluster goes down: this one then looks for no heir, who
    /// would be going down too.
    pub fn expect_no_heir(&self) {
        self.shared.no_heir.store(true, Ordering::Relaxed);
    }

    /// Holds the node still, as SIGSTOP does with a process, or lets it go on. Its disk may finish
    /// what it was given before.
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

    /// The item under a key, as far as this node has applied; after [`Handle::barrier`]. May wait for the disk,
    /// but holds up nobody else.
    ///
    /// # Errors
    /// When the engine cannot be read: the node ends then.
    pub async fn item(&self, key: &[u8]) -> Result<Option<Item>, ReadError> {
        self.shared.store.read(key).await.map_err(|_| ReadError::Stopping)
    }

    /// To be awaited before [`Handle::submit`] on a task: if finding what applying will need may take the disk, it
    /// is found now, elsewhere.
    pub async fn prepare(&self, command: &Command) {
        if self.leads() {
            self.shared.store.prepare(command).await;
        }
    }

    /// Hands a write in without waiting for it. Writes handed in one after the other by one task get their places
    /// in the log in that order.
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

    /// Reads a command that another node forwarded, already encoded.
    pub(crate) fn read_forwarded(&self, payload: &Bytes) -> Result<Command, WriteError> {
        let Some(command) = Command::decode(payload) else {
            return Err(WriteError::NotTaken("it runs another version of quorate than this node".to_owned()));
        };
        // The node that passed it on has checked its own limits; these are the ones that hold.
        self.check_limits(&command, payload.len()).map_err(WriteError::NotTaken)?;
        Ok(command)
    }

    /// Hands in what [`Handle::read_forwarded`] read, after [`Handle::prepare`]. Never forwarded again: one hop.
    pub(crate) fn submit_forwarded(&self, payload: Bytes, command: &Command, copies: Option<usize>) -> PendingWrite {
        self.shared.store.prefetch(command);
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
        // What a command of so many keys may take in all; more than one value of the largest size
        // must have come in several.
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
        match self.shared.writes.try_send(WriteAsk { payload, frees_space, copies, arrived, reply }) {
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
    /// When that cannot be established in time: at most a request timeout for the confirmation, and another
    /// for catching up with it.
    pub async fn barrier(
        &self,
        consistency: Consistency,
        forward: bool,
        min_revision: Option<u64>,
    ) -> Result<(), ReadError> {
        // After a crash in the middle of a drain, what is there before this is not the state of any one revision.
        let mut at_least = Index(min_revision.unwrap_or(0)).max(self.shared.store.readable_from());
        if consistency == Consistency::Linearizable {
            // Driver and forwarder answer within the request timeout: a timer for each read would cost
            // more than the rest of this.
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

    /// The index that a linearizable read must see. Asking has no effect: an answer that is lost with its leader, or
    /// with the connection to it, is asked for again, for as long as another leader may take to be elected.
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

    /// Changes the configuration (on the leader; admin requests are not forwarded) and waits until the change is
    /// committed. Returns the version then in force.
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
