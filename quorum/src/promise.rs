//! What may not be said yet: messages that promise durability, held back until the disk has kept the promise.
//!
//! The host makes things durable in the order they were asked for and reports the highest [`Token`] done. This
//! ledger knows what each token stands for, since when the disk owes it, and which messages wait for it. A message
//! of a term that has passed is dropped: to the one who waited for it, it would promise something about a log that
//! may have been overwritten since.

use std::collections::VecDeque;

use crate::bugs::{self, Bug};
use crate::message::{Body, Message};
use crate::types::{Index, NodeId, Term, Time, Token};

#[derive(Debug)]
struct Owed {
    token: Token,
    since: Time,
    /// The last index of a write of entries; `None` for anything else.
    last: Option<Index>,
}

#[derive(Debug)]
struct Held {
    token: Token,
    to: NodeId,
    message: Message,
}

/// The ledger of a replica.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    issued: Token,
    done: Token,
    /// The last token that made term and vote durable.
    vote: Token,
    owed: VecDeque<Owed>,
    held: VecDeque<Held>,
}

impl Promises {
    fn issue(&mut self, since: Time, last: Option<Index>) -> Token {
        self.issued = Token(self.issued.0 + 1);
        self.owed.push_back(Owed { token: self.issued, since, last });
        self.issued
    }

    /// A token for making term and vote durable.
    pub(crate) fn issue_vote(&mut self, now: Time) -> Token {
        self.vote = self.issue(now, None);
        self.vote
    }

    /// A token for making entries up to `last` durable.
    pub(crate) fn issue_write(&mut self, now: Time, last: Index) -> Token {
        self.issue(now, Some(last))
    }

    /// What the newest promise about anything waits for.
    pub(crate) fn latest(&self) -> Token {
        self.issued
    }

    /// What a promise about term and vote alone waits for.
    pub(crate) fn latest_vote(&self) -> Token {
        self.vote
    }

    /// Whether the disk has kept this one.
    pub(crate) fn is_done(&self, token: Token) -> bool {
        token <= self.done
    }

    /// Entries from `first` on are overwritten: what is owed of them counts only up to there.
    pub(crate) fn truncate(&mut self, first: Index) {
        if bugs::is_on(Bug::OverwrittenCountsAsDurable) {
            return;
        }
        for owed in &mut self.owed {
            owed.last = owed.last.map(|last| last.min(first.prev()));
        }
    }

    /// Since when the disk owes the oldest promise.
    pub(crate) fn oldest(&self) -> Option<Time> {
        self.owed.front().map(|o| o.since)
    }

    /// Holds a message back until the token is done.
    pub(crate) fn hold(&mut self, token: Token, to: NodeId, message: Message) {
        assert!(!self.is_done(token), "nothing to wait for");
        // Answers that wait for the same thing become one, or a leader that asks often while the disk is
        // slow would fill the memory.
        let same = |h: &&mut Held| h.token == token && h.to == to && h.message.term == message.term;
        for h in self.held.iter_mut().filter(|h| same(h)) {
            if let Some(body) = merged(&h.message.body, &message.body) {
                h.message.body = body;
                return;
            }
        }
        self.held.push_back(Held { token, to, message });
    }

    /// Drops what was held in terms before `term`.
    pub(crate) fn forget_before(&mut self, term: Term) {
        self.held.retain(|h| h.message.term >= term);
    }

    /// The disk is done up to `token`. Returns the highest index that became durable, and the messages that may leave
    /// now: of several acknowledgements to one node the highest alone, since it includes the others.
    pub(crate) fn settle(&mut self, token: Token) -> (Option<Index>, Vec<(NodeId, Message)>) {
        assert!(token <= self.issued, "{token:?} was never asked for");
        self.done = self.done.max(token);
        let mut durable = None;
        while let Some(owed) = self.owed.front() {
            if owed.token > self.done {
                break;
            }
            durable = durable.max(owed.last);
            self.owed.pop_front();
        }
        let mut release: Vec<(NodeId, Message)> = Vec::new();
        let (done, held) = (self.done, std::mem::take(&mut self.held));
        for h in held {
            if h.token > done {
                self.held.push_back(h);
                continue;
            }
            let same = |(to, m): &&mut (NodeId, Message)| *to == h.to && m.term == h.message.term;
            let into = release
                .iter_mut()
                .filter(same)
                .find_map(|(_, m)| merged(&m.body, &h.message.body).map(|body| m.body = body));
            if into.is_none() {
                release.push((h.to, h.message));
            }
        }
        (durable, release)
    }
}

/// One answer that says what both say, if there is one: the higher acknowledgement or round includes the lower.
fn merged(a: &Body, b: &Body) -> Option<Body> {
    match (a, b) {
        (Body::Appended { durable: a }, Body::Appended { durable: b }) => Some(Body::Appended { durable: *a.max(b) }),
        (Body::HeartbeatReply { round: a }, Body::HeartbeatReply { round: b }) => {
            Some(Body::HeartbeatReply { round: *a.max(b) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list of what is owed: what settles is the highest index written and not overwritten since, and
        /// nothing leaves early or stays late.
        #[test]
        fn the_ledger_agrees_with_a_plain_list(ops in proptest::collection::vec((0u8..4, 1u64..20), 1..60)) {
            let mut ledger = Promises::default();
            let mut owed: Vec<(Token, u64)> = Vec::new();
            let mut waiting: Vec<(Token, u64)> = Vec::new();
            let mut done = Token(0);
            for (op, n) in ops {
                match op {
                    0 => owed.push((ledger.issue_write(Time(0), Index(n)), n)),
                    1 => {
                        ledger.truncate(Index(n));
                        owed.iter_mut().for_each(|o| o.1 = o.1.min(n - 1));
                    }
                    2 if !ledger.is_done(ledger.latest()) => {
                        let body = Body::Rejected { prev: Index(n), hint: crate::types::Position::default() };
                        ledger.hold(ledger.latest(), NodeId(1), Message { term: Term(1), body });
                        waiting.push((ledger.latest(), n));
                    }
                    _ => {
                        done = done.max(Token((done.0 + n % 3).min(ledger.latest().0)));
                        let (durable, released) = ledger.settle(done);
                        let kept = owed.iter().filter(|o| o.0 <= done).map(|o| Index(o.1)).max();
                        prop_assert_eq!(durable, kept);
                        prop_assert_eq!(released.len(), waiting.iter().filter(|w| w.0 <= done).count());
                        owed.retain(|o| o.0 > done);
                        waiting.retain(|w| w.0 > done);
                    }
                }
            }
        }
    }

    #[test]
    fn answers_that_wait_for_the_same_thing_are_one() {
        let mut ledger = Promises::default();
        let token = ledger.issue_vote(Time(0));
        for round in [3, 9, 5] {
            ledger.hold(token, NodeId(1), Message { term: Term(1), body: Body::HeartbeatReply { round } });
        }
        let (_, released) = ledger.settle(token);
        assert_eq!(released, [(NodeId(1), Message { term: Term(1), body: Body::HeartbeatReply { round: 9 } })]);
    }
}
