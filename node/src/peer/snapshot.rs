//! Transfers of a whole state to a node that needs entries the log no longer has: a connection each, in chunks.
//!
//! The content is opaque here. Memory is bounded by a few chunks at both ends, time without progress by
//! [`NetworkOptions::snapshot_stall`](super::NetworkOptions); a transfer that ends early leaves
//! nothing behind at the receiver.
//!
//! Before: the driver's `SendSnapshot`. After: [`PeerEvent::Snapshot`] at the other node, whose driver installs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorum::{ClusterId, Index, NodeId, Term};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::PeerEvent;
use super::connection::Peer;
use super::frame::{self, Frame, Framed};
use super::handshake::{self, LaneKind};
use super::network::Shared;
use super::wire::{self, SNAPSHOT_BEGIN, SNAPSHOT_CHUNK, SNAPSHOT_DONE, SNAPSHOT_END};

/// Chunks between the network and the disk of the receiver.
const CHUNKS_QUEUED: usize = 4;

/// How long the receiver may take, after the last chunk, to make the snapshot durable and install it:
/// gigabytes to a slow disk.
const INSTALL_MAX: Duration = Duration::from_secs(300);

/// Longest answer.
const DONE_MAX: usize = 4 << 10;

/// A snapshot that can be read once, in pieces. Every call may block.
pub trait SnapshotSource: Send + 'static {
    /// The last entry it covers.
    fn last(&self) -> Index;
    /// The next piece, below the bound of a frame; `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read; the text says why.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, String>;
}

/// Takes the pieces of one snapshot. Dropped without [`SnapshotSink::finish`] it leaves nothing
/// behind. Every call may block.
pub trait SnapshotSink: Send + 'static {
    /// What a complete snapshot becomes.
    type Imported: Send + 'static;
    /// Takes the next piece.
    ///
    /// # Errors
    /// When it cannot be kept; the text says why.
    fn write(&mut self, chunk: Bytes) -> Result<(), String>;
    /// Takes note that this was all, and makes it durable.
    ///
    /// # Errors
    /// When it is not a whole snapshot or cannot be made durable; the text says why.
    fn finish(self) -> Result<Self::Imported, String>;
}

/// Where received snapshots go.
pub trait SnapshotStore: Send + Sync + 'static {
    /// What a complete snapshot becomes.
    type Imported: Send + 'static;
    /// Takes the pieces of one.
    type Sink: SnapshotSink<Imported = Self::Imported>;
    /// Makes room for one. May block.
    ///
    /// # Errors
    /// When there is none; the text says why.
    fn begin_import(&self) -> Result<Self::Sink, String>;
}

#[derive(Serialize, Deserialize)]
struct Begin {
    term: Term,
}

