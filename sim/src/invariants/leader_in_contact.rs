//! Whoever leads is heard by C voters: a leader that they cannot reach steps down, so that its
//! clients look for another.

use std::collections::BTreeMap;

use quorum::NodeId;

use super::Seen;
use crate::truth::Violation;

/// A leader after a tick. `since` is when its reign began, `heard` when each node's last message arrived,
/// `patience` how long it may take.
///
/// # Errors
/// When it has led for longer than that, and has not heard from C voters meanwhile.
pub fn check(
    seen: &Seen<'_>,
    (now, since): (u64, u64),
    heard: &BTreeMap<NodeId, u64>,
    patience: u64,
) -> Result<(), Violation> {
    let Some(config) = seen.replica.config() else { return Ok(()) };
    let Some(from) = now.checked_sub(patience).filter(|from| since <= *from) else { return Ok(()) };
    if config.confirms(|id| id == seen.replica.id() || heard.get(&id).is_some_and(|at| at >= &from)) {
        return Ok(());
    }
    let what =
        format!("{} leads term {}, and has heard from too few for {patience} µs", seen.name, seen.replica.term());
    Violation::of("leader_in_contact", what)
}
