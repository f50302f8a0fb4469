//! What a leader knows of one other member, and how much it sends ahead of the answers.
//!
//! Each member has a pipeline of its own, so that a slow or dead one costs the others nothing. The window is short on purpose: a follower answers once
//! its disk has the entries, and what is proposed meanwhile gathers into the next batch. Deep pipelines of small batches are slower.

use std::collections::VecDeque;

use crate::types::{Index, Time};

/// How entries are sent to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Where the logs agree is being found out, one append at a time.
    Probe,
    /// Appends are sent ahead, as many as the window allows.
    Stream,
    /// Its log ends before ours begins: a snapshot is under way.
    Snapshot,
}

/// One member as its leader sees it.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The highest index it holds durably and in agreement with us.
    pub durable: Index,
    /// The next index to send.
    pub next: Index,
    /// How.
    pub pace: Pace,
    /// The last index of each append under way, and when it left.
    pub in_flight: VecDeque<(Index, Time)>,
    /// When it was last heard from in this term.
    pub heard: Option<Time>,
    /// The latest heartbeat round it answered.
    pub answered: u64,
    /// The commit index it was last told.
    pub told_commit: Index,
    /// Set once it is no longer a member: it is sent the entry that says so until then.
    pub leaves_at: Option<Time>,
    /// The end of our log at some moment, and the moment: once it holds that much, it is behind by no more than the time since.
    mark: (Index, Time),
    /// Since when it lacks what our log held then; `None` if it lacks nothing.
    pub behind_since: Option<Time>,
}

impl Progress {
    /// Nothing known yet.
    pub(crate) fn new(next: Index) -> Progress {
        Progress {
            durable: Index(0),
            next,
            pace: Pace::Probe,
            in_flight: VecDeque::new(),
            heard: None,
            answered: 0,
            told_commit: Index(0),
            leaves_at: None,
            mark: (Index(0), Time(0)),
            behind_since: None,
        }
    }

    /// Whether another append may leave.
    pub(crate) fn has_room(&self, window: usize) -> bool {
        match self.pace {
            Pace::Probe => self.in_flight.is_empty(),
            Pace::Stream => self.in_flight.len() < window,
            Pace::Snapshot => false,
        }
    }

    /// An append up to `last` left.
    pub(crate) fn sent(&mut self, last: Index, now: Time) {
        self.in_flight.push_back((last, now));
        if self.pace == Pace::Stream {
            self.next = last.next();
        }
    }

    /// It holds everything up to `durable`.
    pub(crate) fn acknowledged(&mut self, durable: Index) {
        self.durable = self.durable.max(durable);
        self.next = self.next.max(self.durable.next());
        match self.pace {
            Pace::Probe => {
                self.pace = Pace::Stream;
                self.in_flight.clear();
            }
            Pace::Stream => {
                while self.in_flight.front().is_some_and(|(last, _)| *last <= durable) {
                    self.in_flight.pop_front();
                }
            }
            // An acknowledgement from before the snapshot began, or of the snapshot itself: only the latter reaches far enough, and
            // the caller decides.
            Pace::Snapshot => {}
        }
    }

    /// Takes note of how long it has been lacking entries, with `last` being the end of our log now.
    pub(crate) fn note_lag(&mut self, last: Index, now: Time) {
        if self.durable >= self.mark.0 {
            self.mark = (last, now);
        }
        self.behind_since = (self.durable < last).then_some(self.mark.1);
    }

    /// What was under way may be lost: find out again, from what is known for certain or from `next`.
    pub(crate) fn probe_from(&mut self, next: Index) {
        self.pace = Pace::Probe;
        self.next = next.max(self.durable.next());
        self.in_flight.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes in whatever order: what is sent next is never what is held already, what is held never shrinks, and the window holds.
        #[test]
        fn the_next_entry_is_always_beyond_what_is_held(ops in proptest::collection::vec((0u8..4, 1u64..30), 1..80)) {
            let mut p = Progress::new(Index(5));
            let mut held = Index(0);
            for (op, n) in ops {
                match op {
                    0 if p.has_room(2) => p.sent(Index(p.next.0 + n), Time(0)),
                    1 => p.acknowledged(Index(n)),
                    2 => p.probe_from(Index(n)),
                    _ => p.note_lag(Index(30), Time(n)),
                }
                prop_assert!(p.next > p.durable && p.durable >= held && p.in_flight.len() <= 2);
                held = p.durable;
            }
        }
    }
}
