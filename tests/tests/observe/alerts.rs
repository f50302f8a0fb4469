//! The alerts in the chart: their unit tests, their runbooks, and the most important ones fired by breaking a cluster.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_tests::prometheus::{alerts, impatient, metrics_in, promtool};
use quorate_tests::{Cluster, Prometheus, eventually_in};

/// Elections, scrapes and evaluations.
const PATIENCE: Duration = Duration::from_secs(120);

fn at_root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn every_alert_of_the_operator_has_its_runbook() {
    let rules = alerts("operator.yaml");
    let documented = std::fs::read_to_string(at_root("docs/operating.md")).expect("the page");
    let names: Vec<&str> = rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(documented.contains(&format!("\n### {name}\n")), "docs/operating.md has no section {name}");
        assert!(rules.contains(&format!("docs/operating.md#{}", name.to_lowercase())), "{name} names no runbook");
    }
}

#[test]
fn the_alerts_pass_their_unit_tests() {
    let at = |path: &str| at_root(path).to_str().expect("text").to_owned();
    for arguments in [
        ["check", "rules", &at("charts/quorate/alerts/quorate.yaml")],
        ["check", "rules", &at("charts/quorate/alerts/operator.yaml")],
        ["test", "rules", &at("tests/tests/observe/alerts.yaml")],
    ] {
        let (content, said) = promtool(&arguments, None);
        assert!(content, "promtool {arguments:?}: {said}");
    }
}

#[tokio::test]
async fn a_cluster_that_breaks_fires_what_it_should_and_is_quiet_again_when_it_is_whole() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let prometheus = Prometheus::start(&cluster, Some(&impatient(&alerts("quorate.yaml")))).await;

    let documented = std::fs::read_to_string(at_root("docs/operating.md")).expect("the page");
    let alerts = prometheus.rules().await.expect("the rules");
    assert!(alerts.len() >= 12, "{} alerts", alerts.len());
    for alert in &alerts {
        let name = alert["name"].as_str().expect("a name");
        assert!(documented.contains(&format!("\n### {name}\n")), "docs/operating.md has no section {name}");
        let runbook = format!("docs/operating.md#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], runbook, "{name}");
        assert!(["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap_or_default()), "{name}");
    }

    let broken = ["QuorateNoLeader", "QuorateMarginZero", "QuorateMemberDown", "QuorateNoQuorum", "QuorateTwoLeaders"];
    eventually_in(PATIENCE, "all three are scraped", || async {
        let seen = prometheus.query("count(quorate_build_info)").await?;
        if seen.first().is_some_and(|v| v["value"][1] == "3") { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    prometheus.fires(&[], &broken).await;
    let known: BTreeSet<String> = prometheus.values("__name__").await.expect("names").into_iter().collect();
    for alert in &alerts {
        for metric in metrics_in(alert["query"].as_str().expect("a query")) {
            // There only once something was refused.
            let later = metric == "quorate_refused_total";
            assert!(later || known.contains(&metric), "{} asks for {metric}, which no node exports", alert["name"]);
        }
    }

    let leader = cluster.leader_number().await;
    let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[first].kill();
    prometheus.fires(&["QuorateMarginZero", "QuorateMemberDown"], &["QuorateNoLeader", "QuorateNoQuorum"]).await;
    // The leader is alone, and leaves office.
    cluster.nodes[second].kill();
    prometheus.fires(&["QuorateNoLeader"], &["QuorateTwoLeaders"]).await;
    cluster.start_all();
    cluster.all_ready().await;
    prometheus.fires(&[], &broken).await;
}
