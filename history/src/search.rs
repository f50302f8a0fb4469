//! The search for an order of a key's operations that respects real time and explains every answer.
//!
//! After Wing and Gong, with the memory of Lowe's "just in time" variant: the history is walked by time, and a set of
//! *situations* is kept, each a way in which everything that has ended so far may have happened: the key's state, and
//! which of the operations still under way have taken effect. When an operation ends, situations in which it has not
//! taken effect yet are continued by operations under way until it has; those that cannot are dropped, and if none is
//! left there is no order. Equal situations are one: that is the memoization.
//!
//! What keeps it small, each without a loss of exactness:
//! * Operations that change nothing (reads, failed conditions) take effect as soon as the state allows it: that
//!   never hinders another.
//! * Revisions grow along the order, since they are places in a log: a change of a known revision waits for no choice.
//! * A value that was shown to somebody had been written by then, so a write of unknown outcome has an end after all.
//! * Changes of unknown outcome whose value nobody saw differ only in kind and start: only how many of a kind were used
//!   is remembered, and a situation that has used more of them than an equal one is dropped.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::checks::Known;
use crate::{Call, Condition, Consistency, Kind, Operation, Outcome, Violation};

/// Situations looked at for one key before the search gives up: a few seconds. Healthy histories need
/// a few for each operation.
pub(crate) const STEPS_MAX: u64 = 2_000_000;

/// Operations under way at once on one key, besides those that nobody saw: one bit each.
const SLOTS: usize = 128;

/// The key's state: `ABSENT`, `UNSEEN`, or the number of a value.
type State = u32;
const ABSENT: State = 0;
/// Some value that was never shown to anyone.
const UNSEEN: State = 1;
const FIRST_VALUE: State = 2;

/// Whether the state is at a given revision.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Yes,
    No,
    /// The state's revision was never told to anyone, and nothing else is known to have this one.
    Perhaps,
}

/// What an operation does in the search.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A read of this state.
    See(State),
    /// A condition that did not hold (or nothing there to delete), and the revision that was there instead.
    Fail { condition: Condition, instead: Option<u64>, deletes: bool },
    /// A change that happened.
    Change { to: State, condition: Condition, revision: Option<u64>, deletes: bool },
    /// A change that may happen any number of times up to that of its members: the class's number.
    Perhaps(usize),
}

/// Changes nobody can tell apart: of unknown outcome, seen by nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    deletes: bool,
    condition: Condition,
}

/// One way in which it may have happened so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Situation {
    state: State,
    /// The newest revision known to have been written.
    revision: u64,
    /// The slots of operations under way that have taken effect.
    effective: u128,
    /// How many unseen changes have taken effect.
    used: Used,
}

/// Members used of each class; classes without are left out.
type Used = Vec<(usize, u32)>;

/// Situations without those that only used more unseen changes than another. In order, so that a history
/// always gives the same report.
#[derive(Debug, Default)]
struct Situations(BTreeMap<(State, u64, u128), Vec<Used>>);

impl Situations {
    /// Adds one unless it is there, or a better one.
    fn insert(&mut self, situation: &Situation) -> bool {
        let entry = self.0.entry((situation.state, situation.revision, situation.effective)).or_default();
        if entry.iter().any(|other| no_more(other, &situation.used)) {
            return false;
        }
        entry.retain(|other| !no_more(&situation.used, other));
        entry.push(situation.used.clone());
        true
    }

    fn into_vec(self) -> Vec<Situation> {
        let each = self.0.into_iter().flat_map(|((state, revision, effective), used)| {
            used.into_iter().map(move |used| Situation { state, revision, effective, used })
        });
        each.collect()
    }
}

/// Whether `a` uses no more of any class than `b`.
fn no_more(a: &[(usize, u32)], b: &[(usize, u32)]) -> bool {
    a.iter().all(|(class, used)| b.iter().any(|(other, most)| other == class && used <= most))
}

/// One operation in the search.
#[derive(Debug)]
struct Entry<'a> {
    operation: &'a Operation,
    step: Step,
    end: u64,
}

struct Search<'a> {
    /// Each value's revision, by number of the value.
    revisions: Vec<Option<u64>>,
    /// The revisions that are some value's.
    taken: HashSet<u64>,
    classes: Vec<Class>,
    entries: Vec<Entry<'a>>,
    /// The entry in each slot.
    slots: [Option<usize>; SLOTS],
    /// Members of each class that have begun.
    begun: Vec<u32>,
    situations: Vec<Situation>,
    steps: u64,
    steps_max: u64,
}

/// Checks the operations of one key.
pub(crate) fn check(operations: &[&Operation], known: &Known<'_>, steps_max: u64) -> Result<(), Violation> {
    Search::new(operations, known, steps_max).run()
}

