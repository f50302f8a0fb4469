//! Quorums of configurations against counting by hand, for every N up to 7 and every pair of halves of a joint one.
#![allow(clippy::expect_used)]

use quorum::{Change, Config, Member, NodeId};

fn member(id: u32) -> Member {
    let text = String::new;
    Member { id: NodeId(id.into()), name: text(), peer: text(), http: text(), tcp: text() }
}

/// The configurations of voters `0..n` and their joint ones with `from..to`.
fn all() -> Vec<Config> {
    let mut all = Vec::new();
    for n in 1..=7 {
        for w in 1..=n as usize {
            let config = Config::first((0..n).map(member).collect(), w, None).expect("legal");
            for (from, to, w2) in [(0, n.min(6) + 1, 1), (1, 5, 3), (3, 8, 2), (0, 1, 1)] {
                let change = Change {
                    base_version: 1,
                    voters: (from..to).map(member).collect(),
                    learners: Vec::new(),
                    write_quorum: w2,
                    preferred: None,
                    failover: config.failover,
                };
                all.push(config.changed(change));
            }
            all.push(config);
        }
    }
    all
}

fn count(voters: &[Member], mask: u32) -> usize {
    voters.iter().filter(|m| mask >> m.id.0 & 1 == 1).count()
}

/// N, W → E, straight from the page: the smallest E with W + E > N and 2E > N.
fn e(n: usize, w: usize) -> usize {
    (1..=n).find(|e| w + e > n && 2 * e > n).expect("exists")
}

#[test]
fn every_subset_of_nodes_elects_confirms_and_holds_as_counted_by_hand() {
    for config in all() {
        let mut halves = vec![(config.voters.clone(), config.write_quorum)];
        halves.extend(config.outgoing.iter().map(|o| (o.voters.clone(), o.write_quorum)));
        for mask in 0..1u32 << 8 {
            let has = |id: NodeId| mask >> id.0 & 1 == 1;
            let at_least = |need: fn(usize, usize) -> usize| {
                halves.iter().all(|(voters, w)| count(voters, mask) >= need(voters.len(), *w))
            };
            assert_eq!(config.elects(has), at_least(e), "{config:?} {mask:b}");
            let c = |n, w| n - e(n, w) + 1;
            assert_eq!(config.confirms(has), at_least(c), "{config:?} {mask:b}");
            assert_eq!(config.committed(|id| u8::from(has(id))) == Some(1), at_least(c), "{config:?} {mask:b}");
            assert_eq!(
                config.acknowledged(|id| u8::from(has(id))) == Some(1),
                at_least(|_, w| w),
                "{config:?} {mask:b}"
            );
        }
    }
}

#[test]
fn a_node_named_twice_counts_once_and_a_voter_is_no_learner_too() {
    let config = Config::first(vec![member(2), member(1), member(2)], 2, None).expect("two voters");
    assert_eq!(config.voters.len(), 2);
    assert!(Config::first(vec![member(1), member(1)], 2, None).is_err());
    let change = Change {
        base_version: 1,
        voters: vec![member(1), member(1), member(3)],
        learners: vec![member(3), member(4)],
        write_quorum: 2,
        preferred: None,
        failover: config.failover,
    };
    let changed = config.changed(change);
    assert_eq!((changed.voters.len(), changed.learners.len()), (2, 1));
}
