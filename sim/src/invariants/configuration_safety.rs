//! Committed configurations follow one another by the rules: by one version each, voters and W only through a joint one, and a joint one is ended by its
//! own final one. One change at a time: of those in a log all but the newest are committed. Every node goes by those that its log has, and leaves for
//! good only when a committed one does without it.

use quorum::{Config, NodeId};

use super::Seen;
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

/// A node after a turn, when what it has committed was taken.
///
/// # Errors
/// When it goes by a configuration that its log does not have, or more than one in its log is not committed.
pub fn in_force(chronicle: &Chronicle, seen: &Seen<'_>) -> Result<(), Violation> {
    let start = seen.replica.start().index;
    let mut open = None;
    for (index, config) in seen.replica.configs() {
        let wrong = |why: &str| {
            let what = format!("{} goes by configuration {} at {index}: {why}", seen.name, config.version);
            Violation::of("configuration_safety", what)
        };
        if index > start {
            let Some(term) = seen.replica.term_at(index) else { return wrong("its log ends before") };
            let at = (index.0, term.0);
            // What was not handed to the disk yet is not known here yet, either.
            if chronicle.written.contains_key(&at) && chronicle.configs.get(&at) != Some(&**config) {
                return wrong("its log has something else there");
            }
        } else if start.0 <= chronicle.last() && !chronicle.configs_since(index.0).any(|known| *known == **config) {
            // A restarted node has here what its engine has, which may be further than where its log begins.
            return wrong("committed was another one");
        }
        if let Some(before) = open.replace(index)
            && before.0 > chronicle.last()
        {
            return wrong(&format!("the one at {before} is not committed"));
        }
    }
    Ok(())
}

/// A node has set its data aside, since configuration `version`, the newest it has, and a committed one do without it.
///
/// # Errors
/// When the last committed one up to there names it.
pub fn left(chronicle: &Chronicle, name: &str, id: NodeId, version: u64) -> Result<(), Violation> {
    let committed = chronicle.committed.iter().filter_map(|c| c.config.as_ref());
    let last = committed.filter(|c| c.version <= version).max_by_key(|c| c.version);
    if last.is_some_and(|c| c.member(id).is_none()) {
        return Ok(());
    }
    let what = format!("{name} has left for configuration {version}, but the last committed one up to there names it");
    Violation::of("configuration_safety", what)
}
