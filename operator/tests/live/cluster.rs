//! Clusters of real nodes: what becomes of them when the spec changes or something breaks, and what the status says meanwhile.

use std::collections::HashMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use quorate_operator::crd::KVClusterStatus;
use quorate_operator::names;
use serde_json::json;

use crate::machine::MISSING_IMAGE;
use crate::support::{World, is, reason, sorted, until};

async fn uids(world: &World) -> HashMap<String, String> {
    let pods: Api<Pod> = world.api();
    let pods = pods.list(&ListParams::default()).await.expect("pods");
    pods.items.iter().map(|p| (p.name_any(), p.uid().expect("a uid"))).collect()
}

/// The volume claims and their identities, those that are going left out.
async fn claims(world: &World) -> HashMap<String, String> {
    let claims: Api<PersistentVolumeClaim> = world.api();
    let claims = claims.list(&ListParams::default()).await.expect("claims");
    let staying = claims.items.iter().filter(|c| c.metadata.deletion_timestamp.is_none());
    staying.map(|c| (c.name_any(), c.uid().expect("a uid"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_lines_become_a_cluster_that_takes_writes_and_says_who_leads() {
    let world = World::new("create").await;
    world.create("demo", json!({"replicas": 3})).await;
    let status = world.settled("demo").await;

    assert_eq!(status.leader.as_deref(), Some("demo-leader-0"));
    assert_eq!((status.replicas, status.ready_replicas, status.write_quorum), (3, 3, Some(2)));
    assert_eq!(
        sorted(status.members.iter().map(|m| m.pod.as_str())),
        ["demo-follower-0", "demo-follower-1", "demo-leader-0"]
    );
    assert!(status.members.iter().all(|m| m.state == "InSync"), "{status:#?}");
    assert_eq!(status.tolerates.map(|t| (t.writes, t.failover)), Some((1, 1)));
    assert!(is(&status, "Quorate", "True"));

    for pod in ["demo-leader-0", "demo-follower-0", "demo-follower-1"] {
        world.write(pod, pod, "value").await;
        assert_eq!(world.read("demo-follower-1", pod).await, "value");
    }

    let settings: Api<ConfigMap> = world.api();
    until("the cluster's id is handed to the nodes", || async {
        let data = settings.get("demo-settings").await.ok()?.data?;
        (data.get("CLUSTER_ID") == status.cluster_id.as_ref()).then_some(())
    })
    .await;
    let pods: Api<Pod> = world.api();
    let leaders = pods.list(&ListParams::default().labels("quorate.dev/role=leader")).await.expect("pods");
    assert_eq!(leaders.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["demo-leader-0"]);
    let events = world.events("demo").await;
    for expected in ["Forming", "ClusterFormed", "LeaderChanged", "Available", "Settled"] {
        assert!(events.iter().any(|e| e == expected), "{expected} is not among {events:?}");
    }
    assert_eq!(world.machine.starts(), 3, "no node was started twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_quorum_changes_without_a_restart_and_by_hand_not_at_all() {
    let world = World::new("quorum").await;
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    let before = uids(&world).await;
    for write in [3, 1, 2] {
        world.patch("demo", json!({"spec": {"writeQuorum": write}})).await;
        world.until("demo", "the write quorum is in force", |s| s.write_quorum == Some(write)).await;
        world.settled("demo").await;
    }
    assert_eq!(uids(&world).await, before);
    assert_eq!(world.machine.starts(), 3);

    let secrets: Api<Secret> = world.api();
    let secret = secrets.get("demo-admin").await.expect("the secret").data.expect("data");
    let token = String::from_utf8(secret[names::TOKEN_KEY].0.clone()).expect("text");
    let answer = reqwest::Client::new()
        .put(format!("{}/v1/cluster/config", world.machine.url("demo-leader-0")))
        .bearer_auth(token)
        .header("if-match", "\"1\"")
        .body(r#"{"write_quorum":1}"#)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 409);
    let text = answer.text().await.expect("text");
    assert!(text.contains(&format!("managed by KVCluster {}/demo", world.namespace)), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_and_shrinks_through_kubectl_scale_and_keeps_what_was_written() {
    let world = World::new("scale").await;
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    world.write("demo-leader-0", "early", "1").await;
    let before = uids(&world).await;

    let scale = async |replicas: i32| {
        let patch = json!({"spec": {"replicas": replicas}});
        world.clusters().patch_scale("demo", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("scaled");
    };
    scale(5).await;
    let status = world
        .until("demo", "there are five voters", |s| s.members.iter().filter(|m| m.role != "learner").count() == 5)
        .await;
    assert_eq!(status.leader.as_deref(), Some("demo-leader-0"));
    let status = world.settled("demo").await;
    assert_eq!(status.write_quorum, Some(3), "a majority of five");
    assert_eq!(world.read("demo-follower-3", "early").await, "1");
    world.write("demo-follower-3", "late", "2").await;

    scale(3).await;
    world.until("demo", "there are three pods", |s| s.replicas == 3 && s.members.len() == 3).await;
    let status = world.settled("demo").await;
    assert_eq!(status.write_quorum, Some(2));
    assert_eq!(uids(&world).await, before, "the first three pods were never touched");
    for (key, value) in [("early", "1"), ("late", "2")] {
        assert_eq!(world.read("demo-follower-0", key).await, value);
    }

    // The volumes of the pods that went are still there, with a membership that ended.
    scale(5).await;
    world
        .until("demo", "there are five voters again", |s| s.members.iter().filter(|m| m.role != "learner").count() == 5)
        .await;
    world.settled("demo").await;
    assert_eq!(world.read("demo-follower-3", "late").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_takes_one_pod_at_a_time_and_the_leaders_last() {
    let world = World::new("rollout").await;
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    world.write("demo-leader-0", "k", "v").await;
    let before = uids(&world).await;

    world.patch("demo", json!({"spec": {"image": "quorate:next"}})).await;
    let looked = world.until("demo", "the patch is looked at", |s| s.observed_generation == Some(2)).await;
    assert!(is(&looked, "Progressing", "True"), "all is as wanted, says what has changed nothing yet: {looked:#?}");
    assert_ne!(looked.image.as_deref(), Some("quorate:next"), "no pod runs it yet: {looked:#?}");
    world.until("demo", "the rollout is under way", |s| reason(s, "Progressing") == "RollingOut").await;
    let mut order: Vec<String> = Vec::new();
    until("all pods are new", async || {
        let now = uids(&world).await;
        for (pod, uid) in &now {
            if before[pod] != *uid && !order.contains(pod) {
                order.push(pod.clone());
            }
        }
        let status = world.status("demo").await;
        assert!(status.ready_replicas >= 2, "two of three stay ready: {status:#?}");
        (order.len() == 3).then_some(())
    })
    .await;
    assert_eq!(order, ["demo-follower-1", "demo-follower-0", "demo-leader-0"]);
    let status = world.settled("demo").await;
    assert_eq!(status.image.as_deref(), Some("quorate:next"));
    assert_eq!(world.read("demo-leader-0", "k").await, "v");
    assert_eq!(world.machine.starts(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_fails_stops_at_its_first_pod_and_a_better_template_mends_it() {
    let world = World::new("badimage").await;
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    world.patch("demo", json!({"spec": {"image": MISSING_IMAGE}})).await;
    let status = world.until("demo", "the stuck pod is told", |s| reason(s, "Degraded") == "PodStuck").await;
    let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded").expect("a condition");
    assert!(degraded.message.contains("ImagePullBackOff"), "{degraded:?}");
    assert!(is(&status, "Available", "True"), "two of three serve on");
    world.write("demo-leader-0", "k", "v").await;
    let pods: Api<Pod> = world.api();
    let list = pods.list(&ListParams::default()).await.expect("pods");
    let missing = list
        .items
        .iter()
        .filter(|p| p.spec.as_ref().is_some_and(|s| s.containers[0].image.as_deref() == Some(MISSING_IMAGE)));
    assert_eq!(missing.count(), 1);

    world.patch("demo", json!({"spec": {"image": "quorate:better"}})).await;
    world.until("demo", "all pods have the better image", |s| s.image.as_deref() == Some("quorate:better")).await;
    world.settled("demo").await;
    assert_eq!(world.read("demo-follower-0", "k").await, "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_does_not_start_is_mended_by_a_better_template() {
    let world = World::new("badcopy").await;
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    world.patch("demo", json!({"spec": {"replicas": 4, "image": MISSING_IMAGE}})).await;
    let says = |s: &KVClusterStatus| {
        let message = |kind| s.conditions.iter().find(|c| c.type_ == kind).map_or("", |c| &c.message);
        message("Progressing").contains("demo-follower-2") && message("Degraded").contains("ImagePullBackOff")
    };
    let status = world.until("demo", "the stuck pod is told", says).await;
    assert!(is(&status, "Available", "True"), "three of three serve on: {status:#?}");
    world.patch("demo", json!({"spec": {"image": "quorate:better"}})).await;
    let better = |s: &KVClusterStatus| s.members.len() == 4 && s.image.as_deref() == Some("quorate:better");
    world.until("demo", "there are four, of the better image", better).await;
    world.settled("demo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hibernated_cluster_has_no_pods_and_wakes_with_its_data() {
    let world = World::new("hibernate").await;
    // The volumes of pods that are scaled away go, and those of pods that sleep do not.
    let retention = json!({"whenScaled": "Delete", "whenDeleted": "Delete"});
    world.create("demo", json!({"replicas": 3, "persistentVolumeClaimRetention": retention})).await;
    let id = world.settled("demo").await.cluster_id;
    world.write("demo-leader-0", "k", "v").await;
    let before = claims(&world).await;
    world.patch("demo", json!({"spec": {"hibernated": true}})).await;
    let status = world.until("demo", "it sleeps", |s| reason(s, "Progressing") == "Hibernated").await;
    assert_eq!(status.replicas, 0);
    assert!(is(&status, "Available", "False") && is(&status, "Degraded", "False"), "{status:#?}");
    until("no claim waits for a pod to go", async || {
        let claims: Api<PersistentVolumeClaim> = world.api();
        let claims = claims.list(&ListParams::default()).await.ok()?;
        claims.items.iter().all(|c| c.owner_references().iter().all(|o| o.kind == "StatefulSet")).then_some(())
    })
    .await;
    world.patch("demo", json!({"spec": {"hibernated": false}})).await;
    let status = world.settled("demo").await;
    assert_eq!(status.cluster_id, id);
    assert_eq!(claims(&world).await, before, "they are the same volumes");
    assert_eq!(world.read("demo-follower-0", "k").await, "v");
    let sets: Api<StatefulSet> = world.api();
    until("scaled away means gone again", async || {
        let sets = sets.list(&ListParams::default()).await.ok()?;
        let policy = |s: &StatefulSet| s.spec.as_ref()?.persistent_volume_claim_retention_policy.clone()?.when_scaled;
        sets.items.iter().all(|s| policy(s).as_deref() == Some("Delete")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_made_smaller_in_its_sleep_wakes_whole_and_then_shrinks() {
    let world = World::new("shrunk").await;
    // With W = 1 none of the copies may be missing when a leader is elected.
    let spec = json!({"replicas": 4, "writeQuorum": 1, "persistentVolumeClaimRetention": {"whenScaled": "Delete"}});
    world.create("demo", spec).await;
    world.settled("demo").await;
    world.write("demo-leader-0", "k", "v").await;
    let before = claims(&world).await;
    world.patch("demo", json!({"spec": {"hibernated": true}})).await;
    world.until("demo", "it sleeps", |s| reason(s, "Progressing") == "Hibernated").await;
    world.patch("demo", json!({"spec": {"hibernated": false, "replicas": 2}})).await;
    world.until("demo", "there are two", |s| s.replicas == 2 && s.members.len() == 2).await;
    world.settled("demo").await;
    assert_eq!(world.read("demo-follower-0", "k").await, "v");
    let left = until("the volumes of those that left are gone, for that is what the spec says", async || {
        Some(claims(&world).await).filter(|claims| claims.len() == 2)
    })
    .await;
    assert!(left.iter().all(|(name, uid)| before[name] == *uid), "{left:?} of {before:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_paused_nothing_is_changed_and_the_status_still_tells_the_truth() {
    let world = World::new("paused").await;
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    world.patch("demo", json!({"spec": {"paused": true, "replicas": 4, "image": "quorate:next"}})).await;
    let status = world.until("demo", "it is paused", |s| is(s, "Paused", "True")).await;
    assert_eq!(status.replicas, 3);
    world.machine.hold("demo-leader-0");
    let status =
        world.until("demo", "another leads", |s| s.leader.as_deref().is_some_and(|l| l != "demo-leader-0")).await;
    assert!(is(&status, "Available", "True"));
    let sets: Api<StatefulSet> = world.api();
    let followers = sets.get("demo-follower").await.expect("the set").spec.expect("a spec");
    assert_eq!(followers.replicas, Some(2));
    world.machine.release("demo-leader-0");
    world.patch("demo", json!({"spec": {"paused": false}})).await;
    world.until("demo", "there are four", |s| s.members.len() == 4 && s.image.as_deref() == Some("quorate:next")).await;
    world.settled("demo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_volume_comes_back_in_its_own_place() {
    let world = World::new("lostdisk").await;
    world.create("demo", json!({"replicas": 3})).await;
    let before = world.settled("demo").await;
    world.write("demo-leader-0", "k", "v").await;
    for pod in ["demo-follower-1", "demo-leader-0"] {
        let old = before.members.iter().find(|m| m.pod == pod).expect("a member").id.clone();
        world.machine.wipe(pod);
        world
            .until("demo", "another disk has the place", |s| {
                s.members.len() == 3 && s.members.iter().all(|m| m.id != old && m.role != "learner")
            })
            .await;
        let status = world.settled("demo").await;
        assert_eq!(status.cluster_id, before.cluster_id);
        assert_eq!(world.read(pod, "k").await, "v");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lost_all_its_volumes_is_reported_and_never_formed_anew() {
    let world = World::new("alllost").await;
    world.create("demo", json!({"replicas": 3})).await;
    let before = world.settled("demo").await;
    let pods = ["demo-leader-0", "demo-follower-0", "demo-follower-1"];
    for pod in pods {
        world.machine.hold(pod);
    }
    world.until("demo", "it is away", |s| is(s, "Available", "False")).await;
    for pod in pods {
        world.machine.wipe(pod);
        world.machine.release(pod);
    }
    let status = world.until("demo", "the loss is told", |s| reason(s, "Degraded") == "DataLost").await;
    assert_eq!(status.cluster_id, before.cluster_id);
    assert_eq!(reason(&status, "Available"), "DataLost");
    let answer =
        reqwest::Client::new().put(format!("{}/v1/kv/k", world.machine.url("demo-leader-0"))).body("v").send().await;
    assert_eq!(answer.expect("an answer").status(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_manual_policy_a_person_names_the_next_leader() {
    let world = World::new("manual").await;
    // Patient: a leader that loses its turn on a busy machine would be gone until somebody names the next.
    let patient = json!({"heartbeat": "200ms", "timeout": "2s-3s"});
    world.create("demo", json!({"replicas": 3, "failover": "Manual", "election": patient})).await;
    world.settled("demo").await;
    world.write("demo-leader-0", "k", "v").await;
    world.machine.hold("demo-leader-0");
    let status = world.until("demo", "nobody leads", |s| reason(s, "Available") == "NoLeader").await;
    let progress = status.conditions.iter().find(|c| c.type_ == "Progressing").expect("a condition");
    assert!(progress.message.contains(names::TRANSFER_ANNOTATION), "{progress:?}");

    let annotate = json!({"metadata": {"annotations": {names::TRANSFER_ANNOTATION: "demo-follower-1"}}});
    world.patch("demo", annotate).await;
    world.until("demo", "the named pod leads", |s| s.leader.as_deref() == Some("demo-follower-1")).await;
    assert_eq!(world.read("demo-follower-0", "k").await, "v");
    world.machine.release("demo-leader-0");
    let status = world.settled("demo").await;
    assert_eq!(status.leader.as_deref(), Some("demo-follower-1"), "nobody takes it back");
    let cluster = world.clusters().get("demo").await.expect("it is there");
    assert!(!cluster.annotations().contains_key(names::TRANSFER_ANNOTATION), "the wish is fulfilled and forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_refuses_is_told_in_its_words_until_it_is_taken() {
    let world = World::new("refused").await;
    // With one copy a write, all three must be heard to elect a leader, so that none hands over while one is away.
    world.create("demo", json!({"replicas": 3, "writeQuorum": 1})).await;
    world.settled("demo").await;
    world.machine.hold("demo-follower-1");
    world.until("demo", "it is away", |s| reason(s, "Degraded") == "MembersAway").await;
    world.patch("demo", json!({"metadata": {"annotations": {names::TRANSFER_ANNOTATION: "demo-follower-0"}}})).await;
    let refused = |s: &KVClusterStatus| {
        let progress = s.conditions.iter().find(|c| c.reason == "MovingLeadership");
        progress.is_some_and(|c| {
            let begins = "leadership moves to demo-follower-0; refused for now: transfer of leadership to demo-follower-0: http://";
            c.message.starts_with(begins) && c.message.contains("refused (change_refused): 2 of the 3 copies needed")
        })
    };
    let status = world.until("demo", "the refusal is told", refused).await;
    assert_eq!(reason(&status, "Degraded"), "MembersAway", "it is not for good: {status:#?}");
    world.machine.release("demo-follower-1");
    world.until("demo", "it leads", |s| s.leader.as_deref() == Some("demo-follower-0")).await;
    world.settled("demo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_leader_is_replaced_and_the_label_follows() {
    let world = World::new("failover").await;
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    world.machine.hold("demo-leader-0");
    let status = world
        .until("demo", "another leads", |s| {
            s.leader.as_deref().is_some_and(|l| l != "demo-leader-0") && is(s, "Available", "True")
        })
        .await;
    world.until("demo", "the absent one is told", |s| reason(s, "Degraded") == "MembersAway").await;
    let leader = status.leader.expect("a leader");
    let pods: Api<Pod> = world.api();
    until("the label is on the new leader alone", || async {
        let labelled = pods.list(&ListParams::default().labels("quorate.dev/role=leader")).await.ok()?;
        (labelled.items.len() == 1 && labelled.items[0].name_any() == leader).then_some(())
    })
    .await;
    world.write(&leader, "k", "v").await;
    world.machine.release("demo-leader-0");
    let status = world
        .until("demo", "leadership is back where it prefers to live", |s| s.leader.as_deref() == Some("demo-leader-0"))
        .await;
    assert!(status.term > Some(1));
    world.settled("demo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_needs_no_operator_and_a_new_one_finds_what_happened() {
    let mut world = World::new("absent").await;
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    world.operator = None;
    world.machine.hold("demo-leader-0");
    world.write("demo-follower-0", "k", "v").await;
    world.start_operator();
    world
        .until("demo", "the status names the new leader", |s| {
            s.leader.as_deref().is_some_and(|l| l.starts_with("demo-follower")) && is(s, "Degraded", "True")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_grow_without_a_pod_being_touched() {
    let world = World::new("grow").await;
    world
        .create(
            "demo",
            json!({
                "replicas": 3, "storage": {"size": "1Gi", "storageClassName": crate::machine::STORAGE_CLASS},
                // The claims belong to StatefulSets that go and come back.
                "persistentVolumeClaimRetention": {"whenDeleted": "Delete"},
            }),
        )
        .await;
    world.settled("demo").await;
    let before = (uids(&world).await, claims(&world).await);
    world.machine.volumes_grow(false);
    world.patch("demo", json!({"spec": {"storage": {"size": "2Gi"}}})).await;
    let api: Api<PersistentVolumeClaim> = world.api();
    let sets: Api<StatefulSet> = world.api();
    until("claims and templates ask for more", || async {
        let size = |claim: &PersistentVolumeClaim| {
            Some(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.clone())
        };
        let claims = api.list(&ListParams::default()).await.ok()?;
        let sets = sets.list(&ListParams::default()).await.ok()?;
        let templates = sets.items.iter().filter_map(|s| s.spec.as_ref()?.volume_claim_templates.as_ref()?.first());
        let all: Vec<Option<String>> = claims.items.iter().chain(templates).map(size).collect();
        (all.len() == 5 && all.iter().all(|s| s.as_deref() == Some("2Gi"))).then_some(())
    })
    .await;
    let says = "data-demo-follower-0 has 1Gi of the 2Gi asked for";
    let waits = |s: &KVClusterStatus| s.conditions.iter().any(|c| c.reason == "GrowingVolumes" && c.message == says);
    let status = world.until("demo", "what has not grown is waited for", waits).await;
    assert!(is(&status, "Available", "True") && is(&status, "Degraded", "False"), "{status:#?}");
    world.machine.volumes_grow(true);
    world.settled("demo").await;
    until("the claims belong to the sets that came back", async || {
        let sets = sets.list(&ListParams::default()).await.ok()?;
        let sets: Vec<String> = sets.items.iter().filter_map(ResourceExt::uid).collect();
        let claims = api.list(&ListParams::default()).await.ok()?;
        let owned = |c: &PersistentVolumeClaim| c.owner_references().iter().any(|o| sets.contains(&o.uid));
        (claims.items.len() == 3 && claims.items.iter().all(owned)).then_some(())
    })
    .await;
    assert_eq!((uids(&world).await, claims(&world).await), before, "neither pods nor volumes are others");
    assert!(world.events("demo").await.iter().any(|e| e == "VolumeGrown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_that_cannot_grow_are_told_and_hold_up_no_other_change() {
    let world = World::new("rigid").await;
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    world.patch("demo", json!({"spec": {"storage": {"size": "2Gi"}}})).await;
    let status = world.until("demo", "the refusal is told", |s| reason(s, "Degraded") == "Trouble").await;
    let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded").expect("a condition");
    let says = "growth of volume claim data-demo-follower-0: persistentvolumeclaims \"data-demo-follower-0\" is forbidden: only dynamically";
    assert!(degraded.message.starts_with(says) && !degraded.message.contains("Status {"), "{degraded:?}");

    world.patch("demo", json!({"spec": {"image": "quorate:next", "replicas": 4, "writeQuorum": 3}})).await;
    let status = world
        .until("demo", "everything else is as wanted", |s| {
            s.image.as_deref() == Some("quorate:next") && s.write_quorum == Some(3) && s.ready_replicas == 4
        })
        .await;
    assert_eq!(reason(&status, "Degraded"), "Trouble", "it is still told: {status:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_leaves_only_the_volumes_and_comes_back_from_them() {
    let world = World::new("delete").await;
    world.create("demo", json!({"replicas": 3})).await;
    let id = world.settled("demo").await.cluster_id;
    world.write("demo-leader-0", "k", "v").await;
    world.clusters().delete("demo", &DeleteParams::default()).await.expect("deleted");
    let pods: Api<Pod> = world.api();
    let sets: Api<StatefulSet> = world.api();
    let maps: Api<ConfigMap> = world.api();
    until("everything but the volumes is gone", || async {
        let all = ListParams::default().labels("quorate.dev/cluster=demo");
        let left = pods.list(&all).await.ok()?.items.len()
            + sets.list(&all).await.ok()?.items.len()
            + maps.list(&all).await.ok()?.items.len();
        (left == 0).then_some(())
    })
    .await;
    let claims: Api<PersistentVolumeClaim> = world.api();
    assert_eq!(claims.list(&ListParams::default()).await.expect("claims").items.len(), 3);

    world.create("demo", json!({"replicas": 3})).await;
    let status = world.settled("demo").await;
    assert_eq!(status.cluster_id, id, "it is the same data");
    assert_eq!(world.read("demo-follower-0", "k").await, "v");

    // At once, beside what is still to be collected: no pod keeps the token of a Secret that goes.
    world.clusters().delete("demo", &DeleteParams::default()).await.expect("deleted");
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    world.patch("demo", json!({"spec": {"writeQuorum": 3}})).await;
    world.until("demo", "the operator is heard", |s| s.write_quorum == Some(3)).await;
    assert_eq!(world.read("demo-follower-0", "k").await, "v");
}
