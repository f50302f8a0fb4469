//! One lane to one peer, from the dialing side: the queue the driver puts into, the task that keeps
//! a connection and writes.
//!
//! Putting never waits. While there is no connection, messages are kept only during the first attempt at one; then they
//! are dropped, since what is old is of no use to the protocol. When a connection breaks,
//! [`PeerEvent::Unreachable`](super::PeerEvent) says so once, and every call gets its answer: lost if it was written,
//! not sent if it was still waiting.
//!
//! Before: [`super::network`]. After: [`super::accept`] at the other end.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quorum::{Body, ClusterId, Index, Message, NodeId};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot, watch};

use super::delay::{Sleeper, unit};
use super::frame::{self, Framed};
use super::handshake::{self, LaneKind};
use super::network::Shared;
use super::wire::{self, Incoming};
use super::{CallError, Records};

/// What one message counts besides its records: what bounds the memory of many small ones.
const MESSAGE_COST: usize = 128;

/// Bytes taken from the queue for one turn of the writer: enough that system calls do not count, little enough that
/// what is being written stays small beside the queue.
const TURN_BYTES: usize = 1 << 20;

/// Pieces at least this long are written from where they are; shorter ones are cheaper copied than listed.
const COPY_MAX: usize = 8 << 10;

/// Most pieces handed to one system call: half of Linux's own bound.
const PIECES_MAX: usize = 512;

/// First and longest wait between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A connection that lived this long was a good one: the next attempt is made at once.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// Failed attempts after which a node that is no member, and is not connected here either, is forgotten.
pub(super) const GUEST_ATTEMPTS: u32 = 5;

/// How long a stopping lane may take to write what is queued.
const FLUSH: Duration = Duration::from_millis(200);

/// Another node, with a lane of each kind.
#[derive(Debug)]
pub(super) struct Peer {
    pub id: NodeId,
    /// Where it is dialed.
    pub address: watch::Sender<String>,
    /// Whether it is a member, and so dialed for ever.
    pub member: watch::Sender<bool>,
    pub control: Arc<Lane>,
    pub bulk: Arc<Lane>,
    /// Why it cannot be reached.
    pub trouble: Mutex<Option<String>>,
    /// Whether a snapshot is on its way to it.
    pub snapshot: Arc<std::sync::atomic::AtomicBool>,
}

impl Peer {
    /// Dials it elsewhere from now on, if it is elsewhere.
    pub(super) fn move_to(&self, address: &str) {
        self.address.send_if_modified(|known| {
            let changed = known != address;
            if changed {
                address.clone_into(known);
            }
            changed
        });
    }

    pub(super) fn new(id: NodeId, address: String, member: bool, queue: (usize, usize)) -> Peer {
        Peer {
            id,
            address: watch::Sender::new(address),
            member: watch::Sender::new(member),
            control: Arc::new(Lane::new(id, LaneKind::Control, queue)),
            bulk: Arc::new(Lane::new(id, LaneKind::Bulk, queue)),
            trouble: Mutex::new(None),
            snapshot: Arc::default(),
        }
    }

    pub(super) fn lanes(&self) -> [&Arc<Lane>; 2] {
        [&self.control, &self.bulk]
    }
}

/// Something to be sent.
#[derive(Debug)]
pub(super) enum Outgoing {
    Message { message: Message, records: Records },
    Call(QueuedCall),
}

/// A call that has not been written yet.
#[derive(Debug)]
pub(super) struct QueuedCall {
    pub id: u64,
    pub body: Bytes,
    pub deadline: Instant,
    pub reply: oneshot::Sender<Result<Bytes, CallError>>,
}

