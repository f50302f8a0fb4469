//! What clients should not send, and a well-behaved client beside it all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_history::generate::Dice;
use quorate_tests::client::raw;
use quorate_tests::{Answer, Cluster, Node, Resp, Setup, eventually, loudly};
use reqwest::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What one write and one read after it may take the well-behaved client, on a machine that is busy with the others: less than any of them waits.
const LONGEST: Duration = Duration::from_secs(10);

fn authority(node: &Node) -> &str {
    node.url.trim_start_matches("http://")
}

/// A client that writes and reads all the while; the longest time one of its requests took.
struct WellBehaved {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(u64, Duration)>,
}

impl WellBehaved {
    fn start(cluster: &Cluster, node: &Node) -> WellBehaved {
        let stop = Arc::new(AtomicBool::new(false));
        let (http, url, stopped) = (cluster.http.clone(), format!("{}/v1/kv/well-behaved", node.url), stop.clone());
        let task = tokio::spawn(async move {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                Answer::of(http.put(&url).body(count.to_string())).await.expect(200);
                assert_eq!(Answer::of(http.get(&url)).await.expect(200).text(), count.to_string());
                count += 1;
                longest = longest.max(begun.elapsed());
            }
            (count, longest)
        });
        WellBehaved { stop, task }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (count, longest) = self.task.await.expect("every request was answered as it should be");
        println!("the well-behaved client: {count} rounds, the longest took {longest:?}");
        assert!(count > 0 && longest < LONGEST, "{count} rounds, {longest:?}");
    }
}

#[tokio::test]
async fn http_requests_that_make_no_sense_are_told_why() {
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let node = cluster.leader().await;
    let good = WellBehaved::start(&cluster, node);
    let send = |method: Method, path: &str, body: Vec<u8>| Answer::of(node.request(method, path).body(body));

    for body in [
        &b"{"[..],
        b"",
        b"[]",
        b"{\"key\":\"k\"}",
        b"{\"value\":1}",
        b"{\"key\":1,\"value\":1}",
        b"{\"key\":\"\xff\",\"value\":1}",
    ] {
        let bad = send(Method::POST, "/write", body.to_vec()).await.expect(422);
        assert!(bad.json()["detail"].is_string(), "{}", bad.text());
        assert_eq!(bad.code(), "bad_request");
    }
    send(Method::PUT, "/kv/k", b"{\"val\":1}".to_vec()).await.expect(422);
    let deep =
        send(Method::POST, "/write", format!("{{\"key\":\"k\",\"value\":{}", "[".repeat(100_000)).into_bytes()).await;
    assert_eq!(deep.status, 422, "nesting without an end is no JSON");
    let empty = send(Method::POST, "/write", b"{\"key\":\"\",\"value\":1}".to_vec()).await.expect(400);
    assert_eq!(empty.code(), "key_invalid");
    for (path, status, code) in [
        ("/nowhere", 404, "route_not_found"),
        ("/v1/nowhere", 404, "route_not_found"),
        ("/v1/kv/%ff", 400, "key_invalid"),
        ("/v1/kv/", 400, "key_invalid"),
        ("/v1/kv?limit=many", 400, "bad_request"),
        ("/v1/kv?limit=0", 400, "bad_request"),
        ("/keys?limit=-1", 422, "bad_request"),
        ("/read", 422, "bad_request"),
        ("/map", 422, "bad_request"),
    ] {
        let bad = node.get(path).await;
        assert_eq!((bad.status, bad.code().as_str()), (status, code), "{path}: {}", bad.text());
    }
    let method = send(Method::DELETE, "/write", Vec::new()).await.expect(405);
    assert_eq!((method.code().as_str(), method.header("allow")), ("method_not_allowed", "POST"));

    let long_key = "k".repeat(5000);
    assert_eq!(send(Method::PUT, &format!("/v1/kv/{long_key}"), b"v".to_vec()).await.expect(400).code(), "key_invalid");
    assert_eq!(node.get(&format!("/v1/kv/{}", "k".repeat(20_000))).await.expect(414).code(), "uri_too_long");
    let large = vec![b'v'; (1 << 20) + 1];
    assert_eq!(send(Method::PUT, "/v1/kv/k", large.clone()).await.expect(413).code(), "too_large");
    let large = String::from_utf8(large).expect("text");
    assert_eq!(node.post("/write", &json!({"key":"k","value":large})).await.expect(413).code(), "too_large");
    // The largest value there may be.
    send(Method::PUT, "/v1/kv/k", vec![b'v'; 1 << 20]).await.expect(200);

    for bytes in [
        &b"\x00\x01\x02\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    ] {
        let back = raw(authority(node), bytes, LONGEST).await;
        let back = String::from_utf8_lossy(&back).into_owned();
        assert!(back.is_empty() || back.starts_with("HTTP/1.1 400") || back.starts_with("HTTP/1.1 505"), "{back}");
    }
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "h".repeat(100_000));
    let back = raw(authority(node), head.as_bytes(), LONGEST).await;
    assert!(back.is_empty() || back.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&back));
    good.end().await;
}

