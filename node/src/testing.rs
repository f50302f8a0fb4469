//! A node without a log for the unit tests of its faces: whatever is handed in is applied at once, by a task in the driver's place.

#![cfg_attr(not(test), allow(dead_code, reason = "fuzz targets use a part of it"))]
#![allow(clippy::expect_used, reason = "only tests and fuzz targets are built with it")]

/// The end-to-end tests' way to a port: one found by binding to 0 and let go may be given to another test's listener the next moment.
#[cfg(test)]
#[allow(unreachable_pub, reason = "elsewhere it is a part of a library")]
#[path = "../../tests/src/ports.rs"]
pub(crate) mod ports;

/// The end-to-end tests' way to hurt an engine.
#[cfg(test)]
#[allow(unreachable_pub, reason = "elsewhere it is a part of a library")]
#[path = "../../tests/src/rot.rs"]
pub(crate) mod rot;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorum::{Config, Index, Member, NodeId, Role, Term};
#[cfg(test)]
use tokio::sync::mpsc;
use tokio::sync::oneshot;

#[cfg(test)]
use crate::handle::ChangeError;
use crate::handle::{Ask, Asked, Forward, Handle, NodeState, ReadError, Shared, WriteAsk, WriteError, Written};
#[cfg(test)]
use crate::kv::MemoryHome;
use crate::kv::{Applied, Store};
use crate::metrics::Metrics;
#[cfg(test)]
use crate::options::Limits;
use crate::options::NodeOptions;

/// The member named `node<n>`, with made-up addresses.
pub(crate) fn member(n: u16) -> Member {
    Member {
        id: NodeId(u128::from(n)),
        name: format!("node{n}"),
        peer: format!("127.0.0.1:{}", 7399 + n),
        http: format!("http://127.0.0.1:{}", 7999 + n),
        tcp: format!("127.0.0.1:{}", 6378 + n),
    }
}

/// So many clients stop behind so many bytes of a value each, and so many of them cannot all be held under [`little_intake`].
#[cfg(test)]
pub(crate) const STUCK: usize = 20;
#[cfg(test)]
pub(crate) const STUCK_BYTES: usize = 50_000;
#[cfg(test)]
pub(crate) const STUCK_REFUSED: usize = 8;

/// Limits under which the others fit.
#[cfg(test)]
pub(crate) fn little_intake(options: &mut NodeOptions) {
    options.limits.value_bytes = 60_000;
    options.limits.in_flight_bytes = 60_000;
    let fit = 2 * options.limits.command_bytes() / STUCK_BYTES;
    assert_eq!(fit, STUCK - STUCK_REFUSED);
}

struct NoForward;

impl Forward for NoForward {
    fn write(&self, _: NodeId, _: Bytes, _: Option<usize>) -> oneshot::Receiver<Result<Written, WriteError>> {
        let (tx, rx) = oneshot::channel();
        let _ = tx.send(Err(WriteError::NoLeader));
        rx
    }

    fn barrier(&self, _: NodeId) -> oneshot::Receiver<Result<Index, ReadError>> {
        let (tx, rx) = oneshot::channel();
        let _ = tx.send(Err(ReadError::NoLeader));
        rx
    }

    fn peer_address(&self, _: NodeId) -> Option<String> {
        None
    }

    fn set_delay(&self, _: (Duration, Duration)) {}
}

/// A handle on `node1` of three with W=2, in the given role; `node1` leads if the role is leader, `node2` otherwise. Every write is
/// acknowledged with two copies, the followers'. Must be called within a tokio runtime.
pub(crate) fn handle(role: Role, adjust: impl FnOnce(&mut NodeOptions)) -> Handle {
    handle_with(role, adjust, Arc::new(NoForward))
}

/// The same on a store that is drained by whoever calls this, and whose engine they may damage.
#[cfg(test)]
pub(crate) fn handle_on(home: &MemoryHome) -> (Handle, Store) {
    let store = Store::stepped(home, &Limits::default(), 1 << 20);
    (handle_over(store.clone()), store)
}

/// The same with another way to the leader.
pub(crate) fn handle_with(role: Role, adjust: impl FnOnce(&mut NodeOptions), forward: Arc<dyn Forward>) -> Handle {
    handle_of(role, adjust, forward, Store::memory())
}

fn handle_of(role: Role, adjust: impl FnOnce(&mut NodeOptions), forward: Arc<dyn Forward>, store: Store) -> Handle {
    let any = "127.0.0.1:0".parse().expect("address");
    let mut options = NodeOptions::new("node1", std::env::temp_dir(), any, any, any);
    options.request_timeout = Duration::from_secs(1);
    adjust(&mut options);
    let config = Arc::new(Config {
        formed: true,
        ..Config::first(vec![member(1), member(2), member(3)], 2, Some(NodeId(1))).expect("config")
    });
    let leader = if role == Role::Leader { member(1) } else { member(2) };
    let state = NodeState {
        role,
        term: Term(1),
        leader: Some(leader),
        cluster: Some(quorum::ClusterId(1)),
        config: Some(config),
        changing: false,
        commit: Index(0),
        last: Index(0),
        peers: Vec::new(),
        ready: true,
        removed: false,
        disk_full: false,
        waits_for: None,
    };
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let (shared, Asked { mut asks, mut writes }, applied) =
        Shared::begin(options, member(1), 1, store.clone(), metrics, forward);
    shared.state.store(Arc::new(state));
    tokio::spawn(async move {
        let mut index = Index(0);
        loop {
            tokio::select! {
                Some(write) = writes.recv() => {
                    index = index.next();
                    let position = quorum::Position { term: Term(1), index };
                    let Applied { outcome, first } = store.apply_command(position, &write.payload);
                    applied.send_replace(index);
                    let (revision, repeated) = (first.unwrap_or(index).0, first.is_some());
                    let written = Written { outcome, revision, term: 1, copies: 2, followers: 2, repeated };
                    let _ = write.reply.send(Ok(written));
                }
                Some(ask) = asks.recv() => match ask {
                    Ask::Barrier(reply) => drop(reply.send(Ok(index))),
                    Ask::Change(_, reply) => drop(reply.send(Ok(2))),
                    Ask::Transfer(_, reply) | Ask::Campaign(reply) => drop(reply.send(Ok(()))),
                },
                else => break,
            }
        }
    });
    Handle { shared }
}

/// A handle on a leader with this data.
#[cfg(test)]
pub(crate) fn handle_over(store: Store) -> Handle {
    handle_of(Role::Leader, |_| {}, Arc::new(NoForward), store)
}

/// A leader whose driver refuses everything in these ways.
#[cfg(test)]
pub(crate) fn refusing(write: WriteError, read: ReadError, change: ChangeError) -> Handle {
    let handle = handle(Role::Leader, |_| {});
    let ((asks, mut asked), (writes, mut written)) = (mpsc::channel(16), mpsc::channel::<WriteAsk>(16));
    let mut shared = Arc::try_unwrap(handle.shared).unwrap_or_else(|_| panic!("one owner"));
    (shared.asks, shared.writes) = (asks, writes);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(ask) = written.recv() => drop(ask.reply.send(Err(write.clone()))),
                Some(ask) = asked.recv() => match ask {
                    Ask::Barrier(reply) => drop(reply.send(Err(read.clone()))),
                    Ask::Change(_, reply) => drop(reply.send(Err(change.clone()))),
                    Ask::Transfer(_, reply) | Ask::Campaign(reply) => drop(reply.send(Err(change.clone()))),
                },
                else => break,
            }
        }
    });
    Handle { shared: Arc::new(shared) }
}
