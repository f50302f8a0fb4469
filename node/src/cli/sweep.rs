//! `quorate sweep`: what each write quorum costs and what it buys, measured on one running cluster.
//!
//! Owns the flags, the order of the rounds and the end of the cluster. For each W in turn: the logged change of W while
//! everything runs, a measurement with every node up, and the same with nodes down, which are stopped and started again
//! for it. The cluster is in [`cluster`], a round in [`measure`], what must hold at the end in [`verify`], what is left
//! behind in [`report`] and [`plots`].

mod cluster;
mod explain;
mod measure;
#[cfg(feature = "plots")]
mod plots;
mod report;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use quorum::quorum::VOTERS_MAX;

use self::cluster::Cluster;
use self::measure::{Ledger, Load};
use self::report::Report;
use super::output::{Failure, Output, print, print_json};
use super::{Stop, asking, runtime, units};

/// More writes than this in a round tell nothing new.
const WRITES_MAX: u64 = 10_000_000;
/// More clients than this measure the generator.
const CLIENTS_MAX: usize = 2_000;
/// Every key is compared on every node at the end.
const KEYS_MAX: u64 = 100_000;
/// The largest value of a node's default limits.
const VALUE_BYTES_MAX: usize = 1 << 20;

pub(crate) const EXAMPLES: &str = "\
Starts a cluster of its own in a temporary folder (TMPDIR says on which disk) and on free ports, or takes the one of --url, which then loses no node. The
write quorum is changed while the cluster runs; a cluster of --url gets its own back at the end. Writes go to the keys bench-0000000000 and following.

A round sends --writes writes at --rate, in waves of as many at once as there are clients; a latency counts from when the write was due. A second, closed loop
measures the throughput. A first round is sent and not counted.

Examples:
  quorate sweep                                     six nodes, W from 1 to 6, with 0, 1 and 2 nodes down: about two minutes
  quorate sweep --down 0 --writes 10000 --rate 5000
  quorate sweep --max-delay 20ms --min-delay 5ms    as if the nodes were in three cities
  quorate sweep --url http://10.0.0.7:8000 --output json";

/// `sweep`
#[derive(Args, Clone, Debug)]
pub(crate) struct SweepArgs {
    /// N, the nodes of the cluster to start (2 to 9).
    #[arg(long, value_name = "N", default_value_t = 6, conflicts_with = "url", help_heading = "Cluster")]
    pub(crate) nodes: usize,
    /// A running cluster instead: its nodes, separated by commas.
    #[arg(long, value_name = "URLS", value_delimiter = ',', help_heading = "Cluster")]
    pub(crate) url: Vec<String>,
    /// The token that changes of a running cluster need, where one is set.
    #[arg(long, value_name = "TOKEN", env = "ADMIN_TOKEN", hide_env_values = true, help_heading = "Cluster")]
    pub(crate) admin_token: Option<String>,
    /// Shortest simulated delay of each append to each follower.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "0.1ms", conflicts_with = "url", help_heading = "Cluster")]
    pub(crate) min_delay: Duration,
    /// Longest.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "1ms", conflicts_with = "url", help_heading = "Cluster")]
    pub(crate) max_delay: Duration,
    /// Write quorums to measure, separated by commas [default: every one from 1 to N].
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Rounds")]
    pub(crate) write_quorums: Vec<usize>,
    /// How many nodes are down, separated by commas; only in a cluster that sweep started [default:
    /// 0,1,2, as far as N allows].
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "url", help_heading = "Rounds")]
    pub(crate) down: Vec<usize>,
    /// Writes a round.
    #[arg(long, value_name = "N", default_value_t = 1_000, help_heading = "Rounds")]
    pub(crate) writes: u64,
    /// Connections, and writes at once.
    #[arg(long, short, value_name = "N", default_value_t = 100, help_heading = "Rounds")]
    pub(crate) clients: usize,
    /// Different keys, drawn at random.
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Rounds")]
    pub(crate) keys: u64,
    /// Size of a value.
    #[arg(long, value_name = "SIZE", value_parser = units::size_in_memory, default_value = "256", help_heading = "Rounds")]
    pub(crate) value_size: usize,
    /// Writes a second in all.
    #[arg(long, value_name = "N", default_value_t = 1_000.0, help_heading = "Rounds")]
    pub(crate) rate: f64,
    /// How long an answer is waited for.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s", help_heading = "Rounds")]
    pub(crate) timeout: Duration,
    /// The folder for sweep.json, sweep.csv, the plots and report.md; files of an earlier run are replaced.
    #[arg(long, value_name = "DIR", default_value = "quorate-sweep", help_heading = "Results")]
    pub(crate) out: PathBuf,
    /// text for people, json for programs.
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text", help_heading = "Results")]
    pub(crate) output: Output,
}

/// What the numbers of nodes come to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rounds {
    write_quorums: Vec<usize>,
    down: Vec<usize>,
}

