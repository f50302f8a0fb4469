//! Carrying out what the core wants, in its order; and applying what is committed.

use bytes::{Bytes, BytesMut};
use quorum::bugs::{self, Bug};
use quorum::{
    Body, Effect, Head, Index, Kind, Message, NodeId, Position, Refusal, Replica, Role, SharedConfig, Term, Token,
};

use super::waiters::Held;
use super::{APPLY_BYTES_PER_TURN, APPLY_PER_TURN, Done, Driver, Installing};
use crate::handle::ReadError;
use crate::kv;
use crate::logging::WRITES;
use crate::node::Ended;
use crate::peer::Records;
use crate::stage::Stage;
use crate::storage::Job;
use crate::storage::record::{self, RecordKind};

impl Driver {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::SaveVote { token, term, voted_for } => self.submit(Job::SaveVote { token, term, voted_for }),
            Effect::Write { token, first, entries } => self.write(token, first, &entries),
            Effect::InstallSnapshot { token, last } => self.install(token, last),
            Effect::Send { to, message } => self.send(to, message),
            Effect::SendSnapshot { to } => self.send_snapshot(to),
            // Applied at the end of the turn, when all of its commits are known.
            Effect::Commit { index } => {
                self.tell("committed", index);
                self.waiters.pass(Stage::Committed, index, self.now);
            }
            Effect::Acknowledge { index } => {
                self.tell("acknowledged", index);
                self.acknowledged = index;
                self.waiters.pass(Stage::Replicated, index, self.now);
            }
            Effect::Refuse(why) => self.refused = Some(why),
            Effect::ReadReady { id, index } => self.answer_barrier(id, Ok(index)),
            Effect::ReadRefused { id, why: Refusal::TooManyReads } => {
                self.answer_barrier(id, Err(ReadError::Overloaded));
            }
            Effect::ReadRefused { id, .. } => self.answer_barrier(id, Err(ReadError::NoLeader)),
            Effect::Became { role, term, leader } => self.on_became(role, term, leader),
            Effect::Reconfigured { config } => self.take_members(&config),
            Effect::SetAside => self.set_aside(),
            Effect::Forgot { confirmed } => self.end(Ended::Forgot { confirmed: confirmed.0 }),
        }
    }

    fn answer_barrier(&mut self, id: u64, answer: Result<Index, ReadError>) {
        let waiting = self.barriers.remove(&id).map(|b| b.waiting).unwrap_or_default();
        self.barriers_waiting -= waiting.len();
        for reply in waiting {
            let _ = reply.send(answer.clone());
        }
    }

    /// Answers the reads that could not be confirmed in time, so that their faces need no timer each.
    pub(super) fn expire_barriers(&mut self) {
        let (now, limit) = (self.now, self.shared.options.request_timeout);
        let late: Vec<u64> = self.barriers.iter().filter(|(_, b)| now - b.asked >= limit).map(|(id, _)| *id).collect();
        for id in late {
            self.answer_barrier(id, Err(ReadError::Timeout));
        }
    }

    pub(super) fn refuse_barriers(&mut self, why: &ReadError) {
        self.barriers_waiting = 0;
        for reply in std::mem::take(&mut self.barriers).into_values().flat_map(|b| b.waiting) {
            let _ = reply.send(Err(why.clone()));
        }
    }

    /// Hands a job to the WAL; while a snapshot is being installed, keeps it until that is done.
    fn submit(&mut self, job: Job) {
        match &mut self.installing {
            Some(installing) => installing.held.push(job),
            None => self.wal.submit(job),
        }
    }

    /// Frames the entries once: the same bytes go to the WAL, into the tail, and from there to the followers.
    fn write(&mut self, token: Token, first: Index, entries: &[Head]) {
        if !self.bind_before_the_first_write() {
            return;
        }
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
        let node = &self.shared.options.name;
        tracing::debug!(target: WRITES, node, cluster = self.shared.cluster(), first = first.0, last = last.0, "appended");
        self.tail.push(first, frames.clone(), ends);
        let commit = self.replica.commit();
        self.submit(Job::Write { token, first, last, frames: vec![frames], commit });
    }

    /// Copies the record of an entry that came with the message of this step. A copy, so that what is kept does not
    /// hold the network's buffer.
    fn append_received(&self, index: Index, frames: &mut BytesMut) -> bool {
        let Some(front) = self.incoming.first() else { return false };
        let at = index.0.checked_sub(front.index.0).and_then(|at| self.incoming.get(at as usize));
        let Some(received) = at else { return false };
        assert_eq!(received.index, index, "the records of an append are in order");
        let is_once = || received.kind == RecordKind::Command && kv::is_once(&received.payload());
        if bugs::is_on(Bug::ReceivedStampedAnew) && is_once() {
            // No two clocks are the same.
            let payload = kv::stamped(&received.payload(), self.world.unix_millis() + 1);
            record::encode(frames, received.term, index, received.kind, &payload);
            return true;
        }
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
        if !self.bind_before_the_first_write() {
            return;
        }
        self.installing = Some(Installing { token, last, held: Vec::new(), done: None });
        self.tail.clear();
        self.last_written = last.index;
        let (store, done) = (self.shared.store.clone(), self.done_tx.clone());
        // Elsewhere, since it waits for a drain under way and for the disk: heartbeats are answered meanwhile.
        self.world.elsewhere(Box::new(move || {
            let _ = done.send(Done::Installed(store.install(imported).map_err(|e| e.to_string())));
        }));
    }

    /// The engine holds the snapshot durably: now the log may be emptied, and what was held back goes on its way.
    pub(super) fn on_installed(&mut self, result: Result<(), String>) {
        let Some(Installing { token, last, held, done }) = self.installing.take() else { return };
        if let Err(error) = result {
            self.end(Ended::Failed(format!("the snapshot up to {last} could not be installed: {error}")));
            return;
        }
        tracing::info!(%last, "installed a snapshot from the leader");
        self.applied = last.index;
        self.applied_tx.send_replace(last.index);
        self.note_generation_of_state();
        self.wal.submit(Job::Reset { token, last });
        for job in held {
            self.wal.submit(job);
        }
        // The leader may be gone, or another by now.
        let _ = done.map(|done| done.send(true));
    }

    fn send(&mut self, to: NodeId, message: Message) {
        let records = match &message.body {
            Body::Append { prev, entries, .. } if !entries.is_empty() => self.records(*prev, entries),
            Body::Heartbeat { round, .. } => {
                self.round_trips.began(*round, self.now);
                Records::None
            }
            _ => Records::None,
        };
        self.world.send(to, message, records);
    }

    fn records(&self, prev: Position, entries: &[Head]) -> Records {
        let (from, to) = (prev.index.next(), Index(prev.index.0 + entries.len() as u64));
        match self.tail.frames(from, to) {
            Some(frames) => Records::Cached(frames),
            None => Records::FromLog { from, to, bytes: entries.iter().map(record_bytes).sum() },
        }
    }

    fn send_snapshot(&mut self, to: NodeId) {
        let (term, done) = (self.replica.term(), self.done_tx.clone());
        tracing::info!(peer = %self.name_of(to), "the log does not reach back far enough: sending a snapshot");
        // The driver may have ended; nobody needs the news then.
        let ended = move |last| drop(done.send(Done::SnapshotSent { to, last }));
        self.world.send_snapshot(to, term, &self.shared.store, Box::new(ended));
    }

    fn on_became(&mut self, role: Role, term: Term, leader: Option<NodeId>) {
        let metrics = self.shared.metrics.clone();
        if role == Role::Candidate {
            metrics.elections.inc();
        }
        if role != Role::Leader {
            self.acknowledged = Index(0);
            self.waiters.abandon("leadership was lost");
            self.refuse_barriers(&ReadError::NoLeader);
            self.round_trips.forget();
            if self.elected.is_some() {
                self.say_why_leadership_ended(term);
            }
        }
        self.elected = (role == Role::Leader).then(|| self.elected.unwrap_or(self.now));
        if leader.is_some() {
            metrics.leader_changes.inc();
            tracing::info!(%term, %role, leader = %leader.map(|l| self.name_of(l)).unwrap_or_default(), "leader known");
        } else {
            tracing::info!(%term, %role, "no leader");
        }
        // A leader that its own last configuration leaves out goes with it: whoever waits for that configuration
        // has what they asked for.
        self.settle_config_wishes();
        self.settle_leadership_wishes();
        self.publish();
    }

    /// An operator who sees a leader go wants to know whether to look at its disk, at the network, or at nothing.
    fn say_why_leadership_ended(&self, term: Term) {
        let limit = self.shared.options.election.1;
        let owed = self.replica.disk_owes_since().map(|since| self.time().since(since));
        match owed.map(std::time::Duration::from_micros) {
            Some(owed) if owed >= limit => {
                tracing::warn!(%term, ?owed, "leadership ended: this node's own disk does not answer");
            }
            _ => {
                tracing::info!(%term, "leadership ended: handed over, taken by a later term, or too few voters answered")
            }
        }
    }

    pub(super) fn take_members(&mut self, config: &SharedConfig) {
        let members: Vec<_> = config.members().cloned().collect();
        if !self.membership.is_founding() {
            self.world.set_members(&members);
        }
        self.membership.remember_peers(&members, &self.me, self.replica.last().index);
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
        self.installing.is_none() && self.applied < self.replica.commit() && self.shared.store.has_room()
    }

    /// Applies what is committed, in order, a bounded number at a time. Without room in the overlay it is put
    /// off until the next tick.
    pub(super) fn apply_committed(&mut self) {
        let commit = self.replica.commit();
        let upto = commit.min(Index(self.applied.0 + APPLY_PER_TURN));
        // What is durable can be read back: a state that is put off must not hold on to memory without a bound.
        self.tail.trim(self.replica.durable());
        if upto <= self.applied || self.installing.is_some() || !self.shared.store.has_room() {
            return;
        }
        let (mut index, mut bytes) = (self.applied, 0);
        while index < upto && bytes < APPLY_BYTES_PER_TURN && self.ended.is_none() {
            match self.tail.frame(index.next()) {
                Some(frame) => {
                    index = index.next();
                    bytes += frame.len();
                    self.apply_frame(index, &frame);
                }
                None => {
                    index = self.apply_from_log(index.next(), upto);
                    bytes = APPLY_BYTES_PER_TURN;
                }
            }
        }
        // A store that failed on the way passed over what came after: none of it may be seen or answered.
        if self.ended.is_some() || self.store_failed() {
            return;
        }
        self.applied = index;
        self.tell("applied", index);
        self.waiters.pass(Stage::Applied, index, self.now);
        self.applied_tx.send_replace(index);
    }

    /// Says on the target of writes how far this node is.
    pub(super) fn tell(&self, stage: &'static str, upto: Index) {
        let node = &self.shared.options.name;
        tracing::debug!(target: WRITES, node, upto = upto.0, "{stage}");
    }

    /// Whether the store has failed; the node ends then.
    pub(super) fn store_failed(&mut self) -> bool {
        let failed = self.shared.store.failed();
        if let Some(error) = &failed {
            self.end(Ended::Failed(format!(
                "the storage engine failed: {error}. Check the disk, then start the node again"
            )));
        }
        failed.is_some()
    }

    fn apply_frame(&mut self, index: Index, frame: &Bytes) {
        match record::peek(frame) {
            Ok((term, kind)) => self.apply(Position { term, index }, kind, &frame.slice(record::HEADER_BYTES..)),
            Err(error) => self.end(Ended::Failed(format!("entry {index} in memory is not readable: {error}"))),
        }
    }

    /// Applies what only the disk has: after a restart, or when a burst outran the cache.
    /// Returns the last index applied.
    fn apply_from_log(&mut self, from: Index, upto: Index) -> Index {
        // What is cached may still be on its way to the disk, and the log may hold there what it replaces: entries of
        // an earlier term that were never committed. Those must not be applied.
        let first = self.tail.first().filter(|_| !bugs::is_on(Bug::ReplacedEntriesApplied));
        let upto = first.map_or(upto, |first| upto.min(first.prev()));
        let records = match self.log.read(from, upto, APPLY_BYTES_PER_TURN) {
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
                let applied = store.apply_command(at, payload);
                self.waiters.applied(at.index, applied);
                self.note_generation(payload);
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
        // Whatever has an outcome here was applied while the store was whole; but its end is this node's end, and
        // nobody is told anything after it.
        if self.waiters.len() > 0 && self.acknowledged > Index(0) && !self.store_failed() {
            let (replica, metrics) = (&self.replica, &self.shared.metrics);
            self.waiters.settle(
                self.acknowledged,
                replica.term(),
                |index| held(replica, index),
                |copies| replica.held_by(copies),
                |copies| metrics.commit_copies.observe(copies as f64),
            );
        }
        self.settle_config_wishes();
    }
}

