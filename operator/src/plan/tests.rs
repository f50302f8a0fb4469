//! Decisions, one table a kind of change.

use quorate_api::{ConfigStatus, Limits, MemberStatus, Membership, NodeStatus, Status, Tolerates};
use serde_json::json;

use super::{Growth, Phase, Plan, Step, plan};
use crate::crd::{KVCluster, KVClusterStatus, Member, RetentionPolicy};
use crate::names::{self, Set};
use crate::observe::{ClaimSeen, Observed, PodSeen, SetSeen};
use crate::validate::{Wanted, validate};

const ID: &str = "11111111-1111-4111-8111-111111111111";

fn wanted(spec: serde_json::Value) -> Wanted {
    let cluster: KVCluster = serde_json::from_value(json!({
        "apiVersion": "quorate.dev/v1alpha1", "kind": "KVCluster",
        "metadata": {"name": "demo", "namespace": "default", "uid": "u"}, "spec": spec,
    }))
    .expect("a KVCluster");
    validate(&cluster, "quorate:1").expect("valid")
}

fn recorded() -> KVClusterStatus {
    KVClusterStatus { cluster_id: Some(ID.into()), ..KVClusterStatus::default() }
}

fn member(name: &str, role: &str) -> MemberStatus {
    MemberStatus {
        id: format!("id of {name}"),
        name: name.into(),
        role: role.into(),
        http: String::new(),
        tcp: String::new(),
        peer: String::new(),
        healthy: Some(true),
        last_heard_ms: Some(1),
        lag: Some(0),
    }
}

fn says(name: &str, role: &str, write_quorum: usize, members: &[MemberStatus]) -> Status {
    let voters = members.iter().filter(|m| m.role != "learner").count();
    Status {
        version: "0".into(),
        node: NodeStatus {
            id: format!("id of {name}"),
            name: name.into(),
            role: role.into(),
            membership: Membership::Voter,
            incarnation: 1,
            ready: true,
            http: String::new(),
            tcp: String::new(),
            peer: String::new(),
        },
        cluster_id: Some(ID.into()),
        formed: true,
        term: 1,
        leader: None,
        leader_url: None,
        commit: 1,
        applied: 1,
        config: ConfigStatus {
            version: 7,
            replicas: voters,
            write_quorum,
            election_quorum: voters / 2 + 1,
            commit_quorum: 1,
            preferred: Some("demo-leader-0".into()),
            failover: "automatic".into(),
            changing: false,
            explanation: String::new(),
        },
        members: members.to_vec(),
        tolerates: Tolerates { live: Some(voters), writes: Some(voters - write_quorum), failover: Some(0) },
        limits: Limits {
            key_bytes: 1,
            value_bytes: 1,
            batch_keys: 1,
            page_keys: 1,
            in_flight_writes: 1,
            idempotency_key_bytes: 1,
            idempotency_keys: 1,
            idempotency_seconds: 1,
        },
        disk_full: false,
    }
}

/// A cluster of `n` that is as wanted, led by `leader`, with a template of revision `new`.
fn healthy(n: i32, write_quorum: usize, leader: &str) -> Observed {
    let names: Vec<String> = names::pods("demo", n).collect();
    let members: Vec<MemberStatus> =
        names.iter().map(|name| member(name, if name == leader { "leader" } else { "follower" })).collect();
    let pods = names.iter().map(|name| PodSeen {
        name: name.clone(),
        uid: format!("uid of {name}"),
        url: Some("http://10.0.0.1:8000".into()),
        ready: true,
        revision: Some("new".into()),
        status: Some(says(name, if name == leader { "leader" } else { "follower" }, write_quorum, &members)),
        ..PodSeen::default()
    });
    let set = |set, replicas| SetSeen {
        set,
        replicas,
        update_revision: Some("new".into()),
        claim_size: "1Gi".into(),
        when_scaled: Default::default(),
    };
    let mut pods: Vec<PodSeen> = pods.collect();
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    Observed { pods, sets: vec![set(Set::Leader, 1), set(Set::Follower, n - 1)], ..Observed::default() }
}

fn pod<'a>(seen: &'a mut Observed, name: &str) -> &'a mut PodSeen {
    seen.pods.iter_mut().find(|p| p.name == name).expect("a pod")
}

