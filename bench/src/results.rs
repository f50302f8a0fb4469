//! What was measured, cell by cell, and the judgement of it against the targets. Pure: no clock, no file.
//!
//! A *cell* is one system under one load in one round. A *row* compares the store with a peer: figures are medians
//! over the rounds, and the ratio is the median of the ratios within each round, because figures drift from round to
//! round and ratios hardly do.

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// Seconds the run at half load must take for its target to count.
pub(crate) const HALF_LOAD_SECONDS: f64 = 600.0;
/// Seconds the pipelined writes must take for their target to count.
pub(crate) const PIPELINED_SECONDS: f64 = 60.0;
/// A run of a counted length ends when its work is done, a little earlier or later than asked for:
/// this much less still counts.
const NEARLY: f64 = 0.75;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// This store, three processes.
    Quorate,
    /// etcd, three processes.
    Etcd,
    /// Redis, three processes.
    Redis,
    /// The same HTTP stack without a store.
    Echo,
    /// Bare durable writes on three disks, behind the same HTTP stack.
    Chain,
}

impl System {
    pub(crate) fn name(self) -> &'static str {
        match self {
            System::Quorate => "Quorate",
            System::Etcd => "etcd",
            System::Redis => "Redis",
            System::Echo => "axum echo",
            System::Chain => "bare chain",
        }
    }
}

/// Under which load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Durable writes, the system's own way: HTTP here, gRPC for etcd.
    Put,
    /// Linearizable reads, likewise.
    Get,
    /// SET of the Redis protocol.
    Set,
    /// SET, 16 requests in a pipeline, until everything is drained.
    SetPipelined,
    /// Writes at half of the greatest load.
    HalfLoad,
}

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::Put => "PUT",
            Workload::Get => "GET",
            Workload::Set => "SET",
            Workload::SetPipelined => "SET -P 16",
            Workload::HalfLoad => "PUT, half load",
        }
    }
}

/// One system under one load in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) round: usize,
    pub(crate) system: System,
    pub(crate) workload: Workload,
    pub(crate) clients: usize,
    pub(crate) figures: Figures,
    /// Processor time of the system's processes for one request, µs; the load's own is not in it.
    pub(crate) cpu_us_per_request: Option<f64>,
    /// Memory of the largest of its processes afterwards, MiB.
    pub(crate) resident_mib: Option<f64>,
}

/// What a load tool said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    /// The same with the uncounted start: what the servers' processor time was spent on.
    pub(crate) served: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
    /// How long after the last answer followers and stores had caught up, where that counts.
    pub(crate) drain_seconds: Option<f64>,
    /// How far replicas were behind when the load ended, where nobody waited for them, MiB.
    pub(crate) behind_mib: Option<f64>,
    /// The slowest answer of each second, where that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) slowest_ms: Vec<f64>,
}

/// A whole comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    pub(crate) quick: bool,
    pub(crate) value_bytes: usize,
    pub(crate) cells: Vec<Cell>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

/// Which figure of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Requests a second.
    Rate,
    /// 99th percentile of the latency.
    P99,
    /// 99.9th percentile of the latency.
    P999,
}

impl Metric {
    pub(crate) fn of(self, figures: &Figures) -> Option<f64> {
        match self {
            Metric::Rate => Some(figures.per_second),
            Metric::P99 => Some(figures.p99_ms),
            Metric::P999 => figures.p999_ms,
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Metric::Rate => "/s",
            Metric::P99 | Metric::P999 => " ms",
        }
    }
}

/// What must hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// Ours over the peer's is at least this.
    RatioAtLeast(f64),
    /// Ours over the peer's is at most this.
    RatioAtMost(f64),
    /// Our figure is below this.
    Below(f64),
}

/// One line of the table.
pub(crate) struct Target {
    pub(crate) title: &'static str,
    pub(crate) workload: Workload,
    pub(crate) clients: usize,
    pub(crate) metric: Metric,
    pub(crate) peer: Option<System>,
    pub(crate) bound: Bound,
    /// How long the load must have lasted, seconds.
    pub(crate) seconds_min: f64,
}

