//! The checker against porcupine, a checker by other people in another language: on each key of each
//! history both must say the same.
//!
//! The histories are generated ones, healthy, with a fault, or with answers exchanged, and those that the
//! tests of real processes left in the build folder. `QUORATE_PORCUPINE_HISTORIES` says how many of the former
//! (`make porcupine` takes many).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_history::generate::{Dice, Fault, Shape, healthy, inject, inject_stale_read};
use quorate_history::{History, Kind, Operation, Outcome, check};

/// A few seconds' worth, for every test run.
const HISTORIES: u64 = 150;

/// Of 100 keys so many may be undecided by either: more, and the comparison says too little.
const UNDECIDED_PERCENT_MAX: usize = 2;

#[test]
fn porcupine_agrees_on_every_key_of_healthy_and_of_corrupted_histories() {
    if Command::new("go").arg("version").output().is_err() {
        // Not by a macro: the test runner would swallow that.
        let text = "\n*** NOT RUN: there is no Go on this machine, so nothing was compared with porcupine ***\n";
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("porcupine");
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("porcupine");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(".");
    let build = build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("porcupine")).output().unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));

    let wanted = std::env::var("QUORATE_PORCUPINE_HISTORIES").map_or(HISTORIES, |n| n.parse().expect("a number"));
    let histories: Vec<(PathBuf, History)> = (0..wanted)
        .map(|seed| (format!("generated-{seed}"), generated(seed)))
        .chain(recorded())
        .map(|(name, history)| (folder.join(name).with_extension("jsonl"), history))
        .collect();
    for (path, history) in &histories {
        history.write_to(std::io::BufWriter::new(std::fs::File::create(path).unwrap())).unwrap();
    }
    // In portions: a command line has a bound.
    let theirs: BTreeMap<(String, String), String> =
        histories.chunks(100).flat_map(|c| verdicts(&program, c)).collect();
    compare(&histories, &theirs);
    std::fs::remove_dir_all(&folder).unwrap();
}

fn verdicts(program: &Path, histories: &[(PathBuf, History)]) -> Vec<((String, String), String)> {
    let output = Command::new(program).args(histories.iter().map(|(path, _)| path)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = || fields.next().expect("three fields");
        ((next(), next()), next())
    };
    text.lines().map(line).collect()
}

fn compare(histories: &[(PathBuf, History)], theirs: &BTreeMap<(String, String), String>) {
    let (mut accepted, mut rejected, mut undecided, mut beyond) = (0, 0, 0, 0);
    for (path, history) in histories {
        let mut keys: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
        for operation in &history.operations {
            keys.entry(&operation.key).or_default().push(operation.clone());
        }
        for (key, operations) in keys {
            let theirs = theirs[&(path.to_string_lossy().into_owned(), key.to_owned())].as_str();
            let ours = check(&operations);
            match (&ours, theirs) {
                (Ok(()), "ok") => accepted += 1,
                (Err(violation), _) if violation.kind == Kind::Undecided => undecided += 1,
                (_, "undecided") => undecided += 1,
                // What is no question of an order is not asked there.
                (Err(violation), _)
                    if matches!(violation.kind, Kind::Malformed | Kind::Revisions | Kind::SessionWentBack)
                        || violation.operations[0].seen_by_local_read() =>
                {
                    beyond += 1;
                }
                (Err(_), "illegal") => rejected += 1,
                (Ok(()), _) => panic!("{} {key}: accepted here, {theirs} by porcupine", path.display()),
                (Err(violation), _) => panic!("{}: {theirs} by porcupine, here: {violation}", path.display()),
            }
        }
    }
    println!(
        "porcupine agrees: {accepted} keys accepted, {rejected} rejected; {undecided} undecided, {beyond} not compared"
    );
    let all = accepted + rejected + undecided;
    assert!(accepted > 0 && rejected > 0, "the histories are of one kind only");
    assert!(undecided * 100 <= all * UNDECIDED_PERCENT_MAX, "{undecided} of {all} keys are undecided");
}

trait Accused {
    fn seen_by_local_read(&self) -> bool;
}

impl Accused for Operation {
    fn seen_by_local_read(&self) -> bool {
        use quorate_history::{Call, Consistency};
        matches!(self.call, Call::Read { consistency } if consistency != Consistency::Linearizable)
    }
}

fn generated(seed: u64) -> History {
    let mut dice = Dice::new(seed);
    let shape = Shape {
        clients: 1 + dice.below(10),
        operations: 10 + dice.below(120) as usize,
        keys: 1 + dice.below(3),
        unknown_percent: dice.below(8),
        untold_percent: [0, 50, 100][dice.below(3) as usize],
    };
    let mut history = healthy(seed, shape);
    match dice.below(4) {
        0 => {}
        1 | 2 => {
            let fault = Fault::ALL[dice.below(Fault::ALL.len() as u64) as usize];
            inject(&mut history, fault, seed);
        }
        _ => exchange(&mut history, &mut dice),
    }
    history
}

/// Gives an operation the answer of another: mostly wrong, not always.
fn exchange(history: &mut History, dice: &mut Dice) {
    let count = history.operations.len() as u64;
    let [from, to] = [dice.below(count), dice.below(count)].map(|n| n as usize);
    let outcome = history.operations[from].outcome.clone();
    if outcome != Outcome::Unknown && history.operations[to].outcome != Outcome::Unknown {
        history.operations[to].outcome = outcome;
    }
}

/// What clients of real processes saw, as it is and with a stale read.
fn recorded() -> Vec<(String, History)> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("histories");
    let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut all = Vec::new();
    for file in files {
        let path = file.unwrap().path();
        let name = format!("recorded-{}", path.file_stem().unwrap().to_string_lossy());
        let source = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let history = History::read_from(source).unwrap();
        let mut stale = history.clone();
        inject_stale_read(&mut stale, &mut Dice::new(1));
        all.extend([(format!("{name}-stale"), stale), (name, history)]);
    }
    all
}
