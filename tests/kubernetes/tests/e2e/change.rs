//! The numbers of a running cluster change, its image is rolled, and it sleeps and wakes.

use std::time::Instant;

use kube::ResourceExt;
use kube::api::ListParams;
use quorate_kubernetes::arena::{PATIENCE, reason};
use quorate_kubernetes::clients::SILENCE_MAX;
use quorate_kubernetes::{Arena, Clients};
use quorate_tests::eventually_in;

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_the_write_quorum_and_the_number_of_copies_change() {
    let arena = Arena::with_demo("change").await;
    let clients = Clients::start(&arena, "demo", 3).await;

    for quorum in [3, 2] {
        let started = Instant::now();
        arena.patch("demo", &format!("{{\"writeQuorum\":{quorum}}}")).await;
        eventually_in(PATIENCE, &format!("the cluster reports W = {quorum}"), async || {
            match arena.status("demo").await?.write_quorum {
                Some(found) if found == quorum => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        println!("W = {quorum} after {:.1} s", started.elapsed().as_secs_f64());
        clients.more(20).await;
    }
    // The second time pods come back to volumes of nodes that have left.
    for replicas in [5, 3, 5, 3] {
        let started = Instant::now();
        let wanted = format!("--replicas={replicas}");
        arena.kubectl(&["scale", "kvc/demo", &wanted]).await.good("kubectl scale");
        let status = arena.settled("demo").await;
        println!("N = {replicas} after {:.1} s", started.elapsed().as_secs_f64());
        assert_eq!(status.members.len() as i32, replicas, "{:?}", status.members);
        assert_eq!(status.write_quorum, Some(2), "W stays what was asked for");
        clients.more(20).await;
    }
    assert_eq!(arena.leftovers("demo").await, Ok((3, 5)), "pods, and volumes, which are retained");
    clients.judged().await.silent_at_most(SILENCE_MAX);
    arena.told("demo", &["ScalingUp", "ScalingDown", "WriteQuorumChanged", "ConfigurationChanged", "Settled"]).await;
    arena.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_another_image_is_rolled_out() {
    let arena = Arena::with_demo("roll").await;
    let clients = Clients::start(&arena, "demo", 3).await;
    let image = super::upgrade::next_image();
    let started = Instant::now();
    arena.patch("demo", &format!("{{\"image\":\"{image}\"}}")).await;
    // Whoever looks meanwhile sees one pod away and not more.
    eventually_in(PATIENCE, "the rollout is over", async || {
        let status = arena.status("demo").await?;
        assert!(status.ready_replicas >= 2, "{status:#?}");
        if status.image.as_deref() == Some(&image) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    super::upgrade::rolled(&arena, "demo", &image).await;
    println!("the full rollout of 3 pods: {:.1} s", started.elapsed().as_secs_f64());
    clients.more(20).await;
    clients.judged().await.silent_at_most(SILENCE_MAX);
    let status = arena.settled("demo").await;
    assert_eq!(status.leader.as_deref(), Some("demo-leader-0"), "leadership is back where it prefers to live");
    arena.told("demo", &["RollingOut", "PodReplaced", "LeadershipTransferred", "LeaderChanged", "Settled"]).await;
    arena.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hibernated_cluster_has_no_pods_and_wakes_with_its_data() {
    let arena = Arena::with_demo("hibernate").await;
    // The volumes of pods that are scaled away go, and those of pods that sleep do not.
    arena.patch("demo", "{\"persistentVolumeClaimRetention\":{\"whenScaled\":\"Delete\"}}").await;
    let claims = async || {
        let claims = arena.claims().list(&ListParams::default()).await.expect("claims").items;
        claims.iter().map(|c| (c.name_any(), c.uid())).collect::<Vec<_>>()
    };
    eventually_in(PATIENCE, "the StatefulSets are told so", async || {
        let policies = "--output=jsonpath={.items[*].spec.persistentVolumeClaimRetentionPolicy.whenScaled}";
        let told = arena.kubectl(&["get", "sts", policies]).await;
        if told.out == "Delete Delete" { Ok(()) } else { Err(format!("{}{}", told.out, told.err)) }
    })
    .await;
    let before = arena.settled("demo").await.cluster_id;
    assert!(before.is_some(), "the cluster's id is recorded");
    arena.through("demo", "PUT", "/v1/kv/kept", "asleep").await.expect("a write");
    let volumes = claims().await;

    super::volumes::sleep(&arena).await;
    arena.condition("demo", "Available", "False").await;
    assert_eq!(reason(&arena.status("demo").await.unwrap(), "Available"), "Hibernated");

    arena.patch("demo", "{\"hibernated\":false}").await;
    let after = arena.settled("demo").await.cluster_id;
    assert_eq!(before, after, "it is the same cluster");
    assert_eq!(volumes, claims().await, "they are the same volumes");
    assert_eq!(arena.through("demo", "GET", "/v1/kv/kept", "").await.as_deref(), Ok("asleep"));
    arena.told("demo", &["Hibernated", "Waking", "Available", "Settled"]).await;
    arena.end().await;
}