const fn target(title: &'static str, of: (Workload, usize, Metric), peer: System, bound: Bound) -> Target {
    Target { title, workload: of.0, clients: of.1, metric: of.2, peer: Some(peer), bound, seconds_min: 0.0 }
}

/// What the store is to reach: three nodes, W = 2, 256-byte values, every copy fsynced.
pub(crate) const TARGETS: [Target; 10] = [
    target(
        "durable PUT, 256 clients, against etcd",
        (Workload::Put, 256, Metric::Rate),
        System::Etcd,
        Bound::RatioAtLeast(3.0),
    ),
    target(
        "durable PUT, 1 client, against etcd",
        (Workload::Put, 1, Metric::Rate),
        System::Etcd,
        Bound::RatioAtLeast(3.0),
    ),
    target(
        "durable PUT, 1 client, against the bare chain",
        (Workload::Put, 1, Metric::Rate),
        System::Chain,
        Bound::RatioAtLeast(0.7),
    ),
    target(
        "durable PUT, 256 clients, against the bare echo",
        (Workload::Put, 256, Metric::Rate),
        System::Echo,
        Bound::RatioAtLeast(0.45),
    ),
    target(
        "p99 of durable PUT, 64 clients, against etcd",
        (Workload::Put, 64, Metric::P99),
        System::Etcd,
        Bound::RatioAtMost(1.0 / 3.0),
    ),
    target(
        "SET by redis-benchmark, 64 clients, W = 2 against Redis's own copy alone",
        (Workload::Set, 64, Metric::Rate),
        System::Redis,
        Bound::RatioAtLeast(1.0),
    ),
    Target {
        title: "the same with -P 16, until drained",
        workload: Workload::SetPipelined,
        clients: 64,
        metric: Metric::Rate,
        peer: Some(System::Redis),
        bound: Bound::RatioAtLeast(0.4),
        seconds_min: PIPELINED_SECONDS,
    },
    target(
        "linearizable GET, 64 clients, against etcd",
        (Workload::Get, 64, Metric::Rate),
        System::Etcd,
        Bound::RatioAtLeast(2.0),
    ),
    target(
        "linearizable GET, 64 clients, against the bare echo",
        (Workload::Get, 64, Metric::Rate),
        System::Echo,
        Bound::RatioAtLeast(0.7),
    ),
    Target {
        title: "p99.9 of PUT at half load",
        workload: Workload::HalfLoad,
        clients: 256,
        metric: Metric::P999,
        peer: None,
        bound: Bound::Below(50.0),
        seconds_min: HALF_LOAD_SECONDS,
    },
];

/// The judgement of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It holds.
    Met,
    /// It does not.
    Missed,
    /// One of the figures is missing.
    NotMeasured,
}

/// A target with its figures.
pub(crate) struct Row<'a> {
    pub(crate) target: &'a Target,
    pub(crate) ours: Option<f64>,
    pub(crate) peers: Option<f64>,
    pub(crate) ratio: Option<f64>,
    /// Rounds that have both figures.
    pub(crate) rounds: usize,
    pub(crate) verdict: Verdict,
    /// The length of the load, seconds, where it is less than the target asks for.
    pub(crate) cut_short: Option<f64>,
}

