//! What cannot be is refused by `kubectl` itself, with a sentence that tells what to do. Which manifests these are is
//! asked where an API server is enough (operator/tests/live/manifests.rs); here, that a person sees the sentence, also
//! those that kubectl has a part in: a name it does not know, a change, `kubectl scale`.

use quorate_kubernetes::{Arena, manifest};

#[tokio::test(flavor = "multi_thread")]
async fn bad_manifests_are_refused_with_a_sentence_that_helps() {
    let arena = Arena::new("refused").await;
    for (spec, says) in [
        (
            "{replicas: 3, writeQuorum: 4}",
            "spec.writeQuorum: more copies than spec.replicas could never hold a write: lower writeQuorum or raise replicas",
        ),
        ("{replicaz: 3}", "unknown field \"spec.replicaz\""),
        ("{storage: {capacity: 1Gi}}", "unknown field \"spec.storage.capacity\""),
        ("{failover: manual}", "supported values: \"Automatic\", \"Manual\""),
    ] {
        let said = arena.apply(&manifest("bad", spec)).await;
        assert!(!said.ok && said.err.contains(says), "{spec}: {said:?}");
    }
    assert_eq!(arena.kubectl(&["get", "kvc", "--output=name"]).await.good("kubectl get kvc"), "", "nothing was made");

    // Asleep, for no pod is needed to be refused.
    let asleep = |more: &str| manifest("good", &format!("{{hibernated: true, replicas: 3, writeQuorum: 3, {more}}}"));
    arena.apply(&asleep("storage: {size: 2Gi}")).await.good("kubectl apply");
    let said = arena.apply(&asleep("storage: {size: 1Gi}")).await;
    let says = "spec.storage.size: volumes grow only: a smaller size is refused";
    assert!(!said.ok && said.err.contains(says), "{said:?}");
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
