//! Deliberate bugs (`quorum::bugs`), found by the simulator within the seeds that their page states, and reported by the invariants that it names.
//!
//! `make bugs` runs this. A seed counts only if it passes without the bug.
#![cfg(feature = "bugs")]
#![allow(clippy::expect_used)]

use std::collections::BTreeSet;

use quorate_sim::bugs::{Hunt, search, stated};
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
fn every_bug_of_the_storage_has_its_seeds_or_a_test_of_the_storage() {
    for bug in Bug::ALL.iter().filter(|bug| bug.place() == Place::Node) {
        let elsewhere = bugs::table("bug").any(|row| row[0] == bug.name() && row[5].contains("is_noticed"));
        assert!(stated(*bug).is_some() || elsewhere, "the page does not say what finds {}", bug.name());
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
