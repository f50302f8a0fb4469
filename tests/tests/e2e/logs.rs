//! Logs: levels changed while nodes run, and a write followed through all of them.

use quorate_tests::{Answer, Cluster, Node, Setup, eventually};
use reqwest::Method;
use serde_json::{Value, json};

const FOLLOW: &str = "info,quorate::write=debug";

async fn filter(node: &Node, filter: &str, token: Option<&str>) -> Answer {
    let request = node.request(Method::PUT, "/v1/log").json(&json!({ "filter": filter }));
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    Answer::of(request).await
}

/// The lines of a node's log about writes: their message and their fields.
fn lines(node: &Node) -> Vec<Value> {
    let log = node.log();
    let parsed = log.lines().map(|l| serde_json::from_str::<Value>(l).unwrap_or_else(|e| panic!("{e}: {l}")));
    parsed.filter(|l| l["target"] == "quorate::write").map(|mut l| l["fields"].take()).collect()
}

#[tokio::test]
async fn an_id_leads_from_the_client_through_the_leader_and_every_copy() {
    let setup = Setup::new(3, 2).flag("--log-format", "json").flag("--admin-token", "secret");
    let cluster: Cluster = setup.start().await;
    cluster.all_ready().await;
    let follower = cluster.follower().await;
    follower.put("/v1/kv/before", "x").await.expect(200);
    assert!(cluster.nodes.iter().all(|n| lines(n).is_empty()), "writes leave lines that nobody asked for");

    assert_eq!(filter(follower, FOLLOW, None).await.status, 401);
    assert_eq!(filter(follower, "quorate=loud", Some("secret")).await.code(), "bad_request");
    for node in &cluster.nodes {
        filter(node, FOLLOW, Some("secret")).await.expect(200);
        assert_eq!(node.get("/v1/log").await.json()["filter"], FOLLOW);
    }
    let put = follower.request(Method::PUT, "/v1/kv/k").header("x-request-id", "order-17").body("v");
    let answer = Answer::of(put).await.expect(200);
    assert_eq!(answer.header("x-request-id"), "order-17");
    let revision: u64 = answer.header("x-quorate-revision").parse().expect("a revision");

    let answered = eventually("the request is in the log of the node that took it", || async {
        let found = lines(follower).into_iter().find(|l| l["request"] == "order-17");
        found.ok_or_else(|| format!("{:?}", lines(follower)))
    })
    .await;
    assert_eq!((&answered["message"], &answered["route"]), (&json!("answered"), &json!("v1_put")), "{answered}");
    assert_eq!(answered["revision"], revision.to_string());
    for node in &cluster.nodes {
        eventually(&format!("{} tells of revision {revision}", node.name), || async {
            let lines = lines(node);
            let number = |l: &Value, name: &str| l[name].as_u64().unwrap_or(0);
            let appended = lines
                .iter()
                .any(|l| l["message"] == "appended" && (number(l, "first")..=number(l, "last")).contains(&revision));
            let passed = |stage: &str| lines.iter().any(|l| l["message"] == stage && number(l, "upto") >= revision);
            let all = appended && ["synced", "committed", "applied"].iter().all(|s| passed(s));
            if all { Ok(()) } else { Err(format!("{lines:?}")) }
        })
        .await;
    }

    // And silent again; a request without an id gets none.
    for node in &cluster.nodes {
        filter(node, "info", Some("secret")).await.expect(200);
    }
    let before: usize = cluster.nodes.iter().map(|n| lines(n).len()).sum();
    let answer = follower.put("/v1/kv/after", "x").await.expect(200);
    assert_eq!(answer.header("x-request-id"), "");
    cluster.converged().await;
    assert_eq!(cluster.nodes.iter().map(|n| lines(n).len()).sum::<usize>(), before);
}
