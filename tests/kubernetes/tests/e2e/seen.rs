//! What a real Prometheus sees of the nodes and of the operator, and that the dashboards ask for nothing else.

use std::collections::BTreeSet;

use kube::ResourceExt;
use kube::api::ListParams;
use quorate_kubernetes::arena::PATIENCE;
use quorate_kubernetes::{Arena, Forward};
use quorate_operator::names;
use quorate_tests::prometheus::metrics_in;
use quorate_tests::{Prometheus, dashboards, eventually_in};
use serde_json::json;

/// Where the operator serves its metrics.
const OPERATOR_PORT: u16 = 8080;

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_nodes_and_operator_and_finds_every_metric_of_the_dashboards() {
    let arena = Arena::with_demo("seen").await;
    let mut forwards = Vec::new();
    let (mut nodes, mut operators) = (Vec::new(), Vec::new());
    // The labels are those that the chart's monitors give.
    for pod in names::pods("demo", 3) {
        let forward = Forward::to_node(&arena.pods(), &pod).await;
        let labels = json!({ "namespace": arena.namespace, "cluster": "demo", "pod": pod });
        nodes.push(json!({ "targets": [forward.addresses[0]], "labels": labels }));
        forwards.push(forward);
    }
    let of = ListParams::default().labels("app.kubernetes.io/name=quorate-operator");
    for pod in arena.pods().list(&of).await.expect("pods").items {
        let forward = Forward::new(&arena.pods(), &pod.name_any(), &[OPERATOR_PORT]).await;
        let labels = json!({ "namespace": arena.namespace, "pod": pod.name_any() });
        operators.push(json!({ "targets": [forward.addresses[0]], "labels": labels }));
        forwards.push(forward);
    }
    let jobs = [
        json!({ "job_name": "quorate", "static_configs": nodes }),
        json!({ "job_name": "quorate-operator", "static_configs": operators }),
    ];
    let prometheus = Prometheus::scraping(&jobs, None).await;
    // A metric of what never happened need not be there: a little of what the dashboards draw.
    arena.through("demo", "PUT", "/v1/kv/seen", "by Prometheus").await.expect("a write");
    arena.through("demo", "GET", "/v1/kv/seen", "").await.expect("a read");
    arena.through("demo", "GET", "/v1/kv/seen?consistency=none", "").await.expect_err("a refusal");

    eventually_in(PATIENCE, "three nodes and an operator are scraped", async || {
        let up = prometheus.query("sum(up)").await?;
        match up.first().and_then(|v| v["value"][1].as_str()) {
            Some("4") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let asked: BTreeSet<String> = dashboards::all().iter().flat_map(|(_, text)| metrics_in(text)).collect();
    eventually_in(PATIENCE, "every metric of the dashboards is exported", async || {
        let known: BTreeSet<String> = prometheus.values("__name__").await?.into_iter().collect();
        let missing: Vec<&String> = asked.difference(&known).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    })
    .await;
    let leaders =
        prometheus.query("count by (cluster) (quorate_build_info{cluster=\"demo\"})").await.expect("an answer");
    assert_eq!(leaders[0]["value"][1], "3", "{leaders:?}");
    println!("{} metrics of the dashboards, all of them seen", asked.len());
    arena.end().await;
}