/// Changes what the leader says.
fn leader_says(seen: &mut Observed, change: impl Fn(&mut Status)) {
    for pod in &mut seen.pods {
        if let Some(status) = pod.status.as_mut().filter(|s| s.node.role == "leader") {
            change(status);
        }
    }
}

fn decide(spec: serde_json::Value, seen: &Observed) -> Plan {
    plan(&wanted(spec), seen, &recorded())
}

#[test]
fn a_cluster_that_is_as_wanted_is_left_alone() {
    for (n, w) in [(1, 1), (3, 2), (6, 4), (9, 5)] {
        let plan = decide(json!({"replicas": n}), &healthy(n, w, "demo-leader-0"));
        assert_eq!((plan.step, plan.progress.phase), (None, Phase::Settled));
        assert_eq!((plan.pods.leader, plan.pods.follower), (1, n - 1));
    }
}

#[test]
fn leadership_elsewhere_is_no_reason_to_do_anything() {
    assert_eq!(decide(json!({"replicas": 3}), &healthy(3, 2, "demo-follower-1")).step, None);
}

#[test]
fn another_write_quorum_is_one_change_of_the_configuration_in_force() {
    let plan = decide(json!({"replicas": 3, "writeQuorum": 3}), &healthy(3, 2, "demo-leader-0"));
    let Some(Step::ChangeConfig { change, version, .. }) = plan.step else { panic!("{plan:?}") };
    assert_eq!((change.write_quorum, version, change.voters), (Some(3), 7, None));
    assert_eq!(plan.progress.phase, Phase::Reconfiguring);
}

#[test]
fn while_a_change_is_being_committed_nothing_else_is_begun() {
    let mut seen = healthy(3, 2, "demo-leader-0");
    leader_says(&mut seen, |s| s.config.changing = true);
    pod(&mut seen, "demo-follower-1").revision = Some("old".into());
    let plan = decide(json!({"replicas": 3, "writeQuorum": 3}), &seen);
    assert_eq!((plan.step, plan.progress.phase), (None, Phase::Reconfiguring));
}

#[test]
fn more_replicas_are_first_pods_then_learners_then_voters_and_w_rises_with_the_last() {
    let spec = || json!({"replicas": 5});
    let mut seen = healthy(3, 2, "demo-leader-0");
    let plan = decide(spec(), &seen);
    assert_eq!((plan.pods.follower, plan.step.clone(), plan.progress.phase), (4, None, Phase::ScalingUp), "{plan:?}");

    // One has caught up, the other has not.
    leader_says(&mut seen, |s| {
        let behind = MemberStatus { lag: Some(5_000), ..member("demo-follower-3", "learner") };
        s.members.extend([member("demo-follower-2", "learner"), behind]);
    });
    let Some(Step::ChangeConfig { change, .. }) = decide(spec(), &seen).step else { panic!() };
    let voters = change.voters.expect("voters");
    assert_eq!(voters, ["demo-leader-0", "demo-follower-0", "demo-follower-1", "demo-follower-2"]);
    assert_eq!(change.write_quorum, None, "three of four would be more than was asked for so far");

    leader_says(&mut seen, |s| s.members.last_mut().expect("a member").lag = Some(10));
    let Some(Step::ChangeConfig { change, .. }) = decide(spec(), &seen).step else { panic!() };
    assert_eq!((change.voters.map(|v| v.len()), change.write_quorum), (Some(5), Some(3)));
}

#[test]
fn fewer_replicas_are_first_fewer_voters_and_only_then_fewer_pods() {
    let spec = || json!({"replicas": 3});
    let mut seen = healthy(5, 3, "demo-leader-0");
    let plan = decide(spec(), &seen);
    assert_eq!(plan.pods.follower, 4, "pods stay while the configuration needs them");
    let Some(Step::ChangeConfig { change, .. }) = plan.step else { panic!("{plan:?}") };
    assert_eq!((change.voters.map(|v| v.len()), change.write_quorum), (Some(3), Some(2)));

    leader_says(&mut seen, |s| {
        s.members.truncate(3);
        s.config.write_quorum = 2;
    });
    let plan = decide(spec(), &seen);
    assert_eq!((plan.pods.follower, plan.step, plan.progress.phase), (2, None, Phase::ScalingDown));
}

