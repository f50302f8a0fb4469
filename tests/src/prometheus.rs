//! A real Prometheus that scrapes nodes, for tests of what is exported, drawn and alarmed at.
//!
//! Needs Debian's `prometheus`, which brings `promtool` too (scripts/setup installs it).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::ports;
use crate::wait::{eventually, eventually_in};

/// How often nodes are scraped and rules evaluated: as often as Prometheus does it, so that a test need not wait.
const EVERY: &str = "1s";

/// A few scrapes and evaluations, the time that a rate needs, and elections.
const PATIENCE: Duration = Duration::from_secs(120);

/// A stretch of time, in seconds since 1970, and the distance of points in it.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The first point.
    pub from: f64,
    /// The last one.
    pub to: f64,
    /// Between two.
    pub step: f64,
}

impl Span {
    /// Its length.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.to - self.from
    }
}

/// The labels of a series, and its points: when, and what.
pub type Series = (BTreeMap<String, String>, Vec<(f64, f64)>);

/// A running Prometheus; it ends with this.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    url: String,
    http: reqwest::Client,
    // Last, so that it outlives the process.
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes every node of the cluster, each with the labels that the chart gives it, and evaluates these rules.
    ///
    /// # Panics
    /// If there is no Prometheus, or it does not start.
    pub async fn start(cluster: &Cluster, rules: Option<&str>) -> Prometheus {
        let target = |node: &crate::Node| {
            let labels = json!({ "namespace": "tests", "cluster": "quorate", "pod": node.name });
            json!({ "targets": [node.url.trim_start_matches("http://")], "labels": labels })
        };
        let nodes: Vec<Value> = cluster.nodes.iter().map(target).collect();
        Prometheus::scraping(&[json!({ "job_name": "quorate", "static_configs": nodes })], rules).await
    }

    /// Scrapes by these jobs, in the words of Prometheus' own configuration.
    ///
    /// # Panics
    /// As [`Prometheus::start`].
    pub async fn scraping(jobs: &[Value], rules: Option<&str>) -> Prometheus {
        let folder = tempfile::Builder::new().prefix("quorate-test-").tempdir().expect("a folder");
        let mut config = json!({
            "global": { "scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY },
            "scrape_configs": jobs,
        });
        if let Some(rules) = rules {
            std::fs::write(folder.path().join("rules.yaml"), rules).expect("the rules");
            config["rule_files"] = json!(["rules.yaml"]);
        }
        // JSON is YAML.
        let file = folder.path().join("prometheus.yaml");
        std::fs::write(&file, config.to_string()).expect("the configuration");
        let address = format!("127.0.0.1:{}", ports::free(1)[0]);
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .spawn()
            .expect("prometheus (scripts/setup installs it)");
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().expect("a client");
        let prometheus = Prometheus { child, url: format!("http://{address}"), http, _folder: folder };
        eventually("Prometheus is ready", || async {
            let answer = prometheus.http.get(format!("{}/-/ready", prometheus.url)).send().await;
            answer.and_then(reqwest::Response::error_for_status).map(drop).map_err(|e| e.to_string())
        })
        .await;
        prometheus
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let url = reqwest::Url::parse_with_params(&format!("{}{path}", self.url), parameters).expect("a URL");
        let answer = self.http.get(url).send().await.map_err(|e| e.to_string())?;
        let text = answer.text().await.map_err(|e| e.to_string())?;
        let mut answer: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
        if answer["status"] == "success" { Ok(answer["data"].take()) } else { Err(answer["error"].to_string()) }
    }

    /// What a query gives now.
    ///
    /// # Errors
    /// If it is no query, or Prometheus does not answer.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let data = self.get("/api/v1/query", &[("query", query)]).await?;
        data["result"].as_array().cloned().ok_or_else(|| format!("{query} gives no vector: {data}"))
    }

    /// What a query gave over a stretch of time; points that are no number are left out.
    ///
    /// # Errors
    /// If it is no query, or Prometheus does not answer.
    pub async fn range(&self, query: &str, span: Span) -> Result<Vec<Series>, String> {
        let [from, to, step] = [span.from, span.to, span.step].map(|v| v.to_string());
        let parameters = [("query", query), ("start", &from), ("end", &to), ("step", &step)];
        let data = self.get("/api/v1/query_range", &parameters).await?;
        let number = |v: &Value| v.as_str().and_then(|t| t.parse::<f64>().ok()).filter(|v| v.is_finite());
        let series = |s: &Value| {
            let labels = s["metric"].as_object()?.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())));
            let points = s["values"].as_array()?.iter().filter_map(|p| Some((p[0].as_f64()?, number(&p[1])?)));
            Some((labels.collect(), points.collect()))
        };
        let result = data["result"].as_array().ok_or_else(|| format!("{query} gives no series: {data}"))?;
        Ok(result.iter().filter_map(series).collect())
    }

    /// The different values of a label; `__name__` for the names of all metrics.
    ///
    /// # Errors
    /// If Prometheus does not answer.
    pub async fn values(&self, label: &str) -> Result<Vec<String>, String> {
        let data = self.get(&format!("/api/v1/label/{label}/values"), &[]).await?;
        let values = data.as_array().ok_or_else(|| data.to_string())?;
        Ok(values.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
    }

    /// Waits until every one of these queries, each with the name of its panel, gives a number, and checks that each
    /// metric in them is there.
    ///
    /// # Panics
    /// If one stays empty or is no query, or names a metric that nobody exports.
    pub async fn shows(&self, queries: &[(String, String)]) {
        eventually_in(PATIENCE, "every panel has data", || async {
            let mut empty = Vec::new();
            for (panel, query) in queries {
                let result = self.query(query).await.map_err(|e| format!("{panel}: {e}: {query}"))?;
                // A quantile of nothing is NaN.
                let number = |v: &Value| v["value"][1].as_str().is_some_and(|n| n != "NaN");
                if !result.iter().any(number) {
                    empty.push(format!("{panel}: {query}"));
                }
            }
            if empty.is_empty() { Ok(()) } else { Err(format!("no data in {empty:#?}")) }
        })
        .await;
        let known = self.values("__name__").await.expect("names");
        for (panel, query) in queries {
            for metric in metrics_in(query) {
                assert!(known.contains(&metric), "{panel} asks for {metric}, which nobody exports");
            }
        }
    }

    /// Waits until all of these alerts fire, and none of those.
    ///
    /// # Panics
    /// If that does not come about.
    pub async fn fires(&self, expected: &[&str], silent: &[&str]) {
        eventually_in(PATIENCE, &format!("{expected:?} fire and {silent:?} do not"), || async {
            let firing = self.firing().await?;
            let named = |name: &&&str| firing.iter().any(|f| f == **name);
            if expected.iter().all(|n| named(&n)) && !silent.iter().any(|n| named(&n)) {
                Ok(())
            } else {
                Err(format!("{firing:?} fire"))
            }
        })
        .await;
    }

    /// The names of the alerts that fire, sorted.
    ///
    /// # Errors
    /// If Prometheus does not answer.
    pub async fn firing(&self) -> Result<Vec<String>, String> {
        let data = self.get("/api/v1/alerts", &[]).await?;
        let alerts = data["alerts"].as_array().ok_or_else(|| data.to_string())?;
        let firing = alerts.iter().filter(|a| a["state"] == "firing");
        let mut names: Vec<String> =
            firing.filter_map(|a| a["labels"]["alertname"].as_str().map(str::to_owned)).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Every rule as Prometheus has read it.
    ///
    /// # Errors
    /// If Prometheus does not answer.
    pub async fn rules(&self) -> Result<Vec<Value>, String> {
        let data = self.get("/api/v1/rules", &[]).await?;
        let groups = data["groups"].as_array().ok_or_else(|| data.to_string())?;
        Ok(groups.iter().filter_map(|g| g["rules"].as_array()).flatten().cloned().collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It keeps nothing that anybody wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The alerts in a file of the chart.
///
/// # Panics
/// If there is no such file.
#[must_use]
pub fn alerts(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/quorate/alerts").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Rules with every `for` cut down: the expressions and labels are what they were.
#[must_use]
pub fn impatient(rules: &str) -> String {
    let line = |line: &str| match line.split_once("for: ") {
        Some((before, _)) if before.trim().is_empty() => format!("{before}for: 1s\n"),
        _ => format!("{line}\n"),
    };
    rules.lines().map(line).collect()
}

/// Runs promtool; whether it was content, and what it said.
///
/// # Panics
/// If there is no promtool.
#[must_use]
pub fn promtool(arguments: &[&str], input: Option<&Path>) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::null());
    if let Some(file) = input {
        command.stdin(std::fs::File::open(file).expect("the input"));
    }
    let output = command.output().expect("promtool (scripts/setup installs it)");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).trim().to_owned())
}

/// Names of metrics in a query: words that begin as ours or the process collector's do.
#[must_use]
pub fn metrics_in(query: &str) -> Vec<String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|w| w.starts_with("quorate_") || w.starts_with("process_"));
    ours.map(str::to_owned).collect()
}
