//! Whole nodes in one process: forming, writing, changing and stopping, as the parts do it together.
#![allow(clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate::handle::{ChangeError, Consistency, Handle, WriteError, WriteOptions};
use quorate::kv::{Command, Condition, Value};
use quorate::node::{Ended, Node};
use quorate::options::{Formation, NodeOptions};
use quorum::Change;

// As the end-to-end tests find theirs. Of a hundred found by binding to 0 and let go until their nodes start, two are
// the same in every third run.
#[allow(unreachable_pub, reason = "elsewhere it is a part of a library")]
#[path = "../../tests/src/ports.rs"]
mod ports;

const PATIENCE: Duration = Duration::from_secs(30);

/// Long enough that a busy machine, on which a sync or a turn on the processor may be half a second late,
/// starts no election of its own.
const ELECTION: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// For tests that must wait out what an election or several would take.
const QUICK_ELECTION: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(600));

/// Settings of `n` nodes, the first of which founds; each knows all of them, itself included, as with
/// `PEERS` in compose.yaml.
fn options(dir: &Path, n: usize, write_quorum: usize) -> Vec<NodeOptions> {
    let peers: Vec<SocketAddr> = (0..n).map(|_| ports::nobody()).collect();
    let one = |(at, peer): (usize, &SocketAddr)| {
        let name = format!("node{}", at + 1);
        let mut options = NodeOptions::new(&name, dir.join(&name), ports::nobody(), ports::nobody(), *peer);
        options.join = peers.iter().map(ToString::to_string).collect();
        options.form = (at == 0).then_some(Formation { replicas: n, write_quorum });
        options.heartbeat = Duration::from_millis(50);
        options.election = ELECTION;
        options.limits.disk_reserve_bytes = 0;
        options
    };
    peers.iter().enumerate().map(one).collect()
}

