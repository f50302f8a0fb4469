//! The rules of the resource, evaluated here as the API server evaluates them.

use serde_json::{Value, json};

use super::*;

fn cluster(name: &str, spec: Value) -> KVCluster {
    serde_json::from_value(
        json!({"apiVersion": "quorate.dev/v1alpha1", "kind": "KVCluster", "metadata": {"name": name}, "spec": spec}),
    )
    .expect("a KVCluster")
}

#[test]
fn good_manifests_pass() {
    for spec in [
        json!({}),
        json!({"replicas": 6, "writeQuorum": 6}),
        json!({"storage": {"size": "10Gi"}}),
        json!({"election": {"heartbeat": "50ms", "timeout": "250ms-500ms"}}),
        json!({"replicationDelay": {"min": "0.1ms"}}),
    ] {
        let result = cluster("demo", spec.clone()).validate_cel();
        assert!(result.is_ok(), "{spec}: {result:?}");
    }
}

#[test]
fn bad_manifests_fail_with_their_sentence() {
    let long = "a".repeat(NAME_MAX + 1);
    for (name, spec, says) in [
        ("demo", json!({"replicas": 3, "writeQuorum": 4}), "more copies than spec.replicas could never hold a write"),
        ("demo", json!({"storage": {"size": "lots"}}), "a quantity such as 10Gi"),
        ("demo", json!({"election": {"heartbeat": "400ms"}}), "at most half of the shortest timeout"),
        ("demo", json!({"election": {"timeout": "2s-1s"}}), "the smaller time comes first"),
        ("demo", json!({"replicationDelay": {"min": "2s", "max": "1ms"}}), "min must not be above max"),
        (long.as_str(), json!({}), "at most 43 characters"),
        ("de.mo", json!({}), "lower-case letters, digits"),
    ] {
        let error = cluster(name, spec.clone()).validate_cel().expect_err("refused");
        assert!(format!("{error:?}").contains(says), "{spec}: {error:?}");
    }
}

#[test]
fn volumes_grow_and_stay_in_their_class() {
    let old = cluster("demo", json!({"storage": {"size": "10Gi", "storageClassName": "fast"}}));
    for (storage, says) in [
        (json!({"size": "9Gi", "storageClassName": "fast"}), "volumes grow only"),
        (json!({"size": "10Gi", "storageClassName": "slow"}), "volumes cannot move to another class"),
        (json!({"size": "10Gi"}), "volumes cannot move to another class"),
    ] {
        let error = cluster("demo", json!({"storage": storage})).validate_cel_update(&old).expect_err("refused");
        assert!(format!("{error:?}").contains(says), "{storage}: {error:?}");
    }
    let grown = cluster("demo", json!({"storage": {"size": "11Gi", "storageClassName": "fast"}}));
    assert!(grown.validate_cel_update(&old).is_ok());
}

#[test]
fn the_bound_on_names_is_the_one_the_rule_states() {
    use kube::CustomResourceExt;
    let rules = serde_json::to_string(&KVCluster::crd()).expect("JSON");
    assert!(rules.contains(&format!("self.metadata.name.size() <= {NAME_MAX}")));
}
