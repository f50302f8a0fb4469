//! Clients that ask again under the same idempotency key while nodes crash, lose power, are cut off and get snapshots:
//! whatever they ask for is done once, and they are told where.
#![allow(missing_docs)]

use quorate_sim::{Fault, Outcome, Plan, run};

/// Faults that leave outcomes unknown, make nodes restart from what they have on disk, and send them snapshots.
const FAULTS: [Fault; 5] = [Fault::Crash, Fault::Blackout, Fault::PowerLoss, Fault::Split, Fault::Wipe];

/// Runs at least, some seconds in an unoptimized build, and at most if all of it has not happened often enough by then.
const SEEDS: (u64, u64) = (12, 60);

fn run_seed(seed: u64) -> Outcome {
    let mut plan = Plan::draw(seed).with_quorum(3, 2).with_faults(&FAULTS).with_retries();
    // A short log, so that who was away gets a snapshot.
    (plan.segment_bytes, plan.log_keep_bytes) = (8 << 10, 4 << 10);
    (plan.think, plan.fault_every) = (5_000, 300_000);
    run(seed, plan, false)
}

#[test]
fn what_is_asked_for_again_is_done_once() {
    let (mut repeated, mut snapshots) = (0, 0);
    let enough = |repeated, snapshots| repeated >= 10 && snapshots >= 3;
    for seed in 0..SEEDS.1 {
        if seed >= SEEDS.0 && enough(repeated, snapshots) {
            break;
        }
        let outcome = run_seed(seed);
        assert_eq!(outcome.violation, None, "seed {seed}");
        repeated += outcome.tally.repeated;
        snapshots += outcome.snapshots;
    }
    println!("{repeated} retries of what had been done, {snapshots} snapshots");
    assert!(enough(repeated, snapshots), "{repeated} retries, {snapshots} snapshots: nothing was tried");
}
