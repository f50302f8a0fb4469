//! The checker against histories of known verdict, and against a checker too simple to be wrong.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use quorate_history::generate::{Fault, Shape, healthy, inject};
use quorate_history::{
    Call, Condition, Consistency, History, Kind, Operation, Outcome, Violation, check, check_within,
};

const LINEARIZABLE: Call = Call::Read { consistency: Consistency::Linearizable };

fn operation(process: u64, invoked: u64, returned: u64, call: Call, outcome: Outcome) -> Operation {
    let returned = (outcome != Outcome::Unknown).then_some(returned);
    Operation { process, key: "k".into(), invoked, returned, call, outcome }
}

fn write(value: &str) -> Call {
    Call::Write { value: value.into(), condition: Condition::None }
}

fn found(value: &str) -> Outcome {
    Outcome::Found { value: Some(value.into()), revision: None }
}

const DONE: Outcome = Outcome::Done { revision: None };
const NOTHING: Outcome = Outcome::Found { value: None, revision: None };

fn kind(operations: &[Operation]) -> Option<Kind> {
    check(operations).err().map(|violation| violation.kind)
}

#[test]
fn a_write_of_unknown_outcome_may_take_effect_late_or_never() {
    let unknown = operation(1, 0, 0, write("late"), Outcome::Unknown);
    let first = operation(2, 1, 2, write("a"), DONE);
    let sees_a = operation(2, 3, 4, LINEARIZABLE, found("a"));
    let sees_late = operation(2, 5, 6, LINEARIZABLE, found("late"));
    assert_eq!(kind(&[unknown.clone(), first.clone(), sees_a.clone()]), None);
    assert_eq!(kind(&[unknown.clone(), first.clone(), sees_a.clone(), sees_late.clone()]), None);
    let back = operation(2, 7, 8, LINEARIZABLE, found("a"));
    assert_eq!(kind(&[unknown, first, sees_a, sees_late, back]), Some(Kind::NotLinearizable));
}

#[test]
fn a_read_may_show_either_of_two_writes_under_way_but_readers_agree_on_the_order() {
    let writes = [operation(1, 0, 10, write("a"), DONE), operation(2, 0, 10, write("b"), DONE)];
    let reads = |first: &str, second: &str| {
        let mut all = writes.to_vec();
        all.push(operation(3, 11, 12, LINEARIZABLE, found(first)));
        all.push(operation(4, 13, 14, LINEARIZABLE, found(second)));
        kind(&all)
    };
    assert_eq!(reads("a", "a"), None);
    assert_eq!(reads("b", "b"), None);
    assert_eq!(reads("a", "b"), Some(Kind::NotLinearizable));
}

#[test]
fn of_two_compare_and_sets_on_one_revision_only_one_succeeds() {
    let first = operation(1, 0, 1, write("a"), Outcome::Done { revision: Some(5) });
    let set = |process, value: &str, outcome| {
        operation(process, 2, 9, Call::Write { value: value.into(), condition: Condition::Revision(5) }, outcome)
    };
    let done = |revision| Outcome::Done { revision: Some(revision) };
    let failed = Outcome::Failed { revision: Some(6) };
    assert_eq!(kind(&[first.clone(), set(2, "b", done(6)), set(3, "c", failed)]), None);
    assert_eq!(kind(&[first, set(2, "b", done(6)), set(3, "c", done(7))]), Some(Kind::NotLinearizable));
}

#[test]
fn what_someone_read_locally_had_been_committed_by_then() {
    let unknown = operation(1, 0, 0, write("a"), Outcome::Unknown);
    let local = operation(2, 1, 2, Call::Read { consistency: Consistency::Local }, found("a"));
    let later = operation(3, 3, 4, LINEARIZABLE, NOTHING);
    assert_eq!(kind(&[unknown.clone(), later.clone()]), None);
    assert_eq!(kind(&[unknown, local, later]), Some(Kind::NotLinearizable), "a dirty read");
}

#[test]
fn a_session_never_goes_back_and_a_local_read_may() {
    let writes = [
        operation(1, 0, 1, write("a"), Outcome::Done { revision: Some(1) }),
        operation(1, 2, 3, write("b"), Outcome::Done { revision: Some(2) }),
    ];
    let old = |process, consistency| {
        let mut all = writes.to_vec();
        all.push(operation(process, 4, 5, Call::Read { consistency }, found("a")));
        kind(&all)
    };
    assert_eq!(old(1, Consistency::Session), Some(Kind::SessionWentBack));
    assert_eq!(old(2, Consistency::Session), None);
    assert_eq!(old(1, Consistency::Local), None);
    assert_eq!(old(2, Consistency::Linearizable), Some(Kind::Stale));
}

