//! What a leader does: orders proposals, replicates, counts durable copies, confirms reads, and
//! knows when its reign is over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Replica, RoleState, own_entry};
use crate::bugs::{self, Bug};
use crate::config::{Change, Config, SharedConfig};
use crate::effect::{Effect, Refusal};
use crate::message::{Body, Head, Kind, Message};
use crate::progress::{Pace, Progress};
use crate::quorum::Quorum;
use crate::read::Reads;
use crate::settings::Settings;
use crate::types::{Index, NodeId, Position, Time};

use super::transfer::Transfer;

/// Rounds whose start is remembered for the lease. Answers to older ones prove nothing that newer ones do not.
const ROUNDS_MAX: usize = 64;

/// Most nodes that a leader keeps a pipeline to, those included that are told of their removal:
/// members and as many who left.
const PEERS_MAX: usize = 64;

/// How long a node that is no longer a member is still told so, in election timeouts.
const FAREWELL_TIMEOUTS: u64 = 5;

/// What only a leader needs.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(super) peers: BTreeMap<NodeId, Progress>,
    /// The first entry of this reign: entries of earlier terms commit through it, and reads wait for it.
    pub(super) first_own: Index,
    pub(super) acknowledged: Index,
    elected_at: Time,
    /// The latest heartbeat round, and when the recent ones started.
    round: u64,
    rounds: VecDeque<(u64, Time)>,
    heartbeat_due: Time,
    pub(super) reads: Reads,
    pub(super) transfer: Option<Transfer>,
    /// Whether leadership may go back to the preferred node by itself, and since when that node has been in step.
    pub(super) hand_back_suspended: bool,
    pub(super) preferred_in_step_since: Option<Time>,
    /// A transfer was begun in this term: the lease is over for good.
    pub(super) lease_ended: bool,
}

impl Leader {
    fn new(first_own: Index, now: Time, by_hand: bool) -> Leader {
        Leader {
            peers: BTreeMap::new(),
            first_own,
            acknowledged: Index(0),
            elected_at: now,
            round: 0,
            rounds: VecDeque::new(),
            heartbeat_due: now,
            reads: Reads::default(),
            transfer: None,
            hand_back_suspended: by_hand,
            preferred_in_step_since: None,
            lease_ended: false,
        }
    }
}

