//! The command line of the simulator: see [`USAGE`] and the library.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quorate_sim::plan::FAULTS;
use quorate_sim::shrink::shrink;
use quorate_sim::{Fault, Outcome, Plan, Script, run};
use quorum::Quorum;

#[cfg(feature = "bugs")]
mod bug;

const USAGE: &str = "\
sim run [--seeds N] [--from SEED] [--jobs J]    runs seeds; without --from those from QUORATE_SEED on, or fresh ones by the clock
sim trace SEED | FILE                           one line an event
sim shrink SEED | FILE [--seconds S]            leaves out what a failure does not need, and prints a script to check in; for at most five minutes, or S seconds
sim table [--seeds N] [--from SEED] [--jobs J]  N runs with every kind of fault for each legal pair of N and W
sim bug NAME [--seeds K] [--from SEED]          breaks a rule on purpose and looks for a seed that shows it; every one without a NAME; --hunt KIND
                                                for another kind of run, --invariant FILE for what that one reports, --trace; with the feature `bugs`:
                                                cargo run -p quorate-sim --features bugs -- bug vote-not-synced";

/// A seed that takes longer is worth a line.
const SLOW: Duration = Duration::from_secs(10);

/// How long a failure is made smaller. Ten times what most need; a stuck run on a slow machine takes it all.
const SHRINKING: Duration = Duration::from_secs(300);

/// Lines of the trace that are shown of the first seed that fails.
const TAIL: usize = 60;

fn number(args: &[String], flag: &str) -> Option<u64> {
    let at = args.iter().position(|a| a == flag)?;
    args.get(at + 1)?.parse().ok()
}

/// The first seed of a series: asked for, or of the environment, or one that nobody has run yet.
fn base(args: &[String]) -> u64 {
    let asked = number(args, "--from").or_else(|| std::env::var("QUORATE_SEED").ok()?.parse().ok());
    // Seconds, and room for a million seeds between two of them.
    asked.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() * 1_000_000))
}

fn main() -> ExitCode {
    // Panics are caught and reported with their seed.
    std::panic::set_hook(Box::new(|_| {}));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let jobs = number(&args, "--jobs").unwrap_or(2);
    match args.first().map(String::as_str) {
        Some("run") => many(base(&args), number(&args, "--seeds").unwrap_or(1_000), jobs),
        Some("table") => table(base(&args), number(&args, "--seeds").unwrap_or(10), jobs),
        Some(verb @ ("trace" | "shrink")) => match args.get(1).map(|a| read(a)) {
            Some(Ok((seed, plan))) if verb == "trace" => trace(seed, plan),
            Some(Ok((seed, plan))) => {
                shrunk(seed, plan, number(&args, "--seconds").map_or(SHRINKING, Duration::from_secs))
            }
            Some(Err(error)) => fail(&error),
            None => fail(USAGE),
        },
        #[cfg(feature = "bugs")]
        Some("bug") => bug::search(&args),
        Some("--help" | "-h" | "help") => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => fail(USAGE),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

/// A seed, or a script's file.
fn read(what: &str) -> Result<(u64, Plan), String> {
    if let Ok(seed) = what.parse() {
        return Ok((seed, Plan::draw(seed)));
    }
    let text = std::fs::read_to_string(what).map_err(|e| format!("neither a seed nor a file: {what}: {e}"))?;
    let script: Script = text.parse().map_err(|e| format!("{what}: {e}"))?;
    Ok((script.seed, script.plan))
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    events: u64,
    node_seconds: u64,
    written: u64,
    read: u64,
    unknown: u64,
    reigns: u64,
    snapshots: u64,
    faults: BTreeMap<Fault, u64>,
    failed: Vec<u64>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.node_seconds += outcome.node_seconds;
        self.written += outcome.tally.written;
        self.read += outcome.tally.read;
        self.unknown += outcome.tally.unknown;
        self.reigns += outcome.reigns;
        self.snapshots += outcome.snapshots;
        for (fault, count) in outcome.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        if outcome.violation.is_some() {
            self.failed.push(seed);
        }
    }

    fn print(&self, took: f64) {
        let Sum { seeds, events, node_seconds, written, read, unknown, reigns, snapshots, .. } = self;
        println!(
            "{seeds} seeds, {events} events, {node_seconds} node-seconds in {took:.1} s ({:.0} a second)",
            *node_seconds as f64 / took
        );
        println!("{written} writes, {read} reads, {unknown} unknown; {reigns} reigns, {snapshots} snapshots");
        let faults: Vec<String> = self.faults.iter().map(|(fault, count)| format!("{fault:?} {count}")).collect();
        println!("{} faults: {}", self.faults.values().sum::<u64>(), faults.join(", "));
    }
}

/// Runs seeds in as many threads as asked for.
fn series(from: u64, seeds: u64, jobs: u64, plan: impl Fn(u64) -> Plan + Sync) -> Sum {
    let (next, sum) = (AtomicU64::new(from), Mutex::new(Sum::default()));
    let one = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return;
            }
            let begun = Instant::now();
            let outcome = run(seed, plan(seed), false);
            if let Some(v) = &outcome.violation {
                println!("seed {seed}: {}: {}", v.invariant, v.what);
            }
            if begun.elapsed() >= SLOW {
                println!("seed {seed} took {:?}", begun.elapsed());
            }
            let Ok(mut sum) = sum.lock() else { return };
            sum.add(seed, outcome);
        }
    };
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(one))));
    let mut sum = sum.into_inner().unwrap_or_default();
    sum.failed.sort_unstable();
    sum
}