#[tokio::test]
async fn tcp_clients_that_break_the_rules_are_told_so_and_cut_off() {
    let cluster = Setup::new(3, 2).flag("--value-max", "64KiB").start().await;
    cluster.all_ready().await;
    let node = cluster.leader().await;
    let good = WellBehaved::start(&cluster, node);
    for (bytes, expected) in [
        (&b"*1000000000\r\n"[..], "-ERR Protocol error: invalid multibulk length"),
        (b"*1\r\n$999999999\r\n", "-ERR Protocol error: invalid bulk length"),
        (b"*1\r\n+PING\r\n", "-ERR Protocol error: expected '$', got '+'"),
        (b"*1\r\n$4\r\nPINGxx", "-ERR Protocol error: expected CRLF after bulk"),
        (b"*x\r\n", "-ERR Protocol error: invalid multibulk length"),
    ] {
        let back = raw(&node.tcp, bytes, LONGEST).await;
        let back = String::from_utf8_lossy(&back).into_owned();
        assert!(back.starts_with(expected), "{}: {back}", bytes.escape_ascii());
    }
    let mut client = node.redis().await;
    let long_key = "k".repeat(5000);
    let large = "v".repeat(70_000);
    for command in [&["SET", &long_key, "v"][..], &["SET", "k", &large], &["SET", "", "v"]] {
        assert!(
            matches!(client.call(command).await, Resp::Error(text) if text.starts_with("ERR ")),
            "the connection goes on"
        );
    }
    assert_eq!(client.call(&["PING"]).await, Resp::Simple("PONG".into()));

    let mut lines = node.lines().await;
    lines.send(b"GET \xff\n").await;
    assert_eq!(lines.reply().await, r#"{"status":"ERROR","message":"the line is not valid UTF-8"}"#);
    assert!(lines.ask(&format!("SET {long_key} v")).await.contains("the key is longer"));
    assert!(lines.ask(&format!("SET k {}", "v".repeat(66_000))).await.contains("the value is larger"));
    let endless = raw(&node.tcp, &vec![b'x'; 1 << 20], LONGEST).await;
    assert!(String::from_utf8_lossy(&endless).contains("the line is longer than"), "{}", endless.escape_ascii());
    let browser = raw(&node.tcp, b"POST / HTTP/1.1\r\nhost: x\r\n\r\nSET k stolen\n", LONGEST).await;
    assert!(String::from_utf8_lossy(&browser).contains("this is not an HTTP port"));
    assert_eq!(node.get("/v1/kv/k").await.status, 404);
    // The port for other nodes takes nothing from strangers.
    let peer = raw(&node.peer, &vec![0xa5; 100_000], Duration::from_secs(15)).await;
    assert!(peer.len() < 1000, "{} bytes", peer.len());
    good.end().await;
}

/// Connections that do nothing, as many as a node must bear. Each is a file here and one there.
const IDLE: usize = 10_000;

/// Memory of a node for each of them: twice of what was measured of ten thousand.
const CONNECTION_BYTES_MAX: u64 = 32 << 10;

/// Files that a node keeps for itself, and that the other tests of this process have open.
const OTHER_FILES: usize = 1_500;

/// Files that this process may have open, once it has taken all that it may take.
fn files_allowed() -> Option<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("what is allowed");
    maximum
}

