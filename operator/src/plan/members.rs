//! Which members and numbers the cluster is to have, as one change of its configuration.
//!
//! Voters that are not wanted go, caught-up learners that are wanted come, and W follows in the same change, so that no configuration in between is weaker than
//! both. W rises only together with the last voter it was asked for with; it falls at once.

use quorate_api::{ConfigChange, MemberStatus, Status};

use super::{Part, Phase, Step, doing, waiting};
use crate::observe::{Observed, in_sync, voters};
use crate::validate::Wanted;

/// A change of members and numbers, or what it waits for.
pub(super) fn part(wanted: &Wanted, seen: &Observed) -> Part {
    let leader = seen.led()?;
    if leader.config.changing {
        return waiting(Phase::Reconfiguring, "a change of the configuration is being committed");
    }
    let names = wanted.pods();
    let voters = voters(leader);
    let stray: Vec<&str> = voters.iter().copied().filter(|v| !names.iter().any(|n| n == v)).collect();
    if let Some(part) = lead_elsewhere(leader, &stray) {
        return Some(part);
    }
    let next = next_voters(leader, &names, &voters);
    if let Some((change, phase, why)) = change(wanted, seen, leader, &voters, &next) {
        let step = Step::ChangeConfig { change, version: leader.config.version, why: why.clone() };
        return doing(phase, step, why);
    }
    let missing = names.iter().find(|n| !voters.contains(&n.as_str()));
    if let Some(missing) = missing {
        let what = match leader.members.iter().find(|m| m.name == *missing) {
            Some(learner) => format!(
                "{missing} is catching up, {} entries behind",
                learner.lag.map_or("some".to_owned(), |l| l.to_string())
            ),
            None => match seen.pod(missing).and_then(|p| p.stuck.as_deref()) {
                Some(stuck) => format!("{missing} does not run: {stuck}"),
                None => format!("waiting for {missing} to join"),
            },
        };
        return waiting(Phase::ScalingUp, what);
    }
    let extra = seen.pods.iter().filter(|p| !names.contains(&p.name)).map(|p| p.name.as_str()).next();
    extra.and_then(|pod| waiting(Phase::ScalingDown, format!("{pod} is no member any more and is stopping")))
}

/// A leader that is to go hands over first.
fn lead_elsewhere(leader: &Status, stray: &[&str]) -> Part {
    if !stray.contains(&leader.node.name.as_str()) {
        return None;
    }
    let mut staying =
        leader.members.iter().filter(|m| m.role == "follower" && in_sync(m) && !stray.contains(&m.name.as_str()));
    match staying.next() {
        Some(to) => {
            let why = format!("{} leads, and is one of those that go", leader.node.name);
            doing(
                Phase::ScalingDown,
                Step::Transfer { to: to.name.clone(), why },
                format!("leadership moves to {} first", to.name),
            )
        }
        None => waiting(Phase::ScalingDown, "none of the members that stay has caught up and could lead"),
    }
}

/// The voters to be, for now: those wanted that are voters already or could be.
fn next_voters(leader: &Status, names: &[String], voters: &[&str]) -> Vec<String> {
    let ready =
        |name: &str| leader.members.iter().any(|m: &MemberStatus| m.name == name && m.role == "learner" && in_sync(m));
    names.iter().filter(|name| voters.contains(&name.as_str()) || ready(name)).cloned().collect()
}

fn change(
    wanted: &Wanted,
    seen: &Observed,
    leader: &Status,
    voters: &[&str],
    next: &[String],
) -> Option<(ConfigChange, Phase, String)> {
    if next.is_empty() {
        return None;
    }
    let config = &leader.config;
    let mut change = ConfigChange::default();
    let mut said: Vec<String> = Vec::new();
    let mut phase = Phase::Reconfiguring;

    let removed: Vec<&str> = voters.iter().copied().filter(|v| !next.iter().any(|n| n == v)).collect();
    let added: Vec<&str> = next.iter().map(String::as_str).filter(|n| !voters.contains(n)).collect();
    if !removed.is_empty() || !added.is_empty() {
        change.voters = Some(next.to_vec());
        phase = if added.is_empty() { Phase::ScalingDown } else { Phase::ScalingUp };
        said.extend((!added.is_empty()).then(|| format!("voting from now on: {}", added.join(", "))));
        said.extend((!removed.is_empty()).then(|| format!("leaving the cluster: {}", removed.join(", "))));
    }

    let complete = next.len() == wanted.quorum.voters();
    let write = wanted.quorum.write();
    let write = if complete { write } else { write.min(config.write_quorum).min(next.len()) };
    if write != config.write_quorum {
        change.write_quorum = Some(write);
        said.push(format!("the write quorum is {write} after {}", config.write_quorum));
    }

    // A learner whose pod is gone would be waited for in vain, and one of a pod that still runs would only come back.
    let gone =
        |m: &&MemberStatus| m.role == "learner" && !wanted.pods().contains(&m.name) && seen.pod(&m.name).is_none();
    let gone: Vec<String> = leader.members.iter().filter(gone).map(|m| m.name.clone()).collect();
    if !gone.is_empty() {
        said.push(format!("forgotten: {}", gone.join(", ")));
        change.remove_learners = Some(gone);
    }

    let preferred = wanted.preferred().filter(|p| next.contains(p));
    if preferred != config.preferred && (preferred.is_some() || config.preferred.is_some()) {
        said.push(match &preferred {
            Some(pod) => format!("{pod} is preferred as leader"),
            None => "no leader is preferred".to_owned(),
        });
        change.preferred = Some(preferred.unwrap_or_default());
    }
    if wanted.failover() != config.failover {
        change.failover = Some(wanted.failover().to_owned());
        said.push(format!("failover is {}", wanted.failover()));
    }
    (change != ConfigChange::default()).then(|| (change, phase, said.join("; ")))
}
