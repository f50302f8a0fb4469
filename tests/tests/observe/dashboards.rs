//! The dashboards in the chart: up to date, well formed, and with data in every panel.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_tests::load::Load;
use quorate_tests::prometheus::metrics_in;
use quorate_tests::{Cluster, Prometheus, RespClient, dashboards};
use serde_json::Value;

/// Units of Grafana that are used. Another one is added here once it was seen to be known to Grafana.
const UNITS: [&str; 8] = ["none", "short", "s", "ops", "reqps", "bytes", "Bps", "percentunit"];

fn all() -> Vec<(&'static str, Value)> {
    let parsed = |(name, text): (&'static str, String)| (name, serde_json::from_str(&text).expect("JSON"));
    dashboards::all().into_iter().map(parsed).collect()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// The panels that show something, each with the name of its dashboard.
fn panels(all: &[(&'static str, Value)]) -> Vec<(String, Value)> {
    let of = |(file, dashboard): &(&str, Value)| {
        let shown = list(dashboard, "panels").iter().filter(|p| p["type"] != "row");
        shown.map(|p| (format!("{file}: {}", p["title"]), p.clone())).collect::<Vec<_>>()
    };
    all.iter().flat_map(of).collect()
}

/// What narrows a dashboard down.
fn variables(file: &str) -> &'static [&'static str] {
    if file.starts_with("operator") { &["job", "namespace", "pod"] } else { &["job", "namespace", "cluster", "pod"] }
}

fn queries(panel: &Value) -> Vec<String> {
    list(panel, "targets").iter().map(|t| t["expr"].as_str().expect("a query").to_owned()).collect()
}

#[test]
fn the_files_in_the_chart_are_those_of_the_list() {
    for (name, text) in dashboards::all() {
        let file = dashboards::folder().join(name);
        let there = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(there == text, "{name} is stale: run `cargo run -p quorate-tests --bin dashboards`");
    }
}

// The rules of Grafana's own linter that concern dashboards of one Prometheus, but for its variable `instance`, in
// whose place there is `pod`.
#[test]
fn every_dashboard_has_the_variables_and_every_panel_its_unit_description_and_matchers() {
    let all = all();
    for (file, dashboard) in &all {
        assert!(dashboard["uid"].as_str().is_some_and(|uid| uid.starts_with("quorate-") && uid.len() <= 40), "{file}");
        assert_eq!(dashboard["editable"], false, "{file}");
        let names: Vec<&str> =
            list(&dashboard["templating"], "list").iter().filter_map(|v| v["name"].as_str()).collect();
        assert_eq!(names, [&["datasource"], variables(file)].concat(), "{file}");
        for variable in &list(&dashboard["templating"], "list")[1..] {
            assert_eq!(variable["datasource"]["uid"], "${datasource}", "{variable}");
            // Asked anew when the range of time changes.
            assert_eq!(variable["refresh"], 2, "{variable}");
        }
        let ids: BTreeSet<u64> = list(dashboard, "panels").iter().filter_map(|p| p["id"].as_u64()).collect();
        assert_eq!(ids.len(), list(dashboard, "panels").len(), "{file}: ids");
        let mut taken = BTreeSet::new();
        for panel in list(dashboard, "panels") {
            let at = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
            for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
                assert!(x < 24 && taken.insert((x, y)), "{file}: {} lies over another panel", panel["title"]);
            }
        }
    }
    for (name, panel) in panels(&all) {
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(UNITS.contains(&defaults["unit"].as_str().unwrap_or_default()), "{name}: {}", defaults["unit"]);
        assert!(panel["description"].as_str().is_some_and(|d| d.len() > 8), "{name}: no description");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}");
        assert!(!queries(&panel).is_empty(), "{name}: asks nothing");
        for query in queries(&panel) {
            assert!(!query.contains('%'), "{name}: {query}");
            let metrics = metrics_in(&query).len();
            for variable in variables(&name) {
                let matcher = format!("{variable}=~\"${variable}\"");
                assert_eq!(query.matches(&matcher).count(), metrics, "{name}: {query}");
            }
            for metric in metrics_in(&query) {
                let counter = ["_total", "_count", "_sum", "_bucket"].iter().any(|end| metric.ends_with(end));
                let rated = query.contains("rate(") || query.contains("increase(");
                assert!(!counter || rated, "{name}: {metric} only grows: {query}");
            }
            let ranges = query.matches('[').count();
            assert_eq!(query.matches("[$__rate_interval]").count(), ranges, "{name}: {query}");
        }
    }
}

#[tokio::test]
async fn every_panel_shows_data_of_a_loaded_cluster() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let prometheus = Prometheus::start(&cluster, None).await;
    let load = Load::start(&cluster, 4);
    // Requests of the other kinds, as long as it takes: reads, Redis, and one that is refused.
    let leader = cluster.leader().await;
    let others = async {
        let mut redis = RespClient::connect(&leader.tcp).await;
        loop {
            redis.call(&["SET", "k", "v"]).await;
            redis.call(&["GET", "k"]).await;
            leader.get("/v1/kv/k").await;
            let refused = leader.request(reqwest::Method::PUT, "/v1/kv/k").header("if-none-match", "*").body("v");
            assert_eq!(refused.send().await.expect("an answer").status(), 412);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = others => {}
        () = all_show_data(&prometheus) => {}
    }
    load.stop().await;
}

async fn all_show_data(prometheus: &Prometheus) {
    // The operator's dashboard is asked where an operator runs: operator/tests/live.
    let queries = ["cluster.json", "latency.json"].map(dashboards::queries).concat();
    prometheus.shows(&queries).await;
    // What the variables offer.
    for (label, expected) in [("job", 1), ("namespace", 1), ("cluster", 1), ("pod", 3)] {
        let grouped = prometheus.query(&format!("count by ({label}) (quorate_build_info)")).await.expect("an answer");
        assert_eq!(grouped.len(), expected, "{label}: {grouped:?}");
    }
    println!("{} queries, every one of them with data", queries.len());
}
