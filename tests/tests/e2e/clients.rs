//! Redis clients that applications use, unchanged: each brought from its own registry, once (`tests/clients/run`).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use quorate_tests::process::run;
use quorate_tests::{Cluster, Setup};

const TOKEN: &str = "secret";

/// Long enough for the first download, and for building a program and the libraries under it.
const LIMIT: Duration = Duration::from_secs(600);

async fn works_on_leader_and_follower(client: &str) {
    let cluster: Cluster = Setup::new(3, 2).flag("--admin-token", TOKEN).start().await;
    cluster.all_ready().await;
    for node in [cluster.leader().await, cluster.follower().await] {
        let (host, port) = node.tcp.rsplit_once(':').expect("host and port");
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/run"));
        command.args([client, host, port, TOKEN, &node.name]);
        let (code, out, err) = run(command, LIMIT).await;
        assert_eq!((code, out.trim()), (0, "ok"), "{client} on {}: {err}", node.name);
    }
    cluster.converged().await;
}

#[tokio::test]
async fn redis_py_works_unchanged() {
    works_on_leader_and_follower("redis-py").await;
}

#[tokio::test]
async fn go_redis_works_unchanged() {
    works_on_leader_and_follower("go-redis").await;
}

#[tokio::test]
async fn ioredis_works_unchanged() {
    works_on_leader_and_follower("ioredis").await;
}
