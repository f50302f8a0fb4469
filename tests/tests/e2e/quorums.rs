//! Every write quorum in turn on one running cluster, and the simulated network.

use std::time::{Duration, Instant};

use quorate_tests::{Answer, Cluster, Setup, eventually};
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn every_write_quorum_in_turn_and_all_nodes_agree_on_values_and_versions() {
    let cluster = Cluster::start(5, 1).await;
    cluster.all_ready().await;
    for w in 1..=5_usize {
        cluster.set_write_quorum(w).await;
        let leader = cluster.leader().await;
        let writers: Vec<_> = (0..100)
            .map(|writer| {
                let (http, url) = (cluster.http.clone(), format!("{}/write", leader.url));
                tokio::spawn(async move {
                    let mut fewest = usize::MAX;
                    for key in 0..10 {
                        let body = json!({"key": format!("key-{key}"), "value": format!("{w}/{writer}/{key}")});
                        let answer = Answer::of(http.post(&url).json(&body)).await.expect(200).json();
                        assert_eq!(answer["success"], true);
                        fewest = fewest.min(answer["copies"].as_u64().expect("copies") as usize);
                    }
                    fewest
                })
            })
            .collect();
        for writer in writers {
            let fewest = writer.await.expect("all ten writes");
            assert!(fewest >= w, "acknowledged with {fewest} copies at W={w}");
        }
        for node in cluster.nodes.iter().filter(|n| n.url != leader.url) {
            node.post("/write", &json!({"key":"key-0","value":"refused"})).await.expect(403);
        }
        let contents = cluster.converged().await;
        let items: Vec<quorate_api::KeyValue> =
            contents.lines().map(|l| serde_json::from_str(l).expect("an item")).collect();
        assert_eq!(items.len(), 10);
        assert!(items.iter().all(|i| i.version == 100 * w as u64), "every write counts once: {contents}");
    }
    assert_eq!(cluster.nodes[0].status().await.node.incarnation, 1, "nothing was restarted");
}

#[tokio::test]
async fn a_simulated_delay_adds_its_time_to_a_write_and_does_not_cap_many() {
    let plain = latency_and_rate(Setup::new(3, 2)).await;
    let slow = latency_and_rate(Setup::new(3, 2).flag("--min-delay", "40ms").flag("--max-delay", "60ms")).await;
    println!("median and writes a second of 64 clients: without delay {plain:?}, with 40 to 60 ms {slow:?}");
    let added = slow.0.saturating_sub(plain.0);
    // W=2: the faster of two followers, drawn from 40 to 60 ms each.
    assert!(added > Duration::from_millis(30) && added < Duration::from_millis(400), "{added:?} more");
    // One after the other they would be 20 a second. Together they take about as long as one alone, unless the machine is what limits them.
    let together = CLIENTS as f64 / slow.0.as_secs_f64();
    assert!(slow.1 > 100.0 && slow.1 > together.min(plain.1) / 3.0, "{} a second, {} without", slow.1, plain.1);
}

/// Clients at once.
const CLIENTS: usize = 64;

/// The median latency of one client, and the writes a second of [`CLIENTS`].
async fn latency_and_rate(setup: Setup) -> (Duration, f64) {
    let cluster = setup.start().await;
    cluster.all_ready().await;
    let leader = cluster.leader().await;
    let mut times = Vec::new();
    for n in 0..21 {
        let begun = Instant::now();
        leader.put(&format!("/v1/kv/one-{n}"), "v").await.expect(200);
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let begun = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (http, url) = (cluster.http.clone(), leader.url.clone());
            tokio::spawn(async move {
                for n in 0..10 {
                    Answer::of(http.put(format!("{url}/v1/kv/many-{client}-{n}")).body("v")).await.expect(200);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("its writes");
    }
    let rate = CLIENTS as f64 * 10.0 / begun.elapsed().as_secs_f64();
    cluster.converged().await;
    (times[10], rate)
}

#[tokio::test]
async fn heartbeats_do_not_wait_behind_the_simulated_delay() {
    let setup = Setup::new(3, 2).flag("--election-timeout", "1s-1900ms");
    let cluster = setup.flag("--min-delay", "2s").start().await;
    let leader = cluster.leader().await;
    let term = leader.status().await.term;
    let begun = Instant::now();
    leader.put("/v1/kv/k", "v").await.expect(200);
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
    // Longer than any election timeout, and nobody stood for election.
    eventually("both nodes have it", || async {
        for node in &cluster.nodes {
            let read = Answer::of(node.request(Method::GET, "/read/k")).await;
            if read.status != 200 {
                return Err(format!("{}: {}", node.name, read.text()));
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(leader.status().await.term, term);
}
