//! Clocks. Covered: monotonic clocks of nodes that have nothing to do with one another, and one that stands elsewhere
//! after each restart, forwards and backwards by days, as after a move to another machine (a time namespace,
//! util-linux's `unshare`). Pauses, which make a clock jump for the process, are in `incidents` and in the nemesis. Not
//! covered: steps of the wall clock, which no decision reads (it is shown by `INFO` and in log lines only), and clocks
//! that run too fast or too slow: those are the simulator's.

use quorate_tests::load::Load;
use quorate_tests::{Arena, Setup};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_differ_by_days_and_jump_at_restarts_lose_nothing() {
    let name = "clocks_that_differ_by_days_and_jump_at_restarts_lose_nothing";
    let probe = std::process::Command::new("unshare").args(["-rT", "--monotonic=1000", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("SKIPPED: {name}: time namespaces cannot be made here");
        return;
    }
    let mut arena = Arena::start(name, Setup::new(3, 2).flag("--lease-reads", "true")).await;
    let (clients, load) = (arena.clients(), Load::start(&arena.cluster, 3));
    for offsets in [[1_000_000, 0, 5_000], [0, 2_000_000, 10], [3_000, 10, 4_000_000]] {
        load.more(50).await;
        for (n, offset) in offsets.into_iter().enumerate() {
            arena.note(format_args!("node{} restarts {offset} s ahead", n + 1));
            let node = &mut arena.cluster.nodes[n];
            node.kill();
            node.wrapper = ["unshare", "-rT"].into_iter().map(str::to_owned).collect();
            node.wrapper.push(format!("--monotonic={offset}"));
            node.start();
            arena.cluster.all_ready().await;
        }
    }
    arena.judge(clients, load).await;
}
