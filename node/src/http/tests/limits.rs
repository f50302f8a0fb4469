//! Limits, slow and broken clients, many connections, stopping.

use std::time::Duration;

use quorum::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{PATIENCE, Reply, Server};
use crate::testing;

/// Sends a request on a connection that stays open, and reads the response's head and body of known length.
async fn on(stream: &mut TcpStream, request: &str) -> Reply {
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut bytes)).await.expect("in time").expect("read");
        assert_ne!(read, 0, "the connection ended: {}", String::from_utf8_lossy(&bytes));
        if !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
            continue;
        }
        let reply = Reply::parse(&bytes);
        let length: usize = reply.header("content-length").expect("a length").parse().expect("a number");
        if reply.body.len() == length {
            return reply;
        }
    }
}

async fn closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn bodies_up_to_the_limit_are_taken_in_any_number_of_pieces_and_larger_ones_refused() {
    let server = Server::with(Role::Leader, |o| o.limits.value_bytes = 100_000).await;
    let value = vec![b'x'; 100_000];
    assert_eq!(server.put("/v1/kv/k", &value).await.status, 200);
    assert_eq!(server.get("/v1/kv/k").await.body.len(), 100_000);
    let reply = server.put("/v1/kv/k", &vec![b'x'; 100_001]).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));

    let mut chunked =
        b"PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let begun = chunked.len();
    for _ in 0..3 {
        chunked.extend_from_slice(b"5\r\nabcde\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(server.raw(&chunked).await.status, 200);
    assert_eq!(server.get("/v1/kv/k").await.text(), "abcdeabcdeabcde");
    chunked.truncate(begun);
    chunked.extend_from_slice(format!("{:x}\r\n", 100_001).as_bytes());
    chunked.extend_from_slice(&[b'x'; 100_001]);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let reply = server.raw(&chunked).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));

    let body = format!(r#"{{"key":"k","value":"{}"}}"#, "x".repeat(100_001));
    let reply = server.post("/write", &body).await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (413, Some("too_large")));
    let body = format!(r#"{{"key":"k","value":"{}"}}"#, "x".repeat(200_000));
    assert_eq!(server.post("/write", &body).await.status, 413);
}

#[tokio::test]
async fn long_uris_and_heads_are_refused() {
    let server = Server::start(Role::Leader).await;
    let encoded_key = "%41".repeat(4096);
    assert_eq!(
        server.put(&format!("/v1/kv/{encoded_key}"), b"v").await.status,
        200,
        "the longest key fits in any spelling"
    );
    let reply = server.get(&format!("/v1/kv/{}", "a".repeat(20_000))).await;
    assert_eq!((reply.status, reply.code().as_str()), (414, "uri_too_long"));
    let long = format!("x: {}", "y".repeat(60_000));
    assert_eq!(server.ask("GET", "/livez", &[&long], b"").await.status, 431);
    assert_eq!(server.ask("GET", "/livez", &["x: y"; 150], b"").await.status, 431);
}

