//! Elections: first the question whether a vote would be granted, then the vote itself.
//!
//! The pre-vote (Raft thesis, 9.6) costs nobody a term: a node that was cut off cannot depose a leader that the others
//! still hear. A transfer skips it, since the leader itself asked.

use std::collections::BTreeSet;

use super::{Replica, RoleState};
use crate::effect::Effect;
use crate::message::{Body, Message};
use crate::types::{NodeId, Position, Term, Time};

/// What a candidate knows.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Whether votes are only asked about.
    pre_vote: bool,
    /// Who granted, without this node.
    granted: BTreeSet<NodeId>,
    /// Whether a person wished for this, here or through the old leader: leadership is then not handed back by itself.
    by_hand: bool,
    /// When those who have not granted are asked again: a question or its answer may have been lost, and a voter that
    /// stood by the old leader a moment longer than this node would otherwise cost a whole timeout.
    asks_again: Time,
}

impl Replica {
    /// Asks whether votes would be granted; `by_hand` if a person told this node to.
    pub(super) fn become_pre_candidate(&mut self, by_hand: bool) {
        self.assert_may_campaign();
        self.leader = None;
        self.stand(true, by_hand);
        self.await_leader();
        self.ask_for_pre_votes();
        self.maybe_win();
    }

    /// Enters the next term with this node's vote for itself, and asks for the others'. In a `transfer`
    /// the leader asked for it.
    pub(super) fn become_candidate(&mut self, transfer: bool, by_hand: bool) {
        self.assert_may_campaign();
        self.leader = None;
        self.heard_from_leader = None;
        self.stand(false, by_hand);
        self.enter_term(self.term.next(), Some(self.id));
        self.await_leader();
        self.ask_for_votes(transfer);
        self.maybe_win();
    }

    fn stand(&mut self, pre_vote: bool, by_hand: bool) {
        let asks_again = self.now.after(self.settings.heartbeat);
        self.role = RoleState::Candidate(Candidate { pre_vote, granted: BTreeSet::new(), by_hand, asks_again });
    }

    fn ask_for_pre_votes(&mut self) {
        let message = Message { term: self.term.next(), body: Body::PreVote { last: self.log.last() } };
        for to in self.undecided() {
            self.effects.push(Effect::Send { to, message: message.clone() });
        }
    }

    fn ask_for_votes(&mut self, transfer: bool) {
        // The request says that this node's own vote is spent: it leaves when that is durable.
        let token = self.promises.latest_vote();
        let last = self.log.last();
        for to in self.undecided() {
            self.send_after(token, to, Body::Vote { last, transfer });
        }
    }

    pub(super) fn tick_candidate(&mut self) {
        let (now, heartbeat) = (self.now, self.settings.heartbeat);
        let RoleState::Candidate(candidate) = &mut self.role else { return };
        if now >= candidate.asks_again {
            candidate.asks_again = now.after(heartbeat);
            if candidate.pre_vote {
                self.ask_for_pre_votes();
            } else if self.promises.is_done(self.promises.latest_vote()) {
                // No more by the old leader's word: that was for the moment in which it was given.
                self.ask_for_votes(false);
            }
        }
        // Its own pre-vote may have begun to count.
        self.maybe_win();
    }

    /// Whether a pre-vote may be granted as far as this node's own wish to lead goes. After the death of a leader
    /// everyone's patience ends at about the same time, and two who go on to the vote at once split it, for a whole
    /// timeout. So a node that is asked lets the other go ahead and starts its own wait anew; of two that ask at once,
    /// the one with the better log goes ahead, or the higher id.
    ///
    /// A node is so courteous once, until it hears from a leader again: who goes ahead may be the one that
    /// cannot reach the others.
    pub(super) fn gives_way(&mut self, to: NodeId, last: Position) -> bool {
        let asks = match &self.role {
            RoleState::Candidate(candidate) if candidate.pre_vote && !candidate.by_hand => true,
            RoleState::Candidate(_) | RoleState::Leader(_) => return true,
            RoleState::Follower => false,
        };
        if !self.courteous {
            return true;
        }
        if asks && (self.log.last(), self.id) > (last, to) {
            return false;
        }
        self.courteous = false;
        self.role = RoleState::Follower;
        self.await_leader();
        true
    }

    fn assert_may_campaign(&self) {
        assert!(self.may_campaign(), "only voters campaign");
        assert!(self.as_leader().is_none(), "a leader has nothing to campaign for");
    }

    /// The other voters, of both halves of a joint configuration, without those who have granted.
    fn undecided(&self) -> Vec<NodeId> {
        let RoleState::Candidate(candidate) = &self.role else { return Vec::new() };
        let config = self.log.config();
        let voters = config.iter().flat_map(|c| c.members().filter(|m| c.is_voter(m.id)));
        voters.map(|m| m.id).filter(|id| *id != self.id && !candidate.granted.contains(id)).collect()
    }

    pub(super) fn handle_pre_vote_reply(&mut self, from: NodeId, term: Term, granted: bool) {
        let next = self.term.next();
        let RoleState::Candidate(candidate) = &mut self.role else { return };
        if candidate.pre_vote && granted && term == next {
            candidate.granted.insert(from);
            self.maybe_win();
        }
    }

    pub(super) fn handle_vote_reply(&mut self, from: NodeId, granted: bool) {
        let RoleState::Candidate(candidate) = &mut self.role else { return };
        if !candidate.pre_vote && granted {
            candidate.granted.insert(from);
            self.maybe_win();
        }
    }

    /// Goes on if E voters (of both halves of a joint configuration) are for it. This node's own vote
    /// counts once it is durable.
    pub(super) fn maybe_win(&mut self) {
        let RoleState::Candidate(candidate) = &self.role else { return };
        let Some(config) = self.log.config() else { return };
        let own_counts = if candidate.pre_vote {
            // It stands by its leader like any other voter, or a lease that counts on it would not hold. Alone
            // there is nobody to stand by.
            !self.stands_by_a_leader() || self.elects_itself()
        } else {
            self.promises.is_done(self.promises.latest_vote())
        };
        let elected = config.elects(|id| if id == self.id { own_counts } else { candidate.granted.contains(&id) });
        if !elected {
            return;
        }
        let by_hand = candidate.by_hand;
        if candidate.pre_vote {
            self.become_candidate(false, by_hand);
        } else {
            self.become_leader(by_hand);
        }
    }
}
