//! What a sweep leaves behind: the table on the terminal, `sweep.json`, `sweep.csv`, `report.md`, and the plots.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::super::output::{Failure, table};
use super::super::units;
use super::measure::Round;
use super::verify::Verification;
use super::{SweepArgs, explain};

/// Everything that was measured, and under what conditions.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Of the program that measured; a running cluster's nodes may be of another.
    pub(super) version: &'static str,
    /// When it ended, seconds since 1970.
    pub(super) at: u64,
    pub(super) nodes: usize,
    /// Whether sweep started the cluster, in its own process.
    pub(super) own_cluster: bool,
    pub(super) clients: usize,
    pub(super) writes: u64,
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
    pub(super) rate: f64,
    /// Simulated delay of each append; absent for a running cluster, whose delays are not known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delay_ms: Option<(f64, f64)>,
    pub(super) rounds: Vec<Round>,
    pub(super) verification: Verification,
}

impl Report {
    pub(super) fn new(
        args: &SweepArgs,
        nodes: usize,
        own: bool,
        rounds: Vec<Round>,
        verification: Verification,
    ) -> Report {
        let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
        Report {
            version: env!("CARGO_PKG_VERSION"),
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            nodes,
            own_cluster: own,
            clients: args.clients,
            writes: args.writes,
            keys: args.keys,
            value_bytes: args.value_size,
            rate: args.rate,
            delay_ms: own.then(|| (ms(args.min_delay), ms(args.max_delay))),
            rounds,
            verification,
        }
    }

    /// The rounds with so many nodes down, by W.
    pub(super) fn with_down(&self, down: usize) -> impl Iterator<Item = &Round> + Clone {
        self.rounds.iter().filter(move |r| r.nodes_down == down)
    }

    /// The different numbers of nodes down, in order.
    pub(super) fn downs(&self) -> Vec<usize> {
        let mut downs: Vec<usize> = self.rounds.iter().map(|r| r.nodes_down).collect();
        downs.sort_unstable();
        downs.dedup();
        downs
    }

    /// What was sent to what, in one line.
    pub(super) fn setting(&self) -> String {
        let delay = match self.delay_ms {
            Some((min, max)) if max > 0.0 => format!("appends delayed by {min} to {max} ms"),
            Some(_) => "no simulated delay".to_owned(),
            None => "a running cluster".to_owned(),
        };
        let (writes, keys, rate, wave) = (self.writes, self.keys, self.rate, self.clients);
        let value = units::show_size(self.value_bytes as u64);
        format!(
            "{} nodes, {delay}; {writes} writes of {value} to {keys} keys a round, {rate}/s in waves of {wave}",
            self.nodes
        )
    }

