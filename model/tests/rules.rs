//! The product's rules hold in every state within the bounds; `make model` prints how many those are.
//!
//! `QUORATE_MODEL=large` (`make model-large`) adds a term, or disks that lag, or changes in a row: many minutes,
//! and gigabytes of memory.

use std::env;
use std::time::Instant;

use quorate_model::{Bounds, Conf, Model, Rules};

/// Three voters, three terms, one write; nothing is lost but what leaders have in memory.
const BOUNDS: Bounds = Bounds { nodes: 3, terms: 3, writes: 1, changes: 0, wipes: 0, slow_disks: false };

/// Visits every state. More threads than this machine's make no difference to what is visited.
fn prove(name: &str, confs: &[Conf], bounds: Bounds, rules: Rules) {
    let start = Instant::now();
    let states = Model::new(confs, bounds, rules).symmetric().prove(2);
    eprintln!("{name}, {} terms: {states} states in {:.1} s", bounds.terms, start.elapsed().as_secs_f32());
}

fn large() -> bool {
    env::var("QUORATE_MODEL").is_ok_and(|v| v == "large")
}

#[test]
fn three_nodes_whatever_w_lose_nothing() {
    for w in 1..=3 {
        let bounds = Bounds { writes: 2, ..BOUNDS };
        prove(&format!("N=3 W={w}, two writes"), &[Conf::new(0b111, w)], bounds, Rules::REAL);
    }
}

#[test]
fn three_nodes_whose_disks_lag_and_that_crash_lose_nothing_acknowledged() {
    let terms = if large() { 3 } else { 2 };
    for w in 1..=3 {
        let bounds = Bounds { terms, slow_disks: true, ..BOUNDS };
        prove(&format!("N=3 W={w}, slow disks"), &[Conf::new(0b111, w)], bounds, Rules::REAL);
    }
}

#[test]
fn four_nodes_whatever_w_lose_nothing() {
    for w in 1..=4 {
        let bounds = Bounds { nodes: 4, ..BOUNDS };
        prove(&format!("N=4 W={w}"), &[Conf::new(0b1111, w)], bounds, Rules::REAL);
        if large() {
            let bounds = Bounds { nodes: 4, terms: 2, slow_disks: true, ..BOUNDS };
            prove(&format!("N=4 W={w}, slow disks"), &[Conf::new(0b1111, w)], bounds, Rules::REAL);
        }
    }
}

#[test]
fn a_change_of_w_loses_nothing_whichever_way() {
    for from in 1..=3 {
        for to in (1..=3).filter(|to| *to != from) {
            let confs = [Conf::new(0b111, from), Conf::new(0b111, to)];
            prove(&format!("N=3 W={from} to {to}"), &confs, Bounds { changes: 1, ..BOUNDS }, Rules::REAL);
        }
    }
}

#[test]
fn a_change_of_members_loses_nothing() {
    let terms = if large() { 3 } else { 2 };
    let bounds = Bounds { nodes: 4, terms, changes: 1, ..BOUNDS };
    for (name, from, to) in [
        ("one voter more", Conf::new(0b0111, 2), Conf::new(0b1111, 2)),
        ("one voter less", Conf::new(0b1111, 2), Conf::new(0b0111, 2)),
        ("from two voters to four, and another W", Conf::new(0b0011, 1), Conf::new(0b1111, 3)),
        ("all voters replaced", Conf::new(0b0011, 2), Conf::new(0b1100, 2)),
    ] {
        prove(name, &[from, to], bounds, Rules::REAL);
    }
}

#[test]
fn changes_there_and_back_lose_nothing() {
    let confs = [Conf::new(0b011, 2), Conf::new(0b111, 2)];
    let bounds = Bounds { changes: 2, ..BOUNDS };
    prove("two voters, three, and two again", &confs, bounds, Rules::REAL);
}

/// What a lost disk held may be needed: with W = 2 one loss is survived. The spare takes the place of whoever was lost.
#[test]
fn a_wiped_voter_that_comes_back_as_another_node_loses_nothing() {
    let bounds = Bounds { nodes: 4, terms: 2, wipes: 1, changes: u8::from(large()), ..BOUNDS };
    let confs = [Conf::new(0b0111, 2), Conf::new(0b1110, 2)];
    prove("N=3 W=2, a disk lost", &confs[..1 + usize::from(large())], bounds, Rules::REAL);
}

/// The identity of a node is its disk's, so that a node that holds nothing has never confirmed anything under
/// it: it may vote, or not.
#[test]
fn whether_a_node_that_holds_nothing_votes_loses_nothing_either_way() {
    let bounds = Bounds { terms: 2, wipes: 1, changes: 1, ..BOUNDS };
    for blank_votes in [true, false] {
        let rules = Rules { blank_votes, ..Rules::REAL };
        let name = if blank_votes { "N=2 to 3, blank nodes vote" } else { "N=2 to 3, blank nodes refuse" };
        prove(name, &[Conf::new(0b011, 2), Conf::new(0b111, 2)], bounds, rules);
    }
}

/// Raft's single-server changes are unsafe without this rule (see `broken_rules`). With a joint step it is caution:
/// whatever two leaders begin from one configuration, both need its quorums.
#[test]
fn with_the_joint_step_a_change_before_an_own_entry_loses_nothing_within_these_bounds() {
    let rules = Rules { own_entry_before_change: false, ..Rules::REAL };
    let confs = [Conf::new(0b011, 2), Conf::new(0b111, 2), Conf::new(0b001, 1)];
    prove("no own entry before a change", &confs, Bounds { changes: 2, writes: 0, ..BOUNDS }, rules);
}
