//! What a leader knows of one other member, and how much it sends ahead of the answers.
//!
//! Each member has a pipeline of its own, so that a slow or dead one costs the others nothing. Over a short line
//! one append is under way at a time: a follower answers once its disk has the entries, and what is proposed
//! meanwhile gathers into the next. Every append costs both sides a turn, a write and a sync, so more and smaller
//! ones are slower. Over a long line that would make an entry wait for an answer to come back before it leaves:
//! there appends leave as entries come, as many as the window allows. Which it is shows in the shortest time that
//! lately passed between an append and its answer: a disk that is slow now and then, or a machine that is busy,
//! does not make a line long.

use std::collections::VecDeque;

use crate::types::{Index, Time};

/// A line over which no answer comes sooner is long. Below lies whatever a building or a city spans, and a sync of
/// an ordinary disk with it.
const LONG_LINE_MICROS: u64 = 5_000;

/// The shortest of so many answers, or of twice as many, says how long the line is.
const ANSWERS: u32 = 16;

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
    /// The end of our log at some moment, and the moment: once it holds that much, it is behind by no
    /// more than the time since.
    mark: (Index, Time),
    /// How long answers take.
    line: Line,
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
            line: Line::default(),
            behind_since: None,
        }
    }

    /// Whether another append may leave. The window is that of a long line, which this one may be known to be.
    pub(crate) fn has_room(&self, window: usize, known_long: bool) -> bool {
        match self.pace {
            Pace::Stream if known_long || self.is_over_a_long_line() => self.in_flight.len() < window,
            Pace::Probe | Pace::Stream => self.in_flight.is_empty(),
            Pace::Snapshot => false,
        }
    }

    /// Whether appends leave before earlier ones are answered.
    pub(crate) fn is_over_a_long_line(&self) -> bool {
        self.line.is_long()
    }

    /// An append up to `last` left.
    pub(crate) fn sent(&mut self, last: Index, now: Time) {
        self.in_flight.push_back((last, now));
        if self.pace == Pace::Stream {
            self.next = last.next();
        }
    }

    /// It holds everything up to `durable`, as it says now.
    pub(crate) fn acknowledged(&mut self, durable: Index, now: Time) {
        self.durable = self.durable.max(durable);
        self.next = self.next.max(self.durable.next());
        match self.pace {
            Pace::Probe => {
                self.pace = Pace::Stream;
                self.in_flight.clear();
            }
            Pace::Stream => {
                while let Some((_, sent)) = self.in_flight.pop_front_if(|(last, _)| *last <= durable) {
                    self.line.answered(now.since(sent));
                }
            }
            // An acknowledgement from before the snapshot began, or of the snapshot itself: only the latter reaches far
            // enough, and the caller decides.
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

/// The shortest times from an append to its answer, in microseconds: of the answers since the last full
/// count, and of that count.
#[derive(Debug)]
struct Line {
    shortest: u64,
    before: u64,
    answers: u32,
}

impl Default for Line {
    /// Short, until answers say otherwise.
    fn default() -> Line {
        Line { shortest: u64::MAX, before: 0, answers: 0 }
    }
}

impl Line {
    fn is_long(&self) -> bool {
        self.shortest.min(self.before) >= LONG_LINE_MICROS
    }

    fn answered(&mut self, after: u64) {
        self.shortest = self.shortest.min(after);
        self.answers += 1;
        if self.answers == ANSWERS {
            (self.before, self.shortest, self.answers) = (self.shortest, u64::MAX, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes in whatever order: what is sent next is never what is held already, what is held never
        /// shrinks, and the window holds.
        #[test]
        fn the_next_entry_is_always_beyond_what_is_held(ops in proptest::collection::vec((0u8..4, 1u64..30), 1..80), long: bool) {
            let mut p = Progress::new(Index(5));
            let mut held = Index(0);
            for (op, n) in ops {
                match op {
                    0 if p.has_room(2, long) => p.sent(Index(p.next.0 + n), Time(0)),
                    1 => p.acknowledged(Index(n), Time(LONG_LINE_MICROS)),
                    2 => p.probe_from(Index(n)),
                    _ => p.note_lag(Index(30), Time(n)),
                }
                prop_assert!(p.next > p.durable && p.durable >= held && p.in_flight.len() <= 2);
                held = p.durable;
            }
        }
    }

    #[test]
    fn a_line_is_long_while_no_answer_comes_sooner_and_only_then_are_several_appends_under_way() {
        let mut p = Progress::new(Index(1));
        p.acknowledged(Index(0), Time(0));
        let mut now = 0;
        let mut answers = |p: &mut Progress, each: u64, slowest: u64| {
            for n in 0..u64::from(ANSWERS) {
                let last = p.next;
                p.sent(last, Time(now));
                now += if n == 3 { slowest } else { each };
                p.acknowledged(last, Time(now));
            }
            p.sent(p.next, Time(now));
            let more = p.has_room(256, false);
            p.acknowledged(p.next.prev(), Time(now + each));
            more
        };
        let long = LONG_LINE_MICROS;
        assert!(!answers(&mut p, 300, 300));
        assert!(!answers(&mut p, 300, 20 * long), "a slow answer now and then");
        answers(&mut p, long, long);
        assert!(answers(&mut p, long, long), "no short answer for long enough");
        assert!(!answers(&mut p, long, 300), "one short answer");
        p.sent(p.next, Time(now));
        assert!(p.has_room(256, true) && !p.has_room(1, true));
    }
}
