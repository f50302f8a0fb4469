//! The numbers of a running cluster change, and it sleeps and wakes.

use std::time::{Duration, Instant};

use quorate_history::check;
use quorate_kubernetes::arena::PATIENCE;
use quorate_kubernetes::{Arena, Forward};
use quorate_tests::{Settings, Workload, eventually_in};

use super::THREE_COPIES;

async fn patch(arena: &Arena, spec: &str) {
    let patch = format!("{{\"spec\":{spec}}}");
    arena.kubectl(&["patch", "kvc", "demo", "--type", "merge", "-p", &patch]).await.good("kubectl patch");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_the_write_quorum_and_the_number_of_copies_change() {
    let arena = Arena::new("change").await;
    arena.apply(THREE_COPIES).await.good("kubectl apply");
    arena.settled("demo").await;
    let forwards = arena.forwards(&["demo-leader-0", "demo-follower-0", "demo-follower-1"]).await;
    let targets: Vec<_> = forwards.iter().map(Forward::target).collect();
    let settings =
        Settings { http_clients: 3, redis_clients: 1, pause: Duration::from_millis(20), ..Settings::default() };
    let workload = Workload::start(&targets, &settings);
    workload.more(20).await;

    for quorum in [3, 2] {
        let started = Instant::now();
        patch(&arena, &format!("{{\"writeQuorum\":{quorum}}}")).await;
        eventually_in(PATIENCE, &format!("the cluster reports W = {quorum}"), async || {
            match arena.status("demo").await?.write_quorum {
                Some(found) if found == quorum => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        println!("W = {quorum} after {:.1} s", started.elapsed().as_secs_f64());
        workload.more(20).await;
    }
    for replicas in [5, 3] {
        let started = Instant::now();
        let wanted = format!("--replicas={replicas}");
        arena.kubectl(&["scale", "kvc/demo", &wanted]).await.good("kubectl scale");
        let status = arena.settled("demo").await;
        println!("N = {replicas} after {:.1} s", started.elapsed().as_secs_f64());
        assert_eq!(status.members.len() as i32, replicas, "{:?}", status.members);
        assert_eq!(status.write_quorum, Some(2), "W stays what was asked for");
        workload.more(20).await;
    }
    let history = workload.stop().await;
    if let Err(violation) = check(&history.operations) {
        panic!("{violation}");
    }
    arena.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hibernated_cluster_has_no_pods_and_wakes_with_its_data() {
    let arena = Arena::new("hibernate").await;
    arena.apply(THREE_COPIES).await.good("kubectl apply");
    let before = arena.settled("demo").await.cluster_id;
    assert!(before.is_some(), "the cluster's id is recorded");
    arena.through("demo", "PUT", "/v1/kv/kept", "asleep").await.expect("a write");

    patch(&arena, "{\"hibernated\":true}").await;
    eventually_in(PATIENCE, "the pods go and the volumes stay", async || match arena.leftovers("demo").await? {
        (0, 3) => Ok(()),
        (pods, claims) => Err(format!("{pods} pods and {claims} claims")),
    })
    .await;
    arena.condition("demo", "Available", "False").await;

    patch(&arena, "{\"hibernated\":false}").await;
    let after = arena.settled("demo").await.cluster_id;
    assert_eq!(before, after, "it is the same cluster");
    assert_eq!(arena.through("demo", "GET", "/v1/kv/kept", "").await.as_deref(), Ok("asleep"));
    arena.end().await;
}