impl Outgoing {
    fn cost(&self) -> usize {
        MESSAGE_COST
            + match self {
                Outgoing::Message { records: Records::Cached(pieces), .. } => pieces.iter().map(Bytes::len).sum(),
                Outgoing::Message { .. } => 0,
                Outgoing::Call(call) => call.body.len(),
            }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first attempt since the connection was lost (or wanted) is under way: things are queued.
    Dialing,
    Up,
    /// That attempt failed: things are dropped.
    Down,
}

#[derive(Debug)]
struct Queue {
    state: State,
    ready: VecDeque<Outgoing>,
    /// Appends under a simulated delay: not before that time, in order.
    delayed: VecDeque<(Instant, Outgoing)>,
    bytes: usize,
    /// Whether something was dropped since the queue was last emptied.
    overflowed: bool,
    /// Whether something was dropped for lack of a connection.
    dropped: bool,
    /// Calls that were written, by id.
    pending: BTreeMap<u64, (Instant, oneshot::Sender<Result<Bytes, CallError>>)>,
}

/// What became of something that was put into a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Queued,
    /// Dropped, because there is no connection.
    Down,
    /// Dropped, because the queue is full; the first since it was empty.
    Overflow,
    /// Dropped like others before it.
    Full,
}

/// A queue and who writes it.
#[derive(Debug)]
pub(super) struct Lane {
    peer: NodeId,
    kind: LaneKind,
    bytes_max: usize,
    messages_max: usize,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Try to connect now.
    pub nudge: Notify,
}

impl Sleeper for Lane {
    fn wake(&self) {
        self.wake.notify_one();
    }
}

impl Lane {
    fn new(peer: NodeId, kind: LaneKind, (bytes_max, messages_max): (usize, usize)) -> Lane {
        let queue = Queue {
            state: State::Dialing,
            ready: VecDeque::new(),
            delayed: VecDeque::new(),
            bytes: 0,
            overflowed: false,
            dropped: false,
            pending: BTreeMap::new(),
        };
        let (queue, wake, nudge) = (Mutex::new(queue), Notify::new(), Notify::new());
        Lane { peer, kind, bytes_max, messages_max, queue, wake, nudge }
    }

    /// Queues, if there is room and hope. With a delay (from now), returns the time at which to wake this lane.
    pub(super) fn put(&self, item: Outgoing, delay: Option<Duration>) -> (Put, Option<Instant>) {
        let cost = item.cost();
        let mut queue = self.queue.lock();
        if queue.state == State::Down {
            queue.dropped = true;
            drop(queue);
            refuse(item, CallError::NotSent);
            return (Put::Down, None);
        }
        let count = queue.ready.len() + queue.delayed.len() + queue.pending.len();
        if count >= self.messages_max || queue.bytes + cost > self.bytes_max {
            let put = if std::mem::replace(&mut queue.overflowed, true) { Put::Full } else { Put::Overflow };
            drop(queue);
            refuse(item, CallError::Refused);
            return (put, None);
        }
        queue.bytes += cost;
        if let Some(delay) = delay {
            let now = Instant::now();
            let due = queue.delayed.back().map_or(now, |(last, _)| now.max(*last)).max(now + delay);
            queue.delayed.push_back((due, item));
            return (Put::Queued, Some(due));
        }
        let first = queue.ready.is_empty();
        queue.ready.push_back(item);
        drop(queue);
        if first {
            self.wake.notify_one();
        }
        (Put::Queued, None)
    }

    /// Takes what is to be written next, about [`TURN_BYTES`] of it.
    fn take(&self, turn: &mut Vec<Outgoing>) {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        while bytes < TURN_BYTES
            && let Some(item) = queue.ready.pop_front()
        {
            bytes += item.cost();
            turn.push(item);
        }
        if !queue.delayed.is_empty() {
            let now = Instant::now();
            while bytes < TURN_BYTES
                && let Some((_, item)) = queue.delayed.pop_front_if(|(due, _)| *due <= now)
            {
                bytes += item.cost();
                turn.push(item);
            }
        }
        queue.bytes -= bytes;
        if queue.ready.is_empty() && queue.delayed.is_empty() {
            queue.overflowed = false;
        }
    }

    /// Notes that a call is about to be written. `false` if nobody waits for it any more: it need not be.
    fn note_call(&self, id: u64, deadline: Instant, reply: oneshot::Sender<Result<Bytes, CallError>>) -> bool {
        if reply.is_closed() {
            return false;
        }
        self.queue.lock().pending.insert(id, (deadline, reply));
        true
    }

    fn answer(&self, id: u64, result: Result<Bytes, CallError>) {
        // Whoever asked may have gone, and the answer may come after the timeout: both are as good as answered.
        if let Some((_, reply)) = self.queue.lock().pending.remove(&id) {
            let _ = reply.send(result);
        }
    }

