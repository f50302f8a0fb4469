//! What befalls the machines of a cluster and its control plane: everybody's concern, so these tests run alone, and one
//! after the other.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod everywhere;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use quorate_kubernetes::arena::{PATIENCE, is, reason};
use quorate_kubernetes::clients::{SILENCE_MAX, SILENCE_OF_MACHINE_MAX};
use quorate_kubernetes::{Arena, Clients, THREE_COPIES, Trouble};
use quorate_operator::names;
use quorate_tests::eventually_in;

/// How long there is no API server.
const WITHOUT_API_SERVER: Duration = Duration::from_secs(60);

/// Four times the longest patience of a follower there: whoever would stand for election on its own had its chance.
const NOBODY_STANDS: Duration = Duration::from_secs(12);

/// An arena with two operators, for one of them may be on the machine that is hit; with `demo` in it.
async fn arena(name: &str) -> Arena {
    arena_with(name, THREE_COPIES).await
}

/// The same with a `demo` of another manifest.
async fn arena_with(name: &str, manifest: &str) -> Arena {
    let arena = Arena::empty(name).await;
    arena.install(&["--set", "replicas=2"]).await.good("helm install");
    arena.apply(manifest).await.good("kubectl apply");
    arena.settled("demo").await;
    arena
}

/// Waits until the status tells that a pod of the three is away, that another leads, and that no further failure is
/// survived.
async fn tells_without(arena: &Arena, pod: &str) {
    eventually_in(PATIENCE, "the status tells who leads and who is away", async || {
        let status = arena.status("demo").await?;
        let other_leads = status.leader.as_deref().is_some_and(|leader| leader != pod);
        let survived = status.tolerates.as_ref().map(|t| (t.writes, t.failover));
        let away = status.members.iter().any(|m| m.pod == pod && m.state == "Unreachable");
        let conditions =
            is(&status, "Available", "True") && is(&status, "Quorate", "True") && is(&status, "Degraded", "True");
        if other_leads && away && conditions && survived == Some((0, 0)) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

async fn node_is(arena: &Arena, node: &str, ready: bool) {
    let nodes: Api<Node> = Api::all(arena.client.0.clone());
    let what = if ready { "Ready" } else { "NotReady" };
    eventually_in(PATIENCE, &format!("{node} is {what}"), async || {
        let found = nodes.get(node).await.map_err(|e| e.to_string())?;
        let conditions = found.status.and_then(|s| s.conditions).unwrap_or_default();
        let now = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        if now == ready { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_the_leaders_node_is_not_ready_and_when_it_returns() {
    let arena = arena("kubelet").await;
    let clients = Clients::start(&arena, "demo", 3).await;
    let leader = arena.settled("demo").await.leader.expect("a leader");
    let (_, machine) = arena.pod(&leader).await;

    let trouble = Trouble::kubelet_stopped(&machine);
    let started = Instant::now();
    node_is(&arena, &machine, false).await;
    println!("{machine} is NotReady {:.0} s after its kubelet stopped", started.elapsed().as_secs_f64());
    clients.more(20).await;
    eventually_in(PATIENCE, "the status counts one pod less", async || match arena.status("demo").await? {
        status if status.ready_replicas == 2 && is(&status, "Available", "True") => {
            assert_eq!(status.leader.as_ref(), Some(&leader), "its pod runs on, and leads");
            Ok(())
        }
        status => Err(format!("{status:?}")),
    })
    .await;

    trouble.end();
    node_is(&arena, &machine, true).await;
    clients.more(20).await;
    arena.settled("demo").await;
    // Its processes run on; what ends is the clients' way to that pod, which is through the kubelet, once each time
    // they try it.
    clients.judged().await.silent_at_most(SILENCE_OF_MACHINE_MAX);
    arena.told("demo", &["Starting", "Settled"]).await;
    arena.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_leads_while_the_leaders_machine_stands_still_and_the_old_one_returns_without_harm() {
    let arena = arena("frozen").await;
    let clients = Clients::start(&arena, "demo", 3).await;
    let leader = arena.settled("demo").await.leader.expect("a leader");
    let (_, machine) = arena.pod(&leader).await;

    let from = clients.clock();
    let trouble = Trouble::frozen(&machine);
    clients.more(20).await;
    let to = clients.clock();
    tells_without(&arena, &leader).await;
    node_is(&arena, &machine, false).await;
    clients.more(20).await;

    trouble.end();
    node_is(&arena, &machine, true).await;
    arena.settled("demo").await;
    clients.more(20).await;
    let judged = clients.judged().await;
    println!(
        "from the stillstand of the leader's machine to the next acknowledged write: {:.2} s",
        judged.silence(from, to).as_secs_f64()
    );
    // Also when it returns, and when leadership does.
    judged.silent_at_most(SILENCE_OF_MACHINE_MAX);
    arena.told("demo", &["LeaderChanged", "MembersAway", "Recovered"]).await;
    arena.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_the_leaders_node_and_then_a_followers_is_drained() {
    let arena = arena("drain").await;
    let clients = Clients::start(&arena, "demo", 3).await;
    for pod in ["demo-leader-0", "demo-follower-0"] {
        let (before, machine) = arena.pod(pod).await;
        let started = Instant::now();
        // Its volume is on that machine: the pod waits until it may come back.
        let drain = ["drain", &machine, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s"];
        // A pod that nobody would make again is in its way: the provisioner of volumes has one there for a moment,
        // while it removes what an earlier test had.
        eventually_in(PATIENCE, "the machine is drained", async || {
            let said = arena.kubectl(&drain).await;
            if said.ok { Ok(()) } else { Err(said.err) }
        })
        .await;
        clients.more(20).await;
        tells_without(&arena, pod).await;
        // With Kubernetes' own words: its volume is on a machine that takes no pods.
        eventually_in(PATIENCE, "the status tells why the pod does not run", async || {
            let status = arena.status("demo").await?;
            let says = status.conditions.into_iter().find(|c| c.type_ == "Degraded").ok_or("no condition")?;
            let told =
                says.reason == "PodStuck" && says.message.contains(pod) && says.message.contains("Unschedulable");
            if told { Ok(()) } else { Err(format!("{says:?}")) }
        })
        .await;
        arena.kubectl(&["uncordon", &machine]).await.good("kubectl uncordon");
        arena.replaced(pod, &before).await;
        arena.settled("demo").await;
        println!("{machine} with {pod} was drained, and all well again after {:.1} s", started.elapsed().as_secs_f64());
    }
    // A pod that is evicted hands over before it ends: nothing falls silent.
    clients.judged().await.silent_at_most(SILENCE_MAX);
    arena.told("demo", &["LeaderChanged", "PodStuck", "Recovered", "Settled"]).await;
    arena.end().await;
}

// Its name makes it the last: whoever comes after it would wait until the provisioner of volumes, too, has found back.
#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_without_an_api_server_and_the_cluster_is_looked_after_when_it_is_back() {
    let arena = arena("alone").await;
    let clients = Clients::start(&arena, "demo", 3).await;
    // The clients' own way is through the API server: meanwhile one in a pod writes.
    let seconds = WITHOUT_API_SERVER.as_secs() + 10;
    let bench = format!(
        "{{\"spec\":{{\"containers\":[{{\"name\":\"bench\",\"image\":\"{}\",\"args\":[\"bench\",\"--url\",\"http://demo:8000\",\"--clients\",\"2\",\
         \"--rate\",\"50\",\"--duration\",\"{seconds}s\",\"--output\",\"json\"],\"securityContext\":{{\"allowPrivilegeEscalation\":false,\
         \"capabilities\":{{\"drop\":[\"ALL\"]}}}}}}],\"securityContext\":{{\"runAsNonRoot\":true,\"seccompProfile\":{{\"type\":\"RuntimeDefault\"}}}}}}}}",
        image(&arena).await
    );
    arena
        .kubectl(&["run", "bench", "--image=overridden", "--restart=Never", "--overrides", &bench])
        .await
        .good("kubectl run");
    let phase = async |wanted: &str| {
        eventually_in(PATIENCE, &format!("the writer's pod is {wanted}"), async || {
            let pod = arena.pods().get("bench").await.map_err(|e| e.to_string())?;
            let phase = pod.status.and_then(|s| s.phase).unwrap_or_default();
            if phase == wanted { Ok(()) } else { Err(phase) }
        })
        .await;
    };
    phase("Running").await;

    let trouble = Trouble::without_api_server(&control_plane(&arena).await);
    assert!(arena.status("demo").await.is_err(), "there is still an API server");
    // This is the one time that is waited for: what is tested is that nothing happens in it.
    tokio::time::sleep(WITHOUT_API_SERVER).await;
    trouble.end();
    eventually_in(PATIENCE, "the API server is back", async || arena.status("demo").await.map(drop)).await;

    phase("Succeeded").await;
    let said = arena.kubectl(&["logs", "bench"]).await.good("kubectl logs");
    println!("what the writer says: {said}");
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    // A leader may change in such a minute as in any other, on a busy machine: the few writes that meets are no outage.
    let errors = report["errors"].as_object().expect("errors");
    let known = ["no_leader", "outcome_unknown"];
    assert!(errors.keys().all(|error| known.contains(&error.as_str())), "{said}");
    let (failed, done) =
        (errors.values().filter_map(|n| n.as_u64()).sum::<u64>(), report["done"].as_u64().unwrap_or(0));
    assert!(failed * 10 <= done, "{failed} of {done} failed: {said}");
    assert_eq!(report["unsent"], 0, "{said}");
    // Counted from when each was due: a silence cannot hide in it.
    let longest = report["writes"]["max_ms"].as_f64().expect("writes");
    assert!(longest < SILENCE_MAX.as_secs_f64() * 1e3, "a write took {longest} ms: {said}");
    clients.more(20).await;
    // Something that takes the operator and the nodes alone: volumes come only when their provisioner, too, has found
    // back, which takes it the better part of a minute.
    arena.patch("demo", "{\"writeQuorum\":3}").await;
    assert_eq!(arena.settled("demo").await.write_quorum, Some(3));
    clients.more(20).await;
    // What their own way through the API server cost them is no concern of the cluster's.
    clients.judged().await;
    arena.told("demo", &["WriteQuorumChanged", "ConfigurationChanged", "Settled"]).await;
    arena.end().await;
}

/// Role and term of a pod's node, as it says itself.
async fn node(arena: &Arena, pod: &str) -> Result<(String, i64), String> {
    let said = arena.says(pod, names::HTTP_PORT, "/v1/status").await?;
    let status: serde_json::Value = serde_json::from_str(&said).map_err(|e| e.to_string())?;
    let role = status["node"]["role"].as_str().ok_or("no role")?;
    Ok((role.to_owned(), status["term"].as_i64().ok_or("no term")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_manual_policy_nobody_takes_over_until_a_person_names_the_next_leader() {
    // Patient, for a leader that loses its turn on a busy machine would be gone before the test takes it away.
    let manual = "writeQuorum: 2, failover: Manual, election: {heartbeat: 200ms, timeout: 2s-3s}";
    let arena = arena_with("manual", &THREE_COPIES.replace("writeQuorum: 2", manual)).await;
    let before = arena.settled("demo").await;
    assert_eq!(before.leader.as_deref(), Some("demo-leader-0"));
    arena.through("demo", "PUT", "/v1/kv/kept", "all the while").await.expect("a write");
    let clients = Clients::start(&arena, "demo", 3).await;

    // A pod that is deleted is told to stop, and hands over under any policy.
    let (_, machine) = arena.pod("demo-leader-0").await;
    let (killed, until) = (Instant::now(), clients.clock());
    Trouble::crash(&machine, "quorate");
    let status = eventually_in(PATIENCE, "the status says that nobody leads", async || {
        let status = arena.status("demo").await?;
        if reason(&status, "Available") == "NoLeader" { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!(is(&status, "Available", "False") && is(&status, "Quorate", "False"), "{status:?}");
    assert_eq!((&status.leader, &status.tolerates), (&None, &None), "{status:?}");
    assert_eq!(reason(&status, "Degraded"), "NoLeader");

    // Not even when the old leader is back, with all its data.
    let pods = ["demo-leader-0", "demo-follower-0", "demo-follower-1"];
    eventually_in(PATIENCE, "all three nodes answer, and a while has passed", async || {
        let pod = arena.pods().get("demo-leader-0").await.map_err(|e| e.to_string())?;
        let containers = pod.status.and_then(|s| s.container_statuses).unwrap_or_default();
        if containers.iter().all(|c| c.restart_count == 0) {
            return Err("it has not been started again".to_owned());
        }
        for pod in pods {
            node(&arena, pod).await?;
        }
        if killed.elapsed() >= NOBODY_STANDS { Ok(()) } else { Err("it has not passed".to_owned()) }
    })
    .await;
    for pod in pods {
        let (role, term) = node(&arena, pod).await.unwrap();
        assert_eq!((role.as_str(), Some(term)), ("follower", before.term), "{pod}");
    }
    let read = arena.says("demo-follower-0", names::HTTP_PORT, "/v1/kv/kept?consistency=local").await;
    assert_eq!(read.as_deref(), Ok("all the while"), "local reads go on");
    let status = arena.status("demo").await.unwrap();
    let says = status.conditions.iter().find(|c| c.type_ == "Progressing").expect("a condition").message.clone();
    assert!(says.contains(names::TRANSFER_ANNOTATION), "the status tells what to do: {says}");

    // As docs/kubernetes.md says.
    let named = format!("{}=demo-follower-1", names::TRANSFER_ANNOTATION);
    arena.kubectl(&["annotate", "kvc", "demo", &named]).await.good("kubectl annotate");
    let status = arena.settled("demo").await;
    assert_eq!(status.leader.as_deref(), Some("demo-follower-1"), "and nobody takes it back");
    println!("nobody led for {:.1} s, until a person said who", killed.elapsed().as_secs_f64());
    let from = clients.clock();
    clients.more(20).await;
    let to = clients.clock();
    let judged = clients.judged().await;
    assert!(judged.silence(until, from) > NOBODY_STANDS / 2, "somebody took writes while nobody was to lead");
    judged.silent_at_most_within(from, to, SILENCE_MAX);
    arena.labelled("demo-follower-1").await;
    arena.told("demo", &["NoLeader", "FailoverByHand", "LeaderChanged", "TransferDone", "Recovered"]).await;
    let cluster = arena.clusters().get("demo").await.unwrap();
    let left = cluster.metadata.annotations.unwrap_or_default();
    assert!(!left.contains_key(names::TRANSFER_ANNOTATION), "the wish is fulfilled and forgotten: {left:?}");
    arena.end().await;
}

/// The image that the pods of `demo` run.
async fn image(arena: &Arena) -> String {
    arena.status("demo").await.expect("a status").image.expect("an image")
}

/// The machine that the API server runs on.
async fn control_plane(arena: &Arena) -> String {
    let nodes: Api<Node> = Api::all(arena.client.0.clone());
    let of = ListParams::default().labels("node-role.kubernetes.io/control-plane");
    let found = nodes.list(&of).await.expect("nodes").items;
    found[0].metadata.name.clone().expect("a name")
}