#[test]
fn pods_are_never_taken_away_on_what_nobody_confirms() {
    let spec = || json!({"replicas": 3});
    let mut seen = healthy(5, 3, "demo-leader-0");
    pod(&mut seen, "demo-leader-0").status = None;
    assert_eq!(decide(spec(), &seen).pods.follower, 4, "no leader answers");
    let mut seen = healthy(5, 2, "demo-leader-0");
    leader_says(&mut seen, |s| {
        s.members.truncate(3);
        s.config.changing = true;
    });
    assert_eq!(decide(spec(), &seen).pods.follower, 4, "the change is not committed");
}

#[test]
fn a_leader_that_is_to_go_hands_over_first() {
    let seen = healthy(5, 3, "demo-follower-3");
    let plan = decide(json!({"replicas": 3}), &seen);
    assert!(matches!(&plan.step, Some(Step::Transfer { to, .. }) if to == "demo-leader-0"), "{plan:?}");
}

#[test]
fn a_learner_without_a_pod_is_forgotten_and_one_with_a_pod_is_not() {
    let mut seen = healthy(3, 2, "demo-leader-0");
    leader_says(&mut seen, |s| s.members.push(member("demo-follower-2", "learner")));
    let Some(Step::ChangeConfig { change, .. }) = decide(json!({"replicas": 3}), &seen).step else { panic!() };
    assert_eq!(change.remove_learners, Some(vec!["demo-follower-2".to_owned()]));
    seen.pods.push(PodSeen { name: "demo-follower-2".into(), ..PodSeen::default() });
    assert_eq!(decide(json!({"replicas": 3}), &seen).step, None);
}

#[test]
fn a_rollout_takes_followers_from_the_last_down_and_the_leader_after_a_transfer() {
    for (leader, order) in [
        ("demo-leader-0", ["delete demo-follower-1", "delete demo-follower-0", "transfer demo-follower-0"]),
        ("demo-follower-1", ["delete demo-follower-0", "delete demo-leader-0", "transfer demo-leader-0"]),
    ] {
        let mut seen = healthy(3, 2, leader);
        seen.pods.iter_mut().for_each(|p| p.revision = Some("old".into()));
        for expected in order {
            let plan = decide(json!({"replicas": 3}), &seen);
            assert_eq!(plan.progress.phase, Phase::RollingOut);
            let taken = match plan.step.expect("a step") {
                Step::DeletePod { pod, uid, .. } => {
                    assert_eq!(uid, format!("uid of {pod}"));
                    super::tests::pod(&mut seen, &pod).revision = Some("new".into());
                    format!("delete {pod}")
                }
                Step::Transfer { to, .. } => format!("transfer {to}"),
                other => panic!("{other:?}"),
            };
            assert_eq!(taken, expected, "led by {leader}");
        }
    }
}

#[test]
fn a_rollout_waits_while_anyone_else_is_away_behind_or_stopping() {
    type Trouble = fn(&mut Observed);
    let troubles: [(&str, Trouble); 5] = [
        ("not ready", |seen| pod(seen, "demo-follower-0").ready = false),
        ("stopping", |seen| pod(seen, "demo-follower-0").terminating = true),
        ("missing", |seen| seen.pods.retain(|p| p.name != "demo-follower-0")),
        ("silent", |seen| leader_says(seen, |s| s.members[1].healthy = Some(false))),
        ("behind", |seen| leader_says(seen, |s| s.members[1].lag = Some(1_001))),
    ];
    for (what, trouble) in troubles {
        let mut seen = healthy(3, 2, "demo-leader-0");
        pod(&mut seen, "demo-follower-1").revision = Some("old".into());
        trouble(&mut seen);
        let plan = decide(json!({"replicas": 3}), &seen);
        assert_eq!((plan.step, plan.progress.phase), (None, Phase::RollingOut), "{what}");
    }
}

