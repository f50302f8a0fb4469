//! Nobody votes twice in a term, or before its disk holds the vote, and nobody comes back under its identity without
//! what its disk held: so whoever holds nothing and votes has never held anything under this identity.

use quorum::{Body, Message, NodeId};

use super::{Durable, Seen};
use crate::truth::{Chronicle, Violation};

/// A message on its way out.
///
/// # Errors
/// When it is a vote that must not be.
pub fn sent(chronicle: &mut Chronicle, seen: &Seen<'_>, to: NodeId, message: &Message) -> Result<(), Violation> {
    let id = seen.replica.id();
    let voted_for = match message.body {
        Body::VoteReply { granted: true } => to,
        // A candidate's request says that its own vote is spent.
        Body::Vote { .. } => id,
        _ => return Ok(()),
    };
    let term = message.term.0;
    let before = *chronicle.votes.entry((term, id)).or_insert(voted_for);
    if before != voted_for {
        let what = format!("{} votes for {voted_for} in term {term}, and had voted for {before}", seen.name);
        return Violation::of("no_forgetful_voter", what);
    }
    if seen.durable.vote != (term, Some(voted_for)) {
        let what = format!("{} votes in term {term}, its disk holds {:?}", seen.name, seen.durable.vote);
        return Violation::of("no_forgetful_voter", what);
    }
    Ok(())
}

/// A node came up under the identity it had, on a disk that was not hurt.
///
/// # Errors
/// When something is gone that its disk held for certain.
pub fn restarted(seen: &Seen<'_>, before: &Durable) -> Result<(), Violation> {
    let (start, vote) = (seen.replica.start().index.0, (seen.replica.term().0, seen.replica.voted_for()));
    if vote.0 < before.vote.0 || vote.0 == before.vote.0 && before.vote.1.is_some_and(|v| vote.1 != Some(v)) {
        let what = format!("{} came back with the vote {vote:?}, its disk held {:?}", seen.name, before.vote);
        return Violation::of("no_forgetful_voter", what);
    }
    for (index, term) in before.terms.range(start + 1..) {
        if seen.replica.term_at(quorum::Index(*index)).map(|t| t.0) != Some(*term) {
            let what = format!("{} came back without {index}@{term}, which its disk held", seen.name);
            return Violation::of("no_forgetful_voter", what);
        }
    }
    Ok(())
}
