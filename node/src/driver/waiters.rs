//! The clients that wait: for each write in the log of this reign, who asked, when, and what it led to.
//!
//! A waiter is answered once its entry is applied and acknowledged (W copies, or more where it asked for more). Whoever
//! is not answered in time, or when leadership is lost, is told that the outcome is unknown: never that it failed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quorum::{Index, Term};
use tokio::sync::oneshot;

use crate::handle::{WriteError, Written};
use crate::kv::Applied;
use crate::metrics::Metrics;
use crate::stage::Stage;

type Reply = oneshot::Sender<Result<Written, WriteError>>;

/// One write under way.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub index: Index,
    pub arrived: Instant,
    pub bytes: usize,
    /// More copies than W, where asked for.
    pub copies: Option<usize>,
    pub reply: Reply,
    pub applied: Option<Applied>,
}

/// How many voters hold an entry durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// All of them, the leader among them if its own disk has it.
    pub copies: usize,
    /// Those that are not the leader.
    pub followers: usize,
}

/// The stages a write passes while it is in here, each with the histogram it is measured in and how far it has been.
#[derive(Debug)]
struct Passed {
    stage: Stage,
    upto: Index,
    seconds: prometheus::Histogram,
}

/// All writes under way, by index.
#[derive(Debug)]
pub(crate) struct Waiters {
    waiting: VecDeque<Waiter>,
    /// Acknowledged at W, still waiting for the copies they asked for.
    raised: Vec<Waiter>,
    bytes: usize,
    passed: Vec<Passed>,
}

impl Waiters {
    /// Nobody waits.
    pub(crate) fn new(metrics: &Metrics) -> Waiters {
        let passed = |stage| Passed { stage, upto: Index(0), seconds: metrics.stage(stage) };
        Waiters {
            waiting: VecDeque::new(),
            raised: Vec::new(),
            bytes: 0,
            passed: Stage::ALL.into_iter().filter(|s| *s != Stage::Queued).map(passed).collect(),
        }
    }

