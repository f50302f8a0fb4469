//! Reads, writes and pauses as a face asks for them, with a stand-in for the way to the leader.

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
