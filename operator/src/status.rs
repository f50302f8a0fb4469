//! What is told back: the status of a KVCluster, and the Events of what changed in it.
//!
//! Pure. Written on every path, errors too; what is not known is `Unknown` rather than what was true once. Nothing in it moves while nothing happens: a quiet
//! cluster's status is the same every time, so that it is written once.
//!
//! Before: [`crate::plan`] and the outcome of [`crate::apply`]. After: the API server, by [`crate::reconcile`].

#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use quorate_api::{MemberStatus, Status};

use crate::crd::{Formation, KVCluster, KVClusterStatus, Member, Tolerates};
use crate::names;
use crate::observe::{IN_SYNC_LAG_MAX, Observed, in_sync, is_voter};
use crate::plan::{self, Phase, Progress};
use crate::validate::Wanted;

/// Longest message of a condition: an Event repeats it, and may have 1 kB.
const MESSAGE_MAX: usize = 900;

/// How long a pod that a change took away may be missed until that counts as trouble: time to pull an image, attach a volume and catch up.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// How long nodes that all run may be without a leader after a sleep: an election takes a second or two.
const ELECTION_PATIENCE: Duration = Duration::from_secs(15);

/// A condition's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    True,
    False,
    Unknown,
}

impl Value {
    fn as_str(self) -> &'static str {
        match self {
            Value::True => "True",
            Value::False => "False",
            Value::Unknown => "Unknown",
        }
    }
}

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Whether somebody should look.
    pub warning: bool,
    /// In CamelCase.
    pub reason: String,
    /// A sentence.
    pub note: String,
}

/// How a pass went, as far as the status tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass<'a> {
    /// What is wanted.
    pub wanted: &'a Wanted,
    /// The generation of the spec it was wanted in.
    pub generation: Option<i64>,
    /// What there is.
    pub seen: &'a Observed,
    /// What is under way.
    pub progress: &'a Progress,
    /// What could not be done.
    pub trouble: Option<&'a str>,
}

/// The status after a pass.
#[must_use]
pub fn status(pass: &Pass<'_>, before: &KVClusterStatus, now: &Time) -> KVClusterStatus {
    let (wanted, seen) = (pass.wanted, pass.seen);
    let led = seen.led();
    let formed = seen.formed_id();
    let members: Vec<Member> = led
        .or_else(|| seen.best_informed())
        .map(|s| s.members.iter().map(|m| member(m, led.is_some())).collect())
        .unwrap_or_default();
    let mut status = KVClusterStatus {
        observed_generation: pass.generation,
        replicas: count(seen.pods.iter().filter(|p| !p.terminating).count()),
        ready_replicas: count(seen.pods.iter().filter(|p| p.ready && !p.terminating).count()),
        selector: Some(names::selector_text(&wanted.name)),
        cluster_id: before.cluster_id.clone().or_else(|| formed.map(str::to_owned)),
        formation: before
            .formation
            .or_else(|| formed.map(|_| Formation { replicas: wanted.replicas(), write_quorum: wanted.write_quorum() })),
        // Nobody can be asked: what was in force still is, for only the cluster itself changes it.
        write_quorum: seen
            .best_informed()
            .map(|s| count(s.config.write_quorum))
            .filter(|w| *w > 0)
            .or(before.write_quorum),
        members: if members.is_empty() { unknown(&before.members) } else { members },
        leader: led.map(|s| s.node.name.clone()),
        term: seen.best_informed().map(|s| i64::try_from(s.term).unwrap_or(i64::MAX)).or(before.term),
        tolerates: led.and_then(tolerates),
        image: if is_rolled_out(pass) { Some(wanted.image.clone()) } else { before.image.clone() },
        conditions: Vec::new(),
    };
    if is_asleep(pass) {
        status.term = before.term;
    }
    status.conditions = [
        ("Available", available(pass, led)),
        ("Quorate", quorate(pass, led)),
        ("Progressing", progressing(pass)),
        ("Degraded", degraded(pass, led, before, now)),
        ("Paused", paused(wanted.spec.paused)),
    ]
    .into_iter()
    .map(|(kind, told)| condition(kind, told, pass.generation, &before.conditions, now))
    .collect();
    status
}

/// Whether every pod runs the present template. Volumes may still grow then, and some never do.
fn is_rolled_out(pass: &Pass<'_>) -> bool {
    match pass.progress.phase {
        Phase::Settled => true,
        Phase::GrowingVolumes => plan::all_new(pass.wanted, pass.seen),
        _ => false,
    }
}

