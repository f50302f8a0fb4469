//! Handing leadership over: by hand, on the way down, or back to where it prefers to live (Raft thesis, 3.10).
//!
//! While a transfer is under way nothing new is appended, so that the heir can catch up; it campaigns at once
//! when it has, with its log as good as anyone's. If that does not happen within an election timeout the
//! leader goes on as before.

use super::{Replica, RoleState};
use crate::effect::{Effect, Refusal};
use crate::message::Body;
use crate::types::{NodeId, Time};

/// A transfer under way.
#[derive(Debug)]
pub(crate) struct Transfer {
    to: NodeId,
    by_hand: bool,
    gives_up_at: Time,
    told: bool,
}

impl Replica {
    pub(super) fn on_transfer(&mut self, to: Option<NodeId>, by_hand: bool) {
        if self.as_leader().is_none() {
            self.effects.push(Effect::Refuse(Refusal::NotLeader));
            return;
        }
        let heir = to.or_else(|| self.most_caught_up()).filter(|id| self.may_lead(*id));
        match heir {
            None => self.effects.push(Effect::Refuse(Refusal::NoSuchVoter(to.unwrap_or(self.id)))),
            Some(heir) => match self.electors_missing() {
                Some(refusal) => self.effects.push(Effect::Refuse(refusal)),
                None => self.begin_transfer(heir, by_hand),
            },
        }
    }

    /// Why no heir could be elected now: with fewer than E voters in contact, handing over would only end this reign.
    /// That matters most where W is small and E is all of them.
    fn electors_missing(&self) -> Option<Refusal> {
        let (leader, config) = (self.as_leader()?, self.log.config()?);
        config.halves().find_map(|(voters, quorum)| {
            let live = voters.iter().filter(|m| self.in_contact(leader, m.id)).count();
            let needed = quorum.election();
            (live < needed).then_some(Refusal::NoQuorum { live, needed })
        })
    }

    fn may_lead(&self, id: NodeId) -> bool {
        id != self.id && self.log.config().is_some_and(|c| c.voters.iter().any(|m| m.id == id))
    }

    /// The other voter that holds the most, of those heard from lately.
    pub(super) fn most_caught_up(&self) -> Option<NodeId> {
        let live = self.peers().filter(|p| p.live && self.may_lead(p.id));
        live.max_by_key(|p| p.durable).map(|p| p.id)
    }

    fn begin_transfer(&mut self, to: NodeId, by_hand: bool) {
        let gives_up_at = self.now.after(self.settings.election_max);
        let RoleState::Leader(leader) = &mut self.role else { return };
        leader.transfer = Some(Transfer { to, by_hand, gives_up_at, told: false });
        self.maybe_hand_over(to);
    }

    /// Tells the heir to campaign if it holds everything.
    pub(super) fn maybe_hand_over(&mut self, from: NodeId) {
        let last = self.log.last().index;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let caught_up = leader.peers.get(&from).is_some_and(|p| p.durable == last);
        let Some(transfer) = leader.transfer.as_mut().filter(|t| t.to == from && !t.told && caught_up) else { return };
        transfer.told = true;
        leader.lease_ended = true;
        let by_hand = transfer.by_hand;
        self.send(from, Body::TransferNow { by_hand });
    }

    /// Gives up on a transfer that takes too long, and begins one to the preferred node when it has
    /// been in step for a while.
    pub(super) fn tick_transfer(&mut self) {
        let now = self.now;
        let preferred_in_step = self.preferred_in_step();
        let hand_back_after = self.settings.hand_back_after;
        let RoleState::Leader(leader) = &mut self.role else { return };
        if leader.transfer.as_ref().is_some_and(|t| now >= t.gives_up_at) {
            leader.transfer = None;
            leader.preferred_in_step_since = None;
        }
        let Some(preferred) = preferred_in_step.filter(|_| !leader.hand_back_suspended && leader.transfer.is_none())
        else {
            leader.preferred_in_step_since = None;
            return;
        };
        let since = *leader.preferred_in_step_since.get_or_insert(now);
        if now.since(since) >= hand_back_after {
            self.begin_transfer(preferred, false);
        }
    }

    /// The preferred node, if it is another one, may lead, and keeps up.
    fn preferred_in_step(&self) -> Option<NodeId> {
        let (leader, config) = (self.as_leader()?, self.log.config()?);
        let preferred = config.preferred.filter(|id| self.may_lead(*id))?;
        let settled = !config.is_joint() && config.formed && self.commit >= leader.first_own;
        (settled && self.is_caught_up(leader, preferred) && self.electors_missing().is_none()).then_some(preferred)
    }
}
