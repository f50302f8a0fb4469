//! Whoever is elected has every entry that was committed in an earlier term.
//!
//! Of a later one it may know nothing: a candidate that is paused with the votes of its term in its queue leads when it goes on, for as long as it takes to
//! hear of the leader that the others have elected meanwhile.

use super::Seen;
use crate::truth::{Chronicle, Violation};

/// To be called for a new leader.
///
/// # Errors
/// When it lacks a committed entry.
pub fn check(chronicle: &Chronicle, seen: &Seen<'_>) -> Result<(), Violation> {
    let (start, term) = (seen.replica.start().index.0, seen.replica.term().0);
    for index in start + 1..=chronicle.last() {
        if chronicle.at(index).is_some_and(|entry| entry.committed_in >= term) {
            break;
        }
        let (here, there) = (seen.replica.term_at(quorum::Index(index)).map(|t| t.0), chronicle.term_at(index));
        if here != there {
            let what =
                format!("{} leads term {term} and has {here:?} at {index}, where {there:?} is committed", seen.name);
            return Violation::of("leader_completeness", what);
        }
    }
    Ok(())
}
