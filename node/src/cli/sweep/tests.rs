use clap::Parser;

use super::measure::{Copies, Point, Round};
use super::verify::Verification;
use super::*;
use crate::cli::bench::Latency;

#[derive(Parser)]
struct Just {
    #[command(flatten)]
    sweep: SweepArgs,
}

fn args(flags: &[&str]) -> SweepArgs {
    Just::try_parse_from(["sweep"].iter().chain(flags)).unwrap_or_else(|e| panic!("{e}")).sweep
}

#[test]
fn by_default_every_write_quorum_of_six_is_measured_with_up_to_two_nodes_down() {
    let args = args(&[]);
    assert_eq!(args.check(), Ok(()));
    assert_eq!(args.rounds(6, true), Ok(Rounds { write_quorums: vec![1, 2, 3, 4, 5, 6], down: vec![0, 1, 2] }));
    assert_eq!((args.writes, args.clients, args.keys), (1_000, 100, 10));
}

#[test]
fn no_more_nodes_are_stopped_than_leave_a_leader_and_none_of_somebody_elses() {
    assert_eq!(args(&[]).rounds(3, true).expect("rounds").down, [0, 1]);
    assert_eq!(args(&[]).rounds(2, true).expect("rounds").down, [0, 1]);
    assert_eq!(args(&[]).rounds(6, false).expect("rounds").down, [0]);
    let text = args(&["--down", "0,2"]).rounds(3, true).expect_err("no leader");
    assert!(text.contains("no leader"), "{text}");
}

#[test]
fn a_sweep_that_cannot_be_is_refused_with_a_sentence() {
    for (flags, expected) in [
        (&["--nodes", "1"][..], "--nodes is 1"),
        (&["--writes", "0"], "--writes is 0"),
        (&["--rate", "0"], "above 0"),
        (&["--min-delay", "2ms"], "longer than --max-delay"),
    ] {
        let text = args(flags).check().expect_err("refused");
        assert!(text.contains(expected), "{flags:?}: {text}");
    }
    assert!(args(&["--write-quorums", "7"]).rounds(6, true).expect_err("refused").contains("1 to 6"));
    assert!(Just::try_parse_from(["sweep", "--url", "http://a:1", "--nodes", "3"]).is_err());
}

fn round(w: usize, down: usize) -> Round {
    let (up, at) = (6 - down, w as f64);
    let works = up >= w;
    let latency = Latency {
        count: 100,
        mean_ms: at,
        p50_ms: at,
        p95_ms: 2.0 * at,
        p99_ms: 4.0 * at,
        p999_ms: 7.0 * at,
        max_ms: 8.0 * at,
    };
    Round {
        write_quorum: w,
        nodes_down: down,
        writes_survive: up.checked_sub(w),
        failover_survives: Some(0),
        writes: 100,
        succeeded: if works { 100 } else { 0 },
        unknown: 0,
        success_rate: f64::from(u8::from(works)),
        errors: [("no_quorum".to_owned(), 100)].into_iter().filter(|_| !works).collect(),
        latency: works.then_some(latency),
        distribution: (0..=10)
            .map(|i| Point { share: f64::from(i) / 10.0, ms: at * f64::from(i + 1) })
            .filter(|_| works)
            .collect(),
        throughput: works.then_some(9_000.0 / at),
        copies: works.then_some(Copies { min: w as u32, mean: at + 0.4, max: 6 }),
        converged_ms: works.then_some(3.25),
    }
}

pub(super) fn report() -> Report {
    let rounds = (1..=6).flat_map(|w| (0..=2).map(move |down| round(w, down))).collect();
    let verification = Verification { nodes: 6, keys: 10, acknowledged: 4_000, unknown: 0, applied: 4_000 };
    Report::new(&args(&[]), 6, true, rounds, verification)
}

#[test]
fn the_sentences_say_what_went_on_and_what_was_refused() {
    let text = explain::sentences(&report()).join("\n");
    for expected in [
        "from W=1 to W=6 the median went from 1.00 to 6.00 ms",
        "with one node down, at W=1 to 5 100% of the writes succeeded, and at W=6 every one was refused at once, none left in doubt",
        "with 2 nodes down, at W=1 to 4 100% of the writes succeeded, and at W=5 to 6 every one",
        "At W=1 that takes 6 of 6, so 0 may be down",
        "of 4000 acknowledged writes none is missing",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
}

#[test]
fn every_file_is_written_and_the_tables_have_a_row_for_each_round() {
    let folder = tempfile::tempdir().expect("dir");
    let names = report().write(folder.path()).expect("written");
    for name in &names {
        assert!(folder.path().join(name).metadata().is_ok_and(|m| m.len() > 100), "{name}");
    }
    let csv = std::fs::read_to_string(folder.path().join("sweep.csv")).expect("csv");
    let columns: Vec<usize> = csv.lines().map(|l| l.split(',').count()).collect();
    assert_eq!(columns, [18; 19]);
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("sweep.json")).expect("json")).expect("json");
    assert_eq!(json["rounds"].as_array().map(Vec::len), Some(18));
    let text = std::fs::read_to_string(folder.path().join("report.md")).expect("text");
    assert!(text.lines().filter(|l| l.starts_with("| ")).count() == 18 + 1, "{text}");
}

#[test]
fn a_share_close_to_all_is_not_shown_as_all() {
    assert_eq!([1.0, 0.99999, 0.5, 0.0].map(report::percent), ["100%", "99.9%", "50%", "0%"].map(str::to_owned));
}
