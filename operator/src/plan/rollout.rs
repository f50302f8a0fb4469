//! New pods for old ones, one at a time: the dead first, for that takes nothing away; then followers; the leader's last, after it has handed over.
//!
//! A living pod is taken only while every other member is in sync and the rest still holds what it must: W and E, or all others where W is so high that no pod may
//! be missing (the same bound as that of the PodDisruptionBudget: with W = N writes pause while a pod starts anew).

use quorate_api::{MemberStatus, Status};

use super::{Part, Phase, Step, doing, waiting};
use crate::names::{self, Set};
use crate::observe::{Observed, PodSeen, in_sync, is_voter};
use crate::validate::Wanted;

/// How many members must stay up while one is taken away on purpose.
pub fn must_stay(wanted: &Wanted) -> usize {
    let quorum = wanted.quorum;
    quorum.write().max(quorum.election()).min(quorum.voters() - 1)
}

/// Whether a pod was made from an earlier template than its StatefulSet has now. Unknown is no.
pub(super) fn is_outdated(wanted: &Wanted, seen: &Observed, pod: &PodSeen) -> bool {
    let set = if pod.name == names::preferred(&wanted.name) { Set::Leader } else { Set::Follower };
    let latest = seen.set(set).and_then(|s| s.update_revision.as_ref());
    latest.is_some_and(|latest| pod.revision.as_ref().is_some_and(|revision| revision != latest))
}

/// Whether every pod that is wanted is there, made from the template of its StatefulSet.
#[must_use]
pub fn all_new(wanted: &Wanted, seen: &Observed) -> bool {
    let known = Set::ALL.iter().all(|set| seen.set(*set).is_some_and(|s| s.update_revision.is_some()));
    known && wanted.pods().iter().all(|name| seen.pod(name).is_some_and(|pod| !is_outdated(wanted, seen, pod)))
}

/// Outdated pods whose nodes are dead are made anew whatever the state of the others, and whatever else is under way and may wait for them: what fails to start may
/// start from the new template.
pub(super) fn repair(wanted: &Wanted, seen: &Observed) -> Part {
    let dead =
        |pod: &&PodSeen| is_outdated(wanted, seen, pod) && !pod.terminating && !pod.ready && pod.status.is_none();
    let pod = seen.pods.iter().find(dead)?;
    let why = "it does not run, and there is a newer template".to_owned();
    doing(
        Phase::RollingOut,
        Step::DeletePod { pod: pod.name.clone(), uid: pod.uid.clone(), why },
        format!("{} is made anew; it did not run", pod.name),
    )
}

/// The next pod to make anew, or what that waits for.
pub(super) fn part(wanted: &Wanted, seen: &Observed) -> Part {
    let leader = seen.led()?;
    let mut outdated: Vec<&PodSeen> = seen.pods.iter().filter(|p| is_outdated(wanted, seen, p)).collect();
    // Followers from the highest ordinal down, the preferred leader's pod after them, and whoever leads last of all.
    outdated.sort_by_key(|p| {
        let ordinal = names::follower_ordinal(&wanted.name, &p.name);
        (p.name == leader.node.name, ordinal.is_none(), -ordinal.unwrap_or(0))
    });
    let next = outdated.first()?;
    let left = outdated.len();
    if let Some(obstacle) = obstacle(wanted, seen, leader, &next.name) {
        return waiting(Phase::RollingOut, format!("pods left: {left}; {obstacle}"));
    }
    if next.name == leader.node.name
        && let Some(to) = successor(wanted, leader)
    {
        let why = format!("{} is the last pod of a rollout", next.name);
        return doing(
            Phase::RollingOut,
            Step::Transfer { to: to.clone(), why },
            format!("pods left: 1; leadership moves to {to} first"),
        );
    }
    let why = format!("it was made from an earlier template; pods left: {left}");
    doing(
        Phase::RollingOut,
        Step::DeletePod { pod: next.name.clone(), uid: next.uid.clone(), why },
        format!("pods left: {left}; {} is made anew", next.name),
    )
}

/// Who leads while the leader's pod is made anew.
fn successor(wanted: &Wanted, leader: &Status) -> Option<String> {
    let names = wanted.pods();
    let able = |m: &&MemberStatus| m.role == "follower" && in_sync(m) && names.contains(&m.name);
    let preferred = names::preferred(&wanted.name);
    let mut able: Vec<&MemberStatus> = leader.members.iter().filter(able).collect();
    able.sort_by_key(|m| (m.name != preferred, m.lag, m.name.clone()));
    able.first().map(|m| m.name.clone())
}

/// What speaks against taking this living pod away now.
fn obstacle(wanted: &Wanted, seen: &Observed, leader: &Status, taken: &str) -> Option<String> {
    for name in wanted.pods() {
        match seen.pod(&name) {
            None => return Some(format!("{name} is not there")),
            Some(pod) if pod.terminating => return Some(format!("{name} is stopping")),
            Some(pod) if !pod.ready && name != taken => {
                let stuck = pod.stuck.as_deref().map(|s| format!(" ({s})")).unwrap_or_default();
                return Some(format!("{name} is not ready{stuck}"));
            }
            Some(_) => {}
        }
    }
    let others = leader.members.iter().filter(|m| m.name != taken && is_voter(m));
    if let Some(member) = others.clone().find(|m| !in_sync(m)) {
        return Some(format!("{} is not in sync", member.name));
    }
    let staying = others.count();
    (staying < must_stay(wanted))
        .then(|| format!("only {staying} members would stay up, and {} must", must_stay(wanted)))
}