/// Who holds an entry, as far as its leader knows. What W followers hold is acknowledged before the leader's own disk
/// has it, and a leader on its way out is no voter.
fn held(replica: &Replica, index: Index) -> Held {
    let votes = replica.config().is_some_and(|c| c.voters.iter().any(|m| m.id == replica.id()));
    let copies = replica.copies_of(index);
    Held { copies, followers: copies - usize::from(votes && replica.durable() >= index) }
}

/// The bytes of an entry's record. The core only estimates those of the entries that it makes itself, and a read of the
/// log that is to hold all of them must not fall short by one.
fn record_bytes(head: &Head) -> usize {
    let bytes = match &head.kind {
        Kind::Config(config) => record::framed_bytes(record::encode_config(config).len()),
        _ => head.bytes,
    };
    bytes as usize
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

#[cfg(test)]
mod tests {
    use quorum::{Config, Input, Recovered, Settings, Time};

    use super::*;
    use crate::testing::member;

    #[test]
    fn what_two_followers_hold_is_theirs_alone_until_the_leaders_own_disk_has_it() {
        let mut leader = Replica::new(NodeId(1), Settings::default(), Recovered::default(), Time(0));
        let mut effects = Vec::new();
        let config = Config::first(vec![member(1), member(2), member(3)], 2, None).expect("legal");
        leader.step(Time(1), Input::Form(Box::new(config)), &mut effects);
        for from in [2, 3] {
            let message = Message { term: leader.term(), body: Body::Appended { durable: Index(1) } };
            leader.step(Time(2), Input::Receive { from: NodeId(from), message }, &mut effects);
        }
        assert!(effects.contains(&Effect::Acknowledge { index: Index(1) }), "{effects:?}");
        assert_eq!(held(&leader, Index(1)), Held { copies: 2, followers: 2 });
        let mut token = effects.iter().filter_map(|e| match e {
            Effect::Write { token, first: Index(1), .. } => Some(*token),
            _ => None,
        });
        let token = token.next_back().expect("its own copy");
        leader.step(Time(3), Input::Persisted { token }, &mut effects);
        assert_eq!(held(&leader, Index(1)), Held { copies: 3, followers: 2 });
    }

    #[test]
    fn a_read_for_a_follower_leaves_room_for_the_configurations_in_it() {
        let member = |n: u128| quorum::Member {
            id: NodeId(n),
            name: format!("node{n}"),
            peer: format!("node{n}.example.com:7400"),
            http: format!("http://node{n}.example.com:8000"),
            tcp: format!("node{n}.example.com:6379"),
        };
        let config = Config::first((1..=9).map(member).collect(), 5, None).expect("legal");
        let head = Head { term: Term(1), kind: Kind::Config(config.into()), bytes: 256 };
        let mut frames = BytesMut::new();
        frame(&head, Index(1), &mut std::iter::empty(), &mut frames);
        assert_eq!(record_bytes(&head), frames.len());
        assert!(frames.len() > 256, "the core's estimate is too low");
    }
}