async fn start(all: &[NodeOptions]) -> Vec<Node> {
    let mut nodes = Vec::new();
    for options in all {
        nodes.push(Node::start(options.clone()).await.expect("started"));
    }
    nodes
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a leader of an open cluster, and which node that is.
async fn leader(nodes: &[Node]) -> usize {
    let leads = |h: &Handle| h.leads() && h.state().ready && h.state().config.as_ref().is_some_and(|c| c.formed);
    until("a leader", || nodes.iter().any(|n| leads(n.handle()))).await;
    nodes.iter().position(|n| leads(n.handle())).expect("a leader")
}

fn put(key: &str, value: &str) -> Command {
    Command::Put { key: key.to_owned().into(), value: Value::text(value), condition: Condition::None }
}

async fn write(handle: &Handle, key: &str, value: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match handle.write(&put(key, value), WriteOptions::default()).await {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn read(handle: &Handle, key: &str) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = handle.barrier(Consistency::Linearizable, true, None).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let item = handle.store().get(key.as_bytes())?;
    Some(String::from_utf8(item.value.data.to_vec()).expect("text"))
}

async fn stop(nodes: Vec<Node>) {
    let stopping: Vec<_> = nodes.into_iter().map(|n| tokio::spawn(n.stop())).collect();
    for node in stopping {
        assert_eq!(node.await.expect("stopped"), Ended::Asked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_forms_answers_on_every_node_and_starts_again_on_other_ports() {
    let dir = tempfile::tempdir().expect("dir");
    let nodes = start(&options(dir.path(), 3, 2)).await;
    let at = leader(&nodes).await;
    assert_eq!(at, 0, "the founder leads");
    for (n, node) in nodes.iter().enumerate() {
        write(node.handle(), &format!("k{n}"), "v").await;
        assert_eq!(read(node.handle(), "k0").await.as_deref(), Some("v"));
    }
    until("everyone is ready", || nodes.iter().all(|n| n.handle().state().ready)).await;
    let began = Instant::now();
    stop(nodes).await;
    assert!(began.elapsed() < PATIENCE, "stopping took {:?}", began.elapsed());

    // At once, and nobody is where the others knew it.
    let moved = options(dir.path(), 3, 2);
    let nodes = start(&moved).await;
    leader(&nodes).await;
    assert_eq!(read(nodes[2].handle(), "k1").await.as_deref(), Some("v"));
    let wanted: BTreeSet<String> = moved.iter().map(|o| o.peer.to_string()).collect();
    until("the new addresses are in the configuration", || {
        let config = nodes[0].handle().state().config.clone().expect("config");
        config.members().map(|m| m.peer.clone()).collect::<BTreeSet<_>>() == wanted
    })
    .await;
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_answers_the_writes_under_way_and_hands_over() {
    let dir = tempfile::tempdir().expect("dir");
    let mut nodes = start(&options(dir.path(), 3, 3)).await;
    let at = leader(&nodes).await;
    let going = nodes.remove(at);
    let handle = going.handle().clone();
    let pending: Vec<_> =
        (0..500).map(|n| handle.submit(&put(&format!("k{n}"), "v"), WriteOptions::default())).collect();
    let stopped = tokio::spawn(going.stop());
    for write in pending {
        let answer = write.await;
        let certain = matches!(answer, Ok(_) | Err(WriteError::NoLeader | WriteError::Stopping));
        assert!(certain, "{answer:?}");
    }
    drop(handle);
    assert_eq!(stopped.await.expect("stopped"), Ended::Asked);
    leader(&nodes).await;
    // W is 3 of 3: nothing can be acknowledged now, and that is told, not waited for.
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_taken_out_says_that_it_is_done_and_sets_its_data_aside() {
    let dir = tempfile::tempdir().expect("dir");
    let all = options(dir.path(), 3, 2);
    let mut nodes = start(&all).await;
    let at = leader(&nodes).await;
    write(nodes[at].handle(), "k", "v").await;
    let config = nodes[at].handle().state().config.clone().expect("config");
    let me = nodes[at].handle().id();
    let voters: Vec<_> = config.voters.iter().filter(|v| v.id != me).cloned().collect();
    let change = Change {
        base_version: config.version,
        preferred: Some(voters[0].id),
        voters,
        learners: Vec::new(),
        write_quorum: 2,
        failover: config.failover,
    };
    let done = nodes[at].handle().change_config(change).await;
    assert_eq!(done, Ok(config.version + 2));
    let mut gone = nodes.remove(at);
    assert!(matches!(gone.ended().await, Ended::Removed { .. }));
    gone.stop().await;
    assert!(all[at].data_dir.join("removed-1").is_dir());
    let at = leader(&nodes).await;
    assert_eq!(read(nodes[at].handle(), "k").await.as_deref(), Some("v"));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_takes_the_place_of_its_old_self_and_its_data_comes_back() {
    let dir = tempfile::tempdir().expect("dir");
    let all = options(dir.path(), 3, 2);
    let mut nodes = start(&all).await;
    leader(&nodes).await;
    write(nodes[0].handle(), "k", "v").await;
    let old = nodes[2].handle().id();
    assert_eq!(nodes.remove(2).stop().await, Ended::Asked);
    std::fs::remove_dir_all(&all[2].data_dir).expect("wiped");
    nodes.push(Node::start(all[2].clone()).await.expect("started"));
    let new = nodes[2].handle().id();
    assert_ne!(old, new);
    until("it is a voter in the place of the old one", || {
        let state = nodes[0].handle().state();
        let config = state.config.as_ref().expect("config");
        !config.is_joint() && config.is_voter(new) && !config.is_voter(old) && config.learners.is_empty()
    })
    .await;
    assert_eq!(read(nodes[2].handle(), "k").await.as_deref(), Some("v"));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_restarts_at_once_and_never_passes_an_empty_cluster_for_a_damaged_one() {
    let dir = tempfile::tempdir().expect("dir");
    let mut all = options(dir.path(), 1, 1);
    all[0].election = QUICK_ELECTION;
    let mut quickest = PATIENCE;
    for round in 0..3 {
        let nodes = start(&all).await;
        leader(&nodes).await;
        write(nodes[0].handle(), &format!("k{round}"), "v").await;
        assert_eq!(read(nodes[0].handle(), "k0").await.as_deref(), Some("v"));
        let began = Instant::now();
        stop(nodes).await;
        quickest = quickest.min(began.elapsed());
    }
    // Handing leadership over would take it 1.5 s each time; a busy disk holds it up now and then.
    assert!(quickest < Duration::from_millis(1_500), "there is nobody to wait for: {quickest:?}");
    let vote = all[0].data_dir.join("vote");
    let len = std::fs::metadata(&vote).expect("vote").len() as usize;
    std::fs::write(&vote, vec![0xa5; len]).expect("damaged");
    for _ in 0..2 {
        let nodes = start(&all).await;
        // Longer than any election timeout.
        tokio::time::sleep(QUICK_ELECTION.1 + Duration::from_millis(200)).await;
        let state = nodes[0].handle().state();
        assert!(state.config.is_none() && !state.ready, "it founded another cluster");
        stop(nodes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_leader_knows_is_measured_while_it_leads_and_gone_afterwards() {
    let dir = tempfile::tempdir().expect("dir");
    let nodes = start(&options(dir.path(), 3, 2)).await;
    let at = leader(&nodes).await;
    let has = |n: usize, name: &str| {
        let families = nodes[n].handle().metrics().registry.gather();
        families.iter().any(|f| f.name() == name && !f.get_metric().is_empty())
    };
    for name in ["quorate_write_margin", "quorate_follower_lag_entries", "quorate_peer_round_trip_seconds"] {
        until(name, || has(at, name)).await;
    }
    if cfg!(target_os = "linux") {
        assert!(has(at, "process_resident_memory_bytes"));
    }
    // Right after the formation the connections still date from when the followers belonged to no cluster: what they
    // say on them counts. It was dropped once, votes and all, and neither transfer nor failover worked until those
    // connections were made anew.
    let began = Instant::now();
    nodes[at].handle().transfer(None).await.expect("transferred");
    assert!(began.elapsed() < ELECTION.1 * 2, "leadership was not handed over but lost");
    until("the margins are gone", || !has(at, "quorate_write_margin") && !has(at, "quorate_follower_lag_entries"))
        .await;
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_copies_than_w_are_waited_for_where_asked_for() {
    let dir = tempfile::tempdir().expect("dir");
    let nodes = start(&options(dir.path(), 3, 2)).await;
    let at = leader(&nodes).await;
    let copies = |copies| WriteOptions { copies: Some(copies), ..WriteOptions::default() };
    for node in &nodes {
        let mut written = node.handle().write(&put("k", "v"), copies(3)).await;
        // Right after the formation a follower may not have been heard from.
        if matches!(written, Err(WriteError::NoQuorum { .. } | WriteError::NoLeader)) {
            leader(&nodes).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            written = node.handle().write(&put("k", "v"), copies(3)).await;
        }
        assert_eq!(written.expect("written").copies, 3);
    }
    let asked = nodes[at].handle().write(&put("k", "v"), copies(4)).await;
    assert_eq!(asked, Err(WriteError::TooManyCopies { wanted: 4, voters: 3 }));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_while_the_leader_lives_is_refused_at_once_and_names_it() {
    let dir = tempfile::tempdir().expect("dir");
    let nodes = start(&options(dir.path(), 3, 2)).await;
    let at = leader(&nodes).await;
    let other = &nodes[(at + 1) % 3];
    until("the leader is known", || other.handle().state().leader.is_some()).await;
    let refused = other.handle().campaign().await.expect_err("the leader lives");
    assert!(matches!(&refused, ChangeError::Refused(why) if why.contains("node1 leads")), "{refused:?}");
    let refused = nodes[at].handle().campaign().await.expect_err("it leads");
    assert!(matches!(&refused, ChangeError::Refused(why) if why.contains("node1 leads already")), "{refused:?}");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_expects_no_heir_hands_leadership_to_nobody() {
    let dir = tempfile::tempdir().expect("dir");
    let mut all = options(dir.path(), 3, 2);
    for options in &mut all {
        // So that nobody takes over by itself before the test has looked.
        options.election = (Duration::from_secs(10), Duration::from_secs(12));
    }
    let mut nodes = start(&all).await;
    let at = leader(&nodes).await;
    until("everyone is ready", || nodes.iter().all(|n| n.handle().state().ready)).await;
    let going = nodes.remove(at);
    let term = going.handle().state().term;
    going.handle().expect_no_heir();
    assert_eq!(going.stop().await, Ended::Asked);
    assert!(nodes.iter().all(|n| n.handle().state().term == term), "somebody campaigned");
    nodes.iter().for_each(|n| n.handle().expect_no_heir());
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_removed_while_it_was_away_sets_its_data_aside_when_it_is_back() {
    let dir = tempfile::tempdir().expect("dir");
    let mut all = options(dir.path(), 4, 2);
    all.iter_mut().for_each(|options| options.election = QUICK_ELECTION);
    let mut nodes = start(&all).await;
    until("everyone is ready", || nodes.iter().all(|n| n.handle().state().ready)).await;
    assert_eq!(nodes.remove(3).stop().await, Ended::Asked);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leader = nodes[leader(&nodes).await].handle();
        let mut change = leader.state().config.clone().expect("a configuration").unchanged();
        change.voters.retain(|v| v.name != "node4");
        match leader.change_config(change).await {
            Ok(_) => break,
            // With timeouts so short another node may lead by now.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
    // Longer than the leader tells a node that left.
    tokio::time::sleep(QUICK_ELECTION.1 * 6).await;
    let mut back = Node::start(all[3].clone()).await.expect("started");
    let ended = tokio::time::timeout(PATIENCE, back.ended()).await.expect("it is told");
    assert!(matches!(ended, Ended::Removed { .. }), "{ended:?}");
    back.stop().await;
    assert!(all[3].data_dir.join("removed-1").exists());
    stop(nodes).await;
}
