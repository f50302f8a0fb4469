//! The line protocol, as used with `nc`.

use quorate_tests::{Cluster, Setup, eventually};

#[tokio::test]
async fn each_line_gets_the_json_line_that_is_promised() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let term = leader.status().await.term;
    let mut lines = leader.lines().await;
    let status = format!(r#"{{"status":"OK","node_id":"{}","role":"primary","election_term":{term}}}"#, leader.name);
    for (line, reply) in [
        (r#"SET user:1 {"name":"Alice","age":30}"#, r#"{"status":"OK","message":"Key 'user:1' set"}"#),
        ("GET user:1", r#"{"status":"OK","value":{"name":"Alice","age":30}}"#),
        ("SET greeting hello there", r#"{"status":"OK","message":"Key 'greeting' set"}"#),
        ("get greeting\r", r#"{"status":"OK","value":"hello there"}"#),
        ("SET n 30", r#"{"status":"OK","message":"Key 'n' set"}"#),
        ("GET n", r#"{"status":"OK","value":30}"#),
        ("GET x", r#"{"status":"ERROR","message":"Key 'x' not found"}"#),
        ("DELETE user:1", r#"{"status":"OK"}"#),
        ("DELETE user:1", r#"{"status":"ERROR","message":"Key 'user:1' not found"}"#),
        ("PING", r#"{"status":"OK","message":"PONG"}"#),
        ("STATUS", status.as_str()),
        ("FLY", r#"{"status":"ERROR","message":"Unknown command 'FLY'"}"#),
        ("SET k", r#"{"status":"ERROR","message":"Usage: SET <key> <value>"}"#),
    ] {
        assert_eq!(lines.ask(line).await, reply, "{line}");
    }
    let mut there = follower.lines().await;
    for line in ["SET k v", "GET greeting", "DELETE greeting"] {
        let reply: serde_json::Value = serde_json::from_str(&there.ask(line).await).expect("JSON");
        assert_eq!((&reply["status"], &reply["primary"]), (&"ERROR".into(), &leader.tcp.as_str().into()), "{reply}");
    }
    assert!(there.ask("STATUS").await.contains(r#""role":"secondary""#));
    // Many lines at once are answered in order.
    let batch: String = (0..500).map(|n| format!("SET many-{n} {n}\nGET many-{n}\n")).collect();
    lines.send(batch.as_bytes()).await;
    for n in 0..500 {
        assert_eq!(lines.reply().await, format!(r#"{{"status":"OK","message":"Key 'many-{n}' set"}}"#));
        assert_eq!(lines.reply().await, format!(r#"{{"status":"OK","value":{n}}}"#));
    }
    assert_eq!(leader.get("/read/n").await.json()["value"], 30, "kinds are kept across the faces");
}

#[tokio::test]
async fn shutdown_over_tcp_stops_a_node_in_good_order() {
    let mut cluster = Setup::new(3, 2).start().await;
    cluster.all_ready().await;
    let leader = cluster.leader_number().await;
    assert!(cluster.nodes[leader].lines().await.ask("SHUTDOWN").await.contains(r#""status":"OK""#));
    assert_eq!(cluster.nodes[leader].ended().await.code(), Some(0));
    let other = (leader + 1) % 3;
    eventually("the others go on", || async {
        let put = cluster.nodes[other].put("/v1/kv/k", "v").await;
        if put.status == 200 { Ok(()) } else { Err(put.text()) }
    })
    .await;
}
