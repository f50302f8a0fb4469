//! `quorate bench`: bounded load against a cluster, and its figures.
//!
//! The clients are in [`load`], their protocols in [`wire`]; here are the flags, the phases (connect, warm up,
//! measure) and the report.

pub(super) mod load;
pub(super) mod wire;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

use self::load::{Client, Load, Pacer, Reads, Tally, Until};
use self::wire::Protocol;
use super::output::{Failure, Output, print, print_json, table};
use super::verbs::Freshness;
use super::{runtime, units};

/// More clients than this measure the generator.
const CLIENTS_MAX: usize = 10_000;
/// Deeper pipelines than this measure buffers.
const PIPELINE_MAX: u64 = 1_024;
/// The largest value of a node's default limits is 1 MiB; this leaves room for other settings.
const VALUE_BYTES_MAX: usize = 16 << 20;
/// Keys are numbered with ten digits.
const KEYS_MAX: u64 = 10_000_000_000;
/// How often the progress bar moves.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

pub(crate) const EXAMPLES: &str = "\
Without --rate each client waits for an answer before it sends the next request (closed loop). With --rate requests are due at fixed times
and a latency counts from when the request was due, so that a stall shows in full.

Examples:
  quorate bench                                            64 clients write for 10 s
  quorate bench --mix mixed --rate 5000 --duration 30s
  quorate bench --protocol resp --clients 16 --pipeline 16
  quorate bench --mix read --url http://127.0.0.1:8000,http://127.0.0.1:8001 --consistency local";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mix {
    /// Writes only.
    Write,
    /// Reads only.
    Read,
    /// Half and half.
    Mixed,
}

/// `bench`
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// Connections, each with one request (or one pipeline) under way.
    #[arg(long, short, value_name = "N", default_value_t = 64)]
    pub(crate) clients: usize,
    /// How long to measure.
    #[arg(long, short, value_name = "TIME", value_parser = units::duration, default_value = "10s", conflicts_with = "requests")]
    pub(crate) duration: Duration,
    /// So many requests instead of a time.
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) requests: Option<u64>,
    /// Load before the measurement, not counted.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "1s")]
    pub(crate) warm_up: Duration,
    /// Size of a value.
    #[arg(long, value_name = "SIZE", value_parser = units::size_in_memory, default_value = "256")]
    pub(crate) value_size: usize,
    /// Different keys, drawn at random.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) keys: u64,
    /// What the requests do.
    #[arg(long, value_enum, value_name = "MIX", default_value = "write")]
    pub(crate) mix: Mix,
    /// Requests a second in all, sent at fixed times [default: as many as the answers allow].
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<f64>,
    /// What is spoken.
    #[arg(long, value_enum, value_name = "NAME", default_value = "http")]
    pub(crate) protocol: Protocol,
    /// Requests sent together on a connection (resp only).
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) pipeline: u64,
    /// How fresh reads are (http only; over resp they are linearizable).
    #[arg(long, value_enum, value_name = "KIND", default_value = "linearizable")]
    pub(crate) consistency: Freshness,
    /// Nodes, separated by commas; the clients are spread over them. With resp, http:// names the node, which is asked
    /// for its port [default: http://127.0.0.1:8000; 127.0.0.1:6379 for resp].
    #[arg(long, value_name = "URLS", env = "QUORATE_URL", hide_env_values = true, value_delimiter = ',')]
    pub(crate) url: Vec<String>,
    /// How long an answer is waited for.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s")]
    pub(crate) timeout: Duration,
    /// text for people, json for programs.
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
}

impl BenchArgs {
    /// The load and its end, checked.
    fn load(&self) -> Result<(Load, Until), String> {
        let within = |flag: &str, value: u64, max: u64| match value {
            0 => Err(format!("{flag} of 0 measures nothing: give at least 1")),
            v if v > max => Err(format!("{flag} of {v} is more than {max}: give less")),
            _ => Ok(()),
        };
        within("--clients", self.clients as u64, CLIENTS_MAX as u64)?;
        within("--pipeline", self.pipeline, PIPELINE_MAX)?;
        within("--keys", self.keys, KEYS_MAX)?;
        within("--value-size", self.value_size.max(1) as u64, VALUE_BYTES_MAX as u64)?;
        within("--requests", self.requests.unwrap_or(1), u64::MAX)?;
        if self.duration.is_zero() {
            return Err("--duration of 0 measures nothing: give something like 10s".to_owned());
        }
        if self.rate.is_some_and(|r| !(r > 0.0 && r <= 1e9)) {
            return Err("--rate is requests a second: give a number above 0".to_owned());
        }
        if self.protocol == Protocol::Http && self.pipeline > 1 {
            return Err("--pipeline goes with --protocol resp only: leave it out, or raise --clients".to_owned());
        }
        let default = if self.protocol == Protocol::Http { "http://127.0.0.1:8000" } else { "127.0.0.1:6379" };
        let urls = if self.url.is_empty() { vec![default.to_owned()] } else { self.url.clone() };
        let load = Load {
            addresses: urls.iter().map(|u| address(u, self.protocol)).collect::<Result<_, _>>()?,
            protocol: self.protocol,
            query: if self.consistency == Freshness::Local { "?consistency=local" } else { "" },
            clients: self.clients,
            pipeline: self.pipeline,
            reads: Reads(match self.mix {
                Mix::Write => 0,
                Mix::Read => 100,
                Mix::Mixed => 50,
            }),
            keys: self.keys,
            value_bytes: self.value_size,
            rate: self.rate,
            wave: 1,
            timeout: self.timeout,
        };
        Ok((load, self.requests.map_or(Until::Elapsed(self.duration), Until::Requests)))
    }
}