/// The status of a KVCluster that asks for what cannot be, or whose objects could not be read.
#[must_use]
pub fn refused(
    reason: &str,
    message: &str,
    cluster: &KVCluster,
    before: &KVClusterStatus,
    now: &Time,
) -> KVClusterStatus {
    let generation = cluster.metadata.generation;
    let mut status = KVClusterStatus {
        observed_generation: generation,
        leader: None,
        tolerates: None,
        members: unknown(&before.members),
        ..before.clone()
    };
    let unknown = || (Value::Unknown, "NotLookedAt", "see Degraded".to_owned());
    status.conditions = [
        ("Available", unknown()),
        ("Quorate", unknown()),
        ("Progressing", (Value::False, "Stuck", message.to_owned())),
        ("Degraded", (Value::True, reason, message.to_owned())),
        ("Paused", paused(cluster.spec.paused)),
    ]
    .into_iter()
    .map(|(kind, told)| condition(kind, told, generation, &before.conditions, now))
    .collect();
    status
}

type Told<'a> = (Value, &'a str, String);

/// Whether writes are taken.
fn available<'a>(pass: &Pass<'_>, led: Option<&Status>) -> Told<'a> {
    let write = pass.wanted.quorum.write();
    if let Some(leader) = led {
        let live = live(leader);
        if !leader.formed {
            return (Value::False, "Forming", "the cluster's first configuration is not on all nodes yet".to_owned());
        }
        if leader.disk_full {
            return (
                Value::False,
                "DiskFull",
                format!("the volume of {} is nearly full: deletes are taken, writes are refused", leader.node.name),
            );
        }
        if live < leader.config.write_quorum {
            return (
                Value::False,
                "NoQuorum",
                format!("{live} of the {} copies that a write needs are up", leader.config.write_quorum),
            );
        }
        return (
            Value::True,
            "WritesAccepted",
            format!(
                "{} leads; {live} copies are up, and a write needs {}",
                leader.node.name, leader.config.write_quorum
            ),
        );
    }
    match pass.progress.phase {
        _ if is_asleep(pass) => (Value::False, "Hibernated", "spec.hibernated is set: there are no pods".to_owned()),
        Phase::Forming => (
            Value::False,
            "Forming",
            format!("a cluster of {} is being formed, with a write quorum of {write}", pass.wanted.replicas()),
        ),
        Phase::DataLost => (Value::False, "DataLost", pass.progress.message.clone()),
        Phase::ForeignData => (Value::False, "ForeignData", pass.progress.message.clone()),
        _ if is_deaf(pass.seen) => (
            Value::Unknown,
            "NotReachable",
            "pods are ready, and the operator cannot reach them: is a network policy in the way?".to_owned(),
        ),
        _ => (Value::False, "NoLeader", format!("{} nodes answer and none leads", pass.seen.answering().count())),
    }
}

/// Whether a leader that fails now would be replaced.
fn quorate<'a>(pass: &Pass<'_>, led: Option<&Status>) -> Told<'a> {
    let Some(leader) = led else {
        return match pass.progress.phase {
            _ if is_asleep(pass) => (Value::False, "Hibernated", "there are no pods".to_owned()),
            _ if is_deaf(pass.seen) => {
                (Value::Unknown, "NotReachable", "the operator cannot reach the pods".to_owned())
            }
            _ => (Value::False, "NoLeader", "there is no leader".to_owned()),
        };
    };
    let (live, needed) = (live(leader), leader.config.election_quorum);
    if live < needed {
        return (
            Value::False,
            "ElectionImpossible",
            format!(
                "{live} voters are up and {needed} are needed to elect a leader: should {} fail, nobody could take its place",
                leader.node.name
            ),
        );
    }
    let survives = |n: usize| match n {
        0 => "no failure".to_owned(),
        1 => "1 failure".to_owned(),
        n => format!("{n} failures"),
    };
    let quorum = pass.wanted.quorum;
    if quorum.failover_survives() == 0 {
        let message = format!(
            "with {} copies and a write quorum of {}, a leader that fails is replaced only once it is back: {}",
            quorum.voters(),
            quorum.write(),
            quorum.explain()
        );
        return (Value::True, "SurvivesNoFailure", message);
    }
    (Value::True, "LeaderReplaceable", format!("failover survives {} from here", survives(live - needed)))
}

fn progressing<'a>(pass: &Pass<'_>) -> Told<'a> {
    let phase = pass.progress.phase;
    let value = if phase.is_progressing() { Value::True } else { Value::False };
    (value, phase.as_str(), pass.progress.message.clone())
}

