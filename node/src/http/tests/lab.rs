//! The first table of the interface description, line by line.

use quorum::Role;
use serde_json::json;

use super::Server;
use crate::handle::{ChangeError, ReadError, WriteError};
use crate::testing::refusing;

#[tokio::test]
async fn a_write_on_the_leader_tells_how_many_followers_confirmed() {
    let server = Server::start(Role::Leader).await;
    let reply = server.post("/write", r#"{"key":"k","value":"v"}"#).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let expected = json!({
        "success": true, "message": "Write successful", "quorum_reached": 2, "copies": 2, "revision": 1, "version": 1
    });
    assert_eq!(reply.json(), expected);
    assert!(reply.text().starts_with(r#"{"success":true,"message":"Write successful","quorum_reached":2"#));
    let again = server.post("/write", r#"{"value":"w","key":"k","operation_id":"ignored"}"#).await.json();
    assert_eq!((&again["revision"], &again["version"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn a_write_on_a_follower_is_forbidden_and_names_the_leader() {
    let server = Server::start(Role::Follower).await;
    let reply = server.post("/write", r#"{"key":"k","value":"v"}"#).await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.json()["leader"], "http://127.0.0.1:8001");
    assert!(reply.json()["detail"].as_str().expect("text").contains("does not lead"));
    server.change_state(|state| state.leader = None);
    let reply = server.post("/write", r#"{"key":"k","value":"v"}"#).await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (503, Some("no_leader")));
}

#[tokio::test]
async fn reads_of_both_spellings_say_whether_the_key_was_found() {
    for role in [Role::Leader, Role::Follower] {
        let server = Server::start(role).await;
        let put = |key: &'static str, value: &'static str| crate::kv::Command::Put {
            key: key.into(),
            value: crate::kv::Value { kind: crate::kv::ValueKind::Text, data: value.into() },
            condition: crate::kv::Condition::None,
        };
        server.handle.store().apply_command(quorum::Position::new(1, 1), &put("a b", "v").encode());
        let expected = json!({"key":"a b","value":"v","found":true,"revision":1,"version":1});
        for target in ["/read/a%20b", "/read?key=a%20b", "/read?key=a+b", "/read?x=1&key=a+b&y"] {
            let reply = server.get(target).await;
            assert_eq!((reply.status, reply.json()), (200, expected.clone()), "{target}");
        }
        for target in ["/read/none", "/read?key=none"] {
            let reply = server.get(target).await;
            assert_eq!((reply.status, reply.text()), (404, r#"{"key":"none","value":null,"found":false}"#), "{target}");
        }
        let reply = server.get("/read").await;
        assert_eq!((reply.status, reply.json()["code"].as_str()), (422, Some("bad_request")));
    }
}

#[tokio::test]
async fn data_is_one_object_in_key_order_even_when_it_takes_many_chunks() {
    let server = Server::start(Role::Leader).await;
    assert_eq!(server.get("/data").await.text(), "{}");
    server.post("/write", r#"{"key":"b","value":{"z":1,"a":[2,null]}}"#).await;
    server.post("/write", r#"{"key":"a","value":"x\"y"}"#).await;
    server.put("/v1/kv/c", b"\xff\x00").await;
    server.put("/v1/kv/d", b"plain").await;
    let reply = server.get("/data").await;
    assert_eq!(reply.text(), r#"{"a":"x\"y","b":{"z":1,"a":[2,null]},"c":{"base64":"/wA="},"d":"plain"}"#);
    assert!(reply.header("content-length").is_some(), "a small answer has a length");

    let long = "v".repeat(30_000);
    for n in 0..20 {
        server.put(&format!("/v1/kv/long{n:02}"), long.as_bytes()).await;
    }
    let reply = server.get("/data").await;
    assert_eq!(reply.header("transfer-encoding"), Some("chunked"));
    let data = reply.json();
    let keys: Vec<&String> = data.as_object().expect("an object").keys().collect();
    assert_eq!(keys.len(), 24);
    assert!(keys.is_sorted(), "{keys:?}");
    assert_eq!(data["long19"], long);
}

#[tokio::test]
async fn keys_are_listed_in_order_by_prefix_limit_and_after() {
    let server = Server::start(Role::Leader).await;
    assert_eq!(server.get("/keys").await.text(), r#"{"keys":[]}"#);
    for key in ["b/1", "a", "b/3", "b/2"] {
        server.put(&format!("/v1/kv/{key}"), b"v").await;
    }
    assert_eq!(server.get("/keys").await.text(), r#"{"keys":["a","b/1","b/2","b/3"]}"#);
    assert_eq!(server.get("/keys?prefix=b%2F&limit=2").await.text(), r#"{"keys":["b/1","b/2"]}"#);
    assert_eq!(server.get("/keys?prefix=b/&after=b/2").await.text(), r#"{"keys":["b/3"]}"#);
    assert_eq!(server.get("/keys?limit=0").await.text(), r#"{"keys":[]}"#);
    assert_eq!(server.get("/keys?limit=many").await.status, 422);
}

#[tokio::test]
async fn kv_takes_and_returns_any_json_value() {
    let server = Server::start(Role::Leader).await;
    for value in [r#""text""#, "30", r#""30""#, "null", "[1,2.5,true]", r#"{"name":"Alice","age":30}"#] {
        let body = format!(r#"{{"value":{value}}}"#);
        let reply = server.put("/kv/user%3A1/x", body.as_bytes()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["key"], "user:1/x");
        assert_eq!(server.get("/kv/user:1/x").await.text(), body);
    }
    let reply = server.ask("DELETE", "/kv/user:1/x", &[], b"").await;
    assert_eq!(reply.json(), json!({"status":"ok","key":"user:1/x","deleted":true,"copies":2,"revision":7}));
    assert_eq!(server.ask("DELETE", "/kv/user:1/x", &[], b"").await.json()["deleted"], false);
    let reply = server.get("/kv/user:1/x").await;
    assert_eq!((reply.status, reply.json()["detail"].as_str()), (404, Some("Key 'user:1/x' not found")));
}

#[tokio::test]
async fn a_kv_write_on_a_follower_is_passed_on_rather_than_refused() {
    let server = Server::start(Role::Follower).await;
    // The forwarder of these tests finds no leader: that it was asked shows in the code.
    for method in ["PUT", "DELETE"] {
        let reply = server.ask(method, "/kv/k", &[], br#"{"value":1}"#).await;
        assert_eq!((reply.status, reply.json()["code"].as_str()), (503, Some("no_leader")));
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
}

#[tokio::test]
async fn a_malformed_body_is_a_422_with_the_reason_and_the_place() {
    let server = Server::start(Role::Leader).await;
    for body in ["", "{", r#"{"key":"k"}"#, r#"{"key":5,"value":"v"}"#, r#"{"key":"k","value":"v"} x"#, "[]"] {
        let reply = server.post("/write", body).await;
        assert_eq!(reply.status, 422, "{body}");
        assert!(reply.json()["detail"].as_str().expect("text").contains("line 1 column"), "{}", reply.text());
    }
    let reply = server.ask("POST", "/write", &[], b"{\"key\":\"\xff\",\"value\":1}").await;
    assert_eq!((reply.status, reply.json()["detail"].as_str()), (422, Some("the body is not UTF-8 at byte 8")));
    let reply = server.put("/kv/k", b"{}").await;
    assert!(reply.status == 422 && reply.text().contains("missing field `value`"), "{}", reply.text());
    let reply = server.post("/write", r#"{"key":"","value":"v"}"#).await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (400, Some("key_invalid")));
}

#[tokio::test]
async fn health_speaks_of_leaders_and_followers_only() {
    let server = Server::start(Role::Leader).await;
    let expected = json!({
        "status": "healthy", "node_type": "leader", "term": 1, "leader": "http://127.0.0.1:8000", "commit": 0, "lag": 0,
        "workers_count": 3
    });
    assert_eq!(server.get("/health").await.json(), expected);
    let server = Server::start(Role::Candidate).await;
    server.change_state(|state| {
        state.leader = None;
        state.commit = quorum::Index(9);
    });
    let health = server.get("/health").await.json();
    assert_eq!(
        (&health["node_type"], &health["leader"], &health["lag"]),
        (&json!("follower"), &json!(null), &json!(9))
    );
}

#[tokio::test]
async fn the_root_is_a_page_for_browsers_and_a_list_for_programs() {
    let server = Server::start(Role::Leader).await;
    let list = server.get("/").await;
    assert_eq!(list.header("content-type"), Some("application/json"));
    let list = list.json();
    assert!(list["what"].is_string() && list["version"].is_string());
    assert!(list["endpoints"]["POST /write"].is_string(), "{list}");
    assert!(list["endpoints"]["PUT|GET|DELETE /v1/kv/{key}"].is_string(), "{list}");
    assert!(list["endpoints"].get("POST /v1/txn").is_none(), "what is not there is not listed");

    let page = server.ask("GET", "/", &["accept: text/html,application/xhtml+xml,*/*;q=0.8"], b"").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("/ui/app.js"));
}

#[tokio::test]
async fn the_map_names_the_leader_and_the_other_holders() {
    let server = Server::start(Role::Follower).await;
    let expected = json!({
        "key": "demo-key", "group": 0, "primary": "http://127.0.0.1:8001",
        "replicas": ["http://127.0.0.1:8000", "http://127.0.0.1:8002"]
    });
    assert_eq!(server.get("/map?key=demo-key").await.json(), expected);
    assert_eq!(server.get("/map").await.status, 422);
}

#[tokio::test]
async fn workers_have_health_on_the_leader_and_none_elsewhere() {
    let server = Server::start(Role::Leader).await;
    server.change_state(|state| {
        state.last = quorum::Index(10);
        state.peers = vec![crate::handle::PeerState {
            id: quorum::NodeId(2),
            durable: quorum::Index(4),
            silent_for: Some(std::time::Duration::from_millis(12)),
            live: true,
        }];
    });
    let expected = json!({"workers":[
        {"id":"node1","address":"http://127.0.0.1:8000","role":"leader","healthy":true,"last_heard_ms":0,"lag":0},
        {"id":"node2","address":"http://127.0.0.1:8001","role":"follower","healthy":true,"last_heard_ms":12,"lag":6},
        {"id":"node3","address":"http://127.0.0.1:8002","role":"follower","healthy":false,"last_heard_ms":null,"lag":null},
    ]});
    assert_eq!(server.get("/workers").await.json(), expected);
    let server = Server::start(Role::Follower).await;
    let workers = server.get("/workers").await.json();
    let first = json!({
        "id":"node1","address":"http://127.0.0.1:8000","role":"follower","healthy":null,"last_heard_ms":null,"lag":null
    });
    assert_eq!(workers["workers"][0], first);
    assert_eq!(workers["workers"][1]["role"], "leader");
}

#[tokio::test]
async fn what_nodes_once_asked_each_other_is_gone_with_an_explanation() {
    let server = Server::start(Role::Leader).await;
    for (method, target) in [
        ("POST", "/replicate"),
        ("POST", "/replicate/k"),
        ("PUT", "/replicate/k"),
        ("POST", "/heartbeat"),
        ("POST", "/pull"),
    ] {
        let reply = server.ask(method, target, &[], b"{}").await;
        assert_eq!((reply.status, reply.json()["code"].as_str()), (410, Some("gone")), "{target}");
        assert!(reply.json()["detail"].as_str().expect("text").contains("peer protocol"));
    }
}

#[tokio::test]
async fn every_error_of_a_write_has_its_status_and_code_on_the_lab_routes() {
    for (error, status, code) in [
        (WriteError::NoLeader, 503, "no_leader"),
        (WriteError::Forming, 503, "forming"),
        (WriteError::NoQuorum { live: 1, needed: 2 }, 503, "no_quorum"),
        (WriteError::Overloaded, 503, "overloaded"),
        (WriteError::Stopping, 503, "stopping"),
        (WriteError::NoSpace, 507, "no_space"),
        (WriteError::Unknown("time".into()), 504, "outcome_unknown"),
    ] {
        let server = Server::of(refusing(error.clone(), ReadError::Timeout, ChangeError::NoLeader)).await;
        let reply = server.post("/write", r#"{"key":"k","value":"v"}"#).await;
        assert_eq!((reply.status, reply.json()["code"].as_str()), (status, Some(code)));
        assert_eq!(reply.json()["detail"], error.to_string());
    }
}
