//! The operator's metrics, dashboard and alerts, through a real Prometheus that scrapes it at work.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_tests::prometheus::{Span, alerts, impatient, metrics_in, promtool};
use quorate_tests::{Prometheus, dashboards, pictures};
use serde_json::json;

use crate::machine::MISSING_IMAGE;
use crate::support::World;

/// A change stands still for so long until the test takes it for stuck: longer than one that goes on rests between two steps here.
const STUCK: &str = "change_stalled_seconds) > 6";

/// What a rate looks back over here: a picture begins that long after the first scrape.
const RATE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_of_the_operator_has_data_and_a_rollout_that_is_stuck_fires_until_it_goes_on() {
    let world = World::new("seen").await;
    world.create("demo", json!({"replicas": 3})).await;
    world.settled("demo").await;
    let address = world.rights.address().await;
    let rules = impatient(&alerts("operator.yaml")).replace("change_stalled_seconds) > 900", STUCK);
    assert!(rules.contains(STUCK), "the alert is written otherwise now");
    let labels = json!({"namespace": world.namespace, "pod": "quorate-operator-0"});
    let job = json!({"job_name": "quorate-operator", "static_configs": [{"targets": [address], "labels": labels}]});
    let prometheus = Prometheus::scraping(&[job], Some(&rules)).await;
    let broken = ["QuorateOperatorNotLeading", "QuorateOperatorStale", "QuorateRolloutStuck"];
    prometheus.fires(&[], &broken).await;
    // The first rates need some scrapes.
    let from = now() + RATE.as_secs_f64();
    tokio::time::sleep(2 * RATE).await;

    world.patch("demo", json!({"spec": {"image": MISSING_IMAGE}})).await;
    // A rollout that stands still is looked at seldom, and the percentiles are to be those of something.
    let panels = dashboards::queries("operator.json");
    tokio::select! {
        () = prometheus.shows(&panels) => {}
        () = touched(&world) => {}
    }
    prometheus.fires(&["QuorateRolloutStuck"], &["QuorateOperatorNotLeading", "QuorateOperatorStale"]).await;
    let known = prometheus.values("__name__").await.expect("names");
    for alert in prometheus.rules().await.expect("the rules") {
        for metric in metrics_in(alert["query"].as_str().expect("a query")) {
            assert!(known.contains(&metric), "{} asks for {metric}, which the operator does not export", alert["name"]);
        }
    }
    let text = reqwest::get(format!("http://{address}/metrics")).await.expect("an answer").text().await.expect("text");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("metrics");
    std::fs::write(&file, &text).expect("a file");
    assert_eq!(promtool(&["check", "metrics"], Some(&file)), (true, String::new()));
    assert!(!text.contains("demo"), "a KVCluster is named in a label");

    world.patch("demo", json!({"spec": {"image": "quorate:better"}})).await;
    world.until("demo", "all pods have the better image", |s| s.image.as_deref() == Some("quorate:better")).await;
    world.settled("demo").await;
    prometheus.fires(&[], &broken).await;
    picture(&prometheus, from).await;
}

/// Changes something every second that leads to a pass and to nothing else.
async fn touched(world: &World) {
    for n in 0u64.. {
        world.patch("demo", json!({"metadata": {"annotations": {"tests/touched": n.to_string()}}})).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Draws the dashboard as it was since `from`, for whoever wants to look; `make pictures` takes it from there.
async fn picture(prometheus: &Prometheus, from: f64) {
    let (_, text) = dashboards::all().into_iter().find(|(name, _)| *name == "operator.json").expect("the dashboard");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/screenshots");
    std::fs::create_dir_all(&folder).expect("a folder");
    let span = Span { from, to: now(), step: 1.0 };
    let dashboard = serde_json::from_str(&text).expect("JSON");
    pictures::draw(prometheus, &dashboard, span, &folder.join("dashboard-operator.png")).await.expect("a picture");
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64()
}
