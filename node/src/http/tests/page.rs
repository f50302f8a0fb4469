//! The page, its files and its stream, as a browser gets them; and what browsers may not do.

use serde_json::{Value as Json, json};

use super::*;

/// A stream of events that is being read.
struct Stream(TcpStream, Vec<u8>);

impl Stream {
    async fn open(server: &Server, target: &str) -> Stream {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        Stream(stream, Vec::new())
    }

    /// Reads until an event of this kind has come whose data passes; the data.
    async fn until(&mut self, kind: &str, passes: impl Fn(&Json) -> bool) -> Json {
        let begins = format!("event: {kind}\ndata: ");
        let reading = async {
            loop {
                let text = String::from_utf8_lossy(&self.1).into_owned();
                let mut rest = text.as_str();
                while let Some(at) = rest.find(&begins) {
                    rest = &rest[at + begins.len()..];
                    let Some(end) = rest.find("\n\n") else { break };
                    // A chunk's head may stand within; then the next event is looked at.
                    if let Ok(data) = serde_json::from_str::<Json>(&rest[..end])
                        && passes(&data)
                    {
                        self.1.clear();
                        return data;
                    }
                }
                assert!(self.0.read_buf(&mut self.1).await.expect("read") > 0, "it ended: {text}");
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("such an event")
    }
}

#[tokio::test]
async fn the_page_comes_with_a_strict_policy_and_its_files_are_taken_from_the_cache_when_unchanged() {
    let server = Server::start(Role::Leader).await;
    let page = server.ask("GET", "/", &["accept: text/html"], b"").await;
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let files: Vec<&str> = page.text().split('"').filter(|part| part.starts_with("/ui/")).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let whole = server.get(file).await;
        assert_eq!((whole.status, whole.header("x-content-type-options")), (200, Some("nosniff")), "{file}");
        assert!(!whole.body.is_empty());
        let tag = format!("if-none-match: {}", whole.header("etag").expect("a tag"));
        let again = server.ask("GET", file, &[&tag], b"").await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{file}");
    }
    assert_eq!(server.get("/ui/../Cargo.toml").await.status, 404);
    assert_eq!(server.get("/ui/index.html.bak").await.status, 404);
}

#[tokio::test]
async fn what_changes_is_told_at_once_and_figures_are_sums() {
    let server = Server::start(Role::Leader).await;
    let mut stream = Stream::open(&server, "/v1/events").await;
    let first = stream.until("node", |_| true).await;
    assert_eq!((&first["name"], &first["status"]["leader"]), (&json!("node1"), &json!("node1")));
    assert_eq!(first["figures"]["writes"]["count"], 0);

    server.put("/v1/kv/k", b"v").await;
    server.get("/v1/kv/k").await;
    let later = stream.until("node", |n| n["figures"]["reads"]["count"] == 1).await;
    assert_eq!((&later["figures"]["writes"]["count"], &later["keys"]), (&json!(1), &json!(1)));
    let buckets = later["figures"]["writes"]["buckets"].as_array().expect("buckets");
    assert_eq!(buckets.last().expect("the largest")[1], 1, "{buckets:?}");

    server.change_state(|state| state.term = quorum::Term(7));
    stream.until("node", |n| n["status"]["term"] == 7).await;
}

#[tokio::test]
async fn of_a_cluster_every_member_is_told_of_those_that_do_not_answer_too() {
    let dead = testing::ports::nobody();
    let server = Server::start(Role::Leader).await;
    server.change_state(|state| {
        let mut config = (**state.config.as_ref().expect("config")).clone();
        config.voters.truncate(2);
        config.voters[1].http = format!("http://{dead}");
        state.config = Some(Arc::new(config));
    });
    let mut stream = Stream::open(&server, "/v1/events?scope=cluster").await;
    assert_eq!(stream.until("hello", |_| true).await, json!({ "page": "node", "node": "node1" }));
    stream.until("node", |n| n["name"] == "node1").await;
    let gone = stream.until("gone", |_| true).await;
    assert_eq!((&gone["name"], &gone["reason"]), (&json!("node2"), &json!("nothing listens at its address")));

    let refused = server.get("/v1/nodes/node2/v1/status").await;
    assert_eq!((refused.status, refused.code().as_str()), (502, "unreachable"));
    assert_eq!(server.get("/v1/nodes/node9/v1/status").await.code(), "route_not_found");
    assert_eq!(server.get("/v1/nodes/node2/metrics").await.code(), "route_not_found");
    assert_eq!(server.get("/v1/events?scope=world").await.code(), "bad_request");
}

#[tokio::test]
async fn a_request_for_another_member_is_put_to_it_and_answered_as_it_does() {
    let (server, other) = (Server::start(Role::Leader).await, Server::start(Role::Leader).await);
    let url = format!("http://{}", other.address);
    server.change_state(|state| {
        let mut config = (**state.config.as_ref().expect("config")).clone();
        config.voters[2].http = url.clone();
        state.config = Some(Arc::new(config));
    });
    let written = server
        .ask("PUT", "/v1/nodes/node3/v1/kv/a%2Fb", &["content-type: application/json", "if-none-match: *"], b"[1]")
        .await;
    assert_eq!((written.status, &written.json()["copies"]), (200, &json!(2)), "{}", written.text());
    let there = other.get("/v1/kv/a%2Fb").await;
    assert_eq!((there.status, there.header("content-type"), there.text()), (200, Some("application/json"), "[1]"));
    let back = server.get("/v1/nodes/node3/v1/kv/a%2Fb?consistency=local").await;
    assert_eq!((back.text(), back.header("etag")), ("[1]", there.header("etag")));
    assert_eq!(server.get("/v1/kv/a%2Fb").await.status, 404, "it was not written here");
    let again = server.ask("PUT", "/v1/nodes/node3/v1/kv/a%2Fb", &["if-none-match: *"], b"2").await;
    assert_eq!((again.status, again.code().as_str()), (412, "precondition_failed"));
}

#[tokio::test]
async fn more_clients_than_can_be_served_are_told_so_and_a_stop_ends_those_there_are() {
    let server = Server::start(Role::Leader).await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut stream = Stream::open(&server, "/v1/events").await;
        stream.until("node", |_| true).await;
        streams.push(stream);
    }
    assert_eq!(server.get("/v1/events").await.code(), "overloaded");
    let begun = std::time::Instant::now();
    server.handle.request_stop();
    tokio::time::timeout(PATIENCE, server.served).await.expect("the server ends").expect("without a panic");
    assert!(begun.elapsed() < Duration::from_secs(2), "nobody waited for the streams to be cut: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_browser_writes_nothing_for_another_site() {
    let server = Server::start(Role::Leader).await;
    let body = br#"{"key":"k","value":"stolen"}"#;
    for header in ["origin: http://evil.example", "sec-fetch-site: cross-site"] {
        let reply = server.ask("POST", "/write", &[header, "content-type: text/plain"], body).await;
        assert_eq!((reply.status, &reply.json()["code"]), (403, &json!("cross_site")), "{header}");
    }
    assert_eq!(server.get("/v1/kv/k").await.status, 404);
    assert_eq!(server.ask("POST", "/write", &["origin: http://x"], body).await.status, 200, "its own page may");
}
