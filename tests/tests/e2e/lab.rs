//! The simple routes, line by line as interfaces.md promises them, on the leader and on a follower.

use quorate_tests::{Cluster, Node, eventually};
use reqwest::Method;
use serde_json::{Value, json};

/// The keys of a JSON object, in the order in which they were sent.
fn names(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

async fn until_read(node: &Node, path: &str, status: u16) -> quorate_tests::Answer {
    eventually(&format!("{path} is {status} on {}", node.name), || async {
        let answer = node.get(path).await;
        if answer.status == status { Ok(answer) } else { Err(answer.text()) }
    })
    .await
}

#[tokio::test]
async fn the_simple_routes_answer_in_the_shapes_that_existing_clients_expect() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);

    write_and_read(leader, follower).await;
    kinds_of_values(leader, follower).await;
    everything(leader, follower).await;
    about_the_cluster(leader, follower).await;
    nodes_of_simple_systems(leader).await;
    cluster.converged().await;
}

async fn write_and_read(leader: &Node, follower: &Node) {
    let answer = leader.post("/write", &json!({"key":"k","value":"v","extra":1})).await.expect(200);
    let body = answer.json();
    assert_eq!(names(&body), ["success", "message", "quorum_reached", "copies", "revision", "version"]);
    assert_eq!((&body["success"], &body["message"]), (&json!(true), &json!("Write successful")));
    let copies = body["copies"].as_u64().expect("copies");
    assert!((2..=3).contains(&copies), "{body}");
    // The followers that had confirmed: all of the copies, if the leader's own disk was the last.
    let followers = body["quorum_reached"].as_u64().expect("followers");
    assert!((1..=2).contains(&followers) && (followers == copies || followers == copies - 1), "{body}");
    assert_eq!(body["version"], 1);
    let second = leader.post("/write", &json!({"key":"k","value":"v"})).await.expect(200).json();
    assert_eq!(second["version"], 2);
    assert!(second["revision"].as_u64() > body["revision"].as_u64());

    let refused = follower.post("/write", &json!({"key":"k","value":"w"})).await.expect(403);
    assert!(refused.json()["detail"].is_string(), "{}", refused.text());
    assert_eq!(refused.json()["leader"], leader.url.as_str());

    for node in [leader, follower] {
        eventually("both writes are read", || async {
            let answer = node.get("/read/k").await;
            let expected =
                format!(r#"{{"key":"k","value":"v","found":true,"revision":{},"version":2}}"#, second["revision"]);
            if answer.status == 200 && answer.text() == expected { Ok(()) } else { Err(answer.text()) }
        })
        .await;
        assert_eq!(node.get("/read?key=k").await.expect(200).text(), node.get("/read/k").await.text());
        assert_eq!(node.get("/read/none").await.expect(404).text(), r#"{"key":"none","value":null,"found":false}"#);
        assert_eq!(node.get("/read?key=none").await.expect(404).text(), r#"{"key":"none","value":null,"found":false}"#);
    }
}

async fn kinds_of_values(leader: &Node, follower: &Node) {
    let values =
        [json!("30"), json!(30), json!({"name":"Alice","age":30}), json!([1, "a", null]), json!(null), json!(true)];
    for (n, value) in values.iter().enumerate() {
        let path = format!("/kv/kind-{n}");
        // A write to a follower is passed on.
        let put = follower.request(Method::PUT, &path).json(&json!({ "value": value }));
        let answer = quorate_tests::Answer::of(put).await.expect(200).json();
        assert_eq!(names(&answer), ["status", "key", "copies", "revision", "version"]);
        for node in [leader, follower] {
            let read = until_read(node, &path, 200).await;
            assert_eq!(read.text(), json!({ "value": value }).to_string(), "{path} on {}", node.name);
        }
    }
    // Bytes that are no text.
    leader.put("/v1/kv/bytes", vec![0xff, 0]).await.expect(200);
    let read = until_read(follower, "/kv/bytes", 200).await;
    assert_eq!(read.text(), r#"{"value":{"base64":"/wA="}}"#);
    leader.delete("/v1/kv/bytes").await.expect(200);

    let deleted = follower.delete("/kv/kind-0").await.expect(200).json();
    assert_eq!(names(&deleted), ["status", "key", "deleted", "copies", "revision"]);
    assert_eq!(deleted["deleted"], true);
    let missing = until_read(follower, "/kv/kind-0", 404).await;
    assert_eq!(missing.json()["detail"], "Key 'kind-0' not found");
    let again = follower.delete("/kv/kind-0").await.expect(200).json();
    assert_eq!(again["deleted"], false);
}

async fn everything(leader: &Node, follower: &Node) {
    leader.post("/write", &json!({"key":"user:ä/1","value":"x"})).await.expect(200);
    until_read(follower, "/read/user%3A%C3%A4%2F1", 200).await;
    for node in [leader, follower] {
        let data = node.get("/data").await.expect(200);
        let expected = r#"{"k":"v","kind-1":30,"kind-2":{"name":"Alice","age":30},"kind-3":[1,"a",null],"kind-4":null,"kind-5":true,"user:ä/1":"x"}"#;
        assert_eq!(data.text(), expected);
        let keys = node.get("/keys").await.expect(200);
        assert_eq!(keys.text(), r#"{"keys":["k","kind-1","kind-2","kind-3","kind-4","kind-5","user:ä/1"]}"#);
        assert_eq!(node.get("/keys?prefix=kind&limit=2&after=kind-1").await.text(), r#"{"keys":["kind-2","kind-3"]}"#);
    }
}

async fn about_the_cluster(leader: &Node, follower: &Node) {
    for (node, kind) in [(leader, "leader"), (follower, "follower")] {
        let health = node.get("/health").await.expect(200).json();
        assert_eq!(names(&health), ["status", "node_type", "term", "leader", "commit", "lag", "workers_count"]);
        assert_eq!((&health["status"], &health["node_type"]), (&json!("healthy"), &json!(kind)));
        assert_eq!(health["leader"], leader.url.as_str());

        let root = node.get("/").await.expect(200).json();
        assert_eq!(names(&root), ["what", "version", "node", "endpoints"]);
        let page =
            quorate_tests::Answer::of(node.request(Method::GET, "/").header("accept", "text/html")).await.expect(200);
        assert!(page.header("content-type").starts_with("text/html"), "{:?}", page.headers);
        assert!(page.text().contains("/ui/app.js"));

        let map = node.get("/map?key=k").await.expect(200).json();
        assert_eq!(names(&map), ["key", "group", "primary", "replicas"]);
        assert_eq!((&map["key"], &map["group"], &map["primary"]), (&json!("k"), &json!(0), &json!(leader.url)));
        assert_eq!(map["replicas"].as_array().map(Vec::len), Some(2));

        let workers = node.get("/workers").await.expect(200).json();
        let workers = workers["workers"].as_array().expect("workers").clone();
        assert_eq!(workers.len(), 3);
        assert_eq!(names(&workers[0]), ["id", "address", "role", "healthy", "last_heard_ms", "lag"]);
        assert_eq!(workers.iter().filter(|w| w["role"] == "leader").count(), 1);
        if kind == "leader" {
            assert!(workers.iter().all(|w| w["healthy"] == true), "{workers:?}");
        }
    }
}

async fn nodes_of_simple_systems(node: &Node) {
    for path in ["/replicate", "/heartbeat", "/pull", "/replicate/x"] {
        let gone = node.post(path, &json!({"key":"k","value":"v"})).await.expect(410);
        assert!(gone.json()["detail"].as_str().is_some_and(|d| d.contains("peer protocol")), "{}", gone.text());
    }
}
