//! Making a run that fails smaller: the same faults, then fewer of them, then less of everything else, as long as
//! it fails in the same way.
//!
//! What chance brings on the way (delays, losses) changes with everything that is left out; so a shorter run that still
//! fails is found by trying.
//!
//! A run that is stuck takes longest exactly when it still fails: it waits to its very end. So it is made smaller with
//! little patience, and what is left must then be stuck with all of it, too.

use std::time::{Duration, Instant};

use crate::plan::{Plan, Strike};
use crate::script::Script;
use crate::{Outcome, run};

/// Most runs tried. Most failures are small after a tenth of it.
const RUNS_MAX: usize = 1_000;

/// Patience with a stuck run while it is made smaller, in microseconds. A cluster is whole a few seconds after the last
/// fault, unless it has to wait for long timeouts several times.
const STUCK: u64 = 20_000_000;

struct Shrinking {
    seed: u64,
    invariant: &'static str,
    plan: Plan,
    runs: usize,
    until: Instant,
}

impl Shrinking {
    fn fails(&self, plan: Plan) -> bool {
        run(self.seed, plan, false).violation.is_some_and(|v| v.invariant == self.invariant)
    }

    /// Takes the other plan if it still fails in the same way.
    fn accept(&mut self, other: Plan) -> bool {
        if self.runs == 0 || other == self.plan || Instant::now() >= self.until {
            return false;
        }
        self.runs -= 1;
        let fails = self.fails(other.clone());
        if fails {
            self.plan = other;
        }
        fails
    }

    fn smaller(&mut self) {
        let safety = self.strikes().last().map_or(0, |s| s.at) + 1_500_000;
        self.accept(Plan { safety: self.plan.safety.min(safety), ..self.plan.clone() });
        self.fewer_strikes();
        self.less_of_everything();
        self.fewer_strikes();
    }

    /// Makes a stuck run smaller by shorter ones. `false`, and nothing is changed, if what is
    /// left is not stuck for good.
    fn with_little_patience(&mut self, until: Instant) -> bool {
        let whole = self.plan.clone();
        (self.until, self.plan.recovery) = (until, STUCK.min(whole.recovery));
        self.smaller();
        self.plan.recovery = whole.recovery;
        let stuck = self.fails(self.plan.clone());
        if !stuck {
            self.plan = whole;
        }
        stuck
    }

    /// Leaves out ever smaller runs of strikes (Zeller's delta debugging, the half of it that removes).
    fn fewer_strikes(&mut self) {
        let mut size = self.strikes().len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            let mut any = false;
            while from < self.strikes().len() {
                let mut left = self.strikes().to_vec();
                left.drain(from..(from + size).min(left.len()));
                if self.accept(Plan { script: Some(left), ..self.plan.clone() }) {
                    any = true;
                } else {
                    from += size;
                }
            }
            if size > 1 || !any {
                size /= 2;
            }
        }
    }

    fn strikes(&self) -> &[Strike] {
        self.plan.script.as_deref().unwrap_or_default()
    }

    fn less_of_everything(&mut self) {
        let changes: [fn(&mut Plan); 8] = [
            |p| (p.loss, p.duplicates) = (0, 0),
            |p| p.drift = 0,
            |p| p.lease_reads = false,
            |p| p.delay = (100, 1_000),
            |p| p.fsync = (500, 2_000),
            |p| p.keys = 1,
            |p| p.clients = 1,
            |p| p.clients -= 1,
        ];
        for change in changes {
            let mut other = self.plan.clone();
            change(&mut other);
            if other.clients > 0 {
                self.accept(other);
            }
        }
        // A host that no fault meets may not be needed.
        while self.plan.spares > 0
            && self.strikes().iter().all(|s| s.host + 1 < self.plan.nodes + self.plan.spares)
            && self.accept(Plan { spares: self.plan.spares - 1, ..self.plan.clone() })
        {}
    }
}

/// The smaller run, with what it ends in: what was reached in so much time, and that of a last run or two. `None`
/// if the run does not fail.
#[must_use]
pub fn shrink(seed: u64, plan: Plan, time: Duration) -> Option<(Script, Outcome)> {
    let begun = Instant::now();
    let outcome = run(seed, plan.clone(), false);
    let invariant = outcome.violation.as_ref()?.invariant;
    // Drawn anew the same faults meet the same cluster, unless two events at one microsecond changed places. Then
    // the run is kept as it is.
    let scripted = Plan { script: Some(outcome.struck), ..plan.clone() };
    let mut shrinking = Shrinking { seed, invariant, plan, runs: RUNS_MAX, until: begun + time };
    let repeats = shrinking.plan.script == scripted.script || shrinking.accept(scripted.clone());
    if repeats && !(invariant == "liveness" && shrinking.with_little_patience(begun + time / 2)) {
        // Half of the time is left for doing without that.
        shrinking.until = begun + time;
        shrinking.smaller();
    }
    let outcome = run(seed, shrinking.plan.clone(), true);
    let lesson = outcome.violation.as_ref().map_or(String::new(), |v| format!("{}: {}", v.invariant, v.what));
    Some((Script { lesson, seed, plan: shrinking.plan }, outcome))
}
