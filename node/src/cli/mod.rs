//! The command line: what `quorate` is told, and what it says back.
//!
//! Owns names, help, exit codes and the process around the nodes (runtime, logs, signals). Decides nothing about data:
//! `serve` and `local` hand checked options to [`crate::node::Node`], the client verbs speak HTTP like anyone else.
//!
//! Exit codes: 0 done, 1 an error, 2 wrong usage or settings, 3 no such key, 4 the outcome of a write is unknown.

mod bench;
mod client;
mod file;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod local;
mod output;
mod serve;
mod settings;
mod sweep;
mod units;
mod verbs;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use output::Failure;
use settings::{Common, LogFormat};

use crate::logging::{self, LogError};

/// A second signal ends the process at once, with the code shells use for Ctrl-C.
const EXIT_INTERRUPTED: i32 = 130;

const EXAMPLES: &str = "\
Examples:
  quorate local                              a cluster of six nodes on this machine, W=4
  quorate put hello world                    a write, acknowledged when W disks hold it
  quorate get hello
  quorate status --url http://10.0.0.7:8000
  quorate bench --clients 64 --duration 10s
  quorate sweep                              what each write quorum costs, as tables and plots

`quorate serve --help` is the manual of every setting.";

const SERVE_EXAMPLES: &str = "\
Times are written 0.1ms, 1s, 2m (a bare number is milliseconds), ranges 500ms-1s, sizes 4KiB, 64MiB (a bare number is bytes).
Flags win over the environment, the environment over the file of --config.

Examples:
  Three nodes on one machine (the first forms the cluster when all three are there):
    quorate serve --id node1 --node-type leader --replicas 3 --write-quorum 2
    quorate serve --id node2 --http-port 8001 --tcp-port 6380 --peer-port 7401 --leader-url http://127.0.0.1:8000
    quorate serve --id node3 --http-port 8002 --tcp-port 6381 --peer-port 7402 --leader-url http://127.0.0.1:8000
  On a machine of its own, settings in a file:
    quorate serve --config /etc/quorate.conf --address db1.example.net
  What would be used:
    quorate serve --check

Names of earlier systems: --node-id is --id, --port is --tcp-port, --primary is --node-type leader.
Exit codes: 0 stopped in good order, 1 the node failed, 2 a setting is wrong.";

const LOCAL_EXAMPLES: &str = "\
Examples:
  quorate local
  quorate local --nodes 3 --write-quorum 2 --data-dir /tmp/three
  quorate local --min-delay 0.1ms --max-delay 1ms     with a simulated network

A start on existing data takes that cluster up again; its N and W stay in force.";

/// A replicated key-value store whose durability you choose and can see.
#[derive(Parser, Debug)]
#[command(name = "quorate", version, about, after_help = EXAMPLES, max_term_width = 110, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

// One value of it exists in a process: its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Subcommand, Debug)]
enum Verb {
    /// Runs a whole cluster in this process: the way to try it
    #[command(after_help = LOCAL_EXAMPLES)]
    Local(local::LocalArgs),
    /// Runs one node of a cluster
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(settings::ServeArgs),
    /// Reads a key
    Get(verbs::GetArgs),
    /// Writes a key
    Put(verbs::PutArgs),
    /// Removes a key
    Delete(verbs::DeleteArgs),
    /// Lists keys in order, with their values
    List(verbs::ListArgs),
    /// Shows how a node and its cluster are, and which failures they still survive
    Status(verbs::StatusArgs),
    /// Shows the members of the cluster; promote and remove change them
    Members(verbs::MembersArgs),
    /// Shows the cluster's configuration; set changes it
    Config(verbs::ConfigArgs),
    /// Hands leadership to another node
    Transfer(verbs::TransferArgs),
    /// Drives load and measures it
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::BenchArgs),
    /// Measures every write quorum in turn, and draws what each costs
    #[command(after_help = sweep::EXAMPLES)]
    Sweep(sweep::SweepArgs),
    /// Follows changes (later)
    #[command(hide = true)]
    Watch(Later),
}

/// Whatever was given to a verb that is not there yet.
#[derive(clap::Args, Debug)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os().collect(), |name| std::env::var_os(name).is_some_and(|v| v.is_empty())) {
        Ok(cli) => cli,
        Err(Stopped::Clap(error)) => {
            // To stdout and 0 for --help and --version, to stderr and 2 for the rest; nothing to be done
            // if the stream is closed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        Err(Stopped::File(error)) => return report(&Failure::Usage(error.to_string())),
    };
    let ended = run(&cli.verb);
    #[cfg(feature = "otel")]
    crate::traces::end();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    eprintln!("quorate: {}", failure.message());
    ExitCode::from(failure.code())
}

