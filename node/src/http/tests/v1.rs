//! The second table of the interface description, line by line.

use quorum::Role;
use serde_json::json;

use super::Server;
use crate::handle::{ChangeError, ReadError, WriteError};
use crate::testing::refusing;

#[tokio::test]
async fn a_put_answers_with_its_numbers_in_body_and_headers() {
    let server = Server::start(Role::Leader).await;
    server.put("/v1/kv/k", b"v").await;
    let reply = server.put("/v1/kv/k", b"w").await;
    assert_eq!((reply.status, reply.text()), (200, r#"{"revision":2,"version":2,"term":1,"copies":2}"#));
    for (name, value) in [
        ("content-type", "application/json"),
        ("etag", "\"2\""),
        ("x-quorate-revision", "2"),
        ("x-quorate-version", "2"),
        ("x-quorate-term", "1"),
        ("x-quorate-copies", "2"),
        ("x-quorate-node", "node1"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn a_get_returns_the_bytes_and_a_head_all_but_them() {
    let server = Server::start(Role::Leader).await;
    server.put("/v1/kv/k", b"\x00\xffraw").await;
    let reply = server.get("/v1/kv/k").await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, b"\x00\xffraw".as_slice()));
    let head = server.ask("HEAD", "/v1/kv/k", &[], b"").await;
    assert_eq!((head.status, head.body.as_slice()), (200, b"".as_slice()));
    for reply in [&reply, &head] {
        for (name, value) in [
            ("content-type", "application/octet-stream"),
            ("content-length", "5"),
            ("etag", "\"1\""),
            ("x-quorate-revision", "1"),
            ("x-quorate-version", "1"),
            ("x-quorate-term", "1"),
            ("x-quorate-node", "node1"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{name} in {}", reply.head);
        }
    }
    let reply = server.get("/v1/kv/none").await;
    assert_eq!((reply.status, reply.code().as_str()), (404, "key_not_found"));
    assert_eq!(server.ask("HEAD", "/v1/kv/none", &[], b"").await.status, 404);
    server.put("/v1/kv/empty", b"").await;
    let reply = server.get("/v1/kv/empty").await;
    assert_eq!((reply.status, reply.header("content-length")), (200, Some("0")));
    let known = server.ask("GET", "/v1/kv/k", &["if-none-match: \"9\", W/\"1\""], b"").await;
    assert_eq!((known.status, known.header("etag"), known.body.len()), (304, Some("\"1\""), 0));
}

#[tokio::test]
async fn a_delete_tells_whether_there_was_something() {
    let server = Server::start(Role::Leader).await;
    server.put("/v1/kv/k", b"v").await;
    let reply = server.ask("DELETE", "/v1/kv/k", &[], b"").await;
    assert_eq!((reply.status, reply.json()), (200, json!({"deleted":true,"revision":2,"term":1,"copies":2})));
    let reply = server.ask("DELETE", "/v1/kv/k", &[], b"").await;
    assert_eq!((reply.status, reply.json()["deleted"].as_bool()), (200, Some(false)));
    assert_eq!(server.put("/v1/kv/k", b"v").await.json()["version"], 1, "a delete ends the count");
}

#[tokio::test]
async fn conditions_are_checked_and_a_failed_one_tells_the_revision() {
    let server = Server::start(Role::Leader).await;
    let put = async |header: &str| server.ask("PUT", "/v1/kv/k", &[header], b"v").await;
    let reply = put("if-match: *").await;
    assert_eq!((reply.status, reply.code().as_str(), reply.header("etag")), (412, "precondition_failed", None));
    let revision = put("if-none-match: *").await.json()["revision"].as_u64().expect("a revision");
    let reply = put("if-none-match: *").await;
    assert_eq!((reply.status, reply.code().as_str()), (412, "precondition_failed"));
    assert_eq!(reply.header("etag"), Some(format!("\"{revision}\"").as_str()));
    assert_eq!(put(&format!("if-match: \"{}\"", revision + 100)).await.status, 412);
    assert_eq!(put(&format!("if-match: \"{revision}\"")).await.status, 200);
    assert_eq!(put("if-match: *").await.status, 200);
    for header in ["if-match: \"1\", \"2\"", "if-match: W/\"1\"", "if-match: +1", "if-none-match: \"1\""] {
        let reply = put(header).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad_request"), "{header}");
    }
    let reply = server.ask("DELETE", "/v1/kv/k", &["if-match: \"1\""], b"").await;
    assert_eq!(reply.status, 412);
}

#[tokio::test]
async fn values_keep_their_kind_between_the_faces() {
    let server = Server::start(Role::Leader).await;
    let put =
        async |kind: &str, body: &[u8]| server.ask("PUT", "/v1/kv/k", &[&format!("content-type: {kind}")], body).await;
    // content type sent, body sent; content type and body returned; as the lab routes show it
    let (json_type, text_type) = ("application/json", "text/plain; charset=utf-8");
    type Case = (&'static str, &'static [u8], &'static str, &'static [u8], &'static str);
    let cases: [Case; 8] = [
        ("application/json", b"30", json_type, b"30", "30"),
        ("application/json; charset=utf-8", b"\"30\"", text_type, b"30", "\"30\""),
        ("application/json", b" { \"b\" : 1, \"a\" : 2 } ", json_type, b"{\"b\":1,\"a\":2}", "{\"b\":1,\"a\":2}"),
        ("application/json", b"\"a\\u00e4\"", text_type, "aä".as_bytes(), "\"aä\""),
        ("text/plain", b"30", text_type, b"30", "\"30\""),
        ("application/octet-stream", b"30", "application/octet-stream", b"30", "\"30\""),
        ("application/x-www-form-urlencoded", b"a=b", "application/octet-stream", b"a=b", "\"a=b\""),
        ("image/png", b"\xff", "application/octet-stream", b"\xff", "{\"base64\":\"/w==\"}"),
    ];
    for (sent_type, sent, kind, returned, shown) in cases {
        assert_eq!(put(sent_type, sent).await.status, 200);
        let reply = server.get("/v1/kv/k").await;
        assert_eq!((reply.header("content-type"), reply.body.as_slice()), (Some(kind), returned), "{sent_type}");
        assert_eq!(server.get("/kv/k").await.text(), format!("{{\"value\":{shown}}}"));
    }
    for (kind, body) in [
        ("application/json", b"{".as_slice()),
        ("application/json", b"\"\xff\""),
        ("text/plain", b"\xff"),
        ("application/json", b""),
    ] {
        let reply = put(kind, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad_request"), "{kind} {body:?}");
    }
    server.put("/kv/k", br#"{"value":"30"}"#).await;
    assert_eq!(server.get("/v1/kv/k").await.header("content-type"), Some(text_type));
    server.put("/kv/k", br#"{"value":30}"#).await;
    assert_eq!(server.get("/v1/kv/k").await.header("content-type"), Some(json_type));
}

#[tokio::test]
async fn keys_may_hold_slashes_and_any_encoded_utf8() {
    let server = Server::start(Role::Leader).await;
    for (target, key) in [
        ("a/b//c/", "a/b//c/"),
        ("a%2Fb", "a/b"),
        ("%C3%A4%20%25", "ä %"),
        ("x+y", "x+y"),
        ("100%", "100%"),
        ("../up", "../up"),
        ("%00", "\0"),
    ] {
        let put = server.put(&format!("/v1/kv/{target}"), key.as_bytes()).await;
        assert_eq!(put.status, 200, "{target}: {}", put.text());
        assert_eq!(server.get(&format!("/v1/kv/{target}")).await.text(), key);
        assert!(server.handle.store().get(key.as_bytes()).is_some(), "{target}");
    }
    let long = "k".repeat(4096);
    assert_eq!(server.put(&format!("/v1/kv/{long}"), b"v").await.status, 200);
    for target in ["/v1/kv/", "/v1/kv/%ff", &format!("/v1/kv/{long}k")] {
        let reply = server.put(target, b"v").await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "key_invalid"));
    }
}

#[tokio::test]
async fn a_request_may_raise_the_write_quorum_and_never_lower_it() {
    let server = Server::start(Role::Leader).await;
    for (w, status) in
        [("2", 200), ("3", 200), ("1", 400), ("0", 400), ("4", 400), ("99999999999999999999", 400), ("x", 400)]
    {
        let reply = server.put(&format!("/v1/kv/k?w={w}"), b"v").await;
        assert_eq!(reply.status, status, "w={w}: {}", reply.text());
    }
    assert_eq!(server.put("/v1/kv/k?w=1", b"v").await.code(), "write_quorum_invalid");
}

#[tokio::test]
async fn reads_are_linearizable_unless_asked_otherwise() {
    let server = Server::of(refusing(WriteError::NoLeader, ReadError::Timeout, ChangeError::NoLeader)).await;
    let reply = server.get("/v1/kv/k").await;
    assert_eq!((reply.status, reply.code().as_str(), reply.header("retry-after")), (503, "read_timeout", Some("1")));
    assert_eq!(server.get("/v1/kv/k?consistency=linearizable").await.status, 503);
    assert_eq!(server.get("/v1/kv").await.status, 503);
    assert_eq!(server.get("/v1/kv/k?consistency=local").await.status, 404);
    assert_eq!(server.get("/v1/kv?consistency=local").await.status, 200);
    assert_eq!(server.get("/v1/kv/k?consistency=strong").await.code(), "bad_request");
}

#[tokio::test]
async fn a_read_waits_for_the_revision_it_must_show() {
    let server = Server::with(Role::Leader, |o| o.request_timeout = std::time::Duration::from_millis(100)).await;
    server.put("/v1/kv/k", b"v").await;
    assert_eq!(server.get("/v1/kv/k?consistency=local&min_revision=1").await.status, 200);
    assert_eq!(server.get("/v1/kv/k?consistency=local&min_revision=2").await.code(), "read_timeout");
    assert_eq!(server.get("/v1/kv/k?min_revision=soon").await.code(), "bad_request");
}

#[tokio::test]
async fn a_follower_asked_not_to_forward_names_the_leader() {
    let server = Server::start(Role::Follower).await;
    for (method, body) in [("PUT", b"v".as_slice()), ("GET", b""), ("DELETE", b"")] {
        let reply = server.ask(method, "/v1/kv/k?forward=false", &[], body).await;
        assert_eq!((reply.status, reply.code().as_str()), (421, "not_leader"), "{method}");
        assert_eq!(reply.json()["error"]["leader"], "http://127.0.0.1:8001");
        let reply = server.ask(method, "/v1/kv/k", &[], body).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "no_leader"), "{method} is forwarded");
    }
    assert_eq!(server.get("/v1/kv/k?forward=maybe").await.code(), "bad_request");
}

#[tokio::test]
async fn a_listing_comes_in_pages_that_lead_on() {
    let server = Server::with(Role::Leader, |o| o.limits.page_keys = 3).await;
    assert_eq!(server.get("/v1/kv").await.text(), r#"{"revision":0,"items":[]}"#);
    for key in ["p/a", "p/b", "p/c", "p/d", "q"] {
        server.put(&format!("/v1/kv/{key}"), key.as_bytes()).await;
    }
    let page = async |target: &str| -> quorate_api::Page {
        serde_json::from_slice(&server.get(target).await.body).expect("a page")
    };
    let first = page("/v1/kv?prefix=p/&limit=100").await;
    assert_eq!((first.revision, first.items.len(), first.next.as_deref()), (5, 3, Some("p/c")));
    assert_eq!(first.items[1].key, "p/b");
    assert_eq!((first.items[1].revision, first.items[1].version, &first.items[1].value), (2, 1, &json!("p/b")));
    let last = page("/v1/kv?prefix=p/&after=p%2Fc").await;
    assert_eq!((last.items.len(), last.next), (1, None));
    assert_eq!(page("/v1/kv?limit=2").await.next.as_deref(), Some("p/b"));
    let reply = server.get("/v1/kv?limit=1").await;
    assert_eq!(reply.header("x-quorate-revision"), Some("5"));
    assert_eq!(server.get("/v1/kv?limit=0").await.code(), "bad_request");
}

#[tokio::test]
async fn a_range_streams_as_lines_beyond_any_page() {
    let server = Server::with(Role::Leader, |o| o.limits.page_keys = 3).await;
    let value = "x".repeat(20_000);
    for n in 0..30 {
        server.put(&format!("/v1/kv/k{n:02}"), value.as_bytes()).await;
    }
    let reply = server.ask("GET", "/v1/kv?prefix=k", &["accept: application/x-ndjson"], b"").await;
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(reply.header("x-quorate-revision"), Some("30"));
    let lines: Vec<quorate_api::KeyValue> =
        reply.text().lines().map(|l| serde_json::from_str(l).expect("an item a line")).collect();
    assert_eq!(lines.len(), 30);
    assert_eq!((lines[29].key.as_str(), lines[29].revision), ("k29", 30));
}

#[tokio::test]
async fn every_error_of_a_write_has_its_status_and_code() {
    for (error, status, code, again) in [
        (WriteError::NoLeader, 503, "no_leader", true),
        (WriteError::Forming, 503, "forming", true),
        (WriteError::NotFormed { waits_for: Some(2) }, 503, "no_leader", true),
        (WriteError::NoQuorum { live: 1, needed: 2 }, 503, "no_quorum", true),
        (WriteError::Overloaded, 503, "overloaded", true),
        (WriteError::Stopping, 503, "stopping", false),
        (WriteError::NoSpace, 507, "no_space", false),
        (WriteError::TooManyCopies { wanted: 4, voters: 3 }, 400, "write_quorum_invalid", false),
        (WriteError::Unknown("time".into()), 504, "outcome_unknown", false),
    ] {
        let server = Server::of(refusing(error, ReadError::Overloaded, ChangeError::NoLeader)).await;
        let reply = server.put("/v1/kv/k", b"v").await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code));
        assert_eq!(reply.header("retry-after").is_some(), again, "{code}");
        let metrics = server.handle.metrics();
        assert_eq!(metrics.unknown_outcomes.get(), u64::from(status == 504));
        assert_eq!(metrics.refused.with_label_values(&[code]).get(), u64::from(status != 504));
        assert_eq!(server.get("/v1/kv/k").await.code(), "overloaded");
    }
}

#[tokio::test]
async fn a_write_with_an_idempotency_key_is_done_once_and_says_when_it_was_done_before() {
    let server = Server::start(Role::Leader).await;
    let put = async |key: &str, value: &str| {
        let header = format!("idempotency-key: {key}");
        server.ask("PUT", "/v1/kv/k", &[&header], value.as_bytes()).await
    };
    let first = put("7c9e6679-7425", "v").await;
    assert_eq!((first.status, first.header("x-quorate-repeated")), (200, None));
    server.put("/v1/kv/k", b"another's").await;
    let again = put("7c9e6679-7425", "v").await;
    assert_eq!((again.status, again.text(), again.header("x-quorate-repeated")), (200, first.text(), Some("true")));
    assert_eq!(again.header("etag"), first.header("etag"));
    assert_eq!(server.get("/v1/kv/k").await.text(), "another's");

    let reused = put("7c9e6679-7425", "w").await;
    assert_eq!((reused.status, reused.code().as_str()), (422, "idempotency_key_reused"));
    let delete = async || server.ask("DELETE", "/v1/kv/k", &["idempotency-key: d"], b"").await;
    let (first, again) = (delete().await, delete().await);
    assert_eq!((first.json()["deleted"].as_bool(), again.json()), (Some(true), first.json()), "deleted by the first");
    assert_eq!(again.header("x-quorate-repeated"), Some("true"));
}

#[tokio::test]
async fn an_idempotency_key_that_cannot_be_one_is_refused() {
    let server = Server::start(Role::Leader).await;
    let long = format!("idempotency-key: {}", "x".repeat(129));
    for headers in [&["idempotency-key: "][..], &["idempotency-key: a b"], &[long.as_str()], &["idempotency-key: a"; 2]]
    {
        let reply = server.ask("PUT", "/v1/kv/k", headers, b"v").await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "idempotency_key_invalid"), "{headers:?}");
    }
    assert!(server.handle.store().get(b"k").is_none(), "nothing was written");
    let limits = &server.get("/v1/status").await.json()["limits"];
    assert_eq!(limits["idempotency_key_bytes"], 128);
    assert_eq!((&limits["idempotency_keys"], &limits["idempotency_seconds"]), (&json!(100_000), &json!(3_600)));
}

#[tokio::test]
async fn what_is_planned_says_so() {
    let server = Server::start(Role::Leader).await;
    for (method, target, headers) in [
        ("POST", "/v1/txn", &[][..]),
        ("GET", "/v1/watch?prefix=a", &[]),
        ("GET", "/v1/openapi.json", &[]),
        ("GET", "/v1/snapshot", &[]),
        ("PUT", "/v1/kv/k?ttl=30s", &[]),
    ] {
        let reply = server.ask(method, target, headers, b"").await;
        assert_eq!((reply.status, reply.code().as_str()), (501, "not_implemented"), "{target}");
    }
    assert!(server.handle.store().get(b"k").is_none(), "nothing was written");
}

#[tokio::test]
async fn unknown_routes_and_methods_point_to_the_right_ones() {
    let server = Server::start(Role::Leader).await;
    let reply = server.get("/v1/nothing").await;
    assert_eq!((reply.status, reply.code().as_str()), (404, "route_not_found"));
    assert!(reply.text().contains("GET / lists"));
    let reply = server.get("/nothing").await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (404, Some("route_not_found")));
    let reply = server.post("/v1/kv/k", "v").await;
    assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(reply.header("allow"), Some("GET, HEAD, PUT, DELETE"));
    let reply = server.get("/write").await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
}
