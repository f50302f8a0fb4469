//! What is told in each situation, and that nothing is told twice.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use quorate_api::{MemberStatus, Status};
use serde_json::json;

use super::{Pass, events, refused, status};
use crate::crd::{KVCluster, KVClusterStatus};
use crate::names::Set;
use crate::observe::{Observed, PodSeen, SetSeen};
use crate::plan::{Phase, Progress};
use crate::validate::{Wanted, validate};

fn cluster(spec: serde_json::Value) -> KVCluster {
    serde_json::from_value(json!({
        "apiVersion": "quorate.dev/v1alpha1", "kind": "KVCluster", "metadata": {"name": "demo", "namespace": "default", "generation": 2}, "spec": spec,
    }))
    .expect("a KVCluster")
}

fn wanted(spec: serde_json::Value) -> Wanted {
    validate(&cluster(spec), "quorate:1").expect("valid")
}

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).expect("a time"))
}

/// What a node says, as JSON as it comes over the wire.
fn says(name: &str, leads: bool, live: usize, write_quorum: usize, members: &[(&str, &str, bool, u64)]) -> Status {
    let members: Vec<MemberStatus> = members
        .iter()
        .map(|(name, role, healthy, lag)| MemberStatus {
            id: format!("id-{name}"),
            name: (*name).into(),
            role: (*role).into(),
            http: String::new(),
            tcp: String::new(),
            peer: String::new(),
            healthy: leads.then_some(*healthy),
            last_heard_ms: None,
            lag: leads.then_some(*lag),
        })
        .collect();
    let n = members.len();
    serde_json::from_value(json!({
        "version": "0", "cluster_id": "id", "formed": true, "term": 3, "leader": null, "leader_url": null, "commit": 1, "applied": 1,
        "node": {"id": "i", "name": name, "role": if leads { "leader" } else { "follower" }, "membership": "voter", "incarnation": 1, "ready": true, "http": "", "tcp": "", "peer": ""},
        "config": {"version": 1, "replicas": n, "write_quorum": write_quorum, "election_quorum": (n - write_quorum + 1).max(n / 2 + 1), "commit_quorum": 1,
            "preferred": null, "failover": "automatic", "changing": false, "explanation": ""},
        "members": members,
        "tolerates": {"live": leads.then_some(live), "writes": leads.then_some(live.saturating_sub(write_quorum)), "failover": leads.then_some(0)},
        "limits": {"key_bytes": 1, "value_bytes": 1, "batch_keys": 1, "page_keys": 1, "in_flight_writes": 1}, "disk_full": false,
    }))
    .expect("a status")
}

fn pods(statuses: Vec<Option<Status>>) -> Observed {
    let names = ["demo-follower-0", "demo-follower-1", "demo-leader-0"];
    let pod = |(name, status): (&str, Option<Status>)| PodSeen {
        name: name.into(),
        ready: true,
        status,
        ..PodSeen::default()
    };
    Observed { pods: names.into_iter().zip(statuses).map(pod).collect(), ..Observed::default() }
}

fn three(lag: u64, healthy: bool) -> Observed {
    let members = [
        ("demo-leader-0", "leader", true, 0),
        ("demo-follower-0", "follower", true, 0),
        ("demo-follower-1", "follower", healthy, lag),
    ];
    let live = if healthy { 3 } else { 2 };
    pods(vec![
        Some(says("demo-follower-0", false, 0, 2, &members)),
        None,
        Some(says("demo-leader-0", true, live, 2, &members)),
    ])
}

fn told(
    seen: &Observed,
    phase: Phase,
    spec: serde_json::Value,
    before: &KVClusterStatus,
    second: i64,
) -> KVClusterStatus {
    let wanted = wanted(spec);
    let progress = Progress { phase, message: format!("{phase:?}") };
    let pass = Pass { wanted: &wanted, generation: Some(1), seen, progress: &progress, trouble: None };
    status(&pass, before, &at(second))
}