    /// A row for each round.
    pub(super) fn table(&self) -> String {
        table(&HEADER, self.rounds.iter().map(row), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    }

    /// Writes every file and returns their names.
    pub(super) fn write(&self, folder: &Path) -> Result<Vec<String>, Failure> {
        let json = serde_json::to_string_pretty(self);
        let json = json.map_err(|e| Failure::Error(format!("cannot put sweep.json together: {e}")))? + "\n";
        let plots = self.draw(folder)?;
        let texts = [("sweep.json", json), ("sweep.csv", self.csv()), ("report.md", self.markdown(&plots))];
        let mut names = Vec::new();
        for (name, text) in texts {
            std::fs::write(folder.join(name), text)
                .map_err(|e| Failure::Error(format!("cannot write {}: {e}", folder.join(name).display())))?;
            names.push(name.to_owned());
        }
        names.extend(plots.iter().flat_map(|(name, _)| [format!("{name}.svg"), format!("{name}.png")]));
        Ok(names)
    }

    #[cfg(feature = "plots")]
    fn draw(&self, folder: &Path) -> Result<Vec<(String, String)>, Failure> {
        super::plots::draw(self, folder)
    }

    /// This program was built without plots.
    #[cfg(not(feature = "plots"))]
    fn draw(&self, _: &Path) -> Result<Vec<(String, String)>, Failure> {
        Ok(Vec::new())
    }

    fn csv(&self) -> String {
        let mut text = "nodes,write_quorum,nodes_down,writes,succeeded,unknown,success_rate,\
                        mean_ms,p50_ms,p95_ms,p99_ms,p999_ms,max_ms,throughput,\
                        copies_min,copies_mean,copies_max,converged_ms\n"
            .to_owned();
        for r in &self.rounds {
            let or_empty = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
            let latency = |of: fn(&super::super::bench::Latency) -> f64| or_empty(r.latency.as_ref().map(of));
            let copies = r.copies.as_ref();
            let cells = [
                self.nodes.to_string(),
                r.write_quorum.to_string(),
                r.nodes_down.to_string(),
                r.writes.to_string(),
                r.succeeded.to_string(),
                r.unknown.to_string(),
                r.success_rate.to_string(),
                latency(|l| l.mean_ms),
                latency(|l| l.p50_ms),
                latency(|l| l.p95_ms),
                latency(|l| l.p99_ms),
                latency(|l| l.p999_ms),
                latency(|l| l.max_ms),
                or_empty(r.throughput),
                or_empty(copies.map(|c| f64::from(c.min))),
                or_empty(copies.map(|c| c.mean)),
                or_empty(copies.map(|c| f64::from(c.max))),
                or_empty(r.converged_ms),
            ];
            text += &(cells.join(",") + "\n");
        }
        text
    }

    fn markdown(&self, plots: &[(String, String)]) -> String {
        let mut text = format!("# What a write quorum costs\n\nQuorate {}, {}.\n", self.version, self.setting());
        text += "Latencies count from when a write was due; the throughput is that of a closed loop with as many clients.\n\n";
        text += &format!("|{}|\n|{}\n", HEADER.map(|h| format!(" {h} ")).join("|"), "---:|".repeat(HEADER.len()));
        for r in &self.rounds {
            text += &format!("| {} |\n", row(r).join(" | "));
        }
        text += "\n## What the numbers show\n\n";
        text += &(explain::sentences(self).join("\n\n") + "\n");
        if !plots.is_empty() {
            text += "\n## Plots\n";
            for (name, caption) in plots {
                text += &format!("\n![{caption}]({name}.svg)\n");
            }
        }
        text
    }
}

const HEADER: [&str; 12] = [
    "W",
    "DOWN",
    "WRITES SURVIVE",
    "FAILOVER SURVIVES",
    "SUCCESS",
    "P50 ms",
    "P95 ms",
    "P99 ms",
    "MAX ms",
    "WRITES/s",
    "COPIES",
    "CONVERGED ms",
];

fn row(r: &Round) -> Vec<String> {
    let nothing = || "-".to_owned();
    let latency = |of: fn(&super::super::bench::Latency) -> f64| r.latency.as_ref().map_or_else(nothing, |l| ms(of(l)));
    vec![
        r.write_quorum.to_string(),
        r.nodes_down.to_string(),
        r.writes_survive.map_or("refused".to_owned(), |n| n.to_string()),
        r.failover_survives.map_or("none".to_owned(), |n| n.to_string()),
        percent(r.success_rate),
        latency(|l| l.p50_ms),
        latency(|l| l.p95_ms),
        latency(|l| l.p99_ms),
        latency(|l| l.max_ms),
        r.throughput.map_or_else(nothing, |t| format!("{t:.0}")),
        r.copies.as_ref().map_or_else(nothing, |c| format!("{:.1}", c.mean)),
        r.converged_ms.map_or_else(nothing, ms),
    ]
}

/// Milliseconds with as many digits as mean something.
pub(super) fn ms(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

/// A share in percent: 100% is said only of all.
pub(super) fn percent(share: f64) -> String {
    if share < 1.0 && share > 0.999 { "99.9%".to_owned() } else { format!("{:.1}%", share * 100.0).replace(".0%", "%") }
}
