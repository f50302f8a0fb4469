//! The Grafana dashboards, as a list of panels: what each asks, in which unit, and what it tells whoever looks.
//!
//! `cargo run -p quorate-tests --bin dashboards` writes them to `charts/quorate/dashboards/`; a test fails while
//! the files are older than this list. In a query `%` stands for the matchers of the dashboard's variables, so
//! that no panel forgets one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What narrows a dashboard of nodes down, and one of the operator, whose metrics name no cluster: there may be
/// many, and they come and go.
const OF_NODES: [&str; 4] = ["job", "namespace", "cluster", "pod"];
const OF_OPERATOR: [&str; 3] = ["job", "namespace", "pod"];
/// The version of Grafana's schema that the panels are written in: Grafana 10 and later read it, and
/// migrate it to their own.
const SCHEMA: u32 = 39;
/// Grafana's grid is so many columns wide.
const COLUMNS: u32 = 24;

/// How a panel looks.
#[derive(Clone, Copy)]
enum Look {
    /// Lines over time.
    Lines,
    /// Areas on top of each other.
    Stack,
    /// The latest value.
    Number,
    /// The legend of whatever has a value.
    Name,
    /// Buckets over time.
    Heat,
}

/// One panel.
struct Panel {
    look: Look,
    title: &'static str,
    about: &'static str,
    unit: &'static str,
    width: u32,
    /// Query and legend.
    targets: Vec<(String, &'static str)>,
    /// Where a number turns orange, and red, from above to below.
    good_from: Option<f64>,
}

impl Panel {
    fn new(look: Look, title: &'static str, unit: &'static str, about: &'static str) -> Panel {
        let width = if is_small(look) { 3 } else { 12 };
        Panel { look, title, about, unit, width, targets: Vec::new(), good_from: None }
    }

    fn lines(title: &'static str, unit: &'static str, about: &'static str) -> Panel {
        Panel::new(Look::Lines, title, unit, about)
    }

    fn ask(mut self, query: &str, legend: &'static str) -> Panel {
        self.targets.push((query.to_owned(), legend));
        self
    }

    /// The percentiles of a histogram, summed over the other labels.
    fn percentiles(self, metric: &str, matchers: &str) -> Panel {
        let of = |share: &str| {
            format!("histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{%{matchers}}}[$__rate_interval])))")
        };
        self.ask(&of("0.5"), "p50").ask(&of("0.95"), "p95").ask(&of("0.99"), "p99")
    }

    /// One percentile of a histogram for each value of a label.
    fn percentile_by(self, share: &str, metric: &str, by: &str, legend: &'static str) -> Panel {
        let query =
            format!("histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{{%}}[$__rate_interval])))");
        self.ask(&query, legend)
    }

    fn wide(mut self, width: u32) -> Panel {
        self.width = width;
        self
    }

    fn good_from(mut self, value: f64) -> Panel {
        self.good_from = Some(value);
        self
    }

