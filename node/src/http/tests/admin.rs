//! Status, changes of the cluster, health for machines, metrics.

use std::sync::{Arc, Mutex};

use quorate_api::{Membership, Status};
use quorum::{Change, Failover, NodeId, Role};
use serde_json::json;
use tokio::sync::mpsc;

use super::Server;
use crate::handle::{Ask, ChangeError, Handle, ReadError, WriteError};
use crate::testing::{self, refusing};

/// What was asked for, in order.
type Kept<T> = Arc<Mutex<Vec<T>>>;

/// A leader that keeps the changes it is asked for.
fn recording() -> (Handle, Kept<Change>, Kept<Option<NodeId>>) {
    let handle = testing::handle(Role::Leader, |_| {});
    let (asks, mut received) = mpsc::channel(16);
    let mut shared = Arc::try_unwrap(handle.shared).unwrap_or_else(|_| panic!("one owner"));
    shared.asks = asks;
    let (changes, transfers) = (Kept::<Change>::default(), Kept::default());
    let kept = (Arc::clone(&changes), Arc::clone(&transfers));
    tokio::spawn(async move {
        while let Some(ask) = received.recv().await {
            match ask {
                Ask::Change(change, reply) => {
                    kept.0.lock().expect("lock").push(*change);
                    let _ = reply.send(Ok(3));
                }
                Ask::Transfer(to, reply) => {
                    kept.1.lock().expect("lock").push(to);
                    let _ = reply.send(Ok(()));
                }
                Ask::Campaign(reply) => drop(reply.send(Ok(()))),
                Ask::Barrier(_) => {}
            }
        }
    });
    (Handle { shared: Arc::new(shared) }, changes, transfers)
}

/// Adds a learner to the configuration in force.
fn add_learner(server: &Server, id: u16, name: &str) {
    server.change_state(|state| {
        let mut config = (**state.config.as_ref().expect("config")).clone();
        config.learners.push(quorum::Member { name: name.to_owned(), ..testing::member(id) });
        state.config = Some(Arc::new(config));
    });
}

async fn configure(server: &Server, version: &str, body: &str) -> super::Reply {
    server.ask("PUT", "/v1/cluster/config", &[&format!("if-match: {version}")], body.as_bytes()).await
}

#[tokio::test]
async fn the_status_has_everything_a_leader_knows() {
    let server = Server::start(Role::Leader).await;
    server.change_state(|state| {
        state.peers = vec![crate::handle::PeerState {
            id: NodeId(2),
            durable: quorum::Index(0),
            silent_for: Some(std::time::Duration::from_millis(5)),
            live: true,
        }];
    });
    let status: Status = serde_json::from_slice(&server.get("/v1/status").await.body).expect("a status");
    assert_eq!(
        (status.leader.as_deref(), status.leader_url.as_deref()),
        (Some("node1"), Some("http://127.0.0.1:8000"))
    );
    assert_eq!((status.node.role.as_str(), status.node.membership), ("leader", Membership::Voter));
    assert_eq!((status.config.replicas, status.config.write_quorum, status.config.version), (3, 2, 1));
    assert_eq!((status.config.election_quorum, status.config.commit_quorum), (2, 2));
    assert_eq!(status.config.preferred.as_deref(), Some("node1"));
    assert_eq!(status.tolerates, quorate_api::Tolerates { live: Some(2), writes: Some(0), failover: Some(0) });
    assert_eq!(status.members.len(), 3);
    assert_eq!(status.limits.key_bytes, 4096);
    assert!(status.formed && !status.disk_full);
}

#[tokio::test]
async fn the_status_of_a_follower_or_a_blank_node_leaves_out_what_it_cannot_know() {
    let server = Server::start(Role::Follower).await;
    let status: Status = serde_json::from_slice(&server.get("/v1/status").await.body).expect("a status");
    assert_eq!(status.tolerates, quorate_api::Tolerates { live: None, writes: None, failover: None });
    assert!(status.members.iter().all(|m| m.healthy.is_none() && m.lag.is_none()));
    server.change_state(|state| {
        state.config = None;
        state.cluster = None;
        state.leader = None;
    });
    let status: Status = serde_json::from_slice(&server.get("/v1/status").await.body).expect("a status");
    assert_eq!((status.node.membership, status.cluster_id, status.formed), (Membership::Blank, None, false));
    assert!(status.members.is_empty() && status.node.http.starts_with("http://127.0.0.1:"));
}

