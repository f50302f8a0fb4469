//! What to do next: how many pods there are to be, and at most one step towards what is wanted.
//!
//! Pure: wanted and observed in, a decision and its reason out. One step at a time, each decided on a fresh look: whatever the operator forgets by dying, it sees
//! again. When in doubt it waits and says for what.
//!
//! Before: [`crate::validate`], [`crate::observe`]. After: [`crate::build`] (the objects), [`crate::apply`] (the step), [`crate::status`] (the reason).

mod members;
mod rollout;
#[cfg(test)]
mod tests;
mod volumes;

pub use rollout::{all_new, must_stay};

use quorate_api::{ConfigChange, Membership};
use quorum::Quorum;
use quorum::quorum::VOTERS_MAX;

use crate::crd::{KVClusterStatus, RetentionPolicy};
use crate::names::{self, Set};
use crate::observe::{Observed, in_sync, is_member, is_voter, voters};
use crate::validate::Wanted;

/// The decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How many pods the StatefulSets are to have.
    pub pods: Pods,
    /// The volumes that are asked to grow now. Beside the step and not one itself: a volume that cannot grow must not hold up everything else for good, the other
    /// volumes among it, since what was asked for cannot be taken back.
    pub growth: Vec<Growth>,
    /// What is done to the running cluster now, if anything.
    pub step: Option<Step>,
    /// What is under way, or that all is as wanted.
    pub progress: Progress,
}

/// Pods by StatefulSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pods {
    /// 1, or 0 while hibernated.
    pub leader: i32,
    /// The others.
    pub follower: i32,
    /// What becomes of the volumes of pods that these numbers take away.
    pub when_scaled: RetentionPolicy,
}

impl Pods {
    /// Of one set.
    #[must_use]
    pub fn of(self, set: Set) -> i32 {
        match set {
            Set::Leader => self.leader,
            Set::Follower => self.follower,
        }
    }
}

/// A volume claim and the size that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Which.
    pub claim: String,
    /// To this size.
    pub size: String,
}

/// One thing done to the running cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A change of the configuration, based on a version.
    ChangeConfig {
        /// What changes.
        change: ConfigChange,
        /// The version it is based on.
        version: u64,
        /// For the Event.
        why: String,
    },
    /// Leadership moves.
    Transfer {
        /// To this pod.
        to: String,
        /// For the Event.
        why: String,
    },
    /// There is no leader, and a person named the next one.
    Campaign {
        /// This pod.
        on: String,
    },
    /// A person's wish is fulfilled, or cannot be: the annotation goes.
    ForgetTransfer {
        /// For the Event.
        why: String,
    },
    /// A pod is made anew from the present template.
    DeletePod {
        /// Which.
        pod: String,
        /// Its identity.
        uid: String,
        /// For the Event.
        why: String,
    },
    /// A StatefulSet goes and comes back with larger claims; its pods stay.
    RecreateSet {
        /// Which.
        set: Set,
    },
}

/// What is under way. `reason` and `message` of the condition Progressing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which kind of change.
    pub phase: Phase,
    /// What it waits for, in a sentence.
    pub message: String,
}

/// A kind of change under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All is as wanted.
    Settled,
    /// The operator was told to change nothing.
    Paused,
    /// Pods are on their way to form a cluster.
    Forming,
    /// Pods go; the volumes stay.
    Hibernating,
    /// No pods, as wanted.
    Hibernated,
    /// More members.
    ScalingUp,
    /// Fewer members.
    ScalingDown,
    /// Another W, failover policy or preferred leader.
    Reconfiguring,
    /// Pods are made anew from another template, one by one.
    RollingOut,
    /// Volumes grow.
    GrowingVolumes,
    /// Leadership is being moved, as a person wished.
    MovingLeadership,
    /// Leadership goes back to where it prefers to live, after a rollout took it away from there.
    ReturningLeadership,
    /// Pods are there again after hibernation, and find each other.
    Waking,
    /// A pod is on its way, though nothing is being changed: it was deleted or ended.
    Starting,
    /// There is no leader to ask: nothing can be changed.
    WaitingForLeader,
    /// A pod is missing or not ready though nothing is being changed.
    WaitingForPods,
    /// The cluster's data is gone.
    DataLost,
    /// The nodes hold the data of another cluster.
    ForeignData,
}

