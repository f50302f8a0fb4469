//! The time without service when a leader dies, as a distribution.

use std::time::{Duration, Instant};

use quorate_tests::arena::amount;
use quorate_tests::{Answer, Arena, Setup};
use reqwest::Method;

/// How long a write may take before the next node is asked: several times what it takes when there is a leader.
const ASK: Duration = Duration::from_millis(250);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// A cluster without a leader after so long has none for good.
const GIVE_UP: Duration = Duration::from_secs(60);

/// A failover slower than this is printed with what the nodes logged meanwhile: no patience is longer, and what follows it takes tens of milliseconds.
const SLOW: Duration = Duration::from_millis(1_200);

/// What dominates is the patience of the followers: the shorter of two draws from 500 to 1,000 ms, so 670 ms in the middle, less what has passed
/// of it since the last heartbeat. Votes, their syncs and the first entry take tens of milliseconds.
///
/// So at night, when an optimized build is alone on its machine. Otherwise other clusters run beside this one, and the machine may be any: then only what is
/// out of all proportion fails.
fn p50_max() -> Duration {
    Duration::from_millis(amount(3_000, 1_100) as u64)
}

/// Simulated machines on which every process waits for its turn (`quorum/tests/failover.rs`) take 1.8 s at most; an attempt to write that came too
/// early, and the process that asks, wait for theirs, too.
fn longest_max() -> Duration {
    Duration::from_secs(amount(15, 3) as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_within_about_a_second() {
    let mut arena = Arena::start("a_killed_leader_is_replaced_within_about_a_second", Setup::new(3, 2)).await;
    let kills = amount(6, 60);
    let mut times = Vec::new();
    for kill in 0..kills {
        arena.calm().await;
        let leader = arena.cluster.leader_number().await;
        arena.note(format_args!("kill {kill}: node{}", leader + 1));
        arena.cluster.nodes[leader].kill();
        let killed = Instant::now();
        let mut asked = leader;
        loop {
            asked = (asked + 1) % 3;
            if asked == leader {
                continue;
            }
            let request = arena.cluster.nodes[asked].request(Method::PUT, "/v1/kv/probe").body(kill.to_string());
            if Answer::try_of(request.timeout(ASK)).await.is_ok_and(|answer| answer.status == 200) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            assert!(killed.elapsed() < GIVE_UP, "nobody took over");
        }
        let took = killed.elapsed();
        times.push(took);
        arena.note(format_args!("served again after {} ms", took.as_millis()));
        if took > SLOW {
            println!("{}", arena.logged_since(&format!("kill {kill}: ")));
        }
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    let (p50, p99, max) = (at(50), at(99), at(100));
    println!(
        "time without service over {kills} kills of the leader: p50 {} ms, p99 {} ms, max {} ms",
        p50.as_millis(),
        p99.as_millis(),
        max.as_millis()
    );
    assert!(p50 <= p50_max() && max <= longest_max(), "{times:?}");
}
