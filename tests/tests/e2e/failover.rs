//! The leader fails: under load, politely, with everyone else at once.

use std::time::Duration;

use quorate_tests::load::Load;
use quorate_tests::{Cluster, Setup, eventually};

/// Seconds: an election timeout that no test has time for: whoever leads nevertheless was handed leadership.
const NEVER: u64 = 20;

#[tokio::test]
async fn a_leader_killed_under_load_is_replaced_and_no_acknowledged_write_is_lost() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let load = Load::start(&cluster, 8);
    load.more(200).await;
    let old = cluster.leader_number().await;
    cluster.nodes[old].kill();
    load.more(200).await;
    let new = cluster.leader_number().await;
    assert_ne!(new, old, "another node leads");
    cluster.nodes[old].start();
    // It is the preferred one: leadership comes back by itself, while writes go on.
    cluster.led_by(old).await;
    load.more(200).await;
    let record = load.stop().await;
    println!("leader killed: {}", record.summary());
    assert!(record.longest_gap() < Duration::from_secs(30), "{}", record.summary());
    record.verify(&cluster.converged().await);
}

#[tokio::test]
async fn all_nodes_killed_at_once_under_load_lose_nothing_acknowledged() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let load = Load::start(&cluster, 8);
    for _ in 0..3 {
        load.more(150).await;
        cluster.nodes.iter_mut().for_each(|n| n.kill());
        cluster.start_all();
    }
    load.more(150).await;
    let record = load.stop().await;
    println!("all killed three times: {}", record.summary());
    record.verify(&cluster.converged().await);
}

#[tokio::test]
async fn with_every_copy_required_a_failover_keeps_reads_and_loses_nothing() {
    let mut cluster = Setup::new(3, 3).flag("--request-timeout", "1s").start().await;
    cluster.all_ready().await;
    let load = Load::start(&cluster, 8);
    load.more(100).await;
    let old = cluster.leader_number().await;
    cluster.nodes[old].kill();
    let new = cluster.leader_number().await;
    eventually("reads go on without the third copy", || async {
        let answer = cluster.nodes[new].get("/v1/kv/load-0-0").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    cluster.nodes[old].start();
    load.more(100).await;
    let record = load.stop().await;
    println!("W=3 of 3, leader killed: {}", record.summary());
    record.verify(&cluster.converged().await);
}

#[tokio::test]
async fn a_leader_that_is_asked_to_stop_hands_over_first() {
    let mut cluster = Setup::new(3, 2).elections_after(NEVER).start().await;
    cluster.all_ready().await;
    let load = Load::start(&cluster, 8);
    load.more(200).await;
    let term = cluster.leader().await.status().await.term;
    let old = cluster.leader_number().await;
    cluster.nodes[old].stop().await;
    load.more(200).await;
    let record = load.stop().await;
    println!("leader stopped: {}", record.summary());
    let new = cluster.leader().await.status().await;
    assert_eq!(new.term, term + 1, "one election, begun by the leader itself");
    // No timeout of any follower had to pass.
    assert!(record.longest_gap() < Duration::from_secs(NEVER / 2), "{}", record.summary());
    let up: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    record.verify(&cluster.converged_among(&up).await);
}

#[tokio::test]
async fn a_paused_leader_is_replaced_and_serves_no_stale_read_when_it_wakes() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let old = cluster.leader_number().await;
    cluster.nodes[old].put("/v1/kv/k", "before").await.expect(200);
    cluster.nodes[old].pause();
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    eventually("another node takes the write", || async {
        let url = format!("/v1/kv/{}", "k");
        for n in &others {
            if cluster.nodes[*n].put(&url, "after").await.status == 200 {
                return Ok(());
            }
        }
        Err("refused".to_owned())
    })
    .await;
    // Asked while it stands still: the request waits in its socket and is the first thing it sees.
    let asked = tokio::spawn({
        let request = cluster.nodes[old].request(reqwest::Method::GET, "/v1/kv/k?forward=false");
        async move { quorate_tests::Answer::of(request).await }
    });
    tokio::task::yield_now().await;
    cluster.nodes[old].resume();
    let answer = asked.await.expect("an answer");
    assert_ne!(answer.text(), "before", "a stale read");
    cluster.converged().await;
}

#[tokio::test]
async fn with_one_copy_required_nobody_takes_over_while_the_leader_is_away_and_nothing_is_lost() {
    let mut cluster = Setup::new(3, 1).flag("--request-timeout", "1s").start().await;
    cluster.all_ready().await;
    let old = cluster.leader_number().await;
    for n in 0..20 {
        cluster.nodes[old].put(&format!("/v1/kv/k{n}"), "v").await.expect(200);
    }
    cluster.nodes[old].kill();
    let other = (old + 1) % 3;
    eventually("the leader is missed", || async {
        let status = cluster.nodes[other].try_status().await?;
        if status.leader.is_none() { Ok(()) } else { Err(format!("{:?} leads", status.leader)) }
    })
    .await;
    let refused = cluster.nodes[other].put("/v1/kv/late", "v").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "no_leader"), "{}", refused.text());
    cluster.nodes[old].start();
    cluster.leader_number().await;
    let contents = cluster.converged().await;
    assert_eq!(contents.lines().count(), 20, "{contents}");
}
