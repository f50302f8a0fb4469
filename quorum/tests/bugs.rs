//! Every deliberate bug of the core (`quorum::bugs`), found by the random clusters of `host` within a stated number of seeds.
//!
//! `make bugs` runs this. With `QUORUM_BUGS=measure` each bug is looked for from several starts, and what it took is printed.
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

fn hunt_for(bug: Bug) -> Hunt {
    match bug {
        Bug::BlankVoter => Hunt::Forming,
        Bug::CommitBeyondAgreement | Bug::AppendIgnoresTerm | Bug::OlderTermCommitsByCounting => Hunt::Elections,
        Bug::ReadWithoutConfirmation | Bug::ReadByEarlierRound => Hunt::Reads,
        Bug::LeaseWithoutRefusalAfterStart | Bug::LeaseSurvivesTransfer => Hunt::Leases,
        Bug::ChangeWithoutJoint | Bug::FinalBeforeJointCommitted => Hunt::Changes,
        _ => Hunt::Plain,
    }
}

#[test]
fn measure() {
    remember_panics();
    let limit = std::env::var("QUORUM_BUGS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let only = std::env::var("QUORUM_ONLY").unwrap_or_default();
    let bugs: Vec<Bug> =
        core_bugs().into_iter().filter(|b| only.is_empty() || only.split(',').any(|o| o == b.name())).collect();
    each(&bugs, |bug| {
        for hunt in [hunt_for(bug)] {
            let mut found: Vec<_> = STARTS.iter().map(|start| search(bug, hunt, *start, limit)).collect();
            found.sort_by_key(|f| f.as_ref().map_or(u64::MAX, |f| f.0));
            let needed: Vec<_> = found.iter().map(|f| f.as_ref().map_or(0, |f| f.0)).collect();
            let words: std::collections::BTreeSet<_> =
                found.into_iter().flatten().map(|f| f.1.chars().take(150).collect::<String>()).collect();
            println!("{:34} {hunt:?} {needed:?} {:?}", bug.name(), words.into_iter().next());
        }
    });
}

#[test]
fn without_a_bug_the_same_hunts_find_nothing() {
    for hunt in ALL_HUNTS {
        for seed in 0..100 {
            random::hunted(hunt, seed, STEPS);
        }
    }
}
