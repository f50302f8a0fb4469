//! Each broken rule is found out: a path to the loss is printed (`cargo test -p quorate-model --test
//! broken_rules -- --nocapture`).

use quorate_model::{Bounds, Conf, Election, Model, Rules, always};

const SMALL: Bounds = Bounds { nodes: 3, terms: 2, writes: 1, changes: 0, wipes: 0, slow_disks: false };

fn refute(confs: &[Conf], bounds: Bounds, rules: Rules, what: &'static str) {
    let start = std::time::Instant::now();
    let path = Model::new(confs, bounds, rules).refute(what);
    eprintln!("{path}\n({:.1} s)\n", start.elapsed().as_secs_f32());
}

#[test]
fn elections_that_need_not_meet_make_two_leaders_of_one_term() {
    let rules = Rules { election: Election::MeetsWritesAlone, ..Rules::REAL };
    refute(&[Conf::new(0b1111, 3)], Bounds { nodes: 4, terms: 1, ..SMALL }, rules, always::ONE_LEADER);
}

/// A follower confirms the same place to both leaders: by index and term, all that an append
/// compares, their entries are one.
#[test]
fn elections_that_need_not_meet_lose_an_acknowledged_write_with_four_nodes() {
    let rules = Rules { election: Election::MeetsWritesAlone, ..Rules::REAL };
    refute(&[Conf::new(0b1111, 3)], Bounds { nodes: 4, terms: 1, writes: 2, ..SMALL }, rules, always::ACKED_APART);
}

#[test]
fn elections_that_need_not_meet_lose_an_acknowledged_write_with_five_nodes() {
    let rules = Rules { election: Election::MeetsWritesAlone, ..Rules::REAL };
    refute(&[Conf::new(0b11111, 4)], Bounds { nodes: 5, terms: 1, writes: 2, ..SMALL }, rules, always::ACKED_STAY);
}

#[test]
fn a_change_of_members_without_the_joint_step_loses_an_acknowledged_write() {
    let rules = Rules { joint: false, ..Rules::REAL };
    let bounds = Bounds { nodes: 4, terms: 2, changes: 1, ..SMALL };
    refute(&[Conf::new(0b0111, 2), Conf::new(0b1111, 2)], bounds, rules, always::ACKED_STAY);
}

#[test]
fn a_change_of_w_without_the_joint_step_loses_an_acknowledged_write() {
    let rules = Rules { joint: false, ..Rules::REAL };
    let bounds = Bounds { terms: 2, changes: 1, ..SMALL };
    refute(&[Conf::new(0b111, 3), Conf::new(0b111, 1)], bounds, rules, always::ACKED_STAY);
}

#[test]
fn an_entry_of_an_older_term_that_commits_by_counting_is_lost() {
    let rules = Rules { own_term_commits: false, ..Rules::REAL };
    refute(&[Conf::new(0b111, 2)], Bounds { terms: 4, writes: 0, ..SMALL }, rules, always::COMMITTED_STAY);
}

#[test]
fn a_copy_that_counts_before_it_is_on_disk_loses_an_acknowledged_write() {
    let rules = Rules { disk_before_ack: false, ..Rules::REAL };
    refute(&[Conf::new(0b111, 2)], Bounds { slow_disks: true, ..SMALL }, rules, always::ACKED_STAY);
}

#[test]
fn a_wiped_voter_under_its_old_name_loses_an_acknowledged_write() {
    let rules = Rules { wiped_is_another: false, ..Rules::REAL };
    refute(&[Conf::new(0b111, 2)], Bounds { wipes: 1, ..SMALL }, rules, always::ACKED_STAY);
}

/// To wait until it holds anything at all is not enough: it must hold what it has confirmed.
#[test]
fn a_wiped_voter_under_its_old_name_loses_an_acknowledged_write_even_if_it_refuses_while_blank() {
    let rules = Rules { wiped_is_another: false, blank_votes: false, ..Rules::REAL };
    refute(&[Conf::new(0b111, 2)], Bounds { wipes: 1, ..SMALL }, rules, always::ACKED_STAY);
}

#[test]
fn a_write_acknowledged_at_c_copies_is_not_on_w_disks() {
    let rules = Rules { acknowledge_at_w: false, ..Rules::REAL };
    refute(&[Conf::new(0b111, 3)], SMALL, rules, always::PROMISE);
}

/// Raft's bug of 2015: of two changes by one server each, begun in different terms from one configuration, both commit.
/// The joint step alone prevents it, too (see `rules`).
#[test]
fn a_change_before_an_own_entry_and_without_the_joint_step_loses_a_committed_entry() {
    let rules = Rules { joint: false, own_entry_before_change: false, ..Rules::REAL };
    let confs = [Conf::new(0b0011, 2), Conf::new(0b0111, 2), Conf::new(0b0001, 1)];
    refute(&confs, Bounds { terms: 3, changes: 2, writes: 0, ..SMALL }, rules, always::COMMITTED_STAY);
}
