//! A few operations as a timeline of text, one a line, the accused marked with `>`.

use std::fmt::Write;

use crate::{Call, Condition, Consistency, Operation, Outcome};

/// Columns of the bars: with the texts beside them a line still fits a wide terminal.
const COLUMNS: u64 = 48;

/// Operations shown; the rest are only counted.
const SHOWN_MAX: usize = 24;

/// The operations by time. The first given one is the accused.
pub(crate) fn timeline(operations: &[Operation]) -> String {
    let Some(accused) = operations.first() else { return String::new() };
    let mut shown: Vec<&Operation> = operations.iter().take(SHOWN_MAX).collect();
    shown.sort_by_key(|o| (o.invoked, o.end()));
    let start = shown.iter().map(|o| o.invoked).min().unwrap_or(0);
    let ends = shown.iter().map(|o| o.returned.unwrap_or(o.invoked));
    let span = (ends.max().unwrap_or(0).max(start) - start).max(1);
    let column =
        |time: u64| (u128::from(time.saturating_sub(start)) * u128::from(COLUMNS - 2) / u128::from(span)) as usize;
    let mut out = String::new();
    for operation in shown {
        let from = column(operation.invoked);
        let bar = match (&operation.outcome, operation.returned) {
            (Outcome::Unknown, _) | (_, None) => {
                format!("{}[{}", " ".repeat(from), ".".repeat(COLUMNS as usize - 1 - from))
            }
            (_, Some(returned)) => {
                let to = column(returned).max(from);
                format!("{}[{}]", " ".repeat(from), "-".repeat(to - from))
            }
        };
        let mark = if operation == accused { '>' } else { ' ' };
        let line = format!("{mark} p{:<4} {bar:<48}  {}", operation.process, describe(operation));
        let _ = writeln!(out, "{}", line.trim_end());
    }
    if operations.len() > SHOWN_MAX {
        let _ = writeln!(out, "  and {} more", operations.len() - SHOWN_MAX);
    }
    let _ = writeln!(out, "  from {start} to {}", start + span);
    out
}

fn describe(operation: &Operation) -> String {
    let asked = match &operation.call {
        Call::Read { consistency: Consistency::Linearizable } => "read".to_owned(),
        Call::Read { consistency: Consistency::Session } => "read (session)".to_owned(),
        Call::Read { consistency: Consistency::Local } => "read (local)".to_owned(),
        Call::Write { value, condition } => format!("write {value:?}{}", when(*condition)),
        Call::Delete { condition } => format!("delete{}", when(*condition)),
    };
    let at = |revision: &Option<u64>| revision.map(|r| format!(" at revision {r}")).unwrap_or_default();
    let told = match &operation.outcome {
        Outcome::Found { value: Some(value), revision } => format!("{value:?}{}", at(revision)),
        Outcome::Found { value: None, .. } => "nothing there".to_owned(),
        Outcome::Done { revision } => format!("done{}", at(revision)),
        Outcome::Failed { revision } => {
            format!("condition failed{}", revision.map(|r| format!(", the key is at revision {r}")).unwrap_or_default())
        }
        Outcome::Refused => "refused".to_owned(),
        Outcome::Unknown => "unknown".to_owned(),
    };
    format!("{asked} -> {told}")
}

fn when(condition: Condition) -> String {
    match condition {
        Condition::None => String::new(),
        Condition::Absent => " if absent".to_owned(),
        Condition::Present => " if present".to_owned(),
        Condition::Revision(revision) => format!(" if at revision {revision}"),
    }
}
