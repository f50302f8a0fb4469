//! Deliberate bugs (`quorum::bugs`), found by the simulator within the seeds that their page states, and reported by
//! the invariants that it names.
//!
//! `make bugs` runs this. A seed counts only if it passes without the bug.
#![cfg(feature = "bugs")]
#![allow(clippy::expect_used)]

use std::collections::BTreeSet;

use std::time::{Duration, Instant};

use quorate_sim::bugs::{Hunt, search, stated};
use quorate_sim::shrink::shrink;
use quorum::bugs::{self, Bug, Place, Stated};

/// Panics of the product are one way to notice a bug: reported, and not printed.
fn quietly(work: impl FnOnce()) {
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let _ = std::panic::take_hook();
    result.expect("the search itself does not fail");
}

fn all_found(missed: Vec<Option<String>>) {
    let missed: Vec<String> = missed.into_iter().flatten().collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_bug_is_found_within_its_seeds_and_reported_by_what_the_page_names() {
    let mut missed = Vec::new();
    quietly(|| {
        missed = bugs::each(Bug::ALL, |bug| {
            let (hunt, within, reporters) = stated(*bug)?;
            let Some(found) = search(*bug, hunt, 0, within, None) else {
                return Some(format!("{} is not found in {within} seeds", bug.name()));
            };
            let (by, seed) = (found.violation.invariant, found.seed);
            let named = reporters.split(", ").any(|name| name == by);
            (!named).then(|| format!("{} is reported by {by} (seed {seed}), not by {reporters}", bug.name()))
        });
    });
    all_found(missed);
}

#[test]
fn every_bug_has_its_seeds_or_is_one_of_the_storage_with_a_test_there() {
    for bug in Bug::ALL {
        let elsewhere = bugs::table("bug").any(|row| row[0] == bug.name() && row[5].contains("is_noticed"));
        let found = stated(*bug).is_some() || (bug.place() == Place::Node && elsewhere);
        assert!(found, "the page does not say what finds {}", bug.name());
    }
}

#[test]
fn every_invariant_was_seen_to_fail() {
    let rows: Vec<(&str, &str, Stated)> = bugs::table("invariant")
        .map(|row| (row[0], row[1], Stated::read(row[2]).expect("a kind of run and its seeds")))
        .collect();
    let mut missed = Vec::new();
    quietly(|| {
        missed = bugs::each(&rows, |(invariant, bug, stated)| {
            let (bug, hunt) = (Bug::named(bug).expect("a bug"), Hunt::named(stated.kind).expect("a hunt"));
            let found = search(bug, hunt, 0, stated.within, Some(invariant));
            found.is_none().then(|| format!("{invariant} does not report {} in {} seeds", bug.name(), stated.within))
        });
    });
    all_found(missed);

    let listed: BTreeSet<String> = rows.iter().map(|row| row.0.to_owned()).collect();
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/invariants")).expect("the invariants");
    for file in folder {
        let name = file.expect("a file").file_name().into_string().expect("a name");
        let name = name.trim_end_matches(".rs");
        assert!(name == "mod" || listed.contains(name), "the page names no bug that makes {name} fail");
    }
}

/// A run that is stuck waits to its end each time it is tried: it is made smaller all the same, and in bounded time.
#[test]
fn a_run_that_is_stuck_is_made_smaller_within_its_time() {
    const TIME: Duration = Duration::from_secs(60);
    let bug = Bug::LostAppendNotRepeated;
    quietly(|| {
        let (hunt, within, _) = stated(bug).expect("a row of the page");
        let found = search(bug, hunt, 0, within, Some("liveness")).expect("a run that is stuck");
        bugs::with(&[bug], || {
            let whole = quorate_sim::run(found.seed, hunt.plan(found.seed), false);
            let begun = Instant::now();
            let (script, outcome) = shrink(found.seed, hunt.plan(found.seed), TIME).expect("it fails");
            // What is under way when the time is over is finished: a run or two.
            assert!(begun.elapsed() < TIME * 3, "it took {:?}", begun.elapsed());
            assert_eq!(outcome.violation.map(|v| v.invariant), Some("liveness"), "{script}");
            assert_eq!(
                script.plan.recovery,
                hunt.plan(found.seed).recovery,
                "stuck with all the patience of the whole run"
            );
            let left = script.plan.script.expect("the faults one by one");
            assert!(left.len() * 2 <= whole.struck.len(), "{} of {} faults are left", left.len(), whole.struck.len());
        });
    });
}