/// `host:port` in a URL of the protocol.
pub(super) fn address(url: &str, protocol: Protocol) -> Result<String, String> {
    let (name, scheme, example) = match protocol {
        Protocol::Http => ("http", "http://", "http://127.0.0.1:8000"),
        Protocol::Resp => ("resp", "redis://", "127.0.0.1:6379"),
    };
    let rest = url.trim().strip_prefix(scheme).unwrap_or(url.trim()).trim_end_matches('/');
    let port = rest.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port)?.parse::<u16>().ok());
    if rest.contains('/') || port.is_none() {
        return Err(format!("{url:?} is no address for --protocol {name}: give --url something like {example}"));
    }
    Ok(rest.to_owned())
}

/// The figures of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    protocol: &'static str,
    clients: usize,
    pipeline: u64,
    value_bytes: usize,
    keys: u64,
    /// Requests a second that were due; absent in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    seconds: f64,
    /// Answered without an error.
    done: u64,
    /// Of those, a second.
    throughput: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    writes: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reads: Option<Latency>,
    /// Reads of keys that do not exist; they count as done.
    missing: u64,
    /// Due but never sent, because every client was busy.
    unsent: u64,
    errors: std::collections::BTreeMap<String, u64>,
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(super) count: u64,
    pub(super) mean_ms: f64,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) max_ms: f64,
}

impl Latency {
    /// `None` if nothing was recorded.
    pub(super) fn of(histogram: &Histogram<u64>) -> Option<Latency> {
        let at = |q| histogram.value_at_quantile(q) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Latency {
            count: histogram.len(),
            mean_ms: histogram.mean().round() / 1e3,
            p50_ms: at(0.5),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1e3,
        })
    }

    fn row(&self, name: &str) -> Vec<String> {
        let ms = |v: f64| if v < 10.0 { format!("{v:.2}") } else { format!("{v:.1}") };
        let times = [self.mean_ms, self.p50_ms, self.p95_ms, self.p99_ms, self.p999_ms, self.max_ms];
        [name.to_owned(), self.count.to_string()].into_iter().chain(times.map(ms)).collect()
    }
}

/// Connects, warms up, measures, reports.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let runtime = runtime()?;
    let args = &BenchArgs { url: runtime.block_on(named_ports(args))?, ..args.clone() };
    let (load, until) = args.load().map_err(Failure::Usage)?;
    let report = runtime.block_on(measure(load, until, args.warm_up))?;
    match args.output {
        Output::Json => print_json(&report)?,
        Output::Text => print(shown(&report))?,
    }
    if report.done == 0 {
        return Err(Failure::Error("no request succeeded: see the errors above, and `quorate status`".to_owned()));
    }
    Ok(())
}

/// The addresses given; of nodes named by their HTTP address, as everywhere else, those of the Redis
/// protocol, if that is spoken.
async fn named_ports(args: &BenchArgs) -> Result<Vec<String>, Failure> {
    let mut named = Vec::with_capacity(args.url.len());
    for url in &args.url {
        let is_other = args.protocol == Protocol::Resp && url.trim().starts_with("http://");
        named.push(if is_other {
            let node =
                super::client::Client::new(std::slice::from_ref(url), args.timeout, None).map_err(Failure::Usage)?;
            super::verbs::read_status(&node).await?.node.tcp
        } else {
            url.clone()
        });
    }
    Ok(named)
}

async fn measure(load: Load, until: Until, warm_up: Duration) -> Result<Report, Failure> {
    let load = Arc::new(load);
    let mut clients = connect(&load).await?;
    if !warm_up.is_zero() {
        let (warm, _, _, _) = phase(clients, &load, Until::Elapsed(warm_up), "warming up".to_owned()).await?;
        clients = warm;
    }
    let (_, tally, elapsed, unsent) = phase(clients, &load, until, "measuring".to_owned()).await?;
    Ok(report(&load, &tally, elapsed, unsent))
}

