//! What shows and changes the cluster: status, configuration, transfer, members, the token, metrics and health.

use quorate_tests::{Answer, Cluster, Node, Setup, eventually};
use reqwest::Method;
use serde_json::{Value, json};

async fn change(node: &Node, version: Option<u64>, body: Value) -> Answer {
    let request = node.request(Method::PUT, "/v1/cluster/config").json(&body);
    let request = match version {
        Some(version) => request.header("if-match", format!("\"{version}\"")),
        None => request,
    };
    Answer::of(request).await
}

#[tokio::test]
async fn the_write_quorum_is_changed_while_everything_runs_and_compared_first() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let before = leader.status().await;
    assert_eq!((before.config.replicas, before.config.write_quorum), (3, 2));

    let blind = change(leader, None, json!({"write_quorum":3})).await;
    assert_eq!((blind.status, blind.code().as_str()), (428, "precondition_required"));
    let stale = change(leader, Some(before.config.version + 7), json!({"write_quorum":3})).await;
    assert_eq!((stale.status, stale.code().as_str()), (412, "precondition_failed"));
    assert_eq!(stale.header("etag"), format!("\"{}\"", before.config.version));
    let elsewhere = change(follower, Some(before.config.version), json!({"write_quorum":3})).await;
    assert_eq!((elsewhere.status, elsewhere.code().as_str()), (421, "not_leader"));
    for impossible in
        [json!({"write_quorum":4}), json!({"write_quorum":0}), json!({"voters":["node1","nobody"]}), json!({"what":1})]
    {
        let refused = change(leader, Some(before.config.version), impossible).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad_request"), "{}", refused.text());
    }

    let mut version = before.config.version;
    for w in [3, 2] {
        let changed = change(leader, Some(version), json!({"write_quorum":w})).await.expect(200);
        version = changed.json()["version"].as_u64().expect("a version");
        assert_eq!(changed.header("etag"), format!("\"{version}\""));
        let written = leader.put("/v1/kv/k", "v").await.expect(200).json();
        assert!(written["copies"].as_u64() >= Some(w), "{written}");
        eventually("every node knows the new numbers", || async {
            for node in &cluster.nodes {
                let config = node.status().await.config;
                if config.write_quorum as u64 != w || config.changing || config.version != version {
                    return Err(format!("{}: {config:?}", node.name));
                }
            }
            Ok(())
        })
        .await;
    }
    let after = leader.status().await;
    assert_eq!((after.term, after.node.incarnation), (before.term, before.node.incarnation), "nothing was restarted");
}

#[tokio::test]
async fn the_leader_says_that_a_change_is_under_way_for_as_long_as_it_takes_no_other() {
    let cluster = Setup::new(3, 2).elections_after(5).start().await;
    cluster.all_ready().await;
    let leader = cluster.leader().await;
    let version = leader.status().await.config.version;
    let followers: Vec<&Node> = cluster.nodes.iter().filter(|node| node.name != leader.name).collect();
    // Still in contact, as far as the leader knows; but its change is committed by nobody.
    followers.iter().for_each(|follower| follower.pause());
    let seen = async {
        eventually("the leader says that it is changing", || async {
            leader.status().await.config.changing.then_some(()).ok_or_else(|| "it does not".to_owned())
        })
        .await;
        followers.iter().for_each(|follower| follower.resume());
    };
    let (changed, ()) = tokio::join!(change(leader, Some(version), json!({"preferred":""})), seen);
    let version = changed.expect(200).json()["version"].as_u64();
    assert!(!leader.status().await.config.changing, "it is told to be done, and is not");
    change(leader, version, json!({"preferred":leader.name})).await.expect(200);
}

#[tokio::test]
async fn status_tells_the_same_on_every_node_and_health_on_the_leader() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let leader = cluster.leader().await.status().await;
    assert_eq!(leader.tolerates.writes, Some(1));
    assert_eq!(leader.tolerates.failover, Some(1));
    for node in &cluster.nodes {
        let status = node.status().await;
        assert_eq!(status.cluster_id, leader.cluster_id);
        assert_eq!((&status.leader, &status.leader_url), (&leader.leader, &leader.leader_url));
        assert_eq!(
            (&status.node.name, &status.node.http, &status.node.tcp, &status.node.peer),
            (&node.name, &node.url, &node.tcp, &node.peer)
        );
        let names: Vec<&str> = status.members.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names.len(), 3);
        let leads = status.node.role == "leader";
        assert!(status.members.iter().all(|m| m.healthy == leads.then_some(true)), "{:?}", status.members);
        assert_eq!(node.get("/livez").await.expect(200).json()["status"], "alive");
        assert_eq!(node.get("/readyz").await.expect(200).json()["status"], "ready");
    }
}

