//! The operator's hand is stayed: `paused`.

use quorate_kubernetes::arena::{PATIENCE, is, reason};
use quorate_kubernetes::clients::SILENCE_MAX;
use quorate_kubernetes::{Arena, Clients};
use quorate_tests::eventually_in;

use crate::failover::kill;

/// What is asked of the StatefulSets, and how often that changed.
async fn asked(arena: &Arena) -> String {
    let what = "--output=jsonpath={range .items[*]}{.metadata.name} {.metadata.generation} {.spec.replicas} {end}";
    arena.kubectl(&["get", "sts", what]).await.good("kubectl get sts")
}

#[tokio::test(flavor = "multi_thread")]
async fn while_paused_nothing_is_changed_and_the_status_still_tells_the_truth() {
    let arena = Arena::with_demo("paused").await;
    let clients = Clients::start(&arena, "demo", 3).await;
    let before = asked(&arena).await;
    arena.patch("demo", "{\"paused\":true,\"replicas\":4,\"writeQuorum\":3}").await;
    arena.condition("demo", "Paused", "True").await;

    let (uid, _) = arena.pod("demo-leader-0").await;
    kill(&arena, "demo-leader-0").await;
    let leader = eventually_in(PATIENCE, "the status names another leader", async || {
        let status = arena.status("demo").await?;
        let other =
            status.leader.clone().filter(|leader| leader != "demo-leader-0" && is(&status, "Available", "True"));
        other.ok_or_else(|| format!("{status:?}"))
    })
    .await;
    println!("{leader} leads meanwhile");
    clients.more(20).await;
    // The pod is Kubernetes' to bring back, and the leader's label the operator's to keep right.
    arena.replaced("demo-leader-0", &uid).await;
    arena.labelled("demo-leader-0").await;
    let status = arena.status("demo").await.unwrap();
    assert_eq!((status.replicas, status.write_quorum, status.members.len()), (3, Some(2), 3), "{status:?}");
    assert_eq!(reason(&status, "Progressing"), "Paused", "{status:?}");
    assert_eq!(asked(&arena).await, before, "nothing is asked of Kubernetes");

    arena.patch("demo", "{\"paused\":false}").await;
    let status = arena.settled("demo").await;
    assert_eq!((status.write_quorum, status.members.len()), (Some(3), 4), "{status:?}");
    clients.more(20).await;
    clients.judged().await.silent_at_most(SILENCE_MAX);
    arena.told("demo", &["Paused", "LeaderChanged", "Resumed", "ScalingUp", "WriteQuorumChanged"]).await;
    arena.end().await;
}