#[test]
fn a_dead_pod_of_an_old_template_is_made_anew_at_once() {
    for leaderless in [false, true] {
        let mut seen = healthy(3, 2, "demo-leader-0");
        let dead = pod(&mut seen, "demo-follower-0");
        (dead.ready, dead.status, dead.revision) = (false, None, Some("old".into()));
        if leaderless {
            seen.pods.iter_mut().for_each(|p| p.status = None);
        }
        let plan = decide(json!({"replicas": 3}), &seen);
        assert!(matches!(&plan.step, Some(Step::DeletePod { pod, .. }) if pod == "demo-follower-0"), "{plan:?}");
    }
}

#[test]
fn a_dead_pod_of_an_old_template_is_made_anew_also_while_a_change_waits_for_it() {
    let mut seen = healthy(3, 2, "demo-leader-0");
    let new = PodSeen { name: "demo-follower-2".into(), uid: "its uid".into(), ..PodSeen::default() };
    seen.pods.push(PodSeen { stuck: Some("Unschedulable".into()), revision: Some("old".into()), ..new });
    let plan = decide(json!({"replicas": 5}), &seen);
    let expected = |step: &Option<Step>| matches!(step, Some(Step::DeletePod { pod, uid, .. }) if pod == "demo-follower-2" && uid == "its uid");
    assert!(expected(&plan.step), "it is not to join before its template is mended: {plan:?}");
    leader_says(&mut seen, |s| s.config.changing = true);
    assert!(expected(&decide(json!({"replicas": 5}), &seen).step));
    // Made anew, it is waited for.
    seen.pods[3].revision = Some("new".into());
    leader_says(&mut seen, |s| s.config.changing = false);
    let plan = decide(json!({"replicas": 5}), &seen);
    assert_eq!((plan.step, plan.progress.phase), (None, Phase::ScalingUp));
}

#[test]
fn with_every_copy_needed_for_a_write_pods_are_still_rolled_one_at_a_time() {
    for (n, w) in [(1, 1), (3, 3), (3, 1)] {
        let mut seen = healthy(n, w, "demo-leader-0");
        seen.pods.iter_mut().for_each(|p| p.revision = Some("old".into()));
        let plan = decide(json!({"replicas": n, "writeQuorum": w}), &seen);
        assert!(matches!(plan.step, Some(Step::DeletePod { .. })), "{n} copies, {w} for a write: {plan:?}");
    }
}

#[test]
fn nothing_is_rolled_and_nothing_settled_before_the_statefulset_says_which_revision_is_new() {
    let mut seen = healthy(3, 2, "demo-leader-0");
    seen.pods.iter_mut().for_each(|p| p.revision = Some("old".into()));
    seen.sets.iter_mut().for_each(|s| s.update_revision = None);
    let plan = decide(json!({"replicas": 3}), &seen);
    assert_eq!(plan.step, None);
    assert!(plan.progress.phase.is_progressing(), "{plan:?}");
}

#[test]
fn all_empty_nodes_of_a_cluster_that_had_data_are_a_loss_and_not_a_beginning() {
    let mut seen = healthy(3, 2, "demo-leader-0");
    for pod in &mut seen.pods {
        let status = pod.status.as_mut().expect("a status");
        status.node.membership = Membership::Blank;
        status.node.role = "follower".into();
        status.members.clear();
        status.formed = false;
    }
    let plan = decide(json!({"replicas": 3}), &seen);
    assert_eq!((plan.step, plan.progress.phase), (None, Phase::DataLost));
    assert!(plan.progress.message.contains(ID));
    // One that does not answer may have it all.
    seen.pods[0].status = None;
    assert_eq!(decide(json!({"replicas": 3}), &seen).progress.phase, Phase::WaitingForLeader);
}

#[test]
fn nodes_with_another_clusters_data_are_told_and_not_touched() {
    let mut seen = healthy(3, 2, "demo-leader-0");
    seen.pods[1].status.as_mut().expect("a status").cluster_id = Some("other".into());
    let plan = decide(json!({"replicas": 3, "writeQuorum": 3}), &seen);
    assert_eq!((plan.step, plan.progress.phase), (None, Phase::ForeignData));
    assert!(plan.progress.message.contains("claim data-demo-follower-1 "), "{}", plan.progress.message);
}

