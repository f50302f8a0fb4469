//! An identity for the operator with the rights that its page lists, and no other: every test here runs it under them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{World, is, reason};

const NAME: &str = "operator";

/// The rows of the table of rights: group, resources, verbs.
fn rules() -> Vec<PolicyRule> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the page");
    let table =
        page.lines().skip_while(|l| !l.starts_with("| in | group |")).skip(2).take_while(|l| l.starts_with('|'));
    let list = |cell: &str| {
        Some(cell.split(',').map(|part| part.trim().trim_matches('`').to_owned()).collect::<Vec<String>>())
    };
    let rule = |row: &str| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let group = cells[2].trim_matches('`');
        PolicyRule {
            api_groups: Some(vec![if group == "core" { String::new() } else { group.to_owned() }]),
            resources: list(cells[3]),
            verbs: list(cells[4]).unwrap_or_default(),
            ..PolicyRule::default()
        }
    };
    table.map(rule).collect()
}

#[test]
fn the_page_lists_rights() {
    let rules = rules();
    assert!(rules.len() > 8, "{rules:?}");
    let all = format!("{rules:?}");
    assert!(!all.contains('*'), "no right to everything: {all}");
}

/// Group, resource and verb of every right.
fn each(rules: &[PolicyRule]) -> BTreeSet<[String; 3]> {
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                all.extend(rule.verbs.iter().map(|verb| [group.clone(), resource.clone(), verb.clone()]));
            }
        }
    }
    all
}

#[test]
fn the_chart_gives_the_rights_that_the_page_lists_and_no_other() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/kubernetes/golden/default.yaml");
    let golden = std::fs::read_to_string(golden).expect("what the chart makes of its defaults");
    let manifests = golden.split("---\n").filter(|text| text.contains("\nrules:\n"));
    let roles = manifests.map(|text| serde_saphyr::from_str::<Value>(text).expect("YAML"));
    let operators = roles.filter(|role| {
        let name = role["metadata"]["name"].as_str().expect("a name");
        name.ends_with("quorate-operator") || name.ends_with("quorate-operator-lease")
    });
    let given: Vec<PolicyRule> = operators
        .flat_map(|role| serde_json::from_value::<Vec<PolicyRule>>(role["rules"].clone()).expect("rules"))
        .collect();
    assert_eq!(each(&given), each(&rules()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_may_no_longer_look_says_so_and_claims_nothing_of_what_it_cannot_see() {
    let world = World::new("blind").await;
    world.create("demo", json!({"replicas": 1})).await;
    let before = world.settled("demo").await;
    let roles: Api<Role> = world.api();
    let allow = async |rules: Vec<PolicyRule>| {
        let patch = json!({"rules": rules});
        roles.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the role is changed");
    };
    let is_about_pods = |rule: &PolicyRule| rule.resources.iter().flatten().any(|r| r == "pods");
    allow(rules().into_iter().filter(|rule| !is_about_pods(rule)).collect()).await;
    // So that it looks again.
    world.patch("demo", json!({"spec": {"paused": true}})).await;
    let status = world.until("demo", "the refusal is told", |s| reason(s, "Degraded") == "ApiRefused").await;
    assert!(is(&status, "Available", "Unknown") && is(&status, "Paused", "True"), "{status:#?}");
    assert_eq!((status.leader.as_deref(), &status.cluster_id), (None, &before.cluster_id));
    let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded").expect("a condition");
    let says = "what belongs to it cannot be read: pods is forbidden: User";
    assert!(degraded.message.starts_with(says), "{degraded:?}");

    allow(rules()).await;
    world.patch("demo", json!({"spec": {"paused": false}})).await;
    let status = world.settled("demo").await;
    assert_eq!(status.leader, before.leader);
    world.rights.forgive();
}

/// A kubeconfig of a service account in this namespace.
pub(crate) async fn kubeconfig(client: &Client, namespace: &str, folder: &Path) -> PathBuf {
    make::<ServiceAccount>(client, namespace, json!({"metadata": {"name": NAME}})).await;
    make::<Role>(client, namespace, json!({"metadata": {"name": NAME}, "rules": rules()})).await;
    let binding = json!({
        "metadata": {"name": NAME},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
    });
    make::<RoleBinding>(client, namespace, binding).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let asked: TokenRequest =
        serde_json::from_value(json!({"metadata": {}, "spec": {"audiences": []}})).expect("a request");
    let token: TokenRequest =
        accounts.create_subresource("token", NAME, &PostParams::default(), &asked).await.expect("a token");
    let token = token.status.expect("a status").token;

    let ours = Kubeconfig::read().expect("KUBECONFIG can be read");
    let cluster = ours.clusters[0].cluster.as_ref().expect("a cluster");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {
            "server": cluster.server,
            "certificate-authority": cluster.certificate_authority,
            "certificate-authority-data": cluster.certificate_authority_data,
        }}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}],
    });
    let path = folder.join("kubeconfig");
    std::fs::write(&path, config.to_string()).expect("the kubeconfig can be written");
    path
}

async fn make<K>(client: &Client, namespace: &str, object: Value)
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &serde_json::from_value(object).expect("an object")).await.expect("it is made");
}
