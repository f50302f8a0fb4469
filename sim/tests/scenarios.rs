//! Incidents of others, and of this project, made to happen step by step. Each function is one of them.
#![allow(missing_docs, clippy::expect_used, reason = "a test that cannot go on says so")]

use std::sync::Arc;

use quorate::metrics::Metrics;
use quorate_sim::Plan;
use quorate_sim::cluster::Cluster;
use quorum::Change;

/// Enough for an election, a farewell or a replacement to be over.
const LONG: u64 = 20_000_000;

/// A cluster in quiet weather, formed, with clients at work and no faults but those of the test.
fn cluster_with_spares(nodes: usize, write_quorum: usize, spares: usize) -> Cluster {
    let plan = Plan { script: Some(Vec::new()), spares, loss: 0, duplicates: 0, lease_reads: false, ..Plan::draw(1) };
    let metrics = Arc::new(Metrics::new().expect("the metrics do not contradict each other"));
    let mut cluster = Cluster::new(1, plan.with_quorum(nodes, write_quorum), metrics, true);
    run(&mut cluster, 2_000_000);
    wait_until(&mut cluster, |c| c.leader().is_some() && c.clients.tally.written > 20);
    cluster
}

fn run(cluster: &mut Cluster, micros: u64) {
    let until = cluster.now + micros;
    cluster.run_until(until).unwrap_or_else(|v| panic!("{v:?}\n{}", cluster.recent(60)));
}

fn wait_until(cluster: &mut Cluster, holds: impl Fn(&Cluster) -> bool) {
    let deadline = cluster.now + LONG;
    while !holds(cluster) {
        assert!(cluster.now < deadline, "it did not come about; {:?}\n{}", cluster.missing(), cluster.recent(60));
        run(cluster, 50_000);
    }
}

/// The configuration that the leader has in force.
fn config(cluster: &Cluster) -> Option<&quorum::SharedConfig> {
    cluster.leader().and_then(|l| cluster.machine(l))?.replica().config()
}

/// Asks the leader for another configuration, and waits until it is in force.
fn change(cluster: &mut Cluster, change: impl Fn(&mut Change)) {
    let leader = cluster.leader().expect("a leader");
    let config = config(cluster).cloned().expect("a configuration");
    let mut wanted = config.unchanged();
    change(&mut wanted);
    cluster.change(leader, wanted).unwrap_or_else(|v| panic!("{v:?}"));
    wait_until(cluster, |c| {
        let committed = c.leader().and_then(|l| c.machine(l)).is_some_and(|m| m.replica().config_committed());
        committed && self::config(c).is_some_and(|c| c.version > config.version && !c.is_joint())
    });
}

/// A founder that was taken out, started again by the command line it was first started with, together with as many others that were taken out as that
/// command line asks for: they made a cluster of their own, empty, which clients took for theirs.
#[test]
fn a_removed_founder_founds_no_second_cluster() {
    let mut cluster = cluster_with_spares(3, 2, 2);
    let by_name = |m: &quorum::Member| m.name == "h3" || m.name == "h4";
    wait_until(&mut cluster, |c| config(c).is_some_and(|c| c.learners.len() == 2));
    run(&mut cluster, 1_000_000);
    change(&mut cluster, |c| c.voters.append(&mut c.learners));
    change(&mut cluster, |c| {
        c.voters.retain(by_name);
        c.preferred = None;
    });
    // They are told, set their data aside, and are started again; the nodes that their command lines name are the three of them.
    run(&mut cluster, LONG);
    let blank = (0..3).filter(|h| cluster.machine(*h).is_some_and(|m| m.replica().is_blank()));
    assert_eq!(blank.count(), 3, "they wait for their cluster\n{}", cluster.recent(60));
    assert_eq!(cluster.chronicles.values().filter(|c| c.last() > 0).count(), 1, "there is one cluster");
}
