//! Faults drawn by chance, one after the other, under load.

use quorate_tests::arena::{Fault, amount};
use quorate_tests::load::Load;
use quorate_tests::{Arena, Setup};

/// Acknowledged writes between two faults: the cluster must have come back each time.
const BETWEEN: u64 = 30;

async fn torment(name: &'static str, setup: Setup, faults: &[Fault], rounds: usize) {
    let mut arena = Arena::start(name, setup).await;
    let (clients, load) = (arena.clients(), Load::start(&arena.cluster, 3));
    for _ in 0..rounds {
        load.more(BETWEEN).await;
        arena.suffer_one_of(faults).await;
    }
    arena.judge(clients, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_pauses_and_restarts_lose_nothing() {
    let setup = Setup::new(3, 2);
    torment("kills_pauses_and_restarts_lose_nothing", setup, &Fault::PROCESSES, amount(8, 200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_and_bad_links_lose_nothing() {
    torment("partitions_and_bad_links_lose_nothing", Setup::new(3, 2), &Fault::NETWORK, amount(10, 300)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disks_lose_nothing() {
    torment("slow_disks_lose_nothing", Setup::new(3, 2), &Fault::DISKS, amount(4, 100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_turn_loses_nothing_when_two_of_five_copies_acknowledge() {
    let name = "everything_in_turn_loses_nothing_when_two_of_five_copies_acknowledge";
    torment(name, Setup::new(5, 2), &everything(), amount(8, 200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_turn_loses_nothing_when_all_copies_acknowledge() {
    let name = "everything_in_turn_loses_nothing_when_all_copies_acknowledge";
    torment(name, Setup::new(3, 3).flag("--request-timeout", "1s"), &everything(), amount(6, 200)).await;
}

fn everything() -> Vec<Fault> {
    [Fault::PROCESSES.as_slice(), &Fault::NETWORK, &Fault::DISKS].concat()
}
