//! Writes the Grafana dashboards of `quorate_tests::dashboards` to the chart; with `pictures`, draws them for
//! docs/images from a cluster under load that loses its leader and gets it back.

// What cannot be done ends the program, with what was wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_tests::load::Load;
use quorate_tests::prometheus::Span;
use quorate_tests::{Prometheus, RespClient, Setup, dashboards, pictures};

/// How long each part of what the pictures show takes: everything well, the leader dead, everyone back.
const PART: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() {
    match std::env::args().nth(1).as_deref() {
        None => write(),
        Some("pictures") => draw().await,
        Some(other) => panic!("{other:?} is unknown: give nothing, or `pictures`"),
    }
}

fn write() {
    let folder = dashboards::folder();
    std::fs::create_dir_all(&folder).expect("the folder of the dashboards");
    for (name, text) in dashboards::all() {
        std::fs::write(folder.join(name), text).expect("a dashboard is written");
        println!("{}", folder.join(name).display());
    }
}

async fn draw() {
    let setup = Setup::new(6, 4).peers().flag("--min-delay", "0.1ms").flag("--max-delay", "1ms");
    let mut cluster = setup.start().await;
    cluster.all_ready().await;
    let prometheus = Prometheus::start(&cluster, None).await;
    let load = Load::start(&cluster, 8);
    let redis = cluster.nodes[5].tcp.clone();
    let reads = tokio::spawn(async move {
        let mut client = RespClient::connect(&redis).await;
        loop {
            // A node that has lost its leader refuses for a moment; that is part of the picture.
            if client.try_call(&["GET", "load-0-0"]).await.is_err() {
                client = RespClient::connect(&redis).await;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    // The first rates need some scrapes.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let from = now();
    tokio::time::sleep(PART).await;
    let leader = cluster.leader_number().await;
    cluster.nodes[leader].kill();
    tokio::time::sleep(PART).await;
    cluster.start_all();
    tokio::time::sleep(PART).await;
    let span = Span { from, to: now(), step: 1.0 };
    reads.abort();
    load.stop().await.verify(&cluster.converged().await);

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
    std::fs::create_dir_all(&folder).expect("the folder of the pictures");
    // The operator is no part of this cluster.
    for (name, text) in dashboards::all().into_iter().filter(|(name, _)| *name != "operator.json") {
        let dashboard = serde_json::from_str(&text).expect("JSON");
        let file = folder.join(format!("dashboard-{}.png", name.trim_end_matches(".json")));
        pictures::draw(&prometheus, &dashboard, span, &file).await.expect("a picture");
        println!("{}", file.display());
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64()
}