#[tokio::test]
async fn slow_half_open_and_idle_connections_harm_nobody() {
    let files = files_allowed();
    let idle = files.map_or(IDLE, |files| IDLE.min(usize::try_from(files).unwrap_or(IDLE).saturating_sub(OTHER_FILES)));
    if idle < IDLE {
        loudly(&format!("{idle} idle connections were tried, not {IDLE}: the hard limit of open files is {files:?}"));
    }
    let cluster = Cluster::start(3, 2).await;
    cluster.all_ready().await;
    let node = cluster.leader().await;
    let before = node.resident_bytes();
    let good = WellBehaved::start(&cluster, node);
    let mut open = Vec::with_capacity(idle);
    for n in 0..idle {
        let address = if n % 2 == 0 { authority(node) } else { &node.tcp };
        let stream = TcpStream::connect(address).await;
        let mut stream = stream.unwrap_or_else(|e| panic!("connection {n} of {idle}: {e}"));
        // A third sends a part of a request and then nothing more.
        if n % 3 == 0 {
            let part: &[u8] = if n % 2 == 0 {
                b"PUT /v1/kv/half HTTP/1.1\r\nhost: x\r\ncontent-le"
            } else {
                b"*3\r\n$3\r\nSET\r\n$4\r\nhal"
            };
            stream.write_all(part).await.expect("the node reads");
        }
        open.push(stream);
    }
    let grown = node.resident_bytes().saturating_sub(before);
    println!("{idle} connections took {} KiB of memory", grown >> 10);
    assert!(grown < (idle as u64) * CONNECTION_BYTES_MAX, "{grown} bytes for {idle} connections");
    // One that sends a byte at a time is served in the end.
    let mut slow = node.redis().await;
    for byte in b"*1\r\n$4\r\nPING\r\n" {
        slow.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(slow.reply().await, Resp::Simple("PONG".into()));
    good.end().await;
    drop(open);
    eventually("the connections are gone", || async {
        let info = cluster.leader().await.redis().await.call(&["INFO", "clients"]).await;
        let Resp::Bulk(text) = info else { return Err(format!("{info:?}")) };
        let text = String::from_utf8_lossy(&text).into_owned();
        let count = text
            .lines()
            .find_map(|l| l.trim().strip_prefix("connected_clients:"))
            .and_then(|v| v.parse::<usize>().ok());
        if count.is_some_and(|c| c < 10) { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(node.get("/v1/kv/half").await.status, 404, "half a request is none");
}

/// Connections of each sender of garbage, two to each port.
const CONNECTIONS: u64 = 300;

/// Of two frames, announced and believed. Hundreds are announced.
const GROWTH_MAX: u64 = 64 << 20;

/// Lines that strangers may add to the log, however often they come.
const LINES_MAX: usize = 100;

/// How strangers may begin, so that what follows reaches deeper: a request with a body, one in pieces, a command with long arguments, a value, a node of
/// this version with a frame of 32 MiB.
const OPENINGS: [&[u8]; 6] = [
    b"",
    b"PUT /v1/kv/garbage HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n",
    b"POST /write HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfffffff\r\n",
    b"*1024\r\n$1048576\r\n",
    b"SET garbage ",
    b"qrpeer\x01\x00\x00\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00\x00\x01\x01\x00\x00",
];

/// Connects again and again, sends noise, and does not listen; how many bytes were taken.
async fn garbage(address: String, seed: u64) -> u64 {
    let mut dice = Dice::new(seed);
    let noise: Vec<u8> = (0..64 << 10).map(|_| dice.below(256) as u8).collect();
    let mut bytes = 0;
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(&address).await.expect("somebody listens");
        let opening = OPENINGS[dice.below(OPENINGS.len() as u64) as usize];
        let from = dice.below(noise.len() as u64) as usize;
        for piece in [opening, &noise[from..]].into_iter().flat_map(|part| part.chunks(8 << 10)) {
            // A node that has heard enough closes the connection.
            if stream.write_all(piece).await.is_err() {
                break;
            }
            bytes += piece.len() as u64;
        }
        // Some stay for a moment, the others are gone before anyone has read what they sent.
        if dice.percent(20) {
            let _ = tokio::time::timeout(Duration::from_millis(20), stream.readable()).await;
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_at_all_three_ports_while_writes_go_on_hurts_neither_other_clients_nor_memory() {
    // Beside the senders, unoptimized and on a processor that others want, a leader may be silent for a second or two: that is not what this is about.
    let cluster = Setup::new(3, 2).elections_after(10).start().await;
    cluster.all_ready().await;
    let node = cluster.leader().await;
    let term = node.status().await.term;
    let good = WellBehaved::start(&cluster, node);
    let (before, lines) = (node.resident_bytes(), node.log().lines().count());
    let ports = [authority(node), &node.tcp, &node.peer];
    let senders: Vec<_> = (0..6).map(|n| tokio::spawn(garbage(ports[n % 3].to_owned(), n as u64))).collect();
    let mut most = 0;
    while !senders.iter().all(tokio::task::JoinHandle::is_finished) {
        most = most.max(node.resident_bytes());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (n, sender) in senders.into_iter().enumerate() {
        let bytes = sender.await.expect("it only sends");
        println!("garbage at {}: {CONNECTIONS} connections, {bytes} bytes", ports[n % 3]);
        assert!(bytes > 1 << 20, "{bytes} bytes are too little to prove anything");
    }
    good.end().await;
    let (grown, added) = (most.saturating_sub(before), node.log().lines().count() - lines);
    println!("memory grew by {} KiB, the log by {added} lines", grown >> 10);
    assert!(grown < GROWTH_MAX, "{grown} bytes");
    assert!(added < LINES_MAX, "{}", node.log_tail());
    let now = cluster.leader().await;
    assert_eq!((&now.name, now.status().await.term), (&node.name, term), "nobody lost leadership over it");
    assert_eq!(node.redis().await.call(&["PING"]).await, Resp::Simple("PONG".into()));
    node.get("/v1/kv/well-behaved").await.expect(200);
    cluster.converged().await;
}
