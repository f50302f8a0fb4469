//! What can be told of a key's history without a search.
//!
//! Owns: that values and revisions name each other; that nothing is seen which certainly did not happen, was never
//! written, or was not written yet; that no linearizable or session read shows less than what was known before. Each
//! finding is certain; what passes may still have no order, which `search.rs` finds out.

use std::collections::HashMap;

use crate::{Call, Consistency, Kind, Operation, Outcome, Violation};

/// What the whole history says about a key's values.
#[derive(Debug, Default)]
pub(crate) struct Known<'a> {
    /// Each value's revision, from whoever was told.
    pub(crate) revisions: HashMap<&'a str, u64>,
    /// Each revision's value.
    pub(crate) values: HashMap<u64, &'a str>,
    /// When each value was first shown to somebody: by then its write had taken effect.
    pub(crate) first_seen: HashMap<&'a str, u64>,
}

/// Checks the operations of one key.
pub(crate) fn check<'a>(operations: &[&'a Operation]) -> Result<Known<'a>, Violation> {
    let writers = writers(operations)?;
    let known = revisions(operations)?;
    for operation in operations {
        source(operation, &writers)?;
    }
    reads(operations, &known)?;
    Ok(known)
}

/// The write of each value.
fn writers<'a>(operations: &[&'a Operation]) -> Result<HashMap<&'a str, &'a Operation>, Violation> {
    let mut writers: HashMap<&str, &Operation> = HashMap::new();
    for &operation in operations {
        let fits = matches!(
            (&operation.call, &operation.outcome),
            (_, Outcome::Refused | Outcome::Unknown)
                | (Call::Read { .. }, Outcome::Found { .. })
                | (Call::Write { .. } | Call::Delete { .. }, Outcome::Done { .. } | Outcome::Failed { .. })
        );
        if !fits {
            return Err(Violation::new(Kind::Malformed, &[operation], "the outcome does not belong to the call"));
        }
        if operation.returned.is_some_and(|returned| returned < operation.invoked) {
            return Err(Violation::new(Kind::Malformed, &[operation], "it ends before it begins"));
        }
        if operation.returned.is_none() && operation.outcome != Outcome::Unknown {
            return Err(Violation::new(Kind::Malformed, &[operation], "it has an outcome and no end"));
        }
        // A refused write may be tried again with the same value: only one of them can have happened.
        let Some(value) = operation.written() else { continue };
        match writers.get(value) {
            Some(other) if happens(operation) && happens(other) => {
                return Err(Violation::new(Kind::Malformed, &[operation, *other], "two writes of the same value"));
            }
            Some(_) if !happens(operation) => {}
            _ => {
                writers.insert(value, operation);
            }
        }
    }
    Ok(writers)
}

/// Whether a write may have taken effect.
fn happens(operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Done { .. } | Outcome::Unknown)
}

/// A revision is that of one change: a write's value, or a deletion.
fn revisions<'a>(operations: &[&'a Operation]) -> Result<Known<'a>, Violation> {
    let mut known = Known::default();
    let mut told: HashMap<u64, (Option<&str>, &Operation)> = HashMap::new();
    let mut of_value: HashMap<&str, (u64, &Operation)> = HashMap::new();
    for &operation in operations {
        let (value, revision) = match (&operation.outcome, operation.seen()) {
            (_, Some((value, revision))) => {
                let first = known.first_seen.entry(value).or_insert(u64::MAX);
                *first = operation.end().min(*first);
                (Some(value), revision)
            }
            (Outcome::Done { revision }, None) => (operation.written(), *revision),
            _ => continue,
        };
        let Some(revision) = revision else { continue };
        // Deletions are changes too, but two of them may not share a revision either.
        if let Some((other, by)) = told.get(&revision)
            && (*other != value || value.is_none())
        {
            return Err(Violation::new(Kind::Revisions, &[operation, *by], format!("revision {revision} is of both")));
        }
        told.insert(revision, (value, operation));
        let Some(value) = value else { continue };
        if let Some((other, by)) = of_value.get(value)
            && *other != revision
        {
            let note = format!("{value:?} is at revision {revision} and at {other}");
            return Err(Violation::new(Kind::Revisions, &[operation, *by], note));
        }
        of_value.insert(value, (revision, operation));
        known.revisions.insert(value, revision);
        known.values.insert(revision, value);
    }
    Ok(known)
}

/// Whatever is read was written, before, by a write that may have happened.
fn source(operation: &Operation, writers: &HashMap<&str, &Operation>) -> Result<(), Violation> {
    let Some((value, _)) = operation.seen() else { return Ok(()) };
    let Some(writer) = writers.get(value) else {
        return Err(Violation::new(Kind::Phantom, &[operation], ""));
    };
    if !happens(writer) {
        return Err(Violation::new(Kind::RefusedSeen, &[operation, *writer], ""));
    }
    if operation.end() < writer.invoked {
        return Err(Violation::new(Kind::Early, &[operation, *writer], ""));
    }
    Ok(())
}

/// The revision that an operation proves to be there when it has returned.
fn proves(operation: &Operation, known: &Known<'_>) -> Option<u64> {
    match (&operation.outcome, operation.seen()) {
        (_, Some((value, _))) => known.revisions.get(value).copied(),
        (Outcome::Done { revision }, None) => {
            revision.or_else(|| operation.written().and_then(|value| known.revisions.get(value).copied()))
        }
        _ => None,
    }
}

/// Reads against what was proven before they began: by anyone for linearizable reads, by the same
/// process for session reads.
fn reads(operations: &[&Operation], known: &Known<'_>) -> Result<(), Violation> {
    let mut by_start = operations.to_vec();
    by_start.sort_by_key(|o| o.invoked);
    let mut by_end: Vec<&Operation> = operations.iter().copied().filter(|o| proves(o, known).is_some()).collect();
    by_end.sort_by_key(|o| o.end());
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<(u64, &Operation)> = None;
    let mut of_process: HashMap<u64, (u64, &Operation)> = HashMap::new();
    for read in by_start {
        while let Some(operation) = ended.next_if(|o| o.end() < read.invoked) {
            let Some(revision) = proves(operation, known) else { continue };
            if newest.is_none_or(|(newest, _)| newest < revision) {
                newest = Some((revision, operation));
            }
            let own = of_process.entry(operation.process).or_insert((revision, operation));
            if own.0 < revision {
                *own = (revision, operation);
            }
        }
        let Call::Read { consistency } = read.call else { continue };
        let (before, kind) = match consistency {
            Consistency::Linearizable => (newest, Kind::Stale),
            Consistency::Session => (of_process.get(&read.process).copied(), Kind::SessionWentBack),
            Consistency::Local => continue,
        };
        let (Some((revision, proof)), Outcome::Found { value, .. }) = (before, &read.outcome) else { continue };
        match value {
            Some(_) if proves(read, known).is_some_and(|shown| shown < revision) => {
                return Err(Violation::new(kind, &[read, proof], format!("revision {revision} was known before")));
            }
            None if matches!(proof.call, Call::Delete { .. }) => {}
            None if !may_be_gone(operations, read, revision) => {
                let kind = if kind == Kind::Stale { Kind::Lost } else { kind };
                return Err(Violation::new(kind, &[read, proof], format!("revision {revision} was known before")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether somebody may have deleted the key after this revision, before the read ended.
fn may_be_gone(operations: &[&Operation], read: &Operation, after: u64) -> bool {
    operations.iter().any(|o| {
        let late = matches!(o.outcome, Outcome::Done { revision: Some(revision) } if revision < after);
        o.may_delete() && o.invoked <= read.end() && !late
    })
}
