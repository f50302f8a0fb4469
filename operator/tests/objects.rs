//! Every object the operator makes, as YAML, one golden file a kind of KVCluster. `UPDATE_GOLDEN=1` writes them anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something fails")]

use std::fmt::Write;
use std::path::Path;

use quorate_operator::build::{Objects, objects};
use quorate_operator::crd::{Formation, KVCluster, KVClusterStatus, RetentionPolicy};
use quorate_operator::names::Set;
use quorate_operator::observe::{Observed, SetSeen};
use quorate_operator::plan::{Pods, plan};
use quorate_operator::validate::validate;
use serde::Serialize;
use serde_json::{Value, json};

fn made(spec: Value, recorded: &KVClusterStatus) -> Objects {
    let cluster: KVCluster = serde_json::from_value(json!({
        "apiVersion": "quorate.dev/v1alpha1", "kind": "KVCluster",
        "metadata": {"name": "demo", "namespace": "default", "uid": "uid-of-demo"}, "spec": spec,
    }))
    .expect("a KVCluster");
    let wanted = validate(&cluster, "quorate:1").expect("valid");
    let when_scaled = wanted.spec.persistent_volume_claim_retention.when_scaled;
    let pods = Pods { leader: 1, follower: wanted.replicas() - 1, when_scaled };
    objects(&wanted, pods, recorded, &Observed::default())
}

fn yaml(objects: &Objects) -> String {
    let mut text = String::new();
    let mut add = |object: &dyn erased::Yaml| {
        let _ = write!(text, "---\n{}", object.yaml());
    };
    add(&objects.service_account);
    add(&objects.config_map);
    objects.services.iter().for_each(|s| add(s));
    objects.disruption_budget.iter().for_each(|b| add(b));
    objects.sets.iter().for_each(|s| add(s));
    text
}

mod erased {
    /// Something that can be written as YAML.
    pub(super) trait Yaml {
        fn yaml(&self) -> String;
    }

    impl<T: super::Serialize> Yaml for T {
        fn yaml(&self) -> String {
            serde_saphyr::to_string(self).expect("YAML")
        }
    }
}

fn compare(name: &str, objects: &Objects) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let made = yaml(objects);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &made).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = golden.lines().zip(made.lines()).enumerate().find(|(_, (old, new))| old != new);
    assert!(
        golden == made,
        "{name} differs, first at {differs:?}; UPDATE_GOLDEN=1 cargo test -p quorate-operator --test objects accepts it"
    );
}

#[test]
fn the_four_line_manifest() {
    compare("four_lines.yaml", &made(json!({"replicas": 6, "writeQuorum": 3}), &KVClusterStatus::default()));
}

#[test]
fn a_single_node_that_is_formed() {
    let recorded = KVClusterStatus {
        cluster_id: Some("11111111-1111-4111-8111-111111111111".into()),
        formation: Some(Formation { replicas: 1, write_quorum: 1 }),
        ..KVClusterStatus::default()
    };
    compare("single_node_formed.yaml", &made(json!({"replicas": 1}), &recorded));
}

#[test]
fn everything_that_can_be_said() {
    let spec = json!({
        "replicas": 3, "writeQuorum": 2, "failover": "Manual", "image": "registry.example/quorate:2", "imagePullPolicy": "Always",
        "storage": {"size": "10Gi", "storageClassName": "fast"},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "podTemplate": {
            "labels": {"team": "a", "quorate.dev/cluster": "another", "quorate.dev/role": "leader"}, "annotations": {"note": "b"},
            "tolerations": [{"key": "x", "operator": "Exists"}], "nodeSelector": {"disk": "ssd"}, "priorityClassName": "high",
            "topologySpreadConstraints": [], "env": [
                {"name": "RUST_LOG", "value": "debug"}, {"name": "NODE_TYPE", "value": "leader"}, {"name": "REPLICAS", "value": "1"},
                {"name": "CLUSTER_ID", "value": "another"}, {"name": "VALUE_MAX", "value": "1KiB"}, {"name": "KEY_MAX", "value": "1"}, {"name": "HTTP_PORT", "value": "80"},
            ],
        },
        "replicationDelay": {"min": "0.1ms", "max": "1s"},
        "limits": {"valueMax": "4MiB", "httpConnections": 100},
        "election": {"heartbeat": "50ms", "timeout": "250ms-500ms"},
        "persistentVolumeClaimRetention": {"whenScaled": "Delete", "whenDeleted": "Delete"},
    });
    compare("everything.yaml", &made(spec, &KVClusterStatus::default()));
}

fn digest(objects: &Objects) -> String {
    let template = &objects.sets[1].spec.as_ref().expect("a spec").template;
    serde_json::to_string(template).expect("JSON")
}