impl<'a> Search<'a> {
    fn new(operations: &[&'a Operation], known: &Known<'_>, steps_max: u64) -> Search<'a> {
        let mut search = Search {
            revisions: vec![None; FIRST_VALUE as usize],
            taken: known.values.keys().copied().collect(),
            classes: Vec::new(),
            entries: Vec::new(),
            slots: [None; SLOTS],
            begun: Vec::new(),
            situations: vec![Situation { state: ABSENT, revision: 0, effective: 0, used: Vec::new() }],
            steps: 0,
            steps_max,
        };
        let mut numbers: HashMap<&str, State> = HashMap::new();
        for operation in operations {
            if let Some(value) = operation.written() {
                let next = search.revisions.len() as State;
                if *numbers.entry(value).or_insert(next) == next {
                    search.revisions.push(known.revisions.get(value).copied());
                }
            }
        }
        for &operation in operations {
            let first_seen = operation.written().and_then(|value| known.first_seen.get(value)).copied();
            let number = |value: Option<&str>| value.map_or(Some(ABSENT), |value| numbers.get(value).copied());
            let Some(step) = search.step_of(operation, first_seen.is_some(), number) else { continue };
            let end = match step {
                Step::Change { .. } => operation.end().min(first_seen.unwrap_or(u64::MAX)),
                _ => operation.end(),
            };
            search.entries.push(Entry { operation, step, end });
        }
        search.begun = vec![0; search.classes.len()];
        search
    }

    /// What an operation does in the search; nothing if it tells nothing.
    fn step_of(
        &mut self,
        operation: &Operation,
        seen: bool,
        number: impl Fn(Option<&str>) -> Option<State>,
    ) -> Option<Step> {
        let (condition, value) = match &operation.call {
            Call::Read { consistency: Consistency::Linearizable } => match &operation.outcome {
                Outcome::Found { value, .. } => return number(value.as_deref()).map(Step::See),
                _ => return None,
            },
            Call::Read { .. } => return None,
            Call::Write { value, condition } => (*condition, Some(value.as_str())),
            Call::Delete { condition } => (*condition, None),
        };
        let deletes = value.is_none();
        let to = number(value)?;
        match operation.outcome {
            Outcome::Done { revision } => {
                let revision = revision.or(self.revisions[to as usize]);
                Some(Step::Change { to, condition, revision, deletes })
            }
            Outcome::Unknown if seen => {
                Some(Step::Change { to, condition, revision: self.revisions[to as usize], deletes })
            }
            Outcome::Unknown => {
                let class = Class { deletes, condition };
                let known = self.classes.iter().position(|other| *other == class);
                Some(Step::Perhaps(known.unwrap_or_else(|| {
                    self.classes.push(class);
                    self.classes.len() - 1
                })))
            }
            Outcome::Failed { revision } => Some(Step::Fail { condition, instead: revision, deletes }),
            Outcome::Found { .. } | Outcome::Refused => None,
        }
    }

    fn run(mut self) -> Result<(), Violation> {
        let mut moments = Vec::with_capacity(2 * self.entries.len());
        for (number, entry) in self.entries.iter().enumerate() {
            moments.push((entry.operation.invoked, false, number));
            if entry.end != u64::MAX {
                moments.push((entry.end, true, number));
            }
        }
        // At one time starts come before ends: what might overlap does.
        moments.sort_unstable();
        for (_, ends, number) in moments {
            if ends { self.end(number)? } else { self.start(number)? }
        }
        Ok(())
    }

    fn start(&mut self, number: usize) -> Result<(), Violation> {
        let step = self.entries[number].step;
        if let Step::Perhaps(class) = step {
            self.begun[class] += 1;
            return Ok(());
        }
        let Some(slot) = self.slots.iter().position(Option::is_none) else {
            return Err(self.undecided(number, format!("more than {SLOTS} operations are under way at once")));
        };
        self.slots[slot] = Some(number);
        for n in 0..self.situations.len() {
            if self.passes(step, self.situations[n].state) {
                self.situations[n].effective |= 1 << slot;
            }
        }
        Ok(())
    }

    fn end(&mut self, number: usize) -> Result<(), Violation> {
        let Some(slot) = self.slots.iter().position(|s| *s == Some(number)) else { return Ok(()) };
        let mut kept = Situations::default();
        let mut visited = Situations::default();
        let mut waiting = Vec::new();
        for situation in &self.situations {
            self.sort_in(situation.clone(), slot, &mut kept, &mut visited, &mut waiting);
        }
        while let Some(situation) = waiting.pop() {
            self.steps += 1;
            if self.steps > self.steps_max {
                return Err(self.undecided(number, format!("given up after {} steps", self.steps_max)));
            }
            for next in self.continuations(&situation) {
                self.sort_in(next, slot, &mut kept, &mut visited, &mut waiting);
            }
        }
        let kept = kept.into_vec();
        if kept.is_empty() {
            return Err(self.nothing_left(number));
        }
        self.situations = kept;
        self.slots[slot] = None;
        Ok(())
    }

    /// A situation in which the operation of this slot has taken effect is kept; any other waits to be continued.
    fn sort_in(
        &self,
        mut situation: Situation,
        slot: usize,
        kept: &mut Situations,
        visited: &mut Situations,
        waiting: &mut Vec<Situation>,
    ) {
        if situation.effective & (1 << slot) != 0 {
            situation.effective &= !(1 << slot);
            kept.insert(&situation);
        } else if visited.insert(&situation) {
            waiting.push(situation);
        }
    }