/// Whether something is broken that does not mend itself at once. A change under way takes a pod away on purpose, and that is no trouble; another one is.
fn degraded<'a>(pass: &Pass<'_>, led: Option<&Status>, before: &KVClusterStatus, now: &Time) -> Told<'a> {
    if let Some(trouble) = pass.trouble {
        return (Value::True, "Trouble", trouble.to_owned());
    }
    let phase = pass.progress.phase;
    if matches!(phase, Phase::DataLost | Phase::ForeignData) {
        return (Value::True, phase.as_str(), pass.progress.message.clone());
    }
    if is_asleep(pass) {
        return (Value::False, "AsWanted", String::new());
    }
    if let Some(pod) = pass.seen.pods.iter().find(|p| p.stuck.is_some()) {
        return (
            Value::True,
            "PodStuck",
            format!("{} does not run: {}", pod.name, pod.stuck.as_deref().unwrap_or_default()),
        );
    }
    if phase == Phase::Forming {
        return (Value::False, "AsWanted", String::new());
    }
    if phase == Phase::Waking && !sleeps_in(pass, before, now) {
        return (Value::False, "Changing", String::new());
    }
    let Some(leader) = led else {
        return match is_deaf(pass.seen) {
            true => (Value::Unknown, "NotReachable", "the operator cannot reach the pods".to_owned()),
            false => (Value::True, "NoLeader", pass.progress.message.clone()),
        };
    };
    if leader.disk_full {
        return (Value::True, "DiskFull", format!("the volume of {} is nearly full", leader.node.name));
    }
    // A volume grows under its pod, and may take long.
    let changing = phase.is_progressing() && !matches!(phase, Phase::Starting | Phase::GrowingVolumes);
    let away: Vec<&str> = match changing {
        true => missed(pass, leader, now),
        false => leader.members.iter().filter(|m| !in_sync(m)).map(|m| m.name.as_str()).collect(),
    };
    if !away.is_empty() {
        return (Value::True, "MembersAway", format!("{} is not in sync with {}", away.join(", "), leader.node.name));
    }
    if changing {
        return (Value::False, "Changing", String::new());
    }
    if phase == Phase::WaitingForPods {
        return (Value::True, "PodsNotReady", pass.progress.message.clone());
    }
    (Value::False, "AsWanted", String::new())
}

fn paused<'a>(paused: bool) -> Told<'a> {
    match paused {
        true => (Value::True, "Paused", "spec.paused is set".to_owned()),
        false => (Value::False, "NotPaused", String::new()),
    }
}

/// Whether there are no pods, or soon will be none, as wanted; also while paused.
fn is_asleep(pass: &Pass<'_>) -> bool {
    matches!(pass.progress.phase, Phase::Hibernated | Phase::Hibernating)
        || (pass.wanted.spec.hibernated && pass.seen.pods.is_empty())
}

/// Whether a time is so long ago.
fn is_over(since: &Time, patience: Duration, now: &Time) -> bool {
    Duration::try_from(now.0.duration_since(since.0)).is_ok_and(|passed| passed >= patience)
}

/// Whether a cluster that is to wake has had the time for it.
fn sleeps_in(pass: &Pass<'_>, before: &KVClusterStatus, now: &Time) -> bool {
    let all = pass.wanted.pods().iter().all(|name| pass.seen.pod(name).is_some_and(|p| p.status.is_some()));
    let patience = if all { ELECTION_PATIENCE } else { START_PATIENCE };
    let woken = before.conditions.iter().find(|c| c.type_ == "Progressing" && c.status == "True");
    woken.is_some_and(|woken| is_over(&woken.last_transition_time, patience, now))
}

/// Voters that a change under way does not account for. A rollout takes one pod at a time, and that may be missed for as long as it takes to start; no other change
/// takes one that still votes. What is to vote only later is not missed.
fn missed<'a>(pass: &Pass<'_>, leader: &'a Status, now: &Time) -> Vec<&'a str> {
    let away = leader.members.iter().filter(|m| is_voter(m) && !in_sync(m));
    let away: Vec<&str> = away.map(|m| m.name.as_str()).collect();
    if let (Phase::RollingOut, [one]) = (pass.progress.phase, away.as_slice()) {
        let taken = |since: &Option<Time>| since.as_ref().is_some_and(|since| !is_over(since, START_PATIENCE, now));
        if pass.seen.pod(one).is_none_or(|pod| taken(&pod.since)) {
            return Vec::new();
        }
    }
    away
}

/// Pods that Kubernetes reaches and the operator does not: it knows nothing then, and must not say that all is lost.
fn is_deaf(seen: &Observed) -> bool {
    seen.answering().next().is_none() && seen.pods.iter().any(|p| p.ready)
}

/// Voters the leader has heard from lately, itself included.
fn live(leader: &Status) -> usize {
    leader.tolerates.live.unwrap_or_else(|| {
        leader
            .members
            .iter()
            .filter(|m| m.role == "leader" || (m.role == "follower" && m.healthy == Some(true)))
            .count()
    })
}

