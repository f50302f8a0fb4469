//! What clients and operators ask of this node: writes, reads that need a confirmation, changes of the
//! configuration and of leadership.
//!
//! Refuses what certainly cannot be done; hands the rest to the core, and keeps who waits for it. Before:
//! [`crate::handle`]. After: the core, and `effects` and `waiters`, which answer.

use quorum::{Change, Index, Input, NodeId, Refusal, Role};
use tokio::sync::oneshot;

use super::waiters::Waiter;
use super::{BARRIERS_MAX, BATCH_BYTES, Barriers, Driver, Wish};
use crate::handle::{Ask, ChangeError, ReadError, WriteAsk, WriteError};
use crate::storage::record;

impl Driver {
    pub(super) fn on_asks(&mut self, asks: &mut Vec<Ask>) {
        let mut reads = Vec::new();
        for ask in asks.drain(..) {
            match ask {
                Ask::Barrier(reply) if self.barriers_waiting + reads.len() >= BARRIERS_MAX => {
                    drop(reply.send(Err(ReadError::Overloaded)));
                }
                Ask::Barrier(reply) => reads.push(reply),
                Ask::Change(change, reply) => self.on_change(*change, reply),
                Ask::Transfer(to, reply) => self.on_transfer(to, reply),
                Ask::Campaign(reply) => self.on_campaign(reply),
            }
        }
        if !reads.is_empty() {
            self.next_read += 1;
            let id = self.next_read;
            self.barriers_waiting += reads.len();
            self.barriers.insert(id, Barriers { asked: self.now, waiting: reads });
            self.step(Input::Read { id });
        }
    }

    /// Takes writes, forwarded ones included.
    pub(super) fn on_writes(&mut self, writes: &mut Vec<WriteAsk>) {
        let mut batch: Vec<WriteAsk> = Vec::with_capacity(writes.len());
        let mut bytes = 0;
        for write in writes.drain(..) {
            if let Err(error) = self.admit(&write, batch.len(), bytes) {
                self.refuse(write, error);
                continue;
            }
            bytes += write.payload.len();
            batch.push(write);
            if bytes >= BATCH_BYTES {
                self.propose(std::mem::take(&mut batch));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.propose(batch);
        }
    }

    /// What can be refused before the core is asked.
    fn admit(&self, write: &WriteAsk, batch: usize, batch_bytes: usize) -> Result<(), WriteError> {
        let limits = &self.shared.options.limits;
        if self.replica.role() != Role::Leader || self.leaving.is_some() {
            return Err(WriteError::NoLeader);
        }
        if self.disk_full && !write.frees_space {
            return Err(WriteError::NoSpace);
        }
        let under_way = self.waiters.bytes() + batch_bytes + write.payload.len();
        if self.waiters.len() + batch >= limits.in_flight_writes || under_way > limits.in_flight_bytes {
            return Err(WriteError::Overloaded);
        }
        if !self.shared.store.has_room() {
            return Err(WriteError::Overloaded);
        }
        self.admit_generation(&write.payload)?;
        if let Some(wanted) = write.copies {
            let Some(config) = self.replica.config() else { return Err(WriteError::NoLeader) };
            let voters = config.voters.len();
            if wanted > voters {
                return Err(WriteError::TooManyCopies { wanted, voters });
            }
            // Learners hold copies too, but none that count.
            let live = config.voters.iter().filter(|v| self.is_live(v.id)).count();
            if wanted > live {
                return Err(WriteError::NoQuorum { live, needed: wanted });
            }
        }
        Ok(())
    }

    fn propose(&mut self, batch: Vec<WriteAsk>) {
        let first = self.replica.last().index.next();
        self.proposed = batch.iter().map(|w| self.as_written(&w.payload)).collect();
        let sizes = batch.iter().map(|w| record::framed_bytes(w.payload.len())).collect();
        self.step(Input::Propose { sizes });
        if let Some(refusal) = self.refused {
            for write in batch {
                self.refuse(write, refusal.into());
            }
            return;
        }
        for (offset, write) in batch.into_iter().enumerate() {
            self.queued_seconds.observe((self.now.saturating_duration_since(write.arrived)).as_secs_f64());
            self.waiters.push(Waiter {
                index: Index(first.0 + offset as u64),
                arrived: write.arrived,
                bytes: write.payload.len(),
                copies: write.copies,
                reply: write.reply,
                applied: None,
            });
        }
    }

    fn refuse(&self, write: WriteAsk, error: WriteError) {
        let _ = write.reply.send(Err(error));
    }

    fn on_change(&mut self, change: Change, reply: oneshot::Sender<Result<u64, ChangeError>>) {
        let joint = 1 + u64::from(self.would_be_joint(&change));
        let version = change.base_version + joint;
        self.step(Input::ChangeConfig(Box::new(change)));
        match self.refused {
            None => self.wishes.push((self.now, Wish::Config { version, reply })),
            Some(refusal) => {
                let _ = reply.send(Err(refusal.into()));
            }
        }
    }

    fn would_be_joint(&self, change: &Change) -> bool {
        self.replica.config().is_some_and(|config| config.changed(change.clone()).is_joint())
    }

    fn on_transfer(&mut self, to: Option<NodeId>, reply: oneshot::Sender<Result<(), ChangeError>>) {
        self.step(Input::Transfer { to, by_hand: true });
        match self.refused {
            None => self.wishes.push((self.now, Wish::Transfer { reply })),
            Some(refusal) => {
                let _ = reply.send(Err(refusal.into()));
            }
        }
    }

    fn on_campaign(&mut self, reply: oneshot::Sender<Result<(), ChangeError>>) {
        if let Some(leader) = self.replica.leader() {
            // The others stand by a leader they hear, as this node does: nobody would vote for it.
            let _ = reply.send(Err(ChangeError::Refused(if leader == self.me.id {
                format!("{} leads already", self.me.name)
            } else {
                format!(
                    "{} leads and is heard from: ask it to hand leadership over (quorate transfer --to {}), or try again once it is silent",
                    self.name_of(leader),
                    self.me.name
                )
            })));
            return;
        }
        self.step(Input::Campaign);
        match self.refused {
            None => self.wishes.push((self.now, Wish::Campaign { reply })),
            Some(refusal) => {
                let _ = reply.send(Err(refusal.into()));
            }
        }
    }
}

impl From<Refusal> for ChangeError {
    fn from(refusal: Refusal) -> ChangeError {
        match refusal {
            Refusal::NotLeader => ChangeError::NoLeader,
            Refusal::VersionMismatch(version) => ChangeError::VersionMismatch(version),
            other => ChangeError::Refused(other.to_string()),
        }
    }
}
