//! Connections that others made: reading messages into events, and calls' answers back.
//!
//! What does not fit into the driver's queue stays unread: only that connection waits, and its sender notices. Garbage
//! ends the connection, never more than that.
//!
//! Before: [`super::handshake`]. After: the driver, through [`PeerEvent`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, future};
use quorum::{ClusterId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::connection::outbound;
use super::frame::{self, Framed};
use super::handshake::{self, HandshakeError, Hello, LaneKind, Ticket};
use super::network::Shared;
use super::snapshot::{self, SnapshotStore};
use super::wire::{self, INTRODUCE, Incoming, WELCOME};
use super::{CallError, Introduction, PeerEvent};

/// Room made before each read of a bulk connection: what one system call may bring. Records are kept where they were
/// read, so this is also what one of them can keep alive.
const READ_BULK: usize = 256 << 10;

/// Likewise for control connections, which carry tens of bytes at a time.
const READ_CONTROL: usize = 4 << 10;

/// Below this room is made anew.
const READ_LEAST: usize = 2 << 10;

/// Events handed over at once.
const EVENTS_AT_ONCE: usize = 128;

/// Answers written at once, bytes.
const ANSWER_BYTES: usize = 256 << 10;

/// Longest introduction.
const INTRODUCTION_MAX: usize = 4 << 10;

/// Pause after `accept` failed, as it does when the process has no descriptor left.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Accepts connections until the network stops.
pub(super) async fn listen<S: SnapshotStore>(
    shared: Arc<Shared>,
    listener: TcpListener,
    events: mpsc::Sender<PeerEvent<S::Imported>>,
    snapshots: Arc<S>,
) {
    let mut stop = shared.stop.subscribe();
    let places = Arc::new(Semaphore::new(shared.options.connections));
    let open = shared.metrics.connections.with_label_values(&["peer"]);
    let importing = Arc::new(Semaphore::new(1));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                shared.complain(&format!("cannot accept a connection from another node: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            shared.complain("too many connections from other nodes: one was closed");
            continue;
        };
        let (task_shared, events, snapshots) = (shared.clone(), events.clone(), snapshots.clone());
        let (open, importing) = (open.clone(), importing.clone());
        shared.spawn(async move {
            let _place = place;
            open.inc();
            serve(&task_shared, stream, &events, &snapshots, &importing).await;
            open.dec();
        });
    }
}

async fn serve<S: SnapshotStore>(
    shared: &Arc<Shared>,
    stream: TcpStream,
    events: &mpsc::Sender<PeerEvent<S::Imported>>,
    snapshots: &Arc<S>,
    importing: &Arc<Semaphore>,
) {
    let mut stop = shared.stop.subscribe();
    let mut binding = shared.registry.binding();
    let options = &shared.options;
    let dead_after = options.election_max * 2;
    let accepting = handshake::accept(&shared.registry, stream, options.handshake_timeout, dead_after);
    let accepted = tokio::select! {
        accepted = accepting => accepted,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    let (framed, hello, mut ticket): (Framed, Hello, Ticket) = match accepted {
        Ok(accepted) => accepted,
        // A port scan or a probe of liveness says nothing and goes: not worth a line.
        Err(HandshakeError::Io(_) | HandshakeError::Timeout) => return,
        Err(error) => return shared.complain(&format!("a connection was refused: {error}")),
    };
    let from = hello.id;
    let serving = async {
        match hello.lane {
            LaneKind::Control | LaneKind::Bulk => {
                shared.greeted_by(&hello.member);
                let room = if hello.lane == LaneKind::Bulk { READ_BULK } else { READ_CONTROL };
                messages(shared, from, hello.cluster, framed, room, events).await
            }
            LaneKind::Introduce => introduced(shared, from, framed, events).await,
            LaneKind::Snapshot => {
                snapshot::receive(shared, (from, hello.cluster), framed, events, snapshots, importing).await
            }
        }
    };
    let supersedable = matches!(hello.lane, LaneKind::Control | LaneKind::Bulk);
    let theirs = hello.cluster;
    tokio::select! {
        ended = serving => if let Err(why) = ended {
            shared.complain(&format!("connection from node {from} ended: {why}"));
        },
        () = ticket.superseded(), if supersedable => {}
        () = outbound(&mut binding, theirs) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// A call on its way back.
enum Reply {
    Wait(u64, oneshot::Receiver<Bytes>),
    /// Too many are under way.
    Refuse(u64),
}

async fn messages<I>(
    shared: &Shared,
    from: NodeId,
    cluster: Option<ClusterId>,
    framed: Framed,
    room: usize,
    events: &mpsc::Sender<PeerEvent<I>>,
) -> Result<(), String> {
    let Framed { stream, buf } = framed;
    let (read, write) = stream.into_split();
    let under_way = AtomicUsize::new(0);
    let (replies, waiting) = mpsc::channel(EVENTS_AT_ONCE);
    let reader = Reader { shared, from, cluster, read, buf, room, events, replies, under_way: &under_way };
    tokio::select! {
        ended = reader.run() => ended,
        ended = answers(shared, write, waiting, &under_way) => ended,
    }
}

struct Reader<'a, I> {
    shared: &'a Shared,
    from: NodeId,
    cluster: Option<ClusterId>,
    read: OwnedReadHalf,
    buf: BytesMut,
    room: usize,
    events: &'a mpsc::Sender<PeerEvent<I>>,
    replies: mpsc::Sender<Reply>,
    under_way: &'a AtomicUsize,
}

impl<I> Reader<'_, I> {
    async fn run(mut self) -> Result<(), String> {
        let at_once = EVENTS_AT_ONCE.min(self.events.max_capacity());
        let mut ready = Vec::new();
        loop {
            // Everything that was read is understood first and handed over together: the driver is woken once.
            while let Some(frame) =
                frame::parse(&mut self.buf, self.shared.options.max_frame_bytes).map_err(|e| e.to_string())?
            {
                let incoming = wire::decode(frame, self.shared.options.max_record_bytes).map_err(|e| e.to_string())?;
                match incoming {
                    Incoming::Message { message, records } => {
                        ready.push(PeerEvent::Message { from: self.from, cluster: self.cluster, message, records });
                    }
                    Incoming::Call { id, body } => ready.extend(self.call(id, body).await),
                    Incoming::Answer { .. } => return Err("an answer came where only questions do".into()),
                }
                if ready.len() >= at_once {
                    self.hand_over(&mut ready).await?;
                }
            }
            self.hand_over(&mut ready).await?;
            if self.buf.capacity() - self.buf.len() < READ_LEAST {
                self.buf.reserve(self.room);
            }
            if self.read.read_buf(&mut self.buf).await.map_err(|e| e.to_string())? == 0 {
                return Ok(());
            }
        }
    }

    async fn hand_over(&self, ready: &mut Vec<PeerEvent<I>>) -> Result<(), String> {
        if ready.is_empty() {
            return Ok(());
        }
        let permits = self.events.reserve_many(ready.len()).await.map_err(|_| "the node is stopping")?;
        permits.zip(ready.drain(..)).for_each(|(permit, event)| permit.send(event));
        Ok(())
    }

    async fn call(&self, id: u64, body: Bytes) -> Option<PeerEvent<I>> {
        if self.under_way.load(Ordering::Relaxed) >= self.shared.options.calls {
            let _ = self.replies.send(Reply::Refuse(id)).await;
            return None;
        }
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let (reply, receiver) = oneshot::channel();
        let _ = self.replies.send(Reply::Wait(id, receiver)).await;
        Some(PeerEvent::Call { from: self.from, body, reply })
    }
}

/// Writes the answers as they come, several at a time if they do.
async fn answers(
    shared: &Shared,
    mut write: OwnedWriteHalf,
    mut waiting: mpsc::Receiver<Reply>,
    under_way: &AtomicUsize,
) -> Result<(), String> {
    let mut open = FuturesUnordered::new();
    let mut out = BytesMut::new();
    let put = |out: &mut BytesMut, (id, answer): (u64, Result<Bytes, oneshot::error::RecvError>)| {
        under_way.fetch_sub(1, Ordering::Relaxed);
        match &answer {
            Ok(body) if body.len() + wire::MESSAGE_HEAD_MAX <= shared.options.max_frame_bytes => {
                wire::put_answer(out, id, Ok(body));
            }
            _ => wire::put_answer(out, id, Err(CallError::Lost)),
        }
    };
    let wait = |reply| match reply {
        Reply::Wait(id, receiver) => Ok(receiver.map(move |answer| (id, answer))),
        Reply::Refuse(id) => Err(id),
    };
    loop {
        tokio::select! {
            reply = waiting.recv() => match reply.map(wait) {
                Some(Ok(answer)) => open.push(answer),
                Some(Err(id)) => wire::put_answer(&mut out, id, Err(CallError::Refused)),
                None => return future::pending().await,
            },
            Some(answer) = open.next(), if !open.is_empty() => put(&mut out, answer),
        }
        while out.len() < ANSWER_BYTES
            && let Some(Some(answer)) = open.next().now_or_never()
        {
            put(&mut out, answer);
        }
        if !out.is_empty() {
            write.write_all(&out).await.map_err(|e| e.to_string())?;
            shared.metrics.peer_sent_bytes.inc_by(out.len() as u64);
            out.clear();
        }
    }
}

async fn introduced<I>(
    shared: &Shared,
    from: NodeId,
    mut framed: Framed,
    events: &mpsc::Sender<PeerEvent<I>>,
) -> Result<(), String> {
    let exchange = async {
        let frame = framed.next(INTRODUCTION_MAX).await.map_err(|e| e.to_string())?;
        let Introduction { member, blank } = wire::get_value(&frame, INTRODUCE).map_err(|e| e.to_string())?;
        if member.id != from {
            return Err(format!("it introduced node {}", member.id));
        }
        let (reply, answer) = oneshot::channel();
        events.send(PeerEvent::Introduced { member, blank, reply }).await.map_err(|_| "the node is stopping")?;
        // No answer: the node is stopping, or had no time. The newcomer tries again.
        let Ok(welcome) = answer.await else { return Ok(()) };
        let frame = wire::value(WELCOME, &welcome).map_err(|e| e.to_string())?;
        framed.send(&frame).await.map_err(|e| e.to_string())
    };
    tokio::time::timeout(shared.options.call_timeout, exchange).await.unwrap_or(Ok(()))
}
