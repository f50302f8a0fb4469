//! Every deliberate bug of the core (`quorum::bugs`), found by the random clusters of `host` within
//! a stated number of seeds.
//!
//! `make bugs` runs this.
#![cfg(feature = "bugs")]
#![allow(clippy::expect_used)]

mod host;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use host::random::{self, Hunt};
use quorum::bugs::{self, Bug, Place, Stated};

/// Steps of a run: as many as the random clusters take without a bug.
const STEPS: u64 = 4_000;

/// Where searches begin, so that what one takes is not luck.
const STARTS: [u64; 5] = [0, 100_000, 200_000, 300_000, 400_000];

thread_local! {
    static LAST_WORDS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What a seed ends with: nothing, or the words of the check that failed.
fn run(hunt: Hunt, seed: u64) -> Option<String> {
    let body = || random::hunted(hunt, seed, STEPS);
    catch_unwind(AssertUnwindSafe(body)).err().map(|_| LAST_WORDS.take())
}

/// How many seeds from `start` on it takes to notice the bug, and what notices it.
fn search(bug: Bug, hunt: Hunt, start: u64, seeds: u64) -> Option<(u64, String)> {
    bugs::with(&[bug], || (0..seeds).find_map(|n| run(hunt, start + n).map(|words| (n + 1, words))))
}

/// Panics are what is looked for here: they are remembered and not printed.
fn remember_panics() {
    std::panic::set_hook(Box::new(|info| {
        let words = info.payload_as_str().unwrap_or("a panic without words");
        let at = info.location().map(|l| format!("{}:{}: ", l.file(), l.line())).unwrap_or_default();
        LAST_WORDS.set(format!("{at}{words}"));
    }));
}

fn core_bugs() -> Vec<Bug> {
    Bug::ALL.iter().copied().filter(|bug| bug.place() == Place::Core).collect()
}

/// What the page says of a bug in the column of these tests.
fn stated(bug: Bug) -> Option<Stated> {
    let row = bugs::table("bug").find(|row| row[0] == bug.name())?;
    Stated::read(row[COLUMN])
}

fn named(kind: &str) -> Option<Hunt> {
    ALL_HUNTS.into_iter().find(|hunt| format!("{hunt:?}").to_lowercase() == kind)
}

/// The page's column of what these tests find.
const COLUMN: usize = 3;

const ALL_HUNTS: [Hunt; 6] = [Hunt::Plain, Hunt::Forming, Hunt::Elections, Hunt::Reads, Hunt::Leases, Hunt::Changes];

/// Seeds of each hunt that must pass without a bug.
const CONTROL_SEEDS: u64 = 60;

#[test]
fn every_bug_of_the_core_is_found_within_its_seeds() {
    remember_panics();
    let missed = bugs::each(&core_bugs(), |bug| {
        let stated = stated(*bug).expect("the page says where each bug of the core is found");
        let hunt = named(stated.kind).expect("a hunt");
        let found = search(*bug, hunt, 0, stated.within);
        found.is_none().then(|| format!("{} is not found in {} seeds", bug.name(), stated.within))
    });
    let _ = std::panic::take_hook();
    let missed: Vec<String> = missed.into_iter().flatten().collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn without_a_bug_the_same_hunts_find_nothing() {
    bugs::each(&(0..CONTROL_SEEDS).collect::<Vec<_>>(), |seed| {
        for hunt in ALL_HUNTS {
            random::hunted(hunt, *seed, STEPS);
        }
    });
}

/// What takes long: only with `QUORUM_BUGS` set, to the most seeds that one search may take.
#[test]
fn measured() {
    let Some(limit) = std::env::var("QUORUM_BUGS").ok().and_then(|n| n.parse().ok()) else { return };
    let only = std::env::var("QUORUM_ONLY").unwrap_or_default();
    let wanted = |bug: &Bug| only.is_empty() || only.split(',').any(|name| name == bug.name());
    remember_panics();
    bugs::each(&core_bugs().into_iter().filter(wanted).collect::<Vec<_>>(), |bug| {
        let hunt = stated(*bug).and_then(|s| named(s.kind)).unwrap_or(Hunt::Plain);
        let mut found: Vec<_> = STARTS.iter().map(|start| search(*bug, hunt, *start, limit)).collect();
        found.sort_by_key(|f| f.as_ref().map_or(u64::MAX, |f| f.0));
        let needed = |f: &Option<(u64, String)>| f.as_ref().map_or(u64::MAX, |f| f.0);
        let within = needed(&found[STARTS.len() - 1]).saturating_mul(4).clamp(10, 400);
        println!("{}: {hunt:?}, {} of {within}", bug.name(), needed(&found[STARTS.len() / 2]));
        eprintln!("{} {:?}: {:?}", bug.name(), found.iter().map(needed).collect::<Vec<_>>(), found[0]);
    });
    let _ = std::panic::take_hook();
}

#[test]
fn the_page_lists_every_bug_and_says_of_it_what_the_code_says() {
    let rows: Vec<Vec<&str>> = bugs::table("bug").map(|row| row[..COLUMN].to_vec()).collect();
    let listed: Vec<Vec<&str>> = Bug::ALL.iter().map(|bug| vec![bug.name(), bug.breaks(), bug.seen()]).collect();
    assert_eq!(rows, listed, "docs/deliberate-bugs.md against quorum/src/bugs.rs");
}
