//! What many clients saw of a healthy cluster, judged.

use std::path::Path;
use std::time::Duration;

use quorate_history::generate::{Dice, inject_stale_read};
use quorate_history::{History, Kind, Outcome};
use quorate_tests::workload::add_end;
use quorate_tests::{Cluster, Settings, Workload};

/// Leaves a history in the build folder, where the comparison with porcupine finds it.
fn keep(history: &History, name: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("histories");
    std::fs::create_dir_all(&folder).unwrap();
    let file = std::fs::File::create(folder.join(name).with_extension("jsonl")).unwrap();
    history.write_to(std::io::BufWriter::new(file)).unwrap();
}

#[tokio::test]
async fn what_eight_clients_see_through_all_nodes_and_both_protocols_is_linearizable_and_a_stale_read_would_be_found() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let workload = Workload::start(&cluster.targets(), &Settings::default());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut history = workload.stop().await;
    add_end(&mut history, &cluster.converged().await);
    keep(&history, "healthy");
    let count = |wanted: fn(&Outcome) -> bool| history.operations.iter().filter(|o| wanted(&o.outcome)).count();
    let (done, found) = (count(|o| matches!(o, Outcome::Done { .. })), count(|o| matches!(o, Outcome::Found { .. })));
    println!("{} operations: {done} changes, {found} reads", history.operations.len());
    assert!(done > 100 && found > 100, "{done} changes and {found} reads are too few to say anything");
    assert_eq!(count(|o| *o == Outcome::Unknown), 0, "nothing was hurt, so nothing is unknown");
    if let Err(violation) = history.check() {
        panic!("{violation}");
    }
    for seed in 0..20 {
        let mut stale = history.clone();
        assert!(inject_stale_read(&mut stale, &mut Dice::new(seed)));
        let violation = stale.check().expect_err("a stale read");
        assert!(matches!(violation.kind, Kind::Stale | Kind::NotLinearizable), "{violation}");
    }
}
