//! Random runs of whole clusters: a safety phase under faults, then a liveness phase without (see `host::random`).
//!
//! `QUORUM_SEED` runs one seed alone, `QUORUM_SEEDS` so many, `QUORUM_STEPS` steps each.

mod host;

use std::env;

use host::random::{self, Tally};

/// Steps of a run before the faults end. Long enough for a few dozen elections and configurations.
const STEPS: u64 = 4_000;

/// Runs of a suite: some seconds in a debug build.
const SEEDS: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn suite(name: &str, runs: u64, body: impl Fn(u64, bool, &mut Vec<String>) -> Tally) -> Tally {
    let (first, count) = match number("QUORUM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("QUORUM_SEEDS").unwrap_or(runs)),
    };
    let mut sum = Tally::default();
    for seed in first..first + count {
        let t = random::check(name, seed, &body);
        sum.elections += t.elections;
        sum.acknowledgements += t.acknowledgements;
        sum.reads += t.reads;
        sum.snapshots += t.snapshots;
        sum.configurations += t.configurations;
        sum.wiped += t.wiped;
    }
    eprintln!("{name}: {count} runs from seed {first}: {sum:?}");
    sum
}

#[test]
fn nothing_acknowledged_is_lost_and_the_cluster_comes_back() {
    let steps = number("QUORUM_STEPS").unwrap_or(STEPS);
    let sum = suite("formed", SEEDS, |seed, traced, trace| random::formed(seed, traced, trace, steps));
    if number("QUORUM_SEED").is_none() {
        // A suite in which nothing happens proves nothing.
        assert!(sum.elections > 100 && sum.acknowledgements > 1000 && sum.reads > 100, "{sum:?}");
        assert!(sum.snapshots > 20 && sum.configurations > 200 && sum.wiped > 5, "{sum:?}");
    }
}

#[test]
fn of_two_founders_at_most_one_opens_and_a_single_one_does() {
    suite("forming", SEEDS, |seed, traced, trace| random::forming(seed, traced, trace, 600));
}