impl Results {
    /// The figures of a system under a load, one for each round that has it.
    fn cells(&self, system: System, workload: Workload, clients: usize) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |c| (c.system, c.workload, c.clients) == (system, workload, clients))
    }

    /// The median over the rounds of one figure.
    pub(crate) fn median_of(
        &self,
        of: (System, Workload, usize),
        figure: impl Fn(&Cell) -> Option<f64>,
    ) -> Option<f64> {
        median(self.cells(of.0, of.1, of.2).filter_map(figure).collect())
    }

    /// Every target with what was measured.
    pub(crate) fn rows(&self) -> Vec<Row<'static>> {
        TARGETS.iter().map(|t| self.row(t)).collect()
    }

    fn row(&self, target: &'static Target) -> Row<'static> {
        let figure = |c: &Cell| target.metric.of(&c.figures);
        let ours = self.median_of((System::Quorate, target.workload, target.clients), figure);
        let mut row =
            Row { target, ours, peers: None, ratio: None, rounds: 0, verdict: Verdict::NotMeasured, cut_short: None };
        let own = || self.cells(System::Quorate, target.workload, target.clients);
        row.rounds = own().count();
        if let Some(peer) = target.peer {
            row.peers = self.median_of((peer, target.workload, target.clients), figure);
            let ratios: Vec<f64> = own()
                .filter_map(|ours| {
                    let theirs = self.cells(peer, target.workload, target.clients).find(|c| c.round == ours.round)?;
                    Some(figure(ours)? / figure(theirs)?)
                })
                .filter(|ratio| ratio.is_finite())
                .collect();
            row.rounds = ratios.len();
            row.ratio = median(ratios);
        }
        let holds = match target.bound {
            Bound::RatioAtLeast(least) => row.ratio.map(|r| r >= least),
            Bound::RatioAtMost(most) => row.ratio.map(|r| r <= most),
            Bound::Below(limit) => row.ours.map(|o| o < limit),
        };
        row.cut_short =
            own().map(|c| c.figures.seconds).min_by(f64::total_cmp).filter(|s| *s < NEARLY * target.seconds_min);
        row.verdict = match holds {
            None => Verdict::NotMeasured,
            Some(false) => Verdict::Missed,
            Some(true) => Verdict::Met,
        };
        row
    }
}

/// The middle value; of an even number, the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn cell(round: usize, system: System, workload: Workload, clients: usize, per_second: f64) -> Cell {
        let figures = Figures {
            seconds: 4.0,
            requests: 1000,
            per_second,
            p50_ms: 1.0,
            p99_ms: 2.0,
            p999_ms: Some(3.0),
            slowest_ms: vec![1.0, 4.0, 2.0],
            ..Figures::default()
        };
        Cell { round, system, workload, clients, figures, cpu_us_per_request: Some(20.0), resident_mib: Some(50.0) }
    }

    pub(crate) fn example() -> Results {
        let machine = Machine {
            cores: 2,
            processor: "some".into(),
            memory_gib: 24.0,
            kernel: "Linux 6".into(),
            filesystem: "ext4".into(),
            fdatasync_us_median: 120,
            fdatasync_us_p99: 400,
            versions: vec![("etcd".into(), "3.6.8".into())],
            commit: "abc".into(),
            date: "2026-01-31T12:00:00Z".into(),
        };
        let cells = vec![
            cell(1, System::Quorate, Workload::Put, 256, 30_000.0),
            cell(1, System::Etcd, Workload::Put, 256, 10_000.0),
            cell(2, System::Quorate, Workload::Put, 256, 16_000.0),
            cell(2, System::Etcd, Workload::Put, 256, 4_000.0),
            cell(3, System::Quorate, Workload::Put, 256, 44_000.0),
            cell(3, System::Etcd, Workload::Put, 256, 20_000.0),
            cell(1, System::Quorate, Workload::HalfLoad, 256, 15_000.0),
        ];
        Results { machine, rounds: 3, quick: false, value_bytes: 256, cells, failures: Vec::new() }
    }

    #[test]
    fn the_ratio_is_the_median_of_the_ratios_within_rounds() {
        let rows = example().rows();
        assert_eq!(rows[0].ratio, Some(3.0));
        assert_eq!((rows[0].ours, rows[0].peers, rows[0].rounds), (Some(30_000.0), Some(10_000.0), 3));
        assert_eq!(rows[0].verdict, Verdict::Met);
    }

    #[test]
    fn a_target_without_figures_is_not_judged() {
        let rows = example().rows();
        assert_eq!(rows[1].verdict, Verdict::NotMeasured);
        assert_eq!(rows[2].verdict, Verdict::NotMeasured);
    }

    #[test]
    fn a_run_shorter_than_the_target_asks_for_is_told_apart() {
        let row = &example().rows()[9];
        assert_eq!((row.verdict, row.cut_short), (Verdict::Met, Some(4.0)));
        assert_eq!(example().rows()[0].cut_short, None);
    }

    #[test]
    fn a_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