#[test]
fn without_a_leader_nothing_is_changed_and_a_person_may_name_one() {
    let mut seen = healthy(3, 2, "demo-leader-0");
    pod(&mut seen, "demo-leader-0").status = None;
    let spec = || json!({"replicas": 3, "writeQuorum": 3, "failover": "Manual"});
    let plan = decide(spec(), &seen);
    assert_eq!((plan.step, plan.progress.phase), (None, Phase::WaitingForLeader));
    assert!(plan.progress.message.contains(names::TRANSFER_ANNOTATION));
    let mut wanted = wanted(spec());
    wanted.transfer_to = Some("demo-follower-0".into());
    let plan = super::plan(&wanted, &seen, &recorded());
    assert_eq!(plan.step, Some(Step::Campaign { on: "demo-follower-0".into() }));
}

#[test]
fn a_wish_for_a_leader_is_fulfilled_or_refused_and_then_forgotten() {
    for (leader, wish, expected) in [
        ("demo-leader-0", "demo-follower-0", "transfer"),
        ("demo-follower-0", "demo-follower-0", "forget"),
        ("demo-leader-0", "somebody", "forget"),
    ] {
        let mut wanted = wanted(json!({"replicas": 3}));
        wanted.transfer_to = Some(wish.into());
        let step = super::plan(&wanted, &healthy(3, 2, leader), &recorded()).step;
        let done = match step {
            Some(Step::Transfer { to, .. }) if to == wish => "transfer",
            Some(Step::ForgetTransfer { .. }) => "forget",
            other => panic!("{other:?}"),
        };
        assert_eq!(done, expected);
    }
}

#[test]
fn leadership_is_not_offered_to_one_that_is_away_for_nothing_is_written_while_it_is_waited_for() {
    let mut wanted = wanted(json!({"replicas": 3}));
    wanted.transfer_to = Some("demo-follower-1".into());
    let mut seen = healthy(3, 2, "demo-leader-0");
    let leader = pod(&mut seen, "demo-leader-0").status.as_mut().expect("it answers");
    leader.members.iter_mut().find(|m| m.name == "demo-follower-1").expect("a member").healthy = Some(false);
    let plan = super::plan(&wanted, &seen, &recorded());
    assert_eq!((plan.step, plan.progress.phase), (None, Phase::MovingLeadership));
    assert_eq!(plan.progress.message, "leadership moves to demo-follower-1 once it is in sync");
}

#[test]
fn a_manual_policy_prefers_nobody() {
    let Some(Step::ChangeConfig { change, .. }) =
        decide(json!({"replicas": 3, "failover": "Manual"}), &healthy(3, 2, "demo-leader-0")).step
    else {
        panic!()
    };
    assert_eq!((change.failover.as_deref(), change.preferred.as_deref()), (Some("manual"), Some("")));
}

#[test]
fn volumes_grow_all_at_once_and_then_the_sets_are_made_anew_and_then_the_volumes_are_waited_for() {
    let spec = || json!({"replicas": 3, "storage": {"size": "2Gi"}});
    let mut seen = healthy(3, 2, "demo-leader-0");
    let claims = ["data-demo-leader-0", "data-demo-follower-0", "data-demo-follower-1"].map(|name| claim(name, "1Gi"));
    seen.claims = claims.into_iter().chain([claim("mine", "1Gi")]).collect();
    seen.claims[2].size = "2Gi".into();
    let plan = decide(spec(), &seen);
    let growth = ["data-demo-leader-0", "data-demo-follower-0"].map(|c| Growth { claim: c.into(), size: "2Gi".into() });
    assert_eq!(plan.growth, growth);
    assert_eq!((plan.step, plan.progress.phase), (None, Phase::GrowingVolumes));
    (seen.claims[0], seen.claims[2]) = (claim("data-demo-leader-0", "2Gi"), claim("data-demo-follower-1", "2Gi"));
    seen.claims[1].size = "2048Mi".into();
    let unseen = seen.sets[0].update_revision.take();
    let plan = decide(spec(), &seen);
    assert_eq!((plan.growth, plan.step), (vec![], Some(Step::RecreateSet { set: Set::Follower })));
    seen.sets[0].update_revision = unseen;
    assert_eq!(decide(spec(), &seen).step, Some(Step::RecreateSet { set: Set::Leader }));
    seen.sets.iter_mut().for_each(|s| s.claim_size = "2Gi".into());

    seen.claims[1].said = Some("FileSystemResizePending".into());
    let plan = decide(spec(), &seen);
    assert_eq!((plan.growth, plan.step, plan.progress.phase), (vec![], None, Phase::GrowingVolumes));
    assert_eq!(plan.progress.message, "data-demo-follower-0 has 1Gi of the 2Gi asked for (FileSystemResizePending)");
    seen.claims[1].capacity = "3Gi".into();
    // Nobody uses it, so it cannot grow.
    seen.claims.push(ClaimSeen { size: "2Gi".into(), ..claim("data-demo-follower-7", "1Gi") });
    assert_eq!(decide(spec(), &seen).progress.phase, Phase::Settled);
}

