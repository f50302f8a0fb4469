//! Clusters in virtual time, brought step by step to where something is to be seen.
#![allow(missing_docs, clippy::expect_used, reason = "a test that cannot go on says so")]

mod groups;
mod incidents;

use std::sync::Arc;

use quorate::metrics::Metrics;
use quorate_sim::Plan;
use quorate_sim::cluster::Cluster;
use quorum::Change;

/// Enough for an election, a farewell or a replacement to be over.
const LONG: u64 = 20_000_000;

/// Quiet weather: no faults but those of the test.
fn quiet(nodes: usize, write_quorum: usize) -> Plan {
    let script = Some(Vec::new());
    let plan = Plan { script, spares: 0, loss: 0, duplicates: 0, drift: 0, lease_reads: false, ..Plan::draw(1) };
    plan.with_quorum(nodes, write_quorum)
}

/// A cluster that is formed, with clients at work.
fn cluster_of(plan: Plan) -> Cluster {
    let metrics = Arc::new(Metrics::new().expect("the metrics do not contradict each other"));
    let mut cluster = Cluster::new(1, plan, metrics, true);
    run(&mut cluster, 2_000_000);
    wait_until(&mut cluster, |c| c.leader().is_some() && c.clients.tally.written > 20);
    cluster
}

fn cluster(nodes: usize, write_quorum: usize) -> Cluster {
    cluster_of(quiet(nodes, write_quorum))
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

/// More writes are acknowledged.
fn goes_on(cluster: &mut Cluster) {
    let goal = cluster.clients.tally.written + 20;
    wait_until(cluster, |c| c.clients.tally.written >= goal);
}

/// The end of a test: the clients rest, all nodes agree, and hold everything that was acknowledged.
fn wait_until_whole(cluster: &mut Cluster) {
    cluster.clients.quiet = true;
    wait_until(cluster, Cluster::is_whole);
    cluster.last_words().unwrap_or_else(|v| panic!("{v:?}"));
}

fn process_of(cluster: &Cluster, host: usize) -> Option<u64> {
    cluster.hosts[host].process.as_ref().map(|p| p.number)
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
