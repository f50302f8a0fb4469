//! Incidents of others, and of this project, made to happen step by step. Each function is one of them.

use std::sync::Arc;

use bytes::Bytes;
use quorate::kv::{Command, Condition, Value};
use quorate::metrics::Metrics;
use quorate::stepped::Machine;
use quorate_sim::Plan;
use quorate_sim::clients::Want;
use quorate_sim::cluster::{Cluster, Event};
use quorate_sim::dice::Dice;
use quorate_sim::host::Wait;

use super::{LONG, change, cluster, cluster_of, config, goes_on, process_of, quiet, run, wait_until, wait_until_whole};

/// A founder that was taken out, started again by the command line it was first started with, together with as
/// many others that were taken out as that command line asks for: they made a cluster of their own, empty, which
/// clients took for theirs.
#[test]
fn a_removed_founder_founds_no_second_cluster() {
    let mut cluster = cluster_of(Plan { spares: 2, ..quiet(3, 2) });
    let by_name = |m: &quorum::Member| m.name == "h3" || m.name == "h4";
    wait_until(&mut cluster, |c| config(c).is_some_and(|c| c.learners.len() == 2));
    run(&mut cluster, 1_000_000);
    change(&mut cluster, |c| c.voters.append(&mut c.learners));
    change(&mut cluster, |c| {
        c.voters.retain(by_name);
        c.preferred = None;
    });
    // They are told, set their data aside, and are started again; the nodes that their command lines
    // name are the three of them.
    run(&mut cluster, LONG);
    let blank = (0..3).filter(|h| cluster.machine(*h).is_some_and(|m| m.replica().is_blank()));
    assert_eq!(blank.count(), 3, "they wait for their cluster\n{}", cluster.recent(60));
    assert_eq!(cluster.chronicles.values().filter(|c| c.last() > 0).count(), 1, "there is one cluster");
}

/// The founder loses power while its first configuration is on its way to its disk. Whoever it had told of that cluster
/// would belong to it for ever, and the founder, who cannot know of it any more, to the next one that it founds.
#[test]
fn a_founder_that_forgets_its_first_cluster_has_told_nobody_of_it() {
    let metrics = Arc::new(Metrics::new().expect("the metrics do not contradict each other"));
    let mut cluster = Cluster::new(1, quiet(2, 1), metrics, true);
    cluster.hosts[0].stalled_until = LONG;
    wait_until(&mut cluster, |c| c.leader() == Some(0));
    run(&mut cluster, 100_000);
    cluster.kill(0, true);
    cluster.hosts[0].stalled_until = 0;
    cluster.after(10_000, Event::Start(0));
    goes_on(&mut cluster);
    assert_eq!(cluster.chronicles.values().filter(|c| c.last() > 0).count(), 1, "there is one cluster");
    wait_until_whole(&mut cluster);
}

/// Every machine loses power at once while clients write, again and again (NATS JetStream
/// acknowledged before it had synced).
#[test]
fn a_blackout_of_all_machines_loses_nothing_acknowledged() {
    for (nodes, write_quorum) in [(1, 1), (3, 1), (3, 2), (5, 4)] {
        let mut cluster = cluster(nodes, write_quorum);
        for _ in 0..10 {
            (0..nodes).for_each(|host| cluster.kill(host, true));
            (0..nodes).for_each(|host| cluster.after(10_000, Event::Start(host)));
            goes_on(&mut cluster);
        }
        wait_until_whole(&mut cluster);
    }
}

/// A sync fails, and the system drops what it should have written: whoever syncs again is told that all is well
/// (PostgreSQL, CockroachDB). The node stops instead; and what it finds in the system's memory when it is back is not
/// on its disk for that, as the next power loss shows.
#[test]
fn a_sync_that_failed_is_never_taken_back() {
    let mut cluster = cluster(3, 2);
    for operations in 0..8 {
        for host in 0..3 {
            cluster.hosts[host].disk.fail_after(operations);
            let process = process_of(&cluster, host);
            wait_until(&mut cluster, |c| process_of(c, host).is_some() && process_of(c, host) != process);
            run(&mut cluster, 200_000);
            cluster.kill(host, true);
            cluster.after(10_000, Event::Start(host));
            goes_on(&mut cluster);
        }
    }
    wait_until_whole(&mut cluster);
}

