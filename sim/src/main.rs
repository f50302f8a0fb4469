//! `sim run [--seeds N] [--from SEED] [--jobs J]`, `sim trace SEED`, `sim shrink SEED`: see the library.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_sim::{Fault, Outcome, Plan, run};

/// A seed that takes longer is worth a line.
const SLOW: Duration = Duration::from_secs(10);

fn number(args: &[String], flag: &str, default: u64) -> u64 {
    let at = args.iter().position(|a| a == flag);
    at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    // Panics are caught and reported with their seed.
    std::panic::set_hook(Box::new(|_| {}));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seed = args.get(1).and_then(|s| s.parse().ok());
    match (args.first().map(String::as_str), seed) {
        (Some("run"), _) => many(number(&args, "--from", 0), number(&args, "--seeds", 100), number(&args, "--jobs", 2)),
        (Some("trace"), Some(seed)) => trace(seed, Plan::draw(seed), usize::MAX),
        (Some("shrink"), Some(seed)) => shrink(seed),
        _ => {
            eprintln!("sim run [--from SEED] [--seeds N] [--jobs J] | sim trace SEED | sim shrink SEED");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Sum {
    events: u64,
    node_seconds: u64,
    written: u64,
    read: u64,
    unknown: u64,
    reigns: u64,
    snapshots: u64,
    faults: BTreeMap<Fault, u64>,
    failed: Vec<(u64, String)>,
}

fn many(from: u64, seeds: u64, jobs: u64) -> ExitCode {
    let (next, sum, begun) = (AtomicU64::new(from), Mutex::new(Sum::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let begun = Instant::now();
                    let outcome = run(seed, Plan::draw(seed), false);
                    if let Some(v) = &outcome.violation {
                        println!("seed {seed}: {}: {}", v.invariant, v.what);
                    }
                    if begun.elapsed() >= SLOW {
                        println!("seed {seed} took {:?}", begun.elapsed());
                    }
                    let Ok(mut sum) = sum.lock() else { return };
                    add(&mut sum, seed, outcome);
                }
            });
        }
    });
    let Ok(mut sum) = sum.into_inner() else { return ExitCode::FAILURE };
    let took = begun.elapsed().as_secs_f64();
    sum.failed.sort();
    println!(
        "{seeds} seeds from {from}: {} events, {} node-seconds in {took:.1} s ({:.0} a second), {} writes, {} reads, {} unknown, {} reigns, {} snapshots",
        sum.events,
        sum.node_seconds,
        sum.node_seconds as f64 / took,
        sum.written,
        sum.read,
        sum.unknown,
        sum.reigns,
        sum.snapshots
    );
    println!("faults: {:?}", sum.faults);
    if sum.failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} seeds failed; the first in full: make sim SEED={}", sum.failed.len(), sum.failed[0].0);
    ExitCode::FAILURE
}

fn add(sum: &mut Sum, seed: u64, outcome: Outcome) {
    sum.events += outcome.events;
    sum.node_seconds += outcome.node_seconds;
    sum.written += outcome.tally.written;
    sum.read += outcome.tally.read;
    sum.unknown += outcome.tally.unknown;
    sum.reigns += outcome.reigns;
    sum.snapshots += outcome.snapshots;
    for (fault, count) in outcome.faults {
        *sum.faults.entry(fault).or_default() += count;
    }
    if let Some(v) = outcome.violation {
        sum.failed.push((seed, format!("{}: {}", v.invariant, v.what)));
    }
}

fn trace(seed: u64, plan: Plan, lines: usize) -> ExitCode {
    println!("seed {seed}: {plan:?}");
    let outcome = run(seed, plan, true);
    let skip = outcome.trace.len().saturating_sub(lines);
    for line in outcome.trace.iter().skip(skip) {
        println!("{line}");
    }
    println!("faults {:?}, clients {:?}", outcome.faults, outcome.tally);
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(v) => {
            println!("VIOLATION {}: {}", v.invariant, v.what);
            ExitCode::FAILURE
        }
    }
}

/// Leaves out faults, kinds of faults and time as long as the run still fails in the same way.
fn shrink(seed: u64) -> ExitCode {
    let mut plan = Plan::draw(seed);
    let fails = |plan: &Plan| run(seed, plan.clone(), false).violation.map(|v| v.invariant);
    let Some(invariant) = fails(&plan) else {
        println!("seed {seed} does not fail");
        return ExitCode::SUCCESS;
    };
    let still = |plan: &Plan| fails(plan) == Some(invariant);
    for number in 1..200 {
        let mut without = plan.clone();
        without.skipped.push(number);
        if still(&without) {
            plan = without;
        }
    }
    for clients in 1..plan.clients {
        let fewer = Plan { clients, ..plan.clone() };
        if still(&fewer) {
            plan = fewer;
            break;
        }
    }
    trace(seed, plan, 400)
}