fn condition(status: &KVClusterStatus, kind: &str) -> (String, String) {
    let condition = status.conditions.iter().find(|c| c.type_ == kind).expect("every condition is always there");
    (condition.status.clone(), condition.reason.clone())
}

fn assert_told(status: &KVClusterStatus, kind: &str, value: &str, reason: &str) {
    assert_eq!(condition(status, kind), (value.to_owned(), reason.to_owned()), "{kind} of {status:#?}");
}

#[test]
fn a_healthy_cluster_is_available_quorate_and_nothing_else() {
    let status = told(&three(0, true), Phase::Settled, json!({}), &KVClusterStatus::default(), 1);
    assert_told(&status, "Available", "True", "WritesAccepted");
    assert_told(&status, "Quorate", "True", "LeaderReplaceable");
    assert_told(&status, "Progressing", "False", "Settled");
    assert_told(&status, "Degraded", "False", "AsWanted");
    assert_told(&status, "Paused", "False", "NotPaused");
    assert_eq!(
        (status.leader.as_deref(), status.term, status.cluster_id.as_deref()),
        (Some("demo-leader-0"), Some(3), Some("id"))
    );
}

#[test]
fn a_quiet_cluster_has_the_same_status_every_time_though_its_lag_moves() {
    let first = told(&three(0, true), Phase::Settled, json!({}), &KVClusterStatus::default(), 1);
    for (lag, second) in [(1, 2), (999, 3), (1_000, 4)] {
        assert_eq!(told(&three(lag, true), Phase::Settled, json!({}), &first, second), first);
    }
    assert!(events(&first, &first).is_empty());
}

#[test]
fn a_condition_keeps_the_time_it_turned() {
    let first = told(&three(0, true), Phase::Settled, json!({}), &KVClusterStatus::default(), 1);
    let second = told(&three(0, false), Phase::Settled, json!({}), &first, 9);
    let when = |s: &KVClusterStatus, kind: &str| {
        s.conditions.iter().find(|c| c.type_ == kind).map(|c| c.last_transition_time.clone())
    };
    assert_eq!(when(&second, "Available"), Some(at(1)));
    assert_eq!(when(&second, "Degraded"), Some(at(9)));
    assert_told(&second, "Degraded", "True", "MembersAway");
    let told: Vec<String> = events(&first, &second).into_iter().map(|e| e.reason).collect();
    assert_eq!(told, ["MembersAway"]);
}

#[test]
fn too_few_copies_are_told_as_no_quorum_and_as_an_election_that_cannot_be() {
    let members = [
        ("demo-leader-0", "leader", true, 0),
        ("demo-follower-0", "follower", false, 0),
        ("demo-follower-1", "follower", false, 0),
    ];
    let seen = pods(vec![None, None, Some(says("demo-leader-0", true, 1, 2, &members))]);
    let status = told(&seen, Phase::WaitingForPods, json!({}), &KVClusterStatus::default(), 1);
    assert_told(&status, "Available", "False", "NoQuorum");
    assert_told(&status, "Quorate", "False", "ElectionImpossible");
}

#[test]
fn without_a_leader_nothing_is_claimed_of_members() {
    let before = told(&three(0, true), Phase::Settled, json!({}), &KVClusterStatus::default(), 1);
    let members = [
        ("demo-leader-0", "leader", true, 0),
        ("demo-follower-0", "follower", true, 0),
        ("demo-follower-1", "follower", true, 0),
    ];
    let seen = pods(vec![Some(says("demo-follower-0", false, 0, 2, &members)), None, None]);
    let status = told(&seen, Phase::WaitingForLeader, json!({}), &before, 2);
    assert_told(&status, "Available", "False", "NoLeader");
    assert_told(&status, "Quorate", "False", "NoLeader");
    assert_told(&status, "Degraded", "True", "NoLeader");
    assert_eq!((status.leader, status.tolerates), (None, None));
    assert!(status.members.iter().all(|m| m.state == "Unknown" && m.role != "leader"), "{:?}", status.members);
    assert_eq!(status.cluster_id.as_deref(), Some("id"), "the identity is never forgotten");
}

