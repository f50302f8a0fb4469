//! In a term at most one node leads, and in one run of its process.

use quorum::Role;

use super::Seen;
use crate::truth::{Chronicle, Violation};

/// Notes who leads. Whether this is a reign not seen before.
///
/// # Errors
/// When another node leads the same term.
pub fn check(chronicle: &mut Chronicle, seen: &Seen<'_>) -> Result<bool, Violation> {
    if seen.replica.role() != Role::Leader {
        return Ok(false);
    }
    let (term, me) = (seen.replica.term().0, (seen.replica.id(), seen.process));
    match chronicle.leaders.get(&term) {
        None => {
            chronicle.leaders.insert(term, me);
            Ok(true)
        }
        Some(known) if *known == me => Ok(false),
        Some(other) => {
            Violation::of("one_leader_per_term", format!("{} leads term {term}, and {} did", seen.name, other.0))
        }
    }
}
