//! Who goes on, who stops, and who is not disturbed when links fail one way or both.

use std::time::{Duration, Instant};

use quorate_tests::links::Rule;
use quorate_tests::load::Load;
use quorate_tests::{Answer, Arena, Setup, eventually};
use reqwest::Method;

/// Longer than any follower waits before it stands for election.
const LONG: Duration = Duration::from_secs(3);

/// Asks a node itself, nobody else: the answer of one that thinks it leads.
async fn own_read(arena: &Arena, n: usize, key: &str) -> Answer {
    Answer::of(arena.cluster.nodes[n].request(Method::GET, &format!("/v1/kv/{key}?forward=false"))).await
}

async fn write_through(arena: &Arena, n: usize, key: &str, value: &str) {
    eventually(&format!("node{} takes a write", n + 1), || async {
        let request = arena.cluster.nodes[n].request(Method::PUT, &format!("/v1/kv/{key}")).body(value.to_owned());
        match Answer::try_of(request.timeout(Duration::from_secs(2))).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.text()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

/// Hurts the leader's links: the others must go on without it, and it must notice.
async fn the_leader_is_replaced(name: &'static str, hurt: impl FnOnce(&Arena, usize)) {
    let mut arena = Arena::start(name, Setup::new(3, 2).flag("--request-timeout", "1s")).await;
    let old = arena.cluster.leader_number().await;
    arena.cluster.nodes[old].put("/v1/kv/k", "before").await.expect(200);
    let term = arena.cluster.nodes[old].status().await.term;
    arena.note(format_args!("hurt node{}, which leads", old + 1));
    hurt(&arena, old);
    let hurt_at = Instant::now();
    write_through(&arena, (old + 1) % 3, "k", "after").await;
    println!("{name}: the others took a write after {} ms", hurt_at.elapsed().as_millis());
    let read = own_read(&arena, old, "k").await;
    assert_ne!((read.status, read.text().as_str()), (200, "before"), "a stale read of the one that led");
    eventually("it does not think that it leads any more", || async {
        let role = arena.cluster.nodes[old].try_status().await?.node.role;
        if role == "leader" { Err(role) } else { Ok(()) }
    })
    .await;
    assert!(hurt_at.elapsed() < LONG * 5, "everybody knows after {:?}", hurt_at.elapsed());
    arena.calm().await;
    assert!(arena.cluster.leader().await.status().await.term > term);
    assert_eq!(own_read(&arena, arena.cluster.leader_number().await, "k").await.expect(200).text(), "after");
    arena.cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_leader_is_replaced_and_steps_down() {
    the_leader_is_replaced("an_isolated_leader_is_replaced_and_steps_down", |a, n| a.links.isolate(n)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_nobody_hears_is_replaced() {
    the_leader_is_replaced("a_leader_that_nobody_hears_is_replaced", |a, n| a.links.mute(n)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nobody_steps_down_though_its_heartbeats_arrive() {
    let name = "a_leader_that_hears_nobody_steps_down_though_its_heartbeats_arrive";
    the_leader_is_replaced(name, |a, n| a.links.deafen(n)).await;
}

/// Hurts links while the leader is well: nobody may start an election, and writes go on.
async fn nobody_is_disturbed(name: &'static str, hurt: impl FnOnce(&Arena, usize, usize)) {
    let mut arena = Arena::start(name, Setup::new(3, 2).elections_after(1)).await;
    let leader = arena.cluster.leader_number().await;
    let term = arena.cluster.nodes[leader].status().await.term;
    let (clients, load) = (arena.clients(), Load::start(&arena.cluster, 3));
    load.more(50).await;
    arena.note("hurt");
    hurt(&arena, leader, (leader + 1) % 3);
    let until = Instant::now() + LONG;
    while Instant::now() < until {
        load.more(10).await;
    }
    let while_hurt = arena.cluster.nodes[leader].status().await;
    assert_eq!((while_hurt.node.role.as_str(), while_hurt.term), ("leader", term), "nobody stood for election");
    arena.calm().await;
    assert_eq!(arena.cluster.leader().await.status().await.term, term, "nor after the links healed");
    arena.judge(clients, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_hears_nobody_does_not_disturb_the_leader() {
    let name = "a_follower_that_hears_nobody_does_not_disturb_the_leader";
    nobody_is_disturbed(name, |a, _, follower| a.links.deafen(follower)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_nobody_hears_does_not_disturb_the_leader() {
    let name = "a_follower_that_nobody_hears_does_not_disturb_the_leader";
    nobody_is_disturbed(name, |a, _, follower| a.links.mute(follower)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_between_leader_and_one_follower_does_not_set_them_taking_turns() {
    let name = "a_link_cut_between_leader_and_one_follower_does_not_set_them_taking_turns";
    nobody_is_disturbed(name, |a, leader, follower| a.links.set_between(&[leader], &[follower], Rule::SILENT)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_isolated_together_with_its_clients_acknowledges_nothing() {
    let name = "a_leader_isolated_together_with_its_clients_acknowledges_nothing";
    let mut arena = Arena::start(name, Setup::new(5, 3).flag("--request-timeout", "1s")).await;
    let leader = arena.cluster.leader_number().await;
    let minority = [leader, (leader + 1) % 5];
    let majority: Vec<usize> = (0..5).filter(|n| !minority.contains(n)).collect();
    let (clients, load) = (arena.clients(), Load::start(&arena.cluster, 3));
    load.more(50).await;
    arena.note("the leader, one follower and their clients on one side");
    arena.links.set_between(&minority, &majority, Rule::SILENT);
    write_through(&arena, majority[0], "side", "the right one").await;
    for number in 0..5 {
        for n in minority {
            let request = arena.cluster.nodes[n].request(Method::PUT, &format!("/v1/kv/wrong-{number}")).body("v");
            let answer = Answer::of(request).await;
            assert!(matches!(answer.status, 503 | 504), "{} {}", answer.status, answer.text());
            let read = Answer::of(arena.cluster.nodes[n].request(Method::GET, "/v1/kv/side")).await;
            assert!(read.status >= 500, "a linearizable read without a quorum: {} {}", read.status, read.text());
        }
    }
    load.more(50).await;
    arena.judge(clients, load).await;
}
