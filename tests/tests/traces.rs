//! Traces of writes, from nodes built with the feature `otel` to a receiver that speaks OTLP over HTTP: `make traces`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something fails")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use quorate_tests::{Answer, Cluster, Setup, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A collector: takes spans and keeps them.
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&spans);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept)));
            }
        });
        Collector { url, spans }
    }

    /// Spans of one trace, or of all, by a condition.
    fn spans(&self, which: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.spans.lock().expect("no test failed meanwhile").iter().filter(|s| which(s)).cloned().collect()
    }
}

/// Takes the requests of one connection.
async fn serve(stream: TcpStream, kept: Arc<Mutex<Vec<Value>>>) {
    let mut stream = BufReader::new(stream);
    while let Some((head, body)) = request(&mut stream).await {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
        assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        for resource in body["resourceSpans"].as_array().expect("resources") {
            let named = resource["resource"]["attributes"].as_array().expect("attributes");
            assert!(named.iter().any(|a| a["key"] == "service.name" && a["value"]["stringValue"] == "quorate"));
            let scopes = resource["scopeSpans"].as_array().expect("scopes").iter();
            let spans = scopes.flat_map(|s| s["spans"].as_array().expect("spans").clone());
            kept.lock().expect("no test failed meanwhile").extend(spans);
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(answer.as_bytes()).await.expect("answered");
    }
}

/// The next request of a connection: its head, and its body.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.expect("a length")];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().map(Vec::as_slice).unwrap_or_default();
    attributes.iter().find(|a| a["key"] == key).map_or(&Value::Null, |a| &a["value"])
}

fn nanos(span: &Value, end: &str) -> u128 {
    span[end].as_str().and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("no {end} in {span}"))
}

#[tokio::test]
async fn one_write_is_one_trace_from_the_request_through_every_copy() {
    let collector = Collector::start().await;
    let cluster: Cluster = Setup::new(3, 2).flag("--otlp-endpoint", &collector.url).start().await;
    cluster.all_ready().await;
    let follower = cluster.follower().await;
    let put = follower.request(Method::PUT, "/v1/kv/k").header("x-request-id", "order-17").body("v");
    let revision = Answer::of(put).await.expect(200).header("x-quorate-revision").to_owned();
    assert!(!follower.log().contains("order-17"), "the log is as it was: its filter is its own");

    let of_request = |s: &Value| attribute(s, "quorate.request_id") == &json!({"stringValue": "order-17"});
    let request = eventually("the request is traced", || async {
        collector.spans(of_request).pop().ok_or_else(|| format!("{} spans", collector.spans(|_| true).len()))
    })
    .await;
    assert_eq!(attribute(&request, "quorate.revision")["stringValue"], revision.as_str(), "{request}");
    assert_eq!(attribute(&request, "quorate.node")["stringValue"], follower.name.as_str());
    assert!(nanos(&request, "startTimeUnixNano") < nanos(&request, "endTimeUnixNano"), "{request}");
    let trace = request["traceId"].as_str().expect("a trace").to_owned();

    let names: BTreeSet<String> = cluster.nodes.iter().map(|n| n.name.clone()).collect();
    let copies = eventually("every copy is traced", || async {
        let copies = collector.spans(|s| s["traceId"] == trace.as_str() && s["name"] == "copy");
        let nodes = copies.iter().filter_map(|s| attribute(s, "quorate.node")["stringValue"].as_str());
        let nodes: BTreeSet<String> = nodes.map(str::to_owned).collect();
        if nodes == names { Ok(copies) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    assert_eq!(copies.len(), 3, "{copies:?}");
    for copy in copies {
        assert_eq!(copy["parentSpanId"], request["spanId"], "{copy}");
        let parts = collector.spans(|s| s["parentSpanId"] == copy["spanId"]);
        let kinds: BTreeSet<&str> = parts.iter().filter_map(|s| s["name"].as_str()).collect();
        assert_eq!(kinds, ["apply", "commit", "sync"].into(), "{parts:?}");
        for part in &parts {
            let within = nanos(part, "startTimeUnixNano") >= nanos(&copy, "startTimeUnixNano")
                && nanos(part, "endTimeUnixNano") <= nanos(&copy, "endTimeUnixNano");
            assert!(within && part["traceId"] == trace.as_str(), "{part}: not within {copy}");
        }
    }
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_no_write_and_no_stop() {
    // A port that was free a moment ago.
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let mut cluster = Setup::new(1, 1).flag("--otlp-endpoint", &format!("http://{nobody}")).start().await;
    cluster.all_ready().await;
    for n in 0..50 {
        cluster.nodes[0].put("/v1/kv/k", n.to_string()).await.expect(200);
    }
    cluster.nodes[0].stop().await;
}
