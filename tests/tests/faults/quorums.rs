//! The table of what survives how many failures, tried out: writes, takeover and reads with d nodes down.

use std::time::Duration;

use quorate_tests::{Answer, Arena, Setup, eventually};
use reqwest::Method;

/// Long enough for what can be elected to have been: several of the longest timeouts.
const NOBODY: Duration = Duration::from_secs(3);

/// E and C as the design derives them, told independently of the product.
fn elects_and_commits(n: usize, w: usize) -> (usize, usize) {
    let elects = (n - w + 1).max(n / 2 + 1);
    (elects, n - elects + 1)
}

async fn writes(arena: &Arena, n: usize) -> bool {
    let answer = Answer::of(arena.cluster.nodes[n].request(Method::PUT, "/v1/kv/k").body("v")).await;
    assert!(matches!(answer.status, 200 | 503 | 504), "{} {}", answer.status, answer.text());
    answer.status == 200
}

async fn reads(arena: &Arena, n: usize) -> bool {
    let answer = arena.cluster.nodes[n].get("/v1/kv/k").await;
    assert!(matches!(answer.status, 200 | 503 | 504), "{} {}", answer.status, answer.text());
    answer.status == 200
}

/// Waits until the node does or does not: after a failure either takes a moment to show.
async fn settles(what: &str, wanted: bool, mut look: impl AsyncFnMut() -> bool) {
    eventually(&format!("{what}: {wanted}"), async || {
        if look().await == wanted { Ok(()) } else { Err("the contrary".to_owned()) }
    })
    .await;
}

async fn the_row(name: &'static str, n: usize, w: usize) {
    let (elects, commits) = elects_and_commits(n, w);
    let mut arena = Arena::start(name, Setup::new(n, w).flag("--request-timeout", "1s")).await;
    settles("writes are open", true, async || writes(&arena, arena.cluster.leader_number().await).await).await;
    for down in 1..n {
        with_followers_down(&mut arena, down, down <= n - w, down <= n - commits).await;
    }
    for down in 1..=(n - elects + 1) {
        with_the_leader_down(&mut arena, down, down <= n - elects, down <= n - w).await;
    }
    arena.calm().await;
    settles("writes go on", true, async || writes(&arena, arena.cluster.leader_number().await).await).await;
    arena.cluster.converged().await;
}

/// The leader stays, followers go.
async fn with_followers_down(arena: &mut Arena, down: usize, writable: bool, readable: bool) {
    arena.calm().await;
    let (nodes, leader) = (arena.cluster.nodes.len(), arena.cluster.leader_number().await);
    arena.note(format_args!("{down} followers down: writes {writable}, reads {readable}"));
    for n in 1..=down {
        arena.cluster.nodes[(leader + n) % nodes].kill();
    }
    settles("reads go on", readable, async || reads(arena, leader).await).await;
    settles("writes go on", writable, async || writes(arena, leader).await).await;
    settles("reads still do after writes were tried", readable, async || reads(arena, leader).await).await;
}

/// The leader goes, and followers with it.
async fn with_the_leader_down(arena: &mut Arena, down: usize, led: bool, writable: bool) {
    arena.calm().await;
    let (nodes, leader) = (arena.cluster.nodes.len(), arena.cluster.leader_number().await);
    arena.note(format_args!("the leader and {} more down: a leader {led}, writes {writable}", down - 1));
    for n in 0..down {
        arena.cluster.nodes[(leader + n) % nodes].kill();
    }
    let left = (leader + down) % nodes;
    if led {
        settles("reads go on after a takeover", true, async || reads(arena, left).await).await;
        settles("writes go on after a takeover", writable, async || writes(arena, left).await).await;
        return;
    }
    // That nobody is elected shows only in time passing.
    tokio::time::sleep(NOBODY).await;
    assert!(!reads(arena, left).await, "nobody may lead with {down} nodes down");
    assert!(!writes(arena, left).await, "nobody may lead with {down} nodes down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_copies_survive_what_the_table_says() {
    the_row("two_of_three_copies_survive_what_the_table_says", 3, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_of_three_copies_survive_what_the_table_says() {
    the_row("three_of_three_copies_survive_what_the_table_says", 3, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_of_five_copies_survive_what_the_table_says() {
    the_row("four_of_five_copies_survive_what_the_table_says", 5, 4).await;
}
