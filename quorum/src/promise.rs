//! What may not be said yet: messages that promise durability, held back until the disk has kept the promise.
//!
//! The host makes things durable in the order they were asked for and reports the highest [`Token`] done. This ledger knows what each token stands
//! for, since when the disk owes it, and which messages wait for it. A message of a term that has passed is dropped: to the one who waited for
//! it, it would promise something about a log that may have been overwritten since.

use std::collections::VecDeque;

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
        self.held.push_back(Held { token, to, message });
    }

    /// Drops what was held in terms before `term`.
    pub(crate) fn forget_before(&mut self, term: Term) {
        self.held.retain(|h| h.message.term >= term);
    }

    /// The disk is done up to `token`. Returns the highest index that became durable, and the messages that may leave now: of several
    /// acknowledgements to one node the highest alone, since it includes the others.
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
            match same_acknowledgement(&mut release, &h) {
                Some(body) => *body = greater(body, &h.message.body),
                None => release.push((h.to, h.message)),
            }
        }
        (durable, release)
    }
}

/// The acknowledgement already released to the same node in the same term, if `held` is one too.
fn same_acknowledgement<'a>(released: &'a mut [(NodeId, Message)], held: &Held) -> Option<&'a mut Body> {
    let acknowledges = |m: &Message| matches!(m.body, Body::Appended { .. });
    let same = |(to, m): &&mut (NodeId, Message)| *to == held.to && m.term == held.message.term && acknowledges(m);
    released.iter_mut().filter(|_| acknowledges(&held.message)).find(same).map(|(_, m)| &mut m.body)
}

fn greater(a: &Body, b: &Body) -> Body {
    match (a, b) {
        (Body::Appended { durable: a }, Body::Appended { durable: b }) => Body::Appended { durable: *a.max(b) },
        _ => a.clone(),
    }
}