#[test]
fn pods_are_made_anew_for_what_only_a_start_reads_and_for_nothing_else() {
    let unformed = KVClusterStatus::default();
    let formed = KVClusterStatus {
        cluster_id: Some("id".into()),
        formation: Some(Formation { replicas: 3, write_quorum: 2 }),
        ..KVClusterStatus::default()
    };
    let leader = |objects: &Objects| {
        serde_json::to_string(&objects.sets[0].spec.as_ref().expect("a spec").template).expect("JSON")
    };
    let three = made(json!({"replicas": 3}), &unformed);
    for (what, spec) in [
        ("replicas", json!({"replicas": 5})),
        ("write quorum", json!({"replicas": 3, "writeQuorum": 3})),
        ("failover", json!({"replicas": 3, "failover": "Manual"})),
        ("storage", json!({"replicas": 3, "storage": {"size": "5Gi"}})),
        ("the cluster's id", json!({"replicas": 3})),
    ] {
        let other = made(spec, &formed);
        assert_eq!((digest(&other), leader(&other)), (digest(&three), leader(&three)), "{what}");
    }
    for (what, spec) in [
        ("image", json!({"replicas": 3, "image": "other"})),
        ("limits", json!({"replicas": 3, "limits": {"valueMax": "2MiB"}})),
        ("delay", json!({"replicas": 3, "replicationDelay": {"min": "1ms"}})),
        ("resources", json!({"replicas": 3, "resources": {"limits": {"cpu": "1"}}})),
    ] {
        assert_ne!(digest(&made(spec, &formed)), digest(&three), "{what}");
    }
}

#[test]
fn types_of_the_kubernetes_api_can_be_read_back() {
    // Fails when something turns serde_json's arbitrary_precision on: a port could then no longer be a number.
    let port: k8s_openapi::apimachinery::pkg::util::intstr::IntOrString =
        serde_json::from_str("8000").expect("a number is a port");
    assert_eq!(port, k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(8000));
}

#[test]
fn a_statefulset_keeps_the_size_of_its_claims_until_it_is_made_anew() {
    let cluster: KVCluster = serde_json::from_value(json!({
        "apiVersion": "quorate.dev/v1alpha1", "kind": "KVCluster",
        "metadata": {"name": "demo", "namespace": "default"}, "spec": {"storage": {"size": "5Gi"}},
    }))
    .expect("a KVCluster");
    let wanted = validate(&cluster, "quorate:1").expect("valid");
    let old = SetSeen {
        set: Set::Follower,
        replicas: 2,
        update_revision: None,
        claim_size: "1Gi".into(),
        when_scaled: RetentionPolicy::Retain,
    };
    let seen = Observed { sets: vec![old], leaving: vec![Set::Leader], ..Observed::default() };
    let pods = Pods { leader: 1, follower: 2, when_scaled: RetentionPolicy::Retain };
    let made = objects(&wanted, pods, &KVClusterStatus::default(), &seen);
    let text = serde_json::to_string(&made.sets).expect("JSON");
    assert!(made.sets.len() == 1 && text.contains("1Gi") && !text.contains("5Gi"), "{text}");
}

#[test]
fn the_sets_of_a_cluster_that_sleeps_keep_its_volumes_whatever_the_spec_says_of_pods_that_are_scaled_away() {
    for (asleep, policy) in [(false, "Delete"), (true, "Retain")] {
        let cluster: KVCluster = serde_json::from_value(json!({
            "apiVersion": "quorate.dev/v1alpha1", "kind": "KVCluster", "metadata": {"name": "demo", "namespace": "default"},
            "spec": {"hibernated": asleep, "persistentVolumeClaimRetention": {"whenScaled": "Delete", "whenDeleted": "Delete"}},
        }))
        .expect("a KVCluster");
        let wanted = validate(&cluster, "quorate:1").expect("valid");
        let (seen, recorded) = (Observed::default(), KVClusterStatus::default());
        for set in objects(&wanted, plan(&wanted, &seen, &recorded).pods, &recorded, &seen).sets {
            let spec = set.spec.expect("a spec");
            let retention = spec.persistent_volume_claim_retention_policy.expect("a policy");
            let told = (spec.replicas == Some(0), retention.when_scaled.as_deref(), retention.when_deleted.as_deref());
            assert_eq!(told, (asleep, Some(policy), Some("Delete")));
        }
    }
}

#[test]
fn the_settings_of_the_operator_cannot_be_overridden_by_variables_of_the_pod_template() {
    let theirs: Vec<Value> = ["LEADER_URL", "OURS"].map(|name| json!({"name": name, "value": "x"})).to_vec();
    let limits = json!({"keyMax": "1KiB", "valueMax": "1MiB", "diskReserve": "1GiB"});
    let all =
        made(json!({"limits": limits, "replicationDelay": {"min": "1ms", "max": "2ms"}}), &KVClusterStatus::default());
    let settings = all.config_map.data.expect("data");
    let id = "CLUSTER_ID".to_owned();
    let names = settings.keys().chain([&id]).map(|name| json!({"name": name, "value": "x"}));
    let env: Vec<Value> = names.chain(theirs).collect();
    // Whether the spec itself gives them a value, or the cluster has an id, does not matter.
    for set in made(json!({"podTemplate": {"env": env}}), &KVClusterStatus::default()).sets {
        let container = &set.spec.expect("a spec").template.spec.expect("a spec").containers[0];
        let given = container.env.iter().flatten().filter(|e| e.value.as_deref() == Some("x"));
        assert_eq!(given.map(|e| e.name.as_str()).collect::<Vec<_>>(), ["OURS"]);
    }
}
