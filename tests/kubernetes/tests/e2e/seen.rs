//! What a real Prometheus sees of the nodes and of the operator, and that the dashboards ask for nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_kubernetes::arena::PATIENCE;
use quorate_kubernetes::{Arena, Forward};
use quorate_operator::names;
use quorate_tests::prometheus::metrics_in;
use quorate_tests::{Prometheus, dashboards, eventually_in};
use serde_json::json;

/// Where the operator serves its metrics.
const OPERATOR_PORT: u16 = 8080;

/// For so long nothing is asked of an operator that should then do nothing.
const QUIET: Duration = Duration::from_secs(30);
/// Such half minutes, of which one has to be quiet: on a machine that others use, a pod may miss a probe, and that is
/// something to look at.
const QUIETS_MAX: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_nodes_and_operator_and_finds_every_metric_of_the_dashboards() {
    let arena = Arena::with_demo("seen").await;
    let mut forwards = Vec::new();
    let mut nodes = Vec::new();
    // The labels are those that the chart's monitors give.
    for pod in names::pods("demo", 3) {
        let forward = Forward::to_node(&arena.pods(), &pod).await;
        let labels = json!({ "namespace": arena.namespace, "cluster": "demo", "pod": pod });
        nodes.push(json!({ "targets": [forward.addresses[0]], "labels": labels }));
        forwards.push(forward);
    }
    let operator = arena.operator().await.expect("an operator");
    let forward = Forward::new(&arena.pods(), &operator, &[OPERATOR_PORT]).await;
    let labels = json!({ "namespace": arena.namespace, "pod": operator });
    let operators = [json!({ "targets": [forward.addresses[0]], "labels": labels })];
    forwards.push(forward);
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

/// What of the operator's doing shows: its passes, and the versions of what it writes.
async fn doings(arena: &Arena) -> Result<(f64, Vec<String>), String> {
    let text = arena.says(&arena.operator().await?, i32::from(OPERATOR_PORT), "/metrics").await?;
    let passes = text.lines().find_map(|l| l.strip_prefix("quorate_operator_reconcile_duration_seconds_count "));
    let passes = passes.and_then(|count| count.parse().ok()).ok_or("no count of passes")?;
    let objects = "sts,svc,cm,secrets,sa,pdb,pvc,pods";
    let versions =
        "--output=jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
    let said = arena.kubectl(&["get", objects, "--selector=quorate.dev/cluster", versions]).await;
    let cluster = arena.kubectl(&["get", "kvc", versions]).await;
    if !said.ok || !cluster.ok {
        return Err(format!("{}{}", said.err, cluster.err));
    }
    Ok((passes, said.out.lines().chain(cluster.out.lines()).map(str::to_owned).collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_at_rest_is_looked_at_by_nobody_and_nothing_is_written() {
    let arena = Arena::with_demo("quiet").await;
    let mut seen = Vec::new();
    for _ in 0..QUIETS_MAX {
        arena.settled("demo").await;
        let (passes, before) = doings(&arena).await.unwrap();
        assert!(before.len() > 10 && passes > 0.0, "{before:?} after {passes} passes");
        // This is the one thing that takes time: that nothing happens in it.
        tokio::time::sleep(QUIET).await;
        let (later, after) = doings(&arena).await.unwrap();
        // One for whatever was on its way when the half minute began.
        if later - passes <= 1.0 && before == after {
            println!("{} passes in {QUIET:?} of rest, after {passes} until then", later - passes);
            arena.end().await;
            return;
        }
        seen.push((later - passes, after.into_iter().filter(|object| !before.contains(object)).collect::<Vec<_>>()));
    }
    panic!("passes in each {QUIET:?}, and what was written in it: {seen:#?}");
}
