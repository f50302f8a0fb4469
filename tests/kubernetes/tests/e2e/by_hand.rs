//! What a person does by hand: stays the operator's hand with `paused`, and names the next leader where the policy leaves that to them.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use quorate_kubernetes::arena::{PATIENCE, is, reason};
use quorate_kubernetes::{Arena, Clients};
use quorate_operator::names;
use quorate_tests::eventually_in;

use crate::failover::kill;

/// Ten times the longest patience of a follower: whoever would stand for election on its own had its chance.
const NOBODY_STANDS: Duration = Duration::from_secs(10);

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
    clients.judged().await;
    arena.told("demo", &["Paused", "LeaderChanged", "Resumed", "ScalingUp", "WriteQuorumChanged"]).await;
    arena.end().await;
}

/// Role and term of a pod's node, as it says itself.
async fn node(arena: &Arena, pod: &str) -> Result<(String, i64), String> {
    let said = arena.says(pod, names::HTTP_PORT, "/v1/status").await?;
    let status: serde_json::Value = serde_json::from_str(&said).map_err(|e| e.to_string())?;
    let role = status["node"]["role"].as_str().ok_or("no role")?;
    Ok((role.to_owned(), status["term"].as_i64().ok_or("no term")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_manual_policy_nobody_takes_over_until_a_person_names_the_next_leader() {
    let arena = Arena::with_demo("manual").await;
    arena.patch("demo", "{\"failover\":\"Manual\"}").await;
    let before = arena.settled("demo").await;
    assert_eq!(before.leader.as_deref(), Some("demo-leader-0"));
    arena.through("demo", "PUT", "/v1/kv/kept", "all the while").await.expect("a write");
    let clients = Clients::start(&arena, "demo", 3).await;

    let (uid, _) = arena.pod("demo-leader-0").await;
    let killed = Instant::now();
    kill(&arena, "demo-leader-0").await;
    let status = eventually_in(PATIENCE, "the status says that nobody leads", async || {
        let status = arena.status("demo").await?;
        if reason(&status, "Available") == "NoLeader" { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!(is(&status, "Available", "False") && is(&status, "Quorate", "False"), "{status:?}");
    assert_eq!((&status.leader, &status.tolerates), (&None, &None), "{status:?}");
    assert_eq!(reason(&status, "Degraded"), "NoLeader");

    // Not even when the old leader is back, with all its data.
    let pods = ["demo-leader-0", "demo-follower-0", "demo-follower-1"];
    eventually_in(PATIENCE, "all three nodes answer, and a while has passed", async || {
        let pod = arena.pods().get("demo-leader-0").await.map_err(|e| e.to_string())?;
        if pod.uid().as_deref() == Some(&uid) {
            return Err("the old pod is still there".to_owned());
        }
        for pod in pods {
            node(&arena, pod).await?;
        }
        if killed.elapsed() >= NOBODY_STANDS { Ok(()) } else { Err("it has not passed".to_owned()) }
    })
    .await;
    for pod in pods {
        let (role, term) = node(&arena, pod).await.unwrap();
        assert_eq!((role.as_str(), Some(term)), ("follower", before.term), "{pod}");
    }
    let read = arena.says("demo-follower-0", names::HTTP_PORT, "/v1/kv/kept?consistency=local").await;
    assert_eq!(read.as_deref(), Ok("all the while"), "local reads go on");
    let status = arena.status("demo").await.unwrap();
    let says = status.conditions.iter().find(|c| c.type_ == "Progressing").expect("a condition").message.clone();
    assert!(says.contains(names::TRANSFER_ANNOTATION), "the status tells what to do: {says}");

    // As docs/kubernetes.md says.
    let named = format!("{}=demo-follower-1", names::TRANSFER_ANNOTATION);
    arena.kubectl(&["annotate", "kvc", "demo", &named]).await.good("kubectl annotate");
    let status = arena.settled("demo").await;
    assert_eq!(status.leader.as_deref(), Some("demo-follower-1"), "and nobody takes it back");
    println!("nobody led for {:.1} s, until a person said who", killed.elapsed().as_secs_f64());
    clients.more(20).await;
    clients.judged().await;
    arena.labelled("demo-follower-1").await;
    arena.told("demo", &["NoLeader", "FailoverByHand", "LeaderChanged", "TransferDone", "Recovered"]).await;
    let cluster = arena.clusters().get("demo").await.unwrap();
    let left = cluster.metadata.annotations.unwrap_or_default();
    assert!(!left.contains_key(names::TRANSFER_ANNOTATION), "the wish is fulfilled and forgotten: {left:?}");
    arena.end().await;
}