#[test]
fn pods_that_are_ready_but_cannot_be_reached_make_the_truth_unknown() {
    let before = told(&three(0, true), Phase::Settled, json!({}), &KVClusterStatus::default(), 1);
    let status = told(&pods(vec![None, None, None]), Phase::WaitingForLeader, json!({}), &before, 2);
    for kind in ["Available", "Quorate", "Degraded"] {
        assert_told(&status, kind, "Unknown", "NotReachable");
    }
}

#[test]
fn numbers_that_survive_no_failure_are_a_warning_from_the_start() {
    let members = [("demo-leader-0", "leader", true, 0)];
    let seen = Observed {
        pods: vec![PodSeen {
            name: "demo-leader-0".into(),
            ready: true,
            status: Some(says("demo-leader-0", true, 1, 1, &members)),
            ..PodSeen::default()
        }],
        ..Observed::default()
    };
    let status = told(&seen, Phase::Settled, json!({"replicas": 1}), &KVClusterStatus::default(), 1);
    assert_told(&status, "Quorate", "True", "SurvivesNoFailure");
    let warned =
        events(&KVClusterStatus::default(), &status).into_iter().any(|e| e.warning && e.reason == "SurvivesNoFailure");
    assert!(warned);
}

#[test]
fn a_change_under_way_is_progress_and_no_trouble() {
    let mut seen = three(5_000, true);
    seen.pods[1].since = Some(at(990));
    let status = told(&seen, Phase::RollingOut, json!({}), &KVClusterStatus::default(), 1_000);
    assert_told(&status, "Progressing", "True", "RollingOut");
    assert_told(&status, "Degraded", "False", "Changing");
    let member = status.members.iter().find(|m| m.pod == "demo-follower-1").expect("a member");
    assert_eq!((member.state.as_str(), member.lag), ("CatchingUp", Some(8_192)));
    // Between the old pod and the new one there is none.
    seen.pods.remove(1);
    let status = told(&seen, Phase::RollingOut, json!({}), &status, 1_000);
    assert_told(&status, "Degraded", "False", "Changing");
}

#[test]
fn a_change_under_way_does_not_hide_a_member_that_it_did_not_take() {
    let members = |third: &'static str| {
        [
            ("demo-leader-0", "leader", true, 0),
            ("demo-follower-0", "follower", true, 0),
            ("demo-follower-1", third, false, 0),
        ]
    };
    let degraded = |seen: &Observed, phase| {
        let status = told(seen, phase, json!({}), &KVClusterStatus::default(), 1_000);
        condition(&status, "Degraded").1
    };
    let seen = |third: &'static str, since| {
        let leader = says("demo-leader-0", true, 2, 2, &members(third));
        let mut seen = pods(vec![None, None, Some(leader)]);
        seen.pods[1].since = Some(at(since));
        seen
    };
    assert_eq!(degraded(&seen("follower", 990), Phase::RollingOut), "Changing");
    assert_eq!(degraded(&seen("follower", 600), Phase::RollingOut), "MembersAway", "it has had the time to start");
    assert_eq!(degraded(&seen("follower", 990), Phase::ScalingUp), "MembersAway", "who joins takes nobody away");
    assert_eq!(degraded(&seen("learner", 990), Phase::ScalingUp), "Changing", "it is not to vote yet");

    let all = [
        ("demo-leader-0", "leader", true, 0),
        ("demo-follower-0", "follower", false, 0),
        ("demo-follower-1", "follower", false, 0),
    ];
    let mut two = pods(vec![None, None, Some(says("demo-leader-0", true, 1, 2, &all))]);
    two.pods[1].since = Some(at(990));
    assert_eq!(degraded(&two, Phase::RollingOut), "MembersAway", "one at a time");
}