#[tokio::test]
async fn a_change_needs_the_version_it_is_based_on() {
    let server = Server::start(Role::Leader).await;
    let reply = server.put("/v1/cluster/config", br#"{"write_quorum":3}"#).await;
    assert_eq!((reply.status, reply.code().as_str()), (428, "precondition_required"));
    let reply = configure(&server, "\"7\"", r#"{"write_quorum":3}"#).await;
    assert_eq!(
        (reply.status, reply.code().as_str(), reply.header("etag")),
        (412, "precondition_failed", Some("\"1\""))
    );
    let reply = configure(&server, "seven", r#"{"write_quorum":3}"#).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "bad_request"));
    let reply = configure(&server, "\"1\"", r#"{"write_quorum":3}"#).await;
    assert_eq!((reply.status, reply.json(), reply.header("etag")), (200, json!({"version":2}), Some("\"2\"")));
}

#[tokio::test]
async fn a_change_names_members_and_is_checked_before_it_is_asked_for() {
    let (handle, changes, _) = recording();
    let server = Server::of(handle).await;
    add_learner(&server, 4, "node4");
    for body in [
        r#"{"write_quorum":4}"#,
        r#"{"write_quorum":0}"#,
        r#"{"voters":["node1","nobody"]}"#,
        r#"{"voters":["node1","node1"]}"#,
        r#"{"voters":["node1"]}"#,
        r#"{"voters":[],"write_quorum":1}"#,
        r#"{"preferred":"nobody"}"#,
        r#"{"failover":"sometimes"}"#,
        r#"{"remove_learners":["node1"]}"#,
        r#"{"unknown":1}"#,
        "{",
    ] {
        let reply = configure(&server, "1", body).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad_request"), "{body}");
    }
    assert!(changes.lock().expect("lock").is_empty());

    let body = r#"{"voters":["node2","node3","node4"],"write_quorum":3,"failover":"manual"}"#;
    assert_eq!(configure(&server, "1", body).await.status, 200);
    let change = changes.lock().expect("lock").pop().expect("a change");
    let ids: Vec<u128> = change.voters.iter().map(|m| m.id.0).collect();
    assert_eq!((ids, change.learners.len(), change.write_quorum), (vec![2, 3, 4], 0, 3));
    assert_eq!((change.preferred, change.failover, change.base_version), (None, Failover::Manual, 1));

    assert_eq!(configure(&server, "1", r#"{"preferred":"","remove_learners":["node4"]}"#).await.status, 200);
    let change = changes.lock().expect("lock").pop().expect("a change");
    assert_eq!((change.voters.len(), change.learners.len(), change.preferred), (3, 0, None));
}

#[tokio::test]
async fn one_member_is_promoted_or_removed_by_name() {
    let (handle, changes, _) = recording();
    let server = Server::of(handle).await;
    add_learner(&server, 9, "node1");
    let change = async |body: &str| {
        let reply = server.post("/v1/cluster/members", body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        changes.lock().expect("lock").pop().expect("a change")
    };
    let promoted = change(r#"{"promote":"node1"}"#).await;
    let ids: Vec<u128> = promoted.voters.iter().map(|m| m.id.0).collect();
    assert_eq!((ids, promoted.preferred), (vec![2, 3, 9], Some(NodeId(9))), "the new disk takes the old one's place");
    let removed = change(r#"{"remove":"node3"}"#).await;
    assert_eq!(removed.voters.iter().map(|m| m.id.0).collect::<Vec<_>>(), [1, 2]);
    for body in [r#"{"promote":"node2"}"#, r#"{"remove":"nobody"}"#, "{}", r#"{"remove":"node1","promote":"node1"}"#] {
        assert_eq!(server.post("/v1/cluster/members", body).await.code(), "bad_request", "{body}");
    }
}

#[tokio::test]
async fn leadership_is_handed_over_by_name_or_to_anyone() {
    let (handle, _, transfers) = recording();
    let server = Server::of(handle).await;
    for body in ["", "{}", r#"{"to":"node3"}"#] {
        let reply = server.post("/v1/cluster/transfer", body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["leader"], "node1");
    }
    assert_eq!(*transfers.lock().expect("lock"), [None, None, Some(NodeId(3))]);
    assert_eq!(server.post("/v1/cluster/transfer", r#"{"to":"nobody"}"#).await.code(), "bad_request");
}

#[tokio::test]
async fn a_follower_points_to_the_leader_but_campaigns_itself() {
    let server = Server::start(Role::Follower).await;
    for (method, target) in
        [("PUT", "/v1/cluster/config"), ("POST", "/v1/cluster/transfer"), ("POST", "/v1/cluster/members")]
    {
        let reply = server.ask(method, target, &["if-match: 1"], b"{}").await;
        assert_eq!((reply.status, reply.code().as_str()), (421, "not_leader"), "{target}");
        assert_eq!(reply.json()["error"]["leader"], "http://127.0.0.1:8001");
    }
    assert_eq!(server.post("/v1/cluster/campaign", "").await.status, 200);
}

#[tokio::test]
async fn where_an_admin_token_is_set_changes_need_it_and_reads_do_not() {
    let server = Server::with(Role::Leader, |o| o.admin_token = Some("secret".into())).await;
    for (method, target) in [
        ("PUT", "/v1/cluster/config"),
        ("POST", "/v1/cluster/transfer"),
        ("POST", "/v1/cluster/members"),
        ("POST", "/v1/cluster/campaign"),
        ("PUT", "/v1/log"),
    ] {
        for header in [
            "x: y",
            "authorization: Bearer wrong",
            "authorization: Bearer secrets",
            "authorization: secret",
            "authorization: Bearer",
        ] {
            let reply = server.ask(method, target, &["if-match: 1", header], b"{}").await;
            assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorized"), "{target} {header}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
        let reply = server.ask(method, target, &["if-match: 1", "authorization: bearer secret"], b"{}").await;
        assert_ne!(reply.status, 401, "{target}");
    }
    assert_eq!(server.get("/v1/status").await.status, 200);
    assert_eq!(server.put("/v1/kv/k", b"v").await.status, 200);
}

#[tokio::test]
async fn a_managed_cluster_is_changed_by_its_manager_alone_and_says_who_that_is() {
    let server = Server::with(Role::Leader, |o| o.managed_by = Some("KVCluster default/demo".into())).await;
    for (method, target) in [("PUT", "/v1/cluster/config"), ("POST", "/v1/cluster/members")] {
        for header in ["x: y", "x-quorate-manager: somebody else", "x-quorate-manager:"] {
            let reply = server.ask(method, target, &["if-match: 1", header], b"{}").await;
            assert_eq!((reply.status, reply.code().as_str()), (409, "change_refused"), "{target} {header}");
            let message = reply.json()["error"]["message"].to_string();
            assert!(message.contains("managed by KVCluster default/demo"), "{message}");
        }
        let reply =
            server.ask(method, target, &["if-match: 1", "x-quorate-manager: KVCluster default/demo"], b"{}").await;
        assert_ne!(reply.status, 409, "{target}");
    }
    assert_eq!(server.post("/v1/cluster/transfer", "").await.status, 200);
    assert_eq!(server.post("/v1/cluster/campaign", "").await.status, 200);
}

#[tokio::test]
async fn a_process_without_a_log_says_so_and_a_filter_that_is_none_is_refused() {
    let server = Server::with(Role::Follower, |_| {}).await;
    assert_eq!(server.get("/v1/log").await.status, 501);
    let change = async |filter: &[u8]| server.ask("PUT", "/v1/log", &[], filter).await.code();
    assert_eq!(change(br#"{"filter":"quorate=loud"}"#).await, "bad_request");
    assert_eq!(change(br#"{"level":"info"}"#).await, "bad_request");
    assert_eq!(change(br#"{"filter":"info"}"#).await, "not_implemented");
}

#[tokio::test]
async fn the_id_of_a_request_comes_back_and_one_too_long_does_not() {
    let server = Server::with(Role::Leader, |_| {}).await;
    let ask = async |id: String| server.ask("PUT", "/v1/kv/k", &[&format!("x-request-id: {id}")], b"v").await;
    assert_eq!(ask("order-17".to_owned()).await.header("x-request-id"), Some("order-17"));
    assert_eq!(ask("x".repeat(200)).await.header("x-request-id"), None);
}

#[tokio::test]
async fn every_error_of_a_change_has_its_status_and_code() {
    for (error, status, code) in [
        (ChangeError::NoLeader, 503, "no_leader"),
        (ChangeError::VersionMismatch(5), 412, "precondition_failed"),
        (ChangeError::Refused("another change is under way".into()), 409, "change_refused"),
        (ChangeError::Unknown("time".into()), 504, "outcome_unknown"),
    ] {
        let server = Server::of(refusing(WriteError::NoLeader, ReadError::Timeout, error)).await;
        let reply = configure(&server, "1", "{}").await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code));
    }
}

#[tokio::test]
async fn a_node_is_ready_once_it_has_caught_up_and_until_it_is_removed() {
    let server = Server::start(Role::Follower).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    for (change, word) in [
        ((|state| state.ready = false) as fn(&mut crate::handle::NodeState), "caught up"),
        (|state| state.config = None, "no cluster"),
        (|state| state.removed = true, "removed"),
    ] {
        server.change_state(change);
        let reply = server.get("/readyz").await;
        assert_eq!(reply.status, 503);
        assert!(reply.json()["reason"].as_str().expect("text").contains(word), "{}", reply.text());
        assert_eq!(server.get("/livez").await.status, 200);
    }
}

#[tokio::test]
async fn requests_are_measured_by_route_and_outcome() {
    let server = Server::start(Role::Leader).await;
    server.put("/v1/kv/k", b"v").await;
    server.get("/v1/kv/none").await;
    server.get("/read/none").await;
    server.get("/nowhere").await;
    let reply = server.get("/metrics").await;
    assert!(reply.header("content-type").expect("a type").starts_with("text/plain; version=0.0.4"));
    for line in [
        r#"quorate_request_duration_seconds_count{outcome="ok",route="v1_put"} 1"#,
        r#"quorate_request_duration_seconds_count{outcome="key_not_found",route="v1_get"} 1"#,
        r#"quorate_request_duration_seconds_count{outcome="key_not_found",route="read"} 1"#,
        r#"quorate_request_duration_seconds_count{outcome="route_not_found",route="other"} 1"#,
        r#"quorate_refused_total{code="route_not_found"} 1"#,
        r#"quorate_connections{port="http"} 1"#,
    ] {
        assert!(reply.text().lines().any(|l| l == line), "{line} in {}", reply.text());
    }
}