#[derive(Serialize, Deserialize)]
struct End {
    chunks: u64,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Done {
    /// Why it was not installed.
    failed: Option<String>,
}

/// Frees the peer for the next transfer however this one ends.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Sends one and reports how that went.
pub(super) async fn send(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    term: Term,
    source: Box<dyn SnapshotSource>,
    reply: oneshot::Sender<Result<Index, String>>,
) {
    let busy = Busy(peer.snapshot.clone());
    let mut stop = shared.stop.subscribe();
    let last = source.last();
    let result = tokio::select! {
        sent = stream(&shared, &peer, term, source) => sent.map(|()| last),
        _ = stop.wait_for(|stop| *stop) => Err("the node is stopping".into()),
    };
    drop(busy);
    let _ = reply.send(result);
}

async fn stream(shared: &Shared, peer: &Peer, term: Term, mut source: Box<dyn SnapshotSource>) -> Result<(), String> {
    let stall = shared.options.snapshot_stall;
    let address = peer.address.borrow().clone();
    let timeout = shared.options.handshake_timeout;
    let (mut framed, _) =
        handshake::dial(&shared.registry, &address, LaneKind::Snapshot, Some(peer.id), timeout, stall)
            .await
            .map_err(|e| format!("cannot connect to node {} at {address}: {e}", peer.id))?;
    let begin = wire::value(SNAPSHOT_BEGIN, &Begin { term }).map_err(|e| e.to_string())?;
    send_watched(shared, &mut framed, &begin).await?;
    let mut sum = End { chunks: 0, bytes: 0 };
    let mut out = BytesMut::new();
    loop {
        let next;
        (source, next) = tokio::task::spawn_blocking(move || {
            let next = source.next_chunk();
            (source, next)
        })
        .await
        .map_err(|e| e.to_string())?;
        let Some(chunk) = next? else { break };
        if chunk.len() > shared.options.max_frame_bytes {
            return Err(format!("a chunk of {} bytes is beyond the bound of a frame", chunk.len()));
        }
        sum.chunks += 1;
        sum.bytes += chunk.len() as u64;
        out.clear();
        frame::encode(&mut out, SNAPSHOT_CHUNK, 0, |out| out.extend_from_slice(&chunk));
        send_watched(shared, &mut framed, &out).await?;
    }
    let end = wire::value(SNAPSHOT_END, &sum).map_err(|e| e.to_string())?;
    send_watched(shared, &mut framed, &end).await?;
    let done = done_within(&mut framed, INSTALL_MAX).await?;
    done.failed.map_or(Ok(()), Err)
}

async fn done_within(framed: &mut Framed, time: Duration) -> Result<Done, String> {
    let frame = tokio::time::timeout(time, framed.next(DONE_MAX))
        .await
        .map_err(|_| "the receiver did not say in time whether it installed the snapshot")?
        .map_err(|e| format!("the receiver ended the transfer: {e}"))?;
    wire::get_value(&frame, SNAPSHOT_DONE).map_err(|e| e.to_string())
}

/// Sends as long as the receiver makes progress. Should it have closed, its reason may still be there to be read.
async fn send_watched(shared: &Shared, framed: &mut Framed, bytes: &[u8]) -> Result<(), String> {
    let stall = shared.options.snapshot_stall;
    // In pieces, so that a large chunk on a slow line is not taken for a stalled one.
    for piece in bytes.chunks(64 << 10) {
        let sent = tokio::time::timeout(stall, framed.send(piece)).await;
        match sent {
            Ok(Ok(())) => shared.metrics.peer_sent_bytes.inc_by(piece.len() as u64),
            Ok(Err(error)) => {
                let said = done_within(framed, stall).await.ok().and_then(|done| done.failed);
                return Err(said.unwrap_or_else(|| error.to_string()));
            }
            Err(_) => return Err(format!("no progress for {} s", stall.as_secs_f64())),
        }
    }
    Ok(())
}

/// What goes to the thread that writes.
enum Piece {
    Chunk(Bytes),
    End,
}

/// Receives one; the answer tells the sender what became of it.
pub(super) async fn receive<S: SnapshotStore>(
    shared: &Shared,
    sender: (NodeId, Option<ClusterId>),
    mut framed: Framed,
    events: &mpsc::Sender<PeerEvent<S::Imported>>,
    snapshots: &Arc<S>,
    importing: &Arc<Semaphore>,
) -> Result<(), String> {
    // One at a time: an older leader's is of no use beside a newer one's, and both would fill the disk.
    let outcome = match importing.try_acquire() {
        Err(_) => Err("another snapshot is being received".to_owned()),
        Ok(_only) => import(shared, sender, &mut framed, events, snapshots).await,
    };
    let done = wire::value(SNAPSHOT_DONE, &Done { failed: outcome.clone().err() }).map_err(|e| e.to_string())?;
    // If the transfer failed because the sender is gone, so does this.
    let _ = tokio::time::timeout(shared.options.snapshot_stall, framed.send(&done)).await;
    outcome
}

async fn import<S: SnapshotStore>(
    shared: &Shared,
    (from, cluster): (NodeId, Option<ClusterId>),
    framed: &mut Framed,
    events: &mpsc::Sender<PeerEvent<S::Imported>>,
    snapshots: &Arc<S>,
) -> Result<(), String> {
    let begin: Begin = wire::get_value(&next(shared, framed).await?, SNAPSHOT_BEGIN).map_err(|e| e.to_string())?;
    let (pieces, mut queued) = mpsc::channel(CHUNKS_QUEUED);
    let snapshots = snapshots.clone();
    let writer = tokio::task::spawn_blocking(move || {
        let mut sink = snapshots.begin_import()?;
        while let Some(piece) = queued.blocking_recv() {
            match piece {
                Piece::Chunk(chunk) => sink.write(chunk)?,
                Piece::End => return sink.finish(),
            }
        }
        Err("the transfer ended early".to_owned())
    });
    let received = feed(shared, framed, pieces).await;
    let imported = match (writer.await, received) {
        // A failure of the disk is what ended the feeding, so it is the reason to give.
        (Ok(Err(why)), Ok(())) => return Err(why),
        (_, Err(why)) => return Err(why),
        (Err(join), _) => return Err(join.to_string()),
        (Ok(Ok(imported)), Ok(())) => imported,
    };
    let (done, installed) = oneshot::channel();
    let event = PeerEvent::Snapshot { from, term: begin.term, cluster, imported, done };
    events.send(event).await.map_err(|_| "the node is stopping")?;
    match installed.await {
        Ok(true) => Ok(()),
        _ => Err("the snapshot was received but is not wanted any more".into()),
    }
}

async fn feed(shared: &Shared, framed: &mut Framed, pieces: mpsc::Sender<Piece>) -> Result<(), String> {
    let mut sum = End { chunks: 0, bytes: 0 };
    loop {
        let frame = next(shared, framed).await?;
        if frame.kind == SNAPSHOT_CHUNK {
            sum.chunks += 1;
            sum.bytes += frame.checked.len() as u64;
            if pieces.send(Piece::Chunk(frame.checked)).await.is_err() {
                return Ok(());
            }
            continue;
        }
        let end: End = wire::get_value(&frame, SNAPSHOT_END).map_err(|e| e.to_string())?;
        if (end.chunks, end.bytes) != (sum.chunks, sum.bytes) {
            return Err(format!("{} of {} bytes arrived", sum.bytes, end.bytes));
        }
        let _ = pieces.send(Piece::End).await;
        return Ok(());
    }
}

async fn next(shared: &Shared, framed: &mut Framed) -> Result<Frame, String> {
    let max = shared.options.max_frame_bytes + frame::PREFACE;
    match tokio::time::timeout(shared.options.snapshot_stall, framed.next(max)).await {
        Ok(frame) => frame.map_err(|e| format!("the transfer ended early: {e}")),
        Err(_) => Err("the sender made no progress".into()),
    }
}

/// What the frames around a snapshot promise, for [`super::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(frame: &Frame) {
    let _ = wire::get_value::<Begin>(frame, SNAPSHOT_BEGIN);
    let _ = wire::get_value::<End>(frame, SNAPSHOT_END);
    let _ = wire::get_value::<Done>(frame, SNAPSHOT_DONE);
}

/// One frame of each kind.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz_seeds() -> Vec<Result<BytesMut, wire::WireError>> {
    vec![
        wire::value(SNAPSHOT_BEGIN, &Begin { term: Term(3) }),
        wire::value(SNAPSHOT_END, &End { chunks: 3, bytes: 999 }),
        wire::value(SNAPSHOT_DONE, &Done { failed: Some("no room".to_owned()) }),
    ]
}