fn many(from: u64, seeds: u64, jobs: u64) -> ExitCode {
    println!("seeds from {from} (QUORATE_SEED={from} runs the same)");
    let begun = Instant::now();
    let sum = series(from, seeds, jobs, Plan::draw);
    sum.print(begun.elapsed().as_secs_f64());
    let Some(first) = sum.failed.first() else { return ExitCode::SUCCESS };
    let outcome = run(*first, Plan::draw(*first), true);
    println!("the end of seed {first}, heartbeats left out:");
    let lines: Vec<&String> = outcome.trace.iter().filter(|l| !l.contains("heartbeat")).collect();
    lines.iter().skip(lines.len().saturating_sub(TAIL)).for_each(|line| println!("{line}"));
    println!(
        "{} seeds failed. The first in full: make sim SEED={first}; made small: target/debug/sim shrink {first}",
        sum.failed.len()
    );
    ExitCode::FAILURE
}

fn trace(seed: u64, plan: Plan) -> ExitCode {
    println!("seed {seed}: {plan:?}");
    let outcome = run(seed, plan, true);
    outcome.trace.iter().for_each(|line| println!("{line}"));
    println!("faults {:?}, clients {:?}", outcome.faults, outcome.tally);
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(v) => {
            println!("VIOLATION {}: {}", v.invariant, v.what);
            ExitCode::FAILURE
        }
    }
}

fn shrunk(seed: u64, plan: Plan, time: Duration) -> ExitCode {
    let Some((script, outcome)) = shrink(seed, plan, time) else {
        println!("seed {seed} does not fail");
        return ExitCode::SUCCESS;
    };
    print!("{script}");
    // To standard error: what goes to standard output can be put into a file as it is.
    for line in outcome.trace.iter().skip(outcome.trace.len().saturating_sub(TAIL)) {
        eprintln!("{line}");
    }
    ExitCode::FAILURE
}

fn table(from: u64, seeds: u64, jobs: u64) -> ExitCode {
    println!("seeds from {from} (QUORATE_SEED={from} runs the same), {seeds} for each pair, with every kind of fault");
    println!("N W E C     writes    reads unknown reigns faults  violations");
    let mut failed = false;
    for nodes in 1..=7_usize {
        for write_quorum in 1..=nodes {
            let Ok(quorum) = Quorum::new(nodes, write_quorum) else { return fail("N and W do not go together") };
            let plan = |seed| Plan::draw(seed).with_quorum(nodes, write_quorum).with_faults(&FAULTS);
            let sum = series(from, seeds, jobs, plan);
            let (election, commit) = (quorum.election(), quorum.commit());
            println!(
                "{nodes} {write_quorum} {election} {commit} {:>10} {:>8} {:>7} {:>6} {:>6}  {}",
                sum.written,
                sum.read,
                sum.unknown,
                sum.reigns,
                sum.faults.values().sum::<u64>(),
                sum.failed.len()
            );
            failed |= !sum.failed.is_empty();
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
