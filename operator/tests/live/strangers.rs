//! What is another's is left as it is, and told; what is left of an earlier KVCluster is waited for.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use quorate_operator::crd::KVClusterStatus;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{World, reason, until};

async fn make<K>(world: &World, object: Value) -> K
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = world.api();
    api.create(&PostParams::default(), &serde_json::from_value(object).expect("an object")).await.expect("it is made")
}

/// Waits until the trouble of this KVCluster is told in these words.
async fn told(world: &World, name: &str, says: &str) {
    let says_so = |s: &KVClusterStatus| {
        s.conditions.iter().any(|c| c.type_ == "Degraded" && c.reason == "Trouble" && c.message == says)
    };
    world.until(name, says, says_so).await;
}

/// Makes a KVCluster that needs an object which is not its own, and waits until it says so.
async fn is_held_up(world: &World, name: &str, object: &str, why: &str) {
    world.create(name, asleep()).await;
    let says =
        format!("{object} exists and is not this KVCluster's ({why}): rename one of the two, or delete {object}");
    told(world, name, &says).await;
}

fn asleep() -> Value {
    json!({"hibernated": true})
}

async fn sets(world: &World) -> Vec<String> {
    let sets: Api<StatefulSet> = world.api();
    sets.list(&ListParams::default()).await.expect("sets").items.iter().map(ResourceExt::name_any).collect()
}

async fn sleeps(world: &World, name: &str) {
    world
        .until(name, "it sleeps", |s| reason(s, "Progressing") == "Hibernated" && reason(s, "Degraded") == "AsWanted")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_another_s_is_neither_taken_over_nor_deleted_and_the_kvcluster_says_so() {
    let world = World::new("strangers").await;
    let services: Api<Service> = world.api();
    let shop: Service = make(
        &world,
        json!({"metadata": {"name": "orders"}, "spec": {"selector": {"app": "shop"}, "ports": [{"port": 80}]}}),
    )
    .await;
    is_held_up(&world, "orders", "Service orders", "it lacks the label quorate.dev/cluster: orders").await;
    let now = services.get("orders").await.expect("it is there");
    assert_eq!((now.spec, now.metadata.owner_references), (shop.spec, None));
    assert_eq!(sets(&world).await, Vec::<String>::new(), "nothing is half made beside it");
    let maps: Api<ConfigMap> = world.api();
    assert!(maps.get_opt("orders-settings").await.expect("an answer").is_none());

    // Every namespace has this account, and every pod that names none runs under it.
    let accounts: Api<ServiceAccount> = world.api();
    until("the namespace has its account", async || accounts.get_opt("default").await.ok()?).await;
    is_held_up(&world, "default", "ServiceAccount default", "it lacks the label quorate.dev/cluster: default").await;
    let account = accounts.get("default").await.expect("it is there");
    assert_eq!((account.automount_service_account_token, account.metadata.owner_references), (None, None));

    world.create("demo", asleep()).await;
    sleeps(&world, "demo").await;
    is_held_up(&world, "demo-leader", "Service demo-leader", "it belongs to KVCluster demo").await;
    sleeps(&world, "demo").await;

    services.delete("orders", &Default::default()).await.expect("deleted");
    sleeps(&world, "orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bears_the_label_and_has_no_controller_is_the_cluster_s_and_what_it_does_not_need_stays_another_s() {
    let world = World::new("adopt").await;
    let labels = json!({"quorate.dev/cluster": "demo"});
    make::<ServiceAccount>(
        &world,
        json!({"metadata": {"name": "demo", "labels": labels}, "imagePullSecrets": [{"name": "registry"}]}),
    )
    .await;
    make::<Secret>(
        &world,
        json!({"metadata": {"name": "demo-admin", "labels": labels}, "stringData": {"token": "mine"}}),
    )
    .await;
    // A single pod has no budget of this name.
    make::<PodDisruptionBudget>(
        &world,
        json!({"metadata": {"name": "demo"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "shop"}}}}),
    )
    .await;
    world.create("demo", json!({"replicas": 1})).await;
    world.settled("demo").await;
    let accounts: Api<ServiceAccount> = world.api();
    let account = accounts.get("demo").await.expect("it is there");
    let secrets = account.image_pull_secrets.as_ref().map(|s| s.iter().map(|s| s.name.clone()).collect::<Vec<_>>());
    assert_eq!(secrets, Some(vec!["registry".to_owned()]));
    assert_eq!(account.owner_references().len(), 1, "it goes with the KVCluster");
    let budgets: Api<PodDisruptionBudget> = world.api();
    let budget = budgets.get("demo").await.expect("it is there still");
    assert_eq!(budget.owner_references(), &[]);
    let answer = reqwest::Client::new()
        .put(format!("{}/v1/log", world.machine.url("demo-leader-0")))
        .bearer_auth("mine")
        .body("{}")
        .send()
        .await
        .expect("an answer");
    assert_ne!(answer.status(), 401, "the token is the one that was there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_kvcluster_left_is_waited_for_until_it_is_gone() {
    let world = World::new("earlier").await;
    // As it is found between the deletion of a KVCluster and the collection of what it owned, which is drawn out here.
    let owner = json!({"apiVersion": "quorate.dev/v1alpha1", "kind": "KVCluster", "name": "demo", "uid": "11111111-2222-3333-4444-555555555555", "controller": true});
    let metadata = json!({"name": "demo-admin", "labels": {"quorate.dev/cluster": "demo"}, "ownerReferences": [owner], "finalizers": ["tests.quorate.dev/hold"]});
    make::<Secret>(&world, json!({"metadata": metadata, "stringData": {"token": "old"}})).await;
    world.create("demo", json!({"replicas": 1})).await;
    let says = "Secret demo-admin is still that of an earlier KVCluster of this name, and goes with it";
    world
        .until("demo", "it is waited for", |s| {
            s.conditions.iter().any(|c| c.type_ == "Progressing" && c.message.contains(says))
        })
        .await;
    assert_eq!(reason(&world.status("demo").await, "Degraded"), "AsWanted");
    assert_eq!(sets(&world).await, Vec::<String>::new(), "no pod gets a token that goes");
    let secrets: Api<Secret> = world.api();
    let free = json!({"metadata": {"finalizers": null}});
    secrets.patch("demo-admin", &PatchParams::default(), &Patch::Merge(&free)).await.expect("it is let go");
    world.settled("demo").await;
    let cluster = world.clusters().get("demo").await.expect("it is there");
    let secret = secrets.get("demo-admin").await.expect("the secret");
    assert_eq!(secret.owner_references().first().map(|o| o.uid.clone()), cluster.uid());
}