    /// All that may happen next.
    fn continuations(&self, from: &Situation) -> Vec<Situation> {
        let mut found = Vec::new();
        let ready = self.slots.iter().enumerate().filter_map(|(slot, entry)| Some((slot, (*entry)?)));
        let ready = ready.filter(|(slot, _)| from.effective & (1 << slot) == 0);
        // Every change in a slot happened: one of a lower revision must come first.
        let next = ready.clone().filter_map(|(_, entry)| match self.entries[entry].step {
            Step::Change { revision, .. } => revision,
            _ => None,
        });
        let next = next.min().unwrap_or(u64::MAX);
        for (slot, entry) in ready {
            let Step::Change { to, condition, revision, deletes } = self.entries[entry].step else { continue };
            let in_order = revision.is_none_or(|r| r > from.revision && r <= next);
            if in_order && self.may_hold(condition, from.state) && !(deletes && from.state == ABSENT) {
                let mut then = from.clone();
                then.effective |= 1 << slot;
                then.revision = revision.unwrap_or(from.revision);
                found.push(self.after(then, to));
            }
        }
        for (number, class) in self.classes.iter().enumerate() {
            let to = if class.deletes { ABSENT } else { UNSEEN };
            let place = from.used.iter().position(|(other, _)| *other == number);
            let used = place.map_or(0, |place| from.used[place].1);
            if to != from.state && used < self.begun[number] && self.may_hold(class.condition, from.state) {
                let mut then = from.clone();
                match place {
                    Some(place) => then.used[place].1 += 1,
                    None => {
                        then.used.push((number, 1));
                        then.used.sort_unstable();
                    }
                }
                found.push(self.after(then, to));
            }
        }
        found
    }

    /// The situation with a new state, and all that only waited for it.
    fn after(&self, mut situation: Situation, state: State) -> Situation {
        situation.state = state;
        for (slot, entry) in self.slots.iter().enumerate() {
            if let Some(entry) = entry
                && self.passes(self.entries[*entry].step, state)
            {
                situation.effective |= 1 << slot;
            }
        }
        situation
    }

    /// Whether an operation that changes nothing may take effect in this state.
    fn passes(&self, step: Step, state: State) -> bool {
        match step {
            Step::See(seen) => seen == state,
            Step::Fail { condition, instead, deletes } => {
                let fails = match condition {
                    Condition::None => false,
                    Condition::Absent => state != ABSENT,
                    Condition::Present => state == ABSENT,
                    Condition::Revision(revision) => self.at(state, revision) != At::Yes,
                };
                (fails || deletes && state == ABSENT)
                    && instead.is_none_or(|revision| self.at(state, revision) != At::No)
            }
            Step::Change { .. } | Step::Perhaps(_) => false,
        }
    }

    fn may_hold(&self, condition: Condition, state: State) -> bool {
        match condition {
            Condition::None => true,
            Condition::Absent => state == ABSENT,
            Condition::Present => state != ABSENT,
            Condition::Revision(revision) => self.at(state, revision) != At::No,
        }
    }

    fn at(&self, state: State, revision: u64) -> At {
        match self.revisions[state as usize] {
            Some(own) if own == revision => At::Yes,
            Some(_) => At::No,
            None if state == ABSENT || self.taken.contains(&revision) => At::No,
            None => At::Perhaps,
        }
    }

    fn undecided(&self, number: usize, note: String) -> Violation {
        Violation::new(Kind::Undecided, &self.concerned(number), note)
    }

    fn nothing_left(&self, number: usize) -> Violation {
        let note = "there is no order in which the marked operation has its answer by its end; before it the key was";
        let mut states: Vec<String> = self.situations.iter().map(|s| self.name(s.state)).collect();
        states.sort_unstable();
        states.dedup();
        Violation::new(Kind::NotLinearizable, &self.concerned(number), format!("{note} {}", states.join(" or ")))
    }

    fn name(&self, state: State) -> String {
        match state {
            ABSENT => "absent".to_owned(),
            UNSEEN => "at some value nobody saw".to_owned(),
            value => self.writer(value).and_then(Operation::written).map(|v| format!("{v:?}")).unwrap_or_default(),
        }
    }

    fn writer(&self, value: State) -> Option<&'a Operation> {
        let writes = |entry: &&Entry<'_>| matches!(entry.step, Step::Change { to, deletes: false, .. } if to == value);
        self.entries.iter().find(writes).map(|entry| entry.operation)
    }

    /// The accused, what it was shown, what was under way, and how the key came to the states it may have had.
    fn concerned(&self, number: usize) -> Vec<&'a Operation> {
        let mut all = vec![self.entries[number].operation];
        if let Step::See(value) = self.entries[number].step {
            all.extend(self.writer(value));
        }
        all.extend(self.situations.iter().filter_map(|s| self.writer(s.state)));
        all.extend(self.slots.iter().flatten().map(|entry| self.entries[*entry].operation));
        let mut seen = HashSet::new();
        all.retain(|operation| seen.insert(std::ptr::from_ref(*operation)));
        all
    }
}