    fn json(&self, id: u32, (x, y): (u32, u32), matchers: &str) -> Value {
        let source = json!({ "type": "prometheus", "uid": "${datasource}" });
        let heat = matches!(self.look, Look::Heat);
        let number = is_small(self.look);
        let target = |(n, (query, legend)): (usize, &(String, &str))| {
            json!({
                "datasource": source,
                "editorMode": "code",
                "expr": query.replace('%', matchers),
                "format": if heat { "heatmap" } else { "time_series" },
                "instant": number,
                "range": !number,
                "legendFormat": legend,
                "refId": char::from(b'A' + n as u8).to_string(),
            })
        };
        let steps = match self.good_from {
            Some(value) => json!([
                { "color": "red", "value": null },
                { "color": "orange", "value": value - 1.0 },
                { "color": "green", "value": value },
            ]),
            None => json!([{ "color": "text", "value": null }]),
        };
        let custom = match self.look {
            Look::Lines => json!({ "drawStyle": "line", "lineWidth": 1, "fillOpacity": 0, "showPoints": "never" }),
            Look::Stack => json!({
                "drawStyle": "line", "lineWidth": 1, "fillOpacity": 60, "showPoints": "never",
                "stacking": { "mode": "normal", "group": "A" },
            }),
            Look::Number | Look::Name | Look::Heat => json!({}),
        };
        let options = match self.look {
            Look::Lines | Look::Stack => json!({
                "legend": { "displayMode": "table", "placement": "right", "calcs": ["lastNotNull", "max"] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Look::Number | Look::Name => json!({
                "colorMode": if self.good_from.is_some() { "background" } else { "value" },
                "graphMode": "none", "reduceOptions": { "calcs": ["lastNotNull"] },
                "textMode": if matches!(self.look, Look::Name) { "name" } else { "value" },
            }),
            Look::Heat => json!({
                "calculate": false, "yAxis": { "unit": self.unit }, "cellGap": 1,
                "color": { "mode": "scheme", "scheme": "Viridis", "steps": 64 }, "tooltip": { "mode": "single" },
            }),
        };
        json!({
            "id": id,
            "type": match self.look { Look::Lines | Look::Stack => "timeseries", Look::Number | Look::Name => "stat", Look::Heat => "heatmap" },
            "title": self.title,
            "description": self.about,
            "datasource": source,
            "gridPos": { "x": x, "y": y, "w": self.width, "h": height(self.look) },
            "fieldConfig": {
                "defaults": { "unit": self.unit, "custom": custom, "thresholds": { "mode": "absolute", "steps": steps } },
                "overrides": [],
            },
            "options": options,
            "targets": self.targets.iter().enumerate().map(target).collect::<Vec<_>>(),
        })
    }
}

fn is_small(look: Look) -> bool {
    matches!(look, Look::Number | Look::Name)
}

fn height(look: Look) -> u32 {
    if is_small(look) { 4 } else { 8 }
}

/// Panels under a heading.
struct Row(&'static str, Vec<Panel>);

/// A query as Grafana would ask it with every variable at "All", when nodes are scraped once a second.
#[must_use]
pub fn asked(query: &str) -> String {
    let query = query.replace("$__rate_interval", "5s");
    ["job", "namespace", "cluster", "pod"].iter().fold(query, |q, variable| q.replace(&format!("${variable}"), ".+"))
}

/// Where the chart has them.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/quorate/dashboards")
}

/// The name of each file, and what is in it.
#[must_use]
pub fn all() -> Vec<(&'static str, String)> {
    let nodes = ("quorate_build_info", &OF_NODES[..]);
    let cluster = dashboard(
        "quorate-cluster",
        [
            "Quorate / cluster",
            "Who leads, who is there, how far the others are behind, and which failures are still survived.",
        ],
        nodes,
        &cluster(),
    );
    let latency = dashboard(
        "quorate-latency",
        ["Quorate / latency", "How long requests take, and where a write's time goes: queue, disk, network, copies."],
        nodes,
        &latency(),
    );
    let operator = dashboard(
        "quorate-operator",
        ["Quorate / operator", "Whether the operator is at work, how long it takes, and what fails."],
        ("quorate_operator_leading", &OF_OPERATOR),
        &operator(),
    );
    [("cluster.json", cluster), ("latency.json", latency), ("operator.json", operator)]
        .map(|(name, value)| (name, format!("{value:#}\n")))
        .into_iter()
        .collect()
}

/// Every query of a dashboard as Grafana would ask it, each with the panel it is of.
///
/// # Panics
/// If there is no dashboard in a file of this name.
#[must_use]
pub fn queries(file: &str) -> Vec<(String, String)> {
    let (_, text) = all().into_iter().find(|(name, _)| *name == file).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|p| p["targets"].as_array().into_iter().flatten().map(move |t| (p, t)));
    let query = |t: &Value| asked(t["expr"].as_str().unwrap_or_default());
    targets.map(|(panel, target)| (format!("{file}: {}", panel["title"]), query(target))).collect()
}

/// Matchers of every one of these variables.
fn matchers(variables: &[&str]) -> String {
    variables.iter().map(|name| format!("{name}=~\"${name}\"")).collect::<Vec<_>>().join(",")
}

/// A dashboard whose variables take their values from this metric.
fn dashboard(uid: &str, [title, about]: [&str; 2], (metric, names): (&str, &[&str]), rows: &[Row]) -> Value {
    let all = matchers(names);
    let (mut panels, mut id, mut y) = (Vec::new(), 0, 0);
    for Row(name, content) in rows {
        id += 1;
        panels.push(json!({
            "id": id, "type": "row", "title": name, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": y, "w": COLUMNS, "h": 1 },
        }));
        y += 1;
        let (mut x, mut tallest) = (0, 0);
        for panel in content {
            if x + panel.width > COLUMNS {
                (x, y, tallest) = (0, y + tallest, 0);
            }
            id += 1;
            panels.push(panel.json(id, (x, y), &all));
            x += panel.width;
            tallest = tallest.max(height(panel.look));
        }
        y += tallest;
    }
    json!({
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["quorate"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": false,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": { "from": "now-30m", "to": "now" },
        "timezone": "browser",
        "annotations": { "list": [] },
        "links": [{
            "type": "dashboards", "tags": ["quorate"], "title": "Quorate", "asDropdown": true,
            "includeVars": true, "keepTime": true, "targetBlank": false,
        }],
        "templating": { "list": variables(metric, names) },
        "panels": panels,
    })
}

/// The data source, and the labels; each narrows the next.
fn variables(metric: &str, names: &[&str]) -> Vec<Value> {
    let source = json!({ "type": "prometheus", "uid": "${datasource}" });
    let label = |(n, name): (usize, &&str)| {
        let query = format!("label_values({metric}{{{}}}, {name})", matchers(&names[..n]));
        // Outside Kubernetes a label may be absent; a job always is there.
        let all = if *name == "job" { ".+" } else { ".*" };
        json!({
            "name": name, "label": format!("{}{}", name[..1].to_uppercase(), &name[1..]), "type": "query",
            "datasource": source,
            "definition": query, "query": { "query": query, "refId": format!("variable-{name}") },
            "includeAll": true, "multi": true, "allValue": all, "refresh": 2, "sort": 1,
            "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
        })
    };
    let source = json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
        "current": {}, "includeAll": false, "multi": false, "refresh": 1,
    });
    std::iter::once(source).chain(names.iter().enumerate().map(label)).collect()
}

fn cluster() -> Vec<Row> {
    let number = |title, unit, about| Panel::new(Look::Number, title, unit, about);
    let now = vec![
        Panel::new(Look::Name, "Leader", "none", "The node that orders all writes. Two names for more than a moment mean that one of them has not noticed yet that it was replaced.")
            .ask(r#"max by (pod) (quorate_role{%,role="leader"}) == 1"#, "{{pod}}")
            .wide(6),
        number("Voters", "none", "N: nodes that hold a copy and take part in elections.")
            .ask(r#"max(quorate_members{%,kind="voter"})"#, "voters"),
        number("W", "none", "Synced copies that acknowledge a write.").ask(r#"max(quorate_quorum{%,kind="write"})"#, "write quorum"),
        number("Election needs", "none", "E: votes that make a leader; with them one voter at least holds every acknowledged write.")
            .ask(r#"max(quorate_quorum{%,kind="election"})"#, "election quorum"),
        number("Failover margin", "none", "Live voters beyond what an election needs. At 0 the next failure of the leader may leave the cluster without one.")
            .ask("min(quorate_failover_margin{%})", "live - E")
            .good_from(1.0),
        number("Write margin", "none", "Live voters beyond W. At 0 the next failure stops acknowledged writes, below they have stopped.")
            .ask("min(quorate_write_margin{%})", "live - W")
            .good_from(1.0),
        number("Term", "none", "Grows by at least one with each election.").ask("max(quorate_term{%})", "term"),
    ];
    let members = vec![
        Panel::lines("Who leads", "none", "1 for the node that leads. Gaps are times without a leader; a change of colour is a failover or a hand-over.")
            .ask(r#"max by (pod) (quorate_role{%,role="leader"})"#, "{{pod}}"),
        Panel::lines("Margins", "none", "Live voters beyond what elections, linearizable reads and acknowledged writes need, as the leader sees it. Below 0 they are not possible.")
            .ask("min(quorate_failover_margin{%})", "elections")
            .ask("min(quorate_read_margin{%})", "reads")
            .ask("min(quorate_write_margin{%})", "writes"),
        Panel::lines("Lag in entries", "short", "Entries of the leader's log that are not on a follower's disk yet.")
            .ask("max by (peer) (quorate_follower_lag_entries{%})", "{{peer}}"),
        Panel::lines("Lag in seconds", "s", "For how long a follower has not held everything the leader has. Grows steadily for a node that is down.")
            .ask("max by (peer) (quorate_follower_lag_seconds{%})", "{{peer}}"),
        Panel::lines("Elections and changes of leader", "short", "Elections that nodes started, and leaders they saw come. Elections without a new leader are votes that were split, or nodes that cannot win.")
            .ask("sum(increase(quorate_elections_total{%}[$__rate_interval]))", "elections started")
            .ask("max(increase(quorate_leader_changes_total{%}[$__rate_interval]))", "changes of leader"),
        Panel::lines("Nodes that are ready", "none", "1 once a node has caught up since it was started.")
            .ask("max by (pod) (quorate_ready{%})", "{{pod}}"),
    ];
    let log = vec![
        Panel::lines("Commits", "ops", "Entries committed and applied a second; a node whose applied line stays below the committed one falls behind.")
            .ask("max(rate(quorate_commit_index{%}[$__rate_interval]))", "committed")
            .ask("max by (pod) (rate(quorate_applied_index{%}[$__rate_interval]))", "applied by {{pod}}"),
        Panel::lines("Dropped entries", "short", "Entries of a former leader that a new one replaced. None of them was ever acknowledged.")
            .ask("sum by (pod) (increase(quorate_truncated_entries_total{%}[$__rate_interval]))", "{{pod}}"),
    ];
    let resources = vec![
        Panel::new(
            Look::Stack,
            "Data on disk",
            "bytes",
            "The log, which is cut once its entries are in the engine, and the engine.",
        )
        .ask("sum by (pod) (quorate_wal_bytes{%})", "log of {{pod}}")
        .ask("sum by (pod) (quorate_engine_bytes{%})", "engine of {{pod}}"),
        Panel::lines(
            "Free disk space",
            "bytes",
            "What is left where the data lives. Below the reserve a leader refuses writes and takes only deletes.",
        )
        .ask("min by (pod) (quorate_disk_free_bytes{%})", "{{pod}}")
        .ask("max(quorate_disk_reserve_bytes{%})", "reserve"),
        Panel::lines(
            "Applied, not in the engine yet",
            "bytes",
            "Held in memory until a drain writes it down. Writes are slowed down when it is full.",
        )
        .ask("max by (pod) (quorate_overlay_bytes{%})", "{{pod}}"),
        Panel::lines("Sent to other nodes", "Bps", "By the leader mostly: every entry once to each follower.")
            .ask("sum by (pod) (rate(quorate_peer_sent_bytes_total{%}[$__rate_interval]))", "{{pod}}"),
        Panel::lines("Connections", "none", "Open connections of clients (http, tcp) and of other nodes (peer).")
            .ask("sum by (port) (quorate_connections{%})", "{{port}}"),
        Panel::lines(
            "Writes under way",
            "none",
            "Handed in and not answered yet, on the leader. At the limit further ones are refused as overload.",
        )
        .ask("max by (pod) (quorate_in_flight_writes{%})", "{{pod}}"),
        Panel::lines("CPU", "percentunit", "Of one core.")
            .ask("sum by (pod) (rate(process_cpu_seconds_total{%}[$__rate_interval]))", "{{pod}}"),
        Panel::lines("Memory", "bytes", "Resident.").ask("max by (pod) (process_resident_memory_bytes{%})", "{{pod}}"),
    ];
    vec![Row("Now", now), Row("Members", members), Row("Log", log), Row("Resources", resources)]
}

fn latency() -> Vec<Row> {
    let writes = r#",outcome="ok",route=~"v1_put|v1_delete|write|kv_put|kv_delete|tcp_set|tcp_delete|tcp_increment""#;
    let reads = r#",outcome="ok",route=~"v1_get|v1_list|read|kv_get|tcp_get|tcp_many|tcp_scan""#;
    let heat =
        format!(r#"sum by (le) (increase(quorate_request_duration_seconds_bucket{{%{writes}}}[$__rate_interval]))"#);
    let requests = vec![
        Panel::lines("Writes", "s", "Percentiles of successful writes, from arrival to answer, over all faces. A write on a follower includes the hop to the leader.")
            .percentiles("quorate_request_duration_seconds", writes),
        Panel::lines("Reads", "s", "Percentiles of successful reads. Linearizable ones wait for a round of confirmation, local ones for nothing.")
            .percentiles("quorate_request_duration_seconds", reads),
        Panel::lines("Requests by route", "reqps", "Requests answered a second.")
            .ask("sum by (route) (rate(quorate_request_duration_seconds_count{%}[$__rate_interval])) > 0", "{{route}}"),
        Panel::lines("99th percentile by route and outcome", "s", "The slowest hundredth of each kind of request; outcomes other than ok are error codes.")
            .ask("histogram_quantile(0.99, sum by (route, outcome, le) (rate(quorate_request_duration_seconds_bucket{%}[$__rate_interval]))) > 0", "{{route}} {{outcome}}"),
        Panel::new(Look::Heat, "Writes by duration", "s", "How many successful writes took how long: two bands are two populations, which percentiles hide.")
            .ask(&heat, "{{le}}"),
        Panel::lines("Refused and unknown", "reqps", "Requests refused before any effect, by code, and writes whose outcome could not be told in time. Unknown ones may have happened.")
            .ask("sum by (code) (rate(quorate_refused_total{%}[$__rate_interval]))", "{{code}}")
            .ask("sum(rate(quorate_unknown_outcomes_total{%}[$__rate_interval]))", "unknown outcome"),
    ];
    let stage = "quorate_write_stage_duration_seconds";
    let stages = vec![
        Panel::lines("Stages of a write, median", "s", "From a write's arrival at the leader until it passed the stage. The gap from queued to persisted is the leader's own disk, from persisted to replicated the network and the followers' disks.")
            .percentile_by("0.5", stage, "stage", "{{stage}}"),
        Panel::lines("Stages of a write, 99th percentile", "s", "The same for the slowest hundredth.")
            .percentile_by("0.99", stage, "stage", "{{stage}}"),
        Panel::lines("Copies at acknowledgement, mean", "none", "Synced copies that held a write when it was acknowledged. Never below W; above it when followers are quicker than the answer.")
            .ask("sum(rate(quorate_commit_copies_sum{%}[$__rate_interval])) / sum(rate(quorate_commit_copies_count{%}[$__rate_interval]))", "copies")
            .ask(r#"max(quorate_quorum{%,kind="write"})"#, "W"),
        Panel::lines("Acknowledgements by copies", "ops", "How many writes a second were acknowledged with at most so many copies.")
            .ask("sum by (le) (rate(quorate_commit_copies_bucket{%}[$__rate_interval]))", "at most {{le}}"),
    ];
    let below = vec![
        Panel::lines(
            "Sync of the log, 99th percentile",
            "s",
            "One group of writes made durable, past the page cache. Every write waits for one on each of W nodes.",
        )
        .percentile_by("0.99", "quorate_fsync_duration_seconds", "pod", "{{pod}}"),
        Panel::lines("Sync of the log, median", "s", "The disk in its ordinary state.").percentile_by(
            "0.5",
            "quorate_fsync_duration_seconds",
            "pod",
            "{{pod}}",
        ),
        Panel::lines("Syncs", "ops", "A second. Far fewer than writes: groups of writes share one.")
            .ask("sum by (pod) (rate(quorate_fsync_duration_seconds_count{%}[$__rate_interval]))", "{{pod}}"),
        Panel::lines(
            "Round trip to followers, 99th percentile",
            "s",
            "From a heartbeat to its answer, as the leader measures it; simulated delays are not in it.",
        )
        .percentile_by("0.99", "quorate_peer_round_trip_seconds", "peer", "{{peer}}"),
    ];
    vec![Row("Requests", requests), Row("Stages of a write", stages), Row("Disk and network", below)]
}

fn operator() -> Vec<Row> {
    let number = |title, unit, about| Panel::new(Look::Number, title, unit, about);
    let passes = "quorate_operator_reconcile_duration_seconds";
    let now = vec![
        Panel::new(
            Look::Name,
            "Leader",
            "none",
            "The replica of the operator that holds the lease. The others wait to take over.",
        )
        .ask("max by (pod) (quorate_operator_leading{%}) == 1", "{{pod}}")
        .wide(6),
        number("Replicas", "none", "Operators that are scraped.").ask("count(quorate_operator_leading{%})", "replicas"),
        number(
            "Is led",
            "none",
            "1 while somebody holds the lease. At 0 nothing is reconciled; clusters go on by themselves.",
        )
        .ask("max(quorate_operator_leading{%})", "leading")
        .good_from(1.0),
    ];
    let work = vec![
        Panel::lines("Passes", "ops", "Passes over a KVCluster a second. In quiet only the regular ones.")
            .ask("sum by (pod) (rate(quorate_operator_reconcile_duration_seconds_count{%}[$__rate_interval]))", "{{pod}}"),
        Panel::lines("Duration of a pass", "s", "From reading what is there until the status is written. Long ones wait for the API server or for nodes.")
            .percentiles(passes, ""),
        Panel::lines("Errors", "ops", "Parts of a pass that failed and are tried again, and passes that the API server cut short. Both come and go at upgrades; for longer they name what is stuck.")
            .ask("sum(rate(quorate_operator_step_errors_total{%}[$__rate_interval]))", "parts of a pass")
            .ask("sum(rate(quorate_operator_reconcile_errors_total{%}[$__rate_interval]))", "whole passes"),
        Panel::new(Look::Stack, "KVClusters by phase", "none", "What is under way with them: the reason of the condition Progressing. Whatever is not Settled, Paused or Hibernated is on its way, or waits.")
            .ask("sum by (phase) (quorate_operator_kvclusters{%})", "{{phase}}"),
        Panel::lines("Longest without a step", "s", "Of the changes under way, the one that has stood still longest. It falls with each step; a rollout that is stuck grows steadily, and is alarmed at after a quarter of an hour.")
            .ask("max(quorate_operator_change_stalled_seconds{%})", "stands still"),
        Panel::lines("Statuses written", "ops", "Changes that were worth telling. Without changes there is none.")
            .ask("sum(rate(quorate_operator_status_writes_total{%}[$__rate_interval]))", "statuses"),
    ];
    let resources = vec![
        Panel::lines("CPU", "percentunit", "Of one core.")
            .ask("sum by (pod) (rate(process_cpu_seconds_total{%}[$__rate_interval]))", "{{pod}}"),
        Panel::lines("Memory", "bytes", "Resident.").ask("max by (pod) (process_resident_memory_bytes{%})", "{{pod}}"),
    ];
    vec![Row("Now", now), Row("Work", work), Row("Resources", resources)]
}
