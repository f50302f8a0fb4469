//! What wakes the driver, and how much of it one turn takes.
//!
//! Before: everybody who asks, the peers, the WAL thread. After: `Driver::turn`.

use tokio::sync::{mpsc, watch};

use super::{Done, TURN_EVENTS};
use crate::handle::{Ask, Asked, ChangeError, ReadError, WriteAsk, WriteError};
use crate::kv::Imported;
use crate::peer::PeerEvent;
use crate::storage::WalEvent;

const STOPPING: &str = "this node is stopping";

/// What wakes the driver.
pub(super) struct Queues {
    pub asked: Asked,
    pub peers: mpsc::Receiver<PeerEvent<Imported>>,
    pub wal: mpsc::UnboundedReceiver<WalEvent>,
    pub done: mpsc::UnboundedReceiver<Done>,
    pub stop: watch::Receiver<bool>,
}

/// What one turn took from the queues.
#[derive(Default)]
pub(super) struct Turn {
    pub writes: Vec<WriteAsk>,
    pub asks: Vec<Ask>,
    pub peers: Vec<PeerEvent<Imported>>,
    pub wal: Vec<WalEvent>,
    pub done: Vec<Done>,
}

impl Queues {
    /// Waits until anything happens or `tick` is due, then takes what is there. But for writes, if those are to gather.
    pub(super) async fn next(&mut self, turn: &mut Turn, tick: tokio::time::Instant, gathers: bool) {
        let Asked { asks, writes } = &mut self.asked;
        tokio::select! {
            _ = writes.recv_many(&mut turn.writes, TURN_EVENTS), if !gathers => {}
            _ = asks.recv_many(&mut turn.asks, TURN_EVENTS) => {}
            _ = self.peers.recv_many(&mut turn.peers, TURN_EVENTS) => {}
            _ = self.wal.recv_many(&mut turn.wal, TURN_EVENTS) => {}
            _ = self.done.recv_many(&mut turn.done, TURN_EVENTS) => {}
            _ = self.stop.changed() => {}
            () = tokio::time::sleep_until(tick) => {}
        }
        self.take(turn, gathers);
    }

    /// Takes what is there without waiting.
    pub(super) fn take(&mut self, turn: &mut Turn, gathers: bool) {
        while let Ok(event) = self.wal.try_recv() {
            turn.wal.push(event);
        }
        while turn.peers.len() < TURN_EVENTS
            && let Ok(event) = self.peers.try_recv()
        {
            turn.peers.push(event);
        }
        while turn.asks.len() < TURN_EVENTS
            && let Ok(ask) = self.asked.asks.try_recv()
        {
            turn.asks.push(ask);
        }
        while !gathers
            && turn.writes.len() < TURN_EVENTS
            && let Ok(write) = self.asked.writes.try_recv()
        {
            turn.writes.push(write);
        }
        while let Ok(event) = self.done.try_recv() {
            turn.done.push(event);
        }
    }

    /// Takes no more from clients, and tells those who still wait in the queue that certainly
    /// nothing was done for them.
    pub(super) fn refuse_the_rest(&mut self) {
        let Asked { asks, writes } = &mut self.asked;
        writes.close();
        while let Ok(write) = writes.try_recv() {
            let _ = write.reply.send(Err(WriteError::Stopping));
        }
        asks.close();
        while let Ok(ask) = asks.try_recv() {
            match ask {
                Ask::Barrier(reply) => drop(reply.send(Err(ReadError::Stopping))),
                Ask::Change(_, reply) => drop(reply.send(Err(ChangeError::Refused(STOPPING.to_owned())))),
                Ask::Transfer(_, reply) | Ask::Campaign(reply) => {
                    drop(reply.send(Err(ChangeError::Refused(STOPPING.to_owned()))));
                }
            }
        }
    }
}
