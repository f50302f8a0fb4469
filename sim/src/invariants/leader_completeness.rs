//! Whoever is elected has every committed entry.

use super::Seen;
use crate::truth::{Chronicle, Violation};

/// To be called for a new leader.
///
/// # Errors
/// When it lacks a committed entry.
pub fn check(chronicle: &Chronicle, seen: &Seen<'_>) -> Result<(), Violation> {
    let start = seen.replica.start().index.0;
    for index in start + 1..=chronicle.last() {
        let (here, there) = (seen.replica.term_at(quorum::Index(index)).map(|t| t.0), chronicle.term_at(index));
        if here != there {
            let what = format!(
                "{} leads term {} and has {here:?} at {index}, where {there:?} is committed",
                seen.name,
                seen.replica.term()
            );
            return Violation::of("leader_completeness", what);
        }
    }
    Ok(())
}