    /// Ends calls whose time is up.
    pub(super) fn expire(&self, now: Instant) {
        let mut queue = self.queue.lock();
        // Ids grow with their deadlines.
        while let Some(first) = queue.pending.first_entry().filter(|first| first.get().0 <= now) {
            let _ = first.remove().1.send(Err(CallError::Timeout));
        }
        let expired = |item: &Outgoing| matches!(item, Outgoing::Call(call) if call.deadline <= now);
        if queue.ready.iter().any(expired) {
            let (late, kept): (VecDeque<_>, VecDeque<_>) = queue.ready.drain(..).partition(expired);
            queue.ready = kept;
            queue.bytes -= late.iter().map(Outgoing::cost).sum::<usize>();
            drop(queue);
            late.into_iter().for_each(|item| refuse(item, CallError::NotSent));
        }
    }

    /// A connection is there. Whether anything was dropped while it was not.
    fn set_up(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.state = State::Up;
        std::mem::take(&mut queue.dropped)
    }

    /// The connection is gone (`Dialing`: another attempt is made at once) or did not come about.
    /// Everything under way is over.
    fn reset(&self, state: State) {
        let mut queue = self.queue.lock();
        queue.state = state;
        queue.bytes = 0;
        queue.overflowed = false;
        let pending = std::mem::take(&mut queue.pending);
        let ready = std::mem::take(&mut queue.ready);
        let delayed = std::mem::take(&mut queue.delayed);
        queue.dropped |= !ready.is_empty() || !delayed.is_empty();
        drop(queue);
        for (_, reply) in pending.into_values() {
            let _ = reply.send(Err(CallError::Lost));
        }
        let waiting = ready.into_iter().chain(delayed.into_iter().map(|(_, item)| item));
        waiting.for_each(|item| refuse(item, CallError::NotSent));
    }

    /// Ends everything: the lane is not served any more.
    pub(super) fn close(&self) {
        self.reset(State::Down);
    }
}

/// A call that is dropped before it was written certainly has no effect; a message needs no word.
fn refuse(item: Outgoing, why: CallError) {
    if let Outgoing::Call(call) = item {
        let _ = call.reply.send(Err(why));
    }
}

/// Waits between attempts, longer each time, never the same for two nodes.
struct Backoff {
    next: Duration,
    draws: u64,
}

impl Backoff {
    fn new(seed: u128) -> Backoff {
        Backoff { next: BACKOFF.0, draws: seed as u64 ^ (seed >> 64) as u64 }
    }

    fn reset(&mut self) {
        self.next = BACKOFF.0;
    }

    fn wait(&mut self) -> Duration {
        let wait = self.next.mul_f64(0.5 + unit(&mut self.draws) / 2.0);
        self.next = (self.next * 2).min(BACKOFF.1);
        wait
    }
}

