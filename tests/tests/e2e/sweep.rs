//! `quorate sweep`: every write quorum on a cluster of its own, with a node down too, and on one that is there already.

use std::time::Duration;

use quorate_tests::Cluster;
use quorate_tests::process::{command, run};
use serde_json::Value;
use tempfile::TempDir;

/// Rounds, elections that are waited for, and a machine shared with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

async fn sweep(arguments: &[&str]) -> (i32, String, String) {
    let mut command = command();
    command.arg("sweep").args(arguments);
    run(command, PATIENCE).await
}

#[tokio::test]
async fn a_sweep_measures_every_quorum_checks_the_copies_and_leaves_a_report() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("results");
    let out = out.to_str().expect("text");
    let small =
        ["--nodes", "3", "--writes", "60", "--clients", "20", "--rate", "600", "--out", out, "--output", "json"];
    let (code, text, errors) = sweep(&small).await;
    assert_eq!((code, errors.as_str()), (0, ""), "{text}");

    let report: Value = serde_json::from_str(&text).expect("JSON");
    let rounds = report["rounds"].as_array().expect("rounds");
    let of = |r: &Value, name: &str| r[name].as_u64().expect("a number");
    let shape: Vec<(u64, u64, u64)> =
        rounds.iter().map(|r| (of(r, "write_quorum"), of(r, "nodes_down"), of(r, "succeeded"))).collect();
    // With a node down nothing can be acknowledged at W=3, and everything below it.
    assert_eq!(shape, [(1, 0, 60), (1, 1, 60), (2, 0, 60), (2, 1, 60), (3, 0, 60), (3, 1, 0)], "{text}");
    for round in rounds.iter().filter(|r| r["success_rate"] == 1.0) {
        assert!(of(&round["copies"], "min") >= of(round, "write_quorum"), "{round}");
        let latency = |name: &str| round["latency"][name].as_f64().expect("a latency");
        assert!(latency("p50_ms") > 0.0 && latency("p50_ms") <= latency("max_ms"), "{round}");
        assert!(round["throughput"].as_f64().is_some_and(|t| t > 0.0) && round["converged_ms"].is_number(), "{round}");
    }
    assert_eq!(rounds[5]["errors"]["no_quorum"], 60, "{}", rounds[5]);
    let checked = &report["verification"];
    assert_eq!((of(checked, "nodes"), of(checked, "unknown")), (3, 0), "{checked}");
    assert_eq!(checked["applied"], checked["acknowledged"]);

    let at = |name: &str| std::path::Path::new(out).join(name);
    let read = |name: &str| std::fs::read(at(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let saved: Value = serde_json::from_slice(&read("sweep.json")).expect("JSON");
    assert_eq!(saved, report);
    assert_eq!(String::from_utf8_lossy(&read("sweep.csv")).lines().count(), 1 + 6);
    assert!(String::from_utf8_lossy(&read("report.md")).contains("What the numbers show"));
    for plot in
        ["latency", "distribution", "latency-1-down", "distribution-1-down", "success", "convergence", "throughput"]
    {
        assert!(read(&format!("{plot}.png")).starts_with(b"\x89PNG"), "{plot}");
        assert!(String::from_utf8_lossy(&read(&format!("{plot}.svg"))).contains("<svg"), "{plot}");
    }
}

#[tokio::test]
async fn a_running_cluster_is_swept_without_losing_a_node_and_gets_its_quorum_back() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().to_str().expect("text");
    let url = cluster.follower().await.url.clone();
    let (code, text, errors) =
        sweep(&["--url", &url, "--write-quorums", "1,3", "--writes", "40", "--clients", "10", "--out", out]).await;
    assert_eq!(code, 0, "{text}{errors}");
    assert!(text.contains("SUCCESS") && text.contains("all 3 nodes hold the same"), "{text}");
    let status = cluster.leader().await.try_status().await.expect("status");
    assert_eq!((status.config.write_quorum, status.config.changing), (2, false));
    cluster.converged().await;

    let (code, _, errors) = sweep(&["--url", &url, "--down", "1", "--out", out]).await;
    assert!(code == 2 && errors.contains("--down"), "{errors}");
}
