//! The simulator itself: seeds mean the same every time, seeds that once failed pass, and a few fresh ones do.
#![allow(missing_docs)]

use quorate_sim::{Fault, Plan, run};

/// Seeds that once failed, and what they taught.
const REGRESSIONS: [(u64, &str); 3] = [
    (7, "a node that was taken out while it was down was never told"),
    (101, "a cluster of one whose disk is slower than a tick began a term at every tick and led none"),
    (117, "a log was emptied in favour of an engine that was not synced, and the power went"),
];

#[test]
fn a_seed_gives_the_same_trace_byte_for_byte() {
    for seed in 0..4 {
        let (first, second) = (run(seed, Plan::draw(seed), true), run(seed, Plan::draw(seed), true));
        assert!(!first.trace.is_empty(), "seed {seed} leaves a trace");
        assert!(first.trace == second.trace && first.digest == second.digest, "seed {seed} is not repeatable");
    }
}

#[test]
fn seeds_that_once_failed_pass() {
    for (seed, lesson) in REGRESSIONS {
        assert_eq!(run(seed, Plan::draw(seed), false).violation, None, "seed {seed}: {lesson}");
    }
}

#[test]
fn every_legal_pair_of_n_and_w_survives_crashes_and_power_losses() {
    for nodes in 1..=7 {
        for write_quorum in 1..=nodes {
            let faults = [Fault::Crash, Fault::PowerLoss, Fault::Split];
            let seed = (nodes * 10 + write_quorum) as u64;
            let plan = Plan::draw(seed).with_quorum(nodes, write_quorum).with_faults(&faults);
            assert_eq!(run(seed, plan, false).violation, None, "N {nodes} W {write_quorum}, seed {seed}");
        }
    }
}
