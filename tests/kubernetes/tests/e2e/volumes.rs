//! Volumes: one that is lost, all that are lost, some that grow, one that cannot, and those of clusters that go.

use k8s_openapi::api::core::v1::{Namespace, PersistentVolume};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use quorate_kubernetes::arena::{PATIENCE, is, reason};
use quorate_kubernetes::clients::SILENCE_MAX;
use quorate_kubernetes::{Arena, Clients, manifest};
use quorate_operator::names;
use quorate_tests::eventually_in;

/// KVClusters made and deleted at once.
const AT_ONCE: usize = 5;

/// Hibernates `demo`, and waits until there are only its volumes.
pub(crate) async fn sleep(arena: &Arena) {
    arena.patch("demo", "{\"hibernated\":true}").await;
    arena.leaves("demo", (0, 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_volume_is_lost_comes_back_in_its_own_place() {
    let arena = Arena::with_demo("wipe").await;
    let clients = Clients::start(&arena, "demo", 3).await;
    let identity = |status: &quorate_operator::crd::KVClusterStatus| {
        status.members.iter().find(|m| m.pod == "demo-follower-1").map(|m| m.id.clone())
    };
    let before = identity(&arena.settled("demo").await);
    assert!(before.is_some(), "the status names each member's identity");
    let (uid, _) = arena.pod("demo-follower-1").await;

    // The claim goes once no pod uses it.
    arena.claims().delete("data-demo-follower-1", &DeleteParams::default()).await.expect("a deletion");
    arena.pods().delete("demo-follower-1", &DeleteParams::default()).await.expect("a deletion");
    arena.replaced("demo-follower-1", &uid).await;
    clients.more(20).await;
    eventually_in(PATIENCE, "the pod's new node is a member in the old one's place", async || {
        let status = arena.status("demo").await?;
        let voters = status.members.iter().filter(|m| m.role != "learner" && m.state == "InSync").count();
        if identity(&status) != before && voters == 3 && status.members.len() == 3 {
            Ok(())
        } else {
            Err(format!("{:?}", status.members))
        }
    })
    .await;
    arena.settled("demo").await;
    clients.judged().await.silent_at_most(SILENCE_MAX);
    arena.told("demo", &["Recovered"]).await;
    arena.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lost_all_its_volumes_is_reported_and_never_formed_anew() {
    let arena = Arena::with_demo("lost").await;
    let before = arena.settled("demo").await.cluster_id;
    arena.through("demo", "PUT", "/v1/kv/gone", "for good").await.expect("a write");
    sleep(&arena).await;
    let all = ListParams::default().labels("quorate.dev/cluster=demo");
    arena.claims().delete_collection(&DeleteParams::default(), &all).await.expect("deletions");
    arena.leaves("demo", (0, 0)).await;

    arena.patch("demo", "{\"hibernated\":false}").await;
    let status = eventually_in(PATIENCE, "the loss is reported", async || {
        let status = arena.status("demo").await?;
        // Only once all of its nodes have been asked can it be said.
        if reason(&status, "Degraded") == "DataLost" { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!(is(&status, "Available", "False"), "{status:?}");
    assert_eq!(status.cluster_id, before, "the cluster that was is not forgotten");
    arena.told("demo", &["DataLost"]).await;
    let write = arena.through("demo-peers", "PUT", "/v1/kv/new", "no").await;
    assert!(write.is_err(), "an empty cluster in its name took a write: {write:?}");
    arena.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_cannot_grow_is_reported_with_kubernetes_own_words_and_everything_else_goes_on() {
    let arena = Arena::with_demo("rigid").await;
    arena.patch("demo", "{\"storage\":{\"size\":\"2Gi\"}}").await;
    eventually_in(PATIENCE, "the refusal is reported", async || {
        let status = arena.status("demo").await?;
        let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded");
        match degraded {
            Some(c) if c.reason == "Trouble" && c.message.contains("resize") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    arena.through("demo", "PUT", "/v1/kv/still", "taken").await.expect("a write");
    // What was asked for cannot be taken back, so it must not stand in the way of anything.
    arena.patch("demo", "{\"replicas\":4,\"writeQuorum\":3}").await;
    let status = eventually_in(PATIENCE, "the cluster grows by a copy", async || match arena.status("demo").await? {
        status if status.ready_replicas == 4 && status.write_quorum == Some(3) => Ok(status),
        status => Err(format!("{status:?}")),
    })
    .await;
    assert!(is(&status, "Available", "True") && reason(&status, "Degraded") == "Trouble", "{status:?}");
    arena.told("demo", &["Trouble", "ScalingUp"]).await;
    arena.end().await;
}

/// A storage class like the default one, whose volumes may grow. The provisioner of kind makes volumes and cannot
/// resize them: that part the test plays.
async fn class_that_grows(arena: &Arena) -> StorageClass {
    let classes: Api<StorageClass> = Api::all(arena.client.0.clone());
    let default = |c: &StorageClass| {
        c.annotations().get("storageclass.kubernetes.io/is-default-class").is_some_and(|value| value == "true")
    };
    let all = classes.list(&ListParams::default()).await.expect("storage classes").items;
    let default = all.into_iter().find(default).expect("a storage class that is the default");
    // It goes with the namespace.
    let namespaces: Api<Namespace> = Api::all(arena.client.0.clone());
    let owner = namespaces.get(&arena.namespace).await.expect("the namespace").controller_owner_ref(&());
    let name = Some(arena.namespace.clone());
    let metadata = ObjectMeta { name, owner_references: owner.map(|o| vec![o]), ..ObjectMeta::default() };
    let class = StorageClass { metadata, allow_volume_expansion: Some(true), ..default };
    classes.create(&PostParams::default(), &class).await.expect("a storage class")
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_grow_under_running_pods_and_it_is_over_when_they_have() {
    let arena = Arena::new("grow").await;
    let class = class_that_grows(&arena).await.name_any();
    let spec = format!("{{storage: {{size: 64Mi, storageClassName: {class}}}}}");
    arena.apply(&manifest("demo", &spec)).await.good("kubectl apply");
    arena.settled("demo").await;
    let of = ListParams::default().labels("quorate.dev/cluster=demo");
    let pods = async || {
        let pods = arena.pods().list(&of).await.expect("pods").items;
        pods.iter().map(|p| (p.name_any(), p.uid())).collect::<Vec<_>>()
    };
    let before = pods().await;
    let clients = Clients::start(&arena, "demo", 3).await;

    arena.patch("demo", "{\"storage\":{\"size\":\"128Mi\"}}").await;
    let status = eventually_in(PATIENCE, "the claims ask for more, and their volumes are waited for", async || {
        let status = arena.status("demo").await?;
        let says = "data-demo-follower-0 has 64Mi of the 128Mi asked for";
        let waits = |c: &Condition| c.reason == "GrowingVolumes" && c.message.starts_with(says);
        if status.conditions.iter().any(waits) { Ok(status) } else { Err(format!("{:?}", status.conditions)) }
    })
    .await;
    assert!(is(&status, "Available", "True") && is(&status, "Degraded", "False"), "{status:?}");

    // What a resizer does once the volume has its size.
    let grown = serde_json::json!({"status": {"capacity": {"storage": "128Mi"}}});
    for pod in names::pods("demo", 3) {
        let name = format!("data-{pod}");
        eventually_in(PATIENCE, &format!("{name} asks for more"), async || {
            let claim = arena.claims().get(&name).await.map_err(|e| e.to_string())?;
            let asked = claim.spec.and_then(|s| s.resources?.requests?.remove("storage")).map(|q| q.0);
            if asked.as_deref() == Some("128Mi") { Ok(()) } else { Err(format!("for {asked:?}")) }
        })
        .await;
        let done = arena.claims().patch_status(&name, &PatchParams::default(), &Patch::Merge(&grown)).await;
        done.expect("the claim's status");
    }
    arena.settled("demo").await;
    assert_eq!(pods().await, before, "no pod was made anew");
    for set in ["demo-leader", "demo-follower"] {
        let template = "--output=jsonpath={.spec.volumeClaimTemplates[0].spec.resources.requests.storage}";
        assert_eq!(arena.kubectl(&["get", "sts", set, template]).await.good("kubectl get sts"), "128Mi");
    }
    clients.more(20).await;
    clients.judged().await.silent_at_most(SILENCE_MAX);
    arena.told("demo", &["GrowingVolumes", "VolumeGrown", "Settled"]).await;
    arena.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_made_and_deleted_at_once_leave_nothing_behind() {
    let arena = Arena::new("many").await;
    let spec = "{replicas: 3, storage: {size: 64Mi}, persistentVolumeClaimRetention: {whenScaled: Delete, whenDeleted: Delete}}";
    let manifests: Vec<String> = (1..=AT_ONCE).map(|number| manifest(&format!("many-{number}"), spec)).collect();
    arena.apply(&manifests.join("---\n")).await.good("kubectl apply");
    for number in 1..=AT_ONCE {
        arena.settled(&format!("many-{number}")).await;
    }
    arena.kubectl(&["delete", "kvc", "--all", "--wait"]).await.good("kubectl delete");
    eventually_in(PATIENCE, "nothing is left", async || {
        // Whatever there is of a cluster bears its label.
        let kinds = "kvc,sts,pods,svc,endpointslices,cm,secrets,sa,pdb,pvc,controllerrevisions";
        let left = arena.kubectl(&["get", kinds, "--selector=quorate.dev/cluster", "--output=name"]).await;
        if left.ok && left.out.is_empty() { Ok(()) } else { Err(format!("{}{}", left.out, left.err)) }
    })
    .await;
    let volumes: Api<PersistentVolume> = Api::all(arena.client.0.clone());
    eventually_in(PATIENCE, "no volume is left", async || {
        let volumes = volumes.list(&ListParams::default()).await.map_err(|e| e.to_string())?.items;
        let ours = |v: &&PersistentVolume| {
            let claim = v.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            claim.is_some_and(|c| c.namespace.as_ref() == Some(&arena.namespace))
        };
        match volumes.iter().filter(ours).count() {
            0 => Ok(()),
            left => Err(format!("{left} volumes")),
        }
    })
    .await;
    arena.end().await;
}
