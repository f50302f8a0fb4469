//! `sim bug`: breaks rules on purpose, and says which seed shows it and what reports it.

use std::process::ExitCode;

use quorate_sim::bugs::{Hunt, broken, search as look, stated};
use quorum::bugs::Bug;

/// Seeds tried if neither the command line nor the page says how many.
const SEEDS: u64 = 100;

fn text<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    let at = args.iter().position(|a| a == flag)?;
    args.get(at + 1).map(String::as_str)
}

/// The verb.
pub(crate) fn search(args: &[String]) -> ExitCode {
    let named = args.get(1).filter(|name| !name.starts_with("--"));
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(|bug| named.is_none_or(|name| bug.name() == name)).collect();
    let hunt = text(args, "--hunt").map(Hunt::named);
    if bugs.is_empty() || hunt == Some(None) {
        eprintln!("the bugs: {}", Bug::ALL.iter().map(|b| b.name()).collect::<Vec<_>>().join(", "));
        eprintln!("the hunts: {}", Hunt::ALL.map(Hunt::name).join(", "));
        return ExitCode::FAILURE;
    }
    let from = crate::number(args, "--from").unwrap_or(0);
    let mut missed = false;
    for bug in bugs {
        let (likely, within, _) = stated(bug).unwrap_or((Hunt::Plain, SEEDS, ""));
        let (hunt, seeds) = (hunt.flatten().unwrap_or(likely), crate::number(args, "--seeds").unwrap_or(within));
        let Some(found) = look(bug, hunt, from, seeds, text(args, "--invariant")) else {
            println!("{:<36} not seen in {seeds} seeds", bug.name());
            if args.iter().any(|a| a == "--trace") {
                broken(bug, hunt, from, true).trace.iter().for_each(|line| println!("{line}"));
            }
            missed = true;
            continue;
        };
        let violation = &found.violation;
        println!(
            "{:<36} {:>4}  seed {}: {}: {}",
            bug.name(),
            found.nth,
            found.seed,
            violation.invariant,
            violation.what
        );
        if args.iter().any(|a| a == "--trace") {
            broken(bug, hunt, found.seed, true).trace.iter().for_each(|line| println!("{line}"));
        }
    }
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