fn run(verb: &Verb) -> Result<(), Failure> {
    let later = |what| Failure::Usage(format!("`quorate {what}` is not available yet: it comes with a later version"));
    match verb {
        Verb::Local(args) => local::run(args),
        Verb::Serve(args) => serve::run(args),
        Verb::Get(args) => asking(verbs::get(args)),
        Verb::Put(args) => asking(verbs::put(args)),
        Verb::Delete(args) => asking(verbs::delete(args)),
        Verb::List(args) => asking(verbs::list(args)),
        Verb::Status(args) => asking(verbs::status(args)),
        Verb::Members(args) => asking(verbs::members(args)),
        Verb::Config(args) => asking(verbs::config(args)),
        Verb::Transfer(args) => asking(verbs::transfer(args)),
        Verb::Bench(args) => bench::run(args),
        Verb::Sweep(args) => sweep::run(args),
        Verb::Watch(_) => Err(later("watch")),
    }
}

/// Why the command line was not taken (or asked only for help).
#[derive(Debug)]
enum Stopped {
    Clap(clap::Error),
    File(file::FileError),
}

/// Parses the command line. If it names a settings file, once more with the file's values as defaults. Variables that
/// are set but empty count as not set.
fn parse(args: Vec<OsString>, empty: impl Fn(&str) -> bool) -> Result<Cli, Stopped> {
    let command = || file::ignore_empty(Cli::command(), &empty);
    let take = |command: clap::Command| {
        let mut matches = command.try_get_matches_from(&args).map_err(Stopped::Clap)?;
        Cli::from_arg_matches_mut(&mut matches).map_err(Stopped::Clap)
    };
    let cli = take(command())?;
    let named = match &cli.verb {
        Verb::Local(local) => local.common.config.as_ref(),
        Verb::Serve(serve) => serve.common.config.as_ref(),
        _ => None,
    };
    let Some(path) = named else { return Ok(cli) };
    let settings = file::read(path).map_err(Stopped::File)?;
    let with_file = file::apply(Cli::command(), &path.display().to_string(), &settings).map_err(Stopped::File)?;
    take(file::ignore_empty(with_file, &empty))
}

/// A runtime with a thread for every second core. A thread that waits is woken whenever a task is ready beside the
/// one that runs, and mostly finds it done: with two threads on two cores a write alone costs nearly twice the
/// context switches. The other cores are for the log's thread and the engine. The process may have as many files
/// open as the system allows, and has no huge pages: whoever touches one first, the driver as likely as any, waits while
/// two mebibytes are cleared, which shows in the p99 of a node that fills its memory.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    if let Some(files) = files::raise_limit() {
        tracing::debug!(files, "files and connections that may be open");
    }
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "cannot do without huge pages");
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = cores.div_ceil(2);
    let built =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).thread_name("quorate").enable_all().build();
    built.map_err(|e| Failure::Error(format!("cannot start the threads: {e}")))
}

/// Runs a client verb.
fn asking(verb: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|e| Failure::Error(format!("cannot start: {e}")))?.block_on(verb)
}

/// Sends the log to stderr.
fn start_logging(common: &Common, default: &str) -> Result<(), Failure> {
    let level = common.log_level.as_deref().unwrap_or(default);
    let json = common.log_format == LogFormat::Json;
    #[cfg(feature = "otel")]
    let started = match common.otlp_endpoint.as_deref().filter(|e| !e.is_empty()) {
        Some(endpoint) => logging::start_with_traces(level, json, endpoint),
        None => logging::start(level, json),
    };
    #[cfg(not(feature = "otel"))]
    let started = logging::start(level, json);
    started.map_err(|error| match error {
        LogError::Filter { .. } => Failure::Usage(format!("--log-level (RUST_LOG): {error}")),
        LogError::None | LogError::Failed(_) => Failure::Error(format!("cannot start the log: {error}")),
    })
}

/// Ctrl-C and SIGTERM.
struct Stop(tokio::sync::watch::Receiver<bool>);

impl Stop {
    /// Listens from now on. The first signal is reported by [`Stop::asked`], a second one ends the process at once.
    fn listen() -> Result<Stop, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let cannot = |e| Failure::Error(format!("cannot listen for signals: {e}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        let (tx, rx) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if tx.send_replace(true) {
                    std::process::exit(EXIT_INTERRUPTED);
                }
            }
        });
        Ok(Stop(rx))
    }

    /// Resolves at the first signal.
    async fn asked(&mut self) {
        // The sender lives as long as the process; without it there is nothing to wait for.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}

#[cfg(test)]
mod tests;
