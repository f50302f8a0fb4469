//! An identity for the operator with the rights that its page lists, and no other: every test here runs it under them.

use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};
use kube::api::{Api, PostParams};
use kube::config::Kubeconfig;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

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
