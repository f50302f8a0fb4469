//! What the API server says to good and bad manifests.

use kube::api::{Api, Patch, PatchParams, PostParams};
use quorate_operator::crd::KVCluster;
use serde_json::{Value, json};

use crate::support::{client, drop_namespace, namespace};

fn manifest(name: &str, spec: Value) -> KVCluster {
    serde_json::from_value(
        json!({"apiVersion": "quorate.dev/v1alpha1", "kind": "KVCluster", "metadata": {"name": name}, "spec": spec}),
    )
    .expect("a KVCluster")
}

#[tokio::test]
async fn bad_manifests_are_refused_with_a_sentence_that_helps() {
    let client = client().await;
    let namespace = namespace(&client, "bad").await;
    let api: Api<KVCluster> = Api::namespaced(client.clone(), &namespace);
    let long = "a".repeat(44);
    for (name, spec, says) in [
        (
            "demo",
            json!({"replicas": 3, "writeQuorum": 4}),
            "spec.writeQuorum: more copies than spec.replicas could never hold a write",
        ),
        ("demo", json!({"replicas": 0}), "spec.replicas in body should be greater than or equal to 1"),
        ("demo", json!({"replicas": 10}), "spec.replicas in body should be less than or equal to 9"),
        ("demo", json!({"writeQuorum": 0}), "spec.writeQuorum in body should be greater than or equal to 1"),
        ("demo", json!({"storage": {"size": "lots"}}), "spec.storage.size: a quantity such as 10Gi"),
        ("demo", json!({"storage": {"size": "0"}}), "spec.storage.size: a quantity such as 10Gi"),
        (
            "demo",
            json!({"election": {"heartbeat": "400ms"}}),
            "the heartbeat must be at most half of the shortest timeout",
        ),
        ("demo", json!({"election": {"timeout": "2s-1s"}}), "the smaller time comes first"),
        ("demo", json!({"replicationDelay": {"min": "2s", "max": "1ms"}}), "min must not be above max"),
        (&long, json!({}), "metadata.name: at most 43 characters"),
        ("de.mo", json!({}), "metadata.name: lower-case letters, digits and '-'"),
        ("1demo", json!({}), "metadata.name: lower-case letters, digits and '-'"),
    ] {
        let error =
            api.create(&PostParams::default(), &manifest(name, spec.clone())).await.expect_err("refused").to_string();
        assert!(error.contains(says), "{spec} was refused with: {error}");
    }
    drop_namespace(&client, &namespace).await;
}

#[tokio::test]
async fn good_manifests_are_accepted_and_filled_in() {
    let client = client().await;
    let namespace = namespace(&client, "good").await;
    let api: Api<KVCluster> = Api::namespaced(client.clone(), &namespace);
    let empty = api.create(&PostParams::default(), &manifest("empty", json!({}))).await.expect("accepted");
    assert_eq!((empty.spec.replicas, empty.spec.storage.size.as_str()), (3, "1Gi"));
    for (name, spec) in [
        ("one", json!({"replicas": 1})),
        (
            "all",
            json!({"replicas": 9, "writeQuorum": 9, "failover": "Manual", "image": "quorate:1", "imagePullPolicy": "Never",
            "storage": {"size": "10Gi", "storageClassName": "fast"}, "resources": {"limits": {"memory": "512Mi"}},
            "podTemplate": {"labels": {"a": "b"}, "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "x", "operator": "Exists"}],
                "env": [{"name": "RUST_LOG", "value": "debug"}], "priorityClassName": "high"},
            "replicationDelay": {"min": "0.1ms", "max": "1s"}, "limits": {"valueMax": "4MiB", "httpConnections": 100},
            "election": {"heartbeat": "50ms", "timeout": "250ms-500ms"}, "paused": true, "hibernated": true,
            "persistentVolumeClaimRetention": {"whenScaled": "Delete", "whenDeleted": "Delete"}}),
        ),
    ] {
        api.create(&PostParams::default(), &manifest(name, spec)).await.expect("accepted");
    }
    drop_namespace(&client, &namespace).await;
}

#[tokio::test]
async fn changes_that_cannot_be_undone_or_done_are_refused() {
    let client = client().await;
    let namespace = namespace(&client, "change").await;
    let api: Api<KVCluster> = Api::namespaced(client.clone(), &namespace);
    api.create(
        &PostParams::default(),
        &manifest("demo", json!({"replicas": 3, "writeQuorum": 3, "storage": {"size": "10Gi"}})),
    )
    .await
    .expect("accepted");
    for (change, says) in [
        (json!({"storage": {"size": "9Gi"}}), "volumes grow only"),
        (json!({"storage": {"size": "1e9"}}), "volumes grow only"),
        (json!({"storage": {"storageClassName": "other"}}), "volumes cannot move to another class"),
        (json!({"replicas": 2}), "spec.writeQuorum: more copies"),
    ] {
        let patch = json!({"spec": change});
        let error =
            api.patch("demo", &PatchParams::default(), &Patch::Merge(&patch)).await.expect_err("refused").to_string();
        assert!(error.contains(says), "{patch} was refused with: {error}");
    }
    let scale = json!({"spec": {"replicas": 2}});
    let error =
        api.patch_scale("demo", &PatchParams::default(), &Patch::Merge(&scale)).await.expect_err("refused").to_string();
    assert!(error.contains("spec.writeQuorum: more copies"), "kubectl scale was refused with: {error}");
    let grown = json!({"spec": {"storage": {"size": "10240Mi"}}});
    api.patch("demo", &PatchParams::default(), &Patch::Merge(&grown)).await.expect("the same in other words");
    drop_namespace(&client, &namespace).await;
}
