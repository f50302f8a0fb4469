//! Committed configurations follow one another by the rules: by one version each, voters and W only through a joint
//! one, and a joint one is ended by its own final one. One change at a time: of those in a log all but the newest are
//! committed. Nobody is made a voter before it has nearly all of the log. Every node goes by the configurations that
//! its log has, and leaves for good only when a committed one does without it.

use quorum::{Config, NodeId};

use super::{Disks, Seen};
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

/// A node after a turn: the configurations that it has made, as the leader, from version `after` on. Returns
/// the newest one that it has.
///
/// # Errors
/// When it makes a voter of one whose disk holds nothing, or less of the log than all but `lag` entries: writes
/// would wait for that one.
pub fn taken_in(seen: &Seen<'_>, disks: &Disks<'_>, after: u64, lag: u64) -> Result<u64, Violation> {
    let replica = seen.replica;
    let newest = replica.configs().last().filter(|(_, config)| config.version > after);
    let Some((index, config)) = newest else { return Ok(after) };
    let Some(before) = config.outgoing.as_ref().filter(|_| replica.term_at(index) == Some(replica.term())) else {
        return Ok(config.version);
    };
    for voter in config.voters.iter().filter(|v| before.voters.iter().all(|b| b.id != v.id)) {
        // Of a disk that is gone nobody knew that.
        let Some(Some(disk)) = disks.get(&voter.id) else { continue };
        if disk.last() == 0 || disk.last() + lag < index.0 - 1 {
            let (name, last) = (seen.name, disk.last());
            let what = format!("{name} makes a voter at {index} of {}, whose disk ends at {last}", voter.name);
            return Violation::of("configuration_safety", what);
        }
    }
    Ok(config.version)
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
