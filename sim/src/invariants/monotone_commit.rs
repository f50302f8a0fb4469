//! A commit index never falls while a process runs, and an index is committed with one entry only, everywhere.

use quorate::storage::{RecordKind, record};
use quorum::Index;

use super::{Seen, configuration_safety};
use crate::truth::{Chronicle, Violation};

/// Takes what a node has committed since `before`.
///
/// # Errors
/// When its commit index fell, or it committed something else than another node did.
pub fn check(chronicle: &mut Chronicle, seen: &Seen<'_>, before: u64) -> Result<u64, Violation> {
    let commit = seen.replica.commit().0;
    if commit < before {
        return Violation::of(
            "monotone_commit",
            format!("the commit index of {} fell from {before} to {commit}", seen.name),
        );
    }
    for index in before + 1..=commit {
        let Some(term) = seen.replica.term_at(Index(index)).map(|t| t.0) else { continue };
        match chronicle.term_at(index) {
            // What precedes the log's start has no term of its own but the last one's.
            Some(known) if known == term => {}
            Some(known) => {
                let what = format!("{} commits {index}@{term}, and {index}@{known} was committed before", seen.name);
                return Violation::of("monotone_commit", what);
            }
            None if index == chronicle.last() + 1 => {
                let Some(entry) = chronicle.written.get(&(index, term)).cloned() else {
                    let what = format!("{} commits {index}@{term}, which nobody has written to a disk", seen.name);
                    return Violation::of("monotone_commit", what);
                };
                let config =
                    (entry.kind == RecordKind::Config).then(|| record::decode_config(&entry.payload).ok()).flatten();
                if let Some(config) = &config {
                    configuration_safety::check(chronicle, config)?;
                }
                chronicle.commit((term, seen.replica.term().0), &entry, config);
            }
            None => {
                let what = format!("{} commits {index}@{term}, but nobody has committed what precedes it", seen.name);
                return Violation::of("monotone_commit", what);
            }
        }
    }
    Ok(commit)
}
