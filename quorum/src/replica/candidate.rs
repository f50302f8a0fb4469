//! Elections: first the question whether a vote would be granted, then the vote itself.
//!
//! The pre-vote (Raft thesis, 9.6) costs nobody a term: a node that was cut off cannot depose a leader that the others still hear. A transfer
//! skips it, since the leader itself asked.

use std::collections::BTreeSet;

use super::{Replica, RoleState};
use crate::effect::Effect;
use crate::message::{Body, Message};
use crate::types::{NodeId, Term};

/// What a candidate knows.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Whether votes are only asked about.
    pre_vote: bool,
    /// Who granted, without this node.
    granted: BTreeSet<NodeId>,
    /// Whether a person wished for this, here or through the old leader: leadership is then not handed back by itself.
    by_hand: bool,
}

impl Replica {
    /// Asks whether votes would be granted; `by_hand` if a person told this node to.
    pub(super) fn become_pre_candidate(&mut self, by_hand: bool) {
        self.assert_may_campaign();
        self.leader = None;
        self.role = RoleState::Candidate(Candidate { pre_vote: true, granted: BTreeSet::new(), by_hand });
        self.await_leader();
        let message = Message { term: self.term.next(), body: Body::PreVote { last: self.log.last() } };
        for to in self.electorate() {
            self.effects.push(Effect::Send { to, message: message.clone() });
        }
        self.maybe_win();
    }

    /// Enters the next term with this node's vote for itself, and asks for the others'. In a `transfer` the leader asked for it.
    pub(super) fn become_candidate(&mut self, transfer: bool, by_hand: bool) {
        self.assert_may_campaign();
        self.leader = None;
        self.heard_from_leader = None;
        self.role = RoleState::Candidate(Candidate { pre_vote: false, granted: BTreeSet::new(), by_hand });
        self.enter_term(self.term.next(), Some(self.id));
        self.await_leader();
        // The request says that this node's own vote is spent: it leaves when that is durable.
        let token = self.promises.latest_vote();
        let last = self.log.last();
        for to in self.electorate() {
            self.send_after(token, to, Body::Vote { last, transfer });
        }
        self.maybe_win();
    }

    fn assert_may_campaign(&self) {
        assert!(self.may_campaign(), "only voters campaign");
        assert!(self.as_leader().is_none(), "a leader has nothing to campaign for");
    }

    /// The other voters, of both halves of a joint configuration.
    fn electorate(&self) -> Vec<NodeId> {
        let config = self.log.config();
        let voters = config.iter().flat_map(|c| c.members().filter(|m| c.is_voter(m.id)));
        voters.map(|m| m.id).filter(|id| *id != self.id).collect()
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

    /// Goes on if E voters (of both halves of a joint configuration) are for it. This node's own vote counts once it is durable.
    pub(super) fn maybe_win(&mut self) {
        let RoleState::Candidate(candidate) = &self.role else { return };
        let Some(config) = self.log.config() else { return };
        let own_counts = if candidate.pre_vote {
            // It stands by its leader like any other voter, or a lease that counts on it would not hold. Alone there is nobody to stand by.
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
