//! The simulator itself: seeds mean the same every time, scripts say all of a run, and every pair of N and W
//! survives every kind of fault.
#![allow(missing_docs)]

use quorate_sim::plan::FAULTS;
use quorate_sim::{Plan, Script, run};

#[test]
fn a_seed_gives_the_same_trace_byte_for_byte() {
    for seed in 0..4 {
        let (first, second) = (run(seed, Plan::draw(seed), true), run(seed, Plan::draw(seed), true));
        assert!(!first.trace.is_empty(), "seed {seed} leaves a trace");
        assert!(first.trace == second.trace && first.digest == second.digest, "seed {seed} is not repeatable");
    }
}

#[test]
fn a_script_says_all_of_a_plan() {
    for seed in 0..20 {
        let drawn = Plan::draw(seed);
        let struck = run(seed, drawn.clone(), false).struck;
        let script = Script { lesson: "one\ntwo".into(), seed, plan: Plan { script: Some(struck), ..drawn } };
        let read: Script = script.to_string().parse().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let faults = read.plan.faults.clone();
        let fault_every = read.plan.fault_every;
        assert_eq!(read, Script { plan: Plan { faults, fault_every, ..script.plan.clone() }, ..script });
    }
}

#[test]
fn a_script_of_the_faults_of_a_seed_repeats_its_run() {
    for seed in 0..4 {
        let drawn = run(seed, Plan::draw(seed), true);
        let script = Plan { script: Some(drawn.struck), ..Plan::draw(seed) };
        assert!(drawn.trace == run(seed, script, true).trace, "seed {seed} runs differently from its script");
    }
}

#[test]
fn every_legal_pair_of_n_and_w_survives_every_kind_of_fault() {
    for nodes in 1..=7 {
        for write_quorum in 1..=nodes {
            let seed = (nodes * 10 + write_quorum) as u64;
            let plan = Plan::draw(seed).with_quorum(nodes, write_quorum).with_faults(&FAULTS);
            assert_eq!(run(seed, plan, false).violation, None, "N {nodes} W {write_quorum}, seed {seed}");
        }
    }
}
