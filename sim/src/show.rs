//! Messages in a few words, for the trace.

use quorum::{Body, Message};

/// A message.
#[must_use]
pub fn message(message: &Message) -> String {
    let term = message.term;
    match &message.body {
        Body::PreVote { last } => format!("pre-vote t{term}? my log ends at {last}"),
        Body::PreVoteReply { granted } => format!("pre-vote t{term}: {granted}"),
        Body::Vote { last, transfer } => format!("vote t{term}? my log ends at {last}, transfer {transfer}"),
        Body::VoteReply { granted } => format!("vote t{term}: {granted}"),
        Body::Append { prev, entries, commit } => {
            format!("append t{term} {} behind {prev}, commit {commit}", entries.len())
        }
        Body::Appended { durable } => format!("appended t{term} up to {durable}"),
        Body::Rejected { prev, hint } => format!("rejected t{term} at {prev}, perhaps {hint}"),
        Body::Heartbeat { round, commit } => format!("heartbeat t{term} round {round}, commit {commit}"),
        Body::HeartbeatReply { round } => format!("heartbeat t{term} round {round} heard"),
        Body::TransferNow { by_hand } => format!("campaign now t{term}, by hand {by_hand}"),
    }
}