#[test]
fn a_volume_that_does_not_grow_holds_nothing_else_up() {
    let mut seen = healthy(3, 2, "demo-leader-0");
    seen.claims = vec![claim("data-demo-leader-0", "1Gi")];
    pod(&mut seen, "demo-follower-1").revision = Some("old".into());
    let plan = decide(json!({"replicas": 3, "storage": {"size": "2Gi"}}), &seen);
    assert_eq!(plan.growth.len(), 1, "{plan:?}");
    assert!(matches!(&plan.step, Some(Step::DeletePod { pod, .. }) if pod == "demo-follower-1"), "{plan:?}");
    let plan = decide(json!({"replicas": 3, "paused": true, "storage": {"size": "2Gi"}}), &seen);
    assert_eq!((plan.growth, plan.step), (vec![], None), "a pause is a pause");
}

#[test]
fn a_claim_without_a_volume_keeps_neither_the_others_nor_the_sets_from_growing() {
    let spec = || json!({"replicas": 3, "storage": {"size": "2Gi"}});
    let mut seen = healthy(3, 2, "demo-leader-0");
    let unbound = ClaimSeen { capacity: String::new(), ..claim("data-demo-follower-0", "1Gi") };
    seen.claims = vec![unbound, claim("data-demo-leader-0", "1Gi")];
    let growing = |plan: &Plan| plan.growth.iter().map(|g| g.claim.clone()).collect::<Vec<_>>();
    assert_eq!(growing(&decide(spec(), &seen)), ["data-demo-leader-0"]);
    seen.claims[1] = claim("data-demo-leader-0", "2Gi");
    assert!(matches!(decide(spec(), &seen).step, Some(Step::RecreateSet { .. })));
    seen.sets.iter_mut().for_each(|s| s.claim_size = "2Gi".into());
    let plan = decide(spec(), &seen);
    assert_eq!((growing(&plan).len(), plan.progress.phase), (0, Phase::GrowingVolumes));
    assert_eq!(plan.progress.message, "data-demo-follower-0 has no volume yet, and asks for 2Gi once it has");
    seen.claims[0].capacity = "1Gi".into();
    assert_eq!(growing(&decide(spec(), &seen)), ["data-demo-follower-0"]);
}

#[test]
fn a_set_that_is_made_anew_comes_back_with_all_pods_that_the_cluster_counts_on() {
    let mut seen = healthy(5, 3, "demo-leader-0");
    seen.sets.retain(|set| set.set == Set::Leader);
    seen.leaving = vec![Set::Follower];
    assert_eq!(decide(json!({"replicas": 3}), &seen).pods.follower, 4);
    seen.leaving.clear();
    assert_eq!(decide(json!({"replicas": 3}), &seen).pods.follower, 4);
}

fn claim(name: &str, size: &str) -> ClaimSeen {
    ClaimSeen { name: name.into(), size: size.into(), capacity: size.into(), ..ClaimSeen::default() }
}

#[test]
fn hibernation_and_pause_come_before_everything_else() {
    let mut seen = healthy(5, 3, "demo-leader-0");
    let plan = decide(json!({"replicas": 3, "hibernated": true}), &seen);
    assert_eq!((plan.pods.leader, plan.pods.follower, plan.progress.phase), (0, 0, Phase::Hibernating));
    seen.pods.clear();
    assert_eq!(decide(json!({"replicas": 3, "hibernated": true}), &seen).progress.phase, Phase::Hibernated);
    let plan = decide(json!({"replicas": 3, "paused": true}), &healthy(5, 3, "demo-leader-0"));
    assert_eq!((plan.step, plan.progress.phase), (None, Phase::Paused));
}

