//! The text at `/metrics`: clean, bounded, cheap.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use quorate_tests::load::Load;
use quorate_tests::prometheus::promtool;
use quorate_tests::{Cluster, Node};

/// Scrapes that are measured.
const SCRAPES: usize = 30;
/// A scrape may take so long in a test build on a busy machine; Prometheus waits 10 s.
const SCRAPE_MAX: Duration = Duration::from_secs(1);
/// Series of one node: every route with every bucket, twice over.
const SERIES_MAX: usize = 2_000;

async fn scrape(node: &Node) -> String {
    node.get("/metrics").await.expect(200).text()
}

/// Every series, without its value.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    lines.map(|l| l.rsplit_once(' ').expect("a series and a value").0.to_owned()).collect()
}

#[tokio::test]
async fn the_metrics_are_clean_and_scraping_them_is_cheap_however_much_is_written() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let load = Load::start(&cluster, 8);
    load.more(300).await;
    let leader = cluster.leader().await;
    let folder = cluster.home().join("metrics");
    std::fs::create_dir_all(&folder).expect("a folder");
    for node in &cluster.nodes {
        let file = folder.join(&node.name);
        std::fs::write(&file, scrape(node).await).expect("a file");
        assert_eq!(promtool(&["check", "metrics"], Some(&file)), (true, String::new()), "{}", node.name);
    }

    // Hundreds of keys more: not one series more, and no key among them.
    let before = series(&scrape(leader).await);
    load.more(1_000).await;
    let text = scrape(leader).await;
    let after = series(&text);
    let new: Vec<&String> = after.difference(&before).collect();
    assert!(new.is_empty(), "series that came with more keys: {new:?}");
    assert!(after.len() <= SERIES_MAX, "{} series", after.len());
    assert!(!text.contains("load-"), "a key is in a label");

    let mut times = Vec::new();
    for _ in 0..SCRAPES {
        let began = Instant::now();
        scrape(leader).await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let (median, slowest) = (times[SCRAPES / 2], times[SCRAPES - 1]);
    println!(
        "a scrape of the leader under load: {} series, {} KiB, median {:.1} ms, slowest {:.1} ms",
        after.len(),
        text.len() / 1024,
        median.as_secs_f64() * 1e3,
        slowest.as_secs_f64() * 1e3
    );
    assert!(median < SCRAPE_MAX, "a scrape takes {median:?}");
    let record = load.stop().await;
    record.verify(&cluster.converged().await);
}
