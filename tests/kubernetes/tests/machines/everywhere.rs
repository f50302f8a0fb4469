//! The chart with its defaults: two operators that serve every namespace. It would serve those of other tests, too, so
//! it is tried where one runs at a time.

use quorate_kubernetes::clients::SILENCE_MAX;
use quorate_kubernetes::{Arena, Clients, THREE_COPIES};

/// Not the name that README's line has: whatever the chart calls by it must bear this one.
const RELEASE: &str = "anywhere";

#[tokio::test(flavor = "multi_thread")]
async fn what_readme_installs_serves_every_namespace_and_lacks_no_right() {
    let system = Arena::everywhere("system", RELEASE).await;
    // Its rights reach into a namespace that was made after it.
    let shop = Arena::empty("shop").await;
    shop.apply(THREE_COPIES).await.good("kubectl apply");
    shop.settled("demo").await;

    // Whatever it does of its own accord: pods that come, another configuration, pods that are made anew, and Events of
    // all that.
    let clients = Clients::start(&shop, "demo", 3).await;
    let wanted = "{\"replicas\":4,\"writeQuorum\":3,\"podTemplate\":{\"labels\":{\"rolled\":\"once\"}}}";
    shop.patch("demo", wanted).await;
    let status = shop.settled("demo").await;
    assert_eq!((status.members.len(), status.write_quorum), (4, Some(3)), "{status:?}");
    clients.more(20).await;
    clients.judged().await.silent_at_most(SILENCE_MAX);
    shop.labelled(&status.leader.expect("a leader")).await;
    let first = ["Forming", "ClusterFormed", "LeaderChanged", "Available"];
    let then = ["ScalingUp", "ConfigurationChanged", "WriteQuorumChanged", "RollingOut", "PodReplaced", "Settled"];
    shop.told("demo", &[first.as_slice(), &then].concat()).await;

    // In its own namespace it serves as well: the chart's test makes a cluster there, writes and reads.
    system.helm(&["test", RELEASE, "--timeout", "3m"]).await.good("helm test");

    let operator = format!("{RELEASE}-quorate-operator");
    let holder = ["get", "lease", &operator, "--output=jsonpath={.spec.holderIdentity}"];
    let holder = system.kubectl(&holder).await.good("kubectl get lease");
    assert!(holder.starts_with(&operator), "one of the two acts: {holder:?}");
    let logs = ["logs", "--selector=app.kubernetes.io/name=quorate-operator", "--tail=-1", "--prefix"];
    let logs = system.kubectl(&logs).await.good("kubectl logs");
    let lacks: Vec<&str> = logs.lines().filter(|l| l.contains("is forbidden: User")).collect();
    assert!(lacks.is_empty(), "a right is missing: {lacks:#?}");

    shop.kubectl(&["delete", "kvc", "demo", "--wait"]).await.good("kubectl delete");
    shop.leaves("demo", (0, 4)).await;
    shop.end().await;
    system.end().await;
}