impl Phase {
    /// As a condition's reason and an Event's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Settled => "Settled",
            Phase::Paused => "Paused",
            Phase::Forming => "Forming",
            Phase::Hibernating => "Hibernating",
            Phase::Hibernated => "Hibernated",
            Phase::ScalingUp => "ScalingUp",
            Phase::ScalingDown => "ScalingDown",
            Phase::Reconfiguring => "Reconfiguring",
            Phase::RollingOut => "RollingOut",
            Phase::GrowingVolumes => "GrowingVolumes",
            Phase::MovingLeadership => "MovingLeadership",
            Phase::ReturningLeadership => "ReturningLeadership",
            Phase::Waking => "Waking",
            Phase::Starting => "Starting",
            Phase::WaitingForLeader => "WaitingForLeader",
            Phase::WaitingForPods => "WaitingForPods",
            Phase::DataLost => "DataLost",
            Phase::ForeignData => "ForeignData",
        }
    }

    /// Whether a change that was asked for is under way, which the condition Progressing says. Waiting for what broke is no progress.
    #[must_use]
    pub fn is_progressing(self) -> bool {
        use Phase::{DataLost, ForeignData, WaitingForLeader, WaitingForPods};
        !self.rests() && !matches!(self, WaitingForLeader | WaitingForPods | DataLost | ForeignData)
    }

    /// Whether nothing has to be looked at again soon.
    #[must_use]
    pub fn rests(self) -> bool {
        matches!(self, Phase::Settled | Phase::Paused | Phase::Hibernated)
    }
}

/// A step, with what is under way; what each part of the plan may contribute.
type Part = Option<(Option<Step>, Progress)>;

fn doing(phase: Phase, step: Step, message: impl Into<String>) -> Part {
    Some((Some(step), Progress { phase, message: message.into() }))
}

fn waiting(phase: Phase, message: impl Into<String>) -> Part {
    Some((None, Progress { phase, message: message.into() }))
}

/// Decides.
#[must_use]
pub fn plan(wanted: &Wanted, seen: &Observed, recorded: &KVClusterStatus) -> Plan {
    let pods = pods(wanted, seen, recorded);
    let held = resting(wanted, seen).or_else(|| wrong_data(seen, recorded, pods));
    let growth = if held.is_none() { volumes::growth(wanted, seen) } else { Vec::new() };
    let part = held
        .or_else(|| volumes::sets(wanted, seen))
        .or_else(|| forming(wanted, seen, recorded))
        .or_else(|| rollout::repair(wanted, seen))
        .or_else(|| without_leader(wanted, seen, recorded))
        .or_else(|| members::part(wanted, seen))
        .or_else(|| moving_leadership(wanted, seen))
        .or_else(|| rollout::part(wanted, seen))
        .or_else(|| missing_pods(wanted, seen, recorded))
        .or_else(|| leadership_home(wanted, seen, recorded))
        .or_else(|| unnoticed(seen))
        .or_else(|| volumes::unfinished(wanted, seen));
    let settled = || (None, Progress { phase: Phase::Settled, message: "all is as wanted".to_owned() });
    let (step, progress) = part.unwrap_or_else(settled);
    Plan { pods, growth, step, progress }
}

/// A change of a StatefulSet that its controller has yet to see: until then nobody can say which pods it concerns, so all is not as wanted yet.
#[must_use]
pub fn taking_over() -> Progress {
    let message = "the StatefulSets were changed, and Kubernetes has yet to take that over".to_owned();
    Progress { phase: Phase::Reconfiguring, message }
}

fn unnoticed(seen: &Observed) -> Part {
    seen.sets.iter().any(|set| set.update_revision.is_none()).then(|| (None, taking_over()))
}

/// What was under way at the last pass.
fn was(recorded: &KVClusterStatus, phases: &[Phase]) -> bool {
    let reason = recorded.conditions.iter().find(|c| c.type_ == "Progressing").map(|c| c.reason.as_str());
    phases.iter().any(|phase| reason == Some(phase.as_str()))
}

/// How many pods there are to be. Fewer than now only once the cluster's final configuration, as its leader has it, does without them.
fn pods(wanted: &Wanted, seen: &Observed, recorded: &KVClusterStatus) -> Pods {
    if wanted.spec.hibernated {
        // To Kubernetes pods that sleep are scaled away like any others, and their volumes are all there is of the cluster.
        return Pods { leader: 0, follower: 0, when_scaled: RetentionPolicy::Retain };
    }
    let followers = wanted.replicas() - 1;
    let given = wanted.spec.persistent_volume_claim_retention.when_scaled;
    if let Some(leader) = seen.led().filter(|leader| !leader.config.changing) {
        let needed = followers_for(wanted, voters(leader));
        return Pods { leader: 1, follower: followers.max(needed), when_scaled: given };
    }
    // While the set is being made anew its pods run on, and what comes back must not take those away that the cluster still counts on. Of a set without pods, as
    // after a sleep, the status knows.
    let running = || followers_for(wanted, seen.pods.iter().map(|p| p.name.as_str()));
    let current = seen.set(Set::Follower).map_or_else(running, |s| s.replicas);
    let unformed = recorded.cluster_id.is_none() && seen.formed_id().is_none();
    let needed = if unformed { 0 } else { current.max(followers_for(wanted, recorded_voters(recorded))) };
    let follower = followers.max(needed);
    // Volumes go only on the word of a leader that counts on their pods no more: until it is heard, what is in force stays. That no cluster is formed says nothing
    // of them: a node that does not answer yet may hold one of the KVCluster that was here before.
    let in_force = seen.sets.iter().all(|s| s.when_scaled == given) && (unformed || !seen.sets.is_empty());
    let when_scaled = if in_force && current <= follower { given } else { RetentionPolicy::Retain };
    Pods { leader: 1, follower, when_scaled }
}