/// A leader stands still (SIGSTOP), another one is elected and takes writes, and the first one goes on with
/// requests in its sockets (etcd).
#[test]
fn a_leader_that_was_paused_and_replaced_answers_no_stale_read() {
    for lease_reads in [false, true] {
        let mut cluster = cluster_of(Plan { lease_reads, ..quiet(3, 2) });
        for _ in 0..5 {
            let old = cluster.leader().expect("a leader");
            cluster.hosts[old].paused_until = cluster.now + 4_000_000;
            run(&mut cluster, 3_000_000);
            let new = cluster.leader().expect("a leader");
            assert_ne!(new, old, "another node leads meanwhile\n{}", cluster.recent(60));
            for key in 0..cluster.plan.keys {
                let read = Want::Read(Bytes::from(format!("k{key}")));
                cluster.ask(usize::MAX, old, read).expect("no answer yet");
            }
            // The invariants see every answer.
            goes_on(&mut cluster);
        }
        wait_until_whole(&mut cluster);
    }
}

/// One byte is wrong in the log of one node, the leader's included (NATS lost committed entries of which a
/// majority still had copies).
#[test]
fn a_damaged_record_of_one_node_loses_nothing() {
    let mut cluster = cluster(3, 2);
    let mut found = 0;
    for round in 0..30 {
        let host = round % 3;
        cluster.kill(host, true);
        let before = cluster.hosts[host].identity;
        let rotten = cluster.rot(host, &mut Dice::new(round as u64));
        cluster.after(10_000, Event::Start(host));
        // It is a new node, learns everything anew, and takes its own old place.
        wait_until(&mut cluster, |c| c.leader().is_some() && c.hosts[host].process.is_some());
        found += usize::from(rotten.is_some() && cluster.hosts[host].identity != before);
        cluster.clients.quiet = true;
        wait_until(&mut cluster, |c| c.is_whole() && config(c).is_some_and(|c| c.learners.is_empty()));
        cluster.clients.quiet = false;
        cluster.after(0, Event::Client(0));
        run(&mut cluster, 500_000);
    }
    assert!(found >= 5, "damage was found {found} times of 30");
    wait_until_whole(&mut cluster);
}

/// A voter comes back with an empty disk under its old name, and the only other one there lacks what was
/// acknowledged (etcd, ZooKeeper).
#[test]
fn a_wiped_voter_elects_no_laggard() {
    let mut cluster = cluster(3, 2);
    let leader = cluster.leader().expect("a leader");
    let (wiped, laggard) = ((leader + 1) % 3, (leader + 2) % 3);
    let links = [(leader, laggard), (laggard, leader), (wiped, laggard), (laggard, wiped)];
    cluster.cuts.insert(u64::MAX, links.into());
    goes_on(&mut cluster);
    cluster.kill(leader, false);
    cluster.wipe(wiped);
    cluster.cuts.clear();
    cluster.after(10_000, Event::Start(wiped));
    run(&mut cluster, LONG);
    assert_eq!(cluster.leader(), None, "nobody there has what was acknowledged\n{}", cluster.recent(60));
    cluster.after(0, Event::Start(leader));
    wait_until_whole(&mut cluster);
}

/// Whoever decides on a failover from what it last saw promotes a node that has fallen behind since (CloudNativePG's
/// operator, from a cache). Here a person can tell such a node to campaign as often as they like: nodes elect, and
/// those that hold what was acknowledged do not elect it.
#[test]
fn a_node_promoted_from_a_stale_view_is_not_elected() {
    let mut cluster = cluster(3, 2);
    let leader = cluster.leader().expect("a leader");
    let (holder, laggard) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.cuts.insert(u64::MAX, [(leader, laggard), (laggard, leader), (holder, laggard), (laggard, holder)].into());
    goes_on(&mut cluster);
    cluster.kill(leader, false);
    cluster.cuts.clear();
    for _ in 0..20 {
        if let Some(p) = &mut cluster.hosts[laggard].process {
            let answer = p.machine.campaign();
            p.waits.push(Wait::Leadership(answer));
        }
        run(&mut cluster, 100_000);
        assert_ne!(cluster.leader(), Some(laggard), "it lacks what was acknowledged\n{}", cluster.recent(60));
    }
    wait_until(&mut cluster, |c| c.leader() == Some(holder));
    goes_on(&mut cluster);
    cluster.after(0, Event::Start(leader));
    wait_until_whole(&mut cluster);
}