#[tokio::test]
async fn leadership_is_handed_to_whom_it_is_wished_and_stays_there() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let from = cluster.leader_number().await;
    let to = (from + 1) % 3;
    let follower = cluster.nodes[to].post("/v1/cluster/transfer", &json!({})).await.expect(421);
    assert_eq!(follower.code(), "not_leader");
    let unknown = cluster.nodes[from].post("/v1/cluster/transfer", &json!({"to":"nobody"})).await.expect(400);
    assert_eq!(unknown.code(), "bad_request");
    cluster.nodes[from].post("/v1/cluster/transfer", &json!({"to": cluster.nodes[to].name})).await.expect(200);
    cluster.led_by(to).await;
    let term = cluster.nodes[to].status().await.term;
    for n in 0..50 {
        cluster.nodes[from].put(&format!("/v1/kv/k{n}"), "v").await.expect(200);
    }
    assert_eq!(cluster.nodes[to].status().await.term, term, "a transfer by hand is not undone");
}

#[tokio::test]
async fn a_member_that_is_removed_sets_its_data_aside_and_ends() {
    let mut cluster = Setup::new(3, 2).expect_error("does without this node").start().await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    let gone = (leader + 1) % 3;
    let name = cluster.nodes[gone].name.clone();
    cluster.nodes[leader].post("/v1/cluster/members", &json!({"remove": "nobody"})).await.expect(400);
    cluster.nodes[leader].post("/v1/cluster/members", &json!({ "remove": name })).await.expect(200);
    let status = cluster.nodes[gone].ended().await;
    assert_eq!(status.code(), Some(1));
    let now = cluster.nodes[leader].status().await;
    assert_eq!((now.config.replicas, now.config.write_quorum), (2, 2));
    assert!(now.members.iter().all(|m| m.name != name));
    cluster.nodes[leader].put("/v1/kv/k", "v").await.expect(200);
}

#[tokio::test]
async fn changes_of_the_cluster_need_the_token_where_one_is_set() {
    let cluster = Setup::new(1, 1).flag("--admin-token", "secret").start().await;
    let node = &cluster.nodes[0];
    for path in ["/v1/cluster/transfer", "/v1/cluster/members", "/v1/cluster/campaign"] {
        let refused = node.post(path, &json!({})).await.expect(401);
        assert_eq!((refused.code().as_str(), refused.header("www-authenticate")), ("unauthorized", "Bearer"));
    }
    let wrong =
        node.request(Method::PUT, "/v1/cluster/config").bearer_auth("guess").header("if-match", "1").json(&json!({}));
    Answer::of(wrong).await.expect(401);
    let version = node.status().await.config.version.to_string();
    let right = node.request(Method::PUT, "/v1/cluster/config").bearer_auth("secret").header("if-match", version);
    Answer::of(right.json(&json!({"failover":"manual"}))).await.expect(200);
    assert_eq!(node.status().await.config.failover, "manual");
    node.put("/v1/kv/k", "data needs no token").await.expect(200);
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let leader = cluster.leader().await;
    for n in 0..10 {
        leader.put(&format!("/v1/kv/k{n}"), "v").await.expect(200);
    }
    let follower = cluster.follower().await;
    follower.post("/write", &json!({"key":"k","value":"v"})).await.expect(403);
    let text = leader.get("/metrics").await.expect(200).text();
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name} is missing in\n{text}"));
        line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number")
    };
    assert_eq!(value("quorate_request_duration_seconds_count{outcome=\"ok\",route=\"v1_put\"}"), 10.0);
    assert!(
        text.lines()
            .all(|l| l.is_empty() || l.starts_with('#') || l.starts_with("quorate_") || l.starts_with("process_"))
    );
}
