//! Committed configurations follow one another by the rules: by one version each, voters and W only through a joint one, and a joint one is ended by its
//! own final one.

use quorum::{Config, NodeId};

use crate::truth::{Chronicle, Violation};

fn ids(config: &Config) -> Vec<NodeId> {
    config.voters.iter().map(|m| m.id).collect()
}

/// To be called before `next` is taken as committed.
///
/// # Errors
/// When it may not follow the last one.
pub fn check(chronicle: &Chronicle, next: &Config) -> Result<(), Violation> {
    let Some(last) = chronicle.committed.iter().rev().find_map(|c| c.config.as_ref()) else { return Ok(()) };
    let wrong = |why: &str| {
        let (from, to) = (last.version, next.version);
        Violation::of("configuration_safety", format!("configuration {to} follows {from}: {why}"))
    };
    if next.version != last.version + 1 {
        return wrong("a version is left out");
    }
    let same = ids(last) == ids(next) && last.write_quorum == next.write_quorum;
    match (&last.outgoing, &next.outgoing) {
        (None, None) if same => Ok(()),
        (None, None) => wrong("voters or W change without a joint step"),
        (None, Some(outgoing)) => {
            let left: Vec<NodeId> = outgoing.voters.iter().map(|m| m.id).collect();
            if left == ids(last) && outgoing.write_quorum == last.write_quorum {
                Ok(())
            } else {
                wrong("the half that is left is not the one before")
            }
        }
        (Some(_), None) if same => Ok(()),
        (Some(_), _) => wrong("a joint one is not ended by its final one"),
    }
}