#[test]
fn what_sleeps_keeps_its_volumes_and_none_go_before_a_leader_says_whose_pods_it_does_without() {
    let spec = |more: serde_json::Value| {
        let mut spec = json!({"replicas": 3, "persistentVolumeClaimRetention": {"whenScaled": "Delete"}});
        spec.as_object_mut().expect("a spec").extend(more.as_object().expect("fields").clone());
        spec
    };
    let policy = |spec, seen: &Observed| decide(spec, seen).pods.when_scaled;
    let (awake, asleep) = (|| spec(json!({})), || spec(json!({"hibernated": true})));
    let mut seen = healthy(5, 3, "demo-leader-0");
    assert_eq!(policy(awake(), &seen), RetentionPolicy::Delete);
    assert_eq!(policy(json!({"replicas": 3}), &seen), RetentionPolicy::Retain);
    // A leader that fails changes nothing of it.
    seen.sets.iter_mut().for_each(|s| s.when_scaled = RetentionPolicy::Delete);
    leader_says(&mut seen, |s| s.config.changing = true);
    assert_eq!(policy(awake(), &seen), RetentionPolicy::Delete);
    seen.pods.iter_mut().for_each(|p| p.status = None);
    assert_eq!(policy(awake(), &seen), RetentionPolicy::Delete);

    assert_eq!(policy(asleep(), &seen), RetentionPolicy::Retain);
    assert_eq!(policy(asleep(), &healthy(5, 3, "demo-leader-0")), RetentionPolicy::Retain);
    // Awake, and nobody leads yet.
    seen.sets.iter_mut().for_each(|s| s.when_scaled = RetentionPolicy::Retain);
    assert_eq!(policy(awake(), &seen), RetentionPolicy::Retain);
    seen.sets.clear();
    assert_eq!(policy(awake(), &seen), RetentionPolicy::Retain);
    // No cluster yet, and perhaps volumes of one that was here before.
    let unformed = |seen: &Observed| plan(&wanted(awake()), seen, &KVClusterStatus::default()).pods;
    assert_eq!(unformed(&Observed::default()).when_scaled, RetentionPolicy::Delete, "nothing is there to be lost");
    for in_force in [RetentionPolicy::Delete, RetentionPolicy::Retain] {
        seen.sets = healthy(5, 3, "demo-leader-0").sets;
        seen.sets.iter_mut().for_each(|s| s.when_scaled = in_force);
        let pods = unformed(&seen);
        assert_eq!((pods.follower, pods.when_scaled), (2, RetentionPolicy::Retain), "fewer than there are");
        seen.sets[1].replicas = 2;
        assert_eq!(unformed(&seen).when_scaled, in_force, "it stays so until a leader is heard");
    }
}

/// A status that knows of `n` voters, and of a learner after them.
fn recorded_members(n: i32, write_quorum: i32) -> KVClusterStatus {
    let learner = format!("demo-follower-{}", n - 1);
    let members = names::pods("demo", n).map(|pod| (pod, "follower")).chain([(learner, "learner")]);
    let members = members.map(|(pod, role)| Member { pod, role: role.into(), ..Member::default() });
    KVClusterStatus { members: members.collect(), write_quorum: Some(write_quorum), ..recorded() }
}

#[test]
fn what_was_made_smaller_in_its_sleep_wakes_with_all_pods_that_it_needs_to_elect_a_leader() {
    let nine = || recorded_members(9, 5);
    let awake = |seen: &Observed| plan(&wanted(json!({"replicas": 3})), seen, &nine());
    let mut seen = Observed::default();
    assert_eq!(awake(&seen).pods.follower, 8, "the set and its pods are gone, as if somebody had deleted them");
    seen.sets = healthy(1, 1, "").sets;
    let plan = awake(&seen);
    assert_eq!((plan.pods.leader, plan.pods.follower, plan.step.clone()), (1, 8, None), "the set has no pods");
    assert!(plan.progress.message.contains("0 of 9 nodes answer, and 5 are needed"), "{plan:?}");

    // Three nodes know that they are not enough.
    seen = healthy(9, 5, "demo-follower-7");
    seen.pods.iter_mut().skip(3).for_each(|p| p.status = None);
    assert!(awake(&seen).progress.message.contains("3 of 9 nodes answer, and 5 are needed"), "{:?}", awake(&seen));
    // What the leader says counts for more than what was once written down.
    assert_eq!(awake(&healthy(3, 2, "demo-leader-0")).pods.follower, 2);
    let plan = awake(&healthy(9, 5, "demo-leader-0"));
    assert_eq!((plan.pods.follower, plan.progress.phase), (8, Phase::ScalingDown));
}

