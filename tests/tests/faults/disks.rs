//! Disks that are slow, stand still, fail or are full.

use std::time::{Duration, Instant};

use quorate_tests::load::Load;
use quorate_tests::tracer::{Tracer, Trouble};
use quorate_tests::{Answer, Arena, Setup};
use reqwest::Method;

/// Much longer than a write takes.
const SLOW: Duration = Duration::from_millis(400);

/// Seconds: several slow syncs in a row, and whatever else holds a busy machine up, cost no leader its office.
const STEADY: u64 = 5;

/// Longer than any leader may owe its followers a sync.
const STALLED: Duration = Duration::from_secs(4);

/// The middle of eleven writes, one after the other.
async fn median(arena: &Arena, n: usize) -> Duration {
    let mut times = Vec::new();
    for number in 0..11 {
        let begun = Instant::now();
        arena.cluster.nodes[n].put(&format!("/v1/kv/timed-{number}"), "v").await.expect(200);
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[5]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_a_slow_disk_drags_nobody_as_tigerbeetle_warns() {
    let name = "a_follower_with_a_slow_disk_drags_nobody_as_tigerbeetle_warns";
    let mut arena = Arena::start(name, Setup::new(3, 2).elections_after(STEADY)).await;
    let leader = arena.cluster.leader_number().await;
    arena.note("a follower's disk becomes slow");
    let tracer = Tracer::attach(&arena.cluster.nodes[(leader + 1) % 3], Trouble::SlowSync(SLOW)).await;
    let slowed = median(&arena, leader).await;
    drop(tracer);
    println!("{name}: a write takes {} ms while every sync of one follower takes 400 ms", slowed.as_millis());
    // A write that waited for that disk would have taken as long, and as a rule twice as long.
    assert!(slowed < SLOW, "{slowed:?}");
    arena.cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledgement_leaves_before_the_disks_have_the_write_as_it_did_in_nats_jetstream() {
    let name = "no_acknowledgement_leaves_before_the_disks_have_the_write_as_it_did_in_nats_jetstream";
    let mut arena = Arena::start(name, Setup::new(3, 3).elections_after(STEADY)).await;
    let leader = arena.cluster.leader_number().await;
    for hurt in 0..3 {
        arena.note(format_args!("the disk of node{} becomes slow", hurt + 1));
        let tracer = Tracer::attach(&arena.cluster.nodes[hurt], Trouble::SlowSync(SLOW)).await;
        for number in 0..3 {
            let begun = Instant::now();
            let path = format!("/v1/kv/{hurt}-{number}");
            arena.cluster.nodes[leader].put(&path, "v").await.expect(200);
            assert!(begun.elapsed() >= SLOW, "all three copies were synced after {:?}?", begun.elapsed());
        }
        drop(tracer);
    }
    arena.cluster.converged().await;
}

/// Hurts the leader's disk for good, or until the others have taken over; then it comes back.
async fn the_others_take_over(name: &'static str, setup: Setup, trouble: Trouble, ends: bool) {
    let mut arena = Arena::start(name, setup).await;
    let (clients, load) = (arena.clients(), Load::start(&arena.cluster, 3));
    load.more(50).await;
    let old = arena.cluster.leader_number().await;
    let term = arena.cluster.nodes[old].status().await.term;
    arena.note(format_args!("{trouble:?} at node{}, which leads", old + 1));
    let tracer = Tracer::attach(&arena.cluster.nodes[old], trouble).await;
    let hurt = Instant::now();
    let other = (old + 1) % 3;
    quorate_tests::eventually("another node leads", || async {
        let status = arena.cluster.nodes[other].try_status().await?;
        let by_another = status.leader.as_ref().is_some_and(|l| *l != arena.cluster.nodes[old].name);
        if by_another && status.term > term { Ok(()) } else { Err(format!("{:?} leads", status.leader)) }
    })
    .await;
    println!("{name}: another node led after {} ms", hurt.elapsed().as_millis());
    if ends {
        let status = arena.cluster.nodes[old].ended().await;
        assert!(!status.success(), "a node whose disk failed ends as one that failed: {status}");
        let log = arena.cluster.nodes[old].log_tail();
        println!("{name}: its last line: {}", log.lines().last().unwrap_or_default());
    }
    load.more(50).await;
    drop(tracer);
    arena.judge(clients, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stands_still_gives_way() {
    let trouble = Trouble::SlowSync(STALLED);
    the_others_take_over("a_leader_whose_disk_stands_still_gives_way", Setup::new(3, 2), trouble, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_the_node_and_is_not_tried_again_as_postgresql_and_cockroachdb_did() {
    let name = "a_failed_sync_ends_the_node_and_is_not_tried_again_as_postgresql_and_cockroachdb_did";
    the_others_take_over(name, Setup::new(3, 2), Trouble::FailingSync, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_refuses_a_write_for_want_of_space_ends_and_loses_nothing() {
    let name = "a_leader_whose_disk_refuses_a_write_for_want_of_space_ends_and_loses_nothing";
    the_others_take_over(name, Setup::new(3, 2), Trouble::NoSpace, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_fails_costs_its_copy_and_nothing_else() {
    let name = "a_follower_whose_disk_fails_costs_its_copy_and_nothing_else";
    let mut arena = Arena::start(name, Setup::new(3, 2).elections_after(STEADY)).await;
    let leader = arena.cluster.leader_number().await;
    let victim = (leader + 1) % 3;
    arena.note(format_args!("node{} cannot sync", victim + 1));
    let tracer = Tracer::attach(&arena.cluster.nodes[victim], Trouble::FailingSync).await;
    for number in 0..20 {
        let request = arena.cluster.nodes[leader].request(Method::PUT, &format!("/v1/kv/k{number}")).body("v");
        Answer::of(request).await.expect(200);
    }
    assert!(!arena.cluster.nodes[victim].ended().await.success(), "it ends as one that failed");
    drop(tracer);
    arena.calm().await;
    assert_eq!(arena.cluster.converged().await.lines().count(), 20);
}
