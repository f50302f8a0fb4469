//! What happened to others, tried here: each test is named after what must not happen and after whom it happened to.
//!
//! More of them stand where their fault is at home: slow disks, failed syncs and early acknowledgements in `disks`.
//! What needs a power cut is the simulator's; what an operator on Kubernetes decides is not part of these tests.

use std::time::Duration;

use quorate_tests::load::Load;
use quorate_tests::{Answer, Arena, Setup, damage, eventually};
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Long enough for what must not happen to have happened: several of the longest election timeouts.
const LONG: Duration = Duration::from_secs(3);

/// Reads that wait for a leader that stands still.
const READS: usize = 32;

async fn members(arena: &Arena, n: usize) -> Vec<String> {
    let status = arena.cluster.nodes[n].try_status().await.expect("a status");
    status.members.into_iter().map(|m| m.name).collect()
}

async fn no_leader_for_long(arena: &Arena, among: &[usize]) {
    let until = std::time::Instant::now() + LONG;
    while std::time::Instant::now() < until {
        for n in among {
            if let Ok(status) = arena.cluster.nodes[*n].try_status().await {
                assert_ne!(status.node.role, "leader", "{} leads without what was acknowledged", status.node.name);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_for_a_missing_copy_and_w_stays_unlike_semi_sync_in_mysql_and_auto_sync_in_tikv() {
    let name = "writes_wait_for_a_missing_copy_and_w_stays_unlike_semi_sync_in_mysql_and_auto_sync_in_tikv";
    let mut arena = Arena::start(name, Setup::new(3, 3).flag("--request-timeout", "1s")).await;
    let leader = arena.cluster.leader_number().await;
    let missing = (leader + 1) % 3;
    arena.note("one copy goes missing");
    arena.cluster.nodes[missing].kill();
    let until = std::time::Instant::now() + LONG;
    while std::time::Instant::now() < until {
        let answer = Answer::of(arena.cluster.nodes[leader].request(Method::PUT, "/v1/kv/k").body("v")).await;
        assert!(matches!(answer.status, 503 | 504), "two copies are not three: {}", answer.text());
        assert_eq!(arena.cluster.nodes[leader].status().await.config.write_quorum, 3);
    }
    arena.calm().await;
    arena.cluster.write("k", "after").await;
    arena.cluster.converged().await;
}

/// Sends a request and leaves the answer for later. Returns when the system has the bytes: the
/// node itself need not run.
async fn ask_to_read(url: &str) -> TcpStream {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await.expect("a connection, which the system makes");
    let request = format!("GET /v1/kv/k?forward=false HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("room in the socket");
    stream
}

/// A leader is stopped like a process in a debugger, replaced, overtaken by a write, and asked the moment it wakes.
async fn paused_and_replaced(name: &'static str, lease_reads: &str) {
    let mut arena = Arena::start(name, Setup::new(3, 2).flag("--lease-reads", lease_reads)).await;
    for round in 0..quorate_tests::arena::amount(2, 20) {
        arena.calm().await;
        arena.cluster.write("k", &format!("before {round}")).await;
        let old = arena.cluster.leader_number().await;
        arena.note(format_args!("node{} stands still", old + 1));
        arena.cluster.nodes[old].pause();
        eventually("another node takes a write", || async {
            let value = format!("after {round}");
            let request = arena.cluster.nodes[(old + 1) % 3].request(Method::PUT, "/v1/kv/k").body(value);
            match Answer::try_of(request).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.text()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        // Begun after the write was acknowledged, these reads wait in its sockets and are the first thing it sees.
        let mut asked = Vec::new();
        for _ in 0..READS {
            asked.push(ask_to_read(&arena.cluster.nodes[old].url).await);
        }
        arena.cluster.nodes[old].resume();
        for mut stream in asked {
            let mut answer = String::new();
            let read = tokio::time::timeout(LONG * 4, stream.read_to_string(&mut answer)).await;
            let Ok(Ok(_)) = read else { continue };
            let served = answer.starts_with("HTTP/1.1 200");
            assert!(!served || answer.ends_with(&format!("after {round}")), "a stale read: {answer}");
        }
    }
    arena.calm().await;
    arena.cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_paused_and_replaced_serves_no_stale_read_as_etcds_did() {
    paused_and_replaced("a_leader_paused_and_replaced_serves_no_stale_read_as_etcds_did", "false").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_paused_and_replaced_does_not_trust_its_lease_as_etcds_did() {
    paused_and_replaced("a_leader_paused_and_replaced_does_not_trust_its_lease_as_etcds_did", "true").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_damaged_record_in_a_minority_loses_no_committed_entry_as_it_did_in_nats() {
    let name = "one_damaged_record_in_a_minority_loses_no_committed_entry_as_it_did_in_nats";
    let setup = Setup::new(3, 2).peers().expect_error("data is damaged: it is set aside");
    let mut arena = Arena::start(name, setup.expect_error("the data was damaged")).await;
    let (clients, load) = (arena.clients(), Load::start(&arena.cluster, 3));
    load.more(200).await;
    let leader = arena.cluster.leader_number().await;
    let (damaged, behind) = ((leader + 1) % 3, (leader + 2) % 3);
    // The third node misses what the leader and the damaged one have acknowledged.
    arena.note("one follower is cut off, then the other is damaged, then the leader dies");
    arena.links.isolate(behind);
    load.more(200).await;
    arena.cluster.nodes.iter_mut().for_each(|n| n.kill());
    damage::corrupt_middle(&arena.cluster.nodes[damaged].dir);
    arena.links.heal();
    arena.cluster.nodes[damaged].start();
    arena.cluster.nodes[behind].start();
    no_leader_for_long(&arena, &[damaged, behind]).await;
    arena.judge(clients, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_does_not_vote_under_its_old_name_as_in_etcd_and_zookeeper() {
    let name = "a_wiped_member_does_not_vote_under_its_old_name_as_in_etcd_and_zookeeper";
    let mut arena = Arena::start(name, Setup::new(3, 2).peers()).await;
    let leader = arena.cluster.leader_number().await;
    let (wiped, behind) = ((leader + 1) % 3, (leader + 2) % 3);
    arena.note("one follower misses a write, the other forgets it, the leader is away");
    arena.links.isolate(behind);
    arena.cluster.nodes[leader].put("/v1/kv/k", "acknowledged").await.expect(200);
    arena.cluster.nodes.iter_mut().for_each(|n| n.kill());
    arena.cluster.nodes[wiped].wipe();
    arena.links.heal();
    arena.cluster.nodes[wiped].start();
    arena.cluster.nodes[behind].start();
    no_leader_for_long(&arena, &[wiped, behind]).await;
    arena.calm().await;
    let read = arena.cluster.nodes[wiped].get("/v1/kv/k").await.expect(200);
    assert_eq!(read.text(), "acknowledged");
    arena.cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_stopped_before_their_removal_was_committed_do_not_leave_a_cluster_stuck_for_ever() {
    let name = "nodes_stopped_before_their_removal_was_committed_do_not_leave_a_cluster_stuck_for_ever";
    let mut arena = Arena::start(name, Setup::new(5, 3)).await;
    let leader = arena.cluster.leader_number().await;
    let leaving = [(leader + 1) % 5, (leader + 2) % 5];
    let stay: Vec<usize> = (0..5).filter(|n| !leaving.contains(n)).collect();
    let voters: Vec<&str> = stay.iter().map(|n| arena.cluster.nodes[*n].name.as_str()).collect();
    let body = serde_json::json!({ "voters": voters, "write_quorum": 2 });
    let status = arena.cluster.nodes[leader].status().await;
    let request = arena.cluster.nodes[leader].request(Method::PUT, "/v1/cluster/config");
    let request = request.header("if-match", format!("\"{}\"", status.config.version)).json(&body);
    arena.note("two of five are to leave, and are stopped at the same moment");
    let change = tokio::spawn(Answer::try_of(request));
    leaving.iter().for_each(|n| arena.cluster.nodes[*n].kill());
    let _ = change.await;
    eventually("the change is done or was refused, and writes go on", || async {
        let now = arena.cluster.leader_number().await;
        let config = arena.cluster.nodes[now].try_status().await?.config;
        if config.changing {
            return Err(format!("still changing: {config:?}"));
        }
        let answer = arena.cluster.nodes[now].put("/v1/kv/k", "v").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    let now = arena.cluster.leader_number().await;
    println!("{name}: members {:?}", members(&arena, now).await);
    arena.cluster.converged_among(&stay).await;
}
