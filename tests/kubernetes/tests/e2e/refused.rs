//! What cannot be is refused by `kubectl apply` itself, with a sentence that tells what to do.

use quorate_kubernetes::{Arena, manifest};

#[tokio::test(flavor = "multi_thread")]
async fn bad_manifests_are_refused_with_a_sentence_that_helps() {
    let arena = Arena::new("refused").await;
    let long = "a".repeat(44);
    for (name, spec, says) in [
        (
            "bad",
            "{replicas: 3, writeQuorum: 4}",
            "spec.writeQuorum: more copies than spec.replicas could never hold a write: lower writeQuorum or raise replicas",
        ),
        ("bad", "{replicas: 0}", "spec.replicas in body should be greater than or equal to 1"),
        ("bad", "{replicas: 10}", "spec.replicas in body should be less than or equal to 9"),
        ("bad", "{writeQuorum: 0}", "spec.writeQuorum in body should be greater than or equal to 1"),
        ("bad", "{replicaz: 3}", "unknown field \"spec.replicaz\""),
        ("bad", "{storage: {capacity: 1Gi}}", "unknown field \"spec.storage.capacity\""),
        ("bad", "{storage: {size: lots}}", "spec.storage.size: a quantity such as 10Gi"),
        ("bad", "{failover: manual}", "supported values: \"Automatic\", \"Manual\""),
        ("bad", "{election: {heartbeat: 400ms}}", "the heartbeat must be at most half of the shortest timeout"),
        (&long, "{}", "metadata.name: at most 43 characters, so that the names of its pods fit"),
        ("1bad", "{}", "metadata.name: lower-case letters, digits and '-', beginning with a letter"),
    ] {
        let said = arena.apply(&manifest(name, spec)).await;
        assert!(!said.ok && said.err.contains(says), "{name} {spec}: {said:?}");
    }
    assert_eq!(arena.kubectl(&["get", "kvc", "--output=name"]).await.good("kubectl get kvc"), "", "nothing was made");

    // Asleep, for no pod is needed to be refused.
    let asleep = |more: &str| manifest("good", &format!("{{hibernated: true, replicas: 3, writeQuorum: 3, {more}}}"));
    arena.apply(&asleep("storage: {size: 2Gi}")).await.good("kubectl apply");
    for (change, says) in [
        ("storage: {size: 1Gi}", "spec.storage.size: volumes grow only: a smaller size is refused"),
        (
            "storage: {size: 2Gi, storageClassName: other}",
            "spec.storage.storageClassName: volumes cannot move to another class: make a second KVCluster and copy the data",
        ),
    ] {
        let said = arena.apply(&asleep(change)).await;
        assert!(!said.ok && said.err.contains(says), "{change}: {said:?}");
    }
    let said = arena.kubectl(&["scale", "kvc/good", "--replicas=2"]).await;
    assert!(!said.ok && said.err.contains("lower writeQuorum or raise replicas"), "{said:?}");
    let generation = "--output=jsonpath={.metadata.generation}";
    assert_eq!(
        arena.kubectl(&["get", "kvc", "good", generation]).await.good("kubectl get kvc"),
        "1",
        "nothing was changed"
    );
    arena.end().await;
}
