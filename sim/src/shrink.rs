//! Making a run that fails smaller: the same faults, then fewer of them, then less of everything else, as long as it fails in the same way.
//!
//! What chance brings on the way (delays, losses) changes with everything that is left out; so a shorter run that still fails is found by trying.

use crate::plan::{Plan, Strike};
use crate::script::Script;
use crate::{Outcome, run};

/// Most runs tried: some minutes for a run that stays stuck to its end.
const RUNS_MAX: usize = 1_000;

struct Shrinking {
    seed: u64,
    invariant: &'static str,
    plan: Plan,
    runs: usize,
}

impl Shrinking {
    /// Takes the other plan if it still fails in the same way.
    fn accept(&mut self, other: Plan) -> bool {
        if self.runs == 0 || other == self.plan {
            return false;
        }
        self.runs -= 1;
        let fails = run(self.seed, other.clone(), false).violation.is_some_and(|v| v.invariant == self.invariant);
        if fails {
            self.plan = other;
        }
        fails
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
        let changes: [fn(&mut Plan); 9] = [
            |p| p.recovery /= 3,
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

/// The smaller run, with what it ends in. `None` if the run does not fail.
#[must_use]
pub fn shrink(seed: u64, plan: Plan) -> Option<(Script, Outcome)> {
    let outcome = run(seed, plan.clone(), false);
    let invariant = outcome.violation.as_ref()?.invariant;
    let mut shrinking = Shrinking { seed, invariant, plan, runs: RUNS_MAX };
    let script = Some(outcome.struck);
    if !shrinking.accept(Plan { script: script.clone(), ..shrinking.plan.clone() }) && shrinking.plan.script != script {
        // Drawn anew the same faults would meet the same cluster, unless two events at one microsecond changed places. Then it is kept as it is.
        return Some((
            Script { lesson: String::new(), seed, plan: shrinking.plan.clone() },
            run(seed, shrinking.plan, true),
        ));
    }
    let safety = shrinking.strikes().last().map_or(0, |s| s.at) + 1_500_000;
    let shorter = Plan { safety: shrinking.plan.safety.min(safety), ..shrinking.plan.clone() };
    shrinking.accept(shorter);
    shrinking.fewer_strikes();
    shrinking.less_of_everything();
    shrinking.fewer_strikes();
    let outcome = run(seed, shrinking.plan.clone(), true);
    let lesson = outcome.violation.as_ref().map_or(String::new(), |v| format!("{}: {}", v.invariant, v.what));
    Some((Script { lesson, seed, plan: shrinking.plan }, outcome))
}