    /// Writes under way.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.raised.len()
    }

    /// Bytes of their records.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A write got its place in the log. Places only grow.
    pub(crate) fn push(&mut self, waiter: Waiter) {
        assert!(self.waiting.back().is_none_or(|w| w.index < waiter.index), "places in the log grow");
        self.bytes += waiter.bytes;
        self.waiting.push_back(waiter);
    }

    /// Every write up to `upto` has passed the stage.
    pub(crate) fn pass(&mut self, stage: Stage, upto: Index, now: Instant) {
        let Some(passed) = self.passed.iter_mut().find(|p| p.stage == stage) else { return };
        if upto <= passed.upto {
            return;
        }
        let from = self.waiting.partition_point(|w| w.index <= passed.upto);
        for waiter in self.waiting.range(from..).take_while(|w| w.index <= upto) {
            passed.seconds.observe((now - waiter.arrived).as_secs_f64());
        }
        passed.upto = upto;
    }

    /// Notes what a write led to.
    pub(crate) fn applied(&mut self, index: Index, applied: Applied) {
        let at = self.waiting.partition_point(|w| w.index < index);
        if let Some(waiter) = self.waiting.get_mut(at).filter(|w| w.index == index) {
            waiter.applied = Some(applied);
        }
    }

    /// Answers everyone whose entry is applied and at most `acknowledged`; those who asked for more
    /// copies once `held_by` says so.
    pub(crate) fn settle(
        &mut self,
        acknowledged: Index,
        term: Term,
        held_of: impl Fn(Index) -> Held,
        held_by: impl Fn(usize) -> Index,
        observe_copies: impl Fn(usize),
    ) {
        while let Some(front) = self.waiting.front() {
            if front.index > acknowledged || front.applied.is_none() {
                break;
            }
            let Some(waiter) = self.waiting.pop_front() else { break };
            self.raised.push(waiter);
        }
        let mut still = Vec::new();
        for waiter in self.raised.drain(..) {
            if waiter.copies.is_some_and(|copies| held_by(copies) < waiter.index) {
                still.push(waiter);
                continue;
            }
            let Held { copies, followers } = held_of(waiter.index);
            self.bytes -= waiter.bytes;
            observe_copies(copies);
            let Some(Applied { outcome, first }) = waiter.applied else { continue };
            // Whoever holds this entry holds the earlier one, too.
            let (revision, repeated) = (first.unwrap_or(waiter.index).0, first.is_some());
            let written = Written { outcome, revision, term: term.0, copies, followers, repeated };
            // A client that went away does not need its answer.
            let _ = waiter.reply.send(Ok(written));
        }
        self.raised = still;
    }

    /// Tells those who have waited longer than `limit` that the outcome is unknown. Returns how many.
    pub(crate) fn expire(&mut self, limit: Duration, now: Instant, why: &str) -> u64 {
        let late = |w: &Waiter| now.saturating_duration_since(w.arrived) >= limit;
        let mut expired = Vec::new();
        // Arrivals grow with the index, nearly: a batch is taken from the queue in order.
        while self.waiting.front().is_some_and(late) {
            expired.extend(self.waiting.pop_front());
        }
        let (gone, still): (Vec<Waiter>, Vec<Waiter>) = self.raised.drain(..).partition(late);
        self.raised = still;
        expired.extend(gone);
        self.give_up(expired, why)
    }

    /// Tells everyone that the outcome is unknown. Returns how many.
    pub(crate) fn abandon(&mut self, why: &str) -> u64 {
        let all = self.waiting.drain(..).chain(self.raised.drain(..)).collect();
        self.give_up(all, why)
    }

    fn give_up(&mut self, waiters: Vec<Waiter>, why: &str) -> u64 {
        let count = waiters.len() as u64;
        for waiter in waiters {
            self.bytes -= waiter.bytes;
            let _ = waiter.reply.send(Err(WriteError::Unknown(why.to_owned())));
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Outcome;

    fn put(first: Option<u64>) -> Applied {
        Applied { outcome: Outcome::Put { version: 1 }, first: first.map(Index) }
    }

    fn waiters() -> Waiters {
        Waiters::new(&Metrics::new().expect("metrics"))
    }

    fn wait(
        waiters: &mut Waiters,
        index: u64,
        copies: Option<usize>,
    ) -> oneshot::Receiver<Result<Written, WriteError>> {
        let (reply, receiver) = oneshot::channel();
        let waiter = Waiter { index: Index(index), arrived: Instant::now(), bytes: 1, copies, reply, applied: None };
        waiters.push(waiter);
        receiver
    }

    fn settle(waiters: &mut Waiters, acknowledged: u64, held: u64) {
        let two_followers = |_| Held { copies: 2, followers: 2 };
        waiters.settle(Index(acknowledged), Term(1), two_followers, |_| Index(held), |_| {});
    }

    #[test]
    fn nobody_is_answered_before_the_entry_is_applied_and_acknowledged() {
        let mut waiters = waiters();
        let mut answer = wait(&mut waiters, 5, None);
        settle(&mut waiters, 5, 5);
        assert!(answer.try_recv().is_err(), "not applied yet");
        waiters.applied(Index(5), put(None));
        settle(&mut waiters, 4, 4);
        assert!(answer.try_recv().is_err(), "not acknowledged yet");
        settle(&mut waiters, 5, 5);
        let written = answer.try_recv().expect("answered").expect("written");
        assert_eq!((written.revision, written.copies, written.followers), (5, 2, 2));
    }

    #[test]
    fn a_write_that_was_done_before_is_answered_with_its_first_revision_once_this_entry_is_acknowledged() {
        let mut waiters = waiters();
        let mut answer = wait(&mut waiters, 5, None);
        waiters.applied(Index(5), put(Some(2)));
        settle(&mut waiters, 4, 4);
        assert!(
            answer.try_recv().is_err(),
            "the earlier entry may be acknowledged, but that was another reign's to say"
        );
        settle(&mut waiters, 5, 5);
        let written = answer.try_recv().expect("answered").expect("written");
        assert_eq!((written.revision, written.repeated), (2, true));
    }

    #[test]
    fn who_asked_for_more_copies_waits_for_them_without_holding_up_others() {
        let mut waiters = waiters();
        let (mut first, mut second) = (wait(&mut waiters, 1, Some(3)), wait(&mut waiters, 2, None));
        waiters.applied(Index(1), put(None));
        waiters.applied(Index(2), put(None));
        settle(&mut waiters, 2, 0);
        assert!(first.try_recv().is_err() && second.try_recv().is_ok());
        settle(&mut waiters, 2, 1);
        assert!(first.try_recv().is_ok());
        assert_eq!((waiters.len(), waiters.bytes()), (0, 0));
    }

    #[test]
    fn who_waits_too_long_or_through_a_change_of_leader_learns_that_the_outcome_is_unknown() {
        let mut waiters = waiters();
        let mut answer = wait(&mut waiters, 1, None);
        assert_eq!(waiters.expire(Duration::from_secs(60), Instant::now(), "late"), 0);
        assert_eq!(waiters.expire(Duration::ZERO, Instant::now(), "late"), 1);
        assert_eq!(answer.try_recv().expect("answered"), Err(WriteError::Unknown("late".into())));
        let mut answer = wait(&mut waiters, 2, None);
        assert_eq!(waiters.abandon("leadership was lost"), 1);
        assert!(matches!(answer.try_recv().expect("answered"), Err(WriteError::Unknown(_))));
    }
}