/// Every client of a load, connected.
pub(super) async fn connect(load: &Arc<Load>) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::with_capacity(load.clients);
    for number in 0..load.clients {
        let client = Client::connect(load.clone(), number).await.map_err(|e| {
            let address = &load.addresses[number % load.addresses.len()];
            Failure::Error(format!(
                "cannot connect to {address}: {e}; start a cluster with `quorate local`, or give --url"
            ))
        })?;
        clients.push(client);
    }
    Ok(clients)
}

/// Runs every client until the end: the clients again, what they counted, how long it took, and what was never sent.
pub(super) async fn phase(
    clients: Vec<Client>,
    load: &Arc<Load>,
    until: Until,
    name: String,
) -> Result<(Vec<Client>, Tally, Duration, u64), Failure> {
    let counted = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let pacer = Arc::new(Pacer::new(start, load.rate, load.wave, until));
    let tasks: Vec<_> = clients.into_iter().map(|c| tokio::spawn(c.run(pacer.clone(), counted.clone()))).collect();
    let progress = tokio::spawn(progress(name, until, start, counted));
    let (mut back, mut tally) = (Vec::with_capacity(tasks.len()), Tally::new());
    for task in tasks {
        let (client, counted) =
            task.await.map_err(|e| Failure::Error(format!("a client of the load ended early: {e}")))?;
        back.push(client);
        tally.add(&counted);
    }
    let elapsed = start.elapsed();
    progress.abort();
    // Wait for it to be gone, so that the bar is cleared before anything else is printed.
    let _ = progress.await;
    Ok((back, tally, elapsed, pacer.unsent()))
}

async fn progress(name: String, until: Until, start: Instant, counted: Arc<AtomicU64>) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let length = match until {
        Until::Elapsed(duration) => duration.as_millis() as u64,
        Until::Requests(total) => total,
    };
    let bar = Cleared(ProgressBar::new(length));
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {elapsed} {msg}") {
        bar.0.set_style(style);
    }
    bar.0.set_prefix(name);
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let (done, elapsed) = (counted.load(Relaxed), start.elapsed());
        bar.0.set_position(if let Until::Elapsed(_) = until { elapsed.as_millis() as u64 } else { done }.min(length));
        bar.0.set_message(format!("{:.0}/s", done as f64 / elapsed.as_secs_f64()));
    }
}

/// A bar that leaves no trace when its task is aborted.
struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn report(load: &Load, tally: &Tally, elapsed: Duration, unsent: u64) -> Report {
    let seconds = elapsed.as_secs_f64();
    Report {
        protocol: if load.protocol == Protocol::Http { "http" } else { "resp" },
        clients: load.clients,
        pipeline: load.pipeline,
        value_bytes: load.value_bytes,
        keys: load.keys,
        rate: load.rate,
        seconds: (seconds * 1e3).round() / 1e3,
        done: tally.done(),
        throughput: (tally.done() as f64 / seconds).round(),
        writes: Latency::of(&tally.writes),
        reads: Latency::of(&tally.reads),
        missing: tally.missing,
        unsent,
        errors: tally.errors.clone(),
    }
}

fn shown(r: &Report) -> String {
    let pace = r.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} requests/s due"));
    let pipeline = if r.pipeline > 1 { format!(", pipeline {}", r.pipeline) } else { String::new() };
    let mut text = format!(
        "{} requests in {:.1} s: {:.0}/s ({}, {} clients{pipeline}, values of {}, {pace})\n\n",
        r.done,
        r.seconds,
        r.throughput,
        r.protocol,
        r.clients,
        units::show_size(r.value_bytes as u64),
    );
    let rows = [("writes", &r.writes), ("reads", &r.reads)];
    let rows = rows.iter().filter_map(|(name, latency)| latency.as_ref().map(|l| l.row(name)));
    text += &table(&["ms", "COUNT", "MEAN", "P50", "P95", "P99", "P99.9", "MAX"], rows, &[1, 2, 3, 4, 5, 6, 7]);
    if r.missing > 0 {
        text += &format!("\n{} reads found no value: write the keys first with --mix write\n", r.missing);
    }
    if r.unsent > 0 {
        text += &format!(
            "\n{} requests were due but never sent, all clients being busy: the rate is beyond what the cluster or these clients can do\n",
            r.unsent
        );
    }
    if !r.errors.is_empty() {
        let rows = r.errors.iter().map(|(code, count)| vec![code.clone(), count.to_string()]);
        text += &format!("\n{}", table(&["ERROR", "COUNT"], rows, &[1]));
    }
    text
}

#[cfg(test)]
#[path = "bench_tests.rs"]
mod tests;
