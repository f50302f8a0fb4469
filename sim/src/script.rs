//! A run as text: its seed, its plan, and every fault of it, to be read, changed and checked in.
//!
//! Lines of `#` come first and say what the run taught. Then one setting a line, by the names of
//! [`Plan`]'s fields, then one fault a line: when in seconds, what, at which host, and the number that
//! everything else about it follows from.

use std::fmt;
use std::str::FromStr;

use crate::plan::{FAULTS, Fault, Plan, Strike};

/// See the module's description.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// What it taught.
    pub lesson: String,
    /// What chance follows from.
    pub seed: u64,
    /// The rest.
    pub plan: Plan,
}

/// A line that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine(pub String);

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a line of a script: {}", self.0)
    }
}

impl std::error::Error for BadLine {}

/// A setting as text.
trait Word: Sized {
    fn show(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

macro_rules! plain_word {
    ($($type:ty),*) => { $(impl Word for $type {
        fn show(&self) -> String {
            self.to_string()
        }
        fn read(text: &str) -> Option<Self> {
            text.parse().ok()
        }
    })* };
}

plain_word!(u64, usize, bool);

impl Word for (u64, u64) {
    fn show(&self) -> String {
        format!("{}..{}", self.0, self.1)
    }

    fn read(text: &str) -> Option<Self> {
        let (low, high) = text.split_once("..")?;
        Some((low.parse().ok()?, high.parse().ok()?))
    }
}

/// Every setting but the faults, by name. A field of [`Plan`] left out here would be drawn anew from the seed:
/// `a_script_says_all_of_a_plan` notices.
macro_rules! settings {
    ($($name:ident)*) => {
        fn show_settings(plan: &Plan) -> Vec<(&'static str, String)> {
            vec![$((stringify!($name), plan.$name.show())),*]
        }
        fn read_setting(plan: &mut Plan, name: &str, value: &str) -> Option<()> {
            match name {
                $(stringify!($name) => plan.$name = Word::read(value)?,)*
                _ => return None,
            }
            Some(())
        }
    };
}

settings!(nodes write_quorum spares cut_lasts hold_lasts safety recovery clients keys think delay loss duplicates snapshot_takes snapshot_patience fsync hiccups report heartbeat election lease_reads drift
    segment_bytes log_keep_bytes append_entries promotion_lag overlay_bytes piece_bytes request_timeout tick);

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lesson.lines() {
            writeln!(f, "# {line}")?;
        }
        writeln!(f, "seed {}", self.seed)?;
        for (name, value) in show_settings(&self.plan) {
            writeln!(f, "{name} {value}")?;
        }
        for Strike { at, fault, host, dice } in self.plan.script.iter().flatten() {
            writeln!(f, "{}.{:06} {fault:?} h{host} {dice}", at / 1_000_000, at % 1_000_000)?;
        }
        Ok(())
    }
}

impl FromStr for Script {
    type Err = BadLine;

    fn from_str(text: &str) -> Result<Script, BadLine> {
        let mut script = Script { lesson: String::new(), seed: 0, plan: Plan::draw(0) };
        let mut strikes = Vec::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            if let Some(lesson) = line.strip_prefix('#') {
                script.lesson = format!("{}\n{}", script.lesson, lesson.trim()).trim().to_owned();
                continue;
            }
            let bad = || BadLine(line.to_owned());
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["seed", value] => script.seed = value.parse().map_err(|_| bad())?,
                [name, value] => read_setting(&mut script.plan, name, value).ok_or_else(bad)?,
                [at, fault, host, dice] => strikes.push(read_strike(at, fault, host, dice).ok_or_else(bad)?),
                _ => return Err(bad()),
            }
        }
        let mut faults: Vec<Fault> = strikes.iter().map(|s| s.fault).collect();
        faults.sort_unstable();
        faults.dedup();
        (script.plan.faults, script.plan.script) = (faults, Some(strikes));
        Ok(script)
    }
}

fn read_strike(at: &str, fault: &str, host: &str, dice: &str) -> Option<Strike> {
    let (seconds, micros) = at.split_once('.').filter(|(_, micros)| micros.len() == 6)?;
    Some(Strike {
        at: seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?,
        fault: FAULTS.into_iter().find(|f| format!("{f:?}") == fault)?,
        host: host.strip_prefix('h')?.parse().ok()?,
        dice: dice.parse().ok()?,
    })
}
