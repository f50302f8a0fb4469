//! `quorate-bench`: the store beside etcd, Redis and the bare HTTP stack, on one machine and on equal durability.
//!
//! `compare` runs everything and leaves dated results; `load`, and the limits `echo` and `chain`, are parts
//! of it for use by hand; `report` draws a table and plots again from results. How the comparison is made
//! fair is in this crate's README.

mod chain;
mod compare;
mod echo;
mod etcd;
mod failure;
mod load;
mod machine;
mod plots;
mod process;
mod quorate;
mod redis;
mod report;
mod results;
mod tools;
mod web;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::failure::{Context, Failure, Outcome};

#[derive(Parser)]
#[command(name = "quorate-bench", version, about = "Quorate beside etcd, Redis and the bare HTTP stack")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure all systems in alternating rounds and write dated results (about a quarter of an hour; it ends by itself
    /// after half as much again).
    Compare(CompareArgs),
    /// Serve the bare echo: the same requests without a store.
    Echo(EchoArgs),
    /// Serve bare durable writes: a leader and its followers, in a process each, without a store.
    Chain(ChainArgs),
    /// Drive load on an HTTP server that takes the store's requests.
    Load(LoadArgs),
    /// Write table and plots again from a results.json.
    Report(ReportArgs),
}

#[derive(Args)]
struct CompareArgs {
    /// About four minutes: fewer, shorter rounds.
    #[arg(long)]
    quick: bool,
    /// Rounds; figures are medians over them.
    #[arg(long)]
    rounds: Option<usize>,
    /// A part of the comparison alone; `latency` then takes the full ten minutes.
    #[arg(long)]
    only: Option<compare::Only>,
    /// The systems to measure.
    #[arg(long, value_delimiter = ',', default_value = "quorate,etcd,redis,echo,chain")]
    systems: Vec<results::System>,
    /// Length of the run at half load, seconds.
    #[arg(long)]
    half_load_seconds: Option<u64>,
    /// The quorate to measure, instead of building this tree's.
    #[arg(long)]
    quorate: Option<PathBuf>,
    /// A folder on the disk to measure on; all that is written there is removed again.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Where the results go: a dated folder in bench/results unless given.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct EchoArgs {
    /// Port on loopback.
    #[arg(long, default_value_t = 9_100)]
    port: u16,
    /// Size of the value that a GET answers with.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
}

#[derive(Args)]
struct ChainArgs {
    /// Port on loopback: of HTTP for a leader, and of the leader's connection for a follower.
    #[arg(long, default_value_t = 9_200)]
    port: u16,
    /// The followers' ports, two of them, which makes this the leader; start it last.
    #[arg(long, value_delimiter = ',')]
    followers: Vec<u16>,
    /// The file to write.
    #[arg(long)]
    data: PathBuf,
}

#[derive(Args)]
struct LoadArgs {
    /// Port on loopback.
    #[arg(long, default_value_t = 8_000)]
    port: u16,
    /// What to ask.
    #[arg(long, default_value = "put")]
    method: load::Method,
    /// Connections, each with one request under way.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Requests a second in all (open loop); without it, as fast as answers come (closed loop).
    #[arg(long)]
    rate: Option<f64>,
    /// Size of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Different keys.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Each key once, in order, instead of random keys for the time given.
    #[arg(long)]
    fill: bool,
    /// Seconds that count.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before them that do not.
    #[arg(long, default_value_t = 1.0)]
    warm_up_seconds: f64,
}

#[derive(Args)]
struct ReportArgs {
    /// A results.json.
    results: PathBuf,
    /// Where table and plots go: beside it unless given.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("quorate-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Outcome<()> {
    // The echo gets all cores, as the store does; a load gets one thread, so that it leaves the rest to the servers.
    let mut runtime = match command {
        Command::Echo(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build().context(|| "cannot start".to_owned())?;
    runtime.block_on(async {
        let work = async {
            match command {
                Command::Compare(args) => compare(args).await,
                Command::Echo(args) => echo::serve(args.port, args.value_bytes).await,
                Command::Chain(args) if args.followers.is_empty() => chain::follow(args.port, &args.data),
                Command::Chain(args) => chain::lead(args.port, &args.followers, &args.data).await,
                Command::Load(args) => drive(args).await,
                Command::Report(args) => report::again(&args.results, args.out),
            }
        };
        tokio::select! {
            result = work => result,
            // Dropping the work ends the servers and removes their data.
            result = interrupted() => result,
        }
    })
}

async fn interrupted() -> Outcome<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context(|| "cannot listen for signals".to_owned())?;
    tokio::select! {
        _ = terminate.recv() => (),
        _ = tokio::signal::ctrl_c() => (),
    }
    Err(Failure::new("interrupted"))
}

async fn compare(args: CompareArgs) -> Outcome<()> {
    let options = compare::Options {
        quick: args.quick,
        rounds: args.rounds,
        only: args.only,
        systems: args.systems,
        half_load_seconds: args.half_load_seconds,
        quorate: args.quorate,
        data_dir: args.data_dir,
        out: args.out,
    };
    let folder = compare::run(options).await?;
    println!("\nresults in {}", folder.display());
    Ok(())
}

async fn drive(args: LoadArgs) -> Outcome<()> {
    if args.clients == 0 || args.keys == 0 || args.rate.is_some_and(|r| r.is_nan() || r <= 0.0) {
        return Err(Failure::new("clients, keys and rate must be more than nothing"));
    }
    let seconds = |s: f64| Duration::try_from_secs_f64(s).context(|| format!("{s} is no number of seconds"));
    let spec = load::Spec {
        port: args.port,
        method: args.method,
        clients: args.clients,
        value_bytes: args.value_bytes,
        keys: args.keys,
        order: if args.fill { load::Order::EachOnce } else { load::Order::Random },
        rate: args.rate,
        warm_up: seconds(if args.fill { 0.0 } else { args.warm_up_seconds })?,
        duration: seconds(args.seconds)?,
    };
    let report = load::run(&spec).await?;
    println!("{} answers in {:.2} s: {}/s", report.answered, report.seconds, report::thousands(report.per_second()));
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        println!("{name:>6} {:9.3} ms", report.quantile_ms(quantile));
    }
    match report.first_error {
        None => Ok(()),
        Some(first) => Err(Failure::new(format!("{} requests failed, the first with: {first}", report.errors))),
    }
}
