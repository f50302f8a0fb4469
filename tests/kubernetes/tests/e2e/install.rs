//! From nothing to a cluster that is written to and read, and back to nothing but the data.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use quorate_kubernetes::arena::{PATIENCE, RELEASE};
use quorate_kubernetes::{Arena, THREE_COPIES};
use quorate_operator::names;
use quorate_tests::eventually_in;

#[tokio::test(flavor = "multi_thread")]
async fn four_lines_make_a_cluster_that_every_service_reaches() {
    let arena = Arena::new("install").await;
    let started = Instant::now();
    arena.apply(THREE_COPIES).await.good("kubectl apply");
    arena.condition("demo", "Available", "True").await;
    println!("from kubectl apply to Available: {:.1} s", started.elapsed().as_secs_f64());
    let status = arena.settled("demo").await;
    println!("to all pods ready: {:.1} s", started.elapsed().as_secs_f64());
    assert_eq!(status.leader.as_deref(), Some("demo-leader-0"), "the preferred pod leads");
    assert_eq!(status.write_quorum, Some(2));
    assert_eq!(status.members.len(), 3, "{:?}", status.members);
    let tolerates = status.tolerates.expect("what is survived");
    assert_eq!((tolerates.writes, tolerates.failover), (1, 1));
    let (used, there) = zones(&arena).await;
    assert_eq!(used, there.min(3), "a zone that goes takes one copy with it");

    for service in ["demo", "demo-leader", "demo-peers"] {
        let path = format!("/v1/kv/by-{service}");
        // The leader's Service has an endpoint only once the operator has labelled the pod.
        eventually_in(PATIENCE, &format!("{service} takes a write"), async || {
            arena.through(service, "PUT", &path, service).await
        })
        .await;
        for reader in ["demo", "demo-leader", "demo-peers"] {
            let read = arena.through(reader, "GET", &path, "").await;
            assert_eq!(read.as_deref(), Ok(service), "written through {service}, read through {reader}");
        }
    }
    let said = arena.kubectl(&["get", "kvc", "demo", "--no-headers"]).await.good("kubectl get kvc");
    let columns: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(columns[..7], ["demo", "3", "3", "2", "demo-leader-0", "1", "True"], "kubectl get kvc: {said}");
    arena.told("demo", &["Forming", "ClusterFormed", "LeaderChanged", "Available", "Settled"]).await;
    arena.end().await;
}

/// In how many zones the pods of `demo` are, and how many have a machine that takes pods. A machine of no zone is one
/// by itself.
async fn zones(arena: &Arena) -> (usize, usize) {
    let nodes: Api<Node> = Api::all(arena.client.0.clone());
    let mut zones = BTreeMap::new();
    for node in nodes.list(&ListParams::default()).await.expect("nodes").items {
        let spec = node.spec.clone().unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        if spec.unschedulable != Some(true) && taints.iter().all(|t| t.effect == "PreferNoSchedule") {
            let zone = node.labels().get("topology.kubernetes.io/zone").cloned();
            zones.insert(node.name_any(), zone.unwrap_or_else(|| node.name_any()));
        }
    }
    let mut used = BTreeSet::new();
    for pod in names::pods("demo", 3) {
        let (_, machine) = arena.pod(&pod).await;
        used.insert(zones.get(&machine).unwrap_or_else(|| panic!("{pod} is on {machine}, which takes none")).clone());
    }
    (used.len(), zones.values().collect::<BTreeSet<_>>().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_test_writes_reads_and_cleans_up() {
    let arena = Arena::new("helm-test").await;
    arena.helm(&["test", RELEASE, "--timeout", "3m"]).await.good("helm test");
    arena.leaves("quorate-test", (0, 0)).await;
    arena.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uninstalling_leaves_the_definition_the_cluster_and_its_data() {
    let arena = Arena::with_demo("uninstall").await;
    let write = arena.through("demo", "PUT", "/v1/kv/kept", "still here").await;
    assert!(write.is_ok(), "{write:?}");

    arena.helm(&["uninstall", RELEASE, "--wait"]).await.good("helm uninstall");
    let definitions: Api<CustomResourceDefinition> = Api::all(arena.client.0.clone());
    assert!(definitions.get_opt("kvclusters.quorate.dev").await.unwrap().is_some(), "the definition stays");
    // A cluster does not need its operator to serve.
    assert_eq!(arena.through("demo", "GET", "/v1/kv/kept", "").await.as_deref(), Ok("still here"));

    // Deleted without an operator: the pods go by their owners, the volumes stay.
    arena.kubectl(&["delete", "kvc", "demo", "--wait"]).await.good("kubectl delete");
    arena.leaves("demo", (0, 3)).await;
    arena.end().await;
}
