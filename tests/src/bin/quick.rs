//! `make quick`: six nodes, health, a write and reads by curl and through every face, and everything cleaned up again.

// A check that fails ends the program, with what was wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use quorate_tests::process::run;
use quorate_tests::{Cluster, Resp, eventually};

async fn curl(arguments: &[&str]) -> String {
    println!("  $ curl {}", arguments.join(" "));
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "10"]).args(arguments);
    let (code, out, err) = run(command, Duration::from_secs(15)).await;
    assert_eq!(code, 0, "curl failed (`make setup` installs it): {err}");
    println!("    {out}");
    out
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let begun = Instant::now();
    println!("starting six nodes, W=4");
    let cluster = Cluster::start(6, 4).await;
    cluster.all_ready().await;
    println!("health");
    let leader = cluster.leader().await;
    for node in &cluster.nodes {
        assert!(curl(&[&format!("{}/health", node.url)]).await.contains(r#""status":"healthy""#));
    }
    println!("a write on the leader, reads from every node");
    let body = r#"{"key":"hello","value":"world"}"#;
    let write = format!("{}/write", leader.url);
    let answer = curl(&["-X", "POST", &write, "-H", "Content-Type: application/json", "-d", body]).await;
    assert!(answer.contains(r#""success":true"#));
    for node in &cluster.nodes {
        eventually("the write is everywhere", async || {
            match cluster.contents(0).await? == node_contents(&cluster, node).await? {
                true => Ok(()),
                false => Err(node.name.clone()),
            }
        })
        .await;
        assert!(curl(&[&format!("{}/read/hello", node.url)]).await.contains(r#""value":"world""#));
    }
    println!("a write on a follower is refused, over /v1 it is passed on");
    let follower = cluster.follower().await;
    let refused =
        curl(&["-X", "POST", &format!("{}/write", follower.url), "-H", "Content-Type: application/json", "-d", body])
            .await;
    assert!(refused.contains("\"leader\""));
    assert!(curl(&["-X", "PUT", &format!("{}/v1/kv/any", follower.url), "-d", "node"]).await.contains("\"copies\""));
    println!("the Redis and the line protocol");
    assert_eq!(follower.redis().await.call(&["GET", "any"]).await, Resp::bulk("node"));
    let line = leader.lines().await.ask("GET hello").await;
    println!("  GET hello → {line}");
    assert_eq!(line, r#"{"status":"OK","value":"world"}"#);
    drop(cluster);
    println!("everything works, and all is cleaned up, after {:.1} s", begun.elapsed().as_secs_f64());
}

async fn node_contents(cluster: &Cluster, node: &quorate_tests::Node) -> Result<String, String> {
    let at = cluster.nodes.iter().position(|n| n.name == node.name).expect("one of ours");
    cluster.contents(at).await
}
