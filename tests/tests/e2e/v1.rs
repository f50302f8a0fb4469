//! `/v1/kv`, from any node.

use quorate_tests::{Answer, Cluster, Node, Setup, eventually};
use reqwest::Method;
use serde_json::json;

async fn with(node: &Node, method: Method, path: &str, header: (&str, &str), body: &'static str) -> Answer {
    Answer::of(node.request(method, path).header(header.0, header.1).body(body)).await
}

#[tokio::test]
async fn a_value_is_written_read_and_deleted_through_any_node() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    for (n, node) in cluster.nodes.iter().enumerate() {
        let other = &cluster.nodes[(n + 1) % 3];
        let path = format!("/v1/kv/key-{n}");
        let put = node.put(&path, "value").await.expect(200);
        let revision = put.json()["revision"].as_u64().expect("a revision");
        assert_eq!(put.header("etag"), format!("\"{revision}\""));
        assert_eq!(put.header("x-quorate-revision"), revision.to_string());
        assert_eq!(put.header("x-quorate-node"), node.name);
        assert!(put.json()["copies"].as_u64() >= Some(2));
        // Linearizable: at once, on any node.
        let get = other.get(&path).await.expect(200);
        assert_eq!((get.text().as_str(), get.header("etag")), ("value", put.header("etag")));
        let head = Answer::of(other.request(Method::HEAD, &path)).await.expect(200);
        assert_eq!(
            (head.bytes.len(), head.header("etag"), head.header("content-length")),
            (0, put.header("etag"), "5")
        );
        let unchanged = with(other, Method::GET, &path, ("if-none-match", put.header("etag")), "").await;
        assert_eq!((unchanged.status, unchanged.bytes.len()), (304, 0));
        let deleted = other.delete(&path).await.expect(200);
        assert_eq!(deleted.json()["deleted"], true);
        let gone = node.get(&path).await.expect(404);
        assert_eq!(gone.code(), "key_not_found");
        assert_eq!(node.delete(&path).await.expect(200).json()["deleted"], false);
    }
}

#[tokio::test]
async fn conditions_decide_between_writers() {
    let cluster = Cluster::start(3, 2).await;
    let node = cluster.follower().await;
    let created = with(node, Method::PUT, "/v1/kv/k", ("if-none-match", "*"), "1").await.expect(200);
    let etag = created.header("etag").to_owned();
    let second = with(node, Method::PUT, "/v1/kv/k", ("if-none-match", "*"), "2").await;
    assert_eq!(
        (second.status, second.code().as_str(), second.header("etag")),
        (412, "precondition_failed", etag.as_str())
    );
    let changed = with(node, Method::PUT, "/v1/kv/k", ("if-match", &etag), "3").await.expect(200);
    assert_eq!(changed.json()["version"], 2);
    let late = with(node, Method::DELETE, "/v1/kv/k", ("if-match", &etag), "").await;
    assert_eq!(late.status, 412);
    with(node, Method::DELETE, "/v1/kv/k", ("if-match", changed.header("etag")), "").await.expect(200);
    let absent = with(node, Method::PUT, "/v1/kv/k", ("if-match", &etag), "4").await;
    assert_eq!(absent.status, 412, "{}", absent.text());
    // A delete ends the count.
    assert_eq!(node.put("/v1/kv/k", "5").await.expect(200).json()["version"], 1);
    // Of many who want to create one key, one does.
    let tries: Vec<_> = (0..20)
        .map(|n| {
            let request = cluster.nodes[n % 3].request(Method::PUT, "/v1/kv/race").header("if-none-match", "*");
            tokio::spawn(Answer::of(request.body(n.to_string())))
        })
        .collect();
    let mut won = Vec::new();
    for (n, one) in tries.into_iter().enumerate() {
        match one.await.expect("an answer").status {
            200 => won.push(n),
            412 => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(won.len(), 1, "{won:?}");
    assert_eq!(node.get("/v1/kv/race").await.text(), won[0].to_string());
}

#[tokio::test]
async fn a_request_may_raise_the_write_quorum_and_never_lower_it() {
    let mut cluster = Setup::new(3, 2).flag("--request-timeout", "1s").start().await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    let raised = cluster.nodes[leader].put("/v1/kv/k?w=3", "v").await.expect(200);
    assert_eq!(raised.json()["copies"], 3);
    for w in ["1", "4", "0"] {
        let refused = cluster.nodes[leader].put(&format!("/v1/kv/k?w={w}"), "v").await.expect(400);
        assert_eq!(refused.code(), "write_quorum_invalid");
    }
    cluster.nodes[(leader + 1) % 3].kill();
    eventually("the third copy is out of reach", || async {
        let refused = cluster.nodes[leader].put("/v1/kv/k?w=3", "w").await;
        if refused.code() == "no_quorum" { Ok(()) } else { Err(format!("{} {}", refused.status, refused.text())) }
    })
    .await;
    cluster.nodes[leader].put("/v1/kv/k", "two copies").await.expect(200);
}

#[tokio::test]
async fn forwarding_and_freshness_are_the_clients_choice() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    for (method, path) in [(Method::PUT, "/v1/kv/k?forward=false"), (Method::GET, "/v1/kv/k?forward=false")] {
        let away = Answer::of(follower.request(method, path)).await.expect(421);
        assert_eq!((away.code().as_str(), &away.json()["error"]["leader"]), ("not_leader", &json!(leader.url)));
    }
    leader.put("/v1/kv/k?forward=false", "v").await.expect(200);
    for n in 0..20 {
        let revision = leader.put("/v1/kv/own", n.to_string()).await.expect(200).json()["revision"].clone();
        let path = format!("/v1/kv/own?consistency=local&min_revision={revision}");
        assert_eq!(follower.get(&path).await.expect(200).text(), n.to_string(), "a client reads its own writes");
    }
    assert_eq!(follower.get("/v1/kv/own?consistency=vague").await.expect(400).code(), "bad_request");
}

#[tokio::test]
async fn listings_come_in_order_in_pages_and_whole() {
    let cluster = Setup::new(3, 2).flag("--page-keys", "7").start().await;
    let node = cluster.follower().await;
    for n in 0..20 {
        node.put(&format!("/v1/kv/item-{n:02}"), n.to_string()).await.expect(200);
    }
    node.put("/v1/kv/other", "x").await.expect(200);
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = node.get(&format!("/v1/kv?prefix=item-&after={after}&limit=100")).await.expect(200);
        let page: quorate_api::Page = serde_json::from_slice(&page.bytes).expect("a page");
        assert!(page.items.len() <= 7, "no page is longer than its limit");
        seen.extend(page.items.iter().map(|i| i.key.clone()));
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(seen, (0..20).map(|n| format!("item-{n:02}")).collect::<Vec<_>>());
    let whole = with(node, Method::GET, "/v1/kv", ("accept", "application/x-ndjson"), "").await.expect(200);
    assert_eq!(whole.text().lines().count(), 21);
    assert!(whole.header("x-quorate-revision").parse::<u64>().is_ok());
}

#[tokio::test]
async fn what_is_planned_says_so() {
    let cluster = Cluster::start(1, 1).await;
    let node = &cluster.nodes[0];
    for path in ["/v1/watch", "/v1/openapi.json", "/v1/snapshot"] {
        assert_eq!(node.get(path).await.expect(501).code(), "not_implemented", "{path}");
    }
    assert_eq!(node.post("/v1/txn", &json!({})).await.expect(501).code(), "not_implemented");
    assert_eq!(node.put("/v1/kv/k?ttl=30s", "v").await.expect(501).code(), "not_implemented");
}
