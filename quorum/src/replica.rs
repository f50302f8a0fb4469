//! One replica: all of a node's protocol state, and the one way to change it.
//!
//! [`Replica::step`] takes an [`Input`] and leaves [`Effect`]s. This file owns what every role shares: term, vote, log,
//! commit index, promises to the disk, and the changes of role; `replica/{follower,candidate,leader}.rs` hold what each
//! role does with what it hears.
//!
//! It never reads a clock, draws a random number, or waits.

mod candidate;
mod follower;
mod leader;
mod transfer;

use crate::bugs::{self, Bug};
use crate::check;
use crate::config::{Config, Failover, SharedConfig};
use crate::effect::{Effect, Refusal};
use crate::input::Input;
use crate::log::Log;
use crate::message::{Body, Head, Kind, Message};
use crate::progress::{Pace, Progress};
use crate::promise::Promises;
use crate::settings::{Dice, Settings};
use crate::types::{Index, NodeId, Position, Role, Term, Time, Token};

use candidate::Candidate;
use leader::Leader;

/// The size of the record of an entry that the core itself makes (an empty entry or a configuration), for flow control.
/// The host frames it and knows better; an estimate is enough here.
const OWN_ENTRY_BYTES: u32 = 256;

/// What a replica starts from: what its disk holds.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The current term.
    pub term: Term,
    /// Who got this node's vote in it.
    pub voted_for: Option<NodeId>,
    /// What precedes the first entry of the log.
    pub start: Position,
    /// The configuration in force there; needed unless the log starts at its beginning.
    pub start_config: Option<Config>,
    /// The entries after `start`, all durable.
    pub heads: Vec<Head>,
    /// The commit index as far as it is known; at least `start`'s.
    pub commit: Index,
}

/// A voter's or learner's protocol state.
#[derive(Debug)]
pub struct Replica {
    id: NodeId,
    settings: Settings,
    dice: Dice,
    now: Time,
    /// Since when this process takes part: until an election timeout later it refuses votes, as if it had
    /// just heard from a leader.
    started: Time,
    term: Term,
    voted_for: Option<NodeId>,
    log: Log,
    commit: Index,
    promises: Promises,
    leader: Option<NodeId>,
    heard_from_leader: Option<Time>,
    election_due: Time,
    /// Whether this node still lets another go ahead (see `gives_way`).
    courteous: bool,
    role: RoleState,
    /// A committed configuration without this node was seen.
    removed: bool,
    /// A committed configuration with this node was seen. One that is still on its way in has not: the log that it is
    /// being sent begins with configurations of before its time.
    joined: bool,
    announced: (Role, Term, Option<NodeId>),
    effects: Vec<Effect>,
}

/// The role with what it alone needs.
#[derive(Debug)]
enum RoleState {
    Follower,
    Candidate(Candidate),
    Leader(Box<Leader>),
}

/// One other member as a leader sees it; for status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub id: NodeId,
    /// The last index it holds durably.
    pub durable: Index,
    /// When it was last heard from in this reign.
    pub heard: Option<Time>,
    /// Whether that is within an election timeout.
    pub live: bool,
    /// Since when it has been behind without a break.
    pub behind_since: Option<Time>,
    /// Whether it is being sent a snapshot.
    pub in_snapshot: bool,
}

impl Replica {
    /// A replica that continues from what its disk holds. It starts as a follower.
    ///
    /// # Panics
    /// When the recovered state contradicts itself; storage must have found that out before.
    #[must_use]
    pub fn new(id: NodeId, settings: Settings, recovered: Recovered, now: Time) -> Replica {
        let log = Log::recovered(recovered.start, recovered.start_config.map(SharedConfig::new), recovered.heads);
        assert!(recovered.term >= log.last().term, "term {} is behind the log's {}", recovered.term, log.last());
        assert!(settings.window > 0 && settings.append_entries_max > 0, "nothing could ever be sent");
        let commit = recovered.commit.max(log.start().index).min(log.last().index);
        let mut replica = Replica {
            id,
            dice: Dice::new(settings.seed),
            settings,
            now,
            started: now,
            term: recovered.term,
            voted_for: recovered.voted_for,
            log,
            commit,
            promises: Promises::default(),
            leader: None,
            heard_from_leader: None,
            election_due: now,
            courteous: true,
            role: RoleState::Follower,
            removed: false,
            joined: false,
            announced: (Role::Follower, recovered.term, None),
            effects: Vec::new(),
        };
        replica.note_membership();
        replica.await_leader();
        replica
    }