impl SweepArgs {
    /// Checks what can be checked before a cluster is there.
    fn check(&self) -> Result<(), String> {
        let within = |flag: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(format!("{flag} is {value}: give {min} to {max}")) }
        };
        within("--nodes", self.nodes as u64, 2, VOTERS_MAX as u64)?;
        within("--writes", self.writes, 1, WRITES_MAX)?;
        within("--clients", self.clients as u64, 1, CLIENTS_MAX as u64)?;
        within("--keys", self.keys, 1, KEYS_MAX)?;
        within("--value-size", self.value_size as u64, 0, VALUE_BYTES_MAX as u64)?;
        if !(self.rate > 0.0 && self.rate <= 1e7) {
            return Err("--rate is writes a second: give a number above 0".to_owned());
        }
        if self.min_delay > self.max_delay {
            return Err("--min-delay is longer than --max-delay".to_owned());
        }
        Ok(())
    }

    /// The rounds on a cluster of `n` nodes; of those that can be stopped if `own`.
    fn rounds(&self, n: usize, own: bool) -> Result<Rounds, String> {
        let write_quorums = match self.write_quorums.as_slice() {
            [] => (1..=n).collect(),
            given => given.to_vec(),
        };
        if let Some(w) = write_quorums.iter().find(|w| !(1..=n).contains(*w)) {
            return Err(format!("--write-quorums has {w}: a cluster of {n} has 1 to {n}"));
        }
        // A leader that fewer than C nodes answer leaves office; the largest C of all W is that of the smallest
        // election quorum, a majority.
        let most = if own { n - (n - n / 2) } else { 0 };
        let down = match self.down.as_slice() {
            [] => (0..=most.min(2)).collect(),
            given => given.to_vec(),
        };
        if let Some(d) = down.iter().find(|d| **d > most) {
            return Err(format!(
                "--down has {d}: with more than {most} of {n} nodes down there is no leader to measure"
            ));
        }
        Ok(Rounds { write_quorums, down })
    }

    fn load(&self) -> Load {
        Load {
            clients: self.clients,
            writes: self.writes,
            keys: self.keys,
            value_bytes: self.value_size,
            rate: self.rate,
            timeout: self.timeout,
        }
    }
}

/// Measures every round, checks, writes the results and prints them.
pub(crate) fn run(args: &SweepArgs) -> Result<(), Failure> {
    args.check().map_err(Failure::Usage)?;
    std::fs::create_dir_all(&args.out).map_err(|e| {
        Failure::Error(format!("cannot make the folder {}: {e}; name another with --out", args.out.display()))
    })?;
    // The nodes have threads of their own, as they would have without this load.
    let nodes = runtime()?;
    let report = asking_for(sweep(args, &nodes))?;
    let files = report.write(&args.out)?;
    match args.output {
        Output::Json => print_json(&report)?,
        Output::Text => print(format!(
            "{}\n{}\n{}\n",
            report.table(),
            explain::sentences(&report).join("\n\n"),
            files_line(&args.out, &files)
        ))?,
    }
    Ok(())
}

fn files_line(folder: &std::path::Path, files: &[String]) -> String {
    format!("\nwritten to {}: {}", folder.display(), files.join(", "))
}

fn asking_for<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut result = None;
    asking(async {
        result = Some(verb.await?);
        Ok(())
    })?;
    result.ok_or_else(|| Failure::Error("the sweep ended without a result".to_owned()))
}

async fn sweep(args: &SweepArgs, nodes: &tokio::runtime::Runtime) -> Result<Report, Failure> {
    let mut stop = Stop::listen()?;
    let mut cluster = if args.url.is_empty() {
        Cluster::start(args.nodes, (args.min_delay, args.max_delay), args.timeout, nodes.handle().clone()).await?
    } else {
        Cluster::take(&args.url, args.timeout, args.admin_token.clone())?
    };
    let measured = tokio::select! {
        measured = rounds(args, &mut cluster) => measured,
        () = stop.asked() => Err(Failure::Error("interrupted: nothing was written".to_owned())),
    };
    // Also after a failure: a cluster that was taken gets its write quorum back, one that was
    // started leaves nothing behind.
    let ended = cluster.end().await;
    let report = measured?;
    ended?;
    Ok(report)
}

async fn rounds(args: &SweepArgs, cluster: &mut Cluster) -> Result<Report, Failure> {
    let n = cluster.open().await?;
    let rounds = args.rounds(n, cluster.is_own()).map_err(Failure::Usage)?;
    let (load, mut ledger, mut measured) = (args.load(), Ledger::default(), Vec::new());
    let before = verify::versions(cluster).await?;
    let total = rounds.write_quorums.len() * rounds.down.len();
    measure::warm_up(cluster, &load, &mut ledger).await?;
    for w in rounds.write_quorums.iter().copied() {
        cluster.set_write_quorum(w).await?;
        for down in rounds.down.iter().copied() {
            cluster.stop_until(down).await?;
            let label = format!("{} of {total}: W={w} of {n}, {down} down", measured.len() + 1);
            measured.push(measure::round(cluster, &load, (n, w, down), &label, &mut ledger).await?);
        }
        cluster.start_stopped().await?;
    }
    let verification = verify::verify(cluster, &ledger, &before).await?;
    Ok(Report::new(args, n, cluster.is_own(), measured, verification))
}

#[cfg(test)]
#[path = "sweep/tests.rs"]
mod tests;