#[test]
fn a_key_that_nobody_deleted_is_not_gone_in_the_end() {
    let done = operation(1, 0, 1, write("a"), Outcome::Done { revision: Some(1) });
    let mut history = History { operations: vec![done] };
    let mut kept = history.clone();
    kept.ends_with(|_| Some(("a".into(), 1)));
    kept.check().unwrap();
    history.ends_with(|_| None);
    assert_eq!(history.check().unwrap_err().kind, Kind::Lost);
}

#[test]
fn a_revision_names_one_value() {
    let of = |value: &str, revision| operation(1, 0, 9, write(value), Outcome::Done { revision: Some(revision) });
    assert_eq!(kind(&[of("a", 1), of("b", 1)]), Some(Kind::Revisions));
    let again = operation(2, 0, 9, LINEARIZABLE, Outcome::Found { value: Some("a".into()), revision: Some(2) });
    assert_eq!(kind(&[of("a", 1), again]), Some(Kind::Revisions));
}

#[test]
fn a_search_that_ends_early_is_no_pass() {
    let writes = (0..12).map(|n| operation(n, 0, 10, write(&format!("v{n}")), DONE));
    let mut all: Vec<Operation> = writes.collect();
    all.push(operation(20, 11, 12, LINEARIZABLE, NOTHING));
    assert_eq!(check_within(&all, 100).unwrap_err().kind, Kind::Undecided);
    assert_eq!(kind(&all), Some(Kind::NotLinearizable));
}

#[test]
fn a_violation_is_a_picture() {
    let all = [
        operation(1, 0, 10, write("a"), Outcome::Done { revision: Some(1) }),
        operation(2, 20, 30, write("b"), Outcome::Done { revision: Some(2) }),
        operation(3, 40, 50, LINEARIZABLE, found("a")),
    ];
    let text = check(&all).unwrap_err().to_string();
    let expected = "\
key \"k\": a stale read: revision 2 was known before
  p2    [-----------------------]                         write \"b\" -> done at revision 2
> p3                            [----------------------]  read -> \"a\"
  from 20 to 50
";
    assert_eq!(text.lines().count(), expected.lines().count(), "{text}");
    assert!(text.starts_with("key \"k\": a stale read: revision 2 was known before\n"), "{text}");
    assert!(text.contains("> p3") && text.contains("write \"b\" -> done at revision 2"), "{text}");
}

#[test]
fn thousands_of_operations_on_a_key_by_sixteen_clients_are_checked_in_seconds() {
    for untold_percent in [0, 50, 100] {
        let shape = Shape { clients: 16, operations: 5_000, keys: 1, unknown_percent: 3, untold_percent };
        let mut history = healthy(7, shape);
        history.check().unwrap_or_else(|e| panic!("untold {untold_percent}: {e}"));
        assert!(inject(&mut history, Fault::StaleRead, 1));
        assert_ne!(history.check().unwrap_err().kind, Kind::Undecided);
    }
}

#[test]
fn a_history_survives_the_disk() {
    let shape = Shape { clients: 5, operations: 200, keys: 3, unknown_percent: 10, untold_percent: 30 };
    let history = healthy(3, shape);
    let mut bytes = Vec::new();
    history.write_to(&mut bytes).unwrap();
    assert_eq!(History::read_from(&bytes[..]).unwrap(), history);
    bytes.extend(b"{}\n");
    assert!(History::read_from(&bytes[..]).unwrap_err().to_string().starts_with("line 201 is no operation"));
}

fn shapes() -> impl Strategy<Value = Shape> {
    (1..12_u64, 2..150_usize, 1..4_u64, 0..20_u64, prop_oneof![Just(0_u64), Just(50), Just(100)]).prop_map(
        |(clients, operations, keys, unknown_percent, untold_percent)| Shape {
            clients,
            operations,
            keys,
            unknown_percent,
            untold_percent,
        },
    )
}

/// Every order of every choice of operations of unknown outcome, one key.
mod brute {
    use super::*;
    use std::collections::BTreeMap;

    type State = Option<String>;

