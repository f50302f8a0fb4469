//! What a follower does: takes entries, votes, and installs snapshots. Candidates hear the same and step back.

use super::{Replica, RoleState};
use crate::bugs::{self, Bug};
use crate::config::Config;
use crate::effect::Effect;
use crate::message::{Body, Head};
use crate::types::{Index, NodeId, Position, Term};

impl Replica {
    /// Whether this node stands by a leader: it heard from one within the shortest election timeout, or cannot rule
    /// that out because it has just started. Such a node refuses (pre-)votes, which is what makes a leader's lease hold
    /// and keeps a node that was cut off from disturbing the rest.
    pub(super) fn stands_by_a_leader(&self) -> bool {
        let recent = |t| self.now.since(t) < self.settings.election_min;
        let just_started = recent(self.started) && !bugs::is_on(Bug::LeaseWithoutRefusalAfterStart);
        self.as_leader().is_some() || just_started || self.heard_from_leader.is_some_and(recent)
    }

    /// Whether a candidate's log has everything that may be committed here (Raft, 5.4.1). A blank node holds nothing,
    /// and under this id it never has: any log will do, and a founder that told nobody else of the cluster before it
    /// stopped needs such votes (see the crate's page).
    fn may_vote_for(&self, last: Position) -> bool {
        !self.removed && (last >= self.log.last() || bugs::is_on(Bug::VoteIgnoresLog))
    }

    pub(super) fn handle_pre_vote(&mut self, from: NodeId, term: Term, last: Position) {
        self.maybe_tell_of_removal(from);
        let would = term > self.term && !self.stands_by_a_leader() && self.may_vote_for(last);
        let granted = would && self.gives_way(from, last);
        let answer_term = if granted { term } else { self.term };
        let message = crate::message::Message { term: answer_term, body: Body::PreVoteReply { granted } };
        self.effects.push(Effect::Send { to: from, message });
    }

    pub(super) fn handle_vote(&mut self, from: NodeId, term: Term, last: Position, transfer: bool) {
        if term < self.term || (self.stands_by_a_leader() && !transfer && term > self.term) {
            self.send(from, Body::VoteReply { granted: false });
            return;
        }
        let free = term > self.term || self.voted_for.is_none() || self.voted_for == Some(from);
        let granted = free && self.may_vote_for(last);
        if granted && self.voted_for_in(term) != Some(from) {
            if term > self.term {
                self.leave_office();
            }
            self.enter_term(term, Some(from));
            self.await_leader();
        } else if term > self.term {
            self.become_follower(term, None);
        }
        if bugs::is_on(Bug::VoteBeforeSaved) {
            return self.send(from, Body::VoteReply { granted });
        }
        self.send_after(self.promises.latest_vote(), from, Body::VoteReply { granted });
    }

    fn voted_for_in(&self, term: Term) -> Option<NodeId> {
        if term == self.term { self.voted_for } else { None }
    }

    /// Back to following, with the leader of the term that ends forgotten; the next term is entered right after.
    fn leave_office(&mut self) {
        self.become_follower(self.term, None);
        self.leader = None;
        self.heard_from_leader = None;
    }

    /// Notes that `from` leads the current term.
    fn follow(&mut self, from: NodeId) {
        assert_ne!(self.leader, Some(self.id), "term {} has two leaders: this node and {from}", self.term);
        if self.is_blank() {
            // It belongs to no cluster yet, and two founders may court it in the same term: it goes with the first
            // whose configuration it stores.
            self.leader = None;
        }
        self.become_follower(self.term, Some(from));
        self.heard_from_leader = Some(self.now);
        self.courteous = true;
    }

    pub(super) fn handle_append(&mut self, from: NodeId, prev: Position, entries: Vec<Head>, commit: Index) {
        self.follow(from);
        if !self.log.matches(prev) {
            let hint = self.log.latest_within(prev.index, prev.term);
            self.send(from, Body::Rejected { prev: prev.index, hint });
            return;
        }
        let last_new = Index(prev.index.0 + entries.len() as u64);
        if let Some(at) = self.first_difference(prev.index, &entries) {
            let skip = usize::try_from(at.0 - prev.index.0 - 1).unwrap_or(usize::MAX);
            self.write(at, entries.into_iter().skip(skip).collect());
        }
        // Everything up to `last_new` agrees with the leader's log now; nothing is known of what may lie behind it.
        self.commit_to(commit.min(last_new));
        let durable = last_new.max(self.log.start().index);
        if bugs::is_on(Bug::PromiseBeforeDurable) {
            self.send(from, Body::Appended { durable });
        } else if self.log.durable() >= durable {
            self.send_after(self.promises.latest_vote(), from, Body::Appended { durable });
        } else {
            self.send_after(self.promises.latest(), from, Body::Appended { durable });
        }
    }

    /// The index of the first entry that the log does not have.
    fn first_difference(&self, prev: Index, entries: &[Head]) -> Option<Index> {
        let start = self.log.start().index;
        if bugs::is_on(Bug::LateAppendTruncates) && prev >= start && !entries.is_empty() {
            return Some(prev.next());
        }
        let indexes = prev.0 + 1..;
        let new = indexes.zip(entries).find(|(i, e)| Index(*i) > start && self.log.term_at(Index(*i)) != Some(e.term));
        new.map(|(i, _)| Index(i))
    }

    pub(super) fn handle_heartbeat(&mut self, from: NodeId, round: u64, commit: Index) {
        self.follow(from);
        let commit = if bugs::is_on(Bug::CommitBeyondAgreement) { commit.min(self.log.last().index) } else { commit };
        // A leader names no more than this node has confirmed to it to be durable here. What is missing of
        // that, the disk has lost without noticing (the last batch of a log, rotten, looks torn): the node can
        // count for nothing any more.
        if commit > self.log.last().index {
            self.effects.push(Effect::Forgot { confirmed: commit });
            return;
        }
        self.commit_to(commit);
        self.send_after(self.promises.latest_vote(), from, Body::HeartbeatReply { round });
    }

    pub(super) fn handle_transfer_now(&mut self, from: NodeId, by_hand: bool) {
        if self.leader == Some(from) && self.may_campaign() && !matches!(self.role, RoleState::Leader(_)) {
            self.become_candidate(true, by_hand);
        }
    }

    pub(super) fn on_snapshot_received(&mut self, from: NodeId, term: Term, last: Position, config: Config) {
        if term < self.term {
            return;
        }
        if term > self.term {
            self.become_follower(term, None);
        }
        self.follow(from);
        let late = last.index <= self.commit || self.log.term_at(last.index) == Some(last.term);
        if late && !bugs::is_on(Bug::LateSnapshotInstalled) {
            // It came too late to be of use, but it proves agreement up to there. Installing it would drop the entries
            // behind it, and those may be acknowledged already.
            self.commit_to(last.index);
            self.send_after(self.promises.latest(), from, Body::Appended { durable: last.index });
            return;
        }
        let before = self.log.config().cloned();
        self.promises.truncate(Index(1));
        let kept = before.clone().filter(|_| bugs::is_on(Bug::SnapshotKeepsOldConfig));
        self.log.reset(last, kept.unwrap_or_else(|| crate::config::SharedConfig::new(config)));
        self.commit = last.index;
        self.note_membership();
        let token = self.promises.issue_write(self.now, last.index);
        self.effects.push(Effect::InstallSnapshot { token, last });
        self.maybe_reconfigured(before);
        self.maybe_set_aside();
        self.send_after(token, from, Body::Appended { durable: last.index });
    }
}