/// Keeps one lane connected until the network stops or, of a node that is no member, until it cannot be reached.
pub(super) async fn keep(shared: Arc<Shared>, peer: Arc<Peer>, lane: Arc<Lane>) {
    let mut stop = shared.stop.subscribe();
    let mut address = peer.address.subscribe();
    let mut backoff = Backoff::new(shared.registry.process ^ peer.id.0 ^ lane.kind as u128);
    let mut failures = 0;
    loop {
        let at = address.borrow_and_update().clone();
        let options = &shared.options;
        // Before the handshake, so that no binding after it is missed.
        let binding = shared.registry.binding();
        let dialing = handshake::dial(
            &shared.registry,
            &at,
            lane.kind,
            Some(peer.id),
            options.handshake_timeout,
            options.election_max * 2,
        );
        let dialed = tokio::select! {
            dialed = dialing => dialed,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match dialed {
            Ok((framed, accepted)) => {
                let since = Instant::now();
                *peer.trouble.lock() = None;
                failures = 0;
                if lane.set_up() {
                    shared.report_unreachable(peer.id);
                }
                let why = serve(&shared, &lane, framed, accepted.cluster, binding, &mut address).await;
                lane.reset(State::Dialing);
                if *stop.borrow() {
                    break;
                }
                shared.report_unreachable(peer.id);
                let why = format!("connection to node {} at {at} ended: {why}", peer.id);
                // While a cluster forms, one side after the other is bound to it and says hello once
                // more: nothing to be told of.
                if accepted.cluster.is_none() || *peer.address.borrow() != at {
                    tracing::debug!("{why}");
                } else {
                    shared.complain(&why);
                }
                if since.elapsed() >= GOOD_AFTER {
                    backoff.reset();
                    continue;
                }
            }
            Err(error) => {
                lane.reset(State::Down);
                let why = format!("cannot connect to node {} at {at}: {error}", peer.id);
                shared.complain(&why);
                *peer.trouble.lock() = Some(why);
                failures += 1;
                if failures >= GUEST_ATTEMPTS && shared.forget_guest(&peer) {
                    break;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.wait()) => {}
            () = lane.nudge.notified() => {}
            _ = address.changed() => backoff.reset(),
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    lane.close();
}

/// Uses a connection until it ends, and says why it did.
async fn serve(
    shared: &Arc<Shared>,
    lane: &Lane,
    framed: Framed,
    theirs: Option<ClusterId>,
    mut binding: watch::Receiver<Option<ClusterId>>,
    address: &mut watch::Receiver<String>,
) -> String {
    let mut stop = shared.stop.subscribe();
    let Framed { stream, buf } = framed;
    let (mut read, mut write) = stream.into_split();
    // The writer ends by itself when the node stops, once it has written what is queued: this is for one that cannot.
    let stopping = async {
        let _ = stop.wait_for(|stop| *stop).await;
        tokio::time::sleep(FLUSH).await;
    };
    tokio::select! {
        ended = read_answers(shared, lane, &mut read, buf) => match ended {
            Ok(()) => "closed by the other side".to_owned(),
            Err(error) => error.to_string(),
        },
        error = write_lane(shared, lane, &mut write) => error.to_string(),
        _ = address.changed() => "its address changed".to_owned(),
        () = outbound(&mut binding, theirs) => "it is of another cluster, or of none".to_owned(),
        () = stopping => "this node is stopping".to_owned(),
    }
}

/// Resolves when this node is bound to another cluster than the one the other side named in the handshake. A side that
/// named none may have been bound elsewhere since: it has to say hello again.
pub(super) async fn outbound(binding: &mut watch::Receiver<Option<ClusterId>>, theirs: Option<ClusterId>) {
    loop {
        if binding.changed().await.is_err() {
            return std::future::pending().await;
        }
        if *binding.borrow_and_update() != theirs {
            return;
        }
    }
}

/// Reads what comes back on a connection: answers, on the bulk lane; on the control lane nothing but its end.
async fn read_answers(shared: &Shared, lane: &Lane, read: &mut OwnedReadHalf, mut buf: BytesMut) -> io::Result<()> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    loop {
        while let Some(frame) =
            frame::parse(&mut buf, shared.options.max_frame_bytes).map_err(|e| invalid(e.to_string()))?
        {
            match wire::decode(frame, 0).map_err(|e| invalid(e.to_string()))? {
                Incoming::Answer { id, result } => lane.answer(id, result),
                other => return Err(invalid(format!("not an answer: {other:?}"))),
            }
        }
        buf.reserve(8 << 10);
        if read.read_buf(&mut buf).await? == 0 {
            return Ok(());
        }
    }
}

/// Writes whatever is queued, for as long as the connection takes it.
async fn write_lane(shared: &Arc<Shared>, lane: &Lane, write: &mut OwnedWriteHalf) -> io::Error {
    let mut out = Out::default();
    let mut stop = shared.stop.subscribe();
    loop {
        match write_turn(shared, lane, write, &mut out).await {
            Ok(true) => {}
            // Nothing is due, so nothing is cut off: what was queued before the stop has been written.
            Ok(false) if *stop.borrow() => return io::Error::other("this node is stopping"),
            Ok(false) => tokio::select! {
                () = lane.wake.notified() => {}
                _ = stop.changed() => {}
            },
            Err(error) => return error,
        }
    }
}

/// Writes one turn's worth. `false` if nothing was due.
async fn write_turn(shared: &Arc<Shared>, lane: &Lane, write: &mut OwnedWriteHalf, out: &mut Out) -> io::Result<bool> {
    let mut turn = Vec::new();
    lane.take(&mut turn);
    if turn.is_empty() {
        return Ok(false);
    }
    for item in turn {
        match item {
            Outgoing::Call(QueuedCall { id, body, deadline, reply }) => {
                if lane.note_call(id, deadline, reply) {
                    wire::put_call(&mut out.small, id, &body);
                }
            }
            Outgoing::Message { message, records: Records::FromLog { from, to, bytes } } => {
                // What was queued before goes first, and does not wait for the disk.
                out.flush(shared, write).await?;
                match read_log(shared, &message, from, to, bytes).await {
                    Some(pieces) => out.put(shared, &message, pieces),
                    None => shared.report_unreachable(lane.peer),
                }
            }
            Outgoing::Message { message, records: Records::Cached(pieces) } => out.put(shared, &message, pieces),
            Outgoing::Message { message, records: Records::None } => out.put(shared, &message, Vec::new()),
        }
    }
    out.flush(shared, write).await?;
    Ok(true)
}

/// The records of an append, from the log. `None` if they cannot be sent any more.
async fn read_log(shared: &Arc<Shared>, message: &Message, from: Index, to: Index, bytes: usize) -> Option<Vec<Bytes>> {
    let log = shared.log.clone();
    let read = tokio::task::spawn_blocking(move || log.read(from, to, bytes)).await;
    // Checked after the read: the driver lowers the term before it lets anything be truncated, so what was read under
    // the same term is what the leader of that term has there.
    if !shared.leads(message.term) {
        return None;
    }
    let wanted = match &message.body {
        Body::Append { entries, .. } => entries.len(),
        _ => 0,
    };
    match read {
        Ok(Ok(records)) if records.len() == wanted => Some(records),
        // The log may have been cut at its start meanwhile: the core then sends a snapshot.
        Ok(Ok(records)) => {
            shared.complain(&format!("the log gave {} records of {from}..{to}, not {wanted}", records.len()));
            None
        }
        Ok(Err(error)) => {
            shared.complain(&format!("cannot read {from}..{to} from the log: {error}"));
            None
        }
        Err(_) => None,
    }
}

/// What is about to be written: small things copied together, large ones as they are.
#[derive(Default)]
struct Out {
    pieces: Vec<Bytes>,
    small: BytesMut,
}

impl Out {
    fn put(&mut self, shared: &Shared, message: &Message, records: Vec<Bytes>) {
        let bytes = records.iter().map(Bytes::len).sum::<usize>();
        if bytes + wire::MESSAGE_HEAD_MAX > shared.options.max_frame_bytes {
            shared.complain(&format!("an append of {bytes} bytes is beyond the bound of a frame and was not sent"));
            return;
        }
        wire::put_message(&mut self.small, message, bytes);
        for piece in records {
            if piece.len() <= COPY_MAX {
                self.small.extend_from_slice(&piece);
            } else {
                self.pieces.push(self.small.split().freeze());
                self.pieces.push(piece);
            }
        }
    }

    async fn flush(&mut self, shared: &Shared, write: &mut OwnedWriteHalf) -> io::Result<()> {
        let mut sent = self.small.len();
        if self.pieces.is_empty() {
            write.write_all(&self.small).await?;
            self.small.clear();
        } else {
            self.pieces.push(self.small.split().freeze());
            sent = self.pieces.iter().map(Bytes::len).sum();
            for pieces in self.pieces.chunks(PIECES_MAX) {
                write_all_vectored(write, pieces).await?;
            }
            self.pieces.clear();
        }
        shared.metrics.peer_sent_bytes.inc_by(sent as u64);
        Ok(())
    }
}

async fn write_all_vectored(write: &mut (impl AsyncWrite + Unpin), pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<io::IoSlice<'_>> = pieces.iter().map(|piece| io::IoSlice::new(piece)).collect();
    let mut slices = &mut slices[..];
    io::IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let n = write.write_vectored(slices).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        io::IoSlice::advance_slices(&mut slices, n);
    }
    Ok(())
}
