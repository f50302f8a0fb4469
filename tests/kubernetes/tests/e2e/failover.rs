//! Writes go on while pods die, whether an operator runs or not.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use quorate_kubernetes::arena::PATIENCE;
use quorate_kubernetes::clients::SILENCE_MAX;
use quorate_kubernetes::{Arena, Clients};
use quorate_tests::eventually_in;

/// Leaders deleted: so many that median and worst say something.
const DELETIONS: usize = 20;

/// Deletes a pod and waits for nothing. Its node is told to stop by the kubelet, and hands over if it leads: what no
/// node can tell anybody is in `tests/machines`.
pub(crate) async fn kill(arena: &Arena, pod: &str) {
    arena.pods().delete(pod, &DeleteParams::default().grace_period(0)).await.expect("a deletion");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_leaders_are_deleted_and_nothing_is_lost_or_stale() {
    let arena = Arena::with_demo("failover").await;
    let clients = Clients::start(&arena, "demo", 3).await;
    let mut spans: Vec<(Duration, Duration)> = Vec::new();
    for round in 1..=DELETIONS {
        let leader = arena.settled("demo").await.leader.expect("a leader");
        let (before, _) = arena.pod(&leader).await;
        let (started, from) = (Instant::now(), clients.clock());
        kill(&arena, &leader).await;
        arena.replaced(&leader, &before).await;
        clients.more(5).await;
        spans.push((from, clients.clock()));
        println!("round {round}: {leader} was ready again after {:.1} s", started.elapsed().as_secs_f64());
    }
    arena.settled("demo").await;
    let judged = clients.judged().await;
    let mut silences: Vec<f64> = spans.iter().map(|(from, to)| judged.silence(*from, *to).as_secs_f64()).collect();
    silences.sort_by(f64::total_cmp);
    println!(
        "from the end of the leader's pod to the next acknowledged write: median {:.2} s, worst {:.2} s of {}",
        silences[silences.len() / 2],
        silences[silences.len() - 1],
        silences.len(),
    );
    // Also of what came between: leadership that returns, a pod that catches up.
    judged.silent_at_most(SILENCE_MAX);
    arena.told("demo", &["LeaderChanged", "Available"]).await;
    arena.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_needs_no_operator_and_one_that_comes_back_finds_what_happened() {
    let arena = Arena::with_demo("absent").await;
    let clients = Clients::start(&arena, "demo", 3).await;
    let term = arena.settled("demo").await.term;
    scale_operator(&arena, 0).await;

    let (before, _) = arena.pod("demo-leader-0").await;
    kill(&arena, "demo-leader-0").await;
    arena.replaced("demo-leader-0", &before).await;
    clients.more(20).await;
    // The leader's label is as the operator left it, or gone with the pod; every node passes writes on.
    arena.through("demo", "PUT", "/v1/kv/alone", "no operator").await.expect("a write");

    scale_operator(&arena, 1).await;
    // Settled it says it is already, as of before: what is new is that somebody was elected.
    eventually_in(PATIENCE, "the status tells of a later term", async || match arena.status("demo").await? {
        status if status.term > term => Ok(()),
        status => Err(format!("{status:?}")),
    })
    .await;
    let leader = arena.settled("demo").await.leader.expect("a leader");
    arena.labelled(&leader).await;
    let read = arena.through("demo-leader", "GET", "/v1/kv/alone", "").await;
    assert_eq!(read.as_deref(), Ok("no operator"));
    clients.judged().await.silent_at_most(SILENCE_MAX);
    arena.end().await;
}

/// So many operators, and no pod of one more.
async fn scale_operator(arena: &Arena, replicas: usize) {
    let wanted = format!("--replicas={replicas}");
    arena.kubectl(&["scale", "deployment/quorate-operator", &wanted]).await.good("kubectl scale");
    let pods: Api<Pod> = arena.pods();
    eventually_in(PATIENCE, &format!("{replicas} operators run"), async || {
        let of = ListParams::default().labels("app.kubernetes.io/name=quorate-operator");
        let found = pods.list(&of).await.map_err(|e| e.to_string())?.items.len();
        if found == replicas { Ok(()) } else { Err(format!("{found}")) }
    })
    .await;
}