#[tokio::test]
async fn a_head_that_does_not_arrive_ends_the_connection_and_an_idle_one_stays() {
    let server = Server::impatient(testing::handle(Role::Leader, |_| {}), Duration::from_millis(200)).await;
    let mut idle = TcpStream::connect(server.address).await.expect("connected");
    assert_eq!(on(&mut idle, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.status, 200);
    let mut slow = TcpStream::connect(server.address).await.expect("connected");
    slow.write_all(b"GET /livez HTTP/1.1\r\nhos").await.expect("sent");
    assert!(closed(&mut slow).await, "half a head is given up");
    // The slow one's deadline has passed, and so has as much idle time on this connection.
    assert_eq!(on(&mut idle, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.status, 200);
    idle.write_all(b"GET /").await.expect("sent");
    assert!(closed(&mut idle).await, "on a kept connection too");
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_one_that_ends_makes_room() {
    let server = Server::with(Role::Leader, |o| o.limits.http_connections = 2).await;
    let mut first = TcpStream::connect(server.address).await.expect("connected");
    let mut second = TcpStream::connect(server.address).await.expect("connected");
    for stream in [&mut first, &mut second] {
        assert_eq!(on(stream, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.status, 200);
    }
    let mut third = TcpStream::connect(server.address).await.expect("connected");
    let reply = Reply::read(&mut third).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "overloaded"));
    drop(first);
    let again = async {
        loop {
            let mut stream = TcpStream::connect(server.address).await.expect("connected");
            let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            if Reply::read(&mut stream).await.status == 200 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("room again");
    assert_eq!(on(&mut second, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn values_that_stop_on_their_way_take_no_more_memory_than_all_may_and_small_requests_go_on() {
    let server = Server::with(Role::Leader, testing::little_intake).await;
    let half = vec![b'v'; testing::STUCK_BYTES];
    let mut stuck = futures_util::stream::FuturesUnordered::new();
    for n in 0..testing::STUCK {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        let (head, begun) = if n % 2 == 0 {
            ("PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n", "")
        } else {
            ("POST /write HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n", "{\"key\":\"k\",\"value\":\"")
        };
        stream.write_all(&[head.as_bytes(), begun.as_bytes(), &half].concat()).await.expect("sent");
        stuck.push(async move { Reply::read(&mut stream).await });
    }
    for _ in 0..testing::STUCK_REFUSED {
        let reply = futures_util::StreamExt::next(&mut stuck).await.expect("one more");
        assert_eq!((reply.status, reply.header("connection")), (503, Some("close")), "{reply:?}");
        assert!(reply.text().contains("\"overloaded\"") && reply.text().contains("still arriving"), "{}", reply.text());
    }
    assert_eq!(server.put("/v1/kv/small", b"v").await.status, 200);
    // The others hold what they have until they go.
    drop(stuck);
    let again = async { while server.put("/v1/kv/k", &half).await.status != 200 {} };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() {
    let server = Server::start(Role::Leader).await;
    let mut sent = Vec::new();
    for n in 0..50 {
        sent.extend_from_slice(format!("PUT /v1/kv/k{n} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nv").as_bytes());
    }
    sent.extend_from_slice(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut stream = TcpStream::connect(server.address).await.expect("connected");
    stream.write_all(&sent).await.expect("sent");
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("in time").expect("read");
    let text = String::from_utf8(bytes).expect("text");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 51);
    let at: Vec<usize> = (1..=50).map(|r| text.find(&format!("{{\"revision\":{r},")).expect("an answer")).collect();
    assert!(at.is_sorted());
}

#[tokio::test]
async fn garbage_is_a_400_and_a_body_that_breaks_off_writes_nothing() {
    let server = Server::start(Role::Leader).await;
    assert_eq!(server.raw(b"\x16\x03\x01 not http\r\n\r\n").await.status, 400);
    let mut stream = TcpStream::connect(server.address).await.expect("connected");
    stream.write_all(b"PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await.expect("sent");
    stream.shutdown().await.expect("half closed");
    assert!(closed(&mut stream).await);
    assert!(server.handle.store().get(b"k").is_none());
}

#[tokio::test]
async fn a_stopping_node_ends_idle_connections_finishes_the_busy_and_returns() {
    let server = Server::start(Role::Leader).await;
    let mut idle = TcpStream::connect(server.address).await.expect("connected");
    assert_eq!(on(&mut idle, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.status, 200);
    let mut busy = TcpStream::connect(server.address).await.expect("connected");
    busy.write_all(b"PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nha").await.expect("sent");
    let gauge = async || {
        while server.handle.metrics().connections.with_label_values(&["http"]).get() < 3.0 {
            server.get("/metrics").await;
        }
    };
    tokio::time::timeout(PATIENCE, gauge()).await.expect("both are accepted");

    server.handle.request_stop();
    assert!(closed(&mut idle).await, "an idle connection ends at once");
    let reply = on(&mut busy, "lf").await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    tokio::time::timeout(PATIENCE, server.served).await.expect("in time").expect("served");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_client_that_never_finishes_does_not_keep_a_stopping_node() {
    let server = Server::start(Role::Leader).await;
    let mut stuck = TcpStream::connect(server.address).await.expect("connected");
    stuck.write_all(b"PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nha").await.expect("sent");
    server.get("/livez").await;
    server.handle.request_stop();
    tokio::time::timeout(PATIENCE, server.served).await.expect("in time").expect("served");
}
