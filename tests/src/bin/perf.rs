//! `make perf`: every write quorum in turn on one running cluster, 100 concurrent writers on 10 keys each, and what it costs.
//!
//! `NODES` (6), `MIN_DELAY` (0.1ms) and `MAX_DELAY` (1ms) may be set.

// A check that fails ends the program, with what was wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use quorate_tests::{Answer, Cluster, Setup};
use serde_json::json;

const WRITERS: usize = 100;
const KEYS: usize = 10;

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).ok().filter(|v| !v.is_empty()).unwrap_or_else(|| default.to_owned())
}

#[tokio::main]
async fn main() {
    let nodes: usize = setting("NODES", "6").parse().expect("NODES is a number");
    let (min, max) = (setting("MIN_DELAY", "0.1ms"), setting("MAX_DELAY", "1ms"));
    println!("{nodes} nodes, {WRITERS} writers at once on {KEYS} keys each, delay of each append {min} to {max}\n");
    let cluster = Setup::new(nodes, 1).flag("--min-delay", &min).flag("--max-delay", &max).start().await;
    cluster.all_ready().await;
    println!("  W   success   p50 ms   p95 ms   p99 ms   max ms   writes/s   nodes agree");
    for w in 1..=nodes {
        cluster.set_write_quorum(w).await;
        let (times, failed, took) = round(&cluster, w).await;
        let at = |part: f64| {
            times
                .get(((times.len() as f64 * part) as usize).min(times.len() - 1))
                .map_or(0.0, |t| t.as_secs_f64() * 1e3)
        };
        let all = times.len() + failed;
        let keys = cluster.converged().await.lines().count();
        println!(
            "{w:>3}  {:>7.1}%  {:>7.2}  {:>7.2}  {:>7.2}  {:>7.2}  {:>9.0}   {keys} keys",
            100.0 * times.len() as f64 / all as f64,
            at(0.50),
            at(0.95),
            at(0.99),
            at(1.0),
            times.len() as f64 / took.as_secs_f64(),
        );
    }
    println!("\nall {nodes} nodes hold the same values and versions after every round; nothing was restarted");
}

/// Latencies of the writes that succeeded, sorted; how many did not; how long all took.
async fn round(cluster: &Cluster, w: usize) -> (Vec<Duration>, usize, Duration) {
    let url = format!("{}/write", cluster.leader().await.url);
    let begun = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (http, url) = (cluster.http.clone(), url.clone());
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(KEYS);
                for key in 0..KEYS {
                    let body = json!({"key": format!("key-{key}"), "value": format!("W={w} writer {writer}")});
                    let sent = Instant::now();
                    if Answer::try_of(http.post(&url).json(&body)).await.is_ok_and(|a| a.status == 200) {
                        times.push(sent.elapsed());
                    }
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for writer in writers {
        times.extend(writer.await.expect("a writer"));
    }
    let took = begun.elapsed();
    times.sort_unstable();
    assert!(!times.is_empty(), "no write succeeded at W={w}");
    let failed = WRITERS * KEYS - times.len();
    (times, failed, took)
}
