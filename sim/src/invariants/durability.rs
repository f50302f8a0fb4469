//! Nobody promises what is not on a disk, and nothing is acknowledged that W disks do not hold.

use quorum::{Body, Config, Message};

use super::{Disks, Seen};
use crate::truth::{Chronicle, Violation};

/// A message on its way out.
///
/// # Errors
/// When it says that entries are durable that are not.
pub fn promised(seen: &Seen<'_>, message: &Message) -> Result<(), Violation> {
    let Body::Appended { durable } = message.body else { return Ok(()) };
    let term = seen.replica.term_at(durable);
    let held = match term {
        Some(term) => seen.durable.holds(durable.0, term.0),
        None => seen.durable.last() >= durable.0,
    };
    if held {
        return Ok(());
    }
    let entry = |term: Option<u64>| term.map_or("nothing".to_owned(), |term| format!("{durable}@{term}"));
    let (name, last) = (seen.name, seen.durable.last());
    let (said, there) = (entry(term.map(|t| t.0)), entry(seen.durable.terms.get(&durable.0).copied()));
    let what = format!("{name} says that {said} is durable; its disk has {there} there and ends at {last}");
    Violation::of("durability", what)
}

/// A client is told that its write at `index` is done. `copies` is what it asked for.
///
/// # Errors
/// When too few disks hold it.
pub fn acknowledged(
    chronicle: &Chronicle,
    config: &Config,
    disks: &Disks<'_>,
    index: u64,
    copies: usize,
) -> Result<(), Violation> {
    let Some(term) = chronicle.term_at(index) else {
        return Violation::of("durability", format!("{index} is acknowledged and not committed"));
    };
    for (voters, quorum) in config.halves() {
        // A disk that held it and is lost counts: nobody can know, and the quorums allow for it.
        let holds = |id| disks.get(&id).is_none_or(|disk| disk.is_none_or(|d| d.holds(index, term)));
        let held = voters.iter().filter(|m| holds(m.id)).count();
        let wanted = quorum.write().max(if config.is_joint() { 0 } else { copies });
        if held < wanted {
            return Violation::of(
                "durability",
                format!("{index}@{term} is acknowledged with {held} copies of {wanted}"),
            );
        }
    }
    Ok(())
}
