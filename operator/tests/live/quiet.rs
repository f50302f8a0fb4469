//! Many KVClusters, and nothing happening: nothing is written. Two operators, and one acts.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use quorate_operator::crd::KVCluster;
use serde_json::json;

use crate::machine::MISSING_IMAGE;
use crate::support::{Rights, World, client, namespace, reason, until};

/// KVClusters at once.
const MANY: usize = 100;
/// Memory of an operator of that many: it holds their specs and the addresses of their pods, not the objects it made.
const RESIDENT_MAX: u64 = 96 << 20;
/// How long it is watched for doing nothing.
const QUIET: Duration = Duration::from_secs(15);

async fn versions(api: &Api<KVCluster>, sets: &Api<StatefulSet>) -> BTreeMap<String, String> {
    let clusters = api.list(&ListParams::default()).await.expect("clusters");
    let sets = sets.list(&ListParams::default()).await.expect("sets");
    let version = |name: String, version: Option<String>| (name, version.unwrap_or_default());
    let clusters = clusters.items.iter().map(|c| version(format!("cluster {}", c.name_any()), c.resource_version()));
    clusters.chain(sets.items.iter().map(|s| version(format!("set {}", s.name_any()), s.resource_version()))).collect()
}

fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("statm");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clusters_at_rest_cost_no_writes_and_little_memory() {
    let client = client().await;
    let namespace = namespace(&client, "many").await;
    let api: Api<KVCluster> = Api::namespaced(client.clone(), &namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    for i in 0..MANY {
        // Hibernated: at rest without a single pod.
        let cluster = json!({"apiVersion": "quorate.dev/v1alpha1", "kind": "KVCluster", "metadata": {"name": format!("c{i}")}, "spec": {"hibernated": true}});
        api.create(&PostParams::default(), &serde_json::from_value(cluster).expect("a KVCluster"))
            .await
            .expect("accepted");
    }
    let rights = Rights::new(&client, &namespace).await;
    let operator = rights.operator(&[]);
    let rest = |c: &KVCluster| {
        let conditions = c.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Progressing" && c.reason == "Hibernated")
    };
    until("all are at rest", || async {
        let all = api.list(&ListParams::default()).await.ok()?;
        let made = sets.list(&ListParams::default()).await.ok()?;
        let seen =
            |s: &StatefulSet| s.status.as_ref().is_some_and(|st| st.observed_generation == s.metadata.generation);
        (all.items.iter().all(rest) && made.items.len() == 2 * MANY && made.items.iter().all(seen)).then_some(())
    })
    .await;
    // What was set off by the last writes comes to its end first: nothing changes for a few seconds.
    until("nothing changes any more", || async {
        let before = versions(&api, &sets).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        (versions(&api, &sets).await == before).then_some(())
    })
    .await;
    let before = versions(&api, &sets).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(versions(&api, &sets).await, before, "something was written though nothing happened");
    let resident = resident(operator.0.id());
    println!("{MANY} clusters: {} MiB resident", resident >> 20);
    assert!(resident < RESIDENT_MAX, "{resident} bytes");
}

/// Passes so far of the operator that listens here.
async fn passes(address: &str) -> u64 {
    let text = reqwest::get(format!("http://{address}/metrics")).await.expect("an answer").text().await.expect("text");
    let mut lines = text.lines();
    let count = lines.find_map(|l| l.strip_prefix("quorate_operator_reconcile_duration_seconds_count "));
    count.expect("passes are counted").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_still_is_looked_at_seldom_and_what_moves_at_once() {
    let world = World::new("stuck").await;
    world.create("demo", json!({"replicas": 3, "image": MISSING_IMAGE})).await;
    world.until("demo", "the missing image is told", |s| reason(s, "Degraded") == "PodStuck").await;
    let address = world.rights.address().await;
    until("nothing moves any more", || async {
        let before = passes(&address).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        (passes(&address).await == before).then_some(())
    })
    .await;
    let before = passes(&address).await;
    tokio::time::sleep(QUIET).await;
    let more = passes(&address).await - before;
    assert!(more <= 2, "{more} passes in {} s over what stands still", QUIET.as_secs());
    world.patch("demo", json!({"spec": {"image": "quorate:better"}})).await;
    world.settled("demo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_one_acts_and_the_other_follows_when_it_stops() {
    let client = client().await;
    let namespace = namespace(&client, "lease").await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let holder =
        || async { leases.get("quorate-operator").await.ok()?.spec?.holder_identity.filter(|h| !h.is_empty()) };
    let rights = Rights::new(&client, &namespace).await;
    let mut first = rights.operator(&["--identity", "first"]);
    until("the first holds the lease", || async { holder().await.filter(|h| h == "first") }).await;
    let mut second = rights.operator(&["--identity", "second"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(holder().await.as_deref(), Some("first"));
    assert!(first.stop().success(), "it stops in good order");
    until("the second holds the lease", || async { holder().await.filter(|h| h == "second") }).await;

    // Somebody takes the lease by force: its holder must end.
    until("the lease is taken", || async {
        let mut now = leases.get("quorate-operator").await.ok()?;
        now.spec.as_mut()?.holder_identity = Some("third".to_owned());
        leases.replace("quorate-operator", &PostParams::default(), &now).await.ok()
    })
    .await;
    let ended = until("the second ends", || {
        let ended = second.0.try_wait().expect("it can be asked");
        async move { ended }
    })
    .await;
    assert_eq!(ended.code(), Some(1));
}
