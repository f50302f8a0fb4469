//! One hop to the leader: what a follower asks of it on behalf of a client, over the peer connections.
//!
//! The leader never passes a request on. A request that certainly did not reach the log is reported as such, so that
//! the client may retry; anything else is unknown.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt};
use quorum::{Index, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::handle::{Forward, Handle, ReadError, WriteError, Written};
use crate::kv::Command;
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
    /// A write that was done before: as `Write`, with [`Written::repeated`]. Only who passed on an
    /// idempotency key gets it.
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
            // The client may be gone.
            let _ = reply.send(written(call.await.unwrap_or(Err(CallError::Lost))));
        });
        receiver
    }

    fn barrier(&self, to: NodeId) -> oneshot::Receiver<Result<Index, ReadError>> {
        let (reply, receiver) = oneshot::channel();
        let call = self.0.call(to, encode(&Request::Barrier));
        tokio::spawn(async move {
            let _ = reply.send(confirmed(call.await.unwrap_or(Err(CallError::Lost))));
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

/// What a write that was passed on came to.
fn written(answer: Result<Bytes, CallError>) -> Result<Written, WriteError> {
    match answer {
        Ok(body) => match postcard::from_bytes(&body) {
            Ok(Answer::Write(result)) => result.map(with_followers),
            Ok(Answer::Repeated(written)) => Ok(Written { repeated: true, ..with_followers(written) }),
            _ => Err(WriteError::Unknown("the leader's answer could not be read".into())),
        },
        Err(CallError::NotSent) => Err(WriteError::NoLeader),
        Err(CallError::Refused) => Err(WriteError::Overloaded),
        Err(error @ (CallError::Lost | CallError::Timeout)) => Err(WriteError::Unknown(error.to_string())),
    }
}

/// What a read must see, by the leader's word.
fn confirmed(answer: Result<Bytes, CallError>) -> Result<Index, ReadError> {
    match answer.map(|body| postcard::from_bytes(&body)) {
        Ok(Ok(Answer::Barrier(result))) => result.map(Index),
        // Not `NoLeader`, upon which it would be asked again at once: more of what there is too much of.
        Err(CallError::Refused) => Err(ReadError::Overloaded),
        // A read has no effect: whatever happened, it may be tried again.
        Ok(_) | Err(_) => Err(ReadError::NoLeader),
    }
}

/// What the leader does not say: whether it is one of the copies itself.
fn with_followers(written: Written) -> Written {
    Written { followers: written.copies.saturating_sub(1), ..written }
}

/// A request of another node, and where the answer goes.
pub(crate) type Call = (Bytes, oneshot::Sender<Bytes>);

/// Most writes of other nodes that are prepared at once: a disk of today serves about so many reads at a time, and the
/// runtime has eight times as many threads for waiting.
const PREPARING_MAX: usize = 64;

/// A write that another node passed on, until it is handed in.
struct Passed {
    payload: Bytes,
    command: Command,
    copies: Option<usize>,
    reply: oneshot::Sender<Bytes>,
}

/// Serves what other nodes pass on, until the driver ends. On a task of its own: preparing a command may
/// wait for the disk. Writes are handed in in the order they arrive, however long each takes to prepare;
/// reads wait for none of them.
pub(crate) async fn serve(handle: Handle, mut calls: mpsc::UnboundedReceiver<Call>) {
    // As many as there may be calls: bounded where they arrive, as is the channel.
    let mut waiting = VecDeque::new();
    let mut preparing = FuturesOrdered::new();
    let mut open = true;
    while open || !preparing.is_empty() {
        tokio::select! {
            call = calls.recv(), if open => match call {
                Some((body, reply)) => waiting.extend(take(&handle, &body, reply)),
                None => open = false,
            },
            Some(write) = preparing.next() => hand_in(&handle, write),
        }
        while preparing.len() < PREPARING_MAX
            && let Some(write) = waiting.pop_front()
        {
            preparing.push_back(prepared(&handle, write));
        }
    }
}

/// Begins to answer a call, unless it is a write, which is given back.
fn take(handle: &Handle, body: &Bytes, reply: oneshot::Sender<Bytes>) -> Option<Passed> {
    match postcard::from_bytes(body) {
        Ok(Request::Write { payload, copies }) => match handle.read_forwarded(&payload) {
            Ok(command) => return Some(Passed { payload, command, copies, reply }),
            Err(error) => drop(reply.send(encode(&Answer::Write(Err(error))))),
        },
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
    None
}

async fn prepared(handle: &Handle, write: Passed) -> Passed {
    handle.prepare(&write.command).await;
    write
}

fn hand_in(handle: &Handle, write: Passed) {
    let Passed { payload, command, copies, reply } = write;
    let pending = handle.submit_forwarded(payload, &command, copies);
    tokio::spawn(async move {
        let answer = match pending.await {
            Ok(written) if written.repeated => Answer::Repeated(written),
            result => Answer::Write(result),
        };
        drop(reply.send(encode(&answer)));
    });
}

fn encode<T: Serialize>(message: &T) -> Bytes {
    // Serializing plain data into memory cannot fail; an empty body is refused at the other end.
    postcard::to_stdvec(message).map(Bytes::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;

    use super::*;
    use crate::kv::{Condition, Value, slow_store};
    use crate::testing;

    /// Longer than anything takes on the slowest machine that builds this.
    const PATIENCE: Duration = Duration::from_secs(60);

    async fn answered(reply: oneshot::Receiver<Bytes>) -> Answer {
        let body = tokio::time::timeout(PATIENCE, reply).await.expect("in time").expect("answered");
        postcard::from_bytes(&body).expect("an answer")
    }

    #[test]
    fn what_is_known_of_a_request_that_got_no_answer_is_said_and_no_more() {
        for (call, write, read) in [
            (CallError::NotSent, WriteError::NoLeader, ReadError::NoLeader),
            (CallError::Refused, WriteError::Overloaded, ReadError::Overloaded),
            (CallError::Lost, WriteError::Unknown(CallError::Lost.to_string()), ReadError::NoLeader),
            (CallError::Timeout, WriteError::Unknown(CallError::Timeout.to_string()), ReadError::NoLeader),
        ] {
            assert_eq!((written(Err(call)), confirmed(Err(call))), (Err(write), Err(read)), "{call:?}");
        }
        assert!(matches!(written(Ok(Bytes::from_static(b"\xff"))), Err(WriteError::Unknown(_))));
        let text = WriteError::Unknown(CallError::Timeout.to_string()).to_string();
        assert!(!text.contains("appended"), "it may never have arrived: {text}");
    }

    #[test]
    fn an_answer_counts_as_followers_what_it_names_but_the_leader() {
        let done = Written {
            outcome: crate::kv::Outcome::Put { version: 1 },
            revision: 7,
            term: 1,
            copies: 2,
            followers: 2,
            repeated: true,
        };
        let told = |answer: &Answer| written(Ok(encode(answer))).expect("written");
        let first = told(&Answer::Write(Ok(done.clone())));
        assert_eq!(
            (first.copies, first.followers, first.repeated),
            (2, 1, false),
            "at least: the leader may not be one"
        );
        let again = told(&Answer::Repeated(done));
        assert_eq!((again.copies, again.followers, again.repeated), (2, 1, true));
    }

    #[tokio::test]
    async fn writes_that_wait_for_the_disk_hold_up_neither_reads_nor_each_other_and_keep_their_order() {
        let (disk, stuck) = std::sync::mpsc::channel::<()>();
        let begun = Arc::new(AtomicUsize::new(0));
        let store = slow_store({
            let (stuck, begun) = (Mutex::new(stuck), begun.clone());
            move || {
                // The first stands still; those after it are ready before it.
                if begun.fetch_add(1, Ordering::SeqCst) == 0 {
                    let _ = stuck.lock().recv();
                }
            }
        })
        .await;
        let (calls, received) = mpsc::unbounded_channel();
        let serving = tokio::spawn(serve(testing::handle_over(store), received));
        let ask = |request: &Request| {
            let (reply, answer) = oneshot::channel();
            calls.send((encode(request), reply)).expect("served");
            answer
        };
        let write = |n: usize| {
            let put = Command::Put { key: format!("k{n}").into(), value: Value::text("v"), condition: Condition::None };
            ask(&Request::Write { payload: put.encode(), copies: None })
        };
        let are_prepared = async |wanted: usize| {
            while begun.load(Ordering::SeqCst) < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let mut writes = vec![write(0)];
        tokio::time::timeout(PATIENCE, are_prepared(1)).await.expect("the first is being prepared");
        writes.extend((1..2 * PREPARING_MAX).map(write));
        tokio::time::timeout(PATIENCE, are_prepared(PREPARING_MAX)).await.expect("others are, beside it");
        let read = answered(ask(&Request::Barrier)).await;
        assert!(matches!(read, Answer::Barrier(Ok(0))), "none overtook the first, and a read waits for none: {read:?}");
        assert_eq!(begun.load(Ordering::SeqCst), PREPARING_MAX, "not all at once");
        drop(disk);
        for (n, write) in writes.into_iter().enumerate() {
            let answer = answered(write).await;
            assert!(matches!(&answer, Answer::Write(Ok(w)) if w.revision == n as u64 + 1), "{n}: {answer:?}");
        }
        drop(calls);
        tokio::time::timeout(PATIENCE, serving).await.expect("it ends with the driver").expect("without a panic");
    }
}
