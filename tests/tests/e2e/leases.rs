//! Reads by lease: no round of confirmation, and never a stale one.

use std::time::{Duration, Instant};

use quorate_tests::{Answer, Cluster, Node, Setup, eventually};

/// Reads one after the other; a read that needs a round of its own makes as many rounds.
const READS: u64 = 300;

/// Between two heartbeats, unless a node is told otherwise.
const HEARTBEAT: Duration = Duration::from_millis(100);

async fn cluster(leases: &str) -> Cluster {
    let cluster = Setup::new(3, 2).flag("--lease-reads", leases).start().await;
    cluster.all_ready().await;
    cluster
}

/// Answers to heartbeats that a leader has counted so far, of both followers.
async fn answered_rounds(leader: &Node) -> u64 {
    let metrics = leader.get("/metrics").await.expect(200).text();
    let counts = metrics.lines().filter(|l| l.starts_with("quorate_peer_round_trip_seconds_count"));
    counts.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// The rounds answered, and how many answers to heartbeats there were in the time.
async fn rounds_of_reads(leases: &str) -> (u64, u64) {
    let cluster = cluster(leases).await;
    let leader = cluster.leader().await;
    leader.put("/v1/kv/k", "v").await.expect(200);
    let (begun, before) = (Instant::now(), answered_rounds(leader).await);
    for _ in 0..READS {
        assert_eq!(leader.get("/v1/kv/k").await.expect(200).text(), "v");
    }
    let answered = answered_rounds(leader).await - before;
    (answered, 2 * (begun.elapsed().as_millis() / HEARTBEAT.as_millis()) as u64)
}

#[tokio::test]
async fn a_read_by_lease_costs_no_round() {
    let ((with, heartbeats), (without, _)) = (rounds_of_reads("true").await, rounds_of_reads("false").await);
    assert!(without >= READS, "{without} answers to rounds for {READS} reads that need one each");
    assert!(
        with < READS / 2 + heartbeats,
        "{with} answers to rounds for {READS} reads by lease: only {heartbeats} answers to heartbeats were expected"
    );
}

#[tokio::test]
async fn a_leader_paused_for_longer_than_its_lease_serves_no_stale_read_when_it_wakes() {
    let cluster = cluster("true").await;
    let old = cluster.leader_number().await;
    cluster.nodes[old].put("/v1/kv/k", "before").await.expect(200);
    assert_eq!(cluster.nodes[old].get("/v1/kv/k").await.expect(200).text(), "before");
    cluster.nodes[old].pause();
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    eventually("another node takes the write", || async {
        for n in &others {
            if cluster.nodes[*n].put("/v1/kv/k", "after").await.status == 200 {
                return Ok(());
            }
        }
        Err("refused".to_owned())
    })
    .await;
    // Several, asked while it stands still: they wait in their sockets and are the first things it sees.
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let request = cluster.nodes[old].request(reqwest::Method::GET, "/v1/kv/k?forward=false");
            tokio::spawn(async move { Answer::of(request).await })
        })
        .collect();
    tokio::task::yield_now().await;
    cluster.nodes[old].resume();
    for answer in asked {
        assert_ne!(answer.await.expect("an answer").text(), "before", "a stale read by lease");
    }
    cluster.converged().await;
}