    struct Orders<'a> {
        operations: Vec<&'a Operation>,
        revisions: BTreeMap<&'a str, u64>,
    }

    pub(super) fn linearizable(operations: &[Operation]) -> bool {
        let revisions = operations.iter().filter_map(|o| match (&o.call, &o.outcome) {
            (_, Outcome::Found { value: Some(value), revision: Some(revision) }) => Some((value.as_str(), *revision)),
            (Call::Write { value, .. }, Outcome::Done { revision: Some(revision) }) => {
                Some((value.as_str(), *revision))
            }
            _ => None,
        });
        let revisions = revisions.collect();
        let told = operations.iter().filter(|o| o.outcome != Outcome::Refused);
        // Local and session reads do not belong to the order.
        let told =
            told.filter(|o| !matches!(o.call, Call::Read { consistency } if consistency != Consistency::Linearizable));
        let orders = Orders { operations: told.collect(), revisions };
        orders.from(0, &None, 0)
    }

    impl Orders<'_> {
        /// Whether what is left (the bits not set in `taken`) can follow on this state.
        fn from(&self, taken: u32, state: &State, revision: u64) -> bool {
            let left = |n: &usize| taken & (1 << n) == 0;
            let all = 0..self.operations.len();
            if all.clone().filter(left).all(|n| self.operations[n].outcome == Outcome::Unknown) {
                return true;
            }
            all.clone().filter(left).any(|n| {
                let one = self.operations[n];
                let first = all.clone().filter(left).all(|m| {
                    let other = self.operations[m];
                    other.outcome == Outcome::Unknown || other.returned.unwrap() >= one.invoked
                });
                first
                    && self.does(one, state).is_some_and(|after| {
                        let own = match (&one.call, &one.outcome) {
                            (Call::Write { value, .. }, Outcome::Done { .. } | Outcome::Unknown) => {
                                self.revisions.get(value.as_str()).copied()
                            }
                            (_, Outcome::Done { revision }) => *revision,
                            _ => None,
                        };
                        own.is_none_or(|own| own > revision)
                            && self.from(taken | 1 << n, &after, own.unwrap_or(revision))
                    })
            })
        }

        /// Whether the state is at this revision: yes, no, or nobody knows.
        fn at(&self, state: &State, revision: u64) -> Option<bool> {
            let Some(value) = state else { return Some(false) };
            match self.revisions.get(value.as_str()) {
                Some(own) => Some(*own == revision),
                None if self.revisions.values().any(|r| *r == revision) => Some(false),
                None => None,
            }
        }

        fn does(&self, operation: &Operation, state: &State) -> Option<State> {
            let (condition, to) = match (&operation.call, &operation.outcome) {
                (Call::Read { .. }, Outcome::Found { value, .. }) => return (value == state).then(|| state.clone()),
                (Call::Read { .. }, _) => return Some(state.clone()),
                (Call::Write { value, condition }, _) => (*condition, Some(value.clone())),
                (Call::Delete { condition: Condition::None }, _) => (Condition::Present, None),
                (Call::Delete { condition }, _) => (*condition, None),
            };
            let holds = match condition {
                Condition::None => Some(true),
                Condition::Absent => Some(state.is_none()),
                Condition::Present => Some(state.is_some()),
                Condition::Revision(revision) => self.at(state, revision),
            };
            let holds_at_all = to.is_some() || state.is_some();
            match operation.outcome {
                Outcome::Failed { revision } => {
                    let told = revision.is_none_or(|revision| self.at(state, revision) != Some(false));
                    (told && (holds != Some(true) || !holds_at_all)).then(|| state.clone())
                }
                _ => (holds != Some(false) && holds_at_all).then_some(to),
            }
        }
    }
}

/// Exchanges the answers of two operations, or an answer's value: most results are wrong, some are not.
fn shuffle(history: &mut History, from: usize, to: usize) {
    let count = history.operations.len();
    let outcome = history.operations[from % count].outcome.clone();
    let target = &mut history.operations[to % count];
    if target.outcome != Outcome::Unknown && outcome != Outcome::Unknown {
        target.outcome = outcome;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn histories_of_a_real_register_are_accepted(seed: u64, shape in shapes()) {
        let history = healthy(seed, shape);
        let verdict = history.check();
        prop_assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
    }

    #[test]
    fn every_injected_fault_is_found(seed: u64, shape in shapes(), fault in prop::sample::select(&Fault::ALL)) {
        let mut history = healthy(seed, shape);
        if inject(&mut history, fault, seed) {
            let verdict: Result<(), Violation> = history.check();
            prop_assert!(verdict.is_err(), "{fault:?} was not found");
            prop_assert_ne!(verdict.unwrap_err().kind, Kind::Undecided);
        }
    }

    #[test]
    fn tiny_histories_are_judged_as_by_trying_every_order(
        seed: u64, clients in 1..5_u64, operations in 1..9_usize, untold in prop_oneof![Just(0_u64), Just(60), Just(100)],
        from in 0..8_usize, to in 0..8_usize, spoil: bool,
    ) {
        let shape = Shape { clients, operations, keys: 1, unknown_percent: 30, untold_percent: untold };
        let mut history = healthy(seed, shape);
        // Local reads bear on the end of a write, which the simple checker does not know.
        for operation in &mut history.operations {
            if let Call::Read { consistency } = &mut operation.call {
                *consistency = Consistency::Linearizable;
            }
        }
        if spoil {
            shuffle(&mut history, from, to);
        }
        let simple = brute::linearizable(&history.operations);
        match history.check() {
            Ok(()) => prop_assert!(simple, "accepted, and no order explains it: {:#?}", history.operations),
            // These say more than the simple checker looks at.
            Err(violation) if matches!(violation.kind, Kind::Malformed | Kind::Revisions) => {}
            Err(violation) => prop_assert!(!simple, "{violation}{:#?}", history.operations),
        }
    }
}