/// A copy fewer than asked for can be made, for a long time (MySQL's semi-synchronous replication and TiKV's DR
/// mode then go on with fewer).
#[test]
fn w_never_shrinks_by_itself() {
    let mut cluster = cluster(3, 3);
    let away = (cluster.leader().expect("a leader") + 1) % 3;
    cluster.kill(away, false);
    run(&mut cluster, 3_000_000);
    let (written, read) = (cluster.clients.tally.written, cluster.clients.tally.read);
    run(&mut cluster, 60_000_000);
    assert_eq!(cluster.clients.tally.written, written, "nothing is acknowledged with two copies");
    assert!(cluster.clients.tally.read > read, "reads go on");
    cluster.after(0, Event::Start(away));
    goes_on(&mut cluster);
    wait_until_whole(&mut cluster);
}

/// The nodes that are to leave are stopped for ever the moment they are asked to (pods of a StatefulSet deleted before
/// the final configuration was in force).
#[test]
fn nodes_stopped_before_their_removal_is_done_hold_nothing_up() {
    for (nodes, write_quorum, leave) in [(5, 3, 2), (4, 2, 1), (3, 2, 1)] {
        let mut cluster = cluster(nodes, write_quorum);
        let leader = cluster.leader().expect("a leader");
        let gone: Vec<usize> = (0..nodes).filter(|h| *h != leader).take(leave).collect();
        let version = config(&cluster).map_or(0, |c| c.version);
        let mut wanted = config(&cluster).expect("a configuration").unchanged();
        wanted.voters.retain(|m| !gone.iter().any(|h| m.name == format!("h{h}")));
        wanted.preferred = None;
        wanted.write_quorum = wanted.write_quorum.min(wanted.voters.len());
        cluster.change(leader, wanted).expect("nothing follows at once");
        gone.iter().for_each(|host| cluster.kill(*host, true));
        wait_until(&mut cluster, |c| config(c).is_some_and(|c| c.version >= version + 2 && !c.is_joint()));
        goes_on(&mut cluster);
    }
}

/// A disk that takes a thousand times as long as the others (TigerBeetle): the fastest W decide.
#[test]
fn one_slow_disk_drags_nobody() {
    let mut cluster = cluster(3, 2);
    cluster.clients.quiet = true;
    wait_until(&mut cluster, Cluster::is_whole);
    let leader = cluster.leader().expect("a leader");
    let hundred_writes = |c: &mut Cluster| {
        let begun = c.now;
        for number in 0..100 {
            let value = Value::bytes(Bytes::from(format!("{}-{number}", c.now)));
            let put = Command::Put { key: Bytes::from_static(b"slow"), value, condition: Condition::None };
            let before = c.clients.tally.written;
            c.ask(usize::MAX, leader, Want::Write(put, None)).expect("no answer yet");
            while c.clients.tally.written == before {
                run(c, 1_000);
                assert!(c.now < begun + LONG, "{}", c.recent(60));
            }
        }
        c.now - begun
    };
    let before = hundred_writes(&mut cluster);
    let slow = (leader + 1) % 3;
    cluster.hosts[slow].slow = 1_000;
    let after = hundred_writes(&mut cluster);
    assert!(after * 2 <= before * 3, "a hundred writes take {after} us with a slow disk, {before} us without");
    cluster.hosts[slow].slow = 1;
    wait_until_whole(&mut cluster);
}

/// Copies the folder of a node to the machine with number 3, as it is on its disk just now.
fn copy_folder(cluster: &mut Cluster, original: usize) {
    cluster.hosts[3].disk = cluster.hosts[original].disk.copy();
    cluster.hosts[3].engine = cluster.hosts[original].engine.copy();
    cluster.hosts[3].wanted = true;
    cluster.nemesis.copies.insert(3);
}