/// How many followers there must be for all of these to have their pods.
fn followers_for<'a>(wanted: &Wanted, pods: impl IntoIterator<Item = &'a str>) -> i32 {
    let most = i32::try_from(VOTERS_MAX).unwrap_or(i32::MAX) - 1;
    let ordinals = pods.into_iter().filter_map(|pod| names::follower_ordinal(&wanted.name, pod));
    ordinals.map(|ordinal| ordinal.saturating_add(1)).filter(|n| (1..=most).contains(n)).max().unwrap_or(0)
}

/// Who votes, as the status has it.
fn recorded_voters(recorded: &KVClusterStatus) -> Vec<&str> {
    recorded.members.iter().filter(|m| m.role != "learner").map(|m| m.pod.as_str()).collect()
}

/// Paused and hibernated.
fn resting(wanted: &Wanted, seen: &Observed) -> Part {
    if wanted.spec.paused {
        return waiting(Phase::Paused, "spec.paused is set: nothing is changed until it is taken away");
    }
    if !wanted.spec.hibernated {
        return None;
    }
    match seen.pods.len() {
        0 => waiting(Phase::Hibernated, "there are no pods; the volumes keep the data"),
        left => waiting(Phase::Hibernating, format!("{left} pods are stopping")),
    }
}

/// The nodes are there, and what they hold is not this cluster's data.
fn wrong_data(seen: &Observed, recorded: &KVClusterStatus, pods: Pods) -> Part {
    let id = recorded.cluster_id.as_deref()?;
    let foreign =
        seen.answering().find(|(_, s)| is_member(s) && s.cluster_id.as_deref().is_some_and(|other| other != id));
    if let Some((pod, status)) = foreign {
        let other = status.cluster_id.as_deref().unwrap_or_default();
        let message = format!(
            "{} holds data of cluster {other}, and this is cluster {id}: its volume claim {} is of another KVCluster",
            pod.name,
            volumes::claim_of(&pod.name)
        );
        return waiting(Phase::ForeignData, message);
    }
    let blank = seen.answering().filter(|(_, s)| s.node.membership == Membership::Blank).count();
    let all = usize::try_from(pods.leader + pods.follower).unwrap_or(0);
    (blank >= all && seen.pods.len() == blank).then_some(())?;
    waiting(
        Phase::DataLost,
        format!(
            "all {blank} nodes are empty, and cluster {id} had data: bring its volumes back, or delete this KVCluster and make a new one; an empty cluster is not formed in its name"
        ),
    )
}

/// There is no cluster yet.
fn forming(wanted: &Wanted, seen: &Observed, recorded: &KVClusterStatus) -> Part {
    if recorded.cluster_id.is_some() || seen.formed_id().is_some() {
        return None;
    }
    // Nothing is stored yet: a pod of an earlier template (another image, another N) goes at once.
    let outdated = |pod: &&crate::observe::PodSeen| {
        rollout::is_outdated(wanted, seen, pod)
            && !pod.terminating
            && pod.status.as_ref().is_none_or(|s| s.node.membership == Membership::Blank)
    };
    if let Some(pod) = seen.pods.iter().find(outdated) {
        let step = Step::DeletePod {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            why: "it was made from an earlier template, and no cluster is formed yet".into(),
        };
        return doing(Phase::Forming, step, format!("{} is made anew before the cluster is formed", pod.name));
    }
    let all = wanted.pods();
    let missing: Vec<&str> =
        all.iter().filter(|name| seen.pod(name).is_none_or(|p| p.status.is_none())).map(String::as_str).collect();
    match missing.first() {
        None => waiting(Phase::Forming, "all nodes are there: the cluster is being formed"),
        Some(first) => {
            let stuck = seen.pod(first).and_then(|p| p.stuck.as_deref()).map(|s| format!(" ({s})")).unwrap_or_default();
            waiting(
                Phase::Forming,
                format!("waiting for {} of {} nodes, {first}{stuck} among them", missing.len(), all.len()),
            )
        }
    }
}