impl Replica {
    fn leader_mut(&mut self) -> Option<&mut Leader> {
        match &mut self.role {
            RoleState::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    pub(super) fn become_leader(&mut self, by_hand: bool) {
        assert!(matches!(self.role, RoleState::Candidate(_)), "leaders are elected");
        self.reign(by_hand, Kind::Empty);
    }

    /// Founds a cluster. Its first term needs no election: it is this node's, since the cluster's id is, drawn
    /// anew by the host for each attempt. A node that stopped before its first configuration was durable, but not
    /// its term, may so try again.
    pub(super) fn on_form(&mut self, config: Config) {
        if !self.is_blank() {
            self.effects.push(Effect::Refuse(Refusal::NotBlank));
            return;
        }
        assert!(config.voters.iter().any(|m| m.id == self.id), "the node that forms a cluster is one of its voters");
        self.enter_term(self.term.next(), Some(self.id));
        self.reign(false, Kind::Config(Arc::new(config)));
    }

    fn reign(&mut self, by_hand: bool, first: Kind) {
        let first_own = self.log.last().index.next();
        self.role = RoleState::Leader(Box::new(Leader::new(first_own, self.now, by_hand)));
        self.leader = Some(self.id);
        self.courteous = true;
        self.write(first_own, vec![own_entry(self.term, first)]);
        self.sync_peers();
        self.beat();
        self.replicate_all();
        self.advance();
    }

    /// Brings the pipelines in line with the configuration in force.
    fn sync_peers(&mut self) {
        let Some(config) = self.log.config().cloned() else { return };
        // Everyone is taken to hold all but the entry just written, until it says otherwise.
        let (id, next) = (self.id, self.log.last().index);
        let farewell = self.now.after(FAREWELL_TIMEOUTS * self.settings.election_max);
        let Some(leader) = self.leader_mut() else { return };
        for member in config.members().filter(|m| m.id != id) {
            let progress = leader.peers.entry(member.id).or_insert_with(|| Progress::new(next));
            progress.leaves_at = None;
        }
        for (peer, progress) in &mut leader.peers {
            if config.member(*peer).is_none() && progress.leaves_at.is_none() {
                progress.leaves_at = Some(farewell);
            }
        }
    }

    pub(super) fn on_propose(&mut self, sizes: &[u32]) {
        if let Err(refusal) = self.admit() {
            self.effects.push(Effect::Refuse(refusal));
            return;
        }
        let term = self.term;
        let entries: Vec<Head> = sizes.iter().map(|bytes| Head { term, kind: Kind::Command, bytes: *bytes }).collect();
        if entries.is_empty() {
            return;
        }
        self.write(self.log.last().index.next(), entries);
        self.replicate_all();
    }

    /// Whether clients' commands are taken: only by a leader that stays, of a formed cluster, with W voters in contact.
    fn admit(&self) -> Result<(), Refusal> {
        let leader = self.as_leader().filter(|l| l.transfer.is_none()).ok_or(Refusal::NotLeader)?;
        let config = self.log.config().ok_or(Refusal::NotLeader)?;
        if !config.formed {
            return Err(Refusal::Forming);
        }
        for (voters, quorum) in config.halves() {
            let live = voters.iter().filter(|m| self.in_contact(leader, m.id)).count();
            if live < quorum.write() {
                return Err(Refusal::NoQuorum { live, needed: quorum.write() });
            }
        }
        Ok(())
    }

    /// Whether a node was heard from within an election timeout. A new leader gives everyone that long to
    /// answer for the first time.
    pub(super) fn in_contact(&self, leader: &Leader, id: NodeId) -> bool {
        let since = |t| self.now.since(t) < self.settings.election_max;
        id == self.id || leader.peers.get(&id).is_some_and(|p| since(p.heard.unwrap_or(leader.elected_at)))
    }

    /// Sends whatever the windows allow to everyone.
    fn replicate_all(&mut self) {
        let Some(leader) = self.as_leader() else { return };
        let peers: Vec<NodeId> = leader.peers.keys().copied().collect();
        for peer in peers {
            self.replicate(peer);
        }
    }

    /// Sends what the window of one member allows.
    fn replicate(&mut self, to: NodeId) {
        let (now, commit, last) = (self.now, self.commit, self.log.last().index);
        let Settings { window, long_lines, append_entries_max: entries_max, append_bytes_max: bytes_max, .. } =
            self.settings;
        loop {
            let Some(progress) = self.as_leader().and_then(|l| l.peers.get(&to)) else { return };
            let nothing_new = progress.next > last && progress.pace == Pace::Stream;
            if nothing_new || !progress.has_room(window, long_lines) {
                return;
            }
            let prev_index = progress.next.prev();
            let Some(prev_term) = self.log.term_at(prev_index) else {
                self.begin_snapshot(to);
                return;
            };
            let entries = self.log.heads_from(progress.next, entries_max, bytes_max);
            let end = Index(prev_index.0 + entries.len() as u64);
            let prev = Position { term: prev_term, index: prev_index };
            let Some(progress) = self.leader_mut().and_then(|l| l.peers.get_mut(&to)) else { return };
            progress.sent(end, now);
            progress.told_commit = commit;
            self.send(to, Body::Append { prev, entries, commit });
        }
    }

    fn begin_snapshot(&mut self, to: NodeId) {
        let Some(progress) = self.leader_mut().and_then(|l| l.peers.get_mut(&to)) else { return };
        progress.pace = Pace::Snapshot;
        progress.in_flight.clear();
        self.effects.push(Effect::SendSnapshot { to });
    }

    pub(super) fn on_snapshot_sent(&mut self, to: NodeId, last: Option<Index>) {
        let Some(progress) = self.leader_mut().and_then(|l| l.peers.get_mut(&to)) else { return };
        if progress.pace == Pace::Snapshot {
            progress.probe_from(last.map_or(progress.next, Index::next));
            // After a failure the next answered heartbeat starts over: at once would be a busy loop
            // with a peer that is away.
            if last.is_some() {
                self.replicate(to);
            }
        }
    }

    pub(super) fn on_unreachable(&mut self, peer: NodeId) {
        let Some(progress) = self.leader_mut().and_then(|l| l.peers.get_mut(&peer)) else { return };
        // Nothing is sent now: the next answered heartbeat says that it is back.
        if progress.pace == Pace::Stream {
            progress.probe_from(progress.durable.next());
        } else if progress.pace == Pace::Probe {
            progress.in_flight.clear();
        }
    }

    fn heard(&mut self, from: NodeId) -> Option<&mut Progress> {
        let now = self.now;
        let progress = self.leader_mut()?.peers.get_mut(&from)?;
        progress.heard = Some(now);
        Some(progress)
    }

    pub(super) fn handle_appended(&mut self, from: NodeId, durable: Index) {
        let (last, now) = (self.log.last().index, self.now);
        let Some(progress) = self.heard(from) else { return };
        assert!(durable <= last, "node {from} acknowledges {durable} beyond the end of this leader's log {last}");
        progress.acknowledged(durable, now);
        self.advance();
        self.replicate(from);
        self.maybe_hand_over(from);
    }

    pub(super) fn handle_rejected(&mut self, from: NodeId, prev: Index, hint: Position) {
        let agreed = self.log.latest_within(hint.index, hint.term);
        let Some(progress) = self.heard(from) else { return };
        // Answers to probes of before may come late; what is acknowledged is certain.
        let expected = match progress.pace {
            Pace::Probe => prev == progress.next.prev(),
            Pace::Stream => prev > progress.durable,
            Pace::Snapshot => false,
        };
        if expected {
            progress.probe_from(agreed.index.next().min(prev));
            self.replicate(from);
        }
    }

    pub(super) fn handle_heartbeat_reply(&mut self, from: NodeId, round: u64) {
        let (now, retry_after) = (self.now, self.settings.election_max);
        let Some(progress) = self.heard(from) else { return };
        progress.answered = progress.answered.max(round);
        let overdue = progress.in_flight.front().is_some_and(|(_, sent)| now.since(*sent) >= retry_after);
        let lost = overdue && !bugs::is_on(Bug::LostAppendNotRepeated);
        match progress.pace {
            Pace::Stream if lost => progress.probe_from(progress.durable.next()),
            // The same question again: of a member not heard of in this reign nothing is known yet, and starting at the
            // log's beginning would cost it a snapshot.
            Pace::Probe if lost => progress.in_flight.clear(),
            _ => {}
        }
        self.confirm_reads();
        self.replicate(from);
    }

    /// Counts durable copies: moves the commit index at C, acknowledges at W, and takes the steps that wait for either.
    pub(super) fn advance(&mut self) {
        let (Some(leader), Some(config)) = (self.as_leader(), self.log.config()) else { return };
        let committed = config.committed(|id| self.durable_at(leader, id)).unwrap_or(Index(0));
        // Only an entry of this term commits by counting; it takes the earlier ones along (Raft, 5.4.2).
        let own = self.log.term_at(committed) == Some(self.term) || bugs::is_on(Bug::OlderTermCommitsByCounting);
        if committed > self.commit && own {
            self.commit_to(committed);
        }
        self.acknowledge();
        self.confirm_reads();
        self.maybe_open();
        self.maybe_finish_change();
    }

    fn acknowledge(&mut self) {
        let (Some(leader), Some(config)) = (self.as_leader(), self.log.config()) else { return };
        let mut held = config.acknowledged(|id| self.durable_at(leader, id)).unwrap_or(Index(0));
        if bugs::is_on(Bug::AcknowledgedAtC) {
            held = config.committed(|id| self.durable_at(leader, id)).unwrap_or(Index(0));
        }
        let index = held.min(self.commit);
        if index > leader.acknowledged && index >= leader.first_own {
            if let Some(leader) = self.leader_mut() {
                leader.acknowledged = index;
            }
            self.effects.push(Effect::Acknowledge { index });
        }
    }

    /// Opens the cluster for writes once every voter is known to hold its first configuration. Of two would-be founders
    /// at most one gets there, since a node takes its first configuration from one cluster only. One change at a time,
    /// here too: a learner may just have come.
    fn maybe_open(&mut self) {
        let (Some(leader), Some(config)) = (self.as_leader(), self.log.config()) else { return };
        let holds = |id: NodeId| self.durable_at(leader, id) >= Index(1);
        let settled = !config.is_joint() && self.log.config_index() <= self.commit;
        if config.formed || !settled || !config.voters.iter().all(|m| holds(m.id)) {
            return;
        }
        let opened = Config { version: config.version + 1, formed: true, ..Config::clone(config) };
        self.append_config(opened);
    }

    /// Takes a change's next step when the last one is committed: from joint to final, and out of office if
    /// that leaves this node out.
    fn maybe_finish_change(&mut self) {
        let Some(config) = self.log.config().cloned() else { return };
        let early = config.is_joint() && bugs::is_on(Bug::FinalBeforeJointCommitted);
        if self.as_leader().is_none() || (self.log.config_index() > self.commit && !early) {
            return;
        }
        if config.is_joint() {
            self.append_config(config.finished());
        } else if !config.is_voter(self.id) {
            self.retire();
        }
    }

    fn append_config(&mut self, config: Config) {
        let entry = own_entry(self.term, Kind::Config(Arc::new(config)));
        self.write(self.log.last().index.next(), vec![entry]);
        self.sync_peers();
        self.replicate_all();
        self.advance();
    }

    /// The end of a leader that its own last configuration leaves out: the others learn of the commit, and the best
    /// of them campaigns at once.
    fn retire(&mut self) {
        self.beat();
        if let Some(to) = self.most_caught_up() {
            self.send(to, Body::TransferNow { by_hand: false });
        }
        self.become_follower(self.term, None);
        self.maybe_set_aside();
    }

    pub(super) fn on_change_config(&mut self, change: Change) {
        match self.legal_change(&change) {
            Ok(config) => {
                let next = config.changed(change);
                self.append_config(next);
            }
            Err(refusal) => self.effects.push(Effect::Refuse(refusal)),
        }
    }

    fn legal_change(&self, change: &Change) -> Result<SharedConfig, Refusal> {
        let leader = self.as_leader().filter(|l| l.transfer.is_none()).ok_or(Refusal::NotLeader)?;
        let config = self.log.config().ok_or(Refusal::NotLeader)?;
        let settled = self.commit >= leader.first_own && !config.is_joint() && self.log.config_index() <= self.commit;
        if !settled && !bugs::is_on(Bug::ChangeOverChange) {
            return Err(Refusal::ChangeInFlight);
        }
        if change.base_version != config.version {
            return Err(Refusal::VersionMismatch(config.version));
        }
        Quorum::new(change.voters_count(), change.write_quorum)?;
        let is_voter_to_be = |id| change.voters.iter().any(|m| m.id == id);
        if let Some(preferred) = change.preferred.filter(|id| !is_voter_to_be(*id)) {
            return Err(Refusal::NoSuchVoter(preferred));
        }
        for voter in change.voters.iter().filter(|m| !config.is_voter(m.id)) {
            // A node that was just removed may look caught up too, but has set its data aside.
            let close = self.is_caught_up(leader, voter.id) || bugs::is_on(Bug::PromotionIgnoresLag);
            if !config.is_learner(voter.id) || !close {
                return Err(Refusal::NotCaughtUp(voter.id));
            }
        }
        self.still_elects(leader, change)?;
        Ok(config.clone())
    }

    /// Refuses numbers by which no successor could be elected from the nodes in contact now: if this leader failed
    /// next, and a disk is among what is missing, nobody could ever undo the change.
    fn still_elects(&self, leader: &Leader, change: &Change) -> Result<(), Refusal> {
        let next = self.log.config().ok_or(Refusal::NotLeader)?.changed(change.clone());
        let live = next.voters.iter().filter(|m| self.in_contact(leader, m.id)).count();
        let needed = next.quorum().election();
        if next.is_joint() && live < needed { Err(Refusal::NoQuorum { live, needed }) } else { Ok(()) }
    }

    /// Whether a member is so close behind that making it a voter would not hold anything up.
    pub(super) fn is_caught_up(&self, leader: &Leader, id: NodeId) -> bool {
        let close = |p: &Progress| p.durable.0 + self.settings.promotion_lag_max >= self.log.last().index.0;
        let held = |p: &Progress| p.durable > Index(0) && p.pace == Pace::Stream;
        leader.peers.get(&id).is_some_and(|p| close(p) && held(p) && self.in_contact(leader, id))
    }

    /// A new heartbeat round to everyone.
    fn beat(&mut self) {
        let (now, heartbeat, commit, term) = (self.now, self.settings.heartbeat, self.commit, self.term);
        let Some(leader) = self.leader_mut() else { return };
        leader.round += 1;
        let round = leader.round;
        leader.rounds.push_back((round, now));
        if leader.rounds.len() > ROUNDS_MAX {
            leader.rounds.pop_front();
        }
        leader.heartbeat_due = now.after(heartbeat);
        let mut messages = Vec::with_capacity(leader.peers.len());
        for (id, progress) in &mut leader.peers {
            // A member is told of no more than it is known to agree on: its log may end in entries of someone else's.
            let told = if bugs::is_on(Bug::CommitBeyondAgreement) { commit } else { commit.min(progress.durable) };
            progress.told_commit = progress.told_commit.max(told);
            messages.push((*id, Message { term, body: Body::Heartbeat { round, commit: told } }));
        }
        self.effects.extend(messages.into_iter().map(|(to, message)| Effect::Send { to, message }));
    }

    pub(super) fn tick_leader(&mut self) {
        let office_lost = !self.keeps_office();
        if office_lost {
            self.become_follower(self.term, None);
            return;
        }
        if self.as_leader().is_some_and(|l| self.now >= l.heartbeat_due) {
            self.beat();
        }
        self.say_farewell();
        self.tell_commit();
        self.note_lag();
        self.tick_transfer();
    }

    /// Check-quorum: C voters answered within an election timeout, and the own disk does not owe
    /// anything longer than that.
    fn keeps_office(&self) -> bool {
        let (Some(leader), Some(config)) = (self.as_leader(), self.log.config()) else { return false };
        let disk_answers = self.promises.oldest().is_none_or(|t| self.now.since(t) < self.settings.election_max);
        bugs::is_on(Bug::CheckQuorumOff) || disk_answers && config.confirms(|id| self.in_contact(leader, id))
    }

    /// A node that is no member asks for votes, or says that it is here: it does not know yet that it was removed,
    /// perhaps since it was away for longer than a farewell takes, or that the entry that took it in was never
    /// committed. It is sent the log up to the configuration that says so, as if it had just left. Not while a change
    /// is under way: it may be on its way in.
    pub(super) fn maybe_tell_of_removal(&mut self, from: NodeId) {
        let settled = |c: &SharedConfig| !c.is_joint() && c.member(from).is_none();
        if from == self.id || !self.config_committed() || !self.log.config().is_some_and(settled) {
            return;
        }
        let (next, farewell) = (self.log.last().index, self.now.after(FAREWELL_TIMEOUTS * self.settings.election_max));
        let Some(leader) = self.leader_mut() else { return };
        if leader.peers.len() < PEERS_MAX {
            leader.peers.entry(from).or_insert_with(|| Progress::new(next)).leaves_at.get_or_insert(farewell);
        }
    }

    fn say_farewell(&mut self) {
        let now = self.now;
        let Some(leader) = self.leader_mut() else { return };
        leader.peers.retain(|_, p| p.leaves_at.is_none_or(|at| now < at));
    }

    /// Tells idle members of a commit index that no append brings them.
    fn tell_commit(&mut self) {
        let commit = self.commit;
        let Some(leader) = self.as_leader() else { return };
        let due =
            |p: &Progress| p.pace == Pace::Stream && p.in_flight.is_empty() && p.told_commit < commit.min(p.durable);
        let idle: Vec<(NodeId, Index)> =
            leader.peers.iter().filter(|(_, p)| due(p)).map(|(id, p)| (*id, p.durable)).collect();
        for (to, durable) in idle {
            let Some(term) = self.log.term_at(durable) else { continue };
            if let Some(progress) = self.leader_mut().and_then(|l| l.peers.get_mut(&to)) {
                progress.told_commit = commit;
            }
            let prev = Position { term, index: durable };
            self.send(to, Body::Append { prev, entries: Vec::new(), commit });
        }
    }

    fn note_lag(&mut self) {
        let (now, last) = (self.now, self.log.last().index);
        let Some(leader) = self.leader_mut() else { return };
        for progress in leader.peers.values_mut() {
            progress.note_lag(last, now);
        }
    }

    pub(super) fn on_read(&mut self, id: u64) {
        let commit = self.commit;
        let (Some(leader), Some(config)) = (self.as_leader(), self.log.config()) else {
            self.effects.push(Effect::ReadRefused { id, why: Refusal::NotLeader });
            return;
        };
        let floor = if bugs::is_on(Bug::ReadBeforeOwnTerm) { Index(0) } else { leader.first_own };
        let index = commit.max(floor);
        let unasked = bugs::is_on(Bug::ReadWithoutConfirmation);
        let proven = unasked || config.confirms(|node| node == self.id) || self.has_lease(leader, config);
        if proven && commit >= index {
            self.effects.push(Effect::ReadReady { id, index });
            return;
        }
        if !leader.reads.has_room() {
            self.effects.push(Effect::ReadRefused { id, why: Refusal::TooManyReads });
            return;
        }
        let (round, confirmed) = (leader.round, self.confirmed_round());
        // While a round that a read waits for is under way, later reads wait for the one after it.
        let under_way = leader.reads.wants_round().is_some_and(|wanted| wanted > confirmed);
        let Some(leader) = self.leader_mut() else { return };
        leader.reads.wait(id, index, if bugs::is_on(Bug::ReadByEarlierRound) { round } else { round + 1 });
        if !under_way {
            self.beat();
        }
    }

    /// The latest round that C voters answered; every round, if this node alone is C.
    fn confirmed_round(&self) -> u64 {
        let (Some(leader), Some(config)) = (self.as_leader(), self.log.config()) else { return 0 };
        let answered = |id| if id == self.id { leader.round } else { leader.peers.get(&id).map_or(0, |p| p.answered) };
        config.committed(answered).unwrap_or(0)
    }

    fn confirm_reads(&mut self) {
        if self.as_leader().is_none_or(|l| l.reads.is_empty()) {
            return;
        }
        let (confirmed, commit) = (self.confirmed_round(), self.commit);
        let Some(leader) = self.leader_mut() else { return };
        let ready = leader.reads.ready(confirmed, commit);
        let starts_next = leader.reads.wants_round().is_some_and(|wanted| wanted > leader.round);
        let previous_done = confirmed >= leader.round;
        self.effects.extend(ready.into_iter().map(|(id, index)| Effect::ReadReady { id, index }));
        if starts_next && previous_done {
            self.beat();
        }
    }

    /// Whether C voters answered a round that began so recently that none of them may vote for another yet. A tenth is
    /// kept back for clocks that run at different rates.
    fn has_lease(&self, leader: &Leader, config: &Config) -> bool {
        let ended = leader.lease_ended && !bugs::is_on(Bug::LeaseSurvivesTransfer);
        if !self.settings.lease_reads || ended {
            return false;
        }
        let began = |id: NodeId| {
            if id == self.id {
                return self.now;
            }
            let answered = leader.peers.get(&id).map_or(0, |p| p.answered);
            leader.rounds.iter().find(|(round, _)| *round == answered).map_or(Time(0), |(_, at)| *at)
        };
        let lease = self.settings.election_min / 10 * 9;
        config.committed(began).is_some_and(|at| at > Time(0) && self.now.since(at) < lease)
    }
}
