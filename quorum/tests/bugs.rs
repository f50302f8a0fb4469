//! Every deliberate bug of the core (`quorum::bugs`), found by the random clusters of `host` within a stated number of seeds.
//!
//! `make bugs` runs this.
#![cfg(feature = "bugs")]
#![allow(clippy::expect_used)]

mod host;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use host::random::{self, Hunt};
use quorum::bugs::{self, Bug, Place};

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

/// `work` on every bug, by as many threads as there are processors.
fn each<T: Send>(bugs: &[Bug], work: impl Fn(Bug) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let take = || {
        let mut done = Vec::new();
        while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((*bug, work(*bug)));
        }
        done
    };
    let mut all: Vec<(Bug, T)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        running.into_iter().flat_map(|t| t.join().expect("a thread of the search")).collect()
    });
    all.sort_by_key(|(bug, _)| *bug);
    all.into_iter().map(|(_, found)| found).collect()
}

const ALL_HUNTS: [Hunt; 6] = [Hunt::Plain, Hunt::Forming, Hunt::Elections, Hunt::Reads, Hunt::Leases, Hunt::Changes];

/// Seeds of each hunt that must pass without a bug.
const CONTROL_SEEDS: u64 = 60;

/// The hunt that finds a bug, the seeds it may take from seed 0 on, and the median of what five starts took (`measured` prints these lines). A
/// change of the core shifts what a seed leads to; so the bound is generous.
const FOUND: &[(Bug, Hunt, u64, u64)] = &[
    (Bug::ElectionByWriteQuorumAlone, Hunt::Plain, 12, 2),
    (Bug::MajorityElects, Hunt::Changes, 40, 2),
    (Bug::VoteIgnoresLog, Hunt::Plain, 12, 2),
    (Bug::VoteBeforeSaved, Hunt::Plain, 10, 1),
    (Bug::PromiseBeforeDurable, Hunt::Plain, 10, 1),
    (Bug::OwnCopyBeforeDurable, Hunt::Plain, 10, 1),
    (Bug::OverwrittenCountsAsDurable, Hunt::Elections, 400, 56),
    (Bug::SnapshotDurableAtOnce, Hunt::Plain, 12, 1),
    (Bug::AppendIgnoresTerm, Hunt::Elections, 12, 1),
    (Bug::LateAppendTruncates, Hunt::Plain, 16, 3),
    (Bug::CommitBeyondAgreement, Hunt::Elections, 20, 4),
    (Bug::LateSnapshotInstalled, Hunt::Elections, 248, 24),
    (Bug::OlderTermCommitsByCounting, Hunt::Elections, 288, 32),
    (Bug::AcknowledgedAtC, Hunt::Plain, 12, 2),
    (Bug::LearnerCounts, Hunt::Plain, 84, 7),
    (Bug::ReadWithoutConfirmation, Hunt::Reads, 12, 3),
    (Bug::ReadByEarlierRound, Hunt::Reads, 120, 7),
    (Bug::ReadBeforeOwnTerm, Hunt::Plain, 156, 11),
    (Bug::StaleRoundAccepted, Hunt::Plain, 220, 15),
    (Bug::LeaseWithoutRefusalAfterStart, Hunt::Leases, 400, 32),
    (Bug::LeaseSurvivesTransfer, Hunt::Leases, 48, 3),
    (Bug::CheckQuorumOff, Hunt::Plain, 68, 6),
    (Bug::ChangeWithoutJoint, Hunt::Changes, 16, 4),
    (Bug::FinalBeforeJointCommitted, Hunt::Changes, 48, 4),
    (Bug::ChangeOverChange, Hunt::Changes, 16, 2),
    (Bug::JointForgottenOnRestart, Hunt::Plain, 144, 3),
    (Bug::TruncationKeepsConfig, Hunt::Plain, 104, 8),
    (Bug::SnapshotKeepsOldConfig, Hunt::Plain, 12, 1),
    (Bug::PromotionIgnoresLag, Hunt::Plain, 36, 3),
    (Bug::SetAsideBeforeCommitted, Hunt::Plain, 56, 6),
];

