//! One hop to the leader: what a follower asks of it on behalf of a client, over the peer connections.
//!
//! The leader never passes a request on. A request that certainly did not reach the log is reported as such, so that the client may retry; anything
//! else is unknown.

use std::time::Duration;

use bytes::Bytes;
use quorum::{Index, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::handle::{Forward, Handle, ReadError, WriteError, Written};
use crate::peer::{CallError, Network};

/// What is asked of the leader.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Append this command.
    Write { payload: Bytes, copies: Option<usize> },
    /// Name the index that a linearizable read must see.
    Barrier,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Write(Result<Written, WriteError>),
    Barrier(Result<u64, ReadError>),
    /// A write that was done before: as `Write`, with [`Written::repeated`]. Only who passed on an idempotency key gets it.
    Repeated(Written),
}

/// Forwarding over the network.
pub(crate) struct PeerForward(pub(crate) Network);

impl Forward for PeerForward {
    fn write(
        &self,
        to: NodeId,
        payload: Bytes,
        copies: Option<usize>,
    ) -> oneshot::Receiver<Result<Written, WriteError>> {
        let (reply, receiver) = oneshot::channel();
        let call = self.0.call(to, encode(&Request::Write { payload, copies }));
        tokio::spawn(async move {
            let answer = match call.await.unwrap_or(Err(CallError::Lost)) {
                Ok(body) => match postcard::from_bytes(&body) {
                    Ok(Answer::Write(result)) => result.map(with_followers),
                    Ok(Answer::Repeated(written)) => Ok(Written { repeated: true, ..with_followers(written) }),
                    _ => Err(WriteError::Unknown("the leader's answer could not be read".into())),
                },
                Err(CallError::NotSent) => Err(WriteError::NoLeader),
                Err(error) => Err(WriteError::Unknown(error.to_string())),
            };
            // The client may be gone.
            let _ = reply.send(answer);
        });
        receiver
    }

    fn barrier(&self, to: NodeId) -> oneshot::Receiver<Result<Index, ReadError>> {
        let (reply, receiver) = oneshot::channel();
        let call = self.0.call(to, encode(&Request::Barrier));
        tokio::spawn(async move {
            let answer = match call.await.unwrap_or(Err(CallError::Lost)) {
                Ok(body) => match postcard::from_bytes(&body) {
                    Ok(Answer::Barrier(result)) => result.map(Index),
                    _ => Err(ReadError::NoLeader),
                },
                // A read has no effect: whatever happened, it may be tried again.
                Err(_) => Err(ReadError::NoLeader),
            };
            let _ = reply.send(answer);
        });
        receiver
    }

    fn peer_address(&self, of: NodeId) -> Option<String> {
        self.0.address(of)
    }

    fn set_delay(&self, range: (Duration, Duration)) {
        self.0.set_delay(range);
    }
}

/// What the leader does not say: whether it is one of the copies itself.
fn with_followers(written: Written) -> Written {
    Written { followers: written.copies.saturating_sub(1), ..written }
}

/// A request of another node, and where the answer goes.
pub(crate) type Call = (Bytes, oneshot::Sender<Bytes>);

/// Serves what other nodes pass on, in the order it arrives, until the driver ends. On a task of its own: preparing a command may
/// wait for the disk.
pub(crate) async fn serve(handle: Handle, mut calls: mpsc::UnboundedReceiver<Call>) {
    while let Some((body, reply)) = calls.recv().await {
        match postcard::from_bytes(&body) {
            Ok(Request::Write { payload, copies }) => {
                let pending = handle.submit_forwarded(payload, copies).await;
                tokio::spawn(async move {
                    let answer = match pending.await {
                        Ok(written) if written.repeated => Answer::Repeated(written),
                        result => Answer::Write(result),
                    };
                    drop(reply.send(encode(&answer)));
                });
            }
            Ok(Request::Barrier) => {
                let pending = handle.enqueue_barrier();
                tokio::spawn(async move {
                    let answer = match pending {
                        Ok(receiver) => receiver.await.unwrap_or(Err(ReadError::Stopping)),
                        Err(error) => Err(error),
                    };
                    drop(reply.send(encode(&Answer::Barrier(answer.map(|index| index.0)))));
                });
            }
            // Dropping the sender tells the caller that there is no answer; a node of another version may ask such things.
            Err(error) => tracing::warn!(%error, "a request passed on by another node cannot be read"),
        }
    }
}

fn encode<T: Serialize>(message: &T) -> Bytes {
    // Serializing plain data into memory cannot fail; an empty body is refused at the other end.
    postcard::to_stdvec(message).map(Bytes::from).unwrap_or_default()
}
