//! What the API server says to good and bad manifests.

use std::path::Path;

use kube::CustomResourceExt;
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

/// The manifest of the pages that shows every field.
fn every_field() -> Value {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kvcluster-everything.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(page).expect("the manifest")).expect("YAML")
}

/// All that is named in a value, as JSON pointers.
fn paths(value: &Value) -> Vec<String> {
    let named: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, field)| (name.replace('~', "~0").replace('/', "~1"), field)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (i.to_string(), item)).collect(),
        _ => Vec::new(),
    };
    let below = |(name, value): (String, &Value)| {
        let below: Vec<String> = paths(value).into_iter().map(|path| format!("/{name}{path}")).collect();
        [vec![format!("/{name}")], below].concat()
    };
    named.into_iter().flat_map(below).collect()
}

/// The fields that a schema names, as JSON pointers; types of Kubernetes' own are taken as one.
fn defined(schema: &Value, at: &str) -> Vec<String> {
    let fields = schema["properties"].as_object().into_iter().flatten();
    let below = |(name, field): (&String, &Value)| {
        let path = format!("{at}/{name}");
        let theirs = ["/resources", "/podTemplate/affinity"].contains(&path.as_str());
        let below = if theirs { Vec::new() } else { defined(field, &path) };
        [vec![path], below].concat()
    };
    fields.flat_map(below).collect()
}

#[test]
fn the_manifest_of_the_pages_shows_every_field() {
    let definition = serde_json::to_value(KVCluster::crd()).expect("JSON");
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let (defined, shown) = (defined(spec, ""), every_field()["spec"].take());
    assert!(defined.len() > 35, "{defined:?}");
    for path in defined {
        assert!(shown.pointer(&path).is_some(), "docs/kvcluster-everything.yaml does not show {path}");
    }
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
    api.create(&PostParams::default(), &manifest("one", json!({"replicas": 1}))).await.expect("accepted");

    // The API server drops what it does not know: all of it must have arrived.
    let written = every_field();
    let cluster: KVCluster = serde_json::from_value(written.clone()).expect("a KVCluster");
    let taken = api.create(&PostParams::default(), &cluster).await.expect("the page's manifest is accepted");
    let taken = serde_json::to_value(taken.spec).expect("JSON");
    for path in paths(&written["spec"]) {
        assert!(taken.pointer(&path).is_some(), "{path} is dropped: {taken}");
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