    /// Handles one event and appends what follows from it to `effects`, to be carried out in order.
    /// `now` never goes backwards.
    pub fn step(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.on_tick(),
            Input::Receive { from, message } => self.handle_message(from, message),
            Input::Propose { sizes } => self.on_propose(&sizes),
            Input::ChangeConfig(change) => self.on_change_config(*change),
            Input::Persisted { token } => self.on_persisted(token),
            Input::Read { id } => self.on_read(id),
            Input::Transfer { to, by_hand } => self.on_transfer(to, by_hand),
            Input::Campaign => self.on_campaign(),
            Input::Form(config) => self.on_form(*config),
            Input::SnapshotReceived { from, term, last, config } => {
                self.on_snapshot_received(from, term, last, *config)
            }
            Input::SnapshotSent { to, last } => self.on_snapshot_sent(to, last),
            Input::Compacted { upto } => {
                assert!(upto <= self.commit, "only what is committed may be compacted: {upto} above {}", self.commit);
                self.log.compact(upto);
            }
            Input::Stray { peer } => self.maybe_tell_of_removal(peer),
            Input::Unreachable { peer } => self.on_unreachable(peer),
        }
        self.announce();
        check::after_step(self);
        effects.append(&mut self.effects);
    }

    /// The identity of this replica's disk.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Who got this node's vote in the current term.
    #[must_use]
    pub fn voted_for(&self) -> Option<NodeId> {
        self.voted_for
    }

    /// The role now.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.role {
            RoleState::Follower => Role::Follower,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }

    /// The leader of the current term, as far as known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The commit index.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// The end of the log.
    #[must_use]
    pub fn last(&self) -> Position {
        self.log.last()
    }

    /// What precedes the first entry of the log.
    #[must_use]
    pub fn start(&self) -> Position {
        self.log.start()
    }

    /// The highest index durable on this node.
    #[must_use]
    pub fn durable(&self) -> Index {
        self.log.durable()
    }

    /// The term of an entry still in the log (or of what precedes it).
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The configuration in force; `None` on a blank node.
    #[must_use]
    pub fn config(&self) -> Option<&SharedConfig> {
        self.log.config()
    }

    /// Whether the configuration in force is committed.
    #[must_use]
    pub fn config_committed(&self) -> bool {
        self.log.config().is_some() && self.log.config_index() <= self.commit
    }

    /// Whether this node was taken out of its cluster by a committed configuration.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// Whether this leader knows of a node that is no member that it holds the configuration in force, and so can
    /// tell for itself what it is.
    #[must_use]
    pub fn has_told(&self, stray: NodeId) -> bool {
        let progress = self.as_leader().and_then(|l| l.peers.get(&stray));
        progress.is_some_and(|p| p.leaves_at.is_some() && p.durable >= self.log.config_index())
    }

    /// Whether the node holds nothing yet: no log, no configuration. A blank node votes, but never campaigns.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.log.config().is_none()
    }

    /// Since when this node's disk owes the oldest thing it was asked to make durable.
    #[must_use]
    pub fn disk_owes_since(&self) -> Option<Time> {
        self.promises.oldest()
    }

    /// The highest index acknowledged in this reign; zero unless leading.
    #[must_use]
    pub fn acknowledged(&self) -> Index {
        self.as_leader().map_or(Index(0), |l| l.acknowledged)
    }

    /// The highest committed index that at least `copies` voters hold durably, and never fewer
    /// than W. Zero unless leading.
    #[must_use]
    pub fn held_by(&self, copies: usize) -> Index {
        let (Some(leader), Some(config)) = (self.as_leader(), self.log.config()) else { return Index(0) };
        let held = config.held_by(copies, |id| self.durable_at(leader, id)).unwrap_or(Index(0));
        held.min(self.commit)
    }

    /// How many voters hold the entry at `index` durably, as far as this leader knows.
    #[must_use]
    pub fn copies_of(&self, index: Index) -> usize {
        let (Some(leader), Some(config)) = (self.as_leader(), self.log.config()) else { return 0 };
        config.voters.iter().filter(|m| self.durable_at(leader, m.id) >= index).count()
    }

    /// The configurations that this node's log has, oldest first, each at the index of its entry; the one in force
    /// where the log begins at that index.
    pub fn configs(&self) -> impl Iterator<Item = (Index, &SharedConfig)> {
        self.log.configs()
    }

    /// Every other member as this leader sees it; nothing unless leading.
    pub fn peers(&self) -> impl Iterator<Item = Peer> {
        let leader = self.as_leader();
        leader.into_iter().flat_map(|l| &l.peers).map(|(id, p)| Peer {
            id: *id,
            durable: p.durable,
            heard: p.heard,
            live: p.heard.is_some_and(|t| self.now.since(t) < self.settings.election_max),
            behind_since: p.behind_since,
            in_snapshot: p.pace == Pace::Snapshot,
        })
    }

    /// Whether appends to some member leave before earlier ones are answered, as a long line asks for.
    #[must_use]
    pub fn pipelines(&self) -> bool {
        let long = |leader: &Leader| leader.peers.values().any(Progress::is_over_a_long_line);
        self.settings.long_lines || self.as_leader().is_some_and(long)
    }

    fn as_leader(&self) -> Option<&Leader> {
        match &self.role {
            RoleState::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    fn durable_at(&self, leader: &Leader, id: NodeId) -> Index {
        let of_peer = |id| leader.peers.get(&id).map_or(Index(0), |p| p.durable);
        if bugs::is_on(Bug::LearnerCounts) && id != self.id {
            let learners = self.log.config().into_iter().flat_map(|c| &c.learners);
            return learners.map(|m| of_peer(m.id)).max().max(Some(of_peer(id))).unwrap_or(Index(0));
        }
        if id == self.id && bugs::is_on(Bug::OwnCopyBeforeDurable) {
            return self.log.last().index;
        }
        if id == self.id { self.log.durable() } else { of_peer(id) }
    }

    /// Whether this node may stand for election. One that its newest configuration leaves out still may while that
    /// is not known to be committed (Raft thesis, 4.2.2): if it alone holds the entry, the others cannot win against
    /// its longer log, and nobody else can finish the change. It counts no vote of its own then, and leaves office
    /// once the entry is committed.
    fn may_campaign(&self) -> bool {
        let Some(config) = self.log.config() else { return false };
        !self.removed && (config.is_voter(self.id) || self.log.votes_since(self.commit, self.id))
    }

    fn on_tick(&mut self) {
        match &self.role {
            RoleState::Leader(_) => self.tick_leader(),
            _ if self.now >= self.election_due => self.on_election_timeout(),
            RoleState::Candidate(_) => self.tick_candidate(),
            RoleState::Follower => {}
        }
    }

    fn on_election_timeout(&mut self) {
        // Once more for a node that stopped between learning of its removal and acting on it.
        self.maybe_set_aside();
        self.courteous = self.courteous && !matches!(self.role, RoleState::Candidate(_));
        let automatic = self.log.config().is_some_and(|c| c.failover == Failover::Automatic);
        let alone = self.log.config().is_some_and(|c| c.elects(|id| id == self.id));
        if self.may_campaign() && (automatic || alone) {
            self.become_pre_candidate(false);
            return;
        }
        self.leader = None;
        if matches!(self.role, RoleState::Candidate(_)) {
            self.role = RoleState::Follower;
        }
        self.await_leader();
    }

    fn on_campaign(&mut self) {
        if self.may_campaign() && self.as_leader().is_none() {
            self.become_pre_candidate(true);
        } else {
            self.effects.push(Effect::Refuse(Refusal::NoSuchVoter(self.id)));
        }
    }

    fn handle_message(&mut self, from: NodeId, message: Message) {
        // A pre-vote asks about a term that nobody is in yet, and its grant answers in that term: neither moves ours. A
        // vote moves it only if it may be granted at all (see `handle_vote`).
        let moves_term = match message.body {
            Body::PreVote { .. } | Body::Vote { .. } => false,
            Body::PreVoteReply { granted } => !granted,
            _ => true,
        };
        if moves_term && message.term > self.term {
            self.become_follower(message.term, None);
        }
        let stale = message.term < self.term;
        match message.body {
            Body::PreVote { last } => self.handle_pre_vote(from, message.term, last),
            Body::Vote { last, transfer } => self.handle_vote(from, message.term, last, transfer),
            Body::Append { prev, entries, commit } if !stale => self.handle_append(from, prev, entries, commit),
            Body::Heartbeat { round, commit } if !stale => self.handle_heartbeat(from, round, commit),
            Body::Heartbeat { round, .. } if bugs::is_on(Bug::StaleRoundAccepted) => {
                self.send(from, Body::HeartbeatReply { round });
            }
            // A leader of a past term learns from the answer's term that its reign is over. The answer names no round:
            // the sender may lead the present term too, and would take it for one of this reign's.
            Body::Append { .. } | Body::Heartbeat { .. } => self.send(from, Body::HeartbeatReply { round: 0 }),
            Body::TransferNow { by_hand } if !stale => self.handle_transfer_now(from, by_hand),
            Body::PreVoteReply { granted } => self.handle_pre_vote_reply(from, message.term, granted),
            Body::VoteReply { granted } if !stale => self.handle_vote_reply(from, granted),
            Body::Appended { durable } if !stale => self.handle_appended(from, durable),
            Body::Rejected { prev, hint } if !stale => self.handle_rejected(from, prev, hint),
            Body::HeartbeatReply { round } if !stale => self.handle_heartbeat_reply(from, round),
            _ => {}
        }
    }

    fn on_persisted(&mut self, token: Token) {
        let (durable, release) = self.promises.settle(token);
        if let Some(index) = durable {
            self.log.set_durable(index);
        }
        for (to, message) in release {
            self.effects.push(Effect::Send { to, message });
        }
        match &self.role {
            RoleState::Candidate(_) => self.maybe_win(),
            RoleState::Leader(_) => self.advance(),
            RoleState::Follower => {}
        }
    }

    /// Adopts a term (never a lower one) and follows in it.
    fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.term, "terms never fall: {term} after {}", self.term);
        if let RoleState::Leader(leader) = &mut self.role {
            for id in leader.reads.abandon() {
                self.effects.push(Effect::ReadRefused { id, why: Refusal::NotLeader });
            }
        }
        self.role = RoleState::Follower;
        if term > self.term {
            self.leader = None;
            self.heard_from_leader = None;
            self.enter_term(term, None);
        } else if self.leader == Some(self.id) {
            self.leader = None;
        }
        if leader.is_some() {
            assert!(
                self.leader.is_none() || self.leader == leader,
                "term {term} has two leaders: {:?} and {leader:?}",
                self.leader
            );
            self.leader = leader;
        }
        self.await_leader();
    }

    /// Enters a term with a vote, and has both made durable.
    fn enter_term(&mut self, term: Term, voted_for: Option<NodeId>) {
        assert!(term > self.term || (term == self.term && self.voted_for.is_none()), "one vote per term");
        self.term = term;
        self.voted_for = voted_for;
        self.promises.forget_before(term);
        let token = self.promises.issue_vote(self.now);
        self.effects.push(Effect::SaveVote { token, term, voted_for });
    }

    /// Restarts the wait for a leader with a newly drawn timeout. A node that needs nobody else's vote does not
    /// wait; but once it campaigns, its disk is given time to take its own vote, or every tick would begin another
    /// term and none of them be won.
    fn await_leader(&mut self) {
        let (min, max) = (self.settings.election_min, self.settings.election_max);
        let at_once = self.elects_itself() && !matches!(self.role, RoleState::Candidate(_));
        let wait = if at_once { 0 } else { self.dice.between(min, max) };
        self.election_due = self.now.after(wait);
    }

    /// Whether no vote but its own is needed, for certain: while the configuration is not known to be committed, a
    /// leader that it leaves out may still be in office and hold a lease.
    fn elects_itself(&self) -> bool {
        self.config_committed() && self.log.config().is_some_and(|c| c.elects(|id| id == self.id))
    }

    /// Sends in the current term, at once.
    fn send(&mut self, to: NodeId, body: Body) {
        self.effects.push(Effect::Send { to, message: Message { term: self.term, body } });
    }

    /// Sends in the current term as soon as `token` is durable.
    fn send_after(&mut self, token: Token, to: NodeId, body: Body) {
        if self.promises.is_done(token) {
            self.send(to, body);
        } else {
            self.promises.hold(token, to, Message { term: self.term, body });
        }
    }

    /// Puts entries into the log, dropping what it holds from `first` on, and has them written.
    fn write(&mut self, first: Index, entries: Vec<Head>) {
        assert!(first > self.commit, "entry {first} is committed (up to {}) and must not change", self.commit);
        let before = self.log.config().cloned();
        self.promises.truncate(first);
        self.log.append(first, entries.iter().cloned());
        let token = self.promises.issue_write(self.now, self.log.last().index);
        self.effects.push(Effect::Write { token, first, entries });
        self.maybe_reconfigured(before);
        if bugs::is_on(Bug::SetAsideBeforeCommitted) {
            self.maybe_set_aside();
        }
    }

    fn maybe_reconfigured(&mut self, before: Option<SharedConfig>) {
        let Some(config) = self.log.config().cloned() else { return };
        if before.as_ref() != Some(&config) {
            self.effects.push(Effect::Reconfigured { config });
        }
    }

    /// Moves the commit index and says so; it never moves back.
    fn commit_to(&mut self, index: Index) {
        if index <= self.commit {
            return;
        }
        assert!(index <= self.log.last().index, "committed {index} beyond the log's end {}", self.log.last());
        self.commit = index;
        self.effects.push(Effect::Commit { index });
        self.note_membership();
        self.maybe_set_aside();
    }

    fn note_membership(&mut self) {
        self.joined = self.joined || self.log.names_up_to(self.commit, self.id);
    }

    /// Notices that a committed configuration, and the newest one too, does without this node that was a member before.
    fn maybe_set_aside(&mut self) {
        let outside = |config: &SharedConfig| config.member(self.id).is_none();
        let upto = if bugs::is_on(Bug::SetAsideBeforeCommitted) { self.log.last().index } else { self.commit };
        let committed = self.log.config_at(upto);
        if self.removed || !self.joined || self.as_leader().is_some() || !committed.is_some_and(outside) {
            return;
        }
        if self.log.config().is_some_and(outside) {
            self.removed = true;
            self.effects.push(Effect::SetAside);
        }
    }

    fn announce(&mut self) {
        let now = (self.role(), self.term, self.leader);
        if now != self.announced {
            self.announced = now;
            self.effects.push(Effect::Became { role: now.0, term: now.1, leader: now.2 });
        }
    }

    /// What [`check`] looks at.
    pub(crate) fn checked(&self) -> check::Checked<'_> {
        check::Checked {
            log: &self.log,
            term: self.term,
            commit: self.commit,
            leads: self.as_leader().map(|l| (l.first_own, l.acknowledged)),
            leader_is_self: self.leader == Some(self.id),
        }
    }
}

/// An entry of the core's own.
fn own_entry(term: Term, kind: Kind) -> Head {
    Head { term, kind, bytes: OWN_ENTRY_BYTES }
}