#[test]
fn every_bug_of_the_core_is_found_within_its_seeds() {
    let listed: Vec<Bug> = FOUND.iter().map(|(bug, ..)| *bug).collect();
    assert_eq!(listed, core_bugs(), "each bug of the core has its line, in order");
    remember_panics();
    let missed = each(&listed, |bug| {
        let (_, hunt, within, _) = FOUND.iter().find(|line| line.0 == bug).expect("listed");
        search(bug, *hunt, 0, *within).is_none().then(|| format!("{} is not found in {within} seeds", bug.name()))
    });
    let _ = std::panic::take_hook();
    let missed: Vec<String> = missed.into_iter().flatten().collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn without_a_bug_the_same_hunts_find_nothing() {
    each(&[Bug::VoteIgnoresLog, Bug::MajorityElects], |half| {
        for seed in (0..CONTROL_SEEDS).filter(|seed| (seed % 2 == 0) == (half == Bug::VoteIgnoresLog)) {
            for hunt in ALL_HUNTS {
                random::hunted(hunt, seed, STEPS);
            }
        }
    });
}

/// Where to look for a bug.
fn hunt_for(bug: Bug) -> Hunt {
    match bug {
        Bug::OverwrittenCountsAsDurable
        | Bug::LateSnapshotInstalled
        | Bug::CommitBeyondAgreement
        | Bug::AppendIgnoresTerm
        | Bug::OlderTermCommitsByCounting => Hunt::Elections,
        Bug::ReadWithoutConfirmation | Bug::ReadByEarlierRound => Hunt::Reads,
        Bug::LeaseWithoutRefusalAfterStart | Bug::LeaseSurvivesTransfer => Hunt::Leases,
        Bug::MajorityElects | Bug::ChangeOverChange | Bug::ChangeWithoutJoint | Bug::FinalBeforeJointCommitted => {
            Hunt::Changes
        }
        _ => Hunt::Plain,
    }
}

/// What takes long: only with `QUORUM_BUGS` set, to the most seeds that one search may take.
#[test]
fn measured() {
    let Some(limit) = std::env::var("QUORUM_BUGS").ok().and_then(|n| n.parse().ok()) else { return };
    let only = std::env::var("QUORUM_ONLY").unwrap_or_default();
    let wanted = |bug: &Bug| only.is_empty() || only.split(',').any(|name| name == bug.name());
    remember_panics();
    each(&core_bugs().into_iter().filter(wanted).collect::<Vec<_>>(), |bug| {
        let hunt = hunt_for(bug);
        let mut found: Vec<_> = STARTS.iter().map(|start| search(bug, hunt, *start, limit)).collect();
        found.sort_by_key(|f| f.as_ref().map_or(u64::MAX, |f| f.0));
        let needed = |f: &Option<(u64, String)>| f.as_ref().map_or(u64::MAX, |f| f.0);
        let within = needed(&found[STARTS.len() - 1]).saturating_mul(4).clamp(10, 400);
        println!("    (Bug::{bug:?}, Hunt::{hunt:?}, {within}, {}),", needed(&found[STARTS.len() / 2]));
        eprintln!("{} {:?}: {:?}", bug.name(), found.iter().map(needed).collect::<Vec<_>>(), found[0]);
    });
    let _ = std::panic::take_hook();
}

/// The page lists what the table says, so that neither is stale. With `QUORUM_BUGS_PAGE` set it is written anew.
#[test]
fn the_page_of_deliberate_bugs_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/deliberate-bugs.md");
    let page = page();
    if std::env::var("QUORUM_BUGS_PAGE").is_ok() {
        std::fs::write(path, &page).expect("the page can be written");
    }
    let kept = std::fs::read_to_string(path).expect("the page is there");
    assert!(kept == page, "docs/deliberate-bugs.md is stale: QUORUM_BUGS_PAGE=1 make bugs writes it");
}

fn page() -> String {
    let mut page = String::from(PAGE);
    for bug in Bug::ALL {
        let found = FOUND.iter().find(|line| line.0 == *bug);
        let by =
            found.map_or("no test yet".to_owned(), |(_, hunt, ..)| format!("random clusters, {hunt:?}").to_lowercase());
        let seeds = found.map_or("".to_owned(), |(_, _, within, median)| format!("{median} of {within}"));
        page += &format!("| `{}` | {} | {} | {by} | {seeds} |\n", bug.name(), bug.breaks(), bug.seen());
    }
    page
}

const PAGE: &str = "\
# Deliberate bugs

A checker that finds nothing proves nothing. So rules of the protocol and of the storage that were easy to miss, or that others or this project
once got wrong, can be broken on purpose, one at a time (`quorum/src/bugs.rs`, feature `bugs`, never in the product), and the tests must notice.

`make bugs` looks for every bug of the core with the random clusters of `quorum/tests/host`, and runs the same clusters without a bug, which
must pass. The last column says how many seeds that takes: the median of five searches from different starts, and the bound that the test
holds. The word after *random clusters* is the kind of run (`Hunt` in `quorum/tests/host/random.rs`): plain ones are those that the ordinary
tests take, the others make likelier what the bug needs to show. *No test yet* is meant literally: there is a switch, and nothing has been
shown to notice it. The bugs of the storage need whole nodes on a simulated disk.

This table is written by the test that checks it (`quorum/tests/bugs.rs`).

| bug | what it breaks | seen | found by | seeds |
|---|---|---|---|---|
";
