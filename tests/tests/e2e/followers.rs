//! Followers come and go: what goes on without them, and how they catch up.

use std::time::Duration;

use quorate_tests::load::Load;
use quorate_tests::{Answer, Setup, eventually};
use reqwest::Method;

/// Seconds: nobody stands for election so soon while the leader runs, however busy the machine is.
const STEADY: u64 = 10;

#[tokio::test]
async fn writes_go_on_while_the_quorum_is_there_and_below_it_are_refused_for_good() {
    let mut cluster = Setup::new(5, 4).flag("--request-timeout", "1s").start().await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    let others: Vec<usize> = (0..5).filter(|n| *n != leader).collect();
    cluster.nodes[leader].put("/v1/kv/first", "v").await.expect(200);
    cluster.nodes[others[0]].kill();
    for n in 0..20 {
        cluster.nodes[leader].put(&format!("/v1/kv/four-{n}"), "v").await.expect(200);
    }
    // W=4, C=3: with three left writes stop, leadership, reads and configuration changes go on.
    cluster.nodes[others[1]].kill();
    let mut number = 0;
    eventually("writes are refused before they are appended", async || {
        number += 1;
        let answer = cluster.nodes[leader].put(&format!("/v1/kv/below-{number}"), "v").await;
        match (answer.status, answer.code().as_str()) {
            (503, "no_quorum") => Ok(()),
            // The leader had not missed the node yet.
            (504, "outcome_unknown") => Err("unknown".to_owned()),
            _ => panic!("{} {}", answer.status, answer.text()),
        }
    })
    .await;
    for n in 0..20 {
        let refused = cluster.nodes[others[2]].put(&format!("/v1/kv/refused-{n}"), "v").await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "no_quorum"), "{}", refused.text());
        assert!(!refused.header("retry-after").is_empty());
    }
    for n in [leader, others[2], others[3]] {
        assert_eq!(cluster.nodes[n].get("/v1/kv/first").await.expect(200).text(), "v", "linearizable reads go on");
        assert_eq!(cluster.nodes[n].get("/read/four-19").await.expect(200).json()["found"], true, "local reads go on");
    }
    let status = cluster.nodes[leader].status().await;
    assert_eq!((status.tolerates.live, status.tolerates.writes), (Some(3), Some(0)), "{:?}", status.tolerates);
    cluster.nodes[others[0]].start();
    eventually("writes go on", || async {
        let put = cluster.nodes[leader].put("/v1/kv/after", "v").await;
        if put.status == 200 { Ok(()) } else { Err(put.text()) }
    })
    .await;
    cluster.nodes[others[1]].start();
    cluster.all_ready().await;
    let contents = cluster.converged().await;
    assert!(!contents.contains("\"refused-"), "a refused write appeared: {contents}");
    assert_eq!(contents.lines().filter(|l| l.contains("\"four-")).count(), 20);
}

#[tokio::test]
async fn without_even_the_commit_quorum_only_local_reads_are_left() {
    let mut cluster = Setup::new(3, 2).flag("--request-timeout", "1s").start().await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    cluster.nodes[leader].put("/v1/kv/k", "v").await.expect(200);
    cluster.converged().await;
    others.iter().for_each(|n| cluster.nodes[*n].kill());
    eventually("a linearizable read is refused", || async {
        let read = cluster.nodes[leader].get("/v1/kv/k").await;
        if read.status == 503 { Ok(()) } else { Err(format!("{} {}", read.status, read.text())) }
    })
    .await;
    eventually("leadership is given up", || async {
        let status = cluster.nodes[leader].try_status().await?;
        if status.node.role == "leader" { Err("it leads".to_owned()) } else { Ok(()) }
    })
    .await;
    let refused = cluster.nodes[leader].put("/v1/kv/k", "w").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "no_leader"));
    assert_eq!(cluster.local(leader, "k").await.as_deref(), Some("v"));
    cluster.start_all();
    cluster.leader_number().await;
    assert!(cluster.converged().await.contains(r#""value":"v""#), "the refused write did not happen");
}

#[tokio::test]
async fn a_follower_that_missed_more_than_the_log_keeps_catches_up_from_a_snapshot() {
    let setup = Setup::new(3, 2).flag("--value-max", "64KiB").flag("--segment-size", "1MiB").flag("--log-keep", "1MiB");
    let mut cluster = setup.start().await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    let late = (leader + 1) % 3;
    for n in 0..20 {
        cluster.nodes[leader].put(&format!("/v1/kv/old-{n}"), "from before").await.expect(200);
    }
    cluster.nodes[late].kill();
    let first = quorate_tests::damage::segments(&cluster.nodes[leader].dir).remove(0);
    for n in 0..20 {
        cluster.nodes[leader].delete(&format!("/v1/kv/old-{n}")).await.expect(200);
    }
    let value = "x".repeat(60_000);
    let mut written = 0;
    eventually("the log is cut", async || {
        written += 1;
        let put = cluster.nodes[leader].put(&format!("/v1/kv/big-{}", written % 100), value.clone()).await;
        put.expect(200);
        if first.exists() { Err(format!("{written} values of 60 kB later it is not")) } else { Ok(()) }
    })
    .await;
    cluster.nodes[leader].put("/v1/kv/last", "v").await.expect(200);
    cluster.nodes[late].start();
    assert!(cluster.nodes[late].runs());
    let contents = cluster.converged().await;
    assert!(!contents.contains("\"old-"), "what was deleted meanwhile is gone");
    eventually("it serves reads", || async {
        let read =
            Answer::try_of(cluster.nodes[late].request(Method::GET, "/v1/kv/last")).await.map_err(|e| e.to_string())?;
        if read.text() == "v" { Ok(()) } else { Err(read.text()) }
    })
    .await;
    // It counts again, and it holds what it holds across a restart.
    cluster.nodes[leader].put("/v1/kv/all?w=3", "v").await.expect(200);
    cluster.nodes[late].kill();
    cluster.nodes[late].start();
    cluster.all_ready().await;
    cluster.converged().await;
}

#[tokio::test]
async fn followers_that_come_and_go_under_load_never_stop_the_writes() {
    let mut cluster = Setup::new(3, 2).elections_after(STEADY).start().await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    let load = Load::start(&cluster, 8);
    for round in 0..4 {
        let follower = (leader + 1 + round % 2) % 3;
        load.more(100).await;
        if round < 2 {
            cluster.nodes[follower].kill();
            load.more(100).await;
            cluster.nodes[follower].start();
        } else {
            cluster.nodes[follower].pause();
            load.more(20).await;
            cluster.nodes[follower].resume();
        }
        cluster.all_ready().await;
    }
    let record = load.stop().await;
    println!("followers come and go: {}", record.summary());
    assert_eq!(cluster.leader_number().await, leader, "the leader stayed");
    assert!(record.longest_gap() < Duration::from_secs(STEADY), "{}", record.summary());
    record.verify(&cluster.converged().await);
}
