//! Writes with an idempotency key: who was not told what became of one asks again, and it is done once.

use std::time::Duration;

use quorate_tests::process::{command, run};
use quorate_tests::{Answer, Cluster, Node, Setup, eventually};
use reqwest::Method;
use serde_json::json;

const KEY: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

/// A put that is only right once: the key must not exist.
fn create(node: &Node, value: &'static str) -> reqwest::RequestBuilder {
    let request = node.request(Method::PUT, "/v1/kv/order").header("if-none-match", "*");
    request.header("idempotency-key", KEY).body(value)
}

#[tokio::test]
async fn a_retry_through_any_node_is_answered_with_the_first_outcome() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let first = Answer::of(create(cluster.follower().await, "paid")).await.expect(200);
    assert_eq!(first.header("x-quorate-repeated"), "");
    for node in &cluster.nodes {
        let again = Answer::of(create(node, "paid")).await.expect(200);
        assert_eq!(again.header("x-quorate-repeated"), "true", "{}", node.name);
        assert_eq!((again.header("etag"), &again.json()["version"]), (first.header("etag"), &json!(1)));
        let other = Answer::of(create(node, "another order")).await.expect(422);
        assert_eq!(other.code(), "idempotency_key_reused");
        let plain = Answer::of(node.request(Method::PUT, "/v1/kv/order").header("if-none-match", "*").body("x")).await;
        assert_eq!((plain.status, plain.header("etag")), (412, first.header("etag")));
    }
    assert_eq!(cluster.nodes[0].get("/v1/kv/order").await.expect(200).text(), "paid");
}

#[tokio::test]
async fn a_leader_killed_between_append_and_answer_leaves_a_write_that_the_retry_finds_done() {
    let mut cluster = Setup::new(3, 3).start().await;
    cluster.all_ready().await;
    let old = cluster.leader_number().await;
    let (heir, paused) = ((old + 1) % 3, (old + 2) % 3);
    // W is all three: the write commits on two, is applied and read, and nobody is told.
    cluster.nodes[paused].pause();
    let asked = tokio::spawn({
        let request = create(&cluster.nodes[old], "paid");
        async move { Answer::try_of(request).await }
    });
    eventually("the heir has applied it", || async {
        cluster.local(heir, "order").await.map(|_| ()).ok_or_else(|| "not there".to_owned())
    })
    .await;
    cluster.nodes[old].kill();
    let answer = asked.await.expect("the task");
    assert!(answer.is_err(), "the leader died before it could answer: {answer:?}");
    let revision =
        cluster.nodes[heir].get("/v1/kv/order?consistency=local").await.expect(200).header("etag").to_owned();
    cluster.nodes[paused].resume();
    cluster.nodes[old].start();
    // The very same request, at another node. Without its key it would fail: the order exists.
    eventually("the retry is answered", || async {
        let again = Answer::try_of(create(&cluster.nodes[heir], "paid")).await.map_err(|e| e.to_string())?;
        if again.status != 200 {
            assert!(matches!(again.status, 503 | 504), "{} {}", again.status, again.text());
            return Err(again.text());
        }
        assert_eq!((again.header("etag"), again.header("x-quorate-repeated")), (revision.as_str(), "true"));
        assert_eq!((again.json()["version"].as_u64(), again.json()["copies"].as_u64()), (Some(1), Some(3)));
        Ok(())
    })
    .await;
    cluster.converged().await;
}

#[tokio::test]
async fn a_leader_that_knows_a_write_from_a_snapshot_and_a_restart_alone_answers_its_retry() {
    let setup = Setup::new(3, 2).flag("--value-max", "64KiB").flag("--segment-size", "1MiB").flag("--log-keep", "1MiB");
    let mut cluster = setup.start().await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    let late = (leader + 1) % 3;
    cluster.nodes[late].kill();
    let first = Answer::of(create(&cluster.nodes[leader], "paid")).await.expect(200);
    let segment = quorate_tests::damage::segments(&cluster.nodes[leader].dir).remove(0);
    let value = "x".repeat(60_000);
    let mut written = 0;
    eventually("the log is cut", async || {
        written += 1;
        cluster.nodes[leader].put(&format!("/v1/kv/big-{}", written % 100), value.clone()).await.expect(200);
        if segment.exists() { Err(format!("{written} values of 60 kB later it is not")) } else { Ok(()) }
    })
    .await;
    cluster.nodes[late].start();
    cluster.all_ready().await;
    cluster.converged().await;
    assert!(cluster.nodes[late].log().contains("installed a snapshot"), "{}", cluster.nodes[late].log_tail());
    cluster.nodes[late].kill();
    cluster.nodes[late].start();
    cluster.all_ready().await;
    let name = cluster.nodes[late].name.clone();
    cluster.nodes[leader].post("/v1/cluster/transfer", &json!({ "to": name })).await.expect(200);
    cluster.led_by(late).await;
    let again = Answer::of(create(&cluster.nodes[late], "paid")).await.expect(200);
    assert_eq!((again.header("etag"), again.header("x-quorate-repeated")), (first.header("etag"), "true"));
}

#[tokio::test]
async fn the_command_line_asks_again_by_itself_while_the_outcome_is_unknown() {
    // The leader does not miss the node that stands still before the longest election timeout has passed.
    let setup = Setup::new(3, 3).flag("--request-timeout", "1s").elections_after(20);
    let mut cluster = setup.start().await;
    cluster.all_ready().await;
    let old = cluster.leader_number().await;
    let paused = (old + 2) % 3;
    let put = async |arguments: &[&str]| {
        let mut command = command();
        command.args(["put", "order", "paid", "--if-absent", "--url", &cluster.nodes[old].url]).args(arguments);
        run(command, Duration::from_secs(90)).await
    };
    cluster.nodes[paused].pause();
    let (code, _, err) = put(&["--timeout", "3s", "--idempotency-key", KEY]).await;
    assert!(code == 4 && err.contains("ask again with the same idempotency key"), "{code} {err}");
    // While it is asked, the third node comes back.
    let (asked, ()) = tokio::join!(put(&["--timeout", "40s", "--idempotency-key", KEY]), async {
        cluster.nodes[paused].resume();
    });
    assert_eq!(asked.0, 0, "{asked:?}");
    assert!(asked.1.contains("repeated true"), "{asked:?}");
    let (code, _, err) = put(&[]).await;
    assert!(code == 1 && err.contains("precondition_failed"), "{code} {err}");
    cluster.nodes[old].kill();
}
