//! When a leader hands on what clients write.

use bytes::Bytes;
use quorate::handle::{WriteError, Written};
use quorate::kv::{Command, Condition, Value};
use quorate::stepped::Answer;
use quorate_sim::Plan;
use quorate_sim::cluster::Cluster;
use quorum::Index;

use super::{cluster_of, quiet, run, wait_until};

/// A cluster whose own clients rest, and its leader.
fn resting(plan: Plan) -> (Cluster, usize) {
    let mut cluster = cluster_of(plan);
    cluster.clients.quiet = true;
    wait_until(&mut cluster, Cluster::is_whole);
    let leader = cluster.leader().expect("a leader");
    (cluster, leader)
}

/// A write at the leader, and the turn that sees it.
fn write(cluster: &mut Cluster, leader: usize, key: &str) -> Answer<Written, WriteError> {
    let value = Value::bytes(Bytes::from_static(b"v"));
    let command = Command::Put { key: key.to_owned().into(), value, condition: Condition::None };
    let answer = cluster.machine(leader).expect("it runs").write(&command, None, cluster.clock(leader));
    cluster.pump(leader, false).expect("no violation");
    answer
}

fn last(cluster: &Cluster, leader: usize) -> Index {
    cluster.machine(leader).expect("it runs").replica().last().index
}

/// What comes while a write is under way waits for it, and then goes as one group.
#[test]
fn writes_gather_while_a_group_is_under_way() {
    let (mut cluster, leader) = resting(Plan { delay: (1_000, 1_000), fsync: (200, 200), ..quiet(3, 2) });
    let before = last(&cluster, leader);
    let first = write(&mut cluster, leader, "a");
    let others = ["b", "c", "d"].map(|key| write(&mut cluster, leader, key));
    assert_eq!(last(&cluster, leader), before.next(), "only the first is in the log");
    let synced = |c: &Cluster| c.machine(leader).expect("it runs").replica().durable();
    while synced(&cluster) < Index(before.0 + 2) {
        run(&mut cluster, 100);
    }
    assert_eq!(synced(&cluster), Index(before.0 + 4), "one write of the log has all the others");
    run(&mut cluster, 10_000);
    for mut answer in others.into_iter().chain([first]) {
        assert!(matches!(answer.try_recv(), Ok(Ok(_))));
    }
}

/// Whatever holds up a group, those behind it wait for a tick and no longer: they stand in the log then, where they are
/// whole as soon as the others answer.
#[test]
fn nobody_gathers_for_longer_than_a_tick() {
    let (mut cluster, leader) = resting(Plan { delay: (1_000, 1_000), ..quiet(3, 2) });
    for host in (0..3).filter(|host| *host != leader) {
        cluster.kill(host, false);
    }
    let before = last(&cluster, leader);
    let _first = write(&mut cluster, leader, "a");
    let _second = write(&mut cluster, leader, "b");
    assert_eq!(last(&cluster, leader), before.next());
    run(&mut cluster, 2 * Plan::draw(1).tick);
    assert_eq!(last(&cluster, leader), Index(before.0 + 2));
}

/// A long line is kept full: nothing waits for what is under way on it.
#[test]
fn nothing_gathers_before_a_long_line() {
    let (mut cluster, leader) = resting(Plan { delay: (20_000, 20_000), ..quiet(3, 2) });
    let before = last(&cluster, leader);
    let _answers = ["a", "b", "c"].map(|key| write(&mut cluster, leader, key));
    assert_eq!(last(&cluster, leader), Index(before.0 + 3));
}
