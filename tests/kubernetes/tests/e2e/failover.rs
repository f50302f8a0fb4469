//! Writes go on while pods die.

use std::time::{Duration, Instant};

use kube::api::DeleteParams;
use quorate_history::check;
use quorate_kubernetes::{Arena, Forward};
use quorate_tests::{Settings, Workload};

use super::THREE_COPIES;

/// Leaders deleted in the ordinary run, and in the long one, whose median and worst are worth printing.
const DELETIONS: usize = 3;
const DELETIONS_NIGHTLY: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_leaders_are_deleted_and_nothing_is_lost_or_stale() {
    let arena = Arena::new("failover").await;
    arena.apply(THREE_COPIES).await.good("kubectl apply");
    arena.settled("demo").await;
    let forwards = arena.forwards(&["demo-leader-0", "demo-follower-0", "demo-follower-1"]).await;
    let targets: Vec<_> = forwards.iter().map(Forward::target).collect();
    // Every operation passes the API server and a kubelet: few clients, or they would measure those.
    let settings =
        Settings { http_clients: 3, redis_clients: 1, pause: Duration::from_millis(20), ..Settings::default() };
    let workload = Workload::start(&targets, &settings);
    workload.more(20).await;

    let nightly = std::env::var_os("QUORATE_NIGHTLY").is_some();
    let mut gaps = Vec::new();
    for round in 0..if nightly { DELETIONS_NIGHTLY } else { DELETIONS } {
        let leader = arena.settled("demo").await.leader.expect("a leader");
        let before = arena.pods().get(&leader).await.expect("the leader's pod").metadata.uid;
        let deleted = Instant::now();
        // At once, as when its machine dies: no time to hand over.
        let at_once = DeleteParams::default().grace_period(0);
        arena.pods().delete(&leader, &at_once).await.expect("a deletion");
        workload.more(5).await;
        gaps.push(deleted.elapsed());
        println!("round {round}: {leader} deleted, the fifth write after {:.2} s", deleted.elapsed().as_secs_f64());
        arena.settled("demo").await;
        let after = arena.pods().get(&leader).await.expect("the pod again").metadata.uid;
        assert_ne!(before, after, "{leader} is another pod of the same name");
    }
    workload.more(20).await;
    let history = workload.stop().await;
    gaps.sort_unstable();
    println!(
        "from the deletion of the leader's pod to the fifth write: median {:.2} s, worst {:.2} s of {}; {} operations",
        gaps[gaps.len() / 2].as_secs_f64(),
        gaps[gaps.len() - 1].as_secs_f64(),
        gaps.len(),
        history.operations.len(),
    );
    if let Err(violation) = check(&history.operations) {
        panic!("{violation}");
    }
    arena.end().await;
}
