//! `make basic`: ten writes, read from all six nodes, compared in detail.

// A check that fails ends the program, with what was wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use quorate_tests::Cluster;
use serde_json::json;

const WRITES: usize = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let begun = Instant::now();
    let cluster = Cluster::start(6, 4).await;
    cluster.all_ready().await;
    let leader = cluster.leader().await;
    println!("{} leads six nodes, 4 copies acknowledge a write\n", leader.name);
    for n in 0..WRITES {
        let (key, value) = (format!("key-{n}"), format!("value-{n}"));
        let sent = Instant::now();
        let answer = leader.post("/write", &json!({"key": key, "value": value})).await.expect(200).json();
        let took = sent.elapsed().as_secs_f64() * 1e3;
        println!(
            "write {key} = {value}: {} copies ({} followers), revision {}, version {}, {took:.1} ms",
            answer["copies"], answer["quorum_reached"], answer["revision"], answer["version"]
        );
    }
    let agreed = cluster.converged().await;
    println!();
    let mut right = 0;
    for node in &cluster.nodes {
        let mut found = Vec::new();
        for n in 0..WRITES {
            let answer = node.get(&format!("/read/key-{n}")).await.expect(200).json();
            assert_eq!(answer["value"], format!("value-{n}"), "key-{n} on {}", node.name);
            found.push(answer["version"].to_string());
            right += 1;
        }
        println!("{}: {} of {WRITES} keys right, versions {}", node.name, found.len(), found.join(" "));
    }
    println!(
        "\nconsistency: {right} of {} reads right; all six nodes hold the same {} keys, revisions and versions",
        6 * WRITES,
        agreed.lines().count()
    );
    drop(cluster);
    println!("done and cleaned up after {:.1} s", begun.elapsed().as_secs_f64());
}
