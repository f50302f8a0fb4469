//! Carrying out what the core wants, in its order; and applying what is committed.

use bytes::{Bytes, BytesMut};
use quorum::{Body, Effect, Head, Index, Kind, Message, NodeId, Position, Role, SharedConfig, Term, Token};

use super::{APPLY_PER_TURN, Done, Driver};
use crate::handle::ReadError;
use crate::node::Ended;
use crate::peer::Records;
use crate::stage::Stage;
use crate::storage::Job;
use crate::storage::record::{self, RecordKind};

impl Driver {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::SaveVote { token, term, voted_for } => self.wal.submit(Job::SaveVote { token, term, voted_for }),
            Effect::Write { token, first, entries } => self.write(token, first, &entries),
            Effect::InstallSnapshot { token, last } => self.install(token, last),
            Effect::Send { to, message } => self.send(to, message),
            Effect::SendSnapshot { to } => self.send_snapshot(to),
            // Applied at the end of the turn, when all of its commits are known.
            Effect::Commit { index } => self.waiters.pass(Stage::Committed, index, self.now),
            Effect::Acknowledge { index } => {
                self.acknowledged = index;
                self.waiters.pass(Stage::Replicated, index, self.now);
            }
            Effect::Refuse(why) => self.refused = Some(why),
            Effect::ReadReady { id, index } => self.answer_barrier(id, Ok(index)),
            Effect::ReadRefused { id, .. } => self.answer_barrier(id, Err(ReadError::NoLeader)),
            Effect::Became { role, term, leader } => self.on_became(role, term, leader),
            Effect::Reconfigured { config } => self.take_members(&config),
            Effect::SetAside => self.set_aside(),
        }
    }

    fn answer_barrier(&mut self, id: u64, answer: Result<Index, ReadError>) {
        for reply in self.barriers.remove(&id).unwrap_or_default() {
            let _ = reply.send(answer.clone());
        }
    }

    /// Frames the entries once: the same bytes go to the WAL, into the tail, and from there to the followers.
    fn write(&mut self, token: Token, first: Index, entries: &[Head]) {
        self.bind_before_the_first_write();
        let size = entries.iter().map(|h| h.bytes as usize).sum();
        let mut frames = BytesMut::with_capacity(size);
        let mut ends = Vec::with_capacity(entries.len());
        let mut proposed = std::mem::take(&mut self.proposed).into_iter();
        for (offset, head) in entries.iter().enumerate() {
            let index = Index(first.0 + offset as u64);
            if !self.append_received(index, &mut frames) {
                frame(head, index, &mut proposed, &mut frames);
            }
            ends.push(frames.len());
        }
        let frames = frames.freeze();
        let last = Index(first.0 + entries.len() as u64 - 1);
        self.note_truncation(first, last);
        self.tail.push(first, frames.clone(), ends);
        let commit = self.replica.commit();
        self.wal.submit(Job::Write { token, first, last, frames: vec![frames], commit });
    }

    /// Copies the record of an entry that came with the message of this step. A copy, so that what is kept does not hold the network's buffer.
    fn append_received(&self, index: Index, frames: &mut BytesMut) -> bool {
        let Some(front) = self.incoming.first() else { return false };
        let at = index.0.checked_sub(front.index.0).and_then(|at| self.incoming.get(at as usize));
        let Some(received) = at else { return false };
        assert_eq!(received.index, index, "the records of an append are in order");
        frames.extend_from_slice(received.frame());
        true
    }

    fn note_truncation(&mut self, first: Index, last: Index) {
        if first <= self.last_written {
            self.shared.metrics.truncated_entries.inc_by(self.last_written.0 - first.0 + 1);
        }
        self.last_written = last;
    }

    fn install(&mut self, token: Token, last: Position) {
        let Some(imported) = self.received.take() else {
            self.end(Ended::Failed(format!("a snapshot up to {last} was to be installed, but none was received")));
            return;
        };
        self.bind_before_the_first_write();
        if let Err(error) = self.shared.store.install(imported) {
            self.end(Ended::Failed(format!("the snapshot up to {last} could not be installed: {error}")));
            return;
        }
        tracing::info!(%last, "installed a snapshot from the leader");
        self.tail.clear();
        self.applied = last.index;
        self.applied_tx.send_replace(last.index);
        self.last_written = last.index;
        self.wal.submit(Job::Reset { token, last });
    }

    fn send(&mut self, to: NodeId, message: Message) {
        let records = match &message.body {
            Body::Append { prev, entries, .. } if !entries.is_empty() => self.records(*prev, entries),
            _ => Records::None,
        };
        self.network.send(to, message, records);
    }

    fn records(&self, prev: Position, entries: &[Head]) -> Records {
        let (from, to) = (prev.index.next(), Index(prev.index.0 + entries.len() as u64));
        match self.tail.frames(from, to) {
            Some(frames) => Records::Cached(frames),
            None => Records::FromLog { from, to, bytes: entries.iter().map(|h| h.bytes as usize).sum() },
        }
    }

    fn send_snapshot(&mut self, to: NodeId) {
        let (network, store, done) = (self.network.clone(), self.shared.store.clone(), self.done_tx.clone());
        let term = self.replica.term();
        tracing::info!(peer = %self.name_of(to), "the log does not reach back far enough: sending a snapshot");
        tokio::spawn(async move {
            let exported = tokio::task::spawn_blocking(move || store.export()).await;
            let last = match exported {
                Ok(Ok(export)) => match network.send_snapshot(to, term, export).await {
                    Ok(Ok(last)) => Some(last),
                    Ok(Err(error)) => {
                        tracing::warn!(peer = %to, error, "sending a snapshot failed; it will be tried again");
                        None
                    }
                    Err(_) => None,
                },
                Ok(Err(error)) => {
                    tracing::warn!(peer = %to, %error, "exporting a snapshot failed; it will be tried again");
                    None
                }
                Err(_) => None,
            };
            // The driver may have ended; nobody needs the news then.
            let _ = done.send(Done::SnapshotSent { to, last });
        });
    }

    fn on_became(&mut self, role: Role, term: Term, leader: Option<NodeId>) {
        let metrics = self.shared.metrics.clone();
        if role == Role::Candidate {
            metrics.elections.inc();
        }
        if role != Role::Leader {
            self.acknowledged = Index(0);
            let unknown = self.waiters.abandon("leadership was lost");
            metrics.unknown_outcomes.inc_by(unknown);
            self.barriers.clear();
        }
        if leader.is_some() {
            metrics.leader_changes.inc();
            tracing::info!(%term, %role, leader = %leader.map(|l| self.name_of(l)).unwrap_or_default(), "leader known");
        } else {
            tracing::info!(%term, %role, "no leader");
        }
        self.settle_leadership_wishes();
        self.publish();
    }

    pub(super) fn take_members(&mut self, config: &SharedConfig) {
        let members: Vec<_> = config.members().cloned().collect();
        self.network.set_members(&members);
        self.membership.remember_peers(&members, &self.me);
        tracing::info!(
            version = config.version,
            voters = config.voters.len(),
            write_quorum = config.write_quorum,
            joint = config.is_joint(),
            "configuration in force"
        );
        self.publish();
    }

    fn set_aside(&mut self) {
        let version = self.replica.config().map_or(0, |c| c.version);
        self.end(Ended::Removed { version });
    }

    /// Whether committed entries wait to be applied and could be.
    pub(super) fn has_backlog(&self) -> bool {
        self.applied < self.replica.commit() && self.shared.store.has_room()
    }

    /// Applies what is committed, in order, a bounded number at a time.
    pub(super) fn apply_committed(&mut self) {
        let commit = self.replica.commit();
        let upto = commit.min(Index(self.applied.0 + APPLY_PER_TURN));
        if upto <= self.applied || !self.shared.store.has_room() {
            return;
        }
        let mut index = self.applied;
        while index < upto && self.ended.is_none() {
            match self.tail.frame(index.next()) {
                Some(frame) => {
                    index = index.next();
                    self.apply_frame(index, &frame);
                }
                None => index = self.apply_from_log(index.next(), upto),
            }
        }
        self.applied = index;
        self.waiters.pass(Stage::Applied, index, self.now);
        self.applied_tx.send_replace(index);
        self.tail.trim(self.applied.min(self.replica.durable()));
    }

    fn apply_frame(&mut self, index: Index, frame: &Bytes) {
        match record::peek(frame) {
            Ok((term, kind)) => self.apply(Position { term, index }, kind, &frame.slice(record::HEADER_BYTES..)),
            Err(error) => self.end(Ended::Failed(format!("entry {index} in memory is not readable: {error}"))),
        }
    }

    /// Applies what only the disk has: after a restart, or when a burst outran the cache. Returns the last index applied.
    fn apply_from_log(&mut self, from: Index, upto: Index) -> Index {
        const READ_BYTES: usize = 4 << 20;
        // What is cached may still be on its way to the disk, and the log may hold there what it replaces: entries of an earlier term that
        // were never committed. Those must not be applied.
        let upto = self.tail.first().map_or(upto, |first| upto.min(first.prev()));
        let records = match self.log.read(from, upto, READ_BYTES) {
            Ok(records) if !records.is_empty() => records,
            Ok(_) => {
                self.end(Ended::Failed(format!("entry {from} is committed but not in the log")));
                return from.prev();
            }
            Err(error) => {
                self.end(Ended::Failed(format!("entry {from} cannot be read from the log: {error}")));
                return from.prev();
            }
        };
        let mut last = from.prev();
        for record in records {
            last = record.index;
            self.apply(Position { term: record.term, index: record.index }, record.kind, &record.payload());
        }
        last
    }

    fn apply(&mut self, at: Position, kind: RecordKind, payload: &Bytes) {
        let store = &self.shared.store;
        match kind {
            RecordKind::Command => {
                let outcome = store.apply_command(at, payload);
                self.waiters.applied(at.index, outcome);
            }
            RecordKind::Empty => store.apply_empty(at),
            RecordKind::Config => match record::decode_config(payload) {
                Ok(config) => store.apply_config(at, &config),
                Err(error) => self.end(Ended::Failed(format!("the configuration at {at} cannot be read: {error}"))),
            },
        }
    }

    /// Answers everyone whose turn has come.
    pub(super) fn answer(&mut self) {
        if self.waiters.len() > 0 && self.acknowledged > Index(0) {
            let (replica, metrics) = (&self.replica, &self.shared.metrics);
            self.waiters.settle(
                self.acknowledged,
                replica.term(),
                |index| replica.copies_of(index),
                |copies| replica.held_by(copies),
                |copies| metrics.commit_copies.observe(copies as f64),
            );
        }
        self.settle_config_wishes();
    }
}

/// Frames an entry of this node's own making.
fn frame(head: &Head, index: Index, proposed: &mut impl Iterator<Item = Bytes>, frames: &mut BytesMut) {
    match &head.kind {
        Kind::Command => {
            let payload = proposed.next();
            assert!(payload.is_some(), "entry {index} was not proposed in this step");
            let payload = payload.unwrap_or_default();
            record::encode(frames, head.term, index, RecordKind::Command, &payload);
        }
        Kind::Empty => record::encode(frames, head.term, index, RecordKind::Empty, &[]),
        Kind::Config(config) => {
            record::encode(frames, head.term, index, RecordKind::Config, &record::encode_config(config));
        }
    }
}