fn tolerates(leader: &Status) -> Option<Tolerates> {
    Some(Tolerates { writes: count(leader.tolerates.writes?), failover: count(leader.tolerates.failover?) })
}

fn member(seen: &MemberStatus, of_leader: bool) -> Member {
    let state = match seen.healthy {
        _ if !of_leader => "Unknown",
        _ if in_sync(seen) => "InSync",
        Some(true) => "CatchingUp",
        _ => "Unreachable",
    };
    // A follower's view names a leader that may be gone.
    let role = if !of_leader && seen.role == "leader" { "follower" } else { &seen.role };
    Member {
        id: seen.id.clone(),
        pod: seen.name.clone(),
        role: role.to_owned(),
        state: state.to_owned(),
        lag: seen.lag.filter(|_| of_leader).map(coarse),
    }
}

/// So that the status rests while the cluster works.
fn coarse(lag: u64) -> i64 {
    if lag <= IN_SYNC_LAG_MAX { 0 } else { i64::try_from(lag.next_power_of_two()).unwrap_or(i64::MAX) }
}

fn unknown(members: &[Member]) -> Vec<Member> {
    let forget = |m: &Member| {
        let role = if m.role == "leader" { "follower".to_owned() } else { m.role.clone() };
        Member { state: "Unknown".to_owned(), lag: None, role, ..m.clone() }
    };
    members.iter().map(forget).collect()
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn condition(kind: &str, told: Told<'_>, generation: Option<i64>, before: &[Condition], now: &Time) -> Condition {
    let (value, reason, mut message) = told;
    if message.len() > MESSAGE_MAX {
        let end = (0..=MESSAGE_MAX).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
        message.truncate(end);
    }
    let same = before.iter().find(|c| c.type_ == kind && c.status == value.as_str());
    Condition {
        type_: kind.to_owned(),
        status: value.as_str().to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: same.map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
    }
}

/// What changed between two statuses, as Events: each condition that turned, who leads, how many and which numbers.
#[must_use]
pub fn events(before: &KVClusterStatus, after: &KVClusterStatus) -> Vec<Happened> {
    let mut events = Vec::new();
    let mut tell =
        |warning: bool, reason: &str, note: String| events.push(Happened { warning, reason: reason.to_owned(), note });
    if before.cluster_id.is_none()
        && let Some(id) = &after.cluster_id
    {
        tell(false, "ClusterFormed", format!("the cluster is formed; its id is {id}"));
    }
    if let Some(leader) = after.leader.as_ref().filter(|l| before.leader.as_ref() != Some(l)) {
        let term = after.term.map(|t| format!(" in term {t}")).unwrap_or_default();
        tell(false, "LeaderChanged", format!("{leader} leads{term}"));
    }
    if let (Some(old), Some(new)) = (before.write_quorum, after.write_quorum)
        && old != new
    {
        tell(false, "WriteQuorumChanged", format!("writes are acknowledged by {new} copies after {old}"));
    }
    for new in &after.conditions {
        let old = before.conditions.iter().find(|c| c.type_ == new.type_);
        let turned = old.is_none_or(|old| old.status != new.status);
        let other_reason = old.is_some_and(|old| old.reason != new.reason);
        let note =
            if new.message.is_empty() { format!("{} is {}", new.type_, new.status) } else { new.message.clone() };
        match (new.type_.as_str(), new.status.as_str()) {
            ("Available" | "Quorate", "True") if turned => tell(
                new.reason == "SurvivesNoFailure",
                if new.type_ == "Available" { "Available" } else { &new.reason },
                note,
            ),
            ("Quorate", "True") if other_reason && new.reason == "SurvivesNoFailure" => tell(true, &new.reason, note),
            ("Available", "False" | "Unknown") if turned && old.is_some() => {
                tell(!matches!(new.reason.as_str(), "Hibernated" | "Forming"), &new.reason, note)
            }
            ("Quorate", "False" | "Unknown") if turned && old.is_some() && new.reason == "ElectionImpossible" => {
                tell(true, &new.reason, note)
            }
            ("Progressing", "True") if turned || other_reason => tell(false, &new.reason, note),
            ("Progressing", "False") if turned && old.is_some() => tell(false, &new.reason, note),
            ("Degraded", "True") if turned || other_reason => tell(true, &new.reason, note),
            ("Degraded", "False") if turned && old.is_some() => {
                tell(false, "Recovered", "nothing is degraded any more".to_owned())
            }
            ("Paused", "True") if turned => tell(false, "Paused", note),
            ("Paused", "False") if turned && old.is_some() => tell(false, "Resumed", "spec.paused is gone".to_owned()),
            _ => {}
        }
    }
    events
}
