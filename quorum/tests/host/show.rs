//! One readable line per input and effect.

use quorum::{Body, Config, Effect, Head, Input, Kind, Member, Message, NodeId};

pub fn config(c: &Config) -> String {
    let ids = |m: &[Member]| m.iter().map(|m| m.id.to_string()).collect::<Vec<_>>().join(" ");
    let mut text = format!("v{} voters=[{}] w={}", c.version, ids(&c.voters), c.write_quorum);
    if let Some(o) = &c.outgoing {
        text = format!("{text} from=[{}] w={}", ids(&o.voters), o.write_quorum);
    }
    if !c.learners.is_empty() {
        text = format!("{text} learners=[{}]", ids(&c.learners));
    }
    if let Some(p) = c.preferred {
        text = format!("{text} preferred={p}");
    }
    if c.failover == quorum::Failover::Manual {
        text.push_str(" manual");
    }
    if !c.formed {
        text.push_str(" forming");
    }
    text
}

fn heads(entries: &[Head]) -> String {
    let one = |h: &Head| match &h.kind {
        Kind::Empty => format!("empty@{}", h.term),
        Kind::Command => format!("command@{}", h.term),
        Kind::Config(c) => format!("config@{} {{{}}}", h.term, config(c)),
    };
    if entries.len() > 4 {
        return format!("{} entries, the last {}", entries.len(), entries.last().map(one).unwrap_or_default());
    }
    entries.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub fn message(m: &Message) -> String {
    let t = m.term;
    match &m.body {
        Body::PreVote { last } => format!("PreVote t{t} last={last}"),
        Body::PreVoteReply { granted } => format!("PreVoteReply t{t} {}", yes(*granted)),
        Body::Vote { last, transfer } => format!("Vote t{t} last={last}{}", if *transfer { " transfer" } else { "" }),
        Body::VoteReply { granted } => format!("VoteReply t{t} {}", yes(*granted)),
        Body::Append { prev, entries, commit } => {
            format!("Append t{t} prev={prev} commit={commit} [{}]", heads(entries))
        }
        Body::Appended { durable } => format!("Appended t{t} durable={durable}"),
        Body::Rejected { prev, hint } => format!("Rejected t{t} prev={prev} hint={hint}"),
        Body::Heartbeat { round, commit } => format!("Heartbeat t{t} round={round} commit={commit}"),
        Body::HeartbeatReply { round } => format!("HeartbeatReply t{t} round={round}"),
        Body::TransferNow { by_hand } => format!("TransferNow t{t}{}", if *by_hand { " by_hand" } else { "" }),
    }
}

fn yes(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}

fn someone(id: Option<NodeId>) -> String {
    id.map_or_else(|| "nobody".to_owned(), |id| format!("n{id}"))
}

pub fn input(id: NodeId, input: &Input) -> String {
    match input {
        Input::Tick => format!("n{id} < tick"),
        Input::Receive { from, message: m } => format!("n{id} < n{from} {}", message(m)),
        Input::Propose { sizes } => format!("n{id} < propose {}", sizes.len()),
        Input::ChangeConfig(c) => {
            let ids = |m: &[Member]| m.iter().map(|m| m.id.to_string()).collect::<Vec<_>>().join(" ");
            format!(
                "n{id} < change base=v{} voters=[{}] learners=[{}] w={}",
                c.base_version,
                ids(&c.voters),
                ids(&c.learners),
                c.write_quorum
            )
        }
        Input::Persisted { token } => format!("n{id} < persisted #{}", token.0),
        Input::Read { id: read } => format!("n{id} < read {read}"),
        Input::Transfer { to, by_hand } => {
            format!("n{id} < transfer to {}{}", someone(*to), if *by_hand { " by hand" } else { "" })
        }
        Input::Campaign => format!("n{id} < campaign"),
        Input::Form(c) => format!("n{id} < form {}", config(c)),
        Input::SnapshotReceived { from, term, last, .. } => {
            format!("n{id} < snapshot from n{from} t{term} last={last}")
        }
        Input::SnapshotSent { to, last } => match last {
            Some(last) => format!("n{id} < snapshot to n{to} sent up to {last}"),
            None => format!("n{id} < snapshot to n{to} failed"),
        },
        Input::Compacted { upto } => format!("n{id} < compacted up to {upto}"),
        Input::Unreachable { peer } => format!("n{id} < n{peer} is unreachable"),
        Input::Stray { peer } => format!("n{id} < n{peer} is no member and says hello"),
    }
}

pub fn effect(id: NodeId, effect: &Effect) -> String {
    match effect {
        Effect::SaveVote { token, term, voted_for } => {
            format!("n{id} SAVE #{} t{term} vote={}", token.0, someone(*voted_for))
        }
        Effect::Write { token, first, entries } => format!("n{id} WRITE #{} {first}.. [{}]", token.0, heads(entries)),
        Effect::InstallSnapshot { token, last } => format!("n{id} INSTALL #{} snapshot {last}", token.0),
        Effect::Send { to, message: m } => format!("n{id} -> n{to} {}", message(m)),
        Effect::SendSnapshot { to } => format!("n{id} -> n{to} snapshot"),
        Effect::Commit { index } => format!("n{id} COMMIT {index}"),
        Effect::Acknowledge { index } => format!("n{id} ACKNOWLEDGE {index}"),
        Effect::Refuse(why) => format!("n{id} REFUSE {why}"),
        Effect::ReadReady { id: read, index } => format!("n{id} READ {read} at {index}"),
        Effect::ReadRefused { id: read, why } => format!("n{id} REFUSE read {read}: {why}"),
        Effect::Became { role, term, leader } => format!("n{id} BECAME {role} t{term} leader={}", someone(*leader)),
        Effect::Reconfigured { config: c } => format!("n{id} CONFIG {}", config(c)),
        Effect::Forgot { confirmed } => format!("n{id} FORGOT what it confirmed up to {confirmed}"),
        Effect::SetAside => format!("n{id} SET ASIDE"),
    }
}
