//! Quorums of configurations that follow each other intersect, for all N and W up to five nodes: the ground under
//! every property of the model.

#![allow(clippy::expect_used)]

use quorate_model::{Conf, Election, Set, Table};

const ALL: Set = 0b1_1111;

/// Every set of voters that can be made of five nodes starting at the first, with every W.
fn simple() -> Vec<Conf> {
    let with_w =
        |voters: Set| (1..=voters.count_ones()).map(move |w| Conf::new(voters, u8::try_from(w).expect("at most five")));
    (1..=ALL).flat_map(with_w).collect()
}

/// Whether every set that elects under one meets every set that elects, commits or acknowledges under the other.
/// Sets that do not elect under one have a complement that meets every set that does: so it is enough that no set
/// and its complement both can.
fn meet(table: &Table, electing: u8, deciding: u8) -> bool {
    (0..=ALL).filter(|set| table.elects(electing, *set)).all(|set| {
        let rest = ALL & !set;
        !table.elects(deciding, rest) && !table.commits(deciding, rest) && !table.acknowledges(deciding, rest)
    })
}

#[test]
fn quorums_of_a_configuration_and_of_the_joint_one_after_or_before_it_intersect() {
    let simple = simple();
    let mut pairs = 0;
    for from in &simple {
        for to in simple.iter().filter(|to| *to != from) {
            let table = Table::new(&[*from, *to], Election::Real);
            let joint = table.number(Conf { old: Some((from.voters, from.w)), ..*to });
            for (a, b) in [(0, 0), (0, joint), (joint, 0), (joint, joint), (joint, 1), (1, joint), (1, 1)] {
                assert!(meet(&table, a, b), "{from:?} to {to:?}: {a} and {b}");
            }
            pairs += 1;
        }
    }
    assert_eq!(pairs, 80 * 79, "every pair was seen");
}

#[test]
fn without_the_joint_step_quorums_of_two_configurations_may_miss_each_other() {
    for (from, to) in [
        (Conf::new(0b0_0111, 2), Conf::new(0b0_1111, 2)),
        (Conf::new(0b0_0111, 3), Conf::new(0b0_0111, 1)),
        (Conf::new(0b0_0111, 2), Conf::new(0b1_1001, 2)),
    ] {
        let table = Table::new(&[from, to], Election::Real);
        assert!(!meet(&table, 0, 1) || !meet(&table, 1, 0), "{from:?} to {to:?}");
    }
}

#[test]
fn elections_by_n_minus_w_plus_one_alone_may_miss_each_other() {
    let table = Table::new(&[Conf::new(ALL, 4)], Election::MeetsWritesAlone);
    assert!(!meet(&table, 0, 0));
}