/// A formed cluster without a leader: a person may name one, and nothing else can be done.
fn without_leader(wanted: &Wanted, seen: &Observed, recorded: &KVClusterStatus) -> Part {
    if seen.led().is_some() {
        return None;
    }
    if let Some(on) = &wanted.transfer_to {
        if seen.pod(on).is_some_and(|p| p.status.is_some()) {
            return doing(Phase::MovingLeadership, Step::Campaign { on: on.clone() }, format!("{on} is asked to lead"));
        }
        return waiting(Phase::WaitingForLeader, format!("{on} is to lead and does not answer"));
    }
    let (voters, needed) = in_force(wanted, seen, recorded);
    let answering = voters.iter().filter(|name| seen.pod(name).is_some_and(|p| p.status.is_some())).count();
    let all = voters.len();
    // Also out of a sleep that had not quite begun.
    if was(recorded, &[Phase::Hibernating, Phase::Hibernated, Phase::Waking]) {
        return waiting(Phase::Waking, format!("{answering} of {all} nodes answer, and no leader is elected yet"));
    }
    let hint = if wanted.failover() == "manual" {
        format!(": failover is manual: name the next leader with the annotation {}", names::TRANSFER_ANNOTATION)
    } else {
        String::new()
    };
    waiting(
        Phase::WaitingForLeader,
        format!("no leader; {answering} of {all} nodes answer, and {needed} are needed to elect one{hint}"),
    )
}

/// Who votes, and how many of them elect a leader: as the nodes have it, or as the status had it last, and only then as it is wanted.
fn in_force(wanted: &Wanted, seen: &Observed, recorded: &KVClusterStatus) -> (Vec<String>, usize) {
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    if let Some(status) = seen.best_informed() {
        return (owned(voters(status)), status.config.election_quorum);
    }
    let names = owned(recorded_voters(recorded));
    let write = recorded.write_quorum.and_then(|w| usize::try_from(w).ok());
    match write.and_then(|write| Quorum::new(names.len(), write).ok()) {
        Some(quorum) => (names, quorum.election()),
        None => (wanted.pods(), wanted.quorum.election()),
    }
}

/// A person named a leader, and there is one to ask.
fn moving_leadership(wanted: &Wanted, seen: &Observed) -> Part {
    let to = wanted.transfer_to.as_ref()?;
    let leader = seen.led()?;
    if leader.node.name == *to {
        return doing(
            Phase::MovingLeadership,
            Step::ForgetTransfer { why: format!("{to} leads") },
            format!("{to} leads"),
        );
    }
    if !leader.members.iter().any(|m| m.name == *to && is_voter(m)) {
        let why = format!("{to} is no voter of this cluster, so it cannot lead");
        return doing(Phase::MovingLeadership, Step::ForgetTransfer { why: why.clone() }, why);
    }
    // Nothing is written while a leader waits for its heir to catch up, and one that is away would be waited for again and again.
    if !leader.members.iter().any(|m| m.name == *to && in_sync(m)) {
        return waiting(Phase::MovingLeadership, format!("leadership moves to {to} once it is in sync"));
    }
    let why = format!("the annotation {} names {to}", names::TRANSFER_ANNOTATION);
    doing(Phase::MovingLeadership, Step::Transfer { to: to.clone(), why }, format!("leadership moves to {to}"))
}

/// Nothing is left to be changed, and something is not there.
fn missing_pods(wanted: &Wanted, seen: &Observed, recorded: &KVClusterStatus) -> Part {
    let absent = wanted.pods().into_iter().find(|name| seen.pod(name).is_none_or(|p| !p.ready || p.terminating))?;
    let pod = seen.pod(&absent);
    if let Some(stuck) = pod.and_then(|p| p.stuck.as_deref()) {
        return waiting(Phase::WaitingForPods, format!("{absent} is not ready: {stuck}"));
    }
    if was(recorded, &[Phase::RollingOut]) {
        return waiting(Phase::RollingOut, format!("the last pod, {absent}, is starting"));
    }
    // A node that answers is nearly there; one that does not may be on its way or on a machine that is gone.
    let answers = pod.is_some_and(|p| p.status.is_some());
    waiting(if answers { Phase::Starting } else { Phase::WaitingForPods }, format!("{absent} is not ready"))
}

/// A rollout took leadership away from where it prefers to live, and is over. Elsewhere the nodes see to it themselves, and what a person chose stays.
fn leadership_home(wanted: &Wanted, seen: &Observed, recorded: &KVClusterStatus) -> Part {
    if !was(recorded, &[Phase::RollingOut, Phase::ReturningLeadership]) {
        return None;
    }
    let home = wanted.preferred()?;
    let leader = seen.led()?;
    let able = leader.members.iter().any(|m| m.name == home && m.role == "follower" && in_sync(m));
    if !able {
        return None;
    }
    let step = Step::Transfer { to: home.clone(), why: "the rollout is over".to_owned() };
    doing(Phase::ReturningLeadership, step, format!("leadership goes back to {home}"))
}