#[test]
fn a_cluster_that_does_not_wake_in_time_is_in_trouble() {
    let asleep =
        told(&Observed::default(), Phase::Hibernated, json!({"hibernated": true}), &KVClusterStatus::default(), 1);
    let members = ["demo-leader-0", "demo-follower-0", "demo-follower-1"].map(|name| (name, "follower", true, 0));
    let node = |name: &str| Some(says(name, false, 0, 2, &members));
    let some = || pods(vec![node("demo-follower-0"), None, None]);
    let all = || pods(vec![node("demo-follower-0"), node("demo-follower-1"), node("demo-leader-0")]);
    let woken = told(&some(), Phase::Waking, json!({}), &asleep, 100);
    let degraded =
        |seen: Observed, second| condition(&told(&seen, Phase::Waking, json!({}), &woken, second), "Degraded").1;
    assert_eq!(degraded(all(), 110), "Changing", "they elect one");
    assert_eq!(degraded(all(), 120), "NoLeader", "they all run, and cannot");
    assert_eq!(degraded(some(), 120), "Changing", "the others start");
    assert_eq!(degraded(some(), 500), "NoLeader");
}

#[test]
fn volumes_that_grow_hide_neither_trouble_nor_what_runs() {
    let mut seen = three(5_000, true);
    let set = |set| SetSeen {
        set,
        replicas: 1,
        update_revision: Some("new".into()),
        claim_size: String::new(),
        when_scaled: Default::default(),
    };
    seen.sets = vec![set(Set::Leader), set(Set::Follower)];
    seen.pods.iter_mut().for_each(|pod| pod.revision = Some("new".into()));
    let spec = || json!({"image": "quorate:next"});
    let status = told(&seen, Phase::GrowingVolumes, spec(), &KVClusterStatus::default(), 1);
    assert_told(&status, "Degraded", "True", "MembersAway");
    assert_eq!(status.image.as_deref(), Some("quorate:next"));
    seen.pods[0].revision = Some("old".into());
    assert_eq!(told(&seen, Phase::GrowingVolumes, spec(), &KVClusterStatus::default(), 1).image, None);
}

#[test]
fn a_stuck_pod_is_told_in_the_kubelets_words_even_while_something_changes() {
    let mut seen = three(0, true);
    seen.pods[1].stuck = Some("ImagePullBackOff: no such image".into());
    let status = told(&seen, Phase::RollingOut, json!({}), &KVClusterStatus::default(), 1);
    assert_told(&status, "Degraded", "True", "PodStuck");
    let message = &status.conditions.iter().find(|c| c.type_ == "Degraded").expect("a condition").message;
    assert!(message.contains("demo-follower-1") && message.contains("no such image"), "{message}");
}

#[test]
fn hibernation_is_no_trouble() {
    let status =
        told(&Observed::default(), Phase::Hibernated, json!({"hibernated": true}), &KVClusterStatus::default(), 1);
    assert_told(&status, "Available", "False", "Hibernated");
    assert_told(&status, "Degraded", "False", "AsWanted");
    let spec = json!({"hibernated": true, "paused": true});
    let paused = told(&Observed::default(), Phase::Paused, spec, &status, 2);
    assert_told(&paused, "Available", "False", "Hibernated");
    assert_told(&paused, "Quorate", "False", "Hibernated");
    assert_told(&paused, "Degraded", "False", "AsWanted");
    let warned: Vec<String> = events(&status, &paused).into_iter().filter(|e| e.warning).map(|e| e.reason).collect();
    assert_eq!(warned, [""; 0]);
}

#[test]
fn what_cannot_be_served_keeps_what_was_known_and_says_why() {
    let before = told(&three(0, true), Phase::Settled, json!({}), &KVClusterStatus::default(), 1);
    let asked = cluster(json!({"paused": true}));
    let status = refused("Invalid", "a write quorum of 4 cannot be met", &asked, &before, &at(2));
    assert_told(&status, "Degraded", "True", "Invalid");
    assert_told(&status, "Available", "Unknown", "NotLookedAt");
    assert_told(&status, "Paused", "True", "Paused");
    assert_eq!((status.observed_generation, status.cluster_id), (Some(2), before.cluster_id));
    assert_eq!((status.leader, status.tolerates), (None, None), "nobody asked who leads now");
    assert!(status.members.iter().all(|m| m.state == "Unknown" && m.role != "leader"), "{:?}", status.members);
}