#[test]
fn some_empty_nodes_of_many_are_no_loss() {
    let mut seen = healthy(9, 5, "demo-leader-0");
    for pod in &mut seen.pods {
        let status = pod.status.as_mut().expect("a status");
        (status.node.membership, status.node.role) = (Membership::Blank, "follower".into());
        status.members.clear();
        status.formed = false;
    }
    let phase = |seen: &Observed| plan(&wanted(json!({"replicas": 3})), seen, &recorded_members(9, 5)).progress.phase;
    assert_eq!(phase(&seen), Phase::DataLost);
    // The others are on their way, and may have it all.
    seen.pods.truncate(3);
    assert_eq!(phase(&seen), Phase::WaitingForLeader);
}

#[test]
fn before_a_cluster_is_formed_pods_of_an_earlier_template_go_at_once() {
    let mut seen = healthy(3, 2, "demo-leader-0");
    for pod in &mut seen.pods {
        pod.status = None;
        pod.revision = Some("old".into());
    }
    let plan = plan(&wanted(json!({"replicas": 3})), &seen, &KVClusterStatus::default());
    assert!(matches!(plan.step, Some(Step::DeletePod { .. })));
    assert_eq!(plan.progress.phase, Phase::Forming);
}

/// A status that says what was under way.
fn was(phase: Phase) -> KVClusterStatus {
    let condition = json!({"type": "Progressing", "status": "True", "reason": phase.as_str(), "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    KVClusterStatus { conditions: vec![serde_json::from_value(condition).expect("a condition")], ..recorded() }
}

#[test]
fn leadership_goes_home_after_a_rollout_and_stays_where_a_person_put_it() {
    let wanted = wanted(json!({"replicas": 3}));
    for (before, step) in [
        (Phase::RollingOut, true),
        (Phase::ReturningLeadership, true),
        (Phase::MovingLeadership, false),
        (Phase::Starting, false),
    ] {
        let plan = plan(&wanted, &healthy(3, 2, "demo-follower-1"), &was(before));
        assert_eq!(
            matches!(&plan.step, Some(Step::Transfer { to, .. }) if to == "demo-leader-0"),
            step,
            "after {before:?}"
        );
    }
    assert_eq!(plan(&wanted, &healthy(3, 2, "demo-leader-0"), &was(Phase::RollingOut)).progress.phase, Phase::Settled);
}

#[test]
fn a_pod_that_starts_is_no_trouble_and_one_that_does_not_is() {
    let wanted = wanted(json!({"replicas": 3}));
    let mut seen = healthy(3, 2, "demo-leader-0");
    pod(&mut seen, "demo-follower-1").ready = false;
    assert_eq!(plan(&wanted, &seen, &recorded()).progress.phase, Phase::Starting);
    assert_eq!(plan(&wanted, &seen, &was(Phase::RollingOut)).progress.phase, Phase::RollingOut);
    pod(&mut seen, "demo-follower-1").status = None;
    assert_eq!(plan(&wanted, &seen, &recorded()).progress.phase, Phase::WaitingForPods);
}

#[test]
fn a_cluster_that_wakes_has_no_leader_for_a_moment() {
    let mut seen = healthy(3, 2, "demo-leader-0");
    seen.pods.iter_mut().for_each(|p| p.status = None);
    let wanted = wanted(json!({"replicas": 3}));
    for (before, phase) in [
        (Phase::Hibernating, Phase::Waking),
        (Phase::Hibernated, Phase::Waking),
        (Phase::Waking, Phase::Waking),
        (Phase::Settled, Phase::WaitingForLeader),
    ] {
        assert_eq!(plan(&wanted, &seen, &was(before)).progress.phase, phase);
    }
}