/// A cluster of three with W = 2, and a machine with number 3 that waits for a copy. A leader, one that is to
/// be copied, and the third.
fn cluster_to_copy_from() -> (Cluster, [usize; 3]) {
    let mut cluster = cluster_of(Plan { spares: 1, ..quiet(3, 2) });
    cluster.hosts[3].wanted = false;
    let leader = cluster.leader().expect("a leader");
    (cluster, [leader, (leader + 1) % 3, (leader + 2) % 3])
}

/// A data folder is copied while its node is down, and both are started, at two addresses. One of the two is let
/// in, the other is refused.
#[test]
fn a_copied_folder_started_beside_the_original_is_refused() {
    let (mut cluster, [_, original, _]) = cluster_to_copy_from();
    cluster.kill(original, false);
    copy_folder(&mut cluster, original);
    cluster.after(10_000, Event::Start(original));
    cluster.after(400_000, Event::Start(3));
    run(&mut cluster, LONG);
    assert_eq!(cluster.hosts[3].identity, cluster.hosts[original].identity);
    let leader = cluster.leader().expect("a leader");
    let commit = cluster.machine(leader).map(|m| m.replica().commit());
    let applied = |c: &Cluster, host| c.machine(host).map(Machine::applied);
    assert!(applied(&cluster, 3) < commit, "the copy hears nothing\n{}", cluster.recent(60));
    // The leader fails; the copy's vote counts for nobody.
    cluster.kill(leader, true);
    goes_on(&mut cluster);
    cluster.after(0, Event::Start(leader));
    cluster.hosts[3].wanted = false;
    cluster.kill(3, false);
    goes_on(&mut cluster);
    cluster.clients.quiet = true;
    run(&mut cluster, 5_000_000);
    assert_eq!(applied(&cluster, 0), applied(&cluster, 1));
    assert_eq!(applied(&cluster, 1), applied(&cluster, 2));
}

/// The folder of a running node is copied (a machine is cloned, a volume restored from its snapshot), and the copy is
/// started later, beside it: it counts as the newer process of that node and takes its place, without what the original
/// confirmed since. The leader that counted on that notices.
#[test]
fn a_copy_of_a_running_node_forgets_before_its_leader_and_becomes_a_new_node() {
    let (mut cluster, [_, original, _]) = cluster_to_copy_from();
    copy_folder(&mut cluster, original);
    goes_on(&mut cluster);
    let copied = cluster.hosts[original].identity;
    cluster.after(0, Event::Start(3));
    wait_until(&mut cluster, |c| c.hosts[3].identity.is_some());
    assert_eq!(cluster.hosts[3].identity, copied);
    wait_until(&mut cluster, |c| c.hosts[3].process.is_some() && c.hosts[3].identity != copied);
    goes_on(&mut cluster);
    // The original is let in again once it is the newer process.
    for _ in 0..2 {
        cluster.kill(original, false);
        cluster.after(10_000, Event::Start(original));
        run(&mut cluster, 2_000_000);
    }
    wait_until_whole(&mut cluster);
}

/// What an old copy of a folder can do, and nothing in the protocol can prevent (docs/operating.md says so): it votes
/// as its original, which confirmed a write since, while nobody who knows of that write is there. If this passes no
/// more, something new prevents it, and the page is out of date.
#[test]
fn an_old_copy_in_place_of_its_original_may_lose_what_that_confirmed() {
    let (mut cluster, [leader, original, third]) = cluster_to_copy_from();
    cluster.kill(original, false);
    copy_folder(&mut cluster, original);
    cluster.after(0, Event::Start(original));
    wait_until(&mut cluster, |c| c.hosts[original].process.is_some());
    run(&mut cluster, 1_000_000);
    let links = [leader, original].into_iter().flat_map(|h| [(h, third), (third, h)]);
    cluster.cuts.insert(u64::MAX, links.collect());
    goes_on(&mut cluster);
    cluster.kill(leader, false);
    cluster.kill(original, false);
    cluster.cuts.clear();
    cluster.after(0, Event::Start(3));
    let until = cluster.now + LONG;
    let lost = cluster.run_until(until).expect_err("the third node and the copy elect a leader without the write");
    assert_eq!(lost.invariant, "leader_completeness", "{}", lost.what);
}
